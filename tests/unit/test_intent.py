"""Intent files: what they may say, every way to get them wrong, and the plans they make."""

from collections.abc import Collection
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from textwrap import dedent

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import (
    Address,
    Block,
    Encap,
    Endpoint,
    Fabric,
    FabricEntity,
    Family,
    Grant,
    Guard,
    Hardware,
    Mac,
    Node,
    Pin,
    Segment,
    Svi,
    UnknownUnicast,
    Vni,
    Vrf,
)
from dataplane.documents import FaultyFileError
from dataplane.fabric.intent import Plan, plan_apply, plan_delete, plan_network, plan_node_delete
from dataplane.fabric.intent_file import read_intent
from dataplane.fabric.intent_rules import key_of

FABRIC = Fabric()
BLUE = Segment(
    name="blue",
    vni=Vni(7),
    subnets=(ip_network("10.0.0.0/20"), ip_network("fd00::/112")),
    static_ranges=(ip_network("10.0.0.0/24"),),
)
AGENT = Node("n1", (ip_address("192.0.2.1"),))
POD = Endpoint(
    segment="blue",
    node="n1",
    mac=Mac("02:00:00:00:00:01"),
    ips=(ip_address("10.0.1.1"), ip_address("fd00::1")),
    identity="default/web/eth0",
    sequence=3,
    container_id="c1",
    ifname="eth0",
)
BLOCK = Block("blue", ip_network("10.0.1.0/27"), "n1")
BOUND = Address("blue", ip_address("10.0.0.9"), "default/db/eth0", "n1")
PRESENT: tuple[FabricEntity, ...] = (FABRIC, BLUE, AGENT, POD, BLOCK, BOUND)

BLUE_TEXT = """
kind: Segment
name: blue
vni: 7
subnets: [fd00::/112, 10.0.0.0/20]
static_ranges: [10.0.0.0/24]
"""
STATIC_TEXT = """
kind: Node
name: far
vteps: [192.0.2.9]
endpoints:
- {segment: blue, mac: "02:00:00:00:00:99", ips: [10.0.0.99]}
"""


PIN_ALWAYS = "kind: Pin\nsegment: blue\nendpoint: default/web/eth0\nhardware: always\n"
POD_NEVER = "kind: Pin\nsegment: blue\nendpoint: 02:00:00:00:00:01\nhardware: never\n"


VRF = "kind: Vrf\nname: shop\n"
SVI = "kind: Svi\nname: gate\nvrf: shop\nsegment: blue\nmac: 02:00:5e:00:00:01\nprefixes: [{ip}]\n"
SHOP = Vrf("shop")
GATE = Svi("gate", "shop", "blue", Mac("02:00:5e:00:00:01"), (ip_interface("10.0.2.1/24"),))


def plan(text: str, present: Collection[FabricEntity] = PRESENT) -> Plan:
    return plan_apply(read_intent(text, "net.yaml"), present)


def faults(text: str, present: Collection[FabricEntity] = PRESENT) -> list[str]:
    with pytest.raises(FaultyFileError) as error:
        plan(text, present)
    return str(error.value).splitlines()


def after(plan: Plan, present: Collection[FabricEntity]) -> list[FabricEntity]:
    """Return the rows once a plan is carried out."""
    rows = {key_of(row): row for row in present}
    rows |= {key_of(row): row for row in (*plan.add, *(new for _, new in plan.update))}
    return [row for key, row in rows.items() if key not in set(map(key_of, plan.remove))]


def test_a_file_becomes_values_of_the_core() -> None:
    text = """
    kind: Fabric
    name: lab
    geneve_port: 16081
    ---
    kind: Segment
    name: red
    vni: 0xffffff
    encap: vxlan
    underlay: ipv6
    mtu: 1400
    subnets: [10.1.0.0/20, "fd01::/112"]
    static_ranges: [10.1.0.0/24]
    guard: off
    unknown_unicast: flood
    ---
    kind: Grant
    segment: red
    node: far
    mac: 12:34:56:10:20:30
    ips: [10.1.0.0/24]
    ---
    kind: Pin
    segment: red
    endpoint: default/Web/eth0
    hardware: always
    ---
    kind: Pin
    segment: red
    endpoint: 0A:34:56:10:20:30
    hardware: never
    ---
    kind: Node
    name: far
    vteps: ["2001:DB8::9", 192.0.2.9]
    endpoints:
    - segment: red
      mac: 12:34:56:10:20:30
      ips: [10.1.0.5]
      identity: far/web
    """
    ip, mac = ip_address("10.1.0.5"), Mac("12:34:56:10:20:30")
    red = Segment(
        name="red",
        vni=Vni(16777215),
        encap=Encap.VXLAN,
        underlay=Family.IPV6,
        mtu=1400,
        subnets=(ip_network("10.1.0.0/20"), ip_network("fd01::/112")),
        static_ranges=(ip_network("10.1.0.0/24"),),
        guard=Guard.OFF,
        unknown_unicast=UnknownUnicast.FLOOD,
    )
    made = plan(dedent(text), ())
    assert made.add == (
        Fabric("lab", 16081),
        red,
        Grant("red", "far", mac, (ip_network("10.1.0.0/24"),)),
        Pin("red", "0a:34:56:10:20:30", Hardware.NEVER),
        Pin("red", "default/Web/eth0", Hardware.ALWAYS),
        Node("far", (ip_address("192.0.2.9"), ip_address("2001:db8::9")), static=True),
        Endpoint("red", "far", mac, (ip,), "far/web", 0, "far/web", ""),
        Address("red", ip, "far/web", "far"),
    )
    assert (made.update, made.remove) == ((), ())


