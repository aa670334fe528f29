"""What a path may do that is not what Open vSwitch does, and which difference is told."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.agreement import (
    Disagreement,
    Excuse,
    Field,
    Observed,
    Question,
    disagreement,
    done,
    excusable,
    is_excused,
    is_same_miss,
    tunnelled,
    unobserved,
)
from dataplane.core.capability import Departure
from dataplane.core.frames import UDP, Ip, TunnelPacket, encapsulate, ip_frame, udp
from dataplane.core.model import Encap, Vni
from dataplane.core.path import Action, FromPod, Tunnel

MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
IP = Ip(ip_address("10.0.0.1"), ip_address("10.0.0.2"), UDP)
FRAME = ip_frame(MACS[1], MACS[0], IP.packet(udp(7, b"sixteen bytes    ")))
QUESTION = Question("probe", FRAME, b"sixteen bytes", FromPod("vp1", "ot1"), "eth0")
TUNNEL = Tunnel(Encap.GENEVE, Vni(100), ip_address("192.0.2.1"), ip_address("192.0.2.2"), 6081)
PACKET = TunnelPacket(TUNNEL, FRAME, True, 64, 0)
STRANGER = replace(QUESTION, frame=encapsulate(TUNNEL, MACS[0], FRAME), entry=None)
SENT = Observed(tunnelled("eth0", PACKET), "the flow")
DELIVERED = Observed(done(Action.DELIVER, "vp2", FRAME))
ANSWERED = Observed(done(Action.DELIVER, "vp1", FRAME[::-1]))
DROPPED, TO_HOST = Observed(done(Action.DROP)), Observed(done(Action.HOST))
FLOODED = Observed(done(Action.FLOOD, "vp1, vp2"))
LEFT = Observed(done(Action.HAND_OVER, inner=FRAME))
ALTERED = Observed(done(Action.HAND_OVER, inner=FRAME[:-1]))
ABSENT, UNKNOWN = Observed(done(Action.NONE)), Observed({}, why="not seen")
COUNTED = Observed(done(Action.COUNTED), "its entry has counted 1 of 1")
DAMAGED, TOO_LARGE = replace(QUESTION, sound=False), replace(QUESTION, fits=False)
TRUTHS = (SENT, DELIVERED, ANSWERED, DROPPED, TO_HOST, FLOODED, UNKNOWN)


def changed(**values: Any) -> Observed:
    packet = replace(PACKET, **{k: v for k, v in values.items() if hasattr(PACKET, k)})
    tunnel = replace(TUNNEL, **{k: v for k, v in values.items() if hasattr(TUNNEL, k)})
    return Observed(tunnelled("eth0", replace(packet, tunnel=tunnel)), "the row")


@pytest.mark.parametrize(
    ("question", "seen", "truth", "field"),
    [
        pytest.param(QUESTION, SENT, SENT, None, id="the same"),
        pytest.param(QUESTION, SENT, DROPPED, Field.VERDICT, id="sends what is dropped"),
        pytest.param(QUESTION, DROPPED, SENT, Field.VERDICT, id="drops what is sent"),
        pytest.param(QUESTION, DELIVERED, SENT, Field.VERDICT, id="delivers what is sent"),
        pytest.param(STRANGER, DROPPED, TO_HOST, None, id="two ways to end for a stranger's"),
        pytest.param(QUESTION, DROPPED, TO_HOST, Field.VERDICT, id="drops what is the host's"),
        pytest.param(QUESTION, TO_HOST, DROPPED, None, id="two ways to end, the other way"),
        pytest.param(QUESTION, DELIVERED, ANSWERED, Field.OUTPUT, id="another port"),
        pytest.param(QUESTION, FLOODED, FLOODED, Field.VERDICT, id="floods by itself"),
        pytest.param(QUESTION, SENT, UNKNOWN, None, id="the truth is not known"),
        pytest.param(QUESTION, UNKNOWN, SENT, None, id="not observed"),
        pytest.param(DAMAGED, DELIVERED, UNKNOWN, Field.VERDICT, id="delivers what is damaged"),
        pytest.param(DAMAGED, DROPPED, UNKNOWN, None, id="drops what is damaged"),
        pytest.param(DAMAGED, LEFT, UNKNOWN, None, id="hands over what is damaged"),
        pytest.param(TOO_LARGE, SENT, SENT, Field.VERDICT, id="sends what is too large"),
        pytest.param(TOO_LARGE, DROPPED, SENT, None, id="drops what is too large"),
        pytest.param(QUESTION, changed(vni=Vni(7)), SENT, Field.VNI, id="VNI"),
        pytest.param(QUESTION, changed(udp_port=1), SENT, Field.UDP_PORT, id="UDP port"),
        pytest.param(QUESTION, changed(encap=Encap.VXLAN), SENT, Field.ENCAP, id="encapsulation"),
        pytest.param(
            QUESTION, changed(target=ip_address("192.0.2.9")), SENT, Field.TARGET, id="target"
        ),
        pytest.param(QUESTION, changed(df=False), SENT, Field.DF, id="DF"),
        pytest.param(QUESTION, changed(ttl=63), SENT, Field.TTL, id="TTL"),
        pytest.param(QUESTION, changed(ecn=1), SENT, Field.ECN, id="ECN"),
        pytest.param(QUESTION, changed(inner=FRAME[:-1]), SENT, Field.INNER, id="inner frame"),
    ],
)
def test_the_first_difference(
    question: Question, seen: Observed, truth: Observed, field: Field | None
) -> None:
    found = disagreement(question, seen, truth)
    assert (found.field if found else None) == field


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("question", [QUESTION, DAMAGED, TOO_LARGE])
def test_whoever_hands_over_as_it_came_is_right_and_else_never(
    question: Question, truth: Observed
) -> None:
    assert disagreement(question, LEFT, truth) is None
    assert disagreement(question, ABSENT, truth) is None
    found = disagreement(question, ALTERED, truth)
    assert found is not None
    assert found.field is Field.INNER


def test_a_difference_says_both_values_and_both_rules() -> None:
    found = disagreement(QUESTION, changed(vni=Vni(7)), SENT)
    assert found == Disagreement(Field.VNI, "7", "100", "the row", "the flow")
    inner = disagreement(QUESTION, changed(inner=FRAME[:20] + b"\0" + FRAME[21:]), SENT)
    assert inner is not None
    assert inner.truth.endswith(" at byte 20")
    assert inner.said.startswith(f"{len(FRAME)} bytes with 00")


VALUES = {
    Field.VERDICT: st.just("drop"),
    Field.OUTPUT: st.just("elsewhere"),
    Field.SOURCE: st.just(ip_address("192.0.2.77")),
    Field.TARGET: st.just(ip_address("192.0.2.78")),
    Field.UDP_PORT: st.integers(6082, 65535),
    Field.VNI: st.integers(101, 1 << 24),
    Field.ENCAP: st.just("vxlan"),
    Field.DF: st.just(0),
    Field.TTL: st.integers(0, 63),
    Field.ECN: st.integers(1, 3),
    Field.INNER: st.binary(min_size=1).map(lambda more: FRAME + more),
}


def test_every_field_is_drawn() -> None:
    assert set(VALUES) == set(Field)


@given(st.sampled_from(Field), st.data())
def test_a_field_that_is_changed_is_found_unless_the_device_cannot_set_it(
    field: Field, data: st.DataObject
) -> None:
    seen = Observed({**SENT.values, field: data.draw(VALUES[field])})
    found = disagreement(QUESTION, seen, SENT)
    assert found is not None
    assert found.field is field
    if field is not Field.VERDICT:
        assert disagreement(QUESTION, seen, SENT, {str(field)}) is None


@given(st.sets(st.sampled_from(Field)))
def test_what_was_not_observed_is_told_and_no_difference(missing: set[Field]) -> None:
    values = {name: value for name, value in SENT.values.items() if name not in missing}
    assert disagreement(QUESTION, Observed(values), SENT) is None
    assert disagreement(QUESTION, SENT, Observed(values)) is None
    assert set(unobserved(Observed(values), SENT)) == missing
    assert unobserved(LEFT, SENT) == unobserved(DROPPED, SENT) == ()


@pytest.mark.parametrize("truth", TRUTHS)
def test_what_an_entry_has_counted_is_neither_right_nor_wrong(truth: Observed) -> None:
    assert disagreement(QUESTION, COUNTED, truth) is None
    assert unobserved(COUNTED, truth) == tuple(name for name in Field if name in truth.values)


def wrapped(tunnel: Tunnel = TUNNEL, tos: int = 0, inner_tos: int = 0) -> bytes:
    inner = ip_frame(MACS[1], MACS[0], replace(IP, tos=inner_tos).packet(udp(7, b"hello")))
    return encapsulate(tunnel, "02:00:00:00:aa:01", inner, tos)


@pytest.mark.parametrize(
    ("came", "went", "is_same"),
    [
        pytest.param(FRAME, FRAME, True, id="as it came"),
        pytest.param(FRAME, FRAME + b"\0", False, id="no tunnel packet, longer"),
        pytest.param(wrapped(), wrapped()[:6] + bytes(6) + wrapped()[12:], True, id="other MACs"),
        pytest.param(wrapped(), wrapped(replace(TUNNEL, vni=Vni(7))), False, id="another VNI"),
        pytest.param(wrapped(tos=3, inner_tos=1), wrapped(tos=2, inner_tos=3), True, id="CE told"),
        pytest.param(wrapped(tos=3, inner_tos=1), wrapped(tos=2, inner_tos=1), False, id="CE lost"),
        pytest.param(wrapped(), wrapped(inner_tos=3), False, id="CE from nowhere"),
    ],
)
def test_a_miss_that_is_written_anew(came: bytes, went: bytes, *, is_same: bool) -> None:
    assert is_same_miss(came, went) is is_same


# --- what a device says that it cannot do --------------------------------------------------------

WIRE = encapsulate(TUNNEL, "02:00:00:00:aa:01", FRAME, 3)
BACK = replace(QUESTION, frame=WIRE, entry=None)
TOLD = Observed(done(Action.DELIVER, "vp1", FRAME[:15] + b"\3" + FRAME[16:]))
IN = Observed(done(Action.DELIVER, "vp1", FRAME))
ELSEWHERE = Observed(done(Action.DELIVER, "vp2", FRAME))
UNWRAPPED = Observed(done(Action.DELIVER, "vp1", WIRE))
TO_OTHER = Observed(done(Action.DELIVER, "vp3", FRAME))
SHORTER = changed(inner=FRAME[:-4])
HALF = Observed({Field.VERDICT: Action.TUNNEL})


def with_excuse(question: Question, departure: Departure) -> Question:
    return replace(question, excuse=Excuse(departure, b"another frame"))


ND = with_excuse(QUESTION, Departure.ND_ANSWERS)
SIZE = with_excuse(TOO_LARGE, Departure.FRAME_SIZE)
LENGTHS = with_excuse(QUESTION, Departure.LENGTHS)
ECN = with_excuse(BACK, Departure.OUTER_ECN)
TARGET = with_excuse(BACK, Departure.OUTER_TARGET)
FLAWED = replace(TARGET, sound=False)


@pytest.mark.parametrize(
    ("question", "seen", "truth", "instead", "excused"),
    [
        pytest.param(ND, SENT, ANSWERED, SENT, True, id="ND goes to its owner"),
        pytest.param(ND, ELSEWHERE, ANSWERED, ELSEWHERE, True, id="ND goes to the VF next door"),
        pytest.param(ND, TO_OTHER, ANSWERED, ELSEWHERE, False, id="ND goes to another VF"),
        pytest.param(ND, changed(vni=Vni(7)), ANSWERED, SENT, False, id="ND in another VNI"),
        pytest.param(
            ND, changed(target=ip_address("192.0.2.9")), ANSWERED, SENT, False, id="ND to no owner"
        ),
        pytest.param(ND, changed(inner=FRAME[:-1]), ANSWERED, SENT, False, id="ND is altered"),
        pytest.param(ND, DROPPED, ANSWERED, SENT, False, id="ND is lost"),
        pytest.param(ND, DROPPED, ANSWERED, DROPPED, False, id="ND is lost, like the rest"),
        pytest.param(ND, FLOODED, ANSWERED, SENT, False, id="ND is flooded"),
        pytest.param(ND, SENT, DROPPED, SENT, False, id="ND that a guard drops"),
        pytest.param(ND, SENT, ELSEWHERE, SENT, False, id="ND that is no question"),
        pytest.param(ND, SENT, ANSWERED, UNKNOWN, False, id="ND of whose way nothing is known"),
        pytest.param(ND, SENT, ANSWERED, HALF, False, id="ND of whose way not all is known"),
        pytest.param(ND, ALTERED, ANSWERED, SENT, False, id="ND handed over altered"),
        pytest.param(SIZE, SENT, DROPPED, SENT, True, id="too large and sent"),
        pytest.param(SIZE, SENT, SENT, SENT, True, id="too large and sent, as OVS would"),
        pytest.param(SIZE, changed(udp_port=1), SENT, SENT, False, id="too large, to another port"),
        pytest.param(SIZE, changed(inner=FRAME[:9]), SENT, SENT, False, id="too large and cut"),
        pytest.param(SIZE, SENT, DROPPED, SHORTER, True, id="too large and whole"),
        pytest.param(SIZE, SHORTER, DROPPED, SHORTER, False, id="as large as may be, not as it is"),
        pytest.param(SIZE, SENT, DROPPED, DROPPED, False, id="too large and not let in anyhow"),
        pytest.param(LENGTHS, SENT, DROPPED, SENT, True, id="a length that lies, and sent"),
        pytest.param(LENGTHS, ELSEWHERE, DROPPED, SENT, False, id="a length that lies, elsewhere"),
        pytest.param(LENGTHS, SENT, DROPPED, DROPPED, False, id="a length that lies, of a liar"),
        pytest.param(ECN, IN, TOLD, IN, True, id="congestion not told"),
        pytest.param(ECN, IN, DROPPED, IN, True, id="congestion that cannot be told"),
        pytest.param(ECN, ELSEWHERE, TOLD, IN, False, id="congestion told to another"),
        pytest.param(ECN, UNWRAPPED, TOLD, IN, False, id="congestion told in whole"),
        pytest.param(ECN, DROPPED, TOLD, IN, False, id="congestion drops"),
        pytest.param(TARGET, IN, DROPPED, IN, True, id="for another node"),
        pytest.param(TARGET, IN, TO_HOST, IN, True, id="for another node, by the host"),
        pytest.param(TARGET, ELSEWHERE, DROPPED, IN, False, id="for another node and another pod"),
        pytest.param(TARGET, IN, DROPPED, DROPPED, False, id="for another node, from nobody"),
        pytest.param(FLAWED, IN, DROPPED, IN, False, id="damaged"),
        pytest.param(QUESTION, SENT, ANSWERED, SENT, False, id="without excuse"),
    ],
)
def test_only_what_is_declared_is_excused(
    question: Question, seen: Observed, truth: Observed, instead: Observed, *, excused: bool
) -> None:
    assert disagreement(question, seen, truth) is not None
    assert is_excused(question, seen, (truth, instead)) is excused


@pytest.mark.parametrize("departure", Departure)
def test_a_device_that_does_not_say_so_has_no_excuse(departure: Departure) -> None:
    question = with_excuse(TOO_LARGE, departure)
    assert excusable(question, frozenset(Departure) - {departure}) is None
    assert excusable(QUESTION, frozenset(Departure)) is None
    asked = excusable(question, {departure})
    assert asked == replace(QUESTION, frame=b"another frame")


def test_what_the_device_cannot_set_may_differ_besides() -> None:
    seen = changed(ttl=63)
    assert not is_excused(SIZE, seen, (SENT, SENT))
    assert is_excused(SIZE, seen, (SENT, SENT), {Field.TTL})


@given(st.sampled_from(Field), st.data())
def test_no_other_field_may_differ_besides(field: Field, data: st.DataObject) -> None:
    seen = Observed({**SENT.values, field: data.draw(VALUES[field])})
    assert is_excused(SIZE, SENT, (DROPPED, SENT))
    assert not is_excused(SIZE, seen, (DROPPED, SENT))
