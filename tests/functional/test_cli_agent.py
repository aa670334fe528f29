"""Two nodes by the commands of a user alone: agents, status, get, ping, uninstall.

Node a uses an Open vSwitch that is also somebody else's; node b runs one of its own. The tests
are the life of this little network, in their order.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from dataplane.lab.runtime import invoke
from ovs_client.daemons import OvsInstance, Place
from tests.unit.sysfs_trees import Tree

OVERWEAVE = [sys.executable, "-m", "dataplane.cli.main"]
PREFIX = f"owcli{os.getpid()}"  # of this run alone: another may go on beside it
STATED_S = 2.0  # until a card that came or went is shown
SEGMENT = 'kind: Segment\nname: blue\nvni: 7\nsubnets: [10.1.0.0/20, "fd00:1::/64"]\n'


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], check=True, capture_output=True, text=True)
    return done.stdout


def netns(name: str) -> Path:
    return Path("/run/netns") / f"{PREFIX}-{name}"


# Node b is left to find out: its Open vSwitch leaves the kernel's to that of the machine.
DATAPATH = {"a": ("--datapath", "userspace"), "b": ()}


@dataclass
class World:
    """Namespaces, processes and directories of the two nodes and their two pods."""

    directory: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def fabric(self) -> str:
        return f"unix:{self.directory}/f/db.sock"

    def node(self, name: str) -> Path:
        return self.directory / name

    def config(self, name: str) -> Path:
        return self.directory / f"{name}.yaml"

    def sysfs(self, name: str) -> Path:
        """Return where the agent of a node looks for DPUs, instead of in this machine."""
        return self.directory / f"{name}.sys"

    def make_namespaces(self) -> None:
        for name in ("a", "b", "p1", "p2"):
            ip("netns", "add", netns(name).name)
        link = ["link", "add", "eth0", "netns", netns("a").name, "type", "veth", "peer", "name"]
        ip(*link, "eth0", "netns", netns("b").name)
        for number, name in enumerate(("a", "b"), start=1):
            ip("-n", netns(name).name, "link", "set", "lo", "up")
            ip("-n", netns(name).name, "link", "set", "eth0", "up")
            ip("-n", netns(name).name, "addr", "add", f"192.0.2.{number}/24", "dev", "eth0")

    def write_config(self, name: str, ovs: dict[str, Any]) -> None:
        config = {
            "node": name,
            "underlay": {"interface": "eth0"},
            "fabric": {"remote": self.fabric},
            "ovs": ovs,
            "state_dir": str(self.node(name) / "state"),
            "run_dir": str(self.node(name) / "run"),
            "bpffs": str(self.node(name) / "bpf"),
            "discovery": str(self.sysfs(name)),
        }
        self.config(name).write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML

    def start(self, name: str, *words: str, space: str | None = None) -> None:
        enter = ["nsenter", f"--net={netns(space)}"] if space else []
        with (self.directory / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*enter, *OVERWEAVE, *words], stdout=log, stderr=log
            )

    def start_agent(self, name: str) -> None:
        words = ("agent", "--config", str(self.config(name)), *DATAPATH[name])
        self.start(name, *words, space=name)
        self.until(lambda: self("status", agents=name).returncode == 0, name)

    def stop(self, name: str, number: int = signal.SIGTERM) -> None:
        process = self.processes.pop(name)
        process.send_signal(number)
        process.wait(15)

    def until(self, condition: Any, name: str, timeout_s: float = 60) -> None:
        deadline = time.monotonic() + timeout_s
        while not condition():
            log = (self.directory / f"{name}.log").read_text(encoding="utf-8")
            assert self.processes[name].poll() is None, log
            assert time.monotonic() < deadline, log
            time.sleep(0.1)

    def __call__(
        self, *words: str, agents: str = "ab", stdin: str = "", space: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        sockets = ":".join(str(self.node(name) / "run" / "api.sock") for name in agents)
        enter = ["nsenter", f"--net={netns(space)}"] if space else []
        return subprocess.run(
            [*enter, *OVERWEAVE, *words],
            env={**os.environ, "OVERWEAVE_FABRIC": self.fabric, "OVERWEAVE_AGENT": sockets},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def records(self, *words: str) -> list[dict[str, Any]]:
        run = self(*words, "-o", "json")
        found: list[dict[str, Any]] = json.loads(run.stdout)
        return found

    def attach(self, node: str, pod: str) -> None:
        environment = {
            "CNI_COMMAND": "ADD",
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": str(netns(pod)),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": "/nowhere",
            "CNI_ARGS": f"OVERWEAVE_ENDPOINT={pod}",
        }
        config = {
            "cniVersion": "1.1.0",
            "name": "overweave",
            "type": "overweave-cni",
            "segment": "blue",
            "agentSocket": str(self.node(node) / "run" / "cni.sock"),
        }
        invoke(environment, config)

    def clear(self) -> None:
        for name in list(self.processes):
            self.stop(name)
        for name in ("a", "b"):
            OvsInstance(Place(self.node(name) / "ovs", self.node(name) / "ovs")).stop(cleanup=True)
            bpffs = self.node(name) / "bpf"
            if bpffs.is_mount():
                subprocess.run(["umount", str(bpffs)], check=True)
        for name in ("a", "b", "p1", "p2"):
            subprocess.run(["ip", "netns", "del", netns(name).name], check=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("w"))
    try:
        world.make_namespaces()
        shared = OvsInstance(Place(world.node("a") / "ovs", world.node("a") / "ovs", netns("a")))
        shared.start()
        world.write_config("a", {"remote": shared.remote, "rundir": str(world.node("a") / "ovs")})
        world.write_config("b", {"manage": True, "rundir": str(world.node("b") / "ovs")})
        world.start("fabric", "fabric", "run", "--dir", str(world.directory / "f"))
        world.until(lambda: world("get", "node").returncode == 0, "fabric")
        for name in ("a", "b"):
            world.start_agent(name)
        assert world("apply", "-f", "-", stdin=SEGMENT).returncode == 0
        for node, pod in (("a", "p1"), ("b", "p2")):
            world.attach(node, pod)
        yield world
    finally:
        world.clear()


def test_status_says_that_all_is_well(world: World) -> None:
    run = world("status")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [
        "2 of 2 agents are ready",
        "a: ready: 1 port",
        "b: ready: 1 port",
        "next: overweave get port -o wide",
    ]


def test_status_says_which_datapath_and_why(world: World) -> None:
    found = {each["node"]: each["modes"]["datapath"] for each in world.records("status")}
    assert found["a"] == "userspace"
    assert found["b"].startswith("userspace, because with ovs.manage ")


def test_the_kernels_datapath_is_not_taken_from_the_machines_open_vswitch(world: World) -> None:
    config = json.loads(world.config("b").read_text(encoding="utf-8"))
    config["state_dir"] = str(world.directory / "other")
    world.config("other").write_text(json.dumps(config), encoding="utf-8")
    run = world("agent", "--config", str(world.config("other")), "--datapath", "kernel")
    assert run.returncode == 1
    assert run.stderr.endswith("would undo each other's work in it\n")
    assert "datapath: kernel, but with ovs.manage " in run.stderr


def test_ports_and_tunnels_are_listed(world: World) -> None:
    ports = world.records("get", "port")
    assert [(p["node"], p["identity"], p["state"]) for p in ports] == [
        ("a", "p1/eth0", "active"),
        ("b", "p2/eth0", "active"),
    ]
    tunnels = world.records("get", "tunnel", "b")
    assert [(t["node"], t["local"], t["remote"]) for t in tunnels] == [
        ("a", "192.0.2.1", "192.0.2.2")
    ]
    assert {node["name"] for node in world.records("get", "node")} == {"a", "b"}


def test_ping_mesh_tells_reachable_pairs_and_lost_packets(world: World) -> None:
    well = world("ping", "--mesh")
    assert well.returncode == 0, well.stdout + well.stderr
    assert well.stdout.startswith("reachable: 2/2 pairs, lost 0\n")
    tested = {(r["source"], r["ip"].count(":") > 0) for r in world.records("ping", "--mesh")}
    assert tested == {
        (f"{pod}/eth0@{node}", v6)
        for pod, node in (("p1", "a"), ("p2", "b"))
        for v6 in (True, False)
    }
    ip("-n", netns("b").name, "link", "set", "eth0", "down")
    try:
        cut = world("ping", "--mesh", "-c", "2")
    finally:
        ip("-n", netns("b").name, "link", "set", "eth0", "up")
    assert cut.returncode == 1
    assert cut.stdout.startswith("reachable: 0/2 pairs, lost 8\n")
    assert "100 % lost" in cut.stdout


def test_dpus_that_are_plugged_in_and_unplugged(world: World) -> None:
    """Two equal cards at node a, and the same slot at node b: each row is somebody's."""

    def dpus() -> list[tuple[str, str, str]]:
        rows = world.records("get", "dpu")
        assert not any(row["status"] or row["dpu_side"] or row["emulated"] for row in rows)
        return [(row["name"], row["dpu_product"], row["node"]) for row in rows]

    def until(wanted: list[tuple[str, str, str]]) -> None:
        since = time.monotonic()
        world.until(lambda: dpus() == wanted, "a", STATED_S * 5)
        print(f"shown after {time.monotonic() - since:.2f} s, stated {STATED_S} s")

    octeon, ipu = "Marvell Octeon 10", "Intel IPU E2100"
    here, there = Tree(world.sysfs("a")), Tree(world.sysfs("b"))
    assert dpus() == []
    here.function("0000:03:00.0", "177d:b900", ["enp3s0"])
    here.vfs("0000:03:00.0", "177d:b903", {"0000:03:02.0": "enp3s0v0"})
    until([("marvell-dpu-0000-03-00.0-host", octeon, "a")])
    here.function("0000:04:00.0", "177d:b900", ["enp4s0"])
    there.function("0000:03:00.0", "177d:b900", ["enp3s0"])
    here.function("0000:06:00.0", "8086:1452", {"ens6d2": {"dev_port": "2"}})
    here.function("0000:07:00.0", "15b3:1021", ["ens7"])
    until(
        [
            ("intel-ipu-0000-06-00.0-host", ipu, "a"),
            ("marvell-dpu-0000-03-00.0-host", octeon, "a"),
            ("marvell-dpu-0000-03-00.0-host", octeon, "b"),
            ("marvell-dpu-0000-04-00.0-host", octeon, "a"),
        ]
    )
    (row,) = world.records("get", "dpu", "marvell-dpu-0000-03-00.0")[:1]
    assert row["conditions"][0].startswith("Configured=False to use it, list serial ")
    assert "VFs 0000:03:02.0 (enp3s0v0)" in row["conditions"][1]
    assert world("status").stdout.startswith("2 of 2 agents are ready\n")
    here.unplug("0000:03:00.0", "0000:03:02.0", "0000:06:00.0")
    there.unplug("0000:03:00.0")
    until([("marvell-dpu-0000-04-00.0-host", octeon, "a")])
    here.unplug("0000:04:00.0")
    until([])


