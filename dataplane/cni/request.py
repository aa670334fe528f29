"""What a runtime asks for, parsed once and whole. Pure: environment and stdin in, request out."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from ipaddress import ip_interface
from typing import TypeVar

from dataplane.cni.environment import NAME, Invocation, Variables, Verb, read_variables
from dataplane.cni.errors import CniError, Code, shown
from dataplane.cni.result import PreviousResult, parse_previous
from dataplane.cni.strict_json import JsonObject, JsonValue, decode
from dataplane.cni.version import LATEST, Version
from dataplane.core.errors import InvalidValueError
from dataplane.core.model import (
    MAX_MTU,
    MIN_MTU,
    AttachmentKey,
    IpInterface,
    Mac,
    check_name,
)
from dataplane.core.names import DEVICE_ID, NETWORK

CONFIG = "the network configuration"
MAX_SOCKET_PATH = 107  # unix(7): sun_path holds 108 bytes with the NUL
MAX_WANTED_IPS = 16

_Kind = TypeVar("_Kind")


_OWN_KEYS = ("segment", "agentSocket", "mtu", "deviceID")
_ELSEWHERE = {
    "vni": "a VNI belongs to a Segment: name the Segment with the key 'segment'",
    "ipMasq": "Overweave does no masquerading: chain a plugin that does",
}
_OWN_CAPABILITIES = frozenset({"mac", "ips", "deviceID"})
_IPAM_CAPABILITIES = frozenset({"ipRanges", "dns", "cgroupPath"})  # CONVENTIONS.md, host-local


_SINCE = {Verb.CHECK: Version.V0_4_0, Verb.GC: Version.V1_1_0, Verb.STATUS: Version.V1_1_0}


@dataclass(frozen=True, slots=True)
class Delegate:
    """The IPAM plugin the configuration names, where to look for it and what to hand on to it."""

    plugin: str
    directories: tuple[str, ...]
    invocation: Invocation


@dataclass(frozen=True, slots=True)
class Network:
    """What verbs share of the network configuration; no ``ipam``: addresses are Overweave's own."""

    version: Version
    name: str
    ipam: Delegate | None = None


@dataclass(frozen=True, slots=True)
class AddRequest:
    """ADD: attach a container. ``mtu`` in bytes; empty ``ips`` and no ``mac``: we choose.

    ``device_id`` names the VF that becomes the pod's interface; empty: a veth pair is made.
    """

    network: Network
    key: AttachmentKey
    netns: str
    segment: str
    identity: str
    mac: Mac | None = None
    ips: tuple[IpInterface, ...] = ()
    mtu: int | None = None
    previous: PreviousResult | None = None
    device_id: str = ""


@dataclass(frozen=True, slots=True)
class DelRequest:
    """DEL: detach a container.

    Nothing else is read: a fault that made ADD fail must not keep the container from dying.
    """

    key: AttachmentKey
    ipam: Delegate | None = None


@dataclass(frozen=True, slots=True)
class CheckRequest:
    """CHECK: compare ``previous``, the result of ADD, with what is there."""

    network: Network
    key: AttachmentKey
    netns: str
    segment: str
    previous: PreviousResult


@dataclass(frozen=True, slots=True)
class GcRequest:
    """GC: of this network only the attachments in ``valid`` are still wanted."""

    network: Network
    valid: frozenset[AttachmentKey]


@dataclass(frozen=True, slots=True)
class StatusRequest:
    """STATUS: say whether an ADD to ``segment``, of the VF ``device_id`` if one is named, would."""

    network: Network
    segment: str
    device_id: str = ""


Request = AddRequest | DelRequest | CheckRequest | GcRequest | StatusRequest


