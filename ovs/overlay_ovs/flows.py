"""Which flows realise a Desired: the whole forwarding logic of a node, as text for OVS. Pure.

Flows are written in the words in which ovs-ofctl prints them back, so that they compare as text.
Local flows stand above remote ones: where a held fabric view still shows an endpoint elsewhere
that has come here, here wins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from dataplane.core.addressing import eui64_link_local
from dataplane.core.desired import Bindings, Datapath, Desired, PortState, SegmentView
from dataplane.core.diff import Pending, Rendering
from dataplane.core.functions import Role
from dataplane.core.model import (
    Encap,
    Family,
    Guard,
    IpAddress,
    Mac,
    Node,
    Svi,
    UnknownUnicast,
    family_of,
)
from dataplane.core.probe import ETHERTYPE, PROBE_MAC
from dataplane.core.reasons import Reason
from overlay_ovs.steering import Sides, entering, function_guard, steering_rules
from overlay_ovs.tables import (
    ANSWER,
    ANSWER_ND,
    ARP_ND,
    BACK,
    CLASSIFY,
    FLOOD,
    FLOOD_LOCAL,
    FORWARDING,
    GUARD,
    GUARD_SOURCE,
    INTEGRATION_BRIDGE,
    OUTPUT,
    OWNER,
    ROUTING,
    STEERING,
    UNDERLAY_BRIDGE,
    WIRE,
    BridgeFlow,
    Category,
    Rule,
    Rules,
    Table,
    check,
    cookie,
)
from ovs_client.ofctl import Flow, canonical_match

TUNNEL_PORTS = {Encap.GENEVE: "ow-geneve", Encap.VXLAN: "ow-vxlan"}
UNDERLAY_PORT = "ophy0"
MAX_COPIES = (
    600  # the datapath's actions end at 64 KiB, silently: 780 copies over IPv4, 630 over IPv6
)

# ICMPv6 types: RFC 4861 section 4, RFC 2710 section 3, RFC 3810 section 5.
_MLD_REPORT, _MLD_DONE, _MLD2_REPORT = 131, 132, 143
_ROUTER_SOLICITATION, _ROUTER_ADVERTISEMENT = 133, 134
_SOLICITATION, _ADVERTISEMENT, _REDIRECT = 135, 136, 137
_IGMP = 2
_NO_MAC = "00:00:00:00:00:00"  # how OVS shows an ND message without that option
_CACHE = 1 << 14  # flows of at most so many endpoints are kept ready

Flows = tuple[BridgeFlow, ...]


def render_flows(desired: Desired, bindings: Bindings) -> Rendering:
    """Return the flows of our bridges; what has no OpenFlow port number yet is pending.

    Flows of something pending are held: not to know its number is no reason to remove them.
    """
    plan = _Plan(bindings, _answered(desired), held=set(desired.held))
    plan.add(_PIPELINES[desired.node.datapath])
    if desired.node.is_dpu:
        plan.add(_PROBED)
    for view in desired.segments.values():
        _plan_ports(plan, view)
        _plan_fabric(plan, desired, view)
    for view in desired.routed.values():
        _plan_ways(plan, desired, view)
    _plan_gateways(plan, desired)
    if desired.node.datapath is Datapath.USERSPACE:
        _plan_wire(plan, desired)
    return Rendering(plan.items, tuple(dict.fromkeys(plan.pending)), frozenset(plan.held))


@dataclass(slots=True)
class _Plan:
    """A Rendering in the making."""

    bindings: Bindings
    answered: frozenset[Family]
    held: set[int]
    items: dict[Hashable, BridgeFlow] = field(default_factory=dict)
    pending: list[Pending] = field(default_factory=list)

    def add(self, flows: Iterable[BridgeFlow]) -> None:
        """Add ``flows``; of two that exclude each other one stays, whatever their order."""
        for item in flows:
            other = self.items.setdefault(item.key, item)
            if other is not item and item.flow.actions < other.flow.actions:
                self.items[item.key] = item

    def number(self, port: str, about: Hashable, scope: int) -> int | None:
        """Return the OpenFlow number of ``port``; if it has none, hold ``scope`` until it has."""
        ofport = self.bindings.ofports.get(port)
        if ofport is None:
            self.held.add(scope)
            why = self.bindings.port_faults.get(port, "Open vSwitch has not told one yet")
            self.pending.append(Pending(about, f"port {port} has no OpenFlow number: {why}"))
        return ofport


def _answered(desired: Desired) -> frozenset[Family]:
    """Return for which families a question is answered here; the others go to who is asked for.

    The kernel's datapath cannot set what makes an NA of an NS, and Open vSwitch takes no flow that
    asks it to.
    """
    is_userspace = desired.node.datapath is Datapath.USERSPACE
    return frozenset(Family if is_userspace else (Family.IPV4,))


# --- building blocks -------------------------------------------------------------------------


def _flow(table: Table, priority: int, match: str, actions: str, owner: int) -> BridgeFlow:
    """Return a flow of ow-int; ``match`` in any order, ``owner`` its cookie."""
    text = canonical_match(match.split(",")) if match else ""
    return check(BridgeFlow(INTEGRATION_BRIDGE, Flow(table.number, priority, text, actions, owner)))


def _goto(table: Table) -> str:
    return f"goto_table:{table.number}"


def _set(value: int, register: str) -> str:
    return f"set_field:{value:#x}->{register}"


def _steps(*actions: str) -> str:
    return ",".join(actions)


def _answer_with(mac: Mac) -> str:
    return _steps(_set(int(mac.replace(":", ""), 16), "xreg2"), _goto(ANSWER))


def _question(ip: IpAddress) -> str:
    """Match the ARP or ND question for ``ip``."""
    if isinstance(ip, IPv4Address):
        return f"arp,arp_tpa={ip}"
    return f"icmp6,icmp_type={_SOLICITATION},nd_target={ip}"


# --- what is always there --------------------------------------------------------------------


def _pipeline(*, nd: bool) -> Iterator[BridgeFlow]:
    """Yield the flows that depend on nothing; ``nd``: with those that answer ND."""
    owner = cookie(Category.PIPELINE)
    rules = (*_guard_rules(), *_question_rules(), *_routing_rules(), *_forwarding_rules())
    answers = (*_arp_answer_rules(), *(_nd_rules() if nd else ()))
    for table, priority, match, actions in (*rules, *answers):
        yield _flow(table, priority, match, actions, owner)


def _guard_rules() -> Rules:
    """Return what no guarded port may send, and what is left when a claim was not confirmed."""
    return (
        # A host speaks to hosts: it is no router (RFC 6105). Ports without guard stand above.
        (GUARD, 300, f"icmp6,icmp_type={_ROUTER_ADVERTISEMENT}", "drop"),
        (GUARD, 300, f"icmp6,icmp_type={_REDIRECT}", "drop"),
        # OVS shows no type in a fragment, and no ND message may be one (RFC 6980 section 5). What
        # has crossed no router is meant to be ND; larger pings have not hop limit 255.
        (GUARD, 300, "icmp6,nw_frag=yes,nw_ttl=255", "drop"),
        # OVS looks behind one tag. Behind two, a receiver that strips priority tags would find
        # what nobody has checked (CVE-2021-27853).
        (GUARD, 300, "dl_type=0x8100", "drop"),
        (GUARD, 300, "dl_type=0x88a8", "drop"),
        # With another code OVS shows no target either, and in the flow that it keeps forgets that
        # this is why: the pod's later questions would end there. So a rule above reads the code.
        (GUARD, 230, f"icmp6,icmp_type={_SOLICITATION},icmp_code=0,nd_target=::", "drop"),
        (GUARD, 150, "arp", "drop"),
        (GUARD, 150, f"icmp6,icmp_type={_SOLICITATION}", "drop"),
        (GUARD, 150, f"icmp6,icmp_type={_ADVERTISEMENT}", "drop"),
        (GUARD_SOURCE, 50, "ip", "drop"),
        (GUARD_SOURCE, 50, "ipv6", "drop"),
        (GUARD_SOURCE, 10, "", _goto(ARP_ND)),
    )


def _question_rules() -> Rules:
    """Return which frames are questions that can be answered."""
    return (
        (ARP_ND, 300, "vlan_tci=0x1000/0x1000", _goto(FORWARDING)),  # another network, inside ours
        (ARP_ND, 200, "arp,arp_op=1", _goto(OWNER)),
        (ARP_ND, 10, "", _goto(FORWARDING)),
        (OWNER, 10, "", _goto(FORWARDING)),
    )


def _routing_rules() -> Rules:
    """Return what no router forwards: what is at its last hop, and from a link-local address."""
    return (
        # dec_ttl alone would take each to ovs-vswitchd, for a controller that is not there.
        *((ROUTING, 250, f"{ip},nw_ttl={n}", "drop") for ip in ("ip", "ipv6") for n in (0, 1)),
        (ROUTING, 200, "ipv6,ipv6_src=fe80::/10", "drop"),  # RFC 4291 section 2.5.6
    )


def _link_local_question(universal_bit: int) -> str:
    target = IPv6Address(f"fe80::{universal_bit:x}:ff:fe00:0")
    mask = IPv6Address("ffff:ffff:ffff:ffff:300:ff:ff00:0")  # its MAC is unicast
    return f"icmp6,icmp_type={_SOLICITATION},nd_target={target}/{mask}"


def _as_if_to_owner(local_bit: str) -> str:
    return _steps(
        "move:NXM_OF_ETH_DST[]->OXM_OF_PKT_REG3[0..47]",
        "move:NXM_NX_ND_TARGET[40..63]->NXM_OF_ETH_DST[24..47]",
        "move:NXM_NX_ND_TARGET[0..23]->NXM_OF_ETH_DST[0..23]",
        f"load:{local_bit}->NXM_OF_ETH_DST[41]",
        _set(1, "reg3"),
        _goto(FORWARDING),
    )


def _forwarding_rules() -> Rules:
    """Return what happens to groups, and in the end."""
    group = "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00"
    return (
        (FORWARDING, 50, group, _goto(FLOOD)),
        (FLOOD, 10, "", _goto(FLOOD_LOCAL)),
        (STEERING, 10, "", _goto(OUTPUT)),
        (OUTPUT, 10, "", "output:NXM_NX_REG2[]"),
    )


_MAC_TO_SENDER = _steps(
    "move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]", "move:OXM_OF_PKT_REG2[0..47]->NXM_OF_ETH_SRC[]"
)


def _arp_answer_rules() -> Rules:
    """Return how an ARP question becomes its answer, with the MAC in xreg2, and goes back."""
    arp = _steps(
        _MAC_TO_SENDER,
        "set_field:2->arp_op",
        "move:NXM_NX_ARP_SHA[]->NXM_NX_ARP_THA[]",
        "move:OXM_OF_PKT_REG2[0..47]->NXM_NX_ARP_SHA[]",
        "move:NXM_OF_ARP_TPA[]->NXM_NX_REG7[]",
        "move:NXM_OF_ARP_SPA[]->NXM_OF_ARP_TPA[]",
        "move:NXM_NX_REG7[]->NXM_OF_ARP_SPA[]",
        _goto(BACK),
    )
    return ((ANSWER, 100, "arp", arp), (BACK, 10, "", "IN_PORT"))


def _nd_rules() -> Rules:
    """Return which ND questions are answered, how link-local ones travel, and the answer."""
    askable = (
        f"icmp6,icmp_type={_SOLICITATION},icmp_code=0,nw_ttl=255"  # RFC 4861 section 7.1.1
        ",nd_options_type=1"  # the space for the answer's own option
    )
    as_it_was = "move:OXM_OF_PKT_REG3[0..47]->NXM_OF_ETH_DST[]"
    found = "move:NXM_OF_ETH_DST[]->OXM_OF_PKT_REG2[0..47]"
    advertisement = _steps(
        _MAC_TO_SENDER,
        "move:NXM_NX_IPV6_SRC[]->NXM_NX_IPV6_DST[]",
        "move:NXM_NX_ND_TARGET[]->NXM_NX_IPV6_SRC[]",
        f"set_field:{_ADVERTISEMENT}->icmpv6_type",
        "set_field:2->nd_options_type",
        f"set_field:{0x60000000}->nd_reserved",  # solicited, override (RFC 4861 section 4.4)
        _goto(ANSWER_ND),
    )
    return (
        (ARP_ND, 200, f"{askable},ipv6_src=::", _goto(FORWARDING)),
        (ARP_ND, 100, askable, _goto(OWNER)),
        # An EUI-64 link-local address contains its owner's MAC: the question is sent there, and
        # answered instead of being delivered. The bit that differs is inverted (RFC 4291 App. A).
        (OWNER, 50, _link_local_question(0x0200), _as_if_to_owner("0")),
        (OWNER, 50, _link_local_question(0x0000), _as_if_to_owner("0x1")),
        (FORWARDING, 20, "reg3=0x1", _steps(as_it_was, _goto(FLOOD))),
        (OUTPUT, 100, "reg3=0x1", _steps(found, _goto(ANSWER))),
        (ANSWER, 100, f"icmp6,icmp_type={_SOLICITATION}", advertisement),
        (
            ANSWER_ND,
            100,
            f"icmp6,icmp_type={_ADVERTISEMENT}",
            _steps("move:OXM_OF_PKT_REG2[0..47]->NXM_NX_ND_TLL[]", _goto(BACK)),
        ),
    )


_PIPELINES: Mapping[Datapath, Flows] = {
    Datapath.USERSPACE: tuple(_pipeline(nd=True)),
    Datapath.KERNEL: tuple(_pipeline(nd=False)),
}


def _probe_rules() -> Rules:
    """Return what becomes of probes (core/probe): none is for anybody but who sent it.

    The answer is not in the datapath's cache: it takes the sender's MAC, which is always another.
    """
    kind = f"dl_type={ETHERTYPE:#x}"
    answer = _steps("move:NXM_OF_ETH_SRC[]->NXM_OF_ETH_DST[]", "IN_PORT")
    return (
        (CLASSIFY, 400, f"in_port=LOCAL,{kind}", answer),
        (CLASSIFY, 300, f"dl_dst={PROBE_MAC},{kind}", "drop"),
    )


_PROBED: Flows = tuple(_flow(*rule, cookie(Category.PIPELINE)) for rule in _probe_rules())


# --- local ports -----------------------------------------------------------------------------


def _plan_ports(plan: _Plan, view: SegmentView) -> None:
    """Plan what this node's own ports on a segment need."""
    vni = view.segment.vni
    owner = cookie(Category.SEGMENT, vni)
    active: dict[_Port, Role] = {}
    members, gateway = _function_macs(view), _gateway_mac(view)
    for port in view.ports:
        attachment = port.attachment
        port_owner = cookie(Category.PORT, vni, attachment.ofport)
        trunk_owner = cookie(Category.PORT, port=attachment.ofport)
        ofport = plan.number(attachment.ovs_port, attachment.key, port_owner)
        if ofport is None:
            plan.held |= {owner, trunk_owner}
            continue
        here = _Port(vni, ofport, attachment.vlan)
        if here.vlan is not None:
            # Frames without a tag, or with one of no segment: counted here.
            plan.add([_flow(CLASSIFY, 90, f"in_port={ofport}", "drop", trunk_owner)])
        if port.state is PortState.BLOCKED:
            plan.add([_flow(CLASSIFY, 100, here.arrival, "drop", port_owner)])
        else:
            active[here] = port.role
            own = members if port.role.is_function else ()
            access = _Access(
                here, port.guard, attachment.mac, port.answered, port.role, own, gateway
            )
            plan.add(_access_flows(access, plan.answered, port_owner))
    _plan_sides(plan, view, active)
    if view.segment.unknown_unicast is UnknownUnicast.FLOOD:
        plan.add([_flow(FORWARDING, 10, f"reg0={vni:#x}", _goto(FLOOD), owner)])


