"""The three Targets of Open vSwitch and its feed, against real processes in a namespace."""

import os
import queue
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from dataplane.contracts import Target
from dataplane.core.desired import Bindings, Datapath, Desired, PortState, SegmentView
from dataplane.core.diff import Change, diff
from dataplane.core.errors import PartlyRefusedError, TargetError
from dataplane.core.events import Event, OfportChanged
from dataplane.core.model import Fabric, Mac, Svi
from dataplane.netlink.netns import Netns
from overlay_ovs.feed import OvsFeed
from overlay_ovs.ports import PortsTarget
from overlay_ovs.target import FlowsTarget
from overlay_ovs.tunnels import Intake, Route, TunnelsTarget
from ovs_client.unixctl import Unixctl
from ovs_client.vswitch import VSwitch
from tests.functional.overlay_switch import SENTINEL_FLOW, Switch, outputs, running_switch
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MAC_ONLY,
    MTU,
    NIC,
    OWN4,
    OWN6,
    UNGUARDED,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    bindings,
    desired,
    gateway_mac,
    mac_of,
    port,
    remote,
    trunk,
    view,
)
from tests.unit.test_overlay_flows import worlds

OTHERS_FLOW = "priority=7,in_port=9,actions=drop"
SEGMENTS = (GENEVE4, GENEVE6, VXLAN4, VXLAN6, MAC_ONLY, UNGUARDED)


@dataclass
class Hands:
    """A clock that stands still until it is set."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def converge(target: Target, wanted: Desired, numbers: Bindings) -> Change:
    """Do a worker's round; return what it changed."""
    change = diff(target.render(wanted, numbers), target.observe())
    target.apply(change)
    return change


def on(datapath: Datapath, wanted: Desired) -> Desired:
    """Return ``wanted`` of a node with ``datapath``."""
    return replace(wanted, node=replace(wanted.node, datapath=datapath))


def ports_target(switch: Switch, vswitch: VSwitch) -> PortsTarget:
    return PortsTarget(vswitch, Unixctl(switch.rundir), "node-a")


def every_kind() -> list[SegmentView]:
    """Return segments of every encapsulation, family, guard and kind of port, with gateways."""
    views = []
    for first, segment in enumerate(SEGMENTS):
        slots = range(first * 10 + 1, first * 10 + 4)
        vteps = VTEP4 if segment.underlay.value == "ipv4" else VTEP6
        ports = [
            port(slots[0], segment),
            port(slots[1], segment, ips=()),
            port(slots[2], segment, state=PortState.BLOCKED),
            trunk(90, segment, first + 1),
            trunk(91, segment, first + 1, PortState.BLOCKED),
        ]
        remotes = [remote(200 + slot, segment, vteps[slot % 2]) for slot in slots]
        prefixes = (ip_interface("10.1.0.254/16"), ip_interface("fd00::ffff/64"))
        gateway = Svi(segment.name, "shop", segment.name, gateway_mac(first), prefixes)
        views.append(replace(view(segment, ports, remotes), gateway=gateway))
    return views


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    with running_switch(tmp_path_factory.mktemp("targets")) as started:
        yield started


