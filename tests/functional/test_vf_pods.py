"""VF pods: real plugin, front, gRPC and netdevs; the DPU's own agent is a stand-in.

A veth pair is VF and representor: vf0 on the host, rep0 on the DPU.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from dataplane.api.attachment import AttachmentService
from dataplane.api.attachment_pb2_grpc import AttachmentServicer
from dataplane.api.dpu import DpuClient
from dataplane.api.mtls import SecureChannels
from dataplane.api.only_host import serve_attachments_to
from dataplane.api.service import serve_attachments
from dataplane.cni import front as front_module
from dataplane.cni.front import Front
from dataplane.cni.handler import Handler, VfFront
from dataplane.cni.install import install_plugin
from dataplane.cni.ipam import Ipam
from dataplane.cni.server import CniServer
from dataplane.cni.vf_records import VfRecords
from dataplane.contracts import Attached, AttachRefusedError, Vf
from dataplane.core.errors import OverweaveError
from dataplane.core.model import AttachmentKey
from dataplane.core.snapshot import Obstacle
from dataplane.host.vf import VfWiring
from dataplane.netlink.netns import Netns
from dataplane.pki.credentials import Credentials
from dataplane.vf_ports import VfPorts
from tests.functional.certificates import Pki, free_port, put
from tests.functional.cni_world import FakeAttachments, FakeWiring, Outcome, World
from tests.functional.namespaces import ip, name_of, namespace, run, shown, wait_until

VF0, VF1 = "0000:06:00.2", "0000:06:00.3"
SERIAL = "MRV-1"
KEY = AttachmentKey("c1", "eth0")
PLUGIN = """#!/bin/sh
echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.9/20", "gateway": "10.1.0.1"}]}'
"""


@dataclass
class HostWorld(World):
    """A node that is also the host of a DPU."""

    node: Netns | None = None
    dpu_socket: Path = Path()
    dpu: FakeAttachments = field(default_factory=FakeAttachments)
    dpu_server: Any = None
    front: Front | None = None
    serial: str = SERIAL
    device_ids: tuple[str, str] = (VF0, VF1)
    pki: Pki | None = None  # None: host and DPU share a socket
    port: int = field(default_factory=free_port)

    @property
    def address(self) -> str:
        return f"ssl:127.0.0.1:{self.port}" if self.pki else f"unix:{self.dpu_socket}"

    restore: Callable[[], None] = lambda: None

    def look(self) -> None:
        """Have the host's agent look once at what its pods have, as it does every second."""
        self.space.run(self.restore)

    def start_dpu(self, kind: type[AttachmentService] = AttachmentService) -> None:
        service = kind(VfPorts("dpu1", self.dpu), {SERIAL: ("rep0", "rep1")})
        if self.pki is None:
            self.dpu_server = serve_attachments(service, self.dpu_socket)
        else:
            own = Credentials(self.pki.node("dpu1"), "dpu1")
            where = self.address.removeprefix("ssl:")
            self.dpu_server = serve_attachments_to("h1", service, where, own)

    def client(self) -> DpuClient:
        if self.pki is None:
            return DpuClient()
        own = Credentials(self.pki.node("h1"), "h1")
        return DpuClient(SecureChannels({self.address: "dpu1"}, own))

    def stop_dpu(self) -> None:
        self.dpu_server.stop(None).wait()
        self.dpu_socket.unlink(missing_ok=True)

    def start(self) -> None:
        vfs = [
            Vf(device_id, f"vf{number}", self.serial, number, self.address)
            for number, device_id in enumerate(self.device_ids)
        ]
        self.front = Front(vfs, self.client(), VfRecords(self.directory / "vfs"))
        handler = Handler(
            self.attachments, self.wiring, Ipam(), self.limits, VfFront(self.front, VfWiring())
        )
        self.server = CniServer(self.socket, handler, self._take_note)
        assert self.node is not None
        self.node.run(self.server.start)  # its threads stay in the node's namespace
        self.restore = handler.restore
        self.front.start()

    def stop(self, grace_s: float = 2.0) -> None:
        super().stop(grace_s)
        if self.front is not None:
            self.front.stop()

    def add(self, **environment: str) -> Outcome:
        return self.run("ADD", self.config(deviceID=VF0), **environment)

    @property
    def space(self) -> Netns:
        assert self.node is not None
        return self.node

    def host_links(self) -> list[str]:
        return sorted(each["ifname"] for each in shown(self.space, "link"))

    def assert_home(self) -> None:
        """Both halves are as before: the VF is down under its name, the DPU holds nothing."""
        (vf,) = shown(self.space, "link", "show", "dev", "vf0")
        assert "UP" not in vf["flags"]
        assert "ifalias" not in vf
        assert self.dpu.keys() == ()
        assert not list((self.directory / "vfs").glob("*"))


