"""A real Open vSwitch to ask what it does with a frame, in a namespace and directories of its own.

Frames go in and come out at the very devices that pods and the NIC are glued to. No test waits for
a frame that must not come: a sentinel that was sent after it, twice, has come instead.
"""

import ctypes
import os
import socket
import struct
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet

from dataplane.core.model import Encap, IpAddress
from ovs_client.daemons import OVS_SCHEMA, DatabaseServer, OvsInstance, Place
from tests.unit.overlay_builders import NIC, OWN4, OWN6, TUNNELS

SENTINEL_FLOW = "priority=65000,in_port=5001,actions=output:5002"
GATEWAY_MAC = "02:00:00:00:77:02"
_CLONE_NEWNET = 0x40000000
_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_AUXDATA, _PACKET_QDISC_BYPASS = 263, 8, 20  # linux/if_packet.h
_TP_STATUS_VLAN_VALID = 1 << 4
_REVALIDATED_S = 5.0
_SENTINEL = b"\xff" * 6 + b"\x02\x00\x00\x00\xee\x01" + b"\x88\xb5" + bytes(46)
_PORTS = {Encap.GENEVE: 6081, Encap.VXLAN: 4789}

Result = TypeVar("Result")


@dataclass(frozen=True)
class Underlay:
    """What a node's NIC has."""

    mac: str
    address4: IpAddress
    address6: IpAddress

    def own(self, vtep: IpAddress) -> IpAddress:
        """Return the address of ``vtep``'s family."""
        return self.address4 if vtep.version == 4 else self.address6


FIRST_NODE = Underlay(NIC.mac, OWN4, OWN6)


@dataclass(frozen=True)
class Tunnelled:
    """An encapsulated frame as it stands on the wire."""

    encap: Encap
    vni: int
    source: str
    target: str

    def __str__(self) -> str:
        return f"{self.encap}:{self.vni}>{self.target}"


