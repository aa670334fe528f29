"""Starts one agent: local files, Open vSwitch, eBPF, fabric, API and CNI, in this order."""

from __future__ import annotations

import fcntl
import logging
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import structlog

from dataplane.agent import Agent, Parts
from dataplane.api.attachment import AttachmentService
from dataplane.api.health import HostFeed
from dataplane.api.service import AgentService, serve
from dataplane.api.witness import HostWitness
from dataplane.cni.handler import Handler, Limits, VfFront
from dataplane.cni.ipam import Ipam
from dataplane.cni.restore import RESTORE_S
from dataplane.cni.server import CniServer
from dataplane.config import AgentConfig, FabricAccess, FastPath, OpiAccess, OpiRole
from dataplane.contracts import (
    Feed,
    ObservedPath,
    PacketPath,
    PacketPaths,
    PathCounters,
    Post,
    Switch,
    Target,
    Witness,
)
from dataplane.core.desired import Datapath, Port
from dataplane.core.errors import OverweaveError
from dataplane.core.events import DevicesConfigured
from dataplane.core.model import Side
from dataplane.core.snapshot import NO_ACCESS, OVS_PATH, SWITCH_TARGET
from dataplane.datapath import ChosenDatapath, choose_datapath
from dataplane.device_config import DeviceConfig, served_devices
from dataplane.dpus_below import DpusBelow
from dataplane.fabric.feed import FabricFeed
from dataplane.fabric.networks import StoredNetworks
from dataplane.fabric.store import agent_database
from dataplane.fabric.target import FabricTarget
from dataplane.fastpath import Ebpf, NoEbpf, load_ebpf
from dataplane.halves import Halves, own_device
from dataplane.host.glue import GlueTarget
from dataplane.host.next_hops import NextHopsTarget
from dataplane.host.pod import VethWiring
from dataplane.host.probe import LoopProbe
from dataplane.host.target import LinksTarget
from dataplane.host.vf import VfWiring
from dataplane.inventory import InventoryFeed
from dataplane.learning import LearningFeed
from dataplane.looking import Looking
from dataplane.metrics import Metrics, MetricsServer
from dataplane.netlink.monitor import LinkFeed, WayFeed
from dataplane.probing import SWITCH_PROBE_S, ProbeFeed
from dataplane.statefile import StateFiles
from dataplane.switch import Counters, SwitchFeed
from dataplane.vf_ports import VfPorts
from overlay_ovs.feed import OvsFeed
from overlay_ovs.packet_path import OvsPacketPath
from overlay_ovs.ports import PortsTarget
from overlay_ovs.target import FlowsTarget
from overlay_ovs.tunnels import TunnelsTarget
from ovs_client.daemons import DaemonError, OvsInstance, Place
from ovs_client.database import Tls
from ovs_client.unixctl import Unixctl
from ovs_client.vswitch import VSwitch
from vendors import registry
from vendors.discovery import DeviceFeed
from vendors.injected import InjectedPath
from vendors.noop import NoSwitch
from vendors.probe import SwitchProbe
from vendors.sent import SentPath

_SUPERVISE_S = 1.0
_CNI_GRACE_S = 2.0

log = structlog.get_logger()


