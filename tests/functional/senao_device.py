"""An emulated Senao SX904 with three VFs, and what a test does to it past the driver."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dataplane.core.model import Encap
from dataplane.netlink.exchange import unix_socket
from tests.functional.emulated_switch import VFS, EmulatedSx904, ThreeVfs, emulated_switch, run
from tests.functional.rtnl_client import client
from tests.unit.overlay_builders import NIC
from tests.unit.rtnl_by_hand import (
    DELTFILTER,
    GETLINK,
    SKIP_SW,
    actions,
    attributes,
    clsact,
    dump,
    flags,
    gact,
    keys,
    new_filter,
    one_filter,
)
from vendors.senao.driver import Limits, SenaoSwitch
from vendors.senao.pipeline import Tunnel, Wiring

REPRESENTORS = tuple(f"rep{number}" for number in range(VFS))
TUNNELS = {Encap.GENEVE: Tunnel("genev_sys_6081"), Encap.VXLAN: Tunnel("vxlan_sys_4789")}
WIRING = Wiring(REPRESENTORS, TUNNELS, "eth0")
MOST = 4096
_OURS = b"overweave"
_NOT_IP, _SHOT, _PREF = 0x88B5, 2, 7


class Device(ThreeVfs, EmulatedSx904):
    """The device of the contract's tests; ``tunnels`` False: as the published driver has it."""

    has_tunnels = True

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "tunnels": self.has_tunnels}

    def driver(self) -> SenaoSwitch:
        """Return a driver that speaks to it."""
        return SenaoSwitch(unix_socket(self.rtnetlink), WIRING, Limits(MOST), emulated=True)

    def netdevs(self) -> dict[str, int]:
        """Return the numbers of its netdevs."""
        with client(self.rtnetlink) as made:
            answers = made.dump(dump(GETLINK))
        found = ((attributes(a.body[16:])[3], a.body[4:8]) for a in answers)
        return {name.rstrip(b"\0").decode(): struct.unpack("=i", at)[0] for name, at in found}

    def filters(self, *, ours: bool) -> list[tuple[str, int, int, bytes]]:
        """Return netdev, pref, handle and keys of the filters that are ours, or not."""
        found = []
        numbers = self.netdevs()
        with client(self.rtnetlink) as made:
            for name in (*REPRESENTORS, *(tunnel.netdev for tunnel in TUNNELS.values())):
                if name not in numbers:
                    continue
                for each in made.filters(numbers[name]):
                    cookie = each.actions[0].get(6, b"") if each.actions else b""
                    if cookie.startswith(_OURS) == ours:
                        options = {k: v for k, v in each.options.items() if k not in (3, 86)}
                        found.append((name, each.pref, each.handle, repr(options).encode()))
        return sorted(found)

    @contextmanager
    def standing(self, netdev: str) -> Iterator[None]:
        """Have a filter of somebody else stand at ``netdev``, for frames that are no IP."""
        number = self.netdevs()[netdev]
        options = keys(eth_dst="02:00:00:00:99:01", eth_type=_NOT_IP)
        options += actions(gact(_SHOT)) + flags(SKIP_SW)
        with client(self.rtnetlink) as made:
            made.ask(clsact(number))
            made.do(new_filter(number, options, pref=_PREF))
            try:
                yield
            finally:
                made.do(one_filter(DELTFILTER, number, _PREF))

    def furnish(self, hops: dict[str, str]) -> None:
        """Give the card's kernel its uplink's MAC, and next hops that it need not ask for.

        It has no address, so that it answers nothing of what reaches it.
        """
        space = self.names["dpu"]
        quiet = [f"net.ipv6.conf.eth0.{each}" for each in ("addr_gen_mode=1", "disable_ipv6=0")]
        run("ip", "netns", "exec", space, "sysctl", "-qw", *quiet)
        inside = ("ip", "-n", space)
        run(*inside, "link", "set", "eth0", "address", NIC.mac)
        run(*inside, "route", "add", "192.0.2.0/24", "dev", "eth0")
        run(*inside, "-6", "route", "add", "2001:db8::/64", "dev", "eth0")
        for address, mac in hops.items():
            words = ("lladdr", mac, "dev", "eth0", "nud", "permanent")
            run(*inside, "neighbour", "replace", address, *words)
        time.sleep(0.6)  # what it has heard of the kernel counts half a second


@contextmanager
def running_device(directory: Path, *, tunnels: bool = True) -> Iterator[Device]:
    """Provide a Device in ``directory``."""
    kind: type[Device] = type("Device", (Device,), {"has_tunnels": tunnels})
    with emulated_switch(kind, directory) as device:
        yield device
