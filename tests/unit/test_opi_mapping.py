"""OPI's pure part: names, pages, masks, what a request asks for, and the code of every refusal."""

from __future__ import annotations

import json
import string
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from hypothesis import given
from hypothesis import strategies as st

from dataplane.core.desired import Port, PortState
from dataplane.core.model import Attachment, Encap, Family, Mac, Node, Segment, Vni
from dataplane.core.reasons import Reason
from dataplane.opi import component_pb2, masks, ports
from dataplane.opi import l2_xpu_infra_mgr_pb2 as pb
from dataplane.opi.bridges import BridgeView, Vlans
from dataplane.opi.channel import Channel
from dataplane.opi.networktypes_pb2 import IP_AF_INET, IP_AF_INET6, IPAddress, IPPrefix
from dataplane.opi.paging import DEFAULT_SIZE, LARGEST_SIZE, page_of
from dataplane.opi.refusals import CODES, Code, Fault, OpiRefusedError
from dataplane.opi.resources import BRIDGES, PORTS

README = Path(__file__).resolve().parents[2] / "dataplane" / "opi" / "README.md"
BLUE = Segment("blue", Vni(7))
GREEN = Segment("green", Vni(9), encap=Encap.VXLAN, underlay=Family.IPV6)
VLANS = Vlans("red", {5: "blue", 4: "blue", 22: "opi-bridge9"})
TAGS = Vlans("default", {5: "blue", 7: "blue", 6: "green"})
HERE = Node("d1", (ip_address("192.0.2.1"),))
VIEW = BridgeView(HERE, {"blue": BLUE, "green": GREEN}, VLANS)
MAC = bytes.fromhex("020000000001")
UUID = "0f5a1b3c-7d11-4a02-9b7e-2f0d7c1a9e55"


def refusal(call: Any, *words: Any) -> tuple[Fault, str]:
    with pytest.raises(OpiRefusedError) as raised:
        call(*words)
    assert "\n" not in str(raised.value)
    return raised.value.fault, str(raised.value)


# --- codes ---


def test_every_fault_has_its_code() -> None:
    assert CODES.keys() == set(Fault)
    assert set(CODES.values()) == set(Code)


def test_the_readme_lists_every_fault() -> None:
    text = README.read_text(encoding="utf-8")
    for code in Code:
        (line,) = [line for line in text.splitlines() if line.startswith(f"| {code} |")]
        told = {word.strip("` ") for word in line.split("|")[2].split(",")}
        assert told == {fault for fault in Fault if CODES[fault] is code}


# --- resource names ---


@pytest.mark.parametrize(
    ("collection", "name", "resource_id"),
    [
        pytest.param(BRIDGES, "//network.opiproject.org/bridges/blue", "blue", id="bridge"),
        pytest.param(BRIDGES, "//network.opiproject.org/bridges/a.b", "a.b", id="dot"),
        pytest.param(BRIDGES, "//network.opiproject.org/bridges/a", "a", id="one letter"),
        pytest.param(PORTS, "//network.opiproject.org/ports/host0-3", "host0-3", id="port"),
        pytest.param(PORTS, "host0-3", "host0-3", id="as the daemon calls it"),
        pytest.param(PORTS, "host1-63", "host1-63", id="of another PF"),
    ],
)
def test_a_name(collection: Any, name: str, resource_id: str) -> None:
    assert collection.id_of(name) == resource_id
    assert collection.id_of(collection.name(resource_id)) == resource_id


