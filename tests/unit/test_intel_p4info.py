"""The tolerant reader of the Intel driver: what a P4 program has, by name, and its rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from finsy.proto import p4i, p4r
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.intel_builders import SHIPPED, read_p4info
from vendors.intel.numbers import Pools
from vendors.intel.p4info import P4InfoError, Schema
from vendors.intel.pipeline import (
    BRIDGES,
    PIPELINE,
    SMAC,
    TABLES,
    UNDERLAY,
    Bridge,
    DeviceRow,
    NextHop,
    Router,
    Table,
    Tunnel,
    TunnelSource,
)

ROUTE = UNDERLAY["ipv4"]["route"]  # type: ignore[index]  # a StrEnum is its text


PROGRAM = Schema.read(read_p4info(SHIPPED))


@pytest.fixture
def schema() -> Schema:
    return PROGRAM


def table_of(info: p4i.P4Info, name: str) -> p4i.Table:
    return next(each for each in info.tables if each.preamble.alias == name)


def action_of(info: p4i.P4Info, name: str) -> p4i.Action:
    return next(each for each in info.actions if each.preamble.alias == name)


def without_table(info: p4i.P4Info) -> None:
    info.tables.remove(table_of(info, SMAC.name))


def without_field(info: p4i.P4Info) -> None:
    del table_of(info, SMAC.name).match_fields[0]


def field_twice(info: p4i.P4Info) -> None:
    fields = table_of(info, SMAC.name).match_fields
    fields.add().CopyFrom(fields[0])


def another_field(info: p4i.P4Info) -> None:
    table_of(info, SMAC.name).match_fields.add(id=9, name="vrf", bitwidth=4)


def narrow_field(info: p4i.P4Info) -> None:
    table_of(info, SMAC.name).match_fields[0].bitwidth = 32


def without_action(info: p4i.P4Info) -> None:
    del table_of(info, SMAC.name).action_refs[0]


def default_only(info: p4i.P4Info) -> None:
    table_of(info, SMAC.name).action_refs[0].scope = p4i.ActionRef.DEFAULT_ONLY


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(without_table, "has no l2_fwd_smac_table", id="no table"),
        pytest.param(without_field, "l2_fwd_smac_table has no hdrs.mac", id="no field"),
        pytest.param(field_twice, "l2_fwd_smac_table has hdrs.mac", id="a field twice"),
        pytest.param(another_field, "l2_fwd_smac_table has vrf, which we do not", id="a new field"),
        pytest.param(narrow_field, "has 32 bits, not 48", id="another width"),
        pytest.param(without_action, "l2_fwd_smac_table has no NoAction", id="no action"),
        pytest.param(default_only, "l2_fwd_smac_table has no NoAction", id="a default alone"),
    ],
)
def test_what_a_table_lacks_is_said(change: object, words: str) -> None:
    info = read_p4info(SHIPPED)
    assert callable(change)
    change(info)
    schema = Schema.read(info)
    faults = list(schema.faults(SMAC))
    assert any(words in each for each in faults), faults
    assert not any(list(schema.faults(table)) for table in PIPELINE if table is not SMAC)


def test_an_action_s_parameters_are_looked_at_too() -> None:
    info = read_p4info(SHIPPED)
    encap = action_of(info, "vxlan_encap")
    encap.params[4].bitwidth = 16
    del encap.params[0]
    faults = list(Schema.read(info).faults(TABLES["vxlan_encap_mod_table"]))
    assert faults == ["vxlan_encap has no src_addr", "vxlan_encap.vni has 16 bits, not 24"]


def test_the_shipped_program_has_all_that_is_needed(schema: Schema) -> None:
    assert {table.name: list(schema.faults(table)) for table in PIPELINE} == {
        table.name: [] for table in PIPELINE
    }
    assert schema.pools == Pools({Bridge: 8, TunnelSource: 16, Tunnel: 20, NextHop: 16, Router: 11})


def test_a_name_that_stands_twice_is_a_fault_only_where_it_is_used(schema: Schema) -> None:
    trap = schema.tables["always_trap_arp_table"]
    with pytest.raises(P4InfoError, match=r"trap_arp_table has hdrs\.inval\.data twice"):
        trap.fields["hdrs.inval.data"]


def test_the_unmodified_p4info_has_all_that_is_needed(schema: Schema, given_p4info: Path) -> None:
    given_schema = Schema.read(read_p4info(given_p4info))
    assert not [fault for table in PIPELINE for fault in given_schema.faults(table)]
    assert given_schema.pools == schema.pools


# --- rows -----------------------------------------------------------------------------------------


@st.composite
def rows(draw: st.DrawFn) -> DeviceRow:
    """Draw a row of a table of ours, its values as wide as they may be."""
    table: Table = draw(st.sampled_from(PIPELINE))
    info = PROGRAM.tables[table.name]
    action = draw(st.sampled_from(sorted(table.actions)))

    def values(names: object, slots: object) -> tuple[tuple[str, int], ...]:
        return tuple(
            (name, draw(st.integers(0, (1 << slots[name].bits) - 1)))  # type: ignore[index]
            for name in sorted(names)  # type: ignore[call-overload]
        )

    return DeviceRow(
        table.name,
        values(table.fields, info.fields.things),
        action,
        values(table.actions[action], info.actions[action].params.things),
    )


@given(rows())
def test_a_row_is_read_as_it_was_written(row: DeviceRow) -> None:
    entry = PROGRAM.encode(row)
    assert PROGRAM.decode(p4r.TableEntry.FromString(entry.SerializeToString())) == row
    for match in entry.match:
        kind = match.WhichOneof("field_match_type")
        value = getattr(match, str(kind)).value
        assert value == value.lstrip(b"\x00") or len(value) == 1  # the shortest form
    named = PROGRAM.encode_match(row)
    entry.ClearField("action")
    assert named == entry


def test_values_with_leading_zeros_are_read_as_well(schema: Schema) -> None:
    row = DeviceRow(ROUTE.name, (("ipv4_dst_match", 1), ("ipv4_table_lpm_root", 0)), "drop")
    entry = schema.encode_match(row)
    entry.match[0].lpm.value = bytes(3) + b"\x01"
    found = schema.decode(entry)
    assert found is not None
    assert found.match == row.match


@pytest.mark.parametrize(
    ("row", "words"),
    [
        pytest.param(
            DeviceRow(SMAC.name, (("hdrs.mac[vmeta.common.depth].sa", 1 << 48),), "NoAction"),
            "0x1000000000000 is too wide for the 48 bits of l2_fwd_smac_table.hdrs.mac",
            id="a field",
        ),
        pytest.param(
            DeviceRow(BRIDGES.name, (), "set_bridge_id", (("bridge_id", 256),)),
            "0x100 is too wide for the 8 bits of set_bridge_id.bridge_id",
            id="a parameter",
        ),
        pytest.param(DeviceRow("nat", (), "drop"), "no nat", id="no such table"),
        pytest.param(DeviceRow(SMAC.name, (), "fly"), "no fly", id="no such action"),
        pytest.param(DeviceRow(SMAC.name, (("x", 1),), "NoAction"), "no x", id="no such field"),
    ],
)
def test_what_cannot_be_written_is_named(schema: Schema, row: DeviceRow, words: str) -> None:
    with pytest.raises(P4InfoError, match=words.replace("[", r"\[")):
        schema.encode(row)


def test_what_others_write_otherwise_is_not_plain(schema: Schema) -> None:
    row = DeviceRow(
        BRIDGES.name,
        (
            ("hdrs.vlan_ext[vmeta.common.depth].hdr.vid", 0),
            ("user_meta.cmeta.source_port", 43),
        ),
        "set_bridge_id",
        (("bridge_id", 200),),
    )
    entry = schema.encode(row)
    assert schema.decode(entry) == row
    for change in (
        lambda e: setattr(e, "priority", 7),
        lambda e: setattr(e.match[0].ternary, "mask", b"\x01"),
        lambda e: e.match.pop(),
    ):
        other = p4r.TableEntry()
        other.CopyFrom(entry)
        change(other)
        found = schema.decode(other)
        assert found is not None
        assert not found.plain
    route = schema.encode(
        DeviceRow(
            ROUTE.name,
            (("ipv4_dst_match", 0x0A000000), ("ipv4_table_lpm_root", 0)),
            "ipv4_set_nexthop_id",
            (("nexthop_id", 1),),
        )
    )
    next(each for each in route.match if each.HasField("lpm")).lpm.prefix_len = 8
    found = schema.decode(route)
    assert found is not None
    assert not found.plain


def test_a_table_of_no_name_is_passed_over(schema: Schema) -> None:
    assert schema.decode(p4r.TableEntry(table_id=1)) is None
