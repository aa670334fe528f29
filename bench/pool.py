"""DPUs as one pool: how long they take to be listed, to be missed, to be found."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.figures import Figure, median
from bench.opi_node import read_config, write_config
from bench.plugins import CallFailedError
from dataplane.cli.get import dpu_records
from dataplane.cli.output import Record
from dataplane.core.model import CONDITIONS, Condition, Device, Side, TableUse
from dataplane.fabric.store import FabricStore
from dataplane.lab import lab, nodes
from dataplane.lab.layout import LabPaths

HOST = "h1"
DPUS = 50  # two rows each
_SEEN_S, _PAUSE_S = 30.0, 0.2
_CARD = "0000:c1:00.0"
_PCI = {  # an Octeon 10 as its host has it: vendors/discovery.md
    "vendor": "0x177d",
    "device": "0xb900",
    "subsystem_vendor": "0x177d",
    "subsystem_device": "0xb900",
    "class": "0x020000",
    "config": "",
}

Steps = Callable[[str, int], Iterator[int]]
"""Yields the numbers of so many rounds, shown under a title."""


@dataclass(slots=True)
class Samples:
    """What was measured, in seconds, a value of each round."""

    listed: list[float] = field(default_factory=list)
    killed: list[float] = field(default_factory=list)
    hung: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)
    plugged: list[float] = field(default_factory=list)
    unplugged: list[float] = field(default_factory=list)


def figures(samples: Samples) -> Iterator[Figure]:
    """Yield what is told and judged of ``samples``."""
    yield median(f"get dpu, {2 * DPUS} devices", samples.listed, "s", 0.5)
    yield median("DPU's agent is killed, seen", samples.killed, "s", 3.0)
    yield median("DPU's agent hangs, seen", samples.hung, "s", 3.0)
    yield median("DPU's agent goes on, seen", samples.back, "s")
    yield median("DPU is plugged in, seen", samples.plugged, "s", 2.0)
    yield median("DPU is unplugged, seen", samples.unplugged, "s", 2.0)


def plug_later(paths: LabPaths) -> Path:
    """Have the host, whose agent does not run yet, look for cards in a machine that has none.

    Returns the machine's sysfs.
    """
    node = paths.node(HOST)
    machine = node.directory / "sysfs"
    (machine / "bus/pci/devices").mkdir(parents=True)
    write_config(node, {**read_config(node), "discovery": str(machine)})
    return machine


@dataclass(slots=True)
class Run:
    """What is measured of the DPU that is the node ``dpu``, and of a card of its host's."""

    paths: LabPaths
    dpu: str
    machine: Path
    steps: Steps
    samples: Samples

    def measure(self, rounds: int) -> None:
        """Take every sample. Raises OverweaveError."""
        with FabricStore(lab.fabric_server(self.paths).remote) as store:
            pool = _Pool(store)
            pool.wait(self._is_ready, "it is not ready")
            for _ in self.steps("dead DPU", rounds):
                self._lose(pool)
            for _ in self.steps("card plugged", rounds):
                self._plug(pool)
            halves = tuple(crowd())
            store.write(halves)
            for _ in self.steps(f"get dpu, {2 * DPUS} devices", rounds):
                self.samples.listed.append(self._list())
            store.write(deletes=halves)

    def _lose(self, pool: _Pool) -> None:
        node = self.paths.node(self.dpu)
        began = time.monotonic()
        nodes.kill_agent(node)
        self.samples.killed.append(pool.wait(self._is_dead, "its death is not seen") - began)
        nodes.start_agent(node)
        nodes.wait_ready(node)
        pool.wait(self._is_ready, "it does not come back")
        pid = nodes.agent_pid(node)
        if pid is None:
            raise CallFailedError(f"the agent of {self.dpu} has ended")
        began = time.monotonic()
        os.kill(pid, signal.SIGSTOP)
        try:
            self.samples.hung.append(pool.wait(self._is_dead, "that it hangs is not seen") - began)
        finally:
            began = time.monotonic()
            os.kill(pid, signal.SIGCONT)
        self.samples.back.append(pool.wait(self._is_ready, "it does not come back") - began)

    def _plug(self, pool: _Pool) -> None:
        place = self.machine / "devices/pci0000:c1" / _CARD
        listed = self.machine / "bus/pci/devices" / _CARD
        place.mkdir(parents=True)
        for name, text in _PCI.items():
            (place / name).write_text(f"{text}\n", encoding="ascii")
        began = time.monotonic()
        listed.symlink_to(place)
        seen = pool.wait(_has_card, "a card that is plugged in is not seen")
        self.samples.plugged.append(seen - began)
        began = time.monotonic()
        listed.unlink()
        seen = pool.wait(lambda found: not _has_card(found), "a card that is gone is still shown")
        self.samples.unplugged.append(seen - began)
        shutil.rmtree(place)

    def _list(self) -> float:
        """Return the seconds of one whole run of the command."""
        remote = lab.fabric_server(self.paths).remote
        words = [*nodes.OVERWEAVE, "get", "dpu", "--fabric", remote]
        began = time.monotonic()
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        took = time.monotonic() - began
        lines = done.stdout.count("\n")
        if done.returncode or lines <= 2 * DPUS:
            raise CallFailedError(f"get dpu printed {lines} lines and {done.stderr.strip()!r}")
        return took

    def _is_ready(self, found: list[Record]) -> bool:
        return [half["status"] for half in self._halves(found)] == [True, True]

    def _is_dead(self, found: list[Record]) -> bool:
        return [half["status"] for half in self._halves(found)] == [False, False]

    def _halves(self, found: list[Record]) -> list[Record]:
        return [half for half in found if half["serial"] == f"lab-{self.dpu}"]


class _Pool:
    """What ``get dpu`` shows, whenever a row changes."""

    def __init__(self, store: FabricStore) -> None:
        self._store = store

    def wait(self, is_so: Callable[[list[Record]], bool], otherwise: str) -> float:
        """Return when what is shown was first so. Raises CallFailedError."""
        until = time.monotonic() + _SEEN_S
        for rows in self._store.follow(Device, _PAUSE_S):
            now = time.monotonic()
            if is_so(dpu_records(rows)):
                return now
            if now > until:
                raise CallFailedError(f"{otherwise} within {_SEEN_S:.0f} s")
        raise AssertionError("a store is followed for ever")


def _has_card(found: list[Record]) -> bool:
    return any(not half["status"] and half["vfs"] == 0 and half["node"] == HOST for half in found)


def crowd() -> Iterator[Device]:
    """Yield both halves of many DPUs of nodes that are not there, as their agents tell them."""
    now = int(time.time())
    for number in range(DPUS):
        for side in Side:
            host = side is Side.HOST
            yield Device(
                name=f"sn{number:04d}-{side}",
                serial=f"sn{number:04d}",
                vendor="marvell",
                product="Marvell Octeon 10",
                side=side,
                node=f"{'host' if host else 'dpu'}{number}",
                ready=True,
                conditions=tuple(
                    Condition(kind, holds=True, reason="it answers", since=now)
                    for kind in CONDITIONS
                ),
                peer=f"{'dpu' if host else 'host'}{number}",
                tables=() if host else (TableUse("forward", number, 10_000),),
                vfs=8,
                vfs_used=0 if host else 3,
                heard_at=now,
                told_at=now,
            )
