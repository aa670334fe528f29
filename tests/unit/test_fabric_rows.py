"""Rows and values of core/model.py: nothing is lost on the way there and back."""

from dataclasses import fields
from typing import Any
from uuid import uuid4

import ovs.db.schema
import pytest
from hypothesis import given
from ovs.db.data import Datum

from dataplane.core.model import Device, FabricEntity, Hardware, Node, Pin, Side
from dataplane.fabric.rows import (
    LATEST,
    OWNED_TABLES,
    SEGMENT_TABLES,
    Faulty,
    Stored,
    Vtep,
    decode,
    encode,
    extent,
    join,
    normal,
    split,
    table_of,
)
from ovs_client.operations import freeze
from ovs_client.rows import Row, Value
from tests.unit.fabric_builders import ENTITIES, NODES, endpoint, segment

DEVICE = Device("1-dpu", "1", "intel", "IPU", Side.DPU, "n1", ready=True)
PIN = Pin("blue", "default/web/eth0", Hardware.NEVER)
SCHEMA = ovs.db.schema.DbSchema.from_json(dict(extent(conditional=True).schema))


def through_the_schema(entity: Stored) -> Row:
    """Return the row as a server would tell it: checked by the schema, sets in its own order."""
    table = table_of(entity)
    columns: dict[str, Value] = {}
    for name, value in encode(entity).items():
        column = SCHEMA.tables[table].columns[name]
        datum = Datum.from_python(column.type, value, lambda atom: atom)
        columns[name] = freeze(Datum.from_json(column.type, datum.to_json()))
    return Row(table, uuid4(), columns)


@given(ENTITIES)
def test_round_trip(entity: FabricEntity) -> None:
    if isinstance(entity, Node):
        read = [decode(through_the_schema(part)) for part in split(entity)]
        nodes = [value for value in read if isinstance(value, Node)]
        assert [join(nodes[0], [v for v in read if isinstance(v, Vtep)])] == [normal(entity)]
    else:
        assert decode(through_the_schema(entity)) == normal(entity)


@given(ENTITIES)
def test_normal_is_stable_and_loses_nothing(entity: FabricEntity) -> None:
    once = normal(entity)
    assert normal(once) == once
    for field in fields(entity):
        before, after = getattr(entity, field.name), getattr(once, field.name)
        assert (set(before) == set(after)) if isinstance(before, tuple) else before == after


@given(NODES, NODES)
def test_a_node_takes_only_its_own_vteps(one: Node, other: Node) -> None:
    vteps = [part for node in (one, other) for part in split(node) if isinstance(part, Vtep)]
    own = {vtep.address for vtep in vteps if vtep.node == one.name}
    assert set(join(one, vteps).vteps) == own


@pytest.mark.parametrize(
    ("entity", "wrong", "text"),
    [
        pytest.param(endpoint("n1", 1), {"mac": "no mac at all, no"}, "mac", id="mac"),
        pytest.param(endpoint("n1", 1), {"ips": ("10.0.0.256",)}, "10.0.0.256", id="address"),
        pytest.param(segment("blue", 1), {"vni": 1 << 24}, "vni", id="vni"),
        pytest.param(segment("blue", 1), {"subnets": ("10.0.0.1/8",)}, "host bits", id="prefix"),
        pytest.param(segment("blue", 1), {"encap": "gre"}, "gre", id="encapsulation"),
        pytest.param(PIN, {"hardware": "maybe"}, "maybe", id="hardware"),
        pytest.param(PIN, {"endpoint": "web"}, "'web' is neither an identity", id="pinned name"),
        pytest.param(PIN, {"endpoint": "01:00:5e:00:00:01"}, "multicast", id="pinned group"),
        pytest.param(DEVICE, {"side": "left"}, "left", id="side"),
        pytest.param(DEVICE, {"conditions": {"Ready": "maybe"}}, "maybe", id="condition"),
        pytest.param(DEVICE, {"conditions": {"Ready": "True x"}}, "True x", id="time"),
        pytest.param(
            DEVICE,
            {"conditions": {"Ready": f"True {LATEST + 1}"}},
            f"time {LATEST + 1} is after the year 9999",
            id="time nobody can show",
        ),
        pytest.param(DEVICE, {"told_at": LATEST + 1}, "after the year 9999", id="told then"),
        pytest.param(DEVICE, {"heard_at": 1 << 62}, "after the year 9999", id="heard then"),
        pytest.param(DEVICE, {"tunnels": ("gre/ipv4",)}, "gre", id="tunnel"),
        pytest.param(DEVICE, {"tables": {"forward": "12"}}, "'forward' '12'", id="occupancy"),
    ],
)
def test_a_faulty_row_is_named(entity: FabricEntity, wrong: dict[str, Any], text: str) -> None:
    row = Row(table_of(entity), uuid4(), {**encode(entity), **wrong})
    found = decode(row)
    assert isinstance(found, Faulty)
    assert str(row.uuid) in found.text
    assert text in found.text
    assert found.node == getattr(entity, "node", "")


def test_every_column_of_the_schema_is_carried() -> None:
    """What the schema has and no value of ours does is what the server keeps for itself."""
    elsewhere = {"Fabric": {"connections", "ssl"}}
    tables = extent(conditional=False).tables
    for name, columns in tables.items():
        assert set(columns) | elsewhere.get(name, set()) == set(SCHEMA.tables[name].columns)
    assert set(SCHEMA.tables) - set(tables) == {
        "Connection",
        "SSL",
        "RBAC_Role",
        "RBAC_Permission",
    }


def test_conditions_find_their_columns() -> None:
    tables = extent(conditional=True).tables
    assert {name for name, columns in tables.items() if "segment" in columns} == {
        *SEGMENT_TABLES,
        "Svi",  # told to all: by them a node learns which segments it routes into
    }
    assert all("node" in tables[name] for name in OWNED_TABLES)
