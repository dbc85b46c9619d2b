"""Exported results: their formats, their columns and their pseudonyms."""

from __future__ import annotations

import csv
import hmac
import json
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sqlalchemy import String, cast, select, update

from db.audit.chain import newest
from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import Effort, NotScreened, Provenance, Screened, claim, complete
from db.jobs.cohorts import find_cohort, mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.jobs.problems import CorruptImage
from db.queries.results import cohort_results
from db.tables import Image
from scheduler.exports import formats
from scheduler.exports.results import OutputFormatUnknown, OutputUnwritable, write_results
from scheduler.exports.target import COLUMNS
from scheduler.ingest.pseudonym import (
    SiteKeyUnusable,
    ensure_site_key,
    place_pseudonym,
    pseudonym,
    uid_pseudonym,
)
from scheduler.ingest.sources.folder import FolderSource
from scheduler.ingest.walk import Walk
from tests.conftest import make_key
from worker.phantoms import write_phantoms


@pytest.fixture
def finished(database: Database, model: object) -> Database:
    """Screen three images, of which one is damaged."""
    images = [
        NewImage(uri='/data/ünusual, "name"\n.png', study_uid="1.2", series_uid="1.3", instance_uid="1.4"),
        NewImage(uri="/data/b.png"),
        NewImage(uri="/data/c.png"),
    ]
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        add_images(session, cohort.id, images)
        mark_ready(session, cohort.id)
        (batch_id,) = cut_batches(session, cohort.id, batch_images=9, in_flight=1)
        claimed = claim(session, batch_id, owner="tester", lease_seconds=60)
        assert claimed is not None
        first, second, third = (item.image_id for item in claimed.images)
        complete(
            session,
            claimed,
            [
                Screened(
                    image_id=first,
                    probability=0.1234567890123,
                    label="NORMAL",
                    precision="fp32",
                    input_digest="d",
                ),
                Screened(
                    image_id=third,
                    probability=1.0,
                    label="PNEUMONIA",
                    precision="bf16",
                    input_digest="e",
                    types={"BACTERIAL": 0.3, "VIRAL": 0.7},
                ),
            ],
            [NotScreened(second, CorruptImage())],
            Provenance(threshold=0.5, runtime="r", preprocessing="p", software="s"),
            Effort(decode_seconds=0.5, forward_seconds=1.5, gpu_memory_bytes=None),
        )
    return database


def written(database: Database, out: Path) -> int:
    return write_results(database, "trial", out, identifiers=True)


def test_csv_json_and_parquet_hold_the_same_values(finished: Database, model: object, tmp_path: Path) -> None:
    files = {suffix: tmp_path / f"results.{suffix}" for suffix in ("csv", "json", "parquet")}
    assert [written(finished, out) for out in files.values()] == [3, 3, 3]
    with files["csv"].open(newline="") as file:
        from_csv = list(csv.DictReader(file))
    from_json = json.loads(files["json"].read_text())
    from_parquet = pq.read_table(files["parquet"]).to_pylist()
    assert from_json == from_parquet
    assert from_csv == [{k: "" if v is None else str(v) for k, v in row.items()} for row in from_json]
    assert tuple(from_json[0]) == COLUMNS
    assert from_json[0] == {
        "cohort": "trial",
        "study": "1.2",
        "series": "1.3",
        "instance": "1.4",
        "source": '/data/ünusual, "name"\n.png',
        "state": "done",
        "probability": 0.1234567890123,
        "label": "NORMAL",
        "threshold": 0.5,
        "model": model.name,  # type: ignore[attr-defined]
        "error": None,
        "type": None,
        "type_probability": None,
    }
    assert (from_json[2]["type"], from_json[2]["type_probability"]) == ("VIRAL", 0.7)
    assert [(row["state"], row["error"]) for row in from_json[1:]] == [
        ("failed", "corrupt-image"),
        ("done", None),
    ]


@pytest.mark.parametrize("page", [1, 2, 3, 1000])
def test_pages_together_are_the_whole_and_a_page_begins_after_any_image(
    finished: Database, monkeypatch: pytest.MonkeyPatch, page: int
) -> None:
    monkeypatch.setattr("db.queries.results.CHUNK", page)
    with finished.write() as session:  # the rows of this one lie between those of the first
        other = open_cohort(session, "other", source="/data")
        add_images(session, other.id, [NewImage(uri="/data/b.png")])
        cohort = open_cohort(session, "trial", source="/data")
        add_images(session, cohort.id, [NewImage(uri=f"/data/{number}.png") for number in range(4)])
    with finished.read() as session:
        cohort = find_cohort(session, "trial")
        rows = list(cohort_results(session, cohort))
        assert [row.state for row in rows] == ["done", "failed", "done", *["pending"] * 4]
        ids = session.scalars(select(Image.id).where(Image.cohort_id == cohort.id).order_by(Image.id)).all()
        for number, after in enumerate((0, *ids)):
            for limit in range(5):
                part = list(cohort_results(session, cohort, after=after, limit=limit))
                assert part == rows[number : number + limit]


