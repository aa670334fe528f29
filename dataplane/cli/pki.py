"""``pki``: certificates for nodes, tenants and administrators."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from dataplane.cli.outcome import FAILED, OK
from dataplane.cli.output import Format, Listing, Record, output_option, show
from dataplane.core.errors import InvalidValueError
from dataplane.pki import certificates
from dataplane.pki.authority import Authority, Issued
from dataplane.pki.certificates import AUTHORITY_DAYS, DAYS, Certificate, Holder, Role, shown

DEFAULT_DIRECTORY = Path("/etc/overweave/pki")
LISTING = Listing("certificate", ("name", "role", "until", "says"), ("since", "issuer", "file"))

_directory = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=DEFAULT_DIRECTORY,
    show_default=True,
    help="where the authority's files are",
)
_days = click.IntRange(1, 36500)


@click.group()
def pki() -> None:
    """Certificates: who is which node, for the fabric database and between host and DPU.

    CN is the node's name, OU the role. To replace an authority: rotate, cacert.pem to all nodes,
    renew everybody, their new files to them, rotate --finish, cacert.pem to all nodes.
    """


@pki.command()
@_directory
@click.option("--days", type=_days, default=AUTHORITY_DAYS, show_default=True)
def init(directory: Path, days: int) -> None:
    """Make an authority, unless there is one."""
    authority = Authority(directory)
    made = authority.create(_now(), days)
    click.echo(f"authority {directory}: {'made' if made else 'was there'}")
    click.echo(f"next: overweave pki issue NODE{_where(directory)}")


@pki.command()
@_directory
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice([role.value for role in Role]),
    default=Role.NODE.value,
    show_default=True,
    help="node: an agent; tenant: may also write segments; admin: an operator",
)
@click.option("--days", type=_days, default=DAYS, show_default=True)
def issue(directory: Path, name: str, role: str, days: int) -> None:
    """Make a key and a certificate for NAME, of a node its name in the fabric."""
    issued = Authority(directory).issue(Holder(name, Role(role)), _now(), days)
    _tell(directory, issued, "made" if issued.is_new else "was there")


@pki.command()
@_directory
@click.argument("name")
@click.option("--days", type=_days, help="default: as many as before")
def renew(directory: Path, name: str, days: int | None) -> None:
    """Make a new key and certificate for NAME, with the same role.

    Agents and ovsdb-server take new files by themselves, where they stand in for the old ones.
    """
    _tell(directory, Authority(directory).renew(name, _now(), days), "renewed")


@pki.command()
@_directory
@click.option("--days", type=_days, default=AUTHORITY_DAYS, show_default=True)
@click.option("--finish", is_flag=True, help="trust the new authority alone")
def rotate(directory: Path, days: int, finish: bool) -> None:  # noqa: FBT001
    """Put a new authority beside the old one; both are trusted until --finish."""
    authority = Authority(directory)
    if finish:
        authority.finish()
        click.echo(f"{authority.bundle}: the new authority alone")
        click.echo(f"next: copy {authority.bundle} to all nodes")
        return
    authority.rotate(_now(), days)
    click.echo(f"{authority.bundle}: a new authority, and the one before")
    click.echo(f"next: copy {authority.bundle} to all nodes, then overweave pki renew each of them")


@pki.command(name="show")
@_directory
@click.argument("files", type=click.Path(path_type=Path, dir_okay=False), nargs=-1)
@output_option
def show_certificates(directory: Path, files: tuple[Path, ...], form: str) -> int:
    """List what the authority has issued, or FILES; exit status 1 if one is not valid now."""
    found = [pair for file in files for pair in _read(file)] or Authority(directory).listing()
    records = [_record(path, certificate) for path, certificate in found]
    show(records, LISTING, Format(form))
    now = _now()
    return FAILED if any(certificate.fault(now) for _, certificate in found) else OK


def _read(file: Path) -> list[tuple[Path, Certificate]]:
    try:
        return [(file, each) for each in certificates.read_bundle(file.read_bytes())]
    except OSError as error:
        raise InvalidValueError(f"{file}: {error.strerror}") from None
    except InvalidValueError as error:
        raise InvalidValueError(f"{file} {error}") from None


def _record(path: Path, certificate: Certificate) -> Record:
    holder = certificate.holder
    return {
        "name": holder.name if holder else certificate.subject,
        "role": holder.role.value if holder else "authority",
        "since": shown(certificate.begins),
        "until": shown(certificate.ends),
        "says": certificate.warning(_now()) or "valid",
        "issuer": certificate.issuer,
        "serial": f"{certificate.serial:x}",
        "file": str(path),
    }


def _tell(directory: Path, issued: Issued, what: str) -> None:
    certificate = issued.certificate
    click.echo(f"{certificate.holder}: {what}, valid until {shown(certificate.ends)}")
    click.echo(f"  private_key: {issued.key}")
    click.echo(f"  certificate: {issued.path}")
    click.echo(f"  ca_cert: {Authority(directory).bundle}")
    click.echo("next: copy them to where they are used, the key so that nobody else can read it")


def _where(directory: Path) -> str:
    return "" if directory == DEFAULT_DIRECTORY else f" --dir {directory}"


def _now() -> datetime:
    return datetime.now(UTC)
