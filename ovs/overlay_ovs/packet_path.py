"""What Open vSwitch would do with a packet: ofproto/trace, which walks the live flows."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from dataplane.core.agreement import Observed, Question, done, tunnelled
from dataplane.core.desired import Datapath
from dataplane.core.frames import UDP, parse_tunnel, probe_inner, probe_sent
from dataplane.core.model import Encap
from dataplane.core.path import Action, FromPod, Outcome, Probe, Tunnel
from overlay_ovs.datapath_actions import Output, UnknownActionError, performed
from overlay_ovs.flows import TUNNEL_PORTS, UNDERLAY_PORT
from overlay_ovs.tables import (
    INTEGRATION_BRIDGE,
    OUTPUT,
    PIPELINES,
    STEERING,
    UNDERLAY_BRIDGE,
    WIRE,
)
from ovs_client.unixctl import Unixctl, UnixctlError

_BRIDGE = re.compile(r'\s*bridge\("(.+)"\)')
_STEP = re.compile(r"\s*(\d+)\. ")
_OF_BRIDGE = re.compile(r"  (\S+):")  # dpif/show: below a datapath, above its ports
_PORT = re.compile(r"\s+(\S+) \d+/(\d+): ")  # dpif/show: name, OpenFlow number, datapath number
_POP = re.compile(r"tnl_pop\((\d+)\)")
_TOWARDS = re.compile(r"set_field:(\S+)->tun_(?:ipv6_)?dst")
_IP = {  # by EtherType: names, where source, its width, protocol and transport header are
    "0800": ("ip", "udp", "nw_", 26, 4, 23, 34),
    "86dd": ("ipv6", "udp6", "ipv6_", 22, 16, 20, 54),
}
_TO_NIC = frozenset({UNDERLAY_PORT, *TUNNEL_PORTS.values()})
_CARRY_OUT = (STEERING.name, OUTPUT.name, WIRE.name)
_TUNNELS_FAULTS = ("native tunnel routing failed", "neighbor cache miss")


@dataclass(frozen=True, slots=True)
class _Walk:
    """What ofproto/trace printed of a frame: bridge, table and flow of each step, and the end.

    ``fault`` is why a packet for the VTEP ``towards`` does not leave.
    """

    frame: bytes
    steps: tuple[tuple[str, int], ...]
    flows: tuple[str, ...]
    actions: str
    towards: str
    fault: str

    @property
    def passed(self) -> tuple[str, ...]:
        """Return the names of the tables that were asked."""
        return tuple(_table(bridge, number) for bridge, number in self.steps)

    @property
    def rule(self) -> str:
        """Return the flow that decided, with its table."""
        found = list(zip(self.passed, self.flows, strict=True))
        chose = [each for each in found if each[0] not in _CARRY_OUT] or found
        return f"table {chose[-1][0]}: {chose[-1][1]}" if chose else "no flow"


class OvsPacketPath:
    """A PacketPath over the flows of our bridges; any thread may ask.

    What the datapath itself looks at in outer headers, lengths and versions, is not walked. The
    kernel's takes tunnel packets in by its own sockets: which ones, nobody can ask.
    """

    name = "ovs"

    def __init__(self, unixctl: Unixctl, datapath: Datapath = Datapath.USERSPACE) -> None:
        """Ask the ovs-vswitchd that ``unixctl`` reaches."""
        self._unixctl = unixctl
        self._datapath = datapath

    def outcome(self, probe: Probe) -> Outcome:
        """Return what the flows do. Raises UnixctlError."""
        try:
            walk = self._walk(INTEGRATION_BRIDGE, *_entry(probe))
        except UnixctlError as error:
            owner = _owner_of_refusal(str(error))
            if owner is None:
                raise
            return Outcome(Action.UNKNOWN, owner=owner, detail=str(error))
        return _outcome(probe, walk, self._names())

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        """Return what the flows do with each frame. Raises UnixctlError."""
        names = self._names()
        return [self._observe(question, names) for question in questions]

    def _observe(self, question: Question, names: Mapping[str, str]) -> Observed:
        try:
            if question.entry is None and self._datapath is Datapath.KERNEL:
                return Observed({}, why="the kernel's own sockets take tunnel packets in")
            if question.entry is None:
                return self._received(question, names)
            entry = f"in_port={question.entry.ovs_port}"
            walk = self._walk(INTEGRATION_BRIDGE, entry, question.frame)
            found = _observed(question, walk, names)
            if self._datapath is Datapath.KERNEL and _is_passed_on(question.frame, found):
                return Observed({}, walk.rule, "the kernel's datapath cannot answer ND")
            return found
        except UnknownActionError as error:
            return Observed({}, why=str(error))

    def _received(self, question: Question, names: Mapping[str, str]) -> Observed:
        """Walk both bridges: the datapath takes tunnel packets in between.

        The first is asked by fields: given a frame that its tunnels take, it would really take it.
        """
        entry = f"in_port={UNDERLAY_PORT},{_outer_fields(question.frame)}"
        outer = self._walk(UNDERLAY_BRIDGE, entry)
        popped = _POP.fullmatch(outer.actions)
        if popped is None:
            return Observed(done(Action.HOST), outer.rule)
        packet, port = parse_tunnel(question.frame), names.get(popped[1])
        if packet is None or port is None:
            return Observed({}, outer.rule, "the datapath looks at outer headers, no flow does")
        met = f"tun_tos={packet.ecn},tun_ttl={packet.ttl}"
        entry = f"{_of_tunnel(port, packet.tunnel)},{met}"
        return _observed(question, self._walk(INTEGRATION_BRIDGE, entry, packet.inner), names)

    def _walk(self, bridge: str, entry: str, frame: bytes = b"") -> _Walk:
        words = (frame.hex(),) if frame else ()
        return _walk(self._unixctl.call("ofproto/trace", bridge, entry, *words), frame)

    def _names(self) -> dict[str, str]:
        return dict(_datapath_ports(self._unixctl.call("dpif/show")))


def _entry(probe: Probe) -> tuple[str, bytes]:
    """Return where a probe comes in, as ovs-fields(7), and its frame there."""
    if isinstance(probe.entry, FromPod):
        return f"in_port={probe.entry.ovs_port}", probe_sent(probe, probe.entry)
    return _of_tunnel(TUNNEL_PORTS[probe.entry.encap], probe.entry), probe_inner(probe)


def _of_tunnel(port: str, tunnel: Tunnel) -> str:
    kind = "tun" if tunnel.source.version == 4 else "tun_ipv6"
    ends = f"{kind}_src={tunnel.source},{kind}_dst={tunnel.target}"
    return f"in_port={port},tun_id={tunnel.vni:#x},{ends}"


def _outer_fields(frame: bytes) -> str:
    """Return what ow-phy's flows and tunnels look at of a frame, as ovs-fields(7)."""
    kind = frame[12:14].hex()
    if kind not in _IP:
        return f"dl_type=0x{kind}"
    name, udp, prefix, source, width, protocol, l4 = _IP[kind]
    target = source + width
    ends = (ip_address(frame[at : at + width]) for at in (source, target))
    words = [f"{prefix}{end}={ip}" for end, ip in zip(("src", "dst"), ends, strict=True)]
    words.append(f"dl_dst={frame[:6].hex(':')}")
    if frame[protocol] != UDP:
        return ",".join((name, f"nw_proto={frame[protocol]}", *words))
    port = int.from_bytes(frame[l4 + 2 : l4 + 4], "big")
    return ",".join((udp, *words, f"udp_dst={port}"))


