"""Which map entries a desired state becomes, and what an incomplete view may do to them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bpf.entries import EntryItem, fast_entries, held_scopes, own_sockets
from bpf.layout import (
    PRESENT,
    LocalEntry,
    OwnFlag,
    RemoteEntry,
    TunnelSocket,
    encode_entry,
    encode_entry_key,
    encode_ifindex,
    encode_member,
    encode_neighbour,
    encode_neighbour_key,
    encode_own,
    encode_port,
    encode_socket,
    is_remote_entry,
)
from dataplane.core.desired import Bindings, Desired, PortState, SegmentView
from dataplane.core.diff import Rendering, diff
from dataplane.core.model import Encap, Guard, IpAddress, Segment
from tests.unit.overlay_builders import (
    GENEVE4,
    MAC_ONLY,
    MTU,
    NIC,
    OWN4,
    OWN6,
    UNGUARDED,
    VTEP4,
    VTEP6,
    VXLAN6,
    desired,
    ips_of,
    link_local_of,
    mac_of,
    port,
    remote,
    trunk,
    view,
)

Items = dict[object, EntryItem]
NUMBERS = Bindings(ifindexes={NIC.name: 7, **{f"vp{slot}": 100 + slot for slot in range(9)}})
OF_SEGMENT = frozenset({"neighbours", "entries", "members"})


def rendered(wanted: Desired, numbers: Bindings = NUMBERS) -> Items:
    return {item.key: item for item in (*own_sockets(wanted), *fast_entries(wanted, numbers))}


def items(*views: SegmentView, numbers: Bindings = NUMBERS) -> Items:
    """Return what is rendered of ``views``, without the own sockets."""
    whole = rendered(desired(*views), numbers)
    return {key: item for key, item in whole.items() if item.map_name != "own"}


def sizes(found: Iterable[EntryItem]) -> dict[str, int]:
    return Counter(item.map_name for item in found)


def of(name: str, found: Items) -> dict[bytes, bytes]:
    return {item.map_key: item.value for item in found.values() if item.map_name == name}


# What a port, and what an endpoint elsewhere becomes


@pytest.mark.parametrize(
    ("segment", "guard", "sources"),
    [
        pytest.param(GENEVE4, Guard.IP, (link_local_of(1), *ips_of(1)), id="ip"),
        pytest.param(MAC_ONLY, Guard.MAC, (), id="mac"),
        pytest.param(UNGUARDED, Guard.OFF, (), id="off"),
    ],
)
def test_a_port_of_ours(segment: Segment, guard: Guard, sources: tuple[IpAddress, ...]) -> None:
    found = items(view(segment, [port(1, segment)]))
    vni, mac = segment.vni, mac_of(1)
    assert of("ports", found) == {encode_ifindex(101): encode_port(vni, MTU, mac, guard, sources)}
    assert of("entries", found) == {encode_entry_key(vni, mac): encode_entry(LocalEntry(101))}
    assert of("neighbours", found) == {
        encode_neighbour_key(vni, ip): encode_neighbour(mac, local=True) for ip in ips_of(1)
    }
    assert of("members", found) == {}


def test_a_port_without_addresses_is_guarded_by_its_mac() -> None:
    found = items(view(GENEVE4, [port(1, GENEVE4, ips=())]))
    assert sizes(found.values()) == {"ports": 1, "entries": 1}
    value = encode_port(GENEVE4.vni, MTU, mac_of(1), Guard.MAC)
    assert of("ports", found) == {encode_ifindex(101): value}


@pytest.mark.parametrize(
    ("segment", "own", "vtep", "encap", "udp"),
    [
        pytest.param(GENEVE4, OWN4, VTEP4[0], Encap.GENEVE, 6081, id="geneve-ipv4"),
        pytest.param(VXLAN6, OWN6, VTEP6[0], Encap.VXLAN, 4789, id="vxlan-ipv6"),
    ],
)
def test_an_endpoint_elsewhere(
    segment: Segment, own: IpAddress, vtep: IpAddress, encap: Encap, udp: int
) -> None:
    found = items(view(segment, (), [remote(11, segment, vtep)]))
    vni, mac = segment.vni, mac_of(11)
    entry = encode_entry(RemoteEntry(7, encap, udp, own, vtep))
    assert of("entries", found) == {encode_entry_key(vni, mac): entry}
    assert of("neighbours", found) == {
        encode_neighbour_key(vni, ip): encode_neighbour(mac, local=False) for ip in ips_of(11)
    }
    assert of("members", found) == {encode_member(vni, encap, vtep): PRESENT}
    assert sizes(found.values()) == {"entries": 1, "neighbours": 2, "members": 1}


def test_each_vtep_is_a_member_once() -> None:
    remotes = [remote(n, GENEVE4, VTEP4[n % 2]) for n in range(11, 19)]
    found = items(view(GENEVE4, (), remotes))
    assert set(of("members", found)) == {
        encode_member(GENEVE4.vni, Encap.GENEVE, vtep) for vtep in VTEP4
    }


# What is left to Open vSwitch


def test_a_blocked_port_has_nothing() -> None:
    assert items(view(GENEVE4, [port(1, GENEVE4, state=PortState.BLOCKED)])) == {}


def test_a_trunk_port_has_nothing() -> None:
    tagged = trunk(1, GENEVE4, 5)
    numbers = Bindings(ifindexes={NIC.name: 7, tagged.attachment.access_port: 8})
    assert items(view(GENEVE4, [tagged]), numbers=numbers) == {}


def test_a_blocked_port_does_not_hide_who_superseded_it() -> None:
    blocked = port(11, GENEVE4, state=PortState.BLOCKED)
    elsewhere = remote(11, GENEVE4, VTEP4[0])
    found = items(view(GENEVE4, [blocked], [elsewhere]))
    assert found == items(view(GENEVE4, (), [elsewhere]))


def test_a_port_without_netdev_has_nothing_yet() -> None:
    numbers = Bindings(ifindexes={NIC.name: 7})
    assert items(view(GENEVE4, [port(1, GENEVE4)]), numbers=numbers) == {}


def test_without_nic_only_pods_of_this_node_are_reached() -> None:
    whole = view(GENEVE4, [port(1, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])])
    numbers = Bindings(ifindexes={"vp1": 101})
    found = items(whole, numbers=numbers)
    assert found == items(view(GENEVE4, [port(1, GENEVE4)]), numbers=numbers) != {}


@pytest.mark.parametrize(
    ("vteps", "reached"),
    [
        pytest.param((OWN4, OWN6), {GENEVE4.vni, VXLAN6.vni}, id="both"),
        pytest.param((OWN4,), {GENEVE4.vni}, id="ipv4"),
        pytest.param((OWN6,), {VXLAN6.vni}, id="ipv6"),
        pytest.param((), set(), id="none"),
    ],
)
def test_without_own_vtep_of_that_family_nobody_elsewhere_is_reached(
    vteps: tuple[IpAddress, ...], reached: set[int]
) -> None:
    wanted = desired(
        view(GENEVE4, (), [remote(11, GENEVE4, VTEP4[0])]),
        view(VXLAN6, (), [remote(12, VXLAN6, VTEP6[0])]),
    )
    found = rendered(replace(wanted, vteps=vteps)).values()
    assert {item.scope for item in found if item.map_name in OF_SEGMENT} == reached
    assert sizes(found)["own"] == 2 * len(vteps)


def test_switched_off_only_own_sockets_and_peers_are_there() -> None:
    whole = desired(view(GENEVE4, [port(1, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])]))
    found = rendered(replace(whole, node=replace(whole.node, fastpath=False)))
    assert sizes(found.values()) == {"own": 4, "members": 1}


@pytest.mark.parametrize(
    ("fastpath", "exclusive", "flags"),
    [
        pytest.param(False, False, OwnFlag.NONE, id="off"),
        pytest.param(True, False, OwnFlag.FAST, id="on"),
        pytest.param(False, True, OwnFlag.EXCLUSIVE, id="off-exclusive"),
        pytest.param(True, True, OwnFlag.FAST | OwnFlag.EXCLUSIVE, id="on-exclusive"),
    ],
)
def test_own_sockets_say_what_is_done_there(
    *, fastpath: bool, exclusive: bool, flags: OwnFlag
) -> None:
    wanted = desired()
    node = replace(wanted.node, fastpath=fastpath, exclusive_ports=exclusive)
    found = of("own", rendered(replace(wanted, node=node, vteps=(OWN4,))))
    assert found == {
        encode_socket(TunnelSocket(OWN4, 6081)): encode_own(Encap.GENEVE, flags),
        encode_socket(TunnelSocket(OWN4, 4789)): encode_own(Encap.VXLAN, flags),
    }


# Whose a key is, and what an incomplete view may do


def test_ovs_has_new_own_sockets_until_every_view_is_whole() -> None:
    blind = desired(view(GENEVE4, synced=False), view(VXLAN6))
    node = replace(blind.node, exclusive_ports=True)
    blind = replace(blind, node=node, vteps=(OWN4,))
    waiting = Rendering(rendered(blind), held=held_scopes(blind))
    values = set(of("own", diff(waiting, {}).add).values())  # type: ignore[arg-type] # all entries
    assert values == {encode_own(encap, OwnFlag.EXCLUSIVE) for encap in Encap}
    whole = replace(desired(view(GENEVE4), view(VXLAN6)), node=node, vteps=(OWN4,))
    before = rendered(whole)
    assert not diff(waiting, before), "a restart leaves what is there"
    assert sizes(diff(Rendering(before), rendered(blind)).update.values()) == {"own": 2}


def moved(number: int, slot: int) -> tuple[SegmentView, SegmentView]:
    """Return a segment before and after workload ``number`` has come here; both views show it."""
    elsewhere = remote(number, GENEVE4, VTEP4[0])
    here = port(slot, GENEVE4, ips=ips_of(number))
    here = replace(here, attachment=replace(here.attachment, mac=mac_of(number)))
    return view(GENEVE4, (), [elsewhere]), view(GENEVE4, [here], [elsewhere], synced=False)


def test_of_one_mac_and_ip_the_pod_of_this_node_counts() -> None:
    _, after = moved(11, slot=3)
    found = items(after)
    key = encode_entry_key(GENEVE4.vni, mac_of(11))
    assert of("entries", found) == {key: encode_entry(LocalEntry(103))}
    neighbours = set(of("neighbours", found).values())
    assert neighbours == {encode_neighbour(mac_of(11), local=True)}


def test_a_pod_that_has_come_here_does_not_wait_for_the_view() -> None:
    before, after = moved(11, slot=3)
    change = diff(Rendering(items(after), held={GENEVE4.vni}), items(before))
    assert sizes(change.update.values()) == {"entries": 1, "neighbours": 2}
    assert sizes(change.add.values()) == {"ports": 1}
    assert not change.remove


def test_an_ip_used_again_by_a_pod_here_does_not_wait_for_the_view() -> None:
    ips: tuple[IpAddress, ...] = (IPv4Address("10.1.0.77"),)
    before = items(view(GENEVE4, [port(1, GENEVE4, ips)]))
    after = items(view(GENEVE4, [port(2, GENEVE4, ips)], synced=False))
    change = diff(Rendering(after, held={GENEVE4.vni}), before)
    left = {key: item for key, item in before.items() if key not in change.remove}
    assert {**left, **change.add, **change.update} == after


def test_what_an_incomplete_view_does_not_show_stays() -> None:
    remotes = [remote(11, GENEVE4, VTEP4[0]), remote(12, GENEVE4, VTEP4[1])]
    before = items(view(GENEVE4, [port(1, GENEVE4)], remotes))
    after = items(view(GENEVE4, [port(1, GENEVE4)], synced=False))
    assert not diff(Rendering(after, held={GENEVE4.vni}), before)
    gone = diff(Rendering(after), before)
    assert sizes(gone.remove.values()) == {"entries": 2, "neighbours": 4, "members": 2}


def test_a_pod_of_this_node_goes_whatever_the_view_is() -> None:
    remotes = [remote(11, GENEVE4, VTEP4[0])]
    before = items(view(GENEVE4, [port(1, GENEVE4)], remotes))
    after = items(view(GENEVE4, (), remotes, synced=False))
    change = diff(Rendering(after, held={GENEVE4.vni}), before)
    assert sizes(change.remove.values()) == {
        "ports": 1,
        "entries": 1,
        "neighbours": 2,
    }
    assert len(change) == len(change.remove)


WORLDS = st.builds(
    lambda here, there: view(
        GENEVE4,
        [port(slot, GENEVE4) for slot in sorted(here)],
        [remote(number, GENEVE4, VTEP4[number % 2]) for number in sorted(there)],
    ),
    st.sets(st.integers(1, 8)),
    st.sets(st.integers(1, 16)),
)


@given(WORLDS)
def test_every_entry_leads_somewhere(world: SegmentView) -> None:
    """Who is told by an ARP answer is reached, and who is reached may send to us."""
    found = items(world)
    here = {each.attachment.mac for each in world.ports}
    macs = here | {each.endpoint.mac for each in world.remotes}
    assert set(of("entries", found)) == {encode_entry_key(GENEVE4.vni, mac) for mac in macs}
    for key, value in of("entries", found).items():
        assert is_remote_entry(value) == (key[4:10].hex(":") not in here)
    known = {encode_neighbour(mac, local=mac in here) for mac in macs}
    assert set(of("neighbours", found).values()) <= known
    vteps = {each.vtep for each in world.remotes}
    assert len(of("members", found)) == len(vteps)


@pytest.mark.parametrize(
    ("item", "named"),
    [
        pytest.param(
            EntryItem("own", encode_socket(TunnelSocket(ip_address("10.9.0.1"), 6081)), b""),
            "own address 10.9.0.1 with port 6081",
            id="own",
        ),
        pytest.param(
            EntryItem("entries", encode_entry_key(GENEVE4.vni, mac_of(11)), b""),
            "of VNI 100",
            id="entry",
        ),
        pytest.param(EntryItem("ports", encode_ifindex(101), b""), "of netdev 101", id="port"),
    ],
)
def test_an_entry_names_itself(item: EntryItem, named: str) -> None:
    assert named in str(item)
