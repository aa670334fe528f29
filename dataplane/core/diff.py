"""One diff for everything we program: OVS ports and flows, eBPF, host links, fabric rows, files."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


class Item(Protocol):
    """One programmed thing. ``scope`` is the VNI of the fabric view it was derived from, or None.

    An item with a scope is neither changed nor removed while that view is incomplete; only what is
    wanted whatever that view may hold takes its place.
    """

    @property
    def scope(self) -> int | None:
        """Return the VNI whose sync this item's change must wait for."""
        ...


@dataclass(frozen=True, slots=True)
class Pending:
    """Something wanted that cannot be rendered yet, with the reason; ``about`` names the object."""

    about: Hashable
    reason: str


@dataclass(frozen=True, slots=True)
class Rendering:
    """What a Target should hold: ``items`` by key, what is ``pending``, and the scopes on hold."""

    items: Mapping[Hashable, Item]
    pending: tuple[Pending, ...] = ()
    held: Collection[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Change:
    """A difference to apply; ``update`` holds the new items of keys that have another value."""

    add: Mapping[Hashable, Any] = field(default_factory=dict)
    update: Mapping[Hashable, Any] = field(default_factory=dict)
    remove: Mapping[Hashable, Any] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Say whether there is anything to do."""
        return bool(self.add or self.update or self.remove)

    def __len__(self) -> int:
        """Count the items that change."""
        return len(self.add) + len(self.update) + len(self.remove)


def diff(rendering: Rendering, observed: Mapping[Hashable, Item]) -> Change:
    """Return what turns ``observed`` into ``rendering``, leaving held scopes as they are.

    Applying the result to ``observed`` makes the next diff empty.
    """
    wanted = rendering.items
    held = rendering.held
    return Change(
        add={key: item for key, item in wanted.items() if key not in observed},
        update={
            key: item
            for key, item in wanted.items()
            if key in observed and observed[key] != item and _may_follow(item, observed[key], held)
        },
        remove={
            key: item
            for key, item in observed.items()
            if key not in wanted and not _is_held(item, held)
        },
    )


def _may_follow(item: Item, before: Item, held: Collection[int]) -> bool:
    """A pod of ours takes its place from where an incomplete view still shows it."""
    return not (_is_held(before, held) and _is_held(item, held))


def _is_held(item: Item, held: Collection[int]) -> bool:
    return item.scope is not None and item.scope in held
