"""OPI's messages and services as they are on the wire: packages, names, numbers and types by hand.

The tables say what opi-api and the DPU operator say; a client of theirs knows no other.
"""

from __future__ import annotations

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from dataplane.opi import (
    component_pb2,
    l2_xpu_infra_mgr_pb2,
    l3_xpu_infra_mgr_pb2,
    lifecycle_pb2,
    network_function_pb2,
    networktypes_pb2,
)

EVPN = "opi_api.network.evpn_gw.v1alpha1"
COMMON = "opi_api.network.opinetcommon.v1alpha1"
LIFECYCLE = "opi_api.lifecycle.v1alpha1"
PREFIX = f"{COMMON}.IPPrefix"
EMPTY, MASK = "google.protobuf.Empty", "google.protobuf.FieldMask"
MODULES = (
    component_pb2,
    l2_xpu_infra_mgr_pb2,
    l3_xpu_infra_mgr_pb2,
    lifecycle_pb2,
    network_function_pb2,
    networktypes_pb2,
)
FILES: list[FileDescriptor] = [module.DESCRIPTOR for module in MODULES]
KINDS = {  # singular, plural, snake case of both
    "LogicalBridge": ("LogicalBridges", "logical_bridge", "logical_bridges"),
    "BridgePort": ("BridgePorts", "bridge_port", "bridge_ports"),
    "Vrf": ("Vrfs", "vrf", "vrfs"),
    "Svi": ("Svis", "svi", "svis"),
}

# "repeated" and "optional" (a scalar whose presence is tracked) stand before a type.
MESSAGES: dict[str, dict[int, tuple[str, str]]] = {
    f"{COMMON}.IPAddress": {
        1: ("af", f"{COMMON}.IpAf"),
        2: ("v4_addr", "optional fixed32"),
        3: ("v6_addr", "optional bytes"),
    },
    PREFIX: {1: ("addr", f"{COMMON}.IPAddress"), 2: ("len", "int32")},
    f"{EVPN}.Component": {
        1: ("name", "string"),
        2: ("status", f"{EVPN}.CompStatus"),
        3: ("details", "string"),
    },
    f"{EVPN}.LogicalBridgeSpec": {
        1: ("vlan_id", "uint32"),
        2: ("vni", "optional uint32"),
        3: ("vtep_ip_prefix", PREFIX),
    },
    f"{EVPN}.BridgePortSpec": {
        1: ("mac_address", "bytes"),
        2: ("ptype", f"{EVPN}.BridgePortType"),
        3: ("logical_bridges", "repeated string"),
    },
    f"{EVPN}.VrfSpec": {
        1: ("vni", "optional uint32"),
        2: ("loopback_ip_prefix", PREFIX),
        3: ("vtep_ip_prefix", PREFIX),
    },
    f"{EVPN}.SviSpec": {
        1: ("vrf", "string"),
        2: ("logical_bridge", "string"),
        3: ("mac_address", "bytes"),
        4: ("gw_ip_prefix", f"repeated {PREFIX}"),
        5: ("enable_bgp", "bool"),
        6: ("remote_as", "uint32"),
    },
    f"{LIFECYCLE}.InitRequest": {1: ("dpu_mode", "bool"), 2: ("dpu_identifier", "string")},
    f"{LIFECYCLE}.IpPort": {1: ("ip", "string"), 2: ("port", "int32")},
    f"{LIFECYCLE}.VfCount": {1: ("vf_cnt", "int32")},
    f"{LIFECYCLE}.TopologyInfo": {1: ("node", "string")},
    f"{LIFECYCLE}.Device": {
        1: ("ID", "string"),
        2: ("health", "string"),
        3: ("topology", f"{LIFECYCLE}.TopologyInfo"),
    },
    f"{LIFECYCLE}.DeviceListResponse": {
        1: ("devices", f"repeated {LIFECYCLE}.DeviceListResponse.DevicesEntry")
    },
    f"{LIFECYCLE}.DeviceListResponse.DevicesEntry": {
        1: ("key", "string"),
        2: ("value", f"{LIFECYCLE}.Device"),
    },
    f"{LIFECYCLE}.PingRequest": {1: ("timestamp", "int64"), 2: ("sender_id", "string")},
    f"{LIFECYCLE}.PingResponse": {
        1: ("timestamp", "int64"),
        2: ("responder_id", "string"),
        3: ("healthy", "bool"),
    },
    "Vendor.NFRequest": {1: ("input", "string"), 2: ("output", "string")},
    "Vendor.Empty": {},
}
_STATUS = {"LogicalBridge": "LB", "BridgePort": "BP", "Vrf": "VRF", "Svi": "SVI"}
for _kind, (_plural, _field, _fields) in KINDS.items():
    _first = 8 if _kind == "Vrf" else 1
    MESSAGES |= {
        f"{EVPN}.{_kind}": {
            1: ("name", "string"),
            2: ("spec", f"{EVPN}.{_kind}Spec"),
            3: ("status", f"{EVPN}.{_kind}Status"),
        },
        f"{EVPN}.{_kind}Status": {
            _first: ("oper_status", f"{EVPN}.{_STATUS[_kind]}OperStatus"),
            _first + 1: ("components", f"repeated {EVPN}.Component"),
        },
        f"{EVPN}.Create{_kind}Request": {
            1: (f"{_field}_id", "string"),
            2: (_field, f"{EVPN}.{_kind}"),
        },
        f"{EVPN}.List{_plural}Request": {1: ("page_size", "int32"), 2: ("page_token", "string")},
        f"{EVPN}.List{_plural}Response": {
            1: (_fields, f"repeated {EVPN}.{_kind}"),
            2: ("next_page_token", "string"),
        },
        f"{EVPN}.Get{_kind}Request": {1: ("name", "string")},
        f"{EVPN}.Delete{_kind}Request": {1: ("name", "string"), 2: ("allow_missing", "bool")},
        f"{EVPN}.Update{_kind}Request": {
            1: (_field, f"{EVPN}.{_kind}"),
            2: ("update_mask", MASK),
            3: ("allow_missing", "bool"),
        },
    }

