"""One node of a lab: its directories, its own Open vSwitch, and its agent as a real process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence

import yaml

from bpf import bpffs
from dataplane.api.agent_pb2 import (
    Entry,
    GetStatusRequest,
    ListEntriesRequest,
    ListPortsRequest,
    Port,
)
from dataplane.api.client import CALL_TIMEOUT_S, AgentUnreachableError, connect
from dataplane.core.errors import OverweaveError
from dataplane.core.snapshot import NO_ACCESS
from dataplane.lab.layout import LabPaths, NodePaths
from dataplane.lab.topology import LabNode
from dataplane.lab.underlay import NIC
from ovs_client import process
from ovs_client.daemons import OvsInstance, Place

OVERWEAVE = (sys.executable, "-m", "dataplane.cli.main")
_AGENT = "python"  # how the agent's argv[0] begins
_STOP_S = 5.0
_READY_S = 30.0


class NodeError(OverweaveError):
    """A node of the lab is not as it should be; the text says where to look."""


def switch(paths: NodePaths) -> OvsInstance:
    """Return the node's own Open vSwitch, running or not."""
    return OvsInstance(Place(paths.ovs, paths.logs, paths.netns))


def prepare(paths: NodePaths, config: dict[str, object], *, ebpf: bool) -> None:
    """Make the node's directories, its bpffs and the agent's configuration file."""
    for directory in (paths.ovs, paths.state, paths.run, paths.logs):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if ebpf:
        bpffs.ensure_mounted(paths.bpf)
    else:
        paths.bpf.touch()
    paths.config.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def agent_config(
    lab: LabPaths, node: LabNode, fabric_remote: str, devices: Sequence[Mapping[str, object]]
) -> dict[str, object]:
    """Return what the agent of ``node`` is told; its Open vSwitch is the lab's to run."""
    paths = lab.node(node.name)
    return {
        "node": node.name,
        "underlay": {
            "interface": NIC,
            "addresses": [str(address.ip) for address in node.addresses],
            "exclusive_ports": True,
        },
        "fabric": {"remote": fabric_remote},
        "ovs": {"rundir": str(paths.ovs)},
        "state_dir": str(paths.state),
        "run_dir": str(paths.run),
        "bpffs": str(paths.bpf),
        # A lab that is slow without a word would show nothing of what it is there to show.
        "fastpath": "required" if node.ebpf else "auto",
        "datapath": node.datapath.value,
        "devices": list(devices),
        "discovery": "off",  # each node would find what this machine has
    }


def start_agent(paths: NodePaths) -> None:
    """Start the agent in the node's namespace, detached, unless it runs; does not wait for it."""
    if agent_pid(paths) is not None:
        return
    agent = [*OVERWEAVE, "agent", "--config", str(paths.config)]
    with paths.log.open("ab") as log:
        # setsid forks: the agent is nobody's child, so it outlives us and leaves no zombie.
        subprocess.run(
            ["setsid", "--fork", "nsenter", f"--net={paths.netns}", *agent],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd="/",
            check=True,
        )
    # Until the name of the program has changed for the last time, it would not be found.
    process.wait_until(lambda: agent_pid(paths) is not None, _STOP_S)


def agent_pid(paths: NodePaths) -> int | None:
    """Return the process that is the node's agent, None if it does not run."""
    return process.find(str(paths.config), _AGENT)


def wait_ready(paths: NodePaths) -> None:
    """Return once the agent would accept an ADD. Raises NodeError, with the end of its log."""
    if not process.wait_until(lambda: agent_pid(paths) is None or not obstacle(paths), _READY_S):
        raise NodeError(f"{_called(paths)} is not ready after {_READY_S:.0f} s: {obstacle(paths)}")
    if agent_pid(paths) is None:
        raise NodeError(f"{_called(paths)} has ended: {_last_words(paths)}; its log: {paths.log}")


def obstacle(paths: NodePaths) -> str:
    """Return why an ADD would fail on this node, empty if it would not."""
    try:
        with connect(paths.api_socket) as agent:
            status = agent.GetStatus(GetStatusRequest(), timeout=CALL_TIMEOUT_S)
    except AgentUnreachableError as error:
        return str(error)
    is_followed = status.fabric_connected or status.fabric_access == NO_ACCESS
    unsynced = "" if is_followed else f"fabric: {status.fabric_error or 'not asked yet'}"
    return status.obstacle or unsynced


def modes(paths: NodePaths) -> dict[str, str]:
    """Return how the agent works, as its status says. Raises AgentUnreachableError."""
    with connect(paths.api_socket) as agent:
        return dict(agent.GetStatus(GetStatusRequest(), timeout=CALL_TIMEOUT_S).modes)


def entries(paths: NodePaths) -> list[Entry]:
    """Return the node's forwarding entries with their placement. Raises AgentUnreachableError."""
    with connect(paths.api_socket) as agent:
        return list(agent.ListEntries(ListEntriesRequest(), timeout=CALL_TIMEOUT_S).entries)


def ports(paths: NodePaths) -> list[Port]:
    """Return the node's access ports with what was counted. Raises AgentUnreachableError."""
    with connect(paths.api_socket) as agent:
        return list(agent.ListPorts(ListPortsRequest(), timeout=CALL_TIMEOUT_S).ports)


def stop_agent(paths: NodePaths) -> None:
    """Ask the agent to end (SIGTERM) and wait for that; it leaves the dataplane as it is."""
    pid = agent_pid(paths)
    if pid is not None:
        process.end([pid], _STOP_S, lambda number: _is_agent(paths, number))


def reload_agent(paths: NodePaths) -> None:
    """Have an agent that is ready read its configuration again (SIGHUP); does not wait for it."""
    pid = agent_pid(paths)
    if pid is not None:
        process.send(pid, signal.SIGHUP, lambda number: _is_agent(paths, number))


def kill_agent(paths: NodePaths) -> None:
    """End the agent as a crash would (SIGKILL)."""
    pid = agent_pid(paths)
    if pid is not None:
        process.kill(pid, _STOP_S, lambda number: _is_agent(paths, number))


def environment(paths: NodePaths) -> dict[str, str]:
    """Return the environment in which tools of Open vSwitch find this node's own."""
    return {**os.environ, "OVS_RUNDIR": str(paths.ovs), "OVS_LOGDIR": str(paths.logs)}


def _called(paths: NodePaths) -> str:
    return f"the agent of {paths.directory.name}"


def _last_words(paths: NodePaths) -> str:
    lines = paths.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else "without a word"


def _is_agent(paths: NodePaths, pid: int) -> bool:
    return process.is_running(pid, str(paths.config), _AGENT)
