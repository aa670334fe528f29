"""A DPU of a bench's lab that serves OPI, its client, and what a vendor's plugin does instead."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import yaml

from bench.plugins import CallFailedError
from dataplane.lab.layout import NodePaths
from dataplane.netlink import links
from dataplane.netlink.links import LinkChange
from dataplane.netlink.netns import Netns
from dataplane.netlink.rtnl import Rtnl, within
from dataplane.opi import l2_xpu_infra_mgr_pb2 as pb
from dataplane.opi import l2_xpu_infra_mgr_pb2_grpc as rpc
from dataplane.opi.resources import PORTS
from ovs_client.daemons import find_program, run
from vendors.emulator.settings import FIRST_VF_VSI
from vendors.emulator.taps import open_tap

_TIMEOUT_S = 60.0
_BRIDGE = "br-secondary"  # as the published plugin of an SX904 calls it


def serve_opi(node: NodePaths, segment: str) -> None:
    """Have the node's agent, which does not run yet, serve OPI."""
    config = read_config(node)
    config["opi"] = {"socket": f"unix:{_socket(node)}", "segment": segment}
    write_config(node, config)


def read_config(node: NodePaths) -> dict[str, Any]:
    """Return what the node's agent is told."""
    config: dict[str, Any] = yaml.safe_load(node.config.read_text(encoding="utf-8"))
    return config


def write_config(node: NodePaths, config: dict[str, Any]) -> None:
    """Have the node's agent be told this when it starts."""
    node.config.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def add_representors(node: NodePaths, count: int) -> None:
    """Have an E2100's node, whose agent does not run yet, be one of ``count`` VFs.

    No emulated switch has so many: their representors are netdevs that lead nowhere.
    """
    names = [f"vf{number}" for number in range(count)]
    make_netdevs(node, names)
    config = read_config(node)
    (half,) = config["devices"]
    half["representors"] = names
    half["switch"]["vfs"] = [FIRST_VF_VSI + number for number in range(count)]
    write_config(node, config)


def make_netdevs(node: NodePaths, names: list[str]) -> None:
    """Make persistent TAPs on the node that lead nowhere, up."""
    for name in names:
        os.close(open_tap(name, node.netns))

    def set_up(rtnl: Rtnl) -> None:
        for found in links.every(rtnl):
            if found.name in names:
                links.change(rtnl, found.ifindex, LinkChange(up=True))

    with Netns(str(node.netns)) as inside:
        within(inside, set_up)


def port_id(vf: int) -> str:
    """Return what a DPU operator's daemon calls the port of a VF."""
    return f"host0-{vf}"


def identity(node: str, vf: int) -> str:
    """Return the identity of the Endpoint behind a VF of ``node``, as pins name it."""
    return f"opi/{node}/{port_id(vf)}"


def port_mac(number: int) -> str:
    """Return a MAC that no other number has, below 65,536."""
    return f"02:0b:00:00:{number >> 8:02x}:{number & 0xFF:02x}"


class OpiClient:
    """Makes and deletes bridge ports as a DPU operator's daemon does, over one channel."""

    def __init__(self, node: NodePaths) -> None:
        self._channel = grpc.insecure_channel(f"unix:{_socket(node)}")
        self._ports = rpc.BridgePortServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def create(self, vf: int, mac: str, segment: str) -> None:
        """Make the port of a VF. Raises CallFailedError, also of one that is not up then."""
        spec = pb.BridgePortSpec(
            mac_address=bytes.fromhex(mac.replace(":", "")),
            ptype=pb.BRIDGE_PORT_TYPE_ACCESS,
            logical_bridges=[f"//network.opiproject.org/bridges/{segment}"],
        )
        port = pb.BridgePort(name=port_id(vf), spec=spec)
        try:
            made = self._ports.CreateBridgePort(
                pb.CreateBridgePortRequest(bridge_port=port), timeout=_TIMEOUT_S
            )
        except grpc.RpcError as error:
            raise CallFailedError(f"CreateBridgePort {port.name}: {error.details()}") from error
        if made.status.oper_status != pb.BP_OPER_STATUS_UP:
            raise CallFailedError(f"CreateBridgePort {port.name} left it down: {made.status}")

    def delete(self, vf: int) -> None:
        """Delete the port of a VF. Raises CallFailedError."""
        name = PORTS.name(port_id(vf))
        try:
            self._ports.DeleteBridgePort(pb.DeleteBridgePortRequest(name=name), timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise CallFailedError(f"DeleteBridgePort {name}: {error.details()}") from error


class Published:
    """What published vendors' plugins do for a port: ovs-vsctl puts its netdev into a bridge.

    No overlay, no guard, nothing kept, nobody told. ``count`` netdevs are there for it.
    """

    def __init__(self, node: NodePaths, count: int) -> None:
        self._node = node
        self._netdevs = [f"ref{number}" for number in range(count)]

    def prepare(self) -> None:
        """Make bridge and netdevs."""
        make_netdevs(self._node, self._netdevs)
        self._vsctl("add-br", _BRIDGE, "--", "set", "bridge", _BRIDGE, "datapath_type=netdev")

    def add(self, number: int) -> float:
        """Return the seconds that putting a netdev into the bridge takes."""
        began = time.monotonic()
        self._vsctl("--may-exist", "add-port", _BRIDGE, self._netdevs[number])
        return time.monotonic() - began

    def remove(self, number: int) -> None:
        """Take a netdev out of the bridge."""
        self._vsctl("del-port", _BRIDGE, self._netdevs[number])

    def _vsctl(self, *words: str) -> None:
        database = switch_database(self._node)
        run([find_program("ovs-vsctl"), f"--db=unix:{database}", *words])


def switch_database(node: NodePaths) -> Path:
    """Return the database of the node's own Open vSwitch."""
    return node.ovs / "db.sock"


def _socket(node: NodePaths) -> Path:
    return node.run / "opi.sock"
