"""The fixture of a running system for tests of faults."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.system import System, running_system


@pytest.fixture
def system(
    database_url: str, artefact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[System]:
    with running_system(database_url, artefact, tmp_path / "x-rays", monkeypatch) as running:
        yield running
