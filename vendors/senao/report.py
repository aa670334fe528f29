"""What the device says it can do, and how full it is. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from dataplane.core.agreement import Field
from dataplane.core.capability import Capability, Departure, Part, Table
from dataplane.core.model import Encap, Fabric, Family, Guard
from dataplane.netlink.devlink import Eswitch, Mode
from dataplane.netlink.flower import ETH_P_ALL, ETH_P_IP, ETH_P_IPV6, Found, Listing, Skip
from dataplane.netlink.switchdev import SwitchNetdev
from dataplane.netlink.tc import Slot
from vendors.senao.assumptions import ASSUMPTIONS
from vendors.senao.pipeline import PREFERENCES, TABLE, Tunnel, Wiring, is_ours

VENDOR, PRODUCT = "senao", "Senao SX904"
DEPARTURES = frozenset(  # each with its source in the README
    {Departure.FRAME_SIZE, Departure.LENGTHS, Departure.OUTER_ECN}
)
_ROWS: Mapping[Part, int] = {Part.WAY: 1, Part.ARRIVAL: 1}
_OUR_PLACES = frozenset(PREFERENCES.values())
_REPRESENTOR = re.compile(r"pf(\d+)vf(\d+)")
_FORWARDS_BETWEEN = (6, 8)  # ice before takes filters from VF to VF, and then loses the frames
_LIMITS = (
    "IPv6 with a hop limit above 127 stays in software: no key tells ND apart, which has 255",
    "its driver does not say how many filters it takes",
)
_COUNTS_NOTHING = (
    "a driver without tunnels, as Intel's own, counts nothing: what is placed ranks by what it"
    " forwarded before, half of that every 2 minutes"
)


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of a filter that was tried: whether the device has tunnels, for all that is known.

    ``words`` are those of who refused it, which may be about something else. ``dont_fragment``: the
    kernel is known to know DF of an outer header.
    """

    tunnels: bool
    words: str = ""
    dont_fragment: bool = False


@dataclass(frozen=True, slots=True)
class Nic:
    """The NIC's embedded switch, None: devlink told of none; ``fault``: in whose words not."""

    eswitch: Eswitch | None = None
    fault: str = ""

    @property
    def is_legacy(self) -> bool:
        """Say whether it is known that it switches nothing."""
        return self.eswitch is not None and self.eswitch.mode is Mode.LEGACY


@dataclass(frozen=True, slots=True)
class Findings:
    """What was found: netdevs, filters by netdev, and how many the table takes at most.

    ``release`` is the kernel's; None: its driver is not Intel's for sure. ``fabric`` says which UDP
    ports tunnels go to; None: it is not known yet.
    """

    netdevs: Mapping[str, SwitchNetdev]
    listings: Mapping[str, Listing]
    trial: Trial
    capacity: int
    release: tuple[int, int] | None = None
    fabric: Fabric | None = None
    nic: Nic = Nic()  # a frozen one


def capability(findings: Findings, wiring: Wiring, *, emulated: bool) -> Capability:
    """Return what can be placed in this device."""
    held = [found for each in findings.listings.values() for found in each.found]
    ours = sum(map(is_ours, held))
    foreign = sum(found.in_hardware and not is_ours(found) for found in held)
    unfit = Encap if not findings.trial.tunnels else _unfit(findings, wiring)
    tunnels = usable(findings.netdevs, wiring).keys() - set(unfit)
    loses = _loses(findings, wiring)
    # Without ports nothing stays placed: what an obstacle alone leaves there would lose frames.
    there = () if loses else ports(findings.netdevs, wiring)
    cannot_set = {Field.ECN} if findings.trial.dont_fragment else {Field.ECN, Field.DF}
    return Capability(
        vendor=VENDOR,
        product=PRODUCT,
        tunnels=frozenset((encap, family) for encap in tunnels for family in Family),
        guards={name: frozenset(Guard) for name in there},
        tables=(
            Table(TABLE, max(findings.capacity, ours + foreign), ours + foreign, foreign, _ROWS),
        ),
        cannot_set=frozenset(cannot_set),
        departures=DEPARTURES,
        assumptions=ASSUMPTIONS,
        limits=tuple(_limits(findings, wiring)),
        obstacle=_mode(findings, wiring) or loses or _foreign(findings, wiring),
        forwards=not loses,
        offloads=wiring.skip is Skip.KERNEL,
        counts=findings.trial.tunnels,
        emulated=emulated,
        rows=ours,
    )


