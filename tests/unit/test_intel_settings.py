"""The keys of an Intel IPU's switch: what they mean, and every fault of theirs at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dataplane.core.errors import InvalidValueError
from vendors import registry
from vendors.intel.client import ROLE, Certificates, Server
from vendors.intel.driver import IntelSwitch
from vendors.intel.pipeline import Wiring
from vendors.intel.settings import parse
from vendors.registry import SwitchSettings

GOOD = {"address": "192.0.2.1:9559", "vfs": [27, 28]}
REPS = ("rep0", "rep1")
FILES = ("private_key", "certificate", "ca_cert")


def test_what_is_left_out_is_as_intel_has_it() -> None:
    assert parse(GOOD, REPS) == (
        Server("192.0.2.1:9559", 1, ROLE),
        Wiring({"rep0": 27, "rep1": 28}, 0),
    )


def test_all_may_be_said(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in FILES}
    for path in files.values():
        path.touch()
    texts = {name: str(path) for name, path in files.items()}
    more = {"address": "[2001:db8::1]:9559", "device_id": 7, "role": "", "uplink": 1}
    assert parse({**GOOD, **more, **texts}, REPS) == (
        Server("[2001:db8::1]:9559", 7, "", Certificates(**files)),
        Wiring({"rep0": 27, "rep1": 28}, 1),
    )
    assert parse({**GOOD, "address": "unix:/run/p4.sock"}, REPS)[0].address == "unix:/run/p4.sock"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"address": None}, ["address"], id="no address"),
        pytest.param({"address": "192.0.2.1"}, ["address"], id="no port"),
        pytest.param({"address": "2001:db8::1:9559"}, ["address"], id="IPv6 without brackets"),
        pytest.param({"vfs": [0, 2048]}, ["vfs"], id="no VSIs"),
        pytest.param({"vfs": [27, 27]}, ["VSI 27 stands twice"], id="a VF twice"),
        pytest.param({"vfs": [27]}, ["1 vfs for 2 representors"], id="too few VFs"),
        pytest.param({"uplink": 2}, ["uplink"], id="no such wire port"),
        pytest.param({"device": 1}, ["device", "device_id"], id="a misspelt key"),
        pytest.param({"ca_cert": "/none"}, ["go together", "no file /none"], id="one file alone"),
    ],
)
def test_every_fault_is_told(change: Mapping[str, Any], words: list[str]) -> None:
    values = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(InvalidValueError) as caught:
        parse(values, REPS)
    for word in ("switch: ", *words):
        assert word in str(caught.value)


def test_the_registry_makes_it_and_needs_no_device_for_it() -> None:
    made = registry.make(SwitchSettings("intel", "node-a", REPS, GOOD))
    assert isinstance(made, IntelSwitch)
    made.close()
