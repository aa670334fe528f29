"""The emulated SX904 as a process: filters by raw rtnetlink move frames, and its faults."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator

import pytest

from tests.functional.emulated_switch import EmulatedSx904, emulated_switch, run
from tests.functional.rtnl_client import Client, client
from tests.packets.sx904_frames import (
    DEVICES,
    FAR,
    KINDS,
    OWN,
    POD,
    REMOTE,
    arriving,
    golden,
    inner,
    inward,
    outward,
    portless,
)
from tests.unit.rtnl_by_hand import (
    DELTFILTER,
    GETLINK,
    IN_HW,
    SKIP_SW,
    clsact,
    dump,
    new_filter,
    one_filter,
)
from tests.unit.sx904_card import HOP, OWN_MAC, REP0, REP1
from vendors.emulator.control import FaultError, Injection, inject, new_mark
from vendors.emulator.packets import Encap

OUT = outward(Encap.GENEVE, 4)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmulatedSx904]:
    with emulated_switch(EmulatedSx904, tmp_path_factory.mktemp("emu")) as switch:
        address_card(switch)
        yield switch


def address_card(switch: EmulatedSx904) -> None:
    """Give the card its VTEPs, and neighbours that it need not ask for."""
    inside = ("ip", "-n", switch.names["dpu"])
    quiet = [f"net.ipv6.conf.eth0.{each}" for each in ("addr_gen_mode=1", "disable_ipv6=0")]
    run("ip", "netns", "exec", switch.names["dpu"], "sysctl", "-qw", *quiet)
    run(*inside, "link", "set", "eth0", "address", OWN_MAC)
    for version, size in ((4, 24), (6, 64)):
        run(*inside, "address", "add", f"{OWN[version]}/{size}", "dev", "eth0", "nodad")
        neighbour = ("lladdr", HOP, "dev", "eth0", "nud", "permanent")
        run(*inside, "neighbour", "replace", REMOTE[version], *neighbour)


@pytest.fixture
def switch(device: EmulatedSx904) -> Iterator[EmulatedSx904]:
    """Provide the switch with nothing wrong and no filter."""
    device.tell("clear")
    device.tell("reset")
    yield device
    device.tell("clear")


@pytest.fixture
def writer(switch: EmulatedSx904) -> Iterator[Client]:
    """Provide a connection, with clsact at every netdev."""
    with client(switch.rtnetlink) as made:
        made.do(*(clsact(number) for number in (REP0, REP1, *DEVICES.values())))
        yield made


def asked(switch: EmulatedSx904, port: str, frame: bytes) -> dict[str, list[bytes]]:
    """Let a marked frame in, and return what came of it, without what the card's IPv6 says."""
    mark = new_mark()
    [found] = inject(switch.control, [Injection(port, frame + mark, mark)])
    return {name: [each.replace(mark, b"") for each in frames] for name, frames in found.items()}


def test_a_filter_written_by_hand_moves_a_frame(switch: EmulatedSx904, writer: Client) -> None:
    assert asked(switch, "vf0", inner()) == {"rep0": [inner()]}
    writer.do(new_filter(REP0, OUT))
    sent = inner() + new_mark()
    came = [each for each in switch.ask("vf0", sent)["up"] if each.endswith(sent)]
    assert [portless(each, 4) for each in came] == [bytes(golden(Encap.GENEVE, 4, sent))]
    [found] = writer.filters(REP0)
    assert found.flags == SKIP_SW | IN_HW
    assert found.counters == [(1, len(sent))] * 2
    writer.do(one_filter(DELTFILTER, REP0, 10, found.handle))
    assert asked(switch, "vf0", inner()) == {"rep0": [inner()]}


@pytest.mark.parametrize(("encap", "version"), KINDS)
def test_both_ways_through_tunnels(
    switch: EmulatedSx904, writer: Client, encap: Encap, version: int
) -> None:
    writer.do(new_filter(REP0, outward(encap, version)))
    writer.do(new_filter(DEVICES[encap], inward(version)))
    mark = new_mark()
    back = inner(FAR, POD) + mark
    wanted = [
        Injection("vf0", inner() + mark, mark),
        Injection("up", bytes(arriving(encap, version, back)), mark),
    ]
    [out] = inject(switch.control, wanted[:1])
    assert [portless(each, version) for each in out["up"]] == [
        bytes(golden(encap, version, inner() + mark))
    ]
    assert inject(switch.control, wanted[1:]) == [{"vf0": [back]}]


def test_as_long_as_no_neighbour_is_known_it_is_a_miss(
    switch: EmulatedSx904, writer: Client
) -> None:
    inside = ("ip", "-n", switch.names["dpu"], "neighbour")
    run(*inside, "delete", REMOTE[4], "dev", "eth0")
    try:
        time.sleep(0.6)  # what it has heard of the kernel counts half a second
        writer.do(new_filter(REP0, OUT))
        assert asked(switch, "vf0", inner()) == {"rep0": [inner()]}
        [found] = writer.filters(REP0)
        assert found.counters == [(0, 0)] * 2
    finally:
        run(*inside, "replace", REMOTE[4], "lladdr", HOP, "dev", "eth0", "nud", "permanent")
    time.sleep(0.1)
    assert list(asked(switch, "vf0", inner())) == ["up"]


