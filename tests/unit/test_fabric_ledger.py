"""What the agent is told of the fabric: complete, only what it asked for, and nothing in shock."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_network
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.events import FabricChanged
from dataplane.core.floor import SECOND_LOOK_S
from dataplane.core.model import Block, Endpoint, FabricEntity, Grant, Hardware, Node, Pin
from dataplane.core.state import entity_key
from dataplane.fabric.ledger import Ledger
from dataplane.fabric.rows import Stored, Vtep, join, split
from tests.unit.fabric_builders import endpoint, node, segment

BLUE = frozenset({"blue"})
Known = dict[tuple[type, object], FabricEntity]


def ids(values: Iterable[Stored], first: int = 0) -> dict[UUID, Stored | None]:
    return {UUID(int=first + number): value for number, value in enumerate(values)}


def gone(rows: Iterable[UUID]) -> dict[UUID, Stored | None]:
    return dict.fromkeys(rows)


def fold(known: Known, event: FabricChanged) -> Known:
    """Take in an event as the agent does, and complain where it says what cannot be."""
    known = dict(known)
    for entity in event.deletes:
        del known[type(entity), entity_key(entity)]
    for entity in event.upserts:
        key = type(entity), entity_key(entity)
        assert known.get(key) != entity, f"{entity} is told twice"
        known[key] = entity
    return known


def watching(*segments: str) -> Ledger:
    ledger = Ledger("me")
    ledger.watch(frozenset(segments), 0.0)
    return ledger


def test_nodes_come_with_their_vteps() -> None:
    ledger = watching()
    n1 = node("n1", "192.0.2.1", "2001:db8::1")
    rows = ids(split(n1))
    assert ledger.take(dict(list(rows.items())[1:]), 0.0) == FabricChanged()
    assert ledger.take(dict(list(rows.items())[:1]), 0.0) == FabricChanged(upserts=(n1,))
    without_v6 = gone([UUID(int=2)])
    assert ledger.take(without_v6, 0.0).upserts == (node("n1", "192.0.2.1"),)
    assert ledger.take(gone([UUID(int=0)]), 0.0).deletes == (node("n1", "192.0.2.1"),)


def test_only_segments_of_interest_are_told() -> None:
    ledger = watching("blue")
    blue, red = endpoint("n1", 1), endpoint("n1", 2, on="red")
    assert ledger.take(ids([blue, red]), 0.0).upserts == (blue,)
    assert ledger.watch(frozenset({"red"}), 0.0) == FabricChanged((red,), (blue,))
    assert ledger.take(gone([UUID(int=0)]), 0.0) == FabricChanged()
    assert ledger.watch(BLUE | {"red"}, 0.0) == FabricChanged()


def test_pins_of_segments_of_interest_are_told() -> None:
    ledger = watching("blue")
    blue, red = (Pin(name, "default/web/eth0", Hardware.NEVER) for name in ("blue", "red"))
    assert ledger.take(ids([blue, red]), 0.0).upserts == (blue,)
    always = replace(blue, hardware=Hardware.ALWAYS)
    assert ledger.take(ids([always]), 0.0) == FabricChanged(upserts=(always,))
    assert ledger.watch(frozenset({"red"}), 0.0) == FabricChanged((red,), (always,))


def test_a_row_written_anew_is_no_loss() -> None:
    ledger = watching("blue")
    old, new = endpoint("n1", 1), endpoint("n1", 1, sequence=2)
    ledger.take(ids([old]), 0.0)
    change = ledger.take({UUID(int=0): None, UUID(int=9): new}, 0.0)
    assert change == FabricChanged(upserts=(new,))


def test_a_row_that_becomes_another_is_both() -> None:
    ledger = watching("blue")
    grant = Grant("blue", "n1")
    narrow = replace(grant, ips=segment("blue", 1).subnets)
    ledger.take(ids([grant]), 0.0)
    assert ledger.take(ids([narrow]), 0.0) == FabricChanged((narrow,), (grant,))


def test_rows_that_say_the_same_in_other_words_are_one() -> None:
    """10.0.0.0/27 and 10.0.0.0/255.255.255.224: the index of the database compares text."""
    ledger = watching("blue")
    block = Block("blue", ip_network("10.0.0.0/27"), "n1")
    assert ledger.take(ids([block, block, block]), 0.0).upserts == (block,)
    assert ledger.take(gone([UUID(int=2)]), 0.0) == FabricChanged()
    assert ledger.take(gone([UUID(int=0)]), 0.0) == FabricChanged()
    assert ledger.take(gone([UUID(int=1)]), 0.0).deletes == (block,)
    assert ledger.take(ids([block]), 0.0).upserts == (block,)


def crowd(size: int, of: str = "n1") -> dict[UUID, Stored | None]:
    return ids(endpoint(of, number) for number in range(size))


@pytest.mark.parametrize(
    ("rows", "lost", "held"),
    [
        pytest.param(crowd(20), 10, 0, id="ten are everyday"),
        pytest.param(crowd(20), 11, 11, id="eleven of twenty"),
        pytest.param(crowd(100), 20, 0, id="a fifth"),
        pytest.param(crowd(100), 21, 21, id="over a fifth"),
        pytest.param(crowd(100, of="me"), 100, 0, id="our own"),
    ],
)
def test_a_sudden_loss_is_held(rows: dict[UUID, Stored | None], lost: int, held: int) -> None:
    ledger = watching("blue")
    ledger.take(rows, 0.0)
    change = ledger.take(gone(list(rows)[:lost]), 7.0)
    assert len(change.deletes) == lost - held
    assert ledger.second_look == (7.0 + SECOND_LOOK_S if held else None)
    assert len(ledger.look_again().deletes) == held
    assert ledger.second_look is None


def test_all_that_was_lost_in_one_shock_is_held() -> None:
    """An emptied database takes nodes and segments along: they wait with the endpoints."""
    ledger = watching("blue")
    base = ids([*split(node("n1", "192.0.2.1")), segment("blue", 1)], first=1000)
    ledger.take({**base, **crowd(20)}, 0.0)
    change = ledger.take(gone([*base, *crowd(20)]), 0.0)
    assert change.deletes == ()
    assert {type(entity).__name__ for entity in ledger.look_again().deletes} == {
        "Node",
        "Segment",
        "Endpoint",
    }


def test_what_comes_back_before_the_second_look_was_never_lost() -> None:
    ledger = watching("blue")
    rows = crowd(20)
    ledger.take(rows, 0.0)
    ledger.take(gone(rows), 0.0)
    back = dict(list(rows.items())[:15])
    assert ledger.take(back, 1.0) == FabricChanged()
    assert len(ledger.look_again().deletes) == 5


def test_giving_a_segment_up_is_no_shock() -> None:
    ledger = watching("blue")
    ledger.take(crowd(50), 0.0)
    assert len(ledger.watch(frozenset(), 1.0).deletes) == 50
    assert ledger.take(gone(crowd(50)), 1.0) == FabricChanged()
    assert ledger.second_look is None


def test_giving_a_segment_up_ends_its_doubts() -> None:
    ledger = watching("blue")
    ledger.take(crowd(50), 0.0)
    ledger.take(gone(crowd(50)), 0.0)
    assert len(ledger.watch(frozenset(), 1.0).deletes) == 50
    assert ledger.look_again() == FabricChanged()


ROW_IDS = st.integers(0, 30).map(lambda number: UUID(int=number))
ENDPOINTS = st.builds(
    endpoint,
    st.sampled_from(["n1", "n2", "me"]),
    st.integers(0, 30),
    st.sampled_from(["blue", "red"]),
    st.integers(0, 2),
)
NODES = st.builds(node, st.sampled_from(["n1", "n2"]))
VTEPS = st.sampled_from([split(node(name, "192.0.2.1"))[1] for name in ("n1", "n2")])
STEPS = st.lists(
    st.one_of(
        st.frozensets(st.sampled_from(["blue", "red"])),
        st.dictionaries(ROW_IDS, st.none() | ENDPOINTS | NODES | VTEPS, max_size=25),
        st.just("look"),
    ),
    max_size=25,
)


def consistent(rows: Mapping[UUID, Stored]) -> bool:
    """Say whether a database with our indexes could hold these rows."""
    names = [
        (type(row), row.address if isinstance(row, Vtep) else entity_key(row))
        for row in rows.values()
    ]
    return len(names) == len(set(names))


def visible(rows: Mapping[UUID, Stored], interest: frozenset[str]) -> Known:
    vteps = [row for row in rows.values() if isinstance(row, Vtep)]
    known: Known = {}
    for row in rows.values():
        if isinstance(row, Node):
            known[Node, row.name] = join(row, vteps)
        elif isinstance(row, Endpoint) and row.segment in interest:
            known[Endpoint, entity_key(row)] = row
    return known


@given(STEPS)
def test_whatever_happens_the_agent_knows_what_is_there(
    steps: list[frozenset[str] | dict[UUID, Stored | None] | str],
) -> None:
    ledger = Ledger("me")
    rows: dict[UUID, Stored] = {}
    interest: frozenset[str] = frozenset()
    known: Known = {}
    for step in steps:
        if isinstance(step, frozenset):
            interest = step
            known = fold(known, ledger.watch(interest, 0.0))
        elif isinstance(step, dict):
            after = {k: v for k, v in (rows | step).items() if v is not None}
            if not consistent(after):
                continue
            rows = after
            known = fold(known, ledger.take(step, 0.0))
        else:
            known = fold(known, ledger.look_again())
        there = visible(rows, interest)
        assert known.items() >= there.items()
        assert known == there or ledger.second_look is not None
    assert fold(known, ledger.look_again()) == visible(rows, interest)
