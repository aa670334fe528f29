"""Requests that an SX904's kernel or its driver refuses: what, with which number and words."""

from __future__ import annotations

import errno
import struct

from tests.unit.rtnl_by_hand import (
    ACK,
    ALL,
    CLSACT,
    DELQDISC,
    DELTFILTER,
    DUMP,
    GETLINK,
    GETTFILTER,
    INGRESS,
    IPV4,
    NEW,
    NEWQDISC,
    NEWTFILTER,
    REQUEST,
    SKIP_SW,
    action,
    actions,
    attr,
    clsact,
    flags,
    gact,
    generic,
    keys,
    message,
    mirred,
    new_filter,
    one_filter,
    tcm,
    tunnel_release,
    tunnel_set,
)
from tests.unit.sx904_card import (
    GENEVE_DEVICE,
    NOBODY,
    REP0,
    REP1,
    UPLINK,
    VXLAN_DEVICE,
)

A, B, C = "02:00:00:00:00:01", "02:00:00:00:00:02", "02:00:00:00:00:03"
SET = tunnel_set("192.0.2.1", "192.0.2.77", 100)
TO_REP1, TO_GENEVE = mirred(REP1), mirred(GENEVE_DEVICE)
SHOT, OK, PIPE, TRAP = 2, 0, 3, 8
HARD = flags(SKIP_SW)
MATCH = keys(eth_dst=B)
LOCAL = MATCH + actions(TO_REP1) + HARD
OUT = MATCH + actions(SET, TO_GENEVE) + HARD
IN = keys(enc_key_id=100, eth_dst=A) + actions(tunnel_release(), mirred(REP0)) + HARD
POLICY = "Attribute failed policy validation"
NESTED = "Failed to parse nested tunnel key attributes"
KEY, ACTION = "ice: Unsupported key used", "ice: Unsupported action in switchdev mode"
NETDEVICE = "ice: Unsupported netdevice in switchdev mode"
NO_FIELDS = "ice: Unsupported encap field(s)"
NOT_FOUND = "Filter with specified priority/protocol not found"


def local(*more: bytes, match: bytes = MATCH) -> bytes:
    return match + actions(TO_REP1) + HARD + b"".join(more)


def done(*each: bytes) -> bytes:
    return MATCH + actions(*each) + HARD


def parms(size: int) -> bytes:
    return attr(2, bytes(size))


def filter_message(info: int, *attributes: bytes, ifindex: int = REP0, how: int = NEW) -> bytes:
    return message(NEWTFILTER, how, tcm(ifindex, 0, INGRESS, info) + b"".join(attributes))


FLOWER, INFO = attr(1, b"flower\0"), 10 << 16 | ALL

Refused = tuple[str, bytes, int, str]
"""What it is, the request, the error number and the words."""

