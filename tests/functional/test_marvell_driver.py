"""The Marvell switch's driver by every way to the device, and where that is not as it should be."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TypeGuard

import pytest

from dataplane.core.desired import Bindings, Desired, Port
from dataplane.core.diff import Change, diff
from dataplane.core.errors import PartlyRefusedError, TargetError
from dataplane.core.model import EntryKey, Segment
from ovs_client.database import Tls
from ovs_client.unixctl import Unixctl
from tests.functional.certificates import Pki
from tests.functional.marvell_device import BRIDGE, Device, running_device
from tests.functional.overlay_switch import in_netns
from tests.functional.switch_world import NEXT_HOPS, MarvellWorld, Stage, entries
from tests.functional.test_switch_frames import Scene, fragments
from tests.unit.marvell_builders import vf
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    NIC,
    VTEP4,
    VTEP6,
    desired,
    mac_of,
    remote,
    view,
)
from vendors.marvell import driver
from vendors.marvell.driver import MarvellPlace, MarvellSwitch
from vendors.marvell.pipeline import FORWARD, MARK_OUT, Neighbour, Route, Row


def behind(number: int, segment: Segment) -> Port:
    port = vf(number, segment)
    return replace(port, attachment=replace(port.attachment, netdev=f"rep{number - 1}"))


WANTED = desired(
    view(GENEVE4, [behind(n, GENEVE4) for n in (1, 2)], [remote(10, GENEVE4, VTEP4[0])])
)
BOUND = Bindings(NIC, next_hops=NEXT_HOPS, placed=entries(WANTED))
NONE = replace(BOUND, placed=frozenset())


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with running_device(tmp_path_factory.mktemp("marvell")) as made:
        yield made


@contextmanager
def connected(
    place: MarvellPlace, clock: Callable[[], float] = time.monotonic
) -> Iterator[MarvellSwitch]:
    switch = MarvellSwitch(place, "node-a", clock, emulated=True)
    try:
        switch._vswitch.wait_connected(5)
        yield switch
    finally:
        switch.close()


def converge(switch: MarvellSwitch, wanted: Desired = WANTED, bound: Bindings = BOUND) -> None:
    change = diff(switch.render(wanted, bound), switch.observe())
    if change:
        switch.apply(change)
    assert not diff(switch.render(wanted, bound), switch.observe())


@pytest.fixture
def stage(device: Device) -> Iterator[Stage]:
    made = Stage(MarvellWorld(device))
    yield made
    made.strike()
    made.switch.close()


def calls(switch: MarvellSwitch) -> dict[str, Callable[[], object]]:
    return {
        "describe": switch.describe,
        "observe": switch.observe,
        "counters": switch.counters,
        "apply": lambda: switch.apply(Change(add=switch.render(WANTED, BOUND).items)),
    }


def refused(call: Callable[[], object], deadline_s: float) -> str:
    """Return the words of the TargetError that a call raises in time."""
    began = time.monotonic()
    with pytest.raises(TargetError) as error:
        call()
    assert time.monotonic() - began < deadline_s
    return str(error.value)


# --- whose it is, and what is shared -----------------------------------------------------------


def test_the_second_of_two_agents_is_refused_with_the_name_of_the_first(device: Device) -> None:
    with connected(device.place) as first:
        converge(first)
        rows = first.observe()
        second = MarvellSwitch(device.place, "node-b", time.monotonic, emulated=True)
        try:
            second._vswitch.wait_connected(5)
            assert "node node-a has its entries in br-mrv0; stop its" in second.describe().obstacle
            for call in ("observe", "apply"):
                assert "node-a" in refused(calls(second)[call], 5)
            assert first.observe().keys() == rows.keys()
            assert not first.describe().obstacle
            converge(first, bound=NONE)
            assert "node-a" in second.describe().obstacle, "idle, it is still the first one's"
            leave(first)
            assert not second.describe().obstacle
            converge(second)
        finally:
            leave(second)
            second.close()


def leave(switch: MarvellSwitch) -> None:
    """Give the device up, as uninstall does."""
    switch.apply(Change(remove=switch.observe()))


def test_routes_stay_until_the_device_is_given_up(device: Device) -> None:
    """To delete one route ends, for a moment, what comes in by the others."""
    six = desired(
        *WANTED.segments.values(),
        view(GENEVE6, [behind(3, GENEVE6)], [remote(20, GENEVE6, VTEP6[0])]),
    )
    both = replace(BOUND, placed=entries(six))
    with connected(device.place) as switch:
        converge(switch, six, both)
        before = routes(device)
        assert len(before) == 4
        converge(switch, six, BOUND)
        assert routes(device) == before
        assert len([each for each in switch.observe().values() if isinstance(each, Route)]) == 2
        converge(switch, six, both)
        converge(switch, six, NONE)
        assert routes(device) == before
        leave(switch)
        assert not routes(device)


def routes(device: Device) -> list[str]:
    shown = device.control("ovs/route/show").splitlines()
    return sorted(line for line in shown if line.startswith("User:"))


# --- who answers -------------------------------------------------------------------------------


@contextmanager
def impostor(path: Path, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """Let somebody listen at ``path`` who answers whatever comes."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    held: list[socket.socket] = []

    def serve() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                held.append(connection)
                with suppress(OSError):
                    answer(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in (*held, listener):
            each.close()


ANSWERS: dict[str, Callable[[socket.socket], None]] = {
    "garbage": lambda each: each.sendall(os.urandom(64) + b"}"),
    "JSON that is no reply": lambda each: each.sendall(b'{"id":0}'),
    "half an answer": lambda each: each.sendall(b'{"id":0,"error":null,"res'),
    "nothing": lambda each: None,
    "the end": lambda each: each.close(),
    "OpenFlow of a wrong length": lambda each: each.sendall(b"\x05\x00\x00\x02\x00\x00\x00\x01"),
}


@pytest.mark.parametrize("name", ANSWERS)
@pytest.mark.parametrize("part", ["rundir", "openflow"])
def test_who_does_not_answer_as_it_should_is_an_error_in_time(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, name: str
) -> None:
    monkeypatch.setattr(driver, "_OPENFLOW_S", 0.5)
    if part == "rundir":
        (tmp_path / "ovs-vswitchd.pid").write_text("1\n", encoding="ascii")
        path = tmp_path / "ovs-vswitchd.1.ctl"
        place = replace(device.place, rundir=tmp_path)
    else:
        path = tmp_path / "br.mgmt"
        place = replace(device.place, openflow=f"unix:{path}")
    before = device.dumped()
    with impostor(path, ANSWERS[name]), connected(place) as switch:
        for call in calls(switch).values():
            words = refused(call, switch.deadline_s)
            assert words.startswith("the DPU's switch: ")
            assert ("ovs-vswitchd" if part == "rundir" else str(path)) in words or "br" in words
    _forget(device)
    assert device.dumped() == before


def _forget(device: Device) -> None:
    """Take out by hand what a driver placed before the device failed it."""
    with connected(device.place) as switch:
        switch.apply(Change(remove=switch.observe()))


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        pytest.param("ovs/route/show", "User: 300.1.2.3/99 MARK x dev y GW z SRC a", id="routes"),
        pytest.param("tnl/neigh/show", "a\nb\nthis is no neighbour at all", id="neighbours"),
    ],
)
def test_what_is_shown_and_not_understood_is_told(
    device: Device, monkeypatch: pytest.MonkeyPatch, command: str, shown: str
) -> None:
    with connected(device.place) as switch:
        ask = switch._unixctl.call
        monkeypatch.setattr(
            switch._unixctl, "call", lambda *words: shown if words[0] == command else ask(*words)
        )
        words = refused(switch.observe, switch.deadline_s)
    assert f"{command}: not understood" in words