def parse(invocation: Invocation) -> Request:
    """Return what the runtime asks for. Raises CniError with the code SPEC.md gives the fault."""
    variables = read_variables(invocation.environment)
    document = decode(invocation.config, CONFIG)
    version = _version(document)
    if version < _SINCE.get(variables.verb, version):
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {str(version)!r} has no {variables.verb}, which came with"
            f" {str(_SINCE[variables.verb])!r}",
        )
    if variables.verb is Verb.DEL:
        return DelRequest(variables.key, _delegate_to_release(document, invocation))
    _check_type(document)
    network = Network(version, _network_name(document), _delegate(document, invocation))
    if variables.verb is Verb.GC:
        return GcRequest(network, _valid_attachments(document))
    if variables.verb is Verb.STATUS:
        runtime = _optional(document, "runtimeConfig", dict) or {}
        return StatusRequest(network, _segment(document), _device_id(document, runtime))
    return _attachment_request(variables, document, network)


def version_of(config: bytes) -> Version:
    """Return the protocol version to answer in, also where ``config`` is faulty."""
    try:
        return _version(decode(config, CONFIG))
    except CniError:
        return LATEST


def _attachment_request(
    variables: Variables, document: JsonObject, network: Network
) -> AddRequest | CheckRequest:
    document_before = _optional(document, "prevResult", dict)
    previous = None if document_before is None else parse_previous(document_before, network.version)
    if variables.verb is Verb.ADD:
        return _add_request(variables, document, network, previous)
    if previous is None:
        raise _invalid("prevResult is missing: CHECK compares with the result of ADD")
    return CheckRequest(network, variables.key, variables.netns, _segment(document), previous)


def _add_request(
    variables: Variables,
    document: JsonObject,
    network: Network,
    previous: PreviousResult | None,
) -> AddRequest:
    _check_keys(document)
    _agent_socket(document)
    runtime = _optional(document, "runtimeConfig", dict) or {}
    _check_capabilities(runtime, network.ipam)
    return AddRequest(
        network=network,
        key=variables.key,
        netns=variables.netns,
        segment=_segment(document),
        identity=variables.identity,
        mac=_mac(runtime, variables.args),
        ips=_wanted_ips(document, runtime, variables.args),
        mtu=_mtu(document),
        previous=previous,
        device_id=_device_id(document, runtime),
    )


# --- network configuration -------------------------------------------------------------------


def _version(document: JsonObject) -> Version:
    value = document.get("cniVersion", "")
    supported = ", ".join(Version)
    if not isinstance(value, str):
        raise CniError(
            Code.DECODING_FAILURE, f"cniVersion {shown(value)} is not a string such as {LATEST!s}"
        )
    if not value:
        raise CniError(
            Code.INCOMPATIBLE_VERSION, f"cniVersion is missing or empty; supported are {supported}"
        )
    try:
        return Version(value)
    except ValueError:
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"cniVersion {shown(value)} is not supported; supported are {supported}",
        ) from None


def _network_name(document: JsonObject) -> str:
    name = _text(document, "name")
    if not NETWORK.allows(name):
        raise _invalid(f"name {shown(name)} {NETWORK.rule}")
    return name


def _check_type(document: JsonObject) -> None:
    plugin = _text(document, "type")
    if "/" in plugin or plugin in (".", ".."):
        raise _invalid(f"type {shown(plugin)} is not the name of a plugin")


def _check_keys(document: JsonObject) -> None:
    """Refuse what would silently not happen; other keys belong to others and are passed by."""
    for name, value in document.items():
        if name in _ELSEWHERE and value is not False:
            raise CniError(
                Code.UNSUPPORTED_FIELD,
                f"{name} {shown(value)} is not supported: {_ELSEWHERE[name]}",
            )
        meant = difflib.get_close_matches(name.lower(), [key.lower() for key in _OWN_KEYS], 1, 0.8)
        if meant and name not in _OWN_KEYS:
            known = next(key for key in _OWN_KEYS if key.lower() == meant[0])
            raise CniError(
                Code.UNSUPPORTED_FIELD,
                f"{shown(name)} {shown(value)} is not a known key; is {known!r} meant?",
            )


