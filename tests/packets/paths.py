"""The fast path twice, to ask what it does with a frame: in the kernel, and compiled natively."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from bpf.bpffs import Pins
from bpf.entries import EntryItem
from bpf.layout import (
    MAPS,
    XDP_PROGRAM,
    decode_count,
    decode_counter_key,
    decode_ifindex,
    encode_ifindex,
    is_remote_entry,
    traffic_of,
)
from bpf.loader import SOURCE as PROGRAMS
from bpf.syscalls import BpfError, Program, open_map, open_program
from dataplane.core.reasons import PACKET_REASONS, Reason

SOURCE = Path(os.environ.get("OVERWEAVE_TEST_BPF", PROGRAMS))
"""Where the C is: the tests of the tests put it elsewhere, with a fault in it."""
LOOPBACK = 1  # where a packet of BPF_PROG_TEST_RUN comes from, as pod and as NIC
HOST = bytes(6)  # the loopback's MAC
LEAST = 14  # bytes of a frame that the kernel runs a program on
_UNSPEC, _SHOT, _REDIRECT = -1, 2, 7  # linux/pkt_cls.h
_XDP_DROP, _XDP_PASS = 1, 2  # linux/bpf.h
_HARNESS = Path(__file__).with_name("native.c")
_TABLES = ("ports", "neighbours", "entries", "members", "own", "nics")
_ROOM = 256
_CONTEXT_BYTES = 192  # struct __sk_buff
_GSO_SIZE_AT = 176


class Verdict(Enum):
    """What becomes of a frame."""

    OVS = auto()
    HOST = auto()
    DROP = auto()
    ANSWER = auto()
    LOCAL = auto()
    REMOTE = auto()


@dataclass(frozen=True)
class Outcome:
    """What a path did with a frame; ``ifindex``: where it went, if it was forwarded."""

    verdict: Verdict
    frame: bytes
    reason: Reason | None = None
    ifindex: int = 0


class FastPath(Protocol):
    """A way to run the fast path."""

    def hold(self, items: Iterable[EntryItem]) -> None:
        """Have ``items`` in the maps, and nothing else."""

    def sent(self, frame: bytes, gso_size: int = 0) -> Outcome | None:
        """Return what happens when the pod at LOOPBACK sends ``frame``; None: cannot be run."""

    def received(self, frame: bytes) -> Outcome | None:
        """Return what happens when the NIC receives ``frame``; None: cannot be run."""

    def early(self, frame: bytes) -> Reason | None:
        """Return why ``frame`` is dropped in the NIC's driver; None: it is passed on."""


class KernelPath:
    """The pinned programs, by BPF_PROG_TEST_RUN."""

    def __init__(self, pins: Pins) -> None:
        self._maps = {spec.name: open_map(pins.map(spec.name)) for spec in MAPS}
        self._programs = {
            name: open_program(pins.program(name))
            for name in ("access_port", "underlay", XDP_PROGRAM)
        }
        self._held: dict[object, EntryItem] = {}
        for opened in self._maps.values():
            for key in [key for key, _ in opened.items()]:
                opened.delete(key)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for handle in (*self._maps.values(), *self._programs.values()):
            handle.close()

    def hold(self, items: Iterable[EntryItem]) -> None:
        glue = EntryItem("glue", encode_ifindex(LOOPBACK), encode_ifindex(LOOPBACK))
        wanted: dict[object, EntryItem] = {item.key: item for item in (*items, glue)}
        for key, item in self._held.items():
            if key not in wanted:
                self._maps[item.map_name].delete(item.map_key)
        for key, item in wanted.items():
            if self._held.get(key) != item:
                self._maps[item.map_name].update(item.map_key, item.value)
        self._held = wanted

    def sent(self, frame: bytes, gso_size: int = 0) -> Outcome | None:
        return self._run("access_port", frame, gso_size)

    def received(self, frame: bytes) -> Outcome | None:
        return self._run("underlay", frame, 0)

    def early(self, frame: bytes) -> Reason | None:
        if len(frame) < LEAST:
            return None
        result = self._programs[XDP_PROGRAM].test_run(frame)
        reason = self._counted()
        assert (result.retval, result.data) == (_XDP_PASS if reason is None else _XDP_DROP, frame)
        return reason

    def _run(self, program: str, frame: bytes, gso_size: int) -> Outcome | None:
        try:
            retval, data = _test_run(self._programs[program], frame, gso_size)
        except BpfError as error:
            if error.errno == errno.EINVAL:  # the kernel wants a whole header
                return None
            raise
        return self._outcome(retval, data)

    def _outcome(self, retval: int, data: bytes) -> Outcome:
        reason = self._counted()
        if retval == _UNSPEC:
            return Outcome(Verdict.HOST, data, reason)
        if retval == _SHOT:
            return Outcome(Verdict.DROP, data, reason)
        assert retval == _REDIRECT
        if reason is Reason.ANSWERED:
            return Outcome(Verdict.ANSWER, data, reason)
        if reason is not None:
            return Outcome(Verdict.OVS, data, reason)
        used = self._used()
        if used is None:
            return Outcome(Verdict.OVS, data)
        is_remote = is_remote_entry(used)
        verdict = Verdict.REMOTE if is_remote else Verdict.LOCAL
        return Outcome(verdict, data, ifindex=decode_ifindex(used[:4]))

    def _counted(self) -> Reason | None:
        """Return the reason that one packet was counted by, and forget it."""
        counters = self._maps["counters"]
        found = [(key, decode_count(value)) for key, value in counters.items()]
        for key, _ in found:
            counters.delete(key)
        assert sum(count for _, count in found) <= 1
        return decode_counter_key(found[0][0])[1] if found else None

    def _used(self) -> bytes | None:
        """Return the entry that was used once, and forget that it was."""
        entries = self._maps["entries"]
        found = [(key, value) for key, value in entries.items() if traffic_of(value).packets]
        for key, _ in found:
            entries.update(key, self._held["entries", key].value)
        assert len(found) <= 1
        return found[0][1] if found else None


