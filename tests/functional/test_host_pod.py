"""VethWiring between real namespaces: one is the node, one the pod."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet6 import ICMPv6ND_NA
from scapy.layers.l2 import ARP, Ether

from dataplane.contracts import PodRoute
from dataplane.core.desired import Port
from dataplane.core.errors import OverweaveError
from dataplane.core.model import Attachment, IpAddress, Mac, Segment, Vni
from dataplane.host import pod_end
from dataplane.host.pod import VethWiring
from dataplane.netlink import netns
from dataplane.netlink.netns import Netns
from tests.functional.namespaces import ip, name_of, namespace, run, shown, wait_until

MAC = Mac("02:00:00:00:07:01")
LINK_LOCAL = "fe80::ff:fe00:701"
SEGMENT = Segment("blue", Vni(7), subnets=(ip_network("10.7.0.0/20"), ip_network("fd07::/64")))
BOTH = ("10.7.0.5", "fd07::5")


@dataclass(frozen=True)
class Stage:
    """A node and a pod, and the wiring as the node's agent would call it."""

    node: Netns
    pod: Netns

    def port(self, ips: tuple[str, ...] = BOTH, mtu: int = 1400) -> Port:
        addresses: tuple[IpAddress, ...] = tuple(ip_address(each) for each in ips)
        attachment = Attachment("c1", "eth0", self.pod.path, "blue", MAC, addresses, "id", 3)
        return Port(attachment, SEGMENT, mtu)

    def plumb(self, port: Port, *routes: PodRoute) -> None:
        self.node.run(lambda: VethWiring().plumb(port, routes))

    def unplumb(self, port: Port) -> None:
        self.node.run(lambda: VethWiring().unplumb(port.attachment))

    def check(self, port: Port, *routes: PodRoute) -> tuple[str, ...]:
        return self.node.run(lambda: VethWiring().check(port, routes))

    def names(self) -> tuple[list[str], list[str]]:
        """Return the netdevs of the node and those of the pod, without their loopbacks."""
        both = (
            [each["ifname"] for each in shown(space, "link")] for space in (self.node, self.pod)
        )
        node, pod = ([name for name in names if name != "lo"] for names in both)
        return node, pod

    def addresses(self) -> dict[str, int]:
        """Return the addresses of the pod's eth0 with their prefix lengths."""
        (eth0,) = shown(self.pod, "addr", "show", "dev", "eth0")
        return {each["local"]: each["prefixlen"] for each in eth0["addr_info"]}


@pytest.fixture
def stage() -> Iterator[Stage]:
    with namespace() as node, namespace() as pod:
        yield Stage(node, pod)


def link(space: Netns, name: str) -> dict[str, Any]:
    (found,) = shown(space, "link", "show", "dev", name)
    return found


def sysctl_of(space: Netns, name: str, key: str) -> str:
    path = Path(f"/proc/sys/net/ipv6/conf/{name}/{key}")
    return space.run(lambda: path.read_text().strip())


# ---- plumb


@pytest.mark.parametrize(
    ("ips", "expected"),
    [
        pytest.param(BOTH, {"10.7.0.5": 20, "fd07::5": 64}, id="dual-stack"),
        pytest.param(("10.7.0.5",), {"10.7.0.5": 20}, id="ipv4"),
        pytest.param(("fd07::5",), {"fd07::5": 64}, id="ipv6"),
        pytest.param(("192.0.2.1", "2001:db8::1"), {"192.0.2.1": 32, "2001:db8::1": 128}, id="out"),
        pytest.param(("10.7.0.5", "10.7.1.5"), {"10.7.0.5": 20, "10.7.1.5": 20}, id="two"),
        pytest.param((), {}, id="none"),
    ],
)
def test_pod_gets_its_addresses(
    stage: Stage, ips: tuple[str, ...], expected: dict[str, int]
) -> None:
    port = stage.port(ips)
    stage.plumb(port)
    assert wait_until(lambda: LINK_LOCAL in stage.addresses())
    assert stage.addresses() == {**expected, LINK_LOCAL: 64}
    assert stage.check(port) == ()


