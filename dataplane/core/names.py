"""What may be a name that comes from outside: one rule for all who read such names. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_CONTAINER_ID = 200  # with the interface name it must fit into a link's alias and a file name


@dataclass(frozen=True, slots=True)
class Naming:
    """How a kind of name is written; ``rule`` continues a sentence that begins with the name."""

    pattern: re.Pattern[str]
    rule: str

    def allows(self, text: str) -> bool:
        """Say whether ``text`` is such a name."""
        return self.pattern.fullmatch(text) is not None


CONTAINER_ID = Naming(  # CNI SPEC.md section 2, CNI_CONTAINERID
    re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{MAX_CONTAINER_ID - 1}}}"),
    f"is not 1-{MAX_CONTAINER_ID} letters, digits, '_', '.' or '-'"
    " that begin with a letter or digit",
)
NETWORK = Naming(  # CNI SPEC.md section 1, `name`; it can be a file name
    re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,254}"),
    "is not 1-255 letters, digits, '_', '.' or '-' that begin with a letter or digit",
)
IFNAME = Naming(  # net/core/dev.c dev_valid_name, no '%'
    re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}"),
    "is not 1-15 letters, digits, '_', '.' or '-' that begin with a letter, digit or '_'",
)
DEVICE_ID = Naming(  # a PCI address, or what a device plugin calls its auxiliary devices
    re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,62}"),
    "is not 1-63 letters, digits, '_', '.', ':' or '-' such as 0000:06:00.2",
)
SERIAL = Naming(DEVICE_ID.pattern, "is not 1-63 letters, digits, '_', '.', ':' or '-'")
