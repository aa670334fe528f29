"""A node of the lab as a container runtime sees it: the plugin, pods, and what both leave there."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from dataplane.core.model import Endpoint, FabricEntity
from dataplane.fabric.store import FabricStore
from dataplane.lab import lab
from dataplane.lab.layout import NodePaths
from dataplane.lab.probes import Station
from dataplane.lab.runtime import SHIM
from dataplane.lab.scene import Colour, Scene
from dataplane.lab.underlay import ensure_namespace
from dataplane.netlink import links, netns
from dataplane.netlink.netns import Netns
from ovs_client.ofctl import Flow, OpenFlowBridge
from tests.functional.cni_world import Outcome, run_plugin
from tests.functional.namespaces import rtnl_in

NETWORK = "runtime-tests"  # not the name the lab's own pods are attached under: GC is per network
GONE_S = 5.0


@contextmanager
def segment(scene: Scene, colour: Colour, more: str = "") -> Iterator[Colour]:
    """Have a segment of the test's own; ``more`` are further lines of its intent."""
    lab.apply(scene.paths, colour.document + more)
    yield colour
    lab.overweave(scene.paths, "delete", "segment", colour.name)


def rows(scene: Scene) -> tuple[FabricEntity, ...]:
    with FabricStore(lab.fabric_server(scene.paths).remote) as store:
        return store.read()


def eventually(condition: Any, timeout_s: float = GONE_S) -> float:
    """Return after how many seconds ``condition`` was true; fail if it never was."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s:g} s"
        time.sleep(0.02)
    return time.monotonic() - began


def error_of(outcome: Outcome, code: int, *words: str) -> dict[str, Any]:
    """Return the error object, which must have the code and name what is wrong."""
    assert outcome.status == 1, outcome.stdout
    document = outcome.document
    assert document["code"] == code, document
    assert all(word in document["msg"] for word in words), document["msg"]
    return document


@dataclass(slots=True)
class CniNode:
    """Runs plugins on ``name`` and takes away in the end whatever pods are left (``close``)."""

    scene: Scene
    name: str
    segment: str
    pods: ExitStack = field(default_factory=ExitStack)

    @property
    def paths(self) -> NodePaths:
        return self.scene.paths.node(self.name)

    def config(self, **changes: object) -> dict[str, object]:
        """Return a network configuration; a key set to None is left out."""
        whole = {
            "cniVersion": "1.1.0",
            "name": NETWORK,
            "type": "overweave-cni",
            "segment": self.segment,
            "agentSocket": str(self.paths.cni_socket),
            **changes,
        }
        return {key: value for key, value in whole.items() if value is not None}

    def pod(self, name: str) -> str:
        """Make a pod's namespace and return its path."""
        path = self.scene.paths.netns(name)
        ensure_namespace(path)
        self.pods.callback(self._remove, name)
        return str(path)

    def run(
        self,
        verb: str,
        pod: str,
        config: Mapping[str, object] | None = None,
        plugin: Path = SHIM,
        **environment: str | None,
    ) -> Outcome:
        """Run a plugin as a runtime does; a variable set to None is left out."""
        variables = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": pod,
            "CNI_NETNS": str(self.scene.paths.netns(pod)),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": f"{SHIM.parent}:/usr/lib/cni",
            "PATH": os.defpath,
            **environment,
        }
        given = {key: value for key, value in variables.items() if value is not None}
        return run_plugin(plugin, json.dumps(config or self.config()).encode(), given)

    def add(self, pod: str, **changes: object) -> Station:
        """Make a pod and attach it."""
        self.pod(pod)
        outcome = self.run("ADD", pod, self.config(**changes))
        assert outcome.status == 0, outcome.stdout
        return station(pod, outcome.document)

    def delete(self, pod: str, space: str | None = "") -> None:
        """Detach a pod; ``space`` empty: that of ``pod``, None: the runtime does not name it."""
        own = str(self.scene.paths.netns(pod))
        outcome = self.run("DEL", pod, CNI_NETNS=own if space == "" else space)
        assert (outcome.status, outcome.stdout) == (0, "")

    def endpoints(self) -> dict[str, Endpoint]:
        """Return the fabric rows of this node's attachments by container."""
        found = [row for row in rows(self.scene) if isinstance(row, Endpoint)]
        return {row.container_id: row for row in found if row.node == self.name}

    def flows(self) -> tuple[Flow, ...]:
        return OpenFlowBridge(self.paths.ovs / "ow-int.mgmt").dump_flows()

    def traces(self) -> set[str]:
        """Return everything that is there because of this node's pods, as words."""
        netdevs = links_of(self.paths.netns)
        own = [row for row in rows(self.scene) if getattr(row, "node", "") == self.name]
        files = (self.paths.state / "attachments").glob("*")
        return {
            *(name for name in netdevs if name.startswith(("vp", "ot"))),
            *map(str, self.flows()),
            *map(str, own),
            *(file.name for file in files),
        }

    @contextmanager
    def leaves_no_trace(self) -> Iterator[None]:
        """Compare what is there after with what was there before; rows may take a moment."""
        before = self.traces()
        yield
        with suppress(AssertionError):
            eventually(lambda: self.traces() == before)
        assert self.traces() ^ before == set()

    def _remove(self, name: str) -> None:
        self.run("DEL", name)
        netns.delete(self.scene.paths.netns(name).name)


def station(name: str, result: Mapping[str, Any], ifname: str = "eth0") -> Station:
    """Return a pod that ADD answered ``result`` for, as probes see it."""
    names = [each["name"] for each in result["interfaces"]]
    place = names.index(ifname)
    inside = result["interfaces"][place]
    ips = [ip_interface(each["address"]).ip for each in result["ips"] if each["interface"] == place]
    space = Path(inside["sandbox"])
    return Station(name, space, ifname, inside["mac"], tuple(ips), links_of(space)[ifname].mtu)


@contextmanager
def cni_node(scene: Scene, name: str, segment_name: str) -> Iterator[CniNode]:
    """Use a node; once the test's pods are gone it must be as it was, to the last flow."""
    node = CniNode(scene, name, segment_name)
    with node.leaves_no_trace(), node.pods:
        yield node


def links_of(space: Path) -> dict[str, links.Netdev]:
    with Netns(str(space)) as entered, rtnl_in(entered) as rtnl:
        return {netdev.name: netdev for netdev in links.every(rtnl)}
