"""The agent's configuration file: the example, the defaults, and every way to get it wrong."""

import json
import re
from ipaddress import ip_address
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dataplane.config import EXAMPLE, AgentConfig, OpiRole, load_config, parse_config
from dataplane.core.desired import LocalNode
from dataplane.core.errors import InvalidValueError
from dataplane.core.functions import WithoutFunction
from dataplane.core.model import Device, Side
from dataplane.device_config import peers
from dataplane.documents import FaultyFileError

MINIMAL = """
node: node1
underlay: {interface: eth0}
fabric: {remote: "unix:/run/db.sock"}
"""


def config(more: str = "") -> AgentConfig:
    return parse_config(MINIMAL + more, "agent.yaml")


def faults(text: str) -> list[str]:
    with pytest.raises(FaultyFileError) as error:
        parse_config(text, "agent.yaml")
    return str(error.value).splitlines()


def test_the_example_is_valid() -> None:
    assert parse_config(EXAMPLE, "example").underlay.interface == "eth0"


def test_the_example_shows_the_defaults() -> None:
    keys = "ovs|state_dir|run_dir|bpffs|metrics|attach_without_fabric|fastpath|datapath|discovery"
    defaults = rf"(?m)^# (?=({keys}|  \w+):)"
    shown, count = re.subn(defaults, "", EXAMPLE.partition("# devices:")[0])
    assert count == 12
    example = parse_config(shown, "example without comments")
    plain = parse_config(EXAMPLE, "example")
    assert (example.ovs_rundir, example.ovs_remote) == (plain.ovs_rundir, plain.ovs_remote)
    assert example.metrics_address == plain.metrics_address
    unset = {"ovs", "node", "metrics"}
    assert example.model_dump(exclude=unset) == plain.model_dump(exclude=unset)


def test_the_examples_of_devices_are_valid() -> None:
    before, begin, devices = EXAMPLE.partition("# devices:")
    devices = devices.partition("# tls:")[0]
    uncommented = (begin + devices).replace("\n# ", "\n").removeprefix("# ")
    host, dpu = parse_config(before + uncommented, "example with devices").devices
    assert (host.product, dpu.product) == ("Marvell Octeon 10", None)
    assert (host.name, dpu.name) == ("0123456789-host", "9876543210-dpu")
    assert host.attachment == "unix:/run/overweave-dpu/attachment.sock"
    assert [(vf.device_id, vf.netdev) for vf in host.vfs] == [("0000:06:00.2", "vf0")]
    assert (dpu.representors, dpu.switch) == (["rep0", "rep1"], {})


def test_the_examples_of_a_network_between_the_halves_are_valid(tmp_path: Path) -> None:
    for name in ("node1-privkey.pem", "node1-cert.pem", "cacert.pem"):
        (tmp_path / name).touch()
    before, begin, rest = EXAMPLE.partition("# devices:")
    text = (begin + rest).replace("\n# ", "\n").removeprefix("# ")
    text = re.sub(r"(?m)^  attachment: unix.*\n", "", text).replace("\n  # ", "\n  ")
    found = parse_config(before + text.replace("/etc/overweave", str(tmp_path)), "example")
    assert found.tls is not None
    assert found.tls.files["private_key"] == tmp_path / "node1-privkey.pem"
    assert [(d.attachment, d.peer) for d in found.devices] == [
        ("ssl:192.0.2.7:50052", "dpu1"),
        ("ssl:192.0.2.7:50052", "host1"),
    ]
    assert peers(found.devices[:1]) == {"ssl:192.0.2.7:50052": "dpu1"}


HOST = """
devices:
- serial: "1"
  vendor: marvell
  side: host
  attachment: unix:/run/dpu/attachment.sock
  vfs: [{device_id: "0000:06:00.2", netdev: vf0}]
"""
DPU = """
devices:
- {serial: "1", vendor: senao, side: dpu, representors: [rep0], switch: {bridge: br0}}
"""
OTHER_DPU = '- {serial: "2", vendor: intel, side: dpu, representors: [rep1], switch: {bridge: br1}}'


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        pytest.param(
            DPU.replace("}\n", ", emulated: true, control: unix:/c}\n"), True, id="emulated"
        ),
        pytest.param(DPU.replace("}\n", ", control: unix:/c}\n"), False, id="a real device"),
        pytest.param(HOST + "  emulated: true\n  control: unix:/c\n", False, id="a host"),
    ],
)
def test_an_emulated_switch_alone_takes_frames(text: str, *, is_right: bool) -> None:
    if is_right:
        assert config(text).devices[0].control == Path("/c")
        return
    with pytest.raises(FaultyFileError, match="control belongs to side dpu of an emulated"):
        config(text)