@pytest.mark.parametrize(
    ("collection", "name", "fault"),
    [
        pytest.param(BRIDGES, "", Fault.MISSING_FIELD, id="nothing"),
        pytest.param(BRIDGES, "blue", Fault.BAD_NAME, id="an id alone"),
        pytest.param(BRIDGES, "host0-3", Fault.BAD_NAME, id="bare, but no port"),
        pytest.param(BRIDGES, "//network.opiproject.org/ports/blue", Fault.BAD_NAME, id="a port"),
        pytest.param(BRIDGES, "logicalBridges/blue", Fault.BAD_NAME, id="pattern of the proto"),
        pytest.param(BRIDGES, "//network.opiproject.org/bridges/", Fault.BAD_NAME, id="no id"),
        pytest.param(BRIDGES, "//network.opiproject.org/bridges/a/b", Fault.BAD_NAME, id="longer"),
        pytest.param(BRIDGES, "//network.opiproject.org/bridges/A", Fault.BAD_NAME, id="upper"),
        pytest.param(
            BRIDGES, f"//network.opiproject.org/bridges/{'x' * 64}", Fault.BAD_NAME, id="too long"
        ),
        pytest.param(BRIDGES, "//NETWORK.opiproject.org/bridges/a", Fault.BAD_NAME, id="service"),
        pytest.param(PORTS, "host0-03", Fault.BAD_NAME, id="leading zero"),
        pytest.param(PORTS, "host0-123456", Fault.BAD_NAME, id="too many digits"),
        pytest.param(PORTS, "host0-3\n", Fault.BAD_NAME, id="newline"),
        pytest.param(PORTS, "xhost0-3", Fault.BAD_NAME, id="not at its beginning"),
    ],
)
def test_no_name(collection: Any, name: str, fault: Fault) -> None:
    assert refusal(collection.id_of, name)[0] is fault


@pytest.mark.parametrize(
    ("asked", "name", "chosen"),
    [
        pytest.param("opi-port8", "", "opi-port8", id="asked for"),
        pytest.param("opi-port8", "host0-3", "opi-port8", id="the name is ignored"),
        pytest.param("opi-port8", "any nonsense", "opi-port8", id="even a bad one"),
        pytest.param("", "host0-3", "host0-3", id="the daemon's"),
        pytest.param("", "", "", id="neither"),
        pytest.param("0123", "", "0123", id="shortest"),
        pytest.param("x" * 63, "", "x" * 63, id="longest"),
    ],
)
def test_the_id_of_a_new_resource(asked: str, name: str, chosen: str) -> None:
    assert PORTS.chosen_id(asked, name) == chosen


@pytest.mark.parametrize(
    "asked",
    ["abc", "x" * 64, "Port", "a_bc", "a.bc", "-abc", "abc-", "äbcd", "abc\n", "a" * 32, UUID],
)
def test_an_id_that_a_user_may_not_choose(asked: str) -> None:
    assert refusal(PORTS.chosen_id, asked, "")[0] is Fault.BAD_ID


# --- pages ---

NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=6)


@given(st.sets(NAMES, max_size=30), st.integers(1, 10))
def test_the_pages_are_the_whole_list_in_order(names: set[str], size: int) -> None:
    found, token, resources = list[str](), "", {name: name for name in names}
    for _ in range(len(names) + 1):
        page, token = page_of(resources, BRIDGES, size, token)
        assert len(page) == size or not token
        found += page
        if not token:
            break
    assert (found, token) == (sorted(names), "")


@given(st.sets(NAMES, min_size=2, max_size=30), st.sets(NAMES), st.data())
def test_what_stays_is_in_one_page_whatever_comes_and_goes(
    names: set[str], new: set[str], data: st.DataObject
) -> None:
    size = data.draw(st.integers(1, len(names) - 1))
    first, token = page_of({name: name for name in names}, PORTS, size, "")
    gone = data.draw(st.sets(st.sampled_from(sorted(names))))
    now = (names | new) - gone
    rest, _ = page_of({name: name for name in now}, PORTS, LARGEST_SIZE, token)
    stayed = [name for name in sorted(names) if name not in gone]
    assert [name for name in (*first, *rest) if name in stayed] == stayed


@pytest.mark.parametrize(
    ("size", "count"), [(0, DEFAULT_SIZE), (1, 1), (250, 250), (251, 250), ((1 << 31) - 1, 250)]
)
def test_how_many_are_in_a_page(size: int, count: int) -> None:
    page, token = page_of({f"n{number:03}": number for number in range(300)}, PORTS, size, "")
    assert (len(page), bool(token)) == (count, True)


