"""What a frame claims, whose an address stays, and what becomes of it in the desired state."""

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet

from dataplane.core.desired import Port, PortState
from dataplane.core.events import AddressesLearned, AttachRequest, Detached
from dataplane.core.learning import AGE_S, MOST, Learned, claimed, learning_ports
from dataplane.core.model import (
    Address,
    Attachment,
    AttachmentKey,
    Endpoint,
    Grant,
    Guard,
    IpAddress,
    Mac,
    Segment,
    Vni,
)
from dataplane.core.state import State
from tests.unit.test_core_state import OWN_BLOCK, after, desired, remote, request, rows, synced

OWN, ANOTHER = Mac("02:00:00:00:00:01"), Mac("02:00:00:00:00:02")
V4, V6 = "10.0.0.9", "fd00::9"
ALL = "ff:ff:ff:ff:ff:ff"


def arp(**fields: Any) -> Packet:
    whole: dict[str, Any] = {"op": 1, "hwsrc": OWN, "psrc": V4, "pdst": "10.0.0.1", **fields}
    return Ether(src=OWN, dst=ALL) / ARP(**whole)


def solicitation(source: str = V6, mac: str = OWN, hops: int = 255) -> Packet:
    packet = Ether(src=OWN, dst="33:33:ff:00:00:01") / IPv6(src=source, dst="ff02::1", hlim=hops)
    return packet / ICMPv6ND_NS(tgt="fd00::1") / ICMPv6NDOptSrcLLAddr(lladdr=mac)


def advertisement(target: str = V6, mac: str = OWN) -> Packet:
    packet = Ether(src=OWN, dst="33:33:00:00:00:01") / IPv6(src="fe80::1", dst="ff02::1")
    return packet / ICMPv6ND_NA(tgt=target) / ICMPv6NDOptDstLLAddr(lladdr=mac)


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        pytest.param(arp(), V4, id="ARP request"),
        pytest.param(arp(op=2), V4, id="ARP reply"),
        pytest.param(arp(pdst=V4), V4, id="gratuitous ARP"),
        pytest.param(arp(psrc="0.0.0.0"), None, id="ARP probe"),
        pytest.param(arp(hwsrc=ANOTHER), None, id="ARP with another's MAC"),
        pytest.param(arp(psrc="224.0.0.1"), None, id="ARP of a group"),
        pytest.param(arp(psrc="255.255.255.255"), None, id="ARP of everybody"),
        pytest.param(arp(psrc="127.0.0.1"), None, id="ARP of a loopback address"),
        pytest.param(arp(psrc="169.254.1.1"), None, id="ARP of a link-local address"),
        pytest.param(arp(op=3), None, id="RARP"),
        pytest.param(arp(hwtype=6), None, id="ARP of another hardware"),
        pytest.param(solicitation(), V6, id="solicitation"),
        pytest.param(solicitation("::"), None, id="DAD"),
        pytest.param(solicitation("fe80::9"), None, id="solicitation from a link-local address"),
        pytest.param(solicitation(mac=ANOTHER), None, id="solicitation with another's MAC"),
        pytest.param(solicitation(hops=64), None, id="routed solicitation"),
        pytest.param(advertisement(), V6, id="advertisement"),
        pytest.param(advertisement(mac=ANOTHER), None, id="advertisement with another's MAC"),
        pytest.param(advertisement("ff02::9"), None, id="advertisement of a group"),
        pytest.param(Ether(src=OWN) / IP(src=V4) / UDP(), None, id="a packet"),
        pytest.param(Ether(src=OWN) / IPv6(src=V6) / UDP(), None, id="an IPv6 packet"),
    ],
)
def test_what_a_frame_claims(packet: Packet, expected: str | None) -> None:
    found = claimed(bytes(packet), OWN)
    assert found == (None if expected is None else ip_address(expected))
    assert claimed(bytes(packet), ANOTHER) is None  # it is not that one's frame


@given(st.sampled_from([arp(), solicitation(), advertisement()]), st.data())
def test_no_damage_is_too_much(packet: Packet, data: st.DataObject) -> None:
    raw = bytearray(bytes(packet))
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=4)):
        raw[place] = data.draw(st.integers(0, 255))
    claimed(bytes(raw[: data.draw(st.integers(0, len(raw)))]), OWN)
    claimed(data.draw(st.binary(max_size=120)), OWN)


SEGMENT = Segment("red", Vni(9))


def port(slot: int, segment: Segment = SEGMENT, ips: tuple[IpAddress, ...] = ()) -> Port:
    mac = Mac(f"02:00:00:00:01:{slot:02x}")
    attachment = Attachment(f"p{slot}", "eth0", "", segment.name, mac, ips, f"p{slot}/eth0", slot)
    return Port(attachment, segment, 1400)


def ips(*numbers: int) -> list[IpAddress]:
    return [IPv4Address("10.0.0.0") + number for number in numbers]


def test_the_first_keeps_an_address_until_it_is_too_old() -> None:
    one, other = port(1), port(2)
    known = Learned().hear(one, ips(1, 2), 0.0).hear(other, ips(2, 3), 10.0)
    assert known.addresses == {"ot1": (*ips(1, 2),), "ot2": (*ips(3),)}
    known = known.hear(one, ips(1), AGE_S - 1)  # says it again
    known = known.age([one, other], AGE_S + 1).hear(other, ips(1, 2), AGE_S + 1)
    assert known.addresses == {"ot1": (*ips(1),), "ot2": (*ips(2, 3),)}
    assert known.age([other], AGE_S + 1).addresses == {"ot2": (*ips(2, 3),)}


