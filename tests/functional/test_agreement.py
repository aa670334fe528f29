"""What the fast path does by itself is what Open vSwitch would have done, byte by byte.

One desired state, rendered for both. Masked, because they differ by design: the outer source port,
IP id, checksums, flow label, and the MACs outside, which the kernel writes.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_interface

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bpf.loader import load
from dataplane.core.desired import PortState, RemoteEndpoint, SegmentView
from dataplane.core.diff import diff
from dataplane.core.model import Encap, Family, Guard, IpAddress, Segment, Svi, UnknownUnicast, Vni
from dataplane.core.reasons import Reason
from overlay_ovs.target import FlowsTarget
from tests.functional.bpf_support import mounted_bpffs
from tests.functional.overlay_switch import Switch, running_switch
from tests.packets.frames import (
    ANY,
    MUTATIONS,
    SLOTS,
    WORLD,
    Sample,
    has_right_nd_sum,
    held_items,
    ifindex_of,
    inner_packets,
    put,
    run,
    tunnelled,
    with_ipv4_sum,
)
from tests.packets.paths import (
    HOST,
    LEAST,
    LOOPBACK,
    SOURCE,
    KernelPath,
    Outcome,
    Verdict,
)
from tests.unit.overlay_builders import (
    MTU,
    NIC,
    VTEP4,
    VTEP6,
    bindings,
    desired,
    ips_of,
    link_local_of,
    mac_of,
    port,
    remote,
    view,
)

SEEDS = int(os.environ.get("OVERWEAVE_MUTATION_SEEDS", "200"))
WORLDS = int(os.environ.get("OVERWEAVE_WORLDS", "40"))
NIC_MAC = bytes.fromhex(NIC.mac.replace(":", ""))

# Classes of which the XDP program drops every frame.
DROPPED_EARLY = frozenset(
    {
        "01-nothing-inside",
        "08-ipv4-checksum",
        "18-vxlan-no-vni",
        "21-geneve-version",
        "35-inner-below-14",
    }
)

Answer = dict[str, list[bytes]]


class Two:
    """The fast path, and Open vSwitch behind it, both with what one Desired says."""

    def __init__(self, kernel: KernelPath, switch: Switch) -> None:
        self._kernel, self._switch = kernel, switch
        self._target = FlowsTarget(switch.rundir)
        self._state = desired()
        self._sender = -1
        self.dropped_early = 0
        self.pid = self._read_pid()

    def hold(self, *views: SegmentView) -> None:
        """Render the state of ``views`` for both."""
        self._state = desired(*views)
        self._sender = -1
        rendering = self._target.render(self._state, bindings(*views))
        self._target.apply(diff(rendering, self._target.observe()))
        self._switch.control("revalidator/purge")  # no flow of the old state is left in a cache

    def agree(self, sample: Sample) -> Outcome | None:
        """Return what the fast path does; None: the kernel cannot run it on so short a frame."""
        outcome = self._fast(sample)
        would = self._ovs(sample)
        if outcome is not None:
            check(outcome, sample, would)
        if sample.is_tunnel and self._kernel.early(sample.data) is not None:
            assert not would, "XDP drops what OVS would take in"
            assert outcome is not None
            assert outcome.verdict is Verdict.OVS or has_wrong_ip(sample.data)
            self.dropped_early += 1
        return outcome

    def _fast(self, sample: Sample) -> Outcome | None:
        if sample.slot != self._sender:
            self._kernel.hold(held_items(self._state, sample.slot))
            self._sender = sample.slot
        return run(self._kernel, sample)

    def _ovs(self, sample: Sample) -> Answer:
        if len(sample.data) < LEAST:
            return {}  # no socket sends it
        device, data = f"ot{sample.slot}", sample.data
        if sample.is_tunnel:
            device, data = "ophy0", NIC_MAC + data[6:] if data[:6] == HOST else data
        return self._switch.ask(device, data)

    def _read_pid(self) -> str:
        return (self._switch.rundir / "ovs-vswitchd.pid").read_text(encoding="ascii")

    def forget(self) -> None:
        """Have Open vSwitch decide anew about every frame.

        What it remembers of a Geneve packet with malformed options holds for right ones as well
        (seen with 3.1.0): whether it does, depends on what else it remembers.
        """
        self._switch.control("revalidator/purge")

    def has_crashed(self) -> bool:
        """Say whether this is not the ovs-vswitchd that was started."""
        return self._read_pid() != self.pid


def check(outcome: Outcome, sample: Sample, would: Answer) -> None:
    """Fail unless Open vSwitch ``would`` have done the same, or is asked to decide."""
    if outcome.verdict is Verdict.OVS:
        assert outcome.frame == sample.data  # as it came
        return
    if outcome.verdict is Verdict.HOST:
        assert outcome.frame == sample.data
        assert not would or has_extension_headers(sample)  # nothing of ours was left to the host
        return
    if outcome.verdict is Verdict.DROP:
        assert (outcome.reason, sample.slot > 0) == (Reason.TOO_LARGE, True)
        assert len(sample.data) - 14 > MTU
        return
    found = {_output(outcome, sample): [outcome.frame]}
    if outcome.verdict is Verdict.ANSWER and is_ipv6(sample) and not has_right_nd_sum(sample.data):
        # We leave it wrong. OVS makes a new one, which the asker would believe (RFC 4861 7.1.1).
        would, found = without_nd_sum(would), without_nd_sum(found)
    assert masked(would) == masked(found)


def has_extension_headers(sample: Sample) -> bool:
    """Say whether OVS finds UDP where our NIC program does not look: nobody's tunnels send that."""
    return is_ipv6(sample) and sample.data[20] in (0, 43, 51, 60)


