"""What results look like outside."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from db.audit import newest
from db.batches import cut_batches
from db.cohorts import close_ingest, find_cohort, open_cohort
from db.engine import Database
from db.images import NewImage, add_images
from db.leases import Effort, NotScreened, Provenance, Screened, claim, complete
from db.problems import CorruptImage
from scheduler.results import COLUMNS, OutputFormatUnknown, OutputUnwritable, write_results


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
        close_ingest(session, cohort.id)
        (batch_id,) = cut_batches(session, cohort.id, batch_images=9, in_flight=1)
        claimed = claim(session, batch_id, owner="tester", lease_seconds=60)
        assert claimed is not None
        first, second, third = (item.image_id for item in claimed.items)
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
    return write_results(database, "trial", out)


def test_csv_json_and_parquet_say_the_same(finished: Database, model: object, tmp_path: Path) -> None:
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


def test_the_audit_log_tells_who_took_results_out(finished: Database, tmp_path: Path) -> None:
    written(finished, tmp_path / "r.csv")
    with finished.read() as session:
        cohort = find_cohort(session, "trial")
        (event,) = (one for one in newest(session) if one.action == "results.export")
    assert (event.subject, event.detail) == (f"cohort:{cohort.id}", {"rows": 3})
