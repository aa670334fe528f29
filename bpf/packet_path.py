"""What the fast path would do with a packet: its live program runs on it, on the live maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from bpf.bpffs import Pins
from bpf.layout import (
    Entry,
    LocalEntry,
    OwnFlag,
    RemoteEntry,
    TunnelSocket,
    decode_entry,
    decode_own,
    decode_port,
    encode_entry_key,
    encode_ifindex,
    encode_member,
    encode_socket,
)
from bpf.syscalls import Map, open_map, open_program
from bpf.trial import REDIRECT, SHOT, UNSPEC, Ran, Trial, is_attached, leaves_by, program_of, run
from dataplane.core.agreement import Observed, Question
from dataplane.core.frames import parse_tunnel, probe_frame, probe_inner
from dataplane.core.model import Guard, Vni
from dataplane.core.path import Action, FromPod, Outcome, Probe, Tunnel
from dataplane.core.reasons import Reason
from dataplane.netlink import links
from dataplane.netlink.rtnl import Rtnl

_LOOKED_UP = ("ports", "entries", "own", "members", "glue")


@dataclass(frozen=True, slots=True)
class _Why:
    """What the live maps say of a packet: where it goes, or which map keeps it from going there."""

    entry: Entry | None
    passed: tuple[str, ...]
    owner: str
    reason: Reason | None = None


class FastPacketPath:
    """A PacketPath over what the loader pinned, in the calling thread's netns; any thread may ask.

    The program counts the packet like any other, and nothing leaves.
    """

    name = "fastpath"

    def __init__(self, pins: Pins) -> None:
        self._pins = pins

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        """Return what the programs do with each frame. Raises OverweaveError.

        Where a frame goes is told by what the program counts: other packets that come in
        meanwhile may hide it.
        """
        with ExitStack() as stack, Rtnl() as rtnl:
            trial = Trial(self._pins, stack, rtnl)
            return [trial.observed(question) for question in questions]

    def outcome(self, probe: Probe) -> Outcome:
        """Return what the program on the probe's netdev does. Raises OverweaveError."""
        name, netdev = program_of(probe)
        with ExitStack() as stack, Rtnl() as rtnl:
            program = stack.enter_context(open_program(self._pins.program(name)))
            found = links.find(rtnl, netdev)
            if found is None:
                missing = f"there is no netdev {netdev}"
                return Outcome(Action.UNKNOWN, owner="links", detail=missing)
            if not is_attached(rtnl, found.ifindex, program):
                lost = f"{netdev} has not our filter"
                return Outcome(Action.HOST, owner=f"fastpath: filter of {netdev}", detail=lost)
            maps = {
                each: stack.enter_context(open_map(self._pins.map(each))) for each in _LOOKED_UP
            }
            why = _Reader(maps, probe, found.ifindex).why()
            ran = run(program, probe_frame(probe, found.mac), found.ifindex)
        return _outcome(probe, ran, why)


class _Reader:
    """Asks the maps what the program will find in them."""

    def __init__(self, maps: Mapping[str, Map], probe: Probe, ifindex: int) -> None:
        self._maps = maps
        self._probe = probe
        self._ifindex = ifindex
        self._passed: list[str] = []

    def why(self) -> _Why:
        """Return what they say of the probe."""
        tunnel = self._probe.entry
        why = self._from_pod() if isinstance(tunnel, FromPod) else self._from_wire(tunnel)
        is_left = why.reason not in (None, Reason.UNKNOWN_VTEP)
        if is_left and self._look("glue", encode_ifindex(self._ifindex)) is None:
            return replace(why, owner="fastpath: map glue")
        return why

    def _from_pod(self) -> _Why:
        source = self._probe.source
        found = self._look("ports", encode_ifindex(self._ifindex))
        if found is None:
            return self._left("ports", Reason.PENDING)
        vni, mac, guard, sources = decode_port(found)
        if guard is not Guard.OFF and mac != source.mac:
            return self._left("ports", Reason.GUARD)
        if guard is Guard.IP and source.ip not in sources:
            return self._left("ports", Reason.GUARD)
        entry = self._entry(vni)
        if entry is None or (isinstance(entry, LocalEntry) and entry.ifindex == self._ifindex):
            return self._left("entries" if vni == self._probe.vni else "ports", Reason.NO_ENTRY)
        return self._found(entry, "entries" if vni == self._probe.vni else "ports")

    def _from_wire(self, tunnel: Tunnel) -> _Why:
        own = self._look("own", encode_socket(TunnelSocket(tunnel.target, tunnel.udp_port)))
        if own is None:
            return self._left("own", Reason.UNKNOWN_VTEP)
        if not decode_own(own) & OwnFlag.FAST:
            return self._left("own", Reason.POLICY_OFF)
        member = encode_member(tunnel.vni, tunnel.encap, tunnel.source)
        if self._look("members", member) is None:
            return self._left("members", Reason.UNKNOWN_VTEP)
        entry = self._entry(tunnel.vni)
        if entry is None or isinstance(entry, RemoteEntry):
            return self._left("entries", Reason.NO_ENTRY)
        return self._found(entry, "entries")

    def _entry(self, vni: int) -> Entry | None:
        found = self._look("entries", encode_entry_key(Vni(vni), self._probe.target.mac))
        return None if found is None else decode_entry(found)

    def _look(self, name: str, key: bytes) -> bytes | None:
        self._passed.append(name)
        return self._maps[name].lookup(key)

    def _left(self, name: str, reason: Reason) -> _Why:
        return _Why(None, tuple(self._passed), f"fastpath: map {name}", reason)

    def _found(self, entry: Entry, name: str) -> _Why:
        return _Why(entry, tuple(self._passed), f"fastpath: map {name}")


def _outcome(probe: Probe, ran: Ran, why: _Why) -> Outcome:
    """Say what the program did; what the maps say only explains it."""
    done = _done(probe, ran, why.entry)
    if _explains(why, done):
        return replace(done, reason=why.reason, passed=why.passed, owner=why.owner)
    program, _ = program_of(probe)
    return replace(done, passed=why.passed, owner=f"fastpath: program {program}")


def _done(probe: Probe, ran: Ran, entry: Entry | None) -> Outcome:
    if ran.retval == SHOT:
        return Outcome(Action.DROP)
    if ran.retval == UNSPEC:
        return Outcome(Action.HOST)
    if ran.retval != REDIRECT:
        return Outcome(Action.UNKNOWN, detail=f"the program returned {ran.retval}")
    return _redirected(probe, ran, entry)


def _redirected(probe: Probe, ran: Ran, entry: Entry | None) -> Outcome:
    if len(ran.after) > len(ran.before):
        packet = parse_tunnel(ran.after)
        if packet is None:
            return Outcome(Action.UNKNOWN, detail="the program wrote no sound tunnel packet")
        return Outcome(Action.TUNNEL, packet.tunnel, leaves_by(entry))
    if isinstance(entry, LocalEntry) and ran.after == probe_inner(probe):
        return Outcome(Action.DELIVER, port=leaves_by(entry))
    return Outcome(Action.HAND_OVER)


def _explains(why: _Why, done: Outcome) -> bool:
    """Say whether a right program does this on maps of which this is read."""
    match why.entry:
        case RemoteEntry():
            return done.action is Action.TUNNEL
        case LocalEntry():
            return done.action is Action.DELIVER
    return done.action in {Action.HAND_OVER, Action.DROP, Action.HOST}
