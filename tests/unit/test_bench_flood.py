"""The flood: what is sent, when a sample counts, and how samples become figures."""

import pytest

from bench import flood
from bench.flood import NATIVE, SHARES, TOPOLOGY, WITHOUT, Passed, figures, ratios
from dataplane.lab.topology import read_topology

PASSED = Passed(sent=1_000_000, received=100_000, seconds=2.0, cpu=3.0)


def test_the_program_is_given_what_it_needs_to_be_told() -> None:
    text = flood.inject_source(17, 90)
    names = ("TARGET 17", "VNI_AT 46", "FORGED_PERCENT 90", "VNI 3031", "STRANGE_VNI 11259375")
    assert all(f"#define {name}\n" in text for name in names)


@pytest.mark.parametrize(
    ("received", "share", "dropped", "good"),
    [
        pytest.param(100_000, 90, 950_000, True, id="the-warm-up-is-counted-too"),
        pytest.param(100_000, 90, 700_000, False, id="forged-ones-went-elsewhere"),
        pytest.param(0, 90, 950_000, False, id="nothing-came-through"),
        pytest.param(900_000, 0, 0, True, id="no-flood"),
        pytest.param(900_000, 0, 5, False, id="known-ones-were-dropped"),
    ],
)
def test_a_sample_is_what_it_claims_to_be(
    received: int, share: int, dropped: int, *, good: bool
) -> None:
    passed = Passed(1_000_000, received, 1.0, 1.0)
    assert flood.is_as_claimed(passed, share, dropped) is good


def test_figures_are_medians_of_the_rounds() -> None:
    found = figures("x", [PASSED, PASSED, Passed(8_000_000, 600_000, 2.0, 6.0)])
    assert [(f.name, f.value, f.unit) for f in found] == [
        ("known packets, x", 50.0, "k/s"),
        ("frames at the NIC, x", 500.0, "k/s"),
        ("CPU, x", 30.0, "s/M"),
    ]
    assert found[0].spread == (50.0, 300.0)


def test_ratios_are_of_the_same_round_and_judged_where_most_is_forged() -> None:
    native = [Passed(1, n * 1000, 1.0, 1.0) for n in (2, 8, 3, 4)]
    without = [Passed(1, n * 1000, 1.0, 1.0) for n in (1, 2, 4, 2)]
    samples = {(NATIVE, s): native for s in SHARES} | {(WITHOUT, s): without for s in SHARES}
    found = list(ratios(samples))
    assert [(f.value, f.aim, f.met) for f in found] == [
        (2.0, None, None),
        (2.0, None, None),
        (0.75, 1.0, False),
        (0.75, 1.0, False),
    ]


def test_the_stage_is_a_valid_topology() -> None:
    assert [node.name for node in read_topology(TOPOLOGY, "stage").agents] == ["n1", "n2"]
