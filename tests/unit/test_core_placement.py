"""Where an entry is shown to be placed, and why no higher."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import pytest

from dataplane.core.desired import Desired, PortState
from dataplane.core.model import EntryKey, Mac
from dataplane.core.placement import (
    Cause,
    FullMap,
    Holdings,
    Placement,
    Traffic,
    placed_entries,
)
from dataplane.core.reasons import Reason
from tests.unit.overlay_builders import (
    GENEVE4,
    VTEP4,
    desired,
    mac_of,
    port,
    remote,
    trunk,
    view,
)

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
    fast = {EntryKey(GENEVE4.vni, mac): SEEN for mac in (LOCAL, FAR) if mac in held}
    entries = list(placed_entries(known, Holdings(fast, full)))
    found = [(e.mac, e.cause.reason if e.cause else None) for e in entries]
    assert found == [(LOCAL, local), (FAR, far)]
    for entry in entries:
        is_fast = entry.cause is None
        assert entry.placement is (Placement.FASTPATH if is_fast else Placement.OVS)
        assert entry.traffic == ({Placement.FASTPATH: SEEN} if is_fast else {})
    assert [entry.via for entry in entries] == ["vp1", VTEP4[0]]


def test_a_trunk_port_is_served_by_open_vswitch_alone() -> None:
    known = desired(view(GENEVE4, [trunk(1, GENEVE4, 5)]))
    holdings = Holdings({EntryKey(GENEVE4.vni, LOCAL): SEEN})  # of who had its MAC before
    (entry,) = placed_entries(known, holdings)
    assert (entry.placement, entry.via, entry.traffic) == (Placement.OVS, "rep1", {})
    assert entry.cause == Cause(Reason.UNSUPPORTED_MATCH)


FULL = Cause(Reason.TABLE_FULL, "OFPFMFC_TABLE_FULL")


@pytest.mark.parametrize(
    ("held", "switched", "unswitched", "placement", "cause"),
    [
        pytest.param(True, True, {}, Placement.EMULATED, None, id="in the switch"),
        pytest.param(False, True, {}, Placement.EMULATED, None, id="not yet in eBPF"),
        pytest.param(True, False, {FAR: FULL}, Placement.FASTPATH, FULL, id="not in the switch"),
        pytest.param(True, False, {}, Placement.FASTPATH, None, id="no switch"),
        pytest.param(
            False, False, {FAR: FULL}, Placement.OVS, Cause(Reason.PENDING), id="in neither"
        ),
    ],
)
def test_where_there_is_a_switch(
    held: bool,
    switched: bool,
    unswitched: Mapping[Mac, Cause],
    placement: Placement,
    cause: Cause | None,
) -> None:
    key = EntryKey(GENEVE4.vni, FAR)
    holdings = Holdings(
        fast={key: Traffic(1, 10)} if held else {},
        switch=Placement.EMULATED,
        switched={key: SEEN} if switched else {},
        unswitched={EntryKey(GENEVE4.vni, mac): why for mac, why in unswitched.items()},
    )
    _, found = placed_entries(world(), holdings)
    assert (found.placement, found.cause) == (placement, cause)
    counted = {Placement.EMULATED: SEEN} if switched else {}
    assert found.traffic == counted | ({Placement.FASTPATH: Traffic(1, 10)} if held else {})
