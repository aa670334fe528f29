"""What set-up says when it cannot, what it asks of the machine, and what it leaves there."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Machine:
    """A copy of what set-up reads, and a PATH on which some programs are replaced."""

    TOOLS = ("awk", "bash", "cat", "comm", "cut", "dirname", "flock", "grep", "mktemp", "rm")
    MORE_TOOLS = ("sed", "sha256sum", "sort", "tail", "tee", "tr", "env", "id", "chmod")

    def __init__(self, home: Path) -> None:
        self.home = home
        self.bin = home / "bin"
        self.policy = home / "policy-rc.d"
        self.bin.mkdir()
        (home / ".ci").mkdir()
        for name in (".ci/setup", "packages.debian", "requirements.lock", "pyproject.toml"):
            shutil.copy(ROOT / name, home / name)
        for tool in (*self.TOOLS, *self.MORE_TOOLS):
            real = shutil.which(tool)
            if real:
                (self.bin / tool).symlink_to(real)
        self.program("apt-get", "exit 0")
        self.program("dpkg-query", 'shift 3; for name; do echo "installed $name"; done')

    def program(self, name: str, body: str) -> None:
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)

    def setup(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.home / ".ci" / "setup"), *args],
            env={
                "PATH": str(self.bin),
                "OVERWEAVE_POLICY_RC_D": str(self.policy),
                **env,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def _sentence(run: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that set-up says on standard error when it gives up."""
    assert run.returncode == 1, run
    lines = run.stderr.splitlines()
    assert len(lines) == 1, run.stderr
    return lines[0]


NOT_ROOT = 'case "$1" in -u) echo 1000;; *) echo alice;; esac'
NOTHING_INSTALLED = "exit 1"


@pytest.mark.parametrize(
    "args",
    [
        pytest.param(["--root"], id="a target that makes namespaces"),
        pytest.param([], id="packages are missing"),
    ],
)
def test_setup_without_root_says_so(machine: Machine, args: list[str]) -> None:
    machine.program("id", NOT_ROOT)
    machine.program("dpkg-query", NOTHING_INSTALLED)
    said = _sentence(machine.setup(*args))
    assert "needs root and this is user alice: run it again as root" in said


def test_setup_without_apt_says_so(machine: Machine) -> None:
    (machine.bin / "apt-get").unlink()
    assert "no apt-get" in _sentence(machine.setup())


def test_setup_when_apt_has_no_network_says_so_and_what_apt_said(machine: Machine) -> None:
    machine.program("id", "echo 0")
    machine.program("dpkg-query", NOTHING_INSTALLED)
    machine.program("apt-get", 'echo "E: Failed to fetch x.deb  Could not resolve host"; exit 100')
    run = machine.setup()
    said = _sentence(run)
    assert "apt-get could not install" in said
    assert "E: Failed to fetch x.deb  Could not resolve host" in said
    assert "check the network" in said
    assert not (machine.home / ".venv").exists()


def test_setup_when_the_package_index_is_away_says_so(machine: Machine) -> None:
    # A closed port on loopback: refused at once, whatever the machine can reach.
    away = "http://127.0.0.1:9/simple"
    hermetic = {"PIP_INDEX_URL": away, "PIP_RETRIES": "1", "PIP_CONFIG_FILE": os.devnull}
    said = _sentence(machine.setup(**hermetic))
    assert "could not make .venv: [Errno 111] Connection refused" in said
    assert "check the network" in said
    again = _sentence(machine.setup(**hermetic))
    assert again == said, "a half-made .venv must not count as made"


def test_setup_asks_apt_for_what_is_missing_and_nothing_else(machine: Machine) -> None:
    machine.program("id", "echo 0")
    machine.program(
        "dpkg-query",
        'shift 3; for name; do [ "$name" = tshark ] || echo "installed $name"; done',
    )
    machine.program("apt-get", f'echo "$*" >>{machine.home}/asked; exit 100')
    _sentence(machine.setup())
    asked = (machine.home / "asked").read_text(encoding="utf-8").splitlines()
    assert [line.split()[-2:] for line in asked][1:] == [["install", "tshark"]]
    assert asked[0].endswith(" update")
    assert "--no-install-recommends" in asked[1]


@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [
        pytest.param(None, "101", id="none there: ours forbids, then goes"),
        pytest.param("exit 7", "7", id="the administrator's is used and stays"),
    ],
)
def test_setup_lets_no_daemon_start(machine: Machine, before: str | None, meanwhile: str) -> None:
    if before is not None:
        machine.program("policy", before)
        (machine.bin / "policy").rename(machine.policy)
    machine.program("id", "echo 0")
    machine.program("dpkg-query", NOTHING_INSTALLED)
    ask = f"{machine.policy} openvswitch-switch start; echo $? >{machine.home}/answer"
    machine.program("apt-get", f"{ask}; exit 100")
    kept = machine.policy.read_bytes() if before is not None else None
    _sentence(machine.setup())
    assert (machine.home / "answer").read_text(encoding="utf-8").strip() == meanwhile
    assert (machine.policy.read_bytes() if machine.policy.exists() else None) == kept


def test_setup_removes_a_policy_that_a_killed_set_up_left(machine: Machine) -> None:
    machine.program("id", "echo 0")
    machine.program("dpkg-query", NOTHING_INSTALLED)
    machine.program("apt-get", f"cat {machine.policy} >{machine.home}/ours; exit 100")
    _sentence(machine.setup())
    shutil.copy(machine.home / "ours", machine.policy)
    _sentence(machine.setup())
    assert not machine.policy.exists()


def test_setup_is_quiet_when_all_is_in_place() -> None:
    run = subprocess.run(
        [str(ROOT / ".ci" / "setup")], capture_output=True, text=True, timeout=60, check=True
    )
    assert (run.stdout, run.stderr) == ("", "")
