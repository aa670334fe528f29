"""What the agent knows: ``fold`` takes in one event and returns the next state. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

from dataplane.core.desired import Bindings, LocalNode
from dataplane.core.events import (
    AttachCancelled,
    AttachmentsLoaded,
    AttachRequest,
    Detached,
    FabricChanged,
    FabricConnection,
    FabricSynced,
    Link,
    LinkChanged,
    LinkGone,
    OfportChanged,
    StateEvent,
)
from dataplane.core.model import (
    Address,
    Attachment,
    AttachmentKey,
    Block,
    Endpoint,
    Fabric,
    FabricEntity,
    Grant,
    IpAddress,
    Node,
    Segment,
)

_Entity = TypeVar("_Entity", bound=FabricEntity)
_Key = TypeVar("_Key", bound=Hashable)
_Value = TypeVar("_Value")
_Rows = Mapping[type[FabricEntity], Mapping[Hashable, FabricEntity]]


@dataclass(frozen=True, slots=True)
class FabricView:
    """The rows of the fabric database this node has been shown, by kind and key.

    ``cached`` segments and blocks come from the local files of an earlier run; they stand in until
    the database has told the truth about them.
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
        found = [
            *self._all(Fabric),
            *(entity for entity in self.cached if isinstance(entity, Fabric)),
        ]
        return found[0] if found else Fabric()

    @property
    def nodes(self) -> Mapping[str, Node]:
        """Return the nodes by name."""
        return {node.name: node for node in self._all(Node)}

    def segment(self, name: str) -> Segment | None:
        """Return a segment by name, from the cache only while the base tables are not synced."""
        segment = self.rows.get(Segment, {}).get(name)
        if isinstance(segment, Segment) or self.base_synced:
            return segment if isinstance(segment, Segment) else None
        return next((e for e in self.cached if isinstance(e, Segment) and e.name == name), None)

    def endpoints(self, segment: str) -> list[Endpoint]:
        """Return the endpoint rows of a segment."""
        return [endpoint for endpoint in self._all(Endpoint) if endpoint.segment == segment]

    def blocks(self, segment: str) -> list[Block]:
        """Return the blocks of a segment, from the cache only while it is not synced."""
        if segment in self.synced:
            return [block for block in self._all(Block) if block.segment == segment]
        return [e for e in self.cached if isinstance(e, Block) and e.segment == segment]

    def addresses(self, segment: str) -> list[Address]:
        """Return the static-range bindings of a segment."""
        return [address for address in self._all(Address) if address.segment == segment]

    def grants(self, segment: str) -> list[Grant]:
        """Return the grants of a segment."""
        return [grant for grant in self._all(Grant) if grant.segment == segment]

    def _all(self, kind: type[_Entity]) -> Iterable[_Entity]:
        rows = cast("Mapping[type[_Entity], Mapping[Hashable, _Entity]]", self.rows)
        return rows.get(kind, {}).values()


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request cannot be served: CNI's error code and one clear sentence."""

    code: int
    message: str


@dataclass(frozen=True, slots=True)
class State:
    """Everything the deciding thread knows; ``refusals`` are answers to requests just refused."""

    node: LocalNode
    fabric: FabricView = field(default_factory=FabricView)
    bindings: Bindings = field(default_factory=Bindings)
    attachments: Mapping[AttachmentKey, Attachment] = field(default_factory=dict)
    requests: Mapping[AttachmentKey, AttachRequest] = field(default_factory=dict)
    refusals: Mapping[AttachmentKey, Refusal] = field(default_factory=dict)

    @property
    def underlay(self) -> Link | None:
        """Return the underlay NIC, if the kernel has it."""
        return self.bindings.links.get(self.node.underlay_interface)

    @property
    def vteps(self) -> tuple[IpAddress, ...]:
        """Return this node's VTEP addresses: those configured, else the NIC's first per family."""
        if self.node.vteps or self.underlay is None:
            return self.node.vteps
        usable = [address for address in self.underlay.addresses if not address.is_link_local]
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
        return self.present | {request.segment for request in self.requests.values()}

    def local(self, segment: str) -> list[Attachment]:
        """Return this node's attachments on a segment."""
        return [
            attachment for attachment in self.attachments.values() if attachment.segment == segment
        ]