def ports(netdevs: Mapping[str, SwitchNetdev], wiring: Wiring) -> tuple[str, ...]:
    """Return the representors that are there and stand for the VF that they are said to.

    Without a device (``skip``) there are none, and any netdev will do.
    """
    return tuple(
        name
        for number, name in enumerate(wiring.representors)
        if name in netdevs
        and (wiring.skip is not Skip.KERNEL or _is_of(netdevs[name], number, _pf(netdevs, wiring)))
    )


def _pf(netdevs: Mapping[str, SwitchNetdev], wiring: Wiring) -> int | None:
    """Return which PF the VFs are of: that of the first representor that is there."""
    there = (_vf(netdevs[name]) for name in wiring.representors if name in netdevs)
    return next((found[0] for found in there if found), None)


def _vf(netdev: SwitchNetdev) -> tuple[int, int] | None:
    """Return the PF, and the VF of it, that a netdev stands for; None: it is no representor."""
    found = _REPRESENTOR.fullmatch(netdev.port)
    return (int(found[1]), int(found[2])) if found else None


def _is_of(netdev: SwitchNetdev, number: int, pf: int | None) -> bool:
    """Say whether a netdev stands for a VF of a PF; None: of whichever."""
    found = _vf(netdev)
    return found is not None and found[1] == number and pf in (None, found[0])


def usable(netdevs: Mapping[str, SwitchNetdev], wiring: Wiring) -> dict[Encap, Tunnel]:
    """Return the tunnel devices that are there and of the right kind, with their UDP ports."""
    named = ((encap, netdevs.get(each.netdev)) for encap, each in wiring.tunnels.items())
    there = {encap: netdev for encap, netdev in named if netdev and netdev.kind == encap}
    return {encap: Tunnel(netdev.name, netdev.udp_port) for encap, netdev in there.items()}


def _unfit(findings: Findings, wiring: Wiring) -> dict[Encap, str]:
    """Return which tunnel devices are for another UDP port than the fabric's."""
    there, fabric = usable(findings.netdevs, wiring), findings.fabric
    whys = {encap: each.why_unfit(encap, fabric) if fabric else "" for encap, each in there.items()}
    return {encap: why for encap, why in whys.items() if why}


def _limits(findings: Findings, wiring: Wiring) -> Iterator[str]:
    yield from _LIMITS
    yield from _told_by_devlink(findings.nic)
    if not findings.trial.tunnels:
        yield _COUNTS_NOTHING
    if words := findings.trial.words:
        known = (
            "that it encapsulates could not be tried" if findings.trial.tunnels else "no tunnels"
        )
        yield f"{known}: {words}"
    for encap, tunnel in wiring.tunnels.items():
        if encap not in usable(findings.netdevs, wiring):
            yield f"there is no {encap} device {tunnel.netdev}: Open vSwitch makes it with its port"
    yield from _unfit(findings, wiring).values()
    yield from _missing(findings.netdevs, wiring)


def _told_by_devlink(nic: Nic) -> Iterator[str]:
    if nic.eswitch is not None:
        yield f"eswitch mode of {nic.eswitch.handle}: {nic.eswitch.mode}"
    if nic.fault:
        yield nic.fault


