"""One batch's way: claim, decode, predict, write back."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from importlib.metadata import version
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from db.database_errors import BLAMELESS, PASSING, DatabaseFailed
from db.engine import Database
from db.errors import PneumoscreenError
from db.jobs.claims import (
    Claim,
    ClaimedImage,
    Effort,
    NotScreened,
    Provenance,
    Screened,
    claim,
    complete,
    most_urgent,
    requeue,
    was_completed,
)
from db.jobs.problems import (
    BrokenModelOutput,
    FileChanged,
    FileUnreadable,
    FileVanished,
    ImageProblem,
    OutOfMemory,
    ScreeningFailed,
    SourceAway,
)
from db.jobs.sources import Backoff
from db.lease import Heartbeat, LeaseLost
from db.models.card import POSITIVE, ModelCard
from worker.decoding.pool import Decoders
from worker.files.roots import Roots
from worker.files.url import is_away, locate
from worker.imaging import PREPROCESSING, Picture, read_bytes
from worker.runtime.passes import Passes
from worker.runtime.precision import Row, native_bf16
from worker.runtime.torch import (
    DeviceUnusable,
    ResidentLearner,
    best_device,
    device_errors,
    peak_gpu_memory,
    positive_probability,
)
from worker.screening.model_cache import Residents
from worker.screening.patience import patiently
from worker.screening.stopwatch import Stopwatch
from worker.settings import WorkerSettings

log = logging.getLogger(__name__)

_DAY_SECONDS = 86_400.0

Readable = tuple[ClaimedImage, Picture]
Decoded = tuple[ClaimedImage, Picture | ImageProblem]


class Pipeline:
    """Screens batches with the learners that it keeps in memory; several threads may call it at once."""

    def __init__(self, database: Database, settings: WorkerSettings) -> None:
        self.database = database
        self._settings = settings
        self._roots = Roots.read()
        self.residents = Residents(database)
        self._adaptive = settings.precision == "adaptive" and native_bf16(best_device())
        self._decoders = Decoders(settings)
        # One forward pass at a time: while one batch computes, the next decodes.
        self._device = threading.Lock()
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        #: Set when the worker is told to end: no more waiting for a job table that is away.
        self.stopping = threading.Event()
        #: Whether a GPU failed under this process, which gets no answer from it any more.
        self.lost_gpu = False
        #: What is being screened now.
        self._held: dict[int, tuple[Claim, Heartbeat]] = {}
        self._given_up = False

    def screen(self, batch_id: int) -> bool:
        """Screen the batch that a message names, or a more urgent one; return whether there was any.

        A message for a batch that is not there to be claimed, as a late or doubled one, is good for the
        oldest of the most urgent others: as many messages as queued batches are enough, whatever they name.

        A job table that is unavailable is waited for: to claim, and to write while nobody else has the batch.
        Raises PneumoscreenError if the batch's model cannot be used here, its source is unavailable, decoders
        do not start or the device fails; the batch waits for another try.
        """
        claimed = self._claim(batch_id)
        if claimed is None:
            log.info("batch %d is not there to be claimed, nor another", batch_id, extra={"batch": batch_id})
            return False
        batch_id = claimed.batch_id
        try:
            with Heartbeat(self.database, claimed.lease) as heartbeat:
                self._held[batch_id] = claimed, heartbeat
                if self._given_up:  # told so while it claimed
                    self._give_back(claimed, heartbeat)
                self._screen_claimed(claimed, heartbeat)
        except LeaseLost:
            self._log_lost(claimed)
        except PneumoscreenError as error:
            if not isinstance(error, DatabaseFailed) or isinstance(error, BLAMELESS):
                self._requeue(claimed, error)
            raise
        finally:
            self._held.pop(batch_id, None)
        return True

    def _claim(self, named: int) -> Claim | None:
        """Claim the most urgent batch, or return None if none is queued, which costs one read."""
        what, stop = f"claim of batch {named}", self.stopping.is_set
        while True:
            batch_id = patiently(self.database.read, what, lambda session: most_urgent(session, named), stop)
            if batch_id is None:
                return None
            claimed = patiently(
                self.database.write,
                what,
                partial(
                    claim, batch_id=batch_id, owner=self._owner, lease_seconds=self._settings.lease_seconds
                ),
                stop,
            )
            if claimed is not None:
                return claimed

    def _requeue(self, claimed: Claim, error: PneumoscreenError) -> None:
        """Give a batch back that something unavailable stands in the way of; a job table is waited for."""
        passing = isinstance(error, PASSING)
        backoff = Backoff(
            code=error.code,
            first_seconds=self._settings.wait_seconds,
            limit_seconds=self._settings.wait_days * _DAY_SECONDS,
        )
        with suppress(LeaseLost):
            patiently(
                self.database.write,
                f"return of batch {claimed.batch_id}",
                lambda session: requeue(session, claimed.lease, backoff=None if passing else backoff),
                self.stopping.is_set,
            )

    def give_up(self) -> None:
        """Give every batch that is being screened back at once, so that another worker takes it up.

        From then on no batch is kept.
        """
        self._given_up = True
        for claimed, heartbeat in list(self._held.values()):
            self._give_back(claimed, heartbeat)

    def _give_back(self, claimed: Claim, heartbeat: Heartbeat) -> None:
        heartbeat.lose()
        with suppress(LeaseLost, DatabaseFailed), self.database.write() as session:
            requeue(session, claimed.lease)
        log.warning("batch %d was given back", claimed.batch_id, extra=ids(claimed))

    def _log_lost(self, claimed: Claim) -> None:
        """Say what became of a batch: a commit whose answer was lost shows as a lease that is gone, too."""
        try:
            with self.database.read() as session:
                ended = was_completed(session, claimed, owner=self._owner)
        except DatabaseFailed:
            ended = False
        if ended:
            log.warning(
                "batch %d ended here; the database's answer was lost", claimed.batch_id, extra=ids(claimed)
            )
        else:
            log.warning(
                "lease of batch %d was lost; its results are dropped", claimed.batch_id, extra=ids(claimed)
            )

    def _screen_claimed(self, claimed: Claim, heartbeat: Heartbeat) -> None:
        learner = self.residents.get(claimed.model_id)
        passes = Passes[Readable](learner, adaptive=self._adaptive, size=self._settings.forward_images)
        screened: list[Screened] = []
        problems: list[NotScreened] = []
        decoding, computing = Stopwatch(), Stopwatch()
        for decoded in chain(decoding.each(self._decode(claimed.images)), (None,)):
            heartbeat.check()
            if decoded is not None:
                self._check_source(claimed, decoded)
            with self._device, computing:
                results = self._predict(passes, decoded)
            screened += [result for result in results if isinstance(result, Screened)]
            problems += [result for result in results if isinstance(result, NotScreened)]
        effort = Effort(
            decode_seconds=decoding.seconds,
            forward_seconds=computing.seconds,
            gpu_memory_bytes=peak_gpu_memory(),
        )
        patiently(
            self.database.write,
            f"results of batch {claimed.batch_id}",
            lambda session: complete(session, claimed, screened, problems, provenance(learner), effort),
            heartbeat.is_lost,
        )
        log.info(
            "batch %d: %d screened, %d not",
            claimed.batch_id,
            len(screened),
            len(problems),
            extra=ids(claimed) | {"screened": len(screened), "not_screened": len(problems)},
        )

    def _predict(
        self, passes: Passes[Readable], decoded: list[Decoded] | None
    ) -> list[Screened | NotScreened]:
        """Return the outcome of each image whose pass was full; of all others for None.

        All inputs are of one shape and type: no image brings a device to fail, and none fails for it. Raises
        DeviceUnusable.
        """
        try:
            with device_errors():
                return predict(passes, decoded)
        except DeviceUnusable:
            self.lost_gpu |= passes.learner.device.type == "cuda"
            raise

    def _check_source(self, claimed: Claim, decoded: list[Decoded]) -> None:
        """Raise SourceAway if images cannot be read because the source that they lie in is unavailable.

        Of a source that is there, what is missing has been deleted: that fails the images in it alone.
        """
        missing = any(isinstance(found, FileVanished | FileUnreadable) for _, found in decoded)
        if missing and is_away(claimed.source, self._settings.path_map, self._roots):
            raise SourceAway

    def _decode(self, items: tuple[ClaimedImage, ...]) -> Iterator[list[Decoded]]:
        """Yield the pictures of one forward pass after another, the decoders being one pass ahead."""
        size = self._settings.forward_images
        waiting: list[tuple[ClaimedImage, Future[Picture]]] = []
        for item in items:
            waiting.append((item, self._decoders.submit(partial(self._read, item))))
            if len(waiting) == 2 * size:
                yield [(done, _outcome_of(done, future)) for done, future in waiting[:size]]
                del waiting[:size]
        for start in range(0, len(waiting), size):
            yield [(done, _outcome_of(done, future)) for done, future in waiting[start : start + size]]

    def _read(self, item: ClaimedImage) -> bytes:
        """Return the bytes of the file that was taken in, and of no other. Raises ImageProblem."""
        where = locate(item.uri, self._settings.path_map)
        content, modified = read_bytes(where, self._decoders.limits, self._roots)
        # A copy elsewhere has a date of its own.
        same_place = where == locate(item.uri, {})
        if item.size not in (None, len(content)) or (same_place and item.modified not in (None, modified)):
            raise FileChanged
        return content


def _outcome_of(item: ClaimedImage, future: Future[Picture]) -> Picture | ImageProblem:
    """Return what came of reading and decoding an image. Raises DecodersUnusable."""
    try:
        picture = future.result()
    except ScreeningFailed as problem:
        _log_unforeseen(item, problem.detail)
        return problem
    except ImageProblem as problem:
        return problem
    except PneumoscreenError:
        raise
    except Exception as error:  # an unforeseen error costs this image alone; its text may hold a path
        _log_unforeseen(item, type(error).__name__)
        return ScreeningFailed()
    if item.instance_uid is not None and picture.instance_uid != item.instance_uid:
        return FileChanged()
    return picture


def _log_unforeseen(item: ClaimedImage, kind: str) -> None:
    log.error("image %d: %s", item.image_id, kind, extra={"image": item.image_id, "error": kind})


def ids(claimed: Claim) -> dict[str, int]:
    """Return the row ids that a log line of a batch carries."""
    return {"cohort": claimed.cohort_id, "batch": claimed.batch_id}


def provenance(learner: ResidentLearner) -> Provenance:
    """Return what explains a learner's predictions."""
    return Provenance(
        threshold=learner.card.threshold,
        runtime=learner.runtime,
        preprocessing=PREPROCESSING,
        software=version("pneumoscreen"),
    )


