"""Netdevs: list, make, change, delete (linux/if_link.h, linux/if.h, linux/veth.h)."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl import RTM_GETLINK, RTM_GETNSID
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOWER_UP, IFF_UP, ifinfmsg
from pyroute2.netlink.rtnl.nsidmsg import nsidmsg

from dataplane.netlink.messages import attributes, has_ipv6, text, tunnel_port, xdp_program
from dataplane.netlink.netns import in_scratch
from dataplane.netlink.rtnl import KernelError, Rtnl

_RTEXT_FILTER_SKIP_STATS = 8  # linux/rtnetlink.h
_NSID_NOT_ASSIGNED = 0xFFFFFFFF  # -1 (linux/net_namespace.h), which pyroute2 reads without its sign
_OPER_UP = 6  # linux/if.h, IF_OPER_UP
_STATES = {True: "up", False: "down", None: None}


@dataclass(frozen=True, slots=True)
class Netdev:
    """A netdev as the kernel describes it; ``mtu`` in bytes, ``up`` is its administrative state.

    ``running``: it sends, too, which the kernel lets it some time after it has a ``carrier``.
    ``peer`` is the ifindex of a veth's other end, in the namespace that this namespace knows by
    the number ``peer_nsid`` (None: this very namespace). ``ipv6`` is False with disable_ipv6=1.
    ``xdp`` is the id of the XDP program in its driver, ``udp_port`` where a tunnel receives.
    """

    ifindex: int
    name: str
    kind: str
    mac: str
    mtu: int
    up: bool
    running: bool
    carrier: bool
    alias: str
    group: int
    ipv6: bool
    peer: int | None
    peer_nsid: int | None
    xdp: int | None
    udp_port: int | None


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """A netdev to be made; ``mtu`` in bytes; without ``mac`` the kernel draws one.

    ``netns`` is the descriptor of the network namespace it is made in, None: the socket's own.
    ``group`` marks it from its first moment on; an alias can only be given later.
    """

    name: str
    mtu: int | None = None
    mac: str | None = None
    group: int = 0
    netns: int | None = None


@dataclass(frozen=True, slots=True)
class LinkChange:
    """What to change of a netdev; None: leave it. ``controller`` is the ifindex of a bridge.

    ``netns`` is the descriptor of the namespace to move it to, where it arrives down and without
    addresses; ``name`` is what it is called from then on.
    """

    up: bool | None = None
    mtu: int | None = None
    mac: str | None = None
    alias: str | None = None
    controller: int | None = None
    name: str | None = None
    netns: int | None = None


def find(rtnl: Rtnl, name: str) -> Netdev | None:
    """Return the netdev of that name, None if there is none. Raises KernelError."""
    question = _question()
    question["attrs"].append(("IFLA_IFNAME", name))
    return _get(rtnl, question, f"look up netdev {name}")


def at(rtnl: Rtnl, ifindex: int) -> Netdev | None:
    """Return the netdev of that number, None if there is none. Raises KernelError."""
    question = _question()
    question["index"] = ifindex
    return _get(rtnl, question, f"look up netdev {ifindex}")


def every(rtnl: Rtnl) -> tuple[Netdev, ...]:
    """Return every netdev of the Rtnl's namespace. Raises KernelError."""
    return tuple(_netdev(each) for each in rtnl.dump(RTM_GETLINK, _question(), "list netdevs"))


def create(rtnl: Rtnl, spec: LinkSpec, kind: str) -> None:
    """Make a netdev of ``kind`` ("bridge", "dummy"), down. Raises KernelError."""
    with rtnl.doing(f"make {kind} {spec.name}") as ip:
        ip.link("add", kind=kind, **_words(spec))


def create_veth(rtnl: Rtnl, spec: LinkSpec, peer: LinkSpec) -> None:
    """Make both ends of a veth pair, down, each in its namespace, in one step.

    Raises KernelError; EEXIST if either name is taken, and then neither end is made.
    """
    with rtnl.doing(f"make veth pair {spec.name}, {peer.name}") as ip:
        ip.link("add", kind="veth", peer=_words(peer), **_words(spec))


