"""What ``trace`` concludes from what it heard, and whom the names mean that people type."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest

from dataplane.cli.output import Format
from dataplane.cli.places import Place, addresses, the_place
from dataplane.cli.trace import Asked, Heard, _told, hops, judge
from dataplane.core.addressing import eui64_link_local
from dataplane.core.errors import InvalidValueError
from dataplane.core.model import Mac, Node

MACS = tuple(Mac(f"02:00:00:00:00:{n:02x}") for n in range(4))
V4, V6 = ("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")
SENT = "geneve 100 192.0.2.1 > 192.0.2.2 port 6081"
BACK = "geneve 100 192.0.2.2 > 192.0.2.1 port 6081"


def place(number: int, node: str, *ips: str, segment: str = "blue", name: str = "") -> Place:
    found = tuple(ip_address(ip) for ip in ips)
    return Place(name or f"pod{number}/eth0", node, segment, MACS[number], found)


A, B = place(1, "n1", V4[0], V6[0]), place(2, "n2", V4[1], V6[1])
NODES = {name: Node(name, (), static=name == "s1") for name in ("n1", "n2", "s1")}


def outcome(says: str, reason: str = "") -> dict[str, Any]:
    return {"says": says, "reason": reason, "detail": "", "passed": []}


def hop(source: Place, target: Place, node: str, **changes: Any) -> dict[str, Any]:
    is_sender = source.node == node
    tunnel = SENT if source is A else BACK
    says = outcome(tunnel if is_sender else "deliver to vp0")
    return {
        "node": node,
        "source": str(source),
        "target": str(target),
        "enters": "pod" if is_sender else "wire",
        "tunnel": tunnel,
        "predicted": says,
        "fastpath": says,
        "ovs": says,
        "arrives": True,
        "via": "fastpath",
        "reason": "",
        "owner": "",
        "difference": "",
        **changes,
    }


def heard(**of_n2: Any) -> Heard:
    """Return two nodes at peace, but for what n2 receives from n1."""
    first = [hop(A, B, "n1"), hop(B, A, "n1")]
    return Heard({"n1": first, "n2": [hop(A, B, "n2", **of_n2), hop(B, A, "n2")]}, ())


SWITCHED = {"via": "switch", "switch": outcome("deliver to vp0")}
SLOW = {"via": "ovs", "reason": "policy-off"}
LACKS = {"via": "ovs", "reason": "no-entry", "owner": "fastpath: map entries", "difference": "x"}
ELSEWHERE = {"tunnel": "geneve 100 192.0.2.9 > 192.0.2.2 port 6081"}
BLOCKED = {"arrives": False, "predicted": outcome("drop", "superseded"), **ELSEWHERE}
LOST = {**LACKS, "arrives": False, "ovs": outcome("drop")}
NO_PORT = outcome("drop", "no-entry")
BARE = {key: value for key, value in hop(A, B, "n1").items() if key not in ("fastpath", "ovs")}
NOT_BEGUN = Heard({"n1": [{**BARE, "arrives": False, "via": "", "predicted": NO_PORT}]}, ())
SILENCE = Heard({}, ["no agent answers"])
HALF = Heard({"n1": heard().hops["n1"]}, ())
INTO = {**outcome("deliver to vp3", "network-function"), "detail": "input of function a > b"}
OVER = {"via": "ovs", "reason": "network-function", "tunnel": "", "predicted": INTO}
THROUGH = Heard({"n1": [hop(A, B, "n1", **OVER), hop(B, A, "n1")], "n2": heard().hops["n2"]}, ())


@pytest.mark.parametrize(
    ("told", "status", "verdict", "following"),
    [
        pytest.param(
            heard(), 0, "reachable, fastpath both ways", "overweave ping --mesh", id="well"
        ),
        pytest.param(
            heard(**SWITCHED),
            0,
            "reachable, fastpath both ways, in the switch of n2",
            "overweave ping --mesh",
            id="in a switch",
        ),
        pytest.param(
            heard(**SLOW), 0, "reachable, over ovs, because policy-off on n2", "overweave ping",
            id="over ovs, as meant",
        ),
        pytest.param(
            THROUGH,
            0,
            "reachable, over ovs, because network-function on n1; what the network function of n1"
            " does is not known",
            "overweave ping",
            id="through a function",
        ),
        pytest.param(
            heard(**LACKS),
            1,
            "reachable, over ovs, because no-entry on n2, but fastpath: map entries of n2 differs",
            "overweave status",
            id="over ovs, by a fault",
        ),
        pytest.param(
            heard(**LOST),
            1,
            "not reachable: pod1/eth0@n1 to pod2/eth0@n2 ends at n2: drop;"
            " fastpath: map entries of n2 differs",
            "overweave status",
            id="lost",
        ),
        pytest.param(
            heard(**BLOCKED),
            1,
            "not reachable: pod1/eth0@n1 to pod2/eth0@n2 ends at n2: drop (superseded)",
            "overweave get port",
            id="blocked, and its MAC elsewhere",
        ),
        pytest.param(
            heard(**ELSEWHERE),
            1,
            f"not reachable: pod1/eth0@n1 to pod2/eth0@n2 ends at n2: n1 sends {SENT},"
            " n2 awaits geneve 100 192.0.2.9 > 192.0.2.2 port 6081; fabric view of n2 differs",
            "overweave status",
            id="nodes that know other VTEPs",
        ),
        pytest.param(
            HALF,
            3,
            "not known: nothing heard of n2; the rest: fastpath",
            "on n2: overweave trace pod1/eth0@n1 pod2/eth0@n2",
            id="one half",
        ),
        pytest.param(SILENCE, 3, "not known: nothing heard of n1, n2", "on n1", id="nobody"),
    ],
)  # fmt: skip
def test_verdicts(told: Heard, status: int, verdict: str, following: str) -> None:
    asked = Asked(A, B, NODES)
    found = judge(asked, list(hops(asked, told)))
    assert found.status == status
    assert found.verdict.startswith(verdict)
    assert found.following.startswith(following)


@pytest.mark.parametrize(
    ("told", "rows", "differences"),
    [
        pytest.param(heard(), 4, 0, id="all of it"),
        pytest.param(heard(**LACKS), 2, 1, id="up to the first difference"),
        pytest.param(heard(**BLOCKED), 2, 0, id="up to the end"),
        pytest.param(NOT_BEGUN, 1, 0, id="not even begun"),
        pytest.param(HALF, 4, 0, id="with what is missing"),
    ],
)
def test_what_is_shown(
    told: Heard, rows: int, differences: int, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = Asked(A, B, NODES)
    found = list(hops(asked, told))
    status = _told(asked, found, Format.TABLE)
    verdict, _, *lines, following = capsys.readouterr().out.splitlines()
    assert (verdict, status) == (judge(asked, found).verdict, judge(asked, found).status)
    assert [line.startswith("difference: ") for line in lines] == [
        *[False] * rows,
        *[True] * differences,
    ]
    assert following.startswith("next: ")


def test_a_static_node_is_no_gap() -> None:
    static = place(2, "s1", V4[1])
    asked = Asked(A, static, NODES)
    told = Heard({"n1": [hop(A, static, "n1"), hop(static, A, "n1")]}, ["somebody is silent"])
    assert judge(asked, list(hops(asked, told))).verdict == "reachable, fastpath"


TWIN = place(3, "n2", V4[0], segment="green", name=A.identity)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        pytest.param("pod2/eth0", B, id="identity"),
        pytest.param("pod1/eth0@n2", TWIN, id="identity and node"),
        pytest.param(MACS[2].upper(), B, id="MAC in capitals"),
        pytest.param("FD00::2", B, id="address in capitals"),
        pytest.param("pod9", "no endpoint has", id="nobody"),
        pytest.param("pod1/eth0", "pod1/eth0@n1 .* or pod1/eth0@n2 .*say which", id="two nodes"),
        pytest.param(V4[0], "blue.* or .*green.*say which", id="two segments"),
    ],
)
def test_whom_a_name_means(name: str, expected: Place | str) -> None:
    if isinstance(expected, Place):
        assert the_place((A, B, TWIN), name) == expected
        return
    with pytest.raises(InvalidValueError, match=expected):
        the_place((A, B, TWIN), name)


ONLY6, NONE = place(2, "n2", V6[1]), place(3, "n2")
LOCAL = tuple(str(eui64_link_local(each.mac)) for each in (A, NONE))


@pytest.mark.parametrize(
    ("target", "names", "expected"),
    [
        pytest.param(B, (), (V4[0], V4[1]), id="IPv4 first"),
        pytest.param(B, (V6[1],), (V6[0], V6[1]), id="the family asked for"),
        pytest.param(ONLY6, (), (V6[0], V6[1]), id="the family both have"),
        pytest.param(NONE, (), LOCAL, id="none: link-local"),
        pytest.param(B, (V4[0], V6[1]), None, id="two families"),
        pytest.param(ONLY6, (V4[0],), None, id="a family the other lacks"),
    ],
)
def test_between_which_addresses(
    target: Place, names: tuple[str, ...], expected: tuple[str, str] | None
) -> None:
    if expected is None:
        with pytest.raises(InvalidValueError, match="one family"):
            addresses(A, target, names)
        return
    assert tuple(map(str, addresses(A, target, names))) == expected
