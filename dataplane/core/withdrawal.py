"""What a DPU's switch may hold of ports and entries, and what of it has to go first. Pure.

Software follows within milliseconds, a switch when it answers. So what the switch was asked to hold
counts as held until it has said that it let go: until then no other pod gets the port, and what was
changed is not placed anew.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from dataplane.core.desired import Desired, PortState
from dataplane.core.model import Attachment, EntryKey


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a port or an entry; ``made_of`` is what they were rendered from.

    They are not wanted any more since generation ``unwanted``; None: they are.
    """

    made_of: Hashable
    unwanted: int | None = None


Standing = Mapping[Hashable, Rows]
"""What the switch may hold, by the port's netdev or the EntryKey."""


def loaded_standing(attachments: Iterable[Attachment]) -> dict[Hashable, Rows]:
    """Return whose ports an earlier run of the agent knew, before it is known what is wanted.

    A trunk port has no rows, and was made when the switch had let go of it.
    """
    owned = (each for each in attachments if each.netdev and each.vlan is None)
    return {each.netdev: Rows(_whose(each), 0) for each in owned}


def first_standing(desired: Desired, generation: int, loaded: Standing) -> dict[Hashable, Rows]:
    """Return what an earlier run of the agent may have left: rows of the ports that it knew.

    A port that is another's by now, nobody's or blocked keeps what it had in ``loaded``.
    """
    now = {port.attachment.netdev: _whose(port.attachment) for port in desired.ports}
    known: dict[Hashable, Rows] = {
        key: Rows(made_of, generation)
        for key, made_of, _ in _known(desired)
        if isinstance(key, str)
    }
    changed = {
        netdev: Rows(rows.made_of, generation)
        for netdev, rows in loaded.items()
        if netdev not in known or now.get(str(netdev)) != rows.made_of
    }
    return {**known, **changed}


def next_standing(
    before: Standing, desired: Desired, placed: AbstractSet[EntryKey], generation: int
) -> dict[Hashable, Rows]:
    """Return what the switch may hold once it is asked to hold what is ``placed``."""
    gone = {
        key: rows if rows.unwanted is not None else Rows(rows.made_of, generation)
        for key, rows in before.items()
    }
    wanted = {key: Rows(made_of) for key, made_of, entry in _known(desired) if entry in placed}
    return {**gone, **wanted}


def leaving(standing: Standing, desired: Desired) -> frozenset[Hashable]:
    """Return the ports and entries whose rows are not what they would be made of now."""
    if not standing:
        return frozenset()
    now = {key: made_of for key, made_of, _ in _known(desired)}
    return frozenset(key for key, rows in standing.items() if now.get(key) != rows.made_of)


def _whose(attachment: Attachment) -> Hashable:
    """Return what of an attachment its rows are made of, as far as its file tells."""
    return attachment.key, attachment.segment, attachment.mac, attachment.ips


def _known(desired: Desired) -> Iterator[tuple[Hashable, Hashable, EntryKey]]:
    """Yield each port and entry that could be in a switch, what of, and the entry it comes with."""
    for view in desired.segments.values():
        segment = view.segment
        for port in view.ports:
            owner = port.attachment
            if owner.netdev and owner.vlan is None and port.state is PortState.ACTIVE:
                entry = EntryKey(segment.vni, owner.mac)
                yield owner.netdev, (entry, owner.ips, port.guard, port.role), entry
                yield entry, owner.netdev, entry
        for remote in view.remotes:
            entry = EntryKey(segment.vni, remote.endpoint.mac)
            yield entry, (remote.vtep, segment.encap), entry
