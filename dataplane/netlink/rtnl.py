"""pyroute2's way to the kernel's rtnetlink, with what the kernel refuses as our errors."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count
from types import TracebackType
from typing import Self, TypeVar

from pyroute2 import IPRoute, IPRSocket, NetlinkError
from pyroute2.netlink import (
    NLM_F_ACK,
    NLM_F_DUMP,
    NLM_F_DUMP_INTR,
    NLM_F_MULTI,
    NLM_F_REQUEST,
    NLMSG_DONE,
    nlmsg,
)

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
    """rtnetlink in the network namespace of the thread that makes this; about 0.3 ms to open.

    That thread alone may use it and must close it; in another one every method raises
    RuntimeError. For there an IPRoute would silently open a second socket and event loop, in
    whatever namespace that thread is in, and nobody would close them.

    Changes go by an IPRoute. Questions go by an IPRSocket, which has no event loop: an IPRoute
    takes twice as long, hides that a list was interrupted or ended with an error, and keeps an
    acknowledgement of every single answer for ever.
    """

    def __init__(self) -> None:
        """Open it, with the kernel's own words in errors and filters kept to the letter."""
        self._thread = threading.current_thread()
        self._sequence = count(1)
        with ExitStack() as opened:
            self._route = opened.enter_context(IPRoute(ext_ack=True, strict_check=True))
            self._asker = opened.enter_context(IPRSocket(ext_ack=True, strict_check=True))
            for each in (self._route, self._asker):
                each.register_policy(ANSWERS)
            self._asker.socket  # noqa: B018 - an IPRSocket opens it when it is first looked at
            self._opened = opened.pop_all()

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
        self._opened.close()

    @contextmanager
    def doing(self, what: str) -> Iterator[IPRoute]:
        """Lend the IPRoute for a change; a failure is a KernelError, which begins with ``what``."""
        self._require_own_thread()
        with _kernel_errors(what):
            yield self._route

    def ask(self, kind: int, message: nlmsg, flags: int, what: str) -> None:
        """Ask for a change that IPRoute has no words for. Raises KernelError."""
        self._require_own_thread()
        with _kernel_errors(what):
            self._answers(kind, message, NLM_F_REQUEST | NLM_F_ACK | flags)

    def get(self, kind: int, question: nlmsg, what: str) -> nlmsg:
        """Return the one thing that RTM_GET... ``kind`` asks for. Raises KernelError."""
        self._require_own_thread()
        with _kernel_errors(what):
            (answer,) = self._answers(kind, question, NLM_F_REQUEST)
        return answer

    def dump(self, kind: int, question: nlmsg, what: str) -> list[nlmsg]:
        """Return everything that RTM_GET... ``kind`` asks for, as one consistent view.

        Only what fits the fields and attributes of ``question``, where the kernel can choose.
        Raises KernelError, with EINTR where what is listed changed during every try.
        """
        self._require_own_thread()
        with _kernel_errors(what):
            for _ in range(_DUMP_TRIES):
                answers = self._answers(kind, question, NLM_F_REQUEST | NLM_F_DUMP)
                if not any(each["header"]["flags"] & NLM_F_DUMP_INTR for each in answers):
                    return answers
            raise NetlinkError(errno.EINTR, "it changed while it was listed; try again")

    def _answers(self, kind: int, question: nlmsg, flags: int) -> list[nlmsg]:
        """Raise NetlinkError or OSError, at the end of a list too."""
        sequence = next(self._sequence)
        self._asker.put(question, kind, flags, msg_seq=sequence)
        answers: list[nlmsg] = []
        while True:
            for answer in self._asker.marshal.parse(self._asker.recv(DATAGRAM_BYTES)):
                header = answer["header"]
                if header["sequence_number"] != sequence:
                    continue  # the rest of an answer whose asker was interrupted
                _raise_error(answer)
                if header["type"] == NLMSG_DONE:
                    return answers
                answers.append(answer)
                if not header["flags"] & NLM_F_MULTI:
                    return answers

    def _require_own_thread(self) -> None:
        if threading.current_thread() is not self._thread:
            raise RuntimeError("this Rtnl was opened by another thread; open one of your own")


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


def _raise_error(answer: nlmsg) -> None:
    error = answer["header"]["error"]
    if error is not None:
        raise error
    if answer["header"]["type"] == NLMSG_DONE and answer["error"] != 0:
        raise NetlinkError(-answer["error"])
