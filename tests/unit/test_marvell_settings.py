"""The keys of a Marvell DPU's switch: what they mean, and every fault of theirs at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from dataplane.core.errors import InvalidValueError
from ovs_client.database import Tls
from vendors import registry
from vendors.marvell.settings import parse
from vendors.noop import NoSwitch
from vendors.registry import SwitchSettings

GOOD = {"rundir": "/run/openvswitch", "uplink": "up", "cpu": "cpu0", "vfs": ["vf0", "vf1"]}
REPS = ("rep0", "rep1")
FILES = ("private_key", "certificate", "ca_cert")


def test_what_is_left_out_is_as_open_vswitch_has_it() -> None:
    place = parse(GOOD, REPS)
    assert place.bridge == "br-mrv0"
    assert place.database == "unix:/run/openvswitch/db.sock"
    assert place.openflow == "unix:/run/openvswitch/br-mrv0.mgmt"
    assert dict(place.vfs) == {"rep0": "vf0", "rep1": "vf1"}
    assert place.tls is None


def test_remotes_and_certificates(tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in FILES}
    for path in files.values():
        Path(path).touch()
    remotes = {"database": "ssl:[2001:db8::1]:6640,tcp:dpu:6640", "openflow": "ssl:192.0.2.1:6653"}
    place = parse({**GOOD, **remotes, **files}, REPS)
    assert (place.database, place.openflow) == tuple(remotes.values())
    assert place.tls == Tls(*(Path(files[name]) for name in FILES))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"rundir": None}, ["rundir"], id="no rundir"),
        pytest.param({"rundir": "run"}, ["rundir", "absolute"], id="a relative path"),
        pytest.param({"rundir": "/" + "x" * 120}, ["/db.sock", "unix:/PATH"], id="a long path"),
        pytest.param({"rundir": 7, "uplink": "a/b"}, ["rundir", "uplink"], id="two faults"),
        pytest.param({"openflow": "/run/x.mgmt"}, ["openflow", "unix:/PATH"], id="a bare path"),
        pytest.param({"openflow": "tcp:a:1,tcp:b:1"}, ["openflow", "one place"], id="two bridges"),
        pytest.param({"database": "udp:1.2.3.4:5"}, ["database", "tcp:"], id="no such remote"),
        pytest.param({"brigde": "br0"}, ["brigde", "bridge"], id="a misspelt key"),
        pytest.param({"vfs": "vf0"}, ["vfs"], id="no list"),
        pytest.param({"vfs": ["vf0"]}, ["1 vfs for 2 representors"], id="too few VFs"),
        pytest.param({"vfs": ["vf0", "vf0"]}, ["vf0 stands twice"], id="a VF twice"),
        pytest.param({"cpu": "up"}, ["up stands twice"], id="the uplink twice"),
        pytest.param(
            {"cpu": "up", "vfs": ["up"]},
            ["up stands twice", "1 vfs for 2"],
            id="a double and a count",
        ),
        pytest.param(
            {"openflow": "ssl:1.2.3.4:5", "cpu": "up"},
            ["openflow 'ssl:1.2.3.4:5' needs private_key and certificate and ca_cert", "twice"],
            id="TLS without certificates",
        ),
        pytest.param({"ca_cert": "/none"}, ["ca_cert /none", "no such file"], id="no such file"),
        pytest.param({"ca_cert": "/etc/passwd"}, ["go together"], id="one of three"),
    ],
)
def test_every_fault_is_said(change: Mapping[str, Any], words: list[str]) -> None:
    values = {key: value for key, value in {**GOOD, **change}.items() if value is not None}
    with pytest.raises(InvalidValueError) as fault:
        parse(values, REPS)
    for word in words:
        assert word in str(fault.value)


def test_an_unknown_vendor_is_an_error_with_those_that_are_known() -> None:
    with pytest.raises(InvalidValueError, match=r"'acme' has no driver; .*marvell.*noop"):
        registry.make(SwitchSettings("acme", "node-a"))


def test_a_plain_host_has_the_switch_that_does_nothing() -> None:
    assert isinstance(registry.make(SwitchSettings("noop", "node-a")), NoSwitch)


def test_faults_come_before_anything_is_connected() -> None:
    with pytest.raises(InvalidValueError, match="uplink"):
        registry.make(SwitchSettings("marvell", "node-a", REPS, {"rundir": "/run/x"}))
