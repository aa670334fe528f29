"""Each PacketPath on the real thing says what was rendered, and each fault has its owner.

The programs run in the kernel on maps and filters of a namespace; the flows in an Open vSwitch.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from bpf.bpffs import Pins
from bpf.entries import EntryItem
from bpf.layout import OwnFlag as Own
from bpf.layout import (
    RemoteEntry,
    TunnelSocket,
    encode_entry,
    encode_entry_key,
    encode_ifindex,
    encode_member,
    encode_own,
    encode_port,
    encode_socket,
)
from bpf.packet_path import FastPacketPath
from bpf.syscalls import open_program, pin
from dataplane.core.agreement import Disagreement, Field, Observed, Question, disagreement
from dataplane.core.corpus import Choice, Draw, corpus
from dataplane.core.desired import Desired, PortState
from dataplane.core.frames import parse_tunnel
from dataplane.core.model import Encap, Guard, Segment
from dataplane.core.path import Action, End, Hop, Live, Outcome, arrives, compare, hops, why_ovs
from dataplane.core.reasons import Reason
from dataplane.netlink.rtnl import Rtnl
from dataplane.netlink.tc import Slot, delete_bpf, replace_bpf
from overlay_ovs.packet_path import OvsPacketPath
from ovs_client.unixctl import Unixctl
from tests.functional.node_paths import Flows, Machine, running_machine
from tests.functional.overlay_switch import drain, running_switch
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    NIC,
    OWN4,
    OWN6,
    UNGUARDED,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    desired,
    ips_of,
    link_local_of,
    mac_of,
    port,
    remote,
    view,
)

SEGMENTS = (GENEVE4, GENEVE6, VXLAN4, VXLAN6)
NETDEVS = (NIC.name, "ophy0", "vp1", "ot1", "vp2", "ot2", "vp3", "ot3")
HERE, THERE = desired().node.name, "there"
FAULTY = GENEVE4
AWAY_SAID = "geneve 100 192.0.2.1 > 192.0.2.3 port 6081"
WAY = RemoteEntry(0, Encap.GENEVE, 6081, OWN4, VTEP4[1])


def world(segment: Segment) -> Desired:
    """Two ports that may send, one that is blocked, and an endpoint of another node."""
    blocked = replace(port(3, segment, state=PortState.BLOCKED), reason=Reason.SUPERSEDED)
    vtep = (VTEP4 if segment.underlay == "ipv4" else VTEP6)[0]
    ports = [port(1, segment), port(2, segment), blocked]
    return desired(view(segment, ports, [remote(4, segment, vtep)]))


def with_trunk(segment: Segment) -> Desired:
    """The same, but the first port is a VLAN of a trunk."""
    state = world(segment)
    (seen,) = state.segments.values()
    first = replace(seen.ports[0].attachment, netdev="vp1", vlan=5)
    ports = (replace(seen.ports[0], attachment=first), *seen.ports[1:])
    return replace(state, segments={segment.name: replace(seen, ports=ports)})


def ends(segment: Segment, kind: str) -> dict[int, End]:
    """Return workloads 1 to 4 with an address each: IPv4, IPv6 or link-local."""
    own, vtep = (OWN4, VTEP4[0]) if segment.underlay == "ipv4" else (OWN6, VTEP6[0])
    ips = {
        "ipv4": lambda n: ips_of(n)[0],
        "ipv6": lambda n: ips_of(n)[1],
        "link-local": link_local_of,
    }[kind]
    return {
        n: End(
            f"pod{n}",
            *((THERE, mac_of(n), ips(n), vtep) if n == 4 else (HERE, mac_of(n), ips(n), own)),
        )
        for n in range(1, 5)
    }


def way(segment: Segment, source: int, target: int, kind: str = "ipv4") -> Hop:
    return way_in(world(segment), segment, source, target, kind)


def way_in(state: Desired, segment: Segment, source: int, target: int, kind: str = "ipv4") -> Hop:
    each = ends(segment, kind)
    return next(hops(state, segment.name, (each[source], each[target])))


WAYS = [
    pytest.param(1, 4, id="to another node"),
    pytest.param(1, 2, id="next door"),
    pytest.param(4, 1, id="from another node"),
    pytest.param(3, 4, id="from a blocked port"),
    pytest.param(4, 3, id="to a blocked port"),
]
KINDS = ("ipv4", "ipv6", "link-local")
TRUNK_WAYS = [(1, 4), (4, 1), (1, 2), (2, 1)]
each_way = pytest.mark.parametrize(("source", "target"), WAYS)
each_kind = pytest.mark.parametrize("kind", KINDS)
each_segment = pytest.mark.parametrize("segment", [*SEGMENTS, UNGUARDED], ids=lambda s: s.name)


# --- eBPF --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    with running_machine(tmp_path_factory.mktemp("paths"), NETDEVS) as made:
        yield made


def frames(segment: Segment) -> list[Question]:
    state, draw = world(segment), Draw(30, "paths", secrets.token_bytes(16))
    return list(corpus(state, NIC, draw, Choice()).questions)


def observed_of_fast(machine: Machine, questions: list[Question]) -> list[Observed]:
    path = FastPacketPath(machine.pins)
    return machine.space.netns.run(lambda: path.observed(questions))


def observed_of_ovs(flows: Flows, questions: list[Question]) -> list[Observed]:
    return OvsPacketPath(Unixctl(flows.switch.rundir)).observed(questions)


def differing(
    questions: list[Question], seen: list[Observed], truths: list[Observed]
) -> list[tuple[str, Disagreement]]:
    every = zip(questions, seen, truths, strict=True)
    found = ((each[0].name, disagreement(*each)) for each in every)
    return [(name, difference) for name, difference in found if difference is not None]


@each_segment
def test_both_paths_do_the_same_with_all_kinds_of_frames(
    machine: Machine, flows: Flows, segment: Segment
) -> None:
    machine.hold(world(segment))
    flows.hold(world(segment))
    questions = frames(segment)
    seen, truths = observed_of_fast(machine, questions), observed_of_ovs(flows, questions)
    assert differing(questions, seen, truths) == []
    assert all(each.values for each in seen)
    unknown = [q for q, each in zip(questions, truths, strict=True) if not each.values]
    assert unknown == [q for q in questions if parse_tunnel(q.frame) is None and not q.sound]
    done = Counter(each.action for each in seen)
    assert min(done[each] for each in (Action.TUNNEL, Action.DELIVER, Action.HAND_OVER)) > 20


@pytest.mark.parametrize(
    ("plant", "field"),
    [
        pytest.param(lambda m: send_away(m, 4), Field.TARGET, id="another VTEP"),
        pytest.param(lambda m: send_away(m, 2), Field.VERDICT, id="sent out, not next door"),
        pytest.param(
            lambda m: set_port(m, encode_port(FAULTY.vni, 1400, mac_of(1), Guard.OFF)),
            Field.VERDICT,
            id="no guard",
        ),
    ],
)
def test_frames_find_what_ebpf_does_wrong(
    machine: Machine, flows: Flows, plant: Callable[[Machine], None], field: Field
) -> None:
    machine.hold(world(FAULTY))
    flows.hold(world(FAULTY))
    plant(machine)
    questions = frames(FAULTY)
    seen, truths = observed_of_fast(machine, questions), observed_of_ovs(flows, questions)
    machine.hold(world(FAULTY))
    found = differing(questions, seen, truths)
    assert field in {difference.field for _, difference in found}
    assert all(each.rule and each.truths_rule for _, each in found)


def test_frames_that_open_vswitch_is_asked_about_go_nowhere(flows: Flows) -> None:
    """Given a tunnel packet, ofproto/trace on ow-phy would really take it in."""
    flows.hold(world(GENEVE4))
    questions = frames(GENEVE4)
    marks = [question.mark for question in questions]
    for each in flows.switch.sockets.values():
        drain(each)
    assert any(each.action is Action.DELIVER for each in observed_of_ovs(flows, questions))
    flows.switch.settle()
    seen = [frame for each in flows.switch.sockets.values() for frame in drain(each)]
    assert not [frame for frame in seen if any(mark in frame for mark in marks)]


@each_segment
@each_kind
@each_way
def test_what_ebpf_says_is_what_was_rendered(
    machine: Machine, segment: Segment, kind: str, source: int, target: int
) -> None:
    machine.hold(world(segment))
    hop = way(segment, source, target, kind)
    found = machine.ask(hop)
    is_blocked = 3 in (source, target)
    assert compare(hop.predicted, Live(found, hop.predicted)) is None
    assert (found.action is Action.HAND_OVER) == is_blocked
    if not is_blocked:
        assert hop.predicted.does_as(found)


def drop_filter(machine: Machine, netdev: str) -> None:
    with_rtnl(machine, lambda rtnl: delete_bpf(rtnl, Slot(machine.space.ifindex(netdev))))


def swap_program(machine: Machine, netdev: str, name: str) -> None:
    """Attach a program of ours to where another one belongs."""
    slot = Slot(machine.space.ifindex(netdev))
    with open_program(machine.pins.program(name)) as program:
        with_rtnl(machine, lambda rtnl: replace_bpf(rtnl, slot, program.fd, f"overweave:{name}"))


def with_rtnl(machine: Machine, function: Callable[[Rtnl], None]) -> None:
    def run() -> None:
        with Rtnl() as rtnl:
            function(rtnl)

    machine.space.netns.run(run)


def entry(number: int) -> bytes:
    return encode_entry_key(FAULTY.vni, mac_of(number))


def vp1(machine: Machine) -> int:
    return machine.space.ifindex("vp1")


def send_away(machine: Machine, number: int) -> None:
    """Have an entry lead to the wrong VTEP."""
    wrong = replace(WAY, ifindex=machine.space.ifindex(NIC.name))
    machine.put(EntryItem("entries", entry(number), encode_entry(wrong)))


def set_port(machine: Machine, value: bytes) -> None:
    machine.put(EntryItem("ports", encode_ifindex(vp1(machine)), value))


MEMBER = encode_member(FAULTY.vni, FAULTY.encap, VTEP4[0])
SOCKET = encode_socket(TunnelSocket(OWN4, 6081))
NO_ADDRESSES = encode_port(FAULTY.vni, 1400, mac_of(1), FAULTY.guard)
OTHER_SEGMENT = encode_port(VXLAN4.vni, 1400, mac_of(1), FAULTY.guard, ips_of(1))
OTHER_MAC = encode_port(FAULTY.vni, 1400, mac_of(9), FAULTY.guard)


@pytest.mark.parametrize(
    ("source", "target", "plant", "blamed"),
    [
        pytest.param(
            1,
            4,
            lambda m: m.take("entries", entry(4)),
            ("map entries", "hand over (no-entry)"),
            id="no entry",
        ),
        pytest.param(
            1, 4, lambda m: send_away(m, 4), ("map entries", AWAY_SAID), id="entry to another VTEP"
        ),
        pytest.param(
            1,
            4,
            lambda m: set_port(m, NO_ADDRESSES),
            ("map ports", "hand over (guard)"),
            id="address not known",
        ),
        pytest.param(
            1,
            4,
            lambda m: m.take("ports", encode_ifindex(vp1(m))),
            ("map ports", "hand over (pending)"),
            id="port not known",
        ),
        pytest.param(
            1,
            4,
            lambda m: set_port(m, OTHER_MAC),
            ("map ports", "hand over (guard)"),
            id="port with another MAC",
        ),
        pytest.param(
            1,
            4,
            lambda m: set_port(m, OTHER_SEGMENT),
            ("map ports", "hand over (no-entry)"),
            id="port on another segment",
        ),
        pytest.param(
            1,
            4,
            lambda m: (m.take("entries", entry(4)), m.take("glue", encode_ifindex(vp1(m)))),
            ("map glue", "drop (no-entry)"),
            id="no entry, no glue",
        ),
        pytest.param(
            1,
            4,
            lambda m: drop_filter(m, "vp1"),
            ("filter of vp1", "host (vp1 has not our filter)"),
            id="no filter",
        ),
        pytest.param(
            1,
            4,
            lambda m: swap_program(m, "vp1", "ovs_port"),
            ("filter of vp1", "host (vp1 has not our filter)"),
            id="another program",
        ),
        pytest.param(
            1,
            2,
            lambda m: m.take("entries", entry(2)),
            ("map entries", "hand over (no-entry)"),
            id="no entry next door",
        ),
        pytest.param(
            1, 2, lambda m: send_away(m, 2), ("map entries", AWAY_SAID), id="next door sent away"
        ),
        pytest.param(
            4,
            1,
            lambda m: m.take("entries", entry(1)),
            ("map entries", "hand over (no-entry)"),
            id="no entry for what comes",
        ),
        pytest.param(
            4,
            1,
            lambda m: m.take("members", MEMBER),
            ("map members", "host (unknown-vtep)"),
            id="no member",
        ),
        pytest.param(
            4,
            1,
            lambda m: m.take("own", SOCKET),
            ("map own", "host (unknown-vtep)"),
            id="not our socket",
        ),
        pytest.param(
            4,
            1,
            lambda m: m.put(EntryItem("own", SOCKET, encode_own(FAULTY.encap, Own.NONE))),
            ("map own", "hand over (policy-off)"),
            id="socket switched off",
        ),
        pytest.param(
            4,
            1,
            lambda m: drop_filter(m, NIC.name),
            (f"filter of {NIC.name}", f"host ({NIC.name} has not our filter)"),
            id="no filter on the NIC",
        ),
    ],
)
def test_a_fault_in_ebpf_has_its_owner(
    machine: Machine,
    source: int,
    target: int,
    plant: Callable[[Machine], None],
    blamed: tuple[str, str],
) -> None:
    machine.hold(world(FAULTY))
    hop = way(FAULTY, source, target)
    plant(machine)
    found = machine.ask(hop)
    difference = compare(hop.predicted, Live(found, hop.predicted))
    assert difference is not None
    assert (difference.owner, str(found)) == (f"fastpath: {blamed[0]}", blamed[1])
    machine.hold(world(FAULTY))
    assert compare(hop.predicted, Live(machine.ask(hop), hop.predicted)) is None


def test_a_program_that_does_otherwise_than_its_maps_say_is_to_blame(machine: Machine) -> None:
    """It hands over everything, and is in its right place under its right name."""
    machine.hold(world(FAULTY))
    programs = machine.pins.programs.parent / "of_another_make"
    programs.mkdir()
    with open_program(machine.pins.program("ovs_port")) as other:
        pin(other.fd, programs / "underlay")
    swap_program(machine, NIC.name, "ovs_port")
    probe = way(FAULTY, 4, 1).probe
    assert probe is not None
    path = FastPacketPath(Pins(programs, machine.pins.maps))
    found = machine.space.netns.run(lambda: path.outcome(probe))
    assert (found.action, found.owner) == (Action.HAND_OVER, "fastpath: program underlay")


def test_exclusive_ports_drop_strangers(machine: Machine) -> None:
    state = world(FAULTY)
    machine.hold(replace(state, node=replace(state.node, exclusive_ports=True)))
    machine.take("members", MEMBER)
    found = machine.ask(way(FAULTY, 4, 1))
    assert (found.action, found.owner) == (Action.DROP, "fastpath: map members")


def test_a_netdev_that_is_gone_is_said(machine: Machine) -> None:
    machine.hold(world(FAULTY))
    hop = way(FAULTY, 1, 4)
    assert hop.probe is not None
    gone = replace(hop.probe, entry=replace(hop.probe.entry, access_port="vp77"))  # type: ignore[arg-type]  # a FromPod
    found = machine.ask(replace(hop, probe=gone))
    assert (found.action, found.owner) == (Action.UNKNOWN, "links")


# --- Open vSwitch ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Flows]:
    with running_switch(tmp_path_factory.mktemp("paths"), (1, 2, 3)) as switch:
        yield Flows(switch)


@each_segment
@each_kind
@each_way
def test_what_ovs_says_is_what_was_rendered(
    flows: Flows, segment: Segment, kind: str, source: int, target: int
) -> None:
    flows.hold(world(segment))
    hop = way(segment, source, target, kind)
    found = flows.ask(hop)
    assert compare(hop.predicted, Live(Outcome(Action.NONE), found)) is None
    is_blocked = 3 in (source, target)
    assert arrives(hop.predicted, Live(Outcome(Action.NONE), found)) is (
        not is_blocked or hop.predicted.action is Action.FLOOD
    )
    assert found.passed[0] == "classify"


@pytest.mark.parametrize(("source", "target"), TRUNK_WAYS)
def test_packets_of_a_trunk_port_go_by_ovs_alone(
    machine: Machine, flows: Flows, source: int, target: int
) -> None:
    state = with_trunk(GENEVE4)
    machine.hold(state)
    flows.hold(state)
    hop = way_in(state, GENEVE4, source, target)
    live = Live(machine.ask(hop), flows.ask(hop))
    assert live.fast.action is Action.HAND_OVER
    assert (compare(hop.predicted, live), arrives(hop.predicted, live)) == (None, True)
    assert why_ovs(hop.predicted, live) is Reason.UNSUPPORTED_MATCH


def test_a_tag_that_is_lost_is_found(flows: Flows) -> None:
    """A trace sends what the pod sends, with its tag."""
    state = with_trunk(GENEVE4)
    flows.hold(state)
    hop = way_in(state, GENEVE4, 1, 4)
    flows.change("ow-int", 0, "dl_vlan=5", None)
    difference = compare(hop.predicted, Live(Outcome(Action.NONE), flows.ask(hop)))
    assert difference is not None
    assert (difference.owner, difference.what[:4]) == ("ovs-flows: table classify", "drop")


def test_frames_of_a_trunk_port_are_not_asked_about() -> None:
    state = with_trunk(GENEVE4)
    asked = corpus(state, NIC, Draw(50, "seed", b""), Choice()).questions
    assert asked
    first = mac_of(1)
    assert not [each.name for each in asked if first in each.name]


TO_4, TO_1, TO_2 = (f"dl_dst={mac_of(n)}" for n in (4, 1, 2))
AWAY = "set_field:0x64->tun_id,set_field:{}->tun_dst,set_field:0x1->reg2,goto_table:60"


@pytest.mark.parametrize(
    ("source", "target", "plant", "blamed"),
    [
        pytest.param(1, 4, ("ow-int", 30, TO_4, None), ("forwarding", "drop"), id="no flow"),
        pytest.param(
            1,
            4,
            ("ow-int", 30, TO_4, AWAY.format(VTEP4[1])),
            ("forwarding", AWAY_SAID),
            id="flow to another VTEP",
        ),
        pytest.param(
            1,
            4,
            ("ow-int", 30, TO_4, AWAY.format("198.51.100.1")),
            ("forwarding", "drop (to 198.51.100.1: native tunnel routing failed)"),
            id="flow to nowhere",
        ),
        pytest.param(
            1,
            4,
            ("ow-int", 30, TO_4, AWAY.format(VTEP4[0]).replace("0x64", "0x65")),
            ("forwarding", "geneve 101 192.0.2.1 > 192.0.2.2 port 6081"),
            id="flow to another segment",
        ),
        pytest.param(
            1,
            4,
            ("ow-int", 15, f"nw_src={ips_of(1)[0]}", None),
            ("guard_source", "drop"),
            id="address not granted",
        ),
        pytest.param(
            1, 4, ("ow-int", 0, "in_port=101", None), ("classify", "drop"), id="port not known"
        ),
        pytest.param(
            1, 4, ("ow-phy", 0, "in_port=LOCAL", None), ("wire", "drop"), id="no way to the NIC"
        ),
        pytest.param(
            1,
            2,
            ("ow-int", 30, TO_2, "set_field:0x65->reg2,goto_table:60"),
            ("output", "drop"),
            id="next door is the sender",
        ),
        pytest.param(
            1,
            2,
            ("ow-int", 30, TO_2, "set_field:0x67->reg2,goto_table:60"),
            ("forwarding", "deliver to vp3"),
            id="next door is another",
        ),
        pytest.param(
            4, 1, ("ow-int", 0, "tun_src=192.0.2.2", None), ("classify", "drop"), id="no member"
        ),
        pytest.param(
            4, 1, ("ow-int", 30, TO_1, None), ("forwarding", "drop"), id="no flow for what comes"
        ),
        pytest.param(
            3,
            4,
            ("ow-int", 0, "in_port=103", AWAY.format(VTEP4[0])),
            ("classify", "geneve 100 192.0.2.1 > 192.0.2.2 port 6081"),
            id="blocked port let in",
        ),
    ],
)
def test_a_fault_in_the_flows_has_its_owner(
    flows: Flows,
    source: int,
    target: int,
    plant: tuple[str, int, str, str | None],
    blamed: tuple[str, str],
) -> None:
    flows.hold(world(FAULTY))
    hop = way(FAULTY, source, target)
    flows.change(*plant)
    found = flows.ask(hop)
    difference = compare(hop.predicted, Live(Outcome(Action.NONE), found))
    assert difference is not None
    assert (difference.owner, str(found)) == (f"ovs-flows: table {blamed[0]}", blamed[1])
    flows.hold(world(FAULTY))
    assert compare(hop.predicted, Live(Outcome(Action.NONE), flows.ask(hop))) is None


@pytest.mark.parametrize(
    ("words", "said"),
    [
        pytest.param(("ovs/route/del", "192.0.2.2/32"), "native tunnel routing failed", id="route"),
        pytest.param(("tnl/neigh/flush",), "neighbor cache miss", id="neighbour"),
    ],
)
def test_a_tunnel_without_way_is_of_ovs_tunnels(
    flows: Flows, words: tuple[str, ...], said: str
) -> None:
    flows.hold(world(FAULTY))
    flows.switch.control(*words)
    found = flows.ask(way(FAULTY, 1, 4))
    assert (found.action, found.owner) == (Action.DROP, "ovs-tunnels")
    assert said in found.detail


def test_a_port_that_is_gone_is_of_ovs_ports(flows: Flows) -> None:
    flows.hold(world(FAULTY))
    hop = way(FAULTY, 1, 4)
    assert hop.probe is not None
    gone = replace(hop.probe, entry=replace(hop.probe.entry, ovs_port="ot77"))  # type: ignore[arg-type]  # a FromPod
    found = flows.ask(replace(hop, probe=gone))
    assert (found.action, found.owner) == (Action.UNKNOWN, "ovs-ports")
