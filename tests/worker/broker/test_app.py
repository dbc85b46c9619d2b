"""The Celery application: its messages, its logs, its errors and the broker's URL."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import traceback
from datetime import datetime
from pathlib import Path

import pytest
from pydantic import SecretStr

from db.jobs.problems import CorruptImage
from worker.broker.app import QUEUES, SCREEN_BATCH, app, make_app
from worker.broker.logs import set_format
from worker.broker.task import TaskFailed
from worker.settings import BrokerSettings, BrokerUrlInvalid


def test_the_application_imports_no_torch() -> None:
    code = "import worker.broker.app, worker.tasks, sys; assert not {'torch', 'fastai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_json_is_accepted_and_no_result_is_stored() -> None:
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"
    assert app.conf.result_backend is None
    assert app.conf.task_ignore_result
    assert app.conf.task_acks_late
    assert app.conf.worker_prefetch_multiplier == 1


def test_a_batch_goes_to_the_screening_queue_as_its_id_alone() -> None:
    import worker.tasks

    route = app.amqp.router.route({}, SCREEN_BATCH)
    assert route["queue"].name == "screen"
    assert worker.tasks.screen_batch.name == SCREEN_BATCH
    assert {queue.name for queue in app.conf.task_queues} == set(QUEUES)


def test_logs_are_json_if_the_setting_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_LOG_FORMAT", "json")
    lines = io.StringIO()
    logger = logging.Logger("worker.screening.batch")
    logger.addHandler(logging.StreamHandler(lines))
    set_format(logger)
    logger.info("batch %d: %d screened", 7, 16, extra={"cohort": 3, "batch": 7})
    record = json.loads(lines.getvalue())
    assert (record["message"], record["cohort"], record["batch"]) == ("batch 7: 16 screened", 3, 7)
    assert (record["level"], record["logger"]) == ("INFO", "worker.screening.batch")
    assert datetime.fromisoformat(record["time"]).tzinfo is not None


@pytest.mark.parametrize("process", ["celeryd_init", "beat_init"])
def test_files_of_celery_processes_are_readable_by_their_owner_only(process: str) -> None:
    code = (
        "import os, resource; os.umask(0); import worker.broker.app; from celery import signals;"
        f"signals.{process}.send(sender='screen@here', instance=None, conf=None, options={{}});"
        "print(os.umask(0), resource.getrlimit(resource.RLIMIT_CORE)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.split() == [str(0o077), "0"]


#: A patient's name. It is joined at run time, so that no source line in a traceback holds it.
NAME = "^".join(("DOE", "JANE"))


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_log_shows_where_an_error_arose_and_not_its_text(
    monkeypatch: pytest.MonkeyPatch, log_format: str
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_LOG_FORMAT", log_format)
    lines = io.StringIO()
    logger = logging.Logger("somebody's")
    logger.addHandler(logging.StreamHandler(lines))
    set_format(logger)
    try:
        try:
            raise ValueError(NAME)
        except ValueError as error:
            raise FileNotFoundError(2, "gone", NAME) from error
    except OSError:
        logger.exception("reading failed")
    assert NAME not in lines.getvalue()
    assert "FileNotFoundError" in lines.getvalue()
    assert "test_app.py" in lines.getvalue()


@pytest.mark.parametrize(
    ("foreseen", "kind", "says"),
    [(True, CorruptImage, "WindowCenter"), (False, TaskFailed, "FileNotFoundError")],
)
def test_a_task_fails_with_the_kind_of_its_error_and_no_cause(
    foreseen: bool, kind: type[Exception], says: str
) -> None:
    @make_app().task  # type: ignore[untyped-decorator]
    def fail() -> None:
        try:
            Path("/nowhere", NAME).read_bytes()
        except OSError as error:
            if foreseen:
                raise CorruptImage("WindowCenter") from error
            raise

    with pytest.raises(kind, match=says) as caught:
        fail()
    told = "".join(traceback.format_exception(caught.value))
    assert NAME not in told
    assert "test_app.py" in told


@pytest.mark.parametrize(
    "url",
    [
        "redis://:hun/ter2@host/0", "redis://:12/hunter2@host/0", "redis://:12#hunter2@host/0",
        "redis://:12?hunter2@host/0", "redis://:hun[ter2@host/0", "hun:ter2@host",
    ],
)  # fmt: skip
def test_a_broker_url_whose_password_is_not_encoded_is_refused_before_a_library_quotes_it(url: str) -> None:
    with pytest.raises(BrokerUrlInvalid) as refused:
        make_app(BrokerSettings(broker_url=SecretStr(url))).connection()
    assert "ter2" not in "".join(traceback.format_exception(refused.value))


@pytest.mark.parametrize(
    "url", ["redis://:a%2Fb@host:1/0", "rediss://u:a@b@host", "redis://127.0.0.1:6379/0"]
)
def test_a_valid_broker_url_is_accepted(url: str) -> None:
    assert BrokerSettings(broker_url=SecretStr(url)).url == url


@pytest.mark.parametrize("module", ["celery", "worker.broker.command"])
@pytest.mark.parametrize("application", ["worker.broker.app", "scheduler.tasks"])
def test_celery_does_not_print_a_password_that_is_not_encoded(
    application: str, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PNEUMOSCREEN_BROKER_URL", "redis://:S3cr/et@host/0")
    command = [
        sys.executable,
        "-m",
        module,
        "-A",
        application,
        "worker",
        "--pool=solo",
        "-Q",
        "housekeeping",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    said = done.stdout + done.stderr
    assert done.returncode
    assert "Percent-encode its password" in said
    assert "S3cr" not in said


@pytest.mark.parametrize("command", ["worker", "beat"])
def test_a_process_of_the_stack_imports_neither_flower_nor_a_shell(command: str) -> None:
    code = (
        "import sys; from worker.broker.command import main; "
        f"main(['-A', 'scheduler.tasks', {command!r}, '--help'], standalone_mode=False); "
        "sys.exit(len({'flower', 'click_repl', 'celery.bin.celery'} & sys.modules.keys()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{command} [OPTIONS]" in done.stdout
