"""The P4Runtime client against servers that do as the specification allows, and as it does not."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from finsy.proto import p4r, p4r_grpc, rpc_status
from google.protobuf.any_pb2 import Any as AnyMessage

from tests.functional.fabric_support import wait_until
from vendors.intel.client import (
    Client,
    NoPipelineError,
    NotPrimaryError,
    P4RuntimeError,
    Refusal,
    Server,
)

OK, NOT_FOUND, ALREADY_EXISTS = (
    code.value[0]
    for code in (grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS)
)
TIMEOUT_S = 1.0


class Servicer(p4r_grpc.P4RuntimeServicer):
    """Answers as it is told: ``elect`` to an arbitration, ``write`` to a Write."""

    def __init__(self) -> None:
        self.asked: list[p4r.MasterArbitrationUpdate] = []
        self.writes: list[p4r.WriteRequest] = []
        self.elect: Callable[[p4r.MasterArbitrationUpdate], int | None] = lambda _: OK
        self.highest = p4r.Uint128()
        self.write: Callable[[p4r.WriteRequest, Any], None] = lambda *_: None
        self.ended = threading.Event()

    def StreamChannel(self, requests: Any, context: Any) -> Iterator[p4r.StreamMessageResponse]:  # noqa: N802  # gRPC's
        context.add_callback(self.ended.set)
        for request in requests:
            self.asked.append(request.arbitration)
            code = self.elect(request.arbitration)
            if code is None:
                continue
            answer = p4r.StreamMessageResponse()
            answer.arbitration.CopyFrom(request.arbitration)
            answer.arbitration.election_id.CopyFrom(
                request.arbitration.election_id if code == OK else self.highest
            )
            answer.arbitration.status.code = code
            yield answer

    def Write(self, request: p4r.WriteRequest, context: Any) -> p4r.WriteResponse:  # noqa: N802  # gRPC's
        self.writes.append(request)
        self.write(request, context)
        return p4r.WriteResponse()

    def GetForwardingPipelineConfig(self, _request: Any, context: Any) -> Any:  # noqa: N802  # gRPC's
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no forwarding pipeline config set")


@pytest.fixture
def servicer() -> Servicer:
    return Servicer()  # type: ignore[abstract]  # what is not asked for is not answered


@pytest.fixture
def client(servicer: Servicer) -> Iterator[Client]:
    server = grpc.server(futures.ThreadPoolExecutor(8))
    port = server.add_insecure_port("127.0.0.1:0")
    p4r_grpc.add_P4RuntimeServicer_to_server(servicer, server)
    server.start()
    made = Client(Server(f"127.0.0.1:{port}"), 5, TIMEOUT_S)
    yield made
    made.close()
    server.stop(0).wait()


ROW = p4r.TableEntry(table_id=1)


def test_it_stands_with_its_role_and_writes_with_what_it_stood_with(
    servicer: Servicer, client: Client
) -> None:
    assert client.insert([ROW, ROW]) == [None, None]
    (asked,) = servicer.asked
    assert (asked.device_id, asked.role.name) == (1, "overweave")
    assert (asked.election_id.high, asked.election_id.low) == (5, 1)
    (write,) = servicer.writes
    assert (write.election_id, write.role, write.device_id) == (asked.election_id, "overweave", 1)
    assert [each.type for each in write.updates] == [p4r.Update.INSERT] * 2


def test_one_stream_serves_many_writes_and_batches_are_small(
    servicer: Servicer, client: Client
) -> None:
    assert client.delete([ROW] * 300) == [None] * 300
    assert client.modify([ROW]) == [None]
    assert len(servicer.asked) == 1
    assert [len(each.updates) for each in servicer.writes] == [128, 128, 44, 1]


def test_a_backup_does_not_write(servicer: Servicer, client: Client) -> None:
    servicer.elect, servicer.highest = lambda _: ALREADY_EXISTS, p4r.Uint128(high=9)
    with pytest.raises(NotPrimaryError, match=f"election id {9 << 64} above our {(5 << 64) + 1}"):
        client.insert([ROW])
    assert not servicer.writes


def test_where_the_primary_has_left_it_stands_above_all(servicer: Servicer, client: Client) -> None:
    highest = p4r.Uint128(high=9, low=(1 << 64) - 1)
    servicer.elect = lambda asked: OK if asked.election_id.high > 9 else NOT_FOUND
    servicer.highest = highest
    client.check_primary()
    assert [(each.election_id.high, each.election_id.low) for each in servicer.asked] == [
        (5, 1),
        (10, 0),
    ]
    client.insert([ROW])
    assert servicer.writes[0].election_id == p4r.Uint128(high=10)


def test_of_many_threads_that_find_no_primary_one_stands_again(
    servicer: Servicer, client: Client
) -> None:
    def elect(asked: p4r.MasterArbitrationUpdate) -> int:
        time.sleep(TIMEOUT_S / 5)  # all have asked by then
        code: int = OK if asked.election_id.high > 9 else NOT_FOUND
        return code

    servicer.elect, servicer.highest = elect, p4r.Uint128(high=9, low=(1 << 64) - 1)
    with futures.ThreadPoolExecutor(4) as threads:
        for each in [threads.submit(client.check_primary) for _ in range(4)]:
            each.result()
    assert [each.election_id.high for each in servicer.asked] == [5, 10]


def test_a_stream_that_ends_is_opened_anew_with_a_higher_id(
    servicer: Servicer, client: Client
) -> None:
    client.check_primary()
    stream = client._stream
    assert stream is not None
    stream._call.cancel()
    wait_until(lambda: stream.is_over)
    client.check_primary()
    assert [each.election_id.low for each in servicer.asked] == [1, 2]


def test_closing_gives_the_primacy_up_at_once(servicer: Servicer, client: Client) -> None:
    client.check_primary()
    began = time.monotonic()
    client.close()
    assert servicer.ended.wait(TIMEOUT_S)
    assert time.monotonic() - began < 5 * TIMEOUT_S


def test_no_word_of_the_election_is_an_error_in_time(servicer: Servicer, client: Client) -> None:
    servicer.elect = lambda _: None
    began = time.monotonic()
    with pytest.raises(P4RuntimeError, match="says nothing of who is primary in 1 s"):
        client.check_primary()
    assert time.monotonic() - began < 5 * TIMEOUT_S
    servicer.elect = lambda _: OK
    client.check_primary()


def test_a_device_that_does_not_end_the_stream_either_is_said_to_be_silent(
    servicer: Servicer, client: Client
) -> None:
    """It is we who cancel the call, which is no word of the device's."""
    woken = threading.Event()
    servicer.elect = lambda _: None if woken.wait(5 * TIMEOUT_S) else OK
    try:
        with pytest.raises(P4RuntimeError, match="says nothing of who is primary in 1 s"):
            client.check_primary()
    finally:
        woken.set()


