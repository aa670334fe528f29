"""Who may write: of each role, who is live with the highest election id (P4Runtime 1.4, 5)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import grpc
from finsy.proto import p4r, rpc_code

from vendors.emulator.e2100.entries import BAD, Refusal

Tell = Callable[[p4r.StreamMessageResponse], None]
DEFAULT_ROLE = ""


def number_of(election_id: p4r.Uint128) -> int:
    """Return an election id as one number; 0: it is not set."""
    return election_id.high << 64 | election_id.low


@dataclass(eq=False, slots=True)
class Controller:
    """Who is at the other end of a stream; ``tell`` sends there."""

    tell: Tell
    election_id: int = 0


@dataclass(slots=True)
class _Role:
    """Who is live in a role, who of them is primary, and the highest election id ever seen."""

    live: list[Controller] = field(default_factory=list)
    primary: Controller | None = None
    highest: int = 0


class Arbitration:
    """The controllers of one device. Its user sees to threads."""

    def __init__(self, device_id: int) -> None:
        """Begin with nobody."""
        self._device_id = device_id
        self._roles = {DEFAULT_ROLE: _Role()}

    def claim(self, who: Controller, update: p4r.MasterArbitrationUpdate) -> None:
        """Take in an arbitration update (5.3) and tell whoever is to know. Raises Refusal."""
        name = update.role.name
        self._check(who, update)
        role = self._roles.setdefault(name, _Role())
        if who not in role.live:
            role.live.append(who)
        who.election_id = number_of(update.election_id)
        if who.election_id and who.election_id >= role.highest:
            role.highest, role.primary = who.election_id, who
            self._tell(name, role.live)
        elif role.primary is who:
            role.primary = None
            self._tell(name, role.live)
        else:
            self._tell(name, [who])

    def leave(self, who: Controller) -> None:
        """Forget a controller whose stream has ended; a primary leaves nobody in its place."""
        for name, role in self._roles.items():
            if who in role.live:
                role.live.remove(who)
            if role.primary is who:
                role.primary = None
                self._tell(name, role.live)

    def check_primary(self, role: str, election_id: p4r.Uint128) -> None:
        """Check that a request is from the primary of its role. Raises Refusal."""
        if role not in self._roles:
            raise Refusal(grpc.StatusCode.NOT_FOUND, f"there is no role {role!r}")
        primary = self._roles[role].primary
        if primary is None or number_of(election_id) != primary.election_id:
            raise Refusal(grpc.StatusCode.PERMISSION_DENIED, "you are not the primary")

    def _check(self, who: Controller, update: p4r.MasterArbitrationUpdate) -> None:
        name = update.role.name
        ours = next((each for each, role in self._roles.items() if who in role.live), None)
        if update.device_id != self._device_id:
            is_new = ours is None
            code = grpc.StatusCode.NOT_FOUND if is_new else grpc.StatusCode.FAILED_PRECONDITION
            raise Refusal(code, f"there is no device {update.device_id}")
        if ours not in {None, name}:
            told = f"this stream is of role {ours!r}, not {name!r}"
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, told)
        if update.role.HasField("config"):
            raise Refusal(BAD, f"role {name!r}: no config of a role is known")
        wanted = number_of(update.election_id)
        others = (each for each in self._roles.get(name, _Role()).live if each is not who)
        if wanted and wanted in {each.election_id for each in others}:
            raise Refusal(BAD, f"election id {wanted} is in use by another controller")

    def _tell(self, name: str, whom: Iterable[Controller]) -> None:
        role = self._roles[name]
        for each in whom:
            response = p4r.StreamMessageResponse()
            update = response.arbitration
            update.device_id = self._device_id
            if name != DEFAULT_ROLE:
                update.role.name = name
            if role.highest:
                update.election_id.high = role.highest >> 64
                update.election_id.low = role.highest & (1 << 64) - 1
            if role.primary is each:
                update.status.code = rpc_code.OK
            elif role.primary is not None:
                update.status.code = rpc_code.ALREADY_EXISTS
            else:
                update.status.code = rpc_code.NOT_FOUND
            each.tell(response)
