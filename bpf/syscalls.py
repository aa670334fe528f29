"""The only wrapper of bpf(2): maps and programs pinned in bpffs, without bcc and without LLVM."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Self

from bpf.layout import BPF_MAP_TYPE_PERCPU_HASH, MapSpec
from dataplane.core.errors import OverweaveError

# arch/*/include/uapi/asm/unistd.h, asm-generic/unistd.h: __NR_bpf
_NUMBERS = {
    "x86_64": 321,
    "aarch64": 280,
    "riscv64": 280,
    "loongarch64": 280,
    "ppc64le": 361,
    "s390x": 351,
}

# linux/bpf.h, enum bpf_cmd
_MAP_CREATE = 0
_MAP_LOOKUP_ELEM = 1
_MAP_UPDATE_ELEM = 2
_MAP_DELETE_ELEM = 3
_OBJ_PIN = 6
_OBJ_GET = 7
_PROG_TEST_RUN = 10
_PROG_GET_FD_BY_ID = 13
_OBJ_GET_INFO_BY_FD = 15
_MAP_LOOKUP_BATCH = 24  # since Linux 5.6

# Fields of union bpf_attr (linux/bpf.h) from its start; the kernel takes what follows as zero.
_CREATE = Struct("=IIIIIII16s")  # type, key, value, max_entries, flags, inner_map_fd, numa, name
_ELEMENT = Struct("=I4xQQQ")  # map_fd, key, value, flags
# where to go on, where that is told, keys, values; how many, map_fd, flags of elements, flags
_BATCH = Struct("=QQQQIIQQ")
_PLACE_BYTES = 4  # kernel/bpf/hashtab.c: the number of the next bucket
_BATCH_SIZE = 4096  # no bucket of a hash map holds so many: the kernel takes whole buckets
_PIN = Struct("=QI")  # pathname, bpf_fd
_BY_ID = Struct("=I")  # prog_id
_INFO = Struct("=IIQ")  # bpf_fd, info_len, info
# fd, retval, size_in, size_out, data_in, data_out, repeat, duration, ctx_in and its room out,
# ctx_in and out as pointers
_TEST = Struct("=IIIIQQIIIIQQ")
_ATTR_BYTES = 128

# First fields of struct bpf_map_info and struct bpf_prog_info.
_MAP_INFO = Struct("=IIIIII16s")  # type, id, key, value, max_entries, flags, name
_PROG_INFO = Struct("=II8s48x16s")  # type, id, tag, (lengths, pointers, time, uid, map ids), name
_INFO_BYTES = 256

_POSSIBLE_CPUS = Path("/sys/devices/system/cpu/possible")
_TEST_HEADROOM = 256  # a program may make the packet longer

_syscall = ctypes.CDLL(None, use_errno=True).syscall


class BpfError(OverweaveError):
    """bpf(2) refused; ``errno`` is the kernel's number, the text keeps its message."""

    def __init__(self, doing: str, number: int) -> None:
        """Say what was being done and what the kernel answered."""
        self.errno = number
        name = errno.errorcode.get(number, str(number))
        super().__init__(f"{doing}: {os.strerror(number)} ({name}){_next_step(number)}")


class BpfMissingError(BpfError):
    """There is no such pin or key (ENOENT)."""


class BpfFullError(BpfError):
    """The map has no room for one more key (E2BIG)."""


_ERRORS = {errno.ENOENT: BpfMissingError, errno.E2BIG: BpfFullError}
_NEXT_STEPS = {
    errno.EPERM: "; it needs root (CAP_BPF, CAP_NET_ADMIN) and a bpffs: see mount -t bpf",
    errno.ENOSYS: "; this kernel was built without CONFIG_BPF_SYSCALL",
}


