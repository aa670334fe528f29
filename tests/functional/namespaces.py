"""Throw-away network namespaces, looked at with iproute2: it shares no code with what is tested."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from dataplane.netlink import netns
from dataplane.netlink.netns import Netns
from dataplane.netlink.rtnl import Rtnl

_CLONE_NEWNET = 0x40000000  # linux/sched.h

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = count(1)


@contextmanager
def namespace() -> Iterator[Netns]:
    """Make a network namespace and delete it in the end."""
    name = f"owtest-{os.getpid()}-{next(_numbers)}"
    netns.create(name)
    try:
        with Netns(str(netns.named(name))) as opened:
            yield opened
    finally:
        netns.delete(name)


@contextmanager
def rtnl_in(space: Netns) -> Iterator[Rtnl]:
    """Open an Rtnl in ``space``; this thread stays there with it, as no other may use it."""
    with Netns("/proc/thread-self/ns/net") as home:
        enter(space)
        try:
            with Rtnl() as opened:
                yield opened
        finally:
            enter(home)


def enter(space: Netns) -> None:
    assert _libc.setns(space.fd, _CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())


def name_of(space: Netns) -> str:
    return Path(space.path).name


def ip(space: Netns, *words: str) -> None:
    """Run ``ip -n SPACE WORDS``."""
    run("ip", "-n", name_of(space), *words)


def shown(space: Netns, *words: str) -> list[dict[str, Any]]:
    """Return what ``ip -n SPACE -j -d WORDS`` shows."""
    output = run("ip", "-n", name_of(space), "-j", "-d", *words)
    found: list[dict[str, Any]] = json.loads(output or "[]")
    return [each for each in found if each]  # iproute2 prints {} for what a filter took out


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def wait_until(true: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    end = time.monotonic() + timeout_s
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()
