"""The server side of overweave.v1.Attachment: ports behind this DPU's representors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address
from itertools import count

import grpc

from dataplane.api import attachment_pb2 as pb
from dataplane.api import attachment_pb2_grpc as rpc
from dataplane.api.witness import HostWitness
from dataplane.contracts import AttachRefusedError
from dataplane.core.admission import INVALID_CONFIG
from dataplane.core.desired import Port
from dataplane.core.errors import InvalidValueError
from dataplane.core.events import AttachRequest
from dataplane.core.model import (
    MAX_MTU,
    MIN_MTU,
    Attachment,
    AttachmentKey,
    IpAddress,
    Mac,
    check_name,
    interface_of,
)
from dataplane.core.names import CONTAINER_ID, IFNAME, NETWORK, SERIAL, Naming
from dataplane.core.snapshot import Obstacle
from dataplane.rpc import status_of
from dataplane.vf_ports import VfPorts

CODE_KEY = "overweave-cni-code"
MAX_IPS = 16
_LONGEST_IDENTITY = 1024  # overweave.ovsschema
_LATEST = 1 << 40  # unix seconds: later than any clock, and a number that OVSDB takes


class _UnknownDeviceError(AttachRefusedError):
    """The serial or the number of the VF is none that this agent has."""


class AttachmentService(rpc.AttachmentServicer):
    """Admits what is behind a VF as if its representor were the pod's netdev.

    ``devices`` are the representors by serial, in the order of the VFs' numbers. What CNI attached
    on the DPU itself is never touched.
    """

    def __init__(
        self,
        ports: VfPorts,
        devices: Mapping[str, tuple[str, ...]],
        witness: HostWitness | None = None,
        heard: Callable[[int], None] = lambda _: None,
    ) -> None:
        """Serve ``devices`` by ``ports``, as others may, too; ``witness`` hears of the host.

        ``heard`` is called with how often the host has asked what is served, when it does.
        """
        self._node = ports.node
        self._attachments = ports.attachments
        self._ports = ports
        self._devices = dict(devices)
        self._witness = witness or HostWitness()
        self._heard = heard
        self._answers = count(1)

    def GetDevices(self, request: pb.GetDevicesRequest, context: object) -> pb.GetDevicesResponse:
        """Return what is served."""
        del context
        self._heard(request.count)
        served = [pb.ServedDevice(serial=s, vfs=len(names)) for s, names in self._devices.items()]
        obstacle = self._obstacle(request.segment)
        return pb.GetDevicesResponse(
            node=self._node,
            devices=served,
            obstacle=obstacle.message if obstacle else "",
            count=next(self._answers),
            limits_existing=obstacle is not None and obstacle.limits_existing,
            held=pb.Held(attachments=map(_named, self._all_held())),
        )

    def Attach(self, request: pb.AttachRequest, context: grpc.ServicerContext) -> pb.AttachResponse:
        """Return what was attached, once every local Target has it."""
        with _refusals(context):
            wanted = attach_request(request, self._representor(request.serial, request.vf))
            port = self._ports.attach(wanted, context)
            if not request.publishes:
                self._ports.publish(wanted.key, context)
            return _response(port)
        raise AssertionError("a refusal ends the call")

    def Publish(
        self, request: pb.PublishRequest, context: grpc.ServicerContext
    ) -> pb.PublishResponse:
        """Let other nodes know of an attachment of that device; return whether they may by now."""
        with _refusals(context):
            key = _key(request.container_id, request.ifname)
            netdevs = self._representors(request.serial)
            return pb.PublishResponse(published=self._ports.publish(key, context, netdevs))
        raise AssertionError("a refusal ends the call")

    def Detach(self, request: pb.DetachRequest, context: grpc.ServicerContext) -> pb.DetachResponse:
        """Forget an attachment of that device, also one that is being made."""
        with _refusals(context):
            key = _key(request.container_id, request.ifname)
            self._ports.detach(key, context, self._representors(request.serial))
        return pb.DetachResponse()

    def Check(self, request: pb.CheckRequest, context: grpc.ServicerContext) -> pb.CheckResponse:
        """Return what differs on this node."""
        with _refusals(context):
            key = _key(request.container_id, request.ifname)
            if self._held(request.serial, key) is None:
                return pb.CheckResponse(faults=[f"the DPU {self._node} does not know {key}"])
            return pb.CheckResponse(faults=self._attachments.faults(key))
        raise AssertionError("a refusal ends the call")

    def Witness(
        self, request_iterator: Iterator[pb.Witnessed], context: grpc.ServicerContext
    ) -> Iterator[pb.Wanted]:
        """Yield what the host is to send, as long as it listens."""
        return self._witness.serve(request_iterator, context)

    def _obstacle(self, segment: str) -> Obstacle | None:
        found = self._attachments.obstacle()
        if found is None and segment:
            try:
                self._attachments.segment_mtu(segment)
            except AttachRefusedError as error:
                return Obstacle(str(error))
        return found

    def _all_held(self) -> Iterator[AttachmentKey]:
        netdevs = {name for names in self._devices.values() for name in names}
        for key in self._attachments.keys():  # noqa: SIM118 - not a mapping
            attachment = self._attachments.attachment(key)
            if attachment is not None and attachment.netdev in netdevs:
                yield key

    def _representors(self, serial: str) -> tuple[str, ...]:
        if not serial or serial not in self._devices:
            _check(SERIAL, "serial", serial)
            known = ", ".join(sorted(self._devices)) or "none"
            raise _UnknownDeviceError(
                INVALID_CONFIG,
                f"node {self._node} has no device with serial {serial}; it has {known}",
            )
        return self._devices[serial]

    def _representor(self, serial: str, number: int) -> str:
        names = self._representors(serial)
        if number >= len(names):
            raise _UnknownDeviceError(
                INVALID_CONFIG,
                f"device {serial} of node {self._node} has no VF {number}; it has {len(names)},"
                " numbered from 0",
            )
        return names[number]

    def _held(self, serial: str, key: AttachmentKey) -> Attachment | None:
        names = self._representors(serial)
        attachment = self._attachments.attachment(key)
        return attachment if attachment is not None and attachment.netdev in names else None


def attach_request(request: pb.AttachRequest, netdev: str) -> AttachRequest:
    """Return what a host asks for. Raises InvalidValueError with the key and the value."""
    return AttachRequest(
        key=_key(request.container_id, request.ifname),
        netns="",
        segment=check_name("segment", request.segment),
        identity=_identity(request.identity),
        requested_at=_time(request.requested_at),
        mac=Mac(request.mac) if request.mac else None,
        ips=_ips(request),
        ipam=request.ipam,
        mtu=_mtu(request.mtu),
        network=_check(NETWORK, "network", request.network),
        netdev=netdev,
        again=request.again,
    )


@contextmanager
def _refusals(context: grpc.ServicerContext) -> Iterator[None]:
    """Turn a refusal into a status of gRPC, with CNI's code beside it."""
    try:
        yield
    except InvalidValueError as error:
        code, status, text = INVALID_CONFIG, grpc.StatusCode.INVALID_ARGUMENT, str(error)
    except _UnknownDeviceError as error:
        code, status, text = error.code, grpc.StatusCode.NOT_FOUND, str(error)
    except AttachRefusedError as error:
        code, text = error.code, str(error)
        status = status_of(code)
    else:
        return
    context.set_trailing_metadata(((CODE_KEY, str(code)),))
    context.abort(status, text)