def test_a_dpu_is_given_no_socket() -> None:
    with pytest.raises(FaultyFileError, match="side dpu: attachment belongs to side host"):
        config(DPU.replace("}}", "}, attachment: unix:/a}"))


def test_certificates_must_be_there(tmp_path: Path) -> None:
    files = {key: f"{tmp_path}/{key}" for key in ("private_key", "certificate", "ca_cert")}
    (told,) = faults(MINIMAL + f"tls: {json.dumps(files)}\n")
    assert told.endswith(f"tls.ca_cert {tmp_path}/ca_cert: no such file on this machine")
    del files["ca_cert"]
    assert "tls.ca_cert is missing" in faults(MINIMAL + f"tls: {json.dumps(files)}\n")[0]


def test_what_the_file_says_of_devices() -> None:
    (device,) = config(DPU).local_node.devices
    assert device == Device(
        "1-dpu", "1", "senao", "Intel Netsec Accelerator", Side.DPU, "node1", ready=False, vfs=1
    )
    (emulated,) = config(HOST + "  emulated: true\n  product: P\n").local_node.devices
    assert (emulated.name, emulated.product, emulated.emulated) == ("1-host", "P", True)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        pytest.param('serial: "1"', "serial: 1", "serial 1: input should be", id="number"),
        pytest.param('serial: "1"', 'serial: ""', "serial '' is not 1-63", id="empty serial"),
        pytest.param('serial: "1"', 'serial: "a/b"', "serial 'a/b' is not", id="slash in serial"),
        pytest.param("marvell", "nvidia", "'intel', 'senao' or 'marvell'", id="vendor"),
        pytest.param("side: host", "side: both", "'host' or 'dpu'", id="side"),
        pytest.param("side: host", "side: dpu", "representors is missing, switch is", id="other"),
        pytest.param("unix:/run", "/run", "is not unix:/PATH", id="no method"),
        pytest.param("unix:/run", "tcp:1.2.3.4", "is not unix:/PATH", id="tcp"),
        pytest.param("unix:/run", "unix:run", "is not an absolute path", id="relative"),
        pytest.param(
            "unix:/run/dpu/attachment.sock",
            "ssl:192.0.2.1:5",
            "attachment ssl:... and peer, the node of the other half, go together",
            id="whose network",
        ),
        pytest.param(
            "unix:/run/dpu/attachment.sock\n",
            "unix:/s\n  peer: d1\n",
            "and peer, the node of the other half, go together",
            id="a peer on a socket",
        ),
        pytest.param(
            "unix:/run/dpu/attachment.sock\n",
            "ssl:192.0.2.1:5\n  peer: d1\n",
            "devices: attachment ssl:192.0.2.1:5 needs tls, this node's certificate; make one:"
            " overweave pki issue node1",
            id="no certificate",
        ),
        pytest.param(
            "unix:/run/dpu/attachment.sock\n",
            "ssl:192.0.2.1:5\n  peer: D_1\n",
            "node name 'D_1' is not",
            id="peer",
        ),
        pytest.param("unix:/run", "ssl:", "remote 'ssl:/dpu/attach", id="a path as address"),
        pytest.param(
            "unix:/run/dpu/attachment.sock", "ssl:192.0.2.1", "is not unix:/PATH", id="no port"
        ),
        pytest.param(
            "unix:/run/dpu/attachment.sock",
            '"ssl:192.0.2.1:5,ssl:192.0.2.2:5"',
            "is not unix:/PATH, a socket, nor ssl:ADDRESS:PORT",
            id="two addresses",
        ),
        pytest.param("unix:/run", f"unix:/{'x' * 100}", "is too long", id="long path"),
        pytest.param("0000:06:00.2", "0000/06", "device_id '0000/06' is not", id="device id"),
        pytest.param("vf0", "a-name-of-16-byte", "is no name that Linux", id="netdev"),
        pytest.param("vf0", "eth0", "netdev eth0 is underlay.interface, too", id="the NIC"),
        pytest.param("vfs:", "vfz:", "unknown key devices[0].vfz", id="unknown key"),
        pytest.param(", netdev: vf0}", "}", "vfs[0].netdev is missing", id="no netdev"),
        pytest.param(
            '[{device_id: "0000:06:00.2", netdev: vf0}]', "[]", "vfs is missing", id="no VF"
        ),
        pytest.param(
            "[{",
            '[{device_id: "0000:06:00.2", netdev: vf1}, {',
            "device_id 0000:06:00.2",
            id="twice",
        ),
        pytest.param(
            "[{", "[{device_id: x, netdev: vf0}, {", "netdev vf0 stands", id="netdev twice"
        ),
        pytest.param(
            "- serial",
            f"{DPU.splitlines()[-1]}\n{DPU.splitlines()[-1]}\n- serial",
            "serial 1 with side dpu stands there 2 times, netdev rep0",
            id="device twice",
        ),
        pytest.param(
            "- serial",
            f"{DPU.splitlines()[-1]}\n{OTHER_DPU}\n- serial",
            "side dpu is said of 1 and of 2, but a node is one DPU at most",
            id="two DPUs",
        ),
    ],
)
def test_faults_of_devices(old: str, new: str, words: str) -> None:
    assert old in HOST
    assert words in "\n".join(faults(MINIMAL + HOST.replace(old, new, 1)))


