"""Addresses, MACs and what nodes own: who has it keeps it, and who is gone for good does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dataplane.core.model import Address, Mac
from dataplane.lab import lab, matrix, nodes
from dataplane.lab.scene import Colour, Scene
from tests.system.cni_node import CniNode, cni_node, error_of, eventually, rows, segment, station

CYAN = Colour("cyan", 22, "vxlan", "ipv6")
TINY = "kind: Segment\nname: tiny\nvni: 1023\nsubnets: [{}]\n"
IPS = {"ips": CYAN.static_ips(5)}
MAC = Mac("02:00:00:00:22:05")
DB, OTHER = "OVERWEAVE_ENDPOINT=db", "OVERWEAVE_ENDPOINT=other"
DUPLICATE, EXHAUSTED = 110, 112
FREED_S = 10.0


@pytest.fixture(scope="module", autouse=True)
def cyan(shared: Scene) -> Iterator[None]:
    with segment(shared, CYAN):
        yield


@pytest.fixture
def here(scene: Scene) -> Iterator[CniNode]:
    with cni_node(scene, "n1", CYAN.name) as node:
        yield node


@pytest.fixture
def there(scene: Scene) -> Iterator[CniNode]:
    with cni_node(scene, "n2", CYAN.name) as node:
        yield node


def test_an_address_asked_for_by_name_belongs_to_whom_it_was_given(
    here: CniNode, there: CniNode
) -> None:
    def bound() -> set[tuple[str, str]]:
        every = [row for row in rows(here.scene) if isinstance(row, Address)]
        return {(row.identity, row.node) for row in every if row.segment == CYAN.name}

    peer = here.add("peer")
    for pod in ("db1", "db2", "thief"):
        here.pod(pod)
    added = here.run("ADD", "db1", here.config(runtimeConfig=IPS), CNI_ARGS=DB)
    first = station("db1", added.document)
    assert [f"{first.ip(4)}/20", f"{first.ip(6)}/64"] == list(CYAN.static_ips(5))
    assert bound() == {("db/eth0", "n1")}
    for node in (here, there):
        refused = node.run("ADD", "thief", node.config(runtimeConfig=IPS), CNI_ARGS=OTHER)
        error_of(refused, DUPLICATE, str(first.ip(4)), "belongs to db/eth0")
    moved = there.run("ADD", "db2", there.config(runtimeConfig=IPS), CNI_ARGS=DB)
    second = station("db2", moved.document)
    assert (second.mac, second.ips) == (first.mac, first.ips)
    eventually(lambda: bound() == {("db/eth0", "n2")})
    here.delete("db1")
    matrix.converge([second, peer])
    assert bound() == {("db/eth0", "n2")}
    there.delete("db2")
    eventually(lambda: bound() == set())


def test_a_mac_that_is_taken_is_refused_with_its_owner(here: CniNode, there: CniNode) -> None:
    wanted = {"runtimeConfig": {"mac": MAC}}
    here.pod("one")
    assert here.run("ADD", "one", here.config(**wanted), CNI_ARGS=DB).status == 0
    for node in (here, there):
        node.pod("two")
        refused = node.run("ADD", "two", node.config(**wanted), CNI_ARGS=OTHER)
        error_of(refused, DUPLICATE, MAC, "already used by db/eth0 on node n1")


def test_an_exhausted_subnet_is_named_and_another_one_helps(scene: Scene) -> None:
    lab.apply(scene.paths, TINY.format("10.23.0.0/30"))
    words = ("segment tiny", "subnet 10.23.0.0/30 is exhausted", "add a subnet")
    with cni_node(scene, "n1", "tiny") as first, cni_node(scene, "n2", "tiny") as second:
        taken = [first.add("t1"), first.add("t2")]
        assert [str(each.ip(4)) for each in taken] == ["10.23.0.1", "10.23.0.2"]
        for node in (first, second):
            node.pod("t3")
            error_of(node.run("ADD", "t3"), EXHAUSTED, *words)
        first.delete("t1")
        assert first.add("t3").ips == taken[0].ips
        lab.apply(scene.paths, TINY.format("10.23.0.0/30, 10.24.0.0/24"))
        assert str(second.add("t4").ip(4)).startswith("10.24.0.")
    lab.overweave(scene.paths, "delete", "segment", "tiny")


def test_a_node_that_is_gone_for_good_frees_what_it_owned(scene: Scene) -> None:
    gone = scene.topology.node("n4")
    others = [CniNode(scene, name, "blue") for name in ("n1", "n2", "n3")]

    def owned() -> set[str]:
        every = [(row, getattr(row, "node", getattr(row, "name", ""))) for row in rows(scene)]
        return {str(row) for row, owner in every if owner == "n4"}

    def mentions() -> list[str]:
        vteps = [str(address.ip) for address in gone.addresses]
        flows = [str(flow) for node in others for flow in node.flows()]
        return [flow for flow in flows if any(vtep in flow for vtep in vteps)]

    before, flows = owned(), len(mentions())
    assert flows
    nodes.kill_agent(scene.paths.node("n4"))
    said = lab.overweave(scene.paths, "node", "delete", "n4")
    assert len(said.splitlines()) == len(before) + 2
    assert owned() == set()
    took = eventually(lambda: mentions() == [], FREED_S)
    print(f"{flows} flows to the node gone after {took:.2f} s")
    lab.start_agents(scene.paths, [gone])
    eventually(lambda: owned() == before, FREED_S)
    for stations in scene.segments.values():
        matrix.converge(stations)
    assert len(mentions()) == flows
