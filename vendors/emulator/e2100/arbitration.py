"""Who may write: the live controller with the highest election id (P4Runtime 1.4, 5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import grpc
from finsy.proto import p4r, rpc_code

from vendors.emulator.e2100.entries import BAD, Refusal

Tell = Callable[[p4r.StreamMessageResponse], None]


def number_of(election_id: p4r.Uint128) -> int:
    """Return an election id as one number; 0: it is not set."""
    return election_id.high << 64 | election_id.low


@dataclass(eq=False, slots=True)
class Controller:
    """Who is at the other end of a stream; ``tell`` sends there."""

    tell: Tell
    election_id: int = 0


@dataclass(slots=True)
class Arbitration:
    """The controllers of one device, all in the default role. Its user sees to threads."""

    device_id: int
    _live: list[Controller] = field(default_factory=list)
    _highest: int = 0
    _has_primary: bool = False

    def claim(self, who: Controller, update: p4r.MasterArbitrationUpdate) -> None:
        """Take in an arbitration update (5.3) and tell whoever is to know. Raises Refusal."""
        self._check(who, update)
        was_primary = self._is_primary(who)
        if who not in self._live:
            self._live.append(who)
        who.election_id = number_of(update.election_id)
        if who.election_id and who.election_id >= self._highest:
            self._highest = who.election_id
            self._has_primary = True
            self._tell(self._live)
        elif was_primary:
            self._has_primary = False
            self._tell(self._live)
        else:
            self._tell([who])

    def leave(self, who: Controller) -> None:
        """Forget a controller whose stream has ended; a primary leaves nobody in its place."""
        if who not in self._live:
            return
        was_primary = self._is_primary(who)
        self._live.remove(who)
        if was_primary:
            self._has_primary = False
            self._tell(self._live)

    def check_primary(self, election_id: p4r.Uint128) -> None:
        """Check that a request is from the primary. Raises Refusal."""
        if not self._has_primary or number_of(election_id) != self._highest:
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "you are not the primary")

    def outbid(self) -> Controller:
        """Let somebody become primary who bids one more than anybody before."""
        somebody = Controller(lambda _: None)
        bid = self._highest + 1
        update = p4r.MasterArbitrationUpdate(device_id=self.device_id)
        update.election_id.high, update.election_id.low = bid >> 64, bid & (1 << 64) - 1
        self.claim(somebody, update)
        return somebody

    def _check(self, who: Controller, update: p4r.MasterArbitrationUpdate) -> None:
        is_known = who in self._live
        if update.device_id != self.device_id:
            code = grpc.StatusCode.FAILED_PRECONDITION if is_known else grpc.StatusCode.NOT_FOUND
            raise Refusal(code, f"there is no device {update.device_id}")
        if update.role.name or update.role.HasField("config"):
            code = grpc.StatusCode.FAILED_PRECONDITION if is_known else BAD
            raise Refusal(code, f"there is no role {update.role.name!r} but the default one")
        wanted = number_of(update.election_id)
        others = [each.election_id for each in self._live if each is not who]
        if wanted and wanted in others:
            raise Refusal(BAD, f"election id {wanted} is in use by another controller")

    def _is_primary(self, who: Controller) -> bool:
        return self._has_primary and who in self._live and who.election_id == self._highest

    def _tell(self, whom: list[Controller]) -> None:
        for each in whom:
            response = p4r.StreamMessageResponse()
            update = response.arbitration
            update.device_id = self.device_id
            if self._highest:
                update.election_id.high = self._highest >> 64
                update.election_id.low = self._highest & (1 << 64) - 1
            if self._is_primary(each):
                update.status.code = rpc_code.OK
            elif self._has_primary:
                update.status.code = rpc_code.ALREADY_EXISTS
            else:
                update.status.code = rpc_code.NOT_FOUND
            each.tell(response)
