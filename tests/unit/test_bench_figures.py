"""Figures as data and as a table, and the two plugins' turns under the stopwatch."""

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench import cni, load, news
from bench.figures import (
    YARDSTICK,
    Figure,
    Fingerprint,
    document,
    fingerprint,
    least_ratio,
    median,
    most_ratio,
    percentile,
    table,
    tail,
)
from bench.load import Side
from bench.plugins import Plugin
from bench.stage import CROWD, FLAVOURS, INTENT, TOPOLOGY, plugins
from dataplane.fabric.intent_file import read_intent
from dataplane.lab.layout import LabPaths
from dataplane.lab.topology import read_topology

MACHINE = Fingerprint("6.1.0", "3.1.0", "3.11.2", "A CPU", 2, 0.5, "abcdef012345")


@pytest.mark.parametrize(
    ("samples", "percent", "expected"),
    [
        pytest.param([7.0], 50, 7.0, id="one"),
        pytest.param([4.0, 1.0, 3.0, 2.0], 50, 2.0, id="lower-middle-of-four"),
        pytest.param([3.0, 1.0, 2.0], 50, 2.0, id="middle-of-three"),
        pytest.param([float(n) for n in range(1, 101)], 99, 99.0, id="p99-of-100"),
        pytest.param([float(n) for n in range(1, 101)], 100, 100.0, id="worst"),
        pytest.param([float(n) for n in range(1, 11)], 99, 10.0, id="p99-of-10-is-the-worst"),
        pytest.param([2.0, 1.0], 0, 1.0, id="best"),
    ],
)
def test_percentile_is_the_nearest_rank(
    samples: list[float], percent: float, expected: float
) -> None:
    assert percentile(samples, percent) == expected


@given(st.lists(st.floats(0, 1e6), min_size=1), st.integers(1, 100))
def test_percentile_is_a_sample_that_so_many_do_not_exceed(
    samples: list[float], percent: int
) -> None:
    found = percentile(samples, percent)
    assert found in samples
    assert sum(sample <= found for sample in samples) * 100 >= percent * len(samples)
    assert sum(sample < found for sample in samples) * 100 < percent * len(samples)


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


@pytest.mark.parametrize(
    ("value", "aim", "met"),
    [
        pytest.param(4.0, None, None, id="told-not-judged"),
        pytest.param(4.0, 4.0, True, id="just-met"),
        pytest.param(4.01, 4.0, False, id="just-missed"),
    ],
)
def test_an_aim_is_a_bound_from_above(value: float, aim: float | None, met: bool | None) -> None:
    assert Figure("x", value, "s", aim).met is met


@pytest.mark.parametrize(
    ("value", "met"),
    [
        pytest.param(1.3, True, id="just-met"),
        pytest.param(1.29, False, id="just-missed"),
        pytest.param(2.0, True, id="more-is-better"),
    ],
)
def test_an_aim_may_be_a_bound_from_below(value: float, met: bool) -> None:
    assert Figure("x", value, "x", 1.3, at_least=True).met is met


def test_ratios_are_judged_by_their_worse_quartile() -> None:
    ratios = [1.4, 1.1, 1.2, 1.3]
    least, most = least_ratio("x", ratios, 1.2), most_ratio("x", ratios, 1.2)
    assert (least.value, least.spread, least.met) == (1.1, (1.1, 1.2), False)
    assert (most.value, most.spread, most.met) == (1.3, (1.2, 1.4), False)


def test_median_spreads_over_quartiles_and_tail_to_the_worst() -> None:
    samples = [float(n) for n in range(1, 101)]
    assert median("x", samples, "ms", 60.0) == Figure("x", 50.0, "ms", 60.0, (25.0, 75.0))
    assert tail("x", samples, "ms") == Figure("x", 99.0, "ms", None, (95.0, 100.0))


def test_document_has_the_keys_that_every_bench_writes() -> None:
    figures = [Figure("a", 1.23456, "ms", 2.0, (1.0, 2.5)), Figure("b", 3.0, "MB")]
    assert json.loads(document(MACHINE, figures)) == {
        "fingerprint": {
            "kernel": "6.1.0",
            "open_vswitch": "3.1.0",
            "python": "3.11.2",
            "cpu": "A CPU",
            "cores": 2,
            "load": 0.5,
            "commit": "abcdef012345",
        },
        "figures": [
            {
                "name": "a",
                "value": 1.235,
                "unit": "ms",
                "aim": 2.0,
                "met": True,
                "spread": [1.0, 2.5],
            },
            {"name": "b", "value": 3.0, "unit": "MB", "aim": None, "met": None, "spread": None},
        ],
    }


