"""One segment as a switch's rows are rendered from it. Pure."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from dataplane.core.desired import Bindings, Desired, Port, PortState, SegmentView
from dataplane.core.model import EntryKey, IpAddress, Mac, Segment
from dataplane.core.reasons import Reason

NO_NIC = "the underlay's NIC is not known yet"


@dataclass(frozen=True, slots=True)
class Scene:
    """One segment, and what is known around it."""

    desired: Desired
    bindings: Bindings
    view: SegmentView

    @property
    def segment(self) -> Segment:
        """Return the segment itself."""
        return self.view.segment

    def own(self, vtep: IpAddress) -> IpAddress | None:
        """Return this node's VTEP of the family of ``vtep``."""
        return next((own for own in self.desired.vteps if own.version == vtep.version), None)

    def key(self, mac: Mac) -> EntryKey:
        """Return the key of the entry for ``mac`` here."""
        return EntryKey(self.segment.vni, mac)

    def why_not_at(
        self, port: Port, representors: Container[str | None]
    ) -> tuple[Reason, str] | None:
        """Return why a switch with these representors cannot take what comes in at a port."""
        if port.state is PortState.BLOCKED:
            return port.reason or Reason.PENDING, port.detail or "its port is blocked"
        if port.attachment.netdev not in representors:
            detail = f"{port.attachment.access_port} is no representor of this switch"
            return Reason.NO_SWITCH_PORT, detail
        return (Reason.NO_NEXTHOP, NO_NIC) if self.bindings.nic is None else None
