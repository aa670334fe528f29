"""Which wiring a node gets: eBPF programs or, where they cannot be had, the kernel's filters."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from bpf import xdp
from bpf.bpffs import ensure_mounted
from bpf.loader import LoadError, load
from bpf.packet_path import FastPacketPath
from bpf.readings import Readings
from bpf.target import FastpathTarget
from dataplane.config import AgentConfig, FastPath
from dataplane.core.agreement import Observed, Question, done
from dataplane.core.errors import OverweaveError
from dataplane.core.model import EntryKey
from dataplane.core.path import Action, Outcome, Probe
from dataplane.core.placement import Traffic
from dataplane.core.reasons import Reason
from dataplane.netlink import links
from dataplane.netlink.rtnl import Rtnl

LOG = "ebpf.log"  # in state_dir: all that compiler and verifier said


@dataclass(frozen=True, slots=True)
class Ebpf:
    """The programs are loaded: what attaches and fills them, what they counted, what they do."""

    target: FastpathTarget
    readings: Readings
    path: FastPacketPath


@dataclass(frozen=True, slots=True)
class NoEbpf:
    """There is no eBPF here, because of ``reason``: one sentence.

    Implements FastPath and PacketPath.
    """

    reason: str
    name: ClassVar[str] = "fastpath"

    def traffic(self) -> Mapping[EntryKey, Traffic]:
        """Return nothing: Open vSwitch forwards everything."""
        return {}

    def counts(self) -> Mapping[int, Mapping[Reason, int]]:
        """Return nothing: nobody hands packets over."""
        return {}

    def outcome(self, probe: Probe) -> Outcome:
        """Return that nothing is done here, and why."""
        del probe
        return Outcome(Action.NONE, detail=self.reason)

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        """Return that nothing is done here, and why."""
        return [Observed(done(Action.NONE), why=self.reason) for _ in questions]


def load_ebpf(config: AgentConfig) -> Ebpf | NoEbpf:
    """Load the programs, or say why that cannot be; its whole log is in ``state_dir`` then.

    Raises OverweaveError where the configuration requires them.
    """
    log = config.state_dir / LOG
    log.unlink(missing_ok=True)
    try:
        ensure_mounted(config.bpffs)
        pins = load(config.bpffs)
        return Ebpf(FastpathTarget(pins), Readings(pins), FastPacketPath(pins))
    except OverweaveError as error:
        kept = _keep(error, log)
        _leave_drivers()
        if config.fastpath is FastPath.REQUIRED:
            raise OverweaveError(f"fastpath: required, but {error}{kept}") from error
        return NoEbpf(" ".join(f"{error}{kept}".split()))


def _leave_drivers() -> None:
    """Take our XDP program off, if it can be told: it will hear of no new peers."""
    with contextlib.suppress(OverweaveError), Rtnl() as rtnl:
        for found in xdp.attached(links.every(rtnl)):
            xdp.detach(rtnl, found.ifindex)


def _keep(error: OverweaveError, log: Path) -> str:
    """Write the whole log of ``error`` down and return how to name it, if it has one."""
    if not isinstance(error, LoadError) or not error.log:
        return ""
    log.write_text(error.log, encoding="utf-8")
    return f" (its whole log: {log})"
