"""The emulated SX904's kernel and driver: what they take, refuse, with which words, and tell."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.rtnl_by_hand import (
    ACK,
    ALL,
    CREATE,
    DELQDISC,
    DELTFILTER,
    DONE,
    DUMP,
    ERROR,
    GETLINK,
    GETQDISC,
    GETTFILTER,
    IN_HW,
    IPV4,
    IPV6,
    NEWLINK,
    NEWTFILTER,
    NOT_IN_HW,
    REPLACE,
    REQUEST,
    SKIP_HW,
    SKIP_SW,
    VERBOSE,
    actions,
    answers,
    attr,
    attributes,
    clsact,
    dump,
    flags,
    gact,
    keys,
    message,
    mirred,
    new_filter,
    one_filter,
    shown,
    tcm,
)
from tests.unit.sx904_card import (
    GENEVE_DEVICE,
    NOBODY,
    REP0,
    REP1,
    UPLINK,
    VXLAN_DEVICE,
    HandCard,
    hand_card,
)
from tests.unit.sx904_requests import (
    ACTION,
    BY_THE_DRIVER,
    BY_THE_KERNEL,
    HARD,
    IN,
    LOCAL,
    MATCH,
    NOT_FOUND,
    OK,
    OUT,
    SET,
    SHOT,
    THERE,
    TO_GENEVE,
    TO_REP1,
    A,
    B,
    C,
    done,
    filter_message,
    local,
)
from vendors.emulator.sx904.rtnetlink import answer

REFUSED = BY_THE_KERNEL + BY_THE_DRIVER


@pytest.fixture
def card() -> HandCard:
    """Provide a card with one filter, at pref 5."""
    made = hand_card()
    made.do(THERE)
    return made


@pytest.mark.parametrize(
    ("sent", "number", "words"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED]
)
def test_what_is_refused_leaves_nothing(
    card: HandCard, sent: bytes, number: int, words: str
) -> None:
    def state() -> list[object]:
        at = (REP0, REP1, GENEVE_DEVICE)
        return [card.dump(dump(GETQDISC)), *(card.dump(dump(GETTFILTER, each)) for each in at)]

    before = state()
    found = card.ask(sent)
    assert (found.error, found.words) == (number, words)
    assert found.body[4 : 4 + len(sent)] == sent
    assert state() == before


@pytest.mark.parametrize("options", [LOCAL, OUT, done(gact(SHOT))], ids=["local", "out", "drop"])
def test_a_filter_is_read_back_as_it_was_written(card: HandCard, options: bytes) -> None:
    card.do(new_filter(REP0, options, pref=10, handle=0x77))
    found = next(each for each in card.filters(REP0) if each.pref == 10)
    assert (found.handle, found.protocol, found.flags) == (0x77, ALL, SKIP_SW | IN_HW)
    written = attributes(options)
    assert {n: v for n, v in found.options.items() if n not in (3, 5, 22, 86)} == {
        n: v for n, v in written.items() if n not in (3, 22)
    }
    assert found.options[5] == b"\xff" * 6  # the mask that was not given is all ones
    assert found.options[86] == struct.pack("=I", 1)
    for seen, each in zip(found.actions, attributes(written[3]).values(), strict=True):
        sent = attributes(each)
        assert seen[1] == sent[1]
        told, asked = attributes(seen[2]), attributes(sent[2])
        assert told[2][12:] == struct.pack("=ii", 1, 1) + asked[2][20:]
        assert {n: v for n, v in told.items() if n not in (1, 2)} == {
            n: v for n, v in asked.items() if n != 2
        }


def test_a_key_without_mask_is_not_shown(card: HandCard) -> None:
    card.do(new_filter(REP0, local(keys(ipv4_src=("10.0.0.1", "0.0.0.0"))), pref=9))
    assert not {10, 11} & card.filters(REP0)[1].options.keys()


def test_one_filter_is_shown_as_in_a_dump(card: HandCard) -> None:
    [shown_one, ack] = card.send(one_filter(GETTFILTER, REP0, 5, 1))
    assert (shown_one.sequence, shown_one.flags, ack.error) == (7, 0, 0)
    assert shown(shown_one) == card.filters(REP0)[0]


def test_a_dump_is_of_one_netdev_and_has_a_head_for_each_pref(card: HandCard) -> None:
    card.do(new_filter(REP0, LOCAL, pref=9), new_filter(REP1, LOCAL, pref=9))
    found = [shown(each) for each in card.dump(dump(GETTFILTER, REP0))]
    assert [(each.pref, each.handle) for each in found] == [(5, 0), (5, 1), (9, 0), (9, 1)]
    assert [bool(each.options) for each in found] == [False, True] * 2
    for ifindex in (UPLINK, NOBODY):
        assert card.dump(dump(GETTFILTER, ifindex)) == []


def test_a_dump_comes_in_parts(card: HandCard) -> None:
    for number in range(500):
        match = keys(eth_dst=(1 << 32 | number).to_bytes(6))
        card.do(new_filter(REP0, match + actions(TO_REP1) + HARD, pref=10))
    packets = list(answer(card.card, dump(GETTFILTER, REP0), 5))
    assert len(packets) > 2
    assert max(map(len, packets)) <= 1 << 15
    found = list(answers(packets))
    assert all(each.flags & 0x2 for each in found)
    assert [each.kind for each in found] == [NEWTFILTER] * 503 + [DONE]


def test_netdevs_say_what_they_are(card: HandCard) -> None:
    found = {}
    for each in card.dump(dump(GETLINK)):
        assert each.kind == NEWLINK
        seen = attributes(each.body[16:])
        found[struct.unpack_from("=i", each.body, 4)[0]] = seen
    assert {n: seen[3] for n, seen in found.items()} == {
        UPLINK: b"eth0\0",
        REP0: b"rep0\0",
        REP1: b"rep1\0",
        GENEVE_DEVICE: b"genev_sys_6081\0",
        VXLAN_DEVICE: b"vxlan_sys_4789\0",
    }
    ports = {n: seen.get(38) for n, seen in found.items()}
    assert ports == {
        UPLINK: b"p0\0",
        REP0: b"pf0vf0\0",
        REP1: b"pf0vf1\0",
        GENEVE_DEVICE: None,
        VXLAN_DEVICE: None,
    }
    assert found[UPLINK][36] == found[REP0][36] == found[REP1][36]
    info = {n: attributes(found[n][18]) for n in (GENEVE_DEVICE, VXLAN_DEVICE)}
    assert [info[n][1] for n in info] == [b"geneve\0", b"vxlan\0"]
    assert attributes(info[GENEVE_DEVICE][2]) == {5: (6081).to_bytes(2), 8: b""}
    assert attributes(info[VXLAN_DEVICE][2]) == {15: (4789).to_bytes(2), 25: b"\1"}


@pytest.mark.parametrize(
    "body",
    [struct.pack("=BxHiII", 0, 0, REP1, 0, 0), bytes(16) + attr(3, b"rep1\0")],
    ids=["by number", "by name"],
)
def test_one_netdev(card: HandCard, body: bytes) -> None:
    found = card.ask(message(GETLINK, REQUEST, body))
    assert (found.kind, attributes(found.body[16:])[3]) == (NEWLINK, b"rep1\0")


class TestPrefs:
    def test_one_has_one_protocol(self, card: HandCard) -> None:
        found = card.ask(new_filter(REP0, LOCAL, pref=5, protocol=IPV4))
        assert (found.error, found.words) == (errno.EINVAL, NOT_FOUND)
        card.do(new_filter(REP0, LOCAL, pref=6, protocol=IPV4))

    def test_none_given(self, card: HandCard) -> None:
        card.do(new_filter(REP0, LOCAL, pref=0), new_filter(REP0, OUT_TO_A, pref=0))
        assert [each.pref for each in card.filters(REP0)] == [5, 49151, 49152]

    def test_all_of_one_go_and_all_of_all(self, card: HandCard) -> None:
        card.do(new_filter(REP0, LOCAL, pref=9), new_filter(REP0, OUT_TO_A, pref=9))
        card.do(new_filter(REP0, keys(eth_src=A) + actions(gact(SHOT)) + HARD, pref=10))
        card.do(one_filter(DELTFILTER, REP0, 9))
        assert [each.pref for each in card.filters(REP0)] == [5, 10]
        card.do(one_filter(DELTFILTER, REP0, 0, protocol=0))
        assert card.filters(REP0) == []
        card.do(one_filter(DELTFILTER, REP0, 0, protocol=0), THERE)

    def test_of_another_kind(self, card: HandCard) -> None:
        found = card.ask(filter_message(5 << 16 | ALL, attr(1, b"u32\0"), attr(2, LOCAL)))
        words = "Specified filter kind does not match existing one"
        assert (found.error, found.words) == (errno.EINVAL, words)


OUT_TO_A = keys(eth_dst=A) + actions(SET, TO_GENEVE) + HARD


class TestHandles:
    def test_the_lowest_that_is_free_is_given(self, card: HandCard) -> None:
        card.do(new_filter(REP0, OUT_TO_A, pref=5), one_filter(DELTFILTER, REP0, 5, 1))
        card.do(new_filter(REP0, LOCAL, pref=5))
        assert sorted(each.handle for each in card.filters(REP0)) == [1, 2]

    def test_one_that_is_there(self, card: HandCard) -> None:
        found = card.ask(new_filter(REP0, LOCAL, pref=5, handle=1))
        assert (found.error, found.words) == (errno.EEXIST, "Filter already exists")

    def test_the_same_match_in_one_pref(self, card: HandCard) -> None:
        other = keys(eth_dst=C) + actions(TO_REP1) + HARD
        found = card.ask(new_filter(REP0, other, pref=5))
        assert (found.error, found.words) == (errno.EEXIST, "")

    def test_the_same_match_in_another_pref_is_the_drivers_matter(self, card: HandCard) -> None:
        other = keys(eth_dst=C) + actions(TO_REP1) + HARD
        found = card.ask(new_filter(REP0, other, pref=6))
        words = "ice: Unable to add filter because it already exist"
        assert (found.error, found.words) == (errno.EINVAL, words)
        card.do(new_filter(REP1, other, pref=6))

    def test_one_is_replaced(self, card: HandCard) -> None:
        card.do(new_filter(REP0, OUT_TO_A, pref=5, handle=1, how=REQUEST | ACK | REPLACE))
        [found] = card.filters(REP0)
        assert (found.handle, found.options[4]) == (1, bytes.fromhex(A.replace(":", "")))
        card.do(THERE)

    def test_a_replacement_that_is_refused_leaves_the_old_one(self, card: HandCard) -> None:
        before = card.filters(REP0)
        bad = keys(eth_dst=A) + actions(mirred(UPLINK)) + HARD
        assert card.ask(new_filter(REP0, bad, pref=5, handle=1, how=REQUEST | ACK)).error
        assert card.filters(REP0) == before


class TestFlags:
    BAD = MATCH + actions(gact(OK))

    def test_without_skip_sw_the_kernel_holds_it_all_the_same(self, card: HandCard) -> None:
        found = card.ask(new_filter(REP0, self.BAD, pref=9))
        assert (found.error, found.words) == (0, "")
        assert card.filters(REP0)[1].flags == NOT_IN_HW

    def test_it_says_why_only_if_it_is_to(self, card: HandCard) -> None:
        found = card.ask(new_filter(REP0, self.BAD + flags(VERBOSE), pref=9))
        assert (found.error, found.words) == (0, ACTION)
        assert card.filters(REP0)[1].flags == VERBOSE | NOT_IN_HW

    def test_with_skip_hw_the_device_is_not_asked(self, card: HandCard) -> None:
        card.do(new_filter(REP0, MATCH + actions(TO_REP1) + flags(SKIP_HW), pref=9))
        assert card.filters(REP0)[1].flags == SKIP_HW | NOT_IN_HW
        assert card.forward("vf0", bytes.fromhex(B.replace(":", "")) + bytes(50)) == (
            "rep0",
            bytes.fromhex(B.replace(":", "")) + bytes(50),
        )
        card.do(new_filter(REP0, LOCAL, pref=10))


def test_a_full_table_is_full_for_all_netdevs(card: HandCard) -> None:
    card.limit = 2
    card.do(new_filter(GENEVE_DEVICE, IN))
    found = card.ask(new_filter(REP0, LOCAL))
    words = "ice: Unable to add filter due to error"
    assert (found.error, found.words) == (errno.ENOSPC, words)
    assert len(card.filters(REP0)) == 1
    card.do(one_filter(DELTFILTER, GENEVE_DEVICE, 10), new_filter(REP0, LOCAL))


def test_filters_go_with_their_qdisc(card: HandCard) -> None:
    card.limit = 1
    card.do(clsact(REP0, DELQDISC, REQUEST | ACK), clsact(REP0))
    assert card.filters(REP0) == []
    card.do(THERE)


@pytest.mark.parametrize("options", [OUT, IN], ids=["out", "in"])
def test_the_published_driver_takes_no_tunnel_key(options: bytes) -> None:
    card = hand_card(tunnels=False)
    at = GENEVE_DEVICE if options is IN else REP0
    found = card.ask(new_filter(at, options))
    assert (found.error, found.words) == (errno.EINVAL, ACTION)
    card.do(new_filter(REP0, LOCAL))


class TestMessages:
    def test_several_in_one_packet(self, card: HandCard) -> None:
        bad = new_filter(NOBODY, LOCAL)
        found = card.send(new_filter(REP0, LOCAL), bad, one_filter(DELTFILTER, REP0, 10))
        assert [each.error for each in found] == [0, errno.ENODEV, 0]

    def test_no_ack_where_none_is_asked_for(self, card: HandCard) -> None:
        assert card.send(new_filter(REP0, LOCAL, how=REQUEST | CREATE)) == []
        assert card.ask(new_filter(REP0, LOCAL, how=REQUEST | CREATE)).error == errno.EEXIST

    def test_a_dump_has_no_ack(self, card: HandCard) -> None:
        found = card.send(message(GETLINK, REQUEST | DUMP | ACK, bytes(16)))
        assert [each.kind for each in found] == [NEWLINK] * 5 + [DONE]

    def test_an_ack_has_the_header_alone(self, card: HandCard) -> None:
        found = card.ask(new_filter(REP0, LOCAL))
        assert (len(found.body), found.flags, found.sequence) == (20, 0x100, 7)

    @pytest.mark.parametrize(
        "sent",
        [
            pytest.param(message(NEWTFILTER, ACK, tcm(REP0)), id="no request"),
            pytest.param(message(ERROR, REQUEST | ACK, bytes(20)), id="a control message"),
            pytest.param(message(NEWTFILTER, REQUEST | ACK, b""), id="no family"),
        ],
    )
    def test_passed_over_but_for_the_ack(self, card: HandCard, sent: bytes) -> None:
        assert card.ask(sent).error == 0

    @pytest.mark.parametrize(
        "sent", [b"", b"\0" * 15, struct.pack("=IHHII", 4, NEWTFILTER, 1, 1, 0), b"\xff" * 40]
    )
    def test_no_message(self, card: HandCard, sent: bytes) -> None:
        assert card.send(sent) == []

    def test_what_is_behind_a_wrong_length_is_passed_over(self, card: HandCard) -> None:
        wrong = struct.pack("=HH", 400, 14)
        card.do(new_filter(REP0, LOCAL + wrong + keys(vlan_id=5)))

    def test_unknown_attributes_are_passed_over(self, card: HandCard) -> None:
        card.do(new_filter(REP0, LOCAL + attr(1000, b"x" * 9)))

    def test_the_last_of_an_attribute_counts(self, card: HandCard) -> None:
        card.do(new_filter(REP0, keys(eth_dst=C) + LOCAL, pref=9))
        assert card.filters(REP0)[1].options[4] == bytes.fromhex(B.replace(":", ""))


@settings(deadline=None, max_examples=100)
@given(rubbish=st.binary(max_size=200))
def test_rubbish_is_no_harm(rubbish: bytes) -> None:
    card = hand_card()
    card.send(rubbish)
    card.do(THERE)


VALID = [
    new_filter(REP0, LOCAL),
    new_filter(REP0, OUT, protocol=IPV6),
    new_filter(GENEVE_DEVICE, IN),
    new_filter(REP0, keys(eth_type=0x800, ip_proto=6, tcp_dst=(5, 255)) + actions(gact(SHOT))),
    one_filter(DELTFILTER, REP0, 5, 1),
    dump(GETTFILTER, REP0),
    dump(GETLINK),
    clsact(UPLINK),
]


@settings(deadline=None, max_examples=200)
@given(data=st.data())
def test_bytes_that_are_changed_do_no_harm(data: st.DataObject) -> None:
    """Whatever a request becomes, it is answered or passed over, and what is told can be read."""
    sent = bytearray(data.draw(st.sampled_from(VALID)))
    for _ in range(data.draw(st.integers(1, 4))):
        sent[data.draw(st.integers(0, len(sent) - 1))] = data.draw(st.integers(0, 255))
    size = data.draw(st.sampled_from([len(sent), data.draw(st.integers(0, len(sent)))]))
    card = hand_card()
    card.do(THERE)
    list(answers(list(answer(card.card, bytes(sent[:size]), 5))))
    for ifindex in (REP0, REP1, GENEVE_DEVICE):
        for each in card.filters(ifindex):
            assert len(each.counters) == len(each.actions)
    card.forward("vf0", bytes(60))


@settings(deadline=None, max_examples=50)
@given(
    macs=st.lists(st.integers(1, (1 << 48) - 1), unique=True, max_size=20),
    kept=st.sets(st.integers(0, 19)),
)
def test_what_is_added_and_not_deleted_is_there(macs: list[int], kept: set[int]) -> None:
    card = hand_card()
    for mac in macs:
        match = keys(eth_dst=mac.to_bytes(6))
        card.do(new_filter(REP0, match + actions(TO_REP1) + HARD))
    for number, _ in enumerate(macs, start=1):
        if number not in kept:
            card.do(one_filter(DELTFILTER, REP0, 10, number))
    left = {mac for number, mac in enumerate(macs, start=1) if number in kept}
    assert {int.from_bytes(each.options[4]) for each in card.filters(REP0)} == left
    for mac in macs:
        frame = mac.to_bytes(6) + bytes(54)
        assert card.forward("vf0", frame) == ("vf1" if mac in left else "rep0", frame)