class TestFlows:
    def test_every_kind_of_flow_is_printed_as_it_was_written(self, switch: Switch) -> None:
        target, world = FlowsTarget(switch.rundir), every_kind()
        wanted, numbers = desired(*world), bindings(*world)
        assert converge(target, wanted, numbers)
        assert target.observe() == target.render(wanted, numbers).items

    def test_without_ebpf_macs_are_written_and_stay_while_they_are_asked_for_anew(
        self, switch: Switch
    ) -> None:
        target, plain = FlowsTarget(switch.rundir), desired(*every_kind())
        wanted = replace(plain, node=replace(plain.node, ebpf=False))
        unknown = bindings(*every_kind())
        for number in (1, 2):
            macs = {vtep: Mac(f"02:00:00:00:0{number}:01") for vtep in wanted.peers}
            known = replace(unknown, next_hops=macs)
            assert converge(target, wanted, known)
            assert target.observe() == target.render(wanted, known).items
            assert not converge(target, wanted, unknown)  # as an agent that has just started
            assert target.observe() == target.render(wanted, known).items

    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(world=worlds())
    def test_after_a_round_nothing_is_left_to_do(
        self, switch: Switch, world: list[SegmentView]
    ) -> None:
        target, wanted, numbers = FlowsTarget(switch.rundir), desired(*world), bindings(*world)
        converge(target, wanted, numbers)
        assert not diff(target.render(wanted, numbers), target.observe())

    def test_flows_of_others_are_neither_seen_nor_touched(self, switch: Switch) -> None:
        switch.openflow("add-flow", "ow-int", OTHERS_FLOW)
        target = FlowsTarget(switch.rundir)
        converge(target, desired(), bindings())
        assert "priority=7,in_port=9 actions=drop" in switch.openflow("dump-flows", "ow-int")
        assert all(item.flow.priority != 7 for item in target.observe().values())

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(("del-flows", "ow-int", "table=30"), id="deleted"),
            pytest.param(("mod-flows", "ow-int", "table=30,actions=drop"), id="changed"),
            pytest.param(
                (
                    "add-flow",
                    "ow-int",
                    "cookie=0x4f57010000000001,table=30,priority=999,actions=drop",
                ),
                id="added in our name",
            ),
        ],
    )
    def test_damage_is_repaired(self, switch: Switch, damage: tuple[str, ...]) -> None:
        target, world = FlowsTarget(switch.rundir), every_kind()
        wanted, numbers = desired(*world), bindings(*world)
        converge(target, wanted, numbers)
        switch.openflow(*damage)
        assert converge(target, wanted, numbers)
        assert target.observe() == target.render(wanted, numbers).items

    def test_no_switch_is_an_error_that_says_so(self, tmp_path: Path) -> None:
        with pytest.raises(TargetError, match=r"bridge ow-int: dump-flows: .*ovs-vswitchd runs"):
            FlowsTarget(tmp_path).observe()


RENEWED = {OWN4, OWN6, Intake(OWN4), Intake(OWN6)}


