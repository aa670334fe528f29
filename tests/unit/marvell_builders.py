"""Small worlds of a DPU for tests of the Marvell driver's pure parts."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import strategies as st

from dataplane.core.desired import Bindings, Desired, Port
from dataplane.core.model import (
    Encap,
    EntryKey,
    Family,
    Guard,
    Hardware,
    IpAddress,
    Mac,
    Pin,
    Segment,
)
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MAC_ONLY,
    NIC,
    UNGUARDED,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    desired,
    ips_of,
    mac_of,
    port,
    remote,
    view,
)
from vendors.marvell.pipeline import Wiring

SEGMENTS = (GENEVE4, GENEVE6, VXLAN4, VXLAN6, MAC_ONLY, UNGUARDED)
VFS = {f"rep{number}": f"vf{number}" for number in range(1, 9)}
WIRING = Wiring("br-mrv0", "up", "cpu0", VFS, "node-a")
NEXT_HOPS = {
    vtep: Mac(f"02:00:00:00:bb:{number:02x}") for number, vtep in enumerate((*VTEP4, *VTEP6))
}
TUNNELS = frozenset((encap, family) for encap in Encap for family in Family)
GUARDS = dict.fromkeys(VFS, frozenset(Guard))


def vf(slot: int, segment: Segment, ips: tuple[IpAddress, ...] | None = None) -> Port:
    """Return workload ``slot`` on the VF behind the representor of that number."""
    plain = port(slot, segment, ips)
    return replace(plain, attachment=replace(plain.attachment, netdev=f"rep{slot}"))


def vteps_of(segment: Segment) -> tuple[IpAddress, ...]:
    return VTEP4 if segment.underlay is Family.IPV4 else VTEP6


def entries(wanted: Desired) -> frozenset[EntryKey]:
    """Return the keys of all entries."""
    views = wanted.segments.values()
    local = {EntryKey(v.segment.vni, p.attachment.mac) for v in views for p in v.ports}
    far = {EntryKey(v.segment.vni, r.endpoint.mac) for v in views for r in v.remotes}
    return frozenset(local | far)


def bound(placed: frozenset[EntryKey]) -> Bindings:
    return Bindings(NIC, next_hops=NEXT_HOPS, placed=placed)


@st.composite
def worlds(draw: st.DrawFn) -> Desired:
    """Draw segments with VFs and endpoints of other nodes, some of them pinned."""
    views = []
    slots = iter(draw(st.permutations(range(1, 9))))
    for segment in draw(st.lists(st.sampled_from(SEGMENTS), unique=True, min_size=1, max_size=3)):
        ports = []
        for _ in range(draw(st.integers(0, 2))):
            slot = next(slots)
            ports.append(vf(slot, segment, ips_of(slot)[: draw(st.integers(0, 2))]))
        numbers = draw(st.lists(st.integers(100, 120), unique=True, max_size=5))
        via = st.sampled_from(vteps_of(segment))
        drawn = view(segment, ports, [remote(n, segment, draw(via)) for n in numbers])
        macs = [*(each.attachment.mac for each in ports), *map(mac_of, numbers)]
        words = {mac: draw(st.sampled_from((None, *Hardware))) for mac in macs}
        pins = tuple(Pin(segment.name, mac, word) for mac, word in words.items() if word)
        views.append(replace(drawn, pins=pins))
    return desired(*views)


def chosen(wanted: Desired) -> st.SearchStrategy[frozenset[EntryKey]]:
    """Return strategies of what may be placed of a world."""
    keys = sorted(entries(wanted))
    return st.frozensets(st.sampled_from(keys)) if keys else st.just(frozenset())
