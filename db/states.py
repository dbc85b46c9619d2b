"""The states of the job table; `db.transitions` says which may follow which."""

from __future__ import annotations

from enum import StrEnum


class CohortState(StrEnum):
    """Whether all images of a cohort have been added."""

    #: A source of it is being read; more images may come.
    INGESTING = "ingesting"
    #: Every image of its sources has a row.
    READY = "ready"
    #: No batches are cut from it any more.
    CANCELLED = "cancelled"


class IngestState(StrEnum):
    """Whether one source of a cohort has been read."""

    #: A command reads it.
    RUNNING = "running"
    #: It was read to its end, or its cohort was cancelled.
    ENDED = "ended"
    #: The command died or failed; the same `submit` continues.
    BROKEN_OFF = "broken-off"


class ImageState(StrEnum):
    """The progress of one image."""

    #: Added, but in no batch yet.
    PENDING = "pending"
    #: In a batch that no worker has claimed.
    QUEUED = "queued"
    #: In a batch that a worker holds.
    RUNNING = "running"
    #: Has a prediction.
    DONE = "done"
    #: Readable, but not for this system; `problem` says why.
    SKIPPED = "skipped"
    #: Could not be screened; `problem` says why.
    FAILED = "failed"


class BatchState(StrEnum):
    """The progress of one batch."""

    #: Waits for a worker.
    QUEUED = "queued"
    #: A worker holds its lease.
    RUNNING = "running"
    #: Its results are written.
    DONE = "done"
    #: Its lease expired too often; its images are in smaller batches.
    SPLIT = "split"
    #: Its cohort was cancelled before a worker claimed it.
    CANCELLED = "cancelled"


class RunState(StrEnum):
    """The progress of one training run."""

    #: Waits for a training worker.
    QUEUED = "queued"
    #: A worker or a command holds its lease.
    RUNNING = "running"
    #: Its report is written; some of its backbones may have failed.
    DONE = "done"
    #: None of its backbones could be trained; `problem` says why.
    FAILED = "failed"
    #: Stopped or cancelled by its user, or lost with its command; `retrain --resume` continues after its last
    #: epoch.
    STOPPED = "stopped"


class NightState(StrEnum):
    """The progress of one slot of a nightly schedule."""

    #: The last slot before the schedule was first seen. It does not run; the next slots do.
    BASELINE = "baseline"
    #: Waits for its source to be read.
    WAITING = "waiting"
    #: A scheduler reads its source.
    INGESTING = "ingesting"
    #: Its images are being screened.
    SCREENING = "screening"
    #: All its images have ended.
    DONE = "done"
    #: Its window ended before its images did; the others are screened in the next window.
    HELD = "held"
    #: Its source could not be read; `problem` says why. The next slot finds the files that it missed.
    FAILED = "failed"


class ModelState(StrEnum):
    """The role of a model."""

    #: Registered; screens only cohorts that name it.
    CANDIDATE = "candidate"
    #: Screens every cohort that names no model; there is at most one.
    CHAMPION = "champion"
    #: Was champion before; `rollback` makes the last of these champion again.
    RETIRED = "retired"


#: An image in one of these states is finished.
TERMINAL = (ImageState.DONE, ImageState.SKIPPED, ImageState.FAILED)
#: An image in one of these states has not ended.
UNFINISHED = (ImageState.PENDING, ImageState.QUEUED, ImageState.RUNNING)
#: An image in one of these states belongs to a batch that is under way.
IN_FLIGHT = (ImageState.QUEUED, ImageState.RUNNING)
#: An ingest in one of these states keeps its cohort open.
UNFINISHED_INGEST = (IngestState.RUNNING, IngestState.BROKEN_OFF)
