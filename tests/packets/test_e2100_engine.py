"""The emulated E2100's engine: golden frames in and out, and what each missing entry does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import pytest
from finsy.proto import p4r
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.contrib.geneve import GENEVE
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1AD, Dot1Q, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw
from scapy.utils import checksum as scapy_checksum

from tests.packets.e2100_frames import (
    BRIDGE,
    FAR,
    HOP,
    INFO,
    KINDS,
    MAKE,
    MISSES,
    NEAR,
    OWN,
    OWN_MAC,
    POD,
    REMOTE,
    TUNNEL,
    VNI,
    arriving,
    bridged,
    inner,
    inward,
    local,
    outward,
    packet,
)
from tests.unit.p4_entries import Key
from vendors.emulator.e2100.engine import Engine
from vendors.emulator.e2100.ports import Ports, own_entries
from vendors.emulator.e2100.schema import read
from vendors.emulator.e2100.tables import Tables
from vendors.emulator.packets import Encap, Sent, checksum

SCHEMA = read(INFO)
NAMES = {8: "cpu0", 9: "rep0", 10: "rep1", 27: "vf0", 28: "vf1"}
PORTS = Ports("up", NAMES, {name: vsi for vsi, name in NAMES.items()}, (27, 28))


@dataclass(frozen=True, slots=True)
class Device:
    tables: Tables

    def ask(self, port: str, data: bytes | Packet) -> tuple[str, bytes] | None:
        sent = Engine(self.tables, PORTS).forward(port, bytes(data))
        return None if sent is None else (sent.port, sent.frame)


def device(entries: Iterable[p4r.TableEntry] = ()) -> Device:
    tables = Tables(SCHEMA, {})
    for entry in (*own_entries(tables.schema, PORTS.vfs), *entries):
        tables.write(p4r.Update.INSERT, entry)
    return Device(tables)


def without(entries: Mapping[str, p4r.TableEntry], *names: str) -> list[p4r.TableEntry]:
    assert set(names) <= set(entries)
    return [entry for name, entry in entries.items() if name not in names]


@pytest.mark.parametrize(("source", "target"), MISSES.items())
def test_what_no_entry_is_for_is_a_miss(source: str, target: str) -> None:
    found = device()
    for data in (inner(), inner(tag=5), inner(destination="ff:ff:ff:ff:ff:ff"), b"\0" * 14):
        assert found.ask(source, data) == (target, data)


@pytest.mark.parametrize(("encap", "version"), KINDS)
class TestTunnels:
    def test_from_a_vf_into_a_tunnel(self, encap: Encap, version: int) -> None:
        found = device(outward(encap, version).values())
        golden = packet(encap, version, OWN[version], REMOTE[version], inner())
        assert found.ask("vf0", inner()) == ("up", bytes(golden))

    def test_from_a_tunnel_to_a_vf(self, encap: Encap, version: int) -> None:
        found = device(inward(encap, version).values())
        back = inner(FAR, POD)
        assert found.ask("up", arriving(encap, version, back)) == ("vf0", back)

    @pytest.mark.parametrize("gone", ["remote", "bridge", "known", "fdb", "route", "next hop"])
    def test_a_miss_on_the_way_out_goes_to_the_cpu(
        self, encap: Encap, version: int, gone: str
    ) -> None:
        found = device(without(outward(encap, version), gone))
        assert found.ask("vf0", inner()) == ("rep0", inner())

    @pytest.mark.parametrize("gone", ["term", "bridge", "known", "fdb"])
    def test_a_miss_on_the_way_in_goes_to_the_cpu(
        self, encap: Encap, version: int, gone: str
    ) -> None:
        found = device(without(inward(encap, version), gone))
        came = bytes(arriving(encap, version, inner(FAR, POD)))
        assert found.ask("up", came) == ("cpu0", came)

    def test_a_tunnel_without_source_port_is_dropped(self, encap: Encap, version: int) -> None:
        found = device(without(inward(encap, version), "source"))
        assert found.ask("up", arriving(encap, version, inner(FAR, POD))) is None

    def test_without_header_it_leaves_bare_with_outer_macs(
        self, encap: Encap, version: int
    ) -> None:
        found = device(without(outward(encap, version), "header"))
        assert found.ask("vf0", inner()) == ("up", inner(OWN_MAC, HOP))

    def test_without_a_part_of_the_source_mac_the_frames_own_stays(
        self, encap: Encap, version: int
    ) -> None:
        found = device(without(outward(encap, version), "rif_mod_table_mid"))
        sent = found.ask("vf0", inner())
        assert sent is not None
        assert sent[1][6:12].hex(":") == "02:aa:00:00:dd:ee"

    def test_without_decapsulation_it_is_delivered_whole(self, encap: Encap, version: int) -> None:
        found = device(without(inward(encap, version), "bare"))
        came = bytes(arriving(encap, version, inner(FAR, POD)))
        assert found.ask("up", came) == ("vf0", came)

    def test_an_arp_inside_is_a_miss(self, encap: Encap, version: int) -> None:
        found = device(inward(encap, version).values())
        came = bytes(arriving(encap, version, bytes(Ether(src=FAR, dst=POD) / ARP())))
        assert found.ask("up", came) == ("cpu0", came)

    def test_another_vni_or_another_remote_is_a_miss(self, encap: Encap, version: int) -> None:
        found = device(inward(encap, version).values())
        for change in ({"source": OWN[version]}, {"vni": VNI + 1}):
            came = arriving(encap, version, inner(FAR, POD))
            if "vni" in change:
                came[VXLAN if encap is Encap.VXLAN else GENEVE].vni = change["vni"]
            else:
                came[IP if version == 4 else IPv6].src = change["source"]
            assert found.ask("up", came) == ("cpu0", bytes(came))

    def test_who_terminates_the_other_encapsulation_is_a_miss(
        self, encap: Encap, version: int
    ) -> None:
        [other] = set(Encap) - {encap}
        wrong = {**inward(encap, version), "term": inward(other, version)["term"]}
        came = bytes(arriving(encap, version, inner(FAR, POD)))
        assert device(wrong.values()).ask("up", came) == ("cpu0", came)

    def test_a_checksum_that_is_right_is_taken_and_a_wrong_one_is_no_tunnel(
        self, encap: Encap, version: int
    ) -> None:
        found, back = device(inward(encap, version).values()), inner(FAR, POD)
        came = arriving(encap, version, back)
        del came[UDP].chksum
        right = Ether(bytes(came))
        assert right[UDP].chksum
        assert found.ask("up", right) == ("vf0", back)
        right[UDP].chksum ^= 1
        assert found.ask("up", right) == ("cpu0", bytes(right))

    def test_what_comes_in_by_a_tunnel_never_leaves_by_a_wire(
        self, encap: Encap, version: int
    ) -> None:
        key: Key = {"bridge_id": BRIDGE, "dst_mac": POD}
        out = {**inward(encap, version), "fdb": MAKE("l2_fwd_rx_table", key, "l2_fwd", port=0)}
        came = arriving(encap, version, inner(FAR, POD))
        assert device(out.values()).ask("up", came) is None


def having(layer: type[Packet], **fields: object) -> Callable[[Packet], bytes]:
    """Return what changes fields of a layer."""

    def change(packet: Packet) -> bytes:
        for name, value in fields.items():
            setattr(packet[layer], name, value)
        return bytes(packet)

    return change


def tagged(packet: Packet) -> bytes:
    return bytes(packet)[:12] + b"\x81\0\0\5" + bytes(packet)[12:]


def cut(packet: Packet) -> bytes:
    """Return the packet with half an inner header and all lengths right."""
    packet[Raw].load = packet[Raw].load[:13]
    return bytes(packet)


@pytest.mark.parametrize(
    ("encap", "version", "change"),
    [
        pytest.param(Encap.GENEVE, 4, having(IP, flags="MF"), id="a fragment"),
        pytest.param(Encap.GENEVE, 4, having(IP, frag=1), id="a later fragment"),
        pytest.param(Encap.VXLAN, 4, having(IP, options=[b"\1" * 4]), id="options of IPv4"),
        pytest.param(Encap.VXLAN, 4, having(IP, chksum=1), id="a wrong checksum of IPv4"),
        pytest.param(Encap.GENEVE, 4, having(IP, len=2000), id="IPv4 longer than the frame"),
        pytest.param(Encap.GENEVE, 6, having(IPv6, plen=2000), id="IPv6 longer than the frame"),
        pytest.param(Encap.GENEVE, 6, having(IPv6, nh=0), id="another next header"),
        pytest.param(Encap.GENEVE, 6, having(IPv6, version=5), id="another version of IP"),
        pytest.param(Encap.GENEVE, 4, having(IP, proto=6), id="another protocol of IP"),
        pytest.param(Encap.GENEVE, 4, having(UDP, len=40), id="UDP too short"),
        pytest.param(Encap.VXLAN, 6, having(UDP, len=400), id="UDP too long"),
        pytest.param(Encap.VXLAN, 4, having(UDP, dport=4790), id="another port"),
        pytest.param(Encap.VXLAN, 4, having(UDP, dport=6081), id="VXLAN at Geneve's port"),
        pytest.param(Encap.VXLAN, 4, having(VXLAN, flags=0), id="VXLAN without its flag"),
        pytest.param(Encap.GENEVE, 4, having(GENEVE, version=1), id="another version of Geneve"),
        pytest.param(Encap.GENEVE, 4, having(GENEVE, oam=1), id="a control packet of Geneve"),
        pytest.param(Encap.GENEVE, 4, having(GENEVE, critical=1), id="critical options"),
        pytest.param(Encap.GENEVE, 4, having(GENEVE, proto=0x800), id="no Ethernet in Geneve"),
        pytest.param(Encap.GENEVE, 4, having(GENEVE, optionlen=3), id="options of Geneve"),
        pytest.param(Encap.GENEVE, 4, having(Ether, type=0x88B5), id="no IPv4"),
        pytest.param(Encap.GENEVE, 6, having(Ether, type=0x88B5), id="no IPv6"),
        pytest.param(Encap.GENEVE, 6, cut, id="half an inner header"),
        pytest.param(Encap.GENEVE, 4, tagged, id="a tag outside"),
    ],
)
def test_what_is_not_parsed_as_a_tunnel_is_an_ordinary_frame(
    encap: Encap, version: int, change: Callable[[Packet], bytes]
) -> None:
    entries = inward(encap, version)
    found = device(entries.values())
    back = inner(FAR, POD)
    assert found.ask("up", arriving(encap, version, back)) == ("vf0", back)
    odd = change(arriving(encap, version, back))
    assert found.ask("up", odd) == ("cpu0", odd)


class TestBridging:
    ENTRIES = outward(Encap.VXLAN, 4)

    def test_vf_to_vf(self) -> None:
        found = device([*self.ENTRIES.values(), local()])
        frame = inner(destination=NEAR)
        assert found.ask("vf0", frame) == ("vf1", frame)

    def test_only_where_the_two_may_talk(self) -> None:
        found = device([*self.ENTRIES.values(), local()])
        key = {"vsi": 27, "target_vsi": 28}
        found.tables.write(p4r.Update.DELETE, MAKE("vsi_to_vsi_loopback", key))
        assert found.ask("vf0", inner(destination=NEAR)) is None

    def test_out_at_a_wire_as_it_is(self) -> None:
        found = device([*self.ENTRIES.values(), local(port=0)])
        frame = inner(destination=NEAR)
        assert found.ask("vf0", frame) == ("up", frame)

    @pytest.mark.parametrize("port", [1, 999])
    def test_a_port_that_is_not_there(self, port: int) -> None:
        found = device([*self.ENTRIES.values(), local(port=port)])
        assert found.ask("vf0", inner(destination=NEAR)) is None

    def test_bridges_are_apart(self) -> None:
        found = device([*self.ENTRIES.values(), local(), bridged(28 + 16, bridge=BRIDGE + 1)])
        key: Key = {"sa": POD, "bridge_id": BRIDGE + 1}
        found.tables.write(p4r.Update.INSERT, MAKE("l2_fwd_smac_table", key, "NoAction"))
        assert found.ask("vf1", inner()) == ("rep1", inner())

    def test_the_remote_is_found_by_the_mac_alone(self) -> None:
        """One MAC in two bridges cannot be behind two remotes."""
        other = MAKE(
            "l2_fwd_tx_table",
            {"bridge_id": BRIDGE + 1, "dst_mac": FAR},
            "set_vxlan_underlay_v4",
            tunnel_id=TUNNEL,
        )
        key: Key = {"sa": POD, "bridge_id": BRIDGE + 1}
        known = MAKE("l2_fwd_smac_table", key, "NoAction")
        entries = [*self.ENTRIES.values(), bridged(28 + 16, bridge=BRIDGE + 1), known, other]
        sent = device(entries).ask("vf1", inner())
        assert sent is not None
        assert Ether(sent[1])[IP].dst == REMOTE[4]

    @pytest.mark.parametrize("tag", [Dot1Q, Dot1AD])
    def test_a_tag_chooses_the_bridge(self, tag: type[Packet]) -> None:
        entries = [*without(self.ENTRIES, "bridge"), bridged(27 + 16, vid=5), local()]
        frame = bytes(Ether(src=POD, dst=NEAR) / tag(vlan=5) / Raw(b"x" * 40))
        found = device(entries)
        assert found.ask("vf0", frame) == ("vf1", frame)
        assert found.ask("vf0", inner(destination=NEAR)) == ("rep0", inner(destination=NEAR))

    @pytest.mark.parametrize("head", [Ether(), Ether() / Dot1Q(vlan=5)], ids=["bare", "tagged"])
    def test_arp_is_always_a_miss(self, head: Packet) -> None:
        head.src, head.dst = POD, NEAR
        frame = bytes(head / ARP())
        entries = [*self.ENTRIES.values(), bridged(27 + 16, vid=5), local()]
        assert device(entries).ask("vf0", frame) == ("rep0", frame)

    @pytest.mark.parametrize("action", ["l2_fwd_lag", "pop_vlan_set_vxlan_underlay_v4"])
    def test_what_is_not_emulated_is_dropped(self, action: str) -> None:
        args = {"lag_group_id": 0} if action == "l2_fwd_lag" else {"tunnel_id": TUNNEL}
        key: Key = {"bridge_id": BRIDGE, "dst_mac": NEAR}
        entries = [*self.ENTRIES.values(), MAKE("l2_fwd_tx_table", key, action, **args)]
        assert device(entries).ask("vf0", inner(destination=NEAR)) is None

    def test_plain_frames_from_the_wire_are_bridged_too(self) -> None:
        entries = [
            MAKE("l2_fwd_smac_table", {"sa": FAR, "bridge_id": 0}, "NoAction"),
            MAKE("l2_fwd_rx_table", {"bridge_id": 0, "dst_mac": POD}, "l2_fwd", port=43),
        ]
        frame = inner(FAR, POD)
        assert device(entries).ask("up", frame) == ("vf0", frame)


def counted(found: Device, entry: p4r.TableEntry) -> tuple[int, int]:
    [read_back] = found.tables.read_counter(p4r.DirectCounterEntry(table_entry=entry))
    return read_back.data.packet_count, read_back.data.byte_count


def test_what_is_forwarded_is_counted_by_the_bytes_that_came_in() -> None:
    entries = outward(Encap.GENEVE, 4)
    found = device(entries.values())
    for _ in range(3):
        found.ask("vf0", inner())
    assert counted(found, entries["fdb"]) == (3, 3 * len(inner()))
    assert counted(found, entries["next hop"]) == (3, 3 * len(inner()))


def test_what_goes_to_the_cpu_in_the_end_is_not_counted() -> None:
    entries = outward(Encap.GENEVE, 4)
    found = device(without(entries, "route"))
    found.ask("vf0", inner())
    assert counted(found, entries["fdb"]) == (0, 0)


def test_without_the_plugins_entries_nothing_passes() -> None:
    bare = Device(Tables(SCHEMA, {}))
    for port in MISSES:
        assert bare.ask(port, inner()) is None


@pytest.mark.parametrize("port", ["cpu0", "rep0"])
def test_a_bypass_that_is_gone_forwards_nothing(port: str) -> None:
    """The default action is l2_fwd_and_bypass_bridge, too: its port 0 is no wire here."""
    found = device()
    key: Key = {"vsi": PORTS.vsis[port], "zero_padding": 0}
    found.tables.write(p4r.Update.DELETE, MAKE("tx_acc_vsi", key))
    assert found.ask(port, inner()) is None


def test_without_its_source_port_a_wire_has_port_0() -> None:
    found = device()
    found.tables.write(p4r.Update.DELETE, MAKE("rx_source_port", {"port_id": 0, "zero_padding": 0}))
    assert found.ask("up", inner()) == ("cpu0", inner())


def test_an_update_waits_for_the_frame_that_is_under_way() -> None:
    entries = outward(Encap.VXLAN, 4)
    found = device(entries.values())
    golden = ("up", bytes(packet(Encap.VXLAN, 4, OWN[4], REMOTE[4], inner())))
    update = (p4r.Update.DELETE, entries["header"])
    writer = threading.Thread(target=found.tables.write, args=update)
    with found.tables.still():
        writer.start()
        writer.join(0.1)
        assert writer.is_alive()
        assert found.ask("vf0", inner()) == golden
    writer.join(10)
    assert found.ask("vf0", inner()) == ("up", inner(OWN_MAC, HOP))


@settings(deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_come_out_as_they_are_or_not_at_all(data: bytes) -> None:
    found = device()
    for source, target in MISSES.items():
        assert found.ask(source, data) == ((target, data) if len(data) >= 14 else None)


@settings(deadline=None)
@given(at=st.integers(0, 70), value=st.integers(0, 255), version=st.sampled_from([4, 6]))
def test_a_byte_that_is_changed_makes_no_other_frame(at: int, value: int, version: int) -> None:
    """A tunnel packet with any byte changed is taken out of its tunnel, or comes as it is."""
    found = device(inward(Encap.GENEVE, version).values())
    came = bytearray(bytes(arriving(Encap.GENEVE, version, inner(FAR, POD))))
    came[at] = value
    start = {4: 50, 6: 70}[version]
    expected = {("vf0", bytes(came[start:])), ("cpu0", bytes(came))}
    assert found.ask("up", bytes(came)) in expected


@settings(deadline=None)
@given(data=st.binary(max_size=64))
def test_the_checksum_is_the_internets(data: bytes) -> None:
    assert checksum(data) == scapy_checksum(data)


def test_a_sent_frame_says_where() -> None:
    assert Engine(device().tables, PORTS).forward("vf0", inner()) == Sent("rep0", inner())
