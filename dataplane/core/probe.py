"""What a probe of a DPU looks like: a frame of a kind that no other is of. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.core.frames import ETHERNET, mac_bytes
from dataplane.core.model import Mac

ETHERTYPE = 0x88B5  # IEEE 802: local experimental EtherType 1
PROBE_MAC = Mac("02:6f:77:70:72:62")  # nobody's: locally administered
_SHORTEST = 60  # IEEE 802.3: an Ethernet frame without its check sequence


def is_probe(frame: bytes) -> bool:
    """Say whether a frame is a probe to nobody."""
    return frame[:6] == mac_bytes(PROBE_MAC) and frame[12:14] == ETHERTYPE.to_bytes(2)


@dataclass(frozen=True, slots=True)
class ProbeFrame:
    """A probe from the MAC ``source``; ``mark`` tells it from all others."""

    source: Mac
    mark: bytes

    @property
    def frame(self) -> bytes:
        """Return it as it is sent."""
        return self._to(PROBE_MAC)

    def is_answered_by(self, frame: bytes) -> bool:
        """Say whether ``frame`` is what Open vSwitch makes of it: it is addressed to its sender."""
        return frame[: len(self._to(self.source))] == self._to(self.source)

    def is_passed_as(self, frame: bytes) -> bool:
        """Say whether ``frame`` is the probe, as it was sent."""
        return frame[: len(self.frame)] == self.frame

    def _to(self, target: Mac) -> bytes:
        ends = mac_bytes(target) + mac_bytes(self.source)
        head = ends + ETHERTYPE.to_bytes(2) + self.mark
        return head + bytes(_SHORTEST - ETHERNET - len(self.mark))
