"""What must hold among the objects of a fabric, whoever wrote them. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations, product

from dataplane.core.model import (
    MAX_MTU,
    MIN_IPV6_MTU,
    Address,
    Block,
    Device,
    Endpoint,
    Fabric,
    FabricEntity,
    Grant,
    IpAddress,
    IpNetwork,
    Mac,
    Node,
    Pin,
    Segment,
    Svi,
    Vrf,
    family_of,
    in_any,
)
from dataplane.core.overhead import encap_overhead

Key = tuple[type[FabricEntity], Hashable]


@dataclass(frozen=True, slots=True)
class Breach:
    """A rule that ``entity`` breaks at its ``key``; ``other`` is who it clashes with, if anyone."""

    key: str
    text: str
    other: Key | None = None


@dataclass(frozen=True, slots=True)
class World:
    """The fabric as it is and as it would be; ``unread`` are segments that cannot be judged."""

    before: Mapping[Key, FabricEntity]
    after: Mapping[Key, FabricEntity]
    unread: frozenset[str] = frozenset()
    _claims: Mapping[Hashable, list[FabricEntity]] = field(init=False, repr=False)
    _of_segment: Mapping[str, list[FabricEntity]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        claims: dict[Hashable, list[FabricEntity]] = defaultdict(list)
        of_segment: dict[str, list[FabricEntity]] = defaultdict(list)
        for entity in self.after.values():
            for claim in _claims(entity):
                claims[claim].append(entity)
            if isinstance(entity, Block | Address | Endpoint):
                of_segment[entity.segment].append(entity)
        object.__setattr__(self, "_claims", claims)
        object.__setattr__(self, "_of_segment", of_segment)

    def rivals(self, entity: FabricEntity, claim: Hashable) -> list[FabricEntity]:
        """Return the others that make the same claim."""
        return [other for other in self._claims.get(claim, ()) if key_of(other) != key_of(entity)]

    def on(self, segment: str) -> list[FabricEntity]:
        """Return the blocks, addresses and endpoints of a segment."""
        return self._of_segment.get(segment, [])

    def segment(self, name: str) -> Segment | None:
        """Return a segment as it would be."""
        found = self.after.get((Segment, name))
        return found if isinstance(found, Segment) else None

    def node(self, name: str) -> Node | None:
        """Return a node as it would be."""
        found = self.after.get((Node, name))
        return found if isinstance(found, Node) else None


def key_of(entity: FabricEntity) -> Key:
    """Return what names ``entity`` among all, as the indexes of the schema do."""
    match entity:
        case Fabric():
            return Fabric, ""
        case Node(name=name) | Segment(name=name) | Vrf(name=name) | Svi(name=name):
            return type(entity), name
        case Endpoint():
            return Endpoint, entity.key
        case (
            Block(segment=first, prefix=second)
            | Address(segment=first, ip=second)
            | Device(node=first, name=second)
            | Pin(segment=first, endpoint=second)
        ):
            return type(entity), (first, second)
        case Grant(segment=segment, node=node, mac=mac):
            return Grant, (segment, node, mac)


def breaches(entity: FabricEntity, world: World) -> Iterator[Breach]:
    """Return every rule that ``entity`` would break."""
    match entity:
        case Fabric():
            yield from _fabric(entity)
        case Segment():
            yield from _segment(entity)
            yield from _vni(entity, world)
            yield from _occupied_segment(entity, world)
        case Vrf():
            yield from _vni(entity, world)
        case Svi():
            yield from _known_segment(entity.segment, world)
            yield from _svi(entity, world)
            yield from _apart(entity, world)
        case Grant():
            yield from _known_segment(entity.segment, world)
        case Pin():
            yield from _known_segment(entity.segment, world)
            yield from _contradictions(entity, world)
        case Node():
            yield from _node(entity, world)
        case Endpoint():
            yield from _known_segment(entity.segment, world)
            yield from _endpoint_on_segment(entity, world)
            yield from _duplicates(entity, "ips", world)
            yield from _bound(entity, "ips", world)


def segment_rows(name: str, entities: Iterable[FabricEntity]) -> Iterator[FabricEntity]:
    """Return the segment and all that names it, except its endpoints."""
    for entity in entities:
        match entity:
            case Segment(name=found) if found == name:
                yield entity
            case (
                Block(segment=found)
                | Address(segment=found)
                | Grant(segment=found)
                | Pin(segment=found)
            ) if found == name:
                yield entity


def some(things: Collection[object]) -> str:
    """Return the first three of ``things``, and how many more there are."""
    shown = ", ".join(str(thing) for thing in list(things)[:3])
    return shown if len(things) <= 3 else f"{shown} and {len(things) - 3} more"


def _claims(entity: FabricEntity) -> Iterator[Hashable]:
    match entity:
        case Segment(vni=vni) | Vrf(vni=vni) if vni is not None:
            yield "vni", vni
        case Svi(segment=segment, mac=mac, vrf=vrf):
            yield from ((segment, claim) for claim in (mac, *entity.ips))
            yield "gateway", segment
            yield "vrf", vrf
        case Node(vteps=vteps):
            yield from (("vtep", vtep) for vtep in vteps)
        case Endpoint(segment=segment, mac=mac, ips=ips, identity=identity):
            yield from ((segment, claim) for claim in (mac, *ips))
            yield "identity", segment, identity


def _fabric(fabric: Fabric) -> Iterator[Breach]:
    if fabric.geneve_port == fabric.vxlan_port:
        yield Breach("vxlan_port", f"vxlan_port {fabric.vxlan_port} is the geneve_port too")


def _segment(segment: Segment) -> Iterator[Breach]:
    yield from _overlaps("subnets", segment.subnets)
    yield from _overlaps("static_ranges", segment.static_ranges)
    for prefix in segment.static_ranges:
        if not _inside(prefix, segment.subnets):
            yield Breach(
                "static_ranges",
                f"static_ranges {prefix} lies in no subnet of the segment"
                f" ({', '.join(map(str, segment.subnets)) or 'it has none'})",
            )
    largest = MAX_MTU - encap_overhead(segment.encap, segment.underlay)
    if segment.mtu is not None and segment.mtu > largest:
        yield Breach(
            "mtu", f"mtu {segment.mtu} is more than any underlay can carry; at most {largest}"
        )
    ipv6 = [prefix for prefix in segment.subnets if prefix.version == 6]
    if segment.mtu is not None and ipv6 and segment.mtu < MIN_IPV6_MTU:
        yield Breach(
            "mtu", f"mtu {segment.mtu} is too small for {ipv6[0]}; IPv6 needs {MIN_IPV6_MTU}"
        )


def _vni(owner: Segment | Vrf, world: World) -> Iterator[Breach]:
    for other in world.rivals(owner, ("vni", owner.vni)):
        text = f"vni {owner.vni} is already used by {type(other).__name__.lower()} {_name(other)}"
        yield Breach("vni", text, key_of(other))


def _svi(svi: Svi, world: World) -> Iterator[Breach]:
    if (Vrf, svi.vrf) not in world.after and svi.vrf not in world.unread:
        yield Breach("vrf", f"vrf {svi.vrf!r} does not exist; define it in this file or before")
    for other in world.rivals(svi, ("gateway", svi.segment)):
        text = f"segment {svi.segment} already has the gateway svi {_name(other)}"
        yield Breach("segment", text, key_of(other))
    yield from _duplicates(svi, "prefixes", world)
    yield from _bound(svi, "prefixes", world)
    segment = world.segment(svi.segment)
    for prefix in svi.prefixes:
        if _is_edge(prefix.ip, (prefix.network,)):
            text = f"prefixes {prefix} is the network or broadcast address of its subnet"
            yield Breach("prefixes", text)
        if segment and _is_outside(prefix.ip, segment):
            known = ", ".join(map(str, segment.subnets))
            text = f"prefixes {prefix} lies in no subnet of segment {segment.name} ({known})"
            yield Breach("prefixes", text)


def _is_outside(ip: IpAddress, segment: Segment) -> bool:
    """Say whether the subnets of ``ip``'s family, if there are any, have it not."""
    subnets = [subnet for subnet in segment.subnets if subnet.version == ip.version]
    return bool(subnets) and not in_any(ip, subnets)


