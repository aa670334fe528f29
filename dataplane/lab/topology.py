"""Which nodes a lab has and what connects them: a small YAML file, checked whole."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_interface
from pathlib import Path
from typing import Annotated

from pydantic import Field

from dataplane.core.desired import Datapath
from dataplane.core.errors import InvalidValueError
from dataplane.core.model import MIN_IPV6_MTU, IpNetwork, family_of
from dataplane.documents import (
    Fault,
    FaultyFileError,
    Location,
    Network,
    NodeName,
    Strict,
    read_documents,
    validate,
)
from dataplane.lab.layout import RESERVED

# What a user's network has. Larger would hide every mistake in the arithmetic of pod MTUs, and
# pods of 1500 bytes are one line in a file away.
DEFAULT_MTU = 1500
MAX_MTU = 65521  # a tap refuses more, and so do Open vSwitch's internal ports
MAX_NODES = 200
MAX_VFS = 16
MAX_DPU_NAME = 12  # its VFs on the host are called by its name, a letter and two digits
MAX_NAME = 15  # the underlay's end of a node's cable is named for the node (IFNAMSIZ)
# Documentation prefixes: RFC 5737, RFC 3849.
DEFAULT_PREFIXES: tuple[IpNetwork, ...] = (
    IPv4Network("192.0.2.0/24"),
    IPv6Network("2001:db8:0:1::/64"),
)


class Kind(StrEnum):
    """What runs on a node: our agent with its own Open vSwitch, or nothing of ours."""

    AGENT = "agent"
    BARE = "bare"


class _Underlay(Strict):
    mtu: Annotated[int, Field(ge=MIN_IPV6_MTU, le=MAX_MTU)] = DEFAULT_MTU
    prefixes: Annotated[list[Network], Field(min_length=1, max_length=2)] = list(DEFAULT_PREFIXES)


class Vendor(StrEnum):
    """Whose switch is emulated."""

    INTEL = "intel"
    MARVELL = "marvell"
    SENAO = "senao"


class _Dpu(Strict):
    vendor: Annotated[Vendor, Field(strict=False)]
    host: NodeName
    vfs: Annotated[int, Field(ge=1, le=MAX_VFS)] = 4
    tunnels: bool = True
    apart: bool = False


class _Node(Strict):
    name: Annotated[NodeName, Field(max_length=MAX_NAME)]
    kind: Annotated[Kind, Field(strict=False)] = Kind.AGENT
    ebpf: bool = True
    datapath: Annotated[Datapath, Field(strict=False)] = Datapath.USERSPACE
    dpu: _Dpu | None = None


class _File(Strict):
    underlay: _Underlay = _Underlay()
    nodes: Annotated[list[_Node], Field(min_length=1, max_length=MAX_NODES)]


@dataclass(frozen=True, slots=True)
class Dpu:
    """That a node is a DPU: in the node called ``host``, with so many VFs there.

    An SX904 without ``tunnels`` has the published driver: from VF to VF, and it counts nothing.
    One that is ``apart`` is in another cluster than its host: the two have a network and their
    certificates in common, and the host is in no fabric.
    """

    vendor: Vendor
    host: str
    vfs: int
    tunnels: bool = True
    apart: bool = False


@dataclass(frozen=True, slots=True)
class LabNode:
    """A namespace that plays a machine, with the addresses of its eth0 on the underlay.

    Without ``ebpf`` it has no place for pins: a file is where its bpffs would be mounted. The
    kernel's ``datapath`` is one per namespace, and not in every kernel. The eth0 of a ``dpu`` is
    what its switch shows the CPU of the underlay.
    """

    name: str
    kind: Kind
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    ebpf: bool = True
    datapath: Datapath = Datapath.USERSPACE
    dpu: Dpu | None = None


@dataclass(frozen=True, slots=True)
class Topology:
    """The machines of a lab; ``mtu`` in bytes is that of every underlay interface.

    ``text`` is the file it was read from, kept so that it can be written down.
    """

    nodes: tuple[LabNode, ...]
    mtu: int
    text: str

    def node(self, name: str) -> LabNode:
        """Return the node called ``name``. Raises InvalidValueError."""
        found = next((node for node in self.nodes if node.name == name), None)
        if found is None:
            names = ", ".join(node.name for node in self.nodes)
            raise InvalidValueError(f"the lab has no node {name!r}; its nodes are {names}")
        return found

    def leaving(self, after: Topology) -> tuple[LabNode, ...]:
        """Return the nodes that a lab which is up loses when it is to be as ``after``.

        Those that stay must stay as they are. Raises InvalidValueError.
        """
        if self.mtu != after.mtu:
            raise InvalidValueError(f"its underlay has {self.mtu} bytes, not {after.mtu}")
        names = {node.name for node in after.nodes}
        staying = [node for node in self.nodes if node.name in names]
        others = [n.name for n in staying if self._as_it_is(n.name) != after._as_it_is(n.name)]
        if others:
            raise InvalidValueError(
                f"{', '.join(others)} would be another one: each node has its addresses, and each"
                " DPU its bus, by its place in the file; add new ones at the end, and take away"
                " from there"
            )
        return tuple(node for node in self.nodes if node.name not in names)

    def _as_it_is(self, name: str) -> tuple[LabNode, int]:
        """Return all there is of a node: as a DPU it has a number among them, too."""
        node = self.node(name)
        return node, self.dpus.index(node) if node.dpu else -1

    @property
    def agents(self) -> tuple[LabNode, ...]:
        """Return the nodes that our agent runs on."""
        return tuple(node for node in self.nodes if node.kind is Kind.AGENT)

    @property
    def dpus(self) -> tuple[LabNode, ...]:
        """Return the nodes that are DPUs."""
        return tuple(node for node in self.nodes if node.dpu is not None)

    def is_apart(self, node: LabNode) -> bool:
        """Say whether ``node`` is the host, or the DPU, of two that have a network in common."""
        names = (name for d in self.nodes if d.dpu and d.dpu.apart for name in (d.name, d.dpu.host))
        return node.name in names


DEFAULT_TEXT = """\
# Four plain hosts on one underlay of both families.
underlay: {mtu: 1500, prefixes: [192.0.2.0/24, "2001:db8:0:1::/64"]}
nodes: [{name: n1}, {name: n2}, {name: n3}, {name: n4}]
"""


def read_topology(text: str, source: str) -> Topology:
    """Return the topology that a YAML text describes.

    Raises FaultyFileError with every fault; ``source`` names the text in it.
    """
    documents, faults = read_documents(text)
    if len(documents) != 1:
        what = f"a topology is one document, this has {len(documents)}"
        raise FaultyFileError(source, (*faults, Fault(1, "", what)))
    parsed, sentences = validate(_File, documents[0].value)
    if parsed is not None:
        sentences = tuple(_contradictions(parsed))
    told = [Fault(documents[0].line(place), "", words) for place, words in sentences]
    if parsed is None or told or faults:
        raise FaultyFileError(source, (*faults, *told))
    return Topology(tuple(_nodes(parsed)), parsed.underlay.mtu, text)


def load_topology(path: Path) -> Topology:
    """Return the topology in the file at ``path``. Raises InvalidValueError, FaultyFileError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"topology {path} cannot be read: {error}") from error
    return read_topology(text, str(path))


