"""The emulated E2100's tables: as strict as P4Runtime 1.4, and what they hold and hit."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from finsy.proto import p4i, p4r
from google.protobuf import text_format
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.core.errors import InvalidValueError
from tests.unit.p4_entries import Entries, Key, e2100_info
from vendors.emulator.e2100.entries import Refusal
from vendors.emulator.e2100.schema import parse_text, read
from vendors.emulator.e2100.tables import Tables

INFO = e2100_info()
SCHEMA = read(INFO)
MAKE = Entries(INFO)
MAC = "02:00:00:00:00:07"
INSERT, MODIFY, DELETE = p4r.Update.INSERT, p4r.Update.MODIFY, p4r.Update.DELETE
BAD, WIDE = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE
DENIED, MISSING = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND
EXISTS, FULL = grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.RESOURCE_EXHAUSTED

# What the E2100 has none of, so that the rules for it are shown, too.
ODD = """
tables { preamble { id: 1 name: "c.keyless" } action_refs { id: 9 } size: 4 }
tables { preamble { id: 2 name: "c.constant" } match_fields { id: 1 name: "f" bitwidth: 8
  match_type: EXACT } action_refs { id: 9 } size: 4 is_const_table: true }
tables { preamble { id: 3 name: "c.scoped" } match_fields { id: 1 name: "f" bitwidth: 8
  match_type: EXACT } action_refs { id: 9 scope: TABLE_ONLY } action_refs { id: 8 } size: 4 }
tables { preamble { id: 4 name: "c.ranged" } match_fields { id: 1 name: "f" bitwidth: 8
  match_type: RANGE } action_refs { id: 9 } size: 4 }
tables { preamble { id: 5 name: "c.indirect" } match_fields { id: 1 name: "f" bitwidth: 8
  match_type: EXACT } action_refs { id: 9 } implementation_id: 77 size: 4 }
