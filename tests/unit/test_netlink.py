"""The parts of dataplane.netlink that need no kernel: what is decoded, and what the feed tells."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from dataplane.core.events import Link, LinksChanged
from dataplane.netlink import messages
from dataplane.netlink.messages import attributes, text
from dataplane.netlink.monitor import LinkTable

READ = {"IFLA_MTU", "IFLA_LINK", "IFLA_GROUP"}
U32 = st.integers(0, 2**32 - 1)
NAMES = st.sampled_from(
    ("IFLA_MTU", "IFLA_TXQLEN", "IFLA_LINK", "IFLA_NUM_TX_QUEUES", "IFLA_GROUP", "IFLA_MAX_MTU")
)
HARDWARE = st.binary(min_size=6, max_size=6).map(lambda mac: mac.hex(":"))


@given(st.dictionaries(NAMES, U32), HARDWARE, st.text("äbc ", max_size=9), st.integers(0, 9))
def test_netdev_message_holds_what_is_read_and_nothing_else(
    numbers: dict[str, int], mac: str, alias: str, before: int
) -> None:
    """Encoded by pyroute2's own message of that kind, anywhere in a datagram."""
    sent = ifinfmsg()
    sent.update(index=7, flags=1)
    sent["attrs"] = [
        *numbers.items(),
        ("IFLA_ADDRESS", mac),
        ("IFLA_QDISC", "noqueue"),
        ("IFLA_IFALIAS", alias),
    ]
    sent.encode()
    start = before * 4
    received = messages.Link(bytes(start) + bytes(sent.data) + bytes(start), offset=start)
    received.decode()
    found = attributes(received)
    assert (received["index"], received["flags"]) == (7, 1)
    assert (found.pop("IFLA_ADDRESS"), text(found.pop("IFLA_IFALIAS"))) == (mac, alias)
    assert found == {name: value for name, value in numbers.items() if name in READ}


@given(st.binary(max_size=64))
@example(bytes(8))
def test_garbage_ends_the_decoding(garbage: bytes) -> None:
    sent = ifinfmsg()
    sent.encode()
    length = (len(sent.data) + len(garbage)).to_bytes(4, "little")
    received: Any = messages.Link(length + bytes(sent.data[4:]) + garbage)
    received.decode()
    assert len(received["attrs"]) <= len(garbage) // 4


def test_text_that_is_no_utf8_is_still_text() -> None:
    assert text(b"a\xff\0b") == "a\ufffd"


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


def replay(told: dict[str, Link], news: LinksChanged) -> None:
    for name in news.gone:
        del told[name]  # KeyError: gone, but never told
    for each in news.links:
        assert told.get(each.name) != each, "told twice"
        told[each.name] = each


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
    assert news == LinksChanged((link(9, "vp1"),))
