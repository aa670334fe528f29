"""The fast path on Debian's stock kernel: golden packets, and real ones between two nodes."""

import pytest

from bench.vm.kernel import stock_kernel
from tests.vm.features import FEATURES, FILES, column, faults_of, readme_columns
from tests.vm.machine import Results

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture
def both(on_both: tuple[Results, Results]) -> tuple[Results, Results]:
    """Return what the same tests say on the stock kernel and on the kernel here."""
    stock, here = on_both
    return stock.of(FILES), here


@pytest.mark.parametrize("feature", FEATURES)
def test_it_works_on_the_stock_kernel(both: tuple[Results, Results], feature: str) -> None:
    stock, _ = both
    assert faults_of(feature, stock) == [], f"on {stock.release}"


def test_the_same_tests_ran_on_the_stock_kernel(both: tuple[Results, Results]) -> None:
    stock, here = both
    assert stock.release == stock_kernel().release
    assert stock.faults.keys() == here.faults.keys()


def test_the_readme_says_what_was_seen(both: tuple[Results, Results]) -> None:
    """Of the kernel here only where the README has a column for it: it was written elsewhere."""
    said = readme_columns()
    assert both[0].series in said
    for results in both:
        if results.series in said:
            assert said[results.series] == column(results)