def _is_passed_on(frame: bytes, found: Observed) -> bool:
    """Say whether an NS goes to who is asked for: the fast path may answer it on the spot."""
    is_solicitation = (frame[12:14].hex(), frame[20:21], frame[54:55]) == ("86dd", b":", b"\x87")
    return is_solicitation and found.action is not Action.DROP


def _owner_of_refusal(message: str) -> str | None:
    if "in_port" in message:
        return "ovs-ports"
    return "ovs-ports: bridge ow-int" if "Unknown bridge" in message else None


def _walk(printed: str, frame: bytes) -> _Walk:
    steps: list[tuple[str, int]] = []
    flows: list[str] = []
    bridge, actions = "", ""
    for line in printed.splitlines():
        if found := _BRIDGE.match(line):
            bridge = found[1]
        elif found := _STEP.match(line):
            steps.append((bridge, int(found[1])))
            flows.append(line[found.end() :].partition(", cookie")[0])
        elif line.startswith("Datapath actions: "):
            actions = line.partition(": ")[2]
    towards = _TOWARDS.search(printed)
    fault = next((fault for fault in _TUNNELS_FAULTS if fault in printed), "")
    told = towards[1] if towards else ""
    return _Walk(frame, tuple(steps), tuple(flows), actions, told, fault)


