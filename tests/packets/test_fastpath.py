"""What the fast path does with one packet (BPF_PROG_TEST_RUN), and scapy would have done."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from ipaddress import ip_address

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from bpf.bpffs import Pins
from bpf.entries import EntryItem, fast_entries, own_nic, own_sockets
from bpf.layout import (
    MAPS,
    PROGRAMS,
    XDP_PROGRAM,
    decode_count,
    decode_counter_key,
    encode_ifindex,
    traffic_of,
)
from bpf.loader import load
from bpf.syscalls import TestRun, open_map, open_program
from dataplane.core.desired import (
    Bindings,
    Desired,
    LocalNode,
    Port,
    PortState,
    RemoteEndpoint,
    SegmentView,
)
from dataplane.core.events import Link
from dataplane.core.model import (
    Attachment,
    Encap,
    Endpoint,
    Fabric,
    Family,
    Guard,
    Mac,
    Segment,
    Vni,
)
from dataplane.core.reasons import Reason
from tests.functional.bpf_support import mounted_bpffs
from tests.packets.frames import udp_checksum
from tests.packets.paths import SOURCE

LOOPBACK = 1  # where a packet of BPF_PROG_TEST_RUN comes from, as pod and as NIC
NEIGHBOUR_POD = 77  # a netdev that need not exist: nothing is really sent
HOST = "00:00:00:00:00:00"  # the loopback's MAC
NIC = Link("lo", LOOPBACK, HOST, 1500, up=True)
UNSPEC, SHOT, REDIRECT = -1, 2, 7  # linux/pkt_cls.h

POD, LOCAL, REMOTE, NOBODY = (Mac(f"02:00:00:00:00:0{n}") for n in (1, 2, 3, 9))
POD4, LOCAL4, REMOTE4, NOBODY4 = "10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.9"
POD6, LOCAL6, REMOTE6 = "fd00:1::1", "fd00:1::2", "fd00:1::3"
OWN = {Family.IPV4: ip_address("192.0.2.1"), Family.IPV6: ip_address("2001:db8::1")}
PEER = {Family.IPV4: ip_address("192.0.2.2"), Family.IPV6: ip_address("2001:db8::2")}
STRANGER = {Family.IPV4: "192.0.2.66", Family.IPV6: "2001:db8::66"}
MTU = 1400
VNI = 5001


class Kind(IntEnum):
    POD_SENDS = 0
    NIC_RECEIVES = 1


def endpoint(mac: Mac, *ips: str, node: str = "n2") -> Endpoint:
    return Endpoint("blue", node, mac, tuple(map(ip_address, ips)), f"ns/{mac}", 1, str(mac), "e")


@dataclass(frozen=True)
class World:
    """A node with two pods and one behind a VTEP, on one segment."""

    encap: Encap = Encap.GENEVE
    underlay: Family = Family.IPV4
    guard: Guard = Guard.IP
    state: PortState = PortState.ACTIVE
    ips: tuple[str, ...] = (POD4, POD6)
    fastpath: bool = True
    exclusive_ports: bool = False
    remote_ips: tuple[str, ...] = (REMOTE4, REMOTE6)

    @property
    def desired(self) -> Desired:
        segment = Segment(
            "blue", Vni(VNI), encap=self.encap, underlay=self.underlay, guard=self.guard
        )
        ports = (
            replace(self._port(segment, 0, POD, *self.ips), state=self.state),
            self._port(segment, 1, LOCAL, LOCAL4, LOCAL6),
        )
        far = RemoteEndpoint(endpoint(REMOTE, *self.remote_ips), PEER[self.underlay])
        view = SegmentView(
            segment, synced=True, mtu=MTU, ports=ports, remotes=(far,), flood=(far.vtep,)
        )
        return Desired(
            node=LocalNode(
                "n1", "lo", fastpath=self.fastpath, exclusive_ports=self.exclusive_ports
            ),
            fabric=Fabric(),
            vteps=tuple(OWN.values()),
            segments={"blue": view},
            publication=None,
            attachments=tuple(port.attachment for port in ports),
        )

    @staticmethod
    def _port(segment: Segment, slot: int, mac: Mac, *ips: str) -> Port:
        addresses = tuple(map(ip_address, ips))
        name = f"c{slot}"
        return Port(Attachment(name, "e", "/x", "blue", mac, addresses, name, slot), segment, MTU)


class Node:
    """The programs with the maps of a world; every map is emptied before the next one."""

    def __init__(self, pins: Pins) -> None:
        self.pins = pins

    def hold(self, world: World) -> None:
        numbers = Bindings(ifindexes={"lo": LOOPBACK, "vp0": LOOPBACK, "vp1": NEIGHBOUR_POD})
        items = {i.key: i for i in fast_entries(world.desired, numbers)}
        glue = EntryItem("glue", encode_ifindex(LOOPBACK), encode_ifindex(LOOPBACK))
        for spec in MAPS:
            with open_map(self.pins.map(spec.name)) as opened:
                for key in [key for key, _ in opened.items()]:
                    opened.delete(key)
        for item in (*items.values(), *own_sockets(world.desired), own_nic(NIC), glue):
            with open_map(self.pins.map(item.map_name)) as opened:
                opened.update(item.map_key, item.value)

    def run(self, program: str, frame: Packet | bytes) -> TestRun:
        with open_program(self.pins.program(program)) as opened:
            return opened.test_run(bytes(frame))

    def pod_sends(self, frame: Packet | bytes) -> TestRun:
        return self.run("access_port", frame)

    def nic_receives(self, frame: Packet | bytes) -> TestRun:
        return self.run("underlay", frame)

    @property
    def counted(self) -> dict[Reason, int]:
        with open_map(self.pins.map("counters")) as counters:
            return {decode_counter_key(k)[1]: decode_count(v) for k, v in counters.items()}

    @property
    def used(self) -> int:
        with open_map(self.pins.map("entries")) as entries:
            return sum(traffic_of(value).packets for _, value in entries.items())


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pins]:
    with mounted_bpffs(tmp_path_factory.mktemp("fastpath") / "bpf") as bpffs:
        yield load(bpffs, SOURCE)


@pytest.fixture
def node(pins: Pins) -> Node:
    node = Node(pins)
    node.hold(World())
    return node


def test_every_program_is_loaded(node: Node) -> None:
    for name in PROGRAMS:
        with open_program(node.pins.program(name)) as program:
            kind = 6 if name == XDP_PROGRAM else 3  # linux/bpf.h: BPF_PROG_TYPE_XDP, _SCHED_CLS
            assert (program.info.name, program.info.type) == (name, kind)


TUNNELS = [
    pytest.param(encap, family, id=f"{encap}-{family}") for encap in Encap for family in Family
]
INNERS = [
    pytest.param(IP(src=POD4, dst=REMOTE4, tos=2) / TCP(dport=80) / b"hello", id="tcp-ipv4"),
    pytest.param(IP(src=POD4, dst=REMOTE4) / UDP(dport=53) / b"hello", id="udp-ipv4"),
    pytest.param(IP(src=POD4, dst=REMOTE4) / ICMP() / b"hello", id="icmp"),
    pytest.param(IPv6(src=POD6, dst=REMOTE6, tc=1) / TCP(dport=80) / b"hello", id="tcp-ipv6"),
    pytest.param(IPv6(src=POD6, dst=REMOTE6) / ICMPv6EchoRequest() / b"hello", id="icmpv6"),
]


def tunnel_packet(
    encap: Encap, family: Family, inner: Packet, vni: int = VNI, source: str | None = None
) -> Packet:
    """Return what a peer sends us."""
    header = GENEVE(vni=vni) if encap is Encap.GENEVE else VXLAN(vni=vni, flags="Instance")
    udp = UDP(sport=40000, dport=6081 if encap is Encap.GENEVE else 4789, chksum=0)
    source, target = source or str(PEER[family]), str(OWN[family])
    ip = IP(src=source, dst=target) if family is Family.IPV4 else IPv6(src=source, dst=target)
    return Ether(src="02:00:00:00:00:aa", dst=HOST) / ip / udp / header / inner


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize(("encap", "family"), TUNNELS)
def test_a_known_remote_mac_is_encapsulated(
    node: Node, encap: Encap, family: Family, inner: Packet
) -> None:
    node.hold(World(encap, family))
    frame = Ether(src=POD, dst=REMOTE) / inner
    result = node.pod_sends(frame)
    assert result.retval == REDIRECT
    out = Ether(result.data)
    ip = out[IP] if family is Family.IPV4 else out[IPv6]
    assert (ip.src, ip.dst) == (str(OWN[family]), str(PEER[family]))
    ecn = inner.tos & 3 if IP in inner else inner.tc & 3
    if family is Family.IPV4:
        assert (ip.flags, ip.ttl, ip.tos, ip.len) == ("DF", 64, ecn, len(out) - 14)
        whole = IP(bytes(ip))
        del whole.chksum
        assert IP(bytes(whole)).chksum == ip.chksum
    else:
        assert (ip.hlim, ip.tc, ip.plen, ip.fl) == (64, ecn, len(out) - 54, 0)
    udp = out[UDP]
    assert (udp.dport, udp.chksum, udp.len) == (
        6081 if encap is Encap.GENEVE else 4789,
        0,
        len(out) - 14 - (20 if family is Family.IPV4 else 40),
    )
    assert 32768 <= udp.sport < 61000
    tunnel = out[GENEVE] if encap is Encap.GENEVE else out[VXLAN]
    assert tunnel.vni == VNI
    assert bytes(tunnel.payload) == bytes(frame)
    assert bytes(tunnel)[:8] == bytes(
        GENEVE(vni=VNI, proto=0x6558) if encap is Encap.GENEVE else VXLAN(vni=VNI, flags=8)
    )
    assert (node.used, node.counted) == (1, {})


@pytest.mark.parametrize("inner", INNERS)
@pytest.mark.parametrize(("encap", "family"), TUNNELS)
def test_a_tunnel_packet_for_a_pod_is_decapsulated(
    node: Node, encap: Encap, family: Family, inner: Packet
) -> None:
    node.hold(World(encap, family))
    frame = Ether(src=REMOTE, dst=LOCAL) / inner
    result = node.nic_receives(tunnel_packet(encap, family, frame))
    assert result.retval == REDIRECT
    assert result.data == bytes(frame)
    assert (node.used, node.counted) == (1, {})


def test_the_pod_next_door_gets_the_frame_as_it_is(node: Node) -> None:
    frame = bytes(Ether(src=POD, dst=LOCAL) / IP(src=POD4, dst=LOCAL4) / TCP())
    result = node.pod_sends(frame)
    assert (result.retval, result.data) == (REDIRECT, frame)
    assert (node.used, node.counted) == (1, {})


@pytest.mark.parametrize(("inside", "outside"), [(0, 0), (1, 1), (2, 2), (3, 2)])
def test_a_congestion_mark_stays_inside(node: Node, inside: int, outside: int) -> None:
    """As the kernel and OVS do: a mark outside is one that the receiver has to look into."""
    result = node.pod_sends(TO_REMOTE / IP(src=POD4, dst=REMOTE4, tos=inside) / TCP())
    out = Ether(result.data)[IP]
    assert (out.tos, out[UDP][GENEVE][IP].tos) == (outside, inside)
    node.hold(World(Encap.VXLAN, Family.IPV6))
    result = node.pod_sends(TO_REMOTE / IP(src=POD4, dst=REMOTE4, tos=inside) / TCP())
    assert Ether(result.data)[IPv6].tc == outside


ECHO = IP(src=POD4, dst=REMOTE4) / ICMP() / b"hello"
ECHO6 = IPv6(src=POD6, dst=REMOTE6) / ICMPv6EchoRequest()
TO_REMOTE = Ether(src=POD, dst=REMOTE)


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        pytest.param(Ether(src=POD, dst=NOBODY) / ECHO, Reason.NO_ENTRY, id="unknown-mac"),
        pytest.param(Ether(src=POD, dst="ff:ff:ff:ff:ff:ff") / ECHO, Reason.GROUP, id="broadcast"),
        pytest.param(Ether(src=POD, dst="01:00:5e:00:00:01") / ECHO, Reason.GROUP, id="multicast"),
        pytest.param(Ether(src=LOCAL, dst=REMOTE) / ECHO, Reason.GUARD, id="mac-of-another"),
        pytest.param(
            TO_REMOTE / IP(src=LOCAL4, dst=REMOTE4) / ICMP(), Reason.GUARD, id="ipv4-of-another"
        ),
        pytest.param(
            TO_REMOTE / IPv6(src=LOCAL6, dst=REMOTE6) / TCP(), Reason.GUARD, id="ipv6-of-another"
        ),
        pytest.param(
            TO_REMOTE / IP(src=POD4, dst=REMOTE4, flags="MF") / UDP() / (b"x" * 8),
            Reason.FRAGMENT,
            id="first-fragment",
        ),
        pytest.param(
            TO_REMOTE / IP(src=POD4, dst=REMOTE4, frag=3) / (b"x" * 8),
            Reason.FRAGMENT,
            id="last-fragment",
        ),
        pytest.param(
            TO_REMOTE / IPv6(src=POD6, dst=REMOTE6) / IPv6ExtHdrFragment() / UDP(),
            Reason.IP_OPTIONS,
            id="ipv6-fragment",
        ),
        pytest.param(TO_REMOTE / Dot1Q(vlan=5) / ECHO, Reason.NOT_IP, id="vlan"),
        pytest.param(
            Ether(src=POD, dst=REMOTE, type=0x88B5) / (b"x" * 50), Reason.NOT_IP, id="plain-l2"
        ),
        pytest.param(
            TO_REMOTE / IP(src=POD4, dst=REMOTE4, ihl=4) / TCP(), Reason.MALFORMED, id="ihl"
        ),
        pytest.param(
            TO_REMOTE / IP(src=POD4, dst=REMOTE4, len=900) / TCP(), Reason.MALFORMED, id="length"
        ),
        pytest.param(
            TO_REMOTE / IPv6(src=POD6, dst=REMOTE6, plen=900) / TCP(),
            Reason.MALFORMED,
            id="ipv6-length",
        ),
        pytest.param(
            TO_REMOTE / IP(src=POD4, dst=REMOTE4, version=6) / TCP(), Reason.MALFORMED, id="version"
        ),
        pytest.param(Ether(src=POD, dst=POD) / ECHO, Reason.NO_ENTRY, id="to-itself"),
        pytest.param(
            TO_REMOTE / IPv6(src=f"::ffff:{POD4}", dst=REMOTE6) / TCP(),
            Reason.GUARD,
            id="own-ipv4-mapped-into-ipv6",
        ),
        pytest.param(
            TO_REMOTE / IPv6(src=POD6, dst=REMOTE6, hlim=255) / ICMPv6ND_NA(tgt=POD6),
            Reason.ND,
            id="advertisement",
        ),
    ],
)
def test_what_is_not_taken_goes_to_ovs_as_it_came(
    node: Node, frame: Packet, reason: Reason
) -> None:
    result = node.pod_sends(frame)
    assert (result.retval, result.data) == (REDIRECT, bytes(frame))
    assert (node.counted, node.used) == ({reason: 1}, 0)


@pytest.mark.parametrize(
    ("length", "retval"), [(MTU, REDIRECT), (MTU + 1, SHOT)], ids=["fits", "one-byte-too-many"]
)
@pytest.mark.parametrize("header", [IP(src=POD4, dst=REMOTE4), IPv6(src=POD6, dst=REMOTE6)])
def test_too_large_is_dropped_and_counted(
    node: Node, header: Packet, length: int, retval: int
) -> None:
    packet = header / UDP()
    result = node.pod_sends(TO_REMOTE / packet / (b"x" * (length - len(packet))))
    assert result.retval == retval
    assert node.counted == ({} if retval == REDIRECT else {Reason.TOO_LARGE: 1})


@pytest.mark.parametrize(
    ("guard", "source_mac", "source", "taken"),
    [
        pytest.param(Guard.OFF, NOBODY, NOBODY4, True, id="off-anything"),
        pytest.param(Guard.MAC, POD, NOBODY4, True, id="mac-any-address"),
        pytest.param(Guard.MAC, NOBODY, POD4, False, id="mac-other-mac"),
        pytest.param(Guard.IP, POD, POD4, True, id="ip-own"),
        pytest.param(Guard.IP, POD, NOBODY4, False, id="ip-other-address"),
        pytest.param(Guard.IP, NOBODY, POD4, False, id="ip-other-mac"),
    ],
)
def test_guards(node: Node, guard: Guard, source_mac: Mac, source: str, *, taken: bool) -> None:
    node.hold(World(guard=guard))
    frame = Ether(src=source_mac, dst=REMOTE) / IP(src=source, dst=REMOTE4) / TCP()
    node.pod_sends(frame)
    assert node.counted == ({} if taken else {Reason.GUARD: 1})
    assert node.used == taken


def test_without_known_addresses_the_mac_is_checked(node: Node) -> None:
    node.hold(World(ips=()))
    node.pod_sends(TO_REMOTE / IP(src=NOBODY4, dst=REMOTE4) / TCP())
    assert node.used == 1


def test_a_blocked_port_sends_everything_to_ovs(node: Node) -> None:
    node.hold(World(state=PortState.BLOCKED))
    result = node.pod_sends(TO_REMOTE / ECHO)
    assert (result.retval, result.data) == (REDIRECT, bytes(TO_REMOTE / ECHO))
    assert node.used == 0


def arp(target: str, sender: str = POD4, mac: Mac = POD) -> Packet:
    return Ether(src=POD, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac, psrc=sender, pdst=target)


def solicitation(
    target: str, source: str = POD6, mac: Mac | None = POD, hops: int = 255, code: int = 0
) -> Packet:
    packet = (
        Ether(src=POD, dst="33:33:ff:00:00:03")
        / IPv6(src=source, dst="ff02::1:ff00:3", hlim=hops)
        / ICMPv6ND_NS(tgt=target, code=code)
    )
    return packet / ICMPv6NDOptSrcLLAddr(lladdr=mac) if mac else packet


LINK_LOCAL_OF_POD, LINK_LOCAL_OF_REMOTE = "fe80::ff:fe00:1", "fe80::ff:fe00:3"


@pytest.mark.parametrize(
    ("target", "sender", "mac"),
    [
        pytest.param(REMOTE4, POD4, REMOTE, id="remote"),
        pytest.param(LOCAL4, POD4, LOCAL, id="local"),
        pytest.param(REMOTE4, "0.0.0.0", REMOTE, id="probe"),
    ],
)
def test_arp_is_answered(node: Node, target: str, sender: str, mac: Mac) -> None:
    question = arp(target, sender)
    result = node.pod_sends(question)
    assert result.retval == REDIRECT
    assert result.data == bytes(
        Ether(src=mac, dst=POD) / ARP(op=2, hwsrc=mac, psrc=target, hwdst=POD, pdst=sender)
    )
    assert node.counted == {Reason.ANSWERED: 1}


@pytest.mark.parametrize(
    ("target", "source", "mac"),
    [
        pytest.param(REMOTE6, POD6, REMOTE, id="remote"),
        pytest.param(LOCAL6, POD6, LOCAL, id="local"),
        pytest.param(LINK_LOCAL_OF_REMOTE, LINK_LOCAL_OF_POD, REMOTE, id="link-local"),
    ],
)
def test_nd_is_answered(node: Node, target: str, source: str, mac: Mac) -> None:
    result = node.pod_sends(solicitation(target, source))
    assert result.retval == REDIRECT
    expected = (
        Ether(src=mac, dst=POD)
        / IPv6(src=target, dst=source, hlim=255)
        / ICMPv6ND_NA(R=0, S=1, O=1, tgt=target)
        / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )
    assert result.data == bytes(expected)  # scapy makes the checksum
    assert node.counted == {Reason.ANSWERED: 1}


def test_its_own_link_local_address_is_never_given_away(node: Node) -> None:
    node.hold(World(remote_ips=(LINK_LOCAL_OF_POD,)))
    result = node.pod_sends(solicitation(LINK_LOCAL_OF_POD))
    assert (result.retval, node.counted) == (REDIRECT, {Reason.ND: 1})


def with_wrong_checksum(question: Packet) -> bytes:
    data = bytearray(bytes(question))
    data[14 + 40 + 2] ^= 0x5A
    return bytes(data)


def test_a_wrong_checksum_stays_wrong(node: Node) -> None:
    answer = node.pod_sends(with_wrong_checksum(solicitation(REMOTE6))).data
    packet = Ether(answer)[IPv6]
    told = packet[ICMPv6ND_NA].cksum
    del packet[ICMPv6ND_NA].cksum
    assert IPv6(bytes(packet))[ICMPv6ND_NA].cksum != told


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        pytest.param(arp(POD4), Reason.ARP, id="own-address"),
        pytest.param(arp(POD4, "0.0.0.0"), Reason.ARP, id="probe-for-own"),
        pytest.param(arp(POD4, POD4), Reason.ARP, id="gratuitous"),
        pytest.param(arp(NOBODY4), Reason.ARP, id="unknown"),
        pytest.param(arp(REMOTE4, NOBODY4), Reason.GUARD, id="sender-address-forged"),
        pytest.param(arp(REMOTE4, mac=NOBODY), Reason.GUARD, id="sender-mac-forged"),
        pytest.param(
            Ether(src=POD, dst=REMOTE) / ARP(op=2, hwsrc=POD, psrc=POD4), Reason.ARP, id="reply"
        ),
        pytest.param(solicitation(POD6), Reason.ND, id="own-address-6"),
        pytest.param(solicitation(LINK_LOCAL_OF_POD), Reason.ND, id="own-link-local"),
        pytest.param(solicitation("fd00:1::9"), Reason.ND, id="unknown-6"),
        pytest.param(solicitation(f"::ffff:{REMOTE4}"), Reason.ND, id="ipv4-mapped-into-ipv6"),
        pytest.param(solicitation("fe80::ff:fe00:9"), Reason.ND, id="unknown-link-local"),
        pytest.param(solicitation(REMOTE6, "::"), Reason.ND, id="dad-with-option"),
        pytest.param(solicitation(REMOTE6, "::", None), Reason.ND, id="dad"),
        pytest.param(solicitation(REMOTE6, mac=None), Reason.ND, id="no-option"),
        pytest.param(solicitation(REMOTE6, hops=254), Reason.ND, id="from-afar"),
        pytest.param(solicitation(REMOTE6, code=1), Reason.ND, id="with-a-code"),
        pytest.param(solicitation(REMOTE6, LOCAL6), Reason.GUARD, id="source-forged"),
        pytest.param(solicitation(REMOTE6, mac=NOBODY), Reason.GUARD, id="option-forged"),
    ],
)
def test_a_question_that_is_not_answered_goes_on_as_it_came(
    node: Node, question: Packet, reason: Reason
) -> None:
    result = node.pod_sends(question)
    assert (result.retval, result.data) == (REDIRECT, bytes(question))
    assert node.counted == {reason: 1}


INSIDE = Ether(src=REMOTE, dst=LOCAL) / IP(src=REMOTE4, dst=LOCAL4) / TCP()


@pytest.mark.parametrize("family", list(Family))
@pytest.mark.parametrize("encap", list(Encap))
@pytest.mark.parametrize(
    "strange",
    [pytest.param({"vni": VNI + 1}, id="vni"), pytest.param({"source": "stranger"}, id="vtep")],
)
def test_who_is_not_known_is_left_to_the_host(
    node: Node, encap: Encap, family: Family, strange: dict[str, object]
) -> None:
    node.hold(World(encap, family))
    if "source" in strange:
        strange = {"source": STRANGER[family]}
    frame = tunnel_packet(encap, family, INSIDE, **strange)  # type: ignore[arg-type]
    result = node.nic_receives(frame)
    assert (result.retval, result.data) == (UNSPEC, bytes(frame))
    assert node.counted == {Reason.UNKNOWN_VTEP: 1}


def test_with_exclusive_ports_strangers_are_dropped(node: Node) -> None:
    node.hold(World(exclusive_ports=True))
    frame = tunnel_packet(Encap.GENEVE, Family.IPV4, INSIDE, vni=VNI + 1)
    assert node.nic_receives(frame).retval == SHOT
    assert node.counted == {Reason.UNKNOWN_VTEP: 1}
    assert node.nic_receives(tunnel_packet(Encap.GENEVE, Family.IPV4, INSIDE)).retval == REDIRECT


def test_switched_off_everything_goes_to_ovs(node: Node) -> None:
    node.hold(World(fastpath=False))
    for run, frame in (
        (node.pod_sends, TO_REMOTE / ECHO),
        (node.pod_sends, arp(REMOTE4)),
        (node.nic_receives, tunnel_packet(Encap.GENEVE, Family.IPV4, INSIDE)),
        (node.nic_receives, tunnel_packet(Encap.GENEVE, Family.IPV4, INSIDE, vni=VNI + 1)),
    ):
        result = run(frame)
        assert (result.retval, result.data) == (REDIRECT, bytes(frame))
    assert node.used == 0


def test_the_other_encapsulation_of_a_segment_is_not_known(node: Node) -> None:
    assert node.nic_receives(tunnel_packet(Encap.VXLAN, Family.IPV4, INSIDE)).retval == UNSPEC


def marked(frame: Packet) -> Packet:
    frame[IP].tos = 3
    return frame


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        pytest.param(
            tunnel_packet(Encap.GENEVE, Family.IPV4, Ether(src=REMOTE, dst=NOBODY) / IP()),
            Reason.NO_ENTRY,
            id="unknown-mac",
        ),
        pytest.param(
            tunnel_packet(Encap.GENEVE, Family.IPV4, Ether(src=LOCAL, dst=REMOTE) / IP()),
            Reason.NO_ENTRY,
            id="tunnel-to-tunnel",
        ),
        pytest.param(
            tunnel_packet(Encap.GENEVE, Family.IPV4, Ether(dst="ff:ff:ff:ff:ff:ff") / IP()),
            Reason.GROUP,
            id="broadcast",
        ),
        pytest.param(
            tunnel_packet(Encap.GENEVE, Family.IPV4, Ether(src=REMOTE, dst=LOCAL) / ARP()),
            Reason.NOT_IP,
            id="arp",
        ),
        pytest.param(
            tunnel_packet(
                Encap.GENEVE, Family.IPV4, Ether(src=REMOTE, dst=LOCAL) / Dot1Q(vlan=3) / IP()
            ),
            Reason.NOT_IP,
            id="vlan",
        ),
        pytest.param(
            marked(tunnel_packet(Encap.GENEVE, Family.IPV4, INSIDE)), Reason.ECN, id="congestion"
        ),
        pytest.param(
            Ether(src="02:00:00:00:00:aa", dst=HOST)
            / IP(src=str(PEER[Family.IPV4]), dst=str(OWN[Family.IPV4]))
            / UDP(dport=6081)
            / bytes(GENEVE(vni=VNI, critical=1) / INSIDE),
            Reason.MALFORMED,
            id="critical-bit",
        ),
        pytest.param(
            Ether(src="02:00:00:00:00:aa", dst=HOST)
            / IP(src=str(PEER[Family.IPV4]), dst=str(OWN[Family.IPV4]))
            / UDP(dport=6081)
            / b"short",
            Reason.MALFORMED,
            id="too-short",
        ),
        *(
            pytest.param(
                tunnel_packet(
                    Encap.GENEVE,
                    Family.IPV4,
                    Ether(src=REMOTE, dst=LOCAL, type=ethertype) / (b"x" * length),
                ),
                Reason.MALFORMED,
                id=f"less-than-an-{name}-header",
            )
            for name, ethertype, length in (("ipv4", 0x0800, 19), ("ipv6", 0x86DD, 39))
        ),
    ],
)
def test_what_comes_from_a_peer_and_is_not_taken_goes_to_ovs(
    node: Node, frame: Packet, reason: Reason
) -> None:
    result = node.nic_receives(frame)
    assert (result.retval, result.data) == (REDIRECT, bytes(frame))
    assert (node.counted, node.used) == ({reason: 1}, 0)


FROM_PEER = tunnel_packet(Encap.GENEVE, Family.IPV4, INSIDE)
FROM_PEER6 = tunnel_packet(Encap.GENEVE, Family.IPV6, INSIDE)


def outer(frame: Packet, **fields: object) -> bytes:
    """Return ``frame`` with other values in its outer IP header, and a checksum that fits them."""
    changed = frame.copy()
    for name, value in fields.items():
        setattr(changed.payload, name, value)
    return bytes(changed)


def with_udp_sum(frame: Packet, *, l4: int, wrong: int) -> bytes:
    data = bytes(frame)
    low = int.from_bytes(udp_checksum(data, l4), "big") ^ wrong
    return data[: l4 + 6] + low.to_bytes(2, "big") + data[l4 + 8 :]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        pytest.param(outer(FROM_PEER, chksum=0x1234), Reason.MALFORMED, id="header-checksum"),
        pytest.param(
            outer(FROM_PEER, options=[IPOption_Router_Alert()]), Reason.MALFORMED, id="options"
        ),
        pytest.param(outer(FROM_PEER, len=60), Reason.MALFORMED, id="shorter"),
        pytest.param(outer(FROM_PEER, len=900), Reason.MALFORMED, id="longer"),
        pytest.param(outer(FROM_PEER6, plen=40), Reason.MALFORMED, id="shorter-ipv6"),
        pytest.param(outer(FROM_PEER6, plen=900), Reason.MALFORMED, id="longer-ipv6"),
        pytest.param(bytes(FROM_PEER) + b"\0", Reason.MALFORMED, id="bytes-behind-it"),
        pytest.param(bytes(FROM_PEER6) + b"\0", Reason.MALFORMED, id="bytes-behind-it-ipv6"),
        pytest.param(
            with_udp_sum(FROM_PEER, l4=34, wrong=0), Reason.CHECKSUM, id="right-udp-checksum"
        ),
        pytest.param(with_udp_sum(FROM_PEER, l4=34, wrong=64), Reason.CHECKSUM, id="udp-checksum"),
        pytest.param(
            with_udp_sum(FROM_PEER6, l4=54, wrong=64), Reason.CHECKSUM, id="udp-checksum-ipv6"
        ),
    ],
)
def test_a_peers_packet_that_may_be_damaged_is_for_ovs_to_judge(
    node: Node, frame: bytes, reason: Reason
) -> None:
    """RFC 1122 3.2.1.2 and 4.1.3.4: what is wrong is not delivered."""
    node.hold(World(underlay=Family.IPV6 if frame[12] == 0x86 else Family.IPV4))
    result = node.nic_receives(frame)
    assert (result.retval, result.data) == (REDIRECT, frame)
    assert (node.counted, node.used) == ({reason: 1}, 0)


def test_a_vtep_mapped_into_ipv6_is_left_to_the_host(node: Node) -> None:
    """RFC 4291 2.5.5.2: never on the wire, so it is not the VTEP whose IPv4 address it holds."""
    node.hold(World())
    frame = outer(FROM_PEER6, src=f"::ffff:{PEER[Family.IPV4]}")
    assert (node.nic_receives(frame).retval, node.used) == (UNSPEC, 0)


def test_the_reasons_of_the_programs_are_those_of_the_core() -> None:
    from bpf.layout import reasons_header  # noqa: PLC0415

    header = SOURCE / "reasons.h"
    assert header.read_text(encoding="ascii") == reasons_header()
