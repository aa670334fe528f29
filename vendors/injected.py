"""What an emulated switch does with a frame: it is let in at a port, and all of it is caught.

Nothing here is of a vendor: the switch itself says which port is what.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dataplane.core.agreement import Observed, Question
from dataplane.core.errors import OverweaveError
from dataplane.core.frames import probe_frame
from dataplane.core.path import Action, FromPod, Outcome, Probe
from dataplane.core.snapshot import SWITCH_TARGET
from dataplane.netlink import links
from dataplane.netlink.rtnl import Rtnl
from vendors.emulator.control import Injection, inject, new_mark, tell
from vendors.outputs import Out, Wiring, out

_AT_ONCE = 32  # frames in the switch at a time


class InjectedPath:
    """A PacketPath of the emulated switch whose control socket is ``control``; any thread may ask.

    The switch counts a frame like any other, and nothing of it leaves.
    """

    name = SWITCH_TARGET

    def __init__(self, control: Path) -> None:
        self._control = control

    def outcome(self, probe: Probe) -> Outcome:
        """Return what the switch does with a probe. Raises OverweaveError."""
        mark = new_mark()
        entry = probe.entry if isinstance(probe.entry, FromPod) else None
        frame = probe_frame(probe, _mac(probe.nic), mark)
        (found,) = self._ask([Question("probe", frame, mark, entry, probe.nic)])
        return found.outcome

    def observed(self, questions: Sequence[Question]) -> list[Observed]:
        """Return what the switch does with each frame. Raises OverweaveError."""
        return [each.observed for each in self._ask(questions)]

    def _ask(self, questions: Sequence[Question]) -> list[Out]:
        wiring = Wiring(**tell(self._control, "ports"))
        found = dict.fromkeys(range(len(questions)), Out(Action.NONE, "not behind this switch"))
        asked = [(n, each) for n, each in enumerate(questions) if wiring.entry(each) is not None]
        for start in range(0, len(asked), _AT_ONCE):
            batch = asked[start : start + _AT_ONCE]
            wanted = [
                Injection(wiring.entry(each) or "", each.frame, each.mark) for _, each in batch
            ]
            came = inject(self._control, wanted)
            for (number, question), answer in zip(batch, came, strict=True):
                how = f"injected at {wiring.entry(question)}"
                found[number] = out(question, answer, wiring, how)
        return list(found.values())


def _mac(nic: str) -> str:
    with Rtnl() as rtnl:
        found = links.find(rtnl, nic)
    if found is None:
        raise OverweaveError(f"there is no netdev {nic}")
    return found.mac
