"""Trees as machines have them, and trees of rubbish: what every vendor's discovery finds there."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dataplane.core.capability import Use
from dataplane.core.discovered import Found, FoundVf
from dataplane.core.model import Side
from tests.unit.sysfs_trees import Tree, config_space, vital_product_data
from vendors.assumed import ASSUMED
from vendors.discovery import IDS, discover
from vendors.pci import Machine, PciId, device_serial, mac_of, vpd_serial
from vendors.sysfs import Sysfs

NETWORK = "0x028000"  # PCI class "Network controller", as an E2100 has it
E2100, OCTEON, SX904 = "Intel IPU E2100", "Marvell Octeon 10", "Intel Netsec Accelerator"
CARD = "d4-e5-c9-ff-ff-00-ec-3e"  # whose bytes at 0x150 dpu-operator's documents show
OTHER_CARD = "d4-e5-c9-ff-ff-00-ec-51"
NO_MAC = "d4-e5-c9-00-01-00-ec-51"


def look(root: Path) -> Machine:
    return Sysfs(root, IDS).look()


def ipu_host(tree: Tree, bus: str = "06", serial: str = "") -> None:
    pf = f"0000:{bus}:00.0"
    netdevs = {f"ens{bus}f0": {}, f"ens{bus}f0d2": {"dev_port": "2"}}
    vpd = vital_product_data(serial.encode()) if serial else None
    tree.function(pf, "8086:1452", netdevs, pci_class=NETWORK, vpd=vpd)


def ipu_vfs(tree: Tree, count: int = 3, bus: str = "06") -> None:
    vfs = {f"0000:{bus}:{n // 8:02x}.{n % 8}": f"ens{bus}f0v{n - 1}" for n in range(1, count + 1)}
    tree.vfs(f"0000:{bus}:00.0", "8086:145c", vfs)


def ipu_host_with_vfs(tree: Tree) -> None:
    ipu_host(tree)
    ipu_vfs(tree)


def ipu(tree: Tree) -> None:
    tree.dmi("Intel(R) IPU Adapter E2100-CCQDA2", "BTK1234")
    ports = {f"enp0s1f0d{n}": {"dev_port": str(n)} for n in range(1, 48)}
    tree.function("0000:00:01.0", "8086:1452", {"enp0s1f0": {}, **ports}, pci_class=NETWORK)
    tree.function("0000:00:01.6", "8086:1453", pci_class=NETWORK)


def ipu_whose_representors_are_away(tree: Tree) -> None:
    """Intel's plugin puts them into the namespace of its bridge, one by one."""
    tree.dmi("IPU Adapter E2100-CCQDA2", "Not Specified")
    ports = {f"enp0s1f0d{n}": {"dev_port": str(n)} for n in (1, 8, 9, 11, 13, 30)}
    tree.function("0000:00:01.0", "8086:1452", ports, pci_class=NETWORK)


def octeon_host(tree: Tree, bus: str = "03", serial: str = "") -> None:
    pf = f"0000:{bus}:00.0"
    tree.function(pf, "177d:b900", [f"enp{bus}s0"], config=config_space(serial))
    vfs = {f"0000:{bus}:02.{n}": f"enp{bus}s0v{n}" if n != 1 else "" for n in range(3)}
    tree.vfs(pf, "177d:b903", vfs)


def octeon(tree: Tree) -> None:
    macs = {"address": "00:0f:b7:11:22:33"}
    tree.function("0002:02:00.0", "177d:a063", {"eth0": macs})
    tree.function("0002:03:00.0", "177d:a063", ["eth1"])
    for number in range(4):
        tree.function(f"0002:0f:00.{number}", "177d:a0f7", [f"sdp{number}"])
    tree.function("0002:10:00.0", "177d:a080")
    tree.function("0002:01:00.0", "177d:a065")


def sx904_host(tree: Tree, bus: str = "51", serial: str = CARD) -> None:
    for port in range(2):
        config = config_space(serial)
        tree.function(f"0000:{bus}:00.{port}", "8086:1599", [f"ens{bus}f{port}"], config=config)
    vfs = {f"0000:{bus}:01.{n}": f"ens{bus}f0v{n}" for n in range(2)}
    tree.vfs(f"0000:{bus}:00.0", "8086:1889", vfs)


