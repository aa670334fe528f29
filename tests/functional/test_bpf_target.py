"""The programs on real netdevs: what passes to Open vSwitch, what stays, and that it is repaired.

What the fast path does by itself, tests/packets/test_fastpath.py and the lab show.

A veth stands for each netdev of a node; its other end, in the namespace ``ends``, for what is
behind it: pod, Open vSwitch, wire.
"""

import os
import shutil
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address
from itertools import count, product
from pathlib import Path

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrHopByHop
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from bpf import loader
from bpf.bpffs import Pins
from bpf.entries import EntryItem
from bpf.layout import (
    MAPS,
    TunnelSocket,
    decode_counter_key,
    encode_ifindex,
    encode_socket,
    traffic_of,
)
from bpf.loader import load
from bpf.syscalls import BpfMissingError, create_map, open_map, open_program, pin
from bpf.target import RENDERED_MAPS, FastpathTarget, FilterItem
from dataplane.core.desired import (
    Bindings,
    Datapath,
    Desired,
    LocalNode,
    Port,
    PortState,
    SegmentView,
)
from dataplane.core.diff import Change, Item, Pending, Rendering, diff
from dataplane.core.errors import PartlyRefusedError, TargetError
from dataplane.core.events import Link
from dataplane.core.model import Attachment, Encap, Fabric, Family, Mac, Segment, Vni
from dataplane.core.placement import FullMap, Traffic
from dataplane.netlink.rtnl import Rtnl
from dataplane.netlink.tc import Slot, ensure_clsact, replace_bpf
from tests.functional.bpf_support import (
    Namespace,
    Tap,
    frags_device,
    host_socket,
    mounted_bpffs,
    namespace,
    readable,
)

NETDEVS = {"nic0": "wire0", "ophy0": "inphy", "vp1": "pod1", "ot1": "in1"}
NIC_MAC, WIRE_MAC = "02:00:00:00:09:01", "02:00:00:00:09:02"
OWN4, PEER4 = "10.9.0.1", "10.9.0.2"
OWN6, PEER6 = "2001:db8::1", "2001:db8::2"
MARKER = b"overweave-marker"
# One segment for each way a peer may send; the inner MAC is known on none.
SEGMENTS = {
    (encap, family): Segment(f"{encap}-{family}", Vni(vni), encap, family)
    for (encap, family), vni in zip(product(Encap, Family), count(5001), strict=False)
}
SEGMENT = SEGMENTS[Encap.GENEVE, Family.IPV4]
INSIDE = Ether(src="02:00:00:00:66:01", dst="02:00:00:00:66:02") / IP(dst="10.1.0.9") / MARKER
FROM_WIRE = Ether(src=WIRE_MAC, dst=NIC_MAC)


def to_geneve(family: Family = Family.IPV4) -> Packet:
    vni = SEGMENTS[Encap.GENEVE, family].vni
    return UDP(sport=40000, dport=6081) / GENEVE(vni=vni) / INSIDE


def to_vxlan(family: Family) -> Packet:
    vni = SEGMENTS[Encap.VXLAN, family].vni
    return UDP(sport=40000, dport=4790) / VXLAN(vni=vni, flags="Instance") / INSIDE


TO_GENEVE = to_geneve()
MADE_UP = Ether(src=NIC_MAC, dst="02:00:00:00:77:02")


@dataclass(frozen=True)
class Node:
    """A node's namespace with our programs in it, and the far ends of its netdevs."""

    space: Namespace
    ends: Namespace
    pins: Pins
    target: FastpathTarget

    def bindings(self) -> Bindings:
        names = self.space.netns.run(socket.if_nameindex)
        ifindexes = {name: ifindex for ifindex, name in names}
        nic = Link("nic0", ifindexes["nic0"], NIC_MAC, 1500, up=True, kind="veth")
        return Bindings(nic, ifindexes)

    def change(self, desired: Desired) -> Change:
        rendering = self.target.render(desired, self.bindings())
        return diff(rendering, self.space.netns.run(self.target.observe))

    def apply(self, change: Change) -> None:
        self.space.netns.run(lambda: self.target.apply(change))

    def converge(self, desired: Desired) -> Change:
        """Return what had to be changed; afterwards nothing must."""
        change = self.change(desired)
        self.apply(change)
        assert not self.change(desired)
        return change

    def tap(self, end: str) -> Tap:
        return Tap(self.ends, end)

    def filters(self, netdev: str) -> str:
        return self.space.tc("filter", "show", "dev", netdev, "ingress")


def add_netdev(space: Namespace, ends: Namespace, name: str) -> None:
    end = NETDEVS[name]
    space.ip("link", "add", "name", name, "type", "veth", "peer", "name", end, "netns", ends.name)
    for where, netdev in ((space, name), (ends, end)):
        if netdev not in {"nic0", "wire0"}:
            where.netns.run(partial(disable_ipv6, netdev))
        where.ip("link", "set", netdev, "up")


