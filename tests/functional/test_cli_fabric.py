"""``overweave fabric run``, ``apply``, ``delete`` and ``get`` as processes, on a real database."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from dataplane.core.model import Block, Condition, Device, Node, Side, TableUse
from dataplane.fabric.store import FabricStore
from tests.unit.fabric_builders import segment

OVERWEAVE = [sys.executable, "-m", "dataplane.cli.main"]
INTENT = """
kind: Segment
name: blue
vni: 7
subnets: [10.0.0.0/20, "fd00::/112"]
static_ranges: [10.0.0.0/24]
---
kind: Grant
segment: blue
node: far
---
kind: Node
name: far
vteps: [192.0.2.9]
endpoints:
- {segment: blue, mac: "02:00:00:00:00:99", ips: [10.0.0.99]}
"""


class Fabric:
    """``overweave fabric run`` in the foreground, and commands that are told where it is."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        self.directory = directory
        self.remote = f"unix:{directory}/db.sock"
        self.log = directory.with_name("fabric.log")
        command = [*OVERWEAVE, "fabric", "run", "--dir", str(directory), *arguments]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def wait(self) -> None:
        deadline = time.monotonic() + 30
        while not (self.directory / "db.sock").exists():
            assert self.process.poll() is None, self.log.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, self.log.read_text(encoding="utf-8")
            time.sleep(0.02)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)

    def __call__(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*OVERWEAVE, *arguments],
            env={**os.environ, "OVERWEAVE_FABRIC": self.remote},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def rows(self, kind: str) -> list[dict[str, Any]]:
        run = self("get", kind, "-o", "json")
        assert run.returncode == 0, run.stderr
        found: list[dict[str, Any]] = json.loads(run.stdout)
        return found


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    running = Fabric(tmp_path / "db")
    running.wait()
    yield running
    running.stop()


def test_apply_get_and_delete(fabric: Fabric, tmp_path: Path) -> None:
    file = tmp_path / "net.yaml"
    file.write_text(INTENT, encoding="utf-8")

    dry = fabric("apply", "-f", str(file), "--dry-run")
    assert dry.stdout.startswith("5 objects would change\n+ Segment blue (vni 7, ")
    assert fabric.rows("segment") == []

    first = fabric("apply", "-f", str(file))
    assert first.stdout.startswith("5 objects changed\n+ Segment blue (vni 7, ")
    again = fabric("apply", "-f", "-", stdin=INTENT)
    assert (again.returncode, again.stdout, again.stderr) == (0, "nothing to do\n", "")

    (segment,) = fabric.rows("segment")
    assert (segment["vni"], segment["endpoints"], segment["grants"]) == (7, 1, 1)
    (node,) = fabric.rows("node")
    assert (node["name"], node["static"], node["segments"]) == ("far", True, ["blue"])
    (endpoint,) = fabric.rows("endpoint")
    assert (endpoint["vtep"], endpoint["ips"]) == ("192.0.2.9", ["10.0.0.99"])
    table = fabric("get", "endpoint", "10.0.0.99").stdout.splitlines()
    assert table[0].split() == ["IDENTITY", "SEGMENT", "NODE", "MAC", "IPS", "LEARNED"]
    assert len(table) == 2
    assert fabric("get", "endpoint", "10.0.0.98").returncode == 1

    changed = fabric("apply", "-f", "-", stdin=INTENT.replace("vni: 7", "vni: 7\nguard: off"))
    assert changed.stdout.splitlines()[1] == "~ Segment blue: guard ip -> off"

    used = fabric("delete", "segment", "blue")
    assert (used.returncode, "has endpoints (far/blue/02:" in used.stderr) == (2, True)
    assert fabric("delete", "node", "far").stdout.startswith("3 objects changed\n- Node far\n")
    assert fabric("delete", "segment", "blue").stdout.startswith("2 objects changed\n")
    assert fabric.rows("node") == fabric.rows("segment") == fabric.rows("endpoint") == []


def test_a_faulty_file_changes_nothing(fabric: Fabric) -> None:
    assert fabric("apply", "-f", "-", stdin=INTENT).returncode == 0
    before = fabric.rows("segment")
    faulty = "kind: Segment\nname: red\nvni: 7\n---\nkind: Segment\nname: good\nvni: 8\nmtu: 1\n"
    run = fabric("apply", "-f", "-", stdin=faulty)
    assert run.returncode == 2
    told = "overweave: <stdin>, document"
    assert run.stderr.splitlines() == [
        f"{told} 1 (Segment red), line 3: vni 7 is already used by segment blue",
        f"{told} 2 (Segment good), line 8: mtu 1: input should be greater than or equal to 68",
    ]
    assert fabric.rows("segment") == before


