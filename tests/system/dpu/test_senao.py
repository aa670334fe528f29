"""A lab with a Senao SX904: a host, its DPU and a plain host, guarded pods on VFs and the DPU."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import ClassVar

import pytest

from dataplane.api.agent_pb2 import Entry
from dataplane.core.placement import Placement
from dataplane.core.reasons import Reason
from dataplane.lab import dpus, lab, matrix, nodes, probes
from dataplane.lab.layout import LabPaths
from dataplane.lab.probes import Station
from dataplane.lab.runtime import Pod, Runtime
from dataplane.lab.scene import COLOURS, INTENT, Colour, silent
from dataplane.lab.topology import read_topology
from tests.system.cni_node import segment
from tests.system.dpu.conftest import (
    BUSY,
    DpuScene,
    Talk,
    assert_told,
    differences,
    until,
    words,
)
from tests.system.dpu.proofs import Proofs, full
from tests.system.dpu.senao_bugs import BUGS, filters_of, planted, without
from tests.system.dpu.traffic import BLUE, GAP_S, Judged, Traffic, counted, judged, vf

TOPOLOGY = """
nodes:
- {name: h1}
- {name: d1, dpu: {vendor: senao, host: h1, vfs: 6}}
- {name: n2}
- {name: d2, dpu: {vendor: senao, host: h1, vfs: 2, tunnels: false}}
"""
PUBLISHED = "d2"  # its driver is as Intel's own
PLACES = ("h1", "d1", "n2")
SMALL = 3  # filters: less than one conversation needs
OWN = Colour("own", 26, "geneve", "ipv4")
LOOKS = 20  # every 0.5 s: longer than a rate takes to fall to nothing where it is counted
DOWN_S = 5.0  # five times the second after which a silent device is said to be down


class SenaoScene(DpuScene):
    """The lab, and what its switch holds, asked by a client that is not the driver's."""

    TABLE: ClassVar[str] = "filters"
    FEW: ClassVar[int] = 12  # an endpoint takes a filter for each IP version, and all of them one

    def packets(self, colour: Colour, station: Station) -> int | None:
        with filters_of(self, colour) as filters:
            found = filters.to(station)
        return sum(each.counters[0][0] for each in found) if found else None

    @contextmanager
    def withdrawn(self, colour: Colour, station: Station) -> Iterator[None]:
        with filters_of(self, colour) as filters, without(filters, filters.to(station)):
            yield

    def rows_taken(self) -> int:
        with filters_of(self, BLUE) as filters:
            return len(filters.all)


@pytest.fixture(scope="module")
def shared() -> Iterator[SenaoScene]:
    paths = LabPaths(f"t{os.getpid()}s")
    made = SenaoScene(paths, read_topology(TOPOLOGY, "tests"), Runtime(paths))
    try:
        made.up()
        lab.apply(paths, INTENT)
        for nth, colour in enumerate(COLOURS):
            name = colour.name
            pods = [Pod(f"{name}v", "h1", name, device=vf(made, nth))]
            pods += [Pod(f"{name}{node}", node, name) for node in PLACES]
            made.segments[name] = [made.runtime.add(pod) for pod in pods]
        second = Pod("bluew", "h1", BLUE.name, device=vf(made, 5))
        made.segments[BLUE.name].append(made.runtime.add(second))
        for stations in made.segments.values():
            matrix.converge(stations)
        yield made
    finally:
        lab.down(paths, silent)


class TestTraffic(Traffic):
    """On this vendor, too."""


