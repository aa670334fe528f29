"""What uninstall takes for its own outside its directories, and an agent that will not go."""

import fcntl
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dataplane import uninstall
from dataplane.cni.install import PLUGIN_NAME, install_plugin
from dataplane.config import AgentConfig, parse_config
from dataplane.core.errors import OverweaveError, TargetError
from ovs_client.process import wait_until
from ovs_client.vswitch import VSwitch
from tests.functional.marvell_device import running_device
from tests.functional.overlay_switch import in_netns, running_switch
from tests.functional.switch_world import MarvellWorld, Stage
from tests.functional.test_marvell_driver import WANTED

# Listens where an agent does, holds its lock, and does with SIGTERM what argv[3] says.
STUBBORN = """
import fcntl, signal, socket, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[3] == "stay" else signal.SIG_DFL)
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
print("ready", flush=True)
signal.pause()
"""


def config_at(directory: Path, run_dir: Path, more: str = "") -> AgentConfig:
    return parse_config(
        f"node: n\nunderlay: {{interface: eth0}}\nfabric: {{remote: 'unix:{directory}/f.sock'}}\n"
        f"state_dir: {directory}\nrun_dir: {run_dir}\n{more}",
        "test",
    )


@contextmanager
def agent(directory: Path, manners: str) -> Iterator[subprocess.Popen[bytes]]:
    files = [str(directory / "agent.lock"), str(directory / "api.sock")]
    with subprocess.Popen(
        [sys.executable, "-c", STUBBORN, *files, manners], stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process
        finally:
            process.kill()


def test_an_agent_is_asked_to_end_and_kept_from_starting(tmp_path: Path) -> None:
    config = config_at(tmp_path, tmp_path)
    with agent(tmp_path, "go") as process:
        assert uninstall.running_agent(config) == f"agent of {tmp_path} (process {process.pid})"
        with uninstall.agent_ended(config), (tmp_path / "agent.lock").open() as lock:
            assert process.wait(5) == -15
            with pytest.raises(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert uninstall.running_agent(config) is None


@pytest.mark.parametrize(
    ("manners", "listener", "called"),
    [
        pytest.param("stay", "api.sock", "{pid}", id="it ignores SIGTERM"),
        pytest.param("go", "elsewhere", "unknown", id="nobody says which process it is"),
    ],
)
def test_an_agent_that_still_runs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manners: str, listener: str, called: str
) -> None:
    monkeypatch.setattr(uninstall, "_AGENT_GRACE_S", 0.2)
    config = config_at(tmp_path, tmp_path)
    with agent(tmp_path, manners) as process:
        (tmp_path / "api.sock").rename(tmp_path / listener)
        name = called.format(pid=process.pid)
        assert uninstall.running_agent(config) == f"agent of {tmp_path} (process {name})"
        with (
            pytest.raises(OverweaveError, match=f"the agent of {tmp_path} still runs; stop it"),
            uninstall.agent_ended(config),
        ):
            pass
        assert process.poll() is None


def test_a_listener_without_the_lock_is_nobody_to_end(tmp_path: Path) -> None:
    """An agent with another state directory may listen in the same run directory."""
    with agent(tmp_path, "go") as process:
        config = config_at(tmp_path / "another", tmp_path)
        with uninstall.agent_ended(config):
            assert process.poll() is None


@pytest.fixture
def outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand-ins for /opt/cni/bin and /usr/local/bin."""
    monkeypatch.setattr(uninstall, "PLUGIN_DIRECTORY", tmp_path)
    monkeypatch.setattr(uninstall, "_COMMAND", tmp_path / "overweave")
    return tmp_path


OURS = str(Path(sys.executable).parent / "overweave")


@pytest.mark.parametrize(
    ("plugin", "link", "run_dir", "found"),
    [
        pytest.param(None, None, "/run/overweave", [], id="nothing installed"),
        pytest.param("", OURS, "/run/overweave", ["file", "link"], id="both ours"),
        pytest.param("# 0.0.1\n", None, "/run/overweave", ["file"], id="a plugin of ours, older"),
        pytest.param("", OURS, "/run/another", [], id="those of another agent"),
        pytest.param("#!/bin/sh\n", None, "/run/overweave", [], id="a plugin of that name"),
        pytest.param(None, "/elsewhere/overweave", "/run/overweave", [], id="another's link"),
    ],
)
def test_what_make_install_put_outside_is_known_by_its_marks(
    outside: Path, plugin: str | None, link: str | None, run_dir: str, found: list[str]
) -> None:
    if plugin is not None:
        path = install_plugin(outside)
        own = path.read_text(encoding="utf-8")
        path.write_text(plugin if plugin.startswith("#!") else own + plugin, encoding="utf-8")
    if link is not None:
        (outside / "overweave").symlink_to(link)
    before = sorted(path.name for path in outside.iterdir())
    things = list(uninstall._installed(config_at(outside, Path(run_dir))))
    assert [thing.name.split()[0] for thing in things] == found
    for thing in things:
        thing.remove()
    gone = {"file": PLUGIN_NAME, "link": "overweave"}
    left = sorted(path.name for path in outside.iterdir())
    assert left == [name for name in before if name not in {gone[kind] for kind in found}]


def test_a_command_that_is_no_link_is_not_ours(outside: Path) -> None:
    (outside / "overweave").write_text("theirs", encoding="utf-8")
    assert list(uninstall._installed(config_at(outside, Path("/run/overweave")))) == []


@pytest.mark.parametrize(
    ("place", "found"),
    [
        pytest.param("elsewhere/m.sock", ["file {}/elsewhere/m.sock"], id="elsewhere"),
        pytest.param("run/m.sock", ["file {}/run/m.sock"], id="beside the other sockets"),
        pytest.param("run/metrics.sock", [], id="as it is called by itself"),
    ],
)
def test_a_metrics_socket_that_was_left(tmp_path: Path, place: str, found: list[str]) -> None:
    config = config_at(tmp_path, tmp_path / "run", f"metrics: unix:{tmp_path / place}\n")
    assert list(uninstall._metrics_socket(config)) == []
    (tmp_path / place).parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / place))
    things = list(uninstall._metrics_socket(config))
    assert [thing.name for thing in things] == [name.format(tmp_path) for name in found]
    rest = uninstall._below(tmp_path / "run", uninstall._RUN_FILES, things)
    assert [thing.name for thing in rest] == (
        [f"directory {tmp_path}/run"] if place.startswith("run") else []
    )


def test_a_plugin_socket_goes_if_nobody_answers_on_it(tmp_path: Path) -> None:
    path = tmp_path / "plugin.sock"
    device = "{serial: '1', vendor: senao, side: dpu, representors: [rep0], switch: {uplink: up}}"
    more = f"devices: [{device}]\nopi: {{socket: 'unix:{path}'}}\n"
    config = config_at(tmp_path, tmp_path / "run", more)
    assert list(uninstall._opi_socket(config)) == []
    with socket.socket(socket.AF_UNIX) as plugin:
        plugin.bind(str(path))
        plugin.listen()
        assert list(uninstall._opi_socket(config)) == []  # it may be somebody else's
    (left,) = uninstall._opi_socket(config)
    assert left.name == f"file {path}"
    left.remove()
    assert not path.exists()


def test_a_directory_with_something_else_in_it_stays(tmp_path: Path) -> None:
    for name in ("agent.lock", "fabric.json", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "attachments").mkdir()
    (tmp_path / "ovs").mkdir()
    going = uninstall.Thing("directory", lambda: None, tmp_path / "ovs")
    things = list(uninstall._below(tmp_path, uninstall._STATE_FILES, [going]))
    assert [thing.name for thing in things] == [
        f"file {tmp_path}/{name}" for name in ("agent.lock", "attachments", "fabric.json")
    ]
    (tmp_path / "notes.txt").unlink()
    (thing,) = uninstall._below(tmp_path, uninstall._STATE_FILES, [going])
    assert thing.name == f"directory {tmp_path}"
    (tmp_path / "ovs").rmdir()
    thing.remove()
    assert not tmp_path.exists()


def test_bridges_stay_while_nobody_would_take_their_devices_away(tmp_path: Path) -> None:
    with running_switch(tmp_path, bare=True) as switch:
        config = config_at(tmp_path, tmp_path, f"ovs: {{rundir: {switch.rundir}}}")
        vswitch = VSwitch(switch.ovs.remote)
        vswitch.start()
        try:
            switch.ovs.stop_switch()
            assert uninstall._bridges(config, vswitch) == []
            marks = ("datapath_type=netdev", "external_ids:overweave=n")
            add = ("add-br", "ow-int", "--", "set", "bridge", "ow-int", *marks)
            switch.configure("--no-wait", *add)
            assert wait_until(lambda: "ow-int" in vswitch.bridges(), 10)
            wanted = "ow-int, whose devices only ovs-vswitchd.*start it, and uninstall again"
            with pytest.raises(OverweaveError, match=wanted):
                uninstall._bridges(config, vswitch)
            switch.ovs.start_switch()
            (thing,) = uninstall._bridges(config, vswitch)
            assert thing.name == "bridge ow-int"
            assert "ow-int" in switch.ip("-br", "link")
            thing.remove()
            assert wait_until(lambda: "ow-int" not in switch.ip("-br", "link"), 10)
        finally:
            vswitch.stop()


@pytest.mark.parametrize("dead", ["ovs-vswitchd", "ovsdb-server"])
def test_half_a_switch_of_its_own_goes_with_its_devices(tmp_path: Path, dead: str) -> None:
    with running_switch(tmp_path, bare=True) as switch:
        config = config_at(tmp_path, tmp_path, f"ovs: {{manage: true, rundir: {switch.rundir}}}")
        netdev = ("set", "bridge", "ow-int", "datapath_type=netdev")
        switch.configure("add-br", "ow-int", "--", *netdev)
        switch.ovs.place.kill(dead)
        ended, *_files = uninstall._own_switch(config)
        assert "ow-int" in switch.ip("-br", "link")
        in_netns(switch.netns, ended.remove)
        assert "ow-int" not in switch.ip("-br", "link")
        assert not switch.ovs.server.running()
        assert not switch.ovs.switch_running()


DEVICES = """
devices:
- serial: M1
  vendor: marvell
  side: dpu
  emulated: true
  representors: [rep0, rep1, rep2]
  switch: {{rundir: {rundir}, uplink: up, cpu: cpu0, vfs: [vf0, vf1, vf2]}}
"""


@pytest.fixture
def dpu(tmp_path: Path) -> Iterator[MarvellWorld]:
    (tmp_path / "device").mkdir()
    with running_device(tmp_path / "device") as device:
        yield MarvellWorld(device)


def test_what_a_dpus_switch_holds_goes_first_and_nothing_else_of_it(
    dpu: MarvellWorld, tmp_path: Path
) -> None:
    """It forwards what is in its tables, whoever is still there to say so."""
    config = config_at(tmp_path, tmp_path, DEVICES.format(rundir=dpu.device.rundir))
    config = config.model_copy(update={"node": "node-a"})
    (tmp_path / "attachment.sock").touch()
    others = dpu.others()
    stage = Stage(dpu)
    assert list(uninstall._switch_entries(config)) == []
    stage.place(WANTED)
    vswitch = VSwitch(f"unix:{tmp_path}/none.sock")
    vswitch.start()
    try:
        found = in_netns(dpu.device.netns, lambda: uninstall.inventory(config, vswitch))
    finally:
        vswitch.stop()
    first, *rest = found.things
    assert re.fullmatch(r"\d\d rows, ports and routes in the switch of DPU M1", first.name)
    assert f"file {tmp_path / 'attachment.sock'}" in [thing.name for thing in rest]
    assert dpu.leftovers()
    first.remove()
    assert not dpu.leftovers()
    assert dpu.others() == others
    assert list(uninstall._switch_entries(config)) == []
    with dpu.hung(), pytest.raises(TargetError, match="no answer"):
        list(uninstall._switch_entries(config))
    stage.switch.close()
