"""What is placed, how a switch's figures are made of samples, and when they meet their aims."""

from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn

import pytest

from bench import e2100, offload, switch_entries, sx904
from bench.figures import YARDSTICK
from bench.offload import Outage, Samples, figures
from bench.vm.kernel import StockKernel
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import Rendering
from dataplane.core.errors import OverweaveError
from dataplane.core.offload import choose
from dataplane.core.reasons import Reason
from dataplane.fabric.intent import plan_apply
from dataplane.fabric.intent_file import read_intent
from dataplane.lab.topology import read_topology
from vendors.intel.pipeline import ENCAPS, SEND, Row
from vendors.intel.pipeline import Wiring as IntelWiring
from vendors.intel.rows import render_rows as render_intel
from vendors.marvell.pipeline import Wiring
from vendors.marvell.report import Findings, capability
from vendors.marvell.rows import render_rows
from vendors.senao.pipeline import Row as Filter
from vendors.senao.rows import render_rows as render_senao

VTEPS = (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
REPRESENTORS = ("rep1", "rep2", "rep3", "rep4")
WIRING = Wiring("br", "up", "cpu0", {rep: f"vf{rep[3:]}" for rep in REPRESENTORS}, "d1")
PORTS = frozenset({"up", "cpu0", *WIRING.vfs.values()})
KNOWN = capability(Findings((), {}, PORTS, VTEPS, None), WIRING, emulated=True)


@pytest.mark.parametrize("count", [8, 1000, 10_000])
def test_entries_are_as_many_as_asked_for_and_all_can_be_placed(count: int) -> None:
    wanted = switch_entries.desired(count, VTEPS, REPRESENTORS)
    placed = switch_entries.keys(wanted)
    assert len(placed) == count
    rendering = render_rows(wanted, switch_entries.bindings(wanted, placed), WIRING)
    assert rendering.pending == ()
    assert len(rendering.items) > count


def test_all_are_chosen_where_there_is_room_and_a_full_table_leaves_the_rest() -> None:
    wanted = switch_entries.desired(2000, VTEPS, REPRESENTORS)
    ways = switch_entries.next_hops(wanted)
    view = switch_entries.busy(wanted, KNOWN)
    assert choose(wanted, view, ways, frozenset()).placed == switch_entries.keys(wanted)
    view = switch_entries.busy(wanted, switch_entries.small(KNOWN))
    choice = choose(wanted, view, ways, frozenset())
    assert 900 < len(choice.placed) <= switch_entries.SMALL_TABLE
    assert set(choice.reasons.values()) == {Reason.TABLE_FULL}
    assert len(choice.placed) + len(choice.reasons) == 2000


def test_the_e2100_s_endpoints_are_behind_as_many_tunnels_as_is_said_and_fit() -> None:
    wanted = switch_entries.desired(e2100.MANY, VTEPS, REPRESENTORS, e2100.SCALE)
    rendering = intel_rows(wanted, switch_entries.bindings(wanted, switch_entries.keys(wanted)))
    assert rendering.pending == ()
    rows = Counter(row.table for row in rendering.items.values() if isinstance(row, Row))
    assert sum(rows[table.name] for table in ENCAPS.values()) == e2100.TUNNELS
    assert rows[SEND.name] == e2100.MANY
    assert max(rows.values()) <= switch_entries.SMALL_TABLE


def intel_rows(wanted: Desired, bound: Bindings) -> Rendering:
    wiring = IntelWiring({rep: 27 + n for n, rep in enumerate(REPRESENTORS)})
    return render_intel(wanted, bound, wiring)


def test_the_sx904_s_endpoints_take_as_many_filters_as_is_said() -> None:
    asked = sx904.wanted()
    rendering = render_senao(asked, switch_entries.all_placed(asked), sx904.WIRING)
    assert (len(rendering.items), rendering.pending) == (sx904.MANY, ())


def test_a_filter_in_words_of_tc() -> None:
    asked = sx904.wanted()
    rows = render_senao(asked, switch_entries.all_placed(asked), sx904.WIRING).items.values()
    of_one = {
        (row.protocol, row.netdev): sx904.batch_line(row)
        for row in rows
        if isinstance(row, Filter) and row.vni == 5002
    }
    _, out, back = of_one.values()
    assert out == (
        "filter add dev rep1 ingress pref 41 protocol ipv6 flower skip_hw dst_mac 02:c1:00:00:00:74"
        " src_mac 02:aa:00:00:00:01 src_ip fd00::1 ip_ttl 0/80"
        " action tunnel_key set id 5002 src_ip 2001:db8::1 dst_ip 2001:db8:51::5 dst_port 6081"
        " ttl 64 nocsum cookie 6f76657277656176650100138a"
        " action mirred egress redirect dev gen0 cookie 6f76657277656176650100138a"
    )
    assert back == (
        "filter add dev gen0 ingress pref 42 protocol all flower skip_hw dst_mac 02:aa:00:00:00:01"
        " enc_key_id 5002 enc_dst_port 6081 enc_src_ip 2001:db8:51::2 enc_dst_ip 2001:db8::1"
        " action tunnel_key unset cookie 6f76657277656176650200138a"
        " action mirred egress redirect dev rep1 cookie 6f76657277656176650200138a"
    )


def test_the_stage_is_valid() -> None:
    topology = read_topology(offload.TOPOLOGY, "stage")
    assert [node.name for node in topology.dpus] == [switch_entries.NODE, e2100.NODE]
    assert len(plan_apply(read_intent(offload.INTENT, "stage"), ()).add) == 2


def samples(bundle: tuple[float, ...] = (1.0, 2.0, 4.0)) -> Samples:
    outage = [Outage(400, 0.8), Outage(500, 0.9), Outage(700, 1.2)]
    return Samples(
        bundle=[*bundle],
        bare=[0.5],
        describe=[0.5],
        render=[0.5],
        look=[0.5],
        withdraw=[0.5],
        replay=[0.4, 1.1, 1.2],
        decide={"room for all": [0.05, 0.09, 0.2]},
        placed=outage,
        unplaced=[Outage(1, 0.1)],
        said={"die": [0.3], "hang": [1.6]},
        e2100=e2100.Samples([1999.0, 2001.0], [5e3], {100: [0.01], 1000: [0.03]}, [1.9], [0.4], 1),
        sx904=sx904.Samples([2000.0, 3000.0, 4000.0], [2100.0, 2000.0, 2000.0], [0.9, 1.1]),
    )


def test_figures_are_medians_and_judged() -> None:
    found = {figure.name: figure for figure in figures(samples())}
    judged = {name: (each.value, each.met) for name, each in found.items() if each.aim is not None}
    assert judged == {
        "entries through OpenFlow bundles": (5000.0, True),
        "replay of 1,000 entries after a reset": (1.1, False),
        "placement decision, 10,000 entries, room for all": (90.0, True),
        "switch dies and restarts, silence": (0.9, True),
        "switch that is told to die, said to be down": (0.3, True),
        "switch that is told to hang, said to be down": (1.6, False),
        "E2100, rows through P4Runtime batches": (1999.0, False),
        "E2100, one endpoint more beside 100": (10.0, True),
        "E2100, one endpoint more beside 1,000": (30.0, False),
        "E2100, replay of 1,000 endpoints over 300 tunnels after a reset": (1.9, True),
        "E2100, rows too many after 100 rounds of churn": (1.0, False),
        "SX904, filters through the kernel's tc": (3000.0, True),
        "SX904, filters : tc -batch": (2000 / 2100, False),
        "SX904, replay of 1,000 filters": (0.9, True),
    }
    lost = found["switch dies and restarts, packets lost"]
    assert (lost.value, lost.spread) == (500, (400, 700))
    assert found[f"{YARDSTICK}switch dies and restarts, silence"].value == 0.1


def test_of_an_emulated_processor_only_ratios_are_judged() -> None:
    taken = sx904.Samples([200.0], [100.0], [9.0], emulated=True)
    judged = {each.name: each.met for each in sx904.figures(taken) if each.met is not None}
    assert judged == {"SX904, filters : tc -batch": True}


def test_where_no_kernel_has_flower_the_rest_is_measured_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse() -> NoReturn:
        raise OverweaveError("apt knows no linux-image-amd64")

    monkeypatch.setattr(sx904, "_has_flower", lambda: False)
    monkeypatch.setattr(sx904, "stock_kernel", refuse)
    expect_none("apt knows no linux-image-amd64")
    monkeypatch.setattr(sx904, "stock_kernel", lambda: StockKernel("6.1", Path("/nowhere")))
    monkeypatch.setenv("PATH", "/nowhere")
    expect_none("there is no qemu-system-x86_64; make setup installs it")


def expect_none(words: str) -> None:
    taken = sx904.take(1)
    assert taken.why_not.endswith(f"no other is to be had: {words}")
    assert [*sx904.figures(taken)] == []


def test_entries_a_second_are_to_be_many() -> None:
    found = {figure.name: figure for figure in figures(samples(bundle=(2.1,)))}
    slow = found["entries through OpenFlow bundles"]
    assert (slow.met, slow.at_least) == (False, True)
    assert found[f"{YARDSTICK}{slow.name}"].value == 20_000