def _datapath_ports(shown: str) -> Iterator[tuple[str, str]]:
    """Yield number in the datapath and name of every port of our bridges.

    Those of others may be in another datapath, with the same numbers.
    """
    bridge = ""
    for line in shown.splitlines():
        if found := _OF_BRIDGE.fullmatch(line):
            bridge = found[1]
        elif bridge in PIPELINES and (found := _PORT.match(line)):
            yield found[2], found[1]


def _tunnels(names: Mapping[str, str]) -> dict[str, Encap]:
    """Return the ports of the datapath that are tunnels; a userspace one sends nothing there."""
    encaps = {name: encap for encap, name in TUNNEL_PORTS.items()}
    return {number: encaps[name] for number, name in names.items() if name in encaps}


def _outcome(probe: Probe, walk: _Walk, names: dict[str, str]) -> Outcome:
    passed = walk.passed
    owner = f"ovs-flows: table {passed[-1]}" if passed else "ovs-flows"
    chooser = _owner_of_way(passed)
    if walk.fault:
        is_meant = walk.towards == str(probe.target.vtep)
        owner = "ovs-tunnels" if is_meant else chooser
        why = f"to {walk.towards}: {walk.fault}"
        return Outcome(Action.DROP, passed=passed, owner=owner, detail=why)
    try:
        outputs = performed(walk.actions, walk.frame, _tunnels(names))
    except UnknownActionError as error:
        return Outcome(Action.UNKNOWN, passed=passed, owner=chooser, detail=str(error))
    if not outputs:
        return Outcome(Action.DROP, passed=passed, owner=owner)
    if len(outputs) > 1:
        return Outcome(Action.FLOOD, passed=passed, owner=chooser)
    (output,) = outputs
    port = _netdev(output, probe, names)
    if output.packet is None:
        return Outcome(Action.DELIVER, port=port, passed=passed, owner=chooser)
    return Outcome(Action.TUNNEL, output.packet.tunnel, port, passed=passed, owner=chooser)


def _observed(question: Question, walk: _Walk, names: Mapping[str, str]) -> Observed:
    outputs = performed(walk.actions, walk.frame, _tunnels(names))
    if walk.fault or not outputs:
        return Observed(done(Action.DROP), walk.fault or walk.rule)
    if len(outputs) > 1:
        ports = sorted(_netdev(output, question, names) for output in outputs)
        return Observed(done(Action.FLOOD, ", ".join(ports)), walk.rule)
    (output,) = outputs
    port = _netdev(output, question, names)
    if output.packet is None:
        return Observed(done(Action.DELIVER, port, output.frame), walk.rule)
    return Observed(tunnelled(port, output.packet), walk.rule)


def _netdev(output: Output, asked: Probe | Question, names: Mapping[str, str]) -> str:
    """Return the netdev behind a port of the datapath."""
    name = names.get(output.port, f"port {output.port}")
    return asked.nic if name in _TO_NIC else asked.glued.get(name, name)


def _owner_of_way(passed: tuple[str, ...]) -> str:
    """Return the table that chose where to: the last that does not merely carry it out."""
    chose = [table for table in passed if table not in _CARRY_OUT]
    return f"ovs-flows: table {chose[-1]}" if chose else "ovs-flows"


def _table(bridge: str, number: int) -> str:
    tables = PIPELINES.get(bridge, ())
    known = (table.name for table in tables if table.number == number)
    return next(known, f"{number} of {bridge}")
