"""A P4Runtime client by hand: one stream, raw stubs, the details of errors unpacked."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import grpc
from finsy.proto import p4r, p4r_grpc, rpc_status

from tests.unit.p4_entries import updates

DEVICE = 1
WAIT_S = 10.0


class Client:
    """A controller that claims election ids and writes with the last one."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.stub = p4r_grpc.P4RuntimeStub(channel)
        self.election_id = p4r.Uint128()
        self._said: queue.SimpleQueue[p4r.StreamMessageRequest | None] = queue.SimpleQueue()
        self._heard: queue.SimpleQueue[p4r.StreamMessageResponse | grpc.RpcError] = (
            queue.SimpleQueue()
        )
        self.stream = self.stub.StreamChannel(iter(self._said.get, None))
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            for message in self.stream:
                self._heard.put(message)
        except grpc.RpcError as error:
            self._heard.put(error)

    def say(self, message: p4r.StreamMessageRequest) -> None:
        self._said.put(message)

    def heard(self) -> p4r.StreamMessageResponse:
        """Return what is heard next; the stream's end is raised."""
        found = self._heard.get(timeout=WAIT_S)
        if isinstance(found, grpc.RpcError):
            raise found
        return found

    def claim(self, low: int, high: int = 0, device_id: int = DEVICE, role: str = "") -> None:
        """Send an arbitration update; what comes of it is to be heard."""
        self.election_id = p4r.Uint128(high=high, low=low)
        update = p4r.MasterArbitrationUpdate(device_id=device_id, election_id=self.election_id)
        if role:
            update.role.name = role
        self.say(p4r.StreamMessageRequest(arbitration=update))

    def become_primary(self, low: int = 1, high: int = 0) -> None:
        self.claim(low, high)
        assert self.heard().arbitration.status.code == 0

    def half_close(self) -> None:
        """Say that nothing more is to be said; what is heard goes on."""
        self._said.put(None)

    def close(self) -> None:
        self.half_close()
        self.stream.cancel()

    def write(self, *wanted: p4r.Update, **fields: Any) -> None:
        given = {"device_id": DEVICE, "election_id": self.election_id, **fields}
        self.stub.Write(p4r.WriteRequest(updates=wanted, **given), timeout=WAIT_S)

    def insert(self, *entries: p4r.TableEntry) -> None:
        self.write(*updates(p4r.Update.INSERT, entries))

    def delete(self, *entries: p4r.TableEntry) -> None:
        self.write(*updates(p4r.Update.DELETE, entries))

    def read(self, *entities: p4r.Entity, device_id: int = DEVICE) -> list[p4r.Entity]:
        request = p4r.ReadRequest(device_id=device_id, entities=entities)
        return [e for answer in self.stub.Read(request, timeout=WAIT_S) for e in answer.entities]

    def entries(self, asked: p4r.TableEntry | None = None) -> list[p4r.TableEntry]:
        found = self.read(p4r.Entity(table_entry=asked or p4r.TableEntry()))
        return [entity.table_entry for entity in found]


def trailer(error: grpc.RpcError) -> str | bytes | None:
    """Return what stands where the details of an error do."""
    found = {each.key: each.value for each in error.trailing_metadata()}
    return found.get("grpc-status-details-bin")


def details(error: grpc.RpcError) -> list[p4r.Error]:
    """Return the error of each update or request, in order."""
    packed = trailer(error)
    assert isinstance(packed, bytes)
    status = rpc_status.Status.FromString(packed)
    assert status.code == error.code().value[0]
    found = []
    for each in status.details:
        one = p4r.Error()
        assert each.Unpack(one)
        found.append(one)
    return found


def codes(errors: Iterable[p4r.Error]) -> list[int]:
    return [error.canonical_code for error in errors]


@contextmanager
def client(target: str) -> Iterator[Client]:
    """Provide a client of the server at ``target`` that is nobody yet."""
    with grpc.insecure_channel(target) as channel:
        made = Client(channel)
        try:
            yield made
        finally:
            with suppress(grpc.RpcError):
                made.close()
