"""What an agent made on its machine: found by its marks, and taken away in a safe order."""

from __future__ import annotations

import fcntl
import signal
import socket
import struct
import sysconfig
import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bpf import xdp
from bpf.bpffs import unmount
from dataplane.api.dpu import DpuClient
from dataplane.cni import shim
from dataplane.cni.install import PLUGIN_DIRECTORY, PLUGIN_NAME, is_plugin
from dataplane.cni.vf_records import VfRecord, VfRecords
from dataplane.config import AgentConfig, FabricAccess
from dataplane.contracts import AttachRefusedError, Switch, Vf
from dataplane.core.diff import Change, Item
from dataplane.core.errors import OverweaveError, TargetError
from dataplane.core.model import Node, Side
from dataplane.device_config import DeviceConfig, host_vfs
from dataplane.fabric import SCHEMA
from dataplane.fabric.intent import node_rows, title
from dataplane.fabric.intent_rules import some
from dataplane.fabric.store import FabricStore
from dataplane.halves import Halves
from dataplane.host.pod import OUR_GROUP
from dataplane.host.vf import VfWiring
from dataplane.netlink import links, u32
from dataplane.netlink.rtnl import Rtnl
from dataplane.netlink.tc import OWNER, Slot, delete_bpf, list_bpf
from overlay_ovs.tunnels import delete_route, routes
from ovs_client.daemons import DatabaseServer, OvsInstance, Place
from ovs_client.database import Tls
from ovs_client.process import Process
from ovs_client.unixctl import Unixctl, UnixctlError
from ovs_client.vswitch import OWNER_KEY, Bridge, Port, VSwitch
from vendors import registry

_PINS = ("programs_*", "maps_*", "loading_*")  # what bpf/loader.py pins
_STATE_FILES = (
    "attachments",
    "fabric.json",
    "functions.json",
    "*.partial",
    "agent.lock",
    "ebpf.log",
)
_RUN_FILES = ("cni.sock", "api.sock", "metrics.sock", "attachment.sock", "tombstones")
_OVS_FILES = (
    "conf.db",
    "conf.db.*.new",
    ".conf.db.*",
    "db.sock",
    "*.pid",
    "*.ctl",
    "*.log",
    "*.mgmt",
    "*.snoop",
)
_SYSTEM_BPFFS = Path("/sys/fs/bpf")
_COMMAND = Path("/usr/local/bin/overweave")
_OVS_TIMEOUT_S = 3.0
_DPU_TIMEOUT_S = 5.0
_SWITCH_TIMEOUT_S = 5.0
_LOOK_S = 0.1
_AGENT_GRACE_S = 10.0  # it answers the CNI requests it has, for 2 s, and ends


@dataclass(frozen=True, slots=True)
class Thing:
    """Something of ours, and how it is taken away; gone already is success.

    ``path`` is set for what is a file or directory.
    """

    name: str
    remove: Callable[[], None]
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Inventory:
    """What of ours is here, in order of removal; ``unseen`` is what could not be looked at.

    ``kept`` says what of ours stays, and why.
    """

    things: tuple[Thing, ...]
    unseen: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()


class _InUseError(OverweaveError):
    """Something is ours and must stay; the text says what and why."""


def running_agent(config: AgentConfig) -> str | None:
    """Return what to call the agent of ``config`` if it runs."""
    with _lock(config.state_dir) as free:
        if free:
            return None
    return f"agent of {config.state_dir} (process {_listener(config.api_socket) or 'unknown'})"


@contextmanager
def agent_ended(config: AgentConfig) -> Iterator[None]:
    """Ask the agent of ``config`` to end, and keep it from starting again.

    Raises OverweaveError if it still runs after its time.
    """
    if running_agent(config):
        _end(config)
    with _lock(config.state_dir) as free:
        if not free:
            raise OverweaveError(
                f"the agent of {config.state_dir} still runs; stop it first, and its service if a"
                " service manager starts it again"
            )
        yield


