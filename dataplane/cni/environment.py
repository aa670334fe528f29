"""The variables a runtime sets, checked all at once. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from dataplane.cni.errors import CniError, Code, shown
from dataplane.core.model import AttachmentKey
from dataplane.core.names import CONTAINER_ID, IFNAME

MAX_PATH = 4095  # limits.h PATH_MAX, with the NUL

_Kind = TypeVar("_Kind")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # SPEC.md section 1, `name`
_ARG_VALUE = re.compile(r"[A-Za-z0-9_.:-]{1,253}")  # no '/': it joins the parts of an identity
_POD_PREFIX = "K8S_POD_"
_OWN_ARGS = frozenset({"IgnoreUnknown", "OVERWEAVE_ENDPOINT", "MAC", "IP"})
_TRUTH = {"1": True, "true": True, "0": False, "false": False}


class Verb(StrEnum):
    """What CNI_COMMAND may be; VERSION is answered by the shim."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"


@dataclass(frozen=True, slots=True)
class Invocation:
    """The environment and stdin of the plugin, byte for byte."""

    environment: Mapping[bytes, bytes]
    config: bytes


@dataclass(frozen=True, slots=True)
class Variables:
    """The checked CNI_* variables; empty where the verb does not use them."""

    verb: Verb
    key: AttachmentKey
    netns: str
    args: Mapping[str, str]

    @property
    def identity(self) -> str:
        """Return whose endpoint this is: what stays the same when the workload moves."""
        namespace = self.args.get(f"{_POD_PREFIX}NAMESPACE")
        name = self.args.get(f"{_POD_PREFIX}NAME")
        if namespace and name:
            return f"{namespace}/{name}/{self.key.ifname}"
        owner = self.args.get("OVERWEAVE_ENDPOINT") or self.key.container_id
        return f"{owner}/{self.key.ifname}"


class _Environment:
    """Reads variables and keeps every fault: code 4 wants the names of all that are wrong."""

    def __init__(self, variables: Mapping[bytes, bytes]) -> None:
        self._variables = variables
        self._faults: list[str] = []

    def read(self, name: str, check: Callable[[str], _Kind], default: _Kind) -> _Kind:
        value = self._variables.get(name.encode(), b"")
        try:
            return check(value.decode("utf-8"))
        except UnicodeDecodeError:
            self._faults.append(f"{name} {shown(value)} is not UTF-8")
        except ValueError as error:
            self._faults.append(str(error))
        return default

    def raise_faults(self) -> None:
        if self._faults:
            raise CniError(Code.INVALID_ENVIRONMENT, "; ".join(self._faults))


def read_variables(environment: Mapping[bytes, bytes]) -> Variables:
    """Return the checked variables. Raises CniError 4, which names every one that is wrong."""
    reader = _Environment(environment)
    verb = reader.read("CNI_COMMAND", _command, Verb.STATUS)
    reader.raise_faults()  # what else is needed depends on the verb
    key, netns, args = AttachmentKey("", ""), "", dict[str, str]()
    if verb in (Verb.ADD, Verb.DEL, Verb.CHECK):
        container = reader.read("CNI_CONTAINERID", _container_id, "")
        key = AttachmentKey(container, reader.read("CNI_IFNAME", _ifname, ""))
    if verb in (Verb.ADD, Verb.CHECK):
        netns = reader.read("CNI_NETNS", _netns, "")
    if verb is Verb.ADD:
        args = reader.read("CNI_ARGS", _parse_args, args)
    reader.raise_faults()
    return Variables(verb, key, netns, args)


def _command(text: str) -> Verb:
    if text not in list(Verb):
        raise ValueError(_wrong("CNI_COMMAND", text, "is none of ADD, DEL, CHECK, GC and STATUS"))
    return Verb(text)


def _container_id(text: str) -> str:
    if not CONTAINER_ID.allows(text):
        raise ValueError(_wrong("CNI_CONTAINERID", text, CONTAINER_ID.rule))
    return text


def _ifname(text: str) -> str:
    if not IFNAME.allows(text):
        raise ValueError(_wrong("CNI_IFNAME", text, IFNAME.rule))
    if text == "lo":
        raise ValueError("CNI_IFNAME 'lo' is the loopback interface of every network namespace")
    return text


def _netns(text: str) -> str:
    if not text.startswith("/") or len(text) > MAX_PATH or "\n" in text:
        raise ValueError(_wrong("CNI_NETNS", text, "is not the absolute path of a namespace"))
    return text


def _wrong(name: str, value: str, rule: str) -> str:
    return f"{name} {shown(value)} {rule}" if value else f"{name} is missing or empty"


def _parse_args(text: str) -> dict[str, str]:
    args: dict[str, str] = {}
    for pair in text.split(";") if text else ():
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise ValueError(f"CNI_ARGS {shown(text)} holds {shown(pair)}, which is no KEY=VALUE")
        if name in args:
            raise ValueError(f"CNI_ARGS {shown(text)} holds {name} more than once")
        args[name] = value
    ignore = _TRUTH.get(args.get("IgnoreUnknown", "0").lower())
    if ignore is None:
        raise ValueError(f"CNI_ARGS IgnoreUnknown={args['IgnoreUnknown']} is neither 1 nor 0")
    for name, value in args.items():
        _check_arg(name, value, ignore=ignore)
    return args


def _check_arg(name: str, value: str, *, ignore: bool) -> None:
    known = name in _OWN_ARGS or name.startswith(_POD_PREFIX)
    if not known and not ignore:
        raise ValueError(
            f"CNI_ARGS {shown(f'{name}={value}')} is not known here;"
            " IgnoreUnknown=1 would have it ignored"
        )
    is_name = name == "OVERWEAVE_ENDPOINT" or name.startswith(_POD_PREFIX)
    if is_name and value and not _ARG_VALUE.fullmatch(value):
        raise ValueError(
            f"CNI_ARGS {shown(f'{name}={value}')} is not 1-253 letters, digits, '_', '.', ':', '-'"
        )
