"""Local files: attachments before ADD answers, segments, blocks, pins, functions for a restart.

Each file is written whole, fsynced and renamed, so that a crash leaves the old or the new one.
"""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any
from urllib.parse import quote

from dataplane import durable
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import Change, Rendering
from dataplane.core.errors import TargetError
from dataplane.core.events import AttachmentsLoaded
from dataplane.core.functions import FunctionPort, NetworkFunction
from dataplane.core.model import (
    Attachment,
    Block,
    Encap,
    Fabric,
    FabricEntity,
    Family,
    Guard,
    Hardware,
    Mac,
    Pin,
    Segment,
    Svi,
    UnknownUnicast,
    Verdict,
    Vni,
    endpoint_name,
)
from dataplane.core.reasons import Reason

_FABRIC_FILE = "fabric.json"
_FUNCTIONS_FILE = "functions.json"
_ATTACHMENTS = "attachments"
_MOST_PODS = 1024  # of a node, usually: the texts of more are made anew


@dataclass(frozen=True, slots=True)
class StateFile:
    """One file below the state directory; ``text`` is its whole content."""

    path: str
    text: str

    @property
    def scope(self) -> int | None:
        """Return None: local files never wait for the fabric."""
        return None


class StateFiles:
    """The Target "state"; ``load`` reads back what it wrote."""

    name = "state"
    deadline_s = 5.0
    bound_by = frozenset[str]()

    def __init__(self, directory: Path) -> None:
        """Keep the files below ``directory``, which is made if it is not there (mode 0700)."""
        self._directory = directory
        (directory / _ATTACHMENTS).mkdir(parents=True, exist_ok=True)
        directory.chmod(0o700)

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        """Return one file per attachment, one with the rows to keep, one with the functions."""
        del bindings
        files = [
            StateFile(_FABRIC_FILE, _dump([_encode(entity) for entity in desired.kept])),
            *map(_attachment_file, desired.attachments),
        ]
        if desired.functions:
            functions = [_encode_function(each) for each in desired.functions]
            files.append(StateFile(_FUNCTIONS_FILE, _dump(functions)))
        return Rendering({file.path: file for file in files})

    def observe(self) -> Mapping[Hashable, StateFile]:
        """Read every file. Raises TargetError with the system's message."""
        try:
            return {
                path: StateFile(path, (self._directory / path).read_text(errors="replace"))
                for path in self._paths()
            }
        except OSError as error:
            raise TargetError(f"state directory {self._directory}: {error}") from error

    def apply(self, change: Change) -> None:
        """Write and remove files; durable on return. Raises TargetError, system message whole."""
        try:
            files = [*change.add.values(), *change.update.values()]
            # First what an attachment needs after a restart, then the attachment.
            for file in sorted(files, key=lambda file: file.path != _FABRIC_FILE):
                durable.write(self._directory / file.path, file.text)
            for path in change.remove:
                (self._directory / str(path)).unlink(missing_ok=True)
            for directory in {(self._directory / str(path)).parent for path in _paths_of(change)}:
                durable.settle(directory)
        except OSError as error:
            raise TargetError(
                f"state directory {self._directory}: {error}; make room or fix its permissions"
            ) from error

    def load(self) -> AttachmentsLoaded:
        """Return what an earlier run kept. Raises TargetError naming a file that cannot be read."""
        attachments: list[Attachment] = []
        entities: list[FabricEntity] = []
        functions: list[NetworkFunction] = []
        for path, file in self.observe().items():
            try:
                data = json.loads(file.text)
                if path == _FABRIC_FILE:
                    entities += [_decode(item) for item in data]
                elif path == _FUNCTIONS_FILE:
                    functions += [_decode_function(item) for item in data]
                else:
                    attachments.append(_decode_attachment(data))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise TargetError(
                    f"{self._directory / str(path)} is damaged ({error!r}); move it away and detach"
                    " what it names"
                ) from error
        return AttachmentsLoaded(tuple(attachments), tuple(entities), tuple(functions))

    def _paths(self) -> list[str]:
        names = (
            f"{_ATTACHMENTS}/{p.name}" for p in (self._directory / _ATTACHMENTS).glob("*.json")
        )
        others = (_FABRIC_FILE, _FUNCTIONS_FILE)
        return [*names, *(name for name in others if (self._directory / name).exists())]


@lru_cache(_MOST_PODS)
def _attachment_file(attachment: Attachment) -> StateFile:
    return StateFile(_file_name(attachment), _dump(_encode_attachment(attachment)))


def _file_name(attachment: Attachment) -> str:
    name = "+".join(quote(part, safe="") for part in attachment.key)
    return f"{_ATTACHMENTS}/{name}.json"


