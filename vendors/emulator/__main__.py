"""``python -m vendors.emulator --config FILE``: one emulated switch, until SIGTERM."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import click
import structlog

from dataplane.core.errors import OverweaveError
from vendors.emulator.channel import Channel
from vendors.emulator.control import Control, Faults
from vendors.emulator.octeon import Octeon
from vendors.emulator.relay import Relay
from vendors.emulator.settings import EmulatorConfig, load_config

_SUPERVISE_S = 0.2

log = structlog.get_logger()


@click.command()
@click.option("--config", "path", required=True, type=click.Path(path_type=Path))
def main(path: Path) -> None:
    """Emulate the switch that the file describes, until SIGTERM or SIGINT."""
    try:
        _run(load_config(path))
    except OverweaveError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(1)


def _run(config: EmulatorConfig) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        relay = Relay()
        switch = Octeon(config, relay)
        stack.callback(switch.stop)
        switch.start()
        relay.start()
        stack.callback(relay.stop)
        channel = Channel(config.openflow, switch.management)
        channel.start()
        stack.callback(channel.stop)
        faults = Faults(switch, channel, relay)
        control = Control(config.control, faults)
        control.start()
        stack.callback(control.stop)
        log.info("switch.started", bridge=config.bridge)
        while not ended.wait(_SUPERVISE_S):
            _supervise(faults)


def _supervise(faults: Faults) -> None:
    try:
        faults.supervise()
    except OverweaveError as error:
        log.error("switch.unwell", error=str(error))  # noqa: TRY400  # tried again at once


if __name__ == "__main__":
    main()
