"""NextHopsTarget and WayFeed on a real kernel: next hops, their MACs, and what changes them."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest

from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import diff
from dataplane.core.events import Event, Link, NextHopsChanged
from dataplane.core.model import IpAddress, Mac
from dataplane.core.state import State, fold
from dataplane.host.next_hops import NextHopsTarget
from dataplane.netlink import links
from dataplane.netlink.monitor import WayFeed
from dataplane.netlink.netns import Netns
from dataplane.netlink.rtnl import within
from tests.functional.namespaces import ip, name_of, namespace, shown, wait_until
from tests.unit.overlay_builders import GENEVE4, GENEVE6, desired, remote, view

PEER_MAC, NEW_MAC = "02:00:00:00:00:0b", "02:00:00:00:00:0c"
ON_LINK4, ON_LINK6 = ip_address("192.0.2.2"), ip_address("2001:db8::2")
ROUTED4, ROUTED6 = ip_address("198.51.100.9"), ip_address("2001:db8:9::9")
BY_IPV6 = ip_address("203.0.113.9")  # RFC 5549
SILENT, NO_WAY = ip_address("192.0.2.99"), ip_address("2001:db8:ffff::1")
EVERYBODY = (ON_LINK4, ON_LINK6, ROUTED4, ROUTED6, BY_IPV6, SILENT, NO_WAY)


@dataclass
class Node:
    """A namespace with a NIC, another one behind it, and what the agent makes of both."""

    space: Netns
    peer: Netns
    nic: Link
    events: queue.SimpleQueue[Event] = field(default_factory=queue.SimpleQueue)
    bindings: Bindings = field(default_factory=Bindings)

    def __post_init__(self) -> None:
        self.bindings = Bindings(self.nic)
        self.target = NextHopsTarget(self.events.put)

    def look(self, wanted: Desired) -> None:
        """Make the round the agent makes, and fold what is told."""

        def one_round() -> None:
            change = diff(self.target.render(wanted, self.bindings), self.target.observe())
            if change:
                self.target.apply(change)

        self.space.run(one_round)
        with suppress(queue.Empty):
            while True:
                event = self.events.get_nowait()
                assert isinstance(event, NextHopsChanged)
                state = fold(State(wanted.node, bindings=self.bindings), event)
                self.bindings = state.bindings

    def learns(self, wanted: Desired, known: dict[IpAddress, str]) -> bool:
        def is_learnt() -> bool:
            self.look(wanted)
            return self.bindings.next_hops == known

        return wait_until(is_learnt)


@pytest.fixture
def node() -> Iterator[Node]:
    with namespace() as space, namespace() as peer:
        far = ("peer", "name", "far", "address", PEER_MAC, "netns", name_of(peer))
        ip(space, "link", "add", "nic", "type", "veth", *far)
        for where, name, number in ((space, "nic", 1), (peer, "far", 2)):
            ip(where, "link", "set", name, "up")
            ip(where, "address", "add", f"192.0.2.{number}/24", "dev", name)
            ip(where, "address", "add", f"2001:db8::{number}/64", "dev", name, "nodad")
        ip(space, "route", "add", "198.51.100.0/24", "via", str(ON_LINK4))
        ip(space, "route", "add", "2001:db8:9::/64", "via", str(ON_LINK6))
        ip(space, "route", "add", "203.0.113.0/24", "via", "inet6", str(ON_LINK6), "dev", "nic")
        found = within(space, lambda rtnl: links.find(rtnl, "nic"))
        assert found is not None
        yield Node(space, peer, Link("nic", found.ifindex, found.mac, 1500, up=True))


def towards(*vteps: IpAddress) -> Desired:
    return desired(
        *(
            view(segment, (), [remote(n, segment, vtep) for n, vtep in enumerate(vteps)])
            for segment in (GENEVE4, GENEVE6)
        )
    )


def test_next_hops_are_resolved_on_the_link_and_through_routers(node: Node) -> None:
    answering = (ON_LINK4, ON_LINK6, ROUTED4, ROUTED6, BY_IPV6)
    assert node.learns(towards(*EVERYBODY), dict.fromkeys(answering, PEER_MAC))


def test_a_new_mac_is_told_once_the_kernel_knows(node: Node) -> None:
    wanted = towards(ON_LINK4, ROUTED6)
    assert node.learns(wanted, dict.fromkeys((ON_LINK4, ROUTED6), PEER_MAC))
    ip(node.peer, "link", "set", "far", "address", NEW_MAC)
    ip(node.peer, "neigh", "flush", "dev", "far")
    for family, address in (("-4", ON_LINK4), ("-6", ON_LINK6)):
        ip(node.space, family, "neigh", "change", str(address), "dev", "nic", "nud", "failed")
    assert node.learns(wanted, dict.fromkeys((ON_LINK4, ROUTED6), NEW_MAC))


def test_what_is_stale_is_checked(node: Node) -> None:
    assert node.learns(towards(ON_LINK4), {ON_LINK4: PEER_MAC})
    ip(node.space, "neigh", "change", str(ON_LINK4), "dev", "nic", "nud", "stale")
    node.look(towards(ON_LINK4))
    assert not is_in_state(node, "STALE")


def is_in_state(node: Node, state: str) -> bool:
    (found,) = shown(node.space, "neigh", "show", str(ON_LINK4))
    return state in found["state"]


def test_what_does_not_answer_any_more_keeps_its_mac(node: Node) -> None:
    """The peer may be back in a moment; who asks again is the kernel."""
    assert node.learns(towards(ON_LINK4), {ON_LINK4: PEER_MAC})
    ip(node.peer, "link", "set", "far", "down")
    ip(node.space, "neigh", "flush", "dev", "nic")
    node.look(towards(ON_LINK4))
    assert node.bindings.next_hops == {ON_LINK4: Mac(PEER_MAC)}


def test_another_route_is_another_next_hop(node: Node) -> None:
    assert node.learns(towards(ROUTED4), {ROUTED4: PEER_MAC})
    ip(node.space, "neigh", "add", "192.0.2.50", "lladdr", NEW_MAC, "dev", "nic")
    ip(node.space, "route", "replace", "198.51.100.0/24", "via", "192.0.2.50")
    assert node.learns(towards(ROUTED4), {ROUTED4: NEW_MAC})


def test_who_is_no_peer_any_more_is_forgotten(node: Node) -> None:
    assert node.learns(towards(ON_LINK4, ON_LINK6), dict.fromkeys((ON_LINK4, ON_LINK6), PEER_MAC))
    assert node.learns(towards(ON_LINK6), {ON_LINK6: PEER_MAC})


@contextmanager
def hints(space: Netns) -> Iterator[queue.SimpleQueue[float]]:
    told: queue.SimpleQueue[float] = queue.SimpleQueue()
    feed = WayFeed(lambda: told.put(time.monotonic()))
    space.run(lambda: feed.start(lambda _: None))
    try:
        yield told
    finally:
        feed.stop()


@pytest.mark.parametrize(
    "words",
    [
        ("neigh", "add", "192.0.2.9", "lladdr", NEW_MAC, "dev", "nic"),
        ("neigh", "add", "2001:db8::9", "lladdr", NEW_MAC, "dev", "nic"),
        ("route", "add", "10.0.0.0/8", "via", str(ON_LINK4)),
        ("route", "add", "2001:db8:8::/64", "via", str(ON_LINK6)),
    ],
)
def test_a_change_in_the_kernel_is_a_hint_to_look(node: Node, words: tuple[str, ...]) -> None:
    time.sleep(0.2)  # links that have just come up are news, too
    with hints(node.space) as told:
        ip(node.space, *words)
        told.get(timeout=5.0)


def test_a_burst_is_few_hints(node: Node) -> None:
    with hints(node.space) as told:
        for number in range(100, 200):
            ip(node.space, "neigh", "add", f"192.0.2.{number}", "lladdr", NEW_MAC, "dev", "nic")
        time.sleep(0.3)
        assert 0 < told.qsize() < 50
