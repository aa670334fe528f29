"""The ways between two machines that throughput is measured on, all in one lab on one underlay.

Each has machines or pods of its own at both ends; those of the yardsticks run nothing of ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from pathlib import Path

from bpf import loader
from bpf.bpffs import Pins, ensure_mounted
from bpf.layout import traffic_of
from bpf.syscalls import open_map
from dataplane.core.model import Encap
from dataplane.lab import foreign, lab
from dataplane.lab.foreign import Guest, Tunnel
from dataplane.lab.layout import LabPaths
from dataplane.lab.probes import Station
from dataplane.lab.runtime import Pod, Runtime
from dataplane.lab.topology import Topology
from dataplane.lab.underlay import NIC

MTU = 1500
_OURS, _BARE, _PLAIN = ("n1", "n2"), ("b1", "b2"), ("p1", "p2")

TOPOLOGY = f"""\
underlay: {{mtu: {MTU}}}
nodes:
{"".join(f"- {{name: {name}}}{chr(10)}" for name in _OURS)}\
{"".join(f"- {{name: {name}, kind: bare}}{chr(10)}" for name in _BARE + _PLAIN)}"""

_TAG = Path(__file__).with_name("tag.c")
_TAG_BYTES = 4
_KERNEL_VXLAN = Tunnel("vxlan", 3100, 4789)
_VXLAN_BYTES = 50  # IPv4, UDP, VXLAN, inner Ethernet header


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment with a pod on either node of ours."""

    name: str
    number: int
    encap: Encap

    @property
    def vni(self) -> int:
        """Return its VNI."""
        return 3000 + self.number

    @property
    def document(self) -> str:
        """Return the intent that makes it."""
        return (
            f"kind: Segment\nname: {self.name}\nvni: {self.vni}\n"
            f"encap: {self.encap}\nsubnets: [10.{self.number}.0.0/20]\n"
        )


_SLOW = Segment("slow", 33, Encap.GENEVE)
SEGMENTS = (Segment("geneve", 31, Encap.GENEVE), Segment("vxlan", 32, Encap.VXLAN))
INTENT = "---\n".join(segment.document for segment in (*SEGMENTS, _SLOW))

HOST = "host to host"
BRIDGES = "plain bridges"
KERNEL = "kernel VXLAN"
OVS = "Open vSwitch alone"
FAST = tuple(f"{segment.encap} fast path" for segment in SEGMENTS)
NAMES = (HOST, BRIDGES, KERNEL, OVS, *FAST)


@dataclass(frozen=True, slots=True)
class Way:
    """One way between two ends, from ``client`` to ``server``."""

    name: str
    client: Station
    server: Station


def prepare(paths: LabPaths, topology: Topology) -> tuple[Way, ...]:
    """Make every way in a lab that is up, in the order of NAMES. Raises OverweaveError."""
    lab.apply(paths, INTENT)
    tag = _tag_program(paths)
    return (
        Way(HOST, *(_machine(paths, topology, node) for node in _BARE)),
        Way(BRIDGES, *_bridged(paths)),
        Way(KERNEL, *_kernel_vxlan(paths, topology)),
        Way(OVS, *(_tag(pod, tag) for pod in pods(paths, _SLOW))),
        *(Way(name, *pods(paths, segment)) for name, segment in zip(FAST, SEGMENTS, strict=True)),
    )


def fast_packets(paths: LabPaths) -> list[int]:
    """Return how many packets the fast path has taken, on each node of ours."""
    return [_taken(loader.load(paths.node(node).bpf)) for node in _OURS]


def _taken(pins: Pins) -> int:
    with open_map(pins.map("entries")) as entries:
        return sum(traffic_of(value).packets for _, value in entries.items())


def _machine(paths: LabPaths, topology: Topology, node: str) -> Station:
    space = paths.netns(node)
    ip = _underlay_ip(topology, node)
    return Station(node, space, NIC, foreign.mac_of(space, NIC), (ip,), topology.mtu)


def _bridged(paths: LabPaths) -> Iterator[Station]:
    """Make bridges with a pod each; the machine's NIC is a port of them."""
    bridge = "br0"
    for number, node in enumerate(_PLAIN, start=1):
        space = paths.netns(node)
        foreign.ip(space, "link", "add", bridge, "type", "bridge")
        foreign.ip(space, "link", "set", NIC, "master", bridge)
        foreign.ip(space, "link", "set", bridge, "up")
        yield foreign.plug_guest(paths, node, _guest("p", 34, number, MTU), bridge)


def _kernel_vxlan(paths: LabPaths, topology: Topology) -> Iterator[Station]:
    ips = [_underlay_ip(topology, node) for node in _BARE]
    for number, (node, ends) in enumerate(zip(_BARE, (ips, ips[::-1]), strict=True), start=1):
        bridge = foreign.run_kernel_vxlan(paths, node, _KERNEL_VXLAN, ends)
        guest = _guest("k", 35, number, MTU - _VXLAN_BYTES)
        yield foreign.plug_guest(paths, node, guest, bridge)


def _guest(letter: str, net: int, number: int, mtu: int) -> Guest:
    mac = f"02:00:00:00:{net:02x}:{number:02x}"
    return Guest(f"{letter}pod{number}", mac, (f"10.{net}.0.{number}/20",), mtu)


def pods(paths: LabPaths, segment: Segment) -> Sequence[Station]:
    """Attach a pod of a segment to either node of ours. Raises OverweaveError."""
    runtime = Runtime(paths)
    return [runtime.add(Pod(f"{segment.name}-{node}", node, segment.name)) for node in _OURS]


def _tag_program(paths: LabPaths) -> Path:
    """Return the pin of the program that tags frames."""
    bpffs, source = paths.directory / "tag", paths.directory / "tag.src"
    source.mkdir()
    shutil.copy(_TAG, source / "overlay.c")
    ensure_mounted(bpffs)
    return loader.load(bpffs, source).program("access_port")


def _tag(pod: Station, program: Path) -> Station:
    """Let a pod tag what it sends."""
    tc = ["tc", "-n", pod.netns.name]
    foreign.command([*tc, "qdisc", "add", "dev", pod.ifname, "clsact"])
    what = ["bpf", "direct-action", "object-pinned", str(program)]
    foreign.command([*tc, "filter", "add", "dev", pod.ifname, "egress", *what])
    mtu = pod.mtu - _TAG_BYTES
    foreign.ip(pod.netns, "link", "set", pod.ifname, "mtu", str(mtu))
    return replace(pod, mtu=mtu)


def _underlay_ip(topology: Topology, node: str) -> IPv4Address:
    addresses = (address.ip for address in topology.node(node).addresses)
    return next(ip for ip in addresses if isinstance(ip, IPv4Address))
