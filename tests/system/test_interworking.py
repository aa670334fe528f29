"""Nodes we did not write join our segments: the kernel's VXLAN device and a plain Open vSwitch."""

from collections.abc import Iterator

import pytest

from dataplane.core.model import IpAddress
from dataplane.lab import foreign, lab, matrix, probes
from dataplane.lab.foreign import Guest, PlainOvs, Tunnel
from dataplane.lab.probes import Pace, Station
from dataplane.lab.scene import COLOURS, Colour, Scene
from dataplane.lab.topology import LabNode

UDP_PORT = {"geneve": 6081, "vxlan": 4789}  # RFC 8926, RFC 7348
KERNEL, PLAIN = "k1", "k2"


def static_node(name: str, node: LabNode, guests: dict[Colour, Guest]) -> str:
    """Return the intent that tells the fabric of a node without agent and who is behind it."""
    vteps = ", ".join(f"'{address.ip}'" for address in node.addresses)
    endpoints = "".join(
        f"- {{segment: {colour.name}, mac: '{guest.mac}', ips: {bare(guest.ips)}}}\n"
        for colour, guest in guests.items()
    )
    return f"kind: Node\nname: {name}\nvteps: [{vteps}]\nendpoints:\n{endpoints}"


def bare(ips: tuple[str, ...]) -> str:
    return "[" + ", ".join(f"'{ip.split('/')[0]}'" for ip in ips) + "]"


def vtep(node: LabNode, colour: Colour) -> IpAddress:
    version = 4 if colour.underlay == "ipv4" else 6
    return next(a.ip for a in node.addresses if a.version == version)


def guest_of(colour: Colour, node: str, mtu: int) -> Guest:
    host = 200 + colour.number
    mac = f"02:00:00:00:{colour.number:02x}:{host:02x}"
    return Guest(f"{node}{colour.name}", mac, colour.static_ips(host), mtu)


def peers(scene: Scene, colour: Colour) -> list[IpAddress]:
    return [vtep(node, colour) for node in scene.topology.agents]


def colours(encap: str) -> list[Colour]:
    return [colour for colour in COLOURS if colour.encap == encap]


@pytest.fixture(scope="module")
def kernel(shared: Scene) -> Iterator[dict[str, Station]]:
    """The kernel's VXLAN device, a bridge and a pod for each VXLAN segment."""
    node = shared.topology.node(KERNEL)
    stations, guests = {}, {}
    tunnels = {
        colour: Tunnel("vxlan", colour.vni, UDP_PORT["vxlan"]) for colour in colours("vxlan")
    }
    for colour, tunnel in tunnels.items():
        ends = [vtep(node, colour), *peers(shared, colour)]
        bridge = foreign.run_kernel_vxlan(shared.paths, KERNEL, tunnel, ends)
        guests[colour] = guest_of(colour, KERNEL, shared.segments[colour.name][0].mtu)
        stations[colour.name] = foreign.plug_guest(shared.paths, KERNEL, guests[colour], bridge)
    lab.apply(shared.paths, static_node(KERNEL, node, guests))
    yield stations
    lab.overweave(shared.paths, "delete", "node", KERNEL)
    for colour, tunnel in tunnels.items():
        foreign.remove_guest(shared.paths, guests[colour])
        foreign.remove_kernel_vxlan(shared.paths, KERNEL, tunnel)


@pytest.fixture(scope="module")
def plain(shared: Scene) -> Iterator[dict[str, Station]]:
    """A plain Open vSwitch for each Geneve segment, wired to the NIC by tc u32 and mirred."""
    node = shared.topology.node(PLAIN)
    stations, guests = {}, {}
    ovs = PlainOvs(shared.paths, PLAIN, UDP_PORT["geneve"])
    ovs.start([str(address) for address in node.addresses])
    for colour in colours("geneve"):
        tunnel = Tunnel("geneve", colour.vni, UDP_PORT["geneve"])
        ovs.connect(tunnel, {vtep(n, colour): mac_of(shared, n) for n in shared.topology.agents})
        guests[colour] = guest_of(colour, PLAIN, shared.segments[colour.name][0].mtu)
        stations[colour.name] = ovs.plug_guest(tunnel, guests[colour])
    lab.apply(shared.paths, static_node(PLAIN, node, guests))
    yield stations
    lab.overweave(shared.paths, "delete", "node", PLAIN)
    ovs.stop()
    for guest in guests.values():
        foreign.remove_guest(shared.paths, guest)


def mac_of(scene: Scene, node: LabNode) -> str:
    return foreign.mac_of(scene.paths.netns(node.name), "eth0")


def verify(scene: Scene, name: str, stranger: Station) -> None:
    ours = scene.segments[name]
    # A stranger learns: the first packet of each of ours tells it where that one is.
    for station in ours:
        probes.ping(station, stranger.ip(4), Pace(count=3))
    verdict = matrix.verify([stranger, *ours[:4]])
    print(f"{name}: {verdict.reachable}/{verdict.pairs} pairs, {verdict.round_trip * 1000:.2f} ms")
    assert verdict.faults == ()


@pytest.mark.parametrize("colour", colours("vxlan"), ids=lambda colour: f"over {colour.underlay}")
def test_with_the_kernels_vxlan_device(
    scene: Scene, kernel: dict[str, Station], colour: Colour
) -> None:
    verify(scene, colour.name, kernel[colour.name])


@pytest.mark.parametrize("colour", colours("geneve"), ids=lambda colour: f"over {colour.underlay}")
def test_with_a_plain_open_vswitch(scene: Scene, plain: dict[str, Station], colour: Colour) -> None:
    verify(scene, colour.name, plain[colour.name])
