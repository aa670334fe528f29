"""What a frame becomes and where it leaves, from datapath actions as ofproto/trace prints. Pure.

Only what our flows can lead to is understood; anything else is an error, never a guess.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from types import MappingProxyType

from dataplane.core.errors import OverweaveError
from dataplane.core.frames import (
    ETHERNET,
    ICMP,
    ICMPV6,
    Ip,
    TunnelPacket,
    checksum,
    mac_bytes,
    tagged,
)
from dataplane.core.model import Encap, Vni
from dataplane.core.path import Tunnel

_CALL = re.compile(r"(\w+)\((.*)\)")
_IPV4 = r"ipv4\(src=(?P<s4>[^,]+),dst=(?P<t4>[^,]+),proto=17,tos=(?P<tos>\w+),ttl=(?P<ttl>\d+),frag=(?P<frag>\w+)\)"  # noqa: E501  # one line as printed
_IPV6 = r"ipv6\(src=(?P<s6>[^,]+),dst=(?P<t6>[^,]+),label=\w+,proto=17,tclass=(?P<tclass>\w+),hlimit=(?P<hlimit>\d+)\)"  # noqa: E501  # as above
_PUSH = re.compile(
    rf"tnl_port\(\d+\),header\(size=\d+,type=\d+,eth\([^)]*\),(?:{_IPV4}|{_IPV6}),"
    r"udp\(src=\d+,dst=(?P<port>\d+),csum=\w+\),"
    r"(?:(?P<encap>geneve)\(vni=(?P<g>\w+)\)|vxlan\(flags=0x8000000,vni=(?P<v>\w+)\))\),"
    r"out_port\(\d+\)"
)
_KEY = re.compile(  # what the kernel is told of the outer headers of what leaves next
    r"tunnel\(tun_id=(?P<vni>\w+),(?:ipv6_)?src=(?P<source>[^,]+),(?:ipv6_)?dst=(?P<target>[^,]+),"
    r"(?:tos=(?P<tos>\w+),)?ttl=(?P<ttl>\d+),tp_dst=(?P<port>\d+),flags\((?P<flags>[\w|]*)\)\)"
)
_TAG = re.compile(r"push_vlan\(vid=(\d+),pcp=0\)")
_DONT_FRAGMENT = 0x4000
_PROTOCOL, _ENDS4 = 9, {"src": 12, "dst": 16}  # RFC 791 section 3.1
_ENDS6 = {"src": 8, "dst": 24}  # RFC 8200 section 3
_ICMP_AT, _OPTION_AT = ETHERNET + 40, ETHERNET + 40 + 24  # RFC 4861 section 4.3


class UnknownActionError(OverweaveError):
    """Open vSwitch does something that is not understood here; the text names it."""


@dataclass(frozen=True, slots=True)
class Output:
    """A frame that leaves by a port of the datapath, in a tunnel or not."""

    port: str
    frame: bytes
    packet: TunnelPacket | None = None


def performed(
    actions: str, frame: bytes, tunnels: Mapping[str, Encap] = MappingProxyType({})
) -> tuple[Output, ...]:
    """Return what leaves, in order, when ``actions`` are done with ``frame``; none: it is dropped.

    ``tunnels`` are the ports behind which the kernel encapsulates. Raises UnknownActionError.
    """
    return tuple(_perform(actions, frame, tunnels)) if actions != "drop" else ()


def _perform(actions: str, frame: bytes, tunnels: Mapping[str, Encap]) -> Iterator[Output]:
    packet: TunnelPacket | None = None
    key: re.Match[str] | None = None
    for word in _words(actions):
        call = _CALL.fullmatch(word)
        if word in tunnels:
            yield Output(word, frame, _keyed(key, tunnels[word], frame))
        elif word.isdecimal():
            yield Output(word, frame, packet)
        elif call is None:
            frame = _rewritten(word, frame)
        elif call[1] == "clone":
            yield from _perform(call[2], frame, tunnels)
        elif call[1] == "tnl_push":
            packet = _pushed(call[2], frame)
        elif call[1] == "set" and call[2].startswith("tunnel("):
            key = _tunnel_key(call[2])
        elif call[1] == "set":
            frame = _changed(call[2], frame)
        else:
            frame = _rewritten(word, frame)


def _rewritten(word: str, frame: bytes) -> bytes:
    if word == "pop_vlan":
        return frame[:12] + frame[16:]
    if tag := _TAG.fullmatch(word):
        return tagged(frame, int(tag[1]))
    raise UnknownActionError(f"datapath action {word} is not understood")


def _pushed(header: str, frame: bytes) -> TunnelPacket:
    found = _PUSH.fullmatch(header)
    if found is None:
        raise UnknownActionError(f"tunnel header {header} is not understood")
    encap = Encap.GENEVE if found["encap"] else Encap.VXLAN
    vni = Vni(int(found["g"] or found["v"], 0))
    source, target = (ip_address(found[f"{end}4"] or found[f"{end}6"]) for end in "st")
    tunnel = Tunnel(encap, vni, source, target, int(found["port"]))
    if found["s4"]:
        df = bool(int(found["frag"], 0) & _DONT_FRAGMENT)
        return TunnelPacket(tunnel, frame, df, int(found["ttl"]), int(found["tos"], 0) & 3)
    return TunnelPacket(tunnel, frame, None, int(found["hlimit"]), int(found["tclass"], 0) & 3)


def _tunnel_key(text: str) -> re.Match[str]:
    found = _KEY.fullmatch(text)
    if found is None:
        raise UnknownActionError(f"datapath action set({text}) is not understood")
    return found


def _keyed(key: re.Match[str] | None, encap: Encap, frame: bytes) -> TunnelPacket:
    """Return what the kernel makes of ``frame`` by the tunnel key that was set last."""
    if key is None:
        raise UnknownActionError("output to a tunnel without a key is not understood")
    source, target = (ip_address(key[end]) for end in ("source", "target"))
    tunnel = Tunnel(encap, Vni(int(key["vni"], 0)), source, target, int(key["port"]))
    df = "df" in key["flags"].split("|") if source.version == 4 else None
    return TunnelPacket(tunnel, frame, df, int(key["ttl"]), int(key["tos"] or "0", 0) & 3)


def _changed(what: str, frame: bytes) -> bytes:
    call = _CALL.fullmatch(what)
    change = _CHANGES.get(call[1]) if call else None
    if call is None or change is None:
        raise UnknownActionError(f"datapath action set({what}) is not understood")
    try:
        fields = dict(_assigned(word) for word in _words(call[2]))
        return change(fields, frame)
    except (ValueError, LookupError) as error:
        raise UnknownActionError(f"datapath action set({what}): {error}") from error


def _words(text: str) -> Iterator[str]:
    """Yield what stands between the commas that are in no parentheses."""
    depth, word = 0, ""
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter == "," and depth == 0:
            yield word
            word = ""
        else:
            word += letter
    yield word


def _assigned(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals:
        raise ValueError(f"{word} is not understood")
    return name, value


def _put(frame: bytes, at: int, data: bytes) -> bytes:
    return frame[:at] + data + frame[at + len(data) :]


def _set_eth(fields: Mapping[str, str], frame: bytes) -> bytes:
    places = {"dst": 0, "src": 6}
    for name, value in fields.items():
        frame = _put(frame, _place(places, name), mac_bytes(value))
    return frame


def _set_arp(fields: Mapping[str, str], frame: bytes) -> bytes:
    places = {"op": 6, "sha": 8, "sip": 14, "tha": 18, "tip": 24}  # RFC 826
    for name, value in fields.items():
        if name == "op":
            data = int(value, 0).to_bytes(2, "big")
        else:
            data = mac_bytes(value) if name in ("sha", "tha") else ip_address(value).packed
        frame = _put(frame, ETHERNET + _place(places, name), data)
    return frame


def _set_ipv4(fields: Mapping[str, str], frame: bytes) -> bytes:
    head = bytearray(frame[ETHERNET : ETHERNET + 4 * (frame[ETHERNET] & 0xF)])
    for name, text in fields.items():
        if name in _ENDS4:
            at = _ENDS4[name]
            if head[_PROTOCOL] != ICMP:
                raise ValueError(f"{name}, and so the checksum of more than ICMP, is set")
            head[at : at + 4] = ip_address(text).packed
        else:
            at = _place({"tos": 1, "ttl": 8}, name)
            value, mask = _masked(text)
            head[at] = head[at] & ~mask & 0xFF | value & mask
    head[10:12] = bytes(2)
    head[10:12] = checksum(bytes(head)).to_bytes(2, "big")
    return _put(frame, ETHERNET, bytes(head))


def _set_ipv6(fields: Mapping[str, str], frame: bytes) -> bytes:
    for name, text in fields.items():
        if name in _ENDS6:
            frame = _put(frame, ETHERNET + _ENDS6[name], ip_address(text).packed)
            continue
        at, size, shift = {"tclass": (0, 4, 20), "hlimit": (7, 1, 0)}[name]
        value, mask = _masked(text)
        old = int.from_bytes(frame[ETHERNET + at : ETHERNET + at + size], "big")
        new = old & ~(mask << shift) | (value & mask) << shift
        frame = _put(frame, ETHERNET + at, new.to_bytes(size, "big"))
    return frame


def _set_nd(fields: Mapping[str, str], frame: bytes) -> bytes:
    places = {"target": _ICMP_AT + 8, "sll": _OPTION_AT + 2, "tll": _OPTION_AT + 2}
    for name, value in fields.items():
        data = ip_address(value).packed if name == "target" else mac_bytes(value)
        frame = _put(frame, _place(places, name), data)
    return _summed(frame)


def _set_nd_ext(fields: Mapping[str, str], frame: bytes) -> bytes:
    places = {"nd_reserved": (_ICMP_AT + 4, 4), "nd_options_type": (_OPTION_AT, 1)}
    for name, value in fields.items():
        at, size = places[name] if name in places else (_place({}, name), 0)
        frame = _put(frame, at, int(value, 0).to_bytes(size, "big"))
    return _summed(frame)


def _set_icmp(fields: Mapping[str, str], frame: bytes) -> bytes:
    """Set type and code; the checksum follows (RFC 792, over the message alone)."""
    at = ETHERNET + 4 * (frame[ETHERNET] & 0xF)
    end = ETHERNET + int.from_bytes(frame[ETHERNET + 2 : ETHERNET + 4], "big")
    message = bytearray(frame[at:end])
    for name, value in fields.items():
        message[_place({"type": 0, "code": 1}, name)] = int(value, 0)
    message[2:4] = bytes(2)
    message[2:4] = checksum(bytes(message)).to_bytes(2, "big")
    return _put(frame, at, bytes(message))


def _set_icmpv6(fields: Mapping[str, str], frame: bytes) -> bytes:
    places = {"type": _ICMP_AT, "code": _ICMP_AT + 1}
    for name, value in fields.items():
        frame = _put(frame, _place(places, name), bytes([int(value, 0)]))
    return _summed(frame)


def _place(places: Mapping[str, int], name: str) -> int:
    if name not in places:
        raise ValueError(f"field {name} is not understood")
    return places[name]


def _masked(text: str) -> tuple[int, int]:
    """Return value and mask of the byte that is set."""
    value, _, mask = text.partition("/")
    return int(value, 0), int(mask or "0xff", 0)


def _summed(frame: bytes) -> bytes:
    """Return an ICMPv6 message with its checksum, and what stands behind it."""
    length = int.from_bytes(frame[ETHERNET + 4 : ETHERNET + 6], "big")
    source, target = (ip_address(frame[at : at + 16]) for at in (ETHERNET + 8, ETHERNET + 24))
    blank = _put(frame[_ICMP_AT : _ICMP_AT + length], 2, bytes(2))
    message = Ip(source, target, ICMPV6).summed(blank, 2)
    return _put(frame, _ICMP_AT, message)


_CHANGES: Mapping[str, Callable[[Mapping[str, str], bytes], bytes]] = {
    "eth": _set_eth,
    "arp": _set_arp,
    "ipv4": _set_ipv4,
    "ipv6": _set_ipv6,
    "nd": _set_nd,
    "nd_ext": _set_nd_ext,
    "icmp": _set_icmp,
    "icmpv6": _set_icmpv6,
}
