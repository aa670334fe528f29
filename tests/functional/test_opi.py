"""OPI's services over a real socket: what they answer to good and bad input, over restarts."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from google.protobuf.field_mask_pb2 import FieldMask
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from dataplane.contracts import AttachRefusedError
from dataplane.core.admission import TRY_AGAIN
from dataplane.core.desired import Port
from dataplane.core.errors import FabricUnavailableError, InvalidValueError, OverweaveError
from dataplane.core.events import (
    AttachRequest,
    DevicesTold,
    FabricConnection,
    LinksChanged,
    PathProbed,
)
from dataplane.core.model import (
    Attachment,
    AttachmentKey,
    Device,
    Endpoint,
    Grant,
    Mac,
    Network,
    Segment,
    Side,
    Vni,
)
from dataplane.core.snapshot import Obstacle
from dataplane.fabric import networks as networks_module
from dataplane.fabric.store import FabricStore
from dataplane.opi import l2_xpu_infra_mgr_pb2 as pb
from dataplane.opi import lifecycle_pb2, methods
from dataplane.opi.channel import Channel
from dataplane.opi.network_function_pb2 import NFRequest
from dataplane.opi.networktypes_pb2 import IPAddress, IPPrefix
from dataplane.opi.ports import key_of
from dataplane.opi.reflection_service import STREAMS
from dataplane.opi.server import OpiServer
from tests.functional.fabric_support import wait_until
from tests.functional.opi_world import (
    BRIDGE,
    MAC,
    NODE,
    PORT,
    OpiWorld,
    daemons_port,
    running_world,
)

Code = grpc.StatusCode
EVPN = "/opi_api.network.evpn_gw.v1alpha1"
LIFECYCLE = "/opi_api.lifecycle.v1alpha1"
OTHER_MAC = bytes.fromhex("020000000002")
LIST = pb.ListBridgePortsRequest


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpiWorld]:
    with running_world(tmp_path_factory.mktemp("opi")) as world:
        yield world


@pytest.fixture
def world(shared: OpiWorld) -> Iterator[OpiWorld]:
    """Yield the node without ports; each test ends with what it left being taken away."""
    yield shared
    for name in shared.port_names():
        shared.ports.DeleteBridgePort(pb.DeleteBridgePortRequest(name=PORT + name))


def delete(world: OpiWorld, name: str, *, allow_missing: bool = False) -> None:
    request = pb.DeleteBridgePortRequest(name=name, allow_missing=allow_missing)
    world.ports.DeleteBridgePort(request)


def port(**spec: Any) -> pb.BridgePort:
    return daemons_port(**spec).bridge_port


def trunk(*bridges: str, **spec: Any) -> pb.CreateBridgePortRequest:
    return daemons_port(**{"ptype": 2, "logical_bridges": bridges, **spec})


def named(port_id: str, **spec: Any) -> pb.CreateBridgePortRequest:
    return pb.CreateBridgePortRequest(bridge_port_id=port_id, bridge_port=port(**spec))


def whole_name(**spec: Any) -> pb.CreateBridgePortRequest:
    wanted = pb.BridgePort(name=PORT + "host0-3", spec=port(**spec).spec)
    return pb.CreateBridgePortRequest(bridge_port=wanted)


def bridge(**spec: Any) -> pb.LogicalBridge:
    return pb.LogicalBridge(spec=pb.LogicalBridgeSpec(**spec))


def bridge_named(bridge_id: str, **spec: Any) -> pb.CreateLogicalBridgeRequest:
    return pb.CreateLogicalBridgeRequest(logical_bridge_id=bridge_id, logical_bridge=bridge(**spec))


def update(name: str = "host0-3", *paths: str, **spec: Any) -> pb.UpdateBridgePortRequest:
    wanted = pb.BridgePort(name=name, spec=pb.BridgePortSpec(**spec))
    return pb.UpdateBridgePortRequest(bridge_port=wanted, update_mask=FieldMask(paths=paths))


def update_bridge(name: str, *paths: str, **spec: Any) -> pb.UpdateLogicalBridgeRequest:
    wanted = pb.LogicalBridge(name=name, spec=pb.LogicalBridgeSpec(**spec))
    return pb.UpdateLogicalBridgeRequest(logical_bridge=wanted, update_mask=FieldMask(paths=paths))


def call(world: OpiWorld, method: str, request: Any, timeout_s: float | None = 20) -> Any:
    """Call a method by its full name with a message, or with bytes as they are."""
    ask = world.channel.unary_unary(
        method,
        request_serializer=lambda told: (
            told if isinstance(told, bytes) else told.SerializeToString()
        ),
        response_deserializer=lambda raw: raw,
    )
    return ask(request, timeout=timeout_s)


@contextmanager
def refused(code: grpc.StatusCode, *words: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError) as raised:
        yield
    told = raised.value.details() or ""
    assert raised.value.code() is code, told
    for each in words:
        assert each in told


PORTS, BRIDGES = f"{EVPN}.BridgePortService", f"{EVPN}.LogicalBridgeService"
CREATE, GET, REMOVE, UPDATE = (
    f"{PORTS}/{verb}BridgePort" for verb in ("Create", "Get", "Delete", "Update")
)
INIT, SET_VFS = f"{LIFECYCLE}.LifeCycleService/Init", f"{LIFECYCLE}.DeviceService/SetNumVfs"
CREATE_LB, GET_LB = f"{BRIDGES}/CreateLogicalBridge", f"{BRIDGES}/GetLogicalBridge"
UPDATE_LB, REMOVE_LB = f"{BRIDGES}/UpdateLogicalBridge", f"{BRIDGES}/DeleteLogicalBridge"
FUNCTIONS = "/Vendor.NetworkFunctionService"
CREATE_NF, REMOVE_NF = (f"{FUNCTIONS}/{verb}NetworkFunction" for verb in ("Create", "Delete"))
NF_MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")
BAD, MISSING, REFUSED = Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION
TAKEN = Code.ALREADY_EXISTS
GIVEN_UP = (Code.DEADLINE_EXCEEDED, Code.UNAVAILABLE)  # whoever sees first that the time is over
FORGED = pb.ListLogicalBridgesRequest(page_token="Lw==")  # noqa: S106  # of a page


def nf(source: str, sink: str) -> NFRequest:
    return NFRequest(input=source, output=sink)


WRONG: list[tuple[str, str, Any, grpc.StatusCode, str]] = [
    # missing fields
    ("no port", CREATE, pb.CreateBridgePortRequest(), BAD, "missing required field: bridge_port"),
    ("no name", CREATE, pb.CreateBridgePortRequest(bridge_port=pb.BridgePort()), BAD, "_port_id"),
    (
        "no spec",
        CREATE,
        pb.CreateBridgePortRequest(bridge_port_id="host0-3", bridge_port={}),
        BAD,
        "spec",
    ),
    ("no mac", CREATE, daemons_port(mac=b""), BAD, "missing required field: bridge_port.spec.mac"),
    ("no type", CREATE, daemons_port(ptype=0), BAD, "missing required field: bridge_port.spec.pt"),
    ("no bridge", CREATE, daemons_port(logical_bridges=[]), BAD, "cannot be empty"),
    ("get nothing", GET, pb.GetBridgePortRequest(), BAD, "missing required field: name"),
    ("delete nothing", REMOVE, pb.DeleteBridgePortRequest(), BAD, "missing required field: name"),
    ("update nothing", UPDATE, pb.UpdateBridgePortRequest(), BAD, "bridge_po"),
    ("update unnamed", UPDATE, update(""), BAD, "bridge_port.name"),
    ("no lb", CREATE_LB, pb.CreateLogicalBridgeRequest(), BAD, "missing required field: logical_b"),
    ("no vlan", CREATE_LB, bridge_named("blue", vni=7), BAD, "logical_bridge.spec.vlan_id"),
    ("no vni", CREATE_LB, bridge_named("opi-bridge9", vlan_id=22), BAD, "logical_bridge.spec.vni"),
    ("update no lb", UPDATE_LB, pb.UpdateLogicalBridgeRequest(), BAD, "logical_bridge"),
    # names and ids
    (
        "wrong prefix",
        GET,
        pb.GetBridgePortRequest(name=BRIDGE + "host0-3"),
        BAD,
        "no resource name",
    ),
    ("no prefix", GET, pb.GetBridgePortRequest(name="opi-port8"), BAD, "no resource name"),
    ("other service", GET, pb.GetBridgePortRequest(name="//x/ports/host0-3"), BAD, "no resource"),
    ("pattern", GET, pb.GetBridgePortRequest(name="bridgePorts/host0-3"), BAD, "no resource name"),
    ("path", REMOVE, pb.DeleteBridgePortRequest(name=PORT + "../x"), BAD, "no resource name"),
    ("lb prefix", GET_LB, pb.GetLogicalBridgeRequest(name=PORT + "blue"), BAD, "no resource name"),
    ("long name", GET, pb.GetBridgePortRequest(name="x" * 100000), BAD, "(100000 characters)"),
    ("short id", CREATE, named("abc"), BAD, "user-settable ID must be between 4 and 63"),
    ("upper id", CREATE, named("Host0-3"), BAD, "user-settable ID must only contain"),
    ("uuid", CREATE, named("0f5a1b3c-7d11-4a02-9b7e-2f0d7c1a9e55"), BAD, "must not be a UUID"),
    ("newline in id", CREATE, named("host0-3\n"), BAD, "user-settable ID must only contain"),
    # values
    ("short mac", CREATE, daemons_port(mac=MAC[:5]), BAD, "has 5 bytes"),
    ("long mac", CREATE, daemons_port(mac=MAC * 2), BAD, "has 12 bytes"),
    ("multicast", CREATE, daemons_port(mac=bytes.fromhex("01005e000001")), BAD, "multicast"),
    ("broadcast", CREATE, daemons_port(mac=b"\xff" * 6), BAD, "multicast or broadcast"),
    ("zero mac", CREATE, daemons_port(mac=bytes(6)), BAD, "cannot belong"),
    ("unknown type", CREATE, daemons_port(ptype=7), BAD, "ptype 7 is no BridgePortType"),
    ("negative type", CREATE, daemons_port(ptype=-1), BAD, "ptype -1 is no BridgePortType"),
    ("empty trunk", CREATE, trunk(), BAD, "cannot be empty when the Bridge Port is of type TRUNK"),
    ("bridge twice", CREATE, trunk("5", "6", "5"), BAD, "'5' stands twice: it is VLAN 5, blue"),
    ("twice by name", CREATE, trunk("5", BRIDGE + "blue"), BAD, "stands twice"),
    ("vlan 0 of a trunk", CREATE, trunk("5", "0"), BAD, "no VLAN id from 1"),
    ("100k in a trunk", CREATE, trunk(*["5"] * 100000), BAD, "stands twice"),
    ("not tagged", CREATE, trunk("5", BRIDGE + "default"), REFUSED, "has no VLAN id on this node"),
    ("nobody's tag", CREATE, trunk("17"), REFUSED, "segment default, has no VLAN id on this node"),
    ("no such trunk bridge", CREATE, trunk("5", "22"), REFUSED, "not been found: opi-bridge9"),
    ("two bridges", CREATE, daemons_port(logical_bridges=["5", "6"]), BAD, "and not (2)"),
    ("100k bridges", CREATE, daemons_port(logical_bridges=["5"] * 100000), BAD, "not (100000)"),
    ("vlan 0", CREATE, daemons_port(logical_bridges=["0"]), BAD, "no VLAN id"),
    ("vlan 4096", CREATE, daemons_port(logical_bridges=["4096"]), BAD, "no VLAN id"),
    ("bridge id alone", CREATE, daemons_port(logical_bridges=["blue"]), BAD, "no resource name"),
    ("lb vlan 4096", CREATE_LB, bridge_named("blue", vlan_id=4096), BAD, "VlanId value (4096)"),
    ("lb vlan 2^32-1", CREATE_LB, bridge_named("blue", vlan_id=(1 << 32) - 1), BAD, "VlanId value"),
    ("vni 0", CREATE_LB, bridge_named("blue", vlan_id=5, vni=0), BAD, "Vni value (0)"),
    ("vni 2^24", CREATE_LB, bridge_named("blue", vlan_id=5, vni=1 << 24), BAD, "Vni value"),
    (
        "vtep of no family",
        CREATE_LB,
        bridge_named("blue", vlan_id=5, vtep_ip_prefix=IPPrefix(len=8)),
        BAD,
        "family that af says",
    ),
    (
        "oneof against af",
        CREATE_LB,
        bridge_named(
            "blue",
            vlan_id=5,
            vtep_ip_prefix=IPPrefix(addr=IPAddress(af="IP_AF_INET", v6_addr=b"x")),
        ),
        BAD,
        "family that af says",
    ),
    ("no count", SET_VFS, lifecycle_pb2.VfCount(), BAD, "vf_cnt 0"),
    ("count", SET_VFS, lifecycle_pb2.VfCount(vf_cnt=-8), BAD, "-8"),
    # what is not there, or not so
    ("get unknown", GET, pb.GetBridgePortRequest(name="host0-3"), MISSING, "find key host0-3"),
    ("delete unknown", REMOVE, pb.DeleteBridgePortRequest(name="host0-3"), MISSING, "find key hos"),
    ("update unknown", UPDATE, update("host0-3"), MISSING, "find key host0-3"),
    (
        "lb unknown",
        GET_LB,
        pb.GetLogicalBridgeRequest(name=BRIDGE + "x"),
        MISSING,
        "unable to find",
    ),
    (
        "remove lb",
        REMOVE_LB,
        pb.DeleteLogicalBridgeRequest(name=BRIDGE + "x"),
        MISSING,
        "unable to",
    ),
    ("update lb", UPDATE_LB, update_bridge(BRIDGE + "x"), MISSING, "unable to find key"),
    ("no such vf", CREATE, daemons_port(vf=8), REFUSED, "host0-8 is behind no VF: node d1 has 8"),
    ("other pf", CREATE, named("host1-0"), REFUSED, "host1-0 is behind no VF"),
    ("no such netdev", CREATE, named("opi-port8"), REFUSED, "opi-port8 is behind no VF"),
    (
        "no such bridge",
        CREATE,
        daemons_port(logical_bridges=[BRIDGE + "nowhere"]),
        REFUSED,
        "the referenced Logical Bridge has not been found: nowhere",
    ),
    ("22 is not there", CREATE, daemons_port(logical_bridges=["22"]), REFUSED, "opi-bridge9"),
    ("other vni", CREATE_LB, bridge_named("blue", vlan_id=5, vni=99), TAKEN, "vni 7"),
    ("vni in use", CREATE_LB, bridge_named("opi-bridge9", vlan_id=22, vni=7), TAKEN, "by blue"),
    ("nobody's vlan", CREATE_LB, bridge_named("pink", vlan_id=23, vni=77), REFUSED, "opi.bridges"),
    ("dpu as host", INIT, lifecycle_pb2.InitRequest(), REFUSED, "not its host side"),
    # network functions
    ("nf of nothing", CREATE_NF, NFRequest(), BAD, "missing required field: input"),
    ("nf without output", CREATE_NF, nf(NF_MACS[0], ""), BAD, "missing required field: output"),
    ("nf of one", CREATE_NF, nf(NF_MACS[0], NF_MACS[0]), BAD, "are the same interface"),
    ("nf of one in capitals", CREATE_NF, nf("02:00:00:00:00:AA", "02:00:00:00:00:aa"), BAD, "same"),
    ("nf garbage", CREATE_NF, nf("net1", NF_MACS[1]), BAD, "input 'net1' is no MAC"),
    ("nf not hex", CREATE_NF, nf(NF_MACS[0], "02:00:00:00:00:0g"), BAD, "six hexadecimal bytes"),
    ("nf long", CREATE_NF, nf("0" * 100000, NF_MACS[1]), BAD, "(100000 characters)"),
    ("nf multicast", CREATE_NF, nf("01:00:5e:00:00:01", NF_MACS[1]), BAD, "multicast"),
    ("nf unknown", CREATE_NF, nf(*NF_MACS), MISSING, "find key interface 02:00:00:00:00:01 at"),
    ("nf delete", REMOVE_NF, nf(*NF_MACS), MISSING, "network function 02:00:00:00:00:01 > 02:"),
    ("nf delete nothing", REMOVE_NF, NFRequest(), BAD, "missing required field: input"),
    ("nf not UTF-8", CREATE_NF, b"\x0a\x02\xff\xfe", Code.INTERNAL, "deserializing"),
    # masks and pages
    ("bad mask", UPDATE, update("host0-3", "spec.x"), BAD, "field path: 'spec.x'"),
    ("star and more", UPDATE, update("host0-3", "*", "spec"), BAD, "'*' must not"),
    ("empty path", UPDATE_LB, update_bridge(BRIDGE + "blue", ""), BAD, "invalid field path"),
    ("page size", f"{PORTS}/ListBridgePorts", LIST(page_size=-1), BAD, "negative PageSize"),
    ("page token", f"{PORTS}/ListBridgePorts", FORGED, MISSING, "pagination token 'Lw=='"),
    ("lb token", f"{BRIDGES}/ListLogicalBridges", FORGED, MISSING, "pagination tok"),
    # no message at all
    ("cut off", CREATE, daemons_port().SerializeToString()[:-1], Code.INTERNAL, "deserializing"),
    ("no UTF-8", GET, b"\x0a\x02\xff\xfe", Code.INTERNAL, "deserializing"),
    ("5 MiB", CREATE, daemons_port(mac=bytes(5 << 20)), Code.RESOURCE_EXHAUSTED, "larger than max"),
    (
        "no such method",
        f"{PORTS}/RenameBridgePort",
        Empty(),
        Code.UNIMPLEMENTED,
        "Method not found",
    ),
    ("no such service", "/Vendor.LifeCycleService/Init", Empty(), Code.UNIMPLEMENTED, "not found"),
]


@pytest.mark.parametrize(
    ("method", "request_", "code", "words"),
    [each[1:] for each in WRONG],
    ids=[each[0] for each in WRONG],
)
def test_bad_input(
    world: OpiWorld, method: str, request_: Any, code: grpc.StatusCode, words: str
) -> None:
    before = world.agent.snapshot.state.fabric.segments
    with pytest.raises(grpc.RpcError) as raised:
        call(world, method, request_)
    told = raised.value.details() or ""
    assert (raised.value.code(), words in told) == (code, True), told
    assert len(told) < 400
    assert world.agent.keys() == ()
    assert world.agent.snapshot.state.fabric.segments == before


def test_there_are_fifty_and_more() -> None:
    assert len(WRONG) >= 50
    assert len({each[0] for each in WRONG}) == len(WRONG)


def test_unknown_fields_are_ignored(world: OpiWorld) -> None:
    raw = daemons_port().SerializeToString() + b"\xa2\x06\x03abc" + b"\xa8\x06\x07"
    call(world, CREATE, raw)
    assert world.port_names() == ["host0-3"]


def test_no_message_and_a_closed_stream(world: OpiWorld) -> None:
    ask: Any = world.channel.stream_unary(CREATE, response_deserializer=lambda raw: raw)
    with refused(Code.UNIMPLEMENTED, "exactly one request message"):
        ask(iter(()), timeout=5)
    assert world.agent.keys() == ()


@pytest.mark.parametrize("timeout_s", [0.0, 1e-6])
def test_a_deadline_that_is_over(world: OpiWorld, timeout_s: float) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        call(world, CREATE, daemons_port(), timeout_s)
    assert raised.value.code() in GIVEN_UP
    time.sleep(0.1)  # what came after all would be there now
    assert world.port_names() == []


def test_a_caller_that_gives_up_while_it_waits_leaves_nothing(world: OpiWorld) -> None:
    held = world.site["representors"][3]
    ports = world.server_ports  # its turn is somebody else's
    with ports._vfs.hold(held, 1.0), pytest.raises(grpc.RpcError) as raised:
        call(world, CREATE, daemons_port(), 0.3)
    assert raised.value.code() in GIVEN_UP
    time.sleep(0.1)
    assert world.port_names() == []
    world.ports.CreateBridgePort(daemons_port())


def test_a_caller_that_gives_up_while_it_is_programmed_leaves_nothing(
    world: OpiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    programmed, over = world.agent.wait_programmed, threading.Event()

    def slow(key: AttachmentKey, timeout_s: float) -> None:
        programmed(key, timeout_s)
        over.wait(5)

    monkeypatch.setattr(world.agent, "wait_programmed", slow)
    with pytest.raises(grpc.RpcError) as raised:
        call(world, CREATE, daemons_port(), 0.3)
    assert raised.value.code() in GIVEN_UP
    assert world.port_names() == ["host0-3"]
    time.sleep(0.1)  # the server, too, knows that the time is over
    over.set()
    wait_until(lambda: world.port_names() == [])


def test_a_vf_is_free_once_its_port_is_gone(
    world: OpiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a port by another name."""
    world.ports.CreateBridgePort(daemons_port())
    detach, admit = world.agent.detach, world.agent.admit
    begun, order = threading.Event(), []

    def slow(key: AttachmentKey, timeout_s: float) -> None:
        detach(key, timeout_s)
        begun.set()
        time.sleep(0.3)
        order.append("gone")

    def admitted(wanted: AttachRequest, timeout_s: float) -> Port:
        order.append("admitted")
        return admit(wanted, timeout_s)

    monkeypatch.setattr(world.agent, "detach", slow)
    monkeypatch.setattr(world.agent, "admit", admitted)
    with ThreadPoolExecutor(1) as pool:
        deleted = pool.submit(delete, world, "host0-3")
        assert begun.wait(5)
        world.ports.CreateBridgePort(named("rep3", logical_bridges=["5"]))
        deleted.result()
    assert order == ["gone", "admitted"]


