"""What becomes of a packet between two endpoints, and which path would do something else. Pure.

The path of a packet is a row of hops: at the node of who sends it, and at the node of who gets it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from dataplane.core.desired import Desired, Port, PortState, SegmentView
from dataplane.core.functions import Role, next_port
from dataplane.core.model import (
    Encap,
    IpAddress,
    Mac,
    Node,
    Svi,
    UnknownUnicast,
    Vni,
)
from dataplane.core.reasons import Reason


class Action(StrEnum):
    """What is done with a packet."""

    TUNNEL = "tunnel"
    DELIVER = "deliver"
    FLOOD = "flood"
    DROP = "drop"
    HOST = "host"  # left to the host's own stack
    HAND_OVER = "hand over"  # of a switch or the fast path: the next path above decides
    NONE = "none"  # there is no such path here, and none is wanted
    COUNTED = "counted"  # of a real switch: its entry took it, and what became of it is not seen
    UNKNOWN = "unknown"  # it cannot be asked


_PASSES = frozenset({Action.TUNNEL, Action.DELIVER, Action.FLOOD})
_FORWARDS = frozenset({Action.TUNNEL, Action.DELIVER})
UPWARDS = frozenset({Action.HAND_OVER, Action.NONE})
ENDS = frozenset({Action.DROP, Action.HOST})


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The outer headers of a packet: from which VTEP to which, and how."""

    encap: Encap
    vni: Vni
    source: IpAddress
    target: IpAddress
    udp_port: int

    def __str__(self) -> str:
        """Say it in a table."""
        return f"{self.encap} {self.vni} {self.source} > {self.target} port {self.udp_port}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a path does with a packet; ``port`` is the netdev it leaves by.

    ``reason`` says why it goes no faster way, or none; ``detail`` says more. ``passed`` are the
    tables or maps that were asked, ``owner`` is what decided.
    """

    action: Action
    tunnel: Tunnel | None = None
    port: str = ""
    reason: Reason | None = None
    passed: tuple[str, ...] = ()
    owner: str = ""
    detail: str = ""

    @property
    def says(self) -> str:
        """Return where the packet goes, in words."""
        match self.action:
            case Action.TUNNEL:
                return str(self.tunnel)
            case Action.DELIVER:
                return f"deliver to {self.port}"
            case _:
                return str(self.action)

    def __str__(self) -> str:
        """Say where it goes, and why no other way."""
        why = ", ".join(filter(None, (self.reason, self.detail)))
        return f"{self.says} ({why})" if why else self.says

    def does_as(self, other: Outcome) -> bool:
        """Say whether a packet fares the same."""
        if self.action in ENDS:
            return other.action in ENDS
        if self.action is Action.FLOOD:
            return other.action is Action.FLOOD
        return (self.action, self.tunnel, self.port) == (other.action, other.tunnel, other.port)


@dataclass(frozen=True, slots=True)
class End:
    """An endpoint of a trace; ``vtep`` is its node's on the underlay of its segment, if any.

    Where the two are on different segments, ``segment`` names its own, and ``vtep_there`` is its
    node's on the underlay of the other's.
    """

    name: str
    node: str
    mac: Mac
    ip: IpAddress
    vtep: IpAddress | None = None
    segment: str = ""
    vtep_there: IpAddress | None = None


@dataclass(frozen=True, slots=True)
class FromPod:
    """Where a pod's packets come in: with the fast path, and without it; ``vlan`` is their tag."""

    access_port: str
    ovs_port: str
    vlan: int | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """The packet paths are asked about: a pod sends it, or the NIC ``nic`` receives it wrapped.

    ``glued`` gives the AccessPort that an OVS port stands for.
    """

    vni: Vni
    source: End
    target: End
    entry: FromPod | Tunnel
    nic: str
    glued: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Hop:
    """One node's part of the way from ``source`` to ``target``, as it should be.

    Without a ``probe`` the packet cannot even begin there; ``predicted`` says why.
    """

    source: End
    target: End
    predicted: Outcome
    probe: Probe | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Who does otherwise than predicted, and how."""

    owner: str
    what: str


@dataclass(frozen=True, slots=True)
class Live:
    """What the paths of a node say they would do; ``switch``: of the DPU that it is."""

    fast: Outcome
    ovs: Outcome
    switch: Outcome = Outcome(Action.NONE)

    @property
    def decides(self) -> Outcome:
        """Return the outcome of the path that decides: the first that hands nothing over."""
        below = (each for each in (self.switch, self.fast) if each.action not in UPWARDS)
        return next(below, self.ovs)


def hops(desired: Desired, segment: str, ends: tuple[End, End]) -> Iterator[Hop]:
    """Yield this node's hops between ``ends``, both directions; none if neither is here."""
    first, second = ends
    for source, target in ((first, second), (second, first)):
        if desired.node.name not in (source.node, target.node):
            continue
        if source.segment == target.segment:
            yield _hop(desired, source.segment or segment, source, target)
        else:
            yield _routed_hop(desired, source, target)


