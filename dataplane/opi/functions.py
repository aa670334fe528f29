"""NetworkFunction: which attachments a request means. Pure."""

from __future__ import annotations

from dataplane.core.errors import InvalidValueError
from dataplane.core.functions import FunctionPort, NetworkFunction
from dataplane.core.model import Attachment, Mac
from dataplane.core.state import State
from dataplane.opi import network_function_pb2 as pb
from dataplane.opi.refusals import Fault, OpiRefusedError, missing, shown, unknown


def wanted(request: pb.NFRequest, state: State) -> NetworkFunction:
    """Return the function between two attachments of this node, by their MACs."""
    source, sink = _macs(request)
    pairs = [
        (one, other)
        for one in _attached(source, state)
        for other in _attached(sink, state)
        if one.segment == other.segment
    ]
    if len(pairs) != 1:
        found = ", ".join(sorted(one.segment for one, _ in pairs)) or "no segment"
        raise OpiRefusedError(
            Fault.NO_BRIDGE,
            f"interfaces {source} and {sink} are together on {found}, and a network function is"
            " between two interfaces on one",
        )
    one, other = pairs[0]
    return NetworkFunction(one.segment, _port(one), _port(other))


def refuse_taken(function: NetworkFunction, state: State) -> None:
    """Raise OpiRefusedError if one of its ports is another function's."""
    for each in state.functions:
        if each == function or each.segment != function.segment:
            continue
        for port in function.ports:
            if port in each.ports:
                raise OpiRefusedError(
                    Fault.TAKEN,
                    f"interface {port.mac} ({port.identity}) is of {each} already; delete that"
                    " first",
                )


def known(request: pb.NFRequest, state: State) -> NetworkFunction:
    """Return the function that a request names, attached or not."""
    macs = _macs(request)
    for each in state.functions:
        if (each.input.mac, each.output.mac) == macs:
            return each
    raise unknown(f"network function {macs[0]} > {macs[1]}")


def _macs(request: pb.NFRequest) -> tuple[Mac, Mac]:
    source, sink = _mac("input", request.input), _mac("output", request.output)
    if source == sink:
        raise OpiRefusedError(
            Fault.BAD_VALUE, f"input and output are the same interface {source}: nothing would pass"
        )
    return source, sink


def _mac(field: str, text: str) -> Mac:
    if not text:
        raise missing(field)
    if len(text) != len("02:00:00:00:00:01"):
        raise OpiRefusedError(
            Fault.BAD_VALUE, f"{field} {shown(text)} is no MAC like 02:00:00:00:00:01"
        )
    try:
        return Mac(text)
    except InvalidValueError as error:
        raise OpiRefusedError(Fault.BAD_VALUE, f"{field}: {error}") from error


def _attached(mac: Mac, state: State) -> list[Attachment]:
    found = [each for each in state.attachments.values() if each.mac == mac]
    if not found:
        raise unknown(f"interface {mac} at node {state.node.name}")
    return found


def _port(attachment: Attachment) -> FunctionPort:
    return FunctionPort(attachment.mac, attachment.identity)
