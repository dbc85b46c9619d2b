"""The Celery application: broker, queues and routes. Imports no torch.

A message is a doorbell: it holds the id of a batch, and the job table holds everything else.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import beat_init, celeryd_init
from kombu.entity import Queue
from kombu.transport import TRANSPORT_ALIASES

from db.atomic import keep_private
from worker.broker import logs
from worker.broker.task import QuietTask
from worker.settings import BrokerSettings

__all__ = ["app", "logs", "make_app"]

#: Walks a source.
INGEST = "ingest"
#: Screens batches.
SCREEN = "screen"
#: Retrains and evaluates.
TRAINING = "training"
#: Cuts batches, rings for them and sweeps; run by beat.
HOUSEKEEPING = "housekeeping"

#: All of them.
QUEUES = (INGEST, SCREEN, TRAINING, HOUSEKEEPING)

#: Task names, which say in Flower what a task does.
SCREEN_BATCH = "screen.batch"
DISPATCH = "housekeeping.dispatch"
SWEEP = "housekeeping.sweep"
NIGHTLY = "housekeeping.nightly"
INGEST_NIGHT = "ingest.night"
TRAIN = "training.run"
TRIGGER = "training.trigger"

#: Seconds after which the broker hands out an unacknowledged message again. A batch takes seconds
#: to minutes and the sweeper rings for lost ones itself, so this only clears the broker's memory.
_VISIBILITY_SECONDS = 3600


def make_app(broker: BrokerSettings | None = None) -> Celery:
    """Return the application for a broker; nothing connects before it is used. Raises BrokerUrlInvalid."""
    broker = broker or BrokerSettings.read()
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "worker.broker.transport:Transport"))
    app = Celery(
        "pneumoscreen",
        broker=broker.url,
        task_cls=QuietTask,
        # Of Celery's commands workers answer the few that are questions.
        control="worker.broker.control:GuardedControl",
    )
    app.conf.update(
        task_queues=[Queue(name) for name in QUEUES],  # type: ignore[no-untyped-call]
        task_create_missing_queues=False,
        task_default_queue=HOUSEKEEPING,
        task_routes={
            "screen.*": {"queue": SCREEN},
            "training.*": {"queue": TRAINING},
            "ingest.*": {"queue": INGEST},
            "housekeeping.*": {"queue": HOUSEKEEPING},
        },
        # A message that a dying worker had taken comes back; claims make a second delivery harmless.
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        # The job table holds the results; only JSON goes over the broker.
        task_ignore_result=True,
        task_serializer="json",
        accept_content=["json"],
        event_serializer="json",
        # Refuses everything but tasks of ours with row ids.
        worker_consumer="worker.broker.consumer:Doorman",
        broker_transport_options={
            "visibility_timeout": _VISIBILITY_SECONDS,
            # Without these a broker that went silent would hold the caller for ever.
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # Whoever rings finds the broker at once or leaves it to the next tick; kombu would try
            # for seconds. A worker's own loop, which waits for ever, is not told by these.
            "max_retries": 1,
            "interval_start": 0.1,
        },
        broker_use_ssl=broker.tls,
        broker_connection_retry_on_startup=True,
        # Never give up on the broker: it may be down for a night, or full and refuse what is written.
        broker_channel_error_retry=True,
        broker_connection_max_retries=None,
        # One quick attempt: whoever could not ring leaves it to the sweeper.
        task_publish_retry=False,
        # What Flower shows.
        worker_send_task_events=True,
        task_send_sent_event=True,
        task_track_started=True,
        timezone="UTC",
        worker_hijack_root_logger=False,
    )
    return app


app = make_app()


@celeryd_init.connect  # type: ignore[untyped-decorator]
@beat_init.connect  # type: ignore[untyped-decorator]
def _keep_private(**_: Any) -> None:
    keep_private()
