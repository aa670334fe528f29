"""A lab with an Intel IPU: a host, its DPUs of two vendors, a plain host, pods on all of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import pytest
from finsy.proto import p4r
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from dataplane.core.capability import Departure
from dataplane.core.inventory import REFRESH_S
from dataplane.core.reasons import Reason
from dataplane.lab import dpus, lab, matrix, nodes, probes
from dataplane.lab.layout import LabPaths
from dataplane.lab.probes import Pace, Station
from dataplane.lab.runtime import Pod, Runtime
from dataplane.lab.scene import COLOURS, Colour, silent
from dataplane.lab.topology import read_topology
from tests.functional.p4_client import Client, client
from tests.packets.e2100_frames import MAKE
from tests.system.dpu.conftest import (
    BUSY,
    DpuScene,
    Talk,
    assert_told,
    assumed_of_switch,
    differences,
    pinned,
    until,
    words,
)
from tests.system.dpu.e2100_bugs import BUGS, FIRST_VF, planted, rows_of, vport
from tests.system.dpu.proofs import (
    Proofs,
    full,
    goes_by_the_switch,
    late_pod,
    next_pod_is_alone,
)
from tests.system.dpu.test_verify_device import as_a_device, asked, assert_agrees, row_of_switch
from tests.system.dpu.traffic import BLUE, GAP_S, Judged, Traffic, counted, judged, vf
from tests.system.frames import deliver
from tests.system.test_lab_cli import Overweave
from tests.unit.p4_entries import Key, number
from vendors.marvell.pipeline import FORWARD

TOPOLOGY = """
nodes:
- {name: h1}
- {name: d1, dpu: {vendor: intel, host: h1, vfs: 7}}
- {name: n2}
- {name: d2, dpu: {vendor: marvell, host: h1, vfs: 4}}
"""
GUARDED = Colour("rose", 5, "geneve", "ipv4")
# The device checks no sender, so that only what is not guarded can be in it.
INTENT = "---\n".join(
    [*(colour.document + 'guard: "off"\n' for colour in COLOURS), GUARDED.document]
)
PLACES = ("h1", "d1", "n2")
BY_HAND = 5  # a bridge in the half that is not ours
SMALL = 1  # rows
DOWN_S = 5.0  # five times the second after which a silent device is said to be down


@dataclass(slots=True)
class IntelScene(DpuScene):
    """The lab, and what its switch holds, asked by a client that is not the driver's."""

    TABLE: ClassVar[str] = "l2_fwd_tx_table"
    SPARE: ClassVar[int] = 6

    @contextmanager
    def told(self) -> Iterator[Client]:
        """Provide a client that is not primary of anything."""
        with client(f"unix:{dpus.directory(self.paths, self.dpu)}/p4runtime.sock") as made:
            yield made

    def packets(self, colour: Colour, station: Station) -> int | None:
        with self.told() as reader:
            rows = sends(reader, station)
        return rows[0].counter_data.packet_count if rows else None

    @contextmanager
    def withdrawn(self, colour: Colour, station: Station) -> Iterator[None]:
        with self.told() as writer:
            (row,) = sends(writer, station)
            row.ClearField("counter_data")
            writer.become_primary(time.time_ns())
            writer.delete(row)
            yield
            writer.insert(row)

    def rows_taken(self) -> int:
        with self.told() as reader:
            return len(reader.entries(MAKE(self.TABLE, {})))


def sends(reader: Client, station: Station) -> list[p4r.TableEntry]:
    """Return the rows, one or none, by which frames go to ``station``, with counters."""
    asked = MAKE("l2_fwd_tx_table", {})
    asked.counter_data.SetInParent()
    mac = number(station.mac).to_bytes(6).lstrip(b"\0")
    return [row for row in reader.entries(asked) if row.match[1].exact.value == mac]