def disable_ipv6(netdev: str) -> None:
    switch = Path(f"/proc/sys/net/ipv6/conf/{netdev}/disable_ipv6")
    switch.write_text("1", encoding="ascii")


def add_addresses(space: Namespace, netdev: str, mac: str, ipv4: str, ipv6: str) -> None:
    space.ip("link", "set", netdev, "address", mac, "mtu", "9000")
    space.ip("address", "add", f"{ipv4}/24", "dev", netdev)
    space.ip("address", "add", f"{ipv6}/64", "dev", netdev, "nodad")


@contextmanager
def wired(pins: Pins) -> Iterator[Node]:
    with namespace() as space, namespace() as ends:
        for netdev in NETDEVS:
            add_netdev(space, ends, netdev)
        add_addresses(space, "nic0", NIC_MAC, OWN4, OWN6)
        add_addresses(ends, "wire0", WIRE_MAC, PEER4, PEER6)
        target = FastpathTarget(pins)
        yield Node(space, ends, pins, target)
        target.close()


@pytest.fixture(scope="module")
def pins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pins]:
    """Return programs and maps that the tests share, because compiling takes the longest."""
    with mounted_bpffs(tmp_path_factory.mktemp("target") / "bpf") as bpffs:
        yield load(bpffs)


def test_a_pin_that_is_missing_leaves_no_descriptor_open(pins: Pins) -> None:
    there, away = pins.program("ophy"), pins.programs / "away"
    before = sorted(Path("/proc/self/fd").iterdir())
    there.rename(away)
    try:
        with pytest.raises(BpfMissingError):
            FastpathTarget(pins)
    finally:
        away.rename(there)
    assert sorted(Path("/proc/self/fd").iterdir()) == before


@pytest.fixture
def node(pins: Pins) -> Iterator[Node]:
    with wired(pins) as node:
        yield node
    for spec in MAPS:
        with open_map(pins.map(spec.name)) as used:
            for key, _ in list(used.items()):
                used.delete(key)


def port(slot: int = 1, state: PortState = PortState.ACTIVE) -> Port:
    attachment = Attachment(
        container_id=f"c{slot}",
        ifname="eth0",
        netns=f"/run/netns/c{slot}",
        segment=SEGMENT.name,
        mac=Mac(f"02:00:00:00:01:{slot:02x}"),
        ips=(ip_address(f"10.1.0.{slot}"),),
        identity=f"default/c{slot}/eth0",
        slot=slot,
    )
    return Port(attachment, SEGMENT, 1450, state)


def desired(*ports: Port, vteps: tuple[str, ...] = (OWN4, OWN6), nic: str = "nic0") -> Desired:
    peers = {Family.IPV4: ip_address(PEER4), Family.IPV6: ip_address(PEER6)}
    views = [
        SegmentView(
            segment,
            synced=True,
            mtu=1450,
            ports=ports if segment is SEGMENT else (),
            remotes=(),
            flood=(peers[segment.underlay],),
        )
        for segment in SEGMENTS.values()
    ]
    return Desired(
        node=LocalNode("n1", nic),
        fabric=Fabric(geneve_port=6081, vxlan_port=4790),
        vteps=tuple(ip_address(vtep) for vtep in vteps),
        segments={view.segment.name: view for view in views},
        publication=None,
        attachments=tuple(port.attachment for port in ports),
    )


ONE_PORT = desired(port())
# Each two of filters and joints; the socket of each encapsulation and address, their peers; the
# port with its IP and link-local address, its MAC, its IP's owner.
SIZES = {"filter": 4, "glue": 4, "own": 4, "members": 4, "ports": 1}
SIZES |= {"entries": 1, "neighbours": 1}
OF_A_PORT = {"filter": 2, "glue": 2, "ports": 1, "entries": 1, "neighbours": 1}
# What a program must find when it is attached.
NEEDS = {
    "access_port": {"own", "members", "ports", "neighbours"},
    "underlay": {"own", "members", "ports", "neighbours", "entries", "glue"},
    "ovs_port": {"ports", "glue"},
}
NOTHING = Rendering({})


def sizes(items: Iterable[Item]) -> dict[str, int]:
    """Return how many filters there are, and entries by map."""
    return Counter(i.map_name if isinstance(i, EntryItem) else "filter" for i in items)


@pytest.fixture
def glued(node: Node) -> Node:
    node.converge(ONE_PORT)
    return node


# What passes


