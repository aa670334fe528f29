"""What every vendor's switch does with real frames: hits by itself, all else is the CPU's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from dataplane.core.agreement import Field
from dataplane.core.desired import Port
from dataplane.core.model import Encap, Guard, IpAddress, Segment
from tests.functional.overlay_switch import decapsulate, encapsulate
from tests.functional.switch_world import (
    CPU,
    FORWARDING,
    NEXT_HOPS,
    UP,
    Answer,
    ForwardingWorld,
    Stage,
    unmasked,
)
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MAC_ONLY,
    NIC,
    OWN4,
    OWN6,
    UNGUARDED,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    desired,
    ips_of,
    link_local_of,
    mac_of,
    port,
    remote,
    view,
)

BROADCAST = "ff:ff:ff:ff:ff:ff"
KINDS = {
    each.name: (each, vteps)
    for each, vteps in ((GENEVE4, VTEP4), (GENEVE6, VTEP6), (VXLAN4, VTEP4), (VXLAN6, VTEP6))
}
GUARDS = {
    guard: replace(UNGUARDED, name=f"guard{guard}", guard=guard, encap=Encap.GENEVE)
    for guard in Guard
}


class Scene:
    """Workloads 1 and 2 on vf0 and vf1, 10 behind the first VTEP, 11 behind the second."""

    def __init__(
        self,
        device: ForwardingWorld,
        segment: Segment,
        vteps: tuple[IpAddress, ...],
        *,
        eased: bool = True,
    ) -> None:
        self.device, self.segment, self.vteps = device, segment, vteps
        self.own = OWN4 if vteps[0].version == 4 else OWN6
        self.stage = Stage(device, eased=eased)
        self.cannot_set = self.stage.switch.describe().cannot_set
        ports = [vf(1, segment), vf(2, segment)]
        far = [remote(10, segment, vteps[0]), remote(11, segment, vteps[1])]
        self.stage.place(desired(view(segment, ports, far)))

    def close(self) -> None:
        self.stage.strike()
        self.stage.switch.close()

    def ask(self, at: str, frame: bytes) -> Answer:
        return self.device.ask(at, frame)

    def tunnelled(self, inner: Packet | bytes, source: IpAddress | None = None) -> bytes:
        vtep = source or self.vteps[0]
        return encapsulate(self.segment.encap, self.segment.vni, vtep, bytes(inner))

    def sent(self, frame: bytes) -> Packet:
        """Return the tunnel packet that a frame of vf0 leaves in."""
        ((place, (found,)),) = self.ask("vf0", frame).items()
        assert place == UP
        assert decapsulate(found)[1] == frame
        return Ether(found)


def vf(slot: int, segment: Segment) -> Port:
    plain = port(slot, segment)
    return replace(plain, attachment=replace(plain.attachment, netdev=f"rep{slot - 1}"))


@pytest.fixture(scope="module", params=FORWARDING)
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ForwardingWorld]:
    with FORWARDING[request.param](tmp_path_factory.mktemp("frames")) as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def scene(request: pytest.FixtureRequest, device: ForwardingWorld) -> Iterator[Scene]:
    made = Scene(device, *KINDS[request.param])
    yield made
    made.close()


@pytest.fixture(scope="module", params=GUARDS)
def guarded(request: pytest.FixtureRequest, device: ForwardingWorld) -> Iterator[Scene]:
    made = Scene(device, GUARDS[request.param], VTEP4, eased=False)
    yield made
    made.close()


def eth(source: int, target: int) -> Packet:
    return Ether(src=mac_of(source), dst=mac_of(target))


def v4(source: int, target: int, **fields: Any) -> Packet:
    return IP(src=str(ips_of(source)[0]), dst=str(ips_of(target)[0]), **fields)


def v6(source: int, target: int, **fields: Any) -> Packet:
    return IPv6(src=str(ips_of(source)[1]), dst=str(ips_of(target)[1]), **fields)


def talk(source: int, target: int) -> dict[str, bytes]:
    """Return what ``source`` may say to ``target``, by name."""
    own = (source, target)
    packets = {
        "UDP over IPv4": v4(*own) / UDP(sport=1, dport=2) / b"hello",
        "TCP over IPv4": v4(*own) / TCP(sport=1, dport=2, flags="S"),
        "IPv4 with DF": v4(*own, flags="DF") / UDP(sport=1, dport=2) / b"x",
        "the largest": v4(*own) / UDP(sport=1, dport=2) / Raw(bytes(1372)),
        "IPv4 to elsewhere": v4(source, 99) / UDP() / b"by way of a router",
        "UDP over IPv6": v6(*own) / UDP(sport=1, dport=2) / b"hello",
        "TCP over IPv6": v6(*own) / TCP(sport=1, dport=2, flags="SA"),
        "TTL of 1": v4(*own, ttl=1) / UDP() / b"x",
    }
    return {name: bytes(eth(*own) / packet) for name, packet in packets.items()}


# --- out -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", talk(1, 10))
def test_a_hit_leaves_in_a_tunnel_byte_for_byte(scene: Scene, name: str) -> None:
    for number, vtep in ((10, scene.vteps[0]), (11, scene.vteps[1])):
        packet = scene.sent(talk(1, number)[name])
        found, _ = decapsulate(bytes(packet))
        assert (found.encap, found.vni) == (scene.segment.encap, scene.segment.vni)
        assert (found.source, found.target) == (str(scene.own), str(vtep))
        assert (packet.src, packet.dst) == (NIC.mac, NEXT_HOPS[vtep])


def test_the_outer_header_is_as_every_path_writes_it(scene: Scene) -> None:
    outer = scene.sent(talk(1, 10)["UDP over IPv4"]).payload
    udp = outer[UDP]
    assert udp.len == len(udp)
    assert udp.dport == {Encap.GENEVE: 6081, Encap.VXLAN: 4789}[scene.segment.encap]
    assert udp.sport >= 32768
    if isinstance(outer, IP):
        assert (outer.ttl, outer.flags, outer.frag, outer.ihl, outer.tos) == (64, "DF", 0, 5, 0)
        assert outer.len == len(outer)
        assert _has_right_sums(bytes(outer))
    else:
        assert (outer.hlim, outer.nh, outer.tc, outer.plen) == (64, 17, 0, len(udp))
    header = bytes(udp.payload)
    vni = scene.segment.vni.to_bytes(3, "big")
    if scene.segment.encap is Encap.GENEVE:
        assert header[:8] == b"\x00\x00\x65\x58" + vni + b"\x00"
    else:
        assert header[:8] == b"\x08\x00\x00\x00" + vni + b"\x00"


def _has_right_sums(packet: bytes) -> bool:
    found, again = IP(packet), IP(packet)
    del again.chksum
    return bool(found.chksum == IP(bytes(again)).chksum)


@pytest.mark.parametrize("ecn", range(4))
@pytest.mark.parametrize("dscp", [0, 46])
@pytest.mark.parametrize("inner", [4, 6])
def test_ecn_is_told_outside_and_dscp_is_not(scene: Scene, inner: int, dscp: int, ecn: int) -> None:
    """As Open vSwitch does: RFC 3168 section 9.1.1, which says ECT(0) outside of CE.

    A device that cannot tell it says Not-ECT, and no router marks what it forwards.
    """
    tos = dscp << 2 | ecn
    ip = v4(1, 10, tos=tos) if inner == 4 else v6(1, 10, tc=tos)
    outer = scene.sent(bytes(eth(1, 10) / ip / UDP() / b"x")).payload
    told = 0 if Field.ECN in scene.cannot_set else 2 if ecn == 3 else ecn
    assert (outer.tos if isinstance(outer, IP) else outer.tc) == told


# --- in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", talk(10, 1))
def test_a_tunnel_packet_comes_in_byte_for_byte(scene: Scene, name: str) -> None:
    for number, vtep in ((10, scene.vteps[0]), (11, scene.vteps[1])):
        inner = talk(number, 1)[name]
        assert scene.ask(UP, scene.tunnelled(inner, vtep)) == {"vf0": [inner]}


@pytest.mark.parametrize(
    ("outer", "inner", "told"),
    [
        pytest.param(3, 2, 3, id="congestion on ECT(0)"),
        pytest.param(3, 1, 3, id="congestion on ECT(1)"),
        pytest.param(3, 3, 3, id="congestion twice"),
        pytest.param(0, 2, 2, id="nothing outside"),
        pytest.param(2, 0, 0, id="ECT outside alone"),
    ],
)
def test_congestion_outside_is_told_inside(scene: Scene, outer: int, inner: int, told: int) -> None:
    """RFC 6040 section 4.2; a device that cannot leaves the frame as it is."""
    packet = Ether(scene.tunnelled(eth(10, 1) / v4(10, 1, tos=inner) / UDP() / b"x"))
    _set_tos(packet, outer)
    answer = scene.ask(UP, bytes(packet))
    assert list(answer) == ["vf0"]
    found = Ether(answer["vf0"][0])
    assert found[IP].tos == (inner if Field.ECN in scene.cannot_set else told)
    assert _has_right_sums(bytes(found[IP]))


def test_congestion_that_cannot_be_told_is_not_delivered(scene: Scene) -> None:
    """RFC 6040 section 4.2: CE outside, Not-ECT inside is dropped."""
    packet = Ether(scene.tunnelled(talk(10, 1)["UDP over IPv4"]))
    _set_tos(packet, 3)
    assert ("vf0" in scene.ask(UP, bytes(packet))) == (Field.ECN in scene.cannot_set)


def _set_tos(packet: Packet, tos: int) -> None:
    outer = packet.payload
    if isinstance(outer, IP):
        outer.tos = tos
        del outer.chksum
    else:
        outer.tc = tos


# --- what is no hit ------------------------------------------------------------------------------


def misses() -> dict[str, bytes]:
    """Return what workload 1 may say that no entry is for."""
    to_all, to_group = (Ether(src=mac_of(1), dst=d) for d in (BROADCAST, "33:33:00:00:00:01"))
    packets = {
        "an unknown MAC": eth(1, 55) / v4(1, 55) / UDP() / b"x",
        "its own MAC's neighbour": eth(1, 3) / v4(1, 3) / UDP() / b"x",
        "broadcast": to_all / v4(1, 10) / UDP() / b"x",
        "multicast": to_group / v6(1, 10) / UDP() / b"x",
        "IPv4 multicast": Ether(src=mac_of(1), dst="01:00:5e:00:00:01") / v4(1, 10) / UDP(),
        "ARP request": to_all / ARP(psrc=str(ips_of(1)[0]), pdst=str(ips_of(10)[0])),
        "ARP to one": eth(1, 10) / ARP(psrc=str(ips_of(1)[0]), pdst=str(ips_of(10)[0])),
        "ND to one": eth(1, 10) / v6(1, 10, hlim=255) / ICMPv6ND_NS(tgt=str(ips_of(10)[1])),
        "too large": eth(1, 10) / v4(1, 10) / UDP() / Raw(bytes(1460)),
        "no IP": Ether(src=mac_of(1), dst=mac_of(55), type=0x88B5) / Raw(bytes(50)),
        "the NIC's MAC": Ether(src=mac_of(1), dst=NIC.mac) / v4(1, 10) / UDP() / b"x",
    }
    return {name: bytes(packet) for name, packet in packets.items()}


@pytest.mark.parametrize("name", misses())
def test_what_no_entry_is_for_goes_to_the_representor_as_it_came(scene: Scene, name: str) -> None:
    frame = misses()[name]
    if name in scene.device.unseen:
        scene.sent(frame)
    else:
        assert scene.ask("vf0", frame) == {"rep0": [frame]}


@pytest.mark.parametrize("at", ["rep0", "rep1", CPU])
def test_what_software_sends_goes_to_its_other_end(scene: Scene, at: str) -> None:
    other = {"rep0": "vf0", "rep1": "vf1", CPU: UP}[at]
    for frame in (talk(10, 1)["UDP over IPv4"], misses()["broadcast"]):
        assert scene.ask(at, frame) == {other: [frame]}
    packet = scene.tunnelled(talk(10, 1)["UDP over IPv4"])
    assert scene.ask(at, packet) == {other: [packet]}


@pytest.mark.parametrize(
    "target",
    [
        pytest.param(mac_of(55), id="unknown"),
        pytest.param(mac_of(11), id="behind another VTEP"),
        pytest.param(mac_of(10), id="behind the VTEP it came from"),
        pytest.param(BROADCAST, id="broadcast"),
        pytest.param("33:33:ff:00:00:01", id="multicast"),
    ],
)
def test_a_tunnel_packet_for_no_vf_goes_to_the_cpu(scene: Scene, target: str) -> None:
    inner = Ether(src=mac_of(10), dst=target) / v4(10, 1) / UDP() / b"hello"
    came = scene.tunnelled(inner)
    answer = scene.ask(UP, came)
    assert list(answer) == [CPU]
    (went,) = answer[CPU]
    assert unmasked(went) == unmasked(came)
    assert Ether(went).dst == NIC.mac
    _check_udp(went)


def _check_udp(packet: bytes) -> None:
    """The checksum that the CPU's kernel will look at is right, or there is none."""
    found, again = Ether(packet), Ether(packet)
    del again[UDP].chksum
    assert found[UDP].chksum in (0, Ether(bytes(again))[UDP].chksum)
    assert found[UDP].len == len(found[UDP])


