"""The XDP program on real netdevs: what it drops there, who else may be there, and that it goes.

On a veth it is there only if forced; the node is that of test_bpf_target.py.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import socket
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from bpf import loader, syscalls
from bpf.bpffs import Pins
from bpf.layout import XDP_PROGRAM, decode_count, encode_counter_key
from bpf.loader import load
from bpf.syscalls import Program, open_map
from bpf.target import FastpathTarget, XdpItem
from dataplane import uninstall
from dataplane.core.desired import Bindings, Desired, Xdp
from dataplane.core.diff import diff
from dataplane.core.errors import PartlyRefusedError
from dataplane.core.events import Link
from dataplane.core.model import Family
from dataplane.core.reasons import Reason
from dataplane.core.xdp import VETH, XdpPlace, why_no_xdp
from dataplane.netlink import xdp
from dataplane.netlink.rtnl import Rtnl
from tests.functional.bpf_support import Tap, host_socket, mounted_bpffs, readable, run
from tests.functional.test_bpf_target import (
    FROM_WIRE,
    INSIDE,
    MARKER,
    NIC_MAC,
    NOTHING,
    ONE_PORT,
    OWN4,
    OWN6,
    PEER4,
    PEER6,
    SEGMENT,
    Node,
    send_until,
    to_geneve,
    to_vxlan,
    wired,
)

_PROG_LOAD, _XDP = 5, 6  # linux/bpf.h: BPF_PROG_LOAD, BPF_PROG_TYPE_XDP
_RETURN_PASS = struct.pack("=BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)

FORCED = replace(ONE_PORT, node=replace(ONE_PORT.node, xdp=Xdp.NATIVE))
OURS_ALONE = replace(FORCED, node=replace(FORCED.node, exclusive_ports=True))
OUTER4, OUTER6 = IP(src=PEER4, dst=OWN4), IPv6(src=PEER6, dst=OWN6)


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pins]:
    with mounted_bpffs(tmp_path_factory.mktemp("xdp") / "bpf") as bpffs:
        yield load(bpffs)


@contextmanager
def made_fit(pins: Pins) -> Iterator[Node]:
    """Make a node whose wire is short enough for a frame in one page."""
    with wired(pins) as made:
        for space, netdev in ((made.space, "nic0"), (made.ends, "wire0")):
            space.ip("link", "set", netdev, "mtu", "1500")
        with open_map(pins.map("counters")) as counters:
            for key, _ in list(counters.items()):
                counters.delete(key)
        yield made


@pytest.fixture
def node(pins: Pins) -> Iterator[Node]:
    with made_fit(pins) as made:
        yield made


def shown(node: Node, netdev: str = "nic0") -> dict[str, Any]:
    """Return what iproute2 says of XDP on a netdev, empty if nothing is there."""
    text = run("ip", "-netns", node.space.name, "-j", "-d", "link", "show", "dev", netdev)
    found: dict[str, Any] = json.loads(text)[0].get("xdp", {})
    return found


def is_native(node: Node, netdev: str = "nic0") -> bool:
    """Say whether our program, and no other, is in the driver."""
    found = shown(node, netdev)
    return bool(found) and (found["mode"], found["prog"]["name"]) == (1, XDP_PROGRAM)


def counted(node: Node, reason: Reason) -> int:
    with open_map(node.pins.map("counters")) as counters:
        value = counters.lookup(encode_counter_key(node.space.ifindex("nic0"), reason))
    return 0 if value is None else decode_count(value)


def damaged(**fields: object) -> Packet:
    ip = OUTER4.copy()
    for name, value in fields.items():
        setattr(ip, name, value)
    return ip / to_geneve()


MALFORMED = [
    pytest.param(damaged(chksum=0x1234), id="ipv4-checksum"),
    pytest.param(damaged(len=900), id="cut-ipv4"),
    pytest.param(OUTER6.__class__(src=PEER6, dst=OWN6, plen=900) / to_geneve(), id="cut-ipv6"),
    pytest.param(OUTER4 / UDP(dport=6081) / MARKER[:8], id="nothing-inside"),
    pytest.param(
        OUTER4 / UDP(dport=6081) / GENEVE(version=1, vni=SEGMENT.vni) / INSIDE, id="version"
    ),
    pytest.param(
        OUTER4 / UDP(dport=4790) / (bytes(1) + bytes(to_vxlan(Family.IPV4).payload)[1:]),
        id="vxlan-without-vni",
    ),
]


@pytest.mark.parametrize("packet", MALFORMED)
def test_malformed_tunnel_packets_end_in_the_driver(node: Node, packet: Packet) -> None:
    node.converge(FORCED)
    assert is_native(node)
    with node.tap("wire0") as wire, node.tap("inphy") as ovs, Tap(node.space, "nic0") as nic:
        wire.send(bytes(FROM_WIRE / packet))
        assert not nic.received(MARKER[:8], 0.2)  # a packet socket sees it before tc does
        assert not ovs.received(MARKER[:8], 0)
    assert counted(node, Reason.DAMAGED) == 1


def test_what_a_promiscuous_nic_receives_for_another_mac_passes(node: Node) -> None:
    """It is for who listens there, whatever it looks like."""
    node.converge(OURS_ALONE)
    assert is_native(node)
    node.space.ip("link", "set", "nic0", "promisc", "on")
    for packet in (damaged(chksum=0x1234), IP(src="10.9.0.66", dst=OWN4) / to_geneve()):
        frame = bytes(Ether(src=FROM_WIRE.src, dst="02:00:00:00:00:77") / packet)
        with node.tap("wire0") as wire, Tap(node.space, "nic0") as nic:
            wire.send(frame)
            assert nic.received(MARKER) == [frame]
    assert not counted(node, Reason.DAMAGED) + counted(node, Reason.UNKNOWN_VTEP)


def test_a_nic_gets_another_mac(node: Node) -> None:
    node.converge(OURS_ALONE)
    numbers, mac = node.bindings(), "02:00:00:00:00:77"
    assert numbers.nic is not None
    node.space.ip("link", "set", "nic0", "address", mac)
    frame = bytes(Ether(src=FROM_WIRE.src, dst=mac) / damaged(chksum=0x1234))
    with node.tap("wire0") as wire, Tap(node.space, "nic0") as nic:
        wire.send(frame)
        assert nic.received(MARKER) == [frame]
        converge(node, OURS_ALONE, Bindings(replace(numbers.nic, mac=mac), numbers.ifindexes))
        wire.send(frame)
        assert not nic.received(MARKER, 0.2)
    assert counted(node, Reason.DAMAGED) == 1


def test_strangers_packets_end_in_the_driver_where_the_ports_are_ours_alone(node: Node) -> None:
    frame = bytes(FROM_WIRE / IP(src="10.9.0.66", dst=OWN4) / to_geneve())
    node.converge(OURS_ALONE)
    with node.tap("wire0") as wire, Tap(node.space, "nic0") as nic:
        wire.send(frame)
        assert not nic.received(MARKER, 0.2)
        assert counted(node, Reason.UNKNOWN_VTEP) == 1
        node.converge(FORCED)
        wire.send(frame)
        assert nic.received(MARKER) == [frame]


@pytest.mark.parametrize(
    ("outer", "inside"),
    [
        pytest.param(OUTER4, to_geneve(Family.IPV4), id="geneve-ipv4"),
        pytest.param(OUTER6, to_geneve(Family.IPV6), id="geneve-ipv6"),
        pytest.param(OUTER4, to_vxlan(Family.IPV4), id="vxlan-ipv4"),
        pytest.param(OUTER6, to_vxlan(Family.IPV6), id="vxlan-ipv6"),
    ],
)
def test_what_peers_send_passes(node: Node, outer: Packet, inside: Packet) -> None:
    node.converge(OURS_ALONE)
    frame = bytes(FROM_WIRE / outer / inside)
    with node.tap("wire0") as wire, node.tap("inphy") as ovs:
        wire.send(frame)
        assert ovs.received(MARKER) == [frame]


def test_the_hosts_own_packets_pass(node: Node) -> None:
    node.converge(OURS_ALONE)
    with node.tap("wire0") as wire, host_socket(node.space, 6082) as host:
        wire.send(bytes(FROM_WIRE / OUTER4 / UDP(dport=6082) / MARKER))
        assert host.recv(100) == MARKER
        assert not readable(host)


def test_on_a_veth_it_is_off_unless_forced(node: Node) -> None:
    change = node.converge(ONE_PORT)
    assert not [item for item in change.add.values() if isinstance(item, XdpItem)]
    assert not shown(node)


def test_switched_off_it_goes(node: Node) -> None:
    node.converge(FORCED)
    off = replace(FORCED, node=replace(FORCED.node, xdp=Xdp.OFF))
    change = node.converge(off)
    gone = {f"{XDP_PROGRAM} in the driver of nic0", f"nics of netdev {node.space.ifindex('nic0')}"}
    assert {str(item) for item in change.remove.values()} == gone
    assert len(change) == 2
    assert not shown(node)


def test_it_outlives_who_attached_it_and_is_known_again(node: Node, pins: Pins) -> None:
    node.converge(FORCED)
    node.target.close()
    assert is_native(node)
    again = replace(node, target=FastpathTarget(pins))
    assert not again.change(FORCED)
    again.target.close()


def test_taken_away_it_is_attached_again(node: Node) -> None:
    node.converge(FORCED)
    node.space.ip("link", "set", "nic0", "xdpdrv", "off")
    assert len(node.converge(FORCED)) == 1
    assert is_native(node)


@pytest.fixture
def foreign() -> Iterator[Program]:
    """Load someone else's program, which has no name."""
    code, licence = ctypes.create_string_buffer(_RETURN_PASS), ctypes.create_string_buffer(b"GPL")
    where = (ctypes.addressof(code), ctypes.addressof(licence))
    fd, _ = syscalls._bpf(_PROG_LOAD, struct.pack("=IIQQ", _XDP, 2, *where), "load a program")
    with Program(fd) as program:
        yield program


