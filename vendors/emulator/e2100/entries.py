"""Table entries between the wire and the tables, as strict as P4Runtime 1.4 wants a server to be.

Pure. The numbers in comments are sections of the P4Runtime specification 1.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import grpc
from finsy.proto import p4i, p4r

from vendors.emulator.e2100.schema import Action, Field, Kind, Schema, Table

Match = tuple[tuple[int, int], ...]
"""Value and mask of each field, in the table's order."""

BAD = grpc.StatusCode.INVALID_ARGUMENT
DENIED = grpc.StatusCode.PERMISSION_DENIED


class Refusal(Exception):  # noqa: N818  # what a server answers with is no error of its own
    """What a server refuses, and by which code of gRPC."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def number(self) -> int:
        """Return the code as google.rpc.Status has it."""
        number: int = self.code.value[0]
        return number


class Key(NamedTuple):
    """What makes an entry the one it is (9.1); ``priority`` 0: its table has none."""

    table: int
    match: Match
    priority: int = 0


@dataclass(slots=True)
class Row:
    """The rest of an entry, and what it has counted; ``is_own``: the device itself wrote it.

    Metadata is taken and not kept. ``told`` is the entry as it was read last, without what counts.
    """

    action: Action
    args: Mapping[str, int]
    packets: int = 0
    octets: int = 0
    is_own: bool = field(default=False, compare=False)
    told: p4r.TableEntry | None = field(default=None, compare=False)


def table_of(schema: Schema, number: int) -> Table:
    """Return the table with this id. Raises Refusal."""
    table = schema.tables.get(number)
    if table is None:
        raise Refusal(BAD, f"there is no table {number}")
    if table.unsupported:
        raise Refusal(
            grpc.StatusCode.UNIMPLEMENTED, f"table {table.name}: {table.unsupported} is not served"
        )
    return table


def read_key(table: Table, entry: p4r.TableEntry) -> Key:
    """Return the key of a match entry. Raises Refusal."""
    if not table.fields:
        raise Refusal(BAD, f"table {table.name} has no key, so only its default action")  # 9.1
    given: dict[int, tuple[int, int]] = {}
    numbers = {each.number: each for each in table.fields}
    for said in entry.match:
        where = numbers.get(said.field_id)
        if where is None:
            raise Refusal(BAD, f"table {table.name} has no match field {said.field_id}")
        if said.field_id in given:
            raise Refusal(BAD, f"{table.name}: {where.name} is matched twice")
        given[said.field_id] = _matched(where, said, f"{table.name}: {where.name}")
    for each in table.fields:
        if each.kind is Kind.EXACT and each.number not in given:  # 9.1.1
            raise Refusal(BAD, f"{table.name}: exact match field {each.name} is missing")
    _check_priority(table, entry.priority)
    match = tuple(given.get(each.number, (0, 0)) for each in table.fields)
    return Key(table.number, match, entry.priority)


def read_action(
    schema: Schema, table: Table, entry: p4r.TableEntry, *, as_default: bool = False
) -> tuple[Action, dict[str, int]]:
    """Return the action and its arguments by name. Raises Refusal."""
    kind = entry.action.WhichOneof("type")
    if kind != "action":
        raise Refusal(BAD, f"table {table.name} takes an action, and this is {kind or 'none'}")
    said = entry.action.action
    scope = table.scopes.get(said.action_id)
    if scope is None:
        raise Refusal(BAD, f"table {table.name} has no action {said.action_id}")
    action = schema.actions[said.action_id]
    wrong = p4i.ActionRef.TABLE_ONLY if as_default else p4i.ActionRef.DEFAULT_ONLY
    if scope == wrong:  # 9.1.2
        what = "for match entries" if as_default else "the default action"
        raise Refusal(DENIED, f"{table.name}: {action.name} is {what} only")
    return action, _arguments(action, said)


def check_rest(table: Table, entry: p4r.TableEntry) -> None:
    """Check what an entry to be written holds beside key and action. Raises Refusal."""
    if entry.is_const:
        raise Refusal(BAD, f"{table.name}: is_const is the server's to say")  # 9.1
    if entry.idle_timeout_ns or entry.HasField("time_since_last_hit"):
        raise Refusal(BAD, f"table {table.name} has no idle timeout")  # 9.1.8
    if entry.HasField("meter_config") or entry.HasField("meter_counter_data"):
        raise Refusal(BAD, f"table {table.name} has no direct meter")
    if entry.HasField("counter_data") and not table.counter:
        raise Refusal(BAD, f"table {table.name} has no direct counter")


def write_entry(table: Table, key: Key, row: Row) -> p4r.TableEntry:
    """Return an entry as it is read: shortest byte strings, no don't care matches (8.4)."""
    entry = p4r.TableEntry(
        table_id=table.number,
        priority=key.priority,
        is_const=table.is_const,
    )
    entry.action.action.CopyFrom(write_action(row.action, row.args))
    for where, (value, mask) in zip(table.fields, key.match, strict=True):
        if mask == 0:
            continue
        match = entry.match.add(field_id=where.number)
        if where.kind is Kind.EXACT:
            match.exact.value = shortest(value)
        elif where.kind is Kind.LPM:
            match.lpm.value, match.lpm.prefix_len = shortest(value), mask.bit_count()
        else:
            match.ternary.value, match.ternary.mask = shortest(value), shortest(mask)
    return entry


