"""Everything a lab can tell about itself, in one directory: logs, flows, maps, links, rows."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from bpf import syscalls
from bpf.layout import MAPS
from dataplane.lab import dpus
from dataplane.lab.layout import LabPaths, NodePaths
from dataplane.lab.topology import Topology
from dataplane.lab.underlay import namespaces
from ovs_client.dump import dump

_TIMEOUT_S = 10.0
_LINKS = (
    ("ip", "-d", "-s", "link"),
    ("ip", "address"),
    ("ip", "-4", "route", "show", "table", "all"),
    ("ip", "-6", "route", "show", "table", "all"),
    ("ip", "neighbour"),
)


def collect(paths: LabPaths, topology: Topology, directory: Path) -> Path:
    """Write what there is to see of the lab below ``directory`` and return that.

    What cannot be had is written down as that; it never fails on account of the lab.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for space in namespaces(paths):
        target = directory / "namespaces" / f"{space.name.removeprefix(paths.prefix)}.txt"
        _write(target, "\n".join(_run(_inside(space, words)) for words in _LINKS))
    for node in topology.agents:
        _node(paths.node(node.name), directory / node.name)
    for dpu in topology.dpus:
        _switch(dpus.directory(paths, dpu), directory / f"{dpu.name}.switch")
    socket = paths.fabric / "db.sock"
    _write(directory / "fabric.txt", _run(["ovsdb-client", "dump", f"unix:{socket}", "Overweave"]))
    _copy(paths.fabric / "ovsdb-server.log", directory / "fabric.log")
    return directory


def _switch(source: Path, directory: Path) -> None:
    """Keep what an emulated switch was told, holds and logged."""
    directory.mkdir(exist_ok=True)
    for name, text in dump(source / "ovs").items():
        _write(directory / name, text)
    for file in ("switch.yaml", "emulator.log"):
        _copy(source / file, directory / file)
    if (source / "log").is_dir():
        shutil.copytree(source / "log", directory / "log", dirs_exist_ok=True)


def _node(paths: NodePaths, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    for name, text in dump(paths.ovs).items():
        _write(directory / name, text)
    _write(directory / "tc.txt", "\n".join(_filters(paths.netns)))
    for pinned in (path for spec in MAPS for path in paths.bpf.rglob(spec.name)):
        _write(directory / "maps" / f"{pinned.name}.txt", _map(pinned))
    _copy(paths.config, directory / paths.config.name)
    for source in (paths.logs, paths.state):
        if source.is_dir():
            shutil.copytree(source, directory / source.name, dirs_exist_ok=True)


def _map(pinned: Path) -> str:
    """Return the entries of a map as keys and values in hexadecimal bytes."""
    try:
        with syscalls.open_map(pinned) as opened:
            lines = [f"{key.hex(' ')} -> {value.hex(' ')}" for key, value in opened.items()]
    except syscalls.BpfError as error:
        return f"{error}\n"
    return "\n".join([f"# {pinned}: {len(lines)} entries", *lines, ""])


def _filters(space: Path) -> Iterator[str]:
    names = _run(_inside(space, ("ip", "-o", "-br", "link")), header=False).splitlines()
    for name in (line.split()[0].split("@")[0] for line in names if line):
        yield _run(_inside(space, ("tc", "-s", "filter", "show", "dev", name, "ingress")))


def _inside(space: Path, words: Sequence[str]) -> list[str]:
    return ["nsenter", f"--net={space}", *words]


def _run(command: Sequence[str], *, header: bool = True) -> str:
    head = f"# {' '.join(command)}\n" if header else ""
    try:
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{head}{error}\n"
    return f"{head}{result.stdout}{result.stderr}"


def _copy(source: Path, target: Path) -> None:
    if source.exists():
        shutil.copy(source, target)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
