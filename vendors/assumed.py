"""What is assumed of each vendor's device, for who has the names alone."""

from __future__ import annotations

from collections.abc import Mapping

from dataplane.core.capability import Assumption
from vendors.intel.assumptions import ASSUMPTIONS as INTEL
from vendors.marvell.assumptions import ASSUMPTIONS as MARVELL
from vendors.senao.assumptions import ASSUMPTIONS as SENAO

ASSUMED: Mapping[str, tuple[Assumption, ...]] = {
    "intel": INTEL,
    "marvell": MARVELL,
    "senao": SENAO,
}


def statement(vendor: str, name: str) -> str:
    """Return what an assumption says; empty: another version of this program knows it."""
    known = (each.statement for each in ASSUMED.get(vendor, ()) if each.name == name)
    return next(known, "")