class Switch:
    """An OvsInstance in a namespace, the usual tools for it, and sockets on its ports."""

    def __init__(self, ovs: OvsInstance, underlay: Underlay) -> None:
        assert ovs.place.netns is not None
        self.ovs = ovs
        self.underlay = underlay
        self.netns = ovs.place.netns
        self.rundir = ovs.place.directory
        self.sockets: dict[str, socket.socket] = {}

    def furnish(self, slots: Iterable[int]) -> None:
        """Make our bridges, the tunnel ports and internal ports ot1..otN, all up and quiet."""
        ports = [f"ot{slot}" for slot in slots]
        self._create(ports)
        names = [*ports, "ophy0", "sent", "seen"]
        self.sockets = in_netns(self.netns, lambda: {name: opened(name) for name in names})

    def close(self) -> None:
        for each in self.sockets.values():
            each.close()

    def ask(self, device: str, frame: bytes) -> dict[str, list[bytes]]:
        """Return the frames that come out, by device, when ``frame`` comes from ``device``."""
        for each in self.sockets.values():
            drain(each)
        self.sockets[device].send(frame)
        self.settle()
        return {
            name: frames
            for name, each in self.sockets.items()
            if name not in ("sent", "seen") and (frames := drain(each))
        }

    def ask_until(self, device: str, frame: bytes, answer: dict[str, list[bytes]]) -> None:
        """Ask until ``answer`` comes: for a moment after a change OVS still uses a cached flow."""
        give_up = time.monotonic() + _REVALIDATED_S
        while (found := self.ask(device, frame)) != answer:
            assert time.monotonic() < give_up, found

    def settle(self) -> None:
        """Return once all frames sent so far have been switched.

        OVS polls its ports in turn: once a second sentinel has passed, each was polled.
        """
        for _ in range(2):
            self.sockets["sent"].send(_SENTINEL)
            self.sockets["seen"].settimeout(5)
            while self.sockets["seen"].recv(2000) != _SENTINEL:
                pass

    def control(self, *words: str) -> str:
        """Run an ovs-appctl command, independently of the code under test."""
        pid = (self.rundir / "ovs-vswitchd.pid").read_text(encoding="ascii").strip()
        return _run("ovs-appctl", "-t", f"{self.rundir}/ovs-vswitchd.{pid}.ctl", *words)

    def configure(self, *words: str) -> str:
        """Run an ovs-vsctl command, independently of the code under test."""
        return _run("ovs-vsctl", f"--db={self.ovs.remote}", "--timeout=20", *words)

    def openflow(self, command: str, bridge: str, *words: str) -> str:
        """Run an ovs-ofctl command, independently of the code under test."""
        socket_name = f"unix:{self.rundir / bridge}.mgmt"
        return _run("ovs-ofctl", "-O", "OpenFlow14", command, socket_name, *words)

    def ip(self, *words: str) -> str:
        """Run the tool of iproute2 in the namespace."""
        return _run("nsenter", f"--net={self.netns}", "ip", *words)

    def route(self, vtep: IpAddress) -> None:
        """Teach OVS the way to ``vtep``."""
        own = self.underlay.own(vtep)
        self.control("ovs/route/add", f"{vtep}/{vtep.max_prefixlen}", "ow-phy", str(own))
        self.control("tnl/neigh/set", "ow-phy", str(own), GATEWAY_MAC)

    def sysctl(self, device: str, disable_ipv6: int) -> None:
        setting = f"net.ipv6.conf.{device}.disable_ipv6={disable_ipv6}"
        _run("nsenter", f"--net={self.netns}", "sysctl", "-qw", setting)

    def _create(self, ports: list[str]) -> None:
        words: list[str] = []
        for bridge in ("ow-int", "ow-phy"):
            words += ["--", "add-br", bridge, "--", "set", "bridge", bridge]
            words += ["datapath_type=netdev", "fail_mode=secure"]
        words += [f'other_config:hwaddr="{self.underlay.mac}"']
        words += _port("ow-phy", "ophy0", TUNNELS["ophy0"], "type=internal")
        for encap in ("geneve", "vxlan"):
            flow_based = (f"type={encap}", "options:remote_ip=flow", "options:key=flow")
            words += _port("ow-int", f"ow-{encap}", TUNNELS[f"ow-{encap}"], *flow_based)
        for name in ports:
            words += _port("ow-int", name, 100 + int(name.removeprefix("ot")), "type=internal")
        words += _port("ow-int", "sent", 5001, "type=internal")
        words += _port("ow-int", "seen", 5002, "type=internal")
        self.sysctl("default", 1)  # devices say nothing of their own
        self.configure(*words[1:])
        for name in (*ports, "ophy0", "sent", "seen"):
            self.ip("link", "set", name, "up")
        self.sysctl("ow-phy", 0)
        own4, own6 = f"{self.underlay.address4}/32", f"{self.underlay.address6}/128"
        self.ip("addr", "add", own4, "dev", "ow-phy", "noprefixroute")
        self.ip("-6", "addr", "add", own6, "dev", "ow-phy", "nodad", "noprefixroute")
        self.openflow("add-flow", "ow-int", SENTINEL_FLOW)


@contextmanager
def running_ovs(directory: Path, options: tuple[str, ...] = ()) -> Iterator[OvsInstance]:
    """Provide an Open vSwitch without bridges in ``directory`` and a namespace of its own.

    ``options`` are words of ovsdb-server(1).
    """
    name = f"hlpd-{uuid.uuid4().hex[:8]}"
    _run("ip", "netns", "add", name)
    ovs = OvsInstance(Place(directory / "ovs", directory / "log", Path("/run/netns") / name))
    try:
        DatabaseServer(ovs.place, OVS_SCHEMA, options).start()
        ovs.start()
        yield ovs
    finally:
        ovs.stop()
        _run("ip", "netns", "delete", name)