STRANGERS: dict[int, IpAddress] = {4: VTEP4[0] + 100, 6: VTEP6[0] + 100}


def test_a_stranger_s_tunnel_packet_goes_to_the_cpu_as_it_came(scene: Scene) -> None:
    stranger = STRANGERS[scene.own.version]
    came = scene.tunnelled(talk(10, 1)["UDP over IPv4"], stranger)
    assert scene.ask(UP, came) == {CPU: [came]}


def test_an_unknown_vni_goes_to_the_cpu(scene: Scene) -> None:
    inner = talk(10, 1)["UDP over IPv4"]
    for vni in (0, 1, scene.segment.vni + 1, 0xFFFFFF):
        came = encapsulate(scene.segment.encap, vni, scene.vteps[0], inner)
        answer = scene.ask(UP, came)
        assert list(answer) == [CPU]
        assert unmasked(answer[CPU][0]) == unmasked(came)


def test_another_encapsulation_s_packet_goes_to_the_cpu(scene: Scene) -> None:
    other = Encap.VXLAN if scene.segment.encap is Encap.GENEVE else Encap.GENEVE
    inner = talk(10, 1)["UDP over IPv4"]
    came = encapsulate(other, scene.segment.vni, scene.vteps[0], inner)
    assert scene.ask(UP, came) == {CPU: [came]}


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(IP(src=str(VTEP4[0]), dst=str(OWN4)) / TCP(dport=22), id="TCP"),
        pytest.param(IP(src=str(VTEP4[0]), dst=str(OWN4)) / UDP(dport=53), id="another UDP port"),
        pytest.param(
            IP(src=str(VTEP4[0]), dst="192.0.2.77") / UDP(dport=6081) / GENEVE(vni=100) / b"x",
            id="a tunnel that is not for us",
        ),
        pytest.param(
            IPv6(src=str(VTEP6[0]), dst="2001:db8::77") / UDP(dport=4789) / VXLAN(vni=103) / b"x",
            id="an IPv6 tunnel that is not for us",
        ),
        pytest.param(ARP(psrc=str(VTEP4[0]), pdst=str(OWN4)), id="ARP"),
        pytest.param(
            IPv6(src=str(VTEP6[0]), dst=str(OWN6), hlim=255) / ICMPv6ND_NS(tgt=str(OWN6)), id="ND"
        ),
    ],
)
def test_the_node_s_own_traffic_goes_to_the_cpu_as_it_came(scene: Scene, packet: Packet) -> None:
    came = bytes(Ether(src=NEXT_HOPS[VTEP4[0]], dst=NIC.mac) / packet)
    assert scene.ask(UP, came) == {CPU: [came]}


