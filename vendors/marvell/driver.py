"""Switch "marvell": the DPU's own Open vSwitch, over OpenFlow, OVSDB and its control socket."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

from dataplane.contracts import Clock
from dataplane.core.capability import Capability
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import Change, Item, Rendering
from dataplane.core.errors import TargetError
from dataplane.core.model import EntryKey, IpAddress, Mac, Vni
from dataplane.core.placement import Traffic
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import SWITCH_TARGET
from ovs_client import process, tunnel_routes
from ovs_client.database import Tls
from ovs_client.errors import DatabaseError
from ovs_client.ofctl import Flow, OpenFlowBridge, OpenFlowError, Refusal
from ovs_client.tunnel_routes import TunnelNeighbour, UserRoute
from ovs_client.unixctl import Unixctl, UnixctlError
from ovs_client.vswitch import OWNER_KEY, Port, VSwitch
from vendors.fit import Fit, check_refused, fit, without
from vendors.marvell.pipeline import (
    FORWARD,
    MARK_BACK,
    MARK_OUT,
    MISS,
    TUNNEL_PORTS,
    Category,
    Neighbour,
    Route,
    Row,
    TunnelPort,
    Wiring,
    category,
    from_device,
    is_ours,
    ports_of,
    to_device,
    vni_of,
)
from vendors.marvell.report import Findings, capability
from vendors.marvell.rows import render_rows

_TABLE_FULL = "OFPFMFC_TABLE_FULL"  # OpenFlow 1.4, section 7.4.4
_ALIVE_S = 0.7  # within this a live ovs-vswitchd answers, however busy (contracts, Switch.ping)
_COMMAND_S = 2.0
_OPENFLOW_S = 5.0
_PORT_S = 3.0  # ovs-vswitchd makes a tunnel port in milliseconds
_REFRESH_S = 20.0  # below the worker's period: each of its looks finds what ages due
_MOST_REFUSALS = 32  # of one change; each costs a bundle
_OFFLOADED_S = 60.0  # to count them it walks through all its flows


@dataclass(frozen=True, slots=True)
class MarvellPlace:
    """Where the DPU's Open vSwitch is, and what its bridge's ports are.

    ``database`` and ``openflow`` are remotes; ``tls`` is needed for ``ssl:``. The control socket
    in ``rundir`` is of this machine. ``vfs`` are the bridge's ports by the name of the representor
    behind which the DPU sees them.
    """

    rundir: Path
    database: str
    openflow: str
    bridge: str
    uplink: str
    cpu: str
    vfs: Mapping[str, str]
    tls: Tls | None = None

    def wiring(self, node: str) -> Wiring:
        """Return what the rows need to know."""
        return Wiring(self.bridge, self.uplink, self.cpu, self.vfs, node)


class MarvellSwitch:
    """The bridge at ``place``; rows, ports and routes of others stay. Call close() in the end."""

    name = SWITCH_TARGET
    deadline_s = 15.0  # a look at one that takes the whole time for each answer: 14.5 s
    bound_by = frozenset({"nic", "next_hops", "placed"})

    def __init__(
        self, place: MarvellPlace, node: str, clock: Clock, *, emulated: bool = False
    ) -> None:
        self._place = place
        self._emulated = emulated
        self._clock = clock
        self._node = node
        self._wiring = place.wiring(node)
        self._probe = Unixctl(place.rundir, _ALIVE_S)
        self._unixctl = Unixctl(place.rundir, _COMMAND_S)
        self._openflow = OpenFlowBridge(place.openflow, _OPENFLOW_S, place.tls)
        self._vswitch = VSwitch(place.database, frozenset({place.bridge}), place.tls)
        self._vswitch.start()
        self._set_at: dict[IpAddress, float] = {}  # neighbours age, and nobody tells
        self._until = 0.0
        self._offloaded: int | None = None
        self._offloaded_at: float | None = None

    def close(self) -> None:
        """Let go of the device; what is placed stays."""
        self._vswitch.stop()

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        return render_rows(desired, bindings, self._wiring)

    def observe(self) -> Mapping[Hashable, Item]:
        with self._asking():
            numbers, mac = self._numbers(), self._local_mac()
            names = {number: name for name, number in numbers.items()}
            self._check_holder()
            rows = (
                Row(from_device(flow, names, mac))
                for flow in self._openflow.dump_flows()
                if is_ours(flow)
            )
            found: dict[Hashable, Item] = {row.key: row for row in rows}
            found |= {("port", port.name): TunnelPort(port) for port in self._tunnel_ports()}
            found |= {route.key: route for route in self._routes() if _is_used(route, found)}
            found |= {each.key: each for each in self._neighbours()}
            return found

    def apply(self, change: Change) -> None:
        wanted = [*change.add.values(), *change.update.values()]
        gone = list(change.remove.values())
        self._until = self._clock() + self.deadline_s - _OPENFLOW_S
        with self._asking():
            self._check_holder()
            ports = [item.port for item in wanted if isinstance(item, TunnelPort)]
            self._vswitch.ensure(ports=ports)
            self._await_ports([port.name for port in ports])
            self._set(wanted)
            refused = self._place_rows(change)
            self._remove(gone)
        check_refused(self.name, refused)

    def ping(self) -> None:
        try:
            self._probe.call("version")
        except UnixctlError as error:
            raise _down(error) from error

    def describe(self) -> Capability:
        with self._asking():
            flows = self._openflow.dump_flows()
            names = {number: name for name, number in self._numbers().items()}
            mac = self._local_mac()
            findings = Findings(
                flows=tuple(
                    each if is_ours(each) else from_device(each, names, mac) for each in flows
                ),
                limits=self._openflow.table_limits(),
                ports=frozenset(names.values()),
                addresses=tuple(tunnel_routes.local_addresses(self._unixctl, self._place.bridge)),
                offloaded=self._count_offloaded(),
                others=self._count_others(),
                holder=self._holder(),
            )
        return capability(findings, self._wiring, emulated=self._emulated)

    def counters(self) -> Mapping[EntryKey, Traffic]:
        found: dict[EntryKey, Traffic] = {}
        with self._asking():
            for flow, packets, octets in self._openflow.counted_flows(FORWARD.number):
                key = _entry(flow)
                if key is not None:
                    before = found.get(key, Traffic(0, 0))
                    found[key] = Traffic(before.packets + packets, before.bytes + octets)
        return found

    # --- asking ------------------------------------------------------------------------------

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Make sure that somebody is there to answer; what goes wrong is a TargetError."""
        try:
            self.ping()
            if self._vswitch.error is not None:
                raise TargetError(self._vswitch.error)
            if self._place.bridge not in self._vswitch.bridges():
                raise TargetError(
                    f"bridge {self._place.bridge} is not in the Open vSwitch at"
                    f" {self._place.database}: correct switch.bridge"
                )
            yield
        except TargetError:
            raise
        except (UnixctlError, OpenFlowError, DatabaseError) as error:
            raise _down(error) from error

    def _numbers(self) -> dict[str, int]:
        ports = self._vswitch.ports()
        return {
            name: each.ofport
            for name, each in self._vswitch.interfaces().items()
            if each.ofport is not None
            and name in ports
            and ports[name].bridge == self._place.bridge
        }

    def _tunnel_ports(self) -> list[Port]:
        ports = self._vswitch.ports().values()
        return [port for port in ports if port.external_ids.get(OWNER_KEY) == self._node]

    def _holder(self) -> str:
        """Return the node that has claimed the switch, by our tunnel ports, if it is another."""
        ports = self._vswitch.ports()
        owners = (
            ports[name].external_ids.get(OWNER_KEY)
            for name in TUNNEL_PORTS.values()
            if name in ports
        )
        return next((owner for owner in owners if owner and owner != self._node), "")

    def _check_holder(self) -> None:
        if holder := self._holder():
            raise TargetError(f"node {holder} has its entries in {self._place.bridge}")

    def _local_mac(self) -> str:
        local = self._vswitch.interfaces().get(self._place.bridge)
        return (local.mac_in_use if local else None) or ""

    def _routes(self) -> Iterator[Route]:
        """Yield our routes; deleting one, anybody's, ends the intake at its bridge's addresses."""
        taken_in = self._unixctl.call("tnl/ports/show", "-v")
        for each in tunnel_routes.routes(self._unixctl):
            if each.bridge == self._place.bridge and each.mark in (MARK_OUT, MARK_BACK):
                live = f"(dst={each.gateway}," in taken_in
                yield Route(each.gateway, each.mark, live=live)

    def _neighbours(self) -> Iterator[Neighbour]:
        """Yield those that were set lately: the others age, and are as good as gone."""
        for each in self._set_neighbours():
            set_at = self._set_at.get(each.address)
            if set_at is not None and self._clock() - set_at < _REFRESH_S:
                yield each

    def _set_neighbours(self) -> Iterator[Neighbour]:
        for each in tunnel_routes.neighbours(self._unixctl):
            if each.bridge == self._place.bridge and each.address in self._set_at:
                yield Neighbour(each.address, each.mac)

    def _count_others(self) -> int:
        """Return how many ports, routes that are in use and neighbours are ours."""
        live = sum(route.live for route in self._routes())
        return len(self._tunnel_ports()) + live + len(list(self._set_neighbours()))

    def _count_offloaded(self) -> int | None:
        """Return how many flows its datapath says are in hardware; None: it cannot say."""
        now = self._clock()
        if self._offloaded_at is None or now - self._offloaded_at >= _OFFLOADED_S:
            self._offloaded_at = now
            try:
                shown = self._unixctl.call("dpctl/dump-flows", "type=offloaded")
                self._offloaded = sum("actions:" in line for line in shown.splitlines())
            except UnixctlError:
                self._offloaded = None
        return self._offloaded

    # --- changing ----------------------------------------------------------------------------

    def _await_ports(self, names: Iterable[str]) -> None:
        """Return once ovs-vswitchd has numbered the ports. Raises TargetError with its words."""
        missing = set(names)
        process.wait_until(lambda: missing <= self._numbers().keys(), _PORT_S)
        for name in sorted(missing - self._numbers().keys()):
            interface = self._vswitch.interfaces().get(name)
            words = interface.error if interface and interface.error else "no number and no error"
            raise TargetError(f"tunnel port {name} of {self._place.bridge}: {words}")

    def _check_time(self) -> None:
        """Raise TargetError if one more answer could come after the deadline."""
        if self._clock() > self._until:
            raise TargetError(
                f"{self._place.bridge} is too slow: not all was changed within"
                f" {self.deadline_s:.0f} s; the rest follows"
            )

    def _set(self, items: Iterable[Item]) -> None:
        for item in items:
            self._check_time()
            if isinstance(item, Route):
                tunnel_routes.add_route(self._unixctl, self._user_route(item))
            elif isinstance(item, Neighbour):
                neighbour = TunnelNeighbour(item.address, item.mac, self._place.bridge)
                tunnel_routes.set_neighbour(self._unixctl, neighbour)
                self._set_at[item.address] = self._clock()

    def _remove(self, items: Iterable[Item]) -> None:
        items = list(items)
        for item in items:
            if isinstance(item, Neighbour):
                self._set_at.pop(item.address, None)  # OVS cannot forget one alone: it ages
        self._vswitch.delete(
            ports=[item.port.name for item in items if isinstance(item, TunnelPort)]
        )
        if not self._tunnel_ports():
            # With one route the intake at all addresses, anybody's, ends: so all go with the claim.
            for route in self._routes():
                tunnel_routes.delete_route(self._unixctl, self._user_route(route))

    def _user_route(self, route: Route) -> UserRoute:
        """Return a route for all packets of ours: the mark is what no packet of others has."""
        everywhere = ip_network("0.0.0.0/0" if route.gateway.version == 4 else "::/0")
        return UserRoute(everywhere, self._place.bridge, route.gateway, route.mark)

    def _place_rows(self, change: Change) -> Mapping[EntryKey, str]:
        """Change the rows in one bundle; what the device refuses goes without, and is returned."""
        update = tuple(row for row in change.update.values() if isinstance(row, Row))
        rows = (*(row for row in change.add.values() if isinstance(row, Row)), *update)
        gone = [row.flow for row in change.remove.values() if isinstance(row, Row)]
        numbers, mac = self._numbers(), self._local_mac()
        rows, refused = self._without_ports(rows, numbers)
        for _ in range(_MOST_REFUSALS):
            left = {row.key for row in rows}
            stale = [replace(row.flow, actions="") for row in update if row.key not in left]
            self._check_time()
            delete = self._standing((*gone, *stale), numbers, mac)
            add = [to_device(row.flow, numbers, mac) for row in rows]
            try:
                self._openflow.apply_bundle(add, delete)
            except OpenFlowError as error:
                if error.refusal is None:
                    raise
                kept = self._without_refused(rows, update, delete, error.refusal)
                if len(kept.rows) == len(rows):
                    raise
                rows = kept.rows
                refused |= kept.refused
            else:
                return refused
        raise TargetError(f"{self._place.bridge} refused more than {_MOST_REFUSALS} flows in turn")

    def _standing(self, flows: Iterable[Flow], numbers: Mapping[str, int], mac: str) -> list[Flow]:
        """Return flows as the device has them. Raises TargetError for one whose port has gone."""
        try:
            return [to_device(flow, numbers, mac) for flow in flows]
        except KeyError as error:
            raise TargetError(
                f"{self._place.bridge} has lost port {error.args[0]} since the last look:"
                " the next one finds its rows by number"
            ) from error

    def _without_ports(
        self, rows: Iterable[Row], numbers: Mapping[str, int]
    ) -> tuple[tuple[Row, ...], dict[EntryKey, str]]:
        """Return the rows whose ports are there, and what goes without the others."""
        kept: list[Row] = []
        refused: dict[EntryKey, str] = {}
        for row in rows:
            missing = ports_of(row.flow) - numbers.keys()
            if not missing:
                kept.append(row)
                continue
            why = f"{Reason.NO_SWITCH_PORT}: {self._place.bridge} has no port {min(missing)}"
            entries = {row.owner} if row.owner else row.entries
            if not entries:
                raise TargetError(why)
            refused |= dict.fromkeys(entries, why)
        return without(kept, refused), refused

    def _without_refused(
        self, rows: tuple[Row, ...], update: Iterable[Row], delete: list[Flow], refusal: Refusal
    ) -> Fit[Row]:
        """Return what is left to try after the device has refused a flow."""
        self._check_time()
        if refusal.code == _TABLE_FULL:
            limits, left = self._openflow.table_limits(), {}
            flows = self._openflow.dump_flows()
            for table, limit in limits.items():
                left[table] = limit - sum(flow.table == table for flow in flows)
                left[table] += sum(flow.table == table for flow in delete)
            kept = fit(rows, [row.key for row in update], left)
            limit = limits.get(refusal.key.table, 0)
            words = (
                f"{Reason.TABLE_FULL}: {refusal.code} for table {refusal.key.table} of {limit} rows"
            )
            return Fit(kept.rows, dict.fromkeys(kept.refused, words))
        numbers, mac = self._numbers(), self._local_mac()
        keys = {to_device(row.flow, numbers, mac).key: row for row in rows}
        row = keys.get(refusal.key)
        if row is None or not row.entries:
            return Fit(rows)
        words = f"{Reason.UNSUPPORTED_MATCH}: {refusal.code} for {row.flow.match}"
        refused = dict.fromkeys(row.entries, words)
        return Fit(without(rows, refused), refused)


def _down(error: Exception) -> TargetError:
    return TargetError(f"the DPU's switch: {error}")


def _entry(flow: Flow) -> EntryKey | None:
    """Return whose frames a flow of the forwarding table counts; None: nobody's of ours."""
    if not is_ours(flow) or category(flow) not in (Category.PORT, Category.REMOTE):
        return None
    fields = dict(token.partition("=")[::2] for token in flow.match.split(","))
    mac = fields.get("dl_dst")  # somebody else may have written it, with our cookie
    return EntryKey(Vni(vni_of(flow)), Mac(mac)) if mac else None


def _is_used(route: Route, found: Mapping[Hashable, Item]) -> bool:
    """Say whether packets come by ``route``, or our claim is gone: until then it stays unused."""
    wanted = f"dst={route.gateway}"
    items = found.values()
    return not any(isinstance(item, TunnelPort) for item in items) or any(
        isinstance(row, Row) and row.flow.table == MISS.number and row.flow.match.endswith(wanted)
        for row in items
    )
