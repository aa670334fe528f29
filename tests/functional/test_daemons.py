"""Real ovsdb-server and ovs-vswitchd processes, started, found, stopped and killed."""

import json
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovs_client import daemons, process
from ovs_client.daemons import DaemonError, DatabaseServer, OvsInstance, Place
from ovs_client.dump import dump

SCHEMA = {
    "name": "Trial",
    "version": "1.0.0",
    "tables": {"Thing": {"columns": {"name": {"type": "string"}}, "isRoot": True}},
}


@pytest.fixture
def netns() -> Iterator[Path]:
    name = f"owtest-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    yield Path("/run/netns") / name
    subprocess.run(["ip", "netns", "delete", name], check=True)


@pytest.fixture
def ovs(tmp_path: Path, netns: Path) -> Iterator[OvsInstance]:
    instance = OvsInstance(Place(tmp_path / "ovs", tmp_path / "log", netns))
    yield instance
    instance.stop()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DatabaseServer]:
    schema = tmp_path / "trial.ovsschema"
    schema.write_text(json.dumps(SCHEMA), encoding="utf-8")
    started = DatabaseServer(Place(tmp_path / "db", tmp_path / "log"), schema)
    yield started
    started.stop()


def insert(server: DatabaseServer, name: str) -> None:
    operation = {"op": "insert", "table": "Thing", "row": {"name": name}}
    daemons.run(["ovsdb-client", "transact", server.remote, json.dumps(["Trial", operation])])


def names(server: DatabaseServer) -> list[str]:
    printed = daemons.run(
        ["ovsdb-client", "dump", "-f", "json", server.remote, "Trial", "Thing", "name"]
    )
    return [row[-1] for row in json.loads(printed)["data"]]


def vsctl(ovs: OvsInstance, *words: str) -> str:
    return daemons.run(["ovs-vsctl", f"--db={ovs.remote}", "--timeout=10", *words]).strip()


def links(netns: Path) -> set[str]:
    shown = subprocess.run(
        ["nsenter", f"--net={netns}", "ip", "-j", "link"],
        check=True,
        capture_output=True,
        text=True,
    )
    return {link["ifname"] for link in json.loads(shown.stdout)}


def test_database_outlives_stop_and_crash(server: DatabaseServer) -> None:
    server.start()
    insert(server, "first")
    server.stop()
    assert not server.running()
    server.start()
    insert(server, "second")
    server.kill()
    assert not server.running()
    server.start()
    assert sorted(names(server)) == ["first", "second"]


def test_start_twice_is_one_process(server: DatabaseServer) -> None:
    server.start()
    first = server.place.pid("ovsdb-server")
    server.start()
    assert server.place.pid("ovsdb-server") == first
    assert (
        process.find(f"--pidfile={server.place.pidfile('ovsdb-server')}", "ovsdb-server") == first
    )


def test_listens_also_where_told(server: DatabaseServer) -> None:
    listening = DatabaseServer(server.place, server.schema, ("--remote=ptcp:0:127.0.0.1",))
    listening.start()
    number = listening.place.pid("ovsdb-server")
    control = listening.place.directory / f"ovsdb-server.{number}.ctl"
    remotes = daemons.run(["ovs-appctl", "-t", str(control), "ovsdb-server/list-remotes"])
    assert remotes.split() == ["ptcp:0:127.0.0.1", f"punix:{listening.socket}"]


def test_bad_schema_leaves_no_database(tmp_path: Path) -> None:
    schema = tmp_path / "broken.ovsschema"
    schema.write_text("{}", encoding="utf-8")
    broken = DatabaseServer(Place(tmp_path / "db", tmp_path / "log"), schema)
    with pytest.raises(DaemonError, match=r"ovsdb-tool create .* member is missing"):
        broken.start()
    assert list((tmp_path / "db").iterdir()) == []


def test_switch_runs_in_its_namespace(ovs: OvsInstance, netns: Path) -> None:
    ovs.start()
    assert ovs.running()
    vsctl(ovs, "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
    assert "br0" in links(netns)
    assert {pid for pid in process.pids() if process.lives_in(pid, [netns])} == {
        ovs.place.pid("ovsdb-server"),
        ovs.place.pid("ovs-vswitchd"),
    }
    said = dump(ovs.place.directory)
    assert "Bridge br0" in said["ovs-show.txt"]
    assert "actions=NORMAL" in said["ovs-vswitchd.txt"]


@pytest.mark.parametrize(
    ("cleanup", "kept"),
    [
        pytest.param(False, True, id="stop keeps devices"),
        pytest.param(True, False, id="cleanup removes them"),
    ],
)
def test_stop_and_devices(ovs: OvsInstance, netns: Path, *, cleanup: bool, kept: bool) -> None:
    ovs.start()
    vsctl(ovs, "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
    ovs.stop_switch(cleanup=cleanup)
    assert not ovs.switch_running()
    assert ovs.server.running()
    assert ("br0" in links(netns)) is kept


def test_switch_returns_after_a_crash(ovs: OvsInstance) -> None:
    ovs.start()
    vsctl(ovs, "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
    ovs.kill_switch()
    assert not ovs.switch_running()
    ovs.start()
    assert vsctl(ovs, "get", "bridge", "br0", "datapath_type") == "netdev"
    assert len(list(ovs.place.directory.glob("ovs-vswitchd.*.ctl"))) == 1


def test_a_reused_pid_is_left_alone(ovs: OvsInstance) -> None:
    ovs.start()
    ovs.kill_switch()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        ovs.place.pidfile("ovs-vswitchd").write_text(f"{stranger.pid}\n", encoding="ascii")
        assert not ovs.switch_running()
        ovs.stop_switch()
        ovs.kill_switch()
        assert stranger.poll() is None
        stranger.kill()


def test_end_insists() -> None:
    ignoring = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(["python3", "-c", ignoring], stdout=subprocess.PIPE) as stubborn:
        assert stubborn.stdout is not None
        stubborn.stdout.readline()
        process.end([stubborn.pid, os.getpid()], 0.2, lambda pid: pid == stubborn.pid)
        assert stubborn.wait(5) == -signal.SIGKILL


def test_a_hung_switch_is_stopped_all_the_same(ovs: OvsInstance) -> None:
    ovs.start()
    number = ovs.place.pid("ovs-vswitchd")
    assert number is not None
    os.kill(number, signal.SIGSTOP)
    ovs.stop_switch(cleanup=True)
    assert not ovs.switch_running()
    assert ovs.server.running()
