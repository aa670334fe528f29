"""One packet of each tunnel, the map entries that it needs, and the programs that time it. Pure.

As in BPF_PROG_TEST_RUN everything is received by the loopback device: it is pod and NIC in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from bpf.entries import EntryItem
from bpf.layout import (
    PRESENT,
    LocalEntry,
    OwnFlag,
    RemoteEntry,
    TunnelSocket,
    encode_entry,
    encode_entry_key,
    encode_ifindex,
    encode_member,
    encode_nic,
    encode_own,
    encode_port,
    encode_socket,
)
from dataplane.core.errors import OverweaveError
from dataplane.core.model import Encap, Family, Guard, Mac, Vni

LOOPBACK = 1
_POD_NEXT_DOOR = 77  # a netdev that need not exist: nothing is really sent
_MTU = 1400
_HOST = "00:00:00:00:00:00"  # the loopback's MAC
_POD, _NOBODY = Mac("02:00:00:00:00:01"), Mac("02:99:00:00:00:09")
_POD_IPS = {Family.IPV4: "10.1.0.1", Family.IPV6: "fd00:1::1"}
_OTHER_IPS = {Family.IPV4: "10.1.0.2", Family.IPV6: "fd00:1::2"}
_OWN = {Family.IPV4: "192.0.2.1", Family.IPV6: "2001:db8::1"}
_PEER = {Family.IPV4: "192.0.2.2", Family.IPV6: "2001:db8::2"}
_PORTS = {Encap.GENEVE: 6081, Encap.VXLAN: 4789}
_PAYLOAD = b"x" * 64

# What the copy of overlay.c has instead. A packet that is encapsulated twice is refused by the
# kernel's marks for tunnels, which only leaving the machine takes off again: so none are set.
_CHANGES = {
    "int access_port(struct __sk_buff *skb)": "INLINE int pod_sends(struct __sk_buff *skb)",
    "int underlay(struct __sk_buff *skb)": "INLINE int nic_receives(struct __sk_buff *skb)",
    "ENCAP_FLAGS | family)": "BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET)",
}


@dataclass(frozen=True, slots=True)
class Tunnel:
    """An encapsulation over an underlay family; what is inside is of the same family."""

    encap: Encap
    family: Family
    vni: Vni

    @property
    def title(self) -> str:
        """Return how figures call it."""
        return f"{self.encap} over {self.family}"

    @property
    def back(self) -> Vni:
        """Return the segment whose packets come back, where the same MACs are pods here."""
        return Vni(self.vni ^ 1)


TUNNELS = tuple(
    Tunnel(encap, family, Vni(5000 + 2 * number))
    for number, (encap, family) in enumerate((e, f) for e in Encap for f in Family)
)


def timed_source(overlay: str, turn_back: str, destinations: int) -> str:
    """Return overlay.c with the programs of turn_back.c instead of its own.

    Raises OverweaveError if overlay.c is no more what they were written for.
    """
    for old, new in _CHANGES.items():
        if overlay.count(old) != 1:
            raise OverweaveError(f"bpf/overlay.c has {old!r} no more once: see bench/one_packet.py")
        overlay = overlay.replace(old, new)
    return f"#define DESTINATIONS {destinations}\n{overlay}\n{turn_back}"


def destination(number: int) -> Mac:
    """Return a MAC that packets are sent to."""
    digits = f"{number:06x}"
    return Mac(f"02:00:10:{digits[:2]}:{digits[2:4]}:{digits[4:]}")


def sent(tunnel: Tunnel, mac: Mac | None = None) -> bytes:
    """Return what the pod sends; to ``mac``, or to the first of the destinations."""
    return bytes(_inner(tunnel.family, mac or destination(0)))


def sent_to_nobody(tunnel: Tunnel) -> bytes:
    """Return what the pod sends to a MAC that is not known."""
    return sent(tunnel, _NOBODY)


def received_for_nobody(tunnel: Tunnel) -> bytes:
    """Return a tunnel packet of a known peer, for a MAC that is not known."""
    return _received(tunnel, tunnel.back)


def received_forged(tunnel: Tunnel) -> bytes:
    """Return a tunnel packet with a VNI that its sender has no part in."""
    return _received(tunnel, Vni(99))


def received_by_host() -> bytes:
    """Return a TCP packet of the host itself, which is none of ours."""
    ip = _ip(Family.IPV4, _PEER[Family.IPV4], _OWN[Family.IPV4])
    return bytes(Ether(src=_POD, dst=_HOST) / ip / TCP(dport=22) / _PAYLOAD)


def entries(count: int) -> Iterator[EntryItem]:
    """Yield ``count`` values of the map ``entries``: half remote, half local, the same MACs.

    The first tunnel has as many destinations as there is room for, every other one has one.
    """
    first, *others = TUNNELS
    for tunnel in others:
        yield from _both_ways(tunnel, 0)
    for number in range(destinations(count)):
        yield from _both_ways(first, number)


def destinations(count: int) -> int:
    """Return how many MACs the first tunnel reaches if the map has ``count`` entries."""
    return count // 2 - len(TUNNELS) + 1


def surroundings() -> Iterator[EntryItem]:
    """Yield what all tunnels need in the other maps."""
    yield EntryItem("glue", encode_ifindex(LOOPBACK), encode_ifindex(LOOPBACK))
    yield EntryItem("nics", encode_ifindex(LOOPBACK), encode_nic(_HOST))
    for tunnel in TUNNELS:
        peer = ip_address(_PEER[tunnel.family])
        key = encode_socket(TunnelSocket(peer, _PORTS[tunnel.encap]))
        yield EntryItem("own", key, encode_own(tunnel.encap, OwnFlag.FAST | OwnFlag.EXCLUSIVE))
        own = ip_address(_OWN[tunnel.family])
        yield EntryItem("members", encode_member(tunnel.back, tunnel.encap, own), PRESENT)


def port(tunnel: Tunnel) -> EntryItem:
    """Return the AccessPort, guarded by IP, as one of the tunnel's segment."""
    sources = [ip_address(ip) for ip in _POD_IPS.values()]
    value = encode_port(tunnel.vni, _MTU, _POD, Guard.IP, sources)
    return EntryItem("ports", encode_ifindex(LOOPBACK), value)


