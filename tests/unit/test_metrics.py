"""What Prometheus is shown: names as documented, totals that never fall, labels that stay few."""

import re
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from dataplane.core.capability import Capability, Table
from dataplane.core.derive import derive
from dataplane.core.diff import Pending
from dataplane.core.errors import OverweaveError
from dataplane.core.events import FabricConnection, Link, LinksChanged, TargetReport
from dataplane.core.model import Device, EntryKey, Mac, Side, Vni
from dataplane.core.offload import Choice, SwitchView
from dataplane.core.placement import Traffic
from dataplane.core.reasons import PACKET_REASONS, Reason
from dataplane.core.snapshot import Snapshot
from dataplane.metrics import Metrics, PacketTotals
from tests.unit.test_core_state import OWN_BLOCK, POD, after, remote, request, synced

README = Path(__file__).parents[2] / "README.md"
KEY = EntryKey(Vni(100), remote().mac)


class FakePath:
    """Holds what a test says; ``fault`` makes it unreadable."""

    def __init__(self) -> None:
        self.held: dict[EntryKey, int] = {}
        self.in_switch: dict[EntryKey, int] | None = {}
        self.taken: dict[int, dict[Reason, int]] = {}
        self.fault = ""

    def traffic(self) -> Mapping[EntryKey, Traffic]:
        if self.fault:
            raise OverweaveError(self.fault)
        return {key: Traffic(packets, 0) for key, packets in self.held.items()}

    def switched(self) -> Mapping[EntryKey, Traffic] | None:
        if self.in_switch is None:
            return None
        return {key: Traffic(packets, 0) for key, packets in self.in_switch.items()}

    def counts(self) -> Mapping[int, Mapping[Reason, int]]:
        return self.taken


class FakeSource:
    """One attachment that is not published, one remote endpoint, one Target of each fate."""

    def __init__(self) -> None:
        port = LinksChanged((Link("vp0", 40, "", 1450, up=True),))
        state = after(*synced(OWN_BLOCK, remote()), request(), port)
        reports = {
            "flows": TargetReport("flows", 3, error="the switch said no"),
            "links": TargetReport("links", 2, "", (Pending(POD, "no vp0"),)),
        }
        self.snapshot = Snapshot(
            state,
            ("flows", "links", "fabric"),
            derive(state),
            generation=3,
            reports=reports,
            since={POD: 3},
        )
        self.overdue = {"flows": 2.5}
        self.fabric_lag_s = 1.5


Labels = tuple[tuple[str, str], ...]


def exposed(metrics: Metrics) -> dict[str, dict[Labels, float]]:
    return samples(generate_latest(metrics.registry).decode())


def samples(text: str) -> dict[str, dict[Labels, float]]:
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


def made(path: FakePath, source: FakeSource | None = None) -> Metrics:
    return Metrics(source or FakeSource(), path)


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return type and labels of each name in the README's table."""
    row = re.compile(r"^\| `(overweave_\w+)` \| (\w+) \| ([\w, ]*)\|", re.MULTILINE)
    return {
        name: (kind, set(re.findall(r"\w+", labels)))
        for name, kind, labels in row.findall(README.read_text(encoding="utf-8"))
    }


def test_what_is_documented_is_exposed_and_nothing_else() -> None:
    path = FakePath()
    path.held[KEY] = 1
    tables = (Table("forward", 100, used=8, foreign=3),)
    known = Capability("marvell", "Marvell Octeon 10", tables=tables)
    metrics = made(path, with_switch(known, Reason.TABLE_FULL))
    metrics.timed("ADD", "admit", 0.1)
    families = list(text_string_to_metric_families(generate_latest(metrics.registry).decode()))
    found = {
        f"{family.name}_total" if family.type == "counter" else family.name: (
            family.type,
            set(family.samples[0].labels) - {"le"},
        )
        for family in families
    }
    assert found == documented()
    assert all(family.documentation for family in families)


