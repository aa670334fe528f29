"""What every vendor's switch keeps to, whatever it is made of: one suite for all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import cast

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from dataplane.core.capability import Part, Table
from dataplane.core.desired import Bindings, Desired, Port, PortState
from dataplane.core.diff import Change, Pending
from dataplane.core.errors import PartlyRefusedError, TargetError
from dataplane.core.model import Encap, EntryKey, Family, Guard, IpAddress, Segment
from dataplane.core.reasons import Reason
from tests.functional.marvell_device import REPRESENTORS
from tests.functional.overlay_switch import decapsulate, encapsulate
from tests.functional.switch_world import (
    CPU,
    FORWARDING,
    NEXT_HOPS,
    UP,
    WORLDS,
    ForwardingWorld,
    Stage,
    World,
    entries,
)
from tests.unit.overlay_builders import (
    GENEVE4,
    MAC_ONLY,
    NIC,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    desired,
    ips_of,
    mac_of,
    port,
    remote,
    view,
)
from vendors.assumed import ASSUMED

PING_S = 0.7  # contracts, Switch.ping
REASONS = {str(reason) for reason in Reason}


@pytest.fixture(scope="module", params=WORLDS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    with WORLDS[request.param](tmp_path_factory.mktemp("switch")) as made:
        yield made


@pytest.fixture(scope="module", params=FORWARDING)
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ForwardingWorld]:
    with FORWARDING[request.param](tmp_path_factory.mktemp("device")) as made:
        yield made


@pytest.fixture
def any_stage(world: World) -> Iterator[Stage]:
    stage = Stage(world)
    yield stage
    stage.strike()
    stage.switch.close()


@pytest.fixture
def stage(device: ForwardingWorld) -> Iterator[Stage]:
    stage = Stage(device)
    yield stage
    device.unlimit()
    stage.strike()
    stage.switch.close()


def vf(slot: int, segment: Segment, ips: tuple[IpAddress, ...] | None = None) -> Port:
    """Return workload ``slot`` on the VF behind the representor of its number, from 1."""
    plain = port(slot, segment, ips)
    netdev = f"rep{slot - 1}"
    return replace(plain, attachment=replace(plain.attachment, netdev=netdev))


def pair(segment: Segment = GENEVE4, vtep: IpAddress = VTEP4[0], remotes: int = 1) -> Desired:
    """Return a world of workload 1 on vf0 and workloads 10, 11.. behind a VTEP."""
    far = [remote(10 + number, segment, vtep) for number in range(remotes)]
    return desired(view(segment, [vf(1, segment)], far))


def key(number: int, segment: Segment = GENEVE4) -> EntryKey:
    return EntryKey(segment.vni, mac_of(number))


def frame(source: int, target: int, text: bytes = b"hello") -> bytes:
    """Return what workload ``source`` says to ``target``."""
    eth = Ether(src=mac_of(source), dst=mac_of(target))
    ip = IP(src=str(ips_of(source)[0]), dst=str(ips_of(target)[0]))
    return bytes(eth / ip / UDP(sport=1, dport=2) / text)


def goes_out(device: ForwardingWorld, target: int) -> bool:
    """Say whether the switch itself forwards from workload 1 to ``target``, else to the CPU."""
    sent = frame(1, target)
    answer = device.ask("vf0", sent)
    if answer == {"rep0": [sent]}:
        return False
    ((place, (found,)),) = answer.items()
    assert (place, decapsulate(found)[1]) == (UP, sent)
    return True


def comes_in(device: ForwardingWorld, source: int, segment: Segment, vtep: IpAddress) -> bool:
    """Say whether the switch itself delivers from ``source`` to workload 1, else to the CPU."""
    sent = frame(source, 1)
    answer = device.ask(UP, encapsulate(segment.encap, segment.vni, vtep, sent))
    if answer == {"vf0": [sent]}:
        return True
    assert list(answer) == [CPU]
    assert decapsulate(answer[CPU][0])[1] == sent
    return False


def tables(stage: Stage) -> dict[str, Table]:
    return {table.name: table for table in stage.switch.describe().tables}


def _has_remotes(table: Table) -> bool:
    return bool(table.rows.keys() & {Part.REMOTE, Part.WAY})


def _with_remotes(stage: Stage) -> tuple[str, Table]:
    """Return the table that takes rows for endpoints behind VTEPs."""
    return next((name, table) for name, table in tables(stage).items() if _has_remotes(table))


# --- what it says of itself ---------------------------------------------------------------


def test_a_switch_says_who_it_is_and_has_room_where_it_has_tables(any_stage: Stage) -> None:
    found = any_stage.switch.describe()
    assert found.vendor
    assert found.product
    assert found.obstacle == ""
    assert found.assumptions == ASSUMED.get(found.vendor, ())
    assert len({table.name for table in found.tables}) == len(found.tables)
    for table in found.tables:
        assert 0 <= table.foreign <= table.used <= table.capacity
    assert any_stage.switch.deadline_s > 0


def test_every_part_that_can_be_placed_takes_rows_somewhere(stage: Stage) -> None:
    taken = {part for table in tables(stage).values() for part in table.rows}
    staged = {Part.PORT, Part.LOCAL, Part.MEMBER, Part.REMOTE}
    assert staged <= taken or {Part.WAY, Part.ARRIVAL} <= taken


def test_it_has_guards_for_the_representors_of_its_ports_alone(stage: Stage) -> None:
    found = stage.switch.describe()
    assert set(found.guards) == set(REPRESENTORS)
    assert all(guards <= set(Guard) for guards in found.guards.values())
    assert found.tunnels <= {(encap, family) for encap in Encap for family in Family}


def test_an_emulated_switch_says_so(stage: Stage) -> None:
    assert stage.switch.describe().emulated


def test_rows_that_are_used_grow_with_what_is_placed_and_go_with_it(stage: Stage) -> None:
    before = tables(stage)
    wanted = pair(remotes=3)
    stage.place(wanted)
    after = tables(stage)
    for name, table in after.items():
        parts = {Part.PORT: 1, Part.ADDRESS: 2, Part.LOCAL: 1, Part.MEMBER: 1, Part.REMOTE: 3}
        parts |= {Part.WAY: 2 * 3, Part.ARRIVAL: 1}
        most = sum(table.rows.get(part, 0) * number for part, number in parts.items())
        assert before[name].used <= table.used <= before[name].used + most
        assert table.foreign == before[name].foreign
    assert sum(t.used for t in after.values()) > sum(t.used for t in before.values())
    held = stage.switch.describe().rows
    assert held >= sum(table.used - table.foreign for table in after.values())
    stage.place(wanted, frozenset({key(1), key(10)}))
    assert 0 < stage.switch.describe().rows < held
    stage.strike()
    assert tables(stage) == before
    assert stage.switch.describe().rows == 0


def test_rows_of_others_are_counted_and_stay(device: ForwardingWorld, stage: Stage) -> None:
    name, before = _with_remotes(stage)
    with device.shared(name):
        shared = tables(stage)[name]
        assert (shared.foreign, shared.used) == (before.foreign + 1, before.used + 1)
        assert stage.switch.describe().obstacle == ""
        stage.place(pair())
        assert tables(stage)[name].foreign == before.foreign + 1
    assert tables(stage)[name].foreign == before.foreign


def test_who_has_programmed_it_is_named_and_what_was_placed_stays(
    device: ForwardingWorld, stage: Stage
) -> None:
    wanted = pair()
    bound = stage.place(wanted)
    with device.taken() as word:
        found = stage.switch.describe()
        assert word in found.obstacle
        assert not stage.change(wanted, bound)
        assert not found.forwards or goes_out(device, 10)
    assert stage.switch.describe().obstacle == ""


# --- what is placed -------------------------------------------------------------------------


def test_of_nothing_comes_a_claim_at_most(any_stage: Stage) -> None:
    """By what a driver holds while nothing is placed others see whose the device is."""
    claims = []
    for wanted in (desired(), pair()):
        for bound in (Bindings(), Bindings(NIC, next_hops=NEXT_HOPS)):
            rendering = any_stage.switch.render(wanted, bound)
            assert rendering.pending == ()
            claims.append(dict(rendering.items))
    assert all(claim == claims[0] for claim in claims)
    any_stage.repair(pair(), Bindings(NIC, next_hops=NEXT_HOPS))
    any_stage.switch.apply(Change())
    assert any_stage.switch.counters() == {}
    tables = any_stage.switch.describe().tables
    assert all(table.used == table.foreign for table in tables)


def test_what_is_placed_is_held_at_once_and_found_by_another_driver(
    device: ForwardingWorld, stage: Stage
) -> None:
    wanted = pair(remotes=3)
    bound = stage.place(wanted)
    assert set(stage.switch.counters()) == entries(wanted)
    other = Stage(device)
    assert set(other.switch.counters()) == entries(wanted)
    other.repair(wanted, bound)
    other.switch.close()


def test_one_entry_is_withdrawn_and_the_others_are_not_touched(
    device: ForwardingWorld, stage: Stage
) -> None:
    wanted = pair(remotes=2)
    stage.place(wanted)
    assert (goes_out(device, 10), goes_out(device, 11)) == (True, True)
    stage.place(wanted, frozenset({key(1), key(10)}))
    assert (goes_out(device, 10), goes_out(device, 11)) == (True, False)
    assert set(stage.switch.counters()) == {key(1), key(10)}


def test_what_stays_goes_on_when_the_other_family_and_encapsulation_go(
    device: ForwardingWorld, stage: Stage
) -> None:
    both = [
        view(GENEVE4, [vf(1, GENEVE4)], [remote(10, GENEVE4, VTEP4[0])]),
        view(VXLAN6, [vf(2, VXLAN6)], [remote(20, VXLAN6, VTEP6[0])]),
    ]
    stage.place(desired(*both))
    stage.place(desired(*both), frozenset({key(1), key(10)}))
    assert goes_out(device, 10)
    assert comes_in(device, 10, GENEVE4, VTEP4[0])


def test_an_endpoint_that_moved_is_sent_to_where_it_is_now(
    device: ForwardingWorld, stage: Stage
) -> None:
    for vtep in (VTEP4[0], VTEP4[1], VTEP4[0]):
        stage.place(pair(vtep=vtep))
        ((sent,),) = device.ask("vf0", frame(1, 10)).values()
        assert decapsulate(sent)[0].target == str(vtep)
        assert Ether(sent).dst == NEXT_HOPS[vtep]
        assert comes_in(device, 10, GENEVE4, vtep)


def test_a_view_that_is_not_complete_takes_nothing_away(stage: Stage) -> None:
    wanted = pair(remotes=2)
    bound = stage.place(wanted)
    partial = desired(view(GENEVE4, [vf(1, GENEVE4)], [], synced=False))
    assert not stage.change(partial, bound).remove


@pytest.mark.parametrize("loss", range(5))
def test_what_the_device_loses_is_set_again(
    device: ForwardingWorld, stage: Stage, loss: int
) -> None:
    losses = device.losses()
    for name in list(losses)[loss::5]:
        wanted = pair(remotes=3)
        bound = stage.place(wanted)
        losses[name]()
        _wait_until_alive(stage)
        stage.repair(wanted, bound)
        assert goes_out(device, 12), name
        assert comes_in(device, 12, GENEVE4, VTEP4[0]), name


def _wait_until_alive(stage: Stage) -> None:
    give_up = time.monotonic() + 10
    while True:
        try:
            stage.switch.describe()
        except TargetError:
            assert time.monotonic() < give_up
            time.sleep(0.05)
        else:
            return


# --- what cannot be -------------------------------------------------------------------------


def _blocked() -> Port:
    return replace(
        vf(1, GENEVE4), state=PortState.BLOCKED, reason=Reason.DUPLICATE, detail="two of them"
    )


FAR = remote(10, GENEVE4, VTEP4[0])


@pytest.mark.parametrize(
    ("wanted", "bound", "about", "reason"),
    [
        pytest.param(
            desired(view(GENEVE4, [port(1, GENEVE4)], [FAR])),
            Bindings(NIC, next_hops=NEXT_HOPS),
            {key(1), key(10)},
            Reason.NO_SWITCH_PORT,
            id="a veth",
        ),
        pytest.param(
            desired(view(GENEVE4, [_blocked()], [])),
            Bindings(NIC, next_hops=NEXT_HOPS),
            {key(1)},
            Reason.DUPLICATE,
            id="a blocked port",
        ),
        pytest.param(
            desired(view(GENEVE4, [_blocked()], [FAR])),
            Bindings(NIC, next_hops=NEXT_HOPS),
            {key(10)},
            Reason.NO_SWITCH_PORT,
            id="an endpoint that nobody may reach",
        ),
        pytest.param(pair(), Bindings(NIC), {key(10)}, Reason.NO_NEXTHOP, id="no next hop"),
        pytest.param(
            pair(),
            Bindings(next_hops=NEXT_HOPS),
            {key(1), key(10)},
            Reason.NO_NEXTHOP,
            id="no NIC",
        ),
        pytest.param(
            replace(pair(VXLAN6, VTEP6[0]), vteps=(VTEP4[1],)),
            Bindings(NIC, next_hops=NEXT_HOPS),
            {key(10, VXLAN6)},
            Reason.UNSUPPORTED_ENCAP,
            id="no VTEP of that family",
        ),
    ],
)
def test_what_cannot_be_expressed_is_pending_with_its_reason(
    stage: Stage, wanted: Desired, bound: Bindings, about: set[EntryKey], reason: Reason
) -> None:
    bound = replace(bound, placed=entries(wanted))
    rendering = stage.switch.render(stage.suited(wanted), bound)
    found = {p.about: p.reason for p in rendering.pending if p.about in about}
    assert set(found) == about
    for text in found.values():
        assert text.startswith(f"{reason}: ")
        assert len(text) > len(f"{reason}: ")
    assert all(isinstance(each, Pending) for each in rendering.pending)
    assert {each.reason.partition(":")[0] for each in rendering.pending} <= REASONS


# --- tables -----------------------------------------------------------------------------------


def test_what_a_full_table_has_no_room_for_is_refused_by_entry(
    device: ForwardingWorld, stage: Stage
) -> None:
    name, _ = _with_remotes(stage)
    device.limit(name, 9)
    # Who does not say its size has one filter for the VF, and two for each of those it may send to.
    room = tables(stage)[name].room if device.says_room else 1 + (9 - 1) // 2
    wanted = pair(remotes=20)
    bound = Bindings(NIC, next_hops=NEXT_HOPS, placed=entries(wanted))
    with pytest.raises(PartlyRefusedError) as refusal:
        stage.repair(wanted, bound)
    refused = refusal.value.refused
    assert refusal.value.standing
    assert len(refused) == 21 - room
    for text in refused.values():
        assert text.startswith(f"{Reason.TABLE_FULL}: ")
        assert device.full_words in text
    device.refresh()
    assert set(stage.switch.counters()) == entries(wanted) - refused.keys()
    for number in range(10, 30):
        assert goes_out(device, number) == (key(number) not in refused)
    found = tables(stage)[name]
    assert found.used == found.capacity
    device.unlimit()
    stage.repair(wanted, bound)
    assert set(stage.switch.counters()) == entries(wanted)


@pytest.mark.parametrize("spare", range(4))
def test_no_entry_is_ever_held_in_part(device: ForwardingWorld, stage: Stage, spare: int) -> None:
    segments = [
        view(GENEVE4, [vf(1, GENEVE4)], [remote(10 + n, GENEVE4, VTEP4[n % 2]) for n in range(4)]),
        view(VXLAN4, [vf(2, VXLAN4)], [remote(20 + n, VXLAN4, VTEP4[n % 2]) for n in range(4)]),
    ]
    wanted = desired(*segments)
    for name, table in _tables_in_use(stage, wanted).items():
        fixed = _rows_in_use_beside_entries(device, stage, name)
        device.limit(name, fixed + table.foreign + spare)
        held = entries(wanted) - _refused(stage, wanted)
        device.refresh()
        assert spare or held < entries(wanted), name
        assert set(stage.switch.counters()) == held, name
        for number in range(10, 14):
            if key(number) in held:
                assert goes_out(device, number), name
                assert comes_in(device, number, GENEVE4, VTEP4[number % 2]), name
        device.unlimit()
        stage.strike()


def test_what_is_there_goes_on_where_more_does_not_fit(
    device: ForwardingWorld, stage: Stage
) -> None:
    small = pair()
    more = desired(
        view(
            GENEVE4,
            [vf(1, GENEVE4), vf(2, GENEVE4)],
            [remote(10, GENEVE4, VTEP4[0]), remote(11, GENEVE4, VTEP4[1])],
        )
    )
    for name, table in _tables_in_use(stage, more).items():
        stage.place(small)
        used = tables(stage)[name].used - table.used
        device.limit(name, _rows_in_use_beside_entries(device, stage, name) + table.used + used)
        refused = _refused(stage, more)
        assert refused or not _has_remotes(table), name
        device.refresh()
        assert goes_out(device, 10), name
        assert comes_in(device, 10, GENEVE4, VTEP4[0]), name
        assert not refused & stage.switch.counters().keys(), name
        device.unlimit()
        stage.strike()


def _tables_in_use(stage: Stage, wanted: Desired) -> dict[str, Table]:
    """Return the tables, as they are without it, that something of ``wanted`` stands in."""
    before = tables(stage)
    stage.place(wanted)
    after = tables(stage)
    stage.strike()
    return {name: table for name, table in before.items() if after[name].used > table.used}


def _refused(stage: Stage, wanted: Desired) -> set[EntryKey]:
    """Return what the device refused, all else being set."""
    try:
        stage.place(wanted)
    except PartlyRefusedError as error:
        return cast("set[EntryKey]", set(error.refused))
    return set()


def _rows_in_use_beside_entries(device: ForwardingWorld, stage: Stage, name: str) -> int:
    """Return how many rows of a table no entry counts: what its limit exceeds the capacity by."""
    if not device.says_room:
        return 0
    device.limit(name, 1000)
    found = 1000 - tables(stage)[name].capacity
    device.unlimit()
    return found


# --- counters ---------------------------------------------------------------------------------


def test_a_counter_moves_with_the_frames_that_its_entry_forwards_and_no_others(
    device: ForwardingWorld, stage: Stage
) -> None:
    stage.place(pair(remotes=2), frozenset({key(1), key(10)}))
    quiet = stage.switch.counters()
    assert {each.packets for each in quiet.values()} == {0}

    sent = frame(1, 10)
    for _ in range(3):
        device.ask("vf0", sent)
    device.refresh()
    found = stage.switch.counters()
    assert (found[key(10)].packets, found[key(1)].packets) == (3, 0)
    assert found[key(10)].bytes == 3 * len(sent)

    device.ask(UP, encapsulate(GENEVE4.encap, GENEVE4.vni, VTEP4[0], frame(10, 1)))
    device.refresh()
    assert stage.switch.counters()[key(1)].packets == device.counts_arrivals

    before = stage.switch.counters()
    for text in (frame(1, 11), frame(2, 10), frame(1, 99)):  # not placed, spoofed, unknown
        assert device.ask("vf0", text) == {"rep0": [text]}
    device.ask(UP, encapsulate(GENEVE4.encap, 999, VTEP4[0], frame(10, 1)))
    device.refresh()
    assert stage.switch.counters() == before


def test_setting_again_what_is_there_keeps_the_counters(
    device: ForwardingWorld, stage: Stage
) -> None:
    wanted = pair()
    bound = stage.place(wanted)
    device.ask("vf0", frame(1, 10))
    device.refresh()
    stage.repair(wanted, bound)
    assert stage.switch.counters()[key(10)].packets == 1


# --- a device that does not answer ------------------------------------------------------------


def test_a_device_that_hangs_is_an_error_in_time_and_no_loss(
    device: ForwardingWorld, stage: Stage
) -> None:
    wanted = pair()
    bound = stage.place(wanted)
    change = Change(remove=stage.switch.observe())
    with device.hung():
        began = time.monotonic()
        with pytest.raises(TargetError):
            stage.switch.ping()
        assert time.monotonic() - began < 5 * PING_S
        for call in (
            stage.switch.describe,
            stage.switch.observe,
            stage.switch.counters,
            lambda: stage.switch.apply(change),
        ):
            began = time.monotonic()
            with pytest.raises(TargetError):
                call()
            assert time.monotonic() - began < stage.switch.deadline_s
    stage.repair(wanted, bound)
    assert goes_out(device, 10)


def test_guards_can_be_mixed_on_one_device(device: ForwardingWorld, stage: Stage) -> None:
    guarded = view(GENEVE4, [vf(1, GENEVE4)], [remote(10, GENEVE4, VTEP4[0])])
    free = view(MAC_ONLY, [vf(2, MAC_ONLY)], [remote(10, MAC_ONLY, VTEP4[0])])
    stage.place(desired(guarded, free))
    other_address = Ether(frame(2, 10))
    other_address[IP].src = "10.99.0.1"
    assert list(device.ask("vf1", bytes(other_address))) == [UP]
    if device.guard is Guard.IP:
        other_address.src = mac_of(1)
    assert device.ask("vf0", bytes(other_address)) == {"rep0": [bytes(other_address)]}
