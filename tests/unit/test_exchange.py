"""Netlink messages over a socket that is handed in: batches, refusals, lists, and bad answers."""

from __future__ import annotations

import errno
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from dataplane.netlink.exchange import Exchange, Refusal, Request, unix_socket
from dataplane.netlink.rtnl import KernelError

ACK, MULTI, INTERRUPTED, DUMP = 0x4, 0x2, 0x10, 0x300
CAPPED, TLVS = 0x100, 0x200
ERROR, DONE, NEW = 2, 3, 44
Asked = tuple[int, int, int, bytes]  # type, flags, sequence, what is behind the header


def message(kind: int, sequence: int, body: bytes, flags: int = 0) -> bytes:
    head = struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0)
    return head + body + bytes(-len(body) % 4)


def refusal(asked: Asked, number: int, words: str = "", *, capped: bool = True) -> bytes:
    """Return an NLMSG_ERROR as the kernel makes it (netlink_ack)."""
    kind, flags, sequence, body = asked
    quoted = struct.pack("=IHHII", 16 + len(body), kind, flags, sequence, 0)
    found = struct.pack("=i", -number) + quoted + (b"" if capped else body + bytes(-len(body) % 4))
    how = CAPPED if capped else 0
    if words:
        text = words.encode() + b"\0"
        found += struct.pack("=HH", 4 + len(text), 1) + text + bytes(-len(text) % 4)
        how |= TLVS
    return message(ERROR, sequence, found, how)


def messages(packet: bytes) -> Iterator[Asked]:
    while packet:
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", packet)
        yield kind, flags, sequence, packet[16:length]
        packet = packet[(length + 3) & ~3 :]


class Other:
    """The other end: ``answer`` returns the packets that a packet is answered with."""

    def __init__(self, answer: Callable[[list[Asked]], list[bytes]]) -> None:
        self.packets: list[list[Asked]] = []
        self.near, self._far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._answer = answer
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._far, suppress(BrokenPipeError):  # who asked waits no more
            while packet := self._far.recv(1 << 18):
                asked = list(messages(packet))
                self.packets.append(asked)
                for each in self._answer(asked):
                    self._far.send(each)

    def close(self) -> None:
        self.near.close()
        self._thread.join(5)


@pytest.fixture
def other(request: pytest.FixtureRequest) -> Iterator[Other]:
    made = Other(request.param)
    yield made
    made.close()


def exchange(other: Other, answer_s: float = 2.0, whole_s: float = 5.0) -> Exchange:
    return Exchange(lambda: other.near, answer_s, whole_s)


def acked(asked: list[Asked]) -> list[bytes]:
    """Acknowledge what asks for it, and refuse what begins with "no", each in a packet."""
    found = []
    for each in asked:
        if each[3].startswith(b"no"):
            found.append(refusal(each, errno.EINVAL, each[3][2:].decode()))
        elif each[1] & ACK:
            found.append(refusal(each, 0))
    return found


# --- changes -----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [acked], indirect=True)
@pytest.mark.parametrize("number", [0, 1, 63, 64, 65, 200])
def test_many_go_in_one_packet_whose_last_is_acknowledged(other: Other, number: int) -> None:
    requests = [Request(NEW, bytes([at % 256]) * 5, 0x400) for at in range(number)]
    with exchange(other) as talking:
        assert talking.change(requests, "x") == [None] * number
    sent = [each for packet in other.packets for each in packet]
    assert [body for _, _, _, body in sent] == [request.body for request in requests]
    assert [len(packet) for packet in other.packets] == [64] * (number // 64) + (
        [number % 64] if number % 64 else []
    )
    for packet in other.packets:
        assert [bool(flags & ACK) for _, flags, _, _ in packet] == [False] * (len(packet) - 1) + [
            True
        ]
        assert all(flags & 0x401 == 0x401 for _, flags, _, _ in packet)


@pytest.mark.parametrize("other", [acked], indirect=True)
def test_a_packet_is_never_longer_than_a_socket_takes(other: Other) -> None:
    requests = [Request(NEW, bytes(30_000)) for _ in range(7)]
    with exchange(other) as talking:
        assert talking.change(requests, "x") == [None] * 7
    assert [len(packet) for packet in other.packets] == [2, 2, 2, 1]


@pytest.mark.parametrize("other", [acked], indirect=True)
def test_each_refusal_is_told_of_its_request_and_ends_nothing(other: Other) -> None:
    bodies = [b"yes", b"noA", b"yes", b"noB", b"noC"]
    with exchange(other) as talking:
        found = talking.change([Request(NEW, body) for body in bodies], "x")
    refused = [Refusal(errno.EINVAL, words) for words in "ABC"]
    assert found == [None, refused[0], None, refused[1], refused[2]]
    assert str(refused[0]) == "Invalid argument (A)"
    assert str(Refusal(errno.ENOSPC)) == "No space left on device"


def whole(asked: list[Asked]) -> list[bytes]:
    """Refuse all, in one packet, with the requests quoted whole."""
    return [b"".join(refusal(each, errno.EOPNOTSUPP, "why", capped=False) for each in asked)]


@pytest.mark.parametrize("other", [whole], indirect=True)
def test_words_behind_a_request_that_is_quoted_whole_are_found(other: Other) -> None:
    with exchange(other) as talking:
        found = talking.change([Request(NEW, b"odd"), Request(NEW, b"even")], "x")
    assert found == [Refusal(errno.EOPNOTSUPP, "why")] * 2


def late(asked: list[Asked]) -> list[bytes]:
    """Answer with what is left of another question first."""
    kind, flags, sequence, body = asked[-1]
    stranger = (kind, flags, sequence + 1000, body)
    return [refusal(stranger, errno.EPERM), refusal(asked[-1], 0)]


