"""The Intel switch's driver against the emulated E2100, where that is not as it should be."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from finsy.proto import p4i, p4r
from google.protobuf import text_format
from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
from scapy.layers.l2 import Ether

from dataplane.core.desired import Bindings, Desired, Port
from dataplane.core.diff import Change, diff
from dataplane.core.errors import PartlyRefusedError, TargetError
from dataplane.core.model import Encap, EntryKey, Family, Guard, IpAddress, Segment
from dataplane.core.reasons import Reason
from tests.functional.certificates import Pki
from tests.functional.fabric_support import wait_until
from tests.functional.intel_device import WIRING, Device, running_device
from tests.functional.overlay_switch import decapsulate, encapsulate
from tests.functional.switch_world import NEXT_HOPS, IntelWorld, Stage, entries
from tests.functional.test_switch_frames import talk
from tests.unit.intel_builders import FREE4, FREE6, SHIPPED, read_p4info
from tests.unit.overlay_builders import (
    NIC,
    UNGUARDED,
    VTEP4,
    VTEP6,
    desired,
    ips_of,
    link_local_of,
    mac_of,
    port,
    remote,
    view,
)
from vendors.intel import client
from vendors.intel.client import Certificates, Server
from vendors.intel.driver import IntelSwitch, _Attempt
from vendors.intel.pipeline import (
    HOPS,
    RIFS,
    SMAC,
    SOURCE_FIELD,
    VLAN_FIELD,
    tables_for,
)


def behind(number: int, segment: Segment) -> Port:
    """Return workload ``number`` on the VF of that number, from 1."""
    plain = port(number, segment)
    return replace(plain, attachment=replace(plain.attachment, netdev=f"rep{number - 1}"))


def bound(wanted: Desired) -> Bindings:
    return Bindings(NIC, next_hops=NEXT_HOPS, placed=entries(wanted))


WANTED = desired(
    view(
        FREE4,
        [behind(number, FREE4) for number in (1, 2)],
        [remote(10 + number, FREE4, VTEP4[number % 2]) for number in range(4)],
    ),
    view(FREE6, [behind(3, FREE6)], [remote(20, FREE6, VTEP6[0])]),
)


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    with running_device(tmp_path_factory.mktemp("intel")) as made:
        yield made


@pytest.fixture
def stage(device: Device) -> Iterator[Stage]:
    world = IntelWorld(device)
    stage = Stage(world)
    yield stage
    device.tell("clear")
    wait_until(lambda: not stage.switch.describe().obstacle)  # it is told when others have left
    stage.strike()
    stage.switch.close()


@contextmanager
def driver(device: Device, server: Server | None = None) -> Iterator[IntelSwitch]:
    """Provide another driver, which is the newest."""
    made = IntelSwitch(server or device.server, WIRING, time.time_ns(), emulated=True)
    try:
        yield made
    finally:
        made.close()


def place(switch: IntelSwitch, wanted: Desired) -> None:
    if change := diff(switch.render(wanted, bound(wanted)), switch.observe()):
        switch.apply(change)
    assert not diff(switch.render(wanted, bound(wanted)), switch.observe())


def key(number: int, segment: Segment = FREE4) -> EntryKey:
    return EntryKey(segment.vni, mac_of(number))


def refusals(stage: Stage, wanted: Desired) -> dict[EntryKey, str]:
    """Return what the device refused of ``wanted``, and see that it is placed without."""
    with pytest.raises(PartlyRefusedError) as caught:
        stage.repair(wanted, bound(wanted))
    refused = cast("dict[EntryKey, str]", dict(caught.value.refused))
    assert set(stage.switch.counters()) == entries(wanted) - refused.keys()
    return refused


# --- who may write ------------------------------------------------------------------------------


def test_a_newer_driver_takes_over_and_the_stale_one_is_refused(
    device: Device, stage: Stage
) -> None:
    stage.place(WANTED)
    stale = cast("IntelSwitch", stage.switch)
    everything = Change(remove=stale.observe())
    before = device.rows()
    with driver(device) as newer:
        assert newer.describe().obstacle == ""
        with pytest.raises(TargetError, match="another client is primary of role 'overweave'"):
            stale.apply(everything)
        assert "another client is primary" in stale.describe().obstacle
        assert device.rows() == before
        place(newer, WANTED)
    wait_until(lambda: not stale.describe().obstacle)
    stage.repair(WANTED, bound(WANTED))


def test_without_a_role_it_shares_the_election_with_the_plugin(
    device: Device, stage: Stage
) -> None:
    with driver(device, replace(device.server, role="")) as switch:
        place(switch, WANTED)
        switch.apply(Change(remove=switch.observe()))


def test_it_comes_back_by_itself_after_each_way_to_lose_the_device(
    device: Device, stage: Stage
) -> None:
    for loss in ("reset", "kill", "die"):
        stage.place(WANTED)
        device.tell(loss)
        if loss == "die":
            with pytest.raises(TargetError, match=r"p4runtime\.sock"):
                stage.switch.observe()
            device.tell("revive")
        wait_until(lambda: is_alive(stage))
        stage.repair(WANTED, bound(WANTED))
        assert set(stage.switch.counters()) == entries(WANTED), loss


def is_alive(stage: Stage) -> bool:
    with suppress(TargetError):
        return stage.switch.describe().obstacle == ""
    return False


# --- what it writes -----------------------------------------------------------------------------


def test_an_update_that_is_refused_leaves_its_entry_out_whole(device: Device, stage: Stage) -> None:
    device.tell("refuse", "3")
    refused = refusals(stage, WANTED)
    assert refused
    for text in refused.values():
        assert text.startswith(f"{Reason.UNSUPPORTED_MATCH}: ")
        assert "INTERNAL" in text
    stage.repair(WANTED, bound(WANTED))
    assert set(stage.switch.counters()) == entries(WANTED)


WAYS = {
    f"{segment.encap} over {segment.underlay}: {table.name}": (segment, table.name)
    for segment in (FREE4, FREE6)
    for table in (*tables_for(segment.encap, segment.underlay), HOPS, *RIFS)
}


@pytest.mark.parametrize("answer", ["RESOURCE_EXHAUSTED", "INTERNAL"])
@pytest.mark.parametrize(("segment", "table"), WAYS.values(), ids=WAYS)
def test_what_is_lost_and_refused_leaves_its_frames_to_the_software(
    device: Device, stage: Stage, segment: Segment, table: str, answer: str
) -> None:
    stage.place(WANTED)
    lost = lose(device, table)
    if answer == "INTERNAL":
        device.tell("refuse", str(lost))
    else:
        device.tell("table-full", table, "0")
    refused = refusals(stage, WANTED)
    assert all(answer in why for why in refused.values())
    nothing_is_half_done(device)
    for near, far, vtep, of in ((1, 10, VTEP4[0], FREE4), (3, 20, VTEP6[0], FREE6)):
        assert of is not segment or key(far, of) in refused
        if key(far, of) in refused:
            sent = talk(near, far)["UDP over IPv4"]
            assert device.ask(f"vf{near - 1}", sent) == {f"rep{near - 1}": [sent]}
            came = encapsulate(of.encap, of.vni, vtep, talk(far, near)["UDP over IPv4"])
            assert device.ask("up", came) == {"cpu0": [came]}
    device.tell("clear")
    stage.repair(WANTED, bound(WANTED))
    assert set(stage.switch.counters()) == entries(WANTED)


def test_who_is_refused_takes_no_tunnel_from_others(device: Device, stage: Stage) -> None:
    stage.place(WANTED)
    assert lose(device, SMAC.name, bytes.fromhex(mac_of(10).replace(":", ""))) == 1
    device.tell("refuse", "1")
    assert set(refusals(stage, WANTED)) == {key(10)}
    inner = talk(12, 1)["UDP over IPv4"]
    came = encapsulate(FREE4.encap, FREE4.vni, VTEP4[0], inner)
    assert device.ask("up", came) == {"vf0": [inner]}
    stage.repair(WANTED, bound(WANTED))


def lose(device: Device, table: str, value: bytes = b"") -> int:
    """Take all rows out of a table, or those with a ``value``; return how many."""
    number = next(t.preamble.id for t in device.program().tables if t.preamble.alias == table)
    rows = [p4r.TableEntry.FromString(row) for row in device.rows()]
    values = {row.SerializeToString(): row for row in rows if row.table_id == number}
    lost = [row for text, row in values.items() if value in text]
    for row in lost:
        device.write(p4r.Update.DELETE, row)
    return len(lost)


def test_any_row_that_is_lost_is_set_again(device: Device, stage: Stage) -> None:
    whole = bound(WANTED)
    stage.place(WANTED)
    there = device.rows()
    for _ in range(40):
        device.tell("lose-one")
        stage.repair(WANTED, whole)
    assert len(device.rows()) == len(there)
    for source, target in ((1, 11), (2, 12), (1, 2)):
        frame = talk(source, target)["UDP over IPv4"]
        assert list(device.ask(f"vf{source - 1}", frame)) != [f"rep{source - 1}"]


def test_what_vanishes_between_a_look_and_its_removal_is_gone(
    device: Device, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.place(WANTED)
    everything = Change(remove=stage.switch.observe())
    make = _Attempt.make

    def late(self: _Attempt, change: Change) -> object:
        for _ in range(9):
            device.tell("lose-one")
        return make(self, change)

    monkeypatch.setattr(_Attempt, "make", late)
    stage.switch.apply(everything)
    assert not stage.switch.observe()


def test_what_stands_keeps_its_numbers_when_another_driver_adds(
    device: Device, stage: Stage
) -> None:
    stage.place(WANTED)
    before = device.rows()
    more = desired(
        *WANTED.segments.values(), view(UNGUARDED, [], [remote(40, UNGUARDED, VTEP4[1])])
    )
    views = dict(more.segments)
    far = [remote(30 + number, FREE4, VTEP4[number % 2]) for number in range(9)]
    old = views[FREE4.name]
    views[FREE4.name] = replace(old, remotes=(*far, *old.remotes))
    with driver(device) as newer:
        place(newer, replace(more, segments=views))
    assert before <= device.rows()


@pytest.mark.parametrize("steps", range(1, 13))
def test_a_driver_that_dies_while_it_writes_leaves_nothing_that_is_not_repaired(
    device: Device, stage: Stage, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    class DiedError(Exception):
        pass

    left = steps
    write = client.Client._write_batch

    def dying(self: client.Client, updates: list[object]) -> object:
        nonlocal left
        left -= 1
        if not left:
            raise DiedError
        return write(self, updates)  # type: ignore[arg-type]  # of that very method

    small = desired(view(FREE4, [behind(1, FREE4)], [remote(50, FREE4, VTEP4[1])]))
    stage.place(small)
    monkeypatch.setattr(client, "_BATCH", 7)
    monkeypatch.setattr(client.Client, "_write_batch", dying)
    with driver(device) as first, suppress(DiedError):
        place(first, WANTED)
    monkeypatch.undo()
    nothing_is_half_done(device)
    with driver(device) as second:
        place(second, WANTED)
        assert set(second.counters()) == entries(WANTED)


def test_while_an_endpoint_moves_no_frame_leaves_half_rewritten(
    device: Device, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another segment's tunnel with the VTEP that it leaves keeps what the two share."""

    def world(vtep: IpAddress) -> Desired:
        return desired(
            view(FREE4, [behind(1, FREE4)], [remote(10, FREE4, vtep)]),
            view(UNGUARDED, [behind(2, UNGUARDED)], [remote(60, UNGUARDED, VTEP4[0])]),
        )

    stage.place(world(VTEP4[0]))
    write = client.Client._write_batch
    writes = 0

    def watched(self: client.Client, updates: list[object]) -> object:
        nonlocal writes
        writes += 1
        answer = write(self, updates)  # type: ignore[arg-type]  # of that very method
        nothing_is_half_done(device)
        return answer

    monkeypatch.setattr(client, "_BATCH", 1)
    monkeypatch.setattr(client.Client, "_write_batch", watched)
    with driver(device) as newer:
        place(newer, world(VTEP4[1]))
    assert writes > 8


