"""What passes a network function, and what must not: decisions, flows, entries, predictions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.entries import fast_entries
from dataplane.core.derive import derive
from dataplane.core.desired import Bindings, Desired, LocalNode, Port, PortState, SegmentView
from dataplane.core.events import (
    AttachmentsLoaded,
    Detached,
    FunctionCreated,
    FunctionDeleted,
    Link,
    LinksChanged,
    StateEvent,
)
from dataplane.core.functions import (
    FunctionPort,
    NetworkFunction,
    Role,
    WithoutFunction,
    next_port,
)
from dataplane.core.model import Attachment, Mac, Segment, Verdict
from dataplane.core.offload import SwitchView, choose
from dataplane.core.path import Action, End, Live, Outcome, compare, hops
from dataplane.core.placement import Cause, Holdings, Placement, placed_entries
from dataplane.core.reasons import Reason
from dataplane.core.state import State, fold
from dataplane.core.steering import Steering, steering
from dataplane.core.withdrawal import leaving, next_standing
from overlay_ovs.flows import render_flows
from overlay_ovs.tables import INTEGRATION_BRIDGE, BridgeFlow
from ovs_client.ofctl import Flow
from tests.unit.overlay_builders import (
    GENEVE4,
    MAC_ONLY,
    NIC,
    OWN4,
    TUNNELS,
    UNGUARDED,
    VTEP4,
    attachment,
    bindings,
    desired,
    gateway_mac,
    gateway_of,
    mac_of,
    port,
    remote,
    trunk,
    view,
)
from tests.unit.test_core_offload import BUSY, behind, capability, key

P, S, IN, OUT = Role.PLAIN, Role.STEERED, Role.INPUT, Role.OUTPUT
WHY = Reason.NETWORK_FUNCTION


@pytest.mark.parametrize(
    ("sender", "target", "first"),
    [
        (P, P, P),
        (P, S, OUT),
        (P, IN, OUT),
        (P, OUT, OUT),
        (S, P, IN),
        (S, S, S),
        (S, IN, IN),
        (S, OUT, IN),
        (IN, P, None),
        (IN, S, S),
        (IN, OUT, None),
        (OUT, P, P),
        (OUT, S, None),
        (OUT, IN, None),
    ],
)
def test_whose_port_a_frame_goes_to(sender: Role, target: Role, first: Role | None) -> None:
    assert next_port(sender, target) is first


# --- who is what ------------------------------------------------------------------------------


def pod(slot: int, netdev: str = "", **changes: object) -> Attachment:
    made = replace(attachment(slot, GENEVE4), netdev=netdev)
    return replace(made, **changes)  # type: ignore[arg-type]  # columns of the tables below


def function(one: Attachment, other: Attachment) -> NetworkFunction:
    ports = (FunctionPort(each.mac, each.identity) for each in (one, other))
    return NetworkFunction(GENEVE4.name, *ports)


VF, VF2, PLAIN, I1, O1, I2, O2 = pod(1, "rep1"), pod(2, "rep2"), *map(pod, range(3, 8))
FIRST, SECOND = function(I1, O1), function(I2, O2)
EVERYBODY = (VF, VF2, PLAIN, I1, O1, I2, O2)
STEERED = {VF.key: S, VF2.key: S}


def link(each: Attachment, *, up: bool = True, carrier: bool = True) -> Link:
    return Link(each.access_port, 10 + each.slot, "", 1500, up=up, carrier=carrier)


def state(
    *events: StateEvent,
    here: Iterable[Attachment] = EVERYBODY,
    without: WithoutFunction = WithoutFunction.BLOCK,
) -> State:
    found = State(LocalNode("d", NIC.name, (OWN4,), without_function=without))
    links = LinksChanged((NIC, *map(link, here)))
    for event in (AttachmentsLoaded(tuple(here), (GENEVE4,)), links, *events):
        found = fold(found, event)
    return found


CREATED, CREATED2 = FunctionCreated(FIRST), FunctionCreated(SECOND)
DOWN = LinksChanged((link(O1, carrier=False),))
BOTH_WAYS = {**STEERED, I1.key: IN, O1.key: OUT}


@pytest.mark.parametrize(
    ("events", "roles", "problem"),
    [
        pytest.param((), {}, "", id="none"),
        pytest.param((CREATED,), BOTH_WAYS, "", id="one"),
        pytest.param((CREATED, CREATED), BOTH_WAYS, "", id="twice the same"),
        pytest.param((CREATED, FunctionDeleted(FIRST)), {}, "", id="deleted"),
        pytest.param((CREATED, DOWN), STEERED, "vp5 of default/pod5/eth0 is down", id="no carrier"),
        pytest.param(
            (CREATED, LinksChanged((link(O1, up=False),))), STEERED, "vp5 of", id="set down"
        ),
        pytest.param((CREATED, LinksChanged(gone=("vp4",))), STEERED, "vp4 of", id="netdev gone"),
        pytest.param(
            (CREATED, Detached(I1.key)),
            STEERED,
            "default/pod4/eth0 is not attached",
            id="detached",
        ),
        pytest.param((CREATED, DOWN, LinksChanged((link(O1),))), BOTH_WAYS, "", id="back"),
        pytest.param((CREATED, CREATED2), BOTH_WAYS, "", id="the oldest has it"),
        pytest.param(
            (CREATED, CREATED2, DOWN),
            {**STEERED, I2.key: IN, O2.key: OUT},
            "",
            id="the next one has it",
        ),
    ],
)
def test_what_the_ports_are(
    events: tuple[StateEvent, ...], roles: Mapping[object, Role], problem: str
) -> None:
    found = steering(state(*events), GENEVE4.name)
    assert found.roles == roles
    assert found.details.keys() == roles.keys()
    assert problem in found.problem
    assert bool(found.problem) == bool(problem)


def test_without_it_traffic_goes_past_if_so_configured() -> None:
    found = steering(state(CREATED, DOWN, without=WithoutFunction.BYPASS), GENEVE4.name)
    assert found.roles == {}
    assert found.idle.keys() == {I1.key, O1.key}
    assert "goes past it" in found.problem


def test_ports_of_a_function_that_waits_are_apart() -> None:
    found = steering(state(CREATED, CREATED2), GENEVE4.name)
    assert {verdict.reason for verdict in found.idle.values()} == {WHY}
    assert found.idle.keys() == {I2.key, O2.key}


def test_who_takes_the_mac_of_a_function_that_is_gone_is_not_the_function() -> None:
    taker = replace(I1, container_id="x", identity="default/x/eth0")
    found = steering(state(CREATED, here=(VF, taker, O1)), GENEVE4.name)
    assert found.roles == {VF.key: S}
    assert taker.key not in found.idle


@pytest.mark.parametrize("change", [{"connected": False}, {"blocked": Verdict(Reason.PENDING, "")}])
def test_a_function_whose_port_is_blocked_is_gone(change: dict[str, object]) -> None:
    found = steering(state(CREATED, here=(VF, replace(I1, **change), O1)), GENEVE4.name)  # type: ignore[arg-type]
    assert found.roles == {VF.key: S}
    assert "is blocked" in found.problem


def test_one_that_left_makes_room_for_the_next() -> None:
    left = state(CREATED, Detached(I1.key), Detached(O1.key))
    assert left.functions == (FIRST,)
    assert fold(left, CREATED2).functions == (SECOND,)
    half = state(CREATED, Detached(I1.key))
    assert fold(half, CREATED2).functions == (FIRST, SECOND)


def test_of_a_pod_that_is_there_twice_the_one_that_may_send_is_the_function() -> None:
    old = replace(I1, container_id="old", blocked=Verdict(Reason.SUPERSEDED, ""), slot=9)
    for here in ((VF, old, I1, O1), (VF, I1, old, O1)):
        assert steering(state(CREATED, here=here), GENEVE4.name).roles == {
            VF.key: S,
            I1.key: IN,
            O1.key: OUT,
        }


def test_what_is_derived() -> None:
    found = derive(state(CREATED, CREATED2))
    assert found is not None
    ports = {each.attachment.key: each for each in found.ports}
    assert {key: ports[key].role for key in BOTH_WAYS} == BOTH_WAYS
    assert {key for key, each in ports.items() if each.state is PortState.BLOCKED} == {
        I2.key,
        O2.key,
    }
    assert {each.reason for key, each in ports.items() if key != PLAIN.key} == {WHY}
    assert ports[PLAIN.key].reason is None
    assert (found.functions, found.problems) == ((FIRST, SECOND), ())
    gone = derive(state(CREATED, DOWN))
    assert gone is not None
    (problem,) = gone.problems
    assert "network-function, function" in problem
    assert "cut off" in problem


def test_another_segment_is_not_concerned() -> None:
    assert steering(state(CREATED), "other") == Steering()


def test_only_the_links_of_functions_decide() -> None:
    before = state(CREATED)
    assert fold(before, LinksChanged((link(PLAIN, up=False),))).is_decided_as(before)
    assert not fold(before, DOWN).is_decided_as(before)


# --- flows ------------------------------------------------------------------------------------

_GROUP = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"
EVERYONE = "ff:ff:ff:ff:ff:ff"


def as_role(made: Port, role: Role) -> Port:
    reason = None if role is P else WHY
    netdev = f"rep{made.attachment.slot}" if role is S else ""
    return replace(
        made, attachment=replace(made.attachment, netdev=netdev), role=role, reason=reason
    )


def world(roles: Mapping[int, Role], segment: Segment = GENEVE4) -> SegmentView:
    """Return a view with ports of these slots and roles, and endpoints 101 and 102 elsewhere."""
    ports = [as_role(port(slot, segment), role) for slot, role in roles.items()]
    return view(segment, ports, [remote(101 + n, segment, VTEP4[n]) for n in range(2)])


class Pipeline:
    """The flows of ow-int, walked by frames that are neither ARP nor IP."""

    def __init__(self, seen: SegmentView) -> None:
        self._view = seen
        self.passed: list[int] = []  # the tables of the last frame
        rendering = render_flows(desired(seen), bindings(seen))
        assert not rendering.pending
        self._flows = sorted(
            (
                item.flow
                for item in rendering.items.values()
                if isinstance(item, BridgeFlow) and item.bridge == INTEGRATION_BRIDGE
            ),
            key=lambda flow: -flow.priority,
        )

    def sent(self, slot: int, source: Mac, target: str) -> Counter[int]:
        """Return to which ports, by slot (0: a tunnel), a frame goes that comes from a port."""
        return self._walk({"in_port": 100 + slot}, source, target)

    def tunnelled(self, source: Mac, target: str) -> Counter[int]:
        """Return where a frame goes that comes from the first VTEP."""
        vni = int(self._view.segment.vni)
        number = TUNNELS[f"ow-{self._view.segment.encap}"]
        where = {"in_port": number, "tun_id": vni, "tun_src": str(VTEP4[0])}
        return self._walk(where, source, target)

    def _walk(self, entry: Mapping[str, object], source: Mac, target: str) -> Counter[int]:
        frame: dict[str, object] = {**entry, "dl_src": source, "dl_dst": target}
        found: Counter[int] = Counter()
        table: int | None = 0
        self.passed = []
        while table is not None:
            number = table
            self.passed.append(number)
            flow = next((f for f in self._flows if f.table == number and _fits(f, frame)), None)
            table = None
            for action in flow.actions.split(",") if flow else ():
                if set_ := re.fullmatch(r"set_field:(0x\w+)->(reg\d+)", action):
                    frame[set_[2]] = int(set_[1], 16)
                elif output := re.fullmatch(r"output:(.+)", action):
                    to = frame["reg2"] if output[1] == "NXM_NX_REG2[]" else int(output[1])
                    if to != frame["in_port"]:  # Open vSwitch sends nothing back
                        found[max(int(str(to)) - 100, 0)] += 1
                elif goto := re.fullmatch(r"goto_table:(\d+)", action):
                    table = int(goto[1])
        return found


def _fits(flow: Flow, frame: Mapping[str, object]) -> bool:
    for token in filter(None, flow.match.split(",")):
        name, _, value = token.partition("=")
        if token == _GROUP:
            if not int(str(frame["dl_dst"])[:2], 16) & 1:
                return False
        elif name.startswith("reg") or name in ("in_port", "tun_id"):
            if int(value, 0) != frame.get(name, 0):
                return False
        elif str(frame.get(name)) != value:
            return False
    return True


def one_of(found: Port | None) -> Role:
    return found.role if found else P


ROLES = st.lists(st.sampled_from([P, S]), min_size=1, max_size=5)
SEGMENTS = st.sampled_from([GENEVE4, MAC_ONLY, UNGUARDED])


@st.composite
def worlds(draw: st.DrawFn) -> SegmentView:
    roles = dict(enumerate(draw(ROLES), start=1))
    if draw(st.booleans()):
        roles |= {11: IN, 12: OUT}
    return world(roles, draw(SEGMENTS))


@given(worlds())
def test_every_frame_takes_the_way_that_is_decided(seen: SegmentView) -> None:
    """From everybody to everybody, functions too, which send as others; and nothing turns round."""
    pipeline, by_role = Pipeline(seen), {each.role: each.attachment.slot for each in seen.ports}
    slots = {each.attachment.slot: each for each in seen.ports}
    owners = {slot: each.attachment.mac for slot, each in slots.items()}
    macs = {**owners, 101: mac_of(101), 102: mac_of(102)}
    senders = {**slots, 0: None}
    for slot, sender in senders.items():
        for to, mac in macs.items():
            if to == slot or (slot == 0 and to > 100):
                continue
            role, target = one_of(sender), slots.get(to)
            # What comes out of a function is another's: of who is on the other side of it.
            source = owners.get(slot, mac_of(101))
            if role is OUT:
                source = next((p.attachment.mac for p in seen.ports if p.role is S), source)
            found = pipeline.sent(slot, source, mac) if sender else pipeline.tunnelled(source, mac)
            first = next_port(role, one_of(target))
            straight = to if target is not None else 0
            wanted = straight if first is one_of(target) else by_role.get(first or P)
            expected = Counter() if first is None or wanted is None else Counter([wanted])
            assert found == expected, (slot, to)
            if role in (IN, OUT):
                assert not {by_role[IN], by_role[OUT]} & found.keys() - {to}


@given(worlds())
def test_from_within_a_gateway_is_reached_through_the_function_alone(seen: SegmentView) -> None:
    """So nothing is routed past it: what ends in the routing table, or anywhere, is not within."""
    pipeline = Pipeline(replace(seen, gateway=gateway_of(seen.segment, 2)))
    by_role = {each.role: each.attachment.slot for each in seen.ports}
    within = {each.attachment.slot for each in seen.ports if each.role is S}
    for each in seen.ports:
        slot, mac = each.attachment.slot, each.attachment.mac
        found, passed = pipeline.sent(slot, mac, gateway_mac(2)), 27 in pipeline.passed
        assert passed == (each.role in (P, OUT)), slot
        if each.role is S:
            assert found == Counter([by_role[IN]] if IN in by_role else [])
        else:
            assert found.keys() <= (within if each.role is IN else set())


@given(worlds())
def test_a_broadcast_reaches_all_once_and_never_a_function_twice(seen: SegmentView) -> None:
    pipeline = Pipeline(seen)
    roles = {each.attachment.slot: each.role for each in seen.ports}
    by_role = {role: slot for slot, role in roles.items()}
    has_function = IN in by_role
    for slot in (0, *roles):
        role = roles.get(slot, P)
        if role in (IN, OUT):
            continue
        source = mac_of(slot) if slot else mac_of(101)
        found = (
            pipeline.sent(slot, source, EVERYONE) if slot else pipeline.tunnelled(source, EVERYONE)
        )
        near, far = (IN, OUT) if role is S else (OUT, IN)
        if has_function:
            assert found.pop(by_role[near]) == 1
            crossed = pipeline.sent(by_role[far], source, EVERYONE)
            assert not {by_role[IN], by_role[OUT]} & crossed.keys()
            found += crossed
        within = {each for each, other in roles.items() if other is S}
        outside = {each for each, other in roles.items() if other is P}
        is_split = S in by_role or has_function
        others = (
            within | outside if has_function or not is_split else (within if role is S else outside)
        )
        copies = dict.fromkeys(others - {slot}, 1)
        if slot and (has_function or role is not S):
            copies[0] = 2  # one for each VTEP
        assert found == copies, slot


def test_a_function_sends_as_itself_and_as_who_is_behind_it() -> None:
    seen = world({1: S, 3: P, 11: IN, 12: OUT})
    pipeline = Pipeline(seen)
    for number in (1, 11, 12):
        assert pipeline.sent(12, mac_of(number), mac_of(101)) == Counter([0])
    for number in (3, 101, 200):
        assert pipeline.sent(12, mac_of(number), mac_of(101)) == Counter()
        assert pipeline.sent(11, mac_of(number), mac_of(1)) == Counter([1])


def test_a_number_that_is_missing_blocks_and_holds_what_is_there() -> None:
    seen = world({1: S, 11: IN, 12: OUT})
    numbers = bindings(seen)
    known = {name: number for name, number in numbers.ofports.items() if name != "ot11"}
    rendering = render_flows(desired(seen), replace(numbers, ofports=known))
    crossing = {
        item.flow.actions
        for item in rendering.items.values()
        if isinstance(item, BridgeFlow) and (item.flow.table, item.flow.priority) == (55, 60)
    }
    assert crossing == {"drop"}
    assert rendering.pending


def test_nobody_else_is_changed() -> None:
    """A segment without a function has the flows that it had."""
    seen = world({1: P, 2: P})
    flows = render_flows(desired(seen), bindings(seen)).items.values()
    assert not [
        item
        for item in flows
        if isinstance(item, BridgeFlow) and "reg10" in item.flow.match + item.flow.actions
    ]


# --- faster paths, what is told ----------------------------------------------------------------


def split(*, there: bool = True) -> Desired:
    roles = {1: S, 2: S, 3: P}
    return desired(world({**roles, 11: IN, 12: OUT} if there else roles))


@pytest.mark.parametrize("there", [True, False], ids=["function", "blocked"])
def test_no_faster_path_forwards_past_a_function(there: bool) -> None:
    numbers = Bindings(
        ifindexes={NIC.name: 7, **{p.attachment.access_port: 100 for p in split().ports}}
    )
    found = list(fast_entries(split(there=there), numbers))
    ports = [item for item in found if item.map_name == "ports"]
    macs = {item.map_key[4:10].hex(":") for item in found if item.map_name == "entries"}
    assert len(ports) == 1
    assert macs == {mac_of(3), mac_of(101), mac_of(102)}
    # Who has an address is known and answered all the same.
    assert sum(item.map_name == "neighbours" for item in found) == 2 * (7 if there else 5)


def test_nothing_of_it_is_in_a_switch_and_what_was_goes_first() -> None:
    before = desired(view(GENEVE4, [behind(1)], [remote(101, GENEVE4, VTEP4[0])]))
    steered = [replace(behind(1), role=S, reason=WHY)]
    now = desired(view(GENEVE4, steered, [remote(101, GENEVE4, VTEP4[0])]))
    rates = {key(1): BUSY, key(101): BUSY}
    seen = SwitchView(capability(), rates=rates, held=frozenset())
    placed = choose(before, seen, frozenset(VTEP4), frozenset()).placed
    assert placed == {key(1), key(101)}
    choice = choose(now, seen, frozenset(VTEP4), placed)
    assert (choice.placed, set(choice.reasons.values())) == (frozenset(), {WHY})
    standing = next_standing({}, before, placed, 1)
    assert "rep1" in leaving(standing, now)


def test_it_is_told_by_the_entries() -> None:
    found = {each.mac: each for each in placed_entries(split(), Holdings(fast={}))}
    for number in (1, 2, 11, 12):
        assert found[mac_of(number)].placement is Placement.OVS
        assert found[mac_of(number)].cause == Cause(WHY)
    assert found[mac_of(3)].cause == Cause(Reason.PENDING)


def test_a_trunk_is_behind_it_in_the_segments_that_have_one() -> None:
    """And for each it is told why it is Open vSwitch's alone."""
    here = replace(trunk(4, GENEVE4, 5), role=S, reason=WHY)
    seen = view(GENEVE4, [*world({11: IN, 12: OUT}).ports, here], [remote(101, GENEVE4, VTEP4[0])])
    beside = view(MAC_ONLY, [trunk(4, MAC_ONLY, 6)])
    both = desired(seen, beside)
    found = {(each.vni, each.mac): each for each in placed_entries(both, Holdings(fast={}))}
    assert found[GENEVE4.vni, mac_of(4)].cause == Cause(WHY)
    assert found[MAC_ONLY.vni, mac_of(4)].cause == Cause(Reason.UNSUPPORTED_MATCH)
    assert predicted(both, end(4, HERE), FAR) == deliver(11)
    assert predicted(both, FAR, end(4, HERE)) == deliver(12)
    numbers = Bindings(ifindexes={p.attachment.access_port: 100 for p in both.ports})
    assert mac_of(4) not in {item.map_key[4:10].hex(":") for item in fast_entries(both, numbers)}
    vf = state(CREATED, here=(replace(VF, vlan=5), I1, O1))
    assert steering(vf, GENEVE4.name).roles[VF.key] is S


