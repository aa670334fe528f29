"""What a node tells of its halves of DPUs: each condition, since when, and how seldom it writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane import inventory
from dataplane.core.capability import Assumption, Capability, Table, Use
from dataplane.core.desired import LocalNode
from dataplane.core.discovered import Discovered
from dataplane.core.events import DevicesTold, Event, HalfHeard, PathProbed, TargetReport
from dataplane.core.inventory import (
    LOST_S,
    REFRESH_S,
    Inventory,
    other_halves,
    tell,
)
from dataplane.core.model import READY, Device, Encap, EntryKey, Family, Side, TableUse
from dataplane.core.offload import Choice, SwitchView
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import FABRIC_TARGET, SWITCH_TARGET, Snapshot
from dataplane.core.state import State, fold
from tests.unit.overlay_builders import GENEVE4, attachment, desired, mac_of, port, trunk, view

NOW = 1_800_000_000
HOST = Device("1-host", "1", "marvell", "Octeon", Side.HOST, "h1", ready=False, vfs=4)
DPU = replace(HOST, name="1-dpu", side=Side.DPU, node="d1")
KEY = EntryKey(GENEVE4.vni, mac_of(1))
KNOWN = Capability(
    "marvell",
    "Octeon",
    tunnels=frozenset({(Encap.VXLAN, Family.IPV6), (Encap.GENEVE, Family.IPV4)}),
    tables=(Table("forward", 1024, used=12), Table("classify", 10)),
    assumptions=(Assumption("misses", Use.PORTS, "so"), Assumption("restarts", Use.DEVICE, "so")),
    offloads=True,
)
UP = SwitchView(KNOWN, held=frozenset({KEY}))
REPORTS = {name: TargetReport(name, 3) for name in ("flows", SWITCH_TARGET)}
HEARD = HalfHeard("1-dpu", NOW)
ANSWERS = HalfHeard("1-host", NOW, "d1")


def snapshot(
    device: Device, switch: SwitchView = UP, heard: HalfHeard | None = None, **changes: object
) -> Snapshot:
    """Return a picture of the node of ``device``, on which all is well but for ``changes``."""
    node = LocalNode(device.node, "eth0", devices=(device,))
    state = State(node, switch=switch, heard={heard.device: heard} if heard else {})
    fine = Snapshot(state, ("flows", SWITCH_TARGET, FABRIC_TARGET), generation=3, reports=REPORTS)
    return replace(fine, **changes)  # type: ignore[arg-type]  # as the caller says


def after_probes(picture: Snapshot, *events: PathProbed) -> Snapshot:
    return replace(picture, state=reduce(fold, events, picture.state))


def said(found: Inventory) -> dict[str, tuple[bool, str]]:
    (device,) = found.devices
    return {each.kind: (each.holds, each.reason) for each in device.conditions}


WELL = {
    "Ready": (True, "its switch takes entries"),
    "HeartbeatOK": (True, "the host's agent asks"),
    "SwitchReachable": (True, "it answers"),
    "DataplaneInSync": (True, "it has all it should"),
    "Offloading": (True, "hardware"),
}
FAILED = {"flows": TargetReport("flows", 3, "no such bridge")}
LATE = {"flows": TargetReport("flows", 2)}
EMPTY = replace(UP, held=frozenset())
REASONS = {
    EntryKey(GENEVE4.vni, mac_of(n)): reason
    for n, reason in enumerate(
        [Reason.BELOW_THRESHOLD, Reason.TABLE_FULL, Reason.BELOW_THRESHOLD], start=5
    )
}


@pytest.mark.parametrize(
    ("picture", "wanted"),
    [
        pytest.param(snapshot(DPU, heard=HEARD), {}, id="all is well"),
        pytest.param(
            snapshot(DPU),
            {"HeartbeatOK": (False, "the host's agent has not been heard yet")},
            id="no host",
        ),
        pytest.param(
            snapshot(DPU, heard=replace(HEARD, error="it has not asked for more than 2.5 s")),
            {"HeartbeatOK": (False, "it has not asked for more than 2.5 s")},
            id="host silent",
        ),
        pytest.param(
            snapshot(DPU, heard=replace(HEARD, at=NOW + 86400)), {}, id="the clock was set back"
        ),
        pytest.param(
            snapshot(DPU, heard=replace(HEARD, at=NOW - 86400)), {}, id="the clock was set on"
        ),
        pytest.param(
            snapshot(DPU, SwitchView(), HEARD),
            dict.fromkeys(
                ("Ready", "SwitchReachable", "Offloading"),
                (False, "the switch has not answered yet"),
            ),
            id="nothing known",
        ),
        pytest.param(
            snapshot(DPU, replace(UP, error="no answer"), HEARD),
            dict.fromkeys(("Ready", "SwitchReachable", "Offloading"), (False, "no answer")),
            id="switch down",
        ),
        pytest.param(
            snapshot(
                DPU,
                SwitchView(
                    replace(KNOWN, obstacle="NORMAL", forwards=False), held=frozenset({KEY})
                ),
                HEARD,
            ),
            dict.fromkeys(("Ready", "Offloading"), (False, "NORMAL")),
            id="switch taken",
        ),
        pytest.param(
            snapshot(DPU, SwitchView(replace(KNOWN, emulated=True), held=frozenset({KEY})), HEARD),
            {"Offloading": (True, "emulated")},
            id="emulated",
        ),
        pytest.param(
            snapshot(DPU, EMPTY, HEARD, choice=Choice(reasons=REASONS)),
            {"Offloading": (False, "below-threshold")},
            id="nothing placed",
        ),
        pytest.param(
            snapshot(DPU, EMPTY, HEARD), {"Offloading": (False, "no entries")}, id="nobody there"
        ),
        pytest.param(
            snapshot(DPU, heard=HEARD, choice=Choice(frozenset({KEY, *REASONS}))),
            {"DataplaneInSync": (False, "the switch lacks entries")},
            id="entries lost",
        ),
        pytest.param(
            after_probes(snapshot(DPU, heard=HEARD), PathProbed("switch", "lost in the switch")),
            dict.fromkeys(("Ready", "SwitchReachable"), (False, "lost in the switch")),
            id="a probe is lost in the switch",
        ),
        pytest.param(
            after_probes(snapshot(DPU, heard=HEARD), PathProbed("ovs", "lost in OVS")),
            dict.fromkeys(("Ready", "DataplaneInSync"), (False, "lost in OVS")),
            id="a probe is lost in Open vSwitch",
        ),
        pytest.param(
            after_probes(
                snapshot(DPU, heard=HEARD),
                PathProbed("ovs", "lost in OVS"),
                PathProbed("switch", "lost"),
                PathProbed("switch"),
                PathProbed("ovs"),
            ),
            {},
            id="probes come through again",
        ),
        pytest.param(
            after_probes(
                snapshot(DPU, replace(UP, error="no answer"), HEARD), PathProbed("switch", "lost")
            ),
            dict.fromkeys(("Ready", "SwitchReachable", "Offloading"), (False, "no answer")),
            id="a switch that is silent has told why",
        ),
        pytest.param(
            snapshot(DPU, heard=HEARD, reports={**REPORTS, **FAILED}),
            {"DataplaneInSync": (False, "flows: no such bridge")},
            id="a target fails",
        ),
        pytest.param(
            snapshot(DPU, heard=HEARD, reports={**REPORTS, **LATE}),
            {"DataplaneInSync": (False, "flows: has yet to follow")},
            id="a target is behind",
        ),
        pytest.param(
            snapshot(DPU, heard=HEARD, reports={}),
            {"DataplaneInSync": (False, "flows: has not answered yet")},
            id="a target never answered",
        ),
    ],
)
def test_conditions_of_a_dpu(picture: Snapshot, wanted: dict[str, tuple[bool, str]]) -> None:
    found = tell(Inventory(), picture, NOW)
    assert said(found) == {**WELL, **wanted}
    assert found.devices[0].ready is said(found)["Ready"][0]
    assert {each.since for each in found.devices[0].conditions} == {NOW}


@pytest.mark.parametrize(
    ("heard", "ready", "beats"),
    [
        pytest.param(
            ANSWERS,
            (True, "the DPU's agent serves it"),
            (True, "the DPU's agent answers"),
            id="well",
        ),
        pytest.param(
            None, *[(False, "the DPU's agent has not been asked yet")] * 2, id="not asked"
        ),
        pytest.param(replace(ANSWERS, error="refused"), *[(False, "refused")] * 2, id="silent"),
        pytest.param(
            replace(ANSWERS, obstacle="serves M2"),
            (False, "serves M2"),
            (True, "the DPU's agent answers"),
            id="another DPU",
        ),
        pytest.param(
            replace(ANSWERS, at=NOW - 86400),
            (True, "the DPU's agent serves it"),
            (True, "the DPU's agent answers"),
            id="the clock was set on",
        ),
    ],
)
def test_conditions_of_a_host(
    heard: HalfHeard | None, ready: tuple[bool, str], beats: tuple[bool, str]
) -> None:
    found = tell(Inventory(), snapshot(HOST, SwitchView(), heard), NOW)
    in_sync = WELL["DataplaneInSync"]
    assert said(found) == {"Ready": ready, "HeartbeatOK": beats, "DataplaneInSync": in_sync}
    assert found.devices[0].peer == ("d1" if heard else "")


def test_figures() -> None:
    behind = replace(port(1, GENEVE4), attachment=ON_VF)
    wired = SwitchView(replace(KNOWN, guards={"rep0": frozenset({behind.guard})}))
    picture = snapshot(DPU, wired, HEARD, desired=desired(view(GENEVE4, [behind])))
    vlans = [replace(trunk(4, GENEVE4, vlan).attachment, ifname=f"vlan{vlan}") for vlan in (5, 6)]
    held = {each.key: each for each in (behind.attachment, attachment(2, GENEVE4), *vlans)}
    picture = replace(picture, state=replace(picture.state, attachments=held))
    (found,) = tell(Inventory(), picture, NOW).devices
    assert found.tunnels == ((Encap.GENEVE, Family.IPV4), (Encap.VXLAN, Family.IPV6))
    assert found.tables == (TableUse("classify", 0, 10), TableUse("forward", 12, 1024))
    assert (found.vfs, found.vfs_used) == (4, 2)  # a trunk port is one
    assert (found.heard_at, found.told_at) == (NOW, NOW)
    assert found.assumptions == ("misses", "restarts")


def test_what_was_known_of_a_switch_stays_while_it_is_silent() -> None:
    (found,) = tell(Inventory(), snapshot(DPU, replace(UP, error="no answer")), NOW).devices
    assert (found.tables[1], found.assumptions) == (TableUse("forward", 12, 1024), ("restarts",))


Timeline = Sequence[tuple[int, Snapshot]]
FINE, TAKEN = snapshot(DPU), snapshot(DPU, SwitchView(replace(KNOWN, obstacle="NORMAL")))
DOWN = snapshot(DPU, replace(UP, error="no answer"))
GONE, AWAY = (
    replace(
        picture, state=replace(picture.state, discovered=Discovered(seen=frozenset({DPU.name})))
    )
    for picture in (FINE, DOWN)
)
BEHIND, NONE = snapshot(DPU, reports=LATE), snapshot(DPU, EMPTY)
FULLER = snapshot(
    DPU, replace(UP, capability=replace(KNOWN, tables=(Table("forward", 9, used=9),)))
)
WORDY = snapshot(DPU, EMPTY, choice=Choice(reasons=REASONS))
ON_VF = replace(attachment(1, GENEVE4), netdev="rep0")
BUSY = replace(FINE, state=replace(FINE.state, attachments={ON_VF.key: ON_VF}))


@pytest.mark.parametrize(
    ("timeline", "writes"),
    [
        pytest.param([(0, FINE), (1, FINE), (59, FINE)], [0], id="nothing is news"),
        pytest.param([(0, FINE), (1, FULLER), (59, FULLER), (60, FULLER)], [0, 60], id="figures"),
        pytest.param([(0, NONE), (1, WORDY), (60, WORDY)], [0, 60], id="words"),
        pytest.param([(0, FINE), (1, TAKEN), (2, FINE)], [0, 1, 2], id="a condition turns"),
        pytest.param([(0, FINE), (1, GONE), (2, FINE)], [0, 1, 2], id="unplugged and back"),
        pytest.param([(0, DOWN), (1, AWAY), (2, DOWN)], [0, 1, 2], id="the same of one not ready"),
        pytest.param([(0, FINE), (1, BUSY)], [0, 1], id="a VF more is used"),
        pytest.param([(0, FINE), (1, BEHIND), (LOST_S, BEHIND), (6, FINE)], [0], id="a short lag"),
        pytest.param([(0, FINE), (1, BEHIND), (1 + LOST_S, BEHIND)], [0, 6], id="a long lag"),
        pytest.param(
            [(0, FINE), (1, BEHIND), (4, FINE), (5, BEHIND), (9, BEHIND), (10, BEHIND)],
            [0, 10],
            id="two lags are not one",
        ),
        pytest.param([(0, FINE), (1, NONE), (5, NONE), (6, NONE)], [0, 6], id="empty for long"),
        pytest.param([(0, NONE), (1, FINE)], [0, 1], id="offloading at once"),
        pytest.param([(0, FINE), (-1, FINE)], [0, -1], id="the clock is set back"),
    ],
)
def test_when_a_row_is_written(timeline: Timeline, writes: list[int]) -> None:
    told, found = Inventory(), []
    for second, picture in timeline:
        before, told = told, tell(told, picture, NOW + second)
        if told.devices != before.devices:
            found.append(second)
    assert found == writes


def since(told: Inventory, kind: str) -> int:
    return next(c.since - NOW for c in told.devices[0].conditions if c.kind == kind)


def test_since_when_is_the_turn_and_a_loss_is_as_old_as_it_is() -> None:
    told = tell(Inventory(), FINE, NOW)
    for second in range(1, 9):
        told = tell(told, BEHIND, NOW + second)
    assert (since(told, "DataplaneInSync"), since(told, "Ready")) == (1, 0)
    told = tell(told, FINE, NOW + 9)
    assert since(told, "DataplaneInSync") == 9
    assert since(tell(told, FINE, NOW + 100), "DataplaneInSync") == 9


@given(st.lists(st.sampled_from([FINE, BEHIND, NONE, FULLER, WORDY, BUSY]), min_size=1))
def test_what_is_told_is_what_is(pictures: list[Snapshot]) -> None:
    """However it came to this, once it stays so for long enough to count it is what is told."""
    told = Inventory()
    for second, picture in enumerate([*pictures, *[pictures[-1]] * (REFRESH_S + LOST_S)]):
        told = tell(told, picture, NOW + second)
    assert said(told) == said(tell(Inventory(), pictures[-1], NOW))


def test_the_feed_posts_what_is_news_and_outlives_a_fault(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inventory, "LOOK_S", 0.001)
    pictures = iter([FINE, FINE, TAKEN])
    told: list[Event] = []
    over = threading.Event()

    def newest() -> Snapshot:
        found = next(pictures, None)
        if found is None:
            over.set()
            raise ValueError("a fault of ours")
        return found

    feed = inventory.InventoryFeed(newest, lambda: float(NOW))
    feed.start(told.append)
    assert over.wait(10)
    over.clear()
    assert over.wait(10)
    feed.stop()
    ready = [each.devices[0].ready for each in told if isinstance(each, DevicesTold)]
    assert ready == [True, False]


def heartbeats(second: int) -> Snapshot:
    """Return a busy node: the host asks all the time, and rows come and go every second."""
    used = replace(KNOWN, tables=(Table("forward", 1024, used=second % 97),))
    held = frozenset({KEY}) if second % 3 else frozenset()
    return snapshot(DPU, SwitchView(used, held=held), HalfHeard("1-dpu", NOW + second // 2 * 2))


def test_an_hour_of_heartbeats_is_a_write_a_minute() -> None:
    told, writes = Inventory(), 0
    for second in range(3600):
        before, told = told, tell(told, heartbeats(second), NOW + second)
        writes += told.devices != before.devices
        assert NOW + second - told.devices[0].told_at < REFRESH_S
    assert writes <= 3600 / REFRESH_S + 1


# Two nodes with a DPU of the same serial each: as its plugin names them, all of a kind.
ONE = replace(HOST, name="ipu-host", serial="ipu", node="h1", peer="d1")
TWO = replace(ONE, node="h2", peer="d2")
D1 = replace(ONE, name="ipu-dpu", side=Side.DPU, node="d1", peer="")
D2 = replace(D1, node="d2")
IDLE = replace(ONE, node="a2", peer="")


@pytest.mark.parametrize(
    ("half", "others", "wanted"),
    [
        pytest.param(ONE, (ONE, TWO, D1, D2), D1, id="the host knows"),
        pytest.param(TWO, (ONE, TWO, D1, D2), D2, id="the other host knows"),
        pytest.param(D1, (ONE, TWO, D1, D2), ONE, id="of a DPU"),
        pytest.param(D2, (TWO, ONE, D2, D1), TWO, id="of the other DPU"),
        pytest.param(replace(ONE, peer=""), (D1, D2), None, id="nobody knows"),
        pytest.param(replace(ONE, peer=""), (D1,), D1, id="there is one alone"),
        pytest.param(D1, (replace(ONE, peer=""), D1), replace(ONE, peer=""), id="one alone, back"),
        pytest.param(ONE, (D2,), None, id="it is in another fabric"),
        pytest.param(ONE, (replace(D1, serial="x"),), None, id="another serial"),
        pytest.param(D2, (ONE, D1, D2), None, id="without a host"),
        pytest.param(D1, (IDLE, ONE, D1), ONE, id="another host of such a name asks nobody"),
        pytest.param(IDLE, (IDLE, ONE, D1), None, id="that one has no other half here"),
    ],
)
def test_the_other_half(half: Device, others: tuple[Device, ...], wanted: Device | None) -> None:
    halves = dict.fromkeys((*others, half))
    assert other_halves(halves).get((half.node, half.name)) == wanted


def test_a_fleet_of_equal_machines_is_paired_in_no_time() -> None:
    """All have what plugins call their DPUs: who asks each about each takes minutes."""
    hosts = [replace(ONE, node=f"h{n}", peer=f"d{n}") for n in range(1000)]
    dpus = [replace(D1, node=f"d{n}") for n in range(1000)]
    began = time.process_time()
    paired = other_halves([*hosts, *dpus])
    assert time.process_time() - began < 1
    assert all(paired[half.node, half.name].node[1:] == half.node[1:] for half in (*hosts, *dpus))


def test_that_nobody_was_asked_yet_is_said_for_a_moment_only() -> None:
    told = tell(Inventory(), snapshot(HOST), NOW)
    silent = HalfHeard(HOST.name, 0, error="connection refused")
    told = tell(told, snapshot(HOST, heard=silent), NOW + 1)
    assert [c.reason for c in told.devices[0].conditions if c.kind == READY] == [silent.error]
