"""An emulated switch as a lab starts it; sockets on its TAPs are host, DPU and wire."""

from __future__ import annotations

import os
import secrets
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import yaml
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Dot1Q, Ether
from scapy.packet import Packet, Raw

from dataplane.core.errors import OverweaveError
from dataplane.netlink.netns import Netns
from ovs_client import process
from vendors.emulator.control import tell
from vendors.emulator.relay import open_port, receive

HOST, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
PLACES = ("switch", "host", "dpu", "wire")
SETTLE_S = 0.4
VFS = 3
OTHER_END = {"up": "cpu0", "cpu0": "up"}
OTHER_END |= {f"vf{number}": f"rep{number}" for number in range(VFS)}
OTHER_END |= {f"rep{number}": f"vf{number}" for number in range(VFS)}
START_S = 20.0


def run(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def frame(size: int = 60, *, tagged: bool = False) -> bytes:
    head: Packet = Ether(src=HOST, dst=OTHER)
    if tagged:
        head /= Dot1Q(vlan=7)
    upper = IP(src="10.0.0.1", dst="10.0.0.2") / UDP(sport=1, dport=2) / Raw(os.urandom(size))
    return bytes(head / upper)


class EmulatedSwitch:
    """A daemon with two VFs, and the TAPs that its ports end in."""

    TAPS: Mapping[str, tuple[str, str]] = {
        "vf0": ("host", "vf0"),
        "vf1": ("host", "vf1"),
        "rep0": ("dpu", "rep0"),
        "rep1": ("dpu", "rep1"),
        "cpu0": ("dpu", "eth0"),
        "up": ("wire", "d1"),
    }

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "d1"
        self.directory.mkdir(exist_ok=True)
        mark = uuid4().hex[:6]
        self.names = {place: f"emu-{mark}-{place}" for place in PLACES}
        self.config = self.directory / "switch.yaml"
        self.control = self.directory / "control.sock"
        self.sockets: dict[str, socket.socket] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        for name in self.names.values():
            run("ip", "netns", "add", name)
        self.config.write_text(yaml.safe_dump(self.settings()), encoding="utf-8")
        self.start()

    def settings(self) -> dict[str, Any]:
        def port(name: str) -> dict[str, str]:
            place, netdev = self.TAPS[name]
            return {"port": name, "netdev": netdev, "netns": str(self.space(place))}

        return {
            "run_dir": str(self.directory),
            "uplink": port("up"),
            "cpu": port("cpu0"),
            "vfs": [port("vf0"), port("vf1")],
            "representors": [port("rep0"), port("rep1")],
        }

    def space(self, place: str) -> Path:
        return Path("/run/netns") / self.names[place]

    def start(self) -> None:
        words = [sys.executable, "-m", "vendors.emulator", "--config", str(self.config)]
        with (self.directory / "emulator.log").open("ab") as log:
            inside = ["nsenter", f"--net={self.space('switch')}", *words]
            self.process = subprocess.Popen(inside, stderr=log, cwd="/")
        assert process.wait_until(self.answers, START_S), (
            self.directory / "emulator.log"
        ).read_text()
        self.listen()

    def answers(self) -> bool:
        with suppress(OverweaveError):
            return bool(tell(self.control, "ping") == "pong")
        return False

    def listen(self) -> None:
        """Bring every TAP up and open a socket on it."""
        for name in self.TAPS:
            self.listen_on(name)

    def listen_on(self, name: str) -> None:
        place, netdev = self.TAPS[name]
        quiet = f"net.ipv6.conf.{netdev}.disable_ipv6=1"
        run("ip", "netns", "exec", self.names[place], "sysctl", "-qw", quiet)
        run("ip", "-n", self.names[place], "link", "set", netdev, "up")
        if name in self.sockets:
            self.sockets[name].close()
        self.sockets[name] = self.opened(place, netdev)

    def opened(self, place: str, netdev: str) -> socket.socket:
        with Netns(str(self.space(place))) as space:
            return space.run(lambda: open_port(netdev))

    def tell(self, *words: str) -> Any:
        return tell(self.control, *words)

    def heard(self) -> list[bytes]:
        """Return what has come out of TAPs and was not looked at."""
        found = []
        for each in self.sockets.values():
            with suppress(BlockingIOError):
                while True:
                    found.append(receive(each))
        return [frame for frame in found if frame is not None]

    def ask(self, port: str, frame: bytes) -> dict[str, list[bytes]]:
        """Send ``frame`` into a TAP, and return what comes out of others, by port."""
        self.heard()
        self.sockets[port].send(frame)
        found: dict[str, list[bytes]] = {}
        until = time.monotonic() + SETTLE_S
        while (left := until - time.monotonic()) > 0:
            for ready in select.select(list(self.sockets.values()), [], [], left)[0]:
                received = receive(ready)
                if received is not None:
                    name = next(n for n, each in self.sockets.items() if each is ready)
                    found.setdefault(name, []).append(received)
                    until = time.monotonic() + SETTLE_S / 4
        return found

    def crash(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)

    def clear(self) -> None:
        self.stop()
        for each in self.sockets.values():
            each.close()
        for name in self.names.values():
            run("ip", "netns", "delete", name)


class ThreeVfs(EmulatedSwitch):
    """A switch with a VF more, of whose answers no frame comes late."""

    TAPS: Mapping[str, tuple[str, str]] = {
        **{f"vf{number}": ("host", f"vf{number}") for number in range(VFS)},
        **{f"rep{number}": ("dpu", f"rep{number}") for number in range(VFS)},
        "cpu0": ("dpu", "eth0"),
        "up": ("wire", "d1"),
    }

    def settings(self) -> dict[str, Any]:
        def port(name: str) -> dict[str, str]:
            place, netdev = self.TAPS[name]
            return {"port": name, "netdev": netdev, "netns": str(self.space(place))}

        return {
            **super().settings(),
            "vfs": [port(f"vf{number}") for number in range(VFS)],
            "representors": [port(f"rep{number}") for number in range(VFS)],
        }

    def ask(self, port: str, frame: bytes) -> dict[str, list[bytes]]:
        """Send ``frame`` into a TAP, and return what comes out of others, by port.

        Each port's frames are forwarded in their order: once a second frame that always misses is
        out, nothing more comes of the first.
        """
        self.heard()
        fence = b"\xff" * 6 + b"\x02\x99\x00\x00\x00\x01\x88\xb6" + secrets.token_bytes(50)
        self.sockets[port].send(frame)
        self.sockets[port].send(fence)
        found: dict[str, list[bytes]] = {}
        give_up = time.monotonic() + 5
        while fence not in found.get(OTHER_END[port], []):
            left = give_up - time.monotonic()
            assert left > 0, f"a frame that always misses was lost at {port}"
            for ready in select.select(list(self.sockets.values()), [], [], left)[0]:
                if (received := receive(ready)) is not None:
                    name = next(n for n, each in self.sockets.items() if each is ready)
                    found.setdefault(name, []).append(received)
        for name, each in self.sockets.items():
            with suppress(BlockingIOError):
                while True:
                    if (received := receive(each)) is not None:
                        found.setdefault(name, []).append(received)
        found[OTHER_END[port]].remove(fence)
        return {name: frames for name, frames in found.items() if frames}


class EmulatedOcteon(EmulatedSwitch):
    """A Marvell Octeon 10."""

    def settings(self) -> dict[str, Any]:
        return {
            **super().settings(),
            "vendor": "marvell",
            "netns": str(self.space("switch")),
            "bridge": "br-mrv0",
            "addresses": ["192.0.2.1", "2001:db8::1"],
            "mtu": 1500,
        }

    def ofctl(self, *words: str) -> str:
        """Run ovs-ofctl through the switch's OpenFlow channel."""
        target = f"unix:{self.directory}/openflow.sock"
        options = [word for word in words if word.startswith("--")]
        command, *rest = [word for word in words if not word.startswith("--")]
        return run("ovs-ofctl", "-O", "OpenFlow14", "--timeout=5", *options, command, target, *rest)

    def vsctl(self, *words: str) -> str:
        return run("ovs-vsctl", f"--db=unix:{self.directory}/ovs/db.sock", "--timeout=5", *words)

    def clear(self) -> None:
        self.stop()
        for program in ("ovs-vswitchd", "ovsdb-server"):
            pidfile = self.directory / "ovs" / f"{program}.pid"
            if pidfile.exists():
                number = int(pidfile.read_text())
                if process.is_running(number, f"--pidfile={pidfile}", program):
                    os.kill(number, 9)
        super().clear()


class EmulatedE2100(EmulatedSwitch):
    """An Intel IPU E2100."""

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "vendor": "intel"}

    @property
    def target(self) -> str:
        """Return where it speaks P4Runtime, as gRPC names it."""
        return f"unix:{self.directory}/p4runtime.sock"


class EmulatedSx904(EmulatedSwitch):
    """A Senao SX904."""

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "vendor": "senao"}

    @property
    def rtnetlink(self) -> Path:
        return self.directory / "rtnetlink.sock"

    @property
    def devlink(self) -> Path:
        return self.directory / "devlink.sock"


Kind = TypeVar("Kind", bound=EmulatedSwitch)


@contextmanager
def emulated_switch(kind: type[Kind], directory: Path) -> Iterator[Kind]:
    """Provide a running emulated switch whose files are in ``directory``."""
    switch = kind(directory)
    try:
        switch.make()
        yield switch
    finally:
        switch.clear()
