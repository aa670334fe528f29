"""Starts one agent: local files, Open vSwitch, eBPF, fabric, API and CNI, in this order."""

from __future__ import annotations

import fcntl
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TextIO

import structlog

from dataplane.agent import Agent, Parts
from dataplane.api.attachment import AttachmentService
from dataplane.api.dpu import DpuClient
from dataplane.api.health import DpuFeed
from dataplane.api.service import AgentService, serve, serve_attachments
from dataplane.api.witness import HostWitness, WitnessStand
from dataplane.cni.front import Front
from dataplane.cni.handler import Handler, Limits, VfFront
from dataplane.cni.ipam import Ipam
from dataplane.cni.server import CniServer
from dataplane.cni.vf_records import VfRecords
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
from dataplane.core.events import HalfHeard
from dataplane.core.model import Side
from dataplane.core.snapshot import SWITCH_TARGET
from dataplane.datapath import ChosenDatapath, choose_datapath
from dataplane.device_config import DeviceConfig, host_vfs, served_devices, watched_devices
from dataplane.fabric.feed import FabricFeed
from dataplane.fabric.segments import StoredSegments
from dataplane.fabric.store import agent_database
from dataplane.fabric.target import FabricTarget
from dataplane.fastpath import Ebpf, NoEbpf, load_ebpf
from dataplane.host.glue import GlueTarget
from dataplane.host.next_hops import NextHopsTarget
from dataplane.host.pod import VethWiring
from dataplane.host.target import LinksTarget
from dataplane.host.vf import VfWiring
from dataplane.host.witness import PodWitness
from dataplane.inventory import InventoryFeed
from dataplane.learning import LearningFeed
from dataplane.metrics import Metrics, MetricsServer
from dataplane.netlink.monitor import LinkFeed, WayFeed
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


def run_agent(config: AgentConfig) -> None:
    """Run the agent of ``config`` until SIGTERM or SIGINT, which leave the dataplane as it is.

    Raises OverweaveError if it cannot start.
    """
    _log_to_stderr()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    with ExitStack() as stack:
        stack.enter_context(_only_one(config.state_dir))
        _start(config, stack)
        log.info("agent.started", node=config.node, cni=str(config.cni_socket))
        ended.wait()
        log.info("agent.ending", node=config.node)


def _start(config: AgentConfig, stack: ExitStack) -> None:
    files = StateFiles(config.state_dir)
    loaded = files.load()
    chosen = choose_datapath(config)
    log.info("datapath.chosen", datapath=chosen.datapath.value, why=chosen.why)
    fast = load_ebpf(config)
    if isinstance(fast, NoEbpf):
        log.warning("fastpath.none", why=fast.reason)
    vswitch = VSwitch(config.ovs_remote)
    unixctl = Unixctl(config.ovs_rundir)
    database = agent_database(config.fabric.remote, _tls(config.fabric))
    fabric = FabricFeed(database, config.node, time.monotonic)
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
        FabricTarget(database, config.node),
    )
    node = replace(config.local_node, ebpf=isinstance(fast, Ebpf), datapath=chosen.datapath)
    watched = watched_devices(config.devices)
    dpus = [DpuFeed(watched, DpuClient())] if watched else []
    looking = [DeviceFeed(config.discovery)] if config.discovery else []
    inventory = [InventoryFeed(lambda: agent.snapshot)] if config.devices else []
    feeds: tuple[Feed, ...] = (
        *own,
        *looking,
        LinkFeed(),
        *_feeds(ways, lambda name: agent.look(name)),  # noqa: PLW0108  # agent is made below
        *dpus,
        *inventory,
        LearningFeed(lambda: agent.snapshot),
        ovs,
        fabric,
    )
    agent: Agent = Agent(node, Parts(targets, feeds, fabric.watch))
    stack.callback(agent.stop)
    agent.start(loaded)
    _serve(config, agent, ways, stack)


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