def _next_step(number: int) -> str:
    return _NEXT_STEPS.get(number, "")


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map: sizes in bytes, ``type`` and ``flags`` as in linux/bpf.h."""

    id: int
    name: str
    type: int
    key_size: int
    value_size: int
    max_entries: int
    flags: int


@dataclass(frozen=True, slots=True)
class ProgramInfo:
    """What the kernel says of a program; ``tag`` is the hash of its instructions, hexadecimal."""

    id: int
    name: str
    type: int
    tag: str


@dataclass(frozen=True, slots=True)
class TestRun:
    """Outcome of a program run on one packet; ``duration_ns`` is the mean of the repeats."""

    __test__ = False  # not a test, whatever pytest reads in its name

    retval: int
    data: bytes
    duration_ns: int


class _Handle:
    """Owns a file descriptor."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """Return the open file descriptor."""
        return self._fd

    def close(self) -> None:
        """Close the file descriptor; may be repeated."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Map(_Handle):
    """An open hash map; keys and values are bytes of exactly its sizes. Raises BpfError.

    A value of a per-CPU map is that of every possible processor, one after the other.
    """

    def __init__(self, fd: int) -> None:
        """Take over ``fd``, which must be of a map."""
        super().__init__(fd)
        self.info = _map_info(fd)
        self._value_size = self.info.value_size
        if self.info.type == BPF_MAP_TYPE_PERCPU_HASH:
            self._value_size = (self.info.value_size + 7 & ~7) * _possible_cpus()

    def lookup(self, key: bytes) -> bytes | None:
        """Return the value of ``key``, None if there is none."""
        value = ctypes.create_string_buffer(self._value_size)
        try:
            self._element(_MAP_LOOKUP_ELEM, key, _address(value))
        except BpfMissingError:
            return None
        return value.raw

    def update(self, key: bytes, value: bytes) -> None:
        """Set ``key``, new or not, to ``value``. Raises BpfFullError."""
        self._require("value", value, self._value_size)
        buffer = _buffer(value)
        self._element(_MAP_UPDATE_ELEM, key, _address(buffer))

    def delete(self, key: bytes) -> None:
        """Remove ``key``. Raises BpfMissingError."""
        self._element(_MAP_DELETE_ELEM, key, 0)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every key with its value; what comes or goes meanwhile may be missed."""
        key_size, value_size = self.info.key_size, self._value_size
        keys = ctypes.create_string_buffer(_BATCH_SIZE * key_size)
        values = ctypes.create_string_buffer(_BATCH_SIZE * value_size)
        place = ctypes.create_string_buffer(max(key_size, _PLACE_BYTES))
        going_on, is_last = 0, False
        while not is_last:
            where = (going_on, _address(place), _address(keys), _address(values))
            attr = _BATCH.pack(*where, _BATCH_SIZE, self._fd, 0, 0)
            _, error, answer = _call(_MAP_LOOKUP_BATCH, attr, f"map {self.info.name}")
            is_last = error == errno.ENOENT
            if error and not is_last:
                raise BpfError(f"read map {self.info.name}", error)
            count = _BATCH.unpack_from(answer)[4]
            found = (keys.raw[: count * key_size], values.raw[: count * value_size])
            yield from zip(*map(_pieces, found, (key_size, value_size)), strict=True)
            going_on = _address(place)

    def _element(self, command: int, key: bytes, value: int) -> None:
        self._require("key", key, self.info.key_size)
        buffer = _buffer(key)
        attr = _ELEMENT.pack(self._fd, _address(buffer), value, 0)
        _bpf(command, attr, f"map {self.info.name}")

    def _require(self, what: str, data: bytes, size: int) -> None:
        if len(data) != size:
            raise ValueError(f"map {self.info.name}: {what} has {len(data)} bytes, not {size}")


class Program(_Handle):
    """An open program. Raises BpfError."""

    def __init__(self, fd: int) -> None:
        """Take over ``fd``, which must be of a program."""
        super().__init__(fd)
        self.info = _program_info(fd)

    def test_run(self, packet: bytes, repeat: int = 1, context: bytes = b"") -> TestRun:
        """Run it on an Ethernet frame (BPF_PROG_TEST_RUN), which is sent nowhere.

        The loopback device has received it, unless ``context`` (struct __sk_buff) names another
        one.
        """
        data_in = _buffer(packet)
        data_out = ctypes.create_string_buffer(len(packet) + _TEST_HEADROOM)
        sizes = (len(packet), len(data_out))
        addresses = (_address(data_in), _address(data_out))
        given = _buffer(context)
        about = (len(context), 0, _address(given) if context else 0, 0)
        attr = _TEST.pack(self._fd, 0, *sizes, *addresses, repeat, 0, *about)
        _, answer = _bpf(_PROG_TEST_RUN, attr, f"run program {self.info.name}")
        _, retval, _, size, _, _, _, duration, *_ = _TEST.unpack_from(answer)
        return TestRun(ctypes.c_int32(retval).value, data_out.raw[:size], duration)


def _possible_cpus() -> int:
    """Return for how many processors the kernel keeps a per-CPU value (cputopology.rst)."""
    ranges = _POSSIBLE_CPUS.read_text(encoding="ascii").strip().split(",")
    return int(ranges[-1].rpartition("-")[2]) + 1


def create_map(spec: MapSpec) -> Map:
    """Make a new, empty map. Raises BpfError."""
    name = spec.name.encode()
    attr = _CREATE.pack(
        spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags, 0, 0, name
    )
    fd, _ = _bpf(_MAP_CREATE, attr, f"create map {spec.name}")
    return Map(fd)


def open_map(path: PathLike[str]) -> Map:
    """Open a pinned map. Raises BpfMissingError, BpfError."""
    return Map(_obj_get(path))


def open_program(path: PathLike[str]) -> Program:
    """Open a pinned program. Raises BpfMissingError, BpfError."""
    return Program(_obj_get(path))


def open_program_by_id(number: int) -> Program:
    """Open a program, pinned or not, by the kernel's id. Raises BpfMissingError, BpfError."""
    fd, _ = _bpf(_PROG_GET_FD_BY_ID, _BY_ID.pack(number), f"open program {number}")
    return Program(fd)


