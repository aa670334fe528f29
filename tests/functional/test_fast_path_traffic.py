"""Pings and TCP between pods of two nodes that have nothing but the programs.

There is no Open vSwitch here: what the fast path leaves is lost. A veth is the underlay.
"""

from __future__ import annotations

import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from bpf.bpffs import Pins
from bpf.layout import decode_count, decode_counter_key, encode_entry_key, traffic_of
from bpf.loader import load
from bpf.syscalls import open_map
from bpf.target import OPHY, FastpathTarget
from dataplane.core.desired import Bindings, Desired
from dataplane.core.diff import diff
from dataplane.core.model import Family, IpAddress
from dataplane.core.reasons import Reason
from tests.functional.bpf_support import Namespace, Tap, mounted_bpffs, namespace
from tests.packets.paths import SOURCE
from tests.unit.overlay_builders import (
    GENEVE4,
    GENEVE6,
    MTU,
    NIC,
    OWN4,
    OWN6,
    VTEP4,
    VTEP6,
    VXLAN4,
    VXLAN6,
    desired,
    ips_of,
    mac_of,
    port,
    remote,
    view,
)

FAR = 10  # workload N on one node talks to FAR + N on the other, on the same segment
SEGMENTS = {1: GENEVE4, 2: GENEVE6, 3: VXLAN4, 4: VXLAN6}
VTEPS: tuple[tuple[IpAddress, IpAddress], ...] = ((OWN4, OWN6), (VTEP4[0], VTEP6[0]))
PAYLOAD = bytes(range(256)) * (1 << 12)  # 1 MiB
LEFT_ANYHOW = {Reason.IP_OPTIONS, Reason.ANSWERED}  # a pod's MLD reports; its questions
_TCP_PORT = 5000
_PATIENCE_S = 30  # an emulated processor is slow


@dataclass(frozen=True)
class Node:
    """Number 0 or 1, its programs, and the namespaces of its pods by slot."""

    number: int
    space: Namespace
    pins: Pins
    pods: dict[int, Namespace]

    @property
    def desired(self) -> Desired:
        views = []
        for slot, segment in zip(self.pods, SEGMENTS.values(), strict=True):
            vtep = VTEPS[1 - self.number][segment.underlay is Family.IPV6]
            views.append(view(segment, [port(slot, segment)], [remote(other(slot), segment, vtep)]))
        return replace(desired(*views), vteps=VTEPS[self.number])

    @property
    def left(self) -> set[Reason]:
        """Return why packets were left to Open vSwitch, or dropped."""
        with open_map(self.pins.map("counters")) as counters:
            found = {decode_counter_key(k)[1] for k, v in counters.items() if decode_count(v)}
        return found - LEFT_ANYHOW

    def bytes_to(self, slot: int) -> int:
        """Return how much its programs sent to a workload, here or on the other node."""
        segment = SEGMENTS[min(slot, other(slot))]
        with open_map(self.pins.map("entries")) as entries:
            value = entries.lookup(encode_entry_key(segment.vni, mac_of(slot)))
        assert value is not None
        return traffic_of(value).bytes


def other(slot: int) -> int:
    """Return the workload that this one talks to."""
    return slot - FAR if slot > FAR else slot + FAR


