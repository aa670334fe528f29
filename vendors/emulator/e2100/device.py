"""The device as a whole: its P4Runtime server, its engine, its cables, and what can go wrong.

The pipeline itself outlives the server: while that is dead, frames go by what stands in the tables.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from finsy.proto import p4r

from dataplane.core.errors import InvalidValueError
from vendors.emulator.e2100.engine import Engine
from vendors.emulator.e2100.entries import Refusal
from vendors.emulator.e2100.p4runtime import Pipeline, Server
from vendors.emulator.e2100.ports import MAX_VFS, make_entry, own_entries, ports_of
from vendors.emulator.e2100.schema import parse_text
from vendors.emulator.e2100.tables import Tables
from vendors.emulator.packets import Encap
from vendors.emulator.relay import Entrance, Relay
from vendors.emulator.settings import E2100Config, PortConfig, named_port
from vendors.emulator.trouble import Trouble

_P4INFO = Path(__file__).with_name("p4info.txt")
_TAKER_REMOTE, _TAKER_LOCAL = IPv4Address("198.51.100.10"), IPv4Address("198.51.100.1")
_TAKER_VNI, _TAKER_PORT = 10, 2048
_TERMINATE = "set_vxlan_decap_outer_hdr"
_Config = p4r.SetForwardingPipelineConfigRequest


class E2100:
    """The switch of an Intel IPU E2100."""

    def __init__(self, config: E2100Config, relay: Relay) -> None:
        """Read the pipeline and serve nobody yet. Raises InvalidValueError."""
        if len(config.vfs) > MAX_VFS:
            raise InvalidValueError(f"an E2100 has at most {MAX_VFS} vfs, not {len(config.vfs)}")
        self.trouble = Trouble()
        self._config = config
        self._relay = relay
        self._ports = ports_of(config)
        self._gone: set[str] = set()
        self._theirs: list[p4r.TableEntry] = []
        self._pipeline = Pipeline()
        self._server = Server(config.p4runtime, self._pipeline, self.trouble)
        self._load()

    def start(self) -> None:
        """Bring up what is not there, and plug every cable in. Raises OverweaveError."""
        self._server.start()
        for port in self._config.ports:
            self._plug(port)

    def stop(self) -> None:
        """End the server; the TAPs outside stay."""
        self._server.stop()

    def supervise(self) -> None:
        """Do nothing: only ``die`` ends the server for longer."""

    # --- faults --------------------------------------------------------------------------------

    def limit(self, table: str, rows: int) -> None:
        """Limit a table, by name: what is more is refused with RESOURCE_EXHAUSTED."""
        found = self._tables.schema.table(table)
        if found is None:
            raise InvalidValueError(f"the pipeline has no table {table!r}")
        self._pipeline.limits[found.number] = rows

    def hang(self) -> None:
        """Answer no call more; frames are forwarded all the same."""
        self._server.hang()

    def reset(self) -> None:
        """Lose all that was programmed: the server starts anew, and so do the tables."""
        self.kill()

    def kill(self) -> None:
        """End the server as a crash would; it is back at once and loads its pipeline."""
        self.die()
        self.revive()

    def die(self) -> None:
        """End the server for good, until ``revive``; the tables stay as they are."""
        self._server.stop()

    def revive(self) -> None:
        """Start what has died, with its pipeline loaded anew, and go on with what hangs."""
        self._server.wake()
        if not self._server.is_up:
            self._load()
            self._server.start()

    def remove_port(self, port: str) -> None:
        """Take a port away."""
        self._gone.add(named_port(self._config, port).port)
        self._relay.unplug(port)

    def return_port(self, port: str) -> None:
        """Have a port back that was taken away."""
        self._plug(named_port(self._config, port))
        self._gone.discard(port)

    def lose_one(self) -> str:
        """Drop one entry that is not the device's own, and return it; empty: there was none."""
        lost = self._tables.lose_one()
        return "" if lost is None else " ".join(str(lost).split())

    def take(self) -> None:
        """Let somebody else program it: what ovs-p4rt, in its own role, writes for a tunnel."""
        self._theirs = self._taken()
        for entry in self._theirs:
            with suppress(Refusal):  # it stands there
                self._tables.write(p4r.Update.INSERT, entry)

    def clear(self) -> None:
        """End all faults; what was lost stays lost."""
        self.trouble.end()
        self.revive()
        self._pipeline.limits.clear()
        for entry in self._theirs:
            with suppress(Refusal):  # it is lost
                self._tables.write(p4r.Update.DELETE, entry)
        self._theirs = []
        for port in sorted(self._gone):
            self.return_port(port)

    # --- how -----------------------------------------------------------------------------------

    @property
    def _tables(self) -> Tables:
        return self._pipeline.tables

    def _load(self) -> None:
        """Load the pipeline and write the device's own entries, as its software does at start."""
        path = self._config.p4info or _P4INFO
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidValueError(f"p4info {path} cannot be read: {error}") from error
        config = p4r.ForwardingPipelineConfig(p4info=parse_text(text, f"p4info {path}"))
        try:
            self._pipeline.set(_Config.VERIFY_AND_COMMIT, config)
        except Refusal as refusal:
            raise InvalidValueError(f"p4info {path}: {refusal}") from refusal
        for entry in own_entries(self._tables.schema, self._ports.vfs):
            self._tables.write(p4r.Update.INSERT, entry)
        self._tables.own()

    def _plug(self, port: PortConfig) -> None:
        self._relay.plug(port, Entrance(partial(self._take_in, port.port)))

    def _take_in(self, port: str, frame: bytes) -> None:
        with suppress(Refusal, KeyError):  # by a pipeline that is not this one, nothing goes
            tables = self._tables
            with tables.still():
                sent = Engine(tables, self._ports).forward(port, frame)
            if sent is not None and sent.port not in self._gone:
                self._relay.emit(sent.port, sent.frame)

    def _taken(self) -> list[p4r.TableEntry]:
        """Return the entries that ovs-p4rt writes for one VXLAN tunnel."""
        make = partial(make_entry, self._tables.schema)
        remote = {"ipv4_src": int(_TAKER_REMOTE), "vni": _TAKER_VNI}
        pointer = {"mod_blob_ptr": _TAKER_VNI}
        ports = {"src_port": 2 * Encap.VXLAN.value, "dst_port": Encap.VXLAN.value}
        addresses = {"src_addr": int(_TAKER_LOCAL), "dst_addr": int(_TAKER_REMOTE)}
        header = {**addresses, **ports, "vni": _TAKER_VNI}
        from_port = {"source_port": _TAKER_PORT}
        bridged = {"source_port": (_TAKER_PORT, 0xFFFF), "vid": (0, 0xFFF)}
        return [
            make("vxlan_encap_mod_table", pointer, "vxlan_encap", header, 0),
            make("vxlan_decap_mod_table", pointer, "vxlan_decap_outer_hdr", {}, 0),
            make("ipv4_tunnel_term_table", remote, _TERMINATE, {"tunnel_id": _TAKER_VNI}, 0),
            make("rx_ipv4_tunnel_source_port", remote, "set_source_port", from_port, 0),
            make("source_port_to_bridge_map", bridged, "set_bridge_id", {"bridge_id": 1}, 1),
        ]