# --- BridgePort ---


def test_a_port_of_the_daemon(world: OpiWorld) -> None:
    made = world.ports.CreateBridgePort(daemons_port())
    assert (made.name, made.spec.mac_address, made.spec.ptype) == (PORT + "host0-3", MAC, 1)
    assert list(made.spec.logical_bridges) == [BRIDGE + "blue"]
    assert made.status.oper_status == pb.BP_OPER_STATUS_UP
    (attachment,) = map(world.agent.attachment, world.agent.keys())
    assert attachment is not None
    assert (attachment.segment, attachment.netdev, attachment.ips) == ("blue", "rep3", ())
    assert attachment.network == "opi:ports"  # none that CNI's GC is asked for
    with FabricStore(world.remote) as store:
        (row,) = [each for each in store.read() if isinstance(each, Endpoint)]
    assert (row.mac, row.identity) == ("02:00:00:00:00:01", "opi/d1/host0-3")
    for name in ("host0-3", PORT + "host0-3"):
        assert world.ports.GetBridgePort(pb.GetBridgePortRequest(name=name)) == made


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(daemons_port(), id="as it was"),
        pytest.param(named("host0-3"), id="by its id"),
        pytest.param(daemons_port(logical_bridges=[BRIDGE + "blue"]), id="its bridge by name"),
        pytest.param(whole_name(), id="by its whole name"),
    ],
)
def test_the_same_once_more(world: OpiWorld, again: pb.CreateBridgePortRequest) -> None:
    made = world.ports.CreateBridgePort(daemons_port())
    assert world.ports.CreateBridgePort(again) == made
    assert world.port_names() == ["host0-3"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        pytest.param(
            named("host0-3", mac=OTHER_MAC), "with MAC 02:00:00:00:00:01", id="mac, by its id"
        ),
        pytest.param(whole_name(mac=OTHER_MAC), "with MAC 02:00:00:00:00:01", id="mac, by name"),
        pytest.param(named("host0-3", logical_bridges=["6"]), "to segment blue", id="bridge"),
        pytest.param(named("rep3", mac=OTHER_MAC), "its VF is taken by", id="the VF by its netdev"),
        pytest.param(
            daemons_port(vf=4, logical_bridges=["5"]),
            "is already used by opi/d1/host0-3",
            id="a used mac",
        ),
    ],
)
def test_another_in_its_place(
    world: OpiWorld, other: pb.CreateBridgePortRequest, words: str
) -> None:
    made = world.ports.CreateBridgePort(daemons_port())
    with refused(Code.ALREADY_EXISTS, words):
        world.ports.CreateBridgePort(other)
    assert world.ports.GetBridgePort(pb.GetBridgePortRequest(name="host0-3")) == made
    assert world.port_names() == ["host0-3"]


