"""Questions to agents over their own gRPC service, as plain records."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from dataplane.api import agent_pb2 as pb
from dataplane.api.agent_pb2_grpc import AgentStub
from dataplane.api.client import CALL_TIMEOUT_S, AgentUnreachableError, connect
from dataplane.cli.find import find_agents
from dataplane.cli.outcome import UnreachableError
from dataplane.cli.output import Record

_AT_ONCE = 8


def ports(sockets: tuple[Path, ...]) -> list[Record]:
    """Return the access ports of all agents meant. Raises UnreachableError."""
    return [
        {**_record(port), "handed_over": dict(port.handed_over)}
        for answer in _ask(sockets, lambda agent: agent.ListPorts(pb.ListPortsRequest(), **_WAIT))
        for port in answer.ports
    ]


def tunnels(sockets: tuple[Path, ...]) -> list[Record]:
    """Return the tunnels of all agents meant. Raises UnreachableError."""
    return [
        _record(tunnel)
        for answer in _ask(
            sockets, lambda agent: agent.ListTunnels(pb.ListTunnelsRequest(), **_WAIT)
        )
        for tunnel in answer.tunnels
    ]


def entries(sockets: tuple[Path, ...]) -> list[Record]:
    """Return the forwarding entries of all agents meant. Raises UnreachableError."""
    return [
        {**_record(entry), "packets": entry.packets, "bytes": entry.bytes}
        for answer in _ask(
            sockets, lambda agent: agent.ListEntries(pb.ListEntriesRequest(), **_WAIT)
        )
        for entry in answer.entries
    ]


def statuses(sockets: tuple[Path, ...]) -> list[Record]:
    """Return what each agent meant says of itself; one that does not answer has ``unreachable``."""
    return [
        {"agent": str(socket), "unreachable": answer}
        if isinstance(answer, str)
        else {"agent": str(socket), "unreachable": "", **_record(answer)}
        for socket, answer in _each(
            find_agents(sockets), lambda agent: agent.GetStatus(pb.GetStatusRequest(), **_WAIT)
        )
    ]


_WAIT = {"timeout": CALL_TIMEOUT_S}


def _ask(sockets: tuple[Path, ...], call: Callable[[AgentStub], Any]) -> list[Any]:
    answers = list(_each(find_agents(sockets), call))
    silent = [answer for _, answer in answers if isinstance(answer, str)]
    if silent:
        raise UnreachableError("\n".join(silent))
    return [answer for _, answer in answers]


def _each(
    sockets: tuple[Path, ...], call: Callable[[AgentStub], Any]
) -> Iterable[tuple[Path, Any]]:
    """Ask side by side: one agent that hangs costs its own time only."""

    def ask(socket: Path) -> tuple[Path, Any]:
        try:
            with connect(socket) as agent:
                return socket, call(agent)
        except AgentUnreachableError as error:
            return socket, _first_words(error)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(ask, sockets))


def _first_words(error: AgentUnreachableError) -> str:
    """Return our own sentence with gRPC's details, without the dump of its call object."""
    details = getattr(error.__cause__, "details", None)
    sentence = str(error).partition("<")[0].strip()
    return f"{sentence} {details()}" if details else sentence


def _record(message: Message) -> dict[str, Any]:
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
