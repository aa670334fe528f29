"""Attaches what is behind the representors of this DPU, for whoever asks over gRPC."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterator
from contextlib import contextmanager
from typing import Protocol

from dataplane.contracts import Attachments, AttachRefusedError
from dataplane.core.admission import ALREADY_ATTACHED, TRY_AGAIN
from dataplane.core.desired import Port
from dataplane.core.events import AttachRequest
from dataplane.core.model import Attachment, AttachmentKey
from dataplane.turns import Turns

_ADMIT_S = 1.0
_PROGRAMMED_S = 10.0
_PUBLISHED_S = 1.0
_DETACH_S = 10.0
_TURN_S = 60.0  # at most, also for a caller without a deadline


class Caller(Protocol):
    """Who waits for the answer; grpc.ServicerContext is one."""

    def time_remaining(self) -> float | None:
        """Return for how many seconds it waits, None if it has not said."""
        ...

    def is_active(self) -> bool:
        """Say whether it still waits."""
        ...


class VfPorts:
    """One request at a time per attachment and per VF, whichever service it came by.

    A Detach must find what an Attach is making, and of two that ask for the same VF not both may
    find it free. Calls raise AttachRefusedError.
    """

    def __init__(self, node: str, attachments: Attachments) -> None:
        """Serve the representors of ``node``."""
        self.node = node
        self.attachments = attachments
        self._keys = Turns()
        self._vfs = Turns()  # after that of the key, always

    def attach(self, wanted: AttachRequest, caller: Caller, *, publish: bool = False) -> Port:
        """Have ``wanted`` programmed, behind its representor; asking again returns the same.

        With ``publish`` other nodes are let know at once: its pod is there by now.
        """
        with self._turn(wanted.key, caller), self._turn(wanted.netdev, caller):
            return self._attach(wanted, caller, publish=publish)

    def publish(
        self, key: AttachmentKey, caller: Caller, netdevs: Collection[str] | None = None
    ) -> bool:
        """Let other nodes know of an attachment; return whether the database has it by now.

        With ``netdevs`` only of one that is behind one of them.
        """
        with self._turn(key, caller):
            held = self.attachments.attachment(key)
            if held is None or (netdevs is not None and held.netdev not in netdevs):
                raise AttachRefusedError(
                    TRY_AGAIN, f"the DPU {self.node} does not know {key}; attach it first"
                )
            return self.attachments.publish(key, _PUBLISHED_S)

    def change(
        self,
        key: AttachmentKey,
        wanted_of: Callable[[Attachment | None], AttachRequest],
        caller: Caller,
    ) -> Port:
        """Have, and publish, what ``wanted_of`` makes of what is attached; refused: that stays.

        It is asked when it is the caller's turn: nobody changes what it is given meanwhile.
        """
        with self._turn(key, caller):
            before = self.attachments.attachment(key)
            wanted = wanted_of(before)
            with self._turn(wanted.netdev, caller):
                return self._change(before, wanted, caller)

    def detach(
        self, key: AttachmentKey, caller: Caller, netdevs: Collection[str] | None = None
    ) -> bool:
        """Forget an attachment, also one that is being made; return whether there was one.

        With ``netdevs`` only one that is behind one of them.
        """
        with self._turn(key, caller):
            held = self.attachments.attachment(key)
            if held is None or (netdevs is not None and held.netdev not in netdevs):
                return False
            with self._turn(held.netdev, caller):
                self.attachments.detach(key, _DETACH_S)
            return True

    def _change(self, before: Attachment | None, wanted: AttachRequest, caller: Caller) -> Port:
        if before is None or _is_same(before, wanted):
            return self._attach(wanted, caller, publish=True)
        self.attachments.detach(wanted.key, _DETACH_S)
        try:
            return self._attach(wanted, caller, publish=True)
        except AttachRefusedError as refused:
            self._put_back(before, refused)
            raise

    def _put_back(self, before: Attachment, refused: AttachRefusedError) -> None:
        try:
            self.attachments.admit(_again(before), _ADMIT_S)
            self._publish(before.key)
        except AttachRefusedError as error:
            raise AttachRefusedError(
                refused.code, f"{refused}; what was attached cannot be put back: {error}"
            ) from refused

    def _attach(self, wanted: AttachRequest, caller: Caller, *, publish: bool) -> Port:
        self._refuse_taken(wanted)
        known = self.attachments.attachment(wanted.key)
        try:
            port = self.attachments.admit(wanted, _ADMIT_S)
            refuse_gone(caller)
            self.attachments.wait_programmed(wanted.key, _PROGRAMMED_S)
            refuse_gone(caller)
            if publish:
                self._publish(wanted.key)
        except AttachRefusedError:
            if known is None:
                self.attachments.cancel(wanted.key)
            raise
        return port

    def _publish(self, key: AttachmentKey) -> None:
        """Let other nodes know; one that may not be here any more is kept, and says so itself."""
        held = self.attachments.attachment(key)
        if held is None or held.blocked is None:
            self.attachments.publish(key, _PUBLISHED_S)

    def _refuse_taken(self, wanted: AttachRequest) -> None:
        for attachment in map(self.attachments.attachment, self.attachments.keys()):
            if attachment is None:
                continue
            same_key = attachment.key == wanted.key
            if attachment.netdev == wanted.netdev and not same_key:
                raise AttachRefusedError(
                    ALREADY_ATTACHED,
                    f"representor {wanted.netdev} of node {self.node}: its VF is taken by"
                    f" {attachment.key} ({attachment.identity}); detach that first",
                )
            if same_key and not _is_same(attachment, wanted):
                raise AttachRefusedError(
                    ALREADY_ATTACHED,
                    f"{wanted.key} is attached at node {self.node} already, to segment"
                    f" {attachment.segment} by {attachment.access_port}, with MAC {attachment.mac};"
                    " detach it first",
                )

    @contextmanager
    def _turn(self, name: Hashable, caller: Caller) -> Iterator[None]:
        """Wait for the turn of a key or VF as long as the caller does.

        Who is gone wants nothing more.
        """
        turns = self._keys if isinstance(name, AttachmentKey) else self._vfs
        left = caller.time_remaining()
        with turns.hold(name, _TURN_S if left is None else min(left, _TURN_S)) as came:
            if not came:
                raise AttachRefusedError(
                    TRY_AGAIN, f"another request for {name} is still under way"
                )
            refuse_gone(caller)
            yield


def refuse_gone(caller: Caller) -> None:
    """Raise AttachRefusedError if nobody waits for the answer: what comes of it had no owner."""
    if not caller.is_active() or caller.time_remaining() == 0:
        raise AttachRefusedError(TRY_AGAIN, "the caller is gone")


def _is_same(attachment: Attachment, wanted: AttachRequest) -> bool:
    """Say whether what is there is what an earlier, equal request made."""
    return (attachment.netdev, attachment.segment, attachment.identity) == (
        wanted.netdev,
        wanted.segment,
        wanted.identity,
    ) and wanted.mac in (None, attachment.mac)


def _again(attachment: Attachment) -> AttachRequest:
    """Return the request that makes an attachment anew as it was."""
    return AttachRequest(
        key=attachment.key,
        netns=attachment.netns,
        segment=attachment.segment,
        identity=attachment.identity,
        requested_at=int(time.time()),
        mac=attachment.mac,
        ips=attachment.ips,
        ipam=attachment.ipam,
        mtu=attachment.mtu,
        network=attachment.network,
        netdev=attachment.netdev,
    )
