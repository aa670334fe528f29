"""What an emulated switch is told: its ports, and where each ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator

from dataplane.core.errors import InvalidValueError
from dataplane.core.model import MIN_IPV6_MTU
from dataplane.documents import (
    Fault,
    FaultyFileError,
    InterfaceName,
    Ip,
    Strict,
    absolute_path,
    read_documents,
    validate,
)

AbsolutePath = Annotated[Path, PlainValidator(absolute_path)]
UdpPort = Annotated[int, Field(ge=1, le=0xFFFF)]


class PortConfig(Strict):
    """A port of the switch, and the TAP ``netdev`` in ``netns`` that its cable ends in."""

    port: InterfaceName
    netdev: InterfaceName
    netns: AbsolutePath


class EmulatorConfig(Strict):
    """One switch; ``vfs`` and ``representors`` are in the order of the VFs' numbers."""

    run_dir: AbsolutePath
    uplink: PortConfig
    cpu: PortConfig
    vfs: Annotated[list[PortConfig], Field(min_length=1)]
    representors: Annotated[list[PortConfig], Field(min_length=1)]

    @property
    def ports(self) -> tuple[PortConfig, ...]:
        """Return every port."""
        return (self.uplink, self.cpu, *self.vfs, *self.representors)

    @property
    def wiring(self) -> dict[str, Any]:
        """Return which port is what; VFs and where they miss by the representor's netdev."""
        names = [representor.netdev for representor in self.representors]
        return {
            "uplink": self.uplink.port,
            "cpu": self.cpu.port,
            "vfs": dict(zip(names, (vf.port for vf in self.vfs), strict=True)),
            "misses": {each.netdev: each.port for each in self.representors},
        }

    @property
    def misses(self) -> dict[str, str]:
        """Return by port where frames without entry go."""
        ways = {self.uplink.port: self.cpu.port, self.cpu.port: self.uplink.port}
        for vf, representor in zip(self.vfs, self.representors, strict=True):
            ways |= {vf.port: representor.port, representor.port: vf.port}
        return ways

    @property
    def control(self) -> Path:
        """Return the socket that takes faults."""
        return self.run_dir / "control.sock"


class OcteonConfig(EmulatorConfig):
    """A Marvell Octeon 10.

    ``netns`` is a namespace of its own, ``addresses`` the DPU's VTEPs, ``mtu`` in bytes.
    """

    vendor: Literal["marvell"]
    netns: AbsolutePath
    bridge: InterfaceName
    addresses: Annotated[list[Ip], Field(min_length=1, max_length=2)]
    mtu: Annotated[int, Field(ge=MIN_IPV6_MTU)]

    @property
    def ovs(self) -> Path:
        """Return the run directory of its Open vSwitch."""
        return self.run_dir / "ovs"

    @property
    def openflow(self) -> Path:
        """Return the socket on which its bridge speaks OpenFlow."""
        return self.run_dir / "openflow.sock"


# VSIs of an emulated E2100, ours, for labs: the DPU's CPU, its representors and the host's VFs from
# these on.
CPU_VSI, FIRST_REPRESENTOR_VSI, FIRST_VF_VSI = 8, 9, 27


class E2100Config(EmulatorConfig):
    """An Intel IPU E2100; without ``p4info`` its pipeline is the one of p4info.txt here."""

    vendor: Literal["intel"]
    p4info: AbsolutePath | None = None

    @property
    def p4runtime(self) -> Path:
        """Return the socket on which it speaks P4Runtime."""
        return self.run_dir / "p4runtime.sock"


class Sx904Config(EmulatorConfig):
    """A Senao SX904; without ``tunnels`` it has the published ``ice`` driver.

    ``eswitch`` is the mode that its NIC begins in, ``capacity`` is how many filters it takes,
    ``geneve`` and ``vxlan`` are the UDP ports of the tunnel devices on the card.
    """

    vendor: Literal["senao"]
    tunnels: bool = True
    eswitch: Literal["legacy", "switchdev"] = "switchdev"
    capacity: Annotated[int, Field(ge=0)] = 4096
    geneve: UdpPort = 6081
    vxlan: UdpPort = 4789

    @property
    def rtnetlink(self) -> Path:
        """Return the socket on which its kernel speaks rtnetlink."""
        return self.run_dir / "rtnetlink.sock"

    @property
    def devlink(self) -> Path:
        """Return the socket on which its kernel speaks devlink."""
        return self.run_dir / "devlink.sock"


AnyConfig = OcteonConfig | E2100Config | Sx904Config
VENDORS: Mapping[str, type[AnyConfig]] = {
    "marvell": OcteonConfig,
    "intel": E2100Config,
    "senao": Sx904Config,
}


def named_port(config: EmulatorConfig, name: str) -> PortConfig:
    """Return the port called ``name``. Raises InvalidValueError."""
    found = next((port for port in config.ports if port.port == name), None)
    if found is None:
        known = ", ".join(port.port for port in config.ports)
        raise InvalidValueError(f"there is no port {name!r}; there are {known}")
    return found


def load_config(path: Path) -> AnyConfig:
    """Return the configuration in the file at ``path``.

    Raises InvalidValueError, or FaultyFileError with every fault.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"configuration {path} cannot be read: {error}") from error
    documents, faults = read_documents(text)
    if len(documents) != 1:
        what = f"a configuration is one document, this has {len(documents)}"
        raise FaultyFileError(str(path), (*faults, Fault(1, "", what)))
    parsed, sentences = validate(_model(documents[0].value), documents[0].value)
    told = [Fault(documents[0].line(place), "", words) for place, words in sentences]
    if parsed is not None:
        told += [Fault(1, "", words) for words in _contradictions(parsed)]
    if parsed is None or told or faults:
        raise FaultyFileError(str(path), (*faults, *told))
    return parsed


def _model(value: object) -> type[AnyConfig]:
    """Return what ``value`` is to be; its faults are told by the first vendor's if it is none's."""
    vendor = value.get("vendor") if isinstance(value, Mapping) else None
    return VENDORS.get(str(vendor), OcteonConfig)


def _contradictions(parsed: EmulatorConfig) -> list[str]:
    names = [port.port for port in parsed.ports]
    doubles = sorted({name for name in names if names.count(name) > 1})
    found = [f"port {name} stands there {names.count(name)} times" for name in doubles]
    if len(parsed.vfs) != len(parsed.representors):
        found.append(f"{len(parsed.vfs)} vfs for {len(parsed.representors)} representors")
    return found
