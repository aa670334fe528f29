"""``overweave verify``: all paths of a healthy node agree, and every bug of its switch is found."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial

import pytest

from dataplane.lab import lab, nodes
from dataplane.lab.scene import COLOURS, Colour
from tests.system.dpu.bugs import BUGS, Seeded, planted, tables_of
from tests.system.dpu.conftest import (
    TRIES,
    DpuScene,
    assert_told,
    differences,
    pinned,
    until,
    words,
)
from tests.system.test_lab_cli import Overweave
from vendors.marvell.pipeline import MISS

BLUE = COLOURS[0]
PROBED_S = 6.0  # two probes of a switch that are lost


@pytest.fixture(scope="module")
def placed(shared: DpuScene) -> Iterator[DpuScene]:
    """The lab with every VF pod and everybody it reaches beyond the wire in the switch."""
    with pinned(shared):
        yield shared


@pytest.fixture
def overweave(placed: DpuScene) -> Overweave:
    return Overweave(placed)


def test_all_paths_agree(overweave: Overweave, colour: Colour) -> None:
    shown = overweave.run("verify", "--packets", "30", "--segment", colour.name, "-o", "json")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    (found,) = json.loads(shown.stdout)
    print(found["verdict"])
    assert found["differences"] == []
    rows = {(row["node"], row["path"]): row for row in found["paths"]}
    switch, fast = rows["d1", "switch"], rows["d1", "fastpath"]
    assert set(rows) == {("d1", p) for p in ("fastpath", "ovs", "switch")} | {
        ("n2", p) for p in ("fastpath", "ovs")
    } | {("h1", p) for p in ("fastpath", "ovs")}
    for row in (switch, fast, rows["n2", "fastpath"]):
        assert row["unknown"] == 0
        assert row["not_observed"] == {}
        assert row["agree"] > 60
    assert switch["handed_over"] > 60
    assert rows["d1", "ovs"]["unknown"] < rows["d1", "ovs"]["asked"] / 20
    assert found["left_out"] == 0


@pytest.mark.parametrize("name", BUGS)
def test_a_bug_of_the_switch_is_found(placed: DpuScene, name: str) -> None:
    tables, bug = tables_of(placed, BLUE), BUGS[name]
    assert_told(placed, bug.told, partial(planted, tables, bug))


def test_a_switch_that_answers_and_loses_frames_is_not_reachable(placed: DpuScene) -> None:
    """Whoever has an entry goes on: what has none is lost."""

    def is_lost() -> bool:
        found = placed.half
        lost = [each for each in found["conditions"] if "the switch does not forward: " in each]
        kinds = {each.partition("=")[0] for each in lost}
        return not found["status"] and kinds == {"Ready", "SwitchReachable"}

    until(lambda: placed.half["status"], what="not ready")
    tables = tables_of(placed, BLUE)
    rows = [flow for flow in tables.bridge.dump_flows() if flow.table == MISS.number]
    misses = [flow for flow in rows if flow.match.startswith("in_port=")]
    assert len(misses) == len(placed.segments)
    bug = Seeded("", lambda _: [replace(flow, actions="drop") for flow in misses])
    with planted(tables, bug):
        print(f"said after {until(is_lost, 5 * PROBED_S, 'not said'):.1f} s")
        shown = lab.overweave(placed.paths, "explain", "lab-d1-dpu", *placed.asked)
        assert "switch of d1: Marvell Octeon 10 (emulated): the switch does not forward" in shown
    until(lambda: placed.half["status"], what="not ready again")


def test_all_is_well_once_the_bugs_are_gone(placed: DpuScene) -> None:
    assert [words(difference) for difference in differences(placed, BLUE)] == []


def test_the_command_names_who_differs_and_the_rule_on_each_side(
    placed: DpuScene, overweave: Overweave
) -> None:
    shown = ""
    for _ in range(TRIES):
        with planted(tables_of(placed, BLUE), BUGS["wrong VNI"]):
            done = overweave.run("verify", "--packets", "0", "--segment", "blue")
        shown = done.stdout
        if done.returncode == 1:
            break
    print(shown)
    verdict, head, *_ = shown.splitlines()
    assert verdict.startswith("switch of d1 differs in VNI; ")
    assert head.split() == [
        *("NODE", "PATH", "ASKED", "AGREE", "HANDED", "OVER"),
        *("COUNTED", "EXCUSED", "DIFFER", "UNKNOWN", "NOT", "OBSERVED"),
    ]
    lines = shown.splitlines()
    at = next(n for n, line in enumerate(lines) if line.startswith("difference: "))
    assert lines[at].startswith(f"difference: switch of d1: VNI: 1002, not {BLUE.vni}: ")
    assert lines[at + 1].startswith("  switch: injected at vf0, came out at up; it holds ")
    assert lines[at + 2].startswith("  ovs: table forwarding: ")
    assert lines[-1] == "next: overweave explain d1"


def test_an_agent_that_is_dead_is_said(placed: DpuScene, overweave: Overweave) -> None:
    nodes.kill_agent(placed.paths.node("n2"))
    shown = overweave.run("verify", "--packets", "0", "--segment", "blue")
    lab.start_agents(placed.paths, placed.topology.agents)
    assert shown.returncode == 3
    assert shown.stdout.startswith("not known: ")
    assert "not heard: no agent answers on " in shown.stdout


def test_a_switch_that_is_dead_loses_everything(placed: DpuScene) -> None:
    placed.tell("die")
    try:
        with closing(differences(placed, BLUE)) as found:
            first = words(next(found))
    finally:
        placed.tell("revive")
    assert first.startswith("verdict: drop, not tunnel: ")
