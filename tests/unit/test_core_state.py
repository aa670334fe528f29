"""Events in, desired state out: what is decided, and what waits."""

from dataclasses import replace
from functools import reduce
from ipaddress import ip_address, ip_interface, ip_network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.admission import (
    DUPLICATE,
    EXHAUSTED,
    INVALID_CONFIG,
    NO_UNDERLAY,
    TRY_AGAIN,
    settle,
)
from dataplane.core.capability import Capability
from dataplane.core.derive import derive
from dataplane.core.desired import Desired, LocalNode, PortState
from dataplane.core.events import (
    AttachmentsLoaded,
    AttachRequest,
    Detached,
    FabricChanged,
    FabricConnection,
    FabricSynced,
    Link,
    LinksChanged,
    NextHopsChanged,
    OfportChanged,
    PodConnected,
    StateEvent,
    SwitchSeen,
    TakenOver,
    TrafficMeasured,
)
from dataplane.core.model import (
    MAX_SLOTS,
    Address,
    AttachmentKey,
    Block,
    Encap,
    Endpoint,
    EntryKey,
    FabricEntity,
    Family,
    Grant,
    Hardware,
    Mac,
    Node,
    Pin,
    Segment,
    Svi,
    Vni,
)
from dataplane.core.offload import KEEP_ABOVE
from dataplane.core.reasons import Reason
from dataplane.core.state import State, claim, confirm, fold

NIC = Link("eth0", 2, "02:00:00:00:00:aa", 1500, up=True, addresses=(ip_address("192.0.2.1"),))
BLUE = Segment(
    "blue",
    Vni(100),
    subnets=(ip_network("10.0.0.0/24"),),
    static_ranges=(ip_network("10.0.0.192/26"),),
)
N2 = Node("n2", (ip_address("192.0.2.2"),))
OWN_BLOCK = Block("blue", ip_network("10.0.0.0/27"), "n1")
POD = AttachmentKey("pod", "eth0")
OTHER = AttachmentKey("other", "eth0")
NOW = 1_800_000_000
IDLE = 0.0


def after(*events: StateEvent, state: State | None = None) -> State:
    state = state or State(LocalNode("n1", "eth0"))
    for event in events:
        state = settle(fold(state, event))
        if isinstance(event, AttachRequest) and state.fabric.connected:
            state = tell_synced(state)  # as the feed does, once asked
        state = published(state)
    return state


def published(state: State) -> State:
    """Let the database hold what is desired; the rows come from the feed."""
    wanted = derive(state)
    if not state.fabric.connected or wanted is None or wanted.publication is None:
        return state
    return settle(confirm(claim(state, wanted.publication.blocks, 1), 1))


def tell_synced(state: State) -> State:
    for segment, number in state.watched.items():
        state = settle(fold(state, FabricSynced(segment, number)))
    return state


def rows(*entities: FabricEntity) -> FabricChanged:
    return FabricChanged(upserts=entities)


def synced(*entities: FabricEntity) -> list[StateEvent]:
    return [
        LinksChanged((NIC,)),
        FabricConnection(connected=True),
        rows(BLUE, N2, *entities),
        FabricSynced(),
    ]


def remote(identity: str = "other", sequence: int = 0, mac: str = "02:00:00:00:00:02") -> Endpoint:
    ips = (ip_address("10.0.0.99"),)
    return Endpoint("blue", "n2", Mac(mac), ips, identity, sequence, f"c-{identity}", "eth0")


def request(**changes: object) -> AttachRequest:
    plain = AttachRequest(POD, "/run/netns/pod", "blue", "ns/pod/eth0", NOW)
    return replace(plain, **changes)  # type: ignore[arg-type]  # the table below names real fields


def desired(state: State) -> Desired:
    result = derive(state)
    assert result is not None
    return result


def test_an_attach_claims_a_block_and_then_gets_an_address() -> None:
    asking = after(*synced(), request())
    publication = desired(asking).publication
    assert publication is not None
    (claimed,) = publication.blocks
    assert POD in asking.requests
    done = after(rows(claimed), state=asking)
    (ip,) = done.attachments[POD].ips
    assert ip in claimed.prefix
    assert not done.requests


