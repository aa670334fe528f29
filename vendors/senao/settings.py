"""The keys of a Senao SX904's ``switch`` in the agent's configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import Encap
from dataplane.device_config import unix_socket
from dataplane.documents import InterfaceName, Strict, validate
from dataplane.netlink import exchange
from vendors.senao.driver import Devlink, Limits, SenaoSwitch
from vendors.senao.pipeline import Tunnel, Wiring

_RELEASE = re.compile(r"(\d+)\.(\d+)")
_MOST_FILTERS = 4096


class SenaoSettings(Strict):
    """The uplink's netdev and the tunnel devices that the card's Open vSwitch has.

    Without ``address`` it is the kernel's own rtnetlink that is spoken to. ``filters`` are at most
    so many: the device does not say how many it takes. ``switchdev``: its NIC is put into this mode
    if it is not, which ends what netdevs its VFs have. ``devlink`` goes with ``address``.
    """

    address: Annotated[Path, PlainValidator(unix_socket)] | None = None
    devlink: Annotated[Path, PlainValidator(unix_socket)] | None = None
    switchdev: bool = False
    uplink: InterfaceName
    geneve: InterfaceName | None = None
    vxlan: InterfaceName | None = None
    filters: Annotated[int, Field(ge=1)] = _MOST_FILTERS

    @property
    def tunnels(self) -> dict[Encap, Tunnel]:
        """Return the tunnel devices by encapsulation."""
        named = {Encap.GENEVE: self.geneve, Encap.VXLAN: self.vxlan}
        return {encap: Tunnel(name) for encap, name in named.items() if name is not None}

    @property
    def opens(self) -> exchange.Open:
        """Return what opens a socket to the device."""
        return exchange.unix_socket(self.address) if self.address else exchange.kernel_socket

    @property
    def nic(self) -> Devlink | None:
        """Return where the mode of its NIC is asked for, and set; None: nowhere."""
        if self.devlink is not None:
            return Devlink(exchange.unix_socket(self.devlink), self.switchdev)
        if self.address is not None:
            return None
        return Devlink(partial(exchange.kernel_socket, exchange.GENERIC), self.switchdev)


def parse(values: Mapping[str, Any], representors: tuple[str, ...]) -> tuple[SenaoSettings, Wiring]:
    """Return what the configuration says, checked. Raises InvalidValueError with every fault."""
    settings, faults = validate(SenaoSettings, dict(values))
    texts = [text for _, text in faults] if settings is None else [*_faults(settings, representors)]
    if settings is None or texts:
        raise InvalidValueError("; ".join(f"switch: {text}" for text in texts))
    return settings, Wiring(representors, settings.tunnels, settings.uplink)


def _faults(settings: SenaoSettings, representors: tuple[str, ...]) -> Iterator[str]:
    """Yield what is wrong with values that are each well-formed."""
    if settings.devlink is not None and settings.address is None:
        yield "devlink without address: the kernel's own is asked"
    if settings.switchdev and settings.address is not None and settings.devlink is None:
        yield "switchdev needs devlink, the socket that answers beside address"
    tunnels = [tunnel.netdev for tunnel in settings.tunnels.values()]
    names = [settings.uplink, *tunnels, *representors]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"netdev {name} stands twice among uplink, geneve, vxlan and the representors"


def make(
    values: Mapping[str, Any], representors: tuple[str, ...], *, emulated: bool
) -> SenaoSwitch:
    """Return the driver of the switch below this node. Raises InvalidValueError."""
    settings, wiring = parse(values, representors)
    limits = Limits(settings.filters, None if settings.address else _release())
    return SenaoSwitch(settings.opens, wiring, limits, settings.nic, emulated=emulated)


def _release() -> tuple[int, int]:
    """Return the first two numbers of the kernel's version."""
    found = _RELEASE.match(os.uname().release)
    return (int(found[1]), int(found[2])) if found else (0, 0)
