"""What an entry is in the tables of an Intel IPU: by name, whole, and in an order that is safe."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.capability import Part
from dataplane.core.desired import Bindings, Desired, PortState
from dataplane.core.diff import diff
from dataplane.core.model import EntryKey, Fabric, Guard, IpAddress, Segment
from dataplane.core.reasons import Reason
from tests.unit.intel_builders import FREE4, POOLS, WIRING
from tests.unit.marvell_builders import NEXT_HOPS, bound, entries, vf
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MAC_ONLY,
    NIC,
    OWN4,
    OWN6,
    UNGUARDED,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    desired,
    mac_of,
    remote,
    view,
)
from tests.unit.test_intel_numbers import placed, rendered, worlds
from vendors.intel.numbers import from_device, learn, ours_of
from vendors.intel.pipeline import (
    BRIDGE_FIELD,
    BRIDGES,
    FABRIC_SCOPE,
    PIPELINE,
    RECEIVE,
    SEND,
    SMAC,
    SOURCE_FIELD,
    TABLES,
    Bridge,
    NextHop,
    Row,
    Stage,
    Tunnel,
    TunnelSource,
)
from vendors.intel.rows import render_rows

KINDS = [
    pytest.param(replace(segment, guard=Guard.OFF), vteps, id=segment.name)
    for segment, vteps in ((GENEVE4, VTEP4), (GENEVE6, VTEP6), (VXLAN4, VTEP4), (VXLAN6, VTEP6))
]


def rows_of(wanted: Desired, bindings: Bindings | None = None) -> list[Row]:
    rendering = render_rows(wanted, bindings or bound(entries(wanted)), WIRING)
    return [row for row in rendering.items.values() if isinstance(row, Row)]


def whys(wanted: Desired, bindings: Bindings | None = None) -> dict[EntryKey, str]:
    rendering = render_rows(wanted, bindings or bound(entries(wanted)), WIRING)
    return {each.about: each.reason for each in rendering.pending}  # type: ignore[misc]  # keys


def found(rows: list[Row], table: str) -> list[tuple[dict[str, object], str, dict[str, object]]]:
    return [(dict(r.match), r.action, dict(r.params)) for r in rows if r.table == table]


def mac(number: int) -> int:
    return int(mac_of(number).replace(":", ""), 16)


@pytest.mark.parametrize(("segment", "vteps"), KINDS)
def test_one_vf_and_one_remote_endpoint(segment: Segment, vteps: tuple[IpAddress, ...]) -> None:
    far, vni = vteps[0], segment.vni
    rows = rows_of(desired(view(segment, [vf(1, segment)], [remote(10, segment, far)])))
    bridge, tunnel = Bridge(vni), Tunnel(far, vni)
    version = f"v{far.version}"
    suffix = "" if far.version == 4 else "_v6"

    assert found(rows, SEND.name) == [
        ({BRIDGE_FIELD: bridge, "dst_mac": mac(1)}, "l2_fwd", {"port": 43}),
        (
            {BRIDGE_FIELD: bridge, "dst_mac": mac(10)},
            f"set_{segment.encap}_underlay_{version}",
            {"tunnel_id": tunnel},
        ),
    ]
    assert found(rows, RECEIVE.name) == [
        ({BRIDGE_FIELD: bridge, "dst_mac": mac(1)}, "l2_fwd", {"port": 43})
    ]
    sources = {
        (each["hdrs.mac[vmeta.common.depth].sa"], each[BRIDGE_FIELD])
        for each, _, _ in found(rows, SMAC.name)
    }
    assert sources == {(mac(1), bridge), (mac(10), bridge)}
    bridges = {each[SOURCE_FIELD]: to["bridge_id"] for each, _, to in found(rows, BRIDGES.name)}
    assert bridges == {43: bridge, TunnelSource(vni): bridge}

    ((match, action, outer),) = found(rows, f"{segment.encap}_encap{suffix}_mod_table")
    assert (match, action) == (
        {"vmeta.common.mod_blob_ptr": tunnel},
        f"{segment.encap}_encap{suffix}",
    )
    assert outer["vni"] == vni
    assert (outer["src_addr"], outer["dst_addr"]) == (
        int(OWN4 if far.version == 4 else OWN6),
        int(far),
    )
    assert outer["dst_port"] == {"geneve": 6081, "vxlan": 4789}[segment.encap]
    assert isinstance(outer["src_port"], int)
    assert 32768 <= outer["src_port"] < 65536
    if far.version == 6:
        assert (outer["hop_limit"], outer["ds"], outer["ecn"], outer["flow_label"]) == (64, 0, 0, 0)
    assert found(rows, f"ip{version}_tunnel_term_table") == [
        (
            {f"ip{version}_src": int(far), "vni": vni},
            f"set_{segment.encap}_decap_outer_hdr",
            {"tunnel_id": tunnel},
        )
    ]
    assert found(rows, f"{segment.encap}_decap_mod_table") == [
        ({"vmeta.common.mod_blob_ptr": tunnel}, f"{segment.encap}_decap_outer_hdr", {})
    ]
    ((_, action, to),) = found(rows, f"l2_to_tunnel_{version}")
    if far.version == 4:
        assert (action, to) == ("set_tunnel_v4", {"dst_addr": int(far)})
    else:
        words = [to[f"ipv6_{number}"] for number in range(1, 5)]
        assert b"".join(int(word).to_bytes(4) for word in words) == far.packed  # type: ignore[call-overload]
    hop = NextHop(NEXT_HOPS[far])
    ((_, _, to),) = found(rows, f"ip{version}_table")
    assert to == {"nexthop_id": hop}
    ((_, _, to),) = found(rows, "nexthop_table")
    assert (to["dmac_high"], to["dmac_low"], to["egress_port"]) == (
        int(hop.mac.replace(":", "")[:4], 16),
        int(hop.mac.replace(":", "")[4:], 16),
        0,
    )
    router = [
        found(rows, f"rif_mod_table_{part}")[0][2]["arg"] for part in ("start", "mid", "last")
    ]
    assert "".join(f"{part:04x}" for part in router) == NIC.mac.replace(":", "")
    members = found(rows, f"rx_ip{version}_tunnel_source_port")
    assert (
        {f"ip{version}_src": int(far), "vni": vni},
        "set_source_port",
        {"source_port": TunnelSource(vni)},
    ) in members


@given(worlds())
def test_no_part_takes_more_rows_than_is_said(world: Desired) -> None:
    """What placement reckons with is enough for what is rendered."""
    parts: Counter[Part] = Counter()
    for each in world.segments.values():
        needed = each.ports or ()
        parts[Part.PORT] += len(needed)
        parts[Part.LOCAL] += len(needed)
        if needed:
            parts[Part.MEMBER] += len(each.flood)
            parts[Part.REMOTE] += len(each.remotes)
    used = Counter(row.table for row in rows_of(world))
    for table in PIPELINE:
        most = sum(rows * parts[part] for part, rows in table.rows.items())
        assert used[table.name] <= most, table.name


@given(worlds())
def test_every_row_is_needed_by_entries_that_are_placed(world: Desired) -> None:
    rendering = render_rows(world, bound(entries(world)), WIRING)
    refused = {each.about for each in rendering.pending}
    for row in rendering.items.values():
        assert isinstance(row, Row)
        assert row.entries
        assert row.entries <= entries(world) - refused
        assert set(dict(row.match)) == set(TABLES[row.table].fields)
        assert set(dict(row.params)) == set(TABLES[row.table].actions[row.action])


def test_nothing_takes_a_frame_before_what_rewrites_it_stands() -> None:
    """A frame without its rewriting leaves as it is: pipeline.md, 4 and 5."""
    takes = {SEND.name, RECEIVE.name, "ipv4_tunnel_term_table", "ipv6_tunnel_term_table"}
    assert {table.name for table in PIPELINE if table.stage is Stage.ENABLE} == takes
    assert max(Stage) is Stage.ENABLE


@given(worlds(), st.data())
def test_a_change_that_ends_in_the_middle_is_gone_on_with(
    world: Desired, data: st.DataObject
) -> None:
    """Nothing that stands is taken for something else, and so taken out again."""
    rows = sorted(rendered(world), key=lambda row: row.stage)
    ended = data.draw(st.integers(0, len(rows)))
    stage = rows[ended].stage if ended < len(rows) else None
    late = data.draw(st.permutations([row for row in rows if row.stage is stage]))
    done = [row for row in rows[:ended] if row.stage is not stage]
    done += late[: ended - len(done)]
    numbered = dict(zip((row.key for row in rows), placed(rows), strict=True))
    ours = ours_of([numbered[row.key] for row in done], POOLS)
    names = learn(ours, POOLS).names
    seen = {row.key: row for row in (from_device(each, names) for each in ours)}
    assert seen.keys() <= {row.key for row in rows}
    known = [row for row in done if row.stage is not Stage.TUNNEL]
    assert {row.key for row in known} <= seen.keys()


def test_of_a_mac_on_two_segments_one_stays_whatever_the_order() -> None:
    far = [remote(10, each, vtep) for each, vtep in ((FREE4, VTEP4[0]), (UNGUARDED, VTEP4[1]))]
    views = [
        view(FREE4, [vf(1, FREE4)], far[:1]),
        view(UNGUARDED, [vf(2, UNGUARDED)], far[1:]),
    ]
    for order in (views, views[::-1]):
        pending = whys(desired(*order))
        assert list(pending) == [EntryKey(UNGUARDED.vni, mac_of(10))]
        assert pending[EntryKey(UNGUARDED.vni, mac_of(10))].startswith(f"{Reason.KEY_CONFLICT}: ")
    alone = bound(frozenset(EntryKey(UNGUARDED.vni, mac_of(n)) for n in (2, 10)))
    assert not whys(desired(*views), alone)


@pytest.mark.parametrize(
    ("wanted", "bindings", "reason"),
    [
        pytest.param(
            desired(view(GENEVE4, [vf(1, GENEVE4)], [remote(10, GENEVE4, VTEP4[0])])),
            None,
            Reason.UNSUPPORTED_GUARD,
            id="a guard that looks at addresses",
        ),
        pytest.param(
            desired(view(MAC_ONLY, [vf(1, MAC_ONLY)], [remote(10, MAC_ONLY, VTEP4[0])])),
            None,
            Reason.UNSUPPORTED_GUARD,
            id="a guard that stops routers' advertisements",
        ),
        pytest.param(
            replace(
                desired(view(FREE4, [vf(1, FREE4)], [remote(10, FREE4, VTEP4[0])])),
                fabric=Fabric(geneve_port=7000),
            ),
            None,
            Reason.UNSUPPORTED_ENCAP,
            id="another UDP port",
        ),
        pytest.param(
            desired(view(FREE4, [vf(1, FREE4)], [remote(10, FREE4, VTEP4[0])])),
            bound(frozenset({EntryKey(FREE4.vni, mac_of(10))})),
            Reason.NO_SWITCH_PORT,
            id="no VF that is placed",
        ),
        pytest.param(
            desired(
                view(
                    FREE4,
                    [replace(vf(1, FREE4), state=PortState.BLOCKED, reason=Reason.DUPLICATE)],
                )
            ),
            None,
            Reason.DUPLICATE,
            id="a blocked port",
        ),
        pytest.param(
            desired(view(FREE4, [vf(1, FREE4)], [remote(10, FREE4, VTEP4[0])])),
            Bindings(NIC, placed=frozenset(EntryKey(FREE4.vni, mac_of(n)) for n in (1, 10))),
            Reason.NO_NEXTHOP,
            id="no next hop",
        ),
    ],
)
def test_why_an_entry_is_pending(
    wanted: Desired, bindings: Bindings | None, reason: Reason | None
) -> None:
    found_whys = {why.partition(":")[0] for why in whys(wanted, bindings).values()}
    assert found_whys == ({str(reason)} if reason else set())


@given(worlds())
def test_of_a_view_that_is_not_complete_nothing_is_taken_away(world: Desired) -> None:
    """Not even what another segment shares with it."""
    whole = render_rows(world, bound(entries(world)), WIRING)
    partial = replace(
        world,
        segments={
            name: replace(each, remotes=(), flood=(), synced=False)
            for name, each in world.segments.items()
        },
    )
    seen = {key: replace(row, firm=False) for key, row in whole.items.items()}  # type: ignore[type-var]  # Rows
    assert not diff(render_rows(partial, bound(entries(world)), WIRING), seen).remove


def test_the_view_that_a_row_comes_from() -> None:
    far = remote(10, FREE4, VTEP4[0])
    rows = rows_of(desired(view(FREE4, [vf(1, FREE4), vf(2, FREE4)], [far])))
    scopes: dict[str, set[int | None]] = {}
    for row in rows:
        scopes.setdefault(row.table, set()).add(replace(row, firm=False).scope)
    vni = int(FREE4.vni)
    assert scopes == {
        "geneve_encap_mod_table": {vni},
        "geneve_decap_mod_table": {vni},
        "ipv4_tunnel_term_table": {vni},
        "rx_ipv4_tunnel_source_port": {vni, None},
        "source_port_to_bridge_map": {None},
        "l2_fwd_smac_table": {vni},
        "l2_fwd_tx_table": {vni, None},
        "l2_fwd_rx_table": {None},
        "l2_to_tunnel_v4": {FABRIC_SCOPE},
        "ipv4_table": {FABRIC_SCOPE},
        "nexthop_table": {FABRIC_SCOPE},
        **{f"rif_mod_table_{part}": {FABRIC_SCOPE} for part in ("start", "mid", "last")},
    }
