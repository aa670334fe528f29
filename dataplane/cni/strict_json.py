"""JSON from outside: RFC 8259 without the latitude that lets two readers see two documents."""

from __future__ import annotations

import json
import math
from typing import NoReturn

from dataplane.cni.errors import CniError, Code, shown

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_DIGITS = 40  # an IPv6 address as a number has 39

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]


def decode(data: bytes, what: str) -> JsonObject:
    """Return the JSON object in ``data``; ``what`` names it in the CniError raised otherwise.

    Refused beyond what the grammar refuses: more than MAX_BYTES or MAX_DEPTH, another encoding
    than UTF-8, a key twice in one object, numbers that are not finite, NUL and lone surrogates.
    """
    if len(data) > MAX_BYTES:
        raise CniError(
            Code.INVALID_CONFIG, f"{what} is larger than {MAX_BYTES} bytes, the most that is read"
        )
    if not data.strip():
        raise CniError(Code.DECODING_FAILURE, f"{what} is empty, a JSON object was expected")
    value = _load(data, what)
    _check_nodes(value, what)
    if not isinstance(value, dict):
        raise CniError(
            Code.DECODING_FAILURE, f"{what} is {shown(value)}, a JSON object was expected"
        )
    return value


def _load(data: bytes, what: str) -> JsonValue:
    try:
        value: JsonValue = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            parse_int=_whole,
        )
    except UnicodeDecodeError as error:
        raise CniError(
            Code.DECODING_FAILURE,
            f"{what} is not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}",
        ) from None
    except RecursionError:
        raise _too_deep(what) from None
    except ValueError as error:
        raise CniError(Code.DECODING_FAILURE, f"{what} is not valid JSON: {error}") from None
    return value


def _unique(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {shown(twice)} stands more than once in one object")
    return document


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"number {text[:40]} is too large")
    return number


def _whole(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"number {text[:40]}... has {len(text)} digits")
    return int(text)


def _check_nodes(root: JsonValue, what: str) -> None:
    remaining: list[tuple[JsonValue, int]] = [(root, 1)]
    while remaining:
        value, depth = remaining.pop()
        if isinstance(value, str):
            _check_text(value, what)
        elif isinstance(value, dict | list):
            if depth > MAX_DEPTH:
                raise _too_deep(what)
            children = [*value, *value.values()] if isinstance(value, dict) else value
            remaining.extend((child, depth + 1) for child in children)


def _check_text(text: str, what: str) -> None:
    if "\0" in text:
        raise CniError(Code.INVALID_CONFIG, f"{what} holds text with a NUL byte: {shown(text)}")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise CniError(
            Code.DECODING_FAILURE, f"{what} holds half a surrogate pair, not text: {shown(text)}"
        )


def _too_deep(what: str) -> CniError:
    return CniError(Code.INVALID_CONFIG, f"{what} is nested deeper than {MAX_DEPTH} levels")
