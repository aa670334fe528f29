"""OPI's services on one socket, with reflection and the standard health service."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from dataplane.core.errors import OverweaveError
from dataplane.opi import (
    l2_xpu_infra_mgr_pb2,
    l2_xpu_infra_mgr_pb2_grpc,
    l3_xpu_infra_mgr_pb2,
    l3_xpu_infra_mgr_pb2_grpc,
    lifecycle_pb2,
    lifecycle_pb2_grpc,
    network_function_pb2,
    network_function_pb2_grpc,
)
from dataplane.opi.bridge_service import LogicalBridgeService
from dataplane.opi.function_service import NetworkFunctionService
from dataplane.opi.gateway_service import SviService, VrfService
from dataplane.opi.health import HealthTeller
from dataplane.opi.lifecycle_service import DeviceService, HeartbeatService, LifeCycleService
from dataplane.opi.port_service import BridgePortService
from dataplane.opi.reflection_service import ReflectionService
from dataplane.opi.site import Site
from dataplane.rpc import listen
from dataplane.unix_socket import remove_stale

_THREADS = 32  # each CreateBridgePort waits for the dataplane, and many pods may start at once

_BUILT = (l2_xpu_infra_mgr_pb2, l3_xpu_infra_mgr_pb2, lifecycle_pb2, network_function_pb2)


class OpiServer:
    """Serves ``site`` until it is stopped."""

    def __init__(self, site: Site) -> None:
        """Prepare; nothing listens before ``start``."""
        self._server = grpc.server(ThreadPoolExecutor(_THREADS, thread_name_prefix="opi"))
        servicer = health.HealthServicer()
        names = ["", *_services(*_BUILT)]
        self._teller = HealthTeller(servicer, names, site.is_healthy)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self._server)
        _add(self._server, site)
        shown = (*_services(*_BUILT, health_pb2), reflection.SERVICE_NAME)
        service = ReflectionService(shown)
        add_ServerReflectionServicer_to_server(service, self._server)  # type: ignore[no-untyped-call]  # the stubs leave it out

    def start(self, socket: Path) -> None:
        """Listen on a unix ``socket`` that only root may use, its directory made where missing.

        Raises OverweaveError, also if another plugin serves it already.
        """
        try:
            socket.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise OverweaveError(f"opi.socket {socket}: {error}") from error
        remove_stale(socket, "opi.socket")
        self._teller.start()
        listen(self._server, socket)

    def stop(self) -> None:
        """Answer nothing more."""
        self._teller.stop()
        self._server.stop(None).wait()


def _services(*modules: ModuleType) -> list[str]:
    """Return the full names of the services in modules that protoc wrote."""
    files = (module.DESCRIPTOR for module in modules)
    return [service.full_name for file in files for service in file.services_by_name.values()]


def _add(server: grpc.Server, site: Site) -> None:
    l2, l3 = l2_xpu_infra_mgr_pb2_grpc, l3_xpu_infra_mgr_pb2_grpc
    l2.add_LogicalBridgeServiceServicer_to_server(LogicalBridgeService(site), server)
    l2.add_BridgePortServiceServicer_to_server(BridgePortService(site), server)
    l3.add_VrfServiceServicer_to_server(VrfService(site), server)
    l3.add_SviServiceServicer_to_server(SviService(site), server)
    lifecycle = lifecycle_pb2_grpc
    lifecycle.add_LifeCycleServiceServicer_to_server(LifeCycleService(site), server)
    lifecycle.add_DeviceServiceServicer_to_server(DeviceService(site), server)
    lifecycle.add_HeartbeatServiceServicer_to_server(HeartbeatService(site), server)
    chains = network_function_pb2_grpc
    chains.add_NetworkFunctionServiceServicer_to_server(NetworkFunctionService(site), server)
