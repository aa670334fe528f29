"""Strategies and small builders for what a fabric database holds."""

from ipaddress import ip_address, ip_interface, ip_network

from hypothesis import strategies as st

from dataplane.core.model import (
    Address,
    Block,
    Condition,
    Device,
    Encap,
    Endpoint,
    Fabric,
    Family,
    Grant,
    Guard,
    Hardware,
    IpAddress,
    IpNetwork,
    Mac,
    Node,
    Pin,
    Segment,
    Side,
    Svi,
    TableUse,
    UnknownUnicast,
    Vni,
    Vrf,
)
from dataplane.fabric.rows import LATEST

NAMES = st.sampled_from(["blue", "red", "n1", "n2", "a.b-c"])
IPS: st.SearchStrategy[IpAddress] = st.ip_addresses()
PORTS = st.integers(1, 65535)
TEXT = st.text(min_size=1, max_size=40)


@st.composite
def networks(draw: st.DrawFn) -> IpNetwork:
    """Return any IPv4 or IPv6 prefix."""
    address = draw(IPS)
    return ip_network((address, draw(st.integers(0, address.max_prefixlen))), strict=False)


@st.composite
def macs(draw: st.DrawFn) -> Mac:
    """Return any unicast MAC."""
    raw = draw(st.integers(1, (1 << 48) - 1).filter(lambda value: not value >> 40 & 1))
    return Mac(":".join(f"{raw >> shift & 0xFF:02x}" for shift in range(40, -1, -8)))


def some(values: st.SearchStrategy[IpAddress]) -> st.SearchStrategy[tuple[IpAddress, ...]]:
    """Return a few of ``values``, in any order, repetitions too."""
    return st.lists(values, max_size=4).map(tuple)


def some_networks() -> st.SearchStrategy[tuple[IpNetwork, ...]]:
    """Return a few prefixes, in any order, repetitions too."""
    return st.lists(networks(), max_size=4).map(tuple)


SEGMENTS = st.builds(
    Segment,
    NAMES,
    st.integers(1, (1 << 24) - 1).map(Vni),
    st.sampled_from(Encap),
    st.sampled_from(Family),
    st.none() | st.integers(68, 65535),
    some_networks(),
    some_networks(),
    st.sampled_from(Guard),
    st.sampled_from(UnknownUnicast),
)
ENDPOINTS = st.builds(
    Endpoint,
    segment=NAMES,
    node=NAMES,
    mac=macs(),
    ips=some(IPS),
    identity=TEXT,
    sequence=st.integers(0, 1 << 40),
    container_id=TEXT,
    ifname=st.text(max_size=15),
    moves=st.lists(st.integers(0, 1 << 40), max_size=6).map(tuple),
    learned=some(IPS),
)
NODES = st.builds(Node, NAMES, some(IPS), st.booleans())
TIMES = st.integers(0, LATEST)
CONDITIONS = st.builds(Condition, TEXT, st.booleans(), TEXT, TIMES)
TABLES = st.builds(TableUse, TEXT, st.integers(0, 1 << 40), st.integers(0, 1 << 40))
DEVICES = st.builds(
    Device,
    name=TEXT,
    serial=TEXT,
    vendor=TEXT,
    product=TEXT,
    side=st.sampled_from(Side),
    node=NAMES,
    ready=st.booleans(),
    emulated=st.booleans(),
    conditions=st.lists(CONDITIONS, max_size=3, unique_by=lambda each: each.kind).map(tuple),
    assumptions=st.lists(TEXT, max_size=3).map(tuple),
    peer=NAMES,
    tunnels=st.lists(st.tuples(st.sampled_from(Encap), st.sampled_from(Family))).map(tuple),
    tables=st.lists(TABLES, max_size=3, unique_by=lambda each: each.name).map(tuple),
    vfs=st.integers(0, 64),
    vfs_used=st.integers(0, 64),
    heard_at=TIMES,
    told_at=TIMES,
)
INTERFACES = st.builds(
    lambda net, n: ip_interface((net[n % 4], net.prefixlen)),
    networks().filter(lambda net: net.num_addresses > 3),
    st.integers(0, 3),
)
ENTITIES = st.one_of(
    st.builds(
        Vrf, NAMES, st.none() | st.integers(1, (1 << 24) - 1).map(Vni), st.none() | INTERFACES
    ),
    st.builds(Svi, NAMES, NAMES, NAMES, macs(), st.lists(INTERFACES, max_size=4).map(tuple)),
    DEVICES,
    st.builds(Fabric, NAMES, PORTS, PORTS),
    NODES,
    SEGMENTS,
    ENDPOINTS,
    st.builds(Block, NAMES, networks(), NAMES),
    st.builds(Address, NAMES, IPS, TEXT, NAMES),
    st.builds(Grant, NAMES, NAMES, st.none() | macs(), some_networks()),
    st.builds(Pin, NAMES, macs() | TEXT.map("a/{}".format), st.sampled_from(Hardware)),
)


def segment(name: str, vni: int) -> Segment:
    """Return a plain segment of an IPv4 and an IPv6 subnet."""
    subnets = (ip_network(f"10.{vni}.0.0/20"), ip_network(f"fd00:{vni}::/64"))
    return Segment(name, Vni(vni), subnets=subnets)


def endpoint(node: str, number: int, on: str = "blue", sequence: int = 1) -> Endpoint:
    """Return the endpoint of workload ``number`` at ``node``."""
    return Endpoint(
        segment=on,
        node=node,
        mac=Mac(f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"),
        ips=(ip_address(f"10.1.{number >> 8}.{number & 255}"), ip_address(f"fd00:1::{number:x}")),
        identity=f"default/pod{number}/eth0",
        sequence=sequence,
        container_id=f"pod{number}",
        ifname="eth0",
        moves=(1_800_000_009, 1_800_000_010),
    )


def node(name: str, *vteps: str, static: bool = False) -> Node:
    """Return a node with these VTEP addresses."""
    return Node(name, tuple(ip_address(vtep) for vtep in vteps), static)
