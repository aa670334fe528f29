"""Which driver serves which vendor's switch: a new vendor is a folder and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from dataplane.contracts import Switch
from dataplane.core.errors import InvalidValueError
from dataplane.device_config import DeviceConfig
from vendors import noop
from vendors.marvell import settings as marvell
from vendors.senao import settings as senao


class Driver(Switch, Protocol):
    """A Switch that has been made here."""

    def close(self) -> None:
        """Let go of the device; what is placed in it stays."""
        ...


@dataclass(frozen=True, slots=True)
class SwitchSettings:
    """What the configuration says of the switch below ``node``.

    ``values`` are the vendor's own keys, ``representors`` the DPU's netdevs of the VFs, in order.
    """

    vendor: str
    node: str
    representors: tuple[str, ...] = ()
    values: Mapping[str, Any] | None = None
    emulated: bool = False


def _noop(_settings: SwitchSettings) -> Driver:
    return noop.NoSwitch()


def _marvell(settings: SwitchSettings) -> Driver:
    return marvell.make(
        settings.values or {}, settings.representors, settings.node, emulated=settings.emulated
    )


def _intel(settings: SwitchSettings) -> Driver:
    # P4Runtime's messages cost 0.1 s and 14 MB: only who has such a device pays.
    from vendors.intel import settings as intel  # noqa: PLC0415

    return intel.make(settings.values or {}, settings.representors, emulated=settings.emulated)


def _senao(settings: SwitchSettings) -> Driver:
    return senao.make(settings.values or {}, settings.representors, emulated=settings.emulated)


DRIVERS: Mapping[str, Callable[[SwitchSettings], Driver]] = {
    "noop": _noop,
    "intel": _intel,
    "marvell": _marvell,
    "senao": _senao,
}


def make(settings: SwitchSettings) -> Driver:
    """Return the driver of a switch; it connects by itself.

    Raises InvalidValueError for an unknown vendor and for values that its driver does not take.
    """
    driver = DRIVERS.get(settings.vendor)
    if driver is None:
        known = ", ".join(sorted(DRIVERS))
        raise InvalidValueError(f"vendor {settings.vendor!r} has no driver; there are {known}")
    return driver(settings)


def of_device(device: DeviceConfig, node: str) -> Driver:
    """Return the driver of a device that ``node`` is itself. Raises as ``make`` does."""
    return make(
        SwitchSettings(
            vendor=device.vendor,
            node=node,
            representors=tuple(device.representors),
            values=device.switch or {},
            emulated=device.emulated,
        )
    )