def nothing_is_half_done(device: Device) -> None:
    """See that each frame is the software's, or is forwarded as it is to be; none in between."""
    for source, far in ((1, 10), (1, 11), (2, 12), (3, 20), (1, 2)):
        sent = talk(source, far)["UDP over IPv4"]
        answer = device.ask(f"vf{source - 1}", sent)
        if answer not in ({f"rep{source - 1}": [sent]}, {f"vf{far - 1}": [sent]}):
            ((port_, (packet,)),) = answer.items()
            assert (port_, decapsulate(packet)[1]) == ("up", sent)
            assert Ether(packet).src == NIC.mac
            assert Ether(packet).dst in NEXT_HOPS.values()
    for source, vtep, segment, target in (
        (10, VTEP4[0], FREE4, 1),
        (11, VTEP4[1], FREE4, 2),
        (20, VTEP6[0], FREE6, 3),
    ):
        inner = talk(source, target)["UDP over IPv4"]
        came = encapsulate(segment.encap, segment.vni, vtep, inner)
        assert device.ask("up", came) in ({"cpu0": [came]}, {f"vf{target - 1}": [inner]})


def test_a_route_of_somebody_else_stays_and_what_needs_it_goes_without(
    device: Device, stage: Stage
) -> None:
    match = {"ipv4_table_lpm_root": 0, "ipv4_dst_match": int(VTEP4[0])}
    theirs = device.row("ipv4_table", match, "ipv4_set_nexthop_id", {"nexthop_id": 5})
    with device.standing(theirs):
        before = device.rows()
        refused = refusals(stage, WANTED)
        assert set(refused) == {key(10), key(12)}
        for text in refused.values():
            assert text.startswith(f"{Reason.SWITCH_TAKEN}: ipv4_table has ")
        assert before <= device.rows()
    stage.repair(WANTED, bound(WANTED))