def attach(node: Node, program: Program) -> None:
    def attach_here() -> None:
        with Rtnl() as rtnl:
            xdp.replace(rtnl, socket.if_nametoindex("nic0"), program.fd)

    node.space.netns.run(attach_here)


def detach(node: Node, program: Program) -> None:
    def detach_here() -> None:
        with Rtnl() as rtnl:
            xdp.detach(rtnl, socket.if_nametoindex("nic0"), program.fd)

    node.space.netns.run(detach_here)


def test_a_foreign_program_is_named_and_left_and_the_rest_is_done(
    node: Node, foreign: Program
) -> None:
    attach(node, foreign)
    with pytest.raises(PartlyRefusedError) as refused:
        node.apply(node.change(FORCED))
    assert refused.value.standing
    (reason,) = refused.value.refused.values()
    assert reason == (
        f"the place is taken by XDP program '' (id {foreign.info.id}) of someone else;"
        " to list it run: ip link show dev nic0"
    )
    assert shown(node)["prog"]["id"] == foreign.info.id
    assert [type(item) for item in node.change(FORCED).add.values()] == [XdpItem]
    with node.tap("wire0") as wire, node.tap("inphy") as ovs:
        wire.send(bytes(FROM_WIRE / OUTER4 / to_geneve()))
        assert len(ovs.received(MARKER)) == 1
    node.apply(diff(NOTHING, node.space.netns.run(node.target.observe)))
    assert shown(node)["prog"]["id"] == foreign.info.id
    detach(node, foreign)
    node.converge(FORCED)
    assert is_native(node)


