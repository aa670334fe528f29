"""The five methods of resources that are rows of the fabric: bridges, Vrfs, Svis."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import grpc
from google.protobuf.field_mask_pb2 import FieldMask

from dataplane.contracts import NetworkWriter
from dataplane.core.errors import FabricUnavailableError, InvalidValueError, OverweaveError
from dataplane.core.model import Network, Segment, Svi, Vrf
from dataplane.core.snapshot import Snapshot
from dataplane.opi import masks
from dataplane.opi.masks import Resource
from dataplane.opi.paging import page_of
from dataplane.opi.refusals import Fault, OpiRefusedError, unknown
from dataplane.opi.resources import Collection
from dataplane.opi.site import Site
from dataplane.turns import Turns

_SEEN_S = 2.0  # how long a write waits to be seen here: the next call may ask for it
_MAYBE_LATE = (Fault.IN_USE, Fault.NOT_TENANT)  # of a write; so is what is not seen here yet
_TURN_S = 10.0  # at most: longer than a database that is away takes to be noticed

Row = TypeVar("Row", Segment, Vrf, Svi)


class View(Protocol[Row, Resource]):
    """What is known of one kind of resources at one time, by id, and what would become of it."""

    @property
    def known(self) -> Mapping[str, Row]:
        """Return those that are there."""
        ...

    def resource(self, row: Row) -> Resource:
        """Return a row as the resource that it is here."""
        ...

    def create(self, asked: str, wanted: Resource) -> Row:
        """Return the row for ``wanted`` with the id ``asked``, the one that is there already.

        An empty id is for the server to choose. Raises OpiRefusedError.
        """
        ...

    def update(self, known: Row, wanted: Resource) -> Row:
        """Return ``known`` as ``wanted``, the whole resource that is to be. OpiRefusedError."""
        ...


class Methods(Generic[Row, Resource]):
    """Reads what the node knows; what changes a row needs the role ``tenant``."""

    def __init__(
        self, site: Site, collection: Collection, view: Callable[[], View[Row, Resource]]
    ) -> None:
        """Serve what ``view`` shows of ``site``."""
        self._site = site
        self._collection = collection
        self._view: Callable[[], View[Row, Resource]] = view
        self._turns = Turns()

    def create(self, asked: str, wanted: Resource, caller: grpc.ServicerContext) -> Resource:
        """Return the resource, new or as it is there already."""
        asked = self._collection.chosen_id(asked, wanted.name)
        with self._turn(caller):
            view = self._view()
            try:
                return self._made(view, view.create(asked, wanted))
            except OpiRefusedError as refused:
                if refused.fault not in _MAYBE_LATE or not self._is_old(view):
                    raise
            view = self._view()  # another node was first: with the same, or with another
            return self._made(view, view.create(asked, wanted))

    def page(self, size: int, token: str) -> tuple[Iterator[Resource], str]:
        """Return a page of all resources, by name, and the token of the next."""
        view = self._view()
        page, following = page_of(view.known, self._collection, size, token)
        return map(view.resource, page), following

    def get(self, name: str) -> Resource:
        """Return one resource."""
        found, view = self._collection.id_of(name), self._view()
        if found not in view.known:
            raise unknown(name)
        return view.resource(view.known[found])

    def delete(self, name: str, caller: grpc.ServicerContext, *, allow_missing: bool) -> None:
        """Remove a resource that nothing needs."""
        found = self._collection.id_of(name)
        with self._turn(caller):
            known = self._view().known.get(found)
            if known is not None:
                self._delete(known)
            elif not allow_missing:
                raise unknown(name)

    def update(
        self,
        wanted: Resource,
        mask: FieldMask,
        caller: grpc.ServicerContext,
        *,
        allow_missing: bool,
    ) -> Resource:
        """Return the resource as it is with what the mask names changed."""
        name = self._collection.id_of(wanted.name, f"{self._collection.field}.name")
        masks.check(wanted, mask)
        with self._turn(caller):
            view = self._view()
            known = view.known.get(name)
            if known is not None:
                changed = masks.updated(view.resource(known), wanted, mask)
                return self._made(view, view.update(known, changed))
            if not allow_missing:
                raise unknown(wanted.name)
            return self._made(view, view.create(name, wanted))

    @contextmanager
    def _turn(self, caller: grpc.ServicerContext) -> Iterator[None]:
        """Let one change follow another: it has to see what that has written."""
        left = caller.time_remaining()
        wait_s = _TURN_S if left is None else min(left, _TURN_S)
        with self._turns.hold(self._collection.plural, wait_s) as came:
            if not came:
                raise OpiRefusedError(
                    Fault.AWAY,
                    f"another change of {self._collection.plural} is still under way; try again",
                )
            yield

    def _made(self, view: View[Row, Resource], row: Row) -> Resource:
        """Write ``row`` if that is not what is there."""
        seen = view.known.get(row.name)
        if seen != row:
            writer = self._writer(f"makes or changes {_title(row)}")
            with _refusals():
                writer.write(row, seen)
            self._wait(row, row)
        return view.resource(row)

    def _delete(self, row: Row) -> None:
        writer = self._writer(f"deletes {_title(row)}")
        with _refusals():
            writer.delete(_kind(row), row.name)
        self._wait(row, None)

    def _writer(self, what: str) -> NetworkWriter:
        if self._site.networks is None:
            raise OpiRefusedError(
                Fault.NOT_TENANT,
                f"this call {what}, for which the caller needs the role tenant: set opi.role, or"
                " have an administrator do it with 'overweave apply' or 'overweave delete'",
            )
        return self._site.networks

    def _is_old(self, view: View[Row, Resource]) -> bool:
        """Say whether others are known than ``view`` has, or will be in a moment."""
        return self._site.agent.wait(lambda _: self._view().known != view.known, _SEEN_S)

    def _wait(self, row: Row, wanted: Row | None) -> None:
        def is_seen(snapshot: Snapshot) -> bool:
            return snapshot.state.fabric.network(type(row), row.name) == wanted

        self._site.agent.wait(is_seen, _SEEN_S)


def _kind(row: Network) -> str:
    return type(row).__name__.lower()


def _title(row: Network) -> str:
    return f"{_kind(row)} {row.name}"


@contextmanager
def _refusals() -> Iterator[None]:
    """Make an OpiRefusedError of what a NetworkWriter raises."""
    try:
        yield
    except FabricUnavailableError as error:
        raise OpiRefusedError(Fault.AWAY, f"{error}; try again") from error
    except InvalidValueError as error:
        raise OpiRefusedError(Fault.IN_USE, str(error)) from error
    except OverweaveError as error:
        raise OpiRefusedError(
            Fault.NOT_TENANT, f"the fabric database does not let this node do it: {error}"
        ) from error
