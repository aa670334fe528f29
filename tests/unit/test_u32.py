"""What others have beside our redirects, of kinds that not every kernel has."""

from __future__ import annotations

import struct
from types import SimpleNamespace
from typing import cast

from pyroute2.netlink import nlmsg

from dataplane.netlink import u32
from dataplane.netlink.messages import Filter, attribute
from dataplane.netlink.rtnl import Rtnl
from dataplane.netlink.tc import INGRESS

VP, PREFERENCE = 7, 9
POLICE = attribute(1, b"police\0") + attribute(2, attribute(1, bytes(56)))  # TCA_POLICE_TBF


def test_a_filter_that_polices_is_somebody_else_s() -> None:
    selector = attribute(5, struct.pack("=BBBxHHhhI", 1, 0, 0, 0, 0, 0, 0, 0))
    reply = Filter()
    reply.update(index=VP, handle=0x80000800, parent=INGRESS, info=PREFERENCE << 16 | 0x0300)
    options = selector + attribute(7, attribute(1, POLICE))
    reply["attrs"] = [("TCA_KIND", b"u32\0"), ("TCA_OPTIONS", options)]
    found = u32.listing(telling(reply), VP)
    assert found == u32.Listing((), {PREFERENCE: "u32"}, frozenset())


def telling(reply: nlmsg) -> Rtnl:
    """Return a kernel with act_police, which the one that tests run on may not have."""
    return cast("Rtnl", SimpleNamespace(dump=lambda *_: [reply]))
