"""What follows from what is seen of a real switch: netdevs are real, switch and host are told.

A veth pair is a representor and where the switch puts out what it has no entry for.
"""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any

import pytest

from dataplane.contracts import Sending, Witnessed
from dataplane.core.agreement import Field, Observed, Question
from dataplane.core.desired import Port
from dataplane.core.errors import OverweaveError
from dataplane.core.frames import UDP, Ip, encapsulate, ip_frame, udp
from dataplane.core.model import Attachment, AttachmentKey, Encap, EntryKey, Mac, Vni
from dataplane.core.path import Action, FromPod, Tunnel
from dataplane.core.placement import Traffic
from dataplane.netlink.netns import Netns
from dataplane.netlink.taps import Taps
from tests.functional.cni_world import BLUE
from tests.functional.namespaces import ip, namespace
from vendors import sent
from vendors.sent import SentPath

MACS = [Mac(f"02:00:00:00:00:{number:02x}") for number in range(3)]
IPS = [ip_address(f"10.1.0.{number + 1}") for number in range(3)]
KEYS = [AttachmentKey(f"c{number}", "eth0") for number in range(2)]
FAR = EntryKey(BLUE.vni, MACS[2])
NEAR = EntryKey(BLUE.vni, MACS[1])


def port(number: int) -> Port:
    attachment = Attachment(
        container_id=f"c{number}",
        ifname="eth0",
        netns="",
        segment="blue",
        mac=MACS[number],
        ips=(IPS[number],),
        identity=f"pod{number}",
        slot=number,
        netdev=f"rep{number}",
    )
    return Port(attachment, BLUE, 1450)


def question(target: int = 2, source: int = 0) -> Question:
    mark = secrets.token_bytes(16)
    frame = between(source, target, mark)
    entry = FromPod(f"rep{source}", f"ot{source}")
    about = EntryKey(BLUE.vni, MACS[target])
    return Question("a frame", frame, mark, entry, "nic", about=about, harmless=True)


def between(source: int, target: int, mark: bytes) -> bytes:
    packet = Ip(IPS[source], IPS[target], UDP).packet(udp(7, mark))
    return ip_frame(MACS[target], MACS[source], packet)


Fate = Callable[["Device", Sending], None]


@dataclass
class Device:
    """A switch that does with each frame what ``fate`` says, and the host that sends them."""

    space: Netns
    fate: Fate = lambda *_: None
    counts: Counter[EntryKey] = field(default_factory=lambda: Counter({FAR: 100, NEAR: 50}))
    came: list[tuple[AttachmentKey, bytes]] = field(default_factory=list)
    faults: dict[AttachmentKey, str] = field(default_factory=dict)
    rounds: int = 0

    def counters(self) -> Mapping[EntryKey, Traffic]:
        return {key: Traffic(count, 0) for key, count in self.counts.items()}

    def send(self, sendings: Sequence[Sending], listen_s: float) -> Witnessed:
        self.rounds += 1
        self.came = []
        for each in sendings:
            self.fate(self, each)
        time.sleep(listen_s)
        return Witnessed(self.came, self.faults)

    def put(self, netdev: str, frame: bytes) -> None:
        """Send a frame from a netdev of the DPU, or (``X.out``) let the switch put it out there."""

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
                out.sendto(frame, (netdev, 0))

        self.space.run(send)

    def asked(self, *questions: Question) -> list[Observed]:
        path = SentPath(self, self, lambda: [port(0), port(1)])  # type: ignore[arg-type]  # counts
        return self.space.run(lambda: path.observed(questions))


@pytest.fixture(scope="module")
def space() -> Iterator[Netns]:
    with namespace() as made:
        for name in ("nic", "rep0", "rep1"):
            ip(made, "link", "add", name, "type", "veth", "peer", "name", f"{name}.out")
            for end in (name, f"{name}.out"):
                ip(made, "link", "set", end, "up")
        yield made


