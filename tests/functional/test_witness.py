"""A host's VF pods, lent to the DPU: real namespaces, frames and gRPC; a bridge is the switch."""

from __future__ import annotations

import os
import resource
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from dataplane.api import witness as witness_module
from dataplane.api.attachment import AttachmentService
from dataplane.api.service import serve_attachments
from dataplane.api.witness import HostWitness, WitnessStand
from dataplane.contracts import Sending, Witness, Witnessed
from dataplane.core.desired import Port
from dataplane.core.errors import OverweaveError
from dataplane.core.frames import UDP, Ip, ip_frame, is_answer, udp
from dataplane.core.model import Attachment, AttachmentKey, Mac
from dataplane.core.probe import ProbeFrame
from dataplane.host.witness import PodWitness
from dataplane.netlink.netns import Netns
from dataplane.netlink.taps import Taps
from dataplane.vf_ports import VfPorts
from tests.functional.cni_world import BLUE, FakeAttachments
from tests.functional.namespaces import ip, name_of, namespace, wait_until
from vendors.probe import SwitchProbe

LISTEN_S = 0.2
ONE, OTHER = AttachmentKey("c1", "eth0"), AttachmentKey("c2", "eth0")
NOBODY = AttachmentKey("c9", "eth0")


def mac_of(number: int) -> Mac:
    return Mac(f"02:00:00:00:00:{number:02x}")


def port(number: int, netns: str) -> Port:
    """Return VF pod ``number``, whose VF is called vf0, vf1, ... at home."""
    attachment = Attachment(
        container_id=f"c{number + 1}",
        ifname="eth0",
        netns=netns,
        segment="blue",
        mac=mac_of(number),
        ips=(ip_address(f"10.1.0.{number + 1}"),),
        identity=f"pod{number}",
        slot=number,
        netdev=f"vf{number}",
    )
    return Port(attachment, BLUE, 1450)


def frame(mark: bytes, source: int = 0, target: int = 1, address: str = "", size: int = 0) -> bytes:
    """Return what a pod of ours sends to another; ``address`` is what it says of itself."""
    ends = ip_address(address or f"10.1.0.{source + 1}"), ip_address(f"10.1.0.{target + 1}")
    payload = mark + bytes(size)
    return ip_frame(mac_of(target), mac_of(source), Ip(*ends, UDP).packet(udp(9, payload)))


def sending(key: AttachmentKey = ONE, source: int = 0, target: int = 1) -> Sending:
    mark = secrets.token_bytes(16)
    return Sending(key, frame(mark, source, target), mark)


@dataclass
class Host:
    """Two pods on the host, and the DPU with a bridge between their representors."""

    pods: list[Netns]
    ports: list[Port]
    dpu: Netns

    def held(self) -> int:
        """Return how many packet sockets there are in the pods."""
        lines = [p.run(Path("/proc/net/packet").read_text).splitlines() for p in self.pods]
        return sum(len(each) - 1 for each in lines)


@pytest.fixture
def host() -> Iterator[Host]:
    with ExitStack() as stack:
        dpu, *pods = (stack.enter_context(namespace()) for _ in range(3))
        ip(dpu, "link", "add", "br0", "type", "bridge")
        ip(dpu, "link", "set", "br0", "up")
        for number, pod in enumerate(pods):
            rep = f"rep{number}"
            peer = ["peer", "name", "eth0", "netns", name_of(pod)]
            ip(dpu, "link", "add", rep, "type", "veth", *peer)
            ip(dpu, "link", "set", rep, "up", "master", "br0")
            alias = f"overweave:vf{number}:c{number + 1}/eth0"
            ip(pod, "link", "set", "eth0", "alias", alias)
            ip(pod, "link", "set", "eth0", "up", "address", mac_of(number))
        yield Host(pods, [port(number, pod.path) for number, pod in enumerate(pods)], dpu)


def witnessed(host: Host, *sendings: Sending) -> Witnessed:
    return PodWitness(lambda: host.ports).send(sendings, LISTEN_S)


