"""Ports of a node that are no veths: representors of an emulated SX904, and netdevs of nobody.

All are TAPs with a namespace behind each, which is given what the node's agent says.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, Literal

import grpc

from dataplane.api import attachment_pb2 as pb
from dataplane.api.attachment_pb2_grpc import AttachmentStub
from dataplane.lab import foreign
from dataplane.lab.layout import LabPaths, NodePaths
from dataplane.lab.probes import Station
from dataplane.lab.underlay import ensure_namespace
from vendors.emulator.relay import Entrance, Relay
from vendors.emulator.settings import PortConfig, Sx904Config
from vendors.emulator.sx904.device import Sx904

Kind = Literal["representor", "netdev"]
KINDS: tuple[Kind, ...] = ("representor", "netdev")
VFS = 4
_SERIAL, _IFNAME, _UPLINK = "card", "eth0", "card0"
_ATTACH_S = 60.0


def device(paths: LabPaths) -> dict[str, Any]:
    """Return what the configuration of the node says of both; no tunnel device is told of.

    So nothing that goes beyond the node is placed: the card's wire leads nowhere.
    """
    return {
        "serial": _SERIAL,
        "vendor": "senao",
        "emulated": True,
        "side": "dpu",
        "representors": [_netdev(kind, number) for kind in KINDS for number in range(VFS)],
        "switch": {"address": f"unix:{_run_dir(paths)}/rtnetlink.sock", "uplink": _UPLINK},
    }


@dataclass(frozen=True)
class Ports:
    """The ports of a node, numbered from 0 in each kind."""

    paths: LabPaths
    node: NodePaths

    @contextmanager
    def attached(self, kind: Kind, number: int, segment: str) -> Iterator[Station]:
        """Attach what is behind a port to a segment, for as long as this lasts."""
        container = f"{kind}{number}"
        with grpc.insecure_channel(f"unix:{self.node.attachment_socket}") as channel:
            stub = AttachmentStub(channel)
            asked = pb.AttachRequest(
                serial=_SERIAL,
                container_id=container,
                ifname=_IFNAME,
                vf=KINDS.index(kind) * VFS + number,
                segment=segment,
                identity=container,
                network="ports",
                requested_at=int(time.time()),
                publishes=True,
            )
            told = stub.Attach(asked, timeout=_ATTACH_S)
            names = {"serial": _SERIAL, "container_id": container, "ifname": _IFNAME}
            try:
                station = self._dressed(kind, number, told)
                stub.Publish(pb.PublishRequest(**names), timeout=_ATTACH_S)
                yield station
            finally:
                stub.Detach(pb.DetachRequest(**names), timeout=_ATTACH_S)

    def _dressed(self, kind: Kind, number: int, told: pb.AttachResponse) -> Station:
        space = behind(self.paths, kind, number)
        link = ("link", "set", _IFNAME, "address", told.mac, "mtu", str(told.mtu), "up")
        foreign.ip(space, *link)
        addresses = [ip_interface(each) for each in told.addresses]
        for each in addresses:
            is_ipv6 = each.version == 6
            words = ("addr", "replace", str(each), "dev", _IFNAME, *(("nodad",) if is_ipv6 else ()))
            foreign.ip(space, *words)
        ips = tuple(each.ip for each in addresses)
        return Station(f"{kind}{number}", space, _IFNAME, told.mac, ips, told.mtu)


@contextmanager
def running_ports(paths: LabPaths, node: NodePaths) -> Iterator[Ports]:
    """Provide the ports that ``device`` tells ``node`` of."""
    relay = Relay()
    card = Sx904(_card(paths, node), relay)
    card.start()
    for number in range(VFS):
        _join(relay, paths, node, number)
    relay.start()
    try:
        yield Ports(paths, node)
    finally:
        card.stop()
        relay.stop()


def behind(paths: LabPaths, kind: Kind, number: int) -> Path:
    """Return the namespace behind a port."""
    return paths.netns(f"{kind}{number}")


def _netdev(kind: Kind, number: int) -> str:
    return f"{kind[:3]}{number}"


def _run_dir(paths: LabPaths) -> Path:
    return paths.directory / "card"


def _card(paths: LabPaths, node: NodePaths) -> Sx904Config:
    numbers = range(VFS)
    _run_dir(paths).mkdir()
    settings = {
        "vendor": "senao",
        "run_dir": str(_run_dir(paths)),
        "uplink": _port("up", _IFNAME, _made(paths.netns("wire"))),
        "cpu": _port("cpu0", _UPLINK, node.netns),
        "vfs": [_port(f"vf{n}", _IFNAME, _made(behind(paths, KINDS[0], n))) for n in numbers],
        "representors": [_port(f"rep{n}", _netdev(KINDS[0], n), node.netns) for n in numbers],
    }
    return Sx904Config.model_validate(settings)


def _join(relay: Relay, paths: LabPaths, node: NodePaths, number: int) -> None:
    """Have a netdev of the node whose other end is behind it."""
    ends = {f"near{number}": f"far{number}", f"far{number}": f"near{number}"}
    places = ((_netdev(KINDS[1], number), node.netns), (_IFNAME, behind(paths, KINDS[1], number)))
    for (port, other), (netdev, space) in zip(ends.items(), places, strict=True):
        config = PortConfig.model_validate(_port(port, netdev, _made(space)))
        relay.plug(config, Entrance(partial(relay.emit, other)))


def _made(space: Path) -> Path:
    ensure_namespace(space)
    return space


def _port(name: str, netdev: str, space: Path) -> dict[str, str]:
    return {"port": name, "netdev": netdev, "netns": str(space)}
