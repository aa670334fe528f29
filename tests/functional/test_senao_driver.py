"""The SX904's driver with an emulated device: what goes wrong with one, and what it says then."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from dataplane.core.agreement import Field
from dataplane.core.capability import Capability
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import Change
from dataplane.core.errors import PartlyRefusedError, TargetError
from dataplane.core.model import Encap, EntryKey, Fabric, Family
from dataplane.core.reasons import Reason
from dataplane.netlink import devlink
from dataplane.netlink.devlink import Handle, Mode
from dataplane.netlink.exchange import Exchange, kernel_socket, unix_socket
from dataplane.netlink.flower import Skip
from tests.functional.emulated_switch import VFS
from tests.functional.namespaces import ip, namespace
from tests.functional.overlay_switch import encapsulate
from tests.functional.rtnl_client import client
from tests.functional.senao_device import MOST, REPRESENTORS, WIRING, Device, running_device
from tests.functional.switch_world import CPU, NEXT_HOPS, UP, SenaoWorld, Stage, entries
from tests.functional.test_switch_contract import FAR, frame, goes_out, key, pair, vf
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    NIC,
    VTEP4,
    VTEP6,
    VXLAN4,
    desired,
    ips_of,
    mac_of,
    remote,
    view,
)
from tests.unit.rtnl_by_hand import (
    ALL,
    DELTFILTER,
    IPV4,
    SKIP_HW,
    SKIP_SW,
    actions,
    clsact,
    flags,
    gact,
    keys,
    new_filter,
    one_filter,
)
from vendors.senao.driver import Devlink, Limits, SenaoSwitch
from vendors.senao.pipeline import PREFERENCES, Tunnel, Wiring

SHOT = 2
IP_PREFERENCE = PREFERENCES[0x0800]


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with running_device(tmp_path_factory.mktemp("senao")) as made:
        yield made


@pytest.fixture(scope="module")
def world(device: Device) -> SenaoWorld:
    return SenaoWorld(device)


@pytest.fixture
def stage(world: SenaoWorld) -> Iterator[Stage]:
    made = Stage(world)
    yield made
    world.device.tell("clear")
    with suppress(PartlyRefusedError):
        made.strike()


def refused(stage: Stage, wanted: Desired) -> dict[EntryKey, str]:
    with pytest.raises(PartlyRefusedError) as error:
        stage.place(wanted)
    return {each: why for each, why in error.value.refused.items() if isinstance(each, EntryKey)}


def two() -> Desired:
    """Return a world of workloads 1 and 2 on vf0 and vf1, and 10 behind a VTEP."""
    return desired(view(GENEVE4, [vf(1, GENEVE4), vf(2, GENEVE4)], [FAR]))


# --- a device that is as the published driver has it ---------------------------------------------


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SenaoWorld]:
    with running_device(tmp_path_factory.mktemp("plain"), tunnels=False) as made:
        yield SenaoWorld(made)


def test_a_device_without_tunnels_says_so_in_its_driver_s_words(plain: SenaoWorld) -> None:
    stage = Stage(plain)
    found = stage.switch.describe()
    assert found.tunnels == frozenset()
    assert any("ice: Unsupported action in switchdev mode" in each for each in found.limits)
    assert found.obstacle == ""
    assert found.rows == 0


def test_a_device_without_tunnels_forwards_from_vf_to_vf(plain: SenaoWorld) -> None:
    stage = Stage(plain)
    stage.switch.describe()
    wanted = two()
    rendering = stage.switch.render(
        wanted, Bindings(NIC, next_hops=NEXT_HOPS, placed=entries(wanted))
    )
    ((about, why),) = ((each.about, each.reason) for each in rendering.pending)
    assert about == key(10)
    assert why.startswith(Reason.UNSUPPORTED_ENCAP)
    stage.place(wanted)
    sent = frame(1, 2)
    assert plain.ask("vf0", sent) == {"vf1": [sent]}
    assert not goes_out(plain, 10)
    stage.strike()


def test_who_has_not_asked_is_told_by_a_refusal(plain: SenaoWorld) -> None:
    stage = Stage(plain)
    found = refused(stage, pair())
    assert set(found) == {key(1), key(10)}
    for why in found.values():
        assert why.startswith(f"{Reason.UNSUPPORTED_ENCAP}: ")
        assert "ice: Unsupported action in switchdev mode" in why
    assert not plain.leftovers()


# --- the trial -----------------------------------------------------------------------------------


def test_the_trial_leaves_nothing_and_is_made_once(device: Device, stage: Stage) -> None:
    found = stage.switch.describe()
    assert found.tunnels == {(encap, family) for encap in Encap for family in Family}
    assert not device.filters(ours=True)
    device.tell("refuse", "1")
    assert stage.switch.describe().tunnels == found.tunnels  # none was tried
    assert set(refused(stage, pair())) <= {key(1), key(10)}


def test_what_is_there_proves_tunnels_where_no_trial_would_fit(
    device: Device, world: SenaoWorld, stage: Stage
) -> None:
    stage.place(pair())
    device.tell("table-full", "filters", "3")
    other = world.driver()
    assert other.describe().tunnels


def test_what_is_there_over_ipv6_says_nothing_of_df(
    device: Device, world: SenaoWorld, stage: Stage
) -> None:
    stage.place(pair(GENEVE6, VTEP6[0]))
    device.tell("refuse", "1")
    other = world.driver()
    assert other.describe().cannot_set == {Field.ECN, Field.DF}
    assert other.describe().cannot_set == {Field.ECN}


def test_a_trial_that_was_cut_short_is_cleared_away(device: Device, stage: Stage) -> None:
    stage.place(pair())
    number = device.netdevs()["rep1"]
    with client(device.rtnetlink) as made:
        made.ask(clsact(number))
        cookie = b"overweave" + bytes(4)
        options = keys(eth_dst="02:6f:77:74:72:79", eth_type=0x0800) + flags(SKIP_SW)
        shot = gact(SHOT) + b"\x11\x00\x06\x00" + cookie + bytes(3)
        made.do(new_filter(number, options + actions(shot), protocol=IPV4))
    assert len(stage.switch.observe()) == 4
    stage.place(pair())
    assert len(stage.switch.observe()) == 3


# --- representors --------------------------------------------------------------------------------


def test_a_representor_that_comes_late_is_waited_for(device: Device, stage: Stage) -> None:
    device.tell("port-gone", "rep0")
    found = stage.switch.describe()
    assert set(found.guards) == {"rep1", "rep2"}
    assert "representor rep0 is not there" in found.limits
    why = refused(stage, two())
    assert why == {key(1): f"{Reason.NO_SWITCH_PORT}: there is no netdev rep0"}
    assert set(stage.switch.counters()) == {key(2), key(10)}
    device.tell("port-back", "rep0")
    device.listen_on("rep0")
    assert set(stage.switch.describe().guards) == set(REPRESENTORS)
    stage.place(two())
    assert set(stage.switch.counters()) == {key(1), key(2), key(10)}


def test_a_representor_that_went_and_came_has_its_filters_again(
    device: Device, world: SenaoWorld, stage: Stage
) -> None:
    stage.place(two())
    before = device.netdevs()["rep0"]
    device.tell("port-gone", "rep0")
    device.tell("port-back", "rep0")
    device.listen_on("rep0")
    assert device.netdevs()["rep0"] != before
    stage.place(two())
    assert goes_out(world, 10)
    sent = frame(10, 1)
    assert world.ask(UP, encapsulate(Encap.GENEVE, GENEVE4.vni, VTEP4[0], sent)) == {"vf0": [sent]}
    sent = frame(2, 1)
    assert world.ask("vf1", sent) == {"vf0": [sent]}


@pytest.mark.parametrize(
    ("representors", "there", "words"),
    [
        pytest.param(
            ("rep0", "old1", "rep2"),
            {"rep0", "rep2"},
            "representor old1 is not there; rep1 stands for VF 1 now",
            id="renamed",
        ),
        pytest.param(
            ("rep1", "rep0", "rep2"),
            {"rep2"},
            "rep1 stands for pf0vf1, and not for VF 0 of PF 0",
            id="mixed up",
        ),
    ],
)
def test_a_representor_is_told_by_its_vf(
    device: Device, stage: Stage, representors: tuple[str, ...], there: set[str], words: str
) -> None:
    found = described(device, replace(device.driver()._wiring, representors=representors))
    assert set(found.guards) == there
    assert words in found.limits
    assert found.obstacle == ""


def test_filters_of_ours_are_seen_when_every_representor_has_another_name(
    device: Device, stage: Stage
) -> None:
    stage.place(pair())
    before = stage.switch.observe()
    driver = device.driver()
    wiring = replace(driver._wiring, representors=("old0", "old1", "old2"))
    assert SenaoSwitch(driver._opens, wiring, Limits(MOST)).observe() == before


def described(device: Device, wiring: Wiring) -> Capability:
    driver = device.driver()
    return SenaoSwitch(driver._opens, wiring, Limits(MOST)).describe()


def test_a_tunnel_device_that_is_not_there_is_said_and_the_other_is_used(
    device: Device, stage: Stage
) -> None:
    wiring = device.driver()._wiring
    tunnels = {**wiring.tunnels, Encap.VXLAN: Tunnel("vxlan_sys_9")}
    found = described(device, replace(wiring, tunnels=tunnels))
    assert {encap for encap, _ in found.tunnels} == {Encap.GENEVE}
    assert any("there is no vxlan device vxlan_sys_9" in each for each in found.limits)


def test_tunnels_to_another_port_than_the_fabric_s_are_said_to_be_none(stage: Stage) -> None:
    """So that placement, which has what is rendered made anew, hears of it."""
    assert len(stage.switch.describe().tunnels) == len(Encap) * len(Family)
    wanted = replace(pair(), fabric=Fabric(geneve_port=16081))
    bound = Bindings(NIC, next_hops=NEXT_HOPS, placed=entries(wanted))
    ((about, why),) = ((p.about, p.reason) for p in stage.switch.render(wanted, bound).pending)
    assert about == key(10)
    assert "genev_sys_6081 is for UDP port 6081, geneve goes to 16081 here" in why
    found = stage.switch.describe()
    assert {encap for encap, _ in found.tunnels} == {Encap.VXLAN}
    stage.switch.render(pair(), bound)
    assert len(stage.switch.describe().tunnels) == len(Encap) * len(Family)


# --- filters of others ---------------------------------------------------------------------------


def foreign(device: Device, netdev: str, options: bytes, **where: int) -> Callable[[], None]:
    """Put a filter of somebody else there, and return what takes it away."""
    number = device.netdevs()[netdev]
    with client(device.rtnetlink) as made:
        made.ask(clsact(number))
        made.do(new_filter(number, options, **where))

    def gone() -> None:
        with client(device.rtnetlink) as made:
            protocol = where.get("protocol", ALL)
            made.do(one_filter(DELTFILTER, number, where["pref"], protocol=protocol))

    return gone


def test_a_filter_of_others_at_our_preference_is_named_and_stays(
    device: Device, stage: Stage
) -> None:
    options = keys(eth_dst="02:00:00:00:99:01") + flags(SKIP_HW) + actions(gact(SHOT))
    with ExitStack() as stack:
        stack.callback(foreign(device, "rep0", options, pref=IP_PREFERENCE))
        theirs = device.filters(ours=False)
        obstacle = stage.switch.describe().obstacle
        assert f"rep0 is programmed by others: ingress pref {IP_PREFERENCE}" in obstacle
        assert f"tc filter del dev rep0 ingress pref {IP_PREFERENCE}" in obstacle
        (why,) = refused(stage, pair()).values()
        assert why.startswith(f"{Reason.SWITCH_TAKEN}: ")
        assert "Filter with specified priority/protocol not found" in why
        assert device.filters(ours=False) == theirs
    stage.place(pair())


def test_a_filter_of_others_for_the_same_frames_is_named(device: Device, stage: Stage) -> None:
    stage.place(pair())
    stage.strike()
    options = keys(
        eth_dst=mac_of(10), eth_src=mac_of(1), eth_type=0x0800, ipv4_src=str(ips_of(1)[0])
    )
    options += flags(SKIP_SW) + actions(gact(SHOT))
    with ExitStack() as stack:
        stack.callback(foreign(device, "rep0", options, pref=3, protocol=IPV4))
        why = refused(stage, pair())[key(10)]
        assert why.startswith(f"{Reason.SWITCH_TAKEN}: ")
        assert "because it already exist" in why
    stage.place(pair())


def test_a_filter_of_ours_that_is_there_twice_is_there_once_again(
    device: Device, stage: Stage
) -> None:
    wanted = pair()
    stage.place(wanted)
    before = device.filters(ours=True)
    number = device.netdevs()["rep2"]
    with client(device.rtnetlink) as made:
        made.ask(clsact(number))
        cookie = b"overweave" + bytes([1]) + GENEVE4.vni.to_bytes(3)
        shot = gact(SHOT) + b"\x11\x00\x06\x00" + cookie + bytes(3)
        for pref in (7, 8):
            options = keys(eth_dst="02:00:00:00:99:01") + flags(SKIP_HW) + actions(shot)
            made.do(new_filter(number, options, pref=pref))
    assert len(stage.switch.observe()) == len(before) + 2
    stage.place(wanted)
    assert device.filters(ours=True) == before


# --- a device that refuses or does not answer ----------------------------------------------------


def test_what_the_device_cannot_do_now_is_told_and_tried_again(
    device: Device, world: SenaoWorld, stage: Stage
) -> None:
    stage.switch.describe()
    device.tell("refuse", "1")
    wanted = desired(
        view(GENEVE4, [vf(1, GENEVE4)], [FAR]),
        view(VXLAN4, [vf(2, VXLAN4)], [remote(20, VXLAN4, VTEP4[1])]),
    )
    found = refused(stage, wanted)
    for why in found.values():
        assert why.startswith(f"{Reason.UNSUPPORTED_MATCH}: Input/output error")
        assert "ice: Unable to add filter due to error" in why
    assert set(stage.switch.counters()) == entries(wanted) - found.keys()
    stage.place(wanted)
    assert set(stage.switch.counters()) == entries(wanted)


@pytest.mark.parametrize("fault", [("garbage",), ("hang",), ("die",)])
def test_a_device_that_makes_no_sense_is_an_error_in_time_and_no_loss(
    device: Device, world: SenaoWorld, stage: Stage, fault: tuple[str, ...]
) -> None:
    wanted = pair()
    bound = stage.place(wanted)
    change = Change(remove=stage.switch.observe())
    device.tell(*fault)
    for call in (
        stage.switch.describe,
        stage.switch.observe,
        stage.switch.counters,
        lambda: stage.switch.apply(change),
    ):
        began = time.monotonic()
        with pytest.raises(TargetError, match="the DPU's switch: "):
            call()
        assert time.monotonic() - began < stage.switch.deadline_s
    device.tell("clear")
    device.tell("revive")
    stage.repair(wanted, bound)
    assert goes_out(world, 10)


def test_how_many_it_takes_is_learnt_and_forgotten(device: Device, stage: Stage) -> None:
    device.tell("table-full", "filters", "5")
    refused(stage, pair(remotes=9))
    (table,) = stage.switch.describe().tables
    assert (table.capacity, table.used) == (5, 5)
    device.tell("clear")
    stage.place(pair(remotes=9))
    (table,) = stage.switch.describe().tables
    assert (table.capacity, table.used) == (MOST, 19)


def test_whether_there_is_room_again_is_tried_with_a_few(
    device: Device, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capacity() -> int:
        return stage.switch.describe().tables[0].capacity

    device.tell("table-full", "filters", "5")
    refused(stage, pair(remotes=9))
    assert capacity() == 5
    after_a_while(monkeypatch)
    assert capacity() == 5 + 64
    refused(stage, pair(remotes=9))
    monkeypatch.undo()
    assert capacity() == 5, "it was in vain, so it is not tried again at once"
    device.tell("clear")
    after_a_while(monkeypatch)
    assert capacity() == 5 + 64
    stage.place(pair(remotes=9))
    assert capacity() == MOST


def after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what was learnt be old enough to be tried again."""
    monkeypatch.setattr("vendors.senao.driver._TRY_MORE_S", 0.0)