class TestTunnels:
    @pytest.fixture
    def hands(self) -> Hands:
        return Hands()

    @pytest.fixture
    def target(self, switch: Switch, hands: Hands) -> Iterator[TunnelsTarget]:
        started = TunnelsTarget(Unixctl(switch.rundir), hands)
        yield started
        converge(started, desired(), Bindings())

    WORLD = (
        view(GENEVE4, [], [remote(11, GENEVE4, VTEP4[0]), remote(12, GENEVE4, VTEP4[1])]),
        view(VXLAN4, [], [remote(11, VXLAN4, VTEP4[0])]),
        view(GENEVE6, [], [remote(13, GENEVE6, VTEP6[0])]),
    )

    def test_a_round_leaves_nothing_to_do(self, switch: Switch, target: TunnelsTarget) -> None:
        wanted = desired(*self.WORLD)
        assert converge(target, wanted, Bindings())
        assert target.observe() == target.render(wanted, Bindings()).items
        shown = switch.control("ovs/route/show")
        assert "User: 192.0.2.2/32 dev ow-phy GW 192.0.2.1 SRC 192.0.2.1" in shown
        assert "User: 2001:db8::2/128 dev ow-phy GW 2001:db8::1 SRC 2001:db8::1" in shown
        assert switch.control("tnl/neigh/aging").strip() == "3600"

    def test_what_ovs_forgets_is_set_again_in_time(
        self, target: TunnelsTarget, hands: Hands
    ) -> None:
        wanted = desired(*self.WORLD)
        converge(target, wanted, Bindings())
        hands.now += 30
        change = converge(target, wanted, Bindings())
        assert {*change.add, *change.update} == RENEWED
        assert not converge(target, wanted, Bindings())

    def test_what_was_flushed_comes_back(self, switch: Switch, target: TunnelsTarget) -> None:
        wanted = desired(*self.WORLD)
        converge(target, wanted, Bindings())
        switch.control("tnl/neigh/flush")
        switch.control("ovs/route/del", "192.0.2.2/32")
        assert set(converge(target, wanted, Bindings()).add) == {
            OWN4,
            OWN6,
            Route(VTEP4[0], OWN4),
        }
        assert not converge(target, wanted, Bindings())

    def test_the_kernels_datapath_leaves_nothing_of_it(
        self, switch: Switch, target: TunnelsTarget
    ) -> None:
        plain = desired(*self.WORLD)
        converge(target, plain, Bindings())
        kernels = replace(plain, node=replace(plain.node, datapath=Datapath.KERNEL))
        assert converge(target, kernels, Bindings())
        assert "User:" not in switch.control("ovs/route/show")
        assert not converge(target, kernels, Bindings())

    def test_a_vtep_that_left_loses_its_route(self, switch: Switch, target: TunnelsTarget) -> None:
        converge(target, desired(*self.WORLD), Bindings())
        converge(target, desired(self.WORLD[2]), Bindings())
        shown = switch.control("ovs/route/show")
        assert f"User: {VTEP4[0]}" not in shown
        assert f"User: {VTEP6[0]}/128" in shown

    def test_a_vtep_that_left_does_not_stop_what_comes_in(
        self, switch: Switch, target: TunnelsTarget
    ) -> None:
        """OVS forgets a device with the first route over it that is deleted."""
        converge(target, desired(*self.WORLD), Bindings())
        before = switch.control("tnl/ports/show", "-v")
        assert f"ipv4(dst={OWN4}," in before
        converge(target, desired(self.WORLD[2]), Bindings())
        assert switch.control("tnl/ports/show", "-v") == before

    def test_a_family_that_left_does_not_stop_the_other(
        self, switch: Switch, target: TunnelsTarget
    ) -> None:
        wanted = desired(self.WORLD[0])
        converge(target, wanted, Bindings())
        converge(target, replace(wanted, vteps=(OWN4,)), Bindings())
        assert f"ipv4(dst={OWN4}," in switch.control("tnl/ports/show", "-v")

    def test_an_address_that_cannot_be_had_does_not_stop_the_other(
        self, switch: Switch, target: TunnelsTarget
    ) -> None:
        wanted = desired(self.WORLD[0])
        converge(target, wanted, Bindings())
        with pytest.raises(TargetError, match="route/add"):
            converge(target, replace(wanted, vteps=(OWN4, ip_address("2001:db8::77"))), Bindings())
        assert f"ipv4(dst={OWN4}," in switch.control("tnl/ports/show", "-v")

    def test_an_old_way_in_is_still_removed(
        self, switch: Switch, target: TunnelsTarget, hands: Hands
    ) -> None:
        wanted = desired(self.WORLD[0])
        converge(target, wanted, Bindings())
        hands.now += 30
        converge(target, replace(wanted, vteps=(OWN4,)), Bindings())
        assert f"User: {OWN6}" not in switch.control("ovs/route/show")

    def test_a_route_that_is_gone_is_removed_all_the_same(
        self, switch: Switch, target: TunnelsTarget
    ) -> None:
        converge(target, desired(*self.WORLD), Bindings())
        change = diff(target.render(desired(), Bindings()), target.observe())
        switch.control("ovs/route/del", f"{VTEP4[0]}/32")
        target.apply(change)
        assert f"User: {VTEP4[1]}" not in switch.control("ovs/route/show")

    def test_while_a_view_is_incomplete_routes_stay(
        self, switch: Switch, target: TunnelsTarget
    ) -> None:
        converge(target, desired(*self.WORLD), Bindings())
        converge(target, desired(view(GENEVE4, synced=False)), Bindings())
        assert switch.control("ovs/route/show").count("User:") == 5

    def test_a_new_address_of_the_node_becomes_the_gateway(
        self, switch: Switch, target: TunnelsTarget
    ) -> None:
        other = ip_address("192.0.2.9")
        wanted = desired(*self.WORLD)
        converge(target, wanted, Bindings())
        switch.ip("addr", "add", f"{other}/32", "dev", "ow-phy", "noprefixroute")
        moved = replace(wanted, vteps=(other, OWN6))
        _until(lambda: not _fails(lambda: converge(target, moved, Bindings())))
        assert not converge(target, moved, Bindings())
        assert "User: 192.0.2.2/32 dev ow-phy GW 192.0.2.9" in switch.control("ovs/route/show")
        switch.ip("addr", "del", f"{other}/32", "dev", "ow-phy")

    def test_an_address_that_is_not_there_is_named(self, target: TunnelsTarget) -> None:
        wanted = replace(desired(*self.WORLD), vteps=(ip_address("198.51.100.7"),))
        with pytest.raises(TargetError, match=r"route/add .*is 198\.51\.100\.7 on ow-phy\?"):
            converge(target, wanted, Bindings())

    def test_another_bridges_neighbour_is_not_ours(
        self, switch: Switch, target: TunnelsTarget
    ) -> None:
        wanted = desired(*self.WORLD)
        converge(target, wanted, Bindings())
        switch.control("tnl/neigh/flush")
        switch.control("tnl/neigh/set", "ow-int", str(OWN4), "02:00:00:00:12:34")
        assert set(converge(target, wanted, Bindings()).add) == {OWN4, OWN6}


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Switch]:
    """Provide a switch without any bridge."""
    with running_switch(tmp_path, bare=True) as started:
        yield started


