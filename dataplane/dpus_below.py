"""A host's side of the DPUs below it: who attaches VFs, who asks each DPU, who lends it the VFs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from dataplane.api.channels import Channels
from dataplane.api.dpu import DpuClient
from dataplane.api.health import DpuFeed
from dataplane.api.witness import WitnessStand
from dataplane.cni.front import Front
from dataplane.cni.vf_records import VfRecords
from dataplane.contracts import Post
from dataplane.device_config import DeviceConfig, host_vfs, peers, watched_devices
from dataplane.host.witness import PodWitness

_Key = tuple[str, ...]


class _Running(Protocol):
    def stop(self) -> None:
        """End it."""
        ...


class DpusBelow:
    """One front for all VFs, and for each DPU a feed and a witness; which DPUs, may change."""

    def __init__(
        self, state_dir: Path, channels: Callable[[Sequence[DeviceConfig]], Channels], post: Post
    ) -> None:
        """Serve none yet; ``channels`` says how devices are reached.

        Raises OverweaveError if the records of an earlier run are damaged.
        """
        self.front = Front((), DpuClient(), VfRecords(state_dir / "vfs"))
        self._channels = channels
        self._post = post
        self._running: dict[_Key, _Running] = {}

    def start(self, devices: Sequence[DeviceConfig]) -> None:
        """Begin to serve ``devices``."""
        self.serve(devices)
        self.front.start()

    def serve(self, devices: Sequence[DeviceConfig]) -> None:
        """Serve ``devices`` from now on; what serves one that stays goes on undisturbed."""
        channels = self._channels(devices)
        self.front.serve(host_vfs(devices), DpuClient(channels))
        wanted = self._wanted(devices, channels)
        _stop([self._running.pop(key) for key in self._running.keys() - wanted.keys()])
        for key in wanted.keys() - self._running.keys():
            self._running[key] = wanted[key]()

    def stop(self) -> None:
        """Serve none; the pods keep their VFs."""
        _stop(list(self._running.values()))
        self.front.stop()

    def _wanted(
        self, devices: Sequence[DeviceConfig], channels: Channels
    ) -> Mapping[_Key, Callable[[], _Running]]:
        """Return what makes each thing that serves ``devices``; equal keys: it is the same."""
        made: dict[_Key, Callable[[], _Running]] = {}
        known = peers(devices)
        for name, (serial, address) in watched_devices(devices).items():
            where, peer = (serial, address), known.get(address, "")
            made[name, serial, address, peer] = partial(self._feed, name, where, channels)
            made[address, peer] = partial(self._stand, address, channels)
        return made

    def _feed(self, name: str, where: tuple[str, str], channels: Channels) -> _Running:
        feed = DpuFeed({name: where}, DpuClient(channels))
        feed.start(self._post)
        return feed

    def _stand(self, address: str, channels: Channels) -> _Running:
        witness = PodWitness(partial(self.front.ports_below, address))
        stand = WitnessStand({address: witness}, channels)
        stand.start()
        return stand


def _stop(running: Sequence[_Running]) -> None:
    """Stop all at once: a DPU that does not answer takes its time, but each the same."""
    threads = [threading.Thread(target=each.stop, daemon=True) for each in running]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