REFUSALS = [
    pytest.param([], request(segment="nope"), INVALID_CONFIG, "nope", id="unknown segment"),
    pytest.param(
        [remote()],
        request(mac=Mac("02:00:00:00:00:02")),
        DUPLICATE,
        "n2",
        id="mac of another identity",
    ),
    pytest.param(
        [remote()],
        request(ips=(ip_address("10.0.0.99"),), ipam=True),
        DUPLICATE,
        "10.0.0.99",
        id="an ipam plugin that gives away a used address",
    ),
    pytest.param(
        [],
        request(ips=(ip_address("10.9.0.1"),), ipam=True),
        INVALID_CONFIG,
        "10.9.0.1",
        id="an ipam address outside every subnet",
    ),
    pytest.param(
        [],
        request(ips=(ip_address("10.0.0.5"),)),
        INVALID_CONFIG,
        "static range",
        id="an address asked for outside the static range",
    ),
    pytest.param(
        [Address("blue", ip_address("10.0.0.200"), "someone", "n2")],
        request(ips=(ip_address("10.0.0.200"),)),
        DUPLICATE,
        "someone",
        id="a static address bound to another identity",
    ),
    pytest.param(
        [],
        request(ips=(ip_address("10.9.0.1"),), again=True),
        INVALID_CONFIG,
        "that the pod has",
        id="an address again that is outside every subnet by now",
    ),
    pytest.param(
        [remote()],
        request(ips=(ip_address("10.0.0.99"),), again=True),
        DUPLICATE,
        "other",
        id="an address again that somebody else has by now",
    ),
    pytest.param(
        [remote("ns/pod/eth0", sequence=4)],
        request(ips=(ip_address("10.0.0.99"),), again=True),
        TRY_AGAIN,
        "is on node n2 by now",
        id="a workload again that has moved",
    ),
    pytest.param(
        [], request(mtu=1451), INVALID_CONFIG, "1451", id="an mtu the underlay cannot carry"
    ),
    pytest.param(
        [Grant("blue", "n2")], request(), 111, "no grant", id="a segment whose grants name others"
    ),
    pytest.param(
        [Block("blue", ip_network(f"10.0.0.{i * 32}/27"), "n2") for i in range(6)],
        request(ips=()),
        EXHAUSTED,
        "exhausted",
        id="no block left",
    ),
]


@pytest.mark.parametrize(("entities", "asked", "code", "words"), REFUSALS)
def test_refusals(
    entities: list[FabricEntity], asked: AttachRequest, code: int, words: str
) -> None:
    own = [] if code == EXHAUSTED else [OWN_BLOCK]
    state = after(*synced(*own, *entities), asked)
    assert state.refusals[POD].code == code
    assert words in state.refusals[POD].message
    assert not state.attachments


@pytest.mark.parametrize(
    ("ip", "bound"),
    [
        pytest.param("10.0.0.7", [], id="of a block of ours"),
        pytest.param("10.0.0.40", [], id="of a block that is nobody's by now"),
        pytest.param(
            "10.0.0.200",
            [Address("blue", ip_address("10.0.0.200"), "ns/pod/eth0", "n1")],
            id="of the static range",
        ),
    ],
)
def test_who_is_attached_again_has_what_it_had(ip: str, bound: list[FabricEntity]) -> None:
    """And its Block stays ours, so that the address is given to nobody else."""
    mac, ips = Mac("02:00:00:00:00:07"), (ip_address(ip),)
    stale = Endpoint("blue", "n1", mac, ips, "ns/pod/eth0", 3, "pod", "eth0")
    asked = request(mac=mac, ips=ips, again=True)
    state = after(*synced(OWN_BLOCK, stale, *bound), asked)
    attachment = state.attachments[POD]
    assert (attachment.mac, attachment.ips, attachment.ipam) == (mac, ips, False)
    assert POD not in state.withheld
    publication = desired(state).publication
    assert publication is not None
    blocks = {block.prefix for block in publication.blocks}
    assert bound or any(ips[0] in prefix for prefix in blocks)
    other = after(request(key=OTHER, identity="ns/other/eth0"), state=state)
    assert other.attachments[OTHER].ips != ips


def test_who_is_attached_again_waits_for_what_the_database_says_of_it() -> None:
    again = request(ips=(ip_address("10.0.0.7"),), again=True)
    state = State(LocalNode("n1", "eth0"))
    state = replace(state, fabric=replace(state.fabric, cached=(BLUE, OWN_BLOCK)))
    state = after(LinksChanged((NIC,)), again, state=state)
    assert POD in state.requests
    state = after(replace(again, wait_for_fabric=False), state=state)
    assert (state.refusals[POD].code, state.attachments) == (TRY_AGAIN, {})


def test_a_used_address_is_never_handed_out_again() -> None:
    squatter = replace(remote(), ips=(ip_address("10.0.0.1"),))
    state = after(*synced(OWN_BLOCK, squatter), request())
    assert state.attachments[POD].ips == (ip_address("10.0.0.2"),)


def test_a_static_address_is_bound_before_the_attach_is_answered() -> None:
    ip = ip_address("10.0.0.200")
    state = after(*synced(), request(ips=(ip,)))
    publication = desired(state).publication
    assert publication is not None
    assert publication.addresses == (Address("blue", ip, "ns/pod/eth0", "n1"),)
    state = after(rows(*publication.addresses), state=state)
    assert state.attachments[POD].ips == (ip,)


