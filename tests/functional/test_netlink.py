"""dataplane.netlink against the running kernel."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from pyroute2.netlink import NLM_F_REQUEST, nla
from pyroute2.netlink.rtnl import RTM_GETADDR, RTM_GETLINK
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ifinfmsg.plugins.geneve import geneve
from pyroute2.netlink.rtnl.ifinfmsg.plugins.vxlan import vxlan

from bpf import syscalls
from bpf.syscalls import Program
from dataplane.core.errors import OverweaveError
from dataplane.core.events import Event, Link, LinksChanged
from dataplane.netlink import addresses, links, netns, routes, sysctl, tc, udp
from dataplane.netlink.links import LinkChange, LinkSpec
from dataplane.netlink.messages import tunnel_port
from dataplane.netlink.monitor import LinkFeed
from dataplane.netlink.netns import Netns, NetnsError, NetnsGoneError
from dataplane.netlink.overheard import Overheard
from dataplane.netlink.rtnl import KernelError, Rtnl, within
from dataplane.netlink.tc import BpfFilter, Slot
from tests.functional.namespaces import (
    ip,
    name_of,
    namespace,
    rtnl_in,
    run,
    shown,
    wait_until,
)

# linux/bpf.h: BPF_PROG_LOAD, BPF_PROG_TYPE_SCHED_CLS, and the instructions of "return -1"
_PROG_LOAD = 5
_SCHED_CLS = 3
_RETURN_UNSPEC = struct.pack("=BBhiBBhi", 0xB7, 0, 0, -1, 0x95, 0, 0, 0)


@pytest.fixture
def space() -> Iterator[Netns]:
    with namespace() as made:
        yield made


@pytest.fixture
def rtnl(space: Netns) -> Iterator[Rtnl]:
    with rtnl_in(space) as opened:
        yield opened


def ifindex(rtnl: Rtnl, name: str) -> int:
    found = links.find(rtnl, name)
    assert found is not None
    return found.ifindex


def netdev(rtnl: Rtnl, name: str = "d0") -> int:
    """Make a netdev with carrier: a veth whose other end, NAMEp, is in the same namespace."""
    links.create_veth(rtnl, LinkSpec(name), LinkSpec(f"{name}p"))
    for each in (f"{name}p", name):
        links.change(rtnl, ifindex(rtnl, each), LinkChange(up=True))
    return ifindex(rtnl, name)


# ---- netns


def test_made_namespace_is_what_ip_netns_makes(space: Netns) -> None:
    assert name_of(space) in run("ip", "netns", "list").split()
    assert run("ip", "netns", "exec", name_of(space), "true") == ""
    assert space.inode == Path(space.path).stat().st_ino
    assert space.inode != Path("/proc/self/ns/net").stat().st_ino


def test_namespace_of_ip_netns_opens() -> None:
    name = f"owtest-{os.getpid()}-byip"
    run("ip", "netns", "add", name)
    try:
        with Netns(f"/run/netns/{name}") as opened:
            assert opened.run(lambda: [each[1] for each in socket.if_nameindex()]) == ["lo"]
    finally:
        netns.delete(name)
    assert not netns.named(name).exists()


def test_second_namespace_of_a_name_is_refused(space: Netns) -> None:
    with pytest.raises(NetnsError, match=f"{name_of(space)} exists already"):
        netns.create(name_of(space))
    assert netns.named(name_of(space)).exists()


def test_delete_repeats_and_takes_a_half_made_name() -> None:
    name = f"owtest-{os.getpid()}-half"
    netns.delete(name)
    netns.named(name).touch()
    netns.delete(name)
    assert not netns.named(name).exists()


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "-a", ".x", "n" * 65, "a\0b"])
def test_bad_name_is_refused(name: str) -> None:
    with pytest.raises(NetnsError, match="is not 1-64"):
        netns.create(name)


def _symlink(directory: Path, space: Netns) -> str:
    link = directory / "link"
    link.symlink_to(space.path)
    return str(link)


def _fifo(directory: Path, _space: Netns) -> str:
    os.mkfifo(directory / "fifo")
    return str(directory / "fifo")


def _plain(directory: Path, _space: Netns) -> str:
    (directory / "plain").write_text("no namespace")
    return str(directory / "plain")


@pytest.mark.parametrize(
    ("path", "error", "words"),
    [
        pytest.param(lambda d, _: str(d / "gone"), NetnsGoneError, "does not exist", id="missing"),
        pytest.param(
            lambda *_: "/proc/4194305/ns/net", NetnsGoneError, "does not exist", id="dead-pid"
        ),
        pytest.param(_plain, NetnsError, "is not a network namespace", id="plain-file"),
        pytest.param(lambda d, _: str(d), NetnsError, "is not a network namespace", id="directory"),
        pytest.param(_fifo, NetnsError, "is not a network namespace", id="fifo"),
        pytest.param(lambda *_: "/dev/null", NetnsError, "is not a network namespace", id="device"),
        pytest.param(_symlink, NetnsError, "it is a symbolic link", id="symlink"),
        pytest.param(
            lambda *_: "/proc/self/ns/uts", NetnsError, "it is a symbolic link", id="uts-link"
        ),
        pytest.param(lambda *_: "a\0b", NetnsError, "cannot be a path", id="nul"),
        pytest.param(lambda d, _: str(d) + "x" * 300, NetnsError, "too long", id="too-long"),
    ],
)
def test_what_is_no_network_namespace_is_refused(
    path: Callable[[Path, Netns], str],
    error: type[NetnsError],
    words: str,
    tmp_path: Path,
    space: Netns,
) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(error, match=words):
        Netns(path(tmp_path, space))
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_namespace_of_another_kind_is_refused(tmp_path: Path) -> None:
    mounted = tmp_path / "uts"
    mounted.touch()
    run("mount", "--bind", "/proc/self/ns/uts", str(mounted))
    try:
        with pytest.raises(NetnsError, match="is not a network namespace"):
            Netns(str(mounted))
    finally:
        run("umount", "--lazy", str(mounted))


def test_process_path_opens() -> None:
    with Netns(f"/proc/{os.getpid()}/ns/net") as opened:
        assert opened.inode == Path("/proc/self/ns/net").stat().st_ino


def test_run_is_inside_and_leaves_the_caller_outside(space: Netns) -> None:
    inode = space.run(lambda: Path("/proc/thread-self/ns/net").stat().st_ino)
    assert inode == space.inode
    assert Path("/proc/thread-self/ns/net").stat().st_ino != space.inode


def test_run_raises_what_the_function_raises(space: Netns) -> None:
    with pytest.raises(ZeroDivisionError):
        space.run(lambda: 1 // 0)


def test_open_namespace_outlives_its_name() -> None:
    with namespace() as made:
        with Netns(made.path) as opened:
            netns.delete(name_of(made))
            assert opened.run(lambda: [each[1] for each in socket.if_nameindex()]) == ["lo"]
        with pytest.raises(NetnsGoneError):
            Netns(made.path)


# ---- links


def test_veth_pair_is_made_in_two_namespaces_at_once(space: Netns, rtnl: Rtnl) -> None:
    with namespace() as pod:
        host = LinkSpec("vp1", 1400, group=7)
        peer = LinkSpec("eth0", 1300, "02:00:00:00:00:09", netns=pod.fd)
        links.create_veth(rtnl, host, peer)
        vp, eth = shown(space, "link", "show", "vp1")[0], shown(pod, "link", "show", "eth0")[0]
        assert (vp["mtu"], vp["group"]) == (1400, "7")
        assert (eth["mtu"], eth["address"]) == (1300, "02:00:00:00:00:09")
        assert "UP" not in vp["flags"] + eth["flags"]

        ours = links.find(rtnl, "vp1")
        theirs = within(pod, lambda inside: links.find(inside, "eth0"))
        assert ours is not None
        assert theirs is not None
        assert (ours.kind, ours.peer, ours.group) == ("veth", theirs.ifindex, 7)
        assert ours.peer_nsid == links.nsid(rtnl, pod.fd)


@pytest.mark.parametrize("taken", ["vp1", "eth0"])
def test_veth_pair_with_a_taken_name_makes_nothing(space: Netns, rtnl: Rtnl, taken: str) -> None:
    with namespace() as pod:
        ip(space if taken == "vp1" else pod, "link", "add", taken, "type", "bridge")
        with pytest.raises(KernelError, match="make veth pair vp1, eth0: File exists") as caught:
            links.create_veth(rtnl, LinkSpec("vp1"), LinkSpec("eth0", netns=pod.fd))
        assert caught.value.errno == errno.EEXIST
        left = [each["ifname"] for each in shown(space, "link") + shown(pod, "link")]
        assert sorted(left) == sorted(["lo", "lo", taken])


def test_unknown_namespace_has_no_id(rtnl: Rtnl) -> None:
    with namespace() as stranger:
        assert links.nsid(rtnl, stranger.fd) is None


def test_change_sets_what_it_names_and_nothing_else(space: Netns, rtnl: Rtnl) -> None:
    number = netdev(rtnl)
    mac = shown(space, "link", "show", "d0")[0]["address"]
    links.change(rtnl, number, LinkChange(mtu=1280, alias="overweave:x/eth0"))
    seen = shown(space, "link", "show", "d0")[0]
    assert (seen["mtu"], seen["ifalias"], seen["address"]) == (1280, "overweave:x/eth0", mac)
    assert "UP" in seen["flags"]
    links.change(rtnl, number, LinkChange(up=False, mac="02:00:00:00:00:77"))
    seen = shown(space, "link", "show", "d0")[0]
    assert "UP" not in seen["flags"]
    assert seen["address"] == "02:00:00:00:00:77"
    found = links.at(rtnl, number)
    assert found is not None
    assert (found.up, found.mac, found.mtu, found.alias) == (
        False,
        "02:00:00:00:00:77",
        1280,
        "overweave:x/eth0",
    )


def test_bridge_takes_a_port(space: Netns, rtnl: Rtnl) -> None:
    links.create(rtnl, LinkSpec("br0"), "bridge")
    links.change(rtnl, netdev(rtnl), LinkChange(controller=ifindex(rtnl, "br0")))
    assert shown(space, "link", "show", "d0")[0]["master"] == "br0"


def test_error_keeps_the_words_of_the_kernel(rtnl: Rtnl) -> None:
    number = netdev(rtnl)
    with pytest.raises(KernelError, match=r"Invalid argument \(mtu less than device minimum\)"):
        links.change(rtnl, number, LinkChange(mtu=1))


def test_delete_repeats(rtnl: Rtnl) -> None:
    number = netdev(rtnl)
    links.delete(rtnl, number)
    links.delete(rtnl, number)
    assert links.find(rtnl, "d0") is None
    assert links.at(rtnl, number) is None


def test_change_of_a_netdev_that_is_gone_says_so(rtnl: Rtnl) -> None:
    with pytest.raises(KernelError, match="netdev 999") as caught:
        links.change(rtnl, 999, LinkChange(up=True))
    assert caught.value.errno == errno.ENODEV


def test_listing_is_complete_beyond_one_datagram(space: Netns, rtnl: Rtnl) -> None:
    for number in range(50):
        netdev(rtnl, f"d{number}")
    listed = {netdev.ifindex: netdev.name for netdev in links.every(rtnl)}
    assert listed == {each["ifindex"]: each["ifname"] for each in shown(space, "link")}


def test_netdev_is_told_as_iproute2_tells_it(space: Netns, rtnl: Rtnl) -> None:
    """Netdevs of several kinds: what pyroute2 is not let to decode must not shift the rest."""
    with namespace() as pod:
        peer = LinkSpec("eth0", netns=pod.fd)
        links.create_veth(rtnl, LinkSpec("vp1", 1400, "02:00:00:00:00:09", 7), peer)
        links.create(rtnl, LinkSpec("br0", group=5), "bridge")
        ip(space, "tuntap", "add", "tun0", "mode", "tun")  # has no address
        ip(space, "link", "set", "vp1", "master", "br0", "alias", "överweave", "up")
        told = {each.name: each for each in links.every(rtnl)}
        asked = [links.find(rtnl, name) for name in told]
        as_shown = shown(space, "link")
    assert asked == list(told.values())
    assert sorted(told) == ["br0", "lo", "tun0", "vp1"]
    for seen in as_shown:
        found = told[seen["ifname"]]
        assert (found.ifindex, found.mtu) == (seen["ifindex"], seen["mtu"])
        assert found.up == ("UP" in seen["flags"])
        assert found.kind == seen.get("linkinfo", {}).get("info_kind", "")
        assert found.mac == (seen.get("address") or "")
        assert found.alias == seen.get("ifalias", "")
        assert found.group == (0 if seen["group"] == "default" else int(seen["group"]))
        assert (found.peer, found.peer_nsid) == (seen.get("link_index"), seen.get("link_netnsid"))


def test_rest_of_an_answer_that_nobody_waited_for_is_skipped(rtnl: Rtnl) -> None:
    netdev(rtnl)
    before = links.every(rtnl)
    question = ifinfmsg()
    question["index"] = 1
    rtnl._asker.put(question, RTM_GETLINK, NLM_F_REQUEST)
    assert links.every(rtnl) == before


def test_error_at_the_end_of_a_list_is_told(rtnl: Rtnl) -> None:
    """The kernel begins to list, and only then finds that there is no such netdev."""
    question = ifaddrmsg()
    question["index"] = 999
    with pytest.raises(KernelError, match="list them: No such device") as caught:
        rtnl.dump(RTM_GETADDR, question, "list them")
    assert caught.value.errno == errno.ENODEV


def between_datagrams(
    monkeypatch: pytest.MonkeyPatch, rtnl: Rtnl, happens: Callable[[], None]
) -> None:
    """Let something happen whenever one part of a list has come, and the rest has not."""
    receive = rtnl._asker.recv

    def receive_first(size: int) -> bytes:
        received: bytes = receive(size)
        happens()
        return received

    monkeypatch.setattr(rtnl._asker, "recv", receive_first, raising=False)


def test_list_that_changes_meanwhile_is_asked_for_again(
    rtnl: Rtnl, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_many(rtnl)
    first = iter([ifindex(rtnl, "d0")])
    between_datagrams(monkeypatch, rtnl, lambda: delete_all(rtnl, first))
    listed = {each.name for each in links.every(rtnl)}
    assert listed == {"lo", *(f"d{number}{end}" for number in range(1, 60) for end in ("", "p"))}


def delete_all(rtnl: Rtnl, numbers: Iterator[int]) -> None:
    for number in numbers:
        links.delete(rtnl, number)


def test_list_that_changes_always_is_an_error(rtnl: Rtnl, monkeypatch: pytest.MonkeyPatch) -> None:
    make_many(rtnl)
    names = (f"b{number}" for number in count())
    between_datagrams(
        monkeypatch, rtnl, lambda: links.create(rtnl, LinkSpec(next(names)), "bridge")
    )
    with pytest.raises(KernelError, match=r"list netdevs: .*changed while it was listed") as caught:
        links.every(rtnl)
    assert caught.value.errno == errno.EINTR


def make_many(rtnl: Rtnl) -> None:
    """Make so many netdevs that a list of them takes several datagrams."""
    for number in range(60):
        links.create_veth(rtnl, LinkSpec(f"d{number}"), LinkSpec(f"d{number}p"))


# ---- the Rtnl itself


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(lambda rtnl: links.find(rtnl, "lo"), id="ask"),
        pytest.param(links.every, id="list"),
        pytest.param(lambda rtnl: rtnl.close(), id="close"),
    ],
)
def test_another_thread_may_not_use_it(rtnl: Rtnl, use: Callable[[Rtnl], object]) -> None:
    """It would speak to the other thread's namespace, by a socket that nobody closes."""
    with namespace() as elsewhere:
        before = open_descriptors()
        with pytest.raises(RuntimeError, match="another thread"):
            elsewhere.run(lambda: use(rtnl))
        assert open_descriptors() == before
    assert links.find(rtnl, "lo") is not None


