"""``overweave trace`` agrees with real pings, and names who is to blame where something is wrong.

The agents repair what is planted: it is planted anew until a trace has come before them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from bpf.layout import encode_entry_key, encode_ifindex, encode_member, encode_port
from bpf.syscalls import open_map, open_program
from dataplane.core.model import Encap, Guard, Mac, Vni
from dataplane.lab import lab, nodes, probes
from dataplane.lab.probes import Pace, Station
from dataplane.lab.runtime import Pod
from dataplane.lab.scene import COLOURS, Colour, Scene
from dataplane.netlink import links, tc
from dataplane.netlink.rtnl import Rtnl
from tests.system.cni_node import eventually
from tests.system.damage import Node
from tests.system.test_interworking import guest_of, static_node
from tests.system.test_lab_cli import Overweave

BLUE = COLOURS[0]
BOTH = "reachable, fastpath both ways"
SAME_FLOWS = [
    "classify",
    "guard",
    "guard_source",
    "arp_nd",
    "forwarding",
    "steering",
    "output",
    "wire",
]
_TRIES = 3
REPAIRED_S = 60.0
Undo = Callable[[], None]


@dataclass(frozen=True)
class Traced:
    """What a trace printed as JSON, and how it ended."""

    status: int
    record: dict[str, Any]

    @property
    def verdict(self) -> str:
        return str(self.record["verdict"])

    @property
    def blamed(self) -> tuple[str, str]:
        differs = self.record["differs"]
        return differs["owner"], differs["node"]


@dataclass(frozen=True)
class World:
    """Two pods of blue on n1 and n2, their nodes, and the command line."""

    scene: Scene
    overweave: Overweave

    def node(self, name: str) -> Node:
        return Node(self.scene.paths.node(name), random.Random(0))

    def pod(self, colour: Colour, number: int) -> Station:
        return self.scene.segments[colour.name][number]

    def trace(self, source: str, target: str, *words: str) -> Traced:
        shown = self.overweave.run("trace", source, target, "-o", "json", *words)
        assert shown.stdout, shown.stderr
        (record,) = json.loads(shown.stdout)
        return Traced(shown.returncode, record)

    def ends(self) -> tuple[str, str]:
        """Return the MACs of the first two pods of blue."""
        return str(self.pod(BLUE, 0).mac), str(self.pod(BLUE, 1).mac)


Plant = Callable[[World], Undo]


@pytest.fixture
def world(scene: Scene) -> Iterator[World]:
    made = World(scene, Overweave(scene))
    yield made
    eventually(lambda: made.trace(*made.ends()).verdict == BOTH, REPAIRED_S)


@pytest.mark.parametrize("colour", COLOURS, ids=lambda colour: colour.name)
@pytest.mark.parametrize("other", [pytest.param(1, id="far"), pytest.param(4, id="near")])
@pytest.mark.parametrize("version", [4, 6])
def test_a_healthy_pair_is_reachable_as_its_ping_says(
    world: World, colour: Colour, other: int, version: int
) -> None:
    one, two = world.pod(colour, 0), world.pod(colour, other)
    found = world.trace(str(one.ip(version)), str(two.ip(version)))
    assert (found.status, found.verdict) == (0, BOTH)
    assert found.blamed == ("", "")
    hops = found.record["hops"]
    assert [hop["enters"] for hop in hops] == (["pod", "wire"] * 2 if other == 1 else ["pod"] * 2)
    for hop in hops:
        assert hop["predicted"]["says"] == hop["fastpath"]["says"] == hop["ovs"]["says"]
        assert set(hop["ovs"]["passed"]) <= {*SAME_FLOWS}
    assert probes.ping(one, two.ip(version), Pace(3)).lost == 0


def test_a_trace_is_read_from_top_to_bottom(world: World) -> None:
    one, two = world.pod(BLUE, 0), world.pod(BLUE, 1)
    shown = world.overweave.run("trace", str(one.ip(4)), str(two.ip(4)))
    verdict, head, *hops, following = shown.stdout.splitlines()
    assert verdict == BOTH
    assert head.split() == ["SOURCE", "TARGET", "NODE", "ENTERS", "PREDICTED", "EBPF", "OVS"]
    assert [line.split()[2:4] for line in hops] == [
        ["n1", "pod"],
        ["n2", "wire"],
        ["n2", "pod"],
        ["n1", "wire"],
    ]
    assert all(", ".join(SAME_FLOWS) in line for line in hops[::2])
    assert following == "next: overweave ping --mesh --segment blue"


# --- faults ------------------------------------------------------------------------------------


@contextmanager
def planted(world: World, plant: Plant) -> Iterator[None]:
    """Have a fault, and undo it: to wait for the agent's next look would take 30 s."""
    undo = plant(world)
    try:
        yield
    finally:
        undo()


