"""Names and numbers of ports, and what a flow of ours says of itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_client.ofctl import Flow, parse_flow
from tests.unit.marvell_builders import WIRING, bound, chosen, worlds
from vendors.marvell.pipeline import (
    PIPELINE,
    TO_TUNNELS,
    Category,
    Row,
    category,
    cookie,
    from_device,
    is_ours,
    ports_of,
    to_device,
    vni_of,
)
from vendors.marvell.rows import render_rows

NAMES = ["up", "cpu0", "mrv-geneve", "mrv-vxlan", *WIRING.vfs.values(), *WIRING.vfs]
MAC = "02:00:00:00:cc:01"


@given(st.data())
def test_a_rendered_flow_comes_back_from_the_device_as_it_was(data: st.DataObject) -> None:
    wanted = data.draw(worlds())
    rendering = render_rows(wanted, bound(data.draw(chosen(wanted))), WIRING)
    found = data.draw(
        st.lists(st.integers(1, 60000), min_size=len(NAMES), max_size=len(NAMES), unique=True)
    )
    numbers = dict(zip(NAMES, found, strict=True))
    names = {number: name for name, number in numbers.items()}
    for row in rendering.items.values():
        if isinstance(row, Row):
            sent = to_device(row.flow, numbers, MAC)
            assert not ports_of(sent) & set(NAMES)
            assert from_device(sent, names, MAC) == row.flow


@given(st.sampled_from(Category), st.integers(0, 0xFFFFFF))
def test_a_cookie_says_what_it_was_made_of(why: Category, vni: int) -> None:
    made = Flow(0, 1, "", "drop", cookie(why, vni))
    assert (is_ours(made), category(made), vni_of(made)) == (True, why, vni)
    assert cookie(why, vni) < 1 << 64


@pytest.mark.parametrize(
    ("flow", "ports"),
    [
        pytest.param(Flow(0, 1, "in_port=vf0", "drop"), {"vf0"}, id="match"),
        pytest.param(
            Flow(0, 1, "arp,in_port=vf0", "output:a,output:b"), {"vf0", "a", "b"}, id="all"
        ),
        pytest.param(Flow(0, 1, "in_port=LOCAL", "LOCAL,IN_PORT"), set(), id="reserved"),
        pytest.param(Flow(0, 1, "", TO_TUNNELS), set(), id="its own port"),
    ],
)
def test_the_ports_of_a_flow(flow: Flow, ports: set[str]) -> None:
    assert ports_of(flow) == ports


def test_a_port_without_number_is_an_error_and_a_number_without_port_stays() -> None:
    with pytest.raises(KeyError):
        to_device(Flow(0, 1, "in_port=vf0", "drop"), {}, MAC)
    gone = Flow(0, 1, "in_port=17", "output:18")
    assert from_device(gone, {17: "vf0"}, MAC) == Flow(0, 1, "in_port=vf0", "output:18")
    assert to_device(gone, {}, MAC) == gone


def test_a_flow_of_another_is_read_as_it_is() -> None:
    other = parse_flow("priority=65535 actions=NORMAL")
    assert from_device(other, {1: "up"}, "") == other
    assert not is_ours(other)


def test_every_table_has_a_number_a_name_and_a_purpose_of_its_own() -> None:
    for values in zip(*((t.number, t.name, t.decides) for t in PIPELINE), strict=True):
        assert len(set(values)) == len(PIPELINE)