def test_values() -> None:
    path = FakePath()
    path.held[KEY] = 7
    path.taken[40] = {Reason.ARP: 2}
    metrics = made(path)
    path.held[KEY] = 17
    path.taken = {
        40: {Reason.ARP: 5, Reason.ANSWERED: 1},
        2: {Reason.TOO_LARGE: 4, Reason.DAMAGED: 2},
    }
    found = exposed(metrics)
    entries = {
        (("placement", "ovs"), ("reason", "pending"), ("segment", "blue")): 1,
        (("placement", "fastpath"), ("reason", ""), ("segment", "blue")): 1,
    }
    assert found["overweave_entries"] == entries
    moved = {labels: n for labels, n in found["overweave_packets_total"].items() if n}
    assert moved == {
        (("path", "fastpath"), ("reason", "")): 10,
        (("path", "fastpath"), ("reason", "answered")): 1,
        (("path", "ovs"), ("reason", "arp")): 3,
        (("path", "dropped"), ("reason", "too-large")): 4,
        (("path", "dropped"), ("reason", "damaged")): 2,
    }
    plain = {name: values[()] for name, values in found.items() if list(values) == [()]}
    assert plain == {
        "overweave_ready": 0,
        "overweave_fastpath_readable": 1,
        "overweave_fabric_connected": 1,
        "overweave_fabric_lag_seconds": 1.5,
        "overweave_fabric_unpublished_endpoints": 1,
        "overweave_generation": 3,
    }
    assert found["overweave_target_error"] == {
        (("target", "flows"),): 1,
        (("target", "links"),): 0,
    }
    assert found["overweave_target_pending"][("target", "links"),] == 1
    assert found["overweave_target_generation"][("target", "links"),] == 2
    assert found["overweave_target_overdue_seconds"][("target", "flows"),] == 2.5


def test_every_path_and_reason_is_there_from_the_start() -> None:
    totals = exposed(made(FakePath()))["overweave_packets_total"]
    assert set(totals.values()) == {0}
    assert {dict(labels)["reason"] for labels in totals} == {"", *map(str, PACKET_REASONS)}
    assert {dict(labels)["path"] for labels in totals} == {
        *("switch", "fastpath", "ovs", "host", "dropped")
    }


@pytest.mark.parametrize(
    ("exclusive", "path"),
    [pytest.param(False, "host", id="shared"), pytest.param(True, "dropped", id="exclusive")],
)
def test_what_becomes_of_strangers_packets(exclusive: bool, path: str) -> None:
    source, fast = FakeSource(), FakePath()
    state = source.snapshot.state
    node = replace(state.node, exclusive_ports=exclusive)
    source.snapshot = replace(source.snapshot, state=replace(state, node=node))
    metrics = made(fast, source)
    fast.taken[2] = {Reason.UNKNOWN_VTEP: 3}
    totals = exposed(metrics)["overweave_packets_total"]
    assert totals[("path", path), ("reason", "unknown-vtep")] == 3


def test_a_fast_path_that_cannot_be_read_hides_nothing_else() -> None:
    path = FakePath()
    path.fault = "no such map"
    found = exposed(made(path))
    assert found["overweave_fastpath_readable"][()] == 0
    assert found["overweave_generation"][()] == 3
    assert not {"overweave_entries", "overweave_packets_total"} & found.keys()


def test_the_fabric_database_is_away() -> None:
    source = FakeSource()
    state = after(*synced(), FabricConnection(connected=False, error="refused"))
    source.snapshot = replace(source.snapshot, state=state)
    assert exposed(made(FakePath(), source))["overweave_fabric_connected"][()] == 0


def test_labels_do_not_grow_with_the_endpoints() -> None:
    macs = [Mac(f"02:00:00:01:{n >> 8:02x}:{n & 255:02x}") for n in range(1000)]
    ips = (ip_address(f"10.0.{n >> 8}.{n & 255}") for n in range(1000, 2000))
    rows = [replace(remote(mac, mac=mac), ips=(ip,)) for mac, ip in zip(macs, ips, strict=True)]
    source, path = FakeSource(), FakePath()
    state = after(*synced(OWN_BLOCK, *rows), request())
    path.held = {EntryKey(Vni(100), mac): 1 for mac in macs}
    few = exposed(made(path))
    path.taken = {ifindex: dict.fromkeys(PACKET_REASONS, ifindex) for ifindex in range(1000)}
    source.snapshot = replace(source.snapshot, state=state, desired=derive(state))
    many = exposed(made(path, source))
    assert sum(many["overweave_entries"].values()) == 1001
    assert {name: len(values) for name, values in many.items()} == {
        **{name: len(values) for name, values in few.items()},
        "overweave_entries": 2,
    }


