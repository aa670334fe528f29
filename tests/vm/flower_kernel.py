"""The driver of the SX904 programs a kernel's own tc (skip_hw), and its frames cross.

This runs inside the virtual machine alone: few other kernels have cls_flower. The card is a
namespace with veths for representors and real tunnel devices; whom the VFs talk to is another,
with tunnels of its own kernel.
"""

from __future__ import annotations

import errno
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import pytest

from bench.sx904 import batch_line
from dataplane.core.desired import Bindings, Desired, Port
from dataplane.core.diff import Change, diff
from dataplane.core.errors import PartlyRefusedError
from dataplane.core.model import Encap, EntryKey, Family, IpAddress, Mac, Segment
from dataplane.core.reasons import Reason
from dataplane.netlink import devlink, exchange
from dataplane.netlink.devlink import Handle, Mode
from dataplane.netlink.exchange import Exchange
from dataplane.netlink.flower import Skip
from dataplane.netlink.netns import Netns
from dataplane.netlink.rtnl import KernelError
from tests.functional.namespaces import ip, name_of, namespace, run
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    NIC,
    OWN4,
    OWN6,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    desired,
    ips_of,
    mac_of,
    port,
    remote,
    view,
)
from vendors.senao.driver import Limits, SenaoSwitch
from vendors.senao.pipeline import Row, Tunnel, Wiring

KINDS = {each.name: each for each in (GENEVE4, GENEVE6, VXLAN4, VXLAN6)}
DEVICES = {Encap.GENEVE: ("gen0", 6081), Encap.VXLAN: ("vxl0", 4789)}
REPRESENTORS = ("rep0", "rep1")
NEAR, OTHER, FAR = 1, 2, 10  # workloads
FAR_AWAY = remote(FAR, GENEVE4, VTEP4[0])


@dataclass
class World:
    """The card, and the namespaces that workloads are in."""

    card: Netns
    workloads: dict[int, Netns]
    far: Netns
    switch: SenaoSwitch

    def change(self, wanted: Desired, bound: Bindings) -> Change:
        rendering = self.switch.render(wanted, bound)
        assert rendering.pending == ()
        return diff(rendering, self.card.run(self.switch.observe))

    def place(self, wanted: Desired) -> Bindings:
        """Have all placed; then the kernel says what was written, and nothing is left to do."""
        bound = all_of(wanted)
        if change := self.change(wanted, bound):
            self.card.run(lambda: self.switch.apply(change))
        assert not self.change(wanted, bound)
        return bound

    def strike(self) -> None:
        change = Change(remove=self.card.run(self.switch.observe))
        if change:
            self.card.run(lambda: self.switch.apply(change))
        assert not self.card.run(self.switch.observe)


def all_of(wanted: Desired) -> Bindings:
    """Return bindings in which all is to be placed."""
    keys = frozenset(
        EntryKey(v.segment.vni, mac)
        for v in wanted.segments.values()
        for mac in (*(p.attachment.mac for p in v.ports), *(r.endpoint.mac for r in v.remotes))
    )
    hops = {vtep: Mac("02:00:00:00:bb:01") for vtep in (*VTEP4, *VTEP6)}
    return Bindings(NIC, next_hops=hops, placed=keys)


def wiring_of() -> Wiring:
    tunnels = {encap: Tunnel(name) for encap, (name, _) in DEVICES.items()}
    return Wiring(REPRESENTORS, tunnels, skip=Skip.DEVICE)


def make_tunnel(space: Netns, encap: Encap, name: str, number: int) -> None:
    kind = ("type", str(encap), "external", "dstport", str(number), "udp6zerocsumrx")
    ip(space, "link", "add", name, *kind)
    ip(space, "link", "set", name, "up")


