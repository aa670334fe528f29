"""Topology files: what a lab consists of, and what is said about one that is wrong."""

from pathlib import Path

import pytest

from dataplane.core.desired import Datapath
from dataplane.core.errors import InvalidValueError
from dataplane.documents import FaultyFileError
from dataplane.lab.dpus import device_id, devices
from dataplane.lab.layout import LabPaths
from dataplane.lab.topology import (
    Dpu,
    Kind,
    Vendor,
    default_topology,
    load_topology,
    read_topology,
)


def test_default_is_four_dual_stack_agents_on_1500_bytes() -> None:
    topology = default_topology()
    assert topology.mtu == 1500
    assert [node.name for node in topology.agents] == ["n1", "n2", "n3", "n4"]
    assert [[str(a) for a in node.addresses] for node in topology.nodes[:2]] == [
        ["192.0.2.1/24", "2001:db8:0:1::1/64"],
        ["192.0.2.2/24", "2001:db8:0:1::2/64"],
    ]
    assert read_topology(topology.text, "again") == topology


def test_a_file_says_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(
        "underlay: {mtu: 9000, prefixes: [198.51.100.0/28]}\n"
        "nodes:\n- {name: host, ebpf: false, datapath: kernel}\n- {name: peer, kind: bare}\n",
        encoding="utf-8",
    )
    topology = load_topology(path)
    assert topology.mtu == 9000
    assert [node.kind for node in topology.nodes] == [Kind.AGENT, Kind.BARE]
    assert [str(node.addresses[0]) for node in topology.nodes] == [
        "198.51.100.1/28",
        "198.51.100.2/28",
    ]
    assert [node.name for node in topology.agents] == ["host"]
    assert topology.node("peer").kind is Kind.BARE
    assert [node.ebpf for node in topology.nodes] == [False, True]
    assert [node.datapath for node in topology.nodes] == [Datapath.KERNEL, Datapath.USERSPACE]


def test_a_dpu_in_another_cluster_than_its_host() -> None:
    topology = read_topology(
        "nodes: [{name: h1}, {name: d1, dpu: {vendor: intel, host: h1, apart: true}}, {name: n2}]",
        "here",
    )
    assert [topology.is_apart(node) for node in topology.nodes] == [True, True, False]
    host, dpu = (devices(LabPaths("x"), topology, node)[0] for node in topology.nodes[:2])
    where = "ssl:192.0.2.2:50052"
    assert (host["attachment"], host["peer"]) == (where, "d1")
    assert (dpu["attachment"], dpu["peer"]) == (where, "h1")


def test_a_dpu_in_a_host() -> None:
    topology = read_topology(
        "nodes: [{name: h1}, {name: d1, dpu: {vendor: marvell, host: h1}},"
        " {name: d2, dpu: {vendor: intel, host: h1, vfs: 16}},"
        " {name: d3, dpu: {vendor: senao, host: h1}},"
        " {name: d4, dpu: {vendor: senao, host: h1, tunnels: false}}]",
        "here",
    )
    assert [(node.name, node.dpu) for node in topology.dpus] == [
        ("d1", Dpu(Vendor.MARVELL, "h1", 4)),
        ("d2", Dpu(Vendor.INTEL, "h1", 16)),
        ("d3", Dpu(Vendor.SENAO, "h1", 4)),
        ("d4", Dpu(Vendor.SENAO, "h1", 4, tunnels=False)),
    ]
    assert topology.agents == topology.nodes
    assert not any(map(topology.is_apart, topology.nodes))
    ids = [device_id(topology, node, number) for node in topology.dpus[:3] for number in (0, 5, 6)]
    assert ids == [
        *("0000:06:00.2", "0000:06:00.7", "0000:06:01.0"),
        *("0000:07:00.2", "0000:07:00.7", "0000:07:01.0"),
        *("0000:08:00.2", "0000:08:00.7", "0000:08:01.0"),
    ]


