"""The one place that knows how many bytes a tunnel adds."""

from __future__ import annotations

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import MIN_IPV6_MTU, MIN_MTU, Encap, Family, Segment

_ETHERNET = 14
_UDP = 8
_TUNNEL_HEADER = {Encap.GENEVE: 8, Encap.VXLAN: 8}  # no Geneve options: RFC 8926 3.4, RFC 7348 5
_OUTER_IP = {Family.IPV4: 20, Family.IPV6: 40}


def encap_overhead(encap: Encap, underlay: Family) -> int:
    """Return the bytes between the underlay's IP MTU and the inner IP MTU."""
    return _OUTER_IP[underlay] + _UDP + _TUNNEL_HEADER[encap] + _ETHERNET


def pod_mtu(segment: Segment, underlay_mtu: int) -> int:
    """Return the IP MTU in bytes of every pod interface on ``segment``.

    Raises InvalidValueError where the underlay cannot carry the asked MTU, or less than the inner
    family needs (RFC 791, RFC 8200 section 5).
    """
    largest = underlay_mtu - encap_overhead(segment.encap, segment.underlay)
    if segment.mtu is not None and segment.mtu > largest:
        raise InvalidValueError(
            f"segment {segment.name}: mtu {segment.mtu} does not fit, the underlay's {underlay_mtu}"
            f" bytes leave {largest} after {segment.encap} over {segment.underlay};"
            " lower the segment's mtu or raise the NIC's"
        )
    mtu = segment.mtu if segment.mtu is not None else largest
    needed = MIN_IPV6_MTU if any(net.version == 6 for net in segment.subnets) else MIN_MTU
    if mtu < needed:
        raise InvalidValueError(
            f"segment {segment.name}: {mtu} bytes are left for pods, its subnets need {needed};"
            " raise the NIC's mtu"
        )
    return mtu