def test_a_stale_control_socket_is_told(device: Device, tmp_path: Path) -> None:
    (tmp_path / "ovs-vswitchd.pid").write_text("4194304\n", encoding="ascii")
    dead = socket.socket(socket.AF_UNIX)
    dead.bind(str(tmp_path / "ovs-vswitchd.4194304.ctl"))
    dead.close()
    with connected(replace(device.place, rundir=tmp_path)) as switch:
        for call in calls(switch).values():
            assert "Connection refused" in refused(call, 1)


def test_a_bridge_that_is_not_there_is_told(device: Device) -> None:
    with connected(replace(device.place, bridge="br-none")) as switch:
        for call in calls(switch).values():
            assert "bridge br-none is not in the Open vSwitch at" in refused(call, 1)


def test_a_database_that_is_not_there_is_told(device: Device, tmp_path: Path) -> None:
    place = replace(device.place, database=f"unix:{tmp_path}/db.sock")
    switch = MarvellSwitch(place, "node-a", time.monotonic)
    try:
        for call in calls(switch).values():
            assert f"database Open_vSwitch at unix:{tmp_path}/db.sock: " in refused(call, 1)
    finally:
        switch.close()


@pytest.mark.parametrize("name", ANSWERS)
def test_a_database_that_does_not_answer_as_it_should_is_told(
    device: Device, tmp_path: Path, name: str
) -> None:
    path = tmp_path / "db.sock"
    before = device.dumped()
    with impostor(path, ANSWERS[name]):
        switch = MarvellSwitch(
            replace(device.place, database=f"unix:{path}"), "node-a", time.monotonic
        )
        try:
            time.sleep(0.3)  # to be told something
            for call in calls(switch).values():
                assert f"database Open_vSwitch at unix:{path}: " in refused(call, 1)
        finally:
            switch.close()
    assert device.dumped() == before


