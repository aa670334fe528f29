"""The command line without a server: help, usage, exit status, tables, and what it finds."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from dataplane.api import agent_pb2 as pb
from dataplane.cli import get, main
from dataplane.cli.find import find_agents, find_fabric
from dataplane.cli.get import endpoint_records, node_records, segment_records
from dataplane.cli.lazy import LazyGroup
from dataplane.cli.output import Format, Listing, show
from dataplane.cli.status import _is_well, _lines
from dataplane.config import EXAMPLE
from dataplane.core.errors import FabricUnavailableError, InvalidValueError, OverweaveError
from dataplane.core.model import (
    Block,
    Endpoint,
    Fabric,
    Grant,
    Hardware,
    Mac,
    Node,
    Pin,
    Segment,
    Vni,
)


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}".strip(), command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}".strip())


EVERY = dict(commands(main.overweave))


@pytest.mark.parametrize("path", EVERY)
def test_every_command_explains_itself(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*path.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: overweave {path}")
    assert EVERY[path].help


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["--help"]) == 0
    out = capsys.readouterr().out
    assert isinstance(main.overweave, LazyGroup)
    assert all(f"  {name} " in out for name in main.overweave.lazy)


def test_help_imports_no_library_of_a_command() -> None:
    heavy = {"grpc", "ovs", "ovsdbapp", "pydantic", "pyroute2", "rich", "structlog", "yaml"}
    code = "import sys; from dataplane.cli.main import run; run(['--help']); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert heavy.isdisjoint(done.stdout.split())


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        pytest.param(["aply"], "No such command 'aply'; see: overweave --help", id="command"),
        pytest.param(["apply"], "Missing option '-f' / '--file'; see: overweave app", id="option"),
        pytest.param(["delete", "pod", "x"], "'pod' is not one of 'segment', 'vrf'", id="kind"),
        pytest.param(["apply", "-f", "/none"], "'/none': No such file", id="no file"),
        pytest.param(["get", "node", "--fabric", "x"], "remote 'x' is not unix:/PATH", id="remote"),
        pytest.param(
            ["get", "node", "--fabric", "ssl:h:1"],
            "needs the installed agent",
            id="ssl without files",
        ),
        pytest.param(["get", "node", "-o", "xml"], "'xml' is not one of 'table'", id="format"),
        pytest.param(["config", "check", "/none"], "/none: No such file", id="no configuration"),
        pytest.param(
            ["fabric", "run", "--listen", "tcp:1"], "--listen 'tcp:1' is not unix", id="listener"
        ),
        pytest.param(
            ["fabric", "run", "--listen", "ptcp:0"], "--listen 'ptcp:0' is not", id="port 0"
        ),
    ],
)
def test_wrong_usage_is_one_sentence_and_status_2(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert err.startswith("overweave: ")
    assert (out, err.count("\n")) == ("", 1)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        pytest.param(OverweaveError("no"), 1, id="failed"),
        pytest.param(InvalidValueError("no"), 2, id="bad input"),
        pytest.param(FabricUnavailableError("no"), 3, id="unreachable"),
        pytest.param(KeyboardInterrupt(), 130, id="interrupted"),
        pytest.param(BrokenPipeError(), 1, id="nobody reads"),
    ],
)
def test_each_kind_of_error_has_its_status(
    error: BaseException, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(main.overweave, "main", fail)
    monkeypatch.setattr("os.dup2", lambda *_: None)
    assert main.run([]) == status


def test_the_example_configuration_passes_the_check(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(["config", "example"]) == 0
    example = capsys.readouterr().out
    assert example == EXAMPLE
    (tmp_path / "agent.yaml").write_text(example, encoding="utf-8")
    assert main.run(["config", "check", str(tmp_path / "agent.yaml")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}/agent.yaml: valid\n")


def test_all_faults_of_a_configuration_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "agent.yaml").write_text("node: N\nfoo: 1\n", encoding="utf-8")
    assert main.run(["config", "check", str(tmp_path / "agent.yaml")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    assert all(line.startswith(f"overweave: {tmp_path}/agent.yaml, line ") for line in lines)


LISTING = Listing("thing", ("name", "ips"), ("up_now",))
RECORDS = [
    {"name": "a[red]", "ips": ["10.0.0.1", "fd00::1"], "up_now": True, "more": None},
    {"name": "b", "ips": [], "up_now": False, "more": 5},
]


@pytest.mark.parametrize(
    ("form", "lines"),
    [
        pytest.param(
            Format.TABLE,
            ["NAME     IPS", "a[red]   10.0.0.1, fd00::1", "b        -"],
            id="table",
        ),
        pytest.param(
            Format.WIDE,
            [
                "NAME     IPS                 UP NOW",
                "a[red]   10.0.0.1, fd00::1   yes",
                "b        -                   no",
            ],
            id="wide",
        ),
    ],
)
def test_tables(form: Format, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    show(RECORDS, LISTING, form)
    assert capsys.readouterr().out.splitlines() == lines


def test_a_long_line_is_not_broken_for_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    show([{"name": "x" * 500, "ips": [], "up_now": True}], LISTING, Format.TABLE)
    assert "x" * 500 in capsys.readouterr().out


@pytest.mark.parametrize(
    ("form", "parse"),
    [
        pytest.param(Format.JSON, json.loads, id="json"),
        pytest.param(Format.YAML, yaml.safe_load, id="yaml"),
    ],
)
def test_programs_get_every_key(
    form: Format, parse: Callable[[str], object], capsys: pytest.CaptureFixture[str]
) -> None:
    show(RECORDS, LISTING, form)
    assert parse(capsys.readouterr().out) == RECORDS
    show([], LISTING, form)
    assert parse(capsys.readouterr().out) == []


def test_an_empty_table_says_so_aside(capsys: pytest.CaptureFixture[str]) -> None:
    show([], LISTING, Format.TABLE)
    assert capsys.readouterr() == ("", "no things\n")


POD = Endpoint(
    segment="blue",
    node="n1",
    mac=Mac("02:00:00:00:00:01"),
    ips=(ip_address("10.0.1.1"),),
    identity="default/web/eth0",
    sequence=3,
    container_id="c1",
    ifname="eth0",
)
ROWS = (
    Fabric(),
    Node("n1", (ip_address("192.0.2.1"), ip_address("2001:db8::1"))),
    Node("n0", ()),
    Segment("blue", Vni(7), subnets=(ip_network("10.0.0.0/20"),)),
    POD,
    Block("blue", ip_network("10.0.1.0/27"), "n1"),
    Grant("blue", "n1"),
    Pin("blue", "default/web/eth0", Hardware.ALWAYS),
)


def test_records_of_the_fabric() -> None:
    none, node = node_records(ROWS)
    assert (none["name"], none["endpoints"], none["vteps"]) == ("n0", 0, [])
    assert (node["segments"], node["endpoints"]) == (["blue"], 1)
    assert node["blocks"] == ["blue/10.0.1.0/27"]
    (segment,) = segment_records(ROWS)
    assert [segment[key] for key in ("nodes", "blocks", "grants", "pins")] == [["n1"], 1, 1, 1]
    (endpoint,) = endpoint_records(ROWS)
    assert (endpoint["vtep"], endpoint["ips"]) == ("192.0.2.1", ["10.0.1.1"])


def test_an_endpoint_of_unknown_node_and_segment_is_listed() -> None:
    assert endpoint_records([POD])[0]["vtep"] is None


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("dataplane.config.INSTALLED_CONFIG", tmp_path / "agent.yaml")
    monkeypatch.setattr("dataplane.lab.layout.LABS", tmp_path / "labs")
    return tmp_path


def lab(machine: Path, name: str, *nodes: str) -> Path:
    directory = machine / "labs" / name
    directory.mkdir(parents=True)
    for node in nodes:
        (directory / node).mkdir()
        (directory / node / "agent.yaml").touch()
    return directory


def install(machine: Path) -> None:
    text = "underlay: {interface: eth0}\nfabric: {remote: 'tcp:192.0.2.9:6640'}\nrun_dir: /r\n"
    (machine / "agent.yaml").write_text(text, encoding="utf-8")


def test_a_fabric_is_found(machine: Path) -> None:
    alpha = lab(machine, "alpha", "n2", "n1")
    assert find_fabric(None).remote == f"unix:{alpha}/fabric/db.sock"
    assert find_agents(()) == (alpha / "n1/run/api.sock", alpha / "n2/run/api.sock")
    install(machine)
    assert find_fabric(None).remote == "tcp:192.0.2.9:6640"
    assert find_agents(()) == (Path("/r/api.sock"),)
    assert find_fabric("unix:/x").remote == "unix:/x"
    assert find_agents((Path("/a"),)) == (Path("/a"),)


def test_an_installed_agent_in_no_fabric_is_asked_which(machine: Path) -> None:
    (machine / "agent.yaml").write_text(
        "underlay: {interface: eth0}\nfabric: none\n"
        "devices: [{serial: '1', vendor: intel, side: host, attachment: 'unix:/a',"
        " vfs: [{device_id: x, netdev: vf0}]}]\n",
        encoding="utf-8",
    )
    for remote in (None, "ssl:192.0.2.1:5"):
        with pytest.raises(InvalidValueError, match=r"--fabric"):
            find_fabric(remote)
    assert find_fabric("tcp:192.0.2.1:5").remote == "tcp:192.0.2.1:5"


def test_no_fabric_and_several_are_told_apart(machine: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"no lab is up and .*; say which with --fabric"):
        find_fabric(None)
    lab(machine, "alpha")
    lab(machine, "beta")
    with pytest.raises(InvalidValueError, match=r"several labs are up \(alpha, beta\).*--fabric"):
        find_fabric(None)
    with pytest.raises(InvalidValueError, match=r"several labs are up \(alpha, beta\).*--agent"):
        find_agents(())


WELL: dict[str, Any] = {
    "agent": "/r/api.sock",
    "unreachable": "",
    "node": "n1",
    "obstacle": "",
    "fabric_connected": True,
    "fabric_error": "",
    "fabric_access": "unix",
    "vteps": ["192.0.2.1"],
    "targets": [{"name": "flows", "generation": "3", "error": "", "pending": [], "overdue_s": 0.0}],
    "problems": [],
    "ports": 2,
    "unpublished": [],
    "blocked": [],
    "modes": {"datapath": "userspace"},
}
TARGET = WELL["targets"][0]
PORT = {"identity": "a", "segment": "blue", "mac": "m", "reason": "superseded", "detail": "by n2"}


@pytest.mark.parametrize(
    ("change", "well", "told"),
    [
        pytest.param({}, True, ["n1: ready: 2 ports", "  datapath: userspace"], id="well"),
        pytest.param(
            {"obstacle": "no NIC"}, False, ["n1: NOT READY: no NIC"], id="an ADD would fail"
        ),
        pytest.param(
            {"fabric_connected": False, "fabric_error": "refused"},
            False,
            ["n1: ready, but not well: 2 ports", "  fabric database: refused"],
            id="database away",
        ),
        pytest.param(
            {"fabric_connected": False, "fabric_access": "none"},
            True,
            ["n1: ready: 2 ports", "  fabric: none"],
            id="in no fabric",
        ),
        pytest.param(
            {"targets": [{**TARGET, "error": "no bridge"}]},
            False,
            ["  target flows: no bridge"],
            id="target fails",
        ),
        pytest.param(
            {"targets": [{**TARGET, "overdue_s": 2.5}]},
            False,
            ["  target flows: 2.5 s over its deadline"],
            id="target hangs",
        ),
        pytest.param({"problems": ["mtu"]}, False, ["  mtu"], id="problem"),
        pytest.param(
            {"blocked": [PORT]},
            True,
            ["  blocked: a on blue (m): superseded by n2"],
            id="superseded endpoint",
        ),
        pytest.param(
            {"unpublished": [PORT]}, True, ["  unpublished: a on blue (m)"], id="unpublished"
        ),
        pytest.param(
            {"unreachable": "no such file"},
            False,
            ["NO ANSWER: no such file", "next: start the agent: overweave agent "],
            id="agent away",
        ),
    ],
)
def test_status_gives_verdict_evidence_and_next(
    change: dict[str, Any], well: object, told: list[str]
) -> None:
    record = {**WELL, **change}
    lines = list(_lines([record], everything=True))
    assert _is_well(record) is well
    assert all(any(line.startswith(part) for line in lines) for part in told), lines
    assert lines[-1].startswith("next: ")


def test_status_of_several_agents_begins_with_the_sum() -> None:
    lines = list(_lines([WELL, {**WELL, "obstacle": "x"}], everything=False))
    assert lines[0] == "1 of 2 agents are ready"


def test_no_fast_path_is_always_said_and_no_ill() -> None:
    why = "no fast path, because bcc is missing"
    record = {**WELL, "modes": {"datapath": "userspace", "fastpath": why}}
    assert _is_well(record)
    assert f"  {why}" in _lines([WELL, record], everything=False)
    assert f"  fastpath: {why}" in _lines([record], everything=True)


def test_tables_know_only_keys_that_records_have() -> None:
    for listing, records in (
        (get.NODES, node_records(ROWS)),
        (get.SEGMENTS, segment_records(ROWS)),
        (get.ENDPOINTS, endpoint_records(ROWS)),
    ):
        assert {*listing.table, *listing.wide} <= records[0].keys()


def test_ports_and_tunnels_name_fields_of_the_service() -> None:
    for listing, message in ((get.PORTS, pb.Port), (get.TUNNELS, pb.Tunnel)):
        assert {*listing.table, *listing.wide} <= {*message.DESCRIPTOR.fields_by_name}
