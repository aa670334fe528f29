"""overweave.v1.Attachment on a real socket: what it refuses, and what of an attachment it keeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import grpc
import pytest

from dataplane.api import attachment_pb2 as pb
from dataplane.api import health
from dataplane.api.attachment import CODE_KEY, AttachmentService
from dataplane.api.attachment_pb2_grpc import AttachmentStub
from dataplane.api.dpu import DpuClient, Served
from dataplane.api.health import DpuFeed, HostFeed
from dataplane.api.service import serve_attachments
from dataplane.contracts import AttachRefusedError, Vf
from dataplane.core.admission import TRY_AGAIN
from dataplane.core.desired import Port
from dataplane.core.events import AttachRequest, Event, HalfHeard
from dataplane.core.heartbeat import SILENT_S
from dataplane.core.model import AttachmentKey
from dataplane.core.snapshot import Obstacle
from dataplane.vf_ports import VfPorts
from tests.functional.cni_world import FakeAttachments
from tests.functional.namespaces import wait_until

Status = grpc.StatusCode
GOOD: dict[str, Any] = {
    "serial": "M1",
    "vf": 0,
    "container_id": "c1",
    "ifname": "eth0",
    "segment": "blue",
    "identity": "ns/pod/eth0",
    "network": "pods",
    "requested_at": 1_800_000_000,
}


@dataclass
class Dpu:
    stub: AttachmentStub
    held: FakeAttachments
    address: str

    def attach(self, **changes: Any) -> pb.AttachResponse:
        answer: pb.AttachResponse = self.stub.Attach(pb.AttachRequest(**{**GOOD, **changes}))
        return answer

    def publish(self, **changes: str) -> bool:
        names = {"serial": "M1", "container_id": "c1", "ifname": "eth0", **changes}
        return bool(self.stub.Publish(pb.PublishRequest(**names)).published)

    def detach(self, **changes: str) -> None:
        names = {"serial": "M1", "container_id": "c1", "ifname": "eth0", **changes}
        self.stub.Detach(pb.DetachRequest(**names))

    def faults(self, **changes: str) -> list[str]:
        names = {"serial": "M1", "container_id": "c1", "ifname": "eth0", **changes}
        return list(self.stub.Check(pb.CheckRequest(**names)).faults)


@pytest.fixture
def dpu(tmp_path: Path) -> Iterator[Dpu]:
    held = FakeAttachments()
    service = AttachmentService(VfPorts("d1", held), {"M1": ("rep0", "rep1"), "M2": ("rep2",)})
    server = serve_attachments(service, tmp_path / "attachment.sock")
    address = f"unix:{tmp_path}/attachment.sock"
    with grpc.insecure_channel(address) as channel:
        yield Dpu(AttachmentStub(channel), held, address)
    server.stop(None).wait()


def refused(error: grpc.RpcError, status: Status, code: int, words: str) -> None:
    assert error.code() is status, error
    said = error.details() or ""
    assert words in said
    assert "\n" not in said
    codes = {each.key: str(each.value) for each in error.trailing_metadata() or ()}
    assert codes[CODE_KEY] == str(code)


WRONG = [
    ("no serial", {"serial": ""}, "serial '' is not 1-63"),
    ("blank serial", {"serial": "a b"}, "serial 'a b' is not"),
    ("long serial", {"serial": "x" * 64}, "serial 'xxx"),
    ("no container", {"container_id": ""}, "container_id '' is not"),
    ("path as container", {"container_id": "../x"}, "container_id '../x'"),
    ("long container", {"container_id": "x" * 201}, "(201 characters) is not 1-200"),
    ("newline in container", {"container_id": "c\n"}, "container_id 'c\\n'"),
    ("no interface", {"ifname": ""}, "ifname '' is not"),
    ("long interface", {"ifname": "x" * 16}, "is not 1-15"),
    ("slash in interface", {"ifname": "a/b"}, "ifname 'a/b'"),
    ("dots as interface", {"ifname": ".."}, "ifname '..'"),
    ("no segment", {"segment": ""}, "segment name ''"),
    ("upper-case segment", {"segment": "Blue"}, "segment name 'Blue'"),
    ("long segment", {"segment": "x" * 64}, "segment name"),
    ("no identity", {"identity": ""}, "identity '' is not"),
    ("NUL in identity", {"identity": "a\0b"}, "identity 'a\\x00b'"),
    ("long identity", {"identity": "x" * 1025}, "(1025 characters)"),
    ("mac", {"mac": "02:00:00:00:00"}, "is not six hexadecimal bytes"),
    ("multicast mac", {"mac": "01:00:5e:00:00:01"}, "is a multicast"),
    ("zero mac", {"mac": "00:00:00:00:00:00"}, "cannot belong"),
    ("ip", {"ips": ["10.0.0.256"]}, "ips '10.0.0.256' is not an address"),
    ("prefix as ip", {"ips": ["10.0.0.1/24"]}, "is not an address"),
    ("zone", {"ips": ["fe80::1%eth0"]}, "is not an address"),
    ("multicast ip", {"ips": ["224.0.0.1"]}, "cannot be the address"),
    ("loopback ip", {"ips": ["::1"]}, "cannot be the address"),
    ("unspecified ip", {"ips": ["0.0.0.0"]}, "cannot be the address"),
    ("ip twice", {"ips": ["10.0.0.1", "10.0.0.1"]}, "is asked for twice"),
    ("many ips", {"ips": [f"10.0.0.{n}" for n in range(1, 18)]}, "17 addresses, 16 at most"),
    ("small mtu", {"mtu": 67}, "mtu 67"),
    ("large mtu", {"mtu": 65536}, "mtu 65536"),
    ("no network", {"network": ""}, "network '' is not"),
    ("path as network", {"network": "a/b"}, "network 'a/b'"),
    ("no time", {"requested_at": 0}, "requested_at 0"),
    ("time that never comes", {"requested_at": 1 << 63}, "requested_at 9223372036854775808"),
]


@pytest.mark.parametrize(
    ("changes", "words"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG]
)
def test_bad_input(dpu: Dpu, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        dpu.attach(**changes)
    refused(error.value, Status.INVALID_ARGUMENT, 7, words)
    assert dpu.held.keys() == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"serial": "M9"}, "no device with serial M9; it has M1, M2", id="serial"),
        pytest.param({"vf": 2}, "has no VF 2; it has 2, numbered from 0", id="number"),
        pytest.param({"serial": "M2", "vf": 1}, "has no VF 1; it has 1", id="of another device"),
        pytest.param({"vf": (1 << 32) - 1}, "has no VF 4294967295", id="largest number"),
    ],
)
def test_what_does_not_exist(dpu: Dpu, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(grpc.RpcError) as error:
        dpu.attach(**changes)
    refused(error.value, Status.NOT_FOUND, 7, words)


@pytest.mark.parametrize(
    ("method", "changes", "status"),
    [
        ("detach", {"serial": "M9"}, Status.NOT_FOUND),
        ("detach", {"container_id": "/"}, Status.INVALID_ARGUMENT),
        ("detach", {"ifname": ""}, Status.INVALID_ARGUMENT),
        ("publish", {"serial": "M9"}, Status.NOT_FOUND),
        ("publish", {"container_id": "/"}, Status.INVALID_ARGUMENT),
        ("faults", {"serial": ""}, Status.INVALID_ARGUMENT),
        ("faults", {"container_id": ""}, Status.INVALID_ARGUMENT),
    ],
)
def test_bad_input_of_the_others(
    dpu: Dpu, method: str, changes: dict[str, str], status: Status
) -> None:
    with pytest.raises(grpc.RpcError) as error:
        getattr(dpu, method)(**changes)
    assert error.value.code() is status


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (7, Status.INVALID_ARGUMENT),
        (11, Status.UNAVAILABLE),
        (110, Status.ALREADY_EXISTS),
        (111, Status.PERMISSION_DENIED),
        (112, Status.RESOURCE_EXHAUSTED),
        (113, Status.FAILED_PRECONDITION),
        (120, Status.FAILED_PRECONDITION),
    ],
)
def test_a_refusal_keeps_cnis_code(dpu: Dpu, code: int, status: Status) -> None:
    dpu.held.refusal = AttachRefusedError(code, "the sentence")
    with pytest.raises(grpc.RpcError) as error:
        dpu.attach()
    refused(error.value, status, code, "the sentence")


def test_attach_is_repeatable_and_keeps_everything(dpu: Dpu) -> None:
    first = dpu.attach(mac="02:00:00:00:00:77", mtu=1300)
    assert (first.mac, first.mtu, first.vni) == ("02:00:00:00:00:77", 1300, 10)
    assert list(first.addresses) == ["10.1.0.2/20", "fd00:1::2/64"]
    assert list(first.routes) == []
    assert dpu.attach(mac="02:00:00:00:00:77", mtu=1300) == first
    held = dpu.held.attachment(AttachmentKey("c1", "eth0"))
    assert held is not None
    assert (held.netdev, held.netns, held.identity) == ("rep0", "", "ns/pod/eth0")
    assert (held.network, held.requested_at) == ("pods", 1_800_000_000)


def test_what_else_is_on_the_link_is_told(dpu: Dpu) -> None:
    blue = dpu.held.segments["blue"]
    dpu.held.segments["blue"] = replace(blue, subnets=(*blue.subnets, ip_network("10.2.0.0/20")))
    assert list(dpu.attach(ips=["10.1.0.5"]).routes) == ["10.2.0.0/20"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({"container_id": "c2"}, "taken by c1/eth0 (ns/pod/eth0)", id="VF"),
        pytest.param({"ifname": "eth1"}, "taken by c1/eth0", id="VF, other interface"),
        pytest.param({"vf": 1}, "c1/eth0 is attached at node d1 already", id="other VF"),
        pytest.param({"segment": "bare"}, "to segment blue by rep0", id="other segment"),
        pytest.param({"identity": "x"}, "is attached at node d1 already", id="other identity"),
    ],
)
def test_what_is_taken(dpu: Dpu, changes: dict[str, Any], words: str) -> None:
    dpu.attach()
    with pytest.raises(grpc.RpcError) as error:
        dpu.attach(**changes)
    refused(error.value, Status.ALREADY_EXISTS, 101, words)
    assert len(dpu.held.keys()) == 1


def test_of_many_at_once_one_gets_the_vf(dpu: Dpu, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes: list[str] = []
    admit = dpu.held.admit

    def slowly(request: AttachRequest, timeout_s: float) -> Port:
        time.sleep(0.05)  # an agent that has to think leaves the others time to ask
        return admit(request, timeout_s)

    monkeypatch.setattr(dpu.held, "admit", slowly)

    def attach(number: int) -> None:
        try:
            outcomes.append(dpu.attach(container_id=f"c{number}", identity=f"i{number}").mac)
        except grpc.RpcError as error:
            outcomes.append(error.code().name)

    threads = [threading.Thread(target=attach, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes)[1:] == ["ALREADY_EXISTS"] * 7
    assert len(dpu.held.keys()) == 1


@pytest.fixture
def gate(dpu: Dpu, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Let the agent admit nobody before it opens."""
    made, admit = Gate(), dpu.held.admit

    def behind(request: AttachRequest, timeout_s: float) -> Port:
        made.reached.set()
        assert made.opened.wait(10)
        return admit(request, timeout_s)

    monkeypatch.setattr(dpu.held, "admit", behind)
    yield made
    made.opened.set()


