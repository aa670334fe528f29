"""The agent's gRPC service on a real unix socket, and the code protoc wrote for it."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from dataplane.api import agent_pb2 as pb
from dataplane.api.client import AgentUnreachableError, connect
from dataplane.api.service import AgentService, serve
from dataplane.contracts import PacketPaths
from dataplane.core.agreement import Observed, Question, done
from dataplane.core.capability import Capability, Departure
from dataplane.core.derive import derive
from dataplane.core.diff import Pending
from dataplane.core.errors import OverweaveError
from dataplane.core.events import Link, LinksChanged, TargetReport
from dataplane.core.frames import parse_tunnel
from dataplane.core.model import Encap, EntryKey, Vni
from dataplane.core.offload import SwitchView
from dataplane.core.path import Action, Outcome, Probe, Tunnel
from dataplane.core.placement import FullMap, Traffic
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import Snapshot, obstacle
from dataplane.core.xdp import VETH, XdpPlace
from dataplane.fastpath import NoEbpf
from tests.unit.test_core_state import OWN_BLOCK, POD, after, remote, request, synced

FULL = Pending(FullMap("entries"), "table-full, 1 of its entries stay on Open vSwitch")
REPOSITORY = Path(__file__).parents[2]
HERE, THERE = ip_address("192.0.2.1"), ip_address("192.0.2.2")


class FixedPath:
    """A fast path that holds the remote endpoint, and has handed two ARP questions over."""

    def traffic(self) -> dict[EntryKey, Traffic]:
        return {EntryKey(Vni(100), remote().mac): Traffic(7, 700)}

    def switched(self) -> dict[EntryKey, Traffic]:
        return {}

    def counts(self) -> dict[int, dict[Reason, int]]:
        return {40: {Reason.ARP: 2}, 41: {Reason.GROUP: 1}}


class OvsPath:
    """An Open vSwitch that sends out to n2 what comes from a pod, and cannot be asked otherwise."""

    name = "ovs"

    def outcome(self, probe: Probe) -> Outcome:
        if isinstance(probe.entry, Tunnel):
            raise OverweaveError("the switch is away")
        tunnel = Tunnel(Encap.GENEVE, probe.vni, HERE, THERE, 6081)
        return Outcome(Action.TUNNEL, tunnel, probe.nic, passed=("classify", "forwarding"))

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        """Drop every frame but those of which it does not know."""
        return [
            Observed(done(Action.DROP), "the last flow") if each.sound else Observed({}, why="lost")
            for each in questions
        ]


class Fixed:
    """A source with one attachment and one remote endpoint; flows are late and failing."""

    def __init__(self) -> None:
        port = LinksChanged((Link("vp0", 40, "", 1450, up=True),))
        state = after(*synced(OWN_BLOCK, remote()), request(), port)
        self.overdue = {"flows": 2.5}
        self.snapshot = Snapshot(
            state,
            ("flows", "fabric"),
            derive(state),
            generation=3,
            reports={"flows": TargetReport("flows", 3, error="the switch said no")},
            since={POD: 3},
        )


OCTEON = Capability("marvell", "Marvell Octeon 10", emulated=True)
WITHOUT_EBPF = PacketPaths(NoEbpf("there is no bcc"), OvsPath())


def test_status_ports_and_tunnels_over_a_socket(tmp_path: Path) -> None:
    socket = tmp_path / "api.sock"
    modes = {"datapath": "userspace"}
    server = serve(AgentService(Fixed(), FixedPath(), WITHOUT_EBPF, modes, "unix"), socket)
    with connect(socket) as agent:
        status: pb.Status = agent.GetStatus(pb.GetStatusRequest())
        ports = agent.ListPorts(pb.ListPortsRequest()).ports
        tunnels = agent.ListTunnels(pb.ListTunnelsRequest()).tunnels
        entries = agent.ListEntries(pb.ListEntriesRequest()).entries
    server.stop(None)
    assert (status.node, status.ports) == ("n1", 1)
    assert "the switch said no" in status.obstacle
    assert [(t.name, t.error, t.overdue_s) for t in status.targets] == [
        ("flows", "the switch said no", 2.5),
        ("fabric", "has not reported yet", 0.0),
    ]
    assert [p.identity for p in status.unpublished] == ["ns/pod/eth0"]
    assert [(p.container_id, p.segment, p.vni, p.mtu) for p in ports] == [
        ("pod", "blue", 100, 1450)
    ]
    assert [(t.remote, list(t.remote_nodes), t.endpoints) for t in tunnels] == [
        ("192.0.2.2", ["n2"], 1)
    ]
    assert dict(ports[0].handed_over) == {"arp": 2}
    assert [(e.via, e.placement, e.reason, e.packets, e.bytes) for e in entries] == [
        ("vp0", "ovs", "pending", 0, 0),
        ("192.0.2.2", "fastpath", "", 7, 700),
    ]


def test_a_trace_over_a_socket(tmp_path: Path) -> None:
    socket, source = tmp_path / "api.sock", Fixed()
    service = AgentService(
        source, FixedPath(), PacketPaths(NoEbpf("there is no bcc"), OvsPath()), {}, "unix"
    )
    attachment = source.snapshot.state.attachments[POD]
    ours = pb.TraceEnd(name="a", node="n1", mac=attachment.mac, ip="10.0.0.1", vtep=str(HERE))
    other = pb.TraceEnd(name="b", node="n2", mac=remote().mac, ip="10.0.0.2", vtep=str(THERE))
    server = serve(service, socket)
    with connect(socket) as agent:
        answer = agent.Trace(pb.TraceRequest(segment="blue", source=ours, target=other))
        there = agent.Trace(pb.TraceRequest(segment="blue", source=other, target=other))
    server.stop(None)
    assert answer.node == "n1"
    sent, received = answer.hops
    assert (sent.source, sent.enters, sent.arrives, sent.owner) == ("a", "pod", True, "")
    assert sent.predicted.says == "geneve 100 192.0.2.1 > 192.0.2.2 port 6081" == sent.ovs.says
    assert (sent.via, sent.fastpath.action) == ("ovs", "none")
    assert sent.fastpath.detail == "there is no bcc"
    assert (received.source, received.enters, received.arrives) == ("b", "wire", False)
    assert (received.owner, received.ovs.detail) == ("ovs", "the switch is away")
    assert not there.hops


class FastPacketPath:
    """A fast path whose map of entries lacks what is asked for."""

    name = "fastpath"

    def outcome(self, probe: Probe) -> Outcome:
        return Outcome(Action.HAND_OVER, reason=Reason.NO_ENTRY, owner="fastpath: map entries")

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        """Hand every frame over."""
        return [Observed(done(Action.HAND_OVER, inner=each.frame)) for each in questions]


class SwitchPath(FastPacketPath):
    """A switch that delivers all from the wire; asked again, it ``settles`` or ``dies``."""

    name = "switch"

    def __init__(self, *, settles: bool = False, fails: bool = False, dies: bool = False) -> None:
        self._settles, self._fails, self._dies = settles, fails, dies
        self._seen: set[bytes] = set()

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        is_asked_again = any(each.mark in self._seen for each in questions)
        if self._fails or (self._dies and is_asked_again):
            raise OverweaveError("the switch is away")
        return [self._observe(each) for each in questions]

    def _observe(self, question: Question) -> Observed:
        is_known = question.mark in self._seen
        self._seen.add(question.mark)
        if question.entry is not None:
            return Observed(done(Action.NONE))
        if is_known and self._settles:
            return Observed(done(Action.HAND_OVER, inner=question.frame))
        return Observed(done(Action.DELIVER, "rep0", question.frame), "the row")


@pytest.mark.parametrize(
    ("pending", "reason", "owner"),
    [
        pytest.param((), "no-entry", "fastpath: map entries", id="a fault"),
        pytest.param((FULL,), "table-full", "", id="a full map is none"),
    ],
)
def test_what_a_target_says_it_lacks_is_no_difference(
    tmp_path: Path, pending: tuple[Pending, ...], reason: str, owner: str
) -> None:
    socket, source = tmp_path / "api.sock", Fixed()
    report = TargetReport("fastpath", 3, pending=pending)
    source.snapshot = replace(source.snapshot, reports={"fastpath": report})
    paths = PacketPaths(FastPacketPath(), OvsPath())
    mac = source.snapshot.state.attachments[POD].mac
    ours = pb.TraceEnd(name="a", node="n1", mac=mac, ip="10.0.0.1", vtep=str(HERE))
    other = pb.TraceEnd(name="b", node="n2", mac=remote().mac, ip="10.0.0.2", vtep=str(THERE))
    server = serve(AgentService(source, FixedPath(), paths, {}, "unix"), socket)
    with connect(socket) as agent:
        answer = agent.Trace(pb.TraceRequest(segment="blue", source=ours, target=other))
    server.stop(None)
    hop = answer.hops[0]
    assert (hop.arrives, hop.via, hop.reason, hop.owner) == (True, "ovs", reason, owner)


@pytest.mark.parametrize(
    ("pending", "is_ready"),
    [
        pytest.param((), True, id="nothing pending"),
        pytest.param((FULL,), True, id="a map is full"),
        pytest.param(
            (Pending("eth0", "there is no netdev eth0 yet"),), False, id="a part is missing"
        ),
    ],
)
def test_what_keeps_a_node_from_being_ready(
    pending: tuple[Pending, ...], *, is_ready: bool
) -> None:
    source = Fixed()
    reports = {
        name: TargetReport(name, 3, pending=pending) for name in source.snapshot.local_targets
    }
    assert (obstacle(replace(source.snapshot, reports=reports)) is None) is is_ready


def verified(
    tmp_path: Path,
    paths: PacketPaths,
    switch: Capability | None = OCTEON,
    *,
    knows: bool = True,
    send: bool = False,
) -> list[pb.Verified]:
    socket, source = tmp_path / "api.sock", Fixed()
    state = replace(
        source.snapshot.state,
        switch=SwitchView(switch, "" if switch else "no driver", held=frozenset()),
    )
    desired = source.snapshot.desired if knows else None
    source.snapshot = replace(source.snapshot, state=state, desired=desired)
    server = serve(AgentService(source, FixedPath(), paths, {}, "unix"), socket)
    try:
        with connect(socket) as agent:
            return list(agent.Verify(pb.VerifyRequest(packets=5, seed="x", send=send)))
    finally:
        server.stop(None)


def tallied(found: list[pb.Verified], path: str) -> list[pb.PathTally]:
    return [tally for each in found for tally in each.paths if tally.path == path]


def test_frames_that_differ_are_told_with_both_rules(tmp_path: Path) -> None:
    found = verified(tmp_path, PacketPaths(FastPacketPath(), OvsPath(), SwitchPath()))
    assert sum(each.asked for each in found) == found[0].total > 100
    differences = [one for each in found for one in each.differences]
    assert {one.path for one in differences} == {"switch"}
    first = differences[0]
    assert (first.field, first.said, first.truth) == ("verdict", "deliver", "drop")
    mac = first.question.rpartition(" to ")[2].split()[0]
    assert first.rule == f"the row; it holds no entry of {mac} in 100"
    assert first.truths_rule == "the last flow"
    assert "from the wire" in first.question
    assert bytes.fromhex(first.frame)
    fast, switch, ovs = (tallied(found, path) for path in ("fastpath", "switch", "ovs"))
    assert sum(t.verdicts["hand over"] for t in fast) == found[0].total
    assert sum(t.asked for t in switch) == sum(t.verdicts["deliver"] for t in switch)
    assert sum(t.asked for t in switch) < found[0].total
    assert sum(t.differed for t in switch) == len(differences) == sum(t.asked for t in switch)
    assert sum(t.unknown for t in ovs) > 0
    assert {t.why_unknown for t in ovs} == {"", "lost"}


class DecapsulatingPath(OvsPath):
    """One that strips tunnel packets, ``careful`` or not about ECN and whom they are for."""

    def __init__(self, name: str, output: str = "rep0", *, careful: bool = False) -> None:
        self.name, self._output, self._careful = name, output, careful

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        return [self._observe(each) for each in questions]

    def _observe(self, question: Question) -> Observed:
        packet = parse_tunnel(question.frame) if question.sound and not question.entry else None
        if packet is None:
            return Observed(done(Action.DROP))
        if self._careful and (packet.ecn or packet.tunnel.target != HERE):
            return Observed(done(Action.DROP))
        return Observed(done(Action.DELIVER, self._output, packet.inner))


@pytest.mark.parametrize(
    "declared",
    [
        pytest.param({Departure.OUTER_ECN, Departure.OUTER_TARGET}, id="both"),
        pytest.param({Departure.OUTER_ECN}, id="one"),
        pytest.param(set(Departure) - {Departure.OUTER_ECN}, id="the other"),
        pytest.param(set(), id="nothing"),
    ],
)
def test_what_a_device_says_that_it_cannot_do_is_counted_apart(
    tmp_path: Path, declared: set[Departure]
) -> None:
    paths = DecapsulatingPath("ovs", careful=True), DecapsulatingPath("switch")
    device = replace(OCTEON, departures=frozenset(declared))
    found = verified(tmp_path, PacketPaths(FastPacketPath(), *paths), device)
    excused = Counter[str]()
    for tally in tallied(found, "switch"):
        excused.update(tally.excused)
    told = [one.question for each in found for one in each.differences]
    kinds = {Departure.OUTER_ECN: "outside", Departure.OUTER_TARGET: "not to this node"}
    for departure, kind in kinds.items():
        count = sum(kind in question for question in told)
        assert (count == 0) is (departure in declared)
        assert (excused.pop(departure, 0) > 0) is (departure in declared)
    assert not excused


def test_what_goes_elsewhere_besides_has_no_excuse(tmp_path: Path) -> None:
    paths = DecapsulatingPath("ovs", careful=True), DecapsulatingPath("switch", "rep1")
    device = replace(OCTEON, departures=frozenset(Departure))
    found = verified(tmp_path, PacketPaths(FastPacketPath(), *paths), device)
    assert not any(tally.excused for tally in tallied(found, "switch"))
    told = [one.question for each in found for one in each.differences]
    for kind in ("ECN 3 outside", "not to this node"):
        assert any(kind in question for question in told)


def test_what_differs_only_once_is_no_difference(tmp_path: Path) -> None:
    paths = PacketPaths(FastPacketPath(), OvsPath(), SwitchPath(settles=True))
    assert not [one for each in verified(tmp_path, paths) for one in each.differences]


def test_what_a_path_did_before_it_died_is_told(tmp_path: Path) -> None:
    paths = PacketPaths(FastPacketPath(), OvsPath(), SwitchPath(dies=True))
    found = verified(tmp_path, paths)
    assert [one for each in found for one in each.differences]
    assert "the switch is away" in {t.why_not for t in tallied(found, "switch")}


class BlindPath(OvsPath):
    """An Open vSwitch whose answers nobody understands."""

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        return [Observed({}, why="it prints otherwise") for _ in questions]


def test_what_there_is_nothing_to_hold_against_is_not_known(tmp_path: Path) -> None:
    found = verified(tmp_path, PacketPaths(FastPacketPath(), BlindPath(), SwitchPath()))
    switch = tallied(found, "switch")
    told = sum(len(each.differences) for each in found)  # of damaged frames it is known
    assert sum(t.unknown for t in switch) == sum(t.asked for t in switch) - told > 0
    assert "ovs: it prints otherwise" in {t.why_unknown for t in switch}


def test_a_path_that_cannot_be_asked_says_why(tmp_path: Path) -> None:
    found = verified(tmp_path, PacketPaths(FastPacketPath(), OvsPath(), SwitchPath(fails=True)))
    assert {t.why_not for t in tallied(found, "switch")} == {"the switch is away"}
    assert not [one for each in found for one in each.differences]


def test_the_switch_of_a_real_device_is_not_observed(tmp_path: Path) -> None:
    found = verified(tmp_path, WITHOUT_EBPF)
    (tally,) = tallied(found, "switch")
    assert tally.why_not.endswith("by pods on its host: overweave verify --send")
    (tally,) = tallied(verified(tmp_path, WITHOUT_EBPF, None, send=True), "switch")
    assert tally.why_not == "no driver"
    fast = tallied(found, "fastpath")
    assert {(t.asked, t.why_absent, t.why_not) for t in fast} == {(0, "there is no bcc", "")}


class DevicePath:
    """A real switch behind which a pod is: what is harmless leaves by it."""

    name = "switch"

    def __init__(self, action: Action = Action.TUNNEL) -> None:
        self.action = action
        self.asked: list[Question] = []

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        self.asked += questions
        return [
            Observed(done(self.action), "it is said")
            if each.harmless
            else Observed(done(Action.NONE), why="it is not sent")
            for each in questions
        ]


def test_a_real_device_is_asked_only_by_who_wants_frames_sent(tmp_path: Path) -> None:
    device = DevicePath()
    paths = PacketPaths(FastPacketPath(), OvsPath(), device=device)
    (tally,) = tallied(verified(tmp_path, paths), "switch")
    assert (device.asked, tally.asked) == ([], 0)
    found = verified(tmp_path, paths, send=True)
    tallies = tallied(found, "switch")
    sent = sum(tally.asked for tally in tallies)
    assert 0 < sent < sum(tally.absent for tally in tallies)
    assert [each.harmless for each in device.asked[:sent]] == [True] * sent
    assert {tally.why_absent for tally in tallies} - {""} == {"it is not sent"}
    assert {(tally.why_not, tally.why_unknown) for tally in tallies} == {("", "")}
    first = next(one for each in found for one in each.differences)
    assert (first.said, first.truth) == ("tunnel", "drop")
    assert first.rule.startswith("it is said; ")


def test_what_its_entries_have_counted_is_no_difference_and_does_not_agree(tmp_path: Path) -> None:
    paths = PacketPaths(FastPacketPath(), OvsPath(), device=DevicePath(Action.COUNTED))
    found = verified(tmp_path, paths, send=True)
    tallies = tallied(found, "switch")
    sent = sum(tally.asked for tally in tallies)
    assert sum(tally.verdicts["counted"] for tally in tallies) == sent > 0
    assert sum(tally.not_observed["verdict"] for tally in tallies) == sent
    assert {(tally.differed, tally.unknown) for tally in tallies} == {(0, 0)}


def test_what_was_lost_and_then_counted_is_no_difference(tmp_path: Path) -> None:
    """An entry that comes back has lost the first, and takes the second."""

    class Returns(DevicePath):
        def observed(self, questions: Sequence[Question]) -> list[Observed]:
            known = {each.mark for each in self.asked}
            again = all(each.mark in known for each in questions)
            self.action = Action.COUNTED if again else Action.DELIVER
            return super().observed(questions)

    paths = PacketPaths(FastPacketPath(), OvsPath(), device=Returns())
    found = verified(tmp_path, paths, send=True)
    assert sum(tally.verdicts["deliver"] for tally in tallied(found, "switch")) > 0
    assert not [one for each in found for one in each.differences]


def test_an_emulated_switch_is_asked_without_sending(tmp_path: Path) -> None:
    device = DevicePath()
    paths = PacketPaths(FastPacketPath(), OvsPath(), SwitchPath(), device)
    assert tallied(verified(tmp_path, paths, send=True), "switch")
    assert device.asked == []


def test_before_the_agent_knows_anything_nothing_is_compared(tmp_path: Path) -> None:
    with pytest.raises(AgentUnreachableError, match="does not know yet what should be"):
        verified(tmp_path, WITHOUT_EBPF, knows=False)


def test_a_trace_of_nonsense_is_refused(tmp_path: Path) -> None:
    socket = tmp_path / "api.sock"
    service = AgentService(
        Fixed(), FixedPath(), PacketPaths(NoEbpf("there is no bcc"), OvsPath()), {}, "unix"
    )
    server = serve(service, socket)
    with pytest.raises(AgentUnreachableError) as raised, connect(socket) as agent:
        agent.Trace(pb.TraceRequest(segment="blue"))
    server.stop(None)
    assert "INVALID_ARGUMENT" in str(raised.value)


@pytest.mark.parametrize(
    ("switch", "mode"),
    [
        pytest.param(SwitchView(OCTEON), "Marvell Octeon 10 (emulated)", id="emulated"),
        pytest.param(
            SwitchView(replace(OCTEON, obstacle="NORMAL is first", emulated=False)),
            "Marvell Octeon 10: switch-taken: NORMAL is first",
            id="taken",
        ),
        pytest.param(SwitchView(error="no answer"), "device-down: no answer", id="down"),
        pytest.param(SwitchView(OCTEON, "no answer"), "device-down: no answer", id="down by now"),
    ],
)
def test_how_it_is_with_the_switch_below(switch: SwitchView, mode: str) -> None:
    source = Fixed()
    state = replace(source.snapshot.state, switch=switch)
    source.snapshot = replace(source.snapshot, state=state)
    service = AgentService(source, FixedPath(), WITHOUT_EBPF, {}, "unix")
    assert service.GetStatus(pb.GetStatusRequest(), None).modes["switch"] == mode


@pytest.mark.parametrize(
    ("kind", "pending", "mode"),
    [
        pytest.param("", [], "native", id="in-the-driver"),
        pytest.param("veth", [], f"off: {VETH}", id="veth"),
        pytest.param("", [XdpPlace("eth0")], "off: EBUSY", id="refused"),
        pytest.param("", ["map entries"], "native", id="something-else-is-refused"),
    ],
)
def test_how_it_is_with_xdp_and_why(kind: str, pending: list[object], mode: str) -> None:
    source = Fixed()
    bindings = source.snapshot.state.bindings
    assert bindings.nic is not None
    bindings = replace(bindings, nic=replace(bindings.nic, kind=kind))
    report = TargetReport("fastpath", 3, pending=tuple(Pending(each, "EBUSY") for each in pending))
    source.snapshot = replace(
        source.snapshot,
        state=replace(source.snapshot.state, bindings=bindings),
        reports={"fastpath": report},
    )
    service = AgentService(source, FixedPath(), WITHOUT_EBPF, {"datapath": "userspace"}, "unix")
    assert service.GetStatus(pb.GetStatusRequest(), None).modes == {
        "datapath": "userspace",
        "xdp": mode,
    }


def test_no_agent_is_one_sentence(tmp_path: Path) -> None:
    with (
        pytest.raises(AgentUnreachableError, match="is 'overweave agent' running"),
        connect(tmp_path / "none.sock") as agent,
    ):
        agent.GetStatus(pb.GetStatusRequest(), timeout=1)


PROTOS = [
    ("dataplane/api/agent", "services"),
    ("dataplane/api/attachment", "services"),
    ("dataplane/opi/component", ""),
    ("dataplane/opi/l2_xpu_infra_mgr", "services"),
    ("dataplane/opi/l3_xpu_infra_mgr", "services"),
    ("dataplane/opi/lifecycle", "services"),
    ("dataplane/opi/network_function", "services"),
    ("dataplane/opi/networktypes", ""),
]


@pytest.mark.parametrize(("name", "services"), PROTOS, ids=[name for name, _ in PROTOS])
def test_the_checked_in_code_is_what_protoc_writes(
    name: str, services: str, tmp_path: Path
) -> None:
    out = [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", *out, f"{name}.proto"]
    subprocess.run(command, cwd=REPOSITORY, check=True)
    wanted = {"_pb2.py", "_pb2.pyi", *(["_pb2_grpc.py"] if services else [])}
    for suffix in wanted:
        written = tmp_path / f"{name}{suffix}"
        assert written.read_text() == (REPOSITORY / f"{name}{suffix}").read_text()
    assert (REPOSITORY / f"{name}_pb2_grpc.py").exists() == bool(services)


def test_every_proto_is_held_to_what_protoc_writes() -> None:
    found = REPOSITORY.glob("dataplane/*/*.proto")
    assert {str(path.relative_to(REPOSITORY).with_suffix("")) for path in found} == dict(
        PROTOS
    ).keys()