def test_it_stays_in_the_namespace_it_was_opened_in(rtnl: Rtnl) -> None:
    links.create(rtnl, LinkSpec("br0"), "bridge")
    with namespace() as elsewhere, rtnl_in(elsewhere):
        assert links.find(rtnl, "br0") is not None
        assert [each.name for each in links.every(rtnl)] == ["lo", "br0"]


def test_it_leaves_nothing_open(space: Netns) -> None:
    before = open_descriptors()
    names = within(space, lambda inside: [each.name for each in links.every(inside)])
    assert names == ["lo"]
    with pytest.raises(KernelError):
        within(space, lambda inside: links.change(inside, 999, LinkChange(up=True)))
    assert open_descriptors() == before


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_ipv6_is_seen_and_set(space: Netns, rtnl: Rtnl) -> None:
    number = netdev(rtnl)
    assert links.find(rtnl, "d0").ipv6  # type: ignore[union-attr]
    space.run(lambda: sysctl.set_ipv6("d0", "disable_ipv6", 1))
    assert not links.at(rtnl, number).ipv6  # type: ignore[union-attr]
    assert [each for each in shown(space, "-6", "addr") if each["ifname"] == "d0"] == []


@pytest.mark.parametrize(
    ("interface", "number"),
    [("nosuch", errno.ENOENT), ("../all", errno.EINVAL), ("..", errno.EINVAL)],
)
def test_switch_of_no_interface_is_an_error(space: Netns, interface: str, number: int) -> None:
    with pytest.raises(KernelError, match="disable_ipv6") as caught:
        space.run(lambda: sysctl.set_ipv6(interface, "disable_ipv6", 1))
    assert caught.value.errno == number


