"""A DPU's agent as OPI's clients see it: real database, rows, files and sockets; no packets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import grpc

from dataplane.agent import Agent, Parts
from dataplane.contracts import Post
from dataplane.core.desired import LocalNode
from dataplane.core.events import Event, FabricChanged, Link, LinksChanged
from dataplane.core.model import Segment, Vni
from dataplane.fabric.feed import FabricFeed
from dataplane.fabric.networks import StoredNetworks
from dataplane.fabric.store import FabricStore, agent_database
from dataplane.fabric.target import FabricTarget
from dataplane.opi import l2_xpu_infra_mgr_pb2 as pb
from dataplane.opi import l2_xpu_infra_mgr_pb2_grpc as rpc
from dataplane.opi import l3_xpu_infra_mgr_pb2_grpc as l3_rpc
from dataplane.opi import lifecycle_pb2_grpc as lifecycle_rpc
from dataplane.opi import network_function_pb2_grpc as function_rpc
from dataplane.opi.bridges import Vlans
from dataplane.opi.channel import Channel
from dataplane.opi.server import OpiServer
from dataplane.opi.site import Site
from dataplane.statefile import StateFiles
from dataplane.vf_ports import VfPorts
from tests.functional.fabric_support import running_server, wait_until

NODE = "d1"
NIC = Link("eth0", 2, "02:00:00:00:00:aa", 1500, up=True, addresses=(ip_address("192.0.2.1"),))
SEGMENTS = (
    Segment("blue", Vni(7), subnets=(ip_network("10.1.0.0/20"),)),
    Segment("default", Vni(8)),
    Segment("green", Vni(9)),
    Segment("red", Vni(10)),
)
VLANS = Vlans("default", {5: "blue", 6: "green", 8: "red", 22: "opi-bridge9"})
REPRESENTORS = tuple(f"rep{number}" for number in range(8))
MAC = bytes.fromhex("020000000001")
BRIDGE, PORT = "//network.opiproject.org/bridges/", "//network.opiproject.org/ports/"


def daemons_port(vf: int = 3, mac: bytes = MAC, **spec: Any) -> pb.CreateBridgePortRequest:
    """Return the request of a DPU operator's daemon for a host's VF."""
    wanted = {"mac_address": mac, "ptype": 1, "logical_bridges": [str(vf + 2)], **spec}
    port = pb.BridgePort(name=f"host0-{vf}", spec=pb.BridgePortSpec(**wanted))
    return pb.CreateBridgePortRequest(bridge_port=port)


class LateFeed:
    """A feed whose rows come ``late_s`` seconds later."""

    def __init__(self, feed: FabricFeed, late_s: float) -> None:
        self._feed = feed
        self._late_s = late_s
        self.stop = feed.stop

    def start(self, post: Post) -> None:
        def later(event: Event) -> None:
            if isinstance(event, FabricChanged):
                time.sleep(self._late_s)
            post(event)

        self._feed.start(later)


class OpiWorld:
    """The node; ``stop`` and ``start`` are a restart of its agent, whose files stay.

    It hears of rows ``late_s`` seconds after they came.
    """

    def __init__(self, directory: Path, remote: str, site: dict[str, Any]) -> None:
        self.directory = directory
        self.remote = remote
        self.site = site
        self.socket = directory / "plugin" / "plugin.sock"
        self.late_s = 0.0
        self._running = ExitStack()

    def start(self) -> None:
        files = StateFiles(self.directory / "state")
        database = agent_database(self.remote)
        feed = FabricFeed(database, NODE, time.monotonic)
        late = LateFeed(feed, self.late_s)
        parts = Parts((files, FabricTarget(database, NODE)), (late,), feed.watch)
        self.agent = Agent(LocalNode(NODE, "eth0"), parts)
        self._running.callback(self.agent.stop)
        self.agent.start(files.load())
        self.agent.post(LinksChanged((NIC,)))
        self.server_ports = VfPorts(NODE, self.agent)
        self.made_site = Site(NODE, self.agent, self.server_ports, VLANS, **self.site)
        server = OpiServer(self.made_site)
        self._running.callback(server.stop)
        server.start(self.socket)
        self.channel = self._running.enter_context(
            grpc.insecure_channel(
                f"unix:{self.socket}",
                # What grpc-go makes of the path of a socket that it is given without "unix:".
                options=(("grpc.default_authority", str(self.socket).replace("/", "%2F")),),
            )
        )
        self.ports = rpc.BridgePortServiceStub(self.channel)
        self.bridges = rpc.LogicalBridgeServiceStub(self.channel)
        self.vrfs = l3_rpc.VrfServiceStub(self.channel)
        self.svis = l3_rpc.SviServiceStub(self.channel)
        self.lifecycle = lifecycle_rpc.LifeCycleServiceStub(self.channel)
        self.devices = lifecycle_rpc.DeviceServiceStub(self.channel)
        self.heartbeat = lifecycle_rpc.HeartbeatServiceStub(self.channel)
        self.functions = function_rpc.NetworkFunctionServiceStub(self.channel)

    def stop(self) -> None:
        self._running.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def port_names(self) -> list[str]:
        found = self.ports.ListBridgePorts(pb.ListBridgePortsRequest()).bridge_ports
        return [each.name.removeprefix(PORT) for each in found]


@contextmanager
def running_world(directory: Path, **site: Any) -> Iterator[OpiWorld]:
    """Run a node of ``site``; by default a DPU whose callers are tenants."""
    with running_server(directory) as server:
        with FabricStore(server.remote) as store:
            store.read()
            store.write(upserts=SEGMENTS)
        whole = {
            "representors": REPRESENTORS,
            "channel": Channel("fe80::1%eth1", 8085),
            "networks": StoredNetworks(server.remote),
            **site,
        }
        world = OpiWorld(directory, server.remote, whole)
        try:
            world.start()
            wait_until(lambda: world.agent.snapshot.is_in_step)
            yield world
        finally:
            world.stop()