def compare(predicted: Outcome, live: Live, full: Collection[str] = ()) -> Difference | None:
    """Return the first difference on a packet's way: switch, fast path, Open vSwitch.

    ``full`` are the owners that had no room for all: what they lack is no fault. A switch may
    always hand over.
    """
    if live.switch.action not in UPWARDS and not predicted.does_as(live.switch):
        return Difference(live.switch.owner, _otherwise(live.switch, predicted))
    if not _fast_agrees(predicted, live.fast, full):
        return Difference(live.fast.owner, _otherwise(live.fast, predicted))
    if not predicted.does_as(live.ovs):
        return Difference(live.ovs.owner, _otherwise(live.ovs, predicted))
    return None


def arrives(predicted: Outcome, live: Live) -> bool:
    """Say whether the packet goes where it should; that it should go nowhere is no arrival."""
    return predicted.action in _PASSES and predicted.does_as(live.decides)


def why_ovs(predicted: Outcome, live: Live, full: Collection[str] = ()) -> Reason | None:
    """Return why the packet goes by Open vSwitch; None: it does not, or no reason is known."""
    if live.decides is not live.ovs:
        return None
    return predicted.reason or (Reason.TABLE_FULL if live.fast.owner in full else live.fast.reason)


def _fast_agrees(predicted: Outcome, fast: Outcome, full: Collection[str]) -> bool:
    match fast.action:
        case Action.NONE:
            return True
        case Action.HAND_OVER:
            is_meant = predicted.reason is not None or predicted.action not in _PASSES
            return is_meant or fast.owner in full
        case _:
            forbidden = predicted.reason in (Reason.POLICY_OFF, Reason.NETWORK_FUNCTION)
            return not forbidden and predicted.does_as(fast)


def _otherwise(live: Outcome, predicted: Outcome) -> str:
    return f"{live}, not {predicted}"


# --- what should be ----------------------------------------------------------------------------


def _hop(desired: Desired, segment: str, source: End, target: End) -> Hop:
    view = desired.segments.get(segment)
    if view is None:
        return Hop(source, target, _nowhere(Reason.UNKNOWN_SEGMENT, f"no segment {segment} here"))
    is_sender = source.node == desired.node.name
    way = _from_pod if is_sender else _from_wire
    return way(desired, view, source, target)


def _routed_hop(desired: Desired, source: End, target: End) -> Hop:
    """Return a hop of a packet that the sender's node routes into the target's segment."""
    here = source.segment if source.node == desired.node.name else target.segment
    view = desired.segments.get(here)
    if view is None:
        return Hop(source, target, _nowhere(Reason.UNKNOWN_SEGMENT, f"no segment {here} here"))
    if view.gateway is None:
        return Hop(source, target, _nowhere(Reason.NO_ENTRY, f"segment {here} has no gateway"))
    if source.node == desired.node.name:
        hop = _from_pod(desired, view, source, replace(target, mac=view.gateway.mac))
        sender = _role(view, source.mac)
        is_lost = hop.probe is None or hop.predicted.reason is not Reason.NO_ENTRY
        if is_lost or sender is Role.INPUT:
            return replace(hop, target=target)  # it ends before the gateway
        if sender is Role.STEERED:
            return replace(hop, target=target, predicted=_into(view, Role.INPUT))
        return replace(hop, target=target, predicted=_routed(desired, view.gateway, target))
    routed = replace(source, mac=view.gateway.mac, vtep=source.vtep_there)
    return replace(_from_wire(desired, view, routed, target), source=source)


def _routed(desired: Desired, gateway: Svi, target: End) -> Outcome:
    """Say where a packet that ``gateway`` is given goes; Open vSwitch alone routes."""
    into = {view.segment.name: view for view in desired.of_vrf(gateway)}.get(target.segment)
    if into is None or into.gateway is None:
        why = f"segment {target.segment} is not in vrf {gateway.vrf}"
        return _nowhere(Reason.NO_ENTRY, why)
    if not into.gateway.covers(target.ip):
        return _nowhere(Reason.NO_ENTRY, f"{target.ip} is in no subnet of svi {into.gateway.name}")
    sent = _sent(desired, into, target)
    if sent.action not in _FORWARDS:
        return sent
    return _steered(into, Role.PLAIN, target, replace(sent, reason=Reason.ROUTED))


def _from_pod(desired: Desired, view: SegmentView, source: End, target: End) -> Hop:
    port = _port(view, source.mac)
    if port is None:
        return Hop(source, target, _nowhere(Reason.NO_ENTRY, f"no port with {source.mac} here"))
    attachment = port.attachment
    entry = FromPod(attachment.access_port, attachment.ovs_port, attachment.vlan)
    if port.state is PortState.BLOCKED:
        predicted = Outcome(Action.DROP, reason=port.reason)
    else:
        sent = _by_tag(port, _sent(desired, view, target))
        predicted = _steered(view, port.role, target, sent)
    return Hop(source, target, predicted, _probe(desired, view, (source, target), entry))


