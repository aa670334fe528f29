"""Nothing is x86-only: the C of the fast path, compiled with the kernel headers of arm64."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bpf.layout import PROGRAMS
from bpf.loader import SOURCE
from tests.functional.bpf_support import mounted_bpffs

HEADERS = "/usr/aarch64-linux-gnu/include"  # linux-libc-dev-arm64-cross
# The loader's child as it is, but for where the headers are; bcc takes ARCH for the processor.
CHILD = f"""
import sys
from pathlib import Path
from bpf import loader
loader._HEADERS = ("{HEADERS}",)
sys.exit(loader.main(Path(sys.argv[1]), Path(sys.argv[2])))
"""
NATIVE = """
#include "encap.h"
static inline int has_member(const struct member_key *key) { return !key; }
#define FIND(function, key_type, type) \\
    static inline struct type *function(const struct key_type *key) { (void)key; return 0; }
FIND(find_entry, entry_key, entry_value)
FIND(find_neighbour, neighbour_key, neighbour_value)
"""
FOR_ARM64 = """
#if !defined(__aarch64__) || defined(__x86_64__)
#error "compiled for another processor"
#endif
#include <asm/hwcap.h>
_Static_assert(HWCAP_ASIMD == 2, "headers of another processor");
"""
X86_ONLY = [
    pytest.param("#include <asm/ldt.h>\n", "asm/ldt.h", id="header"),
    pytest.param("static int of_x86 = __x86_64__;\n", "__x86_64__", id="macro"),
    pytest.param(
        "#include <asm/ptrace.h>\nstatic struct pt_regs of_x86;\n", "pt_regs", id="registers"
    ),
]


def load_with(tmp_path: Path, more: str) -> subprocess.CompletedProcess[str]:
    """Compile, load and pin the programs for arm64 with ``more`` in front of them."""
    source = tmp_path / "source"
    shutil.copytree(SOURCE, source)
    text = (source / "overlay.c").read_text(encoding="ascii")
    (source / "overlay.c").write_text(more + text, encoding="ascii")
    with mounted_bpffs(tmp_path / "bpf") as bpffs:
        done = subprocess.run(
            [sys.executable, "-c", CHILD, str(bpffs), str(source)],
            env={**os.environ, "ARCH": "arm64"},
            capture_output=True,
            text=True,
            check=False,
        )
        pinned = {path.name for path in bpffs.glob("programs_*/*")}
    assert pinned == (set(PROGRAMS) if done.returncode == 0 else set())
    return done


def compile_natively(tmp_path: Path, more: str) -> subprocess.CompletedProcess[str]:
    """Compile the plain C for arm64 with ``more`` in front of it."""
    (tmp_path / "native.c").write_text(more + NATIVE, encoding="ascii")
    words = "-nostdlibinc -fsyntax-only -Wall -Wextra -Werror -Wno-address-of-packed-member"
    command = ["clang", "--target=aarch64-linux-gnu", "-std=gnu11", *words.split()]
    return subprocess.run(
        [*command, "-isystem", HEADERS, f"-I{SOURCE}", str(tmp_path / "native.c")],
        capture_output=True,
        text=True,
        check=False,
    )


Build = Callable[[Path, str], subprocess.CompletedProcess[str]]
BUILDS = [pytest.param(load_with, id="bcc"), pytest.param(compile_natively, id="native")]


@pytest.mark.parametrize("build", BUILDS)
def test_it_compiles_for_arm64(build: Build, tmp_path: Path) -> None:
    done = build(tmp_path, FOR_ARM64)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(("x86_only", "what"), X86_ONLY)
@pytest.mark.parametrize("build", BUILDS)
def test_what_is_x86_only_is_refused(
    build: Build, tmp_path: Path, x86_only: str, what: str
) -> None:
    done = build(tmp_path, x86_only)
    assert done.returncode != 0
    assert what in done.stderr
