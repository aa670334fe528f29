"""Nodes we did not write: the Linux kernel's VXLAN device, and an Open vSwitch wired by hand.

Both are set up with the commands a person would type, through none of our own adapters: what they
agree with us about, they agree about as strangers.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path

from dataplane.core.errors import OverweaveError
from dataplane.core.model import IpAddress
from dataplane.lab.layout import FOREIGN, LabPaths
from dataplane.lab.probes import Station
from dataplane.lab.underlay import NIC, ensure_namespace
from dataplane.netlink import netns
from ovs_client import process
from ovs_client.daemons import OvsInstance, Place, find_program, run
from ovs_client.ofctl import Flow, OpenFlowBridge
from ovs_client.unixctl import Unixctl

_INT, _PHY, _UPLINK = "br-int", "br-phy", "fphy0"
# Of its tc filters: behind Overweave's 100, so that they see only what ours lets pass.
_PREFERENCES = {"all": "206", "ip": "207", "ipv6": "208"}
_IFNAME = "eth0"
_ROUTES_S = 2.0


@dataclass(frozen=True, slots=True)
class Tunnel:
    """What both ends must agree on: ``kind`` geneve or vxlan, the VNI, the UDP destination port."""

    kind: str
    vni: int
    port: int


@dataclass(frozen=True, slots=True)
class Guest:
    """A pod of a foreign node; ``ips`` with their prefix lengths, ``mtu`` in bytes."""

    name: str
    mac: str
    ips: tuple[str, ...]
    mtu: int


def run_kernel_vxlan(paths: LabPaths, node: str, tunnel: Tunnel, ends: Sequence[IpAddress]) -> str:
    """Make a bridge with the kernel's VXLAN device in ``node``; return the bridge's name.

    ``ends`` are its own VTEP, then those it floods to. MACs are learned from what arrives.
    """
    space = paths.netns(node)
    bridge, device = _names(tunnel)
    local, *remotes = ends
    ip(space, "link", "add", bridge, "type", "bridge")
    ip(space, "link", "set", bridge, "up")
    words = ["id", str(tunnel.vni), "dstport", str(tunnel.port), "local", str(local)]
    if local.version == 6:
        # RFC 6935: zero is what Overweave sends, and what this end must be told to accept.
        words += ["udp6zerocsumtx", "udp6zerocsumrx"]
    ip(space, "link", "add", device, "type", "vxlan", *words)
    ip(space, "link", "set", device, "master", bridge, "up")
    for remote in remotes:
        entry = ["fdb", "append", "00:00:00:00:00:00", "dev", device, "dst", str(remote)]
        command(["nsenter", f"--net={space}", "bridge", *entry])
    return bridge


def remove_kernel_vxlan(paths: LabPaths, node: str, tunnel: Tunnel) -> None:
    """Take the bridge and the VXLAN device of a tunnel away."""
    for name in _names(tunnel):
        ip(paths.netns(node), "link", "delete", name)


def plug_guest(paths: LabPaths, node: str, guest: Guest, bridge: str) -> Station:
    """Make a pod's namespace and plug it into a Linux bridge of ``node``."""
    port = f"v{guest.name}"[:15]
    station = _make_guest(paths, node, guest, port)
    ip(paths.netns(node), "link", "set", port, "master", bridge)
    return station


def remove_guest(paths: LabPaths, guest: Guest) -> None:
    """Take a guest's namespace away, and its cable with it."""
    netns.delete(paths.netns(guest.name).name)