def test_an_agent_that_is_away_is_told(world: World) -> None:
    world.stop("a", signal.SIGKILL)
    run = world("status")
    assert run.returncode == 3
    assert run.stdout.startswith("1 of 2 agents are ready\nNO ANSWER: no agent answers on ")
    assert run.stdout.splitlines()[-1].startswith("next: start the agent: overweave agent")
    assert world("get", "port").returncode == 3
    world.start_agent("a")
    world.until(lambda: world("ping", "--mesh").returncode == 0, "a")


def foreign_things(world: World) -> str:
    """Make, once, a bridge, a link and a filter of someone else, and return how they look."""
    space = netns("a")
    environment = {**os.environ, "OVS_RUNDIR": str(world.node("a") / "ovs")}

    def inside(*words: str) -> str:
        enter = ["nsenter", f"--net={space}", *words]
        done = subprocess.run(enter, env=environment, check=True, capture_output=True, text=True)
        return done.stdout

    if "vp7" not in inside("ip", "-br", "link"):
        ip("-n", space.name, "link", "add", "vp7", "type", "veth", "peer", "name", "vp7x")
        inside(
            "ovs-vsctl", "add-br", "br-int", "--", "set", "bridge", "br-int", "datapath_type=netdev"
        )
        match = ["protocol", "ip", "u32", "match", "u32", "0", "0", "flowid", "1:1"]
        inside("tc", "filter", "add", "dev", "eth0", "ingress", "pref", "7", *match)
    links = [line.split()[0] for line in inside("ip", "-br", "link").splitlines()]
    theirs = [link for link in links if link.startswith(("lo", "eth0", "vp7", "br-int"))]
    filters = inside("tc", "filter", "show", "dev", "eth0", "ingress", "pref", "7")
    return "\n".join([*theirs, filters, inside("ovs-vsctl", "list-br").replace("ow-", "")])


