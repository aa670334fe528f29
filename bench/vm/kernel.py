"""Debian's stock kernel, fetched by apt and made ready to boot without being installed."""

from __future__ import annotations

import lzma
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

from dataplane.core.errors import OverweaveError

_META_PACKAGE = "linux-image-amd64"
_INIT = Path(__file__).with_name("init")
# What is no part of the kernel itself in Debian: the machine's disks, and what is asked of it.
_MODULES = (
    *("virtio_pci", "9pnet_virtio", "9p", "overlay", "virtio_rng"),
    *("veth", "tun", "sch_ingress", "cls_bpf"),
    *("bridge", "cls_u32", "act_mirred", "openvswitch", "vport_geneve", "vport_vxlan"),
    *("cls_flower", "act_tunnel_key", "act_gact"),
)
_XZ = b"\xfd7zXZ\0"
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "overweave" / "kernels"


@dataclass(frozen=True)
class StockKernel:
    """A kernel and the initramfs that goes with it."""

    release: str
    directory: Path

    @property
    def image(self) -> Path:
        """Return the kernel, decompressed: an emulated processor would take seconds for it."""
        return self.directory / "vmlinux"

    @property
    def initramfs(self) -> Path:
        """Return what mounts this machine's files and goes on from there."""
        return self.directory / "initramfs.gz"


def stock_kernel() -> StockKernel:
    """Return the newest kernel that apt knows, from the cache if it was made before.

    Raises OverweaveError if it cannot be had.
    """
    package = _package()
    recipe = sha256(_INIT.read_bytes() + Path(__file__).read_bytes()).hexdigest()[:12]
    release = package.removeprefix("linux-image-")
    kernel = StockKernel(release, _CACHE / f"{release}-{recipe}")
    if not kernel.directory.is_dir():
        _CACHE.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=_CACHE) as scratch:
            made = StockKernel(release, Path(scratch, "made"))
            _make(package, made, Path(scratch))
            made.directory.rename(kernel.directory)  # whole or not at all
    return kernel


def _package() -> str:
    pattern = r"Depends: (linux-image-\d\S+)"
    found = re.search(pattern, _run("apt-cache", "depends", _META_PACKAGE, check=False))
    if not found:
        _run("apt-get", "-q", "update")
        found = re.search(pattern, _run("apt-cache", "depends", _META_PACKAGE))
    if found is None:
        raise OverweaveError(f"apt knows no {_META_PACKAGE}; only Debian's amd64 kernel is started")
    return found.group(1)


def _make(package: str, kernel: StockKernel, scratch: Path) -> None:
    kernel.directory.mkdir()
    tree = scratch / "tree"
    _run("dpkg", "-x", str(_download(package, scratch)), str(tree))
    compressed = (tree / "boot" / f"vmlinuz-{kernel.release}").read_bytes()
    image = lzma.LZMADecompressor().decompress(compressed[compressed.index(_XZ) :])
    kernel.image.write_bytes(image)
    _run("depmod", "-b", str(tree), kernel.release)
    _make_initramfs(kernel, tree, scratch / "initramfs")


def _download(package: str, scratch: Path) -> Path:
    """Let apt fetch and verify the package; what its lists name may be there no more."""
    command = ("apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", package)
    if not (_run(*command, cwd=scratch, check=False) and [*scratch.glob("*.deb")]):
        _run("apt-get", "-q", "update")
        _run(*command, cwd=scratch)
    (found,) = scratch.glob("*.deb")
    return found


def _make_initramfs(kernel: StockKernel, tree: Path, root: Path) -> None:
    for name in ("bin", "modules", "proc", "sys", "dev", "lower", "upper", "newroot"):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin")
    shutil.copy(_INIT, root / "init")
    (root / "init").chmod(0o755)
    files = _module_files(kernel.release, tree)
    for file in files:
        shutil.copy(file, root / "modules")
    (root / "modules" / "order").write_text("".join(f"{Path(f).name}\n" for f in files))
    pack = 'find . | cpio -o -H newc --quiet | gzip -1 >"$0"'
    _run("bash", "-o", "pipefail", "-c", pack, str(kernel.initramfs), cwd=root)


def _module_files(release: str, tree: Path) -> list[str]:
    """Return the modules in the order in which they can be loaded."""
    files: dict[str, None] = {}
    for module in _MODULES:
        said = _run("modprobe", "-d", str(tree), "-S", release, "--show-depends", module)
        files |= dict.fromkeys(re.findall(r"^insmod (\S+)", said, re.MULTILINE))
    return list(files)


def _run(*command: str, cwd: Path | None = None, check: bool = True) -> str:
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise OverweaveError(f"there is no {command[0]}; make setup installs it") from error
    if check and done.returncode != 0:
        raise OverweaveError(f"{' '.join(command)}: {done.stderr or done.stdout}")
    return done.stdout
