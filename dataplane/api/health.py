"""Whether the agents of the DPUs below this host answer, asked again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import structlog

from dataplane.api.dpu import DpuClient
from dataplane.contracts import AttachRefusedError, Post
from dataplane.core.events import DeviceSeen
from dataplane.core.model import READY, Condition

ASK_S = 2.0
TIMEOUT_S = 2.0  # with the above: who is ready has answered within the last 5 s

log = structlog.get_logger()


class DpuFeed:
    """Posts a DeviceSeen per device at the first look and whenever its state changes."""

    def __init__(self, devices: Mapping[str, tuple[str, str]], dpu: DpuClient) -> None:
        """Watch ``devices``: by name the serial, and the address of the DPU's agent."""
        self._devices = dict(devices)
        self._dpu = dpu
        self._seen: dict[str, Condition] = {}
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    def start(self, post: Post) -> None:
        """Begin to ask; one that is slow to answer keeps nobody else waiting."""
        self._threads = [
            threading.Thread(target=self._run, args=(name, post), name="dpu-health", daemon=True)
            for name in self._devices
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, post: Post) -> None:
        serial, address = self._devices[name]
        while not self._stopping.is_set():
            self._look(name, self._why_not(serial, address), post)
            self._stopping.wait(ASK_S)

    def _look(self, name: str, why_not: str, post: Post) -> None:
        before = self._seen.get(name)
        if before is not None and before.reason == why_not:
            return
        turned = before is None or before.holds != (not why_not)
        since = int(time.time()) if before is None or turned else before.since
        self._seen[name] = Condition(READY, holds=not why_not, reason=why_not, since=since)
        post(DeviceSeen(name, self._seen[name]))

    def _why_not(self, serial: str, address: str) -> str:
        try:
            served = self._dpu.serials(address, TIMEOUT_S)
        except AttachRefusedError as error:
            return str(error)
        except Exception as caught:  # a fault of ours must not end the thread: say it, ask again
            log.exception("dpu.crashed", address=address)
            return f"internal error, please report it: {caught!r}"
        if serial in served:
            return ""
        return f"the DPU's agent at {address} does not serve {serial}, but {sorted(served)}"