@pytest.mark.parametrize(
    ("come_in", "go_out"),
    [
        pytest.param("pod1", "in1", id="pod-to-ovs"),
        pytest.param("in1", "pod1", id="ovs-to-pod"),
    ],
)
@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(Ether(dst="02:00:00:00:01:02") / IP(dst="10.1.0.2") / MARKER, id="unicast"),
        pytest.param(Ether(dst="ff:ff:ff:ff:ff:ff") / ARP() / MARKER, id="arp-broadcast"),
        pytest.param(Ether(dst="33:33:00:00:00:01") / IPv6(dst="ff02::1") / MARKER, id="multicast"),
        pytest.param(Ether(dst="02:00:00:00:01:02") / Dot1Q(vlan=7) / IP() / MARKER, id="vlan"),
    ],
)
def test_every_frame_passes_once_and_unchanged(
    glued: Node, come_in: str, go_out: str, packet: Packet
) -> None:
    frame = bytes(packet)
    with glued.tap(come_in) as sender, glued.tap(go_out) as receiver:
        sender.send(frame)
        assert without_tag(receiver.received(MARKER)) == without_tag([frame])


def without_tag(frames: list[bytes]) -> list[bytes]:
    """Take out the VLAN tag, which the kernel hands to a packet socket beside the frame."""
    return [f[:12] + f[16:] if f[12:14] == b"\x81\x00" else f for f in frames]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(IP(src=PEER4, dst=OWN4) / TO_GENEVE, id="geneve-ipv4"),
        pytest.param(IPv6(src=PEER6, dst=OWN6) / to_geneve(Family.IPV6), id="geneve-ipv6"),
        pytest.param(IP(src=PEER4, dst=OWN4) / to_vxlan(Family.IPV4), id="vxlan-ipv4"),
        pytest.param(IPv6(src=PEER6, dst=OWN6) / to_vxlan(Family.IPV6), id="vxlan-ipv6"),
        pytest.param(IP(src=PEER4, dst=OWN4) / UDP(dport=6081) / MARKER[:8], id="short"),
    ],
)
def test_tunnel_packets_go_to_ovs_and_not_to_the_host(glued: Node, packet: Packet) -> None:
    frame = bytes(FROM_WIRE / packet)
    with (
        glued.tap("wire0") as wire,
        glued.tap("inphy") as ovs,
        host_socket(glued.space, packet[UDP].dport) as host,
    ):
        wire.send(frame)
        assert ovs.received(MARKER[:8]) == [frame]
        assert not readable(host)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(IP(src=PEER4, dst=OWN4) / UDP(dport=6082) / MARKER, id="other-port-ipv4"),
        pytest.param(IPv6(src=PEER6, dst=OWN6) / UDP(dport=6082) / MARKER, id="other-port-ipv6"),
        pytest.param(IP(src=PEER4, dst="10.9.0.7") / TO_GENEVE, id="other-address-of-the-host"),
        pytest.param(
            IPv6(src=PEER6, dst=OWN6) / IPv6ExtHdrHopByHop() / TO_GENEVE, id="extension-header"
        ),
        pytest.param(
            IP(src=PEER4, dst=OWN4) / UDP(dport=6081) / GENEVE(vni=77) / INSIDE, id="unknown-vni"
        ),
        pytest.param(IP(src="10.9.0.66", dst=OWN4) / TO_GENEVE, id="unknown-vtep"),
        pytest.param(IPv6(src=PEER6, dst=OWN6) / TO_GENEVE, id="segment-of-the-other-family"),
    ],
)
def test_packets_of_the_host_reach_the_host(glued: Node, packet: Packet) -> None:
    glued.space.ip("address", "add", "10.9.0.7/24", "dev", "nic0")
    with (
        glued.tap("wire0") as wire,
        glued.tap("inphy") as ovs,
        host_socket(glued.space, packet[UDP].dport) as host,
    ):
        wire.send(bytes(FROM_WIRE / packet))
        assert host.recv(1000).endswith(MARKER)
        assert not ovs.received(MARKER, 0.2)


