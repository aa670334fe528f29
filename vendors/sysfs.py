"""Reads a machine's PCI functions and DMI from sysfs, below any root, whatever stands there.

Files as in Documentation/PCI/sysfs-pci.rst and Documentation/ABI/testing/sysfs-{bus-pci,class-net}
of the kernel.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path

from dataplane.core.names import IFNAME
from vendors.pci import ADDRESS, Machine, Nameplate, PciFunction, PciId, PciNetdev, clean_serial

_PAGE = 4096  # an attribute has at most a page (Documentation/filesystems/sysfs.rst)
_CONFIG_BYTES = 4096  # PCI Express Base, 7.2
_VPD_BYTES = 4096  # of up to 32 KiB; slow to read, and serials stand at its beginning
_MOST_FUNCTIONS = 1 << 16  # of a segment
_MOST_ENTRIES = 4096  # of a function's directory: VFs, netdevs, and what else is there
_VF = re.compile(r"virtfn([0-9]{1,4})")
_NUMBER = re.compile(r"0x([0-9a-f]+)")
# It is not there, it has just gone, or what is behind the file has no such thing.
_ABSENT = frozenset({errno.ENOENT, errno.ENODEV, errno.ENXIO, errno.EOPNOTSUPP, errno.EINVAL})
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # what is no file must not block


class _FaultError(Exception):
    """Something is not as the kernel writes it; the text is a sentence with the path."""


class Sysfs:
    """Looks at the functions of ``ids`` below ``root``, which is ``/sys`` but for a recorded tree.

    What cannot change while a function is there is read once (each has an inode of its own for its
    life); a later look costs a listing, and what the wanted functions have. One thread may look.
    """

    def __init__(self, root: Path, ids: Collection[PciId]) -> None:
        """Read nothing yet."""
        self._root = root
        self._ids = frozenset(ids)
        self._plates: dict[str, tuple[int, Nameplate | None]] = {}
        self._seen: dict[str, PciFunction] = {}
        self._dmi: tuple[str, str] | None = None
        self._faults: list[str] = []

    def look(self) -> Machine:
        """Return what is there now."""
        self._faults = []
        product, serial = self._read_dmi()
        try:
            functions = self._functions(str(self._root / "bus/pci/devices"))
        except _FaultError as error:
            faults = (*self._faults, str(error))
            return Machine({}, product, serial, faults, blind=True)
        return Machine(functions, product, serial, tuple(self._faults))

    def _read_dmi(self) -> tuple[str, str]:
        if self._dmi is not None:
            return self._dmi
        try:
            place = str(self._root / "class/dmi/id")
            found = _text(f"{place}/product_name"), clean_serial(_text(f"{place}/product_serial"))
        except _FaultError as error:
            self._faults.append(str(error))
            return "", ""
        self._dmi = found
        return found

    def _functions(self, place: str) -> dict[str, PciFunction]:
        found: dict[str, PciFunction] = {}
        plates: dict[str, tuple[int, Nameplate | None]] = {}
        entries = _listing(place, _MOST_FUNCTIONS)
        if entries is None:
            raise _FaultError(f"{_shown(place)}: it is not there")
        for name, inode in entries:
            try:
                plates[name] = inode, self._plate(f"{place}/{name}", name, inode)
                plate = plates[name][1]
                if plate is not None:
                    found[name] = _function(f"{place}/{name}", name, plate)
            except _FaultError as error:
                self._faults.append(str(error))
                before = self._plates.get(name)
                if before is not None and before[0] == inode and name in self._seen:
                    found[name] = self._seen[name]  # it is listed: no evidence that it is gone
        self._plates, self._seen = plates, found
        return found

    def _plate(self, path: str, name: str, inode: int) -> Nameplate | None:
        """Return what a function is; None: it is not wanted. Raises _FaultError."""
        before = self._plates.get(name)
        if before is not None and before[0] == inode:
            return before[1]
        if not ADDRESS.fullmatch(name):
            raise _FaultError(f"{_shown(path)}: its name is no PCI address")
        pci_id = PciId(_number(f"{path}/vendor", 4), _number(f"{path}/device", 4))
        return _nameplate(path, pci_id, self._faults) if pci_id in self._ids else None


def _nameplate(path: str, pci_id: PciId, faults: list[str]) -> Nameplate:
    pf = _link(f"{path}/physfn")
    return Nameplate(
        pci_id=pci_id,
        subsystem=PciId(
            _number(f"{path}/subsystem_vendor", 4), _number(f"{path}/subsystem_device", 4)
        ),
        pci_class=_number(f"{path}/class", 6),
        # Slow to read, and a virtual function has nothing there that its physical one has not.
        config=b"" if pf else _told(f"{path}/config", _CONFIG_BYTES, faults),
        vpd=b"" if pf else _told(f"{path}/vpd", _VPD_BYTES, faults),
        pf=pf,
    )


def _told(path: str, most: int, faults: list[str]) -> bytes:
    """Return what a card says of itself; nothing, and why is among ``faults``: it cannot be read.

    It is there all the same: of VPD that is damaged kernels before 5.15 say EIO.
    """
    try:
        return _read(path, most) or b""
    except _FaultError as error:
        faults.append(str(error))
        return b""


def _function(path: str, address: str, plate: Nameplate) -> PciFunction:
    """Return a function with what comes and goes; of a virtual one's netdevs the names alone."""
    return PciFunction(address, plate, () if plate.pf else _vfs(path), _netdevs(path, plate))