def test_a_bridge_that_speaks_another_openflow_keeps_its_words(device: Device) -> None:
    with connected(device.place) as switch:
        device.configure("set", "bridge", BRIDGE, "protocols=OpenFlow10")
        try:
            assert "version negotiation failed" in refused(switch.describe, switch.deadline_s)
        finally:
            device.configure("clear", "bridge", BRIDGE, "protocols")
        switch.describe()


def test_a_database_that_hangs_is_an_error_in_time(device: Device, stage: Stage) -> None:
    pid = device.ovs.place.pid("ovsdb-server")
    assert pid is not None
    change = stage.change(WANTED, BOUND)
    os.kill(pid, signal.SIGSTOP)
    try:
        refused(lambda: stage.switch.apply(change), stage.switch.deadline_s)
    finally:
        os.kill(pid, signal.SIGCONT)
    stage.repair(WANTED, BOUND)


def test_a_change_ends_in_time_however_slow_each_answer_is(device: Device, stage: Stage) -> None:
    ticks = itertools.count(0, 4)
    too_slow = pytest.raises(TargetError, match=f"{BRIDGE} is too slow: not all was changed")
    with connected(device.place, lambda: float(next(ticks))) as switch, too_slow:
        switch.apply(Change(add=switch.render(WANTED, BOUND).items))
    stage.repair(WANTED, BOUND)


def test_a_flow_with_our_cookie_that_we_did_not_write_is_nobodys(
    device: Device, stage: Stage
) -> None:
    stage.repair(WANTED, BOUND)
    ours = next(row for row in stage.switch.observe().values() if is_forward(row))
    match = f"table={FORWARD.number},priority=1,in_port=vf0"
    device.add(f"cookie={ours.flow.cookie:#x},{match},actions=drop")
    assert set(stage.switch.counters()) == BOUND.placed
    stage.repair(WANTED, BOUND)


def is_forward(item: object) -> TypeGuard[Row]:
    return isinstance(item, Row) and item.flow.table == FORWARD.number and bool(item.flow.match)


# --- what changes in between -------------------------------------------------------------------


def test_a_restart_between_looking_and_changing_is_caught_up_with(
    device: Device, stage: Stage
) -> None:
    change = stage.change(WANTED, BOUND)
    device.restart()
    with suppress(TargetError):
        stage.switch.apply(change)
    stage.repair(WANTED, BOUND)


def test_a_vf_whose_port_is_gone_takes_no_other_entry_with_it(device: Device, stage: Stage) -> None:
    stage.repair(WANTED, BOUND)
    with lost_port(device, stage, "vf1"):
        assert "rep1" not in stage.switch.describe().guards
        gone = EntryKey(GENEVE4.vni, mac_of(2))
        with pytest.raises(PartlyRefusedError) as error:
            stage.repair(WANTED, BOUND)
        assert error.value.refused == {gone: f"no-switch-port: {BRIDGE} has no port vf1"}
        assert not error.value.standing
        without = replace(BOUND, placed=BOUND.placed - {gone})
        assert set(stage.switch.counters()) == without.placed
    stage.repair(WANTED, BOUND)