def test_uninstall_removes_what_is_ours_and_nothing_else(world: World) -> None:
    foreign = foreign_things(world)
    uninstall = ("uninstall", "--config", str(world.config("a")))

    agent = world.processes["a"]

    dry = world(*uninstall, "--dry-run", space="a")
    assert dry.returncode == 0, dry.stderr
    assert f"- agent of {world.node('a')}/state (process {agent.pid})" in dry.stdout
    assert agent.poll() is None
    assert "- link vp0 (overweave:p1/eth0)" in dry.stdout
    assert "- tc filter overweave:underlay of eth0" in dry.stdout
    assert "- bridge ow-int" in dry.stdout
    assert "- rows of node a in the fabric database (Node a, " in dry.stdout
    before = world.records("get", "node")
    assert len(before) == 2

    done = world(*uninstall, space="a")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1:] == dry.stdout.splitlines()[1:]
    assert world.processes.pop("a").wait(1) == 0
    assert [node["name"] for node in world.records("get", "node")] == ["b"]
    assert world.records("get", "endpoint")[0]["node"] == "b"
    assert sorted(path.name for path in world.node("a").iterdir()) == ["ovs"]
    assert not {"vp0", "ow-int", "ow-phy", "ophy0"} & {
        *ip("-n", netns("a").name, "-br", "link").split()
    }
    assert "eth0" not in ip("-n", netns("p1").name, "-br", "link")
    assert foreign_things(world) == foreign.replace("int\nphy\n", "")
    again = world(*uninstall, space="a")
    kept = f"kept: {world.config('a')}, for the configuration is yours"
    assert (again.returncode, again.stdout) == (0, f"nothing to do\n{kept}\n")


def test_uninstall_ends_a_switch_of_its_own(world: World) -> None:
    world.stop("b")
    uninstall = ("uninstall", "--config", str(world.config("b")))
    done = world(*uninstall, space="b")
    assert done.returncode == 0, done.stderr
    assert f"- Open vSwitch of {world.node('b')}/ovs" in done.stdout
    assert list(world.node("b").iterdir()) == []
    assert world("get", "node").stderr == "no nodes\n"
    names = [
        line.split()[0].partition("@")[0]
        for line in ip("-n", netns("b").name, "-br", "link").splitlines()
    ]
    assert names == ["lo", "eth0"]


def test_uninstall_without_the_database_says_what_it_did_not_look_at(world: World) -> None:
    world.stop("fabric")
    run = world("uninstall", "--config", str(world.config("b")), space="b")
    assert run.returncode == 1
    assert run.stdout.startswith("0 removed, 0 could not be, 1 places not looked at")
    assert "not looked at: database Overweave at unix:" in run.stderr
