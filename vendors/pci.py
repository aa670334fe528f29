"""What sysfs tells of a machine's PCI functions, as values, and what their own bytes say. Pure."""

from __future__ import annotations

import re
import struct
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dataplane.core.discovered import FoundVf
from dataplane.core.names import SERIAL

ADDRESS = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]")
NETWORK_CLASS = 0x02  # PCI Code and ID Assignment, 1.3
_FIRST_EXTENDED = 0x100  # PCI Express Base, 7.6: capabilities begin here, a chain of headers
_SERIAL_NUMBER = 0x0003  # 7.9.3: Device Serial Number Extended Capability
_MOST_CAPABILITIES = 960  # (4096 - 256) / 4: a chain that is longer goes round
_VPD_READ_ONLY = 0x90  # PCI Local Bus 3.0, Appendix I
_EUI64_FILLER = b"\xff\xff"  # what the middle of a MAC becomes in an EUI-64 (PCIe 7.9.3.2)
# What is left in DMI by makers who fill nothing in.
_NO_SERIALS = frozenset(
    {"none", "unknown", "n/a", "not specified", "not available", "default string", "0123456789"}
)


class PciId(NamedTuple):
    """Vendor and device, or those of the subsystem."""

    vendor: int
    device: int

    def __str__(self) -> str:
        """Write it as lspci does."""
        return f"{self.vendor:04x}:{self.device:04x}"


@dataclass(frozen=True, slots=True)
class PciNetdev:
    """A netdev of a function in this network namespace; what it does not tell is empty.

    ``number`` is its dev_port: which of several that the function has.
    """

    name: str
    mac: str = ""
    number: int | None = None
    switch_id: str = ""
    port_name: str = ""


@dataclass(frozen=True, slots=True)
class Nameplate:
    """What does not change while a function is there.

    ``pci_class`` has three bytes: class, subclass, interface. ``config`` is as much of its
    configuration space as may be read; ``vpd`` its Vital Product Data. ``pf`` is the address of the
    physical function, empty: it is one itself.
    """

    pci_id: PciId
    subsystem: PciId
    pci_class: int
    config: bytes = b""
    vpd: bytes = b""
    pf: str = ""

    @property
    def is_network(self) -> bool:
        """Say whether it is a network controller, of whatever subclass."""
        return self.pci_class >> 16 == NETWORK_CLASS


@dataclass(frozen=True, slots=True)
class PciFunction:
    """A function at ``address``; ``vfs`` are the addresses of its virtual ones, by number."""

    address: str
    plate: Nameplate
    vfs: tuple[str, ...] = ()
    netdevs: tuple[PciNetdev, ...] = ()

    def __str__(self) -> str:
        """Say where it is, and what: others may have the same ids, but not the same subsystem."""
        plate = self.plate
        return f"{self.address} ({plate.pci_id}, subsystem {plate.subsystem})"

    def called(self, prefix: str) -> str:
        """Return how dpu-operator calls a card by its place: ``prefix`` and the address."""
        return f"{prefix}-{self.address.replace(':', '-')}"

    @property
    def slot(self) -> str:
        """Return the address without the function: what is one card."""
        return self.address.partition(".")[0]

    @property
    def netdev(self) -> str:
        """Return the name of its first netdev, empty: it has none here."""
        return self.netdevs[0].name if self.netdevs else ""


@dataclass(frozen=True, slots=True)
class Machine:
    """The functions of the ids that were asked for, by address, and what DMI says.

    ``faults`` are what could not be read, a sentence each. What is ``blind`` could not list the
    functions at all, and is no evidence of what is gone.
    """

    functions: Mapping[str, PciFunction]
    product: str = ""
    product_serial: str = ""
    faults: tuple[str, ...] = ()
    blind: bool = False

    def of(self, ids: Collection[PciId]) -> Iterator[PciFunction]:
        """Yield the functions of ``ids`` in the order of their addresses."""
        return (each for _, each in sorted(self.functions.items()) if each.plate.pci_id in ids)

    def netdev(self, address: str) -> str:
        """Return the name of the first netdev of a function; empty: there is none here."""
        function = self.functions.get(address)
        return function.netdev if function else ""

    def vfs(self, pf: PciFunction) -> tuple[FoundVf, ...]:
        """Return the virtual functions of ``pf`` by number, with the netdevs that are here."""
        return tuple(FoundVf(vf, self.netdev(vf)) for vf in pf.vfs)


def device_serial(config: bytes) -> bytes:
    """Return the 8 bytes of the Device Serial Number, the most significant first.

    Empty: there is none, or it is one of nobody (all zero, all ones). PCI Express Base, 7.9.3.
    """
    offset = _FIRST_EXTENDED
    for _ in range(_MOST_CAPABILITIES):
        if offset < _FIRST_EXTENDED or offset + 12 > len(config):
            return b""
        header, low, high = struct.unpack_from("<III", config, offset)
        if header & 0xFFFF == _SERIAL_NUMBER:
            return _somebodys(struct.pack(">II", high, low))
        offset = header >> 20 & 0xFFC
    return b""


def _somebodys(number: bytes) -> bytes:
    return number if set(number) not in ({0}, {0xFF}) else b""


def mac_of(serial: bytes) -> str:
    """Return the MAC that a Device Serial Number was made of, with hyphens; empty: of none."""
    if len(serial) != 8 or serial[3:5] != _EUI64_FILLER:
        return ""
    return (serial[:3] + serial[5:]).hex("-")


def mac_serial(port: PciFunction) -> str:
    """Return the MAC of a port's first netdev, as dpu-operator writes it; empty: it tells none."""
    return clean_serial(port.netdevs[0].mac.replace(":", "-")) if port.netdevs else ""


def vpd_serial(vpd: bytes) -> str:
    """Return the serial number (SN) of the Vital Product Data; empty: there is none to be used.

    PCI Local Bus 3.0, Appendix I: large tags of two bytes of length, VPD-R with keywords.
    """
    offset = 0
    while offset + 3 <= len(vpd) and vpd[offset] & 0x80:
        tag, length = struct.unpack_from("<BH", vpd, offset)
        body = vpd[offset + 3 : offset + 3 + length]
        if tag == _VPD_READ_ONLY:
            return clean_serial(_keyword(body, b"SN"))
        offset += 3 + length
    return ""


def _keyword(body: bytes, wanted: bytes) -> str:
    offset = 0
    while offset + 3 <= len(body):
        value = body[offset + 3 : offset + 3 + body[offset + 2]]
        if body[offset : offset + 2] == wanted:
            return value.decode("ascii", "replace").strip("\0 ")
        offset += 3 + body[offset + 2]
    return ""


def clean_serial(text: str) -> str:
    """Return ``text`` if it can be somebody's serial, else nothing."""
    is_one = SERIAL.allows(text) and text.lower() not in _NO_SERIALS and bool({*text} - {*"0.-_:"})
    return text if is_one else ""