@pytest.mark.parametrize("token", ["x", "AAAA", "%%%", "host0-3", "é", "Lw==", " "])
def test_a_token_that_none_was_given(token: str) -> None:
    fault, text = refusal(page_of, {"a": 1}, PORTS, 0, token)
    assert fault is Fault.UNKNOWN_TOKEN
    assert text == f"unable to find pagination token {token!r}"


def test_a_token_is_for_one_kind_and_as_it_was_given() -> None:
    _, token = page_of({"a": 1, "b": 2}, BRIDGES, 1, "")
    assert page_of({"a": 1, "b": 2}, BRIDGES, 1, token) == ([2], "")
    assert refusal(page_of, {"a": 1}, PORTS, 0, token)[0] is Fault.UNKNOWN_TOKEN
    assert refusal(page_of, {"a": 1}, BRIDGES, 0, f"{token}\n")[0] is Fault.UNKNOWN_TOKEN


# --- field masks ---


def bridge(**spec: Any) -> pb.LogicalBridge:
    return pb.LogicalBridge(name="n", spec=pb.LogicalBridgeSpec(**spec))


LEN = IPPrefix(len=24)
OTHER = pb.LogicalBridge(
    name="m",
    spec=pb.LogicalBridgeSpec(vni=8),
    status=pb.LogicalBridgeStatus(oper_status=pb.LB_OPER_STATUS_UP),
)
STORED = bridge(vlan_id=5, vni=7, vtep_ip_prefix=LEN)


@pytest.mark.parametrize(
    ("paths", "wanted", "outcome"),
    [
        pytest.param((), bridge(vni=8), bridge(vlan_id=5, vni=8, vtep_ip_prefix=LEN), id="no mask"),
        pytest.param((), pb.LogicalBridge(), STORED, id="no mask, nothing"),
        pytest.param(("*",), bridge(vlan_id=6), bridge(vlan_id=6), id="the whole"),
        pytest.param(("spec",), bridge(vlan_id=6), bridge(vlan_id=6), id="all of the spec"),
        pytest.param(
            ("spec.vlan_id",),
            bridge(vlan_id=6, vni=8),
            bridge(vlan_id=6, vni=7, vtep_ip_prefix=LEN),
            id="one",
        ),
        pytest.param(("spec.vni",), bridge(), bridge(vlan_id=5, vtep_ip_prefix=LEN), id="one away"),
        pytest.param(
            ("spec.vni",),
            pb.LogicalBridge(name="n"),
            bridge(vlan_id=5, vtep_ip_prefix=LEN),
            id="one away, without a spec",
        ),
        pytest.param(
            ("spec.vtep_ip_prefix.len", "spec.vlan_id"),
            bridge(vlan_id=6, vtep_ip_prefix=IPPrefix(len=16)),
            bridge(vlan_id=6, vni=7, vtep_ip_prefix=IPPrefix(len=16)),
            id="two",
        ),
        pytest.param(("name", "status", "status.oper_status"), OTHER, STORED, id="not ours"),
        pytest.param(("*",), OTHER, bridge(vni=8), id="the whole, but what is not ours"),
        pytest.param((), OTHER, bridge(vlan_id=5, vni=8, vtep_ip_prefix=LEN), id="nor without"),
    ],
)
def test_a_mask(paths: tuple[str, ...], wanted: Any, outcome: Any) -> None:
    before = STORED.SerializeToString()
    assert masks.updated(STORED, wanted, FieldMask(paths=paths)) == outcome
    assert STORED.SerializeToString() == before


def test_a_masked_list_is_replaced() -> None:
    stored = pb.BridgePort(spec=pb.BridgePortSpec(logical_bridges=["a", "b"], mac_address=MAC))
    wanted = pb.BridgePort(spec=pb.BridgePortSpec(logical_bridges=["c"]))
    for paths in ((), ("spec.logical_bridges",)):
        found = masks.updated(stored, wanted, FieldMask(paths=paths))
        assert (list(found.spec.logical_bridges), found.spec.mac_address) == (["c"], MAC)


