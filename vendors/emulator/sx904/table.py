"""The device's own table: rules by what they match, and which of them a frame hits."""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

from vendors.emulator.sx904.actions import Counter
from vendors.emulator.sx904.driver import Rule
from vendors.emulator.sx904.flower import Key
from vendors.emulator.sx904.netlink import Refusal

Shape = tuple[tuple[Key, int], ...]
Values = tuple[int, ...]

_ERROR = "ice: Unable to add filter due to error"


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A rule in the table, and what it has forwarded; the higher ``number`` came later."""

    rule: Rule
    counter: Counter
    number: int


@dataclass(slots=True)
class Table:
    """All rules of a device, at most ``limit()``; ``refuses()`` says whether the next fails."""

    limit: Callable[[], int]
    refuses: Callable[[], bool]
    _rules: defaultdict[int, dict[Shape, dict[Values, Entry]]] = field(
        default_factory=lambda: defaultdict(dict)
    )
    _numbers: count[int] = field(default_factory=count)
    _used: int = 0

    def add(self, rule: Rule, counter: Counter) -> Entry:
        """Take a rule. Raises Refusal."""
        shape, values = _split(rule)
        if values in self._rules[rule.ifindex].get(shape, {}):
            words = "ice: Unable to add filter because it already exist"
            raise Refusal(errno.EINVAL, words)
        if self.refuses():
            raise Refusal(errno.EIO, _ERROR)
        if self._used >= self.limit():
            raise Refusal(errno.ENOSPC, _ERROR)
        entry = Entry(rule, counter, next(self._numbers))
        self._rules[rule.ifindex].setdefault(shape, {})[values] = entry
        self._used += 1
        return entry

    def remove(self, entry: Entry) -> None:
        """Let a rule go."""
        shape, values = _split(entry.rule)
        rules = self._rules[entry.rule.ifindex]
        del rules[shape][values]
        if not rules[shape]:
            del rules[shape]
        self._used -= 1

    def hit(self, ifindex: int, fields: Mapping[Key, int]) -> Entry | None:
        """Return the rule at a netdev that a frame hits, of several the one that came last."""
        found: Entry | None = None
        for shape, rules in self._rules[ifindex].items():
            try:
                entry = rules.get(tuple(fields[key] & mask for key, mask in shape))
            except KeyError:  # the frame has no such field
                continue
            if entry is not None and (found is None or entry.number > found.number):
                found = entry
        return found


def _split(rule: Rule) -> tuple[Shape, Values]:
    return (
        tuple((part.key, part.mask) for part in rule.match),
        tuple(part.value for part in rule.match),
    )
