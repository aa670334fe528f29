"""The directory of an authority: its key, whom nodes are to trust, and what it has issued.

Every step can be repeated, and goes on where it was interrupted.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from dataplane import durable
from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.core.model import check_name
from dataplane.pki import certificates
from dataplane.pki.certificates import Certificate, Holder, Pair

_SECRET, _PUBLIC = 0o600, 0o644
_CERTIFICATE = "-cert.pem"


class PkiError(OverweaveError):
    """A certificate cannot be made; the text says what is in the way."""


@dataclass(frozen=True, slots=True)
class Issued:
    """Where the files of a holder are; ``is_new``: they were made just now."""

    key: Path
    path: Path
    certificate: Certificate
    is_new: bool


class Authority:
    """One directory, which nobody else may enter; one process at a time writes there.

    ``cakey.pem`` is the key with its own certificate: both or neither are there. ``cacert.pem`` is
    what nodes are to trust: that certificate first, then, during a rotation, the one before.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def bundle(self) -> Path:
        """Return the file with the certificates that nodes are to trust."""
        return self.directory / "cacert.pem"

    def create(self, now: datetime, days: int) -> bool:
        """Make the authority; return whether it was made just now. Raises PkiError."""
        with _told(self.directory):
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._alone():
            if self._own.exists():
                self._pair()
                return False
            if self.bundle.exists():
                raise PkiError(
                    f"{self.bundle} is there without {self._own}: put the key back, or choose"
                    " another --dir"
                )
            self._renew_own(certificates.make_authority(now, days), [])
        return True

    def issue(self, holder: Holder, now: datetime, days: int) -> Issued:
        """Return the files of ``holder``, made unless they are there.

        Raises InvalidValueError, and PkiError if something else is there under that name.
        """
        check_name(holder.role, holder.name)
        with self._alone():
            found = self._found(holder.name)
            if found is None:
                return self._write(holder, now, days)
            if found.certificate.holder != holder:
                raise PkiError(
                    f"{found.path} is there and is of {found.certificate.subject}, not of {holder};"
                    " a name has one role: choose another name, or remove the file"
                )
            fault = found.certificate.fault(now) or self._stranger(found.path)
        if fault:
            raise PkiError(f"{found.path} {fault}; renew it: overweave pki renew {holder.name}")
        return found

    def renew(self, name: str, now: datetime, days: int | None) -> Issued:
        """Make a new key and certificate for a holder that has one, by default for as long.

        Raises InvalidValueError and PkiError.
        """
        check_name("certificate", name)
        with self._alone():
            found = self._found(name)
            before = found.certificate if found else None
            if before is None or before.holder is None:
                raise PkiError(
                    f"{self._certificate(name)} is no certificate of a node, tenant or admin;"
                    f" make one: overweave pki issue {name}"
                )
            lifetime = before.ends - before.begins - certificates.CLOCKS_DIFFER
            return self._write(before.holder, now, days or max(1, lifetime.days))

    def rotate(self, now: datetime, days: int) -> None:
        """Put a new authority first, and keep the one before as trusted. Raises PkiError."""
        with self._alone():
            self._pair()
            trusted = _certificates(self.bundle)
            if len(trusted) > 1:
                raise PkiError(
                    f"{self.bundle}: a rotation is under way; end it: overweave pki rotate --finish"
                )
            self._renew_own(certificates.make_authority(now, days), trusted)

    def finish(self) -> None:
        """Trust the newest authority alone. Raises PkiError while an earlier one's are in use."""
        with self._alone():
            own = self._pair().certificate
            left = [name for name in self._names() if not _is_signed(self._certificate(name), own)]
            if left:
                raise PkiError(
                    f"{', '.join(left)}: signed by the authority before; renew first: overweave"
                    f" pki renew {left[0]}"
                )
            durable.write(self.bundle, own.decode(), _PUBLIC)
            durable.settle(self.directory)

    def listing(self) -> list[tuple[Path, Certificate]]:
        """Return the files of the authority and of all holders, with what they say."""
        with self._alone():
            self._pair()
            issued = [(self._certificate(name), 1) for name in self._names()]
            return [
                (path, certificates.read_certificate(each))
                for path, count in [(self.bundle, None), *issued]
                for each in _certificates(path)[:count]
            ]

    # --- the caller is alone ---

    @property
    def _own(self) -> Path:
        return self.directory / "cakey.pem"

    def _pair(self) -> Pair:
        """Return the authority's own, once ``cacert.pem`` says so too. Raises PkiError."""
        if not self._own.exists():
            raise PkiError(f"{self._own}: there is no authority; make one: overweave pki init")
        own = Pair(self._own.read_bytes(), _certificates(self._own)[0])
        with _about(self._own):
            if not certificates.key_fits(own.key, own.certificate):
                raise InvalidValueError("holds a key and another one's certificate")
        self._trust(own.certificate)
        return own

    def _trust(self, own: bytes) -> None:
        """End what was interrupted between the key's file and the certificates'."""
        before = _certificates(self.bundle) if self.bundle.exists() else []
        if not before or before[0] != own:
            durable.write(self.bundle, b"".join([own, *before]).decode(), _PUBLIC)

    def _renew_own(self, pair: Pair, before: list[bytes]) -> None:
        durable.write(self._own, (pair.key + pair.certificate).decode(), _SECRET)
        bundle = b"".join([pair.certificate, *before])
        durable.write(self.bundle, bundle.decode(), _PUBLIC)
        durable.settle(self.directory)

    def _write(self, holder: Holder, now: datetime, days: int) -> Issued:
        pair = certificates.issue(self._pair(), holder, now, days)
        key, path = self._key(holder.name), self._certificate(holder.name)
        durable.write(key, pair.key.decode(), _SECRET)
        durable.write(path, pair.certificate.decode(), _PUBLIC)
        durable.settle(self.directory)
        return Issued(key, path, certificates.read_certificate(pair.certificate), is_new=True)

    def _found(self, name: str) -> Issued | None:
        path = self._certificate(name)
        if not path.exists():
            return None
        found = certificates.read_certificate(_certificates(path)[0])
        return Issued(self._key(name), path, found, is_new=False)

    def _stranger(self, path: Path) -> str:
        self._pair()
        trusted = b"".join(_certificates(self.bundle))
        return "" if _is_signed(path, trusted) else f"is signed by none of {self.bundle}"

    def _names(self) -> list[str]:
        paths = self.directory.glob(f"*{_CERTIFICATE}")
        return sorted(path.name.removesuffix(_CERTIFICATE) for path in paths)

    def _key(self, name: str) -> Path:
        return self.directory / f"{name}-privkey.pem"

    def _certificate(self, name: str) -> Path:
        return self.directory / f"{name}{_CERTIFICATE}"

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self.directory.is_dir():
            raise PkiError(f"{self.directory}: there is no authority; make one: overweave pki init")
        with _told(self.directory), (self.directory / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _certificates(path: Path) -> list[bytes]:
    with _about(path):
        return certificates.split(path.read_bytes())


def _is_signed(path: Path, bundle: bytes) -> bool:
    return certificates.is_signed_by(_certificates(path)[0], bundle)


@contextmanager
def _about(path: Path) -> Iterator[None]:
    try:
        yield
    except InvalidValueError as error:
        raise PkiError(f"{path} {error}") from None


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise PkiError(f"{error.filename or path}: {error.strerror}") from error
