"""A host, its DPU and a plain node as real agents: a pod on a VF talks to pods on veths.

VF and representor are TAPs, joined by a relay that stands for a switch whose tables are empty, and
that nobody can ask. On one of the DPUs eBPF cannot be loaded; there host and DPU share a socket, in
the other world a network alone, and each shows the other its certificate. One VF is for a runtime
that calls our CNI plugin, the other for a DPU operator's daemons, to whom our agents are a vendor's
plugin.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from dataplane.core.inventory import REFRESH_S
from dataplane.lab.runtime import PluginError, invoke
from dataplane.netlink.netns import Netns
from dataplane.opi import l2_xpu_infra_mgr_pb2 as opi
from dataplane.opi import l2_xpu_infra_mgr_pb2_grpc as opi_rpc
from dataplane.opi import lifecycle_pb2 as lifecycle
from dataplane.opi import lifecycle_pb2_grpc as lifecycle_rpc
from dataplane.opi import network_function_pb2 as nf
from dataplane.opi import network_function_pb2_grpc as nf_rpc
from ovs_client.daemons import OvsInstance, Place
from tests.functional.certificates import Pki
from tests.functional.overlay_switch import drain, in_netns, opened
from tests.functional.test_cli_agent import OVERWEAVE, SEGMENT, STATED_S, World, ip, netns
from tests.unit.sysfs_trees import Tree, vital_product_data

VF, OPERATORS_VF = "0000:06:00.2", "0000:06:00.3"
SERIAL = "M1"
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
MEMBERS = ("h", "d", "n", "p1", "p2", "p3", "p4", "p5", "f")
OPERATORS_POD = "10.1.15.250/20"  # of the operator's own IPAM
GREEN = "kind: Segment\nname: green\nvni: 8\nsubnets: [10.2.0.0/24]\n"
NODES = ("h", "d", "n")
DEAD_S, BACK_S, REFUSED_S = 3.0, 2.0, 2.0  # as stated: a DPU seen to be dead, and alive; an ADD
CHANNEL = {"h": "203.0.113.1", "d": "203.0.113.2"}  # RFC 5737, of nothing but host and DPU
PORT = 50052


def tap(space: str, name: str) -> int:
    with Netns(str(netns(space))) as inside:
        wire = inside.run(lambda: os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK))
        request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
        inside.run(lambda: fcntl.ioctl(wire, _TUNSETIFF, request))
    return wire


class Relay:
    """Carries every frame from one TAP to the other."""

    def __init__(self, one: int, other: int) -> None:
        self._ways = {one: other, other: one}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()
        for wire in self._ways:
            os.close(wire)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for wire in select.select([*self._ways], [], [], 0.05)[0]:
                try:
                    os.write(self._ways[wire], os.read(wire, 1 << 16))
                except OSError:
                    self._stopping.wait(0.01)  # one of them is down, or gone


class DpuWorld(World):
    """Host h, its DPU d, plain node n; pods p1, p4 on h, p2 and function f on d, p3, p5 on n."""

    hidden: Path | None = None
    relay: Relay | None = None
    pki: Pki | None = None  # None: host and DPU share a socket
    on_vf: Any = None  # what the plugin has answered for the pod on the VF
    operators_relay: Relay | None = None
    function: Function | None = None

    def make_namespaces(self) -> None:
        for name in MEMBERS:
            ip("netns", "add", netns(name).name)
        for one, other in (("d", "n"), ("h", "p2")):  # h only needs a NIC that leads nowhere
            peer = ["peer", "name", "eth0" if other == "n" else "away"]
            link = ["link", "add", "eth0", "netns", netns(one).name, "type", "veth"]
            ip(*link, *peer, "netns", netns(other).name)
        for number, name in enumerate(NODES, start=1):
            ip("-n", netns(name).name, "link", "set", "lo", "up")
            ip("-n", netns(name).name, "link", "set", "eth0", "up")
            ip("-n", netns(name).name, "addr", "add", f"192.0.2.{number}/24", "dev", "eth0")
        near = ["link", "add", "channel", "netns", netns("h").name, "type", "veth"]
        ip(*near, "peer", "name", "channel", "netns", netns("d").name)
        for name, address in CHANNEL.items():
            ip("-n", netns(name).name, "link", "set", "channel", "up")
            ip("-n", netns(name).name, "addr", "add", f"{address}/24", "dev", "channel")
        self.join()
        self.operators_relay = Relay(tap("h", "vf1"), tap("d", "rep1"))

    def join(self) -> None:
        """Make VF and representor, as an emulator does."""
        self.relay = Relay(tap("h", "vf0"), tap("d", "rep0"))

    def reboot(self) -> None:
        """Take from the DPU all that a machine without a disk loses, then start it."""
        assert self.relay is not None
        self.relay.stop()  # the host's VF goes with it
        self.stop("d", signal.SIGKILL)
        OvsInstance(Place(self.node("d") / "ovs", self.node("d") / "ovs")).stop(cleanup=True)
        if (self.node("d") / "bpf").is_mount():
            subprocess.run(["umount", str(self.node("d") / "bpf")], check=True)
        shutil.rmtree(self.node("d"))
        self.join()
        self.start("d", "agent", "--config", str(self.config("d")), space="d")

    def configure(self, name: str, devices: list[dict[str, Any]]) -> None:
        self.write_config(name, {"manage": True, "rundir": str(self.node(name) / "ovs")})
        config = {**json.loads(self.config(name).read_text()), "devices": devices}
        if devices:
            socket, channel = f"unix:{self.plugin(name)}", "[fe80::1%eth0]:8085"
            tags = {"5": "blue", "6": "green", "22": "opi-bridge9"}
            bridges = {"segment": "blue", "bridges": tags, "role": "tenant"}
            config["opi"] = {"socket": socket, "channel": channel, **bridges}
        if devices and self.pki is not None:
            config["tls"] = {key: str(path) for key, path in self.pki.node(name).items()}
        self.config(name).write_text(json.dumps(config))

    def channel(self, name: str) -> dict[str, str]:
        """Return where host and DPU meet, as the configuration of one of them says it."""
        if self.pki is None:
            socket = self.node("d") / "run" / "attachment.sock"
            return {"attachment": f"unix:{socket}"} if name == "h" else {}
        return {"attachment": f"ssl:{CHANNEL['d']}:{PORT}", "peer": "d" if name == "h" else "h"}

    def plugin(self, name: str) -> Path:
        """Return the socket where the operator's daemon on a node looks for a plugin."""
        return self.node(name) / "plugin" / "vendor-plugin.sock"

    def start(self, name: str, *words: str, space: str | None = None) -> None:
        if name != "d" or self.hidden is None:
            super().start(name, *words, space=space)
            return
        path = ":".join([str(self.hidden), *filter(None, sys.path)])
        enter = ["nsenter", f"--net={netns(name)}"]
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*enter, *OVERWEAVE, *words],
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": path},
            )

    def cni(self, verb: str, node: str, pod: str, ifname: str = "eth0", **config: object) -> Any:
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": str(netns(pod)),
            "CNI_IFNAME": ifname,
            "CNI_PATH": "/nowhere",
            "CNI_ARGS": f"OVERWEAVE_ENDPOINT={pod}",
        }
        whole = {
            "cniVersion": "1.1.0",
            "name": "overweave",
            "type": "overweave-cni",
            "segment": "blue",
            "agentSocket": str(self.node(node) / "run" / "cni.sock"),
            **config,
        }
        return invoke(environment, whole)

    def is_ready(self, name: str) -> bool:
        """Say whether pods can be added; the DPU is never well, for its switch does not answer."""
        (found,) = json.loads(self("status", "-o", "json", agents=name).stdout)
        return not found["unreachable"] and not found["obstacle"]

    def pings(
        self, source: str, result: dict[str, Any], count: int = 5, mark: bytes = b"\0"
    ) -> int:
        """Return how many of the pings to the addresses of a pod were not answered."""
        lost = 0
        for each in result["ips"]:
            target = each["address"].partition("/")[0]
            command = ["ip", "netns", "exec", netns(source).name, "ping", "-c", str(count)]
            done = subprocess.run(
                [*command, "-i", "0.05", "-W", "2", "-p", mark.hex(), target],
                capture_output=True,
                text=True,
                check=False,
                timeout=60,
            )
            received = int(done.stdout.partition(" received")[0].rpartition(" ")[2])
            lost += count - received
        return lost

    def clear(self) -> None:
        for name in list(self.processes):
            self.stop(name)
        for relay in filter(None, (self.relay, self.operators_relay)):
            relay.stop()
        for name in NODES:
            OvsInstance(Place(self.node(name) / "ovs", self.node(name) / "ovs")).stop(cleanup=True)
            bpffs = self.node(name) / "bpf"
            if bpffs.is_mount():
                subprocess.run(["umount", str(bpffs)], check=True)
        for name in MEMBERS:
            subprocess.run(["ip", "netns", "del", netns(name).name], check=False)


