"""Encodings of map keys and values: byte for byte, and there and back."""

import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import layout
from bpf.layout import Entry, EntryKind, LocalEntry, MapSpec, OwnFlag, RemoteEntry, TunnelSocket
from dataplane.core.errors import InvalidValueError
from dataplane.core.model import Encap, Guard, IpAddress, Mac, Vni
from dataplane.core.placement import Traffic
from dataplane.core.reasons import PACKET_REASONS, Reason

MAC = Mac("02:00:00:00:0a:0b")
VNIS = st.integers(1, 0xFFFFFF).map(Vni)
MACS = st.binary(min_size=5, max_size=5).map(lambda raw: Mac(f"02:{raw.hex(':')}"))
COUNTS = st.integers(0, (1 << 64) - 1)
PORTS = st.integers(0, 0xFFFF)
WIRE_IPV6 = st.ip_addresses(v=6).filter(lambda ip: IPv6Address(ip).ipv4_mapped is None)
ADDRESSES = st.ip_addresses(v=4) | WIRE_IPV6
SOCKETS = st.builds(TunnelSocket, ADDRESSES, PORTS)
IFINDEXES = st.integers(1, 0x7FFFFFFF)
LOCALS = st.builds(LocalEntry, IFINDEXES, st.sampled_from([EntryKind.VETH, EntryKind.NETDEV]))
REMOTES = st.builds(RemoteEntry, IFINDEXES, st.sampled_from(Encap), PORTS, ADDRESSES, ADDRESSES)
MAPPED4 = "00000000000000000000ffff0a010002"  # 10.1.0.2
SOURCES = [ip_address("10.1.0.2"), ip_address("fe80::1")]


def u32(number: int) -> str:
    """Return what C reads as this number, in hexadecimal: of the machine's own byte order."""
    return number.to_bytes(4, sys.byteorder).hex()


@pytest.mark.parametrize(
    ("address", "port", "encoded"),
    [
        pytest.param("10.9.0.1", 6081, "00000000000000000000ffff0a09000117c10000", id="v4-mapped"),
        pytest.param("2001:db8::1", 4789, "20010db800000000000000000000000112b50000", id="v6"),
    ],
)
def test_socket_key_is_in_network_order(address: str, port: int, encoded: str) -> None:
    assert layout.encode_socket(TunnelSocket(ip_address(address), port)).hex() == encoded


@pytest.mark.parametrize("ifindex", [0, 1, 0x01020304, 0xFFFFFFFF])
def test_ifindex_is_in_host_order(ifindex: int) -> None:
    encoded = layout.encode_ifindex(ifindex)
    assert encoded == ifindex.to_bytes(4, sys.byteorder)
    assert layout.decode_ifindex(encoded) == ifindex


@given(SOCKETS)
def test_socket_comes_back(socket: TunnelSocket) -> None:
    assert layout.decode_socket(layout.encode_socket(socket)) == socket


@given(SOCKETS, SOCKETS)
def test_different_sockets_have_different_keys(one: TunnelSocket, other: TunnelSocket) -> None:
    assert (one == other) == (layout.encode_socket(one) == layout.encode_socket(other))


@given(st.ip_addresses(v=4), PORTS)
def test_v4_mapped_address_is_refused(address: IPv4Address, port: int) -> None:
    mapped = IPv6Address(f"::ffff:{address}")
    with pytest.raises(InvalidValueError, match=f"give {address}"):
        layout.encode_socket(TunnelSocket(mapped, port))


VNI = Vni(0x123456)


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        pytest.param(
            layout.encode_own(Encap.GENEVE, OwnFlag.NONE), u32(1) + u32(0), id="own-geneve"
        ),
        pytest.param(
            layout.encode_own(Encap.VXLAN, OwnFlag.FAST | OwnFlag.EXCLUSIVE),
            u32(2) + u32(3),
            id="own-vxlan-flags",
        ),
        *(
            pytest.param(
                layout.encode_port(VNI, 1450, MAC, guard),
                u32(0x123456) + u32(1450) + "020000000a0b" + number + 257 * "00",
                id=f"port-guard-{guard}",
            )
            for guard, number in ((Guard.OFF, "00"), (Guard.MAC, "01"), (Guard.IP, "02"))
        ),
        pytest.param(
            layout.encode_port(VNI, 1450, MAC, Guard.IP, SOURCES),
            u32(0x123456)
            + u32(1450)
            + "020000000a0b"
            + "0202"
            + MAPPED4
            + "fe800000000000000000000000000001"
            + 14 * 16 * "00",
            id="port-sources",
        ),
        pytest.param(
            layout.encode_port(VNI, 1450, MAC, Guard.IP, 17 * SOURCES[:1]),
            u32(0x123456) + u32(1450) + "020000000a0b" + "0210" + 16 * MAPPED4,
            id="port-more-sources-than-fit",
        ),
        pytest.param(
            layout.encode_neighbour_key(VNI, ip_address("10.1.0.2")),
            u32(0x123456) + MAPPED4,
            id="neighbour-key",
        ),
        pytest.param(
            layout.encode_neighbour(MAC, local=False), "020000000a0b0000", id="neighbour-remote"
        ),
        pytest.param(
            layout.encode_neighbour(MAC, local=True),
            "020000000a0b" + (1).to_bytes(2, sys.byteorder).hex(),
            id="neighbour-local",
        ),
        pytest.param(
            layout.encode_entry_key(VNI, MAC), u32(0x123456) + "020000000a0b0000", id="entry-key"
        ),
        pytest.param(
            layout.encode_entry(LocalEntry(7)), u32(7) + "01" + "00" * 51, id="entry-veth"
        ),
        pytest.param(
            layout.encode_entry(LocalEntry(7, EntryKind.NETDEV)),
            u32(7) + "02" + "00" * 51,
            id="entry-netdev",
        ),
        pytest.param(
            layout.encode_entry(
                RemoteEntry(9, Encap.VXLAN, 4789, ip_address("10.1.0.2"), ip_address("fe80::1"))
            ),
            u32(9) + "0302" + "12b5" + MAPPED4 + "fe800000000000000000000000000001" + "00" * 16,
            id="entry-remote",
        ),
        pytest.param(
            layout.encode_member(VNI, Encap.GENEVE, ip_address("10.1.0.2")),
            u32(0x123456) + u32(1) + MAPPED4,
            id="member",
        ),
        pytest.param(
            layout.encode_counter_key(7, PACKET_REASONS[2]), u32(7) + u32(2), id="counter-key"
        ),
        pytest.param(layout.PRESENT, u32(1), id="present"),
    ],
)
def test_encodings_byte_for_byte(encoded: bytes, expected: str) -> None:
    assert encoded.hex() == expected