@pytest.mark.parametrize(
    "bound",
    [
        pytest.param((), id="nobody-has-told-yet"),
        pytest.param(("ns/pod/eth0", "n2"), id="its-own-at-another-node"),
        pytest.param(("someone", "n2"), id="another-identitys"),
    ],
)
def test_who_is_not_answered_yet_takes_no_address_from_anybody(bound: tuple[str, ...]) -> None:
    ip = ip_address("10.0.0.200")
    held = [Address("blue", ip, *bound)] if bound else []
    state = reduce(fold, [*synced(*held), request(ips=(ip,))], State(LocalNode("n1", "eth0")))
    state = settle(state)
    assert POD in state.requests
    publication = desired(state).publication
    assert publication is not None
    assert publication.addresses == ()


def test_a_move_takes_the_next_sequence_and_wins() -> None:
    old = remote(identity="ns/pod/eth0", sequence=4)
    state = after(*synced(OWN_BLOCK, old), request(mac=old.mac), PodConnected(POD))
    assert state.attachments[POD].sequence == 5
    view = desired(state).segments["blue"]
    assert view.ports[0].state is PortState.ACTIVE
    assert view.remotes == ()


def test_a_workload_stays_where_it_is_until_it_is_served_here() -> None:
    """First its pod is connected, then others are told; nor is its address taken before."""
    ip, identity = ip_address("10.0.0.200"), "ns/pod/eth0"
    there = replace(remote(identity, sequence=4), ips=(ip,))
    bound = Address("blue", ip, identity, "n2")
    state = after(*synced(there, bound), request(ips=(ip,)))
    waiting = desired(state)
    (port,), (far,) = waiting.segments["blue"].ports, waiting.segments["blue"].remotes
    assert (port.state, port.reason) == (PortState.BLOCKED, Reason.PENDING)
    assert far.endpoint == there
    assert told(waiting) == ([], ())
    left = desired(after(FabricChanged(deletes=(there, bound)), state=state))
    assert told(left) == ([], (replace(bound, node="n1"),))
    state = after(PodConnected(POD), state=state)
    connected = desired(state)
    assert connected.ports[0].state is PortState.ACTIVE
    assert connected.segments["blue"].remotes == ()
    assert told(connected) == ([], ())
    taken = desired(after(TakenOver(POD), state=state))
    assert told(taken) == ([5], (replace(bound, node="n1"),))
    assert taken.segments == connected.segments


def told(found: Desired) -> tuple[list[int], tuple[Address, ...]]:
    """Return the sequences of the endpoints that are published, and the addresses."""
    assert found.publication is not None
    return [each.sequence for each in found.publication.endpoints], found.publication.addresses


@pytest.mark.parametrize(
    ("entities", "withheld"),
    [
        pytest.param([], set(), id="nobody has it"),
        pytest.param([remote()], set(), id="another workload elsewhere"),
        pytest.param([remote("ns/pod/eth0")], {POD}, id="it is elsewhere"),
        pytest.param(
            [remote("ns/pod/eth0"), Grant("blue", "n1")], set(), id="whose row is not granted"
        ),
    ],
)
def test_only_who_is_elsewhere_is_waited_for(
    entities: list[FabricEntity], withheld: set[AttachmentKey]
) -> None:
    state = after(*synced(OWN_BLOCK, *entities), request())
    assert state.withheld == withheld
    assert state.attachments[POD].connected == (not withheld)
    again = after(PodConnected(POD), TakenOver(POD), request(), state=state)
    for done in (again, after(Detached(POD), state=state), restarted(again)):
        assert not done.withheld


def test_a_restart_does_not_forget_that_a_pod_is_not_connected_yet() -> None:
    state = restarted(after(*synced(OWN_BLOCK, remote("ns/pod/eth0")), request()))
    state = tell_synced(after(*synced(OWN_BLOCK, remote("ns/pod/eth0")), state=state))
    (port,) = desired(state).segments["blue"].ports
    assert (port.state, port.reason) == (PortState.BLOCKED, Reason.PENDING)
    assert told(desired(state)) == ([], ())
    state = restarted(after(PodConnected(POD), state=state))
    state = tell_synced(after(*synced(OWN_BLOCK, remote("ns/pod/eth0")), state=state))
    assert told(desired(state)) == ([1], ())


