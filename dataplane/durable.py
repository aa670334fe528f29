"""Small files that outlive a crash: the old or the new one is there, never a part of it."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, text: str, mode: int = 0o666) -> None:
    """Write ``path`` whole; its name is durable after ``settle``. Raises OSError.

    ``mode`` is that of a new file, less the umask: no one else can read a part of it meanwhile.
    """
    partial = path.with_suffix(".partial")
    partial.unlink(missing_ok=True)  # an interrupted one's may have another mode
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.rename(path)


def settle(directory: Path) -> None:
    """Return once the names in ``directory`` are on the disk. Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
