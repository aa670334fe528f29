"""Where an Intel IPU E2100 is: its host, by PCI, or the IPU itself, by DMI. Pure.

Source: dpu-operator, internal/platform and its Intel plugin; ../discovery.md says what is ASSUMED.
"""

from __future__ import annotations

from collections.abc import Iterator

from dataplane.core.discovered import Found
from dataplane.core.model import Side
from dataplane.device_config import PRODUCTS, Vendor
from vendors.pci import Machine, PciFunction, PciId, device_serial, vpd_serial

_PF, _VF = PciId(0x8086, 0x1452), PciId(0x8086, 0x145C)
IDS = frozenset({_PF, _VF})
_OPERATORS_NAME = "intel-ipu"  # what dpu-operator calls every IPU
_FAMILY, _PRODUCT = "IPU Adapter", "IPU Adapter E2100-CCQDA2"  # in DMI's product name
_SHOWN = 100
_HOSTS_NETDEV = "d2"  # dev_port 2, as udev names it
_FIRST_REPRESENTOR, _REPRESENTORS = 10, 16  # of the ports that the Arm cores have


def find(machine: Machine) -> Iterator[Found]:
    """Yield the IPU that ``machine`` is, or those that it is the host of."""
    if _FAMILY in machine.product:
        yield _ipu(machine)
        return
    for function in machine.of({_PF}):
        if _is_hosts(function):
            yield _host(machine, function)


def _is_hosts(function: PciFunction) -> bool:
    plate = function.plate
    ends = any(netdev.name.endswith(_HOSTS_NETDEV) for netdev in function.netdevs)
    return not plate.pf and plate.is_network and ends


def _host(machine: Machine, pf: PciFunction) -> Found:
    told = (vpd_serial(pf.plate.vpd), device_serial(pf.plate.config).hex("-"))
    return Found(
        vendor=Vendor.INTEL.value,
        product=PRODUCTS[Vendor.INTEL],
        side=Side.HOST,
        serials=(*filter(None, told), pf.called(_OPERATORS_NAME)),
        place=str(pf),
        vfs=machine.vfs(pf),
        assumptions=("card-serial",) if any(told) else (),
    )


def _ipu(machine: Machine) -> Found:
    known = _PRODUCT in machine.product
    representors = _representors(machine) if known else ()
    rests_on = {
        "dmi-serial": machine.product_serial,
        "port-order": representors,
        "unknown-ipu": not known,
    }
    return Found(
        vendor=Vendor.INTEL.value,
        product=PRODUCTS[Vendor.INTEL] if known else f"unknown product {machine.product[:_SHOWN]}",
        side=Side.DPU,
        serials=(*filter(None, (machine.product_serial,)), _OPERATORS_NAME),
        place=f"DMI {machine.product[:_SHOWN]}",
        representors=representors,
        known=known,
        assumptions=tuple(name for name, is_used in rests_on.items() if is_used),
    )


def _representors(machine: Machine) -> tuple[str, ...]:
    """Return the port representors of the host's VFs; empty names in between are not here."""
    netdevs = (netdev for function in machine.of({_PF}) for netdev in function.netdevs)
    ports = {netdev.number: netdev.name for netdev in netdevs}
    last = _FIRST_REPRESENTOR + _REPRESENTORS
    names = [ports.get(number, "") for number in range(_FIRST_REPRESENTOR, last)]
    while names and not names[-1]:
        names.pop()
    return tuple(names)
