"""Which fabric, and which agents, a command is about, if it is not told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import click

from dataplane.core.errors import InvalidValueError

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
    from dataplane.config import INSTALLED_CONFIG, check_remote, load_config

    installed = load_config(INSTALLED_CONFIG).fabric if INSTALLED_CONFIG.exists() else None
    if remote is None and installed is None:
        return FabricRemote(f"unix:{_only_lab('--fabric').fabric / 'db.sock'}", {})
    files = installed.files if installed else {}
    chosen = check_remote(remote) if remote is not None else installed.remote if installed else ""
    if "ssl:" in chosen and not files:
        raise InvalidValueError(
            f"--fabric {chosen!r} needs certificates; name them in {INSTALLED_CONFIG}"
        )
    return FabricRemote(chosen, files if "ssl:" in chosen else {})


def find_agents(sockets: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return ``sockets``, else the installed agent's, else those of the only lab that is up."""
    from dataplane.config import INSTALLED_CONFIG, load_config

    if sockets:
        return sockets
    if INSTALLED_CONFIG.exists():
        return (load_config(INSTALLED_CONFIG).api_socket,)
    lab = _only_lab("--agent")
    found = sorted(
        config.parent / "run" / "api.sock" for config in lab.directory.glob("*/agent.yaml")
    )
    if not found:
        raise InvalidValueError(f"lab {lab.name} has no agents; finish it with: overweave lab up")
    return tuple(found)


def _only_lab(option: str) -> Any:  # noqa: ANN401 - LabPaths, which --help must not import
    from dataplane.config import INSTALLED_CONFIG
    from dataplane.lab.layout import LABS, LabPaths

    names = sorted(path.name for path in LABS.iterdir()) if LABS.is_dir() else []
    if len(names) == 1:
        return LabPaths(names[0])
    there = f"several labs are up ({', '.join(names)})" if names else "no lab is up"
    raise InvalidValueError(
        f"{there} and {INSTALLED_CONFIG} does not exist; say which with {option}"
    )
