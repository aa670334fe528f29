"""The fabric database as a Target: the rows this node publishes, and no others."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field

from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import Change, Item, Rendering
from dataplane.core.errors import FabricUnavailableError, PartlyRefusedError, TargetError
from dataplane.core.model import Address, AttachmentKey, Block, Device, Endpoint, Node, Segment
from dataplane.core.snapshot import FABRIC_TARGET
from dataplane.fabric.rows import Faulty, Stored, Vtep, decode, normal, split, table_of
from dataplane.fabric.store import upsert
from ovs_client.database import Database
from ovs_client.errors import DatabaseError, DatabaseUnavailableError
from ovs_client.operations import Delete, Expect, Operation, Update
from ovs_client.rows import Row

_TIMEOUT_S = 10.0

# One table per transaction, because a role denies a transaction whole. First who we are.
_TABLES = ("Node", "Vtep", "Block", "Address", "Endpoint", "Device")


@dataclass(frozen=True, slots=True)
class OwnRow:
    """A row of this node. ``scope`` is the VNI of its segment, None for what has no segment."""

    value: Stored | Faulty
    scope: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class _Step:
    """What one item needs done, or why that cannot be."""

    key: str
    table: str
    operations: tuple[Operation, ...] = ()
    obstacle: str = ""


class FabricTarget:
    """Keeps the rows that this node publishes, in the tables of ``_TABLES``. Commits are durable.

    ``database`` is one of ``agent_database`` that a FabricFeed of the same node started. A row
    that the database refuses does not keep the others from being written.
    """

    name = FABRIC_TARGET
    deadline_s = 15.0
    bound_by = frozenset[str]()

    def __init__(self, database: Database, node: str) -> None:
        self._database = database
        self._node = node

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:  # noqa: ARG002  # contract
        """Return the rows of ``desired.publication``; TargetError where it is not known yet."""
        publication = desired.publication
        if publication is None:
            raise TargetError(
                f"node {self._node} has no underlay address yet: its rows stay as they are"
            )
        vnis = {name: int(view.segment.vni) for name, view in desired.segments.items()}
        values: tuple[Stored, ...] = (
            *split(publication.node),
            *(normal(block) for block in publication.blocks),
            *(normal(address) for address in publication.addresses),
            *(normal(endpoint) for endpoint in publication.endpoints),
            *(normal(device) for device in publication.devices),
        )
        items: dict[Hashable, Item] = {_name(value): _own_row(value, vnis) for value in values}
        return Rendering(items, held=desired.held)

    def observe(self) -> Mapping[Hashable, Item]:
        """Return the rows of this node; FabricUnavailableError unless the view is complete."""
        view = self._view()
        if any(isinstance(value, Node) and value.static for value in view.own.values()):
            raise TargetError(
                f"the fabric has a static node named {self._node}; give this node another name,"
                f" or remove that one: overweave delete node {self._node}"
            )
        return {key: _own_row(value, view.vnis) for key, value in view.own.items()}

    def apply(self, change: Change) -> None:
        """Write and remove rows, one transaction per table; all that can be, is.

        Raises FabricUnavailableError, or PartlyRefusedError with what was refused.
        """
        view = self._view()
        values = {str(key): item.value for key, item in {**change.add, **change.update}.items()}
        gone = [(str(key), view.rows[str(key)]) for key in change.remove if key in view.rows]
        steps = [_removal(key, row) for key, row in gone]
        steps += [_writing(key, value, view) for key, value in values.items()]
        failures = {step.key: step.obstacle for step in steps if step.obstacle}
        for table in _TABLES:
            failures |= self._commit([step for step in steps if step.table == table])
        if failures:
            message = "; ".join(f"{key}: {reason}" for key, reason in failures.items())
            refused = {_about(key, values.get(key)): why for key, why in failures.items()}
            raise PartlyRefusedError(message, refused)

    def _commit(self, steps: list[_Step]) -> dict[str, str]:
        """Commit ``steps`` together or else one by one; return what was refused, and why."""
        operations = [operation for step in steps for operation in step.operations]
        if not operations:
            return {}
        try:
            self._database.transact(operations, _TIMEOUT_S)
        except DatabaseUnavailableError as error:
            raise FabricUnavailableError(str(error)) from error
        except DatabaseError as error:
            if len(steps) == 1:
                return {steps[0].key: str(error)}
            alone = [self._commit([step]) for step in steps]
            return {key: reason for failures in alone for key, reason in failures.items()}
        return {}

    def _view(self) -> _View:
        if self._database.error is not None:
            raise FabricUnavailableError(self._database.error)
        return _View(self._node, self._database.snapshot())


class _View:
    """What the database holds: our own rows, and those of others that ours could clash with."""

    def __init__(self, node: str, tables: Mapping[str, Iterable[Row]]) -> None:
        self.own: dict[str, Stored | Faulty] = {}
        self.rows: dict[str, Row] = {}
        self.rivals: dict[str, tuple[Vtep | Block | Address, Row]] = {}
        self.vnis: dict[str, int] = {}
        for table in ("Segment", *_TABLES):
            for row in tables[table]:
                if table != "Endpoint" or row.columns["node"] == node:  # of others: the most rows
                    self._sort(node, row, decode(row))

    def _sort(self, node: str, row: Row, value: Stored | Faulty) -> None:
        if isinstance(value, Segment):
            self.vnis[value.name] = int(value.vni)
        elif _owner(value) == node:
            key = _name(value)
            self.own[key], self.rows[key] = value, row
        elif isinstance(value, Vtep | Block | Address):
            self.rivals[_name(value)] = value, row


def _owner(value: Stored | Faulty) -> str:
    match value:
        case Node(name=name):
            return name
        case Vtep() | Block() | Address() | Endpoint() | Device() | Faulty():
            return value.node
    return ""


def _own_row(value: Stored | Faulty, vnis: Mapping[str, int]) -> OwnRow:
    if isinstance(value, Block | Address | Endpoint):
        return OwnRow(value, vnis.get(value.segment))
    return OwnRow(value)


def _name(value: Stored | Faulty) -> str:
    """Return what names a row among this node's rows, for people too."""
    names = {
        Node: "node {0.name}",
        Vtep: "vtep {0.address}",
        Block: "block {0.prefix} of {0.segment}",
        Address: "address {0.ip} of {0.segment}",
        Endpoint: "endpoint {0.container_id}/{0.ifname}",
        Device: "device {0.name}",
        Faulty: "{0.text}",
    }
    return names[type(value)].format(value)


def _about(key: str, value: Stored | None) -> Hashable:
    if isinstance(value, Endpoint):
        return AttachmentKey(value.container_id, value.ifname)
    return value if isinstance(value, Block) else key


def _removal(key: str, row: Row) -> _Step:
    """An Address that another node has taken over in the meantime is no longer ours to remove."""
    still_ours = Expect(row.table, row.uuid, {"node": row.columns["node"]})
    checks: tuple[Operation, ...] = (still_ours,) if row.table == "Address" else ()
    return _Step(key, row.table, (*checks, Delete(row.table, row.uuid)))


def _writing(key: str, value: Stored, view: _View) -> _Step:
    table = table_of(value)
    match view.rivals.get(key), value:
        case None, _:
            return _Step(key, table, upsert(value, view.rows.get(key)))
        case (Address(identity=found), row), Address(identity=wanted) if found == wanted:
            same = Expect(table, row.uuid, {"identity": wanted})
            return _Step(key, table, (same, Update(table, row.uuid, {"node": value.node})))
        case (Address() as rival, _), _:
            return _Step(key, table, obstacle=f"it belongs to {rival.identity} at {rival.node}")
        case (rival, _), _:
            return _Step(key, table, obstacle=f"it belongs to node {rival.node}")
