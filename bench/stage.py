"""The lab that the CNI figures are taken in: its machines, its segments, both plugins' pods."""

from __future__ import annotations

from dataclasses import dataclass

from bench.news import STATIC
from bench.plugins import REFERENCE, Plugin
from dataplane.core.model import Vni
from dataplane.lab.layout import LabPaths
from dataplane.lab.runtime import SHIM

NODE, PEER = "n1", "n2"
_REFERENCE_NODE = "ref"
CROWD = "crowd"  # the segment of the static node's endpoints
CROWD_VNI = Vni(2023)

TOPOLOGY = f"""\
# The reference's node runs nothing of ours, so that neither plugin's node works for the other.
underlay: {{mtu: 1500}}
nodes: [{{name: {NODE}}}, {{name: {PEER}}}, {{name: {_REFERENCE_NODE}, kind: bare}}]
"""


@dataclass(frozen=True, slots=True)
class Flavour:
    """A segment, named for the addresses that its pods get."""

    title: str
    segment: str
    vni: int
    subnets: tuple[str, ...]

    @property
    def document(self) -> str:
        """Return the intent that makes it."""
        quoted = ", ".join(f"'{subnet}'" for subnet in self.subnets)
        return f"kind: Segment\nname: {self.segment}\nvni: {self.vni}\nsubnets: [{quoted}]\n"


FLAVOURS = (
    Flavour("IPv4", "four", 2021, ("10.21.0.0/20",)),
    Flavour("dual-stack", "dual", 2022, ("10.22.0.0/20", "fd00:22::/64")),
)
INTENT = "---\n".join(
    [
        *(flavour.document for flavour in FLAVOURS),
        Flavour("", CROWD, CROWD_VNI, ("10.23.0.0/20",)).document
        + "static_ranges: [10.23.8.0/21]\n",
        f"kind: Node\nname: {STATIC}\nvteps: [192.0.2.200]\n",
    ]
)


def plugins(paths: LabPaths, pods: int) -> tuple[Plugin, Plugin]:
    """Return ours and the reference, each on its node with ``pods`` pods of its own."""
    ours, theirs = (
        tuple(paths.netns(f"{letter}{number}") for number in range(pods)) for letter in "or"
    )
    return (
        Plugin("overweave-cni", SHIM, paths.netns(NODE), ours),
        Plugin(REFERENCE.name, REFERENCE, paths.netns(_REFERENCE_NODE), theirs),
    )