METHODS: dict[str, tuple[str, str]] = {
    f"/{LIFECYCLE}.LifeCycleService/Init": (f"{LIFECYCLE}.InitRequest", f"{LIFECYCLE}.IpPort"),
    f"/{LIFECYCLE}.DeviceService/GetDevices": (EMPTY, f"{LIFECYCLE}.DeviceListResponse"),
    f"/{LIFECYCLE}.DeviceService/SetNumVfs": (f"{LIFECYCLE}.VfCount", f"{LIFECYCLE}.VfCount"),
    f"/{LIFECYCLE}.HeartbeatService/Ping": (
        f"{LIFECYCLE}.PingRequest",
        f"{LIFECYCLE}.PingResponse",
    ),
    "/Vendor.NetworkFunctionService/CreateNetworkFunction": ("Vendor.NFRequest", "Vendor.Empty"),
    "/Vendor.NetworkFunctionService/DeleteNetworkFunction": ("Vendor.NFRequest", "Vendor.Empty"),
}
for _kind, (_plural, _field, _fields) in KINDS.items():
    _service = f"/{EVPN}.{_kind}Service"
    METHODS |= {
        f"{_service}/Create{_kind}": (f"{EVPN}.Create{_kind}Request", f"{EVPN}.{_kind}"),
        f"{_service}/List{_plural}": (
            f"{EVPN}.List{_plural}Request",
            f"{EVPN}.List{_plural}Response",
        ),
        f"{_service}/Get{_kind}": (f"{EVPN}.Get{_kind}Request", f"{EVPN}.{_kind}"),
        f"{_service}/Delete{_kind}": (f"{EVPN}.Delete{_kind}Request", EMPTY),
        f"{_service}/Update{_kind}": (f"{EVPN}.Update{_kind}Request", f"{EVPN}.{_kind}"),
    }

ENUMS = {
    f"{COMMON}.IpAf": ("IP_AF_UNSPECIFIED", "IP_AF_INET", "IP_AF_INET6"),
    f"{EVPN}.CompStatus": (
        "COMP_STATUS_UNSPECIFIED",
        "COMP_STATUS_PENDING",
        "COMP_STATUS_SUCCESS",
        "COMP_STATUS_ERROR",
    ),
    f"{EVPN}.BridgePortType": (
        "BRIDGE_PORT_TYPE_UNSPECIFIED",
        "BRIDGE_PORT_TYPE_ACCESS",
        "BRIDGE_PORT_TYPE_TRUNK",
    ),
    **{
        f"{EVPN}.{prefix}OperStatus": tuple(
            f"{prefix}_OPER_STATUS_{each}"
            for each in ("UNSPECIFIED", "UP", "DOWN", "TO_BE_DELETED")
        )
        for prefix in _STATUS.values()
    },
}
_TYPES = {
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_FIXED32: "fixed32",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_UINT32: "uint32",
}


