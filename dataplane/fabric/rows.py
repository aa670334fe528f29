"""Between rows of the fabric database and the frozen values of core/model.py. Pure.

A Node's VTEPs are rows of their own, because an index of OVSDB does not look into a set column;
here such a row is a ``Vtep``, and a Node read from its row alone has none.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, TypeVar, cast

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import (
    Address,
    Block,
    Condition,
    Device,
    Encap,
    Endpoint,
    Fabric,
    FabricEntity,
    Family,
    Grant,
    Guard,
    Hardware,
    IpAddress,
    IpInterface,
    IpNetwork,
    Mac,
    Node,
    Pin,
    Segment,
    Side,
    Svi,
    TableUse,
    UnknownUnicast,
    Vni,
    Vrf,
    endpoint_name,
)
from dataplane.fabric import SCHEMA
from ovs_client.replica import Extent
from ovs_client.rows import Row, Value

_Ip = TypeVar("_Ip", bound=IpAddress | IpNetwork | IpInterface)
_Columns = Mapping[str, Any]

LATEST = 253_402_300_799  # 9999-12-31T23:59:59Z in unix seconds: the last that datetime knows


@dataclass(frozen=True, slots=True)
class Vtep:
    """A tunnel address of a Node, as a row."""

    node: str
    address: IpAddress


Stored = FabricEntity | Vtep
"""What one row holds."""


@dataclass(frozen=True, slots=True)
class Faulty:
    """A row that cannot be what it says, as a careless or hostile writer may leave; ``text`` why.

    ``node`` is whose it is, empty where a row does not say.
    """

    text: str
    node: str


@dataclass(frozen=True, slots=True)
class _Table:
    """How one kind of value is written as columns and read from them."""

    columns: tuple[str, ...]
    write: Callable[[Any], Mapping[str, Value]]
    read: Callable[[_Columns], Stored]


def table_of(entity: Stored) -> str:
    """Return the table that holds ``entity``."""
    return type(entity).__name__


def encode(entity: Stored) -> Mapping[str, Value]:
    """Return the columns of ``entity``'s row."""
    return _TABLES[table_of(entity)].write(entity)


def decode(row: Row) -> Stored | Faulty:
    """Return what ``row`` holds."""
    try:
        return _TABLES[row.table].read(row.columns)
    except ValueError as error:
        node = str(row.columns.get("node", ""))
        return Faulty(f"{row.table} row {row.uuid} is faulty and ignored: {error}", node)


def normal(entity: FabricEntity) -> FabricEntity:
    """Return ``entity`` as it will be read back: sets have no order in the database."""
    if isinstance(entity, Node):
        return replace(entity, vteps=_in_order(entity.vteps))
    return cast("FabricEntity", _TABLES[table_of(entity)].read(encode(entity)))


def split(node: Node) -> tuple[Stored, ...]:
    """Return the values that the rows of ``node`` hold."""
    return (replace(node, vteps=()), *(Vtep(node.name, vtep) for vtep in _in_order(node.vteps)))


def join(node: Node, vteps: Iterable[Vtep]) -> Node:
    """Return ``node`` with those of ``vteps`` that are its own."""
    own = (vtep.address for vtep in vteps if vtep.node == node.name)
    return replace(node, vteps=_in_order(own))


def extent(*, conditional: bool) -> Extent:
    """Return what to replicate: everything, or what hangs on a segment only as asked for."""
    return Extent(
        schema=json.loads(SCHEMA.read_text(encoding="utf-8")),
        tables={name: table.columns for name, table in _TABLES.items()},
        conditional=SEGMENT_TABLES | NODE_TABLES if conditional else frozenset(),
        exact=True,
    )


def _write_segment(segment: Segment) -> Mapping[str, Value]:
    return {
        "name": segment.name,
        "vni": int(segment.vni),
        "encap": segment.encap.value,
        "underlay": segment.underlay.value,
        "mtu": _optional(segment.mtu),
        "subnets": _texts(segment.subnets),
        "static_ranges": _texts(segment.static_ranges),
        "guard": segment.guard.value,
        "unknown_unicast": segment.unknown_unicast.value,
    }


def _read_segment(columns: _Columns) -> Segment:
    return Segment(
        name=columns["name"],
        vni=Vni(columns["vni"]),
        encap=Encap(columns["encap"]),
        underlay=Family(columns["underlay"]),
        mtu=next(iter(columns["mtu"]), None),
        subnets=_networks(columns["subnets"]),
        static_ranges=_networks(columns["static_ranges"]),
        guard=Guard(columns["guard"]),
        unknown_unicast=UnknownUnicast(columns["unknown_unicast"]),
    )