def traffic_keys(tunnel: Tunnel) -> tuple[bytes, bytes]:
    """Return the keys of ``entries`` that a packet to the first destination uses, out and back."""
    mac = destination(0)
    return encode_entry_key(tunnel.vni, mac), encode_entry_key(tunnel.back, mac)


def _both_ways(tunnel: Tunnel, number: int) -> Iterator[EntryItem]:
    own, peer = (ip_address(ends[tunnel.family]) for ends in (_OWN, _PEER))
    out = RemoteEntry(LOOPBACK, tunnel.encap, _PORTS[tunnel.encap], own, peer)
    mac = destination(number)
    yield EntryItem("entries", encode_entry_key(tunnel.vni, mac), encode_entry(out))
    back = LocalEntry(_POD_NEXT_DOOR)
    yield EntryItem("entries", encode_entry_key(tunnel.back, mac), encode_entry(back))


def _received(tunnel: Tunnel, vni: Vni) -> bytes:
    is_geneve = tunnel.encap is Encap.GENEVE
    header = GENEVE(vni=vni) if is_geneve else VXLAN(vni=vni, flags="Instance")
    udp = UDP(sport=40000, dport=_PORTS[tunnel.encap], chksum=0)
    outer = _ip(tunnel.family, _OWN[tunnel.family], _PEER[tunnel.family])
    inner = _inner(tunnel.family, _NOBODY)
    return bytes(Ether(src=_POD, dst=_HOST) / outer / udp / header / inner)


def _inner(family: Family, mac: Mac) -> Packet:
    ip = _ip(family, _POD_IPS[family], _OTHER_IPS[family])
    return Ether(src=_POD, dst=mac) / ip / TCP(sport=40000, dport=80) / _PAYLOAD


def _ip(family: Family, source: str, target: str) -> Packet:
    ip = IP if family is Family.IPV4 else IPv6
    return ip(src=source, dst=target)
