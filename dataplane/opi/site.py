"""What the services have of the node they run on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from dataplane.contracts import Attachments, NetworkWriter
from dataplane.core.events import Event
from dataplane.core.model import Node
from dataplane.core.snapshot import Snapshot
from dataplane.core.state import FabricView
from dataplane.opi.bridges import BridgeView, Vlans
from dataplane.opi.channel import Channel
from dataplane.opi.gateways import SviView, VrfView
from dataplane.opi.refusals import Fault, OpiRefusedError
from dataplane.vf_ports import VfPorts


class Deciding(Attachments, Protocol):
    """The deciding thread: what it offers, and what it knows."""

    @property
    def snapshot(self) -> Snapshot:
        """Return the newest picture of all it knows."""
        ...

    def post(self, event: Event) -> None:
        """Hand an event to it."""
        ...

    def wait(self, condition: Callable[[Snapshot], bool], timeout_s: float) -> bool:
        """Wait until ``condition`` holds of the newest picture; return whether it came to that."""
        ...


@dataclass(frozen=True, slots=True)
class Site:
    """A node that is a DPU, a DPU's host, or both.

    ``representors`` are those of the DPU in the order of the VFs' numbers, None on another node,
    ``device`` is what it is called; ``vfs`` are the ids of the VFs here, by the name of their
    device. ``networks`` is None where callers have not the role ``tenant``, ``channel`` where the
    configuration does not name one.
    """

    node: str
    agent: Deciding
    ports: VfPorts
    vlans: Vlans
    representors: tuple[str, ...] | None = None
    vfs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    channel: Channel | None = None
    networks: NetworkWriter | None = None
    device: str = ""

    @property
    def is_dpu(self) -> bool:
        """Say whether the node is a DPU."""
        return self.representors is not None

    @property
    def is_host(self) -> bool:
        """Say whether the node is the host of a DPU."""
        return bool(self.vfs)

    def own_representors(self) -> tuple[str, ...]:
        """Return the representors; OpiRefusedError on a node that is no DPU."""
        if self.representors is None:
            raise OpiRefusedError(
                Fault.WRONG_SIDE,
                f"node {self.node} is no DPU, and bridge ports are behind a DPU's VFs: ask the"
                " agent on the DPU",
            )
        return self.representors

    def bridges(self) -> BridgeView:
        """Return what is known of bridges now; OpiRefusedError if that is not all there are."""
        node, fabric = self._heard("segments")
        return BridgeView(node, fabric.segments, self.vlans)

    def vrfs(self) -> VrfView:
        """Return what is known of Vrfs now; OpiRefusedError as for bridges."""
        node, fabric = self._heard("vrfs")
        return VrfView(node, fabric.vrfs, fabric.segments)

    def svis(self) -> SviView:
        """Return what is known of Svis now; OpiRefusedError as for bridges."""
        node, fabric = self._heard("svis")
        return SviView(node, fabric.svis, fabric.vrfs, fabric.segments)

    def _heard(self, what: str) -> tuple[Node, FabricView]:
        state = self.agent.snapshot.state
        if not state.fabric.base_synced:
            raise OpiRefusedError(
                Fault.AWAY,
                f"node {self.node} has not heard from the fabric database which {what} there are"
                f" ({state.fabric.error or 'it is connected'}); try again",
            )
        return Node(self.node, state.vteps), state.fabric

    def is_device_ready(self, device: str) -> bool:
        """Say whether the half of a DPU that this node is is told to be ready, by its name."""
        told = self.agent.snapshot.state.inventory
        return any(half.ready for half in told if half.name == device)

    def is_healthy(self) -> bool:
        """Say whether every half here is ready, and an attachment, if its Segment is there, can be.

        A DPU is, with its switch and its dataplane.
        """
        halves = (*self.vfs, *filter(None, [self.device]))
        return self.agent.obstacle() is None and all(map(self.is_device_ready, halves))
