"""Who may write what through a pssl listener: real certificates, a real server, hostile writes."""

import json
import re
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Self

import pytest

from dataplane.core.errors import OverweaveError
from dataplane.core.model import Block, Hardware, Pin, Segment, Vni
from dataplane.fabric import SCHEMA, schema
from dataplane.fabric.networks import StoredNetworks
from dataplane.fabric.schema import Tls
from dataplane.fabric.store import FabricStore
from dataplane.pki.certificates import read_certificate, split
from ovs_client.daemons import find_program
from ovs_client.database import Tls as ClientTls
from tests.functional.certificates import DAY, NOW, Files, Pki, put
from tests.functional.fabric_support import wait_until

Operation = dict[str, Any]
Result = list[dict[str, Any]]
DENIED = "permission error"


def insert(table: str, **row: object) -> Operation:
    return {"op": "insert", "table": table, "row": row}


def update(table: str, where: list[Any], **row: object) -> Operation:
    return {"op": "update", "table": table, "where": where, "row": row}


def mutate(table: str, where: list[Any], *mutations: list[Any]) -> Operation:
    return {"op": "mutate", "table": table, "where": where, "mutations": mutations}


def delete(table: str, *where: list[Any]) -> Operation:
    return {"op": "delete", "table": table, "where": list(where)}


def is_(column: str, value: object) -> list[Any]:
    return [column, "==", value]


def endpoint(node: str, container: str = "c1", **more: object) -> Operation:
    row = {
        "node": node,
        "segment": "blue",
        "mac": "02:00:00:00:00:01",
        "ips": "10.0.0.1",
        "identity": f"default/{container}/eth0",
        "sequence": 0,
        "container_id": container,
        "ifname": "eth0",
    }
    return insert("Endpoint", **{**row, **more})


def segment(name: str, vni: int) -> Operation:
    enums = {
        "encap": "geneve",
        "underlay": "ipv4",
        "guard": "ip",
        "unknown_unicast": "drop",
    }
    return insert("Segment", name=name, vni=vni, **enums)


def client(remote: str, operations: list[Operation], tls: Tls | None) -> str:
    command = [find_program("ovsdb-client"), "--timeout=10", "transact"]
    if tls:
        command += ["-p", str(tls.private_key), "-c", str(tls.certificate), "-C", str(tls.ca_cert)]
    transaction = json.dumps([schema.NAME, *operations])
    run = subprocess.run(
        [*command, remote, transaction], capture_output=True, text=True, check=False
    )
    return run.stdout or f"exit {run.returncode}: {run.stderr}"


@dataclass(frozen=True)
class Server:
    """A running database with an administrator's unix socket and a TLS port for nodes."""

    unix: str
    tls: str
    nodes: dict[str, Tls]

    def as_admin(self, *operations: Operation) -> Result:
        return self._asked(client(self.unix, list(operations), None))

    def as_node(self, name: str, *operations: Operation) -> Result:
        return self._asked(client(self.tls, list(operations), self.nodes[name]))

    def rows(self, table: str) -> list[dict[str, Any]]:
        select = {"op": "select", "table": table, "where": []}
        rows = self.as_admin(select)[0]["rows"]
        unnamed = {"_uuid", "_version", "is_connected", "status"}
        return [{k: v for k, v in row.items() if k not in unnamed} for row in rows]

    def everything(self) -> dict[str, list[dict[str, Any]]]:
        tables = json.loads(SCHEMA.read_text(encoding="utf-8"))["tables"]
        return {table: sorted(self.rows(table), key=str) for table in tables}

    @staticmethod
    def _asked(output: str) -> Result:
        try:
            answer: Result = json.loads(output)
        except ValueError:
            pytest.fail(f"no answer of the database: {output}")
        return answer


