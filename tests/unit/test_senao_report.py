"""What an SX904 says of itself: its mode, ports, tunnels, and what others have there."""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from dataplane.core.agreement import Field
from dataplane.core.capability import Capability, Departure
from dataplane.core.model import Encap, Fabric, Family
from dataplane.core.offload import SwitchView, choose
from dataplane.core.reasons import Reason
from dataplane.netlink.actions import Counts, Redirect
from dataplane.netlink.exchange import Refusal
from dataplane.netlink.flower import ETH_P_ALL, ETH_P_IP, Filter, Found, Listing, Match, Skip
from dataplane.netlink.switchdev import SwitchNetdev
from dataplane.netlink.tc import Slot
from tests.unit.marvell_builders import entries, vf
from tests.unit.overlay_builders import GENEVE4, desired, view
from vendors.senao.pipeline import PREFERENCES, Tunnel, Wiring
from vendors.senao.refusals import is_fatal, is_full, reason_of
from vendors.senao.report import Findings, Trial, capability

WIRING = Wiring(
    ("rep0", "rep1"), {Encap.GENEVE: Tunnel("gen0"), Encap.VXLAN: Tunnel("vxl0")}, "eth0"
)
NETDEVS = {
    each.name: each
    for each in (
        SwitchNetdev(2, "eth0", switch="aa", port="p0"),
        SwitchNetdev(3, "rep0", switch="aa", port="pf0vf0"),
        SwitchNetdev(4, "rep1", switch="aa", port="pf0vf1"),
        SwitchNetdev(5, "gen0", "geneve", udp_port=6081),
        SwitchNetdev(6, "vxl0", "vxlan", udp_port=4789),
    )
}
GOOD = Findings(NETDEVS, {}, Trial(tunnels=True, dont_fragment=True), 4096)
BOTH = {(encap, family) for encap in Encap for family in Family}
IP_PREFERENCE = PREFERENCES[ETH_P_IP]


def said(findings: Findings = GOOD, wiring: Wiring = WIRING) -> Capability:
    return capability(findings, wiring, emulated=False)


def without(*names: str, **others: SwitchNetdev) -> Findings:
    kept = {name: each for name, each in NETDEVS.items() if name not in names}
    return replace(GOOD, netdevs={**kept, **others})


def test_all_is_well() -> None:
    found = said(replace(GOOD, fabric=Fabric()))
    assert (found.vendor, found.product, found.obstacle) == ("senao", "Senao SX904", "")
    assert found.tunnels == BOTH
    assert set(found.guards) == {"rep0", "rep1"}
    assert found.cannot_set == {Field.ECN}
    assert found.departures == {Departure.FRAME_SIZE, Departure.LENGTHS, Departure.OUTER_ECN}
    assert found.offloads


@pytest.mark.parametrize(
    "trial",
    [
        pytest.param(Trial(tunnels=True, dont_fragment=False), id="forgets it"),
        pytest.param(Trial(tunnels=True, words="No space left on device"), id="nobody knows"),
    ],
)
def test_a_kernel_that_is_not_known_to_know_df_cannot_set_it(trial: Trial) -> None:
    assert said(replace(GOOD, trial=trial)).cannot_set == {Field.ECN, Field.DF}


