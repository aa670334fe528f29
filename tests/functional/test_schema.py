"""The fabric database: what it carries, what it refuses by itself, and how its file is made."""

import dataclasses
import fcntl
import json
from pathlib import Path
from typing import Any

import pytest

from dataplane.core import model
from dataplane.core.errors import OverweaveError
from dataplane.core.model import Fabric
from dataplane.fabric import SCHEMA, schema
from ovs_client.daemons import find_program, run

# A field of the core that the database holds in another shape.
ELSEWHERE = {("Node", "vteps"): ("Vtep", "address")}
Operation = dict[str, Any]


def tables() -> dict[str, Any]:
    return dict(json.loads(SCHEMA.read_text(encoding="utf-8"))["tables"])


def transact(database: Path, *operations: Operation) -> list[dict[str, Any]]:
    text = json.dumps([schema.NAME, *operations])
    answer = run([find_program("ovsdb-tool"), "transact", str(database), text])
    results: list[dict[str, Any]] = json.loads(answer)
    return [result for result in results if result is not None]


def rows(database: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = transact(database, {"op": "select", "table": table, "where": []})[
        0
    ]["rows"]
    return found


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "fabric" / "conf.db"
    schema.create_database(path)
    return path


ENTITIES = [
    model.Fabric,
    model.Node,
    model.Segment,
    model.Endpoint,
    model.Block,
    model.Address,
    model.Grant,
    model.Pin,
    model.Device,
    model.Vrf,
    model.Svi,
]


@pytest.mark.parametrize("entity", [pytest.param(e, id=e.__name__) for e in ENTITIES])
def test_every_field_of_the_core_has_its_column(entity: type) -> None:
    for field in dataclasses.fields(entity):
        name = entity.__name__
        table, column = ELSEWHERE.get((name, field.name), (name, field.name))
        assert column in tables()[table]["columns"]


def test_every_value_of_an_enumeration_fits() -> None:
    values = {
        ("Segment", "encap"): model.Encap,
        ("Segment", "underlay"): model.Family,
        ("Segment", "guard"): model.Guard,
        ("Segment", "unknown_unicast"): model.UnknownUnicast,
        ("Pin", "hardware"): model.Hardware,
        ("Device", "side"): model.Side,
    }
    types = {(table, name): tables()[table]["columns"][name]["type"] for table, name in values}
    found = {place: set(kind["key"]["enum"][1]) for place, kind in types.items()}
    assert found == {place: set(map(str, enum)) for place, enum in values.items()}


def test_no_row_vanishes_because_nothing_names_it() -> None:
    # Connection and SSL go with the Fabric row that names them, as in Open vSwitch's own schemas.
    collected = {name for name, table in tables().items() if not table.get("isRoot")}
    assert collected == {"Connection", "SSL"}


SEGMENT = {
    "name": "blue",
    "vni": 7,
    "encap": "geneve",
    "underlay": "ipv4",
    "guard": "ip",
    "unknown_unicast": "drop",
}
ENDPOINT = {
    "node": "n1",
    "segment": "blue",
    "mac": "02:00:00:00:00:01",
    "ips": "10.0.0.1",
    "identity": "i",
    "container_id": "c",
    "ifname": "eth0",
}
BLOCK = {"segment": "blue", "prefix": "10.0.0.0/27", "node": "n1"}
ADDRESS = {"segment": "blue", "ip": "10.0.0.9", "identity": "i", "node": "n1"}
GRANT = {"segment": "blue", "node": "n1"}
PIN = {"segment": "blue", "endpoint": "default/web/eth0", "hardware": "always"}
TAKEN = "constraint violation"


@pytest.mark.parametrize(
    ("table", "first", "second", "error"),
    [
        pytest.param("Node", {"name": "n1"}, {"name": "n1"}, TAKEN, id="node name twice"),
        pytest.param(
            "Vtep",
            {"address": "192.0.2.1", "node": "n1"},
            {"address": "192.0.2.1", "node": "n2"},
            TAKEN,
            id="VTEP of another node",
        ),
        pytest.param("Segment", SEGMENT, {**SEGMENT, "vni": 8}, TAKEN, id="segment name twice"),
        pytest.param("Segment", SEGMENT, {**SEGMENT, "name": "red"}, TAKEN, id="VNI twice"),
        pytest.param("Segment", SEGMENT, {**SEGMENT, "name": "r", "vni": 0}, TAKEN, id="VNI 0"),
        pytest.param(
            "Segment", SEGMENT, {**SEGMENT, "name": "r", "vni": 1 << 24}, TAKEN, id="VNI 2^24"
        ),
        pytest.param(
            "Segment", SEGMENT, {**SEGMENT, "name": "r", "vni": 8, "mtu": 67}, TAKEN, id="MTU 67"
        ),
        pytest.param(
            "Segment",
            SEGMENT,
            {**SEGMENT, "name": "r", "vni": 8, "guard": "maybe"},
            TAKEN,
            id="unknown guard",
        ),
        pytest.param("Block", BLOCK, {**BLOCK, "node": "n2"}, TAKEN, id="block of another node"),
        pytest.param(
            "Address", ADDRESS, {**ADDRESS, "identity": "j"}, TAKEN, id="address of another"
        ),
        pytest.param("Grant", GRANT, GRANT, TAKEN, id="grant of any MAC twice"),
        pytest.param(
            "Pin", PIN, {**PIN, "hardware": "never"}, TAKEN, id="two words on one endpoint"
        ),
        pytest.param("Pin", PIN, {**PIN, "segment": "red", "hardware": "x"}, TAKEN, id="no word"),
        pytest.param("Pin", PIN, {**PIN, "segment": "red"}, None, id="a pin on another segment"),
        pytest.param("Endpoint", ENDPOINT, ENDPOINT, TAKEN, id="endpoint twice"),
        pytest.param("Fabric", {"name": "a"}, {"name": "b"}, TAKEN, id="a second fabric"),
        pytest.param(
            "Endpoint",
            ENDPOINT,
            {**ENDPOINT, "node": "n2"},
            None,
            id="the same endpoint at two nodes: it moves",
        ),
        pytest.param(
            "Grant", GRANT, {**GRANT, "mac": "02:00:00:00:00:01"}, None, id="grant of one MAC more"
        ),
        pytest.param("Block", BLOCK, {**BLOCK, "segment": "red"}, None, id="block of two segments"),
    ],
)
def test_what_the_database_refuses_by_itself(
    database: Path,
    table: str,
    first: dict[str, Any],
    second: dict[str, Any],
    error: str | None,
) -> None:
    insert = {"op": "insert", "table": table}
    if table != "Fabric":
        assert "error" not in transact(database, {**insert, "row": first})[-1]
    results = transact(database, {**insert, "row": second})
    assert results[-1].get("error") == error


NEW_OF_DEVICES = (
    *("assumptions", "peer", "tunnels", "tables", "vfs", "vfs_used", "heard_at", "told_at"),
)
OLDER_ROLE = [
    {
        "op": "insert",
        "table": "RBAC_Permission",
        "uuid-name": "may",
        "row": {"table": "Device", "authorization": "node", "update": "ready"},
    },
    {
        "op": "insert",
        "table": "RBAC_Role",
        "row": {
            "name": schema.NODE_ROLE,
            "permissions": ["map", [["Device", ["named-uuid", "may"]]]],
        },
    },
]


def roles(path: Path) -> dict[str, dict[str, Any]]:
    """Return what each role may do, by table, without the names of rows."""
    found = {row["_uuid"][1]: row for row in rows(path, "RBAC_Permission")}
    shown = {name: {k: v for k, v in r.items() if k[0] != "_"} for name, r in found.items()}
    return {
        role["name"]: {table: shown[uuid] for table, (_, uuid) in role["permissions"][1]}
        for role in rows(path, "RBAC_Role")
    }


def test_a_new_file_has_the_fabric_and_the_role(database: Path) -> None:
    assert [row["name"] for row in rows(database, "Fabric")] == [Fabric().name]
    assert [row["name"] for row in rows(database, "RBAC_Role")] == [schema.NODE_ROLE]
    granted = {row["table"] for row in rows(database, "RBAC_Permission")}
    assert granted == {permission.table for permission in schema.NODE_PERMISSIONS}


def test_every_permission_names_columns_that_exist() -> None:
    columns = {name: set(table["columns"]) for name, table in tables().items()}
    for permission in schema.NODE_PERMISSIONS:
        named = {permission.owner, *permission.update} - {""}
        assert named <= columns[permission.table]


@pytest.mark.parametrize(
    ("table", "name"),
    [
        ("Endpoint", {"node", "container_id", "ifname"}),
        ("Device", {"node", "name", "serial", "side"}),
    ],
)
def test_a_node_may_update_all_of_its_row_but_whose_it_is(table: str, name: set[str]) -> None:
    (permission,) = (each for each in schema.NODE_PERMISSIONS if each.table == table)
    assert set(tables()[table]["columns"]) - set(permission.update) == name


def test_making_the_file_again_keeps_what_is_in_it(database: Path) -> None:
    transact(database, {"op": "insert", "table": "Segment", "row": SEGMENT})
    before = database.read_bytes()
    schema.create_database(database, Fabric(name="other"))
    assert database.read_bytes() == before


def test_what_a_killed_run_left_is_in_nobodys_way(tmp_path: Path) -> None:
    """Its tool may be at work still, and have the lock of a file that is half made."""
    (tmp_path / "conf.db.new").write_text("torn", encoding="utf-8")
    with (tmp_path / ".conf.db.new.~lock~").open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        schema.create_database(tmp_path / "conf.db")
    assert len(rows(tmp_path / "conf.db", "Fabric")) == 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        pytest.param("version", "0.9.0", id="another version"),
        pytest.param("name", "Other", id="another program's"),
    ],
)
def test_a_database_of_another_schema_is_refused(tmp_path: Path, key: str, value: str) -> None:
    other = tmp_path / "other.ovsschema"
    text = json.loads(SCHEMA.read_text(encoding="utf-8"))
    other.write_text(json.dumps({**text, key: value}), encoding="utf-8")
    run([find_program("ovsdb-tool"), "create", str(tmp_path / "conf.db"), str(other)])
    with pytest.raises(OverweaveError, match=rf"conf\.db has schema .*{value}.*needs Overweave"):
        schema.create_database(tmp_path / "conf.db")


