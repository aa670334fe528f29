"""Which rules have the traffic of a Segment pass a network function (core/functions). Pure.

reg10 is the VNI in a frame from within (a VF, a function's input), 0 in one from outside.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from dataplane.core.functions import Role
from dataplane.core.model import Guard, Mac
from overlay_ovs.tables import (
    FLOOD,
    FLOOD_LOCAL,
    FORWARDING,
    GUARD,
    OUTPUT,
    STEERING,
    Rule,
)

_ON = f"goto_table:{OUTPUT.number}"


@dataclass(frozen=True, slots=True)
class Sides:
    """The OpenFlow ports of a Segment by what they are to its function.

    One whose number is not known is missing: what would go there is dropped.
    """

    vni: int
    ports: Mapping[int, Role]

    @property
    def within(self) -> list[int]:
        """Return the ports on the side of the VFs."""
        return sorted(port for port, role in self.ports.items() if role.is_within)

    @property
    def outside(self) -> list[int]:
        """Return the other ports."""
        return sorted(self.ports.keys() - self.within)

    def of(self, wanted: Role) -> int | None:
        """Return the port of the function that is its input or its output."""
        return next((port for port, role in self.ports.items() if role is wanted), None)


def entering(vni: int, role: Role) -> str:
    """Return the actions that note the side of a frame; none for one from outside."""
    return f"set_field:{vni:#x}->reg10," if role.is_within else ""


def function_guard(ofport: int, role: Role, guard: Guard, macs: Collection[Mac]) -> Iterator[Rule]:
    """Yield what a function's port may send: what has gone into it may come back.

    By its input it reaches only those whose traffic it has in its hands anyway. By its output it
    may send as itself, and as who is behind it: ``macs``; their addresses were looked at before,
    and a function may change them. A question is not answered: it was asked before.
    """
    on = f"goto_table:{FORWARDING.number}"
    if role is Role.INPUT or guard is Guard.OFF:
        yield GUARD, 400, f"in_port={ofport}", on
        return
    for mac in macs:
        yield GUARD, 250, f"in_port={ofport},dl_src={mac}", on


def steering_rules(sides: Sides) -> Iterator[Rule]:
    """Yield how frames cross; what stays on its side just goes on.

    What a function sends would cross by the port it came from: Open vSwitch sends nothing back.
    """
    vni, sink = sides.vni, sides.of(Role.OUTPUT)
    for port in sides.within:
        yield STEERING, 80, f"reg2={port:#x},reg10={vni:#x}", _ON
        yield STEERING, 50, f"reg2={port:#x}", _to(sink)
    yield STEERING, 60, f"reg10={vni:#x}", _to(sides.of(Role.INPUT))
    yield FLOOD, 150, f"reg0={vni:#x},reg10={vni:#x}", f"goto_table:{FLOOD_LOCAL.number}"


def _to(port: int | None) -> str:
    return "drop" if port is None else f"set_field:{port:#x}->reg2,{_ON}"
