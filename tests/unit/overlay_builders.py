"""Small worlds for tests of the overlay: pods with names, their segment, what other nodes have."""

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface

from dataplane.core.addressing import eui64_link_local
from dataplane.core.desired import (
    Bindings,
    Desired,
    LocalNode,
    Port,
    PortState,
    Publication,
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
    IpAddress,
    Mac,
    Segment,
    Svi,
    UnknownUnicast,
    Vni,
)

MTU = 1400
NIC = Link("underlay0", 7, "02:00:00:00:aa:01", 1500, up=True)
OWN4, OWN6 = IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1")
VTEP4: tuple[IpAddress, ...] = tuple(IPv4Address(f"192.0.2.{n}") for n in (2, 3))
VTEP6: tuple[IpAddress, ...] = tuple(IPv6Address(f"2001:db8::{n}") for n in (2, 3))

GENEVE4 = Segment("geneve4", Vni(100), Encap.GENEVE, Family.IPV4)
GENEVE6 = Segment("geneve6", Vni(101), Encap.GENEVE, Family.IPV6)
VXLAN4 = Segment("vxlan4", Vni(102), Encap.VXLAN, Family.IPV4)
VXLAN6 = Segment("vxlan6", Vni(103), Encap.VXLAN, Family.IPV6)
MAC_ONLY = replace(GENEVE4, name="maconly", vni=Vni(104), guard=Guard.MAC)
UNGUARDED = replace(
    VXLAN4,
    name="unguarded",
    vni=Vni(105),
    guard=Guard.OFF,
    unknown_unicast=UnknownUnicast.FLOOD,
)
# Those of one Vrf, and one of another with the same subnets; workload N has .N and ::N there.
ROUTED_A = Segment("routed-a", Vni(106), Encap.GENEVE, Family.IPV4)
ROUTED_B = Segment("routed-b", Vni(107), Encap.VXLAN, Family.IPV6)
ROUTED_C = Segment("routed-c", Vni(108), Encap.GENEVE, Family.IPV4)
ROUTED_D = Segment("routed-d", Vni(109), Encap.GENEVE, Family.IPV4)
TRUNK_A = replace(GENEVE4, name="trunka", vni=Vni(116))
TRUNK_B = replace(GENEVE4, name="trunkb", vni=Vni(117), guard=Guard.OFF)
TUNNELS = {"ow-geneve": 1, "ow-vxlan": 2, "ophy0": 1}


def mac_of(number: int) -> Mac:
    """Return the MAC of the workload with this number."""
    return Mac(f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}")


def ips_of(number: int) -> tuple[IpAddress, ...]:
    """Return the IPv4 and IPv6 address of the workload with this number."""
    return (ip_address(f"10.1.{number >> 8}.{number & 255}"), ip_address(f"fd00::{number:x}"))


def link_local_of(number: int) -> IPv6Address:
    """Return the EUI-64 link-local address of the workload with this number."""
    return eui64_link_local(mac_of(number))


def attachment(slot: int, segment: Segment, ips: tuple[IpAddress, ...] | None = None) -> Attachment:
    """Return the attachment in ``slot``, workload number ``slot``."""
    return Attachment(
        container_id=f"pod{slot}",
        ifname="eth0",
        netns=f"/run/netns/pod{slot}",
        segment=segment.name,
        mac=mac_of(slot),
        ips=ips_of(slot) if ips is None else ips,
        identity=f"default/pod{slot}/eth0",
        slot=slot,
        sequence=1,
    )


def port(
    slot: int,
    segment: Segment,
    ips: tuple[IpAddress, ...] | None = None,
    state: PortState = PortState.ACTIVE,
) -> Port:
    """Return a local port on ``segment``."""
    return Port(attachment(slot, segment, ips), segment, MTU, state)


def trunk(slot: int, segment: Segment, vlan: int, state: PortState = PortState.ACTIVE) -> Port:
    """Return a local port on ``segment`` that is one VLAN of a trunk port."""
    here = replace(attachment(slot, segment), ifname=f"vlan{vlan}", netdev=f"rep{slot}", vlan=vlan)
    return Port(here, segment, MTU, state)


def remote(number: int, segment: Segment, vtep: IpAddress) -> RemoteEndpoint:
    """Return workload ``number`` as the endpoint of another node."""
    ips = ips_of(number)
    name = f"default/pod{number}/eth0"
    endpoint = Endpoint(
        segment.name, f"node-{vtep}", mac_of(number), ips, name, 1, f"pod{number}", "eth0"
    )
    return RemoteEndpoint(endpoint, vtep)


def view(
    segment: Segment,
    ports: Iterable[Port] = (),
    remotes: Iterable[RemoteEndpoint] = (),
    *,
    synced: bool = True,
) -> SegmentView:
    """Return a segment as this node sees it; its flood list are the VTEPs of ``remotes``."""
    others = tuple(remotes)
    flood = tuple(sorted({other.vtep for other in others}, key=int))
    return SegmentView(segment, synced, MTU, tuple(ports), others, flood)


def gateway_of(segment: Segment, net: int, vrf: str = "shop") -> Svi:
    """Return the gateway of a segment with the subnets 10.NET.0.0/24 and fd00:NET::/64."""
    prefixes = (ip_interface(f"10.{net}.0.1/24"), ip_interface(f"fd00:{net}::1/64"))
    return Svi(f"svi-{segment.name}", vrf, segment.name, gateway_mac(net), prefixes)


def gateway_mac(net: int) -> Mac:
    """Return the MAC of the gateway into these subnets."""
    return Mac(f"02:00:5e:00:01:{net:02x}")


def routed_ips(net: int, number: int) -> tuple[IpAddress, ...]:
    """Return the addresses of the workload with this number behind that gateway."""
    return (ip_address(f"10.{net}.0.{number}"), ip_address(f"fd00:{net}::{number:x}"))


def routed_remote(number: int, segment: Segment, vtep: IpAddress, net: int) -> RemoteEndpoint:
    """Return workload ``number`` behind that gateway as the endpoint of another node."""
    found = remote(number, segment, vtep)
    return replace(found, endpoint=replace(found.endpoint, ips=routed_ips(net, number)))


def desired(*views: SegmentView, publication: Publication | None = None) -> Desired:
    """Return the desired state that consists of ``views``."""
    return Desired(
        node=LocalNode("node-a", NIC.name),
        fabric=Fabric(),
        vteps=(OWN4, OWN6),
        segments={each.segment.name: each for each in views},
        publication=publication,
        attachments=tuple(p.attachment for each in views for p in each.ports),
    )


def bindings(*views: SegmentView) -> Bindings:
    """Return bindings in which everything of ``views`` has its number."""
    ports = (p.attachment for each in views for p in each.ports)
    ofports = {each.ovs_port: each.ofport for each in ports}
    return Bindings(NIC, ofports={**TUNNELS, **ofports})