def _check(naming: Naming, key: str, text: str) -> str:
    if not naming.allows(text):
        raise InvalidValueError(f"{key} {_shown(text)} {naming.rule}")
    return text


def _key(container_id: str, ifname: str) -> AttachmentKey:
    _check(CONTAINER_ID, "container_id", container_id)
    return AttachmentKey(container_id, _check(IFNAME, "ifname", ifname))


def _identity(text: str) -> str:
    if not text.isprintable() or not 1 <= len(text) <= _LONGEST_IDENTITY:
        raise InvalidValueError(
            f"identity {_shown(text)} is not 1-{_LONGEST_IDENTITY} printable characters"
        )
    return text


def _time(seconds: int) -> int:
    if not 1 <= seconds < _LATEST:
        raise InvalidValueError(f"requested_at {seconds} is no time in unix seconds")
    return seconds


def _mtu(mtu: int) -> int | None:
    if mtu and not MIN_MTU <= mtu <= MAX_MTU:
        raise InvalidValueError(f"mtu {mtu} is not 0, nor from {MIN_MTU} to {MAX_MTU}")
    return mtu or None


def _ips(request: pb.AttachRequest) -> tuple[IpAddress, ...]:
    if len(request.ips) > MAX_IPS:
        raise InvalidValueError(f"ips: {len(request.ips)} addresses, {MAX_IPS} at most")
    found: list[IpAddress] = []
    for text in request.ips:
        address = _ip(text)
        if address in found:
            raise InvalidValueError(f"ips {_shown(text)} is asked for twice")
        found.append(address)
    return tuple(found)


def _ip(text: str) -> IpAddress:
    try:
        address = ip_address("" if "%" in text else text)
    except ValueError:
        raise InvalidValueError(f"ips {_shown(text)} is not an address such as 10.0.0.5") from None
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise InvalidValueError(f"ips {_shown(text)} cannot be the address of one interface")
    return address


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}... ({len(text)} characters)"


def _named(key: AttachmentKey) -> pb.HeldAttachment:
    return pb.HeldAttachment(container_id=key.container_id, ifname=key.ifname)


def _response(port: Port) -> pb.AttachResponse:
    attachment, segment = port.attachment, port.segment
    return pb.AttachResponse(
        mac=attachment.mac,
        addresses=[str(interface_of(ip, segment.subnets)) for ip in attachment.ips],
        mtu=port.mtu,
        vni=segment.vni,
        routes=map(str, port.on_link),
    )
