"""Backup and restore within and across kinds of database; archives of cohorts."""

from __future__ import annotations

import json
import os
import stat
import tarfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import Effort, NotScreened, claim, complete
from db.jobs.cohorts import CohortArchived, find_cohort, mark_ready, open_cohort, retry
from db.jobs.images import NewImage, add_images
from db.jobs.problems import CorruptImage
from db.models.predictions import Provenance, Screened
from db.models.registry import ensure_champion, find_champion
from db.models.store import CARD_FILE, STATISTICS_FILE, WEIGHTS_FILE
from db.nights.seen import Stamp, seen_uris
from db.queries.counts import count_images
from db.queries.progress import progress
from db.settings import DatabaseSettings
from db.tables import Batch, Cohort, Image, ImageCount, LabelClass, Prediction, Table
from db.training.labels import Reading, add_readings
from db.upkeep.backup import BackupUnreadable, BackupUnwritable, DatabaseNotEmpty, backup, restore
from db.upkeep.counters import compare
from db.upkeep.migrate import current_revision, head_revision, upgrade
from scheduler.exports.archive import Archived, prune
from scheduler.exports.results import OutputUnwritable, write_results
from scheduler.ingest.pseudonym import ensure_site_key


def screen(session: Session, batch_id: int, *, bad: int) -> None:
    """Claim a batch and predict its images, except the last `bad` ones, which fail."""
    claimed = claim(session, batch_id, owner="tester", lease_seconds=60)
    assert claimed is not None
    ids = [item.image_id for item in claimed.images]
    good = len(ids) - bad
    complete(
        session,
        claimed,
        [
            Screened(
                image_id=one,
                probability=0.1234567890123,
                label="NORMAL",
                precision="bf16",
                input_digest="d",
                types={"VIRAL": 0.1},
            )
            for one in ids[:good]
        ],
        [NotScreened(one, CorruptImage()) for one in ids[good:]],
        Provenance(threshold=0.5, runtime="r", preprocessing="p", software="s"),
        Effort(decode_seconds=0.1, forward_seconds=0.2, gpu_memory_bytes=None),
    )


@pytest.fixture
def filled(database: Database, knowing_artefact: Path) -> Database:
    """Fill a job table with a finished and an unfinished cohort."""
    ensure_champion(database, knowing_artefact)
    ensure_site_key(database)
    with database.write() as session:
        for name, cut in (("done", True), ("open", False)):
            cohort = open_cohort(session, name, source="/data")
            places = ((f"/data/{number}.dcm", f"1.{number}") for number in range(3))
            images = [NewImage(uri=uri, study_uid="1.2", instance_uid=uid) for uri, uid in places]
            add_images(session, cohort.id, images)
            mark_ready(session, cohort.id)
            if cut:
                (batch_id,) = cut_batches(session, cohort.id, batch_images=9, in_flight=1)
                screen(session, batch_id, bad=1)
        add_readings(session, [Reading(digest="0" * 64, class_name=LabelClass.VIRAL, reader="A", source="f")])
    return database


def rows(database: Database) -> dict[str, list[tuple[object, ...]]]:
    """Return all rows of a database, but of the counters only their sums."""
    with database.read() as session:
        found = {
            table.name: [tuple(row) for row in session.execute(select(table).order_by(*table.primary_key))]
            for table in Table.metadata.sorted_tables
        }
        return found | {ImageCount.__tablename__: sorted(count_images(session).items())}


