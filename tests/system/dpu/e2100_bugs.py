"""Bugs of a switch, written past the driver into an emulated E2100 by a raw P4Runtime client.

Each changes rows in place: of rows that are too many or too few the agent knows within a second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import grpc
from finsy.proto import p4r

from dataplane.core.model import IpAddress
from dataplane.lab import dpus
from dataplane.lab.probes import Station
from dataplane.lab.scene import Colour
from tests.functional.p4_client import Client, client
from tests.packets.e2100_frames import MAKE
from tests.system.dpu.conftest import DpuScene, until
from tests.unit.p4_entries import number, updates

FIRST_VF, _REP, _VPORT = 27, 9, 16  # VSIs of the emulated device, and what a vport is above one
_SLOW_S = "4"
_REPAIR_S = 60.0  # twice what an agent takes at most to look at all rows again
_NOBODYS = 1  # the id of a tunnel that there is not


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of the pair ``vf``, on port vf0, and ``far``, behind ``vtep``, of a Geneve segment.

    ``near`` is the pod on vf5; vf1 is of another segment.
    """

    told: Client
    colour: Colour
    vf: Station
    far: Station
    near: Station
    vtep: IpAddress

    def row(self, table: str, **match: int | str) -> p4r.TableEntry:
        """Return the one row of ``table`` with these in its match. Raises ValueError: none."""
        (entry,) = self.rows(table, **match)
        return entry

    def rows(self, table: str, **match: int | str) -> list[p4r.TableEntry]:
        """Return the rows of ``table`` with these in their match."""
        wanted = {name: number(value) for name, value in match.items()}
        fields = {f.id: f.name.rpartition(".")[2] for f in MAKE.tables[table].match_fields}
        found = [
            entry
            for entry in self.told.entries(MAKE(table, {}))
            if wanted.items() <= {fields[m.field_id]: value_of(m) for m in entry.match}.items()
        ]
        for entry in found:
            entry.ClearField("counter_data")
        return found

    @property
    def remote(self) -> p4r.TableEntry:
        """Return by which row frames go to ``far``."""
        return self.row("l2_fwd_tx_table", dst_mac=self.far.mac)

    @property
    def behind(self) -> p4r.TableEntry:
        """Return which VTEP ``far`` is behind."""
        return self.row("l2_to_tunnel_v4", da=self.far.mac)

    @property
    def tunnel(self) -> int:
        return param(self.remote, "tunnel_id")

    @property
    def outer(self) -> p4r.TableEntry:
        """Return what is written around a frame."""
        return self.row("geneve_encap_mod_table", mod_blob_ptr=self.tunnel)

    @property
    def hop(self) -> p4r.TableEntry:
        route = self.row("ipv4_table", ipv4_dst_match=str(self.vtep))
        return self.row("nexthop_table", nexthop_id=param(route, "nexthop_id"))

    @property
    def member(self) -> p4r.TableEntry:
        """Return by which row tunnel packets are taken in."""
        return self.row("ipv4_tunnel_term_table", ipv4_src=str(self.vtep), vni=self.colour.vni)

    @property
    def members(self) -> list[p4r.TableEntry]:
        """Return by which rows tunnel packets of the segment are taken in, from all its VTEPs."""
        return self.rows("ipv4_tunnel_term_table", vni=self.colour.vni)

    def received(self, station: Station) -> p4r.TableEntry:
        """Return by which row frames from a tunnel go to a VF."""
        return self.row("l2_fwd_rx_table", dst_mac=station.mac)

    def sent(self, station: Station) -> p4r.TableEntry:
        """Return by which row frames of a VF go to a VF."""
        return self.row("l2_fwd_tx_table", dst_mac=station.mac)

    @property
    def miss(self) -> p4r.TableEntry:
        """Return where frames of ``vf`` go that no row is for."""
        return self.row("source_port_to_pr_map", source_port=vport(FIRST_VF))

    @property
    def wires_miss(self) -> p4r.TableEntry:
        """Return where what comes in from the wire goes that no row is for."""
        return self.row("rx_phy_port_to_pr_map", port_id=0)


def value_of(match: p4r.FieldMatch) -> int:
    kind = match.WhichOneof("field_match_type")
    assert kind is not None
    return int.from_bytes(getattr(match, kind).value)


def vport(vsi: int) -> int:
    return vsi + _VPORT


def param(entry: p4r.TableEntry, name: str) -> int:
    """Return a parameter of a row's action."""
    action = entry.action.action
    (known,) = [a for a in MAKE.actions.values() if a.preamble.id == action.action_id]
    (wanted,) = [p.id for p in known.params if p.name == name]
    return next(int.from_bytes(p.value) for p in action.params if p.param_id == wanted)


def given(entry: p4r.TableEntry, **args: int | str) -> list[p4r.TableEntry]:
    """Return a row with other parameters."""
    action = entry.action.action
    (known,) = [n for n, a in MAKE.actions.items() if a.preamble.id == action.action_id]
    kept = {p.name: param(entry, p.name) for p in MAKE.actions[known].params}
    return doing(entry, known, **{**kept, **args})


def doing(entry: p4r.TableEntry, action: str, **args: int | str) -> list[p4r.TableEntry]:
    """Return a row with another action."""
    made = p4r.TableEntry()
    made.CopyFrom(entry)
    made.action.action.CopyFrom(MAKE.action(action, **args))
    return [made]