def test_fragments_are_put_together_by_the_host(glued: Node) -> None:
    datagram = UDP(sport=40000, dport=6081, len=40, chksum=0) / (MARKER * 2)
    head, tail = bytes(datagram)[:24], bytes(datagram)[24:]
    with (
        glued.tap("wire0") as wire,
        glued.tap("inphy") as ovs,
        host_socket(glued.space, 6081) as host,
    ):
        whole = IP(src=PEER4, dst=OWN4, id=7, proto=17)
        for offset, part in ((0, head), (len(head) // 8, tail)):
            piece = whole.copy()
            piece.frag, piece.flags = offset, "MF" if offset == 0 else ""
            wire.send(bytes(FROM_WIRE / piece / part))
        assert host.recv(100) == MARKER * 2
        assert not ovs.received(MARKER, 0.2)


def test_tagged_tunnel_packets_are_for_a_vlan_of_the_host(glued: Node) -> None:
    tagged = FROM_WIRE / Dot1Q(vlan=5) / IP(src=PEER4, dst=OWN4) / TO_GENEVE
    with glued.tap("wire0") as wire, glued.tap("inphy") as ovs, Tap(glued.space, "nic0") as nic:
        wire.send(bytes(tagged))
        assert len(nic.received(MARKER)) == 1
        assert not ovs.received(MARKER, 0.2)


def test_truncated_tunnel_packets_stay_with_the_host(glued: Node) -> None:
    padded = bytes(FROM_WIRE / IP(src=PEER4, dst=OWN4) / UDP(dport=6081))
    with glued.tap("wire0") as wire, glued.tap("inphy") as ovs:
        for length in range(14, len(padded)):
            wire.send(padded[:length])
        wire.send(padded)
        assert ovs.received(NIC_MAC_BYTES, 0.5) == [padded]


NIC_MAC_BYTES = bytes.fromhex(NIC_MAC.replace(":", ""))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(MARKER[:8], id="short"),
        pytest.param(bytes(TO_GENEVE.payload), id="whole"),
        pytest.param(bytes(TO_GENEVE.payload) + MARKER * 40, id="long"),
    ],
)
def test_headers_outside_the_linear_part_are_found(glued: Node, payload: bytes) -> None:
    """As from a driver that leaves all behind the Ethernet header in a page."""
    with frags_device(glued.space, "nic1") as wire, glued.tap("inphy") as ovs:
        glued.space.ip("link", "set", "nic1", "address", NIC_MAC, "up")
        glued.converge(desired(port(), nic="nic1"))
        frame = bytes(FROM_WIRE / IP(src=PEER4, dst=OWN4) / UDP(dport=6081) / payload)
        os.writev(wire, [frame[:14], frame[14:]])
        assert ovs.received(MARKER[:8]) == [frame]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(IP(src=OWN4, dst=PEER4) / TO_GENEVE, id="ipv4"),
        pytest.param(IPv6(src=OWN6, dst=PEER6) / TO_GENEVE, id="ipv6"),
    ],
)
def test_the_kernel_finds_the_neighbour_of_what_ovs_sends(glued: Node, packet: Packet) -> None:
    with glued.tap("inphy") as ovs, glued.tap("wire0") as wire:
        ovs.send(bytes(MADE_UP / packet))  # no neighbour is known yet
        found = wire.received(MARKER)
        assert found == [bytes(Ether(src=NIC_MAC, dst=WIRE_MAC) / packet)]


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(ARP(pdst=PEER4), id="arp"),
        pytest.param(Dot1Q(vlan=5) / IP(src=OWN4, dst=PEER4), id="vlan"),
    ],
)
def test_nothing_of_ovs_but_ip_leaves(glued: Node, packet: Packet) -> None:
    with glued.tap("inphy") as ovs, glued.tap("wire0") as wire:
        ovs.send(bytes(MADE_UP / packet / MARKER))
        assert not wire.received(MARKER, 0.3)


def test_a_joint_without_entry_drops(glued: Node) -> None:
    """The pod must not reach the host's stack: its ARP request for the host stays unanswered."""
    with open_map(glued.pins.map("glue")) as glue:
        glue.delete(encode_ifindex(glued.space.ifindex("vp1")))
    request = Ether(src="02:00:00:00:01:01", dst="ff:ff:ff:ff:ff:ff") / ARP(
        hwsrc="02:00:00:00:01:01", psrc="10.9.0.9", pdst=OWN4
    )
    with glued.tap("pod1") as pod:
        pod.send(bytes(request))
        assert not pod.received(b"", 0.3)


# What is kept and repaired


def test_target_starts_from_nothing(node: Node) -> None:
    change = node.converge(ONE_PORT)
    assert sizes(change.add.values()) == SIZES
    assert len(change.add) == len(change)


def damage_filter(node: Node) -> None:
    node.space.tc("filter", "del", "dev", "nic0", "ingress", "pref", "100")


def damage_clsact(node: Node) -> None:
    node.space.tc("qdisc", "del", "dev", "vp1", "clsact")


def damage_joint(node: Node) -> None:
    with open_map(node.pins.map("glue")) as glue:
        glue.update(encode_ifindex(node.space.ifindex("vp1")), encode_ifindex(1))


def damage_own(node: Node) -> None:
    with open_map(node.pins.map("own")) as own:
        own.delete(encode_socket(TunnelSocket(ip_address(OWN4), 6081)))


def damage_map(name: str, node: Node) -> None:
    with open_map(node.pins.map(name)) as used:
        for key, _ in list(used.items()):
            used.delete(key)


def add_stranger(name: str, node: Node) -> None:
    with open_map(node.pins.map(name)) as used:
        used.update(b"\xee" * used.info.key_size, b"\xdd" * used.info.value_size)