def fold(state: State, event: StateEvent) -> State:
    """Return the state after ``event``; decisions are left to ``settle`` and ``derive``."""
    match event:
        case LinkChanged() | LinkGone() | OfportChanged():
            return replace(state, bindings=_fold_bindings(state.bindings, event))
        case FabricSynced(segment=segment) if segment not in {None, *state.interest}:
            return state  # a late word on a segment that was given up meanwhile
        case FabricChanged() | FabricConnection() | FabricSynced():
            return replace(state, fabric=_fold_fabric(state.fabric, event))
        case AttachRequest() | AttachCancelled() | Detached():
            return _fold_attachment(state, event)
        case AttachmentsLoaded(attachments=attachments, entities=entities):
            return replace(
                state,
                attachments={attachment.key: attachment for attachment in attachments},
                fabric=replace(state.fabric, cached=entities),
            )


def _fold_bindings(bindings: Bindings, event: LinkChanged | LinkGone | OfportChanged) -> Bindings:
    match event:
        case LinkChanged(link=link):
            return replace(bindings, links={**bindings.links, link.name: link})
        case LinkGone(name=name):
            return replace(bindings, links=_without(bindings.links, name))
        case OfportChanged(interface=name, ofport=ofport):
            others = _without(bindings.ofports, name)
            known = others if ofport is None else {**others, name: ofport}
            return replace(bindings, ofports=known)


def _fold_attachment(state: State, event: AttachRequest | AttachCancelled | Detached) -> State:
    refusals = _without(state.refusals, event.key)
    if isinstance(event, AttachRequest):
        return replace(state, requests={**state.requests, event.key: event}, refusals=refusals)
    after = replace(
        state,
        attachments=_without(state.attachments, event.key),
        requests=_without(state.requests, event.key),
        refusals=refusals,
    )
    return give_up_segments(state, after)


def give_up_segments(before: State, after: State) -> State:
    """Return ``after`` with segments nobody here needs any more marked as incomplete."""
    given_up = before.interest - after.interest
    if not given_up & after.fabric.synced:
        return after
    fabric = replace(after.fabric, synced=after.fabric.synced - given_up)
    return replace(after, fabric=fabric)


def _fold_fabric(
    view: FabricView, event: FabricChanged | FabricConnection | FabricSynced
) -> FabricView:
    match event:
        case FabricConnection(connected=connected, error=error):
            return replace(view, connected=connected, error=error)
        case FabricSynced(segment=segment):
            if segment is None:
                return replace(view, base_synced=True)
            return replace(view, synced=view.synced | {segment})
        case FabricChanged():
            return replace(view, rows=_fold_rows(view.rows, event))


def _fold_rows(rows: _Rows, event: FabricChanged) -> _Rows:
    touched = {type(entity) for entity in (*event.upserts, *event.deletes)}
    changed = {kind: dict(rows.get(kind, {})) for kind in touched}
    for entity in event.deletes:
        changed[type(entity)].pop(entity_key(entity), None)
    for entity in event.upserts:
        changed[type(entity)][entity_key(entity)] = entity
    return {**rows, **changed}


def entity_key(entity: FabricEntity) -> Hashable:
    """Return what names ``entity`` among the rows of its kind."""
    match entity:
        case Fabric():
            return ""
        case Node(name=name) | Segment(name=name):
            return name
        case Endpoint():
            return entity.key
        case Block(segment=segment, prefix=prefix):
            return segment, prefix
        case Address(segment=segment, ip=ip):
            return segment, ip
        case Grant():
            return entity


def _without(mapping: Mapping[_Key, _Value], key: _Key) -> Mapping[_Key, _Value]:
    return {k: v for k, v in mapping.items() if k != key} if key in mapping else mapping
