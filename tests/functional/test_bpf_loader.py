"""The loader's child, pins and bpf(2), on the running kernel."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bpf import loader
from bpf.bpffs import BpffsError, Pins, ensure_mounted, is_bpffs, unmount
from bpf.layout import (
    BPF_MAP_TYPE_HASH,
    BPF_MAP_TYPE_PERCPU_HASH,
    MAPS,
    PROGRAMS,
    XDP_PROGRAM,
    MapSpec,
    encode_ifindex,
)
from bpf.loader import LoadError, load
from bpf.syscalls import (
    BpfError,
    BpfFullError,
    BpfMissingError,
    Map,
    create_map,
    open_map,
    open_program,
    pin,
)
from tests.functional.bpf_support import mounted_bpffs, run

SMALL = MapSpec("small", "=I", "=I", max_entries=2)


@pytest.fixture
def bpffs(tmp_path: Path) -> Iterator[Path]:
    with mounted_bpffs(tmp_path / "bpf") as directory:
        yield directory


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a copy of the C source that a test may change."""
    copy = tmp_path / "source"
    copy.mkdir()
    for path in loader.SOURCE.glob("*.[ch]"):
        shutil.copy(path, copy)
    return copy


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def program_ids(pins: Pins) -> dict[str, int]:
    ids = {}
    for name in PROGRAMS:
        with open_program(pins.program(name)) as program:
            ids[name] = program.info.id
    return ids


def map_ids(pins: Pins) -> dict[str, int]:
    ids = {}
    for spec in MAPS:
        with open_map(pins.map(spec.name)) as found:
            ids[spec.name] = found.info.id
    return ids


def descriptors() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


def ours(bpffs: Path) -> set[str]:
    """Return the names in ``bpffs``, without what the kernel itself puts into every one."""
    return {path.name for path in bpffs.iterdir() if "." not in path.name}


def test_programs_and_maps_are_pinned(bpffs: Path) -> None:
    pins = load(bpffs)
    for name in PROGRAMS:
        with open_program(pins.program(name)) as program:
            kind = 6 if name == XDP_PROGRAM else 3  # linux/bpf.h: BPF_PROG_TYPE_XDP, _SCHED_CLS
            assert (program.info.name, program.info.type) == (name, kind)
    for spec in MAPS:
        with open_map(pins.map(spec.name)) as found:
            info = found.info
            assert (info.name, info.key_size, info.value_size) == (
                spec.name,
                spec.key_size,
                spec.value_size,
            )
    assert {path.stat().st_mode & 0o777 for path in (pins.programs, pins.maps)} == {0o700}


def test_same_source_is_not_compiled_again(bpffs: Path) -> None:
    begin = time.monotonic()
    first = load(bpffs)
    compiled = time.monotonic()
    ids = program_ids(first)
    again = load(bpffs)
    print(f"cold {compiled - begin:.3f} s, warm {time.monotonic() - compiled:.4f} s")
    assert again == first
    assert program_ids(again) == ids


def test_new_version_replaces_programs_and_keeps_maps(bpffs: Path, source: Path) -> None:
    old = load(bpffs, source)
    maps, programs = map_ids(old), program_ids(old)
    with open_map(old.map("glue")) as glue:
        glue.update(encode_ifindex(7), encode_ifindex(8))
    edit(
        source / "overlay.c", "return to ? bpf_redirect(to->ifindex, 0) : TC_ACT_SHOT;", "return 0;"
    )
    new = load(bpffs, source)
    assert map_ids(new) == maps
    assert not set(program_ids(new).values()) & set(programs.values())
    with open_map(new.map("glue")) as glue:
        assert glue.lookup(encode_ifindex(7)) == encode_ifindex(8)
    assert ours(bpffs) == {new.programs.name, new.maps.name}


def test_incomplete_pins_are_made_anew(bpffs: Path) -> None:
    pins = load(bpffs)
    maps = map_ids(pins)
    pins.program("ophy").unlink()
    (bpffs / "loading_1").mkdir()
    assert load(bpffs) == pins
    assert set(program_ids(pins)) == set(PROGRAMS)
    assert map_ids(pins) == maps
    assert ours(bpffs) == {pins.programs.name, pins.maps.name}


def test_programs_follow_when_the_pins_of_their_maps_are_lost(bpffs: Path) -> None:
    pins = load(bpffs)
    before = program_ids(pins)
    for spec in MAPS:
        pins.map(spec.name).unlink()
    load(bpffs)
    assert not set(program_ids(pins).values()) & set(before.values())


