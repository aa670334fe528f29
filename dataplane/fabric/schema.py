"""The fabric database as a file: made with its first rows, and told where to listen.

Both are done before a server opens the file, so that no server ever runs without the roles.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataplane.core.errors import OverweaveError
from dataplane.core.model import Fabric
from dataplane.fabric import SCHEMA
from ovs_client.daemons import find_program, run

NAME = "Overweave"
NODE_ROLE = "node"

# What ovsdb-server(1) is started with: listeners and certificates are rows, because only a
# listener that is a Connection row can have a role. A bare --remote=pssl: lets anyone write all.
SERVER_ARGUMENTS = (
    f"--remote=db:{NAME},Fabric,connections",
    f"--private-key=db:{NAME},SSL,private_key",
    f"--certificate=db:{NAME},SSL,certificate",
    f"--ca-cert=db:{NAME},SSL,ca_cert",
)

Operation = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Permission:
    """What the role ``node`` may do in a table; every table not listed is read-only to it.

    ``owner`` is the column that must equal the certificate's CN, "" for any node's row.
    """

    table: str
    owner: str
    update: tuple[str, ...] = ()


# A node updates nothing that says whose a row is: it could give its row away, or a peer's blame.
NODE_PERMISSIONS = (
    Permission("Node", "name"),
    Permission("Vtep", "node"),
    Permission(
        "Endpoint",
        "node",
        ("segment", "mac", "ips", "identity", "sequence", "moves", "learned"),
    ),
    Permission("Block", "node"),
    Permission(
        "Device",
        "node",
        (
            *("product", "vendor", "ready", "emulated", "conditions", "assumptions", "peer"),
            *("tunnels", "tables", "vfs", "vfs_used", "heard_at", "told_at"),
        ),
    ),
    Permission("Address", "", ("node",)),
)


@dataclass(frozen=True, slots=True)
class Tls:
    """The server's own key and certificate, and the authority that signs those of nodes."""

    private_key: Path
    certificate: Path
    ca_cert: Path


def create_database(path: Path, fabric: Fabric | None = None) -> None:
    """Make the database file ``path`` with its Fabric row and roles, unless it is there.

    One that was converted from an older version gets this version's roles. Raises OverweaveError
    if it is there and holds another schema than this program's.
    """
    if path.exists():
        _check_version(path)
        _renew_roles(path)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    # Each process its own: the tool of a run that was killed may be at work still, and has a lock.
    half_made = path.with_name(f"{path.name}.{os.getpid()}.new")
    half_made.unlink(missing_ok=True)
    _tool("create", str(half_made), str(SCHEMA))
    _transact(half_made, _first_rows(fabric or Fabric()))
    half_made.rename(path)
    half_made.with_name(f".{half_made.name}.~lock~").unlink(missing_ok=True)  # of ovsdb-tool


def set_listeners(path: Path, targets: Sequence[str], tls: Tls | None = None) -> None:
    """Let the next server of ``path`` listen on ``targets``, as ``ptcp:6640``, ``pssl:6640:[::1]``.

    A pssl client has the role ``node`` and may write its own rows only; a ptcp client may write
    all. Raises OverweaveError, also if a server has the file open.
    """
    if tls is None and any(target.startswith("pssl:") for target in targets):
        raise OverweaveError(
            "a pssl listener needs a private key, a certificate and a CA certificate"
            "; name all three"
        )
    connections = [_connection(target, f"c{number}") for number, target in enumerate(targets)]
    tls_rows = [_insert("SSL", "tls", _tls_columns(tls))] if tls else []
    row = {
        "connections": _named("set", (insert["uuid-name"] for insert in connections)),
        "ssl": _named("set", ("tls" for _ in tls_rows)),
    }
    update = {"op": "update", "table": "Fabric", "where": [], "row": row}
    _transact(path, [*connections, *tls_rows, update])


def schema_version() -> str:
    """Return the version of the schema this program was written for."""
    return str(json.loads(SCHEMA.read_text(encoding="utf-8"))["version"])


def _first_rows(fabric: Fabric) -> Iterable[Operation]:
    columns = {
        "name": fabric.name,
        "geneve_port": fabric.geneve_port,
        "vxlan_port": fabric.vxlan_port,
    }
    yield _insert("Fabric", "fabric", columns)
    yield from _role_rows()


def _role_rows() -> Iterable[Operation]:
    for permission in NODE_PERMISSIONS:
        columns = {
            "table": permission.table,
            "authorization": permission.owner,
            "insert_delete": True,
            "update": ["set", list(permission.update)],
        }
        yield _insert("RBAC_Permission", f"may_{permission.table}", columns)
    permissions = [
        [permission.table, ["named-uuid", f"may_{permission.table}"]]
        for permission in NODE_PERMISSIONS
    ]
    yield _insert("RBAC_Role", "role", {"name": NODE_ROLE, "permissions": ["map", permissions]})


def _connection(target: str, name: str) -> Operation:
    role = NODE_ROLE if target.startswith("pssl:") else ""
    return _insert("Connection", name, {"target": target, "role": role})


def _tls_columns(tls: Tls) -> dict[str, Any]:
    return {
        "private_key": str(tls.private_key.absolute()),
        "certificate": str(tls.certificate.absolute()),
        "ca_cert": str(tls.ca_cert.absolute()),
    }


def _insert(table: str, name: str, columns: dict[str, Any]) -> Operation:
    return {"op": "insert", "table": table, "uuid-name": name, "row": columns}


def _named(kind: str, names: Iterable[str]) -> list[Any]:
    return [kind, [["named-uuid", name] for name in names]]


def _transact(path: Path, operations: Iterable[Operation]) -> None:
    results = json.loads(_tool("transact", str(path), json.dumps([NAME, *operations])))
    errors = [result for result in results if result and "error" in result]
    if errors:
        raise OverweaveError(f"database {path}: {errors[0]['error']}: {errors[0].get('details')}")


def _renew_roles(path: Path) -> None:
    """Replace the roles where they are another version's: nodes could not write what is new."""
    select = {"op": "select", "table": "RBAC_Permission", "where": []}
    (found,) = json.loads(_tool("query", str(path), json.dumps([NAME, select])))
    columns = ("table", "authorization", "update")
    held = {tuple(frozenset(_atoms(row[name])) for name in columns) for row in found["rows"]}
    wanted = (((each.table,), (each.owner,), each.update) for each in NODE_PERMISSIONS)
    if held != {tuple(map(frozenset, each)) for each in wanted}:
        old = ("RBAC_Role", "RBAC_Permission")
        deletes = ({"op": "delete", "table": table, "where": []} for table in old)
        _transact(path, [*deletes, *_role_rows()])


def _atoms(value: str | list[Any]) -> list[str]:
    """Return what is in a set of strings (RFC 7047 5.1): one alone stands for itself."""
    return list(value[1]) if isinstance(value, list) else [value]


def _check_version(path: Path) -> None:
    found = tuple(_tool(f"db-{what}", str(path)).strip() for what in ("name", "version"))
    if found != (NAME, schema_version()):
        raise OverweaveError(
            f"database {path} has schema {' '.join(found)}, this program needs"
            f" {NAME} {schema_version()}; convert it: ovsdb-tool convert {path} {SCHEMA}"
        )


def _tool(*arguments: str) -> str:
    return run([find_program("ovsdb-tool"), *arguments])
