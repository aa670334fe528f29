"""A node without eBPF in a fabric of ordinary ones: its pods get what all get, only slower."""

from __future__ import annotations

import random
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from bpf import bpffs
from dataplane.core.reasons import Reason
from dataplane.host.pod import OUR_GROUP
from dataplane.lab import lab, matrix, nodes, probes
from dataplane.lab.layout import NodePaths
from dataplane.lab.probes import Station
from dataplane.lab.scene import COLOURS, Colour, Scene
from dataplane.lab.underlay import NIC
from dataplane.netlink import links, tc, u32
from dataplane.netlink.rtnl import Rtnl
from tests.coverage_grid import FAMILIES, Proven
from tests.system.cni_node import eventually
from tests.system.damage import Node
from tests.system.test_lab_cli import Overweave
from tests.system.test_ovs_restart import machine
from tests.system.test_pitfalls import checksum_errors

SEGMENTS = pytest.mark.parametrize(
    "colour", COLOURS, ids=lambda colour: f"{colour.encap} over {colour.underlay}"
)
MEGABYTE = 1 << 20
BACK_S = 10.0
_MTU_DISCOVER = {4: (socket.IPPROTO_IP, 10), 6: (socket.IPPROTO_IPV6, 23)}  # linux/in.h, in6.h
_DO = 2


@pytest.fixture
def n1(scene: Scene) -> Node:
    return Node(scene.paths.node("n1"), random.Random(1))


def pods_of(scene: Scene, colour: Colour) -> list[Station]:
    """Return two pods on n1 and one on n2 and n3 each."""
    first, there, far, second = scene.segments[colour.name]
    return [first, second, there, far]


def all_checksum_errors(scene: Scene) -> int:
    return sum(checksum_errors(each) for them in scene.segments.values() for each in them)


def status(scene: Scene) -> str:
    return lab.overweave(scene.paths, "status", "--agent", str(scene.paths.node("n1").api_socket))


def test_status_says_why(scene: Scene) -> None:
    place = scene.paths.node("n1").bpf
    assert f"no fast path, because {place} cannot be made a bpffs: " in status(scene)
    entries = nodes.entries(scene.paths.node("n1"))
    assert {(each.placement, each.reason) for each in entries} == {("ovs", Reason.NO_FASTPATH)}


@SEGMENTS
def test_every_pair_by_ping_full_mtu_tcp_and_broadcast(
    scene: Scene, colour: Colour, proven: Proven
) -> None:
    before = all_checksum_errors(scene)
    verdict = matrix.verify(scene.segments[colour.name])
    print(f"{colour.name}: typical round trip {verdict.round_trip * 1000:.2f} ms")
    assert verdict.faults == ()
    assert (verdict.pairs, verdict.reachable, verdict.lost) == (12, 12, 0)
    assert all_checksum_errors(scene) == before
    for inner in FAMILIES:
        proven(colour.encap, colour.underlay, inner)


@SEGMENTS
@pytest.mark.parametrize("version", [4, 6])
def test_bulk_tcp_and_whole_datagrams(scene: Scene, colour: Colour, version: int) -> None:
    first, *others = pods_of(scene, colour)
    before = all_checksum_errors(scene)
    for other in others:
        for source, sink in ((first, other), (other, first)):
            took = probes.transfer(source, sink, version, 4 * MEGABYTE)
            print(f"{source.name} to {sink.name}: {4 * MEGABYTE * 8 / took / 1e6:.0f} Mbit/s")
            assert datagram(source, sink, version)
    assert all_checksum_errors(scene) == before


def datagram(source: Station, sink: Station, version: int) -> bool:
    """Send one as large as the pod's MTU, never to be fragmented; say whether it arrived."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    whole = random.randbytes(sink.mtu - (28 if version == 4 else 48))
    with (
        sink.socket(family, socket.SOCK_DGRAM) as receiver,
        source.socket(family, socket.SOCK_DGRAM) as sender,
    ):
        receiver.bind((str(sink.ip(version)), 0))
        receiver.settimeout(3.0)
        sender.setsockopt(*_MTU_DISCOVER[version], _DO)
        sender.sendto(whole, receiver.getsockname()[:2])
        return receiver.recv(1 << 16) == whole


def test_no_frame_leaves_its_segment(scene: Scene) -> None:
    assert matrix.leaks(scene.segments) == ()


@pytest.mark.parametrize("version", [4, 6])
def test_what_strangers_send_to_our_ports_stays_with_the_host(scene: Scene, version: int) -> None:
    """Nobody listens there, and that is the host's to say."""
    stranger, target = machine(scene, "k1"), machine(scene, "n1")
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    for port in (6081, 4789):
        with stranger.socket(family, socket.SOCK_DGRAM) as sender:
            sender.settimeout(3.0)
            sender.connect((str(target.ip(version)), port))
            sender.send(b"\0" * 64)
            with pytest.raises(ConnectionRefusedError):
                sender.recv(1)


@pytest.mark.parametrize("cleanup", [False, True])
def test_the_host_does_not_notice_that_the_switch_is_dead(
    scene: Scene, n1: Node, *, cleanup: bool
) -> None:
    switch = nodes.switch(scene.paths.node("n1"))
    before = n1.state()
    here, there = machine(scene, "n1"), machine(scene, "n2")
    with (
        probes.flow(here, there.ip(4), interval=0.01) as outward,
        probes.flow(there, here.ip(6), interval=0.01) as inward,
    ):
        time.sleep(0.2)
        switch.stop_switch(cleanup=True) if cleanup else switch.kill_switch()
        time.sleep(2.0)
        assert not switch.switch_running()
        assert n1.ask(pods_that_reach_the_host) == []
        switch.start_switch()
        back = wait_reachable(scene)
    print(f"{outward.sent + inward.sent} packets of the host; pods back after {back:.2f} s")
    assert [(e.lost, e.duplicates) for e in (outward, inward)] == [(0, 0)] * 2
    eventually(lambda: n1.state() == before, BACK_S)