def _plan_sides(plan: _Plan, view: SegmentView, active: Mapping[_Port, Role]) -> None:
    """Plan who gets a copy of what all get, and what passes a network function."""
    vni = view.segment.vni
    owner = cookie(Category.SEGMENT, vni)
    within = [port for port, role in active.items() if role.is_within]
    outside = [port for port, role in active.items() if not role.is_within]
    if outside:
        plan.add([_flow(FLOOD_LOCAL, 100, f"reg0={vni:#x}", _copies(outside), owner)])
    if any(port.role is not Role.PLAIN for port in view.ports):
        from_within = f"reg0={vni:#x},reg10={vni:#x}"
        plan.add([_flow(FLOOD_LOCAL, 150, from_within, _copies(within) or "drop", owner)])
        numbers = {port.ofport: role for port, role in active.items()}
        sides = Sides(vni, numbers, _gateway_mac(view))
        plan.add(_flow(*rule, owner) for rule in steering_rules(sides))


class _Port(NamedTuple):
    """Where a pod's frames come in and go out; with ``vlan`` it is a trunk, of more segments."""

    vni: int
    ofport: int
    vlan: int | None

    @property
    def arrival(self) -> str:
        """Match what it sends, as it comes in."""
        return f"in_port={self.ofport}" + ("" if self.vlan is None else f",dl_vlan={self.vlan}")

    @property
    def here(self) -> str:
        """Match what it sends, once the segment is known."""
        return f"in_port={self.ofport}" + ("" if self.vlan is None else f",reg0={self.vni:#x}")


