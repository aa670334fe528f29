"""A host, its DPU and a plain node as real agents: a pod on a VF talks to pods on veths.

VF and representor are TAPs, joined by a relay that stands for a switch whose tables are empty, and
that nobody can ask. On one of the DPUs eBPF cannot be loaded. One VF is for a runtime that calls
our CNI plugin, the other for a DPU operator's daemons, to whom our agents are a vendor's plugin.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty

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
from tests.functional.test_cli_agent import OVERWEAVE, SEGMENT, STATED_S, World, ip, netns
from tests.unit.sysfs_trees import Tree, vital_product_data

VF, OPERATORS_VF = "0000:06:00.2", "0000:06:00.3"
SERIAL = "M1"
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
MEMBERS = ("h", "d", "n", "p1", "p2", "p3", "p4", "f")
OPERATORS_POD = "10.1.15.250/20"  # of the operator's own IPAM
NODES = ("h", "d", "n")
UNHEARD_S = 5.0  # who is ready has answered its host since


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
    """Host h, its DPU d, plain node n; pods p1 and p4 on h, p2 and function f on d, p3 on n."""

    hidden: Path | None = None
    relay: Relay | None = None
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
        self.join()
        self.operators_relay = Relay(tap("h", "vf1"), tap("d", "rep1"))

    def join(self) -> None:
        """Make VF and representor, as an emulator does."""
        self.relay = Relay(tap("h", "vf0"), tap("d", "rep0"))

    def configure(self, name: str, devices: list[dict[str, Any]]) -> None:
        self.write_config(name, {"manage": True, "rundir": str(self.node(name) / "ovs")})
        config = {**json.loads(self.config(name).read_text()), "devices": devices}
        if devices:
            socket, channel = f"unix:{self.plugin(name)}", "[fe80::1%eth0]:8085"
            bridges = {"segment": "blue", "bridges": {"22": "opi-bridge9"}, "role": "tenant"}
            config["opi"] = {"socket": socket, "channel": channel, **bridges}
        self.config(name).write_text(json.dumps(config))

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


@pytest.fixture(scope="module", params=["ebpf", "no ebpf"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DpuWorld]:
    world = DpuWorld(tmp_path_factory.mktemp("w"))
    if request.param == "no ebpf":
        world.hidden = world.directory / "hidden"
        world.hidden.mkdir()
        (world.hidden / "bcc.py").write_text("raise ImportError('No module named bcc')\n")
    socket = world.node("d") / "run" / "attachment.sock"
    common = {"serial": SERIAL, "vendor": "senao", "emulated": True}
    vfs = [
        {"device_id": device_id, "netdev": f"vf{number}"}
        for number, device_id in enumerate((VF, OPERATORS_VF))
    ]
    try:
        world.make_namespaces()
        world.configure(
            "h", [{**common, "side": "host", "attachment": f"unix:{socket}", "vfs": vfs}]
        )
        switch = {"address": f"unix:{world.directory / 'nobody.sock'}", "uplink": "up"}
        reps = ["rep0", "rep1"]
        world.configure("d", [{**common, "side": "dpu", "representors": reps, "switch": switch}])
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


def test_both_halves_are_listed(world: DpuWorld) -> None:
    world.until(lambda: _hears(world), "h")
    found = [(d["name"], d["dpu_side"], d["node"]) for d in world.records("get", "dpu")]
    assert found == [(f"{SERIAL}-dpu", True, "d"), (f"{SERIAL}-host", False, "h")]
    head, dpu, host = world("get", "dpu").stdout.splitlines()
    assert re.split("   +", head) == ["NAME", "DPU PRODUCT", "DPU SIDE", "MODE NAME", "STATUS"]
    product = "Intel Netsec Accelerator (emulated)"
    assert re.split("   +", dpu) == [f"{SERIAL}-dpu", product, "true", "d", "False"]
    assert re.split("   +", host) == [f"{SERIAL}-host", product, "false", "h", "True"]


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


def test_the_dpus_agent_comes_and_goes(world: DpuWorld) -> None:
    """Packets go on while it is away, and it knows its ports when it is back."""
    (target,) = world.records("get", "endpoint", "p3/eth0")
    there = {"ips": [{"address": each} for each in target["ips"]]}
    world.stop("d")
    stopped = time.monotonic()
    assert world.pings("p1", there) == 0
    world.until(lambda: not _hears(world), "h")
    took = time.monotonic() - stopped
    print(f"not ready after {took:.1f} s")
    assert took < 5 * UNHEARD_S
    world.start("d", "agent", "--config", str(world.config("d")), space="d")
    world.until(lambda: world.is_ready("d"), "d")
    world.until(lambda: _hears(world), "h")
    assert world.pings("p1", there) == 0


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

    world.join()
    plug()
    world.until(lambda: host()[0], "h", 5 * STATED_S)
    world.cni("DEL", "h", "p1", deviceID=VF)
    on_vf = world.cni("ADD", "h", "p1", deviceID=VF)
    world.until(lambda: world.pings("p3", on_vf, 1) == 0, "d")
    assert world.pings("p3", on_vf) == 0


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

    def delete(self) -> None:
        self.ports.DeleteBridgePort(opi.DeleteBridgePortRequest(name="host0-1"))


def move_vf_into_pod() -> str:
    """Do what the operator's CNI plugin does with VF 1 and pod p4; return the VF's MAC."""
    (vf,) = json.loads(ip("-n", netns("h").name, "-j", "link", "show", "dev", "vf1"))
    ip("-n", netns("h").name, "link", "set", "vf1", "netns", netns("p4").name, "name", "net1")
    ip("-n", netns("p4").name, "addr", "add", OPERATORS_POD, "dev", "net1")
    ip("-n", netns("p4").name, "link", "set", "net1", "up")
    return str(vf["address"])


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

        world.stop("d", signal.SIGKILL)
        assert (world.pings("p4", there), world.pings("p3", here)) == (0, 0)
        world.start("d", "agent", "--config", str(world.config("d")), space="d")
        assert dpu.begin() == ("[fe80::1%eth0]", 8085)
        assert dpu.create(mac).spec == made.spec
        world.until(lambda: world.is_ready("d"), "d")
        assert dpu.heartbeat.Ping(lifecycle.PingRequest(sender_id="host-daemon")).healthy
        assert (world.pings("p4", there), world.pings("p3", here)) == (0, 0)

        dpu.delete()
        assert "opi/d/host0-1" not in world("get", "port", agents="d").stdout
        assert world.pings("p4", there, 1) == 1
        world.until(lambda: world("get", "endpoint", "opi/d/host0-1").returncode == 1, "d")


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


def _hears(world: DpuWorld) -> bool:
    """Say whether the host hears its DPU, as both halves show; one of them is not ready."""
    dpu, host = world.records("get", "dpu")
    silent = any(each.startswith("Answers=False") for each in dpu["conditions"])
    assert silent == (not host["status"])
    return bool(host["status"])