def pods_that_reach_the_host(rtnl: Rtnl) -> list[str]:
    """Return the node's ends of pods' interfaces whose frames nobody takes away."""
    ends = [netdev for netdev in links.every(rtnl) if netdev.group == OUR_GROUP]
    assert ends
    return [netdev.name for netdev in ends if not u32.listing(rtnl, netdev.ifindex).ours]


def wait_reachable(scene: Scene) -> float:
    began = time.monotonic()
    for stations in scene.segments.values():
        matrix.converge(stations, BACK_S)
    return time.monotonic() - began


@pytest.mark.parametrize("end", [nodes.stop_agent, nodes.kill_agent])
def test_the_agent_comes_back_and_nothing_is_lost(
    scene: Scene, n1: Node, end: Callable[[NodePaths], None]
) -> None:
    before = n1.state()
    with ExitStack() as flows:
        echoes = [
            flows.enter_context(probes.flow(source, sink.ip(version), interval=0.01))
            for colour in COLOURS
            for source, sink, version in pairs(scene, colour)
        ]
        time.sleep(0.3)
        end(scene.paths.node("n1"))
        time.sleep(0.5)
        lab.start_agents(scene.paths, scene.topology.agents)
        time.sleep(1.0)
    print(f"{sum(echo.sent for echo in echoes)} packets")
    assert [(echo.lost, echo.duplicates) for echo in echoes] == [(0, 0)] * len(echoes)
    assert n1.state() == before


def pairs(scene: Scene, colour: Colour) -> list[tuple[Station, Station, int]]:
    first, second, there, far = pods_of(scene, colour)
    return [(first, there, 4), (far, first, 6), (first, second, 4)]


def test_a_new_mac_of_a_neighbour_is_followed(scene: Scene, n1: Node) -> None:
    old, new = mac_of_n2(scene), "02:00:00:00:99:02"
    before = [flow for flow in n1.bridge("ow-phy").dump_flows() if old in flow.actions]
    for mac in (new, old):
        set_mac_of_n2(scene, mac)
        back = wait_reachable(scene)
        print(f"pods back after {back:.2f} s")
        used = [flow for flow in n1.bridge("ow-phy").dump_flows() if mac in flow.actions]
        assert len(used) == len(before) == 2  # its VTEPs of both families
    for stations in scene.segments.values():
        assert matrix.verify(stations).faults == ()


def mac_of_n2(scene: Scene) -> str:
    found = Node(scene.paths.node("n2"), random.Random(1)).ask(lambda r: links.find(r, NIC))
    assert found is not None
    return found.mac


def set_mac_of_n2(scene: Scene, mac: str) -> None:
    words = ["ip", "-n", scene.paths.netns("n2").name, "link", "set", NIC, "address", mac]
    subprocess.run(words, check=True)


def test_what_is_taken_away_is_put_back(scene: Scene, n1: Node) -> None:
    before = n1.state()
    n1.ask(take_redirects)
    n1.bridge("ow-phy").apply_bundle((), n1.bridge("ow-phy").dump_flows())
    assert n1.state() != before
    eventually(lambda: n1.state() == before, 60.0)
    wait_reachable(scene)


def take_redirects(rtnl: Rtnl) -> None:
    for netdev in links.every(rtnl):
        u32.delete(rtnl, u32.listing(rtnl, netdev.ifindex).ours)


def test_with_ebpf_and_without_again(scene: Scene, n1: Node) -> None:
    paths = scene.paths.node("n1")
    before = n1.state()
    nodes.stop_agent(paths)
    paths.bpf.unlink()
    bpffs.ensure_mounted(paths.bpf)
    try:
        lab.start_agents(scene.paths, scene.topology.agents)
        eventually(lambda: not n1.ask(redirects), BACK_S)
        assert "no fast path" not in status(scene)
        for stations in scene.segments.values():
            assert matrix.verify(stations).faults == ()
        assert "fastpath" in {each.placement for each in nodes.entries(paths)}
    finally:
        nodes.stop_agent(paths)
        bpffs.unmount(paths.bpf)
        paths.bpf.rmdir()
        paths.bpf.touch()
        lab.start_agents(scene.paths, scene.topology.agents)
    eventually(lambda: not n1.ask(programs), BACK_S)
    for stations in scene.segments.values():
        assert matrix.verify(stations).faults == ()
    eventually(lambda: n1.state() == before, BACK_S)


def test_verify_says_that_there_is_no_fast_path_to_compare(scene: Scene) -> None:
    shown = Overweave(scene).run("verify", "--packets", "0", "--segment", "blue")
    assert shown.returncode == 0, shown.stdout
    assert shown.stdout.startswith("all agree: ")
    assert "not asked: fastpath of n1: " in shown.stdout


def redirects(rtnl: Rtnl) -> int:
    return sum(len(u32.listing(rtnl, netdev.ifindex).ours) for netdev in links.every(rtnl))


def programs(rtnl: Rtnl) -> int:
    return sum(len(tc.list_bpf(rtnl, netdev.ifindex)) for netdev in links.every(rtnl))
