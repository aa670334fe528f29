"""Known traffic outlives whoever set it up: the agent, ovs-vswitchd, the fabric database."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from dataplane.lab import lab, nodes, probes
from dataplane.lab.probes import Echo
from dataplane.lab.scene import Scene
from tests.conftest import SURVIVED
from tests.system.test_ovs_restart import machine

DEAD_S = 60.0  # longer than a pod's kernel believes in what it has learned of a neighbour
INTERVAL_S = 0.001


@contextmanager
def talking(scene: Scene) -> Iterator[list[Echo]]:
    """Send 1,000 packets/s from n1 to n3 and from n3 to n1, and a tenth of that elsewhere."""
    blue, *others = scene.segments.values()
    here, there = machine(scene, "n1"), machine(scene, "n3")
    flows = [
        (blue[0], blue[2], 4, INTERVAL_S),
        (blue[2], blue[0], 6, INTERVAL_S),
        (here, there, 4, 0.01),
        (there, here, 6, 0.01),
        *((first, third, 4, 0.01) for first, _, third, *_ in others),
        *((third, first, 6, 0.01) for first, _, third, *_ in others),
        *((first, neighbour, 4, 0.01) for first, *_, neighbour in scene.segments.values()),
    ]
    with ExitStack() as stack:
        yield [
            stack.enter_context(probes.flow(source, sink.ip(version), interval))
            for source, sink, version, interval in flows
        ]


def expect_nothing_lost(echoes: list[Echo], what: str) -> None:
    gap = max(echo.longest_gap for echo in echoes)
    assert [(echo.lost, echo.duplicates) for echo in echoes] == [(0, 0)] * len(echoes)
    sent = sum(echo.sent for echo in echoes)
    print(f"{SURVIVED}{what}: {sent} packets, longest gap {gap * 1000:.1f} ms")


def forget_neighbours(scene: Scene) -> None:
    for stations in scene.segments.values():
        for station in stations:
            words = ["ip", "-n", station.netns.name, "neigh", "flush", "dev", station.ifname]
            subprocess.run(words, check=True, capture_output=True)


def test_the_agent_is_killed(scene: Scene) -> None:
    with talking(scene) as echoes:
        time.sleep(0.5)
        for node in scene.topology.agents:
            nodes.kill_agent(scene.paths.node(node.name))
        time.sleep(2.0)
        lab.start_agents(scene.paths, scene.topology.agents)
        time.sleep(1.0)
    expect_nothing_lost(echoes, "agents killed and started")


def test_every_switch_is_dead_for_a_minute(scene: Scene) -> None:
    switches = [nodes.switch(scene.paths.node(node.name)) for node in scene.topology.agents]
    with talking(scene) as echoes:
        time.sleep(0.5)
        for switch in switches:
            switch.kill_switch()
        try:
            forget_neighbours(scene)
            time.sleep(DEAD_S)
            assert not any(switch.switch_running() for switch in switches)
        finally:
            for switch in switches:
                switch.start_switch()
        time.sleep(2.0)
    expect_nothing_lost(echoes, f"ovs-vswitchd dead for {DEAD_S:.0f} s on every node")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_the_fabric_database_is_away(scene: Scene, end: str) -> None:
    server = lab.fabric_server(scene.paths)
    away: Callable[[], None] = getattr(server, end)
    with talking(scene) as echoes:
        time.sleep(0.5)
        away()
        time.sleep(3.0)
        server.start()
        for node in scene.topology.agents:
            nodes.wait_ready(scene.paths.node(node.name))
        time.sleep(0.5)
    expect_nothing_lost(echoes, f"fabric database away ({end})")
