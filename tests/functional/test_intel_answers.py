"""What a P4Runtime server may answer that it should not: the driver says so, in time, and goes on.

The server is real gRPC and keeps rows; a case spoils one of its answers, byte by byte if need be.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from finsy.proto import p4i, p4r, rpc_status
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message

from dataplane.core.desired import Bindings
from dataplane.core.diff import Change, diff
from dataplane.core.errors import PartlyRefusedError, TargetError
from tests.functional.switch_world import NEXT_HOPS, entries
from tests.functional.test_intel_driver import behind
from tests.unit.intel_builders import FREE4, SHIPPED, read_p4info
from tests.unit.overlay_builders import NIC, VTEP4, desired, mac_of, remote, view
from tests.unit.p4_entries import Entries
from vendors.intel import driver as module
from vendors.intel.client import Server
from vendors.intel.driver import IntelSwitch
from vendors.intel.pipeline import Wiring

INFO = read_p4info(SHIPPED)
MAKE = Entries(INFO)
WANTED = desired(
    view(FREE4, [behind(1, FREE4)], [remote(10 + n, FREE4, VTEP4[n % 2]) for n in range(2)])
)
BOUND = Bindings(NIC, next_hops=NEXT_HOPS, placed=entries(WANTED))
ALIVE_S, CALL_S = 0.3, 1.0  # in place of 0.7 and 2, where an answer is spoilt
GARBAGE = b"\xff" * 64
LOOK, WRITES = ("describe",), ("apply",)
FOREIGN = "is programmed by others: geneve_encap_mod_table has "  # a row that is none of ours
CALLS = ("describe", "observe", "counters", "apply")
Code = grpc.StatusCode
Answer = Message | bytes


@dataclass
class Device:
    """A server that answers as it should, but for what a case has put in the place of an answer."""

    rows: dict[bytes, p4r.TableEntry] = field(default_factory=dict)
    alive: Callable[[Any], Answer] = lambda _: p4r.CapabilitiesResponse()
    program: Callable[[Any], Answer] = lambda _: told(INFO)
    read: Callable[[Device, Any], Iterable[Answer]] | None = None
    write: Callable[[Device, p4r.WriteRequest, Any], Answer] | None = None
    elect: Callable[[p4r.MasterArbitrationUpdate, Any], Iterable[Answer]] | None = None
    writes: int = 0
    asleep: threading.Event = field(default_factory=threading.Event)

    def handlers(self) -> grpc.GenericRpcHandler:
        once, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            "p4.v1.P4Runtime",
            {
                "Capabilities": once(lambda _, c: self.alive(c), None, encoded),
                "GetForwardingPipelineConfig": once(lambda _, c: self.program(c), None, encoded),
                "Read": stream(self._read, p4r.ReadRequest.FromString, encoded),
                "Write": once(self._write, p4r.WriteRequest.FromString, encoded),
                "StreamChannel": grpc.stream_stream_rpc_method_handler(
                    self._stream, p4r.StreamMessageRequest.FromString, encoded
                ),
            },
        )

    def honest(self) -> Iterator[p4r.ReadResponse]:
        yield response(*self.rows.values())

    def apply(self, request: p4r.WriteRequest) -> None:
        for update in request.updates:
            entry = update.entity.table_entry
            key = p4r.TableEntry(table_id=entry.table_id, match=entry.match)
            if update.type == p4r.Update.DELETE:
                self.rows.pop(key.SerializeToString(deterministic=True), None)
            else:
                self.rows[key.SerializeToString(deterministic=True)] = entry

    def _read(self, _request: p4r.ReadRequest, context: Any) -> Iterator[Answer]:
        yield from self.read(self, context) if self.read else self.honest()

    def _write(self, request: p4r.WriteRequest, context: Any) -> Answer:
        self.writes += 1
        if self.write:
            return self.write(self, request, context)
        self.apply(request)
        return p4r.WriteResponse()

    def _stream(self, requests: Any, context: Any) -> Iterator[Answer]:
        for request in requests:
            if self.elect:
                yield from self.elect(request.arbitration, context)
            else:
                yield elected(request.arbitration)


def encoded(answer: Answer) -> bytes:
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def told(info: p4i.P4Info) -> p4r.GetForwardingPipelineConfigResponse:
    config = p4r.ForwardingPipelineConfig(p4info=info)
    return p4r.GetForwardingPipelineConfigResponse(config=config)


def elected(asked: p4r.MasterArbitrationUpdate, code: int = 0) -> p4r.StreamMessageResponse:
    answer = p4r.StreamMessageResponse(arbitration=asked)
    answer.arbitration.status.code = code
    return answer


def response(*rows: p4r.TableEntry) -> p4r.ReadResponse:
    return p4r.ReadResponse(entities=[p4r.Entity(table_entry=row) for row in rows])


class World:
    """A server, a driver of it, and the device's rows as they are when all is well."""

    def __init__(self) -> None:
        self.device = Device()
        self.server = grpc.server(futures.ThreadPoolExecutor(16))
        self.server.add_generic_rpc_handlers((self.device.handlers(),))
        port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        self.address = f"127.0.0.1:{port}"
        self.switch = self.driver()

    def driver(self) -> IntelSwitch:
        return IntelSwitch(Server(self.address), Wiring({"rep0": 27}), time.time_ns())

    def stand_again(self) -> None:
        """Have another driver, which is not elected yet."""
        self.switch.close()
        self.switch = self.driver()

    def change(self) -> Change:
        return diff(self.switch.render(WANTED, BOUND), self.switch.observe())

    def is_whole(self) -> bool:
        """Say whether the device is brought to what is wanted, and says that it is."""
        if change := self.change():
            self.switch.apply(change)
        return not self.change() and set(self.switch.counters()) == entries(WANTED)

    def close(self) -> None:
        self.device.asleep.set()
        self.switch.close()
        self.server.stop(0).wait()


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


