"""A workload that moves too often stays where it is, and is reachable there (RFC 7432)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from dataplane.core.mobility import MAX_MOVES
from dataplane.core.model import Address, Endpoint
from dataplane.lab import matrix, probes
from dataplane.lab.probes import Station
from dataplane.lab.scene import Colour, Scene
from tests.system.cni_node import CniNode, cni_node, error_of, eventually, rows, segment, station

CYAN = Colour("cyan", 22, "vxlan", "ipv6")
IPS = {"ips": CYAN.static_ips(5)}
IDENTITY = "hot/eth0"
TRY_AGAIN = 11


@pytest.fixture
def cyan(scene: Scene) -> Iterator[list[CniNode]]:
    """Three nodes; on the last of them nothing is attached yet."""
    with segment(scene, CYAN), ExitStack() as nodes:
        yield [nodes.enter_context(cni_node(scene, n, CYAN.name)) for n in ("n1", "n2", "n3")]


def places(scene: Scene) -> list[tuple[str, int]]:
    every = [row for row in rows(scene) if isinstance(row, Endpoint) and row.identity == IDENTITY]
    return [(row.node, len(row.moves)) for row in every]


def bound(scene: Scene) -> set[tuple[str, str]]:
    every = [row for row in rows(scene) if isinstance(row, Address)]
    return {(row.identity, row.node) for row in every if row.segment == CYAN.name}


def attach(node: CniNode, pod: str) -> Station:
    outcome = node.run(
        "ADD", pod, node.config(runtimeConfig=IPS), CNI_ARGS="OVERWEAVE_ENDPOINT=hot"
    )
    assert outcome.status == 0, outcome.stdout
    return station(pod, outcome.document)


def test_the_sixth_move_in_a_short_time_is_refused(scene: Scene, cyan: list[CniNode]) -> None:
    first, second, third = cyan
    peer = first.add("peer")
    second.pod("hot0")
    hot, node = attach(second, "hot0"), second
    for number in range(1, MAX_MOVES + 1):
        old, node = node, first if node is second else second
        node.pod(f"hot{number}")
        hot = attach(node, f"hot{number}")
        old.delete(f"hot{number - 1}")
        eventually(lambda at=node.name, count=number: places(scene) == [(at, count)])
    matrix.converge([hot, peer])
    with (
        probes.flow(peer, hot.ip(4), interval=0.01) as v4,
        probes.flow(peer, hot.ip(6), 0.01) as v6,
    ):
        for other in (second if node is first else first, third):
            other.pod("hot6")
            refused = other.run(
                "ADD", "hot6", other.config(runtimeConfig=IPS), CNI_ARGS="OVERWEAVE_ENDPOINT=hot"
            )
            words = (
                hot.mac,
                "cyan",
                "5 times within 180 s",
                f"stays on node {node.name}",
                IDENTITY,
            )
            print(error_of(refused, TRY_AGAIN, *words)["msg"])
        time.sleep(0.5)
    for echo in (v4, v6):
        assert (echo.lost, echo.duplicates) == (0, 0)
        assert echo.sent > 20
    assert places(scene) == [(node.name, MAX_MOVES)]
    eventually(lambda: bound(scene) == {(IDENTITY, node.name)})
    matrix.converge([hot, peer])