def sx904(tree: Tree) -> None:
    """A card as it is shipped: the host's VF i and the card's have a lane between them."""
    tree.function("0000:f4:00.0", "8086:124d", {"sfp0": {"address": "d4:e5:c9:00:ec:3e"}})
    tree.function("0000:f4:00.1", "8086:124d", ["sfp1"])
    tree.function("0000:f4:00.2", "8086:124c", ["bp0"])
    tree.function("0000:f4:00.3", "8086:124c", ["bp1"])
    tree.vfs("0000:f4:00.2", "8086:1889", {f"0000:f4:11.{n}": f"bp0v{n}" for n in range(2)})


def sx904_in_switchdev_mode(tree: Tree) -> None:
    ports = {"p0": "bp0", "pf2vf1": "rep1", "pf2vf0": "rep0", "pf2vf3": "rep3"}
    netdevs = {
        name: {"phys_port_name": port, "phys_switch_id": "3eec00ffffc9e5d4"}
        for port, name in ports.items()
    }
    tree.function("0000:f4:00.0", "8086:124d", {"sfp0": {"address": "d4:e5:c9:00:ec:3e"}})
    tree.function("0000:f4:00.2", "8086:124c", netdevs)


def ordinary(tree: Tree) -> None:
    """A server with other functions of the same vendors."""
    tree.dmi("PowerEdge R760", "ABC1234")
    tree.function("0000:00:00.0", "8086:09a2", pci_class="0x088000")
    tree.function("0000:17:00.0", "8086:159b", ["eno1"])
    tree.function("0000:ca:00.0", "15b3:1021", ["ens1"])
    tree.function("0000:cb:00.0", "177d:a034", ["ens2"])


def at(address: str, pci_id: str) -> str:
    return f"{address} ({pci_id}, subsystem {pci_id[:4]}:0000)"


def host(
    vendor: str, product: str, *serials: str, place: str, vfs: str = "", assumed: str = ""
) -> Found:
    pairs = (each.split("=") for each in vfs.split())
    found = tuple(FoundVf(address, netdev) for address, netdev in pairs)
    names = tuple(assumed.split())
    return Found(vendor, product, Side.HOST, serials, place, vfs=found, assumptions=names)


def dpu(
    vendor: str, product: str, *serials: str, place: str, reps: str = "", assumed: str = ""
) -> Found:
    found = tuple(each.strip("-") for each in reps.split())
    names = tuple(assumed.split())
    return Found(vendor, product, Side.DPU, serials, place, representors=found, assumptions=names)


IPU_HOST = host(
    "intel",
    E2100,
    "intel-ipu-0000-06-00.0",
    place=at("0000:06:00.0", "8086:1452"),
    vfs="0000:06:00.1=ens06f0v0 0000:06:00.2=ens06f0v1 0000:06:00.3=ens06f0v2",
)
OCTEON_HOST = host(
    "marvell",
    OCTEON,
    "marvell-dpu-0000-03-00.0",
    place=at("0000:03:00.0", "177d:b900"),
    vfs="0000:03:02.0=enp03s0v0 0000:03:02.1= 0000:03:02.2=enp03s0v2",
)
SX904_HOST = host(
    "senao",
    SX904,
    "d4-e5-c9-00-ec-3e",
    "030001163eec00ff",
    "intel-netsec-0000-51-00.0",
    place=at("0000:51:00.0", "8086:1599"),
    vfs="0000:51:01.0=ens51f0v0 0000:51:01.1=ens51f0v1",
    assumed="card-serial serial-of-mac",
)


def several(*builders: Callable[[Tree], None]) -> Callable[[Tree], None]:
    def build(tree: Tree) -> None:
        for each in builders:
            each(tree)

    return build


