"""A DPU of each vendor joins hosts that run, takes workloads over and goes: nobody restarts."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from dataplane.fabric.store import FabricStore
from dataplane.lab import lab, matrix, nodes, probes
from dataplane.lab.lab import LabError
from dataplane.lab.matrix import VERSIONS
from dataplane.lab.probes import Echo, Station
from dataplane.lab.runtime import Pod
from dataplane.lab.scene import COLOURS, Scene, silent
from dataplane.lab.topology import read_topology
from ovs_client import process
from tests.conftest import SURVIVED
from tests.system.damage import Node

HOSTS = {"marvell": "n2", "intel": "n3", "senao": "n4"}
BLUE = COLOURS[0]
GUEST = "guest"
AWAY = "n1"  # where the workloads go when the DPUs have to leave
SEEN_S = 5 * 2.0  # five times what it may take until an added DPU is seen
GAP_S = 5.0  # five times the second after which a move should be over
SETTLED_S = 10.0
STEADY_S = 0.1  # between pings of those that stay
BUSY_S = 0.02  # between pings to a workload: so many deserve a row of a DPU's switch


def with_dpus(scene: Scene, number: int) -> Scene:
    """Return the same lab and pods with the first so many of the DPUs besides."""
    nodes_text = [f"{{name: {n.name}, kind: {n.kind.value}}}" for n in scene.topology.nodes]
    nodes_text += [
        f"{{name: d{host[1:]}, dpu: {{vendor: {vendor}, host: {host}, vfs: 5}}}}"
        for vendor, host in list(HOSTS.items())[:number]
    ]
    text = f"nodes: [{', '.join(nodes_text)}]"
    return replace(scene, topology=read_topology(text, "tests"))


def running(scene: Scene) -> dict[str, tuple[int | None, str]]:
    """Return what runs for good on the plain hosts, and the database: its number and its start."""
    found = {"fabric": lab.fabric_server(scene.paths).place.pid("ovsdb-server")}
    for node in scene.topology.agents:
        paths = scene.paths.node(node.name)
        found[f"agent of {node.name}"] = nodes.agent_pid(paths)
        for program in ("ovsdb-server", "ovs-vswitchd"):
            found[f"{program} of {node.name}"] = nodes.switch(paths).place.pid(program)
    return {name: (pid, start_time(pid)) for name, pid in found.items()}


def start_time(pid: int | None) -> str:
    """Return the 22nd field of proc(5)'s stat; the second, in brackets, may hold blanks."""
    stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii")
    return stat.rpartition(")")[2].split()[19]


def held(scene: Scene) -> dict[str, set[str]]:
    """Return what kernel and Open vSwitch of each plain host hold of ours, and the database."""
    names = [node.name for node in scene.topology.agents]
    found = {name: Node(scene.paths.node(name), random.Random()).state() for name in names}
    with FabricStore(lab.fabric_server(scene.paths).remote) as store:
        return {**found, "fabric": set(map(str, store.read()))}


def until_halves(scene: Scene) -> float:
    """Return after how many seconds there are both halves of each DPU, all ready, and no others."""
    dpus = [node.name for node in scene.topology.dpus]
    wanted = {f"lab-{dpu}-{side}": True for dpu in dpus for side in ("dpu", "host")}
    began = time.monotonic()
    found: dict[str, bool] | None = None
    while found != wanted:
        assert time.monotonic() - began < SEEN_S, found
        shown = json.loads(lab.overweave(scene.paths, "get", "dpu", "-o", "json"))
        found = {half["name"]: half["status"] for half in shown}
    return time.monotonic() - began


def is_as_before(scene: Scene, before: dict[str, set[str]]) -> bool:
    """Say whether all is as it was ``before``, a moment later at most; and print what is not."""
    differs: dict[str, set[str]] = {}

    def is_same() -> bool:
        after = held(scene)
        differs.update({name: after[name] ^ before[name] for name in before})
        return not any(differs.values())

    return process.wait_until(is_same, SETTLED_S) or bool(print(differs))