def _apart(svi: Svi, world: World) -> Iterator[Breach]:
    """Tell of subnets that a Vrf could reach by two ways."""
    networks = tuple(prefix.network for prefix in svi.prefixes)
    yield from _overlaps("prefixes", networks)
    for other in world.rivals(svi, ("vrf", svi.vrf)):
        others = other.prefixes if isinstance(other, Svi) else ()
        for one, two in product(networks, others):
            if _overlap(one, two.network):
                text = f"prefixes {one} overlaps {two} of svi {_name(other)} in vrf {svi.vrf}"
                yield Breach("prefixes", text, key_of(other))


def _occupied_segment(segment: Segment, world: World) -> Iterator[Breach]:
    rows = world.on(segment.name)
    endpoints = [row for row in rows if isinstance(row, Endpoint)]
    before = world.before.get((Segment, segment.name))
    if isinstance(before, Segment) and endpoints:
        for key in ("vni", "encap", "underlay"):
            old, new = getattr(before, key), getattr(segment, key)
            if old != new:
                users = some([f"{e.identity} at {e.node}" for e in endpoints])
                yield Breach(
                    key,
                    f"{key} cannot change from {old} to {new} while the segment has endpoints"
                    f" ({users}); remove them first",
                )
    lost = [
        ip for e in endpoints for ip in e.ips if segment.subnets and not in_any(ip, segment.subnets)
    ]
    if lost:
        yield Breach("subnets", f"subnets do not hold addresses in use: {some(lost)}")
    yield from _blocks_and_addresses(segment, rows)
    for gateway in world.rivals(segment, ("gateway", segment.name)):
        for ip in gateway.ips if isinstance(gateway, Svi) else ():
            if _is_outside(ip, segment):
                text = f"subnets do not hold {ip} of its gateway svi {_name(gateway)}"
                yield Breach("subnets", text, key_of(gateway))


