"""Where a Senao SX904 (Intel NetSec Accelerator) is: its host or the card itself, by PCI. Pure.

Source: dpu-operator, internal/platform and its NetSec plugin; ../discovery.md says what is ASSUMED.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from dataplane.core.discovered import Found
from dataplane.core.model import Side
from dataplane.device_config import PRODUCTS, Vendor
from vendors.pci import (
    Machine,
    PciFunction,
    PciId,
    PciNetdev,
    device_serial,
    mac_of,
    mac_serial,
    vpd_serial,
)

_HOST = PciId(0x8086, 0x1599)
_BACKPLANE, _WIRE = PciId(0x8086, 0x124C), PciId(0x8086, 0x124D)  # ports of the card itself
_VF = PciId(0x8086, 0x1889)  # on both sides
IDS = frozenset({_HOST, _BACKPLANE, _WIRE, _VF})
_FIRST_WIRE = "0000:f4:00.0"  # the port that names the card
_NAME_AT = slice(0x150, 0x158)  # of the configuration space: what dpu-operator calls the card
_SERIAL_NUMBER = b"\x03\x00"  # as that begins: the capability, then the lower half of its number
_OPERATORS_NAME = "intel-netsec"  # of the vendor; for its cards dpu-operator has serials
_REPRESENTOR = re.compile(r"pf([0-9]{1,5})vf([0-9]{1,4})")


def find(machine: Machine) -> Iterator[Found]:
    """Yield the SX904 that ``machine`` is, or those that it is the host of, each once."""
    backplanes = tuple(machine.of({_BACKPLANE}))
    if backplanes:
        yield _card(machine, backplanes[0])
        return
    ports = (port for port in machine.of({_HOST}) if not port.plate.pf)
    cards: dict[str, PciFunction] = {}
    for port in ports:
        cards.setdefault(device_serial(port.plate.config).hex() or port.slot, port)
    for port in cards.values():
        yield _host(machine, port)


def _host(machine: Machine, port: PciFunction) -> Found:
    config = port.plate.config
    serial = device_serial(config)
    name, mac, vpd = config[_NAME_AT], mac_of(serial), vpd_serial(port.plate.vpd)
    told = (
        mac or serial.hex("-"),
        name.hex() if serial and name.startswith(_SERIAL_NUMBER) else "",
        vpd,
    )
    rests_on = {"card-serial": serial or vpd, "serial-of-mac": mac}
    return Found(
        vendor=Vendor.SENAO.value,
        product=PRODUCTS[Vendor.SENAO],
        side=Side.HOST,
        serials=(*filter(None, told), port.called(_OPERATORS_NAME)),
        place=str(port),
        vfs=machine.vfs(port),
        assumptions=tuple(name for name, is_used in rests_on.items() if is_used),
    )


def _card(machine: Machine, backplane: PciFunction) -> Found:
    wires = {port.address: port for port in machine.of({_WIRE})}
    first = wires.get(_FIRST_WIRE) or next(iter(wires.values()), backplane)
    told = (mac_serial(first), backplane.called(_OPERATORS_NAME))
    return Found(
        vendor=Vendor.SENAO.value,
        product=PRODUCTS[Vendor.SENAO],
        side=Side.DPU,
        serials=tuple(filter(None, told)),
        place=str(backplane),
        representors=_representors(machine, backplane),
    )


def _representors(machine: Machine, backplane: PciFunction) -> tuple[str, ...]:
    """Return in switchdev mode the representors, else the netdevs of the VFs: a lane has one each.

    Those of VFs that are not here have empty names.
    """
    found = dict(filter(None, map(_represented, backplane.netdevs)))
    if not found:
        return tuple(machine.netdev(vf) for vf in backplane.vfs)
    return tuple(found.get(number, "") for number in range(max(found) + 1))


def _represented(netdev: PciNetdev) -> tuple[int, str] | None:
    """Return which VF a netdev is the representor of, and its name; None: it is none."""
    match = _REPRESENTOR.fullmatch(netdev.port_name)
    return (int(match[2]), netdev.name) if match and netdev.switch_id else None
