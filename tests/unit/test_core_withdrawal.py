"""What a DPU's switch may still hold of a port or an entry that is another's by now."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataplane.core.desired import Desired, Port, PortState, RemoteEndpoint
from dataplane.core.model import EntryKey, Guard
from dataplane.core.offload import Choice, SwitchView, choose
from dataplane.core.reasons import Reason
from dataplane.core.withdrawal import Rows, first_standing, leaving, loaded_standing, next_standing
from tests.unit.overlay_builders import GENEVE4, VTEP4, VXLAN4, desired, port, remote, trunk, view
from tests.unit.test_core_offload import BUSY, behind, capability, key

OWN, FAR = key(1), key(101)
ALL = frozenset({OWN, FAR})
THERE = remote(101, GENEVE4, VTEP4[0])


def world(own: Port | None = None, far: RemoteEndpoint | None = THERE) -> Desired:
    ports = [] if own is None else [own]
    segment = GENEVE4 if own is None else own.segment
    return desired(view(segment, ports, () if far is None else (far,)))


def at_rep1(own: Port) -> Port:
    return replace(own, attachment=replace(own.attachment, netdev="rep1"))


def with_guard(guard: Guard) -> Port:
    own = behind(1)
    return replace(own, segment=replace(own.segment, guard=guard))


CHANGES = [
    pytest.param(world(behind(1)), set(), id="nothing"),
    pytest.param(world(), {"rep1", OWN}, id="the port's pod is gone"),
    pytest.param(world(at_rep1(port(2, GENEVE4))), {"rep1", OWN}, id="another pod"),
    pytest.param(world(trunk(1, GENEVE4, 5)), {"rep1", OWN}, id="it is a trunk now"),
    pytest.param(
        desired(view(VXLAN4, [behind(1, VXLAN4)], ()), view(GENEVE4, [], (THERE,))),
        {"rep1", OWN},
        id="another segment",
    ),
    pytest.param(
        world(replace(behind(1), state=PortState.BLOCKED, reason=Reason.SUPERSEDED)),
        {"rep1", OWN},
        id="blocked",
    ),
    pytest.param(world(with_guard(Guard.MAC)), {"rep1"}, id="another guard"),
    pytest.param(world(behind(1), None), {FAR}, id="the far pod is gone"),
    pytest.param(
        world(behind(1), remote(101, GENEVE4, VTEP4[1])), {FAR}, id="the far pod has moved"
    ),
]


@pytest.mark.parametrize(("now", "expected"), CHANGES)
def test_what_has_to_go_first(now: Desired, expected: set[Hashable]) -> None:
    standing = next_standing({}, world(behind(1)), ALL, 1)
    assert leaving(standing, now) == expected


def test_what_was_never_placed_has_not_to_go() -> None:
    assert leaving(next_standing({}, world(behind(1)), frozenset(), 1), world()) == frozenset()


def test_an_earlier_run_may_have_left_rows_of_what_it_knew() -> None:
    standing = first_standing(world(behind(1)), 1, {})
    assert leaving(standing, world(behind(1))) == frozenset()
    assert leaving(standing, world(None, None)) == {"rep1"}
    assert standing["rep1"].unwanted == 1


def test_of_a_trunk_port_the_switch_holds_nothing() -> None:
    tagged = world(trunk(1, GENEVE4, 5))
    assert next_standing({}, tagged, ALL, 1).keys() == {FAR}
    assert loaded_standing([trunk(1, GENEVE4, 5).attachment]) == {}
    loaded = loaded_standing([behind(1).attachment])  # it became one before all was known
    assert leaving(first_standing(tagged, 7, loaded), tagged) == {"rep1"}


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(world(behind(1)), set(), id="the same"),
        pytest.param(world(), {"rep1"}, id="gone"),
        pytest.param(world(at_rep1(port(2, GENEVE4))), {"rep1"}, id="another pod"),
        pytest.param(world(behind(1, VXLAN4)), {"rep1"}, id="another segment"),
        pytest.param(
            world(replace(behind(1), state=PortState.BLOCKED, reason=Reason.SUPERSEDED)),
            {"rep1"},
            id="blocked",
        ),
    ],
)
def test_what_became_of_a_port_before_anything_was_wanted(
    now: Desired, expected: set[Hashable]
) -> None:
    loaded = loaded_standing([behind(1).attachment, port(2, GENEVE4).attachment])
    assert loaded.keys() == {"rep1"}
    standing = first_standing(now, 7, loaded)
    assert leaving(standing, now) == expected
    assert {rows.unwanted for rows in standing.values()} <= {7}


@pytest.mark.parametrize(
    ("going", "unplaced"),
    [
        pytest.param({"rep1"}, {OWN, FAR}, id="the only port"),
        pytest.param({OWN}, {OWN, FAR}, id="the only pod behind it"),
        pytest.param({FAR}, {FAR}, id="the far pod"),
    ],
)
def test_what_has_to_go_is_not_placed_anew(going: set[Hashable], unplaced: set[EntryKey]) -> None:
    rates = {OWN: BUSY, FAR: BUSY}
    seen = SwitchView(capability(), rates=rates, held=frozenset())
    assert choose(world(behind(1)), seen, VTEP4, ALL) == Choice(ALL, {})
    choice = choose(world(behind(1)), replace(seen, leaving=frozenset(going)), VTEP4, ALL)
    assert choice == Choice(ALL - unplaced, dict.fromkeys(unplaced, Reason.PENDING))


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, 1, 2]), st.booleans(), st.sampled_from(["", "late", "done"])
        )
    )
)
@example([(1, True, "done"), (None, False, ""), (2, False, "")])
def test_no_port_is_free_while_the_switch_holds_another_pods_rows(
    steps: list[tuple[int | None, bool, str]],
) -> None:
    """The switch takes the newest job when it gets to it, and its word comes late or at once."""
    standing: dict[Hashable, Rows] = {}
    really: Hashable = None  # whose rows rep1 has
    told = -1  # the newest generation that the agent has heard of
    word = -1
    for generation, (number, is_busy, answer) in enumerate(steps):
        own = None if number is None else at_rep1(port(number, GENEVE4))
        now = world(own)
        standing = {
            name: rows
            for name, rows in standing.items()
            if rows.unwanted is None or rows.unwanted > told
        }
        going = leaving(standing, now)
        is_placed = is_busy and own is not None and "rep1" not in going
        placed = frozenset({key(number)} if is_placed and number else ())
        standing = next_standing(standing, now, placed, generation)
        if answer:
            really = number if is_placed else None
            word = generation
        told = word if answer == "done" else told
        assert really in (None, number) or "rep1" in leaving(standing, now)


def test_a_pod_that_comes_back_need_not_go() -> None:
    standing = next_standing({}, world(behind(1)), ALL, 1)
    standing = next_standing(standing, world(), frozenset({FAR}), 2)
    assert standing["rep1"].unwanted == 2
    again = next_standing(standing, world(behind(1)), ALL, 3)
    assert again["rep1"].unwanted is None
    assert leaving(again, world(behind(1))) == frozenset()