OPI = "opi: {segment: blue}\n"


@pytest.mark.parametrize(
    ("before", "after", "fixed"),
    [
        pytest.param("", "", (), id="nothing"),
        pytest.param("", HOST, (), id="a DPU below is added"),
        pytest.param(HOST, "", (), id="and taken out"),
        pytest.param(HOST, HOST.replace("vf0", "vf1"), (), id="and changed"),
        pytest.param(DPU, HOST + DPU.partition("devices:\n")[2], (), id="beside the DPU it is"),
        pytest.param("", DPU, ("devices",), id="the node is a DPU now"),
        pytest.param(DPU, DPU.replace("rep0", "rep2"), ("devices",), id="another representor"),
        pytest.param(HOST + OPI, HOST.replace("vf0", "vf1") + OPI, ("devices",), id="with OPI"),
        pytest.param(HOST, HOST + OPI, ("opi",), id="OPI"),
        pytest.param("", "fastpath: off\nstate_dir: /x\n", ("fastpath", "state_dir"), id="others"),
    ],
)
def test_what_a_running_agent_does_not_take(
    before: str, after: str, fixed: tuple[str, ...]
) -> None:
    assert config(before).fixed_changes(config(after)) == fixed


def test_a_dpu_may_be_the_host_of_another() -> None:
    both = config(HOST + OTHER_DPU.replace("[rep1]", "[rep0]")).devices
    assert [device.side for device in both] == ["host", "dpu"]


def test_all_faults_of_devices_at_once() -> None:
    text = MINIMAL + HOST.replace("marvell", "nvidia").replace("vf0", "a/b").replace("unix:", "")
    assert len(faults(text)) == 3


def test_what_the_file_says_of_opi() -> None:
    opi = config(DPU + "opi: {channel: '[fe80::1%eth1]:8085', bridges: {5: blue, '6': green}}").opi
    assert opi is not None
    assert opi.socket == Path("/var/run/dpu-daemon/vendor-plugin/vendor-plugin.sock")
    assert (opi.channel, opi.bridges) == (("fe80::1%eth1", 8085), {5: "blue", 6: "green"})
    assert (opi.segment, opi.role) == ("default", OpiRole.NODE)
    assert opi.functions is WithoutFunction.BLOCK
    for told in WithoutFunction:
        found = config(DPU + f"opi: {{functions: {told}}}").local_node
        assert found.without_function is told


@pytest.mark.parametrize(
    ("vendor", "opi", "channel"),
    [
        pytest.param("intel", "{}", ("192.168.1.2", 50151), id="E2100"),
        pytest.param("senao", "{}", None, id="of another it depends on the netdev"),
        pytest.param("intel", "{channel: '10.0.0.1:1'}", ("10.0.0.1", 1), id="told"),
    ],
)
def test_where_the_daemons_of_a_dpu_meet(
    vendor: str, opi: str, channel: tuple[str, int] | None
) -> None:
    text = DPU.replace("senao", vendor) + f"opi: {opi}"
    assert config(text).opi_channel == channel


