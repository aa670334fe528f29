"""A lab with a host, its DPU and a plain host: a pod on a VF, on the host, the DPU and beyond."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from dataplane.api import agent_pb2 as pb
from dataplane.api.agent_pb2 import Entry
from dataplane.api.client import connect
from dataplane.core.capability import Use
from dataplane.core.model import EntryKey, Mac, Vni
from dataplane.lab import dpus, lab, matrix, nodes, probes
from dataplane.lab.layout import LabPaths
from dataplane.lab.probes import Station
from dataplane.lab.runtime import Pod, Runtime
from dataplane.lab.scene import COLOURS, INTENT, Colour, Scene, silent
from dataplane.lab.topology import LabNode, read_topology
from ovs_client.ofctl import CountedFlow, OpenFlowBridge
from vendors.assumed import ASSUMED
from vendors.emulator.control import tell
from vendors.marvell.pipeline import FORWARD

TOPOLOGY = """
nodes:
- {name: h1}
- {name: d1, dpu: {vendor: marvell, host: h1, vfs: 6}}
- {name: n2}
"""
CROWD = 13
_VERIFY_S = 120.0
PLACED_S = 20.0  # an entry is measured for a second or two before it is worth a row
TRIES = 3  # the agent puts right what it finds, about every 30 s
BUSY = 0.02  # seconds between pings: 50 a second are well above the threshold


@dataclass(slots=True)
class DpuScene(Scene):
    """``Scene`` with a switch: what it holds, what the agent says of it, and what is wrong."""

    TABLE: ClassVar[str] = str(FORWARD.number)
    """The table by which it reaches endpoints, as the device calls it."""
    FEW: ClassVar[int] = 8
    """Rows of that table that take some of a crowd, four of it at least, and not all."""
    SPARE: ClassVar[int] = len(COLOURS)
    """The VF that no pod of the lab has."""

    @property
    def dpu(self) -> LabNode:
        return self.topology.node("d1")

    @property
    def spare_vf(self) -> str:
        """Return the device ID of the VF that no pod of the lab has."""
        return dpus.device_id(self.topology, self.dpu, self.SPARE)

    def tell(self, *words: str) -> object:
        """Tell the emulated switch what to do."""
        return tell(dpus.control(self.paths, self.dpu), *words)

    def bridge(self) -> OpenFlowBridge:
        """Return the switch itself, past its OpenFlow channel."""
        return OpenFlowBridge(self.paths.directory / "d1.switch" / "ovs" / "br-mrv0.mgmt")

    def channel(self) -> OpenFlowBridge:
        """Return the switch by its OpenFlow channel, as the agent asks it."""
        return OpenFlowBridge(self.paths.directory / "d1.switch" / "openflow.sock")

    def row(self, colour: Colour, station: Station) -> CountedFlow | None:
        """Return the row of the switch by which it reaches ``station``."""
        for counted in self.bridge().counted_flows(FORWARD.number):
            match = counted.flow.match.split(",")
            if {f"dl_dst={station.mac}", f"reg0={colour.vni:#x}"} <= set(match):
                return counted
        return None

    def packets(self, colour: Colour, station: Station) -> int | None:
        """Return what the row counts by which it reaches ``station``, asked past the driver."""
        row = self.row(colour, station)
        return row.packets if row else None

    @contextmanager
    def withdrawn(self, colour: Colour, station: Station) -> Iterator[None]:
        """Have that row away, past the driver."""
        row = self.row(colour, station)
        assert row is not None
        self.bridge().apply_bundle((), [row.flow])
        yield
        self.bridge().apply_bundle([row.flow], ())

    def rows_taken(self) -> int:
        """Return how many rows its TABLE has."""
        return sum(flow.table == FORWARD.number for flow in self.bridge().dump_flows())

    @property
    def asked(self) -> list[str]:
        """Return the words that name the agents of this lab alone: others may be up."""
        sockets = [self.paths.node(node.name).api_socket for node in self.topology.agents]
        return [word for socket in sockets for word in ("--agent", str(socket))]

    def entry(self, station: Station) -> Entry:
        """Return what the DPU's agent says of an endpoint's entry."""
        found = nodes.entries(self.paths.node("d1"))
        return next(entry for entry in found if entry.mac == station.mac)

    def placed(self, station: Station) -> bool:
        return self.entry(station).placement == "emulated"

    def placed_macs(self) -> set[str]:
        """Return the MACs of all that the DPU's switch does."""
        entries = nodes.entries(self.paths.node("d1"))
        return {entry.mac for entry in entries if entry.placement == "emulated"}

    @property
    def half(self) -> dict[str, Any]:
        """Return what the DPU's agent tells of it."""
        (found,) = json.loads(lab.overweave(self.paths, "get", "dpu", "d1", "-o", "json"))
        assert isinstance(found, dict)
        return found

    def key(self, colour: Colour, station: Station) -> EntryKey:
        return EntryKey(Vni(colour.vni), Mac(station.mac))


def assumed_of_switch(vendor: str) -> set[str]:
    """Return all that is assumed of a vendor's switch: emulated ones are not found by PCI."""
    return {each.name for each in ASSUMED[vendor] if each.use is not Use.DISCOVERY}