def test_what_is_attached_while_nobody_can_say_where_it_is_waits_for_its_pod() -> None:
    """Else it is taken over when the database is back, though its ADD may fail yet."""
    away = FabricConnection(connected=False, error="away")
    there = remote("ns/pod/eth0", sequence=4)
    keeper = request(key=OTHER, identity="keeps the segment present")
    state = after(*synced(OWN_BLOCK, there), keeper, away, request())
    back = after(FabricConnection(connected=True), state=state)
    assert back.attachments[POD].sequence == 5
    assert told(desired(back)) == ([0], ())
    done = after(PodConnected(POD), TakenOver(POD), state=back)
    assert sorted(told(desired(done))[0]) == [0, 5]


def test_the_loser_of_a_move_is_blocked_withdrawn_and_stays_so() -> None:
    state = after(*synced(OWN_BLOCK), request())
    mine = state.attachments[POD]
    winner = remote(identity=mine.identity, sequence=7, mac=mine.mac)
    state = after(rows(winner), state=state)
    result = desired(state)
    assert result.ports[0].reason is Reason.SUPERSEDED
    assert result.publication is not None
    assert result.publication.endpoints == ()
    state = after(FabricChanged(deletes=(winner,)), state=state)
    assert desired(state).ports[0].reason is Reason.SUPERSEDED


def test_an_attach_without_database_is_unpublished_until_the_segment_syncs() -> None:
    state = after(*synced(OWN_BLOCK), request())
    kept = desired(state).kept
    restarted = State(LocalNode("n1", "eth0"))
    restarted = replace(restarted, fabric=replace(restarted.fabric, cached=kept))
    state = after(LinksChanged((NIC,)), request(), state=restarted)
    assert POD in state.requests
    state = after(request(wait_for_fabric=False), state=state)
    assert state.attachments[POD].sequence is None
    publication = desired(state).publication
    assert publication is not None
    assert publication.endpoints == ()
    assert desired(state).held == {100}
    state = tell_synced(after(*synced(OWN_BLOCK), state=state))
    assert state.attachments[POD].sequence == 0
    assert desired(state).held == frozenset()


def test_an_attach_without_database_can_be_forbidden() -> None:
    strict = State(LocalNode("n1", "eth0", attach_without_fabric=False))
    strict = replace(strict, fabric=replace(strict.fabric, cached=(BLUE, OWN_BLOCK)))
    state = after(LinksChanged((NIC,)), request(wait_for_fabric=False), state=strict)
    assert state.refusals[POD].code == TRY_AGAIN


def test_a_segment_over_ipv6_needs_an_ipv6_address_here() -> None:
    green = replace(BLUE, name="green", vni=Vni(5), underlay=Family.IPV6, encap=Encap.VXLAN)
    state = after(*synced(green), request(segment="green"))
    assert "no such address on eth0" in state.refusals[POD].message


def test_blocks_are_given_back_after_the_last_attachment() -> None:
    state = after(*synced(OWN_BLOCK), request(), Detached(POD))
    publication = desired(state).publication
    assert publication is not None
    assert publication.blocks == ()


def test_a_block_on_its_way_back_gives_no_address() -> None:
    """The row is still there, but a commit that deletes it may be under way."""
    state = after(*synced(OWN_BLOCK), request(), Detached(POD))
    state = tell_synced(settle(fold(state, request())))
    assert POD in state.requests
    taken = replace(OWN_BLOCK, node="n2")
    state = settle(fold(state, FabricChanged((taken,))))
    state = published(state)
    publication = desired(state).publication
    assert publication is not None
    (claimed,) = publication.blocks
    assert claimed.prefix != OWN_BLOCK.prefix
    state = after(rows(claimed), state=state)
    assert state.attachments[POD].ips[0] in claimed.prefix


def test_a_block_that_was_kept_gives_addresses_during_an_outage() -> None:
    state = after(*synced(OWN_BLOCK), request(), AWAY, request(key=OTHER, identity="other"))
    assert state.attachments[OTHER].ips[0] in OWN_BLOCK.prefix


def test_nothing_is_desired_while_the_nic_is_unknown() -> None:
    assert derive(after(FabricConnection(connected=True))) is None


def test_what_is_programmed_outlives_the_nic() -> None:
    state = after(*synced(OWN_BLOCK), request())
    before = desired(state)
    state = after(LinksChanged(gone=("eth0",)), state=state)
    assert desired(state) == before
    assert desired(after(Detached(POD), state=state)).attachments == ()
    refused = after(request(key=OTHER, identity="late"), state=state)
    assert refused.refusals[OTHER].code == NO_UNDERLAY


def test_a_segment_that_no_longer_fits_the_nic_is_a_problem_and_stays() -> None:
    state = after(*synced(replace(BLUE, mtu=1450), OWN_BLOCK), request())
    before = desired(state)
    found = desired(after(LinksChanged((replace(NIC, mtu=1400),)), state=state))
    assert found.segments == before.segments
    assert found.publication == before.publication
    (problem,) = found.problems
    assert "underlay-mtu" in problem
    assert "1450" in problem


