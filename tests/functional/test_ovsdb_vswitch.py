"""Bridges and ports of a real Open vSwitch with dummy devices."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.core.events import OfportChanged
from ovs_client import vswitch as vswitch_module
from ovs_client.daemons import OvsInstance, Place, run
from ovs_client.errors import DatabaseError
from ovs_client.rows import DatabaseEvent
from ovs_client.vswitch import Bridge, Port, VSwitch, ofport_changes
from tests.functional.fabric_support import Recorder, wait_until

OURS = {"overweave": "n1"}
INT = Bridge("ow-int", "dummy", "secure", ("OpenFlow15",), {"hwaddr": "aa:55:00:00:00:01"}, OURS)
PHY = Bridge("ow-phy", "dummy", "secure", external_ids=OURS)
GENEVE = Port(
    "ow-geneve",
    "ow-int",
    "geneve",
    {"remote_ip": "flow", "key": "flow", "dst_port": "7081"},
    ofport_request=1,
    external_ids=OURS,
)
POD = Port("ot0", "ow-int", "internal", ofport_request=100, mtu_request=1400, external_ids=OURS)


@pytest.fixture
def ovs(tmp_path: Path) -> Iterator[OvsInstance]:
    instance = OvsInstance(Place(tmp_path, tmp_path))
    instance.server.start()
    run(["ovs-vsctl", f"--db={instance.remote}", "--no-wait", "init"])
    start_switch(instance)
    yield instance
    instance.stop()


def start_switch(instance: OvsInstance) -> None:
    dummies = ["--enable-dummy=override", "--disable-system"]
    instance.place.start("ovs-vswitchd", *dummies, instance.remote)


def vsctl(ovs: OvsInstance, *words: str) -> str:
    return run(["ovs-vsctl", f"--db={ovs.remote}", "--timeout=10", *words]).strip()


@pytest.fixture
def told() -> Recorder[DatabaseEvent]:
    return Recorder[DatabaseEvent]()


@pytest.fixture
def vswitch(ovs: OvsInstance, told: Recorder[DatabaseEvent]) -> Iterator[VSwitch]:
    vswitch = VSwitch(ovs.remote)
    vswitch.start(told)
    vswitch.wait_connected(10)
    yield vswitch
    vswitch.stop()


def test_what_is_ensured_is_there(vswitch: VSwitch, ovs: OvsInstance) -> None:
    vswitch.ensure([INT, PHY], [GENEVE, POD])
    assert vswitch.bridges() == {"ow-int": INT, "ow-phy": PHY}
    assert {name: vswitch.ports()[name] for name in ("ow-geneve", "ot0")} == {
        "ow-geneve": GENEVE,
        "ot0": POD,
    }
    assert set(vsctl(ovs, "list-ports", "ow-int").split()) == {"ow-geneve", "ot0"}
    assert vsctl(ovs, "get", "bridge", "ow-int", "fail_mode") == "secure"
    wait_until(lambda: vswitch.interfaces()["ot0"].ofport == 100)
    assert vswitch.interfaces()["ow-geneve"].ofport == 1


def test_ensuring_again_writes_nothing(vswitch: VSwitch) -> None:
    vswitch.ensure([INT, PHY], [GENEVE, POD])
    wait_until(lambda: vswitch.interfaces()["ot0"].link_state == "up")
    assert vswitch_module._Plan(vswitch._view()).ensure([INT, PHY], [GENEVE, POD]) == []


@pytest.mark.parametrize(
    "port",
    [
        pytest.param(replace(POD, ofport_request=101), id="ofport"),
        pytest.param(replace(POD, mtu_request=None), id="mtu"),
        pytest.param(replace(POD, mac="02:00:00:00:00:07"), id="mac"),
        pytest.param(replace(POD, bridge="ow-phy"), id="bridge"),
        pytest.param(replace(POD, options={"a": "b"}), id="options"),
        pytest.param(replace(POD, external_ids=OURS | {"more": "x"}), id="external ids"),
    ],
)
def test_a_port_is_changed(vswitch: VSwitch, ovs: OvsInstance, port: Port) -> None:
    vswitch.ensure([INT, PHY], [POD])
    vswitch.ensure(ports=[port])
    assert vswitch.ports()["ot0"] == port
    assert vsctl(ovs, "iface-to-br", "ot0") == port.bridge


@pytest.mark.parametrize(
    "bridge",
    [
        pytest.param(replace(INT, fail_mode="standalone"), id="fail mode"),
        pytest.param(replace(INT, fail_mode=None), id="no fail mode"),
        pytest.param(replace(INT, protocols=()), id="protocols"),
        pytest.param(replace(INT, other_config={}), id="other config"),
    ],
)
def test_a_bridge_is_changed(vswitch: VSwitch, bridge: Bridge) -> None:
    vswitch.ensure([INT], [POD])
    vswitch.ensure([bridge])
    assert vswitch.bridges() == {"ow-int": bridge}
    assert vswitch.ports()["ot0"] == POD


def test_deleting(vswitch: VSwitch, ovs: OvsInstance) -> None:
    vswitch.ensure([INT, PHY], [GENEVE, POD])
    vswitch.delete(ports=["ot0", "never-was"])
    assert set(vswitch.ports()) == {"ow-int", "ow-phy", "ow-geneve"}
    vswitch.delete(bridges=["ow-int", "ow-phy", "never-was"])
    assert vswitch.bridges() == {}
    assert vswitch.ports() == {}
    assert vsctl(ovs, "show").count("Bridge") == 0
    vswitch.delete(bridges=["ow-int"])


FOREIGN: list[tuple[str, Callable[[VSwitch], None]]] = [
    ("change a bridge", lambda v: v.ensure([Bridge("foreign", external_ids=OURS)])),
    ("delete a bridge", lambda v: v.delete(bridges=["foreign"])),
    ("add a port to a bridge", lambda v: v.ensure(ports=[replace(POD, bridge="foreign")])),
    ("change a port", lambda v: v.ensure([INT], [replace(POD, name="theirs")])),
    ("delete a port", lambda v: v.delete(ports=["theirs"])),
]


@pytest.mark.parametrize("act", [pytest.param(act, id=name) for name, act in FOREIGN])
def test_what_others_own_stays(
    vswitch: VSwitch, ovs: OvsInstance, act: Callable[[VSwitch], None]
) -> None:
    vsctl(ovs, "add-br", "foreign", "--", "set", "bridge", "foreign", "datapath_type=dummy")
    vsctl(ovs, "add-port", "foreign", "theirs", "--", "set", "interface", "theirs", "type=internal")
    wait_until(lambda: "theirs" in vswitch.ports())
    before = vswitch.bridges(), vswitch.ports()
    with pytest.raises(DatabaseError, match="is not ours"):
        act(vswitch)
    assert (vswitch.bridges(), vswitch.ports()) == before
    vswitch.ensure([INT], [POD])
    vswitch.delete(bridges=["ow-int"])
    assert (vswitch.bridges(), vswitch.ports()) == before


def test_a_port_needs_its_bridge(vswitch: VSwitch) -> None:
    with pytest.raises(DatabaseError, match="port ot0: there is no bridge ow-int"):
        vswitch.ensure(ports=[POD])


def test_ofports_are_told(
    vswitch: VSwitch, ovs: OvsInstance, told: Recorder[DatabaseEvent]
) -> None:
    vswitch.ensure([INT], [POD])
    told.wait(lambda events: OfportChanged("ot0", 100) in changes(events))
    vswitch.delete(ports=["ot0"])
    told.wait(lambda events: changes(events)[-1] == OfportChanged("ot0", None))
    another = VSwitch(ovs.remote)
    first: Recorder[DatabaseEvent] = Recorder()
    another.start(first)
    try:
        another.wait_connected(10)
        assert changes(first.events) == [OfportChanged("ow-int", 65534)]
    finally:
        another.stop()


def test_a_failing_port_tells_why(vswitch: VSwitch, told: Recorder[DatabaseEvent]) -> None:
    vswitch.ensure([INT], [replace(GENEVE, type="no-such-type")])
    told.wait(lambda events: any(change.error for change in changes(events)))
    failed = vswitch.interfaces()["ow-geneve"]
    assert failed.ofport is None
    assert "ow-geneve" in failed.error


def test_an_outage_of_the_database(vswitch: VSwitch, ovs: OvsInstance) -> None:
    vswitch.ensure([INT], [POD])
    ovs.server.kill()
    wait_until(lambda: vswitch.error is not None)
    with pytest.raises(DatabaseError, match="Open_vSwitch at unix:"):
        vswitch.delete(bridges=["ow-int"])
    ovs.server.start()
    vswitch.wait_connected(10)
    assert vswitch.ports()["ot0"] == POD


def changes(events: list[DatabaseEvent]) -> list[OfportChanged]:
    return [change for event in events for change in ofport_changes(event)]
