"""What the bpf tests share: a bpffs of their own, namespaces, and frames on real netdevs."""

import fcntl
import os
import select
import socket
import struct
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bpf.bpffs import ensure_mounted, unmount
from dataplane.netlink.netns import Netns

ETH_P_ALL = 3
_SO_RCVBUFFORCE = 33
_TUNSETIFF = 0x400454CA  # linux/if_tun.h
_IFF_TAP, _IFF_NAPI, _IFF_NAPI_FRAGS, _IFF_NO_PI = 0x2, 0x10, 0x20, 0x1000


@contextmanager
def mounted_bpffs(directory: Path) -> Iterator[Path]:
    ensure_mounted(directory)
    try:
        yield directory
    finally:
        unmount(directory)


def run(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout


@dataclass(frozen=True)
class Namespace:
    """A network namespace of a test, with its loopback up."""

    name: str
    netns: Netns

    def ip(self, *words: str) -> None:
        run("ip", "-netns", self.name, *words)

    def tc(self, *words: str) -> str:
        return run("tc", "-netns", self.name, *words)

    def ifindex(self, name: str) -> int:
        return self.netns.run(lambda: socket.if_nametoindex(name))


@contextmanager
def namespace() -> Iterator[Namespace]:
    name = f"hlpc-{uuid.uuid4().hex[:8]}"
    run("ip", "netns", "add", name)
    try:
        run("ip", "-netns", name, "link", "set", "lo", "up")
        with Netns(f"/run/netns/{name}") as netns:
            yield Namespace(name, netns)
    finally:
        run("ip", "netns", "delete", name)


class Tap:
    """A packet socket on a netdev: sends from it, and sees what arrives there from the wire."""

    def __init__(self, space: Namespace, netdev: str) -> None:
        self._socket = space.netns.run(lambda: self._opened(netdev))

    @staticmethod
    def _opened(netdev: str) -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 1 << 23)  # a test reads at its end
        opened.bind((netdev, ETH_P_ALL))
        return opened

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send(self, frame: bytes) -> None:
        self._socket.send(frame)

    def received(self, marker: bytes, seconds: float = 2.0) -> list[bytes]:
        """Return the frames that hold ``marker``: waits for the first, then for none to follow."""
        found: list[bytes] = []
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self._socket], [], [], left)[0]:
                break
            frame, address = self._socket.recvfrom(1 << 16)
            if marker in frame and address[2] != socket.PACKET_OUTGOING:
                found.append(frame)
                end = time.monotonic() + 0.1
        return found


@contextmanager
def host_socket(space: Namespace, port: int) -> Iterator[socket.socket]:
    """Open a UDP socket of both families that waits at most 2 s."""
    with space.netns.run(lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)) as opened:
        opened.bind(("::", port))
        opened.settimeout(2)
        yield opened


@contextmanager
def frags_device(space: Namespace, name: str) -> Iterator[int]:
    """Make a netdev and return its wire: what is written in two parts is received in two parts."""
    flags = _IFF_TAP | _IFF_NAPI | _IFF_NAPI_FRAGS | _IFF_NO_PI
    request = struct.pack("16sH22x", name.encode(), flags)
    wire = space.netns.run(lambda: os.open("/dev/net/tun", os.O_RDWR))
    try:
        fcntl.ioctl(wire, _TUNSETIFF, request)
        # GRO would pull the headers that it reads.
        run("nsenter", f"--net=/run/netns/{space.name}", "ethtool", "-K", name, "gro", "off")
        yield wire
    finally:
        os.close(wire)


def readable(opened: socket.socket) -> bool:
    return bool(select.select([opened], [], [], 0)[0])
