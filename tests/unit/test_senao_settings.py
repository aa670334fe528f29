"""The keys of an SX904's switch: what they mean, and every fault of theirs at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import Encap
from vendors import registry
from vendors.registry import SwitchSettings
from vendors.senao.driver import SenaoSwitch
from vendors.senao.pipeline import Tunnel, Wiring
from vendors.senao.settings import parse

GOOD = {"uplink": "eth0", "geneve": "genev_sys_6081", "vxlan": "vxlan_sys_4789"}
REPS = ("rep0", "rep1")


def test_what_is_said_is_what_is_meant() -> None:
    settings, wiring = parse(GOOD, REPS)
    tunnels = {Encap.GENEVE: Tunnel("genev_sys_6081"), Encap.VXLAN: Tunnel("vxlan_sys_4789")}
    assert wiring == Wiring(REPS, tunnels, "eth0")
    assert (settings.address, settings.filters) == (None, 4096)


def test_all_else_may_be_said() -> None:
    values = {"uplink": "eth0", "geneve": "g", "address": "unix:/run/x.sock", "filters": 7}
    settings, wiring = parse(values, REPS)
    assert settings.address == Path("/run/x.sock")
    assert settings.filters == 7
    assert set(wiring.tunnels) == {Encap.GENEVE}


@pytest.mark.parametrize(
    ("said", "is_told", "is_set"),
    [
        pytest.param({}, True, False, id="the kernel's"),
        pytest.param({"switchdev": True}, True, True, id="the kernel's, to be a switch"),
        pytest.param({"address": "unix:/a"}, False, False, id="a socket"),
        pytest.param({"address": "unix:/a", "devlink": "unix:/d"}, True, False, id="two sockets"),
    ],
)
def test_the_mode_is_set_only_where_that_is_said(
    said: Mapping[str, Any], is_told: bool, is_set: bool
) -> None:
    settings, _ = parse({**GOOD, **said}, REPS)
    assert (settings.nic is not None, bool(settings.nic and settings.nic.switchdev)) == (
        is_told,
        is_set,
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"uplink": None}, ["uplink"], id="no uplink"),
        pytest.param({"address": "/run/x.sock"}, ["address", "unix:/PATH"], id="a bare path"),
        pytest.param({"address": "unix:x.sock"}, ["address", "absolute"], id="a relative path"),
        pytest.param({"address": "unix:/" + "x" * 120}, ["address", "too long"], id="a long path"),
        pytest.param({"address": 7, "uplink": "a/b"}, ["address", "uplink"], id="two faults"),
        pytest.param({"filters": 0}, ["filters"], id="no filters"),
        pytest.param({"filters": True}, ["filters"], id="no number"),
        pytest.param({"genev": "x"}, ["genev", "geneve"], id="a misspelt key"),
        pytest.param({"vxlan": "genev_sys_6081"}, ["genev_sys_6081 stands twice"], id="one twice"),
        pytest.param({"geneve": "rep1"}, ["rep1 stands twice"], id="a representor"),
        pytest.param({"devlink": "unix:/run/d.sock"}, ["devlink without address"], id="devlink"),
        pytest.param(
            {"address": "unix:/run/x.sock", "switchdev": True},
            ["switchdev needs devlink"],
            id="nobody to set the mode",
        ),
        pytest.param({"switchdev": "yes"}, ["switchdev"], id="no mode"),
    ],
)
def test_every_fault_is_told(change: Mapping[str, Any], words: list[str]) -> None:
    values = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(InvalidValueError) as caught:
        parse(values, REPS)
    for word in words:
        assert word in str(caught.value)


def test_the_registry_makes_it() -> None:
    made = registry.make(SwitchSettings("senao", "node-a", REPS, GOOD))
    assert isinstance(made, SenaoSwitch)
    made.close()
