"""Our program in the driver of a netdev: known by its name, whichever version attached it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from bpf.layout import XDP_PROGRAM
from bpf.syscalls import BpfMissingError, Program, open_program_by_id
from dataplane.core.errors import TargetError
from dataplane.netlink import links, xdp
from dataplane.netlink.links import Netdev
from dataplane.netlink.rtnl import Rtnl


@dataclass(frozen=True, slots=True)
class Attached:
    """A program of ours, by the kernel's id, in the driver of a netdev."""

    ifindex: int
    netdev: str
    program_id: int


def attached(netdevs: Iterable[Netdev]) -> Iterator[Attached]:
    """Yield where programs of ours are. Raises BpfError."""
    for netdev in netdevs:
        there = _open(netdev.xdp)
        if there is not None:
            with there:
                if _is_ours(there):
                    yield Attached(netdev.ifindex, netdev.name, there.info.id)


def attach(rtnl: Rtnl, ifindex: int, program: Program) -> None:
    """Attach ``program``, in one step in the place of ours that may be there.

    Raises KernelError, BpfError; TargetError if someone else's is there.
    """
    netdev = links.at(rtnl, ifindex)
    there = None if netdev is None else _open(netdev.xdp)
    if netdev is None or there is None:
        xdp.replace(rtnl, ifindex, program.fd)
        return
    with there:
        if not _is_ours(there):
            raise TargetError(
                f"the place is taken by XDP program {there.info.name!r} (id {there.info.id}) of"
                f" someone else; to list it run: ip link show dev {netdev.name}"
            )
        xdp.replace(rtnl, ifindex, program.fd, there.fd)


def detach(rtnl: Rtnl, ifindex: int) -> None:
    """Detach what is ours; nothing of ours there, or no such netdev, is success.

    Raises KernelError, BpfError.
    """
    netdev = links.at(rtnl, ifindex)
    there = None if netdev is None else _open(netdev.xdp)
    if there is not None:
        with there:
            if _is_ours(there):
                xdp.detach(rtnl, ifindex, there.fd)


def _open(program_id: int | None) -> Program | None:
    if program_id is None:
        return None
    try:
        return open_program_by_id(program_id)
    except BpfMissingError:  # it was detached meanwhile
        return None


def _is_ours(program: Program) -> bool:
    return program.info.name == XDP_PROGRAM
