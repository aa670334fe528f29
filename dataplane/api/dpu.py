"""The client side of overweave.v1.Attachment: the agents of the DPUs below this host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface, ip_network

import grpc

from dataplane.api import attachment_pb2 as pb
from dataplane.api import attachment_pb2_grpc as rpc
from dataplane.api.attachment import CODE_KEY
from dataplane.api.channels import Channels
from dataplane.contracts import Attached, AttachRefusedError, Vf
from dataplane.core.admission import TRY_AGAIN
from dataplane.core.events import AttachRequest
from dataplane.core.model import AttachmentKey, Mac, Vni
from dataplane.core.snapshot import Obstacle

_AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


@dataclass(frozen=True, slots=True)
class Served:
    """Which node the agent of a DPU says that it is, and which devices it serves, by serial.

    ``count`` says how often it has answered; 0: it does not count.
    """

    node: str
    serials: frozenset[str]
    count: int = 0


class DpuClient:
    """contracts.Dpu over gRPC; a connection per call, since there are few and each may be late."""

    def __init__(self, channels: Channels | None = None) -> None:
        """Call by ``channels``, by default on sockets alone."""
        self._channels = channels or Channels()

    def attach(self, vf: Vf, request: AttachRequest, timeout_s: float) -> Attached:
        """Attach what is behind ``vf``."""
        question = pb.AttachRequest(
            serial=vf.serial,
            vf=vf.number,
            container_id=request.key.container_id,
            ifname=request.key.ifname,
            segment=request.segment,
            identity=request.identity,
            mac=request.mac or "",
            ips=map(str, request.ips),
            ipam=request.ipam,
            mtu=request.mtu or 0,
            network=request.network,
            requested_at=request.requested_at,
            publishes=True,
            again=request.again,
        )
        with self._asking(vf.dpu) as dpu:
            return _attached(vf, dpu.Attach(question, timeout=timeout_s))

    def publish(self, vf: Vf, key: AttachmentKey, timeout_s: float) -> bool:
        """Say that the pod's end is there."""
        question = pb.PublishRequest(
            serial=vf.serial, container_id=key.container_id, ifname=key.ifname
        )
        with self._asking(vf.dpu) as dpu:
            try:
                return bool(dpu.Publish(question, timeout=timeout_s).published)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    raise
                return False  # a DPU of a version that did it with Attach, and does not say when

    def detach(self, vf: Vf, key: AttachmentKey, timeout_s: float) -> None:
        """Forget the attachment."""
        with self._asking(vf.dpu) as dpu:
            question = pb.DetachRequest(
                serial=vf.serial, container_id=key.container_id, ifname=key.ifname
            )
            dpu.Detach(question, timeout=timeout_s)

    def faults(self, vf: Vf, key: AttachmentKey, timeout_s: float) -> tuple[str, ...]:
        """Return what differs on the DPU."""
        with self._asking(vf.dpu) as dpu:
            question = pb.CheckRequest(
                serial=vf.serial, container_id=key.container_id, ifname=key.ifname
            )
            return tuple(dpu.Check(question, timeout=timeout_s).faults)

    def expect_alive(self, address: str, timeout_s: float) -> None:
        """Raise AttachRefusedError if it does not answer."""
        self.served(address, timeout_s)

    def held(self, address: str, timeout_s: float) -> frozenset[AttachmentKey] | None:
        """Return what is attached there."""
        with self._asking(address) as dpu:
            answer = dpu.GetDevices(pb.GetDevicesRequest(), timeout=timeout_s)
        if not answer.HasField("held"):
            return None
        return frozenset(AttachmentKey(e.container_id, e.ifname) for e in answer.held.attachments)

    def obstacle(self, address: str, segment: str, timeout_s: float) -> Obstacle | None:
        """Return why it would attach nothing."""
        question = pb.GetDevicesRequest(segment=segment)
        try:
            with self._asking(address) as dpu:
                answer = dpu.GetDevices(question, timeout=timeout_s)
        except AttachRefusedError as error:
            return Obstacle(str(error), limits_existing=_is_silent(error))
        why = f"DPU at {address}: {answer.obstacle}"
        return Obstacle(why, answer.limits_existing) if answer.obstacle else None

    def served(self, address: str, timeout_s: float, count: int = 0) -> Served:
        """Return what the agent at ``address`` serves; ``count`` says how often it was asked.

        Raises AttachRefusedError.
        """
        with self._asking(address) as dpu:
            answer = dpu.GetDevices(pb.GetDevicesRequest(count=count), timeout=timeout_s)
        serials = frozenset(device.serial for device in answer.devices)
        return Served(answer.node, serials, answer.count)

    @contextmanager
    def _asking(self, address: str) -> Iterator[rpc.AttachmentStub]:
        with self._channels.open(address) as channel:
            try:
                yield rpc.AttachmentStub(channel)
            except grpc.RpcError as error:
                is_away = error.code() is grpc.StatusCode.UNAVAILABLE and _code_of(error) is None
                certificates = self._channels.why_refused(address) if is_away else ""
                raise _refusal(address, error, certificates) from error


def _is_silent(error: AttachRefusedError) -> bool:
    """Say whether there was no word at all: one that refuses to connect is a machine that runs."""
    cause = error.__cause__
    return isinstance(cause, grpc.RpcError) and cause.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def _refusal(address: str, error: grpc.RpcError, certificates: str) -> AttachRefusedError:
    """Return the agent's own word if it gave one, else why there is none."""
    code = _code_of(error)
    if code is not None:
        return AttachRefusedError(code, f"DPU at {address}: {error.details()}")
    if certificates:
        return AttachRefusedError(TRY_AGAIN, f"the DPU's agent at {address}: {certificates}")
    if error.code() is grpc.StatusCode.PERMISSION_DENIED:
        return AttachRefusedError(TRY_AGAIN, f"the DPU's agent at {address}: {error.details()}")
    away = "does not answer" if error.code() in _AWAY else "failed"
    return AttachRefusedError(
        TRY_AGAIN,
        f"the DPU's agent at {address} {away} ({error.code().name}: {error.details()}); is it"
        " running? On the DPU: overweave status",
    )


def _code_of(error: grpc.RpcError) -> int | None:
    """Return CNI's code as the agent gave it; None: it gave none."""
    told = error.trailing_metadata() or ()
    values = (str(each.value) for each in told if each.key == CODE_KEY)
    return next((int(value) for value in values if value.isdecimal()), None)


def _attached(vf: Vf, answer: pb.AttachResponse) -> Attached:
    try:
        return Attached(
            mac=Mac(answer.mac),
            interfaces=tuple(map(ip_interface, answer.addresses)),
            routes=tuple(map(ip_network, answer.routes)),
            mtu=answer.mtu,
            vni=Vni(answer.vni),
        )
    except ValueError as error:
        raise AttachRefusedError(TRY_AGAIN, f"DPU at {vf.dpu} answered nonsense: {error}") from None
