"""What ``explain`` says of reasons: each that an entry can have has its remedy."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dataplane.cli import explain as module
from dataplane.core.errors import InvalidValueError
from dataplane.core.model import Device, Side
from dataplane.core.reasons import PACKET_REASONS, Reason
from vendors.assumed import statement

OF_ENTRIES = [*(r for r in Reason if r not in PACKET_REASONS), Reason.POLICY_OFF]


def entry(mac: str, placement: str, reason: str = "", words: str = "") -> dict[str, Any]:
    return {
        "node": "d1",
        "segment": "blue",
        "mac": mac,
        "identity": f"pod{mac[-1]}/eth0",
        "via": "192.0.2.3",
        "placement": placement,
        "reason": reason,
        "words": words,
        "counted": {"fastpath": 3},
    }


DPU = Device(
    *("s1-dpu", "s1", "marvell", "Octeon", Side.DPU, "d1"),
    ready=True,
    assumptions=("first-port-mac", "misses", "of-another-version"),
)
HOST = replace(DPU, name="s1-host", side=Side.HOST, node="h1", assumptions=("card-serial",))
FOUND = [
    entry("02:00:00:00:00:01", "emulated"),
    entry("02:00:00:00:00:02", "fastpath", "table-full", "OFPFMFC_TABLE_FULL for table 30"),
    entry("02:00:00:00:00:03", "fastpath", "table-full", "OFPFMFC_TABLE_FULL for table 30"),
    entry("02:00:00:00:00:04", "fastpath", "below-threshold"),
    {**entry("02:00:00:00:00:05", "ovs", "pending"), "node": "h1"},
]


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch) -> None:
    class Store:
        def read(self) -> list[Device]:
            return [
                HOST,
                Device("s2-host", "s2", "marvell", "Octeon", Side.HOST, "h1", ready=True),
                DPU,
                Device("s3-dpu", "s3", "intel", "IPU", Side.DPU, "d3", ready=True),
            ]

    modes = {"switch": "Marvell Octeon 10 (emulated)"}
    monkeypatch.setattr(module, "entries", lambda _: FOUND)
    monkeypatch.setattr(module, "statuses", lambda _: [{"node": "d1", "modes": modes}])
    monkeypatch.setattr(module, "open_store", lambda _: nullcontext(Store()))


def said(*words: str) -> str:
    done = CliRunner().invoke(module.explain, [*words, "--agent", str(Path("/none"))])
    if done.exception is not None:
        raise done.exception
    return done.output


@pytest.mark.parametrize("reason", OF_ENTRIES)
def test_each_reason_of_an_entry_has_a_remedy(reason: Reason) -> None:
    assert module.remedy(reason)


@pytest.mark.parametrize("name", ["s1", "s1-dpu", "s1-host"])
def test_what_is_assumed_of_a_device(name: str) -> None:
    lines = said(name).splitlines()
    assert lines[-6:] == [
        "assumptions in use, on no document's word: 4",
        f"  card-serial: {statement('marvell', 'card-serial')}",
        f"  first-port-mac: {statement('marvell', 'first-port-mac')}",
        f"  misses: {statement('marvell', 'misses')}",
        "  of-another-version: another version knows what it says",
        "next: overweave trace SRC DST",
    ]
    assert "assumptions" not in said("blue") + said("d1") + said("pod1/eth0")


def test_names_that_two_nodes_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host knows which of them is its own; a DPU's name alone says nothing."""
    twin = replace(DPU, node="d2", assumptions=())
    host = replace(HOST, peer="d1", assumptions=())

    class Store:
        def read(self) -> list[Device]:
            return [twin, DPU, host]

    monkeypatch.setattr(module, "open_store", lambda _: nullcontext(Store()))
    assert "on no document's word: 3" in said("s1-host")
    for name in ("s1", "s1-dpu"):
        with pytest.raises(InvalidValueError, match=f"'{name}' is on several nodes: d1, d2; name"):
            said(name)


@pytest.mark.parametrize("name", ["s2", "s2-host"])
def test_a_host_s_half_of_which_no_dpu_tells(name: str) -> None:
    with pytest.raises(InvalidValueError, match=f"'{name}' is its host's half, on node h1, and no"):
        said(name)


def test_a_device_without_entries() -> None:
    assert said("s3").splitlines()[0] == "s3: no entries"


@pytest.mark.parametrize("name", ["d1", "s1", "s1-dpu", "s1-host"])
def test_all_of_a_node_or_a_device(name: str) -> None:
    lines = said(name).splitlines()
    assert lines[0] == f"{name}: 1 in an emulated switch, 3 in eBPF"
    assert lines[1] == "switch of d1: Marvell Octeon 10 (emulated)"
    assert lines.count("table-full: OFPFMFC_TABLE_FULL for table 30") == 1
    assert "below-threshold: no more is said" in lines
    assert lines[-1] == "next: overweave trace SRC DST"


def test_all_of_a_segment() -> None:
    first, second, *_ = said("blue").splitlines()
    assert first == "blue: 1 in an emulated switch, 3 in eBPF, 1 in Open vSwitch"
    assert second == "switch of d1: Marvell Octeon 10 (emulated)"


@pytest.mark.parametrize("name", ["02:00:00:00:00:01", "pod1/eth0"])
def test_an_endpoint_that_is_as_high_as_can_be(name: str) -> None:
    assert said(name).splitlines()[0] == f"{name}: 1 in an emulated switch"
    assert "what would change it" not in said(name)


def test_nobody_of_that_name() -> None:
    with pytest.raises(InvalidValueError, match="'red' is no identity, MAC, segment or node"):
        said("red")
