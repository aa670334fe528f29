"""What the device says its P4 program has: numbers by name, and rows as P4Runtime writes them.

Tolerant: what we do not use may be as it likes; a name that stands twice in a table is an error
only when it is used (two tables of the shipped program have such fields).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from finsy.proto import p4i, p4r

from dataplane.core.errors import OverweaveError
from vendors.intel import pipeline
from vendors.intel.numbers import KINDS, Pools
from vendors.intel.pipeline import PIPELINE, PRIORITY, DeviceRow, Numbers

_WIDEST = 128  # bits of a field: an address of IPv6
_WIDEST_NUMBER = 32  # bits of a number that stands for something
_EXACT, _LPM, _TERNARY = (
    p4i.MatchField.EXACT,
    p4i.MatchField.LPM,
    p4i.MatchField.TERNARY,
)


class P4InfoError(OverweaveError):
    """The P4 program has not what is asked of it; the text names it."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A field or parameter: its number, its width in bits, how a field is matched."""

    id: int
    bits: int
    match: int = 0


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Names(Generic[T]):
    """Things by name; what stands twice cannot be used."""

    owner: str
    things: Mapping[str, T]
    twice: frozenset[str] = frozenset()

    @classmethod
    def of(cls, owner: str, pairs: Iterable[tuple[str, T]]) -> Names[T]:
        """Return ``pairs`` by their names."""
        found = list(pairs)
        counts = Counter(name for name, _ in found)
        twice = frozenset(name for name, count in counts.items() if count > 1)
        return cls(owner, {name: thing for name, thing in found if name not in twice}, twice)

    def __contains__(self, name: str) -> bool:
        return name in self.things

    def __getitem__(self, name: str) -> T:
        """Return what is called ``name``. Raises P4InfoError."""
        if name in self.twice:
            raise P4InfoError(f"{self.owner} has {name} twice")
        if name not in self.things:
            raise P4InfoError(f"{self.owner} has no {name}")
        return self.things[name]


@dataclass(frozen=True, slots=True)
class Action:
    """An action and its parameters."""

    id: int
    params: Names[Slot]


@dataclass(frozen=True, slots=True)
class TableInfo:
    """A table: how many rows it takes, its fields, and the actions that rows of it may have."""

    id: int
    size: int
    fields: Names[Slot]
    actions: Names[Action]

    @property
    def has_priority(self) -> bool:
        """Say whether its rows need a priority."""
        return any(slot.match == _TERNARY for slot in self.fields.things.values())


@dataclass(frozen=True, slots=True)
class Schema:
    """A P4 program by the aliases of its tables and actions."""

    tables: Names[TableInfo]
    by_id: Mapping[int, str]
    pools: Pools

    @classmethod
    def read(cls, info: p4i.P4Info) -> Schema:
        """Return what ``info`` says."""
        actions = {each.preamble.id: each for each in info.actions}
        tables = [
            (each.preamble.alias, _table(each, actions))
            for each in info.tables
            if each.preamble.alias
        ]
        names = Names.of("its P4 program", tables)
        by_id = {table.id: name for name, table in names.things.items()}
        return cls(names, by_id, _pools(names.things))

    def faults(self, table: pipeline.Table) -> Iterator[str]:
        """Yield what of a table that rows of ours take is not as they need it."""
        try:
            info = self.tables[table.name]
        except P4InfoError as error:
            yield str(error)
            return
        yield from _faults(info.fields, table.fields)
        unknown = info.fields.things.keys() - table.fields.keys() | info.fields.twice
        if unknown:
            yield f"{info.fields.owner} has {min(unknown)}, which we do not know"
        for name, params in table.actions.items():
            try:
                yield from _faults(info.actions[name].params, params)
            except P4InfoError as error:
                yield str(error)

    # --- rows --------------------------------------------------------------------------------

    def encode(self, row: DeviceRow) -> p4r.TableEntry:
        """Return a row as it is written. Raises P4InfoError, also for a value that is too wide."""
        entry = self.encode_match(row)
        action = self.tables[row.table].actions[row.action]
        entry.action.action.action_id = action.id
        for name, value in row.params:
            slot = action.params[name]
            encoded = _bytes(value, slot, f"{row.action}.{name}")
            entry.action.action.params.add(param_id=slot.id, value=encoded)
        return entry

    def encode_match(self, row: DeviceRow) -> p4r.TableEntry:
        """Return what names a row: its table, match and priority. Raises P4InfoError."""
        table = self.tables[row.table]
        entry = p4r.TableEntry(table_id=table.id, priority=PRIORITY if table.has_priority else 0)
        for name, value in row.match:
            slot = table.fields[name]
            encoded = _bytes(value, slot, f"{row.table}.{name}")
            match = entry.match.add(field_id=slot.id)
            if slot.match == _EXACT:
                match.exact.value = encoded
            elif slot.match == _LPM:
                match.lpm.value, match.lpm.prefix_len = encoded, slot.bits
            elif slot.match == _TERNARY:
                match.ternary.value, match.ternary.mask = encoded, _ones(slot)
            else:
                raise P4InfoError(f"{row.table}.{name} is matched in a way that we do not know")
        return entry

    def decode(self, entry: p4r.TableEntry) -> DeviceRow | None:
        """Return a row as it was read; None: of a table that has no name here."""
        name = self.by_id.get(entry.table_id)
        if name is None:
            return None
        table = self.tables[name]
        fields = {slot.id: (key, slot) for key, slot in table.fields.things.items()}
        values: dict[str, int] = {}
        plain = len(entry.match) == len(fields) and entry.priority == (
            PRIORITY if table.has_priority else 0
        )
        for match in entry.match:
            key, slot = fields.get(match.field_id, (f"field {match.field_id}", Slot(0, 0)))
            value, whole = _value(match, slot)
            values[key] = value
            plain = plain and whole and not value >> slot.bits
        action, params, whole = _action(entry, table)
        return DeviceRow(name, _sorted(values), action, _sorted(params), plain and whole)


