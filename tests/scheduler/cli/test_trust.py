"""What commands say about a cohort whose pictures are unlike those of the training hospital."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from db.engine import Database
from scheduler.cli.system.doctor import examine
from scheduler.cli.watch import watch
from tests.commands import run
from tests.db.trust.cohorts import know_familiarity, screen, spread

WARNING = "Do not trust these numbers: the pictures are unlike those that the model learned from."


@pytest.fixture
def cohorts(job_table: Database) -> Database:
    """Screen a cohort of adults, one of children like those of the training hospital, and a small one."""
    know_familiarity(job_table)
    screen(job_table, "adults", spread(60, most=0.2))
    screen(job_table, "children", spread(60))
    screen(job_table, "few", [0.001] * 5)
    return job_table


def words(text: str) -> str:
    return " ".join(text.split())


def test_status_of_a_cohort_says_that_it_is_not_to_be_trusted(cohorts: Database) -> None:
    said = words(run("status", "adults").stdout)
    assert WARNING in said
    assert "In 90% of pairs" in said
    assert "`pneumoscreen accept DATA`" in said
    assert all(WARNING not in run("status", name).stdout for name in ("children", "few"))
    (adults,) = json.loads(run("status", "adults", "--json").stdout)
    assert (adults["trust"]["images"], adults["trust"]["unlike"]) == (60, True)
    assert adults["trust"]["effect"] == pytest.approx(0.9)
    assert adults["trust"]["text"].startswith(WARNING)
    (children,) = json.loads(run("status", "children", "--json").stdout)
    assert (children["trust"]["unlike"], children["trust"]["text"]) == (False, "")


def test_trust_is_unknown_if_the_model_knows_no_familiarity(job_table: Database) -> None:
    screen(job_table, "trial", [None] * 30)
    (trial,) = json.loads(run("status", "trial", "--json").stdout)
    assert trial["trust"] is None
    assert WARNING not in run("status", "trial").stdout


@pytest.mark.usefixtures("cohorts")
def test_watch_and_results_warn_on_standard_error(tmp_path: Path) -> None:
    for command in (("watch",), ("results",), ("results", "--out", str(tmp_path / "r.csv"))):
        done = run(command[0], "adults", *command[1:])
        assert WARNING in words(done.stderr)
        assert WARNING not in words(done.stdout)
        assert WARNING not in words(run(command[0], "children", *command[1:]).stderr)
    assert WARNING not in (tmp_path / "r.csv").read_text()


def test_the_line_of_progress_says_it_while_a_cohort_is_screened(cohorts: Database) -> None:
    for cohort_id, said in ((1, True), (2, False), (3, False)):
        file = io.StringIO()
        watch(cohorts, cohort_id, Console(file=file))
        assert ("unlike the training hospital" in file.getvalue()) is said


def test_doctor_names_the_cohorts(cohorts: Database) -> None:
    (found,) = (one for one in examine() if one.check == "trust")
    assert (found.verdict, found.found) == ("note", "cohort adults")
    assert found.mend.startswith(WARNING)
