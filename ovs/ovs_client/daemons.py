"""Start, find and stop the daemons of Open vSwitch, each instance in directories of its own.

The file names inside a directory are those of Open vSwitch itself, so that with OVS_RUNDIR set to
it every tool of Open vSwitch (ovs-appctl, ovs-ofctl, ovs-vsctl) finds the instance.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from dataplane.core.errors import OverweaveError
from ovs_client import process
from ovs_client.unixctl import Unixctl, UnixctlError

OVS_SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
_SERVER = "ovsdb-server"
_SWITCH = "ovs-vswitchd"
_START_TIMEOUT_S = 30.0  # both detach once they serve: 0.1 s, much more on a busy machine
_STOP_TIMEOUT_S = 5.0
_SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"


class DaemonError(OverweaveError):
    """A daemon or tool of Open vSwitch failed; the text keeps its own message whole."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a daemon keeps its files and its log, and the netns it runs in (None: ours)."""

    directory: Path
    logs: Path
    netns: Path | None = None

    def pidfile(self, program: str) -> Path:
        """Return the pid file of ``program``."""
        return self.directory / f"{program}.pid"

    def log(self, program: str) -> Path:
        """Return the log file of ``program``."""
        return self.logs / f"{program}.log"

    def pid(self, program: str) -> int | None:
        """Return the process that really is ``program`` of this directory, else None."""
        try:
            number = int(self.pidfile(program).read_text(encoding="ascii"))
        except (OSError, ValueError):
            return None
        return number if self._owns(program, number) else None

    def start(self, program: str, *arguments: str) -> None:
        """Start ``program`` detached unless it runs; returns when it serves. Raises DaemonError."""
        if self.pid(program) is not None:
            return
        self.directory.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(parents=True, exist_ok=True)
        self._remove_stale_sockets(program)
        command = [find_program(program), *arguments, f"--pidfile={self.pidfile(program)}"]
        command += [f"--log-file={self.log(program)}", "--detach", "-vconsole:err", "-vsyslog:off"]
        if self.netns is not None:
            command = ["nsenter", f"--net={self.netns}", *command]
        run(command, self._environment())

    def stop(self, program: str, *, cleanup: bool = False) -> None:
        """End ``program``, politely first; one that does not run is no error.

        ``cleanup``: ovs-vswitchd also deletes its bridges' devices (``exit --cleanup``).
        """
        number = self.pid(program)
        if number is None:
            return
        if cleanup:
            with suppress(UnixctlError):  # one that does not even answer is ended all the same
                Unixctl(self.directory).call("exit", "--cleanup")
                if process.wait_until(lambda: self.pid(program) is None, _STOP_TIMEOUT_S):
                    return
        process.end([number], _STOP_TIMEOUT_S, lambda pid: self._owns(program, pid))

    def kill(self, program: str) -> None:
        """End ``program`` as a crash would (SIGKILL); returns when it is gone."""
        number = self.pid(program)
        if number is not None:
            process.kill(number, _STOP_TIMEOUT_S, lambda pid: self._owns(program, pid))

    def _owns(self, program: str, pid: int) -> bool:
        return process.is_running(pid, f"--pidfile={self.pidfile(program)}", program)

    def _remove_stale_sockets(self, program: str) -> None:
        for socket in self.directory.glob(f"{program}.*.ctl"):
            socket.unlink(missing_ok=True)

    def _environment(self) -> Mapping[str, str]:
        directories = {
            "OVS_RUNDIR": self.directory,
            "OVS_DBDIR": self.directory,
            "OVS_LOGDIR": self.logs,
        }
        return {**os.environ, **{name: str(path) for name, path in directories.items()}}


