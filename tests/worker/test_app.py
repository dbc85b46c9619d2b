"""What goes over the broker, and what does not."""

from __future__ import annotations

import subprocess
import sys

from worker.app import QUEUES, SCREEN_BATCH, app


def test_the_application_imports_no_torch() -> None:
    code = "import worker.app, worker.tasks, sys; assert not {'torch', 'fastai'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_only_json_is_spoken_and_nothing_is_kept() -> None:
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
