"""The card as a whole: its rtnetlink, its table, its cables, and what can go wrong.

The table outlives the way to it: while rtnetlink is dead, frames go by what stands there.
"""

from __future__ import annotations

import errno
import threading
from contextlib import suppress
from functools import partial

from dataplane.core.errors import InvalidValueError
from vendors.emulator.relay import Entrance, Relay
from vendors.emulator.settings import PortConfig, Sx904Config, named_port
from vendors.emulator.sx904 import devlink
from vendors.emulator.sx904.actions import SHOT, Action, Counter, Gact
from vendors.emulator.sx904.devlink import LEGACY, SWITCHDEV, Nic
from vendors.emulator.sx904.engine import Engine, Wiring
from vendors.emulator.sx904.flower import SKIP_SW, Flower, Key, Part, ask_flower
from vendors.emulator.sx904.links import Links
from vendors.emulator.sx904.netlink import CREATE, Refusal
from vendors.emulator.sx904.nexthops import NextHops
from vendors.emulator.sx904.rtnetlink import Card, Server, answer
from vendors.emulator.sx904.table import Table
from vendors.emulator.sx904.tc import CLSACT, FLOWER, INGRESS, Asked, Tc
from vendors.emulator.trouble import Trouble

_TABLE = "filters"
_MODES = {LEGACY: "legacy", SWITCHDEV: "switchdev"}
_ICE, _HAS_VFS = "ice: ", "Changing eswitch mode is allowed only if there is no VFs created"
_THEIRS = Flower(
    (Part(Key.ETH_DST, 0x0A0000000001, (1 << 48) - 1),), (), (Action(Gact(), SHOT),), SKIP_SW
)
_THEIR_PREF, _THEIR_HANDLE, _ETH_P_ALL = 1, 0x7A4E, 0x0300  # the protocol as tcm_info has it


