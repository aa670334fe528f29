"""Filters of kind flower as bytes: as tc writes them, there and back, and what is damaged."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.netlink import actions, flower, switchdev
from dataplane.netlink.actions import (
    Counts,
    Redirect,
    TunnelSet,
    TunnelUnset,
    Unread,
)
from dataplane.netlink.flower import ETH_P_ALL, ETH_P_IP, ETH_P_IPV6, Filter, Match, Skip
from dataplane.netlink.messages import attribute, attribute_map
from dataplane.netlink.switchdev import SwitchNetdev
from dataplane.netlink.tc import Slot

U32, U128 = st.integers(0, 2**32 - 1), st.integers(0, 2**128 - 1)
GENEVE, POD = 9, 7  # netdevs
# What iproute2 6.1 writes behind the header for the command above it, with rep0 as netdev 7 and
# gen0 as 9, taken from its sendmsg.
GOLDEN = {
    # filter add dev rep0 ingress prio 10 protocol ip handle 0x11 flower skip_sw
    #   dst_mac 02:00:00:00:00:0a src_mac 02:00:00:00:00:01 src_ip 10.1.0.1 action tunnel_key set
    #   id 100 src_ip 192.0.2.1 dst_ip 192.0.2.2 dst_port 6081 ttl 64 nocsum
    #   cookie 6f7665727765617665 action mirred egress redirect dev gen0
    (
        "000000000700000011000000f2ffffff08000a000b000100666c6f7765720000100102000a0004000200"
        "0000000a00000a000500ffffffffffff00000a00060002000000000100000a000700ffffffffffff0000"
        "08000a000a01000108000b00ffffffffbc000300740001000f00010074756e6e656c5f6b657900005000"
        "0280080007000000006408000300c000020108000400c00002020600090017c1000005000d0040000000"
        "05000a00010000001c0002000000000000000000030000000000000000000000010000000d0006006f76"
        "65727765617665000000440002000b0001006d6972726564000024000280200002000000000000000000"
        "04000000000000000000000001000000090000000d0006006f7665727765617665000000080016000200"
        "00000600080008000000"
    ): Filter(
        Slot(POD, 10, 0x11),
        ETH_P_IP,
        Match(
            destination_mac="02:00:00:00:00:0a",
            source_mac="02:00:00:00:00:01",
            ethertype=ETH_P_IP,
            source=ip_address("10.1.0.1"),
        ),
        (
            TunnelSet(
                ip_address("192.0.2.1"), ip_address("192.0.2.2"), 100, 6081, ttl=64, checksum=False
            ),
            Redirect(GENEVE),
        ),
        Skip.KERNEL,
        b"overweave",
    ),
    # filter add dev gen0 ingress prio 20 protocol all flower skip_hw enc_key_id 100
    #   enc_src_ip 192.0.2.2 enc_dst_ip 192.0.2.1 enc_dst_port 6081 dst_mac 02:00:00:00:00:01
    #   action tunnel_key unset action mirred egress redirect dev rep0
    (
        "000000000900000000000000f2ffffff000314000b000100666c6f7765720000c800020008001a000000"
        "006408001b00c000020208001c00ffffffff08001d00c000020108001e00ffffffff06002d0017c10000"
        "0a00040002000000000100000a000500ffffffffffff0000740003003c0001000f00010074756e6e656c"
        "5f6b657900002800028005000a00000000001c0002000000000000000000030000000000000000000000"
        "02000000340002000b0001006d6972726564000024000280200002000000000000000000040000000000"
        "00000000000001000000070000000800160001000000"
    ): Filter(
        Slot(GENEVE, 20, 0),
        ETH_P_ALL,
        Match(
            destination_mac="02:00:00:00:00:01",
            tunnel_key=100,
            tunnel_source=ip_address("192.0.2.2"),
            tunnel_target=ip_address("192.0.2.1"),
            tunnel_port=6081,
        ),
        (TunnelUnset(), Redirect(POD)),
        Skip.DEVICE,
    ),
    # filter add dev gen0 ingress prio 21 protocol ipv6 flower enc_key_id 100 enc_src_ip 2001:db8::2
    #   enc_dst_ip 2001:db8::1 enc_dst_port 4789 dst_mac 02:00:00:00:00:01 src_ip fd00::1
    #   ip_ttl 0/0x80 action tunnel_key unset action mirred egress redirect dev rep0
    (
        "000000000900000000000000f2ffffff86dd15000b000100666c6f77657200003801020008001a000000"
        "006414001f0020010db800000000000000000000000214002000ffffffffffffffffffffffffffffffff"
        "1400210020010db800000000000000000000000114002200ffffffffffffffffffffffffffffffff0600"
        "2d0012b500000a00040002000000000100000a000500ffffffffffff000014000e00fd00000000000000"
        "000000000000000114000f00ffffffffffffffffffffffffffffffff05004b000000000005004c008000"
        "0000740003003c0001000f00010074756e6e656c5f6b657900002800028005000a00000000001c000200"
        "000000000000000003000000000000000000000002000000340002000b0001006d697272656400002400"
        "028020000200000000000000000004000000000000000000000001000000070000000800160000000000"
        "0600080086dd0000"
    ): Filter(
        Slot(GENEVE, 21, 0),
        ETH_P_IPV6,
        Match(
            destination_mac="02:00:00:00:00:01",
            ethertype=ETH_P_IPV6,
            source=ip_address("fd00::1"),
            ttl=(0, 0x80),
            tunnel_key=100,
            tunnel_source=ip_address("2001:db8::2"),
            tunnel_target=ip_address("2001:db8::1"),
            tunnel_port=4789,
        ),
        (TunnelUnset(), Redirect(POD)),
    ),
    # filter replace dev rep0 ingress prio 10 protocol ipv6 handle 5 flower action tunnel_key set
    #   id 100 src_ip 2001:db8::1 dst_ip 2001:db8::2 dst_port 4789 tos 4 csum
    #   action mirred egress redirect dev gen0
    (
        "000000000700000005000000f2ffffff86dd0a000b000100666c6f7765720000c8000200b40003007c00"
        "01000f00010074756e6e656c5f6b657900006800028008000700000000641400050020010db800000000"
        "00000000000000011400060020010db80000000000000000000000020600090012b5000005000c000400"
        "000005000a00000000001c00020000000000000000000300000000000000000000000100000034000200"
        "0b0001006d69727265640000240002802000020000000000000000000400000000000000000000000100"
        "00000900000008001600000000000600080086dd0000"
    ): Filter(
        Slot(POD, 10, 5),
        ETH_P_IPV6,
        Match(ethertype=ETH_P_IPV6),
        (
            TunnelSet(ip_address("2001:db8::1"), ip_address("2001:db8::2"), 100, 4789, tos=4),
            Redirect(GENEVE),
        ),
    ),
}


@pytest.mark.parametrize(("said", "meant"), GOLDEN.items(), ids=["out4", "in4", "in6", "out6"])
def test_a_filter_is_written_as_tc_writes_it(said: str, meant: Filter) -> None:
    assert flower.encode(meant).hex() == said


@pytest.mark.parametrize(("said", "meant"), GOLDEN.items(), ids=["out4", "in4", "in6", "out6"])
def test_a_filter_is_read_as_tc_writes_it(said: str, meant: Filter) -> None:
    found = flower.decode(flower.encode(replace(meant, slot=replace(meant.slot, handle=1))))
    assert found is not None
    assert found.filter == replace(meant, slot=replace(meant.slot, handle=1))
    assert (found.in_hardware, found.counts) == (False, Counts())


ADDRESSES = st.one_of(
    st.tuples(st.builds(IPv4Address, U32), st.builds(IPv4Address, U32)),
    st.tuples(st.builds(IPv6Address, U128), st.builds(IPv6Address, U128)),
)
MACS = st.binary(min_size=6, max_size=6).map(lambda each: each.hex(":"))
BYTES, SHORTS = st.integers(0, 0xFF), st.integers(0, 0xFFFF)


@st.composite
def matches(draw: st.DrawFn) -> Match:
    ends = draw(st.none() | ADDRESSES)
    source = draw(st.none() | ADDRESSES)
    return Match(
        destination_mac=draw(st.none() | MACS),
        source_mac=draw(st.none() | MACS),
        ethertype=draw(st.none() | SHORTS),
        source=source[0] if source else None,
        ttl=draw(st.none() | st.tuples(BYTES, BYTES)),
        tunnel_key=draw(st.none() | U32),
        tunnel_source=ends[0] if ends else None,
        tunnel_target=ends[1] if ends else None,
        tunnel_port=draw(st.none() | SHORTS),
        other=tuple(
            sorted(draw(st.dictionaries(st.integers(90, 200), st.binary(max_size=9))).items())
        ),
    )


@st.composite
def tunnels(draw: st.DrawFn) -> TunnelSet:
    source, target = draw(ADDRESSES)
    return TunnelSet(
        source,
        target,
        key=draw(U32),
        port=draw(SHORTS),
        tos=draw(BYTES),
        ttl=draw(BYTES),
        checksum=draw(st.booleans()),
        dont_fragment=draw(st.booleans()),
    )


DOING = st.one_of(tunnels(), st.builds(Redirect, U32), st.just(TunnelUnset()))
FILTERS = st.builds(
    Filter,
    slot=st.builds(Slot, st.integers(1, 2**31 - 1), SHORTS, st.integers(1, 2**32 - 1)),
    protocol=SHORTS,
    match=matches(),
    actions=st.lists(DOING, min_size=1, max_size=4).map(tuple),
    skip=st.sampled_from(Skip),
    cookie=st.binary(max_size=16),
)


@given(FILTERS)
def test_what_is_read_is_what_was_written(written: Filter) -> None:
    found = flower.decode(flower.encode(written))
    assert found is not None
    assert found.filter == written


@given(FILTERS, st.data())
def test_damage_is_a_value_error_or_another_filter(written: Filter, data: st.DataObject) -> None:
    body = bytearray(flower.encode(written))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(BYTES)
    cut = bytes(body[: data.draw(st.integers(0, len(body)))])
    with suppress(ValueError, struct.error):
        flower.decode(cut)


def test_a_mask_that_is_not_whole_has_no_word_and_is_kept() -> None:
    options = attribute(4, bytes(6)) + attribute(5, b"\xff" * 5 + b"\0") + attribute(22, bytes(4))
    found = flower.decode(told(options))
    assert found is not None
    assert found.filter.match == Match(other=((4, bytes(6)), (5, b"\xff" * 5 + b"\0")))
    assert flower.encode(found.filter) != flower.encode(replace(found.filter, match=Match()))


def told(options: bytes, handle: int = 1) -> bytes:
    """Return a filter as a list has it, with these options."""
    head = struct.pack("=BxxxiIII", 0, POD, handle, 0xFFFFFFF2, 10 << 16 | 0x0300)
    return head + attribute(1, b"flower\0") + attribute(2, options)


@pytest.mark.parametrize(
    ("flags", "in_hardware"), [(0, False), (1 | 8, False), (2 | 4, True), (4, True), (8, False)]
)
def test_it_says_whether_the_device_has_it(flags: int, in_hardware: bool) -> None:
    found = flower.decode(told(attribute(22, struct.pack("=I", flags))))
    assert found is not None
    assert found.in_hardware == in_hardware
    assert found.filter.skip == Skip(flags & 3)


def test_counters_are_those_of_the_first_action() -> None:
    def counted(place: int, packets: int) -> bytes:
        basic = attribute(1, struct.pack("=QI4x", 100 * packets, packets))
        return attribute(place, parms("mirred", 4, 1, GENEVE) + attribute(4, basic))

    options = attribute(3, counted(1, 7) + counted(2, 3)) + attribute(22, bytes(4))
    found = flower.decode(told(options))
    assert found is not None
    assert found.counts == Counts(7, 700)
    assert found.filter.actions == (Redirect(GENEVE), Redirect(GENEVE))


def parms(kind: str, verdict: int, *more: int) -> bytes:
    options = attribute(
        2, struct.pack("=IIiii", 0, 0, verdict, 0, 0) + struct.pack(f"={len(more)}i", *more)
    )
    return attribute(1, kind.encode() + b"\0") + attribute(2, options)


@pytest.mark.parametrize(
    "action",
    [
        pytest.param(parms("gact", 0), id="ok"),
        pytest.param(parms("gact", 2), id="a drop"),
        pytest.param(parms("mirred", 3, 2, 7), id="a mirror"),
        pytest.param(parms("mirred", 4, 3, 7), id="a redirect to ingress"),
        pytest.param(parms("mirred", 3, 1, 7), id="a redirect that goes on"),
        pytest.param(parms("tunnel_key", 3, 1), id="a tunnel without ends"),
        pytest.param(parms("tunnel_key", 2, 2), id="a drop after unset"),
        pytest.param(parms("vlan", 3, 1), id="a tag that is taken off"),
        pytest.param(parms("pedit", 3), id="another kind"),
        pytest.param(
            attribute(1, b"police\0") + attribute(2, attribute(1, bytes(56))), id="police"
        ),
        pytest.param(attribute(1, b"other\0") + attribute(2, attribute(2, bytes(7))), id="short"),
        pytest.param(
            attribute(1, b"other\0") + attribute(2, attribute(2, bytes(21))), id="shorter"
        ),
    ],
)
def test_an_action_without_word_is_none_of_ours(action: bytes) -> None:
    options = attribute(3, attribute(1, action)) + attribute(22, bytes(4))
    found = flower.decode(told(options))
    assert found is not None
    (unread,) = found.filter.actions
    assert isinstance(unread, Unread)
    with pytest.raises(ValueError, match=unread.kind):
        flower.encode(found.filter)


def test_a_tunnel_with_options_has_no_word() -> None:
    given_ = TunnelSet(ip_address("192.0.2.1"), ip_address("192.0.2.2"), 1, 6081)
    (written,) = actions.decode(actions.encode((given_,), b""))
    assert written.action == given_
    body = attribute_map(attribute_map(actions.encode((given_,), b""))[1])
    geneve = attribute(11, attribute(1, b""))
    again = attribute(1, body[1]) + attribute(2, body[2] + geneve)
    (other,) = actions.decode(attribute(1, again))
    assert isinstance(other.action, Unread)


def test_a_cookie_has_sixteen_bytes_at_most() -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        actions.encode((TunnelUnset(),), bytes(17))


def test_what_stands_before_the_filters_of_a_preference_is_none() -> None:
    assert flower.decode(told(b"", handle=0)) is None
    bpf = struct.pack("=BxxxiIII", 0, POD, 1, 0xFFFFFFF2, 100 << 16 | 0x0300) + attribute(
        1, b"bpf\0"
    )
    assert flower.decode(bpf) is None


# --- the netdevs of a switch ---------------------------------------------------------------------


def link(*attributes: bytes) -> bytes:
    return struct.pack("=BxHiII", 0, 1, 7, 0, 0) + attribute(3, b"rep0\0") + b"".join(attributes)


@pytest.mark.parametrize(
    ("told_", "meant"),
    [
        pytest.param([], SwitchNetdev(7, "rep0"), id="any"),
        pytest.param(
            [attribute(36, b"\x01\xab"), attribute(38, b"pf0vf3\0")],
            SwitchNetdev(7, "rep0", switch="01ab", port="pf0vf3"),
            id="a representor",
        ),
        *(
            pytest.param(
                [attribute(18, attribute(1, kind) + attribute(2, attribute(at, b"\x17\xc1")))],
                SwitchNetdev(7, "rep0", kind.decode(), udp_port=6081),
                id=kind.decode(),
            )
            for kind, at in ((b"geneve", 5), (b"vxlan", 15))
        ),
        pytest.param(
            [attribute(18, attribute(1, b"veth\0") + attribute(2, attribute(5, b"\x17\xc1")))],
            SwitchNetdev(7, "rep0", "veth"),
            id="another kind",
        ),
    ],
)
def test_a_netdev_is_what_its_switch_says(told_: list[bytes], meant: SwitchNetdev) -> None:
    assert switchdev.decode(link(*told_)) == meant
