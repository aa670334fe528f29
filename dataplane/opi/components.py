"""What a part of this node says of a resource, as OPI's status tells it. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence

from dataplane.opi.component_pb2 import Component, CompStatus


def component(name: str, status: CompStatus, reasons: Sequence[str] = ()) -> Component:
    """Return how it is with one part, and why."""
    details = json.dumps({"reasons": [*reasons]}) if reasons else ""
    return Component(name=name, status=status, details=details)
