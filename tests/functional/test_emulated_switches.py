"""What all emulated switches have in common: misses, cables, and words they are told."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from dataplane.core.agreement import Field, Question
from dataplane.core.path import Action, FromPod
from ovs_client import process
from tests.functional.emulated_switch import (
    HOST,
    OTHER,
    EmulatedE2100,
    EmulatedOcteon,
    EmulatedSwitch,
    EmulatedSx904,
    emulated_switch,
    frame,
    run,
)
from vendors.emulator.control import FaultError, Injection, inject, new_mark
from vendors.injected import InjectedPath

MISSES = {"vf0": "rep0", "rep0": "vf0", "vf1": "rep1", "rep1": "vf1", "up": "cpu0", "cpu0": "up"}


@pytest.fixture(scope="module", params=[EmulatedOcteon, EmulatedE2100, EmulatedSx904])
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[EmulatedSwitch]:
    with emulated_switch(request.param, tmp_path_factory.mktemp("emu")) as switch:
        yield switch


@pytest.fixture
def switch(device: EmulatedSwitch) -> Iterator[EmulatedSwitch]:
    """Provide the switch with nothing wrong, and leave it so."""
    device.tell("clear")
    yield device
    device.tell("clear")


@pytest.mark.parametrize(("source", "target"), MISSES.items())
def test_a_miss_is_delivered_as_it_came(switch: EmulatedSwitch, source: str, target: str) -> None:
    for sent in (frame(), frame(1400), frame(tagged=True)):
        assert switch.ask(source, sent) == {target: [sent]}


def test_a_probe_that_is_injected_leaves_nothing(switch: EmulatedSwitch) -> None:
    mark = new_mark()
    head = Ether(src=HOST, dst=OTHER) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2)
    probe = bytes(head / Raw(mark))
    switch.heard()
    for source, target in MISSES.items():
        assert inject(switch.control, [Injection(source, probe, mark)]) == [{target: [probe]}]
    assert switch.heard() == []


@pytest.mark.parametrize(
    "entry", [FromPod("rep1", "ot1"), None], ids=["from a VF", "from the wire"]
)
def test_as_a_packet_path_it_hands_over_what_it_has_no_entry_for(
    switch: EmulatedSwitch, entry: FromPod | None
) -> None:
    mark = new_mark()
    asked = Question("a frame", frame() + mark, mark, entry, "eth0")
    [seen] = InjectedPath(switch.control).observed([asked])
    assert (seen.action, seen.values[Field.INNER]) == (Action.HAND_OVER, asked.frame)


def test_it_says_which_port_is_what(switch: EmulatedSwitch) -> None:
    assert switch.tell("ports") == {
        "uplink": "up",
        "cpu": "cpu0",
        "vfs": {"rep0": "vf0", "rep1": "vf1"},
        "misses": {"rep0": "rep0", "rep1": "rep1"},
    }


def test_a_port_that_goes_and_comes(switch: EmulatedSwitch) -> None:
    switch.tell("port-gone", "vf0")
    assert switch.ask("vf0", frame()) == {}
    assert switch.ask("rep0", frame()) == {}
    switch.tell("port-back", "vf0")
    assert list(switch.ask("vf0", frame())) == ["rep0"]
    assert list(switch.ask("rep0", frame())) == ["vf0"]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        pytest.param(["melt"], "unknown fault 'melt'; there are table-full,", id="unknown"),
        pytest.param(["table-full", "30"], "usage: table-full TABLE ROWS", id="too few"),
        pytest.param(["slow", "very"], "slow: could not convert", id="no number"),
        pytest.param(["port-gone", "vf9"], "there is no port 'vf9'; there are up,", id="port"),
        pytest.param(["inject", "vf9", "00", "00"], "there is no port 'vf9'", id="inject"),
        pytest.param(["inject", "vf0", "xy", "00"], "non-hexadecimal", id="no frame"),
        pytest.param([], "unknown fault ''", id="nothing"),
    ],
)
def test_words_it_does_not_know(switch: EmulatedSwitch, words: list[str], error: str) -> None:
    with pytest.raises(FaultError) as caught:
        switch.tell(*words)
    assert error in str(caught.value)


def test_a_vf_that_died_with_its_pod_comes_back(switch: EmulatedSwitch) -> None:
    host = switch.names["host"]
    run("ip", "netns", "add", f"{host}-pod")
    run("ip", "-n", host, "link", "set", "vf1", "netns", f"{host}-pod")
    run("ip", "netns", "delete", f"{host}-pod")

    def is_back() -> bool:
        show = ("ip", "-n", host, "link", "show", "vf1")
        return subprocess.run(show, capture_output=True, check=False).returncode == 0

    assert process.wait_until(is_back, 10)
    switch.listen_on("vf1")
    sent = frame()
    assert switch.ask("vf1", sent) == {"rep1": [sent]}


def macs(switch: EmulatedSwitch) -> set[tuple[str, str]]:
    lines = run("ip", "-n", switch.names["dpu"], "-br", "link").splitlines()
    return {(words[0], words[2]) for words in map(str.split, lines)}


def test_killed_it_starts_again_on_what_is_left(switch: EmulatedSwitch) -> None:
    before = macs(switch)
    switch.crash()
    switch.start()
    assert macs(switch) == before
    for source, target in MISSES.items():
        sent = frame()
        assert switch.ask(source, sent) == {target: [sent]}


def test_it_says_nothing_of_its_own(switch: EmulatedSwitch) -> None:
    """Its namespace has the DPU's addresses: nobody but the DPU may answer for them."""
    question = Ether(src=OTHER, dst="ff:ff:ff:ff:ff:ff") / Raw(
        bytes.fromhex("0001080006040001")
        + bytes.fromhex(OTHER.replace(":", ""))
        + bytes([192, 0, 2, 9])
        + bytes(6)
        + bytes([192, 0, 2, 1])
    )
    question.type = 0x0806
    assert switch.ask("up", bytes(question)) == {"cpu0": [bytes(question)]}
