"""Target "ovs-ports": our bridges and their ports, in the database of Open vSwitch.

Rows carry the node's name in external_ids. What does not carry it is never touched: a bridge or
port of somebody else under one of our names is an error that says so.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from dataplane.core.desired import Bindings, Datapath, Desired
from dataplane.core.diff import Change, Pending, Rendering
from dataplane.core.errors import PartlyRefusedError, TargetError
from dataplane.core.events import Link
from dataplane.core.model import Encap
from dataplane.netlink import udp
from overlay_ovs.flows import TUNNEL_PORTS, UNDERLAY_PORT
from overlay_ovs.tables import INTEGRATION_BRIDGE, UNDERLAY_BRIDGE
from ovs_client.errors import DatabaseError
from ovs_client.unixctl import Unixctl, UnixctlError
from ovs_client.vswitch import OWNER_KEY, Bridge, Port, VSwitch

# Pods take 100 and above (core.model.FIRST_SLOT_OFPORT).
_OFPORTS = {TUNNEL_PORTS[Encap.GENEVE]: 1, TUNNEL_PORTS[Encap.VXLAN]: 2, UNDERLAY_PORT: 1}
_FROM_NIC = (UNDERLAY_BRIDGE, UNDERLAY_PORT)
_NIC_SCOPE = 0  # no segment has VNI 0: held while the NIC is not known
# Those of tunnels over UDP that name none (ovs-vswitchd.conf.db(5), options:dst_port).
_UDP_PORTS = {"geneve": "6081", "vxlan": "4789"}
_TYPES = {Datapath.USERSPACE: "netdev", Datapath.KERNEL: "system"}


@dataclass(frozen=True, slots=True)
class Configured:
    """A bridge or port as an item of the diff."""

    value: Bridge | Port

    @property
    def scope(self) -> int | None:
        """Return the scope that is held while the NIC is unknown, for what copies from it."""
        return _NIC_SCOPE if self.value.name in _FROM_NIC else None


class PortsTarget:
    """The bridges and ports that ``vswitch`` holds for ``node``; the switch itself acts on them.

    ``unixctl`` asks it whether it runs.
    """

    name = "ovs-ports"
    deadline_s = 10.0
    bound_by = frozenset({"nic"})

    def __init__(self, vswitch: VSwitch, unixctl: Unixctl, node: str) -> None:
        self._vswitch = vswitch
        self._unixctl = unixctl
        self._node = node

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        marks, datapath = {OWNER_KEY: self._node}, desired.node.datapath
        values: list[Bridge | Port] = [
            _bridge(INTEGRATION_BRIDGE, datapath, marks),
            *_tunnel_ports(desired, marks),
            *_pod_ports(desired, marks),
        ]
        if datapath is Datapath.KERNEL:
            return Rendering(_items(values))  # its tunnels send and receive by themselves
        if bindings.nic is None:
            waiting = Pending(UNDERLAY_BRIDGE, f"no link {desired.node.underlay_interface} yet")
            return Rendering(_items(values), (waiting,), frozenset({_NIC_SCOPE}))
        return Rendering(_items([*values, *_underlay(bindings.nic, marks)]))

    def observe(self) -> Mapping[Hashable, Configured]:
        """Return what is ours, but a tunnel whose UDP port somebody else's has, too.

        So each look leads to an apply, which says so.
        """
        self._check_connected()
        bridges, ports = self._vswitch.bridges(), self._vswitch.ports().values()
        theirs = {_socket(port, bridges) for port in ports if not self._owns(port)} - {None}
        ours = [port for port in ports if self._owns(port) and _socket(port, bridges) not in theirs]
        return _items(
            [
                *(each for each in bridges.values() if self._owns(each)),
                # A bridge has a port of its own name, which comes and goes with it.
                *(port for port in ours if port.name != port.bridge),
            ]
        )

    def apply(self, change: Change) -> None:
        """Make ``change``; raises PartlyRefusedError for a tunnel whose UDP port is another's."""
        self._check_connected()
        wanted = [item.value for item in (*change.add.values(), *change.update.values())]
        gone = [item.value for item in change.remove.values()]
        self._check_names(wanted)
        bridges = {each.name: each for each in wanted if isinstance(each, Bridge)}
        self._check_devices_go(bridges, _names(gone, Bridge))
        ports = {each.name: each for each in wanted if isinstance(each, Port)}
        taken = self._taken({**self._vswitch.bridges(), **bridges}, ports.values())
        try:
            self._vswitch.delete(_names(gone, Bridge), _names(gone, Port))
            self._vswitch.ensure(
                bridges.values(), (port for name, port in ports.items() if name not in taken)
            )
        except DatabaseError as error:
            raise TargetError(str(error)) from error
        if taken:
            raise PartlyRefusedError("; ".join(taken.values()), taken, standing=True)

    def _owns(self, value: Bridge | Port) -> bool:
        return value.external_ids.get(OWNER_KEY) == self._node

    def _check_connected(self) -> None:
        if self._vswitch.error is not None:
            raise TargetError(f"{self._vswitch.error}; start ovsdb-server, or correct its address")

    def _check_names(self, wanted: Iterable[Bridge | Port]) -> None:
        held: dict[str, Bridge | Port] = {**self._vswitch.ports(), **self._vswitch.bridges()}
        for value in wanted:
            holder = held.get(value.name)
            if holder is not None and not self._owns(holder):
                kind = "bridge" if isinstance(holder, Bridge) else f"port of {holder.bridge}"
                owner = holder.external_ids.get(OWNER_KEY)
                whose = f"belongs to node {owner}" if owner else "is not ours"
                raise TargetError(
                    f"{kind} {value.name} exists and {whose} (external_ids:{OWNER_KEY} is not"
                    f" {self._node}): remove or rename it, or give this node an Open vSwitch"
                    " of its own"
                )

    def _check_devices_go(self, wanted: Mapping[str, Bridge], gone: Iterable[str]) -> None:
        """Require ovs-vswitchd where devices of a bridge have to go, with it or for another type.

        One that does not run leaves them, forgets them, and cannot make those of the other type
        beside them ("File exists") when it starts.
        """
        present = self._vswitch.bridges()
        going = [f"bridge {name} cannot go" for name in gone if name in present]
        going += [
            f"bridge {name} cannot change from {present[name].datapath_type} to"
            f" {bridge.datapath_type}"
            for name, bridge in wanted.items()
            if name in present and present[name].datapath_type != bridge.datapath_type
        ]
        if not going:
            return
        try:
            self._unixctl.call("version")
        except UnixctlError as error:
            raise TargetError(
                f"{', '.join(going)}: {error}; start ovs-vswitchd first: it alone takes its old"
                " devices away"
            ) from error

    def _taken(self, bridges: Mapping[str, Bridge], wanted: Iterable[Port]) -> dict[Hashable, str]:
        """Return which of our tunnels cannot have their UDP port, and whose that is."""
        found = {
            port.name: (socket, self._holder(socket, bridges))
            for port in wanted
            if (socket := _socket(port, bridges)) is not None
        }
        return {
            name: f"{name}: UDP port {socket.number} is held by {holder}, which is not ours; give"
            " the fabric another one (kind: Fabric)"
            for name, (socket, holder) in found.items()
            if holder is not None
        }

    def _holder(self, socket: _Socket, bridges: Mapping[str, Bridge]) -> str | None:
        """Return who else has the socket that a tunnel of ours is to have, or has.

        Open vSwitch would share one of its own, and give a packet to the port that names its
        sender. In the kernel it may be anybody's.
        """
        for port in self._vswitch.ports().values():
            if not self._owns(port) and _socket(port, bridges) == socket:
                return f"port {port.name} of bridge {port.bridge}"
        is_kernels = socket.datapath == _TYPES[Datapath.KERNEL]
        return udp.holder(socket.number) if is_kernels else None


