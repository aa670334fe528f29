"""The agent's configuration file, read once, as a value. All its faults are told at once."""

from __future__ import annotations

import socket
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, model_validator

from dataplane.core.desired import LocalNode, Xdp
from dataplane.core.errors import InvalidValueError
from dataplane.core.functions import WithoutFunction
from dataplane.core.model import IpAddress, Side, family_of
from dataplane.device_config import Devices, Vendor, unix_socket
from dataplane.documents import (
    Fault,
    FaultyFileError,
    InterfaceName,
    Ip,
    NodeName,
    SegmentName,
    Strict,
    absolute_path,
    read_documents,
    shown,
    validate,
)
from dataplane.remotes import (
    CERTIFICATE_KEYS,
    SUN_PATH,
    check_certificates,
    check_remote,
    is_port,
)

INSTALLED_CONFIG = Path("/etc/overweave/agent.yaml")
_LONGEST_SOCKET = "ovs-vswitchd.4194304.ctl"  # the longest name below run_dir or ovs.rundir


def _socket_directory(value: object) -> Path:
    path = absolute_path(value)
    length = len(str(path / _LONGEST_SOCKET).encode())
    if length > SUN_PATH:
        raise InvalidValueError(
            f"{shown(value)} is too long: its sockets would have names of {length} bytes,"
            f" the kernel takes {SUN_PATH}"
        )
    return path


def _metrics_address(value: object) -> Path | tuple[IpAddress, int]:
    text = value if isinstance(value, str) else ""
    method, _, path = text.partition(":")
    if method == "unix" and len(path.encode()) <= SUN_PATH:
        return absolute_path(path)
    host, _, port = text.rpartition(":")
    try:
        address = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        address = None
    if address is None or host.startswith("[") != (address.version == 6) or not is_port(port):
        raise InvalidValueError(f"{shown(value)} is not unix:/PATH, 127.0.0.1:PORT or [::1]:PORT")
    if not address.is_loopback:
        raise InvalidValueError(
            f"{shown(value)}: {address} is no loopback address, and metrics are not for everybody"
            " who reaches it; give unix:/PATH, 127.0.0.1:PORT or [::1]:PORT"
        )
    return address, int(port)


def _sysfs_or_off(value: object) -> Path | None:
    if value == "off":
        return None
    try:
        return absolute_path(value)
    except InvalidValueError as error:
        raise InvalidValueError(f"{error}, nor off") from None


def _vlan_id(value: object) -> int:
    text = str(value)
    if isinstance(value, bool) or not text.isascii() or not text.isdecimal():
        raise InvalidValueError(f"{shown(value)} is not a VLAN id from 1 to 4094")
    if not 1 <= int(text) <= 4094:  # IEEE 802.1Q, table 9-2: 0 and 4095 name no VLAN
        raise InvalidValueError(f"VLAN id {text} is not from 1 to 4094")
    return int(text)


def _channel(value: object) -> tuple[str, int]:
    text = value if isinstance(value, str) else ""
    host, _, port = text.rpartition(":")
    in_brackets = host.startswith("[") and host.endswith("]")
    address = host[1:-1] if in_brackets else host
    try:
        fits = ip_address(address).version == (6 if in_brackets else 4)
    except ValueError:
        fits = False
    if not fits or not is_port(port):
        raise InvalidValueError(
            f"{shown(value)} is not ADDRESS:PORT such as 192.168.1.2:50151 or [fe80::1%eth1]:8085"
        )
    if in_brackets and "%" not in address and ip_address(address).is_link_local:
        raise InvalidValueError(
            f"{shown(value)}: {address} is there on every netdev; say on which, as in"
            f" [{address}%eth1]:{port}"
        )
    return address, int(port)


def _fabric_or_none(value: object) -> object:
    if value is None:
        raise InvalidValueError("fabric None is not keys with values, nor none")
    return None if value == "none" else value


