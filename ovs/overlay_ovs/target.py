"""Target "ovs-flows": the flows of our bridges, changed in one bundle per bridge."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataplane.core.desired import Bindings, Datapath, Desired
from dataplane.core.diff import Change, Rendering
from dataplane.core.errors import TargetError
from overlay_ovs.flows import render_flows
from overlay_ovs.tables import BRIDGES, BridgeFlow, is_ours
from ovs_client.ofctl import Flow, OpenFlowBridge, OpenFlowError


class FlowsTarget:
    """The flows of the ovs-vswitchd whose files stand in ``rundir``; flows of others stay.

    ``datapath`` says which bridges it has of ours.
    """

    name = "ovs-flows"
    deadline_s = 10.0
    bound_by = frozenset({"ofports", "port_faults", "next_hops"})

    def __init__(self, rundir: Path, datapath: Datapath = Datapath.USERSPACE) -> None:
        names = BRIDGES[datapath]
        self._bridges = {name: OpenFlowBridge(rundir / f"{name}.mgmt") for name in names}

    def render(self, desired: Desired, bindings: Bindings) -> Rendering:
        return render_flows(desired, bindings)

    def observe(self) -> Mapping[Hashable, BridgeFlow]:
        try:
            with ThreadPoolExecutor(len(self._bridges)) as all_at_once:
                dumps = list(all_at_once.map(OpenFlowBridge.dump_flows, self._bridges.values()))
        except OpenFlowError as error:
            raise TargetError(str(error)) from error
        items = (
            BridgeFlow(name, flow)
            for name, flows in zip(self._bridges, dumps, strict=True)
            for flow in flows
            if is_ours(flow)
        )
        return {item.key: item for item in items}

    def apply(self, change: Change) -> None:
        for name, bridge in self._bridges.items():
            add = [*_of(name, change.add.values()), *_of(name, change.update.values())]
            try:
                bridge.apply_bundle(add, _of(name, change.remove.values()))
            except OpenFlowError as error:
                raise TargetError(str(error)) from error


def _of(bridge: str, items: Iterable[BridgeFlow]) -> list[Flow]:
    return [item.flow for item in items if item.bridge == bridge]