def write_action(action: Action, args: Mapping[str, int]) -> p4r.Action:
    """Return an action with its arguments as it is read."""
    written = p4r.Action(action_id=action.number)
    for parameter in action.parameters.values():
        written.params.add(param_id=parameter.number, value=shortest(args[parameter.name]))
    return written


def shortest(value: int) -> bytes:
    """Return the canonical byte string of ``value`` (8.4): the shortest one, big endian."""
    return value.to_bytes(max(1, (value.bit_length() + 7) // 8))


def _arguments(action: Action, said: p4r.Action) -> dict[str, int]:
    args: dict[str, int] = {}
    for param in said.params:
        parameter = action.parameters.get(param.param_id)
        if parameter is None:
            raise Refusal(BAD, f"action {action.name} has no parameter {param.param_id}")
        if parameter.name in args:
            raise Refusal(BAD, f"{action.name}: parameter {parameter.name} is there twice")
        args[parameter.name] = _number(parameter, param.value, f"{action.name}: {parameter.name}")
    for parameter in action.parameters.values():
        if parameter.name not in args:
            raise Refusal(BAD, f"{action.name}: parameter {parameter.name} is missing")
    return args


def _matched(where: Field, match: p4r.FieldMatch, what: str) -> tuple[int, int]:
    kind = match.WhichOneof("field_match_type")
    if kind != where.kind.name.lower():
        raise Refusal(BAD, f"{what} is matched {where.kind.name}, and this is {kind or 'nothing'}")
    if where.kind is Kind.EXACT:
        return _number(where, match.exact.value, what), where.ones
    if where.kind is Kind.LPM:
        value, length = _number(where, match.lpm.value, what), match.lpm.prefix_len
        if not 0 < length <= where.width:
            raise Refusal(BAD, f"{what}: a prefix of {length} bits; don't care is left out")
        mask = where.ones ^ (where.ones >> length)
    else:
        value = _number(where, match.ternary.value, what)
        mask = _number(where, match.ternary.mask, what)
        if not mask:
            raise Refusal(BAD, f"{what}: a mask of zero; don't care is left out")
    if value & ~mask:
        raise Refusal(BAD, f"{what}: {value:#x} has bits beyond its mask {mask:#x}")
    return value, mask


def _number(where: Field, value: bytes, what: str) -> int:
    """Return a byte string's number, which may have leading zeros (8.4)."""
    if not value:
        raise Refusal(grpc.StatusCode.OUT_OF_RANGE, f"{what} has no value")
    number = int.from_bytes(value)
    if number > where.ones:
        told = f"{what}: {number:#x} does not fit into {where.width} bits"
        raise Refusal(grpc.StatusCode.OUT_OF_RANGE, told)
    return number


def _check_priority(table: Table, priority: int) -> None:
    if priority < 0:
        raise Refusal(BAD, f"{table.name}: a priority below zero")
    if table.has_priority and priority == 0:  # 9.1
        raise Refusal(BAD, f"{table.name} has ternary fields, so an entry needs a priority")
    if priority and not table.has_priority:
        raise Refusal(BAD, f"{table.name} has no ternary field, so an entry has no priority")
