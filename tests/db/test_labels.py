"""Labels by readers: their import, their conflicts and the training runs that they open."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

from db.engine import Database
from db.jobs.cohorts import open_cohort
from db.jobs.images import NewImage, add_images
from db.nights.runs import now
from db.states import CohortState, ImageState, RunState
from db.tables import Cohort, Image, LabelClass
from db.training.labels import Reading, add_readings, labelled_files
from db.training.runs import cancel_run, find_run, open_run
from scheduler.exports.archive import prune
from scheduler.labels import LabelRowsBad, LabelsUnreadable, import_labels
from training.data.sources import labelled_images, labels_without_file
from training.plan import Plan
from training.recipe import find_recipe
from training.settings import TrainingSettings
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


def test_a_later_reading_replaces_the_earlier_one_of_the_same_reader(database: Database) -> None:
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
        (labelled,) = labelled_files(session)
        assert not labelled.contradicts


def test_enough_new_labels_open_one_training_run(database: Database) -> None:
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        add_images(session, cohort.id, [NewImage(uri="/data/a.dcm", instance_uid="1.2.3")])
        session.execute(update(Image).values(digest=DIGEST))
        add_readings(session, [reading("NORMAL", "A", "2026-01-01"), reading("VIRAL", "A", "2026-01-02")])
    assert trigger(database, TrainingSettings(retrain_new_labels=2)) is None, (
        "two readings counted as two images"
    )
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


def test_labels_by_instance_and_by_digest_of_one_image_are_combined(
    database: Database, tmp_path: Path
) -> None:
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        add_images(session, cohort.id, [NewImage(uri="/data/a.dcm", study_uid="1.2", instance_uid="1.2.3")])
    import_labels(database, write(tmp_path / "i.csv", ("instance", "class"), ("1.2.3", "NORMAL")))
    with database.read() as session:
        (file,) = labelled_files(session)
        assert (file.uri, file.digest) == ("/data/a.dcm", None)
    with database.write() as session:
        session.execute(update(Image).values(digest=DIGEST))
        add_readings(session, [reading("PNEUMONIA", "B")])
    with database.read() as session:
        (file,) = labelled_files(session)
    assert file.contradicts
    assert file.uri == "/data/a.dcm"


def test_labels_by_path_are_used_for_training_and_grouped_by_patient(
    database: Database, home: Path, tmp_path: Path
) -> None:
    for name in ("a.png", "b.png", "c.png"):
        (tmp_path / name).write_bytes(name.encode())
    rows = (("a.png", "NORMAL", "P7"), ("b.png", "VIRAL", "P7"), ("c.png", "NORMAL", ""))
    import_labels(database, write(tmp_path / "r.csv", ("path", "class", "patient"), *rows))
    plan = Plan(recipe=find_recipe("clinical"), data=None, use_labels=True)
    found = {image.path: image for image in labelled_images(database, plan)}
    a, b, c = (found[tmp_path / name] for name in ("a.png", "b.png", "c.png"))
    assert [image.label for image in (a, b, c)] == ["NORMAL", "VIRAL", "NORMAL"]
    assert a.group == b.group != c.group
    assert "P7" not in a.group.key
    assert (a.group.told_by, c.group.told_by) == ("label", "nothing")


def test_labels_without_a_patient_are_grouped_by_folder(
    database: Database, home: Path, tmp_path: Path
) -> None:
    names = ("p1/1.png", "p1/late/2.png", "p2/1.png", "3.png", "p2/person7_virus_1.png")
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    rows = [(name, "PNEUMONIA") for name in names]
    import_labels(database, write(tmp_path / "r.csv", ("path", "class"), *rows))
    plan = Plan(recipe=find_recipe("clinical"), data=None, use_labels=True)
    found = {str(image.path.relative_to(tmp_path)): image.group for image in labelled_images(database, plan)}
    assert [found[name].told_by for name in names] == ["folder", "folder", "folder", "nothing", "name"]
    assert found["p1/1.png"] == found["p1/late/2.png"]
    assert len(set(found.values())) == 4


def archive(database: Database, tmp_path: Path) -> None:
    """End every image and archive every cohort."""
    with database.write() as session:
        session.execute(update(Image).values(state=ImageState.SKIPPED, problem="not-chest"))
        session.execute(update(Cohort).values(state=CohortState.READY))
    assert prune(database, tmp_path / "archive", days=-1)
    with database.read() as session:
        assert session.scalars(select(func.count()).select_from(Image)).one() == 0


def test_labels_keep_their_file_when_its_cohort_is_archived(
    database: Database, home: Path, tmp_path: Path
) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.dcm").write_bytes(name.encode())
    other = "cd" * 32
    with database.write() as session:
        cohort = open_cohort(session, "trial", source="/data")
        images = [
            NewImage(
                uri=str(tmp_path / f"{name}.dcm"),
                study_uid=f"1.{n}",
                instance_uid=f"1.2.{n}",
                patient_key=f"k{n}",
            )
            for n, name in enumerate(("a", "b", "c"), start=1)
        ]
        add_images(session, cohort.id, images)
        session.execute(update(Image).where(Image.instance_uid == "1.2.1").values(digest=DIGEST))
        session.execute(update(Image).where(Image.instance_uid == "1.2.2").values(digest=other))
        add_readings(session, [reading("NORMAL", "A"), reading("VIRAL", "B", digest=other)])
    rows = [("instance", "class", "reader"), ("1.2.1", "PNEUMONIA", "B"), ("1.2.3", "NORMAL", "B")]
    import_labels(database, write(tmp_path / "i.csv", *rows))
    with database.read() as session:
        before = labelled_files(session)
    archive(database, tmp_path)
    with database.read() as session:
        after = labelled_files(session)
    assert after == before
    assert len(after) == 3, "readings of one image were separated"
    assert [file.digest for file in after if file.contradicts] == [DIGEST]
    plan = Plan(recipe=find_recipe("clinical"), data=None, use_labels=True)
    assert {image.path.name for image in labelled_images(database, plan)} == {"b.dcm", "c.dcm"}
    later = [("instance", "class", "reader"), ("1.2.3", "NORMAL", "C")]
    assert import_labels(database, write(tmp_path / "l.csv", *later)).new == 1


def test_the_path_of_a_labelled_file_comes_from_a_current_cohort_before_an_archived_one(
    database: Database, home: Path, tmp_path: Path
) -> None:
    for name in ("old", "new"):
        with database.write() as session:
            cohort = open_cohort(session, name, source="/data")
            add_images(session, cohort.id, [NewImage(uri=f"/{name}/a.dcm", instance_uid="1.2.3")])
        if name == "old":
            import_labels(database, write(tmp_path / "i.csv", ("instance", "class"), ("1.2.3", "NORMAL")))
            archive(database, tmp_path)
    with database.read() as session:
        (file,) = labelled_files(session)
    assert file.uri == "/new/a.dcm"


def test_labels_without_a_file_are_counted(database: Database, home: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"image")
    import_labels(database, write(tmp_path / "r.csv", ("path", "class"), ("x.png", "NORMAL")))
    with database.write() as session:
        add_readings(session, [reading("NORMAL")])
    plan = Plan(recipe=find_recipe("clinical"), data=None, use_labels=True)
    assert labels_without_file(database, plan) == 1
    assert len(labelled_images(database, plan)) == 1


def open_and_end(
    database: Database, state: RunState, *, use_labels: bool, moment: float | None = None
) -> int:
    """Open a training run as a command or the trigger does, and end it with a state."""
    plan = Plan(recipe=find_recipe("clinical"), data=Path("/data"), use_labels=use_labels)
    with database.write() as session:
        run = open_run(session, plan.model_dump(mode="json"), for_worker=False)
        run.state, run.finished_at = state, run.created_at if moment is None else moment
        return run.id


def enough(database: Database, tmp_path: Path) -> TrainingSettings:
    """Label one image, and return settings that want a run for each new label."""
    (tmp_path / "x.png").write_bytes(b"image")
    import_labels(database, write(tmp_path / "r.csv", ("path", "class"), ("x.png", "NORMAL")))
    return TrainingSettings(retrain_new_labels=1)


@pytest.mark.parametrize(
    ("state", "use_labels", "opens"),
    [
        (RunState.DONE, False, True),
        (RunState.FAILED, False, True),
        (RunState.STOPPED, True, True),
        (RunState.DONE, True, False),
    ],
)
def test_only_a_finished_run_that_used_the_labels_counts_as_having_used_them(
    database: Database, home: Path, tmp_path: Path, state: RunState, use_labels: bool, opens: bool
) -> None:
    settings = enough(database, tmp_path)
    open_and_end(database, state, use_labels=use_labels)
    run_id = trigger(database, settings)
    assert (run_id is not None) is opens
    assert trigger(database, settings) is None, "a second run was opened beside the first"


def test_a_failed_run_on_labels_is_tried_again_a_day_later(
    database: Database, home: Path, tmp_path: Path
) -> None:
    settings = enough(database, tmp_path)
    failed = open_and_end(database, RunState.FAILED, use_labels=True)
    assert trigger(database, settings) is None, "a failed run was repeated within a day"
    with database.write() as session:
        find_run(session, failed).finished_at = now(session) - 86_401
    assert trigger(database, settings) is not None


def test_a_triggered_run_that_was_cancelled_is_opened_again_a_day_later(
    database: Database, home: Path, tmp_path: Path
) -> None:
    settings = enough(database, tmp_path)
    cancelled = trigger(database, settings)
    assert cancelled is not None
    with database.write() as session:
        cancel_run(session, cancelled)
    assert trigger(database, settings) is None
    with database.write() as session:
        find_run(session, cancelled).finished_at = now(session) - 86_401
    assert trigger(database, settings) is not None


def test_labels_that_cannot_be_trained_on_start_no_run(database: Database, home: Path) -> None:
    with database.write() as session:
        add_readings(session, [reading("NORMAL")])
    assert trigger(database, TrainingSettings(retrain_new_labels=1)) is None
