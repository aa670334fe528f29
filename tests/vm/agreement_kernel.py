"""``verify`` of a kernel's own filters, the emulated SX904, eBPF and Open vSwitch: all agree.

This runs inside the virtual machine alone: few other kernels have cls_flower. One Desired is
rendered for all; the SX904's driver programs the kernel (skip_hw) and the emulated card.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import pytest

from bench.sx904 import batch_line
from bpf.packet_path import FastPacketPath
from dataplane.api import agent_pb2 as pb
from dataplane.api.verify import verify
from dataplane.contracts import ObservedPath, PacketPath, PacketPaths
from dataplane.core.desired import Bindings, Desired, LocalNode, Port
from dataplane.core.diff import diff
from dataplane.core.model import Segment
from dataplane.core.offload import SwitchView
from dataplane.core.snapshot import Snapshot
from dataplane.core.state import State
from dataplane.fastpath import NoEbpf
from dataplane.netlink import exchange, flower
from dataplane.netlink.actions import TunnelSet
from dataplane.netlink.exchange import Exchange
from dataplane.netlink.flower import Skip
from overlay_ovs.packet_path import OvsPacketPath
from ovs_client.unixctl import Unixctl
from tests.functional import senao_device
from tests.functional.emulated_switch import emulated_switch
from tests.functional.namespaces import name_of, run
from tests.functional.node_paths import Flows, Machine, running_machine
from tests.functional.overlay_switch import running_switch
from tests.functional.switch_world import entries
from tests.unit.overlay_builders import (
    GENEVE4,
    NIC,
    VTEP4,
    VTEP6,
    VXLAN6,
    desired,
    mac_of,
    port,
    remote,
    view,
)
from tests.vm.filters_path import REPRESENTORS, TUNNELS, Card, FiltersPath, running_card
from vendors.emulator.control import Control, Faults
from vendors.emulator.relay import Relay
from vendors.emulator.settings import Sx904Config, load_config
from vendors.emulator.sx904.device import Sx904
from vendors.injected import InjectedPath
from vendors.senao.driver import Limits, SenaoSwitch
from vendors.senao.pipeline import Kind, Out, Row, Tunnel, Wiring

NETDEVS = (NIC.name, "ophy0", "rep0", "ot1", "rep1", "ot2")
FAR = 4  # the workload behind a VTEP; 1 and 2 are behind VFs
HOPS = dict.fromkeys((*VTEP4, *VTEP6), mac_of(0xBB01))
# RFC 6040 4.2: the kernel's tunnel devices tell ECT(1) inside, and the userspace datapath does not.
TOLD_BY_THE_KERNEL = "ECN 1 outside, 2 inside "


def vf(number: int, segment: Segment) -> Port:
    plain = port(number, segment)
    return replace(plain, attachment=replace(plain.attachment, netdev=REPRESENTORS[number - 1]))


def world(segment: Segment) -> Desired:
    vtep = (VTEP4 if segment.underlay == "ipv4" else VTEP6)[0]
    return desired(view(segment, [vf(1, segment), vf(2, segment)], [remote(FAR, segment, vtep)]))


@dataclass(frozen=True)
class Node:
    """All paths of a node, and a card whose kernel has the same filters as the emulated one."""

    machine: Machine
    flows: Flows
    card: Card
    kernel: SenaoSwitch
    emulated: SenaoSwitch
    control: Path

    def hold(self, wanted: Desired) -> None:
        """Render for every path what is wanted, all of it placed."""
        self.machine.hold(wanted)
        self.flows.hold(wanted)
        self._place(self.emulated, wanted)
        self.card.space.run(lambda: self._place(self.kernel, wanted))

    def _place(self, switch: SenaoSwitch, wanted: Desired) -> None:
        rendering = switch.render(wanted, bound(wanted))
        assert rendering.pending == ()
        if change := diff(rendering, switch.observe()):
            switch.apply(change)
        assert not diff(rendering, switch.observe())

    def verified(
        self, wanted: Desired, switch: SenaoSwitch, path: ObservedPath, fast: PacketPath
    ) -> list[pb.Verified]:
        """Return what ``verify`` says of a switch, beside eBPF and Open vSwitch."""
        held = SwitchView(self.card.space.run(switch.describe), held=entries(wanted))
        state = State(LocalNode("node-a", NIC.name), bindings=bound(wanted), switch=held)
        truth = OvsPacketPath(Unixctl(self.flows.switch.rundir))
        ways = PacketPaths(fast, truth, path)  # type: ignore[arg-type]  # it is not traced
        asked = pb.VerifyRequest(packets=20, seed="kernel")
        found = Snapshot(state, (), wanted)
        return self.machine.space.netns.run(lambda: [*verify(found, ways, asked)])

    @property
    def fast(self) -> FastPacketPath:
        return FastPacketPath(self.machine.pins)


def bound(wanted: Desired) -> Bindings:
    return Bindings(NIC, next_hops=HOPS, placed=entries(wanted))


class Told(NamedTuple):
    """A difference."""

    path: str
    question: str
    field: str
    said: str
    truth: str


def differences(found: list[pb.Verified]) -> set[Told]:
    every = (each for one in found for each in one.differences)
    return {Told(e.path, e.question, e.field, e.said, e.truth) for e in every}


def verdicts(found: list[pb.Verified], path: str) -> dict[str, int]:
    """Return how many frames a path did what with."""
    counts: dict[str, int] = {}
    for tally in (each for one in found for each in one.paths if each.path == path):
        assert tally.why_not == ""
        for verdict, count in tally.verdicts.items():
            counts[verdict] = counts.get(verdict, 0) + count
    return counts


class EmulatedHere(senao_device.Device):
    """An emulated SX904 in this process: to start another one takes half a minute in there."""

    def start(self) -> None:
        config = load_config(self.config)
        assert isinstance(config, Sx904Config)
        relay = Relay()
        card = Sx904(config, relay)
        control = Control(config.control, Faults(card, relay, config.wiring))
        self._ends = (control.stop, relay.stop, card.stop)
        for each in (card, relay, control):
            each.start()
        self.listen()

    def stop(self) -> None:
        for end in self._ends:
            end()


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    places = [tmp_path_factory.mktemp(name) for name in ("fast", "ovs", "switch")]
    with (
        running_machine(places[0], NETDEVS) as machine,
        running_switch(places[1], (1, 2)) as switch,
        emulated_switch(EmulatedHere, places[2]) as device,
        running_card() as card,
    ):
        device.furnish({str(vtep): mac for vtep, mac in HOPS.items()})
        tunnels = {encap: Tunnel(name) for encap, (name, _) in TUNNELS.items()}
        wiring = Wiring(REPRESENTORS, tunnels, skip=Skip.DEVICE)
        kernel = SenaoSwitch(exchange.kernel_socket, wiring, Limits(4096))
        yield Node(machine, Flows(switch), card, kernel, device.driver(), device.control)


def test_kernel_emulator_ebpf_and_ovs_agree(node: Node) -> None:
    wanted = world(GENEVE4)
    node.hold(wanted)
    found = node.verified(wanted, node.kernel, FiltersPath(node.card), node.fast)
    assert unexpected(found) == set()
    made = {(each.path, each.field) for each in differences(found)}
    assert made == {("switch", "inner frame")}
    expect_all_kinds(verdicts(found, "switch"))
    expect_all_kinds(verdicts(found, "fastpath"))
    found = node.verified(
        wanted, node.emulated, InjectedPath(node.control), NoEbpf("it was asked already")
    )
    assert differences(found) == set()
    expect_all_kinds(verdicts(found, "switch"))


def unexpected(found: list[pb.Verified]) -> set[Told]:
    """Return the differences but those that the kernel's tunnel devices make."""
    told = differences(found)
    return {each for each in told if not each.question.startswith(TOLD_BY_THE_KERNEL)}


