"""The pure parser of CNI requests: everything good is understood, everything bad is named."""

from __future__ import annotations

import json
from ipaddress import ip_interface
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.cni.environment import Invocation
from dataplane.cni.errors import CniError
from dataplane.cni.request import (
    AddRequest,
    CheckRequest,
    DelRequest,
    GcRequest,
    StatusRequest,
    parse,
    version_of,
)
from dataplane.core.model import AttachmentKey
from tests.unit.cni_catalogue import (
    ALL,
    NETNS,
    PREVIOUS,
    UNDECODABLE,
    VERSIONS,
    Case,
    good_config,
    good_environment,
)


def invocation(case: Case) -> Invocation:
    environment = {
        name.encode(): value if isinstance(value, bytes) else value.encode()
        for name, value in case.variables().items()
    }
    return Invocation(environment, case.stdin())


def parsed(verb: str = "ADD", cni_args: str | None = None, /, **config: object) -> Any:
    environment = {"CNI_ARGS": cni_args}
    return parse(invocation(Case("good", 0, (), verb, config, environment)))


def test_the_catalogue_is_as_large_as_it_says() -> None:
    assert len({case.name for case in ALL}) == len(ALL) >= 60


@pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
def test_bad_input_gets_its_code_and_a_sentence_with_key_and_value(case: Case) -> None:
    with pytest.raises(CniError) as caught:
        parse(invocation(case))
    assert caught.value.code == case.code, str(caught.value)
    for word in case.words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "case",
    [case for case in ALL if case not in UNDECODABLE + VERSIONS and case.code != 4],
    ids=lambda case: case.name,
)
def test_a_container_that_bad_configuration_kept_out_can_still_be_deleted(case: Case) -> None:
    wanted = Case(case.name, 0, (), "DEL", case.config, case.environment)
    assert parse(invocation(wanted)) == DelRequest(AttachmentKey("c1", "eth0"))


@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused_with_a_code(stdin: bytes) -> None:
    environment = {k.encode(): str(v).encode() for k, v in good_environment("ADD").items()}
    with pytest.raises(CniError):
        parse(Invocation(environment, stdin))


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
_KEYS = st.sampled_from(
    ["mtu", "segment", "ipam", "runtimeConfig", "args", "prevResult", "name", "agentSocket"]
)


@given(_KEYS, _JSON, st.sampled_from(["ADD", "CHECK", "DEL", "GC", "STATUS"]))
def test_any_value_under_any_key_is_parsed_or_refused(key: str, value: object, verb: str) -> None:
    code = None
    try:
        parsed(verb, **{key: value})
    except CniError as error:
        code = error.code
    assert code in (None, 2, 4, 6, 7)


def test_all_faulty_variables_are_named_at_once() -> None:
    bad = {"CNI_CONTAINERID": "/", "CNI_IFNAME": "", "CNI_NETNS": "x", "CNI_ARGS": "x"}
    with pytest.raises(CniError) as caught:
        parse(invocation(Case("several", 4, (), environment=bad)))
    assert all(name in str(caught.value) for name in bad)


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_every_version_is_understood(version: str) -> None:
    assert parsed(cniVersion=version).network.version == version


def test_add_in_full() -> None:
    request = parsed(
        "ADD",
        "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;FOO=BAR",
        mtu=1400,
        runtimeConfig={"mac": "02:AA:00:00:00:01", "ips": ["10.1.0.9/20", "fd00:1::9"]},
        ipMasq=False,
        capabilities={"mac": True},
        someMetaPluginsKey={"deviceID": "x"},
    )
    assert isinstance(request, AddRequest)
    assert request.key == AttachmentKey("c1", "eth0")
    assert request.netns == NETNS
    assert request.segment == "blue"
    assert request.identity == "shop/web-0/eth0"
    assert request.mac == "02:aa:00:00:00:01"
    assert request.ips == (ip_interface("10.1.0.9/20"), ip_interface("fd00:1::9"))
    assert request.mtu == 1400
    assert request.network.name == "pods"
    assert request.network.ipam is None
    assert request.previous is None


