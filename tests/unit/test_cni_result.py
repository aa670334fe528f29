"""Results in every version of the protocol, and what is read from those of others."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from dataplane.cni.errors import CniError, Code
from dataplane.cni.result import (
    Given,
    add_result,
    given_fault,
    parse_given,
    parse_previous,
    previous_faults,
)
from dataplane.cni.version import Version
from dataplane.contracts import PodRoute
from dataplane.core.desired import Port
from dataplane.core.model import Attachment, Mac, Segment, Vni

NETNS = "/run/netns/pod"
SEGMENT = Segment("blue", Vni(1), subnets=(ip_network("10.1.0.0/20"), ip_network("fd00:1::/64")))
BARE = Segment("bare", Vni(2))


def port(*ips: str, segment: Segment = SEGMENT) -> Port:
    attachment = Attachment(
        container_id="c1",
        ifname="eth0",
        netns=NETNS,
        segment=segment.name,
        mac=Mac("02:00:00:00:00:01"),
        ips=tuple(ip_address(ip) for ip in ips or ("10.1.0.2", "fd00:1::2")),
        identity="c1/eth0",
        slot=7,
    )
    return Port(attachment, segment, 1450)


@pytest.mark.parametrize("version", list(Version))
def test_a_result_is_written_as_its_version_wants(version: Version) -> None:
    document: Any = add_result(version, port(), None, Given())
    assert document["cniVersion"] == version
    host, pod = document["interfaces"]
    assert host["name"] == "vp7"
    assert "sandbox" not in host
    assert (pod["name"], pod["mac"], pod["sandbox"]) == ("eth0", "02:00:00:00:00:01", NETNS)
    assert pod.get("mtu") == (1450 if version == "1.1.0" else None)
    assert [ip["address"] for ip in document["ips"]] == ["10.1.0.2/20", "fd00:1::2/64"]
    assert [ip["interface"] for ip in document["ips"]] == [1, 1]
    families = ["4", "6"] if version < Version.V1_0_0 else [None, None]
    assert [ip.get("version") for ip in document["ips"]] == families
    # What we write we must be able to read, as CHECK will.
    assert previous_faults(parse_previous(document, version), port(), NETNS) == ()


def test_a_chained_result_keeps_what_was_before_it() -> None:
    before: Any = {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": "dummy0", "sandbox": NETNS}],
        "ips": [{"address": "192.0.2.1/24", "interface": 0}],
        "dns": {"nameservers": ["192.0.2.53"]},
        "routes": [{"dst": "192.0.2.0/24", "table": 5}],
    }
    previous = parse_previous(before, Version.V1_1_0)
    document: Any = add_result(Version.V1_1_0, port("10.1.0.2"), previous, Given())
    assert [each["name"] for each in document["interfaces"]] == ["dummy0", "vp7", "eth0"]
    assert document["ips"] == [
        {"address": "192.0.2.1/24", "interface": 0},
        {"address": "10.1.0.2/20", "interface": 2},
    ]
    assert document["dns"] == {"nameservers": ["192.0.2.53"]}
    assert document["routes"] == [{"dst": "192.0.2.0/24", "table": 5}]
    assert len(before["interfaces"]) == 1


def test_what_an_ipam_plugin_gave_is_passed_on() -> None:
    given = parse_given(
        {
            "ips": [{"address": "10.1.0.2/20", "gateway": "10.1.0.1", "interface": 4}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.9"}],
            "dns": {"domain": "example"},
        },
        "host-local",
        Code.DELEGATE_FAILED,
    )
    assert given.routes_of(port()) == (
        PodRoute(ip_network("0.0.0.0/0"), ip_address("10.1.0.1")),
        PodRoute(ip_network("10.9.0.0/16"), ip_address("10.1.0.9")),
    )
    document: Any = add_result(Version.V1_0_0, port("10.1.0.2"), None, given)
    assert document["ips"] == [{"address": "10.1.0.2/20", "interface": 1, "gateway": "10.1.0.1"}]
    assert document["routes"] == [
        {"dst": "0.0.0.0/0", "gw": "10.1.0.1"},
        {"dst": "10.9.0.0/16", "gw": "10.1.0.9"},
    ]
    assert document["dns"] == {"domain": "example"}


WIDE = Segment(
    "wide",
    Vni(3),
    subnets=tuple(map(ip_network, ("10.1.0.0/24", "10.2.0.0/24", "fd00:1::/64", "fd00:2::/64"))),
)


@pytest.mark.parametrize(
    ("ips", "segment", "routes", "wanted"),
    [
        pytest.param(("10.1.0.2",), SEGMENT, (), (), id="the only subnet"),
        pytest.param(("10.1.0.2",), WIDE, (), ("10.2.0.0/24",), id="another of its family"),
        pytest.param(("10.1.0.2", "10.2.0.2"), WIDE, (), (), id="an address in each"),
        pytest.param(("fd00:2::2",), WIDE, (), ("fd00:1::/64",), id="IPv6"),
        pytest.param(("10.1.0.2",), WIDE, ("10.2.0.0/24",), (), id="by the plugin's gateway"),
    ],
)
def test_a_pod_reaches_every_subnet_of_its_segment_by_its_link(
    ips: tuple[str, ...], segment: Segment, routes: tuple[str, ...], wanted: tuple[str, ...]
) -> None:
    own = tuple(PodRoute(ip_network(net), ip_address("10.1.0.1")) for net in routes)
    found = Given(routes=own).routes_of(port(*ips, segment=segment))
    assert found == (*(PodRoute(ip_network(net)) for net in wanted), *own)


def test_without_a_subnet_the_ipam_plugin_says_what_is_on_the_link() -> None:
    given = Given((ip_interface("10.9.0.2/24"), ip_interface("fd09::2/128")))
    assert given_fault(given.addresses, BARE) is None
    assert given.routes_of(port("10.9.0.2", segment=BARE)) == (PodRoute(ip_network("10.9.0.0/24")),)
    document: Any = add_result(
        Version.V1_1_0, port("10.9.0.2", "fd09::2", segment=BARE), None, given
    )
    assert [ip["address"] for ip in document["ips"]] == ["10.9.0.2/24", "fd09::2/128"]


@pytest.mark.parametrize(
    ("addresses", "words"),
    [
        pytest.param(["10.1.0.5/20"], None, id="fits"),
        pytest.param(["10.1.0.5/32", "fd00:1::5/128"], None, id="single-addresses"),
        pytest.param(["192.0.2.5/20"], ("192.0.2.5", "no subnet", "10.1.0.0/20"), id="elsewhere"),
        pytest.param(["10.1.0.5/24"], ("10.1.0.5/24", "10.1.0.0/20"), id="other-prefix"),
        pytest.param(["10.1.0.0/20"], ("10.1.0.0", "no host"), id="network-address"),
        pytest.param(["10.1.15.255/20"], ("10.1.15.255", "no host"), id="broadcast-address"),
        pytest.param(["fd00:1::/64"], ("fd00:1::", "no host"), id="subnet-router-anycast"),
        pytest.param(["10.1.0.5/20", "10.1.0.5/32"], ("10.1.0.5", "twice"), id="twice"),
    ],
)
def test_addresses_that_others_chose_are_checked(
    addresses: list[str], words: tuple[str, ...] | None
) -> None:
    fault = given_fault([ip_interface(text) for text in addresses], SEGMENT)
    assert (fault is None) == (words is None)
    assert all(word in (fault or "") for word in words or ())


@pytest.mark.parametrize(
    ("document", "words"),
    [
        pytest.param({}, ("host-local", "no address"), id="nothing"),
        pytest.param({"ips": []}, ("no address",), id="no-ips"),
        pytest.param({"ips": {"address": "x"}}, ("ips", "not a list"), id="object"),
        pytest.param({"ips": [{"address": "10.1.0.5"}]}, ("ips[0].address",), id="no-prefix"),
        pytest.param({"ips": [{"address": 5}]}, ("ips[0].address", "5"), id="number"),
        pytest.param({"ips": [None]}, ("ips[0]", "None"), id="null"),
        pytest.param(
            {"ips": [{"address": "10.1.0.5/20"}], "routes": [{"dst": "x"}]},
            ("routes[0].dst", "'x'"),
            id="route-text",
        ),
        pytest.param(
            {"ips": [{"address": "10.1.0.5/20"}], "routes": [{"dst": "10.0.0.0/8", "table": 5}]},
            ("routes[0].table", "5", "not supported"),
            id="route-in-a-table",
        ),
        pytest.param(
            {"ips": [{"address": "10.1.0.5/20"}], "dns": []}, ("dns", "[]"), id="dns-list"
        ),
    ],
)
def test_a_lying_ipam_plugin_is_named(document: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(CniError) as caught:
        parse_given(document, "host-local", Code.DELEGATE_FAILED)
    assert caught.value.code == 104
    assert all(word in str(caught.value) for word in ("host-local", *words))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        pytest.param({}, (), id="equal"),
        pytest.param(
            {"interfaces": [{"name": "eth0", "sandbox": "/else"}], "ips": []},
            ("eth0", NETNS),
            id="elsewhere",
        ),
        pytest.param({"interfaces": [], "ips": []}, ("eth0", NETNS), id="no-interfaces"),
        pytest.param(
            {"interfaces": [{}, {"name": "eth0", "sandbox": NETNS, "mac": "02:00:00:00:00:99"}]},
            ("02:00:00:00:00:99", "02:00:00:00:00:01"),
            id="other-mac",
        ),
        pytest.param({"ips": []}, ("lacks", "10.1.0.2"), id="address-lost"),
        pytest.param(
            {
                "ips": [
                    {"address": "10.1.0.2/20", "interface": 1},
                    {"address": "fd00:1::2/64", "interface": 1},
                    {"address": "10.1.0.66/20", "interface": 1},
                ]
            },
            ("10.1.0.66", "not its own"),
            id="address-not-ours",
        ),
        pytest.param(
            {
                "ips": [
                    {"address": "10.1.0.2/20"},
                    {"address": "fd00:1::2/64"},
                    {"address": "10.1.0.66/20", "interface": 0},
                ]
            },
            (),
            id="address-of-another-interface",
        ),
    ],
)
def test_check_compares_with_the_attachment(changes: Any, words: tuple[str, ...]) -> None:
    document: Any = add_result(Version.V1_1_0, port(), None, Given()) | changes
    for interface in document["interfaces"]:
        interface.setdefault("name", "vp7")
    faults = previous_faults(parse_previous(document, Version.V1_1_0), port(), NETNS)
    assert bool(faults) == bool(words)
    assert all(word in " ".join(faults) for word in words)
