"""LogicalBridge and Segment: which is which, and what a request would make of them. Pure.

A VLAN id means something on one node alone, so this node's configuration says which Segment it is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from ipaddress import ip_interface

from dataplane.core.model import Node, Segment, Vni
from dataplane.opi import l2_xpu_infra_mgr_pb2 as pb
from dataplane.opi.component_pb2 import COMP_STATUS_ERROR, COMP_STATUS_SUCCESS, Component
from dataplane.opi.components import component
from dataplane.opi.networktypes_pb2 import IPPrefix
from dataplane.opi.prefixes import read, written
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

    @property
    def known(self) -> Mapping[str, Segment]:
        """Return the Segments by name."""
        return self.segments

    def resource(self, segment: Segment) -> pb.LogicalBridge:
        """Return a Segment as the LogicalBridge that it is here."""
        vtep = self.node.vtep(segment.underlay)
        spec = pb.LogicalBridgeSpec(
            vlan_id=next(iter(self.vlans.ids(segment.name)), 0),
            vni=int(segment.vni),
            vtep_ip_prefix=None if vtep is None else written(ip_interface(vtep)),
        )
        why = (
            [] if vtep else [f"node {self.node.name} has no {segment.underlay} address for tunnels"]
        )
        status = pb.LogicalBridgeStatus(
            oper_status=pb.LB_OPER_STATUS_DOWN if vtep is None else pb.LB_OPER_STATUS_UP,
            components=[tunnels(why)],
        )
        return pb.LogicalBridge(name=BRIDGES.name(segment.name), spec=spec, status=status)

    def create(self, asked: str, bridge: pb.LogicalBridge) -> Segment:
        """Return the Segment that a request is for: one that is there already, or a new one."""
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
        if spec.HasField("vni"):
            check_vni(spec.vni)
        if spec.HasField("vtep_ip_prefix"):
            check_vtep(spec.vtep_ip_prefix, self.node, "bridges")

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


def check_vni(vni: int) -> None:
    """Raise OpiRefusedError for what is no VNI."""
    if not 1 <= vni <= MAX_VNI:
        raise OpiRefusedError(
            Fault.BAD_VALUE, f"Vni value ({vni}) have to be between 1 and {MAX_VNI}"
        )


def check_vtep(prefix: IPPrefix, node: Node, of_all: str) -> None:
    """Raise OpiRefusedError for a VTEP that is not ``node``'s, as it is for ``of_all`` of them."""
    vtep = read(prefix, "vtep_ip_prefix").ip
    if vtep not in node.vteps:
        own = ", ".join(map(str, node.vteps)) or "none"
        raise OpiRefusedError(
            Fault.FIXED,
            f"vtep_ip_prefix {vtep}: the tunnels of node {node.name} end at {own}, for"
            f" all {of_all}; leave it out, or change underlay.addresses in its configuration",
        )


def tunnels(why: Sequence[str]) -> Component:
    """Return how it is with the tunnels that a resource needs here; ``why`` it has none."""
    status = COMP_STATUS_ERROR if why else COMP_STATUS_SUCCESS
    return component("tunnels", status, why)