# ---- addresses and routes


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("10.0.0.5/20", {"prefixlen": 20, "broadcast": "10.0.15.255"}, id="ipv4"),
        pytest.param("10.0.0.5/31", {"prefixlen": 31}, id="ipv4-point-to-point"),
        pytest.param("10.0.0.5/32", {"prefixlen": 32, "noprefixroute": True}, id="ipv4-lent"),
        pytest.param("fd00::5/64", {"prefixlen": 64, "nodad": True}, id="ipv6"),
        pytest.param(
            "fd00::5/128",
            {"prefixlen": 128, "nodad": True, "noprefixroute": True},
            id="ipv6-lent",
        ),
    ],
)
def test_address_is_given_listed_and_taken(
    space: Netns, rtnl: Rtnl, text: str, expected: dict[str, object]
) -> None:
    number, interface = netdev(rtnl), ip_interface(text)
    prefix_route = "noprefixroute" not in expected
    addresses.replace(rtnl, number, interface, prefix_route=prefix_route)
    addresses.replace(rtnl, number, interface, prefix_route=prefix_route)
    (seen,) = (
        each
        for each in shown(space, "addr", "show", "d0")[0]["addr_info"]
        if each["local"] == str(interface.ip)
    )
    flags = ("prefixlen", "broadcast", "nodad", "noprefixroute")
    assert {flag: seen[flag] for flag in flags if flag in seen} == expected
    assert "tentative" not in seen
    (held,) = (each for each in addresses.of(rtnl, number) if each.interface == interface)
    assert (held.prefix_route, held.usable) == (prefix_route, True)
    assert held in addresses.every(rtnl)[number]
    addresses.delete(rtnl, number, interface)
    addresses.delete(rtnl, number, interface)
    assert interface not in [each.interface for each in addresses.of(rtnl, number)]