def until(condition: Callable[[], bool], timeout_s: float = PLACED_S, what: str = "") -> float:
    """Return after how many seconds ``condition`` held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, what or "not in time"
        time.sleep(0.05)
    return time.monotonic() - began


@contextmanager
def pinned(scene: DpuScene, colours: Sequence[Colour] = COLOURS) -> Iterator[None]:
    """Have every VF pod and everybody it reaches beyond the wire in the switch."""
    ends = [(colour.name, scene.segments[colour.name]) for colour in colours]
    pins = [(name, str(pod.mac)) for name, pods in ends for pod in (pods[0], pods[3], *pods[4:])]
    document = "kind: Pin\nsegment: {}\nendpoint: '{}'\nhardware: always\n"
    lab.apply(scene.paths, "---\n".join(document.format(*pin) for pin in pins))
    wanted = {mac for _, mac in pins}
    until(lambda: wanted <= scene.placed_macs(), what="not placed without traffic")
    yield
    for name, mac in pins:
        lab.overweave(scene.paths, "delete", "pin", f"{name}/{mac}")


def differences(
    scene: DpuScene, colour: Colour, *, send: bool = False
) -> Generator[pb.Difference, None, None]:
    """Yield what ``verify`` finds on the DPU, as the command asks for it, until nobody listens."""
    request = pb.VerifyRequest(packets=20, seed="tests", segment=colour.name, send=send)
    with connect(scene.paths.node("d1").api_socket) as agent:
        heard = agent.Verify(request, timeout=_VERIFY_S)
        try:
            for each in heard:
                yield from each.differences
        finally:
            heard.cancel()


def words(difference: pb.Difference) -> str:
    said = f"{difference.said}, not {difference.truth}"
    return f"{difference.field}: {said}: {difference.question}"


def assert_told(
    scene: DpuScene,
    told: str,
    plant: Callable[[], AbstractContextManager[None]],
    *,
    send: bool = False,
) -> None:
    """See that ``verify`` tells what ``plant`` has planted as what it is, and who decided what."""
    heard: list[str] = []
    how = "sent from the VF of " if send else "injected at "
    for _ in range(TRIES):
        with plant(), closing(differences(scene, COLOURS[0], send=send)) as found:
            for difference in found:
                heard.append(words(difference))
                if told in heard[-1]:
                    print(heard[-1])
                    assert difference.path == "switch"
                    assert difference.rule.startswith(how)
                    assert difference.truths_rule
                    return
    pytest.fail(f"nobody said {told!r}, but {heard}")


@pytest.fixture(scope="session")
def shared() -> Iterator[DpuScene]:
    paths = LabPaths(f"t{os.getpid()}d")
    made = DpuScene(paths, read_topology(TOPOLOGY, "tests"), Runtime(paths))
    try:
        made.up()
        lab.apply(paths, INTENT)
        for number, colour in enumerate(COLOURS):
            device = dpus.device_id(made.topology, made.dpu, number)
            name = colour.name
            pods = [Pod(f"{name}v", "h1", name, device=device)]
            pods += [Pod(f"{name}{node}", node, name) for node in ("h1", "d1", "n2")]
            made.segments[name] = [made.runtime.add(pod) for pod in pods]
        for stations in made.segments.values():
            matrix.converge(stations)
        yield made
    finally:
        lab.down(paths, silent)


@pytest.fixture
def scene(shared: DpuScene) -> Iterator[DpuScene]:
    """The lab with nothing wrong, and left so."""
    yield shared
    shared.tell("clear")
    lab.start_agents(shared.paths, shared.topology.agents)


@pytest.fixture(scope="class")
def placed(shared: DpuScene) -> Iterator[DpuScene]:
    """Provide the lab with every endpoint pinned to the switch."""
    shared.tell("clear")
    with pinned(shared):
        yield shared


@pytest.fixture(params=COLOURS, ids=lambda colour: colour.name)
def colour(request: pytest.FixtureRequest) -> Colour:
    found: Colour = request.param
    return found


@pytest.fixture
def crowd(scene: DpuScene) -> Iterator[list[Station]]:
    """Provide endpoints beyond the wire, more than a table of eight has rows for."""
    with ExitStack() as stack:
        made = []
        for number in range(CROWD):
            pod = Pod(f"crowd{number}", "n2", COLOURS[2].name)
            stack.callback(scene.runtime.delete, pod.name)
            made.append(scene.runtime.add(pod))
        yield made


@pytest.fixture
def last(scene: DpuScene) -> Iterator[Station]:
    """Provide a pod of the first segment on the spare VF, in the switch."""
    blue = COLOURS[0].name
    far = scene.segments[blue][3]
    made = scene.runtime.add(Pod("last", "h1", blue, device=scene.spare_vf))
    matrix.converge([made, far])
    with probes.flow(made, far.ip(4), BUSY):
        until(lambda: scene.placed(made) and scene.placed(far), what="not placed")
        yield made
    for name in ("last", "next"):
        scene.runtime.delete(name)


@dataclass(slots=True)
class Talk:
    """A VF pod and one beyond the wire that talk, so much that the switch does it by now.

    ``gap_s``: for how long frames may be lost at most, where the device itself loses some.
    """

    scene: DpuScene
    colour: Colour
    vf: Station
    far: Station
    gap_s: float = 0.0


@pytest.fixture
def talk(scene: DpuScene) -> Iterator[Talk]:
    blue = COLOURS[0]
    vf, _, _, far = scene.segments[blue.name][:4]
    with talking(Talk(scene, blue, vf, far)) as talk:
        yield talk


@contextmanager
def talking(talk: Talk) -> Iterator[Talk]:
    """Let the two talk until the switch does it, and see in the end what was lost."""
    with probes.flow(talk.vf, talk.far.ip(4), BUSY) as echo:
        until(lambda: all(map(talk.scene.placed, (talk.far, talk.vf))), what="not placed")
        yield talk
        answered = echo.received
        until(lambda: echo.received > answered, what="the last frames are lost")
    said = f"lost {echo.lost} of {echo.sent}, longest gap {echo.longest_gap * 1000:.0f} ms"
    if talk.gap_s:
        print(said)
        assert echo.longest_gap < talk.gap_s, said
    else:
        assert echo.lost == 0, said
    assert echo.duplicates == 0