@pytest.fixture(scope="module")
def shared() -> Iterator[IntelScene]:
    paths = LabPaths(f"t{os.getpid()}i")
    made = IntelScene(paths, read_topology(TOPOLOGY, "tests"), Runtime(paths))
    try:
        made.up()
        lab.apply(paths, INTENT)
        for nth, colour in enumerate((*COLOURS, GUARDED)):
            name = colour.name
            pods = [Pod(f"{name}v", "h1", name, device=vf(made, nth))]
            pods += [Pod(f"{name}{node}", node, name) for node in PLACES]
            made.segments[name] = [made.runtime.add(pod) for pod in pods]
        second = Pod("bluew", "h1", BLUE.name, device=vf(made, 5))
        made.segments[BLUE.name].append(made.runtime.add(second))
        octeon = made.topology.node("d2")
        for nth, colour in enumerate(COLOURS):
            device = dpus.device_id(made.topology, octeon, nth)
            pod = Pod(f"{colour.name}m", "h1", colour.name, device=device)
            made.segments[colour.name].append(made.runtime.add(pod))
        for stations in made.segments.values():
            matrix.converge(stations)
        yield made
    finally:
        lab.down(paths, silent)


class TestTraffic(Traffic):
    """On this vendor, too."""


def test_taken_for_a_real_device_it_agrees_in_what_is_seen_of_it(scene: DpuScene) -> None:
    """Of what is lost behind the entry that counts it, nothing is said to agree."""
    with as_a_device(scene), pinned(scene, [BLUE]):
        found = asked(Overweave(scene))
        with rows_of(scene, BLUE) as rows, planted(scene, rows, BUGS["lost next hop"]):
            lost = asked(Overweave(scene))
    print(found["verdict"], row_of_switch(lost))
    assert_agrees(found)
    assert lost["differences"] == []
    known = [(row["agree"], row["counted"]) for row in map(row_of_switch, (found, lost))]
    assert known[0] == known[1]


def test_what_is_guarded_stays_in_software_and_says_why(scene: DpuScene) -> None:
    near, _, _, far = scene.segments[GUARDED.name]
    with probes.flow(near, far.ip(4), BUSY) as echo:
        until(lambda: scene.entry(far).reason == Reason.UNSUPPORTED_GUARD)
        time.sleep(1)
        assert not scene.placed(far)
        assert not scene.placed(near)
    assert echo.lost == 0


class TestProofs(Proofs):
    """On this vendor, too: the guarded segment is never in the switch."""

    GUARDED = GUARDED.name


@pytest.mark.parametrize("fault", ["hang", "die"])
def test_a_silent_device_forwards_and_is_said_to_be_down(talk: Talk, fault: str) -> None:
    """One that had died comes back empty."""
    scene = talk.scene
    scene.tell(fault)
    took = until(lambda: switch_of(scene).startswith(Reason.DEVICE_DOWN), DOWN_S)
    print(f"said to be down after {took:.2f} s")
    assert scene.entry(talk.far).reason == Reason.DEVICE_DOWN
    with late_pod(scene) as late:
        assert probes.ping(talk.vf, late.ip(4), Pace(20)).received > 0
    talk.gap_s = GAP_S if fault == "die" else 0.0
    scene.tell("revive")
    until(lambda: scene.placed(talk.far), 60)


def test_the_next_pod_on_a_vf_is_in_its_own_segment_alone(scene: IntelScene, last: Station) -> None:
    """A silent E2100 goes on forwarding by what it has."""
    next_pod_is_alone(scene, last, ["hang"])


def switch_of(scene: DpuScene) -> str:
    """Return what the agent says of its switch; its entries would have to be asked for."""
    return nodes.modes(scene.paths.node("d1"))["switch"]


@pytest.mark.parametrize("fault", [["slow", "0.2"], ["garbage"]], ids=lambda words: words[0])
def test_a_server_that_is_slow_or_babbles_loses_nothing(talk: Talk, fault: list[str]) -> None:
    talk.scene.tell(*fault)
    with late_pod(talk.scene) as late:
        assert probes.ping(talk.vf, late.ip(4), Pace(20)).received > 0
    talk.scene.tell("clear")
    until(lambda: talk.scene.placed(talk.far), 60)
    goes_by_the_switch(talk)


