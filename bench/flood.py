"""``overweave bench throughput --flood``: known traffic while what a NIC receives is mostly forged.

The NIC takes its frames in as a driver does from a wire, in pages that are no buffers yet: a veth
does so with what BPF_PROG_TEST_RUN sends. What it costs to drop them decides how many known ones
get through one processor.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from itertools import chain
from pathlib import Path

from rich.table import Table
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from bench import paths as ways
from bench import traffic
from bench.figures import Figure, fingerprint, least_ratio, median, number
from bench.in_lab import progress, require_root, scratch_lab
from bench.others import busy_percent
from bench.report import page, tell
from bpf import loader, xdp
from bpf.bpffs import Pins, ensure_mounted, unmount
from bpf.layout import (
    XDP_PROGRAM,
    decode_count,
    encode_counter_key,
    encode_ifindex,
    encode_nic,
)
from bpf.syscalls import open_map, open_program
from dataplane.core.errors import OverweaveError
from dataplane.core.reasons import Reason
from dataplane.lab import foreign, lab, nodes
from dataplane.lab.layout import UNDERLAY, LabPaths
from dataplane.lab.probes import Station
from dataplane.lab.topology import Topology, read_topology
from dataplane.lab.underlay import NIC
from dataplane.netlink import links
from dataplane.netlink.netns import Netns
from dataplane.netlink.rtnl import Rtnl, within

NAME = "flood"
TOPOLOGY = "underlay: {mtu: 1500}\nnodes: [{name: n1}, {name: n2}]\n"
WITHOUT, NATIVE = "without XDP", "native XDP"
STATES = (WITHOUT, NATIVE)
SHARES = (0, 50, 90, 99)  # percent of what the NIC receives that is forged
_SENDER, _NODE = "n1", "n2"
_SEGMENT = ways.SEGMENTS[0]
_STRANGE_VNI = 0xABCDEF
_VNI_AT = 14 + 20 + 8 + 4  # Ethernet, IPv4, UDP, half of Geneve
_PORT = 9
_HALF = 50
_SECONDS = 1.0
_PAUSE_S = 0.2
_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Passed:
    """What was sent to the NIC, and of it read by the pod; ``cpu`` in busy seconds."""

    sent: int
    received: int
    seconds: float
    cpu: float

    @property
    def known(self) -> float:
        """Return how many thousand packets the pod read in a second."""
        return self.received / self.seconds / 1e3

    @property
    def arrived(self) -> float:
        """Return how many thousand frames the NIC was given in a second, forged or not."""
        return self.sent / self.seconds / 1e3

    @property
    def cpu_per_million(self) -> float:
        """Return what a million packets that the pod read cost, in busy seconds."""
        return self.cpu / (self.received / 1e6)


Samples = Mapping[tuple[str, int], Sequence[Passed]]
"""What passed, one for each round, by state and share."""


@dataclass(frozen=True, slots=True)
class Target:
    """The node that is flooded: its pins and NIC, and the netdev at the other end of its wire."""

    space: Path
    pins: Pins
    nic: links.Netdev
    far: links.Netdev

    def become(self, state: str) -> None:
        """Have the product's XDP program in the driver, or not. Raises OverweaveError."""
        with Netns(str(self.space)) as node:
            within(node, partial(self._change, state))

    def _change(self, state: str, rtnl: Rtnl) -> None:
        if state == WITHOUT:
            xdp.detach(rtnl, self.nic.ifindex)
            return
        with open_map(self.pins.map("nics")) as nics:
            nics.update(encode_ifindex(self.nic.ifindex), encode_nic(self.nic.mac))
        with open_program(self.pins.program(XDP_PROGRAM)) as program:
            xdp.attach(rtnl, self.nic.ifindex, program)

    def dropped(self) -> int:
        """Return how many forged packets were counted."""
        key = encode_counter_key(self.nic.ifindex, Reason.UNKNOWN_VTEP)
        with open_map(self.pins.map("counters")) as counters:
            return decode_count(counters.lookup(key) or b"")


