"""OpenFlow through ovs-ofctl: what a bridge holds, and atomic changes to it.

The bridge is spoken to over its management socket, as any OpenFlow controller of this machine may.
Flows go in and come out as text; OpenFlow 1.4 is the first version with bundles (section A.3.9).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from dataplane.core.errors import OverweaveError
from ovs_client.daemons import find_program
from ovs_client.database import Tls

_VERSION = "OpenFlow14"
_TIMEOUT_S = 20.0
_COUNTS = re.compile(r"n_packets=(\d+), n_bytes=(\d+)")
_STATISTICS = ("duration=", "n_packets=", "n_bytes=", "idle_age=", "hard_age=")
_TABLES = re.compile(r" *tables? (\d+)(?:\.\.\.(\d+))?(?: \(.*\))?: *(ditto)?")
_MAX_ENTRIES = re.compile(r" *max_entries=(\d+)")
_REFUSAL = re.compile(
    r"Error (OFP\w+) for: OFPT_FLOW_MOD [^:]*: ADD(?: table:(\d+))?(?: (priority=\S*))?"
)


class FlowKey(NamedTuple):
    """What makes a flow the same flow (OpenFlow 1.4, section 6.4)."""

    table: int
    priority: int
    match: str


class Refusal(NamedTuple):
    """A flow that the switch did not take: its own word for why (OpenFlow 1.4, section 7.4)."""

    code: str
    key: FlowKey


class OpenFlowError(OverweaveError):
    """A bridge could not be asked, or refused a change; the text keeps ovs-ofctl's words whole.

    ``refusal`` names the flow that the switch refused, if it was one.
    """

    def __init__(self, message: str, refusal: Refusal | None = None) -> None:
        """Keep what was refused beside the sentence."""
        super().__init__(message)
        self.refusal = refusal


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


class CountedFlow(NamedTuple):
    """A flow and what it has matched so far."""

    flow: Flow
    packets: int
    bytes: int


def parse_counted(line: str) -> CountedFlow:
    """Return what a line of ``dump-flows`` with statistics says."""
    counts = _COUNTS.search(line)
    packets, octets = (int(counts[1]), int(counts[2])) if counts else (0, 0)
    head, separator, actions = line.partition(" actions=")
    words = (word for word in head.split(", ") if not word.strip().startswith(_STATISTICS))
    return CountedFlow(parse_flow(f"{', '.join(words)}{separator}{actions}"), packets, octets)


def parse_table_limits(printed: str) -> dict[int, int]:
    """Return how many flows each table takes, from what ``dump-table-features`` prints."""
    limits: dict[int, int] = {}
    tables, limit = range(0), 0
    for line in printed.splitlines():
        if head := _TABLES.fullmatch(line):
            first = int(head[1])
            tables = range(first, int(head[2] or first) + 1)
            if head[3]:  # as the table before
                limits |= dict.fromkeys(tables, limit)
        elif entries := _MAX_ENTRIES.fullmatch(line):
            limit = int(entries[1])
            limits |= dict.fromkeys(tables, limit)
    return limits


def parse_refusal(words: str) -> Refusal | None:
    """Return which flow of a bundle was refused, if ovs-ofctl's ``words`` name one."""
    found = _REFUSAL.search(words)
    if found is None:
        return None
    flow = parse_flow(f"{found[3] or ''} actions=")
    return Refusal(found[1], replace(flow, table=int(found[2] or 0)).key)


class OpenFlowBridge:
    """One bridge, by its management socket (``RUNDIR/NAME.mgmt``), or by a remote it listens at.

    A remote is ``unix:PATH``, ``tcp:ADDRESS:PORT`` or, with ``tls``, ``ssl:ADDRESS:PORT``.
    """

    def __init__(
        self, where: Path | str, timeout_s: float = _TIMEOUT_S, tls: Tls | None = None
    ) -> None:
        self._remote = where if isinstance(where, str) else f"unix:{where.absolute()}"
        self._name = Path(where).stem if self._remote.startswith("unix:") else self._remote
        self._timeout_s = timeout_s
        self._tls = _tls_options(tls) if tls else ()
        self._parsed: dict[str, Flow] = {}  # of the last dump: most lines come again unchanged

    def dump_flows(self) -> tuple[Flow, ...]:
        """Return all flows the bridge holds now, ours or not. Raises OpenFlowError."""
        printed = self._ofctl(("--no-stats", "--no-names"), ("dump-flows",), "")
        known = self._parsed
        self._parsed = {
            line: known.get(line) or parse_flow(line) for line in printed.splitlines() if line
        }
        return tuple(self._parsed.values())

    def counted_flows(self, table: int) -> Iterator[CountedFlow]:
        """Yield the flows of ``table`` with their counters. Raises OpenFlowError."""
        printed = self._ofctl(("--no-names",), ("dump-flows", f"table={table}"), "")
        return (parse_counted(line) for line in printed.splitlines() if "actions=" in line)

    def table_limits(self) -> Mapping[int, int]:
        """Return how many flows each table takes, as the switch says. Raises OpenFlowError."""
        return parse_table_limits(self._ofctl((), ("dump-table-features",), ""))

    def apply_bundle(self, add: Iterable[Flow], delete: Iterable[Flow]) -> None:
        """Delete, then add (or replace) flows in one step, all or none. Raises OpenFlowError.

        A flow is deleted only if its match, priority and cookie are exactly these.
        """
        lines = [*map(_delete_line, delete), *map(_add_line, add)]
        if lines:
            text = "\n".join(lines) + "\n"
            self._ofctl(("--bundle", "--no-names"), ("add-flows", "-"), text)

    def _ofctl(self, options: tuple[str, ...], words: tuple[str, ...], stdin: str) -> str:
        command, *rest = words
        program = [find_program("ovs-ofctl"), "-O", _VERSION, *self._tls, *options]
        line = [*program, command, self._remote, *rest]
        try:
            result = subprocess.run(
                line,
                input=stdin,
                capture_output=True,
                text=True,
                check=False,
                timeout=self._timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise OpenFlowError(
                f"bridge {self._name}: {command}: no answer within {self._timeout_s:g} s;"
                " see the log of ovs-vswitchd"
            ) from error
        if result.returncode:
            raise OpenFlowError(
                f"bridge {self._name}: {command}: {result.stderr.strip() or 'no message'};"
                " check that ovs-vswitchd runs, and its log",
                parse_refusal(result.stderr),
            )
        return result.stdout


def _tls_options(tls: Tls) -> tuple[str, ...]:
    return (
        f"--private-key={tls.private_key}",
        f"--certificate={tls.certificate}",
        f"--ca-cert={tls.ca_cert}",
    )


def _add_line(flow: Flow) -> str:
    return f"add cookie={flow.cookie:#x},{_selector(flow)},actions={flow.actions}"


def _delete_line(flow: Flow) -> str:
    return f"delete_strict cookie={flow.cookie:#x}/-1,{_selector(flow)}"


def _selector(flow: Flow) -> str:
    selector = f"table={flow.table},priority={flow.priority}"
    return f"{selector},{flow.match}" if flow.match else selector
