"""Server reflection (grpc.reflection.v1alpha), so bounded that other calls are always served."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest, ServerReflectionResponse

STREAMS = 8  # at once; of the server's threads


class ReflectionService(reflection.ReflectionServicer):
    """Answers few streams at once: each has a thread for as long as its caller keeps it open.

    Those that watch health have none.
    """

    def __init__(self, services: Iterable[str]) -> None:
        """Describe ``services``, by their full names."""
        super().__init__(services)
        self._room = threading.Semaphore(STREAMS)

    def ServerReflectionInfo(
        self,
        request_iterator: Iterable[ServerReflectionRequest],
        context: Any,  # noqa: ANN401 - a grpc.ServicerContext; the stubs allow for asyncio's
    ) -> Iterator[ServerReflectionResponse]:
        """Answer what is asked of the services; RESOURCE_EXHAUSTED beside too many others."""
        if not self._room.acquire(blocking=False):
            context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                f"{STREAMS} callers of reflection have left their streams open; try again",
            )
        try:
            yield from super().ServerReflectionInfo(request_iterator, context)
        finally:
            self._room.release()
