"""The loop with Targets in memory: what an attach waits for, and what a failing Target does."""

import threading
import time
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

import pytest

from dataplane.agent import Agent, Parts
from dataplane.contracts import AttachRefusedError
from dataplane.core.desired import Bindings, Desired, LocalNode
from dataplane.core.diff import Change, Pending, Rendering
from dataplane.core.errors import TargetError
from dataplane.core.events import (
    AttachmentsLoaded,
    AttachRequest,
    FabricChanged,
    FabricConnection,
    FabricSynced,
    Link,
    LinkChanged,
)
from dataplane.core.model import AttachmentKey, Block, Segment, Vni

POD = AttachmentKey("pod", "eth0")
REQUEST = AttachRequest(POD, "/run/netns/pod", "blue", "ns/pod/eth0")
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

    def __init__(self, name: str) -> None:
        self.name = name
        self.held: dict[Hashable, Entry] = {}
        self.refuse = ""
        self.unbound = False

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        if self.unbound and "ot0" not in bindings.links:
            return Rendering({}, tuple(Pending(a.key, "no ot0") for a in desired.attachments))
        return Rendering({a.key: Entry(a.mac) for a in desired.attachments})

    def observe(self) -> Mapping[Hashable, Entry]:
        return dict(self.held)

    def apply(self, change: Change) -> None:
        if self.refuse:
            raise TargetError(self.refuse)
        self.held = {k: v for k, v in self.held.items() if k not in change.remove}
        self.held |= {**change.add, **change.update}


class Lab:
    def __init__(self) -> None:
        self.flows = MemoryTarget("flows")
        self.fabric = MemoryTarget("fabric")
        self.watched: list[list[str]] = []
        parts = Parts((self.flows, self.fabric), (), self.watch)
        self.agent = Agent(LocalNode("n1", "eth0"), parts)

    def watch(self, segments: Mapping[str, int]) -> None:
        self.watched.append(sorted(segments))
        for segment, number in segments.items():
            self.agent.post(FabricSynced(segment, number))

    def synced(self) -> None:
        for event in (
            LinkChanged(NIC),
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


def test_attach_is_programmed_then_published_then_detached(lab: Lab) -> None:
    lab.synced()
    port = lab.agent.admit(REQUEST, 1)
    assert port.attachment.ips == (ip_address("10.0.0.1"),)
    lab.agent.wait_programmed(POD, 1)
    assert POD in lab.flows.held
    assert lab.agent.wait_published(POD, 1)
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
    bound = threading.Timer(0.05, lab.agent.post, [LinkChanged(Link("ot0", 9, "", 1450, up=True))])
    bound.start()
    lab.agent.wait_programmed(POD, 2)


def test_a_failing_target_is_named_and_retried(lab: Lab) -> None:
    lab.flows.refuse = "the switch said no"
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    with pytest.raises(AttachRefusedError, match="flows: the switch said no"):
        lab.agent.wait_programmed(POD, 0.2)
    lab.flows.refuse = ""
    lab.agent.wait_programmed(POD, 5)


def test_an_unpublished_attach_is_programmed_all_the_same(lab: Lab) -> None:
    lab.fabric.refuse = "database away"
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    lab.agent.wait_programmed(POD, 1)
    assert not lab.agent.wait_published(POD, 0.1)


def test_what_was_taken_away_behind_our_back_is_a_fault_and_is_repaired(lab: Lab) -> None:
    lab.synced()
    lab.agent.admit(REQUEST, 1)
    lab.agent.wait_programmed(POD, 1)
    assert lab.agent.wait_published(POD, 1)
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


def test_a_restart_keeps_the_attachment_of_the_files() -> None:
    first = Lab()
    first.agent.start(AttachmentsLoaded((), ()))
    first.synced()
    attachment = first.agent.admit(REQUEST, 1).attachment
    first.agent.stop()
    second = Lab()
    second.agent.start(AttachmentsLoaded((attachment,), (BLUE, BLOCK)))
    second.agent.post(LinkChanged(NIC))
    second.agent.wait_programmed(POD, 1)
    found = second.agent.find(POD)
    assert found is not None
    assert found.attachment == attachment
    second.agent.stop()