def test_a_database_of_the_version_before_is_converted_as_the_error_says(
    tmp_path: Path, database: Path
) -> None:
    """What is in the file stays, and nodes may write the new columns from the next start on."""
    text = json.loads(SCHEMA.read_text(encoding="utf-8"))
    for column in NEW_OF_DEVICES:
        del text["tables"]["Device"]["columns"][column]
    del text["tables"]["Vrf"], text["tables"]["Svi"]
    old, path = tmp_path / "old.ovsschema", tmp_path / "conf.db"
    old.write_text(json.dumps({**text, "version": "1.3.0"}), encoding="utf-8")
    run([find_program("ovsdb-tool"), "create", str(path), str(old)])
    seed = [{"op": "insert", "table": "Segment", "row": SEGMENT}, *OLDER_ROLE]
    assert not any("error" in result for result in transact(path, *seed))
    with pytest.raises(OverweaveError, match="convert it: ") as error:
        schema.create_database(path)
    program, *arguments = str(error.value).partition("convert it: ")[2].split()
    run([find_program(program), *arguments])
    schema.create_database(path)
    assert [row["name"] for row in rows(path, "Segment")] == ["blue"]
    assert roles(path) == roles(database)
    before = path.read_bytes()
    schema.create_database(path)
    assert path.read_bytes() == before


def test_listeners_are_replaced_and_have_their_role(database: Path) -> None:
    tls = schema.Tls(Path("/k"), Path("/c"), Path("/ca"))
    schema.set_listeners(database, ["ptcp:6640", "pssl:6641"], tls)
    roles = {row["target"]: row["role"] for row in rows(database, "Connection")}
    assert roles == {"ptcp:6640": "", "pssl:6641": schema.NODE_ROLE}
    assert [row["ca_cert"] for row in rows(database, "SSL")] == ["/ca"]
    schema.set_listeners(database, [])
    assert rows(database, "Connection") == rows(database, "SSL") == []


def test_a_tls_listener_without_certificates_is_refused(database: Path) -> None:
    with pytest.raises(OverweaveError, match="needs a private key"):
        schema.set_listeners(database, ["pssl:6641"])
