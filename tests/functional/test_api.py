"""The agent's gRPC service on a real unix socket, and the code protoc wrote for it."""

import subprocess
import sys
from pathlib import Path

import pytest

from dataplane.api import agent_pb2 as pb
from dataplane.api.client import AgentUnreachableError, connect
from dataplane.api.service import AgentService, serve
from dataplane.core.derive import derive
from dataplane.core.events import Link, LinksChanged, TargetReport
from dataplane.core.model import Mac
from dataplane.core.placement import Traffic
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import Snapshot
from tests.unit.test_core_state import OWN_BLOCK, POD, after, remote, request, synced

REPOSITORY = Path(__file__).parents[2]


class FixedPath:
    """A fast path that holds the remote endpoint, and has handed two ARP questions over."""

    def traffic(self) -> dict[tuple[int, Mac], Traffic]:
        return {(100, remote().mac): Traffic(7, 700)}

    def counts(self) -> dict[int, dict[Reason, int]]:
        return {40: {Reason.ARP: 2}, 41: {Reason.GROUP: 1}}


class Fixed:
    """A source with one attachment and one remote endpoint; flows are late and failing."""

    def __init__(self) -> None:
        port = LinksChanged((Link("vp0", 40, "", 1450, up=True),))
        state = after(*synced(OWN_BLOCK, remote()), request(), port)
        self.overdue = {"flows": 2.5}
        self.snapshot = Snapshot(
            state,
            ("flows", "fabric"),
            derive(state),
            generation=3,
            reports={"flows": TargetReport("flows", 3, error="the switch said no")},
            since={POD: 3},
        )


def test_status_ports_and_tunnels_over_a_socket(tmp_path: Path) -> None:
    socket = tmp_path / "api.sock"
    server = serve(AgentService(Fixed(), FixedPath(), {"underlay": "userspace"}, "unix"), socket)
    with connect(socket) as agent:
        status: pb.Status = agent.GetStatus(pb.GetStatusRequest())
        ports = agent.ListPorts(pb.ListPortsRequest()).ports
        tunnels = agent.ListTunnels(pb.ListTunnelsRequest()).tunnels
        entries = agent.ListEntries(pb.ListEntriesRequest()).entries
    server.stop(None)
    assert (status.node, status.ports) == ("n1", 1)
    assert "the switch said no" in status.obstacle
    assert [(t.name, t.error, t.overdue_s) for t in status.targets] == [
        ("flows", "the switch said no", 2.5),
        ("fabric", "has not reported yet", 0.0),
    ]
    assert [p.identity for p in status.unpublished] == ["ns/pod/eth0"]
    assert [(p.container_id, p.segment, p.vni, p.mtu) for p in ports] == [
        ("pod", "blue", 100, 1450)
    ]
    assert [(t.remote, list(t.remote_nodes), t.endpoints) for t in tunnels] == [
        ("192.0.2.2", ["n2"], 1)
    ]
    assert dict(ports[0].handed_over) == {"arp": 2}
    assert [(e.via, e.placement, e.reason, e.packets, e.bytes) for e in entries] == [
        ("vp0", "ovs", "pending", 0, 0),
        ("192.0.2.2", "fastpath", "", 7, 700),
    ]


def test_no_agent_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(AgentUnreachableError, match="is 'overweave agent' running"),
        connect(tmp_path / "none.sock") as agent,
    ):
        agent.GetStatus(pb.GetStatusRequest(), timeout=1)


@pytest.mark.parametrize("suffix", ["_pb2.py", "_pb2.pyi", "_pb2_grpc.py"])
def test_the_checked_in_code_is_what_protoc_writes(suffix: str, tmp_path: Path) -> None:
    out = [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *out, "dataplane/api/agent.proto"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    written = tmp_path / f"dataplane/api/agent{suffix}"
    assert written.read_text() == (REPOSITORY / f"dataplane/api/agent{suffix}").read_text()
