"""BridgePortService: what is behind this DPU's VFs, attached to Segments."""

from __future__ import annotations

import time
from collections.abc import Sequence

import grpc
from google.protobuf.empty_pb2 import Empty

from dataplane.core.events import AttachRequest
from dataplane.core.model import Attachment
from dataplane.opi import l2_xpu_infra_mgr_pb2 as pb
from dataplane.opi import l2_xpu_infra_mgr_pb2_grpc as rpc
from dataplane.opi import masks, ports
from dataplane.opi.answering import answering
from dataplane.opi.paging import page_of
from dataplane.opi.refusals import Fault, OpiRefusedError, missing, unknown
from dataplane.opi.resources import PORTS
from dataplane.opi.site import Site


class BridgePortService(rpc.BridgePortServiceServicer):
    """Ports are attachments of the agent: it keeps them, over restarts, too."""

    def __init__(self, site: Site) -> None:
        """Serve the ports of ``site``."""
        self._site = site

    @answering
    def CreateBridgePort(
        self, request: pb.CreateBridgePortRequest, context: grpc.ServicerContext
    ) -> pb.BridgePort:
        """Return the port once every local Target has it; the same once more: as it is.

        Of a DPU operator's daemon another one takes its place: see ``ports.is_daemons``.
        """
        if not request.HasField("bridge_port"):
            raise missing("bridge_port")
        port_id = PORTS.chosen_id(request.bridge_port_id, request.bridge_port.name)
        if not port_id:
            raise missing("bridge_port_id")
        wanted = self._wanted(port_id, request.bridge_port)
        key, change = ports.key_of(port_id), self._site.ports.change
        if ports.is_daemons(request):
            return self._told(change(key, lambda _held: wanted, context))
        return self._told(self._site.ports.create(key, wanted, context))

    @answering
    def ListBridgePorts(
        self, request: pb.ListBridgePortsRequest, context: grpc.ServicerContext
    ) -> pb.ListBridgePortsResponse:
        """Return a page of all ports, by name."""
        del context
        self._site.own_representors()
        page, following = page_of(self._all(), PORTS, request.page_size, request.page_token)
        return pb.ListBridgePortsResponse(
            bridge_ports=map(self._told, page), next_page_token=following
        )

    @answering
    def GetBridgePort(
        self, request: pb.GetBridgePortRequest, context: grpc.ServicerContext
    ) -> pb.BridgePort:
        """Return one port."""
        del context
        port_id = PORTS.id_of(request.name)
        self._site.own_representors()
        held = self._site.ports.held(ports.key_of(port_id))
        if not held:
            raise unknown(request.name)
        return self._told(held)

    @answering
    def DeleteBridgePort(
        self, request: pb.DeleteBridgePortRequest, context: grpc.ServicerContext
    ) -> Empty:
        """Forget a port, also one that is being made."""
        key = ports.key_of(PORTS.id_of(request.name))
        self._site.own_representors()
        if not self._site.ports.remove(key, context) and not request.allow_missing:
            raise unknown(request.name)
        return Empty()

    @answering
    def UpdateBridgePort(
        self, request: pb.UpdateBridgePortRequest, context: grpc.ServicerContext
    ) -> pb.BridgePort:
        """Return the port as it is with what the mask names changed; refused: it stays."""
        if not request.HasField("bridge_port"):
            raise missing("bridge_port")
        asked = request.bridge_port
        port_id = PORTS.id_of(asked.name, "bridge_port.name")
        masks.check(asked, request.update_mask)
        self._site.own_representors()

        def wanted_of(held: tuple[Attachment, ...]) -> list[AttachRequest]:
            if held:
                stored = ports.resource(held)
                return self._wanted(port_id, masks.updated(stored, asked, request.update_mask))
            if not request.allow_missing:
                raise unknown(asked.name)
            return self._wanted(port_id, asked)

        return self._told(self._site.ports.change(ports.key_of(port_id), wanted_of, context))

    def _all(self) -> dict[str, tuple[Attachment, ...]]:
        """Return the attachments of every port by its id."""
        agent = self._site.agent
        found: dict[str, tuple[Attachment, ...]] = {}
        for attachment in filter(None, map(agent.attachment, agent.keys())):
            if port_id := ports.id_of(attachment.key):
                found[port_id] = (*found.get(port_id, ()), attachment)
        return found

    def _wanted(self, port_id: str, port: pb.BridgePort) -> list[AttachRequest]:
        """Return what has to be attached for a port: of a trunk each VLAN by itself."""
        site = self._site
        representors = site.own_representors()
        wish = ports.wish(port, site.vlans)
        netdev = ports.netdev_of(port_id, site.node, representors)
        for segment in wish.segments.values():
            self._expect_segment(segment)
        return [
            AttachRequest(
                key=ports.key_of(port_id, vlan),
                netns="",
                segment=segment,
                identity=ports.identity_of(site.node, port_id, vlan),
                requested_at=int(time.time()),
                mac=wish.mac,
                ipam=True,  # who has the pod gives it its addresses, and does not say which
                network=ports.NETWORK,
                netdev=netdev,
                vlan=vlan,
            )
            for vlan, segment in wish.segments.items()
        ]

    def _expect_segment(self, segment: str) -> None:
        if self._site.agent.knows_segment(segment):
            return
        if self._site.agent.snapshot.state.fabric.base_synced:
            raise OpiRefusedError(
                Fault.NO_BRIDGE, f"the referenced Logical Bridge has not been found: {segment}"
            )
        raise OpiRefusedError(
            Fault.AWAY, f"logical bridge {segment} is not known here yet; try again"
        )

    def _told(self, attachments: Sequence[Attachment]) -> pb.BridgePort:
        snapshot = self._site.agent.snapshot
        served = [
            ports.Served(
                segment=each.segment,
                port=snapshot.port(each.key),
                lag=snapshot.unprogrammed(each.key),
                unpublished=snapshot.unpublished(each.key),
            )
            for each in attachments
        ]
        port = ports.resource(attachments)
        port.status.CopyFrom(ports.status(served))
        return port
