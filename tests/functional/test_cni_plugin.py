"""The plugin as runtimes know it: a process with variables and stdin, against a served socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dataplane.contracts import AttachRefusedError
from dataplane.core.errors import OverweaveError
from dataplane.core.model import AttachmentKey
from dataplane.core.snapshot import Obstacle
from tests.functional.cni_world import World, network_namespace, run_plugin, world
from tests.unit.cni_catalogue import ALL, SOCKETS, UNDECODABLE, VERSIONS, Case

KEY = AttachmentKey("c1", "eth0")
VALID = "cni.dev/valid-attachments"


@pytest.fixture(scope="module")
def netns() -> Iterator[str]:
    with network_namespace() as path:
        yield path


@pytest.fixture
def node(tmp_path: Path, netns: str) -> Iterator[World]:
    with world(tmp_path, netns) as made:
        yield made


def error_of(outcome: Any, code: int, *words: str) -> dict[str, Any]:
    """Return the error object; it must have the code and name what is wrong, on one line."""
    assert outcome.status == 1
    document: dict[str, Any] = outcome.document
    assert document["code"] == code, document
    assert all(word in document["msg"] for word in words), document["msg"]
    assert outcome.stdout.count("\n") == 1
    assert "Traceback" not in outcome.stdout + outcome.stderr
    return document


# --- bad input -------------------------------------------------------------------------------

REACHABLE = [
    case
    for case in ALL
    if case not in SOCKETS and not (isinstance(case.config, bytes) and b"{" not in case.config[:1])
]


def test_most_of_the_catalogue_reaches_the_agent() -> None:
    assert len(REACHABLE) >= 60


@pytest.mark.parametrize("case", REACHABLE, ids=lambda case: case.name)
def test_bad_input_leaves_nothing_behind(node: World, case: Case) -> None:
    paths = {"CNI_NETNS": node.netns, "CNI_PATH": str(node.plugins)}
    variables: dict[str, str | bytes] = case.variables(**paths)
    stdin = case.stdin(agentSocket=str(node.socket))
    outcome = run_plugin(node.plugin, stdin, variables)
    error_of(outcome, case.code, *(case.words if case.name != "json-not-utf-8" else ()))
    assert outcome.seconds < 5
    node.assert_nothing_left()
    if case not in UNDECODABLE + VERSIONS and case.code != 4:
        # A runtime follows a failed ADD with a DEL of the same configuration.
        after = run_plugin(node.plugin, stdin, {**variables, "CNI_COMMAND": "DEL"})
        assert (after.status, after.stdout) == (0, "")


@pytest.mark.parametrize("case", [*SOCKETS, *UNDECODABLE], ids=lambda case: case.name)
def test_without_a_usable_socket_the_answer_is_still_an_error_object(
    case: Case, node: World
) -> None:
    outcome = run_plugin(node.plugin, case.stdin(), case.variables())
    error_of(outcome, 11, "cannot be asked at")
    assert outcome.seconds < 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        pytest.param(lambda where: f"{where}/none", "No such file", id="missing"),
        pytest.param(lambda where: _touch(where / "file"), "is it mounted", id="file"),
        pytest.param(str, "not a network namespace", id="directory"),
        pytest.param(lambda where: _fifo(where / "fifo"), "not a network namespace", id="fifo"),
        pytest.param(lambda where: _loop(where / "loop"), "symbolic links", id="symlink-loop"),
        pytest.param(lambda _: "/proc/self/ns/pid", "not a network namespace", id="pid-namespace"),
        pytest.param(lambda _: "/proc/self/ns/net", "the node's own", id="own-namespace"),
        pytest.param(lambda _: "/proc/0/ns/net", "No such file", id="no-such-process"),
        pytest.param(lambda _: "/dev/null", "not a network namespace", id="device"),
    ],
)
def test_a_namespace_that_is_none(node: World, tmp_path: Path, make: Any, words: str) -> None:
    path = make(tmp_path)
    error_of(node.run("ADD", CNI_NETNS=path), 4, "CNI_NETNS", path, words)
    node.assert_nothing_left()
    assert node.run("DEL", CNI_NETNS=path).status == 0


def test_a_deleted_namespace(node: World) -> None:
    with network_namespace() as path:
        assert node.run("ADD", CNI_NETNS=path).status == 0
    error_of(node.run("ADD", CNI_NETNS=path, CNI_CONTAINERID="c2"), 4, path)
    assert node.run("DEL", CNI_NETNS=path).status == 0
    node.assert_nothing_left()


def _touch(path: Path) -> str:
    path.touch()
    return str(path)


def _fifo(path: Path) -> str:
    os.mkfifo(path)
    return str(path)


def _loop(path: Path) -> str:
    path.symlink_to(path)
    return str(path)


# --- the verbs -------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_add_check_del_in_every_version(node: World, version: str) -> None:
    added = node.run("ADD", node.config(cniVersion=version))
    assert added.status == 0
    assert added.document["cniVersion"] == version
    assert node.wiring.announced == [KEY]
    checked = node.run("CHECK", node.config(cniVersion=version, prevResult=added.document))
    if version == "0.3.1":
        error_of(checked, 1, "CHECK", "0.3.1")
    else:
        assert (checked.status, checked.stdout) == (0, "")
    deleted = node.run("DEL", node.config(cniVersion=version, prevResult=added.document))
    assert (deleted.status, deleted.stdout) == (0, "")
    node.assert_nothing_left()


def test_a_second_add_is_refused_and_the_first_goes_on(node: World) -> None:
    first = node.run("ADD")
    assert first.status == 0
    error_of(node.run("ADD"), 101, "c1", "eth0", "call DEL first")
    assert node.run("CHECK", node.config(prevResult=first.document)).status == 0
    assert node.run("DEL").status == 0
    assert node.run("ADD").status == 0


def test_an_interface_of_someone_else_is_left_alone(node: World) -> None:
    node.wiring.foreign.add((node.netns, "eth0"))
    error_of(node.run("ADD"), 102, "eth0", "not ours")
    node.assert_nothing_left()


def test_two_interfaces_of_one_container(node: World) -> None:
    assert node.run("ADD").status == 0
    assert node.run("ADD", CNI_IFNAME="net1").status == 0
    assert node.run("DEL").status == 0
    assert node.attachments.keys() == (AttachmentKey("c1", "net1"),)


@pytest.mark.parametrize("name", ["absent", "empty", "gone", "other"])
def test_del_needs_no_namespace_and_may_be_repeated(node: World, name: str) -> None:
    netns = {"absent": None, "empty": "", "gone": "/run/netns/gone", "other": "/etc/passwd"}[name]
    assert node.run("DEL", CNI_NETNS=netns).status == 0
    assert node.run("ADD").status == 0
    for _ in range(3):
        outcome = node.run("DEL", CNI_NETNS=netns)
        assert (outcome.status, outcome.stdout) == (0, "")
    node.assert_nothing_left()


def test_a_process_path_is_a_namespace_too(node: World) -> None:
    holder = subprocess.Popen(["unshare", "--net", "sleep", "60"])
    try:
        path = f"/proc/{holder.pid}/ns/net"
        own = Path("/proc/self/ns/net").readlink()
        while Path(path).readlink() == own:
            time.sleep(0.01)
        added = node.run("ADD", CNI_NETNS=path)
        assert added.document["interfaces"][1]["sandbox"] == path
    finally:
        holder.kill()
        holder.wait()
    assert node.run("DEL", CNI_NETNS=path).status == 0
    node.assert_nothing_left()


@pytest.mark.parametrize("verb", ["DEL", "GC"])
def test_what_is_on_a_segment_that_no_longer_exists_is_taken_away(node: World, verb: str) -> None:
    assert node.run("ADD").status == 0
    del node.attachments.segments["blue"]
    assert node.run(verb, gc_config(node) if verb == "GC" else None).status == 0
    node.assert_nothing_left()


def test_del_takes_the_rest_away_if_one_step_fails(node: World) -> None:
    assert node.run("ADD").status == 0
    node.wiring.unplumb_error = OverweaveError("vp0 cannot be deleted: Device or resource busy")
    error_of(node.run("DEL"), 102, "vp0", "busy")
    assert node.attachments.keys() == ()
    node.wiring.unplumb_error = None
    assert node.run("DEL").status == 0


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        pytest.param(
            ("attachments", "refusal", AttachRefusedError(11, "segment blue has no free address")),
            11,
            "no free address",
            id="refused",
        ),
        pytest.param(
            ("wiring", "plumb_error", OverweaveError("vp0 cannot be made: No space")),
            102,
            "No space",
            id="not-plumbed",
        ),
        pytest.param(
            ("attachments", "unprogrammable", AttachRefusedError(11, "ovs-ports: not connected")),
            11,
            "ovs-ports",
            id="not-programmed",
        ),
        pytest.param(
            ("wiring", "announce_error", OverweaveError("eth0 is down")), 102, "down", id="mute"
        ),
        pytest.param(
            ("wiring", "plumb_error", ZeroDivisionError("boom")),
            100,
            "ZeroDivisionError: boom",
            id="bug",
        ),
    ],
)
def test_a_failed_add_is_undone_and_says_how_long_what_took(
    node: World, fault: tuple[str, str, Exception], code: int, words: str
) -> None:
    owner, attribute, error = fault
    setattr(getattr(node, owner), attribute, error)
    document = error_of(node.run("ADD"), code, words)
    assert "admit 0." in document["details"]
    node.assert_nothing_left()
    setattr(getattr(node, owner), attribute, None)
    assert node.run("ADD").status == 0


def test_an_add_that_nobody_waits_for_any_more_takes_no_workload_over(
    node: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node, "_take_note", lambda *_: None)
    told: list[str] = []
    node.attachments.at_publish = lambda: told.append("published")
    node.attachments.programming_s = 0.7
    node.limits = type(node.limits)(request=0.5)
    node.stop()
    node.start()
    error_of(node.run("ADD"), 11, "it took longer than 0.5 s")
    assert told == []
    node.assert_nothing_left()


def test_how_long_what_took_is_told_of_known_commands(node: World) -> None:
    connect = ["plumb", "program", "publish", "announce"]
    assert node.run("ADD").status == 0
    assert node.timed == [("ADD", phase) for phase in ("admit", *connect, "total")]
    node.timed.clear()
    assert node.run("ADD", node.config(segment="green"), CNI_CONTAINERID="c2").status == 1
    assert node.run("FROB").status == 1
    assert node.timed == [("ADD", "total")]
    node.timed.clear()
    assert node.run("DEL").status == 0
    assert node.timed == [("DEL", phase) for phase in ("unplumb", "detach", "total")]


def test_an_unknown_segment_and_a_too_large_mtu_are_refused_first(node: World) -> None:
    error_of(node.run("ADD", node.config(segment="green")), 7, "green")
    error_of(node.run("ADD", node.config(mtu=9000)), 7, "mtu 9000", "blue", "1450")
    assert node.attachments.log == []


def test_asked_for_address_mac_and_mtu(node: World) -> None:
    wanted = {"mac": "02:00:00:00:00:77", "ips": ["10.1.3.3/20", "fd00:1::77"]}
    document = node.run("ADD", node.config(runtimeConfig=wanted, mtu=1300)).document
    assert document["interfaces"][1]["mac"] == "02:00:00:00:00:77"
    assert document["interfaces"][1]["mtu"] == 1300
    assert [ip["address"] for ip in document["ips"]] == ["10.1.3.3/20", "fd00:1::77/64"]
    same = node.run("ADD", node.config(runtimeConfig=wanted), CNI_CONTAINERID="c2")
    error_of(same, 7, "10.1.3.3", "c1/eth0")
    other = node.config(runtimeConfig={"ips": ["10.1.3.4/24"]})
    error_of(node.run("ADD", other, CNI_CONTAINERID="c3"), 7, "10.1.3.4/24", "10.1.0.0/20")
    assert node.attachments.keys() == (KEY,)


def test_a_request_says_when_it_was_made(node: World) -> None:
    before = int(time.time())
    assert node.run("ADD").status == 0
    attachment = node.attachments.attachment(KEY)
    assert attachment is not None
    assert before <= attachment.requested_at <= time.time()


def test_unpublished_is_success(node: World) -> None:
    node.attachments.published = False
    assert node.run("ADD").status == 0


def test_chained_after_another_plugin(node: World) -> None:
    before = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "dummy0", "sandbox": node.netns}],
        "ips": [{"address": "192.0.2.1/24", "interface": 0}],
    }
    document = node.run("ADD", node.config(prevResult=before)).document
    assert [each["name"] for each in document["interfaces"]] == ["dummy0", "vp0", "eth0"]
    assert [ip["interface"] for ip in document["ips"]] == [0, 2, 2]
    assert node.run("CHECK", node.config(prevResult=document)).status == 0


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda w: w.wiring.found_faults.append("eth0 is down"), "down", id="link"),
        pytest.param(
            lambda w: w.attachments.found_faults.append("ovs-flows: a flow is gone"),
            "flow",
            id="flow",
        ),
        pytest.param(lambda w: w.wiring.links.clear(), "gone", id="no-link"),
        pytest.param(lambda w: w.attachments.cancel(KEY), "not attached", id="unknown"),
    ],
)
def test_check_looks(node: World, spoil: Any, words: str) -> None:
    result = node.run("ADD").document
    spoil(node)
    error_of(node.run("CHECK", node.config(prevResult=result)), 103, "c1", "eth0", words)


def test_check_compares_with_the_result_and_the_segment(node: World) -> None:
    result = node.run("ADD").document
    result["ips"][0]["address"] = "10.1.9.9/20"
    document = error_of(
        node.run("CHECK", node.config(prevResult=result, segment="bare")), 103, "and 2 more"
    )
    assert all(word in document["details"] for word in ("10.1.9.9", "10.1.0.2", "bare"))


def test_check_gives_what_is_under_way_time(node: World) -> None:
    node.stop()
    node.limits = type(node.limits)(settle=3.0, look_again=0.05)
    node.start()
    result = node.run("ADD").document
    node.attachments.found_faults.append("fabric: the row is not there yet")
    timer = threading.Timer(0.5, node.attachments.found_faults.clear)
    timer.start()
    assert node.run("CHECK", node.config(prevResult=result)).status == 0
    timer.join()


def gc_config(node: World, *valid: AttachmentKey, **changes: object) -> dict[str, object]:
    entries = [{"containerID": key.container_id, "ifname": key.ifname} for key in valid]
    return node.config(**{VALID: entries}, **changes)


def test_gc_removes_what_is_no_longer_wanted_on_its_own_network(node: World) -> None:
    for container in ("c1", "c2", "c3"):
        assert node.run("ADD", CNI_CONTAINERID=container).status == 0
    assert node.run("ADD", node.config(name="other"), CNI_CONTAINERID="c4").status == 0
    kept = AttachmentKey("c2", "eth0")
    outcome = node.run("GC", gc_config(node, kept, AttachmentKey("never", "seen")))
    assert (outcome.status, outcome.stdout) == (0, "")
    assert set(node.attachments.keys()) == {kept, AttachmentKey("c4", "eth0")}
    assert node.run("GC", gc_config(node)).status == 0
    assert node.attachments.keys() == (AttachmentKey("c4", "eth0"),)


def test_gc_goes_on_past_errors(node: World) -> None:
    for container in ("c1", "c2"):
        assert node.run("ADD", CNI_CONTAINERID=container).status == 0
    node.wiring.unplumb_error = OverweaveError("the link is stuck")
    error_of(node.run("GC", gc_config(node)), 102, "stuck")
    assert node.attachments.keys() == ()


def test_status(node: World) -> None:
    outcome = node.run("STATUS", CNI_CONTAINERID=None, CNI_NETNS=None, CNI_IFNAME=None)
    assert (outcome.status, outcome.stdout) == (0, "")
    error_of(node.run("STATUS", node.config(segment="green")), 50, "green")
    node.attachments.obstruction = Obstacle("the fabric database is away")
    error_of(node.run("STATUS"), 50, "database is away")
    node.attachments.obstruction = Obstacle("ovs-flows: no vswitchd", limits_existing=True)
    error_of(node.run("STATUS"), 51, "no vswitchd")


@pytest.mark.parametrize("running", [True, False], ids=["agent-up", "agent-down"])
@pytest.mark.parametrize(
    ("stdin", "version"),
    [(b'{"cniVersion": "0.4.0"}', "0.4.0"), (b'{"cniVersion": "9"}', "1.1.0"), (b"", "1.1.0")],
    ids=["known", "unknown", "empty"],
)
def test_version_needs_no_agent(node: World, stdin: bytes, version: str, running: Any) -> None:
    if not running:
        node.stop()
    outcome = run_plugin(node.plugin, stdin, {"CNI_COMMAND": "VERSION"})
    assert outcome.status == 0
    assert outcome.document == {
        "cniVersion": version,
        "supportedVersions": ["0.3.1", "0.4.0", "1.0.0", "1.1.0"],
    }


DELEGATING = """#!/usr/bin/python3 -I
import json, os, subprocess, sys
whole = json.load(sys.stdin)
inner = {"cniVersion": whole["cniVersion"], "name": whole["name"], **whole["delegate"]}
if "prevResult" in whole:
    inner["prevResult"] = whole["prevResult"]
