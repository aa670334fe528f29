"""How the agents of DPUs are called."""

from __future__ import annotations

import grpc


class Channels:
    """Opens channels to sockets; what else there is needs certificates (mtls.SecureChannels)."""

    def open(self, address: str) -> grpc.Channel:
        """Return a channel to ``unix:/PATH``."""
        return grpc.insecure_channel(address)

    def why_refused(self, address: str) -> str:
        """Return what keeps the two ends from knowing each other; empty: nothing does."""
        del address
        return ""
