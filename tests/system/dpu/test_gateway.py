"""A pod on a VF reaches another segment: its DPU routes, and the switch leaves it to it."""

from __future__ import annotations

from dataplane.lab import probes
from dataplane.lab.probes import Pace
from dataplane.lab.scene import COLOURS
from tests.system.dpu.conftest import DpuScene, differences, pinned, until
from tests.system.gateways import default_routes, reaches, routed

BLUE, GREEN = COLOURS[:2]
SEEN_S = 10.0


def test_vf_pods_of_two_segments_reach_each_other(scene: DpuScene) -> None:
    """All entries are in the switch: what it knows it forwards, what goes to a gateway it does not.

    From beyond the wire routed frames come in by its entries, with the gateway's MAC as source.
    """
    blue, green = (scene.segments[colour.name] for colour in (BLUE, GREEN))
    pairs = [(blue[0], green[3]), (blue[0], green[0]), (blue[1], green[0]), (blue[3], green[0])]
    pods = {
        pod.name: (pod, colour)
        for pair in pairs
        for pod, colour in zip(pair, (BLUE, GREEN), strict=True)
    }
    with (
        pinned(scene, (BLUE, GREEN)),
        routed(scene, (BLUE, GREEN)),
        default_routes(pods.values()),
    ):
        for one, other in pairs:
            for version in (4, 6):
                until(lambda: reaches(one, other, version), SEEN_S)  # noqa: B023
                for source, sink in ((one, other), (other, one)):
                    echo = probes.ping(source, sink.ip(version), Pace(20))
                    assert (echo.lost, echo.duplicates) == (0, 0), (source.name, sink.name)
        before = scene.packets(BLUE, blue[0])
        assert probes.ping(green[3], blue[0].ip(4), Pace(20)).lost == 0
        assert before is not None
        until(lambda: (scene.packets(BLUE, blue[0]) or 0) >= before + 20, SEEN_S)
        assert not list(differences(scene, BLUE))