MACHINES = [
    pytest.param(lambda tree: None, [], id="nothing"),
    pytest.param(ordinary, [], id="an ordinary server"),
    pytest.param(ipu_host_with_vfs, [IPU_HOST], id="E2100: host"),
    pytest.param(
        lambda tree: ipu_host(tree, serial="BTK1234"),
        [
            host(
                "intel",
                E2100,
                "BTK1234",
                "intel-ipu-0000-06-00.0",
                place=at("0000:06:00.0", "8086:1452"),
                assumed="card-serial",
            )
        ],
        id="E2100: host, no VFs yet, serial in its VPD",
    ),
    pytest.param(
        several(ipu_host, partial(ipu_vfs, count=12)),
        [
            host(
                "intel",
                E2100,
                "intel-ipu-0000-06-00.0",
                place=at("0000:06:00.0", "8086:1452"),
                vfs=" ".join(f"0000:06:{n // 8:02x}.{n % 8}=ens06f0v{n - 1}" for n in range(1, 13)),
            )
        ],
        id="E2100: VFs in the order of their numbers",
    ),
    pytest.param(
        lambda tree: tree.function("0000:06:00.0", "8086:1452", ["ens6"], pci_class=NETWORK),
        [],
        id="E2100: a function without the netdev d2",
    ),
    pytest.param(
        lambda tree: tree.function("0000:06:00.0", "8086:1452", ["ens6d2"], pci_class="0x120000"),
        [],
        id="E2100: no network controller",
    ),
    pytest.param(
        ipu,
        [
            dpu(
                "intel",
                E2100,
                "BTK1234",
                "intel-ipu",
                place="DMI Intel(R) IPU Adapter E2100-CCQDA2",
                reps=" ".join(f"enp0s1f0d{n}" for n in range(10, 26)),
                assumed="dmi-serial port-order",
            )
        ],
        id="E2100: the IPU",
    ),
    pytest.param(
        ipu_whose_representors_are_away,
        [
            dpu(
                "intel",
                E2100,
                "intel-ipu",
                place="DMI IPU Adapter E2100-CCQDA2",
                reps="- enp0s1f0d11 - enp0s1f0d13",
                assumed="port-order",
            )
        ],
        id="E2100: some representors are elsewhere, a maker's empty serial",
    ),
    pytest.param(
        lambda tree: tree.dmi("IPU Adapter E9000", "S1"),
        [
            Found(
                "intel",
                "unknown product IPU Adapter E9000",
                Side.DPU,
                ("S1", "intel-ipu"),
                "DMI IPU Adapter E9000",
                known=False,
                assumptions=("dmi-serial", "unknown-ipu"),
            )
        ],
        id="another IPU of Intel's",
    ),
    pytest.param(octeon_host, [OCTEON_HOST], id="Octeon 10: host, a VF in a pod"),
    pytest.param(
        partial(octeon_host, serial=CARD),
        [
            replace(
                OCTEON_HOST,
                serials=(CARD, *OCTEON_HOST.serials),
                assumptions=("card-serial",),
            )
        ],
        id="Octeon 10: host, a serial of its own",
    ),
    pytest.param(
        octeon,
        [
            dpu(
                "marvell",
                OCTEON,
                "00-0f-b7-11-22-33",
                "marvell-dpu",
                place=at("0002:0f:00.0", "177d:a0f7"),
                reps="sdp1 sdp2 sdp3",
                assumed="first-port-mac",
            )
        ],
        id="Octeon 10: the DPU",
    ),
    pytest.param(
        lambda tree: tree.function("0000:03:00.0", "177d:b200", ["enp3s0"]),
        [
            Found(
                "marvell",
                "unknown product 177d:b200",
                Side.HOST,
                ("marvell-dpu-0000-03-00.0",),
                at("0000:03:00.0", "177d:b200"),
                known=False,
            )
        ],
        id="another Octeon",
    ),
    pytest.param(sx904_host, [SX904_HOST], id="SX904: host, two ports of one card"),
    pytest.param(
        several(sx904_host, partial(sx904_host, bus="52")),
        [SX904_HOST],
        id="SX904: host, ports of one card in two slots",
    ),
    pytest.param(
        lambda tree: tree.function("0000:51:00.0", "8086:1599", config=config_space(CARD, 0x154)),
        [
            host(
                "senao",
                SX904,
                "d4-e5-c9-00-ec-3e",
                "intel-netsec-0000-51-00.0",
                place=at("0000:51:00.0", "8086:1599"),
                assumed="card-serial serial-of-mac",
            )
        ],
        id="SX904: host, the number is not where dpu-operator looks",
    ),
    pytest.param(
        lambda tree: tree.function("0000:51:00.0", "8086:1599", config=config_space(NO_MAC, 0x154)),
        [
            host(
                "senao",
                SX904,
                NO_MAC,
                "intel-netsec-0000-51-00.0",
                place=at("0000:51:00.0", "8086:1599"),
                assumed="card-serial",
            )
        ],
        id="SX904: host, a number that is made of no MAC",
    ),
    pytest.param(
        lambda tree: sx904_host(tree, serial=""),
        [
            host(
                "senao",
                SX904,
                "intel-netsec-0000-51-00.0",
                place=at("0000:51:00.0", "8086:1599"),
                vfs="0000:51:01.0=ens51f0v0 0000:51:01.1=ens51f0v1",
            )
        ],
        id="SX904: host, a card without serial",
    ),
    pytest.param(
        sx904,
        [
            dpu(
                "senao",
                SX904,
                "d4-e5-c9-00-ec-3e",
                "intel-netsec-0000-f4-00.2",
                place=at("0000:f4:00.2", "8086:124c"),
                reps="bp0v0 bp0v1",
            )
        ],
        id="SX904: the card, lanes",
    ),
    pytest.param(
        sx904_in_switchdev_mode,
        [
            dpu(
                "senao",
                SX904,
                "d4-e5-c9-00-ec-3e",
                "intel-netsec-0000-f4-00.2",
                place=at("0000:f4:00.2", "8086:124c"),
                reps="rep0 rep1 - rep3",
            )
        ],
        id="SX904: the card, representors",
    ),
    pytest.param(
        several(ordinary, ipu_host_with_vfs, octeon_host, sx904_host),
        [SX904_HOST, IPU_HOST, OCTEON_HOST],
        id="one of each on a host",
    ),
]


