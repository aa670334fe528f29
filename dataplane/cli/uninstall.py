"""``uninstall``: lists, then removes, all that the agent of this machine made."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import click

from dataplane.cli.outcome import FAILED, OK
from dataplane.config import INSTALLED_CONFIG, load_config
from dataplane.core.errors import OverweaveError
from dataplane.uninstall import Inventory, agent_ended, inventory, running_agent
from ovs_client.vswitch import VSwitch


@click.command()
@click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path),
    default=INSTALLED_CONFIG,
    show_default=True,
    help="configuration of the agent whose things go",
)
@click.option("--dry-run", is_flag=True, help="list only")
def uninstall(file: Path, dry_run: bool) -> int:  # noqa: FBT001
    """Remove pods' links, tc filters, bridges, pins, files and fabric rows that are this agent's.

    The agent is asked to end first. What a DPU's switch holds of it goes, and VFs of pods come
    home. A fabric database of this machine goes with the last node in it. The configuration stays,
    and so does everything that is not marked as our own.
    """
    config = load_config(file)
    vswitch = VSwitch(config.ovs_remote)
    vswitch.start()
    agent = running_agent(config)
    try:
        with nullcontext() if dry_run else agent_ended(config):
            found = inventory(config, vswitch)
            faults = [] if dry_run else _remove(found)
    finally:
        vswitch.stop()
    names = [*([agent] if agent else ()), *(thing.name for thing in found.things)]
    if names or found.unseen:
        _tell(names, found, faults, dry_run=dry_run)
    else:
        click.echo("nothing to do")
    for kept in (*found.kept, f"{file}, for the configuration is yours"):
        click.echo(f"kept: {kept}")
    return FAILED if faults or found.unseen else OK


def _remove(found: Inventory) -> list[str]:
    faults = []
    for thing in found.things:
        try:
            thing.remove()
        except (OverweaveError, OSError) as error:
            faults.append(f"{thing.name}: {error}")
    return faults


def _tell(names: list[str], found: Inventory, faults: list[str], *, dry_run: bool) -> None:
    count = len(names)
    done = f"{count} would be removed" if dry_run else f"{count - len(faults)} removed"
    click.echo(f"{done}, {len(faults)} could not be, {len(found.unseen)} places not looked at")
    for name in names:
        click.echo(f"- {name}")
    for fault in faults:
        click.echo(f"overweave: not removed: {fault}", err=True)
    for fault in found.unseen:
        click.echo(f"overweave: not looked at: {fault}", err=True)
