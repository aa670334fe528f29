"""The switch of a Marvell Octeon 10, emulated: an Open vSwitch of its own with bridge and misses.

Its own software changes it as the DPU's does: ports by ovs-vsctl, flows by ovs-ofctl.
"""

from __future__ import annotations

import random
import signal
import socket
from contextlib import suppress
from functools import partial
from ipaddress import ip_interface
from pathlib import Path

from dataplane.core.errors import OverweaveError
from dataplane.netlink import addresses, links
from dataplane.netlink.links import LinkChange
from dataplane.netlink.netns import Netns
from dataplane.netlink.rtnl import Rtnl, within
from dataplane.netlink.sysctl import set_ipv6
from ovs_client import process
from ovs_client.daemons import OvsInstance, Place, find_program, run
from ovs_client.ofctl import Flow, OpenFlowBridge
from vendors.emulator.channel import Channel
from vendors.emulator.relay import Relay, open_port
from vendors.emulator.settings import OcteonConfig, named_port
from vendors.emulator.trouble import Trouble

SWITCH = "ovs-vswitchd"
MISS_COOKIE = 0x454D0000_00000000  # "EM" in ASCII: what the device does by itself
_NORMAL = Flow(0, 65535, "", "NORMAL", 0)  # as Marvell's own plugin leaves it
_CONF = Path("/proc/sys/net/ipv4/conf")
_NEVER = "8"  # ip-sysctl.rst, arp_ignore
_TOOL_S = 5


