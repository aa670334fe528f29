"""A probe through the switch of a DPU: in at VFs, in the host's pods, and out at a representor.

What it proves: what the switch has no entry for comes to the software. Nothing enters a pod, and
the frames end in the DPU's Open vSwitch. Not that an entry forwards: ``overweave verify`` asks it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from dataplane.contracts import Sending, Witness
from dataplane.core.desired import Port, PortState
from dataplane.core.errors import OverweaveError
from dataplane.core.probe import ProbeFrame
from dataplane.netlink.probe_port import ProbePort, new_probe

WAIT_S = 0.5
_LOOK_S = 0.02
_AT_ONCE = 3  # pods, of which one is enough: what one does to its VF says nothing of the switch


class SwitchProbe:
    """A PathProbe of the switch below this node, by the pods of ``pods`` in turn."""

    def __init__(self, witness: Witness, pods: Callable[[], Sequence[Port]]) -> None:
        """Have ``witness`` send; without it, or without pods, nobody can tell."""
        self._witness = witness
        self._pods = pods
        self._turn = 0

    def probe(self) -> str | None:
        """Have some sent, and wait for WAIT_S for one of them."""
        pods = self._some()
        probes = {pod.attachment.key: new_probe(pod.attachment.mac) for pod in pods}
        try:
            with ExitStack() as stack:
                ports = {
                    pod.attachment.key: stack.enter_context(ProbePort(pod.attachment.access_port))
                    for pod in pods
                }
                wanted = [Sending(key, probe.frame, probe.mark) for key, probe in probes.items()]
                unsent = self._witness.send(wanted, 0.0).faults if wanted else {}
                sent = [pod for pod in pods if pod.attachment.key not in unsent]
                if not sent:
                    return None
                heard = [(ports[p.attachment.key], probes[p.attachment.key]) for p in sent]
                if _is_one_heard(heard):
                    return ""
        except OverweaveError:
            return None  # the host is away, or a representor: that is told elsewhere
        which = sent[0].attachment
        return (
            f"the switch does not forward: of probes from {len(sent)} VFs, such as that of pod"
            f" {which.key}, none has come out at its representor within {WAIT_S:g} s"
        )

    def _some(self) -> list[Port]:
        pods = [port for port in self._pods() if port.state is PortState.ACTIVE]
        start = self._turn % len(pods) if pods else 0
        self._turn = start + _AT_ONCE
        return (pods[start:] + pods[:start])[:_AT_ONCE]


def _is_one_heard(heard: Sequence[tuple[ProbePort, ProbeFrame]]) -> bool:
    give_up = time.monotonic() + WAIT_S
    while time.monotonic() < give_up:
        if any(port.hears(probe.is_passed_as, _LOOK_S) for port, probe in heard):
            return True
    return False
