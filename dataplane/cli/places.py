"""Endpoints by the names that people type."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from dataplane.cli.output import Record
from dataplane.core.addressing import eui64_link_local
from dataplane.core.errors import InvalidValueError
from dataplane.core.model import Endpoint, FabricEntity, IpAddress, Mac


@dataclass(frozen=True, slots=True)
class Place:
    """An endpoint, as the fabric or an agent knows it."""

    identity: str
    node: str
    segment: str
    mac: Mac
    ips: tuple[IpAddress, ...]

    def __str__(self) -> str:
        """Name it so that it can be asked for."""
        return f"{self.identity}@{self.node}"

    def is_called(self, name: str) -> bool:
        """Say whether somebody who types ``name`` may mean it."""
        words = {self.identity, str(self), self.mac, *map(str, self.ips)}
        return name in words or name.lower() in words


def all_places(rows: Iterable[FabricEntity], ports: Iterable[Record]) -> tuple[Place, ...]:
    """Return the endpoints of the fabric and the ports of agents: a blocked one has no row."""
    return tuple(dict.fromkeys((*_published(rows), *_attached(ports))))


def the_place(places: Iterable[Place], name: str) -> Place:
    """Return the one endpoint called ``name``. Raises InvalidValueError, with the choices."""
    found = [place for place in places if place.is_called(name)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise InvalidValueError(
            f"no endpoint has identity, MAC or address {name!r}; list all: overweave get endpoint"
        )
    choices = sorted(f"{place} ({place.segment}, {place.mac})" for place in found)
    raise InvalidValueError(f"{name!r} may be {' or '.join(choices)}; say which")


def addresses(source: Place, target: Place, names: Collection[str]) -> tuple[IpAddress, IpAddress]:
    """Return the addresses that ``names`` gives, else of the first family that both have.

    Without one they are link-local: every endpoint owns that of its MAC. Raises InvalidValueError.
    """
    given = {ip for ip in (*source.ips, *target.ips) if str(ip) in names}
    for version in (4, 6):
        ends = _address(source, version, given), _address(target, version, given)
        if ends[0] is not None and ends[1] is not None and given <= {*ends}:
            return ends[0], ends[1]
    if given:
        raise InvalidValueError(f"{source} and {target} have no two such addresses of one family")
    return eui64_link_local(source.mac), eui64_link_local(target.mac)


def _published(rows: Iterable[FabricEntity]) -> Iterator[Place]:
    for row in rows:
        if isinstance(row, Endpoint):
            yield Place(row.identity, row.node, row.segment, row.mac, row.ips)


def _attached(ports: Iterable[Record]) -> Iterator[Place]:
    for port in ports:
        ips = tuple(ip_address(ip) for ip in port["ips"])
        yield Place(port["identity"], port["node"], port["segment"], Mac(port["mac"]), ips)


def _address(place: Place, version: int, given: Collection[IpAddress]) -> IpAddress | None:
    own = [ip for ip in place.ips if ip.version == version]
    return next((ip for ip in own if ip in given), own[0] if own else None)