# --- what spoils an answer ------------------------------------------------------------------------


def ends(code: Code, words: str = "not today") -> Callable[..., Any]:
    """Return an answer that is an error, wherever it stands."""

    def answer(*args: Any) -> Any:
        args[-1].abort(code, words)

    return answer


def streams(code: Code, words: str = "not today") -> Callable[..., Iterator[Answer]]:
    def answer(*args: Any) -> Iterator[Answer]:
        yield from ()
        args[-1].abort(code, words)

    return answer


def cut(answer: Message) -> bytes:
    return answer.SerializeToString()[:-3]


def altered(change: Callable[[p4i.P4Info], object]) -> Callable[[Any], Answer]:
    """Return a program as ``change`` leaves it."""
    info = p4i.P4Info()
    info.CopyFrom(INFO)
    change(info)
    return lambda _: told(info)


def tables(info: p4i.P4Info, **fields: Any) -> None:
    for table in info.tables:
        for name, value in fields.items():
            setattr(table, name, value)


def fields_of(info: p4i.P4Info, **values: Any) -> None:
    for table in info.tables:
        for each in table.match_fields:
            for name, value in values.items():
                setattr(each, name, value)


def params_of(info: p4i.P4Info, **values: Any) -> None:
    for action in info.actions:
        for each in action.params:
            for name, value in values.items():
                setattr(each, name, value)


def unaliased(info: p4i.P4Info) -> None:
    for table in info.tables:
        table.preamble.ClearField("alias")


def unreferenced(info: p4i.P4Info) -> None:
    del info.actions[:]


def doubled(info: p4i.P4Info) -> None:
    info.tables.extend(list(info.tables))


def reads(*odd: p4r.Entity) -> Callable[[Device, Any], Iterator[Answer]]:
    """Return a read that tells ``odd`` beside what there is."""

    def answer(device: Device, _context: Any) -> Iterator[Answer]:
        yield from device.honest()
        yield p4r.ReadResponse(entities=odd)

    return answer