def test_a_frame_is_seen_where_it_comes_out(host: Host) -> None:
    out, back = sending(), sending(OTHER, 1, 0)
    found = witnessed(host, out, back)
    assert set(found.came) == {(OTHER, out.frame), (ONE, back.frame)}
    assert len(found.came) == 2
    assert found.faults == {}
    assert wait_until(lambda: host.held() == 0)


def test_what_a_pod_answers_has_not_come_to_it(host: Host) -> None:
    for number, pod in enumerate(host.pods):
        ip(pod, "addr", "add", f"10.1.0.{number + 1}/24", "dev", "eth0")
    out = sending()
    (there, came), (back, answer) = witnessed(host, out).came
    assert (there, came) == (OTHER, out.frame)
    assert (back, is_answer(out.frame, answer)) == (ONE, True)  # ICMP: nobody listens at the port


def test_a_frame_that_is_lost_is_seen_nowhere(host: Host) -> None:
    ip(host.dpu, "link", "set", "rep0", "nomaster")
    assert witnessed(host, sending()) == Witnessed([], {})


@pytest.mark.parametrize(
    "forged",
    [
        pytest.param({"source": 1}, id="another MAC"),
        pytest.param({"address": "10.1.0.2"}, id="another address"),
        pytest.param({"size": 1500}, id="too large"),
    ],
)
def test_what_is_not_the_pods_own_is_not_sent(host: Host, forged: dict[str, object]) -> None:
    mark = secrets.token_bytes(16)
    wrong = Sending(ONE, frame(mark, **forged), mark)  # type: ignore[arg-type]  # a table's columns
    with Taps[str]({mark}) as taps:
        host.dpu.run(lambda: taps.add("rep0", "rep0"))
        with pytest.raises(OverweaveError, match="is not one that pod c1/eth0 could send"):
            witnessed(host, wrong, sending())
        assert taps.heard == []


@pytest.mark.parametrize(
    ("change", "mark"),
    [
        pytest.param(lambda f: b"\xff" * 6 + f[6:], None, id="broadcast"),
        pytest.param(lambda f: f[:12] + b"\x08\x06" + f[14:], None, id="ARP"),
        pytest.param(lambda f: f, b"another", id="another mark"),
        pytest.param(lambda f: f, b"", id="no mark"),
        pytest.param(lambda f: f, b"\x02", id="a mark that many frames have"),
        pytest.param(lambda _: b"", None, id="nothing"),
    ],
)
def test_what_no_pod_sends_to_one_is_not_sent(
    host: Host, change: Callable[[bytes], bytes], mark: bytes | None
) -> None:
    good = sending()
    wrong = replace(good, frame=change(good.frame), mark=good.mark if mark is None else mark)
    with pytest.raises(OverweaveError, match="is not one that pod c1/eth0 could send"):
        witnessed(host, wrong)


def test_a_probe_goes_through_the_switch_and_enters_no_pod(host: Host) -> None:
    """The bridge has no entry for it; nobody but its sender's namespace is entered."""
    behind = [
        replace(p, attachment=replace(p.attachment, netdev=f"rep{n}"))
        for n, p in enumerate(host.ports)
    ]
    one, other = behind
    gone = replace(other, attachment=replace(other.attachment, container_id="c9"))
    witness, lost = Losing(lambda: host.ports), set[AttachmentKey]()
    witness.lost = lost

    def probed(*pods: Port) -> str | None:
        return host.dpu.run(SwitchProbe(witness, lambda: pods).probe)

    assert probed() is None
    assert probed(one, other) == ""
    assert probed(one) == ""
    assert probed(gone) is None  # the host does not know it
    assert probed(one, gone) == ""
    ip(host.pods[1], "link", "set", "eth0", "down")
    assert probed(other) is None  # its pod has set it down
    assert probed(one, other) == ""
    ip(host.pods[1], "link", "set", "eth0", "up")
    lost.add(ONE)
    assert wait_until(lambda: probed(one, other) == "")  # one VF that sends nothing is no switch
    said = probed(one)
    assert said is not None
    assert said.startswith("the switch does not forward: of probes from 1 VFs, such as that of pod")


