"""Delegation to IPAM plugins: Debian's host-local, and plugins that misbehave in every way."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from dataplane.contracts import AttachRefusedError, PodRoute
from dataplane.core.model import AttachmentKey
from tests.functional.cni_world import Outcome, World, network_namespace, world

ANSWER = '{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.9/20", "gateway": "10.1.0.1"}]}'


@pytest.fixture(scope="module")
def netns() -> Iterator[str]:
    with network_namespace() as path:
        yield path


@pytest.fixture
def node(tmp_path: Path, netns: str) -> Iterator[World]:
    with world(tmp_path, netns) as made:
        yield made


def ipam(node: World, **changes: object) -> dict[str, object]:
    return node.config(ipam={"type": "fake-ipam", "private": [1, 2]}, **changes)


def write(node: World, body: str, name: str = "fake-ipam") -> None:
    """Write a plugin that notes each verb it is called with, then does ``body`` at ADD."""
    node.write_plugin(
        name,
        f'#!/bin/sh\necho "$CNI_COMMAND" >> "{node.directory}/verbs"\n'
        f'[ "$CNI_COMMAND" = ADD ] || exit 0\n{body}\n',
    )


def verbs(node: World) -> list[str]:
    path = node.directory / "verbs"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def error_of(outcome: Outcome, code: int, *words: str) -> dict[str, Any]:
    assert outcome.status == 1
    document = outcome.document
    assert document["code"] == code, document
    assert all(word in document["msg"] for word in words), document["msg"]
    return document


# --- a plugin that behaves -------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_debians_host_local(node: World, version: str) -> None:
    store = node.directory / "store"
    config = node.config(
        cniVersion=version,
        ipam={
            "type": "host-local",
            "dataDir": str(store),
            "ranges": [[{"subnet": "10.1.0.0/20"}], [{"subnet": "fd00:1::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    )
    added = node.run("ADD", config)
    assert added.status == 0, added.stdout
    assert [ip["address"] for ip in added.document["ips"]] == ["10.1.0.2/20", "fd00:1::2/64"]
    assert node.attachments.keys() == (AttachmentKey("c1", "eth0"),)
    assert node.wiring.links[node.netns, "eth0"] == (
        PodRoute(ip_network("0.0.0.0/0"), ip_address("10.1.0.1")),
        PodRoute(ip_network("::/0"), ip_address("fd00:1::1")),
    )
    leases = store / "pods"
    assert (leases / "10.1.0.2").exists()
    if version != "0.3.1":
        assert node.run("CHECK", {**config, "prevResult": added.document}).status == 0
        (leases / "10.1.0.2").unlink()
        (leases / "fd00:1::2").unlink()
        error_of(node.run("CHECK", {**config, "prevResult": added.document}), 999, "host-local")
    assert node.run("DEL", config).status == 0
    assert node.run("DEL", config).status == 0
    assert [path.name for path in leases.iterdir() if path.name[0].isdigit()] == []
    node.assert_nothing_left()


def test_an_address_asked_for_goes_through_the_plugin(node: World) -> None:
    config = node.config(
        cniVersion="1.0.0",
        runtimeConfig={"ips": ["10.1.7.7/20"]},
        ipam={
            "type": "host-local",
            "dataDir": str(node.directory / "store"),
            "ranges": [[{"subnet": "10.1.0.0/20"}]],
        },
    )
    assert node.run("ADD", config).document["ips"][0]["address"] == "10.1.7.7/20"
    write(node, f"echo '{ANSWER}'")
    deaf = ipam(node, runtimeConfig={"ips": ["10.1.7.8"]})
    error_of(node.run("ADD", deaf, CNI_CONTAINERID="c2"), 104, "10.1.7.8", "fake-ipam")
    assert verbs(node) == ["ADD", "DEL"]


def test_the_plugin_gets_the_environment_and_the_configuration_byte_for_byte(node: World) -> None:
    node.write_plugin(
        "fake-ipam",
        f'#!/bin/sh\ncat > "{node.directory}/stdin-$CNI_COMMAND"\n'
        f"env > \"{node.directory}/env-$CNI_COMMAND\"\necho '{ANSWER}'\n",
    )
    stdin = json.dumps(ipam(node, zoë="ünïcode"), indent=3, ensure_ascii=False).encode()
    extra = {"CNI_ARGS": "IgnoreUnknown=1;FOO=BAR", "HTTP_PROXY": "http://proxy"}
    assert node.run("ADD", stdin, **extra).status == 0
    assert node.run("DEL", stdin, **extra, CNI_NETNS=None).status == 0
    for verb in ("ADD", "DEL"):
        assert (node.directory / f"stdin-{verb}").read_bytes() == stdin
        environment = (node.directory / f"env-{verb}").read_text(encoding="utf-8").splitlines()
        assert f"CNI_COMMAND={verb}" in environment
        assert "CNI_ARGS=IgnoreUnknown=1;FOO=BAR" in environment
        assert "HTTP_PROXY=http://proxy" in environment
        assert "CNI_CONTAINERID=c1" in environment


def test_every_verb_is_forwarded(node: World) -> None:
    write(node, f"echo '{ANSWER}'")
    added = node.run("ADD", ipam(node))
    assert added.document["ips"] == [
        {"address": "10.1.0.9/20", "gateway": "10.1.0.1", "interface": 1}
    ]
    assert node.run("CHECK", ipam(node, prevResult=added.document)).status == 0
    assert node.run("STATUS", ipam(node)).status == 0
    assert node.run("DEL", ipam(node)).status == 0
    assert node.run("GC", ipam(node, **{"cni.dev/valid-attachments": []})).status == 0
    assert verbs(node) == ["ADD", "CHECK", "STATUS", "DEL", "GC"]


def test_its_stderr_is_ours(node: World) -> None:
    write(node, f"echo 'pool is nearly empty' >&2; echo '{ANSWER}'")
    assert node.run("ADD", ipam(node)).stderr == "pool is nearly empty\n"


def test_a_child_it_leaves_behind_holds_nobody_up(node: World) -> None:
    write(node, f"sleep 3 &\necho '{ANSWER}'")
    outcome = node.run("ADD", ipam(node))
    assert outcome.status == 0
    assert outcome.seconds < 1


def test_the_first_directory_that_has_it_counts(node: World) -> None:
    write(node, f"echo '{ANSWER}'")
    (node.directory / "empty").mkdir()
    path = f"{node.directory}/empty::{node.directory}/none:{node.plugins}"
    assert node.run("ADD", ipam(node), CNI_PATH=path).status == 0


# --- plugins that do not ---------------------------------------------------------------------


def _ips(*addresses: str) -> str:
    return json.dumps({"ips": [{"address": address} for address in addresses]})


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        pytest.param("exit 0", 104, ("printed nothing",), id="silent-success"),
        pytest.param("exit 3", 104, ("exit status 3", "said nothing"), id="silent-failure"),
        pytest.param("echo gibberish; exit 0", 104, ("not valid JSON",), id="garbage"),
        pytest.param("echo gibberish; exit 1", 104, ("exit status 1", "gibberish"), id="failure"),
        pytest.param("echo no lease >&2; exit 1", 104, ("no lease",), id="failure-on-stderr"),
        pytest.param("printf '\\377'", 104, ("UTF-8",), id="not-utf-8"),
        pytest.param("kill -SEGV $$", 104, ("SIGSEGV",), id="crash"),
        pytest.param(
            'echo \'{"code": 11, "msg": "pool is busy", "details": "lock"}\'; exit 1',
            11,
            ("fake-ipam", "pool is busy"),
            id="error-object",
        ),
        pytest.param(
            'echo \'{"code": 11, "msg": "pool is busy"}\'; exit 0',
            11,
            ("fake-ipam", "pool is busy"),
            id="error-object-with-exit-0",
        ),
        pytest.param("echo '{\"code\": 0}'; exit 1", 104, ("exit status 1",), id="error-code-0"),
        pytest.param("echo '{}'", 104, ("no address",), id="empty-result"),
        pytest.param("echo '[]'", 104, ("object",), id="list"),
        pytest.param(
            "head -c 100000000 /dev/zero", 104, ("more than 1048576",), id="100-megabytes"
        ),
        pytest.param(
            "head -c 100000000 /dev/zero >&2; exit 1", 104, ("exit status 1",), id="loud-stderr"
        ),
        pytest.param("sleep 60", 104, ("hung for 1.0 s",), id="hangs"),
        pytest.param("exec >&- 2>&-; sleep 60", 104, ("hung",), id="hangs-with-closed-pipes"),
        pytest.param("trap '' TERM INT; sleep 60", 104, ("hung",), id="hangs-stubbornly"),
        pytest.param(f"echo '{_ips('192.0.2.1/24')}'", 104, ("no subnet",), id="elsewhere"),
        pytest.param(f"echo '{_ips('10.1.0.9/24')}'", 104, ("/20", "/24"), id="other-prefix"),
        pytest.param(f"echo '{_ips('10.1.0.0/20')}'", 104, ("no host",), id="network-address"),
        pytest.param(f"echo '{_ips('10.1.0.9/20', '10.1.0.9/20')}'", 104, ("twice",), id="twice"),
        pytest.param(f"echo '{_ips('10.1.0.2/20')}'", 7, ("10.1.0.2", "c0/eth0"), id="in-use"),
    ],
)
def test_a_plugin_that_misbehaves_fails_its_own_add(
    node: World, body: str, code: int, words: tuple[str, ...]
) -> None:
    assert node.run("ADD", CNI_CONTAINERID="c0").document["ips"][0]["address"] == "10.1.0.2/20"
    write(node, body)
    outcome = node.run("ADD", ipam(node))
    error_of(outcome, code, *words)
    assert outcome.seconds < 5
    assert len(outcome.stderr) <= 65536
    assert node.attachments.keys() == (AttachmentKey("c0", "eth0"),)
    assert verbs(node) == ["ADD", "DEL"]  # SPEC.md section 4: DEL follows an ADD that failed
    assert node.run("DEL", ipam(node)).status == 0


def test_a_hung_plugin_is_killed_with_its_children_and_delays_nobody(node: World) -> None:
    write(
        node,
        f'sleep 60 & echo $! > "{node.directory}/pids"; echo $$ >> "{node.directory}/pids"; wait',
    )
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(node.run, "ADD", ipam(node))
        while len(_pids(node)) < 2:
            time.sleep(0.01)
        assert node.run("ADD", CNI_CONTAINERID="c2").seconds < 0.9
        assert not hung.done()
        error_of(hung.result(), 104, "hung")
    assert [pid for pid in _pids(node) if _runs(pid)] == []


def test_a_stopping_agent_kills_the_plugins_it_runs(node: World) -> None:
    node.stop()
    node.limits = type(node.limits)()
    node.start()
    write(node, f'echo $$ > "{node.directory}/pids"; exec sleep 60')
    with ThreadPoolExecutor(1) as pool:
        hung = pool.submit(node.run, "ADD", ipam(node))
        while not _pids(node):
            time.sleep(0.01)
        node.stop(grace_s=0.1)
        error_of(hung.result(), 11)
    end = time.monotonic() + 5
    while _runs(_pids(node)[0]):
        assert time.monotonic() < end
        time.sleep(0.01)


def _pids(node: World) -> list[str]:
    path = node.directory / "pids"
    return path.read_text(encoding="utf-8").split() if path.exists() else []


def _runs(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize(
    ("mode", "text", "words"),
    [
        pytest.param(None, "", ("'fake-ipam'", "no directory of CNI_PATH"), id="missing"),
        pytest.param(0o644, "#!/bin/sh\n", ("not executable",), id="not-executable"),
        pytest.param(0o755, "#!/no/such/shell\n", ("cannot be run",), id="no-interpreter"),
        pytest.param(0o755, "\0\1\2", ("cannot be run", "Exec format error"), id="no-program"),
    ],
)
def test_a_plugin_that_cannot_be_run(
    node: World, mode: int | None, text: str, words: tuple[str, ...]
) -> None:
    if mode is not None:
        node.write_plugin("fake-ipam", text).chmod(mode)
    code = 104 if "cannot be run" in words else 7
    error_of(node.run("ADD", ipam(node)), code, *words)
    node.assert_nothing_left()
    assert node.run("DEL", ipam(node)).status == 0
    error_of(node.run("STATUS", ipam(node)), 50, *words)


def test_a_plugin_lost_since_add_is_an_error_of_del_but_the_rest_is_gone(node: World) -> None:
    write(node, f"echo '{ANSWER}'")
    assert node.run("ADD", ipam(node)).status == 0
    (node.plugins / "fake-ipam").unlink()
    error_of(node.run("DEL", ipam(node)), 7, "fake-ipam")
    node.assert_nothing_left()


def test_what_fails_after_the_plugin_gives_the_addresses_back(node: World) -> None:
    write(node, f"echo '{ANSWER}'")
    node.attachments.unprogrammable = AttachRefusedError(11, "ovs-flows: not connected")
    document = error_of(node.run("ADD", ipam(node)), 11, "not connected")
    assert document["details"].startswith("ipam 0.")
    assert verbs(node) == ["ADD", "DEL"]
    node.assert_nothing_left()


@pytest.mark.parametrize("verb", ["DEL", "CHECK", "GC", "STATUS"])
def test_its_error_is_passed_on(node: World, verb: str) -> None:
    write(node, f"echo '{ANSWER}'")
    added = node.run("ADD", ipam(node)).document
    node.write_plugin("fake-ipam", '#!/bin/sh\necho \'{"code": 51, "msg": "no leases"}\'\nexit 1\n')
    config = ipam(node, prevResult=added, **{"cni.dev/valid-attachments": []})
    error_of(node.run(verb, config), 51, "fake-ipam", "no leases")
    if verb in ("DEL", "GC"):
        node.assert_nothing_left()


def test_a_failing_status_of_the_plugin_is_ours(node: World) -> None:
    node.write_plugin("fake-ipam", '#!/bin/sh\necho \'{"code": 7, "msg": "bad range"}\'\nexit 1\n')
    error_of(node.run("STATUS", ipam(node)), 50, "bad range")


def test_a_missed_del_reaches_the_plugin_too(node: World) -> None:
    write(node, f"echo '{ANSWER}'")
    assert node.run("ADD", ipam(node)).status == 0
    node.stop()
    assert node.run("DEL", ipam(node)).status == 0
    assert verbs(node) == ["ADD"]
    node.start()
    end = time.monotonic() + 10
    while list(node.tombstones.iterdir()):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert verbs(node) == ["ADD", "DEL"]
    node.assert_nothing_left()
