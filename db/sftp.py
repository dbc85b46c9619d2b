"""SFTP that talks to known hosts alone."""

from __future__ import annotations

from fsspec.implementations.sftp import SFTPFileSystem
from paramiko import RejectPolicy, SSHClient


class KnownHostFileSystem(SFTPFileSystem):  # type: ignore[misc]
    """fsspec's SFTP takes any host for the right one; this one wants it in `~/.ssh/known_hosts`."""

    def _connect(self) -> None:
        """Connect with the user's keys or the ssh agent's. Raises paramiko's SSHException, OSError."""
        self.client = SSHClient()
        self.client.load_system_host_keys()
        self.client.set_missing_host_key_policy(RejectPolicy())
        self.client.connect(self.host, **self.ssh_kwargs)
        self.ftp = self.client.open_sftp()
