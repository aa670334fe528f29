"""``config example`` and ``config check``."""

from __future__ import annotations

from pathlib import Path

import click

from dataplane.config import EXAMPLE, INSTALLED_CONFIG, load_config


@click.group()
def config() -> None:
    """The agent's configuration file."""


@config.command()
def example() -> None:
    """Print a configuration to start from, with every default."""
    click.echo(EXAMPLE, nl=False)


@config.command()
@click.argument("file", type=click.Path(path_type=Path), default=INSTALLED_CONFIG)
def check(file: Path) -> None:
    """Tell every fault of a configuration at once; by default of the installed one."""
    found = load_config(file)
    if found.tls is not None:
        from dataplane.halves import Halves

        Halves(found)  # reads the certificate
    click.echo(f"{file}: valid")
    fabric = found.fabric.remote if found.fabric else "none"
    click.echo(f"node {found.node}, underlay {found.underlay.interface}, fabric {fabric}")
    click.echo(f"next: overweave agent --config {file}")
