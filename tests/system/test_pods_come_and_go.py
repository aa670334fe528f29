"""Pods that come and go take no packet from those that stay."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from dataplane.lab import probes
from dataplane.lab.probes import Echo
from dataplane.lab.scene import COLOURS, Scene
from tests.system.cni_node import cni_node

ROUNDS = 12


@contextmanager
def talking(scene: Scene) -> Iterator[list[Echo]]:
    """Ping from n1 to n3 and from n4 to n1, both inner families, over every kind of tunnel."""
    with ExitStack() as flows:
        yield [
            flows.enter_context(probes.flow(source, sink.ip(version), interval=0.01))
            for first, _, third, fourth, *_ in scene.segments.values()
            for source, sink in ((first, third), (fourth, first))
            for version in (4, 6)
        ]


def test_tunnel_packets_are_taken_in_while_pods_come_and_go(scene: Scene) -> None:
    """Every veth that comes or goes makes OVS read its routes anew, and it must not notice."""
    with talking(scene) as echoes, cni_node(scene, "n1", COLOURS[0].name) as node:
        for number in range(ROUNDS):
            node.add(f"brief{number}")
            node.delete(f"brief{number}")
    assert [(echo.lost, echo.duplicates) for echo in echoes] == [(0, 0)] * len(echoes)
    assert min(echo.sent for echo in echoes) > 10 * ROUNDS
