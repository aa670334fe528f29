"""The kernel's datapath of Open vSwitch, by what the tests in the virtual machine said there."""

import re

import pytest

from tests.coverage_grid import Proven
from tests.vm.features import DATAPATH_FILE
from tests.vm.machine import ROOT, Results

NAMES = re.findall(r"(?m)^def (test_\w+)", (ROOT / DATAPATH_FILE).read_text(encoding="utf-8"))

pytestmark = pytest.mark.timeout(1200)


@pytest.mark.parametrize("name", NAMES)
def test_it_works(on_both: tuple[Results, Results], name: str, proven: Proven) -> None:
    stock = on_both[0].of([DATAPATH_FILE])
    ran = [each for each in stock.faults if re.search(rf"::{name}(\[|$)", each)]
    assert ran, f"it did not run on {stock.release}"
    assert {each: fault for each in ran if (fault := stock.faults[each])} == {}
    for cell in (cell for each in ran for cell in stock.proven[each]):
        proven(*cell)
