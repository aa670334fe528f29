"""Vrf and Svi as OPI's clients make them: real database, real gRPC; no packets."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from dataplane.core.model import Endpoint, FabricEntity, Mac, Svi, Vni, Vrf
from dataplane.fabric.store import FabricStore
from dataplane.opi import l2_xpu_infra_mgr_pb2 as l2
from dataplane.opi import l3_xpu_infra_mgr_pb2 as pb
from dataplane.opi.networktypes_pb2 import IPAddress, IPPrefix
from dataplane.opi.prefixes import written
from tests.functional.fabric_support import wait_until
from tests.functional.opi_world import BRIDGE, OpiWorld, running_world
from tests.functional.test_opi import (
    BAD,
    EVPN,
    FORGED,
    MISSING,
    REFUSED,
    TAKEN,
    Code,
    call,
    refused,
)

VRF, SVI = "//network.opiproject.org/vrfs/", "//network.opiproject.org/svis/"
MAC = bytes.fromhex("02005e000101")
LOOPBACK = written(ip_interface("10.255.0.1/32"))
GATEWAYS = [written(ip_interface(text)) for text in ("10.1.0.1/24", "fd01::1/64")]
HOST = Endpoint(
    "blue", "far", Mac("02:00:00:00:00:07"), (ip_address("10.1.0.7"),), "a/b/c", 1, "c", "eth0"
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpiWorld]:
    with running_world(tmp_path_factory.mktemp("gateways")) as world:
        with FabricStore(world.remote) as store:
            store.write(upserts=[HOST])
        yield world


@pytest.fixture
def world(shared: OpiWorld) -> Iterator[OpiWorld]:
    """Yield the node with the Vrf ``shop``; what a test makes besides goes with it."""
    shared.vrfs.CreateVrf(vrf("shop"))
    yield shared
    for svi_ in shared.svis.ListSvis(pb.ListSvisRequest()).svis:
        shared.svis.DeleteSvi(pb.DeleteSviRequest(name=svi_.name))
    for vrf_ in shared.vrfs.ListVrfs(pb.ListVrfsRequest()).vrfs:
        if vrf_.name != VRF + "shop":
            shared.vrfs.DeleteVrf(pb.DeleteVrfRequest(name=vrf_.name))


def vrf(vrf_id: str, **spec: Any) -> pb.CreateVrfRequest:
    wanted = {"loopback_ip_prefix": LOOPBACK, **spec}
    return pb.CreateVrfRequest(vrf_id=vrf_id, vrf=pb.Vrf(spec=pb.VrfSpec(**wanted)))


def svi(svi_id: str, **spec: Any) -> pb.CreateSviRequest:
    wanted = {
        "vrf": VRF + "shop",
        "logical_bridge": BRIDGE + "blue",
        "mac_address": MAC,
        "gw_ip_prefix": GATEWAYS,
        **spec,
    }
    return pb.CreateSviRequest(svi_id=svi_id, svi=pb.Svi(spec=pb.SviSpec(**wanted)))


def update_vrf(name: str, *paths: str, **spec: Any) -> pb.UpdateVrfRequest:
    wanted = pb.Vrf(name=VRF + name, spec=pb.VrfSpec(**spec))
    return pb.UpdateVrfRequest(vrf=wanted, update_mask=FieldMask(paths=paths))


def update_svi(name: str, *paths: str, **spec: Any) -> pb.UpdateSviRequest:
    wanted = pb.Svi(name=SVI + name, spec=pb.SviSpec(**spec))
    return pb.UpdateSviRequest(svi=wanted, update_mask=FieldMask(paths=paths))


def rows(world: OpiWorld) -> set[FabricEntity]:
    with FabricStore(world.remote) as store:
        return {row for row in store.read() if isinstance(row, Vrf | Svi)}


SHOP = Vrf("shop", None, ip_interface("10.255.0.1/32"))


def test_a_tenant_makes_a_gateway(world: OpiWorld) -> None:
    made = world.svis.CreateSvi(svi("blue-gw"))
    assert made.name == SVI + "blue-gw"
    assert (made.spec.vrf, made.spec.logical_bridge) == (VRF + "shop", BRIDGE + "blue")
    assert (made.spec.mac_address, list(made.spec.gw_ip_prefix)) == (MAC, GATEWAYS)
    assert made.status.oper_status == pb.SVI_OPER_STATUS_UP
    assert world.svis.CreateSvi(svi("blue-gw")) == made
    assert world.svis.GetSvi(pb.GetSviRequest(name=made.name)) == made
    prefixes = tuple(map(ip_interface, ("10.1.0.1/24", "fd01::1/64")))
    row = Svi("blue-gw", "shop", "blue", Mac("02:00:5e:00:01:01"), prefixes)
    assert rows(world) == {SHOP, row}
    with refused(REFUSED, "vrf shop has svis (blue-gw)"):
        world.vrfs.DeleteVrf(pb.DeleteVrfRequest(name=VRF + "shop"))
    world.svis.DeleteSvi(pb.DeleteSviRequest(name=made.name))
    assert rows(world) == {SHOP}


def test_a_vrf_has_what_it_was_given(world: OpiWorld) -> None:
    made = world.vrfs.CreateVrf(vrf("stock", vni=77))
    assert (made.name, made.spec.vni) == (VRF + "stock", 77)
    assert made.spec.loopback_ip_prefix == LOOPBACK
    assert made.status.oper_status == pb.VRF_OPER_STATUS_UP
    assert world.vrfs.CreateVrf(vrf("stock", vni=77)) == made
    without = world.vrfs.GetVrf(pb.GetVrfRequest(name=VRF + "shop"))
    assert not without.spec.HasField("vni")
    assert Vrf("stock", Vni(77), SHOP.loopback) in rows(world)
    world.vrfs.DeleteVrf(pb.DeleteVrfRequest(name=made.name))
    world.vrfs.DeleteVrf(pb.DeleteVrfRequest(name=made.name, allow_missing=True))


def test_the_server_chooses_a_name(world: OpiWorld) -> None:
    names = {world.vrfs.CreateVrf(vrf("")).name for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith(VRF) for name in names)
    named = world.svis.CreateSvi(svi(""))
    assert world.svis.GetSvi(pb.GetSviRequest(name=named.name)) == named


def test_updates_by_mask(world: OpiWorld) -> None:
    made = world.svis.CreateSvi(svi("blue-gw"))
    moved = world.svis.UpdateSvi(
        update_svi("blue-gw", "spec.mac_address", mac_address=b"\x02" * 6, vrf="ignored")
    )
    assert moved.spec.mac_address == b"\x02" * 6
    assert list(moved.spec.gw_ip_prefix) == GATEWAYS
    fewer = world.svis.UpdateSvi(update_svi("blue-gw", gw_ip_prefix=GATEWAYS[:1], mac_address=MAC))
    assert (fewer.spec.vrf, list(fewer.spec.gw_ip_prefix)) == (made.spec.vrf, GATEWAYS[:1])
    assert world.vrfs.UpdateVrf(update_vrf("shop", "spec.vni", vni=70)).spec.vni == 70
    gone = world.vrfs.UpdateVrf(update_vrf("shop", "spec.vni"))
    assert not gone.spec.HasField("vni")
    assert not gone.status.components[0].details
    wanted = svi("", logical_bridge=BRIDGE + "green", gw_ip_prefix=GATEWAYS[1:]).svi
    wanted.name = SVI + "new-gw"
    missing = pb.UpdateSviRequest(svi=wanted, allow_missing=True)
    assert world.svis.UpdateSvi(missing).name == SVI + "new-gw"


def test_pages(world: OpiWorld) -> None:
    world.vrfs.CreateVrf(vrf("stock"))
    first = world.vrfs.ListVrfs(pb.ListVrfsRequest(page_size=1))
    rest = world.vrfs.ListVrfs(pb.ListVrfsRequest(page_token=first.next_page_token))
    assert [each.name for each in (*first.vrfs, *rest.vrfs)] == [VRF + "shop", VRF + "stock"]
    assert not rest.next_page_token
    world.svis.CreateSvi(svi("blue-gw"))
    assert [each.name for each in world.svis.ListSvis(pb.ListSvisRequest()).svis] == [
        SVI + "blue-gw"
    ]


VRFS, SVIS = f"{EVPN}.VrfService", f"{EVPN}.SviService"
CREATE_VRF, UPDATE_VRF = f"{VRFS}/CreateVrf", f"{VRFS}/UpdateVrf"
CREATE, UPDATE = f"{SVIS}/CreateSvi", f"{SVIS}/UpdateSvi"
V6_IN_V4 = IPPrefix(addr=IPAddress(af="IP_AF_INET", v6_addr=bytes(16)), len=24)


def gateways(*texts: str) -> pb.CreateSviRequest:
    return svi("blue-gw", gw_ip_prefix=[written(ip_interface(text)) for text in texts])


WRONG: list[tuple[str, str, Any, grpc.StatusCode, str]] = [
    ("no vrf", CREATE_VRF, pb.CreateVrfRequest(), BAD, "missing required field: vrf.spec"),
    (
        "no loopback",
        CREATE_VRF,
        pb.CreateVrfRequest(vrf_id="stock", vrf=pb.Vrf(spec=pb.VrfSpec(vni=3))),
        BAD,
        "missing required field: vrf.spec.loopback_ip_prefix",
    ),
    ("loopback", CREATE_VRF, vrf("stock", loopback_ip_prefix=V6_IN_V4), BAD, "family that af says"),
    (
        "loopback 33",
        CREATE_VRF,
        vrf("stock", loopback_ip_prefix=IPPrefix(addr=LOOPBACK.addr, len=33)),
        BAD,
        "len 33 is not from 0 to 32",
    ),
    ("vni 0", CREATE_VRF, vrf("stock", vni=0), BAD, "Vni value (0)"),
    ("vni 2^24", CREATE_VRF, vrf("stock", vni=1 << 24), BAD, "Vni value"),
    ("a bridge's vni", CREATE_VRF, vrf("stock", vni=7), TAKEN, "already in use: 7 by blue"),
    ("other's vtep", CREATE_VRF, vrf("stock", vtep_ip_prefix=LOOPBACK), REFUSED, "for all Vrfs"),
    ("other content", CREATE_VRF, vrf("shop", vni=3), TAKEN, "vrf shop exists, with vni (none)"),
    ("short id", CREATE_VRF, vrf("abc"), BAD, "between 4 and 63"),
    ("upper id", CREATE_VRF, vrf("Stock"), BAD, "must only contain"),
    ("unknown", f"{VRFS}/GetVrf", pb.GetVrfRequest(name=VRF + "x"), MISSING, "unable to find key"),
    ("prefix", f"{VRFS}/GetVrf", pb.GetVrfRequest(name=SVI + "shop"), BAD, "no resource name"),
    ("pattern", f"{VRFS}/GetVrf", pb.GetVrfRequest(name="vrfs/shop"), BAD, "no resource name"),
    ("gone", f"{VRFS}/DeleteVrf", pb.DeleteVrfRequest(name=VRF + "x"), MISSING, "unable to find"),
    ("update unnamed", UPDATE_VRF, pb.UpdateVrfRequest(), BAD, "field: vrf.name"),
    ("update unknown", UPDATE_VRF, update_vrf("stock"), MISSING, "unable to find key"),
    ("mask", UPDATE_VRF, update_vrf("shop", "spec.x"), BAD, "invalid field path: 'spec.x'"),
    ("no loopback left", UPDATE_VRF, update_vrf("shop", "*"), BAD, "loopback_ip_prefix"),
    ("page size", f"{VRFS}/ListVrfs", pb.ListVrfsRequest(page_size=-1), BAD, "negative PageSize"),
    ("page token", f"{VRFS}/ListVrfs", FORGED, MISSING, "pagination token"),
    ("no svi", CREATE, pb.CreateSviRequest(svi_id="blue-gw"), BAD, "field: svi.spec"),
    ("svi's vrf", CREATE, svi("blue-gw", vrf=""), BAD, "field: svi.spec.vrf"),
    ("svi's bridge", CREATE, svi("blue-gw", logical_bridge=""), BAD, "svi.spec.logical_bridge"),
    ("svi's mac", CREATE, svi("blue-gw", mac_address=b""), BAD, "svi.spec.mac_address"),
    ("no gateway", CREATE, gateways(), BAD, "missing required field: svi.spec.gw_ip_prefix"),
    ("vrf alone", CREATE, svi("blue-gw", vrf="shop"), BAD, "no resource name"),
    ("bridge alone", CREATE, svi("blue-gw", logical_bridge="blue"), BAD, "no resource name"),
    ("no such vrf", CREATE, svi("blue-gw", vrf=VRF + "x"), REFUSED, "VRF has not been found: x"),
    (
        "no such bridge",
        CREATE,
        svi("blue-gw", logical_bridge=BRIDGE + "x"),
        REFUSED,
        "Logical Bridge has not been found: x",
    ),
    ("short mac", CREATE, svi("blue-gw", mac_address=MAC[:5]), BAD, "has 5 bytes"),
    ("multicast", CREATE, svi("blue-gw", mac_address=b"\x01" * 6), BAD, "multicast"),
    ("used mac", CREATE, svi("blue-gw", mac_address=b"\x02" + bytes(4) + b"\x07"), REFUSED, "a/b"),
    ("used ip", CREATE, gateways("10.1.0.7/24"), REFUSED, "10.1.0.7 is already that of a/b/c"),
    ("multicast ip", CREATE, gateways("224.0.0.1/24"), BAD, "cannot be an address"),
    ("fe80", CREATE, gateways("fe80::1/64"), BAD, "cannot be an address"),
    ("broadcast ip", CREATE, gateways("10.1.0.255/24"), REFUSED, "network or broadcast address"),
    ("another's subnet", CREATE, gateways("10.9.0.1/24"), REFUSED, "in no subnet of segment blue"),
    ("two ways", CREATE, gateways("10.1.0.1/24", "10.1.0.2/20"), REFUSED, "overlap"),
    ("bgp", CREATE, svi("blue-gw", enable_bgp=True, remote_as=5), Code.UNIMPLEMENTED, "BGP"),
    ("bgp as", CREATE, svi("blue-gw", enable_bgp=True, remote_as=1 << 16), BAD, "remote_as value"),
    ("as alone", CREATE, svi("blue-gw", remote_as=5), BAD, "remote_as (5)"),
    ("unknown svi", f"{SVIS}/GetSvi", pb.GetSviRequest(name=SVI + "x"), MISSING, "unable to find"),
    ("svi gone", f"{SVIS}/DeleteSvi", pb.DeleteSviRequest(name=SVI + "x"), MISSING, "unable to"),
    ("svi update", UPDATE, update_svi("x"), MISSING, "unable to find key"),
    ("5 MiB", CREATE, svi("blue-gw", mac_address=bytes(5 << 20)), Code.RESOURCE_EXHAUSTED, "max"),
]


@pytest.mark.parametrize(
    ("method", "request_", "code", "words"),
    [each[1:] for each in WRONG],
    ids=[each[0] for each in WRONG],
)
def test_bad_input(
    world: OpiWorld, method: str, request_: Any, code: grpc.StatusCode, words: str
) -> None:
    with refused(code, words):
        call(world, method, request_)
    fabric = world.agent.snapshot.state.fabric
    assert (*fabric.vrfs.values(), *fabric.svis.values()) == (SHOP,)


def test_one_gateway_of_a_segment_and_one_way_in_a_vrf(world: OpiWorld) -> None:
    world.svis.CreateSvi(svi("blue-gw"))
    with refused(REFUSED, "segment blue already has the gateway svi blue-gw"):
        world.svis.CreateSvi(svi("blue-gw2", gw_ip_prefix=[written(ip_interface("10.1.1.1/24"))]))
    with refused(REFUSED, "overlaps 10.1.0.1/24 of svi blue-gw in vrf shop"):
        world.svis.CreateSvi(svi("green-gw", logical_bridge=BRIDGE + "green"))
    with refused(TAKEN, "svi blue-gw exists"):
        world.svis.CreateSvi(svi("blue-gw", mac_address=b"\x02" * 6))
    world.vrfs.CreateVrf(vrf("stock"))
    world.svis.CreateSvi(svi("green-gw", logical_bridge=BRIDGE + "green", vrf=VRF + "stock"))
    with refused(REFUSED, "segment green has the gateway svi green-gw"):
        world.bridges.DeleteLogicalBridge(l2.DeleteLogicalBridgeRequest(name=BRIDGE + "green"))


def test_who_is_no_tenant_makes_none(tmp_path: Path) -> None:
    with running_world(tmp_path, networks=None) as other:
        with FabricStore(other.remote) as store:
            store.write(upserts=[SHOP])
        wait_until(lambda: "shop" in other.agent.snapshot.state.fabric.vrfs)
        assert other.vrfs.CreateVrf(vrf("shop")).name == VRF + "shop"
        for method, request in (
            (CREATE_VRF, vrf("stock")),
            (UPDATE_VRF, update_vrf("shop", "spec.vni", vni=3)),
            (CREATE, svi("blue-gw")),
            (f"{VRFS}/DeleteVrf", pb.DeleteVrfRequest(name=VRF + "shop")),
        ):
            with refused(REFUSED, "the role tenant"):
                call(other, method, request)
        assert rows(other) == {SHOP}
