"""eBPF programs on a netdev's tc ingress hook (linux/pkt_sched.h, linux/pkt_cls.h); never tcx.

Others may filter on the same hook: what is theirs is listed, and touched by nothing here that does
not name its preference and handle.
"""

from __future__ import annotations

import errno
import sys
from dataclasses import dataclass

from pyroute2.netlink import nlmsg
from pyroute2.netlink.rtnl import RTM_GETTFILTER
from pyroute2.netlink.rtnl.tcmsg import tcmsg
from pyroute2.netlink.rtnl.tcmsg.sched_bpf import TCA_BPF_FLAG_ACT_DIRECT

from dataplane.netlink.messages import attributes, nested, text
from dataplane.netlink.rtnl import KernelError, Rtnl

PREFERENCE = 100  # of our filters; hardware offload takes 1 to 99 on the same hook
HANDLE = 1
OWNER = "overweave:"  # begins the name of each filter of ours, whichever version attached it

INGRESS = 0xFFFFFFF2  # TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)

_BPF_NAME, _BPF_FLAGS, _BPF_ID = 7, 8, 11  # linux/pkt_cls.h: TCA_BPF_...


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
    try:
        with rtnl.doing(f"add clsact to netdev {ifindex}") as ip:
            ip.tc("add", "clsact", ifindex)
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise


def replace_bpf(rtnl: Rtnl, slot: Slot, program_fd: int, name: str) -> None:
    """Attach the program in direct-action mode, exchanging in one step what sits in the slot.

    The filter keeps the program alive after ``program_fd`` is closed. Raises KernelError.
    """
    program = {"fd": program_fd, "name": name, "direct_action": True}
    with rtnl.doing(f"attach bpf program {name} to {slot}") as ip:
        ip.tc("replace-filter", "bpf", **_words(slot), **program)


def delete_bpf(rtnl: Rtnl, slot: Slot) -> None:
    """Detach what sits in the slot; nothing there, or no such netdev, is success.

    Raises KernelError.
    """
    try:
        with rtnl.doing(f"detach the bpf filter of {slot}") as ip:
            ip.tc("del-filter", "bpf", **_words(slot))
    except KernelError:
        # The kernel has many numbers for "nothing there" (no netdev, no clsact, no filter).
        if any(found.slot == slot for found in list_bpf(rtnl, slot.ifindex)):
            raise


def list_bpf(rtnl: Rtnl, ifindex: int) -> tuple[BpfFilter, ...]:
    """Return the bpf filters of a netdev at every preference, others' too; no netdev: none.

    Raises KernelError.
    """
    question = tcmsg()
    question.update(index=ifindex, parent=INGRESS)
    replies = rtnl.dump(RTM_GETTFILTER, question, f"list filters of netdev {ifindex}")
    filters = (_bpf_filter(reply, ifindex) for reply in replies)
    return tuple(found for found in filters if found is not None)


def _words(slot: Slot) -> dict[str, int]:
    return {
        "index": slot.ifindex,
        "handle": slot.handle,
        "parent": INGRESS,
        "prio": slot.preference,
    }


def _bpf_filter(message: nlmsg, ifindex: int) -> BpfFilter | None:
    found = attributes(message)
    if text(found["TCA_KIND"]) != "bpf" or "TCA_OPTIONS" not in found:
        return None  # another classifier, or the head that every preference is listed with
    options = found["TCA_OPTIONS"]
    return BpfFilter(
        slot=Slot(ifindex, message["info"] >> 16, message["handle"]),
        program_id=int.from_bytes(nested(options, _BPF_ID), sys.byteorder),
        name=text(nested(options, _BPF_NAME)),
        direct_action=bool(
            int.from_bytes(nested(options, _BPF_FLAGS), sys.byteorder) & TCA_BPF_FLAG_ACT_DIRECT
        ),
    )
