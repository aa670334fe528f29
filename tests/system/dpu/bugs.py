"""Bugs of a switch, written past the driver into an emulated Octeon 10 by raw OpenFlow.

Each is what a vendor's switch, or a driver, could do wrong to the traffic of one VF.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from dataplane.core.model import IpAddress
from dataplane.lab.probes import Station
from dataplane.lab.scene import Colour
from ovs_client.ofctl import Flow, OpenFlowBridge
from ovs_client.unixctl import Unixctl
from tests.system.dpu.conftest import DpuScene
from vendors.marvell.pipeline import CLASSIFY, FORWARD, GUARD, MISS, TUNNEL, WIRE

_AWAY = "02:00:00:00:00:aa"
_TUNNEL_OUT = "pkt_mark=0x4d560001"
_NOBODY = 0  # the cookie of rows that are not ours: what is ours and too much goes at once


@dataclass(frozen=True, slots=True)
class Tables:
    """The rows of the pair ``vf``, on port vf0, and ``far``, behind ``vtep``, of a Geneve segment.

    ``ports`` are the numbers of the bridge's ports.
    """

    bridge: OpenFlowBridge
    rundir: Path
    ports: Mapping[str, int]
    colour: Colour
    vf: Station
    far: Station
    vtep: IpAddress

    def apply(self, add: Sequence[Flow], delete: Sequence[Flow]) -> None:
        """Change rows, and have what was cached of them before go."""
        self.bridge.apply_bundle(add, delete)
        Unixctl(self.rundir).call("revalidator/purge")

    def row(self, table: int, *tokens: str) -> Flow:
        """Return the one row of ``table`` with these in its match."""
        found = [
            flow
            for flow in self.bridge.dump_flows()
            if flow.table == table and {*tokens} <= words_of(flow)
        ]
        (flow,) = found
        return flow

    @property
    def vni(self) -> str:
        return f"reg0={self.colour.vni:#x}"

    @property
    def remote(self) -> Flow:
        """Return by which row frames go to ``far``."""
        return self.row(FORWARD.number, self.vni, f"dl_dst={self.far.mac}")

    @property
    def local(self) -> Flow:
        """Return by which row frames go to ``vf``."""
        return self.row(FORWARD.number, self.vni, f"dl_dst={self.vf.mac}")

    @property
    def wire(self) -> Flow:
        """Return by which row tunnel packets leave."""
        return self.row(WIRE.number, _TUNNEL_OUT, f"nw_dst={self.vtep}")

    @property
    def miss(self) -> Flow:
        """Return by which row frames of ``vf`` go to the software."""
        return self.row(MISS.number, self.from_vf)

    @property
    def taken_in(self) -> Flow:
        """Return by which row Geneve packets are decapsulated."""
        return self.row(CLASSIFY.number, "tp_dst=6081", f"nw_src={self.vtep}")

    @property
    def member(self) -> Flow:
        """Return by which row frames of the segment are let in from a tunnel."""
        return self.row(TUNNEL.number, f"tun_id={self.colour.vni:#x}", f"tun_src={self.vtep}")

    @property
    def from_vf(self) -> str:
        return f"in_port={self.ports['vf0']}"

    @property
    def back(self) -> Flow:
        """Return by which row a decapsulated frame without entry becomes what came."""
        return self.row(MISS.number, "tun_dst")

    def device_miss(self, port: str) -> Flow:
        """Return what the device does by itself with what comes in at a port."""
        found = self.bridge.dump_flows()
        match = f"in_port={self.ports[port]}"
        return next(f for f in found if (f.table, f.priority, f.match) == (0, 0, match))

    def output(self, port: str) -> str:
        return f"output:{self.ports[port]}"


def words_of(flow: Flow) -> set[str]:
    """Return the fields of a match, with and without what they must be."""
    words = flow.match.split(",")
    return {*words, *(word.partition("=")[0] for word in words)}


def before(flow: Flow, actions: str) -> list[Flow]:
    """Return ``flow`` with something done before the rest."""
    return [replace(flow, actions=f"{actions},{flow.actions}")]


def instead(flow: Flow, actions: str) -> list[Flow]:
    return [replace(flow, actions=actions)]


def swapped(flow: Flow, old: str, new: str) -> list[Flow]:
    assert old in flow.actions
    return instead(flow, flow.actions.replace(old, new))


def ahead(table: int, match: str, actions: str) -> list[Flow]:
    """Return a row above those that the driver writes."""
    return [Flow(table, 400, match, actions, _NOBODY)]


def unmatched(flow: Flow, *names: str) -> list[Flow]:
    """Return a row that matches the same, whatever the fields ``names`` are."""
    kept = (word for word in flow.match.split(",") if word.partition("=")[0] not in names)
    return [replace(flow, priority=flow.priority + 5, match=",".join(kept), cookie=_NOBODY)]


def to_port(flow: Flow) -> list[Flow]:
    """Return a row that writes another UDP port."""
    match, actions = flow.match.replace("ip,", "udp,"), f"set_field:4790->udp_dst,{flow.actions}"
    return [Flow(flow.table, 300, match, actions, _NOBODY)]


def only_ip(flow: Flow, actions: str) -> list[Flow]:
    """Return a row that does ``actions`` before the rest, with IPv4."""
    return [Flow(flow.table, 300, f"ip,{flow.match}", f"{actions},{flow.actions}", _NOBODY)]


@dataclass(frozen=True, slots=True)
class Seeded:
    """A bug as rows that stand there with it, and what must be ``told`` of it."""

    told: str
    rows: Callable[[Tables], Sequence[Flow]]


FORWARDED = f"goto_table:{FORWARD.number}"

BUGS: Mapping[str, Seeded] = {
    "wrong VNI": Seeded(
        "VNI: 1002, not 1001",
        lambda t: swapped(t.remote, f"{t.colour.vni:#x}->tun_id", "0x3ea->tun_id"),
    ),
    "wrong remote VTEP": Seeded(
        "target VTEP: 192.0.2.99, not ", lambda t: before(t.wire, "set_field:192.0.2.99->nw_dst")
    ),
    "wrong own VTEP": Seeded(
        "source VTEP: 192.0.2.77, not ", lambda t: before(t.wire, "set_field:192.0.2.77->nw_src")
    ),
    "wrong UDP port": Seeded("UDP port: 4790, not 6081", lambda t: to_port(t.wire)),
    "outer TTL of 63": Seeded("TTL: 63, not 64", lambda t: before(t.wire, "set_field:63->nw_ttl")),
    "outer ECN of its own": Seeded(
        "ECN: 1, not 0", lambda t: before(t.wire, "set_field:1->nw_ecn")
    ),
    "another encapsulation": Seeded(
        "UDP port: 4789, not 6081",
        lambda t: swapped(t.remote, t.output("mrv-geneve"), t.output("mrv-vxlan")),
    ),
    "wrong port to the wire": Seeded(
        "verdict: deliver, not tunnel", lambda t: swapped(t.wire, t.output("up"), t.output("vf1"))
    ),
    "wrong VF": Seeded("output: rep1, not rep0", lambda t: instead(t.local, t.output("vf1"))),
    "lost entry that drops": Seeded(
        "verdict: drop, not tunnel: TCP", lambda t: instead(t.remote, "drop")
    ),
    "lost miss": Seeded(
        "verdict: drop, not deliver: ARP request", lambda t: instead(t.miss, "drop")
    ),
    "lost misses of the wire": Seeded(
        "verdict: drop, not deliver: UDP", lambda t: instead(t.device_miss("up"), "drop")
    ),
    "swapped MACs": Seeded(
        "inner frame: ",
        lambda t: before(t.remote, f"set_field:{t.vf.mac}->eth_dst,set_field:{t.far.mac}->eth_src"),
    ),
    "no decapsulation": Seeded("inner frame: ", lambda t: instead(t.taken_in, t.output("vf0"))),
    "no encapsulation": Seeded(
        "verdict: deliver, not tunnel", lambda t: instead(t.remote, t.output("up"))
    ),
    "delivered twice": Seeded(
        "verdict: flood, not one output: TCP", lambda t: before(t.local, t.output("rep0"))
    ),
    "inner TTL counted down": Seeded("at byte 22: ", lambda t: only_ip(t.remote, "dec_ttl")),
    "inner ECN wiped out": Seeded(
        "at byte 15: UDP over IPv4, ECN 1, from the wire",
        lambda t: only_ip(t.local, "set_field:0->nw_ecn"),
    ),
    "floods broadcasts": Seeded(
        "verdict: flood, not one output: broadcast",
        lambda t: ahead(
            GUARD.number,
            f"{t.from_vf},dl_dst=ff:ff:ff:ff:ff:ff",
            f"{t.output('up')},{t.output('vf1')}",
        ),
    ),
    "no guard": Seeded(
        "verdict: tunnel, not drop: from a false MAC",
        lambda t: ahead(GUARD.number, f"ip,{t.from_vf}", FORWARDED),
    ),
    "no guard of addresses": Seeded(
        "verdict: tunnel, not drop: from a false address",
        lambda t: ahead(GUARD.number, f"ip,{t.from_vf},dl_src={t.vf.mac}", FORWARDED),
    ),
    "ARP is not looked at": Seeded(
        "verdict: tunnel, not drop: ARP with a false MAC",
        lambda t: ahead(GUARD.number, f"arp,{t.from_vf}", FORWARDED),
    ),
    "ND is not looked at": Seeded(
        "verdict: tunnel, not drop: ND for another's address",
        lambda t: ahead(GUARD.number, f"icmp6,{t.from_vf}", FORWARDED),
    ),
    "tags are stripped": Seeded(
        "at byte 12: VLAN tag 5",
        lambda t: ahead(
            GUARD.number, f"{t.from_vf},vlan_tci=0x1000/0x1000", f"pop_vlan,{FORWARDED}"
        ),
    ),
    "too large is sent": Seeded(
        "verdict: tunnel, not drop: too large", lambda t: unmatched(t.remote, "reg3")
    ),
    "any VTEP is let in": Seeded(
        "verdict: deliver, not drop: unknown VTEP",
        lambda t: [
            *unmatched(t.taken_in, "nw_src"),
            *unmatched(t.member, "tun_src"),
        ],
    ),
    "any VNI is let in": Seeded(
        "verdict: deliver, not drop: unknown VNI", lambda t: unmatched(t.member, "tun_id")
    ),
    "from tunnel to tunnel": Seeded(
        "not drop: back to its sender, from the wire",
        lambda t: [
            replace(flow, actions=flow.actions.replace(t.output("mrv-geneve"), "IN_PORT"))
            for flow in unmatched(t.remote, "reg2")
        ],
    ),
    "misses are altered": Seeded(
        "at byte 6: ", lambda t: before(t.miss, f"set_field:{_AWAY}->eth_src")
    ),
    "misses of another VF": Seeded(
        "verdict: deliver, not drop: to an unknown MAC", lambda t: instead(t.miss, t.output("rep1"))
    ),
    "misses of the wire with another VNI": Seeded(
        "to an unknown MAC, from the wire", lambda t: before(t.back, "set_field:0x3ff->tun_id")
    ),
    "the host's own traffic is dropped": Seeded(
        "verdict: drop, not host: TCP to the node",
        lambda t: ahead(CLASSIFY.number, f"tcp,in_port={t.ports['up']}", "drop"),
    ),
    "somebody else's row": Seeded(
        "verdict: flood, not one output", lambda _: [Flow(0, 65535, "", "NORMAL", 0)]
    ),
}


@contextmanager
def planted(tables: Tables, bug: Seeded) -> Iterator[None]:
    """Have a bug, and what was there before in the end."""
    rows = {flow.key: flow for flow in tables.bridge.dump_flows()}
    wrong = list(bug.rows(tables))
    tables.apply(wrong, ())
    try:
        yield
    finally:
        right = [rows[flow.key] for flow in wrong if flow.key in rows]
        tables.apply(right, [flow for flow in wrong if flow.key not in rows])


def tables_of(scene: DpuScene, colour: Colour) -> Tables:
    """Return the rows of a colour's VF pod and of its pod on n2."""
    vf, _, _, far, *_ = scene.segments[colour.name]
    rundir = scene.paths.directory / "d1.switch" / "ovs"
    shown = subprocess.run(
        [
            "ovs-vsctl",
            f"--db=unix:{rundir}/db.sock",
            "--bare",
            "--columns=name,ofport",
            "list",
            "interface",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    ports = {name: int(number) for name, number in zip(shown[::2], shown[1::2], strict=True)}
    addresses = scene.topology.node("n2").addresses
    vtep = next(address.ip for address in addresses if address.version == 4)
    return Tables(scene.bridge(), rundir, ports, colour, vf, far, vtep)