@pytest.fixture
def vswitch(empty: Switch) -> Iterator[VSwitch]:
    started = VSwitch(empty.ovs.remote)
    started.start()
    started.wait_connected(10)
    yield started
    started.stop()


class TestPorts:
    WORLD = (
        view(GENEVE4, [port(1, GENEVE4), port(3, GENEVE4, state=PortState.BLOCKED)]),
        view(VXLAN4, [port(2, VXLAN4)]),
    )
    TRUNK = (
        view(GENEVE4, [replace(trunk(4, GENEVE4, 5), mtu=1300)]),
        view(VXLAN4, [replace(trunk(4, VXLAN4, 6), mtu=1350)]),
        view(GENEVE6, [replace(trunk(4, GENEVE6, 7), mtu=1280)]),
    )

    def test_a_trunk_port_is_one_and_as_large_as_its_largest_segment(
        self, empty: Switch, vswitch: VSwitch
    ) -> None:
        target, nic = ports_target(empty, vswitch), Bindings(NIC)
        converge(target, desired(*self.TRUNK), nic)
        assert not converge(target, desired(*self.TRUNK), nic)
        _until(lambda: _ofport(empty, "ot4") == 104)
        assert "mtu 1350 " in empty.ip("link", "show", "ot4")
        converge(target, desired(*self.TRUNK[:1]), nic)
        _until(lambda: "mtu 1300 " in empty.ip("link", "show", "ot4"))

    def test_bridges_and_ports_are_as_asked(self, empty: Switch, vswitch: VSwitch) -> None:
        target, wanted = ports_target(empty, vswitch), desired(*self.WORLD)
        nic = Bindings(replace(NIC, mtu=1600))
        assert converge(target, wanted, nic)
        assert not converge(target, wanted, nic)
        expected = {"ow-geneve": 1, "ow-vxlan": 2, "ophy0": 1, "ot1": 101, "ot2": 102, "ot3": 103}
        _until(lambda: {name: _ofport(empty, name) for name in expected} == expected)
        assert empty.configure("get", "bridge", "ow-phy", "other_config:hwaddr").strip() == (
            f'"{NIC.mac}"'
        )
        links = {name: empty.ip("link", "show", name) for name in ("ot1", "ophy0", "ow-phy")}
        assert f"mtu {MTU} " in links["ot1"]
        assert "mtu 1600 " in links["ophy0"]
        assert NIC.mac in links["ow-phy"]

    def test_ports_and_tunnels_follow(self, empty: Switch, vswitch: VSwitch) -> None:
        target, nic = ports_target(empty, vswitch), Bindings(NIC)
        converge(target, desired(*self.WORLD), nic)
        other = replace(desired(self.WORLD[1]), fabric=Fabric(geneve_port=16081))
        change = converge(target, other, nic)
        assert set(change.remove) == {("Port", "ot1"), ("Port", "ot3")}
        assert set(change.update) == {("Port", "ow-geneve")}
        assert not converge(target, other, nic)
        assert "ot1" not in empty.configure("list-ports", "ow-int").split()
        options = empty.configure("get", "interface", "ow-geneve", "options")
        assert 'dst_port="16081"' in options

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(("del-port", "ot1"), id="port deleted"),
            pytest.param(("del-br", "ow-int"), id="bridge deleted"),
            pytest.param(("set", "bridge", "ow-int", "fail_mode=standalone"), id="fail mode"),
            pytest.param(("clear", "interface", "ow-geneve", "options"), id="options"),
            pytest.param(("set", "interface", "ot1", "mtu_request=9000"), id="MTU"),
        ],
    )
    def test_damage_is_repaired(
        self, empty: Switch, vswitch: VSwitch, damage: tuple[str, ...]
    ) -> None:
        target, nic = ports_target(empty, vswitch), Bindings(NIC)
        wanted = desired(*self.WORLD)
        converge(target, wanted, nic)
        empty.configure("--", *damage)
        _until(lambda: bool(diff(target.render(wanted, nic), target.observe())))
        converge(target, wanted, nic)
        assert target.observe() == target.render(wanted, nic).items

    def test_without_the_nic_its_copies_wait_and_stay(
        self, empty: Switch, vswitch: VSwitch
    ) -> None:
        target, wanted = ports_target(empty, vswitch), desired(*self.WORLD)
        converge(target, wanted, Bindings(NIC))
        rendering = target.render(wanted, Bindings())
        assert [entry.about for entry in rendering.pending] == ["ow-phy"]
        assert not diff(rendering, target.observe())

    def test_what_others_have_stays(self, empty: Switch, vswitch: VSwitch) -> None:
        empty.configure("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev")
        target, nic = ports_target(empty, vswitch), Bindings(NIC)
        converge(target, desired(*self.WORLD), nic)
        empty.configure(
            *("--", "add-port", "ow-int", "mirror0"),
            *("--", "set", "interface", "mirror0", "type=internal"),
        )
        _until(lambda: "mirror0" in vswitch.ports())
        assert not diff(target.render(desired(*self.WORLD), nic), target.observe())
        converge(target, desired(), nic)
        assert "mirror0" in empty.configure("list-ports", "ow-int").split()
        assert "br-int" in empty.configure("list-br").split()

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            pytest.param(
                ("add-br", "ow-int"), "bridge ow-int exists and is not ours", id="a bridge"
            ),
            pytest.param(
                ("add-br", "ow-int", "--", "set", "bridge", "ow-int", "external_ids:overweave=b"),
                "bridge ow-int exists and belongs to node b",
                id="another node's bridge",
            ),
            pytest.param(
                ("add-br", "br0", "--", "add-port", "br0", "ot1"),
                "port of br0 ot1 exists and is not ours",
                id="a port",
            ),
        ],
    )
    def test_somebody_elses_name_is_an_error(
        self, empty: Switch, vswitch: VSwitch, words: tuple[str, ...], message: str
    ) -> None:
        empty.configure("--no-wait", *words)
        _until(lambda: bool(vswitch.bridges()))
        with pytest.raises(TargetError, match=message):
            converge(ports_target(empty, vswitch), desired(*self.WORLD), Bindings(NIC))
        assert "ow-phy" not in empty.configure("list-br").split()

    @pytest.mark.parametrize(
        ("columns", "is_held"),
        [
            pytest.param(("type=geneve", "options:remote_ip=192.0.2.77"), True, id="default"),
            pytest.param(
                ("type=vxlan", "options:remote_ip=flow", "options:dst_port=6081"), True, id="named"
            ),
            pytest.param(
                ("type=geneve", "options:remote_ip=flow", "options:dst_port=6082"),
                False,
                id="another-port",
            ),
            pytest.param(
                ("type=geneve", "options:remote_ip=flow", "options:dst_port=auto"),
                False,
                id="no-number",
            ),
        ],
    )
    def test_a_udp_port_that_somebody_has_is_said_with_its_holder(
        self, empty: Switch, vswitch: VSwitch, columns: tuple[str, ...], is_held: bool
    ) -> None:
        empty.configure("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev")
        empty.configure(
            "add-port", "br-int", "theirs", "--", "set", "interface", "theirs", *columns
        )
        _until(lambda: "theirs" in vswitch.ports())
        target, wanted, nic = ports_target(empty, vswitch), desired(*self.WORLD), Bindings(NIC)
        if is_held:
            with pytest.raises(PartlyRefusedError) as caught:
                converge(target, wanted, nic)
            assert set(caught.value.refused) == {"ow-geneve"}
            assert (
                "6081 is held by port theirs of bridge br-int" in caught.value.refused["ow-geneve"]
            )
        else:
            converge(target, wanted, nic)
        found = set(empty.configure("list-ports", "ow-int").split())
        assert found == {"ow-vxlan", "ot1", "ot2", "ot3"} | (set() if is_held else {"ow-geneve"})
        assert empty.configure("list-ports", "br-int").split() == ["theirs"]

    def test_a_udp_port_that_somebody_takes_later_is_said_and_ours_stays(
        self, empty: Switch, vswitch: VSwitch
    ) -> None:
        target, wanted, nic = ports_target(empty, vswitch), desired(*self.WORLD), Bindings(NIC)
        converge(target, wanted, nic)
        empty.configure("add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev")
        theirs = ("type=geneve", "options:remote_ip=192.0.2.77", "options:key=7")
        empty.configure("add-port", "br-int", "theirs", "--", "set", "interface", "theirs", *theirs)
        _until(lambda: "theirs" in vswitch.ports())
        for _ in range(2):
            with pytest.raises(PartlyRefusedError, match="held by port theirs of bridge br-int"):
                converge(target, wanted, nic)
        assert "ow-geneve" in empty.configure("list-ports", "ow-int").split()
        elsewhere = replace(wanted, fabric=Fabric(geneve_port=16081))
        converge(target, elsewhere, nic)
        assert not converge(target, elsewhere, nic)
        assert 'dst_port="16081"' in empty.configure("get", "interface", "ow-geneve", "options")

    @pytest.mark.parametrize(
        ("before", "datapath"),
        [
            pytest.param(None, Datapath.USERSPACE, id="userspace"),
            pytest.param(None, Datapath.KERNEL, id="kernel"),
            pytest.param(Datapath.USERSPACE, Datapath.KERNEL, id="userspace-then-kernel"),
        ],
    )
    def test_in_the_kernel_a_udp_port_may_be_anybodys(
        self, empty: Switch, vswitch: VSwitch, before: Datapath | None, datapath: Datapath
    ) -> None:
        """The userspace datapath has no socket there, so nobody is in its way."""
        target, nic = ports_target(empty, vswitch), Bindings(NIC)
        if before is not None:
            converge(target, on(before, desired(*self.WORLD)), nic)
        wanted = on(datapath, desired(*self.WORLD))
        with (
            Netns(str(empty.netns)) as space,
            space.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as held,
        ):
            held.bind(("::", 6081))
            if datapath is Datapath.USERSPACE:
                space.run(lambda: converge(target, wanted, nic))
                return
            for _ in range(2):
                with pytest.raises(PartlyRefusedError) as caught:
                    space.run(lambda: converge(target, wanted, nic))
                assert set(caught.value.refused) == {"ow-geneve"}
                assert f"({os.getpid()})" in caught.value.refused["ow-geneve"]

    @pytest.mark.parametrize(
        ("before", "after", "what"),
        [
            pytest.param(
                Datapath.USERSPACE,
                Datapath.KERNEL,
                "bridge ow-phy cannot go, bridge ow-int cannot change from netdev to system",
                id="to-the-kernels",
            ),
            pytest.param(
                Datapath.KERNEL,
                Datapath.USERSPACE,
                "bridge ow-int cannot change from system to netdev",
                id="from-the-kernels",
            ),
        ],
    )
    def test_the_datapath_changes_only_while_ovs_vswitchd_can_take_its_devices_away(
        self, empty: Switch, vswitch: VSwitch, before: Datapath, after: Datapath, what: str
    ) -> None:
        target, nic = ports_target(empty, vswitch), Bindings(NIC)
        had, wanted = (on(each, desired(*self.WORLD)) for each in (before, after))
        converge(target, had, nic)
        empty.ovs.stop_switch()
        assert not converge(target, had, nic)
        with pytest.raises(TargetError, match=f"{what}.*start ovs-vswitchd first"):
            converge(target, wanted, nic)
        assert target.observe() == target.render(had, nic).items
        empty.ovs.start_switch()
        assert converge(target, wanted, nic)
        assert target.observe() == target.render(wanted, nic).items

    def test_a_switch_that_runs_changes_its_datapath_to_and_fro(
        self, empty: Switch, vswitch: VSwitch
    ) -> None:
        """A dummy in memory stands for the kernel's datapath (--enable-dummy), without netdevs."""
        empty.ovs.stop_switch()
        empty.ovs.place.start("ovs-vswitchd", "--enable-dummy=system", empty.ovs.remote)
        target, nic = ports_target(empty, vswitch), Bindings(NIC)
        ofports = {"ow-geneve": 1, "ow-vxlan": 2, "ot1": 101, "ot2": 102, "ot3": 103}
        netdevs = {"ow-int", "ow-phy", "ophy0", "ot1", "ot2", "ot3"}
        kinds = {Datapath.USERSPACE: ("netdev@", netdevs), Datapath.KERNEL: ("system@", set())}
        for datapath in (*Datapath, *Datapath):
            converge(target, on(datapath, desired(*self.WORLD)), nic)
            kind, expected = kinds[datapath]
            _until(partial(_has_netdevs, empty, expected))
            _until(lambda: {name: _ofport(empty, name) for name in ofports} == ofports)
            assert kind in empty.control("dpif/show")

    def test_no_database_is_an_error_that_says_so(self, empty: Switch, vswitch: VSwitch) -> None:
        empty.ovs.server.stop()
        _until(lambda: vswitch.error is not None)
        with pytest.raises(TargetError, match="start ovsdb-server"):
            ports_target(empty, vswitch).observe()


