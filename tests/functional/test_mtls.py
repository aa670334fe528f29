"""overweave.v1.Attachment over a network: who is let in, who is not, and why, told to both ends."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import grpc
import pytest
from structlog.testing import capture_logs

from dataplane.api import attachment_pb2 as pb
from dataplane.api import only_host
from dataplane.api import witness as witness_module
from dataplane.api.attachment import AttachmentService
from dataplane.api.attachment_pb2_grpc import AttachmentStub
from dataplane.api.dpu import DpuClient
from dataplane.api.mtls import SecureChannels
from dataplane.api.only_host import serve_attachments_to
from dataplane.api.witness import HostWitness, WitnessStand
from dataplane.contracts import AttachRefusedError, Sending, Witnessed
from dataplane.core.admission import TRY_AGAIN
from dataplane.core.errors import OverweaveError
from dataplane.core.model import AttachmentKey
from dataplane.pki import certificates
from dataplane.pki.certificates import Holder, Pair, Role
from dataplane.pki.credentials import Credentials, Pems
from dataplane.vf_ports import VfPorts
from tests.functional.certificates import DAY, NOW, Files, Pki, free_port, put
from tests.functional.cni_world import FakeAttachments
from tests.functional.namespaces import wait_until

PATIENCE_S = 5.0


class Service(AttachmentService):
    """Remembers by which certificates it was called."""

    def __init__(self, witness: HostWitness | None = None) -> None:
        super().__init__(VfPorts("d1", FakeAttachments()), {"M1": ("rep0",)}, witness)
        self.callers: list[int] = []

    def GetDevices(  # noqa: N802 - gRPC names it
        self, request: pb.GetDevicesRequest, context: object
    ) -> pb.GetDevicesResponse:
        shown: Any = cast("grpc.ServicerContext", context).auth_context()["x509_pem_cert"]
        self.callers.append(certificates.read_certificate(shown[0]).serial)
        return super().GetDevices(request, context)


@dataclass
class Dpu:
    """The agent of DPU d1, which serves host h1."""

    service: Service
    address: str

    def ask(self, files: Files, peer: str = "d1") -> str:
        """Return who answers a host with these files."""
        host = Credentials(files, "h1")
        client = DpuClient(SecureChannels({self.address: peer}, host))
        return client.served(self.address, PATIENCE_S).node

    def call(self, credentials: grpc.ChannelCredentials | None) -> grpc.RpcError:
        """Return how a call by somebody else ends, who takes any server for d1."""
        where, options = (
            self.address.removeprefix("ssl:"),
            [("grpc.ssl_target_name_override", "d1")],
        )
        channel = (
            grpc.secure_channel(where, credentials, options)
            if credentials
            else grpc.insecure_channel(where)
        )
        with channel, pytest.raises(grpc.RpcError) as caught:
            AttachmentStub(channel).GetDevices(pb.GetDevicesRequest(), timeout=PATIENCE_S)
        return caught.value


@dataclass(frozen=True)
class Unchecked:
    """Files as they are, whoever's they are: what Credentials would not take."""

    files: Files

    def current(self) -> Pems:
        read = {key: path.read_bytes() for key, path in self.files.items()}
        return Pems(**read, own=certificates.read_certificate(read["certificate"]))


@contextmanager
def serving(files: Files, witness: HostWitness | None = None) -> Iterator[Dpu]:
    service, port = Service(witness), free_port()
    credentials = cast("Credentials", Unchecked(files))
    server = serve_attachments_to("h1", service, f"127.0.0.1:{port}", credentials)
    try:
        yield Dpu(service, f"ssl:127.0.0.1:{port}")
    finally:
        server.stop(None).wait()


@pytest.fixture
def pki(tmp_path: Path) -> Pki:
    return Pki(tmp_path)


def good(name: str) -> Callable[[Pki], Files]:
    return lambda pki: pki.node(name)


Make = Callable[[Pki], Files]


