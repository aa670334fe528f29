"""A real Open vSwitch furnished as the one of an Octeon 10 with three VFs, to be programmed.

It is made with the tools of Open vSwitch and iproute2 alone. Frames go in and come out at the
bridge's ports; a VF's TAP is an internal port here, which is a TAP, too.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.functional.overlay_switch import FIRST_NODE, Switch, in_netns, opened, running_ovs
from vendors.marvell.driver import MarvellPlace

BRIDGE, UP, CPU = "br-mrv0", "up", "cpu0"
VFS = ("vf0", "vf1", "vf2")
REPRESENTORS = ("rep0", "rep1", "rep2")
MISSES = {**dict(zip(VFS, REPRESENTORS, strict=True)), **dict(zip(REPRESENTORS, VFS, strict=True))}
MISSES |= {UP: CPU, CPU: UP}
DEVICE_COOKIE = 0xEE


class Device(Switch):
    """The bridge of a DPU, its ports and its misses."""

    def furnish_device(self) -> None:
        """Make the bridge with the DPU's VTEP addresses on its own port."""
        words = ["add-br", BRIDGE, "--", "set", "bridge", BRIDGE]
        words += ["datapath_type=netdev", "fail_mode=secure"]
        names = [*MISSES, "sent", "seen"]
        for name in names:
            words += ["--", "add-port", BRIDGE, name, "--", "set", "interface", name]
            words += ["type=internal"]
        for name, number in {"sent": 5001, "seen": 5002}.items():
            words += ["--", "set", "interface", name, f"ofport_request={number}"]
        self.sysctl("default", 1)
        self.configure(*words)
        self._furnish_again()

    def _furnish_again(self) -> None:
        names = [*MISSES, "sent", "seen"]
        for name in names:
            self.ip("link", "set", "dev", name, "up")
        self.sysctl(BRIDGE, 0)
        own4, own6 = f"{self.underlay.address4}/32", f"{self.underlay.address6}/128"
        self.ip("addr", "replace", own4, "dev", BRIDGE, "noprefixroute")
        self.ip("-6", "addr", "replace", own6, "dev", BRIDGE, "nodad", "noprefixroute")
        self.add_misses()
        self.sockets = in_netns(self.netns, lambda: {name: opened(name) for name in names})

    def add_misses(self) -> None:
        """Add what the device does by itself."""
        for source, target in MISSES.items():
            self.add(f"cookie={DEVICE_COOKIE},priority=0,in_port={source},actions=output:{target}")
        self.add("priority=65000,in_port=5001,actions=output:5002")

    def add(self, flow: str) -> None:
        """Add a flow by hand."""
        self.openflow("add-flow", BRIDGE, flow)

    def restart(self) -> None:
        """Let ovs-vswitchd crash and come back, with what the device does by itself."""
        self.close()
        self.ovs.kill_switch()
        self.ovs.start_switch()
        self._furnish_again()

    def limit(self, table: int, flows: int) -> None:
        """Limit a table, as real tables are."""
        self.configure(
            *("--", "--id=@t", "create", "Flow_Table", f"flow_limit={flows}"),
            *("--", "set", "bridge", BRIDGE, f"flow_tables:{table}=@t"),
        )

    def dumped(self) -> str:
        """Return all flows without what changes by itself."""
        return self.openflow("dump-flows", BRIDGE, "--no-stats", "--names")

    def others(self) -> list[str]:
        """Return the flows that do not carry the driver's cookie."""
        return sorted(line for line in self.dumped().splitlines() if "cookie=0x4d56" not in line)

    @property
    def place(self) -> MarvellPlace:
        """Return where the driver finds it."""
        socket = f"unix:{self.rundir}/{BRIDGE}.mgmt"
        vfs = dict(zip(REPRESENTORS, VFS, strict=True))
        return MarvellPlace(self.rundir, self.ovs.remote, socket, BRIDGE, UP, CPU, vfs)


@contextmanager
def running_device(directory: Path, options: tuple[str, ...] = ()) -> Iterator[Device]:
    """Provide a Device in ``directory``, in a namespace; ``options`` as of running_ovs."""
    with running_ovs(directory, options) as ovs:
        device = Device(ovs, FIRST_NODE)
        try:
            device.furnish_device()
            yield device
        finally:
            device.close()
