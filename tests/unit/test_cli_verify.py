"""What ``verify`` concludes from what the agents found, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from dataplane.api import agent_pb2 as pb
from dataplane.cli.output import Format
from dataplane.cli.verify import _found, _tell

SWITCH = pb.PathTally(path="switch", asked=10, verdicts={"tunnel": 4, "hand over": 6})
FAST = pb.PathTally(path="fastpath", asked=10, verdicts={"tunnel": 8, "hand over": 2})
OVS = pb.PathTally(path="ovs", asked=10, verdicts={"tunnel": 9}, unknown=1, why_unknown="no flow")
LOST = pb.PathTally(path="ovs", why_not="ovs-vswitchd is away", asked=10, unknown=10)
BLIND = pb.PathTally(path="ovs", why_unknown="it prints otherwise", asked=10, unknown=10)
DIED = pb.PathTally(path="switch", why_not="the switch is away", asked=10, unknown=10)
NO_SWITCH = pb.PathTally(path="switch", why_not="not emulated")
NO_EBPF = pb.PathTally(path="fastpath", absent=10, why_absent="there is no bcc")
DEVICE = pb.PathTally(path="switch", asked=4, absent=6, why_absent="not plain")
SENT = pb.PathTally(path="switch", asked=4, verdicts={"counted": 3, "deliver": 1})
DIFFERENCES = [
    pb.Difference(
        path="switch",
        question=f"UDP {number}",
        field="VNI",
        said="2",
        truth="1",
        rule="the row",
        truths_rule="the flow",
    )
    for number in range(3)
]
BUT = pb.PathTally(path="switch", asked=10, verdicts={"hand over": 6}, excused={"dance": 3})
WRONG = pb.PathTally(path="switch", asked=10, verdicts={"tunnel": 10}, differed=3)


def told(node: str, *paths: pb.PathTally, differences: Sequence[Any] = ()) -> list[pb.Verified]:
    """Return what a node says in two parts."""
    first = pb.Verified(node=node, total=10, left_out=1)
    return [first, pb.Verified(node=node, asked=10, paths=paths, differences=differences)]


WELL = [told("d1", SWITCH, FAST, OVS), told("n2", FAST, OVS)]
DIFFERS = [told("d1", WRONG, FAST, OVS, differences=DIFFERENCES)]


@pytest.mark.parametrize(
    ("heard", "silent", "status", "verdict"),
    [
        pytest.param(WELL, [], 0, "all agree: 20 frames on 2 nodes", id="well"),
        pytest.param(
            DIFFERS, [], 1, "switch of d1 differs in VNI; 10 frames on 1 nodes", id="a difference"
        ),
        pytest.param(
            DIFFERS, ["no agent"], 1, "switch of d1 differs in VNI; 10", id="and a silent agent"
        ),
        pytest.param(WELL, ["no agent"], 3, "not known: ", id="a silent agent"),
        pytest.param([told("n2", FAST, LOST)], [], 3, "not known: ", id="no truth"),
        pytest.param([told("n2", FAST, BLIND)], [], 3, "not known: ", id="nothing of the truth"),
        pytest.param([told("d1", DIED, FAST, OVS)], [], 3, "not known: ", id="a path that died"),
        pytest.param(
            [told("d1", NO_SWITCH, FAST, OVS)], [], 0, "all agree: 10", id="a real device"
        ),
        pytest.param(
            [told("d1", DEVICE, NO_EBPF, OVS)], [], 0, "all agree: 10", id="asked in part"
        ),
        pytest.param(
            [told("d1", SENT, FAST, OVS)],
            [],
            0,
            "all agree, as far as is seen: 10 frames on 1 nodes",
            id="a real device that was sent frames",
        ),
        pytest.param(
            [told("d1", BUT, FAST, OVS)],
            [],
            0,
            "all agree, but in what the device cannot do: 10 frames on 1 nodes",
            id="a device that cannot dance",
        ),
    ],
)
def test_the_verdict(
    heard: list[list[pb.Verified]], silent: list[str], status: int, verdict: str
) -> None:
    found = _found(heard, silent)
    assert found.status == status
    assert found.verdict.startswith(verdict)


def test_a_difference_is_printed_with_both_rules(capsys: pytest.CaptureFixture[str]) -> None:
    _tell(_found(DIFFERS, ["no agent answers"]), Format.TABLE)
    verdict, head, *_, difference, rule, truth, more, following = (
        capsys.readouterr().out.splitlines()
    )
    assert verdict.startswith("switch of d1 differs in VNI")
    assert head.split()[:4] == ["NODE", "PATH", "ASKED", "AGREE"]
    assert difference == "difference: switch of d1: VNI: 2, not 1: UDP 0"
    assert (rule, truth) == ("  switch: the row", "  ovs: the flow")
    assert more == "2 differences more: -o wide, -o json"
    assert following == "next: overweave explain d1"
    _tell(_found(DIFFERS, []), Format.WIDE)
    assert capsys.readouterr().out.count("difference: ") == 3


def test_what_was_not_asked_and_not_observed_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    _tell(_found([told("d1", NO_SWITCH, FAST, OVS)], ["no agent answers"]), Format.TABLE)
    shown = capsys.readouterr().out.splitlines()
    assert "not asked: switch of d1: not emulated" in shown
    assert "not observed: ovs of d1: 1 frames: no flow" in shown
    assert "not heard: no agent answers" in shown
    assert "left out: 1 pairs of endpoints; ask by --segment" in shown


def test_what_was_not_asked_in_part_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    found = _found([told("d1", DEVICE, NO_EBPF, OVS), told("d1", DEVICE, NO_EBPF)], [])
    _tell(found, Format.TABLE)
    shown = capsys.readouterr().out.splitlines()
    assert "not asked: switch of d1: 12 frames: not plain" in shown
    assert "not asked: fastpath of d1: there is no bcc" in shown
    switch = next(tally.record for tally in found.tallies if tally.path == "switch")
    assert (switch["asked"], switch["absent"], switch["why_absent"]) == (8, 12, "not plain")


def test_what_is_excused_is_counted_apart_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    found = _found([told("d1", BUT, OVS), told("d1", BUT)], [])
    _tell(found, Format.TABLE)
    said = "excused: switch of d1: 6 frames: the device says that it cannot dance"
    assert said in capsys.readouterr().out.splitlines()
    switch = next(tally.record for tally in found.tallies if tally.path == "switch")
    assert (switch["agree"], switch["handed_over"], switch["excused"]) == (2, 12, 6)


def test_what_was_counted_and_not_seen_is_said_and_does_not_agree(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = _found([told("d1", SENT, OVS), told("d1", SENT)], [])
    _tell(found, Format.TABLE)
    said = "not observed: switch of d1: 6 frames: their entries have counted them; what leaves by"
    assert f"{said} the uplink is not seen" in capsys.readouterr().out.splitlines()
    switch = next(tally.record for tally in found.tallies if tally.path == "switch")
    assert (switch["agree"], switch["counted"], switch["unknown"]) == (2, 6, 0)


def test_programs_read_all_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    _tell(_found(DIFFERS, []), Format.JSON)
    (record,) = json.loads(capsys.readouterr().out)
    assert (record["status"], len(record["differences"])) == (1, 3)
    switch = next(row for row in record["paths"] if row["path"] == "switch")
    assert (switch["asked"], switch["agree"], switch["differ"]) == (10, 7, 3)
