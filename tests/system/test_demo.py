"""The demo as a newcomer runs it: it shows, it judges truly, and it leaves nothing."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from dataplane.lab import lab, nodes
from dataplane.lab.layout import NAMESPACES, LabPaths
from dataplane.lab.scene import silent

NAME = f"d{os.getpid()}"  # one called demo may be somebody's who kept it
PATHS = LabPaths(NAME)
COMMAND = [sys.executable, "-m", "dataplane.lab.demo", NAME]
SUCCESS = re.compile(r"reachable: (\d+)/\1 pairs, lost 0")
MOST_LINES = 40
MOST_S = 5 * 90.0  # five times what it may take


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    lab.down(PATHS, silent)
    yield
    lab.down(PATHS, silent)


def leftovers() -> list[str]:
    here = [str(PATHS.directory)] if PATHS.directory.exists() else []
    return here + [path.name for path in NAMESPACES.glob(f"{PATHS.prefix}*")]


def run(**environment: str) -> tuple[int, list[str]]:
    result = subprocess.run(
        COMMAND,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=MOST_S,
    )
    print(result.stdout, result.stderr)
    return result.returncode, result.stdout.splitlines()


def wait_for_pods(number: int) -> None:
    deadline = time.monotonic() + 60
    while not PATHS.directory.exists() or len(list(PATHS.pods.glob("*.json"))) < number:
        assert time.monotonic() < deadline, "the demo attached no pods"
        time.sleep(0.05)


def test_it_succeeds_and_says_what_to_try() -> None:
    began = time.monotonic()
    status, lines = run(KEEP="1")
    print(f"{time.monotonic() - began:.0f} s, {len(lines)} lines")
    assert status == 0
    assert SUCCESS.fullmatch(lines[-1])
    assert len(lines) <= MOST_LINES
    hints = [line.strip() for line in lines if line.startswith("  overweave ")]
    paths, topology = lab.opened(NAME)
    assert {state.obstacle for state in lab.status(paths, topology)} == {""}
    which = {
        **os.environ,
        "OVERWEAVE_FABRIC": lab.fabric_server(paths).remote,
        "OVERWEAVE_AGENT": os.pathsep.join(
            str(paths.node(node.name).api_socket) for node in topology.agents
        ),
    }
    for hint in hints:
        words = hint.split("#")[0].split()[1:]
        result = subprocess.run([*nodes.OVERWEAVE, *words], env=which, check=False, timeout=60)
        assert result.returncode == 0, hint
    assert hints[-1].split()[1:] == ["lab", "down", "--name", NAME]
    assert leftovers() == []


def test_a_broken_node_is_no_success() -> None:
    # Who runs tests in the background ignores SIGINT, and so would the demo.
    command = ["env", "--default-signal=INT", *COMMAND]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        wait_for_pods(3)
        nodes.switch(PATHS.node("n1")).kill_switch()
        printed, _ = demo.communicate(timeout=MOST_S)
        print(printed)
    assert demo.returncode == 1
    assert not SUCCESS.fullmatch(printed.splitlines()[-1])
    assert "logs, flows and maps: " in printed
    assert leftovers() == []


@pytest.mark.parametrize(
    ("number", "pods"),
    [
        pytest.param(signal.SIGINT, 2, id="SIGINT"),
        pytest.param(signal.SIGTERM, 0, id="SIGTERM before there is a pod"),
    ],
)
def test_interrupted_it_cleans_up(number: signal.Signals, pods: int) -> None:
    # Who runs tests in the background ignores SIGINT, and so would the demo.
    command = ["env", "--default-signal=INT", *COMMAND]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as demo:
        wait_for_pods(pods)
        demo.send_signal(number)
        demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert leftovers() == []
