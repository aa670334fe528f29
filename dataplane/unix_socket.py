"""A unix socket that a server listens on: what an earlier run left there, and who may enter."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

from dataplane.core.errors import OverweaveError

PROBE_S = 1.0


def remove_stale(path: Path, what: str, kind: socket.SocketKind = socket.SOCK_STREAM) -> None:
    """Remove the socket of an agent that died. Raises OverweaveError if ``path`` is in use.

    ``what`` names the socket in the error. A file that is no socket is not ours, and stays.
    """
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise OverweaveError(
                f"{what} {path} cannot be opened: a file that is no socket is there"
            )
        with socket.socket(socket.AF_UNIX, kind) as probe:
            probe.settimeout(PROBE_S)
            probe.connect(str(path))
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
        return
    except OSError as error:
        raise OverweaveError(f"{what} {path} cannot be used: {error}") from error
    raise OverweaveError(f"another agent already serves {what} {path}: stop it first")
