"""Whether the other halves of this node's DPUs are alive (core/heartbeat)."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import count

import structlog

from dataplane.api.dpu import DpuClient
from dataplane.contracts import AttachRefusedError, Clock, Post
from dataplane.core.errors import InvalidValueError
from dataplane.core.events import HalfHeard
from dataplane.core.heartbeat import ANSWER_S, ASK_S, SILENT_S, Pulse
from dataplane.core.model import check_name
from dataplane.looking import Looking

LOOK_S = 0.1

log = structlog.get_logger()


class DpuFeed:
    """Asks the agents of the DPUs below this host, and posts a HalfHeard for each that is news."""

    def __init__(
        self,
        devices: Mapping[str, tuple[str, str]],
        dpu: DpuClient,
        clock: Clock = time.monotonic,
    ) -> None:
        """Watch ``devices``: by name the serial, and the address of the DPU's agent."""
        self._devices = dict(devices)
        self._dpu = dpu
        self._clock = clock
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
        pulse = Pulse()
        for number in count(1):
            asked = self._clock()
            seen, answers = self._look(name, number)
            now = self._clock()
            pulse = pulse.lacking() if answers is None else pulse.told(answers, now)
            if pulse.missed and not seen.error:
                seen = replace(seen, error=f"its agent answers with the same count, {answers}")
            # One that was heard may be busy; one that never was has its reason told at once.
            if seen != self._seen[name] and (not pulse.missed or pulse.is_dead(now)):
                self._seen[name] = seen
                post(seen)
            if self._stopping.wait(max(0.0, asked + ASK_S - now)):
                return

    def _look(self, name: str, number: int) -> tuple[HalfHeard, int | None]:
        """Ask for the time of that ``number``; return what is heard, and the other one's count."""
        serial, address = self._devices[name]
        silent = replace(self._seen[name], obstacle="")
        try:
            served = self._dpu.served(address, ANSWER_S, number)
            node = check_name("node", served.node)  # it goes into a row of ours
        except (AttachRefusedError, InvalidValueError) as error:
            return replace(silent, error=str(error)), None
        except Exception as caught:  # a fault of ours must not end the thread: say it, ask again
            log.exception("dpu.crashed", address=address)
            return replace(silent, error=f"internal error, please report it: {caught!r}"), None
        if serial in served.serials:
            return HalfHeard(name, int(time.time()), node), served.count
        others = sorted(served.serials)
        why = f"the DPU's agent at {address} does not serve {serial}, but {others}"
        return HalfHeard(name, int(time.time()), obstacle=why), served.count


class HostFeed:
    """Posts a HalfHeard of the DPU that this node is, as its host asks or asks no more."""

    def __init__(self, device: str, clock: Clock = time.monotonic) -> None:
        """Tell of the host of ``device``; before it has asked there is nothing to tell."""
        self._device = device
        self._clock = clock
        self._guard = threading.Lock()
        self._pulse = Pulse()
        self._heard: HalfHeard | None = None
        self._told: HalfHeard | None = None
        self._looking = Looking("host-health", LOOK_S)

    def heard(self, number: int) -> None:
        """Take note that the host has asked for the time of that ``number``."""
        with self._guard:
            self._pulse = self._pulse.told(number, self._clock())
            if not self._pulse.missed:
                self._heard = HalfHeard(self._device, int(time.time()))

    def start(self, post: Post) -> None:
        """Begin to look."""
        self._looking.start(lambda: self.look(post))

    def stop(self) -> None:
        """Look no more."""
        self._looking.stop()

    def look(self, post: Post) -> None:
        """Look once."""
        with self._guard:
            heard, is_dead = self._heard, self._pulse.is_dead(self._clock())
        if heard is not None and is_dead:
            why = f"the host's agent has not asked for more than {SILENT_S:g} s"
            heard = replace(heard, error=why)
        if heard is not None and heard != self._told:
            self._told = heard
            post(heard)