Directory = Annotated[Path, PlainValidator(absolute_path)]
SocketDirectory = Annotated[Path, PlainValidator(_socket_directory)]
MetricsAddress = Annotated[Path | tuple[IpAddress, int], PlainValidator(_metrics_address)]
Discovery = Annotated[Path | None, PlainValidator(_sysfs_or_off)]
Remote = Annotated[str, AfterValidator(check_remote)]


def _hostname() -> str:
    return socket.gethostname().lower()


class AttachWithoutFabric(StrEnum):
    """What CNI ADD does while the fabric database is away."""

    ALLOW = "allow"
    REFUSE = "refuse"


class FastPath(StrEnum):
    """Whether the eBPF programs forward by themselves what they know.

    Only REQUIRED keeps the agent from starting where they cannot be loaded; without them Open
    vSwitch forwards everything, as it does with OFF.
    """

    AUTO = "auto"
    REQUIRED = "required"
    OFF = "off"


class DatapathChoice(StrEnum):
    """Which datapath of Open vSwitch carries the overlay.

    AUTO is the kernel's where the node's own Open vSwitch has it, else the userspace one. Only
    KERNEL keeps the agent from starting where it cannot be had.
    """

    AUTO = "auto"
    USERSPACE = "userspace"
    KERNEL = "kernel"


class Underlay(Strict):
    """The NIC that carries the tunnels; without ``addresses`` its first of each family is used.

    With ``exclusive_ports`` nobody else uses our UDP ports here: what is not known is dropped.
    """

    interface: InterfaceName
    addresses: list[Ip] = []
    exclusive_ports: bool = False
    xdp: Annotated[Xdp, Field(strict=False)] = Xdp.AUTO

    @model_validator(mode="after")
    def _one_per_family(self) -> Underlay:
        families = [family_of(address) for address in self.addresses]
        for family in families:
            if families.count(family) > 1:
                both = ", ".join(str(a) for a in self.addresses if family_of(a) is family)
                raise InvalidValueError(
                    f"underlay.addresses {both}: a node has one {family} address"
                )
        return self


class FabricAccess(Strict):
    """Where the fabric database is, and who we are to it: needed for ``ssl:`` remotes."""

    remote: Remote
    private_key: Directory | None = None
    certificate: Directory | None = None
    ca_cert: Directory | None = None

    @property
    def files(self) -> dict[str, Path]:
        """Return the certificate files by key."""
        named = {key: getattr(self, key) for key in CERTIFICATE_KEYS}
        return {key: path for key, path in named.items() if path is not None}

    @model_validator(mode="after")
    def _certificates(self) -> FabricAccess:
        check_certificates("fabric.", {"remote": self.remote}, self.files)
        return self


class TlsAccess(Strict):
    """Who this node is to the other half of a DPU: its certificate, and whom it trusts."""

    private_key: Directory
    certificate: Directory
    ca_cert: Directory

    @property
    def files(self) -> dict[str, Path]:
        """Return the files by key."""
        return {key: getattr(self, key) for key in CERTIFICATE_KEYS}

    @model_validator(mode="after")
    def _are_there(self) -> TlsAccess:
        check_certificates("tls.", {}, self.files)
        return self


class OvsAccess(Strict):
    """The Open vSwitch to program: the node's own, or with ``manage`` one the agent runs."""

    manage: bool = False
    rundir: SocketDirectory | None = None
    remote: Remote | None = None


class OpiRole(StrEnum):
    """What callers of the OPI services may do; only TENANT lets them write segments."""

    NODE = "node"
    TENANT = "tenant"


_E2100_CHANNEL = ("192.168.1.2", 50151)  # what Intel's plugin has in it, for both sides


class OpiAccess(Strict):
    """The services for a DPU operator's daemon, and which of its VLAN ids is which segment.

    Every VLAN id that ``bridges`` does not name is ``segment``. ``channel`` is where the daemons on
    the DPU and on its host meet. ``functions`` says what becomes of the traffic of a network
    function that is gone.
    """

    socket: Annotated[Path, PlainValidator(unix_socket)] = Path(
        "/var/run/dpu-daemon/vendor-plugin/vendor-plugin.sock"
    )
    channel: Annotated[tuple[str, int], BeforeValidator(_channel)] | None = None
    segment: SegmentName = "default"
    bridges: dict[Annotated[int, PlainValidator(_vlan_id)], SegmentName] = {}
    role: Annotated[OpiRole, Field(strict=False)] = OpiRole.NODE
    functions: Annotated[WithoutFunction, Field(strict=False)] = WithoutFunction.BLOCK


