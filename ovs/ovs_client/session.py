"""A session of the OVSDB client library as we want it: quick to return, and it says what is wrong.

Importing this also sets the library up for the whole process: poll(2), our parser, its errors in
the log.
"""

from __future__ import annotations

import os

import ovs.json
import ovs.jsonrpc
import ovs.poller
import ovs.reconnect
import ovs.timeval
from ovsdbapp.backend.ovs_idl import vlog

from ovs_client.fast_json import Parser
from ovs_client.rows import Disconnected

_MIN_BACKOFF_MS = 100
_MAX_BACKOFF_MS = 500
_PROBE_MS = 5000

# The library's default is select(2), which fails once a file descriptor exceeds 1023.
ovs.poller.SelectPoll = ovs.poller.get_system_poll
if ovs.json.PARSER == ovs.json.PARSER_PY:
    ovs.json.Parser = Parser
vlog.use_python_logger(max_level=vlog.ERROR)  # else it keeps a row it cannot parse to itself


class Policy(ovs.reconnect.Reconnect):
    """Retry within half a second, probe every kind of server, remember why there is no service."""

    def __init__(self) -> None:
        super().__init__(ovs.timeval.msec())
        self.min_backoff = _MIN_BACKOFF_MS  # set_backoff() takes no less than a second
        self.max_backoff = _MAX_BACKOFF_MS
        self.set_probe_interval(_PROBE_MS)
        self.cause: Disconnected | None = None

    def disconnected(self, now: int, error: int) -> None:
        """Note the cause and go on as the library does; ``error`` is an errno, EOF or 0."""
        if error > 0:
            self.cause = Disconnected(os.strerror(error))
        elif error == ovs.reconnect.EOF:
            self.cause = Disconnected("the server closed the connection")
        elif self.state is not ovs.reconnect.Reconnect.Reconnect:  # in that state we hung up
            self.cause = Disconnected("it does not answer")
        super().disconnected(now, error)


def open_session(remotes: list[str]) -> ovs.jsonrpc.Session:
    """Return a session like the library's own, with our policy of reconnecting."""
    policy = Policy()
    session = ovs.jsonrpc.Session(policy, None, remotes)
    session.pick_remote()
    policy.enable(ovs.timeval.msec())
    policy.set_backoff_free_tries(len(remotes))
    return session