def test_pod_end_is_as_asked_and_usable_at_once(stage: Stage) -> None:
    stage.plumb(stage.port())
    eth0 = link(stage.pod, "eth0")
    assert (eth0["address"], eth0["mtu"]) == (MAC, 1400)
    assert {"UP", "LOWER_UP"} <= set(eth0["flags"])
    assert wait_until(lambda: LINK_LOCAL in stage.addresses())
    (eth0,) = shown(stage.pod, "addr", "show", "dev", "eth0")
    assert not [each for each in eth0["addr_info"] if each.get("tentative")]
    routes = [*shown(stage.pod, "-4", "route"), *shown(stage.pod, "-6", "route")]
    assert {each["dst"] for each in routes} == {"10.7.0.0/20", "fd07::/64", "fe80::/64"}


def test_pod_has_addresses_once_it_hears_what_is_sent_to_it(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the kernel lets the node's end send, an answer to the pod's first question is lost."""
    order = []
    bring_up, give_addresses = pod_end.bring_up, pod_end.give_addresses

    def run_at_last(port: Port) -> None:
        order.append("it runs")
        stage.pod.run(lambda: bring_up(port))

    def give(port: Port, routes: tuple[PodRoute, ...]) -> None:
        order.append("addresses")
        give_addresses(port, routes)

    late = threading.Timer(0.2, run_at_last, (stage.port(),))
    monkeypatch.setattr(pod_end, "bring_up", lambda _port: late.start())
    monkeypatch.setattr(pod_end, "give_addresses", give)
    stage.plumb(stage.port())
    late.join()
    assert order == ["it runs", "addresses"]


def test_node_end_carries_nothing_of_the_node(stage: Stage) -> None:
    stage.plumb(stage.port())
    vp3 = link(stage.node, "vp3")
    assert (vp3["mtu"], vp3["ifalias"]) == (1400, "overweave:c1/eth0")
    assert {"UP", "LOWER_UP"} <= set(vp3["flags"])
    assert sysctl_of(stage.node, "vp3", "disable_ipv6") == "1"
    (vp3,) = shown(stage.node, "addr", "show", "dev", "vp3")
    assert vp3["addr_info"] == []


def test_two_pods_talk_when_their_ends_are_joined(stage: Stage) -> None:
    with namespace() as second:
        other = replace(stage.port(("10.7.0.6", "fd07::6")))
        attachment = replace(
            other.attachment, netns=second.path, mac=Mac("02:00:00:00:07:02"), slot=4
        )
        stage.plumb(stage.port())
        stage.plumb(replace(other, attachment=attachment))
        ip(stage.node, "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        for name in ("vp3", "vp4", "br0"):
            ip(stage.node, "link", "set", name, "up", *(["master", "br0"] if name != "br0" else []))
        for target in ("10.7.0.6", "fd07::6"):
            run("ip", "netns", "exec", name_of(stage.pod), "ping", "-c1", "-W2", target)


def test_routes_of_an_ipam_plugin_are_made(stage: Stage) -> None:
    port = stage.port(("192.0.2.1",))
    on_link = PodRoute(ip_network("192.0.2.0/24"))
    default = PodRoute(ip_network("0.0.0.0/0"), ip_address("192.0.2.254"))
    stage.plumb(port, on_link, default)
    seen = {each["dst"]: each.get("gateway") for each in shown(stage.pod, "-4", "route")}
    assert seen == {"192.0.2.0/24": None, "default": "192.0.2.254"}
    assert stage.check(port, on_link, default) == ()
    ip(stage.pod, "route", "del", "default")
    (fault,) = stage.check(port, on_link, default)
    assert fault.startswith("eth0 lacks route 0.0.0.0/0 via 192.0.2.254")


def test_runtime_that_switched_ipv6_off_does_not_take_our_addresses(stage: Stage) -> None:
    for scope in ("default", "all"):
        path = Path(f"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6")
        stage.pod.run(lambda path=path: path.write_text("1"))  # type: ignore[misc]
    stage.plumb(stage.port())
    assert stage.addresses().get("fd07::5") == 64


def test_link_local_address_is_eui64_whatever_the_default(stage: Stage) -> None:
    path = Path("/proc/sys/net/ipv6/conf/default/stable_secret")
    stage.pod.run(lambda: path.write_text("2001:db8::1"))
    stage.plumb(stage.port())
    assert wait_until(lambda: LINK_LOCAL in stage.addresses())
    assert [each for each in stage.addresses() if each.startswith("fe80")] == [LINK_LOCAL]


# ---- repeated, disturbed, refused


def test_repeated_plumb_changes_nothing(stage: Stage) -> None:
    stage.plumb(stage.port())
    before = (link(stage.node, "vp3"), link(stage.pod, "eth0"), stage.addresses())
    stage.plumb(stage.port())
    assert (link(stage.node, "vp3"), link(stage.pod, "eth0"), stage.addresses()) == before


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(("addr", "flush", "dev", "eth0"), id="addresses"),
        pytest.param(("link", "set", "eth0", "down"), id="down"),
        pytest.param(("link", "set", "eth0", "mtu", "1300"), id="mtu"),
        pytest.param(("link", "set", "eth0", "address", "02:00:00:00:00:99"), id="mac"),
    ],
)
def test_repeated_plumb_repairs(stage: Stage, damage: tuple[str, ...]) -> None:
    stage.plumb(stage.port())
    before = link(stage.pod, "eth0")["ifindex"]
    ip(stage.pod, *damage)
    assert stage.check(stage.port()) != ()
    stage.plumb(stage.port())
    assert stage.check(stage.port()) == ()
    assert link(stage.pod, "eth0")["ifindex"] == before


def test_foreign_interface_is_named_and_left(stage: Stage) -> None:
    ip(stage.pod, "link", "add", "eth0", "type", "bridge")
    before = link(stage.pod, "eth0")
    with pytest.raises(OverweaveError, match=f"interface eth0 exists already in {stage.pod.path}"):
        stage.plumb(stage.port())
    assert stage.names() == ([], ["eth0"])
    assert link(stage.pod, "eth0") == before


def test_foreign_veth_with_our_numbers_is_not_taken_for_ours(stage: Stage) -> None:
    """Both ends have the peer's ifindex that ours would have, but lead elsewhere."""
    with namespace() as stranger:
        ip(
            stage.node,
            "link",
            "add",
            "vp3",
            "index",
            "77",
            "type",
            "veth",
            "peer",
            "x",
            "index",
            "88",
        )
        ip(stage.node, "link", "set", "x", "netns", name_of(stranger))
        ip(stage.node, "link", "set", "vp3", "group", str(0x4F57))
        ip(
            stage.pod,
            "link",
            "add",
            "eth0",
            "index",
            "88",
            "type",
            "veth",
            "peer",
            "y",
            "index",
            "77",
        )
        ip(stage.pod, "link", "set", "y", "netns", name_of(stranger))
        assert "eth0 is not joined to vp3" in stage.check(stage.port())
        with pytest.raises(OverweaveError, match="interface eth0 exists already"):
            stage.plumb(stage.port())


def test_foreign_netdev_in_the_place_of_the_node_end_is_named_and_left(stage: Stage) -> None:
    ip(stage.node, "link", "add", "vp3", "type", "bridge")
    with pytest.raises(OverweaveError, match="netdev vp3 exists on this node and is not ours"):
        stage.plumb(stage.port())
    stage.unplumb(stage.port())
    assert stage.names() == (["vp3"], [])


def test_what_an_earlier_use_of_the_slot_left_is_replaced(stage: Stage) -> None:
    with namespace() as earlier:
        attachment = replace(stage.port().attachment, container_id="c0", netns=earlier.path)
        stage.plumb(replace(stage.port(), attachment=attachment))
        stage.plumb(stage.port())
        assert [each["ifname"] for each in shown(earlier, "link")] == ["lo"]
    assert stage.check(stage.port()) == ()
    assert link(stage.node, "vp3")["ifalias"] == "overweave:c1/eth0"


def test_pair_without_alias_left_by_a_crash_is_ours(stage: Stage) -> None:
    words = ("link", "add", "vp3", "group", str(0x4F57), "type", "veth", "peer", "name", "left")
    ip(stage.node, *words)
    stage.unplumb(stage.port())
    assert stage.names() == ([], [])
    ip(stage.node, *words)
    stage.plumb(stage.port())
    assert stage.check(stage.port()) == ()
    assert stage.names() == (["vp3"], ["eth0"])


def test_address_that_another_interface_holds_is_given_all_the_same(stage: Stage) -> None:
    """A pod with two attachments may hold one address twice; that is its own affair."""
    ip(stage.pod, "link", "add", "net1", "type", "bridge")
    for address in ("10.7.0.5/20", "fd07::5/64"):
        ip(stage.pod, "addr", "add", address, "dev", "net1")
    stage.plumb(stage.port())
    assert stage.check(stage.port()) == ()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(
            lambda port: replace(port, mtu=67), "make veth pair vp3, eth0: ", id="mtu-too-small"
        ),
        pytest.param(
            lambda port: replace(
                port, attachment=replace(port.attachment, ips=(ip_address("ff02::5"),))
            ),
            "give address ff02::5/128",
            id="multicast-address",
        ),
        pytest.param(
            lambda port: replace(port, attachment=replace(port.attachment, ifname="lo")),
            "interface lo exists already",
            id="loopback",
        ),
        pytest.param(
            lambda port: replace(port, attachment=replace(port.attachment, ifname="n" * 16)),
            "make veth pair vp3",
            id="name-too-long",
        ),
    ],
)
def test_failed_plumb_leaves_nothing(
    stage: Stage, spoil: Callable[[Port], Port], words: str
) -> None:
    with pytest.raises(OverweaveError, match=words):
        stage.plumb(spoil(stage.port()))
    assert stage.names() == ([], [])