class _Access(NamedTuple):
    """A pod's port as its flows see it.

    ``members`` are the MACs that a function may send as, ``gateway`` that of the segment's.
    """

    port: _Port
    guard: Guard
    mac: Mac
    ips: tuple[IpAddress, ...]
    role: Role
    members: tuple[Mac, ...]
    gateway: Mac | None


def _function_macs(view: SegmentView) -> tuple[Mac, ...]:
    """Return the MACs of a function and of who is behind it."""
    return tuple(port.attachment.mac for port in view.ports if port.role is not Role.PLAIN)


def _gateway_mac(view: SegmentView) -> Mac | None:
    return view.gateway.mac if view.gateway else None


@lru_cache(_CACHE)
def _access_flows(access: _Access, answered: frozenset[Family], owner: int) -> Flows:
    port, guard, mac, ips = access.port, access.guard, access.mac, access.ips
    vni, here = port.vni, port.here
    own = (*ips, eui64_link_local(mac))
    asked = [ip for ip in own if family_of(ip) in answered]
    leave = _steps(_set(port.ofport, "reg2"), _goto(STEERING))
    rules = (
        *_tag_rules(port, access.role),
        *(_function_guard(access) if access.role.is_function else _GUARDS[guard](here, mac, own)),
        *((OWNER, 200, f"{here},{_question(ip)}", _goto(FORWARDING)) for ip in asked),
        *(
            (OWNER, 110, f"reg0={vni:#x},{_question(ip)}", _answer_with(mac))
            for ip in asked
            if ip in ips
        ),
        (FORWARDING, 110, f"reg0={vni:#x},dl_dst={mac}", leave),
    )
    return tuple(_flow(*rule, owner) for rule in rules)