# --- damage --------------------------------------------------------------------------------------


def damaged(scene: Scene) -> dict[str, bytes]:
    """Return tunnel packets that nobody may deliver."""
    came = scene.tunnelled(talk(10, 1)["UDP over IPv4"])
    l4 = 34 if scene.own.version == 4 else 54
    found = {
        "cut in the outer header": came[:30],
        "cut in the UDP header": came[: l4 + 4],
        "cut in the tunnel header": came[: l4 + 12],
        "cut in the inner Ethernet header": came[: l4 + 16 + 9],
        "UDP length beyond the end": _put(came, l4 + 4, b"\xff\xff"),
        "UDP length of nothing": _put(came, l4 + 4, b"\x00\x00"),
        "UDP checksum": _put(came, l4 + 6, b"\x12\x34"),
    }
    if scene.own.version == 4:
        found["IPv4 checksum"] = _put(came, 24, b"\x12\x34")
        found["IPv4 version"] = _put(came, 14, b"\x65")
    else:
        found["IPv6 version"] = _put(came, 14, b"\x45")
    if scene.segment.encap is Encap.GENEVE:
        found["Geneve version"] = _put(came, l4 + 8, b"\x40")
        found["Geneve options beyond the end"] = _put(came, l4 + 8, b"\x3f")
        found["no Ethernet inside"] = _put(came, l4 + 10, b"\x08\x00")
    else:
        found["VXLAN without VNI"] = _put(came, l4 + 8, b"\x00")
    return found


