"""The pod's end of an attachment: a veth pair between its network namespace and the node's."""

from __future__ import annotations

import errno
import time
from contextlib import suppress

from dataplane.contracts import PodRoute
from dataplane.core.desired import Port
from dataplane.core.errors import OverweaveError, TargetError
from dataplane.core.model import Attachment
from dataplane.host import pod_end
from dataplane.netlink import links, sysctl
from dataplane.netlink.links import LinkChange, LinkSpec, Netdev
from dataplane.netlink.netns import Netns, NetnsError
from dataplane.netlink.rtnl import KernelError, Rtnl

_RUNNING_S = 1.0  # it takes a millisecond, on a busy machine tens of them
_LOOK_S = 0.001
OUR_GROUP = 0x4F57  # "OW": marks a vpN as ours from its first moment on, before it has an alias


class VethWiring:
    """A PodWiring; the node's namespace is that of the calling thread. Any thread may call."""

    def plumb(self, port: Port, routes: tuple[PodRoute, ...] = ()) -> None:
        """Create or complete the pair; see PodWiring."""
        attachment = port.attachment
        with Netns(attachment.netns) as netns, Rtnl() as node:
            pod_end.refuse_own(netns)
            try:
                vp = _make_pair(node, netns, port)
                _finish_node_end(node, vp, port)
                netns.run(lambda: pod_end.bring_up(port))
                _await_running(node, vp)
                netns.run(lambda: pod_end.give_addresses(port, routes))
            except BaseException:
                with suppress(OverweaveError):
                    self.unplumb(attachment)
                raise

    def unplumb(self, attachment: Attachment) -> None:
        """Delete the pair by its end on the node; the pod's end goes with it."""
        with Rtnl() as node:
            vp = links.find(node, attachment.access_port)
            # Slots are used again: a vpN with another attachment's alias is not this one's to take.
            if vp is not None and _is_ours(vp) and vp.alias in ("", pod_end.alias(attachment)):
                links.delete(node, vp.ifindex)

    def check(self, port: Port, routes: tuple[PodRoute, ...] = ()) -> tuple[str, ...]:
        """Look at the pair; see PodWiring."""
        attachment = port.attachment
        try:
            with Netns(attachment.netns) as netns, Rtnl() as node:
                vp = links.find(node, attachment.access_port)
                pod = netns.run(lambda: pod_end.find(attachment))
                if pod is None:
                    return (f"interface {attachment.ifname} does not exist in {attachment.netns}",)
                faults = netns.run(lambda: pod_end.faults(port, pod, routes))
                if vp is None or not _are_peers(node, netns, vp, pod):
                    faults += (f"{attachment.ifname} is not joined to {attachment.access_port}",)
                return faults
        except NetnsError as error:
            return (str(error),)

    def announce(self, port: Port) -> None:
        """Send from inside the pod; see PodWiring."""
        pod_end.announce(port.attachment)


def _await_running(node: Rtnl, vp: Netdev) -> None:
    """Return once the pod hears what is sent to it by ``vp``; the kernel does not wait for that.

    A pod with addresses asks for neighbours at once, and after a lost answer only in a second.
    """
    give_up = time.monotonic() + _RUNNING_S
    while time.monotonic() < give_up:
        found = links.at(node, vp.ifindex)
        if found is None or found.running:
            return
        time.sleep(_LOOK_S)


def _is_ours(vp: Netdev) -> bool:
    return vp.group == OUR_GROUP


def _make_pair(node: Rtnl, netns: Netns, port: Port) -> Netdev:
    """Return the node's end of the pair, made now or by an earlier call."""
    attachment = port.attachment
    try:
        _create_pair(node, netns, port)
    except KernelError as error:
        if error.errno != errno.EEXIST:
            raise
        if not _is_complete(node, netns, attachment):
            _clear_way(node, netns, attachment)
            _create_pair(node, netns, port)
    vp = links.find(node, attachment.access_port)
    if vp is None:
        raise TargetError(f"netdev {attachment.access_port} vanished while it was set up; retry")
    return vp


def _create_pair(node: Rtnl, netns: Netns, port: Port) -> None:
    attachment = port.attachment
    links.create_veth(
        node,
        LinkSpec(attachment.access_port, port.mtu, group=OUR_GROUP),
        LinkSpec(attachment.ifname, port.mtu, attachment.mac, netns=netns.fd),
    )


def _is_complete(node: Rtnl, netns: Netns, attachment: Attachment) -> bool:
    vp = links.find(node, attachment.access_port)
    pod = netns.run(lambda: pod_end.find(attachment))
    if vp is None or pod is None:
        return False
    return _is_ours(vp) and _are_peers(node, netns, vp, pod)


def _clear_way(node: Rtnl, netns: Netns, attachment: Attachment) -> None:
    """Delete what an earlier use of the slot left; refuse what somebody else made."""
    vp = links.find(node, attachment.access_port)
    if vp is not None:
        if not _is_ours(vp):
            raise TargetError(
                f"netdev {vp.name} exists on this node and is not ours; rename or delete it"
            )
        links.delete(node, vp.ifindex)
    if netns.run(lambda: pod_end.find(attachment)) is not None:
        raise TargetError(
            f"interface {attachment.ifname} exists already in {netns.path} and is not ours;"
            " remove it, or ask for another name"
        )


def _are_peers(node: Rtnl, netns: Netns, vp: Netdev, pod: Netdev) -> bool:
    # Numbers of other namespaces may be equal by chance, so the namespace's own id counts too.
    joined = (vp.peer, pod.peer) == (pod.ifindex, vp.ifindex)
    return joined and vp.peer_nsid == links.nsid(node, netns.fd)


def _finish_node_end(node: Rtnl, vp: Netdev, port: Port) -> None:
    # Before it is up: no router solicitation, DAD or MLD of the node's own towards the pod.
    if sysctl.has_ipv6():
        sysctl.set_ipv6(vp.name, "disable_ipv6", 1)
    wanted = LinkChange(up=True, mtu=port.mtu, alias=pod_end.alias(port.attachment))
    links.change(node, vp.ifindex, wanted)