def rows(change: Callable[[p4r.TableEntry], object]) -> Callable[[Device, Any], Iterator[Answer]]:
    """Return a read in which each row is as ``change`` leaves it."""

    def answer(device: Device, _context: Any) -> Iterator[Answer]:
        for row in device.rows.values():
            copy = p4r.TableEntry()
            copy.CopyFrom(row)
            change(copy)
            yield response(copy)

    return answer


def fdb(**fields: Any) -> p4r.Entity:
    """Return a row that could be ours: of a bridge and to a tunnel in our half."""
    match: Mapping[str, Any] = {"bridge_id": 200, "dst_mac": "02:00:00:00:00:99"}
    row = MAKE("l2_fwd_tx_table", dict(match), "set_geneve_underlay_v4", tunnel_id=600000)
    row.MergeFrom(p4r.TableEntry(**fields))
    return p4r.Entity(table_entry=row)


def encap(*lacking: str, **wide: bytes) -> p4r.Entity:
    """Return a row of the encapsulation in our half, without parameters, or with wide ones."""
    args: dict[str, Any] = {"src_addr": 1, "dst_addr": 2, "src_port": 3, "dst_port": 4, "vni": 5}
    row = MAKE("geneve_encap_mod_table", {"mod_blob_ptr": 600001}, "geneve_encap", **args)
    names = {p.id: p.name for p in MAKE.actions["geneve_encap"].params}
    kept = [p for p in row.action.action.params if names[p.param_id] not in lacking]
    for param in kept:
        param.value = wide.get(names[param.param_id], param.value)
    del row.action.action.params[:]
    row.action.action.params.extend(kept)
    return p4r.Entity(table_entry=row)


def behind_vtep(value: bytes) -> p4r.Entity:
    row = MAKE("l2_to_tunnel_v4", {"da": mac_of(10)}, "set_tunnel_v4", dst_addr=1)
    row.action.action.params[0].value = value
    return p4r.Entity(table_entry=row)


def padded(row: p4r.TableEntry) -> None:
    for match in row.match:
        if match.HasField("exact"):
            match.exact.value = match.exact.value.rjust(20, b"\0")
    for param in row.action.action.params:
        param.value = param.value.rjust(20, b"\0")


