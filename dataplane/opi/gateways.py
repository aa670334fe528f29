"""Vrf and Svi, OPI's and the fabric's: which is which, and what a request would make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from uuid import uuid4

from dataplane.core.model import Node, Segment, Svi, Vni, Vrf
from dataplane.opi import l3_xpu_infra_mgr_pb2 as pb
from dataplane.opi.bridges import check_vni, check_vtep, tunnels
from dataplane.opi.ports import mac_of
from dataplane.opi.prefixes import read_hosts, written
from dataplane.opi.refusals import Fault, OpiRefusedError, missing
from dataplane.opi.resources import BRIDGES, SVIS, VRFS

_MAX_AS = 65535
_VRF, _SVI = "vrf.spec", "svi.spec"


@dataclass(frozen=True, slots=True)
class VrfView:
    """What is known of Vrfs at one time: this node with its VTEPs, Vrfs and Segments by name."""

    node: Node
    known: Mapping[str, Vrf]
    segments: Mapping[str, Segment]

    def resource(self, vrf: Vrf) -> pb.Vrf:
        """Return a Vrf as it is here; its tunnels end at this node's first VTEP."""
        vtep = next(iter(self.node.vteps), None)
        spec = pb.VrfSpec(
            vni=vrf.vni,
            loopback_ip_prefix=None if vrf.loopback is None else written(vrf.loopback),
            vtep_ip_prefix=None if vtep is None else written(ip_interface(vtep)),
        )
        why = [] if vtep else [f"node {self.node.name} has no address for tunnels"]
        status = pb.VrfStatus(
            oper_status=pb.VRF_OPER_STATUS_DOWN if why else pb.VRF_OPER_STATUS_UP,
            components=[tunnels(why)],
        )
        return pb.Vrf(name=VRFS.name(vrf.name), spec=spec, status=status)

    def create(self, asked: str, wanted: pb.Vrf) -> Vrf:
        """Return the Vrf that is there already, or a new one."""
        vrf = self._read(asked or str(uuid4()), wanted)
        known = self.known.get(vrf.name, vrf)
        if known != vrf:
            raise OpiRefusedError(
                Fault.TAKEN,
                f"vrf {vrf.name} exists, with vni {known.vni or '(none)'} and loopback"
                f" {known.loopback or '(none)'}: update it, or choose another id",
            )
        return known

    def update(self, known: Vrf, wanted: pb.Vrf) -> Vrf:
        """Return ``known`` as ``wanted``, the whole resource that is to be, has it."""
        return self._read(known.name, wanted)

    def _read(self, name: str, wanted: pb.Vrf) -> Vrf:
        spec = wanted.spec
        if not wanted.HasField("spec"):
            raise missing(_VRF)
        if not spec.HasField("loopback_ip_prefix"):
            raise missing(f"{_VRF}.loopback_ip_prefix")
        loopback = read_hosts(spec.loopback_ip_prefix, f"{_VRF}.loopback_ip_prefix")
        if spec.HasField("vtep_ip_prefix"):
            check_vtep(spec.vtep_ip_prefix, self.node, "Vrfs")
        return Vrf(name, self._vni(name, spec), loopback)

    def _vni(self, name: str, spec: pb.VrfSpec) -> Vni | None:
        if not spec.HasField("vni"):
            return None
        check_vni(spec.vni)
        taken = {segment.vni: segment.name for segment in self.segments.values()}
        taken |= {vrf.vni: vrf.name for vrf in self.known.values() if vrf.vni and vrf.name != name}
        if Vni(spec.vni) in taken:
            raise OpiRefusedError(
                Fault.TAKEN, f"the VNI is already in use: {spec.vni} by {taken[Vni(spec.vni)]}"
            )
        return Vni(spec.vni)