@dataclass
class Gate:
    """What stands before ``admit``."""

    reached: threading.Event = field(default_factory=threading.Event)
    opened: threading.Event = field(default_factory=threading.Event)


def test_a_detach_that_overtakes_its_attach_leaves_nothing(dpu: Dpu, gate: Gate) -> None:
    """A host that has waited long enough gives up, and forgets once the DPU has let go."""
    attach = dpu.stub.Attach.future(pb.AttachRequest(**GOOD))
    assert gate.reached.wait(5)
    attach.cancel()
    detach = dpu.stub.Detach.future(pb.DetachRequest(serial="M1", container_id="c1", ifname="eth0"))
    with pytest.raises(grpc.FutureTimeoutError):
        detach.result(timeout=0.3)  # that it is gone cannot be said yet
    gate.opened.set()
    detach.result(timeout=5)
    assert dpu.held.keys() == ()
    dpu.attach(container_id="c2")


def test_who_is_gone_gets_no_attachment(dpu: Dpu, gate: Gate) -> None:
    """Whether it is being made, or waits for the VF behind another one."""
    calls = []
    for container in ("c1", "c2"):
        calls.append(dpu.stub.Attach.future(pb.AttachRequest(**GOOD | {"container_id": container})))
        assert gate.reached.wait(5)
    time.sleep(0.2)  # the second one waits for its turn
    for call in calls:
        call.cancel()
    time.sleep(0.2)  # the server hears of it
    gate.opened.set()
    dpu.attach(container_id="c3")
    assert dpu.held.keys() == (AttachmentKey("c3", "eth0"),)


