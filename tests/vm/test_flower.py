"""Debian's stock kernel, which has cls_flower and act_tunnel_key: the SX904's driver programs it.

And it answers the same bytes as the emulated SX904 does.
"""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.vm.kernel import stock_kernel
from tests.vm.machine import Results, run_on

FILES = ("tests/vm/flower_kernel.py", "tests/vm/tc_kernel.py")
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def share(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("flower")


@pytest.fixture(scope="module")
def results(share: Path) -> Results:
    return run_on(stock_kernel(), FILES, share)


@pytest.mark.parametrize(
    "words",
    [
        *(
            f"frames_cross_both_ways_and_counters_move[{name}]"
            for name in ("geneve4", "geneve6", "vxlan4", "vxlan6")
        ),
        "what_is_placed_is_found_by_another_driver",
        "made_anew",
        "stays[another kind]",
        "stays[another ethertype]",
        "takes_no_filter_into_a_device",
        "who_may_not",
        "what_tc_writes",
        "describe",
    ],
)
def test_it_works_on_the_stock_kernel(results: Results, words: str) -> None:
    (name,) = (name for name in results.faults if words in name)
    assert results.faults[name] is None


def test_the_emulated_card_answers_as_the_kernel_does(results: Results) -> None:
    asked = [name for name in results.faults if "tc_kernel" in name]
    assert len(asked) > 50
    assert [name for name in asked if results.faults[name]] == []


def test_nothing_else_fails_there_and_the_rates_are_told(results: Results, share: Path) -> None:
    assert [name for name, fault in results.faults.items() if fault] == []
    for case in ET.parse(share / "flower_kernel.xml").iter("property"):  # noqa: S314 our own
        print(f"{case.get('name')}: {case.get('value')}")