@pytest.mark.parametrize(
    ("opi", "words"),
    [
        pytest.param("{socket: /run/x.sock}", "is not unix:/PATH, a socket", id="no method"),
        pytest.param("{channel: eth1}", "opi.channel: 'eth1' is not ADDRESS:PORT", id="netdev"),
        pytest.param("{channel: 'fe80::1:8085'}", "is not ADDRESS:PORT", id="no brackets"),
        pytest.param("{channel: '[fe80::1]:80'}", "as in [fe80::1%eth1]:80", id="no zone"),
        pytest.param("{channel: '[10.0.0.1]:80'}", "is not ADDRESS:PORT", id="IPv4 in brackets"),
        pytest.param("{channel: '10.0.0.1:0'}", "is not ADDRESS:PORT", id="port 0"),
        pytest.param("{channel: 5}", "opi.channel: 5 is not ADDRESS:PORT", id="number"),
        pytest.param("{segment: Blue}", "segment name 'Blue'", id="segment"),
        pytest.param("{bridges: {0: blue}}", "VLAN id 0 is not from 1 to 4094", id="VLAN 0"),
        pytest.param("{bridges: {4095: blue}}", "VLAN id 4095 is not", id="VLAN 4095"),
        pytest.param("{bridges: {x: blue}}", "'x' is not a VLAN id", id="no number"),
        pytest.param("{bridges: {5: B}}", "segment name 'B'", id="bridge"),
        pytest.param("{bridges: {5: a, '5': b}}", "key '5' is already there", id="twice"),
        pytest.param("{role: admin}", "opi.role 'admin'", id="role"),
        pytest.param("{functions: drop}", "opi.functions 'drop'", id="functions"),
        pytest.param("{vlan: 5}", "unknown key opi.vlan", id="unknown key"),
    ],
)
def test_faults_of_opi(opi: str, words: str) -> None:
    assert words in "\n".join(faults(MINIMAL + DPU + f"opi: {opi}"))


def test_opi_is_for_a_dpu_or_its_host() -> None:
    assert "opi: there is no DPU in 'devices'" in "\n".join(faults(MINIMAL + "opi: {}"))


def test_what_the_file_leaves_out() -> None:
    found = config()
    assert found.local_node == LocalNode("node1", "eth0", (), attach_without_fabric=True)
    assert found.cni_socket == Path("/run/overweave/cni.sock")
    assert found.api_socket == Path("/run/overweave/api.sock")
    assert found.ovs_remote == "unix:/run/openvswitch/db.sock"


def test_what_the_file_says() -> None:
    found = parse_config(
        """
        node: node1
        underlay: {interface: eth0, addresses: [192.0.2.1, "2001:db8::1"]}
        fabric: {remote: "tcp:192.0.2.9:6640,tcp:[2001:db8::9]:6640,tcp:db.example:6640"}
        attach_without_fabric: refuse
        """,
        "agent.yaml",
    )
    vteps = (ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    assert found.local_node == LocalNode("node1", "eth0", vteps, attach_without_fabric=False)


def test_the_node_is_called_like_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Host7.example")
    text = MINIMAL.replace("node: node1", "")
    assert parse_config(text, "agent.yaml").node == "host7.example"
    monkeypatch.setattr("socket.gethostname", lambda: "under_score")
    assert "node name 'under_score'" in faults(text)[0]


def test_a_managed_switch_lives_in_its_own_directory() -> None:
    found = config("ovs: {manage: true}")
    assert found.ovs_remote == "unix:/var/lib/overweave/ovs/db.sock"
    assert config("ovs: {manage: true, rundir: /o}").ovs_remote == "unix:/o/db.sock"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        pytest.param("", Path("/run/overweave/metrics.sock"), id="default"),
        pytest.param("run_dir: /r", Path("/r/metrics.sock"), id="beside the other sockets"),
        pytest.param("metrics: unix:/m.sock", Path("/m.sock"), id="unix"),
        pytest.param("metrics: 127.0.0.1:9464", (ip_address("127.0.0.1"), 9464), id="IPv4"),
        pytest.param("metrics: '[::1]:9464'", (ip_address("::1"), 9464), id="IPv6"),
    ],
)
def test_where_metrics_are(text: str, found: object) -> None:
    assert config(text).metrics_address == found


