"""The ways of throughput, the turns they take, and how what passed becomes figures."""

import io
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from bench import measures, plot, throughput
from bench.figures import Fingerprint
from bench.measures import CPU, MEASURES, P99, SMALL, STREAM1, TURNS, Measure, absolute, ratios
from bench.others import share
from bench.paths import BRIDGES, FAST, HOST, INTENT, KERNEL, NAMES, OVS, TOPOLOGY, Way
from bench.traffic import LOADS, Passed
from dataplane.core.errors import OverweaveError
from dataplane.fabric.intent_file import read_intent
from dataplane.lab.topology import read_topology

PASSED = Passed(
    received=3_000_000_000,
    seconds=2.0,
    cpu=3.0,
    round_trips=50_000,
    lost=0,
    p50_us=20.0,
    p99_us=90.0,
)


def samples(rounds: int = 3) -> dict[tuple[str, object], list[Passed]]:
    return {(way, load): [PASSED] * rounds for way in NAMES for load in LOADS}


@pytest.mark.parametrize(
    ("measure", "expected"),
    [
        pytest.param(STREAM1, 12.0, id="gigabits-a-second"),
        pytest.param(CPU, 1.0, id="processor-seconds-for-a-gigabyte"),
        pytest.param(SMALL, 1_500_000.0, id="thousand-packets-a-second"),
        pytest.param(TURNS, 25.0, id="thousand-requests-a-second"),
        pytest.param(P99, 90.0, id="microseconds"),
    ],
)
def test_what_is_read_from_traffic(measure: Measure, expected: float) -> None:
    assert measure.read(PASSED) == expected


def test_a_figure_is_the_median_of_its_way_over_the_rounds() -> None:
    found = samples()
    found[HOST, STREAM1.load] = [replace(PASSED, received=n * 250_000_000) for n in (8, 1, 3, 4)]
    figure = absolute(found, HOST, STREAM1)  # type: ignore[arg-type]
    assert (figure.name, figure.unit) == ("TCP 1 stream, host to host", "Gbit/s")
    assert (figure.value, figure.spread) == (3.0, (1.0, 4.0))


def test_ratios_are_of_the_same_round_and_judged_by_the_worse_quartile() -> None:
    found = samples(4)
    own, other = [6, 3, 12, 9], [3, 3, 6, 3]
    for way, sizes in ((FAST[0], own), (KERNEL, other)):
        found[way, SMALL.load] = [replace(PASSED, received=size) for size in sizes]
    figures = {figure.name: figure for figure in ratios(found)}  # type: ignore[arg-type]
    packets = figures[f"small packets, {FAST[0]} : {KERNEL}"]
    assert (packets.value, packets.spread, packets.aim) == (1.0, (1.0, 2.0), 1.3)
    assert packets.met is False
    cpu = figures[f"CPU, {FAST[0]} : {KERNEL}"]
    assert (cpu.value, cpu.aim, cpu.at_least, cpu.met) == (1.0, 1.0, False, True)


def test_every_aim_is_judged_for_both_encapsulations() -> None:
    names = [figure.name for figure in ratios(samples())]  # type: ignore[arg-type]
    assert len(names) == len(set(names)) == 2 * (len(measures._LEAST) + len(measures._MOST))
    assert not any(OVS in name for name in names)  # told, not judged


def test_every_way_begins_a_round_forwards_and_one_backwards() -> None:
    found = [cast("Way", name) for name in NAMES]
    turns = [throughput.taking_turns(found, turn) for turn in range(2 * len(NAMES))]
    assert all(sorted(map(str, turn)) == sorted(NAMES) for turn in turns)
    for direction in (turns[::2], turns[1::2]):
        assert {str(turn[0]) for turn in direction} == set(NAMES)
    following = dict(zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True))
    assert all(following[str(turn[0])] == str(turn[1]) for turn in turns[::2])
    assert all(following[str(turn[1])] == str(turn[0]) for turn in turns[1::2])


@pytest.mark.parametrize(
    ("way", "fast", "good"),
    [
        pytest.param(FAST[0], [120, 110], True, id="fast-on-both-nodes"),
        pytest.param(FAST[0], [120, 9], False, id="slow-on-the-second"),
        pytest.param(FAST[1], [0, 120], False, id="slow-on-the-first"),
        pytest.param(OVS, [0, 0], True, id="ovs-alone"),
        pytest.param(OVS, [0, 1], False, id="ovs-not-alone"),
        pytest.param(BRIDGES, [5, 5], False, id="yardstick-over-the-product"),
    ],
)
def test_a_way_is_what_it_claims_to_be(way: str, fast: list[int], *, good: bool) -> None:
    assert throughput.as_claimed(way, 100, fast) is good


def test_stage_is_valid_intent_and_topology() -> None:
    intent = read_intent(INTENT, "stage")
    intent.check()
    topology = read_topology(TOPOLOGY, "stage")
    assert [node.name for node in topology.nodes] == ["n1", "n2", "b1", "b2", "p1", "p2"]
    assert [node.name for node in topology.agents] == ["n1", "n2"]


BEFORE = "cpu  100 10 50 1000 20 5 15 0 0 0\ncpu0 1 2 3 4 5 6 7 8 9 10\n"


@pytest.mark.parametrize(
    ("after", "percent"),
    [
        pytest.param("cpu  100 10 50 1090 30 5 15 0 0 0\n", 0.0, id="idle-and-iowait"),
        pytest.param("cpu  120 10 60 1070 20 5 15 0 0 0\n", 30.0, id="user-and-system"),
        pytest.param("cpu  100 10 50 1020 20 35 45 20 0 0\n", 80.0, id="interrupts-and-steal"),
        pytest.param("cpu  150 10 50 1050 20 5 15 0 50 0\n", 50.0, id="guest-is-in-user"),
        pytest.param(BEFORE, 0.0, id="no-time-at-all"),
    ],
)
def test_what_was_not_idle_was_busy(after: str, percent: float) -> None:
    assert share(BEFORE, after) == percent


def every() -> plot.Matrix:
    return {
        (way, measure.name): absolute(samples(), way, measure)  # type: ignore[arg-type]
        for way in NAMES
        for measure in MEASURES
    }


def test_the_table_has_a_line_for_each_way_and_fits_a_page() -> None:
    out = io.StringIO()
    Console(file=out, width=120).print(throughput._matrix(every()))
    lines = out.getvalue().splitlines()
    assert [line[:20].strip() for line in lines[2::2]] == list(NAMES)


def test_the_plot_is_written_twice(tmp_path: Path) -> None:
    machine = Fingerprint("6.1.0", "3.1.0", "3.11.2", "A CPU", 2, 0.5, "abcdef012345")
    plot.draw(every(), machine, tmp_path / "figures")
    assert (tmp_path / "figures.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "figures.svg").read_text(encoding="utf-8")
    assert all(way in drawn for way in NAMES)


def test_without_matplotlib_it_says_so_before_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda _name: None)
    with pytest.raises(OverweaveError, match="matplotlib"):
        plot.require()