def test_address_under_duplicate_detection_is_not_usable(space: Netns, rtnl: Rtnl) -> None:
    number = netdev(rtnl)
    ip(space, "addr", "add", "fd00::7/64", "dev", "d0")
    held = addresses.of(rtnl, number)
    assert [each.usable for each in held if each.ip == ip_address("fd00::7")] == [False]


def test_point_to_point_address_is_our_own_end(space: Netns, rtnl: Rtnl) -> None:
    number = netdev(rtnl)
    ip(space, "addr", "add", "10.0.0.1", "peer", "10.0.0.2/32", "dev", "d0")
    assert ip_address("10.0.0.1") in [each.ip for each in addresses.of(rtnl, number)]


def test_addresses_are_those_of_one_netdev(rtnl: Rtnl) -> None:
    first, second = netdev(rtnl, "d0"), netdev(rtnl, "d1")
    for number, text in ((first, "10.0.0.5/24"), (second, "10.1.0.5/24")):
        addresses.replace(rtnl, number, ip_interface(text))
    held = [each.interface for each in addresses.of(rtnl, second) if each.ip.version == 4]
    assert held == [ip_interface("10.1.0.5/24")]
    assert addresses.of(rtnl, 999) == ()


@pytest.mark.parametrize(
    ("own", "destination", "gateway"),
    [
        ("10.0.0.5/24", "0.0.0.0/0", "10.0.0.1"),
        ("10.0.0.5/24", "10.9.0.0/16", None),
        ("fd00::5/64", "::/0", "fd00::1"),
        ("fd00::5/64", "fd09::/48", None),
    ],
)
def test_route_is_made_once_and_listed(
    space: Netns, rtnl: Rtnl, own: str, destination: str, gateway: str | None
) -> None:
    number = netdev(rtnl)
    addresses.replace(rtnl, number, ip_interface(own))
    via = ip_address(gateway) if gateway is not None else None
    route = routes.Route(number, ip_network(destination), via)
    routes.ensure(rtnl, route)
    routes.ensure(rtnl, route)
    assert routes.of(rtnl, number).count(route) == 1
    family = "-6" if ":" in destination else "-4"
    dst = "default" if destination.endswith("/0") else destination
    (seen,) = (each for each in shown(space, family, "route") if each["dst"] == dst)
    assert (seen["dev"], seen.get("gateway")) == ("d0", gateway)