def _tag_rules(port: _Port, role: Role) -> Rules:
    """Return how a frame enters, and at a trunk port its tag is taken off and put on again."""
    enter = f"{_set(port.vni, 'reg0')},{entering(port.vni, role)}{_goto(GUARD)}"
    if port.vlan is None:
        return ((CLASSIFY, 100, port.arrival, enter),)
    tag, leaving = _tag(port.vlan), f"reg0={port.vni:#x},reg2={port.ofport:#x}"
    return (
        (CLASSIFY, 100, port.arrival, _steps("pop_vlan", enter)),
        (OUTPUT, 50, leaving, _steps(tag, f"output:{port.ofport}")),
        (BACK, 100, port.here, _steps(tag, "IN_PORT")),
    )


def _tag(vlan: int) -> str:
    present = 0x1000  # that there is a tag: the CFI bit of vlan_tci (ovs-fields(7))
    return _steps("push_vlan:0x8100", f"set_field:{present | vlan}->vlan_vid")


def _copies(ports: Iterable[_Port]) -> str:
    return _steps(*map(_copy, sorted(ports, key=lambda port: port.ofport)))


def _copy(port: _Port) -> str:
    """Return how a port gets its copy of a frame, which others get as it was."""
    copy = f"output:{port.ofport}"
    return copy if port.vlan is None else _steps(_tag(port.vlan), copy, "pop_vlan")