class AgentConfig(Strict):
    """Everything the agent is told; what is left out has the value that ``EXAMPLE`` shows.

    ``discovery`` is the sysfs in which DPUs are looked for; None: they are not.
    """

    node: NodeName = Field(default_factory=_hostname, validate_default=True)
    underlay: Underlay
    fabric: Annotated[FabricAccess | None, BeforeValidator(_fabric_or_none)]
    tls: TlsAccess | None = None
    ovs: OvsAccess = OvsAccess()
    state_dir: Directory = Path("/var/lib/overweave")
    run_dir: SocketDirectory = Path("/run/overweave")
    bpffs: Directory = Path("/sys/fs/bpf/overweave")
    metrics: MetricsAddress | None = None
    attach_without_fabric: Annotated[AttachWithoutFabric, Field(strict=False)] = (
        AttachWithoutFabric.ALLOW
    )
    fastpath: Annotated[FastPath, Field(strict=False)] = FastPath.AUTO
    datapath: Annotated[DatapathChoice, Field(strict=False)] = DatapathChoice.AUTO
    devices: Devices = []
    discovery: Discovery = Path("/sys")
    opi: OpiAccess | None = None

    @model_validator(mode="after")
    def _own_switch_has_its_own_socket(self) -> AgentConfig:
        own = f"unix:{self.ovs_rundir / 'db.sock'}"
        if self.ovs.manage and self.ovs.remote not in (None, own):
            raise InvalidValueError(
                f"ovs.remote {self.ovs.remote!r} is another Open vSwitch: with ovs.manage it is"
                f" {own}; leave ovs.remote out, or set ovs.manage: false"
            )
        return self

    @model_validator(mode="after")
    def _own_switch_leaves_the_kernels_datapath(self) -> AgentConfig:
        if self.ovs.manage and self.datapath is DatapathChoice.KERNEL:
            raise InvalidValueError(
                "datapath: kernel is left to the node's own Open vSwitch, for two would undo each"
                " other's work in it; set ovs.manage: false, or leave datapath out"
            )
        return self

    @model_validator(mode="after")
    def _underlay_is_no_port_of_a_device(self) -> AgentConfig:
        nic = self.underlay.interface
        if nic in (name for device in self.devices for name in device.netdevs):
            raise InvalidValueError(f"devices: netdev {nic} is underlay.interface, too")
        return self

    @model_validator(mode="after")
    def _who_has_pods_of_its_own_has_a_fabric(self) -> AgentConfig:
        sides = {device.side for device in self.devices}
        if self.fabric is None and sides != {Side.HOST}:
            raise InvalidValueError(
                "fabric: none is for a host whose pods are all on VFs of its DPUs: 'devices' with"
                " side host"
            )
        return self

    @model_validator(mode="after")
    def _who_talks_over_a_network_has_a_certificate(self) -> AgentConfig:
        remote = [device for device in self.devices if device.is_remote]
        if remote and self.tls is None:
            raise InvalidValueError(
                f"devices: attachment {remote[0].attachment} needs tls, this node's certificate;"
                f" make one: overweave pki issue {self.node}"
            )
        return self

    @model_validator(mode="after")
    def _opi_is_about_a_device(self) -> AgentConfig:
        if self.opi is not None and not self.devices:
            raise InvalidValueError(
                "opi: there is no DPU in 'devices', and what a DPU operator asks for is about one"
            )
        return self

    def fixed_changes(self, fresh: AgentConfig) -> tuple[str, ...]:
        """Return the keys in which ``fresh`` has something else that an agent reads only once.

        All of it is, but for ``devices`` of side host where no DPU operator is told of them.
        """
        before, after = (self, fresh) if self.opi else (self._as_dpu(), fresh._as_dpu())
        keys = sorted(type(self).model_fields)
        return tuple(key for key in keys if getattr(before, key) != getattr(after, key))

    def _as_dpu(self) -> AgentConfig:
        """Return it without the DPUs that this node is the host of."""
        own = [device for device in self.devices if device.side is Side.DPU]
        return self.model_copy(update={"devices": own})

    @property
    def opi_channel(self) -> tuple[str, int] | None:
        """Return where the daemons of DPU and host meet; None: the configuration has to say."""
        told = self.opi.channel if self.opi else None
        return told or (
            _E2100_CHANNEL if all(each.vendor is Vendor.INTEL for each in self.devices) else None
        )

    @property
    def attachment_socket(self) -> Path:
        """Return the socket that the agent of a DPU's host talks to."""
        return self.run_dir / "attachment.sock"

    @property
    def cni_socket(self) -> Path:
        """Return the socket that overweave-cni talks to."""
        return self.run_dir / "cni.sock"

    @property
    def api_socket(self) -> Path:
        """Return the socket of the agent's own gRPC service."""
        return self.run_dir / "api.sock"

    @property
    def metrics_address(self) -> Path | tuple[IpAddress, int]:
        """Return the socket, or loopback address and TCP port, that Prometheus is answered on."""
        return self.metrics or self.run_dir / "metrics.sock"

    @property
    def ovs_rundir(self) -> Path:
        """Return the directory of the switch's sockets and pid files."""
        own = Path("/var/lib/overweave/ovs") if self.ovs.manage else Path("/run/openvswitch")
        return self.ovs.rundir or own

    @property
    def ovs_remote(self) -> str:
        """Return the OVSDB remote of the switch."""
        return self.ovs.remote or f"unix:{self.ovs_rundir / 'db.sock'}"

    @property
    def local_node(self) -> LocalNode:
        """Return what the deciding thread needs of all this."""
        return LocalNode(
            name=self.node,
            underlay_interface=self.underlay.interface,
            vteps=tuple(self.underlay.addresses),
            attach_without_fabric=self.attach_without_fabric is AttachWithoutFabric.ALLOW,
            fastpath=self.fastpath is not FastPath.OFF,
            exclusive_ports=self.underlay.exclusive_ports,
            xdp=self.underlay.xdp,
            devices=tuple(device.entity(self.node) for device in self.devices),
            without_function=self.opi.functions if self.opi else WithoutFunction.BLOCK,
            in_fabric=self.fabric is not None,
        )


