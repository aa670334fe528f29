"""The host as front of its DPUs: the Attachments of VF pods, decided by the DPU's agent."""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_interface

import structlog

from dataplane.cni.errors import Code
from dataplane.cni.netns import namespace_id
from dataplane.cni.vf_records import VfRecord, VfRecords
from dataplane.contracts import Attached, AttachRefusedError, Dpu, PodRoute, Vf
from dataplane.core.desired import Port
from dataplane.core.errors import OverweaveError
from dataplane.core.events import AttachRequest
from dataplane.core.model import Attachment, AttachmentKey, Mac
from dataplane.turns import Turns

DETACH_S = 5.0
TAKE_OVER_S = 12.0  # what the DPU's agent may need before it waits for the database
CHECK_S = 10.0
STATUS_S = 1.5
ALIVE_S = 1.5  # a DPU that is dead is told to be within 2 s
RETRY_S = 10.0

log = structlog.get_logger()


class Front:
    """The part of contracts.Attachments that a pod's ADD, DEL, CHECK and GC need, for VF pods.

    A record is on the disk before the DPU is asked, and goes once the DPU has let go: whatever
    dies in between, either half knows what to take back. A DPU that is away at a DEL is told later.
    """

    def __init__(self, vfs: Collection[Vf], dpu: Dpu, records: VfRecords) -> None:
        """Serve ``vfs``. Raises OverweaveError if the records of an earlier run are damaged."""
        self.serve(vfs, dpu)
        self._files = records
        self._guard = threading.Lock()
        self._releases = Turns()  # by attachment: an ADD of the same must not be what is released
        # An ADD that the DPU had not answered did not outlive the agent that asked.
        kept = (replace(each, leaving=each.leaving or not each.mac) for each in records.load())
        self._records = {record.key: record for record in kept}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._sweep, name="front", daemon=True)

    def serve(self, vfs: Collection[Vf], dpu: Dpu) -> None:
        """Serve ``vfs`` from now on, and no others; pods that have one of those keep it."""
        self._dpu = dpu  # both at once: others read them meanwhile
        self._vfs: Mapping[str, Vf] = {vf.device_id: vf for vf in vfs}

    def start(self) -> None:
        """Begin to make up for the DELs that a DPU has not been told of."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(DETACH_S)

    @property
    def has_vfs(self) -> bool:
        """Say whether there is any DPU below this host."""
        return bool(self._vfs)

    def vf(self, device_id: str) -> Vf:
        """Return the VF. Raises AttachRefusedError 7, which lists those there are."""
        vf = self._vfs.get(device_id)
        if vf is None:
            known = ", ".join(sorted(self._vfs)) or "none"
            raise AttachRefusedError(
                Code.INVALID_CONFIG,
                f"deviceID {device_id!r} is no VF in 'devices' of this agent's configuration;"
                f" there is {known}",
            )
        return vf

    def refuse_taken(self, vf: Vf, key: AttachmentKey) -> None:
        """Raise AttachRefusedError 101 if another container has the VF."""
        with self._guard:
            holder = self._holder(vf)
        if holder is not None and not holder.leaving and holder.key != key:
            raise _taken(vf, holder)

    def ports_below(self, address: str) -> tuple[Port, ...]:
        """Return the VF pods of the DPU whose agent answers at ``address``."""
        serials = {vf.serial for vf in self._vfs.values() if vf.dpu == address}
        with self._guard:
            records = [each for each in self._records.values() if not each.leaving]
        ports = (record.port for record in records if record.serial in serials)
        return tuple(port for port in ports if port is not None)

    def expect_ready(self, segment: str) -> None:
        """Raise AttachRefusedError 50 or 51 if no DPU would attach a VF to ``segment`` now."""
        try:
            self._expect_one_ready(segment, self._vfs.values())
        except AttachRefusedError as error:
            why = f"this node does not know segment {segment!r}; {error}"
            raise AttachRefusedError(error.code, why) from error

    def expect_vf_ready(self, device_id: str, segment: str) -> None:
        """Raise AttachRefusedError 7, 50 or 51 if a VF could not be attached to ``segment`` now."""
        self._expect_one_ready(segment, [self.vf(device_id)])

    def _expect_one_ready(self, segment: str, vfs: Iterable[Vf]) -> None:
        obstacles = []
        for address, serial in {vf.dpu: vf.serial for vf in vfs}.items():
            found = self._dpu.obstacle(address, segment, STATUS_S)
            if found is None:
                return
            obstacles.append((serial, found))
        limited = any(found.limits_existing for _, found in obstacles)
        raise AttachRefusedError(
            Code.LIMITED_CONNECTIVITY if limited else Code.NOT_AVAILABLE,
            "; ".join(f"DPU {serial}: {found.message}" for serial, found in obstacles),
        )

    # --- as contracts.Attachments says ---

    def admit(self, request: AttachRequest, timeout_s: float) -> Port:
        """Have the DPU's agent attach what is behind ``request.netdev``, a VF's netdev."""
        vf = next((vf for vf in self._vfs.values() if vf.netdev == request.netdev), None)
        if vf is None:
            raise AttachRefusedError(
                Code.INVALID_CONFIG,
                f"{request.netdev} is in 'devices' of this agent's configuration no more",
            )
        self._expect_alive(vf)
        self._make_up(vf, request.key)
        with self._guard:
            holder = self._holder(vf)
            if holder is not None and holder.key != request.key:
                raise _taken(vf, holder)
            self._keep(_record(vf, request))
        attached = self._dpu.attach(vf, request, timeout_s)
        with self._guard:
            record = _completed(self._records[request.key], attached)
            self._keep(record)
        port = record.port
        if port is None:
            raise AttachRefusedError(Code.TRY_AGAIN, f"DPU at {vf.dpu} named no MAC")
        return port

    def cancel(self, key: AttachmentKey) -> None:
        """Have the DPU forget it, now or later."""
        self.detach(key, DETACH_S)

    def wait_programmed(self, key: AttachmentKey, timeout_s: float) -> None:
        """Return at once: the DPU's agent answers no Attach before."""

    def publish(self, key: AttachmentKey, timeout_s: float) -> bool:
        """Have the DPU's agent do it, which waits for the database by itself."""
        record = self._held(key)
        if record is None:
            raise AttachRefusedError(Code.TRY_AGAIN, f"{key} is not attached any more")
        return self._dpu.publish(self._vf_of(record), key, timeout_s + TAKE_OVER_S)

    def keep_routes(self, key: AttachmentKey, routes: Iterable[PodRoute]) -> None:
        """Keep what the pod is given beside its port; no such pod any more: nothing."""
        with self._guard:
            record = self._records.get(key)
            if record is not None:
                self._keep(record.with_pod_routes(routes))

    def detach(self, key: AttachmentKey, timeout_s: float) -> None:
        """Forget it here; a DPU that cannot be told now is told later."""
        with self._guard:
            record = self._records.get(key)
            if record is None:
                return
            self._keep(replace(record, leaving=True))
        try:
            self._release(key, timeout_s)
        except AttachRefusedError as error:
            log.warning("front.detach.owed", key=key, error=str(error))

    def find(self, key: AttachmentKey) -> Port | None:
        """Return the port of a VF pod."""
        record = self._held(key)
        return record.port if record is not None else None

    def attachment(self, key: AttachmentKey) -> Attachment | None:
        """Return what is held of a VF pod."""
        port = self.find(key)
        return port.attachment if port is not None else None

    def keys(self) -> tuple[AttachmentKey, ...]:
        """Return the VF pods of this host; those that the DPU has still to forget are none."""
        with self._guard:
            return tuple(key for key, record in self._records.items() if not record.leaving)

    def faults(self, key: AttachmentKey) -> tuple[str, ...]:
        """Have the DPU's agent look at everything it programmed."""
        record = self._held(key)
        if record is None:
            return ("the agent does not know this attachment",)
        try:
            return self._dpu.faults(self._vf_of(record), key, CHECK_S)
        except AttachRefusedError as error:
            return (str(error),)

    # --- what a DPU has forgotten ---

    def forgotten(self) -> tuple[AttachmentKey, ...]:
        """Return the VF pods that the agent of their DPU, which answers, knows nothing of."""
        with self._guard:
            records = [each for each in self._records.values() if each.mac and not each.leaving]
        dpus = {vf.serial: vf.dpu for vf in self._vfs.values()}
        places = {record.key: dpus.get(record.serial, "") for record in records}
        known = {address: self._held_at(address) for address in {*places.values()} - {""}}
        held = {key: known.get(address) for key, address in places.items()}
        return tuple(key for key, keys in held.items() if keys is not None and key not in keys)

    def repeat(self, key: AttachmentKey) -> None:
        """Have the DPU's agent attach a VF pod anew, as it is. Raises AttachRefusedError."""
        record = self._held(key)
        if record is None or not record.mac:
            return
        vf = self._vf_of(record)
        self._dpu.attach(vf, _as_it_is(record), TAKE_OVER_S)
        self._dpu.publish(vf, key, TAKE_OVER_S)

    def record(self, key: AttachmentKey) -> VfRecord | None:
        """Return what is kept of a VF pod of this host."""
        return self._held(key)

    def _held_at(self, address: str) -> frozenset[AttachmentKey] | None:
        try:
            return self._dpu.held(address, ALIVE_S)
        except AttachRefusedError:
            return None  # that it is silent is told elsewhere

    def _expect_alive(self, vf: Vf) -> None:
        """Ask first: what the DPU is to do may take longer than it takes to see that it is dead."""
        try:
            self._dpu.expect_alive(vf.dpu, ALIVE_S)
        except AttachRefusedError as error:
            raise AttachRefusedError(error.code, f"DPU {vf.serial} is dead: {error}") from error

    # --- what the DPU has still to forget ---

    def _make_up(self, vf: Vf, key: AttachmentKey) -> None:
        """Let the DPU forget what the VF or the key was before. Raises AttachRefusedError."""
        with self._guard:
            records = [self._holder(vf), self._records.get(key)]
        for record in records:
            if record is not None and record.leaving:
                self._release(record.key, DETACH_S)

    def _release(self, key: AttachmentKey, timeout_s: float) -> None:
        """Have the DPU forget one that leaves, then forget it here. Raises AttachRefusedError."""
        with self._releases.hold(key, timeout_s) as came:
            if not came:
                raise AttachRefusedError(Code.TRY_AGAIN, f"the DPU is being told that {key} left")
            with self._guard:
                record = self._records.get(key)
            if record is None or not record.leaving:
                return
            self._dpu.detach(self._vf_of(record), key, timeout_s)
            with self._guard:
                self._files.remove(key)
                del self._records[key]

    def _sweep(self) -> None:
        while not self._stopping.is_set():
            with self._guard:
                owed = [key for key, record in self._records.items() if record.leaving]
            for key in owed:
                self._try_release(key)
            self._stopping.wait(RETRY_S)

    def _try_release(self, key: AttachmentKey) -> None:
        try:
            self._release(key, DETACH_S)
            log.info("front.detached", key=key)
        except (AttachRefusedError, OverweaveError) as error:
            log.warning("front.detach.owed", key=key, error=str(error))
        except Exception:  # a fault of ours: what else is owed must be paid all the same
            log.exception("front.detach.crashed", key=key)

    # --- records; the caller holds the guard ---

    def _holder(self, vf: Vf) -> VfRecord | None:
        place = (vf.serial, vf.number)
        records = self._records.values()
        return next((each for each in records if (each.serial, each.number) == place), None)

    def _keep(self, record: VfRecord) -> None:
        self._files.write(record)
        self._records[record.key] = record

    def _held(self, key: AttachmentKey) -> VfRecord | None:
        with self._guard:
            record = self._records.get(key)
        return record if record is not None and not record.leaving else None

    def _vf_of(self, record: VfRecord) -> Vf:
        """Return the VF, behind the DPU that the configuration has for it now.

        What runtimes call it may have changed since. Raises AttachRefusedError if there is no such
        DPU any more.
        """
        below = (vf for vf in self._vfs.values() if vf.serial == record.serial)
        vf = next(below, None)
        if vf is None:
            raise AttachRefusedError(
                Code.INVALID_CONFIG,
                f"serial {record.serial} is in 'devices' of this agent's configuration no more and"
                f" its DPU has not let go of {record.key}; put it back until it has, or, if the DPU"
                f" is gone for good, stop the agent and remove {self._files.path(record.key)}",
            )
        return Vf(record.device_id, record.netdev, record.serial, record.number, vf.dpu)