def _write_endpoint(endpoint: Endpoint) -> Mapping[str, Value]:
    return {
        "segment": endpoint.segment,
        "node": endpoint.node,
        "mac": str(endpoint.mac),
        "ips": _texts(endpoint.ips),
        "identity": endpoint.identity,
        "sequence": endpoint.sequence,
        "container_id": endpoint.container_id,
        "ifname": endpoint.ifname,
        "moves": tuple(sorted(set(endpoint.moves))),
        "learned": _texts(endpoint.learned),
    }


def _read_endpoint(columns: _Columns) -> Endpoint:
    return Endpoint(
        segment=columns["segment"],
        node=columns["node"],
        mac=Mac(columns["mac"]),
        ips=_in_order(ip_address(text) for text in columns["ips"]),
        identity=columns["identity"],
        sequence=columns["sequence"],
        container_id=columns["container_id"],
        ifname=columns["ifname"],
        moves=tuple(sorted(columns["moves"])),
        learned=_in_order(ip_address(text) for text in columns["learned"]),
    )


def _write_grant(grant: Grant) -> Mapping[str, Value]:
    return {
        "segment": grant.segment,
        "node": grant.node,
        "mac": _optional(None if grant.mac is None else str(grant.mac)),
        "ips": _texts(grant.ips),
    }


def _read_grant(columns: _Columns) -> Grant:
    mac = next(iter(columns["mac"]), None)
    return Grant(
        segment=columns["segment"],
        node=columns["node"],
        mac=None if mac is None else Mac(mac),
        ips=_networks(columns["ips"]),
    )


def _write_vrf(vrf: Vrf) -> Mapping[str, Value]:
    return {
        "name": vrf.name,
        "vni": _optional(None if vrf.vni is None else int(vrf.vni)),
        "loopback": _optional(None if vrf.loopback is None else str(vrf.loopback)),
    }


def _read_vrf(columns: _Columns) -> Vrf:
    vni, loopback = (next(iter(columns[name]), None) for name in ("vni", "loopback"))
    return Vrf(
        name=columns["name"],
        vni=None if vni is None else Vni(vni),
        loopback=None if loopback is None else ip_interface(loopback),
    )


def _write_svi(svi: Svi) -> Mapping[str, Value]:
    return {
        "name": svi.name,
        "vrf": svi.vrf,
        "segment": svi.segment,
        "mac": str(svi.mac),
        "prefixes": _texts(svi.prefixes),
    }


def _read_svi(columns: _Columns) -> Svi:
    return Svi(
        name=columns["name"],
        vrf=columns["vrf"],
        segment=columns["segment"],
        mac=Mac(columns["mac"]),
        prefixes=_in_order(ip_interface(text) for text in columns["prefixes"]),
    )


def _write_device(device: Device) -> Mapping[str, Value]:
    return {
        "name": device.name,
        "serial": device.serial,
        "vendor": device.vendor,
        "product": device.product,
        "side": device.side.value,
        "node": device.node,
        "ready": device.ready,
        "emulated": device.emulated,
        "conditions": {c.kind: f"{c.holds} {c.since} {c.reason}" for c in device.conditions},
        "assumptions": tuple(sorted(set(device.assumptions))),
        "peer": device.peer,
        "tunnels": tuple(sorted({f"{encap}/{family}" for encap, family in device.tunnels})),
        "tables": {table.name: f"{table.used}/{table.capacity}" for table in device.tables},
        "vfs": device.vfs,
        "vfs_used": device.vfs_used,
        "heard_at": device.heard_at,
        "told_at": device.told_at,
    }


def _read_device(columns: _Columns) -> Device:
    told = sorted(columns["conditions"].items())
    return Device(
        name=columns["name"],
        serial=columns["serial"],
        vendor=columns["vendor"],
        product=columns["product"],
        side=Side(columns["side"]),
        node=columns["node"],
        ready=columns["ready"],
        emulated=columns["emulated"],
        conditions=tuple(_read_condition(kind, text) for kind, text in told),
        assumptions=tuple(sorted(columns["assumptions"])),
        peer=columns["peer"],
        tunnels=tuple(_read_tunnel(text) for text in sorted(columns["tunnels"])),
        tables=tuple(_read_table(*each) for each in sorted(columns["tables"].items())),
        vfs=columns["vfs"],
        vfs_used=columns["vfs_used"],
        heard_at=_read_time(columns["heard_at"]),
        told_at=_read_time(columns["told_at"]),
    )


def _read_tunnel(text: str) -> tuple[Encap, Family]:
    encap, _, family = text.partition("/")
    return Encap(encap), Family(family)


def _read_table(name: str, text: str) -> TableUse:
    used, _, capacity = text.partition("/")
    if not used.isdecimal() or not capacity.isdecimal():
        raise InvalidValueError(f"table {name!r} {text!r} is not rows taken, a slash, rows in all")
    return TableUse(name, int(used), int(capacity))


