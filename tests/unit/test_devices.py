"""Halves of DPUs in the desired state, in the fast path, and as ``get dpu`` shows them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from click.testing import CliRunner

from bpf.entries import fast_entries
from bpf.layout import EntryKind, LocalEntry, encode_entry
from dataplane.cli import get
from dataplane.core.capability import Capability
from dataplane.core.derive import derive
from dataplane.core.desired import Bindings, LocalNode
from dataplane.core.events import DeviceSeen, DevicesFound, StateEvent, SwitchSeen
from dataplane.core.inventory import Found, FoundVf
from dataplane.core.model import Condition, Device, Node, Side
from dataplane.core.state import State
from tests.unit.overlay_builders import GENEVE4, NIC, desired, port, view
from tests.unit.test_core_state import after, synced

HOST = Device("1-host", "1", "marvell", "Marvell Octeon 10", Side.HOST, "n1", ready=False)
DPU = replace(HOST, name="1-dpu", side=Side.DPU, emulated=True)
WELL = Condition("Ready", holds=True, since=1_800_000_000)
ILL = Condition("Ready", holds=False, reason="no answer", since=1_800_000_000)


CARD = Found(
    "marvell",
    "Marvell Octeon 10",
    Side.HOST,
    ("00-01", "marvell-dpu-0000-03-00.0"),
    "0000:03:00.0",
    vfs=(FoundVf("0000:03:02.0", "v0"), FoundVf("0000:03:02.1")),
)
CALLED = replace(HOST, name="marvell-dpu-0000-03-00.0-host", serial="marvell-dpu-0000-03-00.0")


def devices(*events: StateEvent, configured: tuple[Device, ...] = ()) -> tuple[Device, ...]:
    state = State(LocalNode("n1", "eth0", devices=configured))
    found = derive(after(*synced(), *events, state=state))
    assert found is not None
    assert found.publication is not None
    return found.publication.devices


def device(half: Device, *events: StateEvent) -> Device:
    (published,) = devices(*events, configured=(half,))
    return published


@pytest.mark.parametrize(
    ("half", "events", "condition"),
    [
        pytest.param(
            HOST,
            (),
            Condition("Ready", holds=False, reason="the DPU's agent has not been asked yet"),
            id="host, not asked",
        ),
        pytest.param(HOST, (DeviceSeen("1-host", WELL),), WELL, id="host, well"),
        pytest.param(
            HOST,
            (DeviceSeen("1-host", WELL), DeviceSeen("1-host", ILL)),
            ILL,
            id="host, no longer well",
        ),
        pytest.param(
            DPU,
            (),
            Condition("Ready", holds=False, reason="the switch has not answered yet"),
            id="dpu, nothing known",
        ),
        pytest.param(
            DPU,
            (SwitchSeen(Capability("marvell", "1", obstacle="NORMAL is first")),),
            Condition("Ready", holds=False, reason="NORMAL is first"),
            id="dpu, switch taken",
        ),
        pytest.param(
            DPU,
            (SwitchSeen(None, "no answer"),),
            Condition("Ready", holds=False, reason="no answer"),
            id="dpu, switch down",
        ),
        pytest.param(
            DPU,
            (SwitchSeen(None, "no answer"), SwitchSeen(Capability("marvell", "1"))),
            Condition("Ready", holds=True),
            id="dpu, switch back",
        ),
    ],
)
def test_what_is_published(
    half: Device, events: tuple[StateEvent, ...], condition: Condition
) -> None:
    wanted = replace(half, ready=condition.holds, conditions=(condition,))
    assert device(half, *events) == wanted


def test_what_is_found_and_not_configured_is_shown_with_what_is_known_of_it() -> None:
    half = replace(CARD, side=Side.DPU, vfs=(), representors=("rep0", "", *["r"] * 8))
    found = (CARD, half, replace(CARD, serials=("2",), vfs=(), known=False))
    published = devices(DevicesFound(found), configured=(HOST,))
    assert [each.name for each in published] == ["1-host", "00-01-host", "00-01-dpu", "2-host"]
    assert not any(each.ready for each in published)
    words = [{told.kind: told.reason for told in each.conditions} for each in published[1:]]
    assert words == [
        {
            "Configured": "to use it, list serial 00-01 or marvell-dpu-0000-03-00.0 in 'devices'"
            " of this node's configuration",
            "Found": "0000:03:00.0; VFs 0000:03:02.0 (v0), 0000:03:02.1 (no netdev here)",
        },
        {
            "Configured": "to use it, list it with the serial that its host has in 'devices' of"
            " this node's configuration",
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


@pytest.mark.parametrize("serial", CARD.serials)
def test_what_is_configured_goes_before_what_is_found(serial: str) -> None:
    ours = replace(HOST, name=f"{serial}-host", serial=serial)
    wanted = replace(ours, ready=True, conditions=(WELL,))
    assert devices(DevicesFound((CARD,)), DeviceSeen(ours.name, WELL), configured=(ours,)) == (
        wanted,
    )


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
    found = DevicesFound((replace(CARD, side=Side.DPU),))
    assert [each.name for each in devices(found, configured=(replace(ours, **given),))] == names


@pytest.mark.parametrize(
    ("looks", "ready"),
    [
        pytest.param([], True, id="nobody looks, or it is emulated"),
        pytest.param([()], True, id="never seen: it may have another serial"),
        pytest.param([(CARD,)], True, id="there"),
        pytest.param([(CARD,), ()], False, id="unplugged"),
        pytest.param([(CARD,), (), (CARD,)], True, id="plugged in again"),
    ],
)
def test_a_configured_device_that_is_unplugged_is_not_ready(
    looks: list[tuple[Found, ...]], *, ready: bool
) -> None:
    told = device(CALLED, DeviceSeen(CALLED.name, WELL), *map(DevicesFound, looks))
    assert told.ready is ready
    gone = "this machine no longer has it: plug it in again, or take it out of 'devices'"
    assert told.conditions[0].reason == ("" if ready else gone)


def test_a_switch_that_goes_down_is_decided_anew() -> None:
    state = after(*synced())
    down = after(SwitchSeen(None, "no answer"), state=state)
    assert not down.is_decided_as(state)
    assert after(SwitchSeen(None, "no answer"), state=down).is_decided_as(down)
    up, taken = Capability("marvell", "1"), Capability("marvell", "1", obstacle="NORMAL is first")
    back = after(SwitchSeen(up), state=down)
    assert not back.is_decided_as(down)
    assert after(SwitchSeen(replace(up, limits=("12 flows",))), state=back).is_decided_as(back)
    assert not after(SwitchSeen(taken), state=back).is_decided_as(back)


@pytest.mark.parametrize(
    ("netdev", "kind"), [("", EntryKind.VETH), ("rep1", EntryKind.NETDEV)], ids=["veth", "rep"]
)
def test_nothing_is_put_behind_a_representor(netdev: str, kind: EntryKind) -> None:
    ours = port(1, GENEVE4)
    ours = replace(ours, attachment=replace(ours.attachment, netdev=netdev))
    wanted = desired(view(GENEVE4, [ours]))
    numbers = Bindings(ifindexes={NIC.name: 7, netdev or "vp1": 9})
    values = {each.value for each in fast_entries(wanted, numbers) if each.map_name == "entries"}
    assert values == {encode_entry(LocalEntry(9, kind))}


def shown(monkeypatch: pytest.MonkeyPatch, *words: str) -> str:
    ready = replace(HOST, ready=True, conditions=(WELL,))
    rows = (Node("n1", ()), ready, replace(DPU, node="d1", conditions=(ILL,)))
    monkeypatch.setattr(get, "_read", lambda _remote: rows)
    run = CliRunner().invoke(get.get, ["dpu", *words])
    assert run.exit_code == 0, run.output
    return run.output


def test_get_dpu(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch).splitlines() == [
        "NAME     DPU PRODUCT                    DPU SIDE   MODE NAME   STATUS",
        "1-dpu    Marvell Octeon 10 (emulated)   true       d1          False",
        "1-host   Marvell Octeon 10              false      n1          True",
    ]


@pytest.mark.parametrize(
    ("host", "serial", "status", "words"),
    [
        pytest.param(ILL, "1", False, " Answers=False since", id="its host does not hear it"),
        pytest.param(WELL, "1", True, "", id="its host hears it"),
        pytest.param(ILL, "2", True, "", id="that of another DPU is not heard"),
    ],
)
def test_a_dpu_that_its_host_does_not_hear_is_not_ready(
    host: Condition, serial: str, *, status: bool, words: str
) -> None:
    """Its row is what its agent said last, and stays when that one dies."""
    dpu = replace(DPU, node="d1", ready=True, conditions=(WELL,))
    front = replace(HOST, serial=serial, ready=host.holds, conditions=(host,))
    records = {record["name"]: record for record in get.dpu_records((dpu, front))}
    assert records["1-dpu"]["status"] is status
    said = " ".join(records["1-dpu"]["conditions"])
    assert (words in said, f"no answer (says {front.node})" in said) == (True, not status)
    assert records["1-host"]["status"] is host.holds


def test_a_host_that_does_not_use_a_card_says_nothing_of_its_agent() -> None:
    dpu = replace(DPU, node="d1", ready=True, conditions=(WELL,))
    (unused,) = devices(DevicesFound((replace(CARD, serials=("1",)),)))
    records = {record["name"]: record for record in get.dpu_records((dpu, unused))}
    assert records["1-dpu"]["status"] is True
    assert records["1-host"]["status"] is False


def test_get_dpu_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    head, dpu, host = shown(monkeypatch, "-o", "wide").splitlines()
    assert head.split("   ")[-1] == "CONDITIONS"
    assert "marvell   yes" in dpu
    assert dpu.endswith("Ready=False since 2027-01-15T08:00:00+00:00 no answer")
    assert "marvell   no" in host


def test_get_dpu_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    (dpu,) = json.loads(shown(monkeypatch, "d1", "-o", "json"))
    assert dpu == {
        "name": "1-dpu",
        "dpu_product": "Marvell Octeon 10 (emulated)",
        "dpu_side": True,
        "node": "d1",
        "status": False,
        "serial": "1",
        "vendor": "marvell",
        "emulated": True,
        "conditions": ["Ready=False since 2027-01-15T08:00:00+00:00 no answer"],
    }
