"""LogicalBridgeService: the fabric's Segments, as this node knows them."""

from __future__ import annotations

import grpc
from google.protobuf.empty_pb2 import Empty

from dataplane.core.model import Segment
from dataplane.opi import l2_xpu_infra_mgr_pb2 as pb
from dataplane.opi import l2_xpu_infra_mgr_pb2_grpc as rpc
from dataplane.opi.answering import answering
from dataplane.opi.methods import Methods
from dataplane.opi.resources import BRIDGES
from dataplane.opi.site import Site


class LogicalBridgeService(rpc.LogicalBridgeServiceServicer):
    """A bridge is a Segment: one that nothing is attached to can be deleted."""

    def __init__(self, site: Site) -> None:
        """Serve the bridges of ``site``."""
        self._methods = Methods[Segment, pb.LogicalBridge](site, BRIDGES, site.bridges)

    @answering
    def CreateLogicalBridge(
        self, request: pb.CreateLogicalBridgeRequest, context: grpc.ServicerContext
    ) -> pb.LogicalBridge:
        """Return the bridge, new or as it is there already."""
        return self._methods.create(request.logical_bridge_id, request.logical_bridge, context)

    @answering
    def ListLogicalBridges(
        self, request: pb.ListLogicalBridgesRequest, context: grpc.ServicerContext
    ) -> pb.ListLogicalBridgesResponse:
        """Return a page of all bridges, by name."""
        del context
        page, following = self._methods.page(request.page_size, request.page_token)
        return pb.ListLogicalBridgesResponse(logical_bridges=page, next_page_token=following)

    @answering
    def GetLogicalBridge(
        self, request: pb.GetLogicalBridgeRequest, context: grpc.ServicerContext
    ) -> pb.LogicalBridge:
        """Return one bridge."""
        del context
        return self._methods.get(request.name)

    @answering
    def DeleteLogicalBridge(
        self, request: pb.DeleteLogicalBridgeRequest, context: grpc.ServicerContext
    ) -> Empty:
        """Remove a bridge that nothing is attached to."""
        self._methods.delete(request.name, context, allow_missing=request.allow_missing)
        return Empty()

    @answering
    def UpdateLogicalBridge(
        self, request: pb.UpdateLogicalBridgeRequest, context: grpc.ServicerContext
    ) -> pb.LogicalBridge:
        """Return the bridge as it is with what the mask names changed."""
        return self._methods.update(
            request.logical_bridge,
            request.update_mask,
            context,
            allow_missing=request.allow_missing,
        )