def test_a_dead_node_is_freed(fabric: Fabric) -> None:
    block = Block("blue", ip_network("10.0.1.0/27"), "n1")
    with FabricStore(fabric.remote) as store:
        store.write(upserts=(Node("n1", (ip_address("192.0.2.1"),)), block))
    refused = fabric("delete", "node", "n1")
    assert (refused.returncode, "overweave node delete n1" in refused.stderr) == (2, True)
    freed = fabric("node", "delete", "n1")
    assert freed.stdout.splitlines()[:3] == [
        "2 objects changed",
        "- Node n1",
        "- Block 10.0.1.0/27 of blue",
    ]
    with FabricStore(fabric.remote) as store:
        store.write(upserts=(Node("n2", (ip_address("192.0.2.1"),)),))  # its VTEP is free again


def test_the_database_survives_its_server(tmp_path: Path) -> None:
    running = Fabric(tmp_path / "db")
    running.wait()
    assert running("apply", "-f", "-", stdin=INTENT).returncode == 0
    running.process.kill()
    running.process.wait(10)
    away = running("get", "node")
    assert away.returncode == 3
    assert away.stderr.startswith(f"overweave: database Overweave at unix:{tmp_path}/db/db.sock: ")
    again = Fabric(tmp_path / "db")
    again.wait()
    assert [row["name"] for row in again.rows("segment")] == ["blue"]
    twice = running("fabric", "run", "--dir", str(tmp_path / "db"))
    assert (twice.returncode, "is served already" in twice.stderr) == (1, True)
    again.stop()
    assert again.process.returncode in {0, -signal.SIGTERM}


HALF = Device(
    *("intel-ipu-dpu", "intel-ipu", "intel", "Intel IPU E2100", Side.DPU, "d1"),
    ready=True,
    conditions=(Condition("Ready", holds=True, reason="so", since=1_800_000_000),),
    tables=(TableUse("forward", 12, 1024),),
)


def test_watching_dpus(tmp_path: Path) -> None:
    """Each that changes is printed anew, whatever the database does meanwhile."""
    fabric = Fabric(tmp_path / "db")
    fabric.wait()
    out, err = tmp_path / "out", tmp_path / "err"
    command = [*OVERWEAVE, "get", "dpu", "-w", "--fabric", fabric.remote]
    with out.open("w") as stdout, err.open("w") as stderr:
        watching = subprocess.Popen(command, stdout=stdout, stderr=stderr)

    def told(file: Path, *words: str) -> None:
        deadline = time.monotonic() + 30
        while not all(word in file.read_text(encoding="utf-8") for word in words):
            assert watching.poll() is None, err.read_text(encoding="utf-8")
            assert time.monotonic() < deadline, file.read_text(encoding="utf-8")
            time.sleep(0.02)

    half = replace(HALF, told_at=int(time.time()))
    twin, ill = replace(half, node="d2"), replace(half, ready=False)
    try:
        told(err, "no dpus")
        with FabricStore(fabric.remote) as store:
            store.write(upserts=(half,))
            told(out, "d1          True")
            store.write(upserts=(twin,))
            told(out, "d2          True")
            store.write(upserts=(replace(half, told_at=half.told_at + 1), segment("blue", 1)))
            store.write(upserts=(ill,))
            told(out, "d1          False")
        fabric.stop()
        told(err, "database Overweave at", "what was told last stands")
        fabric = Fabric(tmp_path / "db")
        fabric.wait()
        with FabricStore(fabric.remote) as store:
            store.write(deletes=(twin,))
        told(err, "dpu intel-ipu-dpu of node d2 is gone")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 130
    finally:
        watching.kill()
        watching.wait()
        fabric.stop()
    lines = out.read_text(encoding="utf-8").splitlines()
    assert [line.split()[-2:] for line in lines if not line.startswith("NAME")] == [
        ["d1", "True"],
        ["d2", "True"],
        ["d1", "False"],
    ]
    assert err.read_text(encoding="utf-8").count("what was told last stands") == 1


def test_faults_of_a_file_are_told_without_a_database(tmp_path: Path) -> None:
    nowhere = ["--fabric", f"unix:{tmp_path}/none.sock"]
    file = tmp_path / "net.yaml"
    file.write_text("kind: Segment\nname: red\n", encoding="utf-8")
    run = subprocess.run(
        [*OVERWEAVE, "apply", "-f", str(file), *nowhere],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (run.returncode, "vni is missing" in run.stderr) == (2, True)


def test_tcp_is_told_as_not_authenticated(tmp_path: Path) -> None:
    running = Fabric(tmp_path / "db", "--listen", "ptcp:16649:127.0.0.1")
    running.wait()
    assert "ptcp:16649:127.0.0.1: not authenticated" in running.log.read_text(encoding="utf-8")
    assert running("get", "node", "--fabric", "tcp:127.0.0.1:16649").returncode == 0
    running.stop()
