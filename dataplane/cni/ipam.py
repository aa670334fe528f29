"""Delegation to a named IPAM plugin (CNI SPEC.md section 4): its failures stay its own."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane.cni.call import Call
from dataplane.cni.environment import Verb
from dataplane.cni.errors import CniError, Code, shown
from dataplane.cni.plugin_process import MAX_STDOUT, Outcome, OutputTooLongError, PluginProcess
from dataplane.cni.request import Delegate
from dataplane.cni.result import Given, parse_given
from dataplane.cni.strict_json import JsonObject, decode


class PluginMissingError(CniError):
    """The plugin cannot be run at all, so it holds nothing that it would have to release."""


class Ipam:
    """Runs IPAM plugins; whatever goes wrong becomes a CniError that names the plugin."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._running: set[PluginProcess] = set()
        self._stopped = False

    def add(self, delegate: Delegate, call: Call, timeout_s: float) -> Given:
        """Run ADD and return the addresses the plugin gave."""
        document = self._run(delegate, Verb.ADD, call, timeout_s)
        if document is None:
            raise CniError(Code.DELEGATE_FAILED, f"IPAM plugin {delegate.plugin} printed nothing")
        return parse_given(document, delegate.plugin, Code.DELEGATE_FAILED)

    def forward(self, delegate: Delegate, verb: Verb, call: Call, timeout_s: float) -> None:
        """Run a verb that gives no result."""
        self._run(delegate, verb, call, timeout_s)

    def stop(self) -> None:
        """Kill every plugin that is running, and let no more run."""
        with self._guard:
            self._stopped = True
            for process in self._running:
                process.kill()

    def _run(
        self, delegate: Delegate, verb: Verb, call: Call, timeout_s: float
    ) -> JsonObject | None:
        seconds = call.remaining(timeout_s)
        with self._process(delegate, verb) as process:
            try:
                outcome = process.wait(seconds)
            except TimeoutError:
                raise _failed(delegate, verb, f"was killed, it hung for {seconds:.1f} s") from None
            except OutputTooLongError:
                cause = f"was killed, it printed more than {MAX_STDOUT} bytes"
                raise _failed(delegate, verb, cause) from None
        call.stderr += outcome.stderr  # SPEC.md section 4: it is the calling plugin's stderr
        return _verdict(delegate, verb, outcome)

    @contextmanager
    def _process(self, delegate: Delegate, verb: Verb) -> Iterator[PluginProcess]:
        path = find_plugin(delegate)
        environment = {**delegate.invocation.environment, b"CNI_COMMAND": verb.encode()}
        try:
            process = PluginProcess(path, environment, delegate.invocation.config)
        except OSError as error:
            raise PluginMissingError(
                Code.DELEGATE_FAILED, f"IPAM plugin {path} cannot be run: {error.strerror}"
            ) from None
        with self._guard:
            self._running.add(process)
            if self._stopped:
                process.kill()
        try:
            yield process
        finally:
            with self._guard:
                self._running.discard(process)
            process.close()


def find_plugin(delegate: Delegate) -> str:
    """Return the first file of that name in CNI_PATH. Raises PluginMissingError."""
    for directory in delegate.directories:
        path = Path(directory, delegate.plugin)
        if path.is_file():
            if os.access(path, os.X_OK):
                return str(path)
            raise PluginMissingError(
                Code.INVALID_CONFIG, f"ipam.type {delegate.plugin!r}: {path} is not executable"
            )
    raise PluginMissingError(
        Code.INVALID_CONFIG,
        f"ipam.type {delegate.plugin!r} is in no directory of CNI_PATH"
        f" {shown(':'.join(delegate.directories))}",
    )


def _verdict(delegate: Delegate, verb: Verb, outcome: Outcome) -> JsonObject | None:
    """Return the result printed, if any. Raises the error that the plugin reports."""
    if outcome.status != 0:
        raise _reported_error(delegate, verb, outcome)
    if verb is not Verb.ADD and not outcome.stdout.lstrip().startswith(b"{"):
        return None  # these verbs have no result: SPEC.md wants the exit status only
    if not outcome.stdout.strip():
        return None
    try:
        document = decode(outcome.stdout, f"the answer of IPAM plugin {delegate.plugin}")
    except CniError as error:
        raise CniError(Code.DELEGATE_FAILED, str(error)) from None
    if "code" in document and "ips" not in document:
        raise _reported_error(delegate, verb, outcome)
    return document


def _reported_error(delegate: Delegate, verb: Verb, outcome: Outcome) -> CniError:
    try:
        document = decode(outcome.stdout, "the error")
    except CniError:
        return _failed(delegate, verb, _ending(outcome))
    code, message = document.get("code"), document.get("msg")
    if not isinstance(code, int) or isinstance(code, bool) or code < 1:
        return _failed(delegate, verb, _ending(outcome))
    details = document.get("details")
    return CniError(
        code,
        f"IPAM plugin {delegate.plugin}: {message}",
        details if isinstance(details, str) else "",
    )


def _ending(outcome: Outcome) -> str:
    said = (outcome.stdout.strip() or outcome.stderr.strip()).decode("utf-8", "replace")
    words = f" and said {shown(said)}" if said else " and said nothing"
    if outcome.status < 0:
        return f"died of {signal.Signals(-outcome.status).name}{words}"
    return f"ended with exit status {outcome.status}{words}"


def _failed(delegate: Delegate, verb: Verb, cause: str) -> CniError:
    return CniError(Code.DELEGATE_FAILED, f"IPAM plugin {delegate.plugin} {cause} at {verb}")
