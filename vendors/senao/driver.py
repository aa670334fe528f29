"""Switch "senao": the NIC of an SX904, by tc filters over rtnetlink."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter

from dataplane.core.capability import Capability
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import Change, Item, Rendering
from dataplane.core.errors import TargetError
from dataplane.core.model import Encap, EntryKey, Fabric, family_of
from dataplane.core.overhead import encap_overhead
from dataplane.core.placement import Traffic
from dataplane.core.reasons import Reason
from dataplane.core.snapshot import SWITCH_TARGET
from dataplane.netlink import devlink, flower, switchdev
from dataplane.netlink.actions import TunnelSet
from dataplane.netlink.devlink import Eswitch, Mode
from dataplane.netlink.exchange import Exchange, Open
from dataplane.netlink.flower import Filter, Found, Listing
from dataplane.netlink.rtnl import KernelError
from dataplane.netlink.switchdev import SwitchNetdev
from vendors.fit import check_refused
from vendors.senao.pipeline import Row, Wiring, from_filter, is_ours, to_filter
from vendors.senao.refusals import is_fatal, is_full, reason_of
from vendors.senao.report import Findings, Nic, Trial, capability, ports, usable
from vendors.senao.room import End, behind, ends, lacking
from vendors.senao.rows import render_rows, trial_row

_ANSWER_S, _WHOLE_S = 2.0, 12.0  # within these a live device answers
_ALIVE_S = 0.7  # within this a live kernel answers, however busy (contracts, Switch.ping)
_MOST_ROUNDS = 8  # of one change; each learns who is refused, or that it is full
_NONE = Traffic(0, 0)
_TUNNEL_KINDS = frozenset(encap.value for encap in Encap)
# What a device is full of is not always what is counted: so often a few filters more are tried.
_TRY_MORE_S, _TRY_MORE = 30.0, 64
_SET_MODE_S = (
    30.0  # so often at most: an ice that refuses to be a switch tells the kernel's log, too
)


@dataclass(frozen=True, slots=True)
class Limits:
    """How many filters are placed at most, and the kernel's version where it is the kernel's.

    The device says nothing of the first.
    """

    filters: int
    release: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Devlink:
    """Where devlink is asked for the NIC's mode; ``switchdev``: it is to be set, if it is not."""

    opens: Open
    switchdev: bool = False


