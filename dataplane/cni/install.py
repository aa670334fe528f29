"""Puts the plugin where runtimes look for it; ``python -m dataplane.cni.install DIRECTORY``."""

from __future__ import annotations

import sys
from pathlib import Path

PLUGIN_NAME = "overweave-cni"
PLUGIN_DIRECTORY = Path("/opt/cni/bin")  # where runtimes look unless told otherwise
_SHIM = Path(__file__).with_name("shim.py")
_MARK = b'\n"""overweave-cni'  # how its second line begins


def install_plugin(directory: Path) -> Path:
    """Write the plugin into ``directory``, made if there is none, and return its path.

    The file is replaced at once, so that a runtime never runs half of it. Raises OSError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / PLUGIN_NAME
    draft = directory / f".{PLUGIN_NAME}"
    draft.write_bytes(_SHIM.read_bytes())
    draft.chmod(0o755)
    draft.rename(target)
    return target


def is_plugin(path: Path) -> bool:
    """Say whether ``path`` is our plugin, of whichever version."""
    try:
        with path.open("rb") as file:
            return _MARK in file.read(100)
    except OSError:
        return False


def main(arguments: list[str]) -> None:
    """Install into the one directory that ``arguments`` name."""
    if len(arguments) != 1:
        sys.exit("usage: python -m dataplane.cni.install DIRECTORY")
    try:
        target = install_plugin(Path(arguments[0]))
    except OSError as error:
        advice = "; run it as root" if isinstance(error, PermissionError) else ""
        sys.exit(f"{PLUGIN_NAME} cannot be installed in {arguments[0]}: {error}{advice}")
    sys.stdout.write(f"installed {target}\n")


if __name__ == "__main__":
    main(sys.argv[1:])