def half_then_error(device: Device, context: Any) -> Iterator[Answer]:
    yield response(*list(device.rows.values())[: len(device.rows) // 2])
    context.abort(Code.UNAVAILABLE, "the stream breaks")


def half_then_garbage(device: Device, _context: Any) -> Iterator[Answer]:
    yield response(*list(device.rows.values())[: len(device.rows) // 2])
    yield GARBAGE


def never_ends(device: Device, context: Any) -> Iterator[Answer]:
    yield from device.honest()
    while context.is_active() and not device.asleep.wait(0.05):
        yield p4r.ReadResponse()


def sleeps(device: Device) -> None:
    device.asleep.wait(3 * CALL_S)


def partly(*codes: int, words: str = "no", of: Callable[[p4r.Error], Message] = lambda e: e) -> Any:
    """Return a Write that makes nothing, with an error for each update; the last code goes on."""

    def write(_device: Device, request: p4r.WriteRequest, context: Any) -> Answer:
        told = [codes[min(n, len(codes) - 1)] for n in range(len(request.updates))]
        fail(context, [of(p4r.Error(canonical_code=code, message=words)) for code in told])
        return p4r.WriteResponse()

    return write


def fail(context: Any, errors: Iterable[Message], trailer: bytes = b"") -> None:
    status = rpc_status.Status(code=Code.UNKNOWN.value[0])
    for error in errors:
        detail = AnyMessage()
        detail.Pack(error)
        status.details.append(detail)
    told = trailer or status.SerializeToString()
    context.set_trailing_metadata([("grpc-status-details-bin", told)])
    context.abort(Code.UNKNOWN, "some updates failed")


def undecodable(_device: Device, request: p4r.WriteRequest, context: Any) -> Answer:
    status = rpc_status.Status()
    for _ in request.updates:
        status.details.append(AnyMessage(type_url="type.googleapis.com/p4.v1.Error", value=GARBAGE))
    fail(context, (), status.SerializeToString())
    return p4r.WriteResponse()


def full(code: Code = Code.RESOURCE_EXHAUSTED) -> Any:
    return partly(code.value[0], words="no room")


def forgotten(_device: Device, _request: p4r.WriteRequest, _context: Any) -> Answer:
    return p4r.WriteResponse()


def late(_context: Any) -> Answer:
    time.sleep(2 * ALIVE_S)
    return p4r.CapabilitiesResponse()


def hangs(device: Device, *_: Any) -> Answer:
    sleeps(device)
    return p4r.WriteResponse()


@dataclass(frozen=True)
class Case:
    """One spoilt answer, what is said of it, and which calls say so. No words: nobody complains."""

    spoil: Callable[[Device], object]
    words: str = ""
    calls: tuple[str, ...] = CALLS


def case(
    name: str, spoil: Mapping[str, Any], words: str = "", calls: tuple[str, ...] = CALLS
) -> Any:
    def do(device: Device) -> None:
        for key, value in spoil.items():
            setattr(device, key, value)

    return pytest.param(Case(do, words, calls), id=name)


PROGRAM = [
    case("no program yet", {"program": lambda _: told(p4i.P4Info())}, "has no P4 program yet"),
    case(
        "no program, as an error",
        {"program": ends(Code.FAILED_PRECONDITION)},
        "FAILED_PRECONDITION not today",
    ),
    case("not implemented", {"program": ends(Code.UNIMPLEMENTED)}, "UNIMPLEMENTED"),
    case("who are you", {"program": ends(Code.UNAUTHENTICATED)}, "UNAUTHENTICATED"),
    case("no such device", {"program": ends(Code.NOT_FOUND, "device 1")}, "NOT_FOUND device 1"),
    case("odd words", {"program": ends(Code.INTERNAL, "né\t'%s' {}")}, "né"),
    case("an empty answer", {"program": lambda _: b""}, "has no P4 program yet"),
    case("garbage", {"program": lambda _: GARBAGE}, "INTERNAL"),
    case("cut short", {"program": lambda _: cut(told(INFO))}, "INTERNAL"),
    case("no UTF-8", {"program": lambda _: b"\x0a\x06\x0a\x04\x0a\x02\xff\xfe"}, "INTERNAL"),
    case(
        "five megabytes",
        {"program": altered(lambda i: setattr(i.pkg_info, "name", "x" * 5_000_000))},
        "RESOURCE_EXHAUSTED",
    ),
    case("tables without names", {"program": altered(unaliased)}, "has no ", LOOK),
    case("tables twice", {"program": altered(doubled)}, "twice", LOOK),
    case("no actions", {"program": altered(unreferenced)}, "has no ", LOOK),
    case(
        "fields of no bits",
        {"program": altered(lambda i: fields_of(i, bitwidth=0))},
        "0 bits",
        LOOK,
    ),
    case(
        "fields of less than no bits",
        {"program": altered(lambda i: fields_of(i, bitwidth=-1))},
        "0 bits",
        LOOK,
    ),
    case(
        "parameters of less than no bits",
        {"program": altered(lambda i: params_of(i, bitwidth=-1))},
        "0 bits",
        LOOK,
    ),
    case(
        "fields of two thousand million bits",
        {"program": altered(lambda i: fields_of(i, bitwidth=2**31 - 1))},
        "2147483647 bits",
        LOOK,
    ),
    case(
        "a kind of match from the future",
        {"program": altered(lambda i: fields_of(i, match_type=99))},
        "in a way that we do not know",
        WRITES,
    ),
    case("tables of no rows", {"program": altered(lambda i: tables(i, size=0))}),
    case("tables of less", {"program": altered(lambda i: tables(i, size=-1))}),
    case(
        "fields that are not known",
        {"program": lambda _: told(INFO).SerializeToString() + b"\xf2\x7f\x01x"},
    ),
]
READS = [
    case("nothing at all", {"read": lambda *_: iter(())}),
    case("an empty answer", {"read": lambda *_: iter((p4r.ReadResponse(),))}),
    case("garbage", {"read": lambda *_: iter((GARBAGE,))}, "INTERNAL"),
    case("garbage after half", {"read": half_then_garbage}, "INTERNAL"),
    case("it breaks after half", {"read": half_then_error}, "UNAVAILABLE the stream breaks"),
    case("it never ends", {"read": never_ends}, "DEADLINE_EXCEEDED"),
    case("refused", {"read": streams(Code.PERMISSION_DENIED)}, "PERMISSION_DENIED"),
    case("not implemented", {"read": streams(Code.UNIMPLEMENTED)}, "UNIMPLEMENTED"),
    case("too much", {"read": streams(Code.RESOURCE_EXHAUSTED)}, "RESOURCE_EXHAUSTED"),
    case("an entity of nothing", {"read": reads(p4r.Entity())}),
    case("another kind of entity", {"read": reads(p4r.Entity(meter_entry=p4r.MeterEntry()))}),
    case("a table of no name", {"read": reads(p4r.Entity(table_entry=p4r.TableEntry(table_id=7)))}),
    case("rows twice", {"read": lambda d, _: [*d.honest(), *d.honest()]}),
    case("leading zeros", {"read": rows(padded)}),
    case("a default action", {"read": reads(fdb(is_default_action=True))}),
    case("an action of no name", {"read": reads(fdb(action={"action": {"action_id": 7}}))}),
    case("no action", {"read": reads(fdb(action={"action_profile_member_id": 1}))}),
    case(
        "a field of no name",
        {"read": reads(fdb(match=[{"field_id": 9, "exact": {"value": b"1"}}]))},
    ),
    case("a field twice", {"read": reads(fdb(match=fdb().table_entry.match[:1]))}),
    case("a match of no kind", {"read": reads(fdb(match=[{"field_id": 9}]))}),
    case("a priority that it has not", {"read": reads(fdb(priority=7))}),
    case("a parameter is missing", {"read": reads(encap("dst_addr"))}, FOREIGN, LOOK),
    case(
        "all parameters are missing",
        {"read": reads(encap(*["src_addr", "dst_addr", "src_port", "vni"]))},
        FOREIGN,
        LOOK,
    ),
    case("a wide parameter", {"read": reads(encap(dst_addr=b"\1" * 9))}, FOREIGN, LOOK),
    case("an empty parameter", {"read": reads(encap(vni=b""))}),
    case("a wide VTEP", {"read": reads(behind_vtep(b"\1" * 9))}),
    case("an empty VTEP", {"read": reads(behind_vtep(b""))}),
    case(
        "a wide MAC", {"read": reads(fdb(match=[{"field_id": 2, "exact": {"value": b"\1" * 9}}]))}
    ),
    case("a counter below zero", {"read": reads(fdb(counter_data={"packet_count": -5}))}),
]
WRITTEN = [
    case("garbage", {"write": lambda *_: GARBAGE}, "INTERNAL", WRITES),
    case("no more primary", {"write": ends(Code.PERMISSION_DENIED)}, "PERMISSION_DENIED", WRITES),
    case("aborted", {"write": ends(Code.ABORTED)}, "ABORTED not today", WRITES),
    case("a program that it lost", {"write": ends(Code.FAILED_PRECONDITION)}, "FAILED_", WRITES),
    case("it hangs", {"write": hangs}, "DEADLINE_EXCEEDED", WRITES),
    case("an error and no details", {"write": ends(Code.UNKNOWN)}, "UNKNOWN not today", WRITES),
    case(
        "details that are none",
        {"write": lambda _d, _r, c: fail(c, (), GARBAGE)},
        "UNKNOWN some updates failed",
        WRITES,
    ),
    case("details of garbage", {"write": undecodable}, "UNKNOWN some updates failed", WRITES),
    case(
        "details of another type",
        {"write": partly(13, 0, of=lambda e: e if e.canonical_code else p4r.TableEntry())},
        "UNKNOWN some updates failed",
        WRITES,
    ),
    case("an error of nothing", {"write": partly(0)}, "UNKNOWN some updates failed", WRITES),
    case("a code of no name", {"write": partly(99)}, "unsupported-match: ", WRITES),
    case("there already", {"write": partly(6)}, "ALREADY_EXISTS no", WRITES),
    case("one of many", {"write": partly(13, 0)}, "INTERNAL no", WRITES),
    case("all full", {"write": full()}, "table-full: ", WRITES),
    case("it forgets", {"write": forgotten}),
]
ELECTED = [
    case("silence", {"elect": lambda *_: iter(())}, "says nothing of who is primary", WRITES),
    case("garbage", {"elect": lambda *_: iter((GARBAGE,))}, "INTERNAL", WRITES),
    case("it ends", {"elect": streams(Code.INVALID_ARGUMENT, "in use")}, "in use", WRITES),
    case("not implemented", {"elect": streams(Code.UNIMPLEMENTED)}, "UNIMPLEMENTED", WRITES),
    case(
        "an error in its place",
        {"elect": lambda *_: iter((p4r.StreamMessageResponse(error=p4r.StreamError()),))},
        "says nothing of who is primary",
        WRITES,
    ),
    case("a code of no name", {"elect": lambda a, _: [elected(a, 99)]}, "is primary", WRITES),
    case(
        "a packet first",
        {"elect": lambda a, _: [p4r.StreamMessageResponse(packet=p4r.PacketIn()), elected(a)]},
    ),
    case("the same twice", {"elect": lambda a, _: [elected(a), elected(a)]}),
]
SIGNS = [
    case("not implemented", {"alive": ends(Code.UNIMPLEMENTED)}),
    case("garbage", {"alive": lambda _: GARBAGE}),
    case("who are you", {"alive": ends(Code.UNAUTHENTICATED)}),
    case("gone", {"alive": ends(Code.UNAVAILABLE, "up")}, "UNAVAILABLE up", ("ping",)),
    case("silence", {"alive": late}, "no answer within 0.3 s", ("ping",)),
]


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param(*each.values, id=f"{what}: {each.id}")
        for what, cases in (
            ("program", PROGRAM),
            ("read", READS),
            ("write", WRITTEN),
            ("election", ELECTED),
            ("sign of life", SIGNS),
        )
        for each in cases
    ],
)
def test_what_a_server_answers_is_told_and_survived(
    world: World, spoilt: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No call ends as a fault of ours, and all is well once the answers are."""
    assert world.is_whole()
    honest, rows_ = vars(world.device).copy(), dict(world.device.rows)
    change = diff(world.switch.render(WANTED, BOUND), {})
    if spoilt.calls == WRITES:
        world.device.rows.clear()
    spoilt.spoil(world.device)
    monkeypatch.setattr(module, "_ALIVE_S", ALIVE_S)
    monkeypatch.setattr(module, "_CALL_S", CALL_S)
    world.stand_again()
    for call in ("ping", *CALLS):
        began = time.monotonic()
        said, limits = outcome(world.switch, call, change)
        assert time.monotonic() - began < 5 * (ALIVE_S + 3 * CALL_S), call
        if not spoilt.words:
            assert said == "", call
        elif call in spoilt.calls:
            assert spoilt.words in f"{said} {limits}", call
    vars(world.device).update(honest)
    monkeypatch.undo()
    world.stand_again()
    assert world.is_whole()
    assert world.device.rows == rows_


def outcome(switch: IntelSwitch, call: str, change: Change) -> tuple[str, str]:
    """Return what a call complains of (an error, who is refused and why, an obstacle), and limits.

    Whatever is no error of ours would be told as a fault of ours.
    """
    try:
        if call == "apply":
            switch.apply(change)
            return "", ""
        found = getattr(switch, call)()
    except PartlyRefusedError as error:
        return " ".join(error.refused.values()), ""
    except TargetError as error:
        return str(error), ""
    return (found.obstacle, " ".join(found.limits)) if call == "describe" else ("", "")
