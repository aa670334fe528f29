"""Where each entry of the forwarding table is placed, and why not higher. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from dataplane.core.capability import Capability
from dataplane.core.desired import Desired, Port, PortState, SegmentView
from dataplane.core.functions import Role
from dataplane.core.model import Attachment, Endpoint, EntryKey, IpAddress, Mac, Vni
from dataplane.core.reasons import Reason


class Placement(StrEnum):
    """Which path forwards to a MAC by itself; Open vSwitch always could.

    What a DPU's switch holds is in HARDWARE only if the device says so; an EMULATED one proves
    nothing about speed, and any other SWITCH may well work in software, too.
    """

    HARDWARE = "hardware"
    SWITCH = "switch"
    EMULATED = "emulated"
    FASTPATH = "fastpath"
    OVS = "ovs"


def placement_in(switch: Capability | None) -> Placement:
    """Return as what an entry counts that ``switch`` holds."""
    if switch is not None and switch.emulated:
        return Placement.EMULATED
    return Placement.HARDWARE if switch is not None and switch.offloads else Placement.SWITCH


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an entry has forwarded; frames, and their bytes without what the wire adds."""

    packets: int
    bytes: int


_NOTHING = Traffic(0, 0)


def forwarded(
    before: Mapping[EntryKey, Traffic], now: Mapping[EntryKey, Traffic]
) -> dict[EntryKey, int]:
    """Return how many packets each entry has forwarded since; a counter may have begun anew."""
    found = {}
    for key, each in now.items():
        earlier = before.get(key, _NOTHING).packets
        found[key] = each.packets - (earlier if earlier <= each.packets else 0)
    return found


@dataclass(frozen=True, slots=True)
class Cause:
    """A reason, and the words of the kernel or the device behind it."""

    reason: Reason
    words: str = ""


@dataclass(frozen=True, slots=True)
class PlacedEntry:
    """(VNI, MAC) -> AccessPort or VTEP (``via``), with its placement and why it is no higher.

    ``traffic`` is what each path that holds it has forwarded; Open vSwitch does not say.
    """

    segment: str
    vni: Vni
    mac: Mac
    identity: str
    via: str | IpAddress
    placement: Placement
    cause: Cause | None
    traffic: Mapping[Placement, Traffic]


@dataclass(frozen=True, slots=True)
class FullMap:
    """A map without room for all: what is said to be pending where Open vSwitch does the rest."""

    name: str

    def __str__(self) -> str:
        """Name it in a report."""
        return f"map {self.name}"


ENTRIES_FULL = FullMap("entries")


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the paths above Open vSwitch really hold, and why they hold no more.

    ``full`` are the fast path's maps without room. ``switched`` is what the DPU's switch holds,
    which counts as ``switch``; ``unswitched`` says of each other entry why not, and is empty where
    there is no switch.
    """

    fast: Mapping[EntryKey, Traffic]
    full: Collection[FullMap] = ()
    switch: Placement = Placement.SWITCH
    switched: Mapping[EntryKey, Traffic] = field(default_factory=dict)
    unswitched: Mapping[EntryKey, Cause] = field(default_factory=dict)

    def traffic(self, key: EntryKey) -> dict[Placement, Traffic]:
        """Return what each path that holds ``key`` has forwarded, the highest first."""
        paths = {self.switch: self.switched, Placement.FASTPATH: self.fast}
        return {path: held[key] for path, held in paths.items() if key in held}


def placed_entries(desired: Desired, holdings: Holdings) -> Iterator[PlacedEntry]:
    """Yield every entry of ``desired``."""
    lacking = Reason.TABLE_FULL if ENTRIES_FULL in holdings.full else Reason.PENDING
    slow = Cause(lacking if desired.node.ebpf else Reason.NO_FASTPATH)
    for view in desired.segments.values():
        for owner, via, why_not in _owners(view):
            key = EntryKey(view.segment.vni, owner.mac)
            # What is held for such a port is another's, of the same MAC.
            traffic = {} if why_not else holdings.traffic(key)
            placement = next(iter(traffic), Placement.OVS)
            causes = {
                Placement.OVS: why_not or slow,
                Placement.FASTPATH: holdings.unswitched.get(key),
            }
            yield PlacedEntry(
                segment=view.segment.name,
                vni=key.vni,
                mac=key.mac,
                identity=owner.identity,
                via=via,
                placement=placement,
                cause=causes.get(placement),
                traffic=traffic,
            )


def _owners(
    view: SegmentView,
) -> Iterator[tuple[Attachment | Endpoint, str | IpAddress, Cause | None]]:
    """Yield who is on a segment, where its frames go, and why not, or by Open vSwitch alone."""
    for port in view.ports:
        yield port.attachment, port.attachment.access_port, _obstacle(port)
    for remote in view.remotes:
        yield remote.endpoint, remote.vtep, None


def _obstacle(port: Port) -> Cause | None:
    if port.state is PortState.BLOCKED or port.role is not Role.PLAIN:
        return Cause(port.reason or Reason.PENDING, port.detail)
    # Tags are written and read by Open vSwitch alone.
    return Cause(Reason.UNSUPPORTED_MATCH) if port.attachment.vlan is not None else None
