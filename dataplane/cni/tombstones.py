"""DELs that came while the agent was away: the shim wrote each into a file (shim.py, bury)."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from dataplane.cni.environment import Invocation
from dataplane.cni.framing import unpack_invocation
from dataplane.core.model import AttachmentKey

DIRECTORY = "tombstones"
_DRAFT_PREFIX = "."
_DRAFT_LIFETIME_S = 60.0


@dataclass(frozen=True, slots=True)
class Tombstone:
    """The DEL owed for one attachment, if one is; the file goes once it is done."""

    path: Path

    def exists(self) -> bool:
        """Say whether a DEL is owed."""
        return self.path.exists()

    def read(self) -> Invocation:
        """Return the runtime's request. Raises CniError if it is not whole."""
        return unpack_invocation(self.path.read_bytes())

    def remove(self) -> None:
        """Forget the DEL, if one is owed."""
        self.path.unlink(missing_ok=True)


class Tombstones:
    """The files beside the agent's socket, each named ``<container id>@<interface>``."""

    def __init__(self, socket_path: Path) -> None:
        """Look beside ``socket_path``, where the shim writes."""
        self._directory = socket_path.parent / DIRECTORY

    def at(self, key: AttachmentKey) -> Tombstone:
        """Return where a DEL of ``key`` would be."""
        return Tombstone(self._directory / f"{key.container_id}@{key.ifname}")

    def keys(self) -> tuple[AttachmentKey, ...]:
        """Return the attachments a DEL is owed for, and remove what shims that died left."""
        try:
            paths = sorted(self._directory.iterdir())
        except FileNotFoundError:
            return ()
        keys = []
        for path in paths:
            container, _, ifname = path.name.partition("@")
            if not path.name.startswith(_DRAFT_PREFIX):
                keys.append(AttachmentKey(container, ifname))
            elif _age(path) > _DRAFT_LIFETIME_S:
                path.unlink(missing_ok=True)
        return tuple(keys)


def _age(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
