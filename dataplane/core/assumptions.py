"""Which assumptions on a DPU's switch something rests on, as the node uses it now. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from dataplane.core.capability import Capability, Use
from dataplane.core.desired import SegmentView


def in_use(known: Capability, views: Iterable[SegmentView]) -> tuple[str, ...]:
    """Return the names of those in use, sorted; ``views`` are the segments present on the node."""
    uses = {Use.DEVICE, *(use for view in views for use in _uses(known, view))}
    return tuple(sorted(each.name for each in known.assumptions if each.use in uses))


def _uses(known: Capability, view: SegmentView) -> Iterator[Use]:
    """Yield what the switch is used for on one segment, whether or not it has entries just now."""
    behind = [port for port in view.ports if port.attachment.netdev in known.guards]
    if behind:
        yield Use.PORTS
    whole = (port for port in behind if port.attachment.vlan is None)  # a trunk has no entries
    if not any(port.guard in known.guards[port.attachment.netdev] for port in whole):
        return
    yield Use.ENTRIES
    encap, family = view.segment.encap, view.segment.underlay
    if view.remotes and (encap, family) in known.tunnels:
        yield from (Use.TUNNELS, Use(encap), Use(family))