@pytest.mark.parametrize(
    ("other", "segment"),
    [
        pytest.param(daemons_port(mac=OTHER_MAC), "blue", id="mac"),
        pytest.param(daemons_port(mac=OTHER_MAC, logical_bridges=["6"]), "green", id="mac, bridge"),
        pytest.param(daemons_port(logical_bridges=["6"]), "green", id="bridge"),
    ],
)
def test_what_the_daemon_says_of_a_vf_takes_the_place_of_what_it_said_before(
    world: OpiWorld, other: pb.CreateBridgePortRequest, segment: str
) -> None:
    """A pod that went without its namespace is not deleted, and the next one gets its VF."""
    world.ports.CreateBridgePort(daemons_port())
    made = world.ports.CreateBridgePort(other)
    assert made.spec.mac_address == other.bridge_port.spec.mac_address
    assert list(made.spec.logical_bridges) == [BRIDGE + segment]
    assert made.status.oper_status == pb.BP_OPER_STATUS_UP
    assert world.ports.GetBridgePort(pb.GetBridgePortRequest(name="host0-3")) == made
    assert world.port_names() == ["host0-3"]
    with FabricStore(world.remote) as store:
        (row,) = [each for each in store.read() if isinstance(each, Endpoint)]
    assert (row.segment, row.mac) == (segment, Mac(made.spec.mac_address.hex(":")))


