"""What no document says of an Octeon 10, and is taken to be so; the documents say where."""

from __future__ import annotations

from dataplane.core.capability import Assumption, Use

ASSUMPTIONS = (
    Assumption(
        "card-serial", Use.DISCOVERY, "VPD's SN and the Device Serial Number are the card's"
    ),
    Assumption("first-port-mac", Use.DISCOVERY, "the MAC of its first a063 port is the card's own"),
    Assumption("ovs-release", Use.DEVICE, "its Open vSwitch is 2.17 or later"),
    Assumption("restarts", Use.DEVICE, "its Open vSwitch is started again, and its misses set"),
    Assumption("bridge-ports", Use.DEVICE, "the bridge has up, cpu0, one port a VF, and the VTEPs"),
    Assumption("misses", Use.PORTS, "a miss gets to the representor or cpu0, at priority 0 to 4"),
    Assumption("whole-frames", Use.PORTS, "a frame that its ports offload comes in whole"),
)
