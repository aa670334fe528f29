"""Bugs of a switch, written past the driver into an emulated SX904 by a raw rtnetlink client.

Each changes filters in place: of ones too many or too few the agent knows within a second.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address

from dataplane.lab import dpus
from dataplane.lab.probes import Station
from dataplane.lab.scene import Colour
from tests.functional.rtnl_client import Client, client
from tests.system.dpu.conftest import DpuScene, until
from tests.unit.rtnl_by_hand import (
    DELTFILTER,
    GETLINK,
    KEYS,
    SKIP_SW,
    Shown,
    actions,
    attr,
    attributes,
    dump,
    flags,
    generic,
    new_filter,
    one_filter,
)

_REPAIR_S = 60.0  # twice what an agent takes at most to look at all filters again
_ACT, _FLAGS, _IN_HW_COUNT = 3, 22, 86
_KIND, _OPTIONS, _COOKIE, _TM, _PARMS = 1, 2, 6, 1, 2
_SOURCE, _TARGET, _VNI, _PORT, _TTL, _NO_FRAG = 3, 4, 7, 9, 13, 14  # TCA_TUNNEL_KEY_*
_SHOT = 2
_NEIGHBOUR = "192.0.2.1"  # a VTEP whose MAC the DPU knows, and which is not the right one

Attributes = Mapping[int, bytes]
Wrong = tuple[Shown, bytes]
"""A filter as it is, and the options that it is to have."""


@dataclass(frozen=True, slots=True)
class Filters:
    """The filters of the pair ``vf``, on port vf0, and ``far``, behind n2, of a Geneve segment.

    ``near`` is the pod on vf5, if it is of that segment; vf1 is of another one.
    """

    told: Client
    netdevs: Mapping[str, int]
    vf: Station
    far: Station
    near: Station

    def of(self, netdev: str, station: Station) -> list[Shown]:
        """Return the filters at a netdev for frames to ``station``."""
        mac = bytes.fromhex(station.mac.replace(":", ""))
        found = self.told.filters(self.netdevs[netdev])
        return [each for each in found if each.options.get(KEYS["eth_dst"][0]) == mac]

    @property
    def all(self) -> list[Shown]:
        return [each for ifindex in self.netdevs.values() for each in self.told.filters(ifindex)]

    def to(self, station: Station) -> list[Shown]:
        """Return the filters at any netdev for frames to ``station``."""
        return [each for netdev in self.netdevs for each in self.of(netdev, station)]

    @property
    def remote(self) -> list[Shown]:
        """Return by which filters frames go to ``far``."""
        return self.of("rep0", self.far)

    @property
    def local(self) -> list[Shown]:
        """Return by which filters frames go to ``near``."""
        return self.of("rep0", self.near)

    @property
    def arriving(self) -> list[Shown]:
        """Return by which filters tunnel packets go to ``vf``."""
        return self.of("genev_sys_6081", self.vf)


def written(shown: Shown, each: Sequence[Attributes], **keys: bytes | None) -> Wrong:
    """Return a filter with these actions and, of its match, with other keys or without them."""
    match = {n: v for n, v in shown.options.items() if n not in (_ACT, _FLAGS, _IN_HW_COUNT)}
    for name, given in keys.items():
        for number in KEYS[name]:
            match.pop(number, None)
        if given is not None:
            match[KEYS[name][0]] = given
    acts = actions(*(b"".join(attr(n, v) for n, v in sorted(one.items())) for one in each))
    head = b"".join(attr(number, value) for number, value in sorted(match.items()))
    return shown, head + acts + flags(SKIP_SW)


def acts(shown: Shown) -> list[dict[int, bytes]]:
    """Return the actions of a filter as they are asked for: kind, options and mark."""
    found = []
    for each in shown.actions:
        options = {n: v for n, v in attributes(each[_OPTIONS]).items() if n != _TM}
        options[_PARMS] = bytes(4) + options[_PARMS][4:]  # its own number is the kernel's matter
        kept = {n: v for n, v in each.items() if n in (_KIND, _COOKIE)}
        found.append({**kept, _OPTIONS: joined(options)})
    return found


def joined(options: Attributes) -> bytes:
    return b"".join(attr(number, value) for number, value in sorted(options.items()))


def header(shown: Shown, number: int, value: bytes | None) -> Wrong:
    """Return a filter whose outer header has another attribute, or has it no more."""
    first, *rest = acts(shown)
    options = attributes(first[_OPTIONS])
    options.pop(number, None)
    if value is not None:
        options[number] = value
    return written(shown, [{**first, _OPTIONS: joined(options)}, *rest])


def redirected(shown: Shown, ifindex: int) -> Wrong:
    """Return a filter whose last action goes to another netdev."""
    *rest, last = acts(shown)
    return written(shown, [*rest, to(last, ifindex)])


def alone(shown: Shown, ifindex: int) -> Wrong:
    """Return a filter that does nothing but go to a netdev."""
    return written(shown, [to(acts(shown)[-1], ifindex)])


def to(mirred: Attributes, ifindex: int) -> Attributes:
    parms = attributes(mirred[_OPTIONS])[_PARMS][:-4] + struct.pack("=I", ifindex)
    return {**mirred, _OPTIONS: attr(_PARMS, parms)}


def dropped(shown: Shown) -> Wrong:
    """Return a filter that drops."""
    last = acts(shown)[-1]
    drop = {**last, _KIND: b"gact\0", _OPTIONS: attr(_PARMS, generic(_SHOT))}
    return written(shown, [drop])


def matching(shown: Shown, **keys: bytes | None) -> Wrong:
    """Return a filter with another match."""
    return written(shown, acts(shown), **keys)


def masked(shown: Shown, name: str, mask: bytes) -> Wrong:
    """Return a filter that compares less of a key."""
    options = {**shown.options, KEYS[name][1]: mask}
    return shown, written(replace(shown, options=options), acts(shown))[1]


@dataclass(frozen=True, slots=True)
class Seeded:
    """A bug as filters that stand there with it, and what must be ``told`` of it."""

    told: str
    wrong: Callable[[Filters], list[Wrong]]


def _ip(text: str) -> bytes:
    return ip_address(text).packed


BUGS: Mapping[str, Seeded] = {
    "wrong VNI": Seeded(
        "VNI: 1002, not 1001: ",
        lambda f: [header(x, _VNI, (1002).to_bytes(4)) for x in f.remote],
    ),
    "wrong remote VTEP": Seeded(
        f"target VTEP: {_NEIGHBOUR}, not ",
        lambda f: [header(x, _TARGET, _ip(_NEIGHBOUR)) for x in f.remote],
    ),
    "wrong own VTEP": Seeded(
        "source VTEP: 192.0.2.77, not ",
        lambda f: [header(x, _SOURCE, _ip("192.0.2.77")) for x in f.remote],
    ),
    "wrong UDP port": Seeded(
        "UDP port: 4790, not 6081: ",
        lambda f: [header(x, _PORT, (4790).to_bytes(2)) for x in f.remote],
    ),
    "another encapsulation": Seeded(
        "encapsulation: vxlan, not geneve: ",
        lambda f: [redirected(x, f.netdevs["vxlan_sys_4789"]) for x in f.remote],
    ),
    "wrong TTL": Seeded("TTL: 9, not 64: ", lambda f: [header(x, _TTL, b"\t") for x in f.remote]),
    "no DF": Seeded("DF: 0, not 1: ", lambda f: [header(x, _NO_FRAG, None) for x in f.remote]),
    "to a VF in the place of the wire": Seeded(
        "verdict: deliver, not tunnel: ",
        lambda f: [alone(x, f.netdevs["rep1"]) for x in f.remote],
    ),
    "what goes out is dropped": Seeded(
        "verdict: drop, not tunnel: ", lambda f: [dropped(x) for x in f.remote]
    ),
    "wrong VF next door": Seeded(
        "output: rep1, not rep5: ",
        lambda f: [redirected(x, f.netdevs["rep1"]) for x in f.local],
    ),
    "what goes next door is dropped": Seeded(
        "verdict: drop, not deliver: ", lambda f: [dropped(x) for x in f.local]
    ),
    "wrong VF from the wire": Seeded(
        "output: rep1, not rep0: ",
        lambda f: [redirected(x, f.netdevs["rep1"]) for x in f.arriving],
    ),
    "swapped VFs": Seeded(
        "output: rep5, not rep0: ",
        lambda f: [
            *(redirected(x, f.netdevs["rep5"]) for x in f.arriving),
            *(redirected(x, f.netdevs["rep0"]) for x in f.of("genev_sys_6081", f.near)),
        ],
    ),
    "no decapsulation": Seeded(
        "inner frame: ", lambda f: [alone(x, f.netdevs["rep0"]) for x in f.arriving]
    ),
    "what comes in is dropped": Seeded(
        "verdict: drop, not deliver: ", lambda f: [dropped(x) for x in f.arriving]
    ),
    "every sender is taken in": Seeded(
        "verdict: deliver, not drop: unknown VTEP",
        lambda f: [matching(x, enc_ipv4_src=None) for x in f.arriving],
    ),
    "packets for others are taken in": Seeded(
        "not to this node",
        lambda f: [matching(x, enc_ipv4_dst=None) for x in f.arriving],
    ),
    "every VNI is taken in": Seeded(
        "verdict: deliver, not ", lambda f: [matching(x, enc_key_id=None) for x in f.arriving]
    ),
    "a guard that checks no address": Seeded(
        "from a false address",
        lambda f: [matching(x, ipv4_src=None, ipv6_src=None) for x in f.remote],
    ),
    "a guard that checks no MAC": Seeded(
        "from a false MAC", lambda f: [matching(x, eth_src=None) for x in f.remote]
    ),
    "half a MAC is enough": Seeded(
        "to an unknown MAC", lambda f: [masked(x, "eth_dst", b"\1" + bytes(5)) for x in f.remote]
    ),
    "ND is taken along": Seeded(
        "ND solicitation", lambda f: [matching(x, ip_ttl=None) for x in f.remote]
    ),
}


@contextmanager
def planted(filters: Filters, bug: Seeded) -> Iterator[None]:
    """Have a bug, and what was there before in the end."""
    until(lambda: bool(bug.wrong(filters)), _REPAIR_S)
    wrong = bug.wrong(filters)
    right = [matching(shown) for shown, _ in wrong]
    changed(filters.told, wrong)
    try:
        yield
    finally:
        with suppress(AssertionError):  # the agent has put it right
            changed(filters.told, right)


@contextmanager
def without(filters: Filters, which: Sequence[Shown]) -> Iterator[None]:
    """Have filters away."""
    assert which
    filters.told.do(*(gone(shown) for shown in which))
    yield
    filters.told.do(*(made(*matching(shown)) for shown in which))


def gone(shown: Shown) -> bytes:
    return one_filter(DELTFILTER, shown.ifindex, shown.pref, shown.handle, protocol=shown.protocol)


def made(shown: Shown, options: bytes) -> bytes:
    place = {"pref": shown.pref, "handle": shown.handle, "protocol": shown.protocol}
    return new_filter(shown.ifindex, options, **place)


def changed(told: Client, wanted: Sequence[Wrong]) -> None:
    """Give filters other options, all in one packet."""
    requests = [each for one in wanted for each in (gone(one[0]), made(*one))]
    told.send(*requests)
    answers = [answer for _ in requests for answer in told.receive()]
    for answer in answers:
        assert answer.error == 0, answer.words


@contextmanager
def filters_of(scene: DpuScene, colour: Colour) -> Iterator[Filters]:
    """Provide the filters of a colour's VF pods and of its pod on n2."""
    vf, _, _, far, *others = scene.segments[colour.name]
    with client(dpus.directory(scene.paths, scene.dpu) / "rtnetlink.sock") as told:
        found = {}
        for each in told.dump(dump(GETLINK)):
            name = attributes(each.body[16:])[3].rstrip(b"\0").decode()
            (found[name],) = struct.unpack_from("=i", each.body, 4)
        yield Filters(told, found, vf, far, others[0] if others else far)
