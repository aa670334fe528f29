"""What the fast path does, by the tests that show it: the rows of the README's table of kernels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from tests.vm.machine import ROOT, Results

DATAPATH_FILE = "tests/vm/kernel_datapath.py"  # not of the fast path, and not for every kernel
# The same, of filters; what takes longest comes first.
AGREEMENT_FILE = "tests/vm/agreement_kernel.py"
DRIVER_FILE, CARD_FILE = "tests/vm/flower_kernel.py", "tests/vm/tc_kernel.py"
FILES = ("tests/packets/test_fastpath.py", "tests/functional/test_fast_path_traffic.py")

_TUNNELLED = "(is_encapsulated|is_decapsulated|test_pings_and_super_packets_cross)"
_INSIDE4, _INSIDE6 = "(tcp-ipv4|udp-ipv4|icmp|inner-ipv4)", "(tcp-ipv6|icmpv6|inner-ipv6)"
_REST = "all other golden packets"
# A row has the tests whose names match; what no row has is in the last one.
FEATURES = {
    "the programs load, without kernel headers": r"test_every_program_is_loaded",
    "Geneve over IPv4: ping, TCP super-packets": rf"{_TUNNELLED}\[geneve-ipv4-{_INSIDE4}\]",
    "Geneve over IPv6": rf"{_TUNNELLED}\[geneve-ipv6-{_INSIDE6}\]",
    "VXLAN over IPv4": rf"{_TUNNELLED}\[vxlan-ipv4-{_INSIDE4}\]",
    "VXLAN over IPv6": rf"{_TUNNELLED}\[vxlan-ipv6-{_INSIDE6}\]",
    "inner IPv4 over IPv6, inner IPv6 over IPv4": (
        rf"{_TUNNELLED}\[\w+-(ipv6-{_INSIDE4}|ipv4-{_INSIDE6})\]"
    ),
    "the pod next door": r"test_the_pod_next_door",
    "ARP and ND answers": r"_is_answered|test_a_question|link_local|wrong_checksum",
    "guards": r"test_guards|known_addresses",
    "MTU, ECN": r"test_too_large|test_a_congestion_mark",
    "handed to Open vSwitch, counted by reason": r"goes_to_ovs|is_for_ovs|everything_goes",
    "strangers' tunnel packets left to the host": r"left_to_the_host|strangers|other_encapsulation",
    _REST: "",
}


def tests_of(feature: str, results: Results) -> list[str]:
    """Return the names of the tests that show a feature."""
    if feature == _REST:
        shown = {name for other in FEATURES if other != _REST for name in tests_of(other, results)}
        return [name for name in results.faults if name not in shown]
    return [name for name in results.faults if re.search(FEATURES[feature], name)]


def faults_of(feature: str, results: Results) -> list[str]:
    """Return what is wrong with a feature on a kernel."""
    tests = tests_of(feature, results)
    assert tests, f"no test shows: {feature}"
    return [f"{name}: {fault}" for name in tests if (fault := results.faults[name])]


def column(results: Results) -> dict[str, str]:
    """Return the cell of each feature."""
    return {name: "no" if faults_of(name, results) else "yes" for name in FEATURES}


def readme_columns() -> dict[str, dict[str, str]]:
    """Return the cells of the README's table by the kernel series that heads them."""
    rows = _rows((ROOT / "README.md").read_text(encoding="utf-8").splitlines())
    head, _, *body = rows
    series = [heading.removeprefix("Linux ").split(" ")[0] for heading in head[1:]]
    return {name: {row[0]: row[n] for row in body} for n, name in enumerate(series, start=1)}


def _rows(lines: Sequence[str]) -> Iterator[list[str]]:
    start = next(n for n, line in enumerate(lines) if line.startswith("| Fast path on"))
    for line in lines[start:]:
        if not line.startswith("|"):
            return
        yield [cell.strip() for cell in line.strip("|").split("|")]
