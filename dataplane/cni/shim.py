#!/usr/bin/python3 -IS
"""overweave-cni, the program runtimes execute: carries a request to the agent and back.

Started for every pod, so it imports only what is compiled into the interpreter: no json, no os, no
struct. It judges nothing; the agent does. What it must do without the agent: answer VERSION, find
the socket, say that the agent is away, and keep a DEL in a file until the agent is back.
The bytes on the socket are described in framing.py.
"""

import _socket
import posix

SOCKET = b"/run/overweave/cni.sock"  # unless the configuration names another: "agentSocket"
GREETING = b"overweave-cni/1\n"
VERSIONS = (b"0.3.1", b"0.4.0", b"1.0.0", b"1.1.0")
MAX_CONFIG = 1 << 20
CONNECT_S = 1.0
GREETING_S = 5.0  # the agent greets at once; only one that hangs, or has hundreds waiting, does not
ANSWER_S = 55.0  # longer than the agent takes, shorter than runtimes wait
MAX_TOMBSTONES = 1024  # more than the attachments of a node
NAME_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-"

CODE_ENVIRONMENT = 4
CODE_IO_FAILURE = 5
CODE_TRY_AGAIN = 11
CODE_NOT_AVAILABLE = 50


class AgentError(Exception):
    """The agent cannot be asked, or gave no answer; the text says why."""


def main() -> int:
    """Serve one invocation and return the exit status."""
    environment = posix.environ
    command = environment.get(b"CNI_COMMAND", b"")
    if not command:  # a person typed the name: do not wait for the end of stdin
        return print_error(CODE_ENVIRONMENT, "CNI_COMMAND is missing or empty", b"")
    try:
        config = read_all(0, MAX_CONFIG + 1)
    except OSError as error:
        return print_error(CODE_IO_FAILURE, f"stdin cannot be read: {error}", b"")
    if command == b"VERSION":
        return answer_version(config)
    path = top_level_text(config, b"agentSocket") or SOCKET
    request = pack(environment, config)
    try:
        status, stdout, stderr = ask(path, request)
    except (OSError, ValueError, AgentError) as error:
        return without_agent(command, path, request, sentence(path, error), config)
    write_all(1, stdout)
    write_all(2, stderr)
    return status


def pack(environment: dict[bytes, bytes], config: bytes) -> bytes:
    """Return the request as it is sent, and kept."""
    block = b"\0".join(name + b"=" + value for name, value in environment.items())
    return b"%d %d\n" % (len(block), len(config)) + block + config


def ask(path: bytes, request: bytes) -> tuple[int, bytes, bytes]:
    """Return the agent's answer to ``request``: exit status, stdout, stderr."""
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    connection.settimeout(CONNECT_S)
    connection.connect(path)
    credentials = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)
    owner = memoryview(credentials).cast("i")[1]  # struct ucred: pid, uid, gid
    if owner not in (0, posix.geteuid()):
        raise AgentError(f"it belongs to user {owner}")
    # Nothing is sent before the greeting: an agent that hangs must not act on this much later.
    connection.settimeout(GREETING_S)
    if receive(connection, len(GREETING)) != GREETING:
        raise AgentError("it speaks another protocol: install the overweave-cni of its version")
    connection.settimeout(ANSWER_S)
    connection.sendall(request)
    header = b""
    while header[-1:] != b"\n":
        header += receive(connection, 1)
    status, stdout, stderr = [int(part) for part in header.split()]
    return status, receive(connection, stdout), receive(connection, stderr)


def receive(connection: _socket.socket, length: int) -> bytes:
    """Return ``length`` bytes of the agent's."""
    data = b""
    while len(data) < length:
        chunk = connection.recv(length - len(data))
        if not chunk:
            raise AgentError("it ended the connection without an answer")
        data += chunk
    return data


def without_agent(command: bytes, path: bytes, request: bytes, cause: str, config: bytes) -> int:
    """Answer in the agent's place: DEL succeeds if it could be kept, all else must wait."""
    if command == b"DEL":
        try:
            bury(path, request)
        except (OSError, AgentError) as error:
            cause = f"{cause}; the DEL could not be kept for later: {error}"
        else:
            return 0
    code = CODE_NOT_AVAILABLE if command == b"STATUS" else CODE_TRY_AGAIN
    return print_error(code, cause, config)