class Octeon:
    """The bridge with its ports, their cables, and what can go wrong with them."""

    def __init__(self, config: OcteonConfig, relay: Relay) -> None:
        """Listen for OpenFlow, and make nothing else yet. Raises OverweaveError."""
        self._config = config
        self._relay = relay
        self._ovs = OvsInstance(Place(config.ovs, config.run_dir / "log", config.netns))
        self._openflow = OpenFlowBridge(self.management)
        self.trouble = Trouble()
        self._channel = Channel(config.openflow, self.management, self.trouble)
        self._is_dead = False
        self._gone: set[str] = set()

    @property
    def management(self) -> Path:
        """Return the socket on which the bridge itself speaks OpenFlow."""
        return self._config.ovs / f"{self._config.bridge}.mgmt"

    def start(self) -> None:
        """Bring up what is not there, and plug every cable in. Raises OverweaveError."""
        with Netns(str(self._config.netns)) as space:
            space.run(_silence)
        self._ovs.start()
        self._furnish()
        self._channel.start()

    def stop(self) -> None:
        """End the Open vSwitch; the TAPs outside stay."""
        self._channel.stop()
        self._ovs.stop(cleanup=True)

    def supervise(self) -> None:
        """Start an ovs-vswitchd that has died again, as a device's supervisor does."""
        if not self._is_dead and not self._ovs.switch_running():
            self._ovs.start_switch()
            self._furnish()

    # --- faults --------------------------------------------------------------------------------

    def limit(self, table: str, rows: int) -> None:
        """Limit a table, by number: what is more is refused with OFPFMFC_TABLE_FULL."""
        bridge = self._config.bridge
        self._configure(
            *("--", "--id=@t", "create", "Flow_Table", f"flow_limit={rows}"),
            *("--", "set", "bridge", bridge, f"flow_tables:{int(table)}=@t"),
        )

    def reset(self) -> None:
        """Lose all that was programmed, as a device does that was reset."""
        bridge = self._config.bridge
        ours = {port.port for port in self._config.ports}
        for port in set(self._configure("list-ports", bridge).split()) - ours:
            self._configure("--if-exists", "del-port", bridge, port)
        self.kill()
        self.supervise()

    def kill(self) -> None:
        """End ovs-vswitchd as a crash would; it is started again at once."""
        self._resume()
        self._ovs.place.kill(SWITCH)

    def die(self) -> None:
        """End ovs-vswitchd for good, until ``revive``."""
        self._is_dead = True
        self.kill()

    def revive(self) -> None:
        """Start what has died, and go on with what hangs."""
        self._is_dead = False
        self._resume()
        self.supervise()

    def hang(self) -> None:
        """Stop ovs-vswitchd where it is: it answers nothing and forwards nothing."""
        self._signal(signal.SIGSTOP)

    def remove_port(self, port: str) -> None:
        """Take a port away."""
        self._relay.unplug(named_port(self._config, port).port)
        self._gone.add(port)
        self._configure("--if-exists", "del-port", self._config.bridge, port)

    def return_port(self, port: str) -> None:
        """Have a port back that was taken away."""
        self._gone.discard(named_port(self._config, port).port)
        self._furnish()

    def lose_one(self) -> str:
        """Delete one flow that is not the device's own, and return it; empty: there was none."""
        found = [flow for flow in self._openflow.dump_flows() if flow.cookie != MISS_COOKIE]
        if not found:
            return ""
        lost = random.choice(found)  # noqa: S311  # not a secret
        self._openflow.apply_bundle((), [lost])
        return str(lost)

    def take(self) -> None:
        """Have it programmed by somebody else: above all else, it learns and floods."""
        self._openflow.apply_bundle([_NORMAL], ())

    def clear(self) -> None:
        """End all faults; what was lost stays lost."""
        self.trouble.end()
        bridge = self._config.bridge
        self.revive()
        self._configure("clear", "bridge", bridge, "flow_tables")
        self._openflow.apply_bundle((), [_NORMAL])
        self._gone.clear()
        self._furnish()

    # --- how -----------------------------------------------------------------------------------

    def _furnish(self) -> None:
        """Make bridge, ports, addresses, misses and cables as the device has them."""
        config = self._config
        words = ["--may-exist", "add-br", config.bridge, "--", "set", "bridge", config.bridge]
        words += ["datapath_type=netdev", "fail_mode=secure"]
        present = [port for port in config.ports if port.port not in self._gone]
        for port in present:
            words += ["--", "--may-exist", "add-port", config.bridge, port.port]
            words += ["--", "set", "interface", port.port, "type=internal"]
            words += [f"mtu_request={config.mtu}"]
        self._configure(*words)
        with Netns(str(config.netns)) as space:
            within(space, self._address)
            for port in present:
                self._relay.plug(port, within(space, partial(_opened, port.port)))
        misses = [
            Flow(0, 0, f"in_port={self._number(source)}", self._output(target), MISS_COOKIE)
            for source, target in config.misses.items()
            if not {source, target} & self._gone
        ]
        self._openflow.apply_bundle(misses, ())

    def _address(self, rtnl: Rtnl) -> None:
        """Give the bridge's own port, which stays down, the DPU's VTEP addresses."""
        set_ipv6(self._config.bridge, "disable_ipv6", 0)
        ifindex = _netdev(rtnl, self._config.bridge).ifindex
        for address in self._config.addresses:
            addresses.replace(rtnl, ifindex, ip_interface(address), prefix_route=False)

    def _configure(self, *words: str) -> str:
        tool = [find_program("ovs-vsctl"), f"--db={self._ovs.remote}", f"--timeout={_TOOL_S}"]
        return run([*tool, *words])

    def _output(self, port: str) -> str:
        return f"output:{self._number(port)}"

    def _number(self, port: str) -> str:
        return self._configure("get", "interface", port, "ofport").strip()

    def _resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        pid = self._ovs.place.pid(SWITCH)
        if pid is not None:
            with suppress(ProcessLookupError), process.Process(pid) as held:
                held.signal(number)


def _silence() -> None:
    """Have the stack of this namespace say nothing at the ports: a device's tables do not."""
    set_ipv6("default", "disable_ipv6", 1)
    (_CONF / "all" / "arp_ignore").write_text(_NEVER)


def _opened(port: str, rtnl: Rtnl) -> socket.socket:
    links.change(rtnl, _netdev(rtnl, port).ifindex, LinkChange(up=True))
    return open_port(port)


def _netdev(rtnl: Rtnl, name: str) -> links.Netdev:
    found = links.find(rtnl, name)
    if found is None:
        raise OverweaveError(f"ovs-vswitchd has made no netdev {name}; see its log")
    return found