def _function_guard(access: _Access) -> Rules:
    here = access.port.here
    if access.role is Role.INPUT:
        return function_guard((400, here), None)
    if access.guard is Guard.OFF:
        return function_guard((400, here), access.gateway)
    senders = ((250, f"{here},dl_src={mac}") for mac in access.members)
    return tuple(rule for each in senders for rule in function_guard(each, access.gateway))


def _no_guard(here: str, _mac: Mac, _own: tuple[IpAddress, ...]) -> Rules:
    return ((GUARD, 400, here, _goto(ARP_ND)),)


def _mac_guard(here: str, mac: Mac, _own: tuple[IpAddress, ...]) -> Rules:
    return ((GUARD, 250, f"{here},dl_src={mac}", _goto(ARP_ND)),)


def _ip_guard(here: str, mac: Mac, own: tuple[IpAddress, ...]) -> Rules:
    sender = f"{here},dl_src={mac}"
    return (
        *_arp_guard(sender, mac, own),
        *_nd_guard(sender, mac, own),
        (GUARD, 100, sender, _goto(GUARD_SOURCE)),
        *_source_guard(here, own),
    )


def _arp_guard(here: str, mac: Mac, own: tuple[IpAddress, ...]) -> Iterator[Rule]:
    sender = f"{here},arp,arp_sha={mac}"
    yield GUARD, 200, f"{sender},arp_op=1,arp_spa=0.0.0.0", _goto(ARP_ND)  # RFC 5227: a probe
    for ip in own:
        if isinstance(ip, IPv4Address):
            yield GUARD, 200, f"{sender},arp_spa={ip}", _goto(ARP_ND)


