"""Attaches what is behind the representors of this DPU, for whoever asks over gRPC."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Sequence
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
    find it free. What ``create``, ``change`` and ``remove`` are about is a port as a whole: all
    attachments with the container id of the key that it is called by, of a trunk one per VLAN.
    Calls raise AttachRefusedError.
    """

    def __init__(self, node: str, attachments: Attachments) -> None:
        """Serve the representors of ``node``."""
        self.node = node
        self.attachments = attachments
        self._keys = Turns()
        self._vfs = Turns()  # after that of the key, always

    def attach(self, wanted: AttachRequest, caller: Caller) -> Port:
        """Have ``wanted`` programmed, behind its representor; asking again returns the same."""
        with self._turn(wanted.key, caller), self._turn(wanted.netdev, caller):
            (port,) = self._attach((wanted,), caller, publish=False)
            return port

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

    def held(self, key: AttachmentKey) -> tuple[Attachment, ...]:
        """Return the attachments of a port."""
        every = filter(None, map(self.attachments.attachment, self.attachments.keys()))
        return tuple(each for each in every if each.container_id == key.container_id)

    def create(
        self, key: AttachmentKey, wanted: Sequence[AttachRequest], caller: Caller
    ) -> tuple[Attachment, ...]:
        """Have, and publish, all of ``wanted``, behind one representor, or nothing more of it.

        Asking again returns the same, and finishes what was interrupted.
        """
        with self._turn(key, caller), self._turn(wanted[0].netdev, caller):
            return _attached(self._attach(wanted, caller, publish=True))

    def change(
        self,
        key: AttachmentKey,
        wanted_of: Callable[[tuple[Attachment, ...]], Sequence[AttachRequest]],
        caller: Caller,
    ) -> tuple[Attachment, ...]:
        """Have, and publish, what ``wanted_of`` makes of what is attached; refused: that stays.

        It is asked when it is the caller's turn: nobody changes what it is given meanwhile. What
        is the same before and after is left alone.
        """
        with self._turn(key, caller):
            before = self.held(key)
            wanted = wanted_of(before)
            with self._turn(wanted[0].netdev, caller):
                return _attached(self._change(before, wanted, caller))

    def remove(self, key: AttachmentKey, caller: Caller) -> bool:
        """Forget a port, also one that is being made; return whether there was one."""
        with self._turn(key, caller):
            held = self.held(key)
            if not held:
                return False
            with self._turn(held[0].netdev, caller):
                self._detach(held)
            return True

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
                self._detach((held,))
            return True

    def _detach(self, gone: Iterable[Attachment]) -> None:
        for attachment in gone:
            self.attachments.detach(attachment.key, _DETACH_S)

    def _change(
        self, before: Sequence[Attachment], wanted: Sequence[AttachRequest], caller: Caller
    ) -> list[Port]:
        asked = {each.key: each for each in wanted}
        gone = [b for b in before if b.key not in asked or not _is_same(b, asked[b.key])]
        self._detach(gone)
        try:
            return self._attach(wanted, caller, publish=True)
        except AttachRefusedError as refused:
            self._put_back(gone, refused)
            raise

    def _put_back(self, gone: Iterable[Attachment], refused: AttachRefusedError) -> None:
        lost = []
        for before in gone:
            try:
                self.attachments.admit(_again(before), _ADMIT_S)
                self._publish(before.key, _PUBLISHED_S)
            except AttachRefusedError as error:
                lost.append(str(error))
        if lost:
            whys = "; ".join(lost)
            raise AttachRefusedError(
                refused.code, f"{refused}; what was attached cannot be put back: {whys}"
            ) from refused

    def _attach(
        self, wanted: Sequence[AttachRequest], caller: Caller, *, publish: bool
    ) -> list[Port]:
        self._refuse_taken(wanted)
        new = [each.key for each in wanted if self.attachments.attachment(each.key) is None]
        try:
            ports = [self._admit(each, caller) for each in wanted]
            for each in wanted:
                self.attachments.wait_programmed(each.key, _PROGRAMMED_S)
            refuse_gone(caller)
            if publish:
                self._publish_all(wanted)
        except AttachRefusedError:
            for key in new:
                self.attachments.cancel(key)
            raise
        return ports

    def _admit(self, wanted: AttachRequest, caller: Caller) -> Port:
        port = self.attachments.admit(wanted, _ADMIT_S)
        refuse_gone(caller)
        return port

    def _publish_all(self, wanted: Iterable[AttachRequest]) -> None:
        give_up = time.monotonic() + _PUBLISHED_S
        for each in wanted:
            self._publish(each.key, max(0.0, give_up - time.monotonic()))

    def _publish(self, key: AttachmentKey, timeout_s: float) -> None:
        """Let other nodes know; one that may not be here any more is kept, and says so itself."""
        held = self.attachments.attachment(key)
        if held is None or held.blocked is None:
            self.attachments.publish(key, timeout_s)

    def _refuse_taken(self, wanted: Sequence[AttachRequest]) -> None:
        asked = {each.key: each for each in wanted}
        netdev = wanted[0].netdev
        for attachment in map(self.attachments.attachment, self.attachments.keys()):
            if attachment is None:
                continue
            same = asked.get(attachment.key)
            if same is None and attachment.netdev == netdev:
                raise AttachRefusedError(
                    ALREADY_ATTACHED,
                    f"representor {netdev} of node {self.node}: its VF is taken by"
                    f" {attachment.key} ({attachment.identity}); detach that first",
                )
            if same is not None and not _is_same(attachment, same):
                raise AttachRefusedError(
                    ALREADY_ATTACHED,
                    f"{same.key} is attached at node {self.node} already, to segment"
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


def _attached(ports: Iterable[Port]) -> tuple[Attachment, ...]:
    return tuple(port.attachment for port in ports)


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
        vlan=attachment.vlan,
    )