@contextmanager
def running_switch(
    directory: Path,
    slots: Iterable[int] = (),
    *,
    underlay: Underlay = FIRST_NODE,
    bare: bool = False,
) -> Iterator[Switch]:
    """Provide a Switch in ``directory`` and a namespace of its own; ``bare``: without bridges."""
    with running_ovs(directory) as ovs:
        switch = Switch(ovs, underlay)
        try:
            if not bare:
                switch.furnish(slots)
            yield switch
        finally:
            switch.close()


def encapsulate(encap: Encap, vni: int, source: IpAddress, inner: Packet | bytes) -> bytes:
    """Return the frame by which ``source`` sends ``inner`` to this node."""
    family, own = (IP, OWN4) if source.version == 4 else (IPv6, OWN6)
    outer = family(src=str(source), dst=str(own))
    header = GENEVE(vni=vni) if encap is Encap.GENEVE else VXLAN(vni=vni, flags=8)
    udp = UDP(sport=50000, dport=_PORTS[encap])
    return bytes(Ether(src=GATEWAY_MAC, dst=NIC.mac) / outer / udp / header / Ether(bytes(inner)))


def decapsulate(frame: bytes) -> tuple[Tunnelled, bytes]:
    """Return how an encapsulated frame travels, and what is in it."""
    outer = Ether(frame).payload
    encap = next(encap for encap, number in _PORTS.items() if outer[UDP].dport == number)
    kind = GENEVE if encap is Encap.GENEVE else VXLAN
    header = kind(bytes(outer[UDP].payload))  # whatever scapy guessed from the source port
    inner = bytes(header.payload)
    return Tunnelled(encap, header.vni, outer.src, outer.dst), inner


def outputs(answer: dict[str, list[bytes]]) -> list[str]:
    """Return where frames came out, sorted: devices, and tunnels as ``geneve:VNI>VTEP``."""
    found: list[str] = []
    for device, frames in answer.items():
        tunnelled = device == "ophy0"
        found += [str(decapsulate(frame)[0]) if tunnelled else device for frame in frames]
    return sorted(found)


def in_netns(netns: Path, function: Callable[[], Result]) -> Result:
    """Run ``function`` in a thread that has entered ``netns``."""
    result: list[Result] = []

    def enter_and_run() -> None:
        with netns.open("rb") as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), f"cannot enter {netns}")
        result.append(function())

    thread = threading.Thread(target=enter_and_run)
    thread.start()
    thread.join()
    return result[0]


def _port(bridge: str, name: str, ofport: int, *columns: str) -> list[str]:
    made = ["--", "add-port", bridge, name, "--", "set", "interface", name, *columns]
    return [*made, f"ofport_request={ofport}"]


def opened(device: str) -> socket.socket:
    made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    made.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
    # A busy machine may send what waits in a queue long after what was sent elsewhere since.
    made.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
    made.bind((device, 0))
    return made


def drain(opened: socket.socket) -> list[bytes]:
    """Return what the device delivered, without what was sent by it."""
    frames = []
    opened.settimeout(0)
    try:
        while True:
            frame, told, _, address = opened.recvmsg(9000, 64)
            if address[2] != socket.PACKET_OUTGOING:
                frames.append(_tagged(frame, told))
    except BlockingIOError:
        return frames


def _tagged(frame: bytes, told: list[tuple[int, int, bytes]]) -> bytes:
    """Return a frame with the tag that the kernel took off (packet(7), PACKET_AUXDATA)."""
    for level, kind, data in told:
        status, _, _, _, _, tag, ethertype = struct.unpack("=IIIHHHH", data)
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA) and status & _TP_STATUS_VLAN_VALID:
            return frame[:12] + struct.pack("!HH", ethertype, tag) + frame[12:]
    return frame


def _run(*words: str) -> str:
    result = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
    )
    assert result.returncode == 0, f"{' '.join(words)}: {result.stderr}"
    return result.stdout