class SenaoSwitch:
    """The device behind the socket that ``opens`` opens; filters of others stay."""

    name = SWITCH_TARGET
    deadline_s = 15.0
    bound_by = frozenset({"nic", "next_hops", "placed"})

    def __init__(
        self,
        opens: Open,
        wiring: Wiring,
        limits: Limits,
        devlink: Devlink | None = None,
        *,
        emulated: bool = False,
    ) -> None:
        self._opens = opens
        self._devlink = devlink
        self._wiring = wiring
        self._limits = limits
        self._emulated = emulated
        # Render looks at nothing that placement was not told: as describe saw them last.
        self._tunnels = wiring.tunnels
        self._fabric: Fabric | None = None  # of what was rendered last
        self._trial: Trial | None = None
        self._full: tuple[int, float] | None = None  # so many filters, and when that was learnt
        self._refused: tuple[str, float] | None = None  # to be a switch: in which words, and when

    def close(self) -> None:
        """Do nothing: each piece of work has a socket of its own, and what is placed stays."""

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        self._fabric = desired.fabric
        return render_rows(desired, bindings, replace(self._wiring, tunnels=self._tunnels))

    def observe(self) -> Mapping[Hashable, Item]:
        with self._asking() as exchange:
            return dict(self._look(exchange).rows)

    def apply(self, change: Change) -> None:
        with self._asking() as exchange:
            attempt = _Attempt(exchange, partial(self._look, exchange))
            refused = attempt.make(change)
        self._remember(attempt)
        check_refused(self.name, refused)

    def ping(self) -> None:
        with self._asking(_ALIVE_S, _ALIVE_S) as exchange:
            switchdev.every(exchange)

    def describe(self) -> Capability:
        with self._asking() as exchange:
            seen = self._look(exchange)
            trial = self._tried(exchange, seen)
        findings = Findings(
            netdevs=seen.netdevs,
            listings=seen.listings,
            trial=trial,
            capacity=self._capacity(),
            release=self._limits.release,
            fabric=self._fabric,
            nic=self._nic(seen.netdevs.get(self._wiring.uplink)),
        )
        self._tunnels = usable(seen.netdevs, self._wiring) if trial.tunnels else {}
        return capability(findings, self._wiring, emulated=self._emulated)

    def counters(self) -> Mapping[EntryKey, Traffic]:
        with self._asking() as exchange:
            seen = self._look(exchange)
        counted: dict[EntryKey, Traffic] = {}
        for key, row in seen.rows.items():
            if row.target is not None:
                before, more = counted.get(row.target, _NONE), _traffic(row, seen.found[key])
                counted[row.target] = Traffic(
                    before.packets + more.packets, before.bytes + more.bytes
                )
        return counted

    # --- asking ------------------------------------------------------------------------------

    @contextmanager
    def _asking(self, answer_s: float = _ANSWER_S, whole_s: float = _WHOLE_S) -> Iterator[Exchange]:
        """Lend an Exchange; what goes wrong is a TargetError."""
        try:
            with Exchange(self._opens, answer_s, whole_s) as exchange:
                yield exchange
        except KernelError as error:
            raise TargetError(f"the DPU's switch: {error}") from error

    def _look(self, exchange: Exchange) -> _Seen:
        """Look at the netdevs, and at the filters of those that have ours, or had, or share it."""
        netdevs = {each.name: each for each in switchdev.every(exchange)}
        known = (*self._wiring.representors, self._wiring.uplink)  # they may all have other names
        switches = {netdevs[n].switch for n in known if n in netdevs} - {""}
        others = {
            n
            for n, each in netdevs.items()
            if each.switch in switches or each.kind in _TUNNEL_KINDS
        }
        hooks = others | {name for name in self._wiring.hooks if name in netdevs}
        listings = {n: flower.listing(exchange, netdevs[n].ifindex) for n in sorted(hooks)}
        return _seen(netdevs, listings)

    def _nic(self, uplink: SwitchNetdev | None) -> Nic:
        """Return what devlink says of the NIC's mode, which is set before if that is wanted.

        What it cannot say, or refuses, keeps nothing from being placed.
        """
        if self._devlink is None or uplink is None:
            return Nic()
        try:
            with Exchange(self._devlink.opens, _ANSWER_S, _WHOLE_S) as exchange:
                eswitch = devlink.find(exchange, uplink.ifindex)
                if not self._devlink.switchdev or (eswitch and eswitch.mode is Mode.SWITCHDEV):
                    return Nic(eswitch)
                if eswitch is None:
                    return Nic(fault=f"devlink knows of no switch that {uplink.name} is a port of")
                return self._made_a_switch(exchange, eswitch)
        except KernelError as error:
            return Nic(fault=str(error))

    def _made_a_switch(self, exchange: Exchange, eswitch: Eswitch) -> Nic:
        """Return the NIC in switchdev mode, or why it refuses that."""
        if self._refused is None or time.monotonic() - self._refused[1] > _SET_MODE_S:
            try:
                devlink.set_mode(exchange, eswitch.handle, Mode.SWITCHDEV)
            except KernelError as error:
                self._refused = str(error), time.monotonic()
            else:
                self._refused = None
                return Nic(replace(eswitch, mode=Mode.SWITCHDEV))
        return Nic(eswitch, self._refused[0])

    def _capacity(self) -> int:
        """Return how many filters the device takes, as far as it has been learnt."""
        if self._full is None:
            return self._limits.filters
        filters, learnt_at = self._full
        more = _TRY_MORE if time.monotonic() - learnt_at > _TRY_MORE_S else 0
        return min(self._limits.filters, filters + more)

    def _remember(self, attempt: _Attempt) -> None:
        """Keep at how many filters the device was full, unless it has taken more since."""
        if attempt.full_at is not None:
            self._full = attempt.full_at, time.monotonic()
        elif self._full is not None and attempt.held > self._full[0]:
            self._full = None

    def _tried(self, exchange: Exchange, seen: _Seen) -> Trial:
        """Return whether the device has tunnels: only a refusal says that it has none.

        What was not refused is asked no more as long as we run.
        """
        if self._trial is None or self._trial.words:
            self._trial = _proof(seen) or _try_tunnel(exchange, seen, self._wiring)
        return self._trial