def test_what_the_daemon_says_and_is_refused_leaves_what_was_there(world: OpiWorld) -> None:
    made = world.ports.CreateBridgePort(daemons_port())
    world.ports.CreateBridgePort(daemons_port(vf=4, mac=OTHER_MAC, logical_bridges=["5"]))
    with refused(Code.ALREADY_EXISTS, "is already used by opi/d1/host0-4"):
        world.ports.CreateBridgePort(daemons_port(mac=OTHER_MAC))
    assert world.ports.GetBridgePort(pb.GetBridgePortRequest(name="host0-3")) == made


def test_a_vf_that_the_hosts_agent_attached_is_not_taken(world: OpiWorld) -> None:
    key = AttachmentKey("c1", "eth0")
    wanted = AttachRequest(key, "", "blue", "ns/pod/eth0", 1_800_000_000, ipam=True, netdev="rep3")
    world.agent.admit(wanted, 5)
    try:
        with refused(Code.ALREADY_EXISTS, "its VF is taken by c1/eth0"):
            world.ports.CreateBridgePort(daemons_port())
        assert world.port_names() == []
        delete(world, "host0-3", allow_missing=True)
        assert world.agent.keys() == (key,)
    finally:
        world.agent.detach(key, 5)


def test_a_mac_of_another_node(world: OpiWorld) -> None:
    there = Endpoint("blue", "n2", Mac("02:00:00:00:00:01"), (), "ns/pod/eth0", 0, "c1", "eth0")
    with FabricStore(world.remote) as store:
        store.read()
        store.write(upserts=[there])
    try:
        with refused(Code.ALREADY_EXISTS, "ns/pod/eth0 on node n2"):
            world.ports.CreateBridgePort(daemons_port())
        assert world.agent.keys() == ()
    finally:
        with FabricStore(world.remote) as store:
            store.read()
            store.write(deletes=[there])


def test_a_port_that_is_not_granted_any_more_is_told_of_all_the_same(world: OpiWorld) -> None:
    first = world.ports.CreateBridgePort(daemons_port())
    grant = Grant("blue", "n2")
    with FabricStore(world.remote) as store:
        store.read()
        store.write(upserts=[grant])
    try:
        wait_until(lambda: any(each.blocked for each in attachments(world)))
        again = world.ports.CreateBridgePort(daemons_port())
        assert (again.name, again.status.oper_status) == (first.name, pb.BP_OPER_STATUS_DOWN)
    finally:
        with FabricStore(world.remote) as store:
            store.read()
            store.write(deletes=[grant])


def attachments(world: OpiWorld) -> list[Attachment]:
    return [each for each in map(world.agent.attachment, world.agent.keys()) if each is not None]


def test_delete_once_and_again(world: OpiWorld) -> None:
    world.ports.CreateBridgePort(daemons_port())
    delete(world, "host0-3")
    assert world.port_names() == []
    with refused(Code.NOT_FOUND):
        delete(world, "host0-3")
    delete(world, "host0-3", allow_missing=True)


def test_an_update_moves_a_port_to_another_bridge(world: OpiWorld) -> None:
    world.ports.CreateBridgePort(daemons_port())
    changed = world.ports.UpdateBridgePort(
        update("host0-3", "spec.logical_bridges", logical_bridges=["6"], mac_address=OTHER_MAC)
    )
    assert list(changed.spec.logical_bridges) == [BRIDGE + "green"]
    assert changed.spec.mac_address == MAC  # the mask does not name it
    assert world.ports.GetBridgePort(pb.GetBridgePortRequest(name="host0-3")) == changed
    assert changed.status.oper_status == pb.BP_OPER_STATUS_UP
    with FabricStore(world.remote) as store:
        (row,) = [each for each in store.read() if isinstance(each, Endpoint)]
    assert row.segment == "green"


def test_an_update_without_a_mask_takes_what_it_has(world: OpiWorld) -> None:
    made = world.ports.CreateBridgePort(daemons_port())
    same = world.ports.UpdateBridgePort(update("host0-3"))
    assert same == made
    changed = world.ports.UpdateBridgePort(update("host0-3", mac_address=OTHER_MAC))
    assert (changed.spec.mac_address, changed.spec.logical_bridges) == (
        OTHER_MAC,
        made.spec.logical_bridges,
    )


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        pytest.param(update("host0-3", "spec.mac_address"), BAD, id="without a mac"),
        pytest.param(
            update("host0-3", ptype=2, logical_bridges=["6", "22"]), REFUSED, id="to no trunk"
        ),
        pytest.param(
            update("host0-3", ptype=2, mac_address=OTHER_MAC, logical_bridges=["6", "5"]),
            Code.ALREADY_EXISTS,
            id="to a trunk with a used mac",
        ),
        pytest.param(update("host0-3", logical_bridges=["22"]), REFUSED, id="to no bridge"),
        pytest.param(update("host0-3", mac_address=OTHER_MAC), Code.ALREADY_EXISTS, id="used mac"),
    ],
)
def test_an_update_that_is_refused_changes_nothing(
    world: OpiWorld, request_: pb.UpdateBridgePortRequest, code: grpc.StatusCode
) -> None:
    made = world.ports.CreateBridgePort(daemons_port())
    before = world.agent.attachment(key_of("host0-3"))
    world.ports.CreateBridgePort(daemons_port(vf=4, mac=OTHER_MAC, logical_bridges=["5"]))
    with refused(code):
        world.ports.UpdateBridgePort(request_)
    wait_until(lambda: world.ports.GetBridgePort(pb.GetBridgePortRequest(name="host0-3")) == made)
    after = world.agent.attachment(key_of("host0-3"))
    assert before is not None
    assert after is not None
    assert replace(after, slot=before.slot, requested_at=before.requested_at) == before


def test_an_update_that_is_refused_while_the_database_is_away_leaves_it_up(world: OpiWorld) -> None:
    world.ports.CreateBridgePort(daemons_port())
    world.ports.CreateBridgePort(daemons_port(4, OTHER_MAC, logical_bridges=["5"]))
    world.agent.post(FabricConnection(connected=False, error="away"))
    try:
        with refused(Code.ALREADY_EXISTS, "is already used by"):
            world.ports.UpdateBridgePort(
                update("host0-3", "spec.mac_address", mac_address=OTHER_MAC)
            )
        found = world.ports.GetBridgePort(pb.GetBridgePortRequest(name=PORT + "host0-3"))
        assert found.spec.mac_address == MAC
        assert found.status.oper_status == pb.BP_OPER_STATUS_UP
    finally:
        world.agent.post(FabricConnection(connected=True))


# --- trunk ports ---


def get(world: OpiWorld) -> pb.BridgePort:
    found: pb.BridgePort = world.ports.GetBridgePort(pb.GetBridgePortRequest(name="host0-3"))
    return found


def bridges_of(told: pb.BridgePort) -> list[str]:
    return [each.removeprefix(BRIDGE) for each in told.spec.logical_bridges]


def by_segment(world: OpiWorld) -> dict[str, Attachment]:
    """Return what is attached, by segment."""
    held = filter(None, map(world.agent.attachment, world.agent.keys()))
    return {each.segment: each for each in held}


def slots(world: OpiWorld) -> dict[str, tuple[str, int | None, int]]:
    held = by_segment(world).items()
    return {segment: (each.netdev, each.vlan, each.slot) for segment, each in held}


def rows(world: OpiWorld) -> set[tuple[str, str, str]]:
    with FabricStore(world.remote) as store:
        found = [each for each in store.read() if isinstance(each, Endpoint)]
    return {(each.segment, each.identity, each.mac) for each in found}


