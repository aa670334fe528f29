"""A workload that moves too often stays where it is until it has calmed down (RFC 7432)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.core.admission import TRY_AGAIN
from dataplane.core.desired import PortState
from dataplane.core.events import (
    AttachmentsLoaded,
    AttachRequest,
    Detached,
    FabricChanged,
    PodConnected,
    TakenOver,
)
from dataplane.core.mobility import MAX_MOVES, MOVES_PERIOD_S, frozen_for, moves_after
from dataplane.core.model import AttachmentKey, Endpoint, FabricEntity, Grant
from dataplane.core.reasons import Reason
from dataplane.core.state import State
from tests.unit.fabric_simulation import BLUE, Database, SimulatedNode, quiesce
from tests.unit.test_core_state import (
    AWAY,
    BACK,
    NOW,
    OTHER,
    OWN_BLOCK,
    POD,
    after,
    desired,
    remote,
    request,
    restarted,
    rows,
    synced,
    tell_synced,
)

AGO = MOVES_PERIOD_S


def ago(*seconds: int) -> tuple[int, ...]:
    return tuple(NOW - each for each in seconds)


MOVES = [
    pytest.param((), ago(0), id="the first"),
    pytest.param(ago(9), ago(9, 0), id="one more"),
    pytest.param(ago(AGO, AGO - 1), ago(AGO - 1, 0), id="what has aged goes"),
    pytest.param(ago(1, 0), ago(1, 0, -1), id="two in one second are two"),
    pytest.param(ago(0, -1), ago(0, -1, -2), id="three in one second are three"),
    pytest.param(ago(5, -30), ago(5, 0, -30), id="a time ahead is kept"),
]


@pytest.mark.parametrize(("before", "afterwards"), MOVES)
def test_what_is_counted_after_a_move(before: tuple[int, ...], afterwards: tuple[int, ...]) -> None:
    assert moves_after(before, NOW) == afterwards


FREEZES = [
    pytest.param((), 0, id="never moved"),
    pytest.param(ago(40, 30, 20, 10), 0, id="the fifth may be"),
    pytest.param(ago(50, 40, 30, 20, 10), AGO - 50, id="the sixth waits for the first to age"),
    pytest.param(ago(AGO - 1, 4, 3, 2, 1), 1, id="the last second"),
    pytest.param(ago(AGO, 4, 3, 2, 1), 0, id="the window has passed"),
    pytest.param(ago(60, 50, 40, 30, 20, 10), AGO - 50, id="more than should be: two must age"),
    pytest.param(ago(-5, -6, -7, -8, -9), AGO, id="times ahead count as now"),
]


@pytest.mark.parametrize(("moves", "seconds"), FREEZES)
def test_how_long_it_is_frozen(moves: tuple[int, ...], seconds: int) -> None:
    assert frozen_for(moves, NOW) == frozen_for(reversed(moves), NOW) == seconds


@given(st.lists(st.integers(0, 60), max_size=60))
def test_never_more_than_five_in_the_period_and_no_move_is_refused_for_nothing(
    pauses: list[int],
) -> None:
    now, moves, taken = NOW, ago(), list[int]()
    for pause in pauses:
        now += pause
        wait_s = frozen_for(moves, now)
        # A time that was put off to the next free second ages as much later.
        assert bool(wait_s) <= (sum(t > now - AGO - MAX_MOVES for t in taken) >= MAX_MOVES)
        if not wait_s:
            taken.append(now)
            moves = moves_after(moves, now)
        assert sum(t > now - AGO for t in taken) <= MAX_MOVES
        assert frozen_for(moves, now + frozen_for(moves, now)) == 0


FLAPPED = ago(50, 40, 30, 20, 10)


def elsewhere(*moves: int) -> Endpoint:
    """Return the row of the node from which the workload comes."""
    return replace(remote("ns/pod/eth0", sequence=len(moves)), moves=moves)


COUNTED = [
    pytest.param([], (), id="the first attach is no move"),
    pytest.param([replace(remote(), moves=ago(9))], (), id="another workload's do not count"),
    pytest.param([elsewhere()], ago(0), id="the first move"),
    pytest.param([elsewhere(*ago(99, 9))], ago(99, 9, 0), id="the third"),
    pytest.param([elsewhere(*ago(999, 9))], ago(9, 0), id="an old one is forgotten"),
    pytest.param(
        [Grant("blue", "n1"), elsewhere(*FLAPPED)], (), id="a row that is not granted holds nothing"
    ),
]


@pytest.mark.parametrize(("entities", "moves"), COUNTED)
def test_what_an_attach_publishes(entities: list[FabricEntity], moves: tuple[int, ...]) -> None:
    state = after(*synced(OWN_BLOCK, *entities), request(), TakenOver(POD))
    publication = desired(state).publication
    assert publication is not None
    assert [endpoint.moves for endpoint in publication.endpoints] == [moves]


def test_the_sixth_move_is_refused_and_says_what_to_do() -> None:
    state = after(*synced(OWN_BLOCK, elsewhere(*FLAPPED)), request())
    refusal = state.refusals[POD]
    assert refusal.code == TRY_AGAIN
    assert refusal.message == (
        "MAC 02:00:00:00:00:02 on segment blue has moved 5 times within 180 s and stays on node n2:"
        " wait 130 s, or find out whether two workloads claim the identity ns/pod/eth0"
    )
    assert not state.attachments


def test_it_moves_again_once_the_window_has_passed() -> None:
    state = after(*synced(OWN_BLOCK, elsewhere(*FLAPPED)), request(requested_at=NOW + 129))
    assert state.refusals[POD].code == TRY_AGAIN
    state = after(request(requested_at=NOW + 130), state=state)
    assert state.attachments[POD].moves == (*FLAPPED[1:], NOW + 130)


def test_others_go_on_moving() -> None:
    wanderer = replace(remote(mac="02:00:00:00:00:03"), moves=ago(9), ips=())
    frozen, free = request(), request(key=OTHER, identity=wanderer.identity, mac=wanderer.mac)
    state = after(*synced(OWN_BLOCK, elsewhere(*FLAPPED), wanderer), frozen, free)
    assert POD in state.refusals
    assert state.attachments[OTHER].moves == ago(9, 0)


def test_a_second_one_on_the_same_node_moves_nothing_and_forgets_nothing() -> None:
    state = after(*synced(OWN_BLOCK, elsewhere(*FLAPPED[1:])), request())
    counted = state.attachments[POD].moves
    assert len(counted) == MAX_MOVES
    state = after(request(key=OTHER), state=state)
    assert state.attachments[OTHER].moves == counted
    assert desired(state).ports[0].reason is Reason.SUPERSEDED


def test_what_is_left_of_an_earlier_place_here_hides_no_move() -> None:
    """The place that was left is on this node: a new one still comes from where it went."""
    state = after(*synced(OWN_BLOCK), request())
    mine = state.attachments[POD]
    winner = replace(elsewhere(*FLAPPED), mac=mine.mac)
    state = after(rows(winner), request(key=OTHER), state=state)
    assert state.refusals[OTHER].code == TRY_AGAIN


def test_nothing_that_comes_later_adds_a_move() -> None:
    state = after(*synced(OWN_BLOCK, elsewhere(*ago(9))), request())
    before = desired(state).publication
    state = after(FabricChanged(deletes=(elsewhere(*ago(9)),)), AWAY, BACK, state=state)
    assert desired(state).publication == before
    assert restarted(state).attachments == state.attachments


def attached_while_away(*entities: FabricEntity, told: tuple[FabricEntity, ...] = ()) -> State:
    keeper = request(key=OTHER, identity="keeps the segment present")
    here = (PodConnected(POD), TakenOver(POD))
    state = after(*synced(OWN_BLOCK, *entities), keeper, AWAY, request(), *here)
    assert state.attachments[POD].sequence is None
    assert desired(state).ports[1].state is PortState.ACTIVE
    return after(rows(*told), BACK, state=state)


LATE = [
    pytest.param(elsewhere(*FLAPPED), (), id="known before"),
    pytest.param(elsewhere(*ago(9)), (elsewhere(*FLAPPED),), id="told with the rest"),
    pytest.param(elsewhere(), (elsewhere(*ago(-9, -8, -7, -6, -5)),), id="all of it meanwhile"),
]


@pytest.mark.parametrize(("known", "told"), LATE)
def test_one_move_too_many_found_only_later_is_blocked(
    known: Endpoint, told: tuple[FabricEntity, ...]
) -> None:
    state = attached_while_away(known, told=told)
    port = desired(state).ports[1]
    assert (port.state, port.reason) == (PortState.BLOCKED, Reason.MAC_FROZEN)
    assert port.detail == (
        "MAC 02:00:00:00:00:02 on segment blue has moved 5 times within 180 s and stays on node n2:"
        " once it stands still, detach and attach it here again"
    )
    view = desired(state).segments["blue"]
    assert [remote.endpoint.node for remote in view.remotes] == ["n2"]
    publication = desired(state).publication
    assert publication is not None
    assert [endpoint.container_id for endpoint in publication.endpoints] == ["other"]


def test_who_was_frozen_later_stays_so_until_it_is_detached() -> None:
    row = elsewhere(*FLAPPED)
    state = attached_while_away(row)
    gone = after(FabricChanged(deletes=(row,)), AWAY, BACK, state=state)
    assert desired(gone).ports == desired(state).ports
    assert desired(restarted(state)).ports == desired(state).ports
    again = tell_synced(after(*synced(), state=restarted(state)))
    assert desired(again).ports == desired(state).ports


def test_a_late_one_that_may_move_takes_what_is_counted_along() -> None:
    state = attached_while_away(elsewhere(*ago(9)), told=(elsewhere(*ago(9, -9)),))
    assert state.attachments[POD].moves == ago(9, 0, -9)
    assert desired(state).ports[1].state is PortState.ACTIVE


def test_a_late_one_of_a_file_without_its_time_is_judged_carefully() -> None:
    """An earlier version did not write it down: what others say counts as now."""
    state = attached_while_away(elsewhere())
    files = desired(state)
    old = tuple(replace(a, sequence=None, requested_at=0, moves=()) for a in files.attachments)
    loaded = AttachmentsLoaded(old, files.kept)
    state = tell_synced(after(loaded, *synced(OWN_BLOCK, elsewhere(*FLAPPED))))
    assert desired(state).ports[1].reason is Reason.MAC_FROZEN


def test_addresses_of_a_frozen_one_are_not_given_to_others() -> None:
    third = request(key=AttachmentKey("third", "eth0"), identity="third")
    state = after(third, state=attached_while_away(elsewhere(*FLAPPED)))
    assert len({ip for a in state.attachments.values() for ip in a.ips}) == 3


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from([0, 1, 20, 45, 90, 180]), st.booleans(), st.booleans()
    ),
    max_size=25,
)
WIDE = replace(BLUE, subnets=(ip_network("10.0.0.0/20"),))  # no address is ever missing


class Watched:
    """Two workloads that go from node to node, and what an onlooker counts of the first's moves."""

    def __init__(self) -> None:
        self.database = Database()
        self.database.write(WIDE)
        self.nodes = [SimulatedNode(number, self.database) for number in (1, 2, 3)]
        quiesce(self.database)
        self.now = NOW
        self.steps = 0
        self.places: dict[str, tuple[SimulatedNode, AttachmentKey]] = {}
        self.moves: list[int] = []

    def attach(self, here: SimulatedNode, identity: str, *, away: bool) -> bool:
        """Attach a workload, and take it away where it was; return whether it is here then."""
        self.steps += 1
        key = AttachmentKey(f"c{self.steps}", "eth0")
        if away:
            here.unlink()
            here.deliver(len(here.queue))
        here.ask(AttachRequest(key, "/run/netns/pod", "blue", identity, self.now))
        if not away:
            quiesce(self.database)
        refusal = here.last_word(key)
        quiesce(self.database)
        if refusal is not None:
            assert refusal.code == TRY_AGAIN
            return False
        if here.state.attachments[key].blocked:
            here.take(Detached(key))
            return False
        old = self.places.get(identity)
        self.places[identity] = here, key
        if old:
            old[0].take(Detached(old[1]))
        quiesce(self.database)
        return True

    def is_one_too_many(self, here: SimulatedNode) -> bool:
        moves = "hot" in self.places and self.places["hot"][0] is not here
        return moves and sum(self.now - t < AGO for t in self.moves) >= MAX_MOVES

    def count(self, before: SimulatedNode, here: SimulatedNode) -> None:
        if before is not here:
            self.moves.append(max(self.now, self.moves[-1] + 1) if self.moves else self.now)


@given(STEPS)
@settings(max_examples=40)
def test_no_workload_moves_more_than_five_times_in_180_s(
    steps: list[tuple[int, int, bool, bool]],
) -> None:
    """One that keeps away from it goes where it likes meanwhile."""
    all_of = Watched()
    for number, (node, pause, away, restart) in enumerate(steps):
        all_of.now += pause
        here = all_of.nodes[node]
        if restart:
            here.restart()
        refused = all_of.is_one_too_many(here)
        before = all_of.places.get("hot", (here,))[0]
        attached = all_of.attach(here, "hot", away=away)
        assert not (attached and refused)
        assert attached or refused or away
        if attached:
            all_of.count(before, here)
        assert all_of.attach(here, f"calm{number // MAX_MOVES}", away=False)