def test_a_vf_in_somebody_else_s_bridge_forwards_nothing_of_ours(
    device: Device, stage: Stage
) -> None:
    stage.place(WANTED)
    match = {SOURCE_FIELD: 43, VLAN_FIELD: 0}
    theirs = device.row("source_port_to_bridge_map", match, "set_bridge_id", {"bridge_id": 3})
    theirs.priority = 2
    sent = talk(1, 10)["UDP over IPv4"]
    with device.standing(theirs):
        found = stage.switch.describe()
        assert "source_port_to_bridge_map has " in found.obstacle
        assert not found.forwards
        assert device.ask("vf0", sent) == {"rep0": [sent]}
    assert stage.switch.describe().forwards
    assert list(device.ask("vf0", sent)) == ["up"]


def test_vfs_between_which_the_plugin_has_no_way_go_without(device: Device, stage: Stage) -> None:
    match = {"vmeta.common.vsi": 28, "target_vsi": 27}
    way = device.row("vsi_to_vsi_loopback", match, "fwd_to_vsi", {"port": 43})
    device.write(p4r.Update.DELETE, way)
    try:
        refused = refusals(stage, WANTED)
        assert set(refused) == {key(2)}
        assert "has not both ways between VSI 28 and 27" in refused[key(2)]
        for source, target in ((1, 2), (2, 1), (2, 11)):
            frame = talk(source, target)["UDP over IPv4"]
            assert device.ask(f"vf{source - 1}", frame) == {f"rep{source - 1}": [frame]}
        assert list(device.ask("vf0", talk(1, 11)["UDP over IPv4"])) == ["up"]
    finally:
        device.write(p4r.Update.INSERT, way)
    stage.repair(WANTED, bound(WANTED))


