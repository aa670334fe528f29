"""The stream by which a host lends its DPU the VFs: what is asked and seen, at both of its ends."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Mapping, Sequence

import grpc
import structlog

from dataplane.api import attachment_pb2 as pb
from dataplane.api import attachment_pb2_grpc as rpc
from dataplane.api.channels import Channels
from dataplane.contracts import Sending, Witness, Witnessed
from dataplane.core.errors import OverweaveError
from dataplane.core.model import AttachmentKey

RETRY_S = 2.0
_ANSWER_S = 10.0  # beyond the time that is listened: a host may have many pods
_STOP_S = 1.0

log = structlog.get_logger()


class _Call:
    """One host's open stream; what is put in is never None, which says that it has ended."""

    def __init__(self, context: grpc.ServicerContext) -> None:
        self._context = context
        self.wanted: queue.SimpleQueue[pb.Wanted | None] = queue.SimpleQueue()
        self.answers: queue.SimpleQueue[pb.Witnessed | None] = queue.SimpleQueue()

    def end(self) -> None:
        """Have both who asks and who answers go on, and hang up if the host has not."""
        self.wanted.put(None)
        self.answers.put(None)
        self._context.cancel()


class HostWitness:
    """A contracts.Witness: the host whose agent has opened the stream last, if it is there."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._asking = threading.Lock()
        self._call: _Call | None = None

    def send(self, sendings: Sequence[Sending], listen_s: float) -> Witnessed:
        """Ask the host and wait for its answer; one caller at a time."""
        wanted = pb.Wanted(listen_ms=round(listen_s * 1000))
        for each in sendings:
            wanted.sendings.add(**each.key._asdict(), frame=each.frame, mark=each.mark)
        with self._asking:
            answer = self._answer(wanted, listen_s + _ANSWER_S)
        if answer.error:
            raise OverweaveError(f"the agent of the DPU's host: {answer.error}")
        keys = [(AttachmentKey(s.container_id, s.ifname), s) for s in answer.sights]
        return Witnessed(
            came=[(key, sight.frame) for key, sight in keys if not sight.fault],
            faults={key: sight.fault for key, sight in keys if sight.fault},
        )

    def serve(
        self, answers: Iterator[pb.Witnessed], context: grpc.ServicerContext
    ) -> Iterator[pb.Wanted]:
        """Yield what is wanted of a host until it is gone, or another call takes its place."""
        call = _Call(context)
        if not context.add_callback(call.end):
            return
        with self._guard:
            before, self._call = self._call, call
        if before is not None:
            before.end()
        try:
            while (wanted := call.wanted.get()) is not None:
                yield wanted
                call.answers.put(next(answers, None))
        finally:
            self._drop(call)

    def _drop(self, call: _Call) -> None:
        """Ask it no more, and have who waits for it go on."""
        with self._guard:
            if self._call is call:
                self._call = None
        call.end()

    def _answer(self, wanted: pb.Wanted, timeout_s: float) -> pb.Witnessed:
        with self._guard:
            call = self._call
        if call is None:
            raise OverweaveError(
                "no agent of the DPU's host is connected, and only there can frames be sent; is it"
                " running? On the host: overweave status"
            )
        call.wanted.put(wanted)
        try:
            answer = call.answers.get(timeout=timeout_s)
        except queue.Empty:
            self._drop(call)  # a late answer must not be taken for the next one's
            raise OverweaveError(
                f"the agent of the DPU's host has not answered within {timeout_s:g} s"
            ) from None
        if answer is None:
            raise OverweaveError("the agent of the DPU's host has gone; try again")
        return answer


class WitnessStand:
    """Keeps a stream open to the agent of each DPU, and answers what it asks.

    ``witnesses`` are by the address of that agent. One that is away is called again and again,
    without a word: whether it is there, DpuFeed says.
    """

    def __init__(self, witnesses: Mapping[str, Witness], channels: Channels | None = None) -> None:
        self._witnesses = dict(witnesses)
        self._channels = channels or Channels()
        self._stopping = threading.Event()
        self._guard = threading.Lock()
        self._calls: dict[str, grpc.Call] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(address,), name="witness", daemon=True)
            for address in self._witnesses
        ]

    def start(self) -> None:
        """Begin to call."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Hang up; what is being watched ends by itself."""
        self._stopping.set()
        with self._guard:
            calls = list(self._calls.values())
        for call in calls:
            call.cancel()
        for thread in self._threads:
            thread.join(_STOP_S)

    def _run(self, address: str) -> None:
        while not self._stopping.is_set():
            try:
                self._call(address)
            except grpc.RpcError as error:
                log.debug("witness.away", address=address, error=str(error.code()))
            self._stopping.wait(RETRY_S)

    def _call(self, address: str) -> None:
        answers: queue.SimpleQueue[pb.Witnessed | None] = queue.SimpleQueue()
        with self._channels.open(address) as channel:
            call = rpc.AttachmentStub(channel).Witness(iter(answers.get, None))
            with self._guard:
                self._calls[address] = call
            try:
                if self._stopping.is_set():
                    return
                for wanted in call:
                    answers.put(self._answer(address, wanted))
            finally:
                call.cancel()
                answers.put(None)

    def _answer(self, address: str, wanted: pb.Wanted) -> pb.Witnessed:
        sendings = [
            Sending(AttachmentKey(each.container_id, each.ifname), each.frame, each.mark)
            for each in wanted.sendings
        ]
        try:
            return _told(self._witnesses[address].send(sendings, wanted.listen_ms / 1000))
        except OverweaveError as error:
            return pb.Witnessed(error=str(error))
        except Exception as caught:  # a fault of ours must not end the thread: say it
            log.exception("witness.crashed", address=address)
            return pb.Witnessed(error=f"internal error, please report it: {caught!r}")


def _told(found: Witnessed) -> pb.Witnessed:
    answer = pb.Witnessed()
    for key, frame in found.came:
        answer.sights.add(**key._asdict(), frame=frame)
    for key, fault in found.faults.items():
        answer.sights.add(**key._asdict(), fault=fault)
    return answer