def end(number: int, node: str) -> End:
    return End(str(number), node, mac_of(number), port(number, GENEVE4).attachment.ips[0], VTEP4[0])


def predicted(world: Desired, source: End, target: End) -> Outcome:
    return next(hops(world, GENEVE4.name, (source, target))).predicted


HERE = desired().node.name
NEAR, NEAR2, POD, FAR = end(1, HERE), end(2, HERE), end(3, HERE), end(101, "there")


def deliver(number: int) -> Outcome:
    role = {1: S, 2: S, 11: IN, 12: OUT}.get(number, P)
    netdev = as_role(port(number, GENEVE4), role).attachment.access_port
    return Outcome(Action.DELIVER, port=netdev, reason=WHY)


@pytest.mark.parametrize(
    ("source", "target", "through", "blocked"),
    [
        pytest.param(NEAR, FAR, deliver(11), Outcome(Action.DROP, reason=WHY), id="to elsewhere"),
        pytest.param(FAR, NEAR, deliver(12), Outcome(Action.DROP, reason=WHY), id="from elsewhere"),
        pytest.param(POD, NEAR, deliver(12), Outcome(Action.DROP, reason=WHY), id="pod to VF"),
        pytest.param(NEAR, NEAR2, deliver(2), deliver(2), id="VF to VF"),
        pytest.param(
            FAR,
            POD,
            Outcome(Action.DELIVER, port="vp3"),
            Outcome(Action.DELIVER, port="vp3"),
            id="not concerned",
        ),
    ],
)
def test_what_is_predicted(source: End, target: End, through: Outcome, blocked: Outcome) -> None:
    assert predicted(split(), source, target) == through
    assert predicted(split(there=False), source, target) == blocked


def test_a_faster_path_that_forwards_past_it_is_found_out() -> None:
    straight = Outcome(Action.DELIVER, port=deliver(2).port, owner="fastpath")
    fair = Outcome(Action.HAND_OVER, reason=Reason.NO_ENTRY, owner="fastpath")
    truth = replace(deliver(2), reason=None, owner="ovs")
    told = predicted(split(), NEAR, NEAR2)
    assert compare(told, Live(fair, truth)) is None
    assert compare(told, Live(straight, truth)) is not None
    passed = replace(deliver(11), reason=None, owner="ovs")
    assert compare(predicted(split(), NEAR, FAR), Live(fair, passed)) is None
    assert compare(predicted(split(), NEAR, FAR), Live(fair, truth)) is not None


def test_ports_that_wait_are_as_blocked() -> None:
    waiting = replace(port(7, GENEVE4), state=PortState.BLOCKED, reason=WHY)
    seen = view(GENEVE4, [*world({1: S, 11: IN, 12: OUT}).ports, waiting])
    pipeline = Pipeline(seen)
    assert pipeline.sent(7, mac_of(7), EVERYONE) == Counter()
    assert 7 not in pipeline.sent(1, mac_of(1), EVERYONE)
