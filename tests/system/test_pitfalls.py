"""What is known to break tunnels made by tc programs; each was lost once, or counted wrongly."""

from __future__ import annotations

import re
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dataplane.core.reasons import Reason
from dataplane.lab import matrix, nodes, probes
from dataplane.lab.probes import Pace, Station
from dataplane.lab.scene import COLOURS, Colour, Scene
from dataplane.lab.underlay import NIC
from tests.system.cni_node import cni_node, segment

UDP_SEGMENT = 103  # linux/udp.h
SIZE, COUNT = 1200, 10
MEGABYTE = 1 << 20
PAIRS = [pytest.param(colour.name, id=colour.name) for colour in COLOURS]


def run(station: Station, *command: str) -> str:
    words = ["nsenter", f"--net={station.netns}", *command]
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def checksum_errors(station: Station) -> int:
    shown = run(station, "nstat", "-asz", "TcpInCsumErrors", "UdpInCsumErrors", "Udp6InCsumErrors")
    return sum(int(number) for number in re.findall(r"CsumErrors +(\d+)", shown))


def counted(scene: Scene, node: str, reason: Reason) -> int:
    ports = nodes.ports(scene.paths.node(node))
    return sum(port.handed_over.get(str(reason), 0) for port in ports)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("name", PAIRS)
def test_udp_segments_of_one_send_arrive_all(scene: Scene, name: str, version: int) -> None:
    """As QUIC sends: the kernel hands ten datagrams down as one packet."""
    source, _, sink, *_ = scene.segments[name]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    before = counted(scene, "n1", Reason.UDP_GSO)
    with (
        sink.socket(family, socket.SOCK_DGRAM) as receiver,
        source.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((str(sink.ip(version)), 0))
        receiver.settimeout(3.0)
        sender.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=i", SIZE))
        whole = b"".join(bytes([number]) * SIZE for number in range(COUNT))
        sender.sendto(whole, receiver.getsockname()[:2])
        arrived = [receiver.recv(SIZE + 1) for _ in range(COUNT)]
    assert sorted(arrived) == [bytes([number]) * SIZE for number in range(COUNT)]
    assert counted(scene, "n1", Reason.UDP_GSO) > before


@pytest.fixture
def offloads() -> Iterator[ExitStack]:
    with ExitStack() as undo:
        yield undo


def switch_off(undo: ExitStack, station: Station, *features: str) -> None:
    for feature in features:
        run(station, "ethtool", "-K", station.ifname, feature, "off")
        undo.callback(run, station, "ethtool", "-K", station.ifname, feature, "on")


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("where", ["pod", "nic"])
def test_tcp_without_offloads(scene: Scene, offloads: ExitStack, name: str, where: str) -> None:
    source, _, sink, *_ = scene.segments[name]
    if where == "pod":
        switch_off(offloads, source, "tx", "tso", "gso")
    else:
        nic = Station("n1", scene.paths.netns("n1"), NIC, "", (), 1500)
        switch_off(offloads, nic, "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
    before = checksum_errors(source) + checksum_errors(sink)
    for version in (4, 6):
        probes.transfer(source, sink, version, 8 * MEGABYTE)
        probes.transfer(sink, source, version, 8 * MEGABYTE)
    assert checksum_errors(source) + checksum_errors(sink) == before


ROUTED = Colour("routed", 23, "geneve", "ipv4")


def test_a_pod_that_routes(scene: Scene) -> None:
    """What it sends on was in a tunnel before, and the kernel refuses to tunnel it once more."""
    with (
        segment(scene, ROUTED, "guard: 'off'\n"),
        cni_node(scene, "n1", ROUTED.name) as here,
        cni_node(scene, "n2", ROUTED.name) as there,
    ):
        source, router, sink = here.add("asker"), there.add("router"), here.add("answerer")
        matrix.converge([source, router, sink])
        run(router, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
        run(router, "sysctl", "-qw", f"net.ipv4.conf.{router.ifname}.send_redirects=0")
        way = (f"{sink.ip(4)}/32", "via", str(router.ip(4)), "dev", source.ifname)
        run(source, "ip", "route", "add", *way)
        echo = probes.ping(source, sink.ip(4), Pace(count=20))
        assert (echo.lost, echo.duplicates) == (0, 0)
        size = 2 * MEGABYTE
        probes.transfer(source, sink, 4, size)
        print(f"nested at n2: {counted(scene, 'n2', Reason.NESTED)} packets went by OVS")
