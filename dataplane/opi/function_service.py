"""NetworkFunctionService: what the traffic of a segment passes on this DPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

import grpc

from dataplane.contracts import AttachRefusedError
from dataplane.core.events import FunctionCreated, FunctionDeleted
from dataplane.core.functions import NetworkFunction, Role
from dataplane.core.snapshot import Snapshot
from dataplane.opi import functions
from dataplane.opi import network_function_pb2 as pb
from dataplane.opi import network_function_pb2_grpc as rpc
from dataplane.opi.answering import answering
from dataplane.opi.refusals import Fault, OpiRefusedError
from dataplane.opi.site import Site
from dataplane.vf_ports import refuse_gone

_DECIDED_S = 2.0
_PROGRAMMED_S = 10.0


class NetworkFunctionService(rpc.NetworkFunctionServiceServicer):
    """Functions are kept by the agent, over restarts, too; one call at a time changes them."""

    def __init__(self, site: Site) -> None:
        """Serve the functions of ``site``."""
        self._site = site
        self._changing = Lock()

    @answering
    def CreateNetworkFunction(
        self, request: pb.NFRequest, context: grpc.ServicerContext
    ) -> pb.Empty:
        """Return once everything passes the function; the same once more: as it is.

        A caller that gives up meanwhile leaves nothing.
        """
        agent = self._site.agent
        with self._turn(context):
            function = functions.wanted(request, agent.snapshot.state)
            functions.refuse_taken(function, agent.snapshot.state)
            is_new = function not in agent.snapshot.state.functions
            agent.post(FunctionCreated(function))
            self._settle(function, is_there=True)
            try:
                refuse_gone(context)
            except AttachRefusedError:
                if is_new:
                    agent.post(FunctionDeleted(function))
                raise
        return pb.Empty()

    @answering
    def DeleteNetworkFunction(
        self, request: pb.NFRequest, context: grpc.ServicerContext
    ) -> pb.Empty:
        """Return once nothing passes the function any more."""
        agent = self._site.agent
        with self._turn(context):
            function = functions.known(request, agent.snapshot.state)
            agent.post(FunctionDeleted(function))
            self._settle(function, is_there=False)
        return pb.Empty()

    @contextmanager
    def _turn(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Wait for the turn of a call; who is gone by then wants nothing more."""
        self._site.own_representors()
        with self._changing:
            refuse_gone(context)
            yield

    def _settle(self, function: NetworkFunction, *, is_there: bool) -> None:
        """Return once all of the node does as decided; else OpiRefusedError: it still comes."""
        agent = self._site.agent
        agent.wait(lambda now: (function in now.state.functions) == is_there, _DECIDED_S)
        generation = agent.snapshot.generation

        def is_over(now: Snapshot) -> bool:
            held = _unreleased(now, function.segment) and not now.state.switch.error
            return now.is_programmed(generation) and not held

        is_done = agent.wait(is_over, _PROGRAMMED_S)
        held = _unreleased(agent.snapshot, function.segment)
        if held or not is_done:
            raise OpiRefusedError(
                Fault.AWAY,
                f"{function} is noted, and not all of node {self._site.node} does so yet:"
                f" {held or 'overweave status'}",
            )


def _unreleased(snapshot: Snapshot, segment: str) -> str:
    """Return why the DPU's switch may still forward past the function; empty: it does not."""
    view = snapshot.desired.segments.get(segment) if snapshot.desired else None
    ports = view.ports if view else ()
    steered = (port.attachment.netdev for port in ports if port.role is Role.STEERED)
    return next(filter(None, map(snapshot.unreleased, steered)), "")