def _put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def fragments(scene: Scene) -> dict[str, bytes]:
    """Return pieces of tunnel packets, which the CPU puts together."""
    packet = Ether(scene.tunnelled(talk(10, 1)["UDP over IPv4"]))
    outer, udp = packet.payload, bytes(packet[UDP])
    ends = {"src": outer.src, "dst": outer.dst}
    eth = Ether(src=packet.src, dst=packet.dst)
    found = {}
    for name, offset, more in (("first", 0, 1), ("later", 5, 1), ("last", 5, 0)):
        piece: Packet = IPv6ExtHdrFragment(nh=17, offset=offset, m=more) / Raw(udp)
        if scene.own.version == 4:
            fields: dict[str, Any] = {"proto": 17, "frag": offset, "flags": "MF" if more else 0}
            found[name] = bytes(eth / IP(**ends, **fields) / Raw(udp))
        else:
            found[name] = bytes(eth / IPv6(**ends) / piece)
    return found


def test_fragments_of_tunnel_packets_go_to_the_cpu_as_they_came(scene: Scene) -> None:
    for name, came in fragments(scene).items():
        assert scene.ask(UP, came) == {CPU: [came]}, name


def test_damaged_tunnel_packets_are_delivered_to_nobody(scene: Scene) -> None:
    delivered = {}
    for name, packet in damaged(scene).items():
        answer = scene.ask(UP, packet)
        if answer not in ({}, {CPU: [packet]}):
            delivered[name] = answer
    assert not delivered


