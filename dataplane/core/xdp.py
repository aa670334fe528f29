"""Where XDP earns its place: in the driver of an underlay NIC that loses nothing by it."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.core.desired import LocalNode, Xdp
from dataplane.core.events import Link

VETH = "native XDP on a veth switches off TSO of its peer"


@dataclass(frozen=True, slots=True)
class XdpPlace:
    """The place for an XDP program: what is said to be pending where it cannot be had."""

    netdev: str

    def __str__(self) -> str:
        """Name it in a report."""
        return f"native XDP on {self.netdev}"


def why_no_xdp(node: LocalNode, nic: Link | None) -> str:
    """Return why no program of ours should be in the driver of the NIC, empty if one should."""
    if not node.ebpf:
        return "there is no eBPF here"
    if not node.fastpath:
        return "fastpath is off"
    if node.xdp is Xdp.OFF:
        return "underlay.xdp is off"
    if nic is None:
        return f"there is no netdev {node.underlay_interface} yet"
    if node.xdp is Xdp.AUTO and nic.kind == "veth":
        return VETH
    return ""
