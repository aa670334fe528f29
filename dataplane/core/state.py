"""What the agent knows: ``fold`` takes in one event and returns the next state. Pure."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

from dataplane.core.desired import Bindings, LocalNode
from dataplane.core.discovered import Discovered
from dataplane.core.events import (
    AddressesLearned,
    AttachCancelled,
    AttachmentsLoaded,
    AttachRequest,
    Detached,
    DevicesConfigured,
    DevicesFound,
    DevicesTold,
    FabricChanged,
    FabricConnection,
    FabricSynced,
    FunctionCreated,
    FunctionDeleted,
    HalfHeard,
    Link,
    LinksChanged,
    NextHopsChanged,
    OfportChanged,
    PathProbed,
    PodConnected,
    StateEvent,
    SwitchSeen,
    TakenOver,
    TrafficMeasured,
)
from dataplane.core.functions import FunctionPort, NetworkFunction
from dataplane.core.model import (
    Address,
    Attachment,
    AttachmentKey,
    Block,
    Device,
    Endpoint,
    EntryKey,
    Fabric,
    FabricEntity,
    Grant,
    IpAddress,
    Network,
    Node,
    Pin,
    Segment,
    Svi,
    Vrf,
)
from dataplane.core.offload import PROMOTE_AT, SwitchView

# Of a measurement a second: half of a rate is forgotten in two, or, where nobody counts, in 120.
_NEWEST_WEIGHS = 0.3
_KEPT_UNCOUNTED = 0.5 ** (1 / 120)

_Entity = TypeVar("_Entity", bound=FabricEntity)
_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")
_Shelf = tuple[type[FabricEntity], str]
_Rows = Mapping[_Shelf, Mapping[Hashable, FabricEntity]]


@dataclass(frozen=True, slots=True)
class FabricView:
    """The rows of the fabric database this node has been shown, by kind and segment.

    ``cached`` entities come from the local files of an earlier run; they stand in until the
    database has told the truth about them, and are forgotten then.
    """

    rows: _Rows = field(default_factory=dict)
    cached: tuple[FabricEntity, ...] = ()
    connected: bool = False
    error: str = "not connected yet"
    base_synced: bool = False
    synced: frozenset[str] = frozenset()

    @property
    def fabric(self) -> Fabric:
        """Return the fabric-wide settings; the defaults until the database or a file told them."""
        return [*self._all(Fabric), *self._cached(Fabric), Fabric()][0]

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Return the nodes by name."""
        return {node.name: node for node in self._all(Node)}

    @property
    def is_told(self) -> bool:
        """Say whether the fabric's settings are known, from the database or an earlier run."""
        return self.base_synced or bool(self.cached)

    def is_current(self, segment: str) -> bool:
        """Say whether the rows of a segment are complete and follow the database."""
        return self.connected and segment in self.synced

    @property
    def segments(self) -> Mapping[str, Segment]:
        """Return the segments by name."""
        known = (*self._cached(Segment), *self._all(Segment))
        return {segment.name: segment for segment in known}

    def segment(self, name: str) -> Segment | None:
        """Return a segment by name."""
        known = self.rows.get((Segment, ""), {}).get(name)
        if isinstance(known, Segment):
            return known
        return next((each for each in self._cached(Segment) if each.name == name), None)

    @property
    def vrfs(self) -> Mapping[str, Vrf]:
        """Return the Vrfs by name."""
        return {vrf.name: vrf for vrf in (*self._cached(Vrf), *self._all(Vrf))}

    @property
    def svis(self) -> Mapping[str, Svi]:
        """Return the Svis by name."""
        return {svi.name: svi for svi in (*self._cached(Svi), *self._all(Svi))}

    def network(self, kind: type[Network], name: str) -> Network | None:
        """Return what of a kind has a name."""
        known: Mapping[type[Network], Mapping[str, Network]] = {
            Segment: self.segments,
            Vrf: self.vrfs,
            Svi: self.svis,
        }
        return known[kind].get(name)

    def gateway(self, segment: str) -> Svi | None:
        """Return the gateway of a segment, if it has one."""
        return next((svi for svi in self.svis.values() if svi.segment == segment), None)

    def routed(self, segments: Collection[str]) -> frozenset[str]:
        """Return the names of the segments that share a Vrf with one of ``segments``."""
        svis = self.svis.values()
        vrfs = {svi.vrf for svi in svis if svi.segment in segments}
        return frozenset(svi.segment for svi in svis if svi.vrf in vrfs)

    def endpoints(self, segment: str) -> Collection[Endpoint]:
        """Return the endpoint rows of a segment."""
        return self._all(Endpoint, segment)

    def blocks(self, segment: str) -> Collection[Block]:
        """Return the blocks of a segment, from the cache only while it is not synced."""
        if segment in self.synced:
            return self._all(Block, segment)
        return [block for block in self._cached(Block) if block.segment == segment]

    def addresses(self, segment: str) -> Collection[Address]:
        """Return the static-range bindings of a segment."""
        return self._all(Address, segment)

    def grants(self, segment: str) -> Collection[Grant]:
        """Return the grants of a segment."""
        return self._all(Grant, segment)

    def pins(self, segment: str) -> tuple[Pin, ...]:
        """Return the pins of a segment, from the cache only while it is not synced."""
        known = self._all(Pin, segment) if segment in self.synced else self._cached(Pin)
        ours = (pin for pin in known if pin.segment == segment)
        return tuple(sorted(ours, key=lambda pin: pin.endpoint))

    def _all(self, kind: type[_Entity], segment: str = "") -> Collection[_Entity]:
        rows = cast("Mapping[Hashable, Mapping[Hashable, _Entity]]", self.rows)
        return rows.get((kind, segment), {}).values()

    def _cached(self, kind: type[_Entity]) -> list[_Entity]:
        return [entity for entity in self.cached if isinstance(entity, kind)]


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request cannot be served: CNI's error code and one clear sentence."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class State:
    """Everything the deciding thread knows; ``refusals`` are answers to requests just refused.

    ``nic`` is the underlay NIC as it was last seen: what is programmed outlives its absence.
    ``watched`` are the segments whose rows are asked for, each with the number of the time it was
    asked for (``asked`` is the newest). ``last_slot`` is the slot given to the newest attachment.
    ``claims`` are the Blocks wanted, each with the generation of the desired state since which it
    is; ``published`` is a generation that the database is known to hold. ``heard`` is, by device,
    what is known of its other half, ``inventory`` what is told of the devices, empty: nothing yet,
    ``discovered`` which halves the machine itself tells of, ``lost`` why probes do not come
    through, by path of a DPU, ``learned`` what is claimed by ARP and ND, by OVS port. Attachments
    that may take a workload from another node are ``withheld`` from the database until their pod is
    connected and all here serves them: till then the workload stays where it is. ``functions``
    are the network functions, the oldest first, ``down`` the netdevs that take no frames.
    """

    node: LocalNode
    fabric: FabricView = field(default_factory=FabricView)
    bindings: Bindings = field(default_factory=Bindings)
    attachments: Mapping[AttachmentKey, Attachment] = field(default_factory=dict)
    requests: Mapping[AttachmentKey, AttachRequest] = field(default_factory=dict)
    refusals: Mapping[AttachmentKey, Refusal] = field(default_factory=dict)
    withheld: frozenset[AttachmentKey] = frozenset()
    nic: Link | None = None
    watched: Mapping[str, int] = field(default_factory=dict)
    asked: int = 0
    last_slot: int = -1
    claims: Mapping[Block, int] = field(default_factory=dict)
    published: int = 0
    switch: SwitchView = field(default_factory=SwitchView)
    heard: Mapping[str, HalfHeard] = field(default_factory=dict)
    inventory: tuple[Device, ...] = ()
    discovered: Discovered = field(default_factory=Discovered)
    lost: Mapping[str, str] = field(default_factory=dict)
    learned: Mapping[str, tuple[IpAddress, ...]] = field(default_factory=dict)
    functions: tuple[NetworkFunction, ...] = ()
    down: frozenset[str] = frozenset()

    @property
    def underlay(self) -> Link | None:
        """Return the underlay NIC, if the kernel has it."""
        return self.bindings.nic

    @property
    def vteps(self) -> tuple[IpAddress, ...]:
        """Return this node's VTEP addresses: those configured, else the NIC's first per family."""
        if self.node.vteps or self.nic is None:
            return self.node.vteps
        usable = [address for address in self.nic.addresses if not address.is_link_local]
        first = {address.version: address for address in reversed(usable)}
        return tuple(first[version] for version in sorted(first))

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Return every node by name, this one as it really is now."""
        return {**self.fabric.nodes, self.node.name: Node(self.node.name, self.vteps)}

    @property
    def present(self) -> frozenset[str]:
        """Return the names of the segments with an attachment here."""
        return frozenset(attachment.segment for attachment in self.attachments.values())

    @property
    def interest(self) -> frozenset[str]:
        """Return the names of the segments whose rows this node must see."""
        here = self.present
        asked = {request.segment for request in self.requests.values()}
        return here | asked | self.fabric.routed(here)

    def is_decided_as(self, before: State) -> bool:
        """Say whether only numbers came or went since ``before``: no decision rests on them.

        What the switch says decides what is placed in it; who is heard, and what probes find,
        decides nothing: what is told of it comes with the inventory.
        """
        told = replace(
            self,
            bindings=before.bindings,
            switch=before.switch,
            heard=before.heard,
            lost=before.lost,
            down=before.down,
        )
        same = (self.underlay, self.carrying) == (before.underlay, before.carrying)
        return same and all(getattr(told, name) is getattr(before, name) for name in self.__slots__)

    @property
    def carrying(self) -> frozenset[str]:
        """Return which netdevs of network functions take frames."""
        ends = {port for function in self.functions for port in function.ports}
        if not ends:
            return frozenset()
        netdevs = {
            a.access_port
            for a in self.attachments.values()
            if FunctionPort(a.mac, a.identity) in ends
        }
        return frozenset(netdevs & self.bindings.ifindexes.keys() - self.down)

    def knows(self, key: AttachmentKey) -> bool:
        """Say whether there is an attachment, a request or an answer of that name."""
        return any(key in each for each in (self.attachments, self.requests, self.refusals))

    def local(self, segment: str) -> list[Attachment]:
        """Return this node's attachments on a segment."""
        return [
            attachment for attachment in self.attachments.values() if attachment.segment == segment
        ]


