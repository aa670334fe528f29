"""The netdevs of a network namespace as events, from the kernel's own notifications."""

from __future__ import annotations

import errno
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping

from pyroute2 import IPRSocket
from pyroute2.netlink.rtnl import (
    RTMGRP_IPV4_IFADDR,
    RTMGRP_IPV4_ROUTE,
    RTMGRP_IPV6_IFADDR,
    RTMGRP_IPV6_ROUTE,
    RTMGRP_LINK,
    RTMGRP_NEIGH,
)

from dataplane.contracts import Post
from dataplane.core.events import Link, LinksChanged
from dataplane.netlink import addresses, links
from dataplane.netlink.addresses import Assigned
from dataplane.netlink.links import Netdev
from dataplane.netlink.messages import NOTICES
from dataplane.netlink.rtnl import DATAGRAM_BYTES, KernelError, Rtnl

_RETRY_MS = 1000
_PAUSE_MS = 100
_WAYS = RTMGRP_NEIGH | RTMGRP_IPV4_ROUTE | RTMGRP_IPV6_ROUTE


class LinkTable:
    """What was told so far. No socket, no thread."""

    def __init__(self) -> None:
        """Begin with nothing told."""
        self._told: dict[str, Link] = {}
        self._names: dict[int, str] = {}

    def sync(self, found: Mapping[int, Link]) -> LinksChanged:
        """Take ``found`` for everything that exists; return what is news."""
        return self.update({**dict.fromkeys(self._names), **found})

    def update(self, found: Mapping[int, Link | None]) -> LinksChanged:
        """Take ``found`` for what the netdevs of these ifindexes are; return what is news."""
        before = dict(self._told)
        for ifindex, link in found.items():
            if link is None or self._names.get(ifindex) != link.name:
                self._forget(ifindex)
            if link is not None:
                self._names[ifindex] = link.name
                self._told[link.name] = link
        return LinksChanged(
            tuple(link for name, link in self._told.items() if before.get(name) != link),
            tuple(name for name in before if name not in self._told),
        )

    def _forget(self, ifindex: int) -> None:
        name = self._names.pop(ifindex, None)
        told = self._told.get(name) if name is not None else None
        # Another netdev may have taken the name over.
        if told is not None and told.ifindex == ifindex:
            del self._told[told.name]


