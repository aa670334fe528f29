"""One virtual machine for all tests of this folder: its boot and the first imports take longest."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.vm.features import DATAPATH_FILE, FILES, TC_FILES
from tests.vm.kernel import stock_kernel
from tests.vm.machine import Results, run_here, run_on


@pytest.fixture(scope="session")
def on_both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, Results]:
    """Return what runs in the virtual machine says there, and the same tests on the kernel here.

    But for those of the kernel's datapath and of filters, which few other kernels have.
    """
    kernel = stock_kernel()
    shares = tmp_path_factory.mktemp("stock"), tmp_path_factory.mktemp("here")
    with ThreadPoolExecutor() as pool:
        stock = pool.submit(run_on, kernel, (*FILES, DATAPATH_FILE, *TC_FILES), shares[0])
        here = pool.submit(run_here, FILES, shares[1])
        return stock.result(), here.result()
