"""A pod's interface inside its network namespace, whatever it is the end of."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

from dataplane.contracts import PodRoute
from dataplane.core.desired import Port
from dataplane.core.errors import OverweaveError, TargetError
from dataplane.core.model import Attachment, interface_of
from dataplane.host.announcement import announcement
from dataplane.netlink import addresses, links, sysctl
from dataplane.netlink import routes as kernel_routes
from dataplane.netlink.links import LinkChange, Netdev
from dataplane.netlink.netns import Netns, NetnsError
from dataplane.netlink.rtnl import Rtnl

# RFC 5227 section 1.1, ANNOUNCE_NUM 2 and ANNOUNCE_INTERVAL. The second one also reaches the nodes
# that had not been told of this one yet, where it is the segment's first pod here.
_ANNOUNCE_AGAIN_S = 2.0
_ALIAS_BYTES = 255  # IFALIASZ less its NUL (linux/if.h)
_OWN_NETNS = Path("/proc/thread-self/ns/net")


def announce(attachment: Attachment) -> None:
    """Send one frame per address from inside the pod, now and in 2 s; see PodWiring."""
    with Netns(attachment.netns) as netns:
        _announce(netns, attachment)
        again = threading.Timer(_ANNOUNCE_AGAIN_S, _announce_again, (attachment, netns.inode))
    again.daemon = True
    again.start()


def alias(attachment: Attachment) -> str:
    """Return the ifalias of a vpN: for people, and to tell whose it is when its slot is reused."""
    return f"overweave:{attachment.container_id}/{attachment.ifname}"[:_ALIAS_BYTES]


def refuse_own(netns: Netns) -> None:
    """Raise NetnsError if ``netns`` is the calling thread's own."""
    if netns.inode == _OWN_NETNS.stat().st_ino:
        raise NetnsError(
            f"{netns.path} is this node's own network namespace; a pod needs one of its own"
        )


def find(attachment: Attachment) -> Netdev | None:
    """Return the pod's interface; called inside the pod."""
    with Rtnl() as pod:
        return links.find(pod, attachment.ifname)


def bring_up(port: Port) -> None:
    """Bring the pod's interface up, without addresses; called inside the pod."""
    attachment = port.attachment
    with Rtnl() as pod:
        if sysctl.has_ipv6():
            _prepare_ipv6(attachment)
        wanted = LinkChange(up=True, mtu=port.mtu, mac=attachment.mac)
        links.change(pod, _known(pod, attachment).ifindex, wanted)


def give_addresses(port: Port, routes: tuple[PodRoute, ...]) -> None:
    """Give the pod's interface its addresses and routes; called inside the pod."""
    attachment = port.attachment
    with Rtnl() as pod:
        ifindex = _known(pod, attachment).ifindex
        for ip in attachment.ips:
            addresses.replace(pod, ifindex, interface_of(ip, port.segment.subnets))
        for route in routes:
            kernel_routes.ensure(
                pod, kernel_routes.Route(ifindex, route.destination, route.gateway)
            )


def _known(pod: Rtnl, attachment: Attachment) -> Netdev:
    found = links.find(pod, attachment.ifname)
    if found is None:
        raise TargetError(f"interface {attachment.ifname} vanished from {attachment.netns}; retry")
    return found


def _prepare_ipv6(attachment: Attachment) -> None:
    """Let the link-local address be the EUI-64 one that the guard allows, usable at once."""
    sysctl.set_ipv6(attachment.ifname, "addr_gen_mode", 0)
    sysctl.set_ipv6(attachment.ifname, "accept_dad", 0)
    # A runtime that knows nothing of our addresses may have switched IPv6 off for new interfaces.
    if any(ip.version == 6 for ip in attachment.ips):
        sysctl.set_ipv6(attachment.ifname, "disable_ipv6", 0)


def faults(port: Port, pod: Netdev, routes: tuple[PodRoute, ...]) -> tuple[str, ...]:
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
