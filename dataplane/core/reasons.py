"""The closed list of reasons shown to operators, and the source of the C enum."""

from __future__ import annotations

from enum import StrEnum


class Reason(StrEnum):
    """Why something is not forwarded, or not forwarded where one would expect it."""

    SUPERSEDED = "superseded"
    DUPLICATE = "duplicate"
    MAC_FROZEN = "mac-frozen"
    NOT_GRANTED = "not-granted"
    NO_VTEP = "no-vtep"
    UNDERLAY_MTU = "underlay-mtu"
    UNKNOWN_SEGMENT = "unknown-segment"
    PENDING = "pending"
    TABLE_FULL = "table-full"
    NO_FASTPATH = "no-fastpath"
    NO_NEXTHOP = "no-nexthop"
    ROUTED = "routed"
    NETWORK_FUNCTION = "network-function"

    # Why an entry is not in the DPU's switch.
    NO_SWITCH_PORT = "no-switch-port"
    BELOW_THRESHOLD = "below-threshold"
    UNSUPPORTED_ENCAP = "unsupported-encap"
    UNSUPPORTED_GUARD = "unsupported-guard"
    UNSUPPORTED_MATCH = "unsupported-match"
    KEY_CONFLICT = "key-conflict"
    SWITCH_TAKEN = "switch-taken"
    DEVICE_DOWN = "device-down"

    # Why Open vSwitch, or nobody, got a packet that the fast path could have forwarded.
    ANSWERED = "answered"
    POLICY_OFF = "policy-off"
    MALFORMED = "malformed"
    DAMAGED = "damaged"
    GUARD = "guard"
    NO_ENTRY = "no-entry"
    GROUP = "group"
    NOT_IP = "not-ip"
    IP_OPTIONS = "ip-options"
    FRAGMENT = "fragment"
    ARP = "arp"
    ND = "nd"
    UDP_GSO = "udp-gso"
    TOO_LARGE = "too-large"
    NESTED = "nested"
    CHECKSUM = "checksum"
    ECN = "ecn"
    KERNEL = "kernel"
    UNKNOWN_VTEP = "unknown-vtep"


PACKET_REASONS = tuple(Reason)[tuple(Reason).index(Reason.ANSWERED) :]
"""What packets are counted by; the number of each is its place here."""
