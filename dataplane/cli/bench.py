"""``bench``: figures, taken from a checkout."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType

import click

from dataplane.core.errors import OverweaveError

json_option = click.option(
    "--json",
    "target",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="write them to this file, too",
)
rounds_option = click.option(
    "--rounds", type=click.IntRange(1), default=7, show_default=True, help="how often all is timed"
)


@click.group()
def bench() -> None:
    """Take figures, in a lab of their own that is gone afterwards."""


@bench.command()
@click.option("--pods", type=click.IntRange(1, 250), default=100, show_default=True)
@json_option
def cni(pods: int, target: Path | None) -> None:
    """Time CNI ADD and DEL beside Debian's bridge and host-local, and the agent itself."""
    _figures("cni").run(pods, target)


@bench.command()
@rounds_option
@json_option
def offload(rounds: int, target: Path | None) -> None:
    """Time how entries come into a DPU's (emulated) switch or tc, and what its death costs."""
    _figures("offload").run(rounds, target)


@bench.command()
@rounds_option
@click.option("--ports", type=click.IntRange(2, 2000), default=1000, show_default=True)
@json_option
def opi(rounds: int, ports: int, target: Path | None) -> None:
    """Time bridge ports of OPI's clients, a thousand on one agent, and the pool of DPUs."""
    _figures("opi").run(rounds, ports, target)


@bench.command("packet-cost")
@rounds_option
@json_option
def packet_cost(rounds: int, target: Path | None) -> None:
    """Time one packet in the eBPF programs, with few entries and with many, and their load."""
    _figures("packet_cost").run(rounds, target)


@bench.command()
@rounds_option
@json_option
@click.option(
    "--plot",
    "picture",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="draw them, too, to this name with the suffixes .png and .svg",
)
@click.option(
    "--flood",
    is_flag=True,
    help="instead, what known traffic gets through a flood of forged packets, with and without XDP",
)
def throughput(rounds: int, target: Path | None, picture: Path | None, *, flood: bool) -> None:
    """Compare TCP, small packets and requests with plain bridges, kernel VXLAN and the limit."""
    if not flood:
        _figures("throughput").run(rounds, target, picture)
    elif picture is not None:
        raise click.UsageError("--plot draws the ways of throughput; --flood has none")
    else:
        _figures("flood").run(rounds, target)


def _figures(name: str) -> ModuleType:
    try:
        return import_module(f"bench.{name}")
    except ModuleNotFoundError as error:
        if error.name != "bench":
            raise
        raise OverweaveError(
            "this installation has no bench: figures are taken from a checkout of Overweave"
        ) from error
