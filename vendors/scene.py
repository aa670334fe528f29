"""One segment as a switch's rows are rendered from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.core.desired import Bindings, Desired, SegmentView
from dataplane.core.model import EntryKey, IpAddress, Mac, Segment


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
