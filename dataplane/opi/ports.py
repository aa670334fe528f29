"""BridgePort and Endpoint: what a request asks for, and an attachment as a port. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataplane.core.desired import Port, PortState
from dataplane.core.errors import InvalidValueError
from dataplane.core.model import Attachment, AttachmentKey, Mac
from dataplane.opi import l2_xpu_infra_mgr_pb2 as pb
from dataplane.opi.bridges import Vlans
from dataplane.opi.component_pb2 import (
    COMP_STATUS_ERROR,
    COMP_STATUS_PENDING,
    COMP_STATUS_SUCCESS,
    Component,
    CompStatus,
)
from dataplane.opi.components import component
from dataplane.opi.refusals import Fault, OpiRefusedError, missing, shown
from dataplane.opi.resources import BRIDGES, HOST_PORT, PORTS

# A name that no container runtime can give (core.names): whose attachment it is can be told by it.
NETWORK = "opi:ports"
_CONTAINER = "opi:"
_IFNAME = re.compile(r"port|vlan[1-9][0-9]{0,3}")
_SPEC = "bridge_port.spec"
_TRUNK = "TRUNK"
_TYPES = {int(pb.BRIDGE_PORT_TYPE_ACCESS): "ACCESS", int(pb.BRIDGE_PORT_TYPE_TRUNK): _TRUNK}


@dataclass(frozen=True, slots=True)
class PortWish:
    """The MAC behind a port, and its Segments by their frames' tag, None at an access port."""

    mac: Mac
    segments: Mapping[int | None, str]


@dataclass(frozen=True, slots=True)
class Served:
    """How far one Segment of a port is served; ``lag`` says why it is not programmed.

    So does ``unpublished`` of its row.
    """

    segment: str
    port: Port | None
    lag: Sequence[str]
    unpublished: str


def wish(bridge_port: pb.BridgePort, vlans: Vlans) -> PortWish:
    """Return what a whole resource asks for."""
    spec = bridge_port.spec
    if not bridge_port.HasField("spec"):
        raise missing(_SPEC)
    if not spec.mac_address:
        raise missing(f"{_SPEC}.mac_address")
    kind, bridges = _type(spec.ptype), spec.logical_bridges
    if not bridges:
        raise OpiRefusedError(
            Fault.MISSING_FIELD,
            f"LogicalBridges field cannot be empty when the Bridge Port is of type {kind}",
        )
    if kind == _TRUNK:
        return PortWish(mac_of(spec.mac_address), _trunk(bridges, vlans))
    if len(bridges) > 1:
        raise OpiRefusedError(
            Fault.BAD_VALUE, f"ACCESS type must have single LogicalBridge and not ({len(bridges)})"
        )
    return PortWish(mac_of(spec.mac_address), {None: vlans.named(bridges[0])})


def _trunk(bridges: Sequence[str], vlans: Vlans) -> dict[int | None, str]:
    segments: dict[int | None, str] = {}
    for bridge in bridges:
        vlan, segment = vlans.tagged(bridge)
        if vlan in segments:
            raise OpiRefusedError(
                Fault.BAD_VALUE,
                f"logical bridge {shown(bridge)} stands twice: it is VLAN {vlan}, {segment}",
            )
        segments[vlan] = segment
    return segments


def netdev_of(port_id: str, node: str, representors: Sequence[str]) -> str:
    """Return the representor of the VF that a port is: ``host0-3``, or the representor's own name.

    ``representors`` are in the order of the VFs' numbers.
    """
    if port_id in representors:
        return port_id
    found = HOST_PORT.fullmatch(port_id)
    if found is not None and found[1] == "0" and int(found[2]) < len(representors):
        return representors[int(found[2])]
    raise OpiRefusedError(
        Fault.NO_VF,
        f"bridge port {port_id} is behind no VF: node {node} has {len(representors)}, numbered from"
        " host0-0; devices.representors in its configuration lists them",
    )


def is_daemons(request: pb.CreateBridgePortRequest) -> bool:
    """Say whether it is a DPU operator's daemon that asks: it names a VF, and chooses no id.

    It deletes no port whose pod went without its namespace, so what it says of a VF is the news.
    """
    chosen, name = request.bridge_port_id, request.bridge_port.name
    return not chosen and HOST_PORT.fullmatch(name) is not None


