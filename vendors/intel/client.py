"""P4Runtime (specification 1.4) over gRPC: who may write, rows written in batches, rows read.

The election: whoever started last. A driver that is started again takes over from what is left of
the one before, which is refused from then on and does not fight: it stands again only once nobody
is primary.
"""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc
from finsy.proto import p4i, p4r, p4r_grpc, rpc_status
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import DecodeError

from dataplane.core.errors import OverweaveError

ROLE = "overweave"  # beside it the plugin's p4rt-ctl, which has none, may write, too
_BATCH = 128  # updates of one request: few enough that a slow device answers in time
_FAREWELL_S = 0.5  # within this a live device has ended a stream that we have
_NOBODY: int = grpc.StatusCode.NOT_FOUND.value[0]  # is primary (P4Runtime 1.4, 5.3)
_DETAILS = "grpc-status-details-bin"
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),
)


class P4RuntimeError(OverweaveError):
    """The device does not answer, or refuses all; its own words are kept."""


class NoPipelineError(P4RuntimeError):
    """The device has no P4 program yet."""


class NotPrimaryError(P4RuntimeError):
    """Another client may write, and we may not."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files: our key and certificate, and who signs the device's."""

    private_key: Path
    certificate: Path
    ca_cert: Path


@dataclass(frozen=True, slots=True)
class Server:
    """Where a device is asked, ``HOST:PORT`` or ``unix:/PATH``, its number, and as whom."""

    address: str
    device_id: int = 1
    role: str = ROLE
    tls: Certificates | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why the device refused an update: the name of a gRPC code, and its words."""

    code: str
    words: str

    def __str__(self) -> str:
        """Return both."""
        return f"{self.code} {self.words}".rstrip()


class Client:
    """A client of one device; any thread may call, and no call waits longer than ``timeout_s``."""

    def __init__(self, server: Server, started_at: int, timeout_s: float) -> None:
        """Connect when first asked; ``started_at``, in any unit, decides who is primary."""
        self._server = server
        self._started_at = started_at
        self._timeout_s = timeout_s
        self._channel = _channel(server)
        self._stub = p4r_grpc.P4RuntimeStub(self._channel)
        self._stream: _Stream | None = None
        self._streams = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """Give the primacy up and disconnect; what was written stays."""
        with self._lock:
            if self._stream is not None:
                self._stream.end()
        self._channel.close()

    def check_primary(self) -> None:
        """Return if we may write. Raises NotPrimaryError, P4RuntimeError."""
        self._primary()

    def ping(self, timeout_s: float) -> None:
        """Return if the device answers whatever it likes. Raises P4RuntimeError."""
        try:
            self._stub.Capabilities(p4r.CapabilitiesRequest(), timeout=timeout_s)
        except grpc.RpcError as error:
            code, _ = _code(error)
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                silent = f"{self._server.address}: no answer within {timeout_s:g} s"
                raise P4RuntimeError(silent) from error
            if code is grpc.StatusCode.UNAVAILABLE:
                raise self._failed("a sign of life", error) from error

    def p4info(self) -> p4i.P4Info:
        """Return the P4 program that the device runs. Raises NoPipelineError, P4RuntimeError."""
        kind = p4r.GetForwardingPipelineConfigRequest.P4INFO_AND_COOKIE
        request = p4r.GetForwardingPipelineConfigRequest(
            device_id=self._server.device_id, response_type=kind
        )
        with self._asking("the P4 program"):
            answer = self._stub.GetForwardingPipelineConfig(request, timeout=self._timeout_s)
        if not answer.config.p4info.tables:
            raise NoPipelineError(f"{self._server.address} has no P4 program yet")
        return answer.config.p4info

    def read(self, *wanted: p4r.TableEntry) -> list[p4r.TableEntry]:
        """Return the rows that match any of ``wanted``. Raises P4RuntimeError."""
        request = p4r.ReadRequest(
            device_id=self._server.device_id,
            entities=[p4r.Entity(table_entry=each) for each in wanted],
        )
        with self._asking("rows"):
            answers = self._stub.Read(request, timeout=self._timeout_s)
            return [each.table_entry for answer in answers for each in answer.entities]

    def insert(
        self, rows: Sequence[p4r.TableEntry], until: float = math.inf
    ) -> list[Refusal | None]:
        """Add rows and return why each was refused, None: it was not.

        Raises P4RuntimeError, also where time.monotonic() is past ``until`` before all are sent.
        """
        return self._write(p4r.Update.INSERT, rows, until)

    def modify(
        self, rows: Sequence[p4r.TableEntry], until: float = math.inf
    ) -> list[Refusal | None]:
        """Change rows that are there, as insert."""
        return self._write(p4r.Update.MODIFY, rows, until)

    def delete(
        self, rows: Sequence[p4r.TableEntry], until: float = math.inf
    ) -> list[Refusal | None]:
        """Remove rows, as insert."""
        return self._write(p4r.Update.DELETE, rows, until)

    # --- writing -----------------------------------------------------------------------------

    def _write(
        self, kind: p4r.Update.Type.ValueType, rows: Sequence[p4r.TableEntry], until: float
    ) -> list[Refusal | None]:
        found: list[Refusal | None] = []
        for start in range(0, len(rows), _BATCH):
            if time.monotonic() > until:
                raise P4RuntimeError(
                    f"{self._server.address} is slow: {len(rows) - start} rows are left for later"
                )
            batch = rows[start : start + _BATCH]
            updates = [p4r.Update(type=kind, entity=p4r.Entity(table_entry=each)) for each in batch]
            found += self._write_batch(updates)
        return found

    def _write_batch(self, updates: list[p4r.Update]) -> list[Refusal | None]:
        request = p4r.WriteRequest(
            device_id=self._server.device_id,
            role=self._server.role,
            election_id=self._primary(),
            updates=updates,
        )
        try:
            self._stub.Write(request, timeout=self._timeout_s)
        except grpc.RpcError as error:
            errors = _errors(error)
            if len(errors) != len(updates) or not any(each.canonical_code for each in errors):
                raise self._failed("a write", error) from error
            return [_refusal(each) for each in errors]
        return [None] * len(updates)

    # --- being primary -----------------------------------------------------------------------

    def _primary(self) -> p4r.Uint128:
        """Return our election id. Raises NotPrimaryError, P4RuntimeError."""
        with self._lock:
            if self._stream is None or self._stream.is_over:
                self._streams += 1
                self._stream = _Stream(self._stub, self._arbitration())
            stream = self._stream
        if self._said(stream) == _NOBODY:
            with self._lock:  # whoever comes second hears what was said to the first
                if self._said(stream) == _NOBODY:
                    stream.stand_again()
        if self._said(stream) != grpc.StatusCode.OK.value[0]:
            other = _number(stream.primary)
            raise NotPrimaryError(
                f"{self._server.address}: another client is primary of role"
                f" {self._server.role!r}, with election id {other} above our"
                f" {_number(stream.election_id)}: stop it, or this agent"
            )
        return stream.election_id

    def _said(self, stream: _Stream) -> int:
        """Return what the device says of our candidacy, as a code. Raises P4RuntimeError."""
        is_told = stream.wait(self._timeout_s)
        if is_told and stream.error is not None:
            raise self._failed("arbitration", stream.error) from stream.error
        if not is_told or stream.status is None:
            raise P4RuntimeError(
                f"{self._server.address} says nothing of who is primary in {self._timeout_s:g} s"
            )
        return int(stream.status.code)

    def _arbitration(self) -> p4r.MasterArbitrationUpdate:
        return p4r.MasterArbitrationUpdate(
            device_id=self._server.device_id,
            role=p4r.Role(name=self._server.role) if self._server.role else None,
            election_id=p4r.Uint128(high=self._started_at, low=self._streams),
        )

    # --- what goes wrong ---------------------------------------------------------------------

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        try:
            yield
        except grpc.RpcError as error:
            raise self._failed(what, error) from error

    def _failed(self, what: str, error: grpc.RpcError) -> P4RuntimeError:
        code, words = _code(error)
        text = f"{self._server.address}, asked for {what}: {code.name} {words}".rstrip()
        match code:
            case grpc.StatusCode.FAILED_PRECONDITION:
                return NoPipelineError(text)
            case grpc.StatusCode.PERMISSION_DENIED:
                return NotPrimaryError(text)
            case _:
                return P4RuntimeError(text)


class _Stream:
    """The stream on which a client is elected, until it ends."""

    def __init__(
        self, stub: p4r_grpc.P4RuntimeStub, arbitration: p4r.MasterArbitrationUpdate
    ) -> None:
        self._arbitration = arbitration
        self.status: rpc_status.Status | None = None
        self.primary = p4r.Uint128()
        self.error: grpc.RpcError | None = None
        self.is_over = False
        self._told = threading.Event()
        self._out: queue.SimpleQueue[p4r.StreamMessageRequest | None] = queue.SimpleQueue()
        self._out.put(p4r.StreamMessageRequest(arbitration=arbitration))
        self._call = stub.StreamChannel(iter(self._out.get, None))
        self._thread = threading.Thread(target=self._listen, name="p4runtime", daemon=True)
        self._thread.start()

    @property
    def election_id(self) -> p4r.Uint128:
        """Return what we stand with."""
        return self._arbitration.election_id

    def stand_again(self) -> None:
        """Stand with a higher id than any so far: the primary has left (P4Runtime 1.4, 5.3)."""
        number = max(_number(self.primary), _number(self.election_id)) + 1
        again = p4r.MasterArbitrationUpdate()
        again.CopyFrom(self._arbitration)
        again.election_id.high, again.election_id.low = number >> 64, number & (1 << 64) - 1
        self._arbitration = again
        self._told.clear()
        self._out.put(p4r.StreamMessageRequest(arbitration=self._arbitration))

    def wait(self, timeout_s: float) -> bool:
        """Return True once the device has said who is primary; False after ``timeout_s``, ended."""
        is_told = self._told.wait(timeout_s)
        if not is_told:
            self.end()
        return is_told

    def end(self) -> None:
        """End the stream, and have the device know it where it listens."""
        self.is_over = True
        self._out.put(None)
        self._thread.join(_FAREWELL_S)
        self._call.cancel()
        self._thread.join()

    def _listen(self) -> None:
        try:
            for message in self._call:
                if message.WhichOneof("update") == "arbitration":
                    self.primary = message.arbitration.election_id
                    self.status = message.arbitration.status
                    self._told.set()
        except grpc.RpcError as error:
            self.error = error
        finally:
            self.is_over = True
            self._out.put(None)
            self._told.set()


def _channel(server: Server) -> grpc.Channel:
    tls = server.tls
    if tls is None:
        return grpc.insecure_channel(server.address, options=_OPTIONS)
    files = (tls.ca_cert, tls.private_key, tls.certificate)
    try:
        credentials = grpc.ssl_channel_credentials(*(path.read_bytes() for path in files))
    except OSError as error:
        raise P4RuntimeError(f"{error.filename}: {error.strerror}") from error
    return grpc.secure_channel(server.address, credentials, options=_OPTIONS)


def _code(error: grpc.RpcError) -> tuple[grpc.StatusCode, str]:
    """Return the code and the words of an error."""
    call = cast("grpc.Call", error)  # grpcio's errors of calls are the calls themselves
    return call.code(), call.details() or ""


def _errors(error: grpc.RpcError) -> list[p4r.Error]:
    """Return the error of each update (P4Runtime 1.4, 12.3); none: the whole request failed."""
    try:
        return [
            _unpacked(detail)
            for key, value in cast("grpc.Call", error).trailing_metadata() or ()
            if key == _DETAILS and isinstance(value, bytes)
            for detail in rpc_status.Status.FromString(value).details
        ]
    except DecodeError:
        return []


def _unpacked(detail: AnyMessage) -> p4r.Error:
    """Return what is in ``detail``. Raises DecodeError: it is no error of an update."""
    found = p4r.Error()
    if not detail.Unpack(found):
        raise DecodeError(f"{detail.TypeName()} is no error of an update")
    return found


_CODES: dict[int, str] = {code.value[0]: code.name for code in grpc.StatusCode}


def _refusal(error: p4r.Error) -> Refusal | None:
    if not error.canonical_code:
        return None
    return Refusal(_CODES.get(error.canonical_code, str(error.canonical_code)), error.message)


def _number(election_id: p4r.Uint128) -> int:
    return int(election_id.high << 64 | election_id.low)
