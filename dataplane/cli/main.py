"""The entry point: finds the command, runs it, and turns every error into words and a status."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import click

from dataplane.cli.lazy import Lazy, LazyGroup
from dataplane.cli.outcome import BAD_INPUT, FAILED, INTERRUPTED, OK, exit_status
from dataplane.core.errors import OverweaveError

COMMANDS = {
    "agent": Lazy("dataplane.cli.agent:agent", "run the agent of this node"),
    "config": Lazy("dataplane.cli.config:config", "print or check the agent's configuration"),
    "pki": Lazy("dataplane.cli.pki:pki", "certificates of nodes, tenants and administrators"),
    "fabric": Lazy("dataplane.cli.fabric:fabric", "run the fabric database"),
    "apply": Lazy("dataplane.cli.intent:apply", "make the fabric as a file says"),
    "delete": Lazy("dataplane.cli.intent:delete", "delete a segment, grant, pin or static node"),
    "node": Lazy("dataplane.cli.intent:node", "free what a dead node owned"),
    "get": Lazy("dataplane.cli.get:get", "list nodes, segments, endpoints, ports or tunnels"),
    "status": Lazy("dataplane.cli.status:status", "say whether the agents are ready, and why not"),
    "ping": Lazy("dataplane.cli.ping:ping", "ping between all pods of each segment"),
    "trace": Lazy("dataplane.cli.trace:trace", "say what becomes of packets between two endpoints"),
    "verify": Lazy(
        "dataplane.cli.verify:verify", "compare switch, eBPF and Open vSwitch on frames"
    ),
    "explain": Lazy("dataplane.cli.explain:explain", "say by which path entries go, and why"),
    "lab": Lazy("dataplane.cli.lab:lab", "nodes as namespaces on this machine, with pods on them"),
    "bench": Lazy("dataplane.cli.bench:bench", "take figures, in a lab of their own"),
    "uninstall": Lazy("dataplane.cli.uninstall:uninstall", "remove all that is ours here"),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, no_args_is_help=True)
@click.version_option(package_name="overweave")
def overweave() -> None:
    """Pods of several nodes on one L2 network, over Open vSwitch.

    Exit status: 0 done and well; 1 failed, or what was looked at is not well; 2 wrong usage or
    input; 3 the fabric database or an agent cannot be reached.
    """


def main() -> None:
    """Run the command of this process's arguments."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status; errors are told on standard error."""
    try:
        result = overweave.main(list(arguments), "overweave", standalone_mode=False)
        sys.stdout.flush()
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return BAD_INPUT
    except click.ClickException as error:
        return _told(_usage(error), BAD_INPUT)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except OverweaveError as error:
        return _told(str(error), exit_status(error))
    except BrokenPipeError:  # who reads us has seen enough; Python must not complain at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    return result if isinstance(result, int) else OK


def _usage(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "overweave"
    return f"{error.format_message().rstrip('.')}; see: {path} --help"


def _told(text: str, status: int) -> int:
    print("\n".join(f"overweave: {line}" for line in text.splitlines()), file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
