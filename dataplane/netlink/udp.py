"""Who has a UDP port: the kernel's sockets (proc(5), /proc/net/udp), and who opened them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dataplane.netlink import links
from dataplane.netlink.rtnl import Rtnl

_TABLES = tuple(Path("/proc/thread-self/net") / name for name in ("udp", "udp6"))


def holder(port: int) -> str | None:
    """Return what to call who receives UDP on ``port`` in this thread's network namespace.

    None: nobody does, or a tunnel device that Open vSwitch made. Raises KernelError.
    """
    inodes = {inode for table in _TABLES for inode in _inodes(table, port)}
    if not inodes:
        return None
    return next(_processes(inodes), None) or _device(port)


def _inodes(table: Path, port: int) -> Iterator[str]:
    """Yield the inode of each socket that is bound to ``port``."""
    with suppress(FileNotFoundError):  # a kernel without IPv6
        for line in table.read_text(encoding="ascii").splitlines()[1:]:
            words = line.split()
            if int(words[1].rpartition(":")[2], 16) == port:
                yield words[9]


def _processes(inodes: set[str]) -> Iterator[str]:
    """Yield the processes that have one of the sockets open."""
    sockets = {f"socket:[{inode}]" for inode in inodes}
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is not ours to look at
            if any(str(each.readlink()) in sockets for each in (directory / "fd").iterdir()):
                name = (directory / "comm").read_text(encoding="utf-8").strip()
                yield f"process {name} ({directory.name})"


def _device(port: int) -> str | None:
    """Return the tunnel devices that have ``port``; Open vSwitch names its own by it."""
    with Rtnl() as rtnl:
        found = [each.name for each in links.every(rtnl) if each.udp_port == port]
    others = [name for name in found if not name.endswith(f"_sys_{port}")]
    return f"tunnel device {' or '.join(others)}" if others else None
