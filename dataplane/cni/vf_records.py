"""What a host keeps of its VF pods: a file each, since their attachments live on the DPU."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from urllib.parse import quote

from dataplane import durable
from dataplane.contracts import PodRoute
from dataplane.core.desired import Port
from dataplane.core.errors import OverweaveError
from dataplane.core.model import (
    Attachment,
    AttachmentKey,
    IpInterface,
    IpNetwork,
    Mac,
    Segment,
    Vni,
)


@dataclass(frozen=True, slots=True)
class VfRecord:
    """A VF pod; without ``mac`` the DPU has not answered yet.

    ``leaving``: the pod is gone here, and the DPU's agent has still to be told so. ``namespace`` is
    the pod's, not only a path (cni/netns.py); ``pod_routes`` are such as ``10.9.0.0/16 10.1.0.1``,
    without a gateway for what is on the link.
    """

    container_id: str
    ifname: str
    netns: str
    device_id: str
    netdev: str
    serial: str
    number: int
    segment: str
    identity: str
    network: str
    mac: str = ""
    interfaces: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    mtu: int = 0
    vni: int = 0
    leaving: bool = False
    ipam: bool = False
    namespace: str = ""
    pod_routes: tuple[str, ...] = ()

    @property
    def key(self) -> AttachmentKey:
        """Return CNI's name of it."""
        return AttachmentKey(self.container_id, self.ifname)

    @property
    def wiring(self) -> tuple[PodRoute, ...]:
        """Return the routes that the pod was given beside its port."""
        parts = (each.split() for each in self.pod_routes)
        return tuple(PodRoute(ip_network(net), *map(ip_address, via)) for net, *via in parts)

    def with_pod_routes(self, routes: Iterable[PodRoute]) -> VfRecord:
        """Return it with the routes that the pod is given."""
        lines = (f"{each.destination} {each.gateway or ''}".rstrip() for each in routes)
        return replace(self, pod_routes=tuple(lines))

    @property
    def port(self) -> Port | None:
        """Return it as CNI shows and wires it; None before the DPU has answered.

        Of the segment only what the pod's links say is known here.
        """
        if not self.mac:
            return None
        held: tuple[IpInterface, ...] = tuple(map(ip_interface, self.interfaces))
        own = (each.network for each in held if each.network.num_addresses > 1)
        subnets: Iterable[IpNetwork] = (*own, *map(ip_network, self.routes))
        segment = Segment(self.segment, Vni(self.vni), subnets=tuple(dict.fromkeys(subnets)))
        attachment = Attachment(
            container_id=self.container_id,
            ifname=self.ifname,
            netns=self.netns,
            segment=self.segment,
            mac=Mac(self.mac),
            ips=tuple(each.ip for each in held),
            identity=self.identity,
            slot=self.number,
            network=self.network,
            netdev=self.netdev,
        )
        return Port(attachment, segment, self.mtu)


class VfRecords:
    """Files below a directory, made (0700) for the first; each change is durable on return."""

    def __init__(self, directory: Path) -> None:
        """Use ``directory``."""
        self._directory = directory

    def load(self) -> tuple[VfRecord, ...]:
        """Return what an earlier run kept. Raises OverweaveError naming a file that is damaged."""
        return tuple(map(_read, sorted(self._directory.glob("*.json"))))

    def write(self, record: VfRecord) -> None:
        """Keep ``record`` instead of an earlier one of its key. Raises OverweaveError."""
        fields = {name: getattr(record, name) for name in VfRecord.__slots__}
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            durable.write(self.path(record.key), json.dumps(fields, indent=1) + "\n")
            durable.settle(self._directory)
        except OSError as error:
            raise OverweaveError(
                f"state directory {self._directory}: {error}; make room or fix its permissions"
            ) from error

    def remove(self, key: AttachmentKey) -> None:
        """Forget; nothing there is success. Raises OverweaveError."""
        try:
            if self._directory.is_dir():
                self.path(key).unlink(missing_ok=True)
                durable.settle(self._directory)
        except OSError as error:
            raise OverweaveError(f"state directory {self._directory}: {error}") from error

    def path(self, key: AttachmentKey) -> Path:
        """Return where the record of ``key`` is, or would be."""
        return self._directory / ("+".join(quote(part, safe="") for part in key) + ".json")


def _read(path: Path) -> VfRecord:
    try:
        fields = json.loads(path.read_text())
        lists = ("interfaces", "routes", "pod_routes")
        record = VfRecord(**{**fields, **{key: tuple(fields.get(key, ())) for key in lists}})
        _ = record.port, record.wiring
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise OverweaveError(
            f"{path} is damaged ({error!r}); move it away and detach what it names"
        ) from error
    return record
