"""What is assumed of a device stands where it is assumed, and counts where it is relied on."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.core.assumptions import in_use
from dataplane.core.capability import Assumption, Capability, Use
from dataplane.core.desired import Port, SegmentView
from dataplane.core.model import Encap, Family, Guard, Segment
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MAC_ONLY,
    UNGUARDED,
    VTEP4,
    VTEP6,
    VXLAN4,
    port,
    remote,
    trunk,
    view,
)
from vendors import registry
from vendors.assumed import ASSUMED, statement

VENDORS = Path(__file__).resolve().parents[2] / "vendors"
MARK = "ASSUMED"
OF_THE_PIPELINE = "| of its [pipeline](pipeline.md):"
DEVICES = {"intel": "E2100", "marvell": "Octeon 10", "senao": "SX904"}
EACH_VENDOR = pytest.mark.parametrize("vendor", ASSUMED)


def named(text: str) -> list[str]:
    """Return the names behind each mark; a mark without is one that nobody is told of."""
    lists = re.findall(MARK + r"((?:,? `[a-z0-9-]+`)*)", text)
    assert all(lists), f"{MARK} without a name in: {text}"
    return [name for each in lists for name in re.findall("`([^`]+)`", each)]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def named_in(path: Path) -> set[str]:
    return {name for line in lines(path) for name in named(line)}


def test_each_driver_has_its_assumptions() -> None:
    assert set(registry.DRIVERS) - {"noop"} == set(ASSUMED)


def assumed_for(vendor: str, uses: Collection[Use]) -> set[str]:
    return {each.name for each in ASSUMED[vendor] if each.use in uses}


@EACH_VENDOR
def test_the_documents_say_what_the_data_has_and_no_more(vendor: str) -> None:
    readme, pipeline = VENDORS / vendor / "README.md", VENDORS / vendor / "pipeline.md"
    assert named_in(readme) == assumed_for(vendor, set(Use) - {Use.DISCOVERY})
    assert named_in(pipeline) <= named_in(readme)
    listed = {n for line in lines(readme) if line.startswith(OF_THE_PIPELINE) for n in named(line)}
    assert listed <= named_in(pipeline)


@EACH_VENDOR
def test_so_does_the_one_on_which_dpus_a_machine_has(vendor: str) -> None:
    """Its rows say first whose device they are about."""
    rows = [line for line in lines(VENDORS / "discovery.md") if line.startswith("| ")]
    about = [row for row in rows if DEVICES[vendor] in row.split("|")[1]]
    assert {n for row in about for n in named(row)} == assumed_for(vendor, {Use.DISCOVERY})
    assert all(any(device in row for device in DEVICES.values()) for row in rows if named(row))


@EACH_VENDOR
def test_a_name_means_one_statement(vendor: str) -> None:
    names = [each.name for each in ASSUMED[vendor]]
    assert len(names) == len(set(names))
    assert all(statement(vendor, each.name) == each.statement for each in ASSUMED[vendor])
    assert statement(vendor, "nobody-said-so") == statement("nobody", names[0]) == ""


@pytest.mark.parametrize(
    "text",
    ["it does so (ASSUMED)", "| ASSUMED: nobody says |", "it is ASSUMED, like `this`"],
)
def test_an_assumption_without_a_name_is_found(text: str) -> None:
    with pytest.raises(AssertionError, match="without a name"):
        named(text)


GUARDS = {f"rep{number}": frozenset({Guard.OFF, Guard.IP}) for number in range(3)}
V4_AND_GENEVE6 = frozenset((e, Family.IPV4) for e in Encap) | {(Encap.GENEVE, Family.IPV6)}
KNOWN = Capability(
    "test",
    "switch",
    tunnels=V4_AND_GENEVE6,
    guards=GUARDS,
    assumptions=tuple(Assumption(use.value, use, "so") for use in Use),
)
PORTS, ENTRIES = {Use.DEVICE, Use.PORTS}, {Use.DEVICE, Use.PORTS, Use.ENTRIES}
TUNNELS = ENTRIES | {Use.TUNNELS}


def behind(segment: Segment, netdev: str = "rep0") -> Port:
    plain = port(1, segment)
    return replace(plain, attachment=replace(plain.attachment, netdev=netdev))


FAR4, FAR6 = remote(10, GENEVE4, VTEP4[0]), remote(10, GENEVE6, VTEP6[0])


@pytest.mark.parametrize(
    ("views", "uses"),
    [
        pytest.param((), {Use.DEVICE}, id="nobody there"),
        pytest.param((view(GENEVE4, [port(1, GENEVE4)], [FAR4]),), {Use.DEVICE}, id="veth"),
        pytest.param(
            (view(GENEVE4, [behind(GENEVE4, "rep9")], [FAR4]),), {Use.DEVICE}, id="no such port"
        ),
        pytest.param((view(MAC_ONLY, [behind(MAC_ONLY)], [FAR4]),), PORTS, id="guard"),
        pytest.param((view(GENEVE4, [trunk(0, GENEVE4, 5)], [FAR4]),), PORTS, id="trunk"),
        pytest.param((view(GENEVE4, [behind(GENEVE4)]),), ENTRIES, id="alone"),
        pytest.param(
            (view(replace(VXLAN4, underlay=Family.IPV6), [behind(VXLAN4)], [FAR6]),),
            ENTRIES,
            id="a tunnel that it has not",
        ),
        pytest.param(
            (view(GENEVE4, [behind(GENEVE4)], [FAR4]),),
            TUNNELS | {Use.GENEVE, Use.IPV4},
            id="geneve over ipv4",
        ),
        pytest.param(
            (view(GENEVE6, [behind(GENEVE6)], [FAR6]),),
            TUNNELS | {Use.GENEVE, Use.IPV6},
            id="geneve over ipv6",
        ),
        pytest.param(
            (
                view(GENEVE6, [behind(GENEVE6)], [FAR6]),
                view(UNGUARDED, [behind(UNGUARDED)], [FAR4]),
                view(MAC_ONLY, [behind(MAC_ONLY)], [FAR4]),
            ),
            set(Use) - {Use.DISCOVERY},  # which is for who has found it to say
            id="several segments",
        ),
    ],
)
def test_what_is_in_use(views: Iterable[SegmentView], uses: set[Use]) -> None:
    assert in_use(KNOWN, views) == tuple(sorted(uses))
