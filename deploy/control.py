"""The control socket of the embedded stack's supervisord."""

from __future__ import annotations

import http.client
import os
import socket
import struct
from pathlib import Path
from typing import Any
from xmlrpc.client import Fault, ServerProxy, Transport

from db.errors import PneumoscreenError

#: In the `run` folder of the data directory, which only its owner can enter.
SOCKET = "supervisor.sock"

#: Seconds to wait for an answer. supervisord answers in milliseconds; if it is stopped or hangs, it must not
#: block a command for ever.
_ANSWER_SECONDS = 30.0
#: Linux' `struct ucred`: pid, uid, gid.
_CREDENTIALS = struct.Struct("3i")


class StackNotRunning(PneumoscreenError):
    """The embedded stack is not running. Start it with `pneumoscreen up`."""

    code = "stack-not-running"


class StackHung(StackNotRunning):
    """The embedded stack's supervisord does not answer. `pneumoscreen down` stops it and its processes."""

    code = "stack-hung"


class StackNotOurs(PneumoscreenError):
    """The embedded stack belongs to another user. Run the command as that user, or set PNEUMOSCREEN_HOME."""

    code = "stack-not-ours"


class Control:
    """The connection to supervisord: a socket in `run`, whose owner is checked at every call."""

    def __init__(self, run: Path) -> None:
        self._run = run

    def call(self, method: str, *arguments: object, waits: bool = False) -> Any:
        """Return supervisord's answer, without a time limit if the answer `waits` for a process.

        Raises StackNotRunning, StackHung, StackNotOurs.
        """
        try:
            with self._connect() as connection:
                connection.settimeout(None if waits else _ANSWER_SECONDS)
                server = ServerProxy("http://localhost", transport=_OneConnection(connection))
                return getattr(server.supervisor, method)(*arguments)
        except TimeoutError:
            raise StackHung from None
        except (OSError, Fault, http.client.HTTPException):
            raise StackNotRunning from None

    def is_gone(self) -> bool:
        """Tell whether supervisord has ended: nothing listens on its socket. Raises StackNotOurs."""
        try:
            self._connect().close()
        except OSError:
            return True
        return False

    def _connect(self) -> socket.socket:
        """Return a connection whose other end belongs to our own user. Raises OSError, StackNotOurs."""
        folder = os.open(self._run, os.O_RDONLY | os.O_DIRECTORY)
        try:
            check_folder(folder)
            # A socket's path may have about 100 bytes, and the path of a data directory may be longer.
            through = Path(f"/proc/self/fd/{folder}")
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str((through if through.exists() else self._run) / SOCKET))
                _check_peer(connection)
            except BaseException:
                connection.close()
                raise
            return connection
        finally:
            os.close(folder)


def check_folder(folder: int) -> None:
    """Refuse a folder that another user owns or can write to: that user could pose as supervisord.

    Raises StackNotOurs.
    """
    status = os.fstat(folder)
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise StackNotOurs


def _check_peer(connection: socket.socket) -> None:
    if not hasattr(socket, "SO_PEERCRED"):  # not Linux: only the folder's owner can be checked
        return
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(credentials)
    if user != os.geteuid():
        raise StackNotOurs


class _OneConnection(Transport):
    """XML-RPC over a connection that is open already."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connected = connection

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self._connected
        return connection