# --- between VFs ---------------------------------------------------------------------------------


def test_vf_to_vf_inside_a_segment(scene: Scene) -> None:
    for name, frame in talk(1, 2).items():
        assert scene.ask("vf0", frame) == {"vf1": [frame]}, name


def test_a_frame_to_the_sender_s_own_mac_does_not_come_back(scene: Scene) -> None:
    frame = talk(1, 1)["UDP over IPv4"]
    assert scene.ask("vf0", frame) in ({}, {"rep0": [frame]})


def test_vfs_of_two_segments_do_not_meet(device: ForwardingWorld) -> None:
    stage = Stage(device)
    one = view(GENEVE4, [vf(1, GENEVE4)], [remote(10, GENEVE4, VTEP4[0])])
    other = view(VXLAN4, [vf(2, VXLAN4)], [remote(20, VXLAN4, VTEP4[1])])
    stage.place(desired(one, other))
    frame = talk(1, 2)["UDP over IPv4"]
    assert device.ask("vf0", frame) == {"rep0": [frame]}
    for place, number, far, segment, vtep in (
        ("vf0", 1, 10, GENEVE4, VTEP4[0]),
        ("vf1", 2, 20, VXLAN4, VTEP4[1]),
    ):
        ((sent,),) = device.ask(place, talk(number, far)["UDP over IPv4"]).values()
        assert decapsulate(sent)[0].vni == segment.vni
        assert decapsulate(sent)[0].target == str(vtep)
        inner = talk(far, number)["UDP over IPv4"]
        came = encapsulate(segment.encap, segment.vni, vtep, inner)
        assert device.ask(UP, came) == {place: [inner]}
    inner = talk(10, 2)["UDP over IPv4"]  # on the segment of workload 1
    answer = device.ask(UP, encapsulate(GENEVE4.encap, GENEVE4.vni, VTEP4[0], inner))
    assert list(answer) == [CPU]
    stage.strike()
    stage.switch.close()


def test_a_vtep_may_send_on_its_own_segments_alone(device: ForwardingWorld) -> None:
    """A VTEP of one segment is a stranger on another of the same encapsulation."""
    stage = Stage(device)
    one = view(GENEVE4, [vf(1, GENEVE4)], [remote(10, GENEVE4, VTEP4[0])])
    other = view(MAC_ONLY, [vf(2, MAC_ONLY)], [remote(20, MAC_ONLY, VTEP4[1])])
    stage.place(desired(one, other))
    inner = talk(20, 2)["UDP over IPv4"]
    assert device.ask(UP, encapsulate(Encap.GENEVE, MAC_ONLY.vni, VTEP4[1], inner)) == {
        "vf1": [inner]
    }
    came = encapsulate(Encap.GENEVE, MAC_ONLY.vni, VTEP4[0], inner)
    answer = device.ask(UP, came)
    assert list(answer) == [CPU]
    assert unmasked(answer[CPU][0]) == unmasked(came)
    stage.strike()
    stage.switch.close()


