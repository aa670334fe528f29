"""What a node holds of ours, as lines to compare, and ways to take some of it away."""

import random
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import TypeVar

from bpf.layout import decode_ifindex, unused
from bpf.syscalls import Map, open_map
from bpf.target import RENDERED_MAPS
from dataplane.lab.layout import NodePaths
from dataplane.netlink import addresses, links, tc, u32
from dataplane.netlink.netns import Netns
from dataplane.netlink.rtnl import Rtnl, within
from ovs_client.daemons import run
from ovs_client.ofctl import OpenFlowBridge
from ovs_client.unixctl import Unixctl

BRIDGES = ("ow-int", "ow-phy")
Result = TypeVar("Result")


class Node:
    """What the kernel and Open vSwitch of a node hold of ours, as it is now."""

    def __init__(self, paths: NodePaths, chance: random.Random) -> None:
        self.paths = paths
        self.chance = chance
        self.switch = Unixctl(paths.ovs)

    def state(self) -> set[str]:
        """Return everything as lines that do not hold numbers which change when made anew."""
        return {line.strip() for line in chain(*(part(self) for part in PARTS))}

    def ask(self, function: Callable[[Rtnl], Result]) -> Result:
        with Netns(str(self.paths.netns)) as space:
            return within(space, function)

    def vsctl(self, *words: str) -> list[str]:
        return run(["ovs-vsctl", f"--db=unix:{self.paths.ovs}/db.sock", *words]).split()

    def bridge(self, name: str) -> OpenFlowBridge:
        return OpenFlowBridge(self.paths.ovs / f"{name}.mgmt")

    def maps(self) -> dict[str, Path]:
        """Return where the maps are that the agent fills."""
        found = {spec.name: list(self.paths.bpf.rglob(spec.name)) for spec in RENDERED_MAPS}
        return {name: paths[0] for name, paths in found.items() if paths}


def flows(node: Node) -> Iterator[str]:
    for bridge in BRIDGES:
        yield from (f"{bridge}: {flow}" for flow in node.bridge(bridge).dump_flows())


def ports(node: Node) -> Iterator[str]:
    for bridge in BRIDGES:
        yield from (f"port {name} of {bridge}" for name in node.vsctl("list-ports", bridge))


def netdevs(node: Node) -> Iterator[str]:
    yield from node.ask(lambda rtnl: [*lines_of_netdevs(rtnl)])


def lines_of_netdevs(rtnl: Rtnl) -> Iterator[str]:
    for netdev in links.every(rtnl):
        yield f"{netdev.name}: up {netdev.up} mtu {netdev.mtu} ipv6 {netdev.ipv6}"
        yield from (f"{netdev.name}: {one.name}" for one in tc.list_bpf(rtnl, netdev.ifindex))
        for redirect in u32.listing(rtnl, netdev.ifindex).ours:
            target = links.at(rtnl, redirect.target)
            yield f"{netdev.name}: {redirect.keys} to {target.name if target else 'nowhere'}"
        if netdev.name == "ow-phy":
            given = addresses.of(rtnl, netdev.ifindex)
            yield from (f"ow-phy has {one.interface}" for one in given)


def map_entries(node: Node) -> Iterator[str]:
    names = {netdev.ifindex: netdev.name for netdev in node.ask(links.every)}
    for name, path in node.maps().items():
        netdev_in_key, netdev_in_value = NETDEVS_IN.get(name, (False, False))
        with open_map(path) as opened:
            for key, value in opened.items():
                whence = named(key, names) if netdev_in_key else key.hex()
                known = unused(value) if name == "entries" else value
                where = named(known, names) if netdev_in_value else known.hex()
                yield f"map {name}: {whence} -> {where}"


# Whether key and value of a map begin with the ifindex of a netdev.
NETDEVS_IN = {
    "glue": (True, True),
    "ports": (True, False),
    "entries": (False, True),
}


def named(data: bytes, names: dict[int, str]) -> str:
    """Return ``data`` with the name of the netdev in the place of the number it begins with."""
    ifindex = decode_ifindex(data[:4])
    return f"{names.get(ifindex, ifindex)} {data[4:].hex()}"


def tunnels(node: Node) -> Iterator[str]:
    routes = node.switch.call("ovs/route/show").splitlines()
    yield from (line for line in routes if line.startswith("User:"))
    own = [line.split()[5] for line in routes if "ow-phy" in line and line.startswith("User:")]
    known = [line.split() for line in node.switch.call("tnl/neigh/show").splitlines()]
    yield from (f"neighbour {words[0]} {words[1]}" for words in known if words and words[0] in own)


PARTS = (flows, ports, netdevs, map_entries, tunnels)


def take_flows(node: Node) -> None:
    for bridge in BRIDGES:
        there = node.bridge(bridge).dump_flows()
        node.bridge(bridge).apply_bundle((), node.chance.sample(there, min(4, len(there))))


def take_map_entries(node: Node) -> None:
    for path in node.maps().values():
        with open_map(path) as opened:
            if any(opened.items()):  # where there is no XDP, some map is empty
                opened.delete(random_key(node, opened))


def random_key(node: Node, opened: Map) -> bytes:
    return node.chance.choice(sorted(key for key, _ in opened.items()))


def take_filters(node: Node) -> None:
    def take(rtnl: Rtnl) -> None:
        every = [one for netdev in links.every(rtnl) for one in tc.list_bpf(rtnl, netdev.ifindex)]
        for one in node.chance.sample(every, min(2, len(every))):
            tc.delete_bpf(rtnl, one.slot)
        for netdev in node.chance.sample(links.every(rtnl), 3):
            u32.delete(rtnl, u32.listing(rtnl, netdev.ifindex).ours)

    node.ask(take)


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
    def take(rtnl: Rtnl) -> None:
        bridge = links.find(rtnl, "ow-phy")
        assert bridge is not None
        for each in addresses.of(rtnl, bridge.ifindex):
            addresses.delete(rtnl, bridge.ifindex, each.interface)

    node.ask(take)


def set_links_wrong(node: Node) -> None:
    def set_wrong(rtnl: Rtnl) -> None:
        for netdev in links.every(rtnl):
            if netdev.name.startswith("ot") or netdev.name == "ophy0":
                links.change(rtnl, netdev.ifindex, links.LinkChange(up=False, mtu=1300))
            if netdev.name == "ow-phy":
                links.change(rtnl, netdev.ifindex, links.LinkChange(up=True))

    node.ask(set_wrong)


def take_routes(node: Node) -> None:
    for line in [line for line in tunnels(node) if line.startswith("User:")]:
        node.switch.call("ovs/route/del", line.split()[1])
    node.switch.call("tnl/neigh/flush")


EVERYTHING_SMALL = (
    *(take_flows, take_routes, take_filters, take_map_entries, take_addresses),
    *(take_tunnel_port, take_pod_port, take_underlay_port, set_links_wrong),
)