@pytest.mark.parametrize(
    ("args", "identity"),
    [
        pytest.param(None, "c1/eth0", id="absent"),
        pytest.param("", "c1/eth0", id="empty"),
        pytest.param("K8S_POD_NAMESPACE=shop", "c1/eth0", id="namespace-alone"),
        pytest.param("K8S_POD_NAMESPACE=;K8S_POD_NAME=web", "c1/eth0", id="namespace-empty"),
        pytest.param("K8S_POD_NAME=web", "c1/eth0", id="name-alone"),
        pytest.param("OVERWEAVE_ENDPOINT=db", "db/eth0", id="endpoint"),
        pytest.param("OVERWEAVE_ENDPOINT=", "c1/eth0", id="endpoint-empty"),
        pytest.param(
            "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;OVERWEAVE_ENDPOINT=c", "a/b/eth0", id="pod-first"
        ),
        pytest.param(
            "K8S_POD_NAMESPACE=a;K8S_POD_NAME=b;K8S_POD_INFRA_CONTAINER_ID=c;K8S_POD_UID=d",
            "a/b/eth0",
            id="as-containerd-sends",
        ),
    ],
)
def test_identity(args: str | None, identity: str) -> None:
    assert parsed("ADD", args).identity == identity


_BY_RUNTIME = {"runtimeConfig": {"ips": ["10.1.0.1"], "mac": "02:00:00:00:00:0a"}}
_BY_ARGS = {"args": {"cni": {"ips": ["10.1.0.2"]}}}
_BY_VARIABLE = "IP=10.1.0.3/20;MAC=02:00:00:00:00:0c"


@pytest.mark.parametrize(
    ("config", "args", "ip", "mac"),
    [
        pytest.param(_BY_RUNTIME | _BY_ARGS, _BY_VARIABLE, "10.1.0.1", "0a", id="capability"),
        pytest.param(_BY_ARGS, _BY_VARIABLE, "10.1.0.2", "0c", id="args-in-config"),
        pytest.param({}, _BY_VARIABLE, "10.1.0.3", "0c", id="variable"),
        pytest.param({"runtimeConfig": None, "args": None}, None, None, None, id="nulls"),
    ],
)
def test_the_newest_convention_that_is_used_wins(
    config: dict[str, object], args: str | None, ip: str | None, mac: str | None
) -> None:
    request = parsed("ADD", args, **config)
    assert [str(each.ip) for each in request.ips] == ([ip] if ip else [])
    assert request.mac == (f"02:00:00:00:00:{mac}" if mac else None)


@pytest.mark.parametrize(
    ("config", "found"),
    [
        pytest.param({}, "", id="none"),
        pytest.param({"deviceID": None}, "", id="null"),
        pytest.param({"deviceID": "0000:06:00.2"}, "0000:06:00.2", id="top level"),
        pytest.param({"runtimeConfig": {"deviceID": "0000:06:00.2"}}, "0000:06:00.2", id="runtime"),
        pytest.param(
            {"deviceID": "sf.4", "runtimeConfig": {"deviceID": "sf.4"}}, "sf.4", id="both alike"
        ),
        pytest.param({"pciBusID": "0000:06:00.2"}, "", id="a meta plugin's older key"),
    ],
)
def test_the_vf_that_a_device_plugin_chose(config: dict[str, object], found: str) -> None:
    assert parsed(**config).device_id == found


@pytest.mark.parametrize("verb", ["DEL", "CHECK"])
def test_a_faulty_device_id_keeps_no_container_alive(verb: str) -> None:
    previous = {"cniVersion": "1.1.0", "interfaces": [], "ips": []}
    assert parsed(verb, deviceID="a b", prevResult=previous).key == AttachmentKey("c1", "eth0")


