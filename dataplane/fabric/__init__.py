"""The shared state: schema, typed store, intent files."""

from pathlib import Path

SCHEMA = Path(__file__).with_name("overweave.ovsschema")