def _nd_guard(here: str, mac: Mac, own: tuple[IpAddress, ...]) -> Iterator[Rule]:
    solicitation = f"{here},icmp6,icmp_type={_SOLICITATION}"
    # Where options are malformed OVS shows none, and no target: such a message is not believed.
    yield GUARD, 220, f"{solicitation},nd_target=::", "drop"
    for option in (mac, _NO_MAC):
        yield GUARD, 200, f"{solicitation},nd_sll={option}", _goto(GUARD_SOURCE)
        for ip in own:
            if isinstance(ip, IPv6Address):
                claim = f"icmp_type={_ADVERTISEMENT},nd_target={ip},nd_tll={option}"
                yield GUARD, 200, f"{here},icmp6,{claim}", _goto(GUARD_SOURCE)


def _source_guard(here: str, own: tuple[IpAddress, ...]) -> Iterator[Rule]:
    for ip in own:
        if isinstance(ip, IPv4Address):
            yield GUARD_SOURCE, 100, f"{here},ip,nw_src={ip}", _goto(ARP_ND)
            continue
        yield GUARD_SOURCE, 100, f"{here},ipv6,ipv6_src={ip}", _goto(ARP_ND)
        detection = f"icmp_type={_SOLICITATION},nd_target={ip},nd_sll={_NO_MAC}"  # RFC 4862 5.4.2
        yield GUARD_SOURCE, 100, f"{here},icmp6,ipv6_src=::,{detection}", _goto(ARP_ND)
    # Before it has an address a host reports groups and asks for routers (RFC 3590, RFC 4861 4.1).
    yield GUARD_SOURCE, 100, f"{here},ip,nw_src=0.0.0.0,nw_proto={_IGMP}", _goto(ARP_ND)
    for kind in (_MLD_REPORT, _MLD_DONE, _MLD2_REPORT, _ROUTER_SOLICITATION):
        yield GUARD_SOURCE, 100, f"{here},icmp6,ipv6_src=::,icmp_type={kind}", _goto(ARP_ND)


_GUARDS = {Guard.OFF: _no_guard, Guard.MAC: _mac_guard, Guard.IP: _ip_guard}


# --- the other nodes -------------------------------------------------------------------------


def _plan_fabric(plan: _Plan, desired: Desired, view: SegmentView) -> None:
    """Plan what a segment needs to reach the other nodes, and to be reached by them."""
    vni, name = view.segment.vni, TUNNEL_PORTS[view.segment.encap]
    number = plan.number(name, name, vni)
    if number is None:
        return
    tunnel = _Tunnel(vni, number, _source(desired, view))
    plan.add(_decapsulation_flow(vni, number, vtep) for vtep in view.members)
    for remote in view.remotes:
        mac, ips = remote.endpoint.mac, remote.endpoint.answered
        asked = tuple(ip for ip in ips if family_of(ip) in plan.answered)
        plan.add(_remote_flows(tunnel, remote.vtep, mac, asked))
    copies = tuple(sorted(view.flood, key=int))[:MAX_COPIES]
    if copies:
        plan.add([_replication_flow(tunnel, copies)])
    if len(copies) < len(view.flood):
        plan.pending.append(
            Pending(
                view.segment.name,
                f"broadcasts reach {len(copies)} of {len(view.flood)} VTEPs: OVS makes no more"
                " copies of a frame; split the segment",
            )
        )


def _plan_ways(plan: _Plan, desired: Desired, view: SegmentView) -> None:
    """Plan how frames that are routed into a segment of other nodes leave."""
    vni, name = view.segment.vni, TUNNEL_PORTS[view.segment.encap]
    number = plan.number(name, name, vni)
    if number is not None:
        tunnel = _Tunnel(vni, number, _source(desired, view))
        for remote in view.remotes:
            plan.add(_remote_flows(tunnel, remote.vtep, remote.endpoint.mac, ()))


class _Tunnel(NamedTuple):
    """The way to the VTEPs of a segment; ``source`` None: the datapath writes our own address."""

    vni: int
    port: int
    source: IpAddress | None

    @property
    def enter(self) -> str:
        """Return the actions that are the same whichever VTEP a frame goes to."""
        key = _set(self.vni, "tun_id")
        return _steps(key, _tunnel_end("src", self.source)) if self.source else key


