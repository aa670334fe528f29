"""A JSON parser for the OVSDB client library: we frame messages, the standard library parses them.

The library comes from PyPI without its C parser, and its own looks at every character in Python.
Measured, replicating 1,000 and 10,000 rows takes 0.07 s and 1.1 s with this, 0.29 s and 2.8 s
without.
"""

from __future__ import annotations

import json
import re
from typing import Any

_STRUCTURE = re.compile(r'["\\{}\[\]]')


class Parser:
    """What ``ovs.json.Parser`` is: fed with text, done after one object or array."""

    def __init__(self, check_trailer: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002  # the library's signature
        self._text: list[str] = []
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self._done = False

    def feed(self, text: str) -> int:
        """Take in ``text`` up to the end of the value; return how much of it that was."""
        end = len(text) if self._done else self._end(text)
        self._text.append(text[:end])
        return end

    def is_done(self) -> bool:
        """Say whether the value is complete."""
        return self._done

    def finish(self) -> Any:  # noqa: ANN401  # any JSON value; a string is an error, as in the library
        """Return the value, or a string that says what is wrong with it."""
        try:
            return json.loads("".join(self._text))
        except ValueError as error:
            return str(error)

    def _end(self, text: str) -> int:
        """Return where the value ends in ``text``, its length if it does not."""
        if not self._text and text[:1] not in ("{", "["):  # no peer of ours begins so
            self._done = True
            return len(text)
        skip = 1 if self._escaped else 0
        self._escaped = False
        for match in _STRUCTURE.finditer(text):
            if match.start() < skip:
                continue
            if match[0] == "\\":
                skip = match.end() + 1
            elif self._closes(match[0]):
                self._done = True
                return match.end()
        self._escaped = skip > len(text)
        return len(text)

    def _closes(self, char: str) -> bool:
        """Take in a character that structures the text; say whether the value ends with it."""
        if char == '"':
            self._in_string = not self._in_string
        elif not self._in_string:
            self._depth += 1 if char in "{[" else -1
            return self._depth <= 0
        return False