def test_rows_of_a_port_that_has_gone_since_the_last_look_wait_for_the_next(
    device: Device, stage: Stage
) -> None:
    stage.repair(WANTED, BOUND)
    without = replace(BOUND, placed=BOUND.placed - {EntryKey(GENEVE4.vni, mac_of(2))})
    change = stage.change(WANTED, without)
    assert change.remove
    with lost_port(device, stage, "vf1"):
        stage.switch.describe()
        with pytest.raises(TargetError, match=f"{BRIDGE} has lost port vf1 since the last look"):
            stage.switch.apply(change)
        stage.repair(WANTED, without)
        assert set(stage.switch.counters()) == without.placed


@contextmanager
def lost_port(device: Device, stage: Stage, port: str) -> Iterator[None]:
    device.configure("del-port", BRIDGE, port)
    try:
        yield
    finally:
        device.configure("add-port", BRIDGE, port, "--", "set", "interface", port, "type=internal")
        device.openflow("del-flows", BRIDGE, f"cookie={0xEE:#x}/-1")
        device.restart()
        stage._others = MarvellWorld(device).others()


@pytest.mark.parametrize("port", ["uplink", "cpu"])
def test_without_wire_or_cpu_nothing_is_placed(device: Device, port: str) -> None:
    there = device.place
    place = replace(there, uplink="none0") if port == "uplink" else replace(there, cpu="none0")
    with connected(place) as switch:
        assert "has no port none0" in switch.describe().obstacle
        with pytest.raises(TargetError, match=f"{BRIDGE} has no port none0"):
            switch.apply(Change(add=switch.render(WANTED, BOUND).items))
    _forget(device)


def test_a_tunnel_port_of_somebody_else_stays_and_is_told(device: Device) -> None:
    device.configure(
        "add-port",
        BRIDGE,
        "mrv-geneve",
        "--",
        "set",
        "interface",
        "mrv-geneve",
        "type=geneve",
        "options:remote_ip=192.0.2.99",
    )
    try:
        with connected(device.place) as switch:
            words = refused(lambda: converge(switch), switch.deadline_s)
        assert "port mrv-geneve is not ours" in words
        assert "192.0.2.99" in device.configure("get", "interface", "mrv-geneve", "options")
    finally:
        device.configure("del-port", BRIDGE, "mrv-geneve")
    _forget(device)


def test_a_tunnel_port_that_cannot_be_keeps_the_switch_s_words(device: Device) -> None:
    device.configure(
        "add-port",
        BRIDGE,
        "taken",
        "--",
        "set",
        "interface",
        "taken",
        "type=geneve",
        "options:remote_ip=flow",
        "options:key=flow",
    )
    try:
        with connected(device.place) as switch:
            words = refused(lambda: converge(switch), switch.deadline_s)
        assert "tunnel port mrv-geneve of br-mrv0: " in words
        assert "File exists" in words or "could not" in words
    finally:
        device.configure("del-port", BRIDGE, "taken")
    _forget(device)


def test_neighbours_are_set_again_before_they_age(device: Device) -> None:
    now = 1000.0
    with connected(device.place, lambda: now) as switch:
        converge(switch)
        now += 19
        assert not diff(switch.render(WANTED, BOUND), switch.observe())
        now += 2
        change = diff(switch.render(WANTED, BOUND), switch.observe())
        assert [type(item) for item in change.add.values()] == [Neighbour]
        converge(switch)
        switch.apply(Change(remove=switch.observe()))


@pytest.mark.parametrize(
    "lose",
    [
        pytest.param(["tnl/neigh/flush"], id="neighbours"),
        pytest.param(["ovs/route/del", "0.0.0.0/0", f"pkt_mark={MARK_OUT}"], id="a route"),
    ],
)
def test_what_is_lost_beside_the_flows_is_counted(device: Device, lose: list[str]) -> None:
    """As often as the device is watched, so that it is looked for, and put back, at once."""
    with connected(device.place) as switch:
        converge(switch)
        whole = switch.describe().rows
        assert whole == len([i for i in switch.observe().values() if not isinstance(i, Route)]) + (
            len([i for i in switch.observe().values() if isinstance(i, Route) and i.live])
        )
        Unixctl(device.place.rundir).call(*lose)
        assert switch.describe().rows < whole
        converge(switch)
        assert switch.describe().rows == whole
        leave(switch)


