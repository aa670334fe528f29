"""How the figures of DPUs are made of samples, when they meet their aims, and what they rest on."""

import time
from pathlib import Path

import pytest

from bench import opi, pool
from bench.figures import YARDSTICK
from bench.opi import Samples, figures
from bench.opi_node import add_representors, identity, port_mac, serve_opi, write_config
from dataplane.cli.get import dpu_records
from dataplane.config import load_config
from dataplane.core.model import Pin
from dataplane.fabric.intent import plan_apply
from dataplane.fabric.intent_file import read_intent
from dataplane.lab import dpus, nodes
from dataplane.lab.layout import LabPaths, NodePaths
from dataplane.lab.topology import read_topology
from dataplane.opi import ports

TOPOLOGY = read_topology(opi.TOPOLOGY, "stage")


def samples() -> Samples:
    return Samples(
        create=[0.010, 0.012, 0.040],
        placed=[0.014, 0.016, 0.050],
        delete=[0.008],
        published=[0.020],
        all_ports=[0.010] * 100 + [0.5] * 50 + [0.030] * 100,
        all_took_s=30.0,
        memory_mb=120.0,
        pool=pool.Samples([0.4], [2.9], [3.1], [1.0], [0.5], [2.1]),
    )


def test_figures_are_medians_and_judged() -> None:
    found = {figure.name: figure for figure in figures(samples())}
    judged = {name: (each.value, each.met) for name, each in found.items() if each.aim is not None}
    assert judged == {
        "CreateBridgePort and its entry in the switch p50": (16.0, False),
        "get dpu, 100 devices": (0.4, True),
        "DPU's agent is killed, seen": (2.9, True),
        "DPU's agent hangs, seen": (3.1, False),
        "DPU is plugged in, seen": (0.5, True),
        "DPU is unplugged, seen": (2.1, False),
    }
    p50 = "CreateBridgePort p50"
    assert (found[p50].value, found[f"{YARDSTICK}{p50}"].value) == (12.0, 20.0)
    assert found["CreateBridgePort p99"].value == 40.0
    title = "250 ports on one agent"
    first, last = (found[f"{title}, p50 of the {which} 100"] for which in ("first", "last"))
    assert (first.value, last.value) == (10.0, 30.0)
    assert found[f"{title}, one after another"].value == 30.0


def test_the_stage_is_valid_and_every_port_s_entry_is_pinned() -> None:
    assert [node.name for node in TOPOLOGY.dpus] == ["d1", "d2"]
    wanted = plan_apply(read_intent(opi.INTENT, "stage"), ()).add
    pinned = {each.endpoint for each in wanted if isinstance(each, Pin)}
    assert pinned == {identity("d1", vf) for vf in range(16)}


def test_no_two_ports_have_one_mac() -> None:
    assert len({port_mac(number) for number in range(1 << 16)}) == 1 << 16


def test_an_agent_takes_what_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.opi_node.make_netdevs", lambda *_: None)
    paths, node = LabPaths("optest"), NodePaths(tmp_path, tmp_path / "netns")
    member = TOPOLOGY.node("d2")
    devices = dpus.devices(paths, TOPOLOGY, member)
    write_config(node, nodes.agent_config(paths, member, "unix:/run/db.sock", devices))
    serve_opi(node, "blue")
    add_representors(node, 1000)
    told = load_config(node.config)
    assert told.opi is not None
    assert told.opi.segment == "blue"
    (half,) = told.devices
    assert ports.netdev_of("host0-999", "d2", half.representors) == "vf999"


def test_the_crowd_is_of_devices_that_are_all_well() -> None:
    shown = dpu_records(tuple(pool.crowd()), time.time())
    assert len({each["name"] for each in shown}) == len(shown) == 2 * pool.DPUS
    assert all(each["status"] and each["other_half"] for each in shown)