def expect_all_kinds(told: dict[str, int]) -> None:
    print(told)
    assert min(told[each] for each in ("tunnel", "deliver", "hand over")) > 20, told


def to_another_segment(row: Row) -> Row:
    return replace(row, actions=(replace(outer(row), key=row.vni + 1), *row.actions[1:]))


def to_another_vtep(row: Row) -> Row:
    return replace(row, actions=(replace(outer(row), target=VTEP6[1]), *row.actions[1:]))


def without_guard(row: Row) -> Row:
    return replace(row, match=replace(row.match, source=None))


def to_another_vf(row: Row) -> Row:
    (there,) = (name for name in REPRESENTORS if name != row.to)
    return replace(row, actions=(*row.actions[:-1], Out(there)))


def outer(row: Row) -> TunnelSet:
    return next(each for each in row.actions if isinstance(each, TunnelSet))


@dataclass(frozen=True)
class Fault:
    """A filter of ``kind`` from VF 1, or to it, that somebody changes, and what is told of it."""

    kind: Kind
    version: int | None
    change: Callable[[Row], Row]
    told: tuple[str, str, str]


FAULTS = (
    Fault(Kind.OUT, 4, to_another_segment, ("VNI", "104", "103")),
    Fault(Kind.OUT, 6, to_another_vtep, ("target VTEP", str(VTEP6[1]), str(VTEP6[0]))),
    Fault(Kind.BETWEEN, 4, without_guard, ("verdict", "deliver", "drop")),
    Fault(Kind.IN, None, to_another_vf, ("output", "rep1", "rep0")),
)


def test_filters_that_somebody_changed_are_told_and_all_else_agrees(node: Node) -> None:
    wanted = world(VXLAN6)
    node.hold(wanted)
    for fault in FAULTS:
        rows = node.card.space.run(node.kernel.observe).values()
        row = next(each for each in rows if isinstance(each, Row) and is_it(each, fault))
        swap(node, row, fault.change(row))
    found = node.verified(wanted, node.kernel, FiltersPath(node.card), node.fast)
    told = unexpected(found)
    assert {each.path for each in told} == {"switch"}
    every = {(each.field, each.said, each.truth) for each in told}
    # That it looks at no size excuses no packet that goes astray.
    assert every - {("verdict", "tunnel", "drop")} == {fault.told for fault in FAULTS}


def is_it(row: Row, fault: Fault) -> bool:
    is_of_vf1 = row.to == "rep0" if fault.kind is Kind.IN else row.netdev == "rep0"
    source = row.match.source
    return (row.kind, source and source.version, is_of_vf1) == (fault.kind, fault.version, True)


def swap(node: Node, before: Row, after: Row) -> None:
    """Take a filter out past the driver, and have tc put another one in."""

    def take_out() -> None:
        number = socket.if_nametoindex(before.netdev)
        with Exchange(exchange.kernel_socket, 10, 60) as asked:
            found = [each.filter for each in flower.listing(asked, number).found]
            (there,) = (each for each in found if each.match == before.match)
            gone = flower.deletion(there.slot, there.protocol)
            assert asked.change([gone], "take a filter out") == [None]

    node.card.space.run(take_out)
    run("ip", "netns", "exec", name_of(node.card.space), "tc", *batch_line(after).split())
