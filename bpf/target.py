"""The "fastpath" Target: our tc filters and XDP program, and what is in the maps that they ask."""

from __future__ import annotations

import contextlib
import errno
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TypeGuard, TypeVar

from bpf import xdp
from bpf.bpffs import Pins
from bpf.entries import EntryItem, fast_entries, held_scopes, own_nic, own_sockets
from bpf.layout import (
    MAPS,
    PROGRAMS,
    XDP_PROGRAM,
    decode_ifindex,
    encode_counter_key,
    encode_ifindex,
    is_remote_entry,
    unused,
)
from bpf.syscalls import BpfFullError, BpfMissingError, open_map, open_program
from dataplane.core.desired import Bindings, Datapath, Desired
from dataplane.core.diff import Change, Item, Pending, Rendering
from dataplane.core.errors import OverweaveError, PartlyRefusedError, TargetError
from dataplane.core.placement import FullMap
from dataplane.core.reasons import PACKET_REASONS, Reason
from dataplane.core.xdp import XdpPlace, why_no_xdp
from dataplane.netlink import links, u32
from dataplane.netlink.rtnl import KernelError, Rtnl
from dataplane.netlink.tc import (
    OWNER,
    BpfFilter,
    Slot,
    delete_bpf,
    ensure_clsact,
    list_bpf,
    replace_bpf,
)

OPHY = "ophy0"
COUNTERS = "counters"  # filled by the programs
RENDERED_MAPS = tuple(spec for spec in MAPS if spec.name != COUNTERS)
# What does not fit into these, Open vSwitch does. Without the others it would get nothing.
_OPTIONAL = frozenset({"ports", "neighbours", "entries"})
_SENDER = "access_port"  # the program that takes what a pod sends
_REDIRECTS = "redirects of an agent without eBPF"
_DRIVERS_NO = frozenset({errno.EOPNOTSUPP, errno.ERANGE, errno.EINVAL})  # to XDP, or to the MTU


@dataclass(frozen=True, slots=True)
class FilterItem:
    """A program on the ingress hook of a netdev; ``netdev`` is its name, for messages only."""

    ifindex: int
    program: str
    netdev: str = field(compare=False)
    scope: int | None = None

    @property
    def key(self) -> Hashable:
        """Return which filter this is."""
        return ("filter", self.ifindex)

    def __str__(self) -> str:
        """Name the netdev in an error."""
        return f"{self.program} on {self.netdev}"


@dataclass(frozen=True, slots=True)
class XdpItem:
    """The program in the driver of a netdev; ``netdev`` is its name, for messages only.

    ``mtu`` is what the driver's answer may depend on.
    """

    ifindex: int
    program: str
    netdev: str = field(compare=False)
    mtu: int = field(default=0, compare=False)
    scope: int | None = None

    @property
    def key(self) -> Hashable:
        """Return which place this is."""
        return ("xdp", self.ifindex)

    def __str__(self) -> str:
        """Name the netdev in an error."""
        return f"{self.program} in the driver of {self.netdev}"


_Hook = FilterItem | XdpItem
_Item = _Hook | EntryItem
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Joint:
    """Two netdevs, each with the program that passes on what it receives.

    One alone leaves to the host what it does not take.
    """

    about: Hashable
    ends: tuple[tuple[str, str], ...]  # (netdev, program), twice or once


