"""What the NIC's driver takes and refuses, with its words (section 3 of the page). Pure."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass

from vendors.emulator.packets import Encap
from vendors.emulator.sx904.actions import (
    EGRESS_REDIRECT,
    SHOT,
    Action,
    Gact,
    Mirred,
    TunnelRelease,
    TunnelSet,
)
from vendors.emulator.sx904.flower import SCTP_KEYS, Flower, Key, Part
from vendors.emulator.sx904.links import Kind, Link, Links
from vendors.emulator.sx904.netlink import Refusal

_LOOPBACK = 1  # ::1
_ETH_P_ALL = 3
_VNI_MASK = 0xFFFFFF
_ENC = frozenset(key for key in Key if key.name.startswith("ENC_"))
_NOT_LOOKED_AT = frozenset({Key.IP_PROTO, Key.ENC_UDP_DST_PORT})
# Of these a value of 0 is left out of the match, whatever its mask.
_ZERO_IS_NONE = frozenset(
    {Key.ETH_DST, Key.ETH_SRC, Key.ETH_TYPE, Key.IPV4_SRC, Key.IPV4_DST}
    | {Key.ENC_IPV4_SRC, Key.ENC_IPV4_DST}
    | {Key.TCP_SRC, Key.TCP_DST, Key.UDP_SRC, Key.UDP_DST}
)
_IPV6 = frozenset({Key.IPV6_SRC, Key.IPV6_DST, Key.ENC_IPV6_SRC, Key.ENC_IPV6_DST})


@dataclass(frozen=True, slots=True)
class Deliver:
    """Out at a port, without outer headers if ``bare``."""

    port: str
    bare: bool = False


@dataclass(frozen=True, slots=True)
class Encapsulate:
    """Out at the wire with this around it; ``port`` is the UDP destination."""

    encap: Encap
    header: TunnelSet
    port: int


@dataclass(frozen=True, slots=True)
class Drop:
    """Nowhere."""


Verdict = Deliver | Encapsulate | Drop


@dataclass(frozen=True, slots=True)
class Rule:
    """A filter as the device has it, at the netdev ``ifindex``."""

    ifindex: int
    match: tuple[Part, ...]
    verdict: Verdict


def rule_of(flower: Flower, at: Link, links: Links, *, tunnels: bool) -> Rule:
    """Return what the device is told for a filter at a netdev. Raises Refusal, in ice's words."""
    if at.kind is Kind.UPLINK:
        raise _refusal(errno.EOPNOTSUPP, "Unsupported netdevice in switchdev mode")
    match = tuple(_match(flower, at, links))
    verdict = _verdict(flower.actions, at, links, tunnels=tunnels)
    if not match:
        raise _refusal(errno.EOPNOTSUPP, "Unsupported encap field(s)")
    return Rule(at.ifindex, match, verdict)


def _match(flower: Flower, at: Link, links: Links) -> Iterator[Part]:
    asked = {part.key for part in flower.parts}
    rest = {number for number, _ in flower.rest}
    if rest - SCTP_KEYS:
        raise _refusal(errno.EOPNOTSUPP, "Unsupported key used")
    if asked & _ENC and not _names_tunnel(flower, at, links):
        raise _refusal(errno.EOPNOTSUPP, "Tunnel key used, but device isn't a tunnel")
    if rest:
        raise _refusal(errno.EINVAL, "Only UDP and TCP transport are supported")
    for part in flower.parts:
        value = part.value & part.mask
        if part.key in _IPV6 and value == _LOOPBACK:
            raise _refusal(errno.EINVAL, "Bad IPv6, addr is LOOPBACK")
        if part.key is Key.ENC_UDP_SRC_PORT:
            raise _refusal(errno.EOPNOTSUPP, "Unsupported encap field(s)")
        if part.key in _NOT_LOOKED_AT or (not value and part.key in _ZERO_IS_NONE):
            continue
        if part.key is Key.ETH_TYPE and value == _ETH_P_ALL:
            continue
        mask = part.mask & _VNI_MASK if part.key is Key.ENC_KEY_ID else part.mask
        yield Part(part.key, value & mask, mask)


def _names_tunnel(flower: Flower, at: Link, links: Links) -> bool:
    return at.kind is Kind.TUNNEL or any(
        isinstance(action.does, Mirred) and _kind(links, action.does) is Kind.TUNNEL
        for action in flower.actions
    )


def _verdict(actions: tuple[Action, ...], at: Link, links: Links, *, tunnels: bool) -> Verdict:
    if not actions:
        raise _refusal(errno.EINVAL, "")
    match tuple(action.does for action in actions):
        case (Gact(),) if actions[0].control == SHOT:
            return Drop()
        case (Mirred() as to,):
            return _delivered(_redirected(to, links), bare=False)
        case (TunnelRelease(), Mirred() as to) if tunnels and at.kind is Kind.TUNNEL:
            return _delivered(_redirected(to, links), bare=True)
        case (TunnelSet() as header, Mirred() as to) if tunnels and at.kind is Kind.REPRESENTOR:
            return _encapsulated(header, _redirected(to, links))
        case _:
            raise _unsupported()


def _redirected(to: Mirred, links: Links) -> Link:
    if to.how != EGRESS_REDIRECT:
        raise _unsupported()
    found = links.get(to.ifindex)
    if found is None:
        raise Refusal(errno.ENODEV)
    return found


def _delivered(to: Link, *, bare: bool) -> Deliver:
    if to.kind is not Kind.REPRESENTOR:
        raise _refusal(errno.EINVAL, "Unsupported netdevice in switchdev mode")
    return Deliver(to.port, bare)


def _encapsulated(header: TunnelSet, to: Link) -> Encapsulate:
    if to.kind is not Kind.TUNNEL:
        raise _refusal(errno.EINVAL, "Unsupported netdevice in switchdev mode")
    return Encapsulate(to.encap, header, header.port or to.udp_port)


def _kind(links: Links, to: Mirred) -> Kind | None:
    found = links.get(to.ifindex)
    return None if found is None else found.kind


def _unsupported() -> Refusal:
    return _refusal(errno.EINVAL, "Unsupported action in switchdev mode")


def _refusal(number: int, words: str) -> Refusal:
    return Refusal(number, f"ice: {words}" if words else "")