def _taken(vf: Vf, holder: VfRecord) -> AttachRefusedError:
    return AttachRefusedError(
        Code.ALREADY_ATTACHED,
        f"deviceID {vf.device_id} ({vf.netdev}) is taken by {holder.key} ({holder.identity}):"
        " its container must be deleted first",
    )


def _record(vf: Vf, request: AttachRequest) -> VfRecord:
    return VfRecord(
        container_id=request.key.container_id,
        ifname=request.key.ifname,
        netns=request.netns,
        device_id=vf.device_id,
        netdev=vf.netdev,
        serial=vf.serial,
        number=vf.number,
        segment=request.segment,
        identity=request.identity,
        network=request.network,
        ipam=request.ipam,
        namespace=namespace_id(request.netns),
    )


def _as_it_is(record: VfRecord) -> AttachRequest:
    return AttachRequest(
        key=record.key,
        netns=record.netns,
        segment=record.segment,
        identity=record.identity,
        requested_at=int(time.time()),
        mac=Mac(record.mac),
        ips=tuple(ip_interface(each).ip for each in record.interfaces),
        ipam=record.ipam,
        mtu=record.mtu,
        network=record.network,
        netdev=record.netdev,
        again=True,
    )


def _completed(record: VfRecord, attached: Attached) -> VfRecord:
    return replace(
        record,
        mac=str(attached.mac),
        interfaces=tuple(map(str, attached.interfaces)),
        routes=tuple(map(str, attached.routes)),
        mtu=attached.mtu,
        vni=int(attached.vni),
    )
