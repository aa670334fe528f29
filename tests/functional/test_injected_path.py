"""An emulated switch as a PacketPath: frames go in at its ports, and all that comes out is seen."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from dataplane.core.agreement import Field, Observed, Question
from dataplane.core.errors import OverweaveError
from dataplane.core.frames import UDP, Ip, encapsulate, ip_frame, udp
from dataplane.core.model import Encap, Vni
from dataplane.core.path import Action, FromPod, Tunnel
from ovs_client.unixctl import Unixctl
from tests.functional.emulated_switch import EmulatedOcteon, emulated_switch
from vendors.emulator.control import new_mark
from vendors.injected import InjectedPath

ME, OTHER, NIC = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:aa:01"
TUNNEL = Tunnel(Encap.VXLAN, Vni(7), ip_address("192.0.2.3"), ip_address("192.0.2.1"), 4789)
FROM_VF = FromPod("rep0", "ot0")


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedOcteon]:
    with emulated_switch(EmulatedOcteon, tmp_path_factory.mktemp("emu")) as switch:
        yield switch


@pytest.fixture
def switch(device: EmulatedOcteon) -> EmulatedOcteon:
    device.ofctl("del-flows", "cookie=0x77/-1")
    forget_cached(device)
    return device


def question(entry: FromPod | None = FROM_VF, tos: int = 0) -> Question:
    mark = new_mark()
    ip = Ip(ip_address("10.0.0.1"), ip_address("10.0.0.2"), UDP, tos=tos)
    inner = ip_frame(OTHER, ME, ip.packet(udp(7, mark)))
    frame = inner if entry else encapsulate(TUNNEL, NIC, inner)
    return Question("a frame", frame, mark, entry, "eth0")


def asked(switch: EmulatedOcteon, *questions: Question) -> list[Observed]:
    return InjectedPath(switch.control).observed(questions)


def write(switch: EmulatedOcteon, source: str, actions: str) -> None:
    """Write a row by hand; ``actions`` call ports by name in braces."""
    ports = ("up", "cpu0", "vf0", "vf1", "rep0", "rep1")
    numbers = {p: switch.vsctl("get", "interface", p, "ofport").strip() for p in ports}
    where = f"cookie=0x77,priority=9,in_port={numbers[source]}"
    switch.ofctl("add-flow", f"{where},actions={actions.format(**numbers)}")
    forget_cached(switch)


def forget_cached(switch: EmulatedOcteon) -> None:
    """Have what was cached of rows before they changed go."""
    Unixctl(switch.directory / "ovs").call("revalidator/purge")


def test_what_has_no_entry_is_handed_over_as_it_came(switch: EmulatedOcteon) -> None:
    questions = [question(), question(None), question(FromPod("rep1", "ot1"))]
    for each, seen in zip(questions, asked(switch, *questions), strict=True):
        assert (seen.action, seen.values[Field.INNER]) == (Action.HAND_OVER, each.frame)
    assert switch.heard() == []


def test_more_frames_than_go_in_at_a_time(switch: EmulatedOcteon) -> None:
    questions = [question(tos=number % 4) for number in range(70)]
    seen = asked(switch, *questions)
    assert [each.values[Field.INNER] for each in seen] == [each.frame for each in questions]


def test_a_port_that_is_not_behind_the_switch_is_not_asked(switch: EmulatedOcteon) -> None:
    found = asked(switch, question(FromPod("vp7", "ot7")), question())
    assert [each.action for each in found] == [Action.NONE, Action.HAND_OVER]
    assert asked(switch) == []


@pytest.mark.parametrize(
    ("actions", "action", "output", "is_altered"),
    [
        pytest.param("output:{vf1}", Action.DELIVER, "rep1", False, id="another VF"),
        pytest.param("output:{rep1}", Action.DELIVER, "port rep1", False, id="another representor"),
        pytest.param("output:{cpu0}", Action.DELIVER, "port cpu0", False, id="the CPU"),
        pytest.param("output:{up}", Action.DELIVER, "port up", False, id="bare on the wire"),
        pytest.param("drop", Action.DROP, None, None, id="dropped"),
        pytest.param("output:{vf1},output:{rep0}", Action.FLOOD, "port rep0, rep1", None, id="two"),
        pytest.param("output:{vf1},output:{vf1}", Action.FLOOD, "rep1, rep1", None, id="twice"),
        pytest.param(
            f"set_field:{NIC}->eth_src,output:{{rep0}}",
            Action.HAND_OVER,
            "rep0",
            True,
            id="altered",
        ),
    ],
)
def test_what_a_row_does(
    switch: EmulatedOcteon,
    actions: str,
    action: Action,
    output: str | None,
    is_altered: bool | None,
) -> None:
    write(switch, "vf0", actions)
    probe = question()
    (seen,) = asked(switch, probe)
    assert (seen.action, seen.values.get(Field.OUTPUT)) == (action, output)
    if is_altered is not None:
        assert (seen.values[Field.INNER] != probe.frame) is is_altered


def test_a_tunnel_packet_that_leaves_is_read(switch: EmulatedOcteon) -> None:
    write(switch, "vf0", "output:{up}")
    probe = question(None)
    from_vf = Question("a frame", probe.frame, probe.mark, FROM_VF, "eth0")
    (seen,) = asked(switch, from_vf)
    assert (seen.action, seen.values[Field.OUTPUT]) == (Action.TUNNEL, "eth0")
    assert (seen.values[Field.VNI], seen.values[Field.TARGET]) == (TUNNEL.vni, TUNNEL.target)
    assert seen.rule == "injected at vf0, came out at up"


def test_a_switch_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OverweaveError, match="does not answer"):
        InjectedPath(tmp_path / "control.sock").observed([question()])
