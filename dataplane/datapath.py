"""Which datapath of Open vSwitch carries the overlay on this node: the kernel's, or its own."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from dataplane.config import AgentConfig, DatapathChoice
from dataplane.core.desired import Datapath
from dataplane.core.errors import OverweaveError
from dataplane.core.model import Encap
from dataplane.netlink.generic import has_family
from dataplane.netlink.links import has_tunnels
from ovs_client.vswitch import VSwitch

_FAMILY = "ovs_datapath"  # linux/openvswitch.h, OVS_DATAPATH_FAMILY
_SYSTEM = "system"  # what Open vSwitch calls the kernel's
_OVS_TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class ChosenDatapath:
    """The datapath of this node, and why it is not the kernel's where that was left open."""

    datapath: Datapath
    why: str = ""

    def __str__(self) -> str:
        """Say it in status."""
        return f"{self.datapath}, because {self.why}" if self.why else str(self.datapath)


def choose_datapath(config: AgentConfig) -> ChosenDatapath:
    """Ask Open vSwitch and the kernel what they have; loads the kernel's module.

    Raises OverweaveError where the configuration requires the kernel's and it is not to be had.
    """
    if config.datapath is DatapathChoice.USERSPACE:
        return ChosenDatapath(Datapath.USERSPACE)
    why = _why_not_kernel(config)
    if why and config.datapath is DatapathChoice.KERNEL:
        raise OverweaveError(f"datapath: kernel, but {why}")
    return ChosenDatapath(Datapath.USERSPACE if why else Datapath.KERNEL, why)


def _why_not_kernel(config: AgentConfig) -> str:
    if config.ovs.manage:
        return (
            "with ovs.manage the kernel's datapath is left to the node's own Open vSwitch: two"
            " would undo each other's work in it"
        )
    try:
        why = _why_not_this_kernel()
    except OverweaveError as error:
        return str(error)
    if why:
        return why
    types = _datapath_types(config.ovs_remote)
    if types and _SYSTEM not in types:
        return f"the Open vSwitch of {config.ovs_remote} has the datapaths {', '.join(types)} only"
    return ""


def _why_not_this_kernel() -> str:
    if not has_family(_FAMILY):
        return "the kernel has no datapath for Open vSwitch (load its module openvswitch)"
    lacking = [encap for encap in Encap if not has_tunnels(encap)]
    return f"the kernel has no {' and no '.join(lacking)} (load its module)" if lacking else ""


def _datapath_types(remote: str) -> tuple[str, ...]:
    """Return what Open vSwitch says it can do; nothing while it does not answer.

    Then the kernel alone decides, so that the answer is the same as when it does: every one that
    is built for Linux has both.
    """
    vswitch = VSwitch(remote)
    vswitch.start()
    try:
        with suppress(OverweaveError):
            vswitch.wait_connected(_OVS_TIMEOUT_S)
            return vswitch.datapath_types()
    finally:
        vswitch.stop()
    return ()