def test_failed_route_leaves_nothing(stage: Stage) -> None:
    unreachable = PodRoute(ip_network("0.0.0.0/0"), ip_address("203.0.113.1"))
    with pytest.raises(OverweaveError, match="make route"):
        stage.plumb(stage.port(), unreachable)
    assert stage.names() == ([], [])


def test_netns_that_is_none_is_named(stage: Stage, tmp_path: Path) -> None:
    wrong = tmp_path / "file"
    wrong.touch()
    for path, words in (
        (str(wrong), "is not a network namespace"),
        ("/run/netns/owtest-none", "does not exist"),
        (stage.node.path, "is this node's own network namespace"),
    ):
        port = stage.port()
        port = replace(port, attachment=replace(port.attachment, netns=path))
        with pytest.raises(OverweaveError, match=words) as caught:
            stage.plumb(port)
        assert path in str(caught.value)
    assert stage.names() == ([], [])


def test_many_pods_at_once(stage: Stage) -> None:
    faults: list[str] = []

    def attach(number: int) -> None:
        with namespace() as pod:
            attachment = replace(
                stage.port().attachment, container_id=f"c{number}", netns=pod.path, slot=number
            )
            port = replace(stage.port(), attachment=attachment)
            stage.plumb(port)
            faults.extend(stage.check(port))
            stage.unplumb(port)

    threads = [threading.Thread(target=attach, args=(number,)) for number in range(10, 30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert stage.names() == ([], [])


# ---- unplumb


def test_unplumb_repeats(stage: Stage) -> None:
    stage.plumb(stage.port())
    stage.unplumb(stage.port())
    assert stage.names() == ([], [])
    stage.unplumb(stage.port())


def test_unplumb_after_the_netns_is_gone(stage: Stage) -> None:
    with namespace() as pod:
        attachment = replace(stage.port().attachment, netns=pod.path)
        port = replace(stage.port(), attachment=attachment)
        stage.plumb(port)
        netns.delete(name_of(pod))
        stage.unplumb(port)
        assert stage.names() == ([], [])
        assert stage.check(port) == (f"network namespace {pod.path} does not exist",)
    stage.unplumb(port)


def test_unplumb_of_an_earlier_use_of_the_slot_takes_nothing(stage: Stage) -> None:
    stage.plumb(stage.port())
    late = replace(stage.port().attachment, container_id="c0")
    stage.unplumb(replace(stage.port(), attachment=late))
    assert stage.check(stage.port()) == ()


# ---- check


@pytest.mark.parametrize(
    ("damage", "faults"),
    [
        pytest.param(
            ("link", "set", "eth0", "mtu", "1300"), ["eth0 has MTU 1300, not 1400"], id="mtu"
        ),
        pytest.param(
            ("link", "set", "eth0", "address", "02:00:00:00:00:99"),
            [f"eth0 has MAC 02:00:00:00:00:99, not {MAC}"],
            id="mac",
        ),
        pytest.param(
            ("addr", "del", "10.7.0.5/20", "dev", "eth0"),
            ["eth0 lacks address 10.7.0.5/20"],
            id="ipv4-address",
        ),
        pytest.param(
            ("-6", "addr", "flush", "dev", "eth0", "scope", "global"),
            ["eth0 lacks address fd07::5/64"],
            id="ipv6-address",
        ),
        pytest.param(
            ("link", "set", "eth0", "down"),
            ["eth0 is down", "eth0 lacks address fd07::5/64"],
            id="down",
        ),
    ],
)
def test_check_says_what_differs(stage: Stage, damage: tuple[str, ...], faults: list[str]) -> None:
    stage.plumb(stage.port())
    ip(stage.pod, *damage)
    assert list(stage.check(stage.port())) == faults


def test_check_says_that_the_interface_is_gone(stage: Stage) -> None:
    stage.plumb(stage.port())
    ip(stage.pod, "link", "del", "eth0")
    assert stage.check(stage.port()) == (f"interface eth0 does not exist in {stage.pod.path}",)


def test_check_says_that_the_pair_is_another(stage: Stage) -> None:
    stage.plumb(stage.port())
    ip(stage.node, "link", "set", "vp3", "down")
    ip(stage.node, "link", "set", "vp3", "name", "vp9")
    assert stage.check(stage.port()) == ("eth0 is not joined to vp3",)


# ---- announce


@contextmanager
def listening(space: Netns, name: str) -> Iterator[socket.socket]:
    listener = space.run(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
    with listener:
        listener.bind((name, 3))
        yield listener


def frames(listener: socket.socket) -> Iterator[Ether]:
    while select.select([listener], [], [], 0.3)[0]:
        yield Ether(listener.recv(2048))


def test_announcement_arrives_at_the_node_end(stage: Stage) -> None:
    port = stage.port()
    stage.plumb(port)
    with listening(stage.node, "vp3") as listener:
        stage.node.run(lambda: VethWiring().announce(port))
        heard = [frame for frame in frames(listener) if ARP in frame or ICMPv6ND_NA in frame]
    assert [frame.src for frame in heard] == [MAC] * 3
    assert [frame[ARP].pdst for frame in heard if ARP in frame] == ["10.7.0.5"]
    advertised = [frame[ICMPv6ND_NA].tgt for frame in heard if ICMPv6ND_NA in frame]
    assert advertised == ["fd07::5", LINK_LOCAL]


def test_announcement_is_repeated(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 5227 section 2.3: twice; other nodes may not know of this one at the first time."""
    monkeypatch.setattr("dataplane.host.pod_end._ANNOUNCE_AGAIN_S", 0.1)
    port = stage.port()
    stage.plumb(port)
    with listening(stage.node, "vp3") as listener:
        stage.node.run(lambda: VethWiring().announce(port))
        heard = [bytes(f) for f in frames(listener) if ARP in f or ICMPv6ND_NA in f]
    assert len(heard) == 6
    assert heard[:3] == heard[3:]


def test_announcement_without_interface_is_an_error(stage: Stage) -> None:
    with pytest.raises(OverweaveError, match="announce the addresses of eth0: No such device"):
        stage.node.run(lambda: VethWiring().announce(stage.port()))


def test_node_sends_nothing_of_its_own_into_the_pod(stage: Stage) -> None:
    stage.plumb(stage.port())
    with listening(stage.pod, "eth0") as listener:
        ip(stage.node, "link", "set", "vp3", "down")
        ip(stage.node, "link", "set", "vp3", "up")
        node_mac = link(stage.node, "vp3")["address"]
        heard = [frame.summary() for frame in frames(listener) if frame.src == node_mac]
    assert heard == []
