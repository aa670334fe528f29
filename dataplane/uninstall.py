"""What an agent made on its machine: found by its marks, and taken away in a safe order."""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bpf.bpffs import unmount
from dataplane.config import AgentConfig
from dataplane.core.errors import FabricUnavailableError, OverweaveError
from dataplane.fabric.intent import node_rows, title
from dataplane.fabric.intent_rules import some
from dataplane.fabric.store import FabricStore
from dataplane.host.pod import OUR_GROUP
from dataplane.netlink import links
from dataplane.netlink.rtnl import Rtnl
from dataplane.netlink.tc import Slot, delete_bpf, list_bpf
from ovs_client.daemons import OvsInstance, Place
from ovs_client.database import Tls
from ovs_client.errors import DatabaseError
from ovs_client.vswitch import OWNER_KEY, Bridge, Port, VSwitch

_FILTERS = "overweave:"  # how bpf/target.py begins the names of its filters
_PINS = ("programs_*", "maps_*", "loading_*")  # what bpf/loader.py pins
_STATE_FILES = ("attachments", "fabric.json", "*.partial", "agent.lock")
_RUN_FILES = ("cni.sock", "api.sock", "tombstones")
_OVS_FILES = (
    "conf.db",
    ".conf.db.~lock~",
    "db.sock",
    "*.pid",
    "*.ctl",
    "*.log",
    "*.mgmt",
    "*.snoop",
)
_SYSTEM_BPFFS = Path("/sys/fs/bpf")
_OVS_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class Thing:
    """Something of ours, and how it is taken away; gone already is success."""

    name: str
    remove: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Inventory:
    """What of ours is here, in order of removal; ``unseen`` is what could not be looked at."""

    things: tuple[Thing, ...]
    unseen: tuple[str, ...]


def inventory(config: AgentConfig, vswitch: VSwitch) -> Inventory:
    """Look at everything the agent of ``config`` makes, in the caller's network namespace.

    ``vswitch`` is started, connected or not. Raises OverweaveError while that agent runs.
    """
    _refuse_running(config.state_dir)
    things = [*_links(), *_filters()]
    unseen: list[str] = []
    for look in (partial(_bridges, config, vswitch), partial(_fabric_rows, config)):
        try:
            things += look()
        except (DatabaseError, FabricUnavailableError) as error:
            unseen.append(str(error))
    things += [*_own_switch(config), *_pins(config.bpffs)]
    things += [*_below(config.run_dir, _RUN_FILES), *_below(config.state_dir, _STATE_FILES)]
    return Inventory(tuple(things), tuple(unseen))


def _refuse_running(state_dir: Path) -> None:
    lock = state_dir / "agent.lock"
    if not lock.exists():
        return
    with lock.open("r") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OverweaveError(f"the agent of {state_dir} still runs; stop it first") from error


def _links() -> Iterator[Thing]:
    """Yield the node's ends of pods' interfaces; the pods' ends go with them."""
    with Rtnl() as rtnl:
        for netdev in links.every(rtnl):
            if netdev.group == OUR_GROUP and netdev.kind == "veth":
                yield Thing(f"link {netdev.name} ({netdev.alias})", partial(_delete, netdev.name))


def _delete(name: str) -> None:
    with Rtnl() as rtnl:
        netdev = links.find(rtnl, name)
        if netdev is not None:
            links.delete(rtnl, netdev.ifindex)


def _filters() -> Iterator[Thing]:
    with Rtnl() as rtnl:
        for netdev in links.every(rtnl):
            for found in list_bpf(rtnl, netdev.ifindex):
                if found.name.startswith(_FILTERS):
                    name = f"tc filter {found.name} of {netdev.name}"
                    yield Thing(name, partial(_detach, found.slot))


def _detach(slot: Slot) -> None:
    with Rtnl() as rtnl:
        delete_bpf(rtnl, slot)


def _bridges(config: AgentConfig, vswitch: VSwitch) -> list[Thing]:
    if config.ovs.manage and not _switch(config).running():
        return []  # its database is ours and goes as a file
    vswitch.wait_connected(_OVS_TIMEOUT_S)
    bridges, ports = vswitch.bridges(), vswitch.ports()
    marked = sorted(name for name, bridge in bridges.items() if _is_ours(bridge, config))
    strays = sorted(
        name for name, port in ports.items() if _is_ours(port, config) and port.bridge not in marked
    )
    return [
        *(Thing(f"bridge {name}", partial(vswitch.delete, bridges=[name])) for name in marked),
        *(Thing(f"port {name}", partial(vswitch.delete, ports=[name])) for name in strays),
    ]


def _is_ours(value: Bridge | Port, config: AgentConfig) -> bool:
    return value.external_ids.get(OWNER_KEY) == config.node


def _fabric_rows(config: AgentConfig) -> list[Thing]:
    with _store(config) as store:
        owned = node_rows(config.node, store.read())
    rows = f"rows of node {config.node} in the fabric database ({some(list(map(title, owned)))})"
    return [Thing(rows, partial(_forget, config))] if owned else []


def _forget(config: AgentConfig) -> None:
    with _store(config) as store:
        store.write(deletes=node_rows(config.node, store.read()))


def _store(config: AgentConfig) -> FabricStore:
    files = config.fabric.files
    tls = Tls(files["private_key"], files["certificate"], files["ca_cert"]) if files else None
    return FabricStore(config.fabric.remote, tls)


def _own_switch(config: AgentConfig) -> Iterator[Thing]:
    if not config.ovs.manage:
        return
    switch = _switch(config)
    if switch.server.running() or switch.switch_running():
        where = switch.place.directory
        yield Thing(f"Open vSwitch of {where}", partial(switch.stop, cleanup=True))
    yield from _below(switch.place.directory, _OVS_FILES)


def _switch(config: AgentConfig) -> OvsInstance:
    return OvsInstance(Place(config.ovs_rundir, config.ovs_rundir))


def _pins(bpffs: Path) -> Iterator[Thing]:
    yield from _below(bpffs, _PINS)
    if bpffs.is_mount() and bpffs != _SYSTEM_BPFFS:
        yield Thing(f"bpffs {bpffs}", partial(unmount, bpffs))
        yield Thing(f"directory {bpffs}", partial(_remove_empty, bpffs))


def _below(directory: Path, patterns: Iterable[str]) -> Iterator[Thing]:
    """Yield what in ``directory`` has names that we give, and itself if it holds nothing else."""
    ours = sorted({path for pattern in patterns for path in directory.glob(pattern)})
    yield from (Thing(f"file {path}", partial(_remove, path)) for path in ours)
    if directory.is_dir() and not directory.is_mount() and {*directory.iterdir()} <= {*ours}:
        yield Thing(f"directory {directory}", partial(_remove_empty, directory))


def _remove(path: Path) -> None:
    if path.is_dir():
        for inside in path.iterdir():  # shutil.rmtree wants more of a file system than bpffs has
            _remove(inside)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _remove_empty(directory: Path) -> None:
    with suppress(OSError):  # something came into it meanwhile: then it is not ours alone
        directory.rmdir()
