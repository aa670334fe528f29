"""The frames that paths are compared on: every kind, marked, small enough, the same again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, ICMPv6ND_NA, ICMPv6ND_NS
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from dataplane.core.addressing import eui64_link_local
from dataplane.core.agreement import Question
from dataplane.core.capability import Departure
from dataplane.core.corpus import MAX_PAIRS, Choice, Draw, corpus
from dataplane.core.desired import Desired, PortState, SegmentView
from dataplane.core.frames import ip_ends, parse_tunnel
from dataplane.core.model import EntryKey
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MTU,
    NIC,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    desired,
    mac_of,
    port,
    remote,
    view,
)

SEGMENTS = (GENEVE4, GENEVE6, VXLAN4, VXLAN6)
NONE = Draw(0, "seed", b"salt")
KINDS = {
    *("TCP over IPv4", "ping over IPv6", "UDP over IPv4, ECN 3", "UDP over IPv6, TTL 1"),
    *("first fragment over IPv4", "fragment over IPv6", "options over IPv4", "too large"),
    *("a length beyond the end over IPv4", "to an unknown MAC", "broadcast", "VLAN tag 5"),
    *("no IP", "ARP request to all", "ARP probe", "ND solicitation to one", "from a false MAC"),
    *("from a false address", "ARP with a false MAC", "ND for another's address"),
    *("unknown VTEP", "unknown VNI", "ECN 3 outside, 0 inside IPv4", "not to this node"),
}


def pair(segment: object = GENEVE4) -> SegmentView:
    assert segment in SEGMENTS
    found = next(each for each in SEGMENTS if each == segment)
    vtep = (VTEP4 if found.underlay == "ipv4" else VTEP6)[0]
    return view(found, [port(1, found), port(2, found)], [remote(4, found, vtep)])


def asked(state: Desired, draw: Draw = NONE, choice: Choice | None = None) -> list[Question]:
    return list(corpus(state, NIC, draw, choice or Choice()).questions)


def kind_of(question: Question) -> str:
    return question.name.rpartition(", ")[0]


@pytest.mark.parametrize("segment", SEGMENTS, ids=lambda s: s.name)
def test_every_kind_is_there_marked_and_small_enough(segment: object) -> None:
    found = asked(desired(pair(segment)))
    assert {kind_of(each) for each in found} >= KINDS
    marks = Counter(each.mark for each in found)
    assert set(marks.values()) == {1}
    for each in found:
        assert each.mark in each.frame
        assert 14 <= len(each.frame) <= NIC.mtu + 14
    assert sum(not each.sound for each in found) >= 2
    assert all(each.entry is None for each in found if not each.sound)
    large = [each for each in found if not each.fits]
    assert large
    assert all(len(each.frame) > MTU + 14 for each in large)


@pytest.mark.parametrize("segment", SEGMENTS, ids=lambda s: s.name)
def test_excuses_are_of_the_frames_that_they_are_about(segment: object) -> None:
    found = [(each, each.excuse) for each in asked(desired(pair(segment))) if each.excuse]
    about = {departure: set[str]() for departure in Departure}
    for each, excuse in found:
        about[excuse.departure].add(kind_of(each).removesuffix(", from the wire").rstrip("46"))
        assert each.mark in excuse.frame
        assert each.sound
        assert excuse.departure is Departure.FRAME_SIZE or len(excuse.frame) == len(each.frame)
    assert about.pop(Departure.OUTER_ECN) == {
        f"ECN {outer} outside, {inner} inside IPv" for outer in range(4) for inner in range(4)
    }
    assert about == {
        Departure.ND_ANSWERS: {"ND solicitation to one", "ND with a false MAC"},
        Departure.FRAME_SIZE: {"too large"},
        Departure.LENGTHS: {"a length beyond the end over IPv"},
        Departure.OUTER_TARGET: {"not to this node"},
    }
    for each, excuse in found:
        assert not each.fits or excuse.departure is not Departure.FRAME_SIZE
        one, other = parse_tunnel(each.frame), parse_tunnel(excuse.frame)
        if one and other:
            ends = (one.tunnel.target, one.ecn) == (other.tunnel.target, other.ecn)
            assert one.inner == other.inner
            assert ends == (excuse.departure is Departure.OUTER_ECN and not one.ecn)


@pytest.mark.parametrize("segment", SEGMENTS, ids=lambda s: s.name)
def test_harmless_is_only_what_claims_nothing(segment: object) -> None:
    ports = {f"vp{number}": port(number, GENEVE4).attachment for number in (1, 2)}
    found = [each for each in asked(desired(pair(segment)), Draw(200, "x", b"")) if each.harmless]
    kinds = {kind_of(each).rpartition(" over ")[0] or kind_of(each) for each in found}
    assert kinds == {"TCP", "ping", "UDP", "the largest"}
    assert {kind_of(each).partition(", ")[2] for each in found} == {
        *("", "ECN 1", "ECN 2", "ECN 3", "DSCP 46", "TTL 1", "TTL 255"),
    }
    for each in found:
        assert each.entry is not None
        sender = ports[each.entry.access_port]
        assert (each.sound, each.fits, each.excuse) == (True, True, None)
        assert each.about is not None
        assert each.frame[:12].hex(":", 1) == f"{each.about.mac}:{sender.mac}"
        own = {ip.packed for ip in (*sender.ips, eui64_link_local(sender.mac))}
        assert ip_ends(each.frame)[0] in own
        what = Ether(each.frame)
        assert not [layer for layer in (ARP, ICMPv6ND_NS, ICMPv6ND_NA) if layer in what]
        assert draws_no_more_than_one_answer(what)


def test_the_largest_is_as_large_as_its_own_pod_may_send() -> None:
    small = pair()
    one, other = small.ports
    state = desired(replace(small, ports=(replace(one, mtu=MTU - 100), other)))
    largest = [each for each in asked(state) if each.name.startswith("the largest")]
    sizes = {(each.entry.access_port if each.entry else "", len(each.frame)) for each in largest}
    senders = {name: size - 14 for name, size in sizes if name}
    assert senders == {"vp1": MTU - 100, "vp2": MTU}
    assert any(size > MTU + 14 for name, size in sizes if not name)  # from the wire, in a tunnel


def draws_no_more_than_one_answer(what: Packet) -> bool:
    """Say whether the sender has nothing to answer to what it may get for that."""
    if UDP in what:
        return bool(what[UDP].dport == 9)
    if TCP in what:
        return bool(what[TCP].flags == "R")
    return bool(ICMPv6EchoRequest in what or what[ICMP].type == 8)


def test_from_the_wire_comes_what_another_node_sends() -> None:
    found = [each for each in asked(desired(pair())) if each.entry is None and each.sound]
    packets = [packet for each in found if (packet := parse_tunnel(each.frame))]
    assert len(packets) > 40
    assert {each.inner[:6].hex(":") for each in packets} >= {mac_of(1), mac_of(2)}


def test_another_salt_changes_nothing_but_marks_and_another_seed_what_is_drawn() -> None:
    def bare(draw: Draw) -> list[tuple[str, int]]:
        return [(each.name, len(each.frame)) for each in asked(desired(pair()), draw)]

    first = bare(Draw(50, "seed", b"salt"))
    assert first == bare(Draw(50, "seed", b"other"))
    assert first != bare(Draw(50, "other", b"salt"))
    assert len(first) == len(bare(NONE)) + 50


def test_one_segment_can_be_chosen() -> None:
    both = desired(pair(GENEVE4), pair(VXLAN6))
    assert len(asked(both)) > len(asked(both, choice=Choice("geneve4"))) > 0
    assert asked(both, choice=Choice("nosuch")) == []


def test_what_is_in_the_switch_gets_the_whole_corpus() -> None:
    """Of several endpoints beyond the wire the placed one is looked at closely."""
    far = [remote(number, GENEVE4, VTEP4[0]) for number in (4, 5, 6)]
    state = desired(view(GENEVE4, [port(1, GENEVE4)], far))
    placed = frozenset({EntryKey(GENEVE4.vni, mac_of(5))})
    found = [e.name for e in asked(state, choice=Choice(placed=placed)) if "too large" in e.name]
    assert found == [f"too large, {mac_of(1)} to {mac_of(5)} of geneve4"]


def test_a_blocked_port_and_a_lonely_one_are_not_asked() -> None:
    blocked = port(1, GENEVE4, state=PortState.BLOCKED)
    assert asked(desired(view(GENEVE4, [blocked], [remote(4, GENEVE4, VTEP4[0])]))) == []
    assert asked(desired(view(GENEVE4, [port(1, GENEVE4)]))) == []


def test_a_large_segment_is_cut_short_and_that_is_said() -> None:
    far = [remote(number, GENEVE4, VTEP4[0]) for number in range(300, 300 + MAX_PAIRS)]
    ports = [port(1, GENEVE4), port(2, GENEVE4)]
    found = corpus(desired(view(GENEVE4, ports, far)), NIC, NONE, Choice())
    assert found.left_out == 2 * MAX_PAIRS + 2 - MAX_PAIRS
    assert len(found.questions) < 10 * MAX_PAIRS


@settings(deadline=None)
@given(
    packets=st.integers(0, 40),
    seed=st.text(max_size=8),
    segment=st.sampled_from(SEGMENTS),
    has_addresses=st.booleans(),
)
def test_whatever_is_drawn_is_marked(
    packets: int, seed: str, segment: object, *, has_addresses: bool
) -> None:
    found = pair(segment)
    if not has_addresses:
        found = replace(
            found,
            ports=tuple(replace(p, attachment=replace(p.attachment, ips=())) for p in found.ports),
        )
    drawn = asked(desired(found), Draw(packets, seed, b"salt"))[-packets or None :]
    for each in drawn:
        assert each.mark in each.frame
        assert len(each.frame) <= NIC.mtu + 14
