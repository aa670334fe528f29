"""The emulated E2100's P4Runtime server by raw gRPC: arbitration, pipelines, batches, reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest
from finsy.proto import p4i, p4r, rpc_code

from tests.functional.p4_client import Client, client, codes, details, trailer
from tests.unit.p4_entries import Entries, e2100_info, updates
from vendors.emulator.e2100.arbitration import Arbitration, Controller
from vendors.emulator.e2100.p4runtime import Pipeline, Server
from vendors.emulator.trouble import Trouble

INFO = e2100_info()
MAKE = Entries(INFO)
Config = p4r.SetForwardingPipelineConfigRequest
Asked = p4r.GetForwardingPipelineConfigRequest
CONFIG = p4r.ForwardingPipelineConfig(
    p4info=INFO, p4_device_config=b"device", cookie=p4r.ForwardingPipelineConfig.Cookie(cookie=7)
)
COMMIT = Config.VERIFY_AND_COMMIT
StatusCode = grpc.StatusCode


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Provide a server without pipeline."""
    made = Server(tmp_path / "p4runtime.sock", Pipeline(), Trouble())
    made.start()
    yield made
    made.stop()


Join = Callable[[], Client]


@pytest.fixture
def join(server: Server) -> Iterator[Join]:
    """Provide who gives one more controller."""
    with ExitStack() as stack:
        yield lambda: stack.enter_context(client(f"unix:{server.path}"))


@pytest.fixture
def primary(join: Join) -> Client:
    """Provide a primary with a pipeline."""
    made = join()
    made.become_primary()
    set_pipeline(made, COMMIT)
    return made


def set_pipeline(
    who: Client,
    action: Config.Action.ValueType,
    config: p4r.ForwardingPipelineConfig | None = CONFIG,
    device_id: int = 1,
) -> None:
    request = Config(device_id=device_id, election_id=who.election_id, action=action, config=config)
    who.stub.SetForwardingPipelineConfig(request, timeout=10)


def get_pipeline(
    who: Client, asked: Asked.ResponseType.ValueType = Asked.ALL, device_id: int = 1
) -> p4r.ForwardingPipelineConfig:
    request = Asked(device_id=device_id, response_type=asked)
    return who.stub.GetForwardingPipelineConfig(request, timeout=10).config


def fdb(mac: int = 7) -> p4r.TableEntry:
    return MAKE("l2_fwd_tx_table", {"bridge_id": 1, "dst_mac": mac}, "l2_fwd", port=43)