DPU = Device("030-dpu", "030", "marvell", "Marvell Octeon 10", Side.DPU, "n1", ready=False)


def with_switch(capability: Capability, reason: Reason, error: str = "") -> FakeSource:
    source = FakeSource()
    state = source.snapshot.state
    state = replace(
        state,
        node=replace(state.node, devices=(DPU,)),
        switch=SwitchView(capability, error),
    )
    choice = Choice(reasons={KEY: reason})
    source.snapshot = replace(source.snapshot, state=state, choice=choice)
    return source


def test_the_switch_below() -> None:
    tables = (Table("forward", 100, used=8, foreign=3),)
    known = Capability("marvell", "Marvell Octeon 10", tables=tables, emulated=True)
    path = FakePath()
    path.held[KEY] = 1
    metrics = made(path, with_switch(known, Reason.TABLE_FULL))
    device = ("device", "030-dpu")
    found = exposed(metrics)
    assert found["overweave_switch_ready"] == {(device,): 1}
    assert found["overweave_switch_table_rows"] == {
        (device, ("state", "used"), ("table", "forward")): 5,
        (device, ("state", "foreign"), ("table", "forward")): 3,
        (device, ("state", "free"), ("table", "forward")): 92,
    }
    lacking = (("placement", "fastpath"), ("reason", "table-full"), ("segment", "blue"))
    assert found["overweave_entries"][lacking] == 1
    path.in_switch = {KEY: 4}
    held = (("placement", "emulated"), ("reason", ""), ("segment", "blue"))
    assert exposed(metrics)["overweave_entries"][held] == 1


@pytest.mark.parametrize(
    ("forwards", "placement", "reason"),
    [
        pytest.param(True, "emulated", "", id="beside others"),
        pytest.param(False, "fastpath", "switch-taken", id="behind others"),
    ],
)
def test_a_switch_of_somebody_else_s_is_not_ready_and_entries_are_where_they_forward(
    forwards: bool, placement: str, reason: str
) -> None:
    known = Capability("x", "y", obstacle="not ours", forwards=forwards, emulated=True)
    path = FakePath()
    path.held[KEY], path.in_switch = 1, {KEY: 4}
    found = exposed(made(path, with_switch(known, Reason.SWITCH_TAKEN)))
    assert found["overweave_switch_ready"][("device", "030-dpu"),] == 0
    where = (("placement", placement), ("reason", reason), ("segment", "blue"))
    assert found["overweave_entries"][where] == 1


def test_a_switch_that_is_down_and_back_is_counted_once() -> None:
    path = FakePath()
    path.in_switch = {KEY: 5}
    last = Capability("marvell", "Marvell Octeon 10", tables=(Table("forward", 100, used=8),))
    metrics = made(path, with_switch(last, Reason.DEVICE_DOWN, "it is silent"))
    way = (("path", "switch"), ("reason", ""))
    counts: list[dict[EntryKey, int] | None] = [{KEY: 9}, None, None, {KEY: 12}, {KEY: 2}]
    totals = []
    for path.in_switch in counts:
        totals.append(exposed(metrics)["overweave_packets_total"][way])
    assert totals == [4, 4, 4, 7, 9]
    found = exposed(metrics)
    assert found["overweave_switch_ready"][("device", "030-dpu"),] == 0
    assert found.get("overweave_switch_table_rows", {}) == {}


steps = st.lists(st.dictionaries(st.integers(0, 3), st.integers(0, 50), max_size=4), max_size=12)


@given(steps)
def test_totals_never_fall_and_miss_nothing_that_only_grows(looks: list[dict[int, int]]) -> None:
    fast = FakePath()
    totals = PacketTotals(fast, exclusive_ports=False)
    totals.look()
    before: Mapping[tuple[str, str], int] = {}
    grown: dict[int, int] = {}
    sure = 0
    for held in looks:
        fast.held = {
            EntryKey(Vni(number + 1), KEY.mac): packets for number, packets in held.items()
        }
        now = totals.look().totals
        assert all(now[way] >= total for way, total in before.items())
        # What is less than last time is another entry of that name, which began at 0.
        sure += sum(n - grown.get(k, 0) if n >= grown.get(k, 0) else n for k, n in held.items())
        assert now["fastpath", ""] == sure
        before, grown = now, held
