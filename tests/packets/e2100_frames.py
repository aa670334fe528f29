"""Entries by hand that join a VF of an emulated E2100 and a far pod, and their golden frames."""

from __future__ import annotations

from ipaddress import ip_address

from finsy.proto import p4r
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from tests.unit.p4_entries import Entries, Key, e2100_info
from vendors.emulator.packets import Encap

INFO = e2100_info()
MAKE = Entries(INFO)
MISSES = {"vf0": "rep0", "rep0": "vf0", "vf1": "rep1", "rep1": "vf1", "up": "cpu0", "cpu0": "up"}
POD, NEAR, FAR = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
OWN_MAC, HOP = "02:aa:bb:cc:dd:ee", "06:11:22:33:44:55"
OWN = {4: "192.0.2.1", 6: "2001:db8::1"}
REMOTE = {4: "192.0.2.77", 6: "2001:db8::77"}
VNI, TUNNEL, BRIDGE = 0xABCDEF, 0x12345, 7
ANOTHER_PORT = 12162
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


def packet(encap: Encap, version: int, source: str, destination: str, what: bytes) -> Packet:
    """Return ``what`` in a tunnel as the device writes it."""
    network: Packet
    if version == 4:
        network = IP(src=source, dst=destination, id=0, flags="DF", ttl=64)
    else:
        network = IPv6(src=source, dst=destination, tc=0xB9, fl=0x54321, hlim=33)
    udp = UDP(sport=ANOTHER_PORT, dport=encap.value, chksum=0)
    return Ether(src=OWN_MAC, dst=HOP) / network / udp / shim(encap) / Raw(what)


def arriving(encap: Encap, version: int, what: bytes) -> Packet:
    return packet(encap, version, REMOTE[version], OWN[version], what)


def words(address: str) -> dict[str, int]:
    whole = int(ip_address(address))
    return {f"ipv6_{4 - n}": whole >> 32 * n & 0xFFFFFFFF for n in range(4)}


def outward(encap: Encap, version: int) -> dict[str, p4r.TableEntry]:
    """Return what is needed from VF 0 to FAR, by what it does."""
    name, family = encap.name.lower(), f"ipv{version}"
    bits = 32 if version == 4 else 128
    hop = int(HOP.replace(":", ""), 16)
    own_address, far_address = (int(ip_address(each[version])) for each in (OWN, REMOTE))
    header = {"src_addr": own_address, "dst_addr": far_address}
    header |= {"src_port": ANOTHER_PORT, "dst_port": encap.value, "vni": VNI}
    if version == 6:
        header |= {"ds": 0xB9 >> 2, "ecn": 1, "flow_label": 0x54321, "hop_limit": 33}
    remote = {"dst_addr": int(ip_address(REMOTE[4]))} if version == 4 else words(REMOTE[6])
    route: Key = {f"{family}_table_lpm_root": 0}
    route[f"{family}_dst_match"] = (REMOTE[version], bits)
    suffix = "" if version == 4 else "_v6"
    macs = {f"rif_mod_table_{part}": n for n, part in enumerate(("start", "mid", "last"))}
    own = bytes.fromhex(OWN_MAC.replace(":", ""))
    return {
        "remote": MAKE(f"l2_to_tunnel_v{version}", {"da": FAR}, f"set_tunnel_v{version}", **remote),
        "bridge": bridged(27 + 16),
        "known": MAKE("l2_fwd_smac_table", {"sa": POD, "bridge_id": BRIDGE}, "NoAction"),
        "fdb": MAKE(
            "l2_fwd_tx_table",
            {"bridge_id": BRIDGE, "dst_mac": FAR},
            f"set_{name}_underlay_v{version}",
            tunnel_id=TUNNEL,
        ),
        "route": MAKE(f"{family}_table", route, f"{family}_set_nexthop_id", nexthop_id=9),
        "next hop": MAKE(
            "nexthop_table",
            {"nexthop_id": 9, "bit16_zeros": 0},
            "set_nexthop_info_dmac",
            router_interface_id=5,
            egress_port=0,
            dmac_high=hop >> 32,
            dmac_low=hop & 0xFFFFFFFF,
        ),
        **{
            table: MAKE(
                table,
                {f"rif_mod_map_id{n}": 5},
                table.replace("rif_mod_table", "set_src_mac"),
                arg=int.from_bytes(own[2 * n : 2 * n + 2]),
            )
            for table, n in macs.items()
        },
        "header": MAKE(
            f"{name}_encap{suffix}_mod_table",
            {"mod_blob_ptr": TUNNEL},
            f"{name}_encap{suffix}",
            **header,
        ),
    }


def inward(encap: Encap, version: int) -> dict[str, p4r.TableEntry]:
    """Return what is needed from FAR to VF 0, by what it does."""
    name = encap.name.lower()
    key: Key = {f"ipv{version}_src": REMOTE[version], "vni": VNI}
    action = f"set_{name}_decap_outer_hdr"
    table = f"{name}_decap_mod_table"
    return {
        "term": MAKE(f"ipv{version}_tunnel_term_table", key, action, tunnel_id=TUNNEL),
        "source": MAKE(
            f"rx_ipv{version}_tunnel_source_port", key, "set_source_port", source_port=2050
        ),
        "bridge": bridged(2050),
        "known": MAKE("l2_fwd_smac_table", {"sa": FAR, "bridge_id": BRIDGE}, "NoAction"),
        "fdb": MAKE("l2_fwd_rx_table", {"bridge_id": BRIDGE, "dst_mac": POD}, "l2_fwd", port=43),
        "bare": MAKE(table, {"mod_blob_ptr": TUNNEL}, f"{name}_decap_outer_hdr"),
    }


def bridged(port: int, vid: int = 0, bridge: int = BRIDGE) -> p4r.TableEntry:
    key: Key = {"source_port": (port, 0xFFFF), "vid": (vid, 0xFFF)}
    return MAKE("source_port_to_bridge_map", key, "set_bridge_id", priority=1, bridge_id=bridge)


def local(mac: str = NEAR, port: int = 44) -> p4r.TableEntry:
    return MAKE("l2_fwd_tx_table", {"bridge_id": BRIDGE, "dst_mac": mac}, "l2_fwd", port=port)
