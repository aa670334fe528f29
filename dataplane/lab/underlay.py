"""The machines and their network: a namespace each, and a bridge in a namespace of its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from dataplane.lab.layout import UNDERLAY, LabPaths
from dataplane.lab.topology import LabNode, Topology
from dataplane.netlink import addresses, links, netns
from dataplane.netlink.links import LinkChange, LinkSpec
from dataplane.netlink.netns import Netns, NetnsError
from dataplane.netlink.rtnl import Rtnl, within

NIC = "eth0"
_BRIDGE = "br0"
_Result = TypeVar("_Result")


def build(paths: LabPaths, topology: Topology) -> None:
    """Make the namespaces that are missing; those that are there stay as they are."""
    bridge = paths.netns(UNDERLAY)
    ensure_namespace(bridge)
    _in(bridge, lambda rtnl: _ensure_bridge(rtnl, topology.mtu))
    for node in topology.nodes:
        ensure_namespace(paths.netns(node.name))


def connect(paths: LabPaths, topology: Topology) -> None:
    """Make the cables that are missing; those of a DPU come from its switch."""
    for node in topology.nodes:
        _connect(paths, node, topology.mtu)


def unplug(space: Path, name: str) -> None:
    """Delete a netdev in the namespace at ``space``; none of that name is success."""
    with suppress(NetnsError):  # where there is no namespace, there is no netdev
        found = _in(space, lambda rtnl: links.find(rtnl, name))
        if found is not None:
            _in(space, lambda rtnl: links.delete(rtnl, found.ifindex))


def ensure_namespace(path: Path) -> None:
    """Make the namespace called like ``path`` with its loopback up, if it is not there."""
    try:
        Netns(str(path)).close()
    except NetnsError:
        # Also a name without a namespace, left by a process that died while it made one.
        netns.delete(path.name)
        netns.create(path.name)
    _in(path, lambda rtnl: _up(rtnl, "lo"))


def namespaces(paths: LabPaths) -> tuple[Path, ...]:
    """Return every namespace of the lab that has a name now, its pods' too."""
    return tuple(sorted(netns.NAMED.glob(f"{paths.prefix}*")))


def _connect(paths: LabPaths, node: LabNode, mtu: int) -> None:
    path = paths.netns(node.name)
    if node.dpu is not None:
        _in(path, lambda rtnl: _resize(rtnl, NIC, mtu))
        _in(paths.netns(UNDERLAY), lambda rtnl: _resize(rtnl, node.name, mtu))
    elif _in(path, lambda rtnl: links.find(rtnl, NIC)) is None:
        with Netns(str(path)) as machine:
            nic = LinkSpec(NIC, mtu=mtu, netns=machine.fd)
            port = LinkSpec(node.name, mtu=mtu)
            _in(paths.netns(UNDERLAY), lambda rtnl: links.create_veth(rtnl, port, nic))
    _in(paths.netns(UNDERLAY), lambda rtnl: _plug(rtnl, node.name))
    _in(path, lambda rtnl: _address(rtnl, node))


def _ensure_bridge(rtnl: Rtnl, mtu: int) -> None:
    if links.find(rtnl, _BRIDGE) is None:
        links.create(rtnl, LinkSpec(_BRIDGE, mtu=mtu), "bridge")
    _up(rtnl, _BRIDGE)


def _resize(rtnl: Rtnl, name: str, mtu: int) -> None:
    links.change(rtnl, _netdev(rtnl, name).ifindex, LinkChange(mtu=mtu))


def _plug(rtnl: Rtnl, port: str) -> None:
    bridge = _netdev(rtnl, _BRIDGE)
    links.change(rtnl, _netdev(rtnl, port).ifindex, LinkChange(controller=bridge.ifindex, up=True))


def _address(rtnl: Rtnl, node: LabNode) -> None:
    ifindex = _netdev(rtnl, NIC).ifindex
    links.change(rtnl, ifindex, LinkChange(up=True))
    for address in node.addresses:
        addresses.replace(rtnl, ifindex, address)


def _up(rtnl: Rtnl, name: str) -> None:
    links.change(rtnl, _netdev(rtnl, name).ifindex, LinkChange(up=True))


def _netdev(rtnl: Rtnl, name: str) -> links.Netdev:
    found = links.find(rtnl, name)
    if found is None:
        raise NetnsError(f"netdev {name} is gone while the lab is being made; run lab up again")
    return found


def _in(path: Path, function: Callable[[Rtnl], _Result]) -> _Result:
    with Netns(str(path)) as entered:
        return within(entered, function)