def test_the_second_time_there_is_nothing_to_do() -> None:
    for text in (
        BLUE_TEXT,
        STATIC_TEXT,
        f"{BLUE_TEXT}---{STATIC_TEXT}",
        "kind: Fabric",
        PIN_ALWAYS,
    ):
        first = plan(text)
        assert len(plan(text, after(first, PRESENT))) == 0


def test_what_the_file_does_not_name_stays() -> None:
    made = plan("kind: Segment\nname: red\nvni: 8")
    assert (len(made.add), made.update, made.remove) == (1, (), ())


def test_what_a_document_leaves_out_takes_its_default() -> None:
    present = (*PRESENT[2:], replace(BLUE, guard=Guard.OFF), Fabric("lab", 1, 2))
    made = plan(f"{BLUE_TEXT}---\nkind: Fabric", present)
    assert {new for _, new in made.update} == {BLUE, FABRIC}
    assert made.lines() == (
        "~ Fabric overweave: name lab -> overweave, geneve_port 1 -> 6081, vxlan_port 2 -> 4789",
        "~ Segment blue: guard off -> ip",
    )


def test_the_plan_reads_well() -> None:
    made = plan(f"{STATIC_TEXT}---\nkind: Grant\nsegment: blue\nnode: n1\n---\n{PIN_ALWAYS}")
    assert made.lines() == (
        "+ Grant blue/n1",
        "+ Pin blue/default/web/eth0 (hardware always)",
        "+ Node far (vteps 192.0.2.9)",
        (
            "+ Endpoint 02:00:00:00:00:99 on blue at far"
            " (ips 10.0.0.99, identity far/blue/02:00:00:00:00:99)"
        ),
        "+ Address 10.0.0.99 of blue (identity far/blue/02:00:00:00:00:99, node far)",
    )


def test_a_static_node_owns_its_endpoints() -> None:
    present = after(plan(STATIC_TEXT), PRESENT)
    moved = plan(STATIC_TEXT.replace("ips: [10.0.0.99]", "ips: [10.0.0.98]"), present)
    assert [type(row).__name__ for _, row in moved.update] == ["Endpoint"]
    assert [str(row.ip) for row in moved.add if isinstance(row, Address)] == ["10.0.0.98"]
    assert [str(row.ip) for row in moved.remove if isinstance(row, Address)] == ["10.0.0.99"]
    emptied = plan(STATIC_TEXT.partition("endpoints")[0], present)
    assert {type(row) for row in emptied.remove} == {Endpoint, Address}
    assert after(emptied, present) == [*PRESENT, next(r for r in present if r not in PRESENT)]


def test_a_pin_changes_its_word() -> None:
    present = after(plan(PIN_ALWAYS), PRESENT)
    changed = plan(PIN_ALWAYS.replace("always", "never"), present)
    assert changed.lines() == ("~ Pin blue/default/web/eth0: hardware always -> never",)
    assert plan_delete("pin", "blue/default/web/eth0", present).lines() == (
        "- Pin blue/default/web/eth0",
    )


SEGMENT = "kind: Segment\nname: red\nvni: 8\n"
IPV4 = "subnets: [10.9.0.0/24]\n"
FAR = "kind: Node\nname: far\n"
GRANT = "kind: Grant\nsegment: blue\nnode: n1\n"

