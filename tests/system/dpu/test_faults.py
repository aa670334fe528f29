"""A switch that is full, slow, silent, dead, taken or lies: software carries on, and it is said."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dataplane.core.reasons import Reason
from dataplane.lab import matrix, nodes, probes
from dataplane.lab.probes import Pace
from dataplane.lab.runtime import Pod
from dataplane.lab.scene import COLOURS
from tests.system.dpu.conftest import BUSY, DpuScene, Talk, until

SOFTWARE_S = 5.0  # five times the second after which a dead device's traffic is in software
CROWD = 100


def test_a_dead_device_leaves_all_to_software_and_is_used_again(talk: Talk) -> None:
    """What the device holds is lost with it until the supervisor brings its misses back."""
    talk.may_lose = True
    scene = talk.scene
    scene.tell("kill")
    began = time.monotonic()
    until(lambda: probes.ping(talk.vf, talk.far.ip(4), Pace(patience=0.1)).received == 1)
    print(f"in software after {time.monotonic() - began:.2f} s")
    until(lambda: scene.placed(talk.far), what="not placed again")
    assert probes.ping(talk.vf, talk.far.ip(4), Pace(20)).lost == 0


def test_a_silent_device_is_said_to_be_down_and_pods_are_added_all_the_same(
    talk: Talk,
) -> None:
    talk.may_lose = True
    scene = talk.scene
    scene.tell("hang")
    until(lambda: scene.entry(talk.far).reason == Reason.DEVICE_DOWN, SOFTWARE_S)
    pods_come_and_go(scene)
    words = scene.entry(talk.far).words
    assert "no answer within" in words
    scene.tell("revive")
    until(lambda: scene.placed(talk.far))


@pytest.mark.parametrize(
    "fault", [pytest.param(["slow", "0.2"], id="slow"), pytest.param(["garbage"], id="garbage")]
)
def test_a_channel_that_is_slow_or_babbles_loses_nothing(talk: Talk, fault: list[str]) -> None:
    """What is in the switch stays there; pods come and go as ever."""
    scene = talk.scene
    scene.tell(*fault)
    pods_come_and_go(scene)
    time.sleep(1)
    scene.tell("clear")
    until(lambda: scene.placed(talk.far))


def pods_come_and_go(scene: DpuScene) -> None:
    """Attach a pod on the DPU and one on a VF, and detach them: none waits for the switch."""
    for pod in (Pod("late", "d1", "blue"), Pod("latev", "h1", "blue", device=scene.spare_vf)):
        began = time.monotonic()
        scene.runtime.add(pod)
        took = time.monotonic() - began
        scene.runtime.delete(pod.name)
        assert took < SOFTWARE_S


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
    talk.may_lose = True
    scene = talk.scene
    scene.tell("take")
    until(lambda: scene.entry(talk.far).reason == Reason.SWITCH_TAKEN)
    assert "priority=65535 actions=NORMAL goes before our flows" in scene.entry(talk.far).words
    foreign = [flow for flow in scene.bridge().dump_flows() if flow.priority == 65535]
    assert len(foreign) == 1
    scene.tell("clear")
    until(lambda: scene.placed(talk.far))


def test_a_port_that_goes_and_comes(talk: Talk) -> None:
    talk.may_lose = True
    scene = talk.scene
    scene.tell("port-gone", "vf0")
    until(lambda: scene.entry(talk.vf).reason == Reason.NO_SWITCH_PORT)
    scene.tell("port-back", "vf0")
    until(lambda: scene.placed(talk.vf) and scene.placed(talk.far))
    assert probes.ping(talk.vf, talk.far.ip(4), Pace(20)).lost == 0


@pytest.fixture
def crowd(scene: DpuScene) -> Iterator[list[probes.Station]]:
    """Provide a hundred endpoints beyond the wire, all in four pods' names."""
    teal = COLOURS[2].name
    with ExitStack() as stack:
        made = []
        for number in range(CROWD // 4):
            pod = Pod(f"crowd{number}", "n2", teal)
            stack.callback(scene.runtime.delete, pod.name)
            made.append(scene.runtime.add(pod))
        yield made


def test_a_table_of_eight_under_a_hundred_conversations(
    scene: DpuScene, crowd: list[probes.Station]
) -> None:
    """Four senders to 25 endpoints each way; whoever has no row goes by software."""
    teal = COLOURS[2]
    vf = scene.segments[teal.name][0]
    matrix.converge([vf, crowd[0]])
    scene.tell("table-full", "30", "8")
    with ExitStack() as stack:
        echoes = [
            stack.enter_context(probes.flow(source, sink.ip(version), 0.05))
            for station in crowd
            for source, sink in ((vf, station), (station, vf))
            for version in (4, 6)
        ]
        assert len(echoes) == CROWD
        until(lambda: full(scene) > 0, 30, "nothing is said to be full")
        time.sleep(3)
        placed = sum(scene.placed(station) for station in crowd)
    assert placed >= 4
    rows = [flow for flow in scene.bridge().dump_flows() if flow.table == 30]
    assert len(rows) <= 8
    assert sum(echo.lost for echo in echoes) == 0
    assert sum(echo.duplicates for echo in echoes) == 0


def full(scene: DpuScene) -> int:
    found = nodes.entries(scene.paths.node("d1"))
    return sum(entry.reason == Reason.TABLE_FULL for entry in found)
