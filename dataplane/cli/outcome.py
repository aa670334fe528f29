"""How a command ends: its exit status."""

from __future__ import annotations

from dataplane.core.errors import FabricUnavailableError, InvalidValueError, OverweaveError

OK = 0
FAILED = 1
BAD_INPUT = 2
UNREACHABLE = 3
INTERRUPTED = 130  # as shells count: 128 + SIGINT


class UnreachableError(OverweaveError):
    """Somebody who has to be asked does not answer."""


def exit_status(error: OverweaveError) -> int:
    """Return the exit status that tells this kind of error apart."""
    if isinstance(error, InvalidValueError):
        return BAD_INPUT
    if isinstance(error, FabricUnavailableError | UnreachableError):
        return UNREACHABLE
    return FAILED
