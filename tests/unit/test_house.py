"""The house rules that no linter knows: what stands where, and what is in no file."""

import ast
import re
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
    # One that an option turns on says so with its name, and stands in expected_skips.txt.
    "a switched-off test": (
        r"mark\.(xfai[l]|ski[p])|pytest\.(xfai[l]|importorski[p])\(|pytest\.ski[p]\((?!\"--)"
    ),
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
