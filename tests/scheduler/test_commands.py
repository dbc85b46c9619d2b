"""What commands say and ask: states, counts, times and the next step."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select, update

from db.audit.chain import newest
from db.engine import Database
from db.jobs.cohorts import open_cohort
from db.models.registry import import_model
from db.states import CohortState, ImageState, ModelState
from db.tables import Cohort, Image, Model
from db.text import counted
from db.training.runs import open_run
from scheduler.exports.archive import prune
from scheduler.local_time import local_time
from tests.scheduler.test_archive import take_in
from tests.scheduler.test_cli import run


def words(text: str) -> str:
    """Return printed text without its line breaks."""
    return " ".join(text.split())


def test_a_count_of_one_has_a_noun_in_the_singular() -> None:
    assert [counted(number, "image") for number in (0, 1, 2)] == ["0 images", "1 image", "2 images"]
    assert counted(1, "process", "processes") == "1 process"
    assert counted(3, "process", "processes") == "3 processes"


@pytest.mark.parametrize(
    ("moment", "local"), [(1_777_664_100, "2026-05-01 21:35 CEST"), (1_767_225_600, "2026-01-01 01:00 CET")]
)
def test_a_time_is_in_the_local_zone_which_is_named(moment: float, local: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-c", f"from scheduler.local_time import local_time; print(local_time({moment}))"],
        env=os.environ | {"TZ": "Europe/Berlin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.strip() == local
    assert local_time(moment, seconds=True)[16:19] == ":00"


def test_empty_tables_say_the_next_step(home: Path) -> None:
    for arguments, step in (
        (["status"], "`pneumoscreen screen FOLDER`"),
        (["runs"], "`pneumoscreen retrain DATA`"),
        (["labels", "list"], "`pneumoscreen labels import FILE.csv`"),
        (["labels", "conflicts"], "No readings contradict"),
        (["audit"], "no events"),
        (["nightly", "list"], "`[[nightly]]` in pneumoscreen.toml"),
        (["nightly", "history"], "`pneumoscreen nightly run NAME`"),
        (["db", "prune", "archive", "--days", "1"], "0 cohorts moved."),
    ):
        shown = run(*arguments).stdout
        assert step in words(shown)
        assert shown[0].isupper() or shown[0].isdigit(), f"{arguments} print the head of a table without rows"


def test_states_of_cohorts_read_as_people_call_them(
    job_table: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TZ", "Europe/Berlin")
    take_in(job_table, "archived", 1)
    prune(job_table, tmp_path, days=5)
    for name in ("finished", "cancelled"):
        take_in(job_table, name, 1)
    with job_table.write() as session:
        session.execute(update(Cohort).where(Cohort.name == "cancelled").values(state=CohortState.CANCELLED))
        for name in ("queued", "waiting"):
            cohort = open_cohort(session, name, source="/data")
            cohort.state = CohortState.READY
            session.add(Image(cohort_id=cohort.id, uri="/data/1.png", state=ImageState.PENDING))
            # No worker has begun, but ingest has found a copy.
            skipped = {"state": ImageState.SKIPPED, "problem": "duplicate-instance"}
            session.add(Image(cohort_id=cohort.id, uri="/data/2.png", **skipped))
            if name == "waiting":
                cohort.waits_for, cohort.waits_since = "model-missing", 1_777_664_100.0
    shown = run("status").stdout
    states = dict(line.split()[:2] for line in shown.splitlines() if line.split()[1:2])
    for name in ("finished", "cancelled", "archived", "queued", "waiting"):
        assert states[name] == name
    assert "Cohort waiting is waiting for model-missing since 2026-05-01 21:35 CEST." in shown
    assert {one["state"] for one in json.loads(run("status", "--json").stdout)} == {"ready", "cancelled"}


def test_cancel_leaves_a_finished_cohort_finished_and_says_so(job_table: Database) -> None:
    take_in(job_table, "trial", 2)
    assert "finished already" in run("cancel", "trial").stdout
    assert json.loads(run("status", "trial", "--json").stdout)[0]["state"] == "ready"
    with job_table.write() as session:
        pending = update(Image).values(state=ImageState.PENDING, problem=None)
        session.execute(pending.where(Image.uri == "/data/0.png"))
    assert "1 image will not be screened" in run("cancel", "trial").stdout
    assert "2 images will be screened again" in words(run("retry", "trial").stdout)


def test_promotion_without_a_yes_of_the_gate_wants_a_confirmation(
    job_table: Database, other_artefact: Path
) -> None:
    candidate = import_model(job_table, other_artefact).name
    command = ["models", "promote", candidate]
    for options in ([], ["--json"]):
        refused = run(*command, *options, expect=2).stderr
        assert "error [gate-not-passed]" in refused
        assert "--yes" in refused
        assert "never compared" in refused
    code, said = at_a_terminal(*command, answer="n")
    assert code == 1
    assert "never compared" in words(said)
    assert state(job_table, candidate) is ModelState.CANDIDATE
    code, said = at_a_terminal(*command, answer="y")
    assert code == 0, said
    assert state(job_table, candidate) is ModelState.CHAMPION
    run("models", "rollback")
    assert "is champion" in run(*command).stdout, "it was champion before"


def test_promotion_with_yes_asks_nothing(job_table: Database, other_artefact: Path) -> None:
    candidate = import_model(job_table, other_artefact).name
    assert json.loads(run("models", "promote", candidate, "--yes", "--json").stdout) == {
        "champion": candidate
    }


def state(database: Database, model: str) -> ModelState:
    with database.read() as session:
        return session.scalars(select(Model.state).where(Model.name == model)).one()


def at_a_terminal(*arguments: str, answer: str) -> tuple[int, str]:
    """Run a command at a terminal and answer its question; return its exit code and its output."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "scheduler", *arguments], stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    os.write(ours, f"{answer}\n".encode())
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # the process has ended
        pass
    os.close(ours)
    return process.wait(), said.decode()


