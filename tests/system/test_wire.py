"""What is on the underlay, dissected by somebody else's program."""

import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataplane.lab import probes
from dataplane.lab.layout import UNDERLAY
from dataplane.lab.probes import Pace
from dataplane.lab.scene import COLOURS, Colour, Scene
from dataplane.lab.underlay import NIC

PORTS = {"geneve": "6081", "vxlan": "4789"}
OPTIONS = (
    "ip.check_checksum:TRUE",
    "udp.check_checksum:TRUE",
    "tcp.check_checksum:TRUE",
    "udp.ignore_ipv6_zero_checksum:TRUE",  # RFC 6935 allows it for tunnels
)
SEGMENTS = pytest.mark.parametrize("colour", COLOURS, ids=lambda c: f"{c.encap} over {c.underlay}")
WRONG = " || ".join(
    [
        "_ws.malformed",
        "_ws.expert.severity == error",
        *(f"{layer}.checksum.status == 0" for layer in ("ip", "udp", "tcp", "icmp", "icmpv6")),
        "geneve.options",
        "geneve.flags != 0",
        "geneve.version != 0",
        "vxlan.flag_i == 0",
        *(f"vxlan.{field} != 0" for field in ("flags_reserved", "flag_g", "gbp", "reserved8")),
    ]
)
# By outer family: the outermost fields, and what they hold but for the UDP port.
OUTER = {
    "ipv4": (("eth.type", "ip.flags.df", "ip.ttl", "udp.dstport"), ("0x0800", "1", "64")),
    "ipv6": (("eth.type", "ipv6.hlim", "udp.dstport"), ("0x86dd", "64")),
}


@pytest.fixture
def plain_nics(scene: Scene) -> Iterator[None]:
    """Let the kernel do what a real NIC does: on veths checksums and segments are left undone."""
    switch_nics(scene, "off")
    yield
    switch_nics(scene, "on")


def switch_nics(scene: Scene, to: str) -> None:
    for node in ("n1", "n2"):
        nic = ["ethtool", "-K", NIC, "tx", to, "tso", to, "gso", to]
        features = ("tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation")
        words = [*nic, *(word for feature in features for word in (feature, to))]
        space = f"--net={scene.paths.netns(node)}"
        subprocess.run(["nsenter", space, *words], check=True, capture_output=True)


@contextmanager
def capture(scene: Scene, node: str, file: Path) -> Iterator[None]:
    """Write down every UDP packet on the cable of ``node``."""
    space = f"--net={scene.paths.netns(UNDERLAY)}"
    words = ["-i", node, "--immediate-mode", "-U", "-Z", "root", "-w", str(file), "udp"]
    command = ["nsenter", space, "tcpdump", *words]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            assert "listening on" in running.stderr.readline()
            yield
            time.sleep(0.3)
        finally:
            running.terminate()


def dissect(file: Path, shown: str, fields: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the outermost value of each field for the packets that the filter lets through."""
    words = ["tshark", "-n", "-r", str(file), "-Y", shown, "-T", "fields", "-E", "occurrence=f"]
    words += [word for option in OPTIONS for word in ("-o", option)]
    words += [word for field in fields for word in ("-e", field)]
    printed = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    return [tuple(line.split("\t")) for line in printed.splitlines()]


def exchange(scene: Scene, colour: Colour) -> None:
    """Let the pods on n1 and n2 do a bit of everything."""
    source, sink = scene.segments[colour.name][:2]
    for version in (4, 6):
        assert probes.ping(source, sink.ip(version), Pace(count=3)).lost == 0
        assert probes.ping(source, sink.ip(version), Pace(size=source.mtu)).lost == 0
        probes.transfer(source, sink, version, 1 << 16)
        probes.broadcast(source, [sink], version)


@SEGMENTS
@pytest.mark.usefixtures("plain_nics")
def test_packets_are_what_the_standards_say(scene: Scene, colour: Colour, tmp_path: Path) -> None:
    file = tmp_path / "underlay.pcap"
    with capture(scene, "n1", file):
        exchange(scene, colour)
    tunnel = f"{colour.encap}.vni == {colour.vni}"
    fields, values = OUTER[colour.underlay]
    found = dissect(file, tunnel, fields)
    assert len(found) > 50
    assert set(found) == {(*values, PORTS[colour.encap])}
    assert dissect(file, f"({tunnel}) && ({WRONG})", ("frame.number", "frame.protocols")) == []
    known = " || ".join(f"{one.encap}.vni == {one.vni}" for one in COLOURS)
    assert dissect(file, f"(geneve || vxlan) && !({known})", ("frame.number",)) == []
    inner = dissect(file, tunnel, ("frame.protocols",))
    assert all(f":{colour.encap}:eth:" in protocols for (protocols,) in inner)


@SEGMENTS
def test_flows_have_source_ports_of_their_own(scene: Scene, colour: Colour, tmp_path: Path) -> None:
    """A tunnel's source port is its entropy for ECMP (RFC 7348 section 5, RFC 8926 section 3.3)."""
    file = tmp_path / "underlay.pcap"
    source, sink = scene.segments[colour.name][:2]
    with capture(scene, "n1", file):
        for _ in range(8):
            probes.transfer(source, sink, 4, 100)
    vtep = scene.topology.node("n1").addresses[0 if colour.underlay == "ipv4" else 1].ip
    layer = "ip" if colour.underlay == "ipv4" else "ipv6"
    sent = f"{colour.encap}.vni == {colour.vni} && {layer}.src == {vtep} && tcp"
    ports = {int(port) for (port,) in dissect(file, sent, ("udp.srcport",))}
    assert len(ports) >= 4
    assert min(ports) >= 1024


def test_pods_of_one_node_are_not_heard_outside(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "underlay.pcap"
    first, last = scene.segments["blue"][0], scene.segments["blue"][-1]
    elsewhere = scene.segments["blue"][1]
    with capture(scene, "n1", file):
        assert probes.ping(first, last.ip(4), Pace(count=20)).lost == 0
        assert probes.ping(first, elsewhere.ip(4), Pace(count=3)).lost == 0
    for heard, other in ((0, last), (6, elsewhere)):
        packets = f"ip.addr == {other.ip(4)} && icmp"
        assert len(dissect(file, packets, ("frame.number",))) == heard


def test_arp_for_a_known_address_does_not_leave_the_node(scene: Scene, tmp_path: Path) -> None:
    file = tmp_path / "underlay.pcap"
    source, sink = scene.segments["green"][1:3]
    space = f"--net={source.netns}"
    with capture(scene, "n2", file):
        subprocess.run(["nsenter", space, "ip", "neigh", "flush", "dev", "eth0"], check=True)
        assert probes.ping(source, sink.ip(4), Pace(count=3)).lost == 0
        assert probes.ping(source, sink.ip(6), Pace(count=3)).lost == 0
    assert len(dissect(file, "icmp || icmpv6", ("frame.number",))) >= 12
    # A neighbour is asked by ARP (1: request) or by a solicitation (ICMPv6 type 135).
    assert dissect(file, "arp.opcode == 1 || icmpv6.type == 135", ("frame.number",)) == []