def test_a_vf_that_leaves_is_in_nobody_s_way(device: Device, stage: Stage) -> None:
    def world(number: int) -> Desired:
        return desired(view(FREE4, [behind(number, FREE4)], [remote(11, FREE4, VTEP4[1])]))

    match = {"vmeta.common.vsi": 28, "target_vsi": 27}
    way = device.row("vsi_to_vsi_loopback", match, "fwd_to_vsi", {"port": 43})
    stage.place(world(1))
    device.write(p4r.Update.DELETE, way)
    try:
        stage.place(world(2))
    finally:
        device.write(p4r.Update.INSERT, way)


def test_an_endpoint_whose_move_does_not_fit_is_not_sent_to_where_it_was(
    device: Device, stage: Stage
) -> None:
    def world(vtep: IpAddress) -> Desired:
        far = [remote(10, FREE4, VTEP4[0]), remote(11, FREE4, vtep)]
        return desired(view(FREE4, [behind(1, FREE4)], far))

    stage.place(world(VTEP4[0]))
    device.tell("table-full", "geneve_encap_mod_table", "1")
    refused = refusals(stage, world(VTEP4[1]))
    assert set(refused) == {key(11)}
    frame = talk(1, 11)["UDP over IPv4"]
    assert device.ask("vf0", frame) == {"rep0": [frame]}
    assert list(device.ask("vf0", talk(1, 10)["UDP over IPv4"])) == ["up"]


