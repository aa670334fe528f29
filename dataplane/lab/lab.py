"""A whole lab: brought up from whatever is there of it, taken down from whatever is left."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bpf import bpffs
from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.fabric import SCHEMA, schema
from dataplane.lab import dpus, nodes, sysdump, underlay
from dataplane.lab.layout import LABS, UNDERLAY, LabPaths, NodePaths
from dataplane.lab.runtime import Runtime
from dataplane.lab.topology import Kind, LabNode, Topology, default_topology, load_topology
from dataplane.netlink import netns
from ovs_client import process
from ovs_client.daemons import DatabaseServer, Place

Say = Callable[[str], None]
_AT_ONCE = 4  # nodes started side by side
_END_S = 3.0
_END_ROUNDS = 10
_BECOMING_S = 0.05
_TOOLS = ("nsenter", "ovs", "setsid")  # by the beginning of their names


class LabError(OverweaveError):
    """The lab is not, or cannot be brought, into the state asked for."""


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """What runs on a node now; ``agent`` is its process, ``ovs`` whether both daemons run.

    ``obstacle`` says why an ADD would fail there, empty if it would not.
    """

    node: LabNode
    ovs: bool = False
    agent: int | None = None
    obstacle: str = "nothing of ours runs there"


def up(paths: LabPaths, topology: Topology | None, say: Say) -> Topology:
    """Make everything of the lab that is missing, and return what it consists of.

    Without ``topology`` it is the one the lab has, or four nodes. With another one, what is new
    comes up beside what runs, and what is in it no more goes. Safe to repeat, also after a crash
    half-way. Raises LabError; then sysdump has collected what there is to see.
    """
    try:
        built = build(paths, topology, say)
        members = [paths.node(node.name) for node in built.agents]
        running = [each for each in members if nodes.agent_pid(each) is not None]
        start_agents(paths, built.agents)
        for node in running:
            nodes.reload_agent(node)  # it may have got a DPU, or have lost one
    except LabError:
        raise
    except OverweaveError as error:
        target = Path(tempfile.mkdtemp(prefix="overweave-sysdump-"))
        where = sysdump.collect(paths, load_topology(paths.topology), target)
        raise LabError(f"{error}; logs, flows and maps are in {where}") from error
    say(f"lab {paths.name}: {len(built.agents)} agents are ready")
    return built


def build(paths: LabPaths, topology: Topology | None, say: Say) -> Topology:
    """Make what is missing except the agents, and take down what ``topology`` has no more.

    Raises LabError for one that a lab which is up cannot have.
    """
    with _locked(paths):
        topology = _recorded(paths, topology, say)
        underlay.build(paths, topology)
        _each(topology.dpus, lambda node: dpus.start(paths, topology, node))
        underlay.connect(paths, topology)
        say(f"lab {paths.name}: {len(topology.nodes)} machines, underlay of {topology.mtu} bytes")
        server = fabric_server(paths)
        schema.create_database(server.database)
        server.start()
        for node in topology.agents:
            devices = dpus.devices(paths, topology, node)
            config = nodes.agent_config(paths, node, server.remote, devices)
            if topology.is_apart(node):
                config["tls"] = dpus.certificate(paths, node)
                config["fabric"] = config["fabric"] if node.dpu else "none"
            nodes.prepare(paths.node(node.name), config, ebpf=node.ebpf)
        _each(topology.agents, lambda node: nodes.switch(paths.node(node.name)).start())
        say(f"lab {paths.name}: fabric database and {len(topology.agents)} Open vSwitch run")
        return topology


def start_agents(paths: LabPaths, members: Sequence[LabNode]) -> None:
    """Start the agents that do not run and wait until each would accept an ADD.

    Raises NodeError with the end of the log of one that does not get there.
    """
    for node in members:
        nodes.start_agent(paths.node(node.name))
    for node in members:
        nodes.wait_ready(paths.node(node.name))


def down(paths: LabPaths, say: Say) -> bool:
    """Remove everything of the lab, however much there is; return False if there was nothing.

    Every process in one of its namespaces ends, whoever started it.
    """
    if not paths.directory.exists() and not underlay.namespaces(paths):
        return False
    with _locked(paths):
        spaces = underlay.namespaces(paths)
        say(f"lab {paths.name}: taking {len(spaces)} namespaces down")
        _end_processes(paths, spaces, (f"{paths.directory}/", f"/{paths.prefix}"))
        _unmount_below(paths.directory)
        for space in spaces:
            netns.delete(space.name)
        shutil.rmtree(paths.directory)
    for parent in (LABS, LABS.parent):
        with suppress(OSError):  # another lab, or an agent of this machine, has things there
            parent.rmdir()
    return True


def names() -> tuple[str, ...]:
    """Return the labs that are up, or half up."""
    return tuple(sorted(path.name for path in LABS.iterdir())) if LABS.is_dir() else ()


def opened(name: str) -> tuple[LabPaths, Topology]:
    """Return an existing lab. Raises LabError if there is none of that name."""
    paths = LabPaths(name)
    if not paths.topology.exists():
        there = ", ".join(names()) or "none"
        raise LabError(f"lab {name!r} is not up (up: {there}); make it with: overweave lab up")
    return paths, load_topology(paths.topology)


def status(paths: LabPaths, topology: Topology) -> tuple[NodeStatus, ...]:
    """Return what runs on each node, as the process table says."""
    return tuple(_status(paths.node(node.name), node) for node in topology.nodes)


def execute(paths: LabPaths, member: str, command: Sequence[str]) -> int:
    """Run ``command`` in the namespace of a node or pod and return its exit status.

    On a node, tools of Open vSwitch find the node's own instance. Raises LabError.
    """
    space = paths.netns(member)
    if not space.exists():
        there = ", ".join(
            path.name.removeprefix(paths.prefix) for path in underlay.namespaces(paths)
        )
        raise LabError(f"lab {paths.name} has no {member!r}; it has {there or 'nothing'}")
    environment = nodes.environment(paths.node(member))
    return subprocess.run(
        ["nsenter", f"--net={space}", "--", *command], env=environment, check=False
    ).returncode


def apply(paths: LabPaths, intent: str) -> str:
    """Apply intent (YAML documents) as a user does and return what was said. Raises LabError."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as file:
        file.write(intent)
        file.flush()
        return overweave(paths, "apply", "-f", file.name)


