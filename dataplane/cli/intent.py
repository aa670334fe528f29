"""``apply``, ``delete`` and ``node delete``: the fabric as its administrator wants it."""

from __future__ import annotations

from typing import IO

import click

from dataplane.cli.find import fabric_option
from dataplane.cli.store import open_store
from dataplane.core.errors import FabricUnavailableError
from dataplane.fabric.intent import Plan, plan_apply, plan_delete, plan_node_delete
from dataplane.fabric.intent_file import read_intent
from dataplane.fabric.store import FabricStore

dry_run_option = click.option(
    "--dry-run", is_flag=True, help="show what would change, change nothing"
)


@click.command()
@click.option("-f", "--file", type=click.File(encoding="utf-8"), required=True, help="- is stdin")
@dry_run_option
@fabric_option
def apply(file: IO[str], dry_run: bool, remote: str | None) -> None:  # noqa: FBT001
    """Make the fabric as a file says: Segments, Vrfs, Svis, Grants, Pins, static Nodes, Fabric.

    What the file does not name stays. All faults of the file are told at once, and then nothing
    is changed.

    A Pin keeps an endpoint in the switch of a DPU, or out of it, whatever its traffic:

    \b
      kind: Pin
      segment: blue
      endpoint: default/web/eth0   # identity or MAC, as in: overweave get endpoint
      hardware: never              # or always, where the switch can and has room

    An Svi is the gateway of a segment, the same on every node, to all others of its Vrf:

    \b
      kind: Svi
      name: blue
      vrf: shop                    # kind: Vrf, name: shop
      segment: blue
      mac: "02:00:5e:00:01:01"
      prefixes: [10.1.0.1/20, "fd01::1/64"]
    """  # noqa: D301 - \b is the character by which click leaves a paragraph as it is
    try:
        text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise click.BadParameter(f"{file.name}: {error}") from error
    intent = read_intent(text, file.name)
    store = open_store(remote)
    try:
        with store:
            _carry_out(store, plan_apply(intent, store.read()), dry_run=dry_run)
    except FabricUnavailableError:
        intent.check()  # a faulty file is the nearer cause
        raise


@click.command()
@click.argument(
    "kind",
    type=click.Choice(["segment", "vrf", "svi", "grant", "pin", "node"], case_sensitive=False),
)
@click.argument("name")
@dry_run_option
@fabric_option
def delete(kind: str, name: str, dry_run: bool, remote: str | None) -> None:  # noqa: FBT001
    """Delete what a file made.

    NAME of a grant is SEGMENT/NODE or SEGMENT/NODE/MAC, of a pin SEGMENT/IDENTITY or SEGMENT/MAC.
    """
    with open_store(remote) as store:
        _carry_out(store, plan_delete(kind, name, store.read()), dry_run=dry_run)


@click.group()
def node() -> None:
    """Nodes that are gone for good."""


@node.command("delete")
@click.argument("name")
@dry_run_option
@fabric_option
def delete_node(name: str, dry_run: bool, remote: str | None) -> None:  # noqa: FBT001
    """Free all that node NAME owned: tunnel addresses, endpoints, blocks, static addresses.

    A node whose agent still runs publishes itself again.
    """
    with open_store(remote) as store:
        _carry_out(store, plan_node_delete(name, store.read()), dry_run=dry_run)


def _carry_out(store: FabricStore, plan: Plan, *, dry_run: bool) -> None:
    if not plan:
        click.echo("nothing to do")
        return
    if not dry_run:
        new = (*plan.add, *(row for _, row in plan.update))
        store.write(upserts=new, deletes=plan.remove)
    objects = f"{len(plan)} object{'s' if len(plan) > 1 else ''}"
    click.echo(f"{objects} would change" if dry_run else f"{objects} changed")
    click.echo("\n".join(plan.lines()))
    click.echo(f"next: {'the same without --dry-run' if dry_run else 'overweave get segment'}")
