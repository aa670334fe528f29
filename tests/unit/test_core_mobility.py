"""Who wins a contested MAC or address: the table is RFC 7432 section 15 as we apply it."""

from ipaddress import ip_address
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.mobility import resolve
from dataplane.core.model import Endpoint, IpAddress, Mac
from dataplane.core.reasons import Reason

VTEPS: dict[str, IpAddress] = {f"n{i}": ip_address(f"192.0.2.{i}") for i in range(1, 5)}


def endpoint(node: str, identity: str, sequence: int, mac: int = 1, ip: int = 1) -> Endpoint:
    return Endpoint(
        segment="blue",
        node=node,
        mac=Mac(f"02:00:00:00:00:{mac:02x}"),
        ips=(ip_address(f"10.0.0.{ip}"),),
        identity=identity,
        sequence=sequence,
        container_id=f"{identity}-{node}-{mac}-{ip}-{sequence}",
        ifname="eth0",
    )


CASES = [
    pytest.param([endpoint("n1", "a", 0)], {}, id="alone nobody loses"),
    pytest.param(
        [endpoint("n1", "a", 0), endpoint("n2", "a", 1)],
        {"n1": Reason.SUPERSEDED},
        id="a move: the higher sequence wins",
    ),
    pytest.param(
        [endpoint("n1", "a", 3), endpoint("n2", "a", 3)],
        {"n2": Reason.SUPERSEDED},
        id="equal sequences: the lower vtep wins",
    ),
    pytest.param(
        [endpoint("n3", "a", 9), endpoint("n2", "b", 0)],
        {"n3": Reason.DUPLICATE},
        id="another identity: the lower vtep wins whatever the sequence",
    ),
    pytest.param(
        [endpoint("n1", "a", 0, mac=1, ip=1), endpoint("n2", "b", 0, mac=2, ip=1)],
        {"n2": Reason.DUPLICATE},
        id="a shared address alone is a conflict",
    ),
    pytest.param(
        [endpoint("n1", "a", 0, mac=1, ip=1), endpoint("n2", "a", 1, mac=2, ip=2)],
        {},
        id="one identity with nothing in common is no conflict",
    ),
    pytest.param(
        [endpoint("n1", "a", 0), endpoint("n2", "a", 1), endpoint("n3", "b", 0)],
        {"n1": Reason.SUPERSEDED, "n3": Reason.DUPLICATE},
        id="a move is decided before a duplicate",
    ),
]


@pytest.mark.parametrize(("endpoints", "losers"), CASES)
def test_losers(endpoints: list[Endpoint], losers: dict[str, Reason]) -> None:
    for order in permutations(endpoints):
        losses = resolve(order, VTEPS)
        assert {key.node: loss.reason for key, loss in losses.items()} == losers


endpoints_strategy = st.lists(
    st.builds(
        endpoint,
        node=st.sampled_from(sorted(VTEPS)),
        identity=st.sampled_from("abc"),
        sequence=st.integers(0, 3),
        mac=st.integers(1, 3),
        ip=st.integers(1, 3),
    ),
    max_size=8,
    unique_by=lambda e: e.key,
)


@given(endpoints_strategy, st.randoms())
def test_every_node_decides_the_same(endpoints: list[Endpoint], rng: object) -> None:
    shuffled = sorted(endpoints, key=lambda _: rng.random())  # type: ignore[attr-defined]  # st.randoms is untyped
    assert resolve(endpoints, VTEPS) == resolve(shuffled, VTEPS)


@given(endpoints_strategy)
def test_the_winners_share_nothing_and_each_contest_has_one(endpoints: list[Endpoint]) -> None:
    losses = resolve(endpoints, VTEPS)
    winners = [e for e in endpoints if e.key not in losses]
    claims = [claim for e in winners for claim in (e.mac, *e.ips)]
    assert len(claims) == len(set(claims))
    assert bool(winners) == bool(endpoints)
