"""Results of ADD: read those of others, write our own in the version that was asked for. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network

from dataplane.cni.errors import CniError, Code, shown
from dataplane.cni.strict_json import JsonObject, JsonValue
from dataplane.cni.version import Version
from dataplane.contracts import PodRoute
from dataplane.core.desired import Port
from dataplane.core.model import IpAddress, IpInterface, IpNetwork, Segment

_MAC = re.compile(r"[0-9A-Fa-f]{2}(:[0-9A-Fa-f]{2})+")


@dataclass(frozen=True, slots=True)
class PreviousInterface:
    """An interface of an earlier result; an empty ``sandbox``: on the host."""

    name: str
    mac: str
    sandbox: str


@dataclass(frozen=True, slots=True)
class PreviousIp:
    """An address of an earlier result, and the index of its interface if it names one."""

    address: IpInterface
    gateway: IpAddress | None
    interface: int | None


@dataclass(frozen=True, slots=True)
class PreviousResult:
    """The result of the plugin before us (ADD) or of the whole chain (CHECK).

    ``document`` is all of it as it came, for passing on.
    """

    interfaces: tuple[PreviousInterface, ...]
    ips: tuple[PreviousIp, ...]
    document: Mapping[str, JsonValue]


@dataclass(frozen=True, slots=True)
class Given:
    """What the runtime asked for or an IPAM plugin decided; ``dns`` is passed on as it came."""

    addresses: tuple[IpInterface, ...] = ()
    gateways: Mapping[IpAddress, IpAddress] = field(default_factory=dict)
    routes: tuple[PodRoute, ...] = ()
    dns: JsonObject | None = None

    def routes_of(self, port: Port) -> tuple[PodRoute, ...]:
        """Return the pod's routes: those given, and what no address says to be on the link."""
        outside = (
            address.network
            for address in self.addresses
            if address.network.num_addresses > 1 and subnet_of(address.ip, port.segment) is None
        )
        given = {route.destination for route in self.routes}
        on_link = (net for net in (*outside, *port.on_link) if net not in given)
        return (*map(PodRoute, on_link), *self.routes)


def parse_previous(document: JsonObject, version: Version) -> PreviousResult:
    """Return ``prevResult``, which must be of the configuration's version. Raises CniError 7."""
    return _Reader("prevResult", Code.INVALID_CONFIG).previous(document, version)


def parse_given(document: JsonObject, plugin: str, code: Code) -> Given:
    """Return the addresses in the answer of IPAM ``plugin``. Raises CniError with ``code``."""
    reader = _Reader(f"the answer of IPAM plugin {plugin}:", code)
    ips = [reader.ip(entry, f"ips[{n}]") for n, entry in enumerate(reader.items(document, "ips"))]
    if not ips:
        raise CniError(code, f"IPAM plugin {plugin} gave no address: 'ips' is missing or empty")
    gateways = {ip.address.ip: ip.gateway for ip in ips if ip.gateway is not None}
    routes = reader.items(document, "routes")
    return Given(
        addresses=tuple(ip.address for ip in ips),
        gateways=gateways,
        routes=tuple(
            reader.route(entry, f"routes[{n}]", tuple(gateways.values()))
            for n, entry in enumerate(routes)
        ),
        dns=reader.object(document, "dns"),
    )


def subnet_of(ip: IpAddress, segment: Segment) -> IpNetwork | None:
    """Return the subnet of ``segment`` that ``ip`` lies in; its prefix length is the pod's."""
    return next((net for net in segment.subnets if net.version == ip.version and ip in net), None)


def given_fault(addresses: Iterable[IpInterface], segment: Segment) -> str | None:
    """Return what is wrong with addresses that others chose for a pod on ``segment``, or None.

    A prefix length other than the subnet's is refused, but for that of a single address: what is
    on the link is the Segment's word, where it has one, and a result must not say otherwise.
    """
    seen: set[IpAddress] = set()
    for address in addresses:
        if address.ip in seen:
            return f"{address.ip} twice"
        seen.add(address.ip)
        family = [net for net in segment.subnets if net.version == address.version]
        if not family:
            continue
        subnet = subnet_of(address.ip, segment)
        if subnet is None:
            subnets = ", ".join(map(str, family))
            return f"{address}, which is in no subnet of segment {segment.name} ({subnets})"
        if address.network.prefixlen not in (subnet.prefixlen, address.max_prefixlen):
            return f"{address}, but the prefix length of segment {segment.name} is that of {subnet}"
        if address.ip in _reserved(subnet):
            return f"{address.ip}, which no host of {subnet} may have"
    return None


