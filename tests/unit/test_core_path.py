"""What becomes of a packet as the desired state has it, and who does otherwise."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest

from dataplane.core.desired import Desired, Port, PortState, SegmentView
from dataplane.core.functions import Role
from dataplane.core.model import Encap, IpAddress, Segment, UnknownUnicast
from dataplane.core.path import (
    Action,
    End,
    FromPod,
    Hop,
    Live,
    Outcome,
    Tunnel,
    arrives,
    compare,
    hops,
    why_ovs,
)
from dataplane.core.reasons import Reason
from tests.unit.overlay_builders import (
    GENEVE4,
    OWN4,
    OWN6,
    ROUTED_A,
    ROUTED_B,
    VTEP4,
    VTEP6,
    VXLAN6,
    desired,
    gateway_mac,
    gateway_of,
    ips_of,
    mac_of,
    port,
    remote,
    routed_ips,
    routed_remote,
    view,
)

HERE, THERE = desired().node.name, "there"
NIC = desired().node.underlay_interface
FLOODING = replace(GENEVE4, unknown_unicast=UnknownUnicast.FLOOD)
PORT1, PORT2 = (port(n, GENEVE4).attachment.access_port for n in (1, 2))
SENT = Outcome(Action.TUNNEL, Tunnel(Encap.GENEVE, GENEVE4.vni, OWN4, VTEP4[0], 6081), NIC)
SENT6 = Outcome(Action.TUNNEL, Tunnel(Encap.VXLAN, VXLAN6.vni, OWN6, VTEP6[0], 4789), NIC)


def end(number: int, node: str, vtep: IpAddress | None = None) -> End:
    return End(f"pod{number}", node, mac_of(number), ips_of(number)[0], vtep)


LOCAL1, LOCAL2 = end(1, HERE, OWN4), end(2, HERE, OWN4)
FAR = end(3, THERE, VTEP4[0])


def world(segment: Segment = GENEVE4, state: PortState = PortState.ACTIVE) -> Desired:
    vtep = (VTEP4 if segment.underlay == "ipv4" else VTEP6)[0]
    reason = Reason.SUPERSEDED if state is PortState.BLOCKED else None
    ports = [replace(port(1, segment, ips_of(1), state), reason=reason), port(2, segment)]
    return desired(view(segment, ports, [remote(3, segment, vtep)]))


def slow(state: Desired) -> Desired:
    return replace(state, node=replace(state.node, fastpath=False))


def first(state: Desired, segment: Segment, source: End, target: End) -> Hop:
    return next(hops(state, segment.name, (source, target)))


ROUTED_HERE = replace(
    view(ROUTED_A, [port(21, ROUTED_A, routed_ips(2, 21))], [remote(25, ROUTED_A, VTEP4[0])]),
    gateway=gateway_of(ROUTED_A, 2),
    routers=VTEP4[1:],
)
ROUTED_THERE = replace(
    view(
        ROUTED_B,
        [port(23, ROUTED_B, routed_ips(3, 23))],
        [routed_remote(26, ROUTED_B, VTEP6[0], 3)],
    ),
    gateway=gateway_of(ROUTED_B, 3),
)
INPUT, OUTPUT = (
    replace(port(n, ROUTED_A), role=role, detail="of function", reason=Reason.NETWORK_FUNCTION)
    for n, role in ((30, Role.INPUT), (31, Role.OUTPUT))
)
CUT_OFF = replace(ROUTED_HERE, ports=(replace(ROUTED_HERE.ports[0], role=Role.STEERED),))
STEERED_HERE = replace(CUT_OFF, ports=(*CUT_OFF.ports, INPUT, OUTPUT))
OTHER_VRF = replace(ROUTED_THERE, gateway=gateway_of(ROUTED_B, 3, "stock"))
INTO_B = Tunnel(Encap.VXLAN, ROUTED_B.vni, OWN6, VTEP6[0], 4789)
PORT21, PORT23 = (port(n, ROUTED_A).attachment.access_port for n in (21, 23))


def steered(into: Port) -> Outcome:
    access_port = into.attachment.access_port
    return Outcome(Action.DELIVER, None, access_port, Reason.NETWORK_FUNCTION, detail=into.detail)


def routed_end(number: int, net: int, node: str = HERE, there: IpAddress | None = None) -> End:
    segment = {2: ROUTED_A, 3: ROUTED_B}[net]
    ip = routed_ips(net, number)[0]
    return End(f"pod{number}", node, mac_of(number), ip, None, segment.name, there)


@pytest.mark.parametrize(
    ("views", "source", "target", "expected"),
    [
        pytest.param(
            (ROUTED_HERE, ROUTED_THERE),
            routed_end(21, 2),
            routed_end(23, 3),
            Outcome(Action.DELIVER, port=PORT23, reason=Reason.ROUTED),
            id="next door",
        ),
        pytest.param(
            (ROUTED_HERE, ROUTED_THERE),
            routed_end(21, 2),
            routed_end(26, 3, THERE),
            Outcome(Action.TUNNEL, INTO_B, NIC, Reason.ROUTED),
            id="to another node",
        ),
        pytest.param(
            (STEERED_HERE, ROUTED_THERE),
            routed_end(21, 2),
            routed_end(23, 3),
            steered(INPUT),
            id="through a network function to the gateway",
        ),
        pytest.param(
            (ROUTED_THERE, STEERED_HERE),
            routed_end(23, 3),
            routed_end(21, 2),
            steered(OUTPUT),
            id="routed into a network function",
        ),
        pytest.param(
            (STEERED_HERE,),
            routed_end(27, 3, THERE, VTEP4[1]),
            routed_end(21, 2),
            steered(OUTPUT),
            id="from a router of the Vrf into a network function",
        ),
        pytest.param(
            (CUT_OFF, ROUTED_THERE),
            routed_end(21, 2),
            routed_end(23, 3),
            Outcome(Action.DROP, reason=Reason.NETWORK_FUNCTION),
            id="its network function is gone",
        ),
        pytest.param(
            (CUT_OFF, ROUTED_THERE),
            routed_end(23, 3),
            routed_end(21, 2),
            Outcome(Action.DROP, reason=Reason.NETWORK_FUNCTION),
            id="its network function is gone, back",
        ),
        pytest.param(
            (ROUTED_HERE,),
            routed_end(27, 3, THERE, VTEP4[1]),
            routed_end(21, 2),
            Outcome(Action.DELIVER, port=PORT21),
            id="from a router of the Vrf",
        ),
        pytest.param(
            (replace(ROUTED_HERE, routers=()),),
            routed_end(27, 3, THERE, VTEP4[1]),
            routed_end(21, 2),
            Outcome(
                Action.DROP,
                reason=Reason.UNKNOWN_VTEP,
                detail=f"nobody of {ROUTED_A.name} is behind {VTEP4[1]}",
            ),
            id="from a stranger",
        ),
        pytest.param(
            (ROUTED_HERE, OTHER_VRF),
            routed_end(21, 2),
            routed_end(23, 3),
            Outcome(
                Action.DROP,
                reason=Reason.NO_ENTRY,
                detail=f"segment {ROUTED_B.name} is not in vrf shop",
            ),
            id="to another Vrf",
        ),
        pytest.param(
            (replace(ROUTED_HERE, gateway=None), ROUTED_THERE),
            routed_end(21, 2),
            routed_end(23, 3),
            Outcome(
                Action.DROP,
                reason=Reason.NO_ENTRY,
                detail=f"segment {ROUTED_A.name} has no gateway",
            ),
            id="without gateway",
        ),
        pytest.param(
            (ROUTED_HERE, ROUTED_THERE),
            routed_end(21, 2),
            replace(routed_end(23, 3), ip=ips_of(1)[0]),
            Outcome(
                Action.DROP,
                reason=Reason.NO_ENTRY,
                detail=f"{ips_of(1)[0]} is in no subnet of svi svi-{ROUTED_B.name}",
            ),
            id="outside the gateway's subnets",
        ),
    ],
)
def test_a_hop_between_segments(
    views: tuple[SegmentView, ...], source: End, target: End, expected: Outcome
) -> None:
    hop = next(hops(desired(*views), source.segment, (source, target)))
    assert (hop.source, hop.target, hop.predicted) == (source, target, expected)
    if hop.probe is not None:
        sent = source.node == HERE
        own, other = hop.probe.source.mac, hop.probe.target.mac
        gateway = gateway_mac(2 if source.segment == ROUTED_A.name or not sent else 3)
        assert (own, other) == ((source.mac, gateway) if sent else (gateway, target.mac))


BLOCKED = world(state=PortState.BLOCKED)
LOST = Reason.SUPERSEDED


@pytest.mark.parametrize(
    ("state", "segment", "source", "target", "expected"),
    [
        pytest.param(world(), GENEVE4, LOCAL1, FAR, SENT, id="to another node"),
        pytest.param(
            world(VXLAN6), VXLAN6, LOCAL1, end(3, THERE, VTEP6[0]), SENT6, id="over vxlan and ipv6"
        ),
        pytest.param(
            world(), GENEVE4, LOCAL1, LOCAL2, Outcome(Action.DELIVER, port=PORT2), id="next door"
        ),
        pytest.param(
            world(), GENEVE4, FAR, LOCAL1, Outcome(Action.DELIVER, port=PORT1), id="from the wire"
        ),
        pytest.param(
            slow(world()),
            GENEVE4,
            LOCAL1,
            FAR,
            replace(SENT, reason=Reason.POLICY_OFF),
            id="fast path switched off",
        ),
        pytest.param(
            BLOCKED, GENEVE4, LOCAL1, FAR, Outcome(Action.DROP, reason=LOST), id="blocked sender"
        ),
        pytest.param(
            BLOCKED, GENEVE4, FAR, LOCAL1, Outcome(Action.DROP, reason=LOST), id="blocked receiver"
        ),
        pytest.param(
            BLOCKED, GENEVE4, LOCAL2, LOCAL1, Outcome(Action.DROP, reason=LOST), id="blocked door"
        ),
        pytest.param(
            world(),
            GENEVE4,
            LOCAL1,
            end(9, THERE),
            Outcome(Action.DROP, reason=Reason.NO_ENTRY),
            id="unknown MAC",
        ),
        pytest.param(
            world(FLOODING),
            FLOODING,
            LOCAL1,
            end(9, THERE),
            Outcome(Action.FLOOD, reason=Reason.NO_ENTRY),
            id="unknown MAC, flooded",
        ),
    ],
)
def test_what_is_predicted(
    state: Desired, segment: Segment, source: End, target: End, expected: Outcome
) -> None:
    assert first(state, segment, source, target).predicted == expected


@pytest.mark.parametrize(
    ("state", "source", "reason"),
    [
        pytest.param(world(), end(9, HERE), Reason.NO_ENTRY, id="no such port"),
        pytest.param(desired(), LOCAL1, Reason.UNKNOWN_SEGMENT, id="no such segment"),
        pytest.param(world(), end(3, THERE), Reason.NO_VTEP, id="a peer without VTEP"),
        pytest.param(replace(world(), vteps=()), FAR, Reason.NO_VTEP, id="a node without VTEP"),
    ],
)
def test_where_a_packet_cannot_begin(state: Desired, source: End, reason: Reason) -> None:
    hop = first(state, GENEVE4, source, LOCAL2)
    assert (hop.probe, hop.predicted.action, hop.predicted.reason) == (None, Action.DROP, reason)


def test_a_stranger_from_the_wire_is_nobodys() -> None:
    hop = first(world(), GENEVE4, end(3, THERE, ip_address("192.0.2.99")), LOCAL1)
    assert hop.probe is not None
    assert hop.predicted.reason is Reason.UNKNOWN_VTEP


@pytest.mark.parametrize(
    ("ends", "entries"),
    [
        pytest.param((LOCAL1, LOCAL2), [FromPod, FromPod], id="both here"),
        pytest.param((LOCAL1, FAR), [FromPod, Tunnel], id="one here"),
        pytest.param((FAR, LOCAL1), [Tunnel, FromPod], id="the other one here"),
        pytest.param((FAR, end(4, "elsewhere")), [], id="none here"),
    ],
)
def test_which_hops_a_node_has(ends: tuple[End, End], entries: list[type]) -> None:
    found = list(hops(world(), GENEVE4.name, ends))
    assert [type(hop.probe.entry) for hop in found if hop.probe] == entries


BY_SWITCH = Outcome(Action.DELIVER, port="rep9", owner="switch")
ELSEWHERE = replace(
    SENT, tunnel=Tunnel(Encap.GENEVE, GENEVE4.vni, OWN4, VTEP4[1], 6081), owner="flows"
)
LEFT = Outcome(Action.HAND_OVER, reason=Reason.NO_ENTRY, owner="map entries")
NONE = Outcome(Action.NONE)
DROP = Outcome(Action.DROP, owner="flows")
DENIED = Outcome(Action.DROP, reason=Reason.SUPERSEDED)
OFF = replace(SENT, reason=Reason.POLICY_OFF)
SILENT = Outcome(Action.UNKNOWN, owner="ovs", detail="no answer")


@pytest.mark.parametrize(
    ("predicted", "live", "full", "owner", "there"),
    [
        pytest.param(SENT, Live(SENT, SENT), (), None, True, id="all agree"),
        pytest.param(SENT, Live(SENT, SENT, SENT), (), None, True, id="in the switch, too"),
        pytest.param(SENT, Live(SENT, SENT, LEFT), (), None, True, id="the switch hands over"),
        pytest.param(SENT, Live(SENT, SENT, BY_SWITCH), (), "switch", False, id="wrong in switch"),
        pytest.param(DROP, Live(DROP, DROP, BY_SWITCH), (), "switch", False, id="not to be sent"),
        pytest.param(SENT, Live(LEFT, DROP, SENT), (), "map entries", True, id="switch alone"),
        pytest.param(SENT, Live(LEFT, SENT), (), "map entries", True, id="entry missing"),
        pytest.param(SENT, Live(LEFT, SENT), ("map entries",), None, True, id="map full"),
        pytest.param(SENT, Live(LEFT, DROP), ("map entries",), "flows", False, id="full, no flow"),
        pytest.param(SENT, Live(SENT, DROP), (), "flows", True, id="flow missing, not needed"),
        pytest.param(SENT, Live(SENT, ELSEWHERE), (), "flows", True, id="flow to another VTEP"),
        pytest.param(SENT, Live(SENT, SILENT), (), "ovs", True, id="switch away"),
        pytest.param(
            SENT, Live(replace(ELSEWHERE, owner="map"), SENT), (), "map", False, id="wrong entry"
        ),
        pytest.param(SENT, Live(NONE, SENT), (), None, True, id="no fast path"),
        pytest.param(OFF, Live(LEFT, SENT), (), None, True, id="switched off"),
        pytest.param(OFF, Live(replace(SENT, owner="map"), SENT), (), "map", True, id="not off"),
        pytest.param(DENIED, Live(LEFT, DROP), (), None, False, id="blocked, and dropped"),
        pytest.param(
            DENIED, Live(LEFT, replace(SENT, owner="flows")), (), "flows", False, id="let"
        ),
        pytest.param(
            DENIED, Live(replace(SENT, owner="map"), DROP), (), "map", False, id="let by eBPF"
        ),
        pytest.param(
            DENIED, Live(Outcome(Action.HOST), DROP), (), None, False, id="left to the host"
        ),
        pytest.param(
            SENT, Live(Outcome(Action.HOST, owner="filter"), SENT), (), "filter", False, id="host"
        ),
    ],
)
def test_who_does_otherwise(
    predicted: Outcome, live: Live, full: tuple[str, ...], owner: str | None, there: bool
) -> None:
    found = compare(predicted, live, full)
    assert (found.owner if found else None) == owner
    assert arrives(predicted, live) is there


@pytest.mark.parametrize(
    ("predicted", "live", "reason"),
    [
        pytest.param(SENT, Live(SENT, SENT), None, id="fastpath"),
        pytest.param(SENT, Live(LEFT, SENT), Reason.NO_ENTRY, id="what the maps say"),
        pytest.param(OFF, Live(LEFT, SENT), Reason.POLICY_OFF, id="what is configured"),
        pytest.param(SENT, Live(NONE, SENT), None, id="no fast path has no reason"),
    ],
)
def test_why_it_goes_over_ovs(predicted: Outcome, live: Live, reason: Reason | None) -> None:
    assert why_ovs(predicted, live) is reason


def test_a_difference_is_said_beside_what_should_be() -> None:
    found = compare(SENT, Live(LEFT, SENT))
    assert found is not None
    assert found.what == ("hand over (no-entry), not geneve 100 192.0.2.1 > 192.0.2.2 port 6081")
