"""Which rules have the traffic of a Segment pass a network function (core/functions). Pure.

reg10 is the VNI in a frame from within (a VF, a function's input), 0 in one from outside.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dataplane.core.functions import Role
from dataplane.core.model import Mac
from overlay_ovs.tables import (
    ARP_ND,
    FLOOD,
    FLOOD_LOCAL,
    FORWARDING,
    GUARD,
    OUTPUT,
    STEERING,
    Rule,
    Rules,
)

_ON = f"goto_table:{OUTPUT.number}"
_STEER = f"goto_table:{STEERING.number}"


@dataclass(frozen=True, slots=True)
class Sides:
    """The OpenFlow ports of a Segment by what they are to its function, and its gateway's MAC.

    One whose number is not known is missing: what would go there is dropped.
    """

    vni: int
    ports: Mapping[int, Role]
    gateway: Mac | None

    @property
    def within(self) -> list[int]:
        """Return the ports on the side of the VFs."""
        return sorted(port for port, role in self.ports.items() if role.is_within)

    def of(self, wanted: Role) -> int | None:
        """Return the port of the function that is its input or its output."""
        return next((port for port, role in self.ports.items() if role is wanted), None)


def entering(vni: int, role: Role) -> str:
    """Return the actions that note the side of a frame; none for one from outside."""
    return f"set_field:{vni:#x}->reg10," if role.is_within else ""


def function_guard(sender: tuple[int, str], gateway: Mac | None) -> Rules:
    """Return that a function may send what matches ``sender``: priority and match.

    By its input it reaches only those whose traffic it has in its hands anyway. By its output it
    may send as itself, and as who is behind it: their addresses were looked at before, and a
    function may change them. A question is not answered: it was asked before. What comes out of
    the output for the ``gateway`` goes there, as from any port outside.
    """
    priority, match = sender
    others: Rule = (GUARD, priority, match, f"goto_table:{FORWARDING.number}")
    if gateway is None:
        return (others,)
    on = f"goto_table:{ARP_ND.number}"
    return others, (GUARD, priority + 10, f"{match},dl_dst={gateway}", on)


def steering_rules(sides: Sides) -> Iterator[Rule]:
    """Yield how frames cross; what stays on its side just goes on.

    What a function sends would cross by the port it came from: Open vSwitch sends nothing back.
    A gateway is outside: what is within reaches it through the function, and is routed then.
    """
    vni, sink = sides.vni, sides.of(Role.OUTPUT)
    here, within = f"reg0={vni:#x}", f"reg10={vni:#x}"
    for port in sides.within:  # a trunk port has the same number in other segments
        yield STEERING, 80, f"{here},reg2={port:#x},{within}", _ON
        yield STEERING, 50, f"{here},reg2={port:#x}", _to(sink)
    yield STEERING, 60, within, _to(sides.of(Role.INPUT))
    yield FLOOD, 150, f"{here},{within}", f"goto_table:{FLOOD_LOCAL.number}"
    if sides.gateway is not None:
        yield ARP_ND, 60, f"{here},{within},dl_dst={sides.gateway}", _STEER


def _to(port: int | None) -> str:
    return "drop" if port is None else f"set_field:{port:#x}->reg2,{_ON}"