class TestFeed:
    @pytest.fixture
    def heard(self, empty: Switch) -> Iterator[queue.SimpleQueue[Event | str]]:
        events: queue.SimpleQueue[Event | str] = queue.SimpleQueue()
        vswitch = VSwitch(empty.ovs.remote)
        feed = OvsFeed(vswitch, Unixctl(empty.rundir), lambda: events.put("poke"))
        feed.start(events.put)
        yield events
        feed.stop()

    def test_numbers_and_bridges_are_told(
        self, empty: Switch, heard: queue.SimpleQueue[Event | str]
    ) -> None:
        assert heard.get(timeout=10) == "poke"  # the database answers
        empty.configure("add-br", "ow-int", "--", "set", "bridge", "ow-int", "datapath_type=netdev")
        empty.configure(
            *("add-port", "ow-int", "ot1"),
            *("--", "set", "interface", "ot1", "type=internal", "ofport_request=101"),
        )
        empty.configure("del-port", "ot1")
        found = _collect(heard, OfportChanged("ot1", None), least=2)
        assert "poke" in found  # the bridge is new
        assert OfportChanged("ot1", 101) in found

    @pytest.mark.parametrize("end", ["kill", "stop"])
    def test_the_end_is_told_and_a_restart_once_it_can_be_repaired(
        self, empty: Switch, heard: queue.SimpleQueue[Event | str], end: str
    ) -> None:
        assert heard.get(timeout=10) == "poke"
        if end == "kill":
            empty.ovs.kill_switch()
        else:
            empty.ovs.stop_switch()
        assert heard.get(timeout=10) == "poke"
        time.sleep(0.3)
        assert heard.empty()
        started = time.monotonic()
        empty.ovs.start_switch()
        assert heard.get(timeout=10) == "poke"
        print(f"told {time.monotonic() - started:.3f} s after the start began")
        assert Unixctl(empty.rundir).call("version")


