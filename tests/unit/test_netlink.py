"""The parts of dataplane.netlink that need no kernel: the bytes, and what the link feed tells."""

from __future__ import annotations

import struct
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.events import Link, LinkChanged
from dataplane.netlink.monitor import LinkEvent, LinkTable
from dataplane.netlink.rtnl import (
    Message,
    attribute,
    nested,
    parse_attributes,
    parse_messages,
    read_text,
    read_u32,
    text,
    u32,
)

PAYLOADS = st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=40), max_size=8)


@given(PAYLOADS)
def test_attributes_survive_the_wire(payloads: dict[int, bytes]) -> None:
    data = b"".join(attribute(kind, payload) for kind, payload in payloads.items())
    assert len(data) % 4 == 0
    assert parse_attributes(data) == payloads
    assert parse_attributes(b"head" + data, 4) == payloads
    assert parse_attributes(parse_attributes(nested(7, data))[7]) == payloads


@given(st.binary(max_size=64))
def test_garbage_ends_the_parsing(data: bytes) -> None:
    assert sum(len(payload) for payload in parse_attributes(data).values()) <= len(data)
    assert sum(len(message.body) for message in parse_messages(data)) <= len(data)


def test_attribute_bytes_are_those_of_the_kernel_header() -> None:
    """Struct nlattr: length with header, type; padded to four bytes (linux/netlink.h)."""
    assert text(3, "eth0") == struct.pack("=HH", 9, 3) + b"eth0\0" + bytes(3)
    assert u32(4, 1500) == struct.pack("=HHI", 8, 4, 1500)
    assert nested(18, b"abcd") == struct.pack("=HH", 8, 0x8000 | 18) + b"abcd"
    assert read_text(b"eth0\0\0\0") == "eth0"
    assert read_u32(struct.pack("=I", 7) + b"rest") == 7


def test_messages_of_one_datagram_are_told_apart() -> None:
    first = struct.pack("=IHHII", 19, 16, 2, 5, 0) + b"abc" + b"\0"  # three bytes, padded
    second = struct.pack("=IHHII", 16, 3, 0, 5, 0)
    assert list(parse_messages(first + second)) == [
        Message(16, b"abc", flags=2, sequence=5),
        Message(3, b"", flags=0, sequence=5),
    ]


def link(ifindex: int, name: str, mtu: int = 1500) -> Link:
    return Link(name, ifindex, "02:00:00:00:00:01", mtu, up=True)


@st.composite
def worlds(draw: st.DrawFn) -> dict[int, Link]:
    names = draw(st.lists(st.sampled_from("abcd"), unique=True))
    numbers = draw(st.lists(st.integers(1, 6), unique=True, min_size=len(names), max_size=9))
    mtus = st.sampled_from((1400, 1500))
    return {
        number: link(number, name, draw(mtus)) for number, name in zip(numbers, names, strict=False)
    }


def replay(told: dict[str, Link], news: tuple[LinkEvent, ...]) -> None:
    for event in news:
        if isinstance(event, LinkChanged):
            assert told.get(event.link.name) != event.link, "told twice"
            told[event.link.name] = event.link
        else:
            del told[event.name]  # KeyError: gone, but never told


@given(st.lists(st.tuples(worlds(), st.booleans(), st.randoms(use_true_random=False))))
def test_what_is_told_adds_up_to_what_exists(
    steps: list[tuple[dict[int, Link], bool, Random]],
) -> None:
    """Links come, go, change, swap names and take each other's, in any order of the news."""
    table, told = LinkTable(), dict[str, Link]()
    before: dict[int, Link] = {}
    for world, lost, random in steps:
        places = [place for place in {*before, *world} if before.get(place) != world.get(place)]
        random.shuffle(places)
        if lost:
            replay(told, table.sync(world))
        else:
            replay(told, table.update({place: world.get(place) for place in places}))
        assert told == {each.name: each for each in world.values()}
        before = world


@pytest.mark.parametrize("order", [(5, 9), (9, 5)], ids=["old-first", "new-first"])
def test_name_that_is_taken_over_is_never_gone_in_the_end(order: tuple[int, int]) -> None:
    table = LinkTable()
    table.sync({5: link(5, "vp1")})
    now = {5: None, 9: link(9, "vp1")}
    news = table.update({place: now[place] for place in order})
    assert news[-1] == LinkChanged(link(9, "vp1"))
