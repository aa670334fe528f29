"""Segments, Vrfs and Svis as one who may write them does: one at a time, for a service."""

from __future__ import annotations

from dataplane.core.model import Network
from dataplane.fabric.intent import Plan, plan_delete, plan_network
from dataplane.fabric.store import FabricStore
from ovs_client.database import Tls


class StoredNetworks:
    """Implements contracts.NetworkWriter by the rules of ``overweave apply`` and ``delete``.

    Every call has a connection of its own: it must see all rows, and an agent does not.
    """

    def __init__(self, remote: str, tls: Tls | None = None) -> None:
        """Write into the database at ``remote``."""
        self._remote = remote
        self._tls = tls

    def write(self, network: Network, seen: Network | None) -> None:
        with FabricStore(self._remote, self._tls) as store:
            _carry_out(store, plan_network(network, seen, store.read()))

    def delete(self, kind: str, name: str) -> None:
        with FabricStore(self._remote, self._tls) as store:
            _carry_out(store, plan_delete(kind, name, store.read()))


def _carry_out(store: FabricStore, plan: Plan) -> None:
    store.write(upserts=(*plan.add, *(new for _, new in plan.update)), deletes=plan.remove)