@dataclass(slots=True)
class Run:
    """One run over one lab; ``samples`` has what passed, one for each round."""

    paths: LabPaths
    topology: Topology
    directory: Path
    samples: dict[tuple[str, int], list[Passed]] = field(default_factory=dict)
    others: list[float] = field(default_factory=list)

    def measure(self, rounds: int) -> None:
        """Bring the lab up, flood its second node and measure. Raises OverweaveError."""
        program = traffic.compiled(self.directory, NAME)
        with progress() as bars:
            lab.up(self.paths, self.topology, lambda line: bars.console.print(f"[dim]{line}[/dim]"))
            lab.apply(self.paths, _SEGMENT.document)
            source, pod = ways.pods(self.paths, _SEGMENT)
            target = self._target()
            # Its look at the NIC would undo what is changed here; it is not needed for packets.
            nodes.stop_agent(self.paths.node(_NODE))
            words = [str(program), str(self.paths.netns(UNDERLAY))]
            frame = self._frame(target, source, pod).hex()
            task = bars.add_task("floods", total=rounds * len(SHARES) * len(STATES))
            with self._injectors(target) as injectors:
                for turn in range(rounds):
                    self.others.append(busy_percent(_PAUSE_S))
                    for share in SHARES:
                        for state in STATES if turn % 2 else STATES[::-1]:
                            ends = [frame, str(pod.netns), str(_PORT), str(_SECONDS)]
                            command = [*words, str(injectors[share]), *ends]
                            self._take(target, state, share, command)
                            bars.advance(task)

    def _take(self, target: Target, state: str, share: int, command: Sequence[str]) -> None:
        target.become(state)
        before = target.dropped()
        passed = Passed(**json.loads(traffic.run(command)))
        dropped = target.dropped() - before
        if not is_as_claimed(passed, share, dropped):
            raise OverweaveError(
                f"{state}, {share} % forged: of {passed.sent} frames the pod read"
                f" {passed.received}, and {dropped} were dropped as of unknown VTEPs"
            )
        self.samples.setdefault((state, share), []).append(passed)

    def _target(self) -> Target:
        space = self.paths.netns(_NODE)
        # A veth takes frames without buffers in only while it polls, with GRO or with XDP.
        foreign.command(["nsenter", f"--net={space}", "ethtool", "-K", NIC, "gro", "on"])
        with Netns(str(space)) as node, Netns(str(self.paths.netns(UNDERLAY))) as wire:
            nic, far = (within(n, partial(_found, name=d)) for n, d in ((node, NIC), (wire, _NODE)))
        return Target(space, loader.load(self.paths.node(_NODE).bpf), nic, far)

    def _frame(self, target: Target, source: Station, pod: Station) -> bytes:
        vteps = [_vtep(self.topology, node) for node in (_SENDER, _NODE)]
        ends = IP(src=str(source.ip(4)), dst=str(pod.ip(4)))
        inner = Ether(src=source.mac, dst=pod.mac) / ends / UDP(sport=9, dport=_PORT) / bytes(18)
        outer = IP(src=vteps[0], dst=vteps[1]) / UDP(sport=40000, dport=6081, chksum=0)
        tunnel = GENEVE(vni=_SEGMENT.vni, proto=0x6558)
        return bytes(Ether(src=target.far.mac, dst=target.nic.mac) / outer / tunnel / inner)

    @contextmanager
    def _injectors(self, target: Target) -> Iterator[dict[int, Path]]:
        """Provide the pins of the programs that send, by share."""
        bpffs = self.directory / "bpf"
        found = {}
        ensure_mounted(bpffs)
        try:
            for share in SHARES:
                source = self.directory / f"share{share}"
                source.mkdir()
                (source / "overlay.c").write_text(inject_source(target.far.ifindex, share))
                place = bpffs / f"share{share}"
                place.mkdir()
                found[share] = loader.load(place, source).program(XDP_PROGRAM)
            yield found
        finally:
            unmount(bpffs)