@pytest.mark.parametrize(
    "paths",
    [
        ("spec.nonsense",),
        ("spec.vlan_id.x",),
        ("",),
        ("spec", "x"),
        ("*", "spec"),
        ("Spec",),
        ("spec.vlan_id,spec.vni",),
        ("spec.*",),
        ("spec..vni",),
    ],
)
def test_a_bad_mask(paths: tuple[str, ...]) -> None:
    mask = FieldMask(paths=paths)
    fault, text = refusal(masks.updated, STORED, bridge(vni=8), mask)
    assert (fault, text.startswith("invalid field path: ")) == (Fault.BAD_MASK, True)
    assert refusal(masks.check, bridge(), mask) == (fault, text)


# --- LogicalBridge and Segment ---


def created(view: BridgeView, request_: pb.CreateLogicalBridgeRequest) -> Segment:
    """Return what becomes of a request, its ids read as the service does."""
    wanted = request_.logical_bridge
    return view.create(BRIDGES.chosen_id(request_.logical_bridge_id, wanted.name), wanted)


def create(asked: str = "", name: str = "", **spec: Any) -> pb.CreateLogicalBridgeRequest:
    wanted = pb.LogicalBridge(name=name, spec=pb.LogicalBridgeSpec(**spec))
    return pb.CreateLogicalBridgeRequest(logical_bridge_id=asked, logical_bridge=wanted)


def v4(text: str, length: int = 32) -> IPPrefix:
    return IPPrefix(addr=IPAddress(af=IP_AF_INET, v4_addr=int(ip_address(text))), len=length)


@pytest.mark.parametrize(
    ("request_", "segment"),
    [
        pytest.param(create("blue", vlan_id=5, vni=7), BLUE, id="there already"),
        pytest.param(create("blue", vlan_id=4), BLUE, id="without vni, by its other VLAN id"),
        pytest.param(create(vlan_id=5), BLUE, id="named by its VLAN id"),
        pytest.param(create(name=BRIDGES.name("blue"), vlan_id=5), BLUE, id="named in the body"),
        pytest.param(
            create("opi-bridge9", vlan_id=22, vni=11), Segment("opi-bridge9", Vni(11)), id="new"
        ),
        pytest.param(
            create(vlan_id=22, vni=(1 << 24) - 1, vtep_ip_prefix=v4("192.0.2.1", 24)),
            Segment("opi-bridge9", Vni((1 << 24) - 1)),
            id="new, largest vni, own vtep",
        ),
    ],
)
def test_a_bridge_is_a_segment(request_: Any, segment: Segment) -> None:
    assert created(VIEW, request_) == segment