class TestFaults:
    def test_a_full_table(self, switch: EmulatedSx904, writer: Client) -> None:
        switch.tell("table-full", "filters", "0")
        answer = writer.ask(new_filter(REP0, OUT))
        assert (answer.error, answer.words) == (
            errno.ENOSPC,
            "ice: Unable to add filter due to error",
        )
        switch.tell("clear")
        writer.do(new_filter(REP0, OUT))

    def test_a_refused_filter(self, switch: EmulatedSx904, writer: Client) -> None:
        switch.tell("refuse", "1")
        assert writer.ask(new_filter(REP0, OUT)).error == errno.EIO
        assert writer.filters(REP0) == []
        writer.do(new_filter(REP0, OUT))

    def test_slow_filters(self, switch: EmulatedSx904, writer: Client) -> None:
        switch.tell("slow", "0.5")
        begun = time.monotonic()
        writer.do(new_filter(REP0, OUT))
        assert time.monotonic() - begun > 0.5

    def test_garbage(self, switch: EmulatedSx904, writer: Client) -> None:
        switch.tell("garbage")
        writer.send(dump(GETLINK))
        assert writer.socket.recv(1 << 16) == bytes(range(256))
        switch.tell("clear")
        assert len(writer.dump(dump(GETLINK))) == 5

    @pytest.mark.parametrize("end", ["revive", "clear"])
    def test_a_hang_stops_no_frame(self, switch: EmulatedSx904, writer: Client, end: str) -> None:
        writer.do(new_filter(REP0, OUT))
        switch.tell("hang")
        writer.send(dump(GETLINK))
        writer.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            writer.receive()
        assert list(asked(switch, "vf0", inner())) == ["up"]
        switch.tell(end)
        writer.socket.settimeout(10)
        assert writer.receive()

    @pytest.mark.parametrize("fault", ["kill", "reset"])
    def test_a_crash_or_a_reset_leaves_no_filter(
        self, switch: EmulatedSx904, writer: Client, fault: str
    ) -> None:
        writer.do(new_filter(REP0, OUT))
        switch.tell(fault)
        assert asked(switch, "vf0", inner()) == {"rep0": [inner()]}
        with client(switch.rtnetlink) as again:
            assert again.filters(REP0) == []
            again.do(clsact(REP0), new_filter(REP0, OUT))

    def test_the_table_outlives_the_way_to_it(self, switch: EmulatedSx904, writer: Client) -> None:
        writer.do(new_filter(REP0, OUT))
        switch.tell("die")
        with pytest.raises(FileNotFoundError), client(switch.rtnetlink):
            pass
        assert list(asked(switch, "vf0", inner())) == ["up"]
        switch.tell("revive")
        assert asked(switch, "vf0", inner()) == {"rep0": [inner()]}

    def test_a_filter_that_is_lost(self, switch: EmulatedSx904, writer: Client) -> None:
        writer.do(new_filter(REP0, OUT))
        assert switch.tell("lose-one") == "rep0 pref 10 handle 0x1"
        assert writer.filters(REP0) == []
        assert not switch.tell("lose-one")

    def test_somebody_else_programs_it(self, switch: EmulatedSx904, writer: Client) -> None:
        switch.tell("take")
        switch.tell("take")
        [theirs] = writer.filters(REP0)
        assert (theirs.pref, theirs.flags) == (1, SKIP_SW | IN_HW)
        assert asked(switch, "vf0", inner(destination="0a:00:00:00:00:01")) == {}
        switch.tell("clear")
        assert writer.filters(REP0) == []

    def test_a_representor_that_comes_again_is_another_netdev(
        self, switch: EmulatedSx904, writer: Client
    ) -> None:
        writer.do(new_filter(REP0, OUT))
        before = {each.body[4:8] for each in writer.dump(dump(GETLINK))}
        switch.tell("port-gone", "rep0")
        assert len(writer.dump(dump(GETLINK))) == len(before) - 1
        assert writer.ask(new_filter(REP0, OUT)).error == errno.ENODEV
        assert asked(switch, "vf0", inner()) == {}
        switch.tell("port-back", "rep0")
        after = {each.body[4:8] for each in writer.dump(dump(GETLINK))}
        assert len(after - before) == 1
        assert writer.ask(new_filter(REP0, OUT)).error == errno.ENODEV
        assert asked(switch, "vf0", inner()) == {"rep0": [inner()]}

    def test_a_table_it_does_not_have(self, switch: EmulatedSx904) -> None:
        with pytest.raises(FaultError, match="there is no table 'fdb'; there is filters"):
            switch.tell("table-full", "fdb", "1")