IN_ONE_DOCUMENT = [
    pytest.param("5", "document 1, line 1: 5 is not keys with values", id="a number"),
    pytest.param("name: x", "kind is missing; it is one of Fabric, Seg", id="no kind"),
    pytest.param("kind: Pod", "kind 'Pod' is not one of Fabric, Segment", id="unknown kind"),
    pytest.param("kind: [Segment]", "kind ['Segment'] is not one", id="kind is a list"),
    pytest.param("", "line 1: nothing in it; write one of", id="empty"),
    pytest.param("---\n---\n", "line 1: nothing in it; write one of", id="empty documents"),
    pytest.param("a: [", "not YAML", id="not YAML"),
    pytest.param("kind: Segment\nname: red", "(Segment red), line 1: vni is missing", id="no VNI"),
    pytest.param("kind: Segment\nvni: 8", "name is missing", id="no name"),
    pytest.param(f"{SEGMENT}vnii: 9", "line 4: unknown key vnii (did you mean vni?)", id="typo"),
    pytest.param(f"{SEGMENT}vni: 9", "line 4: key 'vni' is already there", id="key twice"),
    pytest.param(SEGMENT.replace("8", "0"), "vni 0 is not a whole", id="VNI 0"),
    pytest.param(SEGMENT.replace("8", "-1"), "vni -1 is not a whole", id="VNI negative"),
    pytest.param(SEGMENT.replace("8", "16777216"), "vni 16777216 is not", id="VNI 2^24"),
    pytest.param(SEGMENT.replace("8", "'8'"), "vni '8' is not a whole", id="VNI as text"),
    pytest.param(SEGMENT.replace("8", "5.5"), "vni 5.5 is not a whole", id="VNI as fraction"),
    pytest.param(SEGMENT.replace("8", "true"), "vni True is not a whole", id="VNI as boolean"),
    pytest.param(SEGMENT.replace("red", "Red_1"), "segment name 'Red_1' is", id="segment name"),
    pytest.param(SEGMENT.replace("red", "a/b"), "segment name 'a/b' is not", id="name with slash"),
    pytest.param(f"{SEGMENT}encap: gre", "encap 'gre': input should be 'geneve' or", id="encap"),
    pytest.param(f"{SEGMENT}underlay: ipv5", "underlay 'ipv5': input should", id="underlay"),
    pytest.param(f"{SEGMENT}guard: maybe", "guard 'maybe': input should be 'ip'", id="guard"),
    pytest.param(f"{SEGMENT}unknown_unicast: x", "unknown_unicast 'x': input", id="unicast"),
    pytest.param(f"{SEGMENT}mtu: 67", "mtu 67: input should be greater", id="MTU too small"),
    pytest.param(f"{SEGMENT}mtu: 65536", "mtu 65536: input should be less", id="MTU too large"),
    pytest.param(f"{SEGMENT}mtu: 65486", "mtu 65486 is more than any", id="MTU for no underlay"),
    pytest.param(
        f"{SEGMENT}mtu: 1279\nsubnets: ['fd09::/112']", "mtu 1279 is too small", id="MTU for IPv6"
    ),
    pytest.param(f"{SEGMENT}mtu: '1400'", "mtu '1400': input should be", id="MTU as text"),
    pytest.param(f"{SEGMENT}subnets: 10.0.0.0/8", "subnets '10.0.0.0/8': input", id="no list"),
    pytest.param(f"{SEGMENT}subnets: [10.0.0.1/8]", "subnets[0]: '10.0.0.1/8' is", id="host bits"),
    pytest.param(f"{SEGMENT}subnets: [x]", "subnets[0]: 'x' is not a prefix", id="no prefix"),
    pytest.param(f"{SEGMENT}subnets: [239.0.0.0/8]", "'239.0.0.0/8' holds no", id="multicast"),
    pytest.param(
        f"{SEGMENT}subnets: [10.9.0.0/16, 10.9.1.0/24]",
        "line 4: subnets 10.9.0.0/16 and 10.9.1.0/24 overlap",
        id="overlapping subnets",
    ),
    pytest.param(
        f"{SEGMENT}{IPV4}static_ranges: [10.8.0.0/28]",
        "line 5: static_ranges 10.8.0.0/28 lies in no subnet of the segment (10.9.0.0/24)",
        id="static range outside",
    ),
    pytest.param(
        f"{SEGMENT}{IPV4}static_ranges: [10.9.0.0/16]", "lies in no subnet", id="range too wide"
    ),
    pytest.param(
        f"{SEGMENT}static_ranges: [10.9.0.0/16]", "(it has none)", id="range without subnet"
    ),
    pytest.param(
        f"{SEGMENT}{IPV4}static_ranges: [10.9.0.0/28, 10.9.0.0/29]",
        "static_ranges 10.9.0.0/28 and 10.9.0.0/29 overlap",
        id="overlapping ranges",
    ),
    pytest.param(f"{GRANT}mac: zz", "mac 'zz' is not six hexadecimal", id="no MAC"),
    pytest.param(f"{GRANT}mac: 5", "mac 5 is not text like", id="MAC as number"),
    pytest.param(f"{GRANT}mac: 01:00:5e:00:00:01", "is a multicast or", id="multicast MAC"),
    pytest.param(f"{GRANT}mac: 00:00:00:00:00:00", "cannot belong to", id="zero MAC"),
    pytest.param(f"{GRANT}ips: [10.0.0.300/32]", "ips[0]: '10.0.0.300/32' is", id="grant of junk"),
    pytest.param(
        PIN_ALWAYS.replace("always", "sometimes"),
        "(Pin blue/default/web/eth0), line 4: hardware 'sometimes': input should be 'always' or",
        id="no word of a pin",
    ),
    pytest.param(PIN_ALWAYS.replace("always", "true"), "hardware True: input", id="word as bool"),
    pytest.param(PIN_ALWAYS.replace("hardware: always", ""), "hardware is missing", id="no word"),
    pytest.param("kind: Pin\nsegment: blue\nhardware: never", "endpoint is miss", id="pins nobody"),
    pytest.param(
        PIN_ALWAYS.replace("default/web/eth0", "web"),
        "endpoint 'web' is neither an identity like default/web/eth0 nor a MAC",
        id="neither identity nor MAC",
    ),
    pytest.param(POD_NEVER.replace("02:", "03:"), "is a multicast or", id="pinned multicast"),
    pytest.param(POD_NEVER.replace("02:00:00:00:00:01", "5"), "endpoint 5: input", id="pin of 5"),
    pytest.param(
        PIN_ALWAYS.replace("web", "w" * 1024), "should have at most 1024", id="identity too long"
    ),
    pytest.param(f"{POD_NEVER}mac: x", "unknown key mac", id="pin with another key"),
    pytest.param(FAR, "vteps is missing", id="static node without VTEP"),
    pytest.param(f"{FAR}vteps: []", "vteps []: list should have at least 1", id="no VTEP"),
    pytest.param(f"{FAR}vteps: [0.0.0.0]", "vteps[0]: '0.0.0.0' cannot be", id="VTEP zero"),
    pytest.param(f"{FAR}vteps: [192.0.2.8/32]", "is not an IPv4 or IPv6", id="VTEP prefix"),
    pytest.param(
        f"{FAR}vteps: [192.0.2.8, 192.0.2.9]",
        "vteps 192.0.2.8, 192.0.2.9: a node has one ipv4 address",
        id="two VTEPs of a family",
    ),
    pytest.param(
        "kind: Fabric\ngeneve_port: 0", "geneve_port 0: input should be greater", id="port 0"
    ),
    pytest.param(
        "kind: Fabric\ngeneve_port: 4789", "vxlan_port 4789 is the geneve_port", id="same port"
    ),
    pytest.param(
        STATIC_TEXT.replace("02:00:00:00:00:99", "03:00:00:00:00:99"),
        "(Node far), line 6: endpoints[0]: mac '03:00:00:00:00:99' is a multicast",
        id="endpoint's MAC",
    ),
    pytest.param(
        STATIC_TEXT.replace("10.0.0.99", "10.0.0.399"),
        "endpoints[0].ips[0]: '10.0.0.399' is not an IPv4 or IPv6 address",
        id="endpoint's address",
    ),
    pytest.param(
        STATIC_TEXT.replace("mac:", "segment: red, mac:"),
        "line 6: key 'segment' is already there",
        id="endpoint's key twice",
    ),
    pytest.param(
        STATIC_TEXT.replace("mac:", "colour: red, mac:"),
        "unknown key endpoints[0].colour",
        id="endpoint's unknown key",
    ),
]


