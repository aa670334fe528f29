"""What can go wrong between us and a database, as types an adapter can tell apart."""

from __future__ import annotations

from dataplane.core.errors import OverweaveError


class DatabaseError(OverweaveError):
    """A database did not do what was asked."""


class DatabaseUnavailableError(DatabaseError):
    """No answer. A transaction that was under way may or may not have been committed."""


class SchemaMismatchError(DatabaseUnavailableError):
    """The database has another schema than this program was written for."""


class InvalidRowError(DatabaseError):
    """A value that its column cannot hold; nothing was sent."""


class PreconditionError(DatabaseError):
    """A row is not as it was expected; nothing was changed."""


class RefusedError(DatabaseError):
    """The server refused a transaction, whole. ``kind`` is its word for why (RFC 7047 3.1)."""

    def __init__(self, message: str, kind: str, details: str) -> None:
        """Keep the server's own words beside the sentence."""
        super().__init__(message)
        self.kind = kind
        self.details = details


class ConstraintError(RefusedError):
    """A unique index, a limit or a reference forbids the change."""


class NotPermittedError(RefusedError):
    """The role of our certificate does not allow the change."""