@pytest.fixture
def pod() -> Iterator[Netns]:
    with namespace() as space:
        yield space


@contextmanager
def _world(directory: Path, pod: Netns, pki: Pki | None = None) -> Iterator[HostWorld]:
    with namespace() as node, namespace() as dpu:
        for number in (0, 1):
            peer = ["peer", "name", f"rep{number}", "netns", name_of(dpu)]
            ip(node, "link", "add", f"vf{number}", "type", "veth", *peer)
            ip(dpu, "link", "set", f"rep{number}", "up")
        (directory / "bin").mkdir()
        made = HostWorld(directory, pod.path, install_plugin(directory / "bin"))
        made.node, made.dpu_socket, made.pki = node, directory / "attachment.sock", pki
        made.start_dpu()
        made.start()
        try:
            yield made
        finally:
            made.stop()
            made.stop_dpu()


@pytest.fixture
def host(tmp_path: Path, pod: Netns) -> Iterator[HostWorld]:
    with _world(tmp_path, pod) as made:
        yield made


def failed(outcome: Outcome, code: int, *words: str) -> None:
    assert outcome.status == 1, outcome
    assert outcome.document["code"] == code, outcome.document
    assert all(word in outcome.document["msg"] for word in words), outcome.document


def test_a_pod_gets_a_vf(host: HostWorld, pod: Netns) -> None:
    outcome = host.add()
    assert outcome.status == 0, outcome
    (eth0,) = shown(pod, "addr", "show", "dev", "eth0")
    assert "vf0" not in host.host_links()
    assert (eth0["mtu"], "UP" in eth0["flags"]) == (1450, True)
    given = {f"{each['local']}/{each['prefixlen']}" for each in eth0["addr_info"]}
    assert {"10.1.0.2/20", "fd00:1::2/64"} < given
    (interface,) = outcome.document["interfaces"]
    assert interface == {
        "name": "eth0",
        "mac": eth0["address"],
        "sandbox": pod.path,
        "mtu": 1450,
        "pciID": VF0,
    }
    assert [each["interface"] for each in outcome.document["ips"]] == [0, 0]
    held = host.dpu.attachment(KEY)
    assert held is not None
    assert (held.netdev, held.netns, held.network) == ("rep0", "", "pods")
    assert host.attachments.keys() == ()
    assert host.wiring.links == {}


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0", "1.0.0"])
def test_older_versions_have_no_pci_id(host: HostWorld, version: str) -> None:
    outcome = host.run("ADD", host.config(deviceID=VF0, cniVersion=version))
    assert set(outcome.document["interfaces"][0]) == {"name", "mac", "sandbox"}


def test_the_fabric_hears_of_it_once_the_vf_is_ready_in_the_pod(
    host: HostWorld, pod: Netns
) -> None:
    """A workload that another node has is heard there until then."""
    seen: list[dict[str, Any]] = []
    host.dpu.at_publish = lambda: seen.extend(shown(pod, "address", "show", "dev", "eth0"))
    result = host.add()
    (eth0,) = seen
    assert "UP" in eth0["flags"]
    given = {each["address"].partition("/")[0] for each in result.document["ips"]}
    assert given
    assert given <= {each["local"] for each in eth0["addr_info"]}


def test_a_dpu_that_cannot_be_told_that_the_vf_is_ready(host: HostWorld) -> None:
    def refuse() -> None:
        raise AttachRefusedError(11, "the agent is stopping")

    host.dpu.at_publish = refuse
    failed(host.add(), 11, "the agent is stopping")
    host.assert_home()