def inject_source(ifindex: int, share: int) -> str:
    """Return the program that sends to netdev ``ifindex``, ``share`` percent of it forged."""
    values = {
        "TARGET": ifindex,
        "VNI_AT": _VNI_AT,
        "VNI": _SEGMENT.vni,
        "STRANGE_VNI": _STRANGE_VNI,
        "FORGED_PERCENT": share,
    }
    defined = "".join(f"#define {name} {value}\n" for name, value in values.items())
    return defined + (_HERE / "inject.c").read_text(encoding="ascii")


def is_as_claimed(passed: Passed, share: int, dropped: int) -> bool:
    """Say whether known packets were read, and forged ones dropped: those of the warm-up, too."""
    forged = passed.sent * share // 100
    return passed.received > 0 and dropped >= 0.95 * forged and (dropped > 0) is (share > 0)


def figures(title: str, taken: Sequence[Passed]) -> tuple[Figure, ...]:
    """Return what passed in one state with one share of forged packets."""
    return (
        median(f"known packets, {title}", [p.known for p in taken], "k/s"),
        median(f"frames at the NIC, {title}", [p.arrived for p in taken], "k/s"),
        median(f"CPU, {title}", [p.cpu_per_million for p in taken], "s/M"),
    )


def ratios(samples: Samples) -> Iterator[Figure]:
    """Yield how many more known packets come through with XDP; judged where most are forged."""
    for share in SHARES:
        pairs = zip(samples[NATIVE, share], samples[WITHOUT, share], strict=True)
        found = [native.known / without.known for native, without in pairs]
        name = f"known packets, {share} % forged, {NATIVE} : {WITHOUT}"
        yield least_ratio(name, found, 1.0) if share > _HALF else median(name, found, "x")


def run(rounds: int, target: Path | None) -> None:
    """Take all figures, print them, and write them to ``target`` as JSON. Raises OverweaveError."""
    require_root()
    machine, paths = fingerprint(), LabPaths(NAME)
    topology = read_topology(TOPOLOGY, "the bench topology")
    with (
        tempfile.TemporaryDirectory(prefix="overweave-bench-") as directory,
        scratch_lab(paths, topology),
    ):
        taken = Run(paths, topology, Path(directory))
        taken.measure(rounds)
    every = {
        title: figures(title, taken.samples[state, share])
        for share in SHARES
        for state in STATES
        for title in [f"{share} % forged, {state}"]
    }
    page().print(_matrix(every))
    told = [*ratios(taken.samples), median("machine busy between rounds", taken.others, "%")]
    tell(machine, [*chain.from_iterable(every.values()), *told], target, told)


def _matrix(every: Mapping[str, Sequence[Figure]]) -> Table:
    """Return medians in a line for each share and state, quartiles below them."""
    shown = Table(box=None, padding=(0, 3, 0, 0))
    shown.add_column("median, quartiles")
    for column in ("known packets\nk/s", "frames at the NIC\nk/s", "CPU\ns/M known"):
        shown.add_column(column, justify="right")
    for title, found in every.items():
        shown.add_row(title, *map(_cell, found))
    return shown


def _cell(figure: Figure) -> str:
    ends = map(number, figure.spread or ())
    return f"{number(figure.value)}\n[dim]{' - '.join(ends)}[/dim]"


def _found(rtnl: Rtnl, name: str) -> links.Netdev:
    netdev = links.find(rtnl, name)
    if netdev is None:
        raise OverweaveError(f"netdev {name} of the lab is gone")
    return netdev


def _vtep(topology: Topology, node: str) -> str:
    addresses = (address.ip for address in topology.node(node).addresses)
    return str(next(ip for ip in addresses if isinstance(ip, IPv4Address)))
