"""The boundaries between the pure core, the agent's loop and the adapters."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dataplane.core.agreement import Observed, Question
from dataplane.core.capability import Capability
from dataplane.core.desired import Bindings, Desired, Port
from dataplane.core.diff import Change, Item, Rendering
from dataplane.core.events import AttachRequest, Event
from dataplane.core.model import (
    Attachment,
    AttachmentKey,
    EntryKey,
    IpAddress,
    IpInterface,
    IpNetwork,
    Mac,
    Network,
    Vni,
)
from dataplane.core.path import Outcome, Probe
from dataplane.core.placement import Traffic
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import Obstacle

Post = Callable[[Event], None]
"""Hand an event to the deciding thread; never blocks, callable from any thread."""

Clock = Callable[[], float]
"""Return seconds on a clock that never goes back, as time.monotonic does."""

Timed = Callable[[str, str, float], None]
"""Take note of how many seconds a CNI command's phase took: command, phase, seconds."""


class Target(Protocol):
    """Something we program. ``apply(diff(render(...), observe()))`` makes the next diff empty."""

    @property
    def name(self) -> str:
        """Return the name shown in status."""
        ...

    @property
    def deadline_s(self) -> float:
        """Return after how many seconds a running round is shown as overdue."""
        ...

    @property
    def bound_by(self) -> frozenset[str]:
        """Return the names of the fields of Bindings that ``render`` looks at."""
        ...

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        """Return what should be there. Pure."""
        ...

    def observe(self) -> Mapping[Hashable, Item]:
        """Return what is really there now, ours only. Raises TargetError."""
        ...

    def apply(self, change: Change) -> None:
        """Make ``change``, whole or not at all where the target can. Raises TargetError."""
        ...


class Switch(Target, Protocol):
    """The switch of a DPU, below Open vSwitch and eBPF; it only makes what they do faster.

    ``render`` gives the rows of the entries in ``bindings.placed``, and calls an entry ``Pending``
    (``about`` is its EntryKey, the reason begins with one of core.reasons) that it cannot express.
    ``apply`` raises PartlyRefusedError, by EntryKey, for what the device refused, and keeps the
    device's own words. Rows that are not ours are neither changed nor removed. No call may wait
    longer than ``deadline_s`` for the device.
    """

    def ping(self) -> None:
        """Return if the device answers at all. Raises TargetError: it does not, within 0.7 s."""
        ...

    def describe(self) -> Capability:
        """Ask the device what it can do and how full it is. Raises TargetError: it is down."""
        ...

    def counters(self) -> Mapping[EntryKey, Traffic]:
        """Return what each entry that the device really holds has forwarded. Raises TargetError."""
        ...


class Feed(Protocol):
    """A source of events with its own thread; its first events describe everything that exists."""

    def start(self, post: Post) -> None:
        """Begin to post events."""
        ...

    def stop(self) -> None:
        """End the thread and release its sockets."""
        ...


@dataclass(frozen=True, slots=True)
class PodRoute:
    """A route inside a pod; without ``gateway`` its destinations are on the segment's link."""

    destination: IpNetwork
    gateway: IpAddress | None = None


class PodWiring(Protocol):
    """The pod's end of an attachment: every call may be repeated, and enters the pod's netns."""

    def plumb(self, port: Port, routes: tuple[PodRoute, ...] = ()) -> None:
        """Create the veth pair, ``ifname`` in the netns, with MAC, MTU and addresses, both ends up.

        An address has the prefix length of the segment's subnet it lies in, outside of all /32 or
        /128; then ``routes`` give what an IPAM plugin says, its own on-link prefix too.
        Raises OverweaveError and leaves nothing behind; an interface of that name which is not
        ours is an error.
        """
        ...

    def unplumb(self, attachment: Attachment) -> None:
        """Remove the veth pair; nothing left, or the netns gone, is success."""
        ...

    def check(self, port: Port, routes: tuple[PodRoute, ...] = ()) -> tuple[str, ...]:
        """Return what differs from ``plumb``'s outcome, one sentence each; empty: all is right."""
        ...

    def announce(self, port: Port) -> None:
        """Send gratuitous ARP (RFC 5227) and unsolicited NA (RFC 4861 7.2.6) from the pod.

        Raises OverweaveError.
        """
        ...


