"""The stock kernel's tc: the SX904's driver programs it, the emulated SX904 answers as it does."""

from __future__ import annotations

import re

import pytest

from tests.vm.features import TC_FILES
from tests.vm.machine import ROOT, Results

DRIVER, CARD = TC_FILES
NAMES = re.findall(r"(?m)^def (test_\w+)", (ROOT / DRIVER).read_text(encoding="utf-8"))

pytestmark = pytest.mark.timeout(1200)


@pytest.mark.parametrize("name", NAMES)
def test_the_driver_works_on_the_stock_kernel(on_both: tuple[Results, Results], name: str) -> None:
    stock = on_both[0].of([DRIVER])
    ran = [each for each in stock.faults if re.search(rf"::{name}(\[|$)", each)]
    assert ran, f"it did not run on {stock.release}"
    assert {each: fault for each in ran if (fault := stock.faults[each])} == {}


def test_the_emulated_card_answers_as_the_kernel_does(on_both: tuple[Results, Results]) -> None:
    asked = on_both[0].of([CARD]).faults
    assert len(asked) > 50
    assert {name: fault for name, fault in asked.items() if fault} == {}


def test_the_rates_are_told(on_both: tuple[Results, Results]) -> None:
    rates = on_both[0].rates
    assert set(rates) == {"tc -batch, filters/s", "ours, filters/s"}
    print(rates)
