"""Numbers of the Intel driver: found in the device's rows, given to what is new, and kept."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.desired import Desired
from dataplane.core.model import Family, Guard
from tests.unit.intel_builders import POOLS, WIRING
from tests.unit.marvell_builders import bound, entries, vf
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MAC_ONLY,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    desired,
    mac_of,
    remote,
    view,
)
from vendors.intel.numbers import Ids, Pools, allocate, from_device, learn, ours_of, to_device
from vendors.intel.pipeline import (
    BRIDGE_FIELD,
    BRIDGES,
    SEND,
    SMAC,
    SOURCE_FIELD,
    TARGET_MAC_FIELD,
    UNDERLAY,
    VLAN_FIELD,
    Bridge,
    DeviceRow,
    Row,
    Symbol,
    Tunnel,
)
from vendors.intel.rows import render_rows

SEGMENTS = [replace(each, guard=Guard.OFF) for each in (GENEVE4, GENEVE6, VXLAN4, VXLAN6, MAC_ONLY)]


@st.composite
def worlds(draw: st.DrawFn) -> Desired:
    """Draw what is to be placed: VFs and remote endpoints on some segments."""
    views = []
    slots = draw(st.lists(st.integers(1, 8), unique=True, max_size=8))
    for segment in draw(st.lists(st.sampled_from(SEGMENTS), unique=True, min_size=1)):
        here = [slots.pop() for _ in range(draw(st.integers(0, min(3, len(slots)))))]
        numbers = draw(st.lists(st.integers(100, 130), unique=True, max_size=6))
        vteps = VTEP4 if segment.underlay == "ipv4" else VTEP6
        far = [remote(n + segment.vni * 50, segment, vteps[n % 2]) for n in numbers]
        views.append(view(segment, [vf(slot, segment) for slot in here], far))
    return desired(*views)


def rendered(world: Desired) -> list[Row]:
    rendering = render_rows(world, bound(entries(world)), WIRING)
    return [row for row in rendering.items.values() if isinstance(row, Row)]


def symbols(rows: list[Row]) -> set[Symbol]:
    return {symbol for row in rows for symbol in row.symbols}


def placed(rows: list[Row], before: Ids | None = None) -> list[DeviceRow]:
    """Return the rows as they are written, with numbers for all."""
    ids, lacking = allocate(before or learn((), POOLS), symbols(rows), POOLS)
    assert not lacking
    return [to_device(row, ids) for row in rows]


@given(worlds())
def test_what_was_written_is_known_again(world: Desired) -> None:
    rows = rendered(world)
    device = placed(rows)
    assert set(ours_of(device, POOLS)) == set(device)
    ids = learn(device, POOLS)
    assert symbols(rows) <= ids.numbers.keys()
    assert {row.key: row for row in (from_device(each, ids.names) for each in device)} == {
        row.key: row for row in rows
    }


@given(worlds(), worlds())
def test_what_has_a_number_keeps_it_and_nobody_else_gets_it(
    first: Desired, second: Desired
) -> None:
    before = learn(placed(rendered(first)), POOLS)
    after, lacking = allocate(before, symbols(rendered(second)), POOLS)
    assert not lacking
    assert all(after.numbers[symbol] == number for symbol, number in before.numbers.items())
    for one, other in combinations(after.numbers, 2):
        if type(one) is type(other):
            assert after.numbers[one] != after.numbers[other]
    for symbol, number in after.numbers.items():
        assert number in POOLS.ours(type(symbol))


@given(worlds(), st.data())
def test_of_rows_that_were_lost_nothing_wrong_is_concluded(
    world: Desired, data: st.DataObject
) -> None:
    """A number that some row still has is given to nothing else, whatever it stood for."""
    rows = rendered(world)
    whole = placed(rows)
    left = data.draw(st.lists(st.sampled_from(whole), unique=True)) if whole else []
    truth = learn(whole, POOLS)
    ours = ours_of(left, POOLS)
    found = learn(ours, POOLS)
    for symbol, number in found.numbers.items():
        assert truth.numbers[symbol] == number
    after, _ = allocate(found, symbols(rows), POOLS)
    for symbol in after.numbers.keys() - found.numbers.keys():
        assert (type(symbol), after.numbers[symbol]) not in found.taken


@given(st.integers(1, 6), st.integers(0, 40))
def test_when_numbers_run_out_the_others_have_theirs(bits: int, count: int) -> None:
    pools = Pools({**POOLS.bits, Bridge: bits})
    wanted = {Bridge(number) for number in range(1, count + 1)}
    ids, lacking = allocate(learn((), pools), wanted, pools)
    assert len(lacking) == max(0, count - len(pools.ours(Bridge)))
    assert wanted - lacking == {each for each in ids.numbers if isinstance(each, Bridge)}


def test_two_names_for_one_number_are_none() -> None:
    term = UNDERLAY[GENEVE4.underlay]["term"].name
    twice = [
        DeviceRow(
            term,
            (("ipv4_src", int(vtep)), ("vni", 100)),
            "set_geneve_decap_outer_hdr",
            (("tunnel_id", 1 << 19),),
        )
        for vtep in VTEP4
    ]
    ids = learn(twice, POOLS)
    assert not [each for each in ids.numbers if isinstance(each, Tunnel)]
    again, _ = allocate(ids, {Tunnel(VTEP4[0], 100)}, POOLS)
    assert again.numbers[Tunnel(VTEP4[0], 100)] == (1 << 19) + 1


def test_rows_of_others_are_not_ours() -> None:
    plugin = DeviceRow(
        BRIDGES.name, ((VLAN_FIELD, 0), (SOURCE_FIELD, 0)), "set_bridge_id", (("bridge_id", 0),)
    )
    learned = DeviceRow(SMAC.name, ((SOURCE_FIELD, 1), (BRIDGE_FIELD, 7)), "NoAction")
    sent = DeviceRow(SEND.name, ((BRIDGE_FIELD, 5), ("dst_mac", 9)), "l2_fwd", (("port", 200),))
    own = replace(sent, match=((BRIDGE_FIELD, 200), ("dst_mac", 9)))
    odd = replace(own, plain=False)
    vtep = UNDERLAY[GENEVE4.underlay]["vtep"]
    behind = DeviceRow(
        vtep.name,
        ((TARGET_MAC_FIELD, 0x020000000001),),
        "set_tunnel_v4",
        (("dst_addr", 1),),
    )
    assert ours_of([plugin, learned, sent, own, odd, behind], POOLS) == (own,)


def test_of_the_vteps_of_macs_ours_are_those_of_our_tunnels() -> None:
    """A MAC behind a VF, another family or another address: somebody else's."""
    segment = replace(GENEVE4, guard=Guard.OFF)
    world = desired(view(segment, [vf(1, segment)], [remote(10, segment, VTEP4[0])]))
    rows = placed(rendered(world))
    here, there = (int(mac_of(number).replace(":", ""), 16) for number in (1, 10))

    def behind(mac: int, family: Family, *words: int) -> DeviceRow:
        table = UNDERLAY[family]["vtep"]
        ((action, params),) = table.actions.items()
        match = ((TARGET_MAC_FIELD, mac),)
        return DeviceRow(table.name, match, action, tuple(zip(params, words, strict=True)))

    own = behind(there, Family.IPV4, int(VTEP4[0]))
    assert own in rows
    theirs = [
        behind(here, Family.IPV4, int(VTEP4[0])),
        behind(there, Family.IPV4, int(VTEP4[1])),
        behind(there, Family.IPV6, 0x20010DB8, 0, 0, 9),
        behind(9, Family.IPV4, int(VTEP4[0])),
    ]
    for each in theirs:
        assert set(ours_of([each, *rows], POOLS)) == set(rows), each


def test_a_mac_may_be_behind_a_vf_here_and_a_vtep_there() -> None:
    one, other = (replace(each, guard=Guard.OFF) for each in (GENEVE4, VXLAN4))
    world = desired(
        view(one, [vf(1, one)], []),
        view(other, [vf(2, other)], [remote(1, other, VTEP4[0])]),
    )
    rows = placed(rendered(world))
    assert TARGET_MAC_FIELD in {name for row in rows for name, _ in row.match}
    assert set(ours_of(rows, POOLS)) == set(rows)
