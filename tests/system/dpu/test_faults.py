"""A switch that is full, slow, silent, dead, taken or lies: software carries on, and it is said."""

from __future__ import annotations

import os
import signal
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from dataplane.core.probe import is_probe
from dataplane.core.reasons import Reason
from dataplane.lab import probes
from dataplane.lab.probes import Pace
from dataplane.lab.scene import COLOURS
from dataplane.netlink.netns import Netns
from dataplane.netlink.probe_port import ProbePort
from dataplane.probing import SWITCH_PROBE_S
from tests.system.dpu.conftest import BUSY, DpuScene, Talk, until
from tests.system.dpu.proofs import goes_by_the_switch, late_pod

SOFTWARE_S = 5.0  # five times the second after which a dead device's traffic is in software
SLOW_S = 0.2
PROBED_S = 6.0  # two probes of a switch that are lost


def test_a_device_that_crashes_is_used_again(talk: Talk) -> None:
    """What the device holds is lost with it until the supervisor brings its misses back."""
    talk.gap_s = SOFTWARE_S
    scene = talk.scene
    scene.tell("kill")
    began = time.monotonic()
    until(lambda: pings(talk), SOFTWARE_S, "not in software")
    print(f"in software after {time.monotonic() - began:.2f} s")
    until(lambda: scene.placed(talk.far), what="not placed again")
    assert probes.ping(talk.vf, talk.far.ip(4), Pace(20)).lost == 0


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        pytest.param("hang", "no answer within", id="silent"),
        pytest.param("die", "does not run", id="dead"),
    ],
)
def test_a_device_that_is_down_is_said_to_be_and_pods_are_added_all_the_same(
    talk: Talk, fault: str, words: str
) -> None:
    """It forwards nothing, not even misses, until it is back: then all is as it was."""
    scene = talk.scene
    began = time.monotonic()
    scene.tell(fault)
    until(lambda: scene.entry(talk.far).reason == Reason.DEVICE_DOWN, SOFTWARE_S)
    until(lambda: words in scene.entry(talk.far).words, SOFTWARE_S, "not said why")
    until(lambda: not is_ready(scene), SOFTWARE_S, "said to be ready")
    with late_pod(scene):
        assert not pings(talk)
    scene.tell("revive")
    talk.gap_s = time.monotonic() - began + SOFTWARE_S
    until(lambda: pings(talk), SOFTWARE_S, "not back")
    until(lambda: scene.placed(talk.far) and is_ready(scene))
    assert probes.ping(talk.vf, talk.far.ip(4), Pace(20)).lost == 0


def test_a_dpu_whose_open_vswitch_hangs_is_not_ready_and_forwards(talk: Talk) -> None:
    """What is known goes on; what is new would not, and only a frame through it shows that."""
    scene = talk.scene
    until(lambda: is_ready(scene), what="not ready")
    number = int((scene.paths.node("d1").ovs / "ovs-vswitchd.pid").read_text())
    os.kill(number, signal.SIGSTOP)
    try:
        took = until(lambda: not is_ready(scene), what="said to be ready")
        assert "Open vSwitch does not forward: " in said(scene, "Ready")
        until(lambda: said(scene, "DataplaneInSync").startswith("DataplaneInSync=False"))
        assert said(scene, "SwitchReachable").startswith("SwitchReachable=True")
    finally:
        os.kill(number, signal.SIGCONT)
    back = until(lambda: is_ready(scene), what="not ready again")
    print(f"said after {took:.1f} s, ready again after {back:.1f} s")
    assert took < 5 * PROBED_S


def test_probes_come_to_nobody(scene: DpuScene) -> None:
    """Neither to a pod nor to the wire, while they come through."""
    places = [(pod.netns, pod.ifname) for pods in scene.segments.values() for pod in pods]
    places += [(scene.paths.node(name).netns, "eth0") for name in ("n2", "h1")]
    with ExitStack() as stack:
        at_rep, *ears = [
            stack.enter_context(probe_port(*place))
            for place in ((scene.paths.node("d1").netns, "rep0"), *places)
        ]
        assert at_rep.hears(is_probe, 5 * len(scene.segments) * SWITCH_PROBE_S)  # the control
        for ear, place in zip(ears, places, strict=True):
            assert not ear.hears(lambda _: True, 0.05), place


def probe_port(netns: Path, netdev: str) -> ProbePort:
    with Netns(str(netns)) as inside:
        return inside.run(lambda: ProbePort(netdev))


def test_a_channel_that_is_slow_loses_nothing(talk: Talk) -> None:
    scene = talk.scene
    scene.tell("slow", str(SLOW_S))
    began = time.monotonic()
    scene.channel().dump_flows()
    assert time.monotonic() - began > SLOW_S
    with late_pod(scene) as late:
        assert probes.ping(talk.vf, late.ip(4), Pace(20)).received > 0
    assert scene.placed(talk.far)
    assert is_ready(scene)
    scene.tell("clear")
    goes_by_the_switch(talk)


def test_a_channel_that_babbles_loses_nothing(talk: Talk) -> None:
    """What is in the switch stays there and forwards, while nobody can ask it anything."""
    scene = talk.scene
    scene.tell("garbage")
    until(lambda: scene.entry(talk.far).reason == Reason.DEVICE_DOWN, SOFTWARE_S)
    assert not is_ready(scene)
    with late_pod(scene):
        goes_by_the_switch(talk)
    scene.tell("clear")
    until(lambda: scene.placed(talk.far))
    goes_by_the_switch(talk)


def pings(talk: Talk) -> bool:
    return probes.ping(talk.vf, talk.far.ip(4), Pace(patience=0.1)).received == 1


def is_ready(scene: DpuScene) -> bool:
    return bool(scene.half["status"])


def said(scene: DpuScene, kind: str) -> str:
    conditions: list[str] = scene.half["conditions"]
    return next(each for each in conditions if each.startswith(kind))


def test_a_refused_write_is_tried_again(scene: DpuScene) -> None:
    green = COLOURS[1]
    vf, _, _, far = scene.segments[green.name]
    until(lambda: scene.row(green, far) is None, 60, "still busy from before")
    scene.tell("refuse", "3")
    with probes.flow(vf, far.ip(4), BUSY) as echo:
        until(lambda: scene.placed(far) and scene.placed(vf), 60, "not placed")
    assert echo.lost == 0


def test_a_switch_that_somebody_else_programs_is_left_alone(talk: Talk) -> None:
    """As the vendor's own plugin leaves it: one flow above all others, which learns."""
    talk.gap_s = SOFTWARE_S
    scene = talk.scene
    scene.tell("take")
    until(lambda: scene.entry(talk.far).reason == Reason.SWITCH_TAKEN)
    assert "priority=65535 actions=NORMAL goes before our flows" in scene.entry(talk.far).words
    foreign = [flow for flow in scene.bridge().dump_flows() if flow.priority == 65535]
    assert len(foreign) == 1
    scene.tell("clear")
    until(lambda: scene.placed(talk.far))


def test_a_port_that_goes_and_comes(talk: Talk) -> None:
    scene = talk.scene
    began = time.monotonic()
    scene.tell("port-gone", "vf0")
    until(lambda: scene.entry(talk.vf).reason == Reason.NO_SWITCH_PORT)
    scene.tell("port-back", "vf0")
    talk.gap_s = time.monotonic() - began + SOFTWARE_S
    until(lambda: scene.placed(talk.vf) and scene.placed(talk.far))
    assert probes.ping(talk.vf, talk.far.ip(4), Pace(20)).lost == 0