def inventory(config: AgentConfig, vswitch: VSwitch) -> Inventory:
    """Look at everything the agent of ``config`` makes, in the caller's network namespace.

    ``vswitch`` is started, connected or not.
    """
    things: list[Thing] = []
    unseen: list[str] = []
    kept: list[str] = []
    looks = (
        partial(_switch_entries, config),  # before the software that it makes faster
        partial(_vfs, config),
        _links,
        _filters,
        _redirects,
        _xdp_programs,
        partial(_routes, config),
        partial(_bridges, config, vswitch),
        partial(_fabric_rows, config),
        partial(_fabric_database, config),
    )
    for look in looks:
        try:
            things += look()
        except _InUseError as error:
            kept.append(str(error))
        except OverweaveError as error:
            unseen.append(str(error))
    things += [*_own_switch(config), *_pins(config.bpffs)]
    things += [*_metrics_socket(config), *_opi_socket(config)]
    things += _below(config.run_dir, _RUN_FILES, things)
    things += _below(config.state_dir, _STATE_FILES, things)
    things += _installed(config)
    return Inventory(tuple(things), tuple(unseen), tuple(kept))


@contextmanager
def _lock(state_dir: Path) -> Iterator[bool]:
    """Hold the lock that an agent holds while it runs; yields False if one does."""
    path = state_dir / "agent.lock"
    if not path.exists():
        yield True
        return
    with path.open("r") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _listener(path: Path) -> int | None:
    """Return the process that listens on the unix socket ``path``."""
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(path))
        except OSError:
            return None
        peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", peer)[0]  # struct ucred: pid, uid, gid
    return pid or None  # 0: it is not in our pid namespace


def _end(config: AgentConfig) -> None:
    pid = _listener(config.api_socket)
    if pid is None:
        return
    with suppress(ProcessLookupError), Process(pid) as agent:
        if _listener(config.api_socket) == pid:  # held now: nobody can have taken its number
            agent.signal(signal.SIGTERM)
            agent.wait(_AGENT_GRACE_S)


def _switch_entries(config: AgentConfig) -> Iterator[Thing]:
    """Yield what is ours in the switch of the DPU that this node is: it forwards without us."""
    for device in config.devices:
        if device.side is not Side.DPU:
            continue
        with _driver(device, config.node) as switch:
            found = _observed(switch)
        if found:
            name = f"{len(found)} rows, ports and routes in the switch of DPU {device.serial}"
            yield Thing(name, partial(_empty, device, config.node))


@contextmanager
def _driver(device: DeviceConfig, node: str) -> Iterator[Switch]:
    with closing(registry.of_device(device, node)) as switch:
        yield switch


def _observed(switch: Switch) -> Mapping[Hashable, Item]:
    """Return what is ours, once the driver has connected. Raises TargetError with the reason."""
    give_up = time.monotonic() + _SWITCH_TIMEOUT_S
    while True:
        try:
            return switch.observe()
        except TargetError:
            if time.monotonic() >= give_up:
                raise
            time.sleep(_LOOK_S)


def _empty(device: DeviceConfig, node: str) -> None:
    with _driver(device, node) as switch:
        if switch is not None:
            switch.apply(Change(remove=_observed(switch)))


def _links() -> Iterator[Thing]:
    """Yield the node's ends of pods' interfaces; the pods' ends go with them."""
    with Rtnl() as rtnl:
        for netdev in links.every(rtnl):
            if netdev.group == OUR_GROUP and netdev.kind == "veth":
                yield Thing(f"link {netdev.name} ({netdev.alias})", partial(_delete, netdev.name))


def _vfs(config: AgentConfig) -> list[Thing]:
    """Return the VFs of DPUs that pods have; what a DPU's agent has not let go of stays known."""
    directory = config.state_dir / "vfs"
    if not directory.is_dir():
        return []
    records, known = VfRecords(directory), {vf.device_id: vf for vf in host_vfs(config.devices)}
    return [
        *(
            Thing(
                f"VF {record.netdev} of pod {record.key}",
                partial(_bring_home, config, records, record, known.get(record.device_id)),
            )
            for record in records.load()
        ),
        Thing(f"directory {directory}", partial(_remove_empty, directory), directory),
    ]


def _bring_home(config: AgentConfig, records: VfRecords, record: VfRecord, vf: Vf | None) -> None:
    """Do as DEL does; without ``vf`` the configuration does not say any more whom to tell."""
    if record.port is not None:
        VfWiring().unplumb(record.port.attachment)
    if vf is not None:
        try:
            DpuClient(Halves(config).channels(config.devices)).detach(
                vf, record.key, _DPU_TIMEOUT_S
            )
        except (AttachRefusedError, OverweaveError) as error:
            raise OverweaveError(f"it is here, but {error}") from error
    records.remove(record.key)


