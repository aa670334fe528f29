"""A probe through Open vSwitch: in at the LOCAL port of ow-int, and out there again.

What it proves: ovs-vswitchd takes a frame in, walks the first table, and puts the frame out,
changed as the flow says. Not that any pod's flow is right: that is what Targets compare. Nobody but
this port ever gets it.
"""

from __future__ import annotations

from dataplane.core.errors import OverweaveError
from dataplane.host.target import INTEGRATION_BRIDGE
from dataplane.netlink.probe_port import ProbePort, new_probe

WAIT_S = 0.5  # a frame takes less than a millisecond, and the machine may be busy


class LoopProbe:
    """A PathProbe from the calling thread's namespace."""

    def probe(self) -> str | None:
        """Send one, and wait for WAIT_S; its MAC is one that no flow of a cache knows."""
        sent = new_probe()
        try:
            with ProbePort(INTEGRATION_BRIDGE) as port:
                port.send(sent.frame)
                if port.hears(sent.is_answered_by, WAIT_S):
                    return ""
        except OverweaveError as error:
            return str(error)
        return (
            f"Open vSwitch does not forward: a probe at {INTEGRATION_BRIDGE} has not come back"
            f" within {WAIT_S:g} s; does ovs-vswitchd run?"
        )
