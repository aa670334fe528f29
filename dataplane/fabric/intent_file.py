"""The door of intent files: YAML documents become values of the core, or faults and their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PlainValidator

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import (
    GENEVE_PORT,
    MAX_MTU,
    MIN_MTU,
    VXLAN_PORT,
    Encap,
    Endpoint,
    Fabric,
    FabricEntity,
    Family,
    Grant,
    Guard,
    Hardware,
    Mac,
    Node,
    Pin,
    Segment,
    Svi,
    UnknownUnicast,
    Vni,
    Vrf,
    check_name,
    endpoint_name,
)
from dataplane.documents import (
    Document,
    Fault,
    FaultyFileError,
    Interface,
    Ip,
    Location,
    Network,
    NodeName,
    SegmentName,
    Strict,
    read_documents,
    shown,
    validate,
)


@dataclass(frozen=True, slots=True)
class Written:
    """An entity as a file gives it, with the place to name in a fault."""

    entity: FabricEntity
    document: Document
    location: Location = ()

    def fault(self, location: Location, text: str) -> Fault:
        """Return a fault at ``location`` inside this entity."""
        above = f"{self.location[0]}[{self.location[1]}]: " if self.location else ""
        return _fault(self.document, (*self.location, *location), f"{above}{text}")


@dataclass(frozen=True, slots=True)
class IntentFile:
    """A file as far as it could be read; ``unread`` are the names in documents with faults."""

    source: str
    written: tuple[Written, ...]
    unread: frozenset[str]
    faults: tuple[Fault, ...]

    def check(self, more: Iterable[Fault] = ()) -> None:
        """Raise FaultyFileError if there are faults, here or in ``more``."""
        faults = (*self.faults, *more)
        if faults:
            raise FaultyFileError(self.source, faults)


def read_intent(text: str, source: str) -> IntentFile:
    """Return what a file says; its faults are kept, to be told with all others."""
    documents, told = read_documents(text)
    faults = list(told)
    if not documents and not faults:
        faults.append(Fault(1, "", f"nothing in it; write one of {_KIND_NAMES}"))
    written: list[Written] = []
    unread: set[str] = set()
    for document in documents:
        entities, told = _read(document)
        written += [Written(entity, document, location) for location, entity in entities]
        faults += told
        if told and isinstance(document.value, dict):
            unread.add(str(document.value.get("name")))
    return IntentFile(source, tuple(written), frozenset(unread), tuple(faults))


def _mac(value: object) -> Mac:
    if not isinstance(value, str):
        raise InvalidValueError(f"mac {shown(value)} is not text like 02:00:00:00:00:01")
    return Mac(value)


def _vni(value: object) -> Vni:
    return Vni(value)  # type: ignore[arg-type] # it is what refuses other types


VrfName = Annotated[str, AfterValidator(partial(check_name, "vrf"))]
SviName = Annotated[str, AfterValidator(partial(check_name, "svi"))]
MacAddress = Annotated[Mac, PlainValidator(_mac)]
UdpPort = Annotated[int, Field(ge=1, le=65535)]
Entities = Iterator[tuple[Location, FabricEntity]]


class _Fabric(Strict):
    kind: Literal["Fabric"]
    name: Annotated[str, Field(min_length=1, max_length=63)] = Fabric().name
    geneve_port: UdpPort = GENEVE_PORT
    vxlan_port: UdpPort = VXLAN_PORT

    def entities(self) -> Entities:
        yield (), Fabric(self.name, self.geneve_port, self.vxlan_port)


class _Segment(Strict):
    kind: Literal["Segment"]
    name: SegmentName
    vni: Annotated[Vni, PlainValidator(_vni)]
    encap: Annotated[Encap, Field(strict=False)] = Encap.GENEVE
    underlay: Annotated[Family, Field(strict=False)] = Family.IPV4
    mtu: Annotated[int, Field(ge=MIN_MTU, le=MAX_MTU)] | None = None
    subnets: list[Network] = []
    static_ranges: list[Network] = []
    guard: Annotated[Guard, Field(strict=False)] = Guard.IP
    unknown_unicast: Annotated[UnknownUnicast, Field(strict=False)] = UnknownUnicast.DROP

    def entities(self) -> Entities:
        segment = Segment(
            name=self.name,
            vni=self.vni,
            encap=self.encap,
            underlay=self.underlay,
            mtu=self.mtu,
            subnets=tuple(self.subnets),
            static_ranges=tuple(self.static_ranges),
            guard=self.guard,
            unknown_unicast=self.unknown_unicast,
        )
        yield (), segment


class _Vrf(Strict):
    kind: Literal["Vrf"]
    name: VrfName
    vni: Annotated[Vni, PlainValidator(_vni)] | None = None
    loopback: Interface | None = None

    def entities(self) -> Entities:
        yield (), Vrf(self.name, self.vni, self.loopback)


class _Svi(Strict):
    kind: Literal["Svi"]
    name: SviName
    vrf: VrfName
    segment: SegmentName
    mac: MacAddress
    prefixes: Annotated[list[Interface], Field(min_length=1)]

    def entities(self) -> Entities:
        yield (), Svi(self.name, self.vrf, self.segment, self.mac, tuple(self.prefixes))


class _Grant(Strict):
    kind: Literal["Grant"]
    segment: SegmentName
    node: NodeName
    mac: MacAddress | None = None
    ips: list[Network] = []

    def entities(self) -> Entities:
        yield (), Grant(self.segment, self.node, self.mac, tuple(self.ips))


class _Pin(Strict):
    kind: Literal["Pin"]
    segment: SegmentName
    endpoint: Annotated[str, Field(max_length=1024), AfterValidator(endpoint_name)]
    hardware: Annotated[Hardware, Field(strict=False)]

    def entities(self) -> Entities:
        yield (), Pin(self.segment, self.endpoint, self.hardware)


class _StaticEndpoint(Strict):
    segment: SegmentName
    mac: MacAddress
    ips: list[Ip] = []
    identity: Annotated[str, Field(min_length=1, max_length=1024)] | None = None

    def at(self, node: str) -> Endpoint:
        identity = self.identity or f"{node}/{self.segment}/{self.mac}"
        return Endpoint(
            segment=self.segment,
            node=node,
            mac=self.mac,
            ips=tuple(self.ips),
            identity=identity,
            sequence=0,
            container_id=identity,
            ifname="",
        )


class _Node(Strict):
    kind: Literal["Node"]
    name: NodeName
    vteps: Annotated[list[Ip], Field(min_length=1)]
    endpoints: list[_StaticEndpoint] = []

    def entities(self) -> Entities:
        yield (), Node(self.name, tuple(self.vteps), static=True)
        for index, endpoint in enumerate(self.endpoints):
            yield ("endpoints", index), endpoint.at(self.name)


_KINDS: Mapping[str, type[_Fabric | _Segment | _Vrf | _Svi | _Grant | _Pin | _Node]] = {
    "Fabric": _Fabric,
    "Segment": _Segment,
    "Vrf": _Vrf,
    "Svi": _Svi,
    "Grant": _Grant,
    "Pin": _Pin,
    "Node": _Node,
}
_KIND_NAMES = ", ".join(_KINDS)
_NAMED_BY = {"Grant": ("segment", "node"), "Pin": ("segment", "endpoint")}


_Read = tuple[tuple[tuple[Location, FabricEntity], ...], tuple[Fault, ...]]


def _read(document: Document) -> _Read:
    value = document.value
    if not isinstance(value, dict):
        return (), (_fault(document, (), f"{shown(value)} is not keys with values"),)
    kind = value.get("kind")
    model = _KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        subject = f"kind {shown(kind)} is not" if "kind" in value else "kind is missing; it is"
        return (), (_fault(document, ("kind",), f"{subject} one of {_KIND_NAMES}"),)
    parsed, sentences = validate(model, value)
    faults = (_fault(document, location, text) for location, text in sentences)
    return tuple(parsed.entities()) if parsed else (), tuple(faults)


def _fault(document: Document, location: Location, text: str) -> Fault:
    where = f"document {document.number}{_called(document.value)}, "
    return Fault(document.line(location), where, text)


def _called(value: object) -> str:
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        return ""
    keys = _NAMED_BY.get(value["kind"], ("name",))
    name = "/".join(str(value[key]) for key in keys if key in value)
    return f" ({value['kind']} {name})" if name else f" ({value['kind']})"
