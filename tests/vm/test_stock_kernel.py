"""The fast path on Debian's stock kernel: golden packets, and real ones between two nodes."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.vm.features import FEATURES, FILES, column, faults_of, readme_columns
from tests.vm.kernel import stock_kernel
from tests.vm.machine import Results, run_here, run_on

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    """Return what the same tests say on the stock kernel and on the kernel here."""
    kernel = stock_kernel()
    shares = tmp_path_factory.mktemp("stock"), tmp_path_factory.mktemp("here")
    with ThreadPoolExecutor() as pool:
        stock = pool.submit(run_on, kernel, FILES, shares[0])
        here = pool.submit(run_here, FILES, shares[1])
        return stock.result(), here.result()


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