class OvsSupervisor:
    """With ``ovs.manage``: starts an Open vSwitch of our own, and again when it has died.

    It runs detached and outlives the agent.
    """

    def __init__(self, instance: OvsInstance) -> None:
        """Supervise ``instance``."""
        self._instance = instance
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ovs-supervisor", daemon=True)

    def start(self, post: Post) -> None:
        """Start what does not run, then look after it; has no events to ``post``."""
        del post
        self._instance.start()
        self._thread.start()

    def stop(self) -> None:
        """Look no more; Open vSwitch goes on."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_SUPERVISE_S):
            try:
                if not self._instance.running():
                    log.warning("ovs.restarting", place=str(self._instance.place.directory))
                    self._instance.start()
            except DaemonError as error:
                log.error("ovs.start.failed", error=str(error))  # noqa: TRY400  # an operator's fault


def run_agent(config: AgentConfig, read: Callable[[], AgentConfig]) -> None:
    """Run the agent of ``config`` until SIGTERM or SIGINT, which leave the dataplane as it is.

    At SIGHUP it has what ``read`` returns by then. Raises OverweaveError if it cannot start.
    """
    _log_to_stderr()
    told: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _: told.put(number))
    with ExitStack() as stack:
        stack.enter_context(_only_one(config.state_dir))
        running = _start(config, stack)
        log.info("agent.started", node=config.node, cni=str(config.cni_socket))
        while told.get() == signal.SIGHUP:
            running.reload(read)
        log.info("agent.ending", node=config.node)


@dataclass(frozen=True, slots=True)
class _Running:
    """What of a running agent may be configured anew."""

    config: AgentConfig
    agent: Agent
    below: DpusBelow

    def reload(self, read: Callable[[], AgentConfig]) -> None:
        """Serve the DPUs below this host that ``read`` tells of; refused: all stays as it is."""
        try:
            fresh = read()
        except OverweaveError as error:
            log.error("agent.reload.refused", error=str(error))  # noqa: TRY400  # an operator's fault
            return
        fixed = self.config.fixed_changes(fresh)
        if fixed:
            why = f"{', '.join(fixed)}: what has changed there needs a restart of the agent"
            log.error("agent.reload.refused", error=why)
            return
        devices = fresh.local_node.devices
        self.agent.post(DevicesConfigured(devices))
        self.below.serve(fresh.devices)
        log.info("agent.reloaded", devices=[device.name for device in devices])


def _start(config: AgentConfig, stack: ExitStack) -> _Running:
    files = StateFiles(config.state_dir)
    loaded = files.load()
    chosen = choose_datapath(config)
    log.info("datapath.chosen", datapath=chosen.datapath.value, why=chosen.why)
    fast = load_ebpf(config)
    if isinstance(fast, NoEbpf):
        log.warning("fastpath.none", why=fast.reason)
    vswitch = VSwitch(config.ovs_remote)
    unixctl = Unixctl(config.ovs_rundir)
    shared = _shared(config)
    ovs = OvsFeed(vswitch, unixctl, lambda: agent.poke())  # noqa: PLW0108  # agent is made below
    own = [OvsSupervisor(_own_switch(config))] if config.ovs.manage else []
    ways = _ways(fast, _switch(config, stack), chosen)
    if isinstance(fast, Ebpf):
        stack.callback(fast.target.close)
    targets: tuple[Target, ...] = (
        files,
        PortsTarget(vswitch, unixctl, config.node),
        FlowsTarget(config.ovs_rundir, chosen.datapath),
        TunnelsTarget(unixctl, time.monotonic),
        LinksTarget(),
        *_targets(ways, lambda event: agent.post(event)),  # noqa: PLW0108  # agent is made below
        *shared.targets,
    )
    node = replace(config.local_node, ebpf=isinstance(fast, Ebpf), datapath=chosen.datapath)
    halves = Halves(config)
    looking = [DeviceFeed(config.discovery)] if config.discovery else []
    probes = [ProbeFeed(OVS_PATH, LoopProbe())] if node.is_dpu else []
    feeds: tuple[Feed, ...] = (
        *own,
        *looking,
        LinkFeed(),
        *_feeds(ways, lambda name: agent.look(name)),  # noqa: PLW0108  # agent is made below
        InventoryFeed(lambda: agent.snapshot),
        *probes,
        LearningFeed(lambda: agent.snapshot),
        ovs,
        *shared.feeds,
    )
    agent: Agent = Agent(node, Parts(targets, feeds, shared.watch))
    stack.callback(agent.stop)
    agent.start(loaded)
    return _Running(config, agent, _serve(config, agent, ways, halves, stack))


@dataclass(frozen=True, slots=True)
class _Shared:
    """What follows the fabric database and writes to it; nothing does on a node in no fabric."""

    watch: Callable[[Mapping[str, int]], None]
    feeds: tuple[Feed, ...] = ()
    targets: tuple[Target, ...] = ()


def _shared(config: AgentConfig) -> _Shared:
    if config.fabric is None:
        return _Shared(lambda _: None)
    database = agent_database(config.fabric.remote, _tls(config.fabric))
    feed = FabricFeed(database, config.node, time.monotonic)
    return _Shared(feed.watch, (feed,), (FabricTarget(database, config.node),))


@dataclass(frozen=True, slots=True)
class _Ways:
    """What forwards packets on this node, and what all that takes them off OVS has counted."""

    fast: Ebpf | NoEbpf
    switch: Switch | None
    counters: PathCounters
    chosen: ChosenDatapath

    @property
    def write_next_hops(self) -> bool:
        """Say whether somebody writes the next hop's MAC instead of the kernel."""
        userspace = self.chosen.datapath is Datapath.USERSPACE
        return self.switch is not None or (userspace and isinstance(self.fast, NoEbpf))


