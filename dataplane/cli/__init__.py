"""The ``overweave`` command."""
