"""We share the node: an Open vSwitch of somebody else with Geneve 6081 on the NIC loses nothing."""

import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dataplane.core.model import IpAddress
from dataplane.lab import foreign, lab, matrix, nodes, probes
from dataplane.lab.foreign import Guest, PlainOvs, Tunnel
from dataplane.lab.layout import LabPaths, NodePaths
from dataplane.lab.probes import Station
from dataplane.lab.runtime import Pod, Runtime
from dataplane.lab.scene import COLOURS, silent
from dataplane.lab.topology import LabNode, Topology, read_topology
from dataplane.lab.underlay import NIC
from ovs_client.unixctl import Unixctl

THEIRS = {4: Tunnel("geneve", 77, 6081), 6: Tunnel("geneve", 78, 6081)}
OUR_PORT = 16081
MTU = 1400
INTENT = f"kind: Fabric\ngeneve_port: {OUR_PORT}\n---\n{COLOURS[0].document}"


@dataclass(frozen=True)
class Neighbourhood:
    """A lab of two nodes with an Open vSwitch of somebody else on each, and no agent yet."""

    paths: LabPaths
    topology: Topology
    theirs: dict[str, PlainOvs]
    guests: dict[int, tuple[Station, Station]]


@pytest.fixture(scope="module")
def neighbourhood() -> Iterator[Neighbourhood]:
    paths = LabPaths(f"f{os.getpid()}")
    topology = read_topology("nodes: [{name: n1}, {name: n2}]", "neighbourhood")
    try:
        lab.build(paths, topology, silent)
        theirs = {node.name: PlainOvs(paths, node.name, 6081) for node in topology.nodes}
        for node in topology.nodes:
            theirs[node.name].start([str(address) for address in node.addresses])
        guests = {version: plug(paths, topology, theirs, version) for version in THEIRS}
        yield Neighbourhood(paths, topology, theirs, guests)
    finally:
        lab.down(paths, silent)


def plug(
    paths: LabPaths, topology: Topology, theirs: dict[str, PlainOvs], version: int
) -> tuple[Station, Station]:
    """Make a network of theirs over underlay IP ``version`` with a pod on each node."""
    tunnel, stations = THEIRS[version], []
    first, second = topology.nodes
    for number, (node, peer) in enumerate(((first, second), (second, first)), start=1):
        mac = foreign.mac_of(paths.netns(peer.name), "eth0")
        theirs[node.name].connect(tunnel, {underlay(peer, version): mac})
        ips = (f"172.16.{version}.{number}/24", f"fd77:{version}::{number}/64")
        guest = Guest(f"g{version}{number}", f"02:77:00:00:0{version}:0{number}", ips, MTU)
        stations.append(theirs[node.name].plug_guest(tunnel, guest))
    return stations[0], stations[1]


def underlay(node: LabNode, version: int) -> IpAddress:
    return next(address.ip for address in node.addresses if address.version == version)


def shown(switch: PlainOvs) -> str:
    """Return all that their database says, but for counters and times."""
    dump = subprocess.run(
        ["ovs-vsctl", f"--db={switch.instance.remote}", "show"],
        check=True,
        capture_output=True,
        text=True,
    )
    return dump.stdout


def life_of_an_agent(there: Neighbourhood) -> None:
    """Start the agents, attach pods, crash, restart, uninstall."""
    lab.apply(there.paths, INTENT)
    lab.start_agents(there.paths, there.topology.agents)
    runtime = Runtime(there.paths)
    ours = [runtime.add(Pod(f"ours{n}", f"n{n}", "blue")) for n in (1, 2)]
    matrix.converge(ours)
    assert matrix.verify(ours).faults == ()
    for node in there.topology.agents:
        nodes.kill_agent(there.paths.node(node.name))
    time.sleep(0.3)
    lab.start_agents(there.paths, there.topology.agents)
    assert matrix.verify(ours).faults == ()
    runtime.delete(ours[0].name)  # uninstall has one pod to take away
    for node in there.topology.agents:
        uninstall(there.paths.node(node.name))


def uninstall(node: NodePaths) -> None:
    command = ["nsenter", f"--net={node.netns}", *nodes.OVERWEAVE, "uninstall"]
    subprocess.run([*command, "--config", str(node.config)], check=True, capture_output=True)
    assert nodes.agent_pid(node) is None
    ours = Unixctl(node.ovs)
    assert "ow-" not in ours.call("dpif/show") + ours.call("ovs/route/show")
    for what in (["ip", "link", "show"], ["tc", "filter", "show", "dev", NIC, "ingress"]):
        words = ["nsenter", f"--net={node.netns}", *what]
        shown = subprocess.run(words, check=True, capture_output=True, text=True).stdout
        assert not re.search(r": (ow-|ophy0|vp\d|ot\d)|overweave", shown), shown


def test_theirs_loses_nothing_while_ours_lives_and_dies(neighbourhood: Neighbourhood) -> None:
    before = {name: shown(switch) for name, switch in neighbourhood.theirs.items()}
    assert matrix.verify(neighbourhood.guests[4]).faults == ()
    (here4, there4), (here6, there6) = neighbourhood.guests[4], neighbourhood.guests[6]
    with (
        probes.flow(here4, there4.ip(4), interval=0.01) as over_ipv4,
        probes.flow(there6, here6.ip(6), interval=0.01) as over_ipv6,
    ):
        life_of_an_agent(neighbourhood)
    print(f"theirs: {over_ipv4.sent + over_ipv6.sent} packets while ours lived")
    for echo in (over_ipv4, over_ipv6):
        assert (echo.lost, echo.duplicates) == (0, 0)
    assert {name: shown(switch) for name, switch in neighbourhood.theirs.items()} == before
