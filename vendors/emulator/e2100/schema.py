"""What a P4Info (p4.config.v1) says of tables and actions, checked once and easy to look up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from finsy.proto import p4i
from google.protobuf import text_format

from dataplane.core.errors import InvalidValueError


class Kind(Enum):
    """How a field is matched; the value is what P4Info calls it."""

    EXACT = p4i.MatchField.EXACT
    LPM = p4i.MatchField.LPM
    TERNARY = p4i.MatchField.TERNARY


@dataclass(frozen=True, slots=True)
class Field:
    """A match field or, always exact, an action's parameter; ``width`` in bits."""

    number: int
    name: str
    width: int
    kind: Kind = Kind.EXACT

    @property
    def ones(self) -> int:
        """Return the largest value, which is also the mask of an exact match."""
        return (1 << self.width) - 1


@dataclass(frozen=True, slots=True)
class Action:
    """An action and its parameters by id."""

    number: int
    name: str
    parameters: Mapping[int, Field]


@dataclass(frozen=True, slots=True)
class Table:
    """A table: match fields in the order of the P4 program, scopes by action id.

    ``constant`` is the id of a default action that cannot be changed, or 0; ``counter`` the id of
    the direct counter, or 0; ``unsupported`` says why no entry of it can be taken, if none can.
    """

    number: int
    name: str
    fields: tuple[Field, ...]
    scopes: Mapping[int, int]
    constant: int
    size: int
    counter: int
    is_const: bool
    unsupported: str

    @property
    def has_priority(self) -> bool:
        """True if entries need one (P4Runtime 1.4, 9.1)."""
        return any(field.kind is Kind.TERNARY for field in self.fields)


@dataclass(frozen=True, slots=True)
class Schema:
    """Tables and actions by id. Where people name them, the last part of a name will do."""

    tables: Mapping[int, Table]
    actions: Mapping[int, Action]

    def table(self, name: str) -> Table | None:
        """Return the table called ``name``, in full or without its control block."""
        return next((t for t in self.tables.values() if name in (t.name, last(t.name))), None)

    def action(self, name: str) -> Action | None:
        """Return the action called ``name``, in full or without its control block."""
        return next((a for a in self.actions.values() if name in (a.name, last(a.name))), None)


def last(name: str) -> str:
    """Return the last part of a name: ``vsi`` of ``vmeta.common.vsi``."""
    return name.rpartition(".")[2]


def parse_text(text: str, source: str) -> p4i.P4Info:
    """Return the P4Info in a text protobuf. Raises InvalidValueError; ``source`` names the text."""
    try:
        return text_format.Parse(text, p4i.P4Info())
    except text_format.ParseError as error:
        raise InvalidValueError(f"{source} is no P4Info in text protobuf: {error}") from error


def read(info: p4i.P4Info) -> Schema:
    """Return what ``info`` says. Raises InvalidValueError if it contradicts itself."""
    actions = {each.preamble.id: _action(each) for each in info.actions}
    counters = {each.preamble.id for each in info.direct_counters}
    tables = {each.preamble.id: _table(each, counters) for each in info.tables}
    for kind, found, listed in (
        ("action", actions, len(info.actions)),
        ("table", tables, len(info.tables)),
    ):
        if 0 in found or len(found) != listed:
            raise InvalidValueError(f"P4Info: an id of {kind}s is 0 or stands there twice")
    for table in tables.values():
        for number in {*table.scopes, table.constant} - {0, *actions}:
            raise InvalidValueError(f"P4Info: table {table.name}: there is no action {number}")
    return Schema(tables, actions)


def _action(said: p4i.Action) -> Action:
    name = said.preamble.name
    parameters = {p.id: _field(p.id, p.name, p.bitwidth, name) for p in said.params}
    return Action(said.preamble.id, name, parameters)


def _table(said: p4i.Table, counters: set[int]) -> Table:
    name = said.preamble.name
    kinds = {kind.value for kind in Kind}
    odd = [field.name for field in said.match_fields if field.match_type not in kinds]
    unsupported = f"the match kind of {', '.join(odd)}" if odd else ""
    if said.implementation_id:
        unsupported = "its action profile"
    return Table(
        number=said.preamble.id,
        name=name,
        fields=()
        if odd
        else tuple(
            _field(f.id, f.name, f.bitwidth, name, Kind(f.match_type)) for f in said.match_fields
        ),
        scopes={ref.id: ref.scope for ref in said.action_refs},
        constant=said.const_default_action_id,
        size=said.size,
        counter=next((each for each in said.direct_resource_ids if each in counters), 0),
        is_const=said.is_const_table,
        unsupported=unsupported,
    )


def _field(number: int, name: str, width: int, where: str, kind: Kind = Kind.EXACT) -> Field:
    if number <= 0 or width <= 0:
        raise InvalidValueError(f"P4Info: {where}: {name!r} has id {number} and {width} bits")
    return Field(number, name, width, kind)