@pytest.mark.parametrize(
    ("host", "dpu", "words"),
    [
        pytest.param(
            lambda pki: pki.node("h1", when=NOW - 20 * DAY),
            good("d1"),
            "this node's certificate .*h1/cert.pem has expired on .*: overweave pki renew h1",
            id="the host's has expired",
        ),
        pytest.param(
            lambda pki: pki.node("h1", when=NOW + 5 * DAY),
            good("d1"),
            "h1/cert.pem is not valid before .*; is the clock of this machine right",
            id="the host's is not valid yet",
        ),
        pytest.param(
            lambda pki: pki.stranger("h1"),
            good("d1"),
            r"refuses this node's certificate, of h1 \(role node\), signed by CN=Overweave CA"
            r" \w+; does the DPU's ca_cert hold that authority\?",
            id="the host's is of an authority that the DPU does not know",
        ),
        pytest.param(
            good("h1"),
            lambda pki: pki.node("d1", when=NOW - 20 * DAY),
            r"its certificate, of d1 \(role node\), has expired on .*overweave pki renew d1",
            id="the DPU's has expired",
        ),
        pytest.param(
            good("h1"),
            lambda pki: pki.node("d1", when=NOW + 5 * DAY),
            r"of d1 \(role node\), is not valid before ",
            id="the DPU's is not valid yet",
        ),
        pytest.param(
            good("h1"),
            lambda pki: pki.stranger("d1"),
            r"its certificate, of d1 \(role node\), is signed by CN=Overweave CA \w+, which is none"
            " of ca_cert .*h1/cacert.pem; copy",
            id="the DPU's is of another authority",
        ),
        pytest.param(
            good("h1"),
            good("d2"),
            r"it is d2 \(role node\), and not d1 \(role node\); is peer in devices right",
            id="another DPU answers",
        ),
        pytest.param(
            good("h1"),
            lambda pki: pki.node("d1", role=Role.TENANT),
            r"it is d1 \(role tenant\), and not d1 \(role node\)",
            id="a tenant that is called like the DPU answers",
        ),
    ],
)
def test_who_does_not_know_the_other_is_told_why(
    pki: Pki, host: Make, dpu: Make, words: str
) -> None:
    with serving(dpu(pki)) as there, pytest.raises(AttachRefusedError) as caught:
        there.ask(host(pki))
    assert caught.value.code == TRY_AGAIN
    assert str(caught.value).startswith(f"the DPU's agent at {there.address}: ")
    assert re.search(words, str(caught.value)), caught.value
    assert there.service.callers == []


def test_nobody_there_is_no_matter_of_certificates(pki: Pki) -> None:
    with serving(pki.node("d1")) as dpu:
        pass
    with pytest.raises(AttachRefusedError, match=r"does not answer \(UNAVAILABLE"):
        dpu.ask(pki.node("h1"))


def shown(files: Files) -> grpc.ChannelCredentials:
    read = Unchecked(files).current()
    return grpc.ssl_channel_credentials(read.ca_cert, read.private_key, read.certificate)


def without(files: Files) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(files["ca_cert"].read_bytes())


DENIED, CLOSED = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("caller", "code", "words"),
    [
        pytest.param(lambda pki: None, CLOSED, "", id="no TLS"),
        pytest.param(lambda pki: without(pki.node("h1")), CLOSED, "", id="no certificate"),
        pytest.param(lambda pki: shown(pki.stranger("h1")), CLOSED, "", id="wrong authority"),
        pytest.param(
            lambda pki: shown(pki.node("h1", when=NOW - 20 * DAY)), CLOSED, "", id="expired"
        ),
        pytest.param(
            lambda pki: shown(pki.node("h1", when=NOW + 5 * DAY)), CLOSED, "", id="not valid yet"
        ),
        pytest.param(
            lambda pki: shown(pki.node("h2")),
            DENIED,
            "certificate of h2 (role node): this DPU serves h1 (role node) alone; is peer 'h1' in",
            id="another host",
        ),
        pytest.param(
            lambda pki: shown(pki.node("d1")),
            DENIED,
            "of d1 (role node): this",
            id="the DPU itself",
        ),
        pytest.param(
            lambda pki: shown(pki.node("h1", role=Role.TENANT)),
            DENIED,
            "certificate of h1 (role tenant): this DPU serves",
            id="a tenant that is called like the host",
        ),
        pytest.param(
            lambda pki: shown(pki.node("ops", role=Role.ADMIN)), DENIED, "of ops (role", id="admin"
        ),
        pytest.param(
            lambda pki: shown(signed(pki, pki.node("d9"), "h1")),
            CLOSED,
            "",
            id="signed by a node that is no authority",
        ),
    ],
)
def test_who_is_not_the_host_is_not_heard(
    pki: Pki,
    caller: Callable[[Pki], grpc.ChannelCredentials | None],
    code: grpc.StatusCode,
    words: str,
) -> None:
    with serving(pki.node("d1")) as dpu:
        error = dpu.call(caller(pki))
        assert (error.code(), words in (error.details() or "")) == (code, True), error
        assert dpu.service.callers == []
        assert dpu.ask(pki.node("h1", "again")) == "d1"


