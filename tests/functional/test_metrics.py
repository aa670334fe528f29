"""The metrics over real sockets: who is answered, who is turned away, what is left behind."""

import os
import socket
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from ipaddress import ip_address
from pathlib import Path

import pytest

from dataplane import metrics
from dataplane.core.errors import OverweaveError
from dataplane.metrics import Address, Metrics, MetricsServer
from tests.unit.test_metrics import FakePath, FakeSource, samples


@contextmanager
def served(address: Address, path: FakePath | None = None) -> Iterator[MetricsServer]:
    server = MetricsServer(Metrics(FakeSource(), path or FakePath()), address)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def connected(address: Address) -> socket.socket:
    if isinstance(address, Path):
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(address))
        return connection
    return socket.create_connection((str(address[0]), address[1]), 5)


def scrape(address: Address, accept: str = "") -> tuple[int, str, str]:
    http = HTTPConnection("localhost")
    http.sock = connected(address)
    http.sock.settimeout(10)
    with http.sock:
        http.request("GET", "/metrics", headers={"Accept": accept} if accept else {})
        answer = http.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read().decode()


def names_shown(address: Address) -> set[str]:
    """Return the names of the metrics at ``address``, a histogram's three under its own."""
    endings = ("_bucket", "_count", "_sum")
    _, _, text = scrape(address)
    found = samples(text)
    return {name.removesuffix(next(filter(name.endswith, endings), "")) for name in found}


def free_port(host: str) -> int:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize("place", ["unix", "127.0.0.1", "::1"])
def test_prometheus_is_answered(tmp_path: Path, place: str) -> None:
    socket_path = tmp_path / "m.sock"
    address = socket_path if place == "unix" else (ip_address(place), free_port(place))
    with served(address):
        status, kind, text = scrape(address)
        _, modern, _ = scrape(address, "application/openmetrics-text; version=1.0.0")
    assert status == 200
    assert kind.startswith("text/plain; version=")
    assert modern.startswith("application/openmetrics-text")
    assert "\noverweave_generation 3.0\n" in text
    assert list(tmp_path.iterdir()) == []


def test_only_root_enters_the_socket_from_the_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, modes = tmp_path / "m.sock", []
    listen = metrics._UnixServer.server_activate

    def seen(server: metrics._UnixServer) -> None:
        modes.append(stat.S_IMODE(path.stat().st_mode))
        listen(server)

    monkeypatch.setattr(metrics._UnixServer, "server_activate", seen)
    with served(path):
        assert modes == [0o600]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_socket_of_an_agent_that_died_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with served(path):
        assert scrape(path)[0] == 200


def test_what_is_in_use_or_not_ours_stays(tmp_path: Path) -> None:
    path, file = tmp_path / "m.sock", tmp_path / "file"
    file.write_text("precious")
    host = ip_address("127.0.0.1")
    with served(path), pytest.raises(OverweaveError, match="another agent already serves"):
        MetricsServer(Metrics(FakeSource(), FakePath()), path)
    with pytest.raises(OverweaveError, match="a file that is no socket is there"):
        MetricsServer(Metrics(FakeSource(), FakePath()), file)
    with pytest.raises(OverweaveError, match=r"metrics cannot be served on .*No such file"):
        MetricsServer(Metrics(FakeSource(), FakePath()), tmp_path / "none" / "m.sock")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OverweaveError, match=f"127.0.0.1, port {port}: .*in use"):
            MetricsServer(Metrics(FakeSource(), FakePath()), (host, port))
    assert file.read_text() == "precious"


def test_silent_clients_hold_no_more_than_their_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics._Handler, "timeout", 1.0)
    path = tmp_path / "m.sock"
    before = threading.active_count()
    with served(path), ExitStack() as stack:
        silent = [stack.enter_context(connected(path)) for _ in range(40)]
        for client in silent[metrics._SCRAPES :]:
            client.settimeout(10)
            assert client.recv(1) == b""  # turned away at once
        assert threading.active_count() - before <= metrics._SCRAPES + 1
        for client in silent[: metrics._SCRAPES]:
            client.settimeout(10)
            assert client.recv(1) == b""  # has been silent for too long
        assert scrape(path)[0] == 200


def is_answered(path: Path) -> bool:
    try:
        return scrape(path)[0] == 200
    except ConnectionError:  # all places are still taken by those that went away
        return False


def test_a_client_that_goes_away_leaves_no_trace(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.sock"
    with served(path):
        for _ in range(20):
            with connected(path) as client:
                client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while not is_answered(path):
            os.sched_yield()
    assert capfd.readouterr().err == ""
