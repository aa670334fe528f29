"""What ovs-ofctl of Open vSwitch 3.1 prints, and rubbish in its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_client.ofctl import (
    CountedFlow,
    Flow,
    FlowKey,
    Refusal,
    parse_counted,
    parse_refusal,
    parse_table_limits,
)

FEATURES = """\
  table 0:
    metadata: match=0xffffffffffffffff write=0xffffffffffffffff
    max_entries=1000000
    instructions (table miss and others):
      next tables: 1-253

  tables 1...29: ditto

  table 30:
    eviction: not supported
    max_entries=2
    (same instructions)

  tables 31...32: ditto

  table 33 ("wire"):
    max_entries=5

  table 34: ditto
"""
FULL = """\
Error OFPFMFC_TABLE_FULL for: OFPT_FLOW_MOD (OF1.4) (xid=0x4): ADD table:30 \
priority=1,reg0=0x64,dl_dst=02:00:00:00:00:02 cookie:0x7 actions=drop
Error OFPBFC_MSG_FAILED for: OFPT_BUNDLE_CONTROL (OF1.4) (xid=0x8):
 bundle_id=0 type=COMMIT_REQUEST flags=atomic ordered
ovs-ofctl: talking to unix:/tmp/ovs/br-mrv0.mgmt (Protocol error)"""
GROUP = """\
Error OFPBAC_BAD_OUT_GROUP for: OFPT_FLOW_MOD (OF1.4) (xid=0x2): ADD table:5 \
priority=1,tcp,in_port=1,tp_dst=80 actions=set_field:1->tcp_dst,group:77"""


@pytest.mark.parametrize(
    ("line", "counted"),
    [
        pytest.param(
            " cookie=0xee, duration=0.229s, table=0, n_packets=7, n_bytes=420, idle_age=3,"
            " priority=0,in_port=4 actions=output:3",
            CountedFlow(Flow(0, 0, "in_port=4", "output:3", 0xEE), 7, 420),
            id="with ages",
        ),
        pytest.param(
            " cookie=0x4d56020000640000, duration=9s, table=30, n_packets=18446744073709551615,"
            " n_bytes=1, priority=110,reg0=0x64,dl_dst=02:00:00:00:00:01 actions=output:5,LOCAL",
            CountedFlow(
                Flow(
                    30,
                    110,
                    "dl_dst=02:00:00:00:00:01,reg0=0x64",
                    "output:5,LOCAL",
                    0x4D56020000640000,
                ),
                2**64 - 1,
                1,
            ),
            id="ours, and as many as there can be",
        ),
        pytest.param(
            " priority=1 actions=drop", CountedFlow(Flow(0, 1, "", "drop"), 0, 0), id="no counts"
        ),
    ],
)
def test_counted_flows(line: str, counted: CountedFlow) -> None:
    assert parse_counted(line) == counted


def test_table_limits() -> None:
    found = parse_table_limits(FEATURES)
    assert found == {
        **dict.fromkeys(range(30), 1_000_000),
        **dict.fromkeys(range(30, 33), 2),
        **dict.fromkeys((33, 34), 5),
    }


@pytest.mark.parametrize(
    "rubbish", ["", "max_entries=", "table x:\n max_entries=9\n", "tables 1..: ditto", "\0\n\n"]
)
def test_rubbish_limits_nothing(rubbish: str) -> None:
    assert set(parse_table_limits(rubbish)) == set()


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        pytest.param(
            FULL,
            Refusal("OFPFMFC_TABLE_FULL", FlowKey(30, 1, "dl_dst=02:00:00:00:00:02,reg0=0x64")),
            id="full",
        ),
        pytest.param(
            GROUP,
            Refusal("OFPBAC_BAD_OUT_GROUP", FlowKey(5, 1, "in_port=1,tcp,tp_dst=80")),
            id="group",
        ),
        pytest.param(
            "Error OFPFMFC_TABLE_FULL for: OFPT_FLOW_MOD (OF1.4) (xid=0x1): ADD actions=drop",
            Refusal("OFPFMFC_TABLE_FULL", FlowKey(0, 32768, "")),
            id="nothing but the code",
        ),
        pytest.param("ovs-ofctl: /x.mgmt: failed to connect to socket", None, id="no refusal"),
        pytest.param("Error OFPBFC_MSG_FAILED for: OFPT_BUNDLE_CONTROL", None, id="the bundle's"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_refusals(words: str, refusal: Refusal | None) -> None:
    assert parse_refusal(words) == refusal


@given(st.text())
def test_no_text_breaks_what_reads_errors_and_limits(text: str) -> None:
    parse_table_limits(text)
    parse_refusal(text)
