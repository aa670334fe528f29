"""Certificates for tests, by the product's own hand: `overweave pki` without its command line."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dataplane.pki import certificates
from dataplane.pki.authority import Authority
from dataplane.pki.certificates import Holder, Pair, Role

Files = dict[str, Path]
NOW = datetime.now(UTC)
DAY = timedelta(days=1)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@dataclass
class Pki:
    """An authority, and the directories of nodes that were given their files."""

    directory: Path

    def __post_init__(self) -> None:
        self.authority = Authority(self.directory / "authority")
        self.authority.create(NOW, 100)

    def node(
        self, name: str, place: str = "", role: Role = Role.NODE, when: datetime = NOW
    ) -> Files:
        """Return the files of a new certificate, at a node's own place."""
        files = self.files(place or name)
        with self.authority._alone():
            own = self.authority._pair()
        pair = certificates.issue(own, Holder(name, role), when, 10)
        return self.give(files, pair)

    def stranger(self, name: str) -> Files:
        """Return the files of one who trusts this authority, and whom another one has signed."""
        other = self.directory / f"elsewhere-{name}"
        other.mkdir(exist_ok=True)
        files = Pki(other).node(name)
        self.trust(files)
        return files

    def give(self, files: Files, pair: Pair) -> Files:
        self.trust(files)
        put(files["private_key"], pair.key, 0o600)
        put(files["certificate"], pair.certificate)
        return files

    def trust(self, files: Files) -> None:
        put(files["ca_cert"], self.authority.bundle.read_bytes())

    def files(self, place: str) -> Files:
        where = self.directory / place
        where.mkdir(exist_ok=True)
        return {
            "private_key": where / "privkey.pem",
            "certificate": where / "cert.pem",
            "ca_cert": where / "cacert.pem",
        }


def put(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Put a file in place of another as an administrator does: copied beside it, then renamed."""
    beside = path.with_suffix(".new")
    beside.write_bytes(content)
    beside.chmod(mode)
    beside.rename(path)