@pytest.mark.parametrize(
    ("damage", "changes"),
    [
        pytest.param(damage_filter, 1, id="filter-deleted"),
        pytest.param(damage_clsact, 1, id="clsact-deleted"),
        *(
            pytest.param(partial(damage_map, name), SIZES[name], id=f"{name}-emptied")
            for name in ("glue", "ports", "entries", "neighbours", "members")
        ),
        pytest.param(damage_joint, 1, id="joint-misdirected"),
        pytest.param(damage_own, 1, id="own-address-deleted"),
        *(
            pytest.param(partial(add_stranger, spec.name), 1, id=f"stranger-in-{spec.name}")
            for spec in RENDERED_MAPS
        ),
    ],
)
def test_damage_is_repaired(glued: Node, damage: Callable[[Node], None], changes: int) -> None:
    damage(glued)
    assert len(glued.converge(ONE_PORT)) == changes
    with glued.tap("wire0") as wire, glued.tap("inphy") as ovs:
        wire.send(bytes(FROM_WIRE / IP(src=PEER4, dst=OWN4) / TO_GENEVE))
        assert len(ovs.received(MARKER)) == 1
    with glued.tap("pod1") as pod, glued.tap("in1") as ovs:
        pod.send(bytes(Ether(dst="02:00:00:00:01:02") / IP() / MARKER))
        assert len(ovs.received(MARKER)) == 1


def test_netdev_made_anew_is_followed(glued: Node) -> None:
    """As after ``ovs-vswitchd exit --cleanup``, which deletes every internal port."""
    before = glued.space.ifindex("ot1")
    glued.space.ip("link", "delete", "ot1")
    add_netdev(glued.space, glued.ends, "ot1")
    assert glued.space.ifindex("ot1") != before
    change = glued.converge(ONE_PORT)
    assert sizes(change.add.values()) == {"filter": 1, "glue": 1}
    assert sizes(change.update.values()) == {"glue": 1}
    assert sizes(change.remove.values()) == {"glue": 1}
    for come_in, go_out in (("pod1", "in1"), ("in1", "pod1")):
        with glued.tap(come_in) as sender, glued.tap(go_out) as receiver:
            sender.send(bytes(Ether(dst="02:00:00:00:01:02") / IP() / MARKER))
            assert len(receiver.received(MARKER)) == 1


def test_renamed_netdev_is_nobody_of_ours_until_it_has_its_name_again(glued: Node) -> None:
    glued.space.ip("link", "set", "vp1", "name", "else1")
    change = glued.converge(ONE_PORT)
    # One direction of the joint waits for the other end; the rest of the port goes.
    assert sizes(change.remove.values()) == {**OF_A_PORT, "filter": 1}
    assert "bpf" not in glued.filters("else1")
    glued.space.ip("link", "set", "else1", "name", "vp1")
    glued.converge(ONE_PORT)
    with glued.tap("pod1") as sender, glued.tap("in1") as receiver:
        sender.send(bytes(Ether(dst="02:00:00:00:01:02") / IP() / MARKER))
        assert len(receiver.received(MARKER)) == 1


def test_foreign_filter_sees_what_is_not_ours_and_stays(node: Node) -> None:
    """Another's u32 at another preference, as a second overlay on the same NIC would have it."""
    node.space.ip("link", "add", "name", "theirs", "type", "veth", "peer", "name", "monitor")
    for netdev in ("theirs", "monitor"):
        node.space.ip("link", "set", netdev, "up")
    node.space.tc("qdisc", "add", "dev", "nic0", "clsact")
    node.space.tc(
        "filter", "add", "dev", "nic0", "ingress", "pref", "200", "protocol", "ip", "u32",
        "match", "ip", "dport", "6082", "0xffff",
        "action", "mirred", "egress", "redirect", "dev", "theirs",
    )  # fmt: skip
    node.converge(ONE_PORT)
    with node.tap("wire0") as wire, Tap(node.space, "monitor") as monitor:
        wire.send(bytes(FROM_WIRE / IP(src=PEER4, dst=OWN4) / UDP(dport=6082) / MARKER))
        assert len(monitor.received(MARKER)) == 1
    node.apply(diff(NOTHING, node.space.netns.run(node.target.observe)))
    listed = node.filters("nic0")
    assert "pref 200" in listed
    assert "pref 100" not in listed


def foreign_in_our_place(node: Node) -> None:
    """Attach a program in our slot by another name than ours begin with."""
    node.space.netns.run(lambda: _attach_foreign(node))


def _attach_foreign(node: Node) -> None:
    with Rtnl() as rtnl, open_program(node.pins.program("underlay")) as program:
        ifindex = socket.if_nametoindex("nic0")
        ensure_clsact(rtnl, ifindex)
        replace_bpf(rtnl, Slot(ifindex), program.fd, "theirs")


def test_foreign_filter_in_our_place_is_named_and_the_rest_is_done(node: Node) -> None:
    foreign_in_our_place(node)
    with pytest.raises(TargetError, match=r"underlay on nic0.*'theirs'.*tc filter show dev nic0"):
        node.converge(ONE_PORT)
    assert " theirs " in node.filters("nic0")
    left = node.change(ONE_PORT)
    assert [item.netdev for item in left.add.values()] == ["nic0"]


