"""Whatever bytes come: a switch forwards what its guard and its members vouch for, and no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dataplane.core.model import Encap, Guard
from tests.functional.overlay_switch import decapsulate
from tests.functional.switch_world import CPU, FORWARDING, UP, ForwardingWorld
from tests.functional.test_switch_frames import GUARDS, KINDS, Scene, talk
from tests.unit.overlay_builders import VTEP4, ips_of, mac_of

EXAMPLES = 150
quickly = settings(
    max_examples=EXAMPLES,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
CHANGES = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 255)), min_size=1, max_size=3)
CUTS = st.none() | st.integers(15, 90)


@pytest.fixture(scope="module", params=FORWARDING)
def device(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ForwardingWorld]:
    with FORWARDING[request.param](tmp_path_factory.mktemp("mutations")) as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def scene(request: pytest.FixtureRequest, device: ForwardingWorld) -> Iterator[Scene]:
    made = Scene(device, *KINDS[request.param])
    yield made
    made.close()


@pytest.fixture(scope="module", params=[Guard.IP, Guard.OFF])
def guarded(request: pytest.FixtureRequest, device: ForwardingWorld) -> Iterator[Scene]:
    made = Scene(device, GUARDS[request.param], VTEP4, eased=False)
    yield made
    made.close()


def changed(frame: bytes, changes: list[tuple[int, int]], cut: int | None) -> bytes:
    data = bytearray(frame)
    for offset, value in changes:
        if offset < len(data):
            data[offset] = value
    return bytes(data[:cut])


def raw(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def is_own(frame: bytes) -> bool:
    """Say whether workload 1 may have sent a frame, by its bytes alone.

    By the EtherType, not by the version in the IP header, which Open vSwitch does not look at.
    """
    four, six = ips_of(1)
    kind, source = frame[12:14], frame[6:12]
    if source != raw(mac_of(1)):
        return False
    if kind == b"\x08\x00":
        return frame[26:30] == four.packed
    return kind == b"\x86\xdd" and frame[22:38] == six.packed


@quickly
@given(name=st.sampled_from(sorted(talk(1, 10))), changes=CHANGES, cut=CUTS)
def test_what_a_vf_sends_is_its_own_or_the_software_s(
    guarded: Scene, name: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    frame = changed(talk(1, 10)[name], changes, cut)
    answer = guarded.ask("vf0", frame)
    if answer in ({"rep0": [frame]}, {}):
        return
    ((place, (found,)),) = answer.items()
    assert guarded.segment.guard is Guard.OFF or is_own(frame)
    if place == UP:
        tunnelled, inner = decapsulate(found)
        assert inner == frame
        number = 10 if tunnelled.target == str(VTEP4[0]) else 11
        assert frame[:6] == raw(mac_of(number))
    else:
        assert (place, found, frame[:6]) == ("vf1", frame, raw(mac_of(2)))


@quickly
@given(name=st.sampled_from(sorted(talk(10, 1))), changes=CHANGES, cut=CUTS)
def test_what_comes_from_the_wire_is_a_member_s_or_the_software_s(
    scene: Scene, name: str, changes: list[tuple[int, int]], cut: int | None
) -> None:
    packet = changed(scene.tunnelled(talk(10, 1)[name]), changes, cut)
    answer = scene.ask(UP, packet)
    if not answer or list(answer) == [CPU]:
        return
    ((place, (inner,)),) = answer.items()
    outer = packet[14:]
    l4 = 40 if outer[0] >> 4 == 6 else 4 * (outer[0] & 15)
    addresses = outer[8:40] if outer[0] >> 4 == 6 else outer[12:20]
    members = [vtep.packed + scene.own.packed for vtep in scene.vteps]
    assert addresses in members
    header = outer[l4 + 8 :]
    assert header[4:7] == scene.segment.vni.to_bytes(3, "big")
    options = 4 * (header[0] & 63) if scene.segment.encap is Encap.GENEVE else 0
    came = header[8 + options :]
    assert inner[:6] == came[:6] == raw(mac_of({"vf0": 1, "vf1": 2}[place]))
    assert inner[:14] == came[:14]
    assert inner[16:24] == came[16:24]  # after what ECN may change