def refused(code: StatusCode, call: Callable[[], object]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    assert (error.code(), bool(error.details())) == (code, True), error
    return error


def status(who: Client) -> tuple[int, int, int]:
    """Return what an arbitration says: its status, and the highest election id."""
    told = who.heard().arbitration
    assert told.device_id == 1
    return told.status.code, told.election_id.high, told.election_id.low


class TestArbitration:
    def test_the_highest_of_128_bits_is_primary(self, join: Join) -> None:
        first, second, third = join(), join(), join()
        first.claim(9, 1)
        assert status(first) == (rpc_code.OK, 1, 9)
        second.claim(2**64 - 1, 0)
        assert status(second) == (rpc_code.ALREADY_EXISTS, 1, 9)
        third.claim(0, 2)
        assert status(third) == (rpc_code.OK, 2, 0)
        assert status(first) == status(second) == (rpc_code.ALREADY_EXISTS, 2, 0)

    def test_who_gives_no_election_id_is_a_backup(self, join: Join) -> None:
        who = join()
        who.claim(0)
        assert status(who) == (rpc_code.NOT_FOUND, 0, 0)

    def test_a_primary_that_leaves_is_told_of_and_needs_the_highest_id_again(
        self, join: Join
    ) -> None:
        first, second = join(), join()
        first.claim(5)
        status(first)
        second.claim(4)
        status(second)
        first.close()
        assert status(second) == (rpc_code.NOT_FOUND, 0, 5)
        refused(StatusCode.PERMISSION_DENIED, second.write)
        second.claim(4)
        assert status(second) == (rpc_code.NOT_FOUND, 0, 5)
        second.claim(5)
        assert status(second) == (rpc_code.OK, 0, 5)

    def test_a_primary_that_bids_less_is_none(self, join: Join) -> None:
        first, second = join(), join()
        first.claim(5)
        status(first)
        second.claim(4)
        status(second)
        first.claim(3)
        assert status(first) == status(second) == (rpc_code.NOT_FOUND, 0, 5)
        refused(StatusCode.PERMISSION_DENIED, first.write)

    def test_an_id_that_is_in_use_ends_the_stream(self, join: Join) -> None:
        first, second = join(), join()
        first.claim(5)
        status(first)
        second.claim(5)
        refused(StatusCode.INVALID_ARGUMENT, second.heard)
        first.claim(5)  # one's own may be said again
        assert status(first) == (rpc_code.OK, 0, 5)

    def test_a_claim_that_comes_when_its_stream_has_ended_is_nobodys(self) -> None:
        told: list[p4r.StreamMessageResponse] = []
        arbitration = Arbitration(1)
        first, second = Controller(told.append), Controller(told.append)
        update = p4r.MasterArbitrationUpdate(device_id=1, election_id=p4r.Uint128(low=5))
        arbitration.leave(first)
        arbitration.claim(first, update)
        assert told == []
        arbitration.claim(second, update)
        assert [each.arbitration.status.code for each in told] == [rpc_code.OK]

    def test_a_device_that_is_not_there(self, join: Join) -> None:
        who = join()
        who.claim(1, device_id=2)
        refused(StatusCode.NOT_FOUND, who.heard)

    def test_another_device_later(self, join: Join) -> None:
        who = join()
        who.become_primary()
        who.claim(1, device_id=2)
        refused(StatusCode.FAILED_PRECONDITION, who.heard)

    def test_each_role_has_its_primary(self, join: Join) -> None:
        first, second, third = join(), join(), join()
        first.become_primary(5)
        second.claim(1, role="ovs-p4rt")
        told = second.heard().arbitration
        assert (told.status.code, told.role.name, told.election_id.low) == (0, "ovs-p4rt", 1)
        third.claim(2, role="ovs-p4rt")
        assert status(third) == (rpc_code.OK, 0, 2)
        assert status(second) == (rpc_code.ALREADY_EXISTS, 0, 2)
        set_pipeline(first, COMMIT)
        third.write(*updates(p4r.Update.INSERT, [fdb()]), role="ovs-p4rt")
        refused(StatusCode.PERMISSION_DENIED, third.write)
        refused(StatusCode.PERMISSION_DENIED, lambda: second.write(role="ovs-p4rt"))
        refused(StatusCode.NOT_FOUND, lambda: third.write(role="nobody"))

    def test_a_role_with_a_config(self, join: Join) -> None:
        who = join()
        update = p4r.MasterArbitrationUpdate(device_id=1, role=p4r.Role(name="ovs-p4rt"))
        update.role.config.SetInParent()
        who.say(p4r.StreamMessageRequest(arbitration=update))
        refused(StatusCode.INVALID_ARGUMENT, who.heard)

    def test_another_role_later(self, join: Join) -> None:
        who = join()
        who.become_primary()
        who.claim(1, role="ovs-p4rt")
        refused(StatusCode.FAILED_PRECONDITION, who.heard)

    def test_what_a_stream_is_not_for(self, join: Join) -> None:
        who = join()
        who.become_primary()
        who.say(p4r.StreamMessageRequest(packet=p4r.PacketOut(payload=b"x")))
        assert who.heard().error.canonical_code == rpc_code.UNIMPLEMENTED


class TestWhoMayWrite:
    @pytest.mark.parametrize(
        ("fields", "code"),
        [
            pytest.param({"device_id": 2}, StatusCode.NOT_FOUND, id="no such device"),
            pytest.param({"role": "ovs-p4rt"}, StatusCode.NOT_FOUND, id="no such role"),
            pytest.param(
                {"election_id": p4r.Uint128(low=9)}, StatusCode.PERMISSION_DENIED, id="another id"
            ),
            pytest.param(
                {"election_id": p4r.Uint128()}, StatusCode.PERMISSION_DENIED, id="no election id"
            ),
            pytest.param(
                {"atomicity": p4r.WriteRequest.ROLLBACK_ON_ERROR},
                StatusCode.UNIMPLEMENTED,
                id="rollback",
            ),
            pytest.param(
                {"atomicity": p4r.WriteRequest.DATAPLANE_ATOMIC},
                StatusCode.UNIMPLEMENTED,
                id="atomic",
            ),
        ],
    )
    def test_what_is_refused_as_a_whole(
        self, primary: Client, fields: dict[str, object], code: StatusCode
    ) -> None:
        wanted = updates(p4r.Update.INSERT, [fdb()])
        error = refused(code, lambda: primary.write(*wanted, **fields))
        assert trailer(error) is None
        assert primary.entries() == []

    def test_a_backup(self, primary: Client, join: Join) -> None:
        backup = join()
        backup.claim(2**64 - 1, 0)
        status(backup)  # it is primary now, and the first one a backup
        refused(StatusCode.PERMISSION_DENIED, lambda: primary.insert(fdb()))
        refused(StatusCode.PERMISSION_DENIED, lambda: set_pipeline(primary, COMMIT))
        backup.insert(fdb())
        assert len(primary.entries()) == 1  # who is no primary may read

    def test_rows_outlive_who_wrote_them(self, primary: Client, join: Join) -> None:
        primary.insert(fdb())
        primary.close()
        assert len(join().entries()) == 1


class TestPipelines:
    def test_before_there_is_one(self, join: Join) -> None:
        who = join()
        who.become_primary()
        refused(StatusCode.FAILED_PRECONDITION, lambda: who.insert(fdb()))
        refused(StatusCode.FAILED_PRECONDITION, who.entries)
        assert get_pipeline(who) == p4r.ForwardingPipelineConfig()

    @pytest.mark.parametrize(
        ("asked", "found"),
        [
            pytest.param(Asked.ALL, CONFIG, id="all"),
            pytest.param(
                Asked.COOKIE_ONLY, p4r.ForwardingPipelineConfig(cookie=CONFIG.cookie), id="cookie"
            ),
            pytest.param(
                Asked.P4INFO_AND_COOKIE,
                p4r.ForwardingPipelineConfig(cookie=CONFIG.cookie, p4info=INFO),
                id="p4info",
            ),
            pytest.param(
                Asked.DEVICE_CONFIG_AND_COOKIE,
                p4r.ForwardingPipelineConfig(cookie=CONFIG.cookie, p4_device_config=b"device"),
                id="device config",
            ),
        ],
    )
    def test_what_is_asked_for_is_told(
        self,
        primary: Client,
        asked: Asked.ResponseType.ValueType,
        found: p4r.ForwardingPipelineConfig,
    ) -> None:
        assert get_pipeline(primary, asked) == found

    def test_a_commit_empties_the_tables(self, primary: Client) -> None:
        primary.insert(fdb())
        set_pipeline(primary, Config.VERIFY)
        assert len(primary.entries()) == 1
        set_pipeline(primary, COMMIT)
        assert primary.entries() == []

    def test_what_is_saved_is_committed(self, join: Join) -> None:
        who = join()
        who.become_primary()
        set_pipeline(who, Config.VERIFY_AND_SAVE)
        refused(StatusCode.FAILED_PRECONDITION, who.entries)
        set_pipeline(who, Config.COMMIT, None)
        assert who.entries() == []
        refused(StatusCode.NOT_FOUND, lambda: set_pipeline(who, Config.COMMIT, None))

    @pytest.mark.parametrize(
        ("action", "config", "code"),
        [
            pytest.param(Config.UNSPECIFIED, CONFIG, StatusCode.INVALID_ARGUMENT, id="no action"),
            pytest.param(COMMIT, None, StatusCode.INVALID_ARGUMENT, id="no config"),
            pytest.param(Config.COMMIT, CONFIG, StatusCode.INVALID_ARGUMENT, id="undue config"),
            pytest.param(
                Config.RECONCILE_AND_COMMIT, CONFIG, StatusCode.UNIMPLEMENTED, id="reconcile"
            ),
            pytest.param(
                COMMIT,
                p4r.ForwardingPipelineConfig(p4info=p4i.P4Info(tables=INFO.tables)),
                StatusCode.INVALID_ARGUMENT,
                id="tables of no actions",
            ),
        ],
    )
    def test_what_is_refused(
        self,
        primary: Client,
        action: Config.Action.ValueType,
        config: p4r.ForwardingPipelineConfig | None,
        code: StatusCode,
    ) -> None:
        primary.insert(fdb())
        refused(code, lambda: set_pipeline(primary, action, config))
        assert len(primary.entries()) == 1

    def test_a_device_that_is_not_there(self, primary: Client) -> None:
        refused(StatusCode.NOT_FOUND, lambda: set_pipeline(primary, COMMIT, device_id=2))
        refused(StatusCode.NOT_FOUND, lambda: get_pipeline(primary, device_id=2))


class TestBatches:
    def test_each_update_has_its_own_error_in_order(self, primary: Client, server: Server) -> None:
        server.pipeline.limits[fdb().table_id] = 2
        primary.insert(fdb(1))
        wide = fdb(2)
        wide.match[0].exact.value = b"\1\1"
        wanted = updates(p4r.Update.INSERT, [fdb(1), wide, fdb(3)])
        wanted += updates(p4r.Update.DELETE, [fdb(4)])
        wanted += [p4r.Update(), p4r.Update(type=p4r.Update.INSERT, entity=METER)]
        errors = details(refused(StatusCode.UNKNOWN, lambda: primary.write(*wanted)))
        assert codes(errors) == [
            rpc_code.ALREADY_EXISTS,
            rpc_code.OUT_OF_RANGE,
            rpc_code.OK,
            rpc_code.NOT_FOUND,
            rpc_code.INVALID_ARGUMENT,
            rpc_code.UNIMPLEMENTED,
        ]
        assert errors[2] == p4r.Error()
        assert len(primary.entries()) == 2
        errors = details(refused(StatusCode.UNKNOWN, lambda: primary.insert(fdb(5))))
        assert codes(errors) == [rpc_code.RESOURCE_EXHAUSTED]
        assert "l2_fwd_tx_table" in errors[0].message

    def test_a_batch_has_no_order_to_rely_on(self, primary: Client) -> None:
        wanted = updates(p4r.Update.INSERT, [fdb()]) + updates(p4r.Update.DELETE, [fdb()])
        errors = details(refused(StatusCode.UNKNOWN, lambda: primary.write(*wanted)))
        assert codes(errors) == [rpc_code.OK, rpc_code.NOT_FOUND]
        assert len(primary.entries()) == 1

    def test_a_counter_is_modified_only(self, primary: Client) -> None:
        primary.insert(fdb())
        data = p4r.CounterData(packet_count=3, byte_count=4)
        entity = p4r.Entity(
            direct_counter_entry=p4r.DirectCounterEntry(table_entry=fdb(), data=data)
        )
        primary.write(p4r.Update(type=p4r.Update.MODIFY, entity=entity))
        [found] = primary.read(entity)
        assert found.direct_counter_entry.data == data
        undue = p4r.Update(type=p4r.Update.DELETE, entity=entity)
        errors = details(refused(StatusCode.UNKNOWN, lambda: primary.write(undue)))
        assert codes(errors) == [rpc_code.INVALID_ARGUMENT]


METER = p4r.Entity(meter_entry=p4r.MeterEntry())


INSERTED = p4r.WriteRequest(
    device_id=1, election_id=p4r.Uint128(low=1), updates=updates(p4r.Update.INSERT, [fdb()])
)
ENCODED = INSERTED.SerializeToString()
ROLE_OF_NO_UTF8 = b"\x32\x02\xff\xfe"  # field 6, two bytes


class TestBytes:
    """What comes in is no request, or none of a reasonable size; the server goes on."""

    @pytest.mark.parametrize(
        ("method", "sent", "code"),
        [
            pytest.param("Write", b"\xff" * 64, StatusCode.INTERNAL, id="garbage"),
            pytest.param("Write", ENCODED[:-3], StatusCode.INTERNAL, id="cut short"),
            pytest.param("Write", ENCODED + ROLE_OF_NO_UTF8, StatusCode.INTERNAL, id="no UTF-8"),
            pytest.param("Write", b"", StatusCode.NOT_FOUND, id="nothing"),
            pytest.param(
                "Write",
                ENCODED + b"\x0a\x00" * 2_600_000,
                StatusCode.RESOURCE_EXHAUSTED,
                id="five megabytes",
            ),
            pytest.param("Write", ENCODED + b"\x28\x63", StatusCode.UNIMPLEMENTED, id="enum 99"),
            pytest.param("Read", b"\xff" * 64, StatusCode.INTERNAL, id="garbage to read"),
            pytest.param(
                "SetForwardingPipelineConfig", b"\xff" * 64, StatusCode.INTERNAL, id="no pipeline"
            ),
            pytest.param("Fly", b"", StatusCode.UNIMPLEMENTED, id="no such call"),
        ],
    )
    def test_what_is_refused(
        self, primary: Client, server: Server, method: str, sent: bytes, code: StatusCode
    ) -> None:
        with grpc.insecure_channel(f"unix:{server.path}") as channel:
            call: Callable[..., bytes] = channel.unary_unary(f"/p4.v1.P4Runtime/{method}")
            refused(code, lambda: call(sent, timeout=10))
        assert primary.entries() == []

    def test_fields_that_are_not_known_are_passed_over(
        self, primary: Client, server: Server
    ) -> None:
        with grpc.insecure_channel(f"unix:{server.path}") as channel:
            write: Callable[..., bytes] = channel.unary_unary("/p4.v1.P4Runtime/Write")
            write(ENCODED + b"\xf2\x7f\x01x", timeout=10)
        assert len(primary.entries()) == 1

    def test_many_updates_of_nothing_have_an_error_each(self, primary: Client) -> None:
        error = refused(StatusCode.UNKNOWN, lambda: primary.write(*[p4r.Update()] * 100))
        assert codes(details(error)) == [rpc_code.INVALID_ARGUMENT] * 100

    def test_a_stream_that_is_half_closed_gives_the_primacy_up(
        self, primary: Client, join: Join
    ) -> None:
        second = join()
        second.claim(0)
        assert status(second) == (rpc_code.ALREADY_EXISTS, 0, 1)
        primary.half_close()
        assert status(second) == (rpc_code.NOT_FOUND, 0, 1)
        refused(StatusCode.PERMISSION_DENIED, lambda: primary.insert(fdb()))


class TestReads:
    def test_a_device_that_is_not_there(self, primary: Client) -> None:
        refused(StatusCode.NOT_FOUND, lambda: primary.read(device_id=2))

    def test_what_is_good_is_told_before_what_is_not(self, primary: Client) -> None:
        primary.insert(fdb())
        good = p4r.Entity(table_entry=p4r.TableEntry())
        bad = p4r.Entity(table_entry=p4r.TableEntry(table_id=9))
        request = p4r.ReadRequest(device_id=1, entities=[bad, good, p4r.Entity(), METER])
        answers = primary.stub.Read(request, timeout=10)
        assert [e.table_entry.table_id for e in next(answers).entities] == [fdb().table_id]
        errors = details(refused(StatusCode.UNKNOWN, lambda: next(answers)))
        invalid = rpc_code.INVALID_ARGUMENT
        assert codes(errors) == [invalid, rpc_code.OK, invalid, rpc_code.UNIMPLEMENTED]


def test_capabilities(primary: Client) -> None:
    asked = p4r.CapabilitiesRequest
    for device_id in (0, 1):
        told = primary.stub.Capabilities(asked(device_id=device_id), timeout=10)
        assert told.p4runtime_api_version.startswith("1.4.")
    refused(StatusCode.NOT_FOUND, lambda: primary.stub.Capabilities(asked(device_id=2), timeout=10))
