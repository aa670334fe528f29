"""Switch "intel": the P4 program of an IPU E2100, over P4Runtime."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from finsy.proto import p4i, p4r

from dataplane.core.capability import Capability
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import Change, Item, Rendering
from dataplane.core.errors import TargetError
from dataplane.core.model import EntryKey, Mac, Vni
from dataplane.core.placement import Traffic
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import SWITCH_TARGET
from vendors.fit import check_refused, fit, without
from vendors.intel.client import (
    Client,
    NotPrimaryError,
    P4RuntimeError,
    Refusal,
    Server,
)
from vendors.intel.numbers import (
    Ids,
    allocate,
    from_device,
    is_ours,
    learn,
    ours_of,
    to_device,
)
from vendors.intel.p4info import P4InfoError, Schema
from vendors.intel.pipeline import (
    BRIDGE_FIELD,
    BRIDGES,
    LOOPBACK,
    PIPELINE,
    RECEIVE,
    SEND,
    SOURCE_FIELD,
    TABLES,
    UNDERLAY,
    VPORT_OFFSET,
    Bridge,
    DeviceRow,
    Numbers,
    Row,
    Stage,
    Symbol,
    TunnelSource,
    Wiring,
)
from vendors.intel.report import Findings, capability
from vendors.intel.rows import render_rows

_ALIVE_S = 0.7  # within this a live device answers, however busy (contracts, Switch.ping)
_CALL_S = 2.0  # and does what it is asked
_MOST_ROUNDS = 32  # of one change; each learns that a table is full, or what is refused
_FULL = "RESOURCE_EXHAUSTED"  # P4Runtime 1.4, 12.3
_GONE = "NOT_FOUND"

_NONE = Traffic(0, 0)
_TAKING = frozenset(table.name for table in PIPELINE if table.stage is Stage.ENABLE)
_TERMS = frozenset(each["term"].name for each in UNDERLAY.values())

Key = tuple[str, Numbers]


class IntelSwitch:
    """The device at ``server``; rows of others stay. Call close() in the end."""

    name = SWITCH_TARGET
    deadline_s = 15.0
    bound_by = frozenset({"nic", "next_hops", "placed"})

    def __init__(
        self, server: Server, wiring: Wiring, started_at: int, *, emulated: bool = False
    ) -> None:
        self._wiring = wiring
        self._emulated = emulated
        self._client = Client(server, started_at, _CALL_S)
        self._program: _Program | None = None
        self._seen: _Seen | None = None

    def close(self) -> None:
        """Let go of the device; what is placed stays."""
        self._client.close()

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        return render_rows(desired, bindings, self._wiring)

    def observe(self) -> Mapping[Hashable, Item]:
        with _asking():
            seen = self._look(self._schema())
        rows = (from_device(each, seen.ids.names) for each in seen.ours)
        return {row.key: row for row in rows}

    def apply(self, change: Change) -> None:
        with _asking():
            self._client.check_primary()
            schema = self._schema()
            seen = self._look(schema)
            present = {row.key: row for row in seen.rows}
            until = time.monotonic() + self.deadline_s - 2 * _CALL_S
            attempt = _Attempt(self._client, schema, seen, present, until)
            refused = attempt.make(change)
        check_refused(self.name, refused)

    def ping(self) -> None:
        with _asking():
            self._client.ping(_ALIVE_S)

    def describe(self) -> Capability:
        with _asking():
            obstacle = self._obstacle()
            schema = self._schema()
            rows = self._look(schema).rows
        found = {table.name: next(schema.faults(table), "") for table in PIPELINE}
        findings = Findings(
            rows=rows,
            sizes={name: info.size for name, info in schema.tables.things.items()},
            faults={name: words for name, words in found.items() if words},
            pools=schema.pools,
            obstacle=obstacle,
        )
        return capability(findings, self._wiring, emulated=self._emulated)

    def counters(self) -> Mapping[EntryKey, Traffic]:
        with _asking():
            schema = self._schema()
            counted: dict[Key, Traffic] = {}
            seen = self._look(schema, counted)
        names = seen.ids.names
        found: dict[EntryKey, Traffic] = {}
        for each in seen.ours:
            if each.table in (SEND.name, RECEIVE.name):
                key = _entry(from_device(each, names))
                if key is not None:
                    before, more = found.get(key, _NONE), counted.get(each.key, _NONE)
                    found[key] = Traffic(before.packets + more.packets, before.bytes + more.bytes)
        return found

    # --- asking ------------------------------------------------------------------------------

    def _schema(self) -> Schema:
        info, known = self._client.p4info(), self._program
        if known is None or known.info != info:
            self._program = known = _Program(info, Schema.read(info))
        return known.schema

    def _obstacle(self) -> str:
        """Return why we may not write."""
        try:
            self._client.check_primary()
        except NotPrimaryError as error:
            return str(error)
        return ""

    def _look(self, schema: Schema, counted: dict[Key, Traffic] | None = None) -> _Seen:
        """Return what the device has now; ``counted`` is given what the rows that count have."""
        wanted = [p4r.TableEntry()]
        if counted is not None:
            sends = p4r.TableEntry(table_id=schema.tables[SEND.name].id)
            sends.counter_data.SetInParent()
            wanted.append(sends)
        before = self._seen if self._seen and self._seen.schema is schema else None
        known, told = before.told if before else {}, dict[bytes, DeviceRow | None]()
        for entry in self._client.read(*wanted):
            if entry.is_default_action:
                continue
            data = entry.counter_data if entry.HasField("counter_data") else None
            packets, octets = (data.packet_count, data.byte_count) if data else (0, 0)
            entry.ClearField("counter_data")
            text = entry.SerializeToString()
            row = told[text] = known[text] if text in known else schema.decode(entry)
            if row is not None and data is not None and counted is not None:
                counted[row.key] = Traffic(max(0, packets), max(0, octets))
        seen = _Seen.of(schema, told, before)
        self._seen = seen
        return seen


@dataclass(frozen=True, slots=True)
class _Program:
    """The P4 program of the device, and what it means."""

    info: p4i.P4Info
    schema: Schema


@dataclass(frozen=True, slots=True)
class _Seen:
    """The rows that were found in the device, those of ours, and what their numbers stand for.

    ``told`` are the rows by the device's own bytes: of what is told again as it was, nothing has to
    be found out anew. Every look asks for every row all the same.
    """

    schema: Schema
    told: Mapping[bytes, DeviceRow | None]
    rows: tuple[DeviceRow, ...]
    ours: tuple[DeviceRow, ...]
    ids: Ids

    @classmethod
    def of(
        cls, schema: Schema, told: Mapping[bytes, DeviceRow | None], before: _Seen | None
    ) -> _Seen:
        """Return what ``told`` means, by what was found ``before`` if it is the same."""
        rows = tuple({row.key: row for row in told.values() if row is not None}.values())
        if before is not None and before.rows == rows:
            return replace(before, told=told)
        ours = ours_of(rows, schema.pools)
        return cls(schema, told, rows, ours, learn(ours, schema.pools))


@contextmanager
def _asking() -> Iterator[None]:
    """Make what goes wrong a TargetError."""
    try:
        yield
    except (P4RuntimeError, P4InfoError) as error:
        raise TargetError(f"the DPU's switch: {error}") from error


def _entry(row: Row) -> EntryKey | None:
    """Return whose frames a row of the forwarding tables is for; None: it lacks others."""
    match, params = dict(row.match), dict(row.params)
    bridge, mac = match.get(BRIDGE_FIELD), match.get("dst_mac")
    leads_nowhere = isinstance(params.get("tunnel_id"), int)
    if leads_nowhere or not isinstance(bridge, Bridge) or not isinstance(mac, int):
        return None
    return EntryKey(Vni(bridge.vni), Mac(mac.to_bytes(6).hex(":")))


@dataclass(slots=True)
class _Attempt:
    """A change in the making; what stands in the device is known at every step."""

    client: Client
    schema: Schema
    seen: _Seen
    present: dict[Key, DeviceRow]
    until: float
    room: dict[Hashable, int] = field(default_factory=dict)
    words: dict[Hashable, str] = field(default_factory=dict)
    refused: dict[EntryKey, str] = field(default_factory=dict)
    made: dict[Key, Row] = field(default_factory=dict)

    def make(self, change: Change) -> Mapping[EntryKey, str]:
        """Make ``change`` as far as the device takes it; return which entries go without."""
        ours, ids = self.seen.ours, self.seen.ids
        wanted = (*change.add.values(), *change.update.values())
        rows = tuple(row for row in wanted if isinstance(row, Row))
        ids, lacking = allocate(ids, {s for row in rows for s in row.symbols}, self.schema.pools)
        going = [row for row in _numbered(change.remove.values(), ids) if row.key in self.present]
        self._remove(row for row in going if TABLES[row.table].stage >= Stage.KNOWN)
        rows = self._without_numbers(rows, lacking)
        devices = dict[Hashable, DeviceRow](
            zip((row.key for row in rows), _numbered(rows, ids), strict=True)
        )
        self._spare_others({row.key for row in ours}, rows, devices)
        self._refuse_dead_ends(rows, devices, {row.key for row in going})
        self._set(rows, devices)
        kept = {devices[row.key].key for row in self._left(rows)}
        stale = [row for row in _numbered(change.update.values(), ids) if row.key not in kept]
        self._remove(self._forsaken(ids))
        self._remove([*stale, *going])  # what rewrites, once nothing leads to it
        return self.refused

    def _forsaken(self, ids: Ids) -> list[DeviceRow]:
        """Return the rows that take frames of who goes without.

        What rewrites those frames may be what was lost and refused: they are the software's now.
        """
        if not self.refused:
            return []
        pools, names = self.schema.pools, ids.names
        taking = [r for r in self.present.values() if r.table in _TAKING and is_ours(r, pools)]
        found = {row for row in taking if _entry(from_device(row, names)) in self.refused}
        sends = (row for row in taking if row.table == SEND.name and row not in found)
        used = {dict(row.params).get("tunnel_id") for row in sends}
        terms = (row for row in taking if row.table in _TERMS)
        return [*found, *(row for row in terms if dict(row.params).get("tunnel_id") not in used)]

    def _set(self, rows: tuple[Row, ...], devices: Mapping[Hashable, DeviceRow]) -> None:
        """Set as many whole entries as the device takes, and take back what is of no other."""
        before = {row.key for row in rows if devices[row.key].key in self.present}
        for _ in range(_MOST_ROUNDS):
            found = fit(self._left(rows), before, self.room)
            for entry, why in found.refused.items():
                self.refused.setdefault(entry, self._full(why))
            keys = {devices[row.key].key for row in found.rows}
            self._remove([self.present[key] for key in self.made if key not in keys])
            if self._write([(row, devices[row.key]) for row in found.rows]):
                return
        raise TargetError(f"the device refused more than {_MOST_ROUNDS} times in turn")

    def _left(self, rows: Iterable[Row]) -> tuple[Row, ...]:
        """Return the rows that somebody needs; who goes without needs none for its VF either."""
        return tuple(row for row in without(rows, self.refused) if row.owner not in self.refused)

    def _without_numbers(
        self, rows: tuple[Row, ...], lacking: frozenset[Symbol]
    ) -> tuple[Row, ...]:
        """Return the rows that have their numbers, and refuse who needs the others."""
        for row in rows:
            if missing := row.symbols & lacking:
                kind = type(min(missing, key=repr))
                size = len(self.schema.pools.ours(kind))
                why = f"{Reason.TABLE_FULL}: all {size} numbers for a {kind.__name__} are taken"
                self._refuse(row, why)
        return tuple(row for row in self._left(rows) if not row.symbols & lacking)

    def _spare_others(
        self, ours: AbstractSet[Key], rows: Iterable[Row], devices: Mapping[Hashable, DeviceRow]
    ) -> None:
        """Refuse who needs a row that others have there, with another action.

        The VTEP of a MAC is nobody else's: nobody else has tunnels there (report.capability).
        """
        for row in rows:
            device = devices[row.key]
            there = self.present.get(device.key)
            if there in (None, device) or there.key in ours or row.stage is Stage.TUNNEL:
                continue
            match = ", ".join(f"{name}={value:#x}" for name, value in device.match)
            self._refuse(row, f"{Reason.SWITCH_TAKEN}: {row.table} has {match} of somebody else")

    def _refuse_dead_ends(
        self,
        rows: Iterable[Row],
        devices: Mapping[Hashable, DeviceRow],
        going: AbstractSet[Key],
    ) -> None:
        """Refuse VFs that others of their bridge have no way to or from: the device would drop.

        The ways are its plugin's; who is ``going`` is no other.
        """
        ways = {row for row in self.present.values() if row.table == LOOPBACK}
        joining = [(devices[r.key], r) for r in rows if r.table == BRIDGES.name and r.owner]
        moved = going | {device.key for device, _ in joining}
        members: dict[int, set[int]] = defaultdict(set)
        for each in self.present.values():
            if each.table == BRIDGES.name and each.key not in moved:
                vport, bridge = _membership(each)
                members[bridge] |= {vport} - set(self.schema.pools.ours(TunnelSource))
        for device, row in sorted(joining, key=lambda pair: pair[0].match):
            vport, bridge = _membership(device)
            others = members[bridge]
            lacking = {o for o in others if not {_way(vport, o), _way(o, vport)} <= ways}
            if lacking:
                between = f"VSI {vport - VPORT_OFFSET} and {min(lacking) - VPORT_OFFSET}"
                why = f"{LOOPBACK} has not both ways between {between}"
                self._refuse(row, f"{Reason.NO_SWITCH_PORT}: {why}")
            else:
                others.add(vport)

    def _refuse(self, row: Row, why: str) -> None:
        """Have those go without who cannot be placed without ``row``."""
        for entry in (row.owner,) if row.owner else row.entries:
            self.refused.setdefault(entry, why)

    def _write(self, rows: Sequence[tuple[Row, DeviceRow]]) -> bool:
        """Set rows in order of their stages; False, and the rest left, once some are refused."""
        stages: dict[int, list[tuple[Row, DeviceRow]]] = defaultdict(list)
        for row, device in rows:
            if self.present.get(device.key) != device:
                stages[row.stage].append((row, device))
        for stage in sorted(stages):
            new = [pair for pair in stages[stage] if pair[1].key not in self.present]
            old = [pair for pair in stages[stage] if pair[1].key in self.present]
            refusals = [*self._sent(new, is_new=True), *self._sent(old, is_new=False)]
            if refusals:
                self._learn(refusals)
                return False
        return True

    def _sent(
        self, pairs: Sequence[tuple[Row, DeviceRow]], *, is_new: bool
    ) -> Iterator[tuple[Row, Refusal]]:
        """Write rows and yield what the device refused."""
        encoded, sent = [], []
        for row, device in pairs:
            try:
                encoded.append(self.schema.encode(device))
                sent.append((row, device))
            except P4InfoError as error:
                yield row, Refusal("OUT_OF_RANGE", str(error))
        write = self.client.insert if is_new else self.client.modify
        answers = write(encoded, self.until)
        for (row, device), refusal in zip(sent, answers, strict=True):
            if refusal is not None:
                yield row, refusal
                continue
            self.present[device.key] = device
            if is_new:
                self.made[device.key] = row

    def _learn(self, refusals: Iterable[tuple[Row, Refusal]]) -> None:
        """Take in what the device said: a table is full, or a row is never taken."""
        for row, refusal in refusals:
            if refusal.code == _FULL:
                self.room[row.table] = sum(key[0] == row.table for key in self.made)
                self.words[row.table] = f"{Reason.TABLE_FULL}: {row.table}: {refusal}"
            else:
                self._refuse(row, f"{Reason.UNSUPPORTED_MATCH}: {row.table}: {refusal}")

    def _full(self, why: str) -> str:
        """Return the device's own words of the table that ``why`` names."""
        return next((words for table, words in self.words.items() if f" {table} " in why), why)

    def _remove(self, rows: Iterable[DeviceRow]) -> None:
        """Take rows out, what takes frames first. Raises TargetError if the device keeps one."""
        stages: dict[int, list[DeviceRow]] = defaultdict(list)
        for row in rows:
            if row.key in self.present:
                stages[TABLES[row.table].stage].append(row)
        for stage in sorted(stages, reverse=True):
            keys = [self.schema.encode_match(row) for row in stages[stage]]
            answers = self.client.delete(keys, self.until)
            for row, refusal in zip(stages[stage], answers, strict=True):
                if refusal is not None and refusal.code != _GONE:
                    raise TargetError(f"{row.table} keeps a row: {refusal}")
                self.present.pop(row.key)
                self.made.pop(row.key, None)


def _membership(row: DeviceRow) -> tuple[int, int]:
    """Return the source port and the bridge of a row that joins them; 0 is none of ours."""
    return dict(row.match).get(SOURCE_FIELD, 0), dict(row.params).get("bridge_id", 0)


def _way(source: int, target: int) -> DeviceRow:
    """Return the plugin's row that lets one VF, by its vport, reach another."""
    match = (("target_vsi", target - VPORT_OFFSET), ("vmeta.common.vsi", source - VPORT_OFFSET))
    return DeviceRow(LOOPBACK, match, "fwd_to_vsi", (("port", target),))


def _numbered(rows: Iterable[Item], ids: Ids) -> list[DeviceRow]:
    """Return rows with their numbers; what has none is not there."""
    return [
        to_device(row, ids)
        for row in rows
        if isinstance(row, Row) and all(symbol in ids.numbers for symbol in row.symbols)
    ]