def has_wrong_ip(data: bytes) -> bool:
    """Say whether no host takes a frame: its IPv4 checksum is wrong, or it is cut."""
    is_ipv4 = data[12:14] == b"\x08\x00"
    length = 14 + int.from_bytes(data[16:18] if is_ipv4 else data[18:20], "big")
    length += 0 if is_ipv4 else 40
    return length > len(data) or (is_ipv4 and with_ipv4_sum(data) != data)


def is_ipv6(sample: Sample) -> bool:
    return sample.data[12:14] == b"\x86\xdd"


def without_nd_sum(answer: Answer) -> Answer:
    return {device: [put(f, 56, b"\0\0") for f in frames] for device, frames in answer.items()}


def _output(outcome: Outcome, sample: Sample) -> str:
    if outcome.verdict is Verdict.REMOTE:
        return "ophy0"
    if outcome.verdict is Verdict.ANSWER or outcome.ifindex == LOOPBACK:
        return f"ot{sample.slot}"
    return next(f"ot{slot}" for slot in range(64) if ifindex_of(slot) == outcome.ifindex)


def masked(answer: Answer) -> Answer:
    """Take out of frames in tunnels what may differ."""
    return {
        device: [_masked(frame) if device == "ophy0" else frame for frame in frames]
        for device, frames in answer.items()
    }


def _masked(frame: bytes) -> bytes:
    data = bytearray(frame)
    is_ipv4 = frame[12:14] == b"\x08\x00"
    l4 = 34 if is_ipv4 else 54
    blank = [(0, 12), (l4, 2), (l4 + 6, 2)]
    blank += [(18, 2), (24, 2)] if is_ipv4 else [(16, 2)]
    if not is_ipv4:
        data[15] &= 0xF0
    for at, length in blank:
        data[at : at + length] = bytes(length)
    return bytes(data)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    directory = tmp_path_factory.mktemp("agreement")
    with (
        mounted_bpffs(directory / "bpf") as bpffs,
        running_switch(directory, SLOTS) as switch,
        KernelPath(load(bpffs, SOURCE)) as kernel,
    ):
        for vtep in (*VTEP4, *VTEP6):
            switch.route(vtep)
        yield Two(kernel, switch)


@pytest.fixture(scope="module")
def world(two: Two) -> Two:
    two.hold(*WORLD)
    return two


def verdicts(outcomes: Iterable[Outcome | None]) -> Counter[Verdict]:
    return Counter(each.verdict for each in outcomes if each is not None)


def test_right_frames(world: Two) -> None:
    found = verdicts(world.agree(sample) for sample in ANY)
    assert min(found[v] for v in (Verdict.LOCAL, Verdict.REMOTE, Verdict.ANSWER, Verdict.OVS)) > 20


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutated_frames(world: Two, name: str) -> None:
    cases = [MUTATIONS[name].case(f"{name}/{seed}") for seed in range(SEEDS)]
    before = world.dropped_early
    world.forget()
    found = verdicts(world.agree(case) for case in sorted(cases, key=lambda case: case.slot))
    early = world.dropped_early - before
    print(name, {verdict.name: count for verdict, count in found.items()}, f"by XDP: {early}")
    if name in DROPPED_EARLY:
        assert early == SEEDS
    assert not world.has_crashed()


