"""The help of the command line, its version, and what a shell completes."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

from db.engine import Database
from db.states import CohortState
from db.tables import Cohort
from scheduler.cli import app
from scheduler.cli.help import PURPOSES
from tests.scheduler.test_cli import run


def commands() -> list[str]:
    """Return the names of all commands and groups."""
    single = [str(one.name or one.callback.__name__) for one in app.registered_commands if one.callback]
    return single + [str(group.name) for group in app.registered_groups]


def test_every_command_has_one_place_in_the_help() -> None:
    listed = [name for names in PURPOSES.values() for name in names]
    assert sorted(listed) == sorted(commands())


@pytest.mark.parametrize("width", ["60", "80", "200"])
def test_the_help_groups_commands_by_purpose_and_cuts_no_summary(
    monkeypatch: pytest.MonkeyPatch, width: str
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    for words in ([], *([str(group.name)] for group in app.registered_groups)):
        shown = run(*words, "--help").stdout
        assert "..." not in shown.split("\n\n", 1)[1], words
        assert max(map(len, shown.splitlines())) <= 80
    places = [run("--help").stdout.index(f"\n{purpose}:\n") for purpose in PURPOSES]
    assert places == sorted(places)


def test_the_version_is_that_of_the_installed_package() -> None:
    assert run("--version").stdout == f"pneumoscreen {version('pneumoscreen')}\n"


def completed(*words: str) -> list[str]:
    """Return what bash gets for the last of these words; nothing else may be printed."""
    done = subprocess.run(
        [Path(sys.executable).parent / "pneumoscreen"],
        env=os.environ
        | {
            "PYTHONPROFILEIMPORTTIME": "1",
            "_PNEUMOSCREEN_COMPLETE": "complete_bash",
            "COMP_WORDS": " ".join(("pneumoscreen", *words)),
            "COMP_CWORD": str(len(words)),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    said = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    assert said == []
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in done.stderr.splitlines()}
    assert imported.isdisjoint({"torch", "torchvision", "fastai", "pandas", "scipy", "pydicom"})
    return done.stdout.split()


def test_a_shell_completes_names_of_cohorts_that_need_no_quotes(job_table: Database) -> None:
    with job_table.write() as session:
        for name in ("ward-7", "ward-8", "other", "ward 9", "ward-$(reboot)", "ward-'"):
            session.add(Cohort(name=name, source="/data", state=CohortState.READY))
    for words in (["status"], ["results"], ["submit", "/data", "--cohort"], ["audit", "--cohort"]):
        assert completed(*words, "ward-") == ["ward-8", "ward-7"]
    assert completed("status", "ward_") == []


def test_a_shell_completes_models_and_recipes(job_table: Database, artefact: Path) -> None:
    for words in (["models", "show"], ["evaluate", "/data", "--model"]):
        assert completed(*words, "resnet") == [artefact.name]
    assert completed("retrain", "--recipe", "") == ["thesis", "clinical", "site"]


@pytest.mark.parametrize("url", ["", "not a url", "postgresql://nobody@127.0.0.1:1/x"])
def test_a_completion_without_a_job_table_is_empty_and_silent(
    home: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_DATABASE_URL", url)
    before = sorted(home.iterdir())
    assert completed("status", "") == []
    assert sorted(home.iterdir()) == before


def test_a_completion_of_an_older_job_table_is_empty_and_silent(home: Path) -> None:
    (home / "pneumoscreen.db").touch()
    assert completed("status", "") == []
