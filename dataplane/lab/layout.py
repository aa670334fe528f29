"""Where the things of a lab are and what they are called. Pure.

Everything a lab makes is in a namespace named ``ow-LAB-...`` or below its directory, so that both
can be found again whatever happened to the process that made them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from dataplane.core.errors import InvalidValueError

LABS = Path("/run/overweave/labs")
NAMESPACES = Path("/run/netns")
DEFAULT_NAME = "lab"
UNDERLAY = "underlay"
FABRIC = "fabric"
PODS = "pods"
FOREIGN = "foreign"
PKI = "pki"
RESERVED = frozenset({UNDERLAY, FABRIC, PODS, FOREIGN, PKI})  # no node can be called so
# No dash: the namespaces of lab "a" would include those of lab "a-b".
_LAB = re.compile(r"[a-z0-9]{1,12}")
_MEMBER = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class NodePaths:
    """The directories and files of one node."""

    directory: Path
    netns: Path

    @property
    def ovs(self) -> Path:
        """Return the run directory of the node's Open vSwitch: database, sockets, pid files."""
        return self.directory / "ovs"

    @property
    def state(self) -> Path:
        """Return where the agent keeps what outlives it."""
        return self.directory / "state"

    @property
    def run(self) -> Path:
        """Return where the agent's sockets are."""
        return self.directory / "run"

    @property
    def logs(self) -> Path:
        """Return where the node's processes log."""
        return self.directory / "log"

    @property
    def log(self) -> Path:
        """Return the agent's log."""
        return self.logs / "agent.log"

    @property
    def bpf(self) -> Path:
        """Return the mount point of the node's own bpffs."""
        return self.directory / "bpf"

    @property
    def config(self) -> Path:
        """Return the agent's configuration file."""
        return self.directory / "agent.yaml"

    @property
    def cni_socket(self) -> Path:
        """Return the socket that overweave-cni talks to."""
        return self.run / "cni.sock"

    @property
    def attachment_socket(self) -> Path:
        """Return the socket that the host of this DPU talks to."""
        return self.run / "attachment.sock"

    @property
    def api_socket(self) -> Path:
        """Return the socket that the CLI talks to."""
        return self.run / "api.sock"


@dataclass(frozen=True, slots=True)
class LabPaths:
    """The names of one lab. Raises InvalidValueError if it cannot be called ``name``."""

    name: str

    def __post_init__(self) -> None:
        """Check the name: it becomes part of the names of namespaces and directories."""
        if not _LAB.fullmatch(self.name):
            raise InvalidValueError(f"lab {self.name!r} is not 1-12 lower-case letters or digits")

    @property
    def directory(self) -> Path:
        """Return the directory that holds everything of this lab."""
        return LABS / self.name

    @property
    def topology(self) -> Path:
        """Return the file that says what this lab is to be; written before anything is made."""
        return self.directory / "topology.yaml"

    @property
    def fabric(self) -> Path:
        """Return the directory of the fabric database."""
        return self.directory / FABRIC

    @property
    def pods(self) -> Path:
        """Return where the lab, as a container runtime, remembers its pods."""
        return self.directory / PODS

    @property
    def pki(self) -> Path:
        """Return the directory of the authority, where host and DPU talk over a network."""
        return self.directory / PKI

    @property
    def prefix(self) -> str:
        """Return what the names of all namespaces of this lab begin with."""
        return f"ow-{self.name}-"

    def netns(self, member: str) -> Path:
        """Return the namespace of a node, of a pod, or of the underlay's bridge."""
        if not _MEMBER.fullmatch(member):
            raise InvalidValueError(
                f"{member!r} is not 1-63 lower-case letters, digits, '-' or '.'"
                " that begin and end with a letter or digit"
            )
        return NAMESPACES / f"{self.prefix}{member}"

    def node(self, name: str) -> NodePaths:
        """Return the paths of node ``name``."""
        return NodePaths(self.directory / name, self.netns(name))
