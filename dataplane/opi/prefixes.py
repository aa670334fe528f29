"""IP addresses and prefixes as OPI's messages have them. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_interface

from dataplane.core.model import IpAddress, IpInterface
from dataplane.opi.networktypes_pb2 import IP_AF_INET, IP_AF_INET6, IPAddress, IPPrefix
from dataplane.opi.refusals import Fault, OpiRefusedError


def written(prefix: IpInterface) -> IPPrefix:
    """Return ``prefix`` as a message."""
    length = prefix.network.prefixlen
    if prefix.version == 4:
        return IPPrefix(addr=IPAddress(af=IP_AF_INET, v4_addr=int(prefix.ip)), len=length)
    return IPPrefix(addr=IPAddress(af=IP_AF_INET6, v6_addr=prefix.ip.packed), len=length)


def read(prefix: IPPrefix, path: str) -> IpInterface:
    """Return the address and subnet in the field at ``path``; OpiRefusedError if it is none."""
    address = _address(prefix.addr, path)
    longest = address.max_prefixlen
    if not 0 <= prefix.len <= longest:
        raise OpiRefusedError(
            Fault.BAD_VALUE, f"{path}: len {prefix.len} is not from 0 to {longest}"
        )
    return ip_interface((address.packed, prefix.len))


def read_hosts(prefix: IPPrefix, path: str) -> IpInterface:
    """Return the address and subnet in a field; OpiRefusedError if no host can have it."""
    found = read(prefix, path)
    ip = found.ip
    if ip.is_multicast or ip.is_unspecified or ip.is_loopback or ip.is_link_local:
        raise OpiRefusedError(Fault.BAD_VALUE, f"{path}: {ip} cannot be an address that is routed")
    return found


def _address(address: IPAddress, path: str) -> IpAddress:
    kind = address.WhichOneof("v4_or_v6")
    if address.af == IP_AF_INET and kind == "v4_addr":
        return IPv4Address(address.v4_addr)
    if address.af == IP_AF_INET6 and kind == "v6_addr" and len(address.v6_addr) == 16:
        return IPv6Address(address.v6_addr)
    raise OpiRefusedError(
        Fault.BAD_VALUE, f"{path}: the address is not one of the family that af says"
    )