def test_the_published_driver_has_vfs_talk_in_the_switch_and_they_stay(scene: DpuScene) -> None:
    """It counts nothing, so what the software saw of them before is all that is known."""
    dpu = scene.topology.node(PUBLISHED)
    wanted = [
        Pod(f"own{n}", "h1", OWN.name, device=dpus.device_id(scene.topology, dpu, n))
        for n in (0, 1)
    ]
    with segment(scene, OWN), ExitStack() as stack:
        for pod in (*wanted, Pod("own2", "n2", OWN.name)):
            stack.callback(scene.runtime.delete, pod.name)
            scene.runtime.add(pod)
        one, other, far = (scene.station(f"own{n}") for n in (0, 1, 2))
        matrix.converge([one, other, far])

        def here(station: Station) -> Entry:
            found = nodes.entries(scene.paths.node(PUBLISHED))
            return next(entry for entry in found if entry.mac == station.mac)

        def placed() -> bool:
            return {here(one).placement, here(other).placement} == {Placement.EMULATED}

        with probes.flow(one, other.ip(4), BUSY) as near, probes.flow(one, far.ip(4), BUSY) as wide:
            until(placed, what="not placed")
            for _ in range(LOOKS):
                time.sleep(0.5)
                assert placed()
            assert here(far).reason == Reason.UNSUPPORTED_ENCAP
        assert (near.lost, near.duplicates, wide.lost, wide.duplicates) == (0, 0, 0, 0)


def test_a_silent_device_forwards_and_is_said_to_be_down(talk: Talk) -> None:
    until(lambda: talk.scene.half["status"], what="not ready: do its probes come through?")
    talk.scene.tell("hang")
    until(lambda: talk.scene.entry(talk.far).reason == Reason.DEVICE_DOWN, DOWN_S)
    talk.scene.tell("revive")
    until(lambda: talk.scene.placed(talk.far), 60)
    until(lambda: talk.scene.half["status"], what="not ready again")


@pytest.mark.parametrize("fault", [["slow", "0.2"], ["garbage"]], ids=lambda words: words[0])
def test_a_device_that_is_slow_or_babbles_loses_nothing(talk: Talk, fault: list[str]) -> None:
    talk.scene.tell(*fault)
    time.sleep(2)
    talk.scene.tell("clear")
    until(lambda: talk.scene.placed(talk.far), 60)


def test_what_is_lost_behind_the_agents_back_is_put_back(talk: Talk) -> None:
    with filters_of(talk.scene, BLUE) as filters:
        whole = len(filters.to(talk.far))
        while len(filters.to(talk.far)) == whole:
            assert talk.scene.tell("lose-one")
        until(lambda: len(filters.to(talk.far)) == whole, 60, "not put back")
    before = counted(talk.scene, talk.far)
    until(lambda: counted(talk.scene, talk.far) > before + 10, 60, "not in the switch again")


class TestJudged(Judged):
    """On this vendor, too."""

    def test_all_paths_agree_but_in_what_the_device_says_that_it_cannot(
        self, placed: DpuScene
    ) -> None:
        rows = judged(placed, 30)
        rows.pop(("d1", "switch"))
        assert not any(row["cannot"] for row in rows.values())

    @pytest.mark.parametrize("name", BUGS)
    def test_a_bug_of_the_switch_is_found(self, placed: DpuScene, name: str) -> None:
        bug = BUGS[name]
        with filters_of(placed, BLUE) as filters:
            assert_told(placed, bug.told, partial(planted, filters, bug))

    def test_all_is_well_once_the_bugs_are_gone(self, placed: DpuScene) -> None:
        assert [words(difference) for difference in differences(placed, BLUE)] == []


class TestProofs(Proofs):
    """On this vendor, too; the last of them fills the table, which the driver remembers."""

    def test_a_table_of_a_few_rows_under_a_hundred_conversations(
        self, scene: DpuScene, crowd: list[Station]
    ) -> None:
        scene.tell("table-full", scene.TABLE, str(scene.FEW))
        scene.tell("reset")  # what stands there would stay, however small the table is said to be
        super().test_a_table_of_a_few_rows_under_a_hundred_conversations(scene, crowd)


# The driver remembers for 30 s at how many filters the device was full: so this comes last.


def test_a_full_table_leaves_the_rest_to_software(talk: Talk) -> None:
    talk.gap_s = GAP_S
    scene, on_dpu = talk.scene, talk.scene.segments[BLUE.name][2]
    scene.tell("table-full", "filters", str(SMALL))
    scene.tell("reset")
    with probes.flow(talk.vf, on_dpu.ip(4), BUSY) as echo:
        until(lambda: full(scene) > 0, 60, "nothing is said to be full")
        time.sleep(2)
    assert (echo.lost, echo.duplicates) == (0, 0)