def batch(space: Namespace, lines: Iterator[str]) -> None:
    """Run ``ip`` once: a process takes its time on an emulated processor."""
    command = ["ip", "-netns", space.name, "-batch", "-"]
    done = subprocess.run(
        command, input="\n".join(lines), check=False, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr


def links_of_node(node: Node) -> Iterator[str]:
    yield f"address add {VTEPS[node.number][0]}/24 dev {NIC.name}"
    yield f"address add {VTEPS[node.number][1]}/64 dev {NIC.name} nodad"
    yield f"link set {NIC.name} up"
    yield f"link add {OPHY} type veth peer name in{OPHY}"
    for slot, pod in node.pods.items():
        yield f"link add vp{slot} type veth peer name eth0 netns {pod.name}"
        yield f"link add ot{slot} type veth peer name in{slot}"
        yield f"link set vp{slot} up"


def links_of_pod(slot: int) -> Iterator[str]:
    yield f"link set eth0 address {mac_of(slot)} mtu {MTU} addrgenmode none"
    for address, length in zip(ips_of(slot), (24, 64), strict=True):
        yield f"address add {address}/{length} dev eth0 nodad"
    yield "link set eth0 up"


def converge(node: Node, stack: ExitStack) -> None:
    target = FastpathTarget(node.pins)
    stack.callback(target.close)
    names = node.space.netns.run(socket.if_nameindex)
    bindings = Bindings(ifindexes={name: ifindex for ifindex, name in names})
    rendering = target.render(node.desired, bindings)
    assert not rendering.pending
    change = diff(rendering, node.space.netns.run(target.observe))
    node.space.netns.run(lambda: target.apply(change))


def made(number: int, directory: Path, stack: ExitStack) -> Node:
    bpffs = stack.enter_context(mounted_bpffs(directory / f"bpf{number}"))
    slots = [n + FAR * number for n in SEGMENTS]
    pods = {slot: stack.enter_context(namespace()) for slot in slots}
    return Node(number, stack.enter_context(namespace()), load(bpffs, SOURCE), pods)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Node]]:
    with ExitStack() as stack:
        directory = tmp_path_factory.mktemp("traffic")
        one, two = made(0, directory, stack), made(1, directory, stack)
        words = f"add {NIC.name} type veth peer name {NIC.name} netns {two.space.name}"
        one.space.ip("link", *words.split())
        for node in (one, two):
            batch(node.space, links_of_node(node))
            for slot, pod in node.pods.items():
                batch(pod, links_of_pod(slot))
            converge(node, stack)
        yield one, two


@contextmanager
def echo(space: Namespace, address: IpAddress) -> Iterator[None]:
    """Have a server that sends back all that one client has sent, when it has."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    listener = space.netns.run(lambda: socket.socket(family, socket.SOCK_STREAM))

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.sendall(read_all(client))

    with listener:
        listener.settimeout(_PATIENCE_S)
        listener.bind((str(address), _TCP_PORT))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def read_all(opened: socket.socket) -> bytes:
    opened.settimeout(_PATIENCE_S)
    return b"".join(iter(lambda: opened.recv(1 << 20), b""))


def told_back(space: Namespace, address: IpAddress, payload: bytes) -> bytes:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with space.netns.run(lambda: socket.socket(family, socket.SOCK_STREAM)) as opened:
        opened.settimeout(_PATIENCE_S)
        opened.connect((str(address), _TCP_PORT))
        opened.sendall(payload)
        opened.shutdown(socket.SHUT_WR)
        return read_all(opened)


def longest(tap: Tap) -> int:
    return max(map(len, tap.received(PAYLOAD[:256])), default=0)


@pytest.mark.parametrize("version", [4, 6], ids=["inner-ipv4", "inner-ipv6"])
@pytest.mark.parametrize(
    "slot", [pytest.param(n, id=f"{s.encap}-{s.underlay}") for n, s in SEGMENTS.items()]
)
def test_pings_and_super_packets_cross(nodes: tuple[Node, Node], slot: int, version: int) -> None:
    one, two = nodes
    address = ips_of(other(slot))[version == 6]
    here, there = one.pods[slot], two.pods[other(slot)]
    ping = ["ip", "netns", "exec", here.name, "ping", "-q", "-c", "3", "-i", "0.1", "-W", "5"]
    done = subprocess.run([*ping, str(address)], capture_output=True, text=True, check=False)
    assert " 0% packet loss" in done.stdout, (done.stdout, one.left, two.left)
    with Tap(one.space, NIC.name) as back, Tap(two.space, NIC.name) as out:
        with echo(there, address):
            assert told_back(here, address, PAYLOAD) == PAYLOAD
        assert min(longest(out), longest(back)) > 2 * MTU  # nobody cut what the pods sent
    assert one.left | two.left == set()
    for node in nodes:
        assert min(node.bytes_to(slot), node.bytes_to(other(slot))) > len(PAYLOAD)