def _read_condition(kind: str, text: str) -> Condition:
    holds, since, reason = [*text.split(" ", 2), "", ""][:3]
    if holds not in ("True", "False") or not since.isdecimal():
        raise InvalidValueError(
            f"condition {kind!r} {text!r} is not True or False, a time, a reason"
        )
    return Condition(kind, holds == "True", reason, _read_time(int(since)))


def _read_time(unix_s: int) -> int:
    """Return a time that people can be shown: one row must not keep others from being listed."""
    if unix_s > LATEST:
        raise InvalidValueError(f"time {unix_s} is after the year 9999")
    return unix_s


_TABLES: Mapping[str, _Table] = {
    "Fabric": _Table(
        columns=("name", "geneve_port", "vxlan_port"),
        write=lambda fabric: {
            "name": fabric.name,
            "geneve_port": fabric.geneve_port,
            "vxlan_port": fabric.vxlan_port,
        },
        read=lambda columns: Fabric(columns["name"], columns["geneve_port"], columns["vxlan_port"]),
    ),
    "Node": _Table(
        columns=("name", "static"),
        write=lambda node: {"name": node.name, "static": node.static},
        read=lambda columns: Node(columns["name"], (), columns["static"]),
    ),
    "Vtep": _Table(
        columns=("address", "node"),
        write=lambda vtep: {"address": str(vtep.address), "node": vtep.node},
        read=lambda columns: Vtep(columns["node"], ip_address(columns["address"])),
    ),
    "Segment": _Table(
        columns=(
            "name",
            "vni",
            "encap",
            "underlay",
            "mtu",
            "subnets",
            "static_ranges",
            "guard",
            "unknown_unicast",
        ),
        write=_write_segment,
        read=_read_segment,
    ),
    "Endpoint": _Table(
        columns=(
            "segment",
            "node",
            "mac",
            "ips",
            "identity",
            "sequence",
            "container_id",
            "ifname",
            "moves",
            "learned",
        ),
        write=_write_endpoint,
        read=_read_endpoint,
    ),
    "Block": _Table(
        columns=("segment", "prefix", "node"),
        write=lambda block: {
            "segment": block.segment,
            "prefix": str(block.prefix),
            "node": block.node,
        },
        read=lambda columns: Block(
            columns["segment"], ip_network(columns["prefix"]), columns["node"]
        ),
    ),
    "Address": _Table(
        columns=("segment", "ip", "identity", "node"),
        write=lambda address: {
            "segment": address.segment,
            "ip": str(address.ip),
            "identity": address.identity,
            "node": address.node,
        },
        read=lambda columns: Address(
            columns["segment"], ip_address(columns["ip"]), columns["identity"], columns["node"]
        ),
    ),
    "Device": _Table(
        columns=(
            "name",
            "serial",
            "vendor",
            "product",
            "side",
            "node",
            "ready",
            "emulated",
            "conditions",
            "assumptions",
            "peer",
            "tunnels",
            "tables",
            "vfs",
            "vfs_used",
            "heard_at",
            "told_at",
        ),
        write=_write_device,
        read=_read_device,
    ),
    "Vrf": _Table(columns=("name", "vni", "loopback"), write=_write_vrf, read=_read_vrf),
    "Svi": _Table(
        columns=("name", "vrf", "segment", "mac", "prefixes"), write=_write_svi, read=_read_svi
    ),
    "Grant": _Table(
        columns=("segment", "node", "mac", "ips"), write=_write_grant, read=_read_grant
    ),
    "Pin": _Table(
        columns=("segment", "endpoint", "hardware"),
        write=lambda pin: {
            "segment": pin.segment,
            "endpoint": pin.endpoint,
            "hardware": pin.hardware.value,
        },
        read=lambda columns: Pin(
            columns["segment"], endpoint_name(columns["endpoint"]), Hardware(columns["hardware"])
        ),
    ),
}

SEGMENT_TABLES = frozenset({"Endpoint", "Block", "Address", "Grant", "Pin"})
"""The tables whose rows hang on a segment, and can be had for some segments only."""

NODE_TABLES = frozenset({"Device"})
"""The tables of which a node needs to see its own rows only."""

OWNED_TABLES = SEGMENT_TABLES - {"Grant", "Pin"}
"""Those of them whose rows a node writes, with its name in the column ``node``."""


def _in_order(values: Iterable[_Ip]) -> tuple[_Ip, ...]:
    return tuple(sorted(set(values), key=lambda value: (value.version, value)))


def _networks(texts: Iterable[str]) -> tuple[IpNetwork, ...]:
    return _in_order(ip_network(text) for text in texts)


def _texts(values: Iterable[IpAddress | IpNetwork | IpInterface]) -> tuple[str, ...]:
    return tuple(sorted({str(value) for value in values}))


def _optional(value: str | int | None) -> Value:
    return () if value is None else (value,)
