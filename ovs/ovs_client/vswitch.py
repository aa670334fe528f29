"""Bridges and ports of an Open vSwitch, as values over its own database (ovs-vswitchd.conf.db(5)).

Only rows that carry our mark in external_ids are ever changed or removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast
from uuid import UUID, uuid4

from dataplane.core.events import OfportChanged
from ovs_client.database import Database, Listener, Tls
from ovs_client.errors import DatabaseError
from ovs_client.operations import Insert, Mutate, Operation, Update
from ovs_client.replica import Extent
from ovs_client.rows import DatabaseEvent, Row, RowChange, RowsChanged, Value

OWNER_KEY = "overweave"
"""The key of external_ids that marks a row as ours; its value is the node's name."""

_T = TypeVar("_T")

FAILED_OFPORT = -1  # ovs-vswitchd.conf.db(5): the interface could not be added, see its error

_STRINGS = {"type": {"key": "string", "value": "string", "min": 0, "max": "unlimited"}}
_NAME = {"type": "string", "mutable": False}
_TEXT = {"type": "string"}
_OPTIONAL_TEXT = {"type": {"key": "string", "min": 0, "max": 1}}
_OPTIONAL_NUMBER = {"type": {"key": "integer", "min": 0, "max": 1}}


def _references(table: str, minimum: int = 0) -> Mapping[str, object]:
    key = {"type": "uuid", "refTable": table}
    return {"type": {"key": key, "min": minimum, "max": "unlimited"}}


def _table(indexes: Iterable[str], **columns: Mapping[str, object]) -> Mapping[str, Any]:
    return {"columns": columns, "indexes": [[name] for name in indexes]}