def test_a_detach_whose_host_is_gone_takes_nothing_later(dpu: Dpu, gate: Gate) -> None:
    """It would take what the host attaches under the same name meanwhile."""
    attach = dpu.stub.Attach.future(pb.AttachRequest(**GOOD))
    assert gate.reached.wait(5)
    late = pb.DetachRequest(serial="M1", container_id="c1", ifname="eth0")
    with pytest.raises(grpc.RpcError):
        dpu.stub.Detach(late, timeout=0.2)
    gate.opened.set()
    attach.result(timeout=5)
    dpu.faults()  # another call through the same pool: the late one has had its turn
    assert dpu.held.keys() == (AttachmentKey("c1", "eth0"),)


def test_publish_is_repeatable_and_for_what_is_attached(dpu: Dpu) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        dpu.publish()
    refused(caught.value, Status.UNAVAILABLE, TRY_AGAIN, "d1 does not know c1/eth0; attach it")
    dpu.attach()
    assert dpu.publish()
    assert dpu.publish()
    dpu.held.published = False
    assert not dpu.publish()
    with pytest.raises(grpc.RpcError) as caught:
        dpu.publish(serial="M2")
    refused(caught.value, Status.UNAVAILABLE, TRY_AGAIN, "d1 does not know c1/eth0")