@contextmanager
def flows(pairs: Iterable[tuple[Station, Station]], interval: float) -> Iterator[list[Echo]]:
    """Have each pair talk in both families."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(probes.flow(source, sink.ip(version), interval))
            for source, sink in pairs
            for version in VERSIONS
        ]


def steady_pairs(scene: Scene) -> list[tuple[Station, Station]]:
    """Return each pair of the first segment, and a chain through each of the others."""
    blue, *others = scene.segments.values()
    return [*combinations(blue, 2), *(pair for each in others for pair in pairwise(each))]


def expect_nothing_lost(echoes: list[Echo], who: str) -> None:
    gap = max(echo.longest_gap for echo in echoes)
    assert [(echo.lost, echo.duplicates) for echo in echoes] == [(0, 0)] * len(echoes)
    sent = sum(echo.sent for echo in echoes)
    print(f"{SURVIVED}{who}: {sent} packets, longest gap {gap * 1000:.1f} ms")


def guest(number: int, host: str) -> Pod:
    """Return a workload whose MAC and addresses are its own on every node."""
    name = f"{GUEST}{number}"
    mac = f"02:00:00:00:dd:{number:02x}"
    return Pod(name, host, BLUE.name, mac, BLUE.static_ips(0xD0 + number), name)


def attach(scene: Scene, pod: Pod) -> None:
    scene.segments[BLUE.name].append(scene.runtime.add(pod))
    matrix.converge(scene.segments[BLUE.name])


def move(scene: Scene, pod: Pod, host: str, what: str) -> Station:
    """Move a workload under traffic, and print for how long at most it was not heard."""
    stations = scene.segments[BLUE.name]
    (before,) = (each for each in stations if each.mac == pod.mac)
    with flows([(stations[0], before)], BUSY_S) as echoes:
        time.sleep(0.2)
        after = scene.move(pod, host)
        time.sleep(0.3)
    assert (after.mac, after.ips) == (before.mac, before.ips)
    assert [echo.duplicates for echo in echoes] == [0, 0]
    gap, lost = max(echo.unheard for echo in echoes), sum(echo.lost for echo in echoes)
    assert gap < GAP_S
    print(f"{SURVIVED}{pod.name} {what}: unheard for {gap * 1000:.0f} ms, lost {lost}")
    return after


def node_of(scene: Scene, pod: Pod) -> str:
    """Return which node serves a workload, as the fabric knows it."""
    found = json.loads(lab.overweave(scene.paths, "get", "endpoint", "-o", "json"))
    (node,) = (each["node"] for each in found if each["mac"] == pod.mac)
    return str(node)


@pytest.fixture
def plain(scene: Scene) -> Iterator[Scene]:
    """The lab as it is for everybody, and left so."""
    yield scene
    for pod in scene.runtime.pods():
        if pod.name.startswith(GUEST):
            scene.runtime.delete(pod.name)
    stations = scene.segments[BLUE.name]
    stations[:] = [each for each in stations if not each.name.startswith(GUEST)]
    lab.build(scene.paths, scene.topology, silent)


def test_a_dpu_of_each_vendor_comes_and_goes(plain: Scene) -> None:
    before, since = held(plain), running(plain)
    blue, pods, grown = plain.segments[BLUE.name], [], plain
    with flows(steady_pairs(plain), STEADY_S) as steady:
        with ExitStack() as settled:
            on_vfs: list[Echo] = []
            for number, (vendor, host) in enumerate(HOSTS.items(), start=1):
                pods.append(guest(number, host))
                attach(plain, pods[-1])
                grown = with_dpus(plain, number)
                lab.up(plain.paths, grown.topology, silent)
                took = until_halves(grown)
                print(f"{SURVIVED}DPU of {vendor} added: ready, both halves, in {took:.1f} s")
                vf = move(grown, pods[-1], host, f"moves from veth to VF ({vendor})")
                assert node_of(grown, pods[-1]) == grown.topology.dpus[-1].name
                on_vfs += settled.enter_context(flows([(blue[0], vf)], BUSY_S))
            matrix.converge(blue)
            assert matrix.verify(blue).faults == ()
            with pytest.raises(LabError, match=f"has pods, .*: {GUEST}1-n2, .*detach each"):
                lab.up(plain.paths, plain.topology, silent)
        expect_nothing_lost(on_vfs, "workloads on VFs, while others come")
        for pod in pods:
            move(plain, pod, AWAY, f"leaves for {AWAY}")
        lab.up(plain.paths, plain.topology, silent)
        for dpu in grown.topology.dpus:
            lab.overweave(plain.paths, "node", "delete", dpu.name)
        until_halves(plain)
        for pod in pods:
            plain.runtime.delete(f"{pod.name}-{AWAY}")
        time.sleep(0.5)
    expect_nothing_lost(steady, "all that stay, while DPUs come and go")
    assert running(plain) == since
    assert is_as_before(plain, before)


def words_since(log: Path, size: int) -> str:
    return log.read_bytes()[size:].decode()


HOST = """
devices:
- serial: "1"
  vendor: marvell
  side: host
  attachment: unix:/run/nobody.sock
  vfs: [{device_id: "0000:06:00.2", netdev: vf0}]
"""


@pytest.mark.parametrize(
    ("more", "words"),
    [
        pytest.param("devices: [{}]", "devices[0].serial is missing", id="faulty"),
        pytest.param(HOST + "metrics: 127.0.0.1:9999", "metrics: what has changed", id="other key"),
        pytest.param(HOST.replace("side: host", "side: both"), "'host' or 'dpu'", id="bad side"),
    ],
)
def test_a_configuration_that_an_agent_cannot_take_changes_nothing(
    plain: Scene, more: str, words: str
) -> None:
    paths, since = plain.paths.node("n1"), running(plain)
    text = paths.config.read_text(encoding="utf-8")
    kept = "".join(line for line in text.splitlines(keepends=True) if "devices:" not in line)

    def reload(text: str, told: str) -> None:
        before = paths.log.stat().st_size
        paths.config.write_text(text, encoding="utf-8")
        nodes.reload_agent(paths)
        assert process.wait_until(lambda: told in words_since(paths.log, before), SETTLED_S)

    try:
        reload(kept + more, words)
    finally:
        reload(text, "agent.reloaded")
    assert nodes.obstacle(paths) == ""
    assert running(plain) == since
    assert "lab-" not in lab.overweave(plain.paths, "get", "dpu")