def test_with_an_ipam_plugin_its_own_capabilities_are_let_through() -> None:
    request = parsed(
        ipam={"type": "host-local"}, runtimeConfig={"ipRanges": [], "ips": ["10.1.0.9"]}
    )
    assert request.network.ipam.plugin == "host-local"
    assert request.network.ipam.directories == ("/opt/cni/bin",)
    assert json.loads(request.network.ipam.invocation.config)["ipam"] == {"type": "host-local"}


@pytest.mark.parametrize("ipam", [None, {}, {"type": ""}], ids=["null", "empty", "no-type"])
def test_without_a_named_plugin_addresses_are_ours(ipam: object) -> None:
    assert parsed(ipam=ipam).network.ipam is None


@pytest.mark.parametrize("netns", ["/run/netns/x", "/proc/4711/ns/net", "/var/run/netns/cni-1"])
def test_every_runtimes_way_to_name_a_namespace_is_taken(netns: str) -> None:
    case = Case("netns", 0, (), environment={"CNI_NETNS": netns})
    request = parse(invocation(case))
    assert isinstance(request, AddRequest)
    assert request.netns == netns


@pytest.mark.parametrize("netns", [None, "", "garbage", "/gone"])
def test_del_does_not_look_at_the_namespace(netns: str | None) -> None:
    case = Case("del", 0, (), "DEL", environment={"CNI_NETNS": netns, "CNI_ARGS": "gar;bage"})
    assert parse(invocation(case)) == DelRequest(AttachmentKey("c1", "eth0"))


def test_del_releases_through_the_named_plugin() -> None:
    request = parsed("DEL", ipam={"type": "host-local"})
    assert request.ipam.plugin == "host-local"


def test_check_keeps_what_add_printed() -> None:
    request = parsed("CHECK", prevResult=PREVIOUS)
    assert isinstance(request, CheckRequest)
    assert [each.name for each in request.previous.interfaces] == ["vp0", "eth0"]
    assert [str(each.address) for each in request.previous.ips] == ["10.1.0.2/20"]
    assert request.previous.ips[0].interface == 1


@pytest.mark.parametrize(
    ("valid", "keys"),
    [
        pytest.param(None, set(), id="null-as-go-writes-an-empty-list"),
        pytest.param([], set(), id="empty"),
        pytest.param([{"containerID": "c", "ifname": "e"}], {("c", "e")}, id="one"),
        pytest.param(
            [{"containerID": f"c{n}", "ifname": "eth0"} for n in range(10_000)],
            {(f"c{n}", "eth0") for n in range(10_000)},
            id="huge",
        ),
    ],
)
def test_gc_knows_what_is_still_wanted(valid: object, keys: set[tuple[str, str]]) -> None:
    request = parsed("GC", **{"cni.dev/valid-attachments": valid})
    assert isinstance(request, GcRequest)
    assert request.valid == keys


def test_status_and_gc_need_no_container() -> None:
    for verb in ("STATUS", "GC"):
        environment = {"CNI_CONTAINERID": None, "CNI_IFNAME": None, "CNI_NETNS": None}
        config: dict[str, object] = {"cni.dev/valid-attachments": []}
        request = parse(invocation(Case(verb, 0, (), verb, config, environment)))
        assert isinstance(request, StatusRequest | GcRequest)


@pytest.mark.parametrize(
    ("config", "version"),
    [
        pytest.param(json.dumps(good_config()).encode(), "1.1.0", id="good"),
        pytest.param(b'{"cniVersion": "0.4.0", "segment": 5}', "0.4.0", id="bad-but-readable"),
        pytest.param(b'{"cniVersion": "99"}', "1.1.0", id="unknown"),
        pytest.param(b"garbage", "1.1.0", id="unreadable"),
    ],
)
def test_an_error_is_written_in_the_callers_version_if_we_speak_it(
    config: bytes, version: str
) -> None:
    assert version_of(config) == version
