"""A lab is made from whatever is there of it and taken down from whatever is left of it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dataplane.core.errors import InvalidValueError
from dataplane.lab import lab, nodes, underlay
from dataplane.lab.lab import LabError
from dataplane.lab.layout import LABS, NAMESPACES, LabPaths
from dataplane.lab.topology import Topology, read_topology
from ovs_client import process

# One for each run: labs of others, also of the same tests, stay as they are.
FIRST, SECOND, CRASHED, NONE = (f"{letter}{os.getpid()}" for letter in "abcx")
TWO = "nodes: [{name: n1}, {name: n2}]"
THREE = "nodes: [{name: n1}, {name: n2}, {name: k1, kind: bare}]"


def silent(_line: str) -> None:
    pass


def traces(name: str) -> list[str]:
    """Return what there is of a lab: names, directories, mounts, processes."""
    paths = LabPaths(name)
    marks = (f"ow-{name}-", f"{paths.directory}/")
    spaces = [path.name for path in NAMESPACES.glob(f"ow-{name}-*")]
    mounts = Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines()
    commands = {pid: " ".join(process.arguments(pid)) for pid in process.pids()}
    return [
        *spaces,
        *(line for line in mounts if marks[1] in line),
        *(words for pid, words in commands.items() if marks[1] in words and pid != os.getpid()),
        *(str(path) for path in [paths.directory] if path.exists()),
    ]


@pytest.fixture
def make() -> Iterator[Callable[[str, str], tuple[LabPaths, Topology]]]:
    made: list[LabPaths] = []

    def build(name: str, text: str) -> tuple[LabPaths, Topology]:
        made.append(LabPaths(name))
        return made[-1], lab.build(made[-1], read_topology(text, name), silent)

    yield build
    for paths in made:
        lab.down(paths, silent)


Make = Callable[[str, str], tuple[LabPaths, Topology]]


def pings(paths: LabPaths, source: str, target: str) -> bool:
    return lab.execute(paths, source, ["ping", "-q", "-c1", "-W2", target]) == 0


def test_every_node_reaches_every_other_on_both_families(make: Make) -> None:
    paths, topology = make(FIRST, THREE)
    for source in topology.nodes:
        for target in topology.nodes:
            for address in target.addresses:
                assert pings(paths, source.name, str(address.ip)), (source.name, address)


def test_each_agent_node_has_an_open_vswitch_of_its_own(
    make: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    paths, _ = make(FIRST, THREE)
    bridge = [
        "ovs-vsctl",
        "add-br",
        "only-n1",
        "--",
        "set",
        "bridge",
        "only-n1",
        "datapath_type=netdev",
    ]
    assert lab.execute(paths, "n1", bridge) == 0
    capfd.readouterr()
    listed = {}
    for node in ("n1", "n2"):
        assert lab.execute(paths, node, ["ovs-vsctl", "list-br"]) == 0
        listed[node] = capfd.readouterr().out.split()
    assert listed == {"n1": ["only-n1"], "n2": []}
    states = {state.node.name: state.ovs for state in lab.status(*lab.opened(FIRST))}
    assert states == {"n1": True, "n2": True, "k1": False}


def test_build_again_restarts_only_what_is_missing(make: Make) -> None:
    paths, _ = make(FIRST, TWO)
    kept, killed = (nodes.switch(paths.node(name)) for name in ("n1", "n2"))
    before = kept.place.pid("ovs-vswitchd")
    killed.kill_switch()
    subprocess.run(["ip", "-n", paths.netns("n2").name, "link", "delete", "eth0"], check=True)
    make(FIRST, TWO)
    assert kept.place.pid("ovs-vswitchd") == before
    assert killed.switch_running()
    assert pings(paths, "n1", "192.0.2.2")


def test_two_labs_with_the_same_addresses_stay_apart(make: Make) -> None:
    first, _ = make(FIRST, TWO)
    second, _ = make(SECOND, THREE)
    assert pings(second, "n1", "192.0.2.3")
    assert not pings(first, "n1", "192.0.2.3")
    assert {FIRST, SECOND} <= set(lab.names())
    assert lab.down(first, silent)
    assert traces(FIRST) == []
    assert pings(second, "n1", "192.0.2.3")


def test_down_leaves_nothing_and_says_when_there_was_nothing(make: Make) -> None:
    paths, _ = make(FIRST, TWO)
    with subprocess.Popen(["nsenter", f"--net={paths.netns('n1')}", "sleep", "60"]) as guest:
        assert lab.down(paths, silent)
        assert guest.wait(5) == -signal.SIGTERM
    assert traces(FIRST) == []
    assert not lab.down(paths, silent)
    assert not LABS.exists() or FIRST not in lab.names()


def test_nodes_come_and_go_beside_those_that_stay(make: Make) -> None:
    paths, _ = make(FIRST, TWO)
    first = nodes.switch(paths.node("n1")).place
    before = [first.pid(program) for program in ("ovsdb-server", "ovs-vswitchd")]
    make(FIRST, THREE)
    assert pings(paths, "n1", "192.0.2.3")
    make(FIRST, "nodes: [{name: n1}, {name: n9}]")
    assert [path.name for path in underlay.namespaces(paths)] == [
        paths.netns(member).name for member in ("n1", "n9", "underlay")
    ]
    assert not paths.node("n2").directory.exists()
    assert not [line for line in traces(FIRST) if "/n2/" in line]
    assert pings(paths, "n1", "192.0.2.2")
    assert not pings(paths, "n1", "192.0.2.3")
    assert [first.pid(program) for program in ("ovsdb-server", "ovs-vswitchd")] == before


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("nodes: [{name: n2}]", "n2 would be another one", id="another place"),
        pytest.param(f"underlay: {{mtu: 9000}}\n{TWO}", "not 9000", id="another MTU"),
    ],
)
def test_what_cannot_change_while_it_is_up_is_refused(make: Make, text: str, words: str) -> None:
    paths, _ = make(FIRST, TWO)
    before = traces(FIRST)
    told = rf"lab {FIRST} is up with another topology .*{words}.*lab down"
    with pytest.raises(LabError, match=told):
        make(FIRST, text)
    assert traces(FIRST) == before
    assert lab.build(paths, None, silent).nodes == read_topology(TWO, "x").nodes


@pytest.mark.parametrize(
    ("call", "words"),
    [
        pytest.param(lambda: lab.opened(NONE), rf"lab '{NONE}' is not up", id="no such lab"),
        pytest.param(lambda: LabPaths("a-b"), r"lab 'a-b' is not 1-12", id="name of a lab"),
        pytest.param(lambda: lab.execute(LabPaths(NONE), "n1", []), "has no 'n1'", id="no node"),
    ],
)
def test_faults_are_said(call: Callable[[], object], words: str) -> None:
    with pytest.raises((LabError, InvalidValueError), match=words):
        call()


BUILD = f"""
from dataplane.lab import lab
from dataplane.lab.layout import LabPaths
from dataplane.lab.topology import read_topology
print("go", flush=True)
topology = read_topology({TWO!r}, "x")
lab.build(LabPaths("{CRASHED}"), topology, lambda line: None)
print("built", flush=True)
"""


def crash_while_building(after_s: float) -> bool:
    """Kill a build so many seconds after its begin; return whether it had not yet ended."""
    with subprocess.Popen(
        [sys.executable, "-c", BUILD], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "go\n"
        time.sleep(after_s)
        child.kill()
        return "built" not in child.stdout.read()


@pytest.mark.parametrize(
    "finish",
    [
        pytest.param(None, id="down"),
        pytest.param(TWO, id="up, down"),
        pytest.param("nodes: [{name: n9}, {name: n2}]", id="up to another, down"),
    ],
)
def test_a_crash_half_way_is_cleaned_or_completed(finish: str | None) -> None:
    paths = LabPaths(CRASHED)
    crashed = 0
    for step in range(8):
        crashed += crash_while_building(0.005 + 0.02 * step)
        if finish is not None:
            built = lab.build(paths, read_topology(finish, "x"), silent)
            assert pings(paths, built.nodes[0].name, "2001:db8:0:1::2")
            assert {each.name for each in underlay.namespaces(paths)} == {
                f"{paths.prefix}{member}" for member in ("underlay", *(n.name for n in built.nodes))
            }
        lab.down(paths, silent)
        assert traces(CRASHED) == [], f"after a crash at step {step}"
    assert crashed >= 3, "the kills came too late to interrupt anything"


def test_a_name_without_a_namespace_is_mended(make: Make) -> None:
    paths, _ = make(FIRST, TWO)
    lab.down(paths, silent)
    half_made = paths.netns("n1")
    half_made.touch()  # as a process leaves it that dies while it makes a namespace
    make(FIRST, TWO)
    assert underlay.namespaces(paths) == tuple(
        paths.netns(member) for member in ("n1", "n2", "underlay")
    )