def test_without_a_program_it_says_so(client: Client) -> None:
    with pytest.raises(NoPipelineError, match="FAILED_PRECONDITION no forwarding pipeline"):
        client.p4info()


def test_without_a_server_it_names_the_address() -> None:
    lonely = Client(Server("127.0.0.1:1"), 5, TIMEOUT_S)
    with pytest.raises(P4RuntimeError, match=r"127\.0\.0\.1:1, asked for rows: UNAVAILABLE"):
        lonely.read(p4r.TableEntry())
    lonely.close()


# --- errors of updates ------------------------------------------------------------------------


def fail(codes: list[int], words: str = "") -> Callable[[p4r.WriteRequest, Any], None]:
    """Return a Write that ends with an error for each of ``codes``."""

    def write(_request: p4r.WriteRequest, context: Any) -> None:
        status = rpc_status.Status(code=grpc.StatusCode.UNKNOWN.value[0])
        for code in codes:
            detail = AnyMessage()
            detail.Pack(p4r.Error(canonical_code=code, message=words if code else ""))
            status.details.append(detail)
        context.set_trailing_metadata([("grpc-status-details-bin", status.SerializeToString())])
        context.abort(grpc.StatusCode.UNKNOWN, "some updates failed")

    return write


def test_each_update_has_its_own_error(servicer: Servicer, client: Client) -> None:
    servicer.write = fail([0, grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], 0], "no room in x")
    assert client.insert([ROW] * 3) == [None, Refusal("RESOURCE_EXHAUSTED", "no room in x"), None]


@pytest.mark.parametrize("codes", [[], [0], [3, 3, 3]], ids=["none", "too few", "too many"])
def test_errors_that_do_not_fit_the_updates_are_one_of_all(
    servicer: Servicer, client: Client, codes: list[int]
) -> None:
    servicer.write = fail(codes)
    with pytest.raises(P4RuntimeError, match="asked for a write: UNKNOWN some updates failed"):
        client.insert([ROW, ROW])


def test_who_is_refused_as_no_primary_any_more_is_told(servicer: Servicer, client: Client) -> None:
    servicer.write = lambda _, context: context.abort(grpc.StatusCode.PERMISSION_DENIED, "not you")
    with pytest.raises(NotPrimaryError, match="PERMISSION_DENIED not you"):
        client.insert([ROW])


def test_a_server_that_hangs_is_an_error_in_time(servicer: Servicer, client: Client) -> None:
    servicer.write = lambda *_: time.sleep(2 * TIMEOUT_S)
    began = time.monotonic()
    with pytest.raises(P4RuntimeError, match="DEADLINE_EXCEEDED"):
        client.insert([ROW])
    assert time.monotonic() - began < 5 * TIMEOUT_S
