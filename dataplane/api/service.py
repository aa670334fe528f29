"""The server side of overweave.v1.Agent: snapshots of the deciding thread as messages."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import grpc

from dataplane.api import agent_pb2 as pb
from dataplane.api import agent_pb2_grpc as rpc
from dataplane.api import attachment_pb2_grpc as attachment_rpc
from dataplane.api.attachment import AttachmentService
from dataplane.api.trace import trace
from dataplane.api.verify import verify
from dataplane.contracts import PacketPaths, PathCounters
from dataplane.core.desired import Port, PortState, RemoteEndpoint, SegmentView
from dataplane.core.model import IpAddress, Node
from dataplane.core.placement import PlacedEntry, placed_entries
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import SWITCH_TARGET, Snapshot, obstacle
from dataplane.core.xdp import XdpPlace, why_no_xdp
from dataplane.rpc import listen

_THREADS = 4
ATTACH_THREADS = 32


class Source(Protocol):
    """What the service shows."""

    @property
    def snapshot(self) -> Snapshot:
        """Return the newest picture of all the agent knows."""
        ...

    @property
    def overdue(self) -> Mapping[str, float]:
        """Return by how many seconds each late Target exceeds its deadline."""
        ...


class AgentService(rpc.AgentServicer):
    """Answers from the newest snapshot; ``modes`` and ``access`` are facts of the start-up."""

    def __init__(  # noqa: PLR0913 - facts of the start-up, and whom to ask for the rest
        self,
        source: Source,
        counters: PathCounters,
        paths: PacketPaths,
        modes: Mapping[str, str],
        access: str,
        *,
        problems: Callable[[], Sequence[str]] = tuple,
    ) -> None:
        """Show ``source``; ``access`` says how the fabric database is reached.

        ``problems`` tells what else is wrong now.
        """
        self._source = source
        self._counters = counters
        self._paths = paths
        self._modes = dict(modes)
        self._access = access
        self._problems = problems

    def GetStatus(self, request: pb.GetStatusRequest, context: object) -> pb.Status:
        """Return readiness, modes, targets and problems."""
        del request, context
        snapshot = self._source.snapshot
        overdue = self._source.overdue
        ports = _ports(snapshot)
        state = snapshot.state
        in_the_way = obstacle(snapshot)
        return pb.Status(
            node=state.node.name,
            obstacle=in_the_way.message if in_the_way else "",
            fabric_connected=state.fabric.connected,
            fabric_error=state.fabric.error,
            fabric_access=self._access,
            vteps=[str(vtep) for vtep in state.vteps],
            targets=[_target(snapshot, name, overdue.get(name, 0.0)) for name in snapshot.targets],
            problems=[*(snapshot.desired.problems if snapshot.desired else ()), *self._problems()],
            ports=len(ports),
            unpublished=[p for p in ports if not p.published and p.state == PortState.ACTIVE],
            blocked=[p for p in ports if p.state == PortState.BLOCKED],
            modes={**self._modes, "xdp": _xdp(snapshot), **_switch(snapshot)},
        )

    def ListPorts(self, request: pb.ListPortsRequest, context: object) -> pb.ListPortsResponse:
        """Return the access ports in the order of their slots."""
        del request, context
        snapshot = self._source.snapshot
        counts, ports = self._counters.counts(), _ports(snapshot)
        for port in ports:
            ifindex = snapshot.state.bindings.ifindexes.get(port.access_port, 0)
            port.handed_over.update({str(why): n for why, n in counts.get(ifindex, {}).items()})
        return pb.ListPortsResponse(ports=ports)

    def ListTunnels(
        self, request: pb.ListTunnelsRequest, context: object
    ) -> pb.ListTunnelsResponse:
        """Return the tunnels by segment and remote VTEP."""
        del request, context
        snapshot = self._source.snapshot
        views = snapshot.desired.segments.values() if snapshot.desired else ()
        tunnels = [_tunnel(snapshot, view, vtep) for view in views for vtep in view.flood]
        return pb.ListTunnelsResponse(tunnels=tunnels)

    def ListEntries(
        self, request: pb.ListEntriesRequest, context: object
    ) -> pb.ListEntriesResponse:
        """Return the forwarding entries with their placement."""
        del request, context
        snapshot = self._source.snapshot
        if snapshot.desired is None:
            return pb.ListEntriesResponse()
        node = snapshot.state.node.name
        is_down = bool(snapshot.state.switch.error)  # and not waited for
        switched = {} if is_down else self._counters.switched() or {}
        holdings = snapshot.holdings(self._counters.traffic(), switched)
        placed = placed_entries(snapshot.desired, holdings)
        return pb.ListEntriesResponse(entries=[_entry(node, each) for each in placed])

    def Trace(self, request: pb.TraceRequest, context: grpc.ServicerContext) -> pb.TraceResponse:
        """Return what becomes of a packet on this node."""
        snapshot = self._source.snapshot
        try:
            found = list(trace(snapshot, self._paths, request))
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return pb.TraceResponse(node=snapshot.state.node.name, hops=found)

    def Verify(
        self, request: pb.VerifyRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.Verified]:
        """Yield what the paths of this node do with the same frames, until nobody listens."""
        try:
            for found in verify(self._source.snapshot, self._paths, request):
                if not context.is_active():
                    return
                yield found
        except ValueError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


def serve(service: AgentService, socket: Path) -> grpc.Server:
    """Start the service on a unix ``socket`` in a directory only root may enter."""
    server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="api"))
    rpc.add_AgentServicer_to_server(service, server)
    return listen(server, socket)


def serve_attachments(service: AttachmentService, socket: Path) -> grpc.Server:
    """Start the service for the host on a unix ``socket`` in a directory only root may enter."""
    # Each Attach waits for the dataplane, and many pods of a host may start at once.
    server = grpc.server(ThreadPoolExecutor(ATTACH_THREADS, thread_name_prefix="attachment"))
    attachment_rpc.add_AttachmentServicer_to_server(service, server)
    return listen(server, socket)


def _target(snapshot: Snapshot, name: str, overdue_s: float) -> pb.TargetStatus:
    report = snapshot.reports.get(name)
    if report is None:
        return pb.TargetStatus(name=name, error="has not reported yet", overdue_s=overdue_s)
    return pb.TargetStatus(
        name=name,
        generation=report.generation,
        error=report.error,
        pending=[f"{pending.about}: {pending.reason}" for pending in report.pending],
        overdue_s=overdue_s,
    )


def _xdp(snapshot: Snapshot) -> str:
    state = snapshot.state
    why_not = why_no_xdp(state.node, state.bindings.nic)
    pending = (each for report in snapshot.reports.values() for each in report.pending)
    refused = (each.reason for each in pending if isinstance(each.about, XdpPlace))
    why_not = why_not or next(refused, "")
    return f"off: {why_not}" if why_not else "native"


def _switch(snapshot: Snapshot) -> dict[str, str]:
    """Return in words what is below this node, if there is anything."""
    known, error = snapshot.state.switch.capability, snapshot.state.switch.error
    if error:
        return {"switch": f"{Reason.DEVICE_DOWN}: {error}"}
    if known is None:
        return {}
    name = f"{known.product} (emulated)" if known.emulated else known.product
    taken = f": {Reason.SWITCH_TAKEN}: {known.obstacle}" if known.obstacle else ""
    lost = snapshot.state.lost.get(SWITCH_TARGET)
    return {"switch": name + (taken or (f": {lost}" if lost else ""))}


def _ports(snapshot: Snapshot) -> list[pb.Port]:
    ports = snapshot.desired.ports if snapshot.desired else ()
    return [_port(snapshot, port) for port in ports]


def _port(snapshot: Snapshot, port: Port) -> pb.Port:
    attachment = port.attachment
    return pb.Port(
        node=snapshot.state.node.name,
        container_id=attachment.container_id,
        ifname=attachment.ifname,
        netns=attachment.netns,
        identity=attachment.identity,
        segment=attachment.segment,
        vni=port.segment.vni,
        mac=attachment.mac,
        ips=[str(ip) for ip in attachment.ips],
        mtu=port.mtu,
        access_port=attachment.access_port,
        ovs_port=attachment.ovs_port,
        state=port.state,
        reason=port.reason or "",
        detail=port.detail,
        published=port.state is PortState.ACTIVE and snapshot.is_published(attachment.key),
        guard=port.segment.guard,
    )


def _entry(node: str, placed: PlacedEntry) -> pb.Entry:
    cause, traffic = placed.cause, placed.traffic
    return pb.Entry(
        node=node,
        segment=placed.segment,
        vni=placed.vni,
        mac=placed.mac,
        identity=placed.identity,
        via=str(placed.via),
        placement=placed.placement,
        reason=cause.reason if cause else "",
        packets=sum(each.packets for each in traffic.values()),
        bytes=sum(each.bytes for each in traffic.values()),
        words=cause.words if cause else "",
        counted={path: each.packets for path, each in traffic.items()},
    )


def _tunnel(snapshot: Snapshot, view: SegmentView, vtep: IpAddress) -> pb.Tunnel:
    segment = view.segment
    behind: Iterable[RemoteEndpoint] = [r for r in view.remotes if r.vtep == vtep]
    state = snapshot.state
    fabric = state.fabric.fabric
    return pb.Tunnel(
        node=state.node.name,
        segment=segment.name,
        vni=segment.vni,
        encap=segment.encap,
        local=str(Node(state.node.name, state.vteps).vtep(segment.underlay) or ""),
        remote=str(vtep),
        udp_port=fabric.port(segment.encap),
        remote_nodes=sorted({remote.endpoint.node for remote in behind}),
        endpoints=sum(1 for _ in behind),
        mtu=view.mtu,
    )