# What is the same without eBPF: who hears whom, and who is told what.
ONCE = pytest.mark.parametrize("world", ["ebpf"], indirect=True)


@pytest.fixture(scope="module", params=["ebpf", "no ebpf"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DpuWorld]:
    world = DpuWorld(tmp_path_factory.mktemp("w"))
    if request.param == "no ebpf":
        world.hidden = world.directory / "hidden"
        world.hidden.mkdir()
        (world.hidden / "bcc.py").write_text("raise ImportError('No module named bcc')\n")
    else:
        (world.directory / "pki").mkdir()
        world.pki = Pki(world.directory / "pki")
    common = {"serial": SERIAL, "vendor": "senao", "emulated": True}
    vfs = [
        {"device_id": device_id, "netdev": f"vf{number}"}
        for number, device_id in enumerate((VF, OPERATORS_VF))
    ]
    try:
        world.make_namespaces()
        world.configure("h", [{**common, "side": "host", **world.channel("h"), "vfs": vfs}])
        switch = {"address": f"unix:{world.directory / 'nobody.sock'}", "uplink": "up"}
        reps = ["rep0", "rep1"]
        dpu = {**common, "side": "dpu", **world.channel("d"), "representors": reps}
        world.configure("d", [{**dpu, "switch": switch}])
        world.configure("n", [])
        world.start("fabric", "fabric", "run", "--dir", str(world.directory / "f"))
        world.until(lambda: world("get", "node").returncode == 0, "fabric")
        for name in NODES:
            world.start(name, "agent", "--config", str(world.config(name)), space=name)
        for name in NODES:
            world.until(lambda: world.is_ready(name), name)  # noqa: B023
        assert world("apply", "-f", "-", stdin=SEGMENT).returncode == 0
        yield world
    finally:
        world.clear()


def test_a_pod_on_a_vf_among_others(world: DpuWorld) -> None:
    on_vf = world.on_vf = world.cni("ADD", "h", "p1", deviceID=VF)
    on_dpu = world.cni("ADD", "d", "p2")
    elsewhere = world.cni("ADD", "n", "p3")
    for target in (on_dpu, elsewhere):  # the first packets may be before the rows
        world.until(lambda: world.pings("p1", target, 1) == 0, "d")  # noqa: B023
    assert [world.pings("p1", each) for each in (on_dpu, elsewhere)] == [0, 0]
    assert [world.pings(pod, on_vf) for pod in ("p2", "p3")] == [0, 0]
    (row,) = world.records("get", "endpoint", "p1/eth0")
    assert (row["node"], row["mac"]) == ("d", on_vf["interfaces"][0]["mac"])
    world.cni("CHECK", "h", "p1", deviceID=VF, prevResult=on_vf)

    ports = {
        each["identity"]: each
        for each in json.loads(world("get", "port", "-o", "json", agents="d").stdout)
    }
    assert (ports["p1/eth0"]["access_port"], ports["p1/eth0"]["netns"]) == ("rep0", "")
    assert world("status", agents="hn").returncode == 0
    assert world("get", "port", "-o", "wide", agents="d").returncode == 0


@ONCE
def test_both_halves_are_listed(world: DpuWorld) -> None:
    world.until(lambda: _hears(world), "h")
    found = [(d["name"], d["dpu_side"], d["node"]) for d in world.records("get", "dpu")]
    assert found == [(f"{SERIAL}-dpu", True, "d"), (f"{SERIAL}-host", False, "h")]
    head, dpu, host = world("get", "dpu").stdout.splitlines()
    assert re.split("   +", head) == ["NAME", "DPU PRODUCT", "DPU SIDE", "MODE NAME", "STATUS"]
    product = "Intel Netsec Accelerator (emulated)"
    assert re.split("   +", dpu) == [f"{SERIAL}-dpu", product, "true", "d", "False"]
    assert re.split("   +", host) == [f"{SERIAL}-host", product, "false", "h", "True"]


@ONCE
def test_each_half_tells_what_it_knows_of_the_other(world: DpuWorld) -> None:
    def conditions(record: dict[str, Any]) -> dict[str, str]:
        return dict(each.split(" ")[0].split("=") for each in record["conditions"])

    def is_settled() -> bool:
        return all(conditions(r)["HeartbeatOK"] == "True" for r in world.records("get", "dpu"))

    world.until(is_settled, "h")
    dpu, host = world.records("get", "dpu")
    assert (dpu["other_half"], host["other_half"]) == (host["name"], dpu["name"])
    assert (dpu["other_node"], host["other_node"]) == ("h", "d")
    for record in (dpu, host):
        heard, told = (datetime.fromisoformat(record[k]) for k in ("last_heartbeat", "told"))
        assert heard <= told <= datetime.now(UTC)
        assert datetime.now(UTC) - heard < timedelta(seconds=5 * REFRESH_S)
    assert (dpu["vfs"], dpu["vfs_used"]) == (2, 1)
    assert (host["vfs"], host["vfs_used"]) == (2, None)
    # Its switch has nobody who answers for it.
    beats = {"Ready": "False", "HeartbeatOK": "True", "SwitchReachable": "False"}
    assert conditions(dpu) == {**beats, "DataplaneInSync": "False", "Offloading": "False"}
    assert conditions(host) == {
        "Ready": "True",
        "HeartbeatOK": "True",
        "DataplaneInSync": "True",
    }
    assert all(" since 20" in each for each in (*dpu["conditions"], *host["conditions"]))


@ONCE
def test_a_dpu_whose_switch_does_not_answer_is_not_ready_and_says_so(world: DpuWorld) -> None:
    (found,) = world.records("get", "dpu", f"{SERIAL}-dpu")
    assert found["status"] is False
    assert found["conditions"][0].startswith("Ready=False")
    assert "nobody.sock" in found["conditions"][0]
    (status,) = json.loads(world("status", "-o", "json", agents="d").stdout)
    assert status["modes"]["switch"].startswith("device-down: ")
    assert "nobody.sock" in status["modes"]["switch"]


class Ears:
    """Hears every frame at some netdevs of pods: by place, and whether the pod sent it."""

    def __init__(self, *places: tuple[str, str]) -> None:
        self._sockets: dict[tuple[str, str], socket.socket] = {}
        for space, netdev in places:
            with Netns(str(netns(space))) as inside:
                self._sockets[space, netdev] = inside.run(lambda: _opened(netdev))  # noqa: B023

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets.values():
            each.close()

    def send(self, space: str, netdev: str, frame: bytes) -> None:
        self._sockets[space, netdev].send(frame)

    def heard(self, mark: bytes) -> Counter[tuple[str, str, str]]:
        """Return how many frames with ``mark`` came in and went out where, since the last time."""
        time.sleep(0.3)  # a frame too many would come within milliseconds
        found: Counter[tuple[str, str, str]] = Counter()
        for (space, netdev), each in self._sockets.items():
            with suppress(BlockingIOError):
                while True:
                    frame, address = each.recvfrom(1 << 16)
                    way = "out" if address[2] == socket.PACKET_OUTGOING else "in"
                    found[space, netdev, way] += mark in frame
        return +found


def _opened(netdev: str) -> socket.socket:
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
    ear.bind((netdev, 0))
    ear.setblocking(False)
    return ear


IN, OUT = ("f", "net1"), ("f", "net2")
PINGS = 5


class Function:
    """A pod on the DPU whose two interfaces are the ports of a bridge."""

    def __init__(self, world: DpuWorld) -> None:
        self._world = world
        ip("-n", netns("f").name, "link", "add", "br0", "up", "type", "bridge")
        self.macs = [self.add(port) for _, port in (IN, OUT)]

    def add(self, port: str) -> str:
        added = self._world.cni("ADD", "d", "f", port)
        ip("-n", netns("f").name, "addr", "flush", "dev", port)
        self.set(port, "master", "br0")
        (inside,) = (part for part in added["interfaces"] if "sandbox" in part)
        return str(inside["mac"])

    @property
    def request(self) -> nf.NFRequest:
        return nf.NFRequest(input=self.macs[0], output=self.macs[1])

    def forget(self) -> None:
        """Have the bridge forget on which side it saw whom before it was a function."""
        ip("-n", netns("f").name, "link", "set", "br0", "type", "bridge", "fdb_flush")

    def set(self, port: str, *words: str) -> None:
        ip("-n", netns("f").name, "link", "set", port, *words)

    def problems(self) -> str:
        (found,) = json.loads(self._world("status", "-o", "json", agents="d").stdout)
        return "\n".join(found["problems"])


def addresses(world: DpuWorld, pod: str) -> dict[str, Any]:
    (row,) = world.records("get", "endpoint", f"{pod}/eth0")
    return {"ips": [{"address": each} for each in row["ips"]]}


def passes_once(world: DpuWorld, there: dict[str, Any]) -> None:
    """Ping from behind the VF and back, and count the echo requests at every place."""
    mark, count = os.urandom(8), len(there["ips"]) * PINGS
    with Ears(("p1", "eth0"), IN, OUT, ("p3", "eth0")) as ears:
        assert world.pings("p1", there, PINGS, mark) == 0
        found = ears.heard(mark)
        # Requests go in at the input and out of the output, answers the other way round.
        assert found[(*IN, "in")] == found[(*IN, "out")] == count
        assert found[(*OUT, "in")] == found[(*OUT, "out")] == count
        assert found["p3", "eth0", "in"] == found["p3", "eth0", "out"] == count
        assert found["p1", "eth0", "in"] == found["p1", "eth0", "out"] == count


def all_get_it_once(world: DpuWorld) -> None:
    """Broadcast on either side of the function; nobody gets it twice, nor the sender back."""
    everywhere = (("p1", "eth0"), IN, OUT, ("p2", "eth0"), ("p3", "eth0"))
    within, outside = {("p1", "eth0"), IN}, {OUT, ("p2", "eth0"), ("p3", "eth0")}
    for sender in (("p1", "eth0"), ("p2", "eth0"), ("p3", "eth0")):
        mark = os.urandom(8)
        (link,) = json.loads(ip("-n", netns(sender[0]).name, "-j", "link", "show", "dev", "eth0"))
        source = bytes.fromhex(link["address"].replace(":", ""))
        with Ears(*everywhere) as ears:
            ears.send(*sender, b"\xff" * 6 + source + b"\x88\xb5" + mark + bytes(46))
            first, last = (IN, OUT) if sender in within else (OUT, IN)
            others = (within | outside) - {sender, first, last}
            received = {(*place, "in"): 1 for place in (first, *others)}
            assert ears.heard(mark) == {**received, (*last, "out"): 1}


def goes_past(world: DpuWorld, there: dict[str, Any], *places: tuple[str, str]) -> None:
    mark = os.urandom(8)
    with Ears(*places) as ears:
        assert world.pings("p1", there, PINGS, mark) == 0
        assert not ears.heard(mark)


def test_what_is_behind_a_vf_passes_a_network_function(world: DpuWorld) -> None:
    """Both ways, and once, broadcasts too."""
    function = world.function = Function(world)
    there, back = addresses(world, "p3"), addresses(world, "p1")
    with Daemon(world, "d") as dpu:
        dpu.functions.CreateNetworkFunction(function.request)
    function.forget()
    passes_once(world, there)
    all_get_it_once(world)
    assert [world.pings(pod, back) for pod in ("p2", "p3")] == [0, 0]
    (port,) = json.loads(world("get", "port", "p1/eth0", "-o", "json", agents="d").stdout)
    assert (port["reason"], function.macs[0] in port["detail"]) == ("network-function", True)
    told = world("explain", "p1/eth0", agents="d").stdout
    assert "1 in Open vSwitch" in told
    assert f"reached through function {' > '.join(function.macs)}" in told
    traced = world("trace", "p1/eth0", "p3/eth0", agents="dn")
    assert traced.returncode == 0, traced.stdout + traced.stderr
    assert f"network-function, input of function {function.macs[0]}" in traced.stdout


def after_a_restart(world: DpuWorld, function: Function, there: dict[str, Any]) -> None:
    """Kill the agent and start it with another word on functions; then take this one away."""
    world.stop("d", signal.SIGKILL)
    passes_once(world, there)
    config = json.loads(world.config("d").read_text())
    config["opi"]["functions"] = "bypass"
    world.config("d").write_text(json.dumps(config))
    world.start("d", "agent", "--config", str(world.config("d")), space="d")
    world.until(lambda: world.is_ready("d"), "d")
    passes_once(world, there)

    world.cni("DEL", "d", "f", "net2")
    assert "f/net2 is not attached: traffic goes past it" in function.problems()
    goes_past(world, there, IN)
    function.add("net2")
    world.until(lambda: not function.problems(), "d")
    function.forget()
    passes_once(world, there)


def test_a_network_function_that_is_killed_and_comes_back(world: DpuWorld) -> None:
    """Meanwhile nothing passes; after a restart with another word on it, all goes past it."""
    function, there = world.function, addresses(world, "p3")
    assert function is not None
    only4 = {"ips": there["ips"][:1]}
    function.set("net2", "down")
    world.until(lambda: "cut off, by opi.functions: block" in function.problems(), "d")
    assert world.pings("p1", only4, 1) == 1
    assert world.pings("p2", there) == 0
    function.set("net2", "up")
    world.until(lambda: not function.problems(), "d")

    passes_once(world, there)
    if world.hidden is None:  # eBPF has no part in it, but to be out of the way
        after_a_restart(world, function, there)

    with Daemon(world, "d") as dpu:
        dpu.functions.CreateNetworkFunction(function.request)  # is as it was
        dpu.functions.DeleteNetworkFunction(function.request)
    goes_past(world, there, IN, OUT)
    for _, ifname in (IN, OUT):
        world.cni("DEL", "d", "f", ifname)
    assert not (world.node("d") / "state" / "functions.json").exists()


@ONCE
def test_the_dpus_agent_comes_and_goes(world: DpuWorld) -> None:
    """Packets go on while it is away, and it knows its ports when it is back."""
    (target,) = world.records("get", "endpoint", "p3/eth0")
    there = {"ips": [{"address": each} for each in target["ips"]]}
    world.stop("d")
    stopped = time.monotonic()
    assert world.pings("p1", there) == 0
    world.until(lambda: not _hears(world), "h")
    _show("a dead DPU seen", time.monotonic() - stopped, DEAD_S)
    assert "UNAVAILABLE" in _refused(world)
    with pytest.raises(PluginError) as status:
        world.cni("STATUS", "h", "p4", deviceID=OPERATORS_VF)
    assert status.value.code == 50
    world.start("d", "agent", "--config", str(world.config("d")), space="d")
    world.until(lambda: world.is_ready("d"), "d")
    began = time.monotonic()
    world.until(lambda: _hears(world), "h")
    _show("one that is back", time.monotonic() - began, BACK_S)
    assert world.pings("p1", there) == 0


@ONCE
def test_the_dpus_agent_hangs(world: DpuWorld) -> None:
    """It takes connections, and that is all; packets go on, and the host gives up in time."""
    (target,) = world.records("get", "endpoint", "p3/eth0")
    there = {"ips": [{"address": each} for each in target["ips"]]}
    world.processes["d"].send_signal(signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        assert "DEADLINE_EXCEEDED" in _refused(world)
        with pytest.raises(PluginError) as status:
            world.cni("STATUS", "h", "p4", deviceID=OPERATORS_VF)
        assert status.value.code == 51
        assert world.pings("p1", there) == 0
        world.until(lambda: not _hears(world), "h")
        print(f"seen after {time.monotonic() - stopped:.1f} s at most")
    finally:
        world.processes["d"].send_signal(signal.SIGCONT)
    world.until(lambda: _hears(world), "h")


@ONCE
def test_the_hosts_agent_hangs(world: DpuWorld) -> None:
    def hears() -> bool:
        (dpu,) = world.records("get", "dpu", f"{SERIAL}-dpu")
        return any(each.startswith("HeartbeatOK=True") for each in dpu["conditions"])

    assert hears()
    world.processes["h"].send_signal(signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        world.until(lambda: not hears(), "d")
        _show("a dead host seen", time.monotonic() - stopped, DEAD_S)
    finally:
        world.processes["h"].send_signal(signal.SIGCONT)
    began = time.monotonic()
    world.until(hears, "d")
    _show("one that is back", time.monotonic() - began, BACK_S)


@ONCE
def test_a_dpu_that_is_unplugged_under_its_pods(world: DpuWorld) -> None:
    """What there is of it goes at once, on both halves; its pod stays known, the others talk on."""
    card, vf = "0000:06:00.0", {VF: "vf0"}
    tree = Tree(world.sysfs("h"))

    def plug() -> None:
        tree.function(card, "8086:1599", ["ens6"], vpd=vital_product_data(SERIAL.encode()))
        tree.vfs(card, "8086:1889", vf)

    def host() -> tuple[bool, str]:
        (row,) = world.records("get", "dpu", f"{SERIAL}-host")
        return row["status"], row["conditions"][0]

    def names() -> list[str]:
        return [row["name"] for row in world.records("get", "dpu")]

    plug()
    time.sleep(STATED_S)  # it is seen as what is configured: nothing is new
    assert (names(), host()[0]) == ([f"{SERIAL}-dpu", f"{SERIAL}-host"], True)

    assert world.relay is not None
    world.relay.stop()  # VF and representor go with the card, wherever they are
    tree.unplug(card, VF)
    unplugged = time.monotonic()
    world.until(lambda: not host()[0], "h", 5 * STATED_S)
    print(f"gone after {time.monotonic() - unplugged:.2f} s, stated {STATED_S} s")
    assert "this machine no longer has it" in host()[1]
    assert ip("-n", netns("p1").name, "-br", "link").split()[::4] == ["lo"]
    with pytest.raises(PluginError, match="eth0 does not exist"):
        world.cni("CHECK", "h", "p1", deviceID=VF, prevResult=world.on_vf)
    assert "p1/eth0" in world("get", "port", agents="d").stdout
    assert world.records("get", "endpoint", "p1/eth0")[0]["node"] == "d"
    (p3,) = world.records("get", "endpoint", "p3/eth0")
    assert world.pings("p2", {"ips": [{"address": each} for each in p3["ips"]]}) == 0

    world.join()  # the pod has its VF again by itself
    plug()
    world.until(lambda: host()[0], "h", 5 * STATED_S)
    world.until(lambda: world.pings("p3", world.on_vf, 1) == 0, "d")
    assert world.pings("p3", world.on_vf) == 0
    world.cni("CHECK", "h", "p1", deviceID=VF, prevResult=world.on_vf)


@ONCE
def test_a_dpu_that_reboots_and_has_forgotten_all(world: DpuWorld) -> None:
    """Nobody calls CNI: what its host's pods had they have again."""
    before = ip("-n", netns("p1").name, "-br", "addr", "show", "dev", "eth0")
    world.cni("DEL", "d", "p2")
    world.reboot()
    world.until(lambda: world.is_ready("d"), "d")
    began = time.monotonic()
    world.until(lambda: world.pings("p3", world.on_vf, 1) == 0, "d")
    print(f"its pod is heard {time.monotonic() - began:.1f} s after it is ready")
    assert world.pings("p3", world.on_vf) == 0
    assert ip("-n", netns("p1").name, "-br", "addr", "show", "dev", "eth0") == before
    world.cni("CHECK", "h", "p1", deviceID=VF, prevResult=world.on_vf)
    assert "p1/eth0" in world("get", "port", agents="d").stdout
    world.cni("ADD", "d", "p2")  # as it was, for those that come next


class Daemon:
    """What the operator's daemon on one node asks of its plugin, in its order and by its calls."""

    def __init__(self, world: DpuWorld, node: str) -> None:
        self._world, self._node = world, node
        self._channel = grpc.insecure_channel(f"unix:{world.plugin(node)}")
        self.lifecycle = lifecycle_rpc.LifeCycleServiceStub(self._channel)
        self.devices = lifecycle_rpc.DeviceServiceStub(self._channel)
        self.heartbeat = lifecycle_rpc.HeartbeatServiceStub(self._channel)
        self.ports = opi_rpc.BridgePortServiceStub(self._channel)
        self.bridges = opi_rpc.LogicalBridgeServiceStub(self._channel)
        self.functions = nf_rpc.NetworkFunctionServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def begin(self) -> tuple[str, int]:
        """Call Init every 100 ms until it succeeds, then set the number of VFs, once."""
        told: list[lifecycle.IpPort] = []
        request = lifecycle.InitRequest(dpu_mode=self._node == "d", dpu_identifier="senao")

        def init() -> bool:
            with suppress(grpc.RpcError):
                told.append(self.lifecycle.Init(request))
            return bool(told)

        self._world.until(init, self._node)
        assert self.devices.SetNumVfs(lifecycle.VfCount(vf_cnt=8)).vf_cnt == 2
        return told[0].ip, told[0].port

    def create(self, mac: str) -> opi.BridgePort:
        """Hand on what the host's daemon asks for when a pod gets VF 1."""
        spec = opi.BridgePortSpec(
            mac_address=bytes.fromhex(mac.replace(":", "")),
            ptype="BRIDGE_PORT_TYPE_ACCESS",
            logical_bridges=["3"],
        )
        port = opi.BridgePort(name="host0-1", spec=spec)
        made: opi.BridgePort = self.ports.CreateBridgePort(
            opi.CreateBridgePortRequest(bridge_port=port)
        )
        return made

    def create_trunk(self, mac: str) -> opi.BridgePort:
        """Attach the same VF to two segments, as no operator does, but an OPI client may."""
        spec = opi.BridgePortSpec(
            mac_address=bytes.fromhex(mac.replace(":", "")),
            ptype="BRIDGE_PORT_TYPE_TRUNK",
            logical_bridges=["5", "6"],
        )
        port = opi.BridgePort(name="host0-1", spec=spec)
        made: opi.BridgePort = self.ports.CreateBridgePort(
            opi.CreateBridgePortRequest(bridge_port=port)
        )
        return made

    def delete(self) -> None:
        self.ports.DeleteBridgePort(opi.DeleteBridgePortRequest(name="host0-1"))


def move_vf_into_pod() -> str:
    """Do what the operator's CNI plugin does with VF 1 and pod p4; return the VF's MAC."""
    if "net1" not in ip("-n", netns("p4").name, "-br", "link"):
        move = ["vf1", "netns", netns("p4").name, "name", "net1"]
        ip("-n", netns("h").name, "link", "set", *move)
        ip("-n", netns("p4").name, "addr", "add", OPERATORS_POD, "dev", "net1")
        ip("-n", netns("p4").name, "link", "set", "net1", "up")
    (vf,) = json.loads(ip("-n", netns("p4").name, "-j", "link", "show", "dev", "net1"))
    return str(vf["address"])


class TaggedPod:
    """What is behind a trunk port: it has an address in each VLAN, and answers by the tag."""

    def __init__(self, pod: str, netdev: str, mac: str, addresses: dict[int, str]) -> None:
        self.mac, self.addresses = mac, addresses
        self.came: list[Packet] = []  # what was not answered
        self._socket = in_netns(netns(pod), lambda: opened(netdev))
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._socket.close()

    def send(self, *tags: int, target: str, payload: Packet) -> None:
        frame = Ether(src=self.mac, dst=target)
        for tag in tags:
            frame /= Dot1Q(vlan=tag)
        self._socket.send(bytes(frame / payload))

    def ask(self, ip: str, *tags: int) -> None:
        own = self.addresses[tags[0]] if tags else "0.0.0.0"
        question = ARP(hwsrc=self.mac, psrc=own, pdst=ip)
        self.send(*tags, target="ff:ff:ff:ff:ff:ff", payload=question)

    def told(self, tag: int, ip: str) -> str | None:
        """Return which MAC an answer with that tag has told of ``ip``."""
        answers = [f[ARP] for f in self.came if ARP in f and _tags(f) == [tag] and f[ARP].op == 2]
        return next((str(each.hwsrc) for each in answers if each.psrc == ip), None)

    def ping(self, tag: int, target: Sequence[str], size: int = 56) -> bool:
        """Say whether (IP, MAC) answers an echo request of ``size`` bytes with the same tag."""
        ip, mac = target
        mark = os.urandom(8)
        request = (
            IP(src=self.addresses[tag], dst=ip, flags="DF") / ICMP() / (mark + bytes(size - 8))
        )
        self.send(tag, target=mac, payload=request)
        give_up = time.monotonic() + 2
        while time.monotonic() < give_up:
            if any(_tags(f) == [tag] and _is_echo(f, 0) and mark in bytes(f) for f in self.came):
                return True
            self._stopping.wait(0.01)
        return False

    def _run(self) -> None:
        while not self._stopping.is_set():
            select.select([self._socket], [], [], 0.05)
            for frame in map(Ether, drain(self._socket)):
                answer = self._answer(frame)
                if answer is None:
                    self.came.append(frame)
                else:
                    self.send(*_tags(frame), target=frame.src, payload=answer)

    def _answer(self, frame: Packet) -> Packet | None:
        own = [self.addresses.get(tag) for tag in _tags(frame)]
        if len(own) != 1 or own[0] is None:
            return None
        if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst == own[0]:
            asked = frame[ARP]
            return ARP(op=2, hwsrc=self.mac, psrc=own[0], hwdst=asked.hwsrc, pdst=asked.psrc)
        if _is_echo(frame, 8) and frame[IP].dst == own[0]:
            echo = frame[ICMP].copy()
            echo.type, echo.chksum = 0, None
            answer: Packet = IP(src=own[0], dst=frame[IP].src, flags="DF") / echo
            return answer
        return None


def _tags(frame: Packet) -> list[int]:
    tag = frame.getlayer(Dot1Q)
    return [] if tag is None else [tag.vlan, *_tags(tag.payload)]


def _is_echo(frame: Packet, kind: int) -> bool:
    return ICMP in frame and frame[ICMP].type == kind


def test_a_trunk_port_among_pods_of_two_segments(world: DpuWorld) -> None:
    """Pod p4's VF is in VLAN 5 the segment blue, in VLAN 6 green; an agent is killed in between."""
    assert world("apply", "-f", "-", stdin=GREEN).returncode == 0
    world.cni("ADD", "n", "p5", segment="green")
    tags = {"p2": 5, "p3": 5, "p5": 6}  # by which p4 reaches the pods
    pods = [(tag, *_where(pod)) for pod, tag in tags.items()]
    mac = move_vf_into_pod()
    own = {5: "10.1.15.251", 6: "10.2.0.251"}
    pings = {pod: {"ips": [{"address": own[tag]}]} for pod, tag in tags.items()}
    with TaggedPod("p4", "net1", mac, own) as trunk, Daemon(world, "d") as dpu:

        def all_is_well() -> None:
            for tag, *there in pods:
                assert trunk.ping(tag, there), (tag, there)
                assert trunk.ping(tag, there, _mtu("p2") - 28)  # the tag is not part of it
            assert not any(world.pings(pod, there, 2) for pod, there in pings.items())

        made = dpu.create_trunk(mac)
        assert (made.spec.ptype, made.status.oper_status) == (2, opi.BP_OPER_STATUS_UP)
        world.until(lambda: world.pings("p3", pings["p3"], 1) == 0, "d")
        world.until(lambda: world.pings("p5", pings["p5"], 1) == 0, "d")
        for tag, address, owner in pods:
            trunk.ask(address, tag)
            world.until(lambda: trunk.told(tag, address) == owner, "d", 5)  # noqa: B023
        all_is_well()

        world.stop("d", signal.SIGKILL)
        all_is_well()
        world.start("d", "agent", "--config", str(world.config("d")), space="d")
        dpu.begin()
        assert dpu.create_trunk(mac).spec == made.spec
        world.until(lambda: world.is_ready("d"), "d")
        all_is_well()

        trunk.ask(pods[0][1])  # without a tag: nobody answers
        _check_isolation(trunk)
        assert all(_tags(frame) for frame in trunk.came)
        if world.hidden is None:
            _check_what_is_said(world)
        dpu.delete()
        assert "opi/d/host0-1" not in world("get", "port", agents="d").stdout
        assert not trunk.ping(5, pods[0][1:])
    world.cni("DEL", "n", "p5", segment="green")
    assert world("delete", "segment", "green").returncode == 0


def _where(pod: str) -> tuple[str, str]:
    """Return the IPv4 address and the MAC of a pod."""
    (link,) = json.loads(ip("-n", netns(pod).name, "-j", "addr", "show", "dev", "eth0"))
    return next(a["local"] for a in link["addr_info"] if a["family"] == "inet"), link["address"]


def _mtu(pod: str) -> int:
    (link,) = json.loads(ip("-n", netns(pod).name, "-j", "link", "show", "dev", "eth0"))
    return int(link["mtu"])


def _check_isolation(trunk: TaggedPod) -> None:
    """Require that a broadcast comes to the pods of its VLAN alone, and one of no VLAN to nobody.

    What comes last has come after all else that was to come.
    """
    ears = {pod: in_netns(netns(pod), lambda: opened("eth0")) for pod in ("p2", "p3", "p5")}
    try:
        for _ in range(2):
            for tags in ((), (0,), (9,), (22,), (9, 5), (5,), (6,)):
                payload = Raw(f"marked {tags}".encode().ljust(60, b"."))
                trunk.send(*tags, target="ff:ff:ff:ff:ff:ff", payload=payload)
        time.sleep(0.5)
        heard = {
            pod: {f[f.index(b"marked") :].rstrip(b".") for f in drain(ear) if b"marked" in f}
            for pod, ear in ears.items()
        }
    finally:
        for ear in ears.values():
            ear.close()
    assert heard == {"p2": {b"marked (5,)"}, "p3": {b"marked (5,)"}, "p5": {b"marked (6,)"}}


def _check_what_is_said(world: DpuWorld) -> None:
    """Require that the trunk is shown for what it is, and that a trace of it agrees."""
    name = "opi/d/host0-1/vlan6"
    (entry,) = json.loads(world("get", "entry", name, "-o", "json", agents="d").stdout)
    assert (entry["placement"], entry["reason"]) == ("ovs", "unsupported-match")
    (port,) = json.loads(world("get", "port", name, "-o", "json", agents="d").stdout)
    assert (port["access_port"], port["segment"]) == ("rep1", "green")
    traced = world("trace", name, "p5/eth0", agents="dn")  # there and back
    assert traced.returncode == 0, traced.stdout + traced.stderr
    (row,) = world.records("get", "dpu", f"{SERIAL}-dpu")
    assert row["vfs_used"] == 2


def the_address_of_a_pod_of_theirs_is_learned(world: DpuWorld) -> None:
    """And answered for by the other node, while the pod itself does not."""
    address = OPERATORS_POD.partition("/")[0]

    def learned() -> Any:
        (row,) = world.records("get", "endpoint", "opi/d/host0-1")
        assert row["ips"] == []
        return row["learned"]

    world.until(lambda: learned() == [address], "d")
    assert f" {address}\n" in world("get", "endpoint", "opi/d/host0-1").stdout
    ip("-n", netns("p4").name, "link", "set", "net1", "arp", "off")
    ip("-n", netns("p4").name, "neigh", "flush", "dev", "net1")
    ip("-n", netns("p3").name, "neigh", "flush", "to", address)
    ours = world.records("get", "endpoint", "p3/eth0")[0]
    own = next(each for each in ours["ips"] if "." in each)
    permanent = ["neigh", "replace", own, "lladdr", ours["mac"], "dev", "net1"]
    ip("-n", netns("p4").name, *permanent)
    world.until(lambda: world.pings("p3", {"ips": [{"address": address}]}, 1) == 0, "n")
    ip("-n", netns("p4").name, "neigh", "del", own, "dev", "net1")
    ip("-n", netns("p4").name, "link", "set", "net1", "arp", "on")


@ONCE
def test_a_dpu_operators_daemons_and_a_pod_of_theirs(world: DpuWorld) -> None:
    """The DPU's agent is killed in between: packets go on, and all is as before."""
    (other,) = world.records("get", "endpoint", "p3/eth0")
    there = {"ips": [{"address": each} for each in other["ips"] if "." in each]}
    here = {"ips": [{"address": OPERATORS_POD}]}
    with Daemon(world, "h") as host, Daemon(world, "d") as dpu:
        assert host.begin() == ("[fe80::1%25eth0]", 8085)
        assert dpu.begin() == ("[fe80::1%eth0]", 8085)
        found = host.devices.GetDevices(Empty()).devices
        assert {key: each.health for key, each in found.items()} == dict.fromkeys(
            (VF, OPERATORS_VF), "Healthy"
        )
        mac = move_vf_into_pod()
        made = dpu.create(mac)
        assert made.status.oper_status == opi.BP_OPER_STATUS_UP
        world.until(lambda: world.pings("p4", there, 1) == 0, "d")
        assert (world.pings("p4", there), world.pings("p3", here)) == (0, 0)
        (row,) = world.records("get", "endpoint", "opi/d/host0-1")
        assert (row["node"], row["mac"], row["ips"]) == ("d", mac, [])

        # The pod goes without its namespace, of which the daemon is told nothing; the next one
        # gets its VF.
        mac = "02:00:00:00:0a:02"
        ip("-n", netns("p4").name, "link", "set", "net1", "address", mac)
        assert world.pings("p4", there, 1) == 1
        made = dpu.create(mac)
        assert made.status.oper_status == opi.BP_OPER_STATUS_UP
        world.until(lambda: world.pings("p4", there, 1) == 0, "d")
        (row,) = world.records("get", "endpoint", "opi/d/host0-1")
        assert row["mac"] == mac
        the_address_of_a_pod_of_theirs_is_learned(world)

        world.stop("d", signal.SIGKILL)
        assert (world.pings("p4", there), world.pings("p3", here)) == (0, 0)
        world.start("d", "agent", "--config", str(world.config("d")), space="d")
        assert dpu.begin() == ("[fe80::1%eth0]", 8085)
        assert dpu.create(mac).spec == made.spec
        world.until(lambda: world.is_ready("d"), "d")
        # It serves ports, and yet a DPU is not healthy whose switch nobody answers for.
        assert not dpu.heartbeat.Ping(lifecycle.PingRequest(sender_id="host-daemon")).healthy
        assert (world.pings("p4", there), world.pings("p3", here)) == (0, 0)

        dpu.delete()
        assert "opi/d/host0-1" not in world("get", "port", agents="d").stdout
        assert world.pings("p4", there, 1) == 1
        world.until(lambda: world("get", "endpoint", "opi/d/host0-1").returncode == 1, "d")


@ONCE
def test_an_opi_client_makes_a_segment(world: DpuWorld) -> None:
    bridge = opi.LogicalBridge(spec=opi.LogicalBridgeSpec(vlan_id=22, vni=11))
    with Daemon(world, "d") as dpu:
        made = dpu.bridges.CreateLogicalBridge(
            opi.CreateLogicalBridgeRequest(logical_bridge_id="opi-bridge9", logical_bridge=bridge)
        )
        (segment,) = world.records("get", "segment", "opi-bridge9")
        assert (segment["vni"], made.spec.vni) == (11, 11)
        dpu.bridges.DeleteLogicalBridge(opi.DeleteLogicalBridgeRequest(name=made.name))
    assert world("get", "segment", "opi-bridge9").returncode == 1


def test_the_vf_goes_home(world: DpuWorld) -> None:
    for _ in range(3):
        world.cni("DEL", "h", "p1", deviceID=VF)
    assert "vf0" in ip("-n", netns("h").name, "-br", "link")
    assert "rep0" in ip("-n", netns("d").name, "-br", "link")
    assert "p1/eth0" not in world("get", "port", agents="d").stdout
    world.until(lambda: world("get", "endpoint", "p1/eth0").returncode == 1, "d")


@ONCE  # where a network is between them
def test_a_host_in_another_cluster(world: DpuWorld) -> None:
    """Without access to any fabric, from here on: the channel to its DPU is all that it has."""
    world.stop("h")
    config = json.loads(world.config("h").read_text())
    world.config("h").write_text(json.dumps({**config, "fabric": "none"}))
    world.start("h", "agent", "--config", str(world.config("h")), space="h")
    world.until(lambda: world("status", agents="h").returncode == 0, "h")
    world.cni("STATUS", "h", "p1")

    on_vf = world.cni("ADD", "h", "p1", deviceID=VF)
    elsewhere = world.records("get", "endpoint", "p3/eth0")[0]
    there = {"ips": [{"address": each} for each in elsewhere["ips"]]}
    world.until(lambda: world.pings("p1", there, 1) == 0, "d")
    assert (world.pings("p1", there), world.pings("p3", on_vf)) == (0, 0)
    with pytest.raises(PluginError, match=r"is in no fabric .*; only pods with the deviceID"):
        world.cni("ADD", "h", "p4")
    (found,) = json.loads(world("status", "-o", "json", agents="h").stdout)
    assert (found["fabric_access"], found["obstacle"]) == ("none", "")

    world.cni("DEL", "h", "p1", deviceID=VF)


def test_a_vf_that_died_with_its_pod(world: DpuWorld) -> None:
    world.cni("ADD", "h", "p1", deviceID=VF)
    ip("netns", "del", netns("p1").name)
    world.until(lambda: "vf0" not in ip("-n", netns("h").name, "-br", "link"), "h")
    world.cni("DEL", "h", "p1", deviceID=VF)
    assert world.relay is not None
    world.relay.stop()
    world.join()  # as the emulator does
    ip("netns", "add", netns("p1").name)
    on_vf = world.cni("ADD", "h", "p1", deviceID=VF)
    world.until(lambda: world.pings("p3", on_vf, 1) == 0, "d")
    assert world.pings("p3", on_vf) == 0


def test_uninstall_of_the_host_brings_the_vf_home(world: DpuWorld) -> None:
    """The DPU is told; one that is away is told by the next uninstall."""
    world.stop("h")
    command = ("uninstall", "--config", str(world.config("h")))
    assert "- VF vf0 of pod p1/eth0" in world(*command, "--dry-run", space="h").stdout
    assert "vf0" not in ip("-n", netns("h").name, "-br", "link")
    world.stop("d")
    done = world(*command, space="h")
    assert done.returncode == 1
    assert "not removed: VF vf0 of pod p1/eth0: it is here, but the DPU's agent at" in done.stderr
    (vf,) = json.loads(ip("-n", netns("h").name, "-j", "link", "show", "dev", "vf0"))
    assert ("UP" in vf["flags"], "ifalias" in vf) == (False, False)
    assert ip("-n", netns("p1").name, "-br", "link").split()[::4] == ["lo"]
    world.start("d", "agent", "--config", str(world.config("d")), space="d")
    world.until(lambda: world.is_ready("d"), "d")
    assert "p1/eth0" in world("get", "port", agents="d").stdout
    done = world(*command, space="h")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "p1/eth0" not in world("get", "port", agents="d").stdout
    assert not (world.node("h") / "state").exists()


def test_uninstall_leaves_the_representor(world: DpuWorld) -> None:
    """It says that nobody can tell what the switch holds."""
    world.stop("d")
    done = world("uninstall", "--config", str(world.config("d")), space="d")
    assert done.returncode == 1
    assert " 0 could not be, 1 places not looked at\n" in done.stdout
    assert "not looked at: the DPU's switch: connect to " in done.stderr
    assert "rep0" in ip("-n", netns("d").name, "-br", "link")
    filters = subprocess.run(
        ["tc", "-n", netns("d").name, "filter", "show", "dev", "rep0", "ingress"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert filters.stdout == ""


def _refused(world: DpuWorld) -> str:
    """Return why an ADD of another VF is refused, which is told in time and leaves nothing."""
    began = time.monotonic()
    with pytest.raises(PluginError, match=f"DPU {SERIAL} is dead") as refused:
        world.cni("ADD", "h", "p4", deviceID=OPERATORS_VF)
    _show("an ADD towards a dead DPU refused", time.monotonic() - began, REFUSED_S)
    assert refused.value.code == 11
    assert "vf1" in ip("-n", netns("h").name, "-br", "link")
    assert [each.name for each in (world.node("h") / "state" / "vfs").iterdir()] == ["p1+eth0.json"]
    return str(refused.value)


def _show(what: str, took: float, stated: float) -> None:
    print(f"{what} after {took:.2f} s, stated {stated:g} s")
    assert took < 5 * stated


def _hears(world: DpuWorld) -> bool:
    """Say whether the host hears its DPU, as both halves show; one of them is not ready."""
    dpu, host = world.records("get", "dpu")
    silent = any(each.startswith("Answers=False") for each in dpu["conditions"])
    assert silent == (not host["status"])
    return bool(host["status"])
