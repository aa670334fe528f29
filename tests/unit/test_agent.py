"""The loop with Targets in memory: what an attach waits for, and what a failing Target does."""

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from dataplane import agent, worker
from dataplane.agent import Agent, Parts
from dataplane.contracts import AttachRefusedError
from dataplane.core.admission import INVALID_CONFIG
from dataplane.core.capability import Capability, Part, Table
from dataplane.core.desired import Bindings, Desired, LocalNode
from dataplane.core.diff import Change, Pending, Rendering
from dataplane.core.errors import PartlyRefusedError, TargetError
from dataplane.core.events import (
    AttachCancelled,
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
    SwitchSeen,
    TakenOver,
    TargetReport,
    TrafficMeasured,
)
from dataplane.core.model import (
    AttachmentKey,
    Block,
    Encap,
    Endpoint,
    EntryKey,
    Family,
    Guard,
    Mac,
    Node,
    Segment,
    Vni,
)
from dataplane.core.offload import Choice, choose
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import SWITCH_TARGET

POD = AttachmentKey("pod", "eth0")
REQUEST = AttachRequest(POD, "/run/netns/pod", "blue", "ns/pod/eth0", 1_800_000_000)
BLUE = Segment("blue", Vni(7), subnets=(ip_network("10.0.0.0/24"),))
BLOCK = Block("blue", ip_network("10.0.0.0/27"), "n1")
NIC = Link("eth0", 2, "02:00:00:00:00:aa", 1500, up=True, addresses=(ip_address("192.0.2.1"),))


@dataclass(frozen=True, slots=True)
class Entry:
    value: str
    scope: int | None = None


class MemoryTarget:
    """Holds one entry per attachment; ``refuse`` makes apply fail, ``unbound`` keeps it pending."""

    deadline_s = 1.0
    bound_by = frozenset({"ifindexes"})

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: dict[Hashable, Entry] = {}
        self.refuse = ""
        self.unbound = False
        self.renders = 0

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        self.renders += 1
        if self.unbound and "ot0" not in bindings.ifindexes:
            return Rendering({}, tuple(Pending(a.key, "no ot0") for a in desired.attachments))
        return Rendering({a.key: Entry(a.mac) for a in desired.attachments})

    def observe(self) -> Mapping[Hashable, Entry]:
        return dict(self.held)

    def apply(self, change: Change) -> None:
        if self.refuse:
            raise TargetError(self.refuse)
        self.held = {k: v for k, v in self.held.items() if k not in change.remove}
        self.held |= {**change.add, **change.update}


class MemorySwitch(MemoryTarget):
    """Is told what to hold."""

    bound_by = frozenset({"placed"})

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        views = desired.segments.values()
        known = {(v.segment.vni, port.attachment.mac) for v in views for port in v.ports}
        known |= {(v.segment.vni, each.endpoint.mac) for v in views for each in v.remotes}
        return Rendering({key: Entry("placed") for key in bindings.placed if key in known})


class Lab:
    def __init__(self) -> None:
        self.flows = MemoryTarget("flows")
        self.fabric = MemoryTarget("fabric")
        self.watched: list[list[str]] = []
        self.watch_s = 0.0
        self.switch = MemorySwitch(SWITCH_TARGET)  # of those labs that have one
        self.answers = True
        parts = Parts((self.flows, self.fabric), (), self.watch)
        self.agent = Agent(LocalNode("n1", "eth0"), parts)

    def watch(self, segments: Mapping[str, int]) -> None:
        self.watched.append(sorted(segments))
        time.sleep(self.watch_s)
        for segment, number in segments.items() if self.answers else ():
            self.agent.post(FabricSynced(segment, number))

    def synced(self) -> None:
        for event in (
            LinksChanged((NIC,)),
            FabricConnection(connected=True),
            FabricChanged(upserts=(BLUE, BLOCK)),
            FabricSynced(),
        ):
            self.agent.post(event)


@pytest.fixture
def lab() -> Iterator[Lab]:
    lab = Lab()
    lab.agent.start(AttachmentsLoaded((), ()))
    yield lab
    lab.agent.stop()


def test_a_node_that_never_was_in_a_fabric_is_ready() -> None:
    flows = MemoryTarget("flows")
    agent = Agent(LocalNode("n1", "eth0", in_fabric=False), Parts((flows,), (), lambda _: None))
    agent.start(AttachmentsLoaded((), ()))
    agent.post(LinksChanged((NIC,)))
    try:
        assert until(lambda: agent.obstacle() is None)
        assert agent.snapshot.desired is not None
    finally:
        agent.stop()


def test_a_node_in_no_fabric_says_so_at_once(lab: Lab) -> None:
    """It waits for no database; what it may still hold of an earlier fabric is not taken away."""
    lab.synced()
    held = lab.agent.admit(REQUEST, 1).attachment
    flows = MemoryTarget("flows")
    agent = Agent(LocalNode("n1", "eth0", in_fabric=False), Parts((flows,), (), lambda _: None))
    agent.start(AttachmentsLoaded((held,), (BLUE, BLOCK)))
    agent.post(LinksChanged((NIC,)))
    try:
        assert until(lambda: POD in flows.held)
        assert until(lambda: agent.obstacle() is None)
        assert agent.fabric_lag_s == 0.0
        began = time.monotonic()
        for ask in (
            lambda: agent.segment_mtu("red"),
            lambda: agent.admit(
                replace(REQUEST, key=AttachmentKey("c2", "eth0"), segment="red"), 30
            ),
        ):
            with pytest.raises(AttachRefusedError, match="is in no fabric") as refused:
                ask()
            assert refused.value.code == INVALID_CONFIG
        assert not agent.knows_segment("red")
        assert time.monotonic() - began < 5
        assert POD in flows.held
    finally:
        agent.stop()


