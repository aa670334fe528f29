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
from vendors.emulator.control import Control, Device, Faults
from vendors.emulator.relay import Relay
from vendors.emulator.settings import AnyConfig, E2100Config, OcteonConfig, load_config

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


def _run(config: AnyConfig) -> None:
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    config.run_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with ExitStack() as stack:
        relay = Relay()
        switch = _device(config, relay)
        stack.callback(switch.stop)
        switch.start()
        relay.start()
        stack.callback(relay.stop)
        faults = Faults(switch, relay, config.wiring)
        control = Control(config.control, faults)
        control.start()
        stack.callback(control.stop)
        log.info("switch.started", vendor=config.vendor)
        while not ended.wait(_SUPERVISE_S):
            _supervise(faults)


def _device(config: AnyConfig, relay: Relay) -> Device:
    """Return the device; what only another vendor's needs is not imported."""
    if isinstance(config, OcteonConfig):
        from vendors.emulator.octeon import Octeon  # noqa: PLC0415

        return Octeon(config, relay)
    if isinstance(config, E2100Config):
        from vendors.emulator.e2100.device import E2100  # noqa: PLC0415

        return E2100(config, relay)
    from vendors.emulator.sx904.device import Sx904  # noqa: PLC0415

    return Sx904(config, relay)


def _supervise(faults: Faults) -> None:
    try:
        faults.supervise()
    except OverweaveError as error:
        log.error("switch.unwell", error=str(error))  # noqa: TRY400  # tried again at once


if __name__ == "__main__":
    main()
