"""``agent``: the agent of this node, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from dataplane.config import INSTALLED_CONFIG, load_config


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=INSTALLED_CONFIG,
    show_default=True,
    help="configuration; print one to start from with: overweave config example",
)
def agent(file: Path) -> None:
    """Run the agent of this node until SIGTERM, which leaves the dataplane as it is."""
    config = load_config(file)
    from dataplane.startup import run_agent  # after a faulty file was told: it imports everything

    run_agent(config)