@pytest.mark.parametrize(("build", "wanted"), MACHINES)
def test_what_a_machine_has(
    build: Callable[[Tree], None], wanted: list[Found], tmp_path: Path
) -> None:
    tree = Tree(tmp_path)
    tree.dmi("Some server")
    build(tree)
    machine = look(tmp_path)
    assert machine.faults == ()
    found = sorted(discover(machine), key=lambda each: each.name)
    assert found == sorted(wanted, key=lambda each: each.name)
    for half in found:
        known = {each.name for each in ASSUMED[half.vendor] if each.use is Use.DISCOVERY}
        assert {*half.assumptions} <= known


def test_each_assumption_on_discovery_is_one_that_something_rests_on() -> None:
    wanted = (cast("list[Found]", case.values[1]) for case in MACHINES)
    found = [half for each in wanted for half in each]
    used = {(half.vendor, name) for half in found for name in half.assumptions}
    known = {
        (vendor, each.name)
        for vendor, assumed in ASSUMED.items()
        for each in assumed
        if each.use is Use.DISCOVERY
    }
    assert used == known


@pytest.mark.parametrize(
    ("build", "names"),
    [
        pytest.param(
            several(partial(ipu_host, bus="06"), partial(ipu_host, bus="86")),
            ["intel-ipu-0000-06-00.0-host", "intel-ipu-0000-86-00.0-host"],
            id="E2100 without serials",
        ),
        pytest.param(
            several(
                partial(ipu_host, bus="06", serial="A1"), partial(ipu_host, bus="86", serial="A2")
            ),
            ["A1-host", "A2-host"],
            id="E2100 with serials",
        ),
        pytest.param(
            several(
                partial(ipu_host, bus="06", serial="A1"), partial(ipu_host, bus="86", serial="A1")
            ),
            ["intel-ipu-0000-06-00.0-host", "intel-ipu-0000-86-00.0-host"],
            id="E2100 of one serial: it is nobody's",
        ),
        pytest.param(
            several(
                partial(octeon_host, bus="03", serial=CARD),
                partial(octeon_host, bus="04", serial=OTHER_CARD),
            ),
            [f"{CARD}-host", f"{OTHER_CARD}-host"],
            id="Octeon 10",
        ),
        pytest.param(
            several(
                partial(sx904_host, bus="51"), partial(sx904_host, bus="52", serial=OTHER_CARD)
            ),
            ["d4-e5-c9-00-ec-3e-host", "d4-e5-c9-00-ec-51-host"],
            id="SX904",
        ),
        pytest.param(
            several(
                partial(sx904_host, bus="51", serial=""), partial(sx904_host, bus="52", serial="")
            ),
            ["intel-netsec-0000-51-00.0-host", "intel-netsec-0000-52-00.0-host"],
            id="SX904 without serials",
        ),
    ],
)
def test_two_equal_cards_have_two_names(
    build: Callable[[Tree], object], names: list[str], tmp_path: Path
) -> None:
    build(Tree(tmp_path))
    assert [each.name for each in discover(look(tmp_path))] == names


