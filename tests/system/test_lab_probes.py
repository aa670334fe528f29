"""The probes themselves, on machines joined by a plain bridge: they see what is and what is not."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_address

import pytest

from dataplane.lab import lab, probes
from dataplane.lab.layout import LabPaths
from dataplane.lab.probes import Pace, ProbeError, Station
from dataplane.lab.topology import read_topology
from dataplane.netlink import links
from dataplane.netlink.netns import Netns
from tests.functional.namespaces import rtnl_in

PATHS = LabPaths(f"p{os.getpid()}")
MTU = 1400
TOPOLOGY = f"""
underlay: {{mtu: {MTU}}}
nodes: [{{name: a, kind: bare}}, {{name: b, kind: bare}}, {{name: c, kind: bare}}]
"""


@pytest.fixture(scope="module")
def stations() -> Iterator[dict[str, Station]]:
    topology = lab.build(PATHS, read_topology(TOPOLOGY, "probes"), lambda _line: None)
    yield {
        node.name: Station(
            node.name,
            PATHS.netns(node.name),
            "eth0",
            mac_of(node.name),
            tuple(address.ip for address in node.addresses),
            MTU,
        )
        for node in topology.nodes
    }
    lab.down(PATHS, lambda _line: None)


def mac_of(name: str) -> str:
    with Netns(str(PATHS.netns(name))) as space, rtnl_in(space) as rtnl:
        found = links.find(rtnl, "eth0")
        assert found is not None
        return found.mac


def on_bridge(*command: str) -> None:
    subprocess.run(["nsenter", f"--net={PATHS.netns('underlay')}", *command], check=True)


def set_port(name: str, state: int) -> None:
    """Let the bridge forward (3) to and from a port, or not (0); the cable stays plugged in."""
    on_bridge("bridge", "link", "set", "dev", name, "state", str(state))


@pytest.fixture
def cut_off_b() -> Iterator[None]:
    set_port("b", 0)
    yield
    set_port("b", 3)


@pytest.fixture
def doubled_to_b() -> Iterator[None]:
    """Hand everything that a sends to b once more."""
    match = ["ingress", "protocol", "all", "pref", "1", "u32", "match", "u32", "0", "0"]
    on_bridge("tc", "qdisc", "add", "dev", "a", "clsact")
    twice = ["action", "mirred", "egress", "mirror", "dev", "b"]
    on_bridge("tc", "filter", "add", "dev", "a", *match, *twice)
    yield
    on_bridge("tc", "qdisc", "delete", "dev", "a", "clsact")


VERSIONS = pytest.mark.parametrize("version", [4, 6])


@VERSIONS
def test_ping_counts_replies(stations: dict[str, Station], version: int) -> None:
    echo = probes.ping(stations["a"], stations["b"].ip(version), Pace(count=20))
    assert (echo.sent, echo.received, echo.lost, echo.duplicates) == (20, 20, 0, 0)
    assert 0 < min(echo.round_trips) < max(echo.round_trips) < 1


@VERSIONS
def test_a_probe_is_not_woken_by_the_replies_of_others(
    stations: dict[str, Station], version: int
) -> None:
    kind = (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    if version == 6:
        kind = (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with stations["a"].socket(*kind) as another, stations["a"].socket(*kind) as control:
        another.settimeout(0)
        control.settimeout(0)
        probes.hear_only(another, version, ident=0)
        probes.ping(stations["a"], stations["b"].ip(version), Pace())
        assert control.recv(MTU)
        with pytest.raises(BlockingIOError):
            another.recv(MTU)


@VERSIONS
def test_ping_counts_what_is_lost(
    stations: dict[str, Station], version: int, cut_off_b: None
) -> None:
    echo = probes.ping(stations["a"], stations["b"].ip(version), Pace(count=3, patience=0.2))
    assert (echo.sent, echo.received, echo.lost) == (3, 0, 3)


def test_ping_counts_what_comes_twice(stations: dict[str, Station], doubled_to_b: None) -> None:
    echo = probes.ping(stations["a"], stations["b"].ip(4), Pace(count=5, interval=0.05))
    assert (echo.received, echo.duplicates > 0) == (5, True)


@VERSIONS
def test_full_mtu_goes_whole_and_one_byte_more_not_at_all(
    stations: dict[str, Station], version: int
) -> None:
    target = stations["b"].ip(version)
    assert probes.ping(stations["a"], target, Pace(size=MTU)).lost == 0
    with pytest.raises(ProbeError, match=f"{MTU + 1} bytes: Message too long"):
        probes.ping(stations["a"], target, Pace(size=MTU + 1))


def test_no_route_is_said(stations: dict[str, Station]) -> None:
    with pytest.raises(ProbeError, match=r"a cannot send to 203.0.113.9: Network is unreachable"):
        probes.ping(stations["a"], ip_address("203.0.113.9"), Pace())


@VERSIONS
def test_flow_tells_the_gap(stations: dict[str, Station], version: int) -> None:
    target = stations["b"].ip(version)
    with probes.flow(stations["a"], target, interval=0.01) as echo:
        time.sleep(0.3)
        set_port("b", 0)
        time.sleep(0.4)
        set_port("b", 3)
        time.sleep(0.3)
    print(f"{echo.sent} sent, {echo.lost} lost, longest gap {echo.longest_gap:.3f} s")
    assert 0.35 < echo.longest_gap < 0.9
    assert 0.35 < echo.unheard <= echo.longest_gap + 0.05
    assert 20 < echo.lost < echo.sent
    with probes.flow(stations["a"], target, interval=0.01) as echo:
        time.sleep(0.1)
    assert (echo.lost, echo.unheard) == (0, 0.0)


@VERSIONS
def test_transfer_moves_the_very_bytes(stations: dict[str, Station], version: int) -> None:
    assert 0 < probes.transfer(stations["a"], stations["b"], version, 1 << 20) < 10


def test_transfer_to_a_closed_way_is_said(
    stations: dict[str, Station], monkeypatch: pytest.MonkeyPatch, cut_off_b: None
) -> None:
    monkeypatch.setattr(probes, "_TCP_TIMEOUT_S", 0.5)
    with pytest.raises(ProbeError, match="TCP a to b: timed out"):
        probes.transfer(stations["a"], stations["b"], 4, 1000)


@VERSIONS
def test_broadcast_reaches_the_others_once(stations: dict[str, Station], version: int) -> None:
    others = [stations["b"], stations["c"]]
    assert probes.broadcast(stations["a"], others, version) == {"b": 1, "c": 1}


def test_broadcast_counts_what_comes_twice(
    stations: dict[str, Station], doubled_to_b: None
) -> None:
    others = [stations["b"], stations["c"]]
    assert probes.broadcast(stations["a"], others, 4) == {"b": 2, "c": 1}


def test_broadcast_shows_who_did_not_get_it(stations: dict[str, Station], cut_off_b: None) -> None:
    others = [stations["b"], stations["c"]]
    assert probes.broadcast(stations["a"], others, 4) == {"c": 1}


def test_intrude_reaches_whom_nothing_holds_back(stations: dict[str, Station]) -> None:
    others = [stations["b"], stations["c"]]
    assert probes.intrude(stations["a"], others) == {"b": 2, "c": 2}


def test_intrude_shows_who_is_out_of_reach(stations: dict[str, Station], cut_off_b: None) -> None:
    others = [stations["b"], stations["c"]]
    assert probes.intrude(stations["a"], others) == {"c": 2}


def test_a_station_without_the_family_is_said(stations: dict[str, Station]) -> None:
    only4 = Station("x", PATHS.netns("a"), "eth0", "02:00:00:00:00:01", stations["a"].ips[:1], MTU)
    with pytest.raises(ProbeError, match="pod x has no IPv6 address"):
        only4.ip(6)


def test_sockets_live_in_the_pod(stations: dict[str, Station]) -> None:
    with stations["a"].socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        opened.bind((str(stations["a"].ip(4)), 0))
    with (
        stations["a"].socket(socket.AF_INET, socket.SOCK_DGRAM) as opened,
        pytest.raises(OSError, match="Cannot assign requested address"),
    ):
        opened.bind((str(stations["b"].ip(4)), 0))
