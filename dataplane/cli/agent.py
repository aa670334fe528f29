"""``agent``: the agent of this node, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from dataplane.config import INSTALLED_CONFIG, DatapathChoice, load_config


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=INSTALLED_CONFIG,
    show_default=True,
    help="configuration; print one to start from with: overweave config example",
)
@click.option(
    "--datapath",
    type=click.Choice([choice.value for choice in DatapathChoice]),
    help="which datapath of Open vSwitch carries the overlay, whatever the configuration says:"
    " auto is the kernel's where the node's own Open vSwitch has it, else userspace",
)
def agent(file: Path, datapath: str | None) -> None:
    """Run the agent of this node until SIGTERM, which leaves the dataplane as it is."""
    config = load_config(file)
    if datapath is not None:
        config = config.model_copy(update={"datapath": DatapathChoice(datapath)})
    from dataplane.startup import run_agent  # after a faulty file was told: it imports everything

    run_agent(config)
