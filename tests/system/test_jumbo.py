"""An underlay of 9000 bytes: segments follow, and whole packets pass on both paths."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from dataplane.core.reasons import Reason
from dataplane.lab import matrix, probes
from dataplane.lab.probes import Station
from dataplane.lab.scene import COLOURS, Colour, Scene
from tests.coverage_grid import FAMILIES, Proven
from tests.system.conftest import standing
from tests.system.test_metrics import larger_links
from tests.system.test_pitfalls import counted

TOPOLOGY = "underlay: {mtu: 9000}\nnodes: [{name: n1}, {name: n2}]"
MTU = {"ipv4": 9000 - 50, "ipv6": 9000 - 70}  # outer IP 20 or 40, UDP 8, tunnel 8, Ethernet 14
IP_OPTIONS, NOPS = 4, b"\x01" * 4  # linux/in.h; RFC 791: four times "no operation"
IP_MTU_DISCOVER, IP_PMTUDISC_PROBE = 10, 3  # DF, whatever the interface's MTU says
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
COUNT = 20
SEGMENTS = pytest.mark.parametrize(
    "colour", [pytest.param(colour, id=colour.name) for colour in COLOURS]
)


@pytest.fixture(scope="module")
def jumbo() -> Iterator[Scene]:
    with standing(f"j{os.getpid()}", TOPOLOGY) as made:
        yield made


def send(source: Station, sink: Station, size: int, options: bytes = b"") -> int:
    """Send IPv4 packets of ``size`` bytes with DF; return how many arrived."""
    with (
        sink.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
        source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((str(sink.ip(4)), 0))
        receiver.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 22)
        receiver.settimeout(1.0)
        sender.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        if options:
            sender.setsockopt(socket.IPPROTO_IP, IP_OPTIONS, options)
        for _ in range(COUNT):
            sender.sendto(bytes(size - 28 - len(options)), receiver.getsockname())
        arrived = 0
        try:
            while arrived < COUNT:
                arrived += len(receiver.recv(1 << 16)) == size - 28 - len(options)
        except TimeoutError:
            pass
        return arrived


@SEGMENTS
def test_pods_use_it_whole(jumbo: Scene, colour: Colour, proven: Proven) -> None:
    stations = jumbo.segments[colour.name]
    assert {station.mtu for station in stations} == {MTU[colour.underlay]}
    verdict = matrix.verify(stations)  # full MTU with DF among them
    assert verdict.faults == ()
    assert (verdict.pairs, verdict.lost) == (6, 0)
    for inner in FAMILIES:
        proven(colour.encap, colour.underlay, inner)


@SEGMENTS
def test_so_does_what_goes_by_open_vswitch(jumbo: Scene, colour: Colour) -> None:
    source, sink, _ = jumbo.segments[colour.name]
    before = counted(jumbo, "n1", Reason.IP_OPTIONS)
    assert send(source, sink, source.mtu, NOPS) == COUNT
    assert counted(jumbo, "n1", Reason.IP_OPTIONS) == before + COUNT


@SEGMENTS
def test_too_large_is_what_its_segments_are(jumbo: Scene, colour: Colour) -> None:
    """A super-packet is larger than any MTU: what counts is each packet that leaves of it."""
    source, sink, _ = jumbo.segments[colour.name]
    before = counted(jumbo, "n1", Reason.TOO_LARGE)
    probes.transfer(source, sink, 4, 8 << 20)
    assert counted(jumbo, "n1", Reason.TOO_LARGE) == before
    with larger_links(jumbo, source, 100):
        assert send(source, sink, source.mtu) == COUNT
        assert counted(jumbo, "n1", Reason.TOO_LARGE) == before
        assert send(source, sink, source.mtu + 1) == 0
        assert counted(jumbo, "n1", Reason.TOO_LARGE) == before + COUNT
