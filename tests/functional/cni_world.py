"""A node for CNI tests: real server, real shim processes, in-memory attachments and wiring."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from dataplane.api.dpu import DpuClient
from dataplane.cni.front import Front
from dataplane.cni.handler import Handler, Limits, VfFront
from dataplane.cni.install import install_plugin
from dataplane.cni.ipam import Ipam
from dataplane.cni.server import CniServer
from dataplane.cni.vf_records import VfRecords
from dataplane.contracts import AttachRefusedError, PodRoute
from dataplane.core.desired import Port
from dataplane.core.errors import OverweaveError
from dataplane.core.events import AttachRequest
from dataplane.core.model import Attachment, AttachmentKey, IpAddress, Mac, Segment, Vni
from dataplane.core.snapshot import Obstacle
from dataplane.host.vf import VfWiring

PREFIX = "hlpe-"
BLUE = Segment("blue", Vni(10), subnets=(ip_network("10.1.0.0/20"), ip_network("fd00:1::/64")))
BARE = Segment("bare", Vni(11))
MTU = 1450


class FakeAttachments:
    """The agent's side, as short as the contract allows: chooses the lowest free address."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._ports: dict[AttachmentKey, Port] = {}
        self.segments = {segment.name: segment for segment in (BLUE, BARE)}
        self.refusal: AttachRefusedError | None = None
        self.unprogrammable: AttachRefusedError | None = None
        self.programming_s = 0.0
        self.obstruction: Obstacle | None = None
        self.published = True
        self.at_publish: Callable[[], None] = lambda: None
        self.found_faults: list[str] = []
        self.log: list[str] = []

    def admit(self, request: AttachRequest, timeout_s: float) -> Port:
        with self._guard:
            if self.refusal is not None:
                raise self.refusal
            if request.key in self._ports:
                return self._ports[request.key]
            segment = self._segment(request.segment)
            taken = {ip: port for port in self._on(segment) for ip in port.attachment.ips}
            for ip in request.ips:
                if ip in taken:
                    owner = taken[ip].attachment.identity
                    raise AttachRefusedError(7, f"address {ip} is used by {owner}")
            port = self._port(request, segment, request.ips or self._free(segment, taken))
            self._ports[request.key] = port
            self.log.append(f"admit {request.key.container_id}")
            return port

    def cancel(self, key: AttachmentKey) -> None:
        with self._guard:
            self._ports.pop(key, None)

    def wait_programmed(self, key: AttachmentKey, timeout_s: float) -> None:
        time.sleep(self.programming_s)
        if self.unprogrammable is not None:
            raise self.unprogrammable

    def publish(self, key: AttachmentKey, timeout_s: float) -> bool:
        self.at_publish()
        return self.published

    def detach(self, key: AttachmentKey, timeout_s: float) -> None:
        with self._guard:
            if self._ports.pop(key, None) is not None:
                self.log.append(f"detach {key.container_id}")

    def find(self, key: AttachmentKey) -> Port | None:
        with self._guard:
            port = self._ports.get(key)
            return port if port is not None and port.segment.name in self.segments else None

    def attachment(self, key: AttachmentKey) -> Attachment | None:
        with self._guard:
            port = self._ports.get(key)
            return port.attachment if port is not None else None

    def keys(self) -> tuple[AttachmentKey, ...]:
        with self._guard:
            return tuple(self._ports)

    def faults(self, key: AttachmentKey) -> tuple[str, ...]:
        return tuple(self.found_faults)

    def segment_mtu(self, segment: str) -> int:
        self._segment(segment)
        return MTU

    def knows_segment(self, segment: str) -> bool:
        return segment in self.segments

    def obstacle(self) -> Obstacle | None:
        return self.obstruction

    def _segment(self, name: str) -> Segment:
        if name not in self.segments:
            raise AttachRefusedError(7, f"segment {name!r} does not exist")
        return self.segments[name]

    def _on(self, segment: Segment) -> list[Port]:
        return [port for port in self._ports.values() if port.segment == segment]

    def _free(self, segment: Segment, taken: Mapping[IpAddress, Port]) -> tuple[IpAddress, ...]:
        return tuple(
            next(ip for ip in net.hosts() if ip not in taken and ip != net[1])
            for net in segment.subnets
        )

    def _port(self, request: AttachRequest, segment: Segment, ips: tuple[IpAddress, ...]) -> Port:
        slots = {port.attachment.slot for port in self._ports.values()}
        slot = next(n for n in range(len(slots) + 1) if n not in slots)
        attachment = Attachment(
            container_id=request.key.container_id,
            ifname=request.key.ifname,
            netns=request.netns,
            segment=segment.name,
            mac=request.mac or Mac(f"02:00:00:00:00:{slot + 1:02x}"),
            ips=ips,
            identity=request.identity,
            slot=slot,
            ipam=request.ipam,
            mtu=request.mtu,
            network=request.network,
            requested_at=request.requested_at,
            netdev=request.netdev,
        )
        return Port(attachment, segment, request.mtu or MTU)