def test_table_shows_the_reference_beside_its_figure_and_in_no_line_of_its_own() -> None:
    out = io.StringIO()
    figures = [
        Figure(f"{YARDSTICK}ADD p50", 21.5, "ms"),
        Figure("ADD p50", 43.25, "ms", 21.5, (40.0, 50.0)),
        Figure("ready", 1.0, "s", 2.0),
        Figure("told", 1234.0, "MB"),
        Figure("ratio", 0.9, "x", 0.85, at_least=True),
    ]
    Console(file=out, width=120).print(table(figures))
    head, *lines = [line.split() for line in out.getvalue().splitlines()]
    assert head == ["figure", "value", "spread", "reference", "aim", "met"]
    assert lines == [
        ["ADD", "p50", "43.2", "ms", "40", "-", "50", "21.5", "<=", "21.5", "no"],
        ["ready", "1", "s", "<=", "2", "yes"],
        ["told", "1234", "MB"],
        ["ratio", "0.9", "x", ">=", "0.85", "yes"],
    ]


def test_fingerprint_names_this_machine_and_checkout() -> None:
    found = fingerprint()
    assert all([found.kernel, found.open_vswitch, found.cpu, found.cores])
    assert found.open_vswitch[0].isdigit()
    assert (found.commit or "unknown") in found.summary


@dataclass
class FakePlugin:
    """Notes what it is called for, and takes as many seconds as the pod's name says."""

    name: str
    pods: tuple[Path, ...]
    calls: list[tuple[str, str, str]] = field(default_factory=list)

    def call(self, verb: str, pod: Path, config: Mapping[str, Any]) -> float:
        assert config == {"of": self.name}
        self.calls.append((self.name, verb, pod.name))
        return float(pod.name)


def sides(count: int) -> tuple[list[Side], list[tuple[str, str, str]]]:
    pods = tuple(Path(str(number)) for number in range(count))
    calls: list[tuple[str, str, str]] = []
    pair = [FakePlugin(name, pods, calls) for name in ("ours", "theirs")]
    return [Side(cast("Plugin", plugin), {"of": plugin.name}) for plugin in pair], calls


def test_plugins_take_turns_pod_by_pod_and_who_begins_changes() -> None:
    pair, calls = sides(2)
    load.alternate(pair, 1, lambda: None)
    assert calls == [
        ("ours", "ADD", "0"),
        ("theirs", "ADD", "0"),
        ("theirs", "ADD", "1"),
        ("ours", "ADD", "1"),
        ("ours", "DEL", "0"),
        ("theirs", "DEL", "0"),
        ("theirs", "DEL", "1"),
        ("ours", "DEL", "1"),
    ]
    assert [side.took for side in pair] == [{"ADD": [0.0, 1.0], "DEL": [0.0, 1.0]}] * 2


def test_batches_never_mix_plugins_and_cover_every_pod_once() -> None:
    pair, calls = sides(5)
    steps: list[None] = []
    load.alternate(pair, 2, lambda: steps.append(None))
    assert [name for name, verb, _ in calls if verb == "ADD"] == (
        ["ours"] * 2 + ["theirs"] * 4 + ["ours"] * 3 + ["theirs"]
    )
    assert len(steps) == 6
    for side in pair:
        assert {verb: sorted(took) for verb, took in side.took.items()} == {
            "ADD": [0.0, 1.0, 2.0, 3.0, 4.0],
            "DEL": [0.0, 1.0, 2.0, 3.0, 4.0],
        }


def test_a_crowd_is_attached_and_gone_before_the_other_side_begins() -> None:
    pair, calls = sides(3)
    walls = load.crowd(pair, 2, lambda: None)
    turns = ["ours", "ours", "theirs", "theirs", "theirs", "theirs", "ours", "ours"]
    assert [name for name, _, _ in calls][::3] == turns
    assert [len(wall) for wall in walls] == [2, 2]


def test_stage_is_valid_intent_and_topology() -> None:
    intent = read_intent(INTENT, "stage")
    intent.check()
    names = {getattr(written.entity, "name", "") for written in intent.written}
    assert names == {flavour.segment for flavour in FLAVOURS} | {CROWD, news.STATIC}
    assert [node.name for node in read_topology(TOPOLOGY, "stage").agents] == ["n1", "n2"]


def test_endpoints_are_all_different_and_inside_the_static_range() -> None:
    first, more = news.endpoints(CROWD, 1000), news.endpoints(CROWD, 20, 1000)
    everyone = [*first, *more]
    assert len({each.mac for each in everyone}) == len({each.ips for each in everyone}) == 1020
    assert {str(each.ips[0]).split(".")[2] for each in everyone} <= {"8", "9", "10", "11"}


def test_pods_of_both_plugins_are_namespaces_of_the_lab() -> None:
    ours, theirs = plugins(LabPaths(cni.NAME), 3)
    assert [pod.name for pod in ours.pods] == [f"ow-bench-o{n}" for n in range(3)]
    assert [pod.name for pod in theirs.pods] == [f"ow-bench-r{n}" for n in range(3)]
    assert (ours.node.name, theirs.node.name) == ("ow-bench-n1", "ow-bench-ref")
