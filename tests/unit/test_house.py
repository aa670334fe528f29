"""The house rules that no linter knows: what stands where, and what set-up says when it cannot."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP_FOLDERS = {"dataplane", "bpf", "ovs", "vendors", "bench", "tests", ".ci", ".github"}
PRODUCT = ("dataplane", "bpf", "ovs", "vendors")
README_LINES = 60
# Made by tools, and ignored by git.
CACHES = {".git", ".venv", "__pycache__", ".hypothesis", ".import_linter_cache"}


def _is_cache(name: str) -> bool:
    return name in CACHES or (name.startswith(".") and name.endswith("_cache"))


def _folders(top: Path) -> Iterator[Path]:
    yield top
    for child in sorted(top.iterdir()):
        if child.is_dir() and not _is_cache(child.name):
            yield from _folders(child)


def _files() -> list[Path]:
    return [
        path
        for folder in _folders(ROOT)
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix not in {".pyc", ".so", ".o"} and path.name != ".git"
    ]


def _product_modules() -> list[Path]:
    return [path for name in PRODUCT for path in sorted((ROOT / name).rglob("*.py"))]


def _imports(module: Path) -> set[str]:
    tree = ast.parse(module.read_text(encoding="utf-8"))
    names = set[str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_ovs_folder_does_not_shadow_the_open_vswitch_library() -> None:
    assert not (ROOT / "ovs" / "__init__.py").exists()
    code = "import ovs.db.idl; print(ovs.db.idl.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert "site-packages" in found.stdout


def test_top_level_folders_are_the_agreed_ones() -> None:
    found = {path.name for path in ROOT.iterdir() if path.is_dir() and not _is_cache(path.name)}
    assert found <= TOP_FOLDERS


def test_every_folder_with_code_has_a_readme() -> None:
    tests = ROOT / "tests"
    missing = [
        str(folder.relative_to(ROOT))
        for folder in _folders(ROOT)
        if any(folder.glob("*.py")) and tests not in folder.parents
        if not (folder / "README.md").is_file()
    ]
    assert missing == []


def test_a_readme_is_at_most_a_page() -> None:
    # The root's own has a second page: the real use on two machines.
    too_long = [
        str(path.relative_to(ROOT))
        for path in _files()
        if path.name == "README.md" and path.parent != ROOT
        if len(path.read_text(encoding="utf-8").splitlines()) > README_LINES
    ]
    assert too_long == []


# One letter of each stands in brackets, so that this file does not find itself.
FORBIDDEN = {
    "a path of one developer's machine": r"[/]work/|bash_job[s]|/tmp/o[w]\b|/root/[.]",
    "a package registry's host": r"pyp[i]\.org|pythonhoste[d]|deb\.debia[n]|npmj[s]",
    "a note of unfinished work": r"TOD[O]\b|FIXM[E]\b|\bXX[X]\b|NotImplemente[d]",
    "a switched-off test": r"mark\.(xfai[l]|ski[p])|pytest\.(xfai[l]|ski[p]|importorski[p])\(",
}


@pytest.mark.parametrize("pattern", [pytest.param(v, id=k) for k, v in FORBIDDEN.items()])
def test_words_that_are_in_no_file(pattern: str) -> None:
    words = re.compile(pattern)
    found = []
    for path in _files():
        if "_pb2" in path.name:  # written by protoc
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        lines = enumerate(text.splitlines(), start=1)
        found += [
            f"{path.relative_to(ROOT)}:{n}: {line}" for n, line in lines if words.search(line)
        ]
    assert found == []


def test_core_and_contracts_import_the_standard_library_only() -> None:
    allowed = sys.stdlib_module_names | {"dataplane"}
    modules = [*(ROOT / "dataplane" / "core").rglob("*.py"), ROOT / "dataplane" / "contracts.py"]
    foreign = {str(module.relative_to(ROOT)): _imports(module) - allowed for module in modules}
    assert {name: names for name, names in foreign.items() if names} == {}


@pytest.mark.parametrize("tool", ["ovs-ofctl", "ovs-appctl"])
def test_open_vswitch_tools_are_run_by_ovs_client_only(tool: str) -> None:
    home = ROOT / "ovs" / "ovs_client"
    callers = [
        str(module.relative_to(ROOT))
        for module in _product_modules()
        if home not in module.parents
        if re.search(rf"""["']{tool}["']""", module.read_text(encoding="utf-8"))
    ]
    assert callers == []


def test_every_package_of_the_wheel_is_under_an_import_contract() -> None:
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    roots = re.search(r"^root_packages = \[(.*)\]$", config, re.MULTILINE)
    assert roots is not None
    listed = set(re.findall(r'"(\w+)"', roots.group(1)))
    tops = [ROOT, ROOT / "ovs"]
    packages = {init.parent.name for top in tops for init in top.glob("*/__init__.py")}
    assert packages <= listed


@pytest.mark.parametrize("package", ["dataplane", "bpf"])
def test_every_module_has_its_layer(package: str) -> None:
    config = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    children = {f.stem for f in (ROOT / package).glob("*.py")} - {"__init__"}
    children |= {init.parent.name for init in (ROOT / package).glob("*/__init__.py")}
    assert {name for name in children if not re.search(rf"\b{package}\.{name}\b", config)} == set()


def test_wheel_ships_all_of_the_product_and_neither_tests_nor_bench(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    product = {
        # What stands in ovs/ is shipped beside it: ovs is no package.
        str(path.relative_to(ROOT)).removeprefix("ovs/")
        for path in _files()
        if path.relative_to(ROOT).parts[0] in PRODUCT and path != ROOT / "ovs" / "README.md"
    }
    assert shipped == product


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