@pytest.mark.parametrize(
    ("findings", "guards", "tunnels", "words"),
    [
        pytest.param(
            replace(GOOD, trial=Trial(tunnels=False, words="Invalid argument (ice: no)")),
            {"rep0", "rep1"},
            set(),
            "no tunnels: Invalid argument (ice: no)",
            id="no tunnels",
        ),
        pytest.param(
            replace(GOOD, trial=Trial(tunnels=True, words="No space left on device")),
            {"rep0", "rep1"},
            BOTH,
            "could not be tried: No space left on device",
            id="not known",
        ),
        pytest.param(
            without("vxl0"),
            {"rep0", "rep1"},
            {(Encap.GENEVE, family) for family in Family},
            "there is no vxlan device vxl0",
            id="no tunnel device",
        ),
        pytest.param(
            without("vxl0", vxl0=SwitchNetdev(6, "vxl0", "geneve", udp_port=1)),
            {"rep0", "rep1"},
            {(Encap.GENEVE, family) for family in Family},
            "there is no vxlan device vxl0",
            id="a tunnel device of another kind",
        ),
        pytest.param(
            replace(GOOD, fabric=Fabric(geneve_port=16081)),
            {"rep0", "rep1"},
            {(Encap.VXLAN, family) for family in Family},
            "gen0 is for UDP port 6081, geneve goes to 16081 here",
            id="a tunnel device of another port",
        ),
        pytest.param(
            without("rep1"),
            {"rep0"},
            BOTH,
            "representor rep1 is not there",
            id="a late representor",
        ),
        pytest.param(
            without("rep1", new=SwitchNetdev(4, "new", switch="aa", port="pf0vf1")),
            {"rep0"},
            BOTH,
            "representor rep1 is not there; new stands for VF 1 now",
            id="renamed",
        ),
        pytest.param(
            without("rep1", rep1=SwitchNetdev(4, "rep1", switch="aa", port="pf0vf7")),
            {"rep0"},
            BOTH,
            "rep1 stands for pf0vf7, and not for VF 1 of PF 0",
            id="of another VF",
        ),
        pytest.param(
            without("rep1", rep1=SwitchNetdev(4, "rep1", switch="aa", port="pf1vf1")),
            {"rep0"},
            BOTH,
            "rep1 stands for pf1vf1, and not for VF 1 of PF 0",
            id="of another PF",
        ),
        pytest.param(
            without("rep1", rep1=SwitchNetdev(4, "rep1", switch="aa", port="p1")),
            {"rep0"},
            BOTH,
            "rep1 stands for p1, and not for VF 1 of PF 0",
            id="no representor",
        ),
        pytest.param(
            without(
                "rep1",
                rep0=SwitchNetdev(3, "rep0", switch="aa", port="pf1vf0"),
                foreign=SwitchNetdev(7, "foreign", switch="aa", port="pf0vf1"),
                new=SwitchNetdev(4, "new", switch="aa", port="pf1vf1"),
            ),
            {"rep0"},
            BOTH,
            "representor rep1 is not there; new stands for VF 1 now",
            id="renamed, of PF 1",
        ),
    ],
)
def test_what_is_missing_is_said(
    findings: Findings, guards: set[str], tunnels: set[tuple[Encap, Family]], words: str
) -> None:
    found = said(findings)
    assert set(found.guards) == guards
    assert found.tunnels == tunnels
    assert any(words in limit for limit in found.limits), found.limits
    assert found.obstacle == ""


@pytest.mark.parametrize("tunnels", [True, False])
def test_a_driver_that_counts_nothing_is_said_to(tunnels: bool) -> None:
    found = said(replace(GOOD, trial=Trial(tunnels=tunnels)))
    assert any("counts nothing" in limit for limit in found.limits) != tunnels
    assert found.counts == tunnels


def test_netdevs_without_a_switch_are_vlan_lanes() -> None:
    lanes = {name: replace(each, switch="", port="") for name, each in NETDEVS.items()}
    found = said(replace(GOOD, netdevs=lanes))
    assert "not in switchdev mode: rep0 is a VF, one end of a VLAN lane" in found.obstacle
    assert "mode switchdev" in found.obstacle


@pytest.mark.parametrize(
    "findings",
    [
        pytest.param(without("eth0"), id="not there"),
        pytest.param(without(eth0=SwitchNetdev(2, "eth0")), id="no port of a switch"),
        pytest.param(without(eth0=SwitchNetdev(2, "eth0", switch="bb", port="p0")), id="another's"),
    ],
)
def test_an_uplink_that_is_none_is_an_obstacle(findings: Findings) -> None:
    assert said(findings).obstacle == "eth0 is no port of its switch: correct switch.uplink"


@pytest.mark.parametrize(
    ("release", "trial", "stands"),
    [
        pytest.param((6, 1), Trial(tunnels=False, words="x"), True, id="published, old"),
        pytest.param((6, 8), Trial(tunnels=False, words="x"), False, id="published"),
        pytest.param((6, 1), Trial(tunnels=True), False, id="its maker's own"),
        pytest.param((6, 1), Trial(tunnels=True, words="x"), True, id="old, and nobody knows"),
        pytest.param(None, Trial(tunnels=False, words="x"), False, id="not the kernel's"),
    ],
)
def test_a_driver_that_loses_frames_is_an_obstacle_and_nothing_stays(
    release: tuple[int, int] | None, trial: Trial, stands: bool
) -> None:
    found = said(replace(GOOD, release=release, trial=trial))
    assert bool(found.obstacle) == stands
    assert not stands or "6.1 takes filters from VF to VF and loses their frames" in found.obstacle
    assert found.forwards == (not stands)
    wanted = desired(view(GENEVE4, [vf(1, GENEVE4)]))
    placed = entries(wanted)
    busy = SwitchView(found, rates=dict.fromkeys(placed, 1e6), held=placed)
    assert choose(wanted, busy, (), placed).placed == (frozenset() if stands else placed)


def foreign(preference: int, match: Match, *, in_hardware: bool) -> Found:
    theirs = Filter(Slot(3, preference, 7), ETH_P_ALL, match, (Redirect(9),), Skip.NOBODY)
    return Found(theirs, in_hardware, Counts())


