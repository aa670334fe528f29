"""What is known to break tunnels made by tc programs; each was lost once, or counted wrongly."""

from __future__ import annotations

import re
import secrets
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether

from dataplane.core.model import IpAddress
from dataplane.core.reasons import Reason
from dataplane.lab import matrix, nodes, probes
from dataplane.lab.probes import Pace, Station
from dataplane.lab.scene import COLOURS, Colour, Scene
from dataplane.lab.underlay import NIC
from tests.system.cni_node import cni_node, eventually, segment
from tests.system.frames import raw

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


LEFT, RIGHT = Colour("left", 24, "geneve", "ipv4"), Colour("right", 25, "vxlan", "ipv6")


def test_a_pod_that_bridges(scene: Scene) -> None:
    """It joins two segments: what it sends on was in a tunnel, from MACs that are not its own."""
    with (
        segment(scene, LEFT, "guard: 'off'\n"),
        segment(scene, RIGHT, "guard: 'off'\n"),
        cni_node(scene, "n1", LEFT.name) as here,
        cni_node(scene, "n3", RIGHT.name) as there,
        cni_node(scene, "n2", LEFT.name) as middle,
    ):
        source, sink = here.add("lefty"), there.add("righty")
        # On each segment the bridge is announced as who is behind it.
        bridge = middle.add("bridge", runtimeConfig={"mac": sink.mac})
        behind = middle.config(segment=RIGHT.name, runtimeConfig={"mac": source.mac})
        assert middle.run("ADD", "bridge", behind, CNI_IFNAME="eth1").status == 0
        run(bridge, "ip", "link", "add", "br0", "mtu", "1430", "type", "bridge")
        for number, port in enumerate(("eth0", "eth1"), start=1):
            mac = f"02:00:00:00:99:0{number}"
            run(bridge, "ip", "link", "set", port, "address", mac, "mtu", "1430", "master", "br0")
        run(bridge, "ip", "link", "set", "br0", "up")
        for pod, address in ((source, "10.99.0.1/24"), (sink, "10.99.0.2/24")):
            run(pod, "ip", "address", "add", address, "dev", pod.ifname)
            run(pod, "ip", "link", "set", pod.ifname, "mtu", "1430")  # the smaller one of both
        sink = replace(sink, ips=(ip_address("10.99.0.2"),))
        eventually(lambda: not probes.ping(source, sink.ip(4), Pace(patience=0.2)).lost)
        before = counted(scene, "n2", Reason.NESTED)
        echo = probes.ping(source, sink.ip(4), Pace(count=20))
        assert (echo.lost, echo.duplicates) == (0, 0)
        assert counted(scene, "n2", Reason.NESTED) == before + 40  # there and back
        probes.transfer(source, sink, 4, 2 * MEGABYTE)
        assert middle.run("DEL", "bridge", behind, CNI_IFNAME="eth1").status == 0


TAGGED = Colour("tagged", 26, "vxlan", "ipv4")
VLAN, COPIES = 7, 5
_SOL_PACKET, _PACKET_AUXDATA, _VLAN_VALID = 263, 8, 1 << 4  # linux/if_packet.h


def vlans(sink: Station, token: bytes, seconds: float = 1.0) -> Iterator[int | None]:
    """Yield the VLAN of each frame with ``token`` that comes to a pod, None for no tag.

    The kernel hands the tag over beside the frame (struct tpacket_auxdata).
    """
    with raw(sink) as ear:
        ear.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        yield None  # listens from now on
        ear.settimeout(seconds)
        while True:
            try:
                data, ((_, _, aux), *_), *_ = ear.recvmsg(65535, 64)
            except TimeoutError:
                return
            if token in data:
                status, tci = struct.unpack_from("=I12xH", aux)
                yield tci & 0xFFF if status & _VLAN_VALID else None