def _sent(desired: Desired, view: SegmentView, target: End) -> Outcome:
    """Say where a frame from a port of ``view`` goes."""
    port = _port(view, target.mac)
    remote = next((each for each in view.remotes if each.endpoint.mac == target.mac), None)
    if port is not None and port.state is PortState.ACTIVE:
        return _delivered(desired, port)
    if remote is None:
        return _unknown(view, port)
    local = _own_vtep(desired, view)
    if local is None:
        return _nowhere(Reason.NO_VTEP, f"no {view.segment.underlay} address here")
    tunnel = _tunnel(desired, view, local, remote.vtep)
    nic = desired.node.underlay_interface
    return _by_policy(desired, Outcome(Action.TUNNEL, tunnel, nic))


def _from_wire(desired: Desired, view: SegmentView, source: End, target: End) -> Hop:
    local = _own_vtep(desired, view)
    if local is None or source.vtep is None:
        lacking = desired.node.name if local is None else source.node
        no_address = f"{lacking} has no {view.segment.underlay} address"
        return Hop(source, target, _nowhere(Reason.NO_VTEP, no_address))
    tunnel = _tunnel(desired, view, source.vtep, local)
    straight = _received(desired, view, source.vtep, target)
    predicted = _steered(view, Role.PLAIN, target, straight)
    return Hop(source, target, predicted, _probe(desired, view, (source, target), tunnel))


def _received(desired: Desired, view: SegmentView, vtep: IpAddress, target: End) -> Outcome:
    """Say where a frame from ``vtep`` goes; never into another tunnel."""
    port = _port(view, target.mac)
    if vtep not in view.members:
        return _nowhere(Reason.UNKNOWN_VTEP, f"nobody of {view.segment.name} is behind {vtep}")
    if port is None or port.state is PortState.BLOCKED:
        return _unknown(view, port)
    return _delivered(desired, port)


def _delivered(desired: Desired, port: Port) -> Outcome:
    outcome = Outcome(Action.DELIVER, port=port.attachment.access_port)
    return _by_policy(desired, _by_tag(port, outcome))


def _by_tag(port: Port, outcome: Outcome) -> Outcome:
    """Say that ``outcome`` is Open vSwitch's work at a trunk port: it alone knows of tags."""
    if port.attachment.vlan is None or outcome.reason is not None:
        return outcome
    return replace(outcome, reason=Reason.UNSUPPORTED_MATCH)


def _steered(view: SegmentView, sender: Role, target: End, straight: Outcome) -> Outcome:
    """Return what becomes of a packet that would go ``straight`` without a network function."""
    role = _role(view, target.mac)
    concerned = {sender, role} != {Role.PLAIN}
    if straight.action not in _FORWARDS or not concerned:
        return straight
    first = next_port(sender, role)
    if first is role:
        return replace(straight, reason=Reason.NETWORK_FUNCTION)
    return _into(view, first)


def _into(view: SegmentView, role: Role | None) -> Outcome:
    """Return what becomes of a packet that goes into the port of a function, if it is there."""
    to = next((each for each in view.ports if each.role is role), None)
    if to is None:
        return Outcome(Action.DROP, reason=Reason.NETWORK_FUNCTION)
    through = to.attachment.access_port
    return Outcome(Action.DELIVER, port=through, reason=Reason.NETWORK_FUNCTION, detail=to.detail)


def _unknown(view: SegmentView, port: Port | None) -> Outcome:
    """Say what becomes of a frame to a MAC that nobody reachable has; ``port``: who is blocked."""
    if view.segment.unknown_unicast is UnknownUnicast.FLOOD:
        return Outcome(Action.FLOOD, reason=Reason.NO_ENTRY)
    return Outcome(Action.DROP, reason=port.reason if port else Reason.NO_ENTRY)


def _nowhere(reason: Reason, detail: str) -> Outcome:
    return Outcome(Action.DROP, reason=reason, detail=detail)


def _by_policy(desired: Desired, outcome: Outcome) -> Outcome:
    """Say that ``outcome`` is Open vSwitch's work where the fast path is switched off."""
    if desired.node.fastpath:
        return outcome
    return Outcome(outcome.action, outcome.tunnel, outcome.port, Reason.POLICY_OFF)


def _port(view: SegmentView, mac: Mac) -> Port | None:
    return next((port for port in view.ports if port.attachment.mac == mac), None)


def _role(view: SegmentView, mac: Mac) -> Role:
    port = _port(view, mac)
    return port.role if port is not None else Role.PLAIN


def _own_vtep(desired: Desired, view: SegmentView) -> IpAddress | None:
    return Node(desired.node.name, desired.vteps).vtep(view.segment.underlay)


def _tunnel(desired: Desired, view: SegmentView, source: IpAddress, target: IpAddress) -> Tunnel:
    segment = view.segment
    return Tunnel(segment.encap, segment.vni, source, target, desired.fabric.port(segment.encap))


def _probe(
    desired: Desired, view: SegmentView, ends: tuple[End, End], entry: FromPod | Tunnel
) -> Probe:
    glued = {port.attachment.ovs_port: port.attachment.access_port for port in desired.ports}
    return Probe(view.segment.vni, *ends, entry, desired.node.underlay_interface, glued)
