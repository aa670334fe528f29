"""P4Runtime entries written by hand from the names in a P4Info, past everything of ours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from pathlib import Path

from finsy.proto import p4i, p4r
from google.protobuf import text_format

P4INFO = Path(__file__).resolve().parents[2] / "vendors" / "emulator" / "e2100" / "p4info.txt"
_CONTROL = "linux_networking_control."

Value = int | str | tuple[int | str, int]
"""A number, a MAC or an address; with a mask, or, of an LPM field, its prefix length."""
Key = dict[str, Value]


def e2100_info() -> p4i.P4Info:
    """Return the P4Info of the emulated E2100."""
    return text_format.Parse(P4INFO.read_text(encoding="utf-8"), p4i.P4Info())


def number(value: int | str) -> int:
    """Return a MAC or an address as a number."""
    if isinstance(value, int):
        return value
    if value.count(":") == 5 and len(value) == 17:
        return int(value.replace(":", ""), 16)
    return int(ip_address(value))


def octets(value: int | str, width: int, *, padded: bool) -> bytes:
    """Return a value in the full width of its bits, or the shortest way."""
    found = number(value)
    size = (width + 7) // 8 if padded else max(1, (found.bit_length() + 7) // 8)
    return found.to_bytes(size)


class Entries:
    """Makes entries of a P4Info, in full width (as p4rt-ctl does) or canonical."""

    def __init__(self, info: p4i.P4Info, *, padded: bool = True) -> None:
        self.padded = padded
        self.tables = {t.preamble.name.removeprefix(_CONTROL): t for t in info.tables}
        self.actions = {a.preamble.name.removeprefix(_CONTROL): a for a in info.actions}

    def __call__(
        self,
        table: str,
        match: Mapping[str, Value],
        action: str = "",
        *,
        priority: int = 0,
        **args: int | str,
    ) -> p4r.TableEntry:
        where = self.tables[table]
        entry = p4r.TableEntry(table_id=where.preamble.id, priority=priority)
        fields = {field.name.rpartition(".")[2]: field for field in where.match_fields}
        for name, value in match.items():
            self._add(entry, fields[name], value)
        if action:
            entry.action.action.CopyFrom(self.action(action, **args))
        return entry

    def action(self, name: str, **args: int | str) -> p4r.Action:
        """Return an action with its arguments."""
        what = self.actions[name]
        made = p4r.Action(action_id=what.preamble.id)
        by_name = {param.name: param for param in what.params}
        for each, value in args.items():
            param = by_name[each]
            made.params.add(param_id=param.id, value=self._octets(value, param.bitwidth))
        return made

    def _add(self, entry: p4r.TableEntry, field: p4i.MatchField, value: Value) -> None:
        match = entry.match.add(field_id=field.id)
        if not isinstance(value, tuple):
            match.exact.value = self._octets(value, field.bitwidth)
        elif field.match_type == p4i.MatchField.LPM:
            match.lpm.value = self._octets(value[0], field.bitwidth)
            match.lpm.prefix_len = value[1]
        else:
            match.ternary.value = self._octets(value[0], field.bitwidth)
            match.ternary.mask = self._octets(value[1], field.bitwidth)

    def _octets(self, value: int | str, width: int) -> bytes:
        return octets(value, width, padded=self.padded)


def updates(kind: p4r.Update.Type.ValueType, entries: Iterable[p4r.TableEntry]) -> list[p4r.Update]:
    """Return an update of each entry."""
    return [p4r.Update(type=kind, entity=p4r.Entity(table_entry=entry)) for entry in entries]
