"""The live programs run on frames of any kind: what they do is read from bytes and counters."""

from __future__ import annotations

import errno
import socket
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from bpf.bpffs import Pins
from bpf.layout import (
    Entry,
    LocalEntry,
    decode_count,
    decode_entry,
    decode_port,
    encode_counter_key,
    encode_entry_key,
    encode_ifindex,
    traffic_of,
)
from bpf.syscalls import BpfError, Program, open_map, open_program
from dataplane.core.agreement import Field, Observed, Question, done, tunnelled
from dataplane.core.errors import InvalidValueError
from dataplane.core.frames import parse_tunnel
from dataplane.core.model import EntryKey, Mac, Vni
from dataplane.core.path import Action, FromPod, Probe
from dataplane.core.reasons import PACKET_REASONS, Reason
from dataplane.netlink import links
from dataplane.netlink.rtnl import Rtnl
from dataplane.netlink.tc import Slot, list_bpf

UNSPEC, SHOT, REDIRECT = -1, 2, 7  # linux/pkt_cls.h
_CONTEXT_BYTES = 192  # struct __sk_buff (linux/bpf.h), and where its ifindex is
_IFINDEX_AT = 40
_ACCESS_PORT, _UNDERLAY = "access_port", "underlay"
_TRIES = 5

_Counted = Reason | Literal["entry"]
"""What a program counts a packet by: the entry that forwards it, or why none does."""


@dataclass(frozen=True, slots=True)
class Ran:
    """What a program made of a frame."""

    retval: int
    before: bytes
    after: bytes


def program_of(asked: Probe | Question) -> tuple[str, str]:
    """Return which program sees the packet first, and on which netdev."""
    if isinstance(asked.entry, FromPod):
        return _ACCESS_PORT, asked.entry.access_port
    return _UNDERLAY, asked.nic


def is_attached(rtnl: Rtnl, ifindex: int, program: Program) -> bool:
    """Say whether a netdev has the program where we put it."""
    slot, number = Slot(ifindex), program.info.id
    return any((each.slot, each.program_id) == (slot, number) for each in list_bpf(rtnl, ifindex))


def run(program: Program, frame: bytes, ifindex: int) -> Ran:
    """Run it on a frame that a netdev receives. Raises BpfError."""
    context = bytearray(_CONTEXT_BYTES)
    struct.pack_into("=I", context, _IFINDEX_AT, ifindex)
    result = program.test_run(frame, context=bytes(context))
    return Ran(result.retval, frame, result.data)


def leaves_by(entry: Entry | None) -> str:
    """Return the netdev that an entry sends to."""
    if entry is None:
        return ""
    try:
        return socket.if_indextoname(entry.ifindex)
    except OSError:
        return f"netdev {entry.ifindex}, which is gone"


class Trial:
    """The programs and maps of ``pins``, open as long as ``stack`` is."""

    def __init__(self, pins: Pins, stack: ExitStack, rtnl: Rtnl) -> None:
        """Open them. Raises BpfError."""
        self._programs = {
            name: stack.enter_context(open_program(pins.program(name)))
            for name in (_ACCESS_PORT, _UNDERLAY)
        }
        self._ports, self._entries, self._counters = (
            stack.enter_context(open_map(pins.map(name)))
            for name in ("ports", "entries", "counters")
        )
        self._rtnl = rtnl
        self._ifindexes: dict[str, int | None] = {}

    def observed(self, question: Question) -> Observed:
        """Return what the program on the netdev does with a frame. Raises OverweaveError."""
        name, netdev = program_of(question)
        if netdev not in self._ifindexes:
            self._ifindexes[netdev] = self._find(name, netdev)
        ifindex = self._ifindexes[netdev]
        if ifindex is None:
            return Observed(done(Action.HOST), f"{netdev} has not our filter")
        try:
            return self._tried(question, name, ifindex)
        except BpfError as error:
            if error.errno != errno.EINVAL:
                raise
            return Observed({}, why="the kernel runs no program on so short a frame")

    def _find(self, program: str, netdev: str) -> int | None:
        """Return the ifindex of ``netdev`` if the program is attached to it."""
        found = links.find(self._rtnl, netdev)
        if found is None or not is_attached(self._rtnl, found.ifindex, self._programs[program]):
            return None
        return found.ifindex

    def _tried(self, question: Question, program: str, ifindex: int) -> Observed:
        """Run it until nothing else was counted meanwhile."""
        key = self._key(question, ifindex)
        for _ in range(_TRIES):
            before = self._count(ifindex, key)
            ran = run(self._programs[program], question.frame, ifindex)
            after = self._count(ifindex, key)
            moved = [each for each, packets in after.items() if packets != before[each]]
            if sum(after.values()) - sum(before.values()) <= 1:
                return self._told(question, ran, moved[0] if moved else None, key)
        return Observed({}, why="other packets were counted at the same time")

    def _key(self, question: Question, ifindex: int) -> EntryKey | None:
        """Return which entry the program will look up, None: none."""
        packet = parse_tunnel(question.frame) if question.entry is None else None
        port = self._ports.lookup(encode_ifindex(ifindex)) if question.entry else None
        try:
            if packet is not None:
                return EntryKey(packet.tunnel.vni, _target(packet.inner))
            if port is not None:
                return EntryKey(Vni(decode_port(port)[0]), _target(question.frame))
        except InvalidValueError:  # a group has no entry
            return None
        return None

    def _count(self, ifindex: int, key: EntryKey | None) -> dict[_Counted, int]:
        found: dict[_Counted, int] = {}
        for reason in PACKET_REASONS:
            value = self._counters.lookup(encode_counter_key(ifindex, reason))
            found[reason] = decode_count(value) if value else 0
        entry = self._entries.lookup(encode_entry_key(*key)) if key else None
        found["entry"] = traffic_of(entry).packets if entry else 0
        return found

    def _told(
        self, question: Question, ran: Ran, counted: _Counted | None, key: EntryKey | None
    ) -> Observed:
        program, netdev = program_of(question)
        rule = f"program {program}: {counted or 'counts nothing'}"
        match ran.retval:
            case int(retval) if retval == SHOT:
                return Observed(done(Action.DROP), rule)
            case int(retval) if retval == UNSPEC:
                return Observed(done(Action.HOST), rule)
            case int(retval) if retval != REDIRECT:
                return Observed({}, rule, f"the program returned {retval}")
        if counted == "entry" and key is not None:
            return self._forwarded(ran, key)
        if counted is Reason.ANSWERED:
            return Observed(done(Action.DELIVER, netdev, ran.after), rule)
        return Observed(done(Action.HAND_OVER, inner=ran.after), rule)

    def _forwarded(self, ran: Ran, key: EntryKey) -> Observed:
        value = self._entries.lookup(encode_entry_key(*key))
        if value is None:
            return Observed({}, why="the entry was withdrawn meanwhile")
        entry = decode_entry(value)
        output = leaves_by(entry)
        if isinstance(entry, LocalEntry):
            rule = f"map entries: {key.mac} of {key.vni} is {output}"
            return Observed(done(Action.DELIVER, output, ran.after), rule)
        rule = f"map entries: {key.mac} of {key.vni} is behind {entry.remote}"
        packet = parse_tunnel(ran.after)
        if packet is not None:
            return Observed(tunnelled(output, packet), rule)
        return Observed({**done(Action.TUNNEL, output), Field.INNER: ran.after}, rule)


def _target(frame: bytes) -> Mac:
    """Return where a frame goes. Raises InvalidValueError for a group."""
    return Mac(frame[:6].hex(":"))