@pytest.mark.parametrize(("text", "told"), IN_ONE_DOCUMENT)
def test_a_fault_names_document_key_and_value(text: str, told: str) -> None:
    found = faults(text)
    assert any(told in fault for fault in found), found
    assert all(fault.startswith("net.yaml, ") for fault in found)


AMONG_OBJECTS = [
    pytest.param(
        "kind: Segment\nname: red\nvni: 7",
        ["document 1 (Segment red), line 3: vni 7 is already used by segment blue"],
        id="VNI of a segment in the database",
    ),
    pytest.param(
        f"{SEGMENT}---\nkind: Segment\nname: green\nvni: 8",
        ["document 2 (Segment green), line 7: vni 8 is already used by segment red"],
        id="VNI twice in the file",
    ),
    pytest.param(
        f"{SEGMENT}---\nkind: Segment\nname: red\nvni: 9",
        ["document 2 (Segment red), line 6: Segment red is already defined in document 1"],
        id="segment twice in the file",
    ),
    pytest.param(
        BLUE_TEXT.replace("vni: 7", "vni: 8\nencap: vxlan\nunderlay: ipv6"),
        [
            (
                "vni cannot change from 7 to 8 while the segment has endpoints"
                " (default/web/eth0 at n1); remove them first"
            ),
            "encap cannot change from geneve to vxlan while",
            "underlay cannot change from ipv4 to ipv6 while",
        ],
        id="another wire format with endpoints",
    ),
    pytest.param(
        BLUE_TEXT.replace("fd00::/112, ", ""),
        ["subnets do not hold addresses in use: fd00::1"],
        id="subnet of endpoints removed",
    ),
    pytest.param(
        BLUE_TEXT.replace("10.0.0.0/20", "10.0.0.0/24"),
        ["in use: 10.0.1.1", "subnets do not hold block 10.0.1.0/27 of node n1"],
        id="subnet of a block removed",
    ),
    pytest.param(
        BLUE_TEXT.replace("10.0.0.0/24", "10.0.0.0/23"),
        ["static_ranges 10.0.0.0/23 overlaps block 10.0.1.0/27, from which node n1 allocates"],
        id="static range over a block",
    ),
    pytest.param(
        BLUE_TEXT.replace("10.0.0.0/24", "10.0.0.0/29"),
        ["static_ranges do not hold 10.0.0.9, bound to default/db/eth0"],
        id="static range of a bound address removed",
    ),
    pytest.param(
        "kind: Grant\nsegment: nowhere\nnode: n1",
        ["(Grant nowhere/n1), line 2: segment 'nowhere' does not exist"],
        id="grant on an unknown segment",
    ),
    pytest.param(
        f"{GRANT}---\n{GRANT}",
        ["document 2 (Grant blue/n1), line 5: Grant blue/n1 is already defined in document 1"],
        id="grant twice",
    ),
    pytest.param(
        PIN_ALWAYS.replace("blue", "nowhere"),
        ["(Pin nowhere/default/web/eth0), line 2: segment 'nowhere' does not exist"],
        id="pin on an unknown segment",
    ),
    pytest.param(
        f"{PIN_ALWAYS}---\n{PIN_ALWAYS.replace('always', 'never')}",
        ["line 6: Pin blue/default/web/eth0 is already defined in document 1"],
        id="pin twice",
    ),
    pytest.param(
        f"{PIN_ALWAYS}---\n{POD_NEVER}",
        [
            (
                "document 2 (Pin blue/02:00:00:00:00:01), line 9: hardware never contradicts always"
                " in the pin of default/web/eth0, the same endpoint at node n1"
            )
        ],
        id="pins by identity and by MAC contradict each other",
    ),
    pytest.param(
        f"{STATIC_TEXT}---\n{PIN_ALWAYS.replace('default/web/eth0', 'far/blue/02:00:00:00:00:99')}"
        f"---\n{POD_NEVER.replace('00:01', '00:99')}",
        ["contradicts always in the pin of far/blue/02:00:00:00:00:99, the same endpoint at"],
        id="contradiction on an endpoint of the same file",
    ),
    pytest.param(
        STATIC_TEXT.replace("segment: blue", "segment: nowhere"),
        ["(Node far), line 6: endpoints[0]: segment 'nowhere' does not exist"],
        id="endpoint on an unknown segment",
    ),
    pytest.param(
        STATIC_TEXT.replace("far", "n1"),
        ["name 'n1' is that of a node with an agent"],
        id="static node named like an agent's",
    ),
    pytest.param(
        STATIC_TEXT.replace("192.0.2.9", "192.0.2.1"),
        ["(Node far), line 4: vteps 192.0.2.1 is already that of node n1"],
        id="VTEP of another node",
    ),
    pytest.param(
        STATIC_TEXT.replace("192.0.2.9", "'2001:db8::9'"),
        ["segment 'blue' uses an ipv4 underlay, and node far has no such vtep"],
        id="no VTEP of the segment's family",
    ),
    pytest.param(
        STATIC_TEXT.replace("00:99", "00:01"),
        ["mac 02:00:00:00:00:01 is already that of default/web/eth0 at node n1 on segment blue"],
        id="MAC of a pod",
    ),
    pytest.param(
        STATIC_TEXT.replace("10.0.0.99", "10.0.1.1"),
        ["lies in no static range of segment blue", "ips 10.0.1.1 is already that of default/web"],
        id="address of a pod",
    ),
    pytest.param(
        STATIC_TEXT.replace("10.0.0.99", "10.0.0.9"),
        ["ips 10.0.0.9 is bound to default/db/eth0, last at node n1"],
        id="address bound to another identity",
    ),
    pytest.param(
        STATIC_TEXT.replace("10.0.0.99", "10.0.2.9"),
        ["ips 10.0.2.9 lies in no static range of segment blue (10.0.0.0/24): a pod may get it"],
        id="address that nodes allocate from",
    ),
    pytest.param(
        STATIC_TEXT.replace("10.0.0.99", "10.0.0.0"),
        ["ips 10.0.0.0 is the network or broadcast address of its subnet"],
        id="network address",
    ),
    pytest.param(
        f'{STATIC_TEXT}- {{segment: blue, mac: "02:00:00:00:00:98", ips: [10.0.0.99]}}',
        ["line 7: endpoints[1]: ips 10.0.0.99 is already that of far/blue/02:00:00:00:00:99"],
        id="address twice in a document",
    ),
    pytest.param(
        f'{STATIC_TEXT}- {{segment: blue, mac: "02:00:00:00:00:99"}}',
        ["line 7: endpoints[1]: Endpoint 02:00:00:00:00:99 on blue at far is already defined"],
        id="endpoint twice in a document",
    ),
    pytest.param(
        f"{SVI.format(ip='10.0.0.1/24')}",
        ["document 1 (Svi gate), line 3: vrf 'shop' does not exist; define it"],
        id="an svi in no vrf",
    ),
    pytest.param(
        f"{VRF}---\n{SVI.format(ip='10.0.1.1/24')}",
        ["prefixes 10.0.1.1 is already that of default/web/eth0 at node n1 on segment blue"],
        id="the address of a pod",
    ),
    pytest.param(
        f"{VRF}---\n{SVI.format(ip='10.0.1.2/24').replace('5e:00:00', '00:00:00')}",
        ["mac 02:00:00:00:00:01 is already that of default/web/eth0 at node n1"],
        id="the MAC of a pod",
    ),
    pytest.param(
        f"{VRF}---\n{SVI.format(ip='10.9.0.1/24')}",
        ["prefixes 10.9.0.1/24 lies in no subnet of segment blue (10.0.0.0/20, fd00::/112)"],
        id="a gateway that no pod reaches",
    ),
    pytest.param(
        f"{VRF}---\n{SVI.format(ip='10.0.0.9/24')}",
        ["prefixes 10.0.0.9 is bound to default/db/eth0, last at node n1"],
        id="an address that is kept for a pod",
    ),
    pytest.param(
        f"{VRF}---\n{SVI.format(ip='10.0.2.0/24')}",
        ["prefixes 10.0.2.0/24 is the network or broadcast address of its subnet"],
        id="a gateway without host part",
    ),
    pytest.param(
        f"{VRF}---\n{SVI.format(ip='10.0.2.1/24')}---\n"
        f"{SVI.format(ip='10.0.2.2/25').replace('gate', 'other')}",
        [
            "document 3 (Svi other), line 14: segment blue already has the gateway svi gate",
            "document 3 (Svi other), line 15: mac 02:00:5e:00:00:01 is already that of svi gate",
            "(Svi other), line 16: prefixes 10.0.2.0/25 overlaps 10.0.2.1/24 of svi gate",
        ],
        id="two gateways of a segment, two ways in a vrf",
    ),
    pytest.param(
        "kind: Vrf\nname: shop\nvni: 7",
        ["document 1 (Vrf shop), line 3: vni 7 is already used by segment blue"],
        id="a vrf with a segment's VNI",
    ),
    pytest.param(
        "kind: Segment\nname: red\nvni: 0\n---\nkind: Grant\nsegment: red\nnode: n1",
        ["document 1 (Segment red), line 3: vni 0"],
        id="a faulty segment is no unknown segment",
    ),
]