@dataclass(frozen=True, slots=True)
class SviView:
    """What is known of Svis at one time: this node, and Svis, Vrfs and Segments by name."""

    node: Node
    known: Mapping[str, Svi]
    vrfs: Mapping[str, Vrf]
    segments: Mapping[str, Segment]

    def resource(self, svi: Svi) -> pb.Svi:
        """Return an Svi as it is here."""
        spec = pb.SviSpec(
            vrf=VRFS.name(svi.vrf),
            logical_bridge=BRIDGES.name(svi.segment),
            mac_address=bytes.fromhex(svi.mac.replace(":", "")),
            gw_ip_prefix=map(written, svi.prefixes),
        )
        why = self._why_down(svi)
        status = pb.SviStatus(
            oper_status=pb.SVI_OPER_STATUS_DOWN if why else pb.SVI_OPER_STATUS_UP,
            components=[tunnels(why)],
        )
        return pb.Svi(name=SVIS.name(svi.name), spec=spec, status=status)

    def create(self, asked: str, wanted: pb.Svi) -> Svi:
        """Return the Svi that is there already, or a new one."""
        svi = self._read(asked or str(uuid4()), wanted)
        known = self.known.get(svi.name, svi)
        if known != svi:
            raise OpiRefusedError(
                Fault.TAKEN,
                f"svi {svi.name} exists, of logical bridge {known.segment} in vrf {known.vrf}, with"
                f" {known.mac} and {', '.join(map(str, known.prefixes))}: update it, or choose"
                " another id",
            )
        return known

    def update(self, known: Svi, wanted: pb.Svi) -> Svi:
        """Return ``known`` as ``wanted``, the whole resource that is to be, has it."""
        return self._read(known.name, wanted)

    def _why_down(self, svi: Svi) -> list[str]:
        segment = self.segments.get(svi.segment)
        if segment is None:
            return [f"there is no segment {svi.segment}"]
        if self.node.vtep(segment.underlay) is None:
            return [f"node {self.node.name} has no {segment.underlay} address for tunnels"]
        return []

    def _read(self, name: str, wanted: pb.Svi) -> Svi:
        spec = wanted.spec
        if not wanted.HasField("spec"):
            raise missing(_SVI)
        vrf = VRFS.id_of(spec.vrf, f"{_SVI}.vrf")
        segment = BRIDGES.id_of(spec.logical_bridge, f"{_SVI}.logical_bridge")
        if not spec.mac_address:
            raise missing(f"{_SVI}.mac_address")
        if not spec.gw_ip_prefix:
            raise missing(f"{_SVI}.gw_ip_prefix")
        prefixes = (read_hosts(each, f"{_SVI}.gw_ip_prefix") for each in spec.gw_ip_prefix)
        svi = Svi(
            name,
            vrf,
            segment,
            mac_of(spec.mac_address),
            tuple(sorted(set(prefixes), key=lambda each: (each.version, each))),
        )
        _refuse_bgp(spec)
        if vrf not in self.vrfs:
            raise OpiRefusedError(Fault.NO_VRF, f"the referenced VRF has not been found: {vrf}")
        if segment not in self.segments:
            raise OpiRefusedError(
                Fault.NO_BRIDGE, f"the referenced Logical Bridge has not been found: {segment}"
            )
        return svi


def _refuse_bgp(spec: pb.SviSpec) -> None:
    if spec.enable_bgp and not 1 <= spec.remote_as <= _MAX_AS:
        raise OpiRefusedError(
            Fault.BAD_VALUE,
            f"remote_as value ({spec.remote_as}) have to be between 1 and {_MAX_AS}",
        )
    if spec.remote_as and not spec.enable_bgp:
        raise OpiRefusedError(
            Fault.BAD_VALUE, f"remote_as ({spec.remote_as}) is for an svi with enable_bgp"
        )
    if spec.enable_bgp:
        raise OpiRefusedError(
            Fault.NOT_BUILT, "enable_bgp: nothing here speaks BGP; leave it out, with remote_as"
        )
