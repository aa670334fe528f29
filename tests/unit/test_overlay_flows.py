"""The flows as a pure function: what is rendered, what waits, what is held, and in any order."""

import re
from collections.abc import Hashable
from dataclasses import replace
from ipaddress import ip_address
from itertools import count
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.desired import Bindings, Desired, Port, PortState, SegmentView
from dataplane.core.diff import Item, Rendering, diff
from dataplane.core.model import Device, Guard, IpAddress, Mac, Segment, Side
from overlay_ovs import tables
from overlay_ovs.flows import render_flows
from overlay_ovs.tables import BridgeFlow, Category, PipelineError, check, cookie
from ovs_client.ofctl import Flow, canonical_match, parse_flow
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MAC_ONLY,
    NIC,
    TUNNELS,
    UNGUARDED,
    VTEP4,
    VTEP6,
    VXLAN4,
    bindings,
    desired,
    ips_of,
    link_local_of,
    mac_of,
    port,
    remote,
    trunk,
    view,
)


def render(*views: SegmentView) -> Rendering:
    return render_flows(desired(*views), bindings(*views))


def flows(rendering: Rendering) -> list[Flow]:
    items = [item for item in rendering.items.values() if isinstance(item, BridgeFlow)]
    assert len(items) == len(rendering.items)
    return [item.flow for item in items]


def text(rendering: Rendering) -> str:
    return "\n".join(f"{flow.match} {flow.actions}" for flow in flows(rendering))


def answers_with(slot: int) -> str:
    return f"set_field:{int(mac_of(slot).replace(':', ''), 16):#x}->xreg2"


@pytest.mark.parametrize(
    ("line", "flow"),
    [
        pytest.param(
            " cookie=0x4f57030000640000, table=20, priority=90,arp,reg0=0x64,arp_op=1 actions=drop",
            Flow(20, 90, "arp,arp_op=1,reg0=0x64", "drop", 0x4F57030000640000),
            id="all parts",
        ),
        pytest.param(" priority=1 actions=LOCAL", Flow(0, 1, "", "LOCAL"), id="no match"),
        pytest.param(" actions=drop", Flow(0, 32768, "", "drop"), id="what is left out"),
        pytest.param(
            " cookie=0x1, in_port=1 actions=output:2,goto_table:3",
            Flow(0, 32768, "in_port=1", "output:2,goto_table:3", 1),
            id="several actions",
        ),
    ],
)
def test_parse_flow(line: str, flow: Flow) -> None:
    assert parse_flow(line) == flow


@pytest.mark.parametrize(
    ("flow", "message"),
    [
        pytest.param(
            Flow(10, 1, "in_port=1", "goto_table:60"), "guard does not lead to table 60", id="goto"
        ),
        pytest.param(Flow(60, 1, "", "goto_table:0"), "output does not lead", id="back"),
        pytest.param(Flow(0, 1, "dl_src=02:00:00:00:00:01", "drop"), "dl_src", id="match"),
        pytest.param(Flow(11, 1, "", "drop"), "no table 11", id="table"),
    ],
)
def test_a_flow_that_breaks_its_tables_declaration_is_refused(flow: Flow, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        check(BridgeFlow(tables.INTEGRATION_BRIDGE, flow))


def test_tables_lead_forward_only_to_tables_that_exist() -> None:
    for pipeline in tables.PIPELINES.values():
        numbers = {table.name: table.number for table in pipeline}
        assert len(set(numbers.values())) == len(pipeline)
        for table in pipeline:
            assert all(numbers[name] > table.number for name in table.goto)


def test_every_flow_is_ours_and_says_where_it_comes_from() -> None:
    rendering = render(view(GENEVE4, [port(1, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])]))
    assert all(tables.is_ours(flow) for flow in flows(rendering))
    scopes = {item.scope for item in rendering.items.values()}
    assert scopes == {
        None,
        100,
        cookie(Category.PORT, 100, 101),
        cookie(Category.SEGMENT, 100),
        cookie(Category.UNDERLAY),
    }


def wire(rendering: Rendering) -> dict[str, str]:
    """Return what the underlay bridge does with what tunnels send."""
    return {f.match: f.actions for f in flows(rendering) if "in_port=LOCAL" in f.match.split(",")}