def take(world: World, node: str, name: str, key: bytes) -> Undo:
    path = world.node(node).maps()[name]
    with open_map(path) as opened:
        value = opened.lookup(key)
        assert value is not None
        opened.delete(key)
    return lambda: put_back(path, key, value)


def put_back(path: Path, key: bytes, value: bytes) -> None:
    with open_map(path) as opened:
        opened.update(key, value)


def ifindex(world: World, node: str, netdev: str) -> int:
    found = world.node(node).ask(lambda rtnl: links.find(rtnl, netdev))
    assert found is not None
    return found.ifindex


def access_port(world: World, station: Station) -> str:
    shown = world.overweave.run("get", "port", str(station.mac), "-o", "json")
    return str(json.loads(shown.stdout)[0]["access_port"])


def no_entry(world: World) -> Undo:
    key = encode_entry_key(Vni(BLUE.vni), Mac(str(world.pod(BLUE, 1).mac)))
    return take(world, "n1", "entries", key)


def no_entry_to_deliver(world: World) -> Undo:
    key = encode_entry_key(Vni(BLUE.vni), Mac(str(world.pod(BLUE, 1).mac)))
    return take(world, "n2", "entries", key)


def no_address(world: World) -> Undo:
    pod = world.pod(BLUE, 0)
    key = encode_ifindex(ifindex(world, "n1", access_port(world, pod)))
    undo = take(world, "n1", "ports", key)
    none = encode_port(Vni(BLUE.vni), 1400, Mac(str(pod.mac)), Guard.IP)
    put_back(world.node("n1").maps()["ports"], key, none)
    return undo


def no_port(world: World) -> Undo:
    number = ifindex(world, "n1", access_port(world, world.pod(BLUE, 0)))
    return take(world, "n1", "ports", encode_ifindex(number))


def no_member(world: World) -> Undo:
    vtep = next(a.ip for a in world.scene.topology.node("n1").addresses if a.version == 4)
    return take(world, "n2", "members", encode_member(Vni(BLUE.vni), Encap(BLUE.encap), vtep))


def no_filter(world: World) -> Undo:
    number = ifindex(world, "n2", "eth0")

    slot = tc.Slot(number)

    def attach(rtnl: Rtnl) -> None:
        (program,) = world.node("n2").paths.bpf.rglob("underlay")
        with open_program(program) as opened:
            tc.replace_bpf(rtnl, slot, opened.fd, "overweave:underlay")

    world.node("n2").ask(lambda rtnl: tc.delete_bpf(rtnl, slot))
    return lambda: world.node("n2").ask(attach)


def set_flow(world: World, table: int, part: str, actions: str = "") -> Undo:
    """Give the flows of ``table`` on n1 that match ``part`` other actions, or take them away."""
    bridge = world.node("n1").bridge("ow-int")
    found = [f for f in bridge.dump_flows() if f.table == table and part in f.match]
    assert found
    bridge.apply_bundle([replace(f, actions=actions) for f in found if actions], found)
    return lambda: bridge.apply_bundle(found, ())


def to_second(world: World) -> str:
    return f"dl_dst={world.pod(BLUE, 1).mac}"


def other_flow(world: World) -> Undo:
    away = "set_field:0x3e9->tun_id,set_field:{}->tun_dst,set_field:0x1->reg2,goto_table:60"
    third = next(a.ip for a in world.scene.topology.node("n3").addresses if a.version == 4)
    return set_flow(world, 30, to_second(world), away.format(third))


def no_flow(world: World) -> Undo:
    return set_flow(world, 30, to_second(world))


def neither(world: World) -> Undo:
    undo = ExitStack()
    undo.callback(no_flow(world))
    undo.callback(no_entry(world))
    return undo.close


def no_guard_flow(world: World) -> Undo:
    """Open vSwitch does not let the first pod send from its address any more."""
    return set_flow(world, 15, f"nw_src={world.pod(BLUE, 0).ip(4)}")


ENTRIES = "fastpath: map entries"
FORWARDING = "ovs-flows: table forwarding"


@pytest.mark.parametrize(
    ("plant", "owner", "node", "verdict"),
    [
        pytest.param(
            no_entry, ENTRIES, "n1", "reachable, over ovs, because no-entry on n1", id="entry"
        ),
        pytest.param(
            no_entry_to_deliver,
            ENTRIES,
            "n2",
            "reachable, over ovs, because no-entry on n2",
            id="entry at the other end",
        ),
        pytest.param(
            no_address,
            "fastpath: map ports",
            "n1",
            "reachable, over ovs, because guard on n1",
            id="guard in eBPF",
        ),
        pytest.param(
            no_port,
            "fastpath: map ports",
            "n1",
            "reachable, over ovs, because pending on n1",
            id="port",
        ),
        pytest.param(no_member, "fastpath: map members", "n2", "not reachable: ", id="member"),
        pytest.param(no_filter, "fastpath: filter of eth0", "n2", "not reachable: ", id="filter"),
        pytest.param(other_flow, FORWARDING, "n1", BOTH, id="other flow"),
        pytest.param(no_flow, FORWARDING, "n1", BOTH, id="no flow"),
        pytest.param(no_guard_flow, "ovs-flows: table guard_source", "n1", BOTH, id="guard in OVS"),
        pytest.param(neither, ENTRIES, "n1", "not reachable: ", id="neither entry nor flow"),
    ],
)
def test_a_fault_has_its_owner(
    world: World, plant: Plant, owner: str, node: str, verdict: str
) -> None:
    found = Traced(-1, {})
    for _ in range(_TRIES):
        with planted(world, plant):
            found = world.trace(*world.ends())
        if found.status:
            break
    print(found.verdict)
    assert found.blamed == (owner, node)
    assert found.verdict.startswith(verdict)
    assert found.verdict.endswith(f"{owner} of {node} differs")
    assert found.status == 1


