"""Files that a schedule knows from earlier nights: they are opened again only if they have changed."""

from __future__ import annotations

import os
import shutil
from io import FileIO
from pathlib import Path

import pytest

from db.engine import Database
from db.jobs.problems import FileUnreadable
from scheduler.exports.archive import prune
from scheduler.nightly.schedule import Nightly
from tests.scheduler.nightly.nights import end, screen, taken_in, walk
from worker.files.openers.file import open_file
from worker.files.roots import Roots


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Record the names of the files that are opened."""
    names: list[str] = []

    def noted(path: Path, roots: Roots) -> FileIO:
        names.append(path.name)
        return open_file(path, roots)

    monkeypatch.setattr("scheduler.ingest.sources.folder.open_file", noted)
    return names


def test_a_night_without_new_files_opens_nothing(
    with_champion: Database, ward: Nightly, folder: Path, opened: list[str]
) -> None:
    (folder / "report.pdf").write_bytes(b"%PDF")
    (folder / "IM0001").write_bytes(b"a file without a suffix that is not DICOM")
    (folder / ".DS_Store").touch()
    first = walk(with_champion, ward)
    assert sorted(opened) == ["0.png", "1.png", "2.png", "IM0001", "report.pdf"]
    screen(with_champion, first, [0.1, 0.1, 0.1])
    opened.clear()
    walk(with_champion, ward)
    assert opened == []
    prune(with_champion, folder.parent / "archive", days=-1)
    walk(with_champion, ward)
    assert opened == [], "after archiving, files of the cohort were opened again"


def test_a_file_that_was_no_image_is_looked_at_again_once_it_has_changed(
    with_champion: Database, ward: Nightly, folder: Path, phantoms: Path, opened: list[str]
) -> None:
    (folder / "IM0001").write_bytes(b"half a preamble")
    walk(with_champion, ward)
    opened.clear()
    shutil.copy(next((phantoms / "dicom").rglob("IM0001")), folder / "IM0001")
    assert taken_in(with_champion, walk(with_champion, ward)) == ["IM0001"]
    assert opened == ["IM0001"]


def test_a_file_that_could_not_be_read_is_tried_again_the_next_night(
    with_champion: Database, ward: Nightly, folder: Path, phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(next((phantoms / "dicom").rglob("IM0001")), folder / "IM0001")
    with monkeypatch.context() as patch:

        def failing(path: Path, roots: Roots) -> FileIO:
            if path.name == "IM0001":
                raise FileUnreadable
            return open_file(path, roots)

        patch.setattr("scheduler.ingest.sources.folder.open_file", failing)
        assert "IM0001" not in taken_in(with_champion, walk(with_champion, ward))
    assert taken_in(with_champion, walk(with_champion, ward)) == ["IM0001"]


@pytest.mark.parametrize("archived", [False, True])
def test_a_file_that_changed_since_it_was_taken_in_is_new(
    with_champion: Database, ward: Nightly, folder: Path, archived: bool
) -> None:
    first = walk(with_champion, ward)
    screen(with_champion, first, [0.1, 0.1])  # 2.png was half copied, and failed
    end(with_champion, ward, first)
    if archived:
        prune(with_champion, folder.parent / "archive", days=-1)
    (folder / "2.png").write_bytes(b"and now the whole of it: not looked at before it is screened")
    status = (folder / "0.png").stat()
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[::-1])  # other bytes, of the same number
    os.utime(folder / "0.png", (status.st_atime, status.st_mtime + 5))
    second = walk(with_champion, ward)
    assert taken_in(with_champion, second) == ["0.png", "2.png"]
    screen(with_champion, second, [0.9, 0.9])
    figures = end(with_champion, ward, second)
    assert (figures["new"], figures["done"], figures["failed"]) == (2, 2, {})
    third = walk(with_champion, ward)
    assert taken_in(with_champion, third) == []
