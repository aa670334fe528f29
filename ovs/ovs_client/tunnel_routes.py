"""Where an ovs-vswitchd sends tunnel packets: routes and neighbours added by command, volatile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from dataplane.core.model import IpAddress, IpNetwork
from ovs_client.unixctl import Unixctl, UnixctlError


@dataclass(frozen=True, slots=True)
class UserRoute:
    """The way to ``destination`` for packets with ``mark``: out of ``bridge``, by ``gateway``."""

    destination: IpNetwork
    bridge: str
    gateway: IpAddress
    mark: int = 0


@dataclass(frozen=True, slots=True)
class TunnelNeighbour:
    """The MAC that is written on packets for ``address`` out of ``bridge``."""

    address: IpAddress
    mac: str
    bridge: str


def routes(unixctl: Unixctl) -> list[UserRoute]:
    """Return the routes that were added by command. Raises UnixctlError."""
    lines = _shown(unixctl)
    with _understanding("ovs/route/show"):
        return [_route(words) for words in lines if words[:1] == ["User:"] and "GW" in words]


def local_addresses(unixctl: Unixctl, bridge: str) -> list[IpAddress]:
    """Return the addresses of ``bridge``'s own port, as its OVS knows them. Raises UnixctlError."""
    lines = _shown(unixctl)
    with _understanding("ovs/route/show"):
        return [
            ip_address(words[1].partition("/")[0])
            for words in lines
            if words[:1] == ["Cached:"] and words[-1] == "local" and _value(words, "dev") == bridge
        ]


def add_route(unixctl: Unixctl, route: UserRoute) -> None:
    """Add a route, or set it again. Raises UnixctlError."""
    way = (route.bridge, str(route.gateway))
    unixctl.call("ovs/route/add", str(route.destination), *way, *_mark(route))


def delete_route(unixctl: Unixctl, route: UserRoute) -> None:
    """Delete a route; gone already is success. Raises UnixctlError."""
    try:
        unixctl.call("ovs/route/del", str(route.destination), *_mark(route))
    except UnixctlError:
        if route in routes(unixctl):
            raise


def neighbours(unixctl: Unixctl) -> list[TunnelNeighbour]:
    """Return the neighbours; the first two lines shown are a head. Raises UnixctlError."""
    lines = [line.split() for line in unixctl.call("tnl/neigh/show").splitlines()[2:]]
    with _understanding("tnl/neigh/show"):
        return [TunnelNeighbour(ip_address(ip), mac, bridge) for ip, mac, bridge in lines]


def set_neighbour(unixctl: Unixctl, neighbour: TunnelNeighbour) -> None:
    """Set a neighbour; it ages from now. Raises UnixctlError."""
    where = (neighbour.bridge, str(neighbour.address))
    unixctl.call("tnl/neigh/set", *where, neighbour.mac)


def _shown(unixctl: Unixctl) -> list[list[str]]:
    return [line.split() for line in unixctl.call("ovs/route/show").splitlines()]


@contextmanager
def _understanding(command: str) -> Iterator[None]:
    """Make an error of what ``command`` prints where it is not what we know."""
    try:
        yield
    except (ValueError, IndexError) as error:
        raise UnixctlError(f"ovs-vswitchd: {command}: not understood: {error}") from error


def _mark(route: UserRoute) -> tuple[str, ...]:
    return (f"pkt_mark={route.mark}",) if route.mark else ()


def _route(words: list[str]) -> UserRoute:
    return UserRoute(
        destination=ip_network(words[1]),
        bridge=_value(words, "dev"),
        gateway=ip_address(_value(words, "GW")),
        mark=int(_value(words, "MARK") or "0"),
    )


def _value(words: list[str], name: str) -> str:
    return words[words.index(name) + 1] if name in words else ""
