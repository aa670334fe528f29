"""What an agent without eBPF takes away of one with it, and when."""

from dataplane.core.desired import Bindings
from dataplane.core.diff import diff
from dataplane.host.glue import Foregone, GlueTarget
from dataplane.netlink.tc import BpfFilter, Slot
from tests.unit.overlay_builders import GENEVE4, NIC, VTEP4, desired, port, remote, view

NUMBERS = {NIC.name: 7, "ophy0": 8, "vp1": 101, "ot1": 201}
LEFT = {
    each.key: each
    for each in (
        Foregone(BpfFilter(Slot(number), 1, "overweave:any", direct_action=True), name)
        for name, number in NUMBERS.items()
    )
}


def gone(*, synced: bool = True, missing: str = "") -> set[str]:
    """Return the netdevs that lose what eBPF has left."""
    wanted = desired(
        view(GENEVE4, [port(1, GENEVE4)], [remote(11, GENEVE4, VTEP4[0])], synced=synced)
    )
    found = {name: number for name, number in NUMBERS.items() if name != missing}
    rendering = GlueTarget().render(wanted, Bindings(ifindexes=found))
    change = diff(rendering, LEFT)
    return {item.netdev for item in change.remove.values() if isinstance(item, Foregone)}


def test_filters_go_once_all_redirects_are_known() -> None:
    assert gone() == set(NUMBERS)


def test_a_pod_keeps_its_filter_until_its_other_end_is_there() -> None:
    assert gone(missing="ot1") == {NIC.name, "ophy0", "ot1"}


def test_the_nic_keeps_its_filter_until_every_peer_is_known() -> None:
    assert gone(synced=False) == {"ophy0", "vp1", "ot1"}
