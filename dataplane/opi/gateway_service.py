"""VrfService and SviService: the fabric's gateways, as this node knows them."""

from __future__ import annotations

import grpc
from google.protobuf.empty_pb2 import Empty

from dataplane.core.model import Svi, Vrf
from dataplane.opi import l3_xpu_infra_mgr_pb2 as pb
from dataplane.opi import l3_xpu_infra_mgr_pb2_grpc as rpc
from dataplane.opi.answering import answering
from dataplane.opi.methods import Methods
from dataplane.opi.resources import SVIS, VRFS
from dataplane.opi.site import Site


class VrfService(rpc.VrfServiceServicer):
    """A Vrf is one of the fabric's: one that no Svi is in can be deleted."""

    def __init__(self, site: Site) -> None:
        """Serve the Vrfs of ``site``."""
        self._methods = Methods[Vrf, pb.Vrf](site, VRFS, site.vrfs)

    @answering
    def CreateVrf(self, request: pb.CreateVrfRequest, context: grpc.ServicerContext) -> pb.Vrf:
        """Return the Vrf, new or as it is there already."""
        return self._methods.create(request.vrf_id, request.vrf, context)

    @answering
    def ListVrfs(
        self, request: pb.ListVrfsRequest, context: grpc.ServicerContext
    ) -> pb.ListVrfsResponse:
        """Return a page of all Vrfs, by name."""
        del context
        page, following = self._methods.page(request.page_size, request.page_token)
        return pb.ListVrfsResponse(vrfs=page, next_page_token=following)

    @answering
    def GetVrf(self, request: pb.GetVrfRequest, context: grpc.ServicerContext) -> pb.Vrf:
        """Return one Vrf."""
        del context
        return self._methods.get(request.name)

    @answering
    def DeleteVrf(self, request: pb.DeleteVrfRequest, context: grpc.ServicerContext) -> Empty:
        """Remove a Vrf that no Svi is in."""
        self._methods.delete(request.name, context, allow_missing=request.allow_missing)
        return Empty()

    @answering
    def UpdateVrf(self, request: pb.UpdateVrfRequest, context: grpc.ServicerContext) -> pb.Vrf:
        """Return the Vrf as it is with what the mask names changed."""
        return self._methods.update(
            request.vrf, request.update_mask, context, allow_missing=request.allow_missing
        )


class SviService(rpc.SviServiceServicer):
    """An Svi is the gateway of a Segment on every node."""

    def __init__(self, site: Site) -> None:
        """Serve the Svis of ``site``."""
        self._methods = Methods[Svi, pb.Svi](site, SVIS, site.svis)

    @answering
    def CreateSvi(self, request: pb.CreateSviRequest, context: grpc.ServicerContext) -> pb.Svi:
        """Return the Svi, new or as it is there already."""
        return self._methods.create(request.svi_id, request.svi, context)

    @answering
    def ListSvis(
        self, request: pb.ListSvisRequest, context: grpc.ServicerContext
    ) -> pb.ListSvisResponse:
        """Return a page of all Svis, by name."""
        del context
        page, following = self._methods.page(request.page_size, request.page_token)
        return pb.ListSvisResponse(svis=page, next_page_token=following)

    @answering
    def GetSvi(self, request: pb.GetSviRequest, context: grpc.ServicerContext) -> pb.Svi:
        """Return one Svi."""
        del context
        return self._methods.get(request.name)

    @answering
    def DeleteSvi(self, request: pb.DeleteSviRequest, context: grpc.ServicerContext) -> Empty:
        """Remove an Svi: its segment has no gateway then."""
        self._methods.delete(request.name, context, allow_missing=request.allow_missing)
        return Empty()

    @answering
    def UpdateSvi(self, request: pb.UpdateSviRequest, context: grpc.ServicerContext) -> pb.Svi:
        """Return the Svi as it is with what the mask names changed."""
        return self._methods.update(
            request.svi, request.update_mask, context, allow_missing=request.allow_missing
        )
