"""Errors that name the object, the cause and the next step."""

from __future__ import annotations

from collections.abc import Hashable, Mapping


class OverweaveError(Exception):
    """An error an operator can act on; its text is one clear sentence."""


class InvalidValueError(OverweaveError, ValueError):
    """A value that came in from outside does not fit; the text names the key and the value."""


class TargetError(OverweaveError):
    """What we program refused a change; the text keeps its own message whole."""


class PartlyRefusedError(TargetError):
    """What we program refused some of a change and took the rest.

    ``refused`` gives the reason by object: an attachment by its AttachmentKey, a Block as itself,
    others by name. ``standing``: it will be refused again unless something changes.
    """

    def __init__(
        self, message: str, refused: Mapping[Hashable, str], *, standing: bool = False
    ) -> None:
        """Keep the reasons beside the sentence."""
        super().__init__(message)
        self.refused = refused
        self.standing = standing


class FabricUnavailableError(OverweaveError):
    """The fabric database cannot be asked right now."""
