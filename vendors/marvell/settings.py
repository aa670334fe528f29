"""The keys of a Marvell DPU's ``switch`` in the agent's configuration."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator

from dataplane.core.errors import InvalidValueError
from dataplane.documents import InterfaceName, Strict, absolute_path, validate
from dataplane.remotes import check_remote
from vendors.marvell.driver import MarvellPlace, MarvellSwitch

DEFAULT_BRIDGE = "br-mrv0"  # what Marvell's own plugin calls it


class MarvellSettings(Strict):
    """Where the DPU's Open vSwitch is, and which ports of its bridge are what.

    ``database`` and ``openflow`` default to the sockets that it has in ``rundir``; ``vfs`` are the
    bridge's ports in the order of the VFs' numbers.
    """

    rundir: Annotated[Path, PlainValidator(absolute_path)]
    database: Annotated[str, AfterValidator(check_remote)] | None = None
    openflow: Annotated[Path, PlainValidator(absolute_path)] | None = None
    bridge: InterfaceName = DEFAULT_BRIDGE
    uplink: InterfaceName
    cpu: InterfaceName
    vfs: list[InterfaceName]

    def place(self, representors: tuple[str, ...]) -> MarvellPlace:
        """Return where the driver finds the switch whose VFs have ``representors`` here."""
        return MarvellPlace(
            rundir=self.rundir,
            remote=self.database or f"unix:{self.rundir}/db.sock",
            openflow=self.openflow or self.rundir / f"{self.bridge}.mgmt",
            bridge=self.bridge,
            uplink=self.uplink,
            cpu=self.cpu,
            vfs=dict(zip(representors, self.vfs, strict=True)),
        )


def parse(values: Mapping[str, Any], representors: tuple[str, ...]) -> MarvellPlace:
    """Return what the configuration says, checked. Raises InvalidValueError with every fault."""
    settings, faults = validate(MarvellSettings, dict(values))
    if settings is None:
        raise InvalidValueError("; ".join(f"switch: {fault}" for _, fault in faults))
    names = [settings.uplink, settings.cpu, *settings.vfs]
    if len(set(names)) < len(names):
        raise InvalidValueError(f"switch: a port stands twice among {', '.join(names)}")
    if len(settings.vfs) != len(representors):
        raise InvalidValueError(
            f"switch: {len(settings.vfs)} vfs for {len(representors)} representors: each VF has one"
        )
    return settings.place(representors)


def make(
    values: Mapping[str, Any], representors: tuple[str, ...], node: str, *, emulated: bool
) -> MarvellSwitch:
    """Return the driver of the switch below ``node``. Raises InvalidValueError."""
    return MarvellSwitch(parse(values, representors), node, time.monotonic, emulated=emulated)
