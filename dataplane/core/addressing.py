"""Address blocks, the addresses inside them, and addresses derived from names. All pure."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address, ip_network

from dataplane.core.model import Block, IpAddress, IpNetwork, Mac, Segment, in_any

BLOCK_PREFIXLEN = {4: 27, 6: 120}


def default_mac(segment: str, identity: str) -> Mac:
    """Return the locally administered MAC of ``identity`` on ``segment``: stable when it moves."""
    digest = hashlib.sha256(f"{segment}\0{identity}".encode()).digest()
    first = (digest[0] & 0xFC) | 0x02  # unicast, locally administered (IEEE 802, section 8.4)
    return Mac(":".join(f"{byte:02x}" for byte in (first, *digest[1:6])))


def eui64_link_local(mac: Mac) -> IPv6Address:
    """Return the link-local address an interface with ``mac`` forms (RFC 4291 appendix A)."""
    raw = bytes.fromhex(mac.replace(":", ""))
    interface_id = bytes([raw[0] ^ 0x02]) + raw[1:3] + b"\xff\xfe" + raw[3:]
    return IPv6Address(b"\xfe\x80" + bytes(6) + interface_id)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses on a segment: ``mine``, of this node's own endpoints, and all that are ``in_use``.

    What is in use by others inside a Block of ours takes its room, but does not keep it ours.
    """

    mine: AbstractSet[IpAddress]
    in_use: AbstractSet[IpAddress]


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """The Blocks this node should own.

    ``exhausted`` are the subnets of an address family that has no Block left to claim in any.
    """

    blocks: tuple[Block, ...]
    exhausted: tuple[IpNetwork, ...] = ()


def plan_blocks(
    segment: Segment, node: str, blocks: Collection[Block], addresses: Addresses
) -> BlockPlan:
    """Decide which of ``segment``'s Blocks ``node`` should own, given every Block known.

    A node has the Blocks its addresses lie in, one with a free address, and a spare while more
    than half are free.
    """
    wanted: list[Block] = []
    exhausted: set[IpNetwork] = set()
    for subnet in segment.subnets:
        parts = _Subnet(subnet, segment.static_ranges)
        prefixes, short = _plan_subnet(parts, node, blocks, addresses)
        wanted += [Block(segment.name, prefix, node) for prefix in prefixes]
        exhausted |= {subnet} if short else set()
    usable = {subnet.version for subnet in segment.subnets if subnet not in exhausted}
    return BlockPlan(
        tuple(wanted),
        tuple(s for s in segment.subnets if s in exhausted and s.version not in usable),
    )


def allocate(
    segment: Segment, own: Iterable[Block], used: AbstractSet[IpAddress]
) -> tuple[IpAddress, ...] | None:
    """Return a free address per family of ``segment`` from ``own`` Blocks, None if one lacks."""
    prefixes = sorted((block.prefix for block in own), key=lambda p: (p.version, p))
    chosen = []
    for version in sorted({subnet.version for subnet in segment.subnets}):
        address = _first_free(segment, (p for p in prefixes if p.version == version), used)
        if address is None:
            return None
        chosen.append(address)
    return tuple(chosen)


@dataclass(frozen=True, slots=True)
class _Subnet:
    network: IpNetwork
    static_ranges: tuple[IpNetwork, ...]

    @property
    def block_len(self) -> int:
        return max(BLOCK_PREFIXLEN[self.network.version], self.network.prefixlen)

    @property
    def total(self) -> int:
        return 1 << (self.block_len - self.network.prefixlen)

    def block(self, index: int) -> IpNetwork:
        size = 1 << (self.network.max_prefixlen - self.block_len)
        return ip_network((self.network.network_address + index * size, self.block_len))

    def index_after(self, static_range: IpNetwork) -> int:
        return self.index_of(static_range.broadcast_address) + 1

    def index_of(self, address: IpAddress) -> int:
        size = 1 << (self.network.max_prefixlen - self.block_len)
        return (int(address) - int(self.network.network_address)) // size

    def static_overlap(self, prefix: IpNetwork) -> IpNetwork | None:
        return next(
            (r for r in self.static_ranges if r.version == prefix.version and r.overlaps(prefix)),
            None,
        )


