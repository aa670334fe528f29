"""From an intent file, and from the rows present, to a plan of changes. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TypeVar

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import (
    Address,
    Block,
    Device,
    Endpoint,
    Fabric,
    FabricEntity,
    Grant,
    IpAddress,
    IpInterface,
    IpNetwork,
    Network,
    Node,
    Pin,
    Segment,
    Svi,
    Vrf,
    endpoint_name,
    in_any,
)
from dataplane.documents import Fault
from dataplane.fabric.intent_file import IntentFile, Written
from dataplane.fabric.intent_rules import Key, World, breaches, key_of, segment_rows, some

_Ip = TypeVar("_Ip", bound=IpAddress | IpNetwork | IpInterface)
_ORDER = (Fabric, Segment, Vrf, Svi, Grant, Pin, Node, Endpoint, Block, Address, Device)
_TITLED: Mapping[type[FabricEntity], frozenset[str]] = {
    Fabric: frozenset({"name"}),
    Segment: frozenset({"name"}),
    Vrf: frozenset({"name"}),
    Svi: frozenset({"name"}),
    Node: frozenset({"name", "static"}),
    Grant: frozenset({"segment", "node", "mac"}),
    Pin: frozenset({"segment", "endpoint"}),
    Endpoint: frozenset({"segment", "node", "mac", "container_id", "ifname", "sequence"}),
    Block: frozenset({"segment", "prefix"}),
    Address: frozenset({"segment", "ip"}),
    Device: frozenset({"name", "node"}),
}  # what a title says already, or a file does not say
Rows = Mapping[Key, FabricEntity]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to change in the fabric database; ``update`` holds pairs of old and new."""

    add: tuple[FabricEntity, ...] = ()
    update: tuple[tuple[FabricEntity, FabricEntity], ...] = ()
    remove: tuple[FabricEntity, ...] = ()

    def __len__(self) -> int:
        """Count the objects that change."""
        return len(self.add) + len(self.update) + len(self.remove)

    def lines(self) -> tuple[str, ...]:
        """Return the plan for a reader: ``+`` new, ``~`` changed, ``-`` gone."""
        return (
            *(f"+ {title(entity)}{_details(entity)}" for entity in self.add),
            *(f"~ {title(new)}: {_changes(old, new)}" for old, new in self.update),
            *(f"- {title(entity)}" for entity in self.remove),
        )


def plan_apply(intent: IntentFile, present: Collection[FabricEntity]) -> Plan:
    """Return what makes the fabric as ``intent`` says, of the objects it names.

    A static node's document owns its endpoints: those it no longer lists go. Raises
    FaultyFileError with every fault of the file, by itself and against what is present.
    """
    before = _rows(present)
    written = _rows(entry.entity for entry in intent.written)
    nodes = {entity.name for entity in written.values() if isinstance(entity, Node)}
    replaced = {key for key, row in before.items() if _is_of_static(row, nodes)}
    after = {key: row for key, row in before.items() if key not in replaced} | written
    world = World(before, after, intent.unread)
    intent.check((*_repeated(intent.written), *_faults(intent, world)))
    wanted = {**written, **_rows(_bindings(written.values(), after))}
    gone = [before[key] for key in replaced if key not in wanted]
    return Plan(
        add=_sorted(row for key, row in wanted.items() if key not in before),
        update=tuple(
            (before[key_of(row)], row)
            for row in _sorted(wanted.values())
            if key_of(row) in before and before[key_of(row)] != row
        ),
        remove=_sorted(gone),
    )


def plan_network(network: Network, seen: Network | None, present: Collection[FabricEntity]) -> Plan:
    """Return what makes ``network`` of the one that was ``seen``; None: there was none.

    Raises InvalidValueError with all that forbids it, also where that is not how it is.
    """
    before, key, wanted = _rows(present), key_of(network), _normal(network)
    if before.get(key) != (_normal(seen) if seen else None):
        what = f"{type(network).__name__.lower()} {network.name}"
        raise InvalidValueError(f"{what} has just been changed by somebody else; look at it again")
    told = [breach.text for breach in breaches(wanted, World(before, {**before, key: wanted}))]
    if told:
        raise InvalidValueError("; ".join(told))
    if key not in before:
        return Plan(add=(wanted,))
    return Plan(update=((before[key], wanted),) if before[key] != wanted else ())


