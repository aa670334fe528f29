"""``bench``: figures, taken from a checkout."""

from __future__ import annotations

from pathlib import Path

import click

from dataplane.core.errors import OverweaveError


@click.group()
def bench() -> None:
    """Take figures, in a lab of their own that is gone afterwards."""


@bench.command()
@click.option("--pods", type=click.IntRange(1, 250), default=100, show_default=True)
@click.option(
    "--json",
    "target",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="write them to this file, too",
)
def cni(pods: int, target: Path | None) -> None:
    """Time CNI ADD and DEL beside Debian's bridge and host-local, and the agent itself."""
    try:
        from bench import cni as figures
    except ModuleNotFoundError as error:
        if error.name != "bench":
            raise
        raise OverweaveError(
            "this installation has no bench: figures are taken from a checkout of Overweave"
        ) from error
    figures.run(pods, target)
