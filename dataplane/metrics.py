"""What Prometheus is shown of this node, over HTTP on a unix socket or a loopback address."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from socket import AF_INET6, AF_UNIX
from socketserver import TCPServer, ThreadingMixIn
from typing import Any, NamedTuple, Protocol, TypeVar

import structlog
from prometheus_client import CollectorRegistry, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import MetricsHandler

from dataplane.contracts import PathCounters
from dataplane.core.desired import PortState
from dataplane.core.errors import OverweaveError
from dataplane.core.model import EntryKey, IpAddress
from dataplane.core.placement import Traffic, placed_entries
from dataplane.core.reasons import PACKET_REASONS, Reason
from dataplane.core.snapshot import Snapshot, obstacle
from dataplane.unix_socket import remove_stale

Address = Path | tuple[IpAddress, int]
"""A unix socket, or an address of this machine alone with a TCP port."""

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 50.0)
_SCRAPES = 4  # at a time; more are turned away
_REQUEST_S = 5.0  # how long a client may be silent
_SWITCH, _FASTPATH, _OVS, _HOST, _DROPPED = "switch", "fastpath", "ovs", "host", "dropped"

log = structlog.get_logger()

_Way = tuple[str, str]  # path and reason
_Counter = tuple[Hashable, _Way]  # an entry or an ifindex
_Labels = TypeVar("_Labels", bound=tuple[str, ...])


class Source(Protocol):
    """What is shown."""

    @property
    def snapshot(self) -> Snapshot:
        """Return the newest picture of all the agent knows."""
        ...

    @property
    def overdue(self) -> Mapping[str, float]:
        """Return by how many seconds each late Target exceeds its deadline."""
        ...

    @property
    def fabric_lag_s(self) -> float:
        """Return for how many seconds node and fabric database may have differed."""
        ...


class Counted(NamedTuple):
    """What each entry holds now, in the fast path and in the switch below, and the totals."""

    fast: Mapping[EntryKey, Traffic]
    switched: Mapping[EntryKey, Traffic]
    totals: Mapping[_Way, int]


class PacketTotals:
    """Packets by path and reason since the first look at ``counters``; no total ever falls.

    What is counted in a map goes with the port or entry it was counted for, and begins again at 0
    with the next of that name. What came between the last look and that is in no total.
    """

    def __init__(self, counters: PathCounters, *, exclusive_ports: bool) -> None:
        self._counters = counters
        self._strangers = _DROPPED if exclusive_ports else _HOST
        self._last: Mapping[_Counter, int] | None = None
        ways = [(_SWITCH, ""), (_FASTPATH, ""), *(self._way(reason) for reason in PACKET_REASONS)]
        self._totals: Counter[_Way] = Counter(dict.fromkeys(ways, 0))
        self._lock = threading.Lock()

    def look(self) -> Counted:
        """Look. Raises OverweaveError if what is in the kernel cannot be read."""
        with self._lock:
            fast, counts = self._counters.traffic(), self._counters.counts()
            switched = self._counters.switched()
            now: dict[_Counter, int] = {}
            for way, held in {(_FASTPATH, ""): fast, (_SWITCH, ""): switched or {}}.items():
                for entry, traffic in held.items():
                    self._take(now, (entry, way), traffic.packets)
            if switched is None and self._last is not None:  # it goes on where it was, or anew
                now |= {key: n for key, n in self._last.items() if key[1] == (_SWITCH, "")}
            for ifindex, found in counts.items():
                for reason, packets in found.items():
                    self._take(now, (ifindex, self._way(reason)), packets)
            self._last = now
            return Counted(fast, switched or {}, dict(self._totals))

    def _take(self, now: dict[_Counter, int], key: _Counter, packets: int) -> None:
        if packets:
            now[key] = packets
        if self._last is not None:
            before = self._last.get(key, 0)
            self._totals[key[1]] += packets - before if packets >= before else packets

    def _way(self, reason: Reason) -> _Way:
        ways = {
            Reason.ANSWERED: _FASTPATH,
            Reason.TOO_LARGE: _DROPPED,
            Reason.DAMAGED: _DROPPED,
            Reason.UNKNOWN_VTEP: self._strangers,
        }
        return ways.get(reason, _OVS), str(reason)


class Metrics:
    """A Collector over snapshots and counters: a scrape waits for no decision and no database."""

    def __init__(self, source: Source, counters: PathCounters) -> None:
        """Begin to count the packets of ``counters`` now."""
        disable_created_metrics()  # a restart shows in the totals, which begin at 0
        self._source = source
        exclusive = source.snapshot.state.node.exclusive_ports
        self._packets = PacketTotals(counters, exclusive_ports=exclusive)
        with suppress(OverweaveError):
            self._packets.look()
        self.registry = CollectorRegistry()
        self.registry.register(self)
        self._cni = Histogram(
            "overweave_cni_duration_seconds",
            "How long a phase of a CNI command took, failed ones too; phase total: all of it",
            ("command", "phase"),
            buckets=_SECONDS,
            registry=self.registry,
        )

    def timed(self, command: str, phase: str, seconds: float) -> None:
        """Take note of how long a phase of a CNI command took (contracts.Timed)."""
        self._cni.labels(command, phase).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield everything but the CNI durations, which the registry has."""
        snapshot = self._source.snapshot
        build = {(version("overweave"),): 1}
        yield _gauge("build_info", "Always 1; version is that of Overweave", build, "version")
        ready = obstacle(snapshot) is None
        yield _gauge("ready", "1 if CNI ADD would succeed now, else 0", {(): ready})
        yield from self._fabric(snapshot)
        yield from self._targets(snapshot)
        yield from self._fast_path(snapshot)
        yield from _switch(snapshot)

    def _fabric(self, snapshot: Snapshot) -> Iterator[Metric]:
        connected = snapshot.state.fabric.connected
        yield _gauge("fabric_connected", "1 if the fabric database answers", {(): connected})
        lag = self._source.fabric_lag_s
        text = "For how long node and fabric database may have differed; 0: they agree"
        yield _gauge("fabric_lag_seconds", text, {(): lag})
        ports = snapshot.desired.ports if snapshot.desired else ()
        active = [port.attachment.key for port in ports if port.state is PortState.ACTIVE]
        waiting = sum(not snapshot.is_published(key) for key in active)
        text = "Endpoints of this node whose row the fabric database does not hold yet"
        yield _gauge("fabric_unpublished_endpoints", text, {(): waiting})

    def _targets(self, snapshot: Snapshot) -> Iterator[Metric]:
        text = "How often what is desired has changed since the agent started"
        yield _gauge("generation", text, {(): snapshot.generation})
        told = {(name,): snapshot.reports.get(name) for name in snapshot.targets}
        reports = {name: report for name, report in told.items() if report is not None}
        generations = {name: report.generation for name, report in reports.items()}
        text = "The overweave_generation that the target was last brought to"
        yield _gauge("target_generation", text, generations, "target")
        pending = {name: len(report.pending) for name, report in reports.items()}
        text = "What the target could not hold yet, such as a port without a number"
        yield _gauge("target_pending", text, pending, "target")
        errors = {name: bool(report.error) for name, report in reports.items()}
        text = "1 if the target's last round failed; it is tried again"
        yield _gauge("target_error", text, errors, "target")
        late = {name: self._source.overdue.get(*name, 0.0) for name in told}
        text = "By how much the target's round under way exceeds its deadline"
        yield _gauge("target_overdue_seconds", text, late, "target")

    def _fast_path(self, snapshot: Snapshot) -> Iterator[Metric]:
        """Yield what rests on the counters in the kernel, if they can be read."""
        text = "1 if the fast path's counters could be read; else entries and packets are missing"
        try:
            counted = self._packets.look()
        except OverweaveError:
            yield _gauge("fastpath_readable", text, {(): 0})
            return
        yield _gauge("fastpath_readable", text, {(): 1})
        desired, holdings = snapshot.desired, snapshot.holdings(counted.fast, counted.switched)
        placed = placed_entries(desired, holdings) if desired else ()
        entries = Counter(
            (e.segment, str(e.placement), str(e.cause.reason if e.cause else "")) for e in placed
        )
        text = "Forwarding entries by where they are placed; reason says why not higher"
        yield _gauge("entries", text, entries, "segment", "placement", "reason")
        text = "Packets of pods and tunnels by who took them; reason says why not the fast path"
        packets = CounterMetricFamily("overweave_packets", text, labels=("path", "reason"))
        for labels, total in counted.totals.items():
            packets.add_metric(labels, total)
        yield packets