class FastpathTarget:
    """What eBPF does by itself, and what it hands to whom, in the calling thread's netns.

    vpN is joined with otN, and the underlay NIC with ophy0, whatever is known beyond that. With the
    kernel's datapath the NIC leaves what it does not take to the kernel's own tunnel sockets.
    """

    name = "fastpath"
    deadline_s = 5.0
    bound_by = frozenset({"ifindexes", "nic"})

    def __init__(self, pins: Pins) -> None:
        """Open what the loader pinned. Raises BpfError."""
        with contextlib.ExitStack() as opened:
            self._maps = {
                spec.name: opened.enter_context(open_map(pins.map(spec.name)))
                for spec in RENDERED_MAPS
            }
            self._counters = opened.enter_context(open_map(pins.map(COUNTERS)))
            self._programs = {
                name: opened.enter_context(open_program(pins.program(name))) for name in PROGRAMS
            }
            self._names = {program.info.id: name for name, program in self._programs.items()}
            self._opened = opened.pop_all()
        self._without_xdp: dict[tuple[int, int], str] = {}  # a driver's no, by ifindex and MTU

    def close(self) -> None:
        """Release the descriptors; filters and maps stay as they are."""
        self._opened.close()

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        """Return filters and entries of the netdevs that exist; half a joint is pending, too."""
        items: list[_Item] = [*fast_entries(desired, bindings), *own_sockets(desired)]
        pending = []
        nic = bindings.nic
        if nic is not None and not why_no_xdp(desired.node, nic):
            items.append(own_nic(nic))
            refusal = self._without_xdp.get((nic.ifindex, nic.mtu))
            if refusal is not None:
                pending.append(Pending(XdpPlace(nic.name), refusal))
            else:
                items.append(XdpItem(nic.ifindex, XDP_PROGRAM, nic.name, nic.mtu))
        for joint in _joints(desired):
            ifindexes = [bindings.ifindexes.get(netdev) for netdev, _ in joint.ends]
            items += _joined(joint, ifindexes)
            if None in ifindexes:
                pending.append(Pending(joint.about, _waiting_for(joint, ifindexes)))
        return Rendering({item.key: item for item in items}, tuple(pending), held_scopes(desired))

    def observe(self) -> Mapping[Hashable, Item]:
        """Return our filters on all netdevs and all entries. Raises TargetError."""
        try:
            found: list[_Item] = [*self._hooks(), *self._entries()]
        except OverweaveError as error:
            raise TargetError(f"filters or maps cannot be read: {error}") from error
        return {item.key: item for item in found}

    def apply(self, change: Change) -> None:
        """Make every change that can be made, then raise TargetError with all that could not.

        Raises PartlyRefusedError if nothing is wrong but that it goes slower: Open vSwitch must do
        what is not in a full map, the tc program what the driver does not.
        """
        faults = []
        left: Counter[str] = Counter()
        refused: dict[Hashable, str] = {}
        with Rtnl() as rtnl:
            for item, step in self._steps(rtnl, change):
                try:
                    step()
                except OverweaveError as error:
                    if _stays_on_ovs(item, error):
                        left[item.map_name] += 1
                    elif isinstance(item, XdpItem):
                        refused[XdpPlace(item.netdev)] = self._refused(item, error)
                    else:
                        faults.append(f"{item}: {error}")
        if faults:
            raise TargetError("; ".join(faults))
        refused |= _table_full(left)
        if refused:
            raise _partly_refused(refused)

    def _hooks(self) -> Iterator[_Hook]:
        with Rtnl() as rtnl:
            netdevs = links.every(rtnl)
            for netdev in netdevs:
                ours = _our_filter(rtnl, netdev.ifindex)
                if u32.listing(rtnl, netdev.ifindex).ours:
                    yield FilterItem(netdev.ifindex, _REDIRECTS, netdev.name)
                elif ours is not None:
                    name = self._name_of(ours.program_id)
                    yield FilterItem(netdev.ifindex, name, netdev.name)
            for found in xdp.attached(netdevs):
                yield XdpItem(found.ifindex, self._name_of(found.program_id), found.netdev)

    def _name_of(self, program_id: int) -> str:
        return self._names.get(program_id, f"program {program_id} of another version")

    def _entries(self) -> Iterator[EntryItem]:
        for name, bpf_map in self._maps.items():
            for key, value in bpf_map.items():
                yield EntryItem(name, key, unused(value) if name == "entries" else value)

    def _steps(self, rtnl: Rtnl, change: Change) -> Iterator[tuple[_Item, Callable[[], None]]]:
        """Yield single changes in an order that no packet falls through.

        A program finds its entries when it is attached, and until it is detached. Who may send
        before anything is sent to it: a pod whose first question is lost asks again after a second.
        What goes makes room for what comes.
        """
        wanted = [*change.add.values(), *change.update.values()]
        old_hooks, old_entries = _apart(change.remove.values())
        hooks, entries = _apart(wanted)
        others, senders = _parted(hooks, lambda item: item.program == _SENDER)
        netdevs = {encode_ifindex(item.ifindex) for item in senders}
        first, late = _parted(entries, lambda entry: _leads_to(entry, netdevs))
        for item in old_hooks:
            yield item, partial(self._detach, rtnl, item)
        for entry in old_entries:
            yield entry, partial(self._unset, entry)
        for entry in first:
            yield entry, partial(self._set, entry)
        for item in senders:
            yield item, partial(self._attach, rtnl, item)
        for entry in late:
            yield entry, partial(self._set, entry)
        for item in others:
            yield item, partial(self._attach, rtnl, item)

    def _detach(self, rtnl: Rtnl, item: _Hook) -> None:
        if isinstance(item, XdpItem):
            xdp.detach(rtnl, item.ifindex)
        else:
            if _our_filter(rtnl, item.ifindex) is not None:
                delete_bpf(rtnl, Slot(item.ifindex))
            u32.delete(rtnl, u32.listing(rtnl, item.ifindex).ours)

    def _attach(self, rtnl: Rtnl, item: _Hook) -> None:
        if isinstance(item, XdpItem):
            xdp.attach(rtnl, item.ifindex, self._programs[item.program])
            return
        ensure_clsact(rtnl, item.ifindex)
        slot = Slot(item.ifindex)
        foreign = _in_slot(rtnl, slot)
        if foreign is not None and not _is_ours(foreign):
            raise TargetError(
                f"the place is taken by filter {foreign.name!r} of someone else; to list it run:"
                f" tc filter show dev {item.netdev} ingress"
            )
        replace_bpf(rtnl, slot, self._programs[item.program].fd, f"{OWNER}{item.program}")
        u32.delete(rtnl, u32.listing(rtnl, item.ifindex).ours)

    def _refused(self, item: XdpItem, error: OverweaveError) -> str:
        """Return why; a driver that cannot is not asked again before its MTU is another one."""
        if isinstance(error, KernelError) and error.errno in _DRIVERS_NO:
            self._without_xdp[item.ifindex, item.mtu] = str(error)
        return str(error)

    def _set(self, item: EntryItem) -> None:
        self._maps[item.map_name].update(item.map_key, item.value)

    def _unset(self, item: EntryItem) -> None:
        with contextlib.suppress(BpfMissingError):
            self._maps[item.map_name].delete(item.map_key)
        if item.map_name == "ports":
            self._forget_counts(decode_ifindex(item.map_key))

    def _forget_counts(self, ifindex: int) -> None:
        for reason in PACKET_REASONS:
            with contextlib.suppress(BpfMissingError):
                self._counters.delete(encode_counter_key(ifindex, reason))


