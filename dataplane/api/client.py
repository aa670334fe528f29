"""The client side of overweave.v1.Agent, for the CLI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc

from dataplane.api import agent_pb2_grpc as rpc
from dataplane.core.errors import OverweaveError

CALL_TIMEOUT_S = 3.0


class AgentUnreachableError(OverweaveError):
    """No agent answers on the socket; the text keeps gRPC's own message."""


@contextmanager
def connect(socket: Path) -> Iterator[rpc.AgentStub]:
    """Yield a stub for the agent behind ``socket``. Raises AgentUnreachableError."""
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        try:
            yield rpc.AgentStub(channel)
        except grpc.RpcError as error:
            raise AgentUnreachableError(
                f"no agent answers on {socket}; is 'overweave agent' running? {error}"
            ) from error
