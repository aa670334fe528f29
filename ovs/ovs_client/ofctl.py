"""OpenFlow through ovs-ofctl: what a bridge holds, and atomic changes to it.

The bridge is spoken to over its management socket, as any OpenFlow controller of this machine may.
Flows go in and come out as text; OpenFlow 1.4 is the first version with bundles (section A.3.9).
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from dataplane.core.errors import OverweaveError
from ovs_client.daemons import find_program

_VERSION = "OpenFlow14"
_TIMEOUT_S = 20.0


class OpenFlowError(OverweaveError):
    """A bridge could not be asked, or refused a change; the text keeps ovs-ofctl's words whole."""


class FlowKey(NamedTuple):
    """What makes a flow the same flow (OpenFlow 1.4, section 6.4)."""

    table: int
    priority: int
    match: str


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow in the very words in which ovs-ofctl prints it.

    ``match`` are the tokens of ovs-fields(7), sorted, joined by commas; ``actions`` stand in order.
    """

    table: int
    priority: int
    match: str
    actions: str
    cookie: int = 0

    @property
    def key(self) -> FlowKey:
        """Return what makes this flow the same flow."""
        return FlowKey(self.table, self.priority, self.match)


def canonical_match(tokens: Iterable[str]) -> str:
    """Return ``tokens`` in the one order in which matches are compared."""
    return ",".join(sorted(tokens))


def parse_flow(line: str) -> Flow:
    """Return the flow that a line of ``dump-flows --no-stats`` describes."""
    head, _, actions = line.partition(" actions=")
    values = {"cookie": "0", "table": "0", "priority": "32768"}  # what ovs-ofctl leaves out
    match = []
    for token in head.strip().replace(", ", ",").split(","):
        name, _, value = token.partition("=")
        if name in values:
            values[name] = value
        elif token:
            match.append(token)
    return Flow(
        table=int(values["table"]),
        priority=int(values["priority"]),
        match=canonical_match(match),
        actions=actions,
        cookie=int(values["cookie"], 16),
    )


class OpenFlowBridge:
    """One bridge, by its management socket (``RUNDIR/NAME.mgmt``)."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._parsed: dict[str, Flow] = {}  # of the last dump: most lines come again unchanged

    def dump_flows(self) -> tuple[Flow, ...]:
        """Return all flows the bridge holds now, ours or not. Raises OpenFlowError."""
        printed = self._ofctl(("--no-stats", "--no-names"), ("dump-flows",), "")
        known = self._parsed
        self._parsed = {
            line: known.get(line) or parse_flow(line) for line in printed.splitlines() if line
        }
        return tuple(self._parsed.values())

    def apply_bundle(self, add: Iterable[Flow], delete: Iterable[Flow]) -> None:
        """Delete, then add (or replace) flows in one step, all or none. Raises OpenFlowError.

        A flow is deleted only if its match, priority and cookie are exactly these.
        """
        lines = [*map(_delete_line, delete), *map(_add_line, add)]
        if lines:
            self._ofctl(("--bundle",), ("add-flows", "-"), "\n".join(lines) + "\n")

    def _ofctl(self, options: tuple[str, ...], words: tuple[str, ...], stdin: str) -> str:
        command, *rest = words
        target = f"unix:{self._socket.absolute()}"
        line = [find_program("ovs-ofctl"), "-O", _VERSION, *options, command, target, *rest]
        try:
            result = subprocess.run(
                line, input=stdin, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise OpenFlowError(
                f"bridge {self._socket.stem}: {command}: no answer within {_TIMEOUT_S:.0f} s;"
                " see the log of ovs-vswitchd"
            ) from error
        if result.returncode:
            raise OpenFlowError(
                f"bridge {self._socket.stem}: {command}: {result.stderr.strip() or 'no message'};"
                " check that ovs-vswitchd runs, and its log"
            )
        return result.stdout


def _add_line(flow: Flow) -> str:
    return f"add cookie={flow.cookie:#x},{_selector(flow)},actions={flow.actions}"


def _delete_line(flow: Flow) -> str:
    return f"delete_strict cookie={flow.cookie:#x}/-1,{_selector(flow)}"


def _selector(flow: Flow) -> str:
    selector = f"table={flow.table},priority={flow.priority}"
    return f"{selector},{flow.match}" if flow.match else selector
