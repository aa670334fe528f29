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
    whole = (port for port in view.ports if port.attachment.vlan is None)
    behind = [port for port in whole if port.attachment.netdev in known.guards]
    if behind:
        yield Use.PORTS
    if not any(port.guard in known.guards[port.attachment.netdev] for port in behind):
        return
    yield Use.ENTRIES
    encap, family = view.segment.encap, view.segment.underlay
    if view.remotes and (encap, family) in known.tunnels:
        yield from (Use.TUNNELS, Use(encap), Use(family))
