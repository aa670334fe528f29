"""What differs between the userspace and the kernel's datapath: all of it follows from one word."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.contracts import Target
from dataplane.core.desired import Bindings, Datapath, Desired, SegmentView
from dataplane.core.diff import Item, Rendering, diff
from dataplane.core.model import IpAddress, Segment
from dataplane.host.glue import GlueTarget, Joint, _scope
from dataplane.host.target import LinkKey, LinksTarget
from overlay_ovs.flows import render_flows
from overlay_ovs.ports import Configured, PortsTarget
from overlay_ovs.tables import ARP_ND, BRIDGES, INTEGRATION_BRIDGE, UNDERLAY_BRIDGE, BridgeFlow
from overlay_ovs.target import FlowsTarget
from overlay_ovs.tunnels import TunnelsTarget
from ovs_client.vswitch import Bridge, Port
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    NIC,
    OWN4,
    OWN6,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    bindings,
    desired,
    mac_of,
    port,
    remote,
    view,
)
from tests.unit.test_overlay_flows import worlds

NOBODY: Any = None  # a render asks no server
NETDEVS = (NIC.name, "ow-phy", "ophy0", "ow-int", "vp1", "ot1")
WORLD = view(GENEVE4, [port(1, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])])
SOURCE = re.compile(r"set_field:[0-9a-f.:]+->tun_(ipv6_)?src,")


def wanted(datapath: Datapath, *views: SegmentView, ebpf: bool = True) -> Desired:
    plain = desired(*views)
    return replace(plain, node=replace(plain.node, datapath=datapath, ebpf=ebpf))


def rendered(target: Target, datapath: Datapath, world: SegmentView = WORLD) -> Rendering:
    ifindexes = {name: number for number, name in enumerate(NETDEVS, start=1)}
    known = replace(bindings(world), ifindexes=ifindexes)
    return target.render(wanted(datapath, world), known)


def _values(rendering: Rendering) -> list[Bridge | Port]:
    return [item.value for item in rendering.items.values() if isinstance(item, Configured)]


@pytest.mark.parametrize(
    ("datapath", "kind", "names", "local_ip"),
    [
        pytest.param(
            Datapath.USERSPACE,
            "netdev",
            {"ow-int", "ow-phy", "ophy0", "ow-geneve", "ow-vxlan", "ot1"},
            None,
            id="userspace",
        ),
        pytest.param(
            Datapath.KERNEL,
            "system",
            {"ow-int", "ow-geneve", "ow-vxlan", "ot1"},
            "flow",
            id="kernel",
        ),
    ],
)
def test_bridges_and_ports(
    datapath: Datapath, kind: str, names: set[str], local_ip: str | None
) -> None:
    rendering = rendered(PortsTarget(NOBODY, NOBODY, "node-a"), datapath)
    found = {each.name: each for each in _values(rendering)}
    assert set(found) == names
    kinds = {each.datapath_type for each in found.values() if isinstance(each, Bridge)}
    assert kinds == {kind}
    tunnels = [found["ow-geneve"], found["ow-vxlan"]]
    assert [each.options.get("local_ip") for each in tunnels if isinstance(each, Port)] == [
        local_ip
    ] * 2


def test_the_kernels_needs_no_nic_for_its_bridges() -> None:
    target = PortsTarget(NOBODY, NOBODY, "node-a")
    assert target.render(wanted(Datapath.KERNEL, WORLD), Bindings()).pending == ()


def netdevs(rendering: Rendering) -> set[str]:
    """Return which netdevs are set or joined."""
    assert not rendering.pending
    keys = {key.name for key in rendering.items if isinstance(key, LinkKey)}
    return keys | {item.netdev for item in rendering.items.values() if isinstance(item, Joint)}


@pytest.mark.parametrize(
    ("target", "datapath", "found"),
    [
        pytest.param(
            LinksTarget(),
            Datapath.USERSPACE,
            {"ow-phy", "ophy0", "vp1", "ot1"},
            id="links-userspace",
        ),
        pytest.param(LinksTarget(), Datapath.KERNEL, {"vp1", "ot1"}, id="links-kernel"),
        pytest.param(
            GlueTarget(),
            Datapath.USERSPACE,
            {NIC.name, "ophy0", "vp1", "ot1"},
            id="glue-userspace",
        ),
        pytest.param(GlueTarget(), Datapath.KERNEL, {"vp1", "ot1"}, id="glue-kernel"),
    ],
)
def test_netdevs(target: Target, datapath: Datapath, found: set[str]) -> None:
    assert netdevs(rendered(target, datapath)) == found


def test_the_kernels_has_no_ways_of_its_own_for_tunnels() -> None:
    target = TunnelsTarget(NOBODY, NOBODY)
    assert rendered(target, Datapath.USERSPACE).items
    assert rendered(target, Datapath.KERNEL) == Rendering({})


def flows(rendering: Rendering, bridge: str) -> dict[tuple[int, int, str], str]:
    found = [each for each in rendering.items.values() if isinstance(each, BridgeFlow)]
    return {
        (each.flow.table, each.flow.priority, each.flow.match): each.flow.actions
        for each in found
        if each.bridge == bridge
    }


@given(views=worlds(), ebpf=st.booleans())
def test_the_pipeline_is_the_same_but_for_our_address_and_answers_to_nd(
    views: list[SegmentView], ebpf: bool
) -> None:
    known = bindings(*views)
    macs = {vtep: mac_of(99) for vtep in (*VTEP4, *VTEP6)}
    ours, kernels = (
        render_flows(wanted(each, *views, ebpf=ebpf), replace(known, next_hops=macs))
        for each in (Datapath.USERSPACE, Datapath.KERNEL)
    )
    assert flows(ours, UNDERLAY_BRIDGE)
    assert not flows(kernels, UNDERLAY_BRIDGE)
    without = {
        key: SOURCE.sub("", actions) for key, actions in flows(kernels, INTEGRATION_BRIDGE).items()
    }
    whole = flows(ours, INTEGRATION_BRIDGE)
    assert without == {key: actions for key, actions in whole.items() if not answers_nd(*key)}


def answers_nd(table: int, _priority: int, match: str) -> bool:
    """Say whether a flow is part of answering an ND question; the guard is not."""
    return "reg3=" in match or (table >= ARP_ND.number and "icmp6" in match)


@pytest.mark.parametrize(
    ("segment", "vtep", "source"),
    [
        pytest.param(GENEVE4, VTEP4[0], f"set_field:{OWN4}->tun_src", id="geneve-ipv4"),
        pytest.param(GENEVE6, VTEP6[0], f"set_field:{OWN6}->tun_ipv6_src", id="geneve-ipv6"),
        pytest.param(VXLAN4, VTEP4[0], f"set_field:{OWN4}->tun_src", id="vxlan-ipv4"),
        pytest.param(VXLAN6, VTEP6[0], f"set_field:{OWN6}->tun_ipv6_src", id="vxlan-ipv6"),
    ],
)
def test_what_the_kernel_sends_has_our_vtep_for_source(
    segment: Segment, vtep: IpAddress, source: str
) -> None:
    world = view(segment, [port(1, segment)], [remote(11, segment, vtep)])
    found = flows(render_flows(wanted(Datapath.KERNEL, world), bindings(world)), INTEGRATION_BRIDGE)
    towards = [actions for actions in found.values() if "_dst" in actions and "tun_id" in actions]
    assert len(towards) == 2  # to the one, and to all
    for actions in towards:
        assert actions.index(source) < actions.index(f"set_field:{vtep}->")


def test_the_kernels_waits_for_no_port_and_no_next_hop_at_the_nic() -> None:
    numbers = bindings(WORLD)
    ofports = {name: number for name, number in numbers.ofports.items() if name != "ophy0"}
    unbound = replace(numbers, ofports=ofports)
    for ebpf in (True, False):
        assert not render_flows(wanted(Datapath.KERNEL, WORLD, ebpf=ebpf), unbound).pending
        assert render_flows(wanted(Datapath.USERSPACE, WORLD, ebpf=ebpf), unbound).pending


def test_bridges_whose_flows_are_looked_at(tmp_path: Path) -> None:
    for datapath, names in BRIDGES.items():
        rendering = rendered(PortsTarget(NOBODY, NOBODY, "node-a"), datapath)
        made = {each.name for each in _values(rendering) if isinstance(each, Bridge)}
        assert set(names) == set(FlowsTarget(tmp_path, datapath)._bridges) == made


@pytest.mark.parametrize(
    ("datapath", "gone"),
    [
        pytest.param(Datapath.USERSPACE, set(), id="userspace"),
        pytest.param(Datapath.KERNEL, {NIC.name, "ophy0"}, id="kernel"),
    ],
)
def test_while_views_are_incomplete_only_the_kernels_takes_redirects_of_the_nic_away(
    datapath: Datapath, gone: set[str]
) -> None:
    """What peers send is for the kernel's sockets there, whoever they are."""
    before = rendered(GlueTarget(), Datapath.USERSPACE).items
    unknown = replace(WORLD, flood=(), synced=False)
    after = rendered(GlueTarget(), datapath, unknown)
    removed = diff(after, {key: found(item) for key, item in before.items()}).remove
    assert {item.netdev for item in removed.values()} == gone


def found(item: Item) -> Joint:
    """Return a redirect as a look at the kernel shows it."""
    assert isinstance(item, Joint)
    return replace(item, scope=_scope(item.redirect))


def test_who_changes_to_the_kernels_takes_the_underlay_bridge_away() -> None:
    target = PortsTarget(NOBODY, NOBODY, "node-a")
    before, after = (rendered(target, each) for each in (Datapath.USERSPACE, Datapath.KERNEL))
    change = diff(after, before.items)
    assert set(change.remove) == {("Bridge", "ow-phy"), ("Port", "ophy0")}
    assert ("Bridge", "ow-int") in change.update