def test_a_foreign_program_that_came_meanwhile_is_not_taken_away(
    node: Node, foreign: Program
) -> None:
    node.converge(FORCED)
    change = diff(NOTHING, node.space.netns.run(node.target.observe))
    node.space.ip("link", "set", "nic0", "xdpdrv", "off")
    attach(node, foreign)
    node.apply(change)
    assert shown(node)["prog"]["id"] == foreign.info.id


def test_a_refused_mtu_is_told_in_the_kernels_words_until_it_is_another(pins: Pins) -> None:
    """A frame of this wire does not fit into a page."""
    with wired(pins) as node:
        wide = replace(
            node.bindings(), nic=Link("nic0", node.space.ifindex("nic0"), "", 9000, up=True)
        )
        with pytest.raises(PartlyRefusedError, match="Peer MTU is too large to set XDP") as refused:
            converge(node, FORCED, wide)
        assert list(refused.value.refused) == [XdpPlace("nic0")]
        converge(node, FORCED, wide)
        assert [each.about for each in node.target.render(FORCED, wide).pending] == [
            XdpPlace("nic0")
        ]
        assert "overweave:underlay" in node.filters("nic0")
        for space, netdev in ((node.space, "nic0"), (node.ends, "wire0")):
            space.ip("link", "set", netdev, "mtu", "1500")
        node.converge(FORCED)
        assert is_native(node)