def predict(passes: Passes[Readable], decoded: list[Decoded] | None) -> list[Screened | NotScreened]:
    """Take decoded images up and return outcomes of those that are computed; of all others for None."""
    if decoded is None:
        done, problems = passes.finish(), []
    else:
        problems = [
            NotScreened(item.image_id, found) for item, found in decoded if isinstance(found, ImageProblem)
        ]
        readable = [(item, found) for item, found in decoded if isinstance(found, Picture)]
        done = passes.add((one, one[1].pixels) for one in readable)
    return [*problems, *(_outcome(passes.learner, item, picture, row) for (item, picture), row in done)]


def _outcome(
    learner: ResidentLearner, item: ClaimedImage, picture: Picture, row: Row | None
) -> Screened | NotScreened:
    if row is None:
        return NotScreened(item.image_id, OutOfMemory())
    values = row.values
    if not np.isfinite(values).all():
        return NotScreened(item.image_id, BrokenModelOutput())
    probability = float(positive_probability(learner.card, values[None])[0])
    return Screened(
        image_id=item.image_id,
        probability=probability,
        label=label_of(learner.card, values, probability),
        types=types_of(learner.card, values),
        precision=row.precision,
        input_digest=picture.digest,
    )


def label_of(card: ModelCard, row: NDArray[np.float32], probability: float) -> str:
    """Return PNEUMONIA if the stored probability reaches the threshold, else the likeliest other class."""
    if probability >= card.threshold:
        return POSITIVE
    others = [index for index in range(len(row)) if index not in card.positive_columns]
    return card.classes[max(others, key=lambda index: float(row[index]))]


def types_of(card: ModelCard, row: NDArray[np.float32]) -> dict[str, float] | None:
    """Return the probability of each type of pneumonia, for a model that tells types apart."""
    if card.positives == (POSITIVE,):
        return None
    return {card.classes[index]: float(row[index]) for index in card.positive_columns}
