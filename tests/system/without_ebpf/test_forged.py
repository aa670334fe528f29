"""Tunnel packets that somebody makes up for n1, which has no eBPF: as with eBPF."""

from tests.system.test_forged_tunnel import (
    colour,
    heard,
    private,
    test_a_forgery_arrives_nowhere,
    test_what_a_member_says_arrives,
)

__all__ = [
    "colour",
    "heard",
    "private",
    "test_a_forgery_arrives_nowhere",
    "test_what_a_member_says_arrives",
]
