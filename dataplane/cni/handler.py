"""The verbs: what a request means, over the agent's attachments and the pod's wiring."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Protocol

import structlog

from dataplane.cni.call import Call, ContainerLocks
from dataplane.cni.environment import Verb
from dataplane.cni.errors import CniError, Code, as_cni_error
from dataplane.cni.front import Front
from dataplane.cni.ipam import Ipam, PluginMissingError
from dataplane.cni.netns import check_netns
from dataplane.cni.request import (
    AddRequest,
    CheckRequest,
    Delegate,
    DelRequest,
    GcRequest,
    Request,
    StatusRequest,
)
from dataplane.cni.restore import Restorer
from dataplane.cni.result import Given, add_result, given_fault, previous_faults
from dataplane.cni.strict_json import JsonObject
from dataplane.contracts import (
    Attachments,
    AttachRefusedError,
    PodRoute,
    PodWiring,
    VfPodWiring,
)
from dataplane.core.desired import Port
from dataplane.core.events import AttachRequest
from dataplane.core.model import Attachment, AttachmentKey

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Limits:
    """How long each step may take, in seconds; all but the last of an ADD end with the request."""

    request: float = 42.0  # with a take-over (Attachments.publish: 13) no more than the shim's
    delegate: float = 20.0
    delegate_undo: float = 5.0
    admit: float = 1.0
    dpu: float = 20.0
    programmed: float = 10.0
    published: float = 1.0
    detach: float = 10.0
    settle: float = 2.0  # SPEC.md, CHECK: "allow a reasonable convergence delay"
    look_again: float = 0.25


class Held(Protocol):
    """The part of contracts.Attachments that the pods of a lane need."""

    def admit(self, request: AttachRequest, timeout_s: float) -> Port:
        """Reserve, and begin to program."""
        ...

    def cancel(self, key: AttachmentKey) -> None:
        """Give a reservation up."""
        ...

    def wait_programmed(self, key: AttachmentKey, timeout_s: float) -> None:
        """Return once the dataplane has it."""
        ...

    def publish(self, key: AttachmentKey, timeout_s: float) -> bool:
        """Let other nodes know of it; return whether the fabric has it."""
        ...

    def detach(self, key: AttachmentKey, timeout_s: float) -> None:
        """Forget it; unknown: success."""
        ...

    def find(self, key: AttachmentKey) -> Port | None:
        """Return its port."""
        ...

    def attachment(self, key: AttachmentKey) -> Attachment | None:
        """Return what is held of it."""
        ...

    def keys(self) -> tuple[AttachmentKey, ...]:
        """Return all that are held."""
        ...

    def faults(self, key: AttachmentKey) -> tuple[str, ...]:
        """Look at the dataplane and return what differs."""
        ...


@dataclass(frozen=True, slots=True)
class Lane:
    """Where the interfaces of some pods come from: who decides on them, and who wires them."""

    held: Held
    wiring: PodWiring

    def holds(self, key: AttachmentKey) -> bool:
        """Say whether it is one of a pod here; behind a DPU's representors are its host's pods."""
        attachment = self.held.attachment(key)
        here = attachment is None or attachment.netns != ""
        return here and key in self.held.keys()  # noqa: SIM118 - not a mapping


@dataclass(frozen=True, slots=True)
class VfFront:
    """The lane of VF pods, and what knows the VFs."""

    held: Front
    wiring: VfPodWiring

    @property
    def lane(self) -> Lane:
        """Return it as one of the lanes."""
        return Lane(self.held, self.wiring)


class Handler:
    """Serves parsed requests from many threads; requests of one container wait for each other.

    ``front`` serves the pods whose interface is a VF of a DPU.
    """

    def __init__(
        self,
        attachments: Attachments,
        wiring: PodWiring,
        ipam: Ipam,
        limits: Limits,
        front: VfFront,
    ) -> None:
        """Serve over ``attachments`` and ``wiring``."""
        self._attachments = attachments
        self._veths = Lane(attachments, wiring)
        self._front = front
        self._ipam = ipam
        self._containers = ContainerLocks()
        self._restorer = Restorer(front.held, front.wiring, self._containers.hold)
        self.limits = limits

    def handle(self, request: Request, call: Call) -> JsonObject | None:
        """Do what is asked and return the result to print. Raises CniError."""
        with as_cni_error():
            match request:
                case AddRequest():
                    return self._add(request, call)
                case DelRequest():
                    self._delete(request, call)
                case CheckRequest():
                    self._check(request, call)
                case GcRequest():
                    self._collect_garbage(request, call)
                case StatusRequest():
                    self._status(request, call)
        return None

    def restore(self) -> None:
        """Have VF pods be as they were added, where their DPU was reset or has forgotten them."""
        self._restorer.look()

    def stop(self) -> None:
        """Kill the IPAM plugins that are running, so that their requests end."""
        self._ipam.stop()

    # --- ADD ---

    def _add(self, request: AddRequest, call: Call) -> JsonObject:
        with self._containers.hold(request.key.container_id, call):
            self._refuse_if_attached(request.key)
            check_netns(request.netns)
            lane, netdev = self._choose(request)
            with ExitStack() as undo:
                given = self._given(request, call, undo)
                port = self._admit(lane, _wanted(request, given, netdev), call, undo)
                _check_given(request, given, port)
                routes = given.routes_of(port)
                if netdev:
                    self._front.held.keep_routes(request.key, routes)
                self._connect(lane, port, routes, call, undo)
                result = add_result(
                    request.network.version, port, request.previous, given, request.device_id
                )
                undo.pop_all()
        return result

    def _choose(self, request: AddRequest) -> tuple[Lane, str]:
        """Return who serves the request, and by which VF; what cannot be is refused here."""
        if not request.device_id:
            self._check_mtu(request)
            return self._veths, ""
        vf = self._front.held.vf(request.device_id)
        self._front.held.refuse_taken(vf, request.key)
        return self._front.lane, vf.netdev

    def _lanes(self) -> tuple[Lane, ...]:
        return (self._veths, self._front.lane)

    def _refuse_if_attached(self, key: AttachmentKey) -> None:
        if any(key in lane.held.keys() for lane in self._lanes()):  # noqa: SIM118 - not a mapping
            raise CniError(
                Code.ALREADY_ATTACHED,
                f"container {key.container_id} already has {key.ifname} from this plugin:"
                " call DEL first",
            )

    def _check_mtu(self, request: AddRequest) -> None:
        """Ask for the segment before anything is made; an unknown one is refused here."""
        largest = self._attachments.segment_mtu(request.segment)
        if request.mtu is not None and request.mtu > largest:
            raise CniError(
                Code.INVALID_CONFIG,
                f"mtu {request.mtu} does not fit: segment {request.segment} carries {largest}",
            )

    def _given(self, request: AddRequest, call: Call, undo: ExitStack) -> Given:
        delegate = request.network.ipam
        if delegate is None:
            return Given(request.ips)
        # Before the ADD: SPEC.md section 4 wants a DEL also after one that failed.
        undo.callback(_undo, "release addresses", lambda: self._release(delegate, call))
        with call.phase("ipam"):
            given = self._ipam.add(delegate, call, self.limits.delegate)
        missing = [ip for ip in request.ips if ip.ip not in {other.ip for other in given.addresses}]
        if missing:
            raise CniError(
                Code.DELEGATE_FAILED,
                f"IPAM plugin {delegate.plugin} did not give the address {missing[0].ip} that was"
                " asked for",
            )
        return given

    def _release(self, delegate: Delegate, call: Call) -> None:
        own = Call(self.limits.delegate_undo)
        try:
            self._ipam.forward(delegate, Verb.DEL, own, self.limits.delegate_undo)
        except PluginMissingError:
            pass  # what cannot be run holds nothing
        finally:
            call.stderr += own.stderr

    def _admit(self, lane: Lane, wanted: AttachRequest, call: Call, undo: ExitStack) -> Port:
        at_most = self.limits.dpu if wanted.netdev else self.limits.admit
        undo.callback(_undo, "cancel", lambda: lane.held.cancel(wanted.key))
        with call.phase("admit"):
            return lane.held.admit(wanted, call.remaining(at_most))

    def _connect(
        self, lane: Lane, port: Port, routes: tuple[PodRoute, ...], call: Call, undo: ExitStack
    ) -> None:
        """Wire the pod while the targets program, then make both known.

        A workload that comes from another node stays there until all is in place here.
        """
        key = port.attachment.key
        undo.callback(_undo, "unplumb", lambda: lane.wiring.unplumb(port.attachment))
        with call.phase("plumb"):
            lane.wiring.plumb(port, routes)
        with call.phase("program"):
            lane.held.wait_programmed(key, call.remaining(self.limits.programmed))
        if not call.remaining():
            raise CniError(Code.TRY_AGAIN, f"it took longer than {self.limits.request:g} s")
        with call.phase("publish"):
            published = lane.held.publish(key, call.remaining(self.limits.published))
        with call.phase("announce"):
            lane.wiring.announce(port)
        log.info("cni.attached", key=key, published=published, phases=call.phases)

    # --- DEL and GC ---

    def _delete(self, request: DelRequest, call: Call) -> None:
        """Take everything away as far as possible; only then report what was not."""
        failures = _Failures()
        with self._containers.hold(request.key.container_id, call):
            lanes = [lane for lane in self._lanes() if lane.holds(request.key)]
            for lane in lanes:
                self._detach(lane, request.key, call, failures)
            if request.ipam is not None:
                with failures.kept():
                    self._forward_delete(request.ipam, call, known=bool(lanes))
        failures.raise_all()

    def _detach(self, lane: Lane, key: AttachmentKey, call: Call, failures: _Failures) -> None:
        attachment = lane.held.attachment(key)
        unplumbed = attachment is None
        if attachment is not None:
            with failures.kept(), call.phase("unplumb"):
                lane.wiring.unplumb(attachment)
                unplumbed = True
        if lane is self._veths or unplumbed:  # a VF that is not home yet must not be forgotten
            with failures.kept(), call.phase("detach"):
                lane.held.detach(key, call.remaining(self.limits.detach))

    def _forward_delete(self, delegate: Delegate, call: Call, *, known: bool) -> None:
        try:
            self._forward(delegate, Verb.DEL, call)
        except PluginMissingError:
            if known:
                raise
            # What cannot be run, where nothing was attached, holds nothing to release.

    def _collect_garbage(self, request: GcRequest, call: Call) -> None:
        failures = _Failures()
        for lane, key in self._stale(request):
            with failures.kept(), self._containers.hold(key.container_id, call):
                self._detach(lane, key, call, failures)
                log.info("cni.collected", key=key, network=request.network.name)
        if request.network.ipam is not None:
            with failures.kept():
                self._forward(request.network.ipam, Verb.GC, call)
        failures.raise_all()

    def _stale(self, request: GcRequest) -> list[tuple[Lane, AttachmentKey]]:
        """Return this network's attachments that are no longer wanted; others' are not ours."""
        return [
            (lane, attachment.key)
            for lane in self._lanes()
            for attachment in map(lane.held.attachment, filter(lane.holds, lane.held.keys()))
            if attachment is not None
            and attachment.network == request.network.name
            and attachment.key not in request.valid
        ]

    # --- CHECK and STATUS ---

    def _check(self, request: CheckRequest, call: Call) -> None:
        with self._containers.hold(request.key.container_id, call):
            check_netns(request.netns)
            with call.phase("check"):
                self._expect_no_faults(request)
            if request.network.ipam is not None:
                self._forward(request.network.ipam, Verb.CHECK, call)

    def _expect_no_faults(self, request: CheckRequest) -> None:
        give_up = time.monotonic() + self.limits.settle
        while faults := self._faults(request):
            if time.monotonic() >= give_up:
                more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
                raise CniError(
                    Code.CHECK_FAILED,
                    f"{request.key.ifname} of container {request.key.container_id}:"
                    f" {faults[0]}{more}",
                    "; ".join(faults),
                )
            time.sleep(self.limits.look_again)

    def _faults(self, request: CheckRequest) -> Sequence[str]:
        ports = ((lane, lane.held.find(request.key)) for lane in self._lanes())
        lane, port = next(((lane, port) for lane, port in ports if port), (self._veths, None))
        if port is None:
            return ("it is not attached by this node's agent",)
        faults = list(previous_faults(request.previous, port, request.netns))
        if port.segment.name != request.segment:
            faults.append(
                f"it is attached to segment {port.segment.name}, not to {request.segment}"
            )
        return [*faults, *lane.wiring.check(port), *lane.held.faults(request.key)]

    def _status(self, request: StatusRequest, call: Call) -> None:
        try:
            self._expect_ready(request)
            if request.network.ipam is not None:
                self._forward(request.network.ipam, Verb.STATUS, call)
        except (AttachRefusedError, CniError) as error:
            unavailable = (Code.NOT_AVAILABLE, Code.LIMITED_CONNECTIVITY)
            code = error.code if error.code in unavailable else Code.NOT_AVAILABLE
            raise CniError(code, str(error), error.details) from None

    def _expect_ready(self, request: StatusRequest) -> None:
        """Raise CniError or AttachRefusedError if an ADD as ``request`` says would fail now.

        A segment that this node does not know can be one for pods on VFs: their DPU knows it.
        """
        segment = request.segment
        if request.device_id:
            self._front.held.expect_vf_ready(request.device_id, segment)
            return
        if self._front.held.has_vfs and not self._attachments.knows_segment(segment):
            self._front.held.expect_ready(segment)
            return
        obstacle = self._attachments.obstacle()
        if obstacle is not None:
            limited = obstacle.limits_existing
            raise CniError(
                Code.LIMITED_CONNECTIVITY if limited else Code.NOT_AVAILABLE, obstacle.message
            )
        self._attachments.segment_mtu(segment)

    def _forward(self, delegate: Delegate, verb: Verb, call: Call) -> None:
        with call.phase("ipam"):
            self._ipam.forward(delegate, verb, call, self.limits.delegate)


def _wanted(request: AddRequest, given: Given, netdev: str) -> AttachRequest:
    return AttachRequest(
        key=request.key,
        netns=request.netns,
        segment=request.segment,
        identity=request.identity,
        requested_at=int(time.time()),
        mac=request.mac,
        ips=tuple(address.ip for address in given.addresses),
        ipam=request.network.ipam is not None,
        mtu=request.mtu,
        network=request.network.name,
        netdev=netdev,
    )


def _check_given(request: AddRequest, given: Given, port: Port) -> None:
    fault = given_fault(given.addresses, port.segment)
    if fault is None:
        return
    ipam = request.network.ipam
    if ipam is None:
        raise CniError(Code.INVALID_CONFIG, f"the runtime asks for {fault}")
    raise CniError(Code.DELEGATE_FAILED, f"IPAM plugin {ipam.plugin} gave {fault}")


class _Failures:
    """What went wrong on the way, kept so that the rest is still done."""

    def __init__(self) -> None:
        self._errors: list[CniError] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        try:
            with as_cni_error():
                yield
        except CniError as error:
            self._errors.append(error)

    def raise_all(self) -> None:
        if not self._errors:
            return
        sentences = dict.fromkeys(str(error) for error in self._errors)
        details = dict.fromkeys(error.details for error in self._errors if error.details)
        raise CniError(self._errors[0].code, "; ".join(sentences), "; ".join(details))


def _undo(step: str, action: Callable[[], None]) -> None:
    """Take one step of a failed ADD back; a failure here must not hide why ADD failed."""
    try:
        with as_cni_error():
            action()
    except CniError as error:
        log.warning("cni.undo.failed", step=step, error=str(error))
