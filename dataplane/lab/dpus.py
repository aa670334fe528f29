"""DPUs of a lab: an emulated switch between the node that is its host and the node that it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from dataplane.core.errors import OverweaveError
from dataplane.lab import underlay
from dataplane.lab.layout import UNDERLAY, LabPaths
from dataplane.lab.topology import Dpu, LabNode, Topology, Vendor
from dataplane.lab.underlay import NIC, ensure_namespace
from ovs_client import process
from vendors.emulator.control import FaultError, tell
from vendors.emulator.settings import FIRST_VF_VSI

BRIDGE, UPLINK, CPU = "br-mrv0", "up", "cpu0"
_START_S = 20.0
_CHANNEL_PORT = 50052
_FIRST_BUS = 6  # of PCI addresses as a host has them: 0000:06:00.2 is the first VF there


class DpuError(OverweaveError):
    """An emulated switch is not as it should be; the text says where to look."""


def vf_netdev(node: str, number: int) -> str:
    """Return what the host calls a VF of the DPU that is ``node``."""
    return f"{node}v{number}"


def device_id(topology: Topology, node: LabNode, number: int) -> str:
    """Return the PCI address of a VF; each DPU has a bus of its own, and its PF function 0."""
    bus = _FIRST_BUS + topology.dpus.index(node)
    return f"0000:{bus:02x}:{(number + 2) // 8:02x}.{(number + 2) % 8}"


def start(paths: LabPaths, topology: Topology, node: LabNode) -> None:
    """Start the emulated switch of the DPU that is ``node``, unless it runs. Raises DpuError."""
    file = _file(paths, node)
    ensure_namespace(space(paths, node))
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(_settings(paths, topology, node), sort_keys=False))
    if not _answers(paths, node):
        log = file.parent / "emulator.log"
        with log.open("ab") as opened:
            subprocess.run(
                [
                    *("setsid", "--fork", "nsenter", f"--net={space(paths, node)}"),
                    *(sys.executable, "-m", "vendors.emulator", "--config", str(file)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=opened,
                stderr=opened,
                cwd="/",
                check=True,
            )
        if not process.wait_until(lambda: _answers(paths, node), _START_S):
            raise DpuError(f"the switch of {node.name} does not answer; its log: {log}")


def unplug(paths: LabPaths, node: LabNode) -> None:
    """Take the VFs of the DPU that is ``node`` out of its host; its switch must not run."""
    for number in range(_dpu(node).vfs):
        underlay.unplug(paths.netns(_dpu(node).host), vf_netdev(node.name, number))


def control(paths: LabPaths, node: LabNode) -> Path:
    """Return the socket that takes faults for the switch of ``node``."""
    return directory(paths, node) / "control.sock"


def devices(paths: LabPaths, topology: Topology, node: LabNode) -> list[dict[str, Any]]:
    """Return the ``devices`` of an agent's configuration: each DPU that ``node`` hosts or is."""
    return [
        _half(paths, topology, dpu, node)
        for dpu in topology.dpus
        if node.name in (dpu.name, _dpu(dpu).host)
    ]


def _half(paths: LabPaths, topology: Topology, dpu: LabNode, node: LabNode) -> dict[str, Any]:
    half = {"serial": f"lab-{dpu.name}", "vendor": _dpu(dpu).vendor.value, "emulated": True}
    if node.name != dpu.name:
        vfs = [
            {"device_id": device_id(topology, dpu, n), "netdev": vf_netdev(dpu.name, n)}
            for n in range(_dpu(dpu).vfs)
        ]
        return {**half, "side": "host", **_channel(paths, dpu, node), "vfs": vfs}
    representors = [f"rep{n}" for n in range(_dpu(dpu).vfs)]
    switch = _SWITCHES[_dpu(dpu).vendor](directory(paths, dpu), _dpu(dpu).vfs)
    return {
        **half,
        "side": "dpu",
        **_channel(paths, dpu, node),
        "representors": representors,
        "switch": switch,
        "control": f"unix:{control(paths, dpu)}",
    }


def _channel(paths: LabPaths, dpu: LabNode, node: LabNode) -> dict[str, str]:
    """Return where host and DPU meet, as the configuration of ``node``, one of them, says it."""
    if not _dpu(dpu).apart:
        socket = paths.node(dpu.name).attachment_socket
        return {} if node.name == dpu.name else {"attachment": f"unix:{socket}"}
    address = dpu.addresses[0].ip
    where = f"[{address}]" if address.version == 6 else str(address)
    peer = _dpu(dpu).host if node.name == dpu.name else dpu.name
    return {"attachment": f"ssl:{where}:{_CHANNEL_PORT}", "peer": peer}


