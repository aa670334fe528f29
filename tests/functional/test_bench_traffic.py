"""The traffic of the benchmarks, between namespaces."""

import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from bench import traffic
from bench.flood import inject_source
from bench.paths import Way
from bench.traffic import LOADS, REQUESTS, TCP4, Load
from bpf import loader
from bpf.layout import XDP_PROGRAM
from dataplane.core.errors import OverweaveError
from dataplane.lab.probes import Station
from tests.functional.bpf_support import Namespace, mounted_bpffs, namespace, run


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traffic.compiled(tmp_path_factory.mktemp("traffic"))


def station(space: Namespace, ip: str) -> Station:
    path = Path("/run/netns") / space.name
    return Station(space.name, path, "eth0", "", (ip_address(ip),), 1500)


@pytest.fixture(scope="module")
def way() -> Iterator[Way]:
    with namespace() as here, namespace() as there:
        run("ip", "link", "add", "eth0", "netns", here.name, "type", "veth", "peer", "eth0",
            "netns", there.name)  # fmt: skip
        for space, ip in ((here, "192.0.2.1"), (there, "192.0.2.2")):
            space.ip("address", "add", f"{ip}/24", "dev", "eth0")
            space.ip("link", "set", "eth0", "up")
        yield Way("veth", station(here, "192.0.2.1"), station(there, "192.0.2.2"))


def bytes_on_the_wire(station: Station) -> int:
    space = station.netns.name
    shown = run("ip", "-netns", space, "-s", "-j", "link", "show", "dev", station.ifname)
    return int(json.loads(shown)[0]["stats64"]["rx"]["bytes"])


@pytest.mark.parametrize("load", LOADS, ids=lambda load: f"{load.kind}-{load.streams}")
def test_what_arrived_is_counted(program: Path, way: Way, load: Load) -> None:
    passed = traffic.send(program, load, way, 0.2)
    assert 0.2 <= passed.seconds < 1
    assert passed.lost == 0
    assert (passed.received > 0, passed.round_trips > 0) == (load != REQUESTS, load == REQUESTS)
    assert 0 <= passed.p50_us <= passed.p99_us
    assert passed.cpu <= 100 * passed.seconds


def test_no_more_is_counted_than_passed_the_wire(program: Path, way: Way) -> None:
    before = bytes_on_the_wire(way.server)
    passed = traffic.send(program, TCP4, way, 0.3)
    assert bytes_on_the_wire(way.server) - before >= passed.received


def test_a_server_that_cannot_be_reached_is_said(program: Path, way: Way) -> None:
    nowhere = Way("nowhere", way.client, station_without_route(way))
    with pytest.raises(OverweaveError, match="traffic"):
        traffic.send(program, LOADS[0], nowhere, 0.1)


@pytest.mark.parametrize(("share", "known"), [(0, 1.0), (50, 0.5)])
def test_a_flood_is_taken_in_and_what_is_not_forged_is_read(
    tmp_path: Path, way: Way, share: int, known: float
) -> None:
    """The forged ones are for another port here: that is where this frame has its "VNI"."""
    program, port = traffic.compiled(tmp_path, "flood"), 9
    client, server = (Path(station.netns).name for station in (way.client, way.server))
    run("nsenter", f"--net={way.server.netns}", "ethtool", "-K", "eth0", "gro", "on")
    far, near = (
        json.loads(run("ip", "-netns", name, "-j", "link", "show", "dev", "eth0"))[0]
        for name in (client, server)
    )
    text = inject_source(far["ifindex"], share)
    text = text.replace("VNI_AT 46", "VNI_AT 36").replace("VNI 3031", f"VNI {port << 8}")
    source = tmp_path / "source"
    source.mkdir()
    (source / "overlay.c").write_text(text, encoding="ascii")
    ether = Ether(src=far["address"], dst=near["address"])
    frame = ether / IP(src="192.0.2.1", dst="192.0.2.2") / UDP(dport=port, len=26) / bytes(18)
    with mounted_bpffs(tmp_path / "bpf") as bpffs:
        pin = loader.load(bpffs, source).program(XDP_PROGRAM)
        ends = (str(way.client.netns), str(pin), bytes(frame).hex(), str(way.server.netns))
        passed = json.loads(run(str(program), *ends, str(port), "0.2"))
    assert 0.2 <= passed["seconds"] < 2
    assert 0.5 * known < passed["received"] / passed["sent"] < 1.5 * known


def station_without_route(way: Way) -> Station:
    return Station("x", way.server.netns, "eth0", "", (ip_address("203.0.113.1"),), 1500)
