"""The grid that ends a run: only what passed counts, and what is empty is named."""

import re

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest

@pytest.fixture
def broken():
    yield
    raise AssertionError

def test_two_cells(proven):
    proven("geneve", "ipv4", "ipv4")
    proven("geneve", "ipv4", "ipv6")
    proven("geneve", "ipv4", "ipv6")

def test_again(proven):
    proven("geneve", "ipv4", "ipv6")

def test_netdev(proven):
    proven("vxlan", "ipv6", "ipv4", port="netdev")

def test_fails(proven):
    proven("vxlan", "ipv4", "ipv4")
    raise AssertionError

def test_fails_late(proven, broken):
    proven("vxlan", "ipv4", "ipv4")

def test_no_such_cell(proven):
    proven("gre", "ipv4", "ipv4")
"""


def output(pytester: pytest.Pytester, source: str) -> str:
    pytester.makepyfile(source)
    return pytester.runpytest_inprocess("-p", "tests.coverage_grid").stdout.str()


def test_only_passed_tests_count(pytester: pytest.Pytester) -> None:
    text = output(pytester, TESTS)
    rows = dict(re.findall(r"^((?:geneve|vxlan) +\w+ +\w+) +(.*)$", text, re.MULTILINE))
    counts = {tuple(row.split()): cells.split() for row, cells in rows.items()}
    assert counts.pop(("geneve", "ipv4", "ipv4")) == ["1", "-", "-", "-", "-", "-"]
    assert counts.pop(("geneve", "ipv4", "ipv6")) == ["2", "-", "-", "-", "-", "-"]
    assert counts.pop(("vxlan", "ipv6", "ipv4")) == ["-", "-", "1", "-", "-", "-"]
    assert list(counts.values()) == [["-"] * 6] * 5
    assert "gre" not in rows


def test_empty_cells_are_named(pytester: pytest.Pytester) -> None:
    lines = output(pytester, TESTS).splitlines()
    empty = [line for line in lines if line.startswith("EMPTY: ")]
    assert len(empty) == 6 * 8 - 3
    assert "EMPTY: geneve over ipv4, ipv4 veth kernel" in empty
    assert "EMPTY: vxlan over ipv4, ipv4 veth userspace" in empty
    assert "EMPTY: geneve over ipv4, ipv6 veth userspace" not in empty


def test_a_run_without_packets_has_no_grid(pytester: pytest.Pytester) -> None:
    assert "coverage grid" not in output(pytester, "def test_it(): pass")