def test_the_key_of_uids_is_derived_once_for_a_whole_export(
    finished: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    derived: list[str] = []
    real = hmac.digest

    def digest(key: bytes, message: bytes, algorithm: str) -> bytes:
        if key == b"uid":
            derived.append(algorithm)
        return real(key, message, algorithm)

    monkeypatch.setattr("scheduler.ingest.pseudonym.hmac.digest", digest)
    with finished.write() as session:
        session.execute(update(Image).values(series_uid="1.3", instance_uid="1.4." + cast(Image.id, String)))
    write_results(finished, "trial", tmp_path / "r.json")
    rows = json.loads((tmp_path / "r.json").read_text())
    assert len(derived) == 1
    assert [row["instance"] for row in rows] == [uid_pseudonym(f"1.4.{number}") for number in (1, 2, 3)]
    assert {row["series"] for row in rows} == {uid_pseudonym("1.3")}


def test_no_text_in_csv_is_a_formula_and_numbers_stay_numbers(finished: Database, tmp_path: Path) -> None:
    """These texts come from the headers and names of files, which other people choose."""
    texts = ['=HYPERLINK("http://x")', "+1", "@SUM(A1)"]
    with finished.write() as session:
        for number, text in enumerate(texts, start=1):
            changes = {"uri": text, "series_uid": "-1\t"}
            session.execute(update(Image).where(Image.id == number).values(changes))
    for suffix in ("csv", "json"):
        written(finished, tmp_path / f"results.{suffix}")
    with (tmp_path / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["source"] for row in rows] == [f"'{text}" for text in texts]
    assert {row["series"] for row in rows} == {"'-1\t"}
    assert rows[0]["probability"] == "0.1234567890123"
    assert [row["source"] for row in json.loads((tmp_path / "results.json").read_text())] == texts


def test_without_identifiers_uids_are_pseudonyms_and_files_are_known_by_their_digest(
    finished: Database, tmp_path: Path
) -> None:
    with finished.write() as session:
        session.execute(update(Image).where(Image.id > 1).values(series_uid="1.3"))
    write_results(finished, "trial", tmp_path / "open.json", identifiers=True)
    write_results(finished, "trial", tmp_path / "closed.json")
    opened = json.loads((tmp_path / "open.json").read_text())
    text = (tmp_path / "closed.json").read_text()
    closed = json.loads(text)
    assert not any(identifier in text for identifier in ('"1.2"', '"1.3"', '"1.4"', "/data", ".png"))
    assert [row["source"] for row in closed] == ["sha256:d", "image:2", "sha256:e"]
    # Images of one series still have the same pseudonym of it.
    assert [row["series"] == closed[0]["series"] for row in closed] == [True] * 3
    assert closed[0]["study"] not in (None, closed[0]["series"])
    assert closed[1]["study"] is None
    hidden = ("study", "series", "instance", "source")
    kept = [{name: value for name, value in row.items() if name not in hidden} for row in opened]
    assert kept == [{name: value for name, value in row.items() if name not in hidden} for row in closed]


def test_pseudonyms_need_the_key_and_those_of_patients_uids_and_places_differ(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {kind("1.2.3") for kind in (pseudonym, uid_pseudonym, place_pseudonym)}
    assert len(found) == 3
    assert uid_pseudonym("1.2.3") in found
    # A person who chooses Patient IDs and sees their pseudonyms learns none of the other keys.
    planted = bytes.fromhex(pseudonym("uid"))
    assert hmac.digest(planted, b"1.2.3", "sha256").hex() not in found
    other = home / "other"
    other.mkdir()
    make_key(other)
    monkeypatch.setenv("PNEUMOSCREEN_HOME", str(other))
    assert found.isdisjoint({kind("1.2.3") for kind in (pseudonym, uid_pseudonym, place_pseudonym)})


def test_the_key_is_made_once_for_its_owner_alone_and_a_damaged_one_is_refused(
    database: Database, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "site.key").unlink()
    for _ in range(2):
        ensure_site_key(database)
    assert (home / "site.key").stat().st_mode & 0o777 == 0o600
    assert len((home / "site.key").read_bytes()) == 32
    damaged = home / "damaged"
    damaged.mkdir()
    (damaged / "site.key").write_bytes(b"")
    monkeypatch.setenv("PNEUMOSCREEN_HOME", str(damaged))
    with pytest.raises(SiteKeyUnusable):
        pseudonym("P1")
    # Ingest reports the key, and does not report the intact files as damaged.
    write_phantoms(home / "x-rays", 10)
    with pytest.raises(SiteKeyUnusable):
        list(Walk(FolderSource(home / "x-rays")))


def test_an_output_that_cannot_be_written_is_refused_before_any_work(
    finished: Database, tmp_path: Path
) -> None:
    with pytest.raises(OutputFormatUnknown):
        written(finished, tmp_path / "results.xlsx")
    with pytest.raises(OutputUnwritable):
        written(finished, tmp_path / "nowhere" / "results.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OutputUnwritable):
        written(finished, tmp_path / "folder.csv")
    assert list(tmp_path.glob(".*")) == []


def test_the_audit_log_records_an_export_of_results(finished: Database, tmp_path: Path) -> None:
    written(finished, tmp_path / "r.csv")
    with finished.read() as session:
        cohort = find_cohort(session, "trial")
        (event,) = (one for one in newest(session) if one.action == "results.export")
    assert (event.subject, event.detail) == (f"cohort:{cohort.id}", {"rows": 3, "identifiers": True})


def test_a_new_format_needs_one_new_file(
    finished: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "states.py").write_text(
        "def write(rows, target):\n    return len([target.file.write(row.state.encode()) for row in rows])\n"
    )
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    formats.format_modules.cache_clear()
    try:
        assert write_results(finished, "trial", tmp_path / "r.states") == 3
    finally:
        formats.format_modules.cache_clear()
        sys.modules.pop("scheduler.exports.formats.states", None)
    assert (tmp_path / "r.states").read_text() == "donefaileddone"