@dataclass(frozen=True, slots=True)
class _Seen:
    """Netdevs and filters by the netdev's name; of ours what they stand for, and as they are."""

    netdevs: Mapping[str, SwitchNetdev]
    listings: Mapping[str, Listing]
    rows: Mapping[Hashable, Row]
    found: Mapping[Hashable, Found]

    @property
    def ifindexes(self) -> dict[str, int]:
        """Return the numbers of the netdevs by their names."""
        return {name: each.ifindex for name, each in self.netdevs.items()}

    @property
    def foreign(self) -> int:
        """Return how many filters of others the device has."""
        held = (found for each in self.listings.values() for found in each.found)
        return sum(found.in_hardware and not is_ours(found) for found in held)


def _seen(netdevs: Mapping[str, SwitchNetdev], listings: Mapping[str, Listing]) -> _Seen:
    """Return what was seen; a filter of ours that is there twice has its place as another key."""
    names = {each.ifindex: name for name, each in netdevs.items()}
    rows: dict[Hashable, Row] = {}
    kept: dict[Hashable, Found] = {}
    for netdev, listing in listings.items():
        for found in filter(is_ours, listing.found):
            row = from_filter(netdev, found.filter, names)
            key = row.key if row.key not in rows else found.filter.slot
            rows[key], kept[key] = row, found
    return _Seen(netdevs, listings, rows, kept)


def _traffic(row: Row, found: Found) -> Traffic:
    """Return what a filter has forwarded; the device counts a tunnel packet with its headers.

    Those of both encapsulations are of one size.
    """
    packets, octets = found.counts.packets, found.counts.bytes
    source = row.match.tunnel_source
    outside = packets * encap_overhead(Encap.GENEVE, family_of(source)) if source else 0
    return Traffic(packets, max(0, octets - outside))


# --- the trial -----------------------------------------------------------------------------------


def _proof(seen: _Seen) -> Trial | None:
    """Return that it has tunnels, if a filter of ours is there that needs one over IPv4.

    One over IPv6 does not tell whether the kernel knows DF.
    """
    actions = (action for found in seen.found.values() for action in found.filter.actions)
    for action in actions:
        if isinstance(action, TunnelSet) and action.target.version == 4:
            return Trial(tunnels=True, dont_fragment=action.dont_fragment)
    return None


def _try_tunnel(exchange: Exchange, seen: _Seen, wiring: Wiring) -> Trial:
    """Try a filter for frames that nobody sends, which goes at once."""
    tunnels = usable(seen.netdevs, wiring)
    there = ports(seen.netdevs, wiring)
    if not tunnels or not there:
        lacking = "tunnel device" if there else "representor"
        return Trial(tunnels=False, words=f"there is no {lacking} to try with")
    netdev = seen.netdevs[there[0]]
    row = trial_row(netdev.name, min(tunnels.values(), key=attrgetter("netdev")), wiring.skip)
    tried = to_filter(row, seen.ifindexes)
    requests = [flower.clsact(netdev.ifindex), flower.addition(tried)]
    *_, refusal = exchange.change(requests, f"try a tunnel at {netdev.name}")
    if refusal is not None and refusal.errno != errno.EEXIST:
        why = reason_of(refusal)
        return Trial(tunnels=not why.startswith(Reason.UNSUPPORTED_ENCAP), words=str(refusal))
    left = flower.listing(exchange, netdev.ifindex).found
    found = [each.filter for each in left if each.filter.match == tried.match]
    exchange.change(
        [flower.deletion(each.slot, each.protocol) for each in found],
        f"end the trial at {netdev.name}",
    )
    return Trial(tunnels=True, dont_fragment=any(each.actions == tried.actions for each in found))