@pytest.mark.parametrize(
    ("request_", "fault", "words"),
    [
        pytest.param(
            pb.CreateLogicalBridgeRequest(), Fault.MISSING_FIELD, "logical_bridge", id="no body"
        ),
        pytest.param(
            pb.CreateLogicalBridgeRequest(logical_bridge=pb.LogicalBridge()),
            Fault.MISSING_FIELD,
            "logical_bridge.spec",
            id="no spec",
        ),
        pytest.param(create("blue", vni=7), Fault.MISSING_FIELD, "vlan_id", id="no vlan"),
        pytest.param(create("blue", vlan_id=4096), Fault.BAD_VALUE, "(4096)", id="vlan 4096"),
        pytest.param(
            create("blue", vlan_id=5, vni=0), Fault.BAD_VALUE, "Vni value (0)", id="vni 0"
        ),
        pytest.param(
            create("blue", vlan_id=5, vni=1 << 24), Fault.BAD_VALUE, "Vni value", id="vni 2^24"
        ),
        pytest.param(create("blue", vlan_id=5, vni=8), Fault.TAKEN, "with vni 7", id="other vni"),
        pytest.param(create("blue", vlan_id=6), Fault.TAKEN, "vlan_id 4", id="other vlan"),
        pytest.param(create("opi-bridge9", vlan_id=22), Fault.MISSING_FIELD, "vni", id="no vni"),
        pytest.param(
            create("opi-bridge9", vlan_id=22, vni=7), Fault.TAKEN, "7 by blue", id="vni of another"
        ),
        pytest.param(create("other", vlan_id=22, vni=8), Fault.FIXED, "not that of", id="not its"),
        pytest.param(create(vlan_id=23, vni=8), Fault.FIXED, "no Segment's", id="nobody's VLAN"),
        pytest.param(
            create("blue", vlan_id=5, vtep_ip_prefix=v4("192.0.2.9")),
            Fault.FIXED,
            "end at 192.0.2.1",
            id="another vtep",
        ),
        pytest.param(
            create("blue", vlan_id=5, vtep_ip_prefix=v4("192.0.2.1", 33)),
            Fault.BAD_VALUE,
            "len 33",
            id="long prefix",
        ),
        pytest.param(
            create(
                "blue",
                vlan_id=5,
                vtep_ip_prefix=IPPrefix(addr=IPAddress(af=IP_AF_INET6, v4_addr=1)),
            ),
            Fault.BAD_VALUE,
            "family",
            id="family lies",
        ),
        pytest.param(
            create(
                "blue",
                vlan_id=5,
                vtep_ip_prefix=IPPrefix(addr=IPAddress(af=IP_AF_INET6, v6_addr=b"x")),
            ),
            Fault.BAD_VALUE,
            "family",
            id="short address",
        ),
        pytest.param(
            create("blue", vlan_id=5, vtep_ip_prefix=IPPrefix(addr=IPAddress(v4_addr=1))),
            Fault.BAD_VALUE,
            "family",
            id="no family",
        ),
    ],
)
def test_a_bridge_that_cannot_be(request_: Any, fault: Fault, words: str) -> None:
    found, text = refusal(created, VIEW, request_)
    assert (found, words in text) == (fault, True), text


def test_a_segment_as_a_bridge() -> None:
    found = VIEW.resource(BLUE)
    assert found.name == "//network.opiproject.org/bridges/blue"
    assert (found.spec.vlan_id, found.spec.vni) == (4, 7)
    assert found.spec.vtep_ip_prefix == v4("192.0.2.1")
    assert found.status.oper_status == pb.LB_OPER_STATUS_UP


def test_a_segment_that_this_node_has_no_address_for_is_down() -> None:
    found = VIEW.resource(GREEN)
    assert (found.spec.vlan_id, found.spec.HasField("vtep_ip_prefix")) == (0, False)
    assert found.status.oper_status == pb.LB_OPER_STATUS_DOWN
    (told,) = found.status.components
    assert told.status == component_pb2.COMP_STATUS_ERROR
    assert json.loads(told.details) == {"reasons": ["node d1 has no ipv6 address for tunnels"]}


def test_a_vtep_of_ipv6() -> None:
    both = BridgeView(Node("d1", (ip_address("2001:db8::1"),)), {}, VLANS)
    told = both.resource(GREEN).spec.vtep_ip_prefix
    assert (told.addr.af, told.addr.v6_addr, told.len) == (2, ip_address("2001:db8::1").packed, 128)


@given(st.integers(1, 4095), st.integers(1, (1 << 24) - 1))
def test_what_was_created_is_shown_and_is_the_same_once_more(vlan_id: int, vni: int) -> None:
    empty = BridgeView(HERE, {}, Vlans("red", {vlan_id: "pink"}))
    segment = created(empty, create("pink", vlan_id=vlan_id, vni=vni))
    there = BridgeView(HERE, {"pink": segment}, empty.vlans)
    shown = there.resource(segment)
    assert (shown.spec.vlan_id, shown.spec.vni) == (vlan_id, vni)
    assert created(there, pb.CreateLogicalBridgeRequest(logical_bridge=shown)) == segment
    assert there.update(segment, shown) == segment


