"""A local entry whose netdev is no veth: redirect_peer would deliver nothing there.

No AccessPort is anything else than a veth yet, so the entries are written as its Target would.
"""

import fcntl
import os
import select
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from bpf.bpffs import Pins
from bpf.layout import EntryKind, LocalEntry, encode_entry, encode_entry_key
from bpf.loader import load
from bpf.syscalls import open_map
from dataplane.core.model import Encap, Family, Mac
from tests.coverage_grid import Proven
from tests.functional.bpf_support import Namespace, Tap, mounted_bpffs
from tests.functional.test_bpf_target import (
    FROM_WIRE,
    MARKER,
    ONE_PORT,
    OWN4,
    OWN6,
    PEER4,
    PEER6,
    SEGMENT,
    SEGMENTS,
    Node,
    wired,
)

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x2, 0x1000  # linux/if_tun.h
BEHIND = Mac("02:00:00:00:01:77")
WAYS = [
    pytest.param((encap, outer, inner), id=f"{inner} in {encap} over {outer}")
    for encap, outer, inner in product(Encap, Family, Family)
]


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pins]:
    with mounted_bpffs(tmp_path_factory.mktemp("netdev") / "bpf") as bpffs:
        yield load(bpffs)


@pytest.fixture(scope="module")
def node(pins: Pins) -> Iterator[Node]:
    with wired(pins) as node:
        node.converge(ONE_PORT)
        yield node


@contextmanager
def opened_tap(space: Namespace, name: str) -> Iterator[int]:
    """Make a tap device and return its other end, where what is sent out of it is read."""
    end = space.netns.run(lambda: os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
    try:
        fcntl.ioctl(end, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        space.ip("link", "set", name, "mtu", "1450", "up")
        yield end
    finally:
        os.close(end)


@pytest.fixture(scope="module")
def tap(node: Node) -> Iterator[int]:
    with opened_tap(node.space, "tap7") as end:
        yield end


def place(node: Node, encap: Encap, outer: Family, kind: EntryKind) -> None:
    entry = LocalEntry(node.space.ifindex("tap7"), kind)
    with open_map(node.pins.map("entries")) as entries:
        vni = SEGMENTS[encap, outer].vni
        entries.update(encode_entry_key(vni, BEHIND), encode_entry(entry))


def arrived(end: int, seconds: float) -> list[bytes]:
    """Return the marked frames that come out; waits for the first, then for none to follow."""
    found, until = [], time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0 and select.select([end], [], [], left)[0]:
        frame = os.read(end, 1 << 16)
        if MARKER in frame:
            found.append(frame)
            until = time.monotonic() + 0.1
    return found


def inside(inner: Family) -> Packet:
    frame = Ether(src="02:00:00:00:66:01", dst=BEHIND)
    if inner is Family.IPV4:
        return frame / IP(src="10.1.0.9", dst="10.1.0.7") / ICMP() / MARKER
    return frame / IPv6(src="fd00::9", dst="fd00::7") / ICMPv6EchoRequest(data=MARKER)


def tunnelled(encap: Encap, outer: Family, inner: Family) -> Packet:
    vni = SEGMENTS[encap, outer].vni
    ip = IP(src=PEER4, dst=OWN4) if outer is Family.IPV4 else IPv6(src=PEER6, dst=OWN6)
    if encap is Encap.GENEVE:
        return (
            FROM_WIRE
            / ip
            / UDP(sport=40000, dport=6081, chksum=0)
            / GENEVE(vni=vni)
            / inside(inner)
        )
    vxlan = VXLAN(vni=vni, flags="Instance")
    return FROM_WIRE / ip / UDP(sport=40000, dport=4790, chksum=0) / vxlan / inside(inner)


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_from_the_wire_reaches_it(
    node: Node, tap: int, way: tuple[Encap, Family, Family], proven: Proven
) -> None:
    encap, outer, inner = way
    place(node, encap, outer, EntryKind.NETDEV)
    with node.tap("wire0") as wire:
        wire.send(bytes(tunnelled(encap, outer, inner)))
        assert arrived(tap, 2.0) == [bytes(inside(inner))]
    proven(encap, outer, inner, port="netdev")


def from_pod() -> bytes:
    frame = Ether(src="02:00:00:00:01:01", dst=BEHIND)
    return bytes(frame / IP(src="10.1.0.1", dst="10.1.0.7") / ICMP() / MARKER)


def test_what_a_pod_next_door_sends_reaches_it(node: Node, tap: int) -> None:
    place(node, SEGMENT.encap, SEGMENT.underlay, EntryKind.NETDEV)
    with node.tap("pod1") as pod:
        pod.send(from_pod())
        assert arrived(tap, 2.0) == [from_pod()]


def test_as_a_veth_it_would_get_nothing(node: Node, tap: int) -> None:
    """What the kinds of entries are for: the kernel drops it without a word."""
    place(node, SEGMENT.encap, SEGMENT.underlay, EntryKind.VETH)
    with node.tap("wire0") as wire, node.tap("pod1") as pod, Tap(node.ends, "in1") as ovs:
        wire.send(bytes(tunnelled(SEGMENT.encap, SEGMENT.underlay, Family.IPV4)))
        pod.send(from_pod())
        assert arrived(tap, 0.5) == []
        assert ovs.received(MARKER, 0.1) == []
