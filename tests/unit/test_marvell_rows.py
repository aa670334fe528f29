"""What entries take in the DPU's bridge: which rows, how many, and in any order the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.capability import Part
from dataplane.core.desired import Desired, Port, SegmentView
from dataplane.core.diff import Item, Rendering, diff
from dataplane.core.model import Encap, EntryKey, Fabric, Guard, Mac, Segment
from dataplane.core.offload import SwitchView, choose
from tests.unit.marvell_builders import (
    GUARDS,
    NEXT_HOPS,
    SEGMENTS,
    WIRING,
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
    NIC,
    OWN4,
    UNGUARDED,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    desired,
    ips_of,
    mac_of,
    remote,
    view,
)
from vendors.marvell.pipeline import (
    FORWARD,
    GUARD,
    PIPELINE,
    TUNNEL,
    WIRE,
    Category,
    Neighbour,
    Route,
    Row,
    TunnelPort,
    category,
    is_ours,
    ports_of,
)
from vendors.marvell.report import UNLIMITED, Findings, capability
from vendors.marvell.rows import render_rows


def render(wanted: Desired, placed: frozenset[EntryKey] | None = None) -> Rendering:
    return render_rows(wanted, bound(entries(wanted) if placed is None else placed), WIRING)


def rows(rendering: Rendering) -> list[Row]:
    return [item for item in rendering.items.values() if isinstance(item, Row)]


def matches(rendering: Rendering, table: int, *kinds: Category) -> set[str]:
    found = (row.flow for row in rows(rendering) if row.flow.table == table)
    return {flow.match for flow in found if category(flow) in kinds}


def pair(remotes: int = 1) -> Desired:
    far = [remote(10 + number, GENEVE4, VTEP4[0]) for number in range(remotes)]
    return desired(view(GENEVE4, [vf(1, GENEVE4)], far))


def findings(limit: int = UNLIMITED) -> Findings:
    ports = frozenset({WIRING.uplink, WIRING.cpu, *WIRING.vfs.values()})
    limits = {table.number: limit for table in PIPELINE}
    return Findings((), limits, ports, (OWN4, *VTEP6[:1]), None)


# --- which rows --------------------------------------------------------------------------------


def test_without_entries_there_is_only_the_claim() -> None:
    items = render(pair(), frozenset()).items
    assert set(items) == {("port", f"mrv-{encap}") for encap in Encap}


@pytest.mark.parametrize(
    ("port", "allowed"),
    [
        pytest.param(
            vf(1, GENEVE4),
            {
                f"dl_src={mac_of(1)},in_port=vf1,ip,nw_src={ips_of(1)[0]}",
                f"dl_src={mac_of(1)},in_port=vf1,ipv6,ipv6_src={ips_of(1)[1]}",
            },
            id="ip",
        ),
        pytest.param(vf(1, GENEVE4, ()), {f"dl_src={mac_of(1)},in_port=vf1"}, id="no address"),
        pytest.param(vf(1, MAC_ONLY), {f"dl_src={mac_of(1)},in_port=vf1"}, id="mac"),
        pytest.param(vf(1, UNGUARDED), {"in_port=vf1"}, id="off"),
    ],
)
def test_a_vf_may_send_what_its_guard_allows(port: Port, allowed: set[str]) -> None:
    segment = port.segment
    wanted = desired(view(segment, [port], [remote(10, segment, VTEP4[0])]))
    assert matches(render(wanted), GUARD.number, Category.PORT) == allowed


@pytest.mark.parametrize("kind", [pytest.param(each, id=each.name) for each in SEGMENTS])
def test_a_remote_endpoint_is_sent_to_its_vtep_on_its_vni(kind: Segment) -> None:
    vtep = vteps_of(kind)[1]
    wanted = desired(view(kind, [vf(1, kind)], [remote(10, kind, vtep)]))
    (row,) = (row for row in rows(render(wanted)) if category(row.flow) == Category.REMOTE)
    assert f"reg0={kind.vni:#x}" in row.flow.match
    assert f"dl_dst={mac_of(10)}" in row.flow.match
    assert f"set_field:{kind.vni:#x}->tun_id" in row.flow.actions
    assert f"set_field:{vtep}->tun" in row.flow.actions
    assert row.flow.actions.endswith(f"output:mrv-{kind.encap}")


def test_a_tunnel_packet_is_known_by_vtep_vni_and_tunnel() -> None:
    both = [remote(10, VXLAN4, VTEP4[0]), remote(11, VXLAN4, VTEP4[1])]
    found = matches(
        render(desired(view(VXLAN4, [vf(1, VXLAN4)], both))), TUNNEL.number, Category.MEMBER
    )
    assert found == {f"in_port=mrv-vxlan,tun_id={VXLAN4.vni:#x},tun_src={vtep}" for vtep in VTEP4}


def test_every_tunnel_packet_that_leaves_carries_our_mark() -> None:
    for row in rows(render(pair())):
        if row.flow.table == WIRE.number:
            assert "pkt_mark=0x4d56" in row.flow.match
        if category(row.flow) == Category.REMOTE:
            assert "->pkt_mark" in row.flow.actions


def test_tunnels_listen_where_the_fabric_says() -> None:
    wanted = replace(pair(), fabric=Fabric(geneve_port=16081))
    ports = [item.port for item in render(wanted).items.values() if isinstance(item, TunnelPort)]
    assert [port.options["dst_port"] for port in ports] == ["16081", "4789"]
    assert any("tp_dst=16081" in row.flow.match for row in rows(render(wanted)))


def test_what_is_shared_stays_until_its_last_entry_goes() -> None:
    wanted = desired(
        view(GENEVE4, [vf(1, GENEVE4)], [remote(10, GENEVE4, VTEP4[0])]),
        view(VXLAN6, [vf(2, VXLAN6)], [remote(20, VXLAN6, VTEP6[0])]),
    )
    one = render(wanted, frozenset(key for key in entries(wanted) if key.vni == GENEVE4.vni))
    others = [item for item in one.items.values() if not isinstance(item, Row)]
    assert {type(item) for item in others} == {TunnelPort, Route, Neighbour}
    ports = [item.port.name for item in others if isinstance(item, TunnelPort)]
    assert ports == ["mrv-geneve", "mrv-vxlan"], "both: whose switch it is shows by them"
    assert {item.gateway for item in others if isinstance(item, Route)} == {OWN4}


def test_a_vf_that_is_not_placed_has_no_row() -> None:
    wanted = desired(
        view(GENEVE4, [vf(1, GENEVE4), vf(2, GENEVE4)], [remote(10, GENEVE4, VTEP4[0])])
    )
    held = rows(render(wanted, entries(wanted) - {EntryKey(GENEVE4.vni, mac_of(2))}))
    assert any("vf1" in row.flow.match for row in held)
    named = [row.flow for row in held if "vf2" in row.flow.match or "vf2" in row.flow.actions]
    assert named == []


def test_a_mac_that_moved_to_another_vf_of_two_stays_one_row() -> None:
    twin = replace(vf(2, GENEVE4), attachment=replace(vf(2, GENEVE4).attachment, mac=mac_of(1)))
    one = render(desired(view(GENEVE4, [vf(1, GENEVE4), twin])))
    other = render(desired(view(GENEVE4, [twin, vf(1, GENEVE4)])))
    assert one.items == other.items


# --- holding -----------------------------------------------------------------------------------


def observed(rendering: Rendering) -> dict[Hashable, Item]:
    """Return what is read back of it: a device does not know who needs a row."""
    items = rendering.items.items()
    return {key: Row(item.flow) if isinstance(item, Row) else item for key, item in items}


def test_an_incomplete_view_keeps_the_rows_that_were_derived_from_it() -> None:
    before = observed(render(pair(3)))
    partial = desired(view(GENEVE4, [vf(1, GENEVE4)], [], synced=False))
    placed = entries(pair(3))
    assert not diff(render(partial, placed), before).remove


def test_a_vf_that_is_gone_leaves_even_while_the_view_is_incomplete() -> None:
    before = observed(render(pair()))
    change = diff(render(desired(view(GENEVE4, [], [], synced=False))), before)
    gone = [item for item in change.remove.values() if isinstance(item, Row)]
    assert {category(row.flow) for row in gone} == {Category.PORT}


def test_the_view_of_one_segment_holds_no_rows_of_another() -> None:
    far = view(VXLAN4, [vf(2, VXLAN4)], [remote(20, VXLAN4, VTEP4[0])])
    before = observed(render(desired(view(GENEVE4, [], [], synced=False), far)))
    after = desired(view(GENEVE4, [], [], synced=False), replace(far, remotes=()))
    gone = diff(render(after, entries(desired(far))), before).remove
    kinds = {category(item.flow) for item in gone.values() if isinstance(item, Row)}
    assert Category.REMOTE in kinds


# --- properties --------------------------------------------------------------------------------


@given(st.data())
def test_no_table_gets_more_rows_than_placement_counts(data: st.DataObject) -> None:
    wanted = data.draw(worlds())
    placed = data.draw(chosen(wanted))
    rendering = render(wanted, placed)
    found = Counter(
        row.flow.table for row in rows(rendering) if category(row.flow) != Category.PIPELINE
    )
    parts = _parts(wanted, placed)
    for table in PIPELINE:
        most = sum(table.rows.get(part, 0) * count for part, count in parts.items())
        assert found[table.number] <= most, table.name


def _parts(wanted: Desired, placed: frozenset[EntryKey]) -> Counter[Part]:
    """Count the parts of what is placed, as the contract describes them."""
    parts: Counter[Part] = Counter()
    for each in wanted.segments.values():
        near = [port for port in each.ports if _key(each, port.attachment.mac) in placed]
        far = [r for r in each.remotes if _key(each, r.endpoint.mac) in placed and near]
        parts[Part.REMOTE] += len(far)
        parts[Part.MEMBER] += len({r.vtep for r in far})
        parts[Part.PORT] += len(near)
        parts[Part.LOCAL] += len(near)
        parts[Part.ADDRESS] += sum(len(p.attachment.ips) for p in near if p.guard is Guard.IP)
    return parts


def _key(of: SegmentView, mac: Mac) -> EntryKey:
    return EntryKey(of.segment.vni, mac)


@given(st.data(), st.integers(1, 40))
def test_what_placement_chose_never_overflows_a_table(data: st.DataObject, limit: int) -> None:
    wanted = data.draw(worlds())
    known = capability(findings(limit), WIRING, emulated=False)
    assert dict(known.guards) == GUARDS
    rates = {key: data.draw(st.floats(0, 1000)) for key in sorted(entries(wanted))}
    view = SwitchView(known, rates=rates, held=frozenset())
    choice = choose(wanted, view, NEXT_HOPS.keys(), frozenset())
    rendering = render(wanted, choice.placed)
    assert not rendering.pending
    counted = Counter(row.flow.table for row in rows(rendering))
    for table in PIPELINE:
        assert not choice.placed or counted[table.number] <= limit, table.name


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
    one, other = render(wanted, placed), render(mixed, placed)
    assert one.items == other.items
    assert {r.key: r.entries for r in rows(one)} == {r.key: r.entries for r in rows(other)}


@given(st.data())
def test_every_row_is_ours_and_no_entry_needs_what_is_not_placed(data: st.DataObject) -> None:
    wanted = data.draw(worlds())
    placed = data.draw(chosen(wanted))
    rendering = render(wanted, placed)
    refused = {each.about for each in rendering.pending}
    known = {WIRING.uplink, WIRING.cpu, *WIRING.vfs, *WIRING.vfs.values()}
    known |= {f"mrv-{encap}" for encap in Encap}
    for row in rows(rendering):
        assert is_ours(row.flow)
        assert row.entries <= placed - refused
        assert ports_of(row.flow) <= known
    held = {entry for row in rows(rendering) for entry in row.entries}
    assert held == placed - refused


@given(st.data())
def test_what_is_rendered_is_what_is_held_after_it_was_applied(data: st.DataObject) -> None:
    wanted = data.draw(worlds())
    before = render(wanted, data.draw(chosen(wanted))).items
    after = render(wanted, data.draw(chosen(wanted)))
    change = diff(after, before)
    held = {**before, **change.add, **change.update}
    for key in change.remove:
        del held[key]
    assert not diff(after, held)
    assert held.keys() == after.items.keys()


def test_the_next_hop_and_the_nic_are_those_of_the_bindings() -> None:
    (row,) = (
        row
        for row in rows(render(pair()))
        if row.flow.table == WIRE.number and category(row.flow) == Category.VTEP
    )
    assert f"set_field:{NIC.mac}->eth_src" in row.flow.actions
    assert f"set_field:{NEXT_HOPS[VTEP4[0]]}->eth_dst" in row.flow.actions


def test_a_vf_s_frames_count_for_its_endpoint() -> None:
    found = matches(render(pair()), FORWARD.number, Category.PORT)
    assert found == {f"dl_dst={mac_of(1)},reg0={GENEVE4.vni:#x}"}
