"""The command line without a running stack: output, exit codes and error codes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, select, text, update

from db.audit.chain import newest, seal
from db.engine import Database
from db.models.registry import ensure_champion
from db.queries.progress import progress
from db.states import CohortState
from db.tables import Cohort, Image, ImageCount, Ingest, Model
from db.upkeep.migrate import upgrade
from tests.commands import printed, run
from tests.conftest import postgres_url
from tests.waiting import wait_for


@pytest.fixture
def champion(home: Path, artefact: Path) -> None:
    """Register the small model in the data directory that the commands use."""
    database = Database()
    upgrade(database)
    ensure_champion(database, artefact)
    database.close()


@pytest.mark.usefixtures("champion")
def test_a_cohort_from_submit_to_results(phantoms: Path, tmp_path: Path) -> None:
    submitted = json.loads(run("submit", str(phantoms), "--cohort", "trial", "--json").stdout)
    assert (submitted["found"], submitted["new"], submitted["ignored"]) == (10, 10, 0)
    assert "0 of them new" in run("submit", str(phantoms), "--cohort", "trial").stdout
    (status,) = json.loads(run("status", "--json").stdout)
    assert (status["name"], status["total"], status["pending"]) == ("trial", 10, 10)
    assert json.loads(run("cancel", "trial", "--json").stdout) == {"cohort": "trial", "images": 10}
    assert "cancelled" in run("status", "trial").stdout
    run("watch", "trial")
    run("results", "trial", "--out", str(tmp_path / "r.csv"))
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 11
    assert json.loads(run("retry", "trial", "--json").stdout) == {"cohort": "trial", "images": 10}


@pytest.mark.usefixtures("champion")
def test_counters_that_are_wrong_are_shown_and_repaired(phantoms: Path) -> None:
    run("submit", str(phantoms), "--cohort", "trial")
    with Database().write() as session:
        session.execute(update(ImageCount).values(images=7))
    wrong = {"cohort_id": 1, "state": "pending", "problem": "", "counter": 7, "images": 10}
    assert json.loads(run("db", "check", "--json", expect=2).stdout) == [wrong]
    assert "Counted again" in run("db", "check", "--repair").stdout
    assert run("db", "check").stdout.startswith("Every counter")
    with Database().read() as session:
        assert progress(session)[0].pending == 10
        assert newest(session)[-1].action == "database.recount"


@pytest.mark.usefixtures("champion")
def test_the_key_is_made_at_first_start_and_a_backup_warns_of_it(home: Path, tmp_path: Path) -> None:
    (home / "site.key").unlink()
    run("models", "list")  # registers the champion, as `up` and `submit` do
    assert (home / "site.key").stat().st_mode & 0o777 == 0o600
    key = (home / "site.key").read_bytes()
    warning = run("db", "backup", str(tmp_path / "b.tar"), "--json").stderr
    assert "Warning: the backup holds paths, UIDs and site.key" in " ".join(warning.split())
    warning = run("db", "backup", str(tmp_path / "c.tar"), "--without-key").stderr
    assert "and not site.key" in " ".join(warning.split())
    assert key not in (tmp_path / "c.tar").read_bytes()
    events = json.loads(run("audit", "--json").stdout)
    assert [one["detail"]["key"] for one in events if one["action"] == "database.backup"] == [True, False]


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["submit", "/nowhere", "--cohort", "c"], "source-missing"),
        (["screen", "/nowhere"], "source-missing"),
        (["screen", "{empty}"], "source-empty"),
        (["submit", "{empty}", "--cohort", "c"], "source-empty"),
        (["screen", "{empty}", "--out", "results.docx"], "output-format-unknown"),
        (["submit", "{phantoms}", "--cohort", "c", "--model", "resnet50-x"], "model-unknown"),
        (["submit", "{phantoms}", "--cohort", " "], "cohort-name-invalid"),
        (["submit", "{phantoms}", "--cohort", "a\nb"], "cohort-name-invalid"),
        (["screen", "{phantoms}", "--cohort", "\x1b[2J"], "cohort-name-invalid"),
        (["submit", "{phantoms}", "--cohort", "\udcff"], "cohort-name-invalid"),
        (["submit", "{phantoms}", "--cohort", "c", "--priority", "3000000000"], "priority-out-of-range"),
        (["submit", "{phantoms}", "--cohort", "c", "--model", "\udcff"], "model-unknown"),
        (["status", "nobody"], "cohort-unknown"),
        (["status", "\udcff"], "cohort-unknown"),
        (["watch", "nobody"], "cohort-unknown"),
        (["retry", "nobody"], "cohort-unknown"),
        (["cancel", "nobody"], "cohort-unknown"),
        (["results", "nobody", "--out", "r.csv"], "cohort-unknown"),
        (["evaluate", "{empty}"], "labelled-folders-missing"),
        (["retrain", "{empty}", "--weights", "{empty}"], "initial-weights-missing"),
        (["retrain", "{empty}", "--weights", "{empty}", "--backbones", "vgg"], "backbone-unknown"),
        (["retrain", "{empty}", "--weights", "{empty}", "--recipe", "best"], "recipe-unknown"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_mistake_ends_in_one_line_with_a_code(
    phantoms: Path, tmp_path: Path, arguments: list[str], code: str
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    done = run(*(part.format(empty=empty, phantoms=phantoms) for part in arguments), expect=2)
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error [{code}]: ")


@pytest.mark.parametrize(
    ("setting", "value", "code"),
    [
        ("LEASE_SECONDS", "soon", "settings-invalid"),
        ("DATABASE_URL", "mysql://root@localhost/x", "database-url-invalid"),
        ("DATABASE_URL", "not a url", "database-url-invalid"),
        ("DATABASE_URL", "postgresql://u:se@root:et@host/db", "database-url-invalid"),
        ("DATABASE_URL", "postgresql://u:se@root@host/db", "database-url-invalid"),
        ("DATABASE_URL", "postgresql://root@127.0.0.1:1/x", "database-unreachable"),
        ("HOME", "/proc/nowhere", "database-unreachable"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_at_the_start(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str, code: str
) -> None:
    monkeypatch.setenv(f"PNEUMOSCREEN_{setting}", value)
    done = run("doctor" if code == "settings-invalid" else "status", expect=2)
    assert code in done.stdout + done.stderr
    assert "root" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("DATABASE_URL", "postgresql://{}:{}@127.0.0.1:1/x"),
        pytest.param("DATABASE_URL", "mysql://{}:{}@127.0.0.1/x", marks=pytest.mark.long),
        pytest.param("DATABASE_URL", "{}:{}", marks=pytest.mark.long),
        pytest.param("BROKER_URL", "redis://{}:{}@127.0.0.1:1/0", marks=pytest.mark.long),
        pytest.param("BROKER_URL", "http://{}:{}@127.0.0.1:1/0", marks=pytest.mark.long),
    ],
)
def test_no_command_and_no_worker_prints_a_password(
    monkeypatch: pytest.MonkeyPatch, home: Path, phantoms: Path, setting: str, value: str
) -> None:
    monkeypatch.setenv(f"PNEUMOSCREEN_{setting}", value.format("somebody", "hunter2"))
    said = ""
    for command in (
        ("doctor", "--json"),
        ("doctor",),
        ("status",),
        ("submit", str(phantoms), "--cohort", "c"),
    ):
        said += printed(*command, expect=None)
    celery = (sys.executable, "-m", "celery", "-A", "scheduler.tasks", "worker", "--pool=solo")
    said += "".join(_said(*celery, "-Q", "housekeeping", "--loglevel=DEBUG", seconds=6))
    assert len(said) > 500
    assert "hunter2" not in said


def _said(*command: str, seconds: float = 60) -> tuple[str, str]:
    """Return the output of a process, which is killed if it runs longer than some seconds."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


def test_doctor_finds_a_new_installation_in_order(home: Path) -> None:
    findings = {one["check"]: one for one in json.loads(run("doctor", "--json").stdout)}
    assert set(findings) == {
        "settings", "database", "broker", "model", "runtime", "torch", "GPU", "decoders", "disk",
    }  # fmt: skip
    assert not [one for one in findings.values() if one["verdict"] == "bad"]
    assert "16 DICOM transfer syntaxes" in findings["decoders"]["found"]
    assert findings["database"]["found"] == "empty"
    assert "pneumoscreen up" in findings["broker"]["mend"]


def test_doctor_notes_that_an_installation_restricts_no_sources(
    home: Path, postgres: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_DATABASE_URL", postgres_url(postgres, "doctored"))
    for roots, verdicts in (("[]", ["note"]), ('["/images"]', [])):
        monkeypatch.setenv("PNEUMOSCREEN_SOURCE_ROOTS", roots)
        findings = json.loads(run("doctor", "--json").stdout)
        assert [one["verdict"] for one in findings if one["check"] == "sources"] == verdicts


@pytest.mark.usefixtures("champion")
def test_doctor_finds_a_swapped_model_and_a_misspelt_setting(home: Path, artefact: Path) -> None:
    weights = home / "models" / artefact.name / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"x")
    (home / "pneumoscreen.toml").write_text("lease_secnods = 3\n")
    findings = {one["check"]: one for one in json.loads(run("doctor", "--json", expect=2).stdout)}
    assert findings["model"]["found"] == "model-digest-mismatch"
    assert findings["settings"]["verdict"] == "bad"
    assert "lease_secnods" in findings["settings"]["mend"]
    assert findings["database"]["verdict"] == "good"


@pytest.mark.usefixtures("champion")
def test_doctor_and_evaluate_find_a_champion_of_another_preprocessing(home: Path, tmp_path: Path) -> None:
    with Database().write() as session:
        model = session.scalars(select(Model)).one()
        model.card = model.card | {"preprocessing": "another/2"}
    findings = {one["check"]: one for one in json.loads(run("doctor", "--json", expect=2).stdout)}
    assert findings["model"]["found"] == "model-preprocessing-mismatch"
    assert "another/2" in findings["model"]["mend"]
    for label in ("NORMAL", "PNEUMONIA"):
        (tmp_path / "data" / label).mkdir(parents=True)
        (tmp_path / "data" / label / "1.png").write_bytes(b"any")
    said = run("evaluate", str(tmp_path / "data"), expect=2).stderr
    assert "model-preprocessing-mismatch" in said


def test_settings_come_from_the_environment_then_secrets_then_the_file(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from worker.settings import BrokerSettings

    def url() -> str:
        return BrokerSettings.read().broker_url.get_secret_value()

    (home / "secrets").mkdir(parents=True)
    (home / "pneumoscreen.toml").write_text('broker_url = "redis://file/0"\n')
    assert url() == "redis://file/0"
    (home / "secrets" / "pneumoscreen_broker_url").write_text("redis://secret/0")
    assert url() == "redis://secret/0"
    monkeypatch.setenv("PNEUMOSCREEN_BROKER_URL", "redis://environment/0")
    assert url() == "redis://environment/0"
    assert "environment" not in repr(BrokerSettings.read())


@pytest.mark.usefixtures("champion")
def test_names_of_an_earlier_version_are_shown_without_control_characters(
    phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    name = "a\x1b]0;title\x07\u202eb[bold]"
    database = Database()
    with database.write() as session:
        session.add(Cohort(name=name, source="/data", state=CohortState.READY))
    database.close()
    for arguments in (["status"], ["submit", str(phantoms / "png"), "--cohort", name], ["cancel", name]):
        shown = run(*arguments).stdout
        assert not set(shown) & set("\x1b\x07\u202e"), arguments
        assert "a]0;titleb[bold]" in shown


@pytest.mark.usefixtures("champion")
def test_a_source_whose_name_is_no_text_goes_from_submit_to_results(phantoms: Path, tmp_path: Path) -> None:
    source = os.fsdecode(os.fsencode(tmp_path) + b"/ward-\xff")
    shutil.copytree(phantoms / "png", source)
    run("submit", source, "--cohort", "trial")
    run("status", "trial")
    run("cancel", "trial")
    run("results", "trial", "--out", str(tmp_path / "r.csv"), "--identifiers")
    assert f"file://{tmp_path}/ward-%FF/" in (tmp_path / "r.csv").read_text()


@pytest.mark.usefixtures("champion")
def test_a_submit_that_was_killed_shows_as_broken_off_and_the_same_one_goes_on(
    phantoms: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_INGEST_IMAGES", "1")
    command = [sys.executable, "-m", "scheduler", "submit", str(phantoms), "--cohort", "trial"]
    database = Database()
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for(lambda: images(database) > 0, seconds=60)
    killed.kill()
    killed.wait()
    assert 0 < images(database) < 10, "it was not killed in the middle"
    with database.write() as session:
        session.execute(update(Ingest).values(lease_until=1.0))
        session.execute(update(Image).values(state="skipped", problem="not-chest"))
    monkeypatch.setenv("COLUMNS", "200")
    assert "ingest broke off" in run("status").stdout
    (status,) = json.loads(run("status", "--json").stdout)
    assert (status["state"], status["ingest_broke_off"], status["finished"]) == ("ingesting", True, False)
    told = " ".join(run("watch", "trial", expect=1).stderr.split())
    assert "Give the same `submit` or `screen` again" in told
    run("submit", str(phantoms), "--cohort", "trial")
    (status,) = json.loads(run("status", "--json").stdout)
    assert (status["state"], status["ingest_broke_off"], status["total"]) == ("ready", False, 10)
    database.close()


def images(database: Database) -> int:
    with database.read() as session:
        return session.scalars(select(func.count()).select_from(Image)).one()


@pytest.mark.usefixtures("champion")
def test_a_truncated_audit_log_is_detected_by_files_that_were_written_before(
    phantoms: Path, tmp_path: Path
) -> None:
    run("submit", str(phantoms), "--cohort", "trial")
    table, backup, note, verified = (tmp_path / name for name in ("r.parquet", "b.tar", "n.txt", "v.txt"))
    with Database().write() as session:
        seal(session)
    note.write_text(run("results", "trial", "--out", str(table)).stderr)
    run("db", "backup", str(backup))
    verified.write_text(run("audit", "--verify").stdout)
    files = (table, note, backup, verified)
    for file in files:
        run("audit", "--verify", "--against", str(file))
    (tmp_path / "nothing.txt").write_text(f"x{'f' * 64} is no digest")
    for name in (".", "nothing.txt", "missing.txt"):
        refused = run("audit", "--verify", "--against", str(tmp_path / name), expect=2)
        assert "audit-head-missing" in refused.stderr
    with Database().write() as session:
        session.execute(text("DELETE FROM events"))
    run("retry", "trial")
    run("audit", "--verify")  # the events that are left are intact
    for file in files:
        assert "audit-broken" in run("audit", "--verify", "--against", str(file), expect=2).stderr
