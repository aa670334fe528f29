"""CNI's error object: the code says what a runtime may do, the sentence what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import structlog

from dataplane.contracts import AttachRefusedError
from dataplane.core.errors import OverweaveError

log = structlog.get_logger()

_SHOWN_CHARACTERS = 80


class Code(IntEnum):
    """Codes of CNI SPEC.md (section 5, Error); from 100 on they are ours."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN = 11
    NOT_AVAILABLE = 50
    LIMITED_CONNECTIVITY = 51
    INTERNAL = 100
    ALREADY_ATTACHED = 101
    FAILED = 102
    CHECK_FAILED = 103
    DELEGATE_FAILED = 104


class CniError(Exception):
    """What a runtime gets instead of a result; the text is one sentence with key and value.

    ``code`` may be one that a delegated plugin chose, so it is any number.
    """

    def __init__(self, code: int, message: str, details: str = "") -> None:
        """Keep code and details beside the sentence."""
        super().__init__(message)
        self.code = int(code)
        self.details = details

    def document(self, version: str, phases: str) -> dict[str, str | int]:
        """Return the error object in a protocol version; ``phases`` says how long what took."""
        details = "; ".join(text for text in (self.details, phases) if text)
        return {"cniVersion": version, "code": self.code, "msg": str(self), "details": details}


def shown(value: object) -> str:
    """Return ``value`` as it may stand in a sentence: quoted, on one line, not too long."""
    text = repr(value)
    if len(text) <= _SHOWN_CHARACTERS:
        return text
    return f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters)"


@contextmanager
def as_cni_error() -> Iterator[None]:
    """Turn whatever is raised inside into a CniError; what nobody foresaw is logged whole."""
    try:
        yield
    except CniError:
        raise
    except AttachRefusedError as error:
        raise CniError(error.code, str(error), error.details) from error
    except OverweaveError as error:
        raise CniError(Code.FAILED, str(error)) from error
    except Exception as error:
        log.exception("cni.crashed")
        raise CniError(
            Code.INTERNAL,
            f"the Overweave agent failed: {type(error).__name__}: {error}; its log says more",
        ) from error
