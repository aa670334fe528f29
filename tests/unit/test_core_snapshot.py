"""What the snapshot says of entries that the DPU's switch does not hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.core.capability import Capability
from dataplane.core.diff import Pending
from dataplane.core.events import TargetReport
from dataplane.core.model import EntryKey, Vni
from dataplane.core.offload import Choice, SwitchView
from dataplane.core.placement import Cause, Placement, Traffic
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import SWITCH_TARGET, Snapshot
from tests.unit.overlay_builders import mac_of
from tests.unit.test_core_state import after, synced

KEY, OTHER = EntryKey(Vni(100), mac_of(1)), EntryKey(Vni(100), mac_of(2))
UP = Capability("test", "switch", emulated=True)


def snapshot(switch: SwitchView, choice: Choice, *refused: Pending) -> Snapshot:
    state = replace(after(*synced()), switch=switch)
    reports = {SWITCH_TARGET: TargetReport(SWITCH_TARGET, 1, "", refused)}
    return Snapshot(state, (SWITCH_TARGET,), reports=reports, choice=choice)


@pytest.mark.parametrize(
    ("switch", "choice", "refused", "cause"),
    [
        pytest.param(SwitchView(), Choice(), (), None, id="no switch"),
        pytest.param(
            SwitchView(UP),
            Choice(reasons={KEY: Reason.BELOW_THRESHOLD}),
            (),
            Cause(Reason.BELOW_THRESHOLD),
            id="not chosen",
        ),
        pytest.param(
            SwitchView(UP),
            Choice(frozenset({KEY})),
            (),
            Cause(Reason.PENDING),
            id="chosen, not there yet",
        ),
        pytest.param(
            SwitchView(UP),
            Choice(frozenset({KEY})),
            (Pending(KEY, "table-full: OFPFMFC_TABLE_FULL: table 3"),),
            Cause(Reason.TABLE_FULL, "OFPFMFC_TABLE_FULL: table 3"),
            id="refused, in the device's words",
        ),
        pytest.param(
            SwitchView(UP),
            Choice(frozenset({KEY})),
            (Pending(KEY, "the device said: no"),),
            Cause(Reason.PENDING, "the device said: no"),
            id="refused without one of our reasons",
        ),
        pytest.param(
            SwitchView(UP),
            Choice(reasons={KEY: Reason.BELOW_THRESHOLD}),
            (Pending(KEY, "table-full: it was"),),
            Cause(Reason.BELOW_THRESHOLD),
            id="refused before it was given up",
        ),
        pytest.param(
            SwitchView(None, "no answer within 0.5 s"),
            Choice(frozenset({KEY}), {KEY: Reason.DEVICE_DOWN}),
            (),
            Cause(Reason.DEVICE_DOWN, "no answer within 0.5 s"),
            id="down",
        ),
        pytest.param(
            SwitchView(UP, "no answer within 0.5 s"),
            Choice(frozenset({KEY}), {KEY: Reason.DEVICE_DOWN}),
            (),
            Cause(Reason.DEVICE_DOWN, "no answer within 0.5 s"),
            id="down by now",
        ),
        pytest.param(
            SwitchView(replace(UP, obstacle="NORMAL is in the way", forwards=False)),
            Choice(reasons={KEY: Reason.SWITCH_TAKEN}),
            (),
            Cause(Reason.SWITCH_TAKEN, "NORMAL is in the way"),
            id="programmed by others, before us",
        ),
        pytest.param(
            SwitchView(replace(UP, obstacle="tunnels of others")),
            Choice(reasons={KEY: Reason.SWITCH_TAKEN}),
            (),
            Cause(Reason.SWITCH_TAKEN, "tunnels of others"),
            id="programmed by others, beside us",
        ),
    ],
)
def test_why_an_entry_is_not_in_the_switch(
    switch: SwitchView, choice: Choice, refused: tuple[Pending, ...], cause: Cause | None
) -> None:
    other = Pending("the bridge", "it has no port")
    there = {KEY: Traffic(1, 10)}
    holdings = snapshot(switch, choice, other, *refused).holdings({}, there)
    forwards = switch.capability is None or switch.capability.forwards
    assert holdings.switched == (there if forwards else {})
    assert holdings.unswitched.get(KEY) == cause
    assert OTHER not in holdings.unswitched


@pytest.mark.parametrize(
    ("held", "refused", "lacks"),
    [
        pytest.param({KEY}, (), False, id="it is there"),
        pytest.param(set(), (), True, id="it is not"),
        pytest.param(set(), (Pending(KEY, "table-full: no"),), False, id="it was refused"),
        pytest.param({OTHER}, (Pending("the bridge", "no port"),), True, id="others are"),
    ],
)
def test_what_the_switch_should_hold(
    held: set[EntryKey], refused: tuple[Pending, ...], lacks: bool
) -> None:
    switch = SwitchView(UP, held=frozenset(held))
    assert snapshot(switch, Choice(frozenset({KEY})), *refused).lacks_entries is lacks


@pytest.mark.parametrize(
    ("capability", "placement"),
    [
        pytest.param(UP, Placement.EMULATED, id="emulated"),
        pytest.param(replace(UP, offloads=True), Placement.EMULATED, id="emulated says more"),
        pytest.param(Capability("x", "y"), Placement.SWITCH, id="does not say"),
        pytest.param(Capability("x", "y", offloads=True), Placement.HARDWARE, id="says so"),
    ],
)
def test_in_hardware_is_what_a_device_says_is(capability: Capability, placement: Placement) -> None:
    assert snapshot(SwitchView(capability), Choice()).holdings({}, {}).switch is placement
