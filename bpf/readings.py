"""What the fast path has counted, read from its pinned maps."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from contextlib import suppress

from bpf.bpffs import Pins
from bpf.layout import decode_count, decode_counter_key, decode_entry_key, traffic_of
from bpf.syscalls import open_map
from dataplane.core.errors import InvalidValueError
from dataplane.core.model import EntryKey
from dataplane.core.placement import Traffic
from dataplane.core.reasons import Reason


class Readings:
    """A FastPath over the maps of ``pins``; any thread may ask. Raises BpfError."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins

    def traffic(self) -> Mapping[EntryKey, Traffic]:
        """Return what each entry has forwarded."""
        found: dict[EntryKey, Traffic] = {}
        with open_map(self._pins.map("entries")) as entries:
            for key, value in entries.items():
                with suppress(InvalidValueError):  # a stranger's
                    found[decode_entry_key(key)] = traffic_of(value)
        return found

    def counts(self) -> Mapping[int, Mapping[Reason, int]]:
        """Return how many packets were not taken, by ifindex of who received them and reason."""
        found: defaultdict[int, dict[Reason, int]] = defaultdict(dict)
        with open_map(self._pins.map("counters")) as counters:
            for key, value in counters.items():
                ifindex, reason = decode_counter_key(key)
                found[ifindex][reason] = decode_count(value)
        return found
