"""Halves of DPUs in the desired state, in the fast path, and as ``get dpu`` shows them."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import pytest
from click.testing import CliRunner

from bpf.entries import fast_entries
from bpf.layout import EntryKind, LocalEntry, encode_entry
from dataplane.cli import get
from dataplane.core.capability import Capability
from dataplane.core.derive import derive
from dataplane.core.desired import Bindings, LocalNode
from dataplane.core.discovered import Found
from dataplane.core.events import (
    DevicesConfigured,
    DevicesFound,
    DevicesTold,
    HalfHeard,
    PathProbed,
    SwitchSeen,
)
from dataplane.core.model import Condition, Device, Encap, Family, Node, Side, TableUse
from dataplane.core.state import State
from dataplane.fabric.rows import LATEST
from tests.unit.overlay_builders import GENEVE4, NIC, desired, port, view
from tests.unit.test_core_state import after, synced

SERIAL = "030001163eec00ff"
HOST = Device(
    *(f"{SERIAL}-host", SERIAL, "senao", "Intel Netsec Accelerator"),
    *(Side.HOST, "worker-host-ptl-243"),
    ready=False,
)
DPU = replace(HOST, name=f"{SERIAL}-dpu", side=Side.DPU, node="worker-dpu-ptl-243", emulated=True)
TOLD_AT = 1_800_000_000
WELL = Condition("Ready", holds=True, reason="so", since=TOLD_AT)
ILL = Condition("Ready", holds=False, reason="no answer", since=TOLD_AT)


def test_what_is_told_of_devices_is_published() -> None:
    """Before anything is told, they are not ready; and what is told is decided anew."""
    state = after(*synced(), state=State(LocalNode("n1", "eth0", devices=(HOST,))))
    told = after(DevicesTold((replace(HOST, ready=True),)), state=state)
    for each, ready in ((state, False), (told, True)):
        found = derive(each)
        assert found is not None
        assert found.publication is not None
        assert [half.ready for half in found.publication.devices] == [ready]
    assert not told.is_decided_as(state)
    up = Capability("marvell", "1")
    probed = PathProbed("ovs", "lost")
    numbers = (SwitchSeen(up), SwitchSeen(None, "no answer"), HalfHeard(HOST.name, 1), probed)
    assert after(*numbers, state=told).is_decided_as(told)


def test_devices_that_are_configured_anew() -> None:
    """Of one that stays all stays known, of one that goes nothing: it may come back as another."""
    other = replace(HOST, name="2-host", serial="2")
    told = (replace(HOST, ready=True), replace(other, ready=True))
    state = State(LocalNode("n1", "eth0", devices=(HOST, other)))
    heard = (HalfHeard(HOST.name, 1), HalfHeard(other.name, 2))
    state = after(*synced(), *heard, DevicesTold(told), state=state)
    fresh = replace(HOST, name="3-host", serial="3")
    found = after(DevicesConfigured((HOST, fresh)), state=state)
    assert found.node.devices == (HOST, fresh)
    assert found.inventory == told[:1]
    assert found.heard == {HOST.name: heard[0]}
    assert not found.is_decided_as(state)
    none = derive(after(DevicesConfigured(()), state=found))
    assert none is not None
    assert none.publication is not None
    assert none.publication.devices == ()


def test_a_card_that_is_there_already_when_it_is_configured() -> None:
    card = Found("senao", HOST.product, Side.HOST, (SERIAL,), "0000:06:00.0")
    state = after(DevicesFound((card,)), state=State(LocalNode("n1", "eth0")))
    assert [half.name for half in state.discovered.others("n1", ())] == [HOST.name]
    state = after(DevicesConfigured((HOST,)), state=state)
    assert not state.discovered.lacks(HOST)
    assert after(DevicesFound(()), state=state).discovered.lacks(HOST)


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
    half = replace(HOST, vfs=2, told_at=TOLD_AT + 58, heard_at=TOLD_AT + 57)
    ready = replace(half, ready=True, conditions=(WELL,), peer=DPU.node)
    dpu = replace(
        half,
        name=DPU.name,
        side=DPU.side,
        node=DPU.node,
        emulated=True,
        conditions=(ILL,),
        assumptions=("misses", "restarts"),
        tunnels=((Encap.GENEVE, Family.IPV4), (Encap.VXLAN, Family.IPV6)),
        tables=(TableUse("empty", 0, 9), TableUse("forward", 12, 1024)),
        vfs_used=1,
    )
    monkeypatch.setattr(get, "_read", lambda _remote: (Node("n1", ()), ready, dpu))
    monkeypatch.setattr(time, "time", lambda: TOLD_AT + 60.0)
    run = CliRunner().invoke(get.get, ["dpu", *words])
    assert run.exit_code == 0, run.output
    return run.output


def test_get_dpu(monkeypatch: pytest.MonkeyPatch) -> None:
    head, dpu, host = shown(monkeypatch).splitlines()
    columns = ["NAME", "DPU PRODUCT", "DPU SIDE", "MODE NAME", "STATUS"]
    assert re.split("   +", head) == columns
    assert re.split("   +", host) == [
        *("030001163eec00ff-host", "Intel Netsec Accelerator", "false"),
        *("worker-host-ptl-243", "True"),
    ]
    assert re.split("   +", dpu)[1:] == [
        *("Intel Netsec Accelerator (emulated)", "true", "worker-dpu-ptl-243", "False"),
    ]


def test_get_dpu_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    head, *lines = shown(monkeypatch, "-o", "wide").splitlines()
    dpu, host = (
        dict(zip(re.split("   +", head), re.split("   +", each), strict=True)) for each in lines
    )
    assert [*dpu][5:] == [
        *("VENDOR", "EMULATED", "OTHER HALF", "ENCAPSULATIONS", "ROWS IN USE", "VFS", "VFS USED"),
        *("LAST HEARTBEAT", "ASSUMPTIONS IN USE", "CONDITIONS"),
    ]
    assert [*dpu.values()][5:] == [
        *("senao", "yes", HOST.name, "geneve/ipv4, vxlan/ipv6", "forward 12/1024", "2", "1"),
        "2027-01-15T08:00:57+00:00",
        "2",
        "Ready=False since 2027-01-15T08:00:00+00:00 no answer",
    ]
    assert [*host.values()][5:] == [
        *("senao", "no", DPU.name, "-", "-", "2", "-"),
        "2027-01-15T08:00:57+00:00",
        "0",
        "Ready=True since 2027-01-15T08:00:00+00:00 so",
    ]


def test_get_dpu_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    (dpu,) = json.loads(shown(monkeypatch, DPU.node, "-o", "json"))
    assert dpu == {
        "name": DPU.name,
        "dpu_product": "Intel Netsec Accelerator (emulated)",
        "dpu_side": True,
        "node": DPU.node,
        "status": False,
        "serial": SERIAL,
        "vendor": "senao",
        "emulated": True,
        "other_half": HOST.name,
        "other_node": HOST.node,
        "encapsulations": ["geneve/ipv4", "vxlan/ipv6"],
        "tables": {"empty": "0/9", "forward": "12/1024"},
        "rows_in_use": ["forward 12/1024"],
        "vfs": 2,
        "vfs_used": 1,
        "last_heartbeat": "2027-01-15T08:00:57+00:00",
        "told": "2027-01-15T08:00:58+00:00",
        "assumptions": ["misses", "restarts"],
        "assumptions_in_use": 2,
        "conditions": ["Ready=False since 2027-01-15T08:00:00+00:00 no answer"],
    }


UP = replace(DPU, ready=True, conditions=(WELL,), told_at=TOLD_AT)
ILL_HOST = replace(HOST, conditions=(ILL,), peer=DPU.node, told_at=TOLD_AT)


@pytest.mark.parametrize(
    ("host", "late", "status", "words"),
    [
        pytest.param(ILL_HOST, 9, False, "Answers=False since", id="its host does not hear it"),
        pytest.param(replace(ILL_HOST, ready=True, conditions=(WELL,)), 9, True, "", id="it does"),
        pytest.param(replace(ILL_HOST, serial="2"), 9, True, "", id="another DPU is not heard"),
        pytest.param(replace(ILL_HOST, peer="d2"), 9, True, "", id="one of the same name is not"),
        pytest.param(
            replace(ILL_HOST, told_at=TOLD_AT - 200), 9, True, "", id="a host that is dead, too"
        ),
        pytest.param(
            replace(ILL_HOST, ready=True, conditions=(WELL,), told_at=TOLD_AT + 190),
            190,
            False,
            "Told=False since 2027-01-15T08:00:00+00:00 its agent has told nothing for more than",
            id="its agent is dead",
        ),
    ],
)
def test_a_dpu_that_is_not_heard_of_is_not_ready(
    host: Device, late: int, *, status: bool, words: str
) -> None:
    """Its row is what its agent said last, and stays when that one dies."""
    records = {record["name"]: record for record in get.dpu_records((UP, host), TOLD_AT + late)}
    assert records[UP.name]["status"] is status
    conditions = records[UP.name]["conditions"]
    assert conditions[0].startswith("Ready=True")
    assert len(conditions) == 2 - status
    assert words in conditions[-1]


def test_names_that_two_nodes_have() -> None:
    """As plugins name DPUs today: all of a kind alike, and hosts by a slot others have, too."""
    dpu = replace(DPU, name="intel-ipu-dpu", serial="intel-ipu", node="d1", ready=True)
    host = replace(dpu, name="intel-ipu-host", side=Side.HOST, node="h1", peer="d1")
    deaf = replace(host, node="h2", peer="d2", ready=False, conditions=(ILL,))
    rows = (host, deaf, dpu, replace(dpu, node="d2"))
    found = {r["node"]: (r["name"], r["other_node"], r["status"]) for r in get.dpu_records(rows)}
    assert found == {
        "d1": ("intel-ipu-dpu", "h1", True),
        "d2": ("intel-ipu-dpu", "h2", False),
        "h1": ("intel-ipu-host", "d1", True),
        "h2": ("intel-ipu-host", "d2", False),
    }


def test_the_last_time_that_a_row_may_have_can_be_shown() -> None:
    (record,) = get.dpu_records((replace(HOST, told_at=LATEST, heard_at=LATEST),), now=0.0)
    assert record["told"] == record["last_heartbeat"] == "9999-12-31T23:59:59+00:00"


def test_while_the_database_is_away_no_dpu_grows_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """No agent can say then that all is well; once it can again, who does not is told."""
    clock = iter([60.0, 600.0, 601.0])
    half = replace(DPU, ready=True, told_at=TOLD_AT)

    class Store(nullcontext[object]):
        error: str | None = None

        def follow(self, *_: object) -> Iterator[tuple[Device, ...]]:
            for self.error in (None, "no answer", None):
                now = TOLD_AT + next(clock)
                monkeypatch.setattr(time, "time", lambda now=now: now)
                yield ((half if self.error else replace(half, told_at=int(now) - 60)),)

    store = Store()
    store.enter_result = store
    monkeypatch.setattr("dataplane.cli.store.open_store", lambda _remote: store)
    run = CliRunner().invoke(get.get, ["dpu", "-w"])
    assert run.exit_code == 0, run.output
    (_, status) = run.stdout.splitlines()
    assert status.endswith("True")
    assert run.stderr == "overweave: no answer; what was told last stands\n"