def test_what_goes_makes_room_at_once(device: Device, stage: Stage) -> None:
    device.tell("table-full", "filters", "5")
    refused(stage, pair(remotes=9))
    stage.place(pair(remotes=1))
    (table,) = stage.switch.describe().tables
    assert (table.room, table.used) == (5, 3)
    stage.place(pair(remotes=2))
    assert stage.switch.describe().tables[0].used == 5


def test_what_arrives_is_counted_by_the_bytes_that_the_vf_gets(
    world: SenaoWorld, stage: Stage
) -> None:
    stage.place(pair())
    sent = frame(10, 1)
    for _ in range(3):
        world.ask(UP, encapsulate(Encap.GENEVE, GENEVE4.vni, VTEP4[0], sent))
    found = stage.switch.counters()[key(1)]
    assert (found.packets, found.bytes) == (3, 3 * len(sent))


def test_a_tunnel_packet_for_another_address_is_the_cpu_s(world: SenaoWorld, stage: Stage) -> None:
    stage.place(pair())
    packet = Ether(encapsulate(Encap.GENEVE, GENEVE4.vni, VTEP4[0], frame(10, 1)))
    packet[IP].dst = "192.0.2.77"
    del packet[IP].chksum, packet[UDP].chksum
    came = bytes(packet)
    assert world.ask(UP, came) == {CPU: [came]}


# --- the mode of its NIC -------------------------------------------------------------------------


@pytest.fixture
def lanes(plain: SenaoWorld) -> Iterator[Device]:
    """Provide a device in legacy mode, whose VFs are VLAN lanes; it is a switch afterwards."""
    device = plain.device
    set_mode(device, Mode.LEGACY)
    yield device
    set_mode(device, Mode.SWITCHDEV)


def set_mode(device: Device, mode: Mode) -> None:
    take_vfs(device)
    with Exchange(unix_socket(device.devlink), 5, 5) as asked:
        eswitch = devlink.find(asked, device.netdevs()["eth0"])
        assert eswitch is not None
        devlink.set_mode(asked, eswitch.handle, mode)
    return_vfs(device)


def take_vfs(device: Device) -> None:
    for number in range(VFS):
        device.tell("port-gone", f"vf{number}")


def return_vfs(device: Device) -> None:
    for number in range(VFS):
        device.tell("port-back", f"vf{number}")


def driver(device: Device, *, switchdev: bool = False) -> SenaoSwitch:
    nic = Devlink(unix_socket(device.devlink), switchdev)
    return SenaoSwitch(unix_socket(device.rtnetlink), WIRING, Limits(MOST), nic, emulated=True)


LEGACY_SAID = "eswitch mode of pci/0000:01:00.0: legacy"
SWITCHDEV_SAID = "eswitch mode of pci/0000:01:00.0: switchdev"


def test_a_device_in_legacy_mode_says_so_and_stays_in_it(lanes: Device) -> None:
    for _ in range(2):
        found = driver(lanes).describe()
        assert found.obstacle.startswith(
            "its NIC is not in switchdev mode: devlink dev eswitch set"
        )
        assert "pci/0000:01:00.0 mode switchdev" in found.obstacle
        assert LEGACY_SAID in found.limits
        assert found.guards == {}


def test_what_refuses_to_be_a_switch_is_told_in_its_words(lanes: Device) -> None:
    """Its VFs are there: nothing ends them but who made them."""
    found = driver(lanes, switchdev=True).describe()
    assert "ice: Changing eswitch mode is allowed only if there is no VFs created" in found.obstacle
    assert LEGACY_SAID in found.limits


def test_what_refuses_to_be_a_switch_is_not_asked_at_each_look(
    lanes: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node looks twice a second, and each refusal is a line in the kernel's log."""
    asked: list[Handle] = []

    def set_mode(exchange: Exchange, handle: Handle, mode: Mode) -> None:
        asked.append(handle)
        really_set(exchange, handle, mode)

    really_set = devlink.set_mode
    monkeypatch.setattr(devlink, "set_mode", set_mode)
    switch = driver(lanes, switchdev=True)
    words = {switch.describe().obstacle for _ in range(3)}
    assert (len(words), len(asked)) == (1, 1)
    assert "allowed only if there is no VFs created" in words.pop()
    monkeypatch.setattr("vendors.senao.driver._SET_MODE_S", 0.0)
    take_vfs(lanes)
    assert SWITCHDEV_SAID in switch.describe().limits


def test_a_netdev_that_devlink_does_not_know_cannot_be_made_a_switch(plain: SenaoWorld) -> None:
    wiring = replace(WIRING, uplink="rep0")
    nic = Devlink(unix_socket(plain.device.devlink), switchdev=True)
    switch = SenaoSwitch(unix_socket(plain.device.rtnetlink), wiring, Limits(MOST), nic)
    said = "devlink knows of no switch that rep0 is a port of"
    assert said in switch.describe().limits
    nic = replace(nic, switchdev=False)
    switch = SenaoSwitch(unix_socket(plain.device.rtnetlink), wiring, Limits(MOST), nic)
    assert said not in switch.describe().limits


def test_a_device_that_is_to_be_a_switch_becomes_one(lanes: Device) -> None:
    take_vfs(lanes)
    switch = driver(lanes, switchdev=True)
    found = switch.describe()
    assert (found.obstacle, found.guards) == ("", {})
    assert SWITCHDEV_SAID in found.limits
    return_vfs(lanes)
    assert set(switch.describe().guards) == set(REPRESENTORS)
    wanted = desired(view(GENEVE4, [vf(1, GENEVE4), vf(2, GENEVE4)]))
    bound = Bindings(NIC, next_hops=NEXT_HOPS, placed=entries(wanted))
    switch.apply(Change(add=switch.render(wanted, bound).items))
    sent = frame(1, 2)
    assert lanes.ask("vf0", sent) == {"vf1": [sent]}
    switch.apply(Change(remove=switch.observe()))


def test_devlink_that_does_not_answer_keeps_nothing_from_being_placed(plain: SenaoWorld) -> None:
    device = plain.device
    nic = Devlink(unix_socket(device.directory / "nobody"))
    switch = SenaoSwitch(unix_socket(device.rtnetlink), WIRING, Limits(MOST), nic)
    found = switch.describe()
    assert found.obstacle == ""
    assert any(f"{device.directory}/nobody" in each for each in found.limits), found.limits


# --- the kernel's own rtnetlink ------------------------------------------------------------------


def test_vfs_that_are_no_representors_are_vlan_lanes() -> None:
    """As the card is shipped: its VFs have no switch, here veths are such netdevs."""
    with namespace() as space:
        ip(space, "link", "add", "rep0", "type", "veth", "peer", "vf0")
        wiring = Wiring(("rep0",), {Encap.GENEVE: Tunnel("gen0")}, "eth0")
        switch = SenaoSwitch(kernel_socket, wiring, Limits(MOST))
        found = space.run(switch.describe)
        assert "not in switchdev mode" in found.obstacle
        assert "VLAN lane" in found.obstacle
        assert found.guards == {}
        assert space.run(switch.observe) == {}


ASKING = """
from tests.functional.test_senao_driver import *
switch = SenaoSwitch(kernel_socket, Wiring(("rep0", "rep1"), {}), Limits(MOST))
wanted = desired(view(GENEVE4, [vf(1, GENEVE4), vf(2, GENEVE4)]))
bound = Bindings(NIC, placed=entries(wanted))
try:
    switch.apply(Change(add=switch.render(wanted, bound).items))
except TargetError as error:
    print(error)
"""


def test_who_may_not_write_is_told_so() -> None:
    """The root of a user namespace of its own is nobody in ours."""
    with namespace() as space:
        ip(space, "link", "add", "rep0", "type", "veth", "peer", "rep1")
        words = ["unshare", "--user", "--map-root-user", sys.executable, "-c", ASKING]
        inside = ["nsenter", f"--net={space.path}", *words]
        said = subprocess.run(inside, capture_output=True, text=True, check=False)
    assert "the DPU's switch: " in said.stdout, said.stderr
    assert "Operation not permitted" in said.stdout


def test_a_kernel_s_own_words_are_told_and_nothing_stays_behind() -> None:
    """A veth takes no filter into a device: what says so is the kernel's, whichever it is."""
    with namespace() as space:
        ip(space, "link", "add", "rep0", "type", "veth", "peer", "rep1")
        wiring = Wiring(("rep0", "rep1"), {}, skip=Skip.KERNEL)
        switch = SenaoSwitch(kernel_socket, wiring, Limits(MOST))
        wanted = desired(view(GENEVE4, [vf(1, GENEVE4), vf(2, GENEVE4)]))
        bound = Bindings(NIC, next_hops=NEXT_HOPS, placed=entries(wanted))
        rendering = switch.render(wanted, bound)
        with pytest.raises(PartlyRefusedError) as error:
            space.run(lambda: switch.apply(Change(add=rendering.items)))
        assert set(error.value.refused) == entries(wanted)
        for why in error.value.refused.values():
            assert why.startswith(f"{Reason.UNSUPPORTED_MATCH}: ")
            assert "TC classifier not found" in why or "Operation not supported" in why
        assert space.run(switch.observe) == {}
