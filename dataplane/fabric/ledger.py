"""What the agent has been told of the fabric, and what it must be told next. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from uuid import UUID

from dataplane.core.events import FabricChanged
from dataplane.core.floor import SECOND_LOOK_S, is_sudden
from dataplane.core.model import Address, Block, Endpoint, FabricEntity, Grant, Node, Pin
from dataplane.core.state import entity_key
from dataplane.fabric.rows import Stored, Vtep, join

_Key = tuple[type[FabricEntity], object]


class Ledger:
    """Rows in, events out: Nodes joined with their VTEPs, only the segments of interest, no shock.

    What is lost too suddenly is told only if it is still gone ``SECOND_LOOK_S`` later. Rows of
    this node do not count there: only it takes them away. ``now`` is any clock in seconds.
    """

    def __init__(self, node: str) -> None:
        self._node = node
        self._interest: frozenset[str] = frozenset()
        self._rows: dict[UUID, Stored] = {}
        self._vteps: defaultdict[str, dict[UUID, Vtep]] = defaultdict(dict)
        self._known: dict[_Key, FabricEntity] = {}  # all but VTEPs; Nodes without theirs
        self._twins: set[_Key] = set()  # said by several rows, in words that differ: 10.0.0.0/8 ...
        self._told: dict[_Key, FabricEntity] = {}
        self._doubted: set[_Key] = set()
        self._second_look: float | None = None

    @property
    def second_look(self) -> float | None:
        """Return when ``look_again`` is due; None: it is not."""
        return self._second_look

    def take(self, changes: Mapping[UUID, Stored | None], now: float) -> FabricChanged:
        """Take in rows that are new or changed, and rows that are gone (None)."""
        touched = [self._forget(uuid) for uuid in changes if uuid in self._rows]
        for uuid, entity in changes.items():
            if entity is not None:
                touched.append(self._remember(uuid, entity))
        return self._tell(dict.fromkeys(touched), now)

    def watch(self, interest: frozenset[str], now: float) -> FabricChanged:
        """Change which segments' rows are told; those of a segment given up are told as gone."""
        self._interest = interest
        given_up = [key for key, entity in self._told.items() if not self._is_wanted(entity)]
        self._doubted.difference_update(given_up)
        deletes = tuple(self._told.pop(key) for key in given_up)
        return FabricChanged(self._tell(self._known, now).upserts, deletes)

    def look_again(self) -> FabricChanged:
        """Tell what was doubted and is still gone."""
        gone = [key for key in self._doubted if self._present(key) is None]
        self._doubted.clear()
        self._second_look = None
        return FabricChanged(deletes=tuple(self._told.pop(key) for key in gone))

    def _forget(self, uuid: UUID) -> _Key:
        entity = self._rows.pop(uuid)
        if isinstance(entity, Vtep):
            del self._vteps[entity.node][uuid]
            return Node, entity.node
        key = _key(entity)
        del self._known[key]
        if key in self._twins:
            self._restore(key)
        return key

    def _restore(self, key: _Key) -> None:
        """Let another row say what one that is gone has said."""
        rows = (row for row in self._rows.values() if not isinstance(row, Vtep))
        others = [row for row in rows if _key(row) == key]
        if others:
            self._known[key] = others[0]
        if len(others) < 2:
            self._twins.discard(key)

    def _remember(self, uuid: UUID, entity: Stored) -> _Key:
        self._rows[uuid] = entity
        if isinstance(entity, Vtep):
            self._vteps[entity.node][uuid] = entity
            return Node, entity.node
        key = _key(entity)
        if key in self._known:
            self._twins.add(key)
        self._known[key] = entity
        return key

    def _tell(self, keys: Iterable[_Key], now: float) -> FabricChanged:
        present = {key: self._present(key) for key in keys}
        upserts = {
            key: entity
            for key, entity in present.items()
            if entity is not None and entity != self._told.get(key)
        }
        gone = [key for key, entity in present.items() if entity is None and key in self._told]
        self._told |= upserts
        if self._is_sudden(gone):
            self._doubted.update(gone)
            self._second_look = now + SECOND_LOOK_S
        deletes = tuple(self._told.pop(key) for key in gone if key not in self._doubted)
        return FabricChanged(tuple(upserts.values()), deletes)

    def _present(self, key: _Key) -> FabricEntity | None:
        entity = self._known.get(key)
        if isinstance(entity, Node):
            return join(entity, self._vteps[entity.name].values())
        return entity if entity is not None and self._is_wanted(entity) else None

    def _is_wanted(self, entity: FabricEntity) -> bool:
        if isinstance(entity, Endpoint | Block | Address | Grant | Pin):
            return entity.segment in self._interest
        return True

    def _is_sudden(self, gone: Collection[_Key]) -> bool:
        lost = sum(self._is_others(self._told[key]) for key in gone)
        return lost > 0 and is_sudden(lost, sum(map(self._is_others, self._told.values())))

    def _is_others(self, entity: FabricEntity) -> bool:
        return isinstance(entity, Endpoint) and entity.node != self._node


def _key(entity: FabricEntity) -> _Key:
    return type(entity), entity_key(entity)
