"""Puts the plugin where runtimes look for it."""

from __future__ import annotations

from pathlib import Path

PLUGIN_NAME = "overweave-cni"


def install_plugin(directory: Path) -> Path:
    """Write the plugin into ``directory`` (runtimes use /opt/cni/bin) and return its path.

    The file is replaced at once, so that a runtime never runs half of it. Raises OSError.
    """
    source = Path(__file__).with_name("shim.py")
    target = directory / PLUGIN_NAME
    draft = directory / f".{PLUGIN_NAME}"
    draft.write_bytes(source.read_bytes())
    draft.chmod(0o755)
    draft.rename(target)
    return target
