"""The halves of DPUs that the machine itself tells of, beside those that are configured. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dataplane.core.model import Condition, Device, Side

_MOST_NAMED = 8  # of VFs or representors in one sentence


@dataclass(frozen=True, slots=True)
class FoundVf:
    """A virtual function on the host: its PCI address, and its netdev; empty: not seen here."""

    device_id: str
    netdev: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """A half of a DPU as the hardware tells it.

    ``serials`` are what it may be called in the configuration, the first what it is called here.
    ``place`` says where it was found. ``vfs``, of a host, and ``representors``, of a DPU, are in
    the order of the VFs' numbers; the name of a netdev that is not seen here is empty. One whose
    product is not ``known`` is of a vendor that has others. ``assumptions`` names what all this is
    read by on no document's word.
    """

    vendor: str
    product: str
    side: Side
    serials: tuple[str, ...]
    place: str
    vfs: tuple[FoundVf, ...] = ()
    representors: tuple[str, ...] = ()
    known: bool = True
    assumptions: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return what it is called in the fabric unless it is configured."""
        return f"{self.serials[0]}-{self.side}"

    def is_half(self, device: Device) -> bool:
        """Say whether ``device`` is this half: by its serial, or as the DPU that the node is.

        A node is one at most, and its own half need not know the serial that its host reads.
        """
        if device.side is not self.side:
            return False
        is_node = self.side is Side.DPU and device.vendor == self.vendor and not device.emulated
        return is_node or device.serial in self.serials


@dataclass(frozen=True, slots=True)
class Discovered:
    """What the machine has now; ``seen`` are the names of configured devices it has had."""

    found: tuple[Found, ...] = ()
    seen: frozenset[str] = frozenset()

    def now(self, found: tuple[Found, ...], configured: Sequence[Device]) -> Discovered:
        """Return what it has after a look that has found ``found``."""
        there = {each.name for each in configured if any(half.is_half(each) for half in found)}
        return Discovered(found, self.seen | there)

    def lacks(self, device: Device) -> bool:
        """Say whether a configured ``device`` has been there and is not now.

        One that never was may be known to the configuration by another serial, or be emulated.
        """
        return device.name in self.seen and self.half(device) is None

    def half(self, device: Device) -> Found | None:
        """Return what was found of a configured ``device``; None: nothing."""
        return next((half for half in self.found if half.is_half(device)), None)

    def others(self, node: str, configured: Sequence[Device]) -> Iterator[Device]:
        """Yield what is there and not configured, as devices of ``node`` that nothing uses."""
        for half in self.found:
            if not any(half.is_half(device) for device in configured):
                yield _unused(half, node)


def _unused(half: Found, node: str) -> Device:
    return Device(
        name=half.name,
        serial=half.serials[0],
        vendor=half.vendor,
        product=half.product,
        side=half.side,
        node=node,
        ready=False,
        conditions=(
            Condition("Configured", holds=False, reason=_advice(half)),
            Condition("Found", holds=True, reason=_description(half)),
        ),
        assumptions=half.assumptions,
        vfs=len(half.vfs) or len(half.representors),
    )


def _advice(half: Found) -> str:
    if not half.known:
        return "this product is not known, so it cannot be used"
    configuration = "in 'devices' of this node's configuration"
    if half.side is Side.HOST:
        serials = " or ".join(half.serials)
        return f"to use it, list serial {serials} {configuration} and send its agent SIGHUP"
    serial = "with the serial that its host has"
    return f"to use it, list it {serial} {configuration} and restart its agent"


def _description(half: Found) -> str:
    vfs = [f"{vf.device_id} ({vf.netdev or 'no netdev here'})" for vf in half.vfs]
    parts = (half.place, _listed("VFs", vfs), _listed("representors", half.representors))
    return "; ".join(part for part in parts if part)


def _listed(kind: str, names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    shown = [name or "(not here)" for name in names[:_MOST_NAMED]]
    shown += [f"and {more} more"] if more > 0 else []
    return f"{kind} {', '.join(shown)}" if shown else ""
