"""Pages of a list (AIP-158): a token says after which resource to go on, so none has to be kept.

A list may change between two pages: what is there all the time is in exactly one of them. Pure.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import TypeVar

from dataplane.opi.refusals import Fault, OpiRefusedError, shown
from dataplane.opi.resources import Collection

DEFAULT_SIZE = 50
LARGEST_SIZE = 250

_Resource = TypeVar("_Resource")


def page_of(
    resources: Mapping[str, _Resource], collection: Collection, size: int, token: str
) -> tuple[list[_Resource], str]:
    """Return a page of ``resources``, by id and sorted by it, and the token of the next.

    ``size`` 0 is DEFAULT_SIZE, more than LARGEST_SIZE is that. An empty token: the first, or no
    more.
    """
    if size < 0:
        raise OpiRefusedError(Fault.BAD_VALUE, f"negative PageSize is not allowed: {size}")
    after = _read(token, collection) if token else ""
    ids = sorted(each for each in resources if each > after)
    taken = ids[: min(size or DEFAULT_SIZE, LARGEST_SIZE)]
    following = _written(taken[-1], collection) if len(taken) < len(ids) else ""
    return [resources[each] for each in taken], following


def _written(last: str, collection: Collection) -> str:
    return urlsafe_b64encode(collection.name(last).encode()).decode()


def _read(token: str, collection: Collection) -> str:
    try:
        last = collection.id_of(urlsafe_b64decode(token).decode())
    except (ValueError, OpiRefusedError):
        last = ""
    if not last or _written(last, collection) != token:
        raise OpiRefusedError(
            Fault.UNKNOWN_TOKEN, f"unable to find pagination token {shown(token)}"
        )
    return last