def test_a_dpu_has_flows_for_its_probes_and_no_other_node_has() -> None:
    plain = desired(view(GENEVE4, [port(1, GENEVE4)]))
    half = Device("1-dpu", "1", "senao", "SX904", Side.DPU, "n1", ready=False)
    dpu = replace(plain, node=replace(plain.node, devices=(half,)))
    host = replace(plain, node=replace(plain.node, devices=(replace(half, side=Side.HOST),)))
    before, after = (
        flows(render_flows(each, bindings(*each.segments.values()))) for each in (host, dpu)
    )
    assert before == flows(render_flows(plain, bindings(*plain.segments.values())))
    found = {
        flow.match: (flow.table, flow.priority, flow.actions)
        for flow in after
        if flow not in before
    }
    assert found == {
        "dl_type=0x88b5,in_port=LOCAL": (0, 400, "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[],IN_PORT"),
        "dl_dst=02:6f:77:70:72:62,dl_type=0x88b5": (0, 300, "drop"),
    }


def test_without_ebpf_the_next_hops_mac_is_written() -> None:
    world = desired(
        view(GENEVE4, (), [remote(11, GENEVE4, vtep) for vtep in VTEP4]),
        view(GENEVE6, (), [remote(12, GENEVE6, VTEP6[0])]),
    )
    known = {VTEP4[0]: Mac("02:00:00:00:00:0a"), VTEP6[0]: Mac("02:00:00:00:00:0b")}
    bound = replace(bindings(), next_hops=known)
    assert wire(render_flows(world, bound)) == {"in_port=LOCAL": "output:1"}
    without = replace(world, node=replace(world.node, ebpf=False))
    rendering = render_flows(without, bound)
    assert wire(rendering) == {
        f"in_port=LOCAL,ip,nw_dst={VTEP4[0]}": "set_field:02:00:00:00:00:0a->eth_dst,output:1",
        f"in_port=LOCAL,ipv6,ipv6_dst={VTEP6[0]}": "set_field:02:00:00:00:00:0b->eth_dst,output:1",
    }
    (waiting,) = rendering.pending
    assert (waiting.about, waiting.reason[:10]) == (VTEP4[1], "no-nexthop")


def test_an_agent_that_has_just_started_keeps_the_macs_it_finds_and_corrects_them() -> None:
    world = desired(view(GENEVE4, (), [remote(11, GENEVE4, VTEP4[0])]))
    without = replace(world, node=replace(world.node, ebpf=False))

    def rendered(next_hops: dict[IpAddress, Mac]) -> Rendering:
        return render_flows(without, replace(bindings(), next_hops=next_hops))

    old, new = Mac("02:00:00:00:00:0a"), Mac("02:00:00:00:00:0b")
    items = rendered({VTEP4[0]: old}).items.values()
    # As it is read from the switch: nobody says there how sure it is.
    read = [replace(item, firm=False) for item in items if isinstance(item, BridgeFlow)]
    found: dict[Hashable, Item] = {item.key: item for item in read}
    assert not diff(rendered({}), found)
    assert [
        item.flow.actions for item in diff(rendered({VTEP4[0]: new}), found).update.values()
    ] == [f"set_field:{new}->eth_dst,output:1"]


def test_a_blocked_port_is_nowhere_but_in_its_drop() -> None:
    blocked = port(3, GENEVE4, state=PortState.BLOCKED)
    rendering = render(view(GENEVE4, [port(1, GENEVE4), blocked], [remote(11, GENEVE4, VTEP4[0])]))
    own = [flow for flow in flows(rendering) if "in_port=103" in flow.match.split(",")]
    assert [(flow.table, flow.actions) for flow in own] == [(0, "drop")]
    everything = text(rendering)
    for trace in (mac_of(3), answers_with(3), *map(str, ips_of(3)), str(link_local_of(3))):
        assert not re.search(rf"{re.escape(trace)}(?![0-9a-f.:])", everything), trace
    assert "103" not in re.findall(r"output:(\d+)", everything)


def test_a_port_without_number_waits_and_what_it_had_stays() -> None:
    world = view(GENEVE4, [port(1, GENEVE4), port(2, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])])
    before = render(world)
    lacking = {name: number for name, number in bindings(world).ofports.items() if name != "ot2"}
    after = render_flows(desired(world), Bindings(NIC, ofports=lacking))
    assert [entry.about for entry in after.pending] == [("pod2", "eth0")]
    assert not any("102" in flow.match for flow in flows(after))
    assert not diff(after, before.items)


def test_what_waits_says_why_open_vswitch_gave_no_number() -> None:
    views = view(GENEVE4, [port(1, GENEVE4)])
    known = bindings(views)
    ofports = {name: number for name, number in known.ofports.items() if name != "ot1"}
    faults = {"ot1": "could not open network device ot1 (Device or resource busy)"}
    unbound = replace(known, ofports=ofports, port_faults=faults)
    (entry,) = render_flows(desired(views), unbound).pending
    assert entry.about == ("pod1", "eth0")
    assert faults["ot1"] in entry.reason


