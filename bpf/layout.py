"""Names, sizes and encodings of maps and programs: the Python half of maps.h. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address
from struct import Struct

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import MAX_SLOTS, Encap, EntryKey, Guard, IpAddress, Mac, Vni
from dataplane.core.placement import Traffic
from dataplane.core.reasons import PACKET_REASONS, Reason

TC_PROGRAMS = ("access_port", "ovs_port", "underlay", "ophy")
XDP_PROGRAM = "overweave_xdp"  # by this name the kernel lists it, and we know it again
PROGRAMS = (*TC_PROGRAMS, XDP_PROGRAM)
BPF_MAP_TYPE_HASH = 1  # linux/bpf.h, enum bpf_map_type
BPF_MAP_TYPE_PERCPU_HASH = 5
BPF_F_NO_PREALLOC = 1  # linux/bpf.h: memory grows with the entries, not with max_entries

_IFINDEX = Struct("=I")
_SOCKET = Struct("!16sH2x")
_OWN = Struct("=II")
_NIC = Struct("=6s2x")
PORT_ADDRESSES = 16  # verdict.h
_PORT = Struct(f"=II6sBB{16 * PORT_ADDRESSES}s")
_NEIGHBOUR_KEY = Struct("=I16s")
_NEIGHBOUR = Struct("=6sH")
_ENTRY_KEY = Struct("=I6s2x")
_ENTRY = Struct("=IBB2s16s16sQQ")
_MEMBER = Struct("=II16s")
_COUNTER_KEY = Struct("=II")
_FLAG = Struct("=I")
_COUNT = Struct("=Q")
_ENCAP_NUMBERS = {Encap.GENEVE: 1, Encap.VXLAN: 2}
_GUARD_NUMBERS = {Guard.OFF: 0, Guard.MAC: 1, Guard.IP: 2}
_ENCAPS = {number: encap for encap, number in _ENCAP_NUMBERS.items()}
_GUARDS = {number: guard for guard, number in _GUARD_NUMBERS.items()}
PRESENT = _FLAG.pack(1)  # the value in maps where only the key says something
_MAX_ENTRIES = 1 << 18


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
    MapSpec("own", _SOCKET.format, _OWN.format, max_entries=256),
    MapSpec("nics", _IFINDEX.format, _NIC.format, max_entries=16),
    MapSpec("ports", _IFINDEX.format, _PORT.format, max_entries=MAX_SLOTS),
    MapSpec("neighbours", _NEIGHBOUR_KEY.format, _NEIGHBOUR.format, max_entries=_MAX_ENTRIES),
    MapSpec("entries", _ENTRY_KEY.format, _ENTRY.format, max_entries=_MAX_ENTRIES),
    MapSpec("members", _MEMBER.format, _FLAG.format, max_entries=_MAX_ENTRIES),
    MapSpec(
        "counters",
        _COUNTER_KEY.format,
        _COUNT.format,
        max_entries=MAX_SLOTS * len(PACKET_REASONS),
        type=BPF_MAP_TYPE_PERCPU_HASH,
    ),
)


@dataclass(frozen=True, slots=True)
class TunnelSocket:
    """A UDP address and port that tunnel packets for this node are sent to."""

    address: IpAddress
    port: int


class OwnFlag(IntFlag):
    """What is done with tunnel packets that come to a socket; the numbers are those of verdict.h.

    Without FAST all go to Open vSwitch. With EXCLUSIVE those from strangers are dropped.
    """

    NONE = 0
    FAST = 1
    EXCLUSIVE = 2


class EntryKind(IntEnum):
    """How the fast path reaches a MAC; the numbers are those of verdict.h."""

    VETH = 1
    NETDEV = 2
    REMOTE = 3


@dataclass(frozen=True, slots=True)
class LocalEntry:
    """A MAC behind the AccessPort ``ifindex``."""

    ifindex: int
    kind: EntryKind = EntryKind.VETH


@dataclass(frozen=True, slots=True)
class RemoteEntry:
    """A MAC behind the VTEP ``remote``, which ``local`` reaches over the NIC ``ifindex``."""

    ifindex: int
    encap: Encap
    port: int
    local: IpAddress
    remote: IpAddress


Entry = LocalEntry | RemoteEntry


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
    return _SOCKET.pack(_mapped(socket.address), socket.port)


def decode_socket(data: bytes) -> TunnelSocket:
    """Return the address and port of a key of ``own``."""
    packed, port = _SOCKET.unpack(data)
    return TunnelSocket(_unmapped(packed), port)


def encode_own(encap: Encap, flags: OwnFlag) -> bytes:
    """Return a value of ``own``: u32s, host order."""
    return _OWN.pack(_ENCAP_NUMBERS[encap], flags)


def encode_nic(address: str) -> bytes:
    """Return a value of ``nics``; of what is no Ethernet address, one that no frame is sent to."""
    return _NIC.pack(bytes.fromhex(address.replace(":", "")))


def encode_port(
    vni: Vni, mtu: int, mac: Mac, guard: Guard, sources: Sequence[IpAddress] = ()
) -> bytes:
    """Return a value of ``ports``; ``mtu`` in bytes; u32s in host order.

    With guard IP ``sources`` are what the pod may send from; what does not fit Open vSwitch knows.
    """
    addresses = [_mapped(source) for source in sources[:PORT_ADDRESSES]]
    number = _GUARD_NUMBERS[guard]
    return _PORT.pack(vni, mtu, _mac_bytes(mac), number, len(addresses), b"".join(addresses))


def decode_own(value: bytes) -> OwnFlag:
    """Return what a value of ``own`` says of tunnel packets."""
    _, flags = _OWN.unpack(value)
    return OwnFlag(flags)


def decode_port(value: bytes) -> tuple[int, Mac, Guard, tuple[IpAddress, ...]]:
    """Return VNI, MAC, guard and source addresses of a value of ``ports``."""
    vni, _, mac, guard, count, packed = _PORT.unpack(value)
    sources = (packed[16 * number : 16 * (number + 1)] for number in range(count))
    return vni, Mac(mac.hex(":")), _GUARDS[guard], tuple(map(_unmapped, sources))


def encode_neighbour_key(vni: Vni, address: IpAddress) -> bytes:
    """Return a key of ``neighbours``: u32 in host order, IPv6 or v4-mapped address."""
    return _NEIGHBOUR_KEY.pack(vni, _mapped(address))


def encode_neighbour(mac: Mac, *, local: bool) -> bytes:
    """Return a value of ``neighbours``: MAC, u16 in host order; ``local``: of this node's pods."""
    return _NEIGHBOUR.pack(_mac_bytes(mac), local)


