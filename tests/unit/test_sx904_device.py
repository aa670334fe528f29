"""An emulated SX904 whose ports go and come while frames pass."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from threading import Thread

import pytest

from dataplane.core.errors import OverweaveError
from tests.unit.sx904_card import sx904_config
from vendors.emulator.relay import Relay
from vendors.emulator.sx904.device import Sx904

ROUNDS, ENOUGH_S = 3000, 30.0


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """Provide cables that end nowhere, with threads that take turns often."""
    ends: list[int] = []

    def nowhere(*_: object) -> int:
        ends.append(os.open(os.devnull, os.O_RDWR))
        return ends[-1]

    monkeypatch.setattr("vendors.emulator.relay.open_tap", nowhere)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield Relay()
    sys.setswitchinterval(interval)
    for each in ends:
        os.close(each)


def test_ports_go_and_come_while_frames_pass(relay: Relay) -> None:
    config = sx904_config()
    device = Sx904(config, relay)
    for port in config.ports:
        device.return_port(port.port)

    def send() -> None:
        for _ in range(ROUNDS):
            with suppress(OverweaveError):  # its port is gone now
                relay.send("rep0", bytes(60))

    def change() -> None:
        for _ in range(ROUNDS):
            device.remove_port("rep0")
            device.return_port("rep0")

    threads = [Thread(target=each, daemon=True) for each in (send, change)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ENOUGH_S)
    assert not any(thread.is_alive() for thread in threads)