UP = """
nodes:
- {name: n1}
- {name: n2}
- {name: d1, dpu: {vendor: marvell, host: n1}}
- {name: d2, dpu: {vendor: intel, host: n2}}
"""


@pytest.mark.parametrize(
    ("text", "gone"),
    [
        pytest.param(UP, [], id="the same"),
        pytest.param(UP + "- {name: n3}\n", [], id="one more"),
        pytest.param(UP.partition("- {name: d2")[0], ["d2"], id="the last"),
        pytest.param(UP.partition("- {name: d1")[0], ["d1", "d2"], id="both DPUs"),
        pytest.param(UP.replace("d2", "d3"), ["d2"], id="another in its place"),
        pytest.param("nodes: [{name: n9}]", ["n1", "n2", "d1", "d2"], id="all"),
    ],
)
def test_what_a_lab_loses_that_gets_another_topology(text: str, gone: list[str]) -> None:
    leaving = read_topology(UP, "up").leaving(read_topology(text, "wanted"))
    assert [node.name for node in leaving] == gone


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param("nodes:", "underlay: {mtu: 1600}\nnodes:", "1500 bytes, not 1600", id="MTU"),
        pytest.param(
            "- {name: n2}\n", "", "is no node with an agent", id="a host without which a DPU is"
        ),
        pytest.param(
            "nodes:\n", "nodes:\n- {name: n0}\n", "^n1, n2, d1, d2 would be", id="one in front"
        ),
        pytest.param("- {name: d1, dpu: {vendor: marvell, host: n1}}\n", "", "^d2 would", id="gap"),
        pytest.param("intel, host", "senao, host", "^d2 would", id="another vendor"),
        pytest.param("{name: n1}", "{name: n1, ebpf: false}", "^n1 would be", id="another node"),
        pytest.param(
            "{name: d1, dpu: {vendor: marvell, host: n1}}", "{name: x1}", "^d2", id="another bus"
        ),
        pytest.param(
            "nodes:", "underlay: {prefixes: [10.0.0.0/24]}\nnodes:", "^n1, n2, d1", id="prefixes"
        ),
    ],
)
def test_what_a_lab_that_is_up_cannot_become(old: str, new: str, words: str) -> None:
    assert old in UP
    with pytest.raises(InvalidValueError, match=words):
        read_topology(UP, "up").leaving(read_topology(UP.replace(old, new), "wanted"))


