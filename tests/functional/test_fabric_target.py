"""The fabric target against a real database: our rows as they should be, and nobody else's."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from dataplane.core.desired import Bindings, Desired, LocalNode, Publication, SegmentView
from dataplane.core.diff import Change, diff
from dataplane.core.errors import FabricUnavailableError, PartlyRefusedError, TargetError
from dataplane.core.events import Event, FabricChanged, FabricSynced
from dataplane.core.model import (
    Address,
    AttachmentKey,
    Block,
    Condition,
    Device,
    Encap,
    Endpoint,
    Fabric,
    FabricEntity,
    Family,
    Node,
    Segment,
    Side,
    TableUse,
)
from dataplane.fabric import schema
from dataplane.fabric.feed import FabricFeed
from dataplane.fabric.store import FabricStore, agent_database
from dataplane.fabric.target import FabricTarget
from ovs_client.daemons import DatabaseServer
from ovs_client.database import Database, Tls
from tests.functional.certificates import Pki
from tests.functional.fabric_support import Recorder, running_server, wait_until
from tests.functional.test_fabric_feed import RealClock
from tests.functional.test_rbac import RunningServer
from tests.unit.fabric_builders import endpoint, node, segment

BLUE, RED = segment("blue", 1), segment("red", 2)
ME, PEER = node("me", "192.0.2.1", "2001:db8::1"), node("n2", "192.0.2.2")
BLOCK = Block("blue", ip_network("10.1.0.0/27"), "me")
STATIC = Address("blue", ip_address("10.1.9.9"), "default/db/eth0", "me")
PODS = tuple(endpoint("me", number) for number in range(3))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[DatabaseServer]:
    with running_server(tmp_path) as server:
        yield server


@dataclass
class Rig:
    """The fabric part of an agent named ``node``."""

    node: str
    database: Database
    feed: FabricFeed
    target: FabricTarget
    told: Recorder[Event]

    def difference(self, desired: Desired) -> Change:
        """Return what would have to change."""
        return diff(self.target.render(desired, Bindings()), self.target.observe())

    def converge(self, desired: Desired) -> int:
        """Do one round as the worker does; return how many items changed."""
        change = self.difference(desired)
        if change:
            self.target.apply(change)
        return len(change)


@contextmanager
def rig(remote: str, name: str = "me", tls: Tls | None = None) -> Iterator[Rig]:
    database = agent_database(remote, tls)
    told = Recorder[Event]()
    feed = FabricFeed(database, name, RealClock())
    feed.start(told)
    try:
        feed.watch({"blue": 1})
        told.wait_for(FabricSynced("blue", 1))
        yield Rig(name, database, feed, FabricTarget(database, name), told)
    finally:
        feed.stop()


def desired(publication: Publication | None, *, synced: bool = True) -> Desired:
    views = {
        one.name: SegmentView(one, synced=synced, mtu=1400, ports=(), remotes=(), flood=())
        for one in (BLUE, RED)
    }
    return Desired(
        node=LocalNode("me", "eth0"),
        fabric=Fabric(),
        vteps=ME.vteps,
        segments=views,
        publication=publication,
        attachments=(),
    )


def publication(
    endpoints: tuple[Endpoint, ...] = PODS,
    blocks: tuple[Block, ...] = (BLOCK,),
    addresses: tuple[Address, ...] = (STATIC,),
    of: Node = ME,
) -> Publication:
    return Publication(of, endpoints, blocks, addresses)


def rows(server: DatabaseServer) -> set[FabricEntity]:
    with FabricStore(server.remote) as store:
        return set(store.read())


def write(server: DatabaseServer, *entities: FabricEntity) -> None:
    with FabricStore(server.remote) as store:
        store.write(upserts=entities)


def unwrite(server: DatabaseServer, *entities: FabricEntity) -> None:
    with FabricStore(server.remote) as store:
        store.write(deletes=entities)


ALL = {ME, BLOCK, STATIC, *PODS}


def test_publishes_and_is_done(server: DatabaseServer) -> None:
    with rig(server.remote) as agent:
        assert agent.converge(desired(publication())) == 8
        assert agent.converge(desired(publication())) == 0
        assert rows(server) == ALL


def test_devices_are_kept_by_their_node_alone(server: DatabaseServer) -> None:
    half = Device("1-dpu", "1", "marvell", "Octeon", Side.DPU, "me", ready=True)
    down = Condition("Ready", holds=False, reason="no answer", since=1_800_000_000)
    ill = replace(
        half,
        ready=False,
        emulated=True,
        conditions=(down,),
        peer="h1",
        tunnels=((Encap.GENEVE, Family.IPV6),),
        tables=(TableUse("forward", 12, 1024),),
        vfs_used=1,
        heard_at=1_800_000_000,
        told_at=1_800_000_001,
    )
    theirs = replace(half, node="n2")  # what its plugin calls it, others' call theirs, too
    write(server, theirs)
    with rig(server.remote) as agent:
        agent.converge(desired(replace(publication(), devices=(half,))))
        assert rows(server) == {*ALL, half, theirs}
        assert agent.converge(desired(replace(publication(), devices=(half,)))) == 0
        assert agent.converge(desired(replace(publication(), devices=(ill,)))) == 1
        assert rows(server) == {*ALL, ill, theirs}
        assert agent.converge(desired(publication())) == 1
        assert rows(server) == {*ALL, theirs}
        told = [each for each in agent.told.events if isinstance(each, FabricChanged)]
        assert not any(isinstance(row, Device) for each in told for row in each.upserts)


def test_order_of_addresses_is_no_difference(server: DatabaseServer) -> None:
    swapped = replace(PODS[0], ips=tuple(reversed(PODS[0].ips)))
    with rig(server.remote) as agent:
        agent.converge(desired(publication((swapped,))))
        assert agent.converge(desired(publication((swapped,)))) == 0


@pytest.mark.parametrize(
    ("after", "changes"),
    [
        pytest.param(publication(PODS[:1]), 2, id="endpoints gone"),
        pytest.param(publication((replace(PODS[0], sequence=9), *PODS[1:])), 1, id="moved"),
        pytest.param(publication(blocks=()), 1, id="block given back"),
        pytest.param(publication(addresses=()), 1, id="address given back"),
        pytest.param(publication(of=node("me", "192.0.2.7")), 3, id="other underlay address"),
        pytest.param(publication((), (), ()), 5, id="all pods gone"),
    ],
)
def test_changes(server: DatabaseServer, after: Publication, changes: int) -> None:
    with rig(server.remote) as agent:
        agent.converge(desired(publication()))
        assert agent.converge(desired(after)) == changes
        assert agent.converge(desired(after)) == 0
        assert rows(server) == {after.node, *after.endpoints, *after.blocks, *after.addresses}


def test_others_stay_as_they_are(server: DatabaseServer) -> None:
    theirs: set[FabricEntity] = {
        PEER,
        BLUE,
        endpoint("n2", 50),
        Block("blue", ip_network("10.1.1.0/27"), "n2"),
        Address("blue", ip_address("10.1.9.8"), "default/other/eth0", "n2"),
    }
    write(server, *theirs)
    with rig(server.remote) as agent:
        agent.converge(desired(publication()))
        assert rows(server) == ALL | theirs
        agent.converge(desired(publication((), (), ())))
        assert rows(server) == {ME, *theirs}


@pytest.mark.parametrize("lost", sorted(ALL, key=repr), ids=lambda lost: type(lost).__name__)
def test_what_someone_deleted_is_written_again(server: DatabaseServer, lost: FabricEntity) -> None:
    with rig(server.remote) as agent:
        agent.converge(desired(publication()))
        unwrite(server, lost)
        wait_until(lambda: agent.difference(desired(publication())))
        agent.converge(desired(publication()))
        assert rows(server) == ALL


def test_rows_of_an_earlier_run_are_found_in_segments_nobody_watches(
    server: DatabaseServer,
) -> None:
    left = Block("red", ip_network("10.2.0.0/27"), "me")
    write(server, RED, left, endpoint("me", 70, on="red"))
    with rig(server.remote) as agent:
        agent.converge(desired(publication()))
        assert rows(server) == ALL | {RED}


def test_nothing_of_an_unsynced_segment_is_removed(server: DatabaseServer) -> None:
    write(server, BLUE)
    with rig(server.remote) as agent:
        agent.converge(desired(publication()))
        assert agent.converge(desired(publication((), (), ()), synced=False)) == 0
        assert rows(server) == ALL | {BLUE}
        assert agent.converge(desired(publication((), (), ()))) == 5


def test_without_an_underlay_address_all_stays(server: DatabaseServer) -> None:
    with rig(server.remote) as agent:
        agent.converge(desired(publication()))
        with pytest.raises(TargetError, match="no underlay address yet"):
            agent.converge(desired(None))
        assert rows(server) == ALL


def test_without_the_database(server: DatabaseServer) -> None:
    with rig(server.remote) as agent:
        server.kill()
        wait_until(lambda: agent.database.error is not None)
        with pytest.raises(FabricUnavailableError, match="database Overweave at unix:"):
            agent.converge(desired(publication()))
        server.start()
        agent.database.wait_connected(10)
        assert agent.converge(desired(publication())) == 8


class TestRefusals:
    def test_a_block_of_another_node(self, server: DatabaseServer) -> None:
        theirs = replace(BLOCK, node="n2")
        write(server, theirs)
        with rig(server.remote) as agent:
            with pytest.raises(PartlyRefusedError, match="belongs to node n2") as caught:
                agent.converge(desired(publication()))
            assert {str(about) for about in caught.value.refused} == {"block 10.1.0.0/27 of blue"}
            assert all(isinstance(about, Block) for about in caught.value.refused)
            assert rows(server) == {ME, theirs, STATIC, *PODS}

    def test_a_block_raced_for(self, server: DatabaseServer) -> None:
        """Two agents that saw it free: one gets it, the other is told, and neither is stuck."""
        with rig(server.remote) as one, rig(server.remote, "n2") as two:
            mine = desired(publication((), addresses=()))
            theirs = desired(publication((), (replace(BLOCK, node="n2"),), (), of=PEER))
            change = two.difference(theirs)
            one.converge(mine)
            with pytest.raises(PartlyRefusedError, match=r"block 10\.1\.0\.0/27 of blue"):
                two.target.apply(change)
            assert rows(server) == {ME, PEER, BLOCK}

    def test_an_address_of_another_workload(self, server: DatabaseServer) -> None:
        theirs = replace(STATIC, identity="default/other/eth0", node="n2")
        write(server, theirs)
        with rig(server.remote) as agent:
            with pytest.raises(PartlyRefusedError, match="belongs to default/other/eth0 at n2"):
                agent.converge(desired(publication()))
            assert rows(server) == {ME, BLOCK, theirs, *PODS}

    def test_an_address_moves_with_its_workload(self, server: DatabaseServer) -> None:
        with rig(server.remote, "n2") as former, rig(server.remote) as agent:
            here = desired(publication((), (), (replace(STATIC, node="n2"),), of=PEER))
            former.converge(here)
            wait_until(lambda: agent.database.rows("Address"))
            agent.converge(desired(publication()))
            assert STATIC in rows(server)
            wait_until(lambda: former.difference(here))
            gone = desired(publication((), (), (), of=PEER))
            assert former.converge(gone) == 0
            assert STATIC in rows(server)

    def test_the_former_node_cannot_remove_what_has_moved(self, server: DatabaseServer) -> None:
        """Though it has not yet heard of the move when it decides."""
        with (
            rig(server.remote, "n2") as former,
            rig(server.remote) as agent,
            ThreadPoolExecutor(1) as pool,
        ):
            former.converge(desired(publication((), (), (replace(STATIC, node="n2"),), of=PEER)))
            wait_until(lambda: agent.database.rows("Address"))
            removal = former.difference(desired(publication((), (), (), of=PEER)))
            with former.database._connection.lock:  # it hears nothing meanwhile
                agent.converge(desired(publication()))
                applied = pool.submit(former.target.apply, removal)
                time.sleep(0.3)
            with pytest.raises(PartlyRefusedError, match="node is 'me' and not 'n2'"):
                applied.result(20)
            assert STATIC in rows(server)

    def test_a_vtep_of_another_node(self, server: DatabaseServer) -> None:
        write(server, replace(PEER, vteps=ME.vteps[:1]))
        with rig(server.remote) as agent:
            with pytest.raises(PartlyRefusedError, match=r"vtep 192\.0\.2\.1.*belongs to node n2"):
                agent.converge(desired(publication()))
            assert set(PODS) <= rows(server)

    def test_one_bad_endpoint_does_not_block_the_others(self, server: DatabaseServer) -> None:
        bad = replace(PODS[1], ifname="sixteen-characters")
        with rig(server.remote) as agent:
            with pytest.raises(PartlyRefusedError, match=r"Endpoint\.ifname") as caught:
                agent.converge(desired(publication((PODS[0], bad, PODS[2]))))
            assert caught.value.refused.keys() == {AttachmentKey("pod1", "sixteen-characters")}
            assert rows(server) == ALL - {PODS[1]}

    def test_a_static_node_of_our_name(self, server: DatabaseServer) -> None:
        theirs = node("me", "192.0.2.9", static=True)
        write(server, theirs, endpoint("me", 90))
        with rig(server.remote) as agent:
            with pytest.raises(TargetError, match="static node named me"):
                agent.converge(desired(publication()))
            assert rows(server) == {theirs, endpoint("me", 90)}


def test_a_thousand_endpoints(server: DatabaseServer) -> None:
    many = tuple(endpoint("me", number) for number in range(1000))
    with rig(server.remote) as agent:
        assert agent.converge(desired(publication(many))) == 1005
        assert agent.converge(desired(publication(many))) == 0


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


def test_with_the_rights_of_a_node_only(tmp_path: Path, pki: Pki) -> None:
    """Over TLS, with the role node: all we write is allowed; another node's name is not."""
    schema.create_database(tmp_path / "conf.db")
    schema.set_listeners(
        tmp_path / "conf.db", ["pssl:0:127.0.0.1"], schema.Tls(**pki.node("server"))
    )
    tls = Tls(**pki.node("me"))
    with RunningServer(tmp_path, list(schema.SERVER_ARGUMENTS)) as running:
        with FabricStore(running.unix) as store:
            store.write(upserts=[BLUE, replace(STATIC, node="n2")])
        with rig(running.tls, tls=tls) as agent:
            assert agent.converge(desired(publication())) == 8
            moved = (replace(PODS[0], sequence=9), *PODS[1:])
            after = publication(moved, of=node("me", "192.0.2.7"))
            assert agent.converge(desired(after)) == 4
            assert agent.converge(desired(after)) == 0
            liar = FabricTarget(agent.database, "n2")
            forged = diff(liar.render(desired(publication(of=PEER)), Bindings()), {})
            with pytest.raises(PartlyRefusedError, match="permission error"):
                liar.apply(forged)
        with FabricStore(running.unix) as store:
            written = {e for e in store.read() if not isinstance(e, Fabric | Segment)}
        assert written == {node("me", "192.0.2.7"), BLOCK, STATIC, *moved}