def test_both_halves_of_an_sx904_have_one_serial(tmp_path: Path) -> None:
    """The MAC that names the card is what the serial number on its host was made of."""
    sx904_host(Tree(tmp_path / "host"))
    sx904(Tree(tmp_path / "card"))
    ((there,), (here,)) = (discover(look(tmp_path / each)) for each in ("host", "card"))
    assert there.serials[0] == here.serials[0]


@pytest.mark.parametrize(
    ("config", "serial"),
    [
        pytest.param(config_space(CARD), CARD, id="where an E810 has it"),
        pytest.param(config_space(CARD, 0x200), CARD, id="elsewhere"),
        pytest.param(config_space(), "", id="none"),
        pytest.param(config_space("00-00-00-00-00-00-00-00"), "", id="all zero"),
        pytest.param(b"\xff" * 4096, "", id="the device is gone"),
        pytest.param(config_space(CARD)[:256], "", id="only what not root may read"),
        pytest.param(config_space(CARD)[: 0x150 + 11], "", id="cut in the middle of it"),
        pytest.param(bytes(0x100) + b"\x01\x00\x01\x10" * 900, "", id="a chain that goes round"),
        pytest.param(b"", "", id="empty"),
    ],
)
def test_the_serial_number_in_configuration_space(config: bytes, serial: str) -> None:
    assert device_serial(config).hex("-") == serial


@pytest.mark.parametrize(
    ("vpd", "serial"),
    [
        pytest.param(vital_product_data(b"BTK1234"), "BTK1234", id="a serial"),
        pytest.param(vital_product_data(b"BTK1234  "), "BTK1234", id="padded"),
        pytest.param(vital_product_data(b""), "", id="an empty one"),
        pytest.param(vital_product_data(b"Default string"), "", id="a maker's empty one"),
        pytest.param(vital_product_data(b"0000000"), "", id="zeros"),
        pytest.param(vital_product_data(b"\xff\xfe\x00"), "", id="no text"),
        pytest.param(vital_product_data(b"A" * 64), "", id="too long for a name"),
        pytest.param(vital_product_data(b"BTK1234")[:20], "", id="cut"),
        pytest.param(b"\xff" * 100, "", id="ones"),
        pytest.param(b"\x82\x00\x00" * 50, "", id="names alone"),
        pytest.param(b"", "", id="empty"),
    ],
)
def test_the_serial_number_in_vital_product_data(vpd: bytes, serial: str) -> None:
    assert vpd_serial(vpd) == serial


@given(st.binary(max_size=600))
def test_no_bytes_of_a_device_raise(data: bytes) -> None:
    device_serial(bytes(0x100) + data)
    vpd_serial(data)
    mac_of(data)


def replaced(name: str, data: bytes) -> Callable[[Path], None]:
    def spoil(function: Path) -> None:
        (function / name).unlink()
        (function / name).write_bytes(data)

    return spoil


def looped(name: str) -> Callable[[Path], None]:
    def spoil(function: Path) -> None:
        if (function / name).is_dir():
            shutil.rmtree(function / name)
        (function / name).unlink(missing_ok=True)
        (function / name).symlink_to(name)

    return spoil


def unlinked(name: str) -> Callable[[Path], None]:
    return lambda function: (function / name).unlink()