def test_nothing_known_of_ovs_removes_nothing() -> None:
    world = view(GENEVE4, [port(1, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])])
    after = render_flows(desired(world), Bindings())
    assert not diff(after, render(world).items)
    assert {entry.about for entry in after.pending} == {("pod1", "eth0"), "ow-geneve", "ophy0"}


def test_a_port_that_is_gone_is_removed() -> None:
    both = render(view(GENEVE4, [port(1, GENEVE4), port(2, GENEVE4)]))
    change = diff(render(view(GENEVE4, [port(1, GENEVE4)])), both.items)
    assert not change.add
    assert {item.scope for item in change.remove.values()} == {cookie(Category.PORT, 100, 102)}
    assert {item.scope for item in change.update.values()} == {cookie(Category.SEGMENT, 100)}


def test_an_incomplete_view_takes_nothing_away() -> None:
    port1 = port(1, GENEVE4)
    whole = render(view(GENEVE4, [port1], [remote(n, GENEVE4, VTEP4[0]) for n in (11, 12)]))
    part = render(view(GENEVE4, [port1], [remote(13, GENEVE4, VTEP4[1])], synced=False))
    change = diff(part, whole.items)
    assert not change.remove
    assert not change.update  # the flood list of before has more members
    assert str(mac_of(13)) in "".join(flow.match for flow in flows(Rendering(change.add)))


def test_what_is_here_wins_over_a_held_view_that_has_it_elsewhere() -> None:
    elsewhere = render(view(GENEVE4, [port(1, GENEVE4)], [remote(2, GENEVE4, VTEP4[0])]))
    here = render(view(GENEVE4, [port(1, GENEVE4), port(2, GENEVE4)], synced=False))
    change = diff(here, elsewhere.items)
    assert not change.remove
    after = {**elsewhere.items, **change.add, **change.update}
    asked = sorted(
        (flow.priority, flow.actions)
        for flow in flows(Rendering(after))
        if "arp_tpa=10.1.0.2" in flow.match and "reg0" in flow.match
    )
    sought = sorted(
        (flow.priority, flow.actions)
        for flow in flows(Rendering(after))
        if f"dl_dst={mac_of(2)}" in flow.match
    )
    assert [priority for priority, _ in asked] == [100, 110]
    assert [priority for priority, _ in sought] == [100, 110]
    assert sought[-1][1] == "set_field:0x66->reg2,goto_table:55"


def test_addresses_that_are_not_known_are_not_checked() -> None:
    without = flows(render(view(GENEVE4, [port(1, GENEVE4, ips=())])))
    declared = replace(GENEVE4, guard=Guard.MAC)
    mac_only = flows(render(view(declared, [port(1, declared, ips=())])))
    assert without == mac_only


def test_two_claims_of_one_address_do_not_depend_on_their_order() -> None:
    first, second = remote(11, GENEVE4, VTEP4[0]), remote(12, GENEVE4, VTEP4[1])
    claim = replace(second, endpoint=replace(second.endpoint, ips=first.endpoint.ips))
    assert render(view(GENEVE4, [], [first, claim])) == render(view(GENEVE4, [], [claim, first]))


SEGMENTS = (GENEVE4, GENEVE6, VXLAN4, MAC_ONLY, UNGUARDED)


@st.composite
def worlds(draw: st.DrawFn) -> list[SegmentView]:
    slots = count(1)
    views = []
    for segment in SEGMENTS:
        ports = [
            port(next(slots), segment, ips, state)
            for ips, state in draw(
                st.lists(
                    st.tuples(st.sampled_from([None, ()]), st.sampled_from(PortState)), max_size=3
                )
            )
        ]
        ports += [
            trunk(90 + number, segment, int(segment.vni) - 99, state)
            for number, state in draw(
                st.dictionaries(st.integers(0, 2), st.sampled_from(PortState))
            ).items()
        ]
        vteps = VTEP4 if segment.underlay.value == "ipv4" else VTEP6
        remotes = [
            remote(100 + next(slots), segment, vtep)
            for vtep in draw(st.lists(st.sampled_from(vteps), max_size=4))
        ]
        views.append(view(segment, ports, remotes, synced=draw(st.booleans())))
    return views


