"""An emulated SX904 without socket and cables: messages and frames by hand."""

from __future__ import annotations

import threading

from scapy.packet import Packet

from tests.unit.rtnl_by_hand import (
    DONE,
    GETTFILTER,
    Answer,
    Shown,
    answers,
    clsact,
    dump,
    shown,
)
from vendors.emulator.settings import Sx904Config
from vendors.emulator.sx904.actions import TunnelSet
from vendors.emulator.sx904.engine import Engine, Wiring
from vendors.emulator.sx904.links import Links
from vendors.emulator.sx904.rtnetlink import Card, answer
from vendors.emulator.sx904.table import Table
from vendors.emulator.sx904.tc import Tc

# The netdevs of a card with two VFs, in their order.
UPLINK, REP0, REP1, GENEVE_DEVICE, VXLAN_DEVICE, NOBODY = 2, 3, 4, 5, 6, 99
OWN_MAC, HOP = "02:aa:bb:cc:dd:ee", "06:11:22:33:44:55"


def sx904_config(**changes: object) -> Sx904Config:
    def port(name: str, netdev: str) -> dict[str, str]:
        return {"port": name, "netdev": netdev, "netns": "/run/netns/none"}

    settings = {
        "vendor": "senao",
        "run_dir": "/nowhere",
        "uplink": port("up", "d1"),
        "cpu": port("cpu0", "eth0"),
        "vfs": [port("vf0", "d1v0"), port("vf1", "d1v1")],
        "representors": [port("rep0", "rep0"), port("rep1", "rep1")],
    }
    return Sx904Config.model_validate(settings | changes)


class HandCard:
    """A card; ``hops`` are the VTEPs whose next hop is known, ``limit`` filters are its most."""

    def __init__(self, *, tunnels: bool) -> None:
        config = sx904_config()
        self.hops = {"192.0.2.77", "2001:db8::77"}
        self.limit = config.capacity
        links = Links(config)
        table = Table(lambda: self.limit, lambda: False)
        self.card = Card(links, Tc(links, table, tunnels=tunnels), threading.RLock())
        wiring = Wiring("up", config.misses, frozenset({"vf0", "vf1"}))
        self.engine = Engine(table, links, wiring, self.hop, counts=tunnels)

    def send(self, *messages: bytes) -> list[Answer]:
        packet = b"".join(each + bytes(-len(each) % 4) for each in messages)
        return list(answers(list(answer(self.card, packet, 5))))

    def ask(self, message: bytes) -> Answer:
        (found,) = self.send(message)
        return found

    def do(self, *messages: bytes) -> None:
        for each in messages:
            found = self.ask(each)
            assert found.error == 0, found.words

    def dump(self, message: bytes) -> list[Answer]:
        *found, done = self.send(message)
        assert done.kind == DONE
        return found

    def filters(self, ifindex: int) -> list[Shown]:
        found = map(shown, self.dump(dump(GETTFILTER, ifindex)))
        return [each for each in found if each.handle]

    def forward(self, port: str, data: bytes | Packet) -> tuple[str, bytes] | None:
        sent = self.engine.forward(port, bytes(data))
        return None if sent is None else (sent.port, sent.frame)

    def hop(self, header: TunnelSet) -> bytes | None:
        known = str(header.target) in self.hops
        return bytes.fromhex((HOP + OWN_MAC).replace(":", "")) if known else None


def hand_card(*, tunnels: bool = True) -> HandCard:
    """Return a card with clsact where filters may stand."""
    made = HandCard(tunnels=tunnels)
    made.do(*(clsact(each) for each in (REP0, REP1, GENEVE_DEVICE, VXLAN_DEVICE)))
    return made