def _delete(name: str) -> None:
    with Rtnl() as rtnl:
        netdev = links.find(rtnl, name)
        if netdev is not None:
            links.delete(rtnl, netdev.ifindex)


def _filters() -> list[Thing]:
    with Rtnl() as rtnl:
        found = [
            Thing(f"tc filter {found.name} of {netdev.name}", partial(_detach, found.slot))
            for netdev in links.every(rtnl)
            for found in list_bpf(rtnl, netdev.ifindex)
            if found.name.startswith(OWNER)
        ]
    return sorted(found, key=lambda thing: thing.name)


def _detach(slot: Slot) -> None:
    with Rtnl() as rtnl:
        delete_bpf(rtnl, slot)


def _redirects() -> Iterator[Thing]:
    """Yield what an agent without eBPF has instead of filters."""
    with Rtnl() as rtnl:
        for netdev in links.every(rtnl):
            ours = u32.listing(rtnl, netdev.ifindex).ours
            if ours:
                yield Thing(f"tc redirects of {netdev.name}", partial(_let_be, netdev.ifindex))


def _let_be(ifindex: int) -> None:
    with Rtnl() as rtnl:
        u32.delete(rtnl, u32.listing(rtnl, ifindex).ours)


def _xdp_programs() -> list[Thing]:
    with Rtnl() as rtnl:
        return [
            Thing(f"XDP program of {found.netdev}", partial(_detach_xdp, found.ifindex))
            for found in xdp.attached(links.every(rtnl))
        ]


def _detach_xdp(ifindex: int) -> None:
    with Rtnl() as rtnl:
        xdp.detach(rtnl, ifindex)


def _routes(config: AgentConfig) -> Iterator[Thing]:
    """Yield what ovs-vswitchd keeps in memory alone; one that does not run has forgotten it."""
    unixctl = Unixctl(config.ovs_rundir)
    if config.ovs.manage or _silence(unixctl):
        return
    for route in routes(unixctl):
        name = f"route to {route.vtep} over ow-phy in ovs-vswitchd"
        yield Thing(name, partial(delete_route, unixctl, route))


def _silence(unixctl: Unixctl) -> str:
    """Return why ovs-vswitchd does not answer, nothing if it does."""
    try:
        unixctl.call("version")
    except UnixctlError as error:
        return str(error)
    return ""


def _bridges(config: AgentConfig, vswitch: VSwitch) -> list[Thing]:
    """Return what is marked; raises OverweaveError while nobody would take its devices away."""
    if config.ovs.manage and not _switch(config).running():
        return []  # its database is ours and goes as a file
    vswitch.wait_connected(_OVS_TIMEOUT_S)
    bridges, ports = vswitch.bridges(), vswitch.ports()
    marked = sorted(name for name, bridge in bridges.items() if _is_ours(bridge, config))
    strays = sorted(
        name for name, port in ports.items() if _is_ours(port, config) and port.bridge not in marked
    )
    if (marked or strays) and (why := _silence(Unixctl(config.ovs_rundir))):
        raise OverweaveError(
            f"{some([*marked, *strays])}, whose devices only ovs-vswitchd takes away: {why}, and"
            " uninstall again"
        )
    return [
        *(Thing(f"bridge {name}", partial(vswitch.delete, bridges=[name])) for name in marked),
        *(Thing(f"port {name}", partial(vswitch.delete, ports=[name])) for name in strays),
    ]


def _is_ours(value: Bridge | Port, config: AgentConfig) -> bool:
    return value.external_ids.get(OWNER_KEY) == config.node


def _fabric_rows(config: AgentConfig) -> list[Thing]:
    if config.fabric is None:
        return []
    with _store(config.fabric) as store:
        owned = node_rows(config.node, store.read())
    rows = f"rows of node {config.node} in the fabric database ({some(list(map(title, owned)))})"
    return [Thing(rows, partial(_forget, config.fabric, config.node))] if owned else []


def _forget(fabric: FabricAccess, node: str) -> None:
    with _store(fabric) as store:
        store.write(deletes=node_rows(node, store.read()))


def _store(fabric: FabricAccess) -> FabricStore:
    return FabricStore(fabric.remote, Tls(**fabric.files) if fabric.files else None)