def test_the_same_mac_on_two_segments_is_two_endpoints(device: ForwardingWorld) -> None:
    stage = Stage(device)
    twin = vf(2, VXLAN4)
    twin = replace(twin, attachment=replace(twin.attachment, mac=mac_of(1), ips=ips_of(1)))
    one = view(GENEVE4, [vf(1, GENEVE4)], [remote(10, GENEVE4, VTEP4[0])])
    stage.place(desired(one, view(VXLAN4, [twin], [remote(10, VXLAN4, VTEP4[0])])))
    inner = talk(10, 1)["UDP over IPv4"]
    for place, segment in (("vf0", GENEVE4), ("vf1", VXLAN4)):
        came = encapsulate(segment.encap, segment.vni, VTEP4[0], inner)
        assert device.ask(UP, came) == {place: [inner]}
    stage.strike()
    stage.switch.close()


# --- guards --------------------------------------------------------------------------------------

MAPPED = "::ffff:10.1.0.2"
_TO = "fd00::a"
IP_SPOOFS = {
    "IPv4": eth(1, 10) / v4(2, 10) / UDP() / b"x",
    "IPv4 from elsewhere": eth(1, 10) / IP(src="198.51.100.1", dst="10.1.0.10") / UDP() / b"x",
    "IPv4 from nowhere": eth(1, 10) / IP(src="0.0.0.0", dst="10.1.0.10") / UDP() / b"x",
    "IPv4 broadcast": eth(1, 10) / IP(src="255.255.255.255", dst="10.1.0.10") / UDP() / b"x",
    "IPv4 first fragment": eth(1, 10) / v4(2, 10, flags="MF") / UDP() / b"x",
    "IPv4 later fragment": eth(1, 10) / v4(2, 10, frag=5) / Raw(b"x"),
    "IPv6": eth(1, 10) / v6(2, 10) / UDP() / b"x",
    "IPv6 fragment": eth(1, 10) / v6(2, 10) / IPv6ExtHdrFragment(offset=5) / Raw(b"x"),
    "IPv6 behind an option": eth(1, 10) / v6(2, 10) / IPv6ExtHdrDestOpt() / UDP() / b"x",
    "IPv6 hop by hop": eth(1, 10) / v6(2, 10) / IPv6ExtHdrHopByHop() / UDP() / b"x",
    "IPv6 mapped": eth(1, 10) / IPv6(src=MAPPED, dst=_TO) / UDP() / b"x",
    "IPv6 mapped, its own": eth(1, 10) / IPv6(src="::ffff:10.1.0.1", dst=_TO) / UDP() / b"x",
    "IPv6 multicast source": eth(1, 10) / IPv6(src="ff02::1", dst=_TO) / UDP() / b"x",
    "IPv6 from nowhere": eth(1, 10) / IPv6(src="::", dst=_TO) / UDP() / b"x",
    "link-local": eth(1, 10) / IPv6(src=str(link_local_of(2)), dst=_TO) / UDP() / b"x",
    "no IP": Ether(src=mac_of(1), dst=mac_of(10), type=0x88B5) / Raw(bytes(50)),
}
MAC_SPOOFS = {
    "MAC": eth(2, 10) / v4(1, 10) / UDP() / b"x",
    "MAC of nobody": Ether(src="02:99:99:99:99:99", dst=mac_of(10)) / v4(1, 10) / UDP() / b"x",
    "MAC of a group": Ether(src="03:00:00:00:00:01", dst=mac_of(10)) / v4(1, 10) / UDP() / b"x",
    "MAC of all": Ether(src=BROADCAST, dst=mac_of(10)) / v4(1, 10) / UDP() / b"x",
    "MAC and IPv4": eth(2, 10) / v4(2, 10) / UDP() / b"x",
    "MAC and IPv6": eth(2, 10) / v6(2, 10) / UDP() / b"x",
}
NA = ICMPv6ND_NA(tgt=str(ips_of(2)[1]), R=0)
NEVER = {
    "ARP reply": eth(1, 10) / ARP(op=2, hwsrc=mac_of(2), psrc=str(ips_of(2)[0])),
    "ARP reply, its own": eth(1, 10) / ARP(op=2, hwsrc=mac_of(1), psrc=str(ips_of(1)[0])),
    "NA": eth(1, 10) / v6(1, 10, hlim=255) / NA,
    "NA behind a header": eth(1, 10) / v6(1, 10, hlim=255) / IPv6ExtHdrDestOpt() / NA,
    "NA in a fragment": eth(1, 10) / v6(1, 10, hlim=255) / IPv6ExtHdrFragment(m=1) / NA,
    "a fragment of its own": eth(1, 10) / v6(1, 10) / IPv6ExtHdrFragment(offset=5) / Raw(b"x"),
    "IPv4 behind a tag": eth(1, 10) / Dot1Q(vlan=0) / v4(2, 10) / UDP() / b"x",
    "its own behind a tag": eth(1, 10) / Dot1Q(vlan=5) / v4(1, 10) / UDP() / b"x",
    "behind a service tag": eth(1, 10) / Dot1AD(vlan=5) / v4(2, 10) / UDP() / b"x",
    "behind two tags": eth(1, 10) / Dot1Q() / Dot1Q() / v4(2, 10) / UDP() / b"x",
    "a tunnel of its own": Ether(src=mac_of(1), dst=NIC.mac)
    / IP(src=str(VTEP4[0]), dst=str(OWN4))
    / UDP(sport=50000, dport=6081)
    / GENEVE(vni=105, proto=0x6558)
    / eth(10, 2)
    / v4(10, 2)
    / UDP(),
}