def test_beside_somebody_elses_tunnels_what_is_placed_goes_on(
    scene: IntelScene, talk: Talk
) -> None:
    """Theirs are left alone, nothing more is placed, and each entry is where it is forwarded."""
    idle = scene.segments[BLUE.name][1]
    scene.tell("take")
    until(lambda: scene.entry(idle).reason == Reason.SWITCH_TAKEN)
    assert "programmed by others: ipv4_tunnel_term_table" in scene.entry(idle).words
    assert f": {Reason.SWITCH_TAKEN}: " in switch_of(scene)
    goes_by_the_switch(talk)
    shown = lab.overweave(scene.paths, "explain", talk.far.mac, *scene.asked)
    here = next(line for line in shown.splitlines() if line.startswith("d1 "))
    assert " emulated " in here
    assert f"switch of d1: Intel IPU E2100 (emulated): {Reason.SWITCH_TAKEN}: " in shown
    with scene.told() as reader:
        term: Key = {"ipv4_src": "198.51.100.10", "vni": 10}
        assert reader.entries(MAKE("ipv4_tunnel_term_table", term))
    scene.tell("clear")
    until(lambda: scene.entry(idle).reason != Reason.SWITCH_TAKEN)


def test_a_trace_shows_the_switch_as_the_hop_that_it_is(talk: Talk) -> None:
    shown = Overweave(talk.scene).run("trace", str(talk.vf.ip(4)), str(talk.far.ip(4)))
    verdict, head, *_ = shown.stdout.splitlines()
    assert (shown.returncode, verdict) == (0, "reachable, fastpath both ways, in the switch of d1")
    assert head.split()[4:] == ["PREDICTED", "SWITCH", "EBPF", "OVS"]


def test_rows_written_by_hand_move_packets(scene: IntelScene) -> None:
    """From one segment into another, where nothing else would, by a client of raw gRPC.

    The VF is in somebody else's bridge by them: what the agent has there forwards nothing of it.
    """
    one, other = scene.segments["blue"][0], scene.segments["green"][0]
    ip = IP(src=str(one.ip(4)), dst=str(other.ip(4)))
    frames = {"by hand": Ether(src=one.mac, dst=other.mac) / ip / UDP()}
    key: Key = {"source_port": (vport(FIRST_VF), 0xFFFF), "vid": (0, 0xFFF)}
    moves: Key = {"bridge_id": BY_HAND, "dst_mac": other.mac}
    rows = [
        MAKE("source_port_to_bridge_map", key, "set_bridge_id", priority=2, bridge_id=BY_HAND),
        MAKE("l2_fwd_smac_table", {"sa": one.mac, "bridge_id": BY_HAND}, "NoAction"),
        MAKE("l2_fwd_tx_table", moves, "l2_fwd", port=vport(FIRST_VF + 1)),
    ]
    assert deliver(one, frames, [other])["by hand"] == {}
    with scene.told() as hand:
        hand.become_primary(time.time_ns())
        hand.insert(*rows)
        assert deliver(one, frames, [other])["by hand"] == {other.name: 1}
        counter = p4r.Entity(direct_counter_entry=p4r.DirectCounterEntry(table_entry=rows[2]))
        (found,) = hand.read(counter)
        assert found.direct_counter_entry.data.packet_count == 1
        until(lambda: scene.entry(one).reason == Reason.SWITCH_TAKEN)
        hand.delete(*rows)
    assert deliver(one, frames, [other])["by hand"] == {}
    until(lambda: scene.entry(one).reason != Reason.SWITCH_TAKEN)