MAC = "02:00:00:00:99:01"


@pytest.mark.parametrize(
    ("listing", "words"),
    [
        pytest.param(
            Listing((foreign(1, Match(MAC), in_hardware=True),)),
            "pref 1 handle 0x7 flower",
            id="any",
        ),
        pytest.param(
            Listing((foreign(1, Match(MAC, ethertype=ETH_P_IP), in_hardware=True),)),
            "pref 1",
            id="IP",
        ),
        pytest.param(
            Listing((foreign(1, Match(MAC, ethertype=0x88B5), in_hardware=True),)), "", id="no IP"
        ),
        pytest.param(
            Listing((foreign(1, Match(MAC), in_hardware=False),)), "", id="not in the device"
        ),
        pytest.param(
            Listing((foreign(IP_PREFERENCE, Match(MAC), in_hardware=False),)),
            f"pref {IP_PREFERENCE}",
            id="at ours",
        ),
        pytest.param(
            Listing((), {Slot(3, IP_PREFERENCE, 8): "u32"}),
            f"pref {IP_PREFERENCE} handle 0x8 u32",
            id="of another kind at ours",
        ),
        pytest.param(Listing((), {Slot(3, 100, 1): "bpf"}), "", id="eBPF's"),
        pytest.param(
            Listing(
                (foreign(9, Match(MAC), in_hardware=True), foreign(2, Match(MAC), in_hardware=True))
            ),
            "pref 2",
            id="of two the first",
        ),
    ],
)
@pytest.mark.parametrize("netdev", ["rep1", "gen0"])
def test_who_is_in_the_way_is_named_with_the_next_step(
    listing: Listing, words: str, netdev: str
) -> None:
    obstacle = said(replace(GOOD, listings={netdev: listing})).obstacle
    assert bool(obstacle) == bool(words)
    if words:
        assert obstacle.startswith(f"{netdev} is programmed by others: ingress {words}")
        assert f"tc filter del dev {netdev} ingress pref" in obstacle


def test_capacity_is_never_less_than_what_is_there() -> None:
    listing = Listing(tuple(foreign(n, Match(MAC), in_hardware=True) for n in range(1, 6)))
    (table,) = said(replace(GOOD, listings={"eth0": listing}, capacity=3)).tables
    assert (table.capacity, table.used, table.foreign) == (5, 5, 5)


# --- refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "words", "reason"),
    [
        (errno.ENOSPC, "ice: Unable to add filter due to error", Reason.TABLE_FULL),
        (errno.ENOSPC, "", Reason.TABLE_FULL),
        (errno.EIO, "ice: Unable to add filter due to error", Reason.UNSUPPORTED_MATCH),
        (errno.EOPNOTSUPP, "ice: Unsupported key used", Reason.UNSUPPORTED_MATCH),
        (errno.EOPNOTSUPP, "", Reason.UNSUPPORTED_MATCH),
        (errno.EINVAL, "ice: Bad IPv6, addr is LOOPBACK", Reason.UNSUPPORTED_MATCH),
        (errno.EINVAL, "ice: Unsupported action in switchdev mode", Reason.UNSUPPORTED_ENCAP),
        (errno.ENOENT, "Failed to load TC action module", Reason.UNSUPPORTED_ENCAP),
        (errno.ENOENT, "TC classifier not found", Reason.UNSUPPORTED_MATCH),
        (
            errno.EINVAL,
            "ice: Unable to add filter because it already exist",
            Reason.SWITCH_TAKEN,
        ),
        (errno.EEXIST, "", Reason.SWITCH_TAKEN),
        (
            errno.EINVAL,
            "Specified filter kind does not match existing one",
            Reason.SWITCH_TAKEN,
        ),
        (
            errno.EINVAL,
            "Filter with specified priority/protocol not found",
            Reason.SWITCH_TAKEN,
        ),
        (errno.ENODEV, "", Reason.NO_SWITCH_PORT),
        (errno.EINVAL, "Parent Qdisc doesn't exists", Reason.UNSUPPORTED_MATCH),
    ],
)
def test_a_refusal_is_a_reason_with_the_words_of_who_refused(
    number: int, words: str, reason: Reason
) -> None:
    said_so = reason_of(Refusal(number, words))
    assert said_so.startswith(f"{reason}: ")
    assert words in said_so
    assert is_full(Refusal(number, words)) == (number == errno.ENOSPC)
    assert not is_fatal(Refusal(number, words))


@pytest.mark.parametrize("number", [errno.EPERM, errno.EACCES])
def test_who_may_not_ask_need_not_ask_on(number: int) -> None:
    assert is_fatal(Refusal(number))
