"""A VF goes from pod to pod: what its last pod left in the switch serves nobody else."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from dataplane.lab import matrix, probes
from dataplane.lab.probes import Pace, Station
from dataplane.lab.runtime import Pod, Runtime
from dataplane.lab.scene import COLOURS
from tests.system.dpu.conftest import BUSY, DpuScene, until
from tests.system.frames import Ears, raw
from tests.system.spoofs import v4

BLUE, GREEN = COLOURS[:2]
SILENT_S = 2.0


@pytest.fixture
def last(scene: DpuScene) -> Iterator[Station]:
    """Provide a pod of one segment on the spare VF, in the switch."""
    far = scene.segments[BLUE.name][3]
    made = scene.runtime.add(Pod("last", "h1", BLUE.name, device=scene.spare_vf))
    matrix.converge([made, far])
    with probes.flow(made, far.ip(4), BUSY):
        until(lambda: scene.placed(made) and scene.placed(far), what="not placed")
        yield made
    for name in ("last", "next"):
        scene.runtime.delete(name)


@pytest.mark.parametrize(
    "fault", [pytest.param(["slow", "0.5"], id="slow"), pytest.param(["hang"], id="hang")]
)
def test_the_next_pod_on_a_vf_is_in_its_own_segment_alone(
    scene: DpuScene, last: Station, fault: list[str]
) -> None:
    """The switch hears late that the pod is gone, and forwards for it until then."""
    far, home = scene.segments[BLUE.name][3], scene.segments[GREEN.name][3]
    scene.tell(*fault)
    deleted = timed_delete(scene.runtime)
    recovery = threading.Timer(SILENT_S, scene.tell, ["revive"])
    recovery.start()
    began = time.monotonic()
    made = scene.runtime.add(Pod("next", "h1", GREEN.name, device=scene.spare_vf))
    print(f"DEL took {deleted:.1f} s, ADD {time.monotonic() - began:.1f} s")
    assert crossings(made, last, far) == {}
    recovery.join()
    assert scene.row(BLUE, last) is None
    assert probes.ping(made, home.ip(4), Pace(20)).lost == 0


def crossings(made: Station, last: Station, far: Station) -> Counter[str]:
    """Send for a while to the pod that is gone, and in its name; return who heard how much."""
    token = secrets.token_bytes(16)
    there, here = v4(far), v4(last)
    to_last = Ether(src=far.mac, dst=last.mac) / IP(src=there, dst=here) / UDP() / Raw(token)
    from_last = Ether(src=last.mac, dst=far.mac) / IP(src=here, dst=there) / UDP() / Raw(token)
    heard: Counter[str] = Counter()
    with Ears([made, far]) as ears, raw(far) as beyond, raw(made) as behind:
        end = time.monotonic() + 2 * SILENT_S
        while time.monotonic() < end:
            beyond.sendto(bytes(to_last), (far.ifname, 0))
            behind.sendto(bytes(from_last), (made.ifname, 0))
            heard.update(name for name, data in ears.listen(0.05) if token in data)
    return heard


def timed_delete(runtime: Runtime) -> float:
    began = time.monotonic()
    runtime.delete("last")
    return time.monotonic() - began