def plan_delete(kind: str, name: str, present: Collection[FabricEntity]) -> Plan:
    """Return what deletes an object an administrator wrote, with all that hangs on it.

    ``kind`` is segment, vrf, svi, grant, pin or node; a grant's ``name`` is SEGMENT/NODE or
    SEGMENT/NODE/MAC, a pin's SEGMENT/IDENTITY or SEGMENT/MAC.
    Raises InvalidValueError where there is no such object, or it is in use.
    """
    match kind:
        case "segment":
            return _plan_segment_delete(name, present)
        case "vrf":
            return _plan_vrf_delete(name, present)
        case "svi":
            return Plan(remove=(_named(Svi, name, present),))
        case "grant":
            return Plan(remove=(_grant(name, present),))
        case "pin":
            return Plan(remove=(_pin(name, present),))
        case "node":
            return _plan_static_node_delete(name, present)
        case _:
            raise InvalidValueError(f"kind {kind!r} is not segment, vrf, svi, grant, pin or node")


def plan_node_delete(name: str, present: Collection[FabricEntity]) -> Plan:
    """Return what frees all that node ``name`` owns; InvalidValueError if that is nothing."""
    owned = node_rows(name, present)
    if not owned:
        raise InvalidValueError(f"node {name!r} does not exist; see: overweave get node")
    return Plan(remove=owned)


def node_rows(name: str, present: Iterable[FabricEntity]) -> tuple[FabricEntity, ...]:
    """Return the rows that node ``name`` owns, itself first."""
    return _sorted(row for row in _rows(present).values() if _owner(row) == name)


def title(entity: FabricEntity) -> str:
    """Return how an object is called in a plan."""
    match entity:
        case (
            Fabric(name=name)
            | Node(name=name)
            | Segment(name=name)
            | Vrf(name=name)
            | Svi(name=name)
        ):
            return f"{type(entity).__name__} {name}"
        case Grant(segment=segment, node=node, mac=mac):
            return f"Grant {segment}/{node}" + (f"/{mac}" if mac else "")
        case Pin(segment=segment, endpoint=endpoint):
            return f"Pin {segment}/{endpoint}"
        case Endpoint(segment=segment, node=node, mac=mac):
            return f"Endpoint {mac} on {segment} at {node}"
        case (
            Block(segment=owner, prefix=part)
            | Address(segment=owner, ip=part)
            | Device(node=owner, name=part)
        ):
            return f"{type(entity).__name__} {part} of {owner}"


def _faults(intent: IntentFile, world: World) -> Iterator[Fault]:
    """Tell a clash of two written objects once, at the later one."""
    last = {key_of(entry.entity): place for place, entry in enumerate(intent.written)}
    for place, entry in enumerate(intent.written):
        for breach in breaches(_normal(entry.entity), world):
            if breach.other is None or last.get(breach.other, -1) < place:
                yield entry.fault((breach.key,), breach.text)


def _repeated(written: Iterable[Written]) -> Iterator[Fault]:
    first: dict[Key, Written] = {}
    for entry in written:
        earlier = first.setdefault(key_of(entry.entity), entry)
        if earlier is not entry:
            text = f"{title(entry.entity)} is already defined in document {earlier.document.number}"
            yield entry.fault(("name",), text)


def _bindings(written: Iterable[FabricEntity], after: Rows) -> Iterator[Address]:
    """Bind the static-range addresses of static endpoints, so that no agent hands them out."""
    for endpoint in written:
        if isinstance(endpoint, Endpoint):
            segment = after[Segment, endpoint.segment]
            ranges = segment.static_ranges if isinstance(segment, Segment) else ()
            for ip in endpoint.ips:
                if in_any(ip, ranges):
                    yield Address(endpoint.segment, ip, endpoint.identity, endpoint.node)


def _plan_segment_delete(name: str, present: Collection[FabricEntity]) -> Plan:
    rows = _sorted(segment_rows(name, _rows(present).values()))
    if not any(isinstance(row, Segment) for row in rows):
        raise InvalidValueError(f"segment {name!r} does not exist; see: overweave get segment")
    endpoints = (row for row in present if isinstance(row, Endpoint) and row.segment == name)
    users = [f"{endpoint.identity} at {endpoint.node}" for endpoint in endpoints]
    if users:
        raise InvalidValueError(f"segment {name} has endpoints ({some(users)}); remove them first")
    gateways = [row.name for row in present if isinstance(row, Svi) and row.segment == name]
    if gateways:
        raise InvalidValueError(
            f"segment {name} has the gateway svi {gateways[0]}; delete it first"
        )
    return Plan(remove=rows)


