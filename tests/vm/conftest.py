"""One virtual machine for the tests of this folder: its boot and the first imports take longest.

But for those of filters (test_flower.py): beside agents that are to answer in time they take it.
"""

from concurrent.futures import ThreadPoolExecutor

import pytest

from bench.vm.kernel import stock_kernel
from tests.vm.features import DATAPATH_FILE, FILES
from tests.vm.machine import Results, run_here, run_on


@pytest.fixture(scope="session")
def on_both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    """Return what runs in the virtual machine says there, and the same tests on the kernel here.

    But for those of the kernel's datapath, which few other kernels have.
    """
    kernel = stock_kernel()
    shares = tmp_path_factory.mktemp("stock"), tmp_path_factory.mktemp("here")
    with ThreadPoolExecutor() as pool:
        stock = pool.submit(run_on, kernel, (*FILES, DATAPATH_FILE), shares[0])
        here = pool.submit(run_here, FILES, shares[1])
        return stock.result(), here.result()
