"""ARP and ND that netdevs receive: packet(7) sockets whose filter lets nothing else through.

They hear a frame before tc does, whatever becomes of it there. What nobody reads in time is lost.
"""

from __future__ import annotations

import ctypes
import socket
import struct
from contextlib import suppress

from dataplane.core.errors import OverweaveError

_ETH_P_ALL = 3  # linux/if_ether.h
_SO_ATTACH_FILTER = 26  # asm-generic/socket.h
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23  # linux/socket.h, linux/if_packet.h
_BUFFER = 1 << 15  # bytes, of the kernel: some fifty frames
_LONGEST = 512  # of ND with all its options: what is longer claims nothing

_INSTRUCTION = struct.Struct("HBBI")  # linux/filter.h, struct sock_filter
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30  # BPF_LD | BPF_ABS, with its size
_IF_EQUAL, _RETURN = 0x15, 0x06  # BPF_JMP | BPF_JEQ | BPF_K, BPF_RET | BPF_K
_IS_TAGGED = 0xFFFFF000 + 48  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT
_FILTER = (
    (_LOAD_BYTE, 0, 0, _IS_TAGGED),
    (_IF_EQUAL, 0, 8, 0),
    (_LOAD_HALF, 0, 0, 12),
    (_IF_EQUAL, 5, 0, 0x0806),  # ARP
    (_IF_EQUAL, 0, 5, 0x86DD),  # IPv6
    (_LOAD_HALF, 0, 0, 20),
    (_IF_EQUAL, 0, 3, 58 << 8 | 255),  # ICMPv6, hop limit 255 (RFC 4861)
    (_LOAD_BYTE, 0, 0, 54),
    (_IF_EQUAL, 0, 2, 135),
    (_RETURN, 0, 0, _LONGEST),
    (_RETURN, 0, 0, 0),
    (_IF_EQUAL, 0, 1, 136),
    (_RETURN, 0, 0, _LONGEST),
    (_RETURN, 0, 0, 0),
)


class Overheard:
    """What one netdev of this namespace receives from now on, until it is closed."""

    def __init__(self, netdev: str) -> None:
        """Begin to hear. Raises OverweaveError, also if there is no such netdev."""
        try:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK)
            try:
                _attach_filter(made)
                with suppress(OSError):  # Linux 4.20; without, we hear what we send, too
                    made.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
                made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
                made.bind((netdev, _ETH_P_ALL))
            except OSError:
                made.close()
                raise
        except OSError as error:
            raise OverweaveError(f"ARP of {netdev} cannot be heard: {error.strerror}") from error
        self._socket = made

    def frames(self, most: int) -> list[bytes]:
        """Return what has come and was not returned before, at most so many."""
        found: list[bytes] = []
        with suppress(OSError):  # none is left, or the netdev is down or gone
            while len(found) < most:
                found.append(self._socket.recv(_LONGEST))
        return found

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


def _attach_filter(made: socket.socket) -> None:
    program = b"".join(_INSTRUCTION.pack(*each) for each in _FILTER)
    held = ctypes.create_string_buffer(program, len(program))
    # struct sock_fprog: a length, and where the instructions are.
    told = struct.pack("HL", len(_FILTER), ctypes.addressof(held))
    made.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, told)