def overweave(paths: LabPaths, *words: str) -> str:
    """Run an overweave command on the lab's fabric and return what it printed. Raises LabError."""
    result = subprocess.run(
        [*nodes.OVERWEAVE, *words],
        env={**os.environ, "OVERWEAVE_FABRIC": fabric_server(paths).remote},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise LabError(f"overweave {' '.join(words)}: {result.stderr.strip()}")
    return result.stdout


def fabric_server(paths: LabPaths) -> DatabaseServer:
    """Return the fabric database of the lab, running or not.

    It runs in the underlay's namespace, so that every process of a lab is in one of its own.
    """
    place = Place(paths.fabric, paths.fabric, paths.netns(UNDERLAY))
    return DatabaseServer(place, SCHEMA)


def _recorded(paths: LabPaths, topology: Topology | None, say: Say) -> Topology:
    """Return the topology to build, after writing it down: what is made can be found again.

    What it has no more is taken down before that, so that it is not forgotten half-way.
    """
    if paths.topology.exists():
        present = load_topology(paths.topology)
        if topology is None or (topology.nodes, topology.mtu) == (present.nodes, present.mtu):
            return present
        _take_down(paths, _leaving(paths, present, topology), say)
    chosen = topology or default_topology()
    fresh = paths.topology.with_suffix(".new")
    fresh.write_text(chosen.text, encoding="utf-8")
    fresh.rename(paths.topology)
    return chosen


def _leaving(paths: LabPaths, present: Topology, wanted: Topology) -> tuple[LabNode, ...]:
    """Return the nodes that go when ``wanted`` is to be. Raises LabError, with nothing changed."""
    try:
        gone = present.leaving(wanted)
    except InvalidValueError as error:
        raise LabError(
            f"lab {paths.name} is up with another topology ({paths.topology}), and {error}; or take"
            f" it down first: overweave lab down --name {paths.name}"
        ) from error
    names = {node.name for node in gone}
    vfs = {dpus.device_id(present, n, i) for n in gone if n.dpu for i in range(n.dpu.vfs)}
    pods = Runtime(paths).pods()
    here = [pod.name for pod in pods if pod.node in names or pod.device in vfs]
    if here:
        raise LabError(
            f"lab {paths.name}: what is to go has pods, on it or on its VFs: {', '.join(here)};"
            f" detach each first: overweave lab detach --name {paths.name} {here[0]}"
        )
    return gone


def _take_down(paths: LabPaths, gone: Sequence[LabNode], say: Say) -> None:
    """Remove all of some nodes, as if each had been switched off; the fabric is left as it is."""
    for node in gone:
        spaces = [paths.netns(node.name), *([dpus.space(paths, node)] if node.dpu else [])]
        there = [space for space in spaces if space.exists()]
        directories = [paths.node(node.name).directory, dpus.directory(paths, node)]
        _end_processes(paths, there, [f"{directory}/" for directory in directories])
        underlay.unplug(paths.netns(UNDERLAY), node.name)
        if node.dpu:
            dpus.unplug(paths, node)
        for space in there:
            netns.delete(space.name)
        for directory in directories:
            _unmount_below(directory)
            if directory.exists():
                shutil.rmtree(directory)
        advice = f"; next: overweave node delete {node.name}" if node.kind is Kind.AGENT else ""
        say(f"lab {paths.name}: {node.name} is gone{advice}")


def _each(members: Sequence[LabNode], action: Callable[[LabNode], None]) -> None:
    with ThreadPoolExecutor(_AT_ONCE, "node") as pool:
        for _ in pool.map(action, members):
            pass


def _status(paths: NodePaths, node: LabNode) -> NodeStatus:
    if node.kind is Kind.BARE:
        return NodeStatus(node)
    running, agent = nodes.switch(paths).running(), nodes.agent_pid(paths)
    return NodeStatus(node, running, agent, nodes.obstacle(paths))


def _end_processes(paths: LabPaths, spaces: Sequence[Path], marks: Sequence[str]) -> None:
    """End what lives in ``spaces``, and each tool on its way there: with a mark in its words."""

    def is_ours(pid: int) -> bool:
        return pid != os.getpid() and (process.lives_in(pid, spaces) or _works_for(marks, pid))

    found: list[int] = []
    for _ in range(_END_ROUNDS):
        found = [pid for pid in process.pids() if is_ours(pid)]
        if not found:
            return
        process.end(found, _END_S, is_ours)
        # An ``up`` that was killed may have left one that is only just becoming another program.
        time.sleep(_BECOMING_S)
    raise LabError(f"lab {paths.name}: processes {found} do not end; look at them with ps")


def _works_for(marks: Sequence[str], pid: int) -> bool:
    """Say whether ``pid`` is a tool that makes files of the lab, or is on its way into it."""
    return any(process.names(pid, mark, tool) for mark in marks for tool in _TOOLS)


def _unmount_below(directory: Path) -> None:
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    points = [Path(line.split(" ")[1]) for line in lines]
    for point in sorted((p for p in points if directory in p.parents), reverse=True):
        bpffs.unmount(point)


@contextmanager
def _locked(paths: LabPaths) -> Iterator[None]:
    """Hold the lab's directory, so that two commands on one lab wait for each other."""
    held = _hold(paths.directory)
    try:
        yield
    finally:
        os.close(held)


def _hold(directory: Path) -> int:
    """Return a descriptor that locks ``directory``, which exists from then on."""
    while True:
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(held, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(held), directory.stat()):
                return held
        os.close(held)  # it was taken down while we waited
