"""Exported results: their formats, their columns and their pseudonyms."""

from __future__ import annotations

import csv
import hmac
import json
import sys
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from openpyxl import load_workbook
from sqlalchemy import String, cast, select, update

from db.audit.chain import newest
from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import Effort, NotScreened, claim, complete
from db.jobs.cohorts import find_cohort, mark_ready, open_cohort
from db.jobs.images import NewImage, add_images
from db.jobs.problems import CorruptImage
from db.jobs.sources import ensure_source
from db.models.predictions import Provenance, Screened
from db.models.registry import import_model
from db.queries.results import ResultRow, cohort_results, path_within
from db.states import ImageState
from db.tables import Image
from db.trust.acceptances import Measured, newest_acceptances, write_acceptance
from scheduler.exports import formats
from scheduler.exports.columns import COLUMNS, NAMES, ColumnHidden, ColumnUnknown
from scheduler.exports.results import OutputFormatUnknown, OutputUnwritable, write_results
from scheduler.exports.selection import Selection
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
        NewImage(
            uri='/data/ünusual, "name"\n.png',
            study_uid="1.2",
            series_uid="1.3",
            instance_uid="1.4",
            patient_key="pseudonym",
            accession="A-1",
        ),
        NewImage(uri="/data/b.png"),
        NewImage(uri="/data/c.png"),
    ]
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        source_id = ensure_source(session, cohort.id, "/data")
        add_images(session, cohort.id, images, source_id=source_id)
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
                    familiarity=0.0042,
                    caution="unfamiliar",
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
    return write_results(database, "trial", out, Selection(identifiers=True))