def test_route_of_another_interface_wins(space: Netns, rtnl: Rtnl) -> None:
    first, second = netdev(rtnl, "d0"), netdev(rtnl, "d1")
    addresses.replace(rtnl, first, ip_interface("10.0.0.5/24"))
    addresses.replace(rtnl, second, ip_interface("10.1.0.5/24"))
    default = ip_network("0.0.0.0/0")
    routes.ensure(rtnl, routes.Route(first, default, ip_address("10.0.0.1")))
    routes.ensure(rtnl, routes.Route(second, default, ip_address("10.1.0.1")))
    assert [each["dev"] for each in shown(space, "route") if each["dst"] == "default"] == ["d0"]
    assert default in [route.destination for route in routes.of(rtnl, first)]
    theirs = [each for each in routes.of(rtnl, second) if each.destination.version == 4]
    assert theirs == [routes.Route(second, ip_network("10.1.0.0/24"))]


def test_route_out_of_several_netdevs_is_not_listed(space: Netns, rtnl: Rtnl) -> None:
    first, second = netdev(rtnl, "d0"), netdev(rtnl, "d1")
    addresses.replace(rtnl, first, ip_interface("10.0.0.5/24"))
    addresses.replace(rtnl, second, ip_interface("10.1.0.5/24"))
    hops = ("nexthop", "via", "10.0.0.1", "nexthop", "via", "10.1.0.1")
    ip(space, "route", "add", "10.9.0.0/16", *hops)
    listed = [each for each in routes.of(rtnl, first) if each.destination.version == 4]
    assert listed == [routes.Route(first, ip_network("10.0.0.0/24"))]


def test_route_by_an_unreachable_gateway_is_an_error(rtnl: Rtnl) -> None:
    route = routes.Route(netdev(rtnl), ip_network("0.0.0.0/0"), ip_address("10.0.0.1"))
    with pytest.raises(KernelError, match=r"make route 0.0.0.0/0 via 10.0.0.1 .*invalid gateway"):
        routes.ensure(rtnl, route)


# ---- tc


@pytest.fixture
def programs() -> Iterator[tuple[Program, Program]]:
    with load_program() as one, load_program() as other:
        yield one, other


def load_program() -> Program:
    """Load a tc program that lets everything pass on to the next filter."""
    code, licence = ctypes.create_string_buffer(_RETURN_UNSPEC), ctypes.create_string_buffer(b"GPL")
    where = (ctypes.addressof(code), ctypes.addressof(licence))
    attributes = struct.pack("=IIQQ", _SCHED_CLS, 2, *where)
    return Program(syscalls._bpf(_PROG_LOAD, attributes, "load a program")[0])


def tc_shown(space: Netns) -> list[dict[str, Any]]:
    output = run("tc", "-n", name_of(space), "-j", "filter", "show", "dev", "d0", "ingress")
    return [each for each in json.loads(output or "[]") if "options" in each]


