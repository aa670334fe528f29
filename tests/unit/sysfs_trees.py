"""Writes a machine's sysfs below a directory, as the kernel lays it out, from a few words."""

from __future__ import annotations

import shutil
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

DEFAULT_CLASS = "0x020000"
Netdevs = Mapping[str, Mapping[str, str]]
"""By name, the attributes that are not the default."""


def config_space(serial: str = "", at: int = 0x150) -> bytes:
    """Return 4,096 bytes; ``serial``, as lspci writes it, is in a capability ``at`` an offset.

    One of another kind is before it, as on a real card: AER at 0x100, with a register that looks
    like the beginning of a serial number.
    """
    space = bytearray(4096)
    raw = bytes.fromhex(serial.replace("-", ""))
    struct.pack_into("<I", space, 0x100, 0x0001 | 1 << 16 | (at if raw else 0) << 20)
    struct.pack_into("<I", space, 0x108, 0x0003 | 1 << 16)
    if raw:
        struct.pack_into("<I", space, at, 0x0003 | 1 << 16 | 0x160 << 20)
        space[at + 4 : at + 12] = raw[::-1]
        struct.pack_into("<I", space, 0x160, 0x000E | 1 << 16)
    return bytes(space)


def vital_product_data(serial: bytes) -> bytes:
    """Return a product name and a serial number as PCI Local Bus 3.0, Appendix I, lays them out."""
    name = b"some card"
    keywords = b"PN\x03abcSN" + bytes([len(serial)]) + serial + b"RV\x01\x00"
    tags = b"\x82" + struct.pack("<H", len(name)) + name
    return tags + b"\x90" + struct.pack("<H", len(keywords)) + keywords + b"\x78"


class Tree:
    """A sysfs at ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.listing = root / "bus/pci/devices"
        self.listing.mkdir(parents=True, exist_ok=True)

    def directory(self, address: str) -> Path:
        """Return where the function itself is."""
        return self.root / "devices" / f"pci{address[:7]}" / address

    def function(
        self,
        address: str,
        pci_id: str,
        netdevs: Netdevs | Sequence[str] = (),
        *,
        pci_class: str = DEFAULT_CLASS,
        config: bytes = b"",
        vpd: bytes | None = None,
    ) -> Tree:
        """Plug a function in: all of it is there before it is listed."""
        place, (vendor, device) = self.directory(address), pci_id.split(":")
        ids = {"vendor": vendor, "device": device}
        ids |= {"subsystem_vendor": vendor, "subsystem_device": "0000"}
        place.mkdir(parents=True)
        for name, value in ids.items():
            (place / name).write_text(f"0x{value}\n")
        (place / "class").write_text(f"{pci_class}\n")
        (place / "config").write_bytes(config or config_space())
        if vpd is not None:
            (place / "vpd").write_bytes(vpd)
        self.netdevs(address, netdevs)
        (self.listing / address).symlink_to(f"../../../devices/pci{address[:7]}/{address}")
        return self

    def netdevs(self, address: str, netdevs: Netdevs | Sequence[str]) -> Tree:
        """Give a function netdevs."""
        named = netdevs if isinstance(netdevs, Mapping) else {name: {} for name in netdevs}
        for name, given in named.items():
            place = self.directory(address) / "net" / name
            place.mkdir(parents=True)
            for key, value in {"dev_port": "0", "address": "02:00:00:00:00:01", **given}.items():
                (place / key).write_text(f"{value}\n")
        return self

    def vfs(self, pf: str, pci_id: str, vfs: Mapping[str, str]) -> Tree:
        """Give a function virtual ones: their addresses in order, and the netdev of each."""
        for number, (address, netdev) in enumerate(vfs.items()):
            self.function(address, pci_id, [netdev] if netdev else [])
            (self.directory(address) / "physfn").symlink_to(f"../{pf}")
            (self.directory(pf) / f"virtfn{number}").symlink_to(f"../{address}")
        return self

    def dmi(self, product: str, serial: str = "") -> Tree:
        """Say what the machine is."""
        place = self.root / "class/dmi/id"
        place.mkdir(parents=True, exist_ok=True)
        (place / "product_name").write_text(f"{product}\n")
        (place / "product_serial").write_text(f"{serial}\n")
        return self

    def unplug(self, *addresses: str) -> Tree:
        """Take functions out: the listing first, as the kernel does.

        What was listed is kept elsewhere, for in sysfs no inode comes twice.
        """
        for address in addresses:
            kept = Path(tempfile.mkdtemp(prefix="unplugged", dir=self.root))
            (self.listing / address).rename(kept / address)
            shutil.rmtree(self.directory(address))
        return self