@pytest.fixture
def device(space: Netns, monkeypatch: pytest.MonkeyPatch) -> Device:
    monkeypatch.setattr(sent, "_LISTEN_S", 0.05)
    monkeypatch.setattr(sent, "_COUNTED_S", 0.3)
    monkeypatch.setattr(sent, "_LOOK_S", 0.02)
    return Device(space)


# --- fates --------------------------------------------------------------------------------------


def leaves(device: Device, each: Sending) -> None:
    device.counts[FAR] += 1


def is_lost(device: Device, each: Sending) -> None:
    pass


def arrives(device: Device, each: Sending) -> None:
    device.counts[NEAR] += 1
    device.came.append((KEYS[1], each.frame))


def vanishes_behind_its_entry(device: Device, each: Sending) -> None:
    device.counts[NEAR] += 1


def arrives_altered(device: Device, each: Sending) -> None:
    device.came.append((KEYS[1], each.frame[:6] + each.frame[:6] + each.frame[12:]))


def misses(device: Device, each: Sending) -> None:
    device.put("rep0.out", each.frame)


def misses_elsewhere(device: Device, each: Sending) -> None:
    device.put("rep1.out", each.frame)


def reaches_the_cpu(device: Device, each: Sending) -> None:
    device.put("nic.out", each.frame)


def goes_by_software(device: Device, each: Sending) -> None:
    misses(device, each)
    device.put("rep1", each.frame)
    device.came.append((KEYS[1], each.frame))


def goes_both_ways(device: Device, each: Sending) -> None:
    goes_by_software(device, each)
    arrives(device, each)


def leaves_by_software(device: Device, each: Sending) -> None:
    misses(device, each)
    tunnel = Tunnel(Encap.GENEVE, Vni(10), IPS[0], IPS[1], 6081)
    device.put("nic", encapsulate(tunnel, MACS[0], each.frame))


def is_answered(device: Device, each: Sending) -> None:
    leaves(device, each)
    device.came.append((KEYS[0], between(2, 0, each.mark)))
    tunnel = Tunnel(Encap.GENEVE, Vni(10), IPS[2], IPS[0], 6081)
    device.put("nic.out", encapsulate(tunnel, MACS[0], between(2, 0, each.mark)))


def leaves_among_others(device: Device, each: Sending) -> None:
    device.counts[FAR] += 9


def begins_anew(device: Device, each: Sending) -> None:
    device.counts[FAR] = 1


def is_counted_late(device: Device, each: Sending) -> None:
    threading.Timer(0.2, leaves, (device, each)).start()


@pytest.mark.parametrize(
    ("case", "action", "output", "rule"),
    [
        ((2, leaves), Action.COUNTED, None, "at no port; its entry has counted 1 of 1"),
        ((2, is_counted_late), Action.COUNTED, None, "its entry has counted 1 of 1"),
        ((2, is_answered), Action.COUNTED, None, "at no port; its entry has counted 1 of 1"),
        ((2, leaves_among_others), Action.UNKNOWN, None, "its entry has counted 9 of 1"),
        ((2, begins_anew), Action.COUNTED, None, "its entry has counted 1 of 1"),
        ((2, is_lost), Action.DROP, None, "at no port; its entry has counted 0 of 1"),
        ((1, leaves_among_others), Action.DROP, None, "its entry has counted 0 of 1"),
        ((1, vanishes_behind_its_entry), Action.DROP, None, "its entry has counted 1 of 1"),
        ((1, arrives), Action.DELIVER, "rep1", "came out at the VF of rep1"),
        ((1, arrives_altered), Action.DELIVER, "rep1", "came out at the VF of rep1"),
        ((1, misses), Action.HAND_OVER, "rep0", "came out at rep0"),
        ((1, goes_by_software), Action.HAND_OVER, "rep0", "came out at rep0"),
        ((2, leaves_by_software), Action.HAND_OVER, "rep0", "came out at rep0"),
        ((1, goes_both_ways), Action.FLOOD, "port rep0, rep1", "the VF of rep1, rep0"),
        ((1, misses_elsewhere), Action.DELIVER, "port rep1", "came out at rep1"),
        ((2, reaches_the_cpu), Action.DELIVER, "port nic", "came out at nic"),
    ],
    ids=lambda each: each[1].__name__ if isinstance(each, tuple) else "",
)
def test_what_is_seen_and_what_follows(
    device: Device,
    case: tuple[int, Fate],
    action: Action,
    output: str | None,
    rule: str,
) -> None:
    target, device.fate = case
    asked = question(target)
    (seen,) = device.asked(asked)
    assert (seen.action, seen.values.get(Field.OUTPUT)) == (action, output), seen
    assert seen.rule.startswith("sent from the VF of rep0, came out at ")
    assert seen.rule.endswith(rule)
    if action in (Action.DELIVER, Action.HAND_OVER):
        assert (seen.values[Field.INNER] == asked.frame) is (device.fate is not arrives_altered)
    else:
        assert Field.INNER not in seen.values


