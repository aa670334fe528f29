"""Halves of DPUs in the desired state, in the fast path, and as ``get dpu`` shows them."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from click.testing import CliRunner

from bpf.entries import fast_entries
from bpf.layout import EntryKind, LocalEntry, encode_entry
from dataplane.cli import get
from dataplane.core.capability import Assumption, Capability, Use
from dataplane.core.derive import derive
from dataplane.core.desired import Bindings, LocalNode
from dataplane.core.events import DeviceSeen, StateEvent, SwitchSeen
from dataplane.core.model import Condition, Device, Guard, Node, Side
from dataplane.core.state import State
from tests.unit.overlay_builders import GENEVE4, NIC, desired, port, view
from tests.unit.test_core_state import after, synced

HOST = Device("1-host", "1", "marvell", "Marvell Octeon 10", Side.HOST, "n1", ready=False)
DPU = replace(HOST, name="1-dpu", side=Side.DPU, emulated=True)
TAKEN_SO = ("misses", "restarts")
WELL = Condition("Ready", holds=True, since=1_800_000_000)
ILL = Condition("Ready", holds=False, reason="no answer", since=1_800_000_000)


def device(half: Device, *events: StateEvent) -> Device:
    state = State(LocalNode("n1", "eth0", devices=(half,)))
    found = derive(after(*synced(), *events, state=state))
    assert found is not None
    assert found.publication is not None
    (published,) = found.publication.devices
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


def test_what_is_assumed_of_a_switch_is_published_by_name() -> None:
    told = tuple(Assumption(use.value, use, "so") for use in Use)
    known = SwitchSeen(Capability("marvell", "1", assumptions=told))
    assert device(DPU, known).assumptions == ("device",)
    assert device(DPU, known, SwitchSeen(None, "no answer")).assumptions == ("device",)
    assert device(DPU).assumptions == device(HOST, known).assumptions == ()


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
    wired = replace(up, guards={"rep0": frozenset({Guard.OFF})})
    assert not after(SwitchSeen(wired), state=back).is_decided_as(back)


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
    rows = (Node("n1", ()), ready, replace(DPU, node="d1", conditions=(ILL,), assumptions=TAKEN_SO))
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


def test_get_dpu_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    head, dpu, host = shown(monkeypatch, "-o", "wide").splitlines()
    assert head.split("   ")[-1] == "CONDITIONS"
    assert "ASSUMPTIONS IN USE" in head
    assert re.search(r"marvell +yes +2 +Ready=", dpu)
    assert re.search(r"marvell +no +- +Ready=", host)
    assert dpu.endswith("Ready=False since 2027-01-15T08:00:00+00:00 no answer")


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
        "assumptions": ["misses", "restarts"],
        "assumptions_in_use": 2,
        "conditions": ["Ready=False since 2027-01-15T08:00:00+00:00 no answer"],
    }
