"""pyroute2's way to the kernel's rtnetlink, with what the kernel refuses as our errors."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import TracebackType
from typing import Self, TypeVar

from pyroute2 import IPRoute, IPRSocket, NetlinkError
from pyroute2.netlink import NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NLMSG_DONE, nlmsg

from dataplane.core.errors import TargetError
from dataplane.netlink.messages import ANSWERS
from dataplane.netlink.netns import Netns

DATAGRAM_BYTES = 1 << 16  # twice the largest that the kernel makes (net/netlink/af_netlink.c)

_DUMP_TRIES = 8
_Result = TypeVar("_Result")


class KernelError(TargetError):
    """The kernel refused a request; ``errno`` is its number, the text holds its own words."""

    def __init__(self, doing: str, number: int, hint: str = "") -> None:
        """Make the sentence from what was tried, the error number and the extended ack."""
        super().__init__(f"{doing}: {os.strerror(number)}" + (f" ({hint})" if hint else ""))
        self.errno = number


class Rtnl:
    """An IPRoute in the network namespace of the thread that makes it; about 0.3 ms to open.

    That thread alone may use it and must close it; in another one every method raises
    RuntimeError. For there an IPRoute would silently open a second socket and event loop, in
    whatever namespace that thread is in, and nobody would close them.
    """

    def __init__(self) -> None:
        """Open it, with the kernel's own words in errors and filters kept to the letter."""
        self._thread = threading.get_ident()
        self._sequence = count(1)
        self._lister: IPRSocket | None = None
        self._route = IPRoute(ext_ack=True, strict_check=True)
        self._route.register_policy(ANSWERS)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release its sockets and its event loop."""
        self._require_own_thread()
        self._route.close()
        if self._lister is not None:
            self._lister.close()

    @contextmanager
    def doing(self, what: str) -> Iterator[IPRoute]:
        """Lend the IPRoute; a failure in the block is a KernelError, which begins with ``what``."""
        self._require_own_thread()
        with _kernel_errors(what):
            yield self._route

    def dump(self, kind: int, question: nlmsg, what: str) -> list[nlmsg]:
        """Return everything that the RTM_GET... ``kind`` tells, as one consistent view.

        Only what fits the fields and attributes of ``question``, where the kernel can choose.
        Raises KernelError, with EINTR where what is listed changed during every try.
        """
        self._require_own_thread()
        with _kernel_errors(what):
            for _ in range(_DUMP_TRIES):
                replies = self._listing(kind, question)
                if replies is not None:
                    return replies
            raise NetlinkError(errno.EINTR, "it changed while it was listed; try again")

    def _listing(self, kind: int, question: nlmsg) -> list[nlmsg] | None:
        """Return what is told; None if it changed meanwhile. Raises NetlinkError, OSError.

        Over an IPRSocket, pyroute2's socket without an event loop: an IPRoute takes twice as long,
        and neither tells that a list was interrupted nor with what error it ended.
        """
        sequence, lister = next(self._sequence), self._open_lister()
        lister.put(question, kind, NLM_F_REQUEST | NLM_F_DUMP, msg_seq=sequence)
        replies: list[nlmsg] = []
        flags = 0
        while True:
            for reply in lister.marshal.parse(lister.recv(DATAGRAM_BYTES)):
                header = reply["header"]
                if header["sequence_number"] != sequence:
                    continue  # the rest of an answer whose asker was interrupted
                _raise_error(reply)
                flags |= header["flags"]
                if header["type"] == NLMSG_DONE:
                    return None if flags & NLM_F_DUMP_INTR else replies
                replies.append(reply)

    def _open_lister(self) -> IPRSocket:
        if self._lister is None:
            self._lister = IPRSocket(ext_ack=True, strict_check=True)
            self._lister.register_policy(ANSWERS)
        return self._lister

    def _require_own_thread(self) -> None:
        if threading.get_ident() != self._thread:
            raise RuntimeError("an Rtnl is used in another thread than the one that opened it")


def within(netns: Netns, function: Callable[[Rtnl], _Result]) -> _Result:
    """Return what ``function`` returns for an Rtnl of its own inside a network namespace."""

    def open_and_call() -> _Result:
        with Rtnl() as rtnl:
            return function(rtnl)

    return netns.run(open_and_call)


@contextmanager
def _kernel_errors(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        number, words = error.args
        raise KernelError(what, number, "" if words == os.strerror(number) else words) from None
    except OSError as error:  # so pyroute2 tells ENOBUFS, and what befalls the socket itself
        raise KernelError(what, error.errno or 0) from None


def _raise_error(reply: nlmsg) -> None:
    error = reply["header"]["error"]
    if error is not None:
        raise error
    if reply["header"]["type"] == NLMSG_DONE and reply["error"] != 0:
        raise NetlinkError(-reply["error"])