def test_a_segment_without_mtu_follows_the_nic() -> None:
    state = after(*synced(OWN_BLOCK), request(), LinksChanged((replace(NIC, mtu=9000),)))
    assert desired(state).ports[0].mtu == 8950


def test_an_address_that_comes_later_does_not_move_the_vtep() -> None:
    """The kernel lists the newest IPv6 address first, a temporary one too (RFC 8981)."""
    old, new = ip_address("2001:db8::1"), ip_address("2001:db8::2")
    state = after(LinksChanged((replace(NIC, addresses=(old,)),)))
    state = after(LinksChanged((replace(NIC, addresses=(new, old)),)), state=state)
    assert state.vteps == (old,)
    assert after(LinksChanged((replace(NIC, addresses=(new,)),)), state=state).vteps == (new,)


def test_who_has_no_vtep_does_not_lose_a_tie_for_good() -> None:
    state = after(*synced(OWN_BLOCK), request())
    mine = state.attachments[POD]
    assert mine.sequence is not None
    tie = remote(mine.identity, mine.sequence, mine.mac)
    state = after(LinksChanged((replace(NIC, addresses=()),)), rows(tie), state=state)
    assert state.attachments[POD].blocked is None
    state = after(LinksChanged((NIC,)), state=state)
    assert state.attachments[POD].blocked is None  # 192.0.2.1 is the lower


def restarted(state: State) -> State:
    files = desired(state)
    fresh = State(LocalNode("n1", "eth0"))
    return after(
        AttachmentsLoaded(files.attachments, files.kept), LinksChanged((NIC,)), state=fresh
    )


BLOCKED = [
    pytest.param(
        [replace(N2, vteps=(ip_address("192.0.2.0"),)), remote()], Reason.DUPLICATE, id="duplicate"
    ),
    pytest.param([Grant("blue", "n2")], Reason.NOT_GRANTED, id="not granted"),
    pytest.param([remote("ns/pod/eth0", sequence=9)], Reason.SUPERSEDED, id="superseded"),
]


@pytest.mark.parametrize(("entities", "reason"), BLOCKED)
def test_a_restart_does_not_forget_a_verdict(entities: list[FabricEntity], reason: Reason) -> None:
    state = after(*synced(OWN_BLOCK), request(mac=remote().mac), rows(*entities))
    assert desired(state).ports[0].reason is reason
    again = restarted(state)
    assert desired(again).ports == desired(state).ports
    publication = desired(again).publication
    assert publication is not None
    assert publication.endpoints == ()


def test_a_verdict_is_taken_back_with_its_cause() -> None:
    grant = Grant("blue", "n2")
    state = after(*synced(OWN_BLOCK), request(), rows(grant))
    assert desired(state).ports[0].reason is Reason.NOT_GRANTED
    state = after(FabricChanged(deletes=(grant,)), state=state)
    assert desired(state).ports[0].state is PortState.ACTIVE


def test_who_attached_while_a_port_was_blocked_is_not_undone_by_it() -> None:
    revoked = [Grant("blue", "n2")]
    state = after(*synced(OWN_BLOCK), request(), rows(*revoked))
    mine = state.attachments[POD]
    newer = remote(mine.identity, sequence=0, mac=mine.mac)  # our row was withdrawn: it saw nothing
    state = after(rows(newer), FabricChanged(deletes=tuple(revoked)), state=state)
    assert desired(state).ports[0].reason is Reason.SUPERSEDED


AWAY = FabricConnection(connected=False, error="away")
BACK = FabricConnection(connected=True)


def test_a_workload_that_comes_during_an_outage_wins_over_what_was_seen_before() -> None:
    old = remote("ns/pod/eth0", sequence=4)
    keeper = request(key=OTHER, identity="keeps the segment present")
    state = after(*synced(OWN_BLOCK, old), keeper, AWAY, request(mac=old.mac))
    state = after(LinksChanged((NIC,)), state=state)
    assert state.attachments[POD].sequence is None
    assert state.attachments[POD].blocked is None
    moved_on = replace(old, sequence=5)
    state = after(rows(moved_on), BACK, state=state)
    assert state.attachments[POD].sequence == 6
    assert state.attachments[POD].blocked is None


def test_no_attach_during_an_outage_where_that_is_forbidden() -> None:
    strict = State(LocalNode("n1", "eth0", attach_without_fabric=False))
    keeper = request(key=OTHER, identity="keeps the segment present")
    state = after(*synced(OWN_BLOCK), keeper, AWAY, request(), state=strict)
    assert POD in state.requests
    state = after(request(wait_for_fabric=False), state=state)
    assert state.refusals[POD].code == TRY_AGAIN
    assert "away" in state.refusals[POD].message


