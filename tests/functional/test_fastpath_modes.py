"""What ``fastpath`` says and what the kernel lets happen: which wiring a node gets, and why."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bpf import loader
from dataplane import fastpath
from dataplane.config import AgentConfig, parse_config
from dataplane.core.errors import OverweaveError
from dataplane.fastpath import Ebpf, NoEbpf, load_ebpf
from tests.functional.bpf_support import mounted_bpffs
from tests.functional.test_bpf_loader import edit, source

__all__ = ["source"]
MODES = pytest.mark.parametrize("mode", ["auto", "off"])


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    with mounted_bpffs(tmp_path / "bpf") as directory:
        yield directory


def config(state_dir: Path, bpffs: Path, mode: str) -> AgentConfig:
    return parse_config(
        "node: n\nunderlay: {interface: eth0}\nfabric: {remote: 'unix:/f.sock'}\n"
        f"state_dir: {state_dir}\nbpffs: {bpffs}\nfastpath: {mode}\n",
        "test",
    )


@pytest.mark.parametrize("mode", ["auto", "off", "required"])
def test_ebpf_is_loaded_where_it_can_be(tmp_path: Path, bpffs: Path, mode: str) -> None:
    (tmp_path / fastpath.LOG).write_text("of an earlier start", encoding="utf-8")
    found = load_ebpf(config(tmp_path, bpffs, mode))
    assert isinstance(found, Ebpf)
    found.target.close()
    assert found.readings.traffic() == {}
    assert not (tmp_path / fastpath.LOG).exists()


@MODES
def test_no_place_for_pins(tmp_path: Path, mode: str) -> None:
    place = tmp_path / "bpf"
    place.touch()
    found = load_ebpf(config(tmp_path, place, mode))
    assert isinstance(found, NoEbpf)
    assert found.reason.startswith(f"{place} cannot be made a bpffs: ")
    assert (found.traffic(), found.counts()) == ({}, {})


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, source: Path) -> None:
    """Let the verifier refuse what is loaded: it reads behind the packet's end."""
    edit(
        source / "overlay.c",
        "int access_port(struct __sk_buff *skb)\n{\n",
        "int access_port(struct __sk_buff *skb)\n{\n"
        "    if (*((u8 *)(long)skb->data_end + 9) == 7) return 0;\n",
    )
    monkeypatch.setattr(fastpath, "load", partial(loader.load, source=source))


@MODES
def test_the_verifiers_whole_log_is_kept(
    tmp_path: Path, bpffs: Path, refused: None, mode: str
) -> None:
    found = load_ebpf(config(tmp_path, bpffs, mode))
    assert isinstance(found, NoEbpf)
    log = tmp_path / fastpath.LOG
    assert found.reason.endswith(f"(its whole log: {log})")
    assert "\n" not in found.reason
    text = log.read_text(encoding="utf-8")
    assert "invalid" in text  # the verifier's own words
    assert "processed" in text  # and its last line


def test_required_means_required(tmp_path: Path, bpffs: Path, refused: None) -> None:
    with pytest.raises(OverweaveError, match=r"^fastpath: required, but the eBPF programs cannot"):
        load_ebpf(config(tmp_path, bpffs, "required"))


def test_bcc_is_missing(tmp_path: Path, bpffs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "bcc.py").write_text("raise ImportError('No module named bcc')\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", ":".join([str(hidden), *sys.path]))
    found = load_ebpf(config(tmp_path, bpffs, "auto"))
    assert isinstance(found, NoEbpf)
    assert "bcc is missing" in found.reason
    assert "apt-get install python3-bpfcc" in found.reason
