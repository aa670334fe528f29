"""Frames of the VF pods of this host: sent for its DPU, and seen where they come out."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from dataplane.contracts import Sending, Witnessed
from dataplane.core.addressing import eui64_link_local
from dataplane.core.corpus import MARK_BYTES
from dataplane.core.desired import Port
from dataplane.core.errors import OverweaveError
from dataplane.core.frames import ETHERNET, ip_ends, mac_bytes
from dataplane.core.model import Attachment, AttachmentKey
from dataplane.core.probe import is_probe
from dataplane.host import vf
from dataplane.netlink.netns import Netns
from dataplane.netlink.taps import Taps

_MOST_FRAMES = 64
_MOST_LISTEN_S = 5.0


class PodWitness:
    """A contracts.Witness of the VF pods that ``pods`` returns, each in its own namespace."""

    def __init__(self, pods: Callable[[], Sequence[Port]]) -> None:
        self._pods = pods

    def send(self, sendings: Sequence[Sending], listen_s: float) -> Witnessed:
        """Send from the pods, and listen in all of them; see Witness."""
        ports = {port.attachment.key: port for port in self._pods()}
        _check(sendings, ports, listen_s)
        faults = {
            each.key: f"this host has no VF pod {each.key}"
            for each in sendings
            if each.key not in ports
        }
        marks = {each.mark for each in sendings if each.key in ports}
        with Taps[AttachmentKey](marks) as taps:
            # Who listens to nobody opens no more than what is to send.
            senders = {each.key for each in sendings}
            for key, port in ports.items():
                if not listen_s and key not in senders:
                    continue
                try:
                    _tap(taps, port.attachment)
                except OverweaveError as error:
                    faults[key] = f"pod {key}: {error}"
            for each in sendings:
                if each.key not in faults:
                    try:
                        taps.send(each.key, each.frame)
                    except OverweaveError as error:
                        faults[each.key] = f"pod {each.key}: {error}"
            time.sleep(listen_s)
            missed = {key: f"pod {key}: {why}" for key, why in taps.missed().items()}
        came = [(heard.tap, heard.frame) for heard in taps.heard if not heard.sent]
        return Witnessed(came, {**missed, **faults})


def _tap(taps: Taps[AttachmentKey], attachment: Attachment) -> None:
    with Netns(attachment.netns) as pod:
        pod.run(lambda: taps.add(attachment.key, vf.name_in_pod(attachment)))


def _check(sendings: Sequence[Sending], ports: dict[AttachmentKey, Port], listen_s: float) -> None:
    """Raise OverweaveError for what no agent of a DPU of ours asks for."""
    if len(sendings) > _MOST_FRAMES or not 0 <= listen_s <= _MOST_LISTEN_S:
        raise OverweaveError(
            f"{len(sendings)} frames and {listen_s:g} s are more than {_MOST_FRAMES} frames or"
            f" {_MOST_LISTEN_S:g} s at a time"
        )
    for each in sendings:
        port = ports.get(each.key)
        if port is not None and not _is_own(each, port):
            raise OverweaveError(f"a frame is not one that pod {each.key} could send to somebody")


def _is_own(sending: Sending, port: Port) -> bool:
    """Say whether a frame says of itself what is true: from the pod, and to one alone."""
    frame, attachment = sending.frame, port.attachment
    own = {ip.packed for ip in (*attachment.ips, eui64_link_local(attachment.mac))}
    return (
        len(frame) <= port.mtu + ETHERNET
        and len(sending.mark) >= MARK_BYTES
        and sending.mark in frame
        and not frame[0] & 1
        and frame[6:12] == mac_bytes(attachment.mac)
        and (is_probe(frame) or ip_ends(frame)[0] in own)
    )
