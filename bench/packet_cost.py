"""``overweave bench packet-cost``: nanoseconds of a packet in the eBPF programs, and their load.

Timed by the kernel (BPF_PROG_TEST_RUN): no wire, no queue and no other processor has a part in it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median as middle

from rich.console import Console

from bench import one_packet
from bench.figures import YARDSTICK, Figure, fingerprint, median, most_ratio
from bench.one_packet import TUNNELS, Tunnel
from bench.report import tell
from bpf import loader
from bpf.bpffs import Pins, ensure_mounted, unmount
from bpf.entries import EntryItem
from bpf.layout import PROGRAMS, XDP_PROGRAM, traffic_of
from bpf.syscalls import Program, open_map, open_program
from dataplane.core.errors import OverweaveError

_SIZES = (100, 100_000)  # of the map `entries`
_REPEAT = 200_000
_CALLS = 1_000
_AIM_NS = 350.0
_AIM_MANY = 1.1  # "the same", on a machine that others use, too
_AIM_LOAD_S = 1.0
_UNSPEC, _SHOT, _REDIRECT = -1, 2, 7  # linux/pkt_cls.h
_XDP_DROP = 1  # linux/bpf.h
_HERE = Path(__file__).parent

_BOTH = "encap + decap"
_EACH_ANOTHER = f"{_BOTH}, each packet to another MAC"


@dataclass(frozen=True, slots=True)
class Sized:
    """Maps with ``count`` entries; the programs of the product, and those that time both ways."""

    count: int
    pins: Pins
    product: Mapping[str, Program]
    timed: Mapping[str, Program]

    @property
    def title(self) -> str:
        """Return how figures call it."""
        return _title(self.count)

    def serve(self, tunnel: Tunnel) -> None:
        """Make the AccessPort one of the tunnel's segment."""
        _set(self.pins, one_packet.port(tunnel))

    def used(self, tunnel: Tunnel) -> tuple[int, int]:
        """Return how many packets to the first destination were counted, out and back."""
        with open_map(self.pins.map("entries")) as entries:
            values = [entries.lookup(key) or b"" for key in one_packet.traffic_keys(tunnel)]
        out, back = (traffic_of(value).packets for value in values)
        return out, back


@dataclass(slots=True)
class Run:
    """Samples by the name of their figure, taken in rounds so that all meet the same weather."""

    samples: dict[str, list[float]] = field(default_factory=dict)

    def round(self, sized: tuple[Sized, ...]) -> None:
        """Time everything once."""
        for tunnel in TUNNELS:
            for maps in sized:
                maps.serve(tunnel)
                self._both_ways(maps, tunnel)
        for maps in sized:
            maps.serve(TUNNELS[0])
            self._spread(maps)
            self._misses(maps)
        for tunnel in TUNNELS:
            sized[0].serve(tunnel)
            self._single(sized[0], tunnel)

    def _both_ways(self, maps: Sized, tunnel: Tunnel) -> None:
        before = maps.used(tunnel)
        frame = one_packet.sent(tunnel)
        took = _timed(maps.timed["access_port"], frame, _REDIRECT)
        done = [after - old for after, old in zip(maps.used(tunnel), before, strict=True)]
        if done != [_REPEAT, _REPEAT]:
            raise OverweaveError(f"{tunnel.title}: {done} packets were counted, not {_REPEAT}")
        self._add(f"{_BOTH}, {tunnel.title}, {maps.title}", took)

    def _spread(self, maps: Sized) -> None:
        took = _timed(maps.timed["underlay"], one_packet.sent(TUNNELS[0]), _REDIRECT, same=False)
        self._add(f"{_EACH_ANOTHER}, {maps.title}", took)

    def _misses(self, maps: Sized) -> None:
        first = TUNNELS[0]
        for name, program, frame, verdict in (
            ("miss, sent by pod", "access_port", one_packet.sent_to_nobody(first), _REDIRECT),
            ("miss, from a peer", "underlay", one_packet.received_for_nobody(first), _REDIRECT),
            ("for the host itself", "underlay", one_packet.received_by_host(), _UNSPEC),
            ("forged, dropped by tc", "underlay", one_packet.received_forged(first), _SHOT),
            ("forged, dropped by XDP", XDP_PROGRAM, one_packet.received_forged(first), _XDP_DROP),
        ):
            took = _timed(maps.product[program], frame, verdict)
            self._add(f"{name}, {maps.title}", took)

    def _single(self, maps: Sized, tunnel: Tunnel) -> None:
        """Time the product's own program, with its marks for tunnels, once in each call."""
        name = f"encap, one packet a call, {tunnel.title}"
        frame = one_packet.sent(tunnel)
        self._add(f"{YARDSTICK}{name}", _called(maps.product["ovs_port"], frame))
        self._add(name, _called(maps.product["access_port"], frame))

    def _add(self, name: str, took: float) -> None:
        self.samples.setdefault(name, []).append(took)

    def figures(self) -> Iterator[Figure]:
        """Yield a figure of each kind of sample, then what a thousand times the entries cost."""
        few, many = (_title(size) for size in _SIZES)
        for name in sorted(self.samples, key=lambda name: not name.startswith(_BOTH)):
            judged = name.startswith(_BOTH) and not name.startswith(_EACH_ANOTHER)
            yield median(name, self.samples[name], "ns", _AIM_NS if judged else None)
        for name in self.samples:
            if name.startswith(_BOTH) and name.endswith(f", {few}"):
                what = name.removesuffix(few)
                pairs = zip(self.samples[f"{what}{many}"], self.samples[name], strict=True)
                ratios = [other / one for other, one in pairs]
                yield most_ratio(f"{what}{many} : {few}", ratios, _AIM_MANY)