def test_a_trunk_port(world: OpiWorld) -> None:
    made = world.ports.CreateBridgePort(trunk("6", "5"))
    assert (made.name, made.spec.mac_address, made.spec.ptype) == (PORT + "host0-3", MAC, 2)
    assert bridges_of(made) == ["blue", "green"]  # in the order of their tags
    assert made.status.oper_status == pb.BP_OPER_STATUS_UP
    assert [each.status for each in made.status.components] == [2, 2]
    slot = slots(world)["blue"][2]
    assert slots(world) == {"blue": ("rep3", 5, slot), "green": ("rep3", 6, slot)}
    mac = "02:00:00:00:00:01"
    assert rows(world) == {
        ("blue", "opi/d1/host0-3/vlan5", mac),
        ("green", "opi/d1/host0-3/vlan6", mac),
    }
    assert get(world) == made
    assert list(world.ports.ListBridgePorts(LIST()).bridge_ports) == [made]

    again = trunk("5", BRIDGE + "green")
    assert world.ports.CreateBridgePort(again) == made
    world.restart()
    assert (slots(world)["green"], world.port_names()) == (("rep3", 6, slot), ["host0-3"])
    wait_until(lambda: get(world) == made)
    assert world.ports.CreateBridgePort(again) == made
    delete(world, PORT + "host0-3")
    assert (world.agent.keys(), rows(world)) == ((), set())
    with refused(MISSING, "unable to find key"):
        delete(world, "host0-3")


@pytest.mark.parametrize(
    ("other", "words"),
    [
        pytest.param(daemons_port(), "its VF is taken by opi:host0-3/vlan5", id="access"),
        pytest.param(trunk("5"), "its VF is taken by opi:host0-3/vlan6", id="less bridges"),
        pytest.param(trunk("5", "6", mac=OTHER_MAC), "with MAC 02:00:00:00:00:01", id="mac"),
        pytest.param(named("rep3", mac=OTHER_MAC), "its VF is taken by", id="by its netdev"),
        pytest.param(trunk("5", vf=4), "is already used by opi/d1/host0-3", id="a used mac"),
        pytest.param(
            trunk("8", "6", "5", vf=4), "is already used by opi/d1/host0-3", id="one of more"
        ),
    ],
)
def test_another_in_a_trunks_place(
    world: OpiWorld, other: pb.CreateBridgePortRequest, words: str
) -> None:
    made = world.ports.CreateBridgePort(trunk("5", "6"))
    if other.bridge_port.name.startswith("host0-"):
        other.bridge_port.name = PORT + other.bridge_port.name  # said by the daemon it is the news
    with refused(Code.ALREADY_EXISTS, words):
        world.ports.CreateBridgePort(other)
    assert get(world) == made
    assert (world.port_names(), len(world.agent.keys())) == (["host0-3"], 2)


def test_a_create_that_was_interrupted_is_finished(world: OpiWorld) -> None:
    world.ports.CreateBridgePort(trunk("6"))
    assert bridges_of(world.ports.CreateBridgePort(trunk("5", "6"))) == ["blue", "green"]
    assert len({slot for *_, slot in slots(world).values()}) == 1


