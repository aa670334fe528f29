"""Where pins live: a file system of type bpf, mounted for one node at a directory of its own."""

from __future__ import annotations

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path

from dataplane.core.errors import OverweaveError

_MOUNTS = Path("/proc/self/mountinfo")
_STANDARD = Path("/sys/fs/bpf")
_libc = ctypes.CDLL(None, use_errno=True)


class BpffsError(OverweaveError):
    """A directory is no bpffs, or cannot be made one."""


@dataclass(frozen=True, slots=True)
class Pins:
    """The directories in bpffs where one version of programs, and the maps they use, are pinned."""

    programs: Path
    maps: Path

    def program(self, name: str) -> Path:
        """Return the path of a program."""
        return self.programs / name

    def map(self, name: str) -> Path:
        """Return the path of a map."""
        return self.maps / name


def is_bpffs(directory: Path) -> bool:
    """Say whether what is created in ``directory`` lies in a file system of type bpf."""
    real = directory.resolve()
    inside = [mount for mount in _mounts() if real.is_relative_to(mount[0])]
    # Of mounts one over another the last in the list is the one that is seen.
    deepest = max((len(point.parts) for point, _ in inside), default=0)
    return [kind for point, kind in inside if len(point.parts) == deepest][-1:] == ["bpf"]


def require_bpffs(directory: Path) -> None:
    """Raise BpffsError, with the command that helps, unless ``directory`` is in a bpffs."""
    if not directory.is_dir():
        raise BpffsError(
            f"{directory} does not exist; run: mkdir -p {directory} && mount -t bpf bpf {directory}"
        )
    if not is_bpffs(directory):
        raise BpffsError(f"{directory} is no bpffs; run: mount -t bpf bpf {directory}")


def ensure_mounted(directory: Path) -> None:
    """Make ``directory`` (mode 0700, created if needed) a place for pins, mounting where needed.

    Below /sys/fs/bpf, where no directory can be made before, the bpffs is mounted there, as systemd
    does; anywhere else at ``directory`` itself. Raises BpffsError.
    """
    standard = directory.is_relative_to(_STANDARD)
    try:
        if not standard:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _mount_at(_STANDARD if standard else directory)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise BpffsError(f"{directory} cannot be made a bpffs: {error}") from error


def _mount_at(point: Path) -> None:
    if is_bpffs(point):
        return
    if _libc.mount(b"bpf", os.fsencode(point), b"bpf", ctypes.c_ulong(0), b"mode=0700") != 0:
        raise _refused(f"mount a bpffs at {point}")


def unmount(directory: Path) -> None:
    """Unmount the bpffs at ``directory``: what is pinned there and used by nobody else is gone."""
    if _libc.umount2(os.fsencode(directory), 0) != 0:
        raise _refused(f"unmount the bpffs at {directory}")


def _refused(doing: str) -> BpffsError:
    return BpffsError(
        f"cannot {doing}: {os.strerror(ctypes.get_errno())}; it needs root and CONFIG_BPF_SYSCALL"
    )


def _mounts() -> list[tuple[Path, str]]:
    """Return mount point and type of every mount, in the order in which they were made."""
    lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    return [_mount(line) for line in lines]


def _mount(line: str) -> tuple[Path, str]:
    # proc(5): "36 35 98:0 /root /point options optional-fields - type source options"
    before, _, after = line.partition(" - ")
    return Path(_unescaped(before.split(" ")[4])), after.split(" ")[0]


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