def test_what_is_lost_behind_the_agents_back_is_put_back(talk: Talk) -> None:
    talk.gap_s = GAP_S  # a row of the way may go before the one that leads there
    scene, far = talk.scene, talk.far
    while scene.packets(talk.colour, far) is not None:
        assert scene.tell("lose-one")
    until(lambda: scene.packets(talk.colour, far) is not None, 60, "not put back")
    before = counted(scene, far)
    until(lambda: counted(scene, far) > before + 10, 60, "not in the switch again")


def test_a_full_table_leaves_the_rest_to_software(talk: Talk) -> None:
    """Its rows are for less than one conversation; the next one finds it full, and says so."""
    talk.gap_s = GAP_S
    scene, on_dpu = talk.scene, talk.scene.segments[BLUE.name][2]
    scene.tell("table-full", "l2_fwd_tx_table", str(SMALL))
    scene.tell("reset")
    with probes.flow(talk.vf, on_dpu.ip(4), BUSY) as echo:
        until(lambda: full(scene) > 0, 60, "nothing is said to be full")
        time.sleep(2)
    assert (echo.lost, echo.duplicates) == (0, 0)


class TestJudged(Judged):
    """On this vendor, too."""

    def test_all_paths_of_all_vendors_agree_but_in_what_a_device_says_that_it_cannot(
        self, placed: DpuScene
    ) -> None:
        """An E2100, an Octeon 10 and a host without a DPU."""
        rows = judged(placed, 10)
        switch = rows.pop(("d1", "switch"))
        assert set(switch["cannot"]) == set(Departure) - {Departure.LENGTHS}
        octeon = rows["d2", "switch"]
        assert (octeon["unknown"], octeon["not_observed"]) == (0, {})
        assert min(octeon["agree"], octeon["handed_over"]) > 100
        assert {node for node, _ in rows} == {"h1", "d1", "n2", "d2"}
        assert not any(row["cannot"] for row in rows.values())

    def test_the_inventory_of_two_vendors_dpus_in_one_host(self, placed: DpuScene) -> None:
        """Their pods are in segments of every encapsulation over both families."""

        def dpus_told() -> dict[str, dict[str, Any]]:
            rows = json.loads(lab.overweave(placed.paths, "get", "dpu", "-o", "json"))
            return {f"{row['node']} {row['other_node']}": row for row in rows}

        tables = {"d1 h1": placed.TABLE, "d2 h1": FORWARD.name}

        def is_well() -> bool:
            """Say so of what was told last; figures come along, or once a minute by themselves."""
            rows = dpus_told()
            holds = all("=False" not in " ".join(row["conditions"]) for row in rows.values())
            used = (
                rows[dpu]["tables"].get(table, "0/").partition("/") for dpu, table in tables.items()
            )
            return holds and all(int(rows_in_use) > 0 for rows_in_use, *_ in used)

        until(is_well, 2 * REFRESH_S, "a condition does not hold, or no row is in use")
        rows = dpus_told()
        assert rows.keys() == {"d1 h1", "d2 h1", "h1 d1", "h1 d2"}
        for dpu, vendor in (("d1 h1", "intel"), ("d2 h1", "marvell")):
            row = rows[dpu]
            assert set(row["assumptions"]) == assumed_of_switch(vendor)
            assert set(row["encapsulations"]) == {f"{c.encap}/{c.underlay}" for c in COLOURS}
            assert 0 < row["vfs_used"] <= row["vfs"]
            assert any(each.startswith("Offloading=True since 20") for each in row["conditions"])
            assert any(each.endswith(" emulated") for each in row["conditions"])

    @pytest.mark.parametrize("name", BUGS)
    def test_a_bug_of_the_switch_is_found(self, placed: DpuScene, name: str) -> None:
        bug = BUGS[name]
        with rows_of(placed, BLUE) as rows:
            assert_told(placed, bug.told, partial(planted, placed, rows, bug))

    def test_all_is_well_once_the_bugs_are_gone(self, placed: DpuScene) -> None:
        assert [words(difference) for difference in differences(placed, BLUE)] == []