def test_foreign_filter_in_our_place_is_not_removed(glued: Node) -> None:
    foreign_in_our_place(glued)
    glued.apply(diff(NOTHING, glued.space.netns.run(glued.target.observe)))
    assert " theirs " in glued.filters("nic0")


def test_ingress_qdisc_of_someone_else_serves_as_well(node: Node) -> None:
    node.space.tc("qdisc", "add", "dev", "nic0", "ingress")
    node.converge(ONE_PORT)
    with node.tap("wire0") as wire, node.tap("inphy") as ovs:
        wire.send(bytes(FROM_WIRE / IP(src=PEER4, dst=OWN4) / TO_GENEVE))
        assert len(ovs.received(MARKER)) == 1


def test_nothing_desired_leaves_nothing_of_ours(glued: Node) -> None:
    glued.apply(diff(NOTHING, glued.space.netns.run(glued.target.observe)))
    assert not glued.space.netns.run(glued.target.observe)
    assert not any("bpf" in glued.filters(netdev) for netdev in NETDEVS)


def test_other_nic_in_the_configuration_frees_the_old_one(glued: Node) -> None:
    glued.space.ip("link", "add", "name", "nic1", "type", "veth", "peer", "name", "wire1")
    glued.converge(desired(port(), nic="nic1"))
    assert "overweave:underlay" not in glued.filters("nic0")
    assert "overweave:underlay" in glued.filters("nic1")


def test_detached_port_goes(glued: Node) -> None:
    change = glued.converge(desired())
    assert sizes(change.remove.values()) == OF_A_PORT
    assert len(change) == len(change.remove)
    assert "bpf" not in glued.filters("vp1")


def test_an_incomplete_view_takes_nothing_away(glued: Node) -> None:
    blind = {
        name: replace(view, synced=False, flood=()) for name, view in ONE_PORT.segments.items()
    }
    assert not glued.change(replace(ONE_PORT, segments=blind))
    seeing = {name: replace(view, synced=True) for name, view in blind.items()}
    change = glued.converge(replace(ONE_PORT, segments=seeing))
    assert sizes(change.remove.values()) == {"members": SIZES["members"]}


def test_changed_address_replaces_the_old_one(glued: Node) -> None:
    change = glued.converge(desired(port(), vteps=("10.9.0.7", OWN6)))
    assert (len(change.add), len(change.update), len(change.remove)) == (2, 0, 2)


def test_blocked_port_is_joined_too(node: Node) -> None:
    blocked = node.target.render(desired(port(state=PortState.BLOCKED)), node.bindings())
    active = node.target.render(ONE_PORT, node.bindings())
    assert {key: active.items[key] for key in blocked.items} == blocked.items
    left_out = [item for key, item in active.items.items() if key not in blocked.items]
    assert sizes(left_out) == {"ports": 1, "entries": 1, "neighbours": 1}


@pytest.mark.parametrize(
    ("missing", "pending", "joined"),
    [
        pytest.param(
            {"ot1"},
            [Pending(("c1", "eth0"), "there is no netdev ot1 yet")],
            {"nic0", "ophy0"},
            id="ovs-port",
        ),
        pytest.param(
            {"vp1", "ot1"},
            [Pending(("c1", "eth0"), "there is no netdev vp1 or ot1 yet")],
            {"nic0", "ophy0"},
            id="whole-port",
        ),
        pytest.param(
            {"ophy0"},
            [Pending("nic0", "there is no netdev ophy0 yet")],
            {"vp1", "ot1"},
            id="ophy",
        ),
        pytest.param(set(), [], set(NETDEVS), id="none"),
    ],
)
def test_what_cannot_be_joined_is_pending(
    node: Node, missing: set[str], pending: list[Pending], joined: set[str]
) -> None:
    """The program is there all the same: what is known goes without Open vSwitch."""
    found = {name: n for name, n in node.bindings().ifindexes.items() if name not in missing}
    rendering = node.target.render(ONE_PORT, Bindings(ifindexes=found))
    assert list(rendering.pending) == pending
    filters = [item for item in rendering.items.values() if isinstance(item, FilterItem)]
    assert {item.netdev for item in filters} == set(NETDEVS) - missing
    keys = {("glue", encode_ifindex(found[name])) for name in joined}
    assert {key for key in rendering.items if key in keys} == keys
    assert sizes(rendering.items.values())["glue"] == len(keys)


