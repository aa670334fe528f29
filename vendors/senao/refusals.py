"""What a refusal means for an entry, by its number and the kernel's or the driver's words. Pure."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from dataplane.core.reasons import Reason
from dataplane.netlink.exchange import Refusal

_NUMBERS: Mapping[int, Reason] = {
    errno.ENOSPC: Reason.TABLE_FULL,
    errno.ENODEV: Reason.NO_SWITCH_PORT,
    errno.EEXIST: Reason.SWITCH_TAKEN,
}
# cls_api.c and ice_tc_lib.c have one number for many things.
_WORDS: Mapping[str, Reason] = {
    "Unsupported action in switchdev mode": Reason.UNSUPPORTED_ENCAP,
    "Failed to load TC action module": Reason.UNSUPPORTED_ENCAP,
    "already exist": Reason.SWITCH_TAKEN,
    "Specified filter kind does not match existing one": Reason.SWITCH_TAKEN,
    "Filter with specified priority/protocol not found": Reason.SWITCH_TAKEN,
}
_FATAL = frozenset({errno.EPERM, errno.EACCES})


def is_full(refusal: Refusal) -> bool:
    """Say whether the device has no room for one more filter."""
    return refusal.errno == errno.ENOSPC


def is_fatal(refusal: Refusal) -> bool:
    """Say whether it is about who asks, and no other request would fare better."""
    return refusal.errno in _FATAL


def reason_of(refusal: Refusal) -> str:
    """Return why an entry is not in the device: a reason, and the words of who refused."""
    said = next((why for words, why in _WORDS.items() if words in refusal.words), None)
    why = said or _NUMBERS.get(refusal.errno, Reason.UNSUPPORTED_MATCH)
    return f"{why}: {refusal}"
