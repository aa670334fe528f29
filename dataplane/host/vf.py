"""A pod's interface that is a virtual function of a DPU: it moves into the pod and back again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from dataplane.contracts import PodRoute
from dataplane.core.desired import Port
from dataplane.core.errors import OverweaveError, TargetError
from dataplane.core.model import Attachment
from dataplane.host import pod_end
from dataplane.netlink import links
from dataplane.netlink.links import LinkChange, Netdev
from dataplane.netlink.netns import Netns, NetnsError
from dataplane.netlink.rtnl import Rtnl

# One whose last pod's namespace has just died takes a moment to be back.
_APPEAR_S = 5.0
_LOOK_S = 0.1


class VfWiring:
    """A PodWiring whose ``access_port`` is a VF's netdev here, in the calling thread's namespace.

    The VF is known by its alias, which names it and its pod: a path of a namespace can be another
    one by now. One whose namespace died returns by itself, sooner or later and maybe with the pod's
    name for it: DEL or the next pod's ADD finds it by the alias.
    """

    def plumb(self, port: Port, routes: tuple[PodRoute, ...] = ()) -> None:
        """Move the VF into the pod, rename it and complete it; see PodWiring."""
        attachment = port.attachment
        with Netns(attachment.netns) as netns:
            pod_end.refuse_own(netns)
            try:
                if netns.run(lambda: _in_pod(attachment)) is None:
                    _move_in(netns, attachment)
                netns.run(lambda: pod_end.bring_up(port))
                netns.run(lambda: pod_end.give_addresses(port, routes))
            except BaseException:
                with suppress(OverweaveError):
                    self.unplumb(attachment)
                raise

    def unplumb(self, attachment: Attachment) -> None:
        """Bring the VF back under its own name, down; not there any more is success."""
        own = Path("/proc/thread-self/ns/net")
        with Netns(str(own)) as home:
            try:
                with Netns(attachment.netns) as netns:
                    netns.run(lambda: _move_out(home, attachment))
            except NetnsError:
                pass  # the namespace is gone: the VF is back, or about to be
        with Rtnl() as node:
            found = _ours(node, attachment)
            if found is not None:
                links.change(node, found.ifindex, LinkChange(up=False))
                wanted = LinkChange(name=attachment.access_port, alias="")
                links.change(node, found.ifindex, wanted)

    def check(self, port: Port, routes: tuple[PodRoute, ...] = ()) -> tuple[str, ...]:
        """Look at the VF inside the pod; see PodWiring."""
        attachment = port.attachment
        try:
            with Netns(attachment.netns) as netns:
                pod = netns.run(lambda: pod_end.find(attachment))
                if pod is None:
                    return (f"interface {attachment.ifname} does not exist in {attachment.netns}",)
                found = netns.run(lambda: pod_end.faults(port, pod, routes))
        except NetnsError as error:
            return (str(error),)
        if pod.alias != _alias(attachment):
            found += (f"{attachment.ifname} is not the VF {attachment.access_port}",)
        return found

    def returned(self, attachments: Sequence[Attachment]) -> tuple[Attachment, ...]:
        """Look once for all; see VfPodWiring. One that has died comes back by its own name."""
        with Rtnl() as node:
            here = {name for each in links.every(node) for name in (each.name, each.alias)}
        return tuple(each for each in attachments if {each.access_port, _alias(each)} & here)

    def announce(self, port: Port) -> None:
        """Send from inside the pod; see PodWiring."""
        pod_end.announce(port.attachment)


def _in_pod(attachment: Attachment) -> Netdev | None:
    """Return the VF if it is there under the pod's name; called inside the pod.

    Raises TargetError if something else has that name.
    """
    found = pod_end.find(attachment)
    if found is not None and found.alias != _alias(attachment):
        raise TargetError(
            f"interface {attachment.ifname} exists already in {attachment.netns} and is not ours;"
            " remove it, or ask for another name"
        )
    return found


def _move_in(netns: Netns, attachment: Attachment) -> None:
    with Rtnl() as node:
        vf = _wait_for(node, attachment.access_port)
        # With an alias first: whatever happens to the pod then, it is known whose the VF was.
        links.change(node, vf.ifindex, LinkChange(up=False, alias=_alias(attachment)))
        links.change(node, vf.ifindex, LinkChange(name=attachment.ifname, netns=netns.fd))


def _wait_for(node: Rtnl, name: str) -> Netdev:
    give_up = time.monotonic() + _APPEAR_S
    while (vf := links.find(node, name) or _strayed(node, name)) is None:
        if time.monotonic() >= give_up:
            raise TargetError(
                f"VF netdev {name} does not exist on this node: is the DPU up, and is it the name"
                " of the VF in 'devices' of the configuration? ip link show"
            )
        time.sleep(_LOOK_S)
    return vf


def _strayed(node: Rtnl, name: str) -> Netdev | None:
    """Return the VF if it has come back from a pod by itself, whatever it is called."""
    return next((each for each in links.every(node) if each.alias.startswith(_mark(name))), None)


def _move_out(home: Netns, attachment: Attachment) -> None:
    """Send the VF home; called inside the pod."""
    with Rtnl() as pod:
        vf = _ours(pod, attachment)
        if vf is not None:
            wanted = LinkChange(name=attachment.access_port, netns=home.fd)
            links.change(pod, vf.ifindex, LinkChange(up=False))
            links.change(pod, vf.ifindex, wanted)


def name_in_pod(attachment: Attachment) -> str:
    """Return what the pod calls its VF; called inside the pod. Raises OverweaveError."""
    with Rtnl() as pod:
        found = _ours(pod, attachment)
    if found is None:
        raise OverweaveError(f"its VF {attachment.access_port} is not in {attachment.netns}")
    return found.name


def _ours(rtnl: Rtnl, attachment: Attachment) -> Netdev | None:
    alias = _alias(attachment)
    return next((netdev for netdev in links.every(rtnl) if netdev.alias == alias), None)


def _alias(attachment: Attachment) -> str:
    return f"{_mark(attachment.access_port)}{attachment.container_id}/{attachment.ifname}"


def _mark(name: str) -> str:
    """Return how the alias of a VF begins while a pod has it; no netdev's name has a colon."""
    return f"overweave:{name}:"