def _reserved(subnet: IpNetwork) -> tuple[IpAddress, ...]:
    """Return the addresses of a subnet that stand for all of its hosts or routers."""
    if subnet.max_prefixlen - subnet.prefixlen < 2:
        return ()  # RFC 3021, RFC 6164: both ends of a point-to-point link
    if subnet.version == 6:
        return (subnet.network_address,)  # RFC 4291 2.6.1, subnet-router anycast
    return (subnet.network_address, subnet.broadcast_address)


def add_result(
    version: Version,
    port: Port,
    previous: PreviousResult | None,
    given: Given,
    device_id: str = "",
) -> JsonObject:
    """Return the result of a successful ADD, appended to that of an earlier plugin of the chain.

    With ``device_id`` the pod's interface is that VF, and nothing of it is left on the host.
    """
    document: JsonObject = dict(previous.document) if previous else {}
    before = _existing(document, "interfaces")
    own = _interface_entries(version, port, device_id)
    pod = len(before) + len(own) - 1
    ips = [_ip_entry(version, port, ip, given, pod) for ip in port.attachment.ips]
    document["cniVersion"] = str(version)
    document["interfaces"] = [*before, *own]
    document["ips"] = [*_existing(document, "ips"), *ips]
    routes = [_route_entry(route) for route in given.routes]
    if routes:
        document["routes"] = [*_existing(document, "routes"), *routes]
    if given.dns:
        document["dns"] = given.dns
    return document


def previous_faults(previous: PreviousResult, port: Port, netns: str) -> tuple[str, ...]:
    """Return how the result that a runtime kept differs from the attachment, a sentence each."""
    attachment = port.attachment
    index = next(
        (
            n
            for n, interface in enumerate(previous.interfaces)
            if interface.name == attachment.ifname and interface.sandbox == netns
        ),
        None,
    )
    if index is None:
        return (f"prevResult has no interface {attachment.ifname} in {netns}",)
    faults = []
    mac = previous.interfaces[index].mac
    if mac and mac.lower() != attachment.mac:
        faults.append(f"prevResult has mac {mac} for {attachment.ifname}, it is {attachment.mac}")
    listed = [ip.address.ip for ip in previous.ips if ip.interface in (index, None)]
    faults.extend(
        f"prevResult lacks the address {ip} of {attachment.ifname}"
        for ip in attachment.ips
        if ip not in listed
    )
    faults.extend(
        f"prevResult has the address {ip.address.ip} for {attachment.ifname}, which is not its own"
        for ip in previous.ips
        if ip.interface == index and ip.address.ip not in attachment.ips
    )
    return tuple(faults)


def _existing(document: Mapping[str, JsonValue], key: str) -> list[JsonValue]:
    value = document.get(key)
    return value if isinstance(value, list) else []


def _interface_entries(version: Version, port: Port, device_id: str) -> list[JsonValue]:
    attachment = port.attachment
    host: JsonObject = {"name": attachment.access_port}
    pod: JsonObject = {
        "name": attachment.ifname,
        "mac": str(attachment.mac),
        "sandbox": attachment.netns,
    }
    if version >= Version.V1_1_0:
        host["mtu"] = pod["mtu"] = port.mtu
        if device_id:
            pod["pciID"] = device_id
    return [pod] if device_id else [host, pod]


def _ip_entry(
    version: Version, port: Port, ip: IpAddress, given: Given, interface: int
) -> JsonObject:
    address = f"{ip}/{_prefix_length(ip, port.segment, given)}"
    entry: JsonObject = {"address": address, "interface": interface}
    if version < Version.V1_0_0:
        entry["version"] = str(ip.version)
    if ip in given.gateways:
        entry["gateway"] = str(given.gateways[ip])
    return entry


def _prefix_length(ip: IpAddress, segment: Segment, given: Given) -> int:
    subnet = subnet_of(ip, segment)
    if subnet is not None:
        return subnet.prefixlen
    lengths = (other.network.prefixlen for other in given.addresses if other.ip == ip)
    return next(lengths, ip.max_prefixlen)


def _route_entry(route: PodRoute) -> JsonObject:
    entry: JsonObject = {"dst": str(route.destination)}
    if route.gateway is not None:
        entry["gw"] = str(route.gateway)
    return entry


