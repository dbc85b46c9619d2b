"""Servers that hold images: a web server, S3 and SFTP."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import paramiko
import pytest

from tests.waiting import wait_for


class WebServer(SimpleHTTPRequestHandler):
    """A web server that lists folders, and fails on demand."""

    #: The number of requests that get an error before requests succeed again.
    failures = 0

    def do_GET(self) -> None:
        if type(self).failures > 0:
            type(self).failures -= 1
            self.send_error(503)
            return
        # A client that wants only the start of a file closes the connection early.
        with suppress(ConnectionError):
            super().do_GET()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    WebServer.failures = 0
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(WebServer, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@contextmanager
def s3_server(folder: Path) -> Iterator[str]:
    """Serve a folder's files as the objects of a bucket, and set the environment of its clients."""
    import boto3

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "--port", str(port)]
    where = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "for-tests",
        "AWS_SECRET_ACCESS_KEY": "for-tests",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    # In its own process: in the client's process it would mostly wait for the interpreter's lock.
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in where.items():
                patch.setenv(name, value)
            wait_for(lambda: _answers(port))
            client = boto3.client("s3")
            client.create_bucket(Bucket="study")
            for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                client.upload_file(str(path), "study", path.relative_to(folder).as_posix())
            yield "s3://study"
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


class _AnyKey(paramiko.ServerInterface):
    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED


class _Handle(paramiko.SFTPHandle):
    def stat(self) -> paramiko.SFTPAttributes:
        return paramiko.SFTPAttributes.from_stat(os.fstat(self.readfile.fileno()))


class _Files(paramiko.SFTPServerInterface):
    """Read access to this machine's files."""

    def list_folder(self, path: str) -> list[paramiko.SFTPAttributes] | int:
        try:
            return [
                paramiko.SFTPAttributes.from_stat(entry.stat(follow_symlinks=False), entry.name)
                for entry in os.scandir(path)
            ]
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    def stat(self, path: str) -> paramiko.SFTPAttributes | int:
        try:
            return paramiko.SFTPAttributes.from_stat(Path(path).stat())
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)

    lstat = stat

    def canonicalize(self, path: str) -> str:
        return os.path.realpath(path)

    def open(self, path: str, flags: int, attr: paramiko.SFTPAttributes) -> paramiko.SFTPHandle | int:
        try:
            handle = _Handle(flags)
            handle.readfile = Path(path).open("rb")  # noqa: SIM115  (the handle closes it)
        except OSError as error:
            return paramiko.SFTPServer.convert_errno(error.errno or 0)
        return handle


class SftpServer:
    """An SFTP server on loopback that accepts any user's key; `make_ssh_user` makes its own key known."""

    def __init__(self) -> None:
        self.key = paramiko.RSAKey.generate(2048)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.connections: list[paramiko.Transport] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            transport = paramiko.Transport(connection)
            transport.add_server_key(self.key)
            transport.set_subsystem_handler("sftp", paramiko.SFTPServer, _Files)
            transport.start_server(server=_AnyKey())
            self.connections.append(transport)

    def cut(self) -> None:
        """Close every connection."""
        for transport in self.connections:
            transport.close()
        self.connections.clear()

    def close(self) -> None:
        self._socket.close()
        self.cut()


def make_ssh_user(home: Path, server: SftpServer, *, known: bool) -> None:
    """Give a home folder a key and, if wanted, the server's key among its known hosts."""
    folder = home / ".ssh"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (folder / "id_rsa").exists():
        paramiko.RSAKey.generate(2048).write_private_key_file(str(folder / "id_rsa"))
    line = f"[127.0.0.1]:{server.port} {server.key.get_name()} {server.key.get_base64()}\n"
    (folder / "known_hosts").write_text(line if known else "")
