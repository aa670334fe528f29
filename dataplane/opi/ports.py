"""BridgePort and Endpoint: what a request asks for, and an attachment as a port. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
)
from dataplane.opi.components import component
from dataplane.opi.refusals import Fault, OpiRefusedError, missing, shown
from dataplane.opi.resources import BRIDGES, HOST_PORT, PORTS

# A name that no container runtime can give (core.names): whose attachment it is can be told by it.
NETWORK = "opi:ports"
_CONTAINER = "opi:"
_IFNAME = "port"
_SPEC = "bridge_port.spec"


@dataclass(frozen=True, slots=True)
class PortWish:
    """An access port: the MAC behind it, and the Segment by name."""

    mac: Mac
    segment: str


def wish(bridge_port: pb.BridgePort, vlans: Vlans) -> PortWish:
    """Return what a whole resource asks for."""
    spec = bridge_port.spec
    if not bridge_port.HasField("spec"):
        raise missing(_SPEC)
    if not spec.mac_address:
        raise missing(f"{_SPEC}.mac_address")
    _check_type(spec.ptype)
    count = len(spec.logical_bridges)
    if not count:
        raise OpiRefusedError(
            Fault.MISSING_FIELD,
            "LogicalBridges field cannot be empty when the Bridge Port is of type ACCESS",
        )
    if count > 1:
        raise OpiRefusedError(
            Fault.BAD_VALUE, f"ACCESS type must have single LogicalBridge and not ({count})"
        )
    return PortWish(_mac(spec.mac_address), vlans.named(spec.logical_bridges[0]))


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


def key_of(port_id: str) -> AttachmentKey:
    """Return what a port's attachment is called on this node."""
    return AttachmentKey(_CONTAINER + port_id, _IFNAME)


def ids(keys: Collection[AttachmentKey]) -> list[str]:
    """Return the ids of those of ``keys`` that are ports."""
    ours = (key.container_id for key in keys if key == key_of(_id(key)))
    return [each.removeprefix(_CONTAINER) for each in ours]


def resource(attachment: Attachment) -> pb.BridgePort:
    """Return an attachment as the port that it is, without a status."""
    return pb.BridgePort(
        name=PORTS.name(_id(attachment.key)),
        spec=pb.BridgePortSpec(
            mac_address=bytes.fromhex(attachment.mac.replace(":", "")),
            ptype=pb.BRIDGE_PORT_TYPE_ACCESS,
            logical_bridges=[BRIDGES.name(attachment.segment)],
        ),
    )


def status(port: Port | None, lag: Sequence[str], unpublished: str) -> pb.BridgePortStatus:
    """Return how it is with a port; ``lag`` says why it is not programmed, as far as it is not.

    So does ``unpublished`` of its row.

    It is up if packets pass here: what other nodes know of it is a component of its own.
    """
    blocked = port is not None and port.state is PortState.BLOCKED
    up = port is not None and not lag and not blocked
    return pb.BridgePortStatus(
        oper_status=pb.BP_OPER_STATUS_UP if up else pb.BP_OPER_STATUS_DOWN,
        components=[_dataplane(port, lag), _fabric(unpublished)],
    )


def _dataplane(port: Port | None, lag: Sequence[str]) -> Component:
    if port is not None and port.state is PortState.BLOCKED:
        return component("dataplane", COMP_STATUS_ERROR, [f"{port.reason}: {port.detail}"])
    if port is None or lag:
        return component("dataplane", COMP_STATUS_PENDING, lag)
    return component("dataplane", COMP_STATUS_SUCCESS)


def _fabric(unpublished: str) -> Component:
    if unpublished:
        return component("fabric", COMP_STATUS_PENDING, [unpublished])
    return component("fabric", COMP_STATUS_SUCCESS)


def _id(key: AttachmentKey) -> str:
    return key.container_id.removeprefix(_CONTAINER)


def _check_type(ptype: int) -> None:
    if ptype == pb.BRIDGE_PORT_TYPE_UNSPECIFIED:
        raise missing(f"{_SPEC}.ptype")
    if ptype == pb.BRIDGE_PORT_TYPE_TRUNK:
        raise OpiRefusedError(
            Fault.NOT_BUILT, "ptype TRUNK: ports with VLAN tags are not built yet; use ACCESS"
        )
    if ptype != pb.BRIDGE_PORT_TYPE_ACCESS:
        raise OpiRefusedError(Fault.BAD_VALUE, f"ptype {ptype} is no BridgePortType")


def _mac(raw: bytes) -> Mac:
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