@pytest.mark.parametrize(("text", "told"), AMONG_OBJECTS)
def test_objects_must_fit_together(text: str, told: list[str]) -> None:
    found = faults(text)
    assert len(found) == len(told), found
    assert all(any(part in fault for fault in found) for part in told), found


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    found = faults(
        """kind: Segment
name: red
vni: 99999999
mtu: 5
---
kind: Segment
name: green
vni: 7
subnets: [10.0.0.0/8, 10.1.0.0/16]
colour: green
colour: blue
---
kind: Grant
segment: nowhere
node: n1
---
kind: Node
name: far
vteps: [192.0.2.1]
endpoints:
- {segment: blue, mac: "02:00:00:00:00:01", ips: [10.0.1.1]}
"""
    )
    lines = [int(fault.split("line ")[1].split(":")[0]) for fault in found]
    assert lines == [3, 4, 11, 11, 14, 19, 21, 21, 21]


def test_an_equal_identity_may_come_to_a_static_node() -> None:
    text = STATIC_TEXT.replace("ips: [10.0.0.99]", "ips: [10.0.0.9], identity: default/db/eth0")
    made = plan(text)
    assert [(old, new) for old, new in made.update] == [(BOUND, replace(BOUND, node="far"))]


def test_a_segment_without_endpoints_may_change_its_wire_format() -> None:
    made = plan("kind: Segment\nname: blue\nvni: 8\nencap: vxlan", (FABRIC, BLUE, AGENT))
    assert made.lines() == (
        (
            "~ Segment blue: vni 7 -> 8, encap geneve -> vxlan,"
            " subnets 10.0.0.0/20, fd00::/112 -> unset, static_ranges 10.0.0.0/24 -> unset"
        ),
    )


