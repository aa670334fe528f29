"""LinksTarget on real netdevs: veths stand for what OVS would make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import pytest

from dataplane.core.desired import Bindings, Desired, LocalNode, Port, PortState, SegmentView
from dataplane.core.diff import Change, Rendering, diff
from dataplane.core.errors import TargetError
from dataplane.core.events import Link
from dataplane.core.model import Attachment, Device, Fabric, Mac, Segment, Side, Vni
from dataplane.host.target import AddressKey, LentAddress, LinkKey, LinksTarget, LinkState
from dataplane.netlink.netns import Netns
from tests.functional.namespaces import ip, namespace, shown

SEGMENT = Segment("blue", Vni(7))
ATTACHMENT = Attachment("c1", "eth0", "/run/netns/x", "blue", Mac("02:00:00:00:07:01"), (), "i", 3)
V4, V6 = ip_address("192.0.2.1"), ip_address("2001:db8::1")
NETDEVS = ("ow-phy", "ophy0", "ot3", "vp3")


def desired(*vteps: str, attached: bool = True) -> Desired:
    ports = (Port(ATTACHMENT, SEGMENT, 1450),) if attached else ()
    view = SegmentView(SEGMENT, synced=True, mtu=1450, ports=ports, remotes=(), flood=())
    return Desired(
        node=LocalNode("n1", "nic"),
        fabric=Fabric(),
        vteps=tuple(ip_address(vtep) for vtep in vteps),
        segments={"blue": view},
        publication=None,
        attachments=(ATTACHMENT,) if attached else (),
    )


def bindings(*names: str, mtu: int = 1500) -> Bindings:
    nic = Link("nic", 2, "02:00:00:00:00:02", mtu, up=True)
    return Bindings(nic, dict.fromkeys((*names, nic.name), 1))


DUAL = desired(str(V4), str(V6))


@pytest.fixture
def node() -> Iterator[Netns]:
    with namespace() as space:
        for name in NETDEVS:
            ip(space, "link", "add", name, "mtu", "1400", "type", "veth", "peer", f"{name}-p")
        yield space


def converge(
    node: Netns, wanted: Desired, seen: Bindings, target: LinksTarget | None = None
) -> Change:
    """Make the round the agent makes; the next one must find nothing to do."""
    target = target or LinksTarget()

    def one_round() -> Change:
        change = diff(target.render(wanted, seen), target.observe())
        if change:
            target.apply(change)
        return change

    made = node.run(one_round)
    assert node.run(one_round) == Change()
    return made


def link(node: Netns, name: str) -> dict[str, Any]:
    (found,) = shown(node, "link", "show", "dev", name)
    return found


def lent(node: Netns) -> dict[str, tuple[int, bool]]:
    """Return the addresses of ow-phy: prefix length, and whether it is free of routes."""
    (found,) = shown(node, "addr", "show", "dev", "ow-phy")
    return {
        each["local"]: (each["prefixlen"], each.get("noprefixroute", False))
        for each in found["addr_info"]
    }


def routes(node: Netns) -> list[dict[str, Any]]:
    """Return the routes of ow-phy in every table: one to an address of its own would do harm."""
    every = [shown(node, family, "route", "show", "table", "all") for family in ("-4", "-6")]
    return [each for family in every for each in family if each["dev"] == "ow-phy"]


def test_on_a_dpu_the_port_of_the_probes_is_up_and_silent(node: Netns) -> None:
    ip(node, "link", "add", "ow-int", "mtu", "1400", "type", "veth", "peer", "ow-int-p")
    half = Device("1-dpu", "1", "senao", "SX904", Side.DPU, "n1", ready=False)
    converge(node, DUAL, bindings(*NETDEVS, "ow-int"))
    assert "UP" not in link(node, "ow-int")["flags"]
    dpu = replace(DUAL, node=replace(DUAL.node, devices=(half,)))
    converge(node, dpu, bindings(*NETDEVS, "ow-int"))
    found = link(node, "ow-int")
    assert ("UP" in found["flags"], found["mtu"]) == (True, 1400)
    assert shown(node, "addr", "show", "dev", "ow-int")[0]["addr_info"] == []


BOTH = {str(V4): (32, True), str(V6): (128, True)}


def test_links_are_set_and_addresses_lent(node: Netns) -> None:
    converge(node, DUAL, bindings(*NETDEVS, mtu=9000))
    up = {name: "UP" in link(node, name)["flags"] for name in NETDEVS}
    assert up == {"ow-phy": False, "ophy0": True, "ot3": True, "vp3": True}
    mtus = {name: link(node, name)["mtu"] for name in NETDEVS}
    assert mtus == {"ow-phy": 1400, "ophy0": 9000, "ot3": 1450, "vp3": 1450}
    assert lent(node) == BOTH
    quiet = [shown(node, "addr", "show", "dev", name)[0]["addr_info"] for name in NETDEVS[1:]]
    assert quiet == [[], [], []]
    (bridge,) = shown(node, "addr", "show", "dev", "ow-phy")
    assert [each.get("nodad") for each in bridge["addr_info"]] == [None, True]
    assert not any(each.get("tentative") for each in bridge["addr_info"])
    assert routes(node) == []


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("link set ophy0 down", id="ophy0-down"),
        pytest.param("link set ophy0 mtu 1300", id="ophy0-mtu"),
        pytest.param("link set ow-phy up", id="bridge-up"),
        pytest.param("link set vp3 mtu 1300", id="access-port-mtu"),
        pytest.param("link set ot3 down", id="ovs-port-down"),
        pytest.param(f"addr del {V4}/32 dev ow-phy", id="ipv4-gone"),
        pytest.param(f"addr del {V6}/128 dev ow-phy", id="ipv6-gone"),
        pytest.param("addr add 192.0.2.9/32 dev ow-phy", id="stale-ipv4"),
        pytest.param("addr add 2001:db8::9/128 dev ow-phy nodad", id="stale-ipv6"),
        pytest.param(f"addr add {V4}/24 dev ow-phy", id="other-prefix"),
        pytest.param(f"addr change {V6}/128 dev ow-phy", id="other-flags"),
        pytest.param(
            (f"addr del {V4}/32 dev ow-phy", f"addr add {V4}/32 dev ow-phy"), id="other-ipv4-flags"
        ),
        pytest.param("addr flush dev ow-phy", id="all-gone"),
        pytest.param(f"route add local {V4} dev ow-phy table local", id="own-route-ipv4"),
    ],
)
def test_damage_is_repaired_in_one_round(node: Netns, damage: str | tuple[str, ...]) -> None:
    converge(node, DUAL, bindings(*NETDEVS))
    healthy = [shown(node, "addr", "show", "dev", name)[0] for name in NETDEVS]
    for words in (damage,) if isinstance(damage, str) else damage:
        ip(node, *words.split())
    assert converge(node, DUAL, bindings(*NETDEVS)) != Change()
    repaired = [shown(node, "addr", "show", "dev", name)[0] for name in NETDEVS]
    assert lent(node) == BOTH
    assert routes(node) == []
    for before, after in zip(healthy, repaired, strict=True):
        assert (after["flags"], after["mtu"]) == (before["flags"], before["mtu"])


@pytest.mark.parametrize(("name", "wrong"), [("ophy0", "0"), ("vp3", "0"), ("ow-phy", "1")])
def test_ipv6_switch_is_repaired(node: Netns, name: str, wrong: str) -> None:
    converge(node, DUAL, bindings(*NETDEVS))
    switch = Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6")
    node.run(lambda: switch.write_text(wrong))
    assert converge(node, DUAL, bindings(*NETDEVS)) != Change()
    assert node.run(lambda: switch.read_text().strip()) != wrong
    assert lent(node) == BOTH


def test_addresses_follow_the_nic(node: Netns) -> None:
    target = LinksTarget()
    converge(node, DUAL, bindings(*NETDEVS), target)
    converge(node, desired("192.0.2.2", str(V6)), bindings(*NETDEVS), target)
    assert lent(node) == {"192.0.2.2": (32, True), str(V6): (128, True)}
    converge(node, desired("192.0.2.2"), bindings(*NETDEVS), target)
    assert lent(node) == {"192.0.2.2": (32, True)}
    converge(node, desired(), bindings(*NETDEVS), target)
    assert lent(node) == {}


def test_links_that_nobody_wants_are_left_to_their_makers(node: Netns) -> None:
    target = LinksTarget()
    converge(node, DUAL, bindings(*NETDEVS), target)
    converge(node, desired(str(V4), str(V6), attached=False), bindings(*NETDEVS), target)
    assert [link(node, name)["mtu"] for name in ("ot3", "vp3")] == [1450, 1450]
    assert all("UP" in link(node, name)["flags"] for name in ("ot3", "vp3"))


def test_another_rendering_in_between_changes_nothing_of_what_is_seen(node: Netns) -> None:
    """CHECK renders the node as if its pod had never been, to know what is there for it."""
    target = LinksTarget()
    converge(node, DUAL, bindings(*NETDEVS), target)
    before = node.run(target.observe)
    target.render(desired(attached=False), bindings(*NETDEVS))
    assert node.run(target.observe) == before
    assert LinkKey("vp3") in before


def test_links_that_do_not_exist_are_pending_and_stop_nothing(node: Netns) -> None:
    ip(node, "link", "del", "ot3")
    names = ("ow-phy", "ophy0", "vp3")
    converge(node, DUAL, bindings(*names))
    pending = LinksTarget().render(DUAL, bindings(*names)).pending
    assert [(each.about, each.reason) for each in pending] == [
        (ATTACHMENT.key, "netdev ot3 does not exist yet")
    ]
    assert link(node, "vp3")["mtu"] == 1450


def test_link_that_vanishes_is_named_and_stops_nothing(node: Netns) -> None:
    target = LinksTarget()
    change = node.run(lambda: diff(target.render(DUAL, bindings(*NETDEVS)), target.observe()))
    ip(node, "link", "del", "ot3")
    with pytest.raises(TargetError, match="look up netdev ot3: No such device"):
        node.run(lambda: target.apply(change))
    assert link(node, "vp3")["mtu"] == 1450
    assert lent(node) == BOTH


def test_underlay_that_does_not_exist_is_pending() -> None:
    seen = Bindings(ifindexes=dict.fromkeys(NETDEVS, 1))
    rendering = LinksTarget().render(DUAL, seen)
    assert [(each.about, each.reason) for each in rendering.pending] == [
        ("nic", "underlay interface nic does not exist")
    ]
    assert LinkKey("ophy0") not in rendering.items


def test_rendering_is_exactly_this() -> None:
    assert LinksTarget().render(DUAL, bindings(*NETDEVS)) == Rendering(
        {
            LinkKey("ow-phy"): LinkState(up=False, mtu=None, ipv6=True),
            LinkKey("ophy0"): LinkState(up=True, mtu=1500),
            LinkKey("ot3"): LinkState(up=True, mtu=1450),
            LinkKey("vp3"): LinkState(up=True, mtu=1450),
            AddressKey(ip_interface("192.0.2.1/32")): LentAddress(),
            AddressKey(ip_interface("2001:db8::1/128")): LentAddress(),
        }
    )


def test_blocked_port_keeps_its_links() -> None:
    """OVS and eBPF drop a superseded port's packets, and it may come back."""
    view = DUAL.segments["blue"]
    blocked = replace(view, ports=(replace(view.ports[0], state=PortState.BLOCKED),))
    rendering = LinksTarget().render(replace(DUAL, segments={"blue": blocked}), bindings(*NETDEVS))
    assert rendering == LinksTarget().render(DUAL, bindings(*NETDEVS))
