"""The packets, map entries and programs by which one packet is timed."""

from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.contrib.geneve import GENEVE
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN

import bpf
from bench import one_packet, packet_cost
from bench.figures import YARDSTICK
from bench.one_packet import TUNNELS, Tunnel
from bpf.layout import MAPS, decode_vni, is_remote_entry
from dataplane.core.errors import OverweaveError
from dataplane.core.model import Encap

OVERLAY = (Path(bpf.__file__).parent / "overlay.c").read_text(encoding="ascii")


def test_the_programs_of_overlay_c_become_functions_and_those_of_the_bench_are_added() -> None:
    text = one_packet.timed_source(OVERLAY, "/* the bench's */", 46)
    assert text.startswith("#define DESTINATIONS 46\n")
    assert text.endswith("/* the bench's */")
    assert "\nint access_port(" not in text
    assert "\nint underlay(" not in text
    assert "| family" not in text


@pytest.mark.parametrize("anchor", list(one_packet._CHANGES))
@pytest.mark.parametrize("times", [0, 2])
def test_an_overlay_c_that_has_changed_is_refused(anchor: str, times: int) -> None:
    with pytest.raises(OverweaveError, match="no more once"):
        one_packet.timed_source(OVERLAY.replace(anchor, anchor * times), "", 46)


@pytest.mark.parametrize("count", [8, 100, 1000])
def test_entries_are_as_many_as_asked_for_half_of_them_remote(count: int) -> None:
    items = list(one_packet.entries(count))
    assert len({item.map_key for item in items}) == count
    are_remote = [is_remote_entry(item.value) for item in items]
    assert are_remote.count(True) == count // 2


@pytest.mark.parametrize("tunnel", TUNNELS, ids=lambda tunnel: tunnel.title)
def test_a_destination_is_remote_on_the_way_out_and_a_pod_on_the_way_back(tunnel: Tunnel) -> None:
    values = {item.map_key: item.value for item in one_packet.entries(100)}
    out, back = one_packet.traffic_keys(tunnel)
    assert is_remote_entry(values[out])
    assert not is_remote_entry(values[back])
    assert decode_vni(out) ^ 1 == decode_vni(back)


def test_everything_fits_into_the_maps() -> None:
    specs = {spec.name: spec for spec in MAPS}
    items = [*one_packet.surroundings(), one_packet.port(TUNNELS[0]), *one_packet.entries(8)]
    for item in items:
        spec = specs[item.map_name]
        assert (len(item.map_key), len(item.value)) == (spec.key_size, spec.value_size)


@pytest.mark.parametrize("tunnel", TUNNELS, ids=lambda tunnel: tunnel.title)
def test_what_a_peer_sends_is_of_the_tunnel_and_for_nobody(tunnel: Tunnel) -> None:
    frame = Ether(one_packet.received_for_nobody(tunnel))
    header = frame[GENEVE if tunnel.encap is Encap.GENEVE else VXLAN]
    assert header.vni == tunnel.back
    assert ip_address(frame.payload.src).version == (4 if "ipv4" in tunnel.title else 6)
    known = {item.map_key for item in one_packet.entries(100)}
    mac = bytes.fromhex(header.payload.dst.replace(":", ""))
    assert not any(mac in key for key in known)


def test_figures_pair_many_entries_with_few_of_the_same_round() -> None:
    few, many = (f"encap + decap, geneve over ipv4, {n} entries" for n in ("100", "100,000"))
    samples = {
        few: [300.0, 400.0],
        many: [330.0, 400.0],
        f"{YARDSTICK}encap": [1.0],
        "miss, 100 entries": [9.0],
    }
    figures = {figure.name: figure for figure in packet_cost.Run(samples).figures()}
    assert (figures[few].value, figures[few].aim) == (300.0, 350.0)
    assert figures["miss, 100 entries"].aim is None
    ratio = figures["encap + decap, geneve over ipv4, 100,000 entries : 100 entries"]
    assert (ratio.value, ratio.met) == (1.1, True)
    assert len(figures) == len(samples) + 1
