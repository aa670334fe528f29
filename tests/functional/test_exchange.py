"""Messages of our own making and the kernel here: lists, refusals, what others have at a hook."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import pytest

from dataplane.netlink import exchange, flower, links, switchdev
from dataplane.netlink.actions import Redirect
from dataplane.netlink.exchange import Exchange, Refusal, Request
from dataplane.netlink.flower import ETH_P_ALL, Filter, Listing, Match
from dataplane.netlink.netns import Netns
from dataplane.netlink.rtnl import KernelError
from dataplane.netlink.tc import Slot
from tests.functional.namespaces import ip, name_of, namespace, rtnl_in, run

Result = TypeVar("Result")
RTM_GETLINK = 18
CLSACT_TWICE = Refusal(errno.EEXIST, "Exclusivity flag on, cannot modify")


@pytest.fixture
def space() -> Iterator[Netns]:
    with namespace() as made:
        ip(made, "link", "add", "one", "type", "veth", "peer", "two")
        yield made


def asked(space: Netns, question: Callable[[Exchange], Result]) -> Result:
    def ask() -> Result:
        with Exchange(exchange.kernel_socket, 5, 20) as talking:
            return question(talking)

    return space.run(ask)


def number(space: Netns, name: str) -> int:
    return next(each.ifindex for each in asked(space, switchdev.every) if each.name == name)


def test_netdevs_are_those_that_the_other_way_of_asking_finds(space: Netns) -> None:
    ip(space, "link", "add", "three", "type", "veth", "peer", "four")
    found = {(each.ifindex, each.name, each.kind) for each in asked(space, switchdev.every)}
    with rtnl_in(space) as rtnl:
        assert found == {(each.ifindex, each.name, each.kind) for each in links.every(rtnl)}
    assert {"one", "two", "three", "four"} <= {name for _, name, _ in found}


def test_a_change_is_made_or_refused_in_the_kernel_s_words(space: Netns) -> None:
    hooks = [flower.clsact(number(space, name)) for name in ("one", "two", "one")]
    hooks.append(flower.clsact(9999))
    answers = asked(space, lambda talking: talking.change(hooks, "x"))
    assert answers[:3] == [None, None, CLSACT_TWICE]
    assert answers[3] is not None
    assert answers[3].errno == errno.ENODEV


def test_many_changes_have_each_its_own_answer(space: Netns) -> None:
    """More than fit a packet, and more refusals than a receive buffer would hold."""
    hook = flower.clsact(number(space, "one"))
    answers = asked(space, lambda talking: talking.change([hook] * 1000, "x"))
    assert answers == [None] + [CLSACT_TWICE] * 999


def test_what_others_have_at_a_hook_is_told_by_place_and_kind(space: Netns) -> None:
    words = "tc filter add dev one ingress pref 7 protocol ip u32 match u32 0 0"
    words += " action mirred egress redirect dev two"
    run("ip", "netns", "exec", name_of(space), "tc", "qdisc", "add", "dev", "one", "clsact")
    assert asked(space, lambda talking: flower.listing(talking, number(space, "one"))) == Listing(
        ()
    )
    run("ip", "netns", "exec", name_of(space), *words.split())
    found = asked(space, lambda talking: flower.listing(talking, number(space, "one")))
    assert found.found == ()
    assert {(slot.preference, kind) for slot, kind in found.others.items()} == {(7, "u32")}


def test_no_netdev_and_no_hook_have_no_filters(space: Netns) -> None:
    for ifindex in (9999, number(space, "one")):
        assert asked(space, partial(flower.listing, ifindex=ifindex)) == Listing(())


def test_a_filter_without_a_hook_is_refused(space: Netns) -> None:
    wanted = Filter(Slot(number(space, "one"), 1, 0), ETH_P_ALL, Match(), (Redirect(1),))
    (answer,) = asked(space, lambda talking: talking.change([flower.addition(wanted)], "x"))
    assert answer is not None
    assert "Parent Qdisc doesn't exists" in answer.words


def test_a_question_that_the_kernel_refuses_is_an_error(space: Netns) -> None:
    question = Request(RTM_GETLINK, struct.pack("=BxHiII", 0, 1, 0, 0, 0))
    with pytest.raises(KernelError, match=r"^ask nonsense: Invalid argument \(Invalid values"):
        asked(space, lambda talking: talking.dump(question, "ask nonsense"))