@pytest.mark.parametrize(
    ("bridge_name", "segment"),
    [
        pytest.param("5", "blue", id="a VLAN id"),
        pytest.param("4", "blue", id="another of it"),
        pytest.param("10", "red", id="any other"),
        pytest.param("//network.opiproject.org/bridges/green", "green", id="by name"),
    ],
)
def test_what_a_port_refers_to(bridge_name: str, segment: str) -> None:
    assert VLANS.named(bridge_name) == segment


@pytest.mark.parametrize(
    ("bridge_name", "fault"),
    [
        ("", Fault.MISSING_FIELD),
        ("0", Fault.BAD_VALUE),
        ("05", Fault.BAD_VALUE),
        ("4096", Fault.BAD_VALUE),
        ("99999999999999999999", Fault.BAD_VALUE),
        ("-5", Fault.BAD_NAME),
        ("²", Fault.BAD_VALUE),
        ("5 ", Fault.BAD_NAME),
        ("blue", Fault.BAD_NAME),
        ("//network.opiproject.org/ports/blue", Fault.BAD_NAME),
    ],
)
def test_a_port_that_refers_to_nothing(bridge_name: str, fault: Fault) -> None:
    assert refusal(VLANS.named, bridge_name)[0] is fault


# --- BridgePort and Endpoint ---


def port(**spec: Any) -> pb.BridgePort:
    wanted = {"mac_address": MAC, "ptype": 1, "logical_bridges": ["5"], **spec}
    return pb.BridgePort(name="host0-3", spec=pb.BridgePortSpec(**wanted))


TRUNK = {"ptype": 2, "logical_bridges": ["5", "//network.opiproject.org/bridges/green"]}


@pytest.mark.parametrize(
    ("asked", "segments"),
    [
        pytest.param(port(), {None: "blue"}, id="access"),
        pytest.param(port(**TRUNK), {5: "blue", 6: "green"}, id="trunk"),
        pytest.param(port(ptype=2, logical_bridges=["6"]), {6: "green"}, id="trunk of one"),
    ],
)
def test_what_a_port_asks_for(asked: Any, segments: dict[int | None, str]) -> None:
    assert ports.wish(asked, TAGS) == ports.PortWish(Mac("02:00:00:00:00:01"), segments)


@pytest.mark.parametrize(
    ("asked", "fault", "words"),
    [
        pytest.param(pb.BridgePort(), Fault.MISSING_FIELD, "bridge_port.spec", id="no spec"),
        pytest.param(port(mac_address=b""), Fault.MISSING_FIELD, "mac_address", id="no mac"),
        pytest.param(port(mac_address=MAC[:5]), Fault.BAD_VALUE, "has 5 bytes", id="short mac"),
        pytest.param(port(mac_address=bytes(8)), Fault.BAD_VALUE, "has 8 bytes", id="long mac"),
        pytest.param(port(mac_address=b"\xff" * 6), Fault.BAD_VALUE, "multicast", id="broadcast"),
        pytest.param(port(mac_address=bytes(6)), Fault.BAD_VALUE, "cannot belong", id="zero"),
        pytest.param(
            port(mac_address=b"02:00:00:00:00:01"),
            Fault.BAD_VALUE,
            "has 17 bytes",
            id="mac as text",
        ),
        pytest.param(port(ptype=0), Fault.MISSING_FIELD, "ptype", id="no type"),
        pytest.param(
            port(ptype=2, logical_bridges=[]),
            Fault.MISSING_FIELD,
            "of type TRUNK",
            id="empty trunk",
        ),
        pytest.param(
            port(ptype=2, logical_bridges=["5", "6", "5"]),
            Fault.BAD_VALUE,
            "'5' stands twice: it is VLAN 5, blue",
            id="a bridge twice",
        ),
        pytest.param(
            port(ptype=2, logical_bridges=["5", "//network.opiproject.org/bridges/blue"]),
            Fault.BAD_VALUE,
            "stands twice",
            id="by number and name",
        ),
        pytest.param(
            port(ptype=2, logical_bridges=["//network.opiproject.org/bridges/red"]),
            Fault.FIXED,
            "has no VLAN id on this node",
            id="a bridge without tag",
        ),
        pytest.param(
            port(ptype=2, logical_bridges=["17"]),
            Fault.FIXED,
            "'17', segment default, has no VLAN id",
            id="the default segment",
        ),
        pytest.param(
            port(ptype=2, logical_bridges=["7"]),
            Fault.BAD_VALUE,
            "'7' is segment blue, whose tag on this node is 5",
            id="another number of the segment",
        ),
        pytest.param(port(ptype=7), Fault.BAD_VALUE, "ptype 7", id="unknown type"),
        pytest.param(port(logical_bridges=[]), Fault.MISSING_FIELD, "cannot be empty", id="none"),
        pytest.param(
            port(logical_bridges=["5", "6"]), Fault.BAD_VALUE, "and not (2)", id="two bridges"
        ),
    ],
)
def test_a_port_that_cannot_be(asked: Any, fault: Fault, words: str) -> None:
    found, text = refusal(ports.wish, asked, TAGS)
    assert (found, words in text) == (fault, True), text


