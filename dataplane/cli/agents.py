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
        {**as_record(port), "handed_over": dict(port.handed_over)}
        for answer in _ask(sockets, lambda agent: agent.ListPorts(pb.ListPortsRequest(), **_WAIT))
        for port in answer.ports
    ]


def tunnels(sockets: tuple[Path, ...]) -> list[Record]:
    """Return the tunnels of all agents meant. Raises UnreachableError."""
    return [
        as_record(tunnel)
        for answer in _ask(
            sockets, lambda agent: agent.ListTunnels(pb.ListTunnelsRequest(), **_WAIT)
        )
        for tunnel in answer.tunnels
    ]


def entries(sockets: tuple[Path, ...]) -> list[Record]:
    """Return the forwarding entries of all agents meant. Raises UnreachableError."""
    return [
        {
            **as_record(entry),
            "packets": entry.packets,
            "bytes": entry.bytes,
            "counted": dict(entry.counted),
        }
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
        else {"agent": str(socket), "unreachable": "", **as_record(answer)}
        for socket, answer in _each(
            find_agents(sockets), lambda agent: agent.GetStatus(pb.GetStatusRequest(), **_WAIT)
        )
    ]


def heard_ports(sockets: tuple[Path, ...]) -> list[Record]:
    """Return the access ports of those agents meant that answer."""
    answers, _ = _heard(sockets, lambda agent: agent.ListPorts(pb.ListPortsRequest(), **_WAIT))
    return [as_record(port) for answer in answers for port in answer.ports]


def traces(
    sockets: tuple[Path, ...], request: pb.TraceRequest
) -> tuple[dict[str, list[Record]], list[str]]:
    """Return what each agent meant says of a packet, by node, and the words on silent ones."""
    answers, silent = _heard(sockets, lambda agent: agent.Trace(request, timeout=_TRACE_S))
    return {each.node: [as_record(hop) for hop in each.hops] for each in answers}, silent


def verified(
    sockets: tuple[Path, ...], request: pb.VerifyRequest, progress: Callable[[pb.Verified], None]
) -> tuple[list[list[pb.Verified]], list[str]]:
    """Return what each agent meant found, as told to ``progress``, and the words on silent ones.

    Who falls silent in the middle has told what it told.
    """
    heard: list[list[pb.Verified]] = []

    def ask(agent: AgentStub) -> None:
        said: list[pb.Verified] = []
        heard.append(said)
        for each in agent.Verify(request, timeout=_VERIFY_S):
            progress(each)
            said.append(each)

    _, silent = _heard(sockets, ask)
    return heard, silent


_TRACE_S = 10.0  # Open vSwitch is asked, up to four times
_VERIFY_S = 1800.0  # it is told how far it is
_WAIT = {"timeout": CALL_TIMEOUT_S}


def _ask(sockets: tuple[Path, ...], call: Callable[[AgentStub], Any]) -> list[Any]:
    answers, silent = _heard(sockets, call)
    if silent:
        raise UnreachableError("\n".join(silent))
    return answers


def _heard(
    sockets: tuple[Path, ...], call: Callable[[AgentStub], Any]
) -> tuple[list[Any], list[str]]:
    """Return the answers, and the words on those who gave none."""
    said = [answer for _, answer in _each(find_agents(sockets), call)]
    silent = [each for each in said if isinstance(each, str)]
    return [each for each in said if not isinstance(each, str)], silent


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


def as_record(message: Message) -> dict[str, Any]:
    """Return a message with every field, whether it is set or not."""
    return MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