def test_filter_is_attached_exchanged_and_detached(
    space: Netns, rtnl: Rtnl, programs: tuple[Program, Program]
) -> None:
    number = netdev(rtnl)
    slot = Slot(number)
    tc.ensure_clsact(rtnl, number)
    for program in programs:
        tc.replace_bpf(rtnl, slot, program.fd, "ow_test")
        expected = BpfFilter(slot, program.info.id, "ow_test", direct_action=True)
        assert tc.list_bpf(rtnl, number) == (expected,)
        (seen,) = tc_shown(space)
        assert (seen["pref"], seen["protocol"]) == (100, "all")
        options = seen["options"]
        assert (options["prog"]["id"], options["direct-action"]) == (program.info.id, True)
        assert (options["handle"], options["bpf_name"]) == ("0x1", "ow_test")
    tc.delete_bpf(rtnl, slot)
    tc.delete_bpf(rtnl, slot)
    assert tc.list_bpf(rtnl, number) == ()
    assert tc_shown(space) == []


def test_filter_outlives_the_descriptor_of_its_program(space: Netns, rtnl: Rtnl) -> None:
    number = netdev(rtnl)
    tc.ensure_clsact(rtnl, number)
    with load_program() as program:
        identity = program.info.id
        tc.replace_bpf(rtnl, Slot(number), program.fd, "ow_test")
    assert [found.program_id for found in tc.list_bpf(rtnl, number)] == [identity]


def test_filters_of_others_are_listed_and_left(
    space: Netns, rtnl: Rtnl, programs: tuple[Program, Program]
) -> None:
    number = netdev(rtnl)
    tc.ensure_clsact(rtnl, number)
    run(
        *("tc", "-n", name_of(space), "filter", "add", "dev", "d0", "ingress", "pref", "50"),
        *("protocol", "ip", "u32", "match", "u32", "0", "0", "classid", "1:1"),
    )
    theirs = Slot(number, preference=60, handle=7)
    tc.replace_bpf(rtnl, theirs, programs[0].fd, "theirs")
    tc.replace_bpf(rtnl, Slot(number), programs[1].fd, "ours")
    assert [found.name for found in tc.list_bpf(rtnl, number)] == ["theirs", "ours"]
    tc.ensure_clsact(rtnl, number)
    tc.delete_bpf(rtnl, Slot(number))
    assert [found.slot for found in tc.list_bpf(rtnl, number)] == [theirs]
    assert {each["pref"] for each in tc_shown(space)} == {50, 60}


def test_netdev_without_clsact_or_no_netdev_has_no_filters(rtnl: Rtnl) -> None:
    for number in (netdev(rtnl), 999):
        assert tc.list_bpf(rtnl, number) == ()
        tc.delete_bpf(rtnl, Slot(number))


def test_filter_without_clsact_is_an_error(rtnl: Rtnl, programs: tuple[Program, Program]) -> None:
    number = netdev(rtnl)
    with pytest.raises(KernelError, match=f"attach bpf program ow_test to netdev {number} ingress"):
        tc.replace_bpf(rtnl, Slot(number), programs[0].fd, "ow_test")


def test_older_ingress_qdisc_serves_as_well(
    space: Netns, rtnl: Rtnl, programs: tuple[Program, Program]
) -> None:
    number = netdev(rtnl)
    run("tc", "-n", name_of(space), "qdisc", "add", "dev", "d0", "ingress")
    tc.ensure_clsact(rtnl, number)
    tc.replace_bpf(rtnl, Slot(number), programs[0].fd, "ow_test")
    assert [found.slot for found in tc.list_bpf(rtnl, number)] == [Slot(number)]
    assert [each["pref"] for each in tc_shown(space)] == [100]


# ---- the feed


