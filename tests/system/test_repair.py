"""Things taken away behind the agents' backs are put back, all of them, within a minute."""

import random
import time
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pytest

from bpf.layout import MAPS, decode_ifindex
from bpf.syscalls import Map, open_map
from dataplane.core.model import Endpoint
from dataplane.fabric.store import FabricStore
from dataplane.lab import lab, matrix
from dataplane.lab.layout import NodePaths
from dataplane.lab.scene import Scene
from dataplane.netlink import addresses, links, tc
from dataplane.netlink.netns import Netns
from dataplane.netlink.rtnl import Rtnl
from ovs_client.daemons import run
from ovs_client.ofctl import OpenFlowBridge
from ovs_client.unixctl import Unixctl

REPAIRED_S = 60.0
BRIDGES = ("ow-int", "ow-phy")


class Node:
    """What the kernel and Open vSwitch of a node hold of ours, as it is now."""

    def __init__(self, paths: NodePaths, chance: random.Random) -> None:
        self.paths = paths
        self.chance = chance
        self.switch = Unixctl(paths.ovs)

    def state(self) -> set[str]:
        """Return everything as lines that do not hold numbers which change when made anew."""
        return {line.strip() for line in chain(*(part(self) for part in PARTS))}

    def rtnl(self) -> Rtnl:
        with Netns(str(self.paths.netns)) as space:
            return space.run(Rtnl)

    def vsctl(self, *words: str) -> list[str]:
        return run(["ovs-vsctl", f"--db=unix:{self.paths.ovs}/db.sock", *words]).split()

    def bridge(self, name: str) -> OpenFlowBridge:
        return OpenFlowBridge(self.paths.ovs / f"{name}.mgmt")

    def maps(self) -> dict[str, Path]:
        found = {spec.name: list(self.paths.bpf.rglob(spec.name)) for spec in MAPS}
        return {name: paths[0] for name, paths in found.items()}


def flows(node: Node) -> Iterator[str]:
    for bridge in BRIDGES:
        yield from (f"{bridge}: {flow}" for flow in node.bridge(bridge).dump_flows())


def ports(node: Node) -> Iterator[str]:
    for bridge in BRIDGES:
        yield from (f"port {name} of {bridge}" for name in node.vsctl("list-ports", bridge))


def kernel(node: Node) -> Iterator[str]:
    with node.rtnl() as rtnl:
        netdevs = links.every(rtnl)
        names = {netdev.ifindex: netdev.name for netdev in netdevs}
        for netdev in netdevs:
            yield f"{netdev.name}: up {netdev.up} mtu {netdev.mtu} ipv6 {netdev.ipv6}"
            yield from (f"{netdev.name}: {one.name}" for one in tc.list_bpf(rtnl, netdev.ifindex))
            if netdev.name == "ow-phy":
                given = addresses.of(rtnl, netdev.ifindex)
                yield from (f"ow-phy has {one.interface}" for one in given)
    maps = node.maps()
    with open_map(maps["glue"]) as glue:
        pairs = [(decode_ifindex(key), decode_ifindex(value)) for key, value in glue.items()]
        yield from (f"{names.get(k, k)} is glued to {names.get(v, v)}" for k, v in pairs)
    with open_map(maps["own"]) as own:
        yield from (f"own socket {key.hex()} {value.hex()}" for key, value in own.items())


def tunnels(node: Node) -> Iterator[str]:
    routes = node.switch.call("ovs/route/show").splitlines()
    yield from (line for line in routes if line.startswith("User:"))
    own = [line.split()[5] for line in routes if "ow-phy" in line and line.startswith("User:")]
    known = [line.split() for line in node.switch.call("tnl/neigh/show").splitlines()]
    yield from (f"neighbour {words[0]} {words[1]}" for words in known if words and words[0] in own)


PARTS = (flows, ports, kernel, tunnels)


def take_flows(node: Node) -> None:
    for bridge in BRIDGES:
        there = node.bridge(bridge).dump_flows()
        node.bridge(bridge).apply_bundle((), node.chance.sample(there, min(4, len(there))))


def take_map_entries(node: Node) -> None:
    for path in node.maps().values():
        with open_map(path) as opened:
            opened.delete(random_key(node, opened))


def random_key(node: Node, opened: Map) -> bytes:
    return node.chance.choice(sorted(key for key, _ in opened.items()))


