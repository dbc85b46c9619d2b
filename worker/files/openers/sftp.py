"""The opener of `sftp:` URLs: it connects to known hosts only, with the user's ssh keys or ssh agent."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from fsspec.implementations.sftp import SFTPFileSystem
from paramiko import RejectPolicy, SSHClient

from db.jobs.problems import OutsideRoots
from worker.files.opener import read_up_to
from worker.files.remote import TIMEOUT_SECONDS, RemoteOpener
from worker.files.roots import Roots


class SftpOpener(RemoteOpener):
    """Access to the files of SSH servers."""

    #: An SSH server accepts few connections at once (OpenSSH's MaxStartups).
    threads = 4

    def connect(self, url: str, roots: Roots) -> SFTPFileSystem:
        """Return this thread's connection: fsspec keeps one for each thread."""
        parts = urlsplit(url)
        user = {"username": parts.username} if parts.username else {}
        return KnownHostFileSystem(
            host=parts.hostname or "",
            port=parts.port or 22,
            timeout=TIMEOUT_SECONDS,
            folders=roots.folders_beside(url),
            **user,
        )

    def address(self, url: str, name: str) -> str:
        """Return the URL of a file: fsspec lists its path."""
        return f"sftp://{urlsplit(url).netloc}{name}"

    def fetch(self, files: SFTPFileSystem, path: str, size: int) -> bytes:
        """Return the first bytes of a file. Without prefetching, each 32 KiB would wait for the last ones."""
        with files.open(path, "rb") as file:
            file.prefetch(min(file.stat().st_size, size))
            return read_up_to(file, size)


class KnownHostFileSystem(SFTPFileSystem):  # type: ignore[misc]
    """fsspec's SFTP, which accepts any host key; this class requires one of `~/.ssh/known_hosts`."""

    def __init__(self, host: str, *, folders: tuple[str, ...] | None, **ssh: Any) -> None:
        """Read only files that lie below `folders` after the server has resolved links; None: everywhere."""
        self._folders = folders
        super().__init__(host, **ssh)

    def _connect(self) -> None:
        """Connect. Raises paramiko's SSHException, OSError."""
        self.client = SSHClient()
        self.client.load_system_host_keys()
        self.client.set_missing_host_key_policy(RejectPolicy())
        self.client.connect(self.host, **self.ssh_kwargs)
        self.ftp = self.client.open_sftp()

    def ls(self, path: str, detail: bool = False) -> list[Any]:
        """List a folder. Raises OutsideRoots, OSError."""
        self._check(path)
        found: list[Any] = super().ls(path, detail=detail)
        return found

    def info(self, path: str) -> dict[str, Any]:
        """Return what the server says about a file. Raises OutsideRoots, OSError."""
        self._check(path)
        found: dict[str, Any] = super().info(path)
        return found

    def exists(self, path: str, **_: Any) -> bool:
        """Whether there is such a file or folder. Raises OutsideRoots, OSError."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def _open(self, path: str, *arguments: Any, **options: Any) -> Any:
        self._check(path)
        return super()._open(path, *arguments, **options)

    def _check(self, path: str) -> None:
        """Raise OutsideRoots if a path, after the server has resolved its links, lies in no root."""
        if self._folders is None:
            return
        real = PurePosixPath(self.ftp.normalize(self._strip_protocol(path)))
        # A root may be a link itself.
        if not any(real.is_relative_to(self.ftp.normalize(folder)) for folder in self._folders):
            raise OutsideRoots


OPENER = SftpOpener()
