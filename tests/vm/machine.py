"""A virtual machine that runs test files on another kernel, with this machine's own files.

It is always emulated: a /dev/kvm may be there and start no stock kernel.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO
from xml.etree import ElementTree as ET

from tests.coverage_grid import CELLS, Cell, told_as
from tests.vm.kernel import StockKernel

ROOT = Path(__file__).resolve().parents[2]
_GUEST = Path(__file__).with_name("guest")
_UP = b"GUEST-IS-UP"
_BOOT_S, _RUN_S = 60, 900
_ATTEMPTS = 2
_ENVIRONMENT = {"PYTHONPATH": f"{ROOT}:{ROOT / 'ovs'}"}


@dataclass(frozen=True)
class Results:
    """How each test ended on a kernel; the text of a fault, or None.

    ``proven`` are the cells of the coverage grid that each has told, ``rates`` what was measured.
    """

    release: str
    faults: Mapping[str, str | None]
    proven: Mapping[str, Sequence[Cell]]
    rates: Mapping[str, str]

    @property
    def series(self) -> str:
        """Return the first two numbers of the kernel's version."""
        return ".".join(self.release.split(".")[:2])

    def of(self, files: Iterable[str]) -> Results:
        """Return those of the tests in ``files``."""
        modules = tuple(f"{file.removesuffix('.py').replace('/', '.')}::" for file in files)
        faults = {name: fault for name, fault in self.faults.items() if name.startswith(modules)}
        return replace(self, faults=faults)


def run_here(files: Iterable[str], share: Path) -> Results:
    """Return what the tests in ``files`` say on the kernel of this machine."""
    for command in _commands(files, share):
        environment = {**os.environ, **_ENVIRONMENT}
        subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=False)
    return _results(os.uname().release, share)


def run_on(kernel: StockKernel, files: Iterable[str], share: Path) -> Results:
    """Return what the tests in ``files`` say on ``kernel``; each file has a process of its own."""
    inside = Path("/mnt/share")
    jobs = [f"{shlex.join(command)}\n" for command in _commands(files, inside)]
    (share / "jobs").write_text("".join(jobs), encoding="utf-8")
    console = share / "console"
    for _ in range(_ATTEMPTS):
        if _boot(kernel, share, console):
            break
    release = share / "release"
    found = _results(release.read_text(encoding="ascii").strip() if release.exists() else "", share)
    assert found.faults, f"no result from the virtual machine, which said:\n{_tail(console)}"
    return found


def _commands(files: Iterable[str], share: Path) -> Iterator[list[str]]:
    for file in files:
        results = share / f"{Path(file).stem}.xml"
        words = ["-q", "-p", "no:cacheprovider", f"--junitxml={results}", file]
        yield [sys.executable, "-m", "pytest", *words]


def _boot(kernel: StockKernel, share: Path, console: Path) -> bool:
    """Say whether the machine came up; if it did, it has done its jobs, or its time is over."""
    with console.open("wb") as said, _started(_command(kernel, share), said) as machine:
        deadline = time.monotonic() + _BOOT_S
        while _UP not in console.read_bytes():
            if machine.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.2)
        with suppress(subprocess.TimeoutExpired):
            machine.wait(_RUN_S)
        return True


@contextmanager
def _started(command: list[str], console: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    machine = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
    )
    try:
        yield machine
    finally:
        machine.kill()
        machine.wait()


def _command(kernel: StockKernel, share: Path) -> list[str]:
    arguments = f"console=ttyS0 quiet panic=-1 mitigations=off script={_GUEST}"
    # A "microvm" has nothing but a PIT to find the processor's speed by: where this machine is busy
    # that fails, and its kernel waits for ever. A "pc" has an HPET, too.
    return [
        *("qemu-system-x86_64", "-M", "pc", "-cpu", "max,la57=off"),
        *("-accel", "tcg,thread=multi,tb-size=512", "-smp", "2", "-m", "3072"),
        *("-nodefaults", "-no-reboot", "-nographic", "-serial", "stdio"),
        *("-kernel", str(kernel.image), "-initrd", str(kernel.initramfs), "-append", arguments),
        *_directory("root", Path("/"), "readonly=on,multidevs=remap"),
        *_directory("share", share, "multidevs=remap"),
        *("-object", "rng-random,filename=/dev/urandom,id=rng"),
        *("-device", "virtio-rng-pci,rng=rng"),
    ]


def _directory(tag: str, path: Path, options: str) -> Iterator[str]:
    yield from ("-fsdev", f"local,id={tag},path={path},security_model=none,{options}")
    yield from ("-device", f"virtio-9p-pci,fsdev={tag},mount_tag={tag}")


def _results(release: str, share: Path) -> Results:
    faults: dict[str, str | None] = {}
    proven: dict[str, list[Cell]] = {}
    rates: dict[str, str] = {}
    for file in sorted(share.glob("*.xml")):
        written = ET.parse(file)  # noqa: S314 our own pytest wrote it
        for each in written.iterfind("testsuite/properties/property"):
            rates[each.get("name", "")] = each.get("value", "")
        for case in written.iter("testcase"):
            bad = [child for child in case if child.tag in {"failure", "error", "skipped"}]
            name = f"{case.get('classname')}::{case.get('name')}"
            faults[name] = f"{bad[0].get('message')}\n{bad[0].text}" if bad else None
            told = {each.get("name") for each in case.iter("property")}
            proven[name] = [cell for cell in CELLS if told_as(cell) in told]
    return Results(release, faults, proven, rates)


def _tail(console: Path) -> str:
    return console.read_text(encoding="utf-8", errors="replace")[-3000:]
