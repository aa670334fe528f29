"""The local files: what is written is read back, and damage is named, never guessed at."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.core.derive import derive
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import diff
from dataplane.core.errors import TargetError
from dataplane.core.functions import FunctionPort, NetworkFunction
from dataplane.core.model import Mac, Verdict
from dataplane.core.reasons import Reason
from dataplane.statefile import StateFiles
from tests.unit.test_core_state import NOW, OWN_BLOCK, PINS, after, request, synced


@pytest.fixture
def desired() -> Desired:
    result = derive(after(*synced(OWN_BLOCK, *PINS), request()))
    assert result is not None
    return result


def converge(target: StateFiles, desired: Desired) -> int:
    change = diff(target.render(desired, Bindings()), target.observe())
    target.apply(change)
    return len(change)


def test_what_is_kept_is_read_back(tmp_path: Path, desired: Desired) -> None:
    target = StateFiles(tmp_path / "state")
    assert converge(target, desired) == 2
    assert converge(target, desired) == 0
    loaded = StateFiles(tmp_path / "state").load()
    assert loaded.attachments == desired.attachments
    assert loaded.entities == desired.kept


def test_a_verdict_is_read_back(tmp_path: Path, desired: Desired) -> None:
    verdict = Verdict(Reason.SUPERSEDED, "ns/pod/eth0 has moved to node n2")
    blocked = replace(desired.attachments[0], blocked=verdict)
    converge(StateFiles(tmp_path), replace(desired, attachments=(blocked,)))
    assert StateFiles(tmp_path).load().attachments == (blocked,)


def test_what_is_counted_is_read_back(tmp_path: Path, desired: Desired) -> None:
    moved = replace(desired.attachments[0], requested_at=NOW, moves=(NOW - 9, NOW))
    converge(StateFiles(tmp_path), replace(desired, attachments=(moved,)))
    assert StateFiles(tmp_path).load().attachments == (moved,)


def test_a_port_of_a_host_is_read_back(tmp_path: Path, desired: Desired) -> None:
    behind = replace(desired.attachments[0], netns="", netdev="rep0", vlan=4094)
    converge(StateFiles(tmp_path), replace(desired, attachments=(behind,)))
    (loaded,) = StateFiles(tmp_path).load().attachments
    assert loaded == behind
    assert loaded.access_port == "rep0"


def test_a_pod_that_is_not_connected_yet_is_read_back(tmp_path: Path, desired: Desired) -> None:
    waiting = replace(desired.attachments[0], connected=False)
    converge(StateFiles(tmp_path), replace(desired, attachments=(waiting,)))
    assert StateFiles(tmp_path).load().attachments == (waiting,)


def test_functions_are_read_back_in_their_order(tmp_path: Path, desired: Desired) -> None:
    ports = [FunctionPort(Mac(f"02:00:00:00:00:0{n}"), f"default/f/net{n}") for n in range(1, 5)]
    made = (NetworkFunction("blue", *ports[:2]), NetworkFunction("blue", *ports[2:]))
    target = StateFiles(tmp_path)
    converge(target, replace(desired, functions=made))
    assert target.load().functions == made
    (tmp_path / "functions.json").write_text("[{}]")
    with pytest.raises(TargetError, match=r"functions\.json is damaged"):
        target.load()
    converge(target, desired)
    assert not (tmp_path / "functions.json").exists()


def test_a_file_of_before_moves_were_counted_is_read(tmp_path: Path, desired: Desired) -> None:
    target = StateFiles(tmp_path)
    converge(target, desired)
    (file,) = (tmp_path / "attachments").glob("*.json")
    kept = json.loads(file.read_text())
    new = {"moves", "requested_at", "netdev", "vlan", "connected"}
    old = {key: kept[key] for key in kept.keys() - new}
    file.write_text(json.dumps(old))
    assert target.load().attachments == (replace(desired.attachments[0], requested_at=0),)


def test_what_an_attachment_needs_is_written_before_it(tmp_path: Path, desired: Desired) -> None:
    """A power cut between the two leaves a segment too much, never an attachment without its."""
    target = StateFiles(tmp_path)
    change = diff(target.render(desired, Bindings()), target.observe())
    (tmp_path / "attachments").rmdir()
    with pytest.raises(TargetError):
        target.apply(change)
    assert (tmp_path / "fabric.json").exists()


def test_bytes_that_are_no_text_are_damage(tmp_path: Path, desired: Desired) -> None:
    target = StateFiles(tmp_path)
    converge(target, desired)
    (tmp_path / "fabric.json").write_bytes(b"\xff\xfe")
    with pytest.raises(TargetError, match=r"fabric\.json is damaged"):
        target.load()
    assert converge(target, desired) == 1


def test_names_that_are_no_file_names_are_kept(tmp_path: Path, desired: Desired) -> None:
    odd = replace(desired.attachments[0], container_id="../a/b", ifname="eth0+1")
    target = StateFiles(tmp_path)
    converge(target, replace(desired, attachments=(odd,)))
    assert target.load().attachments == (odd,)
    converge(target, replace(desired, attachments=()))
    assert target.load().attachments == ()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("", id="empty"),
        pytest.param('{"mac"', id="cut off"),
        pytest.param("{}", id="keys missing"),
        pytest.param("[1]", id="a list"),
        pytest.param('{"ips": [], "blocked": null, "mac": 5}', id="a number for a text"),
        pytest.param('{"ips": [], "blocked": 1, "mac": "02:00:00:00:00:01"}', id="no verdict"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, desired: Desired, content: str) -> None:
    target = StateFiles(tmp_path)
    converge(target, desired)
    (file,) = (tmp_path / "attachments").glob("*.json")
    file.write_text(content)
    with pytest.raises(TargetError, match=file.name.replace("+", r"\+")):
        target.load()


def test_a_full_or_read_only_place_is_an_error_that_names_it(
    tmp_path: Path, desired: Desired
) -> None:
    target = StateFiles(tmp_path / "state")
    (tmp_path / "state/attachments").rmdir()
    with pytest.raises(TargetError, match=str(tmp_path)):
        converge(target, desired)