def test_a_dpu_that_is_not_known_any_more_once_the_vf_is_in_the_pod(
    tmp_path: Path, pod: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a network; the VF comes home at once, and the DPU is told when it is known again."""
    pki, attach = Pki(tmp_path), DpuClient.attach

    def then_replaced(self: DpuClient, *asked: Any) -> Attached:
        made = attach(self, *asked)
        forged = pki.stranger("dpu1")
        for key, path in pki.files("dpu1").items():
            put(path, forged[key].read_bytes(), 0o600)
        return made

    with _world(tmp_path, pod, pki) as host:
        assert host.add().status == 0
        assert host.run("DEL", host.config(deviceID=VF0)).status == 0
        host.assert_home()
        with monkeypatch.context() as patched:
            patched.setattr(DpuClient, "attach", then_replaced)
            failed(host.add(), 11, f"agent at {host.address}", "CERTIFICATE_VERIFY_FAILED")
        (vf,) = shown(host.space, "link", "show", "dev", "vf0")
        assert ("UP" in vf["flags"], "ifalias" in vf) == (False, False)
        assert [each["ifname"] for each in shown(pod, "link")] == ["lo"]
        assert host.dpu.keys() == (KEY,)
        host.stop()
        pki.node("dpu1")
        monkeypatch.setattr(front_module, "RETRY_S", 0.05)
        host.start()
        assert wait_until(lambda: not list((host.directory / "vfs").glob("*")))
        host.assert_home()


def test_a_dpu_that_knows_no_publish_has_published_already(host: HostWorld) -> None:
    host.stop_dpu()
    host.start_dpu(OldService)
    assert host.add().status == 0
    assert host.dpu.keys() == (KEY,)


class OldService(AttachmentService):
    Publish = AttachmentServicer.Publish


def test_del_brings_it_home_however_often(host: HostWorld, pod: Netns) -> None:
    assert host.add().status == 0
    for _ in range(3):
        assert host.run("DEL", host.config(deviceID=VF0)).status == 0
        host.assert_home()
    assert [each["ifname"] for each in shown(pod, "link")] == ["lo"]
    assert host.add(CNI_CONTAINERID="c2").status == 0


def test_a_dpu_hears_of_its_own_pods_while_they_are_there(host: HostWorld) -> None:
    assert host.front is not None
    address = f"unix:{host.dpu_socket}"
    assert host.front.ports_below(address) == ()
    assert host.add().status == 0
    (port,) = host.front.ports_below(address)
    assert (port.attachment.key, port.attachment.netns) == (KEY, host.netns)
    assert host.front.ports_below("unix:/another.sock") == ()
    host.stop_dpu()  # it has still to be told, but the pod is gone
    assert host.run("DEL", host.config(deviceID=VF0)).status == 0
    assert host.front.ports_below(address) == ()
    host.start_dpu()


def test_del_without_a_netns(host: HostWorld) -> None:
    assert host.add().status == 0
    assert host.run("DEL", host.config(deviceID=VF0), CNI_NETNS=None).status == 0
    host.assert_home()


def test_del_of_a_netns_that_is_gone_is_no_error(host: HostWorld) -> None:
    with namespace() as short:
        assert host.add(CNI_NETNS=short.path).status == 0
    # The veth died with it, as a TAP does; its other end, too.
    assert host.run("DEL", host.config(deviceID=VF0)).status == 0
    assert host.dpu.keys() == ()


def test_a_vf_that_came_back_with_the_pods_name(host: HostWorld, pod: Netns) -> None:
    """As the kernel does with real VFs when a namespace dies."""
    assert host.add().status == 0
    ip(pod, "link", "set", "eth0", "netns", name_of(host.space), "name", "dev7")
    ip(host.space, "link", "set", "dev7", "up")
    assert host.run("DEL", host.config(deviceID=VF0)).status == 0
    host.assert_home()


def test_every_subnet_of_the_segment_is_on_the_pods_link(host: HostWorld, pod: Netns) -> None:
    """The host, which may not know the segment, is told by the DPU's agent, and remembers."""
    blue = host.dpu.segments["blue"]
    host.dpu.segments["blue"] = replace(blue, subnets=(*blue.subnets, ip_network("10.2.0.0/20")))
    ips = {"ips": ["10.1.0.5/20"]}
    config = host.config(deviceID=VF0, runtimeConfig=ips)
    assert host.run("ADD", config).status == 0
    shown_routes = run("ip", "-n", name_of(pod), "route").splitlines()
    assert any(
        line.startswith("10.2.0.0/20 dev eth0") and "via" not in line for line in shown_routes
    )
    assert VfRecords(host.directory / "vfs").load()[0].routes == ("10.2.0.0/20",)


@pytest.mark.parametrize("name", ["eth0", "dev7"])
def test_a_vf_that_comes_back_after_del(host: HostWorld, pod: Netns, name: str) -> None:
    """The kernel takes a dead namespace apart when it gets to it."""
    assert host.add().status == 0
    with namespace() as limbo, namespace() as other:
        ip(pod, "link", "set", "eth0", "netns", name_of(limbo))
        assert host.run("DEL", host.config(deviceID=VF0)).status == 0
        assert not list((host.directory / "vfs").glob("*"))
        add = threading.Thread(
            target=host.add, kwargs={"CNI_CONTAINERID": "c2", "CNI_NETNS": other.path}
        )
        add.start()
        assert wait_until(lambda: host.dpu.keys() == (AttachmentKey("c2", "eth0"),))
        ip(limbo, "link", "set", "eth0", "netns", name_of(host.space), "name", name)
        add.join()
        (eth0,) = shown(other, "addr", "show", "dev", "eth0")
        held = host.dpu.attachment(AttachmentKey("c2", "eth0"))
        assert held is not None
        assert (eth0["address"], eth0["ifalias"]) == (held.mac, "overweave:vf0:c2/eth0")
        assert {each["local"] for each in eth0["addr_info"]} > {str(ip) for ip in held.ips}
        assert host.run("DEL", host.config(deviceID=VF0), CNI_CONTAINERID="c2").status == 0
        host.assert_home()


def test_a_del_that_cannot_bring_the_vf_home_is_tried_again(host: HostWorld, pod: Netns) -> None:
    assert host.add().status == 0
    ip(host.space, "link", "add", "vf0", "type", "bridge")
    failed(host.run("DEL", host.config(deviceID=VF0)), 102, "File exists")
    failed(host.add(CNI_CONTAINERID="c2"), 101, "c1/eth0")
    assert host.dpu.keys() == (KEY,)
    ip(host.space, "link", "del", "vf0")
    assert host.run("DEL", host.config(deviceID=VF0)).status == 0
    host.assert_home()
    assert [each["ifname"] for each in shown(pod, "link")] == ["lo"]


def test_add_twice_is_refused(host: HostWorld) -> None:
    assert host.add().status == 0
    failed(host.add(), 101, "already has eth0", "call DEL first")
    failed(host.run("ADD"), 101, "already has eth0")
    assert len(host.dpu.keys()) == 1


def test_a_vf_that_is_taken(host: HostWorld) -> None:
    assert host.add().status == 0
    failed(host.add(CNI_CONTAINERID="c2"), 101, VF0, "c1/eth0")
    failed(host.add(CNI_IFNAME="eth1"), 101, VF0, "c1/eth0")
    assert host.dpu.keys() == (KEY,)
    assert host.run("ADD", host.config(deviceID=VF1), CNI_IFNAME="eth1").status == 0


@pytest.mark.parametrize(
    ("changes", "code", "words"),
    [
        pytest.param({"deviceID": "0000:99:00.0"}, 7, (VF0, VF1), id="unknown"),
        pytest.param({"deviceID": "a b"}, 7, ("deviceID 'a b' is not",), id="malformed"),
        pytest.param({"deviceID": ""}, 7, ("deviceID '' is not",), id="empty"),
        pytest.param({"deviceID": 6}, 7, ("is not a string",), id="number"),
        pytest.param(
            {"deviceID": VF0, "runtimeConfig": {"deviceID": VF1}}, 7, (VF0, VF1), id="two"
        ),
        pytest.param({"runtimeConfig": {"deviceID": "x"}}, 7, (VF0,), id="runtimeConfig"),
        pytest.param({"deviceId": VF0}, 2, ("is 'deviceID' meant",), id="misspelt"),
        pytest.param({"deviceID": VF0, "segment": "none"}, 7, ("does not exist",), id="segment"),
    ],
)
def test_bad_requests_leave_nothing(
    host: HostWorld, changes: dict[str, Any], code: int, words: tuple[str, ...]
) -> None:
    config = host.config(**changes)
    failed(host.run("ADD", config), code, *words)
    host.assert_home()
    assert host.run("DEL", config).status == 0


def test_the_name_is_taken_in_the_pod(host: HostWorld, pod: Netns) -> None:
    ip(pod, "link", "add", "eth0", "type", "bridge")
    failed(host.add(), 102, "exists already")
    host.assert_home()


def test_a_vf_that_is_not_there(host: HostWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.host.vf._APPEAR_S", 0.1)
    ip(host.space, "link", "set", "vf0", "name", "other")
    failed(host.add(), 102, "vf0 does not exist")
    ip(host.space, "link", "set", "other", "name", "vf0")
    host.assert_home()


def test_a_refusal_of_the_dpu_keeps_its_code(host: HostWorld) -> None:
    host.dpu.refusal = AttachRefusedError(112, "subnet is exhausted")
    failed(host.add(), 112, "subnet is exhausted", str(host.dpu_socket))
    host.assert_home()


def test_a_dataplane_that_does_not_take_it(host: HostWorld) -> None:
    host.dpu.unprogrammable = AttachRefusedError(11, "flows: the switch said no")
    failed(host.add(), 11, "the switch said no")
    host.assert_home()


def test_a_dpu_that_is_away(host: HostWorld) -> None:
    host.stop_dpu()
    failed(host.add(), 11, str(host.dpu_socket), "overweave status")
    (vf,) = shown(host.space, "link", "show", "dev", "vf0")
    assert "UP" not in vf["flags"]
    host.start_dpu()
    assert host.add(CNI_CONTAINERID="c2").status == 0


def test_a_dpu_that_hangs(host: HostWorld) -> None:
    host.dpu.programming_s = 3.0
    object.__setattr__(host.limits, "dpu", 1.0)
    try:
        failed(host.add(), 11, "does not answer", "DEADLINE_EXCEEDED")
    finally:
        object.__setattr__(host.limits, "dpu", 20.0)
    assert wait_until(lambda: host.dpu.keys() == ())
    host.dpu.programming_s = 0.0
    assert host.add(CNI_CONTAINERID="c2").status == 0


@contextmanager
def hung(host: HostWorld) -> Iterator[None]:
    """Have a DPU's agent that takes connections and says nothing, as one that is stopped does."""
    host.stop_dpu()
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(host.dpu_socket))
        silent.listen()
        yield
    host.dpu_socket.unlink()
    host.start_dpu()


def test_an_add_towards_a_dead_dpu_fails_at_once(host: HostWorld) -> None:
    host.stop_dpu()
    refused = host.add()
    host.start_dpu()
    with hung(host):
        silent = host.add()
    for outcome, why in ((refused, "UNAVAILABLE"), (silent, "DEADLINE_EXCEEDED")):
        failed(outcome, 11, f"DPU {SERIAL} is dead: ", str(host.dpu_socket), why)
        assert outcome.document["msg"].endswith("On the DPU: overweave status")
        print(f"{why}: {outcome.seconds:.2f} s, stated 2 s")
        assert outcome.seconds < 5 * 2
    host.assert_home()
    assert host.add(CNI_CONTAINERID="c2").status == 0


def test_status_of_a_vf_network_while_its_dpu_is_dead(host: HostWorld) -> None:
    """Of a DPU that says nothing nobody knows whether what is attached still works."""
    of_vfs = host.config(deviceID=VF0)
    assert host.run("STATUS", of_vfs).status == 0
    host.dpu.obstruction = Obstacle("the underlay is gone", limits_existing=True)
    failed(host.run("STATUS", of_vfs), 51, f"DPU {SERIAL}", "the underlay is gone")
    host.dpu.obstruction = Obstacle("the database is away")
    failed(host.run("STATUS", of_vfs), 50, f"DPU {SERIAL}", "the database is away")
    host.dpu.obstruction = None
    host.stop_dpu()
    failed(host.run("STATUS", of_vfs), 50, f"DPU {SERIAL}", "does not answer")
    assert host.run("STATUS").status == 0  # pods on veths are this node's own
    host.start_dpu()
    with hung(host):
        failed(host.run("STATUS", of_vfs), 51, f"DPU {SERIAL}", "does not answer")
    unknown = host.config(deviceID="0000:99:00.0")
    failed(host.run("STATUS", unknown), 50, "0000:99:00.0", VF0)


def reset_vf(host: HostWorld, pod: Netns) -> None:
    """Have the VF go from the pod and come back on the node, as a DPU's reset does."""
    shown_as = run("ip", "-n", name_of(pod), "link", "show", "dev", "eth0")
    dpu = shown_as.partition("link-netns ")[2].split()[0]
    ip(pod, "link", "del", "eth0")
    peer = ["peer", "name", "rep0", "netns", dpu]
    ip(host.space, "link", "add", "vf0", "type", "veth", *peer)
    run("ip", "-n", dpu, "link", "set", "rep0", "up")


def shape(pod: Netns) -> tuple[Any, ...]:
    """Return all that a pod sees of its VF, but for what the kernel numbers."""
    (eth0,) = shown(pod, "addr", "show", "dev", "eth0")
    given = sorted(f"{each['local']}/{each['prefixlen']}" for each in eth0["addr_info"])
    facts = (eth0["address"], eth0["mtu"], eth0["ifalias"], "UP" in eth0["flags"], given)
    return (
        *facts,
        run("ip", "-n", name_of(pod), "route"),
        run("ip", "-6", "-n", name_of(pod), "r"),
    )


ROUTED = PLUGIN.replace(
    "]}'", '], "routes": [{"dst": "0.0.0.0/0"}, {"dst": "10.9.0.0/16", "gw": "10.1.0.3"}]}\'', 1
)


def test_a_vf_that_was_reset_is_plugged_into_its_pod_again(host: HostWorld, pod: Netns) -> None:
    host.write_plugin("other-ipam", ROUTED)
    ipam = {"ipam": {"type": "other-ipam"}}
    config = host.config(deviceID=VF0, mtu=1400, **ipam)
    added = host.run("ADD", config)
    assert added.status == 0, added
    before = shape(pod)
    assert (before[1], "default via 10.1.0.1" in before[5]) == (1400, True)
    assert "10.9.0.0/16 via 10.1.0.3" in before[5]
    host.look()
    assert shape(pod) == before
    reset_vf(host, pod)
    failed(host.run("CHECK", {**config, "prevResult": added.document}), 103, "does not exist")
    host.stop()  # an agent that starts again knows it, too
    host.start()
    host.look()
    assert wait_until(lambda: shape(pod) == before)
    assert host.run("CHECK", {**config, "prevResult": added.document}).status == 0
    assert host.run("DEL", config).status == 0
    host.look()
    host.assert_home()


def test_a_vf_is_never_plugged_into_another_pod(host: HostWorld) -> None:
    """The path of a namespace that is gone may be another one's by now."""
    with namespace() as first:
        path, name = first.path, name_of(first)
        assert host.add(CNI_NETNS=path).status == 0
        reset_vf(host, first)
    run("ip", "netns", "add", name)
    try:
        host.look()
        assert "vf0" in host.host_links()
        assert run("ip", "-n", name, "-br", "link").split()[::4] == ["lo"]
        assert host.dpu.keys() == (KEY,)
    finally:
        run("ip", "netns", "del", name)
    assert host.run("DEL", host.config(deviceID=VF0)).status == 0
    host.assert_home()


def test_a_vf_that_cannot_be_plugged_in_is_tried_again(host: HostWorld, pod: Netns) -> None:
    assert host.add().status == 0
    before = shape(pod)
    reset_vf(host, pod)
    ip(pod, "link", "add", "eth0", "type", "bridge")
    host.look()
    assert "vf0" in host.host_links()
    ip(pod, "link", "del", "eth0")
    host.look()
    assert wait_until(lambda: shape(pod) == before)


def test_what_a_dpu_has_forgotten_is_attached_again(host: HostWorld, pod: Netns) -> None:
    assert host.add().status == 0
    before, held = shape(pod), host.dpu.attachment(KEY)
    assert held is not None
    published: list[int] = []
    host.dpu.at_publish = lambda: published.append(1)
    host.look()
    assert published == []
    host.dpu.detach(KEY, 1.0)
    host.look()
    again = host.dpu.attachment(KEY)
    assert again is not None
    assert again == replace(held, requested_at=again.requested_at, mtu=1450)
    assert (shape(pod), len(published)) == (before, 1)
    host.look()
    assert len(published) == 1


def test_a_dpu_that_is_away_is_told_once_it_is_back(host: HostWorld) -> None:
    assert host.add().status == 0
    host.dpu.detach(KEY, 1.0)
    host.stop_dpu()
    host.look()
    host.start_dpu(OldService)
    host.dpu.refusal = AttachRefusedError(112, "subnet is exhausted")
    host.look()
    assert host.dpu.keys() == ()
    host.dpu.refusal = None
    host.look()
    assert host.dpu.keys() == (KEY,)


def test_what_is_being_deleted_is_not_attached_again(host: HostWorld) -> None:
    assert host.add().status == 0
    host.stop_dpu()
    assert host.run("DEL", host.config(deviceID=VF0)).status == 0
    host.start_dpu()
    host.dpu.detach(KEY, 1.0)
    host.look()
    assert host.dpu.keys() == ()


def test_a_dpu_that_is_away_at_del_is_told_later(
    host: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.add().status == 0
    host.stop_dpu()
    assert host.run("DEL", host.config(deviceID=VF0)).status == 0
    assert "vf0" in host.host_links()
    assert host.dpu.keys() == (KEY,)
    failed(host.add(CNI_CONTAINERID="c2"), 11, str(host.dpu_socket))
    host.stop()  # an agent that starts again knows what it owes
    host.start_dpu()
    monkeypatch.setattr(front_module, "RETRY_S", 0.05)
    host.start()
    assert wait_until(lambda: host.dpu.keys() == ())
    assert wait_until(lambda: not list((host.directory / "vfs").glob("*")))
    assert host.add(CNI_CONTAINERID="c2").status == 0


@contextmanager
def owing(host: HostWorld, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have a host that starts within this owe its DPU, which is back, the DEL of c1/eth0."""
    assert host.add().status == 0
    host.stop_dpu()
    assert host.run("DEL", host.config(deviceID=VF0)).status == 0
    host.stop()
    host.start_dpu()
    monkeypatch.setattr(front_module, "RETRY_S", 0.05)
    yield
    host.start()


def test_what_is_owed_does_not_take_the_next_attachment_of_that_name(
    host: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host's word on the old one is late, and the runtime asks for the same again."""
    reached, opened, detach = threading.Event(), threading.Event(), DpuClient.detach

    def late(self: DpuClient, vf: Vf, key: AttachmentKey, timeout_s: float) -> None:
        if threading.current_thread().name == "front":
            reached.set()
            assert opened.wait(5)
        detach(self, vf, key, timeout_s)

    with owing(host, monkeypatch):
        monkeypatch.setattr(DpuClient, "detach", late)
    assert reached.wait(5)
    outcomes: list[Outcome] = []
    add = threading.Thread(target=lambda: outcomes.append(host.add()))
    add.start()
    time.sleep(0.5)  # it would be through by now
    opened.set()
    add.join()
    time.sleep(0.2)
    assert host.dpu.keys() == (KEY,)
    config = host.config(deviceID=VF0, prevResult=outcomes[0].document)
    assert host.run("CHECK", config).status == 0


def test_what_is_owed_is_tried_again_whatever_went_wrong(
    host: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    detach, faults = DpuClient.detach, [KeyError("a fault of ours"), None]

    def crash(self: DpuClient, vf: Vf, key: AttachmentKey, timeout_s: float) -> None:
        if (fault := faults.pop(0) if faults else None) is not None:
            raise fault
        detach(self, vf, key, timeout_s)

    with owing(host, monkeypatch):
        monkeypatch.setattr(DpuClient, "detach", crash)
    assert wait_until(lambda: host.dpu.keys() == ())
    assert faults == []


def test_a_restart_keeps_vf_pods(host: HostWorld) -> None:
    added = host.add()
    host.stop()
    host.start()
    config = host.config(deviceID=VF0, prevResult=added.document)
    assert host.run("CHECK", config).status == 0
    failed(host.add(CNI_CONTAINERID="c2"), 101, "c1/eth0")
    assert host.run("DEL", config).status == 0
    host.assert_home()


RENAMED = "0000:07:00.2"


def test_del_of_a_vf_that_is_called_otherwise_by_now(host: HostWorld) -> None:
    added = host.add()
    host.stop()
    host.device_ids = (RENAMED, VF1)
    host.start()
    old = host.config(deviceID=VF0, prevResult=added.document)
    assert host.run("CHECK", old).status == 0
    new = host.config(deviceID=RENAMED)
    failed(host.run("ADD", new, CNI_CONTAINERID="c2"), 101, f"{RENAMED} (vf0) is taken by c1/eth0")
    assert host.run("DEL", old).status == 0
    host.assert_home()
    assert host.run("ADD", new, CNI_CONTAINERID="c2").status == 0


def test_what_is_owed_of_a_vf_that_is_called_otherwise_by_now_is_made_up_for(
    host: HostWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    with owing(host, monkeypatch):
        host.device_ids = (RENAMED, VF1)
    assert wait_until(lambda: host.dpu.keys() == ())
    assert wait_until(lambda: not list((host.directory / "vfs").glob("*")))
    new = host.config(deviceID=RENAMED)
    assert host.run("ADD", new, CNI_CONTAINERID="c2").status == 0


def test_what_to_do_about_a_dpu_that_is_configured_no_more_is_said(host: HostWorld) -> None:
    assert host.add().status == 0
    host.stop()
    host.serial = "MRV-2"
    host.start()
    assert host.front is not None
    (said,) = host.front.faults(KEY)
    assert said.startswith(f"serial {SERIAL} is in 'devices' of this agent's configuration no more")
    record = host.directory / "vfs" / "c1+eth0.json"
    assert said.endswith(f"stop the agent and remove {record}")
    assert record.exists()


def test_which_vfs_there_are_may_change_meanwhile(host: HostWorld) -> None:
    """A pod on one that goes stays, and its DEL is made up for when there is that DPU again."""
    assert host.front is not None
    vfs = [host.front.vf(device_id) for device_id in (VF0, VF1)]
    assert host.add().status == 0
    host.front.serve((), host.client())
    assert not host.front.has_vfs
    failed(host.run("ADD", host.config(deviceID=VF1), CNI_CONTAINERID="c2"), 7, VF1, "is none")
    assert host.front.keys() == (KEY,)
    (said,) = host.front.faults(KEY)
    assert said.startswith(f"serial {SERIAL} is in 'devices' of this agent's configuration no more")
    host.front.serve(vfs[:1], host.client())
    assert host.run("DEL", host.config(deviceID=VF0)).status == 0
    host.assert_home()
    failed(host.run("ADD", host.config(deviceID=VF1), CNI_CONTAINERID="c2"), 7, VF1, VF0)
    assert host.add().status == 0


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "c1+eth0.json").write_text('{"mac": 5}')
    with pytest.raises(OverweaveError, match=r"c1\+eth0\.json is damaged"):
        Front((), DpuClient(), VfRecords(tmp_path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(["link", "set", "eth0", "down"], "eth0 is down", id="down"),
        pytest.param(["addr", "flush", "dev", "eth0"], "lacks address 10.1.0.2/20", id="address"),
        pytest.param(["link", "set", "eth0", "mtu", "1300"], "has MTU 1300", id="mtu"),
        pytest.param(["link", "set", "eth0", "alias", "x"], "is not the VF vf0", id="another"),
        pytest.param(["link", "set", "eth0", "address", "02:00:00:00:00:77"], "MAC", id="mac"),
    ],
)
def test_check_sees_what_changed_in_the_pod(
    host: HostWorld, pod: Netns, change: list[str], words: str
) -> None:
    config = host.config(deviceID=VF0, prevResult=host.add().document)
    assert host.run("CHECK", config).status == 0
    ip(pod, *change)
    failed(host.run("CHECK", config), 103, words)


def test_check_asks_the_dpu(host: HostWorld) -> None:
    config = host.config(deviceID=VF0, prevResult=host.add().document)
    host.dpu.found_faults = ["flows: vf0 is missing"]
    failed(host.run("CHECK", config), 103, "flows: vf0 is missing")
    host.dpu.found_faults = []
    host.dpu.detach(KEY, 1.0)
    failed(host.run("CHECK", config), 103, "does not know c1/eth0")
    host.stop_dpu()
    failed(host.run("CHECK", config), 103, str(host.dpu_socket))
    host.start_dpu()


def test_status_of_a_segment_that_only_the_dpu_knows_is_the_dpus(host: HostWorld) -> None:
    """The host is in no fabric, or in another one: it is only the front."""
    own = host.attachments
    own.obstruction, own.segments = Obstacle("the fabric database is away"), {}
    assert host.run("STATUS").status == 0
    assert host.add().status == 0
    host.dpu.obstruction = Obstacle("flows: not ready yet")
    failed(host.run("STATUS"), 50, "does not know segment 'blue'", "flows: not ready yet")
    host.dpu.obstruction, segments = None, host.dpu.segments
    host.dpu.segments = {}
    failed(host.run("STATUS"), 50, "segment 'blue' does not exist", str(host.dpu_socket))
    host.dpu.segments = segments
    host.stop_dpu()
    failed(host.run("STATUS"), 50, str(host.dpu_socket), "does not answer")
    host.start_dpu()
    assert host.run("STATUS").status == 0


def test_status_of_a_segment_that_the_host_knows_is_its_own(host: HostWorld) -> None:
    host.attachments.obstruction = Obstacle("flows: not ready yet", limits_existing=True)
    failed(host.run("STATUS"), 51, "flows: not ready yet")
    host.attachments.obstruction = None
    host.dpu.obstruction = Obstacle("flows: not ready yet")
    assert host.run("STATUS").status == 0


def test_gc_takes_what_is_not_wanted(host: HostWorld) -> None:
    assert host.add().status == 0
    valid = [{"containerID": "c1", "ifname": "eth0"}]
    kept = host.config(**{"cni.dev/valid-attachments": valid})
    assert host.run("GC", kept).status == 0
    assert host.dpu.keys() == (KEY,)
    other = host.config(**{"name": "others", "cni.dev/valid-attachments": []})
    assert host.run("GC", other).status == 0
    assert host.dpu.keys() == (KEY,)
    assert host.run("GC", host.config(**{"cni.dev/valid-attachments": []})).status == 0
    host.assert_home()


def test_gc_and_del_on_the_dpu_leave_the_hosts_pods_alone(host: HostWorld, tmp_path: Path) -> None:
    assert host.add().status == 0
    there = tmp_path / "dpu"
    there.mkdir()
    dpu = World(there, host.netns, host.plugin, attachments=host.dpu, wiring=FakeWiring())
    (there / "bin").mkdir()
    dpu.start()
    try:
        assert dpu.run("GC", dpu.config(**{"cni.dev/valid-attachments": []})).status == 0
        assert dpu.run("DEL").status == 0
        assert host.dpu.keys() == (KEY,)
    finally:
        dpu.stop()


def test_an_ipam_plugin_works_as_for_other_pods(host: HostWorld, pod: Netns) -> None:
    host.write_plugin("other-ipam", PLUGIN)
    outcome = host.run("ADD", host.config(deviceID=VF0, ipam={"type": "other-ipam"}))
    assert outcome.status == 0, outcome
    (ips,) = outcome.document["ips"]
    assert (ips["address"], ips["gateway"]) == ("10.1.0.9/20", "10.1.0.1")
    held = host.dpu.attachment(KEY)
    assert held is not None
    assert (held.ipam, [str(each) for each in held.ips]) == (True, ["10.1.0.9"])
    assert "10.1.0.9/20" in run("ip", "-n", name_of(pod), "-br", "addr", "show", "dev", "eth0")


def test_what_an_ipam_plugin_must_not_give(host: HostWorld) -> None:
    host.write_plugin("other-ipam", PLUGIN.replace("/20", "/24"))
    failed(
        host.run("ADD", host.config(deviceID=VF0, ipam={"type": "other-ipam"})),
        104,
        "the prefix length of segment blue",
    )
    host.assert_home()


def test_a_node_without_devices(tmp_path: Path, pod: Netns) -> None:
    (tmp_path / "bin").mkdir()
    node = World(tmp_path, pod.path, install_plugin(tmp_path / "bin"))
    node.start()
    try:
        outcome = node.run("ADD", node.config(deviceID=VF0))
        failed(outcome, 7, VF0, "'devices' of this agent's configuration; there is none")
    finally:
        node.stop()


def test_pods_on_veths_beside_it(host: HostWorld) -> None:
    assert host.add().status == 0
    assert host.run("ADD", CNI_IFNAME="eth1").status == 0
    assert host.attachments.keys() == (AttachmentKey("c1", "eth1"),)
    assert json.loads((host.directory / "vfs" / "c1+eth0.json").read_text())["netdev"] == "vf0"
    assert host.run("DEL", CNI_IFNAME="eth1").status == 0
    assert host.dpu.keys() == (KEY,)