def test_with_the_kernels_datapath_the_nic_leaves_the_rest_to_the_host(node: Node) -> None:
    plain = desired(port())
    wanted = replace(plain, node=replace(plain.node, datapath=Datapath.KERNEL))
    change = node.converge(wanted)
    assert {item.netdev for item in change.add.values() if isinstance(item, FilterItem)} == {
        *("nic0", "vp1", "ot1")
    }
    with (
        node.tap("wire0") as wire,
        node.tap("inphy") as ovs,
        host_socket(node.space, 6081) as host,
    ):
        wire.send(bytes(FROM_WIRE / IP(src=PEER4, dst=OWN4) / TO_GENEVE))
        assert host.recv(1000).endswith(MARKER)
        assert not ovs.received(MARKER[:8], 0.2)


def test_netdev_that_vanishes_meanwhile_costs_only_itself(node: Node) -> None:
    change = node.change(ONE_PORT)
    node.space.ip("link", "delete", "ot1")
    with pytest.raises(TargetError, match=r"ovs_port on ot1: .*No such device"):
        node.apply(change)
    with node.tap("wire0") as wire, node.tap("inphy") as ovs:
        wire.send(bytes(FROM_WIRE / IP(src=PEER4, dst=OWN4) / TO_GENEVE))
        assert len(ovs.received(MARKER)) == 1


