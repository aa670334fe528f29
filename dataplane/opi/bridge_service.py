"""LogicalBridgeService: the fabric's Segments, as this node knows them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.protobuf.empty_pb2 import Empty

from dataplane.contracts import SegmentWriter
from dataplane.core.errors import FabricUnavailableError, InvalidValueError, OverweaveError
from dataplane.core.model import Segment
from dataplane.opi import l2_xpu_infra_mgr_pb2 as pb
from dataplane.opi import l2_xpu_infra_mgr_pb2_grpc as rpc
from dataplane.opi import masks
from dataplane.opi.answering import answering
from dataplane.opi.bridges import BridgeView
from dataplane.opi.paging import page_of
from dataplane.opi.refusals import Fault, OpiRefusedError, missing, unknown
from dataplane.opi.resources import BRIDGES
from dataplane.opi.site import Site
from dataplane.turns import Turns

_SEEN_S = 2.0  # how long a write waits to be seen here: the next call may ask for it
_MAYBE_LATE = (Fault.IN_USE, Fault.NOT_TENANT)  # of a write; so is what is not seen here yet
_TURN_S = 10.0  # at most: longer than a database that is away takes to be noticed


class LogicalBridgeService(rpc.LogicalBridgeServiceServicer):
    """Reads what the node knows; what changes a Segment needs the role ``tenant``."""

    def __init__(self, site: Site) -> None:
        """Serve the bridges of ``site``."""
        self._site = site
        self._turns = Turns()

    @answering
    def CreateLogicalBridge(
        self, request: pb.CreateLogicalBridgeRequest, context: grpc.ServicerContext
    ) -> pb.LogicalBridge:
        """Return the bridge, new or as it is there already."""
        with self._turn(context):
            view = self._site.bridges()
            try:
                return self._made(view, view.create(request))
            except OpiRefusedError as refused:
                if refused.fault not in _MAYBE_LATE or not self._is_old(view):
                    raise
            view = self._site.bridges()  # another node was first: with the same, or with another
            return self._made(view, view.create(request))

    @answering
    def ListLogicalBridges(
        self, request: pb.ListLogicalBridgesRequest, context: grpc.ServicerContext
    ) -> pb.ListLogicalBridgesResponse:
        """Return a page of all bridges, by name."""
        del context
        view = self._site.bridges()
        page, following = page_of(view.segments, BRIDGES, request.page_size, request.page_token)
        return pb.ListLogicalBridgesResponse(
            logical_bridges=map(view.resource, page), next_page_token=following
        )

    @answering
    def GetLogicalBridge(
        self, request: pb.GetLogicalBridgeRequest, context: grpc.ServicerContext
    ) -> pb.LogicalBridge:
        """Return one bridge."""
        del context
        name = BRIDGES.id_of(request.name)
        view = self._site.bridges()
        if name not in view.segments:
            raise unknown(request.name)
        return view.resource(view.segments[name])

    @answering
    def DeleteLogicalBridge(
        self, request: pb.DeleteLogicalBridgeRequest, context: grpc.ServicerContext
    ) -> Empty:
        """Remove a bridge that nothing is attached to."""
        name = BRIDGES.id_of(request.name)
        with self._turn(context):
            if name in self._site.bridges().segments:
                self._delete(name)
            elif not request.allow_missing:
                raise unknown(request.name)
        return Empty()

    @answering
    def UpdateLogicalBridge(
        self, request: pb.UpdateLogicalBridgeRequest, context: grpc.ServicerContext
    ) -> pb.LogicalBridge:
        """Return the bridge as it is with what the mask names changed."""
        if not request.HasField("logical_bridge"):
            raise missing("logical_bridge")
        wanted = request.logical_bridge
        name = BRIDGES.id_of(wanted.name, "logical_bridge.name")
        masks.check(wanted, request.update_mask)
        with self._turn(context):
            view = self._site.bridges()
            known = view.segments.get(name)
            if known is not None:
                stored = view.resource(known)
                changed = masks.updated(stored, wanted, request.update_mask)
                return self._made(view, view.update(known, changed))
            if not request.allow_missing:
                raise unknown(wanted.name)
            created = pb.CreateLogicalBridgeRequest(logical_bridge=wanted)
            return self._made(view, view.create(created))

    @contextmanager
    def _turn(self, caller: grpc.ServicerContext) -> Iterator[None]:
        """Let one change follow another: it has to see what that has written."""
        left = caller.time_remaining()
        wait_s = _TURN_S if left is None else min(left, _TURN_S)
        with self._turns.hold(BRIDGES.plural, wait_s) as came:
            if not came:
                raise OpiRefusedError(
                    Fault.AWAY, "another change of bridges is still under way; try again"
                )
            yield

    def _made(self, view: BridgeView, segment: Segment) -> pb.LogicalBridge:
        """Write ``segment`` if that is not what is there."""
        seen = view.segments.get(segment.name)
        if seen != segment:
            writer = self._writer(f"makes or changes segment {segment.name}")
            with _refusals():
                writer.write(segment, seen)
            self._wait(segment.name, segment)
        return view.resource(segment)

    def _delete(self, name: str) -> None:
        writer = self._writer(f"deletes segment {name}")
        with _refusals():
            writer.delete(name)
        self._wait(name, None)

    def _writer(self, what: str) -> SegmentWriter:
        if self._site.segments is None:
            raise OpiRefusedError(
                Fault.NOT_TENANT,
                f"this call {what}, for which the caller needs the role tenant: set opi.role, or"
                " have an administrator do it with 'overweave apply' or 'overweave delete'",
            )
        return self._site.segments

    def _is_old(self, view: BridgeView) -> bool:
        """Say whether other bridges are known than ``view`` has, or will be in a moment."""
        return self._site.agent.wait(
            lambda snapshot: snapshot.state.fabric.segments != view.segments, _SEEN_S
        )

    def _wait(self, name: str, segment: Segment | None) -> None:
        self._site.agent.wait(
            lambda snapshot: snapshot.state.fabric.segments.get(name) == segment, _SEEN_S
        )


@contextmanager
def _refusals() -> Iterator[None]:
    """Make an OpiRefusedError of what a SegmentWriter raises."""
    try:
        yield
    except FabricUnavailableError as error:
        raise OpiRefusedError(Fault.AWAY, f"{error}; try again") from error
    except InvalidValueError as error:
        raise OpiRefusedError(Fault.IN_USE, str(error)) from error
    except OverweaveError as error:
        raise OpiRefusedError(
            Fault.NOT_TENANT, f"the fabric database does not let this node do it: {error}"
        ) from error