def _blocks_and_addresses(segment: Segment, rows: Iterable[FabricEntity]) -> Iterator[Breach]:
    for row in rows:
        if isinstance(row, Block) and not _inside(row.prefix, segment.subnets):
            yield Breach("subnets", f"subnets do not hold block {row.prefix} of node {row.node}")
        elif isinstance(row, Block):
            for prefix in segment.static_ranges:
                if _overlap(prefix, row.prefix):
                    yield Breach(
                        "static_ranges",
                        f"static_ranges {prefix} overlaps block {row.prefix},"
                        f" from which node {row.node} allocates",
                    )
        elif isinstance(row, Address) and not in_any(row.ip, segment.static_ranges):
            yield Breach(
                "static_ranges", f"static_ranges do not hold {row.ip}, bound to {row.identity}"
            )


def _known_segment(name: str, world: World) -> Iterator[Breach]:
    if world.segment(name) is None and name not in world.unread:
        yield Breach(
            "segment", f"segment {name!r} does not exist; define it in this file or before"
        )


def _node(node: Node, world: World) -> Iterator[Breach]:
    before = world.before.get((Node, node.name))
    if isinstance(before, Node) and not before.static:
        yield Breach(
            "name", f"name {node.name!r} is that of a node with an agent, which writes its own row"
        )
    families = [family_of(vtep) for vtep in node.vteps]
    for family in sorted({family for family in families if families.count(family) > 1}):
        both = ", ".join(str(vtep) for vtep in node.vteps if family_of(vtep) is family)
        yield Breach("vteps", f"vteps {both}: a node has one {family} address")
    for vtep in node.vteps:
        for other in world.rivals(node, ("vtep", vtep)):
            yield Breach(
                "vteps", f"vteps {vtep} is already that of node {_name(other)}", key_of(other)
            )