def _pools(tables: Mapping[str, TableInfo]) -> Pools:
    """Return how wide the numbers are that we give: by the narrowest place each stands in."""
    bits: dict[type, int] = {}
    for table in PIPELINE:
        info = tables.get(table.name)
        if info is None:
            continue
        used = [info.actions.things[name].params for name in table.actions if name in info.actions]
        for names in (info.fields, *used):
            for name, slot in names.things.items():
                if (kind := KINDS.get(name)) is not None:
                    width = min(max(1, slot.bits), _WIDEST_NUMBER)
                    bits[kind] = min(width, bits.get(kind, width))
    return Pools({kind: bits.get(kind, 1) for kind in set(KINDS.values())})


def _table(table: p4i.Table, actions: Mapping[int, p4i.Action]) -> TableInfo:
    name = table.preamble.alias
    return TableInfo(
        id=table.preamble.id,
        size=table.size,
        fields=Names.of(
            name,
            [(f.name, _slot(f, f.match_type)) for f in table.match_fields],
        ),
        actions=Names.of(
            name,
            [
                (actions[ref.id].preamble.alias, _of_action(actions[ref.id]))
                for ref in table.action_refs
                if ref.id in actions and ref.scope != p4i.ActionRef.DEFAULT_ONLY
            ],
        ),
    )


def _slot(info: p4i.MatchField | p4i.Action.Param, match: int = 0) -> Slot:
    return Slot(info.id, max(0, info.bitwidth), match)


def _of_action(action: p4i.Action) -> Action:
    params = [(param.name, _slot(param)) for param in action.params]
    return Action(action.preamble.id, Names.of(action.preamble.alias, params))


def _faults(names: Names[Slot], wanted: Mapping[str, int]) -> Iterator[str]:
    """Yield which of ``wanted``, widths by name, are not there, or of another width."""
    for name, bits in wanted.items():
        try:
            slot = names[name]
        except P4InfoError as error:
            yield str(error)
        else:
            if bits and slot.bits != bits:
                yield f"{names.owner}.{name} has {slot.bits} bits, not {bits}"


def _bytes(value: int, slot: Slot, what: str) -> bytes:
    """Return a value in the shortest form (P4Runtime 1.4, 8.4)."""
    if slot.bits > _WIDEST:
        raise P4InfoError(f"{what} has {slot.bits} bits")
    if value >> slot.bits:
        raise P4InfoError(f"{value:#x} is too wide for the {slot.bits} bits of {what}")
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8))


def _ones(slot: Slot) -> bytes:
    return ((1 << slot.bits) - 1).to_bytes((slot.bits + 7) // 8)


def _value(match: p4r.FieldMatch, slot: Slot) -> tuple[int, bool]:
    """Return a match's value, and whether it is of the whole field."""
    match match.WhichOneof("field_match_type"):
        case "exact":
            return int.from_bytes(match.exact.value), True
        case "lpm":
            return int.from_bytes(match.lpm.value), match.lpm.prefix_len == slot.bits
        case "ternary":
            mask = int.from_bytes(match.ternary.mask)
            ones = mask.bit_length() == mask.bit_count() == slot.bits
            return int.from_bytes(match.ternary.value), ones
        case _:
            return 0, False


def _action(entry: p4r.TableEntry, table: TableInfo) -> tuple[str, dict[str, int], bool]:
    """Return an action, its parameters, and whether those are all it has and fit."""
    direct = entry.action.action
    for name, action in table.actions.things.items():
        if action.id == direct.action_id:
            slots = {slot.id: (key, slot) for key, slot in action.params.things.items()}
            params, fit = {}, len(direct.params) == len(slots)
            for param in direct.params:
                key, slot = slots.get(param.param_id, (str(param.param_id), Slot(0, 0)))
                params[key] = int.from_bytes(param.value)
                fit = fit and not params[key] >> slot.bits
            return name, params, fit and params.keys() == action.params.things.keys()
    return f"action {direct.action_id}", {}, True


def _sorted(values: Mapping[str, int]) -> Numbers:
    return tuple(sorted(values.items()))
