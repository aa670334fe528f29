"""Where each entry of the forwarding table is placed, and why not higher. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dataplane.core.desired import Desired, PortState, SegmentView
from dataplane.core.model import Attachment, Endpoint, IpAddress, Mac, Vni
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


@dataclass(frozen=True, slots=True)
class FullMap:
    """A map without room for all: what is said to be pending where Open vSwitch does the rest."""

    name: str

    def __str__(self) -> str:
        """Name it in a report."""
        return f"map {self.name}"


ENTRIES_FULL = FullMap("entries")


def placed_entries(
    desired: Desired, fast: Mapping[tuple[int, Mac], Traffic], full: Collection[FullMap]
) -> Iterator[PlacedEntry]:
    """Yield every entry of ``desired``.

    ``fast`` is what the fast path really holds; ``full`` are those of its maps without room.
    """
    lacking = Reason.TABLE_FULL if ENTRIES_FULL in full else Reason.PENDING
    otherwise = lacking if desired.node.ebpf else Reason.NO_FASTPATH
    for view in desired.segments.values():
        for owner, via, blocked in _owners(view):
            # What is held for a blocked port is another's, of the same MAC.
            held = None if blocked else fast.get((view.segment.vni, owner.mac))
            yield PlacedEntry(
                segment=view.segment.name,
                vni=view.segment.vni,
                mac=owner.mac,
                identity=owner.identity,
                via=via,
                placement=Placement.OVS if held is None else Placement.FASTPATH,
                reason=(blocked or otherwise) if held is None else None,
                traffic=held,
            )


def _owners(
    view: SegmentView,
) -> Iterator[tuple[Attachment | Endpoint, str | IpAddress, Reason | None]]:
    """Yield who is on a segment, where its frames go, and why they must not."""
    for port in view.ports:
        blocked = port.reason if port.state is PortState.BLOCKED else None
        yield port.attachment, port.attachment.access_port, blocked
    for remote in view.remotes:
        yield remote.endpoint, remote.vtep, None
