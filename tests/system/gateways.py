"""Gateways of a lab's segments, and pods that use them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from dataplane.lab import lab, probes
from dataplane.lab.foreign import ip
from dataplane.lab.probes import Pace, Station
from dataplane.lab.scene import Colour, Scene

VRF = "shop"
_HOST = 0xE


def gateway_of(colour: Colour, version: int) -> str:
    """Return an address that no pod is given unasked."""
    return prefixes_of(colour)[version == 6].partition("/")[0]


def prefixes_of(colour: Colour) -> tuple[str, str]:
    """Return it with the subnet, of each family."""
    return colour.static_ips(_HOST)


def gateway_mac(colour: Colour) -> str:
    """Return the MAC that the gateway of a segment has on every node."""
    return f"02:00:5e:00:01:{colour.number:02x}"


def documents(colours: Sequence[Colour]) -> str:
    """Return the intent of a Vrf with a gateway in each segment."""
    svis = (
        f"kind: Svi\nname: {colour.name}\nvrf: {VRF}\nsegment: {colour.name}\n"
        f"mac: '{gateway_mac(colour)}'\nprefixes: {list(prefixes_of(colour))}\n"
        for colour in colours
    )
    return "---\n".join([f"kind: Vrf\nname: {VRF}\n", *svis])


@contextmanager
def routed(scene: Scene, colours: Sequence[Colour]) -> Iterator[None]:
    """Have them."""
    lab.apply(scene.paths, documents(colours))
    yield
    for colour in colours:
        lab.overweave(scene.paths, "delete", "svi", colour.name)
    lab.overweave(scene.paths, "delete", "vrf", VRF)


@contextmanager
def default_routes(pods: Iterable[tuple[Station, Colour]]) -> Iterator[None]:
    """Have pods send what is not on their link to their gateway."""
    with ExitStack() as stack:
        for pod, colour in pods:
            for version in (4, 6):
                way = ("route", "add", "default", "via", gateway_of(colour, version))
                ip(pod.netns, f"-{version}", *way)
                stack.callback(ip, pod.netns, f"-{version}", "route", "del", "default")
        yield


def reaches(source: Station, sink: Station, version: int) -> bool:
    """Say whether one echo request is answered."""
    return probes.ping(source, sink.ip(version), Pace(1, patience=0.2)).received == 1