def _test_run(program: Program, frame: bytes, gso_size: int) -> tuple[int, bytes]:
    """Run a program as Program.test_run does, on what may be a super-packet."""
    context = bytearray(_CONTEXT_BYTES)
    context[_GSO_SIZE_AT : _GSO_SIZE_AT + 4] = gso_size.to_bytes(4, sys.byteorder)
    result = program.test_run(frame, context=bytes(context))
    return result.retval, result.data


class _NativeOutcome(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint32) for name in ("verdict", "reason", "is_remote", "ifindex", "length")
    ]


_NATIVE_VERDICTS = (
    Verdict.OVS,
    Verdict.HOST,
    Verdict.DROP,
    Verdict.ANSWER,
    Verdict.ANSWER,
    Verdict.LOCAL,
)


class NativePath:
    """The headers in a shared library with sanitizers: a fault in them ends this process."""

    def __init__(self, directory: Path) -> None:
        library = directory / "native.so"
        _compile(library)
        self._library = ctypes.CDLL(str(library))

    def hold(self, items: Iterable[EntryItem]) -> None:
        self._library.native_clear()
        held = {item.key: item for item in items if item.map_name in _TABLES}
        for item in held.values():
            table = _TABLES.index(item.map_name)
            sizes = (ctypes.c_size_t(len(item.map_key)), ctypes.c_size_t(len(item.value)))
            failed = self._library.native_put(table, item.map_key, sizes[0], item.value, sizes[1])
            assert not failed, f"{item} has not the size it has in C, or the table is full"

    def sent(self, frame: bytes, gso_size: int = 0) -> Outcome:
        outcome, buffer = _NativeOutcome(), ctypes.create_string_buffer(frame, len(frame) + _ROOM)
        hash_ = 0x12345678
        failed = self._library.native_sent(
            LOOPBACK, buffer, ctypes.c_size_t(len(frame)), gso_size, hash_, ctypes.byref(outcome)
        )
        if failed:  # a port that the fast path does not know
            return Outcome(Verdict.OVS, frame)
        return _native_outcome(outcome, buffer.raw)

    def received(self, frame: bytes) -> Outcome:
        if frame[:6] != HOST:
            return Outcome(Verdict.HOST, frame)
        outcome, buffer = _NativeOutcome(), ctypes.create_string_buffer(frame, len(frame) + _ROOM)
        is_ours = self._library.native_received(
            buffer, ctypes.c_size_t(len(frame)), 0, ctypes.byref(outcome)
        )
        return _native_outcome(outcome, buffer.raw) if is_ours else Outcome(Verdict.HOST, frame)

    def early(self, frame: bytes) -> Reason | None:
        outcome, buffer = _NativeOutcome(), ctypes.create_string_buffer(frame, len(frame) + _ROOM)
        is_dropped = self._library.native_early(
            LOOPBACK, buffer, ctypes.c_size_t(len(frame)), ctypes.byref(outcome)
        )
        return PACKET_REASONS[outcome.reason] if is_dropped else None

    def bytes_read(self, protocol: int) -> int:
        """Return how many bytes of a frame of an EtherType the program wants to read at once."""
        return int(self._library.native_bytes_read(socket.htons(protocol)))


def _native_outcome(outcome: _NativeOutcome, buffer: bytes) -> Outcome:
    verdict, frame = _NATIVE_VERDICTS[outcome.verdict], buffer[: outcome.length]
    if verdict is not Verdict.LOCAL:
        return Outcome(verdict, frame, PACKET_REASONS[outcome.reason])
    verdict = Verdict.REMOTE if outcome.is_remote else verdict
    return Outcome(verdict, frame, ifindex=outcome.ifindex)


def _compile(library: Path) -> None:
    command = ["gcc", "-std=gnu11", "-O1", "-g", "-shared", "-fPIC", "-o", str(library)]
    command += [
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unknown-pragmas",
        "-Wno-address-of-packed-member",
    ]
    command += ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    done = subprocess.run(
        [*command, f"-I{SOURCE}", str(_HARNESS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