def shuffled(world: list[SegmentView], draw: st.DataObject) -> Desired:
    views = [
        replace(
            each,
            ports=tuple(draw.draw(st.permutations(each.ports))),
            remotes=tuple(draw.draw(st.permutations(each.remotes))),
            flood=tuple(draw.draw(st.permutations(each.flood))),
        )
        for each in draw.draw(st.permutations(world))
    ]
    return desired(*views)


@given(worlds(), st.data())
def test_order_does_not_matter(world: list[SegmentView], data: st.DataObject) -> None:
    ordered = render_flows(desired(*world), bindings(*world))
    other = render_flows(shuffled(world, data), bindings(*world))
    assert dict(ordered.items) == dict(other.items)
    assert ordered.held == other.held


@given(worlds(), worlds())
def test_applying_a_diff_makes_the_next_one_empty(
    before: list[SegmentView], after: list[SegmentView]
) -> None:
    observed = dict(render_flows(desired(*before), bindings(*before)).items)
    wanted = render_flows(desired(*after), bindings(*after))
    change = diff(wanted, observed)
    applied = {**observed, **change.add, **change.update}
    for key in change.remove:
        del applied[key]
    assert not diff(wanted, applied)


@given(worlds())
def test_matches_are_written_in_canonical_order(world: list[SegmentView]) -> None:
    for flow in flows(render_flows(desired(*world), bindings(*world))):
        assert flow.match == canonical_match(flow.match.split(",") if flow.match else ())


def test_more_vteps_than_ovs_copies_to_are_said_and_not_sent() -> None:
    """A longer list would be refused, and with it every other change of the bundle."""
    vteps = [ip_address(f"198.18.{n >> 8}.{n & 255}") for n in range(1, 701)]
    crowd = view(GENEVE4, [port(1, GENEVE4)], [remote(n, GENEVE4, v) for n, v in enumerate(vteps)])
    rendering = render(crowd)
    (copies,) = [flow.actions.count("output:1") for flow in flows(rendering) if flow.table == 40][
        1:
    ]
    assert copies == 600
    assert [entry.about for entry in rendering.pending] == ["geneve4"]
    assert "600 of 700 VTEPs" in rendering.pending[0].reason
    entries = [flow for flow in flows(rendering) if "tun_id" in flow.match]
    assert len(entries) == 700  # they are heard all the same


def test_frames_from_tunnels_never_leave_by_tunnels() -> None:
    """Each flow that names a tunnel destination asks for a frame of this node."""
    world = view(GENEVE4, [port(1, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])])
    towards = [flow for flow in flows(render(world)) if "tun_dst" in flow.actions]
    assert len(towards) == 2
    assert all("reg1=0" in flow.match.split(",") for flow in towards)


@pytest.mark.parametrize(
    ("segment", "vtep", "expected"),
    [
        pytest.param(GENEVE4, VTEP4[0], "in_port=1,tun_id=0x64,tun_src=192.0.2.2", id="geneve"),
        pytest.param(VXLAN4, VTEP4[0], "in_port=2,tun_id=0x66,tun_src=192.0.2.2", id="vxlan"),
        pytest.param(
            GENEVE6, VTEP6[0], "in_port=1,tun_id=0x65,tun_ipv6_src=2001:db8::2", id="ipv6"
        ),
    ],
)
def test_only_known_pairs_are_taken_from_tunnels(
    segment: Segment, vtep: IpAddress, expected: str
) -> None:
    rendered = flows(render(view(segment, [], [remote(11, segment, vtep)])))
    assert [flow.match for flow in rendered if "tun_id" in flow.match] == [expected]


def test_bindings_decide_the_numbers() -> None:
    world = view(GENEVE4, [port(1, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])])
    given_by_ovs = MappingProxyType({**TUNNELS, "ow-geneve": 77, "ot1": 55})
    rendered = text(render_flows(desired(world), Bindings(NIC, ofports=given_by_ovs)))
    assert "in_port=77,tun_id=0x64" in rendered
    assert "set_field:0x4d->reg2" in rendered
    assert "in_port=55" in rendered
    assert "in_port=101" not in rendered


def test_ports_of_all_kinds_are_told_apart() -> None:
    """The builders' ports differ in slot only; a mix-up of two would show here."""
    ports: list[Port] = [port(slot, GENEVE4) for slot in (1, 2)]
    rendered = flows(render(view(GENEVE4, ports)))
    for slot in (1, 2):
        other = 3 - slot
        own = [flow for flow in rendered if f"in_port={100 + slot}" in flow.match.split(",")]
        assert len(own) == 24
        assert not any(mac_of(other) in flow.match for flow in own)
