"""Encodings of map keys and values: byte for byte, and there and back."""

import sys
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf import layout
from bpf.layout import MapSpec, TunnelSocket
from dataplane.core.errors import InvalidValueError
from dataplane.core.model import Encap

PORTS = st.integers(0, 0xFFFF)
WIRE_IPV6 = st.ip_addresses(v=6).filter(lambda ip: IPv6Address(ip).ipv4_mapped is None)
SOCKETS = st.builds(TunnelSocket, st.ip_addresses(v=4) | WIRE_IPV6, PORTS)


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


def test_encaps_have_fixed_numbers() -> None:
    numbers = {encap: int.from_bytes(layout.encode_encap(encap), sys.byteorder) for encap in Encap}
    assert numbers == {Encap.GENEVE: 1, Encap.VXLAN: 2}


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(MapSpec("glue", "=I", "=Q", 64), id="value-size"),
        pytest.param(MapSpec("glue", "!I", "=I", 64), id="byte-order"),
        pytest.param(MapSpec("glue", "=I", "=I", 65), id="entries"),
        pytest.param(MapSpec("glue", "=I", "=I", 64, flags=0), id="flags"),
        pytest.param(MapSpec("paste", "=I", "=I", 64), id="name"),
    ],
)
def test_layout_hash_sees_every_change(changed: MapSpec) -> None:
    layout_of = layout.layout_hash
    assert layout_of([MapSpec("glue", "=I", "=I", 64)]) != layout_of([changed])


def test_sizes_are_those_of_the_formats() -> None:
    sizes = {spec.name: (spec.key_size, spec.value_size) for spec in layout.MAPS}
    assert sizes == {"glue": (4, 4), "own": (20, 4)}
