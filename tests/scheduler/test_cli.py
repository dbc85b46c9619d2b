"""The command line's contract, without the stack."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import text

from db.audit import seal
from db.engine import Database
from db.migrate import upgrade
from db.registry import ensure_champion
from tests.conftest import postgres_url


def run(*arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command; nothing that it meets may end in a traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "scheduler", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == expect, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


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
def test_the_key_is_made_at_first_start_and_a_backup_warns_of_it(home: Path, tmp_path: Path) -> None:
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
        (["status", "nobody"], "cohort-unknown"),
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
def test_a_mistake_is_one_line_with_a_code(
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
def test_no_command_and_no_worker_tells_a_password(
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
        said += "".join(_said(sys.executable, "-m", "scheduler", *command))
    celery = (sys.executable, "-m", "celery", "-A", "scheduler.tasks", "worker", "--pool=solo")
    said += "".join(_said(*celery, "-Q", "housekeeping", "--loglevel=DEBUG", seconds=6))
    assert len(said) > 500
    assert "hunter2" not in said


def _said(*command: str, seconds: float = 60) -> tuple[str, str]:
    """Return what a process has printed by its end, or by the time that it is given."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


def test_doctor_finds_a_new_installation_in_order(home: Path) -> None:
    findings = {one["check"]: one for one in json.loads(run("doctor", "--json").stdout)}
    assert set(findings) == {
        "settings", "database", "broker", "model", "torch", "GPU", "decoders", "disk",
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
def test_an_audit_log_whose_end_was_cut_off_is_told_by_what_was_written_before(
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
    run("audit", "--verify")  # what is left holds
    for file in files:
        assert "audit-broken" in run("audit", "--verify", "--against", str(file), expect=2).stderr
