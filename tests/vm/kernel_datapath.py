"""Two nodes on the kernel's datapath, beside a Geneve bridge of somebody else in the same OVS.

This runs inside the virtual machine alone: few other kernels have the module. The tests go on from
each other, since nothing is quick there.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import NoReturn

import pytest
import yaml

from dataplane.cli import main as overweave
from dataplane.config import load_config
from dataplane.core.errors import OverweaveError
from dataplane.core.placement import Placement
from dataplane.fabric.intent import plan_apply
from dataplane.fabric.intent_file import read_intent
from dataplane.fabric.store import FabricStore
from dataplane.lab import foreign, lab, matrix, nodes, probes
from dataplane.lab.foreign import Guest
from dataplane.lab.layout import LabPaths, NodePaths
from dataplane.lab.probes import Echo, Station
from dataplane.lab.runtime import Pod, Runtime
from dataplane.lab.scene import COLOURS, INTENT, Colour, silent
from dataplane.lab.topology import LabNode, Topology, read_topology
from dataplane.lab.underlay import NIC
from dataplane.netlink.netns import Netns
from dataplane.startup import run_agent
from ovs_client.daemons import run
from ovs_client.ofctl import OpenFlowBridge, OpenFlowError
from ovs_client.unixctl import Unixctl
from tests.coverage_grid import FAMILIES, Proven
from tests.vm import other_ports
from tests.vm.other_ports import KINDS, Ports

TOPOLOGY = "nodes: [{name: n1, datapath: kernel}, {name: n2, datapath: kernel}]"
OUR_PORT = 16081  # 6081 is theirs
THEIR_MTU = 1400
DEAD_S = 5.0
PATIENCE_S = 180.0
_CLONE_NEWNET = 0x40000000

SEGMENTS = pytest.mark.parametrize(
    "colour", [pytest.param(each, id=f"{each.encap}-{each.underlay}") for each in COLOURS]
)


@dataclass
class Agent:
    """An agent in a process of its own that has imported all it needs: that takes half a minute.

    It begins when the gate is opened.
    """

    paths: NodePaths
    pid: int
    gate: int

    def start(self) -> None:
        os.write(self.gate, b"!")

    def stop(self) -> None:
        """End it; one that has not begun ends at its gate."""
        with suppress(OSError):
            os.close(self.gate)
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGTERM)
            os.waitpid(self.pid, 0)


def prepared(paths: NodePaths) -> Agent:
    opened, gate = os.pipe()
    pid = os.fork()
    if pid == 0:
        _become_agent(paths, opened)
    os.close(opened)
    return Agent(paths, pid, gate)


def _become_agent(paths: NodePaths, gate: int) -> NoReturn:
    try:
        os.read(gate, 1)
        with paths.log.open("a", encoding="utf-8", buffering=1) as log:
            sys.stdout = sys.stderr = log
            with Netns(str(paths.netns)) as node:
                ctypes.CDLL(None).setns(node.fd, _CLONE_NEWNET)
            try:
                run_agent(load_config(paths.config), partial(load_config, paths.config))
            except OverweaveError as error:
                print(error)
    finally:
        os._exit(0)


@dataclass
class World:
    """The lab, its agents, what waits to take their place without eBPF, and their guests."""

    paths: LabPaths
    topology: Topology
    agents: list[Agent]
    successors: list[Agent]
    guests: tuple[Station, Station]
    ports: Ports
    segments: dict[str, list[Station]]

    @property
    def nodes(self) -> list[NodePaths]:
        return [self.paths.node(node.name) for node in self.topology.nodes]


def vsctl(paths: NodePaths, *words: str) -> str:
    return run(["ovs-vsctl", f"--db=unix:{paths.ovs}/db.sock", "--timeout=30", *words]).strip()


def plug_their_guest(paths: LabPaths, topology: Topology, number: int) -> Station:
    """Make a bridge with a Geneve port, as others have them, and a guest on it."""
    node, peer = topology.nodes[number], topology.nodes[1 - number]
    ips = (f"172.16.0.{number + 1}/24", f"fd77::{number + 1}/64")
    guest = Guest(f"g{number}", f"02:77:00:00:00:0{number}", ips, THEIR_MTU)
    station = foreign._make_guest(paths, node.name, guest, f"vg{number}")
    ends = [
        f"options:{end}_ip={each.addresses[0].ip}"
        for end, each in (("local", node), ("remote", peer))
    ]
    vsctl(
        paths.node(node.name),
        *("add-br", "br-int", "--", "add-port", "br-int", f"vg{number}"),
        *("--", "add-port", "br-int", "theirs", "--", "set", "interface", "theirs"),
        *("type=geneve", *ends, "options:key=77"),
    )
    return station


def prefer_another_address(paths: LabPaths, node: LabNode) -> None:
    """Let the kernel choose another source than our VTEP where it is left to its routes."""
    space, vtep = paths.netns(node.name), node.addresses[0]
    for words in (
        ("del", vtep),
        ("add", f"{vtep.ip + 100}/{vtep.network.prefixlen}"),
        ("add", vtep),
    ):
        foreign.ip(space, "address", words[0], str(words[1]), "dev", NIC)


def shown(paths: NodePaths) -> dict[str, str]:
    """Return what of their Open vSwitch must stay as it is."""
    return {
        "ports": vsctl(paths, "list-ports", "br-int"),
        "bridge": vsctl(
            paths, "--columns=datapath_type,fail_mode,other_config", "list", "br", "br-int"
        ),
        "tunnel": vsctl(paths, "--columns=ofport,options,error", "list", "interface", "theirs"),
        "flows": "; ".join(sorted(flows(paths, "br-int"))),
        "global": vsctl(
            paths, "--columns=other_config,external_ids,manager_options,ssl", "list", "open"
        ),
    }


def wait_ready(agents: list[Agent]) -> None:
    for agent in agents:
        until(nodes.obstacle, agent.paths)


def until(ill: Callable[[NodePaths], str], paths: NodePaths) -> None:
    """Return once ``ill`` has nothing to say of a node."""
    give_up = time.monotonic() + PATIENCE_S
    while why := ill(paths):
        log = paths.log.read_text(encoding="utf-8", errors="replace") if paths.log.exists() else ""
        assert time.monotonic() < give_up, f"{why}\n{log[-3000:]}"
        time.sleep(1)


def change_config(paths: NodePaths, **changes: object) -> None:
    """Have the next agent of a node told otherwise."""
    config = yaml.safe_load(paths.config.read_text(encoding="utf-8"))
    paths.config.write_text(yaml.safe_dump({**config, **changes}), encoding="utf-8")


def write_intent(paths: LabPaths, text: str) -> None:
    with FabricStore(lab.fabric_server(paths).remote) as store:
        plan = plan_apply(read_intent(text, "intent"), store.read())
        store.write([*plan.add, *(new for _, new in plan.update)])


@contextmanager
def two_nodes() -> Iterator[World]:
    paths = LabPaths("kernel")
    topology = read_topology(TOPOLOGY, "two nodes")
    with ExitStack() as stack:
        stack.callback(lab.down, paths, silent)
        lab.build(paths, topology, silent)
        change_config(paths.node("n1"), devices=[other_ports.device(paths)])
        for node in topology.nodes:
            prefer_another_address(paths, node)
        places = [paths.node(node.name) for node in topology.nodes]
        # Forked before anything here uses gRPC, which survives no fork.
        agents, successors = ([prepared(each) for each in places] for _ in range(2))
        for agent in (*agents, *successors):
            stack.callback(agent.stop)
        first, second = (plug_their_guest(paths, topology, number) for number in range(2))
        write_intent(paths, f"kind: Fabric\ngeneve_port: {OUR_PORT}\n---\n{INTENT}")
        ports = stack.enter_context(other_ports.running_ports(paths, paths.node("n1")))
        yield World(paths, topology, agents, successors, (first, second), ports, {})


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with two_nodes() as made:
        yield made


def test_theirs_loses_nothing_while_ours_is_set_up(world: World) -> None:
    here, there = world.guests
    matrix.converge(world.guests, PATIENCE_S)
    before = [shown(paths) for paths in world.nodes]
    runtime = Runtime(world.paths)
    with (
        probes.flow(here, there.ip(4), 0.1) as over_ipv4,
        probes.flow(there, here.ip(6), 0.1) as over_ipv6,
    ):
        for agent in world.agents:  # one by one: each compiles, and that has a limit of 120 s
            agent.start()
            wait_ready([agent])
        for colour in COLOURS:
            pods = [
                Pod(f"{colour.name}{node.name}", node.name, colour.name)
                for node in world.topology.nodes
            ]
            world.segments[colour.name] = [runtime.add(pod) for pod in pods]
        for stations in world.segments.values():
            matrix.converge(stations, PATIENCE_S)
    for echo in (over_ipv4, over_ipv6):
        expect_undisturbed(echo)
    assert [shown(paths) for paths in world.nodes] == before


def expect_undisturbed(echo: Echo) -> None:
    """Expect no loss but while a NIC gets its clsact (bpf/README.md): not for long, even here."""
    print(f"theirs: {echo.lost} of {echo.sent} lost")
    assert echo.sent > 10
    assert echo.lost <= 1 + echo.sent // 50
    assert echo.duplicates == 0


def test_status_says_so(world: World) -> None:
    assert all(shown(paths)["flows"] for paths in world.nodes)  # there was something to compare
    for paths in world.nodes:
        modes = nodes.modes(paths)
        assert (modes["datapath"], modes["fastpath"]) == ("kernel", "on")
        assert vsctl(paths, "get", "bridge", "ow-int", "datapath_type") == "system"
        assert vsctl(paths, "list-br").split() == ["br-int", "ow-int"]


@SEGMENTS
def test_all_pairs(world: World, colour: Colour, proven: Proven) -> None:
    expect_whole(world, colour)
    for inner in FAMILIES:
        proven(colour.encap, colour.underlay, inner, datapath="kernel")


def expect_whole(world: World, colour: Colour) -> None:
    verdict = matrix.verify(world.segments[colour.name])
    assert verdict.faults == ()
    assert (verdict.pairs, verdict.reachable, verdict.lost) == (2, 2, 0)


@SEGMENTS
def test_all_pairs_of_ports_that_are_no_veths(world: World, colour: Colour, proven: Proven) -> None:
    expect_whole_with_ports(world, colour)
    for kind, inner in product(KINDS, FAMILIES):
        proven(colour.encap, colour.underlay, inner, port=kind, datapath="kernel")


def expect_whole_with_ports(world: World, colour: Colour) -> None:
    with ExitStack() as stack:
        number = COLOURS.index(colour)
        stations = [
            *(stack.enter_context(world.ports.attached(k, number, colour.name)) for k in KINDS),
            world.segments[colour.name][1],
        ]
        matrix.converge(stations, PATIENCE_S)
        verdict = matrix.verify(stations)
    assert verdict.faults == ()
    assert (verdict.pairs, verdict.reachable, verdict.lost) == (6, 6, 0)


def test_the_fast_path_carries_what_it_knows(world: World) -> None:
    for paths in world.nodes:
        entries = nodes.entries(paths)
        assert {entry.placement for entry in entries} == {Placement.FASTPATH}
        assert all(entry.packets for entry in entries), entries


@pytest.mark.parametrize("colour", [COLOURS[0], COLOURS[3]], ids=["geneve-ipv4", "vxlan-ipv6"])
def test_a_trace_finds_all_paths_in_agreement(
    world: World, colour: Colour, capsys: pytest.CaptureFixture[str]
) -> None:
    assert traced(world, colour, capsys) == ("reachable, fastpath both ways", "")


def traced(world: World, colour: Colour, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Return the verdict on two pods, and who differs."""
    ends = [station.mac for station in world.segments[colour.name]]
    os.environ["OVERWEAVE_FABRIC"] = lab.fabric_server(world.paths).remote
    overweave.run(["trace", *ends, "-o", "json"])
    said = capsys.readouterr()
    assert said.out, said.err
    (record,) = json.loads(said.out)
    return record["verdict"], record["differs"]["owner"]