def _vfs(path: str) -> tuple[str, ...]:
    """Return the addresses of the virtual functions by number, up to the first that is missing."""
    matches = (_VF.fullmatch(name) for name, _ in _listing(path, _MOST_ENTRIES) or ())
    links = {int(match[1]): f"{path}/{match[0]}" for match in matches if match}
    numbers = range(next(n for n in range(len(links) + 1) if n not in links))
    found = tuple(_link(links[number]) for number in numbers)
    return found if all(found) else ()


def _netdevs(path: str, plate: Nameplate) -> tuple[PciNetdev, ...]:
    place = f"{path}/net"
    names = [name for name, _ in _listing(place, _MOST_ENTRIES) or ()]
    for name in names:
        if not IFNAME.allows(name):
            raise _FaultError(f"{_shown(place)}: {name!a} {IFNAME.rule}")
    if plate.pf:
        return tuple(PciNetdev(name) for name in sorted(names))
    netdevs = (_netdev(f"{place}/{name}", name) for name in names)
    return tuple(sorted(netdevs, key=lambda each: (each.number or 0, each.name)))


def _netdev(path: str, name: str) -> PciNetdev:
    number = _text(f"{path}/dev_port")
    if number and not (number.isascii() and number.isdecimal()):
        raise _FaultError(f"{_shown(path)}/dev_port: {number!a} is no number")
    return PciNetdev(
        name=name,
        mac=_text(f"{path}/address"),
        number=int(number) if number else None,
        switch_id=_text(f"{path}/phys_switch_id"),
        port_name=_text(f"{path}/phys_port_name"),
    )


def _listing(path: str, most: int) -> list[tuple[str, int]] | None:
    """Return names and inodes; None: it is not there. Raises _FaultError."""
    try:
        with os.scandir(path) as entries:
            found = [(entry.name, entry.inode()) for entry in islice(entries, most + 1)]
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _FaultError(f"{_shown(path)}: {error.strerror}") from error
    if len(found) > most:
        raise _FaultError(f"{_shown(path)}: it has more than {most} entries")
    return found


def _number(path: str, digits: int) -> int:
    text = _text(path)
    match = _NUMBER.fullmatch(text)
    if match is None or len(match[1]) != digits:
        what = f"{text[:60]!a} is not 0x and {digits} hexadecimal digits"
        raise _FaultError(f"{_shown(path)}: {what if text else 'it is not there, or empty'}")
    return int(match[1], 16)


def _link(path: str) -> str:
    """Return the PCI address that a link leads to; empty: there is none. Raises _FaultError."""
    try:
        target = os.readlink(path).rpartition("/")[2]  # noqa: PTH115  # a Path costs more than it
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise _FaultError(f"{_shown(path)}: {error.strerror}") from error
    if not ADDRESS.fullmatch(target):
        raise _FaultError(f"{_shown(path)}: it leads to {target[:60]!a}, which is no PCI address")
    return target


def _text(path: str) -> str:
    """Return an attribute without the end of the line; empty: it is not there."""
    data = _read(path, _PAGE + 1) or b""
    if len(data) > _PAGE:
        raise _FaultError(f"{_shown(path)}: it has more than {_PAGE} bytes")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError as error:
        raise _FaultError(f"{_shown(path)}: not UTF-8 text, at byte {error.start}") from error
    if not text.isprintable():
        raise _FaultError(f"{_shown(path)}: not printable text")
    return text


def _read(path: str, most: int) -> bytes | None:
    """Return at most so many bytes of a file; None: it is not there. Raises _FaultError."""
    opened = None
    try:
        opened = os.open(path, _OPEN)
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            raise _FaultError(f"{_shown(path)}: not a regular file")
        return b"".join(_chunks(opened, most))
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise _FaultError(f"{_shown(path)}: {error.strerror}") from error
    finally:
        if opened is not None:
            os.close(opened)


def _chunks(opened: int, most: int) -> Iterator[bytes]:
    while most > 0 and (chunk := os.read(opened, most)):
        yield chunk
        most -= len(chunk)


def _shown(path: str) -> str:
    """Return a path for a sentence, also one that is no text."""
    return path if path.isprintable() else ascii(path)