actions { preamble { id: 9 name: "c.go" } params { id: 1 name: "x" bitwidth: 8 } }
actions { preamble { id: 8 name: "c.stay" } }
"""


def fdb(mac: str = MAC, port: int = 43) -> p4r.TableEntry:
    return MAKE("l2_fwd_tx_table", {"bridge_id": 1, "dst_mac": mac}, "l2_fwd", port=port)


def tunnel() -> p4r.TableEntry:
    key: Key = {"ipv4_src": "192.0.2.2", "vni": 100}
    return MAKE("ipv4_tunnel_term_table", key, "set_geneve_decap_outer_hdr", tunnel_id=5)


def route(length: int = 24) -> p4r.TableEntry:
    key: Key = {"ipv4_table_lpm_root": 0, "ipv4_dst_match": ("192.0.2.0", length)}
    return MAKE("ipv4_table", key, "ipv4_set_nexthop_id", nexthop_id=1)


def bridged(
    priority: int = 1, port: tuple[int, int] = (2048, 0xFFFF), vid: tuple[int, int] = (0, 0xFFF)
) -> p4r.TableEntry:
    key: Key = {"source_port": port, "vid": vid}
    return MAKE("source_port_to_bridge_map", key, "set_bridge_id", priority=priority, bridge_id=1)


def having(entry: p4r.TableEntry, **fields: Any) -> p4r.TableEntry:
    """Return ``entry`` with more in it; what is repeated gets longer."""
    entry.MergeFrom(p4r.TableEntry(**fields))
    return entry


def doing(entry: p4r.TableEntry, action: p4r.Action | None) -> p4r.TableEntry:
    """Return ``entry`` with another action or none."""
    entry.ClearField("action")
    return entry if action is None else having(entry, action=p4r.TableAction(action=action))


def keyed(value: bytes) -> p4r.TableEntry:
    """Return an entry whose first exact match is for these bytes."""
    entry = fdb()
    entry.match[0].exact.value = value
    return entry


def forwarding(*params: tuple[int, bytes]) -> p4r.TableEntry:
    """Return an entry whose action has these parameters."""
    action = MAKE.action("l2_fwd")
    for number, value in params:
        action.params.add(param_id=number, value=value)
    return doing(fdb(), action)


def cut(entry: p4r.TableEntry) -> p4r.TableEntry:
    """Return ``entry`` without its last match field."""
    del entry.match[-1]
    return entry


@pytest.fixture
def tables() -> Tables:
    return Tables(SCHEMA, {})


@pytest.fixture
def odd() -> tuple[Tables, Entries]:
    info = text_format.Parse(ODD, p4i.P4Info())
    return Tables(read(info), {}), Entries(info)


def refused(tables: Tables, kind: p4r.Update.Type.ValueType, entry: p4r.TableEntry) -> Refusal:
    before = tables.read(p4r.TableEntry())
    with pytest.raises(Refusal) as caught:
        tables.write(kind, entry)
    assert tables.read(p4r.TableEntry()) == before
    return caught.value


EXACT = p4r.FieldMatch.Exact
TERNARY = p4r.FieldMatch.Ternary
MEMBER = p4r.TableAction(action_profile_member_id=1)


@pytest.mark.parametrize(
    ("entry", "code", "words"),
    [
        pytest.param(p4r.TableEntry(table_id=7), BAD, "no table 7", id="unknown table"),
        pytest.param(
            having(fdb(), match=[p4r.FieldMatch(field_id=9, exact=EXACT(value=b"1"))]),
            BAD,
            "no match field 9",
            id="unknown field",
        ),
        pytest.param(having(fdb(), match=fdb().match[:1]), BAD, "twice", id="field twice"),
        pytest.param(cut(fdb()), BAD, "dst_mac is missing", id="exact field missing"),
        pytest.param(
            having(cut(fdb()), match=[p4r.FieldMatch(field_id=2, ternary=TERNARY(mask=b"1"))]),
            BAD,
            "is matched EXACT, and this is ternary",
            id="another kind",
        ),
        pytest.param(
            having(cut(fdb()), match=[p4r.FieldMatch(field_id=2)]), BAD, "nothing", id="no kind"
        ),
        pytest.param(keyed(b"\1\0"), WIDE, "8 bits", id="wide value"),
        pytest.param(keyed(b""), WIDE, "no value", id="empty value"),
        pytest.param(route(0), BAD, "don't care is left out", id="prefix of none"),
        pytest.param(route(33), BAD, "a prefix of 33 bits", id="prefix too long"),
        pytest.param(route(8), BAD, "beyond its mask", id="bits behind the prefix"),
        pytest.param(bridged(vid=(0, 0)), BAD, "mask of zero", id="mask of zero"),
        pytest.param(bridged(vid=(0, 0x1000)), WIDE, "12 bits", id="wide mask"),
        pytest.param(bridged(port=(0x800, 0x700)), BAD, "beyond its mask", id="bits unmasked"),
        pytest.param(bridged(0), BAD, "needs a priority", id="no priority"),
        pytest.param(bridged(-1), BAD, "below zero", id="negative priority"),
        pytest.param(having(fdb(), priority=1), BAD, "has no priority", id="undue priority"),
        pytest.param(doing(fdb(), None), BAD, "this is none", id="no action"),
        pytest.param(having(fdb(), action=MEMBER), BAD, "profile_member", id="profile member"),
        pytest.param(
            doing(fdb(), MAKE.action("fwd_to_cp")), BAD, "no action 21283156", id="another's action"
        ),
        pytest.param(
            doing(tunnel(), MAKE.action("trap_enable")), DENIED, "default action only", id="scope"
        ),
        pytest.param(forwarding(), BAD, "port is missing", id="parameter missing"),
        pytest.param(
            forwarding((1, b"1"), (2, b"1")), BAD, "no parameter 2", id="unknown parameter"
        ),
        pytest.param(forwarding((1, b"1"), (1, b"1")), BAD, "is there twice", id="parameter twice"),
        pytest.param(forwarding((1, b"\1\0\0\0\0")), WIDE, "32 bits", id="wide parameter"),
        pytest.param(forwarding((1, b"")), WIDE, "no value", id="empty parameter"),
        pytest.param(having(fdb(), is_const=True), BAD, "is_const", id="const"),
        pytest.param(having(fdb(), idle_timeout_ns=1), BAD, "idle", id="idle timeout"),
        pytest.param(
            having(fdb(), time_since_last_hit=p4r.TableEntry.IdleTimeout()), BAD, "idle", id="hit"
        ),
        pytest.param(having(fdb(), meter_config=p4r.MeterConfig()), BAD, "meter", id="meter"),
        pytest.param(
            having(tunnel(), counter_data=p4r.CounterData()), BAD, "counter", id="no counter there"
        ),
    ],
)
def test_an_entry_that_is_refused(
    tables: Tables, entry: p4r.TableEntry, code: grpc.StatusCode, words: str
) -> None:
    refusal = refused(tables, INSERT, entry)
    assert (refusal.code, words in str(refusal)) == (code, True), str(refusal)


def test_what_stands_there_already(tables: Tables) -> None:
    tables.write(INSERT, fdb(port=43))
    assert refused(tables, INSERT, fdb(port=44)).code == EXISTS
    tables.write(INSERT, bridged(1))
    tables.write(INSERT, bridged(2))  # another priority is another entry
    assert refused(tables, INSERT, bridged(2)).code == EXISTS


@pytest.mark.parametrize("kind", [MODIFY, DELETE])
def test_what_does_not_stand_there(tables: Tables, kind: p4r.Update.Type.ValueType) -> None:
    tables.write(INSERT, fdb("02:00:00:00:00:01"))
    assert refused(tables, kind, fdb()).code == MISSING


def test_deletion_looks_at_the_key_alone(tables: Tables) -> None:
    tables.write(INSERT, fdb())
    tables.write(DELETE, doing(fdb(), p4r.Action(action_id=1)))
    assert tables.read(p4r.TableEntry()) == []


def test_a_full_table_says_its_name_and_takes_what_is_modified(tables: Tables) -> None:
    key = {"bit16_zeros": (4, 0xFFFF)}
    root = MAKE(
        "ipv4_lpm_root_lut", key, "ipv4_lpm_root_lut_action", priority=1, ipv4_table_lpm_root=0
    )
    tables.write(INSERT, root)
    other = MAKE(
        "ipv4_lpm_root_lut", key, "ipv4_lpm_root_lut_action", priority=2, ipv4_table_lpm_root=0
    )
    refusal = refused(tables, INSERT, other)
    assert refusal.code == FULL
    assert "ipv4_lpm_root_lut" in str(refusal)
    tables.write(MODIFY, root)


def test_a_limit_below_the_size(tables: Tables) -> None:
    limits: dict[int, int] = {}
    limited = Tables(SCHEMA, limits)
    limits[fdb().table_id] = 1
    limited.write(INSERT, fdb())
    assert refused(limited, INSERT, fdb("02:00:00:00:00:01")).code == FULL
    limits.clear()
    limited.write(INSERT, fdb("02:00:00:00:00:01"))


def default(entry: p4r.TableEntry) -> p4r.TableEntry:
    entry.is_default_action = True
    return entry


@pytest.mark.parametrize(
    ("kind", "entry", "code"),
    [
        pytest.param(INSERT, MAKE("l2_fwd_tx_table", {}, "fwd_to_cp_tx"), BAD, id="insert"),
        pytest.param(DELETE, MAKE("l2_fwd_tx_table", {}), BAD, id="delete"),
        pytest.param(MODIFY, fdb(), BAD, id="with a match"),
        pytest.param(MODIFY, MAKE("l2_fwd_tx_table", {}, priority=1), BAD, id="with a priority"),
        pytest.param(MODIFY, MAKE("l2_fwd_smac_table", {}, "NoAction"), DENIED, id="constant"),
        pytest.param(MODIFY, MAKE("l2_fwd_tx_table", {}, "drop"), BAD, id="another's action"),
    ],
)
def test_a_default_action_that_is_refused(
    tables: Tables, kind: p4r.Update.Type.ValueType, entry: p4r.TableEntry, code: grpc.StatusCode
) -> None:
    assert refused(tables, kind, default(entry)).code == code


def test_a_default_action_is_changed_and_reset(tables: Tables) -> None:
    def outcome() -> str:
        return tables.match("l2_fwd_tx_table", bridge_id=1, dst_mac=2).action

    asked = default(MAKE("l2_fwd_tx_table", {}))
    assert outcome() == "NoAction"
    tables.write(MODIFY, default(MAKE("l2_fwd_tx_table", {}, "fwd_to_cp_tx")))
    assert outcome() == "fwd_to_cp_tx"
    [found] = tables.read(asked)
    assert found.action.action.action_id == MAKE.actions["fwd_to_cp_tx"].preamble.id
    tables.write(MODIFY, asked)
    assert outcome() == "NoAction"


@pytest.mark.parametrize(
    ("table", "kind", "action", "code"),
    [
        pytest.param("c.keyless", INSERT, "c.go", BAD, id="no key"),
        pytest.param("c.constant", INSERT, "c.go", DENIED, id="insert into a constant table"),
        pytest.param("c.constant", DELETE, "", DENIED, id="delete from a constant table"),
        pytest.param("c.constant", MODIFY, "c.go", DENIED, id="modify a constant entry"),
        pytest.param("c.ranged", INSERT, "c.go", grpc.StatusCode.UNIMPLEMENTED, id="a range"),
        pytest.param("c.indirect", INSERT, "c.go", grpc.StatusCode.UNIMPLEMENTED, id="a profile"),
    ],
)
def test_tables_that_the_e2100_has_none_of(
    odd: tuple[Tables, Entries],
    table: str,
    kind: p4r.Update.Type.ValueType,
    action: str,
    code: grpc.StatusCode,
) -> None:
    tables, make = odd
    match = {} if table in {"c.keyless", "c.ranged"} else {"f": 1}
    entry = make(table, match, action, **({"x": 1} if action else {}))
    assert refused(tables, kind, entry).code == code


def test_an_action_for_match_entries_is_no_default(odd: tuple[Tables, Entries]) -> None:
    tables, make = odd
    assert refused(tables, MODIFY, default(make("c.scoped", {}, "c.go", x=1))).code == DENIED
    tables.write(MODIFY, default(make("c.scoped", {}, "c.stay")))


class TestReading:
    def test_one_table_or_all(self, tables: Tables) -> None:
        for entry in (fdb(), tunnel(), route(), bridged()):
            tables.write(INSERT, entry)
        assert len(tables.read(p4r.TableEntry())) == 4
        assert len(tables.read(p4r.TableEntry(table_id=route().table_id))) == 1

    @pytest.mark.parametrize(
        ("asked", "found"),
        [
            pytest.param(bridged(), 1, id="key"),
            pytest.param(bridged(3), 0, id="key that is not there"),
            pytest.param(MAKE("source_port_to_bridge_map", {}, priority=2), 1, id="priority"),
            pytest.param(MAKE("source_port_to_bridge_map", {}, "set_bridge_id"), 2, id="action"),
            pytest.param(MAKE("source_port_to_bridge_map", {}, "drop"), 0, id="another action"),
        ],
    )
    def test_what_is_selected(self, tables: Tables, asked: p4r.TableEntry, found: int) -> None:
        tables.write(INSERT, bridged(1))
        tables.write(INSERT, bridged(2))
        assert len(tables.read(asked)) == found

    def test_what_is_modified_is_told_as_it_is_now(self, tables: Tables) -> None:
        tables.write(INSERT, fdb(port=43))
        [before] = tables.read(fdb())
        tables.write(MODIFY, fdb(port=44))
        [now] = tables.read(fdb())
        assert before.action.action.params[0].value == b"\x2b"
        assert now.action.action.params[0].value == b"\x2c"

    def test_metadata_is_not_kept(self, tables: Tables) -> None:
        tables.write(INSERT, having(fdb(), metadata=b"mine"))
        [found] = tables.read(fdb())
        assert not found.metadata

    def test_a_bad_key(self, tables: Tables) -> None:
        with pytest.raises(Refusal, match="dst_mac is missing"):
            tables.read(MAKE("l2_fwd_tx_table", {"bridge_id": 1}))


class TestCounters:
    @staticmethod
    def counted(tables: Tables, entry: p4r.TableEntry) -> tuple[int, int]:
        [found] = tables.read_counter(p4r.DirectCounterEntry(table_entry=entry))
        return found.data.packet_count, found.data.byte_count

    def test_what_is_hit_is_counted_and_told_when_asked(self, tables: Tables) -> None:
        tables.write(INSERT, fdb())
        hit = tables.match("l2_fwd_tx_table", bridge_id=1, dst_mac=int(MAC.replace(":", ""), 16))
        tables.count("l2_fwd_tx_table", hit, 100)
        tables.count("l2_fwd_tx_table", hit, 50)
        assert self.counted(tables, fdb()) == (2, 150)
        [plain] = tables.read(fdb())
        assert not plain.HasField("counter_data")
        [asked] = tables.read(having(fdb(), counter_data=p4r.CounterData()))
        assert (asked.counter_data.packet_count, asked.counter_data.byte_count) == (2, 150)

    def test_a_modification_keeps_it_and_a_new_entry_begins_anew(self, tables: Tables) -> None:
        tables.write(INSERT, having(fdb(), counter_data=p4r.CounterData(packet_count=7)))
        tables.write(MODIFY, fdb(port=44))
        assert self.counted(tables, fdb()) == (7, 0)
        data = p4r.CounterData(packet_count=9, byte_count=90)
        tables.write_counter(p4r.DirectCounterEntry(table_entry=fdb(), data=data))
        assert self.counted(tables, fdb()) == (9, 90)
        tables.write(DELETE, fdb())
        tables.write(INSERT, fdb())
        assert self.counted(tables, fdb()) == (0, 0)

    @pytest.mark.parametrize(
        ("entry", "code"),
        [
            pytest.param(fdb(), MISSING, id="no such entry"),
            pytest.param(tunnel(), BAD, id="a table without"),
            pytest.param(p4r.TableEntry(table_id=7), BAD, id="no table"),
        ],
    )
    def test_what_has_no_counter(
        self, tables: Tables, entry: p4r.TableEntry, code: grpc.StatusCode
    ) -> None:
        asked = p4r.DirectCounterEntry(table_entry=entry)
        for call in (tables.read_counter, tables.write_counter):
            with pytest.raises(Refusal) as caught:
                call(asked)
            assert caught.value.code == code

    def test_all_of_them(self, tables: Tables) -> None:
        tables.write(INSERT, fdb())
        tables.write(INSERT, tunnel())
        assert len(tables.read_counter(p4r.DirectCounterEntry())) == 1


def test_device_rows_are_never_lost(tables: Tables) -> None:
    tables.write(INSERT, fdb())
    tables.own()
    assert tables.lose_one() is None
    tables.write(INSERT, tunnel())
    lost = tables.lose_one()
    assert lost is not None
    assert lost.table_id == tunnel().table_id
    assert len(tables.read(p4r.TableEntry())) == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("tables {", "no P4Info in text protobuf", id="no text protobuf"),
        pytest.param(ODD.replace("id: 8 }", "id: 6 }"), "there is no action 6", id="no action"),
        pytest.param(ODD.replace("id: 2 name", "id: 1 name"), "stands there twice", id="twice"),
        pytest.param(ODD.replace("bitwidth: 8", "bitwidth: 0"), "0 bits", id="no width"),
    ],
)
def test_a_p4info_that_contradicts_itself(text: str, words: str) -> None:
    with pytest.raises(InvalidValueError, match=words):
        read(parse_text(text, "it"))


def test_a_name_that_a_table_has_twice_matters_to_nobody_who_does_not_use_it() -> None:
    tables = Tables(SCHEMA, {})
    trap = tables.schema.table("always_trap_arp_table")
    assert trap is not None
    assert [field.name for field in trap.fields] == ["hdrs.inval.data"] * 2


NUMBERS = st.integers(0, 0xFFFF)


@settings(deadline=None)
@given(bridge=st.integers(0, 0xFF), mac=st.integers(0, 2**48 - 1), port=st.integers(0, 2**32 - 1))
def test_full_width_and_canonical_are_the_same_entry(bridge: int, mac: int, port: int) -> None:
    padded, canonical = (
        Entries(INFO, padded=each)(
            "l2_fwd_tx_table", {"bridge_id": bridge, "dst_mac": mac}, "l2_fwd", port=port
        )
        for each in (True, False)
    )
    for first, second in ((padded, canonical), (canonical, padded)):
        tables = Tables(SCHEMA, {})
        tables.write(INSERT, first)
        assert tables.read(p4r.TableEntry()) == [canonical]
        assert refused(tables, INSERT, second).code == EXISTS
        tables.write(DELETE, second)


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(NUMBERS, NUMBERS, st.integers(1, 3)).map(lambda r: (r[0] & r[1], r[1], r[2])),
        max_size=8,
        unique=True,
    ),
    asked=NUMBERS,
)
def test_the_highest_priority_wins(rows: list[tuple[int, int, int]], asked: int) -> None:
    tables = Tables(SCHEMA, {})
    for number, (value, mask, priority) in enumerate(rows):
        key: Key = {"source_port": (value, mask)} if mask else {}
        args = {"bridge_id": number}
        entry = MAKE("source_port_to_bridge_map", key, "set_bridge_id", priority=priority, **args)
        tables.write(INSERT, entry)
    hits = [(p, n) for n, (value, mask, p) in enumerate(rows) if asked & mask == value]
    found = tables.match("source_port_to_bridge_map", source_port=asked, vid=0)
    best = {n for p, n in hits if p == max(hits)[0]}
    assert (found.row is None) == (not hits)
    assert not hits or found.args["bridge_id"] in best


@settings(deadline=None)
@given(
    rows=st.dictionaries(st.integers(1, 32), st.integers(0, 2**32 - 1), max_size=8),
    asked=st.integers(0, 2**32 - 1),
)
def test_the_longest_prefix_wins(rows: dict[int, int], asked: int) -> None:
    tables = Tables(SCHEMA, {})
    prefixes = {n: value >> (32 - n) << (32 - n) for n, value in rows.items()}
    for length, value in prefixes.items():
        key: Key = {"ipv4_table_lpm_root": 0, "ipv4_dst_match": (value, length)}
        tables.write(INSERT, MAKE("ipv4_table", key, "ipv4_set_nexthop_id", nexthop_id=length))
    hits = [n for n, value in prefixes.items() if asked >> (32 - n) == value >> (32 - n)]
    found = tables.match("ipv4_table", ipv4_table_lpm_root=0, ipv4_dst_match=asked)
    assert found.args.get("nexthop_id") == max(hits, default=None)
