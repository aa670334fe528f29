"""The numbers of an emulated E2100's ports, and the entries that its own software writes for them.

The device's plugin makes these entries when it starts, and for each VF; VSIs are ours, for labs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from finsy.proto import p4r

from dataplane.core.errors import InvalidValueError
from vendors.emulator.e2100.entries import shortest
from vendors.emulator.e2100.schema import Kind, Schema, last
from vendors.emulator.settings import (
    CPU_VSI,
    FIRST_REPRESENTOR_VSI,
    FIRST_VF_VSI,
    E2100Config,
)

OFFSET = 16  # of a vport: its VSI and so much; numbers below are wires
WIRE = 0
MAX_VFS = 16

Value = int | tuple[int, int]


@dataclass(frozen=True, slots=True)
class Ports:
    """Ports by VSI; ``uplink`` is wire port 0, and VFs are those of the host."""

    uplink: str
    names: Mapping[int, str]
    vsis: Mapping[str, int]
    vfs: tuple[int, ...]


def ports_of(config: E2100Config) -> Ports:
    """Return the numbers of the ports that a configuration names."""
    functions = {config.cpu.port: CPU_VSI}
    functions |= {p.port: FIRST_REPRESENTOR_VSI + i for i, p in enumerate(config.representors)}
    functions |= {p.port: FIRST_VF_VSI + i for i, p in enumerate(config.vfs)}
    vfs = tuple(functions[port.port] for port in config.vfs)
    return Ports(config.uplink.port, {v: k for k, v in functions.items()}, functions, vfs)


def own_entries(schema: Schema, vfs: tuple[int, ...]) -> list[p4r.TableEntry]:
    """Return what the device's software writes for wire, CPU and VFs, each given by its VSI.

    Raises InvalidValueError if the pipeline has no such tables.
    """
    return [make_entry(schema, *row) for row in (*_for_wire(), *_for_vfs(vfs))]


Row = tuple[str, Mapping[str, Value], str, Mapping[str, int], int]


def _for_wire() -> Iterator[Row]:
    cpu = {"port": CPU_VSI + OFFSET}
    wire: Mapping[str, Value] = {"port_id": WIRE, "zero_padding": 0}
    yield "rx_source_port", wire, "set_source_port", {"source_port": WIRE}, 0
    yield "rx_phy_port_to_pr_map", wire, "fwd_to_vsi", cpu, 0
    yield "source_port_to_pr_map", {"source_port": WIRE, "zero_padding": 0}, "fwd_to_vsi", cpu, 0
    yield _bypass(CPU_VSI, WIRE)
    bridged: Mapping[str, Value] = {"source_port": (WIRE, 0xFFFF), "vid": (0, 0xFFF)}
    yield "source_port_to_bridge_map", bridged, "set_bridge_id", {"bridge_id": 0}, 1
    for version, number in ((4, 4), (6, 0)):
        name, root = f"ipv{version}_lpm_root_lut", f"ipv{version}_table_lpm_root"
        yield name, {"bit16_zeros": (number, 0xFFFF)}, f"{name}_action", {root: 0}, 2048
    for hashed in range(8):
        key: Mapping[str, Value] = {"lag_group_id": (0, 0xFF), "hash": (hashed, 7)}
        yield "tx_lag_table", key, "bypass", {}, 1


def _for_vfs(vfs: tuple[int, ...]) -> Iterator[Row]:
    for number, vf in enumerate(vfs):
        representor = FIRST_REPRESENTOR_VSI + number
        port = {"source_port": vf + OFFSET}
        yield "tx_source_port", {"vsi": (vf, 0x7FF)}, "set_source_port", port, 1
        key: Mapping[str, Value] = {**port, "zero_padding": 0}
        yield "source_port_to_pr_map", key, "fwd_to_vsi", {"port": representor + OFFSET}, 0
        yield _bypass(representor, vf + OFFSET)
        for one, other in ((representor, vf), (vf, representor)):
            yield _loopback(one, other)
        for other in vfs:
            if other != vf:
                yield _loopback(vf, other)


def _bypass(vsi: int, port: int) -> Row:
    key: Mapping[str, Value] = {"vsi": vsi, "zero_padding": 0}
    return "tx_acc_vsi", key, "l2_fwd_and_bypass_bridge", {"port": port}, 0


def _loopback(vsi: int, target: int) -> Row:
    key: Mapping[str, Value] = {"vsi": vsi, "target_vsi": target}
    return "vsi_to_vsi_loopback", key, "fwd_to_vsi", {"port": target + OFFSET}, 0


def make_entry(  # noqa: PLR0913, PLR0917  # as many parts as an entry has
    schema: Schema,
    table: str,
    key: Mapping[str, Value],
    action: str,
    args: Mapping[str, int],
    priority: int,
) -> p4r.TableEntry:
    """Return an entry from names; a ternary field has value and mask.

    Raises InvalidValueError for a name that the pipeline has not.
    """
    where, what = schema.table(table), schema.action(action)
    if where is None or what is None:
        raise InvalidValueError(f"the pipeline has no table {table} or no action {action}")
    entry = p4r.TableEntry(table_id=where.number, priority=priority)
    for field in where.fields:
        value = key[last(field.name)]
        match = entry.match.add(field_id=field.number)
        if isinstance(value, int):
            match.exact.value = shortest(value)
        elif field.kind is Kind.TERNARY:
            match.ternary.value, match.ternary.mask = map(shortest, value)
        else:
            match.lpm.value, match.lpm.prefix_len = shortest(value[0]), value[1]
    entry.action.action.action_id = what.number
    for parameter in what.parameters.values():
        entry.action.action.params.add(
            param_id=parameter.number, value=shortest(args[parameter.name])
        )
    return entry
