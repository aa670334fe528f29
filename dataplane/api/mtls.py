"""How the agents of DPUs are called over a network: both ends show a certificate."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import grpc

from dataplane.api.channels import Channels
from dataplane.device_config import NETWORK
from dataplane.pki import certificates
from dataplane.pki.certificates import Certificate, Holder, Role
from dataplane.pki.credentials import Credentials, Pems

_PROBE_S = 0.5


class SecureChannels(Channels):
    """Opens channels also to ``ssl:ADDRESS:PORT``, with this node's certificate.

    ``peers`` are the nodes that answer there, by address: nobody else is asked anything.
    """

    def __init__(self, peers: Mapping[str, str], credentials: Credentials) -> None:
        self._peers = dict(peers)
        self._credentials = credentials

    def open(self, address: str) -> grpc.Channel:
        """Return a channel, with the newest files of the certificate."""
        if address not in self._peers:
            return super().open(address)
        pems = self._credentials.current()
        return grpc.secure_channel(
            address.removeprefix(NETWORK),
            grpc.ssl_channel_credentials(pems.ca_cert, pems.private_key, pems.certificate),
            options=(
                ("grpc.ssl_target_name_override", self._peers[address]),
                ("grpc.enable_http_proxy", 0),
                ("grpc.use_local_subchannel_pool", 1),
            ),
        )

    def why_refused(self, address: str) -> str:
        """Return what is wrong with the certificates of either end; empty: nothing is seen."""
        peer = self._peers.get(address)
        return _Meeting(address, peer, self._credentials).fault() if peer else ""


@dataclass(frozen=True, slots=True)
class _Meeting:
    """A handshake that is made only to find out why another has failed: gRPC does not say."""

    address: str
    peer: str
    credentials: Credentials

    def fault(self) -> str:
        pems = self.credentials.current()
        fault = pems.own.fault(datetime.now(UTC))
        if fault:
            file, holder = self.credentials.files["certificate"], pems.own.holder
            name = holder.name if holder else pems.own.subject
            return f"this node's certificate {file} {fault}; renew it: overweave pki renew {name}"
        try:
            return self._met(pems)
        except (OSError, ValueError):
            return ""

    def _met(self, pems: Pems) -> str:
        host, _, port = self.address.removeprefix(NETWORK).rpartition(":")
        where = (host.removeprefix("[").removesuffix("]"), int(port))
        with (
            socket.create_connection(where, _PROBE_S) as plain,
            self._context().wrap_socket(plain, server_hostname=self.peer) as wrapped,
        ):
            shown = wrapped.getpeercert(binary_form=True) or b""
            fault = self._of_theirs(ssl.DER_cert_to_PEM_cert(shown).encode(), pems)
            return fault or _hung_up(wrapped, pems.own)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False  # whoever it is, we look, send nothing and hang up
        context.verify_mode = ssl.CERT_NONE
        files = self.credentials.files
        context.load_cert_chain(files["certificate"], files["private_key"])
        context.set_alpn_protocols(["h2"])
        return context

    def _of_theirs(self, pem: bytes, pems: Pems) -> str:
        theirs = certificates.read_certificate(pem)
        name = str(theirs.holder or theirs.subject)
        if not certificates.is_signed_by(pem, pems.ca_cert):
            return (
                f"its certificate, of {name}, is signed by {theirs.issuer}, which is none of"
                f" ca_cert {self.credentials.files['ca_cert']}; copy the authority's cacert.pem"
                " there, if it is to be trusted"
            )
        fault = theirs.fault(datetime.now(UTC))
        if fault:
            return f"its certificate, of {name}, {fault}; renew it: overweave pki renew {self.peer}"
        if theirs.holder != Holder(self.peer, Role.NODE):
            return f"it is {name}, and not {self.peer} (role node); is peer in devices right?"
        return ""


def _hung_up(wrapped: ssl.SSLSocket, own: Certificate) -> str:
    """Return what a server makes of our certificate, which in TLS 1.3 it sees after the handshake.

    gRPC's hangs up without an alert; to others it says its SETTINGS first (RFC 9113, 3.4).
    """
    wrapped.settimeout(_PROBE_S)
    if wrapped.recv(1):
        return ""
    return (
        f"it refuses this node's certificate, of {own.holder}, signed by {own.issuer}; does the"
        " DPU's ca_cert hold that authority? Its log says more"
    )
