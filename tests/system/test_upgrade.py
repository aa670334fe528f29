"""Another version of the programs takes over under traffic: nothing is lost or left over."""

import shutil
from pathlib import Path

import pytest

from bpf.loader import SOURCE
from dataplane.lab import lab, nodes
from dataplane.lab.scene import Scene
from tests.system.test_survival import expect_nothing_lost, talking

# What is written in the next version, instead of what; whether it needs maps of its own.
VERSIONS = {
    "programs": ("overlay.c", "/* vpN: what", "/* vpN, once more: what", False),
    "maps": ("layout.py", "max_entries=2 * MAX_SLOTS + 64", "max_entries=2 * MAX_SLOTS + 65", True),
}


def another_version(directory: Path, version: str) -> None:
    """Put a copy of the package that differs a little where an agent can be told to look first."""
    file, old, new, _ = VERSIONS[version]
    copy = directory / "bpf"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    text = (copy / file).read_text(encoding="utf-8")
    assert text.count(old) == 1
    (copy / file).write_text(text.replace(old, new), encoding="utf-8")


def pinned(scene: Scene, kind: str) -> dict[str, list[str]]:
    """Return the directories of programs or maps in each node's bpffs."""
    return {
        node.name: sorted(path.name for path in scene.paths.node(node.name).bpf.glob(f"{kind}_*"))
        for node in scene.topology.agents
    }


def restart(scene: Scene) -> None:
    for node in scene.topology.agents:
        nodes.kill_agent(scene.paths.node(node.name))
    lab.start_agents(scene.paths, scene.topology.agents)


@pytest.mark.parametrize("version", VERSIONS)
def test_another_version_replaces_this_one_and_back(
    scene: Scene, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {kind: pinned(scene, kind) for kind in ("programs", "maps")}
    another_version(tmp_path, version)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with talking(scene) as echoes:
        restart(scene)
        after = {kind: pinned(scene, kind) for kind in before}
        monkeypatch.delenv("PYTHONPATH")
        restart(scene)
    expect_nothing_lost(echoes, f"another version of the {version}, and back")
    for node in scene.topology.agents:
        assert len(after["programs"][node.name]) == len(after["maps"][node.name]) == 1
        assert after["programs"][node.name] != before["programs"][node.name]
        assert (after["maps"][node.name] != before["maps"][node.name]) is VERSIONS[version][3]
    assert {kind: pinned(scene, kind) for kind in before} == before