class Sx904:
    """The switch of a Senao SX904."""

    def __init__(self, config: Sx904Config, relay: Relay) -> None:
        """Have all netdevs and no filter, and serve nobody yet."""
        self.trouble = Trouble()
        self._config = config
        self._relay = relay
        self._gone: set[str] = set()
        self._limit: int | None = None
        # Never held while the relay is asked: it waits for this one with its own lock held.
        self._turn = threading.RLock()
        links = Links(config)
        table = Table(self._room, self.trouble.refuses)
        self._card = Card(links, Tc(links, table, tunnels=config.tunnels), self._turn)
        self._engine = Engine(
            table,
            links,
            Wiring(config.uplink.port, config.misses, frozenset(p.port for p in config.vfs)),
            NextHops(config.cpu).macs,
            counts=config.tunnels,
        )
        nic = Nic(links, self._mode, self._set_mode)
        self._servers = (
            Server(config.rtnetlink, partial(answer, self._card), self.trouble),
            Server(config.devlink, partial(devlink.answer, nic), self.trouble),
        )

    def start(self) -> None:
        """Bring up what is not there, and plug every cable in. Raises OverweaveError."""
        self._serve()
        for port in self._config.ports:
            self._plug(port)

    def stop(self) -> None:
        """End rtnetlink; the TAPs outside stay."""
        self.die()

    def supervise(self) -> None:
        """Do nothing: only ``die`` ends rtnetlink for longer."""

    # --- faults --------------------------------------------------------------------------------

    def limit(self, table: str, rows: int) -> None:
        """Limit the one table, ``filters``: what is more is refused with ENOSPC."""
        if table != _TABLE:
            raise InvalidValueError(f"there is no table {table!r}; there is {_TABLE}")
        self._limit = rows

    def hang(self) -> None:
        """Answer nothing more; frames are forwarded all the same."""
        for server in self._servers:
            server.hang()

    def reset(self) -> None:
        """Lose all filters and hooks."""
        with self._turn:
            self._card.tc.reset()

    def kill(self) -> None:
        """End every connection as a crash would; it is back at once, empty."""
        self.die()
        self.revive()

    def die(self) -> None:
        """End rtnetlink for good, until ``revive``; the table stays as it is."""
        for server in self._servers:
            server.stop()

    def revive(self) -> None:
        """Start what has died, empty, and go on with what hangs."""
        for server in self._servers:
            server.wake()
        if not any(server.is_up for server in self._servers):
            self.reset()
            self._serve()

    def remove_port(self, port: str) -> None:
        """Take a port away; a representor goes with its filters."""
        found = named_port(self._config, port)
        with self._turn:
            self._gone.add(found.port)
            if found in self._config.representors:
                self._forget(found)
        self._relay.unplug(found.port)

    def return_port(self, port: str) -> None:
        """Have a port back that was taken away; a representor is another netdev then.

        A VF has a representor, unless that is away.
        """
        found = named_port(self._config, port)
        with self._turn:
            self._gone.discard(found.port)
            ends = zip(self._config.representors, self._config.vfs, strict=True)
            for representor, vf in ends:
                if found in (representor, vf) and representor.port not in self._gone:
                    self._card.links.add_representor(representor)
        self._plug(found)

    def lose_one(self) -> str:
        """Drop one filter, and return it; empty: there was none."""
        with self._turn:
            return self._card.tc.lose_one()

    def take(self) -> None:
        """Let somebody else program it: one filter at the first representor that drops."""
        with self._turn, suppress(Refusal):  # it stands there, or the representor does not
            self._card.tc.add_qdisc(self._their("clsact", CLSACT))
            self._card.tc.add_filter(self._their(FLOWER, INGRESS))

    def clear(self) -> None:
        """End all faults; what was lost stays lost."""
        self.trouble.end()
        self.revive()
        self._limit = None
        with self._turn, suppress(Refusal):  # it is not there
            self._card.tc.delete_filters(self._their(FLOWER, INGRESS))
        for port in sorted(self._gone):
            self.return_port(port)

    # --- devlink -------------------------------------------------------------------------------

    def _mode(self) -> int:
        return SWITCHDEV if self._card.links.is_switchdev else LEGACY

    def _set_mode(self, mode: int) -> str:
        """Set the eswitch mode, and return what the driver says. Raises Refusal.

        VFs that come later have representors, or none.
        """
        with self._turn:
            if mode == self._mode():
                return ""
            if not self._gone.issuperset(vf.port for vf in self._config.vfs):
                raise Refusal(errno.EOPNOTSUPP, f"{_ICE}{_HAS_VFS}")
            if mode not in _MODES:
                raise Refusal(errno.EINVAL, f"{_ICE}Unknown eswitch mode")
            for representor in self._config.representors:
                self._forget(representor)
            self._card.links.is_switchdev = mode == SWITCHDEV
        return f"{_ICE}Changed eswitch mode to {_MODES[mode]}"

    # --- how -----------------------------------------------------------------------------------

    def _serve(self) -> None:
        for server in self._servers:
            server.start()

    def _forget(self, representor: PortConfig) -> None:
        """Let a representor go, with its filters."""
        link = self._card.links.remove_representor(representor)
        if link is not None:
            self._card.tc.forget(link.ifindex)

    def _room(self) -> int:
        return self._config.capacity if self._limit is None else self._limit

    def _plug(self, port: PortConfig) -> None:
        self._relay.plug(port, Entrance(partial(self._take_in, port.port)))

    def _take_in(self, port: str, frame: bytes) -> None:
        with self._turn:
            sent = self._engine.forward(port, frame)
        if sent is not None and sent.port not in self._gone:
            self._relay.emit(sent.port, sent.frame)

    def _their(self, kind: str, parent: int) -> Asked:
        link = self._card.links.representor(self._config.vfs[0].port)
        is_filter = kind == FLOWER
        return Asked(
            0 if link is None else link.ifindex,
            _THEIR_HANDLE if is_filter else 0,
            parent,
            _THEIR_PREF if is_filter else 0,
            _ETH_P_ALL if is_filter else 0,
            CREATE,
            kind,
            ask_flower(_THEIRS, Counter(), 0) if is_filter else None,
            0,
        )