def run(rounds: int, target: Path | None) -> None:
    """Take all figures, print them, and write them to ``target`` as JSON. Raises OverweaveError."""
    if os.geteuid() != 0:
        raise OverweaveError("overweave bench loads eBPF programs and needs root; run it with sudo")
    machine, taken = fingerprint(), Run()
    errors = Console(stderr=True, highlight=False)
    with ExitStack() as stack:
        stack.enter_context(_pinned())
        directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="overweave-bench-"))
        )
        with errors.status("compile and load ..."):
            cold = [_load_cold(directory / "cold") for _ in range(rounds)]
        with errors.status("fill the maps ..."):
            sized = tuple(_sized(directory / str(count), count, stack) for count in _SIZES)
        for number in range(rounds):
            with errors.status(f"round {number + 1} of {rounds} ..."):
                taken.round(sized)
    load = median("compile and load, cold", cold, "s", _AIM_LOAD_S)
    tell(machine, [*taken.figures(), load], target)


def _sized(bpffs: Path, count: int, stack: ExitStack) -> Sized:
    stack.enter_context(_mounted(bpffs))
    product = _opened(loader.load(bpffs), stack)
    source = bpffs.with_name(f"source{count}")
    _write_timed(source, count)
    pins = loader.load(bpffs, source)  # on the same maps
    sized = Sized(count, pins, product, _opened(pins, stack))
    for item in (*one_packet.surroundings(), *one_packet.entries(count)):
        _set(pins, item)
    return sized


def _write_timed(source: Path, count: int) -> None:
    shutil.copytree(loader.SOURCE, source, ignore=shutil.ignore_patterns("*.py", "*.md", "stubs"))
    overlay = source / "overlay.c"
    text, appended = (path.read_text(encoding="ascii") for path in (overlay, _HERE / "turn_back.c"))
    destinations = one_packet.destinations(count)
    overlay.write_text(one_packet.timed_source(text, appended, destinations), encoding="ascii")


def _opened(pins: Pins, stack: ExitStack) -> Mapping[str, Program]:
    return {name: stack.enter_context(open_program(pins.program(name))) for name in PROGRAMS}


def _load_cold(bpffs: Path) -> float:
    with _mounted(bpffs):
        began = time.monotonic()
        loader.load(bpffs)
        return time.monotonic() - began


def _timed(program: Program, frame: bytes, verdict: int, *, same: bool = True) -> float:
    """Return the nanoseconds of one of many repeats. Raises OverweaveError if it did other work."""
    result = program.test_run(frame, _REPEAT)
    _check(program, result.retval == verdict and (not same or result.data == frame))
    return float(result.duration_ns)


def _called(program: Program, frame: bytes) -> float:
    """Return the median nanoseconds of calls with one packet, the call's own time included."""
    results = [program.test_run(frame) for _ in range(_CALLS)]
    _check(program, all(result.retval == _REDIRECT for result in results))
    return middle(result.duration_ns for result in results)


def _check(program: Program, good: bool) -> None:  # noqa: FBT001 - what is checked
    if not good:
        raise OverweaveError(f"program {program.info.name} did something else with the packet")


def _set(pins: Pins, item: EntryItem) -> None:
    with open_map(pins.map(item.map_name)) as opened:
        opened.update(item.map_key, item.value)


def _title(size: int) -> str:
    return f"{size:,} entries"


@contextmanager
def _mounted(directory: Path) -> Iterator[Path]:
    ensure_mounted(directory)
    try:
        yield directory
    finally:
        unmount(directory)


@contextmanager
def _pinned() -> Iterator[None]:
    """Keep this process on one processor: its caches are part of what is timed."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