def test_metrics_are_not_for_everybody() -> None:
    (told,) = faults(MINIMAL + "metrics: 0.0.0.0:9464")
    assert "metrics: '0.0.0.0:9464': 0.0.0.0 is no loopback address" in told
    (told,) = faults(MINIMAL + "metrics: '[2001:db8::1]:9464'")
    assert "2001:db8::1 is no loopback address" in told


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(text, id=text)
        for text in ("9464", "127.0.0.1", "::1:9464", "[127.0.0.1]:1", "127.0.0.1:0", "host:1")
    ],
)
def test_metrics_are_somewhere(text: str) -> None:
    (told,) = faults(f"{MINIMAL}metrics: '{text}'")
    assert f"metrics: '{text}' is not unix:/PATH, 127.0.0.1:PORT or [::1]:PORT" in told


def test_certificates_that_are_there_are_taken(tmp_path: Path) -> None:
    for name in ("key", "cert", "ca"):
        (tmp_path / name).touch()
    keys = (
        f"{{remote: 'ssl:192.0.2.9:6640', private_key: {tmp_path}/key,"
        f" certificate: {tmp_path}/cert, ca_cert: {tmp_path}/ca}}"
    )
    text = MINIMAL.replace('{remote: "unix:/run/db.sock"}', keys)
    access = parse_config(text, "agent.yaml").fabric
    assert access is not None
    assert access.files["ca_cert"] == tmp_path / "ca"


def test_a_host_whose_pods_are_its_dpus_alone_needs_no_fabric() -> None:
    alone = MINIMAL.replace('{remote: "unix:/run/db.sock"}', "none")
    found = parse_config(alone + HOST, "agent.yaml")
    assert (found.fabric, found.local_node.in_fabric) == (None, False)
    assert config(HOST).local_node.in_fabric
    for others in ("", DPU, HOST + OTHER_DPU):
        (told,) = faults(alone + others)
        assert "fabric: none is for a host whose pods are all on VFs of its DPUs" in told
    for text in ("", " null", " off"):
        (told,) = faults(alone.replace("fabric: none", f"fabric:{text}") + HOST)
        assert "fabric " in told


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        pytest.param("node1", "Node_1", "node name 'Node_1' is not", id="node name"),
        pytest.param("node1", "5", "node 5: ", id="node is a number"),
        pytest.param("{interface: eth0}", "", "underlay None is not keys", id="empty underlay"),
        pytest.param("{interface: eth0}", "{}", "underlay.interface is missing", id="no NIC"),
        pytest.param("eth0", "a/b", "underlay: interface 'a/b'", id="NIC with slash"),
        pytest.param("eth0", "'a b'", "underlay: interface 'a b'", id="NIC with blank"),
        pytest.param("eth0", "sixteen-letters-", "interface 'sixteen", id="NIC too long"),
        pytest.param("eth0", "..", "underlay: interface '..'", id="NIC dots"),
        pytest.param(
            "eth0", "eth0, addresses: [300.0.0.1]", "addresses[0]: '300.0.0.1' is", id="no address"
        ),
        pytest.param(
            "eth0", "eth0, addresses: [127.0.0.1]", "'127.0.0.1' cannot be", id="loopback address"
        ),
        pytest.param(
            "eth0", "eth0, addresses: [239.0.0.1]", "'239.0.0.1' cannot be", id="multicast address"
        ),
        pytest.param(
            "eth0", "eth0, addresses: ['fe80::1%eth0']", "has a zone", id="address with zone"
        ),
        pytest.param(
            "eth0",
            "eth0, addresses: [192.0.2.1, 192.0.2.2]",
            "underlay.addresses 192.0.2.1, 192.0.2.2: a node has one ipv4",
            id="two addresses of a family",
        ),
        pytest.param("eth0", "eth0, mtu: 9000", "unknown key underlay.mtu", id="unknown inner key"),
        pytest.param("fabric:", "fabrik:", "unknown key fabrik (did you mean fabric?)", id="typo"),
        pytest.param("unix:/run/db.sock", "unix:db.sock", "remote 'unix:db", id="relative socket"),
        pytest.param("unix:/run/db.sock", "tcp:h", "fabric: remote 'tcp:h'", id="no port"),
        pytest.param("unix:/run/db.sock", "tcp:h:0", "remote 'tcp:h:0'", id="port 0"),
        pytest.param("unix:/run/db.sock", "tcp:h:65536", "'tcp:h:65536'", id="port too large"),
        pytest.param("unix:/run/db.sock", "tcp:::1:6640", "'tcp:::1:6640'", id="IPv6 unbracketed"),
        pytest.param("unix:/run/db.sock", "tcp:[::1:6640", "'tcp:[::1:6640'", id="bracket open"),
        pytest.param("unix:/run/db.sock", "pssl:6640", "remote 'pssl:6640'", id="a listener"),
        pytest.param("unix:/run/db.sock", "unix:/a,,", "remote ''", id="empty member"),
        pytest.param(
            "unix:/run/db.sock",
            "ssl:h:6640",
            "fabric.remote 'ssl:h:6640' needs fabric.private_key and fabric.certificate and",
            id="ssl without certificates",
        ),
        pytest.param(
            '"}', '", ca_cert: /nowhere/ca}', "fabric.ca_cert /nowhere/ca: no such file", id="no CA"
        ),
    ],
)
def test_a_fault_names_key_and_value(old: str, new: str, told: str) -> None:
    assert old in MINIMAL
    found = faults(MINIMAL.replace(old, new, 1))
    assert any(told in fault for fault in found), found
    assert all(fault.startswith("agent.yaml, line ") for fault in found)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        pytest.param("ovs: {manage: 'yes'}", "ovs.manage 'yes'", id="manage is text"),
        pytest.param("ovs: {rundir: o}", "ovs.rundir: 'o' is not an absolute", id="relative"),
        pytest.param(
            "ovs: {manage: true, remote: 'unix:/o'}", "ovs.remote 'unix:/o'", id="managed elsewhere"
        ),
        pytest.param(
            "ovs: {manage: true}\ndatapath: kernel",
            "datapath: kernel is left to the node's own Open vSwitch",
            id="the kernel's datapath, managed",
        ),
        pytest.param("state_dir: 5", "state_dir: 5 is not an absolute path", id="number as path"),
        pytest.param("discovery: on", "'on' is not an absolute path, nor off", id="discovery"),
        pytest.param("state_dir: /a/../b", "state_dir: '/a/../b'", id="dots in path"),
        pytest.param(f"run_dir: /{'x' * 100}", "is too long", id="socket name too long"),
        pytest.param("underlay: {interface: e, xdp: generic}", "xdp 'generic'", id="generic XDP"),
        pytest.param("attach_without_fabric: off", "attach_without_fabric 'off'", id="no boolean"),
        pytest.param("node: again", "key 'node' is already there", id="key twice"),
        pytest.param("---\na: 1", "2 documents", id="two documents"),
        pytest.param("a: [", "not YAML", id="broken YAML"),
        pytest.param("a: !!python/name:os.system", "not YAML: could not", id="Python in YAML"),
        pytest.param("a: \x00", "not YAML: special characters", id="NUL"),
    ],
)
def test_a_fault_in_what_has_defaults(more: str, told: str) -> None:
    assert any(told in fault for fault in faults(MINIMAL + more))