class PlainOvs:
    """An Open vSwitch of somebody else on ``node``: a bridge for each network, with learning.

    Its userspace datapath hangs on the node's NIC by tc u32 and mirred alone, for one UDP ``port``.
    """

    def __init__(self, paths: LabPaths, node: str, port: int) -> None:
        """Prepare it in a directory of its own; nothing runs before ``start``."""
        self._paths = paths
        self._node = node
        self._port = port
        self._space = paths.netns(node)
        directory = paths.directory / FOREIGN / node
        self.instance = OvsInstance(Place(directory, directory, self._space))

    def start(self, own: Sequence[str]) -> None:
        """Start it and hang it on the NIC; ``own`` are the NIC's addresses with prefix lengths."""
        self.instance.start()
        hwaddr = f"other-config:hwaddr={_quoted(mac_of(self._space, NIC))}"
        self._add_bridge(_PHY, "fail_mode=secure", hwaddr)
        # The datapath's own tap, which every userspace instance wants under this name.
        ip(self._space, "link", "set", "ovs-netdev", "name", "fovs-netdev")
        self._add_port(_PHY, _UPLINK, "type=internal", "ofport_request=1")
        self._join(_PHY, _UPLINK)
        for address in own:
            family = ["nodad"] if ":" in address else []
            ip(self._space, "address", "add", address, "dev", _PHY, *family, "noprefixroute")
        self._keep_own_routes_from_it(len(own))
        self._call("tnl/neigh/aging", "3600")

    def connect(self, tunnel: Tunnel, peers: Mapping[IpAddress, str]) -> None:
        """Make a bridge with a tunnel port to each peer, whose MAC on the underlay is given."""
        bridge = f"{_INT}{tunnel.vni}"
        self._add_bridge(bridge)
        for number, (peer, mac) in enumerate(peers.items()):
            name, remote = f"t{tunnel.vni}-{number}", f"options:remote_ip={_quoted(str(peer))}"
            options = (f"options:key={tunnel.vni}", f"options:dst_port={tunnel.port}")
            self._add_port(bridge, name, f"type={tunnel.kind}", remote, *options)
            # Protected ports do not forward to each other: the split horizon of a full mesh.
            self._vsctl("set", "port", name, "protected=true")
            self._call("ovs/route/add", f"{peer}/{peer.max_prefixlen}", _PHY)
            self._call("tnl/neigh/set", _PHY, str(peer), mac)

    def plug_guest(self, tunnel: Tunnel, guest: Guest) -> Station:
        """Make a pod on this node: veth and internal port, joined by mirred."""
        veth, port = f"v{guest.name}"[:15], f"i{guest.name}"[:15]
        station = _make_guest(self._paths, self._node, guest, veth)
        mtu = f"mtu_request={guest.mtu}"
        self._add_port(f"{_INT}{tunnel.vni}", port, "type=internal", mtu)
        ip(self._space, "link", "set", port, "up")
        for source, target in ((veth, port), (port, veth)):
            self._redirect(source, target, "all", "match", "u32", "0", "0")
        return station

    def stop(self) -> None:
        """End it with its devices."""
        self.instance.stop(cleanup=True)

    def _join(self, bridge: str, uplink: str) -> None:
        """Pass everything between the bridge's tunnels and the NIC, but only tunnel packets in."""
        socket = self.instance.place.directory / f"{bridge}.mgmt"
        both = [Flow(0, 1, "in_port=1", "LOCAL"), Flow(0, 1, "in_port=LOCAL", "output:1")]
        OpenFlowBridge(socket).apply_bundle(both, ())
        ip(self._space, "link", "set", uplink, "up")
        self._redirect(uplink, NIC, "all", "match", "u32", "0", "0")
        for protocol, key in (("ip", "ip"), ("ipv6", "ip6")):
            udp = ("match", key, "protocol", "17", "0xff")
            port = ("match", key, "dport", str(self._port), "0xffff")
            self._redirect(NIC, uplink, protocol, *udp, *port)

    def _keep_own_routes_from_it(self, count: int) -> None:
        """Delete the kernel's routes to the addresses of its bridge: one for each of ``count``.

        Else every change of any link of the node, also of those not ours, costs it tunnel packets.
        """
        table = ("table", "local", "dev", _PHY)

        def found() -> list[tuple[str, str]]:
            listed = [
                (f, command(["ip", "-n", self._space.name, f, "route", "show", *table]))
                for f in ("-4", "-6")
            ]
            return [
                (family, line.split()[1]) for family, text in listed for line in text.splitlines()
            ]

        process.wait_until(lambda: len(found()) == count, _ROUTES_S)  # IPv6's comes a moment later
        for family, address in found():
            command(
                ["ip", "-n", self._space.name, family, "route", "del", "local", address, *table]
            )

    def _redirect(self, source: str, target: str, protocol: str, *match: str) -> None:
        clsact = ["tc", "-n", self._space.name, "qdisc", "add", "dev", source, "clsact"]
        subprocess.run(clsact, capture_output=True, check=False)  # it may be there: kept, not ours
        place = ["dev", source, "ingress", "protocol", protocol, "pref", _PREFERENCES[protocol]]
        action = ["action", "mirred", "egress", "redirect", "dev", target]
        command(["tc", "-n", self._space.name, "filter", "add", *place, "u32", *match, *action])

    def _add_bridge(self, name: str, *columns: str) -> None:
        set_columns = ["--", "set", "bridge", name, "datapath_type=netdev", *columns]
        self._vsctl("add-br", name, *set_columns)

    def _add_port(self, bridge: str, name: str, *columns: str) -> None:
        self._vsctl("add-port", bridge, name, "--", "set", "interface", name, *columns)

    def _vsctl(self, *words: str) -> None:
        run([find_program("ovs-vsctl"), f"--db={self.instance.remote}", "--timeout=10", *words])

    def _call(self, *words: str) -> None:
        Unixctl(self.instance.place.directory).call(*words)


def mac_of(space: Path, device: str) -> str:
    """Return the MAC of a netdev in a namespace."""
    shown = command(["ip", "-n", space.name, "-br", "link", "show", "dev", device])
    return shown.split()[2]


def ip(space: Path, *words: str) -> None:
    """Run the command ip in a namespace. Raises OverweaveError with its words."""
    command(["ip", "-n", space.name, *words])


def command(words: Sequence[str]) -> str:
    """Run a command and return what it printed. Raises OverweaveError with its words."""
    result = subprocess.run(words, capture_output=True, text=True, check=False)
    if result.returncode:
        raise OverweaveError(f"{' '.join(words)}: {result.stderr.strip()}")
    return result.stdout


def _names(tunnel: Tunnel) -> tuple[str, str]:
    return f"br{tunnel.vni}", f"vx{tunnel.vni}"


def _make_guest(paths: LabPaths, node: str, guest: Guest, port: str) -> Station:
    """Make a namespace with an interface whose other end is ``port`` on ``node``, up."""
    space = paths.netns(guest.name)
    ensure_namespace(space)
    mtu = ["mtu", str(guest.mtu)]
    peer = ["peer", "name", _IFNAME, "netns", space.name, "address", guest.mac, *mtu]
    ip(paths.netns(node), "link", "add", port, *mtu, "type", "veth", *peer)
    ip(paths.netns(node), "link", "set", port, "up")
    ip(space, "link", "set", _IFNAME, "up")
    for address in guest.ips:
        ip(space, "address", "add", address, "dev", _IFNAME, *(["nodad"] if ":" in address else []))
    addresses = tuple(ip_interface(address).ip for address in guest.ips)
    return Station(guest.name, space, _IFNAME, guest.mac, addresses, guest.mtu)


def _quoted(text: str) -> str:
    return f'"{text}"'