class _Socket(NamedTuple):
    """Where a tunnel receives: the type of its bridge's datapath, and the UDP port."""

    datapath: str
    number: int


def _socket(port: Port, bridges: Mapping[str, Bridge]) -> _Socket | None:
    """Return where ``port`` receives; None: it is no tunnel over UDP."""
    bridge = bridges.get(port.bridge)
    if bridge is None or port.type not in _UDP_PORTS:
        return None
    number = port.options.get("dst_port", _UDP_PORTS[port.type])
    if not number.isdecimal():
        return None  # somebody else's: Open vSwitch takes any text
    return _Socket(bridge.datapath_type or _TYPES[Datapath.KERNEL], int(number))


def _items(values: Iterable[Bridge | Port]) -> dict[Hashable, Configured]:
    return {(type(value).__name__, value.name): Configured(value) for value in values}


def _names(values: Iterable[Bridge | Port], kind: type[Bridge | Port]) -> list[str]:
    return [value.name for value in values if isinstance(value, kind)]


def _bridge(name: str, datapath: Datapath, marks: Mapping[str, str], mac: str = "") -> Bridge:
    config = {"hwaddr": mac} if mac else {}
    return Bridge(name, _TYPES[datapath], "secure", other_config=config, external_ids=marks)


def _tunnel_ports(desired: Desired, marks: Mapping[str, str]) -> Iterator[Port]:
    """Yield one port per encapsulation; flows choose VTEP, family and VNI.

    With the kernel's datapath our own address, too: the kernel would choose by its routes.
    """
    chosen = {"remote_ip": "flow", "key": "flow"}
    if desired.node.datapath is Datapath.KERNEL:
        chosen["local_ip"] = "flow"
    for encap, name in TUNNEL_PORTS.items():
        number = str(desired.fabric.port(encap))
        yield Port(
            name,
            INTEGRATION_BRIDGE,
            encap.value,
            options={**chosen, "dst_port": number},
            ofport_request=_OFPORTS[name],
            external_ids=marks,
        )


def _pod_ports(desired: Desired, marks: Mapping[str, str]) -> Iterator[Port]:
    """Yield the internal port that each attachment is glued to, blocked or not."""
    mtus = desired.link_mtus
    for port in desired.ports:
        yield Port(
            port.attachment.ovs_port,
            INTEGRATION_BRIDGE,
            "internal",
            ofport_request=port.attachment.ofport,
            mtu_request=mtus[port.attachment.slot],
            external_ids=marks,
        )


def _underlay(nic: Link, marks: Mapping[str, str]) -> tuple[Bridge, Port]:
    """Return the bridge with the NIC's MAC and its one port, as large as the NIC's frames."""
    return (
        _bridge(UNDERLAY_BRIDGE, Datapath.USERSPACE, marks, nic.mac),
        Port(
            UNDERLAY_PORT,
            UNDERLAY_BRIDGE,
            "internal",
            ofport_request=_OFPORTS[UNDERLAY_PORT],
            mtu_request=nic.mtu,
            external_ids=marks,
        ),
    )
