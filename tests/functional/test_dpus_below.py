"""Which DPUs a host serves may change while it runs: threads and words of each, and no others'."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.api.channels import Channels
from dataplane.core.events import Event, HalfHeard
from dataplane.device_config import DeviceConfig
from dataplane.dpus_below import DpusBelow
from ovs_client.process import wait_until

SOON_S = 5.0


def dpu(number: int, socket: str = "") -> DeviceConfig:
    return DeviceConfig.model_validate(
        {
            "serial": str(number),
            "vendor": "intel",
            "side": "host",
            "attachment": f"unix:/none/{socket or number}",
            "vfs": [{"device_id": f"0000:0{number}:00.2", "netdev": f"v{number}"}],
        }
    )


class World:
    """A host, who heard what of which DPU, and the threads that ask and lend."""

    def __init__(self, directory: Path) -> None:
        self._before = set(threading.enumerate())
        self.heard: list[str] = []
        self.below = DpusBelow(directory, lambda _: Channels(), self._post)

    def _post(self, event: Event) -> None:
        assert isinstance(event, HalfHeard)
        self.heard.append(event.device)

    def threads(self, *names: str) -> set[threading.Thread]:
        started = set(threading.enumerate()) - self._before
        return {each for each in started if each.name in (names or ("dpu-health", "witness"))}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.below.stop()
    assert made.threads("front", "dpu-health", "witness") == set()


def test_one_is_added_and_one_is_taken_out(world: World) -> None:
    world.below.start([])
    assert (world.threads(), world.below.front.has_vfs) == (set(), False)
    world.below.serve([dpu(1)])
    first = world.threads()
    assert sorted(each.name for each in first) == ["dpu-health", "witness"]
    world.below.serve([dpu(1), dpu(2)])
    both = world.threads()
    assert first < both
    assert len(both) == 4
    assert wait_until(lambda: {*world.heard} == {"1-host", "2-host"}, SOON_S)
    world.below.serve([dpu(2)])
    assert world.threads() == both - first
    assert world.below.front.vf("0000:02:00.2").netdev == "v2"


@pytest.mark.parametrize(
    ("after", "kept"),
    [
        pytest.param([dpu(1)], ["dpu-health", "witness"], id="the same"),
        pytest.param([dpu(1, "other")], [], id="its agent is elsewhere"),
        pytest.param([dpu(2, "1")], ["witness"], id="another behind the same agent"),
    ],
)
def test_what_serves_one_goes_on_if_it_serves_the_next(
    world: World, after: list[DeviceConfig], kept: list[str]
) -> None:
    world.below.start([dpu(1)])
    before = world.threads()
    world.below.serve(after)
    assert sorted(each.name for each in before & world.threads()) == kept
    assert len(world.threads()) == 2
