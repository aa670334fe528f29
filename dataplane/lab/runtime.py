"""The lab as a container runtime: pods are namespaces, attached by running overweave-cni.

As a runtime does, it remembers what it asked for and what it was told, because DEL and CHECK must
be given the same again (CNI spec, sections 2 and 4).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

from dataplane import cni
from dataplane.core.errors import InvalidValueError, OverweaveError
from dataplane.lab.layout import LabPaths
from dataplane.lab.probes import Station
from dataplane.lab.underlay import ensure_namespace
from dataplane.netlink import netns

IFNAME = "eth0"
CNI_VERSION = "1.1.0"
_PLUGIN = "overweave-cni"
_TIMEOUT_S = 30.0
SHIM = Path(cni.__file__).with_name("shim.py")


class PluginError(OverweaveError):
    """overweave-cni said no; ``code`` is CNI's, the text its message and details."""

    def __init__(self, verb: str, answer: Mapping[str, Any]) -> None:
        """Make the sentence from the plugin's error object (CNI spec, Error)."""
        self.code = int(answer.get("code", 0))
        words = [str(answer.get("msg", "")), str(answer.get("details", ""))]
        super().__init__(f"{verb}: code {self.code}: {': '.join(word for word in words if word)}")


@dataclass(frozen=True, slots=True)
class Pod:
    """What a pod is to be: on which node and segment, and the MAC and addresses it asks for.

    ``identity`` is whose it is when it moves: the same for its incarnations on all nodes. With
    ``device`` it gets that VF.
    """

    name: str
    node: str
    segment: str
    mac: str | None = None
    ips: tuple[str, ...] = ()
    identity: str = ""
    device: str = ""

    def record(self) -> dict[str, Any]:
        """Return it as the lab writes it down."""
        return {
            "name": self.name,
            "node": self.node,
            "segment": self.segment,
            "mac": self.mac,
            "ips": list(self.ips),
            "identity": self.identity,
            "device": self.device,
        }


class Runtime:
    """Adds, checks and deletes the pods of one lab."""

    def __init__(self, paths: LabPaths) -> None:
        """Work on the lab at ``paths``."""
        self._paths = paths

    def add(self, pod: Pod) -> Station:
        """Make the pod's namespace and attach it; return how probes reach it.

        A pod that is attached already stays as it is. Raises PluginError, with nothing left.
        """
        if pod.node == pod.name or self._paths.node(pod.name).directory.exists():
            raise InvalidValueError(f"pod {pod.name!r} is called like a node; choose another name")
        kept = self._read(pod.name)
        if kept and kept.get("result"):
            return self.station(pod.name)
        record = {**pod.record(), "result": None}
        self._write(pod.name, record)  # before anything is made: it can be deleted from here on
        ensure_namespace(self._paths.netns(pod.name))
        try:
            record["result"] = self._invoke("ADD", record)
        except OverweaveError:
            self.delete(pod.name)
            raise
        self._write(pod.name, record)
        return self.station(pod.name)

    def check(self, name: str) -> None:
        """Run CHECK. Raises PluginError with what differs."""
        self._invoke("CHECK", self._known(name))

    def delete(self, name: str) -> None:
        """Run DEL, then take the namespace away; a pod that is not there is no error."""
        record = self._read(name)
        if record is not None:
            self._invoke("DEL", record)
            netns.delete(self._paths.netns(name).name)
            self._file(name).unlink()

    def station(self, name: str) -> Station:
        """Return an attached pod as probes see it. Raises InvalidValueError if there is none."""
        result = self._known(name)["result"]
        inside = next(entry for entry in result["interfaces"] if entry.get("sandbox"))
        return Station(
            name=name,
            netns=self._paths.netns(name),
            ifname=inside["name"],
            mac=inside["mac"],
            ips=tuple(ip_interface(entry["address"]).ip for entry in result["ips"]),
            mtu=inside["mtu"],
        )

    def pods(self) -> tuple[Pod, ...]:
        """Return the pods of the lab, by name."""
        records = [self._known(path.stem) for path in sorted(self._paths.pods.glob("*.json"))]
        return tuple(_pod(record) for record in records)

    def result(self, name: str) -> Mapping[str, Any]:
        """Return what ADD printed."""
        result: Mapping[str, Any] = self._known(name)["result"]
        return result

    def _known(self, name: str) -> dict[str, Any]:
        record = self._read(name)
        if record is None:
            there = ", ".join(path.stem for path in sorted(self._paths.pods.glob("*.json")))
            raise InvalidValueError(
                f"lab {self._paths.name} has no pod {name!r}; it has {there or 'none'}"
            )
        return record

    def _read(self, name: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(self._file(name).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return record

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        self._paths.pods.mkdir(exist_ok=True)
        fresh = self._file(name).with_suffix(".new")
        fresh.write_text(json.dumps(record, indent=1), encoding="utf-8")
        fresh.rename(self._file(name))

    def _file(self, name: str) -> Path:
        return (
            self._paths.pods
            / f"{self._paths.netns(name).name.removeprefix(self._paths.prefix)}.json"
        )

    def _invoke(self, verb: str, record: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
        paths = self._paths.node(record["node"])
        container = f"{self._paths.name}-{record['name']}"
        environment = {
            "CNI_COMMAND": verb,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": str(self._paths.netns(record["name"])),
            "CNI_IFNAME": IFNAME,
            "CNI_ARGS": f"OVERWEAVE_ENDPOINT={record['identity'] or record['name']}",
            "CNI_PATH": str(SHIM.parent),
        }
        return invoke(environment, network(record, paths.cni_socket))


def network(record: Mapping[str, Any], socket: Path) -> dict[str, Any]:
    """Return the network configuration that a runtime passes for a pod."""
    wanted = {
        **({"mac": record["mac"]} if record["mac"] else {}),
        **({"ips": record["ips"]} if record["ips"] else {}),
    }
    return {
        "cniVersion": CNI_VERSION,
        "name": "overweave",
        "type": _PLUGIN,
        "segment": record["segment"],
        "agentSocket": str(socket),
        **({"deviceID": record["device"]} if record["device"] else {}),
        **({"runtimeConfig": wanted} if wanted else {}),
        **({"prevResult": record["result"]} if record.get("result") else {}),
    }


def invoke(environment: Mapping[str, str], config: Mapping[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Run overweave-cni as a runtime does and return what it printed, None if nothing.

    Raises PluginError.
    """
    result = subprocess.run(
        plugin(),
        input=json.dumps(config),
        env={"PATH": os.environ.get("PATH", ""), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    try:
        answer = json.loads(result.stdout) if result.stdout.strip() else None
    except ValueError as error:
        raise PluginError(environment["CNI_COMMAND"], {"msg": result.stdout}) from error
    if result.returncode:
        words = answer or {"msg": result.stderr.strip() or f"exit status {result.returncode}"}
        raise PluginError(environment["CNI_COMMAND"], words)
    return answer


def plugin() -> Sequence[str]:
    """Return the command that is overweave-cni."""
    return [str(SHIM)]


def _pod(record: Mapping[str, Any]) -> Pod:
    return Pod(
        name=record["name"],
        node=record["node"],
        segment=record["segment"],
        mac=record["mac"],
        ips=tuple(record["ips"]),
        identity=record["identity"],
        device=record["device"],
    )
