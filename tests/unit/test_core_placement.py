"""Where an entry is shown to be placed, and why no higher."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from dataplane.core.desired import Desired, PortState
from dataplane.core.model import Mac
from dataplane.core.placement import FullMap, Placement, Traffic, placed_entries
from dataplane.core.reasons import Reason
from tests.unit.overlay_builders import GENEVE4, VTEP4, desired, mac_of, port, remote, view

SEEN = Traffic(7, 700)
LOCAL, FAR = mac_of(1), mac_of(101)


def world(*, ebpf: bool = True, state: PortState = PortState.ACTIVE) -> Desired:
    reason = Reason.SUPERSEDED if state is PortState.BLOCKED else None
    local = replace(port(1, GENEVE4, state=state), reason=reason)
    found = desired(view(GENEVE4, [local], [remote(101, GENEVE4, VTEP4[0])]))
    return replace(found, node=replace(found.node, ebpf=ebpf))


@pytest.mark.parametrize(
    ("known", "held", "full", "local", "far"),
    [
        pytest.param(world(), (LOCAL, FAR), (), None, None, id="all in eBPF"),
        pytest.param(world(), (LOCAL,), (), None, Reason.PENDING, id="not there yet"),
        pytest.param(
            world(), (LOCAL,), (FullMap("entries"),), None, Reason.TABLE_FULL, id="no room"
        ),
        pytest.param(
            world(), (LOCAL,), (FullMap("neighbours"),), None, Reason.PENDING, id="room for entries"
        ),
        pytest.param(
            world(ebpf=False), (), (), Reason.NO_FASTPATH, Reason.NO_FASTPATH, id="without eBPF"
        ),
        pytest.param(
            world(state=PortState.BLOCKED),
            (LOCAL, FAR),
            (),
            Reason.SUPERSEDED,
            None,
            id="what is held is another's of that MAC",
        ),
    ],
)
def test_why_no_higher(
    known: Desired,
    held: Collection[str],
    full: Collection[FullMap],
    local: Reason | None,
    far: Reason | None,
) -> None:
    traffic: dict[tuple[int, Mac], Traffic] = {
        (GENEVE4.vni, mac): SEEN for mac in (LOCAL, FAR) if mac in held
    }
    entries = list(placed_entries(known, traffic, full))
    assert [(e.mac, e.reason) for e in entries] == [(LOCAL, local), (FAR, far)]
    for entry in entries:
        is_fast = entry.reason is None
        assert entry.placement is (Placement.FASTPATH if is_fast else Placement.OVS)
        assert entry.traffic == (SEEN if is_fast else None)
    assert [entry.via for entry in entries] == ["vp1", VTEP4[0]]
