"""A node's own certificate, read anew when its files change."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from dataplane.core.errors import InvalidValueError
from dataplane.pki import certificates
from dataplane.pki.certificates import Certificate, Role

_OTHERS = 0o077

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Pems:
    """What the three files held at one moment; the key is that of the certificate."""

    private_key: bytes
    certificate: bytes
    ca_cert: bytes
    own: Certificate


class Credentials:
    """The key, certificate and trusted authorities of ``node``, from any thread.

    ``files`` are by key: ``private_key``, ``certificate``, ``ca_cert``. Files that are replaced one
    after the other do not fit together for a moment; until they do, the last ones that did are
    used. Whether the certificate is valid now is not asked: that is said where it is refused.
    """

    def __init__(self, files: Mapping[str, Path], node: str) -> None:
        """Read all. Raises InvalidValueError, which names the file."""
        self.files = dict(files)
        self._node = node
        self._guard = threading.Lock()
        self._stamps = self._look()
        self._pems = _read(self.files, node)

    def current(self) -> Pems:
        """Return the newest that fit together."""
        with self._guard:
            stamps = self._look()
            if stamps != self._stamps:
                self._stamps = stamps
                self._take()
            return self._pems

    def _take(self) -> None:
        try:
            self._pems = _read(self.files, self._node)
        except InvalidValueError as error:
            log.warning("certificate.kept", node=self._node, error=str(error))
            return
        ends = certificates.shown(self._pems.own.ends)
        log.info("certificate.read", holder=str(self._pems.own.holder), ends=ends)

    def _look(self) -> tuple[tuple[int, int, int] | None, ...]:
        return tuple(map(_stamp, self.files.values()))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_ctime_ns, found.st_size  # of its mode, too


def _read(files: Mapping[str, Path], node: str) -> Pems:
    read = {}
    for key, path in files.items():
        try:
            with path.open("rb") as file:
                mode, read[key] = os.fstat(file.fileno()).st_mode, file.read()
        except OSError as error:
            raise InvalidValueError(f"{key} {path}: {error.strerror}") from None
        if key == "private_key" and mode & _OTHERS:
            raise InvalidValueError(
                f"private_key {path} is not its owner's alone, for its mode is {mode & 0o777:o};"
                " chmod 600 it, and renew it if somebody may have read it"
            )
    return _checked(files, node, read)


def _checked(files: Mapping[str, Path], node: str, read: Mapping[str, bytes]) -> Pems:
    with _named(files, "certificate"):
        own = certificates.read_certificate(read["certificate"])
        if own.holder is None or (own.holder.name, own.holder.role) != (node, Role.NODE):
            raise InvalidValueError(
                f"is of {own.holder or own.subject}, and not of {node} (role node); make one:"
                f" overweave pki issue {node}"
            )
    with _named(files, "private_key"):
        if not certificates.key_fits(read["private_key"], read["certificate"]):
            raise InvalidValueError(f"is not the key of certificate {files['certificate']}")
    with _named(files, "ca_cert"):
        certificates.read_bundle(read["ca_cert"])
    return Pems(read["private_key"], read["certificate"], read["ca_cert"], own)


@contextmanager
def _named(files: Mapping[str, Path], key: str) -> Iterator[None]:
    try:
        yield
    except InvalidValueError as error:
        raise InvalidValueError(f"{key} {files[key]} {error}") from None
