"""Resource names as the OPI reference server writes and reads them (AIP-122, AIP-133). Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from uuid import UUID

from dataplane.opi.refusals import Fault, OpiRefusedError, missing, shown

SERVICE = "//network.opiproject.org"

# What can stand in a name. Every Segment's name can: not all of them were made by this service.
_SEGMENT = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_SETTABLE = re.compile(r"[a-z0-9-]+")
_N = r"(0|[1-9][0-9]{0,4})"
HOST_PORT = re.compile(f"host{_N}-{_N}")  # what a DPU operator's daemon calls a VF: PF, VF
_NOTHING = re.compile(r"(?!)")


@dataclass(frozen=True, slots=True)
class Collection:
    """One kind of resources; ``bare`` are ids that may stand for the whole name.

    ``field`` is what a request calls such a resource.
    """

    plural: str
    field: str
    bare: re.Pattern[str] = _NOTHING

    def name(self, resource_id: str) -> str:
        """Return the full name of a resource."""
        return f"{SERVICE}/{self.plural}/{resource_id}"

    def id_of(self, name: str, path: str = "name") -> str:
        """Return the id in ``name``, that stands in the field at ``path``."""
        if not name:
            raise missing(path)
        if self.bare.fullmatch(name):
            return name
        prefix, resource_id = self.name(""), name.removeprefix(self.name(""))
        if not name.startswith(prefix) or not _SEGMENT.fullmatch(resource_id):
            raise OpiRefusedError(
                Fault.BAD_NAME, f"{path} {shown(name)} is no resource name {prefix}{{id}}"
            )
        return resource_id

    def chosen_id(self, asked: str, name: str) -> str:
        """Return the id that a create request asks for; empty: it leaves that to the server.

        That is ``asked``, its field of that name; else the id in ``name``, that of the resource.
        """
        if asked:
            return _settable(asked, f"{self.field}_id")
        return self.id_of(name, f"{self.field}.name") if name else ""


def _settable(resource_id: str, path: str) -> str:
    """Return an id that a user may choose (AIP-133, AIP-122); it becomes the name of a Segment."""
    if not 4 <= len(resource_id) <= 63:
        what = "must be between 4 and 63 characters"
    elif not _SETTABLE.fullmatch(resource_id):
        what = "must only contain lowercase, numbers and hyphens"
    elif resource_id.startswith("-") or resource_id.endswith("-"):
        what = "must not begin or end with a hyphen"
    elif _is_uuid(resource_id):
        what = "must not be a UUID"
    else:
        return resource_id
    raise OpiRefusedError(Fault.BAD_ID, f"{path}: user-settable ID {what}: {shown(resource_id)}")


def _is_uuid(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True


BRIDGES = Collection("bridges", "logical_bridge")
VRFS = Collection("vrfs", "vrf")
SVIS = Collection("svis", "svi")
PORTS = Collection("ports", "bridge_port", HOST_PORT)
