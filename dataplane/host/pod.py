"""The pod's end of an attachment: a veth pair between its network namespace and the node's."""

from __future__ import annotations

import errno
import socket
import threading
from contextlib import suppress
from ipaddress import ip_interface
from pathlib import Path

from dataplane.contracts import PodRoute
from dataplane.core.desired import Port
from dataplane.core.errors import OverweaveError, TargetError
from dataplane.core.model import Attachment, IpAddress, IpNetwork
from dataplane.host.announcement import announcement
from dataplane.netlink import addresses, links, sysctl
from dataplane.netlink import routes as kernel_routes
from dataplane.netlink.addresses import IpInterface
from dataplane.netlink.links import LinkChange, LinkSpec, Netdev
from dataplane.netlink.netns import Netns, NetnsError
from dataplane.netlink.rtnl import KernelError, Rtnl

OUR_GROUP = 0x4F57  # "OW": marks a vpN as ours from its first moment on, before it has an alias

# RFC 5227 section 1.1, ANNOUNCE_NUM 2 and ANNOUNCE_INTERVAL. The second one also reaches the nodes
# that had not been told of this one yet, where it is the segment's first pod here.
_ANNOUNCE_AGAIN_S = 2.0
_ALIAS_BYTES = 255  # IFALIASZ less its NUL (linux/if.h)
_OWN_NETNS = Path("/proc/thread-self/ns/net")


class VethWiring:
    """A PodWiring; the node's namespace is that of the calling thread. Any thread may call."""

    def plumb(self, port: Port, routes: tuple[PodRoute, ...] = ()) -> None:
        """Create or complete the pair; see PodWiring."""
        attachment = port.attachment
        with Netns(attachment.netns) as netns, Rtnl() as node:
            _refuse_own(netns)
            try:
                vp = _make_pair(node, netns, port)
                _finish_node_end(node, vp, port)
                netns.run(lambda: _finish_pod_end(port, routes))
            except BaseException:
                with suppress(OverweaveError):
                    self.unplumb(attachment)
                raise

    def unplumb(self, attachment: Attachment) -> None:
        """Delete the pair by its end on the node; the pod's end goes with it."""
        with Rtnl() as node:
            vp = links.find(node, attachment.access_port)
            # Slots are used again: a vpN with another attachment's alias is not this one's to take.
            if vp is not None and _is_ours(vp) and vp.alias in ("", alias(attachment)):
                links.delete(node, vp.ifindex)

    def check(self, port: Port, routes: tuple[PodRoute, ...] = ()) -> tuple[str, ...]:
        """Look at the pair; see PodWiring."""
        attachment = port.attachment
        try:
            with Netns(attachment.netns) as netns, Rtnl() as node:
                vp = links.find(node, attachment.access_port)
                pod = netns.run(lambda: _pod_end(attachment))
                if pod is None:
                    return (f"interface {attachment.ifname} does not exist in {attachment.netns}",)
                faults = netns.run(lambda: _pod_faults(port, pod, routes))
                if vp is None or not _are_peers(node, netns, vp, pod):
                    faults += (f"{attachment.ifname} is not joined to {attachment.access_port}",)
                return faults
        except NetnsError as error:
            return (str(error),)

    def announce(self, port: Port) -> None:
        """Send one frame per address from inside the pod, now and in 2 s; see PodWiring."""
        with Netns(port.attachment.netns) as netns:
            _announce(netns, port.attachment)
            again = threading.Timer(
                _ANNOUNCE_AGAIN_S, _announce_again, (port.attachment, netns.inode)
            )
        again.daemon = True
        again.start()


def alias(attachment: Attachment) -> str:
    """Return the ifalias of a vpN: for people, and to tell whose it is when its slot is reused."""
    return f"overweave:{attachment.container_id}/{attachment.ifname}"[:_ALIAS_BYTES]


def interface_of(ip: IpAddress, subnets: tuple[IpNetwork, ...]) -> IpInterface:
    """Return ``ip`` with the prefix length of the narrowest subnet it lies in, else /32 or /128."""
    lengths = [net.prefixlen for net in subnets if net.version == ip.version and ip in net]
    return ip_interface((ip.packed, max(lengths, default=ip.max_prefixlen)))