def claim(state: State, blocks: Iterable[Block], generation: int) -> State:
    """Return ``state`` with ``blocks`` as those that are wanted in ``generation``."""
    claims = {block: state.claims.get(block, generation) for block in blocks}
    return state if claims == state.claims else replace(state, claims=claims)


def confirm(state: State, generation: int) -> State:
    """Return ``state`` knowing that the database holds what was wanted in ``generation``."""
    is_news = any(state.published < since <= generation for since in state.claims.values())
    return replace(state, published=generation) if is_news else state


def fold(state: State, event: StateEvent) -> State:  # noqa: PLR0911  # one for each kind of event
    """Return the state after ``event``; decisions are left to ``settle`` and ``derive``."""
    match event:
        case (
            LinksChanged() | NextHopsChanged() | OfportChanged() | SwitchSeen() | TrafficMeasured()
        ):
            return _fold_numbers(state, event)
        case (
            HalfHeard()
            | PathProbed()
            | DevicesConfigured()
            | DevicesTold()
            | DevicesFound()
            | AddressesLearned()
        ):
            return _fold_told(state, event)
        case FunctionCreated() | FunctionDeleted():
            return replace(state, functions=_fold_functions(state, event))
        case FabricSynced(segment=str(name), watch=number) if state.watched.get(name) != number:
            return state  # a late word on a segment that was given up meanwhile
        case FabricChanged() | FabricConnection() | FabricSynced():
            return replace(state, fabric=_fold_fabric(state.fabric, event))
        case AttachRequest() | PodConnected() | TakenOver() | AttachCancelled() | Detached():
            return _fold_attachment(state, event)
        case AttachmentsLoaded(attachments=attachments, entities=entities, functions=functions):
            return replace(
                state,
                attachments={attachment.key: attachment for attachment in attachments},
                withheld=frozenset(each.key for each in attachments if not each.connected),
                fabric=replace(state.fabric, cached=entities),
                functions=functions,
            )