def _endpoint_on_segment(endpoint: Endpoint, world: World) -> Iterator[Breach]:
    segment, node = world.segment(endpoint.segment), world.node(endpoint.node)
    if segment is None:
        return
    if node is not None and node.vtep(segment.underlay) is None:
        yield Breach(
            "segment",
            f"segment {segment.name!r} uses an {segment.underlay} underlay,"
            f" and node {node.name} has no such vtep",
        )
    for ip in endpoint.ips:
        if segment.subnets and not in_any(ip, segment.static_ranges):
            ranges = ", ".join(map(str, segment.static_ranges)) or "it has none"
            yield Breach(
                "ips",
                f"ips {ip} lies in no static range of segment {segment.name} ({ranges}):"
                " a pod may get it",
            )
        elif _is_edge(ip, segment.subnets):
            yield Breach("ips", f"ips {ip} is the network or broadcast address of its subnet")


def _duplicates(owner: Endpoint | Svi, of_ips: str, world: World) -> Iterator[Breach]:
    """Tell who has the MAC or an address of ``owner`` already; ``of_ips`` is the key of these."""
    for key, claim in (("mac", owner.mac), *((of_ips, ip) for ip in owner.ips)):
        for other in world.rivals(owner, (owner.segment, claim)):
            match other:
                case Endpoint(identity=identity, node=node):
                    whose = f"{identity} at node {node}"
                case _:
                    whose = f"svi {_name(other)}"
            text = f"{key} {claim} is already that of {whose} on segment {owner.segment}"
            yield Breach(key, text, key_of(other))


def _bound(owner: Endpoint | Svi, of_ips: str, world: World) -> Iterator[Breach]:
    """Tell of addresses that are kept for another identity, whether it is attached or not."""
    identity = owner.identity if isinstance(owner, Endpoint) else None
    for ip in owner.ips:
        bound = world.after.get((Address, (owner.segment, ip)))
        if isinstance(bound, Address) and bound.identity != identity:
            text = f"{of_ips} {ip} is bound to {bound.identity}, last at node {bound.node}"
            yield Breach(of_ips, text)


def _contradictions(pin: Pin, world: World) -> Iterator[Breach]:
    """Tell of endpoints that are pinned by identity one way and by MAC the other."""
    is_mac = isinstance(pin.endpoint, Mac)
    claim = (pin.segment, pin.endpoint) if is_mac else ("identity", pin.segment, pin.endpoint)
    for endpoint in world.rivals(pin, claim):
        if isinstance(endpoint, Endpoint):
            name = endpoint.identity if is_mac else endpoint.mac
            other = world.after.get((Pin, (pin.segment, name)))
            if isinstance(other, Pin) and other.hardware is not pin.hardware:
                text = (
                    f"hardware {pin.hardware} contradicts {other.hardware} in the pin of {name},"
                    f" the same endpoint at node {endpoint.node}"
                )
                yield Breach("hardware", text, key_of(other))


def _overlaps(key: str, prefixes: tuple[IpNetwork, ...]) -> Iterator[Breach]:
    for one, other in combinations(prefixes, 2):
        if _overlap(one, other):
            yield Breach(key, f"{key} {one} and {other} overlap")


def _overlap(one: IpNetwork, other: IpNetwork) -> bool:
    return one.version == other.version and one.overlaps(other)


def _inside(prefix: IpNetwork, subnets: Iterable[IpNetwork]) -> bool:
    ends = (prefix.network_address, prefix.broadcast_address)
    return any(all(in_any(end, (subnet,)) for end in ends) for subnet in subnets)


def _is_edge(ip: IpAddress, subnets: Iterable[IpNetwork]) -> bool:
    """Say whether ``ip`` is one IPv4 gives to no host (RFC 1122 3.2.1.3), /31 apart (RFC 3021)."""
    return any(
        ip in (subnet.network_address, subnet.broadcast_address)
        for subnet in subnets
        if subnet.version == 4 and subnet.prefixlen < 31
    )


def _name(entity: FabricEntity) -> str:
    return entity.name if isinstance(entity, Node | Segment | Vrf | Svi) else ""