def test_what_no_entry_is_there_to_count_is_lost(device: Device) -> None:
    del device.counts[FAR]
    (seen,) = device.asked(question())
    assert seen.action is Action.DROP
    assert seen.rule.endswith("came out at no port; no entry is there to count it")


@pytest.mark.parametrize(
    ("target", "key"),
    [pytest.param(2, KEYS[0], id="sender"), pytest.param(1, KEYS[1], id="receiver")],
)
def test_a_pod_that_cannot_be_watched_leaves_it_unknown(
    device: Device, target: int, key: AttachmentKey
) -> None:
    device.faults = {key: "the pod is gone"}
    (seen,) = device.asked(question(target))
    assert (seen.action, seen.why) == (Action.UNKNOWN, "the pod is gone")


@pytest.mark.parametrize("has_sent", [True, False])
def test_what_a_pod_that_is_not_watched_may_have_sent_hides_no_loss(
    device: Device, *, has_sent: bool
) -> None:
    """Its own frame leaves, if any does; that of the other pod is lost."""
    device.faults = {KEYS[1]: "too fast"}

    def of_the_second(device: Device, each: Sending) -> None:
        device.counts[FAR] += has_sent and each.key == KEYS[1]

    device.fate = of_the_second
    seen = device.asked(question(), question(2, source=1))
    assert [(each.action, each.why) for each in seen] == [(Action.UNKNOWN, "too fast")] * 2
    assert device.rounds == 1


def test_a_pod_that_is_not_watched_spoils_nothing_that_it_has_no_part_in(device: Device) -> None:
    device.faults = {KEYS[1]: "too fast"}

    def leaves_from_the_first(device: Device, each: Sending) -> None:
        device.counts[FAR] += each.key == KEYS[0]

    device.fate = leaves_from_the_first
    first, second = device.asked(question(), question(0, source=1))
    assert (first.action, second.action) == (Action.COUNTED, Action.UNKNOWN)


def test_a_tap_that_has_missed_frames_leaves_it_unknown(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Taps, "missed", lambda _: {"rep0": "too fast"})
    device.fate = leaves
    seen, arrived = device.asked(question(), question(1))
    assert (seen.action, seen.why) == (Action.UNKNOWN, "rep0: too fast")
    assert arrived.action is Action.UNKNOWN


def test_what_an_entry_counts_of_others_is_not_taken_for_it(device: Device) -> None:
    """One of two goes astray behind the entry, the other one is lost before it."""
    astray, lost = question(), question()

    def one_goes_astray(device: Device, each: Sending) -> None:
        if each.mark == astray.mark:
            leaves(device, each)
            device.came.append((KEYS[1], each.frame))

    device.fate = one_goes_astray
    first, second = device.asked(astray, lost)
    assert (first.action, first.values[Field.OUTPUT]) == (Action.DELIVER, "rep1")
    assert second.action is Action.DROP
    assert second.rule.endswith("its entry has counted 1 of 2")


