"""BridgePortService: what is behind this DPU's VFs, attached to Segments."""

from __future__ import annotations

import time

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
        if ports.is_daemons(request):
            made = self._site.ports.change(wanted.key, lambda _held: wanted, context)
        else:
            made = self._site.ports.attach(wanted, context, publish=True)
        return self._told(made.attachment)

    @answering
    def ListBridgePorts(
        self, request: pb.ListBridgePortsRequest, context: grpc.ServicerContext
    ) -> pb.ListBridgePortsResponse:
        """Return a page of all ports, by name."""
        del context
        self._site.own_representors()
        agent = self._site.agent
        held = {each: agent.attachment(ports.key_of(each)) for each in ports.ids(agent.keys())}
        known = {port_id: each for port_id, each in held.items() if each is not None}
        page, following = page_of(known, PORTS, request.page_size, request.page_token)
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
        attachment = self._site.agent.attachment(ports.key_of(port_id))
        if attachment is None:
            raise unknown(request.name)
        return self._told(attachment)

    @answering
    def DeleteBridgePort(
        self, request: pb.DeleteBridgePortRequest, context: grpc.ServicerContext
    ) -> Empty:
        """Forget a port, also one that is being made."""
        key = ports.key_of(PORTS.id_of(request.name))
        self._site.own_representors()
        if not self._site.ports.detach(key, context) and not request.allow_missing:
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

        def wanted_of(held: Attachment | None) -> AttachRequest:
            if held is not None:
                stored = ports.resource(held)
                return self._wanted(port_id, masks.updated(stored, asked, request.update_mask))
            if not request.allow_missing:
                raise unknown(asked.name)
            return self._wanted(port_id, asked)

        changed = self._site.ports.change(ports.key_of(port_id), wanted_of, context)
        return self._told(changed.attachment)

    def _wanted(self, port_id: str, port: pb.BridgePort) -> AttachRequest:
        site = self._site
        representors = site.own_representors()
        wish = ports.wish(port, site.vlans)
        netdev = ports.netdev_of(port_id, site.node, representors)
        self._expect_segment(wish.segment)
        return AttachRequest(
            key=ports.key_of(port_id),
            netns="",
            segment=wish.segment,
            # Every DPU has a host0-0: without the node, one would be taken for the other, moved.
            identity=f"opi/{site.node}/{port_id}",
            requested_at=int(time.time()),
            mac=wish.mac,
            ipam=True,  # who has the pod gives it its addresses, and does not say which
            network=ports.NETWORK,
            netdev=netdev,
        )

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

    def _told(self, attachment: Attachment) -> pb.BridgePort:
        snapshot, key = self._site.agent.snapshot, attachment.key
        port = ports.resource(attachment)
        status = ports.status(
            snapshot.port(key), snapshot.unprogrammed(key), snapshot.unpublished(key)
        )
        port.status.CopyFrom(status)
        return port
