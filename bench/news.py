"""News of endpoints of another node: how long from the commit to flow and map entry."""

from __future__ import annotations

import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from bench.plugins import CallFailedError
from bpf.layout import encode_entry_key
from bpf.syscalls import Map, open_map
from dataplane.core.model import Endpoint, Mac, Vni
from dataplane.fabric.store import FabricStore, agent_database, upsert
from dataplane.lab import nodes
from dataplane.lab.layout import NodePaths
from overlay_ovs.tables import INTEGRATION_BRIDGE
from ovs_client import process
from ovs_client.daemons import find_program
from ovs_client.ofctl import OpenFlowBridge

STATIC = "far"
_ARRIVE_S = 30.0
_CONNECT_S = 5.0
_SUBSCRIBE_S = 0.2  # ovs-ofctl does not say when it has subscribed
_POLL_S = 0.0002
_PAUSE_S = 0.1  # between two pieces of news: each is to meet an agent at rest
_MAC = re.compile(r"\bdl_dst=((?:[0-9a-f]{2}:){5}[0-9a-f]{2})\b(?!/)")


def endpoints(segment: str, count: int, first: int = 0) -> tuple[Endpoint, ...]:
    """Return endpoints of the static node, numbered from ``first``; less than 2,048 in all."""
    return tuple(_endpoint(segment, number) for number in range(first, first + count))


def _endpoint(segment: str, number: int) -> Endpoint:
    high, low = divmod(number, 256)
    return Endpoint(
        segment=segment,
        node=STATIC,
        mac=Mac(f"02:be:00:00:{high:02x}:{low:02x}"),
        ips=(ip_address(f"10.23.{high + 8}.{low}"),),
        identity=f"far{number}",
        sequence=0,
        container_id=f"far{number}",
        ifname="",
    )


def publish(remote: str, many: Sequence[Endpoint], node: NodePaths) -> None:
    """Write ``many`` in one transaction and wait until all are in the flows of ``node``."""
    with FabricStore(remote) as store:
        store.write(many)
    bridge = OpenFlowBridge(node.ovs / f"{INTEGRATION_BRIDGE}.mgmt")
    macs = {str(each.mac) for each in many}

    def arrived() -> bool:
        return macs <= {mac for flow in bridge.dump_flows() for mac in _macs(flow.match)}

    if not process.wait_until(arrived, _ARRIVE_S):
        raise CallFailedError(f"{len(macs)} endpoints did not become flows in {_ARRIVE_S:.0f} s")


@dataclass(frozen=True, slots=True)
class Arrival:
    """Seconds from the commit of an endpoint until it was in Open vSwitch, and in the fast path."""

    flow_s: float
    entry_s: float


def arrivals(remote: str, vni: Vni, new: Sequence[Endpoint], node: NodePaths) -> Iterator[Arrival]:
    """Commit ``new`` ones of the segment ``vni`` one by one; yield how long each took.

    Open vSwitch itself says when: it tells its flow monitor of the flow. The map is asked again and
    again.
    """
    database = agent_database(remote)
    database.start()
    try:
        database.wait_connected(_CONNECT_S)
        with (
            flow_monitor(node.ovs / f"{INTEGRATION_BRIDGE}.mgmt", node) as monitor,
            _entries(node) as entries,
        ):
            for each in new:
                database.transact(upsert(each, None))
                committed = time.monotonic()
                entry = _entry_arrival(entries, encode_entry_key(vni, each.mac))
                flow = monitor.arrival(str(each.mac))
                yield Arrival(flow - committed, entry - committed)
                time.sleep(_PAUSE_S)
    finally:
        database.stop()


def _entries(node: NodePaths) -> Map:
    (maps,) = node.bpf.glob("maps_*")
    return open_map(maps / "entries")


def _entry_arrival(entries: Map, key: bytes) -> float:
    """Return when ``key`` was in the map. Raises CallFailedError."""
    until = time.monotonic() + _ARRIVE_S
    while entries.lookup(key) is None:
        if time.monotonic() > until:
            raise CallFailedError(f"no entry {key.hex()} after {_ARRIVE_S:.0f} s")
        time.sleep(_POLL_S)
    return time.monotonic()


class FlowMonitor:
    """The moments at which ovs-ofctl printed what the switch told it."""

    def __init__(self, printing: subprocess.Popen[str]) -> None:
        self._printing = printing
        self._arrivals: dict[str, float] = {}
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def arrival(self, mac: str) -> float:
        """Return when the flow to ``mac`` was in the switch. Raises CallFailedError."""
        with self._changed:
            if not self._changed.wait_for(lambda: mac in self._arrivals, _ARRIVE_S):
                raise CallFailedError(f"no flow to {mac} after {_ARRIVE_S:.0f} s")
            return self._arrivals[mac]

    def join(self) -> None:
        """Wait for its last word, once ovs-ofctl has ended."""
        self._thread.join()

    def _read(self) -> None:
        for line in self._printing.stdout or ():
            now = time.monotonic()
            with self._changed:
                for mac in _macs(line):
                    self._arrivals.setdefault(mac, now)
                self._changed.notify_all()


@contextmanager
def flow_monitor(bridge: Path, node: NodePaths) -> Iterator[FlowMonitor]:
    """Yield what hears of each new flow of the ``bridge`` with this management socket.

    Only the tool itself is of ``node``, wherever the bridge is.
    """
    words = [find_program("ovs-ofctl"), "monitor", f"unix:{bridge}", "watch:!initial"]
    with subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,  # where it prints what it is told later
        text=True,
        env=nodes.environment(node),
    ) as it:
        monitor = FlowMonitor(it)
        time.sleep(_SUBSCRIBE_S)
        try:
            yield monitor
        finally:
            it.send_signal(signal.SIGTERM)
            monitor.join()


def _macs(text: str) -> list[str]:
    return _MAC.findall(text)
