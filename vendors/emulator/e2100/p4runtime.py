"""The P4Runtime server (p4.v1.P4Runtime, version 1.4) before the tables."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
from finsy.proto import p4r, rpc_code, rpc_status
from google.protobuf.message import Message

from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.unix_socket import remove_stale
from vendors.emulator.e2100.arbitration import Arbitration, Controller
from vendors.emulator.e2100.entries import BAD, Refusal
from vendors.emulator.e2100.schema import read
from vendors.emulator.e2100.tables import Tables
from vendors.emulator.trouble import GARBAGE, Trouble

DEVICE_ID = 1
VERSION = "1.4.1"
_SERVICE = "p4.v1.P4Runtime"
_THREADS = 64  # each stream has one; what hangs holds one
_AT_ONCE = 256  # entities of one answer; gRPC takes 4 MiB
_STOP_S = 5.0  # a call that is slow on purpose is not waited for
_UNIMPLEMENTED = grpc.StatusCode.UNIMPLEMENTED
_Config = p4r.SetForwardingPipelineConfigRequest
_Asked = p4r.GetForwardingPipelineConfigRequest


class Pipeline:
    """The pipeline configuration of the device and its tables, once there is one."""

    def __init__(self) -> None:
        """Begin without."""
        self.limits: dict[int, int] = {}
        """How many entries a table takes, by id, where that is not its size."""
        self.config = p4r.ForwardingPipelineConfig()
        self._tables: Tables | None = None
        self._saved: tuple[p4r.ForwardingPipelineConfig, Tables] | None = None

    @property
    def tables(self) -> Tables:
        """Return the tables. Raises Refusal: there is no pipeline yet."""
        if self._tables is None:
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "no pipeline has been set")
        return self._tables

    def set(self, action: _Config.Action.ValueType, config: p4r.ForwardingPipelineConfig) -> None:
        """Do as SetForwardingPipelineConfig says (14); tables begin empty. Raises Refusal."""
        if action == _Config.COMMIT:
            if config.ByteSize():
                raise Refusal(BAD, "COMMIT takes no config")
            if self._saved is None:
                raise Refusal(grpc.StatusCode.NOT_FOUND, "no config has been saved")
            self.config, self._tables = self._saved
            self._saved = None
            return
        if action == _Config.RECONCILE_AND_COMMIT:
            raise Refusal(_UNIMPLEMENTED, "RECONCILE_AND_COMMIT is not served")
        if action == _Config.UNSPECIFIED:
            raise Refusal(BAD, "no action is given")
        found = self._verified(config)
        if action == _Config.VERIFY_AND_SAVE:
            self._saved = found
        elif action == _Config.VERIFY_AND_COMMIT:
            self.config, self._tables = found
            self._saved = None

    def told(self, asked: _Asked.ResponseType.ValueType) -> p4r.ForwardingPipelineConfig:
        """Return what GetForwardingPipelineConfig asks for (15); sizes are what they are now."""
        told = p4r.ForwardingPipelineConfig()
        if self.config.HasField("cookie"):
            told.cookie.CopyFrom(self.config.cookie)
        if asked in (_Asked.ALL, _Asked.P4INFO_AND_COOKIE) and self._tables is not None:
            told.p4info.CopyFrom(self.config.p4info)
            for table in told.p4info.tables:
                table.size = self.limits.get(table.preamble.id, table.size)
        if asked in (_Asked.ALL, _Asked.DEVICE_CONFIG_AND_COOKIE):
            told.p4_device_config = self.config.p4_device_config
        return told

    def _verified(
        self, config: p4r.ForwardingPipelineConfig
    ) -> tuple[p4r.ForwardingPipelineConfig, Tables]:
        if not config.HasField("p4info"):
            raise Refusal(BAD, "a config needs a P4Info")
        try:
            return config, Tables(read(config.p4info), self.limits)
        except InvalidValueError as error:
            raise Refusal(BAD, str(error)) from error


class Server:
    """Serves ``pipeline`` at a unix socket from ``start`` to ``stop``, and so again."""

    def __init__(self, path: Path, pipeline: Pipeline, trouble: Trouble) -> None:
        """Serve nobody yet."""
        self.path = path
        self.pipeline = pipeline
        self._trouble = trouble
        self._server: grpc.Server | None = None
        self._arbitration = Arbitration(DEVICE_ID)
        self._lock = threading.RLock()
        self._awake = threading.Event()
        self._awake.set()

    @property
    def is_up(self) -> bool:
        """True between ``start`` and ``stop``."""
        return self._server is not None

    def start(self) -> None:
        """Listen. Raises OverweaveError if the socket is taken."""
        remove_stale(self.path, "the P4Runtime socket")
        self._arbitration = Arbitration(DEVICE_ID)
        server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="p4runtime"))
        server.add_generic_rpc_handlers((self._handlers(),))
        if not server.add_insecure_port(f"unix:{self.path}"):
            raise OverweaveError(f"nothing can listen at {self.path}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """End every call and stream at once, and listen no more."""
        self._awake.set()
        server, self._server = self._server, None
        if server is not None:
            server.stop(grace=None).wait(_STOP_S)
        self.path.unlink(missing_ok=True)

    def hang(self) -> None:
        """Answer nothing more, until ``wake``."""
        self._awake.clear()

    def wake(self) -> None:
        """Answer again."""
        self._awake.set()

    # --- the calls -----------------------------------------------------------------------------

    def _handlers(self) -> grpc.GenericRpcHandler:
        once, stream = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        written = self._written
        return grpc.method_handlers_generic_handler(
            _SERVICE,
            {
                "Write": once(self._write, p4r.WriteRequest.FromString, written),
                "Read": stream(self._read, p4r.ReadRequest.FromString, written),
                "SetForwardingPipelineConfig": once(self._set, _Config.FromString, written),
                "GetForwardingPipelineConfig": once(self._get, _Asked.FromString, written),
                "Capabilities": once(
                    self._capabilities, p4r.CapabilitiesRequest.FromString, written
                ),
                "StreamChannel": grpc.stream_stream_rpc_method_handler(
                    self._stream, p4r.StreamMessageRequest.FromString, written
                ),
            },
        )

    def _written(self, message: Message) -> bytes:
        return GARBAGE if self._trouble.garbage else message.SerializeToString()

    def _write(self, request: p4r.WriteRequest, context: grpc.ServicerContext) -> p4r.WriteResponse:
        self._wait(context)
        time.sleep(self._trouble.delay_s)
        with _answered(context), self._lock:
            self._check_writer(request)
            tables = self.pipeline.tables
            if request.atomicity != p4r.WriteRequest.CONTINUE_ON_ERROR:  # 12.2
                raise Refusal(_UNIMPLEMENTED, "CONTINUE_ON_ERROR alone is served")
            errors = [p4r.Error() for _ in request.updates]
            # A server may order a batch as it likes (12.1): this one shows who relies on theirs.
            for update, error in reversed(list(zip(request.updates, errors, strict=True))):
                self._update(tables, update, error)
            _raise_if_any("Write failure.", errors, context)
        return p4r.WriteResponse()

    def _update(self, tables: Tables, update: p4r.Update, error: p4r.Error) -> None:
        entity = update.entity
        kind = entity.WhichOneof("entity")
        with _noted(error):
            if update.type == p4r.Update.UNSPECIFIED or kind is None:
                raise Refusal(BAD, "an update has a type and an entity")
            if update.type == p4r.Update.INSERT and self._trouble.refuses():
                raise Refusal(grpc.StatusCode.INTERNAL, "the entry could not be written")
            if kind == "table_entry":
                tables.write(update.type, entity.table_entry)
            elif kind != "direct_counter_entry":
                raise Refusal(_UNIMPLEMENTED, f"{kind} is not served")
            elif update.type != p4r.Update.MODIFY:  # 9.3.1
                raise Refusal(BAD, "a counter is there with its entry: only modify it")
            else:
                tables.write_counter(entity.direct_counter_entry)

    def _read(
        self, request: p4r.ReadRequest, context: grpc.ServicerContext
    ) -> Iterator[p4r.ReadResponse]:
        self._wait(context)
        response = p4r.ReadResponse()
        errors = [p4r.Error() for _ in request.entities]
        with _answered(context), self._lock:
            _check_device(request.device_id)  # each role may read everything
            tables = self.pipeline.tables
            for entity, error in zip(request.entities, errors, strict=True):
                with _noted(error):
                    response.entities.extend(_read_entity(tables, entity))
        for start in range(0, len(response.entities), _AT_ONCE):
            yield p4r.ReadResponse(entities=response.entities[start : start + _AT_ONCE])
        with _answered(context):
            _raise_if_any("Read failure.", errors, context)

    def _set(
        self, request: _Config, context: grpc.ServicerContext
    ) -> p4r.SetForwardingPipelineConfigResponse:
        self._wait(context)
        with _answered(context), self._lock:
            self._check_writer(request)
            self.pipeline.set(request.action, request.config)
        return p4r.SetForwardingPipelineConfigResponse()

    def _get(
        self, request: _Asked, context: grpc.ServicerContext
    ) -> p4r.GetForwardingPipelineConfigResponse:
        self._wait(context)
        response = p4r.GetForwardingPipelineConfigResponse()
        with _answered(context), self._lock:
            _check_device(request.device_id)
            response.config.CopyFrom(self.pipeline.told(request.response_type))
        return response

    def _capabilities(
        self, request: p4r.CapabilitiesRequest, context: grpc.ServicerContext
    ) -> p4r.CapabilitiesResponse:
        self._wait(context)
        with _answered(context):
            if request.device_id:
                _check_device(request.device_id)
        return p4r.CapabilitiesResponse(p4runtime_api_version=VERSION)

    def _stream(
        self, requests: Iterator[p4r.StreamMessageRequest], context: grpc.ServicerContext
    ) -> Iterator[p4r.StreamMessageResponse]:
        self._wait(context)
        said: queue.SimpleQueue[p4r.StreamMessageResponse | Refusal | None] = queue.SimpleQueue()
        who = Controller(said.put)
        context.add_callback(lambda: said.put(None))
        listener = threading.Thread(
            target=self._listen, args=(requests, who, said), name="p4runtime-stream", daemon=True
        )
        listener.start()
        try:
            while (message := said.get()) is not None:
                if isinstance(message, Refusal):
                    context.abort(message.code, str(message))
                yield message
        finally:
            with self._lock:
                self._arbitration.leave(who)

    def _listen(
        self,
        requests: Iterator[p4r.StreamMessageRequest],
        who: Controller,
        said: queue.SimpleQueue[p4r.StreamMessageResponse | Refusal | None],
    ) -> None:
        try:
            for request in requests:
                self._awake.wait()
                if request.WhichOneof("update") == "arbitration":
                    with self._lock:
                        self._arbitration.claim(who, request.arbitration)
                else:
                    said.put(_not_served(request))
        except Refusal as refusal:
            said.put(refusal)
        except grpc.RpcError:  # the stream has broken
            said.put(None)
        else:
            said.put(None)

    # --- how -----------------------------------------------------------------------------------

    def _wait(self, context: grpc.ServicerContext) -> None:
        """Hang if the server hangs; who has gone meanwhile is not served any more."""
        if not self._awake.is_set():
            self._awake.wait()
            if not context.is_active():
                context.abort(grpc.StatusCode.CANCELLED, "you have gone")

    def _check_writer(self, request: p4r.WriteRequest | _Config) -> None:
        _check_device(request.device_id)
        self._arbitration.check_primary(request.role, request.election_id)


def _read_entity(tables: Tables, entity: p4r.Entity) -> Iterator[p4r.Entity]:
    kind = entity.WhichOneof("entity")
    if kind == "table_entry":
        for entry in tables.read(entity.table_entry):
            yield p4r.Entity(table_entry=entry)
    elif kind == "direct_counter_entry":
        for counter in tables.read_counter(entity.direct_counter_entry):
            yield p4r.Entity(direct_counter_entry=counter)
    elif kind is None:  # 13.2
        raise Refusal(BAD, "an entity is empty")
    else:
        raise Refusal(_UNIMPLEMENTED, f"{kind} is not served")


def _check_device(device_id: int) -> None:
    if device_id != DEVICE_ID:
        raise Refusal(grpc.StatusCode.NOT_FOUND, f"there is no device {device_id}")


def _not_served(request: p4r.StreamMessageRequest) -> p4r.StreamMessageResponse:
    kind = request.WhichOneof("update")
    error = p4r.StreamError(
        canonical_code=rpc_code.UNIMPLEMENTED, message=f"{kind or 'nothing'} is not served"
    )
    return p4r.StreamMessageResponse(error=error)


@contextmanager
def _answered(context: grpc.ServicerContext) -> Iterator[None]:
    """End the call as a Refusal says, if there is one."""
    try:
        yield
    except Refusal as refusal:
        context.abort(refusal.code, str(refusal))


@contextmanager
def _noted(error: p4r.Error) -> Iterator[None]:
    """Write a Refusal down in ``error``; what is OK has no other field (12.3)."""
    try:
        yield
    except Refusal as refusal:
        error.canonical_code, error.message = refusal.number, str(refusal)


def _raise_if_any(words: str, errors: list[p4r.Error], context: grpc.ServicerContext) -> None:
    """Raise a Refusal with the status of each, in the standard place, if any is an error."""
    if not any(error.canonical_code for error in errors):
        return
    status = rpc_status.Status(code=rpc_code.UNKNOWN, message=words)
    for error in errors:
        status.details.add().Pack(error)
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    raise Refusal(grpc.StatusCode.UNKNOWN, words)
