"""``fabric run``: the fabric database of one machine."""

from __future__ import annotations

import os
from pathlib import Path

import click

from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.fabric import SCHEMA, schema
from ovs_client.daemons import DatabaseServer, Place, find_program

DEFAULT_DIRECTORY = Path("/var/lib/overweave/fabric")
_SERVER = "ovsdb-server"


@click.group()
def fabric() -> None:
    """The fabric database, which all nodes share."""


@fabric.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_DIRECTORY,
    show_default=True,
    help="where the database file and its socket are",
)
@click.option(
    "--listen",
    "listeners",
    multiple=True,
    metavar="REMOTE",
    help="unix:/PATH, ptcp:PORT[:ADDRESS] (anyone who connects may write all) or"
    " pssl:PORT[:ADDRESS] (a node may write its own rows only); may be repeated",
)
@click.option("--private-key", type=click.Path(path_type=Path, exists=True), help="for pssl")
@click.option("--certificate", type=click.Path(path_type=Path, exists=True), help="for pssl")
@click.option("--ca-cert", type=click.Path(path_type=Path, exists=True), help="for pssl")
def run(directory: Path, listeners: tuple[str, ...], **files: Path | None) -> None:
    """Serve the fabric database in the foreground, made at the first start; ends with SIGTERM.

    It always listens on DIR/db.sock, which only root reaches; --listen adds to that.
    """
    targets = [_target(listener) for listener in listeners]
    place = Place(directory.absolute(), directory.absolute())
    server = DatabaseServer(place, SCHEMA)
    if server.running():
        raise OverweaveError(f"{directory} is served already, by process {place.pid(_SERVER)}")
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    schema.create_database(server.database)
    schema.set_listeners(server.database, targets, _tls(files))
    click.echo(f"fabric database {server.remote}")
    for target in targets:
        access = "" if target.startswith("pssl:") else ": not authenticated"
        click.echo(f"listens on {target}{access}")
    click.echo(f"next: overweave apply -f FILE --fabric {server.remote}", nl=True)
    _become(server)


def _target(listener: str) -> str:
    kind, _, rest = listener.partition(":")
    if kind == "unix" and rest.startswith("/"):
        return f"punix:{rest}"
    port = rest.partition(":")[0]
    if kind in ("ptcp", "pssl") and port.isascii() and port.isdigit() and 1 <= int(port) <= 65535:
        return listener
    raise InvalidValueError(
        f"--listen {listener!r} is not unix:/PATH, ptcp:PORT[:ADDRESS] or pssl:PORT[:ADDRESS]"
    )


def _tls(files: dict[str, Path | None]) -> schema.Tls | None:
    given = {key: path for key, path in files.items() if path is not None}
    if not given:
        return None
    if len(given) < len(files):
        missing = " and ".join(f"--{key.replace('_', '-')}" for key in files.keys() - given.keys())
        raise InvalidValueError(f"--{next(iter(given)).replace('_', '-')} needs {missing}")
    return schema.Tls(given["private_key"], given["certificate"], given["ca_cert"])


def _become(server: DatabaseServer) -> None:
    """Replace this process by ovsdb-server: nothing of ours has to stay in memory."""
    place = server.place
    arguments = [
        str(server.database),
        f"--remote=punix:{server.socket}",
        *schema.SERVER_ARGUMENTS,
        f"--pidfile={place.pidfile(_SERVER)}",
        f"--log-file={place.log(_SERVER)}",
        "-vconsole:warn",
        "-vsyslog:off",
    ]
    environment = {**os.environ, "OVS_RUNDIR": str(place.directory)}
    program = find_program(_SERVER)
    os.execve(program, [program, *arguments], environment)  # noqa: S606 - no shell in it