EXAMPLE = """\
# overweave agent. What is commented out is the default.

# The node's name in the fabric; the CN of its certificate. Default: the host's name.
# node: node1

underlay:
  interface: eth0              # the NIC that carries the tunnels; it keeps its addresses
  # addresses: [192.0.2.11]    # tunnel end points, one per family; default: the NIC's first
  # exclusive_ports: false     # true: nobody else has our UDP ports here, drop strangers' packets
  # xdp: auto                  # drop malformed and strangers' tunnel packets in the NIC's driver:
  #                            # auto where it has native XDP and is no veth; native; off

fabric:                        # or none: a host whose pods are all on its DPUs' VFs needs no access
  # unix:/PATH, tcp:ADDRESS:PORT (unauthenticated) or ssl:ADDRESS:PORT; several with commas between
  remote: unix:/var/lib/overweave/fabric/db.sock
  # private_key: /etc/overweave/node1-privkey.pem    # these three for ssl:
  # certificate: /etc/overweave/node1-cert.pem
  # ca_cert: /etc/overweave/cacert.pem

# ovs:
#   manage: false              # true: the agent starts an Open vSwitch of its own and restarts it
#   rundir: /run/openvswitch   # with manage: /var/lib/overweave/ovs
#   remote: unix:/run/openvswitch/db.sock

# state_dir: /var/lib/overweave        # attachments, and what ADD needs while the database is away
# run_dir: /run/overweave              # cni.sock, api.sock, metrics.sock, attachment.sock
# bpffs: /sys/fs/bpf/overweave         # where eBPF programs and maps outlive the agent
# metrics: unix:/run/overweave/metrics.sock    # for Prometheus; or 127.0.0.1:PORT, [::1]:PORT
# attach_without_fabric: allow         # or refuse: no ADD while the database is away
# fastpath: auto                       # eBPF forwards what it knows; where it cannot be loaded, all
#                                      # packets go through Open vSwitch, and status says why.
#                                      # off: they do in any case; required: no start without eBPF
# datapath: auto                       # of Open vSwitch: auto is the kernel's where the node's own
#                                      # Open vSwitch has it, else userspace, and status says why;
#                                      # kernel: no start without it; agent --datapath goes first
# discovery: /sys                      # where DPUs are looked for: overweave get dpu shows what is
#                                      # there, devices says what of it is used; off: nobody looks

# devices:                     # the DPUs that this node is a half of; those of side host may come
#                              # and go: a running agent reads them again at SIGHUP
# - serial: "0123456789"       # the same on both sides
#   vendor: marvell            # or intel, senao
#   product: Marvell Octeon 10
#   side: host
#   emulated: false            # true: the switch of a lab
#   attachment: unix:/run/overweave-dpu/attachment.sock    # of the DPU's agent, in its run_dir;
#   # attachment: ssl:192.0.2.7:50052     # or over a network, by certificates: needs tls, and
#   # peer: dpu1                          # the DPU's node, the CN of its certificate
#   vfs:                       # in the order of their numbers
#   - {device_id: "0000:06:00.2", netdev: vf0}
# - serial: "9876543210"
#   vendor: intel
#   side: dpu                  # one at most; then this agent serves attachment.sock in run_dir
#   # attachment: ssl:192.0.2.7:50052     # or over a network, by certificates: needs tls, and
#   # peer: host1                         # the host's node: nobody else is served
#   representors: [rep0, rep1] # of the host's VFs, in the same order
#   switch: {}                 # what the vendor's driver needs to know: vendors/*/README.md

# opi:                         # what a DPU operator's daemon expects of a vendor's plugin
#   socket: unix:/var/run/dpu-daemon/vendor-plugin/vendor-plugin.sock
#   channel: "[fe80::1%eth1]:8085"     # where the daemons of DPU and host meet; only for an
#                              # E2100 there is a default: 192.168.1.2:50151
#   segment: default           # what a VLAN id means here that is none of these:
#   bridges: {5: blue, 6: green}      # and these are the tags at trunk ports
#   role: node                 # or tenant: callers may make, change and delete segments
#   functions: block           # or bypass: what becomes of the traffic of a network function that
#                              # is gone and was not deleted

# tls:                         # the node's certificate (overweave pki), for attachment: ssl:
#   private_key: /etc/overweave/node1-privkey.pem    # its owner's alone: mode 600
#   certificate: /etc/overweave/node1-cert.pem       # all three may be replaced at any time
#   ca_cert: /etc/overweave/cacert.pem
"""


def parse_config(text: str, source: str) -> AgentConfig:
    """Return the configuration in ``text``. Raises FaultyFileError with every fault."""
    documents, faults = read_documents(text)
    if len(documents) != 1 or not isinstance(documents[0].value, dict):
        what = f"{len(documents)} documents" if len(documents) != 1 else "no keys with values"
        more = () if faults else (Fault(1, "", f"{what} in it; a configuration is one mapping"),)
        raise FaultyFileError(source, (*faults, *more))
    config, sentences = validate(AgentConfig, documents[0].value)
    told = [Fault(documents[0].line(location), "", text) for location, text in sentences]
    if config is None or faults:
        raise FaultyFileError(source, (*faults, *told))
    return config


def load_config(path: Path) -> AgentConfig:
    """Return the configuration of file ``path``. Raises InvalidValueError, FaultyFileError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        advice = "print one to start from: overweave config example"
        raise InvalidValueError(f"{path}: {error.strerror}; {advice}") from error
    except UnicodeDecodeError as error:
        raise InvalidValueError(f"{path}: not UTF-8 text, at byte {error.start}") from error
    return parse_config(text, str(path))
