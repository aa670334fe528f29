"""An emulated Intel IPU E2100 with three VFs, and what a test does to it past the driver."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import grpc
from finsy.proto import p4i, p4r, p4r_grpc

from tests.functional.emulated_switch import VFS, EmulatedE2100, ThreeVfs, emulated_switch
from vendors.intel.client import Server
from vendors.intel.pipeline import Wiring

WIRING = Wiring({f"rep{number}": 27 + number for number in range(VFS)})


class Device(ThreeVfs, EmulatedE2100):
    """The device of the contract's tests; ``p4info`` is for another P4 program than its own."""

    p4info: Path | None = None

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **({"p4info": str(self.p4info)} if self.p4info else {})}

    @property
    def server(self) -> Server:
        return Server(self.target)

    @cached_property
    def stub(self) -> p4r_grpc.P4RuntimeStub:
        """Return a client of our own, that finds the device again after a restart."""
        options = (("grpc.max_reconnect_backoff_ms", 200), ("grpc.use_local_subchannel_pool", 1))
        self.channel = grpc.insecure_channel(self.target, options=options)
        return p4r_grpc.P4RuntimeStub(self.channel)

    def clear(self) -> None:
        if "stub" in self.__dict__:
            self.channel.close()
        super().clear()

    def rows(self) -> set[bytes]:
        """Return all rows, without what counts."""
        request = p4r.ReadRequest(device_id=1, entities=[p4r.Entity(table_entry=p4r.TableEntry())])
        answers = self.stub.Read(request, wait_for_ready=True, timeout=5)
        entries = [each.table_entry for answer in answers for each in answer.entities]
        for entry in entries:
            entry.ClearField("counter_data")
        return {entry.SerializeToString(deterministic=True) for entry in entries}

    def write(self, kind: p4r.Update.Type.ValueType, row: p4r.TableEntry) -> None:
        """Write a row as somebody without role."""
        election = p4r.Uint128(low=time.time_ns())  # above whose stream is ending
        hello = p4r.StreamMessageRequest(
            arbitration=p4r.MasterArbitrationUpdate(device_id=1, election_id=election)
        )
        update = p4r.Update(type=kind, entity=p4r.Entity(table_entry=row))
        stream = self.stub.StreamChannel(_held(hello))
        next(stream)
        self.stub.Write(p4r.WriteRequest(device_id=1, election_id=election, updates=[update]))
        stream.cancel()

    def program(self) -> p4i.P4Info:
        """Return the P4 program that it says it runs."""
        request = p4r.GetForwardingPipelineConfigRequest(device_id=1)
        return self.stub.GetForwardingPipelineConfig(request).config.p4info

    def row(
        self, table: str, match: Mapping[str, int], action: str, params: Mapping[str, int]
    ) -> p4r.TableEntry:
        """Return a row by the names of the device's program; matches are whole, priority is 1."""
        info = self.program()
        found = next(each for each in info.tables if each.preamble.alias == table)
        made = p4r.TableEntry(table_id=found.preamble.id)
        for field in found.match_fields:
            value = match[field.name].to_bytes((field.bitwidth + 7) // 8)
            key = made.match.add(field_id=field.id)
            if field.match_type == p4i.MatchField.TERNARY:
                made.priority = 1
                key.ternary.value = value
                key.ternary.mask = ((1 << field.bitwidth) - 1).to_bytes(len(value))
            elif field.match_type == p4i.MatchField.LPM:
                key.lpm.value, key.lpm.prefix_len = value, field.bitwidth
            else:
                key.exact.value = value
        does = next(each for each in info.actions if each.preamble.alias == action)
        made.action.action.action_id = does.preamble.id
        for param in does.params:
            value = params[param.name].to_bytes((param.bitwidth + 7) // 8)
            made.action.action.params.add(param_id=param.id, value=value)
        return made

    @contextmanager
    def standing(self, row: p4r.TableEntry) -> Iterator[None]:
        """Have a row of somebody else stand there."""
        self.write(p4r.Update.INSERT, row)
        try:
            yield
        finally:
            self.write(p4r.Update.DELETE, row)


def _held(first: p4r.StreamMessageRequest) -> Iterator[p4r.StreamMessageRequest]:
    yield first
    while True:
        time.sleep(3600)


@contextmanager
def running_device(directory: Path, p4info: Path | None = None) -> Iterator[Device]:
    """Provide a Device in ``directory``, with the P4 program that a file says."""
    kind: type[Device] = type("Device", (Device,), {"p4info": p4info})
    with emulated_switch(kind, directory) as device:
        yield device
