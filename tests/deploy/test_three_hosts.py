"""Screening on three hosts, of which one is disconnected from the network for a while."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.three_hosts import may_make_namespaces, play

pytestmark = pytest.mark.skipif(not may_make_namespaces(), reason="network namespaces are not permitted")


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that PostgreSQL's user can reach; pytest's own folder is closed to it."""
    folder = Path(tempfile.mkdtemp(prefix="pneumoscreen-hosts-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_every_image_is_screened_once_although_a_host_is_disconnected(
    open_folder: Path, artefact: Path
) -> None:
    found: dict[str, Any] = play(open_folder, artefact, 400)
    assert (found["total"], found["done"], found["failed"], found["skipped"]) == (400, 400, 0, 0)
    assert found["predictions"] == 400
    assert set(found["shares"]) == {"one", "two"}
    assert found["attempts"] > 1, "no lease expired while the host was disconnected"