def test_verify_finds_what_pods_send_in_agreement(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """What comes from the wire nobody can ask the kernel's sockets about, and ND is left out."""
    overweave.run(["verify", "--packets", "40", "-o", "json"])
    (record,) = json.loads(capsys.readouterr().out)
    assert record["differences"] == []
    fast = [each for each in record["paths"] if each["path"] == "fastpath"]
    assert len(fast) == len(world.nodes)
    assert all(each["agree"] > 100 for each in fast), record["paths"]


def test_nothing_leaves_its_segment(world: World) -> None:
    assert matrix.leaks(world.segments) == ()


def test_known_traffic_outlives_ovs_vswitchd(world: World) -> None:
    switches = [nodes.switch(paths) for paths in world.nodes]
    before = [flows(paths) for paths in world.nodes]
    blue, lime = world.segments["blue"], world.segments["lime"]
    with (
        probes.flow(blue[0], blue[1].ip(4), 0.05) as over_ipv4,
        probes.flow(lime[1], lime[0].ip(6), 0.05) as over_ipv6,
    ):
        time.sleep(1)
        for switch in switches:
            switch.kill_switch()
        time.sleep(DEAD_S)
        assert not any(switch.switch_running() for switch in switches)
        for switch in switches:
            switch.start_switch()
        time.sleep(1)
    for echo in (over_ipv4, over_ipv6):
        assert (echo.lost, echo.duplicates) == (0, 0), echo
        assert echo.sent > DEAD_S / 0.05 / 2
    for paths, had in zip(world.nodes, before, strict=True):
        until(partial(lacking, had), paths)
    expect_whole(world, COLOURS[0])  # broadcasts, too


def flows(paths: NodePaths, bridge: str = "ow-int") -> set[str]:
    """Return the flows of ``bridge``; none while it is not there."""
    try:
        return set(map(str, OpenFlowBridge(paths.ovs / f"{bridge}.mgmt").dump_flows()))
    except OpenFlowError:
        return set()


def lacking(before: set[str], paths: NodePaths) -> str:
    """Return which flows are not there again, after a restart of ovs-vswitchd."""
    return "; ".join(before - flows(paths))


def test_without_ebpf_open_vswitch_carries_all(world: World) -> None:
    for agent in world.agents:
        agent.stop()
    for agent in world.successors:
        no_place = agent.paths.directory / "no-bpffs"
        no_place.touch()
        change_config(agent.paths, bpffs=str(no_place), fastpath="auto")
        agent.start()
    wait_ready(world.successors)
    for paths in world.nodes:
        assert nodes.modes(paths)["fastpath"].startswith("no fast path, because ")
        until(programs, paths)


def programs(paths: NodePaths) -> str:
    """Return which filters of ours are eBPF."""
    return "".join(line for line in filters(paths).splitlines() if "overweave:" in line)


def filters(paths: NodePaths) -> str:
    netdevs = run(["ip", "-n", paths.netns.name, "-o", "-br", "link"]).splitlines()
    names = [line.split()[0].split("@")[0] for line in netdevs]
    return "".join(
        run(["tc", "-n", paths.netns.name, "filter", "show", "dev", name, "ingress"])
        for name in names
        if name.startswith(("vp", "ot", "eth"))
    )


@SEGMENTS
def test_all_pairs_without_ebpf(world: World, colour: Colour, proven: Proven) -> None:
    expect_whole(world, colour)
    port = OUR_PORT if colour.encap == "geneve" else 4789
    flows = Unixctl(world.nodes[0].ovs).call("dpctl/dump-flows")
    assert f"set(tunnel(tun_id={colour.vni:#x}," in flows
    assert f"tp_dst={port}," in flows
    for inner in FAMILIES:
        proven(colour.encap, colour.underlay, inner, datapath="kernel")


def test_ports_that_are_no_veths_without_ebpf(world: World) -> None:
    expect_whole_with_ports(world, COLOURS[0])


def test_a_trace_without_ebpf(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    slow = "reachable, over ovs, because no fast path on n1, no fast path on n2"
    assert traced(world, COLOURS[0], capsys) == (slow, "")


def test_uninstall_leaves_theirs(world: World) -> None:
    for agent in world.successors:
        agent.stop()
    before = [shown(paths) for paths in world.nodes]
    here, there = world.guests
    with probes.flow(here, there.ip(4), 0.1) as echo:
        for paths in world.nodes:
            uninstall(paths)
    expect_undisturbed(echo)
    assert [shown(paths) for paths in world.nodes] == before
    for paths in world.nodes:
        assert vsctl(paths, "list-br") == "br-int"
        links = run(["ip", "-n", paths.netns.name, "-o", "-br", "link"])
        assert "genev_sys_6081" in links
        assert not any(name in links for name in ("ow-", "vp0", "ot0", str(OUR_PORT), "vxlan"))
        assert not filters(paths)


def uninstall(paths: NodePaths) -> None:
    with Netns(str(paths.netns)) as node:
        status = node.run(lambda: overweave.run(["uninstall", "--config", str(paths.config)]))
    assert status == 0
