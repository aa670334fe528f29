"""``lab``: namespaces as nodes, with pods on them."""

from __future__ import annotations

from pathlib import Path

import click

from dataplane.cli.outcome import FAILED, OK
from dataplane.cli.output import Format, Listing, output_option, show
from dataplane.core.errors import InvalidValueError
from dataplane.lab import dpus
from dataplane.lab import lab as labs
from dataplane.lab.layout import DEFAULT_NAME, LabPaths
from dataplane.lab.runtime import Pod, Runtime
from dataplane.lab.topology import load_topology
from vendors.emulator.control import tell

NODES = Listing("node", ("node", "kind", "addresses", "ovs", "agent", "obstacle"))
PODS = Listing("pod", ("pod", "node", "segment", "mac", "ips", "mtu"))

new_name_option = click.option(
    "--name", default=DEFAULT_NAME, show_default=True, help="which lab, if there are several"
)
name_option = click.option("--name", help="which lab  [default: the only one that is up]")


@click.group()
def lab() -> None:
    """Nodes as namespaces on this machine, each with an Open vSwitch and an agent of its own."""


@lab.command()
@click.argument("topology", required=False, type=click.Path(path_type=Path))
@new_name_option
def up(topology: Path | None, name: str) -> None:
    """Make what is missing of a lab; TOPOLOGY is a file, by default four plain nodes.

    A lab that is up gets what is new in TOPOLOGY, and loses what is in it no more; nothing that
    stays is restarted.
    """
    wanted = load_topology(topology) if topology else None
    built = labs.up(LabPaths(name), wanted, click.echo)
    nodes = ", ".join(node.name for node in built.nodes)
    click.echo(f"lab {name} is up: {nodes}")
    click.echo("next: overweave apply -f FILE, then overweave lab attach POD NODE SEGMENT")


@lab.command()
@name_option
def down(name: str | None) -> None:
    """Remove everything of a lab, also one that came up only in part."""
    paths = _paths(name)
    removed = labs.down(paths, click.echo)
    click.echo(f"lab {paths.name} is gone" if removed else "nothing to do")


@lab.command()
@name_option
@output_option
def status(name: str | None, form: str) -> int:
    """Say what runs on each node; exits 1 if that is not all."""
    paths, topology = labs.opened(_paths(name).name)
    found = labs.status(paths, topology)
    records = [
        {
            "node": one.node.name,
            "kind": one.node.kind.value,
            "addresses": [str(address) for address in one.node.addresses],
            "ovs": one.ovs,
            "agent": one.agent,
            "obstacle": one.obstacle,
        }
        for one in found
    ]
    ours = [one for one in found if one.node in topology.agents]
    well = sum(not one.obstacle for one in ours)
    if form in (Format.TABLE, Format.WIDE):
        click.echo(f"lab {paths.name}: {well} of {len(ours)} nodes are ready")
    show(records, NODES, Format(form))
    if form in (Format.TABLE, Format.WIDE):
        click.echo("next: overweave lab pods" if well == len(ours) else "next: overweave status")
    return OK if well == len(ours) else FAILED


@lab.command("exec", context_settings={"ignore_unknown_options": True})
@click.argument("member")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@name_option
def execute(member: str, command: tuple[str, ...], name: str | None) -> int:
    """Run COMMAND inside a node or pod: overweave lab exec n1 -- ovs-vsctl show."""
    return labs.execute(_paths(name), member, command)


@lab.command()
@click.argument("pod")
@click.argument("node")
@click.argument("segment")
@click.option("--mac", help="ask for this MAC")
@click.option("--ip", "ips", multiple=True, help="ask for ADDRESS/PREFIXLEN; may be repeated")
@click.option("--identity", default="", help="whose the pod is; the same for one that moves")
@click.option("--device", default="", help="give it this VF of a DPU, such as 0000:06:00.2")
@name_option
def attach(  # noqa: PLR0913, PLR0917 - one for each thing a runtime can ask for
    pod: str,
    node: str,
    segment: str,
    mac: str | None,
    ips: tuple[str, ...],
    identity: str,
    device: str,
    name: str | None,
) -> None:
    """Make a POD on NODE and attach it to SEGMENT by overweave-cni, as a runtime does."""
    paths, topology = labs.opened(_paths(name).name)
    if topology.node(node) not in topology.agents:
        raise InvalidValueError(f"node {node} runs no agent, so pods cannot be attached there")
    station = Runtime(paths).add(Pod(pod, node, segment, mac, ips, identity, device))
    ours = ", ".join(map(str, station.ips)) or "no address"
    click.echo(f"{pod} on {node} is attached to {segment}: {station.mac}, {ours}")
    click.echo("next: overweave ping --mesh")


@lab.command()
@click.argument("pod")
@name_option
def detach(pod: str, name: str | None) -> None:
    """Detach POD by overweave-cni and take its namespace away."""
    runtime = Runtime(labs.opened(_paths(name).name)[0])
    there = any(one.name == pod for one in runtime.pods())
    runtime.delete(pod)
    click.echo(f"{pod} is gone" if there else "nothing to do")


@lab.command(context_settings={"ignore_unknown_options": True})
@click.argument("dpu")
@click.argument("words", nargs=-1, required=True)
@name_option
def fault(dpu: str, words: tuple[str, ...], name: str | None) -> None:
    """Tell the emulated switch of DPU what goes wrong, in WORDS; clear ends it.

    table-full TABLE ROWS, slow SECONDS, refuse ADDITIONS, garbage, hang, reset, kill, die, revive,
    port-gone PORT, port-back PORT, lose-one, take (somebody else programs it), clear.
    """
    paths, topology = labs.opened(_paths(name).name)
    node = topology.node(dpu)
    if node.dpu is None:
        raise InvalidValueError(f"node {dpu} is no DPU")
    told = tell(dpus.control(paths, node), *words)
    click.echo(told if told is not None else "done")
    click.echo("next: overweave get entry")


@lab.command()
@name_option
@output_option
def pods(name: str | None, form: str) -> None:
    """List the pods of a lab."""
    runtime = Runtime(labs.opened(_paths(name).name)[0])
    records = []
    for pod in runtime.pods():
        station = runtime.station(pod.name)
        records.append(
            {
                "pod": pod.name,
                "node": pod.node,
                "segment": pod.segment,
                "mac": station.mac,
                "ips": [str(ip) for ip in station.ips],
                "mtu": station.mtu,
            }
        )
    show(records, PODS, Format(form))


def _paths(name: str | None) -> LabPaths:
    there = labs.names()
    if name is None and len(there) > 1:
        raise InvalidValueError(f"several labs are up ({', '.join(there)}); say which with --name")
    return LabPaths(name or next(iter(there), DEFAULT_NAME))