# The part of vswitch.ovsschema we use, as it has been since Open vSwitch 2.6 (mtu_request).
_SCHEMA: Mapping[str, Any] = {
    "name": "Open_vSwitch",
    "version": "8.0.0",
    "tables": {
        "Open_vSwitch": {
            "columns": {
                "bridges": _references("Bridge"),
                "datapath_types": {"type": {"key": "string", "min": 0, "max": "unlimited"}},
            },
            "isRoot": True,
            "maxRows": 1,
        },
        "Bridge": _table(
            ["name"],
            name=_NAME,
            ports=_references("Port"),
            datapath_type=_TEXT,
            fail_mode=_OPTIONAL_TEXT,
            protocols={"type": {"key": "string", "min": 0, "max": "unlimited"}},
            other_config=_STRINGS,
            external_ids=_STRINGS,
        ),
        "Port": _table(
            ["name"], name=_NAME, interfaces=_references("Interface", 1), external_ids=_STRINGS
        ),
        "Interface": _table(
            ["name"],
            name=_NAME,
            type=_TEXT,
            options=_STRINGS,
            ofport=_OPTIONAL_NUMBER,
            ofport_request=_OPTIONAL_NUMBER,
            mac=_OPTIONAL_TEXT,
            mac_in_use=_OPTIONAL_TEXT,
            mtu=_OPTIONAL_NUMBER,
            mtu_request=_OPTIONAL_NUMBER,
            admin_state=_OPTIONAL_TEXT,
            link_state=_OPTIONAL_TEXT,
            error=_OPTIONAL_TEXT,
        ),
    },
}
_EXTENT = Extent(
    _SCHEMA, {name: tuple(table["columns"]) for name, table in _SCHEMA["tables"].items()}
)


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge as it is configured."""

    name: str
    datapath_type: str = ""
    fail_mode: str | None = None
    protocols: tuple[str, ...] = ()
    other_config: Mapping[str, str] = field(default_factory=dict)
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Port:
    """A port with its one interface, both of the same name, as configured; MTU in bytes."""

    name: str
    bridge: str
    type: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    ofport_request: int | None = None
    mac: str | None = None
    mtu_request: int | None = None
    external_ids: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Interface:
    """What ovs-vswitchd reports of an interface; ``ofport`` None: it has none yet, or failed."""

    name: str
    ofport: int | None
    error: str
    admin_state: str | None
    link_state: str | None
    mac_in_use: str | None
    mtu: int | None


class VSwitch:
    """The database of one Open vSwitch instance.

    ``hosts`` are bridges of others in which ports of ours may stand all the same.
    """

    def __init__(
        self, remote: str, hosts: frozenset[str] = frozenset(), tls: Tls | None = None
    ) -> None:
        self._hosts = hosts
        # Not durable: what a power cut takes is seen and set again after it.
        self._database = Database(remote, _EXTENT, durable=False, tls=tls)

    def start(self, listener: Listener | None = None) -> None:
        """Begin to connect; returns at once. ``listener``: see Database; ofport_changes() helps."""
        self._database.start(listener)

    def stop(self) -> None:
        """Disconnect; what is configured stays."""
        self._database.stop()

    @property
    def error(self) -> str | None:
        """Return why the database cannot be used now; None if it can."""
        return self._database.error

    def wait_connected(self, timeout_s: float) -> None:
        """Return once the rows are known. Raises DatabaseUnavailableError."""
        self._database.wait_connected(timeout_s)

    def datapath_types(self) -> tuple[str, ...]:
        """Return the types of datapath that ovs-vswitchd has; none before its first start."""
        root = next(iter(self._view().roots), None)
        return cast("tuple[str, ...]", root.columns["datapath_types"]) if root else ()

    def bridges(self) -> dict[str, Bridge]:
        """Return all bridges by name, also those of others."""
        return {name: _bridge(row) for name, row in self._view().bridges.items()}

    def ports(self) -> dict[str, Port]:
        """Return all ports by name that have an interface of their own name, also of others."""
        view = self._view()
        return {
            name: _port(row, view.interfaces[name], view.bridge_of(row.uuid))
            for name, row in view.ports.items()
            if name in view.interfaces
        }

    def interfaces(self) -> dict[str, Interface]:
        """Return what ovs-vswitchd reports, by interface name."""
        return {name: _interface(row) for name, row in self._view().interfaces.items()}

    def ensure(
        self, bridges: Iterable[Bridge] = (), ports: Iterable[Port] = (), timeout_s: float = 5.0
    ) -> None:
        """Make bridges and ports be exactly so, in one transaction; a Port's bridge comes along.

        Raises DatabaseError, also for a name that someone else holds.
        """
        self._database.transact(_Plan(self._view(), self._hosts).ensure(bridges, ports), timeout_s)

    def delete(
        self, bridges: Iterable[str] = (), ports: Iterable[str] = (), timeout_s: float = 5.0
    ) -> None:
        """Remove bridges, with all their ports, and ports, in one transaction; gone is success.

        Raises DatabaseError, also for what someone else holds.
        """
        self._database.transact(_Plan(self._view(), self._hosts).delete(bridges, ports), timeout_s)

    def _view(self) -> _View:
        return _View(self._database.snapshot())


def ofport_changes(event: DatabaseEvent) -> tuple[OfportChanged, ...]:
    """Return what ``event`` says of OpenFlow port numbers; an interface that is gone has none."""
    if not isinstance(event, RowsChanged):
        return ()
    found = (_ofport_change(change) for change in event.changes)
    return tuple(change for change in found if change is not None)


def _ofport_change(change: RowChange) -> OfportChanged | None:
    row = change.new or change.old
    if row is None or row.table != "Interface":
        return None
    old = None if change.old is None else _interface(change.old)
    new = None if change.new is None else _interface(change.new)
    if new is None:
        return OfportChanged(_text(row, "name"), None)
    if old is not None and (old.ofport, old.error) == (new.ofport, new.error):
        return None
    return OfportChanged(new.name, new.ofport, new.error)


class _View:
    """The rows of one moment, by name."""

    def __init__(self, rows: Mapping[str, tuple[Row, ...]]) -> None:
        self.roots = rows["Open_vSwitch"]
        self.bridges = {_text(row, "name"): row for row in rows["Bridge"]}
        self.ports = {_text(row, "name"): row for row in rows["Port"]}
        self.interfaces = {_text(row, "name"): row for row in rows["Interface"]}
        self._holders = {
            port: row
            for row in rows["Bridge"]
            for port in cast("tuple[UUID]", row.columns["ports"])
        }

    def holder(self, port: UUID) -> Row | None:
        """Return the bridge row that has ``port``."""
        return self._holders.get(port)

    def bridge_of(self, port: UUID) -> str:
        """Return the name of the bridge that has ``port``; empty if none."""
        row = self._holders.get(port)
        return "" if row is None else _text(row, "name")


class _Plan:
    """The operations that lead from a view to what is asked."""

    def __init__(self, view: _View, hosts: frozenset[str] = frozenset()) -> None:
        self._view = view
        self._hosts = hosts
        self._operations: list[Operation] = []
        self._new_bridges: dict[str, UUID] = {}

    def ensure(self, bridges: Iterable[Bridge], ports: Iterable[Port]) -> list[Operation]:
        """Return what makes ``bridges`` and ``ports`` be exactly so."""
        for bridge in bridges:
            self._ensure_bridge(bridge)
        for port in ports:
            self._ensure_port(port)
        return self._operations

    def delete(self, bridges: Iterable[str], ports: Iterable[str]) -> list[Operation]:
        """Return what removes them; the server collects rows that nothing refers to."""
        for name in bridges:
            row = self._view.bridges.get(name)
            if row is not None:
                _check_owner("bridge", row)
                self._add(Mutate("Open_vSwitch", self._root(), "bridges", remove=(row.uuid,)))
        for name in ports:
            row = self._view.ports.get(name)
            if row is not None:
                _check_owner("port", row)
                self._release_port(row)
        return self._operations

    def _add(self, operation: Operation) -> None:
        self._operations.append(operation)

    def _root(self) -> UUID:
        if not self._view.roots:
            raise DatabaseError("the Open_vSwitch table is empty; run ovs-vsctl init")
        return self._view.roots[0].uuid

    def _ensure_bridge(self, bridge: Bridge) -> None:
        row = self._view.bridges.get(bridge.name)
        if row is None:
            uuid = self._new_bridges[bridge.name] = uuid4()
            self._add(Insert("Bridge", {"name": bridge.name, **_bridge_columns(bridge)}, uuid))
            self._add(Mutate("Open_vSwitch", self._root(), "bridges", add=(uuid,)))
            self._ensure_port(_local_port(bridge))
        else:
            _check_owner("bridge", row)
            self._update(row, _bridge_columns(bridge))

    def _ensure_port(self, port: Port) -> None:
        row = self._view.ports.get(port.name)
        interface = self._view.interfaces.get(port.name)
        if row is not None and interface is not None:
            _check_owner("port", row)
            self._update(row, {"external_ids": port.external_ids})
            self._update(interface, _interface_columns(port))
            self._move_port(row, port.bridge)
        else:
            self._insert_port(port)

    def _insert_port(self, port: Port) -> None:
        interface, uuid = uuid4(), uuid4()
        self._add(Insert("Interface", {"name": port.name, **_interface_columns(port)}, interface))
        columns: dict[str, Value] = {
            "name": port.name,
            "interfaces": (interface,),
            "external_ids": port.external_ids,
        }
        self._add(Insert("Port", columns, uuid))
        self._add(Mutate("Bridge", self._bridge(port), "ports", add=(uuid,)))

    def _move_port(self, row: Row, bridge: str) -> None:
        if self._view.bridge_of(row.uuid) != bridge:
            self._release_port(row)
            target = self._bridge(Port(_text(row, "name"), bridge))
            self._add(Mutate("Bridge", target, "ports", add=(row.uuid,)))

    def _release_port(self, row: Row) -> None:
        holder = self._view.holder(row.uuid)
        if holder is not None:
            self._add(Mutate("Bridge", holder.uuid, "ports", remove=(row.uuid,)))

    def _bridge(self, port: Port) -> UUID:
        if port.bridge in self._new_bridges:
            return self._new_bridges[port.bridge]
        row = self._view.bridges.get(port.bridge)
        if row is None:
            raise DatabaseError(f"port {port.name}: there is no bridge {port.bridge}; add it first")
        if port.bridge not in self._hosts:
            _check_owner("bridge", row)
        return row.uuid

    def _update(self, row: Row, columns: Mapping[str, Value]) -> None:
        changed = {name: value for name, value in columns.items() if row.columns[name] != value}
        if changed:
            self._add(Update(row.table, row.uuid, changed))


def _check_owner(kind: str, row: Row) -> None:
    if OWNER_KEY not in _strings(row, "external_ids"):
        name = _text(row, "name")
        raise DatabaseError(
            f"{kind} {name} is not ours (no external_ids:{OWNER_KEY}) and stays as it is;"
            f" remove or rename it"
        )


def _local_port(bridge: Bridge) -> Port:
    """Return the port of the bridge's own name that every bridge has."""
    return Port(bridge.name, bridge.name, type="internal", external_ids=bridge.external_ids)


