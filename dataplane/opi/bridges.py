"""LogicalBridge and Segment: which is which, and what a request would make of them. Pure.

A VLAN id means something on one node alone, so this node's configuration says which Segment it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address

from dataplane.core.model import IpAddress, Node, Segment, Vni
from dataplane.opi import l2_xpu_infra_mgr_pb2 as pb
from dataplane.opi.component_pb2 import COMP_STATUS_ERROR, COMP_STATUS_SUCCESS, Component
from dataplane.opi.components import component
from dataplane.opi.networktypes_pb2 import IP_AF_INET, IP_AF_INET6, IPAddress, IPPrefix
from dataplane.opi.refusals import Fault, OpiRefusedError, missing, shown
from dataplane.opi.resources import BRIDGES

MAX_VLAN = 4095  # of the field, as the reference server takes it
MAX_VNI = (1 << 24) - 1
_NUMBER = re.compile(r"[1-9][0-9]{0,3}")
_SPEC = "logical_bridge.spec"


@dataclass(frozen=True, slots=True)
class Vlans:
    """Which Segment a VLAN id is on this node: ``default``, unless ``by_id`` says so."""

    default: str
    by_id: Mapping[int, str] = field(default_factory=dict)

    def segment(self, vlan_id: int) -> str:
        """Return the name of the Segment behind a VLAN id."""
        return self.by_id.get(vlan_id, self.default)

    def ids(self, segment: str) -> tuple[int, ...]:
        """Return the VLAN ids that are a Segment by name, lowest first."""
        return tuple(sorted(number for number, name in self.by_id.items() if name == segment))

    def named(self, bridge: str) -> str:
        """Return the name of the Segment that a bridge port refers to as ``bridge``.

        That is a resource name, or a VLAN id alone as a DPU operator's daemon writes it.
        """
        if bridge.isdigit():
            if not _NUMBER.fullmatch(bridge) or int(bridge) > MAX_VLAN:
                raise OpiRefusedError(
                    Fault.BAD_VALUE,
                    f"logical bridge {shown(bridge)} is no VLAN id from 1 to {MAX_VLAN}",
                )
            return self.segment(int(bridge))
        return BRIDGES.id_of(bridge, "bridge_port.spec.logical_bridges")

    def tagged(self, bridge: str) -> tuple[int, str]:
        """Return the tag of a bridge at trunk ports, and its Segment's name.

        The tag is the VLAN id that the bridge has here as a resource, so that what is told of a
        port is what may be asked for.
        """
        segment = self.named(bridge)
        vlan_id = next(iter(self.ids(segment)), None)
        if vlan_id is None:
            raise OpiRefusedError(
                Fault.FIXED,
                f"logical bridge {shown(bridge)}, segment {segment}, has no VLAN id on this node,"
                " and at a trunk port needs one: opi.bridges in its configuration says which",
            )
        if bridge.isdigit() and int(bridge) != vlan_id:
            raise OpiRefusedError(
                Fault.BAD_VALUE,
                f"logical bridge {shown(bridge)} is segment {segment}, whose tag on this node is"
                f" {vlan_id}",
            )
        return vlan_id, segment


@dataclass(frozen=True, slots=True)
class BridgeView:
    """What is known of bridges at one time: this node with its VTEPs, Segments by name, VLANs."""

    node: Node
    segments: Mapping[str, Segment]
    vlans: Vlans

    def resource(self, segment: Segment) -> pb.LogicalBridge:
        """Return a Segment as the LogicalBridge that it is here."""
        vtep = self.node.vtep(segment.underlay)
        spec = pb.LogicalBridgeSpec(
            vlan_id=next(iter(self.vlans.ids(segment.name)), 0),
            vni=int(segment.vni),
            vtep_ip_prefix=None if vtep is None else _prefix(vtep),
        )
        status = pb.LogicalBridgeStatus(
            oper_status=pb.LB_OPER_STATUS_DOWN if vtep is None else pb.LB_OPER_STATUS_UP,
            components=[_tunnels(self.node, segment, vtep)],
        )
        return pb.LogicalBridge(name=BRIDGES.name(segment.name), spec=spec, status=status)

    def create(self, request: pb.CreateLogicalBridgeRequest) -> Segment:
        """Return the Segment that a request is for: one that is there already, or a new one."""
        bridge = request.logical_bridge
        if not request.HasField("logical_bridge"):
            raise missing("logical_bridge")
        asked = BRIDGES.chosen_id(request.logical_bridge_id, bridge.name)
        self._check(bridge)
        if bridge.spec.vlan_id == 0:
            raise missing(f"{_SPEC}.vlan_id")
        name = asked or self._unnamed(bridge.spec.vlan_id)
        known = self.segments.get(name)
        if known is None:
            return self._new(name, bridge.spec)
        if bridge.spec.vlan_id not in self.vlans.ids(name) or bridge.spec.vni not in (0, known.vni):
            there = self.resource(known).spec
            raise OpiRefusedError(
                Fault.TAKEN,
                f"logical bridge {name} exists, with vni {there.vni} and vlan_id"
                f" {there.vlan_id or '(none)'}: update it, or choose another id",
            )
        return known

    def update(self, known: Segment, wanted: pb.LogicalBridge) -> Segment:
        """Return ``known`` as ``wanted``, the whole resource that is to be, has it."""
        self._check(wanted)
        as_it_is = self.resource(known).spec.vlan_id
        if wanted.spec.vlan_id not in (as_it_is, *self.vlans.ids(known.name)):
            raise self._other_vlan(known.name, wanted.spec.vlan_id)
        return replace(known, vni=self._vni(known.name, wanted.spec))

    def _check(self, bridge: pb.LogicalBridge) -> None:
        spec = bridge.spec
        if not bridge.HasField("spec"):
            raise missing(_SPEC)
        if spec.vlan_id > MAX_VLAN:
            raise OpiRefusedError(
                Fault.BAD_VALUE,
                f"VlanId value ({spec.vlan_id}) have to be between 1 and {MAX_VLAN}",
            )
        if spec.HasField("vni") and not 1 <= spec.vni <= MAX_VNI:
            raise OpiRefusedError(
                Fault.BAD_VALUE, f"Vni value ({spec.vni}) have to be between 1 and {MAX_VNI}"
            )
        if spec.HasField("vtep_ip_prefix"):
            self._check_vtep(spec.vtep_ip_prefix)

    def _check_vtep(self, prefix: IPPrefix) -> None:
        vtep = _address(prefix.addr)
        longest = vtep.max_prefixlen
        if not 0 <= prefix.len <= longest:
            raise OpiRefusedError(
                Fault.BAD_VALUE, f"vtep_ip_prefix: len {prefix.len} is not from 0 to {longest}"
            )
        if vtep not in self.node.vteps:
            own = ", ".join(map(str, self.node.vteps)) or "none"
            raise OpiRefusedError(
                Fault.FIXED,
                f"vtep_ip_prefix {vtep}: the tunnels of node {self.node.name} end at {own}, for"
                " all bridges; leave it out, or change underlay.addresses in its configuration",
            )

    def _unnamed(self, vlan_id: int) -> str:
        """Return the name for a bridge without an id."""
        if vlan_id not in self.vlans.by_id:
            raise OpiRefusedError(
                Fault.FIXED, f"VLAN id {vlan_id} is no Segment's on node {self.node.name}: {_HELP}"
            )
        return self.vlans.segment(vlan_id)

    def _new(self, name: str, spec: pb.LogicalBridgeSpec) -> Segment:
        if spec.vlan_id not in self.vlans.ids(name):
            raise self._other_vlan(name, spec.vlan_id)
        return Segment(name, self._vni(name, spec))

    def _other_vlan(self, name: str, vlan_id: int) -> OpiRefusedError:
        return OpiRefusedError(
            Fault.FIXED,
            f"VLAN id {vlan_id} is not that of logical bridge {name} on node {self.node.name}:"
            f" {_HELP}",
        )

    def _vni(self, name: str, spec: pb.LogicalBridgeSpec) -> Vni:
        if not spec.HasField("vni"):
            raise OpiRefusedError(
                Fault.MISSING_FIELD,
                f"missing required field: {_SPEC}.vni: a bridge of one node alone cannot be had",
            )
        for other in self.segments.values():
            if other.vni == spec.vni and other.name != name:
                raise OpiRefusedError(
                    Fault.TAKEN, f"the VNI is already in use: {spec.vni} by {other.name}"
                )
        return Vni(spec.vni)


_HELP = "opi.bridges in its configuration says which VLAN id is which Segment"


def _tunnels(node: Node, segment: Segment, vtep: IpAddress | None) -> Component:
    if vtep is None:
        why = f"node {node.name} has no {segment.underlay} address for tunnels"
        return component("tunnels", COMP_STATUS_ERROR, [why])
    return component("tunnels", COMP_STATUS_SUCCESS)


def _prefix(vtep: IpAddress) -> IPPrefix:
    if isinstance(vtep, IPv4Address):
        return IPPrefix(addr=IPAddress(af=IP_AF_INET, v4_addr=int(vtep)), len=vtep.max_prefixlen)
    return IPPrefix(addr=IPAddress(af=IP_AF_INET6, v6_addr=vtep.packed), len=vtep.max_prefixlen)


def _address(address: IPAddress) -> IpAddress:
    kind = address.WhichOneof("v4_or_v6")
    if address.af == IP_AF_INET and kind == "v4_addr":
        return IPv4Address(address.v4_addr)
    if address.af == IP_AF_INET6 and kind == "v6_addr" and len(address.v6_addr) == 16:
        return IPv6Address(address.v6_addr)
    raise OpiRefusedError(
        Fault.BAD_VALUE, "vtep_ip_prefix: the address is not one of the family that af says"
    )
