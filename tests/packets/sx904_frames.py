"""Filters by hand that join a VF of an emulated SX904 and a far pod, and their golden frames."""

from __future__ import annotations

from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.unit.rtnl_by_hand import (
    SKIP_SW,
    actions,
    flags,
    keys,
    mirred,
    tunnel_release,
    tunnel_set,
)
from tests.unit.sx904_card import GENEVE_DEVICE, HOP, OWN_MAC, REP0, REP1, VXLAN_DEVICE
from vendors.emulator.packets import Encap

MISSES = {"vf0": "rep0", "rep0": "vf0", "vf1": "rep1", "rep1": "vf1", "up": "cpu0", "cpu0": "up"}


DEVICES = {Encap.GENEVE: GENEVE_DEVICE, Encap.VXLAN: VXLAN_DEVICE}
POD, NEAR, FAR = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
OWN = {4: "192.0.2.1", 6: "2001:db8::1"}
REMOTE = {4: "192.0.2.77", 6: "2001:db8::77"}
VNI = 0xABCDEF
KINDS = [(encap, version) for encap in Encap for version in (4, 6)]


def inner(source: str = POD, destination: str = FAR, tag: int | None = None) -> bytes:
    head: Packet = Ether(src=source, dst=destination)
    if tag is not None:
        head /= Dot1Q(vlan=tag)
    return bytes(head / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(b"x" * 50))


def shim(encap: Encap) -> Packet:
    if encap is Encap.VXLAN:
        return VXLAN(flags=8, vni=VNI)
    return GENEVE(vni=VNI, proto=0x6558)


def packet(
    encap: Encap, version: int, ends: tuple[str, str], what: bytes, **changes: object
) -> Packet:
    """Return ``what`` in a tunnel as the device writes it, but for the UDP source port."""
    network: Packet
    if version == 4:
        network = IP(src=ends[0], dst=ends[1], id=0, flags="DF", ttl=64)
    else:
        network = IPv6(src=ends[0], dst=ends[1], hlim=64)
    udp = UDP(sport=0, dport=encap.value, chksum=0)
    made = Ether(src=OWN_MAC, dst=HOP) / network / udp / shim(encap) / Raw(what)
    for name, given in changes.items():
        layer, _, field = name.partition("_")
        target = {"ip": network.__class__, "udp": UDP, "eth": Ether}[layer]
        setattr(made[target], field, given)
    return made


def golden(encap: Encap, version: int, what: bytes, **changes: object) -> Packet:
    return packet(encap, version, (OWN[version], REMOTE[version]), what, **changes)


def arriving(encap: Encap, version: int, what: bytes, **changes: object) -> Packet:
    return packet(encap, version, (REMOTE[version], OWN[version]), what, **changes)


def portless(frame: bytes, version: int) -> bytes:
    """Return a tunnel packet without its UDP source port, which is a hash."""
    start = 14 + (20 if version == 4 else 40)
    return frame[:start] + bytes(2) + frame[start + 2 :]


def outward(encap: Encap, version: int, how: int = SKIP_SW) -> bytes:
    """Return the options of a filter at REP0 that takes frames to FAR into a tunnel."""
    header = tunnel_set(OWN[version], REMOTE[version], VNI)
    return keys(eth_dst=FAR, eth_src=POD) + actions(header, mirred(DEVICES[encap])) + flags(how)


def inward(version: int, target: int = REP0) -> bytes:
    """Return the options of a filter at a tunnel device that takes frames from FAR to a VF."""
    outer: dict[str, str | int] = {
        f"enc_ipv{version}_src": REMOTE[version],
        f"enc_ipv{version}_dst": OWN[version],
        "enc_key_id": VNI,
    }
    match = keys(**outer, eth_dst=POD, eth_src=FAR)
    return match + actions(tunnel_release(), mirred(target)) + flags(SKIP_SW)


def local(target: int = REP1) -> bytes:
    """Return the options of a filter at REP0 that takes frames to NEAR to its VF."""
    return keys(eth_dst=NEAR, eth_src=POD) + actions(mirred(target)) + flags(SKIP_SW)