def test_blocks_of_the_files_are_forgotten_once_the_database_has_told() -> None:
    """The block was given back and may be another node's by now."""
    loaded = AttachmentsLoaded((), (BLUE, OWN_BLOCK))
    state = after(loaded, *synced(OWN_BLOCK), request(), Detached(POD))
    state = after(FabricChanged(deletes=(OWN_BLOCK,)), AWAY, state=state)
    state = after(request(wait_for_fabric=False), state=state)
    assert state.refusals[POD].code == TRY_AGAIN


def test_segments_of_the_files_are_forgotten_once_the_database_has_told() -> None:
    loaded = AttachmentsLoaded((), (BLUE, OWN_BLOCK))
    state = after(loaded, LinksChanged((NIC,)), BACK, FabricSynced(), request())
    assert state.refusals[POD].code == INVALID_CONFIG


def test_a_full_subnet_does_not_hide_one_with_room() -> None:
    wide = replace(BLUE, subnets=(ip_network("10.0.0.0/27"), ip_network("10.1.0.0/24")))
    full = Block("blue", ip_network("10.0.0.0/27"), "n2")
    state = after(*synced(wide, full), request())
    assert POD in state.requests
    publication = desired(state).publication
    assert publication is not None
    (claimed,) = publication.blocks
    assert claimed.prefix.subnet_of(ip_network("10.1.0.0/24"))  # type: ignore[arg-type]  # both IPv4
    state = after(rows(claimed), state=state)
    assert state.attachments[POD].ips[0] in claimed.prefix


def test_a_block_that_others_have_filled_has_no_room() -> None:
    squatters = [
        replace(remote(f"s{n}", mac=f"02:00:00:00:01:{n:02x}"), ips=(ip_address(f"10.0.0.{n}"),))
        for n in range(1, 32)
    ]
    state = after(*synced(OWN_BLOCK, *squatters), request())
    publication = desired(state).publication
    assert publication is not None
    (claimed,) = publication.blocks
    assert claimed != OWN_BLOCK
    state = after(rows(claimed), state=state)
    assert state.attachments[POD].ips[0] in claimed.prefix


def test_next_hops_are_known_until_they_are_not_asked_for() -> None:
    near, far = ip_address("192.0.2.2"), ip_address("192.0.2.3")
    first, second = Mac("02:00:00:00:00:0a"), Mac("02:00:00:00:00:0b")
    told = after(NextHopsChanged({near: first, far: first}))
    changed = after(NextHopsChanged({near: second}), state=told)
    assert changed.bindings.next_hops == {near: second, far: first}
    assert after(NextHopsChanged({far: None}), state=changed).bindings.next_hops == {near: second}


def test_a_switch_that_goes_down_is_still_known() -> None:
    """What it can do decides meanwhile what it is to hold when it is back."""
    key = EntryKey(BLUE.vni, Mac("02:00:00:00:00:01"))
    one, other = (Capability("test", name) for name in ("one", "other"))
    up = after(SwitchSeen(one), TrafficMeasured({key: 10.0}, frozenset({key})))
    down = after(SwitchSeen(None, "no answer"), state=up).switch
    assert down == replace(up.switch, error="no answer")
    back = after(SwitchSeen(None, "no answer"), SwitchSeen(other), state=up).switch
    assert back == replace(up.switch, capability=other)


def test_what_a_switch_holds_at_the_start_counts_as_if_it_had_just_come_in() -> None:
    """One second is too short to tell what it forwards; what is silent goes within some."""
    held, other = (EntryKey(BLUE.vni, Mac(f"02:00:00:00:00:0{n}")) for n in (1, 2))
    measured = TrafficMeasured({held: 0.0, other: 0.0}, frozenset({held}))
    first = after(measured)
    assert first.switch.rates[held] >= KEEP_ABOVE
    assert first.switch.rates[other] == 0.0
    assert after(*[measured] * 9, state=first).switch.rates[held] < KEEP_ABOVE
    assert after(measured, SwitchSeen(None, "no answer")).switch.held == measured.held


@pytest.mark.parametrize(
    ("counts", "before", "now", "after_it"),
    [
        pytest.param(True, 20.0, IDLE, 14.0, id="counted: silent"),
        pytest.param(False, 20.0, IDLE, 20.0 * 0.5 ** (1 / 120), id="not counted: as it was"),
        pytest.param(False, 20.0, 40.0, 26.0, id="not counted: the software has more of it"),
    ],
)
def test_what_is_known_of_what_the_switch_holds(
    counts: bool, before: float, now: float, after_it: float
) -> None:
    held, other = (EntryKey(BLUE.vni, Mac(f"02:00:00:00:00:0{n}")) for n in (1, 2))
    known = SwitchSeen(Capability("test", "switch", counts=counts))
    state = after(known, TrafficMeasured({}, frozenset()))
    rates = {held: before, other: before}
    state = replace(state, switch=replace(state.switch, rates=rates))
    measured = after(TrafficMeasured({held: now, other: IDLE}, frozenset({held})), state=state)
    assert measured.switch.rates == pytest.approx({held: after_it, other: 14.0})