def test_a_slow_device_is_no_error(device: Device, stage: Stage) -> None:
    device.tell("slow", "0.2")
    stage.place(WANTED)


def test_what_a_slow_device_does_not_take_in_time_follows(
    device: Device, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(IntelSwitch, "deadline_s", 5.0)
    monkeypatch.setattr(client, "_BATCH", 4)
    device.tell("slow", "0.2")
    wanted = bound(WANTED)
    with pytest.raises(TargetError, match="is slow: "):
        stage.switch.apply(stage.change(WANTED, wanted))
    for _ in range(20):
        nothing_is_half_done(device)
        if not (change := stage.change(WANTED, wanted)):
            break
        assert not change.remove  # what is there is gone on with
        began = time.monotonic()
        with suppress(TargetError):
            stage.switch.apply(change)
        assert time.monotonic() - began < 5 * 5.0
    assert set(stage.switch.counters()) == entries(WANTED)


def test_a_router_s_advertisement_is_not_stopped_so_no_guard_is_offered(
    device: Device, stage: Stage
) -> None:
    """RFC 6105: what guards mac and ip stop in software."""
    stage.place(WANTED)
    frame = bytes(
        Ether(src=mac_of(1), dst=mac_of(10))
        / IPv6(src=str(link_local_of(1)), dst=str(ips_of(10)[1]), hlim=255)
        / ICMPv6ND_RA()
    )
    assert list(device.ask("vf0", frame)) == ["up"]
    assert set(stage.switch.describe().guards["rep0"]) == {Guard.OFF}


@pytest.mark.parametrize(
    ("vtep", "conflict"),
    [pytest.param(VTEP4[0], False, id="the same VTEP"), pytest.param(VTEP4[1], True, id="another")],
)
def test_a_mac_on_two_segments_is_behind_one_vtep(
    device: Device, stage: Stage, vtep: IpAddress, conflict: bool
) -> None:
    wanted = desired(
        view(FREE4, [behind(1, FREE4)], [remote(10, FREE4, VTEP4[0])]),
        view(UNGUARDED, [behind(2, UNGUARDED)], [remote(10, UNGUARDED, vtep)]),
    )
    rendering = stage.switch.render(wanted, bound(wanted))
    whys = {each.about: each.reason for each in rendering.pending}
    assert set(whys) == ({key(10, UNGUARDED)} if conflict else set())
    assert all(why.startswith(f"{Reason.KEY_CONFLICT}: ") for why in whys.values())
    stage.place(wanted)
    for number, segment in ((1, FREE4), (2, UNGUARDED)):
        place_, (sent,) = next(
            iter(device.ask(f"vf{number - 1}", talk(number, 10)["UDP over IPv4"]).items())
        )
        if conflict and segment is UNGUARDED:
            assert place_ == f"rep{number - 1}"
        else:
            assert (decapsulate(sent)[0].vni, decapsulate(sent)[0].target) == (
                segment.vni,
                str(VTEP4[0]),
            )


# --- other P4 programs ----------------------------------------------------------------------------


def altered() -> p4i.P4Info:
    """Return the shipped program with other numbers, without a table, with narrow bridge ids."""
    info = read_p4info(SHIPPED)
    kept = [t for t in info.tables if t.preamble.alias != "geneve_encap_v6_mod_table"]
    del info.tables[:]
    info.tables.extend(kept)
    for number, table in enumerate(info.tables):
        table.preamble.id = 0x02000000 | number + 1000
        for field in table.match_fields:
            field.id += 20
            if field.name == "user_meta.pmeta.bridge_id":
                field.bitwidth = 1
        for ref in table.action_refs:
            ref.id ^= 0x5555
        table.const_default_action_id ^= 0x5555 if table.const_default_action_id else 0
    for action in info.actions:
        action.preamble.id ^= 0x5555
        for param in action.params:
            param.id += 30
            if param.name == "bridge_id":
                param.bitwidth = 1
    return info


def test_numbers_are_the_program_s_and_what_it_lacks_is_said(tmp_path: Path) -> None:
    path = tmp_path / "p4info.txt"
    path.write_text(text_format.MessageToString(altered()), encoding="utf-8")
    with running_device(tmp_path, path) as device:
        stage = Stage(IntelWorld(device))
        found = stage.switch.describe()
        kinds = {(encap, family) for encap in Encap for family in Family}
        assert found.tunnels == kinds - {(Encap.GENEVE, Family.IPV6)}
        assert any("no geneve_encap_v6_mod_table" in words for words in found.limits)
        assert found.obstacle == ""
        one = desired(
            view(FREE4, [behind(1, FREE4)], [remote(10, FREE4, VTEP4[0])]),
        )
        stage.place(one)
        forwards(device, FREE4)
        refused = refusals(stage, WANTED)
        assert {text for text in refused.values() if "all 1 numbers for a Bridge" in text}
        forwards(device, FREE4)
        stage.strike()
        stage.switch.close()


def forwards(device: Device, segment: Segment) -> None:
    """See that workload 1 on vf0 and 10 behind the first VTEP talk by the device."""
    sent, back = talk(1, 10)["UDP over IPv4"], talk(10, 1)["UDP over IPv4"]
    ((place_, (packet,)),) = device.ask("vf0", sent).items()
    assert (place_, decapsulate(packet)[1]) == ("up", sent)
    came = encapsulate(segment.encap, segment.vni, VTEP4[0], back)
    assert device.ask("up", came) == {"vf0": [back]}


def test_the_unmodified_p4info_of_the_shipped_program_works(
    tmp_path: Path, given_p4info: Path
) -> None:
    with running_device(tmp_path, given_p4info) as device:
        stage = Stage(IntelWorld(device))
        found = stage.switch.describe()
        assert len(found.tunnels) == 4
        assert found.obstacle == ""
        stage.place(WANTED)
        assert set(stage.switch.counters()) == entries(WANTED)
        stage.strike()
        stage.place(desired(view(FREE4, [behind(1, FREE4)], [remote(10, FREE4, VTEP4[0])])))
        forwards(device, FREE4)
        stage.strike()
        stage.switch.close()


# --- TLS ------------------------------------------------------------------------------------------


class TlsFront:
    """Takes TLS on a port of loopback and hands the bytes to the device's socket."""

    def __init__(self, device: Device, pki: Pki, name: str) -> None:
        files = pki.node(name) if name == "localhost" else pki.stranger("localhost")
        self.context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=files["ca_cert"])
        self.context.load_cert_chain(files["certificate"], files["private_key"])
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.context.set_alpn_protocols(["h2"])
        self.path = device.target.removeprefix("unix:")
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"localhost:{self.listener.getsockname()[1]}"

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                plain, _ = self.listener.accept()
                threading.Thread(target=self._serve, args=(plain,), daemon=True).start()

    def _serve(self, plain: socket.socket) -> None:
        with (
            suppress(OSError),
            self.context.wrap_socket(plain, server_side=True) as near,
            socket.socket(socket.AF_UNIX) as far,
        ):
            far.connect(self.path)
            back = threading.Thread(target=_pump, args=(far, near), daemon=True)
            back.start()
            _pump(near, far)
            far.shutdown(socket.SHUT_RDWR)
            back.join()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


def test_by_tls_with_certificates_on_both_sides(device: Device, stage: Stage, pki: Pki) -> None:
    front = TlsFront(device, pki, "localhost")
    tls = Certificates(**pki.node("agent"))
    with driver(device, Server(front.address, tls=tls)) as switch:
        place(switch, WANTED)
    with driver(device, Server(front.address)) as plain, pytest.raises(TargetError):
        plain.observe()
    tls = Certificates(**pki.stranger("agent"))
    with driver(device, Server(front.address, tls=tls)) as other, pytest.raises(TargetError):
        other.observe()
    front.listener.close()


def test_a_device_whose_certificate_a_stranger_signed_is_not_believed(
    device: Device, stage: Stage, pki: Pki
) -> None:
    front = TlsFront(device, pki, "stranger")
    tls = Certificates(**pki.node("agent"))
    with driver(device, Server(front.address, tls=tls)) as switch, pytest.raises(TargetError):
        switch.observe()
    front.listener.close()
