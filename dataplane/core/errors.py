"""Errors that name the object, the cause and the next step."""

from __future__ import annotations


class OverweaveError(Exception):
    """An error an operator can act on; its text is one clear sentence."""


class InvalidValueError(OverweaveError, ValueError):
    """A value that came in from outside does not fit; the text names the key and the value."""


class TargetError(OverweaveError):
    """What we program refused a change; the text keeps its own message whole."""


class FabricUnavailableError(OverweaveError):
    """The fabric database cannot be asked right now."""
