"""The filters that stand for entries, as data, with netdevs by name. Pure.

The device has one table for all of its netdevs, no stages, and one priority for all filters. So a
filter does everything for frames of one port to one endpoint, or of one VTEP to one VF, and no two
may match the same frame.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from zlib import crc32

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import Encap, EntryKey, Fabric, IpAddress, Mac, Vni
from dataplane.netlink.actions import Action, Redirect, TunnelSet
from dataplane.netlink.flower import (
    ETH_P_ALL,
    ETH_P_IP,
    ETH_P_IPV6,
    Filter,
    Found,
    Match,
    Skip,
)
from dataplane.netlink.tc import Slot

TABLE = "filters"
OWNER = b"overweave"  # begins the cookie of each filter of ours
# All filters of a preference see one ethertype; below eBPF's, on the same hooks.
PREFERENCES: Mapping[int, int] = {ETH_P_IP: 40, ETH_P_IPV6: 41, ETH_P_ALL: 42}


class Kind(IntEnum):
    """What a filter does."""

    OUT = 1  # a VF to an endpoint behind a VTEP
    IN = 2  # a VTEP to an endpoint behind a VF
    BETWEEN = 3  # a VF to an endpoint behind another


@dataclass(frozen=True, slots=True)
class Out:
    """The frame leaves by a netdev; one without name is called by its number, ``#12``."""

    netdev: str


@dataclass(frozen=True, slots=True)
class Row:
    """A filter of ours at the ingress hook of ``netdev``, as an item of the diff.

    ``protocol`` says which ethertype its preference sees.
    """

    netdev: str
    protocol: int
    match: Match
    actions: tuple[Action | Out, ...]
    kind: int
    vni: int
    skip: Skip

    @property
    def key(self) -> tuple[str, int, Match]:
        """Return what makes it the same filter."""
        return self.netdev, self.protocol, self.match

    @property
    def target(self) -> EntryKey | None:
        """Return whose frames it forwards; None: somebody else wrote it, with our cookie."""
        try:
            return EntryKey(Vni(self.vni), Mac(self.target_mac or ""))
        except InvalidValueError:
            return None

    @property
    def to(self) -> str:
        """Return the netdev that its frames leave by."""
        return next((each.netdev for each in self.actions if isinstance(each, Out)), "")

    @property
    def scope(self) -> int | None:
        """Return what the fabric's view of its segment decides about, as ``held_by`` names it.

        None: it is about VFs alone. Nothing of a VF that is not there any more is held.
        """
        if self.kind == Kind.OUT:
            return _scope(self.vni, self.netdev, self.match.source_mac, self.match.source)
        return None if self.kind == Kind.BETWEEN else _scope(self.vni, self.to, self.target_mac)

    @property
    def target_mac(self) -> str | None:
        """Return the MAC of whoever gets its frames."""
        return self.match.destination_mac


def held_by(vni: int, netdev: str, mac: Mac, sent: Iterable[Match]) -> set[int]:
    """Return the scopes of the rows of a VF; ``sent`` are the matches of what it may send."""
    found = {_scope(vni, netdev, match.source_mac, match.source) for match in sent}
    return found | {_scope(vni, netdev, mac)}


def _scope(vni: int, netdev: str, mac: str | None, source: IpAddress | None = None) -> int:
    return crc32(f"{netdev} {mac} {source}".encode()) << 24 | vni


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A tunnel device, and the UDP port that it takes packets on; None: it was not asked yet."""

    netdev: str
    udp_port: int | None = None

    def why_unfit(self, encap: Encap, fabric: Fabric) -> str:
        """Return why it is not for the tunnels of a fabric; empty: it is."""
        number = fabric.port(encap)
        if self.udp_port in (None, number):
            return ""
        return f"{self.netdev} is for UDP port {self.udp_port}, {encap} goes to {number} here"


@dataclass(frozen=True, slots=True)
class Wiring:
    """The device's netdevs: representors in the order of the VFs, the uplink, tunnel devices.

    ``skip`` says who is not to have our filters: the kernel, where there is a device.
    """

    representors: tuple[str, ...]
    tunnels: Mapping[Encap, Tunnel]
    uplink: str = ""
    skip: Skip = Skip.KERNEL

    @property
    def hooks(self) -> tuple[str, ...]:
        """Return the netdevs that get filters."""
        return (*self.representors, *(tunnel.netdev for tunnel in self.tunnels.values()))


def to_filter(row: Row, ifindexes: Mapping[str, int]) -> Filter:
    """Return a row as the device is told it. Raises KeyError for a netdev that is not there."""
    return Filter(
        slot=Slot(ifindexes[row.netdev], PREFERENCES[row.protocol], handle=0),
        protocol=row.protocol,
        match=row.match,
        actions=tuple(
            Redirect(ifindexes[each.netdev]) if isinstance(each, Out) else each
            for each in row.actions
        ),
        skip=row.skip,
        cookie=OWNER + bytes([row.kind]) + row.vni.to_bytes(3),
    )


def is_ours(found: Found) -> bool:
    """Say whether we put a filter there."""
    return found.filter.cookie.startswith(OWNER)


def from_filter(netdev: str, found: Filter, names: Mapping[int, str]) -> Row:
    """Return a filter of ours, which stands at ``netdev``, as ``to_filter`` was given it."""
    mark = found.cookie[len(OWNER) :].ljust(4, b"\0")
    return Row(
        netdev=netdev,
        protocol=found.protocol,
        match=found.match,
        actions=tuple(_named(each, names) for each in found.actions),
        kind=mark[0],
        vni=int.from_bytes(mark[1:4]),
        skip=found.skip,
    )


def _named(action: Action, names: Mapping[int, str]) -> Action | Out:
    if isinstance(action, Redirect):
        return Out(names.get(action.ifindex, f"#{action.ifindex}"))
    if isinstance(action, TunnelSet):
        return replace(action, dont_fragment=action.target.version == 4)
    return action
