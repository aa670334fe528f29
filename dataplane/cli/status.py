"""``status``: the verdict on each agent, what it rests on, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from dataplane.cli.find import agent_option
from dataplane.cli.outcome import FAILED, OK, UNREACHABLE
from dataplane.cli.output import Format, Listing, Record, output_option, show
from dataplane.core.snapshot import NO_ACCESS

_SLOW = "no fast path"  # begins what the agent says of its fast path where it has none
LISTING = Listing("agent", ())


@click.command()
@output_option
@agent_option
def status(form: str, sockets: tuple[Path, ...]) -> int:
    """Say whether the agents are ready, and if not why; exits 1 then, 3 if one does not answer."""
    from dataplane.cli.agents import statuses

    found = statuses(sockets)
    if form in (Format.JSON, Format.YAML):
        show(found, LISTING, Format(form))
    else:
        click.echo("\n".join(_lines(found, everything=form == Format.WIDE or len(found) == 1)))
    if any(record["unreachable"] for record in found):
        return UNREACHABLE
    return OK if all(map(_is_well, found)) else FAILED


def _lines(records: list[Record], *, everything: bool) -> Iterator[str]:
    if len(records) > 1:
        yield f"{sum(map(_is_well, records))} of {len(records)} agents are ready"
    for record in records:
        yield _verdict(record)
        yield from (f"  {line}" for line in _ills(record))
        if not record["unreachable"]:
            yield from (f"  {line}" for line in _notes(record, everything=everything))
    yield f"next: {_next(records)}"


def _verdict(record: Record) -> str:
    if record["unreachable"]:
        return f"NO ANSWER: {record['unreachable']}"
    if record["obstacle"]:
        return f"{record['node']}: NOT READY: {record['obstacle']}"
    unwell = "ready, but not well" if _ills(record) else "ready"
    return f"{record['node']}: {unwell}: {_count(record['ports'], 'port')}"


def _is_well(record: Record) -> bool:
    return not (record["unreachable"] or record["obstacle"] or _ills(record))


def _ills(record: Record) -> list[str]:
    """Return what must be mended, besides what the verdict itself says."""
    if record["unreachable"]:
        return []
    ills = [
        f"target {target['name']}: {target['error'] or _overdue(target)}"
        for target in record["targets"]
        if target["error"] or target["overdue_s"]
    ]
    if _has_lost_its_fabric(record):
        ills.insert(0, f"fabric database: {record['fabric_error']}")
    return [*ills, *record["problems"]]


def _has_lost_its_fabric(record: Record) -> bool:
    return not record["fabric_connected"] and record["fabric_access"] != NO_ACCESS


def _notes(record: Record, *, everything: bool) -> Iterator[str]:
    for port in record["blocked"]:
        yield f"blocked: {_port(port)}: {port['reason']} {port['detail']}".rstrip()
    for port in record["unpublished"]:
        yield f"unpublished: {_port(port)}"
    for target in record["targets"]:
        yield from (f"pending in {target['name']}: {pending}" for pending in target["pending"])
    if not everything:
        yield from (mode for mode in record["modes"].values() if mode.startswith(_SLOW))
    if everything:
        yield f"fabric: {record['fabric_access']}"
        yield f"VTEPs: {', '.join(record['vteps']) or 'none'}"
        yield from (f"{name}: {value}" for name, value in sorted(record["modes"].items()))
        names = ", ".join(f"{t['name']} ({t['generation']})" for t in record["targets"])
        yield f"targets (generation): {names}"


def _next(records: list[Record]) -> str:
    if any(record["unreachable"] for record in records):
        return "start the agent: overweave agent --config FILE"
    if any(map(_has_lost_its_fabric, records)):
        return "ask the fabric database from here: overweave get node"
    return "overweave get port -o wide"


def _port(port: Record) -> str:
    return f"{port['identity']} on {port['segment']} ({port['mac']})"


def _overdue(target: Record) -> str:
    return f"{target['overdue_s']:.1f} s over its deadline"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
