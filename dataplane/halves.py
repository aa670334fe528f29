"""How the two halves of a DPU reach each other, as the agent's configuration says.

Certificates cost 140 ms and some MB to load: only who talks over a network pays.
"""

from __future__ import annotations

import grpc

from dataplane.api.attachment import AttachmentService
from dataplane.api.channels import Channels
from dataplane.api.service import serve_attachments
from dataplane.config import AgentConfig
from dataplane.core.model import Side
from dataplane.device_config import NETWORK, DeviceConfig, peers


def own_device(config: AgentConfig) -> DeviceConfig | None:
    """Return the DPU that this node is, if it is one."""
    return next((each for each in config.devices if each.side is Side.DPU), None)


def channels(config: AgentConfig) -> Channels:
    """Return what opens channels to this host's DPUs. Raises InvalidValueError of certificates."""
    if config.tls is None:
        return Channels()
    from dataplane.api.mtls import SecureChannels
    from dataplane.pki.credentials import Credentials

    return SecureChannels(peers(config.devices), Credentials(config.tls.files, config.node))


def serve_host(config: AgentConfig, service: AttachmentService) -> grpc.Server:
    """Start the service where this DPU's host calls. Raises OverweaveError."""
    device = own_device(config)
    if device is None or device.attachment is None or device.peer is None or config.tls is None:
        return serve_attachments(service, config.attachment_socket)
    from dataplane.api.only_host import serve_attachments_to
    from dataplane.pki.credentials import Credentials

    address = device.attachment.removeprefix(NETWORK)
    credentials = Credentials(config.tls.files, config.node)
    return serve_attachments_to(device.peer, service, address, credentials)
