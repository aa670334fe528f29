"""The server side of overweave.v1.Attachment: ports behind this DPU's representors."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import contextmanager
from ipaddress import ip_address

import grpc

from dataplane.api import attachment_pb2 as pb
from dataplane.api import attachment_pb2_grpc as rpc
from dataplane.api.witness import HostWitness
from dataplane.contracts import Attachments, AttachRefusedError
from dataplane.core.admission import (
    ALREADY_ATTACHED,
    DUPLICATE,
    EXHAUSTED,
    INVALID_CONFIG,
    NO_UNDERLAY,
    NOT_GRANTED,
    TRY_AGAIN,
)
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
from dataplane.turns import Turns

CODE_KEY = "overweave-cni-code"
MAX_IPS = 16
_LONGEST_IDENTITY = 1024  # overweave.ovsschema
_LATEST = 1 << 40  # unix seconds: later than any clock, and a number that OVSDB takes
_ADMIT_S = 1.0
_PROGRAMMED_S = 10.0
_PUBLISHED_S = 1.0
_DETACH_S = 10.0
_TURN_S = 60.0  # at most, also for a caller without a deadline

_STATUSES = {
    INVALID_CONFIG: grpc.StatusCode.INVALID_ARGUMENT,
    TRY_AGAIN: grpc.StatusCode.UNAVAILABLE,
    ALREADY_ATTACHED: grpc.StatusCode.ALREADY_EXISTS,
    DUPLICATE: grpc.StatusCode.ALREADY_EXISTS,
    NOT_GRANTED: grpc.StatusCode.PERMISSION_DENIED,
    EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NO_UNDERLAY: grpc.StatusCode.FAILED_PRECONDITION,
}


class _UnknownDeviceError(AttachRefusedError):
    """The serial or the number of the VF is none that this agent has."""


class AttachmentService(rpc.AttachmentServicer):
    """Admits what is behind a VF as if its representor were the pod's netdev.

    ``devices`` are the representors by serial, in the order of the VFs' numbers. What CNI attached
    on the DPU itself is never touched.
    """

    def __init__(
        self,
        node: str,
        attachments: Attachments,
        devices: Mapping[str, tuple[str, ...]],
        witness: HostWitness | None = None,
        heard: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve ``devices`` of ``node`` over ``attachments``; ``witness`` hears of the host.

        ``heard`` is called when the host asks what is served, as it does every 2 s.
        """
        self._node = node
        self._attachments = attachments
        self._devices = dict(devices)
        self._witness = witness or HostWitness()
        self._heard = heard
        # One request at a time per attachment: a Detach must find what an Attach is making. And one
        # per VF: two that ask for the same must not both find it free. Always in this order.
        self._keys = Turns()
        self._vfs = Turns()

    def GetDevices(self, request: pb.GetDevicesRequest, context: object) -> pb.GetDevicesResponse:
        """Return what is served."""
        del context
        self._heard()
        served = [pb.ServedDevice(serial=s, vfs=len(names)) for s, names in self._devices.items()]
        obstacle = self._obstacle(request.segment)
        return pb.GetDevicesResponse(node=self._node, devices=served, obstacle=obstacle)

    def Attach(self, request: pb.AttachRequest, context: grpc.ServicerContext) -> pb.AttachResponse:
        """Return what was attached, once every local Target has it."""
        with _refusals(context):
            netdev = self._representor(request.serial, request.vf)
            wanted = attach_request(request, netdev)
            with _turn(self._keys, wanted.key, context), _turn(self._vfs, netdev, context):
                return self._attach(wanted, context)
        raise AssertionError("a refusal ends the call")

    def Detach(self, request: pb.DetachRequest, context: grpc.ServicerContext) -> pb.DetachResponse:
        """Forget an attachment of that device, also one that is being made."""
        with _refusals(context):
            key = _key(request.container_id, request.ifname)
            with _turn(self._keys, key, context):
                self._detach(request.serial, key, context)
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

    def _obstacle(self, segment: str) -> str:
        found = self._attachments.obstacle()
        if found is not None:
            return found.message
        if segment:
            try:
                self._attachments.segment_mtu(segment)
            except AttachRefusedError as error:
                return str(error)
        return ""

    def _attach(self, wanted: AttachRequest, context: grpc.ServicerContext) -> pb.AttachResponse:
        self._refuse_taken(wanted)
        known = self._attachments.attachment(wanted.key)
        try:
            port = self._attachments.admit(wanted, _ADMIT_S)
            _refuse_gone(context)
            self._attachments.wait_programmed(wanted.key, _PROGRAMMED_S)
        except AttachRefusedError:
            if known is None:
                self._attachments.cancel(wanted.key)
            raise
        return _response(port, published=self._attachments.wait_published(wanted.key, _PUBLISHED_S))

    def _detach(self, serial: str, key: AttachmentKey, context: grpc.ServicerContext) -> None:
        held = self._held(serial, key)
        if held is not None:
            with _turn(self._vfs, held.netdev, context):
                self._attachments.detach(key, _DETACH_S)

    def _refuse_taken(self, wanted: AttachRequest) -> None:
        for attachment in map(self._attachments.attachment, self._attachments.keys()):
            if attachment is None:
                continue
            same_key = attachment.key == wanted.key
            if attachment.netdev == wanted.netdev and not same_key:
                raise AttachRefusedError(
                    ALREADY_ATTACHED,
                    f"representor {wanted.netdev} of node {self._node}: its VF is taken by"
                    f" {attachment.key} ({attachment.identity}); detach that first",
                )
            if same_key and not _is_same(attachment, wanted):
                raise AttachRefusedError(
                    ALREADY_ATTACHED,
                    f"{wanted.key} is attached at node {self._node} already, to segment"
                    f" {attachment.segment} by {attachment.access_port}; detach it first",
                )

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
        status = _STATUSES.get(code, grpc.StatusCode.FAILED_PRECONDITION)
    else:
        return
    context.set_trailing_metadata(((CODE_KEY, str(code)),))
    context.abort(status, text)


@contextmanager
def _turn(turns: Turns, name: Hashable, context: grpc.ServicerContext) -> Iterator[None]:
    """Wait for the turn of ``name`` as long as the caller does; who is gone wants nothing more."""
    left = context.time_remaining()
    with turns.hold(name, _TURN_S if left is None else min(left, _TURN_S)) as came:
        if not came:
            raise AttachRefusedError(TRY_AGAIN, f"another request for {name} is still under way")
        _refuse_gone(context)
        yield


def _refuse_gone(context: grpc.ServicerContext) -> None:
    """Raise AttachRefusedError if nobody waits for the answer: what comes of it had no owner."""
    if not context.is_active():
        raise AttachRefusedError(TRY_AGAIN, "the caller is gone")


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


def _is_same(attachment: Attachment, wanted: AttachRequest) -> bool:
    """Say whether what is there is what an earlier, equal request made."""
    return (attachment.netdev, attachment.segment, attachment.identity) == (
        wanted.netdev,
        wanted.segment,
        wanted.identity,
    )


def _response(port: Port, *, published: bool) -> pb.AttachResponse:
    attachment, segment = port.attachment, port.segment
    return pb.AttachResponse(
        mac=attachment.mac,
        addresses=[str(interface_of(ip, segment.subnets)) for ip in attachment.ips],
        mtu=port.mtu,
        vni=segment.vni,
        published=published,
        routes=map(str, port.on_link),
    )