@dataclass(frozen=True, slots=True)
class Seeded:
    """A bug as rows that stand there with it, and what must be ``told`` of it.

    ``at_once`` the agent sees it, since a number stands for something else by it.
    """

    told: str
    rows: Callable[[Rows], Sequence[p4r.TableEntry]]
    at_once: bool = False


BUGS: Mapping[str, Seeded] = {
    "wrong VNI": Seeded("VNI: 1002, not 1001: ", lambda r: given(r.outer, vni=1002), at_once=True),
    "wrong remote VTEP": Seeded(
        "target VTEP: 192.0.2.99, not ",
        lambda r: given(r.outer, dst_addr="192.0.2.99"),
        at_once=True,
    ),
    "wrong own VTEP": Seeded(
        "source VTEP: 192.0.2.77, not ", lambda r: given(r.outer, src_addr="192.0.2.77")
    ),
    "wrong UDP port": Seeded("UDP port: 4790, not 6081: ", lambda r: given(r.outer, dst_port=4790)),
    "no outer headers": Seeded(
        "verdict: deliver, not tunnel: ",
        lambda r: doing(r.remote, "set_vxlan_underlay_v4", tunnel_id=r.tunnel),
    ),
    "to the wire as it is": Seeded(
        "verdict: deliver, not tunnel: ", lambda r: doing(r.remote, "l2_fwd", port=0)
    ),
    "wrong port of the next hop": Seeded(
        "verdict: drop, not tunnel: ", lambda r: given(r.hop, egress_port=1)
    ),
    "lost next hop": Seeded("verdict: drop, not tunnel: ", lambda r: doing(r.hop, "drop")),
    "lost VTEP": Seeded(
        "verdict: drop, not tunnel: ", lambda r: doing(r.behind, "drop"), at_once=True
    ),
    "to a VF in the place of the wire": Seeded(
        "verdict: deliver, not tunnel: ",
        lambda r: doing(r.remote, "l2_fwd", port=vport(FIRST_VF + 1)),
    ),
    "wrong VF from the wire": Seeded(
        "output: rep1, not rep0: ", lambda r: given(r.received(r.vf), port=vport(FIRST_VF + 1))
    ),
    "from tunnel to wire": Seeded(
        "verdict: drop, not deliver: TCP", lambda r: given(r.received(r.vf), port=0)
    ),
    "swapped VFs": Seeded(
        "output: rep5, not rep0: ",
        lambda r: [
            *given(r.received(r.vf), port=vport(FIRST_VF + 5)),
            *given(r.received(r.near), port=vport(FIRST_VF)),
        ],
    ),
    "wrong VF next door": Seeded(
        "output: rep1, not rep5: ", lambda r: given(r.sent(r.near), port=vport(FIRST_VF + 1))
    ),
    "no decapsulation": Seeded("inner frame: ", lambda r: given(r.member, tunnel_id=_NOBODYS)),
    "another encapsulation is taken in": Seeded(
        "verdict: deliver, not drop: vxlan of that VNI",
        lambda r: [
            row
            for member in r.members
            for row in doing(
                member, "set_vxlan_decap_outer_hdr", tunnel_id=param(member, "tunnel_id")
            )
        ],
    ),
    "lost miss": Seeded("verdict: drop, not deliver: ARP request", lambda r: given(r.miss, port=0)),
    "misses of another VF": Seeded(
        "verdict: deliver, not ", lambda r: given(r.miss, port=vport(_REP + 1))
    ),
    "lost misses of the wire": Seeded("verdict: drop, not ", lambda r: given(r.wires_miss, port=0)),
    "misses of the wire to a VF": Seeded(
        "verdict: deliver, not drop: unknown VTEP",
        lambda r: given(r.wires_miss, port=vport(_REP)),
    ),
}


@contextmanager
def planted(scene: DpuScene, rows: Rows, bug: Seeded) -> Iterator[None]:
    """Have a bug, and what was there before in the end.

    What the agent sees at once, it puts right slowly.
    """
    wrong: list[p4r.TableEntry] = []
    right: list[p4r.TableEntry] = []

    def is_whole() -> bool:
        wrong.clear()
        with suppress(ValueError):  # a row, or its number, is not put back yet
            wrong.extend(bug.rows(rows))
        keys = [_key(entry) for entry in wrong]
        right[:] = [entry for entry in rows.told.entries() if _key(entry) in keys]
        return bool(wrong) and len(right) == len(wrong)

    until(is_whole, _REPAIR_S)
    rows.told.write(*updates(p4r.Update.MODIFY, wrong))
    if bug.at_once:
        scene.tell("slow", _SLOW_S)
    try:
        yield
    finally:
        scene.tell("clear")
        with suppress(grpc.RpcError):  # a row that the agent has taken out, it puts in anew
            rows.told.write(*updates(p4r.Update.MODIFY, right))


def _key(entry: p4r.TableEntry) -> tuple[int, list[bytes]]:
    return entry.table_id, [match.SerializeToString() for match in entry.match]


@contextmanager
def rows_of(scene: DpuScene, colour: Colour) -> Iterator[Rows]:
    """Provide the rows of a colour's VF pods and of its pod on n2."""
    vf, _, _, far, near = scene.segments[colour.name][:5]
    addresses = scene.topology.node("n2").addresses
    vtep = next(address.ip for address in addresses if address.version == 4)
    with client(f"unix:{dpus.directory(scene.paths, scene.dpu)}/p4runtime.sock") as told:
        told.become_primary(time.time_ns())  # above whoever was it before
        yield Rows(told, colour, vf, far, near, vtep)
