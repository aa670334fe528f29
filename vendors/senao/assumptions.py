"""What no document says of an SX904, and is taken to be so; the documents say where."""

from __future__ import annotations

from dataplane.core.capability import Assumption, Use

ASSUMPTIONS = (
    Assumption(
        "card-serial", Use.DISCOVERY, "VPD's SN and the Device Serial Number are the card's"
    ),
    Assumption("serial-of-mac", Use.DISCOVERY, "that number is made of the MAC at 0000:f4:00.0"),
    Assumption("reset", Use.DEVICE, "a reset takes all filters out, and the hooks they are on"),
    Assumption("capacity", Use.ENTRIES, "it takes 4,096 filters, or as many as it is said to"),
    Assumption("full", Use.ENTRIES, "a filter for which there is no room is refused with ENOSPC"),
    Assumption("group-address", Use.ENTRIES, "a group address is looked up as any other"),
    Assumption("tags", Use.ENTRIES, "IP keys do not match a frame with a tag"),
    Assumption("fragments", Use.ENTRIES, "IP keys match a fragment, keys of ports do not"),
    Assumption("ip-lengths", Use.ENTRIES, "what a header says of its length is not looked at"),
    Assumption("tunnels", Use.TUNNELS, "there is a driver that takes tunnel_key, and counts"),
    Assumption("outer-headers", Use.TUNNELS, "outer headers are as the filter says, the rest 0"),
    Assumption(
        "next-hops", Use.TUNNELS, "outer MACs are those of the kernel's route and neighbour"
    ),
    Assumption(
        "tunnel-parser", Use.TUNNELS, "what is damaged, or has options, is no tunnel packet"
    ),
    Assumption("inner-tos", Use.TUNNELS, "ECN and DSCP are not copied from the frame inside"),
    Assumption("outer-ecn", Use.TUNNELS, "congestion on the way is not told to the frame inside"),
    Assumption("frame-size", Use.TUNNELS, "what is too large for the underlay leaves all the same"),
    Assumption("counters", Use.TUNNELS, "tunnel packets are counted with their outer headers"),
)