BY_THE_KERNEL: list[Refused] = [
    (
        "header cut short",
        message(NEWTFILTER, NEW, b"\0" * 8),
        errno.EINVAL,
        "Invalid header length",
    ),
    ("no such netdev", new_filter(NOBODY, LOCAL), errno.ENODEV, ""),
    ("no clsact there", new_filter(UPLINK, LOCAL), errno.EINVAL, "Parent Qdisc doesn't exists"),
    (
        "at the egress",
        message(NEWTFILTER, NEW, tcm(REP0, 0, 0xFFFFFFF3, INFO) + FLOWER + attr(2, LOCAL)),
        errno.EOPNOTSUPP,
        "",
    ),
    (
        "at another class",
        message(NEWTFILTER, NEW, tcm(REP0, 0, 0xFFFF0007, INFO) + FLOWER + attr(2, LOCAL)),
        errno.ENOENT,
        "Specified class doesn't exist",
    ),
    ("an empty kind", filter_message(INFO, attr(1, b""), attr(2, LOCAL)), errno.ERANGE, POLICY),
    ("a class of one byte", new_filter(REP0, attr(1, b"\1")), errno.ERANGE, ""),
    (
        "an action whose name is too long",
        new_filter(REP0, done(action("x" * 16, b""))),
        errno.EINVAL,
        "TC action name too long",
    ),
    (
        "an action that ends in nothing",
        new_filter(REP0, done(gact(9))),
        errno.EINVAL,
        "invalid control action",
    ),
    (
        "at another parent",
        message(NEWTFILTER, NEW, tcm(REP0, 0, 0x10000, INFO) + FLOWER + attr(2, LOCAL)),
        errno.EINVAL,
        "Parent Qdisc doesn't exists",
    ),
    (
        "in a chain",
        filter_message(INFO, FLOWER, attr(2, LOCAL), attr(11, b"\1\0\0\0")),
        errno.EOPNOTSUPP,
        "Chain not supported",
    ),
    ("a chain of two bytes", filter_message(INFO, FLOWER, attr(11, b"\1\0")), errno.ERANGE, POLICY),
    (
        "no kind",
        filter_message(INFO, attr(2, LOCAL)),
        errno.EINVAL,
        "Filter kind and protocol must be specified",
    ),
    (
        "no protocol",
        filter_message(10 << 16, FLOWER, attr(2, LOCAL)),
        errno.EINVAL,
        "Filter kind and protocol must be specified",
    ),
    (
        "a kind that is too long",
        filter_message(INFO, attr(1, b"x" * 20), attr(2, LOCAL)),
        errno.EINVAL,
        "Specified TC filter name too long",
    ),
    (
        "another kind",
        filter_message(INFO, attr(1, b"u32\0"), attr(2, LOCAL)),
        errno.ENOENT,
        "TC classifier not found",
    ),
    ("no options", filter_message(INFO, FLOWER), errno.EINVAL, ""),
    (
        "nothing to change",
        new_filter(REP0, LOCAL, how=REQUEST | ACK),
        errno.ENOENT,
        "Need both RTM_NEWTFILTER and NLM_F_CREATE to create a new filter",
    ),
    (
        "pref 0 and nothing to change",
        new_filter(REP0, LOCAL, pref=0, how=REQUEST | ACK),
        errno.ENOENT,
        "Invalid filter command with priority of zero",
    ),
    ("skip_hw and skip_sw", new_filter(REP0, MATCH + flags(3)), errno.EINVAL, ""),
    ("an unknown flag", new_filter(REP0, MATCH + flags(0x80)), errno.EINVAL, ""),
    ("flags of two bytes", new_filter(REP0, attr(22, b"\2\0")), errno.ERANGE, ""),
    ("a MAC of five bytes", new_filter(REP0, attr(4, bytes(5)) + HARD), errno.ERANGE, ""),
    ("an IPv6 address of four", new_filter(REP0, attr(14, bytes(4))), errno.ERANGE, ""),
    ("an IPv4 mask of two", new_filter(REP0, attr(11, bytes(2))), errno.ERANGE, ""),
    (
        "an action of no kind",
        new_filter(REP0, done(attr(2, b""))),
        errno.EINVAL,
        "TC action kind must be specified",
    ),
    (
        "an unknown action",
        new_filter(REP0, done(action("teleport", b""))),
        errno.ENOENT,
        "Failed to load TC action module",
    ),
    ("gact without parameters", new_filter(REP0, done(action("gact", b""))), errno.EINVAL, ""),
    (
        "gact with few parameters",
        new_filter(REP0, done(action("gact", parms(8)))),
        errno.ERANGE,
        "",
    ),
    (
        "mirred without options",
        new_filter(REP0, done(attr(1, b"mirred\0"))),
        errno.EINVAL,
        "act_mirred: Mirred requires attributes to be passed",
    ),
    (
        "mirred without parameters",
        new_filter(REP0, done(action("mirred", b""))),
        errno.EINVAL,
        "act_mirred: Missing required mirred parameters",
    ),
    (
        "mirred with few parameters",
        new_filter(REP0, done(action("mirred", parms(20)))),
        errno.ERANGE,
        POLICY,
    ),
    (
        "mirred of an unknown way",
        new_filter(REP0, done(mirred(REP1, how=9))),
        errno.EINVAL,
        "act_mirred: Unknown mirred option",
    ),
    (
        "mirred to netdev 0",
        new_filter(REP0, done(mirred(0))),
        errno.EINVAL,
        "act_mirred: Specified device does not exist",
    ),
    ("mirred to nobody", new_filter(REP0, done(mirred(NOBODY))), errno.ENODEV, ""),
    (
        "tunnel_key without options",
        new_filter(REP0, done(attr(1, b"tunnel_key\0"))),
        errno.EINVAL,
        "Tunnel requires attributes to be passed",
    ),
    (
        "tunnel_key without parameters",
        new_filter(REP0, done(action("tunnel_key", b""))),
        errno.EINVAL,
        "Missing tunnel key parameters",
    ),
    (
        "tunnel_key of an unknown way",
        new_filter(REP0, done(action("tunnel_key", attr(2, generic(3) + b"\7\0\0\0")))),
        errno.EINVAL,
        "Unknown tunnel key action",
    ),
    (
        "tunnel_key without addresses",
        new_filter(REP0, done(action("tunnel_key", attr(2, generic(3) + b"\1\0\0\0")))),
        errno.EINVAL,
        "Missing either ipv4 or ipv6 src and dst",
    ),
    (
        "tunnel_key with half an address",
        new_filter(
            REP0, done(action("tunnel_key", attr(2, generic(3) + b"\1\0\0\0") + attr(3, b"\1\2")))
        ),
        errno.ERANGE,
        NESTED,
    ),
    (
        "tunnel_key with one address of each family",
        new_filter(
            REP0,
            done(
                action(
                    "tunnel_key",
                    attr(2, generic(3) + b"\1\0\0\0") + attr(3, bytes(4)) + attr(6, bytes(16)),
                )
            ),
        ),
        errno.EINVAL,
        "Missing either ipv4 or ipv6 src and dst",
    ),
    (
        "no_frag with a value",
        new_filter(
            REP0,
            done(action("tunnel_key", attr(2, generic(3) + b"\1\0\0\0") + attr(14, b"\1"))),
        ),
        errno.ERANGE,
        NESTED,
    ),
    (
        "a cookie of 17 bytes",
        new_filter(REP0, done(attr(1, b"gact\0") + attr(6, bytes(17)))),
        errno.ERANGE,
        POLICY,
    ),
    ("clsact again", clsact(REP0), errno.EEXIST, "Exclusivity flag on, cannot modify"),
    ("clsact at nobody", clsact(NOBODY), errno.ENODEV, ""),
    (
        "another qdisc",
        message(NEWQDISC, NEW, tcm(UPLINK, 0xFFFF0000, CLSACT) + attr(1, b"fq\0")),
        errno.ENOENT,
        "Specified qdisc kind is unknown",
    ),
    (
        "a qdisc elsewhere",
        message(NEWQDISC, NEW, tcm(UPLINK, 0, 0xFFFFFFFF) + attr(1, b"clsact\0")),
        errno.EOPNOTSUPP,
        "",
    ),
    (
        "no qdisc to change",
        clsact(UPLINK, how=REQUEST | ACK),
        errno.ENOENT,
        "Qdisc not found. To create specify NLM_F_CREATE flag",
    ),
    (
        "no clsact to delete",
        clsact(UPLINK, DELQDISC, REQUEST | ACK),
        errno.EINVAL,
        "Invalid handle",
    ),
    (
        "no filter at all to delete",
        one_filter(DELTFILTER, REP1, 10),
        errno.ENOENT,
        "Cannot find specified filter chain",
    ),
    ("no such pref to delete", one_filter(DELTFILTER, REP0, 11), errno.ENOENT, NOT_FOUND),
    (
        "no such handle to delete",
        one_filter(DELTFILTER, REP0, 5, 77),
        errno.ENOENT,
        "Specified filter handle not found",
    ),
    (
        "a pref of another protocol",
        one_filter(DELTFILTER, REP0, 5, protocol=IPV4),
        errno.EINVAL,
        NOT_FOUND,
    ),
    (
        "a flush of one handle",
        one_filter(DELTFILTER, REP0, 0, 1),
        errno.ENOENT,
        "Cannot flush filters with protocol, handle or kind set",
    ),
    (
        "pref 0 to show",
        one_filter(GETTFILTER, REP0, 0),
        errno.ENOENT,
        "Invalid filter command with priority of zero",
    ),
    (
        "no filter at all to show",
        one_filter(GETTFILTER, REP1, 5, 1),
        errno.EINVAL,
        "Cannot find specified filter chain",
    ),
    (
        "no such handle to show",
        one_filter(GETTFILTER, REP0, 5, 77),
        errno.ENOENT,
        "Specified filter handle not found",
    ),
    (
        "a netdev that is not there",
        message(GETLINK, REQUEST, struct.pack("=BxHiII", 0, 0, NOBODY, 0, 0)),
        errno.ENODEV,
        "",
    ),
    ("a netdev of no name", message(GETLINK, REQUEST, bytes(16)), errno.EINVAL, ""),
    (
        "half a netdev",
        message(GETLINK, REQUEST, bytes(8)),
        errno.EINVAL,
        "Invalid header for get link",
    ),
    ("a request for routes", message(26, REQUEST, bytes(12)), errno.EOPNOTSUPP, ""),
    ("a dump of routes", message(26, REQUEST | DUMP, bytes(12)), errno.EOPNOTSUPP, ""),
    ("an unknown request", message(99, REQUEST, bytes(12)), errno.EOPNOTSUPP, ""),
]
BY_THE_DRIVER: list[Refused] = [
    ("no key", new_filter(REP0, local(match=b"")), errno.EOPNOTSUPP, NO_FIELDS),
    (
        "keys of zeros",
        new_filter(REP0, local(match=keys(eth_dst=bytes(6)))),
        errno.EOPNOTSUPP,
        NO_FIELDS,
    ),
    ("a VLAN", new_filter(REP0, local(keys(vlan_id=5))), errno.EOPNOTSUPP, KEY),
    ("fragments", new_filter(REP0, local(keys(flags=(1, 1)))), errno.EOPNOTSUPP, KEY),
    ("ARP", new_filter(REP0, local(keys(eth_type=0x806, arp_op=(1, 255)))), errno.EOPNOTSUPP, KEY),
    (
        "an outer TTL",
        new_filter(GENEVE_DEVICE, local(keys(enc_ip_ttl=(1, 255)))),
        errno.EOPNOTSUPP,
        KEY,
    ),
    (
        "SCTP",
        new_filter(REP0, local(keys(eth_type=0x800, ip_proto=132, sctp_dst=5))),
        errno.EINVAL,
        "ice: Only UDP and TCP transport are supported",
    ),
    (
        "a tunnel's key at a representor",
        new_filter(REP0, local(keys(enc_key_id=5))),
        errno.EOPNOTSUPP,
        "ice: Tunnel key used, but device isn't a tunnel",
    ),
    (
        "an outer source port",
        new_filter(GENEVE_DEVICE, local(keys(enc_udp_src_port=5))),
        errno.EOPNOTSUPP,
        NO_FIELDS,
    ),
    (
        "the loopback's address",
        new_filter(REP0, local(keys(eth_type=0x86DD, ipv6_src="::1"))),
        errno.EINVAL,
        "ice: Bad IPv6, addr is LOOPBACK",
    ),
    ("no action", new_filter(REP0, MATCH + HARD), errno.EINVAL, ""),
    (
        "only a gap before an action",
        new_filter(REP0, MATCH + attr(3, attr(2, TO_REP1)) + HARD),
        errno.EINVAL,
        "",
    ),
    ("pass", new_filter(REP0, done(gact(OK))), errno.EINVAL, ACTION),
    ("pipe", new_filter(REP0, done(gact(PIPE), TO_REP1)), errno.EINVAL, ACTION),
    ("trap", new_filter(REP0, done(gact(TRAP))), errno.EINVAL, ACTION),
    (
        "a VLAN pushed",
        new_filter(REP0, done(action("vlan", parms(24)), TO_REP1)),
        errno.EINVAL,
        ACTION,
    ),
    ("a mirror", new_filter(REP0, done(mirred(REP1, how=2))), errno.EINVAL, ACTION),
    ("two redirects", new_filter(REP0, done(TO_REP1, mirred(REP0))), errno.EINVAL, ACTION),
    ("to the uplink", new_filter(REP0, done(mirred(UPLINK))), errno.EINVAL, NETDEVICE),
    ("to a tunnel without header", new_filter(REP0, done(TO_GENEVE)), errno.EINVAL, NETDEVICE),
    ("a header for a VF", new_filter(REP0, done(SET, TO_REP1)), errno.EINVAL, NETDEVICE),
    (
        "from tunnel to tunnel",
        new_filter(GENEVE_DEVICE, done(tunnel_release(), mirred(VXLAN_DEVICE))),
        errno.EINVAL,
        NETDEVICE,
    ),
    (
        "a header on what comes in",
        new_filter(GENEVE_DEVICE, done(SET, TO_REP1)),
        errno.EINVAL,
        ACTION,
    ),
    (
        "a header off what a VF sends",
        new_filter(REP0, done(tunnel_release(), TO_REP1)),
        errno.EINVAL,
        ACTION,
    ),
    ("a header and no way", new_filter(REP0, done(SET)), errno.EINVAL, ACTION),
]
THERE = new_filter(REP0, keys(eth_dst=C) + actions(gact(SHOT)) + HARD, pref=5)
