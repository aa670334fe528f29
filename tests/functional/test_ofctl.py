"""ovs-ofctl and the control socket against a real Open vSwitch."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_client.ofctl import Flow, OpenFlowBridge, OpenFlowError
from ovs_client.unixctl import Unixctl, UnixctlError
from tests.functional.overlay_switch import Switch, running_switch

OTHERS = Flow(0, 65000, "in_port=5001", "output:5002")  # the sentinel of the test's own switch
FIRST = Flow(0, 10, "arp,in_port=1", "drop", 0x4F57 << 48)
SECOND = Flow(30, 20, "dl_dst=02:00:00:00:00:01,reg0=0x64", "goto_table:60", 0x4F57 << 48)


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    with running_switch(tmp_path_factory.mktemp("ofctl")) as started:
        yield started


@pytest.fixture
def bridge(switch: Switch) -> Iterator[OpenFlowBridge]:
    started = OpenFlowBridge(switch.rundir / "ow-int.mgmt")
    yield started
    started.apply_bundle([], [flow for flow in started.dump_flows() if flow != OTHERS])


def test_flows_come_back_as_they_were_added(bridge: OpenFlowBridge) -> None:
    bridge.apply_bundle([FIRST, SECOND], [])
    assert set(bridge.dump_flows()) == {OTHERS, FIRST, SECOND}
    bridge.apply_bundle([], [FIRST])
    assert set(bridge.dump_flows()) == {OTHERS, SECOND}


def test_an_added_flow_replaces_its_like(bridge: OpenFlowBridge) -> None:
    other = Flow(0, 10, "arp,in_port=1", "output:5002", 0x4F57 << 48 | 7)
    bridge.apply_bundle([FIRST], [])
    bridge.apply_bundle([other], [])
    assert set(bridge.dump_flows()) == {OTHERS, other}


@pytest.mark.parametrize(
    "unlike",
    [
        pytest.param(Flow(0, 10, "arp,in_port=1", "drop", 0x1234), id="another cookie"),
        pytest.param(Flow(0, 11, "arp,in_port=1", "drop", FIRST.cookie), id="another priority"),
        pytest.param(Flow(0, 10, "in_port=1", "drop", FIRST.cookie), id="a wider match"),
    ],
)
def test_only_the_very_flow_is_deleted(bridge: OpenFlowBridge, unlike: Flow) -> None:
    bridge.apply_bundle([FIRST], [])
    bridge.apply_bundle([], [unlike])
    assert FIRST in bridge.dump_flows()


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        pytest.param(Flow(0, 1, "in_port=1", "output:nowhere"), "nowhere", id="ovs-ofctl's"),
        pytest.param(
            Flow(5, 1, "in_port=1", "group:77"), "OFPBAC_BAD_OUT_GROUP", id="the switch's"
        ),
    ],
)
def test_a_refused_bundle_changes_nothing(bridge: OpenFlowBridge, broken: Flow, words: str) -> None:
    bridge.apply_bundle([FIRST], [])
    with pytest.raises(OpenFlowError, match=words):
        bridge.apply_bundle([SECOND, broken], [FIRST])
    assert set(bridge.dump_flows()) == {OTHERS, FIRST}


def test_no_bridge_is_said_with_its_name(switch: Switch) -> None:
    with pytest.raises(OpenFlowError, match=r"bridge ow-none: .*No such file.*ovs-vswitchd"):
        OpenFlowBridge(switch.rundir / "ow-none.mgmt").dump_flows()


def test_a_command_is_answered(switch: Switch) -> None:
    assert "ovs-vswitchd" in Unixctl(switch.rundir).call("version")


def test_a_long_answer_is_read_whole(switch: Switch, bridge: OpenFlowBridge) -> None:
    many = [
        Flow(30, 20, f"dl_dst=02:00:00:00:{n >> 8:02x}:{n & 255:02x},reg0=0x64", "goto_table:60")
        for n in range(2000)
    ]
    bridge.apply_bundle(many, [])
    shown = Unixctl(switch.rundir).call("bridge/dump-flows", "ow-int")
    assert shown.count("goto_table:60") == len(many)
    assert len(shown) > 2 * (1 << 16)


def test_a_trace_is_told(switch: Switch) -> None:
    trace = Unixctl(switch.rundir).call("ofproto/trace", "ow-int", "in_port=5001")
    assert "output:5002" in trace


@pytest.mark.parametrize(
    ("command", "words"),
    [
        pytest.param(("no/such",), "is not a valid command", id="unknown"),
        pytest.param(("ovs/route/add", "x", "ow-phy"), "ovs/route/add x ow-phy: ", id="refused"),
    ],
)
def test_a_refused_command_keeps_the_words(
    switch: Switch, command: tuple[str, ...], words: str
) -> None:
    with pytest.raises(UnixctlError, match=words):
        Unixctl(switch.rundir).call(*command)


def test_no_process_is_said_with_its_place(tmp_path: Path) -> None:
    with pytest.raises(UnixctlError, match=rf"of {tmp_path} does not run.*start it"):
        Unixctl(tmp_path).call("version")


@pytest.fixture
def mute(tmp_path: Path) -> Iterator[socket.socket]:
    """Stand in for a switch that accepts a command and says nothing."""
    (tmp_path / "ovs-vswitchd.pid").write_text("1\n", encoding="ascii")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "ovs-vswitchd.1.ctl"))
        listener.listen()
        yield listener


def test_a_hung_switch_is_given_up(mute: socket.socket, tmp_path: Path) -> None:
    with pytest.raises(UnixctlError, match=r"version: no answer within 0\.1 s"):
        Unixctl(tmp_path, timeout_s=0.1).call("version")


def test_a_switch_that_hangs_up_is_said(mute: socket.socket, tmp_path: Path) -> None:
    def hang_up() -> None:
        connection, _ = mute.accept()
        connection.recv(1000)
        connection.close()

    other = threading.Thread(target=hang_up)
    other.start()
    with pytest.raises(UnixctlError, match="closed the connection"):
        Unixctl(tmp_path).call("version")
    other.join()


def test_the_end_is_noticed_at_once(mute: socket.socket, tmp_path: Path) -> None:
    with Unixctl(tmp_path).watch() as watch:
        connection, _ = mute.accept()
        assert not watch.ended(0)
        connection.close()
        started = time.monotonic()
        assert watch.ended(10)
        assert time.monotonic() - started < 1