def messages() -> dict[str, Descriptor]:
    found = [each for file in FILES for each in file.message_types_by_name.values()]
    found += [nested for each in found for nested in each.nested_types]
    return {each.full_name: each for each in found}


def written(field: FieldDescriptor) -> str:
    """Return a field's type as the tables have it."""
    kind = field.message_type or field.enum_type
    name = kind.full_name if kind else _TYPES[field.type]
    if field.is_repeated:
        return f"repeated {name}"
    is_tracked = field.has_presence and not field.message_type
    return f"optional {name}" if is_tracked else name


@pytest.mark.parametrize("name", MESSAGES)
def test_a_message(name: str) -> None:
    found = {field.number: (field.name, written(field)) for field in messages()[name].fields}
    assert found == MESSAGES[name]


def test_there_are_no_other_messages() -> None:
    assert messages().keys() == MESSAGES.keys()


def test_every_service_and_method() -> None:
    services = [each for file in FILES for each in file.services_by_name.values()]
    found = {
        f"/{service.full_name}/{method.name}": (
            method.input_type.full_name,
            method.output_type.full_name,
        )
        for service in services
        for method in service.methods
    }
    assert found == METHODS
    streams = [m for s in services for m in s.methods if m.client_streaming or m.server_streaming]
    assert streams == []


def test_every_enum_counts_from_zero() -> None:
    found = [each for file in FILES for each in file.enum_types_by_name.values()]
    assert {each.full_name: tuple(v.name for v in each.values) for each in found} == ENUMS
    assert all([v.number for v in e.values] == list(range(len(e.values))) for e in found)


def test_an_address_is_of_one_family() -> None:
    oneofs = messages()[f"{COMMON}.IPAddress"].oneofs_by_name
    assert {name: [f.name for f in each.fields] for name, each in oneofs.items()} == {
        "v4_or_v6": ["v4_addr", "v6_addr"]
    }


def test_no_annotation_of_google_api_is_imported() -> None:
    found = {each.name for file in FILES for each in file.dependencies}
    assert {name for name in found if not name.startswith("dataplane/opi/")} == {
        "google/protobuf/empty.proto",
        "google/protobuf/field_mask.proto",
    }


@pytest.mark.parametrize(
    ("message", "raw"),
    [
        pytest.param(
            l2_xpu_infra_mgr_pb2.CreateBridgePortRequest(
                bridge_port=l2_xpu_infra_mgr_pb2.BridgePort(
                    name="host0-3",
                    spec=l2_xpu_infra_mgr_pb2.BridgePortSpec(
                        mac_address=bytes.fromhex("020000000001"),
                        ptype="BRIDGE_PORT_TYPE_ACCESS",
                        logical_bridges=["5"],
                    ),
                )
            ),
            # Field by field, as a DPU operator's daemon encodes it.
            "1218" + "0a07" + b"host0-3".hex() + "120d" + "0a06020000000001" + "1001" + "1a0135",
            id="CreateBridgePort of the daemon",
        ),
        pytest.param(
            lifecycle_pb2.InitRequest(dpu_mode=True, dpu_identifier="marvell-dpu"),
            "0801" + "120b" + b"marvell-dpu".hex(),
            id="Init",
        ),
        pytest.param(lifecycle_pb2.VfCount(vf_cnt=8), "0808", id="SetNumVfs"),
        pytest.param(
            networktypes_pb2.IPAddress(af="IP_AF_INET", v4_addr=167772162),
            "0801" + "15" + "0200000a",
            id="10.0.0.2",
        ),
        pytest.param(
            l2_xpu_infra_mgr_pb2.LogicalBridgeSpec(vlan_id=22, vni=0), "0816" + "1000", id="vni 0"
        ),
    ],
)
def test_bytes_on_the_wire(message: object, raw: str) -> None:
    assert message.SerializeToString().hex() == raw  # type: ignore[attr-defined]
