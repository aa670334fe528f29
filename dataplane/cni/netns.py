"""Is CNI_NETNS what it says? Asked before anything is made, so that nothing has to be undone."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from dataplane.cni.errors import CniError, Code, shown

OWN_NETNS = "/proc/self/ns/net"
_NS_GET_NSTYPE = 0xB703  # linux/nsfs.h
_CLONE_NEWNET = 0x40000000  # linux/sched.h


def check_netns(path: str) -> None:
    """Raise CniError 4 unless ``path`` is a network namespace, and not the agent's own."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError) as error:
        raise _wrong(path, f"cannot be used: {getattr(error, 'strerror', None) or error}") from None
    kind = _namespace_type(path) if stat.S_ISREG(found.st_mode) else None
    if kind != _CLONE_NEWNET:
        # What `ip netns` leaves where its mount is not seen: a file with nothing in it.
        unmounted = kind is None and stat.S_ISREG(found.st_mode) and found.st_size == 0
        hint = ": is it mounted in the agent's mount namespace?" if unmounted else ""
        raise _wrong(path, f"is not a network namespace{hint}")
    own = Path(OWN_NETNS).stat()
    if (found.st_dev, found.st_ino) == (own.st_dev, own.st_ino):
        raise _wrong(path, "is the node's own network namespace, not a container's")


def namespace_id(path: str) -> str:
    """Return what tells the namespace at ``path`` from all others that live; empty: none is there.

    A path alone may be another namespace's by now.
    """
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return ""
    return f"{found.st_dev}:{found.st_ino}"


def _namespace_type(path: str) -> int | None:
    """Return the CLONE_NEW* flag of the namespace at ``path``; None: no namespace."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        return fcntl.ioctl(descriptor, _NS_GET_NSTYPE)
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _wrong(path: str, cause: str) -> CniError:
    return CniError(Code.INVALID_ENVIRONMENT, f"CNI_NETNS {shown(path)} {cause}")
