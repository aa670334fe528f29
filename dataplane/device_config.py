"""The configuration's list of DPUs that the node is a half of: each its host, or the DPU itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PlainValidator, model_validator

from dataplane.contracts import Vf
from dataplane.core.errors import InvalidValueError
from dataplane.core.model import Device, Side
from dataplane.core.names import DEVICE_ID, SERIAL
from dataplane.documents import InterfaceName, NodeName, Strict, absolute_path, shown
from dataplane.remotes import SUN_PATH, check_remote


class Vendor(StrEnum):
    """Whose DPU it is; chooses the driver of its switch."""

    INTEL = "intel"
    SENAO = "senao"
    MARVELL = "marvell"


PRODUCTS = {
    Vendor.INTEL: "Intel IPU E2100",
    Vendor.SENAO: "Intel Netsec Accelerator",
    Vendor.MARVELL: "Marvell Octeon 10",
}
_LONGEST_PRODUCT = 255  # overweave.ovsschema
NETWORK = "ssl:"  # begins the address of a channel over a network


def _serial(text: str) -> str:
    if not SERIAL.allows(text):
        raise InvalidValueError(f"serial {shown(text)} {SERIAL.rule}")
    return text


def _device_id(text: str) -> str:
    if not DEVICE_ID.allows(text):
        raise InvalidValueError(f"device_id {shown(text)} {DEVICE_ID.rule}")
    return text


def _product(text: str) -> str:
    if not text.isprintable() or not 1 <= len(text) <= _LONGEST_PRODUCT:
        raise InvalidValueError(
            f"product {shown(text)} is not 1-{_LONGEST_PRODUCT} printable characters"
        )
    return text


def unix_socket(value: object) -> Path:
    """Return the path of ``unix:/PATH``. Raises InvalidValueError for all else."""
    method, _, path = value.partition(":") if isinstance(value, str) else ("", "", "")
    if method != "unix":
        raise InvalidValueError(f"{shown(value)} is not unix:/PATH, a socket")
    if len(path.encode()) > SUN_PATH:
        raise InvalidValueError(f"{shown(value)} is too long: the kernel takes {SUN_PATH} bytes")
    return absolute_path(path)


def _attachment(value: object) -> str:
    """Return ``unix:/PATH`` or ``ssl:ADDRESS:PORT``. Raises InvalidValueError for all else."""
    text = value if isinstance(value, str) else ""
    if not text.startswith(NETWORK) or "," in text:
        try:
            return f"unix:{unix_socket(value)}"
        except InvalidValueError as error:
            raise InvalidValueError(f"{error}, nor ssl:ADDRESS:PORT") from None
    return check_remote(text)


class VfConfig(Strict):
    """A virtual function on the host: what runtimes call it, and its netdev."""

    device_id: Annotated[str, AfterValidator(_device_id)]
    netdev: InterfaceName


class DeviceConfig(Strict):
    """One half of a DPU; VFs and representors are in the order of the VFs' numbers, from 0.

    ``attachment`` is where the DPU's agent answers its host; of the DPU itself it is given if that
    is over a network, and ``peer`` is then the node of the other half, the CN of its certificate.
    ``control`` is where an emulated switch takes frames that are let in on purpose.
    """

    serial: Annotated[str, AfterValidator(_serial)]
    vendor: Annotated[Vendor, Field(strict=False)]
    product: Annotated[str, AfterValidator(_product)] | None = None
    side: Annotated[Side, Field(strict=False)]
    emulated: bool = False
    attachment: Annotated[str, PlainValidator(_attachment)] | None = None
    peer: NodeName | None = None
    vfs: list[VfConfig] = []
    representors: list[InterfaceName] = []
    switch: dict[str, Any] | None = None
    control: Annotated[Path, PlainValidator(unix_socket)] | None = None

    @model_validator(mode="after")
    def _keys_of_its_side(self) -> DeviceConfig:
        sides = {Side.HOST: ("attachment", "vfs"), Side.DPU: ("representors", "switch")}
        other = Side.DPU if self.side is Side.HOST else Side.HOST
        given = {key for key in self.model_fields_set if getattr(self, key) not in (None, [])}
        faults = [f"{key} is missing" for key in sides[self.side] if key not in given]
        foreign = given - {"attachment"} if self.is_remote else given
        faults += [f"{key} belongs to side {other}" for key in sides[other] if key in foreign]
        if self.is_remote != (self.peer is not None):
            faults.append("attachment ssl:... and peer, the node of the other half, go together")
        if self.control and (self.side is Side.HOST or not self.emulated):
            faults.append("control belongs to side dpu of an emulated switch")
        if faults:
            raise InvalidValueError(f"side {self.side}: {', '.join(faults)}")
        return self

    @property
    def name(self) -> str:
        """Return what the device is called in the fabric."""
        return f"{self.serial}-{self.side}"

    @property
    def is_remote(self) -> bool:
        """Say whether host and DPU talk over a network, by certificates."""
        return (self.attachment or "").startswith(NETWORK)

    @property
    def netdevs(self) -> tuple[str, ...]:
        """Return the netdevs here that are this device's."""
        return (*(vf.netdev for vf in self.vfs), *self.representors)

    def entity(self, node: str) -> Device:
        """Return the device as ``node``'s, not ready yet."""
        return Device(
            name=self.name,
            serial=self.serial,
            vendor=self.vendor.value,
            product=self.product or PRODUCTS[self.vendor],
            side=self.side,
            node=node,
            ready=False,
            emulated=self.emulated,
            vfs=len(self.vfs) or len(self.representors),
        )


def _fit_together(devices: list[DeviceConfig]) -> list[DeviceConfig]:
    counts = Counter(_claims(devices))
    faults = [f"{claim} stands there {count} times" for claim, count in counts.items() if count > 1]
    own = sorted({device.serial for device in devices if device.side is Side.DPU})
    if len(own) > 1:
        faults.append(f"side dpu is said of {' and of '.join(own)}, but a node is one DPU at most")
    if faults:
        raise InvalidValueError(f"devices: {', '.join(faults)}")
    return devices


def _claims(devices: list[DeviceConfig]) -> Iterator[str]:
    for device in devices:
        yield f"serial {device.serial} with side {device.side}"
        yield from (f"device_id {vf.device_id}" for vf in device.vfs)
        yield from (f"netdev {name}" for name in device.netdevs)


Devices = Annotated[list[DeviceConfig], AfterValidator(_fit_together)]


def host_vfs(devices: Sequence[DeviceConfig]) -> tuple[Vf, ...]:
    """Return the VFs of the devices that this node is the host of."""
    return tuple(
        Vf(vf.device_id, vf.netdev, device.serial, number, device.attachment or "")
        for device in devices
        for number, vf in enumerate(device.vfs)
    )


def watched_devices(devices: Sequence[DeviceConfig]) -> dict[str, tuple[str, str]]:
    """Return of the devices that this node is the host of, by name, the serial and the address."""
    return {d.name: (d.serial, d.attachment or "") for d in devices if d.side is Side.HOST}


def peers(devices: Sequence[DeviceConfig]) -> dict[str, str]:
    """Return the other halves' nodes by the address of the channel, where that has a network."""
    return {d.attachment: d.peer for d in devices if d.attachment and d.peer}


def served_devices(devices: list[DeviceConfig]) -> dict[str, tuple[str, ...]]:
    """Return the representors, by serial, of the devices that this node is itself."""
    return {d.serial: tuple(d.representors) for d in devices if d.side is Side.DPU}
