"""What a machine has of DPUs: published where it is not configured, and asked for where it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from dataplane.cli import get
from dataplane.core.capability import Capability
from dataplane.core.derive import derive
from dataplane.core.desired import LocalNode
from dataplane.core.discovered import Found, FoundVf
from dataplane.core.events import DevicesFound, DevicesTold, HalfHeard, StateEvent, SwitchSeen
from dataplane.core.inventory import Inventory, tell
from dataplane.core.model import Condition, Device, Side
from dataplane.core.snapshot import Snapshot
from dataplane.core.state import State
from tests.unit.test_core_state import after, synced

NOW = 1_800_000_000
HOST = Device("1-host", "1", "marvell", "Marvell Octeon 10", Side.HOST, "n1", ready=False)
DPU = replace(HOST, name="1-dpu", side=Side.DPU, emulated=True)
CARD = Found(
    "marvell",
    "Marvell Octeon 10",
    Side.HOST,
    ("00-01", "marvell-dpu-0000-03-00.0"),
    "0000:03:00.0",
    vfs=(FoundVf("0000:03:02.0", "v0"), FoundVf("0000:03:02.1")),
    assumptions=("card-serial",),
)
CARD_ITSELF = replace(CARD, side=Side.DPU, assumptions=("first-port-mac",))
CALLED = replace(HOST, name="marvell-dpu-0000-03-00.0-host", serial="marvell-dpu-0000-03-00.0")
GONE = "this machine no longer has it: plug it in again, or take it out of 'devices'"
SERVED, TAKES = "the DPU's agent serves it", "its switch takes entries"
UP = Capability("marvell", "1")
TAKEN = replace(UP, obstacle="NORMAL is first")


def devices(*events: StateEvent, configured: tuple[Device, ...] = ()) -> tuple[Device, ...]:
    """Return what is published."""
    state = State(LocalNode("n1", "eth0", devices=configured))
    found = derive(after(*synced(), *events, state=state))
    assert found is not None
    assert found.publication is not None
    return found.publication.devices


def told(half: Device, *events: StateEvent) -> Device:
    """Return what is told of ``half``, which is configured."""
    state = after(*events, state=State(LocalNode("n1", "eth0", devices=(half,))))
    (found,) = tell(Inventory(), Snapshot(state, ()), NOW).devices
    return found


def heard(half: Device, error: str = "") -> HalfHeard:
    return HalfHeard(half.name, NOW, "d1", error=error)


@pytest.mark.parametrize(
    ("half", "events", "ready", "reason"),
    [
        pytest.param(
            HOST, (), False, "the DPU's agent has not been asked yet", id="host, not asked"
        ),
        pytest.param(HOST, (heard(HOST),), True, SERVED, id="host, well"),
        pytest.param(
            HOST,
            (heard(HOST), heard(HOST, "no answer")),
            False,
            "no answer",
            id="host, no longer well",
        ),
        pytest.param(DPU, (), False, "the switch has not answered yet", id="dpu, nothing known"),
        pytest.param(DPU, (SwitchSeen(TAKEN),), False, "NORMAL is first", id="dpu, switch taken"),
        pytest.param(
            DPU, (SwitchSeen(None, "no answer"),), False, "no answer", id="dpu, switch down"
        ),
        pytest.param(
            DPU,
            (SwitchSeen(None, "no answer"), SwitchSeen(UP)),
            True,
            TAKES,
            id="dpu, switch back",
        ),
        pytest.param(
            DPU,
            (SwitchSeen(UP), SwitchSeen(TAKEN)),
            False,
            "NORMAL is first",
            id="dpu, switch taken later",
        ),
    ],
)
def test_what_is_told(
    half: Device, events: tuple[StateEvent, ...], reason: str, *, ready: bool
) -> None:
    found = told(half, *events)
    assert found.ready is ready
    assert found.conditions[0] == Condition("Ready", holds=ready, reason=reason, since=NOW)


def test_what_is_found_and_not_configured_is_shown_with_what_is_known_of_it() -> None:
    half = replace(CARD_ITSELF, vfs=(), representors=("rep0", "", *["r"] * 8))
    found = (CARD, half, replace(CARD, serials=("2",), vfs=(), known=False))
    published = devices(DevicesFound(found), configured=(HOST,))
    assert [each.name for each in published] == ["1-host", "00-01-host", "00-01-dpu", "2-host"]
    assert not any(each.ready for each in published)
    assert [each.vfs for each in published[1:]] == [2, 10, 0]
    assert [each.assumptions for each in published[1:3]] == [("card-serial",), ("first-port-mac",)]
    assert {(each.told_at, each.heard_at) for each in published[1:]} == {(0, 0)}
    words = [{told.kind: told.reason for told in each.conditions} for each in published[1:]]
    assert words == [
        {
            "Configured": "to use it, list serial 00-01 or marvell-dpu-0000-03-00.0 in 'devices'"
            " of this node's configuration and send its agent SIGHUP",
            "Found": "0000:03:00.0; VFs 0000:03:02.0 (v0), 0000:03:02.1 (no netdev here)",
        },
        {
            "Configured": "to use it, list it with the serial that its host has in 'devices' of"
            " this node's configuration and restart its agent",
            "Found": "0000:03:00.0; representors rep0, (not here), r, r, r, r, r, r, and 2 more",
        },
        {
            "Configured": "this product is not known, so it cannot be used",
            "Found": "0000:03:00.0",
        },
    ]


def test_what_is_found_comes_and_goes() -> None:
    assert [each.name for each in devices(DevicesFound((CARD,)))] == ["00-01-host"]
    assert devices(DevicesFound((CARD,)), DevicesFound(())) == ()
    state = after(*synced())
    there = after(DevicesFound((CARD,)), state=state)
    assert not there.is_decided_as(state)
    assert not after(DevicesFound(()), state=there).is_decided_as(there)


@pytest.mark.parametrize("serial", CARD.serials)
def test_what_is_configured_goes_before_what_is_found(serial: str) -> None:
    ours = replace(HOST, name=f"{serial}-host", serial=serial)
    wanted = replace(ours, ready=True)
    found = DevicesFound((CARD,))
    assert devices(found, DevicesTold((wanted,)), configured=(ours,)) == (wanted,)
    assert devices(found, configured=(ours,)) == (ours,)


def test_the_other_half_is_another_device() -> None:
    ours = replace(CALLED, name="dpu", side=Side.DPU)
    names = [each.name for each in devices(DevicesFound((CARD,)), configured=(ours,))]
    assert names == ["dpu", "00-01-host"]


@pytest.mark.parametrize(
    ("given", "names"),
    [
        pytest.param({}, ["1-dpu"], id="it is the node, whatever its serial"),
        pytest.param({"vendor": "intel"}, ["1-dpu", "00-01-dpu"], id="another vendor's"),
        pytest.param({"emulated": True}, ["1-dpu", "00-01-dpu"], id="an emulated one"),
        pytest.param(
            {"serial": "00-01", "emulated": True}, ["1-dpu"], id="by its serial all the same"
        ),
    ],
)
def test_the_dpu_that_the_node_is(given: dict[str, Any], names: list[str]) -> None:
    ours = replace(DPU, emulated=False)
    found = DevicesFound((CARD_ITSELF,))
    assert [each.name for each in devices(found, configured=(replace(ours, **given),))] == names


@pytest.mark.parametrize(
    ("looks", "ready"),
    [
        pytest.param([], True, id="nobody looks, or it is emulated"),
        pytest.param([()], True, id="never seen: it may have another serial"),
        pytest.param([(CARD, CARD_ITSELF)], True, id="there"),
        pytest.param([(CARD, CARD_ITSELF), ()], False, id="unplugged"),
        pytest.param([(CARD, CARD_ITSELF), (), (CARD, CARD_ITSELF)], True, id="plugged in again"),
    ],
)
@pytest.mark.parametrize(
    ("half", "well", "reason"),
    [
        pytest.param(CALLED, heard(CALLED), SERVED, id="host"),
        pytest.param(replace(DPU, emulated=False), SwitchSeen(UP), TAKES, id="dpu"),
    ],
)
def test_a_configured_device_that_is_unplugged_is_not_ready(
    half: Device, well: StateEvent, reason: str, looks: list[tuple[Found, ...]], *, ready: bool
) -> None:
    found = told(half, well, *map(DevicesFound, looks))
    assert found.ready is ready
    assert found.conditions[0].reason == (reason if ready else GONE)


def test_that_it_is_gone_goes_before_what_else_is_wrong() -> None:
    found = told(CALLED, heard(CALLED, "no answer"), DevicesFound((CARD,)), DevicesFound(()))
    assert found.conditions[0].reason == GONE


def test_what_a_card_is_read_by_is_told_as_long_as_it_is_there() -> None:
    there, gone = DevicesFound((CARD, CARD_ITSELF)), DevicesFound(())
    assert told(CALLED, there).assumptions == ("card-serial",)
    assert told(replace(DPU, emulated=False), there).assumptions == ("first-port-mac",)
    assert told(DPU, there).assumptions == ()
    assert told(CALLED, there, gone).assumptions == ()


def test_a_host_that_does_not_use_a_card_says_nothing_of_its_agent() -> None:
    """Its row is never stale, too: it says nothing that wears off."""
    dpu = replace(DPU, node="d1", ready=True, told_at=NOW)
    (unused,) = devices(DevicesFound((replace(CARD, serials=("1",)),)))
    records = {record["name"]: record for record in get.dpu_records((dpu, unused), NOW + 9)}
    assert records["1-dpu"]["status"] is True
    assert records["1-dpu"]["conditions"] == []
    assert records["1-dpu"]["other_half"] == unused.name
    assert records["1-host"]["status"] is False
    kinds = [each.partition(" ")[0] for each in records["1-host"]["conditions"]]
    assert kinds == ["Configured=False", "Found=True"]
    assert (records["1-host"]["told"], records["1-host"]["vfs"]) == (None, 2)