NODES = "nodes: [{name: n1}]\n"


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        pytest.param("", ["line 1: a topology is one document, this has 0"], id="empty"),
        pytest.param("nodes: []", ["nodes []"], id="no node"),
        pytest.param("{}", ["nodes is missing"], id="nodes missing"),
        pytest.param(f"{NODES}colour: red", ["line 2: unknown key colour"], id="unknown key"),
        pytest.param("nodes: [{name: N_1}]", ["'N_1'"], id="bad name"),
        pytest.param(f"nodes: [{{name: {'n' * 16}}}]", ["name"], id="name longer than a netdev's"),
        pytest.param("nodes: [{name: n1, kind: dpu}]", ["nodes[0].kind 'dpu'"], id="bad kind"),
        pytest.param(
            f"underlay: {{mtu: 1200}}\n{NODES}", ["line 1: underlay.mtu 1200"], id="mtu too small"
        ),
        pytest.param(
            f"underlay: {{mtu: yes}}\n{NODES}", ["underlay.mtu 'yes'"], id="mtu no number"
        ),
        pytest.param(
            f"underlay: {{prefixes: [10.0.0.1/24]}}\n{NODES}", ["10.0.0.1/24"], id="host bits set"
        ),
        pytest.param(
            "nodes:\n- name: n1\n- name: n1\n- name: fabric\n",
            [
                "line 3: nodes[1].name 'n1': another node is called so",
                "line 4: nodes[2].name 'fabric': the lab itself has something of that name",
            ],
            id="names that clash, all at once",
        ),
        pytest.param(
            "nodes:\n- {name: h1}\n- {name: d1, dpu: {vendor: acme, host: h1}}\n",
            ["line 3: nodes[1].dpu.vendor 'acme'"],
            id="a DPU of an unknown vendor",
        ),
        pytest.param(
            "nodes:\n- {name: h1}\n- {name: d1, dpu: {vendor: marvell, host: h1, vfs: 0}}\n",
            ["line 3: nodes[1].dpu.vfs 0"],
            id="a DPU without VFs",
        ),
        pytest.param(
            "nodes:\n- {name: h1, kind: bare}\n- {name: d1, dpu: {vendor: marvell, host: h1}}\n"
            "- {name: d2, dpu: {vendor: marvell, host: d1}}\n"
            "- {name: d3, kind: bare, dpu: {vendor: marvell, host: h9}}\n"
            "- {name: d345678901234, dpu: {vendor: marvell, host: d345678901234}}\n",
            [
                "line 3: nodes[1].dpu.host 'h1' is no node with an agent",
                "line 4: nodes[2].dpu.host 'd1' is no node with an agent",
                "line 5: nodes[3].dpu.host 'h9' is no node with an agent",
                "line 5: nodes[3].dpu: a DPU has an agent, so its kind is not bare",
                "line 6: nodes[4].dpu.host 'd345678901234' is no node with an agent",
                "line 6: nodes[4].name 'd345678901234': a DPU's name has at most 12 characters",
            ],
            id="DPUs in the wrong places, all at once",
        ),
        pytest.param(
            "nodes:\n- {name: h1}\n- name: d1\n  dpu:\n    vendor: intel\n    host: h1\n"
            "    tunnels: false\n",
            ["line 7: nodes[1].dpu.tunnels false: only a senao can be without"],
            id="a DPU without tunnels that has some",
        ),
        pytest.param(
            "underlay:\n  prefixes:\n  - 10.0.0.0/31\n  - 10.1.0.0/24\nnodes: [{name: n1}]",
            [
                "line 3: underlay.prefixes: 10.0.0.0/31 is too small for 1 nodes",
                "line 4: underlay.prefixes: 10.1.0.0/24 is the second one of its family",
            ],
            id="prefixes, all at once",
        ),
    ],
)
def test_faults(text: str, sentences: list[str]) -> None:
    with pytest.raises(FaultyFileError) as caught:
        read_topology(text, "lab.yaml")
    lines = str(caught.value).splitlines()
    assert len(lines) == len(sentences)
    for line, words in zip(lines, sentences, strict=True):
        assert line.startswith("lab.yaml, line ")
        assert words in line


def test_an_unreadable_file_is_said() -> None:
    with pytest.raises(
        InvalidValueError, match=r"topology /nowhere cannot be read: .*No such file"
    ):
        load_topology(Path("/nowhere"))


def test_an_unknown_node_is_said_with_those_there_are() -> None:
    with pytest.raises(InvalidValueError, match=r"no node 'n9'; its nodes are n1, n2, n3, n4"):
        default_topology().node("n9")


@pytest.mark.parametrize("name", ["", "a-b", "Lab", "thirteenchars", "a/b", "..", "ü"])
def test_names_a_lab_cannot_have(name: str) -> None:
    with pytest.raises(InvalidValueError, match="is not 1-12 lower-case letters or digits"):
        LabPaths(name)


@pytest.mark.parametrize("name", ["", "../n1", "a/b", "Pod", "-x", "x" * 64])
def test_names_a_member_cannot_have(name: str) -> None:
    with pytest.raises(InvalidValueError, match="that begin and end with a letter or digit"):
        LabPaths("lab").netns(name)


def test_namespaces_of_one_lab_never_begin_like_those_of_another() -> None:
    prefixes = [LabPaths(name).prefix for name in ("a", "ab", "a1", "lab")]
    assert not [(x, y) for x in prefixes for y in prefixes if x != y and y.startswith(x)]
