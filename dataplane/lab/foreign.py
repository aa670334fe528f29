"""Nodes we did not write: the Linux kernel's VXLAN device, and an Open vSwitch wired by hand.

Both are set up with the commands a person would type, through none of our own adapters: what they
agree with us about, they agree about as strangers.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from dataplane.core.errors import OverweaveError
from dataplane.core.model import IpAddress
from dataplane.lab.layout import LabPaths
from dataplane.lab.probes import Station
from dataplane.lab.underlay import NIC, ensure_namespace
from dataplane.netlink import netns
from ovs_client.daemons import OvsInstance, Place, find_program, run
from ovs_client.ofctl import Flow, OpenFlowBridge
from ovs_client.unixctl import Unixctl

_INT, _PHY = "br-int", "br-phy"
_PREFERENCE = "7"  # of our tc filters: any but Overweave's 100
_IFNAME = "eth0"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What both ends must agree on: ``kind`` geneve or vxlan, the VNI, the UDP destination port."""

    kind: str
    vni: int
    port: int


@dataclass(frozen=True, slots=True)
class Guest:
    """A pod of a foreign node; ``ips`` with their prefix lengths, ``mtu`` in bytes."""

    name: str
    mac: str
    ips: tuple[str, ...]
    mtu: int


def run_kernel_vxlan(paths: LabPaths, node: str, tunnel: Tunnel, ends: Sequence[IpAddress]) -> str:
    """Make a bridge with the kernel's VXLAN device in ``node``; return the bridge's name.

    ``ends`` are its own VTEP, then those it floods to. MACs are learned from what arrives.
    """
    space = paths.netns(node)
    bridge, device = f"br{tunnel.vni}", f"vx{tunnel.vni}"
    local, *remotes = ends
    ip(space, "link", "add", bridge, "type", "bridge")
    ip(space, "link", "set", bridge, "up")
    words = ["id", str(tunnel.vni), "dstport", str(tunnel.port), "local", str(local)]
    if local.version == 6:
        # RFC 6935: zero is what Overweave sends, and what this end must be told to accept.
        words += ["udp6zerocsumtx", "udp6zerocsumrx"]
    ip(space, "link", "add", device, "type", "vxlan", *words)
    ip(space, "link", "set", device, "master", bridge, "up")
    for remote in remotes:
        entry = ["fdb", "append", "00:00:00:00:00:00", "dev", device, "dst", str(remote)]
        _command(["nsenter", f"--net={space}", "bridge", *entry])
    return bridge


def plug_guest(paths: LabPaths, node: str, guest: Guest, bridge: str) -> Station:
    """Make a pod's namespace and plug it into a Linux bridge of ``node``."""
    port = f"v{guest.name}"[:15]
    station = _make_guest(paths, node, guest, port)
    ip(paths.netns(node), "link", "set", port, "master", bridge)
    return station


def remove_guest(paths: LabPaths, guest: Guest) -> None:
    """Take a guest's namespace away, and its cable with it."""
    netns.delete(paths.netns(guest.name).name)