def has_tunnels(kind: str) -> bool:
    """Say whether the kernel can make a tunnel of ``kind`` ("geneve", "vxlan"); loads its module.

    It makes one as Open vSwitch does (IFLA_GENEVE_COLLECT_METADATA), where nobody sees it. Raises
    KernelError, NetnsError.
    """

    def make() -> None:
        with Rtnl() as rtnl, rtnl.doing(f"make a {kind} tunnel") as ip:
            ip.link("add", kind=kind, ifname="tunnel", **{f"{kind}_collect_metadata": True})

    try:
        in_scratch(make)
    except KernelError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        return False
    return True


def change(rtnl: Rtnl, ifindex: int, wanted: LinkChange) -> None:
    """Make ``wanted`` true of a netdev. Raises KernelError; ENODEV if it is gone."""
    words = {
        "state": _STATES[wanted.up],
        "mtu": wanted.mtu,
        "address": wanted.mac,
        "ifalias": wanted.alias,
        "master": wanted.controller,
        "ifname": wanted.name,
        "net_ns_fd": wanted.netns,
    }
    with rtnl.doing(f"change netdev {ifindex} to {wanted}") as ip:
        ip.link("set", index=ifindex, **_given(words))


def delete(rtnl: Rtnl, ifindex: int) -> None:
    """Delete a netdev, a veth with its other end; gone already is success. Raises KernelError."""
    try:
        with rtnl.doing(f"delete netdev {ifindex}") as ip:
            ip.link("del", index=ifindex)
    except KernelError as error:
        if error.errno != errno.ENODEV:
            raise


def nsid(rtnl: Rtnl, netns: int) -> int | None:
    """Return the number by which the Rtnl's namespace knows another one, given its descriptor.

    None if it does not know it, so that no veth of ours leads there. Raises KernelError.
    """
    question = nsidmsg()
    question["attrs"] = [("NETNSA_FD", netns)]
    answer = rtnl.get(RTM_GETNSID, question, "look up the id of a network namespace")
    number: int = attributes(answer)["NETNSA_NSID"]
    return number if number != _NSID_NOT_ASSIGNED else None


def _question() -> ifinfmsg:
    question = ifinfmsg()
    question["attrs"] = [("IFLA_EXT_MASK", _RTEXT_FILTER_SKIP_STATS)]
    return question


def _get(rtnl: Rtnl, question: ifinfmsg, what: str) -> Netdev | None:
    try:
        return _netdev(rtnl.get(RTM_GETLINK, question, what))
    except KernelError as error:
        if error.errno == errno.ENODEV:
            return None
        raise


def _netdev(message: nlmsg) -> Netdev:
    found = attributes(message)
    info = attributes(found["IFLA_LINKINFO"]) if "IFLA_LINKINFO" in found else {}
    kind = text(info.get("IFLA_INFO_KIND", b""))
    return Netdev(
        ifindex=message["index"],
        name=text(found["IFLA_IFNAME"]),
        kind=kind,
        mac=found.get("IFLA_ADDRESS", ""),
        mtu=found["IFLA_MTU"],
        up=bool(message["flags"] & IFF_UP),
        running=found.get("IFLA_OPERSTATE") == _OPER_UP,
        carrier=bool(message["flags"] & IFF_LOWER_UP),
        alias=text(found.get("IFLA_IFALIAS", b"")),
        group=found.get("IFLA_GROUP", 0),
        ipv6=has_ipv6(found.get("IFLA_AF_SPEC", b"")),
        peer=found.get("IFLA_LINK"),
        peer_nsid=found.get("IFLA_LINK_NETNSID"),
        xdp=xdp_program(found.get("IFLA_XDP", b"")),
        udp_port=tunnel_port(kind, info.get("IFLA_INFO_DATA", b"")),
    )


def _words(spec: LinkSpec) -> dict[str, Any]:
    words = {
        "ifname": spec.name,
        "mtu": spec.mtu,
        "address": spec.mac,
        "group": spec.group,
        "net_ns_fd": spec.netns,
    }
    return _given(words)


def _given(words: dict[str, Any]) -> dict[str, Any]:
    return {word: value for word, value in words.items() if value is not None}
