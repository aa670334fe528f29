"""Pods of two segments reach each other through the gateway that every node is: real packets.

One segment is on all nodes, the other on n2 and n3 only: what n1 sends there is routed into a
segment that it is no member of.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from dataplane.lab import lab, nodes, probes
from dataplane.lab.foreign import command
from dataplane.lab.probes import Pace, Station
from dataplane.lab.scene import COLOURS, Colour, Scene
from tests.system.cni_node import CniNode, eventually, segment
from tests.system.frames import deliver
from tests.system.gateways import (
    default_routes,
    gateway_mac,
    gateway_of,
    prefixes_of,
    reaches,
    routed,
)
from tests.system.spoofs import v4, v6
from tests.system.test_lab_cli import Overweave

BLUE, GREEN = COLOURS[:2]
RED = Colour("red", 26, "vxlan", "ipv6")
SEEN_S = 10.0


@dataclass(frozen=True, slots=True)
class Pods:
    """``near`` is on the node of ``blue3``, ``far`` on one where ``blue1`` has no neighbour."""

    blue1: Station
    blue3: Station
    far: Station
    near: Station
    green: Station

    @property
    def routed(self) -> tuple[tuple[Station, Colour], ...]:
        blue = ((pod, BLUE) for pod in (self.blue1, self.blue3))
        return (*blue, *((pod, RED) for pod in (self.far, self.near)))


@pytest.fixture(scope="module")
def pods(shared: Scene) -> Iterator[Pods]:
    with ExitStack() as stack:
        stack.enter_context(segment(shared, RED))
        reds = [CniNode(shared, node, RED.name) for node in ("n2", "n3")]
        for node in reds:
            stack.enter_context(node.pods)
        far, near = (node.add(f"red{n}") for n, node in enumerate(reds))
        blue, green = (shared.segments[colour.name] for colour in (BLUE, GREEN))
        made = Pods(blue[0], blue[2], far, near, green[0])
        stack.enter_context(routed(shared, (BLUE, RED)))
        stack.enter_context(default_routes(made.routed))
        for pod in (made.blue1, made.blue3):
            eventually(lambda pod=pod: reaches(pod, far, 4) and reaches(pod, far, 6), SEEN_S)
        yield made


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize(
    ("source", "sink"),
    [("blue1", "far"), ("far", "blue1"), ("blue3", "near"), ("near", "blue3"), ("near", "blue1")],
)
def test_pods_of_two_segments_reach_each_other(
    pods: Pods, source: str, sink: str, version: int
) -> None:
    one, other = getattr(pods, source), getattr(pods, sink)
    echo = probes.ping(one, other.ip(version), Pace(20))
    assert (echo.lost, echo.duplicates) == (0, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_a_tcp_stream_crosses(pods: Pods, version: int) -> None:
    assert probes.transfer(pods.blue1, pods.far, version, 1 << 20) > 0
    assert probes.transfer(pods.near, pods.blue3, version, 1 << 20) > 0


@pytest.mark.parametrize("version", [4, 6])
def test_the_gateway_is_the_same_on_every_node(pods: Pods, version: int) -> None:
    for pod, colour in pods.routed:
        asked = gateway_of(colour, version)
        assert probes.ping(pod, ip_address(asked), Pace(3)).lost == 0
        known = command(["ip", "-n", pod.netns.name, "neighbour", "show", asked])
        assert gateway_mac(colour) in known


def test_a_segment_outside_the_vrf_is_not_reached(pods: Pods) -> None:
    """Neither by the gateway's routes, nor by a frame to its MAC from outside."""
    for version in (4, 6):
        assert not reaches(pods.blue1, pods.green, version)
    frames = {
        "outside": Ether(src=pods.green.mac, dst=gateway_mac(BLUE)) / packet(pods.green, pods.far)
    }
    assert deliver(pods.green, frames, [pods.far, pods.near])["outside"] == {}


def packet(
    source: Station, sink: Station, version: int = 4, claimed: Station | None = None
) -> Packet:
    who = claimed or source
    if version == 4:
        return IP(src=v4(who), dst=v4(sink)) / UDP(dport=7)
    return IPv6(src=v6(who), dst=v6(sink)) / UDP(dport=7)


def test_a_trace_follows_the_packets(scene: Scene, pods: Pods) -> None:
    overweave = Overweave(scene)
    ways = [
        (pods.blue1, pods.far, 4, ["pod", "wire"] * 2, "n1, routed on n2"),
        (pods.blue3, pods.near, 6, ["pod"] * 2, "n3"),
    ]
    for source, sink, version, hops, where in ways:
        ends = (str(source.ip(version)), str(sink.ip(version)))
        shown = overweave.run("trace", *ends, "-o", "json")
        (found,) = json.loads(shown.stdout)
        assert (shown.returncode, found["differs"]["owner"]) == (0, ""), found["verdict"]
        assert found["verdict"] == f"reachable, over ovs, because routed on {where}"
        assert [hop["enters"] for hop in found["hops"]] == hops
        assert "routing" in found["hops"][0]["ovs"]["passed"]
    shown = overweave.run("trace", str(pods.blue1.ip(4)), str(pods.green.ip(4)))
    apart = "not reachable: no Vrf has both segments, blue and green"
    assert (shown.returncode, shown.stdout.splitlines()[0]) == (1, apart)


def test_explain_and_get_show_the_gateway(scene: Scene, pods: Pods) -> None:
    overweave = Overweave(scene)
    said = overweave.run("explain", "blue").stdout
    assert f"with {gateway_mac(BLUE)} on every node, svi blue; vrf shop reaches red" in said
    shown = overweave.run("get", "segment", "red", "-o", "json")
    (found,) = json.loads(shown.stdout)
    assert (found["vrf"], found["gateway"]) == ("shop", list(prefixes_of(RED)))


def test_the_paths_agree_on_frames_through_the_gateway(scene: Scene, pods: Pods) -> None:
    shown = Overweave(scene).run("verify", "--segment", "blue", "--packets", "20")
    assert shown.returncode == 0, shown.stdout + shown.stderr


def test_what_is_sent_in_anothers_name_is_not_routed(pods: Pods) -> None:
    me, other, sink = pods.blue1, pods.blue3, pods.far
    own, theirs = (Ether(src=pod.mac, dst=gateway_mac(BLUE)) for pod in (me, other))
    frames = {
        "honest 4": own / packet(me, sink),
        "honest 6": own / packet(me, sink, 6),
        "address 4": own / packet(me, sink, 4, other),
        "address 6": own / packet(me, sink, 6, other),
        "MAC": theirs / packet(me, sink),
        "the gateway's MAC": Ether(src=gateway_mac(BLUE), dst=sink.mac) / packet(me, sink),
        "the gateway itself": own / IP(src=gateway_of(BLUE, 4), dst=v4(sink)) / UDP(dport=7),
    }
    heard = deliver(me, frames, [sink])
    assert {name for name, counts in heard.items() if counts} == {"honest 4", "honest 6"}


def test_it_routes_on_while_the_agent_is_away_and_returns(scene: Scene, pods: Pods) -> None:
    with (
        probes.flow(pods.blue1, pods.far.ip(4), interval=0.01) as outward,
        probes.flow(pods.far, pods.blue1.ip(6), interval=0.01) as inward,
    ):
        time.sleep(0.2)
        nodes.kill_agent(scene.paths.node("n1"))
        time.sleep(0.5)
        lab.start_agents(scene.paths, [scene.topology.node("n1")])
        time.sleep(0.5)
    assert (outward.lost, inward.lost) == (0, 0)
    assert (outward.duplicates, inward.duplicates) == (0, 0)
