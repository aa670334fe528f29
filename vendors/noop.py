"""The reference of a switch: it has no tables, holds nothing and is always there."""

from __future__ import annotations

from collections.abc import Hashable, Mapping

from dataplane.core.capability import Capability
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import Change, Item, Rendering
from dataplane.core.model import EntryKey
from dataplane.core.placement import Traffic
from dataplane.core.snapshot import SWITCH_TARGET


class NoSwitch:
    """What is below a plain host: everything stays in software."""

    name = SWITCH_TARGET
    deadline_s = 1.0
    bound_by = frozenset[str]()

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:  # noqa: ARG002  # Target's signature
        return Rendering({})

    def observe(self) -> Mapping[Hashable, Item]:
        return {}

    def apply(self, change: Change) -> None:
        if change:
            raise ValueError(f"nothing can be placed here: {change}")

    def ping(self) -> None:
        """Do nothing: it is there."""

    def describe(self) -> Capability:
        return Capability(vendor="noop", product="no switch")

    def counters(self) -> Mapping[EntryKey, Traffic]:
        return {}

    def close(self) -> None:
        """Do nothing: nothing is held."""