def _fold_told(
    state: State,
    event: HalfHeard
    | PathProbed
    | DevicesConfigured
    | DevicesTold
    | DevicesFound
    | AddressesLearned,
) -> State:
    if isinstance(event, DevicesConfigured):
        return _with_devices(state, event.devices)
    if isinstance(event, PathProbed):
        lost = {event.path: event.error} if event.error else {}
        return replace(state, lost={**_without(state.lost, event.path), **lost})
    if isinstance(event, AddressesLearned):
        return replace(state, learned=event.addresses)
    if isinstance(event, DevicesFound):
        return replace(state, discovered=state.discovered.now(event.found, state.node.devices))
    if isinstance(event, DevicesTold):
        return replace(state, inventory=event.devices)
    return replace(state, heard={**state.heard, event.device: event})


def _with_devices(state: State, devices: tuple[Device, ...]) -> State:
    """Return it with ``devices`` alone: of one that is none of them nothing is known any more."""
    names = {device.name for device in devices}
    return replace(
        state,
        node=replace(state.node, devices=devices),
        discovered=state.discovered.now(state.discovered.found, devices),
        heard={name: heard for name, heard in state.heard.items() if name in names},
        inventory=tuple(device for device in state.inventory if device.name in names),
    )


def _fold_numbers(
    state: State,
    event: LinksChanged | NextHopsChanged | OfportChanged | SwitchSeen | TrafficMeasured,
) -> State:
    if isinstance(event, LinksChanged):
        return _fold_links(state, event)
    if isinstance(event, NextHopsChanged | OfportChanged):
        return replace(state, bindings=_fold_bindings(state.bindings, event))
    return replace(state, switch=_fold_switch(state.switch, event))


