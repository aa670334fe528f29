"""devlink over an Exchange: what the emulated SX904 answers, which pyroute2 reads as well."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from pyroute2.netlink import ctrlmsg
from pyroute2.netlink.devlink import devlinkcmd

from dataplane.netlink import devlink
from dataplane.netlink.devlink import Eswitch, Handle, Mode
from dataplane.netlink.exchange import Exchange
from dataplane.netlink.rtnl import KernelError
from tests.unit.sx904_card import REP0, UPLINK, sx904_config
from vendors.emulator.sx904 import devlink as emulated
from vendors.emulator.sx904.links import Links
from vendors.emulator.sx904.netlink import Refusal

HANDLE = Handle("pci", "0000:01:00.0")


class Nic:
    """A NIC that refuses with ``words``, if it has any; ``packets`` are those that it answered."""

    def __init__(self, words: str = "") -> None:
        self.mode, self.words = emulated.LEGACY, words
        self.packets: list[bytes] = []

    def set_mode(self, mode: int) -> str:
        if self.words:
            raise Refusal(errno.EOPNOTSUPP, self.words)
        self.mode = mode
        return "done"

    def answer(self, packet: bytes) -> Iterator[bytes]:
        nic = emulated.Nic(Links(sx904_config()), lambda: self.mode, self.set_mode)
        for each in emulated.answer(nic, packet, 7):
            self.packets.append(each)
            yield each


@contextmanager
def asking(answer: Callable[[bytes], Iterator[bytes]]) -> Iterator[Exchange]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def serve() -> None:
        while packet := far.recv(1 << 16):
            for each in answer(packet):
                far.send(each)

    thread = threading.Thread(target=serve)
    thread.start()
    with far:
        with Exchange(lambda: near, 5, 5) as exchange:
            yield exchange
        thread.join()


def test_the_mode_is_told_and_set() -> None:
    nic = Nic()
    with asking(nic.answer) as exchange:
        assert devlink.find(exchange, UPLINK) == Eswitch(HANDLE, Mode.LEGACY)
        devlink.set_mode(exchange, HANDLE, Mode.SWITCHDEV)
        assert devlink.find(exchange, UPLINK) == Eswitch(HANDLE, Mode.SWITCHDEV)
    assert nic.mode == 1
    assert (str(HANDLE), str(Mode.SWITCHDEV)) == ("pci/0000:01:00.0", "switchdev")


def test_a_netdev_that_is_no_port_of_a_device_has_no_mode() -> None:
    with asking(Nic().answer) as exchange:
        assert devlink.find(exchange, REP0) is None


def test_a_refusal_is_told_in_its_words() -> None:
    nic = Nic("ice: Changing eswitch mode is allowed only if there is no VFs created")
    with asking(nic.answer) as exchange, pytest.raises(KernelError) as caught:
        devlink.set_mode(exchange, HANDLE, Mode.SWITCHDEV)
    assert str(caught.value).startswith(
        "set the eswitch mode of pci/0000:01:00.0 to switchdev: Operation not supported (ice: "
    )
    assert nic.mode == 0


def test_a_device_that_is_not_there_is_refused() -> None:
    with asking(Nic().answer) as exchange, pytest.raises(KernelError) as caught:
        devlink.set_mode(exchange, Handle("pci", "0000:02:00.0"), Mode.SWITCHDEV)
    assert caught.value.errno == errno.ENODEV


def test_a_mode_that_nobody_knows_is_an_error() -> None:
    nic = Nic()
    nic.mode = 7
    with asking(nic.answer) as exchange, pytest.raises(KernelError) as caught:
        devlink.find(exchange, UPLINK)
    assert caught.value.errno == errno.EBADMSG


def test_a_kernel_without_devlink_has_no_mode() -> None:
    def renamed(answer: Callable[[bytes], Iterator[bytes]], packet: bytes) -> Iterator[bytes]:
        for each in answer(packet):
            yield each.replace(b"devlink\0", b"devlink\xff")

    with asking(partial(renamed, Nic().answer)) as exchange:
        assert devlink.find(exchange, UPLINK) is None


def test_pyroute2_reads_what_the_emulated_card_says() -> None:
    nic = Nic()
    with asking(nic.answer) as exchange:
        devlink.find(exchange, UPLINK)
    kinds = (ctrlmsg, devlinkcmd, devlinkcmd)
    family, port, mode = (
        read(kind, packet) for kind, packet in zip(kinds, nic.packets, strict=True)
    )
    assert family.get_attr("CTRL_ATTR_FAMILY_NAME") == "devlink"
    assert port.get_attr("DEVLINK_ATTR_PORT_NETDEV_IFINDEX") == UPLINK
    assert port.get_attr("DEVLINK_ATTR_PORT_NETDEV_NAME") == "eth0"
    for each in (port, mode):
        assert each.get_attr("DEVLINK_ATTR_BUS_NAME") == "pci"
        assert each.get_attr("DEVLINK_ATTR_DEV_NAME") == "0000:01:00.0"
    assert (mode["cmd"], mode.get_attr("DEVLINK_ATTR_ESWITCH_MODE")) == (29, 0)


def read(kind: type, packet: bytes) -> devlinkcmd:
    message = kind(packet)
    message.decode()
    return message