def _source(desired: Desired, view: SegmentView) -> IpAddress | None:
    """Return our own VTEP where flows must write it: the kernel would choose one by its routes."""
    if desired.node.datapath is Datapath.USERSPACE:
        return None
    return Node(desired.node.name, desired.vteps).vtep(view.segment.underlay)


@lru_cache(_CACHE)
def _decapsulation_flow(vni: int, tunnel: int, vtep: IpAddress) -> BridgeFlow:
    source = "tun_src" if vtep.version == 4 else "tun_ipv6_src"
    enter = _steps(_set(vni, "reg0"), _set(1, "reg1"), _goto(FORWARDING))
    match = f"in_port={tunnel},tun_id={vni:#x},{source}={vtep}"
    return _flow(CLASSIFY, 100, match, enter, cookie(Category.REMOTE, vni))


@lru_cache(_CACHE)
def _remote_flows(
    tunnel: _Tunnel, vtep: IpAddress, mac: Mac, asked: tuple[IpAddress, ...]
) -> Flows:
    vni, owner = tunnel.vni, cookie(Category.REMOTE, tunnel.vni)
    leave = _steps(
        tunnel.enter, _tunnel_end("dst", vtep), _set(tunnel.port, "reg2"), _goto(STEERING)
    )
    return (
        _flow(FORWARDING, 100, f"reg0={vni:#x},reg1=0,dl_dst={mac}", leave, owner),
        *(
            _flow(OWNER, 100, f"reg0={vni:#x},{_question(ip)}", _answer_with(mac), owner)
            for ip in asked
        ),
    )


@lru_cache(_CACHE)
def _replication_flow(tunnel: _Tunnel, vteps: tuple[IpAddress, ...]) -> BridgeFlow:
    copies = (f"{_tunnel_end('dst', vtep)},output:{tunnel.port}" for vtep in vteps)
    actions = _steps(tunnel.enter, *copies, _goto(FLOOD_LOCAL))
    match, owner = f"reg0={tunnel.vni:#x},reg1=0", cookie(Category.REMOTE, tunnel.vni)
    return _flow(FLOOD, 100, match, actions, owner)


def _tunnel_end(end: str, vtep: IpAddress) -> str:
    return f"set_field:{vtep}->tun_{'' if vtep.version == 4 else 'ipv6_'}{end}"


# --- gateways --------------------------------------------------------------------------------


def _plan_gateways(plan: _Plan, desired: Desired) -> None:
    """Plan what the gateways of this node's segments answer, and whom they reach."""
    gateways = {
        view.segment.vni: view.gateway for view in desired.segments.values() if view.gateway
    }
    for vni, gateway in gateways.items():
        plan.add(_gateway_flows(vni, gateway, plan.answered))
    for gateway in {gateway.vrf: gateway for gateway in gateways.values()}.values():
        for view in desired.of_vrf(gateway):
            _plan_routes(plan, view)


def _plan_routes(plan: _Plan, view: SegmentView) -> None:
    """Plan the ways into a segment with a gateway, for all of its Vrf."""
    gateway, vni = view.gateway, view.segment.vni
    if gateway is None:
        return
    into = _Into(vni, gateway.mac, _vrf(gateway))
    for port in view.ports:
        attachment = port.attachment
        if port.state is PortState.ACTIVE:
            owner = cookie(Category.PORT, vni, attachment.ofport)
            ips = tuple(filter(gateway.covers, attachment.ips))
            plan.add(_route_flows(into, attachment.mac, ips, (110, owner)))
    for remote in view.remotes:
        ips = tuple(filter(gateway.covers, remote.endpoint.ips))
        owner = cookie(Category.REMOTE, vni)
        plan.add(_route_flows(into, remote.endpoint.mac, ips, (100, owner)))


class _Into(NamedTuple):
    """The segment that a packet is routed into: its VNI, its gateway's MAC, its Vrf."""

    vni: int
    gateway: Mac
    vrf: int


def _vrf(gateway: Svi) -> int:
    """Return what stands for a Vrf in xreg4, the same for as long as it has its name."""
    return int.from_bytes(hashlib.sha256(gateway.vrf.encode()).digest()[:8], "big")