@pytest.fixture
def elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Callable[[str], Database]:
    """Return a function that makes an empty data directory with a database of a kind."""

    def make(kind: str) -> Database:
        from tests.conftest import postgres_url

        home = tmp_path / "elsewhere"
        monkeypatch.setenv("PNEUMOSCREEN_HOME", str(home))
        url = f"sqlite:///{home / 'x.db'}"
        if kind == "postgresql":
            url = postgres_url(request.getfixturevalue("postgres"), "restored")
        database = Database(DatabaseSettings(database_url=url))  # type: ignore[arg-type]
        request.addfinalizer(database.close)
        return database

    return make


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_backup_is_restored_into_either_kind_of_database(
    filled: Database, elsewhere: Callable[[str], Database], kind: str, tmp_path: Path, home: Path
) -> None:
    file = tmp_path / "b.tar"
    contents = backup(filled, file)
    assert contents.rows["images"] == 6
    assert file.stat().st_mode & 0o077 == 0
    before = rows(filled)
    other = elsewhere(kind)
    restore(other, file)
    restored = rows(other)
    assert restored["events"][-1][3] == "database.restore"
    assert restored | {"events": restored["events"][:-1]} == before
    restore(other, file)  # again, before any other change
    assert rows(other) == restored
    assert current_revision(other) == head_revision()
    assert (tmp_path / "elsewhere" / "site.key").read_bytes() == (home / "site.key").read_bytes()
    with other.read() as session:
        assert compare(session) == []
        champion = find_champion(session)
        assert champion is not None
        for name in (CARD_FILE, STATISTICS_FILE, WEIGHTS_FILE):
            files = (where.models_folder / champion.name / name for where in (filled, other))
            assert len({file.read_bytes() for file in files}) == 1
    with other.write() as session:  # new rows get new ids
        cohort = open_cohort(session, "later", source="/data")
        assert cohort.id == 3
        assert add_images(session, cohort.id, [NewImage(uri="/new.png")]) == 1
    with pytest.raises(DatabaseNotEmpty):
        restore(other, file)


def test_a_backup_of_an_older_version_is_upgraded(
    home: Path, elsewhere: Callable[[str], Database], tmp_path: Path
) -> None:
    old = Database()
    upgrade(old, to="0001")
    with old.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO cohorts (name, source, priority, state, created_at)"
            " VALUES ('c', '/d', 0, 'ready', 1.5)"
        )
    backup(old, tmp_path / "old.tar")
    new = elsewhere("sqlite")
    upgrade(new)  # a newer revision, but empty
    restore(new, tmp_path / "old.tar")
    assert current_revision(new) == head_revision()
    with new.read() as session:
        assert find_cohort(session, "c").nightly is None


def test_an_invalid_backup_is_refused_and_no_file_is_overwritten(
    filled: Database, elsewhere: Callable[[str], Database], tmp_path: Path
) -> None:
    file = tmp_path / "b.tar"
    backup(filled, file, with_key=False)
    with pytest.raises(BackupUnwritable):
        backup(filled, file)
    with pytest.raises(BackupUnwritable):
        backup(filled, tmp_path / "gone" / "b.tar")
    with tarfile.open(file) as archive:
        assert "site.key" not in archive.getnames()
        manifest = json.loads(archive.extractfile("manifest.json").read())  # type: ignore[union-attr]
    assert not manifest["has_key"]
    cut = tmp_path / "cut.tar"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    (tmp_path / "text.tar").write_text("no")
    other = elsewhere("sqlite")
    for wrong in (cut, tmp_path / "text.tar", tmp_path / "missing.tar"):
        with pytest.raises(BackupUnreadable):
            restore(other, wrong)
    restore(other, file)


def test_finished_cohorts_move_to_an_archive_and_stay_known(filled: Database, tmp_path: Path) -> None:
    with filled.write() as session:
        session.execute(update(Cohort).values(nightly="ward", created_at=Cohort.created_at - 86_400 * 10))
    assert prune(filled, tmp_path / "archive", days=20) == []
    (moved,) = prune(filled, tmp_path / "archive", days=5)
    assert (moved.cohort, moved.rows) == ("done", 3)
    found = pq.read_table(moved.file).to_pylist()
    assert [row["state"] for row in found] == ["done", "done", "failed"]
    assert found[0]["probability"] == 0.1234567890123
    assert json.loads(found[0]["types"]) == {"VIRAL": 0.1}
    assert found[2]["error"] == "corrupt-image"
    assert len(found[0]["weights_digest"]) == 64
    assert moved.file.stat().st_mode & 0o077 == 0
    with filled.read() as session:
        assert session.scalars(select(func.count()).select_from(Prediction)).one() == 0
        assert session.scalars(select(func.count()).select_from(Image)).one() == 3
        assert session.scalars(select(func.count()).select_from(Batch)).one() == 0
        (counts, _) = progress(session)
        assert (counts.total, counts.done, counts.failed, counts.archived) == (3, 2, 1, True)
        listed = {uri: Stamp(None, None) for uri in ("/data/0.dcm", "/data/9.dcm")}
        assert seen_uris(session, "ward", listed) == {"/data/0.dcm"}
    with pytest.raises(CohortArchived):
        write_results(filled, "done", tmp_path / "r.csv")
    with filled.write() as session, pytest.raises(CohortArchived):
        open_cohort(session, "done", source="/data")
    assert prune(filled, tmp_path / "archive", days=5) == []