def read(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a table; an empty cell is None."""
    if file.suffix == ".csv":
        with file.open(newline="", encoding="utf-8-sig") as text:
            return [{name: cell or None for name, cell in row.items()} for row in csv.DictReader(text)]
    if file.suffix == ".json":
        return list(json.loads(file.read_text()))
    if file.suffix == ".parquet":
        return list(pq.read_table(file).to_pylist())
    names, *rows = load_workbook(file)["results"].iter_rows(values_only=True)
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_every_format_holds_the_same_rows(finished: Database, model: object, tmp_path: Path) -> None:
    everything = Selection(identifiers=True, names=True, accession=True)
    files = {suffix: tmp_path / f"results{suffix}" for suffix in formats.format_modules()}
    assert set(files) == {".csv", ".json", ".parquet", ".xlsx"}
    assert {write_results(finished, "trial", out, everything) for out in files.values()} == {3}
    tables = {suffix: read(out) for suffix, out in files.items()}
    whole = tables[".parquet"]
    assert whole == tables[".xlsx"]
    short = [{name: six_digits(value) for name, value in row.items()} for row in whole]
    assert tables[".json"] == short
    as_text = [{name: as_csv(value) for name, value in row.items()} for row in short]
    assert tables[".csv"] == as_text
    assert tuple(whole[0]) == NAMES
    assert whole[0] | {"time": None} == {
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
        "image": 1,
        "patient": "pseudonym",
        "time": None,
        "precision": "fp32",
        "runtime": "r",
        "preprocessing": "p",
        "software": "s",
        "file": 'ünusual, "name"\n.png',
        "accession": "A-1",
        "familiarity": 0.0042,
        "caution": "unfamiliar",
        "acceptance": "not accepted at this site",
    }
    assert abs(datetime.fromisoformat(whole[0]["time"]) - datetime.now(UTC)) < timedelta(minutes=5)
    assert (whole[2]["type"], whole[2]["type_probability"]) == ("VIRAL", 0.7)
    assert [(row["state"], row["error"], row["image"]) for row in whole[1:]] == [
        ("failed", "corrupt-image", 2),
        ("done", None, 3),
    ]


def test_results_say_whether_the_newest_acceptance_of_their_model_was_positive(
    finished: Database, model: object, other_artefact: Path
) -> None:
    name, other = model.name, import_model(finished, other_artefact).name  # type: ignore[attr-defined]

    def accept(one: str, accepted: bool) -> None:
        measured = Measured(
            model=one, accepted=accepted, images=3, data_fingerprint="f", figures={}, reasons=("it is so",)
        )
        with finished.write() as session:
            write_acceptance(session, measured, by="Dr.\nA\x00")

    def said() -> list[str | None]:
        with finished.read() as session:
            return [row.acceptance for row in cohort_results(session, find_cohort(session, "trial"))]

    # An image without a prediction says nothing.
    no = ["not accepted at this site", None, "not accepted at this site"]
    assert said() == no
    accept(other, True)
    assert said() == no
    accept(name, True)
    assert said() == ["accepted", None, "accepted"]
    accept(name, False)
    assert said() == no
    with finished.read() as session:
        assert {one.by for one in newest_acceptances(session).values()} == {"Dr.A"}


def six_digits(value: object) -> object:
    return round(value, 6) if isinstance(value, float) else value


def as_csv(value: object) -> str | None:
    return f"{value:.6f}" if isinstance(value, float) else None if value is None else str(value)


def test_excel_and_pandas_read_the_csv_as_utf_8(finished: Database, tmp_path: Path) -> None:
    import pandas as pd

    written(finished, tmp_path / "r.csv")
    # Excel takes a file without this mark for the encoding of the country.
    assert (tmp_path / "r.csv").read_bytes().startswith("\ufeffcohort,study,series,".encode())
    table = pd.read_csv(tmp_path / "r.csv")
    assert list(table.columns[:11]) == list(NAMES[:11])
    assert table["source"][0] == '/data/ünusual, "name"\n.png'
    assert table["probability"].tolist()[::2] == [0.123457, 1.0]


def test_the_table_of_columns_describes_every_field_of_a_row_and_keeps_the_order() -> None:
    assert tuple(field.name for field in fields(ResultRow)) == NAMES
    # Scripts rely on these.
    assert ",".join(NAMES[:11]) == (
        "cohort,study,series,instance,source,state,probability,label,threshold,model,error"
    )
    assert [column.name for column in COLUMNS if column.option] == ["file", "accession"]


def test_a_table_joins_back_to_the_study_by_file_names_without_other_identifiers(
    finished: Database, tmp_path: Path
) -> None:
    write_results(finished, "trial", tmp_path / "closed.json")
    write_results(finished, "trial", tmp_path / "named.json", Selection(names=True))
    closed, named = read(tmp_path / "closed.json"), read(tmp_path / "named.json")
    assert [row.pop("file") for row in named] == ['ünusual, "name"\n.png', "b.png", "c.png"]
    assert named == closed
    assert "file" not in closed[0]
    assert "accession" not in closed[0]
    assert "A-1" not in (tmp_path / "named.json").read_text()


def test_an_accession_number_is_exported_only_if_it_is_asked_for(finished: Database, tmp_path: Path) -> None:
    write_results(finished, "trial", tmp_path / "r.json", Selection(accession=True))
    rows = read(tmp_path / "r.json")
    assert [row["accession"] for row in rows] == ["A-1", None, None]
    assert "file" not in rows[0]
    assert rows[0]["source"] == "sha256:d"


@pytest.mark.parametrize(
    ("source", "uri", "expected"),
    [
        ("/data", "/data/a/b.png", "a/b.png"),
        ("/data/", "/data/a.png", "a.png"),
        ("/", "/a.png", "a.png"),
        ("/data", "/data-2/a.png", "a.png"),
        ("/data", "/elsewhere/b/a.png", "a.png"),
        ("/dä ta", "file:///d%C3%A4%20ta/%FF.png", "%FF.png"),
        ("file:///ward-%FF", "file:///ward-%FF/a.png", "a.png"),
        ("s3://bucket/x", "s3://bucket/x/1/a.dcm", "1/a.dcm"),
        ("https://host/x/", "https://host/x/a.dcm", "a.dcm"),
    ],
)
def test_a_file_is_named_within_its_source_and_never_with_the_folders_above(
    source: str, uri: str, expected: str
) -> None:
    assert path_within(source, uri) == expected


def test_a_file_is_named_within_the_source_that_it_was_submitted_from(
    finished: Database, tmp_path: Path
) -> None:
    with finished.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        other = ensure_source(session, cohort.id, "/other/deep")
        add_images(session, cohort.id, [NewImage(uri="/other/deep/x/d.png")], source_id=other)
        # An earlier version did not note the source.
        add_images(session, cohort.id, [NewImage(uri="/data/y/e.png")])
    write_results(finished, "trial", tmp_path / "r.json", Selection(names=True))
    assert [row["file"] for row in read(tmp_path / "r.json")][3:] == ["x/d.png", "y/e.png"]


def test_states_and_columns_can_be_chosen(finished: Database, tmp_path: Path) -> None:
    out = tmp_path / "r.csv"
    failed = Selection(
        names=True, states=(ImageState.FAILED,) * 2, columns=("error", "image", "file", "image")
    )
    assert write_results(finished, "trial", out, failed) == 1
    assert read(out) == [{"error": "corrupt-image", "image": "2", "file": "b.png"}]
    assert write_results(finished, "trial", out, Selection(columns=("label",))) == 3
    assert read(out) == [{"label": "NORMAL"}, {"label": None}, {"label": "PNEUMONIA"}]
    both = Selection(states=(ImageState.DONE, ImageState.FAILED), columns=("image",))
    assert write_results(finished, "trial", out, both) == 3


def test_a_column_that_is_unknown_or_needs_an_option_is_refused_with_the_choice(
    finished: Database, tmp_path: Path
) -> None:
    for columns, error, said in (
        (("image", "propability"), ColumnUnknown, "probability, label"),
        (("image", "file"), ColumnHidden, "--names"),
        (("accession",), ColumnHidden, "--accession"),
    ):
        with pytest.raises(error, match=said):
            write_results(finished, "trial", tmp_path / "r.csv", Selection(columns=columns))
    assert not (tmp_path / "r.csv").exists()


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
    rows = read(tmp_path / "results.csv")
    assert [row["source"] for row in rows] == [f"'{text}" for text in texts]
    assert {row["series"] for row in rows} == {"'-1\t"}
    assert rows[0]["probability"] == "0.123457"
    assert [row["source"] for row in json.loads((tmp_path / "results.json").read_text())] == texts


def test_without_identifiers_uids_are_pseudonyms_and_files_are_known_by_their_digest(
    finished: Database, tmp_path: Path
) -> None:
    with finished.write() as session:
        session.execute(update(Image).where(Image.id > 1).values(series_uid="1.3"))
    write_results(finished, "trial", tmp_path / "open.json", Selection(identifiers=True))
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
        written(finished, tmp_path / "results.docx")
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
    detail = {"rows": 3, "identifiers": True, "names": False, "accession": False}
    assert (event.subject, event.detail) == (f"cohort:{cohort.id}", detail)


def test_a_new_format_needs_one_new_file(
    finished: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "states.py").write_text(
        "def write(rows, target):\n    return len([target.file.write(row[5].encode()) for row in rows])\n"
    )
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(tmp_path)])
    formats.format_modules.cache_clear()
    try:
        assert write_results(finished, "trial", tmp_path / "r.states") == 3
    finally:
        formats.format_modules.cache_clear()
        sys.modules.pop("scheduler.exports.formats.states", None)
    assert (tmp_path / "r.states").read_text() == "donefaileddone"