class RunningServer:
    """ovsdb-server as our child, with one TLS port that the kernel chose."""

    def __init__(self, directory: Path, arguments: list[str]) -> None:
        self._socket = directory / "db.sock"
        self._log = directory / "log"
        command = [find_program("ovsdb-server"), str(directory / "conf.db"), *arguments]
        command += [f"--remote=punix:{self._socket}", f"--unixctl={directory / 'ctl'}"]
        self._process = subprocess.Popen([*command, f"--log-file={self._log}", "-vconsole:off"])

    def __enter__(self) -> Self:
        deadline = time.monotonic() + 20
        while not self._serves():
            assert time.monotonic() < deadline, self._log.read_text(encoding="utf-8")
            time.sleep(0.02)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(10)

    @property
    def unix(self) -> str:
        return f"unix:{self._socket}"

    @property
    def tls(self) -> str:
        ports = re.findall(r"listening on port (\d+)", self._log.read_text(encoding="utf-8"))
        return f"ssl:127.0.0.1:{ports[0]}"

    def _serves(self) -> bool:
        log = self._log.read_text(encoding="utf-8") if self._log.exists() else ""
        return "listening on port" in log and self._socket.exists()


NODES = ("node1", "node2")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture(scope="module")
def server(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("db")
    database = directory / "conf.db"
    schema.create_database(database)
    schema.set_listeners(database, ["pssl:0:127.0.0.1"], Tls(**pki.node("server")))
    with RunningServer(directory, [*schema.SERVER_ARGUMENTS]) as running:
        nodes = {name: Tls(**pki.node(name)) for name in NODES}
        server = Server(running.unix, running.tls, nodes)
        seed(server)
        yield server


def seed(server: Server) -> None:
    """Let the administrator and two nodes own something each."""
    enums = [segment("blue", 1), insert("Grant", segment="red", node="node2")]
    enums += [insert("Pin", segment="blue", endpoint="web/2/eth0", hardware="always")]
    enums += [
        insert("Vrf", name="shop"),
        insert("Svi", name="blue", vrf="shop", segment="blue", mac="02:00:5e:00:01:02"),
    ]
    assert errors(server.as_admin(*enums)) == []
    for number, name in enumerate(NODES, start=1):
        own = [
            insert("Node", name=name, static=False),
            insert("Vtep", address=f"192.0.2.{number}", node=name),
            insert("Block", segment="blue", prefix=f"10.0.{number}.0/27", node=name),
            insert("Device", name="dpu0", side="dpu", node=name, ready=True),
            insert(
                "Address", segment="blue", ip=f"10.0.9.{number}", identity=f"web/{name}", node=name
            ),
            endpoint(name, mac=f"02:00:00:00:00:0{number}", ips=f"10.0.{number}.1"),
        ]
        assert errors(server.as_node(name, *own)) == []


def errors(results: Result) -> list[str]:
    return [result["error"] for result in results if result and "error" in result]


OTHER = is_("node", "node2")
MINE = is_("node", "node1")
ENDPOINT = "Endpoint"

HOSTILE = [
    pytest.param([insert("Node", name="node3", static=False)], id="a node of another name"),
    pytest.param([delete("Node", is_("name", "node2"))], id="delete another node"),
    pytest.param([delete("Node")], id="delete all nodes"),
    pytest.param([update("Node", [], static=True)], id="make nodes static"),
    pytest.param([update("Node", [is_("name", "node1")], name="node9")], id="rename itself"),
    pytest.param(
        [insert("Vtep", address="192.0.2.9", node="node2")], id="a tunnel address for another"
    ),
    pytest.param([update("Vtep", [OTHER], address="192.0.2.66")], id="redirect another's tunnels"),
    pytest.param([update("Vtep", [OTHER], node="node1")], id="take another's tunnel address"),
    pytest.param([update("Vtep", [MINE], address="192.0.2.66")], id="move its own tunnel address"),
    pytest.param([delete("Vtep", OTHER)], id="delete another's tunnel address"),
    pytest.param([endpoint("node2", "c9")], id="an endpoint in another's name"),
    pytest.param([update(ENDPOINT, [OTHER], mac="02:00:00:00:00:66")], id="change another's MAC"),
    pytest.param([update(ENDPOINT, [OTHER], sequence=99)], id="raise another's sequence"),
    pytest.param([update(ENDPOINT, [OTHER], moves=1)], id="count another's moves anew"),
    pytest.param([update(ENDPOINT, [OTHER], node="node1")], id="take another's endpoint"),
    pytest.param([update(ENDPOINT, [MINE], node="node2")], id="give its endpoint to another"),
    pytest.param([update(ENDPOINT, [MINE], container_id="x")], id="update an unlisted column"),
    pytest.param(
        [mutate(ENDPOINT, [OTHER], ["ips", "insert", "10.0.0.66"])], id="add to another's addresses"
    ),
    pytest.param([mutate(ENDPOINT, [], ["sequence", "+=", 1])], id="raise every sequence"),
    pytest.param([delete(ENDPOINT, OTHER)], id="delete another's endpoint"),
    pytest.param([delete(ENDPOINT)], id="delete all endpoints"),
    pytest.param(
        [insert("Block", segment="blue", prefix="10.0.8.0/27", node="node2")],
        id="a block for another",
    ),
    pytest.param([delete("Block", OTHER)], id="free another's block"),
    pytest.param([update("Block", [OTHER], node="node1")], id="take another's block"),
    pytest.param(
        [insert("Device", name="d", side="dpu", node="node2", ready=True)], id="another's device"
    ),
    pytest.param([update("Device", [OTHER], ready=False)], id="fail another's device"),
    pytest.param([update("Device", [MINE], side="host")], id="turn its device round"),
    pytest.param([update("Device", [MINE], serial="2")], id="take another serial"),
    pytest.param([segment("evil", 666)], id="a segment"),
    pytest.param([update("Segment", [], guard="off")], id="switch guards off"),
    pytest.param([mutate("Segment", [], ["subnets", "insert", "10.9.0.0/24"])], id="add a subnet"),
    pytest.param([delete("Segment")], id="delete segments"),
    pytest.param([insert("Grant", segment="blue", node="node1")], id="grant itself something"),
    pytest.param([update("Grant", [], node="node1")], id="take a grant"),
    pytest.param([delete("Grant")], id="delete grants"),
    pytest.param(
        [insert("Pin", segment="blue", endpoint="web/1/eth0", hardware="always")],
        id="pin its own endpoint",
    ),
    pytest.param([update("Pin", [], hardware="never")], id="turn a pin round"),
    pytest.param([insert("Vrf", name="own")], id="make a Vrf"),
    pytest.param(
        [insert("Svi", name="own", vrf="shop", segment="red", mac="02:00:5e:00:01:01")],
        id="make itself a gateway",
    ),
    pytest.param([delete("Svi")], id="delete gateways"),
    pytest.param([update("Pin", [], endpoint="web/1/eth0")], id="take a pin"),
    pytest.param([delete("Pin")], id="delete pins"),
    pytest.param([update("Fabric", [], geneve_port=1)], id="move the tunnels' port"),
    pytest.param([update("Fabric", [], connections=["set", []])], id="close the listeners"),
    pytest.param([delete("Fabric")], id="delete the fabric"),
    pytest.param([update("Connection", [], role="")], id="drop its role"),
    pytest.param([insert("Connection", target="ptcp:0", role="")], id="an open listener"),
    pytest.param([update("SSL", [], ca_cert="/evil")], id="another authority"),
    pytest.param([update("RBAC_Role", [], permissions=["map", []])], id="empty the role"),
    pytest.param([update("RBAC_Permission", [], authorization="")], id="own every row"),
    pytest.param(
        [mutate("RBAC_Permission", [], ["update", "insert", "node"])], id="more columns to update"
    ),
    pytest.param([delete("RBAC_Permission")], id="delete permissions"),
    pytest.param(
        [update("Address", [OTHER], identity="web/node1")], id="rebind a static address in place"
    ),
    pytest.param(
        [endpoint("node1", "c8"), delete("Vtep", OTHER)], id="hidden behind a write of its own"
    ),
]


def test_there_are_enough_hostile_writes() -> None:
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize("operations", HOSTILE)
def test_a_node_is_refused(server: Server, operations: list[Operation]) -> None:
    before = server.everything()
    assert errors(server.as_node("node1", *operations)) == [DENIED]
    assert server.everything() == before


OWN = [
    pytest.param(
        [endpoint("node1", "c2", mac="02:00:00:00:00:02")],
        [delete(ENDPOINT, is_("container_id", "c2"))],
        id="endpoint",
    ),
    pytest.param(
        [
            update(
                ENDPOINT,
                [MINE],
                segment="red",
                mac="02:00:00:00:00:07",
                ips=["set", ["10.0.1.7", "fd00::7"]],
                identity="web/2",
                sequence=7,
                moves=["set", [1_800_000_000, 1_800_000_009]],
            )
        ],
        [],
        id="every column of an endpoint that changes",
    ),
    pytest.param(
        [insert("Vtep", address="2001:db8::1", node="node1")],
        [delete("Vtep", is_("address", "2001:db8::1"))],
        id="a tunnel address",
    ),
    pytest.param(
        [insert("Block", segment="blue", prefix="fd00::/120", node="node1")],
        [delete("Block", is_("prefix", "fd00::/120"))],
        id="a block",
    ),
    pytest.param(
        [
            update(
                "Device",
                [MINE],
                product="p",
                vendor="v",
                ready=False,
                emulated=True,
                conditions=["map", [["Ready", "no"]]],
            )
        ],
        [],
        id="every column of a device that changes",
    ),
    pytest.param(
        [insert("Address", segment="blue", ip="10.0.9.50", identity="web/5", node="node1")],
        [delete("Address", is_("ip", "10.0.9.50"))],
        id="a static address",
    ),
    pytest.param(
        [update("Address", [is_("ip", "10.0.9.2")], node="node1")],
        [],
        id="the address of a workload that moved here",
    ),
    pytest.param([delete("Node", is_("name", "node1"))], [], id="its own node row"),
]


@pytest.mark.parametrize(("operations", "back"), OWN)
def test_a_node_may_write_its_own(
    server: Server, operations: list[Operation], back: list[Operation]
) -> None:
    before = server.everything()
    results = server.as_node("node1", *operations)
    assert errors(results) == []
    assert server.everything() != before
    if back:
        assert errors(server.as_node("node1", *back)) == []


@pytest.mark.parametrize(
    "operation",
    [
        pytest.param(
            insert("Vtep", address="192.0.2.2", node="node1"), id="another's tunnel address"
        ),
        pytest.param(
            insert("Block", segment="blue", prefix="10.0.2.0/27", node="node1"), id="its block"
        ),
        pytest.param(
            insert("Address", segment="blue", ip="10.0.9.2", identity="x", node="node1"),
            id="its static address",
        ),
    ],
)
def test_what_is_taken_is_refused_by_the_index(server: Server, operation: Operation) -> None:
    assert errors(server.as_node("node1", operation)) == ["constraint violation"]


def test_any_node_may_free_and_take_a_static_address(server: Server) -> None:
    # The price of addresses that move with their workload: Grants limit who may use them.
    row = {"segment": "blue", "ip": "10.0.9.99", "identity": "web/owner", "node": "node2"}
    assert errors(server.as_node("node2", insert("Address", **row))) == []
    stolen = [
        delete("Address", is_("ip", "10.0.9.99")),
        insert("Address", **{**row, "identity": "thief"}),
    ]
    assert errors(server.as_node("node1", *stolen)) == []


def test_our_own_client_is_held_to_it(server: Server) -> None:
    files = server.nodes["node2"]
    tls = ClientTls(files.private_key, files.certificate, files.ca_cert)
    with FabricStore(server.tls, tls) as store:
        assert {Segment, Pin} <= {type(row) for row in store.read()}
        store.write(upserts=(Block("blue", ip_network("10.0.2.32/27"), "node2"),))
        for foreign in (
            Block("blue", ip_network("10.0.3.0/27"), "node1"),
            Segment("evil", Vni(666)),
            Pin("blue", "web/2/eth0", Hardware.NEVER),
        ):
            with pytest.raises(OverweaveError, match="permission error"):
                store.write(upserts=(foreign,))
    with pytest.raises(OverweaveError, match="permission error"):
        StoredNetworks(server.tls, tls).write(Segment("evil", Vni(666)), None)


@pytest.mark.parametrize(
    "who",
    [
        pytest.param(lambda pki: pki.stranger("node2"), id="other authority"),
        pytest.param(lambda pki: pki.node("node2", "old", when=NOW - 20 * DAY), id="expired"),
        pytest.param(lambda pki: pki.node("node2", "new", when=NOW + 5 * DAY), id="not valid yet"),
        pytest.param(None, id="no TLS at all"),
    ],
)
def test_a_stranger_gets_no_answer(
    server: Server, pki: Pki, who: Callable[[Pki], Files] | None
) -> None:
    forged = endpoint("node2", "stranger")
    if who is None:
        said = client(server.tls.replace("ssl", "tcp"), [forged], None)
    else:
        said = client(server.tls, [forged], Tls(**who(pki)))
    assert said.startswith("exit"), said
    assert not [row for row in server.rows(ENDPOINT) if row["container_id"] == "stranger"]


def test_new_certificates_are_taken_without_a_restart(server: Server, pki: Pki) -> None:
    """The server's and a node's, then the authority's; at each moment both know each other."""

    def writes() -> bool:
        own = update(ENDPOINT, [MINE], sequence=1)
        said = client(server.tls, [own], server.nodes["node1"])
        assert not said.startswith("exit"), said
        return errors(json.loads(said)) == []

    def shown() -> int:
        """Return the serial of what the server shows."""
        node = server.nodes["node1"]
        context = ssl.create_default_context(cafile=node.ca_cert)
        context.check_hostname = False
        context.load_cert_chain(node.certificate, node.private_key)
        host, _, port = server.tls.removeprefix("ssl:").rpartition(":")
        plain = socket.create_connection((host, int(port)), 5)
        with plain, context.wrap_socket(plain) as wrapped:
            pem = ssl.DER_cert_to_PEM_cert(wrapped.getpeercert(binary_form=True) or b"")
        return read_certificate(pem.encode()).serial

    def takes(name: str) -> bool:
        return shown() == read_certificate(pki.files(name)["certificate"].read_bytes()).serial

    def renew(name: str) -> None:
        pki.node(name)
        wait_until(lambda: writes() and takes("server"))

    before = shown()
    for name in ("server", "node1"):
        renew(name)
    pki.authority.rotate(NOW, 100)
    for name in ("server", "node1"):
        pki.trust(pki.files(name))
        assert writes()
    for name in ("server", "node1"):
        renew(name)
    newest = split(pki.authority.bundle.read_bytes())[0]
    for name in ("node1", "server"):
        put(pki.files(name)["ca_cert"], newest)
        assert writes()
    assert shown() != before
    wait_until(lambda: client(server.tls, [], server.nodes["node2"]).startswith("exit"))
    for name in NODES:  # for the tests to come
        pki.node(name)


def test_a_bare_pssl_remote_knows_no_role(pki: Pki, tmp_path: Path) -> None:
    """The trap that listeners as rows avoid: the same certificate writes as another node."""
    schema.create_database(tmp_path / "conf.db")
    tls = Tls(**pki.files("server"))
    bare = ["--remote=pssl:0:127.0.0.1", f"--private-key={tls.private_key}"]
    bare += [f"--certificate={tls.certificate}", f"--ca-cert={tls.ca_cert}"]
    with RunningServer(tmp_path, bare) as running:
        said = client(running.tls, [endpoint("node2")], Tls(**pki.files("node1")))
    assert errors(json.loads(said)) == []
