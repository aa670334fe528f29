"""What an update changes: field masks (AIP-134, AIP-161) over a stored resource. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from dataplane.opi.l2_xpu_infra_mgr_pb2 import BridgePort, LogicalBridge
from dataplane.opi.l3_xpu_infra_mgr_pb2 import Svi, Vrf
from dataplane.opi.refusals import Fault, OpiRefusedError, shown

Resource = TypeVar("Resource", BridgePort, LogicalBridge, Vrf, Svi)

_SPEC = "spec"  # the rest of a resource is its name, and what only the server says (AIP-203)


def updated(stored: Resource, wanted: Resource, mask: FieldMask) -> Resource:
    """Return ``stored`` with what ``mask`` names as ``wanted`` has it; fields it lacks are unset.

    No mask: every field that ``wanted`` has. ``*``: the whole. Name and status stay.
    """
    source, outcome = type(stored)(), type(stored)()
    source.CopyFrom(wanted)
    source.spec.SetInParent()
    outcome.CopyFrom(stored)
    FieldMask(paths=_paths(wanted, mask)).MergeMessage(
        source, outcome, replace_message_field=True, replace_repeated_field=True
    )
    return outcome


def check(wanted: Resource, mask: FieldMask) -> None:
    """Raise OpiRefusedError for a mask that names what a resource has not."""
    _paths(wanted, mask)


def _paths(wanted: Message, mask: FieldMask) -> list[str]:
    if not mask.paths:
        return [path for path in _set_paths(wanted) if _is_spec(path)]
    if "*" in mask.paths:
        if len(mask.paths) > 1:
            raise OpiRefusedError(
                Fault.BAD_MASK, "invalid field path: '*' must not be used with other paths"
            )
        return [_SPEC]
    for path in mask.paths:
        alone = FieldMask(paths=[path])
        if not alone.IsValidForDescriptor(wanted.DESCRIPTOR):  # type: ignore[arg-type] # upb's, too
            raise OpiRefusedError(Fault.BAD_MASK, f"invalid field path: {shown(path)}")
    return [path for path in mask.paths if _is_spec(path)]


def _is_spec(path: str) -> bool:
    return path.partition(".")[0] == _SPEC


def _set_paths(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if isinstance(value, Message):
            yield from (f"{field.name}.{path}" for path in _set_paths(value))
        else:
            yield field.name
