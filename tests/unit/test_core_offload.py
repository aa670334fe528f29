"""Which entries the switch of a DPU is to hold, whatever traffic and tables are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dataplane.core.capability import Capability, Part, Table
from dataplane.core.desired import Desired, LocalNode, Port, PortState
from dataplane.core.events import SwitchSeen, TrafficMeasured
from dataplane.core.model import (
    Encap,
    EntryKey,
    Family,
    Guard,
    Hardware,
    IpAddress,
    Pin,
    Segment,
)
from dataplane.core.offload import Choice, SwitchView, choose
from dataplane.core.reasons import Reason
from dataplane.core.state import State, fold
from tests.unit.overlay_builders import (
    GENEVE4,
    MAC_ONLY,
    VTEP4,
    VXLAN4,
    desired,
    mac_of,
    port,
    remote,
    trunk,
    view,
)

ALL_GUARDS = frozenset(Guard)
TUNNELS = frozenset((encap, family) for encap in Encap for family in Family)
BUSY, IDLE = 1000.0, 0.0
STAGED = frozenset(Part) - {Part.WAY, Part.ARRIVAL}
ROWS: Mapping[Part, int] = dict.fromkeys(STAGED, 1)
LOCAL_ROWS = 4  # of one port with two addresses: itself, each address, frames for it


def behind(number: int, segment: Segment = GENEVE4) -> Port:
    """Return a port of the switch, by the representor with this number."""
    plain = port(number, segment)
    return replace(plain, attachment=replace(plain.attachment, netdev=f"rep{number}"))


def capability(capacity: int = 1000, **changes: object) -> Capability:
    guards = {f"rep{number}": ALL_GUARDS for number in range(1, 9)}
    tables = (Table("all", capacity, rows=ROWS),)
    known = Capability("test", "switch", TUNNELS, guards, tables)
    return replace(known, **changes)  # type: ignore[arg-type]  # a column of the tables below


def key(number: int, segment: Segment = GENEVE4) -> EntryKey:
    return EntryKey(segment.vni, mac_of(number))


def one_port(remotes: Iterable[int] = (101,), segment: Segment = GENEVE4) -> Desired:
    far = tuple(remote(number, segment, VTEP4[0]) for number in remotes)
    return desired(view(segment, [behind(1, segment)], far))


def chosen(
    world: Desired,
    rates: Mapping[EntryKey, float],
    known: Capability | None = None,
    before: frozenset[EntryKey] = frozenset(),
    ways: Iterable[IpAddress] = VTEP4,
    *,
    held: frozenset[EntryKey] | None = frozenset(),
) -> Choice:
    view = SwitchView(known or capability(), rates=rates, held=held)
    return choose(world, view, frozenset(ways), before)


def test_both_directions_of_a_conversation_are_placed_together() -> None:
    choice = chosen(one_port(), {key(101): BUSY, key(1): IDLE})
    assert choice == Choice(frozenset({key(101), key(1)}), {})


@pytest.mark.parametrize(
    ("known", "ways", "why"),
    [
        pytest.param(capability(tunnels=frozenset()), VTEP4, Reason.UNSUPPORTED_ENCAP, id="encap"),
        pytest.param(
            capability(guards={"rep1": frozenset({Guard.MAC})}),
            VTEP4,
            Reason.UNSUPPORTED_GUARD,
            id="a check that the device does not make",
        ),
        pytest.param(capability(guards={}), VTEP4, Reason.NO_SWITCH_PORT, id="no such port"),
        pytest.param(capability(), (), Reason.NO_NEXTHOP, id="no way to the VTEP"),
        pytest.param(capability(5), VTEP4, Reason.TABLE_FULL, id="a row too few"),
        pytest.param(
            capability(obstacle="NORMAL at priority 65535 is not ours"),
            VTEP4,
            Reason.SWITCH_TAKEN,
            id="somebody else's switch",
        ),
    ],
)
def test_why_an_entry_is_not_placed(
    known: Capability, ways: tuple[IpAddress, ...], why: Reason
) -> None:
    choice = chosen(one_port(), {key(101): BUSY, key(1): IDLE}, known, ways=ways)
    assert choice.placed == frozenset()
    assert choice.reasons[key(101)] is why


def test_what_just_fits_is_placed() -> None:
    assert chosen(one_port(), {key(101): BUSY}, capability(2 + LOCAL_ROWS)).reasons == {}


def test_foreign_rows_are_room_that_is_not_there() -> None:
    table = Table("all", 2 + LOCAL_ROWS, used=1, foreign=1, rows=ROWS)
    choice = chosen(one_port(), {key(101): BUSY}, capability(tables=(table,)))
    assert choice.reasons[key(101)] is Reason.TABLE_FULL


def test_without_a_switch_nothing_is_said_of_one() -> None:
    assert choose(one_port(), SwitchView(), frozenset(VTEP4), frozenset()) == Choice()


def test_nothing_is_chosen_before_it_is_known_what_the_switch_holds() -> None:
    choice = chosen(one_port(), {key(101): BUSY}, held=None)
    assert choice == Choice(reasons=dict.fromkeys((key(1), key(101)), Reason.PENDING))
    before = frozenset({key(101)})
    assert chosen(one_port(), {}, before=before, held=None).placed == before


def test_what_the_switch_holds_goes_only_by_what_it_forwards_itself() -> None:
    """As after a restart of the agent, which has not chosen anything yet."""
    held = frozenset({key(101), key(1), key(999)})
    assert chosen(one_port(), {key(101): 5.0}, held=held).placed == {key(101), key(1)}
    assert chosen(one_port(), {key(101): 0.9}, held=held).placed == frozenset()
    crowded = chosen(one_port((101, 102)), {key(101): 5.0}, capability(5), held=held)
    assert crowded.placed == frozenset()


def test_what_is_held_stays_until_the_rows_of_its_segment_are_complete() -> None:
    """Whom it talks to is not known yet; nothing is sent to it meanwhile."""
    own, held = frozenset({key(1)}), frozenset({key(101), key(1)})
    unsynced = desired(view(GENEVE4, [behind(1)], synced=False))
    assert chosen(unsynced, {key(1): IDLE}, held=held) == Choice(own, {})
    assert chosen(unsynced, {key(1): IDLE}).reasons == {key(1): Reason.BELOW_THRESHOLD}
    assert chosen(one_port(), {key(1): IDLE, key(101): 5.0}, held=held).placed == held


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"tables": (Table("all", 9, used=5, foreign=1, rows=ROWS),)}, True),
        ({"limits": ("flows in hardware: its datapath says 12",)}, True),
        ({"tables": (Table("all", 9, used=4, foreign=2, rows=ROWS),)}, False),
        ({"tables": (Table("all", 8, used=4, foreign=1, rows=ROWS),)}, False),
        ({"obstacle": "not ours"}, False),
        ({"guards": {}}, False),
        ({"tunnels": frozenset()}, False),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_a_choice_rests_on(change: Mapping[str, object], same: bool) -> None:  # a column
    known = capability(tables=(Table("all", 9, used=4, foreign=1, rows=ROWS),))
    other = replace(known, **change)  # type: ignore[arg-type]  # a column of the table above
    assert (SwitchView(other).basis == SwitchView(known).basis) is same
    assert SwitchView(known, "down").basis != SwitchView(known).basis


def test_a_dead_device_keeps_its_entries_in_mind_and_says_why_they_are_not_there() -> None:
    held = frozenset({key(101), key(1)})
    away = SwitchView(None, "connection refused")
    choice = choose(one_port(), away, frozenset(VTEP4), held | {key(999)})
    assert choice == Choice(held, dict.fromkeys(held, Reason.DEVICE_DOWN))


@pytest.mark.parametrize(
    ("known", "why"),
    [
        pytest.param(capability(), None, id="what it can"),
        pytest.param(capability(obstacle="not ours"), None, id="taken before it went"),
        pytest.param(
            capability(guards={"rep1": frozenset({Guard.MAC})}),
            Reason.UNSUPPORTED_GUARD,
            id="guard",
        ),
        pytest.param(capability(guards={}), Reason.NO_SWITCH_PORT, id="port"),
        pytest.param(capability(tunnels=frozenset()), Reason.UNSUPPORTED_ENCAP, id="encap"),
    ],
)
def test_a_dead_device_keeps_nothing_in_mind_that_it_could_not_do(
    known: Capability, why: Reason | None
) -> None:
    """What is wanted may have changed since it last said what it can."""
    held = frozenset({key(101), key(1)})
    away = SwitchView(known, "connection refused")
    choice = choose(one_port(), away, frozenset(VTEP4), held)
    assert choice.reasons[key(101)] is (why or Reason.DEVICE_DOWN)
    assert (key(101) in choice.placed) is (why is None)
    assert choice.placed <= held


def test_a_blocked_port_is_never_behind_the_switch() -> None:
    blocked = replace(behind(1), state=PortState.BLOCKED, reason=Reason.SUPERSEDED)
    world = desired(view(GENEVE4, [blocked], (remote(101, GENEVE4, VTEP4[0]),)))
    choice = chosen(world, {key(101): BUSY, key(1): BUSY})
    assert choice == Choice(
        frozenset(), {key(1): Reason.SUPERSEDED, key(101): Reason.NO_SWITCH_PORT}
    )


def test_a_pod_on_the_dpu_itself_is_not_behind_its_switch() -> None:
    world = desired(view(GENEVE4, [behind(1), port(2, GENEVE4)], ()))
    choice = chosen(world, {key(1): BUSY, key(2): BUSY})
    assert choice == Choice(frozenset({key(1)}), {key(2): Reason.NO_SWITCH_PORT})


def test_a_trunk_port_is_not_placed_and_hides_no_other() -> None:
    far = (remote(101, GENEVE4, VTEP4[0]),)
    rates = {key(number): BUSY for number in (1, 2, 101)}
    alone = chosen(desired(view(GENEVE4, [trunk(1, GENEVE4, 5)], far)), rates)
    why = Reason.UNSUPPORTED_MATCH
    assert alone == Choice(frozenset(), {key(1): why, key(101): why})
    both = chosen(desired(view(GENEVE4, [trunk(1, GENEVE4, 5), behind(2)], far)), rates)
    assert both == Choice(frozenset({key(2), key(101)}), {key(1): why})


def test_guard_mac_takes_no_rows_for_addresses() -> None:
    rates = {key(101, MAC_ONLY): BUSY}
    world = one_port(segment=MAC_ONLY)
    assert chosen(world, rates, capability(4)).reasons == {}
    assert chosen(world, rates, capability(3)).reasons[key(101, MAC_ONLY)] is Reason.TABLE_FULL


ALWAYS, NEVER = Hardware.ALWAYS, Hardware.NEVER


def name_of(number: int) -> str:
    return f"default/pod{number}/eth0"


def pinned(world: Desired, pins: Mapping[str, Hardware]) -> Desired:
    """Return ``world`` with endpoints of each of its segments pinned, by identity or MAC."""
    segments = {
        name: replace(each, pins=tuple(Pin(name, owner, word) for owner, word in pins.items()))
        for name, each in world.segments.items()
    }
    return replace(world, segments=segments)


class TestPins:
    WORLD = one_port((101, 102))
    FITS_ONE = capability(2 + LOCAL_ROWS)

    def chosen(
        self,
        pins: Mapping[str, Hardware],
        rates: Mapping[EntryKey, float],
        known: Capability = FITS_ONE,
        before: frozenset[EntryKey] = frozenset(),
    ) -> Choice:
        return chosen(pinned(self.WORLD, pins), rates, known, before)

    @pytest.mark.parametrize("name", [name_of(101), mac_of(101)])
    def test_always_goes_before_the_busiest(self, name: str) -> None:
        busy = {key(101): IDLE, key(102): BUSY}
        choice = self.chosen({name: ALWAYS}, busy, before=frozenset({key(102), key(1)}))
        assert choice.placed == {key(101), key(1)}
        assert choice.reasons == {key(102): Reason.TABLE_FULL}

    @pytest.mark.parametrize("name", [name_of(101), mac_of(101)])
    def test_never_is_said_and_leaves_the_room_to_others(self, name: str) -> None:
        choice = self.chosen({name: NEVER}, {key(101): BUSY, key(102): 50.0})
        assert choice.placed == {key(102), key(1)}
        assert choice.reasons == {key(101): Reason.POLICY_OFF}

    def test_never_takes_out_what_was_there(self) -> None:
        before = frozenset({key(101), key(1)})
        choice = self.chosen({name_of(101): NEVER}, {key(101): BUSY}, before=before)
        assert not choice.placed

    def test_never_for_the_one_behind_the_switch_keeps_both_directions_out(self) -> None:
        busy = {key(101): BUSY, key(102): BUSY, key(1): BUSY}
        choice = self.chosen({name_of(1): NEVER, name_of(101): ALWAYS}, busy)
        whys = dict.fromkeys((key(1), key(101), key(102)), Reason.POLICY_OFF)
        assert choice == Choice(frozenset(), whys)

    def test_never_for_one_port_leaves_the_others_of_its_segment(self) -> None:
        world = desired(view(GENEVE4, [behind(1), behind(2)], (remote(101, GENEVE4, VTEP4[0]),)))
        choice = chosen(pinned(world, {name_of(2): NEVER}), {key(101): BUSY, key(2): BUSY})
        assert choice == Choice(frozenset({key(1), key(101)}), {key(2): Reason.POLICY_OFF})

    def test_always_for_one_behind_the_switch_needs_no_traffic(self) -> None:
        assert self.chosen({name_of(1): ALWAYS}, {}).placed == {key(1)}

    def test_of_too_many_the_first_are_there_whatever_forwards_more(self) -> None:
        pins = {name_of(101): ALWAYS, name_of(102): ALWAYS}
        before = frozenset({key(102), key(1)})
        choice = self.chosen(pins, {key(102): BUSY}, before=before)
        assert choice == Choice(frozenset({key(101), key(1)}), {key(102): Reason.TABLE_FULL})

    def test_of_two_words_on_one_endpoint_never_holds(self) -> None:
        for one, other in ((ALWAYS, NEVER), (NEVER, ALWAYS)):
            choice = self.chosen({name_of(101): one, mac_of(101): other}, {key(101): BUSY})
            assert choice.reasons[key(101)] is Reason.POLICY_OFF

    def test_a_pin_on_nobody_changes_nothing(self) -> None:
        rates = {key(101): BUSY}
        pins = {"default/other/eth0": ALWAYS, "02:ff:00:00:00:01": NEVER}
        assert self.chosen(pins, rates) == self.chosen({}, rates)

    def test_a_pin_is_of_its_segment_only(self) -> None:
        world = desired(
            replace(view(GENEVE4, [behind(1)]), pins=(Pin(GENEVE4.name, name_of(1), NEVER),)),
            view(VXLAN4, [behind(1, VXLAN4)]),
        )
        choice = chosen(world, {key(1): BUSY, key(1, VXLAN4): BUSY})
        assert choice == Choice(frozenset({key(1, VXLAN4)}), {key(1): Reason.POLICY_OFF})

    @pytest.mark.parametrize(
        ("known", "why"),
        [
            pytest.param(capability(tunnels=frozenset()), Reason.UNSUPPORTED_ENCAP, id="encap"),
            pytest.param(
                capability(guards={"rep1": frozenset({Guard.MAC})}),
                Reason.UNSUPPORTED_GUARD,
                id="guard",
            ),
            pytest.param(capability(5), Reason.TABLE_FULL, id="a row too few"),
            pytest.param(capability(obstacle="not ours"), Reason.SWITCH_TAKEN, id="taken"),
        ],
    )
    def test_always_overrules_nothing_but_traffic(self, known: Capability, why: Reason) -> None:
        choice = self.chosen({name_of(101): ALWAYS}, {}, known)
        assert (choice.placed, choice.reasons[key(101)]) == (frozenset(), why)

    def test_always_waits_for_a_way_to_the_vtep(self) -> None:
        choice = chosen(pinned(self.WORLD, {name_of(101): ALWAYS}), {}, ways=())
        assert choice.reasons[key(101)] is Reason.NO_NEXTHOP

    def test_a_dead_device_keeps_nobody_in_mind_who_must_never_be_there(self) -> None:
        world = pinned(self.WORLD, {name_of(101): NEVER})
        away = SwitchView(None, "connection refused")
        before = frozenset({key(1), key(101)})
        choice = choose(world, away, frozenset(VTEP4), before)
        assert choice.placed == {key(1)}
        assert choice.reasons[key(101)] is Reason.POLICY_OFF


class TestHysteresis:
    FITS_ONE = capability(2 + LOCAL_ROWS)
    BEFORE = frozenset({key(1), key(101)})

    def placed(self, held: float, newcomer: float) -> frozenset[EntryKey]:
        rates = {key(101): held, key(102): newcomer}
        return chosen(one_port((101, 102)), rates, self.FITS_ONE, self.BEFORE).placed - {key(1)}

    @pytest.mark.parametrize(
        ("held", "newcomer", "who"),
        [
            pytest.param(100.0, 140.0, 101, id="a little more displaces nobody"),
            pytest.param(100.0, 160.0, 102, id="clearly more does"),
            pytest.param(5.0, 9.9, 101, id="below what makes an entry"),
            pytest.param(2.0, IDLE, 101, id="quiet keeps its place"),
        ],
    )
    def test_who_has_the_last_row(self, held: float, newcomer: float, who: int) -> None:
        assert self.placed(held, newcomer) == {key(who)}

    def test_what_has_fallen_silent_goes(self) -> None:
        assert self.placed(0.9, IDLE) == frozenset()

    def test_the_same_traffic_twice_changes_nothing(self) -> None:
        rates = {key(101): 100.0, key(102): 120.0}
        first = chosen(one_port((101, 102)), rates, self.FITS_ONE)
        again = chosen(one_port((101, 102)), rates, self.FITS_ONE, first.placed)
        assert again == first


class TestASwitchThatDoesNotCount:
    """What it holds is only measured where the software has it; here a second is a step."""

    ONE_ROW = capability(2 + LOCAL_ROWS, counts=False)
    SETTLED_S = 60

    def placed(
        self, traffic: Callable[[int], Mapping[int, float]], seconds: int, known: Capability
    ) -> list[frozenset[EntryKey]]:
        """Return what is placed second after second; ``traffic`` is what really is forwarded."""
        world = one_port(traffic(0))
        state = fold(State(LocalNode("n1", "eth0")), SwitchSeen(known))
        there = frozenset[EntryKey]()
        history = []
        for now in range(seconds):
            real = {key(number): rate for number, rate in traffic(now).items()}
            seen = {each: 0.0 if each in there else rate for each, rate in real.items()}
            state = fold(state, TrafficMeasured(seen, there))
            there = choose(world, state.switch, frozenset(VTEP4), there).placed
            history.append(there)
        return history

    def test_what_is_busy_stays(self) -> None:
        busy = self.placed(lambda _: {101: 50.0}, 400, self.ONE_ROW)
        assert key(101) in busy[0]
        assert left(busy) == []
        counted = self.placed(lambda _: {101: 50.0}, 60, capability())
        assert len(left(counted)) > 2, "nobody would notice if it counted"

    @pytest.mark.parametrize(("rate", "least_s"), [(40.0, 400), (1e6, 2000)])
    def test_what_has_fallen_silent_goes_some_time(self, rate: float, least_s: int) -> None:
        long = self.placed(lambda now: {101: rate if now < 30 else IDLE}, 3600, self.ONE_ROW)
        (gone,) = left(long)
        assert least_s < gone < least_s + 600
        assert long[-1] == frozenset()

    def test_what_is_busy_is_back_at_once_when_it_had_to_go(self) -> None:
        long = self.placed(lambda _: {101: 50.0}, 3600, self.ONE_ROW)
        gone = left(long)
        assert 1 <= len(gone) <= 3600 // 400
        assert all(key(101) in long[moment + 3] for moment in gone)

    def test_a_row_that_is_needed_goes_to_who_forwards_clearly_more(self) -> None:
        def traffic(now: int) -> Mapping[int, float]:
            return {101: 50.0, 102: 20.0 if now < 20 else 500.0}

        history = self.placed(traffic, 60, self.ONE_ROW)
        assert all(key(101) in each for each in history[:20])
        assert all(key(102) in each for each in history[25:])

    @given(st.dictionaries(st.integers(101, 105), st.floats(0, 1e4), min_size=1))
    @settings(max_examples=20)
    def test_whoever_is_busy_takes_turns_by_minutes(self, rates: dict[int, float]) -> None:
        history = self.placed(lambda _: rates, 600, self.ONE_ROW)
        assert all(_rows(one_port(rates), Choice(each)) <= 2 + LOCAL_ROWS for each in history)
        for number in rates:
            gone = [moment for moment in left(history, number) if moment > self.SETTLED_S]
            assert all(later - one > 40 for one, later in pairwise(gone)), gone


def left(history: Sequence[frozenset[EntryKey]], number: int = 101) -> list[int]:
    """Return when the endpoint with this number was placed no more."""
    steps = enumerate(pairwise(history), start=1)
    return [moment for moment, (before, now) in steps if key(number) in before - now]


def test_a_small_conversation_takes_the_room_that_a_large_one_cannot() -> None:
    crowd = [behind(number) for number in range(1, 9)]
    large = view(GENEVE4, crowd, (remote(101, GENEVE4, VTEP4[0]),))
    small = view(MAC_ONLY, [behind(1, MAC_ONLY)], (remote(102, MAC_ONLY, VTEP4[1]),))
    rates = {key(101): 9999.0, key(102, MAC_ONLY): BUSY}
    choice = chosen(desired(large, small), rates, capability(10))
    assert choice.placed == {key(102, MAC_ONLY), key(1, MAC_ONLY)}
    assert choice.reasons[key(101)] is Reason.TABLE_FULL


_numbers = st.integers(0, 31)
_PINS = st.dictionaries(
    _numbers.map(name_of) | _numbers.map(mac_of), st.sampled_from(Hardware), max_size=12
)


@given(
    st.dictionaries(_numbers, st.floats(0, 1e6), max_size=30),
    st.integers(0, 60),
    st.sets(_numbers),
    st.sets(st.sampled_from(VTEP4)),
    _PINS,
)
@example({1: 1.0}, 0, {1}, set(), {})
@example({10: 5.0}, 60, {10}, set(VTEP4), {})
def test_whatever_the_traffic(
    rates: dict[int, float],
    capacity: int,
    before: set[int],
    ways: set[IpAddress],
    pins: dict[str, Hardware],
) -> None:
    """Tables never overflow, every entry is placed or has its reason, and deciding again agrees."""
    ports = [behind(number) for number in (1, 2)] + [port(3, GENEVE4)]
    far = tuple(remote(n, GENEVE4, VTEP4[n % 2]) for n in range(10, 30))
    other = view(VXLAN4, [behind(4, VXLAN4)], (remote(31, VXLAN4, ip_address("192.0.2.9")),))
    world = pinned(desired(view(GENEVE4, ports, far), other), pins)
    known = capability(capacity)
    named = {key(n): rate for n, rate in rates.items()}
    there = frozenset(map(key, before))
    first = chosen(world, named, known, there, ways)
    assert chosen(world, named, known, ways=ways, held=there) == first  # an agent just started
    assert chosen(world, named, known, first.placed, ways, held=there) == first
    everyone = {key(n) for n in (1, 2, 3, *range(10, 30))} | {key(4, VXLAN4), key(31, VXLAN4)}
    assert first.placed | first.reasons.keys() == everyone
    assert not first.placed & first.reasons.keys()
    assert _rows(world, first) <= capacity
    assert chosen(world, named, known, first.placed, ways) == first
    never, always = _with(world, NEVER), _with(world, ALWAYS) - _with(world, NEVER)
    assert {first.reasons.get(each) for each in never} <= {Reason.POLICY_OFF}
    assert Reason.BELOW_THRESHOLD not in {first.reasons.get(each) for each in always}
    quiet = chosen(world, {}, known, frozenset(), ways)
    assert quiet.placed & always == first.placed & always


def _with(world: Desired, word: Hardware) -> set[EntryKey]:
    """Return by another road than the code whom the pins say ``word`` of."""
    found = set()
    for each in world.segments.values():
        named = {pin.endpoint for pin in each.pins if pin.hardware is word}
        members = [(port.attachment.identity, port.attachment.mac) for port in each.ports]
        members += [(far.endpoint.identity, far.endpoint.mac) for far in each.remotes]
        found |= {EntryKey(each.segment.vni, mac) for who, mac in members if named & {who, mac}}
    return found


def _rows(world: Desired, choice: Choice) -> int:
    """Count by another road than the code: what the placed entries take, each part once."""
    taken: Counter[object] = Counter()
    for each in world.segments.values():
        vni = each.segment.vni
        for local in each.ports:
            if EntryKey(vni, local.attachment.mac) in choice.placed:
                taken[vni, local.attachment.mac] = 2 + len(local.attachment.ips)
        for far in each.remotes:
            if EntryKey(vni, far.endpoint.mac) in choice.placed:
                taken[vni, far.endpoint.mac] = 1
                taken[vni, far.vtep] = 1
    return sum(taken.values())
