"""What an emulated switch does with a frame: it is let in at a port, and all of it is caught.

Nothing here is of a vendor: the switch itself says which port is what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dataplane.core.agreement import Observed, Question, done, is_same_miss, tunnelled
from dataplane.core.errors import OverweaveError
from dataplane.core.frames import TunnelPacket, parse_tunnel, probe_frame
from dataplane.core.path import Action, FromPod, Outcome, Probe
from dataplane.core.snapshot import SWITCH_TARGET
from dataplane.netlink import links
from dataplane.netlink.rtnl import Rtnl
from vendors.emulator.control import Injection, inject, new_mark, tell

_AT_ONCE = 32  # frames in the switch at a time
Came = Mapping[str, Sequence[bytes]]
"""What came out, by port."""


@dataclass(frozen=True, slots=True)
class _Wiring:
    """Which port is what; ``vfs`` and ``misses`` are the ports by the name of the representor."""

    uplink: str
    cpu: str
    vfs: Mapping[str, str]
    misses: Mapping[str, str]

    def entry(self, question: Question) -> str | None:
        """Return the port a frame comes in at; None: the switch does not see it."""
        if question.entry is None:
            return self.uplink
        return self.vfs.get(question.entry.access_port)

    def miss(self, question: Question) -> str:
        """Return where a frame comes out that the switch has no entry for."""
        return self.cpu if question.entry is None else self.misses[question.entry.access_port]

    def named(self, port: str) -> str:
        """Return what the DPU calls what is behind a port."""
        return next((netdev for netdev, vf in self.vfs.items() if vf == port), f"port {port}")


class InjectedPath:
    """A PacketPath of the emulated switch whose control socket is ``control``; any thread may ask.

    The switch counts a frame like any other, and nothing of it leaves.
    """

    name = SWITCH_TARGET

    def __init__(self, control: Path) -> None:
        self._control = control

    def outcome(self, probe: Probe) -> Outcome:
        """Return what the switch does with a probe. Raises OverweaveError."""
        mark = new_mark()
        entry = probe.entry if isinstance(probe.entry, FromPod) else None
        frame = probe_frame(probe, _mac(probe.nic), mark)
        (out,) = self._ask([Question("probe", frame, mark, entry, probe.nic)])
        return out.outcome

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        """Return what the switch does with each frame. Raises OverweaveError."""
        return [out.observed for out in self._ask(questions)]

    def _ask(self, questions: Sequence[Question]) -> list[_Out]:
        wiring = _Wiring(**tell(self._control, "ports"))
        found = dict.fromkeys(range(len(questions)), _Out(Action.NONE, "not behind this switch"))
        asked = [(n, each) for n, each in enumerate(questions) if wiring.entry(each) is not None]
        for start in range(0, len(asked), _AT_ONCE):
            batch = asked[start : start + _AT_ONCE]
            wanted = [
                Injection(wiring.entry(each) or "", each.frame, each.mark) for _, each in batch
            ]
            came = inject(self._control, wanted)
            for (number, question), answer in zip(batch, came, strict=True):
                found[number] = _out(question, answer, wiring)
        return list(found.values())


def _mac(nic: str) -> str:
    with Rtnl() as rtnl:
        found = links.find(rtnl, nic)
    if found is None:
        raise OverweaveError(f"there is no netdev {nic}")
    return found.mac


@dataclass(frozen=True, slots=True)
class _Out:
    """What came out for a frame: one ``port`` with its ``frame``, or what stands in ``action``."""

    action: Action
    rule: str
    port: str = ""
    frame: bytes | None = None
    packet: TunnelPacket | None = None

    @property
    def observed(self) -> Observed:
        """Return it as what agreement is about."""
        if self.packet is not None:
            return Observed(tunnelled(self.port, self.packet), self.rule)
        return Observed(done(self.action, self.port, self.frame), self.rule)

    @property
    def outcome(self) -> Outcome:
        """Return it as what a trace is about."""
        tunnel = self.packet.tunnel if self.packet else None
        port = self.port if self.action in (Action.TUNNEL, Action.DELIVER) else ""
        return Outcome(self.action, tunnel, port, owner=SWITCH_TARGET)


def _out(question: Question, came: Came, wiring: _Wiring) -> _Out:
    outputs = [(port, frame) for port, frames in came.items() for frame in frames]
    rule = f"injected at {wiring.entry(question)}, came out at "
    rule += ", ".join(port for port, _ in outputs) or "no port"
    if not outputs:
        return _Out(Action.DROP, rule)
    if len(outputs) > 1:
        ports = ", ".join(sorted(wiring.named(port) for port, _ in outputs))
        return _Out(Action.FLOOD, rule, ports)
    ((port, frame),) = outputs
    if port == wiring.miss(question):
        same = is_same_miss(question.frame, frame)
        return _Out(Action.HAND_OVER, rule, port, question.frame if same else frame)
    packet = parse_tunnel(frame) if port == wiring.uplink else None
    if packet is not None:
        return _Out(Action.TUNNEL, rule, question.nic, packet=packet)
    return _Out(Action.DELIVER, rule, wiring.named(port), frame)
