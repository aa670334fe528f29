"""What entries take in an SX904: which filters, how many, for whom, and in any order the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.desired import Desired, Port
from dataplane.core.diff import Rendering, diff
from dataplane.core.model import Encap, EntryKey, Fabric, Guard, IpAddress, Segment
from dataplane.core.offload import SwitchView, choose
from dataplane.core.reasons import Reason
from dataplane.netlink.actions import Counts, TunnelSet, TunnelUnset
from dataplane.netlink.flower import ETH_P_IP, ETH_P_IPV6, Found, Listing, Match, Skip
from dataplane.netlink.switchdev import SwitchNetdev
from tests.unit.marvell_builders import (
    NEXT_HOPS,
    SEGMENTS,
    bound,
    chosen,
    entries,
    vf,
    vteps_of,
    worlds,
)
from tests.unit.overlay_builders import (
    GENEVE4,
    MAC_ONLY,
    OWN4,
    OWN6,
    UNGUARDED,
    VTEP4,
    VXLAN4,
    desired,
    ips_of,
    mac_of,
    remote,
    view,
)
from vendors.senao.pipeline import (
    PREFERENCES,
    TABLE,
    Kind,
    Out,
    Row,
    Tunnel,
    Wiring,
    from_filter,
    to_filter,
)
from vendors.senao.report import Findings, Trial, capability
from vendors.senao.room import lacking
from vendors.senao.rows import render_rows, trial_row

REPRESENTORS = tuple(f"rep{number}" for number in range(1, 9))
TUNNELS = {Encap.GENEVE: Tunnel("gen0", 6081), Encap.VXLAN: Tunnel("vxl0", 4789)}
WIRING = Wiring(REPRESENTORS, TUNNELS, "eth0")
NAMES = (*REPRESENTORS, "gen0", "vxl0", "eth0")
NUMBERS = {name: number for number, name in enumerate(NAMES, 1)}


def render(wanted: Desired, placed: frozenset[EntryKey] | None = None) -> Rendering:
    return render_rows(wanted, bound(entries(wanted) if placed is None else placed), WIRING)


def rows(rendering: Rendering, *kinds: Kind) -> list[Row]:
    found = (cast("Row", item) for item in rendering.items.values())
    return [row for row in found if not kinds or row.kind in kinds]


def pair(remotes: int = 1) -> Desired:
    far = [remote(10 + number, GENEVE4, VTEP4[0]) for number in range(remotes)]
    return desired(view(GENEVE4, [vf(1, GENEVE4)], far))


def key(number: int, segment: Segment = GENEVE4) -> EntryKey:
    return EntryKey(segment.vni, mac_of(number))


# --- which filters -----------------------------------------------------------------------------


NO_ND = (0, 0x80)


@pytest.mark.parametrize(
    ("port", "allowed"),
    [
        pytest.param(
            vf(1, GENEVE4),
            [
                Match(mac_of(10), mac_of(1), ETH_P_IP, ips_of(1)[0]),
                Match(mac_of(10), mac_of(1), ETH_P_IPV6, ips_of(1)[1], NO_ND),
            ],
            id="ip",
        ),
        pytest.param(
            vf(1, GENEVE4, ips_of(1)[:1]),
            [Match(mac_of(10), mac_of(1), ETH_P_IP, ips_of(1)[0])],
            id="one address",
        ),
        *(
            pytest.param(
                port,
                [
                    Match(mac_of(10), mac_of(1), ETH_P_IP),
                    Match(mac_of(10), mac_of(1), ETH_P_IPV6, ttl=NO_ND),
                ],
                id=name,
            )
            for name, port in (("no address", vf(1, GENEVE4, ())), ("mac", vf(1, MAC_ONLY)))
        ),
        pytest.param(
            vf(1, UNGUARDED),
            [
                Match(mac_of(10), None, ETH_P_IP),
                Match(mac_of(10), None, ETH_P_IPV6, ttl=NO_ND),
            ],
            id="off",
        ),
    ],
)
def test_a_vf_may_send_what_its_guard_allows(port: Port, allowed: list[Match]) -> None:
    segment = port.segment
    wanted = desired(view(segment, [port], [remote(10, segment, VTEP4[0])]))
    found = rows(render(wanted), Kind.OUT)
    assert [row.match for row in found] == allowed
    assert {row.netdev for row in found} == {"rep1"}


@pytest.mark.parametrize("kind", [pytest.param(each, id=each.name) for each in SEGMENTS])
def test_a_remote_endpoint_is_sent_to_its_vtep_on_its_vni(kind: Segment) -> None:
    vtep = vteps_of(kind)[1]
    wanted = desired(view(kind, [vf(1, kind)], [remote(10, kind, vtep)]))
    number = {Encap.GENEVE: 6081, Encap.VXLAN: 4789}[kind.encap]
    own = OWN4 if vtep.version == 4 else OWN6
    outer = TunnelSet(own, vtep, kind.vni, number, ttl=64, checksum=False)
    outer = replace(outer, dont_fragment=vtep.version == 4)
    for row in rows(render(wanted), Kind.OUT):
        assert row.actions == (outer, Out(TUNNELS[kind.encap].netdev))
        assert row.target == key(10, kind)


@pytest.mark.parametrize("kind", [pytest.param(each, id=each.name) for each in SEGMENTS])
def test_a_tunnel_packet_is_known_by_both_ends_and_vni(kind: Segment) -> None:
    vteps = vteps_of(kind)
    far = [remote(10, kind, vteps[0]), remote(11, kind, vteps[1]), remote(12, kind, vteps[1])]
    found = rows(render(desired(view(kind, [vf(1, kind)], far))), Kind.IN)
    own = OWN4 if vteps[0].version == 4 else OWN6
    number = {Encap.GENEVE: 6081, Encap.VXLAN: 4789}[kind.encap]
    assert {row.match for row in found} == {
        Match(
            mac_of(1),
            tunnel_key=kind.vni,
            tunnel_source=vtep,
            tunnel_target=own,
            tunnel_port=number,
        )
        for vtep in vteps
    }
    for row in found:
        assert row.netdev == TUNNELS[kind.encap].netdev
        assert row.actions == (TunnelUnset(), Out("rep1"))
        assert row.target == key(1, kind)


def test_vfs_of_a_segment_reach_each_other_and_no_others() -> None:
    here = view(GENEVE4, [vf(1, GENEVE4), vf(2, GENEVE4)])
    found = rows(render(desired(here, view(VXLAN4, [vf(3, VXLAN4)]))))
    ways = {(row.netdev, row.match.destination_mac, row.actions) for row in found}
    assert ways == {("rep1", mac_of(2), (Out("rep2"),)), ("rep2", mac_of(1), (Out("rep1"),))}
    assert {row.kind for row in found} == {Kind.BETWEEN}


def test_a_vf_that_is_not_placed_has_none_and_none_to_it() -> None:
    wanted = desired(
        view(GENEVE4, [vf(1, GENEVE4), vf(2, GENEVE4)], [remote(10, GENEVE4, VTEP4[0])])
    )
    found = rows(render(wanted, frozenset({key(1), key(10)})))
    assert {row.netdev for row in found} == {"rep1", "gen0"}
    assert {row.target for row in found} == {key(1), key(10)}


@pytest.mark.parametrize(
    ("tunnels", "words"),
    [
        pytest.param({}, "no tunnels of geneve", id="none"),
        pytest.param({Encap.GENEVE: Tunnel("gen0", 16081)}, "UDP port 16081", id="another port"),
    ],
)
def test_without_a_tunnel_device_that_fits_vfs_still_reach_each_other(
    tunnels: Mapping[Encap, Tunnel], words: str
) -> None:
    wanted = desired(
        view(GENEVE4, [vf(1, GENEVE4), vf(2, GENEVE4)], [remote(10, GENEVE4, VTEP4[0])])
    )
    wiring = replace(WIRING, tunnels=tunnels)
    rendering = render_rows(wanted, bound(entries(wanted)), wiring)
    assert {row.kind for row in rows(rendering)} == {Kind.BETWEEN}
    ((about, why),) = ((each.about, each.reason) for each in rendering.pending)
    assert about == key(10)
    assert why.startswith(f"{Reason.UNSUPPORTED_ENCAP}: ")
    assert words in why


def test_the_fabric_s_udp_port_is_the_tunnel_device_s() -> None:
    wanted = replace(pair(), fabric=Fabric(geneve_port=16081))
    wiring = replace(WIRING, tunnels={Encap.GENEVE: Tunnel("gen0", 16081)})
    rendering = render_rows(wanted, bound(entries(wanted)), wiring)
    assert rendering.pending == ()
    ports = {row.match.tunnel_port for row in rows(rendering, Kind.IN)}
    ports |= {
        each.port for row in rows(rendering) for each in row.actions if isinstance(each, TunnelSet)
    }
    assert ports == {16081}


# --- holding -----------------------------------------------------------------------------------


def test_an_incomplete_view_keeps_the_filters_that_were_derived_from_it() -> None:
    before = render(pair(3)).items
    partial = desired(view(GENEVE4, [vf(1, GENEVE4)], [], synced=False))
    assert not diff(render(partial, entries(pair(3))), before).remove


@pytest.mark.parametrize(
    "ports",
    [
        pytest.param([], id="gone"),
        pytest.param([vf(2, GENEVE4)], id="another VF"),
        pytest.param(
            [replace(vf(2, GENEVE4), attachment=replace(vf(2, GENEVE4).attachment, netdev="rep1"))],
            id="another pod on the same VF",
        ),
    ],
)
def test_a_vf_that_is_gone_leaves_even_while_the_view_is_incomplete(ports: list[Port]) -> None:
    before = render(pair()).items
    after = desired(view(GENEVE4, ports, [], synced=False))
    assert diff(render(after), before).remove.keys() == before.keys()


def test_an_address_that_a_vf_has_lost_is_not_held() -> None:
    before = render(pair()).items
    after = desired(view(GENEVE4, [vf(1, GENEVE4, ips_of(1)[:1])], [], synced=False))
    gone = [cast("Row", item) for item in diff(render(after), before).remove.values()]
    assert [row.match.source for row in gone] == [ips_of(1)[1]]


def test_the_view_of_one_segment_holds_no_filters_of_another() -> None:
    far = view(VXLAN4, [vf(2, VXLAN4)], [remote(20, VXLAN4, VTEP4[0])])
    before = render(desired(view(GENEVE4, [], [], synced=False), far)).items
    after = desired(view(GENEVE4, [], [], synced=False), replace(far, remotes=()))
    gone = diff(render(after, entries(desired(far))), before).remove.values()
    assert {cast("Row", item).kind for item in gone} == {Kind.OUT, Kind.IN}


# --- to the device and back --------------------------------------------------------------------


@given(worlds())
def test_what_is_told_is_what_is_read_back_by_name(wanted: Desired) -> None:
    names = {number: name for name, number in NUMBERS.items()}
    for row in rows(render(wanted)):
        told = to_filter(row, NUMBERS)
        assert from_filter(row.netdev, told, names) == row
        assert told.skip is Skip.KERNEL
        assert 1 <= told.slot.preference < 100
        assert told.cookie.startswith(b"overweave")


def test_a_preference_sees_one_ethertype() -> None:
    assert len(set(PREFERENCES.values())) == len(PREFERENCES)


def test_a_kernel_that_knows_no_df_holds_what_was_written() -> None:
    names = {number: name for name, number in NUMBERS.items()}
    (row, *_) = rows(render(pair()), Kind.OUT)
    told = to_filter(row, NUMBERS)
    outer, out = told.actions
    assert isinstance(outer, TunnelSet)
    assert outer.dont_fragment
    forgotten = replace(told, actions=(replace(outer, dont_fragment=False), out))
    assert from_filter(row.netdev, forgotten, names) == row


@pytest.mark.parametrize("change", [{"ttl": 1}, {"tos": 4}, {"checksum": True}, {"key": 9}])
def test_anything_else_that_is_otherwise_is_seen(change: Mapping[str, Any]) -> None:
    names = {number: name for name, number in NUMBERS.items()}
    (row, *_) = rows(render(pair()), Kind.OUT)
    told = to_filter(row, NUMBERS)
    outer, out = told.actions
    assert isinstance(outer, TunnelSet)
    assert (
        from_filter(row.netdev, replace(told, actions=(replace(outer, **change), out)), names)
        != row
    )
    assert from_filter(row.netdev, replace(told, skip=Skip.NOBODY), names) != row
    assert from_filter(row.netdev, told, {**names, NUMBERS["gen0"]: "gen1"}) != row


def test_a_netdev_that_is_gone_is_called_by_its_number() -> None:
    (row,) = rows(render(pair()), Kind.IN)
    told = to_filter(row, NUMBERS)
    left = {NUMBERS["gen0"]: "gen0"}
    assert from_filter("gen0", told, left).to == f"#{NUMBERS['rep1']}"


def test_the_trial_is_for_frames_that_nobody_sends_and_for_no_entry() -> None:
    row = trial_row("rep1", TUNNELS[Encap.GENEVE], Skip.KERNEL)
    assert row.kind not in set(Kind)
    assert row.vni == 0
    assert row.target is None
    assert to_filter(row, NUMBERS).cookie.startswith(b"overweave")


# --- properties --------------------------------------------------------------------------------


@given(st.data())
def test_no_two_filters_of_a_netdev_match_one_frame(data: st.DataObject) -> None:
    """For the device takes any of them."""
    wanted = data.draw(worlds())
    by_netdev: dict[str, list[Match]] = {}
    for row in rows(render(wanted, data.draw(chosen(wanted)))):
        by_netdev.setdefault(row.netdev, []).append(row.match)
    for found in by_netdev.values():
        for at, one in enumerate(found):
            assert not any(_overlap(one, other) for other in found[at + 1 :])


def _overlap(one: Match, other: Match) -> bool:
    fields = [field for field in Match.__dataclass_fields__ if field not in ("ttl", "other")]
    pairs = [(getattr(one, field), getattr(other, field)) for field in fields]
    return all(a is None or b is None or a == b for a, b in pairs)


@given(st.data(), st.integers(1, 60))
def test_what_placement_chose_never_overflows_the_table(data: st.DataObject, limit: int) -> None:
    wanted = data.draw(worlds())
    netdevs = {
        name: SwitchNetdev(number, name, switch="00", port=f"pf0vf{number - 1}")
        for name, number in NUMBERS.items()
    }
    netdevs["gen0"] = SwitchNetdev(91, "gen0", "geneve", udp_port=6081)
    netdevs["vxl0"] = SwitchNetdev(92, "vxl0", "vxlan", udp_port=4789)
    known = capability(Findings(netdevs, {}, Trial(tunnels=True), limit), WIRING, emulated=False)
    rates = {each: data.draw(st.floats(0, 1000)) for each in sorted(entries(wanted))}
    switch = SwitchView(known, rates=rates, held=frozenset())
    choice = choose(wanted, switch, NEXT_HOPS.keys(), frozenset())
    rendering = render(wanted, choice.placed)
    assert not rendering.pending
    assert len(rendering.items) <= limit


@given(st.data())
def test_the_order_in_which_things_are_known_does_not_matter(data: st.DataObject) -> None:
    wanted = data.draw(worlds())
    placed = data.draw(chosen(wanted))
    views = [
        replace(
            each,
            ports=tuple(data.draw(st.permutations(each.ports))),
            remotes=tuple(data.draw(st.permutations(each.remotes))),
        )
        for each in data.draw(st.permutations(list(wanted.segments.values())))
    ]
    mixed = replace(wanted, segments={each.segment.name: each for each in views})
    assert render(wanted, placed).items == render(mixed, placed).items


@given(st.data())
def test_every_filter_is_for_an_entry_that_is_placed(data: st.DataObject) -> None:
    wanted = data.draw(worlds())
    placed = data.draw(chosen(wanted))
    rendering = render(wanted, placed)
    refused = {each.about for each in rendering.pending}
    for row in rows(rendering):
        assert row.target in placed - refused


# --- room --------------------------------------------------------------------------------------


@given(st.data(), st.integers(-5, 40))
def test_what_fits_is_whole_entries_and_as_many_as_there_is_room_for(
    data: st.DataObject, room: int
) -> None:
    wanted = data.draw(worlds())
    every = rows(render(wanted))
    there = {row.key for row in rows(render(wanted, data.draw(chosen(wanted))))}
    late = lacking(every, there, room)
    kept = [row for row in every if not _needs(row, every) & late]
    fresh = [row for row in kept if row.key not in there]
    assert len(fresh) <= max(room, 0)
    if len(every) - len(there) <= max(room, 0):
        assert not late


@given(st.data(), st.integers(-5, 0))
def test_what_is_there_is_not_displaced_by_what_joins_it(data: st.DataObject, room: int) -> None:
    wanted = data.draw(worlds())
    before = rows(render(wanted, data.draw(chosen(wanted))))
    late = lacking(rows(render(wanted)), {row.key for row in before}, room)
    assert not late & {row.target for row in before}


def _needs(row: Row, every: list[Row]) -> set[object]:
    behind = {each.to: each.target for each in every if each.kind != Kind.OUT}
    outer = next((a.target for a in row.actions if isinstance(a, TunnelSet)), None)
    vtep: IpAddress | None = outer or row.match.tunnel_source
    return {row.target, behind.get(row.netdev), (row.vni, vtep)}


def test_capability_counts_ours_and_those_of_others() -> None:
    ours = [Found(to_filter(row, NUMBERS), True, Counts()) for row in rows(render(pair(2)))]
    foreign = replace(ours[0], filter=replace(ours[0].filter, cookie=b"x"))
    software = replace(foreign, in_hardware=False)
    listings = {"rep1": Listing((*ours, foreign, software))}
    known = capability(Findings({}, listings, Trial(tunnels=True), 9), WIRING, emulated=True)
    (table,) = known.tables
    assert (table.name, table.capacity, table.used, table.foreign) == (TABLE, 9, 6, 1)
    assert known.rows == 5
    assert known.emulated


def test_guards_are_all_that_there_are() -> None:
    netdevs = {"rep1": SwitchNetdev(1, "rep1", switch="00", port="pf0vf0")}
    known = capability(Findings(netdevs, {}, Trial(tunnels=True), 9), WIRING, emulated=False)
    assert known.guards == {"rep1": frozenset(Guard)}