def _switch(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield what is known of the DPU's switch below this node, nothing if there is none."""
    switch, device = snapshot.state.switch, snapshot.own_device
    if not switch.exists or device is None:
        return
    known = None if switch.error else switch.capability
    text = "1 if the DPU's switch answers and takes entries, else 0"
    yield _gauge("switch_ready", text, {(device,): not switch.why_not}, "device")
    rows: dict[tuple[str, str, str], float] = {}
    for table in known.tables if known else ():
        ours = table.used - table.foreign
        states = {"used": ours, "foreign": table.foreign, "free": table.capacity - table.used}
        rows |= {(device, table.name, state): count for state, count in states.items()}
    text = "Rows of the switch's tables: ours, those of others, and what is left"
    yield _gauge("switch_table_rows", text, rows, "device", "table", "state")


class MetricsServer:
    """Answers any HTTP GET on ``address`` with ``metrics``; a scrape has a thread of its own."""

    def __init__(self, metrics: Metrics, address: Address) -> None:
        """Listen. Raises OverweaveError if ``address`` is taken."""
        self._path = address if isinstance(address, Path) else None
        if self._path is not None:
            remove_stale(self._path, "the metrics socket")
        try:
            self._server = _listen(address, _Handler.factory(metrics.registry))
        except OSError as error:
            where = address if isinstance(address, Path) else f"{address[0]}, port {address[1]}"
            raise OverweaveError(f"metrics cannot be served on {where}: {error}") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="metrics", daemon=True
        )

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """Answer no more."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()


class _Handler(MetricsHandler):
    timeout = _REQUEST_S


class _Server(ThreadingMixIn, TCPServer):
    """At most ``_SCRAPES`` threads: who comes on top of that finds the connection closed."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, *args: Any) -> None:  # noqa: ANN401  # handed on, here and below
        self._places = threading.BoundedSemaphore(_SCRAPES)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        error = sys.exception()
        if not isinstance(error, OSError):  # that is a client which went away
            log.error("metrics.crashed", exc_info=error)


class _UnixServer(_Server):
    address_family = AF_UNIX

    def server_bind(self) -> None:
        super().server_bind()
        Path(str(self.server_address)).chmod(0o600)  # it does not listen yet: nobody slips in


class _Ipv6Server(_Server):
    address_family = AF_INET6


def _listen(address: Address, handler: type) -> _Server:
    if isinstance(address, Path):
        return _UnixServer(str(address), handler)
    ip, port = address
    return (_Server if ip.version == 4 else _Ipv6Server)((str(ip), port), handler)


def _gauge(name: str, text: str, values: Mapping[_Labels, float], *labels: str) -> Metric:
    family = GaugeMetricFamily(f"overweave_{name}", text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
