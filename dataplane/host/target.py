"""The "links" Target: the node's netdevs that carry pod and tunnel packets, and no host traffic."""

from __future__ import annotations

import errno
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_interface

from dataplane.core.desired import Bindings, Datapath, Desired
from dataplane.core.diff import Change, Item, Pending, Rendering
from dataplane.core.errors import TargetError
from dataplane.core.model import IpInterface
from dataplane.netlink import addresses, links, routes, sysctl
from dataplane.netlink.links import LinkChange, Netdev
from dataplane.netlink.rtnl import KernelError, Rtnl

UNDERLAY_BRIDGE = "ow-phy"  # its LOCAL port: down for ever, it only lends OVS our addresses
UNDERLAY_PORT = "ophy0"
INTEGRATION_BRIDGE = "ow-int"  # its LOCAL port: on a DPU probes enter Open vSwitch there
_BRIDGES = (UNDERLAY_BRIDGE, INTEGRATION_BRIDGE)


@dataclass(frozen=True, slots=True)
class LinkState:
    """How a netdev is set; ``mtu`` in bytes, None: not ours to say; ``ipv6``: its own use of it."""

    up: bool
    mtu: int | None
    ipv6: bool = False

    @property
    def scope(self) -> int | None:
        """Return None: links are local."""
        return None


@dataclass(frozen=True, slots=True)
class LentAddress:
    """An address of the underlay bridge, and what routes the kernel has for its sake.

    None: the address serves OVS alone. A route to the address itself (``own_route``) would have
    ovs-vswitchd forget, at every change of any link, to take tunnel packets in for a moment.
    """

    prefix_route: bool = False
    own_route: bool = False

    @property
    def scope(self) -> int | None:
        """Return None: addresses are local."""
        return None


@dataclass(frozen=True, slots=True)
class LinkKey:
    """Names the LinkState of a netdev."""

    name: str


@dataclass(frozen=True, slots=True)
class AddressKey:
    """Names the LentAddress of the underlay bridge."""

    interface: IpInterface


class LinksTarget:
    """Sets netdevs that others make: OVS ow-phy, ophy0 and otN; VethWiring vpN. It removes none.

    It works in the network namespace of the thread that calls it.
    """

    name = "links"
    deadline_s = 5.0
    bound_by = frozenset({"nic", "ifindexes"})

    def __init__(self) -> None:
        """Look after no link yet."""
        # Links come and go with their makers: one that is not wanted any more is left to its
        # maker, not set back. So only those are looked at that were set, until then.
        self._kept: frozenset[LinkKey] = frozenset()

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        """Return how links that exist should be set; the others are pending."""
        items: dict[Hashable, Item] = {}
        pending: list[Pending] = []
        for about, name, state in _wanted(desired, bindings):
            if name not in bindings.ifindexes:
                pending.append(Pending(about, f"netdev {name} does not exist yet"))
            else:
                items[LinkKey(name)] = state
        if bindings.nic is None:
            nic = desired.node.underlay_interface
            pending.append(Pending(nic, f"underlay interface {nic} does not exist"))
        if LinkKey(UNDERLAY_BRIDGE) in items:
            lent = (AddressKey(ip_interface(vtep)) for vtep in desired.vteps)
            items.update(dict.fromkeys(lent, LentAddress()))
        return Rendering(items, tuple(pending))

    def observe(self) -> Mapping[Hashable, Item]:
        """Return how the links given to ``apply`` are set, and every address of ow-phy."""
        with Rtnl() as rtnl:
            found = {LinkKey(netdev.name): netdev for netdev in links.every(rtnl)}
            bridge = found.get(LinkKey(UNDERLAY_BRIDGE))
            items = _lent(rtnl, bridge) if bridge is not None else {}
        items.update({key: _state(found[key]) for key in self._kept & found.keys()})
        return items

    def apply(self, change: Change) -> None:
        """Set what differs; every fault is in the one error, and stops nothing else."""
        faults: list[str] = []
        self._kept = (self._kept | _link_keys(change.add)) - _link_keys(change.remove)
        with Rtnl() as rtnl:
            for step in _steps(rtnl, change):
                try:
                    step()
                except KernelError as error:
                    faults.append(str(error))
        if faults:
            raise TargetError("; ".join(faults))


