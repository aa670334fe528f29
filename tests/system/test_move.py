"""A workload that asks for its MAC and addresses by name keeps them on whatever node it runs."""

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from dataplane.lab import matrix, probes
from dataplane.lab.probes import Station
from dataplane.lab.runtime import PluginError, Pod
from dataplane.lab.scene import COLOURS, Colour, Scene
from dataplane.lab.underlay import ensure_namespace
from dataplane.netlink.netns import Netns
from tests.functional.namespaces import ip

GAP_S = 5.0  # five times the second after which a move should be over


@pytest.fixture(params=[pytest.param(colour, id=colour.name) for colour in COLOURS])
def wanderer(request: pytest.FixtureRequest, scene: Scene) -> Iterator[tuple[Pod, Station]]:
    colour: Colour = request.param
    pod = Pod(
        f"{colour.name}w",
        "n3",
        colour.name,
        f"02:00:00:00:{colour.number:02x}:77",
        colour.static_ips(77),
        f"{colour.name}-wanderer",
    )
    station = scene.runtime.add(pod)
    scene.segments[colour.name].append(station)
    yield pod, station
    last = scene.segments[colour.name].pop()
    scene.runtime.delete(last.name)


def test_it_moves_and_comes_back(scene: Scene, wanderer: tuple[Pod, Station]) -> None:
    pod, before = wanderer
    stations = scene.segments[pod.segment]
    for node in ("n4", "n1", "n3"):
        with probes.flow(stations[0], before.ip(6), interval=0.01) as echo:
            time.sleep(0.1)
            after = scene.move(pod, node)
            time.sleep(0.3)
        print(f"{pod.name} to {node}: unheard for {echo.unheard * 1000:.0f} ms")
        assert (after.mac, after.ips) == (before.mac, before.ips)
        assert echo.unheard < GAP_S
        assert echo.duplicates == 0
    matrix.converge(stations)
    assert matrix.verify(stations).faults == ()


@pytest.mark.parametrize("wanderer", [COLOURS[0]], indirect=True)
@pytest.mark.parametrize("watched_from", ["n1", "n4"])
def test_a_move_that_fails_leaves_it_where_it_is(
    scene: Scene, wanderer: tuple[Pod, Station], watched_from: str
) -> None:
    """It is programmed on n4 when it turns out that its pod there cannot be connected."""
    pod, here = wanderer
    there = replace(pod, name=f"{pod.name}-n4", node="n4")
    ensure_namespace(scene.paths.netns(there.name))
    with Netns(str(scene.paths.netns(there.name))) as space:
        ip(space, "link", "add", "eth0", "type", "bridge")
    watcher = scene.station(f"{pod.segment}{watched_from[1:]}")
    with probes.flow(watcher, here.ip(4), interval=0.01) as echo:
        with pytest.raises(PluginError, match="eth0 exists already"):
            scene.runtime.add(there)
        time.sleep(0.3)
    assert (echo.lost, echo.duplicates) == (0, 0)
    assert echo.received > 30


def test_the_old_place_is_silent_before_it_is_deleted(
    scene: Scene, wanderer: tuple[Pod, Station]
) -> None:
    pod, old = wanderer
    new = scene.runtime.add(
        Pod(f"{pod.name}-n2", "n2", pod.segment, pod.mac, pod.ips, pod.identity)
    )
    scene.segments[pod.segment][-1] = new
    watcher = scene.segments[pod.segment][0]
    time.sleep(0.5)
    # Two frames to the MAC that both have, and one to all: every one at the new place only.
    assert probes.intrude(watcher, [old, new]) == {new.name: 3}
    assert probes.stray(old, watcher.mac, [watcher]) == {}
    assert probes.stray(new, watcher.mac, [watcher]) == {watcher.name: 1}
    scene.runtime.delete(old.name)