def made(name: str, make: Callable[[Path], object]) -> Callable[[Path], None]:
    def spoil(function: Path) -> None:
        place = function / name
        place.unlink(missing_ok=True)
        make(place)

    return spoil


def listening(place: Path) -> None:
    os.chdir(place.parent)  # a path of a test is too long for a socket
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place.name)


RUBBISH = [
    pytest.param(replaced("vendor", b""), "vendor: it is not there, or empty", id="empty"),
    pytest.param(unlinked("vendor"), "vendor: it is not there, or empty", id="missing"),
    pytest.param(unlinked("device"), "device: it is not there, or empty", id="no device"),
    pytest.param(unlinked("class"), "class: it is not there, or empty", id="no class"),
    pytest.param(replaced("vendor", b"8086"), "'8086' is not 0x and 4 hex", id="no 0x"),
    pytest.param(replaced("vendor", b"0x80866"), "is not 0x and 4 hex", id="five digits"),
    pytest.param(replaced("vendor", b"0xzzzz"), "is not 0x and 4 hex", id="no digits"),
    pytest.param(replaced("vendor", bytes(range(256))), "not UTF-8 text", id="binary"),
    pytest.param(replaced("vendor", b"0x80\x0086"), "not printable text", id="NUL"),
    pytest.param(replaced("vendor", b"0x8086" * 1000), "more than 4096 bytes", id="over-long"),
    pytest.param(
        replaced("vendor", "0x\u0668\u0660\u0668\u0666".encode()), "4 hex", id="other digits"
    ),
    pytest.param(replaced("class", b"0x02"), "is not 0x and 6 hex", id="short class"),
    pytest.param(looped("vendor"), "Too many levels of symbolic links", id="loop"),
    pytest.param(made("vendor", Path.mkdir), "not a regular file", id="directory"),
    pytest.param(made("vendor", os.mkfifo), "not a regular file", id="FIFO"),
    pytest.param(made("vendor", listening), "vendor: it is not there", id="socket"),
    pytest.param(
        made("vendor", lambda place: place.symlink_to("/dev/zero")), "not a regular", id="/dev/zero"
    ),
    pytest.param(
        made("vendor", lambda place: place.symlink_to("nowhere")), "not there", id="dangling"
    ),
    pytest.param(looped("net"), "net: Too many levels", id="netdevs: loop"),
    pytest.param(
        made("net/\udcff\udcfe", Path.mkdir), "is not 1-15 letters", id="netdev of no text"
    ),
    pytest.param(
        replaced("net/ens06f0d2/dev_port", b"two"), "dev_port: 'two' is no number", id="dev_port"
    ),
    pytest.param(
        replaced("net/ens06f0d2/address", b"\xff"), "address: not UTF-8", id="MAC of no text"
    ),
    pytest.param(
        made("physfn", lambda place: place.write_text("x")), "physfn: Invalid", id="physfn: no link"
    ),
    pytest.param(
        made("physfn", lambda place: place.symlink_to("../x")), "is no PCI", id="physfn: elsewhere"
    ),
    pytest.param(
        made("virtfn0", lambda place: place.symlink_to("../../..")), "is no PCI", id="virtfn: up"
    ),
]


