"""What tests of the Intel driver start from: the P4 program, small worlds, their numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from finsy.proto import p4i
from google.protobuf import text_format

from dataplane.core.model import Guard
from tests.unit.overlay_builders import MAC_ONLY, VXLAN6
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


FREE4 = replace(MAC_ONLY, name="free4", guard=Guard.OFF)
FREE6 = replace(VXLAN6, name="free6", guard=Guard.OFF)


def read_p4info(path: Path) -> p4i.P4Info:
    return text_format.Parse(path.read_text(encoding="utf-8"), p4i.P4Info())
