"""What of a change a device with small tables takes: whole entries, as many as fit."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.model import EntryKey, Mac, Vni
from ovs_client.ofctl import Flow
from vendors.fit import Fit, fit, without
from vendors.marvell.pipeline import Row

ENTRIES = [EntryKey(Vni(1), Mac(f"02:00:00:00:00:{number:02x}")) for number in range(6)]


def row(number: int, table: int, *entries: int) -> Row:
    """Return a row of ``table`` that entries with these numbers need; none: all do."""
    return Row(Flow(table, 1, f"reg1={number}", "drop"), frozenset(ENTRIES[e] for e in entries))


@pytest.mark.parametrize(
    ("rows", "room", "refused"),
    [
        pytest.param([], {0: 0}, set(), id="nothing"),
        pytest.param([row(1, 0, 0), row(2, 0, 1)], {0: 2}, set(), id="just enough"),
        pytest.param([row(1, 0, 0), row(2, 0, 1)], {0: 1}, {1}, id="one too few"),
        pytest.param([row(1, 0, 0), row(2, 1, 0), row(3, 0, 1)], {0: 1, 1: 0}, {0}, id="whole"),
        pytest.param([row(1, 0, 0, 1)], {0: 1}, set(), id="a shared row is one"),
        pytest.param([row(1, 0), row(2, 1, 0)], {0: 0, 1: 9}, {0}, id="what all rely on"),
        pytest.param(
            [row(number, 7, number % 2) for number in range(4)],
            {0: 0},
            set(),
            id="a table of which nothing is known",
        ),
        pytest.param([row(1, 7), row(2, 7, 0)], {}, set(), id="nor of what all rely on"),
    ],
)
def test_what_goes_without(rows: list[Row], room: dict[int, int], refused: set[int]) -> None:
    found = fit(rows, (), room)
    assert set(found.refused) == {ENTRIES[number] for number in refused}
    assert all(found.refused.values())


def test_a_row_that_is_there_takes_no_room() -> None:
    rows = [row(1, 0, 0), row(2, 0, 1)]
    assert fit(rows, [rows[0].key], {0: 1}) == Fit(tuple(rows), {})


def test_a_vf_that_joins_and_does_not_fit_takes_nobody_out() -> None:
    far, vf = ENTRIES[0], ENTRIES[1]
    joining = Row(row(1, 0, 0, 1).flow, frozenset({far, vf}), owner=vf)
    assert set(fit([joining], (), {0: 0}).refused) == {vf}
    assert fit([joining], (), {0: 0}).rows == ()
    fresh = row(2, 1, 0)
    assert set(fit([joining, fresh], (), {0: 0, 1: 9}).refused) == {far, vf}


def test_a_row_that_some_entry_still_needs_stays() -> None:
    rows = (row(1, 0, 0, 1), row(2, 0, 0), row(3, 0))
    assert without(rows, {ENTRIES[0]: "full"}) == (rows[0], rows[2])


_ROWS = st.lists(
    st.tuples(st.integers(0, 2), st.frozensets(st.integers(0, 5), max_size=3)), max_size=12
).map(lambda drawn: [row(number, *(t, *sorted(e))) for number, (t, e) in enumerate(drawn)])
_ROOM = st.fixed_dictionaries({table: st.integers(0, 8) for table in range(3)})


@given(_ROWS, _ROOM, st.data())
def test_it_fits_is_whole_and_nothing_more_would_fit(
    rows: list[Row], room: dict[int, int], data: st.DataObject
) -> None:
    present = data.draw(st.frozensets(st.sampled_from(rows))) if rows else frozenset()
    there = {each.key for each in present}
    found = fit(rows, there, room)

    taken = Counter(each.flow.table for each in found.rows if each.key not in there)
    assert all(taken[table] <= room[table] for table in room)

    kept = {each.key for each in found.rows}
    relied = Counter(each.flow.table for each in rows if not each.entries and each not in present)
    if any(relied[table] > room[table] for table in room):
        assert not found.rows
        return
    wanted = {entry for each in rows if each.key not in there for entry in each.entries}
    assert set(found.refused) <= wanted
    for each in rows:
        if not each.entries or each.entries - found.refused.keys():
            assert each.key in kept

    for entry in found.refused:
        more = [e for e in rows if entry in e.entries and e.key not in kept | there]
        needed = taken + Counter(each.flow.table for each in more)
        assert any(needed[table] > room[table] for table in room), entry
