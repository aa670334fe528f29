"""Two CNI plugins under one stopwatch: ours, and Debian's bridge with host-local.

Both are run as a runtime runs them: entered into their node's namespace, with the configuration on
stdin, for pods whose namespaces were made before. Nobody's process is started any other way.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dataplane.core.errors import OverweaveError
from dataplane.lab.layout import LabPaths
from dataplane.lab.runtime import IFNAME

CNI_VERSION = "1.0.0"  # the newest that Debian 12's plugins speak
REFERENCE = Path("/usr/lib/cni/bridge")
_TIMEOUT_S = 120.0


class CallFailedError(OverweaveError):
    """A plugin said no, so there is nothing to time."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin on its node, with the pods it attaches; ``pods`` are paths of namespaces."""

    name: str
    program: Path
    node: Path
    pods: tuple[Path, ...]

    def call(self, verb: str, pod: Path, config: Mapping[str, Any]) -> float:
        """Run one verb for one pod and return the seconds it took, from spawning to its end.

        Raises CallFailedError with what the plugin printed.
        """
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod.name,
            "CNI_NETNS": str(pod),
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": str(self.program.parent),
        }
        words = ["nsenter", f"--net={self.node}", "--", str(self.program)]
        text = json.dumps(config).encode()
        began = time.monotonic()
        done = subprocess.run(
            words,
            input=text,
            env=environment,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT_S,
        )
        took = time.monotonic() - began
        if done.returncode:
            said = (done.stdout or done.stderr).decode(errors="replace").strip()
            raise CallFailedError(f"{self.name}: {verb} of {pod.name} failed: {said}")
        return took


def overweave_config(paths: LabPaths, node: str, segment: str) -> dict[str, Any]:
    """Return what a runtime passes to overweave-cni for a pod of ``segment``."""
    return {
        "cniVersion": CNI_VERSION,
        "name": f"bench-{segment}",
        "type": "overweave-cni",
        "segment": segment,
        "agentSocket": str(paths.node(node).cni_socket),
    }


def reference_config(paths: LabPaths, segment: str, subnets: Sequence[str]) -> dict[str, Any]:
    """Return bridge with host-local at their least: no gateway, no NAT, no default route."""
    return {
        "cniVersion": CNI_VERSION,
        "name": f"bench-{segment}",
        "type": REFERENCE.name,
        "bridge": f"cni-{segment}",
        "ipam": {
            "type": "host-local",
            "ranges": [[{"subnet": subnet}] for subnet in subnets],
            "dataDir": str(paths.directory / "host-local"),
        },
    }