def print_error(code: int, message: str, config: bytes) -> int:
    """Print a CNI error object and return the exit status."""
    plain = ascii(message)[1:-1].replace("\\", "\\\\").replace('"', '\\"')
    text = '{"cniVersion": "%s", "code": %d, "msg": "%s"}\n'
    write_all(1, (text % (version_of(config).decode(), code, plain)).encode())
    return 1


def bury(path: bytes, request: bytes) -> None:
    """Keep a DEL in a file, one per attachment, that the agent replays (tombstones.py)."""
    container = posix.environ.get(b"CNI_CONTAINERID", b"")
    name = container + b"@" + posix.environ.get(b"CNI_IFNAME", b"")
    if not container[:1].isalnum() or len(name) > 255 or name.translate(None, NAME_BYTES) != b"@":
        raise AgentError("CNI_CONTAINERID or CNI_IFNAME is not valid")
    parent = path.rpartition(b"/")[0]
    directory = parent + b"/tombstones"
    for needed in (parent, directory):
        try:  # noqa: SIM105 - contextlib takes longer to load than all of this
            posix.mkdir(needed, 0o700)
        except FileExistsError:
            pass
    found = posix.lstat(directory)
    if found.st_uid != posix.geteuid() or found.st_mode != 0o40700:  # a directory, rwx------
        raise AgentError("its directory for that is not a directory only this user can enter")
    if len(posix.listdir(directory)) >= MAX_TOMBSTONES:
        raise AgentError(f"{MAX_TOMBSTONES} are kept already")
    draft = b"%s/.%d" % (directory, posix.getpid())
    flags = posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC | posix.O_NOFOLLOW
    descriptor = posix.open(draft, flags, 0o600)
    write_all(descriptor, request)
    posix.fsync(descriptor)
    posix.rename(draft, directory + b"/" + name)
    posix.fsync(posix.open(directory, posix.O_RDONLY))


def answer_version(config: bytes) -> int:
    """Print what is supported; this must work without the agent."""
    text = b'{"cniVersion": "%s", "supportedVersions": ["%s"]}\n'
    write_all(1, text % (version_of(config), b'", "'.join(VERSIONS)))
    return 0


def version_of(config: bytes) -> bytes:
    """Return the version to answer in."""
    version = top_level_text(config, b"cniVersion")
    return version if version in VERSIONS else VERSIONS[-1]


def top_level_text(config: bytes, key: bytes) -> bytes | None:
    """Return the string under ``key`` of the JSON object itself, not of one inside it.

    Escapes are not decoded: a path with one is reached by no socket, and the error shows it.
    """
    quoted = b'"' + key + b'"'
    if quoted not in config:
        return None
    depth = position = 0
    while position < len(config):
        byte = config[position : position + 1]
        if byte == b'"':
            end = text_end(config, position)
            if depth == 1 and config[position:end] == quoted:
                rest = config[end : end + 512].lstrip()
                value = rest[1:].lstrip()
                if rest[:1] == b":" and value[:1] == b'"':
                    return value[1 : text_end(value, 0) - 1]
            position = end
            continue
        if byte in b"{[":
            depth += 1
        elif byte in b"}]":
            depth -= 1
        position += 1
    return None


def text_end(config: bytes, start: int) -> int:
    """Return the position after the JSON string that begins at ``start``."""
    position = start + 1
    while True:
        quote = config.find(b'"', position)
        if quote < 0:
            return len(config)
        escape = config.find(b"\\", position, quote)
        if escape < 0:
            return quote + 1
        position = escape + 2


def sentence(path: bytes, error: Exception) -> str:
    """Say what is wrong with the agent."""
    cause = str(error)
    if isinstance(error, TimeoutError):
        cause = "it did not answer in time"
    elif isinstance(error, OSError) and error.errno:
        cause = posix.strerror(error.errno) + "; is it running?"
    where = path.decode("utf-8", "backslashreplace")
    return f"the Overweave agent cannot be asked at {where}: {cause}"


def read_all(descriptor: int, at_most: int) -> bytes:
    """Return what is to be read, ``at_most`` bytes of it."""
    data = b""
    while len(data) < at_most:
        chunk = posix.read(descriptor, at_most - len(data))
        if not chunk:
            break
        data += chunk
    return data


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of ``data``."""
    while data:
        data = data[posix.write(descriptor, data) :]


if __name__ == "__main__":
    posix._exit(main())  # noqa: SLF001 - ends at once, without tearing the interpreter down
