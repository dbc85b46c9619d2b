"""The Celery application: broker, queues and routes. Imports no torch.

A message only notifies: it holds the id of a row, and the job table holds everything else.
"""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import beat_init, celeryd_init
from kombu.entity import Queue
from kombu.transport import TRANSPORT_ALIASES

from db.atomic import keep_private
from worker.broker import logs
from worker.broker.task import GuardedTask
from worker.settings import BrokerSettings

__all__ = ["app", "logs", "make_app"]

#: Walks a source.
INGEST = "ingest"
#: Screens batches.
SCREEN = "screen"
#: Retrains and evaluates.
TRAINING = "training"
#: Cuts batches, sends notifications and sweeps. Beat sends its tasks.
HOUSEKEEPING = "housekeeping"

#: All queues.
QUEUES = (INGEST, SCREEN, TRAINING, HOUSEKEEPING)

#: Task names, which say in Flower what a task does.
SCREEN_BATCH = "screen.batch"
DISPATCH = "housekeeping.dispatch"
SWEEP = "housekeeping.sweep"
NIGHTLY = "housekeeping.nightly"
INGEST_NIGHT = "ingest.night"
TRAIN = "training.run"
TRIGGER = "training.trigger"

#: Seconds after which the broker delivers an unacknowledged message again. A batch takes seconds to minutes,
#: and dispatching sends new messages for batches that no worker claims. So this only clears the broker's
#: memory.
_VISIBILITY_SECONDS = 3600


def make_app(broker: BrokerSettings | None = None) -> Celery:
    """Return an application for a broker, by default the one in the settings.

    Settings are read when the application is first used, not here: Celery finds applications by importing
    modules. That first use raises BrokerUrlInvalid.
    """
    TRANSPORT_ALIASES.update(dict.fromkeys(("redis", "rediss"), "worker.broker.transport:Transport"))
    app = Celery(
        "pneumoscreen",
        task_cls=GuardedTask,
        # Workers answer only those of Celery's commands that ask without changing anything.
        control="worker.broker.control:GuardedControl",
    )
    app.add_defaults(lambda: _configuration(broker or BrokerSettings.read()))
    return app


def _configuration(broker: BrokerSettings) -> dict[str, Any]:
    """Return Celery's configuration. Raises BrokerUrlInvalid."""
    return {
        "broker_url": broker.url,
        "task_queues": [Queue(name) for name in QUEUES],  # type: ignore[no-untyped-call]
        "task_create_missing_queues": False,
        "task_default_queue": HOUSEKEEPING,
        "task_routes": {
            "screen.*": {"queue": SCREEN},
            "training.*": {"queue": TRAINING},
            "ingest.*": {"queue": INGEST},
            "housekeeping.*": {"queue": HOUSEKEEPING},
        },
        # The message of a worker that dies is delivered again. Claims make a second delivery harmless.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        # The job table holds the results; only JSON goes over the broker.
        "task_ignore_result": True,
        "task_serializer": "json",
        "accept_content": ["json"],
        "event_serializer": "json",
        # It accepts only our own tasks, with row ids as arguments.
        "worker_consumer": "worker.broker.consumer:TaskConsumer",
        "broker_transport_options": {
            "visibility_timeout": _VISIBILITY_SECONDS,
            # Without these, a broker that does not answer would block the caller for ever.
            "socket_timeout": 10,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            # If the broker is unavailable, the next tick sends the message; kombu would retry for seconds.
            # These settings do not concern a worker's own loop, which waits for ever.
            "max_retries": 1,
            "interval_start": 0.1,
        },
        "broker_use_ssl": broker.tls,
        "broker_connection_retry_on_startup": True,
        # Never give up on the broker: it may be down for a night, or full and refuse what is written.
        "broker_channel_error_retry": True,
        "broker_connection_max_retries": None,
        # One quick attempt: if it fails, the next tick sends the message.
        "task_publish_retry": False,
        # What Flower shows. Workers send events of batches, and none of ticks. Senders would send events of
        # ticks, too, and Flower would list each tick as pending for ever.
        "worker_send_task_events": True,
        "task_send_sent_event": False,
        "task_track_started": True,
        "timezone": "UTC",
        "worker_hijack_root_logger": False,
    }


#: The application of workers and beat. It reads its settings at its first use.
app = make_app()


@celeryd_init.connect  # type: ignore[untyped-decorator]
@beat_init.connect  # type: ignore[untyped-decorator]
def _keep_private(**_: Any) -> None:
    keep_private()