class VfPodWiring(PodWiring, Protocol):
    """A PodWiring by VFs, which go when their DPU is reset, and are back on the node later."""

    def returned(self, attachments: Sequence[Attachment]) -> tuple[Attachment, ...]:
        """Return those whose VF is on the node, not in the pod. Raises OverweaveError."""
        ...


@dataclass(frozen=True, slots=True)
class Vf:
    """A virtual function of a DPU, on its host; ``number`` is its place there, from 0.

    ``dpu`` is the name of the socket on which the DPU's agent answers.
    """

    device_id: str
    netdev: str
    serial: str
    number: int
    dpu: str


@dataclass(frozen=True, slots=True)
class Attached:
    """What the DPU's agent made of an attachment: addresses with the prefix length on the link.

    ``routes`` are what else is on the link.
    """

    mac: Mac
    interfaces: tuple[IpInterface, ...]
    routes: tuple[IpNetwork, ...]
    mtu: int
    vni: Vni


class Dpu(Protocol):
    """The agents of the DPUs below this host, asked over their own channel.

    Each call raises AttachRefusedError: with the code the DPU's agent gave, or, where it is not
    reached within ``timeout_s``, with code 11 and its address.
    """

    def attach(self, vf: Vf, request: AttachRequest, timeout_s: float) -> Attached:
        """Attach what is behind ``vf``; asking again returns the same."""
        ...

    def publish(self, vf: Vf, key: AttachmentKey, timeout_s: float) -> bool:
        """Say that the pod's end is there; return whether the fabric has the attachment."""
        ...

    def detach(self, vf: Vf, key: AttachmentKey, timeout_s: float) -> None:
        """Forget the attachment; unknown is success."""
        ...

    def faults(self, vf: Vf, key: AttachmentKey, timeout_s: float) -> tuple[str, ...]:
        """Return what differs on the DPU for this attachment."""
        ...

    def expect_alive(self, address: str, timeout_s: float) -> None:
        """Return if the agent at ``address``, as of Vf.dpu, answers at all."""
        ...

    def held(self, address: str, timeout_s: float) -> frozenset[AttachmentKey] | None:
        """Return what is attached behind its devices; None: it is of a version that says not."""
        ...

    def obstacle(self, address: str, segment: str, timeout_s: float) -> Obstacle | None:
        """Return why the agent at ``address`` would attach nothing to ``segment``; None: it would.

        One that is not reached is an obstacle, too; of one that says nothing at all nobody knows
        whether what is attached still works.
        """
        ...


@dataclass(frozen=True, slots=True)
class Sending:
    """A frame that the VF pod ``key`` is to send; ``mark`` is a part of it that no other has."""

    key: AttachmentKey
    frame: bytes
    mark: bytes


@dataclass(frozen=True, slots=True)
class Witnessed:
    """Which frames with a mark came in at which VF pods, and which pods could not be watched.

    Whether one who could not be watched has sent is not known.
    """

    came: Sequence[tuple[AttachmentKey, bytes]]
    faults: Mapping[AttachmentKey, str]


class Witness(Protocol):
    """A DPU's host: only there can a frame be let in at a VF, or be seen to come out of one."""

    def send(self, sendings: Sequence[Sending], listen_s: float) -> Witnessed:
        """Send all frames, and listen at every VF pod for ``listen_s`` seconds more.

        Raises OverweaveError if nobody answers, and for a frame that is not its pod's own to send.
        """
        ...


class FastPath(Protocol):
    """What the fast path has really done; every call looks. Raises OverweaveError."""

    def traffic(self) -> Mapping[EntryKey, Traffic]:
        """Return what each entry it holds has forwarded."""
        ...

    def counts(self) -> Mapping[int, Mapping[Reason, int]]:
        """Return how many packets it did not take, by ifindex of the receiving netdev and why."""
        ...


class PathCounters(FastPath, Protocol):
    """What the fast path and the switch below have really done."""

    def switched(self) -> Mapping[EntryKey, Traffic] | None:
        """Return what each entry the switch holds has forwarded; None: it does not answer."""
        ...