@dataclass(frozen=True, slots=True)
class DatabaseServer:
    """A standalone ovsdb-server with one database file of any schema.

    It listens on a unix socket of its own, and on what ``options`` say, words of ovsdb-server(1)
    such as ``--remote=db:DATABASE,TABLE,COLUMN``.
    """

    place: Place
    schema: Path
    options: tuple[str, ...] = ()

    @property
    def database(self) -> Path:
        """Return the database file."""
        return self.place.directory / "conf.db"

    @property
    def socket(self) -> Path:
        """Return the unix socket it listens on; only root reaches it."""
        return self.place.directory / "db.sock"

    @property
    def remote(self) -> str:
        """Return the remote that a client on this machine connects to."""
        return f"unix:{self.socket}"

    def start(self) -> None:
        """Open the database file, made if there is none, and serve it. Raises DaemonError."""
        if not self.database.exists():
            self._create()
        own = f"--remote=punix:{self.socket}"
        self.place.start(_SERVER, str(self.database), own, *self.options)

    def _create(self) -> None:
        # Made aside and renamed: a crash half-way leaves no file that the server cannot open.
        self.place.directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.place.directory) as aside:
            fresh = Path(aside) / self.database.name
            run([find_program("ovsdb-tool"), "create", str(fresh), str(self.schema)])
            fresh.rename(self.database)

    def running(self) -> bool:
        """Say whether the server's process is there."""
        return self.place.pid(_SERVER) is not None

    def stop(self) -> None:
        """End the server; the file stays."""
        self.place.stop(_SERVER)

    def kill(self) -> None:
        """End the server as a crash would."""
        self.place.kill(_SERVER)


@dataclass(frozen=True, slots=True)
class OvsInstance:
    """An Open vSwitch of its own: ovsdb-server and ovs-vswitchd in one place."""

    place: Place

    @property
    def server(self) -> DatabaseServer:
        """Return its database server."""
        return DatabaseServer(self.place, OVS_SCHEMA)

    @property
    def remote(self) -> str:
        """Return the OVSDB remote of this instance."""
        return self.server.remote

    def start(self) -> None:
        """Start what does not run: database, initial row, switch. Raises DaemonError."""
        self.server.start()
        run([find_program("ovs-vsctl"), f"--db={self.remote}", "--no-wait", "init"])
        self.start_switch()

    def start_switch(self) -> None:
        """Start ovs-vswitchd unless it runs; returns when it has configured itself."""
        self.place.start(_SWITCH, self.remote)

    def running(self) -> bool:
        """Say whether both processes are there."""
        return self.server.running() and self.switch_running()

    def switch_running(self) -> bool:
        """Say whether ovs-vswitchd is there."""
        return self.place.pid(_SWITCH) is not None

    def stop(self, *, cleanup: bool = False) -> None:
        """End both; devices stay (taps are persistent) unless ``cleanup``."""
        self.stop_switch(cleanup=cleanup)
        self.server.stop()

    def stop_switch(self, *, cleanup: bool = False) -> None:
        """End ovs-vswitchd; its devices stay unless ``cleanup``."""
        self.place.stop(_SWITCH, cleanup=cleanup)

    def kill_switch(self) -> None:
        """End ovs-vswitchd as a crash would."""
        self.place.kill(_SWITCH)


def find_program(name: str) -> str:
    """Return the path of a program of Open vSwitch. Raises DaemonError if it is not installed."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    if path is None:
        raise DaemonError(f"{name} is not installed; install the package openvswitch-switch")
    return path


def run(command: list[str], environment: Mapping[str, str] | None = None) -> str:
    """Run ``command`` and return what it printed. Raises DaemonError with its own words."""
    try:
        result = subprocess.run(
            command,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_TIMEOUT_S,
        )
    except subprocess.TimeoutExpired as error:
        raise DaemonError(
            f"{' '.join(command)}: no answer within {_START_TIMEOUT_S:.0f} s; see its log"
        ) from error
    if result.returncode:
        words = result.stderr.strip() or result.stdout.strip() or "no message"
        raise DaemonError(f"{' '.join(command)}: exit status {result.returncode}: {words}")
    return result.stdout