# --- a change ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Attempt:
    """A change in the making; ``look`` says what is in the device.

    ``held`` filters were there in the end, ``full_at`` so many when it said that it was full.
    """

    exchange: Exchange
    look: Callable[[], _Seen]
    refused: dict[EntryKey, str] = field(default_factory=dict)
    words: str = ""  # what it said then
    full_at: int | None = None
    held: int = 0

    def make(self, change: Change) -> Mapping[EntryKey, str]:
        """Make ``change`` as far as the device takes it; return which entries go without.

        A filter that is to do something else goes first: the device refuses its like beside it.
        """
        wanted = [*change.add.values(), *change.update.values()]
        rows: dict[Hashable, Row] = {row.key: row for row in wanted if isinstance(row, Row)}
        going: AbstractSet[Hashable] = change.remove.keys() | change.update.keys()
        seen = self.look()
        before = seen.rows.keys() - change.remove.keys()
        for _ in range(_MOST_ROUNDS):
            stays = {key: row for key, row in seen.rows.items() if key not in going}
            every = {**stays, **rows}
            self._refuse_what_leads_nowhere(every.values(), seen.netdevs)
            kept = self._kept(every, before, len(seen.rows))
            left = kept.keys() - going
            self._delete([found.filter for key, found in seen.found.items() if key not in left])
            missing = [row for key, row in kept.items() if key not in stays]
            if self._is_added(missing, seen.ifindexes):
                self.held = seen.foreign + len(kept)
                return self.refused
            going, seen = frozenset(), self.look()
            if self.words:
                self.full_at = seen.foreign + len(seen.rows)
        raise TargetError(f"the device refused more than {_MOST_ROUNDS} times in turn")

    def _kept(
        self, rows: Mapping[Hashable, Row], before: AbstractSet[Hashable], now: int
    ) -> dict[Hashable, Row]:
        """Return the filters that serve who goes not without; ``now`` so many are there."""
        needs = ends(rows.values())
        without: set[End] = set(self.refused)
        if self.words:
            left = [row for row in rows.values() if not needs[row.key] & without]
            late = lacking(left, before, now - len(before))
            without |= late
            self.refused |= {end: self.words for end in late if isinstance(end, EntryKey)}
        return {key: row for key, row in rows.items() if not needs[row.key] & without}

    def _refuse_what_leads_nowhere(
        self, rows: Collection[Row], netdevs: Mapping[str, SwitchNetdev]
    ) -> None:
        """Refuse who needs a netdev that is not there: of a representor, who is behind it."""
        there = behind(rows)
        for row in rows:
            for netdev in {row.netdev, row.to} - netdevs.keys():
                entry = there.get(netdev, row.target)
                if entry is not None:
                    why = f"{Reason.NO_SWITCH_PORT}: there is no netdev {netdev}"
                    self.refused.setdefault(entry, why)

    def _is_added(self, rows: Sequence[Row], ifindexes: Mapping[str, int]) -> bool:
        """Add filters, and learn why those are refused that are; say whether none is."""
        hooks = [flower.clsact(ifindexes[netdev]) for netdev in {row.netdev for row in rows}]
        requests = [flower.addition(to_filter(row, ifindexes)) for row in rows]
        answers = self.exchange.change([*hooks, *requests], "add filters")
        for answer in answers[: len(hooks)]:
            if answer is not None and answer.errno != errno.EEXIST:
                raise TargetError(f"the DPU's switch: add clsact: {answer}")
        is_made = True
        for row, answer in zip(rows, answers[len(hooks) :], strict=True):
            if answer is None:
                continue
            is_made = False
            if is_fatal(answer):
                raise TargetError(f"the DPU's switch: add a filter to {row.netdev}: {answer}")
            if is_full(answer):
                self.words = reason_of(answer)
            elif row.target is not None:
                self.refused.setdefault(row.target, f"{reason_of(answer)} at {row.netdev}")
        return is_made

    def _delete(self, filters: Sequence[Filter]) -> None:
        """Delete filters; gone already is success. Raises TargetError if one stays."""
        requests = [flower.deletion(each.slot, each.protocol) for each in filters]
        answers = self.exchange.change(requests, "delete filters")
        for found, answer in zip(filters, answers, strict=True):
            if answer is not None and answer.errno not in (errno.ENOENT, errno.ENODEV):
                raise TargetError(f"the DPU's switch: delete the filter of {found.slot}: {answer}")