def _refuse_own(netns: Netns) -> None:
    if netns.inode == _OWN_NETNS.stat().st_ino:
        raise NetnsError(
            f"{netns.path} is this node's own network namespace; a pod needs one of its own"
        )


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
    pod = netns.run(lambda: _pod_end(attachment))
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
    if netns.run(lambda: _pod_end(attachment)) is not None:
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
    wanted = LinkChange(up=True, mtu=port.mtu, alias=alias(port.attachment))
    links.change(node, vp.ifindex, wanted)


def _pod_end(attachment: Attachment) -> Netdev | None:
    """Return the pod's interface; called inside the pod."""
    with Rtnl() as pod:
        return links.find(pod, attachment.ifname)


def _finish_pod_end(port: Port, routes: tuple[PodRoute, ...]) -> None:
    """Bring the pod's interface up, with addresses and routes; called inside the pod."""
    attachment = port.attachment
    with Rtnl() as pod:
        found = links.find(pod, attachment.ifname)
        if found is None:
            raise TargetError(
                f"interface {attachment.ifname} vanished from {attachment.netns}; retry"
            )
        if sysctl.has_ipv6():
            _prepare_ipv6(attachment)
        wanted = LinkChange(up=True, mtu=port.mtu, mac=attachment.mac)
        links.change(pod, found.ifindex, wanted)
        for ip in attachment.ips:
            addresses.replace(pod, found.ifindex, interface_of(ip, port.segment.subnets))
        for route in routes:
            kernel_routes.ensure(
                pod, kernel_routes.Route(found.ifindex, route.destination, route.gateway)
            )


def _prepare_ipv6(attachment: Attachment) -> None:
    """Let the link-local address be the EUI-64 one that the guard allows, usable at once."""
    sysctl.set_ipv6(attachment.ifname, "addr_gen_mode", 0)
    sysctl.set_ipv6(attachment.ifname, "accept_dad", 0)
    # A runtime that knows nothing of our addresses may have switched IPv6 off for new interfaces.
    if any(ip.version == 6 for ip in attachment.ips):
        sysctl.set_ipv6(attachment.ifname, "disable_ipv6", 0)


def _pod_faults(port: Port, pod: Netdev, routes: tuple[PodRoute, ...]) -> tuple[str, ...]:
    """Return what is wrong with the pod's interface; called inside the pod."""
    attachment = port.attachment
    with Rtnl() as rtnl:
        held = {each.interface for each in addresses.of(rtnl, pod.ifindex)}
        known = set(kernel_routes.of(rtnl, pod.ifindex)) if routes else set()
    wanted = (interface_of(ip, port.segment.subnets) for ip in attachment.ips)
    asked = (kernel_routes.Route(pod.ifindex, each.destination, each.gateway) for each in routes)
    name = attachment.ifname
    return (
        *([] if pod.up else [f"{name} is down"]),
        *([] if pod.mac == attachment.mac else [f"{name} has MAC {pod.mac}, not {attachment.mac}"]),
        *([] if pod.mtu == port.mtu else [f"{name} has MTU {pod.mtu}, not {port.mtu}"]),
        *(f"{name} lacks address {interface}" for interface in wanted if interface not in held),
        *(f"{name} lacks {route}" for route in asked if route not in known),
    )


def _announce(netns: Netns, attachment: Attachment) -> None:
    frames = announcement(attachment.mac, attachment.ips)
    netns.run(lambda: _send(attachment.ifname, frames))


def _announce_again(attachment: Attachment, inode: int) -> None:
    """Announce in the namespace of that ``inode``; by now there may be none, or another one."""
    with suppress(OverweaveError), Netns(attachment.netns) as netns:
        if netns.inode == inode:
            _announce(netns, attachment)


def _send(ifname: str, frames: tuple[bytes, ...]) -> None:
    """Send Ethernet frames out of an interface; called inside the pod."""
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    try:
        sender = socket.socket(socket.AF_PACKET, kind)  # protocol 0: it receives nothing
        try:
            for frame in frames:
                sender.sendto(frame, (ifname, 0))
        finally:
            # The kernel takes about 15 ms to close one (a grace period): no ADD waits for that.
            threading.Thread(target=sender.close, name="close-announcer").start()
    except OSError as error:
        raise TargetError(f"announce the addresses of {ifname}: {error.strerror}") from None
