"""The keys of a Marvell DPU's ``switch`` in the agent's configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, PlainValidator

from dataplane.core.errors import InvalidValueError
from dataplane.documents import InterfaceName, Strict, absolute_path, validate
from dataplane.remotes import CERTIFICATE_KEYS, check_certificates, check_remote
from ovs_client.database import Tls
from vendors.marvell.driver import MarvellPlace, MarvellSwitch

AbsolutePath = Annotated[Path, PlainValidator(absolute_path)]
Remote = Annotated[str, AfterValidator(check_remote)]


def _one(remote: str) -> str:
    if "," in remote:
        raise InvalidValueError(f"{remote!r}: a bridge is asked at one place")
    return remote


OneRemote = Annotated[str, AfterValidator(check_remote), AfterValidator(_one)]
DEFAULT_BRIDGE = "br-mrv0"  # what Marvell's own plugin calls it


class MarvellSettings(Strict):
    """Where the DPU's Open vSwitch is, and which ports of its bridge are what.

    ``database`` and ``openflow`` default to the sockets that it has in ``rundir``; ``vfs`` are the
    bridge's ports in the order of the VFs' numbers.
    """

    rundir: AbsolutePath
    database: Remote | None = None
    openflow: OneRemote | None = None
    private_key: AbsolutePath | None = None
    certificate: AbsolutePath | None = None
    ca_cert: AbsolutePath | None = None
    bridge: InterfaceName = DEFAULT_BRIDGE
    uplink: InterfaceName
    cpu: InterfaceName
    vfs: list[InterfaceName]

    @property
    def files(self) -> dict[str, Path]:
        """Return the certificate files by key."""
        named = {key: getattr(self, key) for key in CERTIFICATE_KEYS}
        return {key: path for key, path in named.items() if path is not None}

    @property
    def remotes(self) -> dict[str, str]:
        """Return where database and bridge are asked, by key."""
        return {
            "database": self.database or f"unix:{self.rundir}/db.sock",
            "openflow": self.openflow or f"unix:{self.rundir}/{self.bridge}.mgmt",
        }

    def place(self, representors: tuple[str, ...]) -> MarvellPlace:
        """Return where the driver finds the switch whose VFs have ``representors`` here."""
        return MarvellPlace(
            rundir=self.rundir,
            **self.remotes,
            bridge=self.bridge,
            uplink=self.uplink,
            cpu=self.cpu,
            vfs=dict(zip(representors, self.vfs, strict=True)),
            tls=Tls(**self.files) if self.files else None,
        )


def parse(values: Mapping[str, Any], representors: tuple[str, ...]) -> MarvellPlace:
    """Return what the configuration says, checked. Raises InvalidValueError with every fault."""
    settings, faults = validate(MarvellSettings, dict(values))
    texts = [text for _, text in faults] if settings is None else [*_faults(settings, representors)]
    if settings is None or texts:
        raise InvalidValueError("; ".join(f"switch: {text}" for text in texts))
    return settings.place(representors)


def _faults(settings: MarvellSettings, representors: tuple[str, ...]) -> Iterator[str]:
    """Yield what is wrong with values that are each well-formed."""
    names = [settings.uplink, settings.cpu, *settings.vfs]
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield f"port {name} stands twice among uplink, cpu and vfs"
    if len(settings.vfs) != len(representors):
        yield f"{len(settings.vfs)} vfs for {len(representors)} representors: each VF has one"
    try:
        for remote in settings.remotes.values():
            check_remote(remote)  # what stands by default has the length of rundir
        check_certificates("", settings.remotes, settings.files)
    except InvalidValueError as error:
        yield str(error)
    else:
        if 0 < len(settings.files) < len(CERTIFICATE_KEYS):
            yield f"{', '.join(CERTIFICATE_KEYS)} go together: give all of them, or none"


def make(
    values: Mapping[str, Any], representors: tuple[str, ...], node: str, *, emulated: bool
) -> MarvellSwitch:
    """Return the driver of the switch below ``node``. Raises InvalidValueError."""
    return MarvellSwitch(parse(values, representors), node, time.monotonic, emulated=emulated)
