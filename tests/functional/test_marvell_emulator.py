"""The emulated Octeon 10: misses, entries written by hand, faults, and what it survives."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Raw

from ovs_client import process
from tests.functional.emulated_switch import EmulatedOcteon, emulated_switch, run
from vendors.emulator.control import FaultError, inject, new_mark

BY_HAND, RULE = "cookie=0x77/-1", "cookie=0x77,table=30,in_port=1,actions=drop"
HOST, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
MISSES = {"vf0": "rep0", "rep0": "vf0", "vf1": "rep1", "rep1": "vf1", "up": "cpu0", "cpu0": "up"}
HAND = "cookie=0x77,priority=100,in_port={0},dl_dst={2},actions=output:{1}"


def frame(size: int = 60, *, tagged: bool = False) -> bytes:
    head = Ether(src=HOST, dst=OTHER) / (Dot1Q(vlan=7) if tagged else b"")
    upper = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(os.urandom(size))
    return bytes(head / upper)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedOcteon]:
    with emulated_switch(EmulatedOcteon, tmp_path_factory.mktemp("emu")) as switch:
        yield switch


@pytest.fixture
def switch(device: EmulatedOcteon) -> Iterator[EmulatedOcteon]:
    """Provide the switch with nothing wrong, and leave it so."""
    device.tell("clear")
    device.ofctl("del-flows", BY_HAND)
    yield device
    device.tell("clear")
    device.ofctl("del-flows", BY_HAND)


def number(switch: EmulatedOcteon, port: str) -> str:
    return switch.vsctl("get", "interface", port, "ofport").strip()


def write(switch: EmulatedOcteon, source: str, target: str) -> None:
    """Write an entry by hand, with raw OpenFlow."""
    flow = HAND.format(number(switch, source), number(switch, target), OTHER)
    switch.ofctl("add-flow", flow)


@pytest.mark.parametrize(("source", "target"), MISSES.items())
def test_a_miss_is_delivered_as_it_came(switch: EmulatedOcteon, source: str, target: str) -> None:
    for sent in (frame(), frame(1400), frame(tagged=True)):
        assert switch.ask(source, sent) == {target: [sent]}


def test_an_entry_written_by_hand_moves_frames(switch: EmulatedOcteon) -> None:
    write(switch, "vf0", "up")
    sent = frame()
    assert switch.ask("vf0", sent) == {"up": [sent]}
    assert switch.ask("vf1", sent) == {"rep1": [sent]}
    flows = switch.ofctl("dump-flows", f"dl_dst={OTHER}")
    assert "n_packets=1" in flows


def test_a_probe_that_is_injected_leaves_nothing(switch: EmulatedOcteon) -> None:
    write(switch, "vf0", "up")
    mark = new_mark()
    head = Ether(src=HOST, dst=OTHER) / IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2)
    probe = bytes(head / Raw(mark))
    switch.heard()
    assert inject(switch.control, "vf0", probe, mark) == {"up": [probe]}
    assert inject(switch.control, "up", probe, mark) == {"cpu0": [probe]}
    assert switch.heard() == []


class TestFaults:
    def test_a_full_table(self, switch: EmulatedOcteon) -> None:
        switch.tell("table-full", "30", "2")
        for last in (1, 2):
            switch.ofctl("add-flow", f"cookie=0x77,table=30,in_port={last},actions=drop")
        with pytest.raises(AssertionError, match="OFPFMFC_TABLE_FULL"):
            switch.ofctl("add-flow", "cookie=0x77,table=30,in_port=3,actions=drop")
        switch.tell("clear")
        switch.ofctl("add-flow", "cookie=0x77,table=30,in_port=3,actions=drop")

    def test_a_refused_write(self, switch: EmulatedOcteon) -> None:
        switch.tell("refuse", "1")
        with pytest.raises(AssertionError, match=r"OFPBRC_EPERM.*table:30"):
            switch.ofctl("--bundle", "add-flow", RULE)
        assert "table=30" not in switch.ofctl("dump-flows")
        switch.ofctl("--bundle", "add-flow", RULE)
        assert "table=30" in switch.ofctl("dump-flows")

    def test_slow_writes(self, switch: EmulatedOcteon) -> None:
        switch.tell("slow", "0.5")
        begun = time.monotonic()
        switch.ofctl("add-flow", RULE)
        assert time.monotonic() - begun > 0.5
        assert "table=30" in switch.ofctl("dump-flows")

    def test_garbage(self, switch: EmulatedOcteon) -> None:
        switch.tell("garbage")
        with pytest.raises(AssertionError, match="ovs-ofctl"):
            switch.ofctl("dump-flows")

    def test_a_hang(self, switch: EmulatedOcteon) -> None:
        switch.tell("hang")
        assert switch.ask("vf0", frame()) == {}
        switch.tell("revive")
        assert switch.ask("vf0", frame())

    def test_a_crash_is_over_soon_and_leaves_the_tables_empty(self, switch: EmulatedOcteon) -> None:
        write(switch, "vf0", "up")
        switch.tell("kill")
        assert process.wait_until(lambda: list(switch.ask("vf0", frame())) == ["rep0"], 10)
        assert OTHER not in switch.ofctl("dump-flows")

    def test_dead_until_it_is_revived(self, switch: EmulatedOcteon) -> None:
        switch.tell("die")
        assert switch.ask("vf0", frame()) == {}
        assert switch.ask("vf0", frame()) == {}
        switch.tell("revive")
        assert list(switch.ask("vf0", frame())) == ["rep0"]

    def test_a_reset_takes_ports_of_others_too(self, switch: EmulatedOcteon) -> None:
        write(switch, "vf0", "up")
        switch.vsctl(
            *("add-port", "br-mrv0", "tun0", "--", "set", "interface", "tun0", "type=geneve"),
            "options:remote_ip=flow",
        )
        switch.tell("reset")
        assert list(switch.ask("vf0", frame())) == ["rep0"]
        assert "tun0" not in switch.vsctl("list-ports", "br-mrv0")

    def test_a_port_that_goes_and_comes(self, switch: EmulatedOcteon) -> None:
        switch.tell("port-gone", "vf0")
        assert switch.ask("vf0", frame()) == {}
        assert switch.ask("rep0", frame()) == {}
        switch.tell("port-back", "vf0")
        assert list(switch.ask("vf0", frame())) == ["rep0"]
        assert list(switch.ask("rep0", frame())) == ["vf0"]

    def test_an_entry_that_is_lost(self, switch: EmulatedOcteon) -> None:
        write(switch, "vf0", "up")
        assert OTHER in switch.tell("lose-one")
        assert list(switch.ask("vf0", frame())) == ["rep0"]
        assert not switch.tell("lose-one")

    def test_somebody_else_programs_it(self, switch: EmulatedOcteon) -> None:
        switch.tell("take")
        assert len(switch.ask("vf0", frame())) > 1
        switch.tell("clear")
        assert list(switch.ask("vf0", frame())) == ["rep0"]

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
    def test_words_it_does_not_know(
        self, switch: EmulatedOcteon, words: list[str], error: str
    ) -> None:
        with pytest.raises(FaultError) as caught:
            switch.tell(*words)
        assert error in str(caught.value)


def test_a_vf_that_died_with_its_pod_comes_back(switch: EmulatedOcteon) -> None:
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


def macs(switch: EmulatedOcteon) -> set[tuple[str, str]]:
    lines = run("ip", "-n", switch.names["dpu"], "-br", "link").splitlines()
    return {(words[0], words[2]) for words in map(str.split, lines)}


def test_killed_it_starts_again_on_what_is_left(switch: EmulatedOcteon) -> None:
    before = macs(switch)
    switch.crash()
    switch.start()
    assert macs(switch) == before
    for source, target in MISSES.items():
        sent = frame()
        assert switch.ask(source, sent) == {target: [sent]}


def test_it_says_nothing_of_its_own(switch: EmulatedOcteon) -> None:
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


def test_a_configuration_with_faults(tmp_path: Path) -> None:
    config = tmp_path / "bad.yaml"
    text = "vendor: marvell\nrun_dir: here\nmtu: 9\nbridge: br-mrv0\n"
    config.write_text(text, encoding="utf-8")
    words = (".venv/bin/python", "-m", "vendors.emulator", "--config", str(config))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for fault in ("'here' is not an absolute path", "mtu 9", "addresses is missing"):
        assert fault in done.stderr