def _ways(fast: Ebpf | NoEbpf, switch: Switch | None, chosen: ChosenDatapath) -> _Ways:
    readings = fast.readings if isinstance(fast, Ebpf) else fast
    return _Ways(fast, switch, Counters(readings, switch or NoSwitch()), chosen)


def _targets(ways: _Ways, post: Post) -> Iterator[Target]:
    yield ways.fast.target if isinstance(ways.fast, Ebpf) else GlueTarget()
    if ways.write_next_hops:
        yield NextHopsTarget(post)
    if ways.switch is not None:
        yield ways.switch


def _feeds(ways: _Ways, look: Callable[[str], None]) -> Iterator[Feed]:
    if ways.write_next_hops:
        yield WayFeed(partial(look, NextHopsTarget.name))
    if ways.switch is not None:
        poke = partial(look, SWITCH_TARGET)
        yield SwitchFeed(ways.switch, ways.counters, poke, time.monotonic)


def _switch(config: AgentConfig, stack: ExitStack) -> Switch | None:
    """Return the driver of the DPU that this node is, None for another node, and without one."""
    device = own_device(config)
    switch = registry.of_device(device, config.node) if device else None
    if switch is not None:
        stack.callback(switch.close)
    return switch


def _switch_path(config: AgentConfig) -> PacketPath | None:
    """Return what asks the emulated switch of the DPU that this node is; None: nobody can."""
    controls = (each.control for each in config.devices if each.control is not None)
    return next(map(InjectedPath, controls), None)


def _device_path(
    config: AgentConfig, agent: Agent, ways: _Ways, witness: Witness
) -> ObservedPath | None:
    """Return what sees the switch of the DPU that this node is at work; None: there is none."""
    device = own_device(config)
    if device is None or ways.switch is None:
        return None

    return SentPath(ways.switch, witness, partial(_vf_pods, agent, device))


def _vf_pods(agent: Agent, device: DeviceConfig) -> list[Port]:
    desired = agent.snapshot.desired
    ports = desired.ports if desired else ()
    whole = (port for port in ports if port.attachment.vlan is None)
    return [port for port in whole if port.attachment.netdev in device.representors]


def _pods_to_probe(agent: Agent, device: DeviceConfig) -> list[Port]:
    """Return the VF pods; none where a switch would do with a probe what others have told it."""
    return [] if agent.snapshot.state.switch.why_not else _vf_pods(agent, device)


def _service(
    config: AgentConfig, agent: Agent, ways: _Ways, halves: Halves, witness: Witness
) -> AgentService:
    fast = ways.fast
    modes = {"datapath": str(ways.chosen), "fastpath": _mode(config, fast)}
    modes |= {"attachment": halves.mode} if halves.mode else {}
    path = fast.path if isinstance(fast, Ebpf) else fast
    ovs = OvsPacketPath(Unixctl(config.ovs_rundir), ways.chosen.datapath)
    device = _device_path(config, agent, ways, witness)
    paths = PacketPaths(path, ovs, _switch_path(config), device)
    access = _access(config.fabric)
    return AgentService(agent, ways.counters, paths, modes, access, problems=halves.problems)


