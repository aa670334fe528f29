"""The emulated Octeon 10: misses, entries written by hand, faults, and what it survives."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from ovs_client import process
from tests.functional.emulated_switch import (
    HOST,
    OTHER,
    EmulatedOcteon,
    emulated_switch,
    frame,
)
from vendors.emulator.control import Injection, inject, new_mark

BY_HAND, RULE = "cookie=0x77/-1", "cookie=0x77,table=30,in_port=1,actions=drop"
HAND = "cookie=0x77,priority=100,in_port={0},dl_dst={2},actions=output:{1}"


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
    assert inject(switch.control, [Injection("vf0", probe, mark)]) == [{"up": [probe]}]
    assert inject(switch.control, [Injection("up", probe, mark)]) == [{"cpu0": [probe]}]
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

    @pytest.mark.parametrize("words", [("add-flow", RULE), ("dump-flows",)], ids=lambda w: w[0])
    def test_slow_answers(self, switch: EmulatedOcteon, words: tuple[str, ...]) -> None:
        switch.ofctl("add-flow", RULE)
        switch.tell("slow", "0.5")
        begun = time.monotonic()
        switch.ofctl(*words)
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


def test_a_configuration_with_faults(tmp_path: Path) -> None:
    config = tmp_path / "bad.yaml"
    text = "vendor: marvell\nrun_dir: here\nmtu: 9\nbridge: br-mrv0\n"
    config.write_text(text, encoding="utf-8")
    words = (".venv/bin/python", "-m", "vendors.emulator", "--config", str(config))
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for fault in ("'here' is not an absolute path", "mtu 9", "addresses is missing"):
        assert fault in done.stderr
