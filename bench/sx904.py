"""What ``overweave bench offload`` times of an SX904: filters in a kernel's tc, beside tc -batch.

The netdevs are no device's, so the kernel keeps the filters itself (skip_hw): these are figures of
our driver and of the kernel's tc. Where that has no flower, a virtual machine's kernel has.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

from bench import switch_entries
from bench.figures import YARDSTICK, Figure, at_least, least_ratio, median
from bench.switch_entries import Scale, all_placed, expect
from bench.vm.kernel import stock_kernel
from bench.vm.machine import SHARE, run_in, said
from dataplane.core.desired import Desired
from dataplane.core.diff import Change, Rendering, diff
from dataplane.core.errors import OverweaveError
from dataplane.core.model import Encap
from dataplane.netlink.actions import TunnelSet, TunnelUnset
from dataplane.netlink.exchange import kernel_socket
from dataplane.netlink.flower import ETH_P_ALL, ETH_P_IP, ETH_P_IPV6, Skip
from dataplane.netlink.netns import in_scratch
from ovs_client.daemons import DaemonError, run
from vendors.senao.driver import Limits, SenaoSwitch
from vendors.senao.pipeline import PREFERENCES, Out, Row, Tunnel, Wiring, to_filter

NODE = "sx904"
MANY = 1_000  # filters
ENDPOINTS = 472  # whose filters are so many: two of each far one, and one of each of 64 VTEPs
VTEPS = (IPv4Address("192.0.2.1"), IPv6Address("2001:db8::1"))
WIRING = Wiring(
    tuple(f"rep{number}" for number in range(4)),
    {Encap.GENEVE: Tunnel("gen0"), Encap.VXLAN: Tunnel("vxl0")},
    skip=Skip.DEVICE,
)
_PROTOCOLS = {ETH_P_IP: "ip", ETH_P_IPV6: "ipv6", ETH_P_ALL: "all"}
_RESULT = "samples.json"


@dataclass(slots=True)
class Samples:
    """What was measured, a value of each round; rates in filters a second, times in seconds.

    ``emulated``: the processor was, so that nothing but ratios is judged. ``why_not`` says why
    nothing was measured.
    """

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    replay: list[float] = field(default_factory=list)
    emulated: bool = False
    why_not: str = ""


def figures(samples: Samples) -> Iterator[Figure]:
    """Yield what is told and judged of ``samples``."""
    if samples.why_not:
        return
    where = ", in a virtual machine" if samples.emulated else ""
    name = f"SX904, filters through the kernel's tc{where}"
    yield median(f"{YARDSTICK}{name}", samples.theirs, "/s")
    rate = median(name, samples.ours, "/s")
    yield rate if samples.emulated else at_least(rate, 2000.0)
    ratios = [ours / theirs for ours, theirs in zip(samples.ours, samples.theirs, strict=True)]
    yield least_ratio("SX904, filters : tc -batch", ratios, 1.0)
    name = f"SX904, replay of {MANY:,} filters{where}"
    yield median(name, samples.replay, "s", None if samples.emulated else 1.0)


def take(rounds: int) -> Samples:
    """Take every sample, here or, where one can be had, in a virtual machine.

    Raises OverweaveError.
    """
    if _has_flower():
        return in_scratch(lambda: _measured(rounds))
    with tempfile.TemporaryDirectory(prefix="overweave-bench-") as directory:
        share = Path(directory)
        command = [sys.executable, "-m", "bench.sx904", str(rounds), str(SHARE / _RESULT)]
        try:
            run_in(stock_kernel(), [command], share)
        except OverweaveError as error:
            why = f"the kernel here has no flower, and no other is to be had: {error}"
            return Samples(why_not=why)
        if not (share / _RESULT).exists():
            raise OverweaveError(f"no figures from the virtual machine; it said:\n{said(share)}")
        return Samples(**json.loads((share / _RESULT).read_text()), emulated=True)


def wanted() -> Desired:
    """Return endpoints whose filters are MANY."""
    return switch_entries.desired(ENDPOINTS, VTEPS, WIRING.representors, Scale())


def batch_line(row: Row) -> str:
    """Return what makes the same filter, in words of tc(8)."""
    cookie = to_filter(row, {row.netdev: 0, row.to: 0}).cookie.hex()
    words = [f"filter add dev {row.netdev} ingress pref {PREFERENCES[row.protocol]}"]
    words += [f"protocol {_PROTOCOLS[row.protocol]} flower skip_hw", *_keys(row)]
    words += [f"action {each} cookie {cookie}" for each in _actions(row)]
    return " ".join(words)


def _keys(row: Row) -> Iterator[str]:
    match = row.match
    yield f"dst_mac {match.destination_mac}"
    if match.source_mac is not None:
        yield f"src_mac {match.source_mac}"
    if match.source is not None:
        yield f"src_ip {match.source}"
    if match.ttl is not None:
        value, mask = match.ttl
        yield f"ip_ttl {value}/{mask:x}"
    if match.tunnel_key is not None:
        yield f"enc_key_id {match.tunnel_key} enc_dst_port {match.tunnel_port}"
        yield f"enc_src_ip {match.tunnel_source} enc_dst_ip {match.tunnel_target}"


def _actions(row: Row) -> Iterator[str]:
    for action in row.actions:
        match action:
            case TunnelSet():
                outer = f"id {action.key} src_ip {action.source} dst_ip {action.target}"
                yield f"tunnel_key set {outer} dst_port {action.port} ttl {action.ttl} nocsum"
            case TunnelUnset():
                yield "tunnel_key unset"
            case Out(netdev):
                yield f"mirred egress redirect dev {netdev}"


def _has_flower() -> bool:
    """Say whether the kernel here has what the filters need."""

    def try_one() -> None:
        _command("ip link add x type veth peer y")
        _command("tc qdisc add dev x clsact")
        _command("tc filter add dev x ingress flower skip_hw action tunnel_key unset")

    try:
        in_scratch(try_one)
    except DaemonError:
        return False
    return True


def _measured(rounds: int) -> Samples:
    """Return samples of the namespace of the calling thread, whose netdevs this makes."""
    for name in WIRING.representors:
        _command(f"ip link add {name} type veth peer {name}.vf")
    for (encap, tunnel), number in zip(WIRING.tunnels.items(), (6081, 4789), strict=True):
        _command(f"ip link add {tunnel.netdev} type {encap} external dstport {number}")
    with tempfile.NamedTemporaryFile("w", suffix=".batch") as batch:
        stage = _Stage(SenaoSwitch(kernel_socket, WIRING, Limits(MANY)), Path(batch.name))
        batch.writelines(f"{line}\n" for line in stage.lines())
        batch.flush()
        for number in range(rounds):
            stage.round(number)
    return stage.samples


class _Stage:
    """A kernel without filters, and who is to put them there."""

    def __init__(self, switch: SenaoSwitch, batch: Path) -> None:
        self._switch = switch
        self._batch = batch
        self.samples = Samples()

    def lines(self) -> Iterator[str]:
        """Yield what tc -batch is to do."""
        for name in WIRING.hooks:
            yield f"qdisc add dev {name} clsact"
        for row in self._rendering().items.values():
            if isinstance(row, Row):
                yield batch_line(row)

    def round(self, number: int) -> None:
        """Take a sample of each; who begins changes."""
        turns = [self._add, self._have_tc_add]
        for turn in turns if number % 2 else reversed(turns):
            turn()
        self._replay()

    def _rendering(self) -> Rendering:
        asked = wanted()
        return self._switch.render(asked, all_placed(asked))

    def _add(self) -> None:
        change = self._change()
        began = time.monotonic()
        self._switch.apply(change)
        self.samples.ours.append(MANY / (time.monotonic() - began))
        self._lose_all()

    def _have_tc_add(self) -> None:
        self._change()
        began = time.monotonic()
        _command(f"tc -batch {self._batch}")
        self.samples.theirs.append(MANY / (time.monotonic() - began))
        self._lose_all()

    def _replay(self) -> None:
        """Place, have the kernel lose it all, and bring it back as a worker does."""
        self._switch.apply(self._change())
        self._lose_all()
        began = time.monotonic()
        self._switch.apply(diff(self._rendering(), self._switch.observe()))
        self.samples.replay.append(time.monotonic() - began)
        self._lose_all()

    def _change(self) -> Change:
        """Return what makes all filters where none is."""
        change = diff(self._rendering(), self._switch.observe())
        expect(NODE, len(change) == len(change.add) == MANY, f"{len(change)} filters are missing")
        return change

    def _lose_all(self) -> None:
        """Take every filter away; all had to be there."""
        left = diff(self._rendering(), self._switch.observe())
        expect(NODE, not left, f"{len(left)} filters differ from what was asked for")
        for name in WIRING.hooks:
            _command(f"tc qdisc del dev {name} clsact")


def _command(words: str) -> str:
    return run(words.split())


if __name__ == "__main__":
    _rounds, _file = sys.argv[1:]
    _taken = asdict(in_scratch(lambda: _measured(int(_rounds))))
    del _taken["emulated"]
    Path(_file).write_text(json.dumps(_taken), encoding="ascii")
