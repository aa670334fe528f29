"""The closed list of reasons shown to operators; later the source of the C enum."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why something is not forwarded, or not forwarded where one would expect it."""

    SUPERSEDED = "superseded"
    DUPLICATE = "duplicate"
    MAC_FROZEN = "mac-frozen"
    NOT_GRANTED = "not-granted"
    NO_VTEP = "no-vtep"
    UNDERLAY_MTU = "underlay-mtu"
    UNKNOWN_SEGMENT = "unknown-segment"
