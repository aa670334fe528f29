"""Where a Marvell Octeon 10 is: its host or the DPU itself, by PCI. Pure.

Source: dpu-operator, internal/platform and Marvell's plugin; ../discovery.md says what is ASSUMED.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

from dataplane.core.discovered import Found
from dataplane.core.model import Side
from dataplane.device_config import PRODUCTS, Vendor
from vendors.pci import Machine, PciFunction, PciId, device_serial, mac_serial, vpd_serial

_VENDOR = 0x177D
_PF, _VF = PciId(_VENDOR, 0xB900), PciId(_VENDOR, 0xB903)
_SDP = PciId(_VENDOR, 0xA0F7)  # what the DPU has of its PCIe end: the PF's first, then the VFs'
_RPM = PciId(_VENDOR, 0xA063)  # a port to the wire
# Other chips that the kernel's octeon_ep is the host driver of (octep_main.h).
_OTHERS = frozenset(
    PciId(_VENDOR, device) for device in (0xB100, 0xB200, 0xB400, 0xB600, 0xBA00, 0xBC00, 0xBD00)
)
IDS = frozenset({_PF, _VF, _SDP, _RPM}) | _OTHERS
_OPERATORS_NAME = "marvell-dpu"  # what dpu-operator calls every Octeon


def find(machine: Machine) -> Iterator[Found]:
    """Yield the Octeon that ``machine`` is, or those that it is the host of."""
    ends = tuple(machine.of({_SDP}))
    if ends:
        yield _octeon(machine, ends)
        return
    for function in machine.of(_OTHERS | {_PF}):
        if not function.plate.pf:
            yield _host(machine, function)


def _host(machine: Machine, pf: PciFunction) -> Found:
    told = (vpd_serial(pf.plate.vpd), device_serial(pf.plate.config).hex("-"))
    known = pf.plate.pci_id == _PF
    return Found(
        vendor=Vendor.MARVELL.value,
        product=PRODUCTS[Vendor.MARVELL] if known else f"unknown product {pf.plate.pci_id}",
        side=Side.HOST,
        serials=(*filter(None, told), pf.called(_OPERATORS_NAME)),
        place=str(pf),
        vfs=machine.vfs(pf),
        known=known,
        assumptions=("card-serial",) if any(told) else (),
    )


def _octeon(machine: Machine, ends: tuple[PciFunction, ...]) -> Found:
    macs = tuple(islice(filter(None, map(mac_serial, machine.of({_RPM}))), 1))
    return Found(
        vendor=Vendor.MARVELL.value,
        product=PRODUCTS[Vendor.MARVELL],
        side=Side.DPU,
        serials=(*macs, _OPERATORS_NAME),
        place=str(ends[0]),
        representors=tuple(end.netdev for end in ends[1:]),
        assumptions=("first-port-mac",) if macs else (),
    )