def test_verifier_refusal_keeps_the_whole_log(bpffs: Path, source: Path) -> None:
    edit(
        source / "overlay.c",
        "return to ? bpf_redirect(to->ifindex, 0) : TC_ACT_UNSPEC;",
        "return bpf_redirect(to->ifindex, 0);",
    )
    with pytest.raises(LoadError, match=r"underlay.*Permission denied") as refused:
        load(bpffs, source)
    assert "invalid mem access 'map_value_or_null'" in refused.value.log
    assert "processed " in refused.value.log  # the last line of every verifier log
    assert not [name for name in ours(bpffs) if not name.startswith("maps_")]


def test_compiler_error_keeps_the_whole_log(bpffs: Path, source: Path) -> None:
    edit(source / "overlay.c", "return hand_over(skb->ifindex);", "return nothing(skb->ifindex);")
    with pytest.raises(LoadError, match="Failed to compile") as refused:
        load(bpffs, source)
    assert "nothing" in refused.value.log


@pytest.mark.parametrize(
    ("edited", "what"),
    [
        pytest.param(("verdict.h", "__u32 encap; /*", "__u64 encap; /*"), "value of own", id="own"),
        pytest.param(("verdict.h", "local[16]", "local[8]"), "value of entries", id="entry"),
        pytest.param(("maps.h", "u32 reason;", "u64 reason;"), "key of counters", id="counter"),
    ],
)
def test_layout_that_differs_from_python_does_not_compile(
    bpffs: Path, source: Path, edited: tuple[str, str, str], what: str
) -> None:
    file, old, new = edited
    edit(source / file, old, new)
    with pytest.raises(LoadError) as refused:
        load(bpffs, source)
    assert f"bpf/layout.py: {what}" in refused.value.log


def test_failed_version_leaves_the_one_before_in_place(bpffs: Path, source: Path) -> None:
    pins = load(bpffs, source)
    ids = program_ids(pins)
    edit(source / "overlay.c", '#include "maps.h"', "#error broken")
    with pytest.raises(LoadError):
        load(bpffs, source)
    assert program_ids(pins) == ids


def test_map_of_another_layout_is_refused(bpffs: Path) -> None:
    pins = load(bpffs)
    pins.map("own").unlink()
    with create_map(SMALL) as foreign:
        pin(foreign.fd, pins.map("own"))
    with pytest.raises(LoadError, match=f"rm {pins.map('own')}"):
        load(bpffs)


@pytest.mark.parametrize("exists", [True, False], ids=["no-bpffs", "no-directory"])
def test_missing_bpffs_names_the_next_step(tmp_path: Path, *, exists: bool) -> None:
    directory = tmp_path / "plain"
    if exists:
        directory.mkdir()
    with pytest.raises(BpffsError, match=f"mount -t bpf bpf {directory}"):
        load(directory)


def test_read_only_bpffs_is_named_and_works_once_it_is_not(bpffs: Path) -> None:
    remount(bpffs, "ro")
    try:
        with pytest.raises(LoadError, match=rf"Read-only file system.*{bpffs}"):
            load(bpffs)
    finally:
        remount(bpffs, "rw")
    assert not ours(bpffs)
    load(bpffs)