def default_topology() -> Topology:
    """Return four agent nodes n1 to n4 on an underlay of 1500 bytes and both families."""
    return read_topology(DEFAULT_TEXT, "the default topology")


def _nodes(parsed: _File) -> list[LabNode]:
    return [
        LabNode(
            node.name,
            node.kind,
            tuple(
                ip_interface(f"{prefix[number]}/{prefix.prefixlen}")
                for prefix in parsed.underlay.prefixes
            ),
            node.ebpf,
            node.datapath,
            Dpu(**dict(node.dpu)) if node.dpu else None,
        )
        for number, node in enumerate(parsed.nodes, start=1)
    ]


def _contradictions(parsed: _File) -> Iterator[tuple[Location, str]]:
    names = [node.name for node in parsed.nodes]
    for index, name in enumerate(names):
        key: Location = ("nodes", index, "name")
        if name in names[:index]:
            yield key, f"nodes[{index}].name {name!r}: another node is called so"
        if name in RESERVED:
            yield key, f"nodes[{index}].name {name!r}: the lab itself has something of that name"
    yield from _wrong_dpus(parsed)
    prefixes = parsed.underlay.prefixes
    for index, prefix in enumerate(prefixes):
        place: Location = ("underlay", "prefixes", index)
        if family_of(prefix) in map(family_of, prefixes[:index]):
            yield place, f"underlay.prefixes: {prefix} is the second one of its family"
        if prefix.num_addresses < len(names) + 2:
            yield place, f"underlay.prefixes: {prefix} is too small for {len(names)} nodes"


def _wrong_dpus(parsed: _File) -> Iterator[tuple[Location, str]]:
    nodes = {node.name: node for node in parsed.nodes}
    for index, node in enumerate(parsed.nodes):
        if node.dpu is None:
            continue
        key: Location = ("nodes", index, "dpu")
        host = nodes.get(node.dpu.host)
        if host is None or host.kind is Kind.BARE or host.dpu is not None:
            says = f"nodes[{index}].dpu.host {node.dpu.host!r}"
            yield key, f"{says} is no node with an agent that is not itself a DPU"
        if node.kind is Kind.BARE:
            yield key, f"nodes[{index}].dpu: a DPU has an agent, so its kind is not bare"
        if not node.dpu.tunnels and node.dpu.vendor is not Vendor.SENAO:
            what = "only a senao can be without"
            yield ("nodes", index, "dpu", "tunnels"), f"nodes[{index}].dpu.tunnels false: {what}"
        if len(node.name) > MAX_DPU_NAME:
            what = f"a DPU's name has at most {MAX_DPU_NAME} characters"
            yield ("nodes", index, "name"), f"nodes[{index}].name {node.name!r}: {what}"