class PlainOvs:
    """An Open vSwitch of somebody else on ``node``: br-int, a tunnel port for each peer, learning.

    Its userspace datapath hangs on the node's NIC by tc u32 and mirred alone.
    """

    def __init__(self, paths: LabPaths, node: str, tunnel: Tunnel) -> None:
        """Prepare it in a directory of its own; nothing runs before ``start``."""
        self._paths = paths
        self._node = node
        self._tunnel = tunnel
        self._space = paths.netns(node)
        directory = paths.directory / f"{node}-foreign"
        self.instance = OvsInstance(Place(directory, directory, self._space))

    def start(self, own: Sequence[str]) -> None:
        """Start it and hang it on the NIC; ``own`` are the NIC's addresses with prefix lengths."""
        self.instance.start()
        bridge = ["datapath_type=netdev", f"other-config:hwaddr={_quoted(self._mac_of(NIC))}"]
        self._vsctl("add-br", _INT, "--", "set", "bridge", _INT, "datapath_type=netdev")
        self._step_aside()
        self._vsctl("add-br", _PHY, "--", "set", "bridge", _PHY, "fail_mode=secure", *bridge)
        self._vsctl(*_port(_PHY, "fphy0", "type=internal", "ofport_request=1"))
        self._flows()
        ip(self._space, "link", "set", "fphy0", "up")
        for address in own:
            length = [] if ":" not in address else ["nodad"]
            ip(self._space, "address", "add", address, "dev", _PHY, *length, "noprefixroute")
        self._tc_clsact(NIC)
        self._tc_clsact("fphy0")
        for family in ("ip", "ipv6"):
            self._tc_redirect("fphy0", family, (), NIC)
            self._tc_redirect(NIC, family, self._match(family), "fphy0")

    def connect(self, peers: Mapping[IpAddress, str]) -> None:
        """Make a tunnel port to each peer, whose MAC on the underlay is given."""
        switch = Unixctl(self.instance.place.directory)
        switch.call("tnl/neigh/aging", "3600")
        for number, (peer, mac) in enumerate(peers.items()):
            name, length = f"t{number}", peer.max_prefixlen
            options = (f"options:remote_ip={_quoted(str(peer))}", f"options:key={self._tunnel.vni}")
            port = f"options:dst_port={self._tunnel.port}"
            # Protected ports do not forward to each other: the split horizon of a full mesh.
            self._vsctl(*_port(_INT, name, f"type={self._tunnel.kind}", *options, port))
            self._vsctl("set", "port", name, "protected=true")
            switch.call("ovs/route/add", f"{peer}/{length}", _PHY)
            switch.call("tnl/neigh/set", _PHY, str(peer), mac)

    def plug_guest(self, guest: Guest) -> Station:
        """Make a pod on this node: veth and internal port, joined by mirred."""
        veth, port = f"v{guest.name}"[:15], f"i{guest.name}"[:15]
        station = _make_guest(self._paths, self._node, guest, veth)
        self._vsctl(*_port(_INT, port, "type=internal", f"mtu_request={guest.mtu}"))
        ip(self._space, "link", "set", port, "up")
        for source, target in ((veth, port), (port, veth)):
            self._tc_clsact(source)
            self._tc_redirect(source, "all", (), target)
        return station

    def stop(self) -> None:
        """End it with its devices."""
        self.instance.stop(cleanup=True)

    def _step_aside(self) -> None:
        """Free the name of the datapath's own tap, which every userspace instance wants."""
        ip(self._space, "link", "set", "ovs-netdev", "name", "fovs-netdev")

    def _flows(self) -> None:
        socket = self.instance.place.directory / f"{_PHY}.mgmt"
        there = [Flow(0, 1, "in_port=1", "LOCAL"), Flow(0, 1, "in_port=LOCAL", "output:1")]
        OpenFlowBridge(socket).apply_bundle(there, ())

    def _match(self, family: str) -> Sequence[str]:
        key = "ip" if family == "ip" else "ip6"
        port = ["match", key, "dport", str(self._tunnel.port), "0xffff"]
        return ["match", key, "protocol", "17", "0xff", *port]

    def _tc_clsact(self, device: str) -> None:
        self._tc("qdisc", "replace", "dev", device, "clsact")

    def _tc_redirect(self, device: str, protocol: str, match: Sequence[str], target: str) -> None:
        preference = _PREFERENCE if protocol != "ipv6" else str(int(_PREFERENCE) + 1)
        place = ["dev", device, "ingress", "protocol", protocol, "pref", preference, "u32"]
        matching = match or ["match", "u32", "0", "0"]
        action = ["action", "mirred", "egress", "redirect", "dev", target]
        self._tc("filter", "add", *place, *matching, *action)

    def _tc(self, *words: str) -> None:
        _command(["tc", "-n", self._space.name, *words])

    def _mac_of(self, device: str) -> str:
        return mac_of(self._space, device)

    def _vsctl(self, *words: str) -> None:
        run([find_program("ovs-vsctl"), f"--db={self.instance.remote}", "--timeout=10", *words])


def mac_of(space: Path, device: str) -> str:
    """Return the MAC of a netdev in a namespace."""
    shown = _command(["ip", "-n", space.name, "-br", "link", "show", "dev", device])
    return shown.split()[2]


def ip(space: Path, *words: str) -> None:
    """Run the command ip in a namespace. Raises OverweaveError with its words."""
    _command(["ip", "-n", space.name, *words])


def _make_guest(paths: LabPaths, node: str, guest: Guest, port: str) -> Station:
    """Make a namespace with an interface whose other end is ``port`` on ``node``, up."""
    space = paths.netns(guest.name)
    ensure_namespace(space)
    mtu = ["mtu", str(guest.mtu)]
    peer = ["peer", "name", _IFNAME, "netns", space.name, "address", guest.mac, *mtu]
    ip(paths.netns(node), "link", "add", port, *mtu, "type", "veth", *peer)
    ip(paths.netns(node), "link", "set", port, "up")
    ip(space, "link", "set", _IFNAME, "up")
    for address in guest.ips:
        ip(space, "address", "add", address, "dev", _IFNAME, *(["nodad"] if ":" in address else []))
    addresses = tuple(ip_interface(address).ip for address in guest.ips)
    return Station(guest.name, space, _IFNAME, guest.mac, addresses, guest.mtu)


def _port(bridge: str, name: str, *columns: str) -> list[str]:
    return ["add-port", bridge, name, "--", "set", "interface", name, *columns]


def _quoted(text: str) -> str:
    return f'"{text}"'


def _command(words: Sequence[str]) -> str:
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode:
        raise OverweaveError(f"{' '.join(words)}: {result.stderr.strip()}")
    return result.stdout