class Losing(PodWitness):
    """Says that it has sent what it has not, for some pods: their frames are lost in the switch."""

    lost: Collection[AttachmentKey] = ()

    def send(self, sendings: Sequence[Sending], listen_s: float) -> Witnessed:
        return super().send([each for each in sendings if each.key not in self.lost], listen_s)


def test_a_probe_in_the_name_of_another_is_not_sent(host: Host) -> None:
    probe = ProbeFrame(mac_of(1), secrets.token_bytes(16))
    with pytest.raises(OverweaveError, match="is not one that pod c1/eth0 could send"):
        witnessed(host, Sending(ONE, probe.frame, probe.mark))


def test_too_much_is_refused(host: Host) -> None:
    with pytest.raises(OverweaveError, match=r"65 frames and 0\.2 s are more than 64 frames"):
        witnessed(host, *[sending() for _ in range(65)])
    with pytest.raises(OverweaveError, match="or 5 s at a time"):
        PodWitness(lambda: host.ports).send([sending()], 60)


def test_a_pod_that_is_gone_is_said_and_the_others_go_on(host: Host) -> None:
    gone = port(1, "/run/netns/owtest-gone")
    host.ports[1] = gone
    found = witnessed(host, sending(), sending(OTHER, 1, 0), sending(NOBODY))
    assert found.faults == {
        OTHER: "pod c2/eth0: network namespace /run/netns/owtest-gone does not exist",
        NOBODY: "this host has no VF pod c9/eth0",
    }


def test_a_namespace_that_is_anothers_by_now_sends_nothing(host: Host) -> None:
    ip(host.pods[0], "link", "set", "eth0", "alias", "overweave:vf0:c7/eth0")
    found = witnessed(host, sending())
    assert list(found.faults) == [ONE]
    assert "its VF vf0 is not in " in found.faults[ONE]


def test_a_vf_that_is_down_is_said(host: Host) -> None:
    ip(host.pods[0], "link", "set", "eth0", "down")
    found = witnessed(host, sending())
    assert found.faults[ONE].startswith("pod c1/eth0: ")
    assert "Network is down" in found.faults[ONE]


def test_a_tag_that_the_kernel_takes_out_is_seen(host: Host) -> None:
    good = sending()
    tagged = good.frame[:12] + b"\x81\x00\x00\x05" + good.frame[12:]
    with Taps[str]({good.mark}) as taps:
        host.dpu.run(lambda: taps.add("rep0", "rep0"))
        host.pods[0].run(lambda: taps.add("pod", "eth0"))
        host.pods[0].run(lambda: taps.add("sender", "eth0"))  # which does not hear itself
        taps.send("sender", tagged)
        assert wait_until(lambda: len(taps.heard) == 2)
    assert {(h.tap, h.sent, h.frame) for h in taps.heard} == {
        ("pod", True, tagged),
        ("rep0", False, tagged),
    }


def test_a_tap_that_cannot_keep_up_says_so(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Taps, "_listen", lambda self: self._closing.wait())
    monkeypatch.setattr("dataplane.netlink.taps._BUFFER", 1)
    with Taps[str]({b"x"}) as taps:
        host.dpu.run(lambda: taps.add("rep0", "rep0"))
        host.pods[0].run(lambda: taps.add("pod", "eth0"))
        for _ in range(50):
            taps.send("pod", sending().frame)
        missed = taps.missed()
    assert "frames came faster than they are read" in missed["rep0"]


