"""Real packets between pods, sent and judged by this process.

A socket belongs to the namespace it was made in, so a probe enters a pod for that moment only:
no helper process, and the answer is what the pod's own kernel saw.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import select
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from dataplane.core.errors import OverweaveError
from dataplane.core.model import IpAddress
from dataplane.netlink.netns import Netns

BROADCAST_PORT = 7  # the echo service: nothing in a pod listens there
_IP_MTU_DISCOVER = 10  # include/uapi/linux/in.h
_IPV6_MTU_DISCOVER = 23  # include/uapi/linux/in6.h
_PMTUDISC_DO = 2  # set DF, and never more than the interface's MTU
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_ECHO_REPLY = {4: 0, 6: 129}  # RFC 792, RFC 4443 section 4.2
_ETH_P_ALL = 3  # include/uapi/linux/if_ether.h
_TO_ALL = "ff:ff:ff:ff:ff:ff"
_RECEIVE = 65535
_PATIENCE_S = 1.0
_QUIET_S = 0.1
_TCP_TIMEOUT_S = 10.0


class ProbeError(OverweaveError):
    """A probe could not send at all, or what arrived is not what was sent."""


@dataclass(frozen=True, slots=True)
class Station:
    """A pod as probes see it: its namespace, its interface and what the plugin gave it."""

    name: str
    netns: Path
    ifname: str
    mac: str
    ips: tuple[IpAddress, ...]
    mtu: int

    def ip(self, version: int) -> IpAddress:
        """Return its address of IP ``version`` 4 or 6. Raises ProbeError if it has none."""
        for ip in self.ips:
            if ip.version == version:
                return ip
        raise ProbeError(f"pod {self.name} has no IPv{version} address, it has {self.ips}")

    def socket(self, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """Return a new socket that lives in this pod."""
        with Netns(str(self.netns)) as pod:
            return pod.run(lambda: socket.socket(family, kind, protocol))


@dataclass(slots=True)
class Echo:
    """What became of the echo requests of one probe; times in seconds.

    ``longest_gap`` is between two replies, also where it was the prober that had to wait for its
    turn. ``unheard`` is for how long at most requests got no reply, by when they were sent.
    """

    sent: int = 0
    received: int = 0
    duplicates: int = 0
    round_trips: list[float] = field(default_factory=list)
    longest_gap: float = 0.0
    unheard: float = 0.0

    @property
    def lost(self) -> int:
        """Return how many requests got no reply."""
        return self.sent - self.received


@dataclass(frozen=True, slots=True)
class Pace:
    """How echo requests are sent: ``count`` of them, every ``interval`` s, last wait ``patience``.

    ``size`` is that of the whole IP packet in bytes; DF is always set. ``give_up`` ends the probe
    when it is set, before ``count`` is reached.
    """

    count: int = 1
    interval: float = 0.01
    patience: float = 1.0
    size: int = 84
    give_up: threading.Event = field(default_factory=threading.Event)


def ping(source: Station, target: IpAddress, pace: Pace) -> Echo:
    """Send ICMP echo requests from ``source`` and count the replies, and replies that come twice.

    A packet larger than the interface's MTU raises ProbeError.
    """
    with _icmp_socket(source, target) as sender:
        return _Echoing(sender, target, pace).run()


@contextmanager
def flow(source: Station, target: IpAddress, interval: float) -> Iterator[Echo]:
    """Ping in the background until the block ends; then the Echo it gave is filled in."""
    pace = Pace(count=1 << 30, interval=interval)
    result = Echo()
    with ThreadPoolExecutor(1, "flow") as pool, _icmp_socket(source, target) as sender:
        future = pool.submit(_Echoing(sender, target, pace, result).run)
        try:
            yield result
        finally:
            pace.give_up.set()
            future.result()


def transfer(source: Station, sink: Station, version: int, size: int) -> float:
    """Send ``size`` random bytes by TCP and return how many seconds that took.

    Raises ProbeError unless the very same bytes arrive within ten seconds.
    """
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    payload = os.urandom(size)
    began = time.monotonic()
    with sink.socket(family, socket.SOCK_STREAM) as listener, ThreadPoolExecutor(1) as pool:
        listener.settimeout(_TCP_TIMEOUT_S)
        listener.bind((str(sink.ip(version)), 0))
        listener.listen()
        digest: Future[bytes] = pool.submit(_digest_of_one, listener)
        with source.socket(family, socket.SOCK_STREAM) as sender:
            sender.settimeout(_TCP_TIMEOUT_S)
            try:
                sender.connect(listener.getsockname()[:2])
                sender.sendall(payload)
                sender.shutdown(socket.SHUT_WR)
                arrived = digest.result()
            except OSError as error:
                raise ProbeError(f"TCP {source.name} to {sink.name}: {error}") from error
    if arrived != hashlib.sha256(payload).digest():
        raise ProbeError(f"TCP {source.name} to {sink.name}: other bytes arrived than were sent")
    return time.monotonic() - began


def broadcast(source: Station, others: Sequence[Station], version: int) -> Counter[str]:
    """Send one broadcast (IPv6: to all nodes of the link); return how often each other got it."""
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    token = secrets.token_bytes(16)
    with _Listening(others, (family, socket.SOCK_DGRAM, 0)) as listening:
        listening.bind(("", BROADCAST_PORT))
        with source.socket(family, socket.SOCK_DGRAM) as sender:
            # Bound to the interface: without a default route there is no way to 255.255.255.255.
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, source.ifname.encode())
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            group = "255.255.255.255" if version == 4 else "ff02::1"
            sender.sendto(token, (group, BROADCAST_PORT))
        return listening.count(token)


def intrude(source: Station, others: Sequence[Station]) -> Counter[str]:
    """Send an Ethernet frame to the MAC and IP of each of ``others``, and one to all.

    Routes and neighbours are not asked, so only the overlay stands between them. Returns how many
    of the two frames for it reached each; none got across to whoever is missing.
    """
    frames = [(other.mac, other.ip(4)) for other in others]
    return _send_frames(source, [*frames, (_TO_ALL, others[0].ip(4))], others)


def stray(source: Station, mac: str, others: Sequence[Station]) -> Counter[str]:
    """Send a frame to a MAC that nobody has; return how often each other heard it all the same."""
    return _send_frames(source, [(mac, others[0].ip(4))], others)


def _send_frames(
    source: Station, frames: Sequence[tuple[str, IpAddress]], others: Sequence[Station]
) -> Counter[str]:
    token = secrets.token_bytes(16)
    kind = (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ALL))
    with _Listening(others, kind) as listening, source.socket(*kind) as sender:
        sender.bind((source.ifname, 0))
        for mac, target in frames:
            sender.send(_udp_frame(source, mac, target, token))
        return listening.count(token)


class _Listening:
    """One socket in each of several stations, and how often a token arrived there."""

    def __init__(self, stations: Sequence[Station], kind: tuple[int, int, int]) -> None:
        self._sockets = {station.socket(*kind): station.name for station in stations}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for opened in self._sockets:
            opened.close()

    def bind(self, address: tuple[str, int]) -> None:
        for opened in self._sockets:
            # Probes of other pods at the same time share the port; each has its own token.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.bind(address)

    def count(self, token: bytes) -> Counter[str]:
        """Listen until all have it (or the patience ends), then a moment more for second copies."""
        found: Counter[str] = Counter()
        deadline = time.monotonic() + _PATIENCE_S
        while (left := deadline - time.monotonic()) > 0:
            ready, _, _ = select.select(list(self._sockets), [], [], left)
            for opened in ready:
                data, sender = opened.recvfrom(_RECEIVE)
                if token in data and not _is_own(opened, sender):
                    found[self._sockets[opened]] += 1
                    if len(found) == len(self._sockets):
                        deadline = min(deadline, time.monotonic() + _QUIET_S)
        return found


class _Echoing:
    """One run of echo requests over one connected raw socket."""

    def __init__(
        self, sender: socket.socket, target: IpAddress, pace: Pace, result: Echo | None = None
    ) -> None:
        self._socket = sender
        self._pace = pace
        self._ident = secrets.randbelow(1 << 16)
        self._version = target.version
        hear_only(sender, self._version, self._ident)
        self._waiting: dict[int, float] = {}
        self._answered: set[int] = set()
        self._sent: list[float] = []  # when, in order
        self._replied: set[float] = set()  # to which of these
        self._last_reply = 0.0
        self._result = result or Echo()

    def run(self) -> Echo:
        began = self._last_reply = time.monotonic()
        result, pace = self._result, self._pace
        while result.sent < pace.count and not pace.give_up.is_set():
            self._send()
            self._receive_until(began + result.sent * pace.interval)
        deadline = time.monotonic() + pace.patience
        while self._waiting and time.monotonic() < deadline:
            self._receive_until(min(deadline, time.monotonic() + 0.05))
        result.unheard = _longest_silence(self._sent, self._replied)
        return result

    def _send(self) -> None:
        number = self._result.sent & 0xFFFF
        header = 28 if self._version == 4 else 48
        kind = 8 if self._version == 4 else 128  # RFC 792, RFC 4443 section 4.1
        body = b"\x5a" * (self._pace.size - header)
        packet = struct.pack("!BBHHH", kind, 0, 0, self._ident, number) + body
        if self._version == 4:  # the kernel fills in ICMPv6's only
            packet = packet[:2] + struct.pack("!H", _checksum(packet)) + packet[4:]
        self._waiting[number] = time.monotonic()
        self._sent.append(self._waiting[number])
        self._answered.discard(number)
        self._result.sent += 1
        try:
            self._socket.send(packet)
        except OSError as error:
            if error.errno == 90:  # EMSGSIZE: with DF it would never leave this pod
                raise ProbeError(f"{self._pace.size} bytes: {error.strerror}") from error

    def _receive_until(self, moment: float) -> None:
        last = False
        while not last:
            left = moment - time.monotonic()
            last = left <= 0
            ready, _, _ = select.select([self._socket], [], [], max(0.0, left))
            if ready:
                self._receive()
            if self._result.sent == self._pace.count and not self._waiting:
                return

    def _receive(self) -> None:
        try:
            packet = self._socket.recv(_RECEIVE)
        except OSError:  # an ICMP error about an earlier request: that one counts as lost
            return
        start = (packet[0] & 0xF) * 4 if self._version == 4 else 0
        kind, _, _, ident, number = struct.unpack_from("!BBHHH", packet, start)
        if (kind, ident) != (_ECHO_REPLY[self._version], self._ident):
            return
        now = time.monotonic()
        began = self._waiting.pop(number, None)
        if began is not None:
            self._answered.add(number)
            self._replied.add(began)
            self._result.received += 1
            self._result.round_trips.append(now - began)
            self._result.longest_gap = max(self._result.longest_gap, now - self._last_reply)
            self._last_reply = now
        elif number in self._answered:
            self._result.duplicates += 1


def _longest_silence(sent: Sequence[float], replied: Collection[float]) -> float:
    """Return how long it was at most from a request without a reply to the next one with one."""
    longest = 0.0
    since: float | None = None
    for moment in sent:
        if since is not None:
            longest = max(longest, moment - since)
        if moment in replied:
            since = None
        elif since is None:
            since = moment
    return longest


def _icmp_socket(source: Station, target: IpAddress) -> socket.socket:
    if target.version == 4:
        made = source.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        made.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
    else:
        made = source.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
        made.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
    try:
        made.connect((str(target), 0))
    except OSError as error:
        made.close()
        raise ProbeError(f"pod {source.name} cannot send to {target}: {error.strerror}") from error
    return made


def hear_only(opened: socket.socket, version: int, ident: int) -> None:
    """Have the kernel keep what is no reply to ``ident`` away from a raw socket.

    Each such socket of a pod is given all the ICMP that the pod gets: a hundred probes would spend
    their time on each other's. Classic BPF, Documentation/networking/filter.rst.
    """
    # What the filter sees of IPv4 begins with its header, of IPv6 behind it.
    start = [(0xB1, 0, 0, 0)] if version == 4 else [(0x01, 0, 0, 0)]  # ldxb 4*([0]&0xf); ldx #0
    program = [
        *start,
        (0x50, 0, 0, 0),  # ldb [x + 0]
        (0x15, 0, 3, _ECHO_REPLY[version]),  # jeq #type, next, drop
        (0x48, 0, 0, 4),  # ldh [x + 4]
        (0x15, 0, 1, ident),  # jeq #ident, next, drop
        (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1
        (0x06, 0, 0, 0),  # drop: ret #0
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in program))
    fprog = struct.pack("HP", len(program), ctypes.addressof(code))  # struct sock_fprog
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def _digest_of_one(listener: socket.socket) -> bytes:
    connection, _ = listener.accept()
    digest = hashlib.sha256()
    with connection:
        connection.settimeout(_TCP_TIMEOUT_S)
        while chunk := connection.recv(1 << 16):
            digest.update(chunk)
    return digest.digest()


def _is_own(opened: socket.socket, sender: tuple[object, ...]) -> bool:
    """Say whether a packet socket shows a frame on its way out (an ICMP error quotes the token)."""
    return opened.family == socket.AF_PACKET and sender[2] == socket.PACKET_OUTGOING


def _udp_frame(source: Station, destination: str, target: IpAddress, payload: bytes) -> bytes:
    addresses = IPv4Address(str(source.ip(4))).packed + IPv4Address(str(target)).packed
    length = 28 + len(payload)
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    header = header[:10] + struct.pack("!H", _checksum(header)) + header[12:]
    udp = struct.pack("!HHHH", BROADCAST_PORT, BROADCAST_PORT, length - 20, 0)  # 0: no checksum
    macs = bytes.fromhex((destination + source.mac).replace(":", ""))
    return macs + struct.pack("!H", 0x0800) + header + udp + payload


def _checksum(data: bytes) -> int:
    """Return the internet checksum (RFC 1071) of ``data`` with its checksum field zero."""
    padded = data + b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF
