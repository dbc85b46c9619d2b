"""The site key of pseudonyms: an installation that had one makes no other by itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from sqlalchemy import delete, select

from db.engine import Database
from db.jobs.cohorts import find_cohort
from db.tables import Image, LabelClass, Site, Study
from db.training.labels import Reading, add_readings
from scheduler.exports.results import write_results
from scheduler.ingest import open_source
from scheduler.ingest.pseudonym import (
    SiteKeyDiffers,
    SiteKeyMissing,
    ensure_site_key,
    new_site_key,
    pseudonym,
)
from scheduler.submit import submit
from tests.commands import printed, run
from tests.conftest import make_key


@pytest.fixture
def taken_in(database: Database, model: object, phantoms: Path) -> Database:
    """Take phantoms in, some of them DICOM."""
    submit(database, open_source(str(phantoms)), name="trial")
    return database


def patients(database: Database) -> set[str]:
    with database.read() as session:
        return set(session.scalars(select(Study.patient_key).where(Study.patient_key.is_not(None))))


def forget_the_note(database: Database) -> None:
    """Delete the record of the key, which a job table of an earlier version does not have."""
    with database.write() as session:
        session.execute(delete(Site))


@pytest.mark.parametrize("is_noted", [True, False])
def test_a_lost_key_is_replaced_only_by_an_explicit_command(
    taken_in: Database, home: Path, phantoms: Path, tmp_path: Path, is_noted: bool
) -> None:
    before = patients(taken_in)
    assert before
    if not is_noted:
        forget_the_note(taken_in)
    (home / "site.key").unlink()
    with pytest.raises(SiteKeyMissing):
        submit(taken_in, open_source(str(phantoms)), name="later")
    with pytest.raises(SiteKeyMissing):
        write_results(taken_in, "trial", tmp_path / "r.csv")
    assert not (home / "site.key").exists()
    new_site_key(taken_in)
    submit(taken_in, open_source(str(phantoms)), name="later")
    assert patients(taken_in) > before


def test_labels_with_patients_count_as_pseudonyms(database: Database, home: Path) -> None:
    reading = Reading(
        digest="0" * 64, class_name=LabelClass.VIRAL, reader="A", source="f", patient_key=pseudonym("P1")
    )
    with database.write() as session:
        add_readings(session, [reading])
    (home / "site.key").unlink()
    with pytest.raises(SiteKeyMissing):
        ensure_site_key(database)


def test_a_host_with_another_key_is_refused_until_it_has_the_one_in_use(
    taken_in: Database, home: Path, phantoms: Path
) -> None:
    key = (home / "site.key").read_bytes()
    make_key(home)
    with pytest.raises(SiteKeyDiffers):
        submit(taken_in, open_source(str(phantoms)), name="later")
    with taken_in.read() as session:
        assert session.scalar(select(Image.cohort_id).distinct()) == find_cohort(session, "trial").id
    (home / "site.key").write_bytes(key)
    submit(taken_in, open_source(str(phantoms)), name="later")


def test_a_job_table_of_an_earlier_version_keeps_its_key(taken_in: Database, home: Path) -> None:
    forget_the_note(taken_in)
    ensure_site_key(taken_in)
    make_key(home)
    with pytest.raises(SiteKeyDiffers):
        ensure_site_key(taken_in)


def test_a_new_key_is_made_by_a_command_that_the_audit_log_records(job_table: Database, home: Path) -> None:
    ensure_site_key(job_table)
    (home / "site.key").unlink()
    said = printed("models", "list", expect=2)
    assert "error [site-key-missing]" in said
    assert "db new-key" in said
    printed("db", "new-key")
    assert (home / "site.key").stat().st_mode & 0o777 == 0o600
    printed("models", "list")
    assert json.loads(run("audit", "--json").stdout)[-1]["action"] == "site-key.replace"