def test_what_still_waits_in_a_taps_socket_is_heard(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine may come to the thread too late."""
    monkeypatch.setattr(Taps, "_listen", lambda self: self._closing.wait())
    out, back = sending(), sending(OTHER, 1, 0)
    found = witnessed(host, out, back)
    assert set(found.came) == {(OTHER, out.frame), (ONE, back.frame)}
    assert found.faults == {}


def test_a_tap_that_is_never_empty_says_so(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Taps, "_listen", lambda self: self._closing.wait())
    monkeypatch.setattr("dataplane.netlink.taps._DRAIN_S", 0.0)
    found = witnessed(host, sending())
    assert found.faults[ONE] == "pod c1/eth0: more frames came than could be read"


def test_without_a_mark_nothing_is_heard(host: Host) -> None:
    with Taps[str](()) as taps:
        host.dpu.run(lambda: taps.add("rep0", "rep0"))
        host.pods[0].run(lambda: taps.add("pod", "eth0"))
        taps.send("pod", sending().frame)
        assert (taps.missed(), taps.heard) == ({}, [])


def test_the_mark_of_a_pod_that_is_not_there_is_not_listened_for(host: Host) -> None:
    out = sending()
    with Taps[str](()) as taps:
        host.dpu.run(lambda: taps.add("rep1", "rep1"))
        waiting = threading.Timer(LISTEN_S / 2, taps.send, ("rep1", out.frame))
        waiting.start()
        found = witnessed(host, Sending(NOBODY, out.frame, out.mark))
        waiting.join()
    assert found.came == []


def test_a_flood_of_marks_is_not_kept_and_said(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.netlink.taps._MOST_HEARD", 3)
    out = sending()
    found = witnessed(host, *[out] * 10)
    assert len(found.came) <= 3
    assert "more than 3 frames had a mark in them" in found.faults[OTHER]


def test_a_tap_hears_whatever_number_its_socket_has(host: Host) -> None:
    """An agent of many pods has more than a thousand files open."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2048, limits[1]))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        out = sending()
        found = witnessed(host, out)
        assert (found.came, found.faults) == ([(OTHER, out.frame)], {})
    finally:
        for each in files:
            os.close(each)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_taps_whose_thread_has_ended_say_so_of_each(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(*_: object) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr(Taps, "_read", breaks)
    found = witnessed(host, sending())
    said = "internal error, please report it: ValueError('a fault of ours')"
    assert found.faults == {ONE: f"pod c1/eth0: {said}", OTHER: f"pod c2/eth0: {said}"}


# --- over the DPU's channel ------------------------------------------------------------------


@dataclass
class Channel:
    """The DPU's end of the stream, and where a host finds it."""

    dpu: HostWitness
    address: str

    def stand(self, witness: Witness) -> WitnessStand:
        made = WitnessStand({self.address: witness})
        made.start()
        return made

    def answers(self) -> bool:
        try:
            self.dpu.send([], 0)
        except OverweaveError:
            return False
        return True


@pytest.fixture
def channel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Channel]:
    monkeypatch.setattr(witness_module, "RETRY_S", 0.05)
    dpu = HostWitness()
    service = AttachmentService(VfPorts("d1", FakeAttachments()), {"M1": ("rep0",)}, dpu)
    server = serve_attachments(service, tmp_path / "attachment.sock")
    yield Channel(dpu, f"unix:{tmp_path}/attachment.sock")
    server.stop(None).wait()


class Told:
    """A host that says it saw everything come to one pod; ``delay_s`` it takes for that."""

    def __init__(self, delay_s: float = 0.0, error: Exception | None = None) -> None:
        self.delay_s = delay_s
        self.error = error
        self.fault = "deaf"
        self.asked: list[tuple[Sequence[Sending], float]] = []
        self.reached = threading.Event()
        self.released = threading.Event()

    def send(self, sendings: Sequence[Sending], listen_s: float) -> Witnessed:
        self.asked.append((sendings, listen_s))
        self.reached.set()
        self.released.wait(self.delay_s)
        if self.error is not None:
            raise self.error
        return Witnessed([(OTHER, each.frame) for each in sendings], {ONE: self.fault})


def test_what_the_host_sees_reaches_the_dpu(host: Host, channel: Channel) -> None:
    stand = channel.stand(PodWitness(lambda: host.ports))
    assert wait_until(channel.answers)
    out = sending()
    assert channel.dpu.send([out], LISTEN_S) == Witnessed([(OTHER, out.frame)], {})
    assert channel.dpu.send([sending(NOBODY)], 0).faults == {
        NOBODY: "this host has no VF pod c9/eth0"
    }
    stand.stop()


def test_question_and_answer_are_kept_whole(channel: Channel) -> None:
    told = Told()
    stand = channel.stand(told)
    assert wait_until(channel.answers)
    out = [sending(), sending(OTHER)]
    assert channel.dpu.send(out, 0.25) == Witnessed([(OTHER, s.frame) for s in out], {ONE: "deaf"})
    assert told.asked[-1] == (out, 0.25)
    stand.stop()


def test_without_a_host_it_is_said_at_once(channel: Channel) -> None:
    began = time.monotonic()
    with pytest.raises(OverweaveError, match="no agent of the DPU's host is connected"):
        channel.dpu.send([sending()], 1)
    assert time.monotonic() - began < 1


def test_a_host_that_comes_back_is_asked_again(channel: Channel) -> None:
    for _ in range(2):
        stand = channel.stand(Told())
        assert wait_until(channel.answers)
        stand.stop()
        assert wait_until(lambda: not channel.answers())


def test_a_dpu_that_comes_back_is_called_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(witness_module, "RETRY_S", 0.05)
    socket = tmp_path / "a.sock"
    stand = WitnessStand({f"unix:{socket}": Told()})
    stand.start()
    for _ in range(2):
        dpu = HostWitness()
        service = AttachmentService(VfPorts("d1", FakeAttachments()), {"M1": ("rep0",)}, dpu)
        server = serve_attachments(service, socket)
        assert wait_until(Channel(dpu, "").answers)
        server.stop(None).wait()
        socket.unlink(missing_ok=True)
    stand.stop()


def test_who_comes_last_is_asked(channel: Channel) -> None:
    first, second = Told(), Told()
    stands = [channel.stand(first)]
    assert wait_until(channel.answers)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(witness_module, "RETRY_S", 60.0)  # who is turned away stays away for now
        stands.append(channel.stand(second))
        assert wait_until(lambda: channel.answers() and bool(second.asked))
        assert wait_until(lambda: not stands[0]._calls[channel.address].is_active())
    for stand in stands:
        stand.stop()


def test_a_host_that_hangs_is_not_waited_for(
    channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    stand = channel.stand(told)
    assert wait_until(channel.answers)
    monkeypatch.setattr(witness_module, "_ANSWER_S", 0.2)
    told.delay_s = 30.0
    with pytest.raises(OverweaveError, match=r"has not answered within 0\.2 s"):
        channel.dpu.send([sending()], 0)
    assert wait_until(lambda: not stand._calls[channel.address].is_active())
    told.delay_s = 0.0
    told.released.set()
    monkeypatch.setattr(witness_module, "_ANSWER_S", 5.0)
    out = sending()  # the late answer is nobody's
    assert wait_until(channel.answers)
    assert channel.dpu.send([out], 0).came == [(OTHER, out.frame)]
    stand.stop()


def test_a_host_that_goes_while_it_is_asked_is_said(channel: Channel) -> None:
    told = Told()
    stand = channel.stand(told)
    assert wait_until(channel.answers)
    told.reached.clear()
    told.delay_s = 3.0
    errors: list[str] = []

    def ask() -> None:
        try:
            channel.dpu.send([sending()], 0)
        except OverweaveError as error:
            errors.append(str(error))

    asking = threading.Thread(target=ask)
    asking.start()
    assert told.reached.wait(5)
    stand.stop()
    asking.join(2)
    assert errors == ["the agent of the DPU's host has gone; try again"]


def test_an_answer_that_cannot_be_written_is_an_error(channel: Channel) -> None:
    told = Told()
    stand = channel.stand(told)
    assert wait_until(channel.answers)
    told.fault = "no such file: \udcff"  # a name that is no UTF-8, as Python keeps it
    for _ in range(2):  # and the stream goes on
        with pytest.raises(OverweaveError, match="internal error, please report it: "):
            channel.dpu.send([sending()], 0)
    stand.stop()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        pytest.param(OverweaveError("it rains"), "the DPU's host: it rains", id="its own"),
        pytest.param(
            KeyError("x"), "internal error, please report it: KeyError\\('x'\\)", id="a fault"
        ),
    ],
)
def test_what_the_host_says_is_an_error(channel: Channel, error: Exception, words: str) -> None:
    told = Told()
    stand = channel.stand(told)
    assert wait_until(channel.answers)
    told.error = error
    for _ in range(2):  # and the stream goes on
        with pytest.raises(OverweaveError, match=words):
            channel.dpu.send([sending()], 0)
    stand.stop()
