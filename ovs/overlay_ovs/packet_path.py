"""What Open vSwitch would do with a packet: ofproto/trace, which walks the live flows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from dataplane.core.model import Encap, Vni
from dataplane.core.path import Action, FromPod, Outcome, Probe, Tunnel
from overlay_ovs.flows import TUNNEL_PORTS, UNDERLAY_PORT
from overlay_ovs.tables import INTEGRATION_BRIDGE, OUTPUT, PIPELINES, WIRE
from ovs_client.unixctl import Unixctl, UnixctlError

_BRIDGE = re.compile(r'\s*bridge\("(.+)"\)')
_STEP = re.compile(r"\s*(\d+)\. ")
_PORT = re.compile(r"\s+(\S+) \d+/(\d+): ")  # dpif/show: name, OpenFlow number, datapath number
_OUTPUT = re.compile(r"\d+")
_PUSH = re.compile(
    r"tnl_push\(.*?ipv[46]\(src=(?P<source>[^,]+),dst=(?P<target>[^,]+),.*?"
    r"udp\(src=\d+,dst=(?P<port>\d+),[^)]*\),(?P<encap>geneve|vxlan)\(.*?vni=(?P<vni>\w+)\)"
    r".*?out_port\(\d+\)\)"
)
_TOWARDS = re.compile(r"set_field:(\S+)->tun_(?:ipv6_)?dst")
_CARRY_OUT = (OUTPUT.name, WIRE.name)
_TUNNELS_FAULTS = ("native tunnel routing failed", "neighbor cache miss")


@dataclass(frozen=True, slots=True)
class _Walk:
    """What ofproto/trace printed: bridge and table of each step, and what is done in the end.

    ``fault`` is why a packet for the VTEP ``towards`` does not leave.
    """

    steps: tuple[tuple[str, int], ...]
    actions: str
    towards: str
    fault: str


class OvsPacketPath:
    """A PacketPath over the flows of ow-int and ow-phy; any thread may ask."""

    name = "ovs"

    def __init__(self, unixctl: Unixctl) -> None:
        """Ask the ovs-vswitchd that ``unixctl`` reaches."""
        self._unixctl = unixctl

    def outcome(self, probe: Probe) -> Outcome:
        """Return what the flows do. Raises UnixctlError."""
        try:
            printed = self._unixctl.call("ofproto/trace", INTEGRATION_BRIDGE, _flow(probe))
        except UnixctlError as error:
            owner = _owner_of_refusal(str(error))
            if owner is None:
                raise
            return Outcome(Action.UNKNOWN, owner=owner, detail=str(error))
        names = dict(_datapath_ports(self._unixctl.call("dpif/show")))
        return _outcome(probe, _walk(printed), names)


def _flow(probe: Probe) -> str:
    """Return the packet as ovs-fields(7)."""
    source, target = probe.source, probe.target
    udp, src, dst = ("udp", "nw_src", "nw_dst")
    if source.ip.version == 6:
        udp, src, dst = ("udp6", "ipv6_src", "ipv6_dst")
    return ",".join(
        (
            *_entry(probe),
            *(udp, f"dl_src={source.mac}", f"dl_dst={target.mac}"),
            *(f"{src}={source.ip}", f"{dst}={target.ip}", "nw_ttl=64"),
        )
    )


def _entry(probe: Probe) -> tuple[str, ...]:
    if isinstance(probe.entry, FromPod):
        return (f"in_port={probe.entry.ovs_port}",)
    tunnel = probe.entry
    kind = "tun" if tunnel.source.version == 4 else "tun_ipv6"
    return (
        f"in_port={TUNNEL_PORTS[tunnel.encap]}",
        f"tun_id={tunnel.vni:#x}",
        f"{kind}_src={tunnel.source}",
        f"{kind}_dst={tunnel.target}",
    )


def _owner_of_refusal(message: str) -> str | None:
    if "in_port" in message:
        return "ovs-ports"
    return "ovs-ports: bridge ow-int" if "Unknown bridge" in message else None


def _walk(printed: str) -> _Walk:
    steps: list[tuple[str, int]] = []
    bridge, actions = "", ""
    for line in printed.splitlines():
        if found := _BRIDGE.match(line):
            bridge = found[1]
        elif found := _STEP.match(line):
            steps.append((bridge, int(found[1])))
        elif line.startswith("Datapath actions: "):
            actions = line.partition(": ")[2]
    towards = _TOWARDS.search(printed)
    fault = next((fault for fault in _TUNNELS_FAULTS if fault in printed), "")
    return _Walk(tuple(steps), actions, towards[1] if towards else "", fault)


def _datapath_ports(shown: str) -> Iterator[tuple[str, str]]:
    """Yield number in the datapath and name of every port."""
    for line in shown.splitlines():
        if found := _PORT.match(line):
            yield found[2], found[1]


def _outcome(probe: Probe, walk: _Walk, names: dict[str, str]) -> Outcome:
    passed = tuple(_table(bridge, number) for bridge, number in walk.steps)
    owner = f"ovs-flows: table {passed[-1]}" if passed else "ovs-flows"
    chooser = _owner_of_way(passed)
    if walk.fault:
        is_meant = walk.towards == str(probe.target.vtep)
        owner = "ovs-tunnels" if is_meant else chooser
        why = f"to {walk.towards}: {walk.fault}"
        return Outcome(Action.DROP, passed=passed, owner=owner, detail=why)
    push = _PUSH.search(walk.actions)
    ports = [names.get(n, f"port {n}") for n in _OUTPUT.findall(_PUSH.sub("", walk.actions))]
    if walk.actions == "drop" or not ports:
        return Outcome(Action.DROP, passed=passed, owner=owner)
    if len(ports) > 1:
        return Outcome(Action.FLOOD, passed=passed, owner=chooser)
    port = probe.nic if ports[0] == UNDERLAY_PORT else probe.glued.get(ports[0], ports[0])
    if push is None:
        return Outcome(Action.DELIVER, port=port, passed=passed, owner=chooser)
    return Outcome(Action.TUNNEL, _tunnel(push), port, passed=passed, owner=chooser)


def _owner_of_way(passed: tuple[str, ...]) -> str:
    """Return the table that chose where to: the last that does not merely carry it out."""
    chose = [table for table in passed if table not in _CARRY_OUT]
    return f"ovs-flows: table {chose[-1]}" if chose else "ovs-flows"


def _tunnel(push: re.Match[str]) -> Tunnel:
    source, target = ip_address(push["source"]), ip_address(push["target"])
    return Tunnel(Encap(push["encap"]), Vni(int(push["vni"], 0)), source, target, int(push["port"]))


def _table(bridge: str, number: int) -> str:
    tables = PIPELINES.get(bridge, ())
    known = (table.name for table in tables if table.number == number)
    return next(known, f"{number} of {bridge}")