def test_numbers_and_faults_of_open_vswitch_ports_follow_what_it_says() -> None:
    failed = after(OfportChanged("ot0", None, "Device or resource busy"))
    assert failed.bindings.port_faults == {"ot0": "Device or resource busy"}
    made = after(OfportChanged("ot0", 100), state=failed)
    assert (made.bindings.ofports, made.bindings.port_faults) == ({"ot0": 100}, {})
    assert (
        after(OfportChanged("ot0", None), state=made).bindings
        == State(LocalNode("n1", "eth0")).bindings
    )


def test_a_slot_is_not_used_again_at_once() -> None:
    state = after(*synced(OWN_BLOCK), request(), Detached(POD), request(key=OTHER))
    state = after(rows(OWN_BLOCK), state=state)
    assert state.attachments[OTHER].slot == 1
    last = replace(state, last_slot=MAX_SLOTS - 1)
    assert after(request(identity="next"), state=last).attachments[POD].slot == 0


def test_the_vlans_of_a_trunk_port_share_a_slot() -> None:
    asked = [
        request(key=AttachmentKey("c", f"{netdev}.{vlan}"), identity=f"{netdev}/{vlan}", **own)
        for netdev, vlan in (("rep1", 5), ("rep1", 6), ("rep2", 5), ("rep1", None), ("rep1", 7))
        for own in [{"netdev": netdev, "vlan": vlan, "ipam": True, "netns": ""}]
    ]
    state = after(*synced(), *asked)
    slots = [state.attachments[each.key].slot for each in asked]
    assert slots == [0, 0, 1, 2, 0]
    assert state.last_slot == 2  # the next is new, though the last one took a slot of before
    assert [state.attachments[each.key].ovs_port for each in asked[:2]] == ["ot0", "ot0"]
    gone = after(*(Detached(each.key) for each in (asked[0], asked[1], asked[4])), state=state)
    assert after(asked[0], state=gone).attachments[asked[0].key].slot == 3


def test_a_late_word_on_a_segment_that_was_given_up_does_not_count() -> None:
    """It was given up and asked for again meanwhile: its rows are on their way a second time."""
    state = after(*synced(OWN_BLOCK), request())
    word = FabricSynced("blue", state.watched["blue"])
    state = settle(fold(settle(fold(state, Detached(POD))), request()))
    assert POD in settle(fold(state, word)).requests
    assert POD in tell_synced(state).attachments


def test_the_last_leaves_and_the_next_comes_in_one_breath() -> None:
    """The feed is not told, so it will not say again that the segment is synced."""
    state = after(*synced(OWN_BLOCK), request())
    watched = state.watched
    state = settle(fold(fold(state, Detached(POD)), request(key=OTHER)))
    assert state.watched == watched
    assert state.attachments[OTHER].sequence == 0


def test_an_endpoint_that_changes_its_segment_is_in_one_only() -> None:
    red = replace(BLUE, name="red", vni=Vni(101))
    ours = [request(), request(key=OTHER, segment="red", identity="other")]
    block = replace(OWN_BLOCK, segment="red")
    here, there = remote(), replace(remote(), segment="red")
    state = after(*synced(red, OWN_BLOCK, block, here), *ours)
    state = after(FabricChanged((there,), (here,)), state=state)
    views = desired(state).segments
    assert [len(views[name].remotes) for name in ("blue", "red")] == [0, 1]


PINS = tuple(Pin("blue", name, Hardware.NEVER) for name in ("a/b/c", "ns/pod/eth0"))


def test_pins_of_the_segments_here_are_desired_until_they_are_removed() -> None:
    state = after(*synced(OWN_BLOCK, *reversed(PINS), Pin("red", "x/y", Hardware.NEVER)), request())
    assert desired(state).segments["blue"].pins == PINS
    always = replace(PINS[0], hardware=Hardware.ALWAYS)
    state = after(FabricChanged((always,), PINS[1:]), state=state)
    assert desired(state).segments["blue"].pins == (always,)