def test_two_segments_do_not_share_addresses_and_a_subnet_bounds_them() -> None:
    green = replace(SEGMENT, name="green", subnets=(ip_network("10.0.0.0/30"),))
    known = Learned().hear(port(1), ips(1), 0.0).hear(port(2, green), ips(1, 2, 9), 0.0)
    assert known.addresses == {"ot1": (*ips(1),), "ot2": (*ips(1, 2),)}


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(1, 30), max_size=12), st.floats(0, 400)),
        max_size=12,
    )
)
def test_no_address_is_two_s_and_nobody_has_too_many(
    heard: list[tuple[int, list[int], float]],
) -> None:
    known, now = Learned(), 0.0
    ports = [port(slot) for slot in range(4)]
    for slot, numbers, later in heard:
        now += later
        before = known.age(ports, now)
        known = before.hear(ports[slot], ips(*numbers), now)
        for name, held in before.addresses.items():  # nobody loses one to another
            assert set(held) <= set(known.addresses[name])
        told = [ip for each in known.addresses.values() for ip in each]
        assert len(told) == len(set(told))
        assert all(len(each) <= MOST for each in known.addresses.values())


def test_only_ports_without_given_addresses_are_heard() -> None:
    state = after(*synced(OWN_BLOCK), request(), unnumbered())
    assert len(desired(state).ports) == 2
    heard = [each.attachment.key for each in learning_ports(desired(state))]
    assert heard == [KEY]


# --- in the desired state ---

KEY = AttachmentKey("opi:host0-0", "port")
CLAIM = ip_address("10.0.0.99")


def unnumbered() -> AttachRequest:
    """Return the request of an OPI client: of its pod only the MAC is known."""
    mac = Mac("02:00:00:00:0a:01")
    return request(key=KEY, ipam=True, ips=(), mac=mac, identity="opi/n1/host0-0")


def believed(state: State) -> dict[str, tuple[IpAddress, ...]]:
    """Return what the ports here, and the endpoints elsewhere, are answered for, by identity."""
    found = desired(state)
    (view,) = found.segments.values()
    here = {each.attachment.identity: each.learned for each in view.ports}
    assert found.publication is not None
    assert here == {e.identity: e.learned for e in found.publication.endpoints}
    far = {each.endpoint.identity: each.endpoint.learned for each in view.remotes}
    return {who: learned for who, learned in {**here, **far}.items() if learned}


def claims(state: State, *extra: IpAddress) -> State:
    name = state.attachments[KEY].ovs_port
    return after(AddressesLearned({**state.learned, name: (CLAIM, *extra)}), state=state)


def test_what_is_claimed_is_answered_for_and_published_and_the_guard_stays() -> None:
    state = claims(after(*synced(), unnumbered()), IPv6Address(V6))
    assert believed(state) == {"opi/n1/host0-0": (CLAIM, IPv6Address(V6))}
    (port_,) = desired(state).ports
    assert (port_.guard, port_.state, port_.answered) == (
        Guard.MAC,
        PortState.ACTIVE,
        (CLAIM, IPv6Address(V6)),
    )
    assert port_.attachment.ips == ()
    state = after(AddressesLearned({}), state=state)
    assert believed(state) == {}


def test_who_is_behind_the_same_netdev_next_has_not_what_was_claimed_before() -> None:
    wanted = replace(unnumbered(), netdev="rep0")
    state = claims(after(*synced(), wanted))
    assert believed(state)
    state = after(Detached(KEY), wanted, state=state)
    assert [port.attachment.access_port for port in desired(state).ports] == ["rep0"]
    assert believed(state) == {}


def given_to(ip: IpAddress) -> Endpoint:
    return replace(remote(), ips=(ip,))


def learned_by(ip: IpAddress, node: str = "n2", container: str = "far") -> Endpoint:
    return replace(remote(container), node=node, container_id=container, ips=(), learned=(ip,))


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        pytest.param(given_to(CLAIM), {}, id="given to another"),
        pytest.param(Address("blue", CLAIM, "db/eth0", "n2"), {}, id="of the static range"),
        pytest.param(learned_by(CLAIM), {"far": (CLAIM,)}, id="learned elsewhere before"),
        pytest.param(
            Grant("blue", "n1", ips=(ip_network("10.0.0.0/26"),)), {}, id="not what is granted"
        ),
        pytest.param(
            Grant("blue", "n1", ips=(ip_network("10.0.0.64/26"),)),
            {"opi/n1/host0-0": (CLAIM,)},
            id="granted",
        ),
    ],
)
def test_a_claim_takes_nothing_from_anybody(
    row: Endpoint | Address | Grant, expected: dict[str, tuple[IpAddress, ...]]
) -> None:
    assert believed(claims(after(*synced(row), unnumbered()))) == expected


def test_an_address_that_is_given_to_another_is_not_answered_for_any_more() -> None:
    state = claims(after(*synced(), unnumbered()))
    assert believed(state)
    assert believed(after(rows(given_to(CLAIM)), state=state)) == {}


def own_row(state: State) -> Endpoint:
    found = desired(state).publication
    assert found is not None
    return found.endpoints[0]


def test_what_was_published_first_stays_and_at_once_the_first_by_name_does() -> None:
    state = claims(after(*synced(), unnumbered()))
    state = after(rows(own_row(state)), state=state)
    late = learned_by(CLAIM)  # it has not seen our row yet, and will take its own back
    assert believed(after(rows(late), state=state)) == {"opi/n1/host0-0": (CLAIM,)}
    early = learned_by(CLAIM, node="a")
    assert "opi/n1/host0-0" not in believed(after(rows(early), state=state))


def test_a_port_that_was_given_addresses_learns_none() -> None:
    state = after(*synced(OWN_BLOCK), request())
    (attachment,) = state.attachments.values()
    assert attachment.ips
    state = after(AddressesLearned({attachment.ovs_port: (CLAIM,)}), state=state)
    assert believed(state) == {}
