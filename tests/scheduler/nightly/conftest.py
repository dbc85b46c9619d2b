"""Fixtures of nightly screening: a folder of three files, its schedule, and a champion."""

from __future__ import annotations

from pathlib import Path

import pytest

from db.engine import Database
from db.models.registry import ensure_champion
from scheduler.nightly.schedule import Nightly


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "ward"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.png").write_bytes(b"not looked at before it is screened")
    return source


@pytest.fixture
def ward(folder: Path) -> Nightly:
    return Nightly(name="ward", source=str(folder))


@pytest.fixture
def with_champion(database: Database, home: Path, artefact: Path) -> Database:
    ensure_champion(database, artefact)
    return database
