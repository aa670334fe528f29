"""The emulated SX904's kernel half beside a real kernel's tc: the same bytes, the same answers.

This runs inside the virtual machine alone: few other kernels have cls_flower. Filters are for
software only (skip_hw), since no netdev here takes any.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.functional.namespaces import ip, namespace
from tests.unit.rtnl_by_hand import (
    ACK,
    DELQDISC,
    DELTFILTER,
    DONE,
    GETTFILTER,
    IPV4,
    IPV6,
    REQUEST,
    SKIP_HW,
    SKIP_SW,
    Answer,
    Shown,
    actions,
    answers,
    attributes,
    clsact,
    dump,
    flags,
    gact,
    keys,
    new_filter,
    one_filter,
    shown,
    tunnel_set,
)
from tests.unit.sx904_card import GENEVE_DEVICE, REP0, REP1, VXLAN_DEVICE, HandCard
from tests.unit.sx904_requests import (
    BY_THE_KERNEL,
    IN,
    LOCAL,
    MATCH,
    SHOT,
    THERE,
    TO_GENEVE,
    TO_REP1,
)

NETLINK_EXT_ACK = 11  # linux/netlink.h
SOL_NETLINK = 270
NETDEVS = (
    "add index 2 name eth0 type veth peer index 102 name x2",
    "add index 3 name rep0 type veth peer index 103 name x3",
    "add index 4 name rep1 type veth peer index 104 name x4",
    "add index 5 name genev_sys_6081 type geneve dstport 6081 external",
    "add index 6 name vxlan_sys_4789 type vxlan dstport 4789 external",
)
# What a real kernel has more of than a card's emulation, and what it has from 6.4 on.
OTHERWISE = frozenset(
    {"in a chain", "at the egress", "another kind", "another qdisc", "a request for routes"}
    | {"a dump of routes", "no_frag with a value"}
)
NUMBERS = (REP0, REP1, GENEVE_DEVICE, VXLAN_DEVICE)
SOFT = flags(SKIP_SW)  # what ``softly`` changes
HOOKS = tuple(map(clsact, NUMBERS))


def softly(request: bytes) -> bytes:
    """Return a request whose filters are for software."""
    return request.replace(SOFT, flags(SKIP_HW))


class Kernel:
    """The real one, by a socket of NETLINK_ROUTE."""

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened

    def send(self, request: bytes) -> list[Answer]:
        """Return what answers a request, up to its ack or the end of its dump."""
        self.socket.send(request)
        found: list[Answer] = []
        while not found or found[-1].kind not in (2, DONE):
            found += answers([self.socket.recv(1 << 16)])
        return found


@pytest.fixture(scope="module")
def netdevs() -> Iterator[Kernel]:
    """Provide a kernel with the netdevs of a card."""
    with namespace() as space:
        for words in NETDEVS:
            ip(space, "link", *words.split())
        made = space.run(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0))
        with made:
            made.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)
            made.settimeout(10)
            yield Kernel(made)


@pytest.fixture
def kernel(netdevs: Kernel) -> Kernel:
    """Provide the kernel with clsact at every netdev but the uplink, and one filter."""
    for number in NUMBERS:
        netdevs.send(clsact(number, DELQDISC, REQUEST | ACK))
    for request in (*HOOKS, softly(THERE)):
        (answer,) = netdevs.send(request)
        assert answer.error == 0, answer.words
    return netdevs


@pytest.fixture
def card() -> HandCard:
    """Provide an emulated card with the same."""
    made = HandCard(tunnels=True)
    made.do(*HOOKS, softly(THERE))
    return made


@pytest.mark.parametrize(
    "request_",
    [pytest.param(softly(x[1]), id=x[0]) for x in BY_THE_KERNEL if x[0] not in OTHERWISE],
)
def test_it_refuses_what_the_kernel_refuses(
    kernel: Kernel, card: HandCard, request_: bytes
) -> None:
    real, ours = kernel.send(request_)[-1], card.ask(request_)
    assert (ours.error, ours.words) == (real.error, real.words)


def tidied(each: Shown) -> object:
    """Return a filter without numbers of actions, times and counters."""
    options = {n: v for n, v in each.options.items() if n != 3}
    acts = []
    for one in each.actions:
        body = {n: v for n, v in attributes(one[2]).items() if n != 1}
        body[2] = body[2][4:]
        acts.append((one[1], one.get(6), body))
    return each.ifindex, each.handle, each.pref, each.protocol, options, acts


PLAIN = tunnel_set("192.0.2.1", "192.0.2.77", 5, port=6082, tos=4, no_frag=False)
NO_CSUM = tunnel_set("192.0.2.1", "192.0.2.77", 5, no_csum=0, ttl=0, no_frag=False)
LONG = keys(eth_type=0x86DD, ip_proto=17, ipv6_src=("fd00::", "ffff::"), udp_dst=(80, 0xFFF0))
TAKEN = {
    "local": (REP0, LOCAL, IPV4),
    "out": (REP0, MATCH + actions(PLAIN, TO_GENEVE) + SOFT, IPV4),
    "in": (GENEVE_DEVICE, IN, IPV6),
    "drop": (REP0, MATCH + actions(gact(SHOT)) + SOFT, IPV4),
    "header without anything": (REP0, MATCH + actions(NO_CSUM, TO_GENEVE) + SOFT, IPV4),
    "many keys": (REP0, LONG + keys(ip_tos=(4, 252)) + actions(TO_REP1) + SOFT, IPV6),
    "keys that do not count": (
        REP0,
        MATCH + keys(tcp_dst=5, ip_ttl=(5, 255)) + SOFT,
        IPV4,
    ),
    "a mask of zeros": (
        REP0,
        MATCH + keys(ipv4_src=("10.0.0.1", "0.0.0.0")) + SOFT,
        IPV4,
    ),
}


@pytest.mark.parametrize(("at", "options", "protocol"), TAKEN.values(), ids=TAKEN)
def test_it_tells_a_filter_as_the_kernel_does(
    kernel: Kernel, card: HandCard, at: int, options: bytes, protocol: int
) -> None:
    request = softly(new_filter(at, options, protocol=protocol, pref=9))
    assert kernel.send(request)[-1].error == card.ask(request).error == 0
    found = []
    for each in (kernel.send, card.send):
        one, *_ = each(one_filter(GETTFILTER, at, 9, 1, protocol=protocol))
        parts = [shown(part) for part in each(dump(GETTFILTER, at)) if part.kind != DONE]
        heads = [(part.pref, part.handle, bool(part.options)) for part in parts]
        found.append((tidied(shown(one)), heads, [tidied(p) for p in parts if p.handle]))
    assert found[0] == found[1]


def test_prefs_and_handles_are_given_alike(kernel: Kernel, card: HandCard) -> None:
    macs = [f"02:00:00:00:02:{number:02x}" for number in range(4)]
    made = [
        softly(new_filter(REP0, keys(eth_dst=mac) + actions(TO_REP1) + SOFT, pref=pref))
        for mac, pref in zip(macs, (0, 0, 9, 9), strict=True)
    ]
    steps = [
        *made,
        one_filter(DELTFILTER, REP0, 9, 1),
        softly(new_filter(REP0, LOCAL, pref=9)),
        softly(new_filter(REP0, LOCAL, pref=9, handle=2, how=REQUEST | ACK)),
        one_filter(DELTFILTER, REP0, 49152, protocol=0),
        one_filter(DELTFILTER, REP0, 5, protocol=IPV4),
    ]
    for step in steps:
        real, ours = kernel.send(step)[-1], card.ask(step)
        assert (ours.error, ours.words) == (real.error, real.words)
        shows = [
            [(x.pref, x.handle) for x in map(shown, each(dump(GETTFILTER, REP0))[:-1])]
            for each in (kernel.send, card.send)
        ]
        assert shows[0] == shows[1]


def test_a_flush_of_all(kernel: Kernel, card: HandCard) -> None:
    for step in (one_filter(DELTFILTER, REP0, 0, protocol=0), softly(THERE)):
        assert kernel.send(step)[-1].error == card.ask(step).error == 0