def _missing(netdevs: Mapping[str, SwitchNetdev], wiring: Wiring) -> Iterator[str]:
    """Yield which representors are not there, or stand for others than they are said to."""
    pf = _pf(netdevs, wiring)
    for number, name in enumerate(wiring.representors):
        netdev = netdevs.get(name)
        if netdev is None:
            other = [each.name for each in netdevs.values() if _is_of(each, number, pf)]
            called = f"; {other[0]} stands for VF {number} now" if other else ""
            yield f"representor {name} is not there{called}"
        elif netdev.switch and name not in ports(netdevs, wiring):
            of = "" if pf is None else f" of PF {pf}"
            yield f"{name} stands for {netdev.port or 'no VF'}, and not for VF {number}{of}"


def _mode(findings: Findings, wiring: Wiring) -> str:
    """Return why nothing can be placed in this mode of the device."""
    if wiring.skip is not Skip.KERNEL:
        return ""
    there = [findings.netdevs[n] for n in wiring.representors if n in findings.netdevs]
    lanes = there if not any(netdev.switch for netdev in there) else []
    if findings.nic.is_legacy or lanes:
        return _why_no_switch(findings.nic, lanes)
    uplink = findings.netdevs.get(wiring.uplink)
    if there and (uplink is None or uplink.switch not in {netdev.switch for netdev in there}):
        return f"{wiring.uplink} is no port of its switch: correct switch.uplink"
    return ""


def _why_no_switch(nic: Nic, lanes: Sequence[SwitchNetdev]) -> str:
    """Return that the NIC is in VLAN-lane mode, as the card is shipped, and what would change it.

    ``lanes`` are the VFs that are there.
    """
    named = f"{lanes[0].name} is a VF, one end of a VLAN lane to the host; " if lanes else ""
    handle = nic.eswitch.handle if nic.eswitch else "pci/..."
    asked = f" ({nic.fault})" if nic.fault else ""
    return (
        f"its NIC is not in switchdev mode{asked}: {named}devlink dev eswitch set {handle} mode"
        " switchdev makes it a switch, while it has no VFs, and so does switch.switchdev"
    )


def _loses(findings: Findings, wiring: Wiring) -> str:
    """Return why filters lose their frames; only tunnels that it has taken say it is another's."""
    release, trial = findings.release, findings.trial
    if wiring.skip is not Skip.KERNEL or release is None or release >= _FORWARDS_BETWEEN:
        return ""
    if trial.tunnels and not trial.words:
        return ""
    return (
        f"Linux {release[0]}.{release[1]} takes filters from VF to VF and loses their frames:"
        f" its ice driver needs {_FORWARDS_BETWEEN[0]}.{_FORWARDS_BETWEEN[1]}"
    )


def _foreign(findings: Findings, wiring: Wiring) -> str:
    """Return which filter of others gets, or keeps from us, what our filters are for."""
    for netdev in wiring.hooks:
        listing = findings.listings.get(netdev, Listing(()))
        at = [each for each in listing.found if not is_ours(each) and _is_in_the_way(each)]
        slots = {each.filter.slot: "flower" for each in at}
        slots |= {slot: k for slot, k in listing.others.items() if slot.preference in _OUR_PLACES}
        if slots:
            slot, kind = min(slots.items(), key=lambda each: _order(each[0]))
            return (
                f"{netdev} is programmed by others: ingress pref {slot.preference} handle"
                f" {slot.handle:#x} {kind}; remove it to have entries placed:"
                f" tc filter del dev {netdev} ingress pref {slot.preference}"
            )
    return ""


def _is_in_the_way(found: Found) -> bool:
    """Say whether a filter of others may be for a frame that one of ours is for.

    The device looks at no preference, and takes any of two that match.
    """
    if found.filter.slot.preference in _OUR_PLACES:
        return True
    ethertype = found.filter.match.ethertype
    return found.in_hardware and ethertype in (None, 0, ETH_P_ALL, ETH_P_IP, ETH_P_IPV6)


def _order(slot: Slot) -> tuple[int, int]:
    return slot.preference, slot.handle
