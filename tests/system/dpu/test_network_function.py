"""A network function on the DPU: neither the switch nor eBPF forwards past it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
import yaml

from dataplane.lab import lab, nodes, probes
from dataplane.lab.probes import Pace, Station
from dataplane.lab.runtime import Pod
from dataplane.lab.scene import COLOURS
from dataplane.opi import network_function_pb2 as nf
from dataplane.opi import network_function_pb2_grpc as nf_rpc
from tests.system.dpu.conftest import BUSY, DpuScene, differences, until

BLUE = COLOURS[0]
PINGS = 20


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def plugin(scene: DpuScene) -> Iterator[Any]:
    """Yield what a DPU operator's daemon has of the DPU's agent, which is given its socket."""
    paths = scene.paths.node("d1")
    before = paths.config.read_text(encoding="utf-8")
    socket = f"unix:{paths.run}/plugin.sock"
    config = {**yaml.safe_load(before), "opi": {"socket": socket, "segment": BLUE.name}}
    try:
        restart(scene, yaml.safe_dump(config))
        with grpc.insecure_channel(socket) as channel:
            yield nf_rpc.NetworkFunctionServiceStub(channel)
    finally:
        restart(scene, before)


def restart(scene: DpuScene, config: str) -> None:
    paths = scene.paths.node("d1")
    nodes.stop_agent(paths)
    paths.config.write_text(config, encoding="utf-8")
    lab.start_agents(scene.paths, scene.topology.agents)


@contextmanager
def function(scene: DpuScene) -> Iterator[tuple[Station, Station]]:
    """Yield two pods of the DPU that are joined: what comes into one comes out of the other."""
    pods = [Pod(name, "d1", BLUE.name) for name in ("inner", "outer")]
    try:
        one, other = (scene.runtime.add(pod) for pod in pods)
        ends = [str(each.netns).rpartition("/")[2] for each in (one, other)]
        ip("link", "add", "x", "netns", ends[0], "type", "veth", "peer", "x", "netns", ends[1])
        for end in ends:
            ip("-n", end, "link", "add", "br0", "up", "type", "bridge")
            ip("-n", end, "addr", "flush", "dev", "eth0")
            for port in ("eth0", "x"):
                ip("-n", end, "link", "set", port, "up", "master", "br0")
        yield one, other
    finally:
        for pod in pods:
            scene.runtime.delete(pod.name)


def passed(one: Station) -> int:
    """Return how many frames have gone from one part of the function to the other, and back."""
    end = str(one.netns).rpartition("/")[2]
    shown = subprocess.run(
        ["ip", "-n", end, "-j", "-s", "link", "show", "dev", "x"],
        check=True,
        capture_output=True,
        text=True,
    )
    stats = yaml.safe_load(shown.stdout)[0]["stats64"]
    return int(stats["rx"]["packets"]) + int(stats["tx"]["packets"])


def test_what_was_in_the_switch_passes_a_function(scene: DpuScene, plugin: Any) -> None:
    vf, _, _, far = scene.segments[BLUE.name][:4]
    with function(scene) as (one, other):
        request = nf.NFRequest(input=str(one.mac), output=str(other.mac))
        with probes.flow(vf, far.ip(4), BUSY):
            until(lambda: scene.placed(vf) and scene.placed(far), what="not placed")
            plugin.CreateNetworkFunction(request)
            for each in (one, other):  # may have seen a MAC on the wrong side before
                ip("-n", each.netns.name, "link", "set", "br0", "type", "bridge", "fdb_flush")
            assert (scene.row(BLUE, vf), scene.row(BLUE, far)) == (None, None)
        before = passed(one)
        for source, sink in ((vf, far), (far, vf)):
            echo = probes.ping(source, sink.ip(4), Pace(PINGS))
            assert (echo.lost, echo.duplicates) == (0, 0)
        assert 4 * PINGS <= passed(one) - before < 5 * PINGS  # each once: there is no loop
        assert {scene.entry(each).reason for each in (vf, one, other)} == {"network-function"}
        assert scene.entry(far).placement == "fastpath"  # for others: the VF's frames never see it
        assert list(differences(scene, BLUE)) == []
        plugin.DeleteNetworkFunction(request)
        with probes.flow(vf, far.ip(4), BUSY):
            until(lambda: scene.placed(vf) and scene.placed(far), what="not placed again")
