"""eBPF programs on a netdev's tc ingress hook (linux/pkt_sched.h, linux/pkt_cls.h); never tcx.

Others may filter on the same hook: what is theirs is listed, and touched by nothing here that does
not name its preference and handle.
"""

from __future__ import annotations

import errno
import socket
import struct
from dataclasses import dataclass

from dataplane.netlink.rtnl import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    KernelError,
    Message,
    Rtnl,
    nested,
    parse_attributes,
    read_text,
    read_u32,
    text,
    u32,
)

PREFERENCE = 100  # of our filters; hardware offload takes 1 to 99 on the same hook
HANDLE = 1

_RTM_NEWQDISC = 36
_RTM_NEWTFILTER = 44
_RTM_DELTFILTER = 45
_RTM_GETTFILTER = 46
_TC_H_CLSACT = 0xFFFFFFF1
_TC_H_INGRESS = 0xFFFFFFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
_CLSACT_HANDLE = 0xFFFF0000
_ETH_P_ALL = 0x0003
_TCA_KIND = 1
_TCA_OPTIONS = 2
_TCA_BPF_FD = 6
_TCA_BPF_NAME = 7
_TCA_BPF_FLAGS = 8
_TCA_BPF_ID = 11
_TCA_BPF_FLAG_ACT_DIRECT = 1

_TCMSG = struct.Struct("=BxxxiIII")  # family, ifindex, handle, parent, info


@dataclass(frozen=True, slots=True)
class Slot:
    """One place for one filter: netdev by ``ifindex``, preference and handle."""

    ifindex: int
    preference: int = PREFERENCE
    handle: int = HANDLE

    def __str__(self) -> str:
        """Name the place in an error."""
        return f"netdev {self.ifindex} ingress pref {self.preference} handle {self.handle}"


@dataclass(frozen=True, slots=True)
class BpfFilter:
    """A bpf filter that is attached: the kernel's program id, and the name given when attaching."""

    slot: Slot
    program_id: int
    name: str
    direct_action: bool


def ensure_clsact(rtnl: Rtnl, ifindex: int) -> None:
    """Give the netdev its clsact hooks; what is there already is kept, whoever made it.

    So is the older "ingress" qdisc in that place: it serves the ingress hook as well. Raises
    KernelError.
    """
    body = _TCMSG.pack(socket.AF_UNSPEC, ifindex, _CLSACT_HANDLE, _TC_H_CLSACT, 0)
    message = Message(_RTM_NEWQDISC, body + text(_TCA_KIND, "clsact"), NLM_F_CREATE | NLM_F_EXCL)
    try:
        rtnl.change(message, f"add clsact to netdev {ifindex}")
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise


def replace_bpf(rtnl: Rtnl, slot: Slot, program_fd: int, name: str) -> None:
    """Attach the program in direct-action mode, exchanging in one step what sits in the slot.

    The filter keeps the program alive after ``program_fd`` is closed. Raises KernelError.
    """
    options = nested(
        _TCA_OPTIONS,
        u32(_TCA_BPF_FD, program_fd),
        text(_TCA_BPF_NAME, name),
        u32(_TCA_BPF_FLAGS, _TCA_BPF_FLAG_ACT_DIRECT),
    )
    body = _slot_body(slot) + text(_TCA_KIND, "bpf") + options
    message = Message(_RTM_NEWTFILTER, body, NLM_F_CREATE)
    rtnl.change(message, f"attach bpf program {name} to {slot}")


def delete_bpf(rtnl: Rtnl, slot: Slot) -> None:
    """Detach what sits in the slot; nothing there, or no such netdev, is success.

    Raises KernelError.
    """
    message = Message(_RTM_DELTFILTER, _slot_body(slot) + text(_TCA_KIND, "bpf"))
    try:
        rtnl.change(message, f"detach the bpf filter of {slot}")
    except KernelError:
        # The kernel has many numbers for "nothing there" (no netdev, no clsact, no filter).
        if any(found.slot == slot for found in list_bpf(rtnl, slot.ifindex)):
            raise


def list_bpf(rtnl: Rtnl, ifindex: int) -> tuple[BpfFilter, ...]:
    """Return the bpf filters of a netdev at every preference, others' too; no netdev: none.

    Raises KernelError.
    """
    body = _TCMSG.pack(socket.AF_UNSPEC, ifindex, 0, _TC_H_INGRESS, 0)
    replies = rtnl.dump(Message(_RTM_GETTFILTER, body), f"list filters of netdev {ifindex}")
    filters = (_bpf_filter(reply, ifindex) for reply in replies)
    return tuple(found for found in filters if found is not None)


def _slot_body(slot: Slot) -> bytes:
    info = slot.preference << 16 | socket.htons(_ETH_P_ALL)
    return _TCMSG.pack(socket.AF_UNSPEC, slot.ifindex, slot.handle, _TC_H_INGRESS, info)


def _bpf_filter(message: Message, ifindex: int) -> BpfFilter | None:
    _family, _ifindex, handle, _parent, info = _TCMSG.unpack_from(message.body)
    attributes = parse_attributes(message.body, _TCMSG.size)
    options = parse_attributes(attributes.get(_TCA_OPTIONS, b""))
    if read_text(attributes[_TCA_KIND]) != "bpf" or _TCA_BPF_ID not in options:
        return None  # another classifier, or the head that every preference is listed with
    flags = read_u32(options.get(_TCA_BPF_FLAGS, bytes(4)))
    return BpfFilter(
        slot=Slot(ifindex, info >> 16, handle),
        program_id=read_u32(options[_TCA_BPF_ID]),
        name=read_text(options.get(_TCA_BPF_NAME, b"")),
        direct_action=bool(flags & _TCA_BPF_FLAG_ACT_DIRECT),
    )
