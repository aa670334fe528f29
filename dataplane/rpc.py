"""What the agent's gRPC services share: how they listen, and the code of a refused attach."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import grpc

from dataplane.core.admission import (
    ALREADY_ATTACHED,
    DUPLICATE,
    EXHAUSTED,
    INVALID_CONFIG,
    NO_UNDERLAY,
    NOT_GRANTED,
    TRY_AGAIN,
)
from dataplane.core.errors import OverweaveError

_STATUSES: Mapping[int, grpc.StatusCode] = {
    INVALID_CONFIG: grpc.StatusCode.INVALID_ARGUMENT,
    TRY_AGAIN: grpc.StatusCode.UNAVAILABLE,
    ALREADY_ATTACHED: grpc.StatusCode.ALREADY_EXISTS,
    DUPLICATE: grpc.StatusCode.ALREADY_EXISTS,
    NOT_GRANTED: grpc.StatusCode.PERMISSION_DENIED,
    EXHAUSTED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    NO_UNDERLAY: grpc.StatusCode.FAILED_PRECONDITION,
}


def status_of(cni_code: int) -> grpc.StatusCode:
    """Return the gRPC code for a refusal with ``cni_code`` (contracts.AttachRefusedError)."""
    return _STATUSES.get(cni_code, grpc.StatusCode.FAILED_PRECONDITION)


def listen(server: grpc.Server, socket: Path) -> grpc.Server:
    """Start ``server`` on a unix ``socket`` that only root may use. Raises OverweaveError."""
    socket.unlink(missing_ok=True)
    try:
        server.add_insecure_port(f"unix:{socket}")
        socket.chmod(0o600)
    except (RuntimeError, OSError) as error:
        raise OverweaveError(f"cannot listen on {socket}: {error}") from error
    server.start()
    return server
