"""What becomes of a frame, table by table. Sections and steps are those of the pipeline's page.

Pure but for what the entries count.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from vendors.emulator.e2100.ports import OFFSET, WIRE, Ports
from vendors.emulator.e2100.tables import Outcome, Tables
from vendors.emulator.packets import (
    ARP,
    Encap,
    Frame,
    Outer,
    Sent,
    Tunnel,
    encapsulate,
    parse_frame,
    parse_tunnel,
)

_ROOT = 0
_RIF = 0x7FF  # 11 bits
_TTL = 64
_UNDERLAYS = {
    f"set_{encap.name.lower()}_underlay_v{version}": (encap, version)
    for encap in Encap
    for version in (4, 6)
}


class Fate(Enum):
    """What becomes of a frame that is not sent out by an entry."""

    DROP = auto()
    CPU = auto()


@dataclass(frozen=True, slots=True)
class Engine:
    """Forwards by ``tables`` between ``ports``."""

    tables: Tables
    ports: Ports

    def forward(self, port: str, data: bytes) -> Sent | None:
        """Return what comes out where of a frame that comes in at ``port``; None: nothing."""
        frame = parse_frame(data)
        if frame is None:
            return None
        if port == self.ports.uplink:
            return self._sent(self._from_wire(frame, data), self._cpu_of_wire(), data)
        vsi = self.ports.vsis[port]
        if vsi not in self.ports.vfs:
            fate = self._from_cpu(vsi, data)
            return fate if isinstance(fate, Sent) else None
        source = self.tables.match("tx_source_port", vsi=vsi)  # 4, step 1
        if source.action != "set_source_port":
            return None
        source_port = source.args["source_port"]
        fate = self._from_vf(vsi, source_port, frame, data)
        cpu = self.tables.match("source_port_to_pr_map", source_port=source_port, zero_padding=0)
        return self._sent(fate, cpu, data)

    # --- 4: from a VF --------------------------------------------------------------------------

    def _from_vf(self, vsi: int, source_port: int, frame: Frame, data: bytes) -> Sent | Fate:
        if frame.ether_type == ARP:
            return Fate.CPU
        remote = self.tables.match("l2_to_tunnel_v4", da=frame.destination)  # step 2
        if remote.action not in {"set_tunnel_v4", "drop"}:
            remote = self.tables.match("l2_to_tunnel_v6", da=frame.destination)
        if remote.action == "drop":
            return Fate.DROP
        bridge = self._bridge(source_port, frame)  # step 3
        if bridge is None:
            return Fate.DROP
        if not self._is_known(bridge, frame):  # step 4
            return Fate.CPU
        key = {"bridge_id": bridge, "dst_mac": frame.destination}
        to = self.tables.match("l2_fwd_tx_table", **key)  # step 5
        fate = self._do(to, vsi, remote, data)
        if fate is not Fate.CPU:
            self.tables.count("l2_fwd_tx_table", to, len(data))
        return fate

    def _do(self, to: Outcome, vsi: int, remote: Outcome, data: bytes) -> Sent | Fate:
        if to.action in {"NoAction", "fwd_to_cp_tx"}:
            return Fate.CPU
        if to.action == "l2_fwd":
            return self._from_function(vsi, to.args["port"], data)
        underlay = _UNDERLAYS.get(to.action)
        if underlay is None:
            return Fate.DROP
        return self._into_tunnel(underlay, to.args["tunnel_id"], remote, data)

    def _into_tunnel(
        self, underlay: tuple[Encap, int], tunnel_id: int, remote: Outcome, data: bytes
    ) -> Sent | Fate:
        encap, version = underlay
        next_hop = self._next_hop(version, remote)  # steps 6 and 7
        if next_hop is None or next_hop.action == "NoAction":
            return Fate.CPU
        self.tables.count("nexthop_table", next_hop, len(data))
        if next_hop.action != "set_nexthop_info_dmac" or next_hop.args["egress_port"] != WIRE:
            return Fate.DROP
        macs = self._outer_macs(next_hop, data)  # step 8
        name = encap.name.lower() + ("_encap" if version == 4 else "_encap_v6")
        mod = self.tables.match(f"{name}_mod_table", mod_blob_ptr=tunnel_id)  # step 9
        if mod.action != name:
            return Sent(self.ports.uplink, macs + data[len(macs) :])
        return Sent(self.ports.uplink, encapsulate(_outer(encap, mod.args), data, macs))

    def _next_hop(self, version: int, remote: Outcome) -> Outcome | None:
        if remote.action != f"set_tunnel_v{version}":
            return None
        address = 0
        for part in ("dst_addr",) if version == 4 else ("ipv6_1", "ipv6_2", "ipv6_3", "ipv6_4"):
            address = address << 32 | remote.args[part]
        family = f"ipv{version}"
        key = {f"{family}_table_lpm_root": _ROOT, f"{family}_dst_match": address}
        route = self.tables.match(f"{family}_table", **key)
        if route.action != f"{family}_set_nexthop_id":
            return None
        number = route.args["nexthop_id"]
        return self.tables.match("nexthop_table", nexthop_id=number, bit16_zeros=0)

    def _outer_macs(self, next_hop: Outcome, data: bytes) -> bytes:
        macs = next_hop.args["dmac_high"].to_bytes(2) + next_hop.args["dmac_low"].to_bytes(4)
        interface = next_hop.args["router_interface_id"] & _RIF
        for number, part in enumerate(("start", "mid", "last")):
            key = {f"rif_mod_map_id{number}": interface}
            mod = self.tables.match(f"rif_mod_table_{part}", **key)
            is_set = mod.action == f"set_src_mac_{part}"
            macs += mod.args["arg"].to_bytes(2) if is_set else data[len(macs) : len(macs) + 2]
        return macs

    # --- 5: from the wire ----------------------------------------------------------------------

    def _from_wire(self, frame: Frame, data: bytes) -> Sent | Fate:
        if frame.ether_type == ARP:
            return Fate.CPU
        source = self.tables.match("rx_source_port", port_id=WIRE, zero_padding=0)  # step 1
        if source.action != "set_source_port":
            return Fate.DROP
        tunnel = parse_tunnel(data)
        if tunnel is None:
            return self._to_function(source.args["source_port"], frame, data)
        return self._from_tunnel(tunnel, data)

    def _from_tunnel(self, tunnel: Tunnel, data: bytes) -> Sent | Fate:
        family = f"ipv{tunnel.version}"
        key = {f"{family}_src": tunnel.source, "vni": tunnel.vni}
        term = self.tables.match(f"{family}_tunnel_term_table", **key)  # step 2
        name = tunnel.encap.name.lower()
        if term.action == f"set_{name}_decap_outer_and_push_vlan":
            return Fate.DROP
        if term.action != f"set_{name}_decap_outer_hdr":
            return Fate.CPU
        source = self.tables.match(f"rx_{family}_tunnel_source_port", **key)  # step 3
        inner = parse_frame(tunnel.inner)
        if source.action != "set_source_port" or inner is None:
            return Fate.DROP
        pointer = term.args["tunnel_id"]
        mod = self.tables.match(f"{name}_decap_mod_table", mod_blob_ptr=pointer)  # step 7
        is_bare = mod.action == f"{name}_decap_outer_hdr"
        bare = tunnel.inner if is_bare else data
        return self._to_function(source.args["source_port"], inner, bare)

    def _to_function(self, source_port: int, frame: Frame, data: bytes) -> Sent | Fate:
        """Send ``data`` where the entries for ``frame``, which may be inside it, say."""
        if frame.ether_type == ARP:
            return Fate.CPU
        bridge = self._bridge(source_port, frame)  # step 4
        if bridge is None:
            return Fate.DROP
        if not self._is_known(bridge, frame):  # step 5
            return Fate.CPU
        key = {"bridge_id": bridge, "dst_mac": frame.destination}
        to = self.tables.match("l2_fwd_rx_table", **key)  # step 6
        if to.action == "fwd_to_cp":
            return Fate.CPU
        return self._deliver(to.args["port"], data) if to.action == "l2_fwd" else Fate.DROP

    # --- 7: from and to the CPU, and what all share --------------------------------------------

    def _from_cpu(self, vsi: int, data: bytes) -> Sent | Fate:
        to = self.tables.match("tx_acc_vsi", vsi=vsi, zero_padding=0)
        if to.row is None or to.action != "l2_fwd_and_bypass_bridge":
            return Fate.DROP
        return self._from_function(vsi, to.args["port"], data)

    def _cpu_of_wire(self) -> Outcome:
        return self.tables.match("rx_phy_port_to_pr_map", port_id=WIRE, zero_padding=0)

    def _sent(self, fate: Sent | Fate, cpu: Outcome, data: bytes) -> Sent | None:
        """Resolve a fate: the CPU's port gets the frame as it came in."""
        if fate is Fate.CPU and cpu.action == "fwd_to_vsi":
            fate = self._deliver(cpu.args["port"], data)
        return fate if isinstance(fate, Sent) else None

    def _bridge(self, source_port: int, frame: Frame) -> int | None:
        key = {"source_port": source_port, "vid": frame.vid}
        bridge = self.tables.match("source_port_to_bridge_map", **key)
        return bridge.args["bridge_id"] if bridge.action == "set_bridge_id" else None

    def _is_known(self, bridge: int, frame: Frame) -> bool:
        known = self.tables.match("l2_fwd_smac_table", sa=frame.source, bridge_id=bridge)
        return known.action == "NoAction"

    def _from_function(self, vsi: int, port: int, data: bytes) -> Sent | Fate:
        """Send out at a wire, or to another function if the two may talk."""
        if port < OFFSET:
            return Sent(self.ports.uplink, data) if port == WIRE else Fate.DROP
        to = self.tables.match("vsi_to_vsi_loopback", vsi=vsi, target_vsi=port - OFFSET)
        return self._deliver(to.args["port"], data) if to.action == "fwd_to_vsi" else Fate.DROP

    def _deliver(self, port: int, data: bytes) -> Sent | Fate:
        name = self.ports.names.get(port - OFFSET)
        return Fate.DROP if name is None else Sent(name, data)


def _outer(encap: Encap, args: Mapping[str, int]) -> Outer:
    """Return what an encapsulation's action writes (6)."""
    is_v6 = "hop_limit" in args
    return Outer(
        encap,
        6 if is_v6 else 4,
        args["src_addr"],
        args["dst_addr"],
        args["vni"],
        args["src_port"],
        args["dst_port"],
        tos=args["ds"] << 2 | args["ecn"] if is_v6 else 0,
        ttl=args["hop_limit"] if is_v6 else _TTL,
        flow_label=args["flow_label"] if is_v6 else 0,
    )