GRANTS = (Grant("blue", "n1"), Grant("blue", "n1", Mac("02:00:00:00:00:0a")), Grant("blue", "n2"))
PINS = tuple(Pin("blue", name, Hardware.NEVER) for name in (POD.identity, POD.mac, "X/y"))
FAR_NODE = Node("far", (ip_address("192.0.2.9"),), static=True)
FAR_POD = replace(POD, node="far", mac=Mac("02:00:00:00:00:02"), ips=())


@pytest.mark.parametrize(
    ("kind", "name", "present", "gone"),
    [
        pytest.param(
            "segment",
            "blue",
            (FABRIC, BLUE, AGENT, BLOCK, BOUND, *GRANTS, *PINS, replace(PINS[0], segment="red")),
            (BLUE, *GRANTS, *PINS, BLOCK, BOUND),
            id="a segment takes blocks, addresses, grants and pins along",
        ),
        pytest.param("svi", "gate", (BLUE, SHOP, GATE), (GATE,), id="an svi"),
        pytest.param("vrf", "shop", (BLUE, SHOP), (SHOP,), id="a vrf"),
        pytest.param("pin", "blue/default/web/eth0", PINS, PINS[:1], id="a pin by identity"),
        pytest.param("pin", "blue/02:00:00:00:00:01", PINS, PINS[1:2], id="a pin by MAC"),
        pytest.param("pin", "blue/X/y", PINS, PINS[2:], id="an identity in its own letters"),
        pytest.param("grant", "blue/n2", GRANTS, (GRANTS[2],), id="the only grant of a node"),
        pytest.param(
            "grant", "blue/n1/02:00:00:00:00:0A", GRANTS, (GRANTS[1],), id="a grant by its MAC"
        ),
        pytest.param("grant", "blue/n1/", GRANTS, (GRANTS[0],), id="the grant of any MAC"),
        pytest.param(
            "node",
            "far",
            (FABRIC, AGENT, POD, FAR_NODE, FAR_POD),
            (FAR_NODE, FAR_POD),
            id="a static node takes its endpoints along",
        ),
    ],
)
def test_delete(
    kind: str,
    name: str,
    present: Collection[FabricEntity],
    gone: Collection[FabricEntity],
) -> None:
    assert set(plan_delete(kind, name, present).remove) == set(gone)