def test_of_a_trunk_that_is_refused_nothing_is_left(
    world: OpiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.ports.CreateBridgePort(daemons_port(vf=4, logical_bridges=["6"]))
    with refused(Code.ALREADY_EXISTS, "is already used by opi/d1/host0-4"):
        world.ports.CreateBridgePort(trunk("5", "6"))
    assert world.port_names() == ["host0-4"]
    publish = world.agent.publish
    with monkeypatch.context() as planted:
        planted.setattr(
            world.agent,
            "publish",
            lambda key, _: refuse() if key.ifname == "vlan6" else publish(key, 1),
        )
        with refused(Code.UNAVAILABLE, "not now"):
            world.ports.CreateBridgePort(trunk("5", "6", mac=OTHER_MAC))
    assert world.port_names() == ["host0-4"]
    wait_until(lambda: {segment for segment, *_ in rows(world)} == {"green"})


@pytest.mark.parametrize(
    ("first", "then", "bridges"),
    [
        pytest.param(trunk("5"), ("5", "6", "8"), "blue green red", id="more bridges"),
        pytest.param(trunk("5", "6"), ("6",), "green", id="less bridges"),
        pytest.param(trunk("5", "6"), ("6", "8"), "green red", id="another bridge"),
        pytest.param(trunk("5"), ("6",), "green", id="no bridge of before"),
        pytest.param(daemons_port(), ("5", "6"), "blue green", id="access to trunk"),
    ],
)
def test_an_update_to_a_trunk_changes_what_differs(
    world: OpiWorld, first: pb.CreateBridgePortRequest, then: tuple[str, ...], bridges: str
) -> None:
    before = world.ports.CreateBridgePort(first)
    held = by_segment(world)
    request = update("host0-3", "spec.ptype", "spec.logical_bridges", ptype=2, logical_bridges=then)
    changed = world.ports.UpdateBridgePort(request)
    assert (bridges_of(changed), changed.spec.ptype) == (bridges.split(), 2)
    assert changed.spec.mac_address == before.spec.mac_address
    assert (get(world), changed.status.oper_status) == (changed, pb.BP_OPER_STATUS_UP)
    if before.spec.ptype == changed.spec.ptype:
        kept = by_segment(world).items() & held.items()
        assert {segment for segment, _ in kept} == {*bridges_of(before)} & {*bridges.split()}
    assert {segment for segment, *_ in rows(world)} == {*bridges.split()}


def test_an_update_makes_an_access_port_of_a_trunk(world: OpiWorld) -> None:
    world.ports.CreateBridgePort(trunk("5", "6"))
    changed = world.ports.UpdateBridgePort(update("host0-3", ptype=1, logical_bridges=["6"]))
    assert (bridges_of(changed), changed.spec.ptype) == (["green"], 1)
    assert [each.ifname for each in by_segment(world).values()] == ["port"]


def test_a_trunk_whose_update_is_refused_is_put_back(world: OpiWorld) -> None:
    world.ports.CreateBridgePort(daemons_port(vf=4, logical_bridges=["8"]))
    made = world.ports.CreateBridgePort(trunk("5", "6"))
    before = slots(world)
    with refused(Code.ALREADY_EXISTS, "is already used by opi/d1/host0-4"):
        world.ports.UpdateBridgePort(update("host0-3", logical_bridges=["6", "8"]))
    wait_until(lambda: get(world) == made)
    assert slots(world) == before
    with refused(Code.ALREADY_EXISTS, "is already used by opi/d1/host0-4"):
        world.ports.UpdateBridgePort(update("host0-3", ptype=1, logical_bridges=["8"]))
    wait_until(lambda: get(world) == made)


def test_an_update_makes_what_is_missing_if_it_may(world: OpiWorld) -> None:
    request = pb.UpdateBridgePortRequest(bridge_port=port(), allow_missing=True)
    assert world.ports.UpdateBridgePort(request).name == PORT + "host0-3"
    assert world.port_names() == ["host0-3"]


def test_pages_of_ports(world: OpiWorld) -> None:
    for vf in (3, 0, 2, 1, 4):
        world.ports.CreateBridgePort(
            daemons_port(vf, bytes([2, 0, 0, 0, 0, vf + 1]), logical_bridges=["5"])
        )
    first = world.ports.ListBridgePorts(LIST(page_size=2))
    delete(world, PORT + "host0-1")  # the token stays good
    world.restart()
    second = world.ports.ListBridgePorts(LIST(page_size=2, page_token=first.next_page_token))
    third = world.ports.ListBridgePorts(LIST(page_token=second.next_page_token))
    pages = [
        [each.name.removeprefix(PORT) for each in page.bridge_ports]
        for page in (first, second, third)
    ]
    assert pages == [["host0-0", "host0-1"], ["host0-2", "host0-3"], ["host0-4"]]
    assert third.next_page_token == ""


@contextmanager
def at_once(
    world: OpiWorld, *calls: Callable[[], Any], gap_s: float = 0.2
) -> Iterator[list[Future[Any]]]:
    """Yield ``calls`` of which each waits for the turn of host0-3, in this order; then let them."""
    with ThreadPoolExecutor(len(calls)) as pool:
        with world.server_ports._keys.hold(key_of("host0-3"), 1.0):
            made = []
            for each in calls:
                made.append(pool.submit(each))
                time.sleep(gap_s)
        yield made


def test_of_two_updates_at_once_none_is_lost(world: OpiWorld) -> None:
    world.ports.CreateBridgePort(daemons_port())
    mac = update("host0-3", "spec.mac_address", mac_address=OTHER_MAC)
    green = update("host0-3", "spec.logical_bridges", logical_bridges=["6"])
    calls = [partial(world.ports.UpdateBridgePort, each) for each in (mac, green)]
    with at_once(world, *calls) as made:
        for each in made:
            each.result()
    found = world.ports.GetBridgePort(pb.GetBridgePortRequest(name="host0-3")).spec
    assert (found.mac_address, list(found.logical_bridges)) == (OTHER_MAC, [BRIDGE + "green"])


def test_an_update_that_comes_after_a_delete_makes_nothing(world: OpiWorld) -> None:
    world.ports.CreateBridgePort(daemons_port())
    late = partial(world.ports.UpdateBridgePort, update("host0-3", logical_bridges=["6"]))
    with at_once(world, partial(delete, world, "host0-3"), late) as (deleted, updated):
        deleted.result()
        with refused(MISSING, "unable to find key host0-3"):
            updated.result()
    assert world.port_names() == []


def refuse(*_: object) -> None:
    raise AttachRefusedError(TRY_AGAIN, "not now")


def test_a_port_that_cannot_be_published_is_not_left(
    world: OpiWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as planted:
        planted.setattr(world.agent, "publish", refuse)
        with refused(Code.UNAVAILABLE, "not now"):
            world.ports.CreateBridgePort(daemons_port())
        assert world.port_names() == []
    made = world.ports.CreateBridgePort(daemons_port())
    with monkeypatch.context() as planted:
        planted.setattr(world.agent, "publish", refuse)
        for method, request in ((CREATE, daemons_port()), (UPDATE, update(mac_address=OTHER_MAC))):
            with refused(Code.UNAVAILABLE, "not now"):
                call(world, method, request)
    wait_until(lambda: world.ports.GetBridgePort(pb.GetBridgePortRequest(name="host0-3")) == made)


def test_what_cannot_be_put_back_is_told(world: OpiWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.ports.CreateBridgePort(daemons_port())
    monkeypatch.setattr(world.agent, "admit", refuse)
    with refused(Code.UNAVAILABLE, "not now; what was attached cannot be put back: not now"):
        world.ports.UpdateBridgePort(update("host0-3", mac_address=OTHER_MAC))
    assert world.port_names() == []


def vf(number: int) -> str:
    """Return the MAC of what is attached behind a VF."""
    return f"02:00:00:00:00:{number + 0x10:02x}"


@pytest.fixture
def attached(world: OpiWorld) -> OpiWorld:
    """Return the node with VFs 1 to 4 on blue and 5 on green; it has no functions in the end."""
    for number in range(1, 6):
        raw = bytes.fromhex(vf(number).replace(":", ""))
        bridges = ["6" if number == 5 else "5"]
        world.ports.CreateBridgePort(daemons_port(number, raw, logical_bridges=bridges))
    return world


def kept(world: OpiWorld) -> list[tuple[str, str]]:
    return [(str(a.mac), str(b.mac)) for a, b in (f.ports for f in functions(world))]


def functions(world: OpiWorld) -> tuple[Any, ...]:
    return world.agent.snapshot.state.functions


@pytest.fixture
def function(attached: OpiWorld) -> Iterator[NFRequest]:
    """Yield the function from VF 1 to VF 2, which is there."""
    request = nf(vf(1), vf(2))
    attached.functions.CreateNetworkFunction(request)
    yield request
    for source, sink in kept(attached):
        attached.functions.DeleteNetworkFunction(nf(source, sink))


def test_a_function_is_kept_over_a_restart(attached: OpiWorld, function: NFRequest) -> None:
    attached.functions.CreateNetworkFunction(nf(vf(1).upper(), vf(2).upper()))
    assert kept(attached) == [(vf(1), vf(2))]
    attached.restart()
    assert kept(attached) == [(vf(1), vf(2))]
    attached.functions.CreateNetworkFunction(function)
    assert kept(attached) == [(vf(1), vf(2))]
    attached.functions.DeleteNetworkFunction(function)
    assert kept(attached) == []
    with refused(MISSING, "unable to find key network function"):
        attached.functions.DeleteNetworkFunction(function)
    attached.restart()
    assert kept(attached) == []


@pytest.mark.parametrize(
    ("other", "code", "words"),
    [
        pytest.param((2, 1), TAKEN, f"is of function {vf(1)} > {vf(2)} already", id="reversed"),
        pytest.param((1, 3), TAKEN, "delete that first", id="same input"),
        pytest.param((3, 2), TAKEN, "opi/d1/host0-2", id="same output"),
        pytest.param((3, 5), REFUSED, "are together on no segment", id="two segments"),
        pytest.param((3, 9), MISSING, f"unable to find key interface {vf(9)} at node d1", id="no"),
    ],
)
@pytest.mark.usefixtures("function")
def test_another_function_that_cannot_be(
    attached: OpiWorld, other: tuple[int, int], code: grpc.StatusCode, words: str
) -> None:
    with refused(code, words):
        attached.functions.CreateNetworkFunction(nf(*map(vf, other)))
    assert kept(attached) == [(vf(1), vf(2))]


@pytest.mark.usefixtures("function")
def test_a_second_function_waits_for_the_first_to_go(attached: OpiWorld) -> None:
    attached.functions.CreateNetworkFunction(nf(vf(3), vf(4)))
    assert kept(attached) == [(vf(1), vf(2)), (vf(3), vf(4))]


@pytest.mark.parametrize("timeout_s", [0.0, 1e-6])
def test_a_function_whose_caller_has_given_up_is_not_made(
    attached: OpiWorld, timeout_s: float
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        attached.functions.CreateNetworkFunction(nf(vf(1), vf(2)), timeout=timeout_s)
    assert raised.value.code() in GIVEN_UP
    time.sleep(0.1)  # what came after all would be there now
    wait_until(lambda: kept(attached) == [])


def test_many_make_the_same_function_at_once(attached: OpiWorld) -> None:
    with ThreadPoolExecutor(8) as pool:
        create = attached.functions.CreateNetworkFunction
        list(pool.map(create, [nf(vf(1), vf(2))] * 8))
    assert kept(attached) == [(vf(1), vf(2))]
    attached.functions.DeleteNetworkFunction(nf(vf(1), vf(2)))


def test_many_ask_for_the_same_at_once(world: OpiWorld) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda _: world.ports.CreateBridgePort(daemons_port()), range(16)))
    assert {each.name for each in made} == {PORT + "host0-3"}
    assert world.port_names() == ["host0-3"]


# --- what an operator's daemon does ---


def start_as_the_daemon(world: OpiWorld) -> tuple[str, int]:
    """Init until it succeeds, SetNumVfs once, GetDevices: the daemon's order."""
    where = world.lifecycle.Init(
        lifecycle_pb2.InitRequest(dpu_mode=True, dpu_identifier="marvell-dpu"), wait_for_ready=True
    )
    assert world.devices.SetNumVfs(lifecycle_pb2.VfCount(vf_cnt=8)).vf_cnt == 8
    assert not world.devices.GetDevices(Empty()).devices
    return where.ip, where.port


def test_the_daemons_order_again_and_again_and_after_a_restart(world: OpiWorld) -> None:
    told = [start_as_the_daemon(world) for _ in range(3)]
    made = world.ports.CreateBridgePort(daemons_port())
    world.restart()
    told += [start_as_the_daemon(world) for _ in range(2)]
    assert set(told) == {("[fe80::1%eth1]", 8085)}
    assert world.ports.CreateBridgePort(daemons_port()) == made
    delete(world, "host0-3")
    world.restart()
    assert world.port_names() == []


def test_no_refusal_has_the_words_that_make_the_daemon_give_up(world: OpiWorld) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        world.lifecycle.Init(lifecycle_pb2.InitRequest(dpu_mode=False))
    assert "already initialized" not in str(raised.value)


def test_a_heartbeat(world: OpiWorld) -> None:
    before = time.time_ns()
    told = world.heartbeat.Ping(
        lifecycle_pb2.PingRequest(timestamp=before, sender_id="host-daemon")
    )
    assert before <= told.timestamp <= time.time_ns()
    assert (told.responder_id, told.healthy) == (NODE, True)


HEALTH = "/grpc.health.v1.Health/Check"


def health(world: OpiWorld, service: str = "") -> str:
    raw = call(world, HEALTH, health_pb2.HealthCheckRequest(service=service))
    status = health_pb2.HealthCheckResponse.FromString(raw).status
    return health_pb2.HealthCheckResponse.ServingStatus.Name(status)


def test_health_is_told_as_it_is(world: OpiWorld) -> None:
    services = ("", BRIDGES[1:], PORTS[1:], f"{LIFECYCLE}.LifeCycleService"[1:])
    for service in services:
        wait_until(lambda: health(world, service) == "SERVING")  # noqa: B023
    world.agent.post(LinksChanged(gone=("eth0",)))
    wait_until(lambda: health(world) == "NOT_SERVING")
    assert {health(world, service) for service in services} == {"NOT_SERVING"}
    assert not world.heartbeat.Ping(lifecycle_pb2.PingRequest()).healthy
    world.restart()
    wait_until(lambda: health(world) == "SERVING")
    with refused(Code.NOT_FOUND):
        health(world, f"{EVPN}.NobodysService"[1:])


def test_reflection_names_every_service(world: OpiWorld) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(world.channel)
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = stub.ServerReflectionInfo(iter([request]))
    assert {each.name for each in answer.list_services_response.service} == {
        "Vendor.NetworkFunctionService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        *(f"{LIFECYCLE[1:]}.{kind}Service" for kind in ("LifeCycle", "Device", "Heartbeat")),
        *(f"{EVPN[1:]}.{kind}Service" for kind in ("LogicalBridge", "BridgePort", "Vrf", "Svi")),
    }
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=PORTS[1:])
    (answer,) = stub.ServerReflectionInfo(iter([request]))
    assert len(answer.file_descriptor_response.file_descriptor_proto) >= 3


def test_streams_that_are_left_open_are_in_nobody_s_way(world: OpiWorld) -> None:
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(world.channel)
    watch = world.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    listing = reflection_pb2.ServerReflectionRequest(list_services="")
    over = threading.Event()

    def asked_once() -> Iterator[Any]:
        yield listing
        over.wait(60)

    streams = [stub.ServerReflectionInfo(asked_once(), timeout=30) for _ in range(40)]
    streams += [watch(health_pb2.HealthCheckRequest()) for _ in range(40)]
    try:
        call(world, CREATE, daemons_port(), 5)
        answers = [_answer(each) for each in streams]
        assert answers.count("answered") == 40 + STREAMS
        assert answers.count("RESOURCE_EXHAUSTED") == 40 - STREAMS
    finally:
        over.set()
        for each in streams:
            each.cancel()
    wait_until(lambda: _answer(stub.ServerReflectionInfo(iter([listing]))) == "answered")


def _answer(stream: Any) -> str:
    try:
        next(stream)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "answered"


def test_only_root_may_use_the_socket(world: OpiWorld) -> None:
    assert stat.S_IMODE(world.socket.stat().st_mode) == 0o600
    assert stat.S_IMODE(world.socket.parent.stat().st_mode) == 0o700
    assert world.socket.stat().st_uid == os.getuid()


def test_another_plugin_on_the_socket_is_left_alone(world: OpiWorld) -> None:
    other = OpiServer(world.made_site)
    with pytest.raises(OverweaveError, match="another agent already serves"):
        other.start(world.socket)
    other.stop()
    assert start_as_the_daemon(world) == ("[fe80::1%eth1]", 8085)


def test_a_socket_that_a_killed_agent_left_is_taken_over(world: OpiWorld, tmp_path: Path) -> None:
    path = tmp_path / "left.sock"
    os.mknod(path, stat.S_IFSOCK | 0o600)
    server = OpiServer(world.made_site)
    server.start(path)
    with grpc.insecure_channel(f"unix:{path}") as channel:
        grpc.channel_ready_future(channel).result(5)
        ask: Any = channel.unary_unary(HEALTH)
        assert ask(b"", timeout=5)
    server.stop()


# --- LogicalBridge ---


@pytest.fixture
def bridge9(world: OpiWorld) -> Iterator[Callable[..., pb.LogicalBridge]]:
    """Yield what makes the bridge that has no segment yet; it is gone in the end."""

    def make(**spec: Any) -> pb.LogicalBridge:
        wanted = {"vlan_id": 22, "vni": 11, **spec}
        made: pb.LogicalBridge = world.bridges.CreateLogicalBridge(
            bridge_named("opi-bridge9", **wanted)
        )
        return made

    yield make
    request = pb.DeleteLogicalBridgeRequest(name=BRIDGE + "opi-bridge9", allow_missing=True)
    world.bridges.DeleteLogicalBridge(request)


def segments(world: OpiWorld) -> dict[str, Segment]:
    with FabricStore(world.remote) as store:
        return {each.name: each for each in store.read() if isinstance(each, Segment)}


def test_a_tenant_makes_a_segment(
    world: OpiWorld, bridge9: Callable[..., pb.LogicalBridge]
) -> None:
    made = bridge9()
    assert (made.name, made.spec.vlan_id, made.spec.vni) == (BRIDGE + "opi-bridge9", 22, 11)
    assert bridge9() == made
    assert segments(world)["opi-bridge9"] == Segment("opi-bridge9", Vni(11))
    assert world.bridges.GetLogicalBridge(pb.GetLogicalBridgeRequest(name=made.name)) == made
    on_it = world.ports.CreateBridgePort(daemons_port(logical_bridges=["22"]))
    assert list(on_it.spec.logical_bridges) == [made.name]
    with refused(REFUSED, "has endpoints (opi/d1/host0-3 at d1)"):
        world.bridges.DeleteLogicalBridge(pb.DeleteLogicalBridgeRequest(name=made.name))
    delete(world, "host0-3")
    wait_until(lambda: world.agent.snapshot.is_in_step)
    world.bridges.DeleteLogicalBridge(pb.DeleteLogicalBridgeRequest(name=made.name))
    assert "opi-bridge9" not in segments(world)


def test_a_tenant_changes_a_vni(world: OpiWorld, bridge9: Callable[..., pb.LogicalBridge]) -> None:
    name = bridge9().name
    changed = world.bridges.UpdateLogicalBridge(update_bridge(name, "spec.vni", vni=12))
    assert (changed.spec.vlan_id, changed.spec.vni) == (22, 12)
    assert segments(world)["opi-bridge9"].vni == 12
    with refused(REFUSED):
        world.bridges.UpdateLogicalBridge(update_bridge(name, "spec.vlan_id", vlan_id=5))
    with refused(Code.ALREADY_EXISTS):
        world.bridges.UpdateLogicalBridge(update_bridge(name, "spec.vni", vni=7))
    assert segments(world)["opi-bridge9"].vni == 12
    missing = update_bridge(BRIDGE + "opi-bridge9", vlan_id=22, vni=13)
    world.bridges.DeleteLogicalBridge(pb.DeleteLogicalBridgeRequest(name=name))
    missing.allow_missing = True
    assert world.bridges.UpdateLogicalBridge(missing).spec.vni == 13


def test_what_was_written_is_there_for_the_next_call(tmp_path: Path) -> None:
    with running_world(tmp_path) as world:
        world.stop()
        world.late_s = 0.3
        world.start()
        wait_until(lambda: world.agent.snapshot.state.fabric.base_synced)
        made = world.bridges.CreateLogicalBridge(bridge_named("opi-bridge9", vlan_id=22, vni=11))
        assert world.bridges.GetLogicalBridge(pb.GetLogicalBridgeRequest(name=made.name)) == made
        world.bridges.DeleteLogicalBridge(pb.DeleteLogicalBridgeRequest(name=made.name))
        with refused(Code.NOT_FOUND):
            world.bridges.DeleteLogicalBridge(pb.DeleteLogicalBridgeRequest(name=made.name))
        for vni in (11, 12):  # another node writes it, of which this one has yet to hear
            with FabricStore(world.remote) as store:
                store.write([Segment("opi-bridge9", Vni(vni))])
            asked = bridge_named("opi-bridge9", vlan_id=22, vni=11)
            if vni == 11:
                assert world.bridges.CreateLogicalBridge(asked) == made
            else:
                with refused(Code.ALREADY_EXISTS, "with vni 12"):
                    world.bridges.CreateLogicalBridge(asked)
            with FabricStore(world.remote) as store:
                store.write(deletes=[Segment("opi-bridge9", Vni(vni))])
            wait_until(lambda: "opi-bridge9" not in world.agent.snapshot.state.fabric.segments)


@pytest.fixture
def slow_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let whoever reads at the same time do so before the first one writes."""
    carry_out = networks_module._carry_out

    def slow(*words: Any) -> None:
        time.sleep(0.3)
        carry_out(*words)

    monkeypatch.setattr(networks_module, "_carry_out", slow)


@pytest.mark.usefixtures("slow_writes")
def test_the_same_bridge_twice_at_once(bridge9: Callable[..., pb.LogicalBridge]) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: bridge9(), range(2))
    assert first == second


@pytest.mark.usefixtures("slow_writes")
def test_of_two_that_take_a_vni_at_once_one_gets_it(world: OpiWorld) -> None:
    def take(name: str) -> grpc.StatusCode:
        try:
            world.bridges.UpdateLogicalBridge(update_bridge(BRIDGE + name, vni=30))
        except grpc.RpcError as error:
            code: grpc.StatusCode = error.code()
            return code
        return Code.OK

    with ThreadPoolExecutor(2) as pool:
        codes = list(pool.map(take, ("blue", "green")))
    for name, vni in (("blue", 7), ("green", 9)):
        world.bridges.UpdateLogicalBridge(update_bridge(BRIDGE + name, vni=vni))
    assert sorted(codes, key=str) == [TAKEN, Code.OK]


@pytest.mark.usefixtures("slow_writes")
def test_who_cannot_wait_for_its_turn_is_told(
    world: OpiWorld, bridge9: Callable[..., pb.LogicalBridge], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods, "_TURN_S", 0.1)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(bridge9)
        time.sleep(0.1)
        with refused(Code.UNAVAILABLE, "is still under way"):
            world.bridges.UpdateLogicalBridge(update_bridge(BRIDGE + "blue", vni=30))
        first.result()


def test_an_update_keeps_what_opi_does_not_know_of(world: OpiWorld) -> None:
    before = segments(world)["blue"]
    changed = world.bridges.UpdateLogicalBridge(update_bridge(BRIDGE + "blue", vni=70))
    assert changed.spec.vni == 70
    after = segments(world)["blue"]
    assert (after.vni, after.subnets) == (70, before.subnets)
    world.bridges.UpdateLogicalBridge(update_bridge(BRIDGE + "blue", vni=7))
    assert segments(world)["blue"] == before


def test_pages_of_bridges(world: OpiWorld) -> None:
    found, token = [], ""
    for _ in range(3):
        request = pb.ListLogicalBridgesRequest(page_size=2, page_token=token)
        page = world.bridges.ListLogicalBridges(request)
        found += [
            (each.name.removeprefix(BRIDGE), each.spec.vlan_id) for each in page.logical_bridges
        ]
        token = page.next_page_token
        if not token:
            break
    assert found == [("blue", 5), ("default", 0), ("green", 6), ("red", 8)]


# --- other nodes ---


def test_who_is_no_tenant_changes_no_segment(tmp_path: Path) -> None:
    with running_world(tmp_path, networks=None) as world:
        before = segments(world)
        same = world.bridges.CreateLogicalBridge(bridge_named("blue", vlan_id=5, vni=7))
        assert same.name == BRIDGE + "blue"
        unchanged = world.bridges.UpdateLogicalBridge(update_bridge(BRIDGE + "blue", vni=7))
        assert unchanged == same
        for method, request in (
            (CREATE_LB, bridge_named("opi-bridge9", vlan_id=22, vni=11)),
            (UPDATE_LB, update_bridge(BRIDGE + "blue", vni=70)),
            (REMOVE_LB, pb.DeleteLogicalBridgeRequest(name=BRIDGE + "green")),
        ):
            with refused(REFUSED, "the role tenant"):
                call(world, method, request)
        assert segments(world) == before


class FailingWriter:
    """A database that refuses, or cannot be asked."""

    error: Exception = OverweaveError("permission error: denied")

    def write(self, network: Network, seen: Network | None) -> None:
        raise self.error

    def delete(self, kind: str, name: str) -> None:
        raise self.error


def test_what_the_database_says_is_told(tmp_path: Path) -> None:
    writer = FailingWriter()
    with running_world(tmp_path, networks=writer) as world:
        for error, code in (
            (OverweaveError("permission error: denied"), REFUSED),
            (InvalidValueError("segment green has endpoints"), REFUSED),
            (FabricUnavailableError("connection refused"), Code.UNAVAILABLE),
        ):
            writer.error = error
            with refused(code, str(error)):
                call(world, CREATE_LB, bridge_named("opi-bridge9", vlan_id=22, vni=11))
            with refused(code, str(error)):
                call(world, REMOVE_LB, pb.DeleteLogicalBridgeRequest(name=BRIDGE + "green"))


def test_a_dpu_is_healthy_with_its_switch_and_its_dataplane(tmp_path: Path) -> None:
    with running_world(tmp_path, device="M1-dpu") as world:
        assert not world.heartbeat.Ping(lifecycle_pb2.PingRequest()).healthy
        half = Device("M1-dpu", "M1", "senao", "SX904", Side.DPU, NODE, ready=True)
        world.agent.post(DevicesTold((half,)))
        wait_until(lambda: health(world) == "SERVING")
        assert world.heartbeat.Ping(lifecycle_pb2.PingRequest()).healthy
        world.agent.post(DevicesTold((replace(half, ready=False),)))
        wait_until(lambda: health(world) == "NOT_SERVING")
        world.agent.post(DevicesTold((half,)))
        wait_until(lambda: health(world) == "SERVING")
        world.agent.post(PathProbed("ovs", "Open vSwitch does not forward"))
        wait_until(lambda: health(world) == "NOT_SERVING")
        obstacle = world.agent.obstacle()
        assert obstacle == Obstacle("Open vSwitch does not forward", limits_existing=True)


def test_a_function_is_on_a_dpu(tmp_path: Path) -> None:
    with running_world(tmp_path, representors=None) as host:
        with refused(REFUSED, "is no DPU"):
            host.functions.CreateNetworkFunction(nf(*NF_MACS))
        with refused(REFUSED, "is no DPU"):
            host.functions.DeleteNetworkFunction(nf(*NF_MACS))


def test_the_host_of_a_dpu(tmp_path: Path) -> None:
    vfs = {"M1-host": ("0000:06:00.2", "0000:06:00.3", "not-pci")}
    site = {"representors": None, "vfs": vfs, "channel": Channel("fe80::1%eth1", 8085)}
    with running_world(tmp_path, **site) as world:
        told = world.lifecycle.Init(lifecycle_pb2.InitRequest(dpu_mode=False))
        assert (told.ip, told.port) == ("[fe80::1%25eth1]", 8085)
        assert world.devices.SetNumVfs(lifecycle_pb2.VfCount(vf_cnt=8)).vf_cnt == 3

        def devices() -> dict[str, str]:
            found = world.devices.GetDevices(Empty()).devices
            assert all(key == each.ID for key, each in found.items())
            return {key: each.health for key, each in found.items()}

        assert devices() == dict.fromkeys(vfs["M1-host"][:2], "Unhealthy")
        assert not world.heartbeat.Ping(lifecycle_pb2.PingRequest()).healthy
        half = Device("M1-host", "M1", "senao", "SX904", Side.HOST, NODE, ready=True)
        world.agent.post(DevicesTold((half,)))
        wait_until(lambda: set(devices().values()) == {"Healthy"})
        wait_until(lambda: health(world) == "SERVING")
        world.agent.post(DevicesTold((replace(half, ready=False),)))
        wait_until(lambda: set(devices().values()) == {"Unhealthy"})
        for method, request in (
            (CREATE, daemons_port()),
            (GET, pb.GetBridgePortRequest(name="host0-3")),
            (REMOVE, pb.DeleteBridgePortRequest(name="host0-3")),
            (UPDATE, update("host0-3")),
            (f"{PORTS}/ListBridgePorts", LIST()),
            (INIT, lifecycle_pb2.InitRequest(dpu_mode=True)),
        ):
            with refused(REFUSED):
                call(world, method, request)


def test_a_node_that_was_not_told_where_the_daemons_meet(tmp_path: Path) -> None:
    with running_world(tmp_path, channel=None, representors=()) as world:
        for method, request, words in (
            (INIT, lifecycle_pb2.InitRequest(dpu_mode=True), "opi.channel"),
            (SET_VFS, lifecycle_pb2.VfCount(vf_cnt=8), "has no VFs"),
        ):
            with refused(REFUSED, words):
                call(world, method, request)


def test_before_the_database_was_heard_nothing_is_said_of_bridges(tmp_path: Path) -> None:
    with running_world(tmp_path) as world:
        made = world.ports.CreateBridgePort(daemons_port())
        world.stop()
        world.remote = f"unix:{tmp_path}/nobody.sock"
        world.start()
        shown = world.ports.GetBridgePort(pb.GetBridgePortRequest(name="host0-3"))
        assert shown.spec == made.spec
        for method, request in (
            (f"{BRIDGES}/ListLogicalBridges", pb.ListLogicalBridgesRequest()),
            (GET_LB, pb.GetLogicalBridgeRequest(name=BRIDGE + "blue")),
            (CREATE, daemons_port(vf=4)),
        ):
            with refused(Code.UNAVAILABLE):
                call(world, method, request)
        assert world.ports.CreateBridgePort(daemons_port()).name == made.name
        delete(world, "host0-3")
