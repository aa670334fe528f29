"""Target "ovs-tunnels": where OVS sends tunnel packets. All of it is lost when OVS restarts.

With the kernel's datapath there is none of it: the kernel knows its ways.

Each VTEP's gateway is this node's own address, and that address has one made-up neighbour: the
kernel, behind ophy0, finds the real next hop. OVS takes tunnel packets in at the addresses of
devices it has routes over, until one of these routes is deleted; so it has one to our own address
that stays. That one and the neighbours, which age, are set again and again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network

from dataplane.contracts import Clock
from dataplane.core.desired import Bindings, Datapath, Desired
from dataplane.core.diff import Change, Rendering
from dataplane.core.errors import TargetError
from dataplane.core.model import IpAddress
from overlay_ovs.tables import UNDERLAY_BRIDGE
from ovs_client import tunnel_routes
from ovs_client.tunnel_routes import TunnelNeighbour, UserRoute
from ovs_client.unixctl import Unixctl, UnixctlError

GATEWAY_MAC = "02:00:00:00:77:02"  # replaced by the kernel on the way to the NIC
AGEING_S = 3600  # the most that OVS takes
_REFRESH_S = 20.0  # below the worker's period: each of its looks finds what ages due
_FABRIC_SCOPE = 0  # no segment has VNI 0: held while any segment's view is incomplete


@dataclass(frozen=True, slots=True)
class Route:
    """The way to a VTEP: by our own address, on ow-phy."""

    vtep: IpAddress
    gateway: IpAddress

    @property
    def scope(self) -> int:
        """Return the scope that is held while any view is incomplete: VTEPs serve many segments."""
        return _FABRIC_SCOPE


@dataclass(frozen=True, slots=True)
class Intake:
    """A route to our own VTEP, so that OVS takes in at ow-phy what is sent to it.

    It may be there and do nothing any more: only one that was set lately is ``fresh``.
    """

    vtep: IpAddress
    fresh: bool = True
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The MAC that OVS writes on packets for ``address``."""

    address: IpAddress
    mac: str
    scope: int | None = None


@dataclass(frozen=True, slots=True)
class Ageing:
    """After how many seconds without use OVS forgets a neighbour."""

    seconds: int
    scope: int | None = None


TunnelItem = Route | Intake | Neighbour | Ageing


class TunnelsTarget:
    """Routes and neighbours of tunnels in the ovs-vswitchd that ``unixctl`` reaches."""

    name = "ovs-tunnels"
    deadline_s = 10.0
    bound_by = frozenset[str]()

    def __init__(self, unixctl: Unixctl, clock: Clock) -> None:
        self._unixctl = unixctl
        self._clock = clock
        self._set_at: dict[Intake | Neighbour, float] = {}

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:  # noqa: ARG002  # Target's signature
        if desired.node.datapath is Datapath.KERNEL:
            return Rendering({})
        own = {address.version: address for address in desired.vteps}
        items: dict[Hashable, TunnelItem] = {"ageing": Ageing(AGEING_S)}
        for address in own.values():
            items |= {address: Neighbour(address, GATEWAY_MAC), Intake(address): Intake(address)}
        for vtep in desired.peers:
            route = Route(vtep, own[vtep.version])
            items[route] = route
        return Rendering(items, held=frozenset({_FABRIC_SCOPE} if desired.held else ()))

    def observe(self) -> Mapping[Hashable, TunnelItem]:
        with _target_errors():
            found: dict[Hashable, TunnelItem] = {}
            for route in routes(self._unixctl):
                is_old = isinstance(route, Intake) and not self._is_fresh(route)
                found[route] = Intake(route.vtep, fresh=False) if is_old else route
            neighbours = _neighbours(self._unixctl)
            found |= {each.address: each for each in neighbours if self._is_fresh(each)}
            if found:  # else it is of no concern to us what the switch does with those of others
                found["ageing"] = Ageing(int(self._unixctl.call("tnl/neigh/aging")))
            return found

    def apply(self, change: Change) -> None:
        with _target_errors():
            # A route replaces one to the same VTEP, so old ones are removed first.
            for item in change.remove.values():
                self._remove(item)
            if any(isinstance(item, Route | Intake) for item in change.remove.values()):
                for intake in [item for item in self._set_at if isinstance(item, Intake)]:
                    self._set(intake)
            for item in (*change.add.values(), *change.update.values()):
                self._set(item)

    def _is_fresh(self, item: Intake | Neighbour) -> bool:
        """Say whether what is shown can be relied on: OVS forgets these without telling."""
        set_at = self._set_at.get(item)
        return set_at is not None and self._clock() - set_at < _REFRESH_S

    def _set(self, item: TunnelItem) -> None:
        match item:
            case Ageing():
                self._unixctl.call("tnl/neigh/aging", str(item.seconds))
            case Neighbour():
                neighbour = TunnelNeighbour(item.address, item.mac, UNDERLAY_BRIDGE)
                tunnel_routes.set_neighbour(self._unixctl, neighbour)
                self._set_at[item] = self._clock()
            case Intake():
                self._add_route(item.vtep, item.vtep)
                self._set_at[item] = self._clock()
            case Route():
                self._add_route(item.vtep, item.gateway)

    def _add_route(self, destination: IpAddress, gateway: IpAddress) -> None:
        with _target_errors(f"; is {gateway} on {UNDERLAY_BRIDGE}?"):
            tunnel_routes.add_route(self._unixctl, _user_route(destination, gateway))

    def _remove(self, item: TunnelItem) -> None:
        match item:
            case Route():
                delete_route(self._unixctl, item)
            case Intake():
                self._set_at.pop(Intake(item.vtep), None)
                delete_route(self._unixctl, item)
            case Neighbour():
                self._set_at.pop(item, None)  # OVS cannot forget one alone: it ages
            case Ageing():
                pass  # it is of no use any more, and does no harm


@contextmanager
def _target_errors(hint: str = "") -> Iterator[None]:
    try:
        yield
    except UnixctlError as error:
        raise TargetError(f"{error}{hint}") from error


def routes(unixctl: Unixctl) -> list[Route | Intake]:
    """Return the routes over ow-phy that were added by command. Raises UnixctlError."""
    found = tunnel_routes.routes(unixctl)
    return [_route(each) for each in found if each.bridge == UNDERLAY_BRIDGE and not each.mark]


def delete_route(unixctl: Unixctl, route: Route | Intake) -> None:
    """Delete one of ``routes``; gone already is success. Raises UnixctlError."""
    gateway = route.gateway if isinstance(route, Route) else route.vtep
    tunnel_routes.delete_route(unixctl, _user_route(route.vtep, gateway))


def _user_route(vtep: IpAddress, gateway: IpAddress) -> UserRoute:
    return UserRoute(ip_network(vtep), UNDERLAY_BRIDGE, gateway)


def _route(route: UserRoute) -> Route | Intake:
    vtep = route.destination.network_address
    return Intake(vtep) if vtep == route.gateway else Route(vtep, route.gateway)


def _neighbours(unixctl: Unixctl) -> Iterator[Neighbour]:
    """Yield ow-phy's neighbours."""
    for each in tunnel_routes.neighbours(unixctl):
        if each.bridge == UNDERLAY_BRIDGE:
            yield Neighbour(each.address, each.mac)
