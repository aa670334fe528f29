"""What is in the switch goes through the switch, and what is not goes by software: never both."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from dataclasses import replace

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from dataplane.lab import lab, matrix, nodes, probes
from dataplane.lab.probes import Pace, Station
from dataplane.lab.runtime import Pod
from dataplane.lab.scene import COLOURS, Colour
from ovs_client import tunnel_routes
from ovs_client.ofctl import Flow, FlowKey
from ovs_client.unixctl import Unixctl
from tests.coverage_grid import FAMILIES, Proven
from tests.functional.test_metrics import names_shown
from tests.system.dpu.bugs import tables_of
from tests.system.dpu.conftest import BUSY, TRIES, DpuScene, Talk, assumed_of_switch, until
from tests.system.dpu.proofs import Proofs
from tests.system.frames import deliver
from tests.system.test_lab_cli import Overweave
from tests.unit.test_metrics import documented
from vendors.marvell.pipeline import PIPELINE, Category, category, is_ours

PUT_BACK_S = 5.0  # five times the second within which a loss is noticed and put back
MODERATE = 0.3  # seconds between pings: above what keeps an entry, below what makes one
LOOKS = 80  # every 100 ms: past the first measurements of an agent that was just started

WIDE = """\
kind: Segment
name: wide
vni: 1027
subnets: [10.27.0.0/24, 10.28.0.0/24]
static_ranges: [10.27.0.128/25, 10.28.0.128/25]
"""


def test_all_pairs(scene: DpuScene, colour: Colour, proven: Proven) -> None:
    verdict = matrix.verify(scene.segments[colour.name])
    assert (verdict.reachable, verdict.lost, verdict.faults) == (verdict.pairs, 0, ())
    for inner in FAMILIES:
        proven(colour.encap, colour.underlay, inner, port="representor")


def test_segments_stay_apart(scene: DpuScene) -> None:
    assert matrix.leaks(scene.segments) == ()


def test_busy_pairs_come_into_the_switch_and_idle_ones_go(scene: DpuScene) -> None:
    """A pair of each segment, all at once: the idle ones take a while to go."""
    pairs = [(colour, pods[0], pods[3]) for colour, pods in segments_of(scene)]
    ends = [(colour, end) for colour, *both in pairs for end in both]
    with ExitStack() as stack:
        echoes = [
            stack.enter_context(probes.flow(source, sink.ip(version), BUSY))
            for _, vf, far in pairs
            for source, sink, version in ((vf, far, 4), (far, vf, 6))
        ]
        until(lambda: all(scene.placed(end) for _, end in ends), what="not placed")

        def through(packets: int) -> bool:
            rows = [scene.row(*end) for end in ends]
            return all(row and row.packets >= packets for row in rows)

        until(lambda: through(1), what="placed, and nothing goes by it")
        software = [scene.entry(end).counted["fastpath"] for _, end in ends]
        until(lambda: through(100), what="it does not go on by the switch")
        still = [scene.entry(end).counted["fastpath"] for _, end in ends]
        assert still == software, "the software forwards it, too"
    assert [(echo.lost, echo.duplicates) for echo in echoes] == [(0, 0)] * len(echoes)
    until(lambda: not any(scene.row(*end) for end in ends), 60, "an idle entry keeps its row")
    assert {scene.entry(far).reason for _, _, far in pairs} == {"below-threshold"}


def segments_of(scene: DpuScene) -> list[tuple[Colour, list[Station]]]:
    return [(colour, scene.segments[colour.name]) for colour in COLOURS]


class TestProofs(Proofs):
    """On this vendor, too."""


def test_what_is_lost_behind_the_agents_back_is_put_back(talk: Talk) -> None:
    talk.gap_s = PUT_BACK_S
    ends = {talk.vf.mac, talk.far.mac}
    until(lambda: talk.scene.placed_macs() == ends, 60, "idle entries keep their rows")
    rows = keys(talk.scene)
    for _ in range(5):
        assert talk.scene.tell("lose-one")
    took = until(lambda: keys(talk.scene) >= rows, PUT_BACK_S)
    print(f"put back after {took:.1f} s")


def test_what_all_rely_on_is_missed_at_once(talk: Talk) -> None:
    """Without it ARP, ND, tunnel packets and whatever has no entry end in the switch."""
    talk.gap_s = PUT_BACK_S
    scene, other = talk.scene, talk.scene.segments["blue"][1]
    with probes.flow(talk.vf, other.ip(4), MODERATE) as echo:
        for table in PIPELINE:
            lost = [
                flow
                for flow in scene.bridge().dump_flows()
                if flow.table == table.number
                and is_ours(flow)
                and category(flow) == Category.PIPELINE
            ]
            assert lost
            assert not scene.placed(other), "it does not rely on them"
            scene.bridge().apply_bundle((), lost)
            missed = frozenset(flow.key for flow in lost)
            until(lambda: keys(scene) >= missed, PUT_BACK_S, table.name)  # noqa: B023
            time.sleep(1)  # until the agent has seen it, too
    print(f"without entry: lost {echo.lost}, longest gap {echo.longest_gap * 1000:.0f} ms")
    assert echo.longest_gap < PUT_BACK_S


def test_the_ways_of_tunnel_packets_are_missed_at_once(talk: Talk) -> None:
    talk.gap_s = PUT_BACK_S
    ovs = Unixctl(talk.scene.paths.directory / "d1.switch" / "ovs")
    # Those of the other family may be left of segments of which nothing is placed any more.
    routes = [each for each in tunnel_routes.routes(ovs) if each.gateway.version == 4]
    gateways = {route.gateway for route in routes}
    ours = {each for each in tunnel_routes.neighbours(ovs) if each.address in gateways}
    assert ours
    ovs.call("tnl/neigh/flush")
    took = until(lambda: ours <= {*tunnel_routes.neighbours(ovs)}, PUT_BACK_S, f"{ours}")
    print(f"neighbours put back after {took:.1f} s")
    time.sleep(1)  # until the agent has seen it, too
    for route in routes:
        tunnel_routes.delete_route(ovs, route)
    took = until(lambda: {*routes} <= {*tunnel_routes.routes(ovs)}, PUT_BACK_S)
    print(f"routes put back after {took:.1f} s")


def keys(scene: DpuScene) -> set[FlowKey]:
    return {flow.key for flow in scene.bridge().dump_flows()}


def test_a_reset_switch_is_filled_again(talk: Talk) -> None:
    talk.gap_s = 5.0
    before = talk.scene.row(talk.colour, talk.far)
    assert before is not None
    began = time.monotonic()
    talk.scene.tell("reset")

    def is_new() -> bool:
        row = talk.scene.row(talk.colour, talk.far)
        return row is not None and row.packets < before.packets

    until(is_new, 30)
    print(f"filled again after {time.monotonic() - began:.1f} s")
    assert probes.ping(talk.vf, talk.far.ip(4), Pace(20)).lost == 0


def test_a_restart_of_the_agent_takes_nothing_out_of_the_switch(scene: DpuScene) -> None:
    """What forwards enough to stay, and too little to come in, is as it was: not one row is new."""
    lime = COLOURS[3]
    vf, _, _, far = scene.segments[lime.name]
    with probes.flow(vf, far.ip(4), BUSY):
        until(lambda: scene.placed(far) and scene.placed(vf), what="not placed")
    with probes.flow(vf, far.ip(4), MODERATE) as echo:
        before = counted(scene, lime, vf, far)
        nodes.kill_agent(scene.paths.node("d1"))
        lab.start_agents(scene.paths, scene.topology.agents)
        for _ in range(LOOKS):
            time.sleep(0.1)
            after = counted(scene, lime, vf, far)
            assert all(old <= new for old, new in zip(before, after, strict=True))
            before = after
        assert scene.placed(far)
        assert scene.placed(vf)
    assert echo.lost == 0
    assert echo.duplicates == 0


def counted(scene: DpuScene, colour: Colour, *stations: Station) -> list[int]:
    """Return the packets of the rows of ``stations``; a row that was put back begins anew."""
    rows = [scene.row(colour, station) for station in stations]
    assert all(rows), "an entry is withdrawn"
    return [row.packets for row in rows if row]


def test_pods_in_different_subnets_of_a_segment_reach_each_other(scene: DpuScene) -> None:
    lab.apply(scene.paths, WIDE)
    wanted = [Pod("wide0", "h1", "wide", ips=("10.27.0.130/24",), device=scene.spare_vf)]
    wanted += [Pod("wide1", "d1", "wide", ips=("10.28.0.131/24",))]
    wanted += [Pod("wide2", "n2", "wide", ips=("10.28.0.132/24",))]
    stations = [scene.runtime.add(pod) for pod in wanted]
    for source in stations:
        for sink in stations:
            if sink is not source:
                until(lambda: probes.ping(source, sink.ip(4), Pace()).received == 1)  # noqa: B023
                assert probes.ping(source, sink.ip(4), Pace(5)).lost == 0
    for pod in wanted:
        scene.runtime.delete(pod.name)
    lab.overweave(scene.paths, "delete", "segment", "wide")


def test_a_row_written_by_hand_moves_packets(scene: DpuScene) -> None:
    """From one segment into another, where nothing else would."""
    one, other = scene.segments["blue"][0], scene.segments["green"][0]
    ip = IP(src=str(one.ip(4)), dst=str(other.ip(4)))
    frames = {"by hand": Ether(src=one.mac, dst=other.mac) / ip / UDP()}
    assert deliver(one, frames, [other])["by hand"] == {}
    ports = tables_of(scene, COLOURS[0]).ports
    row = Flow(0, 500, f"dl_dst={other.mac},in_port={ports['vf0']}", f"output:{ports['vf1']}", 0)
    scene.bridge().apply_bundle([row], ())
    try:
        # For a moment after a change Open vSwitch still does what it remembers.
        until(lambda: deliver(one, frames, [other])["by hand"] == {other.name: 1})
        (counted,) = (each for each in scene.bridge().counted_flows(0) if each.flow.key == row.key)
        assert counted.packets >= 1
    finally:
        scene.bridge().apply_bundle((), [row])
    until(lambda: deliver(one, frames, [other])["by hand"] == {})


def test_a_trace_shows_the_switch_as_the_hop_that_it_is(talk: Talk) -> None:
    overweave = Overweave(talk.scene)
    shown = overweave.run("trace", str(talk.vf.ip(4)), str(talk.far.ip(4)))
    verdict, head, *hops, _ = shown.stdout.splitlines()
    assert (shown.returncode, verdict) == (0, "reachable, fastpath both ways, in the switch of d1")
    assert head.split()[4:] == ["PREDICTED", "SWITCH", "EBPF", "OVS"]
    assert len(hops) == 4
    counted = talk.scene.row(talk.colour, talk.far)
    assert counted is not None
    wrong = replace(counted.flow, actions=counted.flow.actions.replace("->tun_id", "1->tun_id"))
    talk.gap_s = PUT_BACK_S  # while the row is wrong
    for _ in range(TRIES):  # the agent may put it right before it is asked about
        talk.scene.bridge().apply_bundle([wrong], ())
        shown = overweave.run("trace", str(talk.vf.ip(4)), str(talk.far.ip(4)))
        talk.scene.bridge().apply_bundle([counted.flow], ())
        if shown.returncode == 1:
            break
    assert shown.returncode == 1, shown.stdout
    assert "not reachable: " in shown.stdout
    assert "difference: switch of d1: geneve 16017 " in shown.stdout


def test_a_pin_says_always_or_never(scene: DpuScene) -> None:
    lime = COLOURS[3]
    vf, _, _, far = scene.segments[lime.name]
    until(lambda: not scene.placed(far), 60, "still busy from before")
    pin = f"kind: Pin\nsegment: lime\nendpoint: '{far.mac}'\nhardware: "
    lab.apply(scene.paths, f"{pin}always\n")
    until(lambda: scene.placed(far) and scene.placed(vf), what="not placed without traffic")
    lab.apply(scene.paths, f"{pin}never\n")
    until(lambda: scene.entry(far).reason == "policy-off")
    with probes.flow(vf, far.ip(4), BUSY) as echo:
        time.sleep(3)
        assert not scene.placed(far)
    assert echo.lost == 0
    lab.overweave(scene.paths, "delete", "pin", f"lime/{far.mac}")
    until(lambda: scene.entry(far).reason != "policy-off")


def test_explain_says_it_of_an_endpoint_a_segment_and_a_device(talk: Talk) -> None:
    """By the command itself: a name of either half, as ``get dpu`` prints it, means the DPU."""
    paths, here = talk.scene.paths, talk.scene.asked

    def explained(name: str, form: str = "json") -> str:
        return lab.overweave(paths, "explain", name, "-o", form, *here)

    endpoint = {record["node"]: record for record in json.loads(explained(talk.far.mac))}
    assert endpoint.keys() == {"h1", "d1", "n2"}
    assert (endpoint["d1"]["placement"], endpoint["d1"]["reason"]) == ("emulated", "")
    segment = json.loads(explained("blue"))
    assert {record["node"] for record in segment} == {"h1", "d1", "n2"}
    assert {record["segment"] for record in segment} == {"blue"}
    dpu = json.loads(explained("d1"))
    assert {record["node"] for record in dpu} == {"d1"}
    rows = json.loads(lab.overweave(paths, "get", "dpu", "-o", "json"))
    names = [row["name"] for row in rows]
    assert len(names) == 2
    assumed = next(row["assumptions"] for row in rows if row["dpu_side"])
    assert set(assumed) == assumed_of_switch("marvell")
    for name in (*names, names[0].rpartition("-")[0]):
        assert {record["node"] for record in json.loads(explained(name))} == {"d1"}, name
        said = explained(name, "table")
        assert "switch of d1: Marvell Octeon 10 (emulated)" in said
        assert f"assumptions in use, on no document's word: {len(assumed)}" in said


def test_the_agent_of_a_dpu_shows_every_documented_metric(scene: DpuScene) -> None:
    socket = scene.paths.node("d1").run / "metrics.sock"
    assert names_shown(socket) == documented().keys()