def after_reading(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Call a function once, after the rows were read and before they are deleted."""
    import scheduler.exports.archive as module

    real = module._write

    def write(*arguments: object) -> object:
        monkeypatch.setattr(module, "_write", real)
        written = real(*arguments)  # type: ignore[arg-type]
        do()
        return written

    monkeypatch.setattr(module, "_write", write)


def retry_done(database: Database) -> None:
    with database.write() as session:
        assert retry(session, find_cohort(session, "done")) == 1


def screen_again(database: Database) -> None:
    retry_done(database)
    with database.write() as session:
        cohort_id = find_cohort(session, "done").id
        (batch_id,) = cut_batches(session, cohort_id, batch_images=9, in_flight=1)
        screen(session, batch_id, bad=0)


@pytest.mark.parametrize(("meanwhile", "predictions"), [(retry_done, 2), (screen_again, 3)])
def test_a_cohort_that_is_retried_while_it_is_archived_stays(
    filled: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[Database], None],
    predictions: int,
) -> None:
    after_reading(monkeypatch, lambda: meanwhile(filled))
    with filled.write() as session:
        session.execute(update(Cohort).values(created_at=1.0))
    assert prune(filled, tmp_path / "archive", days=5) == []
    assert list((tmp_path / "archive").iterdir()) == []
    with filled.read() as session:
        assert session.scalars(select(func.count()).select_from(Prediction)).one() == predictions


def test_only_one_of_two_concurrent_prunes_archives_a_cohort(
    filled: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled.write() as session:
        session.execute(update(Cohort).values(created_at=1.0))
    others: list[Archived] = []
    after_reading(monkeypatch, lambda: others.extend(prune(filled, tmp_path / "archive", days=5)))
    assert prune(filled, tmp_path / "archive", days=5) == []
    (moved,) = others
    assert list((tmp_path / "archive").iterdir()) == [moved.file]
    assert pq.read_table(moved.file).num_rows == 3


def test_an_archive_is_synced_to_disk_before_its_rows_are_deleted(
    filled: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with filled.write() as session:
        session.execute(update(Cohort).values(created_at=1.0))
    real = os.fsync
    #: For each fsync: whether it was of a folder, and whether other sessions still saw the rows.
    synced: list[tuple[bool, bool]] = []

    def fsync(opened: int) -> None:
        with filled.read() as session:
            (counts, _) = progress(session)
        synced.append((stat.S_ISDIR(os.fstat(opened).st_mode), not counts.archived))
        real(opened)

    monkeypatch.setattr(os, "fsync", fsync)
    assert len(prune(filled, tmp_path / "archive", days=5)) == 1
    assert synced == [(False, True), (True, True)]


def _back_up(database: Database, folder: Path) -> Path:
    backup(database, folder / "b.tar")
    return folder / "b.tar"


def _export(database: Database, folder: Path, *, name: str) -> Path:
    write_results(database, "done", folder / name)
    return folder / name


@pytest.mark.parametrize("planted", ["a file", "a link"])
@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("b.tar", _back_up),
        *((name, partial(_export, name=name)) for name in ("r.csv", "r.json", "r.parquet", "r.xlsx")),
    ],
)
def test_a_file_or_link_planted_at_an_output_path_receives_no_data(
    filled: Database,
    tmp_path: Path,
    name: str,
    write: Callable[[Database, Path], Path],
    planted: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.touch()
    elsewhere.chmod(0o666)

    def plant(there: Path) -> None:
        if planted == "a link":
            there.symlink_to(elsewhere)
        else:
            os.link(elsewhere, there)

    plant(tmp_path / name)
    if name == "b.tar":  # a backup replaces no file
        with pytest.raises(BackupUnwritable):
            write(filled, tmp_path)
        (tmp_path / name).unlink()
    written = write(filled, tmp_path)
    assert elsewhere.read_bytes() == b""
    assert not written.is_symlink()
    assert written.stat().st_mode & 0o777 == 0o600
    # A guess of the temporary name gives an attacker nothing either.
    written.unlink()
    monkeypatch.setattr("secrets.token_hex", lambda _: "guessed")
    plant(tmp_path / ".guessed.partial")
    with pytest.raises((BackupUnwritable, OutputUnwritable)):
        write(filled, tmp_path)
    assert elsewhere.read_bytes() == b""
    assert not written.exists()