def _segment(document: JsonObject) -> str:
    name = _text(document, "segment")
    try:
        return check_name("segment", name)
    except InvalidValueError as error:
        raise _invalid(str(error)) from None


def _agent_socket(document: JsonObject) -> None:
    """Check what only the shim uses: it was reached, but perhaps not by what is written here."""
    path = _optional(document, "agentSocket", str)
    if path is None:
        return
    if not path.startswith("/") or len(path.encode()) > MAX_SOCKET_PATH:
        raise _invalid(
            f"agentSocket {shown(path)} is not an absolute path of at most {MAX_SOCKET_PATH} bytes"
        )


def _mtu(document: JsonObject) -> int | None:
    mtu = _optional(document, "mtu", int)
    if mtu is None:
        return None
    if isinstance(mtu, bool) or not MIN_MTU <= mtu <= MAX_MTU:
        raise _invalid(f"mtu {shown(mtu)} is not a whole number from {MIN_MTU} to {MAX_MTU}")
    return mtu


def _device_id(document: JsonObject, runtime: JsonObject) -> str:
    """Return the VF that a device plugin has chosen; a meta plugin writes it in either place."""
    told = _optional(document, "deviceID", str)
    capability = _optional(runtime, "deviceID", str, "runtimeConfig.")
    if told is not None and capability is not None and told != capability:
        raise _invalid(f"deviceID {shown(told)} is not runtimeConfig.deviceID {shown(capability)}")
    device_id = told if told is not None else capability
    if device_id is None:
        return ""
    if not DEVICE_ID.allows(device_id):
        raise _invalid(f"deviceID {shown(device_id)} {DEVICE_ID.rule}")
    return device_id


def _check_capabilities(runtime: JsonObject, ipam: Delegate | None) -> None:
    known = _OWN_CAPABILITIES if ipam is None else _OWN_CAPABILITIES | _IPAM_CAPABILITIES
    for name, value in runtime.items():
        if name not in known:
            raise CniError(
                Code.UNSUPPORTED_FIELD,
                f"runtimeConfig.{name} {shown(value)} is not supported: take {name!r} out of"
                " this plugin's 'capabilities'",
            )


def _mac(runtime: JsonObject, args: Mapping[str, str]) -> Mac | None:
    where, text = "runtimeConfig.mac", _optional(runtime, "mac", str, "runtimeConfig.")
    if text is None:
        where, text = "CNI_ARGS MAC", args.get("MAC")
    if not text:
        return None
    try:
        return Mac(text)
    except InvalidValueError as error:
        code = Code.INVALID_CONFIG if where.startswith("runtime") else Code.INVALID_ENVIRONMENT
        raise CniError(code, f"{where}: {error}") from None


def _wanted_ips(
    document: JsonObject, runtime: JsonObject, args: Mapping[str, str]
) -> tuple[IpInterface, ...]:
    """Return the addresses asked for: of the three places CONVENTIONS.md knows, the newest."""
    extra = _optional(document, "args", dict) or {}
    by_convention = _optional(extra, "cni", dict, "args.") or {}
    for where, place in (("runtimeConfig.", runtime), ("args.cni.", by_convention)):
        texts = _optional(place, "ips", list, where)
        if texts is not None:
            return _ip_list(texts, f"{where}ips", Code.INVALID_CONFIG)
    texts = [args["IP"]] if args.get("IP") else []
    return _ip_list(texts, "CNI_ARGS IP", Code.INVALID_ENVIRONMENT)


def _ip_list(texts: Collection[JsonValue], where: str, code: Code) -> tuple[IpInterface, ...]:
    if len(texts) > MAX_WANTED_IPS:
        raise CniError(code, f"{where} asks for {len(texts)} addresses, {MAX_WANTED_IPS} at most")
    wanted: list[IpInterface] = []
    for text in texts:
        address = _address(text, where, code)
        if any(address.ip == other.ip for other in wanted):
            raise CniError(code, f"{where} {shown(text)} is asked for twice")
        wanted.append(address)
    return tuple(wanted)


