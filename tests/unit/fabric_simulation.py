"""Several nodes on one fabric database, all pure: the deciding core is real, all else is simulated.

A node's feed is a queue of events that a test delivers when it likes; what a node publishes is
taken up and committed in two steps, so that a commit may be older than what the node wants by then.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field, replace
from functools import reduce
from ipaddress import ip_address, ip_network

from dataplane.core.admission import settle
from dataplane.core.derive import derive
from dataplane.core.desired import Desired, LocalNode, Port, PortState
from dataplane.core.events import (
    AttachCancelled,
    AttachmentsLoaded,
    AttachRequest,
    FabricChanged,
    FabricConnection,
    FabricSynced,
    Link,
    LinksChanged,
    PodConnected,
    StateEvent,
    TakenOver,
)
from dataplane.core.model import (
    Address,
    AttachmentKey,
    Block,
    Endpoint,
    FabricEntity,
    Grant,
    Node,
    Segment,
    Vni,
)
from dataplane.core.state import Refusal, State, claim, confirm, entity_key, fold

BLUE = Segment(
    "blue",
    Vni(7),
    subnets=(ip_network("10.0.0.0/25"),),
    static_ranges=(ip_network("10.0.0.96/27"),),
)
RED = Segment("red", Vni(8), subnets=(ip_network("10.1.0.0/26"),))
ROUNDS = 60

_Id = tuple[type[FabricEntity], Hashable]


def identify(entity: FabricEntity) -> _Id:
    """Name a row as its table's index does: an Endpoint by its key, whatever its segment."""
    key = entity.key if isinstance(entity, Endpoint) else entity_key(entity)
    return type(entity), key


@dataclass
class Database:
    """Rows by what their table's index says is unique."""

    rows: dict[_Id, FabricEntity] = field(default_factory=dict)
    clients: list[SimulatedNode] = field(default_factory=list)

    def write(self, entity: FabricEntity) -> None:
        if self.rows.get(identify(entity)) != entity:
            self.rows[identify(entity)] = entity
            self._tell()

    def delete(self, entity: FabricEntity) -> None:
        if self.rows.pop(identify(entity), None) is not None:
            self._tell()

    def of(self, node: str) -> list[FabricEntity]:
        return [row for row in self.rows.values() if owner_of(row) == node]

    def _tell(self) -> None:
        for client in self.clients:
            if client.linked:
                client.tell_rows()


def owner_of(entity: FabricEntity) -> str | None:
    match entity:
        case Endpoint(node=node) | Block(node=node) | Address(node=node) | Node(name=node):
            return node
        case _:
            return None


