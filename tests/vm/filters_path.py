"""What a kernel's own filters do with a frame: it is sent to where they stand, and comes out.

The card is a namespace: veths are its representors, tunnel devices are real. Where eBPF would have
what no filter takes, each hook has a filter that shows it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from dataplane.core.agreement import Observed, Question, done
from dataplane.core.frames import is_answer, parse_tunnel, told_inside
from dataplane.core.model import Encap
from dataplane.core.path import Action
from dataplane.core.snapshot import SWITCH_TARGET
from dataplane.netlink.netns import Netns
from dataplane.netlink.taps import Heard, Taps
from tests.functional.namespaces import ip, name_of, namespace, run
from tests.unit.overlay_builders import NIC, OWN4, OWN6, VTEP4, VTEP6
from vendors.outputs import Came, Wiring, out

REPRESENTORS = ("rep0", "rep1")
TUNNELS = {Encap.GENEVE: ("gen0", 6081), Encap.VXLAN: ("vxl0", 4789)}
_TUNNEL_NAMES = tuple(name for name, _ in TUNNELS.values())
_HOOKS = (*REPRESENTORS, *_TUNNEL_NAMES)
_WIRE = "wire"
_ARRIVED = "arrived"  # what a tunnel device hands over, with its outer headers: no netdev
_BEHIND = "100"  # eBPF's preference
_AT_ONCE = 32
_QUIET_S = 0.3  # after the last that came out, where a machine is emulated


@dataclass(frozen=True)
class Card:
    """A card's kernel, and all that is outside of it: VFs, the wire, what no filter takes."""

    space: Netns
    outside: Netns

    @property
    def wiring(self) -> Wiring:
        """Return which netdev outside is what."""
        return Wiring(
            uplink=_WIRE,
            cpu=_ARRIVED,
            vfs={name: _vf(name) for name in REPRESENTORS},
            misses={name: _missed(name) for name in REPRESENTORS},
        )


@contextmanager
def running_card() -> Iterator[Card]:
    """Provide a Card whose tunnel devices have ways to all VTEPs."""
    with namespace() as space, namespace() as outside:
        card = Card(space, outside)
        for each in (space, outside):
            _sysctl(each, "net.ipv6.conf.default.disable_ipv6=1")
        _connect(card, "up0", _WIRE, 1500)
        for name in REPRESENTORS:
            _connect(card, name, _vf(name), 9000)
        for encap, (name, number) in TUNNELS.items():
            kind = ("type", str(encap), "external", "dstport", str(number), "udp6zerocsumrx")
            ip(space, "link", "add", name, *kind)
            ip(space, "link", "set", name, "up", "mtu", "9000")
        for name in _HOOKS:
            _show_misses(card, name)
        _furnish(space)
        yield card


def _furnish(space: Netns) -> None:
    """Give the card the node's addresses, and next hops that it need not ask for."""
    _sysctl(space, "net.ipv6.conf.up0.disable_ipv6=0")
    ip(space, "link", "set", "up0", "address", NIC.mac)
    ip(space, "addr", "add", f"{OWN4}/24", "dev", "up0")
    ip(space, "addr", "add", f"{OWN6}/64", "dev", "up0", "nodad")
    for vtep in (*VTEP4, *VTEP6):
        hop = ("lladdr", "02:00:00:00:bb:01", "dev", "up0", "nud", "permanent")
        ip(space, "neigh", "replace", str(vtep), *hop)


def _connect(card: Card, netdev: str, end: str, mtu: int) -> None:
    words = ("type", "veth", "peer", "name", end, "netns", name_of(card.outside))
    ip(card.space, "link", "add", netdev, *words)
    for space, name in ((card.space, netdev), (card.outside, end)):
        ip(space, "link", "set", name, "up", "mtu", str(mtu))


def _show_misses(card: Card, hook: str) -> None:
    """Have what no filter before takes come out outside."""
    netdev = f"{hook}.miss"
    _connect(card, netdev, _missed(hook), 9000)
    inside = ("ip", "netns", "exec", name_of(card.space), "tc")
    run(*inside, "qdisc", "add", "dev", hook, "clsact")
    everything = ("protocol", "all", "u32", "match", "u32", "0", "0")
    to = ("action", "mirred", "egress", "redirect", "dev", netdev)
    run(*inside, *("filter", "add", "dev", hook, "ingress", "pref", _BEHIND), *everything, *to)


def _vf(representor: str) -> str:
    return f"vf.{representor}"


def _missed(hook: str) -> str:
    return f"miss.{hook}"


_ENDS = (_WIRE, *map(_vf, REPRESENTORS), *map(_missed, _HOOKS))
_TUNNEL_MISSES = frozenset(map(_missed, _TUNNEL_NAMES))


def _sysctl(space: Netns, setting: str) -> None:
    run("ip", "netns", "exec", name_of(space), "sysctl", "-qw", setting)


class FiltersPath:
    """An ObservedPath of a card's filters; frames really travel, and nothing else may."""

    name = SWITCH_TARGET

    def __init__(self, card: Card) -> None:
        self._card = card
        self._wiring = card.wiring

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        """Return what becomes of each frame."""
        found: list[Observed] = []
        for start in range(0, len(questions), _AT_ONCE):
            found += self._ask(questions[start : start + _AT_ONCE])
        return found

    def _ask(self, questions: Sequence[Question]) -> list[Observed]:
        with Taps[str]({question.mark for question in questions}) as taps:
            self._card.space.run(lambda: _tap(taps, _TUNNEL_NAMES))
            self._card.outside.run(lambda: _tap(taps, _ENDS))
            for question in questions:
                taps.send(self._wiring.entry(question) or "", question.frame)
            _await_quiet(taps)
            assert not taps.missed()
            heard = taps.heard
        return [self._judge(each, [x for x in heard if x.mark == each.mark]) for each in questions]

    def _judge(self, question: Question, heard: Sequence[Heard[str]]) -> Observed:
        how = f"sent to {self._wiring.entry(question)}"
        if question.entry is None and not any(each.tap in _TUNNEL_NAMES for each in heard):
            return Observed(done(Action.HOST), f"{how}, no tunnel device took it in")
        return out(question, self._came(question, heard), self._wiring, how).observed

    def _came(self, question: Question, heard: Sequence[Heard[str]]) -> Came:
        """Return what came out, by netdev; not the kernel's own answers, which may quote it."""
        came: dict[str, list[bytes]] = {}
        for each in heard:
            if each.sent or each.tap in _TUNNEL_NAMES or is_answer(question.frame, each.frame):
                continue
            is_arrival = question.entry is None and each.tap in _TUNNEL_MISSES
            port = self._wiring.cpu if is_arrival else each.tap
            frame = _as_it_came(question, each.frame) if is_arrival else each.frame
            came.setdefault(port, []).append(frame)
        return came


def _tap(taps: Taps[str], netdevs: Sequence[str]) -> None:
    for netdev in netdevs:
        taps.add(netdev, netdev)


def _as_it_came(question: Question, frame: bytes) -> bytes:
    """Return a frame that a tunnel device hands over with what was around it."""
    packet = parse_tunnel(question.frame)
    return question.frame if packet and told_inside(packet) == frame else frame


def _await_quiet(taps: Taps[str]) -> None:
    before = -1
    while (now := len(taps.heard)) > before:
        before = now
        time.sleep(_QUIET_S)