class Told:
    """What a feed has told: the links that exist, in the order and with the gaps it had them."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.links: dict[str, Link] = {}
        self.open = threading.Event()
        self.open.set()

    def post(self, event: Event) -> None:
        self.open.wait(20)
        self.events.append(event)
        assert isinstance(event, LinksChanged)
        for name in event.gone:
            del self.links[name]
        self.links |= {link.name: link for link in event.links}

    def waits_for(self, true: Callable[[dict[str, Link]], bool]) -> bool:
        return wait_until(lambda: true(dict(self.links)))


@pytest.fixture
def told(space: Netns) -> Iterator[Told]:
    told = Told()
    feed = LinkFeed()
    space.run(lambda: feed.start(told.post))
    yield told
    told.open.set()
    feed.stop()
    feed.stop()


def test_feed_tells_first_what_exists(space: Netns, rtnl: Rtnl) -> None:
    number = netdev(rtnl)
    addresses.replace(rtnl, number, ip_interface("10.0.0.5/24"))
    told, feed = Told(), LinkFeed()
    space.run(lambda: feed.start(told.post))
    try:
        assert told.waits_for(lambda seen: set(seen) == {"lo", "d0", "d0p"})
        assert told.links["d0"].ifindex == number
        assert told.links["d0"].up
        assert ip_address("10.0.0.5") in told.links["d0"].addresses
        assert len(told.events) == 1
    finally:
        feed.stop()
    assert not any(thread.name == "links" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        pytest.param("link set d0 mtu 1300", lambda link: link.mtu == 1300, id="mtu"),
        pytest.param("link set d0 down", lambda link: not link.up, id="down"),
        pytest.param(
            "link set d0 address 02:00:00:00:00:42",
            lambda link: link.mac == "02:00:00:00:00:42",
            id="mac",
        ),
        pytest.param(
            "addr add 10.0.0.6/24 dev d0",
            lambda link: (
                [str(ip) for ip in link.addresses if ip.version == 4] == ["10.0.0.5", "10.0.0.6"]
            ),
            id="second-address",
        ),
        pytest.param(
            "addr del 10.0.0.5/24 dev d0",
            lambda link: all(ip.version == 6 for ip in link.addresses),
            id="address-gone",
        ),
        pytest.param(
            "addr add fd00::6/64 dev d0",
            lambda link: ip_address("fd00::6") in link.addresses,
            id="address-after-its-detection",
        ),
    ],
)
def test_feed_tells_what_changes(
    space: Netns, rtnl: Rtnl, told: Told, words: str, expected: Callable[[Link], bool]
) -> None:
    addresses.replace(rtnl, netdev(rtnl), ip_interface("10.0.0.5/24"))
    assert told.waits_for(
        lambda seen: "d0" in seen and ip_address("10.0.0.5") in seen["d0"].addresses
    )
    assert not expected(told.links["d0"])
    ip(space, *words.split())
    assert told.waits_for(lambda seen: expected(seen["d0"]))


def test_feed_tells_no_address_whose_detection_failed(space: Netns, rtnl: Rtnl, told: Told) -> None:
    netdev(rtnl)
    # The other end holds the address and answers; told are only d0's own.
    with namespace() as other:
        ip(space, "link", "set", "d0p", "netns", name_of(other))
        ip(other, "link", "set", "d0p", "up")
        ip(other, "addr", "add", "fd00::7/64", "dev", "d0p", "nodad")
        ip(space, "addr", "add", "fd00::7/64", "dev", "d0")
        assert wait_until(lambda: "dadfailed" in str(shown(space, "addr", "show", "dev", "d0")))
        ip(space, "link", "set", "d0", "mtu", "1234")
        assert told.waits_for(lambda seen: "d0" in seen and seen["d0"].mtu == 1234)
    assert ip_address("fd00::7") not in [
        address
        for event in told.events
        if isinstance(event, LinksChanged)
        for link in event.links
        for address in link.addresses
    ]


@pytest.mark.parametrize("how", ["delete", "move", "rename"])
def test_feed_tells_what_goes(space: Netns, rtnl: Rtnl, told: Told, how: str) -> None:
    netdev(rtnl)
    assert told.waits_for(lambda seen: "d0" in seen)
    with namespace() as elsewhere:
        words = {
            "delete": ("link", "del", "d0"),
            "move": ("link", "set", "d0", "netns", name_of(elsewhere)),
            "rename": ("link", "set", "d0", "name", "d1"),
        }
        ip(space, *words[how])
        left = {"delete": {"lo"}, "move": {"lo", "d0p"}, "rename": {"lo", "d0p", "d1"}}[how]
        assert told.waits_for(lambda seen: set(seen) == left)


def test_port_that_leaves_its_bridge_is_not_gone(space: Netns, rtnl: Rtnl, told: Told) -> None:
    netdev(rtnl)
    ip(space, "link", "add", "br0", "type", "bridge")
    ip(space, "link", "set", "d0", "master", "br0")
    ip(space, "link", "set", "d0", "nomaster")
    ip(space, "link", "set", "d0", "mtu", "1234")
    assert told.waits_for(lambda seen: "d0" in seen and seen["d0"].mtu == 1234)
    assert all("d0" not in event.gone for event in told.events if isinstance(event, LinksChanged))


def test_feed_catches_up_after_lost_notifications(
    space: Netns, rtnl: Rtnl, told: Told, tmp_path: Path
) -> None:
    assert told.waits_for(lambda seen: "lo" in seen)
    told.open.clear()  # the reader hangs in its next event while the kernel's queue overflows
    batch = tmp_path / "batch"
    made = [f"link add d{number} type bridge" for number in range(50)]
    churn = [f"link set d{number} mtu {mtu}" for mtu in range(1000, 1030) for number in range(50)]
    gone = [f"link del d{number}" for number in range(25)]
    late = [f"link add e{number} mtu 1029 type bridge" for number in range(5)]
    batch.write_text("\n".join([*made, *churn, *gone, *late]))
    ip(space, "-batch", str(batch))
    lost = space.run(dropped_notifications)
    told.open.set()
    names = {"lo", *(f"d{number}" for number in range(25, 50)), *(f"e{n}" for n in range(5))}
    assert told.waits_for(lambda seen: set(seen) == names)
    assert told.waits_for(lambda seen: {seen[name].mtu for name in names - {"lo"}} == {1029})
    assert lost > 0, "nothing was lost: this test showed nothing"


def dropped_notifications() -> int:
    """Return how many datagrams the kernel did not deliver to subscribers of this process."""
    lines = Path("/proc/thread-self/net/netlink").read_text().splitlines()[1:]
    return sum(int(line.split()[8]) for line in lines)


# ---- udp


@pytest.mark.parametrize(
    ("words", "holder"),
    [
        pytest.param("vx7 type vxlan id 7 dstport 6081", "tunnel device vx7", id="theirs"),
        pytest.param("vxlan_sys_6081 type vxlan id 7 dstport 6081", None, id="open-vswitch"),
        pytest.param("vx7 type vxlan id 7 dstport 6082", None, id="another-port"),
    ],
)
def test_a_tunnel_device_has_a_udp_port(space: Netns, words: str, holder: str | None) -> None:
    name, *rest = words.split()
    ip(space, "link", "add", name, *rest)
    assert space.run(lambda: udp.holder(6081)) is None
    ip(space, "link", "set", name, "up")
    assert space.run(lambda: udp.holder(6081)) == holder


@pytest.mark.parametrize(
    ("kind", "encoder"), [("geneve", geneve), ("vxlan", vxlan)], ids=["geneve", "vxlan"]
)
def test_the_udp_port_of_a_tunnel_stands_where_pyroute2_writes_it(
    kind: str, encoder: type[nla]
) -> None:
    """Many kernels, as that of the lab, have no Geneve of their own to ask."""
    words = encoder()
    words["attrs"] = [(f"IFLA_{kind.upper()}_ID", 7), (f"IFLA_{kind.upper()}_PORT", 6081)]
    words.encode()
    assert tunnel_port(kind, bytes(words.data[4:])) == 6081
    assert tunnel_port("dummy", bytes(words.data[4:])) is None


def test_a_tunnel_device_with_another_udp_port_is_not_named(space: Netns) -> None:
    for name, port in (("vx7", "6081"), ("vx8", "6082"), ("vxlan_sys_6083", "6083")):
        ip(space, "link", "add", name, "type", "vxlan", "id", "7", "dstport", port)
        ip(space, "link", "set", name, "up")
    holders = {port: space.run(partial(udp.holder, port)) for port in (6081, 6082, 6083, 6084)}
    devices = {6081: "tunnel device vx7", 6082: "tunnel device vx8"}
    assert holders == {**devices, 6083: None, 6084: None}


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
def test_a_process_has_a_udp_port(space: Netns, family: socket.AddressFamily) -> None:
    with space.run(lambda: socket.socket(family, socket.SOCK_DGRAM)) as opened:
        opened.bind(("", 6081))
        holder = space.run(lambda: udp.holder(6081))
        assert holder is not None
        assert holder.startswith("process ")
        assert holder.endswith(f" ({os.getpid()})")
        assert udp.holder(6081) != holder  # it is in another namespace
    assert space.run(lambda: udp.holder(6081)) is None


# ---- what is overheard

ARP_REQUEST = bytes.fromhex("ffffffffffff02000000000108060001080006040001020000000001") + bytes(14)


def nd(kind: int, hops: int = 255, code: int = 58) -> bytes:
    ethernet = bytes.fromhex("33330000000102000000000186dd")
    ip6 = bytes.fromhex("600000000020") + bytes((code, hops)) + bytes(32)
    return ethernet + ip6 + bytes((kind,)) + bytes(31)


def test_arp_and_nd_are_overheard_and_nothing_else(space: Netns, rtnl: Rtnl) -> None:
    netdev(rtnl)
    heard = space.run(lambda: Overheard("d0"))
    tagged = ARP_REQUEST[:12] + bytes.fromhex("81000005") + ARP_REQUEST[12:]
    wanted = [ARP_REQUEST, nd(135), nd(136)]
    others = [tagged, nd(134), nd(135, hops=64), nd(135, code=17), b"\x02" * 12 + b"\x08\x00" * 20]

    def send(netdev: str, *frames: bytes) -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind((netdev, 0))
            for frame in frames:
                sender.send(frame)

    try:
        space.run(lambda: send("d0p", *others, *wanted, *others))
        space.run(lambda: send("d0", ARP_REQUEST))  # what it sends itself is not overheard
        frames = heard.frames(2) + heard.frames(100)
        assert [each for each in frames if each[6:12] == ARP_REQUEST[6:12]] == wanted
        assert heard.frames(100) == []
    finally:
        heard.close()


def test_who_is_not_there_cannot_be_overheard(space: Netns) -> None:
    with pytest.raises(OverweaveError, match="ARP of vp9 cannot be heard: No such device"):
        space.run(lambda: Overheard("vp9"))


def test_a_flood_that_nobody_reads_is_bounded(space: Netns, rtnl: Rtnl) -> None:
    netdev(rtnl)
    heard = space.run(lambda: Overheard("d0"))

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
            sender.bind(("d0p", 0))
            for _ in range(2000):
                sender.send(ARP_REQUEST)

    try:
        space.run(send)
        assert 8 < len(heard.frames(5000)) < 500
    finally:
        heard.close()
