"""``overweave lab`` and the commands one types next, on a lab that is up."""

import json
import os
import subprocess
from collections.abc import Iterator

import pytest

from dataplane.lab import lab, nodes
from dataplane.lab.scene import Scene


@pytest.fixture
def overweave(scene: Scene) -> "Overweave":
    return Overweave(scene)


class Overweave:
    """The command line, told of the lab as a user tells it: by environment and --name."""

    def __init__(self, scene: Scene) -> None:
        paths = [scene.paths.node(node.name) for node in scene.topology.agents]
        self._environment = {
            **os.environ,
            "OVERWEAVE_FABRIC": lab.fabric_server(scene.paths).remote,
            "OVERWEAVE_AGENT": os.pathsep.join(str(path.api_socket) for path in paths),
        }
        self._name = scene.paths.name

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*nodes.OVERWEAVE, *words],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def lab(self, verb: str, *words: str) -> subprocess.CompletedProcess[str]:
        return self.run("lab", verb, "--name", self._name, *words)


@pytest.fixture
def guest(overweave: Overweave) -> Iterator[str]:
    yield "cli-guest"
    overweave.lab("detach", "cli-guest")


def test_status_says_that_all_is_well(scene: Scene, overweave: Overweave) -> None:
    shown = overweave.lab("status", "-o", "json")
    assert shown.returncode == 0, shown.stderr
    found = {one["node"]: one for one in json.loads(shown.stdout)}
    assert {name for name, one in found.items() if one["obstacle"] == ""} == {
        "n1",
        "n2",
        "n3",
        "n4",
    }
    assert found["n1"]["agent"] == nodes.agent_pid(scene.paths.node("n1"))


def test_status_says_what_is_missing(scene: Scene, overweave: Overweave) -> None:
    nodes.stop_agent(scene.paths.node("n3"))
    shown = overweave.lab("status")
    assert shown.returncode == 1
    assert "3 of 4 nodes are ready" in shown.stdout


def test_attach_list_ping_and_detach(overweave: Overweave, guest: str) -> None:
    asked = ["--mac", "02:00:00:00:cc:01", "--ip", "10.2.15.9/20", "--ip", "fd00:2::f009/64"]
    attached = overweave.lab("attach", guest, "n3", "green", *asked)
    assert attached.returncode == 0, attached.stderr
    listed = json.loads(overweave.lab("pods", "-o", "json").stdout)
    (mine,) = [pod for pod in listed if pod["pod"] == guest]
    assert (mine["node"], mine["mac"]) == ("n3", "02:00:00:00:cc:01")
    assert mine["ips"] == ["10.2.15.9", "fd00:2::f009"]
    inside = overweave.lab("exec", guest, "--", "ping", "-c1", "-W2", "10.2.15.9")
    assert inside.returncode == 0
    assert overweave.lab("detach", guest).returncode == 0
    listed = json.loads(overweave.lab("pods", "-o", "json").stdout)
    assert guest not in [pod["pod"] for pod in listed]


def test_mesh_of_pings(overweave: Overweave) -> None:
    shown = overweave.run("ping", "--mesh")
    assert shown.returncode == 0, shown.stdout
    assert shown.stdout.splitlines()[0] == "reachable: 80/80 pairs, lost 0"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        pytest.param(("exec", "n1", "--", "false"), 1, "", id="exit status of the command"),
        pytest.param(("exec", "n9", "--", "true"), 1, "has no 'n9'", id="no such node"),
        pytest.param(("attach", "x", "n9", "blue"), 2, "no node 'n9'", id="attach: no such node"),
        pytest.param(("attach", "x", "k1", "blue"), 2, "runs no agent", id="attach: bare node"),
        pytest.param(("attach", "n1", "n1", "blue"), 2, "called like a node", id="attach: name"),
        pytest.param(("attach", "x", "n1", "pink"), 1, "'pink'", id="attach: no such segment"),
        pytest.param(
            ("attach", "x", "n1", "blue", "--mac", "01:00:00:00:00:01"),
            1,
            "multicast",
            id="attach: bad MAC",
        ),
    ],
)
def test_what_cannot_be_is_said(
    overweave: Overweave, scene: Scene, words: tuple[str, ...], status: int, said: str
) -> None:
    shown = overweave.lab(*words)
    assert shown.returncode == status, shown.stderr
    assert said in shown.stderr
    assert "x" not in {pod.name for pod in scene.runtime.pods()}
    assert not scene.paths.netns("x").exists()