def test_a_queued_training_run_is_cancelled_by_its_id(job_table: Database) -> None:
    with job_table.write() as session:
        run_id = open_run(session, {"recipe": {"name": "clinical"}, "backbones": []}, for_worker=True).id
    assert f"retrain --resume {run_id}" in words(run("runs", "cancel", str(run_id)).stdout)
    (shown,) = json.loads(run("runs", "--json").stdout)
    assert (shown["run"], shown["state"]) == (run_id, "stopped")
    assert "run-not-queued" in run("runs", "cancel", str(run_id), expect=2).stderr
    assert "run-unknown" in run("runs", "cancel", "99", expect=2).stderr


def test_a_dry_run_of_prune_shows_the_cohorts_and_moves_none(job_table: Database, tmp_path: Path) -> None:
    take_in(job_table, "trial", 3)
    command = ["db", "prune", str(tmp_path / "archive"), "--days", "5"]
    assert json.loads(run(*command, "--dry-run", "--json").stdout) == [{"cohort": "trial", "rows": 3}]
    assert "1 cohort would be moved" in run(*command, "--dry-run").stdout
    assert not (tmp_path / "archive").exists()
    assert "1 cohort moved." in run(*command).stdout
    assert "0 cohorts would be moved" in run(*command, "--dry-run").stdout


def test_the_audit_log_of_a_cohort_is_found_by_its_name(job_table: Database) -> None:
    for name in ("first", "second"):
        take_in(job_table, name, 1)
    with job_table.read() as session:
        (expected,) = [one.subject for one in newest(session) if one.action == "cohort.submit"][1:]
    events = json.loads(run("audit", "--cohort", "second", "--json").stdout)
    assert [one["subject"] for one in events] == [expected]
    assert "cohort-unknown" in run("audit", "--cohort", "third", expect=2).stderr
    assert "not both" in run("audit", "cohort:1", "--cohort", "first", expect=2).stderr


def test_times_in_tables_have_a_zone_and_those_in_json_are_unchanged(
    job_table: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    assert " IST " in run("models", "list").stdout
    assert " IST " in run("audit").stdout
    assert isinstance(json.loads(run("audit", "--json").stdout)[0]["at"], float)


@pytest.mark.usefixtures("job_table")
def test_a_path_that_is_missing_or_no_file_is_called_so(tmp_path: Path) -> None:
    for command in (["evaluate"], ["labels", "import"]):
        assert "does not exist" in run(*command, str(tmp_path / "nope"), expect=2).stderr
    assert "This is a folder" in run("labels", "import", str(tmp_path), expect=2).stderr
    unknown = run("models", "show", "resnet50-x", expect=2).stderr
    assert "`pneumoscreen models list`" in unknown
