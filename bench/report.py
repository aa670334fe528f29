"""What a run says in the end: its figures as a table, below them the machine, and as a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from bench.figures import Figure, Fingerprint, document, table

_PAGE = 120  # columns, where nobody looks


def page() -> Console:
    """Return standard output, wide enough for a table."""
    return Console(highlight=False, width=None if sys.stdout.isatty() else _PAGE)


def tell(
    machine: Fingerprint,
    figures: Sequence[Figure],
    target: Path | None,
    shown: Sequence[Figure] | None = None,
) -> None:
    """Write all ``figures`` to ``target`` as JSON; print those ``shown``, else all of them."""
    if target is not None:
        target.write_text(document(machine, figures), encoding="utf-8")
    console = page()
    console.print(table(figures if shown is None else shown))
    judged = [figure.met for figure in figures if figure.met is not None]
    console.print(f"{machine.summary}\naims met: {sum(judged)} of {len(judged)}", soft_wrap=True)
