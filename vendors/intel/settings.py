"""The keys of an Intel IPU's ``switch`` in the agent's configuration."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PlainValidator

from dataplane.core.errors import InvalidValueError
from dataplane.documents import Strict, absolute_path, validate
from dataplane.remotes import CERTIFICATE_KEYS
from vendors.intel.client import ROLE, Certificates, Server
from vendors.intel.driver import IntelSwitch
from vendors.intel.pipeline import Wiring

AbsolutePath = Annotated[Path, PlainValidator(absolute_path)]
_ADDRESS = r"^(unix:/\S+|(\[[0-9a-fA-F:.]+\]|[^:\s\[\]]+):[0-9]{1,5})$"
_MOST_VSIS = 1 << 11  # p4info: vmeta.common.vsi has 11 bits
Vsi = Annotated[int, Field(ge=1, lt=_MOST_VSIS)]


class IntelSettings(Strict):
    """Where the device's P4Runtime is, and the VSIs of its VFs in the order of their numbers.

    ``address`` is ``HOST:PORT`` or ``unix:/PATH``; ``uplink`` the number of the wire port that
    tunnels leave by. An empty ``role`` is for a device that knows no other.
    """

    address: Annotated[str, Field(pattern=_ADDRESS)]
    device_id: Annotated[int, Field(ge=1)] = 1
    role: str = ROLE
    private_key: AbsolutePath | None = None
    certificate: AbsolutePath | None = None
    ca_cert: AbsolutePath | None = None
    uplink: Annotated[int, Field(ge=0, le=1)] = 0
    vfs: list[Vsi]

    @property
    def files(self) -> dict[str, Path]:
        """Return the certificate files by key."""
        named = {key: getattr(self, key) for key in CERTIFICATE_KEYS}
        return {key: path for key, path in named.items() if path is not None}

    @property
    def server(self) -> Server:
        """Return where the device is asked."""
        tls = Certificates(**self.files) if self.files else None
        return Server(self.address, self.device_id, self.role, tls)


def parse(values: Mapping[str, Any], representors: tuple[str, ...]) -> tuple[Server, Wiring]:
    """Return what the configuration says, checked. Raises InvalidValueError with every fault."""
    settings, faults = validate(IntelSettings, dict(values))
    texts = [text for _, text in faults] if settings is None else [*_faults(settings, representors)]
    if settings is None or texts:
        raise InvalidValueError("; ".join(f"switch: {text}" for text in texts))
    return settings.server, Wiring(
        dict(zip(representors, settings.vfs, strict=True)), settings.uplink
    )


def _faults(settings: IntelSettings, representors: tuple[str, ...]) -> Iterator[str]:
    """Yield what is wrong with values that are each well-formed."""
    for vsi in sorted({vsi for vsi in settings.vfs if settings.vfs.count(vsi) > 1}):
        yield f"VSI {vsi} stands twice among vfs"
    if len(settings.vfs) != len(representors):
        yield f"{len(settings.vfs)} vfs for {len(representors)} representors: each VF has one"
    if 0 < len(settings.files) < len(CERTIFICATE_KEYS):
        yield f"{', '.join(CERTIFICATE_KEYS)} go together: give all of them, or none"
    for key, path in settings.files.items():
        if not path.is_file():
            yield f"{key}: there is no file {path}"


def make(
    values: Mapping[str, Any], representors: tuple[str, ...], *, emulated: bool
) -> IntelSwitch:
    """Return the driver of the switch below this node. Raises InvalidValueError."""
    server, wiring = parse(values, representors)
    return IntelSwitch(server, wiring, time.time_ns(), emulated=emulated)
