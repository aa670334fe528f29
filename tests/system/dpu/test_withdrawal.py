"""A VF goes from pod to pod: what its last pod left in the switch serves nobody else."""

from __future__ import annotations

import pytest

from dataplane.lab.probes import Station
from tests.system.dpu.conftest import DpuScene
from tests.system.dpu.proofs import next_pod_is_alone


@pytest.mark.parametrize(
    "fault", [pytest.param(["slow", "0.5"], id="slow"), pytest.param(["hang"], id="hang")]
)
def test_the_next_pod_on_a_vf_is_in_its_own_segment_alone(
    scene: DpuScene, last: Station, fault: list[str]
) -> None:
    next_pod_is_alone(scene, last, fault)
