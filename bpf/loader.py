"""Compiles, loads and pins the programs in a short-lived child: LLVM stays out of the agent.

The child has the only ``import bcc``; ``load`` is the agent's side.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

from bpf.bpffs import Pins, require_bpffs
from bpf.layout import MAPS, PROGRAMS, XDP_PROGRAM, MapSpec, layout_hash
from bpf.syscalls import BpfError, BpfMissingError, Map, create_map, open_map, pin
from dataplane.core.errors import OverweaveError

SOURCE = Path(__file__).parent
_STUBS = SOURCE / "stubs"
# Those of linux-libc-dev, behind the stubs: bcc switches the compiler's own search off.
_HEADERS = ("/usr/include", f"/usr/include/{sysconfig.get_config_var('MULTIARCH')}")
_MAIN = "overlay.c"
_PROGRAMS = "programs_"  # no dots: bpffs refuses them in names
_MAPS = "maps_"
_LOADING = "loading_"
_TIMEOUT_S = 120  # half a second here; twenty on an emulated processor


class LoadError(OverweaveError):
    """The programs cannot be loaded; ``log`` is all that compiler and verifier said, whole."""

    def __init__(self, message: str, log: str = "") -> None:
        """Keep the log beside the sentence."""
        super().__init__(message)
        self.log = log


def load(bpffs: Path, source: Path = SOURCE) -> Pins:
    """Return where programs and maps are pinned below ``bpffs``, compiling only what is not there.

    Programs are replaced when their source changed; maps live on unless their layout changed.
    Raises BpffsError, LoadError.
    """
    require_bpffs(bpffs)
    pins = _pins(bpffs, source)
    if not _complete(pins):
        _spawn(bpffs, source)
    return pins


def _pins(bpffs: Path, source: Path) -> Pins:
    layout = layout_hash()
    return Pins(
        programs=bpffs / f"{_PROGRAMS}{_source_hash(source, layout)}",
        maps=bpffs / f"{_MAPS}{layout}",
    )


def _source_hash(source: Path, layout: str) -> str:
    digest = sha256(layout.encode())
    for path in [*sorted(source.glob("*.[ch]")), *sorted(_STUBS.rglob("*.h"))]:
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _complete(pins: Pins) -> bool:
    if not all(pins.program(name).exists() for name in PROGRAMS):
        return False
    for spec in MAPS:
        path = pins.map(spec.name)
        if not path.exists():
            return False
        with open_map(path) as found:
            _check_layout(path, spec, found)
    return True


def _spawn(bpffs: Path, source: Path) -> None:
    # -P: a directory named bpf where the agent happens to be started is not ours.
    command = [sys.executable, "-P", "-m", "bpf.loader", str(bpffs), str(source)]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"compiling the eBPF programs took longer than {_TIMEOUT_S} s") from error
    if done.returncode != 0:
        reason = done.stdout.strip() or f"the loader ended with status {done.returncode}"
        raise LoadError(f"the eBPF programs cannot be loaded: {reason}", done.stderr)


def _check_layout(path: Path, spec: MapSpec, found: Map) -> None:
    info = found.info
    real = (info.type, info.key_size, info.value_size, info.max_entries, info.flags)
    wanted = (spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags)
    if real != wanted:
        raise LoadError(
            f"pinned map {path} has (type, key bytes, value bytes, entries, flags) {real} and not"
            f" {wanted}: it is none of ours; remove it with: rm {path}"
        )


# What follows runs in the child.


def main(bpffs: Path, source: Path) -> int:
    """Compile, load and pin; a fault goes to standard output as one sentence. Return 0 or 1."""
    try:
        _build(_pins(bpffs, source), source)
    except (OverweaveError, OSError) as error:
        print(error)  # noqa: T201 standard output is the way back to the parent
        return 1
    _remove_others(bpffs, keep=_pins(bpffs, source))
    return 0


def _build(pins: Pins, source: Path) -> None:
    _remove(pins.programs)  # there in part, or bound to maps whose pins are gone
    _pin_maps(pins)
    descriptors = _compile(pins, source)
    staging = pins.programs.with_name(f"{_LOADING}{os.getpid()}")
    staging.mkdir(mode=0o700)
    for name, descriptor in descriptors.items():
        pin(descriptor, staging / name)
    staging.rename(pins.programs)  # whole or not at all


def _pin_maps(pins: Pins) -> None:
    pins.maps.mkdir(mode=0o700, exist_ok=True)
    for spec in MAPS:
        path = pins.map(spec.name)
        with _open_or_create(path, spec) as found:
            _check_layout(path, spec, found)


def _open_or_create(path: Path, spec: MapSpec) -> Map:
    try:
        return open_map(path)
    except BpfMissingError:
        created = create_map(spec)
    try:
        pin(created.fd, path)
    except BpfError:
        created.close()
        raise
    return created


def _compile(pins: Pins, source: Path) -> Mapping[str, int]:
    """Return the descriptor of each loaded program; bcc itself logs to standard error."""
    try:
        from bcc import BPF  # noqa: PLC0415 the child alone may bring LLVM in
    except ImportError as error:
        raise LoadError(f"bcc is missing ({error}); run: apt-get install python3-bpfcc") from error
    os.environ["BCC_KERNEL_SOURCE"] = str(_STUBS)
    try:
        module = BPF(src_file=str(source / _MAIN), cflags=[*_cflags(pins, source)])
        kinds = dict.fromkeys(PROGRAMS, BPF.SCHED_CLS) | {XDP_PROGRAM: BPF.XDP}
        return {name: module.load_func(name, kind).fd for name, kind in kinds.items()}
    except Exception as error:  # bcc raises nothing more particular
        raise LoadError(f"{error}; the log says where") from error


def _cflags(pins: Pins, source: Path) -> Iterator[str]:
    yield "-Werror=implicit-function-declaration"  # else the verifier says it, in other words
    yield f"-I{source}"
    for directory in _HEADERS:
        yield f"-idirafter{directory}"
    yield f'-DMAPS_DIRECTORY="{pins.maps}"'
    for spec in MAPS:
        name = spec.name.upper()
        yield f"-D{name}_KEY_SIZE={spec.key_size}"
        yield f"-D{name}_VALUE_SIZE={spec.value_size}"
        yield f"-D{name}_ENTRIES={spec.max_entries}"
        yield f"-D{name}_FLAGS={spec.flags}"


def _remove_others(bpffs: Path, keep: Pins) -> None:
    """Unpin other versions; one that is still attached lives until its filter is replaced."""
    for prefix in (_PROGRAMS, _MAPS, _LOADING):
        for directory in bpffs.glob(f"{prefix}*"):
            if directory not in {keep.programs, keep.maps}:
                _remove(directory)


def _remove(directory: Path) -> None:
    if directory.is_dir():
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
