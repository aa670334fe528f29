"""Names, sizes and encodings of maps and programs: the Python half of maps.h. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import MAX_SLOTS, Encap, IpAddress

PROGRAMS = ("access_port", "ovs_port", "underlay", "ophy")
BPF_MAP_TYPE_HASH = 1  # linux/bpf.h, enum bpf_map_type
BPF_F_NO_PREALLOC = 1  # linux/bpf.h: memory grows with the entries, not with max_entries

_IFINDEX = Struct("=I")
_SOCKET = Struct("!16sH2x")
_ENCAP = Struct("=I")
_ENCAP_NUMBERS = {Encap.GENEVE: 1, Encap.VXLAN: 2}


@dataclass(frozen=True, slots=True)
class MapSpec:
    """A map as it must be in the kernel; key and value as ``struct`` formats."""

    name: str
    key: str
    value: str
    max_entries: int
    type: int = BPF_MAP_TYPE_HASH
    flags: int = BPF_F_NO_PREALLOC

    @property
    def key_size(self) -> int:
        """Return the bytes of a key."""
        return Struct(self.key).size

    @property
    def value_size(self) -> int:
        """Return the bytes of a value."""
        return Struct(self.value).size


MAPS = (
    MapSpec("glue", _IFINDEX.format, _IFINDEX.format, max_entries=2 * MAX_SLOTS + 64),
    MapSpec("own", _SOCKET.format, _ENCAP.format, max_entries=256),
)


@dataclass(frozen=True, slots=True)
class TunnelSocket:
    """A UDP address and port that tunnel packets for this node are sent to."""

    address: IpAddress
    port: int


def layout_hash(specs: Iterable[MapSpec] = MAPS) -> str:
    """Return a name for this layout: maps of equal layout hash can be shared by two versions."""
    return sha256("\n".join(map(repr, specs)).encode()).hexdigest()[:16]


def encode_ifindex(ifindex: int) -> bytes:
    """Return key or value of ``glue``: u32, host order."""
    return _IFINDEX.pack(ifindex)


def decode_ifindex(data: bytes) -> int:
    """Return the ifindex of a key or value of ``glue``."""
    (ifindex,) = _IFINDEX.unpack(data)
    return int(ifindex)


def encode_socket(socket: TunnelSocket) -> bytes:
    """Return a key of ``own``: IPv6 or v4-mapped address, port, two zero bytes; network order.

    Raises InvalidValueError for a v4-mapped IPv6 address, which is none on the wire (RFC 4291).
    """
    address = socket.address
    if isinstance(address, IPv4Address):
        return _SOCKET.pack(b"\0" * 10 + b"\xff\xff" + address.packed, socket.port)
    if address.ipv4_mapped is not None:
        raise InvalidValueError(f"{address} cannot be a tunnel address: give {address.ipv4_mapped}")
    return _SOCKET.pack(address.packed, socket.port)


def decode_socket(data: bytes) -> TunnelSocket:
    """Return the address and port of a key of ``own``."""
    packed, port = _SOCKET.unpack(data)
    address = IPv6Address(packed)
    return TunnelSocket(address.ipv4_mapped or address, port)


def encode_encap(encap: Encap) -> bytes:
    """Return a value of ``own``: u32, host order."""
    return _ENCAP.pack(_ENCAP_NUMBERS[encap])