def remount(bpffs: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,bind,{mode}", str(bpffs)], check=True)


def test_mounting_may_be_repeated(bpffs: Path) -> None:
    mounts = Path("/proc/self/mounts")
    before = mounts.read_text(encoding="utf-8")
    ensure_mounted(bpffs)
    assert mounts.read_text(encoding="utf-8") == before
    assert bpffs.stat().st_mode & 0o777 == 0o700


def test_below_the_standard_place_that_is_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/sys/fs/bpf itself, where nobody mounted it; the test must not touch the machine's own."""
    monkeypatch.setattr("bpf.bpffs._STANDARD", tmp_path)
    ensure_mounted(tmp_path / "overweave")
    try:
        assert tmp_path.is_mount()
        assert not (tmp_path / "overweave").is_mount()
        assert (tmp_path / "overweave").stat().st_mode & 0o777 == 0o700
        assert is_bpffs(tmp_path / "overweave")
    finally:
        unmount(tmp_path)


def test_place_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(BpffsError, match=rf"{tmp_path}/file cannot be made a bpffs: .*File exists"):
        ensure_mounted(tmp_path / "file")


@pytest.mark.parametrize("place", ["inner", "."], ids=["inside", "over-it"])
def test_directory_is_judged_by_the_mount_that_is_seen(bpffs: Path, place: str) -> None:
    directory = bpffs / place
    directory.mkdir(exist_ok=True)
    assert is_bpffs(directory)
    run("mount", "-t", "tmpfs", "none", str(directory))
    try:
        assert not is_bpffs(directory)
    finally:
        run("umount", str(directory))


def test_directory_with_a_space_is_found(tmp_path: Path) -> None:
    with mounted_bpffs(tmp_path / "a b") as directory:
        assert is_bpffs(directory)


def test_agent_side_never_imports_bcc(bpffs: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from bpf.loader import load; import bpf.target;"
        " load(Path(sys.argv[1])); sys.exit('bcc' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program, str(bpffs)], check=True)


def test_child_does_not_take_modules_from_where_it_is_started(
    bpffs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bpf.py").write_text("raise SystemExit(9)\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    load(bpffs)


def test_map_operations() -> None:
    with create_map(SMALL) as small:
        assert list(small.items()) == []
        assert small.lookup(b"1111") is None
        small.update(b"1111", b"aaaa")
        small.update(b"2222", b"bbbb")
        small.update(b"1111", b"cccc")
        assert dict(small.items()) == {b"1111": b"cccc", b"2222": b"bbbb"}
        with pytest.raises(BpfFullError, match="map small: Argument list too long"):
            small.update(b"3333", b"dddd")
        small.delete(b"1111")
        with pytest.raises(BpfMissingError):
            small.delete(b"1111")
        assert dict(small.items()) == {b"2222": b"bbbb"}


def test_a_value_of_a_per_cpu_map_is_that_of_every_processor() -> None:
    possible = os.sysconf("SC_NPROCESSORS_CONF")
    spec = MapSpec("counts", "=I", "=Q", max_entries=2, type=BPF_MAP_TYPE_PERCPU_HASH)
    with create_map(spec) as counts:
        counts.update(b"1111", value := (7).to_bytes(8, sys.byteorder) * possible)
        assert counts.lookup(b"1111") == value
        assert dict(counts.items()) == {b"1111": value}
        with pytest.raises(ValueError, match=f"value has 4 bytes, not {8 * possible}"):
            counts.update(b"1111", value[:4])


@pytest.mark.parametrize("kind", [BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_HASH])
@pytest.mark.parametrize("held", [0, 1, 4096, 4097, 9000])
def test_all_of_a_map_is_read_however_much_it_is(kind: int, held: int) -> None:
    spec = MapSpec("many", "=I", "=Q", max_entries=10_000, type=kind)
    with create_map(spec) as many:
        pieces = many._value_size // 8
        wanted = {
            number.to_bytes(4, "big"): number.to_bytes(8, "big") * pieces for number in range(held)
        }
        for key, value in wanted.items():
            many.update(key, value)
        found = list(many.items())
    assert len(found) == held
    assert dict(found) == wanted


@pytest.mark.parametrize("key", [b"", b"123", b"12345"], ids=["empty", "short", "long"])
def test_wrong_key_size_never_reaches_the_kernel(key: bytes) -> None:
    with create_map(SMALL) as small, pytest.raises(ValueError, match=r"key has \d bytes, not 4"):
        small.lookup(key)


def test_missing_pin_is_named(bpffs: Path) -> None:
    with pytest.raises(BpfMissingError, match=f"open pinned {bpffs}/none: No such file"):
        open_map(bpffs / "none")


def test_pin_outside_a_bpffs_says_what_to_do(tmp_path: Path) -> None:
    with create_map(SMALL) as small, pytest.raises(BpfError, match="mount -t bpf"):
        pin(small.fd, tmp_path / "small")


def test_no_descriptor_is_left_open(bpffs: Path) -> None:
    pins = load(bpffs)
    before = descriptors()
    load(bpffs)
    for name in PROGRAMS:
        open_program(pins.program(name)).close()
    with pytest.raises(BpfMissingError):
        open_map(bpffs / "none")
    assert descriptors() == before


def test_closing_twice_is_harmless() -> None:
    small: Map = create_map(SMALL)
    small.close()
    small.close()
    assert small.fd == -1