def test_a_neighbour_that_is_due_is_still_counted(device: Device) -> None:
    now = 1000.0
    with connected(device.place, lambda: now) as switch:
        converge(switch)
        whole = switch.describe().rows
        now += 21
        assert switch.describe().rows == whole
        leave(switch)


def test_fragments_go_to_the_cpu_however_the_bridge_looks_at_them(device: Device) -> None:
    """With nx-match a first fragment has the port of what it is part of (ovs-ofctl(8))."""
    scene = Scene(MarvellWorld(device), GENEVE4, VTEP4)
    device.openflow("set-frags", BRIDGE, "nx-match")
    try:
        for name, came in fragments(scene).items():
            assert scene.ask("up", came) == {"cpu0": [came]}, name
    finally:
        device.openflow("set-frags", BRIDGE, "normal")
        scene.close()


# --- by which way ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def far(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """Provide a device that listens for TCP and TLS on its own loopback."""
    files = tuple(map(str, pki.node("device").values()))
    options = [
        *("--remote=ptcp:6640:127.0.0.1", "--remote=pssl:6641:127.0.0.1"),
        *(
            f"--{key}={path}"
            for key, path in zip(("private-key", "certificate", "ca-cert"), files, strict=True)
        ),
    ]
    with running_device(tmp_path_factory.mktemp("far"), tuple(options)) as made:
        made.ip("link", "set", "lo", "up")
        made.configure("set-ssl", *files)
        made.configure("set-controller", BRIDGE, "ptcp:6653:127.0.0.1", "pssl:6654:127.0.0.1")
        yield made


@pytest.mark.parametrize(
    ("database", "openflow", "name"),
    [
        pytest.param("tcp:127.0.0.1:6640", "tcp:127.0.0.1:6653", None, id="tcp"),
        pytest.param("ssl:127.0.0.1:6641", "ssl:127.0.0.1:6654", "agent", id="tls"),
    ],
)
def test_entries_are_placed_by_any_way(
    far: Device, pki: Pki, database: str, openflow: str, name: str | None
) -> None:
    tls = certificates(pki, name)
    place = replace(far.place, database=database, openflow=openflow, tls=tls)
    before = far.others()

    def program() -> frozenset[EntryKey]:
        with connected(place) as switch:
            assert switch.describe().obstacle == ""
            converge(switch)
            found = frozenset(switch.counters())
            switch.apply(Change(remove=switch.observe()))
            return found

    assert in_netns(far.netns, program) == entries(WANTED)
    assert far.others() == before
    assert far.configure("get", "bridge", BRIDGE, "fail_mode").strip() == "secure"
    assert len(far.configure("get-controller", BRIDGE).split()) == 2


def certificates(pki: Pki, name: str | None) -> Tls | None:
    """Return the files of ``name``; a stranger's certificate is of another authority."""
    if name is None:
        return None
    return Tls(**(pki.stranger("node-a") if name == "stranger" else pki.node(name)))


@pytest.mark.parametrize(
    ("remote", "name", "words"),
    [
        pytest.param(
            "ssl:127.0.0.1:6654", "stranger", "bridge ssl:127.0.0.1:6654: ", id="stranger"
        ),
        pytest.param("ssl:127.0.0.1:6653", "agent", "ssl:127.0.0.1:6653", id="TLS to no TLS"),
        pytest.param("tcp:127.0.0.1:6654", None, "tcp:127.0.0.1:6654", id="no TLS to TLS"),
        pytest.param("tcp:127.0.0.1:9", None, "Connection refused", id="nobody"),
    ],
)
def test_a_way_that_leads_nowhere_is_told(
    far: Device, pki: Pki, remote: str, name: str | None, words: str
) -> None:
    place = replace(far.place, openflow=remote, tls=certificates(pki, name))

    def ask() -> str:
        with connected(place) as switch:
            return refused(switch.describe, switch.deadline_s)

    assert words in in_netns(far.netns, ask)
