"""The stock kernel's tc: the SX904's driver programs it, the emulated SX904 answers as it does."""

from __future__ import annotations

import re

import pytest

from tests.vm.features import TC_FILES
from tests.vm.kernel import stock_kernel
from tests.vm.machine import ROOT, Results, run_on

DRIVER, CARD = TC_FILES
NAMES = re.findall(r"(?m)^def (test_\w+)", (ROOT / DRIVER).read_text(encoding="utf-8"))

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_on(stock_kernel(), TC_FILES, tmp_path_factory.mktemp("tc"))


@pytest.mark.parametrize("name", NAMES)
def test_the_driver_works_on_the_stock_kernel(stock: Results, name: str) -> None:
    faults = stock.of([DRIVER]).faults
    ran = [each for each in faults if re.search(rf"::{name}(\[|$)", each)]
    assert ran, f"it did not run on {stock.release}"
    assert {each: fault for each in ran if (fault := faults[each])} == {}


def test_the_emulated_card_answers_as_the_kernel_does(stock: Results) -> None:
    asked = stock.of([CARD]).faults
    assert len(asked) > 50
    assert {name: fault for name, fault in asked.items() if fault} == {}


def test_the_rates_are_told(stock: Results) -> None:
    rates = stock.rates
    assert set(rates) == {"tc -batch, filters/s", "ours, filters/s"}
    print(rates)
