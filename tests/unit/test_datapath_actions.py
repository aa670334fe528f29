"""What datapath actions do with a frame, as ofproto/trace prints them; strange ones are refused."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP
from scapy.layers.inet import IP as INNER_IP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.inet6 import ICMPv6NDOptSrcLLAddr as SourceOption
from scapy.layers.l2 import ARP, Ether

from dataplane.core.frames import UDP, Ip, TunnelPacket, ip_frame, udp
from dataplane.core.model import Encap, Vni
from dataplane.core.path import Tunnel
from overlay_ovs.datapath_actions import Output, UnknownActionError, performed

ME, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
IP = Ip(ip_address("10.0.0.1"), ip_address("10.0.0.2"), UDP)
IP6 = Ip(ip_address("fd00::1"), ip_address("fd00::2"), UDP)
FRAME = ip_frame(OTHER, ME, IP.packet(udp(7, b"x")))
FRAME6 = ip_frame(OTHER, ME, IP6.packet(udp(7, b"x")))
OUT4 = "ipv4(src=192.0.2.2,dst=192.0.2.3,proto=17,tos=0x2,ttl=64,frag=0x4000)"
OUT6 = "ipv6(src=2001:db8::2,dst=2001:db8::3,label=0,proto=17,tclass=0x1,hlimit=64)"
MACS = "eth(dst=02:00:00:00:77:02,src=72:c4:75:4a:83:5a,dl_type=0x0800)"


def push(ip: str, port: int, tunnel: str) -> str:
    header = f"size=50,type=5,{MACS},{ip},udp(src=0,dst={port},csum=0x0),{tunnel}"
    return f"tnl_push(tnl_port(1),header({header}),out_port(5))"


GENEVE, VXLAN = (
    push(OUT4, 6081, "geneve(vni=0x3e9)"),
    push(OUT6, 4789, "vxlan(flags=0x8000000,vni=0x3ea)"),
)
SENT4 = TunnelPacket(
    Tunnel(Encap.GENEVE, Vni(1001), ip_address("192.0.2.2"), ip_address("192.0.2.3"), 6081),
    FRAME,
    True,
    64,
    2,
)
SENT6 = TunnelPacket(
    Tunnel(Encap.VXLAN, Vni(1002), ip_address("2001:db8::2"), ip_address("2001:db8::3"), 4789),
    FRAME,
    None,
    64,
    1,
)


@pytest.mark.parametrize(
    ("actions", "outputs"),
    [
        pytest.param("drop", (), id="drop"),
        pytest.param("7", (Output("7", FRAME),), id="one port"),
        pytest.param("7,8", (Output("7", FRAME), Output("8", FRAME)), id="two ports"),
        pytest.param(
            "push_vlan(vid=4094,pcp=0),7,pop_vlan,8",
            (Output("7", FRAME[:12] + b"\x81\0\x0f\xfe" + FRAME[12:]), Output("8", FRAME)),
            id="with and without a tag",
        ),
        pytest.param(f"{GENEVE},4", (Output("4", FRAME, SENT4),), id="Geneve over IPv4"),
        pytest.param(f"{VXLAN},4", (Output("4", FRAME, SENT6),), id="VXLAN over IPv6"),
        pytest.param(
            f"clone({GENEVE},4),7", (Output("4", FRAME, SENT4), Output("7", FRAME)), id="a flood"
        ),
        pytest.param(
            "set(ipv4(tos=0x3/0x3)),7",
            (Output("7", ip_frame(OTHER, ME, replace(IP, tos=3).packet(udp(7, b"x")))),),
            id="congestion told",
        ),
        pytest.param(
            f"set(eth(src={OTHER},dst={ME})),7",
            (Output("7", ip_frame(ME, OTHER, IP.packet(udp(7, b"x")))),),
            id="MACs",
        ),
        pytest.param(
            f"set(eth(src={OTHER},dst={ME})),set(ipv4(ttl=9)),7",
            (Output("7", ip_frame(ME, OTHER, replace(IP, hops=9).packet(udp(7, b"x")))),),
            id="routed",
        ),
    ],
)
def test_what_leaves(actions: str, outputs: tuple[Output, ...]) -> None:
    assert performed(actions, FRAME) == outputs


def test_congestion_is_told_over_ipv6() -> None:
    told = ip_frame(OTHER, ME, replace(IP6, tos=3).packet(udp(7, b"x")))
    assert performed("set(ipv6(tclass=0x3/0x3)),7", FRAME6) == (Output("7", told),)


def test_a_hop_less_over_ipv6() -> None:
    told = ip_frame(OTHER, ME, replace(IP6, hops=9).packet(udp(7, b"x")))
    assert performed("set(ipv6(hlimit=9)),7", FRAME6) == (Output("7", told),)


def test_an_echo_reply() -> None:
    asked = (
        Ether(src=ME, dst=OTHER)
        / INNER_IP(src="10.0.0.1", dst="10.0.0.2", ttl=9)
        / ICMP(id=7, seq=1)
        / b"mark"
    )
    actions = (
        f"set(eth(src={OTHER},dst={ME})),set(ipv4(src=10.0.0.2,dst=10.0.0.1,ttl=64)),"
        "set(icmp(type=0,code=0)),6"
    )
    back = Ether(src=OTHER, dst=ME) / INNER_IP(src="10.0.0.2", dst="10.0.0.1", ttl=64)
    answer = back / ICMP(type=0, id=7, seq=1) / b"mark"
    assert performed(actions, bytes(asked)) == (Output("6", bytes(answer)),)


def test_an_arp_answer() -> None:
    asked = Ether(src=ME, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=ME, psrc="10.0.0.1", pdst="10.0.0.2")
    arp = f"op=2,sha={OTHER},tha={ME}"
    actions = f"set(eth(src={OTHER},dst={ME})),set(arp(sip=10.0.0.2,tip=10.0.0.1,{arp})),6"
    answer = Ether(src=OTHER, dst=ME) / ARP(
        op=2, hwsrc=OTHER, psrc="10.0.0.2", hwdst=ME, pdst="10.0.0.1"
    )
    assert performed(actions, bytes(asked) + b"mark") == (Output("6", bytes(answer) + b"mark"),)


def test_an_nd_answer() -> None:
    asked = Ether(src=ME, dst=OTHER) / IPv6(src="fd00::1", dst="fd00::2", hlim=255)
    asked /= ICMPv6ND_NS(tgt="fd00::2") / SourceOption(lladdr=ME)
    actions = (
        f"set(eth(src={OTHER},dst={ME})),set(ipv6(src=fd00::2,dst=fd00::1)),"
        "set(nd_ext(nd_reserved=0x60000000,nd_options_type=2)),"
        f"set(nd(tll={OTHER})),set(icmpv6(type=136,code=0)),6"
    )
    answer = Ether(src=OTHER, dst=ME) / IPv6(src="fd00::2", dst="fd00::1", hlim=255)
    answer /= ICMPv6ND_NA(tgt="fd00::2", R=0, S=1, O=1) / ICMPv6NDOptDstLLAddr(lladdr=OTHER)
    assert performed(actions, bytes(asked) + b"mark") == (Output("6", bytes(answer) + b"mark"),)


KEY4 = "tunnel(tun_id=0x3e9,src=192.0.2.2,dst=192.0.2.3,tos=0x2,ttl=64,tp_dst=6081,flags(df|key))"
KEY6 = (
    "tunnel(tun_id=0x3ea,ipv6_src=2001:db8::2,ipv6_dst=2001:db8::3,tos=0x1,ttl=64,tp_dst=4789,"
    "flags(df|key))"
)
KERNEL = {"2": Encap.GENEVE, "3": Encap.VXLAN}


@pytest.mark.parametrize(
    ("actions", "outputs"),
    [
        pytest.param(f"set({KEY4}),2", (Output("2", FRAME, SENT4),), id="Geneve over IPv4"),
        pytest.param(f"set({KEY6}),3", (Output("3", FRAME, SENT6),), id="VXLAN over IPv6"),
        pytest.param(
            f"set({KEY4}),2,7", (Output("2", FRAME, SENT4), Output("7", FRAME)), id="a flood"
        ),
        pytest.param(
            f"set({KEY4.replace('df|key', 'key').replace('tos=0x2,', '')}),2",
            (Output("2", FRAME, replace(SENT4, df=False, ecn=0)),),
            id="without DF",
        ),
    ],
)
def test_what_the_kernel_encapsulates(actions: str, outputs: tuple[Output, ...]) -> None:
    assert performed(actions, FRAME, KERNEL) == outputs


@pytest.mark.parametrize(
    "actions",
    [
        pytest.param("2", id="no key"),
        pytest.param(f"set({KEY4.replace('src=192.0.2.2,', '')}),2", id="no source"),
        pytest.param(f"set({KEY4.replace('flags', 'geneve(),flags')}),2", id="options"),
    ],
)
def test_a_tunnel_key_that_is_not_whole_is_refused(actions: str) -> None:
    with pytest.raises(UnknownActionError, match="not understood"):
        performed(actions, FRAME, KERNEL)


@pytest.mark.parametrize(
    "actions",
    [
        "userspace(pid=0,slow_path(action)),7",
        "push_vlan(vid=5,pcp=3),7",
        "push_vlan(tpid=0x88a8,vid=5,pcp=0),7",
        "trunc(64),7",
        "recirc(0x1)",
        "set(tunnel(tun_id=0x1)),7",
        "set(eth(src=02:00:00:00:00:01/ff:00:00:00:00:00)),7",
        "set(ipv4(src=10.0.0.9)),7",
        "set(ipv4(frag=1)),7",
        "set(ipv6(label=1)),7",
        "set(arp(op)),7",
        "set(nd_ext(strange=1)),7",
        push(OUT4, 6081, "geneve(crit,vni=0x3e9,options({class=0xffff,type=0x80,len=4,0xa}))")
        + ",4",
        push(OUT4, 4789, "vxlan(flags=0x8000100,vni=0x3ea)") + ",4",
        push(OUT4.replace("proto=17", "proto=47"), 6081, "geneve(vni=0x3e9)") + ",4",
        "7x",
        "",
    ],
)
def test_what_is_not_understood_is_refused(actions: str) -> None:
    with pytest.raises(UnknownActionError, match=r"not understood|set"):
        performed(actions, FRAME)


@given(st.text(alphabet="stel(),=0123456789abx:/_ ", max_size=60))
def test_nonsense_is_refused_or_names_ports(text: str) -> None:
    try:
        found = performed(text, FRAME)
    except UnknownActionError:
        return
    assert text == "drop" or all(output.port.isdecimal() for output in found)
