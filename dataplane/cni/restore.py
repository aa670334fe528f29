"""VF pods whose DPU was reset: plugged in again, and attached anew where it has forgotten them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import structlog

from dataplane.cni.call import Call
from dataplane.cni.errors import CniError, as_cni_error
from dataplane.cni.front import Front
from dataplane.cni.netns import namespace_id
from dataplane.contracts import VfPodWiring
from dataplane.core.model import AttachmentKey

RESTORE_S = 1.0
_TURN_S = 0.1  # one whose container is being served is looked at the next time

log = structlog.get_logger()


class Restorer:
    """Compares what the host keeps of its VF pods with what is, and makes it so.

    What the host keeps is the truth: the DPU may have lost all it had. One container at a time, in
    turn with the requests of its runtime.
    """

    def __init__(
        self,
        front: Front,
        wiring: VfPodWiring,
        hold: Callable[[str, Call], AbstractContextManager[None]],
    ) -> None:
        """Restore the pods of ``front``; ``hold`` waits for the turn of a container."""
        self._front = front
        self._wiring = wiring
        self._hold = hold
        self._faults: dict[tuple[str, AttachmentKey], str] = {}

    def look(self) -> None:
        """Look once, and do what is to do; what cannot be done is said, and tried again."""
        faults = {}
        for step, find, do in (
            ("plug", self._vanished, self._plug),
            ("attach", self._front.forgotten, self._front.repeat),
        ):
            for key in find():
                fault = self._try(step, key, do)
                if fault:
                    faults[step, key] = fault
        self._faults = faults

    def _vanished(self) -> tuple[AttachmentKey, ...]:
        ports = filter(None, map(self._front.find, self._front.keys()))
        attachments = [port.attachment for port in ports]
        returned = self._wiring.returned(attachments) if attachments else ()
        return tuple(attachment.key for attachment in returned)

    def _plug(self, key: AttachmentKey) -> None:
        """Put a VF back into its pod, if that is still the one that it was given to."""
        record = self._front.record(key)
        port = record.port if record else None
        if record is None or port is None:
            return
        if not record.namespace or record.namespace != namespace_id(record.netns):
            return  # the pod is gone: DEL will come
        if port.attachment in self._wiring.returned([port.attachment]):
            self._wiring.plumb(port, record.wiring)
            self._wiring.announce(port)
            log.info("restore.plugged", key=key, netdev=record.netdev)

    def _try(self, step: str, key: AttachmentKey, do: Callable[[AttachmentKey], None]) -> str:
        """Do a step in the container's turn; return what is wrong, which is said once."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._hold(key.container_id, Call(_TURN_S)))
            except CniError:
                return ""
            return self._do(step, key, do)

    def _do(self, step: str, key: AttachmentKey, do: Callable[[AttachmentKey], None]) -> str:
        try:
            with as_cni_error():
                do(key)
        except CniError as error:
            fault = str(error)
            if fault != self._faults.get((step, key)):
                log.warning("restore.failed", step=step, key=key, error=fault)
            return fault
        return ""