@pytest.mark.parametrize(
    ("more", "place"),
    [("", Path("/sys")), ("discovery: off", None), ("discovery: /s", Path("/s"))],
    ids=["default", "off", "elsewhere"],
)
def test_where_dpus_are_looked_for(more: str, place: Path | None) -> None:
    assert config(more).discovery == place


def test_all_faults_are_told_at_once_in_the_order_of_the_file() -> None:
    found = faults("node: N\nunderlay: {interface: a/b}\nfabric: {remote: x}\nfoo: 1\nnode: M\n")
    lines = [int(fault.split("line ")[1].split(":")[0]) for fault in found]
    assert lines == [2, 3, 4, 5, 5]
    assert len(found) == 5


@pytest.mark.parametrize("text", ["", "[]", "5", "a", "~"])
def test_what_is_no_mapping_is_one_fault(text: str) -> None:
    assert len(faults(text)) == 1


def test_a_file_that_is_not_there_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(InvalidValueError, match=r"agent\.yaml: No such file.*config example"):
        load_config(tmp_path / "agent.yaml")


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "agent.yaml").write_bytes(b"node: \xff")
    with pytest.raises(InvalidValueError, match="not UTF-8 text, at byte 6"):
        load_config(tmp_path / "agent.yaml")


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
keys = st.sampled_from([*AgentConfig.model_fields, "other"])


@given(st.dictionaries(keys, values))
def test_no_content_breaks_the_reader(content: dict[str, object]) -> None:
    with pytest.raises(FaultyFileError):  # underlay and fabric are never right by chance
        parse_config(yaml.safe_dump(content), "agent.yaml")


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(FaultyFileError):
        parse_config(text, "agent.yaml")
