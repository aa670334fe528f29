"""The same C, natively and in the kernel: same verdicts, same bytes, and no byte read too far."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import Ether

from bpf.loader import load
from dataplane.core.reasons import Reason
from tests.functional.bpf_support import mounted_bpffs
from tests.packets.frames import ANY, MUTATIONS, Sample, desired_world, held_items, run
from tests.packets.paths import SOURCE, KernelPath, NativePath, Outcome, Verdict

SEEDS = int(os.environ.get("OVERWEAVE_MUTATION_SEEDS", "50"))
_SPORT = slice(34, 36)


class Both:
    """Both builds with the same maps."""

    def __init__(self, kernel: KernelPath, native: NativePath) -> None:
        self._kernel, self._native = kernel, native
        self._state = desired_world()
        self._held = -1

    def bytes_read(self, protocol: int) -> int:
        """Return how many bytes of a frame of an EtherType have to be where they can be read."""
        return self._native.bytes_read(protocol)

    def agree(self, sample: Sample, gso_size: int = 0) -> Outcome:
        """Return what both do with a frame."""
        if sample.slot != self._held:
            items = held_items(self._state, sample.slot)
            self._kernel.hold(items)
            self._native.hold(items)
            self._held = sample.slot
        if sample.is_tunnel:
            assert self._native.early(sample.data) is self._kernel.early(sample.data), sample
        native, kernel = (run(p, sample, gso_size) for p in (self._native, self._kernel))
        assert native is not None
        if kernel is None:
            return native
        assert without_port(kernel) == without_port(native), sample
        return native


def without_port(outcome: Outcome) -> Outcome:
    """Take out of an encapsulated frame what comes from a hash that only the kernel has."""
    if outcome.verdict is not Verdict.REMOTE:
        return outcome
    frame, is_ipv4 = bytearray(outcome.frame), outcome.frame[12:14] == b"\x08\x00"
    at = 34 if is_ipv4 else 54
    assert 32768 <= int.from_bytes(frame[at : at + 2], "big") < 61000
    frame[at : at + 2] = b"\0\0"
    return Outcome(outcome.verdict, bytes(frame), ifindex=outcome.ifindex)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    directory = tmp_path_factory.mktemp("native")
    with mounted_bpffs(directory / "bpf") as bpffs, KernelPath(load(bpffs, SOURCE)) as kernel:
        yield Both(kernel, NativePath(directory))


@pytest.mark.parametrize("name", MUTATIONS)
def test_every_class_of_wrong_frames(both: Both, name: str) -> None:
    cases = [MUTATIONS[name].case(f"{name}/{seed}") for seed in range(SEEDS)]
    found = Counter(both.agree(case).verdict for case in sorted(cases, key=lambda c: c.slot))
    assert sum(found.values()) == SEEDS


def test_the_right_frames_have_every_verdict(both: Both) -> None:
    found = Counter(both.agree(sample).verdict for sample in ANY)
    assert min(found[v] for v in (Verdict.LOCAL, Verdict.REMOTE, Verdict.ANSWER, Verdict.OVS)) > 20


def test_every_truncation(both: Both) -> None:
    """Each length of each kind of frame, also those that the kernel does not run a program on."""
    kinds = {(s.slot, len(s.data), s.data[12:14]): s for s in ANY}
    for sample in kinds.values():
        for length in range(len(sample.data)):
            both.agree(Sample(sample.slot, sample.data[:length]))


@settings(max_examples=300)
@given(
    index=st.integers(0, len(ANY) - 1),
    changes=st.lists(st.tuples(st.integers(0, 120), st.integers(0, 255)), max_size=6),
    end=st.none() | st.integers(0, 120),
)
def test_any_bytes_anywhere(
    both: Both, index: int, changes: list[tuple[int, int]], end: int | None
) -> None:
    data = bytearray(ANY[index].data)
    for offset, value in changes:
        data[offset % len(data)] = value
    both.agree(Sample(ANY[index].slot, bytes(data[:end])))


STAMPED = TCP(options=[("Timestamp", (1, 1)), ("NOP", None), ("NOP", None)])  # as by default


@pytest.mark.parametrize(
    "headers",
    [pytest.param(Ether() / ip() / STAMPED, id=ip.__name__) for ip in (IP, IPv6)],
)
def test_nothing_behind_the_headers_of_a_super_packet_is_pulled(both: Both, headers: Ether) -> None:
    """Where they end, the pages of what is sent begin: one byte of them, and all is copied."""
    assert both.bytes_read(headers.type) <= len(headers)


SEGMENTS = [
    pytest.param(6, 1360, 0, None, id="tcp-that-just-fits"),
    pytest.param(6, 1361, 0, Reason.TOO_LARGE, id="tcp-too-large"),
    pytest.param(6, 1352, 8, None, id="tcp-options-that-just-fit"),
    pytest.param(6, 1353, 8, Reason.TOO_LARGE, id="tcp-options-too-large"),
    pytest.param(17, 1000, 0, Reason.UDP_GSO, id="udp"),
]


@pytest.mark.parametrize(("protocol", "gso_size", "options", "reason"), SEGMENTS)
def test_super_packets(
    both: Both, protocol: int, gso_size: int, options: int, reason: Reason | None
) -> None:
    """Measured by their segments: RFC 791 and 9293 headers with ``options`` bytes, and payload."""
    start = next(s for s in ANY if s.slot == 1 and s.data[5] == 11 and s.data[23:24] == b"\x06")
    data = bytearray(start.data + bytes(30_000))
    data[16:18] = (len(data) - 14).to_bytes(2, "big")
    data[23] = protocol
    data[46] = (5 + options // 4) << 4
    outcome = both.agree(Sample(1, bytes(data)), gso_size)
    assert outcome.reason is reason
    assert (outcome.verdict is Verdict.REMOTE) is (reason is None)