def test_a_host_that_knows_no_publish_is_published_at_once(dpu: Dpu) -> None:
    told: list[str] = []
    dpu.held.at_publish = lambda: told.append("published")
    dpu.attach(publishes=True)
    assert told == []
    dpu.attach(container_id="c2", vf=1)
    assert told == ["published"]


def test_what_is_not_programmed_is_given_up(dpu: Dpu) -> None:
    dpu.held.unprogrammable = AttachRefusedError(11, "flows: no")
    with pytest.raises(grpc.RpcError):
        dpu.attach()
    assert dpu.held.keys() == ()


def test_detach_is_repeatable_and_knows_its_own(dpu: Dpu) -> None:
    dpu.attach()
    dpu.detach(serial="M2")
    assert len(dpu.held.keys()) == 1
    for _ in range(3):
        dpu.detach()
        assert dpu.held.keys() == ()
    own = AttachRequest(AttachmentKey("c1", "eth0"), "/run/netns/x", "blue", "i", 1)
    dpu.held.admit(own, 1.0)
    dpu.detach()
    assert len(dpu.held.keys()) == 1
    with pytest.raises(grpc.RpcError) as error:
        dpu.attach()
    refused(error.value, Status.ALREADY_EXISTS, 101, "c1/eth0 is attached")


def test_whether_it_would_attach(dpu: Dpu) -> None:
    def obstacle(segment: str) -> str:
        return str(dpu.stub.GetDevices(pb.GetDevicesRequest(segment=segment)).obstacle)

    assert [obstacle("blue"), obstacle("")] == ["", ""]
    assert obstacle("nowhere") == "segment 'nowhere' does not exist"
    dpu.held.obstruction = Obstacle("the underlay has no address")
    assert [obstacle("blue"), obstacle("")] == ["the underlay has no address"] * 2


def test_check(dpu: Dpu) -> None:
    assert dpu.faults() == ["the DPU d1 does not know c1/eth0"]
    dpu.attach()
    assert dpu.faults() == []
    dpu.held.found_faults = ["flows: x is missing"]
    assert dpu.faults() == ["flows: x is missing"]
    assert dpu.faults(serial="M2") == ["the DPU d1 does not know c1/eth0"]


def test_health_is_told_at_each_look_and_silence_once(
    dpu: Dpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health, "ASK_S", 0.02)
    told: list[Event] = []
    away = f"{dpu.address}.none"
    devices = {"a": ("M1", dpu.address), "b": ("M9", dpu.address), "c": ("M1", away)}
    feed = DpuFeed(devices, DpuClient())

    def of(name: str) -> list[HalfHeard]:
        return [each for each in told if isinstance(each, HalfHeard) and each.device == name]

    feed.start(told.append)
    began = int(time.time())
    assert wait_until(lambda: len(of("a")) >= 2)
    feed.stop()
    assert of("a")[0] == HalfHeard("a", of("a")[0].at, "d1")
    assert began <= of("a")[0].at < of("a")[-1].at
    assert (of("b")[0].peer, of("b")[0].at >= began) == ("", True)
    assert "does not serve M9, but ['M1', 'M2']" in of("b")[0].obstacle
    (silent,) = of("c")
    assert (silent.at, away in silent.error) == (0, True)


def test_who_falls_silent_was_heard_last_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ASK_S", 0.02)
    told: list[Event] = []
    odd_one = Served("No Name", frozenset({"M1"}))
    answers = iter([Served("d1", frozenset({"M1"})), odd_one, odd_one])  # two misses count

    class Client(DpuClient):
        def served(self, address: str, timeout_s: float, count: int = 0) -> Served:
            return next(answers)

    feed = DpuFeed({"a": ("M1", "unix:/none")}, Client())
    feed.start(told.append)
    assert wait_until(lambda: len(told) == 3)
    feed.stop()
    well, odd, lost = (each for each in told if isinstance(each, HalfHeard))
    assert odd == replace(well, error=odd.error)
    assert "'No Name' is not 1-63 lower-case letters" in odd.error
    assert lost == replace(well, error=lost.error)


