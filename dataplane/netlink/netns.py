"""Network namespaces: named as ``ip netns`` does, opened with care, entered by a thread."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from dataplane.core.errors import OverweaveError

NAMED = Path("/run/netns")  # where ip-netns(8) keeps names

_CLONE_NEWNET = 0x40000000  # linux/sched.h
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 0x100000  # linux/mount.h
_MNT_DETACH = 2  # umount(2)
_MAGIC_LINK = re.compile(r"/proc/(\d+|self|thread-self)(/task/\d+)?/ns/net")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")

_libc = ctypes.CDLL(None, use_errno=True)
_Result = TypeVar("_Result")


class NetnsError(OverweaveError):
    """A network namespace cannot be made, opened or entered; the text names it."""


class NetnsGoneError(NetnsError):
    """There is no network namespace at that path (any more)."""


class Netns:
    """An open network namespace: it lives as long as this does, whatever happens to its name."""

    def __init__(self, path: str) -> None:
        """Open ``path``, /run/netns/NAME or /proc/PID/ns/net.

        Raises NetnsGoneError where nothing is, NetnsError where it is anything else.
        """
        self.path = path
        self.fd = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the namespace."""
        os.close(self.fd)

    @property
    def inode(self) -> int:
        """Return the number that names this namespace as long as it lives."""
        return os.fstat(self.fd).st_ino

    def run(self, function: Callable[[], _Result]) -> _Result:
        """Return what ``function`` returns, or raise what it raises, from a thread in here.

        Sockets opened and /proc/sys/net files read there are this namespace's. About 0.1 ms.
        """

        def enter_and_call() -> _Result:
            _check(_libc.setns(self.fd, _CLONE_NEWNET), f"enter network namespace {self.path}")
            return function()

        return _in_own_thread(enter_and_call)


def named(name: str) -> Path:
    """Return the path of a namespace made by ``create`` or ``ip netns add``.

    Raises NetnsError if ``name`` cannot be one.
    """
    if not _NAME.fullmatch(name):
        raise NetnsError(
            f"network namespace name {name!r} is not 1-64 letters, digits, '_', '.' or '-'"
            " that begin with a letter, a digit or '_'"
        )
    return NAMED / name


def create(name: str) -> None:
    """Make a network namespace that ``ip netns`` lists, its loopback down. Raises NetnsError."""
    path = named(name)
    with _names_locked():
        try:
            path.touch(mode=0, exist_ok=False)
        except FileExistsError:
            raise NetnsError(
                f"network namespace {name} exists already; delete it, or use another name"
            ) from None
        try:
            _in_own_thread(lambda: _unshare_and_bind(path))
        except NetnsError:
            path.unlink()
            raise


def delete(name: str) -> None:
    """Take the name away; the namespace dies with its last user. No such name is success."""
    path = named(name)
    if _libc.umount2(os.fsencode(path), _MNT_DETACH) != 0:
        number = ctypes.get_errno()
        # EINVAL: not a mount point, as after a crash between the two steps of create.
        if number not in (errno.ENOENT, errno.EINVAL):
            raise NetnsError(f"unmount network namespace {name}: {os.strerror(number)}")
    path.unlink(missing_ok=True)


def in_scratch(function: Callable[[], _Result]) -> _Result:
    """Return what ``function`` returns, or raise what it raises, in a namespace that ends with it.

    Raises NetnsError.
    """

    def leave_and_call() -> _Result:
        _check(_libc.unshare(_CLONE_NEWNET), "make a network namespace")
        return function()

    return _in_own_thread(leave_and_call)


def _open(path: str) -> int:
    # The path comes from outside: no symbolic link (but /proc/PID/ns/net is one by nature), and no
    # waiting for the writer of a FIFO.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
    if not _MAGIC_LINK.fullmatch(path):
        flags |= os.O_NOFOLLOW
    try:
        fd = os.open(path, flags)
    except (FileNotFoundError, ProcessLookupError):
        raise NetnsGoneError(f"network namespace {path} does not exist") from None
    except ValueError:
        raise NetnsError(f"network namespace {path!r} cannot be a path") from None
    except OSError as error:
        reason = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise NetnsError(f"network namespace {path} cannot be opened: {reason}") from None
    try:
        _require_netns(fd, path)
    except NetnsError:
        os.close(fd)
        raise
    return fd


def _require_netns(fd: int, path: str) -> None:
    """Refuse what is no network namespace; only a regular file is asked, never a device."""
    kind = 0
    if stat.S_ISREG(os.fstat(fd).st_mode):
        try:
            kind = fcntl.ioctl(fd, _NS_GET_NSTYPE)
        except OSError:
            kind = 0
    if kind != _CLONE_NEWNET:
        raise NetnsError(
            f"{path} is not a network namespace; give /run/netns/NAME or /proc/PID/ns/net"
        )


@contextmanager
def _names_locked() -> Iterator[None]:
    """Make /run/netns a shared mount, as ip-netns(8) does and under its lock.

    Without that a namespace stays alive in every mount namespace that copied its name.
    """
    NAMED.mkdir(mode=0o755, parents=True, exist_ok=True)
    directory = os.fsencode(NAMED)
    lock = os.open(NAMED, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _libc.mount(b"", directory, b"none", _MS_SHARED | _MS_REC, None) != 0:
            bound = _libc.mount(directory, directory, b"none", _MS_BIND | _MS_REC, None)
            _check(bound, f"make {NAMED} a mount point")
            shared = _libc.mount(b"", directory, b"none", _MS_SHARED | _MS_REC, None)
            _check(shared, f"make {NAMED} a shared mount")
        yield
    finally:
        os.close(lock)


def _unshare_and_bind(path: Path) -> None:
    _check(_libc.unshare(_CLONE_NEWNET), f"make network namespace {path.name}")
    bound = _libc.mount(b"/proc/thread-self/ns/net", os.fsencode(path), b"none", _MS_BIND, None)
    _check(bound, f"name network namespace {path.name}")


def _in_own_thread(function: Callable[[], _Result]) -> _Result:
    """Return what ``function`` returns in a thread that ends with it, its namespace with it."""
    results: list[_Result] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the thread that waits
            errors.append(error)

    thread = threading.Thread(target=call, name="netns")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _check(status: int, doing: str) -> None:
    if status != 0:
        raise NetnsError(f"{doing}: {os.strerror(ctypes.get_errno())}")
