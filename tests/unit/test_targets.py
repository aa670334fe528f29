"""What all Targets promise: a render looks at nothing of the bindings but what it names."""

from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import pytest

from dataplane.contracts import Target
from dataplane.core.desired import Bindings, Publication
from dataplane.core.model import Node
from dataplane.fabric.target import FabricTarget
from dataplane.host.glue import GlueTarget
from dataplane.host.next_hops import NextHopsTarget
from dataplane.host.target import LinksTarget
from dataplane.statefile import StateFiles
from overlay_ovs.ports import PortsTarget
from overlay_ovs.target import FlowsTarget
from overlay_ovs.tunnels import TunnelsTarget
from tests.unit.overlay_builders import (
    GENEVE4,
    NIC,
    OWN4,
    VTEP4,
    bindings,
    desired,
    port,
    remote,
    view,
)

NOBODY: Any = None  # a render asks no server


class Narrow:
    """Bindings that show only some fields."""

    def __init__(self, whole: Bindings, shown: frozenset[str]) -> None:
        self._whole = whole
        self._shown = shown

    def __getattr__(self, name: str) -> object:
        assert name in self._shown, f"it reads {name}, and does not say so"
        return getattr(self._whole, name)


def targets(directory: Path) -> list[Target]:
    return [
        StateFiles(directory),
        PortsTarget(NOBODY, NOBODY, "node-a"),
        FlowsTarget(directory),
        TunnelsTarget(NOBODY, NOBODY),
        LinksTarget(),
        GlueTarget(),
        NextHopsTarget(NOBODY),
        FabricTarget(NOBODY, "node-a"),
    ]


@pytest.mark.parametrize("number", range(8))
def test_a_render_looks_only_at_what_it_names(tmp_path: Path, number: int) -> None:
    target = targets(tmp_path)[number]
    assert target.bound_by <= {field.name for field in fields(Bindings)}
    whole = view(GENEVE4, [port(1, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])])
    wanted = desired(whole, publication=Publication(Node("node-a", (OWN4,)), (), ()))
    for numbers in (
        Bindings(NIC, {"ow-phy": 3, "vp1": 4, "ot1": 5}, bindings(whole).ofports),
        Bindings(),  # then a reason is asked for
    ):
        narrow = cast("Bindings", Narrow(numbers, target.bound_by))
        assert target.render(wanted, narrow) == target.render(wanted, numbers)