def _plan_vrf_delete(name: str, present: Collection[FabricEntity]) -> Plan:
    vrf = _named(Vrf, name, present)
    svis = [row.name for row in present if isinstance(row, Svi) and row.vrf == name]
    if svis:
        raise InvalidValueError(f"vrf {name} has svis ({some(svis)}); delete them first")
    return Plan(remove=(vrf,))


def _named(kind: type[Vrf | Svi], name: str, present: Iterable[FabricEntity]) -> Vrf | Svi:
    found = [row for row in present if isinstance(row, kind)]
    for row in found:
        if row.name == name:
            return row
    known = some([row.name for row in found]) or "none at all"
    raise InvalidValueError(f"{kind.__name__.lower()} {name!r} does not exist; there are: {known}")


def _plan_static_node_delete(name: str, present: Collection[FabricEntity]) -> Plan:
    if any(isinstance(row, Node) and row.name == name and not row.static for row in present):
        raise InvalidValueError(
            f"node {name} has an agent, no file wrote it;"
            f" if it is dead: overweave node delete {name}"
        )
    return plan_node_delete(name, present)


def _grant(name: str, present: Collection[FabricEntity]) -> Grant:
    rows = [row for row in _rows(present).values() if isinstance(row, Grant)]
    found = [row for row in rows if name.lower() in _grant_names(row)]
    if len(found) != 1:
        several = ", ".join(title(row).removeprefix("Grant ") for row in found)
        raise InvalidValueError(
            f"grant {name!r} names several: {several}; name one by SEGMENT/NODE/MAC"
            if found
            else f"grant {name!r} does not exist; name it SEGMENT/NODE or SEGMENT/NODE/MAC"
        )
    return found[0]


def _grant_names(grant: Grant) -> tuple[str, str]:
    pair = f"{grant.segment}/{grant.node}"
    return pair, f"{pair}/{grant.mac or ''}"


def _pin(name: str, present: Collection[FabricEntity]) -> Pin:
    segment, _, endpoint = name.partition("/")
    pins = [row for row in present if isinstance(row, Pin)]
    wanted = (segment, endpoint_name(endpoint))
    found = next((pin for pin in pins if (pin.segment, pin.endpoint) == wanted), None)
    if found is None:
        known = some([f"{pin.segment}/{pin.endpoint}" for pin in pins]) or "none at all"
        raise InvalidValueError(f"pin {name!r} does not exist; there are: {known}")
    return found


def _is_of_static(row: FabricEntity, nodes: Collection[str]) -> bool:
    return isinstance(row, Endpoint | Address) and row.node in nodes


def _owner(row: FabricEntity) -> str | None:
    match row:
        case Node(name=name):
            return name
        case Endpoint(node=node) | Block(node=node) | Address(node=node) | Device(node=node):
            return node
    return None


def _rows(entities: Iterable[FabricEntity]) -> dict[Key, FabricEntity]:
    return {key_of(entity): _normal(entity) for entity in entities}


def _normal(entity: FabricEntity) -> FabricEntity:
    """Return ``entity`` with its sets in one order: the database keeps none."""
    match entity:
        case Segment(subnets=subnets, static_ranges=ranges):
            return replace(entity, subnets=_in_order(subnets), static_ranges=_in_order(ranges))
        case Node(vteps=vteps):
            return replace(entity, vteps=_in_order(vteps))
        case Endpoint(ips=ips):
            return replace(entity, ips=_in_order(ips))
        case Svi(prefixes=gateways):
            return replace(entity, prefixes=_in_order(gateways))
        case Grant(ips=prefixes):
            return replace(entity, ips=_in_order(prefixes))
    return entity


def _in_order(values: Iterable[_Ip]) -> tuple[_Ip, ...]:
    return tuple(sorted(set(values), key=lambda value: (value.version, value)))


def _sorted(rows: Iterable[FabricEntity]) -> tuple[FabricEntity, ...]:
    return tuple(sorted(rows, key=lambda row: (_ORDER.index(type(row)), title(row))))


def _details(entity: FabricEntity) -> str:
    texts = {key: text for key, text in _texts(entity).items() if key not in _TITLED[type(entity)]}
    shown = ", ".join(f"{key} {text}" for key, text in texts.items() if text)
    return f" ({shown})" if shown else ""


def _changes(old: FabricEntity, new: FabricEntity) -> str:
    was = _texts(old)
    return ", ".join(
        f"{key} {was[key] or 'unset'} -> {text or 'unset'}"
        for key, text in _texts(new).items()
        if text != was[key]
    )


def _texts(entity: FabricEntity) -> dict[str, str]:
    return {field.name: _text(getattr(entity, field.name)) for field in fields(entity)}


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)
