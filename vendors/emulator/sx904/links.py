"""The netdevs of the card, as RTM_GETLINK tells them (linux/if_link.h)."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from vendors.emulator.packets import Encap
from vendors.emulator.settings import PortConfig, Sx904Config
from vendors.emulator.sx904.netlink import (
    Refusal,
    read_attributes,
    read_text,
    write_attribute,
    write_text,
)

_FIRST_IFINDEX = 2  # 1 is lo
_HEADER = struct.Struct("=BxHiII")  # ifinfomsg
_ETHER, _UP = 1, 0x1 | 0x2 | 0x40 | 0x1000  # ARPHRD_ETHER; UP, BROADCAST, RUNNING, MULTICAST
_IFNAME, _LINKINFO, _SWITCH_ID, _PORT_NAME = 3, 18, 36, 38
_INFO_KIND, _INFO_DATA = 1, 2
_TUNNELS = {Encap.GENEVE: ("geneve", 5, 8), Encap.VXLAN: ("vxlan", 15, 25)}
"""The kind of a tunnel device, and the attributes of its UDP port and of collect metadata."""
_SWITCH = bytes.fromhex("0a0b0c0d0e0f0904")


class Kind(Enum):
    """What a netdev is to the switch."""

    REPRESENTOR = auto()
    UPLINK = auto()
    TUNNEL = auto()


@dataclass(frozen=True, slots=True)
class Link:
    """A netdev; ``port`` is the port that it stands for, of a representor its VF's.

    ``encap`` and ``udp_port`` are those of a tunnel device.
    """

    ifindex: int
    name: str
    kind: Kind
    port: str = ""
    port_name: str = ""
    encap: Encap = Encap.GENEVE
    udp_port: int = 0


class Links:
    """The netdevs by ifindex; no ifindex comes twice."""

    def __init__(self, config: Sx904Config) -> None:
        """Have all that a configuration names."""
        self._links: dict[int, Link] = {}
        self._last = _FIRST_IFINDEX - 1
        self.is_switchdev = config.eswitch == "switchdev"
        """Whether VFs have representors."""
        self._vfs = {
            representor.port: (number, representor, vf)
            for number, (representor, vf) in enumerate(
                zip(config.representors, config.vfs, strict=True)
            )
        }
        self._add(config.cpu.netdev, Kind.UPLINK, config.uplink.port, "p0")
        for representor in config.representors:
            self.add_representor(representor)
        for encap, port in ((Encap.GENEVE, config.geneve), (Encap.VXLAN, config.vxlan)):
            name = {Encap.GENEVE: "genev_sys", Encap.VXLAN: "vxlan_sys"}[encap]
            number = self._next()
            link = Link(number, f"{name}_{port}", Kind.TUNNEL, encap=encap, udp_port=port)
            self._links[number] = link
        self.tunnel_ports = {
            link.udp_port: link for link in self._links.values() if link.kind is Kind.TUNNEL
        }
        """The tunnel devices by the UDP port of packets for them."""

    def __iter__(self) -> Iterator[Link]:
        return iter(tuple(self._links.values()))

    def get(self, ifindex: int) -> Link | None:
        """Return the netdev of this number."""
        return self._links.get(ifindex)

    def representor(self, port: str) -> Link | None:
        """Return the representor of the VF that is ``port``."""
        return next(
            (x for x in self if x.kind is Kind.REPRESENTOR and x.port == port),
            None,
        )

    def add_representor(self, port: PortConfig) -> None:
        """Have a representor, as a new netdev, unless it is there or no VF has one."""
        number, representor, vf = self._vfs[port.port]
        if self.is_switchdev and self.representor(vf.port) is None:
            self._add(representor.netdev, Kind.REPRESENTOR, vf.port, f"pf0vf{number}")

    def remove_representor(self, port: PortConfig) -> Link | None:
        """Have a representor no more, and return what it was."""
        link = self.representor(self._vfs[port.port][2].port)
        return None if link is None else self._links.pop(link.ifindex)

    def _add(self, name: str, kind: Kind, port: str, port_name: str) -> None:
        number = self._next()
        self._links[number] = Link(number, name, kind, port, port_name)

    def _next(self) -> int:
        self._last += 1
        return self._last


def find_link(links: Links, body: bytes) -> Link:
    """Return the netdev that RTM_GETLINK asks for, by number or name. Raises Refusal."""
    if len(body) < _HEADER.size:
        raise Refusal(errno.EINVAL, "Invalid header for get link")
    _, _, ifindex, _, _ = _HEADER.unpack_from(body)
    name = read_text(read_attributes(body[_HEADER.size :], {}).get(_IFNAME, b""))
    if ifindex <= 0 and not name:
        raise Refusal(errno.EINVAL)
    found = links.get(ifindex) if ifindex > 0 else next((x for x in links if x.name == name), None)
    if found is None:
        raise Refusal(errno.ENODEV)
    return found


def write_link(link: Link) -> bytes:
    """Return the body of RTM_NEWLINK."""
    body = _HEADER.pack(0, _ETHER, link.ifindex, _UP, 0) + write_text(_IFNAME, link.name)
    if link.kind is not Kind.TUNNEL:
        body += write_attribute(_SWITCH_ID, _SWITCH) + write_text(_PORT_NAME, link.port_name)
        return body
    kind, port, metadata = _TUNNELS[link.encap]
    data = write_attribute(port, link.udp_port.to_bytes(2))
    # Of Geneve it is a flag, of VXLAN a byte (geneve_fill_info, vxlan_fill_info).
    data += write_attribute(metadata, b"" if link.encap is Encap.GENEVE else b"\x01")
    info = write_text(_INFO_KIND, kind) + write_attribute(_INFO_DATA, data)
    return body + write_attribute(_LINKINFO, info)