def test_attach_is_programmed_then_published_then_detached(lab: Lab) -> None:
    lab.synced()
    port = lab.agent.admit(REQUEST, 1)
    assert port.attachment.ips == (ip_address("10.0.0.1"),)
    lab.agent.wait_programmed(POD, 1)
    assert POD in lab.flows.held
    assert lab.agent.publish(POD, 1)
    assert lab.agent.faults(POD) == ()
    lab.agent.detach(POD, 1)
    assert POD not in lab.flows.held
    assert lab.agent.keys() == ()


def test_the_segment_is_watched_while_something_is_attached(lab: Lab) -> None:
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    lab.agent.detach(POD, 1)
    assert lab.watched == [["blue"], []]


def test_an_attach_waits_for_what_is_pending(lab: Lab) -> None:
    lab.flows.unbound = True
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    with pytest.raises(AttachRefusedError, match="flows: no ot0"):
        lab.agent.wait_programmed(POD, 0.2)
    bound = threading.Timer(
        0.05, lab.agent.post, [LinksChanged((Link("ot0", 9, "", 1450, up=True),))]
    )
    bound.start()
    lab.agent.wait_programmed(POD, 2)


def refusing(blocks: tuple[Block, ...]) -> Callable[[Change], None]:
    def apply(_change: Change) -> None:
        raise PartlyRefusedError("refused", dict.fromkeys(blocks, "constraint violation"))

    return apply


@pytest.mark.parametrize("away", [True, False], ids=["database-away", "claim-refused"])
def test_a_block_gives_no_address_before_its_claim_is_confirmed(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, *, away: bool
) -> None:
    """Its row is in the view, but may be one that is on its way back, or out."""
    monkeypatch.setattr("dataplane.agent._BUSY_FABRIC_S", 0.2)
    if away:
        lab.fabric.refuse = "no answer within 10 s"
    else:
        monkeypatch.setattr(lab.fabric, "apply", refusing((BLOCK,)))
    monkeypatch.setattr(lab.fabric, "render", rendering_blocks)
    lab.synced()
    with pytest.raises(AttachRefusedError, match="no free address here"):
        lab.agent.admit(REQUEST, 0.3)


def rendering_blocks(desired: Desired, _bindings: Bindings) -> Rendering:
    blocks = desired.publication.blocks if desired.publication else ()
    return Rendering({block: Entry(str(block)) for block in blocks})


def test_a_block_once_confirmed_gives_addresses_whatever_fails_later(lab: Lab) -> None:
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    assert lab.agent.publish(POD, 1)
    lab.fabric.refuse = "no answer within 10 s"
    others = [AttachmentKey(f"pod{number}", "eth0") for number in (2, 3)]
    for key in others:
        assert lab.agent.admit(replace(REQUEST, key=key, identity=str(key)), 1).attachment.ips


def test_without_the_nic_who_waits_is_told(lab: Lab) -> None:
    lab.synced()
    lab.answers = False  # the segment's rows never come
    lab.agent.post(REQUEST)
    assert until(lambda: POD in lab.agent.snapshot.state.requests)
    lab.agent.post(LinksChanged(gone=(NIC.name,)))
    assert until(lambda: POD in lab.agent.snapshot.state.refusals)
    assert "eth0 does not exist" in lab.agent.snapshot.state.refusals[POD].message


def test_what_changes_nothing_makes_no_work(lab: Lab) -> None:
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    lab.agent.post(OfportChanged("ot0", 100))
    assert until(lambda: lab.agent.snapshot.state.bindings.ofports == {"ot0": 100})
    before = lab.agent.snapshot.generation
    for nothing in (OfportChanged("ot0", 100), AttachCancelled(AttachmentKey("nobody", "eth0"))):
        lab.agent.post(nothing)
        assert until(lab.agent._inbox.empty)  # taken by itself, not in one batch with the next
    lab.agent.post(LinksChanged((Link("seen", 77, "", 1500, up=True),)))
    assert until(lambda: "seen" in lab.agent.snapshot.state.bindings.ifindexes)
    assert lab.agent.snapshot.generation <= before + 1