def _joints(desired: Desired) -> Iterator[_Joint]:
    nic = desired.node.underlay_interface
    is_userspace = desired.node.datapath is Datapath.USERSPACE
    yield _Joint(nic, ((nic, "underlay"), *(((OPHY, "ophy"),) if is_userspace else ())))
    # A blocked port is joined too: it is Open vSwitch that says who may send.
    for port in desired.ports:
        attachment = port.attachment
        access, inner = attachment.access_port, attachment.ovs_port
        yield _Joint(attachment.key, ((access, _SENDER), (inner, "ovs_port")))


def _joined(joint: _Joint, ifindexes: list[int | None]) -> Iterator[FilterItem | EntryItem]:
    """Yield what there is of a joint: the fast path needs no Open vSwitch at the other end."""
    others = ifindexes[::-1] if len(ifindexes) > 1 else [None]
    for (netdev, program), ifindex, other in zip(joint.ends, ifindexes, others, strict=True):
        if ifindex is not None:
            yield FilterItem(ifindex, program, netdev)
        if ifindex is not None and other is not None:
            yield EntryItem("glue", encode_ifindex(ifindex), encode_ifindex(other))


def _waiting_for(joint: _Joint, ifindexes: Iterable[int | None]) -> str:
    ends = zip(joint.ends, ifindexes, strict=True)
    missing = [netdev for (netdev, _), ifindex in ends if ifindex is None]
    return f"there is no netdev {' or '.join(missing)} yet"


def _stays_on_ovs(item: _Item, error: OverweaveError) -> TypeGuard[EntryItem]:
    return (
        isinstance(error, BpfFullError)
        and isinstance(item, EntryItem)
        and item.map_name in _OPTIONAL
    )


def _table_full(left: Mapping[str, int]) -> dict[Hashable, str]:
    return {
        FullMap(name): f"{Reason.TABLE_FULL}, {count} of its entries stay on Open vSwitch"
        for name, count in left.items()
    }


def _partly_refused(refused: Mapping[Hashable, str]) -> PartlyRefusedError:
    message = "; ".join(f"{about}: {why}" for about, why in refused.items())
    return PartlyRefusedError(message, refused, standing=True)


def _apart(
    items: Iterable[_Item],
) -> tuple[list[_Hook], list[EntryItem]]:
    hooks: list[_Hook] = []
    entries: list[EntryItem] = []
    for item in items:
        if isinstance(item, EntryItem):
            entries.append(item)
        else:
            hooks.append(item)
    return hooks, entries


def _parted(items: Iterable[_T], is_second: Callable[[_T], bool]) -> tuple[list[_T], list[_T]]:
    parts: tuple[list[_T], list[_T]] = ([], [])
    for item in items:
        parts[is_second(item)].append(item)
    return parts


def _leads_to(entry: EntryItem, netdevs: Collection[bytes]) -> bool:
    """Say whether packets come to pods by ``entry``: any, or out of Open vSwitch to ``netdevs``."""
    if entry.map_name == "entries":
        return not is_remote_entry(entry.value)
    return entry.map_name == "glue" and entry.value in netdevs


def _our_filter(rtnl: Rtnl, ifindex: int) -> BpfFilter | None:
    found = _in_slot(rtnl, Slot(ifindex))
    return found if found is not None and _is_ours(found) else None


def _in_slot(rtnl: Rtnl, slot: Slot) -> BpfFilter | None:
    return next((found for found in list_bpf(rtnl, slot.ifindex) if found.slot == slot), None)


def _is_ours(found: BpfFilter) -> bool:
    return found.name.startswith(OWNER)