def _paths_of(change: Change) -> tuple[Hashable, ...]:
    return (*change.add, *change.update, *change.remove)


def _dump(data: object) -> str:
    return json.dumps(data, indent=1, sort_keys=True) + "\n"


def _encode_attachment(attachment: Attachment) -> dict[str, Any]:
    plain = {
        name: getattr(attachment, name)
        for name in (
            "container_id",
            "ifname",
            "netns",
            "segment",
            "mac",
            "identity",
            "slot",
            "sequence",
            "ipam",
            "mtu",
            "network",
            "requested_at",
            "netdev",
            "vlan",
            "connected",
        )
    }
    blocked = attachment.blocked
    return {
        **plain,
        "ips": [str(ip) for ip in attachment.ips],
        "moves": list(attachment.moves),
        "blocked": blocked and {"reason": blocked.reason, "detail": blocked.detail},
    }


def _decode_attachment(data: dict[str, Any]) -> Attachment:
    ips = tuple(ip_address(ip) for ip in data["ips"])
    found = data["blocked"]
    blocked = found and Verdict(Reason(found["reason"]), found["detail"])
    moves = tuple(data.get("moves", ()))  # a file of a version that did not count them
    return Attachment(
        **{**data, "mac": Mac(data["mac"]), "ips": ips, "blocked": blocked, "moves": moves}
    )


def _encode_function(function: NetworkFunction) -> dict[str, Any]:
    ports = [{"mac": port.mac, "identity": port.identity} for port in function.ports]
    return {"segment": function.segment, "input": ports[0], "output": ports[1]}


def _decode_function(data: dict[str, Any]) -> NetworkFunction:
    ports = (data["input"], data["output"])
    source, sink = (FunctionPort(Mac(each["mac"]), each["identity"]) for each in ports)
    return NetworkFunction(data["segment"], source, sink)


def _encode(entity: FabricEntity) -> dict[str, Any]:
    match entity:
        case Fabric(name=name, geneve_port=geneve, vxlan_port=vxlan):
            return {"kind": "Fabric", "name": name, "geneve_port": geneve, "vxlan_port": vxlan}
        case Block(segment=segment, prefix=prefix, node=node):
            return {"kind": "Block", "segment": segment, "prefix": str(prefix), "node": node}
        case Pin(segment=segment, endpoint=endpoint, hardware=hardware):
            return {"kind": "Pin", "segment": segment, "endpoint": endpoint, "hardware": hardware}
        case Segment():
            return {
                "kind": "Segment",
                "name": entity.name,
                "vni": int(entity.vni),
                "encap": entity.encap,
                "underlay": entity.underlay,
                "mtu": entity.mtu,
                "subnets": [str(subnet) for subnet in entity.subnets],
                "static_ranges": [str(prefix) for prefix in entity.static_ranges],
                "guard": entity.guard,
                "unknown_unicast": entity.unknown_unicast,
            }
        case Svi():
            return {
                "kind": "Svi",
                "name": entity.name,
                "vrf": entity.vrf,
                "segment": entity.segment,
                "mac": entity.mac,
                "prefixes": [str(prefix) for prefix in entity.prefixes],
            }
        case _:
            raise TypeError(f"{type(entity).__name__} rows are not kept locally")


def _decode(data: dict[str, Any]) -> FabricEntity:
    fields = {key: value for key, value in data.items() if key != "kind"}
    match data["kind"]:
        case "Fabric":
            return Fabric(**fields)
        case "Block":
            return Block(**{**fields, "prefix": ip_network(fields["prefix"])})
        case "Pin":
            return Pin(
                fields["segment"],
                endpoint_name(fields["endpoint"]),
                Hardware(fields["hardware"]),
            )
        case "Segment":
            return Segment(
                name=fields["name"],
                vni=Vni(fields["vni"]),
                encap=Encap(fields["encap"]),
                underlay=Family(fields["underlay"]),
                mtu=fields["mtu"],
                subnets=tuple(ip_network(subnet) for subnet in fields["subnets"]),
                static_ranges=tuple(ip_network(prefix) for prefix in fields["static_ranges"]),
                guard=Guard(fields["guard"]),
                unknown_unicast=UnknownUnicast(fields["unknown_unicast"]),
            )
        case "Svi":
            prefixes = tuple(ip_interface(prefix) for prefix in fields["prefixes"])
            return Svi(**{**fields, "mac": Mac(fields["mac"]), "prefixes": prefixes})
        case kind:
            raise ValueError(f"unknown kind {kind!r}")
