"""The stock kernel's tc: the SX904's driver programs it, the emulated SX904 answers as it does."""

from __future__ import annotations

import re

import pytest

from bench.vm.kernel import stock_kernel
from tests.vm.features import AGREEMENT_FILE, CARD_FILE, DRIVER_FILE
from tests.vm.machine import ROOT, Results, run_on

_FILES = (AGREEMENT_FILE, DRIVER_FILE)
NAMES = {
    file: re.findall(r"(?m)^def (test_\w+)", (ROOT / file).read_text(encoding="utf-8"))
    for file in _FILES
}

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Results:
    files = (AGREEMENT_FILE, DRIVER_FILE, CARD_FILE)
    return run_on(stock_kernel(), files, tmp_path_factory.mktemp("tc"))


@pytest.mark.parametrize(
    ("file", "name"), [(file, name) for file, names in NAMES.items() for name in names]
)
def test_it_works_on_the_stock_kernel(stock: Results, file: str, name: str) -> None:
    faults = stock.of([file]).faults
    ran = [each for each in faults if re.search(rf"::{name}(\[|$)", each)]
    assert ran, f"it did not run on {stock.release}"
    assert {each: fault for each in ran if (fault := faults[each])} == {}


def test_the_emulated_card_answers_as_the_kernel_does(stock: Results) -> None:
    asked = stock.of([CARD_FILE]).faults
    assert len(asked) > 50
    assert {name: fault for name, fault in asked.items() if fault} == {}