def vf(slot: int, segment: Segment) -> Port:
    plain = port(slot, segment)
    return replace(plain, attachment=replace(plain.attachment, netdev=f"rep{slot - 1}"))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with namespace() as card, namespace() as far, namespace() as one, namespace() as two:
        ip(card, "link", "add", "up0", "type", "veth", "peer", "up0", "netns", name_of(far))
        for space, own, other in ((card, OWN4, OWN6), (far, VTEP4[0], VTEP6[0])):
            ip(space, "addr", "add", f"{own}/24", "dev", "up0")
            ip(space, "addr", "add", f"{other}/64", "dev", "up0", "nodad")
            ip(space, "link", "set", "up0", "up")
        for encap, (name, number) in DEVICES.items():
            make_tunnel(card, encap, name, number)
        for number, space in ((NEAR, one), (OTHER, two)):
            rep = f"rep{number - 1}"
            words = ("type", "veth", "peer", "eth0", "netns", name_of(space))
            ip(card, "link", "add", rep, *words)
            ip(card, "link", "set", rep, "up")
            _dress(space, "eth0", number)
        switch = SenaoSwitch(exchange.kernel_socket, wiring_of(), Limits(4096))
        yield World(card, {NEAR: one, OTHER: two}, far, switch)


def _dress(space: Netns, netdev: str, number: int) -> None:
    """Give a workload its MAC and addresses, and the neighbours that nobody answers for here."""
    ip(space, "link", "set", netdev, "address", mac_of(number))
    ip(space, "link", "set", netdev, "mtu", "1400")
    ip(space, "link", "set", netdev, "up")
    for address in ips_of(number):
        length = 24 if address.version == 4 else 64
        ip(space, "addr", "add", f"{address}/{length}", "dev", netdev, *_nodad(address))
    for other in {NEAR, OTHER, FAR} - {number}:
        for address in ips_of(other):
            words = (str(address), "lladdr", mac_of(other), "dev", netdev, "nud", "permanent")
            ip(space, "neigh", "replace", *words)


def _nodad(address: IpAddress) -> tuple[str, ...]:
    return ("nodad",) if address.version == 6 else ()


@pytest.fixture
def scene(request: pytest.FixtureRequest, world: World) -> Iterator[Segment]:
    """Workloads 1 and 2 behind representors, 10 in a tunnel of the other node's kernel."""
    segment = KINDS[request.param]
    own = OWN4 if segment.underlay is Family.IPV4 else OWN6
    number = str(DEVICES[segment.encap][1])
    words = ["type", str(segment.encap), "id", str(segment.vni), "remote", str(own)]
    words += ["dstport", number]
    if segment.underlay is Family.IPV6:
        words += ["udp6zerocsumtx", "udp6zerocsumrx"]
    if segment.encap is Encap.VXLAN:
        words += ["dev", "up0"]
    ip(world.far, "link", "add", "tun", *words)
    _dress(world.far, "tun", FAR)
    yield segment
    world.strike()
    ip(world.far, "link", "delete", "tun")


def wanted(segment: Segment) -> Desired:
    vtep = VTEP4[0] if segment.underlay is Family.IPV4 else VTEP6[0]
    ports = [vf(NEAR, segment), vf(OTHER, segment)]
    return desired(view(segment, ports, [remote(FAR, segment, vtep)]))


def pings(space: Netns, target: IpAddress) -> bool:
    words = ("nsenter", f"--net={space.path}", "ping", "-c", "2", "-i", "0.2", "-W", "5")
    said = subprocess.run([*words, str(target)], capture_output=True, text=True, check=False)
    return "2 received" in said.stdout


@pytest.mark.parametrize("scene", KINDS, indirect=True)
def test_frames_cross_both_ways_and_counters_move(world: World, scene: Segment) -> None:
    far_address = ips_of(FAR)
    assert not any(pings(world.workloads[NEAR], address) for address in far_address[:1])
    world.place(wanted(scene))
    before = world.card.run(world.switch.counters)
    for number, address in product((NEAR, OTHER), far_address):
        assert pings(world.workloads[number], address), (number, address)
    for address in ips_of(NEAR):
        assert pings(world.far, address), address
        assert pings(world.workloads[OTHER], address), address
    after = world.card.run(world.switch.counters)
    assert set(after) == {EntryKey(scene.vni, mac_of(n)) for n in (NEAR, OTHER, FAR)}
    for key, traffic in after.items():
        assert traffic.packets >= before[key].packets + 8, key


def test_a_tunnel_device_that_is_made_anew_has_its_filters_again(world: World) -> None:
    """As when Open vSwitch comes back: filters at it go with it, those that lead to it stay."""
    asked = wanted(VXLAN4)
    world.place(asked)
    name, number = DEVICES[Encap.VXLAN]
    ip(world.card, "link", "delete", name)
    make_tunnel(world.card, Encap.VXLAN, name, number)
    assert world.card.run(world.switch.observe)
    world.place(asked)
    world.strike()


