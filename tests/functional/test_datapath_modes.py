"""What ``datapath`` says, and what Open vSwitch and the kernel have: which one a node gets."""

from __future__ import annotations

import errno
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane import datapath
from dataplane.config import AgentConfig, DatapathChoice, parse_config
from dataplane.core.desired import Datapath
from dataplane.core.errors import OverweaveError
from dataplane.core.model import Encap
from dataplane.datapath import choose_datapath
from dataplane.netlink import links
from dataplane.netlink.generic import has_family
from dataplane.netlink.links import has_tunnels
from dataplane.netlink.rtnl import KernelError, Rtnl
from ovs_client.daemons import OvsInstance, Place, run

NO_MODULE = "the kernel has no datapath for Open vSwitch (load its module openvswitch)"
MANAGED = "with ovs.manage the kernel's datapath is left to the node's own Open vSwitch"


def config(mode: str, rundir: Path, manage: str = "false") -> AgentConfig:
    return parse_config(
        "node: n\nunderlay: {interface: eth0}\nfabric: {remote: 'unix:/f.sock'}\n"
        f"ovs: {{rundir: {rundir}, manage: {manage}}}\ndatapath: {mode}\n",
        "test",
    )


@pytest.fixture
def ovs(tmp_path: Path) -> Iterator[OvsInstance]:
    instance = OvsInstance(Place(tmp_path, tmp_path))
    instance.server.start()
    run(["ovs-vsctl", f"--db={instance.remote}", "--no-wait", "init"])
    yield instance
    instance.stop()


@pytest.fixture
def kernel_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer for a kernel with the module; one that has it, tests/vm asks."""
    monkeypatch.setattr(datapath, "has_family", lambda name: name == "ovs_datapath")
    monkeypatch.setattr(datapath, "has_tunnels", lambda kind: kind in ("geneve", "vxlan"))


def test_the_kernel_says_which_families_it_has(caplog: pytest.LogCaptureFixture) -> None:
    assert has_family("nlctrl")
    assert not has_family("ow-no-such")
    assert not [each for each in caplog.records if each.levelno > logging.DEBUG]
    with pytest.raises(KernelError, match="of generic netlink: Invalid argument"):
        has_family("x" * 100)  # longer than any name can be


def test_the_kernel_says_which_tunnels_it_has_and_keeps_none() -> None:
    """That it has Geneve, tests/vm shows: there the kernel's datapath is asked for."""
    with Rtnl() as rtnl:
        before = links.every(rtnl)
        assert has_tunnels(Encap.VXLAN)
        assert not has_tunnels("ow-no-such")
        assert links.every(rtnl) == before


@pytest.mark.usefixtures("kernel_has_it")
@pytest.mark.parametrize("lacking", ["geneve", "vxlan", "geneve and no vxlan"])
@pytest.mark.parametrize("mode", ["auto", "kernel"])
def test_a_kernel_without_tunnels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, lacking: str
) -> None:
    monkeypatch.setattr(datapath, "has_tunnels", lambda kind: kind not in lacking)
    why = f"the kernel has no {lacking} (load its module)"
    if mode == "kernel":
        with pytest.raises(OverweaveError, match=f"^datapath: kernel, but {re.escape(why)}$"):
            choose_datapath(config(mode, tmp_path))
        return
    assert str(choose_datapath(config(mode, tmp_path))) == f"userspace, because {why}"


@pytest.mark.parametrize("mode", ["auto", "kernel", "userspace"])
def test_a_kernel_without_the_module(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datapath, "_FAMILY", "ow-no-such")
    if mode == "kernel":
        with pytest.raises(OverweaveError, match="datapath: kernel, but the kernel has no"):
            choose_datapath(config(mode, tmp_path))
        return
    found = choose_datapath(config(mode, tmp_path))
    assert found.datapath is Datapath.USERSPACE
    shown = f"userspace, because {NO_MODULE}" if mode == "auto" else "userspace"
    assert str(found) == shown


def test_a_kernel_that_does_not_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_name: str) -> bool:
        raise KernelError("look up a family", errno.EPERM)

    monkeypatch.setattr(datapath, "has_family", refuse)
    assert str(choose_datapath(config("auto", tmp_path))).startswith("userspace, because look up")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        pytest.param((), "kernel", id="both"),
        pytest.param(("--disable-system",), "netdev only", id="userspace-only"),
    ],
)
def test_open_vswitch_says_what_it_has(
    ovs: OvsInstance, kernel_has_it: None, words: tuple[str, ...], shown: str
) -> None:
    ovs.place.start("ovs-vswitchd", *words, ovs.remote)
    assert str(choose_datapath(config("auto", ovs.place.directory))).endswith(shown)


@pytest.mark.parametrize("started", [False, True], ids=["away", "before-ovs-vswitchd"])
def test_what_open_vswitch_does_not_say_changes_nothing(
    tmp_path: Path, kernel_has_it: None, monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    """An agent that starts before it, or while it is away, must not take down what is there."""
    monkeypatch.setattr(datapath, "_OVS_TIMEOUT_S", 0.5)
    server = OvsInstance(Place(tmp_path, tmp_path)).server
    if started:
        server.start()
    try:
        assert str(choose_datapath(config("auto", tmp_path))) == "kernel"
    finally:
        server.stop()


@pytest.mark.parametrize("mode", ["auto", "kernel"])
def test_two_do_not_share_the_kernels(tmp_path: Path, kernel_has_it: None, mode: str) -> None:
    """The configuration itself does not take both; ``--datapath`` comes after it."""
    managed = config("auto", tmp_path, manage="true")
    chosen = managed.model_copy(update={"datapath": DatapathChoice(mode)})
    if mode == "kernel":
        with pytest.raises(OverweaveError, match=MANAGED):
            choose_datapath(chosen)
    else:
        assert MANAGED in str(choose_datapath(chosen))
