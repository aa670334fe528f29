"""What tests of the Intel driver start from: the P4 program, small worlds, their numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from finsy.proto import p4i
from google.protobuf import text_format

from dataplane.core.desired import Bindings, Desired, Port
from dataplane.core.model import EntryKey, Mac, Segment
from tests.unit.overlay_builders import NIC, VTEP4, VTEP6, port
from vendors.intel.numbers import Pools
from vendors.intel.pipeline import (
    Bridge,
    NextHop,
    Router,
    Tunnel,
    TunnelSource,
    Wiring,
)

SHIPPED = Path(__file__).parents[2] / "vendors/emulator/e2100/p4info.txt"
WIRING = Wiring({f"rep{number}": 26 + number for number in range(1, 9)})
POOLS = Pools({Bridge: 8, TunnelSource: 16, Tunnel: 20, NextHop: 16, Router: 11})
NEXT_HOPS = {
    vtep: Mac(f"02:00:00:00:bb:{number:02x}") for number, vtep in enumerate((*VTEP4, *VTEP6))
}


def read_p4info(path: Path) -> p4i.P4Info:
    return text_format.Parse(path.read_text(encoding="utf-8"), p4i.P4Info())


def vf(slot: int, segment: Segment) -> Port:
    """Return workload ``slot`` on the VF behind the representor of that number."""
    plain = port(slot, segment)
    return replace(plain, attachment=replace(plain.attachment, netdev=f"rep{slot}"))


def entries(wanted: Desired) -> frozenset[EntryKey]:
    """Return the keys of all entries."""
    views = wanted.segments.values()
    local = {EntryKey(v.segment.vni, p.attachment.mac) for v in views for p in v.ports}
    far = {EntryKey(v.segment.vni, r.endpoint.mac) for v in views for r in v.remotes}
    return frozenset(local | far)


def bound(placed: Iterable[EntryKey]) -> Bindings:
    return Bindings(NIC, next_hops=NEXT_HOPS, placed=frozenset(placed))
