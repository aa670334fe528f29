"""YAML files read strictly: what is wrong with one is said all at once, with place, key and value.

Scalars follow the YAML 1.2 core schema, because YAML 1.1 reads the guard ``off`` as a boolean and
the MAC ``12:34:56:10:20:30`` as a number to the base of sixty.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, PlainValidator, ValidationError

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import IpAddress, IpInterface, IpNetwork, check_name

Location = tuple[int | str, ...]
Model = TypeVar("Model", bound=BaseModel)

_SHOWN = 60
_LONGEST_IFNAME = 15  # IFNAMSIZ of linux/if.h less the final zero byte
_CORE_SCHEMA = {
    "tag:yaml.org,2002:null": (r"~|null|Null|NULL|", "~nN"),
    "tag:yaml.org,2002:bool": (r"true|True|TRUE|false|False|FALSE", "tTfF"),
    "tag:yaml.org,2002:int": (r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+", "-+0123456789"),
    "tag:yaml.org,2002:float": (
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+",
        "-+.0123456789",
    ),
}


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of YAML 1.2's core schema."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}


for _tag, (_pattern, _first) in _CORE_SCHEMA.items():
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), [*_first])
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^$"), [""])


def _node_name(text: str) -> str:
    return check_name("node", text)


def _segment_name(text: str) -> str:
    return check_name("segment", text)


def _ip(value: object) -> IpAddress:
    try:
        address = ip_address(_text(value))
    except ValueError:
        raise InvalidValueError(f"{shown(value)} is not an IPv4 or IPv6 address") from None
    if address.version == 6 and address.scope_id is not None:
        raise InvalidValueError(f"{shown(value)} has a zone, which means nothing on another node")
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise InvalidValueError(f"{shown(value)} cannot be the address of an interface")
    return address


def _network(value: object) -> IpNetwork:
    try:
        network = ip_network(_text(value))
    except ValueError as error:
        raise InvalidValueError(
            f"{shown(value)} is not a prefix like 10.0.0.0/24: {error}"
        ) from None
    if network.is_multicast or network.is_loopback:
        raise InvalidValueError(f"{shown(value)} holds no addresses of interfaces")
    return network


def interface_address(value: object) -> IpInterface:
    """Return ``value``, text like 10.0.0.1/24, as an address of a host with its subnet.

    Raises InvalidValueError.
    """
    try:
        found = ip_interface(_text(value))
        address = _ip(str(found.ip))
    except InvalidValueError:
        raise
    except ValueError as error:
        raise InvalidValueError(
            f"{shown(value)} is not an address with its prefix like 10.0.0.1/24: {error}"
        ) from None
    if address.is_link_local:
        raise InvalidValueError(f"{shown(value)} is a link-local address, which is not routed")
    return found


def absolute_path(value: object) -> Path:
    """Return ``value`` as an absolute path. Raises InvalidValueError."""
    path = Path(value) if isinstance(value, str) else None
    if path is None or not path.is_absolute() or "\0" in str(path) or ".." in path.parts:
        raise InvalidValueError(f"{shown(value)} is not an absolute path")
    return path


def _interface(name: str) -> str:
    if (
        not 1 <= len(name.encode()) <= _LONGEST_IFNAME
        or {*name} & {*"/: \t\n"}
        or name in (".", "..")
    ):
        raise InvalidValueError(f"interface {name!r} is no name that Linux gives to an interface")
    return name


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not text")  # noqa: TRY004 - told as a wrong value
    return value


InterfaceName = Annotated[str, AfterValidator(_interface)]
NodeName = Annotated[str, AfterValidator(_node_name)]
SegmentName = Annotated[str, AfterValidator(_segment_name)]
Ip = Annotated[IpAddress, PlainValidator(_ip)]
Interface = Annotated[IpInterface, PlainValidator(interface_address)]
Network = Annotated[IpNetwork, PlainValidator(_network)]


class Strict(BaseModel):
    """A mapping of a file: no unknown keys, and no value is made into another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing wrong with a file; ``where`` is more than the line, as "document 2, "."""

    line: int
    where: str
    text: str


class FaultyFileError(InvalidValueError):
    """A file has ``faults``; the text is a sentence for each, one a line, in the file's order."""

    def __init__(self, source: str, faults: Iterable[Fault]) -> None:
        """Keep the faults apart for whoever shows them as a list."""
        self.faults = tuple(sorted(set(faults)))
        sentences = (
            f"{source}, {fault.where}line {fault.line}: {fault.text}" for fault in self.faults
        )
        super().__init__("\n".join(sentences))


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a YAML file: its ``number`` from 1, its value, and where its keys stand."""

    number: int
    value: Any
    node: yaml.Node

    def line(self, location: Location = ()) -> int:
        """Return the line, from 1, of the key at ``location``, or of the nearest one above it."""
        node, line = self.node, self.node.start_mark.line
        for step in location:
            found = _child(node, step)
            if found is None:
                break
            key, node = found
            line = key.start_mark.line
        return line + 1


def read_documents(text: str) -> tuple[tuple[Document, ...], tuple[Fault, ...]]:
    """Return the documents of a YAML text as far as it is YAML, and what in it is not."""
    documents: list[Document] = []
    faults: list[Fault] = []
    try:
        for node in yaml.compose_all(text, _Loader):
            faults += _doubles(node)
            value = _Loader("").construct_document(node)
            if value is not None:
                documents.append(Document(len(documents) + 1, value, node))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        faults.append(Fault(line, "", f"not YAML: {error.problem}"))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        faults.append(Fault(line, "", f"not YAML: {error.reason}: {chr(error.character)!r}"))
    except RecursionError:
        faults.append(Fault(1, "", "it is nested too deeply"))
    return tuple(documents), tuple(faults)


def validate(
    model: type[Model], value: object
) -> tuple[Model | None, tuple[tuple[Location, str], ...]]:
    """Return ``value`` as a ``model``, or None and every fault with where it is."""
    try:
        return model.model_validate(value), ()
    except ValidationError as error:
        return None, tuple(
            (tuple(fault["loc"]), _sentence(model, fault))
            for fault in error.errors(include_url=False)
        )


def shown(value: object) -> str:
    """Return ``value`` as one short piece of a sentence."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _sentence(model: type[BaseModel], fault: Any) -> str:  # noqa: ANN401 - pydantic's ErrorDetails
    location = tuple(fault["loc"])
    key = _path(location)
    if fault["type"] == "missing":
        return f"{key} is missing"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {key}{_suggestion(model, location)}"
    cause = fault.get("ctx", {}).get("error")
    if fault["type"] == "model_type":
        return f"{key} {shown(fault['input'])} is not keys with values"
    if isinstance(cause, InvalidValueError):  # our own words hold the value, and may hold the key
        subject = key
        if location and str(cause).startswith(str(location[-1])):
            subject = _path(location[:-1])
        return f"{subject}: {cause}" if subject else str(cause)
    message = str(cause) if cause is not None else fault["msg"]
    subject = f"{key} {shown(fault['input'])}" if key else shown(fault["input"])
    return f"{subject}: {message[:1].lower()}{message[1:]}"


def _suggestion(model: type[BaseModel], location: Location) -> str:
    if len(location) > 1:
        return ""
    close = difflib.get_close_matches(str(location[0]), model.model_fields, 1)
    return f" (did you mean {close[0]}?)" if close else ""


def _path(location: Location) -> str:
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location)
    return text.removeprefix(".")


def _child(node: yaml.Node, step: int | str) -> tuple[yaml.Node, yaml.Node] | None:
    if isinstance(node, yaml.MappingNode):
        return next((pair for pair in reversed(node.value) if pair[0].value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        return node.value[step], node.value[step]
    return None


def _doubles(node: yaml.Node) -> Iterator[Fault]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                yield Fault(key.start_mark.line + 1, "", f"key {name!r} is already there")
            seen |= {name} if name is not None else set()
            yield from _doubles(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _doubles(item)