def take_filters(node: Node) -> None:
    with node.rtnl() as rtnl:
        every = [one for netdev in links.every(rtnl) for one in tc.list_bpf(rtnl, netdev.ifindex)]
        for one in node.chance.sample(every, 2):
            tc.delete_bpf(rtnl, one.slot)


def take_tunnel_port(node: Node) -> None:
    node.vsctl("del-port", node.chance.choice(["ow-geneve", "ow-vxlan"]))


def take_pod_port(node: Node) -> None:
    pods = [name for name in node.vsctl("list-ports", "ow-int") if name.startswith("ot")]
    node.vsctl("del-port", node.chance.choice(pods))


def take_underlay_port(node: Node) -> None:
    node.vsctl("del-port", "ophy0")


def take_bridge(node: Node) -> None:
    node.vsctl("del-br", node.chance.choice(BRIDGES))


def take_addresses(node: Node) -> None:
    with node.rtnl() as rtnl:
        bridge = links.find(rtnl, "ow-phy")
        assert bridge is not None
        for each in addresses.of(rtnl, bridge.ifindex):
            addresses.delete(rtnl, bridge.ifindex, each.interface)


def set_links_wrong(node: Node) -> None:
    with node.rtnl() as rtnl:
        for netdev in links.every(rtnl):
            if netdev.name.startswith("ot") or netdev.name == "ophy0":
                links.change(rtnl, netdev.ifindex, links.LinkChange(up=False, mtu=1300))
            if netdev.name == "ow-phy":
                links.change(rtnl, netdev.ifindex, links.LinkChange(up=True))


def take_routes(node: Node) -> None:
    for line in [line for line in tunnels(node) if line.startswith("User:")]:
        node.switch.call("ovs/route/del", line.split()[1])
    node.switch.call("tnl/neigh/flush")


EVERYTHING_SMALL = (
    *(take_flows, take_routes, take_filters, take_map_entries, take_addresses),
    *(take_tunnel_port, take_pod_port, take_underlay_port, set_links_wrong),
)


@pytest.mark.parametrize(
    "damages",
    [
        pytest.param(EVERYTHING_SMALL, id="some of everything"),
        pytest.param((take_bridge,), id="a bridge"),
    ],
)
def test_what_is_taken_from_every_node_is_put_back(
    scene: Scene, damages: tuple[Callable[[Node], None], ...]
) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    nodes = [Node(scene.paths.node(n.name), random.Random(seed)) for n in scene.topology.agents]
    before = settled(nodes)
    began = time.monotonic()
    for node in nodes:
        for damage in damages:
            damage(node)
    missing = wait_for(nodes, before, began + REPAIRED_S)
    assert missing == {}, f"after {REPAIRED_S:.0f} s"
    print(f"repaired after {time.monotonic() - began:.1f} s")
    for stations in scene.segments.values():
        assert matrix.verify(stations).faults == ()


def settled(nodes: list[Node]) -> dict[Node, set[str]]:
    """Return the state of each node once it has stayed the same for a second."""
    before = {node: node.state() for node in nodes}
    for _ in range(20):
        time.sleep(1)
        now = {node: node.state() for node in nodes}
        if now == before:
            return now
        before = now
    pytest.fail("the nodes never came to rest")


def wait_for(
    nodes: list[Node], before: dict[Node, set[str]], deadline: float
) -> dict[str, tuple[set[str], set[str]]]:
    """Return what is missing and what is too much on each node once nothing is, or time is up."""
    while True:
        different = {
            node.paths.directory.name: (before[node] - now, now - before[node])
            for node in nodes
            if (now := node.state()) != before[node]
        }
        if not different or time.monotonic() > deadline:
            return different
        time.sleep(0.5)


def test_rows_taken_from_the_fabric_come_back(scene: Scene) -> None:
    with FabricStore(lab.fabric_server(scene.paths).remote) as store:
        before = set(store.read())
        rows = [row for row in before if isinstance(row, Endpoint) and row.segment == "blue"]
        began = time.monotonic()
        store.write(deletes=random.Random(began).sample(sorted(rows, key=str), 2))
        while set(store.read()) != before:
            assert time.monotonic() - began < REPAIRED_S, before ^ set(store.read())
            time.sleep(0.2)
    print(f"repaired after {time.monotonic() - began:.1f} s")
    matrix.converge(scene.segments["blue"])
    assert matrix.verify(scene.segments["blue"]).faults == ()