class LinkFeed:
    """Posts LinksChanged for the namespace of the thread that calls ``start``.

    First all that exists, in one event. ``Link.up`` is the administrative state; ``Link.addresses``
    are the usable ones (no running or failed duplicate detection) of every scope in the kernel's
    order.
    """

    def __init__(self) -> None:
        """Open nothing yet."""
        self._thread: threading.Thread | None = None
        self._wake: int | None = None

    def start(self, post: Post) -> None:
        """Begin to post events. Raises OSError if no socket can be had."""
        # Subscribed before the first listing: what happens in between is looked at twice, and
        # never missed.
        notifications = _subscribe()
        stopped, self._wake = os.pipe2(os.O_CLOEXEC)
        reader = _Reader(notifications, stopped, post)
        self._thread = threading.Thread(target=reader.run, name="links", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and release its sockets."""
        if self._thread is None or self._wake is None:
            return
        os.close(self._wake)  # the reader sees the end of the pipe
        self._thread.join()
        self._thread = self._wake = None


class WayFeed:
    """Calls ``changed`` where neighbours or routes of the namespace may have: a hint to look.

    Of a burst, which a neighbour's every change of state is, some hints are told as one.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        """Open nothing yet."""
        self._changed = changed
        self._thread: threading.Thread | None = None
        self._wake: int | None = None

    def start(self, post: Post) -> None:
        """Begin to call; has no events to ``post``. Raises OSError if no socket can be had."""
        del post
        notifications = IPRSocket()
        notifications.bind(_WAYS)
        stopped, self._wake = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(
            target=self._run, args=(notifications, stopped), name="ways", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """End the thread and release its sockets."""
        if self._thread is None or self._wake is None:
            return
        os.close(self._wake)
        self._thread.join()
        self._thread = self._wake = None

    def _run(self, notifications: IPRSocket, stopped: int) -> None:
        try:
            while not _is_ended(stopped, notifications, None):
                _drain(notifications)
                self._changed()
                if _is_ended(stopped, None, _PAUSE_MS):
                    return
        finally:
            notifications.close()
            os.close(stopped)


class _Reader:
    """The thread of a LinkFeed.

    A notification only says where to look: what is told is what the kernel answers then, so that
    notifications that are old, doubled or lost (ENOBUFS: look everywhere) do no harm.
    """

    def __init__(self, notifications: IPRSocket, stopped: int, post: Post) -> None:
        self._notifications = notifications
        self._stopped = stopped
        self._post = post
        self._table = LinkTable()
        self._rtnl: Rtnl | None = None  # kept open: a burst has a question for every notification

    def run(self) -> None:
        """Tell what exists, then what changes, until the pipe ends."""
        try:
            told = self._look(None)
            while not self._is_stopped(None if told else _RETRY_MS):
                places = self._drain()
                told = self._look(places if told else None)
        finally:
            self._close()
            self._notifications.close()
            os.close(self._stopped)

    def _look(self, places: set[int] | None) -> bool:
        """Tell what is news there (None: everywhere); False: it has to be tried again."""
        try:
            rtnl = self._rtnl = self._rtnl or Rtnl()
            news = (
                self._table.sync(_listing(rtnl))
                if places is None
                else self._table.update({place: _at(rtnl, place) for place in places})
            )
        except (KernelError, OSError):
            self._close()
            return False  # it changed during every try, or no socket is left: let the storm pass
        if news != LinksChanged():
            self._post(news)
        return True

    def _close(self) -> None:
        if self._rtnl is not None:
            self._rtnl.close()
            self._rtnl = None

    def _is_stopped(self, timeout_ms: int | None) -> bool:
        return _is_ended(self._stopped, self._notifications, timeout_ms)

    def _drain(self) -> set[int] | None:
        """Return the netdevs that notifications are about; None if some were lost."""
        datagrams = _drain(self._notifications)
        if datagrams is None:
            return None
        parse = self._notifications.marshal.parse
        return {notice["index"] for datagram in datagrams for notice in parse(datagram)}


def _is_ended(stopped: int, notifications: IPRSocket | None, timeout_ms: int | None) -> bool:
    """Wait for a notification, the end of the pipe or the time; say whether it was the end."""
    poll = select.poll()
    poll.register(stopped, select.POLLIN)
    if notifications is not None:
        poll.register(notifications, select.POLLIN)
    return any(fd == stopped for fd, _ in poll.poll(timeout_ms))


def _drain(notifications: IPRSocket) -> list[bytes] | None:
    """Return what was notified, None if some of it was lost."""
    lost, datagrams = False, []
    while True:
        try:
            datagrams.append(notifications.recv(DATAGRAM_BYTES, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return None if lost else datagrams
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            lost = True


def _listing(rtnl: Rtnl) -> dict[int, Link]:
    held = addresses.every(rtnl)
    netdevs = links.every(rtnl)
    return {netdev.ifindex: _link(netdev, held.get(netdev.ifindex, ())) for netdev in netdevs}


def _at(rtnl: Rtnl, ifindex: int) -> Link | None:
    netdev = links.at(rtnl, ifindex)
    return None if netdev is None else _link(netdev, addresses.of(rtnl, ifindex))


def _link(netdev: Netdev, held: tuple[Assigned, ...]) -> Link:
    usable = tuple(each.ip for each in held if each.usable)
    return Link(
        netdev.name,
        netdev.ifindex,
        netdev.mac,
        netdev.mtu,
        netdev.up,
        usable,
        netdev.kind,
        netdev.carrier,
    )


def _subscribe() -> IPRSocket:
    """Return pyroute2's socket for poll loops: an IPRoute could not be woken up to stop."""
    notifications = IPRSocket()
    notifications.register_policy(NOTICES)
    notifications.bind(RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR)
    return notifications
