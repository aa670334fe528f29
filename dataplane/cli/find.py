"""Which fabric, and which agents, a command is about, if it is not told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from dataplane.core.errors import InvalidValueError
from dataplane.remotes import check_remote

if TYPE_CHECKING:  # a command that is told where to go does without pydantic
    from dataplane.config import AgentConfig
    from dataplane.lab.layout import LabPaths

Command = TypeVar("Command", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class FabricRemote:
    """Where the fabric database is; ``files`` are the certificates for ``ssl:``, by key."""

    remote: str
    files: dict[str, Path]


def fabric_option(command: Command) -> Command:
    """Add ``--fabric`` to a command."""
    option = click.option(
        "--fabric",
        "remote",
        metavar="REMOTE",
        envvar="OVERWEAVE_FABRIC",
        help="fabric database, as unix:/PATH or tcp:ADDRESS:PORT"
        "  [env: OVERWEAVE_FABRIC; default: the installed agent's, else the only lab's]",
    )
    return option(command)


def agent_option(command: Command) -> Command:
    """Add ``--agent`` to a command."""
    option = click.option(
        "--agent",
        "sockets",
        metavar="SOCKET",
        multiple=True,
        envvar="OVERWEAVE_AGENT",
        type=click.Path(path_type=Path),
        help="agent's api.sock, may be repeated (in the environment with : between)"
        "  [env: OVERWEAVE_AGENT; default: the installed agent's, else all of the only lab]",
    )
    return option(command)


def find_fabric(remote: str | None) -> FabricRemote:
    """Return ``remote``, else the installed agent's fabric, else that of the only lab that is up.

    Raises InvalidValueError where that is none or several.
    """
    if remote is not None and "ssl:" not in remote:
        return FabricRemote(check_remote(remote), {})
    installed = _installed()
    if remote is not None:
        if installed is None or not installed.fabric or not installed.fabric.files:
            raise InvalidValueError(f"--fabric {remote!r} needs the installed agent's certificates")
        return FabricRemote(check_remote(remote), installed.fabric.files)
    if installed is not None:
        if installed.fabric is None:
            raise InvalidValueError(
                "the installed agent is in no fabric, for its DPUs are; name it: --fabric REMOTE"
            )
        return FabricRemote(installed.fabric.remote, installed.fabric.files)
    return FabricRemote(f"unix:{_only_lab('--fabric').fabric / 'db.sock'}", {})


def find_agents(sockets: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return ``sockets``, else the installed agent's, else those of the only lab that is up."""
    if sockets:
        return sockets
    installed = _installed()
    if installed is not None:
        return (installed.api_socket,)
    lab = _only_lab("--agent")
    configs = sorted(lab.directory.glob("*/agent.yaml"))
    if not configs:
        raise InvalidValueError(f"lab {lab.name} has no agents; finish it with: overweave lab up")
    return tuple(config.parent / "run" / "api.sock" for config in configs)


def _installed() -> AgentConfig | None:
    from dataplane.config import INSTALLED_CONFIG, load_config

    return load_config(INSTALLED_CONFIG) if INSTALLED_CONFIG.exists() else None


def _only_lab(option: str) -> LabPaths:
    from dataplane.config import INSTALLED_CONFIG
    from dataplane.lab.layout import LABS, LabPaths

    names = sorted(path.name for path in LABS.iterdir()) if LABS.is_dir() else []
    if len(names) == 1:
        return LabPaths(names[0])
    there = f"several labs are up ({', '.join(names)})" if names else "no lab is up"
    raise InvalidValueError(
        f"{there} and {INSTALLED_CONFIG} does not exist; say which with {option}"
    )