def _serve(
    config: AgentConfig, agent: Agent, ways: _Ways, halves: Halves, stack: ExitStack
) -> DpusBelow:
    config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.run_dir.chmod(0o700)
    witness = HostWitness()
    api = serve(_service(config, agent, ways, halves, witness), config.api_socket)
    stack.callback(lambda: api.stop(None).wait())
    metrics = Metrics(agent, ways.counters)
    scrapes = MetricsServer(metrics, config.metrics_address)
    stack.callback(scrapes.stop)
    scrapes.start()
    ipam = Ipam()
    stack.callback(ipam.stop)
    devices, ports = served_devices(config.devices), VfPorts(config.node, agent)
    if own := own_device(config):
        heard = HostFeed(own.name)
        probe = SwitchProbe(witness, partial(_pods_to_probe, agent, own))
        feeds: tuple[Feed, ...] = (heard, ProbeFeed(SWITCH_TARGET, probe, SWITCH_PROBE_S))
        for feed in feeds:
            feed.start(agent.post)
            stack.callback(feed.stop)
        attachments = AttachmentService(ports, devices, witness, heard.heard)
        host = halves.serve_host(attachments)
        stack.callback(lambda: host.stop(None).wait())
    below = DpusBelow(config.state_dir, halves.channels, agent.post)
    stack.callback(below.stop)
    below.start(config.devices)
    handler = Handler(agent, VethWiring(), ipam, Limits(), VfFront(below.front, VfWiring()))
    cni = CniServer(config.cni_socket, handler, metrics.timed)
    stack.callback(cni.stop, _CNI_GRACE_S)
    cni.start()
    restoring = Looking("restore", RESTORE_S)
    stack.callback(restoring.stop)
    restoring.start(handler.restore)
    if config.opi is not None:
        _serve_opi(config, config.opi, agent, ports, stack)
    return below


def _serve_opi(
    config: AgentConfig, opi: OpiAccess, agent: Agent, ports: VfPorts, stack: ExitStack
) -> None:
    # Messages, reflection and health cost 70 ms and 13 MB: only who is asked for them pays.
    from dataplane.opi.bridges import Vlans
    from dataplane.opi.channel import Channel
    from dataplane.opi.server import OpiServer
    from dataplane.opi.site import Site

    dpu = own_device(config)
    access = config.fabric
    is_tenant = opi.role is OpiRole.TENANT
    site = Site(
        node=config.node,
        agent=agent,
        ports=ports,
        vlans=Vlans(opi.segment, opi.bridges),
        representors=tuple(dpu.representors) if dpu else None,
        vfs={
            device.name: tuple(vf.device_id for vf in device.vfs)
            for device in config.devices
            if device.side is Side.HOST
        },
        channel=Channel(*config.opi_channel) if config.opi_channel else None,
        networks=StoredNetworks(access.remote, _tls(access)) if is_tenant and access else None,
        device=dpu.name if dpu else "",
    )
    server = OpiServer(site)
    stack.callback(server.stop)
    server.start(opi.socket)


def _mode(config: AgentConfig, fast: Ebpf | NoEbpf) -> str:
    if isinstance(fast, NoEbpf):
        return f"no fast path, because {fast.reason}"
    return "off" if config.fastpath is FastPath.OFF else "on"


def _own_switch(config: AgentConfig) -> OvsInstance:
    return OvsInstance(Place(config.ovs_rundir, config.ovs_rundir, None))


def _tls(access: FabricAccess) -> Tls | None:
    if access.private_key is None or access.certificate is None or access.ca_cert is None:
        return None
    return Tls(access.private_key, access.certificate, access.ca_cert)


def _access(access: FabricAccess | None) -> str:
    if access is None:
        return NO_ACCESS
    method = access.remote.partition(":")[0]
    return {"ssl": "ssl", "unix": "unix"}.get(method, f"{method} (unauthenticated)")


@contextmanager
def _only_one(state_dir: Path) -> Iterator[TextIO]:
    """Hold the state directory: two agents in one would undo each other's work."""
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state_dir / "agent.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OverweaveError(
                f"another agent already runs with state_dir {state_dir}; stop it, or give this one"
                " a state_dir and run_dir of its own"
            ) from error
        yield lock


def _log_to_stderr() -> None:
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=("timestamp", "level", "event")),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