@pytest.mark.parametrize(
    ("port_id", "netdev"), [("host0-0", "rep0"), ("host0-1", "rep1"), ("rep1", "rep1")]
)
def test_the_representor_of_a_port(port_id: str, netdev: str) -> None:
    assert ports.netdev_of(port_id, "d1", ("rep0", "rep1")) == netdev


@pytest.mark.parametrize("port_id", ["host0-2", "host1-0", "rep2", "host0", "opi-port8"])
def test_a_port_behind_no_vf(port_id: str) -> None:
    fault, text = refusal(ports.netdev_of, port_id, "d1", ("rep0", "rep1"))
    assert (fault, "node d1 has 2" in text) == (Fault.NO_VF, True)


def attachment(port_id: str = "host0-3", vlan: int | None = None) -> Attachment:
    return Attachment(
        *ports.key_of(port_id, vlan),
        netns="",
        segment="blue",
        mac=Mac("02:00:00:00:00:01"),
        ips=(),
        identity=f"opi/d1/{port_id}",
        slot=0,
        network=ports.NETWORK,
        netdev="rep3",
        vlan=vlan,
    )


GREEN_VLAN = replace(attachment(vlan=6), segment="green")


@pytest.mark.parametrize(
    ("held", "segments"),
    [
        pytest.param([attachment()], {None: "blue"}, id="access"),
        pytest.param([attachment(vlan=5)], {5: "blue"}, id="trunk of one"),
        pytest.param([GREEN_VLAN, attachment(vlan=5)], {5: "blue", 6: "green"}, id="trunk"),
    ],
)
def test_what_is_attached_is_told_as_it_may_be_asked_for(
    held: list[Attachment], segments: dict[int | None, str]
) -> None:
    found = ports.resource(held)
    assert found.name == "//network.opiproject.org/ports/host0-3"
    assert ports.wish(found, TAGS) == ports.PortWish(Mac("02:00:00:00:00:01"), segments)
    assert [ports.key_of("host0-3", vlan) for vlan in segments] == sorted(e.key for e in held)


def test_which_attachments_are_ports() -> None:
    ours = [ports.key_of("host0-3"), ports.key_of("rep1"), ports.key_of("rep1", 4094)]
    others = [("c1", "eth0"), ("host0-3", "port"), ("opi:host0-3", "eth0"), ("opi:x", "vlan0")]
    keys = [*ours, *(type(ours[0])(*each) for each in others)]
    assert list(map(ports.id_of, keys)) == ["host0-3", "rep1", "rep1", *[""] * len(others)]


