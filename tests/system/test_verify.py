"""``overweave verify`` on plain nodes: eBPF does what Open vSwitch does, and else it is named."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any

import pytest

from bpf.layout import RemoteEntry, encode_entry, encode_entry_key
from dataplane.core.model import Encap, Mac, Vni
from dataplane.lab.scene import COLOURS, Scene
from tests.system.test_lab_cli import Overweave
from tests.system.test_trace import World, ifindex, put_back, take

BLUE = COLOURS[0]
_TRIES = 3  # the agents put right what they find, every 30 s


def verified(scene: Scene, *words: str) -> tuple[int, dict[str, Any]]:
    shown = Overweave(scene).run("verify", "-o", "json", *words)
    assert shown.stdout, shown.stderr
    (record,) = json.loads(shown.stdout)
    return shown.returncode, record


@pytest.mark.parametrize("name", ["blue", "lime"])
def test_ebpf_and_open_vswitch_agree(scene: Scene, name: str) -> None:
    status, found = verified(scene, "--packets", "30", "--segment", name)
    print(found["verdict"])
    assert (status, found["differences"]) == (0, [])
    rows = {(row["node"], row["path"]): row for row in found["paths"]}
    nodes = [node.name for node in scene.topology.agents]
    assert set(rows) == {(node, path) for node in nodes for path in ("fastpath", "ovs")}
    for node in nodes:
        assert rows[node, "fastpath"]["agree"] > 60
        assert rows[node, "fastpath"]["handed_over"] > 20
        assert rows[node, "fastpath"]["unknown"] == 0


def test_an_entry_that_leads_elsewhere_is_named(scene: Scene) -> None:
    world = World(scene, Overweave(scene))
    second = Mac(str(world.pod(BLUE, 1).mac))
    key = encode_entry_key(Vni(BLUE.vni), second)
    ours, third = (
        next(a.ip for a in scene.topology.node(node).addresses if a.version == 4)
        for node in ("n1", "n3")
    )
    nic = ifindex(world, "n1", "eth0")
    wrong = encode_entry(RemoteEntry(nic, Encap(BLUE.encap), 6081, ip_address(ours), third))
    status = 0
    found: dict[str, Any] = {}
    for _ in range(_TRIES):
        undo = take(world, "n1", "entries", key)
        put_back(world.node("n1").maps()["entries"], key, wrong)
        status, found = verified(scene, "--packets", "0", "--segment", "blue")
        undo()
        if status:
            break
    assert status == 1
    first = found["differences"][0]
    assert (first["node"], first["path"], first["field"]) == ("n1", "fastpath", "target VTEP")
    assert first["rule"] == f"map entries: {second} of {BLUE.vni} is behind {third}"
    assert first["truths_rule"].startswith("table forwarding: ")
