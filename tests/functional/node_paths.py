"""The paths of a node without an agent, each on the real thing: programs, and flows."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bpf.bpffs import Pins
from bpf.entries import EntryItem
from bpf.loader import load
from bpf.packet_path import FastPacketPath
from bpf.syscalls import open_map
from bpf.target import FastpathTarget
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import diff
from dataplane.core.path import Hop, Outcome
from overlay_ovs.packet_path import OvsPacketPath
from overlay_ovs.target import FlowsTarget
from ovs_client.ofctl import OpenFlowBridge
from ovs_client.unixctl import Unixctl
from tests.functional.bpf_support import Namespace, mounted_bpffs, namespace
from tests.functional.overlay_switch import Switch
from tests.unit.overlay_builders import NIC, VTEP4, VTEP6, bindings


class Machine:
    """A namespace with our programs on netdevs of a node's names."""

    def __init__(self, space: Namespace, pins: Pins) -> None:
        self.space, self.pins = space, pins
        self._target = FastpathTarget(pins)
        self._path = FastPacketPath(pins)

    def hold(self, state: Desired) -> None:
        names = self.space.netns.run(socket.if_nameindex)
        numbers = Bindings(ifindexes={name: ifindex for ifindex, name in names})
        wanted = self._target.render(state, numbers)
        self.space.netns.run(lambda: self._target.apply(diff(wanted, self._target.observe())))

    def ask(self, hop: Hop) -> Outcome:
        probe = hop.probe
        assert probe is not None
        return self.space.netns.run(lambda: self._path.outcome(probe))

    def put(self, item: EntryItem) -> None:
        with open_map(self.pins.map(item.map_name)) as opened:
            opened.update(item.map_key, item.value)

    def take(self, name: str, key: bytes) -> None:
        with open_map(self.pins.map(name)) as opened:
            opened.delete(key)

    def close(self) -> None:
        self._target.close()


@contextmanager
def running_machine(directory: Path, netdevs: Iterable[str]) -> Iterator[Machine]:
    """Provide a Machine with ``netdevs``, the NIC among them, and its maps below ``directory``."""
    with mounted_bpffs(directory / "bpf") as bpffs, namespace() as space:
        for netdev in netdevs:
            space.ip("link", "add", netdev, "type", "veth", "peer", "name", f"{netdev}-end"[-15:])
        space.ip("link", "set", NIC.name, "address", NIC.mac)
        made = Machine(space, load(bpffs))
        yield made
        made.close()


class Flows:
    """An Open vSwitch with what one Desired says."""

    def __init__(self, switch: Switch) -> None:
        self.switch = switch
        self._target = FlowsTarget(switch.rundir)
        self._path = OvsPacketPath(Unixctl(switch.rundir))

    def hold(self, state: Desired) -> None:
        for vtep in (*VTEP4, *VTEP6):
            self.switch.route(vtep)
        wanted = self._target.render(state, bindings(*state.segments.values()))
        self._target.apply(diff(wanted, self._target.observe()))

    def ask(self, hop: Hop) -> Outcome:
        assert hop.probe is not None
        return self._path.outcome(hop.probe)

    def change(self, bridge: str, table: int, part: str, actions: str | None) -> None:
        """Give the flow of ``table`` that has ``part`` in its match others, or none."""
        opened = OpenFlowBridge(self.switch.rundir / f"{bridge}.mgmt")
        (flow,) = (f for f in opened.dump_flows() if f.table == table and part in f.match)
        opened.apply_bundle([replace(flow, actions=actions)] if actions else (), [flow])