UP, DOWN = pb.BP_OPER_STATUS_UP, pb.BP_OPER_STATUS_DOWN
PENDING = component_pb2.COMP_STATUS_PENDING
SUCCESS, ERROR = component_pb2.COMP_STATUS_SUCCESS, component_pb2.COMP_STATUS_ERROR
ACTIVE = Port(attachment(), BLUE, 1450)
BLOCKED = Port(attachment(), BLUE, 1450, PortState.BLOCKED, Reason.SUPERSEDED, "it is at n2")


@pytest.mark.parametrize(
    ("held", "lag", "unpublished", "status", "components"),
    [
        pytest.param(ACTIVE, (), "", UP, [(SUCCESS, ""), (SUCCESS, "")], id="all"),
        pytest.param(ACTIVE, (), "why", UP, [(SUCCESS, ""), (PENDING, "why")], id="unpublished"),
        pytest.param(
            ACTIVE, ("no ot0",), "", DOWN, [(PENDING, "no ot0"), (SUCCESS, "")], id="late"
        ),
        pytest.param(None, ("no",), "why", DOWN, [(PENDING, "no"), (PENDING, "why")], id="unknown"),
        pytest.param(
            BLOCKED, (), "", DOWN, [(ERROR, "superseded: it is at n2"), (SUCCESS, "")], id="blocked"
        ),
    ],
)
def test_how_it_is_with_a_port(
    held: Port | None, lag: tuple[str, ...], unpublished: str, status: int, components: Any
) -> None:
    found = ports.status([ports.Served("blue", held, lag, unpublished)])
    assert found.oper_status == status
    told = [
        (c.status, json.loads(c.details)["reasons"] if c.details else []) for c in found.components
    ]
    assert told == [(code, [why] if why else []) for code, why in components]
    assert [c.name for c in found.components] == ["dataplane", "fabric"]


def served(held: Port | None, segment: str, *lag: str, unpublished: str = "") -> ports.Served:
    return ports.Served(segment, held, lag, unpublished)


@pytest.mark.parametrize(
    ("parts", "up", "dataplane", "fabric"),
    [
        pytest.param(
            [served(ACTIVE, "blue"), served(ACTIVE, "green")], UP, (SUCCESS, []), SUCCESS, id="all"
        ),
        pytest.param(
            [served(ACTIVE, "blue"), served(ACTIVE, "green", "no ot0", unpublished="why")],
            DOWN,
            (PENDING, ["green: no ot0"]),
            PENDING,
            id="one is late",
        ),
        pytest.param(
            [served(BLOCKED, "blue"), served(ACTIVE, "green", "no ot0")],
            DOWN,
            (ERROR, ["blue: superseded: it is at n2", "green: no ot0"]),
            SUCCESS,
            id="one is blocked, one late",
        ),
    ],
)
def test_a_trunk_is_as_well_as_its_worst_segment(
    parts: list[ports.Served], up: int, dataplane: tuple[int, list[str]], fabric: int
) -> None:
    found = ports.status(parts)
    first, second = found.components
    told = json.loads(first.details)["reasons"] if first.details else []
    assert (found.oper_status, (first.status, told), second.status) == (up, dataplane, fabric)


# --- where the daemons meet ---


@pytest.mark.parametrize(
    ("channel", "dpu_mode", "ip", "port_"),
    [
        pytest.param(Channel("192.168.1.2", 50151), False, "192.168.1.2", 50151, id="ipu host"),
        pytest.param(Channel("192.168.1.2", 50151), True, "192.168.1.2", 50151, id="ipu"),
        pytest.param(Channel("fe80::1%eth1", 8085), False, "[fe80::1%25eth1]", 8085, id="host"),
        pytest.param(Channel("fe80::1%eth1", 8085), True, "[fe80::1%eth1]", 8085, id="dpu"),
    ],
)
def test_where_the_daemons_meet(channel: Channel, dpu_mode: bool, ip: str, port_: int) -> None:
    told = channel.told(dpu_mode=dpu_mode)
    assert (told.ip, told.port) == (ip, port_)
