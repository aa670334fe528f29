"""All that an Open vSwitch instance can say about itself, for somebody who looks for a fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from dataplane.core.errors import OverweaveError
from ovs_client.daemons import find_program, run
from ovs_client.unixctl import Unixctl

_QUESTIONS = (
    ("dpif/show",),
    ("dpctl/dump-flows", "-m"),
    ("tnl/ports/show", "-v"),
    ("tnl/neigh/show",),
    ("ovs/route/show",),
    ("upcall/show",),
    ("coverage/show",),
)


def dump(rundir: Path) -> Mapping[str, str]:
    """Return texts by file name: configuration, datapath, tunnels, flows with their counters.

    A question that gets no answer has the reason as its text.
    """
    switch = Unixctl(rundir)
    found = {
        "ovs-show.txt": _answer(lambda: _vsctl(rundir, "show")),
        "ovs-interfaces.txt": _answer(lambda: _vsctl(rundir, "list", "Interface")),
    }
    bridges = _answer(lambda: switch.call("ofproto/list")).split()
    questions = [*_QUESTIONS, *(("bridge/dump-flows", bridge) for bridge in bridges)]
    return {**found, "ovs-vswitchd.txt": "\n".join(_ask(switch, words) for words in questions)}


def _ask(switch: Unixctl, words: tuple[str, ...]) -> str:
    return f"# {' '.join(words)}\n{_answer(lambda: switch.call(*words))}"


def _vsctl(rundir: Path, *words: str) -> str:
    return run(
        [find_program("ovs-vsctl"), f"--db=unix:{rundir / 'db.sock'}", "--timeout=5", *words]
    )


def _answer(question: Callable[[], str]) -> str:
    try:
        return question()
    except OverweaveError as error:
        return f"{error}\n"
