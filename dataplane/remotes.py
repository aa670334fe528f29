"""How the address of a database is written (ovsdb(7), Connection Methods), checked."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from pathlib import Path

from dataplane.core.errors import InvalidValueError

CERTIFICATE_KEYS = ("private_key", "certificate", "ca_cert")
SUN_PATH = 107  # unix(7): the longest name of a socket, sun_path less its final zero byte


def check_remote(text: str) -> str:
    """Return ``text`` if it is ``unix:/PATH``, ``tcp:HOST:PORT`` or ``ssl:HOST:PORT``, or several.

    Several are the members of a cluster, with commas between. Raises InvalidValueError.
    """
    for remote in text.split(","):
        method, _, where = remote.partition(":")
        if not (
            _is_path(where) if method == "unix" else method in ("tcp", "ssl") and _is_host(where)
        ):
            raise InvalidValueError(
                f"remote {remote!r} is not unix:/PATH, tcp:ADDRESS:PORT or ssl:ADDRESS:PORT"
                " (IPv6 in brackets); several with commas between"
            )
    return text


def check_certificates(prefix: str, remotes: Mapping[str, str], files: Mapping[str, Path]) -> None:
    """See that ``ssl:`` among ``remotes``, by key, has its files, and that all files are there.

    ``prefix`` is what stands before a key in a message. Raises InvalidValueError.
    """
    missing = [prefix + key for key in CERTIFICATE_KEYS if key not in files]
    for key, remote in remotes.items():
        if "ssl:" in remote and missing:
            raise InvalidValueError(f"{prefix}{key} {remote!r} needs {' and '.join(missing)}")
    absent = [f"{prefix}{key} {path}" for key, path in files.items() if not path.is_file()]
    if absent:
        raise InvalidValueError(f"{', '.join(absent)}: no such file on this machine")


def is_port(text: str) -> bool:
    """Say whether ``text`` is the number of a TCP port."""
    return text.isascii() and text.isdigit() and 1 <= int(text) <= 65535


def _is_path(where: str) -> bool:
    return where.startswith("/") and len(where.encode()) <= SUN_PATH


def _is_host(where: str) -> bool:
    host, _, port = where.rpartition(":")
    if not is_port(port):
        return False
    if host.startswith("["):
        return host.endswith("]") and _is_ip(host[1:-1], 6)
    return bool(host) and ":" not in host and host == host.strip()


def _is_ip(text: str, version: int) -> bool:
    try:
        return ip_address(text).version == version
    except ValueError:
        return False