@pytest.mark.parametrize("other", [late], indirect=True)
def test_what_answers_another_question_is_passed_over(other: Other) -> None:
    with exchange(other) as talking:
        assert talking.change([Request(NEW, b"")], "x") == [None]


# --- lists -------------------------------------------------------------------------------------


def listed(asked: list[Asked]) -> list[bytes]:
    ((_, flags, sequence, _),) = asked
    assert flags & DUMP == DUMP
    two = message(NEW, sequence, b"one", MULTI) + message(NEW, sequence, b"two", MULTI)
    end = message(NEW, sequence, b"three", MULTI) + message(DONE, sequence, bytes(4), MULTI)
    return [two, message(NEW, sequence + 9, b"stranger", MULTI), end]


@pytest.mark.parametrize("other", [listed], indirect=True)
def test_a_list_comes_in_several_packets(other: Other) -> None:
    with exchange(other) as talking:
        assert talking.dump(Request(46, b""), "x") == [b"one", b"two", b"three"]


def interrupted(asked: list[Asked]) -> list[bytes]:
    """Change while it is listed, until the fourth time."""
    ((_, _, sequence, _),) = asked
    flags = MULTI | (INTERRUPTED if sequence < 4 else 0)
    return [message(NEW, sequence, bytes([sequence]), flags), message(DONE, sequence, bytes(4))]


@pytest.mark.parametrize("other", [interrupted], indirect=True)
def test_a_list_that_changed_meanwhile_is_asked_for_again(other: Other) -> None:
    with exchange(other) as talking:
        assert talking.dump(Request(46, b""), "x") == [bytes([4])]


def always_interrupted(asked: list[Asked]) -> list[bytes]:
    ((_, _, sequence, _),) = asked
    return [
        message(NEW, sequence, b"", MULTI | INTERRUPTED),
        message(DONE, sequence, bytes(4)),
    ]


def failed(asked: list[Asked]) -> list[bytes]:
    ((_, _, sequence, _),) = asked
    words = struct.pack("=HH", 8, 1) + b"why\0"
    return [message(DONE, sequence, struct.pack("=i", -errno.EINVAL) + words, MULTI | TLVS)]


def refused(asked: list[Asked]) -> list[bytes]:
    return [refusal(asked[0], errno.EOPNOTSUPP, "no such thing")]


def cut(asked: list[Asked]) -> list[bytes]:
    return [message(NEW, asked[0][2], b"12345678", MULTI)[:-4]]


def noise(_asked: list[Asked]) -> list[bytes]:
    return [b"\xff" * 21]


def short_error(asked: list[Asked]) -> list[bytes]:
    return [message(ERROR, asked[0][2], b"")]


def silence(_asked: list[Asked]) -> list[bytes]:
    return []


@pytest.mark.parametrize(
    ("other", "number", "words"),
    [
        pytest.param(always_interrupted, errno.EINTR, "try again", id="changes all the time"),
        pytest.param(failed, errno.EINVAL, "(why)", id="an error at the end"),
        pytest.param(refused, errno.EOPNOTSUPP, "(no such thing)", id="refused"),
        pytest.param(cut, errno.EBADMSG, "", id="cut short"),
        pytest.param(noise, errno.EBADMSG, "", id="noise"),
        pytest.param(short_error, errno.EBADMSG, "", id="an error without number"),
        pytest.param(silence, errno.ETIMEDOUT, "", id="silence"),
    ],
    indirect=["other"],
)
def test_a_list_that_cannot_be_had_is_an_error_with_its_name(
    other: Other, number: int, words: str
) -> None:
    began = time.monotonic()
    with exchange(other, 0.2) as talking, pytest.raises(KernelError) as error:
        talking.dump(Request(46, b""), "list things")
    assert error.value.errno == number
    assert str(error.value).startswith("list things: ")
    assert words in str(error.value)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("other", [cut, noise, short_error, silence], indirect=True)
def test_a_change_that_is_not_answered_is_an_error(other: Other) -> None:
    with exchange(other, 0.2) as talking, pytest.raises(KernelError, match=r"^change things: "):
        talking.change([Request(NEW, b"")], "change things")


def one_by_one(asked: list[Asked]) -> list[bytes]:
    """List without an end, slowly."""
    found = []
    for _ in range(20):
        time.sleep(0.05)
        found.append(message(NEW, asked[0][2], b"more", MULTI))
    return found


@pytest.mark.parametrize("other", [one_by_one], indirect=True)
def test_all_of_it_ends_in_time_however_often_something_comes(other: Other) -> None:
    began = time.monotonic()
    with exchange(other, 0.3, 0.6) as talking, pytest.raises(KernelError) as error:
        talking.dump(Request(46, b""), "x")
    assert error.value.errno == errno.ETIMEDOUT
    assert time.monotonic() - began < 3


def test_nobody_there_is_an_error() -> None:
    def opens() -> socket.socket:
        raise FileNotFoundError(errno.ENOENT, "no such socket")

    with pytest.raises(KernelError, match="open the netlink socket"):
        Exchange(opens, 1, 1)


def test_a_socket_that_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "nobody.sock"
    with pytest.raises(KernelError, match=f"connect to {path}: No such file or directory"):
        Exchange(unix_socket(path), 1, 1)


def test_whoever_hangs_up_is_an_error() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far.close()
    with Exchange(lambda: near, 1, 1) as talking, pytest.raises(KernelError) as error:
        talking.dump(Request(46, b""), "x")
    assert error.value.errno in (errno.EPIPE, errno.ECONNRESET)
