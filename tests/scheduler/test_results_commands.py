"""The commands that show results: `results`, `show image`, and the summaries that lead to them."""

from __future__ import annotations

import csv
import json
import shlex
import shutil
from pathlib import Path

import pytest
from pydicom import dcmread

from db.engine import Database
from db.jobs.batches import cut_batches
from db.jobs.claims import Effort, NotScreened, claim, complete
from db.jobs.cohorts import find_cohort
from db.jobs.problems import CorruptImage
from db.models.predictions import Provenance, Screened
from scheduler.ingest import dicom
from tests.commands import run
from worker.phantoms import write_phantoms

IMAGES = 25


def said(*arguments: str, expect: int = 0) -> str:
    """Return what a command prints, in one line."""
    done = run(*arguments, expect=expect)
    return " ".join((done.stdout + done.stderr).split())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Draw the images of the cohort once."""
    folder = tmp_path_factory.mktemp("drawn")
    write_phantoms(folder, IMAGES)
    return folder


@pytest.fixture
def trial(job_table: Database, drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Database:
    """Take a folder in and screen it; two images fail."""
    monkeypatch.setenv("COLUMNS", "120")
    shutil.copytree(drawn, tmp_path / "x-rays")
    run("submit", str(tmp_path / "x-rays"), "--cohort", "trial 7")
    screen(job_table)
    return job_table


def screen(database: Database) -> None:
    """Give each image of the cohort the outcome that a worker could give it: the first two fail."""
    with database.write() as session:
        cohort = find_cohort(session, "trial 7")
        for batch_id in cut_batches(session, cohort.id, batch_images=99, in_flight=99):
            claimed = claim(session, batch_id, owner="host:1", lease_seconds=60)
            assert claimed is not None
            ids = [one.image_id for one in claimed.images]
            complete(
                session,
                claimed,
                [screened(image_id) for image_id in ids if image_id > 2],
                [NotScreened(image_id, CorruptImage()) for image_id in ids if image_id <= 2],
                Provenance(threshold=0.5, runtime="torch", preprocessing="p/1", software="1"),
                Effort(decode_seconds=0.5, forward_seconds=1.5, gpu_memory_bytes=None),
            )


def screened(image_id: int) -> Screened:
    return Screened(
        image_id=image_id, probability=0.75, label="PNEUMONIA", precision="fp32", input_digest="d" * 64
    )


def test_after_writing_one_line_says_what_was_left_out_and_how_to_get_it(
    trial: Database, tmp_path: Path
) -> None:
    out = str(tmp_path / "r.csv")
    assert said("results", "trial 7", "--out", out).startswith(
        "25 rows written. Left out: file names (`--names` adds them), UIDs and whole paths (`--identifiers` "
        "adds them). Research and triage aid."
    )
    assert "Left out: UIDs and whole paths" in said("results", "trial 7", "--out", out, "--names")
    assert "Left out" not in said("results", "trial 7", "--out", out, "--identifiers")
    assert said("results", "trial 7", "--out", out, "--state", "queued").startswith("0 rows written.")


def test_results_without_a_file_are_shown_and_the_command_for_all_of_them_works(
    trial: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = run("results", "trial 7", "--names").stdout
    assert sum("PNEUMONIA" in line for line in shown.splitlines()) == 18
    (line,) = (line for line in shown.splitlines() if line.startswith("These are 20 of 25 rows."))
    command = shlex.split(line.partition("All of them: ")[2])
    assert command[0] == "pneumoscreen"
    run(*command[1:])
    with (tmp_path / "results.csv").open(encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 25
    assert all((tmp_path / "x-rays" / row["file"]).is_file() for row in rows)
    assert str(tmp_path) not in (tmp_path / "results.csv").read_text()


def test_a_summary_names_the_reasons_and_a_command_that_lists_the_images(trial: Database) -> None:
    status = run("status", "trial 7").stdout
    assert "corrupt-image" in status
    (line,) = (line for line in status.splitlines() if line.startswith("Which ones: "))
    command = shlex.split(line.removeprefix("Which ones: "))
    assert command == ["pneumoscreen", "results", "trial 7", "--state", "failed", "--names"]
    listed = run(*command[1:]).stdout
    assert sum("corrupt-image" in line for line in listed.splitlines()) == 2
    assert "2 rows." in listed
    assert "done" not in listed


def test_columns_that_do_not_exist_are_refused_with_the_names_of_those_that_do(trial: Database) -> None:
    refused = said("results", "trial 7", "--columns", "image,propability", expect=2)
    assert "error [column-unknown]" in refused
    assert "probability, label, threshold" in refused
    assert "--names" in said("results", "trial 7", "--columns", "file", expect=2)
    shown = run("results", "trial 7", "--columns", "image,precision").stdout
    assert "fp32" in shown
    assert "PNEUMONIA" not in shown


def test_show_prints_everything_about_one_image_and_hides_identifiers_by_default(
    trial: Database, tmp_path: Path
) -> None:
    failed, done = run("show", "image", "1").stdout, run("show", "image", "25").stdout
    for text in ("trial 7", "corrupt-image", "Copy or export it again", "host:1"):
        assert text in failed
    for text in ("PNEUMONIA", "0.750000", "0.500000", "d" * 64, "torch", "p/1", "fp32", "Not a diagnosis"):
        assert text in done
    assert str(tmp_path) not in failed + done
    assert "phantom" not in done
    assert "phantom-0023" in run("show", "image", "25", "--names").stdout
    assert str(tmp_path) in " ".join(run("show", "image", "25", "--identifiers").stdout.split())
    assert "image-unknown" in said("show", "image", "99", expect=2)


def test_show_gives_scripts_all_of_it_as_json(trial: Database, tmp_path: Path) -> None:
    shown = json.loads(run("show", "image", "25", "--json").stdout)
    (prediction,) = shown["predictions"]
    assert (shown["result"]["image"], shown["result"]["file"]) == (25, None)
    assert (prediction["probability"], prediction["is_current"]) == (0.75, True)
    assert prediction["predicted_at"].endswith("+00:00")
    assert shown["modified"].endswith("+00:00")
    named = json.loads(run("show", "image", "25", "--json", "--names").stdout)
    assert (tmp_path / "x-rays" / named["result"]["file"]).is_file()


def with_accession(folder: Path, number: str) -> None:
    """Write a DICOM phantom that has an Accession Number."""
    (file,) = (path for path in write_phantoms(folder, 3) if path.suffix == "")
    dataset = dcmread(file)
    dataset.AccessionNumber = number
    dataset.save_as(file)


def test_accession_numbers_are_kept_only_if_the_installation_decides_it(
    job_table: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_accession(tmp_path / "x-rays", "QZ-4711")
    ours = (str(tmp_path / "x-rays"), "--cohort")
    run("submit", *ours, "closed")
    out = tmp_path / "r.csv"
    assert "PNEUMOSCREEN_KEEP_ACCESSION" in said("results", "closed", "--out", str(out), "--accession")
    assert "QZ" not in out.read_text()
    monkeypatch.setenv("PNEUMOSCREEN_KEEP_ACCESSION", "true")
    run("submit", *ours, "open")
    assert "KEEP_ACCESSION" not in said("results", "open", "--out", str(out), "--accession")
    with out.open(encoding="utf-8-sig") as file:
        assert sorted(row["accession"] for row in csv.DictReader(file)) == ["", "", "QZ-4711"]
    run("results", "open", "--out", str(out), "--names")
    assert "QZ" not in out.read_text()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("A 17/2026", "A 17/2026"),
        (" 17 \0", "17"),
        ("Ä-1", "Ä-1"),
        ("", None),
        (None, None),
        ("x" * 65, None),
        ("a\nb", None),
        ("\x1b[2J", None),
        ("\udcff", None),
    ],
)
def test_text_that_cannot_be_an_accession_number_is_not_stored(given: str | None, kept: str | None) -> None:
    assert dicom._accession(given) == kept
