"""What can be wrong with the way to a device, whatever it speaks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

GARBAGE = bytes(range(256))


@dataclass(slots=True)
class Trouble:
    """What is wrong now: seconds of delay, how many additions are refused, whether it babbles."""

    delay_s: float = 0.0
    refusals: int = 0
    garbage: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def refuses(self) -> bool:
        """True if the addition at hand is to be refused; then it is one less to refuse."""
        with self._lock:
            is_due = self.refusals > 0
            self.refusals -= is_due
            return is_due

    def end(self) -> None:
        """Have nothing wrong any more."""
        self.delay_s, self.refusals, self.garbage = 0.0, 0, False
