"""The one diff: applying it makes the next one empty, and held scopes are left alone."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.diff import Change, Rendering, diff


@dataclass(frozen=True, slots=True)
class Thing:
    value: int
    scope: int | None = None


things = st.dictionaries(
    st.integers(0, 9),
    st.builds(Thing, st.integers(0, 3), st.sampled_from([None, 1, 2])),
    max_size=8,
)


def applied(observed: Mapping[Hashable, Thing], change: Change) -> dict[Hashable, Thing]:
    kept = {key: thing for key, thing in observed.items() if key not in change.remove}
    return {**kept, **change.add, **change.update}


@given(things, things, st.sets(st.sampled_from([1, 2])))
def test_applying_a_diff_makes_the_next_empty(
    wanted: dict[Hashable, Thing], observed: dict[Hashable, Thing], held: set[int]
) -> None:
    rendering = Rendering(wanted, held=held)
    change = diff(rendering, observed)
    assert not diff(rendering, applied(observed, change))


@given(things, things, st.sets(st.sampled_from([1, 2])))
def test_what_is_held_is_neither_changed_within_the_hold_nor_removed(
    wanted: dict[Hashable, Thing], observed: dict[Hashable, Thing], held: set[int]
) -> None:
    change = diff(Rendering(wanted, held=held), observed)
    assert not [key for key in change.remove if observed[key].scope in held]
    assert not [
        key for key in change.update if observed[key].scope in held and wanted[key].scope in held
    ]


def test_what_no_hold_concerns_takes_the_place_of_what_is_held() -> None:
    """As a pod that has come here, where an incomplete view still shows it elsewhere."""
    remote, local = Thing(1, scope=1), Thing(2)
    change = diff(Rendering({"mac": local}, held={1}), {"mac": remote})
    assert change == Change(update={"mac": local})


@given(things, things)
def test_without_holds_the_result_is_what_was_wanted(
    wanted: dict[Hashable, Thing], observed: dict[Hashable, Thing]
) -> None:
    assert applied(observed, diff(Rendering(wanted), observed)) == wanted
