"""What the daemon of a DPU operator asks a vendor's plugin to begin with, and every few seconds."""

from __future__ import annotations

import time

import grpc
from google.protobuf.empty_pb2 import Empty

from dataplane.opi import lifecycle_pb2 as pb
from dataplane.opi import lifecycle_pb2_grpc as rpc
from dataplane.opi.answering import answering
from dataplane.opi.refusals import Fault, OpiRefusedError
from dataplane.opi.site import Site

HEALTHY, UNHEALTHY = "Healthy", "Unhealthy"  # as kubelet's device plugins say it


class LifeCycleService(rpc.LifeCycleServiceServicer):
    """Keeps nothing: Init may be called again and again, and after a restart."""

    def __init__(self, site: Site) -> None:
        """Serve ``site``."""
        self._site = site

    @answering
    def Init(self, request: pb.InitRequest, context: grpc.ServicerContext) -> pb.IpPort:
        """Return where the two daemons of the DPU meet."""
        del context
        site = self._site
        if not (site.is_dpu if request.dpu_mode else site.is_host):
            asked, found = ("DPU", "host") if request.dpu_mode else ("host", "DPU")
            raise OpiRefusedError(
                Fault.WRONG_SIDE,
                f"dpu_mode {request.dpu_mode}: node {site.node} is a DPU's {found} side, not its"
                f" {asked} side, by 'devices' in its configuration",
            )
        if site.channel is None:
            raise OpiRefusedError(
                Fault.NO_CHANNEL,
                f"node {site.node} does not know where the daemons of DPU and host meet: set"
                " opi.channel in its configuration",
            )
        return site.channel.told(dpu_mode=request.dpu_mode)


class DeviceService(rpc.DeviceServiceServicer):
    """Tells of the VFs that the configuration names."""

    def __init__(self, site: Site) -> None:
        """Serve ``site``."""
        self._site = site

    @answering
    def GetDevices(self, request: Empty, context: grpc.ServicerContext) -> pb.DeviceListResponse:
        """Return the VFs of a host: also one that is in a pod. A DPU has none to give away.

        An id that is no PCI address is left out: the daemon would refuse the whole answer.
        """
        del request, context
        topology = pb.TopologyInfo(node=self._site.node)
        devices = {}
        for name, ids in self._site.vfs.items():
            health = HEALTHY if self._site.is_device_ready(name) else UNHEALTHY
            for device_id in filter(_is_pci_address, ids):
                devices[device_id] = pb.Device(ID=device_id, health=health, topology=topology)
        return pb.DeviceListResponse(devices=devices)

    @answering
    def SetNumVfs(self, request: pb.VfCount, context: grpc.ServicerContext) -> pb.VfCount:
        """Return how many VFs there are: the administrator makes them, and pods may be in them."""
        del context
        if request.vf_cnt <= 0:
            raise OpiRefusedError(Fault.BAD_VALUE, f"vf_cnt {request.vf_cnt} is not 1 or more")
        site = self._site
        count = sum(map(len, site.vfs.values())) or len(site.representors or ())
        if not count:
            raise OpiRefusedError(
                Fault.NO_VF, f"node {site.node} has no VFs by 'devices' in its configuration"
            )
        return pb.VfCount(vf_cnt=count)


class HeartbeatService(rpc.HeartbeatServiceServicer):
    """Answers for the whole node."""

    def __init__(self, site: Site) -> None:
        """Serve ``site``."""
        self._site = site

    @answering
    def Ping(self, request: pb.PingRequest, context: grpc.ServicerContext) -> pb.PingResponse:
        """Return the time here, and whether nothing is in the way of an attachment."""
        del request, context
        return pb.PingResponse(
            timestamp=time.time_ns(),
            responder_id=self._site.node,
            healthy=self._site.is_healthy(),
        )


def _is_pci_address(device_id: str) -> bool:
    """Say what the daemon does: it looks no closer."""
    return (device_id.count(":"), device_id.count(".")) == (2, 1)