def test_a_segment_with_a_gateway_is_not_deleted() -> None:
    with pytest.raises(InvalidValueError, match="segment blue has the gateway svi gate; delete"):
        plan_delete("segment", "blue", (BLUE, SHOP, GATE))


def test_a_gateway_is_made_once() -> None:
    text = f"{VRF}---\n{SVI.format(ip='10.0.2.1/24')}"
    assert plan(text).add == (SHOP, GATE)
    assert plan(text, (*PRESENT, SHOP, GATE)) == Plan()
    moved = plan(text.replace("2.1/24", "2.9/24"), (*PRESENT, SHOP, GATE))
    assert moved.lines() == ("~ Svi gate: prefixes 10.0.2.1/24 -> 10.0.2.9/24",)


def test_a_static_endpoint_cannot_have_what_is_the_gateways() -> None:
    told = faults(
        STATIC_TEXT.replace("00:99", "00:98"),
        (*PRESENT, SHOP, replace(GATE, mac=Mac("02:00:00:00:00:98"))),
    )
    assert len(told) == 1
    assert "mac 02:00:00:00:00:98 is already that of svi gate on segment blue" in told[0]


def test_subnets_stay_around_a_gateway() -> None:
    inside = (ip_network("10.0.0.0/23"), ip_network("fd00::/112"))
    (told,) = faults(BLUE_TEXT.replace("10.0.0.0/20", "10.0.0.0/23"), (*PRESENT, SHOP, GATE))
    assert "subnets do not hold 10.0.2.1 of its gateway svi gate" in told
    assert not plan_network(replace(BLUE, subnets=inside), BLUE, PRESENT).add


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        pytest.param("vrf", "shop", r"vrf shop has svis \(gate\)", id="a vrf with an svi"),
        pytest.param("vrf", "x", "vrf 'x' does not exist; there are: shop", id="no vrf"),
        pytest.param("svi", "x", "svi 'x' does not exist; there are: gate", id="no svi"),
        pytest.param(
            "segment", "blue", r"has endpoints \(default/web/eth0 at n1\); remove", id="in use"
        ),
        pytest.param("segment", "red", "segment 'red' does not exist", id="unknown segment"),
        pytest.param("grant", "blue/n9", "does not exist; name it SEGMENT/NODE", id="no grant"),
        pytest.param("grant", "blue/n1", "several: blue/n1, blue/n1/02:", id="which grant"),
        pytest.param("pin", "red/a/b", "not exist; there are: blue/default/web/eth0", id="no pin"),
        pytest.param("pin", "blue", "endpoint '' is neither an identity", id="a pin of nobody"),
        pytest.param("node", "n1", "has an agent.*overweave node delete n1", id="a node's agent"),
        pytest.param("node", "n9", "node 'n9' does not exist", id="unknown node"),
        pytest.param(
            "pod", "x", "'pod' is not segment, vrf, svi, grant, pin or node", id="unknown kind"
        ),
    ],
)
def test_delete_refuses(kind: str, name: str, told: str) -> None:
    with pytest.raises(InvalidValueError, match=told):
        plan_delete(kind, name, (*PRESENT, *GRANTS, *PINS, SHOP, GATE))


RED = Segment("red", Vni(8))


@pytest.mark.parametrize(
    ("segment", "plan"),
    [
        pytest.param(BLUE, Plan(), id="as it is"),
        pytest.param(replace(BLUE, subnets=BLUE.subnets[::-1]), Plan(), id="in another order"),
        pytest.param(RED, Plan(add=(RED,)), id="new"),
        pytest.param(
            replace(BLUE, mtu=1400), Plan(update=((BLUE, replace(BLUE, mtu=1400)),)), id="changed"
        ),
    ],
)
def test_one_segment(segment: Segment, plan: Plan) -> None:
    seen = BLUE if segment.name == "blue" else None
    assert plan_network(segment, seen, PRESENT) == plan