class ObservedPath(Protocol):
    """One way that packets take through this node."""

    @property
    def name(self) -> str:
        """Return the name shown in a trace."""
        ...

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        """Return what becomes of each frame. Raises OverweaveError if it cannot be asked."""
        ...


class PacketPath(ObservedPath, Protocol):
    """An ObservedPath that can be asked what it would do; nothing is sent."""

    def outcome(self, probe: Probe) -> Outcome:
        """Return what would become of the packet. Raises OverweaveError if it cannot be asked."""
        ...


@dataclass(frozen=True, slots=True)
class PacketPaths:
    """The ways of a node; ``switch`` is that of the DPU it is, where it can be asked.

    ``device`` is the same switch, to be seen at work only: its frames are really sent.
    """

    fast: PacketPath
    ovs: PacketPath
    switch: PacketPath | None = None
    device: ObservedPath | None = None


class NetworkWriter(Protocol):
    """Writes what a tenant may into the fabric database: Segments, Vrfs, Svis.

    Both calls raise InvalidValueError for what must not be among what is there, OverweaveError with
    the database's own words, and FabricUnavailableError where it cannot be asked.
    """

    def write(self, network: Network, seen: Network | None) -> None:
        """Make ``network`` be, instead of the one of its name that was ``seen``, if one was."""
        ...

    def delete(self, kind: str, name: str) -> None:
        """Make a segment, vrf or svi not be, nor what hangs on it.

        Raises InvalidValueError while a segment has endpoints or an svi, or a vrf svis.
        """
        ...


class AttachRefusedError(Exception):
    """An attach that cannot be: ``code`` is CNI's (CNI spec, Error), the text one sentence."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        """Keep the CNI error code beside the sentence."""
        super().__init__(message)
        self.code = code
        self.details = details


class Attachments(Protocol):
    """What the deciding thread offers to CNI; every call blocks its own caller only."""

    def admit(self, request: AttachRequest, timeout_s: float) -> Port:
        """Reserve MAC, addresses and slot, keep them in the local file and begin to program them.

        Raises AttachRefusedError. Asking again for the same key returns the same Port.
        """
        ...

    def cancel(self, key: AttachmentKey) -> None:
        """Give a reservation up, and return once it is; used when a later step of ADD fails."""
        ...

    def wait_programmed(self, key: AttachmentKey, timeout_s: float) -> None:
        """Return once every local Target holds the attachment; else AttachRefusedError.

        And once a DPU's switch holds no rows of what was behind the same port before.
        """
        ...

    def publish(self, key: AttachmentKey, timeout_s: float) -> bool:
        """Say that the pod's end is there: a workload that another node has stays there until then.

        Return True once the fabric row is committed, False if that did not happen in time. Raises
        AttachRefusedError if local Targets do not take the workload over, or if another node has
        it, or claims the same, by then.
        """
        ...

    def detach(self, key: AttachmentKey, timeout_s: float) -> None:
        """Forget the attachment and wait until targets and local file have; unknown: success.

        A DPU's switch that holds rows of the port is waited for, too, but not for long.
        """
        ...

    def find(self, key: AttachmentKey) -> Port | None:
        """Return the port of an attachment as the agent sees it now."""
        ...

    def attachment(self, key: AttachmentKey) -> Attachment | None:
        """Return what this node holds of an attachment, even if it cannot be programmed now."""
        ...

    def keys(self) -> tuple[AttachmentKey, ...]:
        """Return every attachment this node holds (for GC)."""
        ...

    def faults(self, key: AttachmentKey) -> tuple[str, ...]:
        """Observe every target anew and return what differs for this attachment (for CHECK)."""
        ...

    def segment_mtu(self, segment: str) -> int:
        """Return a segment's pod MTU in bytes; AttachRefusedError names an unknown segment."""
        ...

    def knows_segment(self, segment: str) -> bool:
        """Say whether this node has been told of a segment; waits a moment just after the start."""
        ...

    def obstacle(self) -> Obstacle | None:
        """Return why an ADD would fail now, None if it would not (for STATUS)."""
        ...