def _fabric_database(config: AgentConfig) -> list[Thing]:
    """Return what ``fabric run`` serves, and keeps, here. Raises _InUseError."""
    directory = config.state_dir / "fabric"  # as dataplane/cli/fabric.py has it
    server = DatabaseServer(Place(directory, directory), SCHEMA)
    if not server.database.exists():
        return []
    with FabricStore(server.remote) as store:
        agents = {e.name for e in store.read() if isinstance(e, Node) and not e.static}
    if others := sorted(agents - {config.node}):
        raise _InUseError(
            f"fabric database of {directory}, for it has other nodes ({some(others)});"
            " uninstall there first"
        )
    stop = Thing(f"fabric database of {directory}, with its segments and grants", server.stop)
    return [stop, *_below(directory, _OVS_FILES)]


def _own_switch(config: AgentConfig) -> Iterator[Thing]:
    if not config.ovs.manage:
        return
    switch = _switch(config)
    if switch.server.running() or switch.switch_running():
        where = switch.place.directory
        yield Thing(f"Open vSwitch of {where}", partial(_end_with_devices, switch))
    yield from _below(switch.place.directory, _OVS_FILES)


def _end_with_devices(switch: OvsInstance) -> None:
    """End ``switch``; half of one is started first, for it alone takes its devices away."""
    try:
        switch.start()
    finally:
        switch.stop(cleanup=True)


def _switch(config: AgentConfig) -> OvsInstance:
    return OvsInstance(Place(config.ovs_rundir, config.ovs_rundir))


def _pins(bpffs: Path) -> Iterator[Thing]:
    yield from _below(bpffs, _PINS)
    if bpffs.is_mount() and bpffs != _SYSTEM_BPFFS:
        yield Thing(f"bpffs {bpffs}", partial(unmount, bpffs))
        yield Thing(f"directory {bpffs}", partial(_remove_empty, bpffs), bpffs)


def _metrics_socket(config: AgentConfig) -> Iterator[Thing]:
    """Yield what an agent that was killed has left where its configuration says."""
    path = config.metrics
    if isinstance(path, Path) and path.is_socket() and path != config.run_dir / "metrics.sock":
        yield Thing(f"file {path}", partial(_remove, path), path)


def _opi_socket(config: AgentConfig) -> Iterator[Thing]:
    """Yield what an agent that was killed has left where a plugin is; one that answers stays."""
    path = config.opi.socket if config.opi else None
    if path is not None and path.is_socket() and _listener(path) is None:
        yield Thing(f"file {path}", partial(_remove, path), path)


def _installed(config: AgentConfig) -> Iterator[Thing]:
    """Yield what ``make install`` put outside: it is that of the agent which the plugin asks."""
    if config.cni_socket != Path(shim.SOCKET.decode()):
        return
    plugin = PLUGIN_DIRECTORY / PLUGIN_NAME
    if is_plugin(plugin):
        yield Thing(f"file {plugin}", partial(_remove, plugin), plugin)
    ours = Path(sysconfig.get_path("scripts")) / _COMMAND.name
    if _COMMAND.is_symlink() and _COMMAND.readlink() == ours:
        yield Thing(f"link {_COMMAND}", partial(_remove, _COMMAND), _COMMAND)


def _below(
    directory: Path, patterns: Iterable[str], before: Collection[Thing] = ()
) -> Iterator[Thing]:
    """Yield what in ``directory`` has names that we give.

    Or the directory itself, if it holds nothing else than that and what goes ``before``.
    """
    ours = sorted({path for pattern in patterns for path in directory.glob(pattern)})
    going = {*ours, *(thing.path for thing in before)}
    if directory.is_dir() and not directory.is_mount() and {*directory.iterdir()} <= going:
        yield Thing(f"directory {directory}", partial(_remove_with, directory, ours), directory)
    else:
        yield from (Thing(f"file {path}", partial(_remove, path), path) for path in ours)


def _remove(path: Path) -> None:
    if path.is_dir():
        for inside in path.iterdir():  # shutil.rmtree wants more of a file system than bpffs has
            _remove(inside)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _remove_with(directory: Path, inside: Iterable[Path]) -> None:
    for path in inside:
        _remove(path)
    _remove_empty(directory)


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):  # something came into it meanwhile: then it is not ours alone
        directory.rmdir()
