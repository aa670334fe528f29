"""The programs by which the bench times a packet do what the product's do, there and back."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from bench import one_packet, packet_cost
from bench.one_packet import TUNNELS, Tunnel
from bench.packet_cost import Sized

REDIRECT = 7  # linux/pkt_cls.h
COUNT = 12


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sized]:
    with ExitStack() as stack:
        yield packet_cost._sized(tmp_path_factory.mktemp("timed") / "bpf", COUNT, stack)


@pytest.mark.parametrize("tunnel", TUNNELS, ids=lambda tunnel: tunnel.title)
def test_a_packet_goes_out_comes_back_and_is_counted_both_ways(maps: Sized, tunnel: Tunnel) -> None:
    maps.serve(tunnel)
    before, frame = maps.used(tunnel), one_packet.sent(tunnel)
    result = maps.timed["access_port"].test_run(frame, 3)
    assert (result.retval, result.data) == (REDIRECT, frame)
    assert maps.used(tunnel) == (before[0] + 3, before[1] + 3)


def test_packets_to_another_mac_each_find_all_of_them(maps: Sized) -> None:
    maps.serve(TUNNELS[0])
    frame = one_packet.sent(TUNNELS[0])
    results = [maps.timed["underlay"].test_run(frame) for _ in range(200)]
    assert {result.retval for result in results} == {REDIRECT}
    assert len({result.data[:6] for result in results}) == one_packet.destinations(COUNT)


def test_a_round_times_everything_once(maps: Sized, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packet_cost, "_REPEAT", 10)
    monkeypatch.setattr(packet_cost, "_CALLS", 2)
    run = packet_cost.Run()
    run.round((maps,))
    assert {len(samples) for samples in run.samples.values()} == {1}
    assert len(run.samples) == len(TUNNELS) + 1 + 5 + 2 * len(TUNNELS)
