"""The metrics of a real agent move with real packets, each under its path and reason."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

from dataplane.core.reasons import Reason
from dataplane.lab import lab, nodes, probes
from dataplane.lab.probes import Pace, Station
from dataplane.lab.scene import Scene
from tests.functional.test_metrics import names_shown, scrape
from tests.system.cni_node import cni_node, eventually
from tests.system.test_pitfalls import run
from tests.unit.test_metrics import Labels, documented, samples

COUNT = 20
BACK_S = 10.0


class Shown:
    """What the agent of ``node`` shows, and how that has grown since."""

    def __init__(self, scene: Scene, node: str) -> None:
        self._socket = scene.paths.node(node).run / "metrics.sock"
        self._before = self.now()

    def now(self) -> dict[str, dict[Labels, float]]:
        status, _, text = scrape(self._socket)
        assert status == 200
        return samples(text)

    def value(self, name: str, **labels: str) -> float:
        return self.now()[name][tuple(sorted(labels.items()))]

    def grown(self, path: str, reason: str) -> float:
        name, key = "overweave_packets_total", (("path", path), ("reason", reason))
        return self.now()[name][key] - self._before[name][key]

    def adds(self, phase: str) -> float:
        name = "overweave_cni_duration_seconds_count"
        key = (("command", "ADD"), ("phase", phase))
        return self.now()[name][key] - self._before.get(name, {}).get(key, 0)


def send(source: Station, to: str, *sizes: int) -> None:
    with source.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        for size in sizes:
            sender.sendto(bytes(size), (to, 9))


@contextmanager
def larger_links(scene: Scene, source: Station, more: int) -> Iterator[None]:
    """Have a pod on n1 that does not know its segment's MTU, at either end of its link."""
    (port,) = [p for p in nodes.ports(scene.paths.node("n1")) if p.mac == source.mac]
    node_end = replace(source, netns=scene.paths.netns("n1"), ifname=port.access_port)
    with ExitStack() as undo:
        for end in (source, node_end):
            words = ("ip", "link", "set", end.ifname, "mtu")
            run(end, *words, str(source.mtu + more))
            undo.callback(run, end, *words, str(source.mtu))
        yield


def test_packets_are_counted_where_they_went(scene: Scene) -> None:
    source, _, sink, *_ = scene.segments["blue"]
    here, there = Shown(scene, "n1"), Shown(scene, "n3")
    probes.ping(source, sink.ip(4), Pace(count=COUNT))
    # Out by the entry of the other pod, in by the entry of our own.
    assert here.grown("fastpath", "") >= 2 * COUNT
    assert there.grown("fastpath", "") >= 2 * COUNT
    send(source, str(sink.ip(4)), 2 * source.mtu)  # with both headers, more than two MTUs
    assert here.grown("ovs", "fragment") == 3
    send(source, "10.1.15.255", *[100] * COUNT)
    assert here.grown("ovs", "group") >= COUNT
    assert here.grown("dropped", "too-large") == there.grown("ovs", "fragment") == 0


def test_what_is_too_large_is_counted_as_dropped(scene: Scene) -> None:
    source, _, sink, *_ = scene.segments["green"]
    here = Shown(scene, "n1")
    with larger_links(scene, source, 100):
        send(source, str(sink.ip(4)), *[source.mtu] * COUNT)
    assert here.grown("dropped", str(Reason.TOO_LARGE)) == COUNT


def test_a_pod_comes_and_goes(scene: Scene) -> None:
    sink = scene.segments["blue"][2]
    shown = Shown(scene, "n1")
    placed = shown.now()["overweave_entries"]
    with cni_node(scene, "n1", "blue") as node:
        pod = node.add("counted")
        probes.ping(pod, sink.ip(4), Pace(count=COUNT))
        entries = nodes.entries(scene.paths.node("n1"))
        now = shown.now()["overweave_entries"]
        assert sum(now.values()) == len(entries) == sum(placed.values()) + 1
        assert now[("placement", "fastpath"), ("reason", ""), ("segment", "blue")] == len(
            [entry for entry in entries if entry.segment == "blue"]
        )
        counted = shown.grown("fastpath", "")
        assert counted >= 2 * COUNT
        phases = {"admit", "plumb", "program", "announce", "publish", "total"}
        assert {phase: shown.adds(phase) for phase in phases} == dict.fromkeys(phases, 1)
    assert shown.grown("fastpath", "") >= counted


def test_the_database_is_away(scene: Scene) -> None:
    shown = Shown(scene, "n1")
    server = lab.fabric_server(scene.paths)
    eventually(lambda: shown.value("overweave_fabric_lag_seconds") == 0)
    with cni_node(scene, "n1", "blue") as node:
        server.stop()
        try:
            eventually(lambda: shown.value("overweave_fabric_connected") == 0)
            first = shown.value("overweave_fabric_lag_seconds")
            eventually(lambda: shown.value("overweave_fabric_lag_seconds") > first > 0)
            node.add("unheard")
            assert shown.value("overweave_fabric_unpublished_endpoints") == 1
            assert shown.value("overweave_ready") == 1
        finally:
            server.start()
            for each in scene.topology.agents:
                nodes.wait_ready(scene.paths.node(each.name))
        eventually(lambda: shown.value("overweave_fabric_unpublished_endpoints") == 0, BACK_S)
        eventually(lambda: shown.value("overweave_fabric_lag_seconds") == 0, BACK_S)
        assert shown.value("overweave_fabric_connected") == 1


def test_a_real_agent_shows_what_is_documented(scene: Scene) -> None:
    of_a_switch = {name for name in documented() if name.startswith("overweave_switch_")}
    socket = scene.paths.node("n1").run / "metrics.sock"
    assert names_shown(socket) == documented().keys() - of_a_switch