def key_of(port_id: str, vlan: int | None = None) -> AttachmentKey:
    """Return what a port is called on this node, or of a trunk port the attachment of a VLAN."""
    return AttachmentKey(_CONTAINER + port_id, "port" if vlan is None else f"vlan{vlan}")


def identity_of(node: str, port_id: str, vlan: int | None) -> str:
    """Return whose an attachment of a port is: of a trunk port each VLAN is named by itself.

    Every DPU has a host0-0: without the node one would be taken for another that has moved.
    """
    identity = f"opi/{node}/{port_id}"
    return identity if vlan is None else f"{identity}/{key_of(port_id, vlan).ifname}"


def id_of(key: AttachmentKey) -> str:
    """Return the id of the port that an attachment is, or is a part of; empty: of none."""
    if not key.container_id.startswith(_CONTAINER) or not _IFNAME.fullmatch(key.ifname):
        return ""
    return key.container_id.removeprefix(_CONTAINER)


def resource(attachments: Sequence[Attachment]) -> pb.BridgePort:
    """Return the attachments of a port as what they are together, without a status."""
    first, is_trunk = attachments[0], attachments[0].vlan is not None
    in_order = sorted(attachments, key=lambda each: each.vlan or 0)
    return pb.BridgePort(
        name=PORTS.name(id_of(first.key)),
        spec=pb.BridgePortSpec(
            mac_address=bytes.fromhex(first.mac.replace(":", "")),
            ptype=pb.BRIDGE_PORT_TYPE_TRUNK if is_trunk else pb.BRIDGE_PORT_TYPE_ACCESS,
            logical_bridges=[BRIDGES.name(each.segment) for each in in_order],
        ),
    )


def status(served: Sequence[Served]) -> pb.BridgePortStatus:
    """Return how it is with a port, which is as it is with the worst of its Segments.

    It is up if packets pass here: what other nodes know of it is a component of its own.
    """
    dataplane = _dataplane(served)
    up = dataplane.status == COMP_STATUS_SUCCESS
    return pb.BridgePortStatus(
        oper_status=pb.BP_OPER_STATUS_UP if up else pb.BP_OPER_STATUS_DOWN,
        components=[dataplane, _fabric(served)],
    )


def _dataplane(served: Sequence[Served]) -> Component:
    found = [(each.segment, *_state(each)) for each in served]
    states = {state for _, state, _ in found}
    worst = (COMP_STATUS_ERROR, COMP_STATUS_PENDING, COMP_STATUS_SUCCESS)
    reasons = _reasons({segment: whys for segment, _, whys in found})
    return component("dataplane", next(each for each in worst if each in states), reasons)


def _reasons(whys: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the reasons of all Segments, which they name where there are more."""
    return [
        f"{segment}: {why}" if len(whys) > 1 else why
        for segment, found in whys.items()
        for why in found
    ]


def _state(served: Served) -> tuple[CompStatus, Sequence[str]]:
    port = served.port
    if port is not None and port.state is PortState.BLOCKED:
        return COMP_STATUS_ERROR, [f"{port.reason}: {port.detail}"]
    return (COMP_STATUS_PENDING if port is None or served.lag else COMP_STATUS_SUCCESS), served.lag


def _fabric(served: Sequence[Served]) -> Component:
    reasons = _reasons({e.segment: [e.unpublished] if e.unpublished else [] for e in served})
    return component("fabric", COMP_STATUS_PENDING if reasons else COMP_STATUS_SUCCESS, reasons)


def _type(ptype: int) -> str:
    if ptype == pb.BRIDGE_PORT_TYPE_UNSPECIFIED:
        raise missing(f"{_SPEC}.ptype")
    if ptype not in _TYPES:
        raise OpiRefusedError(Fault.BAD_VALUE, f"ptype {ptype} is no BridgePortType")
    return _TYPES[ptype]


def mac_of(raw: bytes) -> Mac:
    """Return the MAC of a field ``mac_address``; OpiRefusedError if it is none."""
    if len(raw) != 6:
        raise OpiRefusedError(
            Fault.BAD_VALUE,
            f"mac_address {shown(raw.hex())} has {len(raw)} bytes: a MAC has 6, as they are on the"
            " wire",
        )
    try:
        return Mac(raw.hex(":"))
    except InvalidValueError as error:
        raise OpiRefusedError(Fault.BAD_VALUE, str(error)) from error
