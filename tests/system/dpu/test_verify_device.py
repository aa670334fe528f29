"""``overweave verify --send``: a switch that takes no frames is seen at work by what pods send."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import yaml

from dataplane.api import agent_pb2 as pb
from dataplane.api.client import connect
from dataplane.lab import lab, matrix, nodes
from dataplane.lab.probes import Station
from dataplane.lab.runtime import Pod
from dataplane.lab.scene import COLOURS
from tests.system.dpu.bugs import BUGS, Seeded, ahead, before, instead, planted, tables_of
from tests.system.dpu.conftest import DpuScene, assert_told, pinned, until
from tests.system.frames import Ears
from tests.system.test_lab_cli import Overweave
from vendors.marvell.pipeline import GUARD

BLUE = COLOURS[0]
SEND = ("verify", "--send", "--packets", "0", "--segment", "blue")


@contextmanager
def as_a_device(scene: DpuScene) -> Iterator[None]:
    """Have the DPU's agent know no control socket of its switch."""
    paths = scene.paths.node("d1")
    known = paths.config.read_text()
    config = yaml.safe_load(known)
    for device in config["devices"]:
        del device["control"]
    nodes.stop_agent(paths)
    paths.config.write_text(yaml.safe_dump(config))
    lab.start_agents(scene.paths, scene.topology.agents)
    try:
        until(lambda: was_sent(scene), what="the host is not back")
        yield
    finally:
        nodes.stop_agent(paths)
        paths.config.write_text(known)
        lab.start_agents(scene.paths, scene.topology.agents)


@pytest.fixture(scope="module")
def second(shared: DpuScene) -> Iterator[Station]:
    """Another VF pod of the same segment: what the switch does between two is seen whole."""
    pod = shared.runtime.add(Pod("bluew", "h1", "blue", device=shared.spare_vf))
    stations = shared.segments["blue"]
    stations.append(pod)
    matrix.converge(stations)
    yield pod
    stations.remove(pod)
    shared.runtime.delete("bluew")


@pytest.fixture(scope="module")
def device(shared: DpuScene, second: Station) -> Iterator[DpuScene]:
    with as_a_device(shared), pinned(shared, [BLUE]):
        yield shared


@pytest.fixture
def overweave(device: DpuScene) -> Overweave:
    return Overweave(device)


def asked(overweave: Overweave, *options: str) -> dict[str, Any]:
    done = overweave.run(*SEND, *options, "-o", "json")
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


def row_of_switch(found: dict[str, Any]) -> dict[str, Any]:
    return next(row for row in found["paths"] if row["path"] == "switch")


def test_what_is_seen_of_a_real_switch_agrees_also_for_two_at_once(overweave: Overweave) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: asked(overweave), range(2)))
    print(both[0]["verdict"], f"after {time.monotonic() - began:.1f} s:", row_of_switch(both[0]))
    for found in both:
        assert_agrees(found)


def assert_agrees(found: dict[str, Any]) -> None:
    """See that a switch between two VFs, the wire and the DPU does what it should."""
    assert (found["status"], found["differences"]) == (0, []), json.dumps(found)
    switch = row_of_switch(found)
    assert (switch["unknown"], switch["differ"]) == (0, 0)
    assert switch["agree"] > 10  # those that came out at a VF
    assert switch["counted"] == switch["not_observed"]["verdict"] > 20
    assert {"output", "inner frame", "DF"} < set(switch["not_observed"])
    assert switch["handed_over"] >= 4
    assert switch["absent"] > switch["asked"]


def test_nothing_is_sent_unless_one_asks_for_it(device: DpuScene, overweave: Overweave) -> None:
    with nothing_sent(device):
        shown = overweave.run("verify", "--packets", "0", "--segment", "blue")
    assert shown.returncode == 0
    assert "not asked: switch of d1: of a real device it is seen only " in shown.stdout
    assert "by pods on its host: overweave verify --send\n" in shown.stdout


@contextmanager
def nothing_sent(scene: DpuScene) -> Iterator[None]:
    """See that no frame to the discard port leaves a VF pod of blue."""
    vf, *_, second = scene.segments["blue"]
    with Ears([vf, second]) as ears:
        yield
        heard = [frame for _, frame in ears.listen(0.1)]
    assert not [frame for frame in heard if b"\xc0\x00\x00\x09" in frame]


OF_A_DEVICE: dict[str, Seeded] = {
    name: BUGS[name] for name in ("wrong port to the wire", "delivered twice", "wrong VF")
} | {
    "lost miss": Seeded("verdict: drop, not ", BUGS["lost miss"].rows),
    "swapped MACs": Seeded(
        "inner frame: ",
        lambda t: before(t.local, f"set_field:{t.vf.mac}->eth_src,set_field:{t.far.mac}->eth_dst"),
    ),
    "lost before the entry": Seeded(
        "verdict: drop, not tunnel: ",
        lambda t: ahead(GUARD.number, f"{t.from_vf},dl_dst={t.far.mac}", "drop"),
    ),
    "lost behind the entry": Seeded(
        "verdict: drop, not deliver: ", lambda t: instead(t.local, "drop")
    ),
}


@pytest.mark.parametrize("name", OF_A_DEVICE)
def test_a_bug_that_can_be_seen_is_found(device: DpuScene, name: str) -> None:
    bug = OF_A_DEVICE[name]
    assert_told(device, bug.told, partial(planted, tables_of(device, BLUE), bug), send=True)


def test_what_is_lost_behind_the_entry_that_counts_it_is_not_said_to_agree(
    device: DpuScene, overweave: Overweave
) -> None:
    well = row_of_switch(asked(overweave))
    with planted(tables_of(device, BLUE), BUGS["lost entry that drops"]):
        found = asked(overweave)
    lost = row_of_switch(found)
    assert found["verdict"].startswith("all agree, as far as is seen: ")
    assert (lost["agree"], lost["counted"]) == (well["agree"], well["counted"])


def test_without_the_host_nothing_can_be_sent(device: DpuScene, overweave: Overweave) -> None:
    nodes.stop_agent(device.paths.node("h1"))
    try:
        shown = overweave.run(*SEND, "--agent", str(device.paths.node("d1").api_socket))
    finally:
        lab.start_agents(device.paths, device.topology.agents)
    assert shown.returncode == 3
    assert shown.stdout.startswith("not known: ")
    said = "not asked: switch of d1: no agent of the DPU's host is connected, and only there can"
    assert said in shown.stdout
    until(lambda: was_sent(device), what="the host is not back")


def was_sent(scene: DpuScene) -> bool:
    """Say whether the first frames could be sent."""
    request = pb.VerifyRequest(segment="blue", send=True)
    with connect(scene.paths.node("d1").api_socket) as agent:
        heard = agent.Verify(request, timeout=30)
        tallies = (tally for each in heard for tally in each.paths if tally.path == "switch")
        first = next(tallies)
        heard.cancel()
    return bool(first.asked and not first.unknown)
