"""Archives: each one has its own file name, and is read back before rows are deleted."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from openpyxl import load_workbook
from pydantic import SecretStr
from sqlalchemy import func, select, update

from db.audit.chain import newest
from db.engine import Database
from db.jobs.cohorts import find_cohort, mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.jobs.problems import CorruptImage
from db.settings import DatabaseSettings
from db.states import ImageState
from db.tables import Cohort, Image, Study
from db.upkeep.archive import archivable
from db.upkeep.migrate import upgrade
from scheduler.exports.archive import ArchiveDamaged, prune
from scheduler.exports.results import OutputUnwritable, write_results


def take_in(database: Database, name: str, images: int) -> None:
    """Store an old cohort whose images have all failed."""
    with database.write() as session:
        cohort = open_cohort(session, name, source="/data")
        broken = {"state": ImageState.FAILED, "problem": CorruptImage.code}
        new = [NewImage(uri=f"/data/{number}.png", **broken) for number in range(images)]  # type: ignore[arg-type]
        add_images(session, cohort.id, new)
        mark_ready(session, cohort.id)
        session.execute(update(Cohort).values(created_at=1.0))


def count(database: Database) -> int:
    with database.read() as session:
        return session.scalars(select(func.count()).select_from(Image)).one()


def test_two_homes_that_share_a_folder_lose_no_cohort(database: Database, tmp_path: Path) -> None:
    other = Database(DatabaseSettings(database_url=SecretStr(f"sqlite:///{tmp_path / 'other.db'}")))
    upgrade(other)
    take_in(database, "ward 7", 3)
    take_in(other, "ward 7", 5)
    moved = [*prune(database, tmp_path / "archive", days=5), *prune(other, tmp_path / "archive", days=5)]
    other.close()
    assert [one.rows for one in moved] == [3, 5]
    assert {one.file for one in moved} == set((tmp_path / "archive").iterdir())
    assert [pq.read_table(one.file).num_rows for one in moved] == [3, 5]
    assert all(one.file.name.startswith("ward-7-") for one in moved)


#: Names of cohorts, each with the beginning of its archive's file name.
NAMES = {
    "../../etc/passwd": "etc-passwd-",
    "Füße & Köln/2026": "fue-koln-2026-",
    "\x1b[2J": "2j-",
    "肺炎": "cohort-",
    "...": "cohort-",
    "x" * 200: "x" * 60 + "-",
}


def test_a_file_is_named_after_its_cohort_whatever_that_is_called(
    job_table: Database, tmp_path: Path
) -> None:
    for number, name in enumerate(NAMES):
        take_in(job_table, f"cohort {number}", 1)
        with job_table.write() as session:  # an earlier version allowed such names
            find_cohort(session, f"cohort {number}").name = name
    moved = prune(job_table, tmp_path / "archive", days=5)
    assert {one.file for one in moved} == set((tmp_path / "archive").iterdir())
    for one, (name, beginning) in zip(moved, NAMES.items(), strict=True):
        assert one.file.name.startswith(beginning)
        assert pq.read_table(one.file).to_pylist()[0]["cohort"] == name


def test_an_existing_file_of_the_same_name_is_never_replaced(
    job_table: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import scheduler.exports.archive as module

    monkeypatch.setattr(module, "_file_name", lambda _: "same.parquet")
    (tmp_path / "same.parquet").write_bytes(b"somebody else's")
    take_in(job_table, "trial", 3)
    with pytest.raises(OutputUnwritable):
        prune(job_table, tmp_path, days=5)
    assert (tmp_path / "same.parquet").read_bytes() == b"somebody else's"
    assert count(job_table) == 3


@pytest.mark.parametrize("damage", ["cut off", "changed", "emptied", "fewer rows"])
def test_an_archive_that_does_not_read_back_deletes_no_row(
    job_table: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    import scheduler.exports.archive as module

    real = module._write

    def write(*arguments: object) -> object:
        if damage == "fewer rows":
            monkeypatch.setattr(module, "archive_rows", lambda *_: iter(()))
        written = real(*arguments)  # type: ignore[arg-type]
        file = arguments[-1]
        assert isinstance(file, Path)
        content = file.read_bytes()
        if damage == "cut off":
            file.write_bytes(content[:-9])
        elif damage == "changed":
            file.write_bytes(content[:50] + bytes([content[50] ^ 1]) + content[51:])
        elif damage == "emptied":
            file.write_bytes(b"")
        return written

    monkeypatch.setattr(module, "_write", write)
    take_in(job_table, "trial", 3)
    with pytest.raises(ArchiveDamaged):
        prune(job_table, tmp_path / "archive", days=5)
    assert count(job_table) == 3
    assert [*(tmp_path / "archive").iterdir()] == []


def test_an_archive_holds_the_accession_numbers_that_were_kept(database: Database, tmp_path: Path) -> None:
    take_in(database, "trial", 1)
    with database.write() as session:
        cohort = find_cohort(session, "trial")
        session.add(Study(cohort_id=cohort.id, study_uid="1.2", accession="A-1"))
        session.flush()
        session.execute(update(Image).values(study_id=select(Study.id).scalar_subquery()))
    (moved,) = prune(database, tmp_path / "archive", days=5)
    assert [row["accession"] for row in pq.read_table(moved.file).to_pylist()] == ["A-1"]
    with database.read() as session:
        assert session.scalars(select(Study)).all() == []


def test_the_audit_log_names_the_file_of_an_archive(database: Database, tmp_path: Path) -> None:
    take_in(database, "trial", 3)
    (moved,) = prune(database, tmp_path / "archive", days=5)
    with database.read() as session:
        event = newest(session, subject=None, limit=1)[0]
    assert event.action == "cohort.archive"
    digest = hashlib.sha256(moved.file.read_bytes()).hexdigest()
    assert event.detail == {"rows": 3, "file": moved.file.name, "digest": digest}


@pytest.mark.parametrize("suffix", ["csv", "json", "parquet", "xlsx"])
def test_two_exports_to_one_file_at_once_are_whole_and_each_says_what_it_wrote(
    job_table: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    import scheduler.exports.results as module

    take_in(job_table, "long", 40)
    take_in(job_table, "short", 3)
    (tmp_path / "out").mkdir()
    out, real, said = tmp_path / "out" / f"r.{suffix}", module.cohort_results, []

    def meanwhile(*arguments: object, **options: object) -> object:
        for number, row in enumerate(real(*arguments, **options)):  # type: ignore[arg-type]
            if number == 20:
                said.append(write_results(job_table, "short", out))
                assert rows_of(out) == 3
            yield row

    monkeypatch.setattr(module, "cohort_results", meanwhile)
    said.append(write_results(job_table, "long", out))
    assert said == [3, 40]
    assert rows_of(out) == 40
    assert [*out.parent.iterdir()] == [out]


def rows_of(file: Path) -> int:
    if file.suffix == ".parquet":
        return int(pq.read_table(file).num_rows)
    if file.suffix == ".xlsx":
        return int(load_workbook(file)["results"].max_row) - 1
    return sum("corrupt-image" in line for line in file.read_text().splitlines())


def test_a_dry_run_names_what_would_be_archived_and_moves_nothing(database: Database, tmp_path: Path) -> None:
    take_in(database, "ward 7", 3)
    with database.read() as session:
        (found,) = archivable(session, older_than_seconds=5 * 86_400)
        assert (found.counts.name, found.rows) == ("ward 7", 3)
        assert archivable(session, older_than_seconds=10**10) == []
    assert count(database) == 3
    assert [one.rows for one in prune(database, tmp_path / "archive", days=5)] == [found.rows]
    with database.read() as session:
        assert archivable(session, older_than_seconds=0) == []