def _fold_bindings(bindings: Bindings, event: NextHopsChanged | OfportChanged) -> Bindings:
    if isinstance(event, NextHopsChanged):
        told = {**bindings.next_hops, **event.macs}
        known = {vtep: mac for vtep, mac in told.items() if mac is not None}
        return replace(bindings, next_hops=known)
    ofports = _without(bindings.ofports, event.interface)
    faults = _without(bindings.port_faults, event.interface)
    if event.ofport is not None:
        ofports = {**ofports, event.interface: event.ofport}
    if event.error:
        faults = {**faults, event.interface: event.error}
    return replace(bindings, ofports=ofports, port_faults=faults)


def _fold_switch(view: SwitchView, event: SwitchSeen | TrafficMeasured) -> SwitchView:
    if isinstance(event, SwitchSeen):
        return replace(view, capability=event.capability or view.capability, error=event.error)
    # What the switch holds at the start has earned its place: it counts as it did when it came in.
    earned = dict.fromkeys(event.held, PROMOTE_AT) if view.held is None else view.rates
    counts = view.capability is None or view.capability.counts
    uncounted = frozenset[EntryKey]() if counts else event.held
    return replace(view, rates=smoothed(earned, event.rates, uncounted), held=event.held)


def _fold_links(state: State, event: LinksChanged) -> State:
    before = state.bindings
    kept = {name: index for name, index in before.ifindexes.items() if name not in event.gone}
    name = state.node.underlay_interface
    told = next((link for link in event.links if link.name == name), None)
    nic = told or (None if name in event.gone else before.nic)
    told_indexes = {link.name: link.ifindex for link in event.links}
    bindings = replace(before, nic=nic, ifindexes={**kept, **told_indexes})
    told_down = {link.name for link in event.links if not (link.up and link.carrier)}
    down = state.down - told_indexes.keys() - set(event.gone) | told_down
    if (bindings, down) == (before, state.down):
        return state
    steady = _steady(told, state.nic) if told else state.nic
    return replace(state, bindings=bindings, nic=steady, down=down)


def _steady(link: Link, before: Link | None) -> Link:
    """Return ``link`` with addresses it had before in front: a new one does not move the VTEP."""
    if before is None:
        return link
    old = [address for address in before.addresses if address in link.addresses]
    new = [address for address in link.addresses if address not in old]
    return replace(link, addresses=(*old, *new))


def _fold_functions(
    state: State, event: FunctionCreated | FunctionDeleted
) -> tuple[NetworkFunction, ...]:
    """Return the functions; one whose pod is gone makes room for another on its segment."""
    others = tuple(each for each in state.functions if each != event.function)
    if isinstance(event, FunctionDeleted):
        return others
    if event.function in state.functions:
        return state.functions
    here = {FunctionPort(a.mac, a.identity) for a in state.local(event.function.segment)}
    kept = (
        each
        for each in others
        if each.segment != event.function.segment or not here.isdisjoint(each.ports)
    )
    return (*kept, event.function)


