"""Whether the agents of the DPUs below this host answer, asked again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace

import structlog

from dataplane.api.dpu import DpuClient
from dataplane.contracts import AttachRefusedError, Post
from dataplane.core.errors import InvalidValueError
from dataplane.core.events import HalfHeard
from dataplane.core.model import check_name

ASK_S = 2.0
TIMEOUT_S = 2.0  # with the above: who is ready has answered within the last 5 s

log = structlog.get_logger()


class DpuFeed:
    """Posts a HalfHeard per device at each look, but for one that is silent as it was before."""

    def __init__(self, devices: Mapping[str, tuple[str, str]], dpu: DpuClient) -> None:
        """Watch ``devices``: by name the serial, and the address of the DPU's agent."""
        self._devices = dict(devices)
        self._dpu = dpu
        self._seen = {name: HalfHeard(name, 0) for name in devices}
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
        while not self._stopping.is_set():
            before, self._seen[name] = self._seen[name], self._look(name)
            if self._seen[name] != before:
                post(self._seen[name])
            self._stopping.wait(ASK_S)

    def _look(self, name: str) -> HalfHeard:
        serial, address = self._devices[name]
        silent = replace(self._seen[name], obstacle="")
        try:
            served = self._dpu.served(address, TIMEOUT_S)
            node = check_name("node", served.node)  # it goes into a row of ours
        except (AttachRefusedError, InvalidValueError) as error:
            return replace(silent, error=str(error))
        except Exception as caught:  # a fault of ours must not end the thread: say it, ask again
            log.exception("dpu.crashed", address=address)
            return replace(silent, error=f"internal error, please report it: {caught!r}")
        if serial in served.serials:
            return HalfHeard(name, int(time.time()), node)
        others = sorted(served.serials)
        why = f"the DPU's agent at {address} does not serve {serial}, but {others}"
        return HalfHeard(name, int(time.time()), obstacle=why)