@pytest.mark.parametrize(
    "encode",
    [
        pytest.param(lambda ip: layout.encode_port(VNI, 1450, MAC, Guard.IP, [ip]), id="port"),
        pytest.param(lambda ip: layout.encode_neighbour_key(VNI, ip), id="neighbour"),
        pytest.param(lambda ip: layout.encode_member(VNI, Encap.GENEVE, ip), id="member"),
    ],
)
def test_no_key_is_that_of_a_mapped_address(encode: Callable[[IpAddress], bytes]) -> None:
    with pytest.raises(InvalidValueError):
        encode(ip_address("::ffff:10.1.0.2"))


@given(VNIS, MACS)
def test_entry_key_comes_back(vni: Vni, mac: Mac) -> None:
    key = layout.encode_entry_key(vni, mac)
    assert layout.decode_entry_key(key) == (vni, mac)
    assert layout.decode_vni(key) == vni


@given(VNIS, ADDRESSES, st.sampled_from(Encap))
def test_keys_of_a_segment_begin_with_its_vni(vni: Vni, address: IpAddress, encap: Encap) -> None:
    assert layout.decode_vni(layout.encode_neighbour_key(vni, address)) == vni
    assert layout.decode_vni(layout.encode_member(vni, encap, address)) == vni


@given(LOCALS | REMOTES, COUNTS, COUNTS)
def test_what_an_entry_has_counted_is_apart_from_what_it_is(
    entry: Entry, packets: int, size: int
) -> None:
    new = layout.encode_entry(entry)
    used = new[:-16] + packets.to_bytes(8, sys.byteorder) + size.to_bytes(8, sys.byteorder)
    assert layout.traffic_of(new) == Traffic(0, 0)
    assert layout.traffic_of(used) == Traffic(packets, size)
    assert layout.unused(used) == layout.unused(new) == new
    assert layout.is_remote_entry(used) == isinstance(entry, RemoteEntry)


@given(LOCALS | REMOTES, LOCALS | REMOTES)
def test_different_entries_have_different_values(one: Entry, other: Entry) -> None:
    assert (one == other) == (layout.encode_entry(one) == layout.encode_entry(other))


@pytest.mark.parametrize("local", [True, False])
def test_whose_neighbour_it_is_comes_back(*, local: bool) -> None:
    assert layout.is_local_neighbour(layout.encode_neighbour(MAC, local=local)) is local


@given(st.integers(0, 0xFFFFFFFF), st.sampled_from(PACKET_REASONS))
def test_counter_key_comes_back(ifindex: int, reason: Reason) -> None:
    key = layout.encode_counter_key(ifindex, reason)
    assert layout.decode_counter_key(key) == (ifindex, reason)


@given(st.lists(st.integers(0, 1 << 50), min_size=1, max_size=16))
def test_a_count_is_the_sum_over_all_processors(counts: list[int]) -> None:
    values = b"".join(count.to_bytes(8, sys.byteorder) for count in counts)
    assert layout.decode_count(values) == sum(counts)


@pytest.mark.parametrize("reason", [Reason.TABLE_FULL, Reason.PENDING, Reason.SUPERSEDED])
def test_what_no_packet_is_counted_by_has_no_number(reason: Reason) -> None:
    assert reason not in PACKET_REASONS


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(MapSpec("glue", "=I", "=Q", 64), id="value-size"),
        pytest.param(MapSpec("glue", "!I", "=I", 64), id="byte-order"),
        pytest.param(MapSpec("glue", "=I", "=I", 65), id="entries"),
        pytest.param(MapSpec("glue", "=I", "=I", 64, flags=0), id="flags"),
        pytest.param(MapSpec("glue", "=I", "=I", 64, type=9), id="type"),
        pytest.param(MapSpec("paste", "=I", "=I", 64), id="name"),
    ],
)
def test_layout_hash_sees_every_change(changed: MapSpec) -> None:
    layout_of = layout.layout_hash
    assert layout_of([MapSpec("glue", "=I", "=I", 64)]) != layout_of([changed])


def test_sizes_are_those_of_the_formats() -> None:
    sizes = {spec.name: (spec.key_size, spec.value_size) for spec in layout.MAPS}
    assert sizes == {
        "glue": (4, 4),
        "own": (20, 8),
        "nics": (4, 8),
        "ports": (4, 272),
        "neighbours": (20, 8),
        "entries": (12, 56),
        "members": (24, 4),
        "counters": (8, 8),
    }
