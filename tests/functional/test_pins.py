"""Pins from the administrator's file to an agent's switch: real commands, a real database."""

import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from dataplane.agent import Agent, Parts
from dataplane.core.desired import LocalNode
from dataplane.core.events import (
    AttachmentsLoaded,
    LinksChanged,
    NextHopsChanged,
    TrafficMeasured,
)
from dataplane.core.model import EntryKey, Hardware, Mac, Pin, Vni
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import SWITCH_TARGET
from dataplane.fabric.feed import FabricFeed
from dataplane.fabric.store import agent_database
from dataplane.fabric.target import FabricTarget
from tests.functional.fabric_support import wait_until
from tests.functional.test_cli_fabric import INTENT, Fabric
from tests.unit import test_agent
from tests.unit.test_agent import NIC, REQUEST, MemorySwitch

VNI = Vni(7)
MAC = Mac("02:00:00:00:00:99")
FAR = EntryKey(VNI, MAC)
IDENTITY = f"far/blue/{MAC}"
PIN = f"kind: Pin\nsegment: blue\nendpoint: {MAC}\nhardware: always\n"
GRANT = "kind: Grant\nsegment: blue\nnode: n1\n"
OTHER_SEGMENT = "kind: Segment\nname: red\nvni: 8\n"
ON_RED = "kind: Pin\nsegment: red\nendpoint: default/web/eth0\nhardware: never\n"


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    running = Fabric(tmp_path / "db")
    running.wait()
    assert running("apply", "-f", "-", stdin=f"{INTENT}---\n{GRANT}").returncode == 0
    yield running
    running.stop()


@dataclass
class Dpu:
    """An agent of a DPU with a pod behind its switch, which holds in memory what it is told to."""

    agent: Agent
    switch: MemorySwitch
    own: EntryKey

    @property
    def pins(self) -> tuple[Pin, ...]:
        desired = self.agent.snapshot.desired
        assert desired is not None
        return desired.segments["blue"].pins

    def shows(self, pins: tuple[Pin, ...], held: set[EntryKey], why: Reason | None) -> None:
        """Wait until the pins are desired, the switch holds these, and this is said of FAR."""
        wait_until(lambda: self.pins == pins and set(self.switch.held) == held)
        wait_until(lambda: self.agent.snapshot.choice.reasons.get(FAR) is why)


@pytest.fixture
def dpu(fabric: Fabric) -> Iterator[Dpu]:
    database = agent_database(fabric.remote)
    feed = FabricFeed(database, "n1", time.monotonic)
    switch = MemorySwitch(SWITCH_TARGET)
    parts = Parts((FabricTarget(database, "n1"), switch), (feed,), feed.watch)
    agent = Agent(LocalNode("n1", "eth0"), parts)
    agent.start(AttachmentsLoaded((), ()))
    try:
        agent.post(LinksChanged((NIC,)))
        agent.post(test_agent.TestSwitch.SEEN)
        agent.post(TrafficMeasured({}))
        agent.post(NextHopsChanged({ip_address("192.0.2.9"): Mac("02:00:00:00:00:aa")}))
        own = agent.admit(replace(REQUEST, netdev="rep0"), 20).attachment
        yield Dpu(agent, switch, EntryKey(VNI, own.mac))
    finally:
        agent.stop()


def applied(fabric: Fabric, text: str) -> str:
    run = fabric("apply", "-f", "-", stdin=text)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_pin_reaches_the_switch_and_leaves_it(fabric: Fabric, dpu: Dpu) -> None:
    pin = Pin("blue", MAC, Hardware.ALWAYS)
    dpu.shows((), set(), Reason.BELOW_THRESHOLD)

    assert "+ Pin blue/02:00:00:00:00:99 (hardware always)" in applied(fabric, PIN)
    dpu.shows((pin,), {FAR, dpu.own}, None)  # nobody has sent a packet

    never = applied(fabric, PIN.replace("always", "never"))
    assert "~ Pin blue/02:00:00:00:00:99: hardware always -> never" in never
    dpu.agent.post(TrafficMeasured({FAR: 1e6}))
    dpu.shows((replace(pin, hardware=Hardware.NEVER),), set(), Reason.POLICY_OFF)

    dry = fabric("delete", "pin", "blue/02:00:00:00:00:99", "--dry-run").stdout
    assert dry.startswith("1 object would change\n- Pin blue/02:00:00:00:00:99\n")
    assert fabric("delete", "pin", "blue/02:00:00:00:00:99").returncode == 0
    dpu.shows((), {FAR, dpu.own}, None)  # by its traffic


def test_a_pin_by_identity_and_one_on_a_segment_that_is_elsewhere(fabric: Fabric, dpu: Dpu) -> None:
    applied(fabric, f"{OTHER_SEGMENT}---\n{ON_RED}---\n{PIN.replace(MAC, IDENTITY)}")
    dpu.shows((Pin("blue", IDENTITY, Hardware.ALWAYS),), {FAR, dpu.own}, None)
    assert {row["name"]: row["pins"] for row in fabric.rows("segment")} == {"blue": 1, "red": 1}
    assert fabric("delete", "segment", "red").stdout.splitlines()[1:3] == [
        "- Segment red",
        "- Pin red/default/web/eth0",
    ]


def told(run: subprocess.CompletedProcess[str]) -> list[str]:
    return [line.removeprefix("overweave: <stdin>, ") for line in run.stderr.splitlines()]


def test_all_that_is_wrong_with_pins_is_told_at_once(fabric: Fabric) -> None:
    applied(fabric, PIN)
    faulty = "---\n".join(
        [
            PIN.replace("always", "maybe"),
            PIN.replace(MAC, "03:00:00:00:00:01"),
            PIN.replace("blue", "nowhere"),
            PIN.replace(MAC, IDENTITY).replace("always", "never"),
            PIN.replace(MAC, IDENTITY),
            PIN.replace(f"endpoint: {MAC}\n", "mac: x\n"),
            OTHER_SEGMENT,
        ]
    )
    run = fabric("apply", "-f", "-", stdin=faulty)
    assert run.returncode == 2
    assert told(run) == [
        (
            "document 1 (Pin blue/02:00:00:00:00:99), line 4: hardware 'maybe':"
            " input should be 'always' or 'never'"
        ),
        (
            "document 2 (Pin blue/03:00:00:00:00:01), line 8: endpoint '03:00:00:00:00:01' is"
            " neither an identity like default/web/eth0 nor a MAC: mac '03:00:00:00:00:01' is a"
            " multicast or broadcast address"
        ),
        (
            "document 3 (Pin nowhere/02:00:00:00:00:99), line 12: segment 'nowhere' does not exist;"
            " define it in this file or before"
        ),
        (
            f"document 4 (Pin blue/{IDENTITY}), line 19: hardware never contradicts always"
            f" in the pin of {MAC}, the same endpoint at node far"
        ),
        (
            f"document 5 (Pin blue/{IDENTITY}), line 21: Pin blue/{IDENTITY} is already defined"
            " in document 4"
        ),
        "document 6 (Pin blue), line 26: endpoint is missing",
        "document 6 (Pin blue), line 28: unknown key mac",
    ]
    assert [row["name"] for row in fabric.rows("segment")] == ["blue"]
