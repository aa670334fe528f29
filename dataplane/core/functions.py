"""Network functions: what the traffic of a Segment passes on this DPU, and where. Pure.

A function has two ports on one Segment, and parts it in two: within is what is behind the DPU's VFs
and the input, outside all others (tunnels, pods on the DPU) and the output. What stays on one side
goes as without a function. What is for the other side goes into the port on its own side, as it is,
and comes out of the other port. What a function itself sends stays on the side of the port it came
out of: so nothing passes the same function twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from dataplane.core.model import Mac


class WithoutFunction(StrEnum):
    """What becomes of the traffic of a function that is gone."""

    BYPASS = "bypass"
    BLOCK = "block"


@dataclass(frozen=True, slots=True)
class FunctionPort:
    """One of a function's two ports; ``identity`` is that of the attachment.

    A pod that takes the MAC of a function that is gone does not become it by that.
    """

    mac: Mac
    identity: str


@dataclass(frozen=True, slots=True)
class NetworkFunction:
    """What VFs send goes in by ``input``; what comes out of ``output`` goes on from there."""

    segment: str
    input: FunctionPort
    output: FunctionPort

    def __str__(self) -> str:
        """Name it in status or an error."""
        return f"function {self.input.mac} > {self.output.mac}"

    @property
    def ports(self) -> tuple[FunctionPort, FunctionPort]:
        """Return both, the input first."""
        return self.input, self.output


class Role(StrEnum):
    """What a port is to the network functions of its Segment; PLAIN: nothing, it is outside.

    STEERED is what is behind a VF; without INPUT and OUTPUT nothing passes between it and outside.
    """

    PLAIN = "plain"
    STEERED = "steered"
    INPUT = "input"
    OUTPUT = "output"

    @property
    def is_within(self) -> bool:
        """Say on which side of the function it is."""
        return self in (Role.STEERED, Role.INPUT)

    @property
    def is_function(self) -> bool:
        """Say whether it is one of a function's own."""
        return self in (Role.INPUT, Role.OUTPUT)


def next_port(sender: Role, target: Role) -> Role | None:
    """Return whose port a frame between these goes to first; None: to nobody's, it is dropped."""
    if sender.is_within == target.is_within:
        return target
    if sender.is_function:
        return None  # it has just passed
    return Role.INPUT if sender.is_within else Role.OUTPUT
