"""SFTP that talks to known hosts alone, and reads nothing outside the roots."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from fsspec.implementations.sftp import SFTPFileSystem
from paramiko import RejectPolicy, SSHClient

from db.jobs.problems import OutsideRoots


class KnownHostFileSystem(SFTPFileSystem):  # type: ignore[misc]
    """fsspec's SFTP takes any host for the right one; this one wants it in `~/.ssh/known_hosts`."""

    def __init__(self, host: str, *, folders: tuple[str, ...] | None, **ssh: Any) -> None:
        """`folders` are those that hold whatever is read, by what the server says of links; None: any."""
        self._folders = folders
        super().__init__(host, **ssh)

    def _connect(self) -> None:
        """Connect with the user's keys or the ssh agent's. Raises paramiko's SSHException, OSError."""
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
        """Return what is known of a file. Raises OutsideRoots, OSError."""
        self._check(path)
        found: dict[str, Any] = super().info(path)
        return found

    def exists(self, path: str, **_: Any) -> bool:
        """Tell whether something is there. Raises OutsideRoots, OSError."""
        try:
            self.info(path)
        except FileNotFoundError:
            return False
        return True

    def _open(self, path: str, *how: Any, **more: Any) -> Any:
        self._check(path)
        return super()._open(path, *how, **more)

    def _check(self, path: str) -> None:
        """Raise OutsideRoots where the server says that a path, links followed, lies in no such folder."""
        if self._folders is None:
            return
        real = PurePosixPath(self.ftp.normalize(self._strip_protocol(path)))
        # A root may be a link itself.
        if not any(real.is_relative_to(self.ftp.normalize(folder)) for folder in self._folders):
            raise OutsideRoots