def test_each_half_tells_the_other_how_often(tmp_path: Path) -> None:
    heard: list[int] = []
    service = AttachmentService(VfPorts("d1", FakeAttachments()), {}, heard=heard.append)
    server = serve_attachments(service, tmp_path / "attachment.sock")
    address = f"unix:{tmp_path}/attachment.sock"
    try:
        counts = [DpuClient().served(address, 5.0, number).count for number in (7, 8)]
        assert DpuClient().served(address, 5.0).node == "d1"
    finally:
        server.stop(None).wait()
    assert (heard, counts) == ([7, 8, 0], [1, 2])


def test_one_answer_that_is_missing_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ASK_S", 0.02)
    told: list[Event] = []
    asked: list[int] = []

    class Client(DpuClient):
        def served(self, address: str, timeout_s: float, count: int = 0) -> Served:
            asked.append(count)
            if count % 2 == 0:
                raise AttachRefusedError(11, "busy")
            return Served("d1", frozenset({"M1"}), count)

    feed = DpuFeed({"a": ("M1", "unix:/none")}, Client())
    feed.start(told.append)
    assert wait_until(lambda: len(asked) > 20)
    feed.stop()
    assert asked == list(range(1, len(asked) + 1))
    assert {each.error for each in told if isinstance(each, HalfHeard)} == {""}


def test_an_answer_that_is_always_the_same_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ASK_S", 0.02)
    told: list[Event] = []

    class Client(DpuClient):
        def served(self, address: str, timeout_s: float, count: int = 0) -> Served:
            return Served("d1", frozenset({"M1"}), 7)

    feed = DpuFeed({"a": ("M1", "unix:/none")}, Client())
    feed.start(told.append)
    assert wait_until(lambda: len(told) >= 2)
    feed.stop()
    errors = [each.error for each in told if isinstance(each, HalfHeard)]
    assert errors[:2] == ["", "its agent answers with the same count, 7"]


def test_a_host_that_asks_no_more() -> None:
    now, told = 100.0, list[Event]()
    feed = HostFeed("M1-dpu", lambda: now)
    feed.look(told.append)
    assert told == []
    feed.heard(1)
    feed.look(told.append)
    now += SILENT_S
    feed.look(told.append)
    assert [(e.device, e.error) for e in told if isinstance(e, HalfHeard)] == [("M1-dpu", "")]
    now += 0.1
    feed.look(told.append)
    feed.look(told.append)
    well, silent = (each for each in told if isinstance(each, HalfHeard))
    why = "the host's agent has not asked for more than 2.5 s"
    assert silent == replace(well, error=why)
    feed.heard(1)  # the same question again, late
    feed.look(told.append)
    assert told[-1] == silent
    feed.heard(2)
    feed.look(told.append)
    assert isinstance(told[-1], HalfHeard)
    assert (len(told), told[-1].error) == (3, "")


def test_health_goes_on_after_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "ASK_S", 0.02)
    told: list[Event] = []
    fails = True

    class Client(DpuClient):
        def served(self, address: str, timeout_s: float, count: int = 0) -> Served:
            if fails:
                raise KeyError("no such thing")
            return Served("d1", frozenset({"M1"}))

    feed = DpuFeed({"a": ("M1", "unix:/none")}, Client())
    feed.start(told.append)
    assert wait_until(lambda: len(told) == 1)
    fails = False
    assert wait_until(lambda: len(told) > 1)
    feed.stop()
    first, second, *_ = (each for each in told if isinstance(each, HalfHeard))
    assert first.error == "internal error, please report it: KeyError('no such thing')"
    assert (first.at, second.error, second.peer) == (0, "", "d1")


def test_a_code_that_is_none_is_a_dpu_that_failed(dpu: Dpu) -> None:
    dpu.held.unprogrammable = AttachRefusedError("eleven", "flows: no")  # type: ignore[arg-type]  # nonsense on purpose
    vf = Vf("0000:06:00.2", "vf0", "M1", 0, dpu.address)
    request = AttachRequest(AttachmentKey("c1", "eth0"), "/x", "blue", "i", 1, network="pods")
    with pytest.raises(AttachRefusedError, match="failed") as caught:
        DpuClient().attach(vf, request, 1.0)
    assert caught.value.code == TRY_AGAIN
