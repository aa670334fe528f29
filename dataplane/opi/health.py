"""The standard health service (grpc.health.v1), told again and again how it really is."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import structlog
from grpc_health.v1.health import HealthServicer
from grpc_health.v1.health_pb2 import HealthCheckResponse

LOOK_S = 1.0

log = structlog.get_logger()


class HealthTeller:
    """Sets every one of ``services`` by what ``is_healthy`` says; it starts with none serving."""

    def __init__(
        self, servicer: HealthServicer, services: Iterable[str], is_healthy: Callable[[], bool]
    ) -> None:
        """Tell ``servicer``."""
        self._servicer = servicer
        self._services = tuple(services)
        self._is_healthy = is_healthy
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="opi-health", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._tell(healthy=False)
        self._thread.start()

    def stop(self) -> None:
        """Look no more, also where ``start`` was not reached; from now on nothing is serving."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._servicer.enter_graceful_shutdown()

    def _run(self) -> None:
        before = False
        while not self._stopping.is_set():
            try:
                healthy = self._is_healthy()
            except Exception:  # a fault of ours must not end the thread, nor pass for health
                log.exception("opi.health.crashed")
                healthy = False
            if healthy != before:
                self._tell(healthy=healthy)
                before = healthy
            self._stopping.wait(LOOK_S)

    def _tell(self, *, healthy: bool) -> None:
        status = HealthCheckResponse.SERVING if healthy else HealthCheckResponse.NOT_SERVING
        for service in self._services:
            self._servicer.set(service, status)
