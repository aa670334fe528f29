"""From refusals to statuses of gRPC."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

import grpc

from dataplane.contracts import AttachRefusedError
from dataplane.opi.refusals import OpiRefusedError
from dataplane.rpc import status_of

_Service = TypeVar("_Service")
_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
Method = Callable[[_Service, _Request, grpc.ServicerContext], _Response]


def answering(
    method: Method[_Service, _Request, _Response],
) -> Method[_Service, _Request, _Response]:
    """Return ``method`` with what it refuses told to the caller."""

    @wraps(method)
    def call(self: _Service, request: _Request, context: grpc.ServicerContext) -> _Response:
        try:
            return method(self, request, context)
        except OpiRefusedError as error:
            code, text = grpc.StatusCode[error.code], str(error)
        except AttachRefusedError as error:
            code, text = status_of(error.code), str(error)
        context.abort(code, text)
        raise AssertionError("abort ends the call")

    return call