@pytest.mark.parametrize(("spoil", "words"), RUBBISH)
def test_a_function_of_rubbish_is_told_and_the_others_are_found(
    spoil: Callable[[Path], None], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # back from where a case goes
    tree = Tree(tmp_path)
    ipu_host(tree)
    ipu_host(tree, "86")
    octeon_host(tree)
    spoil(tree.directory("0000:06:00.0"))
    machine = look(tmp_path)
    (fault,) = machine.faults
    assert "0000:06:00.0" in fault
    assert words in fault
    assert {each.place.split()[0] for each in discover(machine)} == {"0000:86:00.0", "0000:03:00.0"}


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(looped("config"), "config: Too many levels", id="config: loop"),
        pytest.param(made("vpd", os.mkfifo), "vpd: not a regular file", id="VPD: FIFO"),
        pytest.param(
            made("vpd", lambda place: place.symlink_to("/proc/self/mem")),
            "vpd: Input/output error",
            id="VPD: damaged",
        ),
    ],
)
def test_a_card_that_does_not_tell_of_itself_is_there(
    spoil: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    """It is called by its place, and is not asked again: what hangs takes a while to say so."""
    tree = Tree(tmp_path)
    ipu_host(tree)
    spoil(tree.directory("0000:06:00.0"))
    sysfs = Sysfs(tmp_path, IDS)
    machine = sysfs.look()
    assert [words in fault for fault in machine.faults] == [True]
    assert [half.name for half in discover(machine)] == ["intel-ipu-0000-06-00.0-host"]
    again = sysfs.look()
    assert again.faults == ()
    assert discover(again) == discover(machine)


def without(listing: Path) -> Path:
    listing.rmdir()
    return listing


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(without, "devices: it is not there", id="no listing"),
        pytest.param(
            lambda listing: without(listing).write_text("x"), "Not a directory", id="listing a file"
        ),
        pytest.param(
            lambda listing: without(listing).symlink_to("devices"), "symbolic", id="listing a loop"
        ),
    ],
)
def test_a_machine_that_cannot_be_listed_is_no_evidence(
    spoil: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    spoil(Tree(tmp_path).listing)
    machine = look(tmp_path)
    assert (machine.blind, discover(machine)) == (True, ())
    assert words in machine.faults[-1]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        pytest.param(
            lambda listing: (listing / "rubbish").mkdir(), "its name is no PCI", id="a name"
        ),
        pytest.param(
            lambda listing: (listing / "0000:06:00.0").symlink_to("nowhere"),
            "vendor: it is not there",
            id="gone in this moment",
        ),
        pytest.param(
            lambda listing: (listing / "0000:06:00.0").write_text("x"),
            "vendor: Not a directory",
            id="a file",
        ),
        pytest.param(
            lambda listing: (listing / "0000:06:00.0").symlink_to("0000:06:00.0"),
            "Too many levels",
            id="a loop",
        ),
        pytest.param(
            lambda listing: replaced("product_name", b"\xff\xfe IPU Adapter E2100-CCQDA2")(
                Tree(listing.parents[2]).dmi("x").root / "class/dmi/id"
            ),
            "product_name: not UTF-8",
            id="DMI of no text",
        ),
    ],
)
def test_an_entry_of_rubbish_is_told(
    spoil: Callable[[Path], object], words: str, tmp_path: Path
) -> None:
    spoil(Tree(tmp_path).listing)
    machine = look(tmp_path)
    assert (machine.blind, discover(machine)) == (False, ())
    (fault,) = machine.faults
    assert words in fault


STEPS: list[tuple[Callable[[Tree], object], str]] = [
    (lambda tree: None, ""),
    (lambda tree: tree.function("0000:06:00.0", "8086:1452", pci_class=NETWORK), ""),
    (lambda tree: tree.netdevs("0000:06:00.0", ["ens6f0d2"]), "0000:06:00.0:"),
    (ipu_vfs, "0000:06:00.0: ens06f0v0 ens06f0v1 ens06f0v2"),
    (
        lambda tree: shutil.rmtree(tree.directory("0000:06:00.2") / "net"),  # a pod has it
        "0000:06:00.0: ens06f0v0 - ens06f0v2",
    ),
    (
        lambda tree: (tree.directory("0000:06:00.0") / "virtfn2").unlink(),  # two VFs from now on
        "0000:06:00.0: ens06f0v0 -",
    ),
    (
        lambda tree: (tree.directory("0000:06:00.0") / "virtfn0").unlink(),  # it is being set up
        "0000:06:00.0:",
    ),
    (octeon_host, "0000:03:00.0: enp03s0v0 - enp03s0v2, 0000:06:00.0:"),
    (lambda tree: tree.unplug("0000:06:00.0"), "0000:03:00.0: enp03s0v0 - enp03s0v2"),
    (
        lambda tree: (tree.unplug("0000:03:00.0"), tree.function("0000:03:00.0", "15b3:1021")),
        "",  # another card, in the same slot
    ),
]