@pytest.mark.parametrize("xdp_mode", [Xdp.AUTO, Xdp.NATIVE])
def test_a_driver_without_native_xdp_is_asked_once(node: Node, xdp_mode: Xdp) -> None:
    node.space.ip("link", "add", "name", "plain0", "type", "bridge")
    local = replace(ONE_PORT.node, underlay_interface="plain0", xdp=xdp_mode)
    wanted, numbers = replace(ONE_PORT, node=local), node.bindings()
    ifindex = numbers.ifindexes["plain0"]
    numbers = replace(numbers, nic=Link("plain0", ifindex, "", 1500, up=True, kind="bridge"))
    with pytest.raises(PartlyRefusedError, match="Operation not supported"):
        converge(node, wanted, numbers)
    rendering = node.target.render(wanted, numbers)
    (pending,) = rendering.pending
    assert (pending.about, "not supported" in pending.reason) == (XdpPlace("plain0"), True)
    assert not diff(rendering, node.space.netns.run(node.target.observe))


def converge(node: Node, wanted: Desired, numbers: Bindings) -> None:
    rendering = node.target.render(wanted, numbers)
    node.apply(diff(rendering, node.space.netns.run(node.target.observe)))


def test_a_new_version_replaces_the_old_one_and_nothing_slips_through(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(loader.SOURCE, source, ignore=shutil.ignore_patterns("*.py", "stubs"))
    with mounted_bpffs(tmp_path / "bpf") as bpffs, made_fit(load(bpffs, source)) as old:
        old.converge(FORCED)
        with (source / "overlay.c").open("a", encoding="utf-8") as file:
            file.write("/* the next version */\n")
        new = replace(old, target=FastpathTarget(load(bpffs, source)))
        sent = exchange_under_a_flood(old, new)
        assert is_native(old)
        assert counted(old, Reason.DAMAGED) == sent > 0
        new.target.close()
    print(f"{sent} malformed frames while the program was replaced 20 times")


def exchange_under_a_flood(old: Node, new: Node) -> int:
    """Return how many malformed frames were sent; none may come as far as a packet socket."""
    frame, done = bytes(FROM_WIRE / damaged(chksum=0x1234)), threading.Event()
    with old.tap("wire0") as wire, Tap(old.space, "nic0") as nic, ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send_until, done, wire, frame)
        for node in (new, old) * 10:
            change = node.converge(FORCED)
            assert [type(i) for i in change.update.values()].count(XdpItem) == 1
        done.set()
        sent = sending.result()
        assert not nic.received(MARKER, 0.2)
    return sent


def test_uninstall_finds_it_and_takes_it_away(node: Node, foreign: Program) -> None:
    node.converge(FORCED)
    (thing,) = node.space.netns.run(uninstall._xdp_programs)
    assert thing.name == "XDP program of nic0"
    node.space.netns.run(thing.remove)
    assert not shown(node)
    attach(node, foreign)
    assert node.space.netns.run(uninstall._xdp_programs) == []


@dataclass(frozen=True)
class Case:
    """What is configured, what the NIC is, and why no program belongs there."""

    xdp: Xdp
    kind: str | None
    why: str
    fastpath: bool = True


@pytest.mark.parametrize(
    "case",
    [
        Case(Xdp.AUTO, "veth", VETH),
        Case(Xdp.NATIVE, "veth", ""),
        Case(Xdp.AUTO, "", ""),
        Case(Xdp.OFF, "", "underlay.xdp is off"),
        Case(Xdp.NATIVE, "", "fastpath is off", fastpath=False),
        Case(Xdp.AUTO, None, "there is no netdev nic0 yet"),
    ],
    ids=str,
)
def test_where_it_belongs(case: Case) -> None:
    local = replace(ONE_PORT.node, xdp=case.xdp, fastpath=case.fastpath)
    nic = None if case.kind is None else Link("nic0", 2, NIC_MAC, 1500, up=True, kind=case.kind)
    assert why_no_xdp(local, nic) == case.why