@lru_cache(_CACHE)
def _route_flows(
    into: _Into, mac: Mac, ips: tuple[IpAddress, ...], where: tuple[int, int]
) -> Flows:
    """Return the flows to who has ``ips``; ``where``: their priority and cookie."""
    priority, owner = where
    hop = _steps(
        f"set_field:{into.gateway}->eth_src",
        f"set_field:{mac}->eth_dst",
        "dec_ttl",
        _set(into.vni, "reg0"),
        _goto(FORWARDING),
    )
    vrf = f"reg8={into.vrf >> 32:#x},reg9={into.vrf & 0xFFFFFFFF:#x}"  # xreg4, as OVS prints it
    return tuple(_flow(ROUTING, priority, f"{vrf},{_sent_to(ip)}", hop, owner) for ip in ips)


@lru_cache(_CACHE)
def _gateway_flows(vni: int, gateway: Svi, answered: frozenset[Family]) -> Flows:
    owner, here = cookie(Category.SEGMENT, vni), f"reg0={vni:#x}"
    own = (*gateway.ips, eui64_link_local(gateway.mac))
    enter = _steps(_set(_vrf(gateway), "xreg4"), _goto(ROUTING))
    rules = (
        # Below questions, which go to their owner, and above all else.
        (ARP_ND, 50, f"{here},dl_dst={gateway.mac}", enter),
        *(
            (OWNER, 120, f"{here},{_question(ip)}", _answer_with(gateway.mac))
            for ip in own
            if family_of(ip) in answered
        ),
        *((ROUTING, 300, f"{here},{_echo_to(ip)}", _echo_of(ip)) for ip in own),
    )
    return tuple(_flow(*rule, owner) for rule in rules)


def _echo_to(ip: IpAddress) -> str:
    """Match an echo request to ``ip``; a part of one, which has no reply of its own, does not."""
    if isinstance(ip, IPv4Address):
        return f"icmp,nw_dst={ip},icmp_type=8,icmp_code=0,nw_frag=no"
    return f"icmp6,ipv6_dst={ip},icmp_type=128,icmp_code=0,nw_frag=no"


def _echo_of(ip: IpAddress) -> str:
    """Turn an echo request to ``ip`` into its reply (RFC 792, RFC 4443 section 4.2)."""
    family, reply = ("IP", "0->icmp_type") if ip.version == 4 else ("IPV6", "129->icmpv6_type")
    kind = "OF" if ip.version == 4 else "NX"
    return _steps(
        "move:NXM_OF_ETH_DST[]->OXM_OF_PKT_REG2[0..47]",
        _MAC_TO_SENDER,
        f"move:NXM_{kind}_{family}_SRC[]->NXM_{kind}_{family}_DST[]",
        f"set_field:{ip}->{'ip' if ip.version == 4 else 'ipv6'}_src",
        f"set_field:{reply}",
        "set_field:64->nw_ttl",
        _goto(BACK),
    )


# --- the underlay bridge ---------------------------------------------------------------------


def _plan_wire(plan: _Plan, desired: Desired) -> None:
    """Plan what joins the tunnels and the NIC; eBPF behind ophy0 would find next hops itself."""
    owner = cookie(Category.UNDERLAY)
    underlay = plan.number(UNDERLAY_PORT, UNDERLAY_PORT, owner)
    if underlay is None:
        return
    plan.add([_wire_flow(f"in_port={underlay}", "LOCAL")])
    if desired.node.ebpf:
        plan.add([_wire_flow("in_port=LOCAL", f"output:{underlay}")])
        return
    if desired.held:
        plan.held.add(owner)
    for vtep in sorted(desired.peers, key=int):
        mac = plan.bindings.next_hops.get(vtep)
        if mac is None:
            plan.held.add(owner)
            why = f"{Reason.NO_NEXTHOP}: neither it nor a router to it has answered yet"
            plan.pending.append(Pending(vtep, why))
        else:
            actions = _steps(f"set_field:{mac}->eth_dst", f"output:{underlay}")
            # Above what an agent with eBPF has left, which is held as long as a MAC is missing.
            plan.add([_wire_flow(f"in_port=LOCAL,{_sent_to(vtep)}", actions, firm=True)])


def _sent_to(vtep: IpAddress) -> str:
    return f"ip,nw_dst={vtep}" if vtep.version == 4 else f"ipv6,ipv6_dst={vtep}"


@lru_cache(_CACHE)
def _wire_flow(match: str, actions: str, *, firm: bool = False) -> BridgeFlow:
    text, owner = canonical_match(match.split(",")), cookie(Category.UNDERLAY)
    flow = Flow(WIRE.number, 110 if firm else 100, text, actions, owner)
    return check(BridgeFlow(UNDERLAY_BRIDGE, flow, firm=firm))