def test_what_comes_and_goes_is_seen_by_the_next_look(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    sysfs = Sysfs(tmp_path, IDS)
    for change, wanted in STEPS:
        change(tree)
        machine = sysfs.look()
        assert machine.faults == ()
        found = [
            f"{half.place.split()[0]}: {' '.join(vf.netdev or '-' for vf in half.vfs)}".rstrip()
            for half in sorted(discover(machine), key=lambda each: each.place)
        ]
        assert ", ".join(found) == wanted


def test_what_could_not_be_read_is_read_again(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    ipu_host(tree)
    vendor = tree.directory("0000:06:00.0") / "vendor"
    vendor.write_text("")
    sysfs = Sysfs(tmp_path, IDS)
    assert discover(sysfs.look()) == ()
    vendor.write_text("0x8086\n")
    (half,) = discover(sysfs.look())
    assert half.place == at("0000:06:00.0", "8086:1452")


def test_a_card_that_cannot_be_read_for_a_while_stays_until_it_is_out(tmp_path: Path) -> None:
    """A look that fails, as for want of a file descriptor, must not say that it is unplugged."""
    tree = Tree(tmp_path)
    ipu_host(tree)
    sysfs = Sysfs(tmp_path, IDS)
    there = discover(sysfs.look())
    looped("net")(tree.directory("0000:06:00.0"))
    for _ in range(2):
        machine = sysfs.look()
        assert len(machine.faults) == 1
        assert discover(machine) == there != ()
    tree.unplug("0000:06:00.0")
    assert discover(sysfs.look()) == ()
    ipu_host(tree)
    looped("net")(tree.directory("0000:06:00.0"))
    assert discover(sysfs.look()) == ()  # another one, of which nothing was seen


IN_A_FUNCTION = ("vendor", "device", "class", "config", "vpd", "subsystem_vendor", "net")
IN_A_NETDEV = ("dev_port", "address", "phys_port_name", "phys_switch_id")
FILES = (
    *IN_A_FUNCTION,
    *(f"net/eth0d2/{name}" for name in IN_A_NETDEV),
    "net/eth0d2",
    "net/\udcff",
)
LINKS = ("physfn", "virtfn0", "virtfn1", "virtfn7", "net", "net/x", "net/eth0d2/address")
TARGETS = ("../0000:06:00.1", "../..", ".", "nowhere", "/dev/null", "physfn", "net")
SPOILT = st.one_of(
    st.tuples(st.sampled_from(FILES), st.binary(max_size=40)),
    st.tuples(st.sampled_from(FILES), st.sampled_from([b"0", b"pf0vf9", b"0x020000", b"9" * 5000])),
    st.tuples(st.sampled_from(LINKS), st.sampled_from(TARGETS)),
)
FUNCTIONS = st.dictionaries(
    st.sampled_from(["0000:06:00.0", "0000:06:00.1", "0002:0f:00.0", "0000:f4:00.0", "x"]),
    st.tuples(st.sampled_from(sorted(IDS)), st.lists(SPOILT, max_size=3)),
    max_size=4,
)


def put(place: Path, what: bytes | str) -> None:
    """Put bytes, or a link, in the place of whatever there is; where nothing can be, nothing."""
    if not place.parent.is_dir():
        return
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    place.unlink(missing_ok=True)
    if isinstance(what, str):
        place.symlink_to(what)
    else:
        place.write_bytes(what)


@settings(max_examples=60, deadline=None)
@given(
    functions=FUNCTIONS,
    product=st.one_of(st.binary(max_size=40), st.just(b"IPU Adapter E2100-CCQDA2")),
)
def test_no_tree_raises(
    functions: dict[str, tuple[PciId, list[tuple[str, bytes | str]]]], product: bytes
) -> None:
    with TemporaryDirectory() as directory:
        tree = Tree(Path(directory)).dmi("server")
        (tree.root / "class/dmi/id/product_name").write_bytes(product)
        for name, (pci_id, spoilt) in functions.items():
            tree.function(name, str(pci_id), {"eth0d2": {"dev_port": "2"}}, vpd=b"")
            for file, what in spoilt:
                put(tree.directory(name) / file, what)
        machine = look(tree.root)
        found = discover(machine)
    assert not machine.blind
    assert all(half.serials for half in found)
    assert len({half.name for half in found}) == len(found)