def _plan_subnet(
    subnet: _Subnet, node: str, blocks: Collection[Block], addresses: Addresses
) -> tuple[list[IpNetwork], bool]:
    """Return the Blocks to own, and whether one more is needed that cannot be had."""
    here = [
        b
        for b in blocks
        if b.prefix.version == subnet.network.version and b.prefix.overlaps(subnet.network)
    ]
    taken = {b.prefix: b.node for b in here}
    own = {prefix for prefix, owner in taken.items() if owner == node}
    places = {
        subnet.index_of(ip)
        for ip in addresses.mine
        if ip in subnet.network and not in_any(ip, subnet.static_ranges)
    }
    needed = set(map(subnet.block, places))
    in_use = {prefix for prefix in needed if taken.get(prefix, node) == node}
    free = partial(_has_room, subnet, addresses.in_use)
    idle = sorted(filter(free, own - in_use))
    free_share = (subnet.total - len(taken)) / subnet.total
    roomy = any(map(free, in_use))
    if roomy:
        keep = idle[:1] if free_share > 0.25 else []  # give the spare back when Blocks get scarce
        want_more = not idle and free_share > 0.5
    else:
        keep = idle[:1]
        want_more = not idle
    claimed = next(filter(free, _untaken(subnet, node, taken)), None) if want_more else None
    prefixes = sorted({*in_use, *keep, *([claimed] if claimed else [])})
    return prefixes, want_more and not roomy and claimed is None


def _untaken(subnet: _Subnet, node: str, taken: Collection[IpNetwork]) -> Iterator[IpNetwork]:
    # Starting at a place that depends on the node keeps nodes from racing for the same Block.
    start = (
        int.from_bytes(hashlib.sha256(f"{node}\0{subnet.network}".encode()).digest()[:8])
        % subnet.total
    )
    yield from _scan(subnet, start, subnet.total, taken)
    yield from _scan(subnet, 0, start, taken)


def _scan(
    subnet: _Subnet, index: int, end: int, taken: Collection[IpNetwork]
) -> Iterator[IpNetwork]:
    while index < end:
        prefix = subnet.block(index)
        static = subnet.static_overlap(prefix)
        if static is None and prefix not in taken:
            yield prefix
        index = subnet.index_after(static) if static else index + 1


def _has_room(subnet: _Subnet, in_use: AbstractSet[IpAddress], prefix: IpNetwork) -> bool:
    return next(_free_addresses(subnet.network, prefix, in_use), None) is not None


def _first_free(
    segment: Segment, prefixes: Iterable[IpNetwork], used: AbstractSet[IpAddress]
) -> IpAddress | None:
    for prefix in prefixes:
        subnet = next(
            (s for s in segment.subnets if s.version == prefix.version and s.overlaps(prefix)), None
        )
        if subnet is not None:
            address = next(_free_addresses(subnet, prefix, used), None)
            if address is not None:
                return address
    return None


def _free_addresses(
    subnet: IpNetwork, prefix: IpNetwork, used: AbstractSet[IpAddress]
) -> Iterator[IpAddress]:
    reserved = _reserved(subnet)
    return (ip for ip in prefix if ip not in used and ip not in reserved)


def _reserved(subnet: IpNetwork) -> AbstractSet[IpAddress]:
    if subnet.prefixlen >= subnet.max_prefixlen - 1:  # RFC 3021, RFC 6164: both addresses are hosts
        return frozenset()
    if subnet.version == 6:
        return frozenset({subnet.network_address})  # subnet-router anycast, RFC 4291 2.6.1
    return frozenset({subnet.network_address, subnet.broadcast_address})
