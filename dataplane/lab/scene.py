"""A lab with something in it: each encapsulation over each underlay family, pods on every node."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

from dataplane.lab import dpus, lab
from dataplane.lab.layout import LabPaths
from dataplane.lab.probes import Station
from dataplane.lab.runtime import Pod, Runtime
from dataplane.lab.topology import Topology

_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Colour:
    """A segment: its name, its number (of VNI and subnets), encapsulation and underlay family."""

    name: str
    number: int
    encap: str
    underlay: str

    @property
    def vni(self) -> int:
        """Return its VNI."""
        return 1000 + self.number

    @property
    def document(self) -> str:
        """Return the intent that makes it."""
        return (
            f"kind: Segment\nname: {self.name}\nvni: {self.vni}\n"
            f"encap: {self.encap}\nunderlay: {self.underlay}\n"
            f"subnets: [10.{self.number}.0.0/20, 'fd00:{self.number}::/64']\n"
            f"static_ranges: [10.{self.number}.15.0/24, 'fd00:{self.number}::f000/116']\n"
        )

    def static_ips(self, host: int) -> tuple[str, str]:
        """Return two addresses of the static ranges, with the subnets' prefix lengths."""
        return f"10.{self.number}.15.{host}/20", f"fd00:{self.number}::f{host:03x}/64"

    def pods(self, nodes: Sequence[str]) -> list[Pod]:
        """Return a pod on each node and one more on the first: a pair within one node."""
        places = enumerate((*nodes, nodes[0]), start=1)
        return [Pod(f"{self.name}{number}", node, self.name) for number, node in places]


COLOURS = (
    Colour("blue", 1, "geneve", "ipv4"),
    Colour("green", 2, "vxlan", "ipv4"),
    Colour("teal", 3, "geneve", "ipv6"),
    Colour("lime", 4, "vxlan", "ipv6"),
)
INTENT = "---\n".join(colour.document for colour in COLOURS)
# The workload that moves asks for its addresses by name: they are its own, on every node. It starts
# as the pod of this name on the second one.
MOVER = Pod("blue2", "", "blue", "02:00:00:00:00:b2", COLOURS[0].static_ips(2), "blue2")
_SPARE = len(COLOURS)  # the VF of each DPU that no pod has from the start


@dataclass(slots=True)
class Scene:
    """A lab of two nodes and more; ``segments`` holds what is attached."""

    paths: LabPaths
    topology: Topology
    runtime: Runtime
    segments: dict[str, list[Station]] = field(default_factory=dict)

    def up(self) -> None:
        """Bring the lab up, from nothing. Raises LabError."""
        lab.down(self.paths, silent)
        lab.up(self.paths, self.topology, silent)

    def attach(self) -> list[float]:
        """Attach the pods of every segment; return how many seconds each ADD took.

        On a node with a DPU they get a VF each.
        """
        nodes = [node.name for node in self.topology.agents]
        wanted = [
            replace(pod, device=self._device(pod.node, number))
            for number, colour in enumerate(COLOURS)
            for pod in colour.pods(nodes)
        ]
        wanted = [
            replace(MOVER, node=pod.node, device=pod.device) if pod.name == MOVER.name else pod
            for pod in wanted
        ]
        with ThreadPoolExecutor(_AT_ONCE, "add") as pool:
            added = list(pool.map(self._add, wanted))
        for pod, (station, _) in zip(wanted, added, strict=True):
            self.segments.setdefault(pod.segment, []).append(station)
        return [seconds for _, seconds in added]

    def station(self, name: str) -> Station:
        """Return an attached pod."""
        return self.runtime.station(name)

    def move(self, pod: Pod, node: str) -> Station:
        """Attach ``pod`` anew on ``node``, then take the old one away, as a live migration does.

        On a node with a DPU it gets the VF that no other has.
        """
        old = next(s for s in self.segments[pod.segment] if s.name.startswith(pod.name))
        device = self._device(node, _SPARE)
        new = self.runtime.add(replace(pod, name=f"{pod.name}-{node}", node=node, device=device))
        self.runtime.delete(old.name)
        stations = self.segments[pod.segment]
        stations[stations.index(old)] = new
        return new

    def _device(self, node: str, number: int) -> str:
        behind = [dpu for dpu in self.topology.dpus if dpu.dpu and dpu.dpu.host == node]
        return dpus.device_id(self.topology, behind[0], number) if behind else ""

    def _add(self, pod: Pod) -> tuple[Station, float]:
        began = time.monotonic()
        return self.runtime.add(pod), time.monotonic() - began


def silent(_line: str) -> None:
    """Say nothing of a lab's progress."""
