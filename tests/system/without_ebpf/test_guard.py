"""What a pod on n1, without eBPF, may send in its own name and in others': as with eBPF."""

from tests.system.test_guard_lab import (
    heard,
    pods,
    test_a_new_pod_makes_itself_known,
    test_a_spoof_reaches_nobody,
    test_the_kernel_finds_its_addresses_unique,
    test_what_a_pod_says_of_itself_arrives,
)

__all__ = [
    "heard",
    "pods",
    "test_a_new_pod_makes_itself_known",
    "test_a_spoof_reaches_nobody",
    "test_the_kernel_finds_its_addresses_unique",
    "test_what_a_pod_says_of_itself_arrives",
]
