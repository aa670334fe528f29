"""Nodes that share a database agree, whatever happens in whatever order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from itertools import combinations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from dataplane.core.addressing import default_mac
from dataplane.core.admission import DUPLICATE, EXHAUSTED, NOT_GRANTED, TRY_AGAIN
from dataplane.core.events import AttachRequest, Detached
from dataplane.core.mobility import MAX_MOVES, MOVES_PERIOD_S
from dataplane.core.model import Attachment, AttachmentKey, Block, Endpoint, Mac
from dataplane.core.reasons import Reason
from tests.unit.fabric_simulation import BLUE, RED, Database, SimulatedNode, grant_all, quiesce

NODES = st.integers(0, 2)
PODS = st.sampled_from(["a", "b", "c", "d"])
# Some long enough to end a freeze, some too short, and two moves in one second.
PAUSES = st.sampled_from([0, 0, 1, 30, 60, MOVES_PERIOD_S - 1, MOVES_PERIOD_S])
FINAL = (DUPLICATE, EXHAUSTED, NOT_GRANTED)
SHARED_MAC = Mac("02:00:00:00:00:01")
Asked = Mapping[str, object]
ASKED: st.SearchStrategy[Asked] = st.sampled_from(
    [
        {},
        {"mac": SHARED_MAC},
        {"ips": (ip_address("10.0.0.97"),)},
        {"ips": (ip_address("10.0.0.40"),), "ipam": True},
        {"segment": "red"},
    ]
)


class Fabric(RuleBasedStateMachine):
    """Workloads come, go and move; agents and connections fail; the database tells late."""

    @initialize()
    def begin(self) -> None:
        self.database = Database()
        self.database.write(BLUE)
        self.database.write(RED)
        self.nodes = [SimulatedNode(number, self.database) for number in (1, 2, 3)]
        for node in self.nodes:
            node.link()
        self.attached = 0
        self.now = 1_800_000_000
        quiesce(self.database)

    def request(self, pod: str, asked: Asked) -> AttachRequest:
        self.attached += 1
        key = AttachmentKey(f"{pod}{self.attached}", "eth0")
        plain = AttachRequest(key, "/run/netns/pod", "blue", f"ns/{pod}/eth0", self.now)
        return replace(plain, **asked)  # type: ignore[arg-type]  # a row of ASKED

    def places(self, node: SimulatedNode, pod: str) -> list[Attachment]:
        identity, local = f"ns/{pod}/eth0", node.state.local("blue")
        mac = default_mac("blue", identity)
        return [a for a in local if a.identity == identity and a.mac == mac]

    def may_not_move(self, node: SimulatedNode, pod: str) -> bool:
        """Say whether the workload has just come to another node for the fifth time."""
        rows = [row for row in self.database.rows.values() if isinstance(row, Endpoint)]
        return any(
            sum(self.now - time < MOVES_PERIOD_S for time in row.moves) >= MAX_MOVES
            for row in rows
            if (row.segment, row.identity) == ("blue", f"ns/{pod}/eth0") and row.node != node.name
        )

    # --- what users and machines do ---

    @rule(seconds=PAUSES)
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds

    @rule(node=NODES, pod=PODS, asked=ASKED)
    def add(self, node: int, pod: str, asked: Asked) -> None:
        self.nodes[node].ask(self.request(pod, asked))

    @rule(node=NODES, pod=PODS, asked=ASKED)
    def add_at_leisure(self, node: int, pod: str, asked: Asked) -> None:
        self.add(node, pod, asked)
        for _ in range(2):
            self.nodes[node].deliver(20)
            self.nodes[node].begin()
            self.nodes[node].commit()
        self.nodes[node].deliver(20)

    @rule(node=NODES, pod=PODS, away=st.booleans())
    def the_newest_of_a_workload_wins(self, node: int, pod: str, away: bool) -> None:
        """At rest all its places are known, so a new one is active, or is told why it cannot be."""
        self.rest()
        here = self.nodes[node]
        if away:
            here.unlink()
            here.deliver()
        request, frozen = self.request(pod, {}), self.may_not_move(here, pod)
        here.ask(request)
        if not away:
            quiesce(self.database)
        refusal = here.last_word(request.key)
        self.rest()
        if refusal is not None:
            assert refusal.code in ((TRY_AGAIN, *FINAL) if away or frozen else FINAL), refusal
            return
        old = [a for n in self.nodes for a in self.places(n, pod) if a.key != request.key]
        new = here.state.attachments[request.key]
        if new.blocked and new.blocked.reason is Reason.MAC_FROZEN:
            assert away, new
            assert frozen, new
        unknown = [a for a in old if a.blocked and not a.final]
        excused = unknown or (new.blocked and new.blocked.reason is not Reason.SUPERSEDED)
        assert excused or (not new.blocked and all(a.final for a in old)), (new, old)

    @rule(pod=PODS, first=NODES, count=st.integers(1, 7), pause=PAUSES, away=st.booleans())
    def wander(self, pod: str, first: int, count: int, pause: int, away: bool) -> None:
        for node in range(first, first + count):
            self.the_newest_of_a_workload_wins(node % len(self.nodes), pod, away)
            self.now += pause

    @rule(node=NODES, pod=PODS)
    def leave_and_come_in_one_breath(self, node: int, pod: str) -> None:
        here = self.nodes[node]
        gone = [Detached(key) for key in here.state.attachments]
        here.take(*gone, self.request(pod, {}))

    @rule(node=NODES)
    def last_word(self, node: int) -> None:
        for key in [*self.nodes[node].state.requests, *self.nodes[node].state.refusals]:
            self.nodes[node].last_word(key)

    @rule(node=NODES, which=st.integers(0, 9))
    def delete(self, node: int, which: int) -> None:
        keys = sorted(self.nodes[node].state.attachments)
        if keys:
            self.nodes[node].take(Detached(keys[which % len(keys)]))

    @rule(node=NODES)
    def restart(self, node: int) -> None:
        self.nodes[node].restart()

    @rule(node=NODES)
    def cut_or_join(self, node: int) -> None:
        if self.nodes[node].linked:
            self.nodes[node].unlink()
        else:
            self.nodes[node].link()

    @rule(node=NODES)
    def grant_or_revoke(self, node: int) -> None:
        grant = grant_all(self.nodes[node].name)
        if grant in self.database.rows.values():
            self.database.delete(grant)
        else:
            self.database.write(grant)

    # --- what threads do ---

    @rule(node=NODES, count=st.integers(1, 5))
    def deliver(self, node: int, count: int) -> None:
        self.nodes[node].deliver(count)

    @rule(node=NODES)
    def connect(self, node: int) -> None:
        self.nodes[node].connect()

    @rule(node=NODES)
    def take_over(self, node: int) -> None:
        self.nodes[node].take_over()

    @rule(node=NODES)
    def begin_to_publish(self, node: int) -> None:
        self.nodes[node].begin()

    @rule(node=NODES)
    def commit(self, node: int) -> None:
        self.nodes[node].commit()

    @rule()
    def rest(self) -> None:
        quiesce(self.database)
        self.check_agreement()

    def teardown(self) -> None:
        if hasattr(self, "nodes"):
            self.rest()

    # --- what must hold ---

    @invariant()
    def nobody_has_two_attachments_in_one_slot(self) -> None:
        for node in getattr(self, "nodes", []):
            slots = [attachment.slot for attachment in node.state.attachments.values()]
            assert len(slots) == len(set(slots))

    @invariant()
    def nothing_comes_from_another_node_before_its_pod_is_connected(self) -> None:
        for node in getattr(self, "nodes", []):
            rows = [row for row in self.database.of(node.name) if isinstance(row, Endpoint)]
            told = {AttachmentKey(row.container_id, row.ifname) for row in rows}
            assert not told & node.state.withheld

    def check_agreement(self) -> None:
        published = [row for row in self.database.rows.values() if isinstance(row, Endpoint)]
        active = [port.attachment.endpoint(n.name) for n in self.nodes for port in n.active]
        assert sorted(published, key=lambda e: e.key) == sorted(active, key=lambda e: e.key)
        for one, other in combinations(active, 2):
            if one.segment == other.segment:
                assert one.mac != other.mac, (one, other)
                assert not set(one.ips) & set(other.ips), (one, other)
        for row in published:
            self.check_moves(row.moves)
        for node in self.nodes:
            self.check_node(node, active)

    def check_moves(self, moves: tuple[int, ...]) -> None:
        assert moves == tuple(sorted(set(moves)))
        assert len(moves) <= MAX_MOVES
        # Of two in one second the later is put off, by a second for each.
        assert all(time < self.now + MAX_MOVES for time in moves)

    def check_node(self, node: SimulatedNode, active: list[Endpoint]) -> None:
        assert not node.desired.held
        for name, view in node.desired.segments.items():
            seen = {remote.endpoint for remote in view.remotes}
            assert seen == {e for e in active if e.segment == name and e.node != node.name}
        for attachment in node.state.attachments.values():
            assert attachment.sequence is not None or attachment.final
            if not attachment.ipam:
                self.check_block(node, attachment.segment, attachment.ips)

    def check_block(self, node: SimulatedNode, segment: str, ips: tuple[object, ...]) -> None:
        blocks = [row for row in self.database.rows.values() if isinstance(row, Block)]
        for ip in ips:
            if ip in BLUE.static_ranges[0]:
                continue
            owners = {b.node for b in blocks if b.segment == segment and ip in b.prefix}
            assert owners == {node.name}, (ip, owners)


def test_an_agent_that_dies_during_an_add_takes_no_workload_with_it() -> None:
    """Where it is its verdict would be final: it must not be told of a pod that never was."""
    fabric = Fabric()
    fabric.begin()
    old, new, _ = fabric.nodes
    old.ask(fabric.request("a", {}))
    quiesce(fabric.database)
    request = fabric.request("a", {})
    new.ask(request)
    settle_without_pods(new, old)
    assert request.key in new.state.attachments
    new.restart()
    settle_without_pods(new, old)
    (place,) = fabric.places(old, "a")
    assert place.blocked is None
    new.take(Detached(request.key))
    quiesce(fabric.database)
    fabric.check_agreement()
    assert fabric.places(old, "a") == [place]


def settle_without_pods(*nodes: SimulatedNode) -> None:
    """Let them hear and write all there is, while no ADD comes further."""
    for _ in range(5):
        for node in nodes:
            node.deliver(len(node.queue))
            node.begin()
            node.commit()


Fabric.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestNodesAgree = Fabric.TestCase
