"""How the two halves of a DPU reach each other, as the agent's configuration says."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import grpc

from dataplane.api.attachment import AttachmentService
from dataplane.api.channels import Channels
from dataplane.api.service import serve_attachments
from dataplane.config import AgentConfig
from dataplane.core.model import Side
from dataplane.device_config import NETWORK, DeviceConfig, peers

if TYPE_CHECKING:  # certificates cost 0.2 s and 13 MB: only who talks over a network pays
    from dataplane.pki.credentials import Credentials


def own_device(config: AgentConfig) -> DeviceConfig | None:
    """Return the DPU that this node is, if it is one."""
    return next((each for each in config.devices if each.side is Side.DPU), None)


class Halves:
    """The node's side of the channels to the other halves of its DPUs."""

    def __init__(self, config: AgentConfig) -> None:
        """Read the node's certificate, if it has one. Raises InvalidValueError."""
        self._config = config
        self._credentials = _credentials(config)

    def channels(self, devices: Sequence[DeviceConfig]) -> Channels:
        """Return what opens channels to the DPUs of this host that ``devices`` has."""
        if self._credentials is None:
            return Channels()
        from dataplane.api.mtls import SecureChannels

        return SecureChannels(peers(devices), self._credentials)

    def serve_host(self, service: AttachmentService) -> grpc.Server:
        """Start the service where this DPU's host calls. Raises OverweaveError."""
        device = own_device(self._config)
        if device is None or not (device.attachment and device.peer and self._credentials):
            return serve_attachments(service, self._config.attachment_socket)
        from dataplane.api.only_host import serve_attachments_to

        address = device.attachment.removeprefix(NETWORK)
        return serve_attachments_to(device.peer, service, address, self._credentials)

    def problems(self) -> tuple[str, ...]:
        """Return what keeps the halves apart, or soon will: a certificate that ends."""
        if self._credentials is None:
            return ()
        own, file = self._credentials.current().own, self._credentials.files["certificate"]
        warning = own.warning(datetime.now(UTC))
        told = f"certificate {file} {warning}; renew it: overweave pki renew {self._config.node}"
        return (told,) if warning else ()

    @property
    def mode(self) -> str:
        """Return how the other halves are reached, and who they are; empty: on sockets."""
        found = peers(self._config.devices).items()
        return ", ".join(f"{address} with {peer}" for address, peer in found)


def _credentials(config: AgentConfig) -> Credentials | None:
    if config.tls is None:
        return None
    from dataplane.pki.credentials import Credentials

    return Credentials(config.tls.files, config.node)