# --- any world ---------------------------------------------------------------------------------

WORKLOADS = st.integers(1, 10)  # number N is in slot N, if it is here
VTEPS = {Family.IPV4: VTEP4, Family.IPV6: VTEP6}
SEGMENT = st.builds(
    Segment,
    name=st.just(""),
    vni=st.just(Vni(1)),
    encap=st.sampled_from(Encap),
    underlay=st.sampled_from(Family),
    guard=st.sampled_from(Guard),
    unknown_unicast=st.sampled_from(UnknownUnicast),
)
PLACES = st.sampled_from(["nowhere", "here", "here", "blocked", "moved", "near", "far", "far"])


def addresses(number: int) -> st.SearchStrategy[tuple[IpAddress, ...]]:
    """Draw what an endpoint may have: its addresses, none, or one that looks like another's."""
    return st.sampled_from(
        [ips_of(number)] * 3
        + [(), ips_of(number)[:1], (*ips_of(number), link_local_of(20 + number))]
    )


@st.composite
def worlds(draw: st.DrawFn) -> tuple[SegmentView, ...]:
    segments = [
        replace(draw(SEGMENT), name=f"s{n}", vni=Vni(200 + n))
        for n in range(draw(st.integers(1, 3)))
    ]
    views = []
    homes = {number: draw(st.sampled_from(segments)) for number in range(1, 11)}
    for segment in segments:
        ports, remotes = [], []
        for number in (n for n, home in homes.items() if home is segment):
            place, ips = draw(PLACES), draw(addresses(number))
            blocked = PortState.BLOCKED if place in ("blocked", "moved") else PortState.ACTIVE
            if place in ("here", "blocked", "moved"):
                ports.append(port(number, segment, ips, blocked))
            if place in ("near", "far", "moved"):
                remotes.append(_remote(number, segment, ips, place))
        routers = draw(st.sampled_from([(), VTEPS[segment.underlay]]))
        made = replace(view(segment, ports, remotes), gateway=draw(gateways(segment)))
        views.append(replace(made, routers=() if made.gateway is None else routers))
    return tuple(views)


def gateways(segment: Segment) -> st.SearchStrategy[Svi | None]:
    """Draw the gateway of a segment: workload 11, whom frames are for that nobody else has."""
    prefixes = tuple(ip_interface((ip, 24 if ip.version == 4 else 64)) for ip in ips_of(11))
    svis = [Svi(segment.name, vrf, segment.name, mac_of(11), prefixes) for vrf in ("shop", "stock")]
    return st.sampled_from([None, *svis])


def _remote(
    number: int, segment: Segment, ips: tuple[IpAddress, ...], place: str
) -> RemoteEndpoint:
    other = remote(number, segment, VTEPS[segment.underlay][place == "far"])
    return replace(other, endpoint=replace(other.endpoint, ips=ips))


@st.composite
def samples(draw: st.DrawFn, views: tuple[SegmentView, ...]) -> Sample:
    """Draw what a pod, or a node, sends in the world of ``views``."""
    says, asked = draw(WORKLOADS), draw(st.integers(1, 11))
    data = bytes(draw(st.sampled_from(inner_packets(says, asked))))
    if draw(st.integers(0, 4)) == 0:
        data = data[:6] + data[6:12][:5] + bytes([draw(st.integers(0, 11))]) + data[12:]
    if draw(st.integers(0, 4)) == 0:
        data = data[:5] + bytes([draw(st.integers(0, 11))]) + data[6:]
    slots = [p.attachment.slot for each in views for p in each.ports]
    is_sent = draw(st.booleans())
    if slots and is_sent:
        return Sample(says if says in slots else draw(st.sampled_from(slots)), data)
    segment = draw(st.sampled_from(views)).segment
    encap = draw(st.sampled_from([segment.encap, segment.encap, *Encap]))
    vtep = draw(st.sampled_from(VTEPS[draw(st.sampled_from([segment.underlay, *Family]))]))
    l4 = 34 if vtep.version == 4 else 54
    return Sample(0, tunnelled(encap, segment.vni, vtep, data), l4, l4 + 8, l4 + 16)


@settings(max_examples=WORLDS, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_world(two: Two, data: st.DataObject) -> None:
    views = data.draw(worlds())
    two.hold(*views)
    for sample in data.draw(st.lists(samples(views), min_size=10, max_size=30)):
        two.agree(sample)