plugin = next(
    path
    for part in os.environ["CNI_PATH"].split(":")
    if os.access(path := os.path.join(part, inner["type"]), os.X_OK)
)
env = {**os.environ, "CNI_IFNAME": "net1"}
done = subprocess.run([plugin], input=json.dumps(inner).encode(), env=env)
sys.exit(done.returncode)
"""


def test_as_a_delegate_of_a_meta_plugin(node: World) -> None:
    meta = node.write_plugin("meta", DELEGATING)
    inner = {"type": "overweave-cni", "segment": "blue", "agentSocket": str(node.socket)}
    outer = {"cniVersion": "1.0.0", "name": "multi", "type": "meta", "delegate": inner}

    def run(verb: str, **more: object) -> Any:
        variables = node.environment(verb, CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=shop")
        return run_plugin(meta, json.dumps({**outer, **more}).encode(), variables)

    document = run("ADD").document
    assert document["interfaces"][1]["name"] == "net1"
    assert node.attachments.keys() == (AttachmentKey("c1", "net1"),)
    assert run("CHECK", prevResult=document).status == 0
    assert run("DEL", prevResult=document).status == 0
    node.assert_nothing_left()


# --- concurrency -----------------------------------------------------------------------------


# In a process of its own: two hundred forks here would stop the agent's threads for seconds.
BURST = """
import json, subprocess, sys
plugin, config, base = json.load(sys.stdin)
def start(n):
    env = {**base, "CNI_CONTAINERID": f"c{n}"}
    shim = subprocess.Popen([plugin], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    shim.stdin.write(json.dumps(config).encode())
    shim.stdin.close()
    return shim
shims = [start(n) for n in range(200)]
print(json.dumps([[shim.stdout.read().decode(), shim.wait()] for shim in shims]))
"""


def burst(node: World, verb: str) -> list[tuple[str, int]]:
    """Run the verb for two hundred containers at once; return stdout and status of each."""
    work = json.dumps([str(node.plugin), node.config(), node.environment(verb)])
    done = subprocess.run(
        [sys.executable, "-c", BURST], input=work, stdout=subprocess.PIPE, text=True, check=True
    )
    return [(stdout, status) for stdout, status in json.loads(done.stdout)]


def test_two_hundred_containers_at_once(node: World) -> None:
    start = time.monotonic()
    added = burst(node, "ADD")
    print(f"200 ADDs at once: {time.monotonic() - start:.2f} s")
    assert [stdout for stdout, status in added if status] == []
    addresses = {ip["address"] for stdout, _ in added for ip in json.loads(stdout)["ips"]}
    assert len(addresses) == 400
    assert {status for _, status in burst(node, "DEL")} == {0}
    node.assert_nothing_left()


def test_add_and_del_of_one_container_take_turns(node: World) -> None:
    node.attachments.programming_s = 0.05
    verbs = ["ADD", "DEL"] * 10
    with ThreadPoolExecutor(20) as pool:
        outcomes = list(pool.map(node.run, verbs))
    assert {outcome.status for outcome, verb in zip(outcomes, verbs, strict=True) if verb == "DEL"}
    for outcome, verb in zip(outcomes, verbs, strict=True):
        assert outcome.status == 0 or (verb == "ADD" and outcome.document["code"] == 101)
    history = [entry.split()[0] for entry in node.attachments.log]
    assert history == [("admit", "detach")[n % 2] for n in range(len(history))]
    assert node.run("DEL").status == 0
    node.assert_nothing_left()


def test_a_slow_container_does_not_hold_up_others(node: World) -> None:
    node.attachments.programming_s = 1.5
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(node.run, "ADD", CNI_CONTAINERID="slow")
        while not node.attachments.keys():
            time.sleep(0.01)
        node.attachments.programming_s = 0.0
        assert node.run("ADD", CNI_CONTAINERID="quick").seconds < 1
        assert not slow.done()
        assert slow.result().status == 0


# --- without the agent -----------------------------------------------------------------------


@pytest.fixture
def lost_agent(node: World, request: pytest.FixtureRequest) -> Iterator[World]:
    """Yield a node whose agent is away, in one of several ways."""
    node.stop()
    listener = socket.socket(socket.AF_UNIX)
    answerer = None
    if request.param != "no-socket":
        listener.bind(str(node.socket))
    if request.param in ("hangs", "dies", "speaks-another-protocol"):
        listener.listen()
    if request.param == "dies":
        answerer = threading.Thread(target=_greet_and_leave, args=(listener, b"overweave-cni/1\n"))
    if request.param == "speaks-another-protocol":
        answerer = threading.Thread(target=_greet_and_leave, args=(listener, b"overweave-cni/2\n"))
    if answerer:
        answerer.start()
    yield node
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()
    if answerer:
        answerer.join()
    node.socket.unlink(missing_ok=True)


def _greet_and_leave(listener: socket.socket, greeting: bytes) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection:
            connection.sendall(greeting)
            connection.settimeout(1)
            connection.recv(1 << 20)


AWAY = ["no-socket", "refuses", "hangs", "dies", "speaks-another-protocol"]


@pytest.mark.parametrize(
    ("lost_agent", "verb", "code"),
    [
        *((way, "ADD", 11) for way in AWAY),
        ("no-socket", "CHECK", 11),
        ("no-socket", "GC", 11),
        ("no-socket", "STATUS", 50),
    ],
    indirect=["lost_agent"],
)
def test_an_agent_that_is_away_is_said_soon(lost_agent: World, verb: str, code: int) -> None:
    outcome = lost_agent.run(verb)
    error_of(outcome, code, str(lost_agent.socket))
    assert outcome.seconds < (7 if "in time" in outcome.stdout else 2)
    assert not lost_agent.tombstones.exists()


@pytest.mark.parametrize("lost_agent", AWAY, indirect=True)
def test_del_succeeds_without_the_agent_and_is_made_up_for(lost_agent: World) -> None:
    node = lost_agent
    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(node.run, ["DEL", "DEL"]))
    assert [(outcome.status, outcome.stdout) for outcome in outcomes] == [(0, "")] * 2
    (tombstone,) = node.tombstones.iterdir()
    assert tombstone.name == "c1@eth0"
    assert tombstone.stat().st_mode & 0o777 == 0o600
    assert node.tombstones.stat().st_mode & 0o777 == 0o700


def wait_until(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_restarted_agent_does_the_dels_it_missed(node: World) -> None:
    for container in ("c1", "c2", "c3"):
        assert node.run("ADD", CNI_CONTAINERID=container).status == 0
    node.stop()
    assert node.run("DEL").status == 0
    assert node.run("DEL", CNI_CONTAINERID="c2", CNI_NETNS=None).status == 0
    assert len(node.attachments.keys()) == 3
    node.start()
    wait_until(lambda: not list(node.tombstones.iterdir()))
    assert node.attachments.keys() == (AttachmentKey("c3", "eth0"),)


def test_a_missed_del_is_done_before_the_next_add_and_never_after(node: World) -> None:
    assert node.run("ADD").status == 0
    kept = node.stop
    kept()
    assert node.run("DEL").status == 0
    (tombstone,) = node.tombstones.iterdir()
    owed = tombstone.read_bytes()
    tombstone.unlink()
    node.start()
    tombstone.write_bytes(owed)  # as if the shim had given up on a hung agent just now
    assert node.run("ADD").status == 0
    assert node.attachments.log == ["admit c1", "detach c1", "admit c1"]
    assert list(node.tombstones.iterdir()) == []


def test_a_del_that_gets_through_settles_what_was_owed(node: World) -> None:
    node.stop()
    assert node.run("DEL").status == 0
    (tombstone,) = node.tombstones.iterdir()
    owed = tombstone.read_bytes()
    node.start()
    wait_until(lambda: not tombstone.exists())
    tombstone.write_bytes(owed)
    assert node.run("DEL").status == 0
    assert not tombstone.exists()


def test_a_tombstone_that_is_none_is_removed(node: World) -> None:
    node.stop()
    assert node.run("DEL").status == 0
    (tombstone,) = node.tombstones.iterdir()
    tombstone.write_bytes(tombstone.read_bytes()[:-10])
    (node.tombstones / ".4711").write_bytes(b"")
    os.utime(node.tombstones / ".4711", (0, 0))
    node.start()
    wait_until(lambda: not list(node.tombstones.iterdir()))
    assert node.run("ADD").status == 0


def _fill(where: Path) -> None:
    where.mkdir(mode=0o700)
    first = where / "c0@eth0"
    first.touch()
    for n in range(1, 1024):
        (where / f"c{n}@eth0").hardlink_to(first)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(lambda where: where.mkdir(mode=0o755), "only this user", id="open-to-others"),
        pytest.param(lambda where: where.touch(), "only this user", id="a-file"),
        pytest.param(lambda where: where.symlink_to("/tmp"), "only this user", id="a-link"),  # noqa: S108
        pytest.param(_fill, "1024", id="full"),
    ],
)
def test_a_del_that_cannot_be_kept_fails(node: World, spoil: Any, words: str) -> None:
    node.stop()
    spoil(node.tombstones)
    error_of(node.run("DEL"), 11, "could not be kept", words)


@pytest.mark.parametrize("container", ["../../etc", "a" * 300, "", "a@b"])
def test_a_del_of_nothing_possible_is_not_kept(node: World, container: str) -> None:
    node.stop()
    error_of(node.run("DEL", CNI_CONTAINERID=container), 11, "CNI_CONTAINERID")


def test_an_agent_that_stops_cuts_requests_off_with_try_again(node: World) -> None:
    node.attachments.programming_s = 3.0
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(node.run, "ADD")
        wait_until(node.attachments.keys)
        start = time.monotonic()
        node.stop(grace_s=0.2)
        assert time.monotonic() - start < 2
        error_of(slow.result(), 11, "without an answer")


# --- the socket ------------------------------------------------------------------------------


def test_the_socket_is_private(node: World) -> None:
    assert node.socket.stat().st_mode & 0o777 == 0o600
    assert node.socket.parent.stat().st_mode & 0o777 == 0o700


def test_a_directory_that_others_can_enter_is_refused(node: World) -> None:
    node.stop()
    node.socket.parent.chmod(0o755)
    with pytest.raises(OverweaveError, match="0755"):
        node.start()


def test_a_second_agent_on_the_same_socket_is_refused(node: World) -> None:
    other = World(node.directory, node.netns, node.plugin)
    with pytest.raises(OverweaveError, match="another agent already serves"):
        other.start()
    assert node.run("ADD").status == 0


def test_the_socket_of_a_dead_agent_is_taken_over(node: World) -> None:
    node.stop()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(node.socket))
    node.start()
    assert node.run("ADD").status == 0


OTHER_USER = """
import socket, sys
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
print(client.recv(100))
"""


def test_another_user_is_not_even_greeted(node: World) -> None:
    everybodys = Path(tempfile.gettempdir())
    for path in (node.socket, *node.socket.parents):
        if path != everybodys and path.is_relative_to(everybodys):
            path.chmod(0o755 if path.is_dir() else 0o777)  # only who asks may be in the way
    done = subprocess.run(
        [sys.executable, "-c", OTHER_USER, str(node.socket)],
        capture_output=True,
        text=True,
        check=False,
        user=65534,
        group=65534,
    )
    assert done.stdout.strip() == "b''", done.stderr


def test_a_client_that_says_nothing_or_leaves_disturbs_nobody(node: World) -> None:
    with socket.socket(socket.AF_UNIX) as silent, socket.socket(socket.AF_UNIX) as leaving:
        silent.connect(str(node.socket))
        leaving.connect(str(node.socket))
        leaving.sendall(b"5 5\nab")
        leaving.close()
        assert node.run("ADD").status == 0


def test_closed_stdin_is_an_error_object(node: World) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" <&-', str(node.plugin)],
        env=node.environment("ADD"),
        capture_output=True,
        check=False,
    )
    assert json.loads(done.stdout)["code"] == 5


def test_the_shim_can_be_interrupted(node: World) -> None:
    node.attachments.programming_s = 1.0
    shim = subprocess.Popen(
        [str(node.plugin)],
        env=node.environment("ADD"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert shim.stdin
    assert shim.stdout
    shim.stdin.write(json.dumps(node.config()).encode())
    shim.stdin.close()
    wait_until(node.attachments.keys)
    shim.send_signal(signal.SIGKILL)
    shim.wait()
    shim.stdout.close()
    assert node.run("DEL").status == 0  # waits for the ADD that is still under way
    node.assert_nothing_left()


def test_start_up_time_of_the_shim(node: World) -> None:
    seconds = sorted(node.run("STATUS").seconds for _ in range(40))
    print(
        f"shim, whole run: p50 {statistics.median(seconds) * 1e3:.1f} ms,"
        f" p99 {seconds[-1] * 1e3:.1f} ms (aim 12)"
    )
    assert statistics.median(seconds) < 0.06
