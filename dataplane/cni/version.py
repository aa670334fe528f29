"""The versions of the CNI protocol that are spoken."""

from __future__ import annotations

from enum import StrEnum


class Version(StrEnum):
    """CNI specification versions; they compare as text, which is their order."""

    V0_3_1 = "0.3.1"
    V0_4_0 = "0.4.0"
    V1_0_0 = "1.0.0"
    V1_1_0 = "1.1.0"


LATEST = Version.V1_1_0
