"""One batch, from its claim to its commit."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from itertools import chain

from db.database_errors import BLAMELESS, PASSING, DatabaseFailed
from db.engine import Database
from db.errors import PneumoscreenError
from db.jobs.claims import Claim, Effort, NotScreened, claim, complete, most_urgent, requeue, was_completed
from db.jobs.sources import Backoff
from db.lease import Heartbeat, LeaseLost
from db.models.card import PREPROCESSING
from db.models.predictions import Provenance, Screened
from worker.runtime.loading import chosen
from worker.runtime.passes import Passes
from worker.runtime.protocol import Runtime
from worker.screening.model_cache import ModelCache
from worker.screening.reading import BatchReader
from worker.screening.retry import retry_while_unavailable
from worker.screening.step import Device, Waiting, gate, predict
from worker.screening.stopwatch import Stopwatch
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0

#: Seconds between two queries for a batch that is more urgent than those of this process.
_POLL_SECONDS = 0.25
#: The same after a query that failed: a job table that does not answer must not hold up every pass.
_RETRY_SECONDS = 10.0


class Screener:
    """Screens batches with the models that it keeps in memory; several threads may use it at once."""

    def __init__(self, database: Database, settings: WorkerSettings, *, runtime: str | None = None) -> None:
        """`runtime`: a name in `RUNTIMES`, by default the one that the settings choose."""
        self.database = database
        self.models = ModelCache(database, runtime=runtime or chosen(settings.runtime))
        self.device = Device()
        self._settings = settings
        self._reader = BatchReader(settings)
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        #: Set when the worker is told to stop: then it waits no longer for a job table that is unavailable.
        self.stopping = threading.Event()
        #: The batches that are being screened.
        self._held: dict[int, tuple[Claim, Heartbeat]] = {}
        self._given_up = False
        self._next_poll = 0.0

    def prepare(self, model_id: int) -> None:
        """Load a model, and start the decoding processes meanwhile: the first batch waits for neither.

        Raises as `ModelCache.get`.
        """
        self._reader.start()
        self.models.get(model_id)

    def screen(self, batch_id: int) -> Claim | None:
        """Screen the batch that a message names, or a more urgent one; return it, or None if there was none.

        If the named batch cannot be claimed (the message came late or twice), the oldest of the most urgent
        other batches is screened. So one message for each queued batch is enough, whichever batches they
        name.

        While the job table is unavailable, the claim is tried again, and so is the write for as long as no
        other worker has the batch.
        Raises PneumoscreenError if the batch's model cannot be used here, its source is unavailable, decoders
        do not start or the device fails; the batch waits for another try.
        """
        claimed = self._claim(batch_id)
        if claimed is None:
            log.info("batch %d cannot be claimed, nor another one", batch_id, extra={"batch": batch_id})
            return None
        self._work_on(claimed)
        return claimed

    def _work_on(self, claimed: Claim, *, urgent: bool = False) -> None:
        """Screen a claimed batch, or give it back. Passes of an `urgent` one go first.

        Raises PneumoscreenError.
        """
        try:
            with Heartbeat(self.database, claimed.lease) as heartbeat:
                self._held[claimed.batch_id] = claimed, heartbeat
                if self._given_up:  # `give_up` was called during the claim
                    self._give_back(claimed, heartbeat)
                self._screen_claimed(claimed, heartbeat, urgent)
        except LeaseLost:
            self._log_lost(claimed)
        except PneumoscreenError as error:
            if not isinstance(error, DatabaseFailed) or isinstance(error, BLAMELESS):
                self._requeue(claimed, error)
            raise
        finally:
            self._held.pop(claimed.batch_id, None)

    def give_up(self) -> None:
        """Give back every batch that is being screened, so that other workers claim them at once.

        From then on no batch is kept.
        """
        self._given_up = True
        for claimed, heartbeat in list(self._held.values()):
            self._give_back(claimed, heartbeat)

    def _claim(self, named: int) -> Claim | None:
        """Claim the most urgent batch, or return None if none is queued, which costs one read."""
        what, stop = f"claim of batch {named}", self.stopping.is_set
        lease_seconds = self._settings.lease_seconds
        while True:
            batch_id = retry_while_unavailable(
                self.database.read, what, lambda session: most_urgent(session, named), stop
            )
            if batch_id is None:
                return None
            one = partial(claim, batch_id=batch_id, owner=self._owner, lease_seconds=lease_seconds)
            claimed = retry_while_unavailable(self.database.write, what, one, stop)
            if claimed is not None:
                return claimed

    def _screen_claimed(self, claimed: Claim, heartbeat: Heartbeat, urgent: bool) -> None:
        model = self.models.get(claimed.model_id)
        screened: list[Screened] = []
        problems: list[NotScreened] = []
        decoding, computing = Stopwatch(), Stopwatch()
        passes = Passes[Waiting](
            model,
            adaptive=self._settings.precision == "adaptive",
            size=self._settings.forward_images,
            turn=partial(self.device.turn, computing, partial(self._screen_more_urgent, claimed), urgent),
        )
        for decoded in chain(decoding.each(map(gate, self._reader.steps(claimed))), (None,)):
            heartbeat.check()
            outcomes = predict(passes, decoded, skip_unfamiliar=self._settings.unfamiliar == "skip")
            screened += [one for one in outcomes if isinstance(one, Screened)]
            problems += [one for one in outcomes if isinstance(one, NotScreened)]
        effort = Effort(
            decode_seconds=decoding.seconds,
            forward_seconds=computing.seconds,
            gpu_memory_bytes=model.runtime.peak_memory(),
        )
        retry_while_unavailable(
            self.database.write,
            f"results of batch {claimed.batch_id}",
            lambda session: complete(session, claimed, screened, problems, provenance(model.runtime), effort),
            heartbeat.is_lost,
        )
        log.info(
            "batch %d: %d screened, %d not",
            claimed.batch_id,
            len(screened),
            len(problems),
            extra=ids(claimed) | {"screened": len(screened), "not_screened": len(problems)},
        )

    def _screen_more_urgent(self, claimed: Claim) -> None:
        """Screen all batches of cohorts of higher priority between two passes of a claimed one.

        Otherwise they would wait until one of the batches of this process ends, which may take a minute. What
        goes wrong with them does not concern the claimed batch.
        """
        if time.monotonic() < self._next_poll:
            return
        pause = _POLL_SECONDS
        try:
            while urgent := self._claim_more_urgent(claimed):
                log.info(
                    "batch %d goes before batch %d", urgent.batch_id, claimed.batch_id, extra=ids(urgent)
                )
                self._work_on(urgent, urgent=True)
        except PneumoscreenError as error:
            log.warning("a more urgent batch waits: %s", error.code, extra=ids(claimed))
            pause = _RETRY_SECONDS
        self._next_poll = time.monotonic() + pause

    def _claim_more_urgent(self, claimed: Claim) -> Claim | None:
        if self.stopping.is_set() or self._given_up:
            return None
        with self.database.read() as session:
            batch_id = most_urgent(session, than=claimed.cohort_id)
        if batch_id is None:
            return None
        with self.database.write() as session:
            return claim(session, batch_id, owner=self._owner, lease_seconds=self._settings.lease_seconds)

    def _requeue(self, claimed: Claim, error: PneumoscreenError) -> None:
        """Give back a batch that needs something unavailable. An outage of the job table never delays it."""
        backoff = Backoff(
            code=error.code,
            first_seconds=self._settings.wait_seconds,
            limit_seconds=self._settings.wait_days * _DAY_SECONDS,
        )
        with suppress(LeaseLost):
            retry_while_unavailable(
                self.database.write,
                f"return of batch {claimed.batch_id}",
                partial(
                    requeue,
                    lease=claimed.lease,
                    backoff=None if isinstance(error, PASSING) else backoff,
                ),
                self.stopping.is_set,
            )

    def _give_back(self, claimed: Claim, heartbeat: Heartbeat) -> None:
        heartbeat.lose()
        with suppress(LeaseLost, DatabaseFailed), self.database.write() as session:
            requeue(session, claimed.lease)
        log.warning("batch %d was given back", claimed.batch_id, extra=ids(claimed))

    def _log_lost(self, claimed: Claim) -> None:
        """Log what became of a batch. If the answer to the commit was lost, the lease is gone, too."""
        try:
            with self.database.read() as session:
                ended = was_completed(session, claimed, owner=self._owner)
        except DatabaseFailed:
            ended = False
        message = (
            "batch %d ended here; the database's answer was lost"
            if ended
            else "lease of batch %d was lost; its results are dropped"
        )
        log.warning(message, claimed.batch_id, extra=ids(claimed))


def ids(claimed: Claim) -> dict[str, int]:
    """Return the row ids that a log line of a batch carries."""
    return {"cohort": claimed.cohort_id, "batch": claimed.batch_id}


def provenance(runtime: Runtime) -> Provenance:
    """Return what explains the predictions of a loaded model."""
    return Provenance(
        threshold=runtime.card.threshold,
        runtime=runtime.name,
        preprocessing=PREPROCESSING,
        software=version("pneumoscreen"),
    )
