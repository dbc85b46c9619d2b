"""Fixtures of screening."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def pytorch(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Screen with PyTorch: many of these tests replace its computation."""
    monkeypatch.setenv("PNEUMOSCREEN_RUNTIME", "torch")


@pytest.fixture
def files(phantoms: Path) -> list[Path]:
    return sorted(path for path in phantoms.rglob("*") if path.is_file())


@pytest.fixture
def folder(phantoms: Path, tmp_path: Path) -> Path:
    """Copy the phantoms into a folder whose files a test may change."""
    shutil.copytree(phantoms, tmp_path / "ward")
    return tmp_path / "ward"
