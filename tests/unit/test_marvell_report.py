"""What the driver makes of what it found in the DPU's bridge."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from dataplane.core.capability import Table
from dataplane.core.model import Encap, Family, Guard, IpAddress
from ovs_client.ofctl import Flow
from tests.unit.marvell_builders import WIRING
from tests.unit.overlay_builders import OWN4, OWN6
from vendors.marvell.pipeline import FORWARD, PIPELINE, Category, cookie
from vendors.marvell.report import UNLIMITED, Findings, capability

FOUND = Findings(
    flows=(),
    limits={table.number: UNLIMITED for table in PIPELINE},
    ports=frozenset({WIRING.uplink, WIRING.cpu, *WIRING.vfs.values()}),
    addresses=(OWN4, OWN6),
    offloaded=None,
)
NORMAL = Flow(0, 65535, "", "NORMAL")


def table(found: Findings, name: str) -> Table:
    return next(t for t in capability(found, WIRING, emulated=False).tables if t.name == name)


@pytest.mark.parametrize(
    ("addresses", "families"),
    [
        pytest.param((OWN4, OWN6), {Family.IPV4, Family.IPV6}, id="both"),
        pytest.param((OWN4,), {Family.IPV4}, id="IPv4"),
        pytest.param((ip_address("fe80::1"),), set(), id="link-local alone"),
        pytest.param((), set(), id="none"),
    ],
)
def test_tunnels_are_of_the_families_that_the_bridge_has_addresses_of(
    addresses: tuple[IpAddress, ...], families: set[Family]
) -> None:
    found = capability(replace(FOUND, addresses=addresses), WIRING, emulated=False)
    assert found.tunnels == {(encap, family) for encap in Encap for family in families}


def test_a_vf_without_port_has_no_guards() -> None:
    found = capability(replace(FOUND, ports=FOUND.ports - {"vf3"}), WIRING, emulated=False)
    assert set(found.guards) == set(WIRING.vfs) - {"rep3"}
    assert set(found.guards.values()) == {frozenset(Guard)}


@pytest.mark.parametrize(
    ("flow", "named"),
    [
        pytest.param(NORMAL, True, id="NORMAL above all"),
        pytest.param(Flow(0, 10, "in_port=vf1", "output:nf"), True, id="steers a VF"),
        pytest.param(Flow(0, 5, "ip,in_port=vf1", "drop"), True, id="as high as ours"),
        pytest.param(Flow(0, 10, "in_port=up", "drop"), True, id="steers the wire"),
        pytest.param(Flow(0, 10, "in_port=mrv-vxlan", "drop"), True, id="in our tunnel"),
        pytest.param(Flow(0, 10, "arp", "NORMAL"), True, id="any port"),
        pytest.param(Flow(30, 0, "", "drop"), True, id="in a table of ours"),
        pytest.param(Flow(0, 4, "in_port=vf1", "output:rep1"), False, id="the device's miss"),
        pytest.param(Flow(0, 10, "in_port=nf0", "NORMAL"), False, id="another port"),
        pytest.param(Flow(7, 99, "", "drop"), False, id="a table that is not ours"),
        pytest.param(Flow(0, 10, "in_port=vf1", "drop", cookie(Category.PORT)), False, id="ours"),
    ],
)
def test_who_goes_before_our_flows_is_named(flow: Flow, named: bool) -> None:
    found = capability(replace(FOUND, flows=(flow,)), WIRING, emulated=False)
    assert bool(found.obstacle) == named
    assert found.forwards == (not named)
    if named:
        assert f"table={flow.table},priority={flow.priority}" in found.obstacle
        assert flow.actions in found.obstacle
        assert "br-mrv0" in found.obstacle


@pytest.mark.parametrize("port", ["up", "cpu0"])
def test_a_port_that_is_missing_is_named(port: str) -> None:
    found = capability(replace(FOUND, ports=FOUND.ports - {port}), WIRING, emulated=False)
    assert found.obstacle == f"br-mrv0 has no port {port}: add it"
    assert not found.forwards


def test_a_table_counts_what_is_ours_and_what_is_not_and_gives_no_room_to_what_all_share() -> None:
    flows = (
        Flow(FORWARD.number, 0, "", "drop", cookie(Category.PIPELINE)),
        Flow(FORWARD.number, 1, "dl_dst=1", "drop", cookie(Category.REMOTE, 7)),
        Flow(FORWARD.number, 1, "dl_dst=2", "drop", cookie(Category.PORT, 7)),
        Flow(FORWARD.number, 1, "dl_dst=3", "drop", 0xAB),
        Flow(0, 1, "in_port=9", "drop", 0xAB),
    )
    findings = replace(FOUND, flows=flows, limits={FORWARD.number: 10})
    found = table(findings, "forward")
    assert (found.used, found.foreign, found.capacity, found.room) == (3, 1, 9, 8)
    assert capability(findings, WIRING, emulated=True).rows == 3


@pytest.mark.parametrize(
    ("limits", "capacity"),
    [
        pytest.param({}, UNLIMITED - 1, id="not said"),
        pytest.param({FORWARD.number: 8}, 7, id="limited"),
        pytest.param({FORWARD.number: 0}, 0, id="no row at all"),
    ],
)
def test_the_capacity_is_what_the_switch_says(limits: dict[int, int], capacity: int) -> None:
    assert table(replace(FOUND, limits=limits), "forward").capacity == capacity


@pytest.mark.parametrize(
    ("offloaded", "words"),
    [
        pytest.param(None, "its datapath does not say", id="cannot say"),
        pytest.param(0, "its datapath says 0", id="none"),
        pytest.param(3, "its datapath says 3", id="some"),
    ],
)
def test_what_is_in_hardware_is_said_as_the_datapath_says(
    offloaded: int | None, words: str
) -> None:
    found = capability(replace(FOUND, offloaded=offloaded), WIRING, emulated=True)
    assert any(words in limit for limit in found.limits)
    assert found.emulated