def certificate(paths: LabPaths, node: LabNode) -> dict[str, str]:
    """Return the files by which ``node`` is known, as its configuration has them."""
    from dataplane.pki.authority import Authority
    from dataplane.pki.certificates import AUTHORITY_DAYS, DAYS, Holder, Role

    authority, now = Authority(paths.pki), datetime.now(UTC)
    authority.create(now, AUTHORITY_DAYS)
    issued = authority.issue(Holder(node.name, Role.NODE), now, DAYS)
    files = {"private_key": issued.key, "certificate": issued.path, "ca_cert": authority.bundle}
    return {key: str(path) for key, path in files.items()}


def _octeon(run_dir: Path, vfs: int) -> dict[str, Any]:
    return {
        "rundir": str(run_dir / "ovs"),
        "openflow": f"unix:{run_dir}/openflow.sock",
        "bridge": BRIDGE,
        "uplink": UPLINK,
        "cpu": CPU,
        "vfs": [f"vf{n}" for n in range(vfs)],
    }


def _e2100(run_dir: Path, vfs: int) -> dict[str, Any]:
    return {
        "address": f"unix:{run_dir}/p4runtime.sock",
        "vfs": [FIRST_VF_VSI + n for n in range(vfs)],
    }


def _sx904(run_dir: Path, _vfs: int) -> dict[str, Any]:
    return {
        "address": f"unix:{run_dir}/rtnetlink.sock",
        "devlink": f"unix:{run_dir}/devlink.sock",
        "uplink": NIC,
        "geneve": "genev_sys_6081",
        "vxlan": "vxlan_sys_4789",
    }


_SWITCHES: Mapping[Vendor, Callable[[Path, int], dict[str, Any]]] = {
    Vendor.INTEL: _e2100,
    Vendor.MARVELL: _octeon,
    Vendor.SENAO: _sx904,
}
"""What the vendor's driver needs to know of the switch whose files are here, with so many VFs."""


def _settings(paths: LabPaths, topology: Topology, node: LabNode) -> dict[str, Any]:
    def port(name: str, netdev: str, member: str) -> dict[str, str]:
        return {"port": name, "netdev": netdev, "netns": str(paths.netns(member))}

    numbers = range(_dpu(node).vfs)
    return {
        "vendor": _dpu(node).vendor.value,
        "run_dir": str(directory(paths, node)),
        **_own_settings(paths, topology, node),
        "uplink": port(UPLINK, node.name, UNDERLAY),
        "cpu": port(CPU, NIC, node.name),
        "vfs": [port(f"vf{n}", vf_netdev(node.name, n), _dpu(node).host) for n in numbers],
        "representors": [port(f"rep{n}", f"rep{n}", node.name) for n in numbers],
    }


def _own_settings(paths: LabPaths, topology: Topology, node: LabNode) -> dict[str, Any]:
    """Return what only the switch of this vendor is told."""
    match _dpu(node).vendor:
        case Vendor.MARVELL:
            return {
                "netns": str(space(paths, node)),
                "bridge": BRIDGE,
                "addresses": [str(address.ip) for address in node.addresses],
                "mtu": topology.mtu,
            }
        case Vendor.SENAO:
            return {"tunnels": _dpu(node).tunnels}
        case Vendor.INTEL:
            return {}


def _dpu(node: LabNode) -> Dpu:
    if node.dpu is None:
        raise DpuError(f"node {node.name} is no DPU")
    return node.dpu


def _answers(paths: LabPaths, node: LabNode) -> bool:
    try:
        tell(control(paths, node), "ping")
    except FaultError:
        return False
    return True


def directory(paths: LabPaths, node: LabNode) -> Path:
    """Return where the emulated switch of ``node`` keeps its files."""
    return paths.directory / f"{node.name}.switch"


def _file(paths: LabPaths, node: LabNode) -> Path:
    return directory(paths, node) / "switch.yaml"


def space(paths: LabPaths, node: LabNode) -> Path:
    """Return the namespace that the emulated switch of ``node`` runs in."""
    return paths.netns(f"{node.name}.switch")
