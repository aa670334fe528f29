"""Bad input to the CNI plugin: what a runtime or an operator can get wrong, and what it must say.

Every case stands alone: one fault in an otherwise good request. The pure parser runs all of them;
so does the plugin itself, as a process against a served socket.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

NETNS = "/run/netns/pod"
PREVIOUS = {
    "cniVersion": "1.1.0",
    "interfaces": [{"name": "vp0"}, {"name": "eth0", "mac": "02:00:00:00:00:01", "sandbox": NETNS}],
    "ips": [{"address": "10.1.0.2/20", "interface": 1}],
}


@dataclass(frozen=True, slots=True)
class Case:
    """One fault; ``words`` must stand in the message: the key, the value."""

    name: str
    code: int
    words: tuple[str, ...]
    verb: str = "ADD"
    config: Mapping[str, object] | bytes = field(default_factory=dict)
    environment: Mapping[str, str | bytes | None] = field(default_factory=dict)

    def stdin(self, **base: object) -> bytes:
        """Return the network configuration with the fault in it; None leaves a key out."""
        if isinstance(self.config, bytes):
            members = "".join(f"{json.dumps(k)}: {json.dumps(v)}, " for k, v in base.items())
            return self.config.replace(b"{", b"{" + members.encode(), 1)
        whole = {**good_config(), **base, **self.config}
        return json.dumps({k: v for k, v in whole.items() if v is not LEFT_OUT}).encode()

    def variables(self, **base: str) -> dict[str, str | bytes]:
        """Return the environment with the fault in it."""
        whole = {**good_environment(self.verb), **base, **self.environment}
        return {name: value for name, value in whole.items() if value is not None}


LEFT_OUT = object()


def good_config() -> dict[str, object]:
    return {"cniVersion": "1.1.0", "name": "pods", "type": "overweave-cni", "segment": "blue"}


def good_environment(verb: str) -> dict[str, str | bytes | None]:
    return {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": NETNS,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": "/opt/cni/bin",
    }


def _raw(text: str) -> bytes:
    return text.encode()


def _with(text: str) -> bytes:
    """Return a good configuration with ``text`` as one more member, written by hand."""
    return (json.dumps(good_config())[:-1] + ", " + text + "}").encode()


def _env(name: str, case: str, value: str | bytes | None, *words: str, verb: str = "ADD") -> Case:
    return Case(f"{name}-{case}", 4, (name, *words), verb=verb, environment={name: value})


def _conf(case: str, code: int, /, *words: str, **config: object) -> Case:
    return Case(case, code, words, config=config)


def _runtime(case: str, code: int, /, *words: str, **runtime: object) -> Case:
    return Case(case, code, words, config={"runtimeConfig": runtime})


def _previous(name: str, *words: str, verb: str = "CHECK", **changes: object) -> Case:
    changed = {k: v for k, v in (PREVIOUS | changes).items() if v is not LEFT_OUT}
    return Case(name, 7, ("prevResult", *words), verb=verb, config={"prevResult": changed})


_DEEP = "[" * 65 + "]" * 65
_ABYSS = "[" * 10_000 + "]" * 10_000

UNDECODABLE = [
    Case("stdin-empty", 6, ("empty",), config=b""),
    Case("stdin-blank", 6, ("empty",), config=b" \n\t "),
    Case("json-truncated", 6, ("not valid JSON",), config=b'{"cniVersion": "1.1.0", "na'),
    Case("json-garbage", 6, ("not valid JSON",), config=b"cniVersion=1.1.0"),
    Case("json-10-megabytes", 7, ("1048576",), config=b'{"a": "' + b"x" * 10_000_000 + b'"}'),
    Case("json-nested-65", 7, ("64",), config=_with(f'"x": {_DEEP}')),
    Case("json-nested-10000", 7, ("64",), config=_with(f'"x": {_ABYSS}')),
    Case("json-not-utf-8", 6, ("UTF-8", "0xff", "15"), config=b'{"cniVersion": \xff}'),
    Case("json-utf-16", 6, ("UTF-8",), config='{"cniVersion": "1.1.0"}'.encode("utf-16")),
    Case("json-nul-escaped", 7, ("NUL", "bl"), config=_with('"x": "bl\\u0000ue"')),
    Case("json-nul-raw", 6, ("not valid JSON",), config=_with('"x": "bl\0ue"')),
    Case("json-nul-in-key", 7, ("NUL",), config=_with('"x\\u0000": 1')),
    Case("json-half-surrogate", 6, ("surrogate",), config=_with('"x": "\\ud800"')),
    Case("json-key-twice", 6, ("segment", "more than once"), config=_with('"segment": "red"')),
    Case(
        "json-key-twice-inside",
        6,
        ("mac", "more than once"),
        config=_with('"runtimeConfig": {"mac": "02::1", "mac": "02::2"}'),
    ),
    Case("json-nan", 6, ("NaN",), config=_with('"mtu": NaN')),
    Case("json-infinity", 6, ("Infinity",), config=_with('"mtu": -Infinity')),
    Case("json-1e999", 6, ("1e999",), config=_with('"mtu": 1e999')),
    Case("json-huge-integer", 6, ("5000 digits",), config=_with('"mtu": ' + "9" * 5000)),
    Case("json-list", 6, ("object",), config=b'[{"cniVersion": "1.1.0"}]'),
    Case("json-string", 6, ("object", "hello"), config=b'"hello"'),
    Case("json-two-documents", 6, ("not valid JSON",), config=b"{} {}"),
]

VERSIONS = [
    _conf("version-missing", 1, "cniVersion", "missing", cniVersion=LEFT_OUT),
    _conf("version-empty", 1, "cniVersion", cniVersion=""),
    _conf("version-99", 1, "cniVersion", "99.0", "1.1.0", cniVersion="99.0"),
    _conf("version-0.2.0", 1, "cniVersion", "0.2.0", cniVersion="0.2.0"),
    _conf("version-1.1", 1, "cniVersion", "1.1", cniVersion="1.1"),
    _conf("version-number", 6, "cniVersion", "1", cniVersion=1),
    _conf("version-list", 6, "cniVersion", cniVersion=["1.1.0"]),
    Case("version-without-check", 1, ("0.3.1", "CHECK"), "CHECK", {"cniVersion": "0.3.1"}),
    Case("version-without-gc", 1, ("1.0.0", "GC"), "GC", {"cniVersion": "1.0.0"}),
    Case("version-without-status", 1, ("0.4.0", "STATUS"), "STATUS", {"cniVersion": "0.4.0"}),
]

ENVIRONMENT = [
    _env("CNI_COMMAND", "missing", None),
    _env("CNI_COMMAND", "empty", ""),
    _env("CNI_COMMAND", "unknown", "FLY", "FLY"),
    _env("CNI_COMMAND", "lower-case", "add", "add"),
    _env("CNI_COMMAND", "with-space", "ADD ", "ADD "),
    _env("CNI_CONTAINERID", "missing", None),
    _env("CNI_CONTAINERID", "empty", "", verb="DEL"),
    _env("CNI_CONTAINERID", "slash", "a/b", "a/b"),
    _env("CNI_CONTAINERID", "dots", "..", ".."),
    _env("CNI_CONTAINERID", "4-kib", "a" * 4096, "aaa"),
    _env("CNI_CONTAINERID", "leading-hyphen", "-rf", "-rf"),
    _env("CNI_CONTAINERID", "newline", "a\n", "a\\n"),
    _env("CNI_CONTAINERID", "not-utf-8", b"a\xff", "UTF-8"),
    _env("CNI_IFNAME", "missing", None, verb="DEL"),
    _env("CNI_IFNAME", "empty", ""),
    _env("CNI_IFNAME", "dot", ".", "'.'"),
    _env("CNI_IFNAME", "dots", "..", "'..'"),
    _env("CNI_IFNAME", "loopback", "lo", "lo"),
    _env("CNI_IFNAME", "16-characters", "a" * 16, "a" * 16),
    _env("CNI_IFNAME", "slash", "a/b", "a/b"),
    _env("CNI_IFNAME", "colon", "a:b", "a:b"),
    _env("CNI_IFNAME", "space", "a b", "a b"),
    _env("CNI_IFNAME", "newline", "eth0\n", "eth0\\n"),
    _env("CNI_IFNAME", "command", "$(id)", "$(id)"),
    _env("CNI_IFNAME", "kernel-template", "eth%d", "eth%d"),
    _env("CNI_IFNAME", "not-ascii", "et\u0127", "et\u0127"),
    _env("CNI_NETNS", "missing", None),
    _env("CNI_NETNS", "empty-in-check", "", verb="CHECK"),
    _env("CNI_NETNS", "relative", "netns/pod", "netns/pod"),
    _env("CNI_NETNS", "too-long", "/" + "a" * 5000, "aaa"),
    _env("CNI_ARGS", "no-value", "IgnoreUnknown=1;K8S_POD_NAME", "K8S_POD_NAME"),
    _env("CNI_ARGS", "no-key", "=x", "=x"),
    _env("CNI_ARGS", "trailing-semicolon", "K8S_POD_NAME=a;", "K8S_POD_NAME=a;"),
    _env("CNI_ARGS", "semicolon-in-name", "K8S_POD_NAME=a;b", "'b'"),
    _env("CNI_ARGS", "key-twice", "MAC=02::1;MAC=02::2", "MAC", "more than once"),
    _env("CNI_ARGS", "unknown", "FOO=BAR", "FOO=BAR", "IgnoreUnknown"),
    _env("CNI_ARGS", "ignore-unknown-maybe", "IgnoreUnknown=maybe", "IgnoreUnknown=maybe"),
    _env("CNI_ARGS", "pod-name-slash", "K8S_POD_NAME=../x", "K8S_POD_NAME=../x"),
    _env("CNI_ARGS", "endpoint-space", "OVERWEAVE_ENDPOINT=a b", "OVERWEAVE_ENDPOINT=a b"),
    _env("CNI_ARGS", "mac-broadcast", "MAC=ff:ff:ff:ff:ff:ff", "MAC", "ff:ff"),
    _env("CNI_ARGS", "ip-text", "IP=ten", "IP", "ten"),
    _env("CNI_ARGS", "not-utf-8", b"K8S_POD_NAME=\xfe", "UTF-8"),
]

CONFIGURATION = [
    _conf("name-missing", 7, "name", name=LEFT_OUT),
    _conf("name-empty", 7, "name", name=""),
    _conf("name-slash", 7, "name", "a/b", name="a/b"),
    _conf("name-dots", 7, "name", "..", name=".."),
    _conf("name-space", 7, "name", "my net", name="my net"),
    _conf("name-300-characters", 7, "name", "aaa", name="a" * 300),
    _conf("name-number", 7, "name", "5", name=5),
    _conf("type-missing", 7, "type", type=LEFT_OUT),
    _conf("type-number", 7, "type", "5", type=5),
    _conf("type-path", 7, "type", "../sh", type="../sh"),
    _conf("segment-missing", 7, "segment", segment=LEFT_OUT),
    _conf("segment-empty", 7, "segment", segment=""),
    _conf("segment-upper-case", 7, "segment", "Blue", segment="Blue"),
    _conf("segment-number", 7, "segment", "10", segment=10),
    _conf("segment-missing-in-status", 7, "segment", segment=LEFT_OUT),
    _conf("vni-0", 2, "vni", "0", "segment", vni=0),
    _conf("vni-negative", 2, "vni", "-1", vni=-1),
    _conf("vni-25-bits", 2, "vni", "16777216", vni=1 << 24),
    _conf("vni-string", 2, "vni", "'5'", vni="5"),
    _conf("vni-fraction", 2, "vni", "5.5", vni=5.5),
    _conf("vni-true", 2, "vni", "True", vni=True),
    _conf("masquerade", 2, "ipMasq", "True", ipMasq=True),
    _conf("mistyped-segment", 2, "segmnet", "red", "segment", segmnet="red"),
    _conf("mistyped-mtu", 2, "MTU", "1400", "mtu", MTU=1400),
    _conf("mistyped-socket", 2, "agentsocket", "/x", "agentSocket", agentsocket="/x"),
    _conf("mtu-0", 7, "mtu", "0", mtu=0),
    _conf("mtu-67", 7, "mtu", "67", mtu=67),
    _conf("mtu-65536", 7, "mtu", "65536", mtu=65536),
    _conf("mtu-true", 7, "mtu", "True", mtu=True),
    _conf("mtu-string", 7, "mtu", "'1400'", mtu="1400"),
    _conf("mtu-fraction", 7, "mtu", "1400.5", mtu=1400.5),
    _runtime("mac-multicast", 7, "runtimeConfig.mac", "01:00:5e", mac="01:00:5e:00:00:01"),
    _runtime("mac-zero", 7, "runtimeConfig.mac", "00:00:00", mac="00:00:00:00:00:00"),
    _runtime("mac-broadcast", 7, "runtimeConfig.mac", "ff:ff", mac="ff:ff:ff:ff:ff:ff"),
    _runtime("mac-short", 7, "runtimeConfig.mac", "02:00", mac="02:00"),
    _runtime("mac-number", 7, "runtimeConfig.mac", "2", mac=2),
    _runtime("ips-text", 7, "runtimeConfig.ips", "ten", ips=["ten"]),
    _runtime("ips-string", 7, "runtimeConfig.ips", "10.1.0.9", ips="10.1.0.9"),
    _runtime("ips-number", 7, "runtimeConfig.ips", "5", ips=[5]),
    _runtime("ips-zone", 7, "runtimeConfig.ips", "%eth0", ips=["fe80::1%eth0"]),
    _runtime("ips-prefix-33", 7, "runtimeConfig.ips", "/33", ips=["10.1.0.9/33"]),
    _runtime("ips-multicast", 7, "runtimeConfig.ips", "224.0.0.1", ips=["224.0.0.1"]),
    _runtime("ips-unspecified", 7, "runtimeConfig.ips", "0.0.0.0", ips=["0.0.0.0"]),
    _runtime("ips-loopback", 7, "runtimeConfig.ips", "::1", ips=["::1"]),
    _runtime("ips-twice", 7, "runtimeConfig.ips", "twice", ips=["10.1.0.9", "10.1.0.9/20"]),
    _runtime(
        "ips-17", 7, "runtimeConfig.ips", "17", "16", ips=[f"10.1.0.{n}" for n in range(2, 19)]
    ),
    _runtime("capability-port-mappings", 2, "portMappings", "8080", portMappings=[8080]),
    _runtime("capability-ip-ranges-alone", 2, "ipRanges", ipRanges=[]),
    _conf("runtime-config-list", 7, "runtimeConfig", "[]", runtimeConfig=[]),
    _conf("args-string", 7, "args", "'x'", args="x"),
    _conf("args-cni-ips-text", 7, "args.cni.ips", "ten", args={"cni": {"ips": ["ten"]}}),
    _conf("ipam-string", 7, "ipam", "host-local", ipam="host-local"),
    _conf("ipam-type-number", 7, "ipam.type", "5", ipam={"type": 5}),
    _conf("ipam-type-path", 7, "ipam.type", "../sh", ipam={"type": "../sh"}),
    _conf("ipam-itself", 7, "ipam.type", "overweave-cni", ipam={"type": "overweave-cni"}),
    Case(
        "cni-path-missing",
        4,
        ("CNI_PATH",),
        config={"ipam": {"type": "host-local"}},
        environment={"CNI_PATH": None},
    ),
    Case(
        "cni-path-empty",
        4,
        ("CNI_PATH",),
        config={"ipam": {"type": "host-local"}},
        environment={"CNI_PATH": ":"},
    ),
    Case(
        "cni-path-relative",
        4,
        ("CNI_PATH", "'bin'"),
        config={"ipam": {"type": "host-local"}},
        environment={"CNI_PATH": "/opt/cni/bin:bin"},
    ),
]

SOCKETS = [
    _conf("agent-socket-relative", 7, "agentSocket", "run/cni.sock", agentSocket="run/cni.sock"),
    _conf("agent-socket-long", 7, "agentSocket", "107", agentSocket="/" + "a" * 107),
    _conf("agent-socket-number", 7, "agentSocket", "5", agentSocket=5),
]

PREVIOUS_RESULTS = [
    Case("previous-missing", 7, ("prevResult", "missing"), "CHECK"),
    Case("previous-null", 7, ("prevResult", "missing"), "CHECK", {"prevResult": None}),
    Case("previous-list", 7, ("prevResult", "[]"), "CHECK", {"prevResult": []}),
    _previous("previous-other-version", "cniVersion", "0.4.0", cniVersion="0.4.0"),
    _previous("previous-interfaces-object", "interfaces", "{}", interfaces={}),
    _previous("previous-interface-number", "interfaces[0]", "7", interfaces=[7]),
    _previous("previous-interface-nameless", "interfaces[0].name", interfaces=[{"mac": ""}]),
    _previous("previous-interface-mac", "mac", "'zz'", interfaces=[{"name": "eth0", "mac": "zz"}]),
    _previous("previous-ip-number", "ips[0]", "4", ips=[4]),
    _previous("previous-ip-text", "ips[0].address", "ten", ips=[{"address": "ten"}]),
    _previous("previous-ip-bare", "address", "10.1.0.2", ips=[{"address": "10.1.0.2"}]),
    _previous("previous-index", "interface", "9", ips=[{"address": "10.1.0.2/20", "interface": 9}]),
    _previous(
        "previous-family", "version", "'6'", ips=[{"address": "10.1.0.2/20", "version": "6"}]
    ),
    _previous(
        "previous-gateway", "gateway", "gw", ips=[{"address": "10.1.0.2/20", "gateway": "gw"}]
    ),
    _previous("previous-chained", "ips[0]", "4", verb="ADD", ips=[4]),
]

_VALID = "cni.dev/valid-attachments"
GARBAGE = [
    Case("gc-without-list", 7, (_VALID, "missing"), "GC"),
    Case("gc-list-object", 7, (_VALID, "{}"), "GC", {_VALID: {}}),
    Case("gc-entry-string", 7, (f"{_VALID}[0]", "c1"), "GC", {_VALID: ["c1"]}),
    Case("gc-entry-half", 7, (f"{_VALID}[0]", "ifname"), "GC", {_VALID: [{"containerID": "c"}]}),
    Case(
        "gc-entry-number",
        7,
        (f"{_VALID}[1]", "5"),
        "GC",
        {_VALID: [{"containerID": "c", "ifname": "e"}, {"containerID": 5, "ifname": "e"}]},
    ),
    Case("status-without-segment", 7, ("segment",), "STATUS", {"segment": LEFT_OUT}),
]

ALL = [
    *UNDECODABLE,
    *VERSIONS,
    *ENVIRONMENT,
    *CONFIGURATION,
    *SOCKETS,
    *PREVIOUS_RESULTS,
    *GARBAGE,
]