@pytest.mark.parametrize(
    ("guard", "address", "heard"),
    [
        pytest.param("ip", "", [VLAN] * COPIES, id="own address, guard ip"),
        pytest.param("ip", "10.98.0.1", [], id="another address, guard ip"),
        pytest.param("off", "10.98.0.1", [VLAN] * COPIES, id="another address, guard off"),
    ],
)
def test_frames_in_a_vlan(scene: Scene, guard: str, address: str, heard: list[int]) -> None:
    """The tag is the pods' own business: it crosses, by OVS, and the guard looks behind it."""
    with (
        segment(scene, TAGGED, f"guard: '{guard}'\n"),
        cni_node(scene, "n1", TAGGED.name) as here,
        cni_node(scene, "n2", TAGGED.name) as there,
    ):
        source, sink = here.add("tag1"), there.add("tag2")
        matrix.converge([source, sink])
        token = secrets.token_bytes(16)
        tag = Ether(src=source.mac, dst=sink.mac) / Dot1Q(vlan=VLAN)
        frame = tag / IP(src=address or str(source.ip(4)), dst=str(sink.ip(4))) / UDP() / token
        before = counted(scene, "n1", Reason.NOT_IP)
        arriving = vlans(sink, token)
        next(arriving)
        with raw(source) as out:
            out.bind((source.ifname, 0))
            for _ in range(COPIES):
                out.send(bytes(frame))
        assert list(arriving) == heard
        assert counted(scene, "n1", Reason.NOT_IP) == before + COPIES


def is_taken(station: Station, address: IpAddress) -> bool:
    """Ask by DAD (RFC 5227, RFC 4862) whether ``address`` is somebody else's."""
    if address.version == 4:
        probe = ["arping", "-D", "-q", "-c", "2", "-w", "3", "-I", station.ifname, str(address)]
        words = ["nsenter", f"--net={station.netns}", *probe]
        return subprocess.run(words, check=False, capture_output=True).returncode == 1
    for setting in ("accept_dad=1", "dad_transmits=3"):  # asked once, a busy machine is too late
        run(station, "sysctl", "-qw", f"net.ipv6.conf.{station.ifname}.{setting}")
    where = (f"{address}/128", "dev", station.ifname)
    own = address in station.ips
    if own:
        run(station, "ip", "address", "del", f"{address}/64", "dev", station.ifname)
    run(station, "ip", "address", "add", *where)
    try:
        eventually(lambda: "tentative" not in shown(station) or "dadfailed" in shown(station))
        return "dadfailed" in shown(station)
    finally:
        run(station, "ip", "address", "del", *where)
        run(station, "sysctl", "-qw", f"net.ipv6.conf.{station.ifname}.accept_dad=0")
        if own:
            run(station, "ip", "address", "add", f"{address}/64", "dev", station.ifname, "nodad")


def shown(station: Station) -> str:
    return run(station, "ip", "-6", "address", "show", "dev", station.ifname)


CLAIMED = Colour("claimed", 27, "geneve", "ipv6")


@pytest.mark.parametrize("version", [pytest.param(4, id="ARP"), pytest.param(6, id="ND")])
@pytest.mark.parametrize("guard", ["ip", "mac"])
def test_duplicate_address_detection(scene: Scene, guard: str, version: int) -> None:
    """A pod hears that an address is another's, and never that its own is: we answer for others.

    But with guard ip over IPv6: there the question without a source is dropped, for Open vSwitch
    cannot write the answer's option. What the pod may hear then, it hears by chance.
    """
    with (
        segment(scene, CLAIMED, f"guard: '{guard}'\n"),
        cni_node(scene, "n1", CLAIMED.name) as here,
        cni_node(scene, "n2", CLAIMED.name) as there,
    ):
        pods = [here.add("asker"), here.add("neighbour"), there.add("remote")]
        matrix.converge(pods)
        before = counted(scene, "n1", Reason.ANSWERED)
        assert not is_taken(pods[0], pods[0].ip(version))
        assert counted(scene, "n1", Reason.ANSWERED) == before
        if (guard, version) != ("ip", 6):
            assert all(is_taken(pods[0], pod.ip(version)) for pod in pods[1:])
        if version == 4:  # questions without a source are left to Open vSwitch over IPv6
            assert counted(scene, "n1", Reason.ANSWERED) >= before + 2