def pin(fd: int, path: PathLike[str]) -> None:
    """Give the map or program a name in bpffs, which keeps it alive. Raises BpfError."""
    name = _c_string(path)
    _bpf(_OBJ_PIN, _PIN.pack(_address(name), fd), f"pin {os.fspath(path)}")


def _obj_get(path: PathLike[str]) -> int:
    name = _c_string(path)
    fd, _ = _bpf(_OBJ_GET, _PIN.pack(_address(name), 0), f"open pinned {os.fspath(path)}")
    return fd


def _map_info(fd: int) -> MapInfo:
    fields = _MAP_INFO.unpack_from(_object_info(fd))
    kind, number, key_size, value_size, max_entries, flags, name = fields
    return MapInfo(number, _text(name), kind, key_size, value_size, max_entries, flags)


def _program_info(fd: int) -> ProgramInfo:
    kind, number, tag, name = _PROG_INFO.unpack_from(_object_info(fd))
    return ProgramInfo(number, _text(name), kind, tag.hex())


def _object_info(fd: int) -> bytes:
    info = ctypes.create_string_buffer(_INFO_BYTES)
    _bpf(_OBJ_GET_INFO_BY_FD, _INFO.pack(fd, _INFO_BYTES, _address(info)), f"describe bpf fd {fd}")
    return info.raw


def _bpf(command: int, attr: bytes, doing: str) -> tuple[int, bytes]:
    """Return the result of bpf(2) and the attributes as the kernel left them. Raises BpfError."""
    result, error, after = _call(command, attr, doing)
    if error:
        raise _ERRORS.get(error, BpfError)(doing, error)
    return result, after


def _call(command: int, attr: bytes, doing: str) -> tuple[int, int, bytes]:
    """Return the result of bpf(2), its errno or 0, and the attributes as the kernel left them."""
    machine = platform.machine()
    if machine not in _NUMBERS:
        raise BpfError(f"{doing}: the number of bpf(2) on {machine} is unknown", errno.ENOSYS)
    buffer = ctypes.create_string_buffer(attr, _ATTR_BYTES)
    result = _syscall(ctypes.c_long(_NUMBERS[machine]), command, buffer, _ATTR_BYTES)
    return result, ctypes.get_errno() if result < 0 else 0, buffer.raw


def _pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


def _c_string(path: PathLike[str]) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(os.fsencode(path))


def _buffer(data: bytes) -> ctypes.Array[ctypes.c_char]:
    return ctypes.create_string_buffer(data, len(data))


def _address(buffer: ctypes.Array[ctypes.c_char]) -> int:
    return ctypes.addressof(buffer)


def _text(name: bytes) -> str:
    return name.rstrip(b"\0").decode()