def _fold_attachment(
    state: State, event: AttachRequest | PodConnected | TakenOver | AttachCancelled | Detached
) -> State:
    if isinstance(event, PodConnected | TakenOver):
        return _come_here(state, event)
    refusals = _without(state.refusals, event.key)
    if isinstance(event, AttachRequest):
        return replace(state, requests={**state.requests, event.key: event}, refusals=refusals)
    return replace(
        state,
        attachments=_without(state.attachments, event.key),
        requests=_without(state.requests, event.key),
        refusals=refusals,
        withheld=state.withheld - {event.key},
    )


def _come_here(state: State, event: PodConnected | TakenOver) -> State:
    if event.key not in state.withheld:
        return state
    connected = replace(state.attachments[event.key], connected=True)
    withheld = state.withheld - ({event.key} if isinstance(event, TakenOver) else set())
    attachments = {**state.attachments, event.key: connected}
    return replace(state, attachments=attachments, withheld=withheld)


def follow_interest(state: State) -> State:
    """Return ``state`` watching just the segments of interest; what is given up is not synced."""
    interest = state.interest
    if interest == state.watched.keys():
        return state
    asked = state.asked + 1
    return replace(
        state,
        watched={segment: state.watched.get(segment, asked) for segment in sorted(interest)},
        asked=asked,
        fabric=replace(state.fabric, synced=state.fabric.synced & interest),
    )


def _fold_fabric(
    view: FabricView, event: FabricChanged | FabricConnection | FabricSynced
) -> FabricView:
    match event:
        case FabricConnection(connected=connected, error=error):
            return replace(view, connected=connected, error=error)
        case FabricSynced(segment=name):
            cached = tuple(entity for entity in view.cached if not _is_told(entity, name))
            if name is None:
                return replace(view, base_synced=True, cached=cached)
            return replace(view, synced=view.synced | {name}, cached=cached)
        case FabricChanged():
            return replace(view, rows=_fold_rows(view.rows, event))


def _is_told(cached: FabricEntity, synced: str | None) -> bool:
    """Say whether the database has told the truth about ``cached`` once ``synced`` is complete."""
    return cached.segment == synced if isinstance(cached, Block | Pin) else synced is None


def _fold_rows(rows: _Rows, event: FabricChanged) -> _Rows:
    touched = {_shelf(entity) for entity in (*event.upserts, *event.deletes)}
    changed = {shelf: dict(rows.get(shelf, {})) for shelf in touched}
    for entity in event.deletes:
        changed[_shelf(entity)].pop(entity_key(entity), None)
    for entity in event.upserts:
        changed[_shelf(entity)][entity_key(entity)] = entity
    return {shelf: held for shelf, held in {**rows, **changed}.items() if held}


def _shelf(entity: FabricEntity) -> _Shelf:
    match entity:
        case Fabric() | Node() | Segment() | Device() | Vrf() | Svi():
            return type(entity), ""
        case Endpoint() | Block() | Address() | Grant() | Pin():
            return type(entity), entity.segment


def entity_key(entity: FabricEntity) -> Hashable:
    """Return what names ``entity`` among the rows of its kind."""
    match entity:
        case Fabric():
            return ""
        case Node(name=name) | Segment(name=name) | Vrf(name=name) | Svi(name=name):
            return name
        case Endpoint(segment=segment):
            return segment, entity.key
        case (
            Block(segment=first, prefix=second)
            | Address(segment=first, ip=second)
            | Pin(segment=first, endpoint=second)
            | Device(node=first, name=second)
        ):
            return first, second
        case Grant():
            return entity


def smoothed(
    before: Mapping[EntryKey, float],
    now: Mapping[EntryKey, float],
    uncounted: Collection[EntryKey] = (),
) -> dict[EntryKey, float]:
    """Return the rates to rank by: a burst does not make an entry, nor a pause unmake it.

    What is ``uncounted`` is taken to forward what it did when it was last seen to, a little less
    each time: so it gives way to what forwards more, goes some time, and is measured then.
    """
    known = {
        key: (1 - _NEWEST_WEIGHS) * before.get(key, 0.0) + _NEWEST_WEIGHS * rate
        for key, rate in now.items()
    }
    kept = {key: _KEPT_UNCOUNTED * before.get(key, 0.0) for key in uncounted}
    return known | {key: max(rate, known.get(key, 0.0)) for key, rate in kept.items()}


def _without(mapping: Mapping[_Key, _Value], key: _Key) -> Mapping[_Key, _Value]:
    return {k: v for k, v in mapping.items() if k != key} if key in mapping else mapping