def _wanted(desired: Desired, bindings: Bindings) -> Iterator[tuple[Hashable, str, LinkState]]:
    """Yield whom a link is for, its name, and how it should be set."""
    if desired.node.datapath is Datapath.USERSPACE:
        lends_ipv6 = any(vtep.version == 6 for vtep in desired.vteps)
        yield UNDERLAY_BRIDGE, UNDERLAY_BRIDGE, LinkState(up=False, mtu=None, ipv6=lends_ipv6)
        if bindings.nic is not None:
            yield UNDERLAY_PORT, UNDERLAY_PORT, LinkState(up=True, mtu=bindings.nic.mtu)
    if desired.node.is_dpu:
        yield INTEGRATION_BRIDGE, INTEGRATION_BRIDGE, LinkState(up=True, mtu=None)
    mtus = desired.link_mtus
    for port in desired.ports:
        mtu = mtus[port.attachment.slot]
        for name in (port.attachment.access_port, port.attachment.ovs_port):
            yield port.attachment.key, name, LinkState(up=True, mtu=mtu)


def _link_keys(items: Mapping[Hashable, object]) -> frozenset[LinkKey]:
    return frozenset(key for key in items if isinstance(key, LinkKey))


def _state(netdev: Netdev) -> LinkState:
    mtu = None if netdev.name in _BRIDGES else netdev.mtu
    return LinkState(netdev.up, mtu, netdev.ipv6)


def _lent(rtnl: Rtnl, bridge: Netdev) -> dict[Hashable, Item]:
    # Setting the bridge down will take its IPv6 addresses away, so those count as gone already.
    routed = routes.own(rtnl, bridge.ifindex)
    return {
        AddressKey(each.interface): LentAddress(each.prefix_route, each.ip in routed)
        for each in addresses.of(rtnl, bridge.ifindex)
        if not (bridge.up and each.ip.version == 6)
    }


def _steps(rtnl: Rtnl, change: Change) -> Iterator[Callable[[], None]]:
    """Yield what to do, in order: an address needs IPv6 switched on before it is given."""
    wanted = {**change.add, **change.update}
    for key in [*change.remove, *change.update]:
        if isinstance(key, AddressKey):  # a changed one is given anew: the kernel keeps old flags
            yield partial(_take, rtnl, key)
    for key, item in wanted.items():
        if isinstance(key, LinkKey):
            yield partial(_set, rtnl, key.name, item)
    for key in wanted:
        if isinstance(key, AddressKey):
            yield partial(_give, rtnl, key)


def _set(rtnl: Rtnl, name: str, state: LinkState) -> None:
    netdev = _find(rtnl, name)
    if netdev.ipv6 != state.ipv6:
        sysctl.set_ipv6(name, "disable_ipv6", 0 if state.ipv6 else 1)
    links.change(rtnl, netdev.ifindex, LinkChange(up=state.up, mtu=state.mtu))


def _take(rtnl: Rtnl, key: AddressKey) -> None:
    addresses.delete(rtnl, _find(rtnl, UNDERLAY_BRIDGE).ifindex, key.interface)


def _give(rtnl: Rtnl, key: AddressKey) -> None:
    ifindex = _find(rtnl, UNDERLAY_BRIDGE).ifindex
    addresses.replace(rtnl, ifindex, key.interface, prefix_route=False)
    routes.delete_own(rtnl, ifindex, key.interface.ip)


def _find(rtnl: Rtnl, name: str) -> Netdev:
    netdev = links.find(rtnl, name)
    if netdev is None:
        raise KernelError(f"look up netdev {name}", errno.ENODEV)
    return netdev
