"""The fabric database as commands use it."""

from __future__ import annotations

from dataplane.cli.find import find_fabric
from dataplane.fabric.store import FabricStore
from ovs_client.database import Tls


def open_store(remote: str | None) -> FabricStore:
    """Return the store of the fabric that is meant, not yet entered. Raises InvalidValueError."""
    found = find_fabric(remote)
    files = found.files
    tls = Tls(files["private_key"], files["certificate"], files["ca_cert"]) if files else None
    return FabricStore(found.remote, tls)
