"""What one agent costs: its shim, its start, its memory."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.plugins import CNI_VERSION, CallFailedError
from dataplane.cni import shim
from dataplane.cni.framing import GREETING, Answer, pack_answer, receive
from dataplane.lab import nodes, runtime
from dataplane.lab.layout import NodePaths

_POLL_S = 0.002
_READY_S = 60.0
_GRACE_S = 5.0
_RESIDENT = re.compile(r"^VmRSS:\s+(\d+) kB$", re.MULTILINE)
_RESULT = b'{"cniVersion": "1.0.0", "interfaces": [], "ips": []}\n'


# --- the shim ---


@contextmanager
def instant_agent() -> Iterator[Path]:
    """Yield the socket of an agent that needs no time at all, so that only the shim is timed."""
    with (
        tempfile.TemporaryDirectory(prefix="overweave-bench-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener,
    ):
        path = Path(directory) / "cni.sock"
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=_answer_all, args=(listener,), daemon=True)
        thread.start()
        yield path
        listener.shutdown(socket.SHUT_RDWR)  # wakes accept(2)
        thread.join()


def run_shim(path: Path) -> float:
    """Return the seconds of one whole run of overweave-cni with the agent at ``path``."""
    config = f'{{"cniVersion": "{CNI_VERSION}", "agentSocket": "{path}"}}'.encode()
    began = time.monotonic()
    done = subprocess.run(
        [str(runtime.SHIM)],
        input=config,
        env={"CNI_COMMAND": "ADD"},
        capture_output=True,
        check=False,
    )
    took = time.monotonic() - began
    if done.stdout != _RESULT:
        raise CallFailedError(f"the shim alone printed {done.stdout!r}, {done.stderr!r}")
    return took


def _answer_all(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # it was shut down
            return
        with connection:
            connection.sendall(GREETING)
            receive(connection, _GRACE_S)
            connection.sendall(pack_answer(Answer(0, _RESULT)))


# --- the agent ---


def restart(node: NodePaths, config: Mapping[str, Any]) -> float:
    """Stop the agent, start it, and return the seconds from there to STATUS saying yes."""
    nodes.stop_agent(node)
    return start(node, config)


def start(node: NodePaths, config: Mapping[str, Any]) -> float:
    """Start the agent and return the seconds from there to STATUS saying that ADD would succeed.

    Raises CallFailedError if it never does.
    """
    question = json.dumps({**config, "cniVersion": runtime.CNI_VERSION})
    request = shim.pack({b"CNI_COMMAND": b"STATUS"}, question.encode())
    began = time.monotonic()
    nodes.start_agent(node)
    while (said := _status(node.cni_socket, request)) is not None:
        if time.monotonic() - began > _READY_S:
            raise CallFailedError(f"the agent is not ready after {_READY_S:.0f} s: {said}")
        time.sleep(_POLL_S)
    return time.monotonic() - began


def resident_mb(node: NodePaths) -> float:
    """Return the resident memory of the agent in megabytes of 1,000,000 bytes."""
    text = Path(f"/proc/{nodes.agent_pid(node)}/status").read_text(encoding="ascii")
    found = _RESIDENT.search(text)
    if found is None:
        raise CallFailedError("the agent does not run, so its memory cannot be read")
    return int(found[1]) * 1024 / 1e6


def _status(path: Path, request: bytes) -> str | None:
    """Return why an ADD would fail, None if it would not."""
    try:
        status, said, _ = shim.ask(bytes(path), request)
    except (OSError, shim.AgentError) as error:
        return str(error)
    return said.decode() if status else None