def test_what_no_decision_rests_on_costs_none(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ADD makes a handful of links and numbers, and a node has hundreds of pods."""
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    assert until(lambda: lab.agent.snapshot.is_programmed(lab.agent.snapshot.generation))
    before, renders = lab.agent.snapshot, lab.flows.renders
    monkeypatch.setattr("dataplane.agent.derive", None)
    lab.agent.post(LinksChanged((Link("ot0", 9, "", 1450, up=True),)))  # what flows are bound by
    assert until(lambda: lab.flows.renders == renders + 1)
    lab.agent.post(LinksChanged((Link("ot0", 9, "", 1500, up=False),)))
    lab.agent.post(OfportChanged("ot0", 100))
    assert until(lambda: lab.agent.snapshot.generation == before.generation + 2)
    assert until(lambda: lab.agent.snapshot.is_programmed(before.generation + 2))
    assert lab.flows.renders == renders + 1
    assert lab.agent.snapshot.desired is before.desired


def test_what_a_target_learns_by_a_refusal_changes_what_it_asks_for(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that has no XDP is asked once: then the target renders without it, and converges."""
    learned: list[Change] = []

    def render(_desired: Desired, _bindings: Bindings) -> Rendering:
        pending = (Pending(("xdp", "eth0"), "the driver has none"),)
        return Rendering({}, pending) if learned else Rendering({"xdp": Entry("eth0")})

    def apply(change: Change) -> None:
        learned.append(change)
        raise PartlyRefusedError("refused", {("xdp", "eth0"): "not supported"})

    monkeypatch.setattr(lab.flows, "render", render)
    monkeypatch.setattr(lab.flows, "apply", apply)
    lab.synced()
    assert until(lambda: lab.flows.name in lab.agent.snapshot.reports and bool(learned))
    assert until(
        lambda: (
            [p.reason for p in lab.agent.snapshot.reports["flows"].pending]
            == ["the driver has none"]
        )
    )
    assert len(learned) == 1


def _is_as_long(asked: list[int], expected: list[int]) -> bool:
    return len(asked) >= len(expected)


def test_what_is_refused_for_good_is_asked_for_twice_until_something_changes(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A map stays full, and to look at all maps takes long."""
    monkeypatch.setattr(worker, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(worker, "LAST_RETRY_S", 0.01)
    asked: list[int] = []

    def refuse(change: Change) -> None:
        asked.append(len(change.add))
        raise PartlyRefusedError("no room", {"map entries": "table-full"}, standing=True)

    monkeypatch.setattr(lab.flows, "apply", refuse)
    lab.synced()
    for pods, expected in ((1, [1, 1]), (2, [1, 1, 2])):
        key = AttachmentKey(f"pod{pods}", "eth0")
        lab.agent.admit(replace(REQUEST, key=key, identity=str(key)), 1)
        assert until(partial(_is_as_long, asked, expected))
        time.sleep(0.2)  # there would be a dozen by now
        assert asked == expected
    lab.agent.poke()
    assert until(lambda: len(asked) == 4)


def test_a_failing_target_is_named_and_retried(lab: Lab) -> None:
    lab.flows.refuse = "the switch said no"
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    with pytest.raises(AttachRefusedError, match="flows: the switch said no"):
        lab.agent.wait_programmed(POD, 0.2)
    lab.flows.refuse = ""
    lab.agent.wait_programmed(POD, 5)


def test_news_ends_the_patience_with_a_target_that_has_long_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a poke tells of may take two tries: one Target's work can rest on another's."""
    monkeypatch.setattr(worker, "FIRST_RETRY_S", 1000)
    monkeypatch.setattr(worker, "LAST_RETRY_S", 1000)
    lab = Lab()
    lab.flows.refuse = "the switch is away"
    lab.agent.start(AttachmentsLoaded((), ()))
    try:
        lab.synced()
        lab.agent.admit(REQUEST, 1)
        assert until(lambda: bool(lab.agent.snapshot.unprogrammed(POD)[0].endswith("is away")))
        monkeypatch.setattr(worker, "FIRST_RETRY_S", 0.01)
        tries: list[Change] = []
        monkeypatch.setattr(lab.flows, "apply", partial(_fail, tries))
        lab.agent.poke()
        assert until(lambda: len(tries) >= 3)
    finally:
        lab.agent.stop()


def _fail(tries: list[Change], change: Change) -> None:
    tries.append(change)
    raise TargetError("its address is not there yet")


def test_an_unpublished_attach_is_programmed_all_the_same(lab: Lab) -> None:
    lab.fabric.refuse = "database away"
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    lab.agent.wait_programmed(POD, 1)
    assert not lab.agent.publish(POD, 0.1)


def test_what_was_taken_away_behind_our_back_is_a_fault_and_is_repaired(lab: Lab) -> None:
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    lab.agent.wait_programmed(POD, 1)
    assert lab.agent.publish(POD, 1)
    lab.flows.held.clear()
    (fault,) = lab.agent.faults(POD)
    assert "flows" in fault
    assert "missing" in fault
    lab.agent.poke()
    deadline = time.monotonic() + 5
    while POD not in lab.flows.held and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lab.agent.faults(POD) == ()


def test_without_the_nic_an_attach_is_refused_and_status_says_why(lab: Lab) -> None:
    lab.agent.post(FabricChanged(upserts=(BLUE,)))
    lab.agent.post(FabricSynced())
    with pytest.raises(AttachRefusedError, match="eth0 does not exist"):
        lab.agent.admit(REQUEST, 0.2)
    obstacle = lab.agent.obstacle()
    assert obstacle is not None
    assert "eth0" in obstacle.message
    assert obstacle.limits_existing


@pytest.mark.parametrize(
    ("about", "in_the_way"),
    [
        pytest.param("ophy0", "flows: it has no number yet", id="a-part-of-the-node"),
        pytest.param(POD, "", id="a-pod"),
        pytest.param("blue", "", id="a-segment"),
    ],
)
def test_a_node_is_ready_once_all_its_parts_are(lab: Lab, about: Hashable, in_the_way: str) -> None:
    lab.synced()
    assert until(lambda: lab.agent.obstacle() is None)
    pending = (Pending(about, "it has no number yet"),)
    lab.agent.post(TargetReport("flows", lab.agent.snapshot.generation, "", pending))
    assert until(lambda: lab.agent.snapshot.reports["flows"].pending == pending)
    obstacle = lab.agent.obstacle()
    assert (obstacle.message if obstacle else "") == in_the_way


def test_a_restart_keeps_the_attachment_of_the_files() -> None:
    first = Lab()
    first.agent.start(AttachmentsLoaded((), ()))
    first.synced()
    attachment = first.agent.admit(REQUEST, 1).attachment
    first.agent.stop()
    second = Lab()
    second.agent.start(AttachmentsLoaded((attachment,), (BLUE, BLOCK)))
    second.agent.post(LinksChanged((NIC,)))
    second.agent.wait_programmed(POD, 1)
    found = second.agent.find(POD)
    assert found is not None
    assert found.attachment == attachment
    second.agent.stop()


def until(condition: Callable[[], bool], timeout_s: float = 5.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


def test_an_answer_to_an_earlier_request_is_no_answer(lab: Lab) -> None:
    lab.watch_s = 0.1  # the loop is busy when the next request comes
    lab.synced()
    with pytest.raises(AttachRefusedError, match="9000"):
        lab.agent.admit(replace(REQUEST, mtu=9000), 1)
    assert lab.agent.admit(REQUEST, 1).attachment.key == POD


def test_what_is_cancelled_is_gone_on_return(lab: Lab) -> None:
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    lab.agent.cancel(POD)
    assert lab.agent.keys() == ()


def test_the_real_thing_is_looked_at_however_much_is_going_on(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RESYNC_S", 0.3)
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    lab.agent.wait_programmed(POD, 1)
    lab.flows.held.clear()
    for number in range(200):
        lab.agent.post(LinksChanged((Link(f"x{number}", number, "", 1500, up=True),)))
        time.sleep(0.01)
        if POD in lab.flows.held:
            return
    pytest.fail("it was not repaired")


def test_an_event_that_cannot_be_taken_takes_no_other_along() -> None:
    lab = Lab()
    lab.synced()
    lab.agent.post(FabricChanged(upserts=None))  # type: ignore[arg-type]  # what no type allows
    lab.agent.start(AttachmentsLoaded((), ()))  # all in one batch
    try:
        assert lab.agent.admit(REQUEST, 10).attachment.key == POD
    finally:
        lab.agent.stop()


def test_an_attach_that_the_database_has_not_seen_is_not_published() -> None:
    """Also while its Target is content: there is nothing to write before the segment is synced."""
    lab = Lab()
    lab.answers = False
    lab.agent.start(AttachmentsLoaded((), (BLUE, BLOCK)))
    lab.agent.post(LinksChanged((NIC,)))
    lab.agent.admit(REQUEST, 0.05)
    lab.agent.wait_programmed(POD, 1)
    assert not lab.agent.publish(POD, 0.1)
    lab.answers = True
    lab.synced()
    lab.watch(lab.agent.snapshot.state.watched)
    assert lab.agent.publish(POD, 1)
    lab.agent.stop()


def test_an_attachment_that_has_changed_has_to_be_published_anew() -> None:
    """No thread runs: each step is taken by hand."""
    lab = Lab()
    lab.agent._take([AttachmentsLoaded((), (BLUE, BLOCK)), LinksChanged((NIC,))])
    lab.agent._take([replace(REQUEST, wait_for_fabric=False)])
    lab.agent._take([PodConnected(POD), TakenOver(POD)])
    lab.agent._take([TargetReport("fabric", lab.agent.snapshot.generation)])
    assert not lab.agent.snapshot.is_published(POD)
    assert lab.agent.snapshot.unpublished(POD) == "not connected yet"
    numbers = lab.agent.snapshot.state.watched
    lab.agent._take([FabricConnection(connected=True), FabricChanged((BLUE, BLOCK))])
    lab.agent._take([FabricSynced(), FabricSynced("blue", numbers["blue"])])
    assert lab.agent.snapshot.state.attachments[POD].sequence == 0
    assert not lab.agent.snapshot.is_published(POD)
    assert lab.agent.snapshot.unpublished(POD) == "fabric has not answered yet"
    lab.agent._take([TargetReport("fabric", lab.agent.snapshot.generation)])
    assert lab.agent.snapshot.is_published(POD)
    lab.agent._take([TargetReport("fabric", lab.agent.snapshot.generation + 1, "no database")])
    assert lab.agent.snapshot.is_published(POD)  # what it holds it does not lose by not answering


def test_what_the_database_refuses_of_an_attachment_is_why_it_is_not_published() -> None:
    lab = Lab()
    lab.agent._take([AttachmentsLoaded((), (BLUE, BLOCK)), LinksChanged((NIC,))])
    lab.agent._take([replace(REQUEST, wait_for_fabric=False)])
    numbers = lab.agent.snapshot.state.watched
    lab.agent._take([FabricConnection(connected=True), FabricChanged((BLUE, BLOCK))])
    assert "have yet to come" in lab.agent.snapshot.unpublished(POD)
    lab.agent._take([FabricSynced(), FabricSynced("blue", numbers["blue"])])
    assert "until its pod is connected" in lab.agent.snapshot.unpublished(POD)
    lab.agent._take([PodConnected(POD), TakenOver(POD)])
    generation, refusal = lab.agent.snapshot.generation, Pending(POD, "not yours")
    lab.agent._take([TargetReport("fabric", generation, pending=(refusal,))])
    assert lab.agent.snapshot.unpublished(POD) == "fabric: not yours"
    assert "desired state" in lab.agent.snapshot.unpublished(AttachmentKey("x", "eth0"))


def test_who_comes_from_another_node_is_published_once_the_pod_is_connected() -> None:
    """No thread runs; what the database was brought to before says nothing of the new row."""
    lab = Lab()
    there = Endpoint("blue", "n2", Mac("02:00:00:00:00:02"), (), REQUEST.identity, 4, "c", "eth0")
    lab.agent._take([AttachmentsLoaded((), (BLUE, BLOCK)), LinksChanged((NIC,))])
    lab.agent._take([FabricConnection(connected=True), FabricChanged((BLUE, BLOCK)), REQUEST])
    numbers = lab.agent.snapshot.state.watched
    rows = FabricChanged((Node("n2", (ip_address("192.0.2.2"),)), there))
    lab.agent._take([rows, FabricSynced(), FabricSynced("blue", numbers["blue"])])
    for _ in range(2):  # the first one confirms the Block, so that the request can be answered
        lab.agent._take([TargetReport("fabric", lab.agent.snapshot.generation)])
    assert lab.agent.snapshot.state.attachments[POD].sequence == 5
    assert not lab.agent.snapshot.is_published(POD)
    lab.agent._take([TargetReport("flows", lab.agent.snapshot.generation)])
    assert lab.agent.snapshot.unprogrammed(POD) == ()
    lab.agent._take([PodConnected(POD)])
    assert lab.agent.snapshot.unprogrammed(POD) != ()
    both = [TargetReport(name, lab.agent.snapshot.generation) for name in ("flows", "fabric")]
    lab.agent._take([*both])
    assert lab.agent.snapshot.unprogrammed(POD) == ()
    lab.agent._take([TakenOver(POD)])
    assert not lab.agent.snapshot.is_published(POD)
    lab.agent._take([TargetReport("fabric", lab.agent.snapshot.generation)])
    assert lab.agent.snapshot.is_published(POD)


def test_what_is_not_served_here_is_not_taken_over(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "_TAKE_OVER_S", 0.3)
    there = Endpoint("blue", "n2", Mac("02:00:00:00:00:02"), (), REQUEST.identity, 4, "c", "eth0")
    lab.synced()
    lab.agent.post(FabricChanged((Node("n2", (ip_address("192.0.2.2"),)), there)))
    lab.agent.admit(REQUEST, 1)
    lab.agent.wait_programmed(POD, 1)
    lab.flows.refuse = "no space"
    lab.flows.held.clear()
    lab.agent.poke()
    with pytest.raises(AttachRefusedError, match="no space"):
        lab.agent.publish(POD, 1)
    assert POD in lab.agent.snapshot.state.withheld
    lab.flows.refuse = ""
    monkeypatch.setattr(agent, "_TAKE_OVER_S", 5.0)
    assert lab.agent.publish(POD, 5)
    assert lab.agent.snapshot.state.withheld == frozenset()


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("node", "identity", "words"),
    [
        pytest.param("n2", REQUEST.identity, "superseded", id="another node has taken it over"),
        pytest.param("n0", "ns/other/eth0", "duplicate", id="another workload claims the same"),
    ],
)
def test_what_can_not_be_taken_over_is_refused(
    lab: Lab, node: str, identity: str, words: str, late: bool
) -> None:
    """Else its ADD succeeds, and nobody will ever hear of the pod."""
    vteps = {"n0": "192.0.2.0", "n2": "192.0.2.2"}
    nodes = [Node(name, (ip_address(vtep),)) for name, vtep in vteps.items()]
    mac = Mac("02:00:00:00:00:02")
    there = Endpoint("blue", "n2", mac, (), REQUEST.identity, 4, "c", "eth0")
    lab.synced()
    lab.agent.post(FabricChanged((*nodes, there)))
    lab.agent.admit(replace(REQUEST, mac=mac), 1)
    lab.agent.wait_programmed(POD, 1)
    lab.fabric.refuse = "away"
    lab.fabric.held.clear()
    lab.agent.look("fabric")
    rival = replace(there, node=node, identity=identity, sequence=9, container_id="d")
    threading.Timer(0.3 if late else 0.0, lab.agent.post, (FabricChanged((rival,)),)).start()
    if not late:
        lab.agent.wait(lambda snapshot: snapshot.state.attachments[POD].blocked is not None, 5)
    with pytest.raises(AttachRefusedError, match=f"pod/eth0 is not served here: {words}"):
        lab.agent.publish(POD, 5)


def test_the_database_is_looked_at_when_it_is_back(lab: Lab) -> None:
    """It may be an older copy of itself."""
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    assert lab.agent.publish(POD, 1)
    lab.agent.post(FabricConnection(connected=False, error="away"))
    lab.fabric.held.clear()
    lab.agent.post(FabricConnection(connected=True))
    assert until(lambda: POD in lab.fabric.held)


def test_an_attachment_of_a_segment_that_is_gone_can_be_taken_away(lab: Lab) -> None:
    lab.synced()
    attachment = lab.agent.admit(REQUEST, 1).attachment
    lab.agent.post(FabricChanged(deletes=(BLUE,)))
    assert until(lambda: lab.agent.find(POD) is None)
    assert lab.agent.keys() == (POD,)
    assert lab.agent.attachment(POD) == attachment
    lab.agent.detach(POD, 1)
    assert lab.agent.keys() == ()
    assert POD not in lab.flows.held


class BrokenFeed:
    def start(self, post: object) -> None:
        raise TargetError("ovsdb-server is not installed")

    def stop(self) -> None:
        raise AssertionError("it was never started")


def test_an_agent_that_cannot_start_can_be_stopped() -> None:
    agent = Agent(LocalNode("n1", "eth0"), Parts((), (BrokenFeed(),), lambda _: None))
    with pytest.raises(TargetError, match="not installed"):
        agent.start(AttachmentsLoaded((), ()))
    agent.stop()


def test_what_the_files_hold_is_known_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tombstone may be replayed before the kernel and the database have told anything."""
    first = Lab()
    first.agent.start(AttachmentsLoaded((), ()))
    first.synced()
    attachment = first.agent.admit(REQUEST, 1).attachment
    first.agent.stop()
    second = Lab()
    begun: list[tuple[AttachmentKey, ...]] = []
    begin = second.agent._thread.start

    def start() -> None:
        begun.append(second.agent.keys())
        begin()

    monkeypatch.setattr(second.agent._thread, "start", start)
    second.agent.start(AttachmentsLoaded((attachment,), (BLUE, BLOCK)))
    assert begun == [(POD,)]
    second.agent.detach(POD, 1)
    assert second.agent.keys() == ()
    second.agent.stop()


def test_a_detach_waits_for_every_local_target(lab: Lab) -> None:
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    lab.agent.wait_programmed(POD, 1)
    lab.flows.refuse = "busy"
    recovery = threading.Timer(0.3, setattr, (lab.flows, "refuse", ""))
    recovery.start()
    lab.agent.detach(POD, 5)
    assert lab.flows.held == {}


def test_a_slot_of_another_attachment_is_programmed_anew(lab: Lab) -> None:
    """An attach is in place when this one is, not one of the same name before it."""
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    lab.agent.wait_programmed(POD, 1)
    lab.flows.refuse = "busy"
    lab.agent.cancel(POD)
    lab.agent.admit(replace(REQUEST, mac=Mac("02:00:00:00:00:05")), 1)
    with pytest.raises(AttachRefusedError, match="busy"):
        lab.agent.wait_programmed(POD, 0.2)


def test_a_segment_is_known_once_it_was_told(lab: Lab) -> None:
    assert not lab.agent.knows_segment("blue")
    lab.synced()
    assert until(lambda: lab.agent.knows_segment("blue"))
    assert not lab.agent.knows_segment("green")


def test_all_targets_come_to_their_end_at_the_same_time(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that hangs takes its time while the others take theirs."""
    begun, told = threading.Event(), []
    other = next(each for each in lab.agent._workers if each.target is lab.fabric)

    def hang(_change: Change) -> None:
        begun.set()
        told.append(until(lambda: other._stopping, 5))

    monkeypatch.setattr(lab.flows, "apply", hang)
    lab.synced()
    lab.agent.post(REQUEST)
    assert begun.wait(5)
    lab.agent.stop(20.0)
    assert told == [True]


def test_nobody_waits_for_an_agent_that_has_ended(lab: Lab) -> None:
    """The process ends when its callers have their answer."""
    told: list[bool] = []
    waiting = threading.Thread(target=lambda: told.append(lab.agent.wait(lambda _: False, 30)))
    waiting.start()
    lab.agent.stop()
    waiting.join(5)
    assert told == [False]
    with pytest.raises(AttachRefusedError, match="could not decide in time"):
        lab.agent.admit(REQUEST, 30)


class TestSwitch:
    """A pod behind the DPU's switch, and one elsewhere that it talks to."""

    FAR = Endpoint("blue", "n2", Mac("02:00:00:00:00:02"), (), "far", 0, "far", "eth0")
    KEY = EntryKey(BLUE.vni, FAR.mac)
    VTEP = ip_address("192.0.2.2")
    TABLE = Table("all", 100, rows={Part.LOCAL: 1, Part.REMOTE: 1, Part.MEMBER: 1})
    SEEN = SwitchSeen(
        Capability(
            "test",
            "switch",
            frozenset({(Encap.GENEVE, Family.IPV4)}),
            {"rep0": frozenset(Guard)},
            (TABLE,),
        )
    )

    @pytest.fixture
    def lab(self) -> Iterator[Lab]:
        lab = Lab()
        parts = Parts((lab.flows, lab.fabric, lab.switch), (), lab.watch)
        lab.agent = Agent(LocalNode("n1", "eth0"), parts)
        lab.agent.start(AttachmentsLoaded((), ()))
        lab.synced()
        there = Node("n2", (self.VTEP,))
        lab.agent.post(FabricChanged(upserts=(self.FAR, there)))
        lab.agent.post(NextHopsChanged({self.VTEP: Mac("02:00:00:00:00:99")}))
        yield lab
        lab.agent.stop()

    def talk(self, lab: Lab, rate: float) -> None:
        lab.agent.post(TrafficMeasured({self.KEY: rate}))

    def complains(self, lab: Lab) -> bool:
        report = lab.agent.snapshot.reports.get(SWITCH_TARGET)
        return report is not None and bool(report.error)

    def test_what_is_busy_gets_into_the_switch_and_out_again(self, lab: Lab) -> None:
        lab.agent.post(self.SEEN)
        own = lab.agent.admit(replace(REQUEST, netdev="rep0"), 1).attachment
        assert own.access_port == "rep0"
        self.talk(lab, 1000.0)
        assert until(lambda: set(lab.switch.held) == {self.KEY, (BLUE.vni, own.mac)})
        assert lab.agent.snapshot.choice.reasons == {}
        for _ in range(30):
            self.talk(lab, 0.0)
        assert until(lambda: not lab.switch.held)
        assert lab.agent.snapshot.choice.reasons[self.KEY] is Reason.BELOW_THRESHOLD

    def test_an_attach_does_not_wait_for_the_switch(self, lab: Lab) -> None:
        lab.switch.refuse = "the device does not answer"
        lab.agent.post(self.SEEN)
        lab.agent.admit(replace(REQUEST, netdev="rep0"), 1)
        self.talk(lab, 1000.0)
        assert until(lambda: self.complains(lab))
        lab.agent.wait_programmed(POD, 1)
        assert lab.agent.obstacle() is None

    def test_what_the_switch_lacks_is_no_fault_of_the_pod(self, lab: Lab) -> None:
        lab.agent.post(self.SEEN)
        lab.agent.admit(replace(REQUEST, netdev="rep0"), 1)
        self.talk(lab, 1000.0)
        assert until(lambda: bool(lab.switch.held))
        lab.agent.wait_programmed(POD, 1)
        lab.switch.refuse = "the device does not answer"
        lab.switch.held.clear()
        assert lab.agent.faults(POD) == ()

    def test_a_reset_that_nobody_tells_of_is_seen_by_what_is_missing(self, lab: Lab) -> None:
        lab.agent.post(self.SEEN)
        own = lab.agent.admit(replace(REQUEST, netdev="rep0"), 1).attachment
        self.talk(lab, 1000.0)
        keys = frozenset({self.KEY, EntryKey(BLUE.vni, own.mac)})
        assert until(lambda: set(lab.switch.held) == keys)
        lab.switch.held.clear()
        lab.agent.post(TrafficMeasured({self.KEY: 1000.0}, keys))  # from before
        assert not until(lambda: bool(lab.switch.held), 0.3)
        lab.agent.post(TrafficMeasured({self.KEY: 1000.0}, keys - {self.KEY}))
        assert until(lambda: set(lab.switch.held) == keys)

    def test_a_restart_takes_nothing_out_of_the_switch(self, lab: Lab) -> None:
        """Nor does it keep what nobody wants any more, once it is known what is there."""
        lab.agent.post(self.SEEN)
        lab.agent.admit(replace(REQUEST, netdev="rep0"), 1)
        self.talk(lab, 1000.0)
        assert until(lambda: len(lab.switch.held) == 2)
        before, keys = dict(lab.switch.held), lab.agent.snapshot.choice.placed
        attachment = lab.agent.snapshot.state.attachments[POD]
        lab.agent.stop()
        stale = EntryKey(BLUE.vni, Mac("02:00:00:00:00:77"))
        lab.switch.held[stale] = Entry("placed")

        parts = Parts((lab.flows, lab.fabric, lab.switch), (), lab.watch)
        lab.agent = Agent(LocalNode("n1", "eth0"), parts)
        lab.agent.start(AttachmentsLoaded((attachment,), (BLUE,)))
        lab.agent.post(self.SEEN)
        lab.synced()
        lab.agent.post(FabricChanged(upserts=(self.FAR, Node("n2", (self.VTEP,)))))
        lab.agent.post(NextHopsChanged({self.VTEP: Mac("02:00:00:00:00:99")}))
        lab.agent.poke()
        lab.agent.wait_programmed(POD, 5)
        assert not until(lambda: lab.switch.held != {**before, stale: Entry("placed")}, 0.3)
        lab.agent.post(TrafficMeasured({self.KEY: 0.0}, keys | {stale}))
        assert until(lambda: stale not in lab.switch.held)
        for _ in range(9):
            lab.agent.post(TrafficMeasured({self.KEY: 5.0}, keys))
        assert not until(lambda: lab.switch.held != before, 0.3)

    def test_how_full_the_switch_is_decides_nothing_and_is_known(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[object] = []

        def counting(*args: Any) -> Choice:
            asked.append(args)
            return choose(*args)

        monkeypatch.setattr(agent, "choose", counting)
        assert self.SEEN.capability is not None
        lab.agent.post(self.SEEN)
        lab.agent.post(TrafficMeasured({}))
        lab.agent.admit(replace(REQUEST, netdev="rep0"), 1)
        lab.agent.wait_programmed(POD, 5)
        before = len(asked)
        tables, limits = (replace(self.TABLE, used=8),), ("8 flows in hardware",)
        full = replace(self.SEEN.capability, tables=tables, limits=limits)
        lab.agent.post(SwitchSeen(full))
        assert until(lambda: lab.agent.snapshot.state.switch.capability == full)
        assert len(asked) == before
        lab.agent.post(SwitchSeen(replace(full, obstacle="not ours")))
        assert until(lambda: len(asked) > before)

    def test_what_an_earlier_agent_left_in_the_switch_goes(self, lab: Lab) -> None:
        """Also where nothing is to be there, and so nothing seems to change."""
        stale = EntryKey(BLUE.vni, Mac("02:00:00:00:00:77"))
        lab.switch.held[stale] = Entry("placed")
        lab.agent.post(self.SEEN)
        lab.agent.admit(replace(REQUEST, netdev="rep0"), 1)
        lab.agent.wait_programmed(POD, 5)
        assert stale in lab.switch.held
        lab.agent.post(TrafficMeasured({stale: 9.0}, frozenset({stale})))
        assert until(lambda: lab.switch.held == {})

    def test_what_the_device_cannot_check_is_not_put_back_when_it_returns(self, lab: Lab) -> None:
        """A guard changes while the device is down; the worker is the first to see it return."""
        assert self.SEEN.capability is not None
        guards = {"rep0": frozenset({Guard.MAC})}
        seen = SwitchSeen(replace(self.SEEN.capability, guards=guards))
        lab.agent.post(FabricChanged(upserts=(replace(BLUE, guard=Guard.MAC),)))
        lab.agent.post(seen)
        lab.agent.admit(replace(REQUEST, netdev="rep0"), 1)
        self.talk(lab, 1000.0)
        assert until(lambda: len(lab.switch.held) == 2)
        lab.switch.refuse = "no answer"
        lab.agent.post(SwitchSeen(None, "no answer"))
        lab.agent.post(FabricChanged(upserts=(BLUE,)))
        assert until(lambda: self.complains(lab))
        lab.switch.held.clear()
        lab.switch.refuse = ""
        lab.agent.look(SWITCH_TARGET)
        assert until(lambda: not self.complains(lab))
        assert lab.switch.held == {}

    def test_other_targets_do_not_render_what_only_the_switch_looks_at(self, lab: Lab) -> None:
        lab.agent.post(self.SEEN)
        lab.agent.admit(replace(REQUEST, netdev="rep0"), 1)
        lab.agent.wait_programmed(POD, 1)
        renders = lab.flows.renders
        self.talk(lab, 1000.0)
        assert until(lambda: bool(lab.switch.held))
        assert lab.flows.renders == renders

    def hold(self, lab: Lab, monkeypatch: pytest.MonkeyPatch) -> threading.Event:
        """Have the switch take no change before the event is set."""
        opened, apply = threading.Event(), lab.switch.apply

        def late(change: Change) -> None:
            assert opened.wait(20)
            apply(change)

        monkeypatch.setattr(lab.switch, "apply", late)
        return opened

    def place(self, lab: Lab) -> EntryKey:
        """Have a pod behind rep0 and the far one in the switch."""
        lab.agent.post(self.SEEN)
        own = lab.agent.admit(replace(REQUEST, netdev="rep0"), 1).attachment
        self.talk(lab, 1000.0)
        keys = {self.KEY, EntryKey(BLUE.vni, own.mac)}
        assert until(lambda: lab.switch.held.keys() == keys)
        assert until(lambda: lab.agent.snapshot.state.switch.leaving == frozenset())
        return EntryKey(BLUE.vni, own.mac)

    def attach(self, lab: Lab, name: str, netdev: str) -> AttachmentKey:
        key = AttachmentKey(name, "eth0")
        lab.agent.admit(replace(REQUEST, key=key, identity=name, netdev=netdev), 1)
        return key

    def test_a_detach_waits_for_a_switch_that_holds_the_pod(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = self.place(lab)
        opened = self.hold(lab, monkeypatch)
        threading.Timer(0.3, opened.set).start()
        lab.agent.detach(POD, 5)
        assert opened.is_set()
        assert own not in lab.switch.held
        assert POD not in lab.flows.held

    def test_a_detach_does_not_wait_for_a_switch_that_holds_nothing_of_the_pod(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dataplane.agent._WITHDRAW_S", 60)
        self.place(lab)
        opened = self.hold(lab, monkeypatch)
        idle = self.attach(lab, "idle", "rep9")  # no port of the switch
        lab.agent.wait_programmed(idle, 5)
        lab.agent.detach(idle, 60)
        assert idle not in lab.flows.held
        opened.set()

    def test_a_port_is_free_once_the_switch_has_let_go(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dataplane.agent._WITHDRAW_S", 0.2)
        old = self.place(lab)
        opened = self.hold(lab, monkeypatch)
        lab.agent.detach(POD, 5)
        assert POD not in lab.flows.held
        assert old in lab.switch.held
        elsewhere = self.attach(lab, "elsewhere", "rep1")
        lab.agent.wait_programmed(elsewhere, 5)
        here = self.attach(lab, "here", "rep0")
        with pytest.raises(AttachRefusedError, match=r"switch .* behind rep0 before"):
            lab.agent.wait_programmed(here, 0.3)
        self.talk(lab, 1000.0)
        assert until(lambda: self.KEY in lab.agent.snapshot.choice.reasons)
        assert lab.agent.snapshot.choice.placed == frozenset()
        opened.set()
        lab.agent.wait_programmed(here, 5)
        port = lab.agent.find(here)
        assert port is not None
        assert old not in lab.switch.held
        new = EntryKey(BLUE.vni, port.attachment.mac)
        assert until(lambda: new in lab.switch.held)

    def test_a_dead_switch_keeps_the_port_and_not_the_detach(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dataplane.agent._WITHDRAW_S", 60)
        self.place(lab)
        lab.switch.refuse = "no answer within 0.5 s"
        lab.agent.post(SwitchSeen(None, "no answer within 0.5 s"))
        lab.agent.detach(POD, 60)
        here = self.attach(lab, "here", "rep0")
        with pytest.raises(AttachRefusedError, match=r"no answer within 0.5 s"):
            lab.agent.wait_programmed(here, 0.3)
        lab.switch.refuse = ""
        lab.agent.post(self.SEEN)
        lab.agent.wait_programmed(here, 10)

    def test_a_port_of_an_earlier_run_is_free_once_the_switch_has_been_seen(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dataplane.agent._WITHDRAW_S", 0.2)
        own = self.place(lab)
        self.restart_beside_a_dead_switch(lab)
        lab.synced()
        lab.agent.wait_programmed(POD, 5)
        lab.agent.detach(POD, 5)
        assert own in lab.switch.held
        here = self.attach(lab, "here", "rep0")
        with pytest.raises(AttachRefusedError, match="behind rep0 before"):
            lab.agent.wait_programmed(here, 0.3)
        lab.switch.refuse = ""
        lab.agent.post(self.SEEN)
        self.talk(lab, 0.0)
        lab.agent.wait_programmed(here, 10)
        assert own not in lab.switch.held

    def test_a_port_that_is_given_up_before_the_agent_knows_its_nic_is_held_all_the_same(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dataplane.agent._WITHDRAW_S", 0.2)
        own = self.place(lab)
        self.restart_beside_a_dead_switch(lab)
        lab.agent.detach(POD, 0.1)
        assert lab.agent.keys() == ()
        lab.synced()
        here = self.attach(lab, "here", "rep0")
        with pytest.raises(AttachRefusedError, match="behind rep0 before"):
            lab.agent.wait_programmed(here, 0.3)
        lab.switch.refuse = ""
        lab.agent.post(self.SEEN)
        self.talk(lab, 0.0)
        lab.agent.wait_programmed(here, 10)
        assert own not in lab.switch.held

    def restart_beside_a_dead_switch(self, lab: Lab) -> None:
        """Start the agent anew, with what its files hold, and nothing told yet."""
        attachment = lab.agent.attachment(POD)
        assert attachment is not None
        lab.agent.stop()
        lab.switch.refuse = "no answer within 0.5 s"
        parts = Parts((lab.flows, lab.fabric, lab.switch), (), lab.watch)
        lab.agent = Agent(LocalNode("n1", "eth0"), parts)
        lab.agent.start(AttachmentsLoaded((attachment,), (BLUE, BLOCK)))

    def test_what_moves_leaves_the_switch_then_changes_then_comes_back(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Section 5 of the design: withdraw hardware, change software, then place again."""
        told: list[str] = []

        def render(desired: Desired, _bindings: Bindings) -> Rendering:
            views = desired.segments.values()
            return Rendering(
                {each.endpoint.mac: Entry(str(each.vtep)) for v in views for each in v.remotes}
            )

        def telling(target: MemoryTarget, word: str) -> Callable[[Change], None]:
            apply = target.apply

            def tell(change: Change) -> None:
                apply(change)
                there = self.KEY in change.add
                gone = self.KEY in change.remove
                if there or gone or self.FAR.mac in change.update:
                    told.append({there: "placed", gone: "withdrawn"}.get(True, word))

            return tell

        monkeypatch.setattr("dataplane.agent._SWITCH_FIRST_S", 60)
        monkeypatch.setattr(lab.flows, "render", render)
        self.place(lab)
        for target in (lab.switch, lab.flows):
            monkeypatch.setattr(target, "apply", telling(target, "changed"))
        elsewhere = ip_address("192.0.2.3")
        lab.agent.post(NextHopsChanged({elsewhere: Mac("02:00:00:00:00:99")}))
        moved = replace(self.FAR, node="n3", sequence=1)
        lab.agent.post(FabricChanged(upserts=(Node("n3", (elsewhere,)), moved)))
        lab.agent.post(FabricChanged(deletes=(self.FAR,)))
        assert until(lambda: told[-1:] == ["placed"])
        assert told == ["withdrawn", "changed", "placed"]

    def test_no_change_waits_long_for_a_switch_and_no_add_at_all(
        self, lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dataplane.agent._WITHDRAW_S", 0.2)
        self.place(lab)
        opened = self.hold(lab, monkeypatch)
        lab.agent.detach(POD, 5)
        assert POD not in lab.flows.held  # after _SWITCH_FIRST_S
        opened.set()
        assert until(lambda: not lab.agent.snapshot.state.switch.leaving)
        monkeypatch.setattr("dataplane.agent._SWITCH_FIRST_S", 60)
        own = replace(REQUEST, netdev="rep0")
        lab.agent.admit(own, 1)
        self.talk(lab, 1000.0)
        assert until(lambda: self.KEY in lab.switch.held)
        opened.clear()
        lab.agent.post(Detached(POD))
        assert until(lambda: bool(lab.agent.snapshot.state.switch.leaving))
        assert POD in lab.flows.held
        lab.agent.wait_programmed(self.attach(lab, "other", ""), 5)
        assert POD not in lab.flows.held
        opened.set()