def test_it_stops_at_the_first_difference(world: World) -> None:
    with planted(world, no_entry_to_deliver):
        shown = world.overweave.run("trace", *world.ends())
    *_, last, difference, following = shown.stdout.splitlines()
    assert last.split()[2:4] == ["n2", "wire"]
    assert difference.startswith(f"difference: {ENTRIES} of n2: hand over (no-entry), not deliver")
    assert following == "next: overweave status"


def test_an_agent_that_is_dead_is_not_made_up(world: World) -> None:
    nodes.kill_agent(world.scene.paths.node("n2"))
    found = world.trace(*world.ends())
    assert (found.status, found.verdict) == (
        3,
        "not known: nothing heard of n2; the rest: fastpath",
    )
    missing = [(hop["node"], hop["missing"]) for hop in found.record["hops"]]
    assert [node for node, why in missing if "no agent answers on" in why] == ["n2", "n2"]
    lab.start_agents(world.scene.paths, world.scene.topology.agents)


def test_one_agent_alone_tells_its_half(world: World) -> None:
    ends = world.ends()
    only = str(world.scene.paths.node("n1").api_socket)
    shown = world.overweave.run("trace", *ends, "--agent", only)
    assert shown.returncode == 3
    assert shown.stdout.splitlines()[0] == "not known: nothing heard of n2; the rest: fastpath"
    assert shown.stdout.count("not asked: run overweave trace ") == 2
    assert "next: on n2: overweave trace " in shown.stdout


def test_a_blocked_port_and_its_successor(world: World) -> None:
    runtime, ips = world.scene.runtime, BLUE.static_ips(77)
    mac = "02:00:00:00:77:01"
    runtime.add(Pod("trace-old", "n1", "blue", mac, ips, "trace-db"))
    runtime.add(Pod("trace-new", "n3", "blue", mac, ips, "trace-db"))
    try:
        peer = str(world.pod(BLUE, 1).mac)
        old = "trace-db/eth0@n1"
        eventually(lambda: "superseded" in world.trace(old, peer).verdict)
        found = world.trace(old, peer)
        assert (found.status, found.blamed) == (1, ("", ""))
        assert found.verdict == (
            f"not reachable: {old} to blue2/eth0@n2 ends at n1: drop (superseded)"
        )
        assert world.trace("trace-db/eth0@n3", peer).verdict == BOTH
        both = world.overweave.run("trace", "trace-db/eth0", peer)
        assert both.returncode == 2
        assert all(f"trace-db/eth0@{node}" in both.stderr for node in ("n1", "n3"))
    finally:
        runtime.delete("trace-old")
        runtime.delete("trace-new")


def test_a_static_node_has_its_own_half(world: World) -> None:
    guest = guest_of(BLUE, "k1", 1450)
    lab.apply(
        world.scene.paths,
        static_node("k1", world.scene.topology.node("k1"), {BLUE: guest}),
    )
    try:
        one = str(world.pod(BLUE, 0).mac)
        eventually(lambda: world.trace(one, guest.mac).verdict == "reachable, fastpath")
        found = world.trace(one, guest.mac)
        assert found.status == 0
        missing = {hop["node"]: hop["missing"] for hop in found.record["hops"]}
        assert missing == {"n1": "", "k1": "static: no agent runs there"}
    finally:
        lab.overweave(world.scene.paths, "delete", "node", "k1")


@pytest.mark.parametrize(
    ("source", "target", "status", "said"),
    [
        pytest.param(
            "blue1/eth0", "lime1/eth0", 1, "no Vrf has both segments, blue and lime", id="apart"
        ),
        pytest.param("blue1/eth0", "10.1.99.99", 2, "no endpoint has identity", id="nobody"),
        pytest.param("blue1/eth0", "blue1/eth0@n1", 2, "give two endpoints", id="the same"),
    ],
)
def test_what_cannot_be_is_said(
    world: World, source: str, target: str, status: int, said: str
) -> None:
    shown = world.overweave.run("trace", source, target)
    assert shown.returncode == status
    assert said in shown.stdout + shown.stderr
