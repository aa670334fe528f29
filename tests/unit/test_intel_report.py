"""What is said of an Intel IPU: by its P4 program and what stands in it."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest

from dataplane.core.agreement import Field
from dataplane.core.capability import Departure
from dataplane.core.model import Encap, Family, Guard
from tests.unit.intel_builders import FREE4, POOLS, WIRING
from tests.unit.marvell_builders import bound, entries, vf
from tests.unit.overlay_builders import VTEP4, desired, remote, view
from tests.unit.test_intel_numbers import placed, rendered
from vendors.intel.pipeline import BRIDGES, PIPELINE, SEND, SOURCE_FIELD, VLAN_FIELD, DeviceRow
from vendors.intel.report import Findings, capability

KINDS = {(encap, family) for encap in Encap for family in Family}
PORTS = tuple(
    row
    for vsi in (27, 28)
    for row in (
        DeviceRow(
            "tx_source_port",
            (("vmeta.common.vsi", vsi),),
            "set_source_port",
            (("source_port", vsi + 16),),
        ),
        DeviceRow(
            "source_port_to_pr_map",
            ((SOURCE_FIELD, vsi + 16), ("zero_padding", 0)),
            "fwd_to_vsi",
            (("port", vsi - 2),),
        ),
    )
)
SIZES = {table.name: 1024 for table in PIPELINE}
FOUND = Findings(PORTS, SIZES, {}, POOLS)
WORLD = desired(view(FREE4, [vf(1, FREE4)], [remote(10, FREE4, VTEP4[0])]))


def test_an_empty_device_can_do_it_all() -> None:
    found = capability(FOUND, WIRING, emulated=True)
    assert (found.vendor, found.obstacle, found.emulated) == ("intel", "", True)
    assert found.tunnels == KINDS
    assert found.guards == {f"rep{n}": {Guard.OFF} for n in (1, 2)}
    assert {Field.DF, Field.TTL, Field.ECN} == found.cannot_set
    assert set(Departure) - {Departure.LENGTHS} == found.departures
    assert {(table.capacity, table.used, table.foreign) for table in found.tables} == {(1024, 0, 0)}
    assert len(found.tables) == len(PIPELINE)


def test_ours_is_counted_apart_from_what_is_of_others() -> None:
    assert entries(WORLD)
    assert bound(entries(WORLD)).placed
    rows = placed(rendered(WORLD))
    other = DeviceRow(SEND.name, (("dst_mac", 1), ("user_meta.pmeta.bridge_id", 5)), "l2_fwd")
    found = capability(replace(FOUND, rows=(*PORTS, *rows, other)), WIRING, emulated=False)
    tables = {table.name: table for table in found.tables}
    assert (tables[SEND.name].used, tables[SEND.name].foreign) == (3, 1)
    assert sum(table.used - table.foreign for table in found.tables) == len(rows) == found.rows
    assert found.obstacle == ""


@pytest.mark.parametrize(
    ("lacking", "tunnels"),
    [
        pytest.param(
            ["geneve_encap_v6_mod_table"], KINDS - {(Encap.GENEVE, Family.IPV6)}, id="one"
        ),
        pytest.param(
            ["vxlan_decap_mod_table"],
            {(Encap.GENEVE, family) for family in Family},
            id="an encapsulation",
        ),
        pytest.param(
            ["ipv6_tunnel_term_table", "l2_to_tunnel_v6"],
            {(encap, Family.IPV4) for encap in Encap},
            id="a family",
        ),
    ],
)
def test_a_program_that_lacks_a_table_does_the_rest(
    lacking: list[str], tunnels: set[tuple[Encap, Family]]
) -> None:
    faults = {name: f"its P4 program has no {name}" for name in lacking}
    found = capability(replace(FOUND, faults=faults), WIRING, emulated=False)
    assert found.tunnels == tunnels
    assert set(faults.values()) <= set(found.limits)
    assert not {table.name for table in found.tables} & set(lacking)
    assert found.obstacle == ""


def test_without_a_table_that_all_need_there_is_an_obstacle() -> None:
    faults = {"l2_fwd_rx_table": "its P4 program has no l2_fwd_rx_table"}
    found = capability(replace(FOUND, faults=faults), WIRING, emulated=False)
    assert "has no l2_fwd_rx_table" in found.obstacle
    assert not found.forwards


@pytest.mark.parametrize(
    ("row", "word", "forwards"),
    [
        pytest.param(
            DeviceRow(
                "vxlan_encap_mod_table",
                (("vmeta.common.mod_blob_ptr", 10),),
                "vxlan_encap",
                (("dst_addr", 1), ("vni", 10)),
            ),
            "vxlan_encap_mod_table has vmeta.common.mod_blob_ptr=0xa",
            True,
            id="a tunnel",
        ),
        pytest.param(
            DeviceRow(
                BRIDGES.name,
                ((VLAN_FIELD, 0), (SOURCE_FIELD, 43)),
                "set_bridge_id",
                (("bridge_id", 3),),
            ),
            "source_port_to_bridge_map",
            False,
            id="a VF of ours",
        ),
    ],
)
def test_who_else_programs_it_is_named(row: DeviceRow, word: str, forwards: bool) -> None:
    """What we have there goes on beside a tunnel of theirs; a VF in their bridge is in no other."""
    found = capability(replace(FOUND, rows=(*PORTS, row)), WIRING, emulated=False)
    assert word in found.obstacle
    assert "programmed by others" in found.obstacle
    assert found.forwards == forwards


def test_of_several_that_are_not_ours_the_same_is_named_in_any_order() -> None:
    rows = [
        DeviceRow(
            "vxlan_encap_mod_table",
            (("vmeta.common.mod_blob_ptr", number),),
            "vxlan_encap",
            (("dst_addr", 1), ("vni", number)),
        )
        for number in (12, 10, 11)
    ]
    for others in permutations(rows):
        found = capability(replace(FOUND, rows=(*PORTS, *others)), WIRING, emulated=False)
        assert "mod_blob_ptr=0xa " in found.obstacle


def test_what_keeps_us_from_writing_comes_first() -> None:
    found = capability(replace(FOUND, obstacle="another is primary"), WIRING, emulated=False)
    assert found.obstacle == "another is primary"
    assert found.forwards


def test_a_vf_that_is_not_wired_has_no_guards() -> None:
    port, misses = PORTS[:2]
    odd = replace(port, params=(("source_port", 99),))
    for rows, known in (
        ((port, misses), {"rep1"}),
        ((port,), set()),
        ((misses,), set()),
        ((odd, misses), set()),
    ):
        found = capability(replace(FOUND, rows=rows), WIRING, emulated=False)
        assert set(found.guards) == known
