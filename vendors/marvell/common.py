"""What is in the DPU's bridge as soon as any entry is, whichever that is. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from dataplane.core.model import Encap, IpAddress
from ovs_client import vswitch
from ovs_client.ofctl import Flow
from vendors.marvell.pipeline import (
    CLASSIFY,
    CLASSIFY_PRIORITY,
    FORWARD,
    GATEWAY_MAC,
    GUARD,
    MARK_BACK,
    MARK_OUT,
    MISS,
    PIPELINE,
    TUNNEL,
    TUNNEL_PORTS,
    WIRE,
    Category,
    Wiring,
    cookie,
    flow,
    goto,
)

_ND_TYPES = (133, 134, 135, 136, 137)  # RFC 4861 section 4
_MARKS = f"pkt_mark={MARK_OUT & ~0xFFFF:#x}/0xffff0000"


def common_flows(
    encaps: Iterable[Encap], sources: Iterable[IpAddress], nic_mac: str, cpu: str
) -> Iterator[Flow]:
    """Yield the flows for our tunnels of ``encaps``, between VTEPs of ours at ``sources``."""
    yield from _fixed_flows()
    for encap in encaps:
        yield _tunnel_flow(encap)
    for own in sources:
        yield from _return_flows(own, nic_mac, cpu)


def common_rows(encaps: Iterable[Encap], sources: Iterable[IpAddress]) -> Mapping[str, int]:
    """Return how many rows of each table no entry counts, while any entry is placed."""
    flows = {item.key for item in common_flows(encaps, sources, GATEWAY_MAC, "")}
    return {table.name: sum(key.table == table.number for key in flows) for table in PIPELINE}


def _fixed_flows() -> Iterator[Flow]:
    owner = cookie(Category.PIPELINE)
    yield flow(CLASSIFY, CLASSIFY_PRIORITY, f"in_port=LOCAL,{_MARKS}", goto(WIRE), owner)
    unseen = (
        "vlan_tci=0x1000/0x1000",
        "arp",
        "ipv6,nw_frag=yes",  # OVS shows no ICMPv6 type in one
        *(f"icmp6,icmp_type={number}" for number in _ND_TYPES),
    )
    for match in unseen:
        yield flow(GUARD, 300, match, goto(MISS), owner)
    for table in (GUARD, TUNNEL, FORWARD):
        yield flow(table, 0, "", goto(MISS), owner)


def _tunnel_flow(encap: Encap) -> Flow:
    match = f"in_port={TUNNEL_PORTS[encap]}"
    return flow(CLASSIFY, CLASSIFY_PRIORITY, match, goto(TUNNEL), cookie(Category.PIPELINE))


def _return_flows(own: IpAddress, nic_mac: str, cpu: str) -> Iterator[Flow]:
    """Yield how a decapsulated frame without entry becomes again what came, and goes to the CPU.

    It is encapsulated as if to where it came from; then source and destination change places.
    """
    owner = cookie(Category.PIPELINE)
    four = own.version == 4
    tunnel, header = ("TUN_IPV4", "OF_IP") if four else ("TUN_IPV6", "NX_IPV6")
    spare = "NXM_NX_REG0[]" if four else "NXM_NX_XXREG0[]"
    again = (
        f"move:NXM_NX_{tunnel}_SRC[]->NXM_NX_{tunnel}_DST[],"
        f"set_field:{MARK_BACK:#x}->pkt_mark,IN_PORT"
    )
    yield flow(MISS, 100, f"tun_dst={own}" if four else f"tun_ipv6_dst={own}", again, owner)
    back = (
        f"move:NXM_{header}_SRC[]->{spare},move:NXM_{header}_DST[]->NXM_{header}_SRC[],"
        f"move:{spare}->NXM_{header}_DST[],"
        f"set_field:{GATEWAY_MAC}->eth_src,set_field:{nic_mac}->eth_dst,output:{cpu}"
    )
    yield flow(WIRE, 200, f"{'ip' if four else 'ipv6'},pkt_mark={MARK_BACK:#x}", back, owner)


def tunnel_port(encap: Encap, number: int, wiring: Wiring) -> vswitch.Port:
    """Return the port of an encapsulation, which takes UDP packets to port ``number``."""
    return vswitch.Port(
        TUNNEL_PORTS[encap],
        wiring.bridge,
        encap.value,
        options={"remote_ip": "flow", "key": "flow", "dst_port": str(number)},
        external_ids={vswitch.OWNER_KEY: wiring.node},
    )