class SimulatedNode:
    """One agent: its state, its feed, its local files and its publication under way."""

    def __init__(self, number: int, database: Database) -> None:
        self.name = f"n{number}"
        self.nic = Link(
            "eth0",
            2,
            "02:00:00:00:00:aa",
            1500,
            up=True,
            addresses=(ip_address(f"192.0.2.{number}"),),
        )
        self.database = database
        database.clients.append(self)
        self.linked = False
        self.start(AttachmentsLoaded((), ()))

    # --- the agent ---

    def start(self, files: AttachmentsLoaded) -> None:
        self.queue: deque[StateEvent] = deque()
        self.told: dict[tuple[type, Hashable], FabricEntity] = {}
        self.synced: set[tuple[str, int]] = set()
        self.under_way: Desired | None = None
        self.decided: Desired | None = None
        self.generation = self.begun = 0
        self.files = files
        self.state = State(LocalNode(self.name, "eth0"))
        self.take(files)
        self.take(LinksChanged((self.nic,)))
        if self.linked:
            self.link()

    def take(self, *events: StateEvent) -> None:
        self._settle(reduce(fold, events, self.state))

    def _settle(self, state: State) -> None:
        before, self.state = self.state, settle(state)
        desired = derive(self.state)
        if desired is not None and desired != self.decided:
            self.decided = desired
            self.generation += 1
            publication = desired.publication
            blocks = publication.blocks if publication else ()
            self.state = claim(self.state, blocks, self.generation)
            self.files = AttachmentsLoaded(desired.attachments, desired.kept)
        if self.state.watched != before.watched and self.linked:
            self.tell_rows()
            self.tell_synced()

    @property
    def desired(self) -> Desired:
        found = derive(self.state)
        assert found is not None
        return found

    @property
    def active(self) -> list[Port]:
        return [port for port in self.desired.ports if port.state is PortState.ACTIVE]

    def restart(self) -> None:
        self.start(self.files)

    # --- CNI ---

    def ask(self, request: AttachRequest) -> None:
        if not self.state.knows(request.key):
            self.take(request)

    def connect(self) -> None:
        """Do what an ADD does once the pod's end is there."""
        for key in sorted(self.state.withheld):
            self.take(PodConnected(key))

    def take_over(self) -> None:
        """Do what an ADD does once its pod is served."""
        for key in sorted(self.state.withheld):
            if self.state.attachments[key].connected:
                self.take(TakenOver(key))

    def last_word(self, key: AttachmentKey) -> Refusal | None:
        """Do what an ADD does that has waited long enough; return its refusal."""
        if key in self.state.requests:
            self.take(replace(self.state.requests[key], wait_for_fabric=False))
        refusal = self.state.refusals.get(key)
        if key not in self.state.attachments:
            self.take(AttachCancelled(key))
        return refusal

    # --- the feed ---

    def link(self) -> None:
        self.linked = True
        self.tell_rows()
        self.queue.append(FabricConnection(connected=True))
        self.queue.append(FabricSynced())
        self.tell_synced()

    def unlink(self) -> None:
        self.linked = False
        self.queue.append(FabricConnection(connected=False, error="away"))

    def tell_rows(self) -> None:
        there = {
            (type(row), entity_key(row)): row
            for row in self.database.rows.values()
            if isinstance(row, Segment | Node) or self._is_watched(row)
        }
        deletes = tuple(row for key, row in self.told.items() if key not in there)
        upserts = tuple(row for key, row in there.items() if self.told.get(key) != row)
        self.told = there
        if deletes or upserts:
            self.queue.append(FabricChanged(upserts, deletes))

    def tell_synced(self) -> None:
        self.synced &= self.state.watched.items()
        for segment, number in sorted(self.state.watched.items() - self.synced):
            self.synced.add((segment, number))
            self.queue.append(FabricSynced(segment, number))

    def _is_watched(self, row: FabricEntity) -> bool:
        return getattr(row, "segment", None) in self.state.watched

    def deliver(self, count: int = 1) -> None:
        for _ in range(min(count, len(self.queue))):
            self.take(self.queue.popleft())

    # --- the fabric Target ---

    def begin(self) -> None:
        self.under_way, self.begun = self.desired, self.generation

    def commit(self) -> bool:
        """Write what was begun; return whether anything had to change."""
        desired, self.under_way = self.under_way, None
        if desired is None or desired.publication is None or not self.linked:
            return False
        before = dict(self.database.rows)
        wanted = _rows_of(desired)
        held = {view.segment.name for view in desired.segments.values() if not view.synced}
        for row in self.database.of(self.name):
            if identify(row) not in wanted and getattr(row, "segment", None) not in held:
                self.database.delete(row)
        for key, row in wanted.items():
            rival = self.database.rows.get(key)
            if rival == row or (rival and owner_of(rival) == self.name and _in(rival, held)):
                continue
            if rival is None or owner_of(rival) == self.name or _may_take(rival, row):
                self.database.write(row)
        self._settle(confirm(self.state, self.begun))
        return self.database.rows != before


def _rows_of(desired: Desired) -> dict[_Id, FabricEntity]:
    publication = desired.publication
    assert publication is not None
    rows: Iterable[FabricEntity] = (
        publication.node,
        *publication.blocks,
        *publication.addresses,
        *publication.endpoints,
    )
    return {identify(row): row for row in rows}


def _in(row: FabricEntity, segments: set[str]) -> bool:
    return getattr(row, "segment", None) in segments


def _may_take(rival: FabricEntity, row: FabricEntity) -> bool:
    return (
        isinstance(rival, Address) and isinstance(row, Address) and rival.identity == row.identity
    )


def quiesce(database: Database) -> None:
    """Let every node hear and write all there is, until nothing changes any more."""
    for node in database.clients:
        if not node.linked:
            node.link()
    for _ in range(ROUNDS):
        changed = False
        for node in database.clients:
            changed |= bool(node.queue)
            node.deliver(len(node.queue))
            node.connect()
            node.take_over()
            node.begin()
            changed |= node.commit()
        if not changed:
            return
    raise AssertionError(f"the nodes do not come to rest within {ROUNDS} rounds")


def grant_all(node: str) -> Grant:
    """Return a grant for everything on blue."""
    return Grant("blue", node)
