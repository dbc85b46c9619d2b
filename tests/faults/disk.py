"""A small disk, to be filled."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


class Disk:
    """A tmpfs of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Leave no room at all."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (1_000_000, 4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    def make_room(self) -> None:
        self._ballast.unlink()

    def lock(self, *, locked: bool) -> None:
        """Let nobody write to it, or everybody again; nothing of it may be open for writing."""
        how = "ro" if locked else "rw"
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.folder)], check=True)


@contextmanager
def small_disk(folder: Path, *, mebibytes: int) -> Iterator[Disk]:
    """Mount one; skips the test where that is not allowed."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small disk; SQLite's own limit is tested everywhere")
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)], check=True)
    try:
        yield Disk(folder)
    finally:
        # Lazily: what a failed test has left running must not keep it.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)
