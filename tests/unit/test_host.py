"""The parts of dataplane.host that need no kernel."""

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from dataplane.core.model import Attachment, Mac, interface_of
from dataplane.host.pod_end import alias

SUBNETS = ("10.7.0.0/20", "fd07::/64", "10.7.8.0/24")


@pytest.mark.parametrize(
    ("ip", "expected"),
    [
        pytest.param("10.7.0.5", "10.7.0.5/20", id="ipv4"),
        pytest.param("fd07::5", "fd07::5/64", id="ipv6"),
        pytest.param("10.7.8.5", "10.7.8.5/24", id="the-narrowest"),
        pytest.param("10.7.16.1", "10.7.16.1/32", id="ipv4-outside"),
        pytest.param("fd08::5", "fd08::5/128", id="ipv6-outside"),
        pytest.param("::a07:5", "::a07:5/128", id="ipv6-as-small-as-an-ipv4"),
    ],
)
def test_prefix_length_is_that_of_the_subnet(ip: str, expected: str) -> None:
    subnets = tuple(ip_network(subnet) for subnet in SUBNETS)
    assert interface_of(ip_address(ip), subnets) == ip_interface(expected)


@pytest.mark.parametrize(
    ("container_id", "expected"),
    [
        ("c1", "overweave:c1/eth0"),
        ("x" * 300, "overweave:" + "x" * 245),  # IFALIASZ is 256 with the NUL (linux/if.h)
    ],
)
def test_alias_fits_the_kernel(container_id: str, expected: str) -> None:
    mac = Mac("02:00:00:00:00:01")
    attachment = Attachment(container_id, "eth0", "/run/netns/x", "blue", mac, (), "id", 3)
    assert alias(attachment) == expected