def test_pins_are_kept_for_a_restart_without_the_database() -> None:
    """An endpoint that is never in hardware does not creep in while nobody tells that it is not."""
    before = desired(after(*synced(OWN_BLOCK, *PINS), request()))
    elsewhere = Pin("red", "x/y", Hardware.NEVER)
    loaded = AttachmentsLoaded(before.attachments, (*before.kept, elsewhere))
    alone = after(loaded, LinksChanged((NIC,)))
    assert desired(alone).segments["blue"].pins == PINS
    back = after(*synced(OWN_BLOCK, PINS[0]), state=alone)
    assert desired(back).segments["blue"].pins == PINS  # the segment's rows are still under way
    told = tell_synced(back)
    assert desired(told).segments["blue"].pins == PINS[:1]
    assert [row for row in desired(told).kept if isinstance(row, Pin)] == [PINS[0]]


RED = Segment("red", Vni(101), encap=Encap.VXLAN, underlay=Family.IPV6)
N3 = Node("n3", (ip_address("192.0.2.3"), ip_address("2001:db8::3")))
IN_RED = Endpoint(
    "red", "n3", Mac("02:00:00:00:00:03"), (ip_address("10.1.0.3"),), "red/a", 0, "c-red", "eth0"
)
GATEWAYS = (
    Svi("a", "shop", "blue", Mac("02:00:5e:00:00:01"), (ip_interface("10.0.0.1/24"),)),
    Svi("b", "shop", "red", Mac("02:00:5e:00:00:02"), (ip_interface("10.1.0.1/24"),)),
    Svi("c", "stock", "green", Mac("02:00:5e:00:00:03"), (ip_interface("10.2.0.1/24"),)),
)


def test_segments_of_the_same_vrf_are_seen_and_routed_into() -> None:
    state = after(*synced(OWN_BLOCK, RED, N3, *GATEWAYS), request())
    assert set(state.watched) == {"blue", "red"}
    assert not desired(state).segments["blue"].synced  # whom red lets in is not known yet
    assert desired(state).held == {100, 101}
    found = desired(tell_synced(after(rows(IN_RED), state=state)))
    blue, red = found.segments["blue"], found.routed["red"]
    assert (set(found.segments), set(found.routed), set(found.held)) == ({"blue"}, {"red"}, set())
    assert (blue.gateway, red.gateway) == GATEWAYS[:2]
    assert [view.segment.name for view in found.of_vrf(GATEWAYS[0])] == ["blue", "red"]
    assert (blue.flood, blue.routers) == ((), N3.vteps[:1])  # of its own underlay's family
    assert [remote.vtep for remote in red.remotes] == list(N3.vteps[1:])
    assert found.peers == {N3.vteps[0]}  # the node has no IPv6 address itself
    alone = after(FabricChanged(deletes=GATEWAYS[1:2]), state=state)
    assert set(alone.watched) == {"blue"}
    assert not desired(tell_synced(alone)).routed


def test_the_gateways_address_and_mac_are_nobody_elses() -> None:
    first = after(*synced(OWN_BLOCK, RED, *GATEWAYS), request())
    (pod,) = published(tell_synced(first)).attachments.values()
    assert pod.ips == (ip_address("10.0.0.2"),)
    asked = after(*synced(OWN_BLOCK, *GATEWAYS), request(mac=GATEWAYS[0].mac))
    refused = published(tell_synced(asked))
    assert refused.refusals[POD].code == DUPLICATE
    assert "that of its gateway, svi a" in refused.refusals[POD].message


def test_gateways_are_kept_for_a_restart_without_the_database() -> None:
    before = desired(tell_synced(after(*synced(OWN_BLOCK, RED, *GATEWAYS), request())))
    alone = after(AttachmentsLoaded(before.attachments, before.kept), LinksChanged((NIC,)))
    found = desired(alone)
    assert (found.segments["blue"].gateway, found.routed["red"].gateway) == GATEWAYS[:2]
    back = after(*synced(OWN_BLOCK), state=alone)
    assert desired(back).segments["blue"].gateway is None  # the database has told of none


EVENTS: list[StateEvent] = [
    *synced(OWN_BLOCK)[:3],
    rows(remote("a", 0, "02:00:00:00:01:01")),
    rows(replace(remote("b", 0, "02:00:00:00:01:02"), ips=(ip_address("10.0.0.98"),))),
    rows(Node("n3", (ip_address("192.0.2.3"),))),
    rows(Grant("blue", "n1"), Grant("blue", "n2")),
    rows(*PINS),
    rows(RED, *GATEWAYS),
]


@given(st.integers())
def test_the_order_of_independent_events_does_not_matter(seed: int) -> None:
    shuffled = EVENTS.copy()
    Random(seed).shuffle(shuffled)
    end: list[StateEvent] = [FabricSynced(), request()]
    assert derive(after(*shuffled, *end)) == derive(after(*EVENTS, *end))
