"""The server's side of a network between host and DPU: who calls shows whose certificate it has."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import grpc
import structlog

from dataplane.api import attachment_pb2_grpc as rpc
from dataplane.api.attachment import AttachmentService
from dataplane.api.service import ATTACH_THREADS
from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.pki import certificates
from dataplane.pki.certificates import Holder, Role
from dataplane.pki.credentials import Credentials

# A connection is begun anew this often: whose certificate has expired or is trusted no more does
# not stay for ever. Calls under way may end by themselves.
_AGE_MS, _GRACE_MS = 3_600_000, 60_000
_OPTIONS = (
    ("grpc.so_reuseport", 0),  # two agents on one port would each get half of the calls
    ("grpc.max_connection_age_ms", _AGE_MS),
    ("grpc.max_connection_age_grace_ms", _GRACE_MS),
)

_TELL_S = 60.0  # between two words on the same caller: a host asks every 2 s

log = structlog.get_logger()


def server_credentials(credentials: Credentials) -> grpc.ServerCredentials:
    """Return what a server shows and asks for, with the newest files at each connection."""

    def newest() -> grpc.ServerCertificateConfiguration:
        pems = credentials.current()
        return grpc.ssl_server_certificate_configuration(
            [(pems.private_key, pems.certificate)], root_certificates=pems.ca_cert
        )

    return grpc.dynamic_ssl_server_credentials(newest(), newest, require_client_authentication=True)


class OnlyHost(grpc.ServerInterceptor):
    """Lets the host alone call, whose node is ``peer``; all others get PERMISSION_DENIED."""

    def __init__(self, peer: str) -> None:
        self._host = Holder(peer, Role.NODE)
        self._told, self._told_at = "", 0.0

    def intercept_service(
        self, continuation: Callable[[Any], Any], handler_call_details: object
    ) -> Any:  # noqa: ANN401 - gRPC's own handlers are any method's
        """Return the method's handler, behind the question who calls."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        for kind in ("unary_unary", "unary_stream", "stream_unary", "stream_stream"):
            behavior = getattr(handler, kind)
            if behavior is not None:
                make = getattr(grpc, f"{kind}_rpc_method_handler")
                return make(
                    self._asked(behavior), handler.request_deserializer, handler.response_serializer
                )
        return None

    def _refusal(self, context: grpc.ServicerContext) -> str:
        # Values are lists, whatever the stubs say. TLS has asked for it, and verified it.
        (pem,) = cast("list[bytes]", context.auth_context()["x509_pem_cert"])
        try:
            caller = certificates.read_certificate(pem)
        except InvalidValueError as error:
            return f"this node's certificate {error}"
        if caller.holder == self._host:
            return ""
        return (
            f"certificate of {caller.holder or caller.subject}: this DPU serves {self._host} alone;"
            f" is peer {self._host.name!r} in the DPU's devices right?"
        )

    def _tell(self, refusal: str, caller: str) -> None:
        now = time.monotonic()
        if refusal != self._told or now - self._told_at > _TELL_S:
            self._told, self._told_at = refusal, now
            log.warning("attachment.refused", caller=caller, error=refusal)

    def _asked(self, behavior: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        def ask(request: object, context: grpc.ServicerContext) -> Any:  # noqa: ANN401 - any method's
            refusal = self._refusal(context)
            if refusal:
                self._tell(refusal, context.peer())
                context.abort(grpc.StatusCode.PERMISSION_DENIED, refusal)
            return behavior(request, context)

        return ask


def serve_attachments_to(
    host: str, service: AttachmentService, address: str, credentials: Credentials
) -> grpc.Server:
    """Start the service on ``ADDRESS:PORT``, for the node ``host`` alone.

    Raises OverweaveError if that is no address of this machine, or taken.
    """
    threads = ThreadPoolExecutor(ATTACH_THREADS, thread_name_prefix="attachment")
    server = grpc.server(threads, interceptors=[OnlyHost(host)], options=_OPTIONS)
    rpc.add_AttachmentServicer_to_server(service, server)
    try:
        server.add_secure_port(address, server_credentials(credentials))
    except RuntimeError as error:
        raise OverweaveError(
            f"cannot listen on {address}: {error}; is it an address of this machine, and the port"
            " free?"
        ) from error
    server.start()
    return server
