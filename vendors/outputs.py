"""What came out of a switch for a frame, as what agreement and traces are about. Pure.

Nothing here is of a vendor, nor of how the frame got in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataplane.core.agreement import Observed, Question, done, is_same_miss, tunnelled
from dataplane.core.frames import TunnelPacket, parse_tunnel
from dataplane.core.path import Action, Outcome
from dataplane.core.snapshot import SWITCH_TARGET

Came = Mapping[str, Sequence[bytes]]
"""What came out, by port."""


@dataclass(frozen=True, slots=True)
class Wiring:
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


@dataclass(frozen=True, slots=True)
class Out:
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


def out(question: Question, came: Came, wiring: Wiring, how: str) -> Out:
    """Return what ``came`` out means; ``how`` the frame got in is part of the rule."""
    outputs = [(port, frame) for port, frames in came.items() for frame in frames]
    rule = f"{how}, came out at {', '.join(port for port, _ in outputs) or 'no port'}"
    if not outputs:
        return Out(Action.DROP, rule)
    if len(outputs) > 1:
        ports = ", ".join(sorted(wiring.named(port) for port, _ in outputs))
        return Out(Action.FLOOD, rule, ports)
    ((port, frame),) = outputs
    if port == wiring.miss(question):
        same = is_same_miss(question.frame, frame)
        return Out(Action.HAND_OVER, rule, port, question.frame if same else frame)
    packet = parse_tunnel(frame) if port == wiring.uplink else None
    if packet is not None:
        return Out(Action.TUNNEL, rule, question.nic, packet=packet)
    return Out(Action.DELIVER, rule, wiring.named(port), frame)