@pytest.mark.parametrize(
    ("segment", "seen", "told"),
    [
        pytest.param(replace(RED, vni=Vni(7)), None, "vni 7 is already used by", id="vni"),
        pytest.param(replace(BLUE, vni=Vni(8)), BLUE, "vni cannot change from 7 to", id="in use"),
        pytest.param(replace(BLUE, mtu=1400), None, "just been changed", id="made meanwhile"),
        pytest.param(replace(RED, mtu=1400), RED, "just been changed", id="deleted meanwhile"),
        pytest.param(
            replace(BLUE, mtu=1400), replace(BLUE, subnets=()), "just been changed", id="other now"
        ),
    ],
)
def test_one_segment_that_must_not_be(segment: Segment, seen: Segment | None, told: str) -> None:
    with pytest.raises(InvalidValueError, match=told):
        plan_network(segment, seen, PRESENT)


def test_a_pin_contradicts_one_in_the_database_whichever_comes_later() -> None:
    for first, later in ((PIN_ALWAYS, POD_NEVER), (POD_NEVER, PIN_ALWAYS)):
        (fault,) = faults(later, after(plan(first), PRESENT))
        assert "contradicts" in fault


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(PIN_ALWAYS.replace("web", "nobody"), id="an identity that nobody has"),
        pytest.param(POD_NEVER.replace("00:01", "00:ee"), id="a MAC that nobody has"),
        pytest.param(f"{PIN_ALWAYS}---\n{POD_NEVER.replace('never', 'always')}", id="two agree"),
        pytest.param(
            f"{PIN_ALWAYS}---\n{POD_NEVER.replace('blue', 'red')}---\n"
            "kind: Segment\nname: red\nvni: 8",
            id="the same MAC on another segment",
        ),
    ],
)
def test_pins_that_are_allowed(text: str) -> None:
    assert any(isinstance(row, Pin) for row in plan(text).add)


def test_deleting_a_dead_node_frees_all_it_owned_and_nothing_else() -> None:
    other = (FAR_NODE, FAR_POD, Block("blue", ip_network("10.0.1.32/27"), "n2"), *GRANTS)
    made = plan_node_delete("n1", (*PRESENT, *other))
    assert set(made.remove) == {AGENT, POD, BLOCK, BOUND}


def test_a_node_whose_row_is_gone_is_freed_all_the_same() -> None:
    assert plan_node_delete("n1", (POD, FAR_NODE)).remove == (POD,)


segments = st.builds(
    Segment,
    name=st.sampled_from(["red", "green"]),
    vni=st.integers(100, 102).map(Vni),
    encap=st.sampled_from(Encap),
    mtu=st.none() | st.integers(1280, 9000),
    guard=st.sampled_from(Guard),
)


def as_text(segment: Segment) -> str:
    mtu = "" if segment.mtu is None else f"mtu: {segment.mtu}\n"
    return (
        f"kind: Segment\nname: {segment.name}\nvni: {int(segment.vni)}\nencap: {segment.encap}\n"
        f"guard: {segment.guard}\n{mtu}"
    )


@given(st.lists(segments, max_size=4), st.lists(segments, min_size=1, max_size=3))
def test_carrying_a_plan_out_leaves_nothing_to_do(
    present: list[Segment], wanted: list[Segment]
) -> None:
    rows = list({s.name: s for s in {s.vni: s for s in present}.values()}.values())
    text = "---\n".join(map(as_text, wanted))
    try:
        made = plan(text, rows)
    except FaultyFileError:
        return
    result = after(made, rows)
    assert len(plan(text, result)) == 0
    vnis = [row.vni for row in result if isinstance(row, Segment)]
    assert len(vnis) == len(set(vnis))


_POD_PINS = st.dictionaries(
    st.sampled_from([POD.identity, POD.mac, "default/other/eth0"]),
    st.sampled_from(Hardware),
    min_size=1,
)


def words_on_pod(rows: Collection[FabricEntity]) -> set[Hardware]:
    pins = [row for row in rows if isinstance(row, Pin)]
    return {pin.hardware for pin in pins if pin.endpoint in (POD.identity, POD.mac)}


@given(_POD_PINS, _POD_PINS)
def test_one_word_on_an_endpoint_or_none(
    before: dict[str, Hardware], wanted: dict[str, Hardware]
) -> None:
    rows = (*PRESENT, *(Pin("blue", name, word) for name, word in before.items()))
    assume(len(words_on_pod(rows)) < 2)
    text = "---\n".join(
        f"kind: Pin\nsegment: blue\nendpoint: {name}\nhardware: {word}\n"
        for name, word in wanted.items()
    )
    both = {**before, **wanted}
    clash = len({both[name] for name in (POD.identity, POD.mac) if name in both}) > 1
    try:
        result = after(plan(text, rows), rows)
    except FaultyFileError:
        assert clash
    else:
        assert not clash
        assert {row.endpoint: row.hardware for row in result if isinstance(row, Pin)} == both
        assert len(plan(text, result)) == 0


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(FaultyFileError):
        plan(text)