class FakeWiring:
    """The pod's links as a set of (netns, interface) instead of netdevs."""

    def __init__(self) -> None:
        self.links: dict[tuple[str, str], tuple[PodRoute, ...]] = {}
        self.foreign: set[tuple[str, str]] = set()
        self.announced: list[AttachmentKey] = []
        self.plumb_error: Exception | None = None
        self.unplumb_error: Exception | None = None
        self.announce_error: Exception | None = None
        self.found_faults: list[str] = []

    def plumb(self, port: Port, routes: tuple[PodRoute, ...] = ()) -> None:
        place = (port.attachment.netns, port.attachment.ifname)
        if place in self.foreign:
            raise OverweaveError(f"interface {place[1]} exists in {place[0]} and is not ours")
        if self.plumb_error is not None:
            raise self.plumb_error
        self.links[place] = routes

    def unplumb(self, attachment: Attachment) -> None:
        if self.unplumb_error is not None:
            raise self.unplumb_error
        self.links.pop((attachment.netns, attachment.ifname), None)

    def check(self, port: Port, routes: tuple[PodRoute, ...] = ()) -> tuple[str, ...]:
        place = (port.attachment.netns, port.attachment.ifname)
        return (*self.found_faults, *(() if place in self.links else (f"{place[1]} is gone",)))

    def announce(self, port: Port) -> None:
        if self.announce_error is not None:
            raise self.announce_error
        self.announced.append(port.attachment.key)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a runtime sees of one run of the plugin."""

    status: int
    stdout: str
    stderr: str
    seconds: float

    @property
    def document(self) -> dict[str, Any]:
        found = json.loads(self.stdout)
        assert isinstance(found, dict)
        return found


QUICK = Limits(
    request=8.0, delegate=1.0, delegate_undo=1.0, programmed=2.0, settle=0.1, look_again=0.02
)


@dataclass
class World:
    """One node: its directory, its agent's CNI side, the plugin's file, a pod's netns."""

    directory: Path
    netns: str
    plugin: Path
    limits: Limits = QUICK
    attachments: FakeAttachments = field(default_factory=FakeAttachments)
    wiring: FakeWiring = field(default_factory=FakeWiring)
    timed: list[tuple[str, str]] = field(default_factory=list)
    server: CniServer | None = None

    @property
    def socket(self) -> Path:
        return self.directory / "run" / "cni.sock"

    @property
    def tombstones(self) -> Path:
        return self.directory / "run" / "tombstones"

    @property
    def plugins(self) -> Path:
        return self.directory / "bin"

    def start(self) -> None:
        front = Front((), DpuClient(), VfRecords(self.directory / "vfs"))
        handler = Handler(
            self.attachments, self.wiring, Ipam(), self.limits, VfFront(front, VfWiring())
        )
        self.server = CniServer(self.socket, handler, self._take_note)
        self.server.start()

    def _take_note(self, command: str, phase: str, seconds: float) -> None:
        assert 0 <= seconds < self.limits.request
        self.timed.append((command, phase))

    def stop(self, grace_s: float = 2.0) -> None:
        if self.server is not None:
            self.server.stop(grace_s)
            self.server = None

    def config(self, **changes: object) -> dict[str, object]:
        """Return a network configuration; a key set to None is left out."""
        whole = {
            "cniVersion": "1.1.0",
            "name": "pods",
            "type": "overweave-cni",
            "segment": "blue",
            "agentSocket": str(self.socket),
            **changes,
        }
        return {key: value for key, value in whole.items() if value is not None}

    def environment(self, verb: str, **changes: str | None) -> dict[str, str]:
        """Return a runtime's environment; a variable set to None is left out."""
        whole = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": "c1",
            "CNI_NETNS": self.netns,
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{self.plugins}:/usr/lib/cni",
            "PATH": os.defpath,
            **changes,
        }
        return {key: value for key, value in whole.items() if value is not None}

    def run(
        self,
        verb: str,
        config: Mapping[str, object] | bytes | None = None,
        **environment: str | None,
    ) -> Outcome:
        """Run the plugin as a runtime does."""
        stdin = (
            config if isinstance(config, bytes) else json.dumps(config or self.config()).encode()
        )
        return run_plugin(self.plugin, stdin, self.environment(verb, **environment))

    def write_plugin(self, name: str, text: str) -> Path:
        """Write an executable that a configuration can name."""
        path = self.plugins / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        return path

    def assert_nothing_left(self) -> None:
        assert self.attachments.keys() == ()
        assert self.wiring.links == {}


def run_plugin(
    plugin: Path, stdin: bytes, environment: Mapping[str, str] | Mapping[str, str | bytes]
) -> Outcome:
    start = time.monotonic()
    done = subprocess.run(
        [str(plugin)],
        input=stdin,
        env=dict(environment),
        capture_output=True,
        check=False,
        timeout=60,
    )
    return Outcome(
        done.returncode,
        done.stdout.decode(),
        done.stderr.decode(errors="replace"),
        time.monotonic() - start,
    )


@contextmanager
def network_namespace() -> Iterator[str]:
    name = f"{PREFIX}{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield f"/run/netns/{name}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


@contextmanager
def world(directory: Path, netns: str) -> Iterator[World]:
    """Yield a node whose agent is running; afterwards the agent is stopped."""
    (directory / "bin").mkdir()
    made = World(directory, netns, install_plugin(directory / "bin"))
    made.start()
    try:
        yield made
    finally:
        made.stop()