@pytest.mark.parametrize("lost", [{3}, {2, 5}, set(range(8)), set()])
def test_of_those_that_an_entry_counts_in_part_each_lost_one_is_found(
    device: Device, lost: set[int]
) -> None:
    questions = [question() for _ in range(8)]
    marks = {questions[number].mark for number in lost}

    def some_leave(device: Device, each: Sending) -> None:
        device.counts[FAR] += each.mark not in marks

    device.fate = some_leave
    seen = device.asked(*questions)
    assert {number for number, each in enumerate(seen) if each.action is Action.DROP} == lost
    assert {each.action for each in seen} <= {Action.DROP, Action.COUNTED}
    print(f"{len(lost)} of 8 lost: {device.rounds} rounds")
    assert device.rounds < 16


def test_what_others_have_an_entry_count_hides_no_loss(device: Device) -> None:
    """They send once: whoever is asked about again is alone."""
    questions = [question() for _ in range(4)]
    lost = {questions[0].mark, questions[3].mark}

    def others_send_once(device: Device, each: Sending) -> None:
        device.counts[FAR] += each.mark not in lost
        device.counts[FAR] += 3 if device.rounds == 1 else 0

    device.fate = others_send_once
    actions = [each.action for each in device.asked(*questions)]
    assert actions == [Action.DROP, Action.COUNTED, Action.COUNTED, Action.DROP]


def test_an_entry_that_others_use_all_the_time_tells_nothing(device: Device) -> None:
    device.fate = leaves_among_others
    seen = device.asked(*[question() for _ in range(4)])
    assert {(each.action, each.why.partition(",")[0]) for each in seen} == {
        (Action.UNKNOWN, "others' packets go by the same entry")
    }
    assert device.rounds == 7


def unlike(**changes: Any) -> Question:
    return replace(question(), **changes)


def test_what_is_not_plain_or_not_of_a_vf_is_not_sent(device: Device) -> None:
    wrong = [
        unlike(harmless=False),
        unlike(entry=None),
        unlike(entry=FromPod("vp3", "ot3")),
    ]
    for each in device.asked(*wrong):
        assert each.action is Action.NONE
        assert each.why.startswith("a real switch is asked only about plain frames that pods ")
    assert device.rounds == 0


def test_answers_stand_in_the_order_of_the_questions(device: Device) -> None:
    device.fate = leaves
    asked = [unlike(entry=None), question(), unlike(harmless=False), *[question()] * 40, question()]
    actions = [each.action for each in device.asked(*asked)]
    assert actions == [Action.NONE, Action.COUNTED, Action.NONE, *[Action.COUNTED] * 41]


def test_a_host_that_does_not_answer_is_an_error_and_keeps_nobody_waiting(device: Device) -> None:
    def is_away(device: Device, each: Sending) -> None:
        raise OverweaveError("no host")

    path = SentPath(device, device, lambda: [port(0)])  # type: ignore[arg-type]  # it counts
    device.fate = is_away
    with pytest.raises(OverweaveError, match="no host"):
        device.space.run(lambda: path.observed([question()]))
    device.fate = leaves
    (seen,) = device.space.run(lambda: path.observed([question()]))
    assert seen.action is Action.COUNTED


def test_two_at_once_are_not_counted_together(device: Device) -> None:
    mine, others = [question() for _ in range(4)], [question() for _ in range(4)]
    marks = {each.mark for each in others}

    def others_leave(device: Device, each: Sending) -> None:
        device.counts[FAR] += each.mark in marks

    device.fate = others_leave
    path = SentPath(device, device, lambda: [port(0)])  # type: ignore[arg-type]  # it counts
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(device.space.run, lambda batch=batch: path.observed(batch))
            for batch in (mine, others)
        ]
        first, second = ([each.action for each in future.result()] for future in asked)
    assert first == [Action.DROP] * 4
    assert second == [Action.COUNTED] * 4


def test_who_waits_too_long_for_a_turn_is_told(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sent, "_TURN_S", 0.05)
    path = SentPath(device, device, lambda: [port(0)])  # type: ignore[arg-type]  # it counts
    begun = threading.Event()
    device.fate = lambda *_: begun.set()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(device.space.run, lambda: path.observed([question()]))
        assert begun.wait(5)
        with pytest.raises(OverweaveError, match="others have frames sent all the time"):
            device.space.run(lambda: path.observed([question()]))
        assert len(first.result()) == 1