class _Reader:
    """Reads a result; every fault names the result (``what``), the key and the value."""

    def __init__(self, what: str, code: Code) -> None:
        self._what = what
        self._code = code

    def previous(self, document: JsonObject, version: Version) -> PreviousResult:
        declared = document.get("cniVersion")
        if declared not in (None, str(version)):
            raise self._fault(
                "cniVersion", declared, f"is not the configuration's, {str(version)!r}"
            )
        entries = self.items(document, "interfaces")
        interfaces = tuple(
            self._interface(entry, f"interfaces[{n}]") for n, entry in enumerate(entries)
        )
        ips = tuple(
            self.ip(entry, f"ips[{n}]", len(interfaces))
            for n, entry in enumerate(self.items(document, "ips"))
        )
        return PreviousResult(interfaces, ips, document)

    def items(self, document: JsonObject, key: str) -> list[JsonValue]:
        value = document.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self._fault(key, value, "is not a list")
        return value

    def object(self, document: JsonObject, key: str) -> JsonObject | None:
        value = document.get(key)
        if value is not None and not isinstance(value, dict):
            raise self._fault(key, value, "is not an object")
        return value

    def ip(self, entry: JsonValue, where: str, interfaces: int | None = None) -> PreviousIp:
        """Read one entry of ``ips``; its index must be below ``interfaces``, None: is not read."""
        if not isinstance(entry, dict):
            raise self._fault(where, entry, "is not an object")
        address = self._address(entry.get("address"), f"{where}.address")
        family = entry.get("version")
        if family not in (None, str(address.version)):
            raise self._fault(f"{where}.version", family, f"is not that of {address}")
        gateway = self._gateway(entry.get("gateway"), f"{where}.gateway")
        if interfaces is None:
            return PreviousIp(address, gateway, None)
        return PreviousIp(address, gateway, self._index(entry, where, interfaces))

    def _index(self, entry: JsonObject, where: str, interfaces: int) -> int | None:
        index = entry.get("interface")
        if index is None:
            return None
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < interfaces:
            raise self._fault(
                f"{where}.interface", index, f"is not an index of the {interfaces} interfaces"
            )
        return index

    def route(self, entry: JsonValue, where: str, gateways: tuple[IpAddress, ...]) -> PodRoute:
        """Read one entry of ``routes``; without a next hop the gateway of its family is meant."""
        if not isinstance(entry, dict):
            raise self._fault(where, entry, "is not an object")
        for key, value in entry.items():
            if key not in ("dst", "gw"):
                raise self._fault(f"{where}.{key}", value, "is not supported")
        destination = self._network(entry.get("dst"), f"{where}.dst")
        gateway = self._gateway(entry.get("gw"), f"{where}.gw")
        if gateway is None:
            same = (other for other in gateways if other.version == destination.version)
            gateway = next(same, None)
        return PodRoute(destination, gateway)

    def _network(self, value: JsonValue, where: str) -> IpNetwork:
        try:
            return ip_network(value if isinstance(value, str) else "")
        except ValueError:
            raise self._fault(where, value, "is not a network such as 10.0.0.0/24") from None

    def _interface(self, entry: JsonValue, where: str) -> PreviousInterface:
        if not isinstance(entry, dict):
            raise self._fault(where, entry, "is not an object")
        name = self._text(entry, "name", where)
        if not name:
            raise self._fault(f"{where}.name", entry.get("name"), "is no interface name")
        mac = self._text(entry, "mac", where)
        if mac and not _MAC.fullmatch(mac):
            raise self._fault(f"{where}.mac", mac, "is no hardware address")
        return PreviousInterface(name, mac, self._text(entry, "sandbox", where))

    def _text(self, entry: JsonObject, key: str, where: str) -> str:
        value = entry.get(key)
        if value is not None and not isinstance(value, str):
            raise self._fault(f"{where}.{key}", value, "is not a string")
        return value or ""

    def _address(self, value: JsonValue, where: str) -> IpInterface:
        try:
            if not isinstance(value, str) or "/" not in value or "%" in value:
                raise ValueError
            return ip_interface(value)
        except ValueError:
            raise self._fault(where, value, "is not an address such as 10.0.0.5/24") from None

    def _gateway(self, value: JsonValue, where: str) -> IpAddress | None:
        if value in (None, ""):
            return None
        try:
            return ip_address(value if isinstance(value, str) else "")
        except ValueError:
            raise self._fault(where, value, "is not an IP address") from None

    def _fault(self, key: str, value: JsonValue, rule: str) -> CniError:
        return CniError(self._code, f"{self._what} {key} {shown(value)} {rule}")