def signed(pki: Pki, by: Files, name: str) -> Files:
    """Let the holder of ``by``, who is no authority, sign a certificate for ``name``."""
    signer = Pair(by["private_key"].read_bytes(), by["certificate"].read_bytes())
    pair = certificates.issue(signer, Holder(name, Role.NODE), NOW, 1)
    chain = Pair(pair.key, pair.certificate + signer.certificate)
    return pki.give(pki.files("forged"), chain)


def test_the_dpu_says_whom_it_refuses(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(pki.node("d1")) as dpu, capture_logs() as logs:
        for name in ("h2", "h2", "h2", "h3"):
            dpu.call(shown(pki.node(name)))
        assert dpu.ask(pki.node("h1")) == "d1"
        dpu.call(shown(pki.node("h3")))
        monkeypatch.setattr(only_host, "_TELL_S", 0.0)
        dpu.call(shown(pki.node("h3")))
    told = [each["error"] for each in logs if each["event"] == "attachment.refused"]
    assert [each.split()[2] for each in told] == ["h2", "h3", "h3"]
    assert "certificate of h2 (role node): this DPU serves h1 (role node) alone" in told[0]


def test_every_method_is_for_the_host_alone(pki: Pki) -> None:
    with serving(pki.node("d1")) as dpu:
        where = dpu.address.removeprefix("ssl:")
        options = [("grpc.ssl_target_name_override", "d1")]
        with grpc.secure_channel(where, shown(pki.node("h2")), options) as channel:
            stub = AttachmentStub(channel)
            methods = {
                method.name: method.client_streaming
                for method in pb.DESCRIPTOR.services_by_name["Attachment"].methods
            }
            assert {"Attach", "Publish", "Detach", "Check", "GetDevices", "Witness"} <= {*methods}
            for name, streams in methods.items():
                request = pb.DESCRIPTOR.services_by_name["Attachment"].methods_by_name[name]
                empty = getattr(pb, request.input_type.name)()
                call = getattr(stub, name)
                with pytest.raises(grpc.RpcError) as caught:
                    list(call(iter([empty]))) if streams else call(empty, timeout=PATIENCE_S)
                assert caught.value.code() is DENIED, name


def test_the_address_must_be_this_machines(pki: Pki) -> None:
    files = Credentials(pki.node("d1"), "d1")
    with pytest.raises(
        OverweaveError, match=r"cannot listen on 192\.0\.2\.77:5: .*of this machine"
    ):
        serve_attachments_to("h1", Service(), "192.0.2.77:5", files)
    with serving(pki.node("d1")) as dpu:
        taken = dpu.address.removeprefix("ssl:")
        with pytest.raises(OverweaveError, match=f"cannot listen on {taken}: "):
            serve_attachments_to("h1", Service(), taken, files)


GRACE = (("grpc.max_connection_age_grace_ms", 100),)


class Told:
    """A host that says that every pod is deaf."""

    def send(self, sendings: Sequence[Sending], listen_s: float) -> Witnessed:
        return Witnessed([], {each.key: "deaf" for each in sendings})


def test_the_stream_to_the_host(pki: Pki, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection ends after a while, and the host opens another with what it has by then."""
    monkeypatch.setattr(only_host, "_OPTIONS", (("grpc.max_connection_age_ms", 300), *GRACE))
    monkeypatch.setattr(witness_module, "RETRY_S", 0.02)
    witness = HostWitness()
    with serving(pki.node("d1"), witness) as dpu:
        channels = SecureChannels({dpu.address: "d1"}, Credentials(pki.node("h1"), "h1"))
        stand = WitnessStand({dpu.address: Told()}, channels)
        stand.start()
        key = AttachmentKey("c1", "eth0")

        def answers() -> bool:
            with suppress(OverweaveError):
                return witness.send([Sending(key, b"x", b"x")], 0).faults == {key: "deaf"}
            return False

        assert wait_until(answers)
        first = witness._call
        assert wait_until(lambda: witness._call not in (None, first))
        assert wait_until(answers)
        stand.stop()


class Caller:
    """A host that asks without a pause until it is told to stop."""

    def __init__(self, dpu: Dpu, files: Files) -> None:
        self.asked, self.failed = 0, list[str]()
        self._client = DpuClient(SecureChannels({dpu.address: "d1"}, Credentials(files, "h1")))
        self._address = dpu.address
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def more(self, count: int = 3) -> None:
        """Return once so many more have been asked."""
        enough = self.asked + count + 1  # the one under way may have begun before
        assert wait_until(lambda: self.asked >= enough)

    def _run(self) -> None:
        while not self._stopping.wait(0.005):
            try:
                self._client.served(self._address, PATIENCE_S)
            except AttachRefusedError as error:
                self.failed.append(str(error))
            self.asked += 1


def serial(files: Files) -> int:
    return certificates.read_certificate(files["certificate"].read_bytes()).serial


def test_new_certificates_and_a_new_authority_under_calls(pki: Pki) -> None:
    """Key, then certificate, each as an administrator copies them; no restart, no call fails."""
    host, dpu_files = pki.node("h1"), pki.node("d1")
    old = {key: path.read_bytes() for key, path in host.items()}
    service, port = Service(), free_port()
    server = serve_attachments_to("h1", service, f"127.0.0.1:{port}", Credentials(dpu_files, "d1"))
    dpu = Dpu(service, f"ssl:127.0.0.1:{port}")
    with Caller(dpu, host) as caller:
        seen = [serial(host)]
        caller.more()
        for name in ("h1", "d1"):  # a node's own
            pki.node(name)
            caller.more()
        seen.append(serial(host))
        pki.authority.rotate(NOW, 100)
        for files in (host, dpu_files):
            pki.trust(files)
            caller.more()
        for name in ("d1", "h1"):
            pki.node(name)
            caller.more()
        seen.append(serial(host))
        for files in (dpu_files, host):  # the old authority goes
            put(files["ca_cert"], certificates.split(pki.authority.bundle.read_bytes())[0])
            caller.more()
    assert caller.failed == []
    assert list(dict.fromkeys(service.callers)) == seen
    before = grpc.ssl_channel_credentials(
        host["ca_cert"].read_bytes(), old["private_key"], old["certificate"]
    )
    assert dpu.call(before).code() is CLOSED
    server.stop(None).wait()


def test_a_key_without_its_certificate_yet(pki: Pki) -> None:
    """Between two files that are replaced, both ends go on with what they had."""
    host, dpu_files = pki.node("h1"), pki.node("d1")
    service, port = Service(), free_port()
    server = serve_attachments_to("h1", service, f"127.0.0.1:{port}", Credentials(dpu_files, "d1"))
    dpu = Dpu(service, f"ssl:127.0.0.1:{port}")
    client = DpuClient(SecureChannels({dpu.address: "d1"}, Credentials(host, "h1")))
    before = serial(host)
    for files, name in ((host, "h1"), (dpu_files, "d1")):
        new = pki.node(name, f"new-{name}")
        put(files["private_key"], new["private_key"].read_bytes(), 0o600)
        assert client.served(dpu.address, PATIENCE_S).node == "d1"
        put(files["certificate"], b"half a certif")
        assert client.served(dpu.address, PATIENCE_S).node == "d1"
        put(files["certificate"], new["certificate"].read_bytes())
        assert client.served(dpu.address, PATIENCE_S).node == "d1"
    assert list(dict.fromkeys(service.callers)) == [before, serial(host)]
    server.stop(None).wait()
