"""What readers found, and which of it holds."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from db.cohorts import open_cohort
from db.engine import Database
from db.images import NewImage, add_images
from db.labels import Reading, add_readings, labelled_files, new_since
from db.tables import LabelClass
from scheduler.labels import LabelRowsBad, LabelsUnreadable, import_labels
from training.plan import Plan
from training.recipe import find_recipe
from training.settings import TrainingSettings
from training.sources import labelled_images
from training.trigger import trigger

DIGEST = "ab" * 32


def write(file: Path, *rows: tuple[str, ...], separator: str = ",", bom: bool = False) -> Path:
    with file.open("w", newline="", encoding="utf-8-sig" if bom else "utf-8") as text:
        csv.writer(text, delimiter=separator).writerows(rows)
    return file


def reading(class_name: str, reader: str = "A", read_on: str = "", digest: str = DIGEST) -> Reading:
    return Reading(
        digest=digest, class_name=LabelClass(class_name), reader=reader, read_on=read_on, source="f.csv"
    )


@pytest.mark.parametrize(
    ("names", "contradicts", "settled"),
    [
        (("NORMAL", "NORMAL"), False, "NORMAL"),
        (("NORMAL", "PNEUMONIA"), True, None),
        (("NORMAL", "VIRAL"), True, None),
        (("PNEUMONIA", "VIRAL"), False, "VIRAL"),
        (("BACTERIAL", "VIRAL"), True, None),
    ],
)
def test_readers_agree_or_contradict(
    database: Database, names: tuple[str, str], contradicts: bool, settled: str | None
) -> None:
    with database.write() as session:
        add_readings(session, [reading(name, reader) for name, reader in zip(names, "AB", strict=True)])
    with database.read() as session:
        (file,) = labelled_files(session)
    assert file.contradicts is contradicts
    if settled:
        assert file.class_name == settled


def test_a_readers_later_word_replaces_the_earlier(database: Database) -> None:
    with database.write() as session:
        add_readings(session, [reading("NORMAL", "A", "2026-02-01"), reading("PNEUMONIA", "A", "2026-01-01")])
        add_readings(session, [reading("NORMAL", "B", "2026-01-15")])
    with database.read() as session:
        (file,) = labelled_files(session)
    assert file.readings == {"A": "NORMAL", "B": "NORMAL"}


def test_a_file_is_imported_once(database: Database, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"image")
    file = write(
        tmp_path / "r.csv",
        ("Path", "CLASS", "reader", "date"),
        ("x.png", "normal", "Dr A", "2026-01-31"),
        separator=";",
        bom=True,
    )
    first, second = import_labels(database, file), import_labels(database, file)
    assert (first.rows, first.new, first.known) == (1, 1, 0)
    assert (second.new, second.known) == (0, 1)
    with database.read() as session:
        assert new_since(session, 0.0) == 1
        assert new_since(session, 1e12) == 0


def test_enough_new_labels_open_one_training_run(database: Database) -> None:
    with database.write() as session:
        add_readings(session, [reading("NORMAL", "A", "2026-01-01"), reading("VIRAL", "A", "2026-01-02")])
    assert trigger(database, TrainingSettings(retrain_new_labels=2)) is None, "two readings of one image"
    run_id = trigger(database, TrainingSettings(retrain_new_labels=1))
    assert run_id is not None
    assert trigger(database, TrainingSettings(retrain_new_labels=1)) is None


def test_bad_rows_are_listed_and_nothing_is_imported(database: Database, tmp_path: Path) -> None:
    file = write(
        tmp_path / "r.csv",
        ("digest", "instance", "path", "class", "date"),
        (DIGEST, "", "", "NORMAL", ""),
        (DIGEST, "", "", "healthy", ""),
        ("12", "", "", "NORMAL", ""),
        ("", "1.2.3", "", "NORMAL", ""),
        ("", "", "gone.png", "NORMAL", ""),
        (DIGEST, "", "", "NORMAL", "yesterday"),
        ("", "", "", "NORMAL", ""),
    )
    with pytest.raises(LabelRowsBad, match=r"row 3: class.*row 4: digest.*row 5: no cohort.*row 6: path"):
        import_labels(database, file)
    with database.read() as session:
        assert labelled_files(session) == []
    imported = import_labels(database, file, skip_bad=True)
    assert (imported.new, len(imported.bad)) == (1, 6)
    with pytest.raises(LabelsUnreadable):
        import_labels(database, write(tmp_path / "s.csv", ("a", "b"), ("1", "2")))


def test_an_instance_and_a_digest_of_one_image_meet(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        add_images(session, cohort.id, [NewImage(uri="/data/a.dcm", study_uid="1.2", instance_uid="1.2.3")])
    import_labels(database, write(tmp_path / "i.csv", ("instance", "class"), ("1.2.3", "NORMAL")))
    with database.read() as session:
        (file,) = labelled_files(session)
        assert (file.uri, file.digest) == ("/data/a.dcm", None)
    from sqlalchemy import update

    from db.tables import Image

    with database.write() as session:
        session.execute(update(Image).values(digest=DIGEST))
        add_readings(session, [reading("PNEUMONIA", "B")])
    with database.read() as session:
        (file,) = labelled_files(session)
    assert file.contradicts
    assert file.uri == "/data/a.dcm"


def test_labels_by_path_are_trained_on_with_their_patients(
    database: Database, home: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(name.encode())
    rows = (("a.png", "NORMAL", "P7"), ("b.png", "VIRAL", "P7"), ("c.png", "NORMAL", ""))
    import_labels(database, write(tmp_path / "r.csv", ("path", "class", "patient"), *rows))
    plan = Plan(recipe=Plan.fields_of(find_recipe("clinical")), data=None, use_labels=True)
    found = {image.path: image for image in labelled_images(database, plan)}
    a, b, c = (found[tmp_path / name] for name in ("a.png", "b.png", "c.png"))
    assert [image.label for image in (a, b, c)] == ["NORMAL", "VIRAL", "NORMAL"]
    assert a.group == b.group != c.group
    assert "P7" not in a.group
