"""Where each entry of the forwarding table is placed, and why not higher. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dataplane.core.desired import Desired, PortState
from dataplane.core.model import IpAddress, Mac, Vni
from dataplane.core.reasons import Reason


class Placement(StrEnum):
    """Which path forwards to a MAC by itself; Open vSwitch always could."""

    FASTPATH = "fastpath"
    OVS = "ovs"


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an entry has forwarded; frames, and their bytes without what the wire adds."""

    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class PlacedEntry:
    """(VNI, MAC) -> AccessPort or VTEP (``via``), with its placement and the reason for OVS."""

    segment: str
    vni: Vni
    mac: Mac
    identity: str
    via: str | IpAddress
    placement: Placement
    reason: Reason | None
    traffic: Traffic | None


def placed_entries(
    desired: Desired, fast: Mapping[tuple[int, Mac], Traffic]
) -> Iterator[PlacedEntry]:
    """Yield every entry of ``desired``; ``fast`` is what the fast path really holds."""
    otherwise = Reason.PENDING if desired.node.ebpf else Reason.NO_FASTPATH
    for view in desired.segments.values():
        segment = view.segment
        for port in view.ports:
            held = fast.get((segment.vni, port.attachment.mac))
            blocked = port.reason if port.state is PortState.BLOCKED else None
            if blocked:
                held = None  # a MAC of that name is somebody else's
            yield PlacedEntry(
                segment.name,
                segment.vni,
                port.attachment.mac,
                port.attachment.identity,
                port.attachment.access_port,
                *_placed(held, blocked or otherwise),
                held,
            )
        for remote in view.remotes:
            held = fast.get((segment.vni, remote.endpoint.mac))
            yield PlacedEntry(
                segment.name,
                segment.vni,
                remote.endpoint.mac,
                remote.endpoint.identity,
                remote.vtep,
                *_placed(held, otherwise),
                held,
            )


def _placed(held: Traffic | None, reason: Reason) -> tuple[Placement, Reason | None]:
    return (Placement.OVS, reason) if held is None else (Placement.FASTPATH, None)
