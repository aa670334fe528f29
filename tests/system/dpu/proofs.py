"""Proofs that it is real, for the lab of whichever vendor: a module has them as ``TestProofs``."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import ClassVar

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from bpf.layout import encode_entry_key, traffic_of
from bpf.syscalls import open_map
from dataplane.core.model import Mac, Vni
from dataplane.core.reasons import Reason
from dataplane.lab import matrix, nodes, probes
from dataplane.lab.probes import Pace, Station
from dataplane.lab.runtime import Pod
from dataplane.lab.scene import COLOURS, Colour
from tests.system.cni_node import segment
from tests.system.damage import Node
from tests.system.dpu.conftest import BUSY, DpuScene, Talk, until
from tests.system.frames import Ears, deliver, raw
from tests.system.spoofs import HONEST, SPOOFS, Pods, v4

OPEN = Colour("open", 25, "vxlan", "ipv6")
SILENT_S = 2.0
ADD_S = 5.0  # of a pod whose switch does not answer
CONVERSATIONS = 100
_SOME = 4  # of a crowd
_AT_ONCE = 2  # conversations of two ends over one family in one direction
_PACE_S = 0.2  # a thousand frames a second in all: what an emulated switch carries under load
_ALONE = 20  # packets that nobody else answers for


class Proofs:
    """What is in the switch goes by the switch, and without it by software: nothing is lost."""

    def test_a_placed_pair_talks_by_either_path_alone(self, talk: Talk) -> None:
        """Without its row in the switch software carries on, with it software may be gone."""
        scene, paths = talk.scene, talk.scene.paths.node("d1")
        other = scene.segments[talk.colour.name][1]
        until(lambda: not scene.placed(other), 60, "still busy from before")
        nodes.kill_agent(paths)  # it would put back what is taken away
        software = software_packets(talk)
        with scene.withdrawn(talk.colour, talk.far):
            assert scene.packets(talk.colour, talk.far) is None
            assert probes.ping(talk.vf, talk.far.ip(4), Pace(_ALONE)).lost == 0
            assert software_packets(talk) >= software + _ALONE
        goes_by_the_switch(talk)
        node = Node(paths, random.Random(0))
        forget(node, talk.colour, [talk.vf.mac, talk.far.mac])
        forget(node, talk.colour, [other.mac])
        for source, sink in ((talk.vf, talk.far), (talk.far, talk.vf)):
            assert probes.ping(source, sink.ip(4), Pace(_ALONE)).lost == 0
        # The control: a pair that is not placed had nothing but what was taken away.
        assert probes.ping(talk.vf, other.ip(4), Pace(3, patience=0.5)).received == 0

    GUARDED: ClassVar[str] = "blue"

    def test_a_spoof_reaches_nobody_where_senders_are_checked(self, talk: Talk) -> None:
        """Beside it a segment without guard, in the switch too, where each of them arrives."""
        scene = talk.scene
        with segment(scene, OPEN, 'guard: "off"\n'):
            wanted = [Pod("open0", "h1", "open", device=scene.spare_vf)]
            wanted += [Pod("open1", "d1", "open"), Pod("open2", "n2", "open")]
            vf, other, sink = (scene.runtime.add(pod) for pod in wanted)
            matrix.converge([vf, other, sink])
            with probes.flow(vf, sink.ip(4), BUSY):
                until(lambda: scene.placed(sink) and scene.placed(vf), what="not placed")
                loose = sent(Pods(vf, other, sink))
            for pod in wanted:
                scene.runtime.delete(pod.name)
        guarded = scene.segments[self.GUARDED]
        vf, other, far = guarded[0], guarded[2], guarded[3]
        tight = sent(Pods(vf, other, far))
        for name in SPOOFS:
            assert loose[name][sink.name] == 1, name
            assert tight[name] == {}, name
        for name in HONEST:
            assert tight[name][far.name] == 1, name

    def test_a_table_of_a_few_rows_under_a_hundred_conversations(
        self, scene: DpuScene, crowd: list[Station]
    ) -> None:
        """Both ways and over both families; whoever has no row goes by software."""
        vf = scene.segments[COLOURS[2].name][0]
        matrix.converge([vf, crowd[0]])
        scene.tell("table-full", scene.TABLE, str(scene.FEW))
        with ExitStack() as stack:
            echoes = [
                stack.enter_context(probes.flow(source, sink.ip(version), _PACE_S))
                for station in crowd
                for source, sink in ((vf, station), (station, vf))
                for version in (4, 6)
                for _ in range(_AT_ONCE)
            ]
            assert len(echoes) >= CONVERSATIONS
            until(lambda: full(scene) > 0, 30, "nothing is said to be full")
            time.sleep(3)
            until(lambda: sum(map(scene.placed, crowd)) >= _SOME, what="its rows are free")
            assert scene.rows_taken() <= scene.FEW
        lost = sum(echo.lost for echo in echoes)
        assert lost == 0, f"{lost} of {sum(echo.sent for echo in echoes)}"
        assert sum(echo.duplicates for echo in echoes) == 0


def full(scene: DpuScene) -> int:
    found = nodes.entries(scene.paths.node("d1"))
    return sum(entry.reason == Reason.TABLE_FULL for entry in found)


def forget(node: Node, colour: Colour, macs: list[str]) -> None:
    with open_map(node.maps()["entries"]) as entries:
        for mac in macs:
            entries.delete(encode_entry_key(Vni(colour.vni), Mac(mac)))
    bridge = node.bridge("ow-int")
    gone = [
        flow for flow in bridge.dump_flows() if any(f"dl_dst={mac}" in flow.match for mac in macs)
    ]
    assert gone
    bridge.apply_bundle((), gone)


def software_packets(talk: Talk) -> int:
    node = Node(talk.scene.paths.node("d1"), random.Random(0))
    key = encode_entry_key(Vni(talk.colour.vni), Mac(talk.far.mac))
    with open_map(node.maps()["entries"]) as entries:
        return traffic_of(dict(entries.items())[key]).packets


@contextmanager
def late_pod(scene: DpuScene) -> Iterator[Station]:
    """Provide a pod on a VF that is added now, whatever is wrong with the switch."""
    began = time.monotonic()
    late = scene.runtime.add(Pod("late", "h1", "blue", device=scene.spare_vf))
    took = time.monotonic() - began
    try:
        assert took < ADD_S
        yield late
    finally:
        scene.runtime.delete("late")


def goes_by_the_switch(talk: Talk) -> None:
    """Wait until the counter of its row has risen."""
    before = talk.scene.packets(talk.colour, talk.far)
    assert before is not None

    def has_risen() -> bool:
        now = talk.scene.packets(talk.colour, talk.far)
        return now is not None and now > before

    until(has_risen, what="its row counts nothing")


def next_pod_is_alone(scene: DpuScene, last: Station, fault: list[str]) -> None:
    """See that the next pod on a VF is in its own segment alone, with a switch that hears it late.

    It has forwarded for the last one until then.
    """
    blue, green = COLOURS[:2]
    far, home = scene.segments[blue.name][3], scene.segments[green.name][3]
    scene.tell(*fault)
    began = time.monotonic()
    scene.runtime.delete("last")
    deleted = time.monotonic()
    recovery = threading.Timer(SILENT_S, scene.tell, ["revive"])
    recovery.start()
    made = scene.runtime.add(Pod("next", "h1", green.name, device=scene.spare_vf))
    print(f"DEL took {deleted - began:.1f} s, ADD {time.monotonic() - deleted:.1f} s")
    assert crossings(made, last, far) == {}
    recovery.join()
    assert scene.packets(blue, last) is None
    assert probes.ping(made, home.ip(4), Pace(_ALONE)).lost == 0


def crossings(made: Station, last: Station, far: Station) -> Counter[str]:
    """Send for a while to the pod that is gone, and in its name; return who heard how much."""
    token = secrets.token_bytes(16)
    there, here = v4(far), v4(last)
    to_last = Ether(src=far.mac, dst=last.mac) / IP(src=there, dst=here) / UDP() / Raw(token)
    from_last = Ether(src=last.mac, dst=far.mac) / IP(src=here, dst=there) / UDP() / Raw(token)
    heard: Counter[str] = Counter()
    with Ears([made, far]) as ears, raw(far) as beyond, raw(made) as behind:
        end = time.monotonic() + 2 * SILENT_S
        while time.monotonic() < end:
            beyond.sendto(bytes(to_last), (far.ifname, 0))
            behind.sendto(bytes(from_last), (made.ifname, 0))
            heard.update(name for name, data in ears.listen(0.05) if token in data)
    return heard


def sent(pods: Pods) -> Mapping[str, Counter[str]]:
    """Return who heard how often what ``pods.me`` says in others' names, and in its own."""
    frames = {name: make(pods) for name, make in {**SPOOFS, **HONEST}.items()}
    return deliver(pods.me, frames, [pods.other, pods.sink])
