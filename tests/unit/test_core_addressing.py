"""Blocks and the addresses in them: no two nodes ever share an address."""

from collections.abc import Collection
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.core.addressing import (
    Addresses,
    BlockPlan,
    allocate,
    default_mac,
    eui64_link_local,
    plan_blocks,
)
from dataplane.core.model import Block, IpAddress, Mac, Segment, Vni, in_any


def segment(*subnets: str, static: tuple[str, ...] = ()) -> Segment:
    return Segment(
        "blue",
        Vni(7),
        subnets=tuple(ip_network(s) for s in subnets),
        static_ranges=tuple(ip_network(s) for s in static),
    )


def plan(
    on: Segment, node: str, blocks: Collection[Block], used: AbstractSet[IpAddress]
) -> BlockPlan:
    return plan_blocks(on, node, blocks, Addresses(used, used))


def owned(plan_node: str, *prefixes: str) -> list[Block]:
    return [Block("blue", ip_network(prefix), plan_node) for prefix in prefixes]


def test_the_first_plan_claims_one_block_per_subnet() -> None:
    found = plan(segment("10.0.0.0/20", "2001:db8::/64"), "n1", [], frozenset())
    assert sorted(b.prefix.prefixlen for b in found.blocks) == [27, 120]
    assert found.exhausted == ()


def test_a_spare_is_claimed_once_addresses_are_used() -> None:
    first = plan(segment("10.0.0.0/20"), "n1", [], frozenset()).blocks
    used = frozenset({first[0].prefix.network_address + 1})
    assert len(plan(segment("10.0.0.0/20"), "n1", first, used).blocks) == 2


@pytest.mark.parametrize(
    ("others", "blocks"),
    [
        pytest.param(0, 2, id="three of four blocks free: a spare is claimed"),
        pytest.param(1, 1, id="half of the blocks free: no spare"),
    ],
)
def test_the_spare_depends_on_what_is_free(others: int, blocks: int) -> None:
    whole = list(IPv4Network("10.0.0.0/25").subnets(new_prefix=27))
    mine = Block("blue", whole[-1], "n1")
    known = [mine, *(Block("blue", prefix, "n2") for prefix in whole[:others])]
    used = frozenset({mine.prefix.network_address + 1})
    assert len(plan(segment("10.0.0.0/25"), "n1", known, used).blocks) == blocks


def test_an_exhausted_subnet_is_named() -> None:
    others = owned("n2", "10.0.0.0/27")
    found = plan(segment("10.0.0.0/27"), "n1", others, frozenset())
    assert found.blocks == ()
    assert found.exhausted == (ip_network("10.0.0.0/27"),)


def test_no_block_covers_a_static_range() -> None:
    blue = segment("10.0.0.0/24", static=("10.0.0.0/25",))
    seen: list[Block] = []
    for number in range(4):
        found = plan(blue, f"n{number}", seen, frozenset())
        assert len(found.blocks) == 1
        seen += found.blocks
    assert {b.prefix for b in seen} == set(ip_network("10.0.0.128/25").subnets(new_prefix=27))
    assert plan(blue, "late", seen, frozenset()).exhausted


def test_a_huge_subnet_with_a_huge_static_range_is_planned_at_once() -> None:
    blue = segment("2001:db8::/64", static=("2001:db8::/65",))
    found = plan(blue, "n1", [], frozenset())
    assert in_any(found.blocks[0].prefix.network_address, (ip_network("2001:db8::8000:0:0:0/65"),))


def test_allocation_leaves_out_network_broadcast_and_used() -> None:
    blue = segment("10.0.0.0/30")
    own = owned("n1", "10.0.0.0/30")
    assert allocate(blue, own, frozenset()) == (ip_address("10.0.0.1"),)
    used = frozenset({ip_address("10.0.0.1")})
    assert allocate(blue, own, used) == (ip_address("10.0.0.2"),)
    assert allocate(blue, own, used | {ip_address("10.0.0.2")}) is None


def test_a_block_that_another_node_took_is_not_claimed_again() -> None:
    lost = owned("n2", "10.0.0.0/27")
    used = frozenset({ip_address("10.0.0.5")})
    found = plan(segment("10.0.0.0/24"), "n1", lost, used)
    assert ip_network("10.0.0.0/27") not in [b.prefix for b in found.blocks]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(["n1", "n2", "n3"]), min_size=1, max_size=120))
def test_nodes_that_attach_in_any_order_never_share_an_address(order: list[str]) -> None:
    blue = segment("10.0.0.0/25")
    blocks: dict[object, Block] = {}
    given_out: dict[str, set[IpAddress]] = {"n1": set(), "n2": set(), "n3": set()}
    for node in order:
        found = plan(blue, node, blocks.values(), frozenset(given_out[node]))
        blocks = {k: b for k, b in blocks.items() if b.node != node or b in found.blocks}
        for block in found.blocks:
            blocks.setdefault(block.prefix, block)  # the unique index of the database
        own = [b for b in blocks.values() if b.node == node]
        chosen = allocate(blue, own, frozenset(given_out[node]))
        if chosen is None:
            assert found.exhausted
            continue
        assert not any(chosen[0] in taken for taken in given_out.values())
        given_out[node].add(chosen[0])


@given(st.text(max_size=20), st.text(max_size=20))
def test_default_mac_is_local_unicast_and_stable(name: str, identity: str) -> None:
    mac = default_mac(name, identity)
    assert int(mac[:2], 16) & 3 == 2
    assert mac == default_mac(name, identity)


def test_eui64_of_rfc_4291_appendix_a() -> None:
    assert eui64_link_local(Mac("34:56:78:9a:bc:de")) == ip_address("fe80::3656:78ff:fe9a:bcde")