def _address(text: JsonValue, where: str, code: Code) -> IpInterface:
    try:
        if not isinstance(text, str) or "%" in text:
            raise ValueError
        address = ip_interface(text)
    except ValueError:
        raise CniError(
            code, f"{where} {shown(text)} is not an address such as 10.0.0.5 or 10.0.0.5/24"
        ) from None
    if address.ip.is_multicast or address.ip.is_unspecified or address.ip.is_loopback:
        raise CniError(code, f"{where} {shown(text)} cannot be the address of one interface")
    return address


def _delegate(document: JsonObject, invocation: Invocation) -> Delegate | None:
    ipam = _optional(document, "ipam", dict)
    plugin = None if ipam is None else _optional(ipam, "type", str, "ipam.")
    if not plugin:
        return None
    if not NAME.fullmatch(plugin):
        raise _invalid(f"ipam.type {shown(plugin)} is not the name of a plugin")
    if plugin == document.get("type"):
        raise _invalid(f"ipam.type {shown(plugin)} is this plugin itself: name an IPAM plugin")
    directories = _search_path(invocation.environment)
    return Delegate(plugin, directories, invocation)


def _delegate_to_release(document: JsonObject, invocation: Invocation) -> Delegate | None:
    """Return the delegate of a DEL: one that ADD would have refused holds nothing to release."""
    try:
        return _delegate(document, invocation)
    except CniError:
        return None


def _search_path(environment: Mapping[bytes, bytes]) -> tuple[str, ...]:
    text = environment.get(b"CNI_PATH", b"").decode("utf-8", "replace")
    directories = tuple(part for part in text.split(":") if part)
    if not directories:
        raise CniError(
            Code.INVALID_ENVIRONMENT,
            "CNI_PATH is missing or empty: the IPAM plugin is sought there",
        )
    for directory in directories:
        if not directory.startswith("/"):
            raise CniError(
                Code.INVALID_ENVIRONMENT,
                f"CNI_PATH {shown(text)} holds {shown(directory)}, which is no absolute path",
            )
    return directories


def _valid_attachments(document: JsonObject) -> frozenset[AttachmentKey]:
    key = "cni.dev/valid-attachments"
    if key not in document:
        raise _invalid(f"{key} is missing: without it GC would remove every attachment")
    # A Go runtime without attachments sends null for its empty list.
    entries = _optional(document, key, list) or []
    return frozenset(_valid_attachment(entry, f"{key}[{n}]") for n, entry in enumerate(entries))


def _valid_attachment(entry: JsonValue, where: str) -> AttachmentKey:
    if not isinstance(entry, dict):
        raise _invalid(f"{where} {shown(entry)} is not an object")
    container, ifname = entry.get("containerID"), entry.get("ifname")
    if not isinstance(container, str) or not isinstance(ifname, str):
        raise _invalid(f"{where} {shown(entry)} lacks the strings containerID and ifname")
    return AttachmentKey(container, ifname)


# --- typed access ----------------------------------------------------------------------------

_KIND_NAMES = {str: "a string", int: "a whole number", dict: "an object", list: "a list"}


def _optional(document: JsonObject, key: str, kind: type[_Kind], where: str = "") -> _Kind | None:
    """Return the value of ``key`` if it is there; null counts as absent, as Go encoders send it."""
    value = document.get(key)
    if value is None:
        return None
    if not isinstance(value, kind):
        raise _invalid(f"{where}{key} {shown(value)} is not {_KIND_NAMES[kind]}")
    return value


def _text(document: JsonObject, key: str) -> str:
    text = _optional(document, key, str)
    if not text:
        raise _invalid(f"{key} is missing or empty")
    return text


def _invalid(message: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, message)
