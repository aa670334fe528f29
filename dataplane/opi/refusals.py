"""Why a call of OPI's services is refused: a closed list, each with its gRPC code. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from dataplane.core.errors import OverweaveError


class Code(StrEnum):
    """The gRPC codes, by name, that bad input and bad times are answered with."""

    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    NOT_FOUND = "NOT_FOUND"
    ALREADY_EXISTS = "ALREADY_EXISTS"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    UNAVAILABLE = "UNAVAILABLE"
    UNIMPLEMENTED = "UNIMPLEMENTED"


class Fault(StrEnum):
    """What is wrong with a call."""

    MISSING_FIELD = "missing-field"
    BAD_ID = "bad-id"
    BAD_NAME = "bad-name"
    BAD_MASK = "bad-mask"
    BAD_VALUE = "bad-value"
    UNKNOWN_TOKEN = "unknown-token"  # noqa: S105  # of a page
    UNKNOWN_NAME = "unknown-name"
    TAKEN = "taken"
    NO_BRIDGE = "no-bridge"
    NO_VRF = "no-vrf"
    NO_VF = "no-vf"
    NO_CHANNEL = "no-channel"
    NOT_TENANT = "not-tenant"
    IN_USE = "in-use"
    WRONG_SIDE = "wrong-side"
    FIXED = "fixed"
    AWAY = "away"
    NOT_BUILT = "not-built"


CODES: Mapping[Fault, Code] = {
    Fault.MISSING_FIELD: Code.INVALID_ARGUMENT,
    Fault.BAD_ID: Code.INVALID_ARGUMENT,
    Fault.BAD_NAME: Code.INVALID_ARGUMENT,
    Fault.BAD_MASK: Code.INVALID_ARGUMENT,
    Fault.BAD_VALUE: Code.INVALID_ARGUMENT,
    Fault.UNKNOWN_TOKEN: Code.NOT_FOUND,
    Fault.UNKNOWN_NAME: Code.NOT_FOUND,
    Fault.TAKEN: Code.ALREADY_EXISTS,
    Fault.NO_BRIDGE: Code.FAILED_PRECONDITION,
    Fault.NO_VRF: Code.FAILED_PRECONDITION,
    Fault.NO_VF: Code.FAILED_PRECONDITION,
    Fault.NO_CHANNEL: Code.FAILED_PRECONDITION,
    Fault.NOT_TENANT: Code.FAILED_PRECONDITION,
    Fault.IN_USE: Code.FAILED_PRECONDITION,
    Fault.WRONG_SIDE: Code.FAILED_PRECONDITION,
    Fault.FIXED: Code.FAILED_PRECONDITION,
    Fault.AWAY: Code.UNAVAILABLE,
    Fault.NOT_BUILT: Code.UNIMPLEMENTED,
}


class OpiRefusedError(OverweaveError):
    """A call that cannot be; the text is one sentence for the caller."""

    def __init__(self, fault: Fault, message: str) -> None:
        """Keep the kind of the fault beside the sentence."""
        super().__init__(message)
        self.fault = fault

    @property
    def code(self) -> Code:
        """Return the gRPC code to answer with."""
        return CODES[self.fault]


def missing(path: str) -> OpiRefusedError:
    """Return the refusal of a call without the required field at ``path``."""
    return OpiRefusedError(Fault.MISSING_FIELD, f"missing required field: {path}")


def unknown(name: str) -> OpiRefusedError:
    """Return the refusal of a call for a resource that is not there, as the reference words it."""
    return OpiRefusedError(Fault.UNKNOWN_NAME, f"unable to find key {name}")


def shown(text: str) -> str:
    """Return ``text`` quoted and, where it is long, cut: it came from outside."""
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}... ({len(text)} characters)"