class TestRestart:
    WORLD = (
        view(GENEVE4, [port(1, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])]),
        view(VXLAN6, [port(2, VXLAN6)], [remote(12, VXLAN6, VTEP6[0])]),
    )

    def test_after_a_crash_the_same_rounds_bring_everything_back(self, tmp_path: Path) -> None:
        wanted, numbers = desired(*self.WORLD), bindings(*self.WORLD)
        frame = Ether(src=mac_of(1), dst=mac_of(11)) / IP(src="10.1.0.1") / UDP()
        with running_switch(tmp_path, (1, 2)) as switch:
            flows = FlowsTarget(switch.rundir)
            tunnels = TunnelsTarget(Unixctl(switch.rundir), Hands())
            converge(flows, wanted, numbers)
            converge(tunnels, wanted, numbers)
            assert outputs(switch.ask("ot1", bytes(frame))) == ["geneve:100>192.0.2.2"]
            switch.ovs.kill_switch()
            with pytest.raises(TargetError, match="ovs-vswitchd"):
                flows.observe()
            with pytest.raises(TargetError, match="ovs-vswitchd"):
                tunnels.observe()
            started = time.monotonic()
            switch.ovs.start_switch()
            assert all(item.scope is None for item in tunnels.observe().values())  # no routes
            _until(lambda: not _fails(lambda: converge(flows, wanted, numbers)))
            _until(lambda: not _fails(lambda: converge(tunnels, wanted, numbers)))
            print(f"programmed {time.monotonic() - started:.3f} s after the start began")
            switch.openflow("add-flow", "ow-int", SENTINEL_FLOW)
            assert outputs(switch.ask("ot1", bytes(frame))) == ["geneve:100>192.0.2.2"]
            assert not diff(flows.render(wanted, numbers), flows.observe())


def _collect(heard: queue.SimpleQueue[Event | str], last: Event, least: int) -> list[Event | str]:
    """Return what was heard up to ``last``, which may come earlier as a first state."""
    found: list[Event | str] = []
    while last not in found or len(found) < least:
        found.append(heard.get(timeout=10))
    while True:
        try:
            found.append(heard.get(timeout=0.5))
        except queue.Empty:
            return found


def _ofport(switch: Switch, name: str) -> int | None:
    shown = switch.configure("--if-exists", "get", "interface", name, "ofport").strip("[]\n ")
    return int(shown) if shown else None


def _has_netdevs(switch: Switch, names: set[str]) -> bool:
    shown = [line.split()[0] for line in switch.ip("-br", "link").splitlines()]
    return {name for name in shown if name not in ("lo", "ovs-netdev")} == names


def _fails(action: Callable[[], object]) -> bool:
    try:
        action()
    except TargetError:
        return True
    return False


def _until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait until ``condition`` holds: OVS follows its database and the kernel in its own time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
