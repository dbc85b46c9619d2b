"""The collector of metrics from the job table and the broker."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy.orm import Session

from db.engine import Database
from db.queries import figures
from db.queries.counts import count_images
from db.queries.totals import batch_totals
from db.settings import home
from db.states import BatchState
from db.trust.comparison import compare_cohort, recent_cohorts
from scheduler.metrics.broker import BrokerFigures

PREFIX = "pneumoscreen"


class JobTableCollector(Collector):
    """Reads the job table at each scrape, and the broker less often."""

    def __init__(self, database: Database, ask_broker: Callable[[], BrokerFigures], seconds: float) -> None:
        """Ask the broker at most once in `seconds`: workers take a second to answer."""
        self._database, self._ask, self._seconds = database, ask_broker, seconds
        self._broker: tuple[float, BrokerFigures] | None = None

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        with self._database.read() as session:
            yield from _images(session)
            yield from _batches(session)
            yield from _nights_and_models(session)
            yield from _trust(session)
        yield from self._queues()
        free = GaugeMetricFamily(f"{PREFIX}_disk_free_bytes", "Free disk space of the data directory.")
        # If the job table is on a server, the data directory may not exist yet.
        there = next(folder for folder in (home(), *home().parents) if folder.exists())
        free.add_metric([], shutil.disk_usage(there).free)
        yield free

    def _queues(self) -> Iterator[Metric]:
        if self._broker is None or time.monotonic() - self._broker[0] > self._seconds:
            self._broker = time.monotonic(), self._ask()
        found = self._broker[1]
        yield _gauge("broker_up", "Whether the broker answers.", found.up)
        messages = GaugeMetricFamily(
            f"{PREFIX}_queue_messages",
            "Messages in the broker: ready ones wait in the queue, unacked ones are with a worker.",
            labels=("queue", "state"),
        )
        workers = GaugeMetricFamily(f"{PREFIX}_workers", "Workers that answer, by queue.", labels=("queue",))
        for queue, (ready, unacked) in found.messages.items():
            messages.add_metric([queue, "ready"], ready)
            messages.add_metric([queue, "unacked"], unacked)
        for queue, count in found.workers.items():
            workers.add_metric([queue], count)
        yield messages
        yield workers


def _images(session: Session) -> Iterator[Metric]:
    images = GaugeMetricFamily(
        f"{PREFIX}_images", "Images by cohort (row id) and state.", labels=("cohort", "state")
    )
    problems: Counter[tuple[str, str]] = Counter()
    for cohort_id, found in count_images(session).items():
        states: Counter[str] = Counter()
        for (state, problem), count in found.items():
            states[state] += count
            if problem:
                problems[state, problem] += count
        for name, count in sorted(states.items()):
            images.add_metric([str(cohort_id), name], count)
    yield images
    ended = GaugeMetricFamily(
        f"{PREFIX}_problem_images", "Images not screened, by state and code.", labels=("state", "code")
    )
    for key, count in sorted(problems.items()):
        ended.add_metric(key, count)
    yield ended
    yield _gauge(
        "oldest_pending_seconds",
        "Age of the oldest cohort that has images to screen; 0 if there is none.",
        figures.oldest_pending_seconds(session),
    )


def _batches(session: Session) -> Iterator[Metric]:
    states = GaugeMetricFamily(f"{PREFIX}_batches", "Batches by state.", labels=("state",))
    totals = batch_totals(session)
    for state, total in totals.items():
        states.add_metric([state], total.here)
    yield states
    took = totals[BatchState.DONE]
    seconds = CounterMetricFamily(
        f"{PREFIX}_batch_seconds",
        "Time of finished batches by step: waiting for decoded pictures, forward passes, writing back.",
        labels=("step",),
    )
    for step in ("decode", "forward", "write"):
        seconds.add_metric([step], getattr(took, f"{step}_seconds"))
    yield seconds
    yield _counter("batches_finished", "Finished batches.", took.batches)
    yield _counter("images_finished", "Images of finished batches.", took.images)
    yield _counter(
        "leases_lost", "Leases that ended without a result.", sum(total.lost for total in totals.values())
    )
    since = figures.seconds_since_a_batch(session)
    if since is not None:
        yield _gauge("seconds_since_batch", "Seconds since a batch was finished.", since)
    memory = GaugeMetricFamily(
        f"{PREFIX}_gpu_memory_bytes", "The most GPU memory that a worker has held.", labels=("worker",)
    )
    for worker, size in figures.gpu_memory(session).items():
        memory.add_metric([worker], size)
    yield memory


def _nights_and_models(session: Session) -> Iterator[Metric]:
    yield _gauge(
        "nightly_runs_late",
        "Nightly runs whose source has not been walked a quarter of an hour after they were due.",
        figures.nights_late(session),
    )
    runs = GaugeMetricFamily(f"{PREFIX}_training_runs", "Training runs by state.", labels=("state",))
    for state, count in figures.training_runs(session).items():
        runs.add_metric([state], count)
    yield runs
    champion = InfoMetricFamily(f"{PREFIX}_champion", "The model that screens.")
    champion.add_metric([], {"model": figures.champion_name(session) or ""})
    yield champion


def _trust(session: Session) -> Iterator[Metric]:
    found = {cohort_id: compare_cohort(session, cohort_id) for cohort_id in recent_cohorts(session)}
    familiarity = GaugeMetricFamily(
        f"{PREFIX}_cohort_familiarity",
        "Mean familiarity of the newest pictures of the cohorts (row id) that were screened last; "
        "0.5 is expected of the training hospital.",
        labels=("cohort",),
    )
    distrusted = GaugeMetricFamily(
        f"{PREFIX}_cohort_distrusted",
        "1 if these pictures are unlike those that the model learned from, and the model was not accepted at "
        "this site; else 0.",
        labels=("cohort",),
    )
    for cohort_id, comparison in found.items():
        if comparison is not None:
            familiarity.add_metric([str(cohort_id)], 1 - comparison.effect)
            distrusted.add_metric([str(cohort_id)], comparison.distrusted)
    yield familiarity
    yield distrusted


def _gauge(name: str, says: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{PREFIX}_{name}", says, value=value)


def _counter(name: str, says: str, value: float) -> Metric:
    return CounterMetricFamily(f"{PREFIX}_{name}", says, value=value)
