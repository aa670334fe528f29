"""What the CNI side relies on: one contract, kept by the agent and by the stand-in of our tests."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import ip_address

import pytest

from dataplane.contracts import Attachments, AttachRefusedError
from dataplane.core.desired import PortState
from dataplane.core.events import AttachmentsLoaded, AttachRequest
from dataplane.core.model import AttachmentKey, in_any
from tests.functional.cni_world import FakeAttachments
from tests.unit.test_agent import Lab

KEY = AttachmentKey("c1", "eth0")
OTHER = AttachmentKey("c2", "eth0")
NOW = 1_800_000_000
REQUEST = AttachRequest(KEY, "/run/netns/pod", "blue", "shop/web/eth0", NOW, network="pods")
SECOND = AttachRequest(OTHER, "/run/netns/other", "blue", "shop/db/eth0", NOW, network="pods")


@pytest.fixture(params=["stand-in", "agent"])
def attachments(request: pytest.FixtureRequest) -> Iterator[Attachments]:
    if request.param == "stand-in":
        yield FakeAttachments()
        return
    lab = Lab()
    lab.agent.start(AttachmentsLoaded((), ()))
    lab.synced()
    yield lab.agent
    lab.agent.stop()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_stranger(attachments: Attachments) -> None:
    assert attachments.find(KEY) is None
    assert KEY not in attachments.keys()  # noqa: SIM118 - not a mapping
    attachments.detach(KEY, 1)
    attachments.cancel(KEY)


def test_admit_gives_a_port_that_is_what_was_asked_for(attachments: Attachments) -> None:
    port = attachments.admit(REQUEST, 1)
    attachment = port.attachment
    assert attachment.key == KEY
    assert attachment.netns == REQUEST.netns
    assert attachment.identity == REQUEST.identity
    assert attachment.network == REQUEST.network
    assert attachment.segment == port.segment.name == "blue"
    assert attachment.ips
    assert all(in_any(ip, port.segment.subnets) for ip in attachment.ips)
    assert port.state is PortState.ACTIVE
    assert port.mtu == attachments.segment_mtu("blue")
    found = attachments.find(KEY)
    assert found is not None
    assert found.attachment == attachment
    assert attachments.keys() == (KEY,)


def test_asking_again_gives_the_same(attachments: Attachments) -> None:
    first = attachments.admit(REQUEST, 1)
    assert attachments.admit(REQUEST, 1).attachment == first.attachment


def test_a_smaller_mtu_is_kept(attachments: Attachments) -> None:
    assert attachments.admit(replace(REQUEST, mtu=1300), 1).mtu == 1300


def test_programmed_published_and_without_fault(attachments: Attachments) -> None:
    attachments.admit(REQUEST, 1)
    attachments.wait_programmed(KEY, 2)
    assert attachments.publish(KEY, 2)
    assert attachments.faults(KEY) == ()
    assert attachments.obstacle() is None


def test_no_two_share_anything(attachments: Attachments) -> None:
    one = attachments.admit(REQUEST, 1).attachment
    two = attachments.admit(SECOND, 1).attachment
    assert one.mac != two.mac
    assert one.slot != two.slot
    assert not set(one.ips) & set(two.ips)


@pytest.mark.parametrize("end", ["cancel", "detach"])
def test_what_is_given_up_is_free_again(attachments: Attachments, end: str) -> None:
    attachments.admit(SECOND, 1)
    first = attachments.admit(REQUEST, 1).attachment
    attachments.wait_programmed(KEY, 2)
    if end == "cancel":
        attachments.cancel(KEY)
        until(lambda: attachments.find(KEY) is None)
    else:
        attachments.detach(KEY, 2)
        attachments.detach(KEY, 2)
    assert attachments.find(KEY) is None
    assert attachments.keys() == (OTHER,)
    third = replace(REQUEST, key=AttachmentKey("c3", "eth0"), identity="shop/cache/eth0")
    assert attachments.admit(third, 1).attachment.ips == first.ips


def test_an_unknown_segment_is_named(attachments: Attachments) -> None:
    with pytest.raises(AttachRefusedError, match="green"):
        attachments.segment_mtu("green")
    with pytest.raises(AttachRefusedError, match="green"):
        attachments.admit(replace(REQUEST, segment="green"), 1)
    until(lambda: attachments.find(KEY) is None)


def test_an_address_in_use_is_refused_with_its_owner(attachments: Attachments) -> None:
    (ip, *_) = attachments.admit(REQUEST, 1).attachment.ips
    with pytest.raises(AttachRefusedError, match=f"(?s)(?=.*{ip})(?=.*shop/web/eth0)"):
        attachments.admit(replace(SECOND, ips=(ip,), ipam=True), 1)
    assert attachments.keys() == (KEY,)


def test_addresses_of_an_ipam_plugin_are_taken_as_given(attachments: Attachments) -> None:
    inside = attachments.admit(REQUEST, 1).attachment.ips[0] + 20
    port = attachments.admit(replace(SECOND, ips=(ip_address(inside),), ipam=True), 1)
    assert port.attachment.ips == (inside,)
    assert port.attachment.ipam