def is_local_neighbour(value: bytes) -> bool:
    """Say whether a value of ``neighbours`` is of this node's pods."""
    return bool(_NEIGHBOUR.unpack(value)[1])


def encode_entry_key(vni: Vni, mac: Mac) -> bytes:
    """Return a key of ``entries``: u32 in host order, MAC."""
    return _ENTRY_KEY.pack(vni, _mac_bytes(mac))


def decode_entry_key(data: bytes) -> EntryKey:
    """Return whose entry a key of ``entries`` names. Raises InvalidValueError: nobody's."""
    vni, mac = _ENTRY_KEY.unpack(data)
    return EntryKey(Vni(vni), Mac(mac.hex(":")))


def encode_entry(entry: Entry) -> bytes:
    """Return a value of ``entries`` that was never used; its port is in network order."""
    if isinstance(entry, LocalEntry):
        return _ENTRY.pack(entry.ifindex, entry.kind, 0, bytes(2), bytes(16), bytes(16), 0, 0)
    port = entry.port.to_bytes(2, "big")
    ends = (_mapped(entry.local), _mapped(entry.remote))
    number = _ENCAP_NUMBERS[entry.encap]
    return _ENTRY.pack(entry.ifindex, EntryKind.REMOTE, number, port, *ends, 0, 0)


def decode_entry(value: bytes) -> Entry:
    """Return what a value of ``entries`` says, without what it counted."""
    ifindex, kind, number, port, local, remote, *_ = _ENTRY.unpack(value)
    if kind != EntryKind.REMOTE:
        return LocalEntry(ifindex, EntryKind(kind))
    ends = (_unmapped(local), _unmapped(remote))
    return RemoteEntry(ifindex, _ENCAPS[number], int.from_bytes(port, "big"), *ends)


def is_remote_entry(value: bytes) -> bool:
    """Say whether a value of ``entries``, whoever wrote it, reaches its MAC by a tunnel."""
    return bool(_ENTRY.unpack(value)[1] == EntryKind.REMOTE)


def decode_vni(key: bytes) -> int:
    """Return the VNI that a key of ``neighbours``, ``entries`` or ``members`` begins with."""
    (vni,) = _IFINDEX.unpack_from(key)
    return int(vni)


def unused(entry: bytes) -> bytes:
    """Return a value of ``entries`` without what was counted."""
    return entry[: -2 * _COUNT.size] + bytes(2 * _COUNT.size)


def traffic_of(entry: bytes) -> Traffic:
    """Return what a value of ``entries`` has counted."""
    *_, packets, size = _ENTRY.unpack(entry)
    return Traffic(packets, size)


def encode_member(vni: Vni, encap: Encap, vtep: IpAddress) -> bytes:
    """Return a key of ``members``: u32s in host order, IPv6 or v4-mapped address."""
    return _MEMBER.pack(vni, _ENCAP_NUMBERS[encap], _mapped(vtep))


def encode_counter_key(ifindex: int, reason: Reason) -> bytes:
    """Return a key of ``counters``: u32s in host order."""
    return _COUNTER_KEY.pack(ifindex, PACKET_REASONS.index(reason))


def decode_counter_key(data: bytes) -> tuple[int, Reason]:
    """Return the ifindex and the reason of a key of ``counters``."""
    ifindex, number = _COUNTER_KEY.unpack(data)
    return ifindex, PACKET_REASONS[number]


def decode_count(values: bytes) -> int:
    """Return the sum over all processors of a value of ``counters``."""
    return sum(count for (count,) in _COUNT.iter_unpack(values))


def reasons_header() -> str:
    """Return bpf/reasons.h: the C enum of why a packet did not take the fast path."""
    names = "".join(f"\tREASON_{reason.name},\n" for reason in PACKET_REASONS)
    return (
        "/* Written by bpf.layout.reasons_header from dataplane/core/reasons.py. */\n"
        "#ifndef OVERWEAVE_REASONS_H\n#define OVERWEAVE_REASONS_H\n\n"
        f"enum reason {{\n{names}}};\n\n#endif\n"
    )


def _mapped(address: IpAddress) -> bytes:
    if isinstance(address, IPv4Address):
        return b"\0" * 10 + b"\xff\xff" + address.packed
    if address.ipv4_mapped is not None:
        raise InvalidValueError(f"{address} cannot be a tunnel address: give {address.ipv4_mapped}")
    return address.packed


def _unmapped(packed: bytes) -> IpAddress:
    address = IPv6Address(packed)
    return address.ipv4_mapped or address


def _mac_bytes(mac: Mac) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
