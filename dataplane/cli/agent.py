"""``agent``: the agent of this node, in the foreground."""

from __future__ import annotations

from pathlib import Path

import click

from dataplane.config import INSTALLED_CONFIG, AgentConfig, DatapathChoice, load_config


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
    """Run the agent of this node until SIGTERM, which leaves the dataplane as it is.

    At SIGHUP it reads the configuration again and serves what DPUs of side host its 'devices' have
    by then: one may be added, or taken out, while all goes on. What else has changed needs a
    restart: then it says so in its log, and all stays as it is.
    """

    def read() -> AgentConfig:
        config = load_config(file)
        chosen = {} if datapath is None else {"datapath": DatapathChoice(datapath)}
        return config.model_copy(update=chosen)

    config = read()
    from dataplane.startup import run_agent  # after a faulty file was told: it imports everything

    run_agent(config, read)
