"""A virtual machine that runs commands on another kernel, with this machine's own files.

It is always emulated: a /dev/kvm may be there and start no stock kernel.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from bench.vm.kernel import StockKernel
from dataplane.core.errors import OverweaveError

SHARE = Path("/mnt/share")  # what is called so in there
_GUEST = Path(__file__).with_name("guest")
_UP = b"GUEST-IS-UP"
_BOOT_S, _RUN_S = 60, 900
_ATTEMPTS = 2


def run_in(kernel: StockKernel, commands: Iterable[Sequence[str]], share: Path) -> None:
    """Run ``commands`` on ``kernel``, one per processor at once; ``share`` is SHARE in there.

    What they write there is their result: their exit status is not told. Raises OverweaveError
    if the machine does not start.
    """
    jobs = [f"{shlex.join(command)}\n" for command in commands]
    (share / "jobs").write_text("".join(jobs), encoding="utf-8")
    console = share / "console"
    for _ in range(_ATTEMPTS):
        if _boot(kernel, share, console):
            return
    raise OverweaveError(f"the virtual machine does not start; it said:\n{said(share)}")


def said(share: Path) -> str:
    """Return the end of what the virtual machine printed."""
    return (share / "console").read_text(encoding="utf-8", errors="replace")[-3000:]


def _boot(kernel: StockKernel, share: Path, console: Path) -> bool:
    """Say whether the machine came up; if it did, it has done its jobs, or its time is over."""
    with console.open("wb") as output, _started(_command(kernel, share), output) as machine:
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
    try:
        machine = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT
        )
    except FileNotFoundError as error:
        raise OverweaveError(f"there is no {command[0]}; make setup installs it") from error
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
