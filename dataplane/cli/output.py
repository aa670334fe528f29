"""Lists as tables for people, and as JSON or YAML for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

import click

Command = TypeVar("Command", bound=Callable[..., Any])
Record = Mapping[str, Any]
_TRUTH = ("no", "yes")
_ENDLESS = 10_000  # columns, where nobody looks: a program that reads wants whole lines


class Format(StrEnum):
    """How a list is shown."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Listing:
    """Records with the keys that a table shows, and the further ones of a wide table.

    ``titles`` are columns that are not called as their key; ``truths`` the words for no and yes.
    """

    kind: str
    table: tuple[str, ...]
    wide: tuple[str, ...] = ()
    titles: Mapping[str, str] = field(default_factory=dict)
    truths: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def output_option(command: Command) -> Command:
    """Add ``-o`` to a command."""
    option = click.option(
        "-o",
        "--output",
        "form",
        type=click.Choice([*map(str, Format)]),
        default=Format.TABLE.value,
        show_default=True,
    )
    return option(command)


def show(records: Sequence[Record], listing: Listing, form: Format) -> None:
    """Print ``records``; JSON and YAML hold every key, tables those of ``listing``."""
    match form:
        case Format.JSON:
            click.echo(json.dumps(list(records), indent=2))
        case Format.YAML:
            import yaml

            click.echo(yaml.safe_dump([dict(r) for r in records], sort_keys=False), nl=False)
        case Format.TABLE | Format.WIDE:
            _show_table(records, shown_keys(listing, form) or (), listing)


def shown_keys(listing: Listing, form: Format) -> tuple[str, ...] | None:
    """Return which keys of records are shown; None: all of them."""
    if form in (Format.JSON, Format.YAML):
        return None
    return listing.table + (listing.wide if form is Format.WIDE else ())


def _show_table(records: Sequence[Record], keys: Sequence[str], listing: Listing) -> None:
    if not records:
        kind = listing.kind
        click.echo(f"no {kind.removesuffix('y')}{'ies' if kind.endswith('y') else 's'}", err=True)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for key in keys:
        title = listing.titles.get(key, key.upper().replace("_", " "))
        table.add_column(title, overflow="fold")
    for record in records:
        table.add_row(*(_cell(record[key], listing.truths.get(key, _TRUTH)) for key in keys))
    console = Console(width=None if sys.stdout.isatty() else _ENDLESS, markup=False, emoji=False)
    with console.capture() as capture:
        console.print(table)
    click.echo("\n".join(line.rstrip() for line in capture.get().splitlines()))


def _cell(value: object, truth: tuple[str, str]) -> str:
    match value:
        case bool():
            return truth[value]
        case dict():
            return ", ".join(f"{key} {count}" for key, count in sorted(value.items())) or "-"
        case list():
            return ", ".join(map(str, value)) or "-"
        case None | "":
            return "-"
    return str(value)