def spoofs(scene: Scene) -> dict[str, bytes]:
    """Return what a VF under the scene's guard may not send by way of the switch alone."""
    wrong, guard = dict(NEVER), scene.segment.guard
    if guard is not Guard.OFF:
        wrong |= MAC_SPOOFS
    if guard is Guard.IP:
        wrong |= IP_SPOOFS
    unseen = scene.device.unseen if is_enforced(scene) else ()
    return {name: bytes(packet) for name, packet in wrong.items() if name not in unseen}


def is_enforced(scene: Scene) -> bool:
    """Say whether the switch makes the checks of the scene's guard; else it forwards nothing."""
    return scene.segment.guard in scene.stage.switch.describe().guards["rep0"]


def test_what_the_guard_forbids_is_left_to_the_software(guarded: Scene) -> None:
    passed = {}
    for name, frame in spoofs(guarded).items():
        answer = guarded.ask("vf0", frame)
        if answer != {"rep0": [frame]}:
            passed[name] = answer
    assert not passed


def test_what_the_guard_allows_goes_by_the_switch(guarded: Scene) -> None:
    allowed = talk(1, 10)
    if guarded.segment.guard is not Guard.IP:
        allowed |= {n: bytes(IP_SPOOFS[n]) for n in ("IPv4", "IPv6", "no IP", "link-local")}
        allowed |= {n: bytes(NEVER[n]) for n in NEVER.keys() & guarded.device.unseen}
    if guarded.segment.guard is Guard.OFF and guarded.device.takes_any_source:
        allowed |= {n: bytes(MAC_SPOOFS[n]) for n in ("MAC", "MAC of nobody", "MAC and IPv6")}
    taken = {name: list(guarded.ask("vf0", frame)) for name, frame in allowed.items()}
    way = UP if is_enforced(guarded) else "rep0"
    left = guarded.device.left
    assert taken == {name: ["rep0" if name in left else way] for name in allowed}


def test_the_guard_holds_between_vfs_too(guarded: Scene) -> None:
    passed = {}
    for name, frame in spoofs(guarded).items():
        inner = Ether(frame)
        if inner.dst == mac_of(10):
            inner.dst = mac_of(2)
            answer = guarded.ask("vf0", bytes(inner))
            if answer != {"rep0": [bytes(inner)]}:
                passed[name] = answer
    assert not passed


@pytest.mark.parametrize("guarded", [Guard.IP, Guard.MAC], indirect=True)
def test_what_one_vf_may_send_another_may_not(guarded: Scene) -> None:
    frame = talk(1, 10)["UDP over IPv4"]
    assert guarded.ask("vf1", frame) == {"rep1": [frame]}