def test_new_programs_replace_the_old_ones_without_a_lost_packet(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(loader.SOURCE, source, ignore=shutil.ignore_patterns("*.py", "stubs"))
    with mounted_bpffs(tmp_path / "bpf") as bpffs, wired(load(bpffs, source)) as old:
        old.converge(ONE_PORT)
        with (source / "overlay.c").open("a", encoding="utf-8") as file:
            file.write("/* the next version */\n")
        new = replace(old, target=FastpathTarget(load(bpffs, source)))
        sent, received = replace_under_traffic(old, new)
        new.target.close()
    print(f"{sent} frames while the programs were replaced 40 times")
    assert received == sent > 0


def replace_under_traffic(old: Node, new: Node) -> tuple[int, int]:
    """Return how many frames a pod sent meanwhile, and how many arrived."""
    frame = bytes(Ether(dst="02:00:00:00:01:02") / IP() / MARKER)
    done = threading.Event()
    with old.tap("pod1") as pod, old.tap("in1") as ovs, ThreadPoolExecutor(1) as pool:
        counting = pool.submit(send_until, done, pod, frame)
        for node in (new, old) * 20:
            change = node.converge(ONE_PORT)
            assert len(change.update) == len(change) == 4
        done.set()
        return counting.result(), len(ovs.received(MARKER))


def send_until(done: threading.Event, tap: Tap, frame: bytes) -> int:
    count = 0
    while not done.is_set():
        tap.send(frame)
        count += 1
        time.sleep(0.0002)
    return count


def test_entries_are_there_while_their_program_is(node: Node) -> None:
    """The order of single changes, which no packet can be timed to show."""
    change = node.change(ONE_PORT)
    both = Change(add=change.add, update=change.add, remove=change.add)
    with Rtnl() as rtnl:
        steps = [item for item, _ in node.target._steps(rtnl, both)]
    gone, come = steps[: sum(SIZES.values())], steps[sum(SIZES.values()) :]
    assert [type(item) for item in gone] == sorted(map(type, gone), key=lambda t: t is EntryItem)
    assert sizes(come) == {name: 2 * size for name, size in SIZES.items()}
    programs = [item.map_name if isinstance(item, EntryItem) else item.program for item in come]
    for program, entries in NEEDS.items():
        first = programs.index(program)
        assert not entries & set(programs[first:]), program


def test_a_pod_may_send_before_anything_is_sent_to_it(node: Node) -> None:
    """Its ARP request for whom it answers would be lost, and asked again after a second."""
    change = node.change(ONE_PORT)
    with Rtnl() as rtnl:
        come = [item for item, _ in node.target._steps(rtnl, change)]
    ifindex = encode_ifindex(node.bindings().ifindexes["vp1"])
    (vp1,) = (n for n, item in enumerate(come) if str(item) == "access_port on vp1")
    leads = [n for n, item in enumerate(come) if leads_to(item, ifindex)]
    assert len(leads) == 2
    assert min(leads) > vp1
    assert ("glue", ifindex) in [item.key for item in come[:vp1]]


def leads_to(item: object, ifindex: bytes) -> bool:
    if not isinstance(item, EntryItem) or item.map_name not in ("glue", "entries"):
        return False
    return item.value.startswith(ifindex)


def test_a_node_full_of_ports(glued: Node) -> None:
    for slot in range(2, 100):
        glued.space.ip("link", "add", f"vp{slot}", "type", "veth", "peer", "name", f"ot{slot}")
    wanted = desired(*(port(slot) for slot in range(1, 100)))
    begin = time.monotonic()
    change = glued.change(wanted)
    glued.apply(change)
    joined = time.monotonic()
    found = glued.space.netns.run(glued.target.observe)
    observed = time.monotonic()
    print(f"99 ports: {joined - begin:.3f} s to join, {observed - joined:.4f} s to observe")
    assert sizes(change.add.values()) == {name: 98 * n for name, n in OF_A_PORT.items()}
    assert len(change.add) == len(change)
    assert len(found) == sum(SIZES.values()) + len(change)


def count_a_packet(node: Node) -> tuple[bytes, bytes]:
    """Count a packet of an entry, as a program does; return the entry."""
    with open_map(node.pins.map("entries")) as entries:
        ((key, value),) = entries.items()
        used = value[:-16] + (1).to_bytes(8, sys.byteorder) + (60).to_bytes(8, sys.byteorder)
        entries.update(key, used)
        return key, used


def test_an_entry_in_use_is_as_it_should_be(glued: Node) -> None:
    key, used = count_a_packet(glued)
    assert not glued.change(ONE_PORT)
    glued.converge(ONE_PORT)
    with open_map(glued.pins.map("entries")) as entries:
        assert entries.lookup(key) == used
    assert traffic_of(used) == Traffic(1, 60)


def counting(node: Node) -> set[int]:
    with open_map(node.pins.map("counters")) as counters:
        return {decode_counter_key(key)[0] for key, _ in counters.items()}


def test_counters_of_a_port_go_with_it(glued: Node) -> None:
    vp1, nic0 = (glued.space.ifindex(name) for name in ("vp1", "nic0"))
    with glued.tap("pod1") as pod, glued.tap("in1") as ovs:
        for packet in (IP(), ARP(), Dot1Q(vlan=7)):
            pod.send(bytes(Ether(src=port().attachment.mac, dst=WIRE_MAC) / packet / MARKER))
        assert len(ovs.received(MARKER)) == 3
    with glued.tap("wire0") as wire, glued.tap("inphy") as ovs:
        wire.send(bytes(FROM_WIRE / IP(src=PEER4, dst=OWN4) / TO_GENEVE))
        assert len(ovs.received(MARKER)) == 1
    assert counting(glued) == {vp1, nic0}
    glued.converge(desired())
    assert counting(glued) == {nic0}


# A map that is full


@pytest.fixture
def two_ports(node: Node) -> Node:
    node.space.ip("link", "add", "vp2", "type", "veth", "peer", "name", "ot2")
    return node


@contextmanager
def with_room(node: Node, rooms: Mapping[str, int]) -> Iterator[Node]:
    """Yield the node with a Target whose maps have room for so many entries."""
    maps = node.pins.maps.with_name("maps_small")
    maps.mkdir()
    for spec in MAPS:
        room = rooms.get(spec.name)
        path = node.pins.map(spec.name)
        with open_map(path) if room is None else create_map(replace(spec, max_entries=room)) as one:
            pin(one.fd, maps / spec.name)
    target = FastpathTarget(replace(node.pins, maps=maps))
    try:
        yield replace(node, target=target)
    finally:
        target.close()
        for path in maps.iterdir():
            path.unlink()
        maps.rmdir()


@pytest.mark.parametrize("name", ["ports", "entries", "neighbours"])
def test_what_does_not_fit_stays_on_ovs_and_the_rest_is_done(two_ports: Node, name: str) -> None:
    both, left = desired(port(1), port(2)), OF_A_PORT[name]
    with with_room(two_ports, {name: OF_A_PORT[name]}) as node:
        with pytest.raises(PartlyRefusedError, match=f"map {name}: table-full, {left} ") as refused:
            node.apply(node.change(both))
        assert list(refused.value.refused) == [FullMap(name)]
        assert refused.value.standing
        assert sizes(node.change(both).add.values()) == {name: left}
        with pytest.raises(PartlyRefusedError):  # it is tried again, and nothing else is
            node.apply(node.change(both))
        change = node.change(desired(port(2)))
        assert sizes(change.remove.values()) == OF_A_PORT
        node.apply(change)  # which needs the room that becomes free
        assert not node.change(desired(port(2)))


def test_a_full_map_takes_new_values_of_what_it_holds(two_ports: Node) -> None:
    with with_room(two_ports, {"entries": 1}) as node:
        node.converge(ONE_PORT)
        node.space.ip("link", "delete", "vp1")
        add_netdev(node.space, node.ends, "vp1")
        change = node.converge(ONE_PORT)
        assert sizes(change.update.values())["entries"] == 1


@pytest.mark.parametrize("name", ["glue", "own", "members"])
def test_what_ovs_cannot_do_without_is_a_fault(two_ports: Node, name: str) -> None:
    room = SIZES[name] - 1
    with with_room(two_ports, {name: room}) as node:
        with pytest.raises(TargetError, match="Argument list too long") as failed:
            node.apply(node.change(ONE_PORT))
        assert not isinstance(failed.value, PartlyRefusedError)
        assert sizes(node.change(ONE_PORT).add.values()) == {name: 1}
