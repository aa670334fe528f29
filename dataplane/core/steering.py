"""Which network function has the traffic of a Segment here, and what its ports are. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dataplane.core.functions import FunctionPort, NetworkFunction, Role, WithoutFunction
from dataplane.core.model import Attachment, AttachmentKey, Verdict
from dataplane.core.reasons import Reason
from dataplane.core.state import State


@dataclass(frozen=True, slots=True)
class Steering:
    """What the ports of a Segment are to its functions, as far as they are not PLAIN.

    ``details`` says it for people. ``idle`` are the ports of functions without the traffic: they
    stay apart, for two functions side by side would make a loop. ``problem`` says that none has it.
    """

    roles: Mapping[AttachmentKey, Role] = field(default_factory=dict)
    details: Mapping[AttachmentKey, str] = field(default_factory=dict)
    idle: Mapping[AttachmentKey, Verdict] = field(default_factory=dict)
    problem: str = ""


def steering(state: State, segment: str) -> Steering:
    """Return how the traffic of a Segment is steered: through the oldest function that is there."""
    functions = [each for each in state.functions if each.segment == segment]
    if not functions:
        return Steering()
    here = state.local(segment)
    # Of two of one pod, the old one's and the new one's, the one that may send counts.
    in_order = sorted(here, key=lambda each: each.blocked is None)
    named = {FunctionPort(each.mac, each.identity): each for each in in_order}
    gone = {each: _why_gone(state, each, named) for each in functions}
    chosen = next((each for each, why in gone.items() if not why), None)
    idle = {
        named[port].key: Verdict(Reason.NETWORK_FUNCTION, why or f"{each} waits for {chosen} to go")
        for each, why in gone.items()
        if each != chosen
        for port in each.ports
        if port in named
    }
    if chosen is not None:
        source, sink = named[chosen.input], named[chosen.output]
        steered = f"all but what is behind other VFs is reached through {chosen}"
        roles = {source.key: Role.INPUT, sink.key: Role.OUTPUT}
        details = {source.key: f"input of {chosen}", sink.key: f"output of {chosen}"}
        return _with_vfs(Steering(roles, details, idle), here, steered)
    why = next(iter(gone.values()))
    if state.node.without_function is WithoutFunction.BYPASS:
        return Steering(idle=idle, problem=f"{why}: traffic goes past it, by opi.functions: bypass")
    steered = f"only what is behind other VFs is reached: {why}"
    problem = f"{why}: what is behind VFs is cut off, by opi.functions: block"
    return _with_vfs(Steering(idle=idle, problem=problem), here, steered)


def _with_vfs(found: Steering, here: list[Attachment], detail: str) -> Steering:
    behind = {a.key for a in here if a.netdev and a.key not in found.idle} - found.roles.keys()
    return Steering(
        roles={**found.roles, **dict.fromkeys(behind, Role.STEERED)},
        details={**found.details, **dict.fromkeys(behind, detail)},
        idle=found.idle,
        problem=found.problem,
    )


def _why_gone(
    state: State, function: NetworkFunction, named: Mapping[FunctionPort, Attachment]
) -> str:
    """Return why a function cannot have the traffic; empty: it can."""
    for port in function.ports:
        attachment = named.get(port)
        if attachment is None:
            return f"{function}: {port.identity} is not attached"
        if attachment.blocked is not None or not attachment.connected:
            return f"{function}: {port.identity} is blocked"
        if attachment.access_port not in state.carrying:
            return f"{function}: {attachment.access_port} of {port.identity} is down"
    return ""
