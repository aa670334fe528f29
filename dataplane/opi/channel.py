"""Where the daemons of a host and its DPU meet, as a plugin's Init says it. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.opi.lifecycle_pb2 import IpPort


@dataclass(frozen=True, slots=True)
class Channel:
    """An address, with a zone where it is link-local, and a TCP port of the DPU."""

    address: str
    port: int

    def told(self, *, dpu_mode: bool) -> IpPort:
        """Return it as the daemon on the DPU listens on it, or as the host's dials it.

        It puts the port behind the text as it is: IPv6 is in brackets. What a host dials is a gRPC
        target, a URI: there ``%`` is ``%25`` (RFC 6874).
        """
        zone = "%" if dpu_mode else "%25"
        ip = f"[{self.address.replace('%', zone)}]" if ":" in self.address else self.address
        return IpPort(ip=ip, port=self.port)