def _bridge_columns(bridge: Bridge) -> dict[str, Value]:
    return {
        "datapath_type": bridge.datapath_type,
        "fail_mode": _optional(bridge.fail_mode),
        "protocols": tuple(sorted(bridge.protocols)),
        "other_config": bridge.other_config,
        "external_ids": bridge.external_ids,
    }


def _interface_columns(port: Port) -> dict[str, Value]:
    return {
        "type": port.type,
        "options": port.options,
        "ofport_request": _optional(port.ofport_request),
        "mac": _optional(port.mac),
        "mtu_request": _optional(port.mtu_request),
    }


def _bridge(row: Row) -> Bridge:
    return Bridge(
        name=_text(row, "name"),
        datapath_type=_text(row, "datapath_type"),
        fail_mode=_one(row, "fail_mode", str),
        protocols=cast("tuple[str, ...]", row.columns["protocols"]),
        other_config=_strings(row, "other_config"),
        external_ids=_strings(row, "external_ids"),
    )


def _port(row: Row, interface: Row, bridge: str) -> Port:
    return Port(
        name=_text(row, "name"),
        bridge=bridge,
        type=_text(interface, "type"),
        options=_strings(interface, "options"),
        ofport_request=_one(interface, "ofport_request", int),
        mac=_one(interface, "mac", str),
        mtu_request=_one(interface, "mtu_request", int),
        external_ids=_strings(row, "external_ids"),
    )


def _interface(row: Row) -> Interface:
    ofport = _one(row, "ofport", int)
    return Interface(
        name=_text(row, "name"),
        ofport=None if ofport == FAILED_OFPORT else ofport,
        error=_one(row, "error", str) or "",
        admin_state=_one(row, "admin_state", str),
        link_state=_one(row, "link_state", str),
        mac_in_use=_one(row, "mac_in_use", str),
        mtu=_one(row, "mtu", int),
    )


def _text(row: Row, column: str) -> str:
    return str(row.columns[column])


def _strings(row: Row, column: str) -> Mapping[str, str]:
    return cast("Mapping[str, str]", row.columns[column])


def _optional(value: str | int | None) -> Value:
    return () if value is None else (value,)


def _one(row: Row, column: str, kind: Callable[[Any], _T]) -> _T | None:
    values = cast("tuple[Any, ...]", row.columns[column])
    return kind(values[0]) if values else None