# --- what the kernel refuses, in its words -------------------------------------------------------


def tc(space: Netns, *words: str) -> None:
    run("ip", "netns", "exec", name_of(space), "tc", *words)


def refused(world: World, asked: Desired) -> dict[EntryKey, str]:
    with pytest.raises(PartlyRefusedError) as error:
        world.place(asked)
    return {each: why for each, why in error.value.refused.items() if isinstance(each, EntryKey)}


@pytest.mark.parametrize(
    ("theirs", "words"),
    [
        pytest.param(
            "protocol ip u32 match u32 0 0 action ok",
            "Specified filter kind does not match existing one",
            id="another kind",
        ),
        pytest.param(
            "protocol arp flower skip_hw action drop",
            "Filter with specified priority/protocol not found",
            id="another ethertype",
        ),
    ],
)
def test_a_filter_of_others_at_our_preference_stays(world: World, theirs: str, words: str) -> None:
    place = ["dev", "rep0", "ingress", "pref", "40"]
    tc(world.card, "filter", "add", *place, *theirs.split())
    before = run("ip", "netns", "exec", name_of(world.card), "tc", "filter", "show", *place)
    obstacle = world.card.run(world.switch.describe).obstacle
    assert "rep0 is programmed by others: ingress pref 40" in obstacle
    (why,) = refused(world, desired(view(GENEVE4, [vf(1, GENEVE4)], [FAR_AWAY]))).values()
    assert why.startswith(Reason.SWITCH_TAKEN)
    assert words in why
    after = run("ip", "netns", "exec", name_of(world.card), "tc", "filter", "show", *place)
    assert after == before
    tc(world.card, "filter", "del", *place)
    world.strike()


def test_a_netdev_that_takes_no_filter_into_a_device_says_so(world: World) -> None:
    wiring = replace(wiring_of(), skip=Skip.KERNEL)
    switch = SenaoSwitch(exchange.kernel_socket, wiring, Limits(4096))
    strict = replace(world, switch=switch)
    for why in refused(strict, wanted(GENEVE4)).values():
        assert why.startswith(f"{Reason.UNSUPPORTED_MATCH}: Operation not supported")
    assert not world.card.run(world.switch.observe)


# --- beside iproute2 -----------------------------------------------------------------------------


@pytest.mark.parametrize("segment", KINDS.values(), ids=KINDS)
def test_what_tc_writes_is_what_we_write(world: World, tmp_path: Path, segment: Segment) -> None:
    asked = wanted(segment)
    rows = [*world.switch.render(asked, all_of(asked)).items.values()]
    batch = tmp_path / "batch"
    batch.write_text("".join(f"{batch_line(row)}\n" for row in rows if isinstance(row, Row)))
    for name in wiring_of().hooks:
        tc(world.card, "qdisc", "replace", "dev", name, "clsact")
    tc(world.card, "-batch", str(batch))
    assert len(rows) == 10
    assert not world.change(asked, all_of(asked))
    world.strike()


def test_what_is_placed_is_found_by_another_driver(world: World) -> None:
    asked = wanted(GENEVE4)
    bound = world.place(asked)
    other = SenaoSwitch(exchange.kernel_socket, wiring_of(), Limits(4096))
    found = world.card.run(other.observe)
    assert not diff(other.render(asked, bound), found)
    world.strike()


def test_describe_says_what_this_kernel_can(world: World) -> None:
    found = world.card.run(world.switch.describe)
    assert found.obstacle == ""
    assert found.tunnels == set(product(Encap, Family))
    assert set(found.guards) == set(REPRESENTORS)
    assert found.rows == 0


def test_its_devlink_understands_us(world: World) -> None:
    """No netdev here is a NIC's: one that is not there is refused as such."""

    def ask() -> None:
        with Exchange(partial(exchange.kernel_socket, exchange.GENERIC), 10, 60) as asked:
            assert devlink.find(asked, socket.if_nametoindex("up0")) is None
            devlink.set_mode(asked, Handle("pci", "0000:ff:00.0"), Mode.SWITCHDEV)

    with pytest.raises(KernelError) as caught:
        world.card.run(ask)
    assert caught.value.errno == errno.ENODEV
