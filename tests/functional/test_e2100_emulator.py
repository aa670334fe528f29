"""The emulated E2100 as a process: entries by raw gRPC move frames between TAPs, and its faults."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import yaml
from finsy.proto import p4i, p4r, rpc_code

from tests.functional.emulated_switch import EmulatedE2100, emulated_switch, frame
from tests.functional.p4_client import Client, client, codes, details
from tests.packets.e2100_frames import (
    FAR,
    INFO,
    KINDS,
    MAKE,
    OWN,
    POD,
    REMOTE,
    arriving,
    inner,
    inward,
    outward,
    packet,
)
from vendors.emulator.control import FaultError, Injection, inject, new_mark
from vendors.emulator.packets import Encap

OUT = outward(Encap.GENEVE, 4)
GOLDEN = bytes(packet(Encap.GENEVE, 4, OWN[4], REMOTE[4], inner()))
FDB = "l2_fwd_tx_table"
OTHER = p4i.P4Info(actions=INFO.actions, tables=INFO.tables[:3])
OWN_ROWS = 27  # of the page's section 2, with two VFs


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedE2100]:
    with emulated_switch(EmulatedE2100, tmp_path_factory.mktemp("emu")) as switch:
        yield switch


@pytest.fixture
def switch(device: EmulatedE2100) -> Iterator[EmulatedE2100]:
    """Provide the switch with nothing wrong and none but its own entries."""
    device.tell("clear")
    device.tell("reset")
    yield device
    device.tell("clear")


@pytest.fixture
def writer(switch: EmulatedE2100) -> Iterator[Client]:
    """Provide the primary."""
    with client(switch.target) as made:
        made.become_primary()
        yield made


def fails(code: grpc.StatusCode, who: Client) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        who.insert(OUT["fdb"])
    assert caught.value.code() == code, caught.value
    return caught.value


@pytest.mark.parametrize(("encap", "version"), KINDS)
def test_entries_written_by_hand_move_frames_through_tunnels(
    switch: EmulatedE2100, writer: Client, encap: Encap, version: int
) -> None:
    out, back = outward(encap, version), inward(encap, version)
    assert switch.ask("vf0", inner()) == {"rep0": [inner()]}
    writer.insert(*out.values(), *back.values())
    golden = bytes(packet(encap, version, OWN[version], REMOTE[version], inner()))
    assert switch.ask("vf0", inner()) == {"up": [golden]}
    answer = inner(FAR, POD)
    assert switch.ask("up", bytes(arriving(encap, version, answer))) == {"vf0": [answer]}
    counter = p4r.DirectCounterEntry(table_entry=out["fdb"])
    [found] = writer.read(p4r.Entity(direct_counter_entry=counter))
    data = found.direct_counter_entry.data
    assert (data.packet_count, data.byte_count) == (1, len(inner()))
    writer.delete(*out.values(), *back.values())
    assert switch.ask("vf0", inner()) == {"rep0": [inner()]}


def test_a_probe_goes_where_the_entries_say_and_leaves_nothing(
    switch: EmulatedE2100, writer: Client
) -> None:
    writer.insert(*OUT.values())
    mark = new_mark()
    [found] = inject(switch.control, [Injection("vf0", inner() + mark, mark)])
    assert list(found) == ["up"]
    assert found["up"][0].endswith(inner() + mark)
    assert switch.heard() == []


def test_it_begins_with_the_plugins_rows_and_its_own_pipeline(writer: Client) -> None:
    assert len(writer.entries()) == OWN_ROWS
    config = writer.stub.GetForwardingPipelineConfig(
        p4r.GetForwardingPipelineConfigRequest(device_id=1), timeout=10
    ).config
    assert config.p4info == INFO


class TestFaults:
    def test_a_full_table(self, switch: EmulatedE2100, writer: Client) -> None:
        switch.tell("table-full", FDB, "0")
        [error] = details(fails(grpc.StatusCode.UNKNOWN, writer))
        assert error.canonical_code == rpc_code.RESOURCE_EXHAUSTED
        assert FDB in error.message
        assert self.told_size(writer) == 0
        switch.tell("clear")
        assert self.told_size(writer) == 1024
        writer.insert(OUT["fdb"])

    @staticmethod
    def told_size(who: Client) -> int:
        request = p4r.GetForwardingPipelineConfigRequest(
            device_id=1, response_type=p4r.GetForwardingPipelineConfigRequest.P4INFO_AND_COOKIE
        )
        tables = who.stub.GetForwardingPipelineConfig(request, timeout=10).config.p4info.tables
        return next(table.size for table in tables if table.preamble.alias == FDB)

    def test_a_refused_write(self, switch: EmulatedE2100, writer: Client) -> None:
        switch.tell("refuse", "1")
        with pytest.raises(grpc.RpcError) as caught:
            writer.insert(OUT["fdb"], OUT["known"])
        refused = codes(details(caught.value))
        assert sorted(refused) == [rpc_code.OK, rpc_code.INTERNAL]
        assert len(writer.entries()) == OWN_ROWS + 1
        writer.insert([OUT["fdb"], OUT["known"]][refused.index(rpc_code.INTERNAL)])

    def test_slow_writes(self, switch: EmulatedE2100, writer: Client) -> None:
        switch.tell("slow", "0.5")
        begun = time.monotonic()
        writer.insert(OUT["fdb"])
        assert time.monotonic() - begun > 0.5

    def test_garbage(self, switch: EmulatedE2100, writer: Client) -> None:
        switch.tell("garbage")
        with pytest.raises(grpc.RpcError) as caught:
            writer.entries()
        assert caught.value.code() == grpc.StatusCode.INTERNAL
        switch.tell("clear")
        assert len(writer.entries()) == OWN_ROWS

    @pytest.mark.parametrize("end", ["revive", "clear"])
    def test_a_hang_stops_no_frame(self, switch: EmulatedE2100, writer: Client, end: str) -> None:
        writer.insert(*OUT.values())
        switch.tell("hang")
        with pytest.raises(grpc.RpcError) as caught:
            next(writer.stub.Read(p4r.ReadRequest(device_id=1), timeout=0.5))
        assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert switch.ask("vf0", inner()) == {"up": [GOLDEN]}
        switch.tell(end)
        assert len(writer.entries()) == OWN_ROWS + len(OUT)

    @pytest.mark.parametrize("fault", ["kill", "reset"])
    def test_a_crash_or_a_reset_leaves_the_plugins_rows_alone(
        self, switch: EmulatedE2100, writer: Client, fault: str
    ) -> None:
        writer.insert(*OUT.values())
        assert switch.ask("vf0", inner()) == {"up": [GOLDEN]}
        switch.tell(fault)
        with pytest.raises(grpc.RpcError):
            writer.heard()
        assert switch.ask("vf0", inner()) == {"rep0": [inner()]}
        with client(switch.target) as again:
            assert len(again.entries()) == OWN_ROWS
            again.become_primary()

    def test_the_pipeline_outlives_its_server(self, switch: EmulatedE2100, writer: Client) -> None:
        writer.insert(*OUT.values())
        switch.tell("die")
        fails(grpc.StatusCode.UNAVAILABLE, writer)
        assert switch.ask("vf0", inner()) == {"up": [GOLDEN]}
        switch.tell("revive")
        assert switch.ask("vf0", inner()) == {"rep0": [inner()]}

    def test_an_entry_that_is_lost(self, switch: EmulatedE2100, writer: Client) -> None:
        writer.insert(OUT["fdb"])
        assert str(OUT["fdb"].table_id) in switch.tell("lose-one")
        assert len(writer.entries()) == OWN_ROWS
        assert not switch.tell("lose-one")

    def test_somebody_else_programs_it(self, switch: EmulatedE2100, writer: Client) -> None:
        for _ in range(2):
            switch.tell("take")
            assert len(writer.entries()) == OWN_ROWS + 5
        [theirs] = writer.entries(MAKE("ipv4_tunnel_term_table", {}))
        term = MAKE(
            "ipv4_tunnel_term_table",
            {"ipv4_src": "198.51.100.10", "vni": 10},
            "set_vxlan_decap_outer_hdr",
            tunnel_id=10,
        )
        assert writer.entries(term) == [theirs]
        switch.tell("clear")
        assert len(writer.entries()) == OWN_ROWS

    def test_a_port_that_is_gone_gets_nothing(self, switch: EmulatedE2100, writer: Client) -> None:
        writer.insert(*OUT.values())
        switch.tell("port-gone", "up")
        assert switch.ask("vf0", inner()) == {}
        switch.tell("port-back", "up")
        assert switch.ask("vf0", inner()) == {"up": [GOLDEN]}

    def test_another_pipeline_forwards_nothing_until_a_reset(
        self, switch: EmulatedE2100, writer: Client
    ) -> None:
        request = p4r.SetForwardingPipelineConfigRequest(
            device_id=1,
            election_id=writer.election_id,
            action=p4r.SetForwardingPipelineConfigRequest.VERIFY_AND_COMMIT,
            config=p4r.ForwardingPipelineConfig(p4info=OTHER),
        )
        writer.stub.SetForwardingPipelineConfig(request, timeout=10)
        for port in switch.TAPS:
            assert switch.ask(port, inner()) == {}
        assert not switch.tell("lose-one")
        switch.tell("clear")
        switch.tell("reset")
        assert switch.ask("vf0", inner()) == {"rep0": [inner()]}

    def test_a_table_it_does_not_have(self, switch: EmulatedE2100) -> None:
        with pytest.raises(FaultError, match="the pipeline has no table 'fdb'"):
            switch.tell("table-full", "fdb", "1")


def test_a_hundred_frames_come_in_order(switch: EmulatedE2100, writer: Client) -> None:
    writer.insert(*OUT.values())
    sent = [inner() + bytes([number]) for number in range(100)]
    for each in sent[:-1]:
        switch.sockets["vf0"].send(each)
    found = switch.ask("vf0", sent[-1])["up"]
    assert [each[-len(sent[0]) :] for each in found][-1] == sent[-1]
    numbers = [each[-1] for each in found]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"vendor": "acme"}, "vendor 'acme'", id="another vendor"),
        pytest.param({"bridge": "br0"}, "unknown key bridge", id="another's key"),
        pytest.param({"p4info": "/nowhere"}, "p4info /nowhere cannot be read", id="no p4info"),
        pytest.param({"p4info": "/etc/passwd"}, "is no P4Info in text protobuf", id="no protobuf"),
        pytest.param({"p4info": "/dev/null"}, "has no table rx_source_port", id="no tables"),
        pytest.param({"vfs": 17}, "at most 16 vfs, not 17", id="too many"),
    ],
)
def test_a_configuration_with_faults(tmp_path: Path, change: dict[str, object], words: str) -> None:
    settings = {**EmulatedE2100(tmp_path).settings(), **change}
    if isinstance(count := settings["vfs"], int):
        for kind in ("vfs", "representors"):
            port = {"netdev": "vf", "netns": "/run/netns/none"}
            settings[kind] = [{"port": f"{kind[:3]}{n}", **port} for n in range(count)]
    config = tmp_path / "bad.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    command = (".venv/bin/python", "-m", "vendors.emulator", "--config", str(config))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, words in done.stderr) == (1, True), done.stderr


def test_frames_of_no_entry_are_not_its_business(switch: EmulatedE2100) -> None:
    sent = frame()
    assert switch.ask("up", sent) == {"cpu0": [sent]}
