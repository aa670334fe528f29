"""What holds in the lab of a vendor whose switch serves pods; a module has them as ``Test...``."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from dataplane.core.placement import Placement
from dataplane.lab import dpus, matrix, probes
from dataplane.lab.probes import Pace, Station
from dataplane.lab.scene import COLOURS, Colour
from tests.system.dpu.conftest import BUSY, DpuScene, Talk, until
from tests.system.test_lab_cli import Overweave
from tests.system.test_wire import OUTER, PORTS, WRONG, capture, dissect

BLUE = COLOURS[0]
GAP_S = 10.0  # a device that loses what it had forwards nothing of it until it is put back
EACH = pytest.mark.parametrize("colour", COLOURS, ids=lambda c: f"{c.encap} over {c.underlay}")


def vf(scene: DpuScene, nth: int) -> str:
    """Return the device id of a VF of the scene's DPU."""
    return dpus.device_id(scene.topology, scene.dpu, nth)


def counted(scene: DpuScene, station: Station) -> int:
    """Return how many packets its emulated switch has sent to a station."""
    return scene.entry(station).counted[Placement.EMULATED]


class Traffic:
    """Of each segment: one on a VF, on the host, on the DPU and elsewhere; of the first two VFs."""

    def test_all_pairs(self, scene: DpuScene) -> None:
        for name, stations in scene.segments.items():
            verdict = matrix.verify(stations)
            assert (verdict.faults, verdict.lost) == ((), 0), name
            assert verdict.reachable == verdict.pairs, name

    def test_segments_stay_apart(self, scene: DpuScene) -> None:
        assert not matrix.leaks(scene.segments)

    @pytest.mark.parametrize("version", [4, 6])
    @EACH
    def test_busy_pairs_come_into_the_switch_and_lose_nothing(
        self, scene: DpuScene, colour: Colour, version: int
    ) -> None:
        near, _, _, far = scene.segments[colour.name][:4]
        with probes.flow(near, far.ip(version), BUSY) as echo:
            until(lambda: scene.placed(far) and scene.placed(near), what="not placed")
            before = counted(scene, far)
            until(lambda: counted(scene, far) > before + 10, what="not counted")
        assert (echo.lost, echo.duplicates) == (0, 0)

    def test_two_vfs_talk_inside_the_switch(self, scene: DpuScene) -> None:
        one, other = (scene.segments[BLUE.name][n] for n in (0, 4))
        with probes.flow(one, other.ip(4), BUSY) as echo:
            until(lambda: scene.placed(one) and scene.placed(other), what="not placed")
            before = counted(scene, one), counted(scene, other)
            until(lambda: counted(scene, one) > before[0] + 10, what="no answer was counted")
            until(lambda: counted(scene, other) > before[1] + 10, what="no question was counted")
        assert (echo.lost, echo.duplicates) == (0, 0)

    @pytest.mark.parametrize("fault", ["kill", "reset"])
    def test_a_device_that_has_lost_all_is_filled_again(self, talk: Talk, fault: str) -> None:
        talk.gap_s = GAP_S
        scene, far = talk.scene, talk.far
        before = counted(scene, far)
        scene.tell(fault)
        until(lambda: scene.placed(far) and counted(scene, far) > before + 10, 60)
        assert probes.ping(talk.vf, far.ip(4), Pace(20)).lost == 0

    def test_a_port_that_goes_and_comes(self, talk: Talk) -> None:
        talk.gap_s = GAP_S
        near, address = talk.vf, talk.far.ip(4)
        talk.scene.tell("port-gone", "vf0")
        until(lambda: probes.ping(near, address, Pace(3)).received == 0, what="still there")
        talk.scene.tell("port-back", "vf0")
        until(lambda: probes.ping(near, address, Pace(10)).lost == 0, what="not back")


def judged(placed: DpuScene, packets: int) -> dict[tuple[str, str], Any]:
    """Verify all paths; return what was counted of each, by node and path, where all agree."""
    shown = Overweave(placed).run("verify", "--packets", str(packets), "-o", "json")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    (found,) = json.loads(shown.stdout)
    print(found["verdict"])
    assert found["verdict"].startswith("all agree, but in what the device cannot do: ")
    assert (found["differences"], found["left_out"]) == ([], 0)
    rows = {(row["node"], row["path"]): row for row in found["paths"]}
    switch = rows["d1", "switch"]
    assert (switch["unknown"], switch["not_observed"]) == (0, {})
    assert min(switch["agree"], switch["handed_over"]) > 100
    assert 0 < switch["excused"] < switch["agree"] / 2
    return rows


class Judged:
    """What others than the agent say of a switch that everything is pinned to."""

    @EACH
    def test_what_the_switch_puts_on_the_wire_is_what_the_standards_say(
        self, placed: DpuScene, colour: Colour, tmp_path: Path
    ) -> None:
        near, _, _, far = placed.segments[colour.name][:4]
        file, before = tmp_path / "underlay.pcap", counted(placed, far)
        with capture(placed, placed.dpu.name, file):
            for version, pace in product((4, 6), (Pace(5), Pace(5, size=near.mtu))):
                assert probes.ping(near, far.ip(version), pace).lost == 0
        until(lambda: counted(placed, far) >= before + 20, what="somebody else sent it")
        vtep = next(a.ip for a in placed.dpu.addresses if f"ipv{a.version}" == colour.underlay)
        layer = "ip" if vtep.version == 4 else "ipv6"
        sent = f"{colour.encap}.vni == {colour.vni} && {layer}.src == {vtep}"
        fields, values = OUTER[colour.underlay]
        echoes = dissect(file, f"{sent} && (icmp || icmpv6.type == 128)", fields)
        assert len(echoes) == 20
        assert set(echoes) == {(*values, PORTS[colour.encap])}
        assert dissect(file, f"{sent} && ({WRONG})", ("frame.number", "frame.protocols")) == []
        inner = dissect(file, sent, ("frame.protocols",))
        assert all(f":{colour.encap}:eth:" in protocols for (protocols,) in inner)