def _own_device(config: AgentConfig) -> DeviceConfig | None:
    """Return the DPU that this node is, if it is one."""
    return next((each for each in config.devices if each.side is Side.DPU), None)


def _switch(config: AgentConfig, stack: ExitStack) -> Switch | None:
    """Return the driver of the DPU that this node is, None for another node, and without one."""
    device = _own_device(config)
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
    device = _own_device(config)
    if device is None or ways.switch is None:
        return None

    def pods() -> list[Port]:
        desired = agent.snapshot.desired
        ports = desired.ports if desired else ()
        return [port for port in ports if port.attachment.netdev in device.representors]

    return SentPath(ways.switch, witness, pods)


def _service(config: AgentConfig, agent: Agent, ways: _Ways, witness: Witness) -> AgentService:
    fast = ways.fast
    modes = {"datapath": str(ways.chosen), "fastpath": _mode(config, fast)}
    path = fast.path if isinstance(fast, Ebpf) else fast
    ovs = OvsPacketPath(Unixctl(config.ovs_rundir), ways.chosen.datapath)
    device = _device_path(config, agent, ways, witness)
    paths = PacketPaths(path, ovs, _switch_path(config), device)
    return AgentService(agent, ways.counters, paths, modes, _access(config.fabric))


def _serve(config: AgentConfig, agent: Agent, ways: _Ways, stack: ExitStack) -> None:
    config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    config.run_dir.chmod(0o700)
    witness = HostWitness()
    api = serve(_service(config, agent, ways, witness), config.api_socket)
    stack.callback(lambda: api.stop(None).wait())
    metrics = Metrics(agent, ways.counters)
    scrapes = MetricsServer(metrics, config.metrics_address)
    stack.callback(scrapes.stop)
    scrapes.start()
    ipam = Ipam()
    stack.callback(ipam.stop)
    devices, ports = served_devices(config.devices), VfPorts(config.node, agent)
    if devices:
        heard = partial(_tell_heard, agent, _own_device(config))
        attachments = AttachmentService(ports, devices, witness, heard)
        host = serve_attachments(attachments, config.attachment_socket)
        stack.callback(lambda: host.stop(None).wait())
    handler = Handler(agent, VethWiring(), ipam, Limits(), _front(config, stack))
    cni = CniServer(config.cni_socket, handler, metrics.timed)
    stack.callback(cni.stop, _CNI_GRACE_S)
    cni.start()
    if config.opi is not None:
        _serve_opi(config, config.opi, agent, ports, stack)


def _serve_opi(
    config: AgentConfig, opi: OpiAccess, agent: Agent, ports: VfPorts, stack: ExitStack
) -> None:
    # Messages, reflection and health cost 70 ms and 13 MB: only who is asked for them pays.
    from dataplane.opi.bridges import Vlans
    from dataplane.opi.channel import Channel
    from dataplane.opi.server import OpiServer
    from dataplane.opi.site import Site

    dpu = _own_device(config)
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
        segments=StoredSegments(access.remote, _tls(access)) if is_tenant else None,
    )
    server = OpiServer(site)
    stack.callback(server.stop)
    server.start(opi.socket)


def _tell_heard(agent: Agent, device: DeviceConfig | None) -> None:
    """Have the agent know that the host of its DPU has just asked."""
    if device is not None:
        agent.post(HalfHeard(device.name, int(time.time())))


def _front(config: AgentConfig, stack: ExitStack) -> VfFront | None:
    vfs = host_vfs(config.devices)
    if not vfs:
        return None
    front = Front(vfs, DpuClient(), VfRecords(config.state_dir / "vfs"))
    front.start()
    stack.callback(front.stop)
    addresses = {vf.dpu for vf in vfs}
    stand = WitnessStand({each: PodWitness(partial(front.ports_below, each)) for each in addresses})
    stand.start()
    stack.callback(stand.stop)
    return VfFront(front, VfWiring())


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


def _access(access: FabricAccess) -> str:
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
